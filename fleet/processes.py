"""Process trees: who is alive, who belongs to a launch, how a tree is ended, and what it costs.

A process is told by pid *and* start time, so that a later process with the same pid is never taken for it, and
never by name. On Linux all of it is read from /proc; elsewhere psutil answers the same questions, more slowly.
A zombie is not alive: it runs nothing any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.terms import Process

LINUX = sys.platform == "linux"
MARK = "FLEET_GENERATION"
"""The variable that every process of a launch inherits."""
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
POLL = 0.02
"""Seconds between two questions whether a process still lives."""
STRANGERS_FOR = 30.0
"""Seconds for which a process that is in no agent's tree is taken to stay outside."""
PASSES = 50
"""How often those that came meanwhile are read at most, for one census."""
AFTER_KILL = 10.0
"""Seconds a process may take to vanish after SIGKILL (one in an uninterruptible call takes its time)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the process table."""

    process: Process
    parent: int
    session: int
    cpu: float | None = None
    """Seconds of CPU it has used, where the table tells."""
    rss: int | None = None
    """Bytes of memory, where the table tells."""


def start_time(pid: int) -> int | None:
    """When the process started, in the unit of `Process.start`; `None` where it is not alive."""
    if not LINUX:
        return _start_elsewhere(pid)
    row = _row(pid)
    return None if row is None else row.process.start


def alive(process: Process) -> bool:
    """Whether exactly this process lives, and not a later one with its pid."""
    return start_time(process.pid) == process.start


def parent(pid: int) -> int | None:
    """The process that it was started by; `None` where it is not alive."""
    row = _row(pid) if LINUX else _table_elsewhere().get(pid)
    return None if row is None else row.parent


def find(pid: int) -> Process | None:
    """The process that has this pid now."""
    start = start_time(pid)
    return None if start is None else Process(pid, start)


def parse(note: bytes | None, written_at: float | None = None) -> Process | None:
    """A process as the launcher noted it: `PID START`.

    Where the launcher's host has no /proc it writes `PID -`; then the process that has the pid is meant, provided
    it is not younger than the note (`written_at`).
    """
    words = (note or b"").split()
    if len(words) != 2 or not words[0].isdigit():
        return None
    pid = int(words[0])
    if words[1].isdigit():
        return Process(pid, int(words[1]))
    found = find(pid)
    if found is None or LINUX:
        return None
    young = written_at is not None and found.start / 1000 > written_at + 1
    return None if young else found


def table() -> dict[int, Row]:
    """Every living process by its pid."""
    return Table().read()


class Table:
    """The process table, read again and again: of most processes it says to the byte what it said before, and what
    is the same is not taken apart again."""

    def __init__(self) -> None:
        self._read: dict[int, tuple[bytes, Row]] = {}
        """Each process's line, and what it says."""

    def read(self, without: Container[int] = ()) -> dict[int, Row]:
        """Every living process by its pid, but for those whose pids are left out."""
        if not LINUX:
            return _table_elsewhere()
        before, self._read = self._read, {}
        rows = {}
        for name in os.listdir("/proc"):  # noqa: PTH208 (thousands of entries; Path objects double the price)
            if not name.isdigit() or (pid := int(name)) in without:
                continue
            line = _line(name)
            known = before.get(pid)
            row = known[1] if known is not None and known[0] == line else _parsed(pid, line)
            if row is not None:
                self._read[pid] = line, row
                rows[pid] = row
        return rows


Census = tuple[dict[int, Row], dict[Process, str]]
"""See `census`."""


def census(name: str = MARK) -> Census:
    """Every living process by its pid, and what a variable says in each one's environment.

    A table takes its time to read: a process that hands over to its child meanwhile, and ends, would be in none. So
    those that came since the reading began are read as well, until nobody has come.
    """
    rows: dict[int, Row] = {}
    found: dict[Process, str] = {}
    newest, fresh = _newest_pid(), table()
    for _ in range(PASSES):
        rows |= fresh
        found |= marks(fresh, name)
        before, newest = newest, _newest_pid()
        if newest == before:
            break
        came = range(before + 1, newest + 1)
        fresh = {pid: row for pid in came if (row := _row(pid))} if came else table()  # where pids begin anew: all
    return rows, found


