"""`fleet init`: a first manifest, from a template or from what a project says of itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from fleet.cli import call, output
from fleet.errors import NotAllowed, Usage


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@click.option("-t", "--template", default="local", show_default=True, metavar="TEMPLATE", help="Which template.")
@click.option("--list", "listed", is_flag=True, help="List the templates.")
@click.option(
    "--from", "project", metavar="DIR", type=click.Path(path_type=Path), help="A headless agent for the project there."
)
@click.option("--yes", is_flag=True, help="With --from: write it without asking.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@call.as_json
@click.pass_context
def init(
    context: click.Context,
    name: str | None,
    template: str,
    listed: bool,
    project: Path | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Write NAME.yaml from a template into this folder; an existing file is never overwritten.

    Without NAME it is called as the folder, or as the template where that declares several agents.

    With --from DIR it is an agent that answers for the project in DIR, one turn for each message, and changes nothing
    there. Its name, description and capabilities are what the project says of itself: they are shown, and you are
    asked.
    """
    if listed:
        return _list(as_json)
    if project is not None:
        if context.get_parameter_source("template") is click.core.ParameterSource.COMMANDLINE:
            raise Usage("--from and --template are two beginnings; keep one.")
        return _from_project(name, project, yes, dry_run, as_json)
    from fleet import templates

    text = templates.text(template)
    name = _checked(name or _name_here(template))
    text = templates.named(text, name)
    target = Path(f"{name}.yaml").absolute()
    if not dry_run:
        _write(target, _schema_line() + text)
    if as_json:
        output.envelope({"name": name, "template": template, "path": str(target), "written": not dry_run})
        return 0
    output.result(text.rstrip() if dry_run else str(target))
    if not dry_run:
        output.message(f"Read it, change it, then: fleet check {target.name} && fleet start {target.name}")
    return 0


def _from_project(name: str | None, folder: Path, yes: bool, dry_run: bool, as_json: bool) -> int:
    from fleet.manifests import project, writer

    try:
        found = project.read(folder)
    except NotADirectoryError as error:
        raise Usage(f"{folder} is no folder.", hint="--from names the folder of a project.") from error
    spec = found.agent(_checked(name) if name else None)
    text = writer.to_yaml([spec])
    target = Path(f"{spec.name}.yaml").absolute()
    if not dry_run:
        _refuse_to_overwrite(target)
        if not yes:
            _ask(text, target, found.sources, as_json)
        _write(target, _schema_line() + text)
    if as_json:
        said = {"name": spec.name, "description": spec.description, "capabilities": list(spec.capabilities)}
        about = {"project": str(found.folder), "path": str(target), "written": not dry_run}
        output.envelope({**said, **about, "sources": dict(found.sources), "manifest": text})
        return 0
    output.result(text.rstrip() if dry_run else str(target))
    if not dry_run:
        output.message(f"Read it, change it, then: fleet check {target.name} && fleet start {target.name}")
    return 0


def _ask(text: str, target: Path, sources: Mapping[str, str], as_json: bool) -> None:
    """Show it, and have the person say yes: what a project says of itself is others' word."""
    if as_json or not _at_terminal():
        raise Usage(
            f"Nobody can be asked whether {target.name} is right.",
            hint="--dry-run prints it; --yes writes it without asking.",
        )
    click.echo(output.printable(text), err=True)
    for what, source in sources.items():
        output.message(f"{what}: from {source}")
    click.confirm(f"Write {target}?", abort=True, err=True)


def _checked(name: str) -> str:
    from fleet.manifests import is_name

    if not is_name(name):
        raise Usage(f"{name!r} is no agent name.", hint="Lower-case letters, digits and inner hyphens, at most 63.")
    return name


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
        raise _exists(target) from e


def _refuse_to_overwrite(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise _exists(target)


def _exists(target: Path) -> NotAllowed:
    return NotAllowed(f"{target} exists already; nothing was written.", hint="Give another NAME.")


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


def _at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
