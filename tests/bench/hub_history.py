"""What a hub's past costs: a page of history and a resume, where little is stored and where very much is.

The log is filled through its own write path, with its projections, in batches. The index of words alone is told that
it is up to date: a search is not measured, and building the index would run beside what is.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil

from fleet.clock import SystemClock
from fleet.hub import registry, threads
from fleet.hub.auth import TOKENS
from fleet.hub.log import New, SqliteLog
from fleet.hub.mailbox import PROJECTIONS
from fleet.hub.message import Message
from tests.bench.hub_doors import MARK, TEXT, Fleet, Watch

BATCH = 1000
PAGE = 50
BEHIND = 200
"""Messages that a reader who resumes has missed."""


async def fill(folder: Path, count: int) -> None:
    """A hub's log with so many messages on a channel, ten in a thread."""
    folder.mkdir()
    log = await SqliteLog.open(
        folder / "hub.db", SystemClock(), (*PROJECTIONS, threads.THREADS, registry.REGISTRY, TOKENS)
    )
    try:
        for start in range(0, count, BATCH):
            await log.append([event(number) for number in range(start, min(start + BATCH, count))])
        await log.database.write(
            lambda c: c.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", ("!words", log.head)).rowcount
        )
    finally:
        await log.close()


def event(number: int) -> New:
    message = Message(
        id=f"m-{number:016}", workspace="main", sender="op", to=("#general",), thread=f"t-{number // 10:016}",
        text=f"{MARK.decode()}{number} {TEXT}", at=time.time(),
    )  # fmt: skip
    return New.of("main/#general", "message", "main/op", {**message.to_json(), "recipients": []})


class Stored(Fleet):
    """A hub with a past of so many messages."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(1)

    def start(self) -> psutil.Process:
        asyncio.run(fill(self.folder / "hub", self.count))
        process = super().start()
        self._asking = self._open(self.port)
        self.connections.append(self._asking)
        newest = self._get("/api/v1/messages?channel=%23general&limit=1")
        self.epoch = newest.rpartition(b'"position":"')[2].partition(b":")[0].decode()
        return process

    def newest(self) -> float:
        """Seconds of the newest page."""
        return self._page("")

    def middle(self) -> float:
        """Seconds of a page from the middle of it all."""
        return self._page(f"&before={self.count // 2 + PAGE}")

    def resume(self) -> float:
        """Seconds of one who comes back: from connecting to the last message that it has missed."""
        began = time.perf_counter()
        hello = {"type": "hello", "streams": ["#general"], "after": f"{self.epoch}:{self.count - BEHIND}"}
        connection = self._websocket(self.port, "/api/v1/ws", self.tokens[0], hello, b'"welcome"')
        watch = Watch([connection])
        watch.count, connection.rest = connection.rest.count(MARK), connection.rest.rpartition(MARK)[2]
        whole = watch.until(BEHIND)
        took = time.perf_counter() - began
        watch.close()
        connection.socket.close()
        if not whole:
            raise RuntimeError(f"{watch.count} of {BEHIND} came")
        return took

    def _page(self, where: str) -> float:
        began = time.perf_counter()
        page = self._get(f"/api/v1/messages?channel=%23general&limit={PAGE}{where}")
        took = time.perf_counter() - began
        if page.count(MARK) != PAGE:
            raise RuntimeError(f"a page of {page.count(MARK)} messages: {page[:500]!r}")
        return took

    def _get(self, path: str) -> bytes:
        """The answer's body, over a connection that stays."""
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.tokens[0]}\r\n\r\n"
        self._asking.socket.sendall(head.encode())
        got = self._asking.wait_for(b"\r\n\r\n")
        told, _, body = got.partition(b"\r\n\r\n")
        size = int(told.lower().partition(b"content-length:")[2].split()[0])
        while len(body) < size:
            body += self._asking.read()
        return body
