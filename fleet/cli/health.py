"""`fleet health`: which agents are healthy, and why the others are not."""

from __future__ import annotations

from functools import partial

import click

from fleet.cli import call, reads, tables


@click.command()
@call.some
@call.labels
@call.as_json
def health(targets: tuple[str, ...], labels: tuple[tuple[str, str], ...], as_json: bool) -> int:
    """Say which agents are healthy, and why the others are not. Exits 1 where one is not."""
    verb, args = reads.ask("health", targets, labels=dict(labels))
    return call.call(verb, args, partial(tables.health, chosen=tables.is_choice(args)), as_json=as_json)
