"""Questions that wait for their one end, and everything else that a time ends.

An end follows from what is in the log and from the clock alone (`Ask.seen`), so a hub that was killed finds the same
one. Whoever waits is told at once; nobody polls. The clock is asked for the next thing that is due and for nothing
else: what waits costs nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from fleet.clock import Clock
from fleet.hub import threads
from fleet.hub.log import Event, SqliteLog
from fleet.hub.mailbox import RECEIPT, box
from fleet.hub.message import Ask, Outcome, Recipient

ENDED = 4096
"""Asks that have ended and are kept at hand."""


class Asks:
    """The open ones. `load` first; then whoever follows the log's tail hands every event to `seen`."""

    def __init__(self, clock: Clock, end: Callable[[str, Ask], None]) -> None:
        self._clock = clock
        self._end = end
        """Writes an end down (workspace, ask)."""
        self._open: dict[str, tuple[str, Ask]] = {}
        """With their workspaces."""
        self._ended: OrderedDict[str, tuple[str, Ask]] = OrderedDict()
        self._waiting: dict[str, list[asyncio.Future[Ask]]] = {}

    async def load(self, log: SqliteLog) -> list[float]:
        """Know those that are open, and end those that have come to their end meanwhile. The deadlines."""
        for workspace, ask, standing in await log.database.read(threads.open_asks):
            self._open[ask.message] = (workspace, ask)
            recipient = Recipient.from_json(json.loads(standing)) if standing else threads.never_came(ask)
            self._look(workspace, ask, recipient)
        return [ask.deadline for _, ask in self._open.values()]

    def seen(self, event: Event) -> Ask | None:
        """What the log's tail brings; a question that is new."""
        if event.kind == RECEIPT:
            data = event.data
            found = self._open.get(data["message"])
            if found is not None and data["box"] == box(found[0], found[1].asked):
                self._look(*found, Recipient.from_json(data["recipient"]))
        elif event.kind == threads.ASK:
            known = {name: event.data[name] for name in ("message", "thread", "asker", "asked", "deadline")}
            ask = Ask(**known)
            self._open[ask.message] = (event.stream.partition("/")[0], ask)
            return ask
        return None

    def waited_for(self, message: str) -> str | None:
        """Who is waiting right now for the end of an ask; `None`: nobody."""
        found = self._open.get(message)
        return found[1].asker if found is not None and self._waiting.get(message) else None

    def find(self, workspace: str, message: str) -> Ask | None:
        """One that is open, or has ended lately."""
        found = self._open.get(message) or self._ended.get(message)
        return found[1] if found is not None and found[0] == workspace else None

    async def wait(self, ask: Ask) -> Ask:
        """Its end."""
        if ask.message not in self._open:
            found = self._ended.get(ask.message)
            return found[1] if found is not None else ask
        future: asyncio.Future[Ask] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(ask.message, [])
        waiting.append(future)
        try:
            return await future
        finally:
            waiting.remove(future)
            if not waiting and self._waiting.get(ask.message) is waiting:
                del self._waiting[ask.message]

    def due(self, now: float) -> None:
        """End those whose time is over."""
        for workspace, ask in [found for found in self._open.values() if found[1].deadline <= now]:
            self._look(workspace, ask, threads.never_came(ask))

    def finish(self, message: str, outcome: Outcome, reason: str) -> None:
        """End one by its asker's word."""
        found = self._open.get(message)
        if found is not None:
            workspace, ask = found
            self._finish(workspace, replace(ask, outcome=outcome, reason=reason, ended_at=self._clock.now()))

    def _look(self, workspace: str, ask: Ask, recipient: Recipient) -> None:
        after = ask.seen(recipient, self._clock.now())
        if after.outcome is not None:
            self._finish(workspace, after)

    def _finish(self, workspace: str, ask: Ask) -> None:
        self._open.pop(ask.message, None)
        self._ended[ask.message] = (workspace, ask)
        if len(self._ended) > ENDED:
            self._ended.popitem(last=False)
        for future in self._waiting.pop(ask.message, ()):
            if not future.done():
                future.set_result(ask)
        self._end(workspace, ask)


class Alarm:
    """Does something at the next of many times, and sleeps until then."""

    def __init__(self, clock: Clock, ring: Callable[[float], Awaitable[Any]]) -> None:
        self._clock = clock
        self._ring = ring
        self._due: list[float] = []
        self._nearer = asyncio.Event()

    def at(self, due: float) -> None:
        """Ring then, too."""
        if not self._due or due < self._due[0]:
            self._nearer.set()
        heapq.heappush(self._due, due)

    async def run(self) -> None:
        """For as long as this runs."""
        while True:
            self._nearer.clear()
            if not self._due:
                await self._nearer.wait()
            elif (wait := self._due[0] - self._clock.now()) > 0:
                await self._sleep(wait)
            else:
                now = self._clock.now()
                while self._due and self._due[0] <= now:
                    heapq.heappop(self._due)
                await self._ring(now)

    async def _sleep(self, seconds: float) -> None:
        """Until then, or until something nearer has come."""
        tasks = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._nearer.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
