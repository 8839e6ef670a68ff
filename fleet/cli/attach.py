"""`fleet attach`: into an agent's pane."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from fleet import client
from fleet.cli import call, output, reads
from fleet.errors import FleetError, HostUnreachable, Usage

SSH_FAILED = 255
"""What ssh ends with where it is not the command there that has ended."""
AS_FOUND = (
    "\x1b7\x1b[?1049l"  # the cursor where it is, unless another screen was up
    "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l"
    "\x1b[?1l\x1b>\x1b[?25h\x1b[0m\r\n"
)
"""Puts right what tmux leaves set in a terminal from which it is cut off: its own screen, the mouse, focus and pastes
that are told of, the keypad, a cursor that is hidden, colours."""


@click.command()
@call.one
@click.option("--read-only", is_flag=True, help="Only watch: what is typed does not reach the agent (tmux).")
@click.option("--print", "only_print", is_flag=True, help="Print the command that opens the pane instead.")
def attach(target: str, read_only: bool, only_print: bool) -> int:
    """Go into an agent's pane. Ctrl-B D leaves it (tmux), Ctrl-A D (screen); the agent goes on."""
    args = {"target": target, "cwd": reads.here(), "read_only": read_only}
    pane = client.request("pane", args, timeout=reads.request_timeout()).envelope()["data"]
    argv = [str(word) for word in pane["argv"]]
    if read_only and not pane.get("read_only"):
        raise Usage("This daemon is older and cannot attach read-only.", hint="`fleet daemon restart` changes it.")
    if only_print:
        import shlex

        output.result(shlex.join(argv))
        return 0
    _refuse_where_it_cannot_work(pane)
    env = {name: value for name, value in os.environ.items() if name not in ("TMUX", "TMUX_PANE", "STY", "WINDOW")}
    sys.stdout.flush()
    try:
        if argv[0] == "ssh":
            return _over_ssh(argv, env, target)
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        raise FleetError(
            f"{argv[0]} cannot be run: {error.strerror}.", hint="`fleet doctor` says how to get it."
        ) from error


def _over_ssh(argv: list[str], env: dict[str, str], target: str) -> int:
    """The pane on another machine. Where its end came by a cut, nobody over there could put the terminal right."""
    import subprocess
    import termios

    before = termios.tcgetattr(sys.stdin)
    process = subprocess.Popen(argv, env=env)
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:  # it was ssh's to answer
            continue
    if status == 0:
        return 0
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
    sys.stdout.write(AS_FOUND)
    sys.stdout.flush()
    if status == SSH_FAILED:
        raise HostUnreachable(
            f"The way to the pane of {target} was cut, or could not be had; the agent goes on without it.",
            hint=f"`fleet status {target}` says how its host stands; `fleet attach {target}` goes in again.",
        )
    return 128 - status if status < 0 else FleetError.exit_code


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
