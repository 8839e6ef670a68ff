"""`fleet logs`: what an agent has put out; kept after its end."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import call, follow, output, reads


@click.command()
@call.one
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=reads.LOG_LINES, show_default=True, help="The newest N lines."
)
@click.option("-f", "--follow", "go_on", is_flag=True, help="Go on as lines come; with --json, one object each.")
@click.option("--screen", is_flag=True, help="The screen as it is, or was at the end, instead of the log.")
@call.as_json
def logs(target: str, lines: int, go_on: bool, screen: bool, as_json: bool) -> int:
    """Show what an agent has put out, also after its end."""
    verb, args = reads.ask("logs", [target], lines=lines)
    args["lines"] = lines
    if go_on:
        show = _line_as_json if as_json else output.result
        return follow.follow(verb, args, "line", show, again={"lines": 0})
    return call.call(verb, args, _show_screen if screen else _show, as_json=as_json)


def _show(data: dict[str, Any]) -> None:
    """The lines; the screen where there are none."""
    for line in data.get("lines") or ():
        output.result(str(line))
    if not data.get("lines"):
        _show_screen(data)


def _show_screen(data: dict[str, Any]) -> None:
    if data.get("screen"):
        output.result(data["screen"].rstrip("\n"))
    else:
        output.message(f"{data['name']} has put out nothing that was kept")


def _line_as_json(line: object) -> None:
    output.as_json({"line": line})
