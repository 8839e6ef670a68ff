"""`fleet members`: everybody who can be spoken to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from fleet.cli import hubreads, output, talk


@click.command()
@talk.as_json
@talk.on_hub
def members(where: talk.Where, as_json: bool) -> int:
    """List who is in the workspace: what each is, and how it is now."""
    return talk.read(where, hubreads.ask("members"), _show, as_json=as_json)


def _show(data: dict[str, Any]) -> None:
    found = data["members"]
    if not found:
        output.message("nobody is here")
        return
    output.table(
        ("NAME", "KIND", "PRESENCE", "MACHINE", "HARNESS", "CHANNELS", "ABOUT"),
        [
            (
                str(m["name"]),
                str(m.get("kind") or "-"),
                presence(m),
                str(m.get("machine") or "-"),
                " ".join(str(m[key]) for key in ("harness", "model") if m.get(key)) or "-",
                ", ".join(m.get("channels") or ()) or "-",
                str(m.get("description") or m.get("role") or "-"),
            )
            for m in found
        ],
    )


STYLES = {"online": "cyan", "busy": "green", "waiting": "bold magenta", "limited": "yellow", "offline": "dim"}


def presence(member: Mapping[str, Any]) -> output.Cell:
    """How a member is, in a word."""
    word = str(member.get("presence") or "-")
    return word, STYLES.get(word, "")
