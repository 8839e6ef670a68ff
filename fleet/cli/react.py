"""`fleet react`: a sign at a message."""

from __future__ import annotations

import click

from fleet import hubcall
from fleet.cli import output, talk


@click.command()
@click.argument("message", metavar="ID")
@click.argument("reaction", metavar="REACTION")
@click.option("--remove", is_flag=True, help="Take it away again.")
@talk.dry_run
@talk.as_json
@talk.on_hub
def react(where: talk.Where, message: str, reaction: str, remove: bool, dry_run: bool, as_json: bool) -> int:
    """React to a message, such as with 👍 or `seen`: it tells without causing anybody a turn."""
    return talk.act(
        where,
        "POST",
        hubcall.path("messages", message, "reactions"),
        {"reaction": reaction, "on": not remove},
        lambda data: output.message(f"{reaction} is {'taken from' if remove else 'at'} {message}"),
        as_json=as_json,
        dry_run=dry_run,
        repeat=True,
    )
