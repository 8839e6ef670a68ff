"""`fleet schema`: the JSON Schema of a manifest."""

from __future__ import annotations

import json

import click

from fleet.cli import call, output


@click.command()
@call.as_json
def schema(as_json: bool) -> int:
    """Print the JSON Schema of a fleet/v1 manifest, for an editor that completes and checks."""
    from fleet.manifests.schema import json_schema

    if as_json:
        output.envelope(json_schema())
    else:
        output.result(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    return 0
