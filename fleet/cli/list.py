"""`fleet list`: who is there, by capability, machine or label."""

from __future__ import annotations

from functools import partial

import click

from fleet.cli import call, reads, tables


@click.command("list")
@call.labels
@click.option("--capability", metavar="NAME", help="Agents that can do this.")
@click.option("--machine", metavar="HOST", help="Agents on this machine.")
@call.as_json
def list_(labels: tuple[tuple[str, str], ...], capability: str | None, machine: str | None, as_json: bool) -> int:
    """List agents by capability, machine or label."""
    verb, args = reads.ask("list", labels=dict(labels), capability=capability, machine=machine)
    return call.call(verb, args, partial(tables.listed, chosen=tables.is_choice(args)), as_json=as_json)
