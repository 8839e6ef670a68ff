"""`fleet send`: a message to members and channels, and where it stands with each of them."""

from __future__ import annotations

from typing import Any

import click

from fleet import hubcall
from fleet.cli import attachments, talk
from fleet.cli.call import Seconds


@click.command()
@click.argument("target", metavar="NAME|#CHANNEL[,...]", shell_complete=talk.complete_members)
@click.argument("text", metavar="TEXT|-", required=False)
@talk.text_file
@talk.intents
@click.option("--wake", is_flag=True, default=None, help="A broadcast is to cause turns, where the manifest allows it.")
@click.option("--thread", metavar="ID", help="In this conversation; otherwise a new one begins.")
@click.option("--reply-to", metavar="ID", help="It replies to this message.")
@attachments.option
@click.option("--max-hops", type=click.IntRange(min=1), metavar="N", help="End the exchange sooner than fleet would.")
@click.option("--expires-in", type=Seconds(), metavar="SECONDS", help="Nobody is to get it later than that.")
@talk.key
@click.option(
    "--wait",
    type=Seconds(),
    metavar="SECONDS",
    help="Wait until it is delivered to all; exit 4: it waits, 5: no proof, 7: a dialog is open.",
)
@talk.dry_run
@talk.as_json
@talk.on_hub
def send(
    where: talk.Where,
    target: str,
    text: str | None,
    text_file: str | None,
    attach: tuple[str, ...],
    key: str | None,
    wait: float | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Send a message: to a member, a #channel, or several (`web,db,#general`).

    It is accepted when it is on the hub's disk, and is then carried to each agent when that can take it. To its readers
    it is quoted, as somebody's words; what is to count as your own word goes by `fleet prompt`. TEXT may be `-` for
    stdin.
    """
    files = attachments.found(attach)
    said = "" if attach and text is None and text_file is None else talk.text_of(text, text_file)
    given = {name: value for name, value in options.items() if value is not None}
    body = {"to": talk.addressed(target), "text": said, **given, "idempotency_key": talk.own_key(key)}
    body |= attachments.give(where, files, dry_run=dry_run)
    return talk.send(where, hubcall.path("messages"), body, as_json=as_json, dry_run=dry_run, wait=wait)
