"""`fleet init`: a first manifest, from a template."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fleet.cli import call, output
from fleet.errors import NotAllowed, Usage


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@click.option("-t", "--template", default="local", show_default=True, metavar="TEMPLATE", help="Which template.")
@click.option("--list", "listed", is_flag=True, help="List the templates.")
@call.as_json
def init(name: str | None, template: str, listed: bool, as_json: bool) -> int:
    """Write NAME.yaml from a template into this folder; an existing file is never overwritten.

    Without NAME it is called as the folder, or as the template where that declares several agents.
    """
    from fleet import templates
    from fleet.manifests import is_name

    if listed:
        return _list(as_json)
    text = templates.text(template)
    name = name or _name_here(template)
    if not is_name(name):
        raise Usage(f"{name!r} is no agent name.", hint="Lower-case letters, digits and inner hyphens, at most 63.")
    target = Path(f"{name}.yaml").absolute()
    _write(target, _schema_line() + templates.named(text, name))
    if as_json:
        output.envelope({"name": name, "template": template, "path": str(target)})
        return 0
    output.result(str(target))
    output.message(f"Read it, change it, then: fleet check {target.name} && fleet start {target.name}")
    return 0


def _list(as_json: bool) -> int:
    from fleet import templates

    rows = [(name, templates.purpose(name)) for name in templates.names()]
    if as_json:
        output.envelope({"templates": [{"name": name, "description": words} for name, words in rows]})
    else:
        output.table(("TEMPLATE", "FOR"), rows)
    return 0


def _name_here(template: str) -> str:
    from fleet import templates
    from fleet.manifests.model import nearest_name

    if len(templates.agents(template)) > 1:
        return template
    return nearest_name(Path.cwd().name) or template


def _write(target: Path, text: str) -> None:
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as e:
        raise NotAllowed(f"{target} exists already; nothing was written.", hint="Give another NAME.") from e


def _schema_line() -> str:
    """The line by which an editor finds the JSON Schema, which is written beside config.yaml."""
    from fleet.manifests.schema import json_schema
    from fleet.settings import Places

    path = Places.of().config / "manifest.schema.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(json_schema(), indent=1) + "\n", encoding="utf-8")
    part.rename(path)
    return f"# yaml-language-server: $schema={path}\n"
