"""`fleet attach`: into an agent's pane."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from fleet import client
from fleet.cli import call, output, reads
from fleet.errors import FleetError, Usage


@click.command()
@call.one
@click.option("--read-only", is_flag=True, help="Only watch: what is typed does not reach the agent (tmux).")
@click.option("--print", "only_print", is_flag=True, help="Print the command that opens the pane instead.")
def attach(target: str, read_only: bool, only_print: bool) -> int:
    """Go into an agent's pane. Ctrl-B D leaves it (tmux), Ctrl-A D (screen); the agent goes on."""
    args = {"target": target, "cwd": reads.here()}
    pane = client.request("pane", args, timeout=reads.request_timeout()).envelope()["data"]
    argv = _argv(pane, read_only)
    if only_print:
        import shlex

        output.result(shlex.join(argv))
        return 0
    _refuse_where_it_cannot_work(pane)
    env = {name: value for name, value in os.environ.items() if name not in ("TMUX", "TMUX_PANE", "STY", "WINDOW")}
    sys.stdout.flush()
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        raise FleetError(
            f"{argv[0]} cannot be run: {error.strerror}.", hint="`fleet doctor` says how to get it."
        ) from error


def _argv(pane: dict[str, Any], read_only: bool) -> list[str]:
    argv = [str(word) for word in pane["argv"]]
    if not read_only:
        return argv
    if pane["multiplexer"] != "tmux":
        raise Usage(
            f"{pane['multiplexer']} cannot attach read-only.", hint="`fleet logs NAME --screen` shows the pane."
        )
    return [*argv, "-r"]


def _terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _can_draw() -> bool:
    """Whether this machine knows the terminal, and it can be cleared: no multiplexer draws on less."""
    import curses

    try:
        curses.setupterm(os.environ.get("TERM") or "unknown", 1)
    except curses.error:
        return False
    return curses.tigetstr("clear") is not None


def _refuse_where_it_cannot_work(pane: dict[str, Any]) -> None:
    if not _terminal():
        raise Usage(
            "`fleet attach` needs a terminal.",
            hint="`fleet logs NAME --screen` shows the pane; `fleet attach NAME --print` the command that opens it.",
        )
    if not _can_draw():
        raise Usage(
            f"Nothing can be drawn on this terminal: TERM is {os.environ.get('TERM', '')!r}.",
            hint="Say which one it is, such as: TERM=xterm-256color fleet attach NAME",
        )
    inside = os.environ.get("TMUX", "").split(",")[0]
    if inside and Path(inside).resolve() == Path(pane["socket"]).resolve():
        raise Usage(
            "This terminal is itself a pane of the fleet; a pane cannot be shown inside its own tmux server.",
            hint="Leave it first (Ctrl-B D), or use another terminal.",
        )
