"""The exchange: everything that the hub does, for whoever came in by whichever door.

A door (REST, WebSocket, MCP, the compatibility port, the CLI's) knows who calls by the token and hands over what was
asked, as parsed JSON; the courier hands over what became of mail. What holds:

- Who speaks is the caller, and nobody else; what it may see ends at its workspace.
- What is answered is in the log, and what was refused is told with its reason, to its sender and on the audit.
- Everything in memory follows from the log and from the clock, so that a hub that was killed goes on as it was.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from fleet.clock import Clock
from fleet.errors import FleetError, StorageError
from fleet.hub import registry, threads
from fleet.hub.asks import Alarm
from fleet.hub.auth import TOKENS, Caller, Refused, Role
from fleet.hub.base import limits_of, listening, told
from fleet.hub.blobs import Blobs
from fleet.hub.guardrails import Speaker
from fleet.hub.log import Event, SqliteLog
from fleet.hub.mailbox import (
    PROJECTIONS,
    RECEIPT,
    WORKSPACE_DELETED,
    Change,
    box,
)
from fleet.hub.membership import Membership
from fleet.hub.message import (
    Expire,
    Position,
    Recipient,
    State,
    Thread,
    ThreadState,
    Way,
)
from fleet.hub.plain import Plain
from fleet.hub.projection import MESSAGE, retain
from fleet.hub.reading import Reading
from fleet.hub.registry import Card
from fleet.hub.shown import message_json
from fleet.settings import Settings

__all__ = ["Caller", "Card", "Exchange", "Refused", "Role", "Speaker", "message_json"]

_log = logging.getLogger(__name__)

UNSENT_FILES = 86_400.0
"""Seconds that an uploaded file may wait for the message that speaks of it."""
RECOUNTED = 5000
"""Of the newest messages, how many are counted again after a start: a burst of more does not hold the start up."""
LOOKED_BACK = 20_000
"""Of the newest events, how many are looked through for what agents are at work on …"""
REBUILT = 1000
"""… and how many receipts at most."""


class Exchange(Membership, Plain, Reading):
    """The hub's engine. Made by `open`; `close` it. Its verbs stand in `membership`, `talk` and `reading`, and
    in `plain` for many messages at once."""

    def __init__(
        self, log: SqliteLog, blobs: Blobs, settings: Settings, clock: Clock, chance: Callable[[int], bytes]
    ) -> None:
        super().__init__(log, blobs, settings, clock, chance)
        self._alarm = Alarm(clock, self._ring)
        self._on_events: list[Callable[[Sequence[Event]], None]] = []

    @classmethod
    async def open(
        cls, folder: Path, settings: Settings, clock: Clock, *, chance: Callable[[int], bytes] = os.urandom
    ) -> Exchange:
        """Open or make the hub in `folder` (`hub.db`, `blobs/`), and go on where the last one was."""
        blobs = Blobs(folder / "blobs", limits_of(settings))
        await asyncio.to_thread(blobs.prepare)
        projections = (*PROJECTIONS, threads.THREADS, registry.REGISTRY, TOKENS)
        log = await SqliteLog.open(folder / "hub.db", clock, projections)
        exchange = cls(log, blobs, settings, clock, chance)
        try:
            await exchange._begin()
        except BaseException:
            await log.close()
            raise
        return exchange

    async def _begin(self) -> None:
        head = await self.boxes.load()
        await self.registry.load()
        await self.tokens.load()
        self.tokens.may_exist = self.registry.exists
        self.tokens.created = self._admitted
        self._held = {thread.id: thread for thread in await self.log.database.read(threads.held)}
        self.log.tail(head, self._seen)
        for deadline in await self._asks.load(self.log):
            self._alarm.at(deadline)
        for due in await self.log.database.read(_expiries):
            self._alarm.at(due)
        await self._recount()
        self._lasting = [
            asyncio.create_task(self._alarm.run(), name="hub-alarm"),
            asyncio.create_task(self.history.follow(), name="hub-words"),
            asyncio.create_task(self._keep_house(), name="hub-housekeeping"),
            asyncio.create_task(self._write_figures(), name="hub-figures"),
        ]

    async def close(self) -> None:
        """Store what waits; asks that are open stay open in the log."""
        for task in self._lasting:
            task.cancel()
        await asyncio.gather(*self._lasting, return_exceptions=True)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.registry.write_figures()
        await self.history.close()
        await self.log.close()

    async def _recount(self) -> None:
        """What was counted, and what agents are at work on, as the log says."""
        since = self.clock.now() - self.rules.window
        said: list[Event] = []
        before: int | None = None
        while len(said) < RECOUNTED:
            page = await self.history.read(kinds=[MESSAGE], since=since, before=before, limit=1000, newest=True)
            said = page.events + said
            if not page.more:
                break
            before = page.events[0].seq
        for event in said:
            self._count_again(event)
        oldest = await self.history.oldest()
        after = Position(oldest.epoch, max(oldest.seq, self.log.head - LOOKED_BACK))
        page = await self.history.read(kinds=[RECEIPT], after=after, limit=REBUILT, newest=True)
        latest: dict[tuple[str, str], Event] = {(e.data["box"], e.data["message"]): e for e in page.events}
        for (of, message), event in latest.items():
            await self._at_work_again(of, message, Recipient.from_json(event.data["recipient"]))

    def _count_again(self, event: Event) -> None:
        data = event.data
        if data.get("counted"):
            for recipient in data.get("recipients", ()):
                if not recipient.get("quiet"):
                    self._accounting.caused((data["workspace"], data["sender"]), recipient["name"], event.at)

    async def _at_work_again(self, of: str, message: str, recipient: Recipient) -> None:
        workspace, _, name = of.partition("/@")
        present = self.registry.present(workspace, name)
        if present is None or not present.card.turns or recipient.way is Way.TURN:
            return
        known = await self._find(message)
        if known is not None and recipient.state in (State.INJECTING, State.UNCONFIRMED):
            self._turns.handed((workspace, name), known.message)
        elif known is not None and recipient.state in (State.DELIVERED, State.ANSWERED):
            self._turns.arrived((workspace, name), known.message, recipient.since)

    # -- what the log brings ---------------------------------------------------------------------------------------

    def _seen(self, events: Sequence[Event]) -> None:
        """The log's tail: first what stands in memory, then whoever listens."""
        self.boxes.seen(events)
        self.registry.seen(events)
        self.history.stir()
        boxes: dict[tuple[str, str], None] = {}
        for event in events:
            kind = event.kind
            if kind == MESSAGE:
                data = event.data
                for recipient in data.get("recipients", ()):
                    boxes[data["workspace"], recipient["name"]] = None
                if data.get("expires_at") is not None:
                    self._alarm.at(data["expires_at"])
            elif kind == RECEIPT:
                workspace, _, name = event.data["box"].partition("/@")
                boxes[workspace, name] = None
                self._asks.seen(event)
            elif kind == threads.ASK:
                asked = self._asks.seen(event)
                if asked is not None:
                    self._alarm.at(asked.deadline)
            elif kind == threads.THREAD:
                self._thread_changed(event)
            elif kind == WORKSPACE_DELETED:
                self.tokens.drop_workspace(event.stream.partition("/")[0])
        for listener in tuple(self._on_events):
            told(listener, events)
        for workspace, name in boxes:
            for on_mail in tuple(self._on_mail):
                told(on_mail, workspace, name)

    def _thread_changed(self, event: Event) -> None:
        data = event.data
        thread = Thread(
            id=data["thread"],
            workspace=event.stream.partition("/")[0],
            opened_by=data["opened_by"],
            opened_at=data["opened_at"],
            state=ThreadState(data["state"]),
            since=event.at,
            by=data["by"],
        )
        if thread.state is ThreadState.ACTIVE:
            self._held.pop(thread.id, None)
        else:
            self._held[thread.id] = thread
        for on_thread in tuple(self._on_thread):
            told(on_thread, thread.workspace, thread)

    def on_events(self, callback: Callable[[Sequence[Event]], None]) -> Callable[[], None]:
        """Call it, on the loop, with what was committed, in order. What is returned takes it back."""
        return listening(self._on_events, callback)

    def on_mail(self, callback: Callable[[str, str], None]) -> Callable[[], None]:
        """Call it with (workspace, name) when something has changed in that box."""
        return listening(self._on_mail, callback)

    def on_thread(self, callback: Callable[[str, Thread], None]) -> Callable[[], None]:
        """Call it with (workspace, thread) when an operator has changed one: its running turns are to be stopped."""
        return listening(self._on_thread, callback)

    # -- what the clock brings -------------------------------------------------------------------------------------

    async def _ring(self, now: float) -> None:
        """Something is due: questions whose time is over, messages whose sender's is."""
        self._asks.due(now)
        try:
            mail = await self.boxes.due(now)
            await self.change(
                [
                    Change(m.message.id, box(m.message.workspace, m.recipient.name), Expire())
                    for m in mail
                    if m.recipient.pending is None
                ]
            )
        except StorageError as error:
            _log.error("what has expired could not be noted; again in a minute: %s", error)
            self._alarm.at(now + 60.0)

    async def _keep_house(self) -> None:
        """Every so often: what is too old goes, and files that no message speaks of."""
        while True:
            await self.clock.sleep(self.settings.hub_clean_every)
            try:
                await self.housekeep()
            except (FleetError, OSError) as error:
                _log.error("the hub could not clean up: %s", error)

    async def housekeep(self) -> int:
        """The same now. How many events went."""
        now = self.clock.now()
        gone = await retain(self.log, now, self.settings.hub_kept_days, self.settings.hub_kept_mb)
        self.boxes.forget()
        spoken_of = await self.log.database.read(threads.spoken_of)
        await asyncio.to_thread(self.blobs.sweep, spoken_of, now - UNSENT_FILES)
        return gone

    async def _write_figures(self) -> None:
        while True:
            await self.registry.unwritten.wait()
            await self.clock.sleep(registry.RESOURCES_PAUSE)
            await self.registry.write_figures()


def _expiries(connection: sqlite3.Connection) -> list[float]:
    rows = connection.execute(
        "SELECT DISTINCT expires_at FROM receipts WHERE open = 1 AND expires_at IS NOT NULL"
    ).fetchall()
    return [row[0] for row in rows]
