"""What the commands share: the options that mean the same everywhere, and the one call."""

# ruff: noqa: PTH110, PTH118

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from fleet import client, places
from fleet.cli import output, reads
from fleet.errors import FleetError, Usage

Show = Callable[[Any], None]
Command = Callable[..., Any]


class Label(click.ParamType[tuple[str, str]]):
    """NAME=VALUE."""

    name = "label=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not name or not equals:
            self.fail(f"`{value}` is no label; a label is written NAME=VALUE", param, ctx)
        return name, text


class Seconds(click.FloatRange):
    """More than 0, and not for ever."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"`{value}` is no number of seconds", param, ctx)
        return seconds


def complete_agents(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The agents' names, for a shell; files where none of them begins so, or no daemon answers at once."""
    try:
        data = client.request("list", {}, timeout=1.0).envelope()["data"]
    except FleetError:
        data = {"agents": []}
    names = [agent["name"] for agent in data["agents"] if agent["name"].startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
labels = click.option(
    "-l", "--label", "labels", multiple=True, type=Label(), metavar="NAME=VALUE", help="Agents with this label."
)
everything = click.option("--all", "everything", is_flag=True, help="All agents.")
one = click.argument("target", metavar="NAME|FILE", shell_complete=complete_agents)
some = click.argument("targets", nargs=-1, metavar="[NAME|FILE]...", shell_complete=complete_agents)


def time_limit(default: float, what: str) -> Callable[[Command], Command]:
    """`--timeout`, for what may take long."""
    return click.option(
        "--timeout",
        type=Seconds(),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help=what,
    )


def selection(targets: tuple[str, ...], labels: tuple[tuple[str, str], ...], everything: bool) -> dict[str, Any]:
    """Which agents are meant, for a command that acts: without a word it does nothing."""
    if not targets and not labels and not everything:
        raise Usage("Which agents?", hint="Name them, or say -l LABEL=VALUE or --all. `fleet status` lists them.")
    if everything and (targets or labels):
        raise Usage("`--all` already means every agent.", hint="Leave out the names and labels, or `--all`.")
    return {"targets": list(targets), "labels": dict(labels), "all": everything, "cwd": reads.here()}


def manifest(word: str) -> str:
    """The path of a manifest, also where the name of one in the default fleet folder is given, or of an agent."""
    if "/" in word or os.path.exists(word):
        return word
    folder = os.path.join(places.folders()[0], "agents")
    for path in (os.path.join(folder, f"{word}.yaml"), os.path.join(folder, word, f"{word}.yaml")):
        if os.path.exists(path):
            return path
    return _declared(word) or word


def _declared(name: str) -> str | None:
    """The manifest from which an agent was declared; `None` where no daemon knows one by that name."""
    try:
        agent = client.request(
            "inspect", {"target": name, "cwd": reads.here()}, timeout=reads.request_timeout()
        ).envelope()["data"]
    except FleetError:
        return None
    source: str | None = agent.get("source")
    return source


def call(
    verb: str,
    args: Mapping[str, Any],
    show: Show,
    *,
    as_json: bool,
    timeout: float | None = None,
    on_progress: client.Progress | None = None,
) -> int:
    """Ask the daemon once and show its answer: with `as_json` as it came, otherwise its data by `show`."""
    patience = reads.request_timeout() if timeout is None else timeout
    reply = client.request(verb, args, timeout=patience, on_progress=on_progress)
    if reply.skew:
        output.message(reply.skew)
    if as_json:
        output.verbatim(reply.body)
    else:
        envelope = reply.envelope()
        output.warnings(envelope.get("warnings") or ())
        show(envelope["data"])
    return reply.exit_code
