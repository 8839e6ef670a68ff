"""Processes told by pid and start time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet import processes
from fleet.processes import Row
from fleet.terms import Process


def row(pid: int, parent: int, session: int = 1, start: int = 100) -> Row:
    return Row(Process(pid, start), parent, session)


def table(*rows: Row) -> dict[int, Row]:
    return {row.process.pid: row for row in rows}


def test_this_process_is_alive_and_has_a_start() -> None:
    me = processes.find(os.getpid())
    assert me is not None and processes.alive(me)
    assert processes.start_time(os.getpid()) == me.start


def test_a_process_with_another_start_is_another_process() -> None:
    start = processes.start_time(os.getpid()) or 0
    assert not processes.alive(Process(os.getpid(), start - 1))


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.start_time(child.pid) is None
    child.wait()


def test_no_signal_reaches_a_later_process_with_the_same_pid() -> None:
    child = subprocess.Popen(["sleep", "600"])
    try:
        start = processes.start_time(child.pid) or 0
        assert not processes.send(Process(child.pid, start + 1), signal.SIGKILL)
        assert child.poll() is None
        assert processes.send(Process(child.pid, start), signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert not processes.send(Process(child.pid, start), signal.SIGKILL)
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        (b"12 345\n", Process(12, 345)),
        (b"12 345", Process(12, 345)),
        (b"", None),
        (None, None),
        (b"12", None),
        (b"-12 345", None),
        (b"twelve 345", None),
        (b"12 345 6", None),
    ],
)
def test_a_note_is_a_pid_and_a_start(note: bytes | None, expected: Process | None) -> None:
    assert processes.parse(note) == expected


def test_a_tree_is_all_below_its_roots() -> None:
    rows = table(row(10, 1), row(11, 10), row(12, 11), row(20, 1), row(21, 20))
    assert {p.pid for p in processes.descendants(rows, [Process(10, 100)])} == {10, 11, 12}


def test_a_tree_is_also_who_is_in_a_session_that_it_leads() -> None:
    rows = table(row(10, 1, session=10), row(30, 1, session=10), row(31, 30, session=31))
    assert {p.pid for p in processes.descendants(rows, [Process(10, 100)])} == {10, 30, 31}


def test_a_root_that_is_gone_has_no_tree_whoever_has_its_pid_now() -> None:
    rows = table(row(10, 1, start=999), row(11, 10))
    assert processes.descendants(rows, [Process(10, 100)]) == set()


def test_a_mark_is_read_from_the_environment_and_only_under_its_own_name() -> None:
    env = {"XFLEET_GENERATION": "no", "A": "FLEET_GENERATION=no", "FLEET_GENERATION": "web.1.ab"}
    child = subprocess.Popen(["sleep", "600"], env=env)
    bare = subprocess.Popen(["sleep", "600"], env={"XFLEET_GENERATION": "no"})
    try:
        marks = {process.pid: mark for process, mark in processes.census()[1].items()}
        assert marks.get(child.pid) == "web.1.ab"
        assert bare.pid not in marks
    finally:
        for each in (child, bare):
            each.kill()
            each.wait()


def test_who_comes_while_the_table_is_read_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may hand over to its child, and end, after the table's list of pids was made."""
    came: list[subprocess.Popen[bytes]] = []
    read = processes.table

    def slow() -> dict[int, Row]:
        rows = read()
        came.append(child := subprocess.Popen(["sleep", "600"], env={"FLEET_GENERATION": "web.1.ab"}))
        while not Path(f"/proc/{child.pid}/environ").read_bytes():  # the kernel is still setting it up
            os.sched_yield()
        return rows

    monkeypatch.setattr(processes, "table", slow)
    try:
        rows, marks = processes.census()
        late = {child.pid for child in came}
        assert late <= rows.keys()
        assert late <= {process.pid for process, mark in marks.items() if mark == "web.1.ab"}
    finally:
        for child in came:
            child.kill()
            child.wait()


async def test_those_who_ask_at_a_time_share_a_census_that_was_begun_after_they_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[threading.Event] = []
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def census() -> processes.Census:
        taken.append(goes_on := threading.Event())
        number = len(taken)
        loop.call_soon_threadsafe(begun.set)
        assert goes_on.wait(30)
        return {number: row(number, 0)}, {}

    async def next_begins() -> None:
        await begun.wait()
        begun.clear()

    monkeypatch.setattr(processes, "census", census)
    censuses = processes.Censuses()
    first = asyncio.create_task(censuses.read())
    await next_begins()
    later = [asyncio.create_task(censuses.read()) for _ in range(5)]
    gives_up = asyncio.create_task(censuses.read())
    await asyncio.sleep(0)
    gives_up.cancel()
    taken[0].set()
    assert set((await first)[0]) == {1}
    await next_begins()
    last = asyncio.create_task(censuses.read())
    await asyncio.sleep(0)
    taken[1].set()
    assert [set(rows) for rows, _ in await asyncio.gather(*later)] == [{2}] * 5
    await next_begins()
    taken[2].set()
    assert set((await last)[0]) == {3} and len(taken) == 3 and gives_up.cancelled()


