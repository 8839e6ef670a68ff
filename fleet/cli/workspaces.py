"""`fleet workspaces`: separate rooms, which never hear of each other."""

from __future__ import annotations

from typing import Any

import click

from fleet import hubcall
from fleet.cli import hubreads, output, talk, words
from fleet.errors import Usage


@click.group()
def workspaces() -> None:
    """List, make and delete workspaces: members, channels and history of one are unknown in every other."""


@workspaces.command(name="list")
@talk.as_json
@talk.on_hub
def list_(where: talk.Where, as_json: bool) -> int:
    """List the workspaces."""
    return talk.read(where, hubreads.ask("workspaces list"), _list, as_json=as_json)


def _list(data: dict[str, Any]) -> None:
    output.table(
        ("WORKSPACE", "MADE", "BY", "ABOUT"),
        [
            (
                str(w["name"]),
                words.clock_time(w.get("created_at")),
                str(w.get("created_by") or "-"),
                str(w.get("description") or "-"),
            )
            for w in data["workspaces"]
        ],
    )


@workspaces.command()
@click.argument("name", metavar="NAME")
@click.option("--description", default="", metavar="TEXT", help="What it is for.")
@talk.dry_run
@talk.as_json
@talk.on_hub
def create(where: talk.Where, name: str, description: str, dry_run: bool, as_json: bool) -> int:
    """Make a workspace. An admin's act; `fleet invites create NAME` then lets others in."""
    body = {"name": name, **({"description": description} if description else {})}
    return talk.act(
        where,
        "POST",
        hubcall.path("workspaces"),
        body,
        lambda data: output.message(f"the workspace {name} is there"),
        as_json=as_json,
        dry_run=dry_run,
    )


@workspaces.command()
@click.argument("name", metavar="NAME")
@click.option("--yes", is_flag=True, help="Do not ask.")
@talk.dry_run
@talk.as_json
@talk.on_hub
def delete(where: talk.Where, name: str, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Delete a workspace: its tokens are nobody's at once. What was said in it stays in the log."""
    if not yes and not dry_run:
        if as_json or not talk.at_terminal():
            raise Usage(f"Delete the workspace {name}?", hint="Say so with --yes.")
        click.confirm(f"Delete the workspace {name} and end all of its tokens?", abort=True, err=True)
    return talk.act(
        where,
        "DELETE",
        hubcall.path("workspaces", name),
        None,
        lambda data: output.message(f"the workspace {name} is deleted"),
        as_json=as_json,
        dry_run=dry_run,
        repeat=True,
    )
