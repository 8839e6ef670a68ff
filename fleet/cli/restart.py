"""`fleet restart`: stop and start, whatever the restart policy says."""

from __future__ import annotations

import click

from fleet.cli import acts, call, ondemand, reads


@click.command()
@call.some
@call.labels
@call.everything
@click.option("--fresh", is_flag=True, help="Begin a new conversation instead of going on with the last one.")
@call.time_limit(600, "How long to wait for the start; the agents go on starting after that.")
@call.as_json
def restart(
    targets: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    everything: bool,
    fresh: bool,
    timeout: float,
    as_json: bool,
) -> int:
    """Stop and start agents, whatever their restart policy says; a stopped or failed one is started.

    Those that depend on others of them stop first and start last.
    """
    selected = call.selection(targets, labels, everything)
    args = {**selected, "env": reads.environment(), "fresh": fresh, "wait": True, "timeout": timeout}
    ondemand.ensure_daemon()
    return acts.act("restart", args, timeout=timeout, as_json=as_json)
