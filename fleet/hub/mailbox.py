"""Messages and what becomes of them, for each recipient: what waits, what is being handed over, what is read.

A message is one event in the log, with its recipients; each later change at one of them is another. The tables here
follow from those events. `message.step` decides what a change makes of a receipt; this writes it down before anybody
acts on it, and one change at a receipt never overtakes another.

What is said to a channel, and asks nothing of those who only listen there, is stored once, however many they are: it
is in a listener's box because the box listens, and has a receipt of its own there once something becomes of it. Up to
where a box has caught up, such a message is read; what comes after it waits, and keeps nobody from sending.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import json
import sqlite3
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fleet.clock import Clock
from fleet.db import Migrations
from fleet.hub import message as words
from fleet.hub.log import EVENT, Event, New, Projection, SqliteLog, Stored, answer_of, as_json, insert, quoted
from fleet.hub.message import WAITING, Message, Recipient, State, Way, step
from fleet.hub.projection import COPY, DELETION, EDIT, HISTORY, MESSAGE, as_it_stands, fields

RECEIPT = "receipt"
"""`{message, seq, box, was, recipient}`: where a message stands at one recipient now, and in which state it was."""

JOINED = "joined"
"""`{name, channel, hears}`."""
LEFT = "left"
"""`{name, channel}`."""
REMOVED = "removed"
"""`{name}`."""
WORKSPACE_DELETED = "workspace_deleted"
"""`{name}`."""
CAUGHT_UP = "caught_up"
"""`{box, seq, evidence}`: what a box hears by listening has been read up to there."""

COUNTED = "counted"
"""Of a message's event: it counts as one that has caused turns in its conversation."""

HUB = "fleet"
"""Who tells what became of a message."""

HEARD = "heard"
"""Of a message's event: those who listen to its channel have it too, without a receipt of their own yet."""

HEARD_AT_ONCE = 100
"""Of what a box only listens to, how much is looked at together: a digest has room for less."""

STANDINGS = 10_000
"""Receipts that are kept at hand."""

TEXTS = 4096
"""Messages that are kept at hand for their hand-over …"""
SHORT = 2048
"""… if they are no longer than this."""

BOXES = 2000
"""Boxes of which it is at hand what is open."""
OPEN_AT_ONCE = 500
"""Of what is open in a box, how much is looked at together."""

OPEN = WAITING | {State.INJECTING}
"""The hub still has something to do about it; retention leaves the message."""


Which = tuple[str, str]
"""A message, and a box that it is in."""


class Change(NamedTuple):
    """Something that happened to a message at one recipient."""

    message: str
    box: str
    event: words.Event


class Mail(NamedTuple):
    """A message in somebody's box."""

    seq: int
    message: Message
    """As it was accepted, with the text as it stands now (empty where it was deleted)."""
    recipient: Recipient
    heard: bool = False
    """It is there because the box listens to a channel, and nothing has become of it yet."""
    deleted_at: float | None = None
    """When it was taken back."""


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
    new: list[object] = []
    changed: list[object] = []
    for event in events:
        if event.kind == MESSAGE:
            data = fields(event)
            for stored in data.get("recipients", ()):
                state = stored["state"]
                new += (
                    f"{data['workspace']}/@{stored['name']}", event.seq, data["id"], state, state in OPEN,
                    data.get("expires_at"), as_json(stored),
                )  # fmt: skip
        elif event.kind == RECEIPT:
            data = fields(event)
            stored, of, seq = data["recipient"], data["box"], data["seq"]
            state = stored["state"]
            changed += (of, seq, data["message"], state, state in OPEN, data.get("expires_at"), as_json(stored))
            if stored.get(HEARD) and state not in OPEN:
                _catch_up(connection, of, seq)  # they are handed over oldest first
        elif event.kind in _WRITES:
            _WRITES[event.kind](connection, event)
    row = "(?, ?, ?, ?, ?, ?, ?)"
    insert(connection, "INSERT OR IGNORE INTO receipts VALUES", row, new)
    insert(
        connection,
        "INSERT INTO receipts VALUES",
        row,
        changed,
        " ON CONFLICT (box, seq) DO UPDATE SET state = excluded.state, open = excluded.open,"
        " recipient = excluded.recipient",
    )


def _caught_up(connection: sqlite3.Connection, event: Event) -> None:
    data = fields(event)
    _catch_up(connection, data["box"], data["seq"])


