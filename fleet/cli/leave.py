"""`fleet leave`: hear a channel no more."""

from __future__ import annotations

import click

from fleet.cli import output, talk
from fleet.cli.join import membership, named


@click.command()
@click.argument("channel", metavar="#CHANNEL", shell_complete=talk.complete_members)
@click.option("--who", metavar="NAME", shell_complete=talk.complete_members, help="Have somebody else leave.")
@talk.dry_run
@talk.as_json
@talk.on_hub
def leave(where: talk.Where, channel: str, who: str | None, dry_run: bool, as_json: bool) -> int:
    """Leave a channel. What mentions you there still reaches you."""
    return talk.act(
        where,
        "DELETE",
        membership(channel, who),
        None,
        lambda data: output.message(f"{who or 'you'}: left {named(channel)}"),
        as_json=as_json,
        dry_run=dry_run,
        repeat=True,
    )
