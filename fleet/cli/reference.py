"""docs/cli.md, drawn from `--help`: `python -m fleet.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from fleet.cli import app

WIDTH = 96

OPENING = """\
# The command line

Drawn from `fleet --help` by `python -m fleet.cli.reference`; a test compares.

- Results go to stdout, messages to stderr. `--json` prints `{schema_version, generated_at, data, warnings}`, or
  `{error: {code, message, hint}}`, on stdout. Fields are added, never renamed.
- An agent is named by its name or by its manifest's path; several also by `-l NAME=VALUE` or `--all`.
- Colours appear on a terminal only, and never with `NO_COLOR`. Output that a program reads is never cut or folded.
- Every wait has a time-out. `--help` never acts.

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed, or refused; for `diff`: there are differences |
| 2 | the command's words, a setting or a manifest are not valid; nothing was done |
| 3 | no agent, member, message or conversation by that name |
| 4 | it waits for something, or it did not happen in time |
| 5 | done, but nothing proves it |
| 7 | done, but a dialog waits for a person |
| 69 | the daemon is needed and not running |
| 130, 141 | Ctrl-C; the reader of the output has left |
"""


def reference() -> str:
    """The whole page."""
    settings = {**app.fleet.context_settings, "max_content_width": WIDTH, "terminal_width": WIDTH}
    context = click.Context(app.fleet, info_name="fleet", **settings)
    parts = [OPENING]
    for title, commands in app.SECTIONS.items():
        parts.append(f"## {title}\n")
        for name in commands:
            command = app.fleet.get_command(context, name)
            assert command is not None
            parts += _pages(command, context, name, 3)
    return "\n".join(parts)


def _pages(command: click.Command, parent: click.Context, name: str, depth: int) -> Iterator[str]:
    """A command's page, and those of its subcommands."""
    context = click.Context(command, info_name=name, parent=parent)
    yield f"{'#' * depth} `{context.command_path}`\n"
    yield f"```\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            inner = command.get_command(context, sub)
            assert inner is not None
            yield from _pages(inner, context, sub, depth + 1)


if __name__ == "__main__":
    print(reference(), end="")
