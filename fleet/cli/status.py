"""`fleet status`: all agents in a table, or one with everything."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from fleet import client
from fleet.cli import call, output, reads, tables, words
from fleet.errors import NoDaemon, TimedOut, Usage


@click.command()
@call.some
@call.labels
@click.option("-w", "--watch", is_flag=True, help="Go on showing: in place on a terminal, else each change.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds, for --watch."
)
@click.option("--format", "form", type=click.Choice(["seed"]), help="One agent as the flat JSON of the seed's status.")
@call.as_json
def status(
    targets: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    watch: bool,
    interval: float,
    form: str | None,
    as_json: bool,
) -> int:
    """Show agents and what they are doing; one NAME alone shows everything known about it.

    \b
    fleet status                     all agents
    fleet status web                 one agent, with everything
    fleet status -l role=worker      those with a label
    fleet status --json | jq '.data.agents[] | select(.activity == "needs_input").name'
    """
    verb, args = reads.ask("status", targets, labels=dict(labels))
    if form == "seed":
        return _seed(verb, args)
    if watch:
        return _watch(*reads.ask("status", targets, labels=dict(labels), brief=True), interval, as_json)
    if verb == "inspect":
        from fleet.cli import inspect

        return call.call(verb, args, inspect.show, as_json=as_json)
    show = partial(tables.status, chosen=tables.is_choice(args))
    return call.call(verb, args if as_json else {**args, "brief": True}, show, as_json=as_json)


def _seed(verb: str, args: dict[str, Any]) -> int:
    if verb != "inspect":
        raise Usage("`--format seed` shows one agent.", hint="Name it: `fleet status NAME --format seed`.")
    from fleet.cli import inspect

    return inspect.as_the_seed(verb, args)


def _watch(verb: str, args: dict[str, Any], interval: float, as_json: bool) -> int:
    answers = _answers(verb, args, interval)
    if as_json:
        _watch_json(answers)
    elif sys.stdout.isatty():
        _watch_screen(answers)
    else:
        _watch_changes(answers)
    return 0


def _answers(verb: str, args: dict[str, Any], interval: float) -> Iterator[dict[str, Any] | None]:
    """An answer's data per interval; `None` while no daemon answers."""
    while True:
        try:
            yield client.request(verb, args, timeout=reads.request_timeout()).envelope()["data"]
        except (NoDaemon, TimedOut):
            yield None
        time.sleep(interval)


def _watch_screen(answers: Iterator[dict[str, Any] | None]) -> None:
    """The table, drawn again in place; while no daemon answers, the last one with a word about that."""
    rows: list[list[output.Cell]] = []
    with output.Screen() as screen:
        for data in answers:
            now = time.time()
            told = f"{words.clock_time(now)} · Ctrl-C leaves"
            if data is None:
                told = f"{words.clock_time(now)} · no daemon answers: what stands above is old · Ctrl-C leaves"
            else:
                rows = [words.row(agent, now) for agent in data["agents"]]
            screen.draw(words.HEADINGS, rows, told)


def _watch_changes(answers: Iterator[dict[str, Any] | None]) -> None:
    """A line for each change, and none while all stays as it is."""
    known: dict[str, str] = {}
    answering = True
    for data in answers:
        now = time.time()
        if (data is not None) is not answering:
            answering = data is not None
            output.message("the daemon answers again" if answering else "no daemon answers")
        if data is None:
            continue
        seen = {agent["name"]: _told(agent, now) for agent in data["agents"]}
        for name in [*seen, *(known.keys() - seen.keys())]:
            if known.get(name) != seen.get(name):
                output.result(f"{words.clock_time(now)}  {name}  {seen.get(name, 'gone')}")
        known = seen
        sys.stdout.flush()


def _told(agent: words.Agent, now: float) -> str:
    """What counts as a change: the state and its question, not the time it has lasted."""
    steady = {key: value for key, value in agent.items() if key not in ("freshness", "age_s", "next_restart_at")}
    return "  ".join(filter(None, [str(agent.get("phase")), words.activity(agent), words.detail(steady, now)]))


def _watch_json(answers: Iterator[dict[str, Any] | None]) -> None:
    """A line of JSON for each change."""
    known: dict[str, str] = {}
    for data in answers:
        if data is None:
            continue
        now = time.time()
        for agent in data["agents"]:
            if known.get(agent["name"]) != _told(agent, now):
                known[agent["name"]] = _told(agent, now)
                output.as_json({"at": now, **agent})
