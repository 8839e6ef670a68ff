"""`fleet delete`: a message is taken out of the history."""

from __future__ import annotations

import click

from fleet import hubcall
from fleet.cli import output, talk


@click.command()
@click.argument("message", metavar="ID")
@talk.dry_run
@talk.as_json
@talk.on_hub
def delete(where: talk.Where, message: str, dry_run: bool, as_json: bool) -> int:
    """Delete a message of yours, or as an operator anybody's: its words and files are shown no more.

    Whoever has not got it yet does not get it; that it was there, and who deleted it, stays in the log.
    """
    return talk.act(
        where,
        "DELETE",
        hubcall.path("messages", message),
        None,
        lambda data: output.message(f"{message} is deleted"),
        as_json=as_json,
        dry_run=dry_run,
        repeat=True,
    )
