"""`fleet reply`: the answer to a message, to whoever wrote it."""

from __future__ import annotations

from typing import Any

import click

from fleet import hubcall
from fleet.cli import attachments, talk


@click.command()
@click.argument("message", metavar="ID")
@click.argument("text", metavar="TEXT|-", required=False)
@talk.text_file
@talk.intents
@attachments.option
@click.option("--to", metavar="NAME|#CHANNEL[,...]", help="To these as well as, or rather than, its sender.")
@talk.key
@talk.dry_run
@talk.as_json
@talk.on_hub
def reply(
    where: talk.Where,
    message: str,
    text: str | None,
    text_file: str | None,
    intent: str | None,
    attach: tuple[str, ...],
    to: str | None,
    key: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Reply to a message by its ID; an ask is answered by that.

    The reply goes to whoever wrote the message. A reply that only says thanks goes nowhere, and that is told.
    """
    files = attachments.found(attach)
    body: dict[str, Any] = {"reply_to": message, "text": talk.text_of(text, text_file)}
    body |= {"intent": intent} if intent else {}
    body |= {"to": talk.addressed(to)} if to else {}
    body |= {"idempotency_key": talk.own_key(key), **attachments.give(where, files, dry_run=dry_run)}
    if dry_run:
        return talk.would("POST", hubcall.path("messages"), body, as_json)
    return talk.send(where, hubcall.path("messages"), body, as_json=as_json, dry_run=False)