async def spawn(line: str, stdin: int | None = None) -> asyncio.subprocess.Process:
    child = await asyncio.create_subprocess_exec("sh", "-c", line, stdin=stdin, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None and await child.stdout.readline() == b"ready\n"
    return child


def tree_of(pid: int) -> Callable[[], set[Process]]:
    root = processes.find(pid)
    assert root is not None
    return lambda: processes.descendants(processes.table(), [root])


async def test_what_ends_by_sigterm_is_not_killed() -> None:
    child = await spawn("echo ready; exec sleep 600")
    assert await processes.end(tree_of(child.pid), grace=20) == ()
    assert await child.wait() == -signal.SIGTERM


async def test_what_ignores_sigterm_is_killed_after_its_grace_and_named() -> None:
    child = await spawn("trap '' TERM; echo ready; while :; do sleep 1; done")
    killed = await processes.end(tree_of(child.pid), grace=0.1)
    assert child.pid in killed
    assert await child.wait() == -signal.SIGKILL


async def test_what_is_stopped_hears_sigterm_too() -> None:
    child = await spawn("echo ready; exec sleep 600")
    child.send_signal(signal.SIGSTOP)
    assert await processes.end(tree_of(child.pid), grace=20) == ()
    assert await child.wait() == -signal.SIGTERM


async def test_the_spared_one_ends_by_itself_when_the_rest_has_gone() -> None:
    child = await spawn("trap : TERM; (trap '' TERM; echo ready; while :; do sleep 1; done) & wait; wait; exit 7")
    search = tree_of(child.pid)
    spare = processes.find(child.pid)
    assert spare is not None
    killed = await processes.end(search, grace=0.1, spare=[spare])
    assert child.pid not in killed
    assert await child.wait() == 7


async def test_ending_nothing_is_done_at_once() -> None:
    assert await processes.end(set, grace=600) == ()


def test_a_meter_tells_what_a_tree_costs() -> None:
    me = processes.find(os.getpid())
    assert me is not None
    meter = processes.Meter()
    first = meter.read({"me": [me], "gone": [Process(me.pid, me.start - 1)]}, now=100.0)
    assert first["me"].count >= 1 and first["me"].rss > 2**20 and first["me"].cpu_percent is None
    assert first["gone"] == processes.Figures(0.0, 0, 0)
    before = os.times()
    while sum(os.times()[:2]) - sum(before[:2]) < 0.2:
        sum(range(10_000))
    second = meter.read({"me": [me]}, now=101.0)
    assert second["me"].cpu_percent is not None and second["me"].cpu_percent >= 15


async def test_a_meter_reads_those_outside_once_and_whoever_is_born_inside_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    line = processes._line

    def noted(pid: str) -> bytes:
        read.append(int(pid))
        return line(pid)

    monkeypatch.setattr(processes, "_line", noted)
    child = await spawn("echo ready; read go; sleep 100 & echo ready; wait", stdin=asyncio.subprocess.PIPE)
    child_root, stranger = processes.find(child.pid), os.getpid()
    assert child_root is not None
    meter, roots = processes.Meter(), {"child": [child_root]}
    assert meter.read(roots, now=100.0)["child"].count == 1
    assert stranger in read
    read.clear()
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(b"go\n")
    await child.stdout.readline()
    assert meter.read(roots, now=105.0)["child"].count == 2
    assert stranger not in read
    other = {**roots, "me": [processes.find(stranger) or child_root]}
    assert meter.read(other, now=106.0)["me"].count >= 3, "who was outside may be inside of another tree"
    read.clear()
    meter.read(roots, now=107.0)
    meter.read(roots, now=107.0 + processes.STRANGERS_FOR)
    assert read.count(stranger) == 2
    await processes.end(tree_of(child.pid), grace=10)
    await child.wait()


def test_the_hosts_figures_have_the_names_the_status_promises() -> None:
    figures = processes.host_figures()
    assert set(figures) == {
        "cpu_count",
        "cpu_model",
        "cpu_used_percent",
        "load_avg_1m",
        "load_avg_5m",
        "load_avg_15m",
        "mem_used_percent",
        "mem_total_mb",
        "mem_free_mb",
        "disk_used_percent",
    }
    assert isinstance(figures["mem_total_mb"], int) and figures["mem_total_mb"] > 0


def test_psutil_gives_the_same_answers_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LINUX", False)
    me = processes.find(os.getpid())
    assert me is not None and processes.alive(me)
    child = subprocess.Popen(["sleep", "600"], env={"FLEET_GENERATION": "web.1.ab"})
    try:
        while processes.variable(child.pid, "FLEET_GENERATION") is None:  # until it is the program
            assert child.poll() is None
        assert processes.variable(child.pid, "FLEET_GENERATION") == "web.1.ab"
        assert child.pid in {p.pid for p in processes.descendants(processes.table(), [me])}
    finally:
        child.kill()
        child.wait()
