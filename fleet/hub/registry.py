"""Who is there: workspaces, members with their cards, the channels they hear, how they say they are.

All of it follows from events on `WORKSPACE/!members` and `WORKSPACE/!audit`; the tables here hold what stands now, and
`Registry` holds that in memory. Two things are of the moment and no events: who has a connection open, and the figures
that a member's machine sends (the newest are written down now and then).

What holds: a name is in one workspace only what it is there; a workspace that was deleted never comes back under its
name, so nobody inherits what was said in it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fleet.clock import Clock
from fleet.db import Migrations
from fleet.errors import StorageError
from fleet.hub.auth import MAIN, Caller
from fleet.hub.guardrails import Speaker
from fleet.hub.log import Event, New, Projection, SqliteLog
from fleet.hub.mailbox import JOINED, LEFT, REMOVED, WORKSPACE_DELETED
from fleet.hub.routing import Directory, Hears, Member

__all__ = [
    "CHANNEL", "ENROLLED", "JOINED", "LEFT", "PRESENCE", "REGISTRY", "REMOVED", "RESOURCES", "STATUS", "WORKSPACE",
    "WORKSPACE_DELETED", "Card", "Present", "Registry", "Space", "audit", "stream",
]  # fmt: skip

ENROLLED = "enrolled"
"""`{name, card, speaker, declared}`: a member, as it is declared (again)."""
CHANNEL = "channel"
"""`{name}`: the first message to a channel."""
STATUS = "status"
"""`{name, …}`: what a member says it is doing."""
PRESENCE = "presence"
"""`{name, presence}`: a member without a supervisor came or went."""
RESOURCES = "resources"
"""`{name, resources}`: a member's machine is short of something, or no longer."""
WORKSPACE = "workspace"
"""`{name, description}`: it was made."""