def _catch_up(connection: sqlite3.Connection, of: str, seq: int) -> None:
    connection.execute(
        "INSERT INTO caught_up VALUES (?, ?) ON CONFLICT (box) DO UPDATE SET seq = max(seq, excluded.seq)", (of, seq)
    )


def _joined(connection: sqlite3.Connection, event: Event) -> None:
    data = event.data
    connection.execute(
        "INSERT INTO hearing VALUES (?, ?, ?, ?) ON CONFLICT (box, channel) DO UPDATE SET hears = excluded.hears,"
        " since = excluded.since",
        (*_which(event), data["hears"], event.seq),
    )


def _left(connection: sqlite3.Connection, event: Event) -> None:
    connection.execute("DELETE FROM hearing WHERE box = ? AND channel = ?", _which(event))


def _which(event: Event) -> tuple[str, str]:
    workspace = event.stream.partition("/")[0]
    return box(workspace, event.data["name"]), channel(workspace, event.data["channel"])


def _removed(connection: sqlite3.Connection, event: Event) -> None:
    of = box(event.stream.partition("/")[0], event.data["name"])
    connection.execute("DELETE FROM hearing WHERE box = ?", (of,))
    connection.execute("DELETE FROM caught_up WHERE box = ?", (of,))


def _workspace_deleted(connection: sqlite3.Connection, event: Event) -> None:
    workspace = event.stream.partition("/")[0]
    for table in ("hearing", "caught_up"):
        connection.execute(f"DELETE FROM {table} WHERE box >= ? AND box < ?", (f"{workspace}/", f"{workspace}0"))


_WRITES = {
    CAUGHT_UP: _caught_up,
    JOINED: _joined,
    LEFT: _left,
    REMOVED: _removed,
    WORKSPACE_DELETED: _workspace_deleted,
}
_WHO_HEARS = frozenset({JOINED, LEFT, REMOVED, WORKSPACE_DELETED})


