"""`fleet receipt`: a message, and where it stands with each of its recipients."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import conversation, hubreads, standing, talk


@click.command()
@click.argument("message", metavar="ID")
@talk.as_json
@talk.on_hub
def receipt(where: talk.Where, message: str, as_json: bool) -> int:
    """Show a message and where it stands with each recipient now: delivered and by which proof, or why it waits."""
    return talk.read(where, hubreads.ask("receipt", [message]), _show, as_json=as_json)


def _show(data: dict[str, Any]) -> None:
    conversation.show([data])
    if data.get("recipients"):
        standing.show(data["recipients"])
