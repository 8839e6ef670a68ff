"""The hook script on a real file system, many at once, with a real reader that is up, down or killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fleet import harnesses, hook, spool

HOOK = Path(harnesses.__file__).with_name("hook.sh")
ROOT = str(Path(harnesses.__file__).parents[2])
WRITERS, EVENTS = 50, 20
LARGE = {(writer, 7) for writer in range(0, WRITERS, 8)}
"""Which events are of 5 MB."""
DEADLINE = 240.0

READER = """
import asyncio, sys
from pathlib import Path
from fleet.db import Database
from fleet.events import EVENTS_MIGRATIONS, Events
from fleet.spool import Drain

async def main(root, database, until):
    database = Database.open(Path(database), [EVENTS_MIGRATIONS])
    drain = Drain(Path(root), Events(database))
    count = len(await Events(database).list())
    print(count, flush=True)
    while count < until:
        drained = await drain.drain()
        if drained:
            count = database.read_now(lambda c: c.execute("SELECT count(*) FROM events").fetchone()[0])
            print(count, flush=True)
        await asyncio.sleep(0.01)
    await database.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def fire(folder: Path, content: bytes, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run the hook to its end, with nothing but this environment."""
    return subprocess.run(
        [HOOK, folder], input=content, env=environ, capture_output=True, timeout=DEADLINE, check=False
    )


def payload(writer: int, number: int) -> dict:
    pad = ("lorem ipsum " * 440_000)[:5_000_000] if (writer, number) in LARGE else "dolor sit amet " * (writer * 3)
    return {"hook_event_name": "PostToolUse", "writer": writer, "number": number, "pad": pad, "end": True}


def write_all(folder: Path) -> None:
    """50 programs at once, each firing its 20 hooks one after the other."""

    def program(writer: int) -> None:
        for number in range(EVENTS):
            content = json.dumps(payload(writer, number)).encode()
            done = fire(folder, content, FLEET_GENERATION="web.1.k3f9", CLAUDE_PID=str(1000 + writer))
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

    with ThreadPoolExecutor(WRITERS) as programs:
        list(programs.map(program, range(WRITERS)))


def reader(tmp_path: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", READER, str(tmp_path / "spool"), str(tmp_path / "fleet.db"), str(WRITERS * EVENTS)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT})


def progress(reading: subprocess.Popen[str]) -> int | None:
    """How many are stored, as it says next; `None` at its end."""
    assert reading.stdout is not None
    line = reading.stdout.readline()
    return int(line) if line.endswith("\n") else None


def to_the_end(reading: subprocess.Popen[str]) -> None:
    while progress(reading) is not None:
        continue
    assert reading.wait(DEADLINE) == 0
    assert reading.stdout is not None
    reading.stdout.close()


def kill(reading: subprocess.Popen[str]) -> None:
    reading.send_signal(signal.SIGKILL)
    reading.wait(DEADLINE)
    assert reading.stdout is not None
    reading.stdout.close()


def all_kept_once_and_in_order(tmp_path: Path) -> None:
    assert list((tmp_path / "spool" / "web").iterdir()) == []
    database = sqlite3.connect(tmp_path / "fleet.db")
    rows = database.execute("SELECT pid, generation, payload FROM events ORDER BY id").fetchall()
    database.close()
    assert len(rows) == WRITERS * EVENTS
    told: dict[int, list[int]] = {}
    for pid, generation, text in rows:
        found = json.loads(text)
        assert found == payload(found["writer"], found["number"])
        assert (pid, generation) == (1000 + found["writer"], "web.1.k3f9")
        told.setdefault(pid, []).append(found["number"])
    assert told == {1000 + writer: list(range(EVENTS)) for writer in range(WRITERS)}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "spool" / "web"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.real
def test_nothing_is_lost_torn_or_doubled_while_the_reader_is_up(tmp_path, folder):
    reading = reader(tmp_path)
    assert progress(reading) == 0
    write_all(folder)
    to_the_end(reading)
    all_kept_once_and_in_order(tmp_path)


@pytest.mark.real
def test_nothing_is_lost_torn_or_doubled_while_the_reader_is_down(tmp_path, folder):
    write_all(folder)
    to_the_end(reader(tmp_path))
    all_kept_once_and_in_order(tmp_path)


@pytest.mark.real
def test_nothing_is_lost_torn_or_doubled_while_the_reader_is_killed_again_and_again(tmp_path, folder):
    with ThreadPoolExecutor(1) as beside:
        writing = beside.submit(write_all, folder)
        kills = 0
        while not writing.done() or kills < 5:
            reading = reader(tmp_path)
            before = progress(reading)
            if progress(reading) is None:  # it has stored all there is
                reading.wait(DEADLINE)
                kill(reading)
                break
            assert before is not None
            kill(reading)
            kills += 1
        writing.result()
    assert kills >= 2
    to_the_end(reader(tmp_path))
    all_kept_once_and_in_order(tmp_path)


# -- one hook ------------------------------------------------------------------------------------------------------


def test_one_event_becomes_one_file_and_no_word_is_said(folder):
    done = fire(folder, b'{"hook_event_name": "Stop"}', FLEET_GENERATION="web.1.k3f9", CLAUDE_PID="77")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (event,) = spool.read(folder)
    assert (event.name, event.generation, event.pid) == ("Stop", "web.1.k3f9", 77)
    assert time.time() - event.at < DEADLINE
    assert [oct(path.stat().st_mode & 0o777) for path in folder.iterdir()] == ["0o600"]


def test_a_program_that_does_not_tell_its_pid_is_the_hooks_parent(folder):
    fire(folder, b"{}")
    (event,) = spool.read(folder)
    assert (event.generation, event.pid) == (None, os.getpid())


@pytest.mark.parametrize(
    "environ",
    [
        {"FLEET_GENERATION": "../../x", "CLAUDE_PID": "1/2"},
        {"FLEET_GENERATION": "_x y", "CLAUDE_PID": ""},
        {"FLEET_GENERATION": "$(touch x)", "CLAUDE_PID": "`touch y`"},
        {"FLEET_GENERATION": "é\n", "CLAUDE_PID": "-1"},
    ],
)
def test_whatever_the_environment_says_stays_in_the_folder(folder, environ):
    fire(folder, b"{}", **environ)
    (event,) = spool.read(folder)
    assert event.generation is None
    assert len(list(folder.parent.parent.rglob("*"))) == 3


def test_a_missing_folder_is_made(folder):
    folder.rmdir()
    fire(folder, b"{}")
    assert len(spool.read(folder)) == 1


@pytest.mark.parametrize("where", ["", "/dev/null/nowhere", "/proc/nowhere"])
def test_a_folder_that_cannot_be_had_is_nobodys_trouble(where):
    done = subprocess.run([HOOK, where], input=b"{}", env={}, cwd="/", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not list(Path("/").glob("*,*"))


def test_a_full_disk_costs_the_event_and_nothing_else(folder):
    """No more space, as the copying program sees it; the file system's own word for that is another errno."""

    def no_space() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [HOOK, folder], input=b"x" * 100_000, env={}, capture_output=True, preexec_fn=no_space, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(folder.iterdir()) == []


def test_a_hook_killed_in_the_middle_leaves_no_torn_event(folder):
    writing = subprocess.Popen([HOOK, folder], stdin=subprocess.PIPE, env={}, start_new_session=True)
    assert writing.stdin is not None
    writing.stdin.write(b'{"half": "' + b"x" * 200_000)
    writing.stdin.flush()
    deadline = time.monotonic() + DEADLINE
    while not any(path.stat().st_size for path in folder.iterdir()):
        assert time.monotonic() < deadline
    os.killpg(writing.pid, signal.SIGKILL)
    writing.stdin.close()
    writing.wait(DEADLINE)
    assert spool.read(folder) == []
    assert len(spool.sweep(folder, now=time.time() + 2 * spool.LITTER_AGE)) == 1


def test_a_hangup_does_not_cut_an_event_off(folder):
    writing = subprocess.Popen([HOOK, folder], stdin=subprocess.PIPE, env={}, start_new_session=True)
    assert writing.stdin is not None
    writing.stdin.write(b'{"half": "')
    writing.stdin.flush()
    deadline = time.monotonic() + DEADLINE
    while not any(path.stat().st_size for path in folder.iterdir()):
        assert time.monotonic() < deadline
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        os.killpg(writing.pid, number)
    writing.stdin.write(b'x"}')
    writing.stdin.close()
    assert writing.wait(DEADLINE) == 0
    (event,) = spool.read(folder)
    assert event.payload == {"half": "x"}


def test_events_of_one_program_keep_their_order(folder):
    for number in range(40):
        fire(folder, json.dumps({"n": number}).encode(), CLAUDE_PID="7", FLEET_GENERATION="g")
    assert [event.payload["n"] for event in spool.read(folder)] == list(range(40))


# -- sessions started by hand --------------------------------------------------------------------------------------


def by_hand(root: Path, **environ: str) -> list:
    subprocess.run([HOOK, "--by-hand", root], input=b"{}", env=environ, cwd=root, check=True, timeout=60)
    return [event for folder in sorted(root.iterdir()) for event in spool.read(folder)]


def test_a_hook_installed_by_hand_stands_aside_in_fleets_own_sessions(tmp_path):
    assert by_hand(tmp_path, FLEET_GENERATION="web.1.k3f9", FLEET_AGENT="web") == []
    assert [event.agent for event in by_hand(tmp_path, FLEET_AGENT="web")] == ["web"]


@pytest.mark.parametrize(
    "name",
    ["web-2", "../../etc", "a;touch X", "My_Project.v2", "-x-", "é", "..", "a" * 63, "a" * 64, "a" * 100, "$(id)",
     "a" * 62 + "_b", "x  y\nz", "A-B", "a--b", "--a--b", "*"],
)  # fmt: skip
def test_the_script_and_the_command_name_an_agent_alike(tmp_path, name):
    (event,) = by_hand(tmp_path, CLAUDE_PROJECT_DIR=f"/home/x/{name.replace('/', '_')}/")
    assert event.agent == hook.agent_name(None, {"CLAUDE_PROJECT_DIR": f"/home/x/{name.replace('/', '_')}/"}, str)
    (tmp_path / "second").mkdir()
    (event,) = by_hand(tmp_path / "second", FLEET_AGENT=name, CLAUDE_PROJECT_DIR="/x/other")
    assert event.agent == (hook.clean(name) or "unnamed")


def test_the_order_of_names_is_the_commands(tmp_path):
    named = {"FLEET_AGENT": "f", "CLAUDE_AGENT_ID": "c", "SCITEX_OROCHI_AGENT": "s", "CLAUDE_PROJECT_DIR": "/x/p"}
    for number, expected in enumerate(("f", "c", "s", "p")):
        environ = dict(list(named.items())[number:])
        root = tmp_path / str(number)
        root.mkdir()
        (event,) = by_hand(root, **environ)
        assert event.agent == expected == hook.agent_name(None, environ, str)
