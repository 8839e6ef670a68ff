"""Who speaks: tokens and roles. A token's word is the only one; nobody is believed who merely names a name.

A token is 32 random bytes, shown once, when it is made. What is kept is its SHA-256: enough to know it again, too
little to use. Its making and its end are events on the audit, so the table here follows from the log like all others.

What holds: a token that was revoked, has expired, or is of a workspace that is gone, is nobody's from that moment on.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fleet.clock import Clock
from fleet.db import Migrations
from fleet.errors import FleetError
from fleet.hub.log import Event, New, Projection, SqliteLog
from fleet.hub.message import Code, Refusal

PREFIX = "flt_"
INVITE_PREFIX = "fli_"
MAIN = "main"
"""The workspace that is there from the beginning."""

TOKEN = "token"
"""`{id, sha256, role, name, workspace, expires_at}`: a token was made."""
REVOKED = "token_revoked"
"""`{id, name}`."""
INVITE = "invite"
"""`{id, sha256, role, workspace, expires_at, uses}`: an invite was made."""
INVITE_DELETED = "invite_deleted"
"""`{id}`."""
REDEEMED = "redeemed"
"""`{id, name}`: an invite gave somebody a token."""


class Refused(FleetError):
    """The hub said no."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason, **refusal.facts)
        self.refusal = refusal

    @property
    def code(self) -> str:
        return self.refusal.code.value

    def to_json(self) -> dict[str, Any]:
        return self.refusal.to_json()


def no(code: Code, reason: str, **facts: Any) -> Refused:
    """A refusal, to be raised."""
    return Refused(Refusal(code, reason, facts=facts))


