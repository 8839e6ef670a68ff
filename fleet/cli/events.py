"""`fleet events`: what has happened, oldest first."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import click

from fleet.cli import call, follow, output, reads, words
from fleet.errors import Usage

MOST = 160
"""The most that is shown of what an event says, in characters."""


@click.command()
@click.argument("target", metavar="[NAME]", required=False, shell_complete=call.complete_agents)
@click.option("--agent", metavar="NAME", shell_complete=call.complete_agents, help="The same as NAME.")
@click.option("--type", metavar="TYPE", help="Only events of this type, such as hook.")
@click.option("--after", type=click.IntRange(min=0), metavar="ID", help="Only what came after this event.")
@click.option("-n", "--limit", type=click.IntRange(min=0), metavar="N", help="Only the newest N.")
@click.option("-f", "--follow", "go_on", is_flag=True, help="Go on as events happen; with --json, one line each.")
@call.as_json
def events(target: str | None, agent: str | None, go_on: bool, as_json: bool, **which: Any) -> int:
    """List what has happened: hooks, phases, decisions; oldest first. `--json` has each with its whole payload."""
    if target and agent:
        raise Usage("The agent is named twice.", hint="Leave out `--agent`.")
    verb, args = reads.ask("events", agent=target or agent, **which)
    if go_on:
        return follow.follow(verb, args, "event", output.as_json if as_json else _line, position=("after", "id"))
    return call.call(verb, args, _show, as_json=as_json)


def _show(data: dict[str, Any]) -> None:
    if not data["events"]:
        output.message("no events")
    for event in data["events"]:
        _line(event)


def _line(event: dict[str, Any]) -> None:
    """One event, one line."""
    told = _told(str(event.get("type")), event.get("payload") or {})
    told = told if len(told) <= MOST else f"{told[: MOST - 1]}…"
    parts = [words.clock_time(event.get("at")), event.get("agent"), event.get("type"), event.get("name"), told]
    output.result("  ".join(str(part) for part in parts if part).replace("\n", " "))


def _told(kind: str, payload: Mapping[str, Any]) -> str:
    """What an event says, in words where fleet itself wrote it."""
    facts = {name: value for name, value in payload.items() if value is not None}
    match kind, facts:
        case "phase", {"from": _}:
            return ": ".join(str(facts[name]) for name in ("reason", "message") if name in facts)
        case "activity", {"from": _}:
            asks = facts.get("question") or facts.get("kind")
            return " · ".join(str(part) for part in (asks, facts.get("source"), facts.get("evidence")) if part)
        case "exit", {"exit_status": status}:
            ran = f", after {words.duration(facts['after_s'])}" if "after_s" in facts else ""
            return f"status {status}{ran}{', while nobody looked' if facts.get('unseen') else ''}"
        case "launch", {"argv": [*argv]}:
            return " ".join(shlex.join(map(str, argv)).split())
    return json.dumps(facts, ensure_ascii=False) if facts else ""
