"""The hub's append-only log: what is in it is on the disk, in one order, for everybody the same.

Two parts, with the seam between them:

- The *authority* decides order, durability and ownership, in three verbs: append, tail, lease (`Authority`). Here it is
  SQLite (`SqliteLog`); a replicated log can take its place without a caller noticing.
- *Projections* answer every question (`projection.py`, `mailbox.py`). They are tables that follow from the events
  alone. Here they are written in the transaction that stores the event, so that nothing is ever shown that a reader
  could not find; with another authority, whoever follows its tail writes them before it shows anything.

What holds:

- `append` returns after the commit. A key is good for one append per sender for ever, also when retention has taken
  the event itself: the repeat changes nothing and is told where the first one is.
- `seq` rises by one from event to event and never twice; `at` never falls. `epoch` says which log it is: a new one is
  minted when the log is made, and when an older state of it has been put in its place.
- Every event carries the hash of all before it. Those on a kept stream (audit, cost) are chained a second time among
  themselves, so that they can be checked after retention has taken the rest.
- A full disk is an answer (`NotStored`), not an accident. Until there is space again only kept streams are written,
  from a reserve.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from fleet.clock import Clock
from fleet.db import Database, Migrations
from fleet.errors import NotAllowed, StorageError, StorageFull
from fleet.hub.message import Position

_log = logging.getLogger(__name__)

KEPT = frozenset({"!audit", "!cost"})
_KEPT = tuple(KEPT)
"""Streams that retention never touches, in every workspace."""

PAGE = 500
"""Events in one read of a catch-up."""

TRIM = 200
"""Events that retention looks at in one write."""

ROW = 160
"""What an event takes on the disk beside its body, in bytes, about."""

CACHE = 8 * 1024
"""KiB of the file that the writer keeps in memory: the index of keys is written to all over."""

RESERVE = 16 * 1024 * 1024
"""Bytes set aside for a full disk, so that the audit goes on and retention can make space."""

WATERMARK_PAUSE = 0.05
"""Seconds that the log's watermark may lag behind it."""

SAFE_SQLITE = (3, 51, 3)
"""The first one in which two connections cannot damage a WAL database by writing and checkpointing at one moment."""


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
_c_encoder = (
    c_make_encoder(None, _encoder.default, encode_basestring, None, ":", ",", False, False, True)
    if c_make_encoder is not None
    else None
)


def as_json(value: Any) -> str:
    """The value as JSON, without spaces. The encoder is made once: `json` makes one for every value, which costs as
    much as its work."""
    return _encoder.encode(value) if _c_encoder is None else "".join(_c_encoder(value, 0))


quoted: Callable[[str], str] = encode_basestring
"""A string as JSON."""


class NotStored(StorageError):
    """The hub could not store it. Nothing of it is kept; send it again, with the same key, once there is space."""


class New(NamedTuple):
    """What is to be appended."""

    stream: str
    """Where it belongs: `WORKSPACE/#channel`, `WORKSPACE/@name`, `WORKSPACE/!audit`."""
    kind: str
    sender: str
    body: bytes
    """JSON."""
    key: str | None = None
    """Good once per sender."""
    data: Any = None
    """The body's JSON, where it is at hand: then nobody has to read it again. It is not changed any more."""

    @classmethod
    def of(cls, stream: str, kind: str, sender: str, data: Any, key: str | None = None) -> New:
        """The same from a JSON value: of lists and strings, as reading it again would give it."""
        return cls(stream, kind, sender, as_json(data).encode(), key, data)


@dataclass(slots=True)
class Event:
    """What is in the log. Nobody changes it. (To be frozen would cost each message more than its making.)"""

    seq: int
    at: float
    stream: str
    kind: str
    sender: str
    body: bytes
    key: str | None = None
    _data: Any = field(default=None, repr=False, compare=False)
    """The body's JSON, once somebody has asked for it."""

    @property
    def data(self) -> Any:
        """The body's JSON, read once."""
        if self._data is None:
            self._data = json.loads(self.body)
        return self._data


class Stored(NamedTuple):
    """Where an appended event is."""

    seq: int
    duplicate: bool
    """It was there before: its key is known."""


class Lease(NamedTuple):
    """Something owned for a time."""

    key: str
    owner: str
    token: int
    """Higher than any that was given before: whoever comes with a lower one is late."""
    until: float


OnEvents = Callable[[Sequence[Event]], None]
Went = list[Stored] | Exception
"""How an append went: where its events are, or what went wrong."""
Told = Callable[[Went], None]
"""Hears how an append went."""
AllTold = Callable[[list[Went]], None]
"""Hears how each of several went."""