class Censuses:
    """The same for many who ask at a time, as where a whole fleet ends: each gets one that was begun after it asked,
    and those who ask while one is taken share the next."""

    def __init__(self) -> None:
        self._taken: asyncio.Task[Census] | None = None
        """The one that was begun last."""
        self._next: asyncio.Task[Census] | None = None
        """The one that begins once that is done."""

    async def read(self) -> Census:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._take_after(self._taken), name="fleet-census")
        return await asyncio.shield(self._next)  # who gives up takes it from nobody else

    async def _take_after(self, before: asyncio.Task[Census] | None) -> Census:
        if before is not None:
            await asyncio.wait({before})
        self._taken, self._next = self._next, None
        return await asyncio.to_thread(census)


def _newest_pid() -> int:
    """The pid that was given out last; always the same where the kernel does not tell."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[-1])
    except (OSError, ValueError, IndexError):
        return 0


def descendants(rows: Mapping[int, Row], roots: Iterable[Process]) -> set[Process]:
    """The roots that live, all below them, and all in a session that one of them leads."""
    return Forest(rows).below(roots)


class Forest:
    """Who was started by whom, and who shares a session: for several questions about one table."""

    def __init__(self, rows: Mapping[int, Row]) -> None:
        self._rows = rows
        self._near: dict[int, list[int]] = {}
        """By pid: its children, and all in the session that it leads."""
        for pid, row in rows.items():
            self._near.setdefault(row.parent, []).append(pid)
            if row.session != row.parent:
                self._near.setdefault(row.session, []).append(pid)

    def below(self, roots: Iterable[Process]) -> set[Process]:
        """The roots that live, all below them, and all in a session that one of them leads."""
        return {self._rows[pid].process for pid in self.pids(roots)}

    def pids(self, roots: Iterable[Process]) -> set[int]:
        """The same by their pids, which within one table tell them as well, and much faster."""
        found: set[int] = set()
        rows = self._rows
        todo = [root.pid for root in roots if root.pid in rows and rows[root.pid].process.start == root.start]
        while todo:
            pid = todo.pop()
            if pid not in found:
                found.add(pid)
                todo += self._near.get(pid, ())
        return found


def marks(rows: Mapping[int, Row], name: str = MARK) -> dict[Process, str]:
    """What a variable says in each process's environment, where it is set and we may read it."""
    found = {}
    for row in rows.values():
        mark = variable(row.process.pid, name)
        if mark is not None:
            found[row.process] = mark
    return found


def variable(pid: int, name: str) -> str | None:
    """A variable of a process's environment as it began; `None` where it is not set or not ours to read."""
    if not LINUX:
        return _environ_elsewhere(pid).get(name)
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environ = b"\0" + file.read()
    except OSError:
        return None
    _, found, rest = environ.partition(b"\0" + name.encode() + b"=")
    return os.fsdecode(rest.partition(b"\0")[0]) if found else None