def _forget(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    connection.executemany(
        "DELETE FROM receipts WHERE message = ?",
        [(str(fields(event).get("id")),) for event in events if event.kind == MESSAGE],
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
            CREATE UNIQUE INDEX receipts_message ON receipts (message, box);
            CREATE INDEX receipts_open ON receipts (box, seq, state) WHERE open = 1;
            CREATE INDEX receipts_expiry ON receipts (expires_at) WHERE open = 1 AND expires_at IS NOT NULL;
            CREATE TABLE hearing (
                box TEXT NOT NULL,
                channel TEXT NOT NULL,
                hears TEXT NOT NULL,
                since INTEGER NOT NULL,
                PRIMARY KEY (box, channel)
            ) STRICT, WITHOUT ROWID;
            CREATE INDEX hearing_channel ON hearing (channel, box);
            CREATE TABLE caught_up (box TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
            """,
        ),
    ),
    _project,
    held="log.kind = 'message' AND EXISTS (SELECT 1 FROM receipts WHERE receipts.open = 1 AND receipts.message ="
    " CASE WHEN json_valid(CAST(log.body AS TEXT)) THEN json_extract(CAST(log.body AS TEXT), '$.id') END)",
    forget=_forget,
    kinds=frozenset({MESSAGE, RECEIPT, *_WRITES}),
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
        """Counted already, though the tail has not brought them yet."""
        self._on_the_way: dict[str, list[str]] = {}
        """The boxes of each of these messages."""
        self._held: dict[Which, deque[Callable[[], None]]] = {}
        """What is being changed right now, and who waits to change it next."""
        self._reading: set[asyncio.Task[None]] = set()
        self._standings: OrderedDict[Which, _Standing] = OrderedDict()
        """How messages stand in boxes that were lately of concern: nobody else changes that."""
        self._texts: OrderedDict[str, Message] = OrderedDict()
        """Messages that may soon be handed over, as they were accepted; none that was changed since."""
        self._edits = 0
        """How often something was changed about what was said."""
        self._open: OrderedDict[str, _Open] = OrderedDict()
        """What is open in boxes that are being emptied."""
        self._seen_to = 0
        """How far the tail has brought it."""

    async def load(self) -> int:
        """Count what waits, after a start. The seq after which `seen` is to go on."""

        def read(connection: sqlite3.Connection) -> tuple[int, list[tuple[str, int]]]:
            rows = connection.execute(
                "SELECT box, count(*) FROM receipts WHERE open = 1 AND state != ? GROUP BY box", (State.INJECTING,)
            )
            counted = [(row[0], row[1]) for row in rows]
            return _head(connection), counted

        head, counted = await self._database.read(read)
        self._waiting = Counter(dict(counted))
        self._seen_to = head
        return head

    def seen(self, events: Sequence[Event]) -> None:
        """Count what the log's tail brings."""
        if events and events[0].seq != self._seen_to + 1:
            self._open.clear()  # something was left out
        for event in events:
            if event.kind == MESSAGE:
                data = fields(event)
                if data["id"] in self._on_the_way:
                    self._come(data["id"])
                for stored in data.get("recipients", ()):
                    if stored["state"] in WAITING:
                        of = f"{data['workspace']}/@{stored['name']}"
                        self._waiting[of] = self._waiting.get(of, 0) + 1
                        if of in self._open:
                            self._open[of].stands(event.seq, event.seq, data["id"], True)
            elif event.kind in (EDIT, DELETION):
                self._texts.pop(str(fields(event).get("message")), None)
                self._edits += 1
            elif event.kind == RECEIPT:
                data = fields(event)
                of, state = data["box"], data["recipient"]["state"]
                self._waiting[of] += (state in WAITING) - (data["was"] in WAITING)
                if of in self._open:
                    self._open[of].stands(event.seq, data["seq"], data["message"], state in OPEN)
            elif event.kind in _WHO_HEARS:
                self._open.clear()
            self._seen_to = event.seq

    # -- writing ---------------------------------------------------------------------------------------------------

    async def accept(
        self,
        message: Message,
        recipients: Sequence[Recipient],
        streams: Sequence[str],
        *,
        counted: bool = False,
        heard: bool = False,
        also: Sequence[Change] = (),
        told: Sequence[New] = (),
    ) -> Stored:
        """Store the message with its recipients, on the first stream; the others get a copy. Durable on return.

        It counts as waiting at once, so that a limit looked at before the next call sees it. `heard`: who listens to
        its channel and is no recipient has it too. What happens with it (`also`: it answers another; `told`: it is a
        question with a time limit) is stored with it or not at all. Raise `NotStored`.
        """
        future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self.begin_accept(
            message, recipients, streams, answer_of(future), counted=counted, heard=heard, also=also, told=told
        )
        return await future

    def begin_accept(
        self,
        message: Message,
        recipients: Sequence[Recipient],
        streams: Sequence[str],
        then: Callable[[Stored | Exception], None],
        *,
        counted: bool = False,
        heard: bool = False,
        also: Sequence[Change] = (),
        told: Sequence[New] = (),
    ) -> None:
        """The same without waiting: `then` hears once, on the loop, where it is or why it is not; it does not raise."""
        coming = [f"{message.workspace}/@{r.name}" for r in recipients if r.state in WAITING] if recipients else None
        if coming:
            self._on_the_way[message.id] = coming
            for of in coming:
                self._coming[of] = self._coming.get(of, 0) + 1
        events = _as_events(message, recipients, streams, counted, heard)
        events += told

        def stored(went: list[Stored] | Exception) -> None:
            if isinstance(went, Exception):
                self._come(message.id)
                then(went)
                return
            first = went[0]
            if first.duplicate:
                self._come(message.id)
            elif recipients:
                told_to = f"{message.workspace}/@{message.sender}/receipts"
                for recipient in recipients:
                    which = (message.id, f"{message.workspace}/@{recipient.name}")
                    if which not in self._standings:  # else it has been changed since
                        self._standings[which] = _Standing(first.seq, told_to, recipient, message.expires_at)
                self._keep_text(message)
                self._keep_some()
            then(first)

        if also:
            self._changed(also, events, stored)
        else:
            self._log.submit(events, stored)

    def _come(self, message: str) -> None:
        for of in self._on_the_way.pop(message, ()):
            if self._coming[of] > 1:
                self._coming[of] -= 1
            else:
                del self._coming[of]

    async def change(self, changes: Sequence[Change], facts: Sequence[New] = ()) -> list[Recipient | None]:
        """Write down what happened, and return how each message then stands at its recipient.

        All of it, and the `facts` that it follows from, is in one append, or nothing. What changes nothing is not
        written. `None` where there is no such message in the box (any more). Raise `NotStored`. A caller that is
        cancelled leaves it to happen.
        """
        future: asyncio.Future[list[Recipient | None]] = asyncio.get_running_loop().create_future()
        answer = answer_of(future)

        def stored(went: list[Stored] | Exception) -> None:
            if isinstance(went, Exception):
                answer(went)

        self._changed(changes, facts, stored, answer)
        return await future

    def _changed(
        self,
        changes: Sequence[Change],
        events: Sequence[New],
        stored: Callable[[list[Stored] | Exception], None],
        stands: Callable[[list[Recipient | None]], None] = lambda after: None,
    ) -> None:
        """Write these events down together with what the changes make of the messages, once nobody else changes
        anything about those; `stored` hears how that went, and `stands` how they stand then."""
        which = sorted({(change.message, change.box) for change in changes})
        latest: dict[Which, _Standing] = {}

        def went(how: list[Stored] | Exception) -> None:
            if not isinstance(how, Exception) and not (events and how[0].duplicate):
                self._standings.update(latest)
                self._keep_some()
            for one in which:
                self._let_go(one)
            stored(how)
            if not isinstance(how, Exception):
                stands([stand.recipient if (stand := latest.get((c.message, c.box))) else None for c in changes])

        def write(standing: Sequence[_Standing | None] | Exception) -> None:
            try:
                if isinstance(standing, Exception):
                    raise standing
                facts = _stepped(changes, standing, self._clock.now(), latest)
            except Exception as error:  # noqa: BLE001  it goes to whoever asked, and holds up nobody else
                went(error)
            else:
                self._log.submit([*events, *facts], went)

        def begin() -> None:
            known = [self._standings.get((change.message, change.box)) for change in changes]
            if None in known:
                self._look_up(changes, known, write)
            else:
                write(known)

        self._hold(which, begin)

    def _hold(self, which: Sequence[Which], then: Callable[[], None]) -> None:
        """Go on once nobody else changes anything about these. (All are held in one order: nobody waits for ever.)"""
        for number, one in enumerate(which):
            waiting = self._held.get(one)
            if waiting is not None:
                waiting.append(functools.partial(self._hold, which[number + 1 :], then))
                return
            self._held[one] = deque()
        then()

    def _let_go(self, one: Which) -> None:
        """Whoever waits for it has it now."""
        waiting = self._held[one]
        if waiting:
            asyncio.get_running_loop().call_soon(waiting.popleft())
        else:
            del self._held[one]

    def _look_up(
        self,
        changes: Sequence[Change],
        known: Sequence[_Standing | None],
        then: Callable[[Sequence[_Standing | None] | Exception], None],
    ) -> None:
        """Read from the file what is not at hand."""

        async def read() -> None:
            try:
                found: Sequence[_Standing | None] | Exception = await self._database.read(
                    lambda c: [
                        one or _standing(c, change.message, change.box)
                        for one, change in zip(known, changes, strict=True)
                    ]
                )
            except Exception as error:  # noqa: BLE001  it goes to whoever asked
                found = error
            then(found)

        task = asyncio.ensure_future(read())
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    def at_hand(self, message: str, of: str) -> Recipient | None:
        """How a message stands in one box, where that is in memory."""
        known = self._standings.get((message, of))
        return None if known is None else known.recipient

    async def catch_up(self, of: str, seq: int, evidence: str) -> None:
        """What the box hears by listening has been read up to there."""
        fact = {"box": of, "seq": seq, "evidence": evidence}
        await self._log.append([New.of(f"{of}/receipts", CAUGHT_UP, HUB, fact)])

    def _keep_some(self) -> None:
        while len(self._standings) > STANDINGS:
            self._standings.popitem(last=False)

    def _keep_text(self, message: Message) -> None:
        if len(message.text) <= SHORT and not message.metadata:
            self._texts[message.id] = message
            if len(self._texts) > TEXTS:
                self._texts.popitem(last=False)

    def forget(self) -> None:
        """Retention was here: what is kept at hand may be gone."""
        self._standings.clear()
        self._texts.clear()

    # -- reading ---------------------------------------------------------------------------------------------------

    def waiting(self, of: str) -> int:
        """How many messages wait in a box; what is being handed over does not, nor what it only listens to."""
        return self._waiting.get(of, 0) + self._coming.get(of, 0)

    async def receipt(self, message: str) -> list[Recipient] | None:
        """How a message stands at each of its recipients; `None`: there is no such message (any more)."""

        def read(connection: sqlite3.Connection) -> list[Recipient] | None:
            known = connection.execute("SELECT seq FROM messages WHERE id = ?", (message,)).fetchone()
            if known is None:
                return None
            rows = connection.execute("SELECT recipient FROM receipts WHERE message = ? ORDER BY box", (message,))
            found = {r.name: r for r in (Recipient.from_json(json.loads(row[0])) for row in rows)}
            for recipient in _listeners(connection, known["seq"]):
                found.setdefault(recipient.name, recipient)
            return [found[name] for name in sorted(found)]

        return await self._database.read(read)

    async def standing(self, message: str, of: str) -> Recipient | None:
        """How a message stands in one box."""
        known = self._standings.get((message, of))
        if known is None:
            known = await self._database.read(lambda c: _standing(c, message, of))
        return None if known is None else known.recipient

    async def to_deliver(self, of: str) -> list[Mail]:
        """What the hub has still to do about in one box, as `open` has it. It is read from the file once, and followed
        from then on: whoever empties a box looks into it after each change."""
        at_hand = self._open_at_hand(of)
        if at_hand is not None:
            return at_hand
        followed = self._open[of] = _Open()
        if len(self._open) > BOXES:
            self._open.popitem(last=False)

        def read(connection: sqlite3.Connection) -> tuple[int, bool, list[Mail]]:
            mail = self._read_open(connection, of, 0, OPEN_AT_ONCE, HEARD_AT_ONCE)
            return _head(connection), _listens(connection, of), mail

        edits = self._edits
        try:
            head, listens, mail = await self._database.read(read)
        except BaseException:
            self._unfollow(of, followed)
            raise
        self._keep_texts(mail, edits)
        if listens or len(mail) >= OPEN_AT_ONCE:
            self._unfollow(of, followed)
        else:
            followed.begin(head, {one.seq: one.message.id for one in mail})
        return mail

    def _unfollow(self, of: str, followed: _Open) -> None:
        if self._open.get(of) is followed:
            del self._open[of]

    def _open_at_hand(self, of: str) -> list[Mail] | None:
        """The same from memory; `None`: not all of it is there."""
        known = self._open.get(of)
        if known is None or known.mail is None or self._seen_to < self._log.head:
            return None
        mail = []
        for seq, id in itertools.islice(known.mail.items(), OPEN_AT_ONCE):
            message, standing = self._texts.get(id), self._standings.get((id, of))
            if message is None or standing is None:
                return None
            mail.append(Mail(seq, message, standing.recipient))
        return mail

    async def open(
        self, of: str | None = None, *, after: int = 0, limit: int = OPEN_AT_ONCE, heard: int = HEARD_AT_ONCE
    ) -> list[Mail]:
        """What the hub has still to do about, oldest first: what waits, and what was being handed over, also by a
        hub that was killed. In one box, with so much of what it has heard and not read; or in all. What was said to
        a channel and taken back before a box that only listens has read it, is not there any more."""

        edits = self._edits
        mail = await self._database.read(lambda c: self._read_open(c, of, after, limit, heard))
        self._keep_texts(mail, edits)
        return mail

    def _read_open(
        self, connection: sqlite3.Connection, of: str | None, after: int, limit: int, heard: int
    ) -> list[Mail]:
        where, values = ("1", ()) if of is None else ("box = ?", (of,))
        rows = connection.execute(
            f"SELECT seq, message, recipient FROM receipts WHERE open = 1 AND {where} AND seq > ? ORDER BY seq LIMIT ?",
            (*values, after, limit),
        )
        told = [(int(seq), str(message), str(recipient)) for seq, message, recipient in rows]
        if of is not None:
            read_to = connection.execute("SELECT seq FROM caught_up WHERE box = ?", (of,)).fetchone()
            since = max(after, read_to["seq"] if read_to else 0)
            heard_at = _heard(connection, of, since, min(heard, limit), standing=True)
            if heard_at:
                told = sorted([*told, *((seq, "", "") for seq in heard_at)])[:limit]
        return [self._open_mail(connection, of or "", *one) for one in told]

    def _keep_texts(self, mail: Iterable[Mail], edits: int) -> None:
        """What was read is soon handed over. `edits`: as it was before the reading; else that may be older than one."""
        if edits == self._edits:
            for one in mail:
                if one.message.id not in self._texts and one.deleted_at is None:
                    self._keep_text(one.message)

    def _open_mail(self, connection: sqlite3.Connection, of: str, seq: int, id: str, recipient: str) -> Mail:
        """One of them, in a thread that reads: from memory, where it is at hand."""
        if not recipient:
            return _heard_mail(connection, of, seq, 0)
        message = self._texts.get(id)
        if message is None:
            return _read_mail(connection, seq, recipient)
        return Mail(seq, message, _as_recipient(recipient))

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
            "SELECT r.seq, r.recipient FROM messages m JOIN receipts r ON r.message = m.id"
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

        def read(connection: sqlite3.Connection) -> list[Mail]:
            rows = connection.execute(
                f"SELECT seq, recipient FROM receipts WHERE box = ? AND seq > ? ORDER BY seq {order} LIMIT ?",
                (of, after, limit),
            ).fetchall()
            told = {row["seq"]: row["recipient"] for row in rows}
            heard = _heard(connection, of, after, limit, newest=newest)
            caught_up = connection.execute("SELECT seq FROM caught_up WHERE box = ?", (of,)).fetchone()
            seqs = sorted([*told, *heard], reverse=newest)[:limit]
            return [
                _read_mail(connection, seq, told[seq])
                if seq in told
                else _heard_mail(connection, of, seq, caught_up["seq"] if caught_up else 0)
                for seq in sorted(seqs)
            ]

        return await self._database.read(read)

    async def _mail(self, statement: str, values: Sequence[object]) -> list[Mail]:
        def read(connection: sqlite3.Connection) -> list[Mail]:
            rows = sorted(connection.execute(statement, values).fetchall(), key=lambda row: int(row["seq"]))
            return [_read_mail(connection, row["seq"], row["recipient"]) for row in rows]

        return await self._database.read(read)


class _Open:
    """What is open in one box: read from the file once, and followed by the tail from then on."""

    __slots__ = ("_later", "_read_to", "mail")

    def __init__(self) -> None:
        self.mail: dict[int, str] | None = None
        """Messages by their place, oldest first; `None` while it is being read."""
        self._read_to = 0
        self._later: list[tuple[int, int, str, bool]] = []
        """What the tail has brought meanwhile."""

    def begin(self, head: int, mail: dict[int, str]) -> None:
        """It was read, when the log was that long."""
        self.mail, self._read_to = mail, head
        later, self._later = self._later, []
        for one in later:
            self.stands(*one)

    def stands(self, at: int, seq: int, message: str, is_open: bool) -> None:
        """An event, at that place in the log, says how the message at `seq` stands."""
        if self.mail is None:
            self._later.append((at, seq, message, is_open))
        elif at > self._read_to:
            if not is_open:
                self.mail.pop(seq, None)
            elif seq not in self.mail:
                last = next(reversed(self.mail), 0)
                self.mail[seq] = message
                if seq < last:
                    self.mail = dict(sorted(self.mail.items()))


def _head(connection: sqlite3.Connection) -> int:
    head: int = connection.execute("SELECT head FROM log_state").fetchone()[0]
    return head


def _listens(connection: sqlite3.Connection, of: str) -> bool:
    """Whether a box has what is said to some channel, by listening."""
    rows = connection.execute("SELECT 1 FROM hearing WHERE box = ? AND hears = 'all' LIMIT 1", (of,))
    return rows.fetchone() is not None


# -- what a box hears by listening ---------------------------------------------------------------------------------


def _heard(
    connection: sqlite3.Connection, of: str, after: int, limit: int, *, newest: bool = False, standing: bool = False
) -> list[int]:
    """Where those messages are that the box has by listening and that have no receipt of their own there; `standing`:
    without those that were taken back."""
    order = "DESC" if newest else "ASC"
    stands = f" AND NOT {_TAKEN_BACK}" if standing else ""
    me = of.replace("/@", "/", 1)
    of_each = [
        [
            row[0]
            for row in connection.execute(
                "SELECT seq FROM log WHERE stream = ? AND seq > ? AND kind = 'message' AND sender != ?"
                f" AND NOT EXISTS (SELECT 1 FROM receipts r WHERE r.box = ? AND r.seq = log.seq){stands}"
                f" ORDER BY seq {order} LIMIT ?",
                (hearing["channel"], max(after, hearing["since"]), me, of, limit),
            )
        ]
        for hearing in connection.execute(
            "SELECT channel, since FROM hearing WHERE box = ? AND hears = 'all'", (of,)
        ).fetchall()
    ]
    return sorted(heapq.merge(*of_each, reverse=newest), reverse=newest)[:limit]


_TAKEN_BACK = (
    "EXISTS (SELECT 1 FROM changes c JOIN log d ON d.seq = c.seq WHERE c.target = log.seq AND d.kind = 'deletion')"
)


def _heard_mail(connection: sqlite3.Connection, of: str, seq: int, caught_up: int) -> Mail:
    row = connection.execute(f"SELECT {EVENT} FROM log WHERE seq = ?", (seq,)).fetchone()
    shown = as_it_stands(connection, Event(*row))
    message = Message.from_json(shown.event.data)._replace(text=shown.text or "")
    listening = _listening(of, message.at, read=seq <= caught_up)
    return Mail(seq, message, listening, heard=True, deleted_at=shown.deleted_at)


def _listening(of: str, at: float, *, read: bool) -> Recipient:
    """How a message stands that a box has by listening, and of which nothing else has become."""
    name = of.partition("/@")[2]
    if read:
        return Recipient(name=name, state=State.DELIVERED, since=at, way=Way.INBOX, evidence="inbox", quiet=True)
    return Recipient(name=name, state=State.QUEUED, since=at, reason="no_wake", quiet=True)


def _listeners(connection: sqlite3.Connection, seq: int) -> Iterator[Recipient]:
    """Those who have a message by listening."""
    row = connection.execute(f"SELECT {EVENT} FROM log WHERE seq = ?", (seq,)).fetchone()
    event = Event(*row)
    if not fields(event).get(HEARD):
        return
    for hearing in connection.execute(
        "SELECT h.box, c.seq AS read FROM hearing h LEFT JOIN caught_up c ON c.box = h.box"
        " WHERE h.channel = ? AND h.hears = 'all' AND h.since < ?",
        (event.stream, seq),
    ):
        if hearing["box"].replace("/@", "/", 1) != event.sender:
            yield _listening(hearing["box"], fields(event)["at"], read=(hearing["read"] or 0) >= seq)


# -- events and rows -----------------------------------------------------------------------------------------------


class _Standing(NamedTuple):
    """Where a message stands at one recipient, and where that is told."""

    seq: int
    stream: str
    recipient: Recipient
    expires_at: float | None = None
    heard: bool = False
    """It has it by listening."""
    fresh: bool = False
    """It has no receipt of its own yet."""


def said_there(message: Message, stream: str, *, heard: bool) -> New:
    """A message that has no recipients, on its channel's stream. `heard`: somebody listens there."""
    more = message.beside()
    if heard:
        more[HEARD] = True
    return _as_event(message, stream, more)


def _as_events(
    message: Message, recipients: Sequence[Recipient], streams: Sequence[str], counted: bool, heard: bool
) -> list[New]:
    """The message and its copies. What it has nothing to say about is not written down; `Message.from_json` knows."""
    more = message.beside()
    if recipients:
        more["recipients"] = [_plain(recipient) for recipient in recipients]
    if counted:
        more[COUNTED] = True
    if heard:
        more[HEARD] = True
    first = _as_event(message, streams[0], more)
    if len(streams) == 1:
        return [first]
    return [first, *(first._replace(stream=stream, kind=COPY, key=None) for stream in streams[1:])]


def _as_event(message: Message, stream: str, more: dict[str, Any]) -> New:
    """The message, with what else is to be said of it."""
    id, workspace, sender, to, text, at, thread, _, _, _, _, _, _, hops, max_hops, _, _, _, _, key = message
    names = '","'.join(to)
    stored = {
        "id": id, "workspace": workspace, "sender": sender, "to": list(to), "text": text, "at": at, "thread": thread,
        "hops": hops, "max_hops": max_hops, **more,
    }  # fmt: skip
    body = (  # a third of the time that the encoder would take
        f'{{"id":"{id}","workspace":"{workspace}","sender":{quoted(sender)},"to":["{names}"],"text":{quoted(text)},'
        f'"at":{at!r},"thread":"{thread}","hops":{hops},"max_hops":{max_hops}{_rest(more)}'
    )
    return New(stream, MESSAGE, f"{workspace}/{sender}", body.encode(), key, stored)


def _rest(more: Mapping[str, Any]) -> str:
    """The end of an object that has these too."""
    if len(more) == 1 and HEARD in more:  # as of most that are said to a channel
        return f',"{HEARD}":true}}'
    return f",{as_json(more)[1:]}" if more else "}"


def _plain(recipient: Recipient) -> dict[str, Any]:
    if recipient[4:8] == _FRESH and recipient.pending is None:
        fresh = {"name": recipient.name, "state": recipient.state, "since": recipient.since}
        if recipient.reason is not None:
            fresh["reason"] = recipient.reason
        return {**fresh, "attempts": 0, "quiet": recipient.quiet}
    told = {
        "name": recipient.name, "state": recipient.state, "since": recipient.since, "reason": recipient.reason,
        "way": recipient.way, "evidence": recipient.evidence, "attempts": recipient.attempts,
        "answer": recipient.answer, "quiet": recipient.quiet, "pending": recipient.pending,
    }  # fmt: skip
    return {name: value for name, value in told.items() if value is not None}


_FRESH = (None, None, 0, None)
"""Way, evidence, attempts and answer of what has not been handed over."""


def _standing(connection: sqlite3.Connection, message: str, of: str) -> _Standing | None:
    row = connection.execute(
        "SELECT r.seq, r.recipient, r.expires_at, log.sender FROM receipts r JOIN log ON log.seq = r.seq"
        " WHERE r.message = ? AND r.box = ?",
        (message, of),
    ).fetchone()
    if row is not None:
        stored = json.loads(row["recipient"])
        told_to = receipts(*row["sender"].split("/", 1))
        return _Standing(row["seq"], told_to, Recipient.from_json(stored), row["expires_at"], HEARD in stored)
    known = connection.execute("SELECT seq FROM messages WHERE id = ?", (message,)).fetchone()
    if known is None:
        return None
    row = connection.execute(f"SELECT {EVENT} FROM log WHERE seq = ?", (known["seq"],)).fetchone()
    event = Event(*row)
    name = of.partition("/@")[2]
    found = next((r for r in _listeners(connection, event.seq) if r.name == name), None)
    if found is None or event.stream.partition("/")[0] != of.partition("/")[0]:
        return None
    told_to = receipts(*event.sender.split("/", 1))
    return _Standing(event.seq, told_to, found, fields(event).get("expires_at"), heard=True, fresh=True)


def _stepped(
    changes: Sequence[Change], standing: Sequence[_Standing | None], now: float, latest: dict[Which, _Standing]
) -> list[New]:
    """What is to be written; `latest` then has how each message stands once all changes are made."""
    facts: list[New] = []
    for change, found in zip(changes, standing, strict=True):
        if found is None:
            continue
        which = (change.message, change.box)
        before = latest.setdefault(which, found)
        after = step(before.recipient, change.event, now)
        if after is before.recipient or (before.fresh and _not_worth_it(change.event)):
            continue
        latest[which] = before._replace(recipient=after, fresh=False)
        fact = {
            "message": change.message,
            "seq": found.seq,
            "box": change.box,
            "was": None if before.fresh else before.recipient.state,
            "recipient": {**_plain(after), HEARD: True} if found.heard else _plain(after),
        }
        if found.expires_at is not None:
            fact["expires_at"] = found.expires_at
        facts.append(New.of(found.stream, RECEIPT, HUB, fact))
    return facts


def _not_worth_it(event: words.Event) -> bool:
    """Why something waits that was only heard is not written down; but that its conversation is paused keeps it from
    being passed over."""
    return isinstance(event, words.Wait) and event.reason != "paused"


def _read_mail(connection: sqlite3.Connection, seq: int, recipient: str) -> Mail:
    row = connection.execute(f"SELECT {EVENT} FROM log WHERE seq = ?", (seq,)).fetchone()
    shown = as_it_stands(connection, Event(*row))
    message = Message.from_json(shown.event.data)._replace(text=shown.text or "")
    return Mail(seq, message, _as_recipient(recipient), deleted_at=shown.deleted_at)


@functools.lru_cache(maxsize=TEXTS)
def _as_recipient(stored: str) -> Recipient:
    """What a receipt's row says. The same rows are looked at again and again, until their mail is gone."""
    return Recipient.from_json(json.loads(stored))
