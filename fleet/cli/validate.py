"""`fleet validate`: is this a manifest that fleet would start?"""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import call, output


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@call.as_json
def validate(paths: tuple[str, ...], as_json: bool) -> int:
    """Check manifests, or folders of them, for mistakes. Every mistake is told with its file, line and column."""
    from fleet import manifests

    loaded = manifests.agents_of([call.manifest(path) for path in paths])
    warned = [*map(str, loaded.warnings), *(warning for spec in loaded.specs for warning in manifests.later(spec))]
    if as_json:
        output.envelope({"agents": [_agent(spec) for spec in loaded.specs]}, warned)
        return 0
    output.warnings(warned)
    for spec in loaded.specs:
        output.result(f"{spec.name}: valid ({spec.harness}, {spec.runtime}; {spec.source})")
    return 0


def _agent(spec: Any) -> dict[str, Any]:
    """The agent as its manifest says it: values of variables stay in the file."""
    from fleet import manifests

    return {
        "name": spec.name,
        "source": spec.source,
        "harness": spec.harness,
        "runtime": spec.runtime,
        "labels": spec.labels,
        "capabilities": list(spec.capabilities),
        "secrets": list(spec.secret_names),
        "not_acting": manifests.not_acting(spec),
        "cannot_yet": manifests.cannot_yet(spec),
    }