class Authority(Protocol):
    """Order, durability, ownership. Nothing else is asked of a log."""

    @property
    def epoch(self) -> str:
        """Which log this is."""

    async def append(self, batch: Sequence[New]) -> list[Stored]:
        """Store all or nothing, one after the other; return once that is durable. Only the first may have a key: it
        stands for all of them. Raise `NotStored`; the log is then as it was, or, where nobody can say, the key tells.
        """

    def tail(self, after: int, on_events: OnEvents) -> None:
        """Hand over every event after `after`, once, in order, projected already. One tail per process."""

    async def acquire(self, key: str, owner: str, ttl: float) -> Lease | None:
        """Own `key` for `ttl` seconds; `None` where somebody else does. An owner who asks again gets a new token."""

    async def renew(self, lease: Lease, ttl: float) -> bool:
        """Own it for `ttl` seconds from now; false where it has been lost."""

    async def release(self, lease: Lease) -> None:
        """Give it back, if it is still owned."""


Project = Callable[[sqlite3.Connection, Sequence[Event]], None]


@dataclass(frozen=True, slots=True)
class Projection:
    """Tables that follow from the events alone."""

    migrations: Migrations
    project: Project
    """Write what these events mean. They come in order, each once. What it raises, the append of that event raises, and
    nothing of it is stored."""
    held: str | None = None
    """A condition on the column `seq`: events that retention leaves where they are, because somebody waits for them."""
    forget: Project | None = None
    """Retention is about to take these events."""
    kinds: frozenset[str] | None = None
    """The kinds of events that mean something to it; `None`: it is handed all."""


LOG_MIGRATIONS = Migrations(
    "log",
    (
        """
        CREATE TABLE log (
            seq INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            stream TEXT NOT NULL,
            kind TEXT NOT NULL,
            sender TEXT NOT NULL,
            key TEXT,
            body BLOB NOT NULL,
            hash BLOB NOT NULL,
            kept_hash BLOB
        ) STRICT;
        CREATE INDEX log_stream ON log (stream, seq);
        CREATE TABLE log_keys (
            sender TEXT NOT NULL,
            key TEXT NOT NULL,
            seq INTEGER NOT NULL,
            PRIMARY KEY (sender, key)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE log_state (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            epoch TEXT NOT NULL,
            copied INTEGER NOT NULL DEFAULT 0,
            head INTEGER NOT NULL DEFAULT 0,
            at REAL NOT NULL DEFAULT 0,
            hash BLOB NOT NULL,
            kept_hash BLOB NOT NULL,
            bytes INTEGER NOT NULL DEFAULT 0,
            trimmed INTEGER NOT NULL DEFAULT 0,
            trimmed_hash BLOB NOT NULL,
            fence INTEGER NOT NULL DEFAULT 0
        ) STRICT;
        CREATE TABLE log_held (seq INTEGER PRIMARY KEY) STRICT;
        CREATE TABLE log_projections (
            module TEXT PRIMARY KEY,
            seq INTEGER NOT NULL,
            whole INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE leases (
            key TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            token INTEGER NOT NULL,
            until REAL NOT NULL
        ) STRICT, WITHOUT ROWID;
        """,
    ),
)

EVENT = "seq, at, stream, kind, sender, body, key"
"""The columns of an `Event`, in its order."""

NO_HASH = bytes(32)
"""What stands before the first event."""


