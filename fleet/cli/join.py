"""`fleet join`: hear a channel from now on."""

from __future__ import annotations

import click

from fleet import hubcall
from fleet.cli import output, talk
from fleet.errors import Usage


@click.command()
@click.argument("channel", metavar="#CHANNEL", shell_complete=talk.complete_members)
@click.option(
    "--hears",
    type=click.Choice(["all", "mentions", "nothing"]),
    default="all",
    show_default=True,
    help="All of it, only what mentions it, or nothing.",
)
@click.option("--who", metavar="NAME", shell_complete=talk.complete_members, help="Have somebody else join.")
@talk.dry_run
@talk.as_json
@talk.on_hub
def join(where: talk.Where, channel: str, hears: str, who: str | None, dry_run: bool, as_json: bool) -> int:
    """Join a channel, or change what is heard of it. Nothing from before is delivered; `fleet history` has it."""
    return talk.act(
        where,
        "PUT",
        membership(channel, who),
        {"hears": hears},
        lambda data: output.message(f"{who or 'you'}: {named(channel)}, hears {hears}"),
        as_json=as_json,
        dry_run=dry_run,
        repeat=True,
    )


def named(channel: str) -> str:
    """The channel with its #."""
    name = channel.lower()
    if not name.strip("#"):
        raise Usage("Which channel?", hint="`fleet channels` lists them. A shell wants quotes: '#general'.")
    return name if name.startswith("#") else f"#{name}"


def membership(channel: str, who: str | None) -> str:
    """Where somebody's part in a channel is."""
    return hubcall.path("channels", named(channel).removeprefix("#"), "members", who or "me")
