"""`fleet apply`: make what runs the same as a folder of manifests."""

from __future__ import annotations

import click

from fleet.cli import acts, call, changes, ondemand, reads


@click.command()
@click.argument("folder", metavar="[FOLDER]", required=False, type=click.Path(exists=True))
@click.option("--prune", is_flag=True, help="Also stop agents that the folder no longer declares.")
@call.time_limit(600, "How long to wait; the daemon goes on after that.")
@call.as_json
def apply(folder: str | None, prune: bool, timeout: float, as_json: bool) -> int:
    """Start what is new in a folder of manifests, restart what a changed field makes necessary, and say which.

    `fleet diff FOLDER` shows beforehand what would change.
    """
    _, args = reads.ask("diff", [folder] if folder else [])
    ondemand.ensure_daemon()
    return call.call(
        "apply",
        {**args, "prune": prune, "timeout": timeout},
        changes.show,
        as_json=as_json,
        timeout=timeout + acts.GRACE,
        on_progress=None if as_json else acts.news(),
    )
