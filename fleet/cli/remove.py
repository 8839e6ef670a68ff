"""`fleet remove`: take a member out of the registry."""

from __future__ import annotations

import click

from fleet import hubcall
from fleet.cli import output, talk


@click.command()
@click.argument("name", metavar="NAME", shell_complete=talk.complete_members)
@talk.dry_run
@talk.as_json
@talk.on_hub
def remove(where: talk.Where, name: str, dry_run: bool, as_json: bool) -> int:
    """Remove a member from the registry, its tokens with it; what it said stays."""
    if dry_run:
        talk.check_names(where, [name])
    return talk.act(
        where,
        "DELETE",
        hubcall.path("members", name),
        None,
        lambda data: output.message(f"{name} is removed; what it said stays"),
        as_json=as_json,
        dry_run=dry_run,
        repeat=True,
    )
