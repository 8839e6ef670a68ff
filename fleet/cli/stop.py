"""`fleet stop`: end agents; a person's stop is not undone by anything but a person's start."""

from __future__ import annotations

import click

from fleet.cli import acts, call


@click.command()
@call.some
@call.labels
@call.everything
@call.time_limit(120, "How long to wait for the end; the stop goes on after that.")
@call.as_json
def stop(
    targets: tuple[str, ...], labels: tuple[tuple[str, str], ...], everything: bool, timeout: float, as_json: bool
) -> int:
    """Stop agents, with all their processes; they stay stopped until `fleet start`.

    \b
    fleet stop web
    fleet stop -l role=worker
    fleet stop --all
    """
    args = {**call.selection(targets, labels, everything), "timeout": timeout}
    return acts.act("stop", args, timeout=timeout, as_json=as_json)
