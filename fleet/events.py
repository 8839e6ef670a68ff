"""What has happened, kept: hook events as the programs told them, changes of phase, actions and faults.

Payloads are redacted on the way in and kept whole. An event with a key is there once, whoever brings it again. From
the hook events of an agent follow the facts that a status shows (its last tools and prompts); they are counted as
events come in, and looked up once after a start.
"""

from __future__ import annotations

import asyncio
import builtins
import json
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fleet.db import Database, Migrations
from fleet.redact import redact, redact_json
from fleet.terms import HookEvent

EVENTS_MIGRATIONS = Migrations(
    "events",
    (
        """
        CREATE TABLE events (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            agent TEXT NOT NULL,
            type TEXT NOT NULL,
            name TEXT NOT NULL,
            key TEXT UNIQUE,
            generation TEXT,
            pid INTEGER,
            session_id TEXT,
            tool TEXT,
            call TEXT,
            payload TEXT NOT NULL
        ) STRICT;
        CREATE INDEX events_agent ON events (agent, id);
        CREATE INDEX events_type ON events (type, id);
        CREATE INDEX events_generation ON events (generation, id) WHERE generation IS NOT NULL;
        CREATE INDEX events_tools ON events (agent, tool, call) WHERE tool IS NOT NULL;
        CREATE INDEX events_at ON events (at);
        """,
    ),
)

HOOK = "hook"
"""The type of an event that a program's hook told."""

RECENT_TOOLS = 20
RECENT_PROMPTS = 10
RECENT_CALLS = 10
PREVIEW = 200
"""Characters of a prompt or a tool's input in a status."""
LOOKED_BACK = 400
"""Hook events that are read again for an agent's status after a start."""
READ_BACK_BYTES = 65_536
"""A larger payload is not read for that."""

AGENT_TOOLS = ("Agent", "Task")
"""What the model calls to start a sub-agent, by version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened."""

    at: float
    agent: str
    type: str
    """hook, or what the supervisor says: phase, activity, action, fault, …"""
    name: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    """Unique for ever, where it could be told twice."""
    generation: str | None = None
    pid: int | None = None
    session_id: str | None = None
    id: int | None = None
    """Its place in the store; later ones are higher."""

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "at": self.at,
            "agent": self.agent,
            "type": self.type,
            "name": self.name,
            "key": self.key,
            "generation": self.generation,
            "pid": self.pid,
            "session_id": self.session_id,
            "payload": dict(self.payload),
        }


SecretsOf = Callable[[str], Collection[str]]


def _none(agent: str) -> Collection[str]:
    return ()