RESOURCES_PAUSE = 30.0
"""Seconds between two writes of the figures."""
FIGURES = 8 * 1024
"""Bytes of JSON of one member's figures, or status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a member says of itself. Data, wherever it is shown."""

    name: str
    kind: str = "agent"
    """agent, person or program."""
    description: str = ""
    machine: str = ""
    role: str = ""
    harness: str = ""
    model: str = ""
    project: str = ""
    capabilities: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    supervised: bool = False
    """The supervisor runs it: presence is its word, and mail is carried to it."""
    turns: bool = False
    """The end of each of its turns is seen (`Exchange.turn_ended`); what it says between counts as said of its mail."""
    a2a: bool = False
    """Programs may ask it by A2A."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.kind, "description": self.description, "machine": self.machine,
            "role": self.role, "harness": self.harness, "model": self.model, "project": self.project,
            "capabilities": list(self.capabilities), "labels": dict(self.labels), "supervised": self.supervised,
            "turns": self.turns, "a2a": self.a2a,
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Card:
        known = {name: stored[name] for name in cls.__slots__ if name in stored}
        return cls(**{**known, "capabilities": tuple(known.get("capabilities", ()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """A member, as it stands."""

    card: Card
    speaker: Speaker
    declared: tuple[str, ...] = ()
    """The channels that its manifest names; others it has joined by itself."""
    status: Mapping[str, Any] = field(default_factory=dict)
    since: float = 0.0
    """When it was last declared."""


@dataclass(slots=True)
class Space:
    """One workspace, as it stands."""

    name: str
    description: str = ""
    created_at: float = 0.0
    created_by: str = ""
    directory: Directory = field(default_factory=Directory)
    members: dict[str, Present] = field(default_factory=dict)
    channels: set[str] = field(default_factory=set)
    """Those that were ever joined or spoken in."""

    def person(self, name: str) -> bool:
        """Whether this member is a person: one has no turns that a message could cause, and no harm from many."""
        present = self.members.get(name)
        return present is not None and present.card.kind == "person"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "description": self.description, "created_at": self.created_at,
            "created_by": self.created_by, "members": len(self.members),
            "channels": sorted(self.channels),
        }  # fmt: skip


def stream(workspace: str) -> str:
    """Who comes, goes, and how they say they are: for every member of the workspace."""
    return f"{workspace}/!members"


def audit(workspace: str) -> str:
    """What operators did, and what was refused. It is never trimmed."""
    return f"{workspace}/!audit"


def _project(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    for event in events:
        write = _WRITES.get(event.kind)
        if write is not None:
            workspace, _, of = event.stream.partition("/")
            if of in ("!members", "!audit"):
                write(connection, workspace, event)


def _enrolled(connection: sqlite3.Connection, workspace: str, event: Event) -> None:
    data = event.data
    connection.execute(
        "INSERT INTO members VALUES (?, ?, ?, ?, ?, '{}', ?) ON CONFLICT (workspace, name) DO UPDATE SET"
        " card = excluded.card, speaker = excluded.speaker, declared = excluded.declared, since = excluded.since",
        (
            workspace, data["name"], json.dumps(data["card"]), json.dumps(data["speaker"]),
            json.dumps(data["declared"]), event.at,
        ),
    )  # fmt: skip


def _removed(connection: sqlite3.Connection, workspace: str, event: Event) -> None:
    for table in ("members", "resources"):
        connection.execute(f"DELETE FROM {table} WHERE workspace = ? AND name = ?", (workspace, event.data["name"]))


def _channel(connection: sqlite3.Connection, workspace: str, event: Event) -> None:
    name = event.data["name" if event.kind == CHANNEL else "channel"]
    connection.execute("INSERT OR IGNORE INTO channels VALUES (?, ?)", (workspace, name))


def _status(connection: sqlite3.Connection, workspace: str, event: Event) -> None:
    connection.execute(
        "UPDATE members SET status = ? WHERE workspace = ? AND name = ?",
        (json.dumps(_status_of(event)), workspace, event.data["name"]),
    )


def _workspace(connection: sqlite3.Connection, workspace: str, event: Event) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO workspaces VALUES (?, ?, ?, ?, NULL)",
        (workspace, event.data.get("description", ""), event.at, event.sender.rpartition("/")[2]),
    )


def _workspace_deleted(connection: sqlite3.Connection, workspace: str, event: Event) -> None:
    connection.execute("UPDATE workspaces SET deleted_at = ? WHERE name = ?", (event.at, workspace))
    for table in ("members", "channels", "resources"):
        connection.execute(f"DELETE FROM {table} WHERE workspace = ?", (workspace,))


_WRITES = {
    ENROLLED: _enrolled,
    REMOVED: _removed,
    CHANNEL: _channel,
    JOINED: _channel,
    STATUS: _status,
    WORKSPACE: _workspace,
    WORKSPACE_DELETED: _workspace_deleted,
}

_KINDS = frozenset({*_WRITES, LEFT})

REGISTRY = Projection(
    Migrations(
        "registry",
        (
            """
            CREATE TABLE workspaces (
                name TEXT PRIMARY KEY,
                description TEXT NOT NULL,
                created_at REAL NOT NULL,
                created_by TEXT NOT NULL,
                deleted_at REAL
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE members (
                workspace TEXT NOT NULL,
                name TEXT NOT NULL,
                card TEXT NOT NULL,
                speaker TEXT NOT NULL,
                declared TEXT NOT NULL,
                status TEXT NOT NULL,
                since REAL NOT NULL,
                PRIMARY KEY (workspace, name)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE channels (
                workspace TEXT NOT NULL,
                name TEXT NOT NULL,
                PRIMARY KEY (workspace, name)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE resources (
                workspace TEXT NOT NULL,
                name TEXT NOT NULL,
                at REAL NOT NULL,
                figures TEXT NOT NULL,
                PRIMARY KEY (workspace, name)
            ) STRICT, WITHOUT ROWID;
            """,
        ),
    ),
    _project,
    kinds=_KINDS,
)


class Registry:
    """Who is there now, in memory. `load` first; then whoever follows the log's tail hands every event to `seen`."""

    def __init__(self, log: SqliteLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self.spaces: dict[str, Space] = {MAIN: Space(MAIN)}
        self.gone: set[str] = set()
        """Workspaces that were deleted."""
        self.resources: dict[tuple[str, str], tuple[float, Mapping[str, Any]]] = {}
        """The newest figures of each, and when they came."""
        self._unwritten: set[tuple[str, str]] = set()
        self.unwritten = asyncio.Event()
        """Figures have come that are not written down."""
        self.connections: Counter[tuple[str, str]] = Counter()
        """Who has connections open, and how many."""
        self.last_seen: dict[tuple[str, str], float] = {}

    async def load(self) -> None:
        """Know what stands, after a start."""

        def read(connection: sqlite3.Connection) -> list[list[sqlite3.Row]]:
            tables = ("workspaces", "members", "hearing", "resources", "channels")
            return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]

        workspaces, members, hearing, resources, named_channels = await self._log.database.read(read)
        for row in workspaces:
            if row["deleted_at"] is not None:
                self.gone.add(row["name"])
            else:
                self.spaces[row["name"]] = Space(row["name"], row["description"], row["created_at"], row["created_by"])
        for row in named_channels:
            self._space(row["workspace"]).channels.add(row["name"])
        channels: dict[tuple[str, str], dict[str, Hears]] = {}
        for row in hearing:
            workspace, _, name = row["box"].partition("/@")
            channels.setdefault((workspace, name), {})[row["channel"].partition("/")[2]] = Hears(row["hears"])
        found: dict[str, dict[str, Member]] = {}
        for row in members:
            workspace, name = row["workspace"], row["name"]
            present = Present(
                card=Card.from_json(json.loads(row["card"])),
                speaker=speaker_from_json(json.loads(row["speaker"])),
                declared=tuple(json.loads(row["declared"])),
                status=json.loads(row["status"]),
                since=row["since"],
            )
            self._space(workspace).members[name] = present
            found.setdefault(workspace, {})[name] = Member(name, channels.get((workspace, name), {}))
        for workspace, named in found.items():
            self._space(workspace).directory = Directory(named)
        for row in resources:
            self.resources[row["workspace"], row["name"]] = (row["at"], json.loads(row["figures"]))

    # -- what the log says -----------------------------------------------------------------------------------------

    def seen(self, events: Iterable[Event]) -> None:
        """What the log's tail brings."""
        for event in events:
            if event.kind in _KINDS:
                workspace, _, of = event.stream.partition("/")
                if of in ("!members", "!audit"):
                    self._seen(workspace, event)

    def _seen(self, workspace: str, event: Event) -> None:
        data = event.data
        if event.kind == WORKSPACE:
            self._space(workspace).description = data.get("description", "")
            self.spaces[workspace].created_at = event.at
            self.spaces[workspace].created_by = event.sender.rpartition("/")[2]
            return
        if event.kind == WORKSPACE_DELETED:
            self.spaces.pop(workspace, None)
            self.gone.add(workspace)
            return
        space, name = self._space(workspace), data["name"]
        if event.kind in (CHANNEL, JOINED):
            space.channels.add(data["name" if event.kind == CHANNEL else "channel"])
        member = space.directory.members.get(name)
        if event.kind == ENROLLED:
            space.members[name] = Present(
                card=Card.from_json(data["card"]),
                speaker=speaker_from_json(data["speaker"]),
                declared=tuple(data["declared"]),
                status=space.members[name].status if name in space.members else {},
                since=event.at,
            )
            if member is None:
                space.directory = space.directory.having(Member(name))
        elif event.kind == REMOVED:
            space.members.pop(name, None)
            space.directory = space.directory.without(name)
            self.resources.pop((workspace, name), None)
        elif event.kind == STATUS and name in space.members:
            space.members[name] = replace(space.members[name], status=_status_of(event))
        elif event.kind == JOINED and member is not None:
            space.directory = space.directory.having(member.joined(data["channel"], Hears(data["hears"])))
        elif event.kind == LEFT and member is not None:
            space.directory = space.directory.having(member.left(data["channel"]))

    def _space(self, workspace: str) -> Space:
        return self.spaces.setdefault(workspace, Space(workspace))

    # -- what stands -----------------------------------------------------------------------------------------------

    def exists(self, workspace: str) -> bool:
        return workspace in self.spaces

    def directory(self, workspace: str) -> Directory:
        space = self.spaces.get(workspace)
        return space.directory if space is not None else Directory()

    def present(self, workspace: str, name: str) -> Present | None:
        space = self.spaces.get(workspace)
        return space.members.get(name) if space is not None else None

    def speaker(self, caller: Caller) -> Speaker:
        """What its manifest lets the caller do; an operator may do all."""
        if caller.operator:
            return _operator(caller.name)
        present = self.present(caller.workspace, caller.name)
        return present.speaker if present is not None else Speaker(name=caller.name)

    def enrolling(
        self, workspace: str, card: Card, speaker: Speaker, channels: Sequence[str], by: str = "fleet"
    ) -> list[New]:
        """What is to be written down so that somebody is a member as declared; nothing where it is already. What it
        has joined and left by itself stays so, as long as the declaration says the same of it."""
        present = self.present(workspace, card.name)
        declared = tuple(dict.fromkeys(channels))
        facts: list[New] = []
        sender, of = f"{workspace}/{by}", stream(workspace)
        if present is None or (present.card, present.speaker, present.declared) != (card, speaker, declared):
            body = {
                "name": card.name, "card": card.to_json(), "speaker": speaker_to_json(speaker),
                "declared": list(declared),
            }  # fmt: skip
            facts.append(New.of(of, ENROLLED, sender, body))
        before = present.declared if present is not None else ()
        for channel in declared:
            if channel not in before:
                body = {"name": card.name, "channel": channel, "hears": Hears.ALL.value}
                facts.append(New.of(of, JOINED, sender, body))
        for channel in before:
            if channel not in declared:
                facts.append(New.of(of, LEFT, sender, {"name": card.name, "channel": channel}))
        return facts

    # -- of the moment ---------------------------------------------------------------------------------------------

    def figures(self, workspace: str, name: str, figures: Mapping[str, Any]) -> None:
        """The newest figures of a member's machine."""
        self.resources[workspace, name] = (self._clock.now(), figures)
        self._unwritten.add((workspace, name))
        self.unwritten.set()

    async def write_figures(self) -> None:
        """Write down what came since; a full disk keeps it for the next time."""
        keys, self._unwritten = self._unwritten, set()
        self.unwritten.clear()
        rows = [
            (*key, self.resources[key][0], json.dumps(self.resources[key][1])) for key in keys if key in self.resources
        ]
        if not rows:
            return
        try:
            await self._log.database.write(
                lambda c: c.executemany("INSERT OR REPLACE INTO resources VALUES (?, ?, ?, ?)", rows).rowcount
            )
        except StorageError:
            self._unwritten |= keys
            self.unwritten.set()


@functools.lru_cache(maxsize=256)
def _operator(name: str) -> Speaker:
    return Speaker(name=name, operator=True)


def speaker_to_json(speaker: Speaker) -> dict[str, Any]:
    return {
        "may": sorted(speaker.may), "wake": speaker.wake, "hop_limit": speaker.hop_limit,
        "suppress_thanks": speaker.suppress_thanks, "name": speaker.name,
    }  # fmt: skip


def speaker_from_json(stored: Mapping[str, Any]) -> Speaker:
    return Speaker(
        name=stored["name"],
        may=frozenset(stored["may"]),
        wake=stored["wake"],
        hop_limit=stored["hop_limit"],
        suppress_thanks=stored["suppress_thanks"],
    )


def _status_of(event: Event) -> dict[str, Any]:
    return {**{key: value for key, value in event.data.items() if key != "name"}, "at": event.at}
