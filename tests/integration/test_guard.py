"""What looks after the tests themselves: a process that a test leaves behind is found and ended, others are not."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.homes import Home, end_all, left_behind

pytestmark = pytest.mark.real

LISTEN = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(600)"
WAYS = ("environment", "folder", "argument", "socket")


def start(way: str, home: Home) -> subprocess.Popen[bytes]:
    """A process that can be told to belong to this home in one way only."""
    match way:
        case "environment":
            return subprocess.Popen(["/bin/sleep", "600"], env=home.env, cwd="/", start_new_session=True)
        case "folder":
            return subprocess.Popen(["/bin/sleep", "600"], env={}, cwd=home.work, start_new_session=True)
        case "argument":
            return subprocess.Popen(["/bin/sh", "-c", "sleep 600; :", str(home.work)], env={}, cwd="/")
        case _:
            argv = [sys.executable, "-c", LISTEN, "run/s"]
            process = subprocess.Popen(argv, env={}, cwd=home.path)
            connect(home.path / "run" / "s", process)
            return process


def connect(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until something listens there."""
    while process.poll() is None:
        with socket.socket(socket.AF_UNIX) as client:
            if path.exists() and client.connect_ex(str(path)) == 0:
                return


@pytest.mark.parametrize("way", WAYS)
def test_what_a_test_leaves_behind_is_found_and_ended(way: str, home: Home) -> None:
    with start(way, home) as process:
        found = left_behind(home.path)
        assert process.pid in [p.pid for p in found]
        said = end_all(found)
        assert len(said) == len(found)
        assert not psutil.pid_exists(process.pid)
    while left_behind(home.path):  # a shell's own child, ended with it
        end_all(left_behind(home.path))


def test_what_belongs_to_another_home_is_left_alone(home: Home) -> None:
    other = Home.new()
    with subprocess.Popen(["/bin/sleep", "600"], env=other.env, cwd="/") as process:
        assert left_behind(home.path) == []
        assert [p.pid for p in left_behind(other.path)] == [process.pid]
        process.kill()
    assert psutil.pid_exists(process.pid) is False


def test_a_tests_own_home_is_not_the_persons(home: Home) -> None:
    told = subprocess.run(["/bin/sh", "-c", "echo $HOME"], env=home.env, capture_output=True, text=True, check=True)
    assert Path(told.stdout.strip()) == home.path
    assert Path("~").expanduser() in home.path.parent.iterdir()
