"""`fleet inbox`: the messages that are for somebody."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import conversation, hubreads, talk


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
    asked = hubreads.ask("inbox", [name] if name else [], **which)

    def show(data: dict[str, Any]) -> None:
        none = f"nothing in the inbox of {name}" if name else "nothing new; `fleet inbox NAME` shows what was read"
        conversation.show(data["messages"], none=none, answerable=not name)

    return talk.read(where, asked, show, as_json=as_json)
