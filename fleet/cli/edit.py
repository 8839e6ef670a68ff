"""`fleet edit`: other words for a message of one's own."""

from __future__ import annotations

import click

from fleet import hubcall
from fleet.cli import output, talk


@click.command()
@click.argument("message", metavar="ID")
@click.argument("text", metavar="TEXT|-", required=False)
@talk.text_file
@talk.dry_run
@talk.as_json
@talk.on_hub
def edit(where: talk.Where, message: str, text: str | None, text_file: str | None, dry_run: bool, as_json: bool) -> int:
    """Change the text of a message of yours; that it was changed is shown with it.

    An agent that has got it already is not told again: say what is different in a new message.
    """
    return talk.act(
        where,
        "PATCH",
        hubcall.path("messages", message),
        {"text": talk.text_of(text, text_file)},
        lambda data: output.message(f"{message} is changed"),
        as_json=as_json,
        dry_run=dry_run,
        repeat=True,
    )