class SqliteLog:
    """The authority in one SQLite file. Made by `open`; `close` it."""

    def __init__(self, database: Database, clock: Clock, projections: Sequence[Projection], reserve: _Reserve) -> None:
        self.database = database
        self.projections = tuple(projections)
        self.epoch = ""
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: list[_Waiting] = []
        self._settling = 0
        """Writes of events that are under way."""
        self._settled = asyncio.Event()
        """None is."""
        self._settled.set()
        self._on_events: OnEvents | None = None
        self._told = 0
        self._catching_up: asyncio.Task[None] | None = None
        self._head = 0
        self._watermark = _Watermark(database.path)
        self._reserve = reserve
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        clock: Clock,
        projections: Sequence[Projection] = (),
        *,
        reserve: int = RESERVE,
        free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> SqliteLog:
        """Open or make the log, with the tables of its projections. One process at a time.

        `reserve` is the space set aside for a full disk, `free` says what is left in a folder. Raise `StorageError`
        (`NetworkFilesystem`, `SchemaTooNew`, `StorageFull`) where the log cannot be used.
        """
        migrations = [LOG_MIGRATIONS, *(projection.migrations for projection in projections)]
        database = await asyncio.to_thread(Database.open, path, migrations, roomy=True)
        log = cls(database, clock, projections, _Reserve(path.with_name(path.name + "-reserve"), reserve, free))
        try:
            await log._begin()
        except BaseException:
            await log.close()
            raise
        return log

    async def _begin(self) -> None:
        await self.database.write(lambda c: c.execute(f"PRAGMA cache_size = -{CACHE}").rowcount)
        marked = self._watermark.read()
        self.epoch, self._head, restored = await self.database.write(lambda c: _which_log(c, marked))
        self._watermark.open(self.epoch, self._head)
        for projection in self.projections:
            await self._fill(projection)
        self._reserve.set_aside()
        if restored:
            await self.append([New.of("!audit", "restored", "fleet", restored)])

    async def _fill(self, projection: Projection) -> None:
        """Bring a projection that is new to this log up to where it stands; a kill in between does no harm."""
        while await self.database.write(lambda c: _fill(c, projection)):
            pass

    @property
    def head(self) -> int:
        """The newest event that is committed and known to be."""
        return self._head

    @property
    def position(self) -> Position:
        """The place after the newest event: where a late joiner begins."""
        return Position(self.epoch, self._head)

    @property
    def read_only(self) -> bool:
        """The disk is full: only kept streams are written."""
        return self._reserve.spent

    @property
    def idle(self) -> bool:
        """Nobody waits for an append."""
        return not self._settling

    async def append(self, batch: Sequence[New]) -> list[Stored]:
        """See `Authority`. A caller that is cancelled leaves its events to be stored."""
        future: asyncio.Future[list[Stored]] = asyncio.get_running_loop().create_future()
        self.submit(batch, answer_of(future))
        return await future

    def submit(self, batch: Sequence[New], told: Told) -> None:
        """The same without waiting: `told` is called once, on the loop, and does not raise. Those of one commit are
        told one after the other, after the tail has been."""
        if not batch:
            told([])
            return
        self.submit_each((batch,), lambda went: told(went[0]))

    def submit_each(self, appends: Sequence[Sequence[New]], told: AllTold) -> None:
        """Several appends, each as `submit` takes it and each for itself; `told` is called once, when it is known how
        all of them went."""
        for batch in appends:
            _check(batch)
        if (refused := self._refused(appends)) is not None:
            told([refused] * len(appends))
            return
        with self._lock:
            self._pending.append(_Waiting(appends, told))
            first = len(self._pending) == 1
        if first:
            self._settle_soon([])

    def _refused(self, appends: Sequence[Sequence[New]]) -> NotStored | None:
        """Why nothing of this can be stored now."""
        if self._closed:
            return NotStored("The hub's log is closed.")
        if self._reserve.spent and not self._writable(appends):
            hint = f"Free some space; it goes on by itself where {2 * self._reserve.size / 2**20:.0f} MB are free."
            return NotStored("The disk is full: the hub only reads until there is space again.", hint=hint)
        return None

    def _writable(self, appends: Sequence[Sequence[New]]) -> bool:
        """Whether a log that ran out of space takes this: there is space again, or it is of kept streams."""
        return self._reserve.set_aside() or all(is_kept(new.stream) for batch in appends for new in batch)

    def tail(self, after: int, on_events: OnEvents) -> None:
        """See `Authority`. `on_events` is called on the loop and does not wait; what it raises is logged, and the next
        events come."""
        if self._on_events is not None:
            raise RuntimeError("the log has its tail already")
        self._on_events, self._told = on_events, after
        if after < self._head:
            self._catch_up()

    async def acquire(self, key: str, owner: str, ttl: float) -> Lease | None:
        """See `Authority`."""
        return await self.database.write(lambda c: _acquire(c, key, owner, self._clock.now(), ttl))

    async def renew(self, lease: Lease, ttl: float) -> bool:
        """See `Authority`."""
        now = self._clock.now()
        renewed = await self.database.write(
            lambda c: (
                c.execute(
                    "UPDATE leases SET until = ? WHERE key = ? AND owner = ? AND token = ? AND until > ?",
                    (now + ttl, lease.key, lease.owner, lease.token, now),
                ).rowcount
            )
        )
        return renewed == 1

    async def release(self, lease: Lease) -> None:
        """See `Authority`."""
        await self.database.write(
            lambda c: c.execute("DELETE FROM leases WHERE key = ? AND token = ?", (lease.key, lease.token)).rowcount
        )

    async def trim(self, before: float, most: int) -> int:
        """Take the oldest events: those from before that time, and those beyond so many bytes, in steps that hold
        nobody up. Kept streams stay, and what a projection holds. How many went. The space is the log's to use again.
        """
        steps: tuple[Callable[[sqlite3.Connection], tuple[int, int]], ...] = (
            lambda c: _trim(c, before, most, self.projections),
            lambda c: _let_go(c, self.projections),
        )
        gone = 0
        for step in steps:
            passed = 1
            while passed:
                passed, taken = await self.database.write(step)
                gone += taken
        if self._reserve.spent and await self.database.read(_free_inside) >= 2 * self._reserve.size:
            self._reserve.spent = False
        return gone

    async def back_up(self, target: Path) -> None:
        """See `back_up`."""
        await asyncio.to_thread(back_up, self.database.path, target)

    async def verify(self) -> Verified:
        """See `verify`."""
        return await asyncio.to_thread(verify, self.database.path)

    async def close(self) -> None:
        """Store and tell what waits, then let go of the file."""
        self._closed = True
        while self._settling:
            await self._settled.wait()
        if self._catching_up:
            await self._catching_up
        await self.database.close()
        self._watermark.close()

    # -- one commit's worth ----------------------------------------------------------------------------------------

    def _settle_soon(self, taken: list[_Waiting]) -> None:
        """Once the loop has done what it is at: more may come with it, and the writer does not fight with it for the
        interpreter's lock meanwhile."""
        self._settling += 1
        self._settled.clear()
        asyncio.get_running_loop().call_soon(self._settle, taken)

    def _settle(self, taken: list[_Waiting]) -> None:
        """Store these, or, where there are none, what waits by the time the writer comes to it; show it, and tell
        those who wait."""

        def store(connection: sqlite3.Connection) -> _Outcome:
            if not taken:  # else its transaction was lost through another's fault
                taken.extend(self._take())
            return _store(connection, taken, self._clock.now(), self.projections)

        def done(outcome: _Outcome | None, error: BaseException | None) -> None:
            if outcome is None or error is not None:
                self._settle_failed(taken or self._take(), error)
            else:
                self._committed(outcome.events)
                for waiting, went in zip(taken, outcome.went, strict=True):
                    _tell(waiting, went)
            over()

        def over() -> None:
            self._settling -= 1
            if not self._settling:
                self._settled.set()

        try:
            self.database.submit(store, done)
        except StorageError as error:
            for one in taken or self._take():
                _tell(one, [error] * len(one.appends))
            over()

    def _take(self) -> list[_Waiting]:
        with self._lock:
            taken, self._pending = self._pending, []
        return taken

    def _settle_failed(self, waiting: Sequence[_Waiting], error: BaseException | None) -> None:
        if isinstance(error, StorageFull):
            self._reserve.spend()
        elif sum(len(one.appends) for one in waiting) > 1:  # it may be one of them: each on its own
            for one in waiting:
                for alone in one.apart():
                    self._settle_soon([alone])
            return
        if isinstance(error, StorageError):
            refused = NotStored(f"The hub could not store it. {error}", hint=error.hint)
            refused.__cause__ = error
            error = refused
        elif not isinstance(error, Exception):
            error = NotStored(f"The hub could not store it. {error!r}")
        for one in waiting:
            _tell(one, [error] * len(one.appends))

    # -- the tail --------------------------------------------------------------------------------------------------

    def _committed(self, events: Sequence[Event]) -> None:
        if not events:
            return
        self._head = max(self._head, events[-1].seq)
        self._watermark.rise(self._head)
        if self._on_events is None or self._catching_up or events[-1].seq <= self._told:
            return  # a catch-up reads it, or has read it
        if events[0].seq == self._told + 1:
            self._show(events)
        else:
            self._catch_up()

    def _show(self, events: Sequence[Event]) -> None:
        assert self._on_events is not None
        self._told = events[-1].seq
        try:
            self._on_events(events)
        except Exception:  # noqa: BLE001  a reader's fault is not the log's
            _log.exception("the tail's reader failed at events %d to %d", events[0].seq, events[-1].seq)

    def _catch_up(self) -> None:
        self._catching_up = asyncio.get_running_loop().create_task(self._read_up())

    async def _read_up(self) -> None:
        """Tell from the file until the head is reached, and then go on live, with no wait in between."""
        try:
            while self._told < self._head:
                try:
                    events = await self.database.read(lambda c: events_after(c, self._told, PAGE))
                except StorageError:
                    if self._closed:
                        return
                    _log.exception("the log could not be read from %d on; again in a second", self._told)
                    await self._clock.sleep(1)
                    continue
                if not events:  # retention has taken all up to the head
                    self._told = self._head
                    return
                self._show(events)
        finally:
            self._catching_up = None


