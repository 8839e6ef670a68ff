"""Conversations and questions, as the log says: tables that follow from it, and what is asked of them.

- A conversation begins with its first message. An operator's acts on it are events on the audit, so what was done to
  it, by whom and why, outlives the messages themselves.
- A question to one agent (`ask`) is told with the message that puts it; how it ended is an event of its own. What
  ends it is in the log before anybody hears of it, so that a hub that was killed comes to the same end.
- Which files messages speak of, so that others can go.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.db import Migrations
from fleet.hub.log import EVENT, Event, Projection, insert
from fleet.hub.mailbox import COUNTED, box
from fleet.hub.message import Ask, Outcome, Recipient, Thread, ThreadState
from fleet.hub.projection import MESSAGE, fields

THREAD = "thread"
"""`{thread, verb, was, state, by, reason}`: an operator's act on a conversation."""
ASK = "ask"
"""`{message, thread, asker, asked, deadline}`: a question that has one end."""
ASK_ENDED = "ask_ended"
"""`Ask.to_json()`."""

LOOKED_AT = 1000
"""Conversations among which a member's own are looked for."""


def _project(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    said: list[object] = []
    for event in events:
        if event.kind == MESSAGE:
            data = fields(event)
            if isinstance(data.get("id"), str):
                said += (
                    data.get("thread") or "", data.get("workspace") or "", event.seq, data.get("sender") or "",
                    event.at, event.at, 1 if data.get(COUNTED) else 0,
                )  # fmt: skip
            for attachment in data.get("attachments", ()):
                connection.execute("INSERT OR IGNORE INTO attached VALUES (?, ?)", (attachment["sha256"], event.seq))
        elif event.kind in _WRITES:
            _say(connection, said)
            _WRITES[event.kind](connection, event)
    _say(connection, said)


def _say(connection: sqlite3.Connection, said: list[object]) -> None:
    if said:
        insert(
            connection,
            "INSERT INTO threads VALUES",
            "(?, ?, ?, ?, ?, 'active', ?, NULL, 1, ?)",
            said,
            " ON CONFLICT (id) DO UPDATE SET messages = messages + 1, turns = turns + excluded.turns",
        )
        said.clear()


def _act(connection: sqlite3.Connection, event: Event) -> None:
    data = event.data
    connection.execute(
        "UPDATE threads SET state = ?, since = ?, by = ? WHERE id = ?",
        (data["state"], event.at, data["by"], data["thread"]),
    )
    connection.execute("INSERT OR IGNORE INTO acts VALUES (?, ?)", (data["thread"], event.seq))


def _asked(connection: sqlite3.Connection, event: Event) -> None:
    data, workspace = event.data, event.stream.partition("/")[0]
    connection.execute(
        "INSERT OR IGNORE INTO asks VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL)",
        (data["message"], workspace, data["thread"], data["asker"], data["asked"], data["deadline"]),
    )


def _ended(connection: sqlite3.Connection, event: Event) -> None:
    data = event.data
    connection.execute(
        "UPDATE asks SET outcome = ?, answer = ?, reason = ?, ended_at = ? WHERE message = ? AND outcome IS NULL",
        (data["outcome"], data["answer"], data["reason"], data["ended_at"], data["message"]),
    )


_WRITES = {THREAD: _act, ASK: _asked, ASK_ENDED: _ended}


def _forget(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    """A conversation goes with its last message, unless an operator has had a hand in it."""
    for event in events:
        if event.kind != MESSAGE:
            continue
        data = fields(event)
        connection.execute("UPDATE threads SET messages = messages - 1 WHERE id = ?", (data.get("thread"),))
        connection.execute(
            "DELETE FROM threads WHERE id = ? AND messages <= 0 AND state = 'active'", (data.get("thread"),)
        )
        connection.execute("DELETE FROM attached WHERE seq = ?", (event.seq,))
        connection.execute("DELETE FROM asks WHERE message = ? AND outcome IS NOT NULL", (str(data.get("id")),))


THREADS = Projection(
    Migrations(
        "threads",
        (
            """
            CREATE TABLE threads (
                id TEXT PRIMARY KEY,
                workspace TEXT NOT NULL,
                seq INTEGER NOT NULL,
                opened_by TEXT NOT NULL,
                opened_at REAL NOT NULL,
                state TEXT NOT NULL,
                since REAL NOT NULL,
                by TEXT,
                messages INTEGER NOT NULL,
                turns INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID;
            CREATE INDEX threads_opened ON threads (workspace, seq);
            CREATE INDEX threads_held ON threads (workspace, seq) WHERE state != 'active';
            CREATE TABLE acts (
                thread TEXT NOT NULL,
                seq INTEGER NOT NULL,
                PRIMARY KEY (thread, seq)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE asks (
                message TEXT PRIMARY KEY,
                workspace TEXT NOT NULL,
                thread TEXT NOT NULL,
                asker TEXT NOT NULL,
                asked TEXT NOT NULL,
                deadline REAL NOT NULL,
                outcome TEXT,
                answer TEXT,
                reason TEXT,
                ended_at REAL
            ) STRICT, WITHOUT ROWID;
            CREATE INDEX asks_open ON asks (deadline) WHERE outcome IS NULL;
            CREATE TABLE attached (
                sha256 TEXT NOT NULL,
                seq INTEGER NOT NULL,
                PRIMARY KEY (sha256, seq)
            ) STRICT, WITHOUT ROWID;
            CREATE INDEX attached_seq ON attached (seq);
            """,
        ),
    ),
    _project,
    forget=_forget,
    kinds=frozenset({MESSAGE, *_WRITES}),
)


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation, and how much was said in it."""

    thread: Thread
    seq: int
    """Where its first message is."""
    messages: int
    turns: int
    """Messages that have caused turns, as far as those count (`guardrails`)."""

    def to_json(self) -> dict[str, Any]:
        return {**self.thread.to_json(), "seq": self.seq, "messages": self.messages, "turns": self.turns}


def _talk(row: Mapping[str, Any]) -> Talk:
    thread = Thread(
        id=row["id"],
        workspace=row["workspace"],
        opened_by=row["opened_by"],
        opened_at=row["opened_at"],
        state=ThreadState(row["state"]),
        since=row["since"],
        by=row["by"],
    )
    return Talk(thread, row["seq"], row["messages"], row["turns"])


def talk(connection: sqlite3.Connection, workspace: str, id: str) -> Talk | None:
    """One conversation of a workspace."""
    row = connection.execute("SELECT * FROM threads WHERE id = ? AND workspace = ?", (id, workspace)).fetchone()
    return None if row is None else _talk(row)


def held(connection: sqlite3.Connection) -> list[Thread]:
    """All that are not simply active."""
    return [_talk(row).thread for row in connection.execute("SELECT * FROM threads WHERE state != 'active'")]


def talks(
    connection: sqlite3.Connection, workspace: str, state: str | None, member: str | None, before: int, limit: int
) -> list[Talk]:
    """The newest conversations; of one member, those of the newest ones in which it has said or heard something."""
    where = "workspace = ? AND seq < ?"
    values: list[object] = [workspace, before]
    source = "threads"
    if state is not None:
        where += " AND state = ?"
        values.append(state)
        if state != ThreadState.ACTIVE:
            where += " AND state != 'active'"
    if member is not None:
        where += (
            " AND (EXISTS (SELECT 1 FROM messages m JOIN receipts r ON r.seq = m.seq"
            " WHERE m.thread = threads.id AND r.box = ?)"
            " OR EXISTS (SELECT 1 FROM messages m JOIN log ON log.seq = m.seq"
            " WHERE m.thread = threads.id AND log.sender = ?))"
        )
        values += [box(workspace, member), f"{workspace}/{member}"]
        source = "(SELECT * FROM threads WHERE workspace = ? AND seq < ? ORDER BY seq DESC LIMIT ?) AS threads"
        values = [workspace, before, LOOKED_AT, *values]
    rows = connection.execute(f"SELECT * FROM {source} WHERE {where} ORDER BY seq DESC LIMIT ?", (*values, limit))
    return [_talk(row) for row in rows]


def acts(connection: sqlite3.Connection, workspace: str, thread: str) -> list[Event]:
    """What operators did to a conversation, in its order."""
    rows = connection.execute(
        f"SELECT {EVENT} FROM log WHERE seq IN (SELECT seq FROM acts WHERE thread = ?) AND stream = ? ORDER BY seq",
        (thread, f"{workspace}/!audit"),
    )
    return [Event(*row) for row in rows]


def takes_part(connection: sqlite3.Connection, workspace: str, name: str, thread: str) -> bool:
    """Whether somebody has said or heard something in a conversation."""
    row = connection.execute(
        "SELECT 1 FROM messages m WHERE m.thread = ? AND (EXISTS (SELECT 1 FROM receipts r WHERE r.seq = m.seq"
        " AND r.box = ?) OR EXISTS (SELECT 1 FROM log WHERE log.seq = m.seq AND log.sender = ?)) LIMIT 1",
        (thread, box(workspace, name), f"{workspace}/{name}"),
    ).fetchone()
    return row is not None


def turn_times(connection: sqlite3.Connection, thread: str, since: float, most: int) -> tuple[float, ...]:
    """When the newest messages of a conversation were said, after a time; the latest last."""
    rows = connection.execute(
        "SELECT log.at FROM messages m JOIN log ON log.seq = m.seq WHERE m.thread = ? AND log.at > ?"
        " ORDER BY m.seq DESC LIMIT ?",
        (thread, since, most),
    )
    return tuple(sorted(row[0] for row in rows))


# -- asks ----------------------------------------------------------------------------------------------------------


def _ask(row: Mapping[str, Any]) -> Ask:
    return Ask(
        message=row["message"],
        thread=row["thread"],
        asker=row["asker"],
        asked=row["asked"],
        deadline=row["deadline"],
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        answer=row["answer"],
        reason=row["reason"],
        ended_at=row["ended_at"],
    )


def ask(connection: sqlite3.Connection, workspace: str, message: str) -> Ask | None:
    """One of a workspace."""
    row = connection.execute("SELECT * FROM asks WHERE message = ? AND workspace = ?", (message, workspace)).fetchone()
    return None if row is None else _ask(row)


def open_asks(connection: sqlite3.Connection) -> list[tuple[str, Ask, str | None]]:
    """Those whose end is not noted: with their workspace, and how the message stands with who was asked."""
    rows = connection.execute(
        "SELECT a.*, (SELECT r.recipient FROM receipts r WHERE r.message = a.message"
        " AND r.box = a.workspace || '/@' || a.asked) AS standing FROM asks a WHERE a.outcome IS NULL"
    )
    return [(row["workspace"], _ask(row), row["standing"]) for row in rows]


def never_came(ask: Ask) -> Recipient:
    """How a message stands of which nothing is known any more."""
    return Recipient(name=ask.asked, since=ask.deadline)


# -- files ---------------------------------------------------------------------------------------------------------


def spoken_of(connection: sqlite3.Connection) -> Collection[str]:
    """The sums of all files that messages have."""
    return {row[0] for row in connection.execute("SELECT DISTINCT sha256 FROM attached")}


def speaking_of(connection: sqlite3.Connection, sha256: str, most: int = 200) -> list[int]:
    """Where the newest messages are that have a file."""
    rows = connection.execute("SELECT seq FROM attached WHERE sha256 = ? ORDER BY seq DESC LIMIT ?", (sha256, most))
    return [row[0] for row in rows]
