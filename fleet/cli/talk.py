"""What the commands that speak to the hub share: which hub, the text, the one call, and how a message is sent."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from fleet import hubcall
from fleet.cli import conversation, hubreads, output, reads, standing
from fleet.errors import FleetError, NoDaemon, TimedOut, UnknownAgent, Usage

Show = Callable[[Any], None]
Command = Callable[..., Any]

TEXT_MOST = 1024 * 1024
"""Bytes of a text that are read: what the hub refuses for its length need not be read to its end."""
SETTLE = 1.0
"""Seconds that a person's `send` waits to say more than that the message is accepted."""


class Place(click.ParamType[str]):
    """A position in the log."""

    name = "position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        epoch, colon, seq = str(value).rpartition(":")
        if not (epoch and colon and seq.isascii() and seq.isdecimal()):
            self.fail(f"`{value}` is no position; one is written EPOCH:SEQ, as `fleet hub info` shows it", param, ctx)
        return str(value)


class Where:
    """Which hub is meant, and as whom; found out when it is first needed."""

    def __init__(self, host: str | None, port: int | None, token_file: str | None) -> None:
        self._named = {"host": host, "port": port, "token_file": token_file}

    @property
    def is_elsewhere(self) -> bool:
        """Whether a hub is named that need not be this fleet's own."""
        return any(self._named.values()) or bool(os.environ.get("FLEET_HUB"))

    @functools.cached_property
    def door(self) -> hubcall.Door:
        return hubcall.patiently(
            lambda: hubcall.door(**self._named),  # type: ignore[arg-type]
            waiting=tell_waiting,
        )

    @functools.cached_property
    def stranger(self) -> hubcall.Door:
        """The same for who has no token yet."""
        return hubcall.door(**self._named, stranger=True)  # type: ignore[arg-type]


def on_hub(command: Command) -> Command:
    """Give a command `--host`, `--port` and `--token-file`; it gets `where`."""

    @functools.wraps(command)
    def called(*, host: str | None, port: int | None, token_file: str | None, **given: Any) -> Any:
        return command(where=Where(host, port, token_file), **given)

    for option in (
        click.option("--token-file", metavar="FILE", help="The file with the token to speak with."),
        click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="Its port."),
        click.option("--host", metavar="HOST", help="Another machine's hub."),
    ):
        called = option(called)
    return called


