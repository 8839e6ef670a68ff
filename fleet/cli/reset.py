"""`fleet reset`: forget the failures that hold an agent."""

from __future__ import annotations

import click

from fleet.cli import acts, call


@click.command()
@call.some
@call.labels
@call.everything
@call.time_limit(30, "How long to wait.")
@call.as_json
def reset(
    targets: tuple[str, ...], labels: tuple[tuple[str, str], ...], everything: bool, timeout: float, as_json: bool
) -> int:
    """Clear what agents have failed at: a crash loop, a failed start. Those that are wanted start again."""
    args = {**call.selection(targets, labels, everything), "timeout": timeout}
    return acts.act("reset", args, timeout=timeout, as_json=as_json)
