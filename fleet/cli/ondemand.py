"""Starts the daemon where a command needs one: under its keeper, detached, with a bare environment."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO

import fleet
from fleet import client
from fleet.cli import output
from fleet.errors import DaemonBusy, FleetError, NoDaemon, NotAllowed
from fleet.settings import Places, Settings

BARE = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "TZ",
    "TMPDIR",
    "FLEET_HOME",
    "PYTHONPATH",
    "SLURM_CONF",
    "SSH_AUTH_SOCK",
)
BARE_PREFIXES = ("LC_", "XDG_")
ASK_EVERY = 0.05
ASK_AGAIN = 0.5


def ensure_daemon(targets: Sequence[str] = ()) -> None:
    """Return when a daemon answers; start one where there is none.

    Raise `InvalidManifest`, and start none, where a manifest among `targets` says what cannot be started, and
    `NoDaemon` with what its log says where none comes up.
    """
    if _answers():
        return
    from fleet import manifests
    from fleet.config import load_settings

    if files := [target for target in targets if "/" in target or target.endswith((".yaml", ".yml"))]:
        manifests.load_all(files)

    places = Places.of()
    timeout = load_settings(places).daemon_start_timeout
    deadline = time.monotonic() + timeout
    with _own(places.state / "starting.lock") as turn:
        while not _taken(turn):  # another command is starting one
            if _answers():
                return
            if time.monotonic() > deadline:
                raise NoDaemon(f"The daemon did not come up within {timeout:g} s.", hint=_last_words(places.log, 0))
            time.sleep(ASK_EVERY)
        if not _answers():
            _start(places, timeout, deadline)


def _start(places: Places, timeout: float, deadline: float) -> None:
    log_began = _size(places.log)
    keeper = _spawn_keeper(places)
    ended: int | None = None
    while time.monotonic() < deadline and ended in (None, DaemonBusy.exit_code):
        ended = keeper.poll()
        if _answers():
            return
        if ended == DaemonBusy.exit_code:  # one that is just leaving holds the lock
            time.sleep(ASK_AGAIN)
            keeper = _spawn_keeper(places)
        time.sleep(ASK_EVERY)
    keeper.terminate()  # nobody is to be surprised by a daemon that comes up later
    what = f"did not come up within {timeout:g} s" if ended is None else "could not be started"
    raise NoDaemon(f"The daemon {what}.", hint=_last_words(places.log, log_began))


def _taken(turn: IO[bytes]) -> bool:
    """Whether it is this command's turn to start one: one at a time, or each would be in the others' way."""
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _own(path: Path) -> IO[bytes]:
    """A file of the state folder, to append to."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
    except OSError as error:
        raise NotAllowed(
            f"{path.parent} cannot be written: {error.strerror}.",
            hint="Fleet keeps its state there; FLEET_HOME names another place.",
        ) from error


def _answers() -> bool:
    try:
        client.request("ping", {}, timeout=2.0)
    except FleetError:
        return False
    return True


def _spawn_keeper(places: Places) -> subprocess.Popen[bytes]:
    with _own(places.log) as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "fleet.keeper"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=bare_environment(),
            start_new_session=True,
        )


def bare_environment() -> dict[str, str]:
    """What a daemon needs and no more: it may be started from inside an agent, whose marks it must not carry."""
    settable = {f"FLEET_{field.name.upper()}" for field in fields(Settings)}
    env = {
        name: value
        for name, value in os.environ.items()
        if name in BARE or name in settable or name.startswith(BARE_PREFIXES)
    }
    root = str(Path(fleet.__file__).parent.parent)
    if "site-packages" not in root:
        env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
    if "FLEET_HOME" in env:
        env["FLEET_HOME"] = str(Path(env["FLEET_HOME"]).expanduser().absolute())
    return env


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _last_words(log: Path, began: int) -> str:
    """What was logged since, for a person who wonders why."""
    output_hint = f"Its log is {log}; `fleet doctor` says what stands in the way."
    try:
        with log.open("rb") as stream:
            stream.seek(began)
            lines = stream.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return output_hint
    return "\n  ".join([*map(output.printable, lines[-5:]), output_hint])
