"""The tables of agents: what is declared, what is wanted, where each life stands, how to find it on its host.

One row an agent, written whole before anything is done about it. The starter's environment stands beside the
database in a 0600 file of the agent's own folder, not in it.
"""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fleet.db import Database, Migrations
from fleet.errors import StorageError, StorageFull
from fleet.lifecycle import Life
from fleet.manifests.model import AgentSpec
from fleet.runtimes import files
from fleet.terms import File, Handle

LEDGER_MIGRATIONS = Migrations(
    "ledger",
    (
        """
        CREATE TABLE agents (
            name TEXT PRIMARY KEY,
            spec TEXT NOT NULL,
            life TEXT NOT NULL,
            handle TEXT,
            session_id TEXT,
            session_used INTEGER NOT NULL DEFAULT 0,
            transcript TEXT,
            cwd TEXT,
            launches INTEGER NOT NULL DEFAULT 0,
            was_up INTEGER NOT NULL DEFAULT 0,
            host_version TEXT,
            wrote TEXT NOT NULL DEFAULT '{}'
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE fleet (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
        """,
        """
        ALTER TABLE agents ADD COLUMN session_used_at REAL;
        ALTER TABLE agents ADD COLUMN start_used REAL NOT NULL DEFAULT 0;
        """,
    ),
)


@dataclass(frozen=True, slots=True)
class Record:
    """What the ledger holds of one agent."""

    spec: AgentSpec
    life: Life
    handle: Handle | None = None
    """The newest launch, also after its end."""
    session_id: str | None = None
    session_used: bool = False
    """Whether it ever got a prompt since it was last begun afresh: then no restart gives it its first one again, nor
    does another conversation that its program has gone on with (`/clear`)."""
    session_used_at: float | None = None
    """Since when that is so."""
    transcript: str | None = None
    """Where the program itself said that it keeps the conversation: it may have moved since the launch."""
    cwd: str | None = None
    """The newest launch's working folder: the real path, as the program itself resolves it."""
    launches: int = 0
    """How many launches there ever were: it numbers the generations."""
    start_used: float = 0.0
    """Seconds of the newest launch's start that had passed when it was last written down."""
    was_up: bool = False
    """It was wanted when the fleet was shut down."""
    version: str | None = None
    """What the program of the newest launch said of its version."""
    wrote: Mapping[str, str] = field(default_factory=dict)
    """The files that fleet put into the workspace, with what it put there (a hash each)."""

    @property
    def name(self) -> str:
        return self.spec.name


LEFT_THERE = "left_there"


class Ledger:
    """The agents' rows, in memory and on disk. What `save` returned from is on the disk."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def load(self) -> Iterator[Record]:
        """Every agent, at start-up: each is read as it is asked for, which of hundreds takes long."""
        rows = self._db.read_now(lambda c: c.execute("SELECT * FROM agents ORDER BY name").fetchall())
        return map(_record, rows)

    async def save(self, record: Record) -> None:
        """Write the row whole; returns once it is committed."""
        row = _row(record)
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        sql = f"INSERT OR REPLACE INTO agents ({names}) VALUES ({marks})"
        await self._db.write(lambda c: c.execute(sql, row))

    async def remove(self, name: str) -> None:
        """Forget the agent."""
        await self._db.write(lambda c: c.execute("DELETE FROM agents WHERE name = ?", (name,)))

    def note(self, key: str) -> str | None:
        """One word about the whole fleet."""
        row = self._db.read_now(lambda c: c.execute("SELECT value FROM fleet WHERE key = ?", (key,)).fetchone())
        return row["value"] if row else None

    async def set_note(self, key: str, value: str) -> None:
        await self._db.write(lambda c: c.execute("INSERT OR REPLACE INTO fleet VALUES (?, ?)", (key, value)))

    def left_there(self) -> tuple[Handle, ...]:
        """Newest launches of agents that are no more, whose folders on another machine may still be there."""
        return tuple(Handle(**one) for one in json.loads(self.note(LEFT_THERE) or "[]"))

    async def set_left_there(self, handles: Iterable[Handle]) -> None:
        await self.set_note(LEFT_THERE, json.dumps([asdict(handle) for handle in handles]))


def _row(record: Record) -> dict[str, str | int | float | None]:
    return {
        "name": record.name,
        "spec": record.spec.model_dump_json(),
        "life": json.dumps(record.life.to_json()),
        "handle": json.dumps(asdict(record.handle)) if record.handle else None,
        "session_id": record.session_id,
        "session_used": int(record.session_used),
        "session_used_at": record.session_used_at,
        "start_used": record.start_used,
        "transcript": record.transcript,
        "cwd": record.cwd,
        "launches": record.launches,
        "was_up": int(record.was_up),
        "host_version": record.version,
        "wrote": json.dumps(dict(record.wrote)),
    }


def _record(row: sqlite3.Row) -> Record:
    return Record(
        spec=AgentSpec.model_validate_json(row["spec"]),
        life=Life.from_json(json.loads(row["life"])),
        handle=Handle(**json.loads(row["handle"])) if row["handle"] else None,
        session_id=row["session_id"],
        session_used=bool(row["session_used"]),
        session_used_at=row["session_used_at"],
        start_used=row["start_used"],
        transcript=row["transcript"],
        cwd=row["cwd"],
        launches=row["launches"],
        was_up=bool(row["was_up"]),
        version=row["host_version"],
        wrote=json.loads(row["wrote"]),
    )


# -- the starter's environment --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartEnvironment:
    """The environment that the agent's `start` had, and the values of its secrets: a restart has the same."""

    environ: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def save(self, folder: Path) -> None:
        """Write it 0600 into the agent's folder, by rename: whole or not at all."""
        kept = json.dumps({"environ": dict(self.environ), "secrets": dict(self.secrets)})
        try:
            files.put([File(str(folder / "environ.json"), kept.encode())])
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    f"The disk is full: {folder} could not be written.", hint="Free some space, then say it again."
                ) from error
            raise StorageError(f"{folder} could not be written: {error.strerror}.") from error

    @classmethod
    def load(cls, folder: Path) -> StartEnvironment:
        """What was kept; empty where nothing was. Raise `StorageError` where it cannot be read."""
        path = folder / "environ.json"
        try:
            return replace(cls({}), **json.loads(path.read_text()))
        except FileNotFoundError:
            return cls({})
        except (OSError, ValueError, TypeError) as error:
            raise StorageError(
                f"{path}, the environment of the start, cannot be read: {error}.",
                hint=f"`fleet restart {folder.name}` writes it anew, with the environment that you are in.",
            ) from error
