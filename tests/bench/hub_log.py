"""How much the hub's log costs beside a bare group commit: `python -m tests.bench.hub_log [SECONDS]`.

The ceiling is a thread that drains a queue into one table, one transaction per drain, `synchronous=FULL`, the answer
after the commit, with the same row, the same unique key and the same channel index, and nothing else.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from fleet.clock import SystemClock
from fleet.hub.log import New, SqliteLog
from fleet.hub.mailbox import PROJECTIONS, Mailboxes
from fleet.hub.message import Message, Recipient

BODY = json.dumps({"id": "m-0000000000000000", "text": "x" * 300, "thread": "t-0000000000000000"}).encode()

Append = Callable[[str], Awaitable[object]]


class Bare:
    """The ceiling."""

    def __init__(self, path: Path) -> None:
        self._waiting: collections.deque[tuple[str, asyncio.Future[int]]] = collections.deque()
        self._wake = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._ending = False
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(
            "CREATE TABLE log (seq INTEGER PRIMARY KEY, at REAL NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL,"
            " sender TEXT NOT NULL, key TEXT, body BLOB NOT NULL) STRICT"
        )
        self._connection.execute("CREATE UNIQUE INDEX log_key ON log (sender, key)")
        self._connection.execute("CREATE INDEX log_stream ON log (stream, seq)")
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    async def append(self, key: str) -> int:
        future: asyncio.Future[int] = self._loop.create_future()
        self._waiting.append((key, future))
        self._wake.set()
        return await future

    def _write(self) -> None:
        while not self._ending:
            self._wake.wait()
            self._wake.clear()
            group = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not group:
                continue
            execute = self._connection.execute
            execute("BEGIN IMMEDIATE")
            seqs = [
                execute(
                    "INSERT INTO log (at, stream, kind, sender, key, body) VALUES (?, ?, ?, ?, ?, ?)"
                    " ON CONFLICT DO NOTHING RETURNING seq",
                    (time.time(), "lab/#general", "message", "lab/alice", key, BODY),
                ).fetchone()[0]
                for key, _ in group
            ]
            execute("COMMIT")
            self._loop.call_soon_threadsafe(self._answer, group, seqs)

    @staticmethod
    def _answer(group: list[tuple[str, asyncio.Future[int]]], seqs: list[int]) -> None:
        for (_, future), seq in zip(group, seqs, strict=True):
            if not future.done():
                future.set_result(seq)

    async def close(self) -> None:
        self._ending = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)
        self._connection.close()


async def measure(append: Append, in_flight: int, seconds: float) -> tuple[float, float]:
    """Appends a second, and microseconds of processor for each."""
    numbers = itertools.count()
    done = 0
    end = time.perf_counter() + seconds

    async def sender() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await append(f"k{next(numbers)}")
            done += 1

    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(sender() for _ in range(in_flight)))
    took = time.perf_counter() - began
    return done / took, (time.process_time() - cpu) / done * 1e6


async def bare(path: Path, in_flight: int, seconds: float) -> tuple[float, float]:
    ceiling = Bare(path)
    try:
        return await measure(ceiling.append, in_flight, seconds)
    finally:
        await ceiling.close()


async def log_alone(path: Path, in_flight: int, seconds: float) -> tuple[float, float]:
    log = await SqliteLog.open(path, SystemClock())
    log.tail(0, lambda events: None)
    try:
        return await measure(
            lambda key: log.append([New("lab/#general", "message", "lab/alice", BODY, key)]), in_flight, seconds
        )
    finally:
        await log.close()


async def log_with_history(path: Path, in_flight: int, seconds: float) -> tuple[float, float]:
    """As `log_alone`, with the hub's projections: found by its id and thread, its recipients known."""
    log = await SqliteLog.open(path, SystemClock(), PROJECTIONS)
    log.tail(0, lambda events: None)
    try:
        return await measure(
            lambda key: log.append(
                [New("lab/#general", "message", "lab/alice", BODY.replace(b"0000000000000000", key.encode(), 1), key)]
            ),
            in_flight,
            seconds,
        )
    finally:
        await log.close()


async def mailboxes(path: Path, in_flight: int, seconds: float) -> tuple[float, float]:
    """The whole way of a direct message: made into an event, stored with its recipient, counted."""
    log = await SqliteLog.open(path, SystemClock(), PROJECTIONS)
    boxes = Mailboxes(log, SystemClock())
    log.tail(await boxes.load(), boxes.seen)

    def accept(key: str) -> Awaitable[object]:
        message = Message(id=f"m-{key}", workspace="lab", sender="alice", to=("bob",), text="x" * 300, at=0.0,
                          thread="t-1", idempotency_key=key)  # fmt: skip
        return boxes.accept(message, [Recipient(name="bob", since=0.0)], ["lab/@bob"])

    try:
        return await measure(accept, in_flight, seconds)
    finally:
        await log.close()


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    print(f"{'':24}{'1 in flight':>24}{'64 in flight':>24}")
    for what in (bare, log_alone, log_with_history, mailboxes):
        cells = []
        for in_flight in (1, 64):
            with tempfile.TemporaryDirectory(prefix="fl") as folder:
                rate, cpu = asyncio.run(what(Path(folder) / "hub.db", in_flight, seconds))
            cells.append(f"{rate:>10,.0f}/s {cpu:>6.1f} µs")
        print(f"{what.__name__:24}{cells[0]:>24}{cells[1]:>24}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
