"""`fleet tokens`: who may speak, and as what."""

from __future__ import annotations

from typing import Any

import click

from fleet import hubcall
from fleet.cli import hubreads, output, reads, secrets, talk, words
from fleet.cli.call import Seconds


@click.group()
def tokens() -> None:
    """List, make and revoke the tokens by which agents, programs and people speak to the hub."""


@tokens.command(name="list")
@talk.as_json
@talk.on_hub
def list_(where: talk.Where, as_json: bool) -> int:
    """List the tokens by their ids; what they are is kept as a sum only."""
    return talk.read(where, hubreads.ask("tokens list"), _list, as_json=as_json)


def _list(data: dict[str, Any]) -> None:
    output.table(
        ("ID", "NAME", "ROLE", "WORKSPACE", "MADE", "BY", "ENDS"),
        [
            (
                str(t["id"]),
                str(t["name"]),
                str(t["role"]),
                str(t.get("workspace") or "-"),
                words.clock_time(t.get("created_at")),
                str(t.get("created_by") or "-"),
                ("revoked", "dim") if t.get("revoked_at") else words.clock_time(t.get("expires_at")),
            )
            for t in data["tokens"]
        ],
    )


@tokens.command()
@click.option(
    "--role",
    type=click.Choice(["agent", "viewer", "operator", "admin"]),
    required=True,
    help="agent: speaks as itself; viewer: reads all; operator: and acts; admin: and gives tokens.",
)
@click.option("--name", required=True, metavar="NAME", help="Whose it is: who speaks with it is this one.")
@click.option("--workspace", metavar="NAME", help="Where it counts; otherwise in your own.")
@click.option("--expires-in", type=Seconds(), metavar="SECONDS", help="It ends by itself.")
@secrets.option
@talk.dry_run
@talk.as_json
@talk.on_hub
def create(where: talk.Where, out: str | None, dry_run: bool, as_json: bool, **asked: Any) -> int:
    """Make a token. It is shown this once; the hub keeps only its sum."""
    body = {name: value for name, value in asked.items() if value is not None}
    if dry_run:
        return talk.would("POST", hubcall.path("tokens"), body, as_json)
    secrets.check(out)
    said = hubcall.request(where.door, "POST", hubcall.path("tokens"), body, timeout=reads.request_timeout())
    made = said.json()
    secrets.hand_over(made, "token", out, f"{made['id']}: shown this once; keep it where only you can read", as_json)
    return 0


@tokens.command()
@click.argument("token", metavar="ID")
@talk.dry_run
@talk.as_json
@talk.on_hub
def revoke(where: talk.Where, token: str, dry_run: bool, as_json: bool) -> int:
    """Revoke a token by its ID: who speaks with it is cut off at once."""
    return talk.act(
        where,
        "DELETE",
        hubcall.path("tokens", token),
        None,
        lambda data: output.message(f"{token} is revoked"),
        as_json=as_json,
        dry_run=dry_run,
        repeat=True,
    )
