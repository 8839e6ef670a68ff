"""`fleet prompt`: the operator's own word, typed into an agent as a person would."""

from __future__ import annotations

import click

from fleet import hubcall
from fleet.cli import talk
from fleet.cli.call import Seconds


@click.command()
@click.argument("name", metavar="NAME", shell_complete=talk.complete_members)
@click.argument("text", metavar="TEXT|-", required=False)
@talk.text_file
@talk.key
@click.option(
    "--wait",
    type=Seconds(),
    metavar="SECONDS",
    help="Wait until it is submitted; exit 4: it waits, 5: no proof, 7: a dialog is open.",
)
@talk.dry_run
@talk.as_json
@talk.on_hub
def prompt(
    where: talk.Where,
    name: str,
    text: str | None,
    text_file: str | None,
    key: str | None,
    wait: float | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Prompt an agent: TEXT is typed into it as your own word, once its prompt is ready and empty.

    It waits behind a dialog and behind a person's unsent text; neither is touched. Only an operator can prompt.
    """
    body = {"to": name, "text": talk.text_of(text, text_file), "idempotency_key": talk.own_key(key)}
    return talk.send(where, hubcall.path("prompts"), body, as_json=as_json, dry_run=dry_run, wait=wait)
