"""`fleet decline`: say that a question will not be answered."""

from __future__ import annotations

import click

from fleet import hubcall
from fleet.cli import output, talk


@click.command()
@click.argument("message", metavar="ID")
@click.option("--reason", default="declined", show_default=True, metavar="TEXT", help="Why; whoever asked hears it.")
@talk.dry_run
@talk.as_json
@talk.on_hub
def decline(where: talk.Where, message: str, reason: str, dry_run: bool, as_json: bool) -> int:
    """Decline an ask or a task by its message's ID: it ends at once, with your reason."""
    return talk.act(
        where,
        "POST",
        hubcall.path("messages", message, "decline"),
        {"reason": reason},
        lambda data: output.message(f"{message} is declined"),
        as_json=as_json,
        dry_run=dry_run,
        repeat=True,
    )
