"""What each read asks of the hub, and the short way to its answer: with `--json` the hub's text is passed on.

As in `reads`: the short way understands plain forms only and leaves the rest to click; `ask` makes the request for
both, so that they cannot differ.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fleet import hubcall
from fleet.cli import reads
from fleet.cli.reads import COUNT, FLAG, TEXT
from fleet.errors import Usage

Request = tuple[str, str, Any]
"""Method, path and body."""

MOMENT = "moment"
LIMIT = {"-n": ("limit", COUNT), "--limit": ("limit", COUNT)}
PLACE = {"--host": ("host", TEXT), "--port": ("port", COUNT), "--token-file": ("token_file", TEXT)}
"""Which hub, and as whom."""

READS: dict[str, tuple[int, int, dict[str, tuple[str, str]]]] = {
    "inbox": (0, 1, {**LIMIT, "--after": ("after", COUNT), "--waiting": ("waiting", FLAG)}),
    "history": (
        0,
        1,
        {
            **LIMIT,
            "--after": ("after", TEXT),
            "--before": ("before", TEXT),
            "--since": ("since", MOMENT),
            "--until": ("until", MOMENT),
        },
    ),
    "search": (1, 99, {**LIMIT, "--channel": ("channel", TEXT), "--before": ("before", TEXT)}),
    "channels": (0, 0, {}),
    "members": (0, 0, {}),
    "who": (0, 1, {}),
    "receipt": (1, 1, {}),
    "threads list": (0, 0, {**LIMIT, "--state": ("state", TEXT), "--before": ("before", COUNT)}),
    "threads show": (1, 1, {}),
    "workspaces list": (0, 0, {}),
    "invites list": (0, 1, {}),
    "tokens list": (0, 0, {}),
    "hub info": (0, 0, {}),
}
"""The reads: how many words each takes, least and most, and its options as in `reads`."""

SPANS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def ask(command: str, words: Sequence[str] = (), **options: Any) -> Request:
    """The request that a read makes. `options` bear the names of the query; `None` means not given."""
    given = {key: value for key, value in options.items() if value not in (None, False)}
    if command == "inbox":
        return _inbox(words, given)
    if command == "history":
        return "GET", hubcall.path("messages", **_where(words), **given), None
    if command == "search":
        return "GET", hubcall.path("search", q=" ".join(words), **given), None
    if command == "who" and words:
        return "GET", hubcall.path("members", member(words[0])), None
    if command == "receipt":
        return "GET", hubcall.path("messages", words[0]), None
    if command == "threads show":
        return "GET", hubcall.path("threads", words[0]), None
    if command == "invites list" and words:
        return "GET", hubcall.path("workspaces", words[0], "invites"), None
    plain = {"who": "members", "hub info": "info"}.get(command, command.removesuffix(" list"))
    return "GET", hubcall.path(plain, **given), None


def _inbox(words: Sequence[str], given: dict[str, Any]) -> Request:
    """One's own inbox is taken: what waited in it has arrived. Somebody's is looked into, which changes nothing."""
    if words:
        newest = not given.get("after") and not given.get("waiting")
        return "GET", hubcall.path("inbox", member(words[0]), newest=newest, **given), None
    if set(given) - {"limit"}:
        raise Usage("`--after` and `--waiting` look into a named inbox.", hint="Add the name: `fleet inbox NAME`.")
    return "POST", hubcall.path("inbox", "take"), given


def _where(words: Sequence[str]) -> dict[str, Any]:
    """A channel, a conversation, or what somebody said and was told."""
    if not words:
        return {}
    target = words[0]
    if target.startswith("#"):
        return {"channel": target}
    return {"thread": target} if is_thread(target) else {"with_": member(target)}


def is_thread(target: str) -> bool:
    """Whether it is a conversation's id; a name such as `t-rex` is none."""
    return target.startswith("t-") and len(target) == 18


def member(name: str) -> str:
    return name.removeprefix("@").lower()


def moment(text: str, now: float | None = None) -> float:
    """`10m`, `2h`, `3d` ago; `2026-11-21`, `2026-11-21T14:00`; or seconds since the epoch. Raise `ValueError`."""
    if text[-1:] in SPANS and text[:-1].replace(".", "", 1).isdecimal():
        return max(0.0, (time.time() if now is None else now) - float(text[:-1]) * SPANS[text[-1]])
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return float(text)
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def understand(words: Sequence[str]) -> tuple[dict[str, Any], Request] | None:
    """Which hub, and the request, of a plain read with `--json`; `None` where click must look."""
    command, rest = " ".join(words[:2]), list(words[2:])
    if command not in READS:
        command, rest = words[0], list(words[1:])
    if command not in READS:
        return None
    least, most, options = READS[command]
    plain = reads.take(rest, {**options, **PLACE}, _value)
    if plain is None:
        return None
    targets, given = plain
    if not (least <= len(targets) <= most and all(targets)):
        return None
    place = {key: given.pop(key, None) for key, _ in PLACE.values()}
    return place, ask(command, targets, **given)


def _value(before: Any, form: str, text: str) -> Any:
    return reads.count(text) if form == COUNT else moment(text) if form == MOMENT else text


def answer(place: Mapping[str, Any], asked: Request) -> int:
    """Ask, and pass the hub's JSON on; the exit code."""
    door = hubcall.patiently(lambda: hubcall.door(**place))
    call = hubcall.request if asked[0] == "POST" else hubcall.repeatable  # what is taken is given once
    said = call(door, *asked, timeout=reads.request_timeout())
    sys.stdout.flush()
    sys.stdout.buffer.write(said.envelope() + b"\n")
    sys.stdout.buffer.flush()
    return 0
