"""`fleet cancel`: a message is taken back from whoever has not got it."""

from __future__ import annotations

import click

from fleet import hubcall
from fleet.cli import output, talk


@click.command()
@click.argument("message", metavar="ID")
@talk.dry_run
@talk.as_json
@talk.on_hub
def cancel(where: talk.Where, message: str, dry_run: bool, as_json: bool) -> int:
    """Take a message of yours back, or as an operator anybody's, from whoever has not got it yet.

    An ask ends as cancelled. The words stay in the history: `fleet delete` takes those away too.
    """
    return talk.act(
        where,
        "POST",
        hubcall.path("messages", message, "cancel"),
        {},
        lambda data: output.message(f"{message} is taken back; `fleet receipt {message}` says who has it all the same"),
        as_json=as_json,
        dry_run=dry_run,
        repeat=True,
    )
