"""Messages and what becomes of them, for each recipient: what waits, what is being handed over, what is read.

A message is one event in the log, with its recipients; each later change at one of them is another. The tables here
follow from those events. `message.step` decides what a change makes of a receipt; this writes it down before anybody
acts on it, and one change at a box never overtakes another.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from fleet.clock import Clock
from fleet.db import Migrations
from fleet.hub import message as words
from fleet.hub.log import EVENT, Event, New, Projection, SqliteLog
from fleet.hub.message import WAITING, Message, Recipient, State, step
from fleet.hub.projection import COPY, HISTORY, MESSAGE, as_it_stands, fields

RECEIPT = "receipt"
"""`{message, seq, box, was, recipient}`: where a message stands at one recipient now, and in which state it was."""

COUNTED = "counted"
"""Of a message's event: it counts as one that has caused turns in its conversation."""

HUB = "fleet"
"""Who tells what became of a message."""

OPEN = WAITING | {State.INJECTING}
"""The hub still has something to do about it; retention leaves the message."""


class Change(NamedTuple):
    """Something that happened to a message at one recipient."""

    message: str
    box: str
    event: words.Event


class Accepted(NamedTuple):
    """An accepted message's place."""

    seq: int
    duplicate: bool
    """The sender's key was there: nothing is new, and `seq` is the first one's."""


class Mail(NamedTuple):
    """A message in somebody's box."""

    seq: int
    message: Message
    """As it was accepted, with the text as it stands now (empty where it was deleted)."""
    recipient: Recipient


def box(workspace: str, name: str) -> str:
    """The stream of what is for somebody."""
    return f"{workspace}/@{name}"


def receipts(workspace: str, name: str) -> str:
    """The stream of what becomes of the messages that somebody has sent."""
    return f"{box(workspace, name)}/receipts"


def channel(workspace: str, name: str) -> str:
    """The stream of a channel, whose name begins with `#`."""
    return f"{workspace}/{name}"


def _project(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    for event in events:
        if event.kind == MESSAGE:
            data = fields(event)
            connection.executemany(
                "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        box(data["workspace"], stored["name"]),
                        event.seq,
                        data["id"],
                        stored["state"],
                        stored["state"] in OPEN,
                        data.get("expires_at"),
                        json.dumps(stored),
                    )
                    for stored in data.get("recipients", ())
                ],
            )
        elif event.kind == RECEIPT:
            data = fields(event)
            stored = data["recipient"]
            connection.execute(
                "UPDATE receipts SET state = ?, open = ?, recipient = ? WHERE box = ? AND seq = ?",
                (stored["state"], stored["state"] in OPEN, json.dumps(stored), data["box"], data["seq"]),
            )


