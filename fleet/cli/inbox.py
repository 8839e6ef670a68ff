"""`fleet inbox`: the messages that are for somebody."""

from __future__ import annotations

from typing import Any

import click

from fleet import hubcall
from fleet.cli import conversation, hubreads, output, reads, talk

PAGE = 50
ROOM = 16_000
"""Characters that an agent is given at once."""
HEADING = 400
"""Characters around each message, about."""


@click.command()
@click.argument("name", metavar="[NAME]", required=False, shell_complete=talk.complete_members)
@talk.limit
@click.option("--after", type=click.IntRange(min=0), metavar="SEQ", help="Only what came after this one.")
@click.option("--waiting", is_flag=True, help="Only what has not been delivered yet.")
@talk.as_json
@talk.on_hub
def inbox(where: talk.Where, name: str | None, as_json: bool, **which: Any) -> int:
    """Read your own inbox: what waited in it is delivered by that, and shown once.

    With NAME, look into that inbox: nothing is changed by looking. An agent may look into its own only.
    """
    waiting = 0
    if not name and conversation.to_agent() and not as_json and which["limit"] is None:
        which["limit"], waiting = _as_much_as_is_read(where)
    asked = hubreads.ask("inbox", [name] if name else [], **which)

    def show(data: dict[str, Any]) -> None:
        none = f"nothing in the inbox of {name}" if name else "nothing new; `fleet inbox NAME` shows what was read"
        conversation.show(data["messages"], none=none, answerable=not name)
        if waiting > len(data["messages"]) > 0:
            output.message(f"{waiting - len(data['messages'])} more wait: `fleet inbox` again reads on")

    return talk.read(where, asked, show, as_json=as_json)


def _as_much_as_is_read(where: talk.Where) -> tuple[int, int]:
    """How many messages an agent is given at once, and how many wait: its program cuts what a command prints off at
    some length, and what is taken is not given again."""
    look = hubcall.path("inbox", "me", waiting=True, limit=PAGE)
    found = hubcall.repeatable(where.door, "GET", look, timeout=reads.request_timeout()).json()["messages"]
    room, count = ROOM, 0
    for message in found:
        room -= len(message.get("text") or "") + HEADING
        if room < 0 and count:
            break
        count += 1
    return max(1, count), len(found)
