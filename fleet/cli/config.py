"""`fleet config`: the settings in force."""

from __future__ import annotations

import json
from typing import Any

import click

from fleet.cli import call, output


@click.group(invoke_without_command=True)
@click.pass_context
def config(context: click.Context) -> int | None:
    """Show the settings and where each comes from: a FLEET_ variable, config.yaml, or the default."""
    return context.invoke(show, as_json=False) if context.invoked_subcommand is None else None


@config.command()
@call.as_json
def show(as_json: bool) -> int:
    """Print every setting with its value and where it comes from."""
    from fleet.config import described, load
    from fleet.settings import Places

    places = Places.of()
    found = load(places)
    words = described()
    rows = [
        {
            "name": name,
            "value": getattr(found.settings, name),
            "from": origin,
            "variable": f"FLEET_{name.upper()}",
            "description": words.get(name),
        }
        for name, origin in found.origins.items()
    ]
    if as_json:
        output.envelope({"file": str(places.config_file), "settings": rows})
    else:
        output.table(("SETTING", "VALUE", "FROM", "IS"), [_row(row) for row in rows])
    return 0


def _row(row: dict[str, Any]) -> list[output.Cell]:
    value = row["value"] if isinstance(row["value"], str) else json.dumps(row["value"], default=str)
    return [row["name"], value, row["from"], row["description"] or ""]


@config.command()
@call.as_json
def path(as_json: bool) -> int:
    """Print where config.yaml and the fleet's other things are kept."""
    from fleet.settings import Places

    places = Places.of()
    found = {
        "config_file": str(places.config_file),
        "agents": str(places.agents),
        "screens": str(places.rules),
        "state": str(places.state),
        "run": str(places.run),
    }
    if as_json:
        output.envelope(found)
    else:
        output.facts(found.items())
    return 0
