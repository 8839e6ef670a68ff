"""`fleet diff`: what `apply` would do."""

from __future__ import annotations

import click

from fleet.cli import call, changes, reads


@click.command()
@click.argument("folder", metavar="[FOLDER]", required=False, type=click.Path(exists=True))
@call.as_json
def diff(folder: str | None, as_json: bool) -> int:
    """Show what differs between a folder of manifests and what runs; exits 1 where something does."""
    return call.call(*reads.ask("diff", [folder] if folder else []), changes.show, as_json=as_json)
