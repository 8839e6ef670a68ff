"""Who is there, in which workspace, and by whose leave: the exchange's verbs about members, channels and tokens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fleet.errors import StorageError
from fleet.hub import registry
from fleet.hub.auth import MAIN, Caller, Refused, Role, no
from fleet.hub.base import ACT, Base, as_object, channel_of, seconds
from fleet.hub.guardrails import Speaker
from fleet.hub.log import New
from fleet.hub.mailbox import (
    HUB,
    JOINED,
    LEFT,
    REMOVED,
    WORKSPACE_DELETED,
    Change,
    box,
)
from fleet.hub.message import (
    NAME,
    WAITING,
    Cancel,
    Code,
    Refusal,
)
from fleet.hub.registry import Card
from fleet.hub.routing import Hears
from fleet.hub.shown import presence_of
from fleet.hub.submission import check_data, check_line

LEFT_AFTER = 5.0
"""Seconds without a connection after which somebody has gone."""


class Membership(Base):
    """Members, how they are, what they hear; workspaces, invites and tokens."""

    async def enroll(self, card: Card, speaker: Speaker, channels: Sequence[str], workspace: str = MAIN) -> None:
        """A supervised agent, as its manifest declares it (again): what has changed is written down."""
        named = [channel_of(channel) for channel in channels]
        async with self._enrolling:
            await self.log.append(self.registry.enrolling(workspace, card, speaker, named))

    async def introduce(self, caller: Caller, body: object) -> None:
        """What a member without a supervisor says of itself: machine, role, harness, model, project, description."""
        self._check(caller, speaks=True)
        data = check_data(body, self.limits)
        if isinstance(data, Refusal):
            raise Refused(data)
        await self._present(caller)
        present = self.registry.present(caller.workspace, caller.name)
        if present is None or present.card.supervised:
            return
        said: dict[str, Any] = {}
        for what in ("description", "machine", "role", "harness", "model", "project"):
            if isinstance(data.get(what), str):
                line = check_line(data[what], what, 1000)
                if isinstance(line, Refusal):
                    raise Refused(line)
                said[what] = line
        card = replace(present.card, **said)
        if card != present.card:
            facts = self.registry.enrolling(caller.workspace, card, present.speaker, present.declared, by=caller.name)
            await self.log.append(facts)

    async def remove(self, caller: Caller, name: str) -> None:
        """Out of the registry, its tokens with it. What it said stays. An operator's act; one may remove oneself."""
        self._check(caller, speaks=True)
        if name != caller.name:
            self._operator(caller)
        workspace = caller.workspace
        if self.registry.present(workspace, name) is None:
            raise self._nobody(workspace, name)
        if (workspace, name) == (MAIN, self.settings.hub_operator):
            raise no(Code.NOT_ALLOWED, f"{name} is the person at the command line, and stays.")
        body = {"name": name}
        await self.log.append(
            [
                New.of(registry.stream(workspace), REMOVED, self._sender(caller), body),
                New.of(registry.audit(workspace), ACT, self._sender(caller), {"verb": "remove", **body}),
            ]
        )
        self._turns.forget((workspace, name))
        await self.tokens.revoke_all(workspace, name, by=caller.name)
        waiting = [m for m in await self.boxes.open(box(workspace, name)) if m.recipient.state in WAITING]
        await self.change([Change(m.message.id, box(workspace, name), Cancel("removed")) for m in waiting])

    def members(self, caller: Caller) -> list[dict[str, Any]]:
        """Each: its card, `presence`, `status`, `resources`, `channels` (`{name: hears}`), `waiting`."""
        self._check(caller)
        return [self._member(caller.workspace, name) for name in self.registry.directory(caller.workspace).names]

    def member(self, caller: Caller, name: str) -> dict[str, Any]:
        """One of them. Raise `Refused` where there is none by that name."""
        self._check(caller)
        if self.registry.present(caller.workspace, name) is None:
            raise self._nobody(caller.workspace, name)
        return self._member(caller.workspace, name)

    def _member(self, workspace: str, name: str) -> dict[str, Any]:
        space = self.registry.spaces[workspace]
        present, member = space.members.get(name), space.directory.members[name]
        card = present.card if present is not None else Card(name=name)
        at, figures = self.registry.resources.get((workspace, name), (None, {}))
        return {
            **card.to_json(),
            **self._presence(workspace, card),
            "status": dict(present.status) if present is not None else {},
            "resources": {**figures, "at": at} if figures else {},
            "channels": {channel: hears.value for channel, hears in sorted(member.channels.items())},
            "waiting": self.boxes.waiting(box(workspace, name)),
        }

    def _presence(self, workspace: str, card: Card) -> dict[str, Any]:
        if card.supervised and workspace == MAIN:
            facts = self.presence(card.name)
            return {"presence": presence_of(facts), **(facts or {})}
        connected = self.registry.connections[workspace, card.name] > 0
        seen = self.registry.last_seen.get((workspace, card.name))
        return {"presence": "online" if connected else "offline", "last_seen": seen}

    def announce(self, name: str) -> None:
        """The supervisor's word on an agent of `main` may have changed: members hear of it if its presence has."""
        facts = self.presence(name)
        word = presence_of(facts)
        if self._announced.get((MAIN, name)) != word and self.registry.present(MAIN, name) is not None:
            self._announced[MAIN, name] = word
            self._soon(self._announce(MAIN, name, word))

    async def _announce(self, workspace: str, name: str, word: str) -> None:
        body = {"name": name, "presence": word}
        await self.log.append([New.of(registry.stream(workspace), registry.PRESENCE, f"{workspace}/{HUB}", body)])

    def connected(self, caller: Caller) -> Callable[[], None]:
        """A connection of the caller's is open: it is online until what this returns is called (once). Whoever only
        looks on is not seen."""
        who = (caller.workspace, caller.name)
        if not caller.speaks:
            return lambda: None
        present = self.registry.present(*who)
        self.registry.connections[who] += 1
        self.registry.last_seen[who] = self.clock.now()
        if present is not None and not present.card.supervised and self._announced.get(who) != "online":
            self._announced[who] = "online"
            self._soon(self._announce(*who, "online"))
        closed = False

        def close() -> None:
            nonlocal closed
            if not closed:
                closed = True
                self.registry.connections[who] -= 1
                self.registry.last_seen[who] = self.clock.now()
                if self.registry.connections[who] <= 0:
                    del self.registry.connections[who]
                    task = asyncio.ensure_future(self._gone(who))
                    self._lasting.append(task)
                    task.add_done_callback(self._lasting.remove)

        return close

    async def _gone(self, who: tuple[str, str]) -> None:
        await self.clock.sleep(LEFT_AFTER)
        if not self.registry.connections[who] and self._announced.get(who) == "online":
            self._announced[who] = "offline"
            with contextlib.suppress(StorageError):  # presence is of the moment
                await self._announce(*who, "offline")

    def channels(self, caller: Caller) -> list[dict[str, Any]]:
        """Each: `{name, members: {name: hears}}`."""
        self._check(caller)
        space = self.registry.spaces[caller.workspace]
        listed = space.directory.channels
        members = space.directory.members
        return [
            {"name": channel, "members": {n: members[n].channels[channel].value for n in listed.get(channel, ())}}
            for channel in sorted({*listed, *space.channels})
        ]

    async def join(self, caller: Caller, channel: str, hears: Hears | str = Hears.ALL, who: str | None = None) -> None:
        """Hear a channel (with or without its #) from now on; `who`: an operator's word for somebody else."""
        name = await self._on_behalf(caller, who)
        channel = channel_of(channel)
        if hears not in list(Hears):
            raise no(Code.BAD_VALUE, f"`hears` is one of {', '.join(Hears)}.", field="hears")
        wanted = Hears(hears)
        member = self.registry.directory(caller.workspace).members[name]
        if member.channels.get(channel) is not wanted:
            body = {"name": name, "channel": channel, "hears": wanted.value}
            await self._written(caller, name, JOINED, body)

    async def leave(self, caller: Caller, channel: str, who: str | None = None) -> None:
        """Hear it no longer."""
        name = await self._on_behalf(caller, who)
        channel = channel_of(channel)
        if channel in self.registry.directory(caller.workspace).members[name].channels:
            await self._written(caller, name, LEFT, {"name": name, "channel": channel})

    async def _on_behalf(self, caller: Caller, who: str | None) -> str:
        self._check(caller, speaks=True)
        await self._present(caller)
        name = caller.name if who is None else who
        if name != caller.name:
            self._operator(caller)
            if self.registry.present(caller.workspace, name) is None:
                raise self._nobody(caller.workspace, name)
        return name

    async def _written(self, caller: Caller, of: str, kind: str, body: Mapping[str, Any]) -> None:
        """A fact about a member; where an operator sets it for another, the audit has it too."""
        facts = [New.of(registry.stream(caller.workspace), kind, self._sender(caller), body)]
        if of != caller.name:
            act = {"verb": kind, **body}
            facts.append(New.of(registry.audit(caller.workspace), ACT, self._sender(caller), act))
        await self.log.append(facts)

    async def set_status(self, caller: Caller, body: object) -> dict[str, Any]:
        """What the caller says it is doing: `{status, task?, …}`. Members hear of it as an event."""
        self._check(caller, speaks=True)
        data = self._figures(body)
        await self._present(caller)
        now = {key: value for key, value in data.items() if key not in ("name", "at")}
        present = self.registry.present(caller.workspace, caller.name)
        before = {key: value for key, value in present.status.items() if key != "at"} if present is not None else {}
        if now != before:
            fact = New.of(
                registry.stream(caller.workspace), registry.STATUS, self._sender(caller), {**now, "name": caller.name}
            )
            await self.log.append([fact])
        return self._member(caller.workspace, caller.name)

    async def heartbeat(self, caller: Caller, body: object) -> None:
        """Figures of the caller's machine. The newest is kept; it is no event."""
        self._check(caller, speaks=True)
        figures = self._figures(body)
        await self._present(caller)
        self.registry.figures(caller.workspace, caller.name, figures)
        self.registry.last_seen[caller.workspace, caller.name] = self.clock.now()

    def _figures(self, body: object) -> Mapping[str, Any]:
        data = check_data(body, replace(self.limits, metadata=registry.FIGURES))
        if isinstance(data, Refusal):
            raise Refused(data)
        return data

    # -- workspaces, invites, tokens -------------------------------------------------------------------------------

    async def workspaces(self, caller: Caller) -> list[dict[str, Any]]:
        """All, for an administrator; else the caller's own."""
        self._check(caller)
        mine = (
            self.registry.spaces
            if caller.role is Role.ADMIN
            else {caller.workspace: self.registry.spaces[caller.workspace]}
        )
        return [space.to_json() for _, space in sorted(mine.items())]

    async def create_workspace(self, caller: Caller, name: str, description: str = "") -> dict[str, Any]:
        """A new one, under a name that none has had."""
        self._admin(caller)
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise no(Code.BAD_NAME, f"{str(name)[:60]!a} is not the name of a workspace.", field="name")
        line = check_line(description, "description", 1000)
        if isinstance(line, Refusal):
            raise Refused(line)
        if self.registry.exists(name) or name in self.registry.gone:
            raise no(Code.NAME_TAKEN, f"There is, or was, a workspace {name}.")
        body = {"name": name, "description": line}
        await self.log.append(
            [
                New.of(registry.audit(name), registry.WORKSPACE, f"{name}/{caller.name}", body),
                New.of(registry.audit(caller.workspace), ACT, self._sender(caller), {"verb": "workspace", **body}),
            ]
        )
        return self.registry.spaces[name].to_json()

    async def delete_workspace(self, caller: Caller, name: str) -> None:
        """Its tokens are nobody's at once."""
        self._admin(caller)
        if name == MAIN:
            raise no(Code.NOT_ALLOWED, f"The workspace {MAIN} stays.")
        if not self.registry.exists(name):
            raise no(Code.UNKNOWN_WORKSPACE, f"There is no workspace {str(name)[:60]!a}.")
        body = {"name": name}
        await self.log.append(
            [
                New.of(registry.audit(name), WORKSPACE_DELETED, f"{name}/{caller.name}", body),
                New.of(
                    registry.audit(caller.workspace), ACT, self._sender(caller), {"verb": "delete_workspace", **body}
                ),
            ]
        )

    async def invites(self, caller: Caller, workspace: str | None = None) -> list[dict[str, Any]]:
        """Those that can still be redeemed: of one workspace, or all that the caller could."""
        self._operator(caller)
        if workspace is None and caller.role is Role.ADMIN:
            there = await self._invites.list()
            return [one for one in there if self.registry.exists(one["workspace"])]
        return await self._invites.list(self._within(caller, workspace))

    async def invite(self, caller: Caller, body: object) -> dict[str, Any]:
        """`{workspace?, role?, expires_in?, uses?}` → `{id, invite, …}`: what is redeemed, shown once."""
        self._operator(caller)
        asked = as_object(body)
        workspace = self._within(caller, asked.get("workspace"))
        role = self._rank(caller, asked.get("role", Role.AGENT.value))
        return await self._invites.create(
            workspace,
            role,
            by=caller.name,
            expires_in=seconds(asked, "expires_in", 7 * 86_400.0),
            uses=int(seconds(asked, "uses", 1) or 1),
        )

    async def delete_invite(self, caller: Caller, id: str) -> None:
        """It can be redeemed no longer."""
        self._operator(caller)
        row = await self._invites.row(id)
        if row is None or (row["workspace"] != caller.workspace and caller.role is not Role.ADMIN):
            raise no(Code.UNKNOWN_INVITE, f"There is no invite {str(id)[:60]!a}.")
        await self._invites.delete(id, row["workspace"], by=caller.name)

    async def redeem(self, invite: str, name: str) -> dict[str, Any]:
        """A token for who has an invite and no token yet: `{id, token, name, role, workspace}`."""
        self._free_name(name)
        async with self._invites.redeeming(invite) as row:
            workspace, role = row["workspace"], Role(row["role"])
            if not self.registry.exists(workspace):
                raise no(Code.UNKNOWN_INVITE, "This invite is not good (any more).")
            if self.registry.present(workspace, name) is not None:
                raise no(Code.NAME_TAKEN, f"Somebody here is called {name} already.")
            await self._invites.used(row["id"], workspace, name)
            id, token = await self.tokens.create(role, name, workspace, by=name)
        return {"id": id, "token": token, "name": name, "role": role.value, "workspace": workspace}

    async def create_token(self, caller: Caller, body: object) -> dict[str, Any]:
        """`{role, name, workspace?, expires_in?}` → `{id, token, …}`: an operator's act within the own rank."""
        self._operator(caller)
        asked = as_object(body)
        workspace = self._within(caller, asked.get("workspace"))
        role = self._rank(caller, asked.get("role"))
        name = self._free_name(asked.get("name"))
        expires_in = seconds(asked, "expires_in", None)
        id, token = await self.tokens.create(role, name, workspace, by=caller.name, expires_in=expires_in)
        return {"id": id, "token": token, "role": role.value, "name": name, "workspace": workspace}

    async def list_tokens(self, caller: Caller, workspace: str | None = None) -> list[dict[str, Any]]:
        """All there ever were; the tokens themselves are kept nowhere."""
        self._operator(caller)
        if workspace is None and caller.role is Role.ADMIN:
            return [row.to_json() for row in await self.tokens.list()]
        return [row.to_json() for row in await self.tokens.list(self._within(caller, workspace))]

    async def revoke_token(self, caller: Caller, id: str) -> None:
        """It is nobody's from now on. A token may end itself."""
        self._check(caller)
        row = await self.tokens.row(str(id))
        if row is None or (row.workspace != caller.workspace and caller.role is not Role.ADMIN):
            raise no(Code.UNKNOWN_TOKEN, f"There is no token {str(id)[:60]!a}.")
        if row.id != caller.token:
            self._operator(caller)
            self._rank(caller, row.role.value)
        await self.tokens.revoke(row.id, by=caller.name)

    def _within(self, caller: Caller, workspace: object) -> str:
        """The workspace that is meant; another than the own is an administrator's."""
        if workspace is None or workspace == caller.workspace:
            return caller.workspace
        if caller.role is not Role.ADMIN:
            raise no(Code.NOT_ALLOWED, f"{caller.name} is of the workspace {caller.workspace}.")
        if not isinstance(workspace, str) or not self.registry.exists(workspace):
            raise no(Code.UNKNOWN_WORKSPACE, f"There is no workspace {str(workspace)[:60]!a}.")
        return workspace

    def _rank(self, caller: Caller, role: object) -> Role:
        """A role that the caller may give: an administrator any, an operator those below its own."""
        if role not in list(Role):
            raise no(Code.BAD_VALUE, f"`role` is one of {', '.join(Role)}.", field="role")
        given = Role(str(role))
        if caller.role is not Role.ADMIN and given not in (Role.AGENT, Role.VIEWER):
            raise no(Code.NOT_ALLOWED, f"A token of role {given} is an administrator's to give or take.")
        return given

    def _free_name(self, name: object) -> str:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise no(Code.BAD_NAME, f"{str(name)[:60]!a} is not a name: a-z, 0-9 and -.", field="name")
        if name == HUB:
            raise no(Code.NAME_TAKEN, f"{HUB} is the hub's own name.")
        return name