def complete_members(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of members and channels, for a shell; nothing where no hub answers at once."""
    names: list[str] = []
    try:
        door = hubcall.door()
        for kind in ("members", "channels"):
            found = hubcall.request(door, "GET", hubcall.path(kind), timeout=1.0).json()[kind]
            names += [item["name"] for item in found]
    except (FleetError, KeyError, TypeError):
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
dry_run = click.option("--dry-run", is_flag=True, help="Show what would be asked of the hub, and ask nothing.")
limit = click.option("-n", "--limit", type=click.IntRange(1, 1000), metavar="N", help="At most N.")
text_file = click.option("--file", "text_file", metavar="FILE", help="Take the text from a file, `-` is stdin.")
key = click.option("--key", metavar="KEY", help="An idempotency key: the same message under it is sent only once.")
intents = click.option(
    "--intent",
    type=click.Choice(["ask", "inform", "task", "result", "ack"]),
    help="What is wanted of its reader: an answer, nothing, work …",
)


def text_of(text: str | None, file: str | None, what: str = "TEXT") -> str:
    """The text that is meant: the word itself, or what a file or stdin (`-`) holds. It is never empty."""
    if text is not None and file is not None:
        raise Usage(f"{what} is given twice.", hint="Leave out the text, or `--file`.")
    if file is not None or text == "-":
        text = _read("-" if file is None else file)
    if text is None:
        raise Usage(f"{what} is missing.", hint="Give it as the last word, by `--file FILE`, or `-` for stdin.")
    if not text.strip():
        raise Usage("There is nothing in the text.", hint="Nobody is sent an empty message.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Usage("The text is not UTF-8.", hint="Send it as a file: `fleet upload`.") from error
    return text


def _read(file: str) -> str:
    try:
        with click.open_file(file, "rb") as stream:
            raw: bytes = stream.read(TEXT_MOST + 1)
        text = raw.decode()
    except OSError as error:
        raise Usage(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise Usage(f"{file} is not UTF-8 text.", hint="Send it as a file: `fleet send … --attach FILE`.") from error
    if len(raw) > TEXT_MOST:
        raise Usage(f"{file} is too long for a message.", hint="Send it as a file: `fleet send … --attach FILE`.")
    return text.removesuffix("\n")


def own_key(given: str | None) -> str:
    """The key under which a message is sent once, however often it is tried."""
    return given or os.urandom(16).hex()


def addressed(target: str) -> str | list[str]:
    """One name or #channel, or several with commas between them."""
    names = [name.strip() for name in target.split(",") if name.strip()]
    if not names:
        raise Usage("To whom?", hint="A name, a #channel, or several: a,b,#c. `fleet members` lists who is there.")
    return names[0] if len(names) == 1 else names


# -- calls -----------------------------------------------------------------------------------------------------


def read(where: Where, asked: hubreads.Request, show: Show, *, as_json: bool) -> int:
    """Ask the hub once and show its answer: with `as_json` as it came, otherwise by `show`."""
    if asked[0] == "POST":  # what is taken is given once
        said = hubcall.request(where.door, *asked, timeout=reads.request_timeout())
    else:
        said = hubcall.repeatable(where.door, *asked, timeout=reads.request_timeout(), waiting=tell_waiting)
    _tell(said, show, as_json)
    return 0


def act(
    where: Where,
    method: str,
    target: str,
    body: Any,
    show: Show,
    *,
    as_json: bool,
    dry_run: bool = False,
    timeout: float | None = None,
    repeat: bool = False,
) -> int:
    """Have the hub do it and show what came of it. `repeat`: it may be asked twice, so a hub that goes away in the
    middle is asked again when it is back. `dry_run` only shows what would be asked."""
    if dry_run:
        return would(method, target, body, as_json)
    patience = reads.request_timeout() if timeout is None else timeout
    if repeat:
        said = hubcall.repeatable(where.door, method, target, body, timeout=patience, waiting=tell_waiting)
    else:
        said = hubcall.request(where.door, method, target, body, timeout=patience)
    _tell(said, show, as_json)
    return 0


def tell_waiting() -> None:
    output.message("the hub is away; waiting for it to come back")


def _tell(said: hubcall.Answer, show: Show, as_json: bool) -> None:
    if as_json:
        output.verbatim(said.envelope())
    else:
        show(said.json() if said.body.strip() else {})


def would(method: str, target: str, body: Any, as_json: bool) -> int:
    """What is not done, since it was only asked what would be."""
    if as_json:
        output.envelope({"dry_run": True, "method": method, "path": target, "body": body})
    else:
        output.result(f"would ask the hub: {method} {target}")
        output.facts((name, value) for name, value in (body or {}).items() if name != "idempotency_key")
    return 0


def check_names(where: Where, names: Sequence[str]) -> None:
    """Raise `UnknownAgent`, with the nearest names, for who is no member. What `--dry-run` can find out."""
    wanted = [hubreads.member(name) for name in names if not name.startswith("#")]
    if not wanted:
        return
    found = hubcall.request(where.door, "GET", hubcall.path("members"), timeout=reads.request_timeout()).json()
    there = [str(item["name"]) for item in found["members"]]
    for name in wanted:
        if name not in there:
            raise nobody(name, there)


def nobody(name: str, there: Sequence[str]) -> UnknownAgent:
    from fleet.hub.routing import nearest

    near = nearest(name, there)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`fleet members` lists who is there."
    return UnknownAgent(f"Nobody here is called {output.printable(name)}.", hint=hint)


# -- sending ---------------------------------------------------------------------------------------------------


def send(
    where: Where, target: str, body: dict[str, Any], *, as_json: bool, dry_run: bool, wait: float | None = None
) -> int:
    """Send what has a key, and say where it stands. With `wait` until it is where it belongs with everybody, or that
    time is over; the exit code then says which."""
    if dry_run:
        named = body.get("to")
        check_names(where, [named] if isinstance(named, str) else named or [])
        return would("POST", target, body, as_json)
    said = hubcall.repeatable(where.door, "POST", target, body, timeout=reads.request_timeout(), waiting=tell_waiting)
    if wait is None and as_json:
        output.verbatim(said.envelope())
        return 0
    receipt: dict[str, Any] = said.json()
    if wait is not None:
        receipt["recipients"] = _until(where, receipt, wait, standing.settled)
    elif not conversation.to_agent():
        receipt["recipients"] = _until(where, receipt, SETTLE, standing.heard)
    if as_json:
        output.envelope(receipt)
    else:
        standing.show_receipt(receipt)
    return standing.exit_code(receipt["recipients"]) if wait is not None else 0


def _until(
    where: Where, receipt: Mapping[str, Any], seconds: float, enough: Callable[[Sequence[Mapping[str, Any]]], bool]
) -> Sequence[Mapping[str, Any]]:
    """The recipients once they stand so, or as they stand when the time is over. Changes are pushed."""
    deadline = time.monotonic() + seconds
    recipients: Sequence[Mapping[str, Any]] = receipt["recipients"]
    after = f"{receipt['epoch']}:{receipt['seq']}"
    look = hubcall.path("messages", receipt["id"])
    while not enough(recipients) and time.monotonic() < deadline:
        after = _next_change(where, after, deadline)
        said = hubcall.repeatable(
            where.door, "GET", look, timeout=reads.request_timeout(), stood=True, waiting=tell_waiting
        )
        recipients = said.json()["recipients"]
    return recipients


def _next_change(where: Where, after: str, deadline: float) -> str:
    """The position after the next event that tells what became of a message, or where the time is over."""
    left = max(0.001, deadline - time.monotonic())
    try:
        for place, _, data in hubcall.events(where.door, hubcall.path("events"), after, timeout=left):
            after = place or after
            if b'"kind":"receipt"' in data or time.monotonic() > deadline:
                break
    except TimedOut:
        return after
    except NoDaemon:
        time.sleep(hubcall.ASK_EVERY)
    return after


def at_terminal() -> bool:
    """Whether a person is at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()