def send(process: Process, number: int) -> bool:
    """Send a signal to exactly this process. False where it is gone (or not ours)."""
    if not hasattr(signal, "pidfd_send_signal") or not hasattr(os, "pidfd_open"):
        if not alive(process):
            return False
        try:
            os.kill(process.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The descriptor holds on to one process: once its start time is right, the signal cannot go astray.
        if not alive(process):
            return False
        signal.pidfd_send_signal(fd, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(fd)
    return True


async def end(
    search: Callable[[], set[Process]],
    *,
    grace: float,
    spare: Iterable[Process] = (),
    look: Callable[[], Awaitable[set[Process]]] | None = None,
) -> tuple[int, ...]:
    """End all that `search` finds: SIGTERM, `grace` seconds, SIGKILL, until it finds nothing. Pids that were killed.

    `search` reads the process table and runs in a thread; `look` finds the same, where that can be had for less
    (`Censuses`). `spare` gets no SIGTERM, and SIGKILL only when it is all
    that is left: the launcher, which ends with its program and still has to note how that ended. What was once
    found is held on to, also when its parent has gone and it can no longer be found. Raise `TimeoutError` where
    something does not vanish.
    """
    hunt = _Hunt(search, frozenset(spare), look)
    return () if await hunt.terminate(grace) else await hunt.kill()


class _Hunt:
    """The end of one tree."""

    def __init__(
        self,
        search: Callable[[], set[Process]],
        spared: frozenset[Process],
        look: Callable[[], Awaitable[set[Process]]] | None,
    ) -> None:
        self._search = search
        self._spared = spared
        self._find = look or functools.partial(asyncio.to_thread, search)
        self._ever: set[Process] = set()
        self._left: set[Process] = set()
        self._grew = False
        """It went on forking while it was being ended: one look that finds nothing proves little then, for a
        process can come while the table is read."""

    async def _look(self) -> set[Process]:
        """All that is left of it."""
        found = await self._find()
        self._grew = self._grew or bool(self._ever and found - self._ever)
        self._ever |= found
        self._left = {process for process in self._left | found if alive(process)}
        return self._left

    async def _nothing_left(self) -> bool:
        if await self._look():
            return False
        for _ in range(5 if self._grew else 0):
            await asyncio.sleep(0.03)
            if await self._look():
                return False
        return True

    async def terminate(self, grace: float) -> bool:
        """SIGTERM to all that is found, and to what is found later. Whether all of it went in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        told: set[Process] = set()
        while not (gone := await self._nothing_left()) and loop.time() < deadline:
            for process in self._left - told - self._spared:
                send(process, signal.SIGTERM)
                send(process, signal.SIGCONT)  # one that is stopped hears it too
            told |= self._left
            await _vanished(self._left, min(0.25, deadline - loop.time()))
        return gone

    async def kill(self) -> tuple[int, ...]:
        """SIGKILL to all that is found until nothing is; who was killed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + AFTER_KILL
        killed: set[int] = set()
        while self._left or not await self._nothing_left():
            self._left |= await asyncio.to_thread(_freeze, self._search, self._spared)
            if self._left <= self._spared:
                await _vanished(self._left, 0.5)
            victims = (self._left - self._spared) or set(self._left)
            killed |= {process.pid for process in victims if send(process, signal.SIGKILL)}
            await _vanished(victims, 1.0)
            if await self._look() and loop.time() > deadline:
                raise TimeoutError(f"still alive after SIGKILL: {sorted(process.pid for process in self._left)}")
        return tuple(sorted(killed))


def _freeze(search: Callable[[], set[Process]], spared: frozenset[Process]) -> set[Process]:
    """Stop all that is found until nothing new is found, so that a tree cannot grow while it is being killed."""
    found: set[Process] = set()
    for _ in range(50):
        fresh = search() - found
        if not fresh:
            break
        for process in fresh - spared:
            send(process, signal.SIGSTOP)
        found |= fresh
    return found


async def _vanished(processes: Iterable[Process], within: float) -> None:
    """Return when none of the processes lives any more, at the latest `within` seconds from now."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    left = [process for process in processes if alive(process)]
    while left and loop.time() < deadline:
        await asyncio.sleep(min(POLL, max(0.0, deadline - loop.time())))
        left = [process for process in left if alive(process)]


def _row(pid: int) -> Row | None:
    """One process as /proc/PID/stat tells; `None` where it is gone or a zombie."""
    return _parsed(pid, _line(str(pid)))


def _line(pid: str) -> bytes:
    """What /proc/PID/stat says; nothing where it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)  # a file object would double the price
        try:
            return os.read(fd, 4096)
        finally:
            os.close(fd)
    except OSError:
        return b""


def _parsed(pid: int, line: bytes) -> Row | None:
    """A process's line as a row; `None` where there is none, or it is a zombie's."""
    words = line[line.rfind(b")") + 2 :].split(b" ", 22)
    if len(words) < 22 or words[0] in (b"Z", b"X"):
        return None
    return Row(
        process=Process(pid, int(words[19])),
        parent=int(words[1]),
        session=int(words[3]),
        cpu=(int(words[11]) + int(words[12])) / TICKS,
        rss=int(words[21]) * PAGE,
    )


# -- figures -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figures:
    """What a tree of processes costs now."""

    cpu_percent: float | None
    """Of one core, since the last question; `None` at the first."""
    rss: int
    """Bytes, shared pages counted in each process."""
    count: int


_Use = tuple[int, float, float]
"""When a process started; at a question's time, the seconds of CPU that it had used."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a tree of processes has cost so far, and holds now, as another machine tells it."""

    cpu: float
    """Seconds, of those that have ended too."""
    rss: int
    count: int

    def since(self, before: Cost | None, passed: float) -> Figures:
        """The figures, where the tree had cost `before` so many seconds ago."""
        cpu = None if before is None or passed <= 0 else round(max(0.0, 100 * (self.cpu - before.cpu) / passed), 1)
        return Figures(cpu, self.rss, self.count)


class Meter:
    """Asks what trees cost; CPU is what was used since the question before."""

    def __init__(self) -> None:
        self._table = Table()
        self._used: dict[int, _Use] = {}
        """By pid, at the question before."""
        self._roots: frozenset[Process] = frozenset()
        self._strangers: set[int] = set()
        """Processes that are in no tree. Nobody comes into one who was not born there, so they are not read again
        until there are other roots, or it is so long ago that a pid may be another's."""
        self._strangers_until = 0.0

    def read(self, roots: Mapping[str, Iterable[Process]], now: float) -> dict[str, Figures]:
        """The figures of each named tree. It reads the process table once; call it in a thread."""
        trees = {name: tuple(tree) for name, tree in roots.items()}
        whole = frozenset(process for tree in trees.values() for process in tree)
        if whole != self._roots or now >= self._strangers_until:
            self._roots, self._strangers, self._strangers_until = whole, set(), now + STRANGERS_FOR
        rows = self._table.read(self._strangers)
        forest = Forest(rows)
        found = {name: forest.pids(tree) for name, tree in trees.items()}
        seen: dict[int, _Use] = {}
        figures = {name: self._tree([rows[pid] for pid in tree], now, seen) for name, tree in found.items()}
        self._used = seen
        self._strangers |= rows.keys() - set().union(*found.values())
        return figures

    def _tree(self, tree: Sequence[Row], now: float, seen: dict[int, _Use]) -> Figures:
        cpu, known, rss = 0.0, False, 0
        for row in tree:
            cost = _cost(row)
            if cost is None:
                continue
            used, memory = cost
            rss += memory
            pid, start = row.process.pid, row.process.start
            seen[pid] = start, now, used
            before = self._used.get(pid)
            if before is not None and before[0] == start and now > before[1]:
                known = True
                cpu += 100 * (used - before[2]) / (now - before[1])
        return Figures(round(max(cpu, 0.0), 1) if known or not tree else None, rss, len(tree))


def _cost(row: Row) -> tuple[float, int] | None:
    """Seconds of CPU and bytes of memory; `None` where it is gone."""
    if row.cpu is not None and row.rss is not None:
        return row.cpu, row.rss
    psutil = _psutil()
    try:
        that = psutil.Process(row.process.pid)
        with that.oneshot():
            times, memory = that.cpu_times(), that.memory_info()
    except psutil.Error:
        return None
    return times.user + times.system, memory.rss


def host_figures(folder: str = "/") -> dict[str, float | int | str | None]:
    """What the host itself has and uses; CPU since the last question."""
    psutil = _psutil()
    memory = psutil.virtual_memory()
    disk = psutil.disk_usage(folder)
    load = psutil.getloadavg()
    return {
        "cpu_count": psutil.cpu_count(),
        "cpu_model": _cpu_model(),
        "cpu_used_percent": psutil.cpu_percent(interval=None),
        "load_avg_1m": round(load[0], 2),
        "load_avg_5m": round(load[1], 2),
        "load_avg_15m": round(load[2], 2),
        "mem_used_percent": memory.percent,
        "mem_total_mb": memory.total // 2**20,
        "mem_free_mb": memory.available // 2**20,
        "disk_used_percent": disk.percent,
    }


def _cpu_model() -> str | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return None


# -- where there is no /proc -------------------------------------------------------------------------------------


def _psutil() -> Any:
    import psutil  # noqa: PLC0415 (40 ms that only a question for figures pays)

    return psutil


def _start_elsewhere(pid: int) -> int | None:
    psutil = _psutil()
    try:
        that = psutil.Process(pid)
        return None if that.status() == psutil.STATUS_ZOMBIE else round(that.create_time() * 1000)
    except psutil.Error:
        return None


def _environ_elsewhere(pid: int) -> dict[str, str]:
    psutil = _psutil()
    try:
        return dict(psutil.Process(pid).environ())
    except psutil.Error:
        return {}


def _table_elsewhere() -> dict[int, Row]:
    psutil = _psutil()
    rows = {}
    for that in psutil.process_iter(["pid", "ppid", "create_time", "status"]):
        info = that.info
        if info["status"] == psutil.STATUS_ZOMBIE or info["create_time"] is None:
            continue
        try:
            session = os.getsid(info["pid"])
        except OSError:
            session = 0
        process = Process(info["pid"], round(info["create_time"] * 1000))
        rows[process.pid] = Row(process, info["ppid"] or 0, session)
    return rows
