"""`fleet doctor` finds what stands in the way, says what to do, and works without a daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.cli import doctor
from fleet.cli.doctor import FAIL, OK, WARN, Finding
from fleet.settings import Places
from tests.unit.cli_fixtures import Shell, daemon, fleet, place
from tests.unit.scripted_daemon import ScriptedDaemon

__all__ = ["daemon", "fleet", "place"]


def found(name: str) -> Finding:
    """What the doctor says of it in the test's home."""
    findings = {each.name: each for each in doctor.examine(Places.of())}
    assert name in findings, list(findings)
    return findings[name]


def program(folder: Path, name: str, says: str) -> None:
    """A program that prints this."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def path(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but sh."""
    folder = place / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_json_has_every_check_with_its_remedy(fleet: Shell, path: Path) -> None:
    ran = fleet("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(ran.out)["data"]["checks"]}
    assert checks["python"]["status"] == OK
    assert checks["tmux"]["status"] == FAIL
    assert "install" in checks["tmux"]["remedy"]
    assert ran.code == 1


def test_it_exits_0_where_nothing_stands_in_the_way(fleet: Shell, path: Path) -> None:
    program(path, "tmux", "tmux 3.3a")
    ran = fleet("doctor")
    assert ran.code == 0
    assert ran.out.splitlines()[0].split() == ["CHECK", "STATUS", "FOUND"]


@pytest.mark.parametrize(("version", "named"), [((3, 40, 1), True), ((3, 51, 3), False)])
def test_an_sqlite_with_the_wal_reset_bug_is_told_by_name_and_stops_nobody(
    place: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], named: bool
) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", version)
    said = found("sqlite")
    assert said.status == OK
    assert ("SQLite 3.40.1 has the WAL-reset bug" in said.message) is named


@pytest.mark.parametrize(
    ("says", "status"),
    [("tmux 3.3a", OK), ("tmux 3.2", OK), ("tmux next-3.6", OK), ("tmux 2.9", FAIL), ("tmux master", OK)],
)
def test_a_tmux_that_is_too_old_is_told(path: Path, says: str, status: str) -> None:
    program(path, "tmux", says)
    assert found("tmux").status == status


def test_a_missing_screen_or_claude_stops_nobody(path: Path) -> None:
    assert found("screen").status == OK
    assert found("claude code").status == WARN
    program(path, "claude", "2.1.329 (Claude Code)")
    assert found("claude code") == Finding("claude code", OK, f"2.1.329 (Claude Code) ({path}/claude)")


def test_folders_that_others_can_read_are_told(place: Path) -> None:
    state = place / "state"
    assert found("state folder").status == OK
    state.mkdir(mode=0o700)
    assert found("state folder").status == OK
    state.chmod(0o755)
    assert found("state folder").status == WARN
    assert "chmod 700" in str(found("state folder").remedy)


def test_a_folder_that_cannot_be_made_is_told(place: Path) -> None:
    (place / "file").write_text("")
    (found,) = (f for f in doctor.folders(Places.of({"FLEET_HOME": str(place / "file")})) if f.name == "state folder")
    assert (found.status, found.message) == (FAIL, f"{place}/file/state cannot be made in {place}/file")


def test_another_users_folder_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "state").mkdir(mode=0o700)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    assert found("state folder").status == FAIL


def test_a_full_disk_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    for free, status in ((50 << 20, FAIL), (500 << 20, WARN), (5 << 30, OK)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: usage(1 << 40, 0, free))
        assert found("disk space").status == status


def test_settings_that_are_not_valid_are_told(place: Path) -> None:
    assert found("settings").status == OK
    (place / "config.yaml").write_text("observe_intervall: 1\n")
    assert found("settings").status == FAIL


def test_no_daemon_is_no_fault_and_a_left_over_socket_is_told(place: Path) -> None:
    assert found("daemon").status == OK
    (place / "run").mkdir()
    (place / "run" / "control.sock").touch(mode=0o600)
    assert found("daemon").status == WARN


def test_the_last_words_of_a_daemon_that_was_not_asked_to_end_are_told(place: Path) -> None:
    log = place / "state" / "daemon.log"
    log.parent.mkdir(mode=0o700)
    log.write_text("12:00 INFO fleet: fleet leaves; its agents go on\n")
    assert found("daemon").status == OK
    log.write_text("Traceback\nsqlite3.DatabaseError: file is not a database\n")
    assert found("daemon").status == WARN
    assert "file is not a database" in found("daemon").message


def test_a_daemon_of_another_version_and_without_a_keeper_is_told(daemon: ScriptedDaemon) -> None:
    daemon.will("ping", {"pid": os.getpid(), "version": "0.0.1", "uptime_s": 1})
    assert found("daemon").status == OK
    assert found("version").remedy == "`fleet daemon restart`"
    assert found("keeper").status == WARN


def test_a_daemon_that_fails_is_told_with_how_to_go_on(daemon: ScriptedDaemon) -> None:
    daemon.will_refuse("ping", "internal_error", "The daemon failed at this.")
    assert found("daemon").status == FAIL


@pytest.fixture
def old_process(place: Path) -> Iterator[int]:
    """A process of the first of an agent's two launches."""
    for generation in ("web.9.aaaa", "web.10.bbbb"):
        (place / "state" / "agents" / "web" / "launch" / generation).mkdir(parents=True)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, env={**os.environ, "FLEET_GENERATION": "web.9.aaaa"}) as old:
        yield old.pid
        old.communicate()


def test_processes_of_an_earlier_launch_are_told(place: Path, old_process: int) -> None:
    leftovers = found("leftovers")
    assert leftovers.status == WARN
    assert leftovers.message.endswith(f" {old_process}")
    shutil.rmtree(place / "state" / "agents" / "web" / "launch" / "web.10.bbbb")
    assert found("leftovers").status == OK  # now it is the newest


def test_a_check_that_cannot_be_made_is_a_finding_not_a_traceback(place: Path) -> None:
    def broken(places: Places) -> Iterator[Finding]:
        raise PermissionError("no")
        yield

    assert list(doctor._safely(broken, Places.of())) == [Finding("broken", WARN, "could not be looked at: no")]