class Role(StrEnum):
    """What a token's holder may do."""

    AGENT = "agent"
    """Speak as itself, and read what is for it."""
    VIEWER = "viewer"
    """Read all of its workspace, and be seen by nobody."""
    OPERATOR = "operator"
    """That, and speak as a person whose word counts; pause, resume and terminate."""
    ADMIN = "admin"
    """That, and give tokens and workspaces, in all workspaces."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the token says."""

    name: str
    role: Role
    workspace: str = MAIN
    token: str = ""
    """The token's id."""

    @property
    def operator(self) -> bool:
        return self.role in (Role.OPERATOR, Role.ADMIN)

    @property
    def observes(self) -> bool:
        """Whether it sees all of its workspace."""
        return self.role is not Role.AGENT

    @property
    def speaks(self) -> bool:
        return self.role is not Role.VIEWER


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A token, as it may be shown."""

    id: str
    role: Role
    name: str
    workspace: str
    created_at: float
    created_by: str
    expires_at: float | None = None
    revoked_at: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "role": self.role.value,
            "name": self.name,
            "workspace": self.workspace,
            "created_at": self.created_at,
            "created_by": self.created_by,
            "expires_at": self.expires_at,
            "revoked_at": self.revoked_at,
        }


def _project(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    for event in events:
        if event.kind == TOKEN:
            data = event.data
            connection.execute(
                "INSERT OR IGNORE INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                (
                    data["id"], data["sha256"], data["role"], data["name"], data["workspace"], event.at,
                    event.sender.rpartition("/")[2], data.get("expires_at"),
                ),
            )  # fmt: skip
        elif event.kind == REVOKED:
            connection.execute(
                "UPDATE tokens SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (event.at, event.data["id"])
            )
        elif event.kind == INVITE:
            data = event.data
            connection.execute(
                "INSERT OR IGNORE INTO invites VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    data["id"], data["sha256"], data["role"], data["workspace"], event.at,
                    event.sender.rpartition("/")[2], data["expires_at"], data["uses"],
                ),
            )  # fmt: skip
        elif event.kind == REDEEMED:
            connection.execute("UPDATE invites SET uses = uses - 1 WHERE id = ?", (event.data["id"],))
        elif event.kind == INVITE_DELETED:
            connection.execute("UPDATE invites SET uses = 0 WHERE id = ?", (event.data["id"],))


TOKENS = Projection(
    Migrations(
        "tokens",
        (
            """
            CREATE TABLE tokens (
                id TEXT PRIMARY KEY,
                sha256 TEXT NOT NULL UNIQUE,
                role TEXT NOT NULL,
                name TEXT NOT NULL,
                workspace TEXT NOT NULL,
                created_at REAL NOT NULL,
                created_by TEXT NOT NULL,
                expires_at REAL,
                revoked_at REAL
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE invites (
                id TEXT PRIMARY KEY,
                sha256 TEXT NOT NULL UNIQUE,
                role TEXT NOT NULL,
                workspace TEXT NOT NULL,
                created_at REAL NOT NULL,
                created_by TEXT NOT NULL,
                expires_at REAL,
                uses INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID;
            """,
        ),
    ),
    _project,
    kinds=frozenset({TOKEN, REVOKED, INVITE, REDEEMED, INVITE_DELETED}),
)


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


@dataclass(slots=True)
class _Live:
    caller: Caller
    expires_at: float | None


class Tokens:
    """The tokens that are good, in memory; all of them in the log's file. `load` first."""

    def __init__(self, log: SqliteLog, clock: Clock, chance: Callable[[int], bytes] = os.urandom) -> None:
        self._log = log
        self._clock = clock
        self._chance = chance
        self._live: dict[str, _Live] = {}
        self._sum_of: dict[str, str] = {}
        """By a token's id."""
        self.may_exist: Callable[[str], bool] = lambda workspace: True
        """Whether there is such a workspace. Set by the exchange."""
        self.created: Callable[[Caller], Awaitable[None]] | None = None
        """Told of every new one. Set by the exchange."""
        self.ended: Callable[[Caller], None] | None = None
        """Told of every one that was revoked: its connections end."""

    async def load(self) -> None:
        """Know the tokens that are good."""
        now = self._clock.now()

        def read(connection: sqlite3.Connection) -> list[sqlite3.Row]:
            return connection.execute(
                "SELECT * FROM tokens WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)", (now,)
            ).fetchall()

        for row in await self._log.database.read(read):
            caller = Caller(row["name"], Role(row["role"]), row["workspace"], row["id"])
            self._keep(row["sha256"], caller, row["expires_at"])

    def check(self, token: str) -> Caller | None:
        """Whose token it is; `None`: nobody's (any more). What it costs does not depend on what it is."""
        sha256 = digest(token)
        live = self._live.get(sha256)
        if live is None or not self.may_exist(live.caller.workspace):
            return None
        if live.expires_at is not None and self._clock.now() >= live.expires_at:
            self._drop(live.caller.token)
            return None
        return live.caller

    def good(self, caller: Caller) -> bool:
        """Whether the token by which somebody came in is still good; who came without one is not asked."""
        if not caller.token:
            return True
        live = self._live.get(self._sum_of.get(caller.token, ""))
        if live is None or not self.may_exist(live.caller.workspace):
            return False
        return live.expires_at is None or self._clock.now() < live.expires_at

    async def create(
        self, role: Role, name: str, workspace: str = MAIN, *, by: str, expires_in: float | None = None
    ) -> tuple[str, str]:
        """A new token's id, and the token itself, which is not shown again."""
        secret = PREFIX + base64.b32encode(self._chance(32)).decode().lower().rstrip("=")
        id = "k-" + base64.b32encode(self._chance(10)).decode().lower()
        expires_at = None if expires_in is None else self._clock.now() + expires_in
        fact = {
            "id": id, "sha256": digest(secret), "role": role.value, "name": name, "workspace": workspace,
            "expires_at": expires_at,
        }  # fmt: skip
        await self._log.append([New.of(f"{workspace}/!audit", TOKEN, f"{workspace}/{by}", fact)])
        caller = Caller(name, role, workspace, id)
        self._keep(digest(secret), caller, expires_at)
        if self.created is not None:
            await self.created(caller)
        return id, secret

    async def list(self, workspace: str | None = None) -> list[TokenRow]:
        """All there ever were, of one workspace or of all, the oldest first."""

        def read(connection: sqlite3.Connection) -> list[TokenRow]:
            rows = connection.execute(
                "SELECT * FROM tokens WHERE ?1 IS NULL OR workspace = ?1 ORDER BY created_at, id", (workspace,)
            )
            return [_row(row) for row in rows]

        return await self._log.database.read(read)

    async def row(self, id: str) -> TokenRow | None:
        """One of them."""
        row = await self._log.database.read(lambda c: c.execute("SELECT * FROM tokens WHERE id = ?", (id,)).fetchone())
        return None if row is None else _row(row)

    async def revoke(self, id: str, *, by: str) -> None:
        """From now on it is nobody's. Again changes nothing. Raise `Refused` where there is none by that id."""
        row = await self.row(id)
        if row is None:
            raise no(Code.UNKNOWN_TOKEN, f"There is no token {id}.")
        if row.revoked_at is None:
            await self._log.append(
                [New.of(f"{row.workspace}/!audit", REVOKED, f"{row.workspace}/{by}", {"id": id, "name": row.name})]
            )
        self._drop(id)

    async def revoke_all(self, workspace: str, name: str, *, by: str, but: str | None = None) -> None:
        """Every token of one name, such as those of an agent's older launches; but one."""
        for caller in [live.caller for live in self._live.values()]:
            if (caller.workspace, caller.name) == (workspace, name) and caller.token != but:
                await self.revoke(caller.token, by=by)

    def drop_workspace(self, workspace: str) -> None:
        """Its tokens are nobody's any more; that the workspace is gone stands in the log."""
        for caller in [live.caller for live in self._live.values()]:
            if caller.workspace == workspace:
                self._drop(caller.token)

    def _keep(self, sha256: str, caller: Caller, expires_at: float | None) -> None:
        self._live[sha256] = _Live(caller, expires_at)
        self._sum_of[caller.token] = sha256

    def _drop(self, id: str) -> None:
        live = self._live.pop(self._sum_of.pop(id, ""), None)
        if live is not None and self.ended is not None:
            self.ended(live.caller)


def _row(row: Mapping[str, Any]) -> TokenRow:
    names = ("id", "name", "workspace", "created_at", "created_by", "expires_at", "revoked_at")
    return TokenRow(role=Role(row["role"]), **{name: row[name] for name in names})


# -- invites -------------------------------------------------------------------------------------------------------


class Invites:
    """What gives a token to whoever holds it, so many times, for a while."""

    def __init__(self, log: SqliteLog, clock: Clock, chance: Callable[[int], bytes] = os.urandom) -> None:
        self._log = log
        self._clock = clock
        self._chance = chance
        self._one_at_a_time = asyncio.Lock()

    async def create(
        self, workspace: str, role: Role, *, by: str, expires_in: float | None, uses: int
    ) -> dict[str, Any]:
        """A new one: what it is known by, and the invite itself, which is not shown again."""
        secret = INVITE_PREFIX + base64.b32encode(self._chance(20)).decode().lower()
        id = "i-" + base64.b32encode(self._chance(10)).decode().lower()
        expires_at = None if expires_in is None else self._clock.now() + expires_in
        told = {"id": id, "role": role.value, "workspace": workspace, "expires_at": expires_at, "uses": uses}
        fact = New.of(f"{workspace}/!audit", INVITE, f"{workspace}/{by}", {**told, "sha256": digest(secret)})
        await self._log.append([fact])
        return {**told, "invite": secret}

    async def list(self, workspace: str | None = None) -> list[dict[str, Any]]:
        """Those that can still be redeemed, of one workspace or of all, the oldest first."""
        now = self._clock.now()
        rows = await self._log.database.read(
            lambda c: c.execute(
                "SELECT id, role, workspace, expires_at, uses, created_at, created_by FROM invites"
                " WHERE (?1 IS NULL OR workspace = ?1) AND uses > 0 AND (expires_at IS NULL OR expires_at > ?2)"
                " ORDER BY created_at, id",
                (workspace, now),
            ).fetchall()
        )
        return [dict(row) for row in rows]

    async def row(self, id: str) -> Mapping[str, Any] | None:
        """One of them."""
        row = await self._log.database.read(
            lambda c: c.execute("SELECT id, workspace FROM invites WHERE id = ?", (str(id),)).fetchone()
        )
        return None if row is None else dict(row)

    async def delete(self, id: str, workspace: str, *, by: str) -> None:
        """It can be redeemed no longer."""
        await self._log.append([New.of(f"{workspace}/!audit", INVITE_DELETED, f"{workspace}/{by}", {"id": id})])

    @contextlib.asynccontextmanager
    async def redeeming(self, invite: object) -> AsyncIterator[Mapping[str, Any]]:
        """What an invite gives, while nobody else redeems one. Raise `Refused` where it is not good (any more)."""
        sha256, now = digest(str(invite)), self._clock.now()
        async with self._one_at_a_time:
            row = await self._log.database.read(
                lambda c: c.execute(
                    "SELECT id, role, workspace FROM invites WHERE sha256 = ? AND uses > 0"
                    " AND (expires_at IS NULL OR expires_at > ?)",
                    (sha256, now),
                ).fetchone()
            )
            if row is None:
                raise no(Code.UNKNOWN_INVITE, "This invite is not good (any more).")
            yield dict(row)

    async def used(self, id: str, workspace: str, name: str) -> None:
        """Once less to be redeemed."""
        fact = New.of(f"{workspace}/!audit", REDEEMED, f"{workspace}/{name}", {"id": id, "name": name})
        await self._log.append([fact])
