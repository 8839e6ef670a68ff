"""What the log says, for whoever asks: history, resuming, search, who has read how far, how things stand now.

Everything here follows from the events alone and could be made anew from them. What holds:

- A reader who goes on from a position gets everything after it, in order, or is told that this cannot be (`Gap`).
  A page ends where the next one begins, also where nothing in between was for this reader.
- The cost of a page does not depend on how much is stored, nor on how many streams others write.
- An edit, a deletion, a reaction is an event of its own; the message stays what it was, and is shown as it is now.
- What was deleted is not told again: whoever reads the events of then gets them without what was said (`veiled`).
- The index of the words follows the log at a distance, behind a cursor of its own, so that it delays no append.
- Retention takes the oldest, by age and by size. It never takes what is kept (audit, cost), what a key was used for,
  nor mail that still waits for its reader.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fleet.clock import Clock
from fleet.db import Migrations
from fleet.errors import FleetError, StorageError
from fleet.hub.log import EVENT, PAGE, Event, Projection, SqliteLog, as_json, insert, is_kept, reading
from fleet.hub.message import SEQ_MAX, Position

MESSAGE = "message"
"""A message, as it was accepted: `Message.to_json()`, and its recipients."""
COPY = "copy"
"""The same on the stream of somebody who would not see it otherwise. It is no second message."""
EDIT = "edit"
"""`{message, text}`: what its sender says instead."""
DELETION = "deletion"
"""`{message}`: taken back."""
REACTION = "reaction"
"""`{message, reaction, on}`: somebody's sign at a message, set or taken away."""

CHANGES = (EDIT, DELETION, REACTION)
WORDED = (MESSAGE, EDIT, DELETION)
"""The kinds that the index of words follows."""

MOST = 1000
"""Events in one page."""
INDEXED_AT_ONCE = 100
"""Events that the index takes in with one write: what it holds an append up for."""
INDEX_PAUSE = 5.0
"""Seconds that the index lets events gather: each of its writes is a commit that an append may have to wait for …"""
INDEX_CROWD = 500
"""… unless so many have come. A search takes in more than that by itself."""
INDEX_LOOKS = 20
"""How often that is looked at meanwhile."""
CURSOR_PAUSE = 1.0
"""Seconds that a reader's cursor may wait for its commit."""


class Gap(FleetError):
    """The log cannot go on from that position: it is another log's, or retention has taken what followed."""


class Page(NamedTuple):
    """Events in their order, and where to go on."""

    events: list[Event]
    position: Position
    """The next page begins after it. Without `more`, that is the log's newest event at the time."""
    more: bool
    """There is more in the direction that was read."""