class Events:
    """The table of events, and what a status shows of it."""

    def __init__(self, database: Database, secrets: SecretsOf = _none) -> None:
        """`secrets` are the values that an agent was given and nobody else may see."""
        self._database = database
        self._secrets = secrets
        self._summaries: dict[str, Summary] = {}
        self._looking_back: dict[str, builtins.list[Event]] = {}
        """What comes in for agents whose summary is being read."""
        self._one_looks = asyncio.Lock()
        self._more = asyncio.Event()

    async def append(self, events: Iterable[Event]) -> builtins.list[Event]:
        """Commit them, redacted, in their order; as they are then, with their ids.

        One whose key is there already changes nothing and gets the id it had.
        """
        clean = await asyncio.to_thread(_redacted, builtins.list(events), self._secrets)
        ids = await self._database.write(lambda connection: [_insert(connection, *one) for one in clean])
        stored = [replace(event, id=abs(number)) for (event, _), number in zip(clean, ids, strict=True)]
        for event, number in zip(stored, ids, strict=True):
            if number > 0 and event.type == HOOK:
                self._take_in(event)
        self._more.set()
        self._more = asyncio.Event()
        return stored

    def more(self) -> asyncio.Event:
        """Set once events are stored after this call. Whoever follows calls it, lists what there is, and then waits."""
        return self._more

    def _take_in(self, event: Event) -> None:
        if event.agent in self._looking_back:
            self._looking_back[event.agent].append(event)
        elif event.agent in self._summaries:
            self._summaries[event.agent].add(event)

    async def keep(self, hooks: Sequence[HookEvent]) -> builtins.list[HookEvent]:
        """The same for what comes out of the spool, given back as it may be shown."""
        stored = await self.append(
            Event(
                at=hook.at,
                agent=hook.agent,
                type=HOOK,
                name=hook.name,
                payload=hook.payload,
                key=hook.key,
                generation=hook.generation,
                pid=hook.pid,
                session_id=hook.session_id,
            )
            for hook in hooks
        )
        return [replace(hook, payload=event.payload) for hook, event in zip(hooks, stored, strict=True)]

    async def list(
        self,
        *,
        agent: str | None = None,
        type: str | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> builtins.list[Event]:
        """Oldest first; with `after` what has a higher id, with `limit` the newest so many of it."""
        where, values = ["id > ?"], [after or 0]
        for column, value in (("agent", agent), ("type", type)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)  # type: ignore[arg-type]
        statement = f"SELECT * FROM events WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"
        rows = await self._database.read(
            lambda c: c.execute(statement, (*values, -1 if limit is None else limit)).fetchall()
        )
        return await asyncio.to_thread(lambda: [_event(row) for row in reversed(rows)])

    async def first_pids(self, generations: Iterable[str]) -> dict[str, int]:
        """By launch, the process whose hook was heard first: its program's. What that starts speaks later."""
        sql = "SELECT pid FROM events WHERE generation = ? AND type = ? AND pid IS NOT NULL ORDER BY id LIMIT 1"
        wanted = set(generations)
        rows = await self._database.read(lambda c: {one: c.execute(sql, (one, HOOK)).fetchone() for one in wanted})
        return {generation: row["pid"] for generation, row in rows.items() if row is not None}

    async def of_generation(self, generation: str) -> builtins.list[HookEvent]:
        """What one launch's hooks told, oldest first, those of all of its job's runs (`Handle.is_of`): for a daemon
        that takes it up again."""
        rows = await self._database.read(
            lambda c: c.execute(
                "SELECT * FROM (SELECT * FROM events WHERE (generation = ? OR generation GLOB ?) AND type = ?"
                " AND length(payload) <= ? ORDER BY id DESC LIMIT ?) ORDER BY id",
                (generation, f"{generation}.r[0-9]*", HOOK, READ_BACK_BYTES, LOOKED_BACK),
            ).fetchall()
        )
        return [
            HookEvent(
                key=row["key"],
                agent=row["agent"],
                name=row["name"],
                at=row["at"],
                generation=row["generation"],
                pid=row["pid"],
                payload=json.loads(row["payload"]),
            )
            for row in rows
        ]

    async def trim(self, before: float) -> int:
        """Delete what happened before that time, in steps that hold nobody up. How many went."""
        gone = 0
        while True:
            step = await self._database.write(
                lambda c: (
                    c.execute(
                        "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < ? LIMIT 500)", (before,)
                    ).rowcount
                )
            )
            gone += step
            if step == 0:
                break
        if gone:
            self._summaries.clear()  # counted anew when asked again
        return gone

    async def summary(self, agent: str) -> dict[str, Any]:
        """What a status shows of the agent's hook events, under fleet's names."""
        return (await self.summaries([agent]))[agent]

    async def summaries(self, agents: Collection[str]) -> dict[str, dict[str, Any]]:
        """The same for many."""
        async with self._one_looks:
            while missing := [agent for agent in agents if agent not in self._summaries]:  # `trim` forgets all of them
                await self._look_back(missing)
            return {agent: self._summaries[agent].facts() for agent in agents}

    async def _look_back(self, agents: Sequence[str]) -> None:
        self._looking_back = {agent: [] for agent in agents}
        try:
            self._summaries |= await self._database.read(lambda c: {agent: _look_back(c, agent) for agent in agents})
        finally:
            came_in, self._looking_back = self._looking_back, {}
        for event in (event for events in came_in.values() for event in events):
            self._take_in(event)


# -- rows ----------------------------------------------------------------------------------------------------------


def _redacted(events: Sequence[Event], secrets_of: SecretsOf) -> list[tuple[Event, str]]:
    """Each event as it may be shown, and its payload's text."""
    known = {agent: secrets_of(agent) for agent in {event.agent for event in events}}
    clean = []
    for event in events:
        secrets = known[event.agent]
        try:
            payload = redact_json(event.payload, secrets)
            text = json.dumps(payload)
        except RecursionError:
            # Nested deeper than Python follows: kept as text.
            text = redact(_flat(event.payload), secrets)
            payload = {"raw": text}
            text = json.dumps(payload)
        clean.append((replace(event, payload=payload), text))
    return clean


def _flat(value: object) -> str:
    try:
        return repr(value)
    except RecursionError:
        return "(nested too deeply to be shown)"


def _insert(connection: sqlite3.Connection, event: Event, payload: str) -> int:
    """The row's id; negative where the key was there already."""
    call = _call(event)
    row = connection.execute(
        "INSERT INTO events (at, agent, type, name, key, generation, pid, session_id, tool, call, payload)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING RETURNING id",
        (
            event.at,
            event.agent,
            event.type,
            _text(event.name),
            event.key,
            event.generation,
            event.pid,
            _text(event.session_id),
            _text(call and call[0]),
            _text(call and call[1]),
            payload,
        ),
    ).fetchone()
    if row is not None:
        return int(row["id"])
    return -int(connection.execute("SELECT id FROM events WHERE key = ?", (event.key,)).fetchone()["id"])


def _call(event: Event) -> tuple[str, str | None] | None:
    """The tool call that begins with this event, and its id."""
    tool = event.payload.get("tool_name")
    if event.type != HOOK or event.name != "PreToolUse" or not isinstance(tool, str):
        return None
    call = event.payload.get("tool_use_id")
    return tool, call if isinstance(call, str) else None


def _text(value: str | None) -> str | None:
    """As SQLite takes it: a lone surrogate is no text."""
    return None if value is None else value.encode("utf-8", "replace").decode("utf-8")


def _event(row: sqlite3.Row) -> Event:
    return Event(
        id=row["id"],
        at=row["at"],
        agent=row["agent"],
        type=row["type"],
        name=row["name"],
        key=row["key"],
        generation=row["generation"],
        pid=row["pid"],
        session_id=row["session_id"],
        payload=json.loads(row["payload"]),
    )


# -- what a status shows -------------------------------------------------------------------------------------------


class Summary:
    """The facts of an agent's hook events that a status shows, as of now."""

    def __init__(self) -> None:
        self._tools: deque[dict[str, Any]] = deque(maxlen=RECENT_TOOLS)
        self._prompts: deque[dict[str, Any]] = deque(maxlen=RECENT_PROMPTS)
        self._calls: deque[dict[str, Any]] = deque(maxlen=RECENT_CALLS)
        self._counts: dict[str, int] = {}
        self._mcp: tuple[float, str] | None = None
        self._background: list[Any] | None = None
        self._subagents: dict[str, dict[str, Any]] = {}
        self._last_at: float | None = None
        self._last_id = 0
        self._seen: deque[str] = deque(maxlen=256)

    def add(self, event: Event, *, count: bool = True) -> None:
        """Take one more event in; one that was taken in already changes nothing."""
        if event.id is not None and event.id <= self._last_id:
            return
        self._last_id = event.id or self._last_id
        self._last_at = max(self._last_at or 0.0, event.at)
        take = _TAKE.get(event.name)
        if take is not None:
            take(self, event, count)

    def recount(self, counts: Mapping[str, int]) -> None:
        self._counts = dict(counts)

    def facts(self) -> dict[str, Any]:
        """A value of its own, newest last in every list. What was never told is `None`."""
        tools = [dict(tool) for tool in self._tools]
        return {
            "last_at": self._last_at,
            "recent_tools": tools,
            "recent_prompts": [dict(prompt) for prompt in self._prompts],
            "agent_calls": [dict(call) for call in self._calls],
            "tool_counts": dict(self._counts),
            "last_tool_at": tools[-1]["at"] if tools else None,
            "last_tool_name": tools[-1]["tool"] if tools else None,
            "last_mcp_tool_at": self._mcp[0] if self._mcp else None,
            "last_mcp_tool_name": self._mcp[1] if self._mcp else None,
            "background_tasks": self._background,
            "subagents": [dict(subagent) for subagent in self._subagents.values()],
            "subagent_count": len(self._subagents),
        }

    def _tool_begins(self, event: Event, count: bool) -> None:
        begun = _call(event)
        if begun is None or (begun[1] is not None and begun[1] in self._seen):
            return
        tool, call = begun
        if call is not None:
            self._seen.append(call)
        if count:
            self._counts[tool] = self._counts.get(tool, 0) + 1
        given = event.payload.get("tool_input")
        entry = {"at": event.at, "tool": tool, "input": _preview(given), "call": call, "outcome": None}
        self._tools.append(entry)
        if tool.startswith("mcp__"):
            self._mcp = (event.at, tool)
        if tool in AGENT_TOOLS and isinstance(given, Mapping):
            self._calls.append(
                {
                    "at": event.at,
                    "description": _preview(given.get("description")),
                    "subagent_type": _preview(given.get("subagent_type")),
                    "call": call,
                }
            )

    def _tool_ends(self, event: Event, count: bool) -> None:
        call = event.payload.get("tool_use_id")
        for entry in reversed(self._tools):
            if call is not None and entry["call"] == call:
                entry["outcome"] = "failed" if event.name == "PostToolUseFailure" else "done"
                entry["duration_ms"] = event.payload.get("duration_ms")
                return

    def _prompt(self, event: Event, count: bool) -> None:
        text = event.payload.get("prompt")
        prompt = event.payload.get("prompt_id")
        if not isinstance(text, str) or (isinstance(prompt, str) and prompt in self._seen):
            return
        if isinstance(prompt, str):
            self._seen.append(prompt)
        self._prompts.append({"at": event.at, "prompt": _preview(text)})

    def _stops(self, event: Event, count: bool) -> None:
        tasks = event.payload.get("background_tasks")
        if isinstance(tasks, list):
            self._background = tasks[:20]
        if event.name == "Stop":
            self._subagents.clear()

    def _subagent(self, event: Event, count: bool) -> None:
        agent = event.payload.get("agent_id")
        if not isinstance(agent, str):
            return
        if event.name == "SubagentStart":
            self._subagents[agent] = {"id": agent, "type": _preview(event.payload.get("agent_type")), "at": event.at}
        else:
            self._subagents.pop(agent, None)
            self._stops(event, count)

    def _session(self, event: Event, count: bool) -> None:
        if event.payload.get("source") != "compact":
            self._subagents.clear()
            self._background = None


_TAKE = {
    "PreToolUse": Summary._tool_begins,
    "PostToolUse": Summary._tool_ends,
    "PostToolUseFailure": Summary._tool_ends,
    "UserPromptSubmit": Summary._prompt,
    "Stop": Summary._stops,
    "SubagentStart": Summary._subagent,
    "SubagentStop": Summary._subagent,
    "SessionStart": Summary._session,
    "SessionEnd": Summary._session,
}


def _preview(value: object) -> str | None:
    """What a tool or a person was told, short: a command or a path stands for its whole input."""
    if isinstance(value, Mapping):
        value = next(
            (value[key] for key in ("command", "file_path", "pattern", "url", "prompt") if key in value), value
        )
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)[: 2 * PREVIEW]
    return text if len(text) <= PREVIEW else text[: PREVIEW - 1] + "…"


def _look_back(connection: sqlite3.Connection, agent: str) -> Summary:
    """The agent's summary from what is stored."""
    summary = Summary()
    rows = connection.execute(
        "SELECT * FROM (SELECT id, at, agent, type, name, key, generation, pid, session_id, tool, call,"
        " CASE WHEN length(payload) <= ? THEN payload ELSE json_object('tool_name', tool, 'tool_use_id', call) END"
        " AS payload FROM events WHERE agent = ? AND type = ? ORDER BY id DESC LIMIT ?) ORDER BY id",
        (READ_BACK_BYTES, agent, HOOK, LOOKED_BACK),
    )
    for row in rows:
        summary.add(_event(row), count=False)
    counts = connection.execute(
        "SELECT tool, count(DISTINCT call) + sum(call IS NULL) AS calls FROM events"
        " WHERE agent = ? AND tool IS NOT NULL GROUP BY tool ORDER BY tool",
        (agent,),
    )
    summary.recount({row["tool"]: row["calls"] for row in counts})
    return summary
