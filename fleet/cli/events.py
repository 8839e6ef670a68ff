"""`fleet events`: what has happened, oldest first."""

from __future__ import annotations

import json
from typing import Any

import click

from fleet.cli import call, follow, output, reads, words
from fleet.errors import Usage


@click.command()
@click.argument("target", metavar="[NAME]", required=False, shell_complete=call.complete_agents)
@click.option("--agent", metavar="NAME", shell_complete=call.complete_agents, help="The same as NAME.")
@click.option("--type", metavar="TYPE", help="Only events of this type, such as hook.")
@click.option("--after", type=click.IntRange(min=0), metavar="ID", help="Only what came after this event.")
@click.option("-n", "--limit", type=click.IntRange(min=0), metavar="N", help="Only the newest N.")
@click.option("-f", "--follow", "go_on", is_flag=True, help="Go on as events happen; with --json, one line each.")
@call.as_json
def events(target: str | None, agent: str | None, go_on: bool, as_json: bool, **which: Any) -> int:
    """List what has happened: hooks, phases, decisions; oldest first, each with its payload in JSON."""
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
    payload = event.get("payload")
    told = json.dumps(payload, ensure_ascii=False) if payload else ""
    told = told if len(told) <= 160 else f"{told[:159]}…"
    parts = [words.clock_time(event.get("at")), event.get("agent"), event.get("type"), event.get("name"), told]
    output.result("  ".join(str(part) for part in parts if part).replace("\n", " "))
