"""`fleet convert`: a manifest in the form of fleet/v1."""

from __future__ import annotations

import click

from fleet.cli import call, output


@click.command()
@click.argument("path", metavar="FILE", type=click.Path())
@call.as_json
def convert(path: str, as_json: bool) -> int:
    """Print a manifest of an older format as fleet/v1. The file itself stays as it is.

    What has no meaning in fleet/v1 is told on stderr, with the reason. Comments are not kept.
    """
    from fleet import manifests
    from fleet.manifests.writer import to_yaml

    loaded = manifests.load(call.manifest(path))
    text = to_yaml(loaded.specs)
    if as_json:
        documents = [spec.to_manifest() for spec in loaded.specs]
        output.envelope({"yaml": text, "documents": documents}, [*map(str, loaded.warnings)])
        return 0
    output.warnings(map(str, loaded.warnings))
    output.result(text.rstrip("\n"))
    return 0