def is_kept(stream: str) -> bool:
    """Whether retention leaves the stream alone."""
    return stream.rpartition("/")[2] in KEPT


def events_after(connection: sqlite3.Connection, after: int, limit: int) -> list[Event]:
    """The next events of the whole log."""
    rows = connection.execute(f"SELECT {EVENT} FROM log WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
    return [Event(*row) for row in rows]


def wal_reset_bug(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str | None:
    """What there is to know about this SQLite: `None`, or the bug by its name, for whoever looks after the machine."""
    if version >= SAFE_SQLITE or version < (3, 7, 0):
        return None
    here, fixed = (".".join(map(str, each)) for each in (version, SAFE_SQLITE))
    return (
        f"SQLite {here} has the WAL-reset bug (fixed in {fixed}). fleet writes through one connection and is safe; "
        "let no other program write to its databases."
    )


# -- storing -------------------------------------------------------------------------------------------------------


class _Waiting(NamedTuple):
    """Appends that wait, and who waits for all of them."""

    appends: Sequence[Sequence[New]]
    told: AllTold

    def apart(self) -> list[_Waiting]:
        """Each append alone. Who waits is told once the last of them went."""
        if len(self.appends) == 1:
            return [self]
        went: dict[int, Went] = {}

        def told(number: int, how: list[Went]) -> None:
            [went[number]] = how
            if len(went) == len(self.appends):
                self.told([how for _, how in sorted(went.items())])

        return [_Waiting((batch,), functools.partial(told, number)) for number, batch in enumerate(self.appends)]


def _tell(waiting: _Waiting, went: list[Went]) -> None:
    try:
        waiting.told(went)
    except Exception:  # noqa: BLE001  one asker's fault is not another's
        _log.exception("who waited for an append failed to hear of it")


class _Outcome(NamedTuple):
    went: list[list[Went]]
    events: list[Event]


def _check(batch: Sequence[New]) -> None:
    """Raise `ValueError` for what no caller may ask."""
    for number, (stream, kind, sender, _, key, _) in enumerate(batch):
        if key is not None:
            if number or not key:
                raise ValueError("only the first event of an append has a key, and it is not empty")
            _check_name(key)
        _check_names(stream, kind, sender)


@functools.lru_cache(maxsize=4096)
def _check_names(*names: str) -> None:
    """The same few are named again and again."""
    for name in names:
        _check_name(name)


def _check_name(name: str) -> None:
    if "\0" in name:
        raise ValueError("a name in the log holds no NUL")
    name.encode()  # half a character raises here, not in the middle of others' events


def _store(
    connection: sqlite3.Connection, group: Sequence[_Waiting], now: float, projections: Sequence[Projection]
) -> _Outcome:
    """Append all that is new, and write down what it means."""
    state = connection.execute("SELECT head, at, hash, kept_hash, bytes FROM log_state").fetchone()
    seq, last_at, chain, kept_chain, size = state
    at = max(last_at, now)
    time = _time(at)
    known = _known(connection, group, seq)
    outcome: list[list[Went]] = []
    events: list[Event] = []
    rows: list[object] = []
    for waiting in group:
        went: list[Went] = []
        outcome.append(went)
        for batch in waiting.appends:
            if known is not None and (key := batch[0].key) is not None:
                which = (batch[0].sender, key)
                if which in known:
                    went.append([Stored(known[which] + number, True) for number in range(len(batch))])
                    continue
                known[which] = seq + 1
                connection.execute("INSERT INTO log_keys VALUES (?, ?, ?)", (*which, seq + 1))
            places = []
            for stream, kind, sender, body, key, data in batch:
                seq += 1
                event = Event(seq, at, stream, kind, sender, body, key, data)
                chain = _chained(chain, seq, time, stream, kind, sender, key, body)
                kept = None
                if stream.endswith(_KEPT) and is_kept(stream):
                    kept = kept_chain = kept_chained(kept_chain, chain)
                else:
                    size += ROW + len(body)
                rows += (seq, at, stream, kind, sender, key, body, chain, kept)
                events.append(event)
                places.append(Stored(seq, False))
            went.append(places)
    if events:
        insert(connection, "INSERT INTO log VALUES", "(?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute(
            "UPDATE log_state SET head = ?, at = ?, hash = ?, kept_hash = ?, bytes = ?",
            (seq, at, chain, kept_chain, size),
        )
        kinds = {event.kind for event in events}
        for projection in projections:
            if projection.kinds is None or not kinds.isdisjoint(projection.kinds):
                projection.project(connection, events)
    return _Outcome(outcome, events)


AT_ONCE = 64
"""Rows that one statement stores."""


def insert(connection: sqlite3.Connection, into: str, row: str, values: list[object], after: str = "") -> int:
    """Store rows whose values follow one another, in few statements: what each costs beside its rows (the interpreter's
    lock is given away and fought for again) is otherwise most of the cost. How many were stored."""
    width = row.count("?")
    stored, done, count = 0, 0, len(values) // width
    some = AT_ONCE
    while done < count:
        while some > count - done:
            some //= 2  # few different statements, so that they stay prepared
        chunk = values[done * width : (done + some) * width] if some < count else values
        stored += connection.execute(_statement(into, row, some, after), chunk).rowcount
        done += some
    return stored


@functools.cache
def _statement(into: str, row: str, some: int, after: str) -> str:
    """There are few: of each kind one for each power of two."""
    return f"{into} {', '.join([row] * some)}{after}"


def _known(connection: sqlite3.Connection, group: Sequence[_Waiting], head: int) -> dict[tuple[str, str], int] | None:
    """Where the keys of these were used before. `None`: none was, and all are noted for where their events will be."""
    place, keyed = head + 1, list[object]()
    for waiting in group:
        for batch in waiting.appends:
            first = batch[0]
            if first.key is not None:
                keyed += (first.sender, first.key, place)
            place += len(batch)
    noted = insert(connection, "INSERT INTO log_keys VALUES", "(?, ?, ?)", keyed, " ON CONFLICT DO NOTHING")
    if noted == len(keyed) // 3:
        return None
    known: dict[tuple[str, str], int] = {}
    for which in {(str(sender), str(key)) for sender, key in zip(keyed[::3], keyed[1::3], strict=True)}:
        [seq] = connection.execute("SELECT seq FROM log_keys WHERE sender = ? AND key = ?", which).fetchone()
        if seq <= head:
            known[which] = seq
        else:  # just noted, and for another place than it will have
            connection.execute("DELETE FROM log_keys WHERE sender = ? AND key = ?", which)
    return known


def chained(before: bytes, event: Event) -> bytes:
    """The hash of an event and of all before it."""
    return _chained(before, event.seq, _time(event.at), event.stream, event.kind, event.sender, event.key, event.body)


def _chained(
    before: bytes, seq: int, time: str, stream: str, kind: str, sender: str, key: str | None, body: bytes
) -> bytes:
    head = f"{seq}\0{time}\0{stream}\0{kind}\0{sender}\0{key or ''}\0"
    return hashlib.sha256(before + head.encode() + body).digest()


@functools.lru_cache(maxsize=8, typed=True)
def _time(at: float) -> str:
    """Those of one commit have one."""
    return repr(at)


def kept_chained(before: bytes, hash: bytes) -> bytes:
    """The second hash of an event on a kept stream: of its first, and of all kept ones before it."""
    return hashlib.sha256(before + hash).digest()


def _acquire(connection: sqlite3.Connection, key: str, owner: str, now: float, ttl: float) -> Lease | None:
    token = connection.execute("SELECT fence + 1 FROM log_state").fetchone()[0]
    taken = connection.execute(
        "INSERT INTO leases (key, owner, token, until) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
        " SET owner = excluded.owner, token = excluded.token, until = excluded.until"
        " WHERE leases.until <= ? OR leases.owner = excluded.owner",
        (key, owner, token, now + ttl, now),
    ).rowcount
    if not taken:
        return None
    connection.execute("UPDATE log_state SET fence = ?", (token,))
    return Lease(key, owner, token, now + ttl)


# -- retention -----------------------------------------------------------------------------------------------------


def _trim(
    connection: sqlite3.Connection, before: float, most: int, projections: Sequence[Projection]
) -> tuple[int, int]:
    """Go past some of the oldest events that are from before that time, or more than so many bytes, and take what is
    neither kept nor held. How many it went past, and how many it took."""
    trimmed, size = connection.execute("SELECT trimmed, bytes FROM log_state").fetchone()
    passed = []
    for row in connection.execute(
        f"SELECT {EVENT}, hash, kept_hash FROM log WHERE seq > ? ORDER BY seq LIMIT ?", (trimmed, TRIM)
    ):
        if row["at"] >= before and size <= most:
            break
        passed.append(row)
        if row["kept_hash"] is None:
            size -= ROW + len(row["body"])
    if passed:
        last = passed[-1]
        connection.execute(
            "UPDATE log_state SET trimmed = ?, trimmed_hash = ?, bytes = ?", (last["seq"], last["hash"], size)
        )
        for projection in projections:
            if projection.held:
                connection.execute(
                    "INSERT OR IGNORE INTO log_held SELECT seq FROM log"
                    f" WHERE seq > ? AND seq <= ? AND kept_hash IS NULL AND ({projection.held})",
                    (trimmed, last["seq"]),
                )
        held = {row[0] for row in connection.execute("SELECT seq FROM log_held WHERE seq > ?", (trimmed,))}
        over = [Event(*row[:7]) for row in passed if row["kept_hash"] is None and row["seq"] not in held]
        return len(passed), _take_away(connection, over, projections)
    return 0, 0


def _free_inside(connection: sqlite3.Connection) -> int:
    """Bytes within the file that nothing uses: appends fit there, also where the disk is full."""
    pages: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    size: int = connection.execute("PRAGMA page_size").fetchone()[0]
    return pages * size


def _let_go(connection: sqlite3.Connection, projections: Sequence[Projection]) -> tuple[int, int]:
    """Take some of the events that were held and are no longer. How many, twice."""
    held = " OR ".join(f"({projection.held})" for projection in projections if projection.held) or "0"
    rows = connection.execute(
        f"SELECT {EVENT} FROM log WHERE seq IN (SELECT seq FROM log_held) AND NOT ({held}) LIMIT ?", (TRIM,)
    ).fetchall()
    connection.executemany("DELETE FROM log_held WHERE seq = ?", [(row["seq"],) for row in rows])
    return len(rows), _take_away(connection, [Event(*row) for row in rows], projections)


def _take_away(connection: sqlite3.Connection, events: Sequence[Event], projections: Sequence[Projection]) -> int:
    for projection in projections:
        if projection.forget:
            projection.forget(connection, events)
    connection.executemany("DELETE FROM log WHERE seq = ?", [(event.seq,) for event in events])
    return len(events)


# -- copies and proofs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at the whole log has found."""

    epoch: str
    head: int
    trimmed: int
    """Retention has taken what is not kept up to here."""
    events: int
    problems: tuple[str, ...] = ()
    """At most `PROBLEMS` of them."""

    @property
    def ok(self) -> bool:
        return not self.problems


PROBLEMS = 20


def verify(path: Path) -> Verified:
    """Look at the whole file: SQLite's own integrity, that no event is missing, that each one's hash is that of it
    and all before it, and that every key is known. A copy can be verified as well. It takes seconds per million.
    """
    with reading(path) as connection:
        connection.execute("BEGIN")  # all of one moment
        problems = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({PROBLEMS})")]
        if problems == ["ok"]:
            problems = []
        state = connection.execute("SELECT * FROM log_state").fetchone()
        events = 0
        for found in _looked_through(connection, state):
            events += 1
            if found and len(problems) < PROBLEMS:
                problems.append(found)
        return Verified(state["epoch"], state["head"], state["trimmed"], events, tuple(problems[:PROBLEMS]))


def _looked_through(connection: sqlite3.Connection, state: sqlite3.Row) -> Iterator[str | None]:
    """For each event what is wrong with it; at the end once more for what the log's end should be."""
    before, chain, kept_chain, last_at = state["trimmed"], state["trimmed_hash"], NO_HASH, 0.0
    rows = connection.execute(
        f"SELECT {EVENT}, hash, kept_hash,"
        " (SELECT k.seq FROM log_keys k WHERE k.sender = log.sender AND k.key = log.key) AS noted FROM log ORDER BY seq"
    )
    for row in rows:
        event = Event(*row[:7])
        wrong = None
        if event.at < last_at:
            wrong = f"event {event.seq} is earlier than the one before it"
        if event.key is not None and row["noted"] != event.seq:
            wrong = f"event {event.seq}: its key is not noted"
        if event.seq > state["trimmed"]:
            if event.seq != before + 1:
                wrong = f"events {before + 1} to {event.seq - 1} are missing"
            elif row["hash"] != chained(chain, event):
                wrong = f"event {event.seq} is not what was stored, or one before it is not"
            before, chain = event.seq, row["hash"]
        if is_kept(event.stream):
            if row["kept_hash"] != kept_chained(kept_chain, row["hash"]):
                wrong = f"event {event.seq} of {event.stream}: one before it is missing or was changed"
            kept_chain = row["kept_hash"] or b""
        last_at = event.at
        yield wrong
    if (before, chain, kept_chain) != (state["head"], state["hash"], state["kept_hash"]):
        yield f"the log ends at {before}, not as its state says, at {state['head']}"


def back_up(path: Path, target: Path) -> None:
    """A whole, compact copy of the log as it is now, while others write. Put in the log's place it is a new epoch.

    Raise `NotAllowed` where there is something already.
    """
    if target.exists():
        raise NotAllowed(f"{target} is there already.", hint="Name a file that does not exist.")
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with reading(path) as connection:
            connection.execute("VACUUM INTO ?", (str(part),))
        with contextlib.closing(sqlite3.connect(part)) as copy, copy:
            copy.execute("UPDATE log_state SET copied = 1")
        _to_the_disk(part)
        part.rename(target)
        _to_the_disk(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"No copy at {target}: {error}.") from error
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of its own to read with."""
    try:
        with contextlib.closing(
            sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True, isolation_level=None)
        ) as connection:
            connection.row_factory = sqlite3.Row
            yield connection
    except sqlite3.Error as error:
        raise StorageError(f"{path}: {error}") from error


def _to_the_disk(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


# -- projections ---------------------------------------------------------------------------------------------------


def _fill(connection: sqlite3.Connection, projection: Projection) -> bool:
    """Hand some more of the log to a projection that has not had all of it. Whether there is more to come; once it is
    whole, every append keeps it so."""
    module = projection.migrations.module
    row = connection.execute("SELECT seq, whole FROM log_projections WHERE module = ?", (module,)).fetchone()
    seq, whole = row or (0, False)
    if whole:
        return False
    events = events_after(connection, seq, PAGE)
    projection.project(connection, events)
    connection.execute(
        "INSERT OR REPLACE INTO log_projections VALUES (?, ?, ?)",
        (module, events[-1].seq if events else seq, not events),
    )
    return bool(events)


# -- which log this is ---------------------------------------------------------------------------------------------


def _which_log(
    connection: sqlite3.Connection, marked: tuple[str, int] | None
) -> tuple[str, int, dict[str, Any] | None]:
    """The epoch and the head. A new epoch where the log is new, or is an older state of the one that was here: then
    also what is to be told of that."""
    state = connection.execute("SELECT epoch, copied, head FROM log_state").fetchone()
    minted = secrets.token_hex(8)
    if state is None:
        connection.execute(
            "INSERT INTO log_state (one, epoch, hash, kept_hash, trimmed_hash) VALUES (1, ?, ?, ?, ?)",
            (minted, NO_HASH, NO_HASH, NO_HASH),
        )
        return minted, 0, None
    epoch, copied, head = state
    was_at = marked[1] if marked and marked[0] == epoch else head
    if not copied and was_at <= head:
        return epoch, head, None
    connection.execute("UPDATE log_state SET epoch = ?, copied = 0", (minted,))
    connection.execute("DELETE FROM leases")
    return minted, head, {"epoch": minted, "was": epoch, "head": head, "was_at": max(was_at, head)}


class _Watermark:
    """How far the log had come, beside it: it tells when an older state of the log has been put in its place.

    Written soon after a commit, beside the loop (a file system that is busy lets a write wait), so it may lag behind
    the log and is never ahead of it.
    """

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + "-head")
        self._file: int | None = None
        self._epoch = ""
        self._head = 0
        self._due: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()

    def read(self) -> tuple[str, int] | None:
        try:
            epoch, _, head = self._path.read_text().strip().partition(":")
            return epoch, int(head)
        except (OSError, ValueError):
            return None

    def open(self, epoch: str, head: int) -> None:
        self._epoch = epoch
        with contextlib.suppress(OSError):  # it is a help, not a need
            self._file = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        self._head = head
        self._put()

    def rise(self, head: int) -> None:
        """The log has come so far."""
        self._head = head
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(WATERMARK_PAUSE, self._put_beside)

    def _put_beside(self) -> None:
        self._due = None
        asyncio.get_running_loop().run_in_executor(None, self._put)

    def _put(self) -> None:
        with self._lock:
            if self._file is not None:
                with contextlib.suppress(OSError):
                    os.pwrite(self._file, f"{self._epoch}:{self._head:020}\n".encode(), 0)

    def close(self) -> None:
        if self._due is not None:
            self._due.cancel()
        self._put()
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None


class _Reserve:
    """Space that is set aside while there is plenty, and given up when there is none."""

    def __init__(self, path: Path, size: int, free: Callable[[Path], int]) -> None:
        self._path = path
        self.size = size
        self._free = free
        self.spent = False
        """The disk ran full, and has not had room since."""

    def set_aside(self) -> bool:
        """Take the space where there is more than enough. Whether the disk has room."""
        try:
            if not self._path.exists() or self.spent:
                if self._free(self._path.parent) < 2 * self.size:
                    return not self.spent
                self._fill()
        except OSError:
            return not self.spent
        self.spent = False
        return True

    def _fill(self) -> None:
        with open(os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as out:
            out.write(bytes(self.size))  # real blocks, on every file system

    def spend(self) -> None:
        self.spent = True
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


T = TypeVar("T")


def answer_of(future: asyncio.Future[T]) -> Callable[[T | Exception], None]:
    """What is told to whoever awaits the future, if anybody still does."""

    def answer(went: T | Exception) -> None:
        if future.done():
            return
        if isinstance(went, Exception):
            future.set_exception(went)
        else:
            future.set_result(went)

    return answer
