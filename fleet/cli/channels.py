"""`fleet channels`: the channels and who hears them."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import hubreads, output, talk


@click.command()
@talk.as_json
@talk.on_hub
def channels(where: talk.Where, as_json: bool) -> int:
    """List the channels and who is in them."""
    return talk.read(where, hubreads.ask("channels"), _show, as_json=as_json)


def _show(data: dict[str, Any]) -> None:
    found = data["channels"]
    if not found:
        output.message("no channels yet: `fleet join '#general'` makes one")
        return
    output.table(
        ("CHANNEL", "COUNT", "MEMBERS"),
        [(str(c["name"]), str(len(c.get("members") or ())), ", ".join(_members(c.get("members")))) for c in found],
    )


def _members(members: Any) -> list[str]:
    """Their names, with what they want of the channel where that is not all."""
    if not isinstance(members, dict):
        return [str(name) for name in members or ()]
    return [name if hears in ("all", None) else f"{name} ({hears})" for name, hears in members.items()]