class Found(NamedTuple):
    """Events that hold the words, newest first."""

    events: list[Event]
    more: bool
    behind: int
    """Events that the index has not come to yet."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as it stands now."""

    event: Event
    text: str | None
    """`None`: deleted."""
    edited_at: float | None = None
    deleted_at: float | None = None
    reactions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each sign, who set it."""


def _project(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    new: list[object] = []
    for event in events:
        if event.kind == MESSAGE:
            data = fields(event)
            if isinstance(data.get("id"), str):
                new += (data["id"], event.seq, data.get("thread") or "")
        elif event.kind in CHANGES:
            _add(connection, new)
            connection.execute(
                "INSERT OR IGNORE INTO changes SELECT seq, ? FROM messages WHERE id = ?",
                (event.seq, str(fields(event).get("message"))),
            )
    _add(connection, new)


def _add(connection: sqlite3.Connection, new: list[object]) -> None:
    if new:
        insert(connection, "INSERT OR IGNORE INTO messages VALUES", "(?, ?, ?)", new)
        new.clear()


def _forget(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    indexed = _indexed(connection)
    for event in events:
        if event.kind != MESSAGE:
            continue
        if event.seq <= indexed and (text := _text_at(connection, event, indexed)) is not None:
            _unindex(connection, event.seq, text)
        connection.execute("DELETE FROM messages WHERE id = ?", (str(fields(event).get("id")),))
        connection.execute("DELETE FROM changes WHERE target = ?", (event.seq,))


_DIRECT = "kind IN ('message', 'copy') AND instr(stream, '/@') > 0"
"""What is said to somebody and not to a channel."""

HISTORY = Projection(
    Migrations(
        "history",
        (
            f"""
            CREATE TABLE messages (
                id TEXT PRIMARY KEY,
                seq INTEGER NOT NULL,
                thread TEXT NOT NULL
            ) STRICT, WITHOUT ROWID;
            CREATE INDEX messages_thread ON messages (thread, seq);
            CREATE TABLE changes (
                target INTEGER NOT NULL,
                seq INTEGER NOT NULL,
                PRIMARY KEY (target, seq)
            ) STRICT, WITHOUT ROWID;
            CREATE INDEX changes_seq ON changes (seq);
            CREATE TABLE cursors (reader TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
            CREATE INDEX log_direct ON log (stream, sender, seq) WHERE {_DIRECT};
            CREATE VIRTUAL TABLE words USING fts5 (
                text, content='', columnsize=0, tokenize="unicode61 remove_diacritics 2"
            );
            """,
        ),
    ),
    _project,
    held="EXISTS (SELECT 1 FROM changes JOIN log_held ON log_held.seq = changes.target WHERE changes.seq = log.seq)",
    forget=_forget,
    kinds=frozenset({MESSAGE, *CHANGES}),
)
"""After the projections whose held messages it has the changes of."""


def fields(event: Event) -> Mapping[str, Any]:
    """The body, where it is a JSON object; else nothing."""
    try:
        data = event.data
        return data if isinstance(data, dict) else {}
    except (ValueError, RecursionError):
        return {}


class History:
    """Answers from the log's file. `follow` keeps the index and the cursors up; `close` first, then the log."""

    def __init__(self, log: SqliteLog, clock: Clock) -> None:
        self._log = log
        self._database = log.database
        self._clock = clock
        self._cursors: dict[str, int] = {}
        """Set, and not yet written."""
        self._writing: asyncio.Task[None] | None = None
        self._indexing = asyncio.Lock()
        self._indexed = 0
        """How far the index has come, as far as it was looked at."""
        self._stirred = asyncio.Event()
        self._stirred.set()

    # -- reading ---------------------------------------------------------------------------------------------------

    async def read(
        self,
        *,
        streams: Collection[str] | None = None,
        within: str | None = None,
        kinds: Collection[str] | None = None,
        after: Position | None = None,
        before: int | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 200,
        newest: bool = False,
        veils: bool = False,
    ) -> Page:
        """Events of these streams and kinds (`None`: all, or those of the workspace `within`) in their order: the first
        ones after `after`, or, with `newest`, the last ones. `before` is a seq, `since` and `until` are times; the
        ends are not in it, `since` is. With `veils`, without what was said in messages that were deleted since.

        Raise `Gap` where `after` cannot be gone on from.
        """
        limit = max(1, min(limit, MOST))

        def read(connection: sqlite3.Connection) -> Page:
            epoch, head, trimmed = connection.execute("SELECT epoch, head, trimmed FROM log_state").fetchone()
            low = 0
            if after is not None:
                lasting = streams is not None and all(is_kept(stream) for stream in streams)
                _check_position(after, Position(epoch, 0 if lasting else trimmed), Position(epoch, head))
                low = after.seq
            high = head + 1 if before is None else min(before, head + 1)
            if since is not None:
                low = max(low, _before(connection, since, head))
            if until is not None:
                high = min(high, _before(connection, until, head) + 1)
            seqs = _seqs(connection, streams, within, kinds, low, high, limit + 1, newest)
            more = len(seqs) > limit
            events = _events(connection, seqs[:limit])
            if veils:
                events = veiled(connection, events)
            last = events[-1].seq if more and not newest else max(high - 1, low)
            return Page(events, Position(epoch, last), more)

        return await self._database.read(read)

    async def thread(self, thread: str, *, after: int = 0, limit: int = 200) -> Page:
        """The messages of a conversation, in their order."""
        limit = max(1, min(limit, MOST))

        def read(connection: sqlite3.Connection) -> Page:
            epoch, head = connection.execute("SELECT epoch, head FROM log_state").fetchone()
            rows = connection.execute(
                "SELECT seq FROM messages WHERE thread = ? AND seq > ? ORDER BY seq LIMIT ?", (thread, after, limit + 1)
            ).fetchall()
            events = _events(connection, [row[0] for row in rows[:limit]])
            more = len(rows) > limit
            return Page(events, Position(epoch, events[-1].seq if more else head), more)

        return await self._database.read(read)

    async def message(self, id: str) -> Event | None:
        """The event of a message; `None` where there is none, or retention has taken it."""

        def read(connection: sqlite3.Connection) -> Event | None:
            row = connection.execute("SELECT seq FROM messages WHERE id = ?", (id,)).fetchone()
            return next(iter(_events(connection, [row[0]])), None) if row else None

        return await self._database.read(read)

    async def at(self, seq: int) -> Event | None:
        """The event at a place; `None` where retention has taken it."""
        found = await self._database.read(lambda c: _events(c, [seq]))
        return found[0] if found else None

    async def by_key(self, sender: str, key: str) -> int | None:
        """Where the sender's key was used, for ever; the event itself may have been taken since."""
        row = await self._database.read(
            lambda c: c.execute("SELECT seq FROM log_keys WHERE sender = ? AND key = ?", (sender, key)).fetchone()
        )
        return row[0] if row else None

    async def shown(self, events: Sequence[Event]) -> list[Shown]:
        """Those of the events that are messages, as they stand now."""
        messages = [event for event in events if event.kind in (MESSAGE, COPY)]

        def read(connection: sqlite3.Connection) -> list[Shown]:
            return [as_it_stands(connection, event) for event in messages]

        return await self._database.read(read)

    async def between(
        self, workspace: str, one: str, other: str, *, before: int | None = None, limit: int = 50
    ) -> Page:
        """The newest that two have said to each other and to nobody else, before a seq."""
        limit = max(1, min(limit, MOST))
        ways = ((f"{workspace}/@{one}", f"{workspace}/{other}"), (f"{workspace}/@{other}", f"{workspace}/{one}"))

        def read(connection: sqlite3.Connection) -> Page:
            epoch, head = connection.execute("SELECT epoch, head FROM log_state").fetchone()
            of_each = [
                [
                    row[0]
                    for row in connection.execute(
                        "SELECT seq FROM log WHERE stream = ? AND sender = ? AND seq < ?"
                        f" AND {_DIRECT} ORDER BY seq DESC LIMIT ?",
                        (stream, sender, SEQ_MAX if before is None else before, limit + 1),
                    )
                ]
                for stream, sender in dict.fromkeys(ways)
            ]
            seqs = list(heapq.merge(*of_each, reverse=True))[: limit + 1]
            return Page(_events(connection, seqs[:limit]), Position(epoch, head), len(seqs) > limit)

        return await self._database.read(read)

    async def position_at(self, at: float) -> Position:
        """The place of a time: what comes after it happened then or later."""

        def read(connection: sqlite3.Connection) -> Position:
            epoch, head = connection.execute("SELECT epoch, head FROM log_state").fetchone()
            return Position(epoch, _before(connection, at, head))

        return await self._database.read(read)

    async def oldest(self) -> Position:
        """The earliest position to go on from with nothing missing."""
        row = await self._database.read(lambda c: c.execute("SELECT epoch, trimmed FROM log_state").fetchone())
        return Position(*row)

    async def export(self, after: Position | None = None) -> AsyncIterator[str]:
        """The log as lines of JSON: first what it is, then an event each, its body as the exact text that was stored.

        Without `after` all there is; with it what came since, so that the lines are a backup of that much. Raise
        `Gap` where something in between is gone.
        """
        first = await self.read(after=after, limit=1)
        head = self._log.head
        yield _line({"epoch": first.position.epoch, "after": after.seq if after else 0, "head": head})
        seq = after.seq if after else 0
        while True:
            rows = await self._database.read(functools.partial(_exported, after=seq, head=head))
            for row in rows:
                seq = row["seq"]
                yield _line({**row, "body": row["body"].decode(), "hash": row["hash"].hex()})
            if len(rows) < PAGE:
                return

    # -- searching -------------------------------------------------------------------------------------------------

    async def search(
        self,
        words: str,
        *,
        streams: Collection[str] | None = None,
        sender: str | None = None,
        within: str | None = None,
        before: int | None = None,
        limit: int = 20,
    ) -> Found:
        """Messages that hold all of the words, newest first; `"two words"` stand together, `wor*` begins a word.

        With `streams`, those that are there, and those that `sender` has sent wherever they went.
        `before` is the seq of the last one on the page before. What was said a moment ago is found as well, but for
        a long tail of it, which `behind` counts.
        """
        limit = max(1, min(limit, MOST))
        match = _match(words)
        for _ in range(MOST // INDEXED_AT_ONCE):
            if not await self.index():
                break

        def read(connection: sqlite3.Connection) -> Found:
            head = connection.execute("SELECT head FROM log_state").fetchone()[0]
            behind = head - _indexed(connection)
            if not match:
                return Found([], False, behind)
            where = ""
            if streams is not None:
                where = " AND (log.stream IN (SELECT value FROM json_each(:streams)) OR log.sender = :sender)"
            if within is not None:
                where += " AND log.stream >= :within || '/' AND log.stream < :within || '0'"
            rows = connection.execute(
                "SELECT words.rowid FROM words JOIN log ON log.seq = words.rowid"
                f" WHERE words MATCH :match AND words.rowid < :before{where} ORDER BY words.rowid DESC LIMIT :limit",
                {
                    "match": match,
                    "before": SEQ_MAX if before is None else before,
                    "streams": json.dumps([] if streams is None else list(streams)),
                    "sender": sender,
                    "within": within,
                    "limit": limit + 1,
                },
            ).fetchall()
            events = _events(connection, [row[0] for row in rows[:limit]])
            return Found(events[::-1], len(rows) > limit, behind)

        return await self._database.read(read)

    async def index(self) -> bool:
        """Take some more events into the index of words. Whether there may be more to take."""
        async with self._indexing:
            start, end, steps = await self._database.read(_to_index)
            if end > start:
                await self._database.write(lambda c: _index(c, end, steps))
            self._indexed = end
            return end < self._log.head

    async def follow(self) -> None:
        """Keep the index up with the log, for as long as this runs: a while after whoever follows the log's tail has
        said so (`stir`). While appends wait, it takes a little at a time."""
        while True:
            await self._stirred.wait()
            for _ in range(INDEX_LOOKS):
                await self._clock.sleep(INDEX_PAUSE / INDEX_LOOKS)
                if self._log.head - self._indexed >= INDEX_CROWD:
                    break
            self._stirred.clear()
            try:
                while (more := await self.index()) and self._log.idle:
                    pass
            except StorageError:  # a full disk: later
                more = True
            if more:
                self._stirred.set()

    def stir(self) -> None:
        """There is something new in the log."""
        self._stirred.set()

    # -- cursors ---------------------------------------------------------------------------------------------------

    async def cursor(self, reader: str) -> int | None:
        """How far the reader says it has come; `None`: it never said."""
        if reader in self._cursors:
            return self._cursors[reader]
        row = await self._database.read(
            lambda c: c.execute("SELECT seq FROM cursors WHERE reader = ?", (reader,)).fetchone()
        )
        return row[0] if row else None

    def set_cursor(self, reader: str, seq: int) -> None:
        """The reader has all up to here. It never goes back. It is written within a second or so; after a kill the
        reader is given again what it may have, never less."""
        self._cursors[reader] = max(seq, self._cursors.get(reader, 0))
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_cursors_soon())

    async def _write_cursors_soon(self) -> None:
        try:
            await self._clock.sleep(CURSOR_PAUSE)
        finally:
            self._writing = None
        await self._write_cursors()

    async def _write_cursors(self) -> None:
        rows = list(self._cursors.items())
        if not rows:
            return
        try:
            await self._database.write(
                lambda c: c.executemany(
                    "INSERT INTO cursors VALUES (?, ?) ON CONFLICT (reader) DO UPDATE SET seq = max(seq, excluded.seq)",
                    rows,
                )
            )
        except StorageError:  # they are still set, and go with the next
            return
        for reader, seq in rows:
            if self._cursors.get(reader) == seq:
                del self._cursors[reader]

    async def close(self) -> None:
        """Write the cursors that wait."""
        if self._writing:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._write_cursors()


async def retain(log: SqliteLog, now: float, days: float, megabytes: float) -> int:
    """Take what is older than that, and what is beyond that size. How many events went."""
    return await log.trim(now - days * 86_400, int(megabytes * 1_000_000))


# -- rows ----------------------------------------------------------------------------------------------------------


def _check_position(after: Position, oldest: Position, head: Position) -> None:
    told = {"asked": str(after), "oldest": str(oldest), "head": str(head)}
    if after.epoch != head.epoch:
        raise Gap("That position is of another log: this one was made or restored since.", reason="epoch", **told)
    if after.seq > head.seq:
        raise Gap("That position is ahead of the log.", reason="ahead", **told)
    if after.seq < oldest.seq:
        raise Gap("What followed that position is no longer kept.", reason="trimmed", **told)


def _seqs(
    connection: sqlite3.Connection,
    streams: Collection[str] | None,
    within: str | None,
    kinds: Collection[str] | None,
    low: int,
    high: int,
    limit: int,
    newest: bool,
) -> list[int]:
    """The seqs between both, in the order of reading. Each stream is asked on its own: an index answers that, however
    much others have said."""
    order = "DESC" if newest else "ASC"
    of_kind = f" AND kind IN ({','.join('?' * len(kinds))})" if kinds is not None else ""
    values = (*(kinds or ()), limit)
    between = f"seq > ? AND seq < ?{of_kind} ORDER BY seq {order} LIMIT ?"
    if streams is None:
        inside = " AND +stream >= ? AND +stream < ?" if within is not None else ""  # the + keeps to the order of seq
        values = (*(kinds or ()), *((f"{within}/", f"{within}0") if within is not None else ()), limit)
        between = f"seq > ? AND seq < ?{of_kind}{inside} ORDER BY seq {order} LIMIT ?"
        return [row[0] for row in connection.execute(f"SELECT seq FROM log WHERE {between}", (low, high, *values))]
    of_each = [
        [
            row[0]
            for row in connection.execute(
                f"SELECT seq FROM log WHERE stream = ? AND {between}", (stream, low, high, *values)
            )
        ]
        for stream in dict.fromkeys(streams)
    ]
    return list(heapq.merge(*of_each, reverse=newest))[:limit]


def _events(connection: sqlite3.Connection, seqs: Sequence[int]) -> list[Event]:
    """These events, oldest first."""
    rows = connection.execute(
        f"SELECT {EVENT} FROM log WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq", (json.dumps(seqs),)
    )
    return [Event(*row) for row in rows]


def _before(connection: sqlite3.Connection, at: float, head: int) -> int:
    """The last seq that is earlier than that time: times never fall, so it is halved for, not looked through."""
    low, high = 0, head  # low is earlier; what is after high is not
    while low < high:
        middle = (low + high + 1) // 2
        row = connection.execute("SELECT seq, at FROM log WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,)).fetchone()
        if row is None or row["at"] >= at:
            high = middle - 1
        else:
            low = row["seq"]
    return low


def as_it_stands(connection: sqlite3.Connection, event: Event) -> Shown:
    """A message, or a copy of one, with what has changed since."""
    return _shown(event, _changes(connection, _seq_of(connection, event)))


def veiled(connection: sqlite3.Connection, events: Sequence[Event]) -> list[Event]:
    """The same events; those that say what a message said that was deleted since say that instead."""
    of = {event.seq: _said_in(connection, event) for event in events if event.kind in (MESSAGE, COPY, EDIT)}
    if not of:
        return list(events)
    rows = connection.execute(
        "SELECT changes.target, log.at FROM changes JOIN log ON log.seq = changes.seq"
        " WHERE changes.target IN (SELECT value FROM json_each(?)) AND log.kind = ?",
        (json.dumps([*of.values()]), DELETION),
    )
    deleted = dict(iter(rows))
    return [_veiled(event, deleted[of[event.seq]]) if of.get(event.seq) in deleted else event for event in events]


def _said_in(connection: sqlite3.Connection, event: Event) -> int | None:
    """Where the message is whose words an event has."""
    if event.kind != EDIT:
        return _seq_of(connection, event)
    row = connection.execute("SELECT target FROM changes WHERE seq = ?", (event.seq,)).fetchone()
    return row[0] if row else None


def _veiled(event: Event, at: float) -> Event:
    data = {**fields(event), "text": None, "deleted_at": at}
    if event.kind != EDIT:
        data |= {"attachments": [], "metadata": {}}
    return replace(event, body=as_json(data).encode(), _data=data)


def _seq_of(connection: sqlite3.Connection, event: Event) -> int:
    """Where the message itself is, also for a copy of it."""
    if event.kind == MESSAGE:
        return event.seq
    row = connection.execute("SELECT seq FROM messages WHERE id = ?", (str(fields(event).get("id")),)).fetchone()
    return row[0] if row else event.seq


def _changes(connection: sqlite3.Connection, target: int, up_to: int = SEQ_MAX) -> list[Event]:
    rows = connection.execute(
        f"SELECT {EVENT} FROM log WHERE seq IN (SELECT seq FROM changes WHERE target = ? AND seq <= ?) ORDER BY seq",
        (target, up_to),
    )
    return [Event(*row) for row in rows]


def _shown(event: Event, changes: Iterable[Event]) -> Shown:
    text: str | None = _text(event)
    edited_at = deleted_at = None
    reactions: dict[str, list[str]] = {}
    for change in changes:
        data = fields(change)
        if change.kind == DELETION:
            text, deleted_at = None, change.at
        elif change.kind == EDIT and deleted_at is None:
            text, edited_at = _text(change), change.at
        elif change.kind == REACTION:
            names = reactions.setdefault(str(data.get("reaction")), [])
            name = change.sender.rpartition("/")[2]
            if name in names:
                names.remove(name)
            if data.get("on", True):
                names.append(name)
    signs = {sign: tuple(names) for sign, names in reactions.items() if names}
    return Shown(event, text, edited_at, deleted_at, signs if deleted_at is None else {})


def export(path: Path, after: Position | None = None) -> Iterator[str]:
    """The lines of `History.export`, from a log's file that no hub need have open."""
    with reading(path) as connection:
        connection.execute("BEGIN")  # all of one moment
        state = connection.execute("SELECT epoch, head, trimmed FROM log_state").fetchone()
        epoch, head = state["epoch"], state["head"]
        if after is not None:
            _check_position(after, Position(epoch, state["trimmed"]), Position(epoch, head))
        seq = after.seq if after else 0
        yield _line({"epoch": epoch, "after": seq, "head": head})
        while rows := _exported(connection, seq, head):
            for row in rows:
                yield _line({**row, "body": row["body"].decode(), "hash": row["hash"].hex()})
            seq = rows[-1]["seq"]


def _exported(connection: sqlite3.Connection, after: int, head: int) -> list[dict[str, Any]]:
    rows = connection.execute(
        f"SELECT {EVENT}, hash FROM log WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?", (after, head, PAGE)
    )
    return [dict(row) for row in rows]


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# -- words ---------------------------------------------------------------------------------------------------------

_INDEX = "!words"
"""The index's own cursor."""


class _Step(NamedTuple):
    """What an event does to the index."""

    seq: int
    was: str | None
    """The text that goes."""
    now: str | None


def _text(event: Event) -> str:
    text = fields(event).get("text")
    return text if isinstance(text, str) else ""


def _indexed(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM cursors WHERE reader = ?", (_INDEX,)).fetchone()
    return row[0] if row else 0


def _to_index(connection: sqlite3.Connection) -> tuple[int, int, list[_Step]]:
    """From where to where the next step of the index goes, and what it does."""
    start = _indexed(connection)
    head = connection.execute("SELECT head FROM log_state").fetchone()[0]
    end = min(head, start + 20 * INDEXED_AT_ONCE)
    rows = connection.execute(
        f"SELECT {EVENT} FROM log WHERE seq > ? AND seq <= ? AND kind IN (?, ?, ?) ORDER BY seq LIMIT ?",
        (start, end, *WORDED, INDEXED_AT_ONCE),
    ).fetchall()
    if len(rows) == INDEXED_AT_ONCE:
        end = rows[-1]["seq"]
    return start, end, [step for row in rows for step in _steps(connection, Event(*row))]


def _steps(connection: sqlite3.Connection, event: Event) -> Iterator[_Step]:
    if event.kind == MESSAGE:
        yield _Step(event.seq, None, _text(event))
        return
    found = connection.execute(
        f"SELECT {EVENT} FROM log WHERE seq = (SELECT target FROM changes WHERE seq = ?)", (event.seq,)
    ).fetchone()
    if found is None:
        return
    target = Event(*found)
    was = _text_at(connection, target, event.seq - 1)
    if was is not None:
        yield _Step(target.seq, was, None if event.kind == DELETION else _text(event))


def _text_at(connection: sqlite3.Connection, target: Event, up_to: int) -> str | None:
    """What the message said when the log was this long."""
    return _shown(target, _changes(connection, target.seq, up_to)).text


def _index(connection: sqlite3.Connection, end: int, steps: Sequence[_Step]) -> None:
    for step in steps:
        if not connection.execute("SELECT 1 FROM log WHERE seq = ?", (step.seq,)).fetchone():
            continue  # retention was here since; it took the words it found
        if step.was is not None:
            _unindex(connection, step.seq, step.was)
        if step.now is not None:
            connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (step.seq, step.now))
    connection.execute(
        "INSERT INTO cursors VALUES (?, ?) ON CONFLICT (reader) DO UPDATE SET seq = excluded.seq", (_INDEX, end)
    )


def _unindex(connection: sqlite3.Connection, seq: int, text: str) -> None:
    connection.execute("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", (seq, text))


_WORD = re.compile(r'"([^"]*)"|(\S+)')


def _match(words: str) -> str:
    """A person's words as a question to FTS5, in which nothing but a closing `*` has a meaning."""
    asked = []
    for phrase, word in _WORD.findall(words):
        text = (phrase or word).replace('"', " ").replace("\0", " ")
        if any(c.isalnum() for c in text):
            star = "*" if word.endswith("*") else ""
            asked.append(f'"{text.rstrip("*")}"{star}')
    return " ".join(asked)
