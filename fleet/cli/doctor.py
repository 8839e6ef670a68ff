"""`fleet doctor`: look for what stands in fleet's way. It works without a daemon, and changes nothing."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from fleet import __version__, client
from fleet.cli import call, output
from fleet.errors import FleetError, NoDaemon
from fleet.settings import Places

OK, WARN, FAIL = "ok", "warn", "fail"
STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}

PYTHON = (3, 11)
SQLITE = (3, 37)
"""STRICT tables."""
TMUX = (3, 2)
LITTLE_SPACE, NO_SPACE = 1 << 30, 100 << 20
"""Bytes free."""
PROGRAM_ANSWERS_WITHIN = 15.0
LEFT = "fleet leaves; its agents go on"
"""How the log of a daemon ends that was asked to end."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: how it is, and what to do about it."""

    name: str
    status: str
    message: str
    remedy: str | None = None


@click.command()
@call.as_json
def doctor(as_json: bool) -> int:
    """Look for what stands in fleet's way, with a remedy for each. Exits 1 where something does."""
    findings = examine(Places.of())
    if as_json:
        output.envelope({"checks": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
    return 1 if any(finding.status == FAIL for finding in findings) else 0


def _show(findings: list[Finding]) -> None:
    output.table(
        ("CHECK", "STATUS", "FOUND"),
        [[found.name, (found.status, STYLES[found.status]), found.message] for found in findings],
    )
    for found in findings:
        if found.remedy and found.status != OK:
            output.message(f"{found.name}: {found.remedy}")


def examine(places: Places) -> list[Finding]:
    """Every finding; a check that breaks is itself one."""
    return [found for check in CHECKS for found in _safely(check, places)]


def _safely(check: Callable[[Places], Iterator[Finding]], places: Places) -> Iterator[Finding]:
    try:
        yield from check(places)
    except (FleetError, OSError, ValueError, subprocess.SubprocessError) as error:
        yield Finding(check.__name__.strip("_"), WARN, f"could not be looked at: {error}")


# -- the machine -------------------------------------------------------------------------------------------------


def python(places: Places) -> Iterator[Finding]:
    """The interpreter and the SQLite that it brings."""
    from fleet.hub.log import wal_reset_bug

    found = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info[:2] >= PYTHON
    yield Finding("python", OK if fine else FAIL, f"{found} ({sys.executable})", "fleet needs Python 3.11 or later.")
    fine = sqlite3.sqlite_version_info >= SQLITE
    told = (fine and wal_reset_bug(sqlite3.sqlite_version_info)) or sqlite3.sqlite_version
    yield Finding("sqlite", OK if fine else FAIL, told, "Use a Python whose sqlite3 module is 3.37 or later.")


def multiplexers(places: Places) -> Iterator[Finding]:
    """tmux, which fleet needs, and screen, which it can use."""
    said = _said("tmux", "-V")
    found = re.search(r"(\d+)\.(\d+)", said or "")
    how = "Install it: `sudo apt-get install tmux`, `brew install tmux`, or `make setup`."
    if said is None:
        yield Finding("tmux", FAIL, "not found", how)
    elif found and (int(found[1]), int(found[2])) < TMUX:
        yield Finding("tmux", FAIL, f"{said} is too old", f"fleet needs tmux {TMUX[0]}.{TMUX[1]} or later.")
    else:
        yield Finding("tmux", OK, said)
    said = _said("screen", "-v")
    yield Finding("screen", OK, said or "not found; only agents with `multiplexer: screen` need it")


def claude_code(places: Places) -> Iterator[Finding]:
    """The program that most manifests start."""
    path = shutil.which("claude")
    if path is None:
        yield Finding(
            "claude code",
            WARN,
            "`claude` is not on the PATH",
            "Agents with `harness: claude-code` need it, or `command: [PATH]` in their manifest. "
            "`npm install -g @anthropic-ai/claude-code` installs it.",
        )
        return
    said = _said(path, "--version")
    if said:
        yield Finding("claude code", OK, f"{said} ({path})")
    else:
        yield Finding("claude code", WARN, f"{path} does not tell its version", f"Run `{path} --version` to see why.")


def _said(*argv: str) -> str | None:
    """The first line that a program prints; `None` where it cannot be run."""
    if shutil.which(argv[0]) is None:
        return None
    ran = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PROGRAM_ANSWERS_WITHIN,
        check=False,
        errors="replace",
    )
    lines = (ran.stdout or ran.stderr).strip().splitlines()
    return lines[0].strip() if lines else None


# -- the places --------------------------------------------------------------------------------------------------


def folders(places: Places) -> Iterator[Finding]:
    """Folders and sockets are ours, and nobody else's to read."""
    for name, folder in (("state folder", places.state), ("socket folder", places.run)):
        yield _folder(name, folder)
    if places.control.exists():
        mode = stat.S_IMODE(places.control.stat().st_mode)
        loose = mode & 0o077
        remedy = f"`chmod 600 {places.control}`"
        yield Finding("control socket", FAIL if loose else OK, f"{places.control} ({mode:04o})", remedy)


def _folder(name: str, folder: Path) -> Finding:
    if not folder.exists():
        above = next(parent for parent in folder.parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            return Finding(name, FAIL, f"{folder} cannot be made in {above}", "Set FLEET_HOME to a folder of yours.")
        return Finding(name, OK, f"{folder} (made by the first start)")
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.getuid():
        remedy = f"`sudo chown -R $(id -un) {folder}`, or set FLEET_HOME to a folder of yours."
        return Finding(name, FAIL, f"{folder} belongs to uid {found.st_uid}", remedy)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(name, FAIL, f"{folder} cannot be written", f"`chmod u+rwx {folder}`")
    if mode & 0o077:
        return Finding(name, WARN, f"{folder} is open to others ({mode:04o})", f"`chmod 700 {folder}`")
    return Finding(name, OK, f"{folder} ({mode:04o})")


def file_system(places: Places) -> Iterator[Finding]:
    """The database stands on a disk of this machine, with space left."""
    from fleet.db import refuse_network_filesystem

    folder = next(path for path in (places.state, *places.state.parents) if path.exists())
    try:
        refuse_network_filesystem(folder)
        yield Finding("file system", OK, "on this machine")
    except FleetError as error:
        yield Finding("file system", FAIL, str(error), error.hint)
    free = shutil.disk_usage(folder).free
    status = FAIL if free < NO_SPACE else WARN if free < LITTLE_SPACE else OK
    remedy = "Make room: `fleet cleanup` removes what no agent needs."
    yield Finding("disk space", status, f"{free / (1 << 30):.1f} GiB free in {folder}", remedy)


def settings(places: Places) -> Iterator[Finding]:
    """config.yaml and the FLEET_ variables."""
    from fleet import config

    try:
        config.load_settings(places)
    except FleetError as error:
        yield Finding("settings", FAIL, str(error), error.hint or "`fleet config show` prints what is in force.")
    else:
        there = places.config_file.exists()
        yield Finding("settings", OK, str(places.config_file) if there else "the defaults: there is no config.yaml")


# -- the daemon --------------------------------------------------------------------------------------------------


def daemon(places: Places) -> Iterator[Finding]:
    """Whether it answers, is of this version, and comes back by itself."""
    try:
        data = client.request("ping", {}, timeout=5.0).envelope()["data"]
    except NoDaemon:
        yield _no_daemon(places)
        return
    except FleetError as error:
        yield Finding("daemon", FAIL, str(error), f"`kill PID` of the one that {places.lock} names; agents go on.")
        return
    yield Finding("daemon", OK, f"pid {data['pid']}, version {data['version']}")
    if data["version"] != __version__:
        yield Finding(
            "version", WARN, f"this is fleet {__version__}, the daemon {data['version']}", "`fleet daemon restart`"
        )
    yield _kept(int(data["pid"]))
    problems = data.get("problems", ())
    remedy = f"It is tried again; {places.log} has more."
    yield from (Finding("hub", WARN, problem, remedy) for problem in problems)
    if not problems:
        yield Finding("hub", OK, "no problem is known of")


def _no_daemon(places: Places) -> Finding:
    if places.control.exists():
        return Finding("daemon", WARN, f"not running; its socket is left over ({places.control})", "`fleet start`")
    words = _last_words(places.log)
    if words and not words.endswith(LEFT):
        return Finding("daemon", WARN, f"not running; its last words: {words}", f"{places.log} has more.")
    return Finding("daemon", OK, "not running; `fleet start` starts it")


def _last_words(log: Path) -> str:
    """The log's last line."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _kept(pid: int) -> Finding:
    """Who starts the daemon again after a crash: the process above it."""
    from fleet import processes

    rows = processes.table()
    parent = rows[pid].parent if pid in rows else 0
    words = _command(parent)
    if "fleet.keeper" in words:
        return Finding("keeper", OK, f"pid {parent}")
    if words and Path(words[0]).name == "systemd":
        return Finding("keeper", OK, "systemd")
    return Finding(
        "keeper",
        WARN,
        "nobody starts this daemon again if it dies",
        "`fleet daemon restart` puts it under its keeper, unless it runs in the foreground on purpose.",
    )


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def logind(places: Places) -> Iterator[Finding]:
    """Whether the end of the login ends the agents."""
    conf = Path("/etc/systemd/logind.conf")
    if conf.exists() and re.search(r"^\s*KillUserProcesses\s*=\s*(yes|true|1)", conf.read_text(), re.M | re.I):
        lingers = Path("/var/lib/systemd/linger", pwd.getpwuid(os.getuid()).pw_name).exists()
        status = OK if lingers else WARN
        yield Finding("logout", status, "this machine ends processes at logout", "`loginctl enable-linger`")


def leftovers(places: Places) -> Iterator[Finding]:
    """Processes of launches that have been followed by another."""
    from fleet import processes

    newest = {folder.parent.name: _newest(folder) for folder in places.state.glob("agents/*/launch")}
    old = {
        generation.name
        for name in newest
        for generation in (places.agent(name) / "launch").iterdir()
        if generation.name != newest[name]
    }
    found = sorted(p.pid for p, mark in processes.marks(processes.table()).items() if mark in old)
    if found:
        pids = ", ".join(map(str, found))
        yield Finding("leftovers", WARN, f"processes of earlier launches live: {pids}", "`fleet cleanup` ends them.")
    else:
        yield Finding("leftovers", OK, "no process of an earlier launch lives")


def _newest(launches: Path) -> str | None:
    """The newest generation (`NAME.COUNT.LOT`) in an agent's folder of launches."""
    counted = [(int(parts[1]), path.name) for path in launches.iterdir() if len(parts := path.name.split(".")) == 3]
    return max(counted)[1] if counted else None


CHECKS: tuple[Callable[[Places], Iterator[Finding]], ...] = (
    python,
    multiplexers,
    claude_code,
    folders,
    file_system,
    settings,
    daemon,
    logind,
    leftovers,
)
