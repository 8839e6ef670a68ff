"""`fleet health`: which agents are healthy, and why the others are not."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import call, output, reads, words

HEALTHY = {"True": ("yes", "green"), "False": ("no", "bold red")}


@click.command()
@call.some
@call.labels
@call.as_json
def health(targets: tuple[str, ...], labels: tuple[tuple[str, str], ...], as_json: bool) -> int:
    """Say which agents are healthy, and why the others are not. Exits 1 where one is not."""
    return call.call(*reads.ask("health", targets, labels=dict(labels)), _show, as_json=as_json)


def _show(data: dict[str, Any]) -> None:
    if not data["agents"]:
        output.message("no agents")
        return
    output.table(("NAME", "HEALTHY", "WHY"), map(_row, data["agents"]))


def _row(agent: dict[str, Any]) -> list[output.Cell]:
    return [str(agent.get("name")), HEALTHY.get(str(agent.get("healthy")), ("unknown", "dim")), _why(agent)]


def _why(agent: dict[str, Any]) -> str:
    """What it is instead of healthy."""
    if agent.get("healthy"):
        return "-"
    reason = ": ".join(str(agent[key]) for key in ("reason", "message") if agent.get(key))
    return " · ".join(filter(None, [words.one_word(agent), reason]))
