"""`fleet list`: who is there, by capability, machine or label."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import call, output, reads, words


@click.command("list")
@call.labels
@click.option("--capability", metavar="NAME", help="Agents that can do this.")
@click.option("--machine", metavar="HOST", help="Agents on this machine.")
@call.as_json
def list_(labels: tuple[tuple[str, str], ...], capability: str | None, machine: str | None, as_json: bool) -> int:
    """List agents by capability, machine or label."""
    verb, args = reads.ask("list", labels=dict(labels), capability=capability, machine=machine)
    return call.call(verb, args, _show, as_json=as_json)


def _show(data: dict[str, Any]) -> None:
    if not data["agents"]:
        output.message("no such agents")
        return
    output.table(("NAME", "STATE", "HARNESS", "RUNTIME", "CAPABILITIES", "LABELS"), map(_row, data["agents"]))


def _row(agent: words.Agent) -> list[output.Cell]:
    word = words.one_word(agent)
    return [
        str(agent.get("name")),
        (word, words.STYLES.get(word, "")),
        str(agent.get("harness") or "-"),
        str(agent.get("runtime") or "-"),
        " ".join(agent.get("capabilities") or ()),
        " ".join(f"{name}={value}" for name, value in (agent.get("labels") or {}).items()),
    ]
