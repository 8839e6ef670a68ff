"""`fleet invites`: let somebody in who has no token yet."""

from __future__ import annotations

from typing import Any

import click

from fleet import hubcall
from fleet.cli import hubreads, output, reads, secrets, talk, words
from fleet.cli.call import Seconds


@click.group()
def invites() -> None:
    """List, make, revoke and redeem invites: who redeems one gets a token."""


@invites.command(name="list")
@click.argument("workspace", metavar="[WORKSPACE]", required=False)
@talk.as_json
@talk.on_hub
def list_(where: talk.Where, workspace: str | None, as_json: bool) -> int:
    """List the invites that can still be redeemed: of a workspace, or all."""
    return talk.read(where, hubreads.ask("invites list", [workspace] if workspace else []), _list, as_json=as_json)


def _list(data: dict[str, Any]) -> None:
    if not data["invites"]:
        output.message("no invites")
        return
    output.table(
        ("ID", "WORKSPACE", "ROLE", "USES", "MADE", "BY", "ENDS"),
        [
            (
                str(i["id"]),
                str(i.get("workspace") or "-"),
                str(i.get("role") or "-"),
                str(i.get("uses") if i.get("uses") is not None else "-"),
                words.clock_time(i.get("created_at")),
                str(i.get("created_by") or "-"),
                words.clock_time(i.get("expires_at")),
            )
            for i in data["invites"]
        ],
    )


@invites.command()
@click.argument("workspace", metavar="[WORKSPACE]", required=False)
@click.option(
    "--role",
    type=click.Choice(["agent", "viewer", "operator"]),
    default="agent",
    show_default=True,
    help="What whoever redeems it may do.",
)
@click.option(
    "--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="How often it can be redeemed."
)
@click.option("--expires-in", type=Seconds(), metavar="SECONDS", help="Otherwise a week.")
@secrets.option
@talk.dry_run
@talk.as_json
@talk.on_hub
def create(
    where: talk.Where, workspace: str | None, out: str | None, dry_run: bool, as_json: bool, **asked: Any
) -> int:
    """Make an invite to a workspace, or to your own. Its code is shown this once."""
    body = {name: value for name, value in asked.items() if value is not None}
    target = hubcall.path("workspaces", workspace, "invites") if workspace else hubcall.path("invites")
    if dry_run:
        return talk.would("POST", target, body, as_json)
    secrets.check(out)
    made = hubcall.request(where.door, "POST", target, body, timeout=reads.request_timeout()).json()
    secrets.hand_over(made, "invite", out, f"{made['id']}: shown this once; `fleet invites redeem` takes it", as_json)
    return 0


@invites.command()
@click.argument("invite", metavar="ID")
@talk.dry_run
@talk.as_json
@talk.on_hub
def revoke(where: talk.Where, invite: str, dry_run: bool, as_json: bool) -> int:
    """Revoke an invite by its ID; tokens that it gave stay."""
    return talk.act(
        where,
        "DELETE",
        hubcall.path("invites", invite),
        None,
        lambda data: output.message(f"{invite} is revoked"),
        as_json=as_json,
        dry_run=dry_run,
        repeat=True,
    )


@invites.command()
@click.argument("file", metavar="FILE|-")
@click.option("--name", required=True, metavar="NAME", help="Who you are going to be.")
@secrets.option
@talk.dry_run
@talk.as_json
@talk.on_hub
def redeem(where: talk.Where, file: str, name: str, out: str | None, dry_run: bool, as_json: bool) -> int:
    """Redeem an invite whose code is in a file, or comes on stdin (`-`), for a token of your own."""
    target = hubcall.path("invites", "redeem")
    if dry_run:
        return talk.would("POST", target, {"name": name}, as_json)
    secrets.check(out)
    body = {"invite": secrets.take(file), "name": name}
    made = hubcall.request(where.stranger, "POST", target, body, timeout=reads.request_timeout()).json()
    about = f"you are {made.get('name')} in {made.get('workspace')}; the token is shown this once"
    secrets.hand_over(made, "token", out, about, as_json)
    return 0