def _forget(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    connection.executemany(
        "DELETE FROM receipts WHERE seq = ?", [(event.seq,) for event in events if event.kind == MESSAGE]
    )


MAILBOX = Projection(
    Migrations(
        "mailbox",
        (
            """
            CREATE TABLE receipts (
                box TEXT NOT NULL,
                seq INTEGER NOT NULL,
                message TEXT NOT NULL,
                state TEXT NOT NULL,
                open INTEGER NOT NULL,
                expires_at REAL,
                recipient TEXT NOT NULL,
                PRIMARY KEY (box, seq)
            ) STRICT, WITHOUT ROWID;
            CREATE INDEX receipts_seq ON receipts (seq);
            CREATE UNIQUE INDEX receipts_message ON receipts (message, box);
            CREATE INDEX receipts_open ON receipts (box, seq, state) WHERE open = 1;
            CREATE INDEX receipts_expiry ON receipts (expires_at) WHERE open = 1 AND expires_at IS NOT NULL;
            """,
        ),
    ),
    _project,
    held="EXISTS (SELECT 1 FROM receipts WHERE receipts.seq = log.seq AND receipts.open = 1)",
    forget=_forget,
)

PROJECTIONS = (MAILBOX, HISTORY)
"""The hub's, in the order that they need: mail that waits is held, and then what was changed about it."""


class Mailboxes:
    """The boxes of everybody. `load` first; then whoever follows the log's tail hands every event to `seen`."""

    def __init__(self, log: SqliteLog, clock: Clock) -> None:
        self._log = log
        self._database = log.database
        self._clock = clock
        self._waiting: Counter[str] = Counter()
        self._coming: Counter[str] = Counter()
        """Accepted, and on its way into the log."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def load(self) -> int:
        """Count what waits, after a start. The seq after which `seen` is to go on."""

        def read(connection: sqlite3.Connection) -> tuple[int, list[tuple[str, int]]]:
            rows = connection.execute(
                "SELECT box, count(*) FROM receipts WHERE open = 1 AND state != ? GROUP BY box", (State.INJECTING,)
            )
            counted = [(row[0], row[1]) for row in rows]
            return connection.execute("SELECT head FROM log_state").fetchone()[0], counted

        head, counted = await self._database.read(read)
        self._waiting = Counter(dict(counted))
        return head

    def seen(self, events: Iterable[Event]) -> None:
        """Count what the log's tail brings."""
        for event in events:
            if event.kind == MESSAGE:
                data = fields(event)
                for stored in data.get("recipients", ()):
                    self._waiting[box(data["workspace"], stored["name"])] += stored["state"] in WAITING
            elif event.kind == RECEIPT:
                data = fields(event)
                self._waiting[data["box"]] += (data["recipient"]["state"] in WAITING) - (data["was"] in WAITING)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def accept(
        self,
        message: Message,
        recipients: Sequence[Recipient],
        streams: Sequence[str],
        *,
        counted: bool = False,
        also: Sequence[Change] = (),
        told: Sequence[New] = (),
    ) -> Accepted:
        """Store the message with its recipients, on the first stream; the others get a copy. Durable on return.

        It counts as waiting at once, so that a limit looked at before the next call sees it. What happens with it
        (`also`: it answers another; `told`: it is a question with a time limit) is stored with it or not at all.
        Raise `NotStored`.
        """
        coming = [box(message.workspace, r.name) for r in recipients if r.state in WAITING]
        self._coming.update(coming)
        events = [*_as_events(message, recipients, streams, counted), *told]
        try:
            if not also:
                return Accepted(*(await self._log.append(events))[0])
            async with self._changing(also) as standing:
                facts, _ = _stepped(also, standing, self._clock.now())
                return Accepted(*(await self._log.append([*events, *facts]))[0])
        finally:
            self._coming.subtract(coming)

    async def change(self, changes: Sequence[Change]) -> list[Recipient | None]:
        """Write down what happened, and return how each message then stands at its recipient.

        All of it is in one append, or nothing. What changes nothing is not written. `None` where there is no such
        message in the box (any more). Raise `NotStored`.
        """
        async with self._changing(changes) as standing:
            facts, after = _stepped(changes, standing, self._clock.now())
            await self._log.append(facts)
            return after

    @contextlib.asynccontextmanager
    async def _changing(self, changes: Sequence[Change]) -> AsyncIterator[list[_Standing | None]]:
        """How the messages stand that are to be changed, while nobody else changes anything in these boxes."""
        async with contextlib.AsyncExitStack() as held:
            for of in sorted({change.box for change in changes}):
                await held.enter_async_context(self._lock(of))
            yield await self._database.read(lambda c: _standing(c, changes))

    def _lock(self, of: str) -> asyncio.Lock:
        lock = self._locks.get(of)
        if lock is None:
            lock = self._locks[of] = asyncio.Lock()
        return lock

    # -- reading ---------------------------------------------------------------------------------------------------

    def waiting(self, of: str) -> int:
        """How many messages wait in a box; what is being handed over does not."""
        return self._waiting[of] + self._coming[of]

    def all_waiting(self) -> dict[str, int]:
        """The same for every box in which some do."""
        return {of: count for of, count in self._waiting.items() if count > 0}

    async def receipt(self, message: str) -> list[Recipient] | None:
        """How a message stands at each of its recipients; `None`: there is no such message (any more)."""

        def read(connection: sqlite3.Connection) -> list[Recipient] | None:
            known = connection.execute("SELECT 1 FROM messages WHERE id = ?", (message,)).fetchone()
            rows = connection.execute("SELECT recipient FROM receipts WHERE message = ? ORDER BY box", (message,))
            return [Recipient.from_json(json.loads(row[0])) for row in rows] if known else None

        return await self._database.read(read)

    async def standing(self, message: str, of: str) -> Recipient | None:
        """How a message stands in one box."""
        row = await self._database.read(
            lambda c: c.execute(
                "SELECT recipient FROM receipts WHERE message = ? AND box = ?", (message, of)
            ).fetchone()
        )
        return None if row is None else Recipient.from_json(json.loads(row[0]))

    async def open(self, of: str | None = None, *, limit: int = 500) -> list[Mail]:
        """What the hub has still to do about, oldest first: what waits, and what was being handed over, also by a
        hub that was killed. In one box, or in all."""
        where = "1" if of is None else "box = ?"
        values = () if of is None else (of,)
        return await self._mail(
            f"SELECT seq, recipient FROM receipts WHERE open = 1 AND {where} ORDER BY seq LIMIT ?", (*values, limit)
        )

    async def names_open(self, workspace: str) -> list[str]:
        """Whose boxes hold something that the hub has still to do about."""
        beginning = box(workspace, "")

        def read(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute("SELECT DISTINCT box FROM receipts WHERE open = 1 ORDER BY box")
            return [row[0].removeprefix(beginning) for row in rows if row[0].startswith(beginning)]

        return await self._database.read(read)

    async def open_in(self, thread: str) -> list[Mail]:
        """The same, of one conversation."""
        return await self._mail(
            "SELECT r.seq, r.recipient FROM messages m JOIN receipts r ON r.seq = m.seq"
            " WHERE m.thread = ? AND r.open = 1 ORDER BY r.seq",
            (thread,),
        )

    async def due(self, now: float) -> list[Mail]:
        """What its sender's time is over for, while the hub still has it."""
        return await self._mail(
            "SELECT seq, recipient FROM receipts WHERE open = 1 AND expires_at IS NOT NULL AND expires_at <= ?"
            " ORDER BY seq",
            (now,),
        )

    async def inbox(self, of: str, *, after: int = 0, limit: int = 50, newest: bool = False) -> list[Mail]:
        """A box's mail whatever became of it, oldest first: the first ones after a seq, or the last ones."""
        order = "DESC" if newest else "ASC"
        return await self._mail(
            f"SELECT seq, recipient FROM receipts WHERE box = ? AND seq > ? ORDER BY seq {order} LIMIT ?",
            (of, after, limit),
        )

    async def _mail(self, statement: str, values: Sequence[object]) -> list[Mail]:
        def read(connection: sqlite3.Connection) -> list[Mail]:
            rows = sorted(connection.execute(statement, values).fetchall(), key=lambda row: int(row["seq"]))
            return [_read_mail(connection, row["seq"], row["recipient"]) for row in rows]

        return await self._database.read(read)


# -- events and rows -----------------------------------------------------------------------------------------------


class _Standing(NamedTuple):
    """Where a message stands at one recipient, and where that is told."""

    seq: int
    stream: str
    recipient: Recipient


_MESSAGE = tuple(f.name for f in dataclasses.fields(Message) if f.name != "attachments")
_RECIPIENT = tuple(f.name for f in dataclasses.fields(Recipient))


def _as_events(message: Message, recipients: Sequence[Recipient], streams: Sequence[str], counted: bool) -> list[New]:
    """The message and its copies. Their bodies are what `from_json` reads; copying deeply, as `to_json` does, would
    cost more than storing them."""
    stored = {name: getattr(message, name) for name in _MESSAGE}
    stored["attachments"] = [dataclasses.asdict(attachment) for attachment in message.attachments]
    stored["recipients"] = [_plain(recipient) for recipient in recipients]
    if counted:
        stored[COUNTED] = True
    sender = f"{message.workspace}/{message.sender}"
    first = New.of(streams[0], MESSAGE, sender, stored, message.idempotency_key)
    return [first, *(first._replace(stream=stream, kind=COPY, key=None) for stream in streams[1:])]


def _plain(recipient: Recipient) -> dict[str, Any]:
    return {name: value for name in _RECIPIENT if (value := getattr(recipient, name)) is not None}


def _standing(connection: sqlite3.Connection, changes: Sequence[Change]) -> list[_Standing | None]:
    found: list[_Standing | None] = []
    for change in changes:
        row = connection.execute(
            "SELECT r.seq, r.recipient, log.sender FROM receipts r JOIN log ON log.seq = r.seq"
            " WHERE r.message = ? AND r.box = ?",
            (change.message, change.box),
        ).fetchone()
        if row is None:
            found.append(None)
        else:
            stream = receipts(*row["sender"].split("/", 1))
            found.append(_Standing(row["seq"], stream, Recipient.from_json(json.loads(row["recipient"]))))
    return found


def _stepped(
    changes: Sequence[Change], standing: Sequence[_Standing | None], now: float
) -> tuple[list[New], list[Recipient | None]]:
    """What is to be written, and how each message stands once all changes are made."""
    facts: list[New] = []
    latest: dict[tuple[str, str], Recipient] = {}
    for change, found in zip(changes, standing, strict=True):
        if found is None:
            continue
        which = (change.message, change.box)
        before = latest.get(which, found.recipient)
        after = latest[which] = step(before, change.event, now)
        if after is not before:
            fact = {
                "message": change.message,
                "seq": found.seq,
                "box": change.box,
                "was": before.state,
                "recipient": _plain(after),
            }
            facts.append(New.of(found.stream, RECEIPT, HUB, fact))
    return facts, [latest.get((change.message, change.box)) for change in changes]


def _read_mail(connection: sqlite3.Connection, seq: int, recipient: str) -> Mail:
    row = connection.execute(f"SELECT {EVENT} FROM log WHERE seq = ?", (seq,)).fetchone()
    shown = as_it_stands(connection, Event(*row))
    message = replace(Message.from_json(shown.event.data), text=shown.text or "")
    return Mail(seq, message, Recipient.from_json(json.loads(recipient)))
