"""`fleet who`: who is there now, and what they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from fleet.cli import hubreads, output, talk
from fleet.cli.members import presence


@click.command()
@click.argument("name", metavar="[NAME]", required=False, shell_complete=talk.complete_members)
@talk.as_json
@talk.on_hub
def who(where: talk.Where, name: str | None, as_json: bool) -> int:
    """Show who is there now and what they say they do, or one member with everything."""
    asked = hubreads.ask("who", [name] if name else [])
    return talk.read(where, asked, _one if name else _all, as_json=as_json)


def _all(data: dict[str, Any]) -> None:
    there = [m for m in data["members"] if m.get("presence") != "offline"]
    if not there:
        output.message("nobody is online; `fleet members` lists everybody")
        return
    output.table(
        ("NAME", "PRESENCE", "WAITING", "STATUS"),
        [(str(m["name"]), presence(m), str(m.get("waiting") or 0), _status(m.get("status"))) for m in there],
    )


def _status(status: Any) -> str:
    if isinstance(status, Mapping):
        return " · ".join(str(status[key]) for key in ("status", "task", "current_task") if status.get(key)) or "-"
    return str(status or "-")


def _one(data: dict[str, Any]) -> None:
    found = data.get("member", data)
    output.facts(
        (key.replace("_", " "), _plain(key, value))
        for key, value in found.items()
        if value not in (None, "", [], {}, False)
    )


def _plain(key: str, value: Any) -> str:
    if key == "channels" and isinstance(value, Mapping):
        return ", ".join(f"{name} ({hears})" for name, hears in value.items())
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {item}" for name, item in value.items() if item not in (None, ""))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
