"""`fleet tail`: what is said, as it is said."""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import click

from fleet import hubcall
from fleet.cli import conversation, hubreads, output, reads, talk, words
from fleet.errors import NoDaemon, TimedOut

SEEN = 2000
"""Messages that are remembered, so that what happens to them later is shown too."""
MESSAGES = ("message", "copy")
CHANGES = ("edit", "deletion", "reaction")
ACTS = ("act", "thread", "ask_ended")
"""What was done to a conversation, and how a question ended."""
TOLD = ("message", *CHANGES, *ACTS)
"""What is shown without `--all`; and a copy of a message, where it is the only sight of it."""


@click.command()
@click.argument("targets", nargs=-1, metavar="[#CHANNEL|NAME|THREAD]...", shell_complete=talk.complete_members)
@click.option(
    "-n", "--limit", type=click.IntRange(0, 500), default=10, show_default=True, metavar="N", help="First the newest N."
)
@click.option(
    "--after",
    type=talk.Place(),
    metavar="POSITION",
    help="Go on from this position (EPOCH:SEQ), with nothing left out.",
)
@click.option("--all", "everything", is_flag=True, help="Every event: joins, receipts and audit too.")
@talk.as_json
@talk.on_hub
def tail(
    where: talk.Where, targets: tuple[str, ...], limit: int, after: str | None, everything: bool, as_json: bool
) -> int:
    """Follow what is said, in some channels or conversations, or everywhere; Ctrl-C leaves.

    When the hub is restarted it goes on where it was: nothing is left out, nothing shown twice. With --json each event
    is one line, with its position.
    """
    seen = Seen(targets)
    if after:
        talk.check_names(where, [t for t in targets if not hubreads.is_thread(t)])
    place = after or _first(where, targets, limit, seen, as_json)
    sys.stdout.flush()

    def show(event: dict[str, Any]) -> None:
        kind = str(event.get("kind"))
        if not seen.concerns(event) or not (everything or kind in TOLD or seen.new_copy(event)):
            return
        if as_json:
            output.as_json(event)
        else:
            _tell(event)
        sys.stdout.flush()

    channels = [target.lower() for target in targets if target.startswith("#")]
    return follow(where, place, show, channels if len(channels) == len(targets) else [])


def _first(where: talk.Where, targets: tuple[str, ...], limit: int, seen: Seen, as_json: bool) -> str:
    """Show the newest messages; the position after them."""
    info = hubcall.request(where.door, *hubreads.ask("hub info"), timeout=reads.request_timeout()).json()
    place = f"{info['epoch']}:{info['seq']}"
    if not limit:
        return place
    found: dict[str, dict[str, Any]] = {}
    for target in targets or (None,):
        asked = hubreads.ask("history", [target] if target else [], limit=limit)
        for message in hubcall.request(where.door, *asked, timeout=reads.request_timeout()).json()["messages"]:
            if message["seq"] <= info["seq"]:  # the rest comes as an event
                found[message["id"]] = message
    for message in sorted(found.values(), key=lambda m: m["seq"])[-limit:]:
        seen.add(message["id"])
        if as_json:
            output.as_json(_as_event(message))
        else:
            conversation.show([message])
    return place


def _as_event(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message from before, in the form of the event that it was."""
    place = next((name for name in message["to"] if name.startswith("#")), f"@{', @'.join(message['to'])}")
    return {
        "pos": f"{message['epoch']}:{message['seq']}",
        "seq": message["seq"],
        "at": message["at"],
        "stream": place,
        "kind": "message",
        "sender": message["sender"],
        "data": message,
    }


def follow(where: talk.Where, place: str, show: Any, streams: list[str]) -> int:
    """Show every event after a position, of some streams or of all, until the person leaves; across restarts of the
    hub."""
    target = hubcall.path("events", stream=streams)
    away_since: float | None = None
    stood = False

    def back() -> None:
        nonlocal away_since, stood
        if away_since is not None:
            output.message("the hub is back")
        away_since, stood = None, True

    while True:
        try:
            for position, kind, data in hubcall.events(where.door, target, place, opened=back):
                event = json.loads(data)
                if kind == "gap":
                    _gap(event)
                    place = event.get("oldest") or place
                elif kind == "end":
                    break
                else:
                    show(event)
                    place = position or event.get("pos") or place
        except TimedOut:
            continue
        except NoDaemon as error:
            if away_since is None:
                if not stood and not hubcall.patience_with(error):
                    raise
                talk.tell_waiting()
                away_since = time.monotonic()
            elif time.monotonic() - away_since > hubcall.AWAY:
                raise
        time.sleep(hubcall.ASK_EVERY)


def _gap(told: Mapping[str, Any]) -> None:
    output.message(
        f"what was said between {told.get('asked')} and {told.get('oldest')} cannot be had any more "
        f"({told.get('reason')}); going on from there"
    )


class Seen:
    """What this reader wants, and which messages it has had."""

    def __init__(self, targets: tuple[str, ...]) -> None:
        self._targets = frozenset(
            t if t.startswith("#") or hubreads.is_thread(t) else hubreads.member(t) for t in targets
        )
        self._messages: OrderedDict[str, None] = OrderedDict()

    def add(self, message: str) -> None:
        self._messages[message] = None
        while len(self._messages) > SEEN:
            self._messages.popitem(last=False)

    def new_copy(self, event: Mapping[str, Any]) -> bool:
        """Whether it is the only sight of its message."""
        return event.get("kind") == "copy" and self._new

    def concerns(self, event: Mapping[str, Any]) -> bool:
        """Whether the event is of what this reader wants; a message is remembered by that."""
        data = event.get("data") or {}
        if event.get("kind") in MESSAGES:
            wanted = not self._targets or bool(self._targets & _of(data))
            self._new = data.get("id") not in self._messages
            if wanted and self._new:
                self.add(str(data.get("id")))
            return wanted and (self._new or event.get("kind") == "copy")
        if not self._targets:
            return True
        if event.get("kind") in (*CHANGES, "receipt"):
            return data.get("message") in self._messages
        return bool(self._targets & {str(event.get("stream")), str(data.get("thread")), str(data.get("id"))})


def _of(message: Mapping[str, Any]) -> set[str]:
    """Everything by which a message can be named."""
    return {str(message.get("sender")), str(message.get("thread")), *map(str, message.get("to") or ())}


def _tell(event: Mapping[str, Any]) -> None:
    """One event, for a person."""
    data = event.get("data") or {}
    kind, at = str(event.get("kind")), (words.clock_time(event.get("at")), "dim")
    if kind in MESSAGES:
        conversation.show([{"at": event.get("at"), **data}])
    elif kind == "reaction":
        sign = data.get("reaction") if data.get("on", True) else f"no more {data.get('reaction')}"
        output.pieces([at, f"{event.get('sender')}: {sign}", (f"at {data.get('message')}", "dim")])
    elif kind == "edit":
        output.pieces([at, f"{event.get('sender')} says instead", (f"of {data.get('message')}", "dim")])
        output.indented(str(data.get("text") or ""), conversation.INDENT)
    elif kind == "deletion":
        output.pieces([at, f"{event.get('sender')} takes back", (str(data.get("message")), "dim")])
    else:
        told = {key: value for key, value in data.items() if isinstance(value, str | int | float)}
        about = " ".join(f"{key}={value}" for key, value in told.items())
        output.pieces([at, (f"— {kind} by {event.get('sender')}", "bold"), (about[:160], "dim")])
