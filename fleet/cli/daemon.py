"""`fleet daemon`: the process that supervises. Agents live on without it."""

from __future__ import annotations

import os
import time
from typing import Any

import click

from fleet import client
from fleet.cli import call, ondemand, output, words
from fleet.errors import FleetError, NoDaemon, TimedOut

GONE_WITHIN = 30.0
"""How long a daemon may take to save its state and end."""
ASK_EVERY = 0.05


@click.group(invoke_without_command=True)
@click.pass_context
def daemon(ctx: click.Context) -> int | None:
    """Run the daemon in the foreground, as systemd wants it, or tell a running one what to do.

    Agents stay as they are through all of it; `fleet shutdown` is what stops them.
    """
    return None if ctx.invoked_subcommand else _run()


@daemon.command()
def run() -> int:
    """Run in the foreground until told to end; the same as `fleet daemon` alone."""
    return _run()


def _run() -> int:
    from fleet import daemon as program

    return program.main()


@daemon.command()
@call.as_json
def status(as_json: bool) -> int:
    """Show the daemon's pid, version and uptime."""
    return call.call("ping", {}, _show, as_json=as_json)


def _show(data: dict[str, Any]) -> None:
    output.facts(
        [
            ("pid", data.get("pid")),
            ("version", data.get("version")),
            ("uptime", words.duration(data.get("uptime_s"))),
            ("home", data.get("home")),
        ]
    )


@daemon.command()
@call.as_json
def stop(as_json: bool) -> int:
    """End the daemon; agents go on without it until it is started again."""
    before = running()
    code = call.call("daemon_stop", {}, lambda data: None, as_json=as_json)
    until_gone(before)
    if not as_json:
        output.message("the daemon has ended; the agents go on, unwatched")
    return code


@daemon.command()
@call.as_json
def restart(as_json: bool) -> int:
    """Start a new daemon in the old one's place, such as after an update; agents notice nothing."""
    try:
        before = running()
        client.request("daemon_stop", {}).envelope()
        until_gone(before)
    except NoDaemon:
        output.message("no daemon was running")
    ondemand.ensure_daemon()
    return call.call("ping", {}, _show, as_json=as_json)


def running() -> int:
    """The running daemon's pid."""
    pid = client.request("ping", {}).envelope()["data"]["pid"]
    assert isinstance(pid, int)
    return pid


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def until_gone(pid: int) -> None:
    """Return when that daemon has ended and let go of its files, or another has taken its place."""
    last = ""
    deadline = time.monotonic() + GONE_WITHIN
    while time.monotonic() < deadline:
        try:
            if running() != pid:
                return
        except NoDaemon:
            if not _lives(pid):
                return
        except FleetError as error:
            last = str(error)  # it is on its way out
        time.sleep(ASK_EVERY)
    raise TimedOut(
        f"The daemon (pid {pid}) has not ended within {GONE_WITHIN:g} s. {last}".rstrip(),
        hint="`fleet doctor` says more.",
    )
