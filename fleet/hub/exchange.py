"""The exchange: everything that the hub does, for whoever came in by whichever door.

A door (REST, WebSocket, MCP, the compatibility port, the CLI's) knows who calls by the token and hands over what was
asked, as parsed JSON; the courier hands over what became of mail. What holds:

- Who speaks is the caller, and nobody else; what it may see ends at its workspace.
- What is answered is in the log, and what was refused is told with its reason, to its sender and on the audit.
- Everything in memory follows from the log and from the clock, so that a hub that was killed goes on as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fleet.brake import Bucket
from fleet.clock import Clock
from fleet.errors import FleetError, StorageError
from fleet.hub import delivery, guardrails, registry, threads
from fleet.hub.asks import Alarm, Asks
from fleet.hub.auth import MAIN, TOKENS, Caller, Invites, Refused, Role, Tokens, no
from fleet.hub.blobs import Blobs
from fleet.hub.books import Accounting, Turns
from fleet.hub.guardrails import Attempt, Speaker, Tally, Window, admit, lineage
from fleet.hub.log import Event, New, SqliteLog
from fleet.hub.mailbox import (
    HUB,
    JOINED,
    LEFT,
    PROJECTIONS,
    RECEIPT,
    REMOVED,
    WORKSPACE_DELETED,
    Change,
    Mail,
    Mailboxes,
    box,
    receipts,
)
from fleet.hub.message import (
    CHANNEL,
    NAME,
    OVER,
    SEQ_MAX,
    WAITING,
    Answer,
    Ask,
    Attachment,
    Cancel,
    Code,
    Decline,
    Expire,
    HandOver,
    Ids,
    Intent,
    Limits,
    Message,
    Nature,
    Outcome,
    Position,
    Proven,
    Receipt,
    Recipient,
    Refusal,
    State,
    Thread,
    ThreadState,
    Verb,
    Way,
    reply_id,
    step,
)
from fleet.hub.projection import COPY, DELETION, EDIT, MESSAGE, REACTION, History, Page, Shown, fields, retain
from fleet.hub.registry import Card, Registry
from fleet.hub.routing import Hears, mentioned, nearest, reply_address, route
from fleet.hub.submission import Submission, check_data, check_line, check_text, read_submission
from fleet.settings import Settings

__all__ = ["Caller", "Card", "Exchange", "Refused", "Role", "Speaker"]

_log = logging.getLogger(__name__)

REFUSED = "refused"
"""`{code, message, …, to, more}`: the hub said no. `more`: so many before it were not written down."""
PROMPTED = "prompted"
"""`{message, to}`: an operator's own word was put to an agent."""
ACT = "act"
"""`{verb, …}`: something else that an operator did."""

KNOWN = 4096
"""Messages of which the most needful is at hand."""
KEYS = 4096
"""Keys that were used lately and are at hand."""
REFUSALS = 50
"""Refusals of one sender that are written down at once …"""
REFUSAL_EVERY = 1.0
"""… and then one in so many seconds; the others are counted."""
UNSENT_FILES = 86_400.0
"""Seconds that an uploaded file may wait for the message that speaks of it."""
LEFT_AFTER = 5.0
"""Seconds without a connection after which somebody has gone."""
REBUILT = 2000
"""Of the newest receipts, how many are looked at for what agents are at work on."""
LISTED = 50
"""Of those who only listen to a channel, how many are listed in the answer to a send; `receipt` lists all."""
REACTION_MOST = 64
"""Bytes."""


AT_WORK = frozenset({State.INJECTING, State.UNCONFIRMED, State.DELIVERED, State.ANSWERED})
"""Where a message stands that its reader may have: what the reader says may be said of it."""


class Known(NamedTuple):
    """What is kept at hand of a message."""

    message: Message
    """Without what the rules do not look at."""
    seq: int
    hearers: frozenset[str]


class _Composed(NamedTuple):
    """A message that may leave."""

    message: Message
    recipients: list[Recipient]
    listening: tuple[str, ...]
    """Those who only listen to its channel."""
    counted: bool
    """It causes turns, and counts."""


class Exchange:
    """The hub's engine. Made by `open`; `close` it."""

    def __init__(
        self, log: SqliteLog, blobs: Blobs, settings: Settings, clock: Clock, chance: Callable[[int], bytes]
    ) -> None:
        self.log = log
        self.blobs = blobs
        self.settings = settings
        self.clock = clock
        self.limits = limits_of(settings)
        self.rules = rules_of(settings)
        self.delivery_rules = delivery.Rules()
        self.history = History(log, clock)
        self.boxes = Mailboxes(log, clock)
        self.tokens = Tokens(log, clock, chance)
        self.registry = Registry(log, clock)
        self.presence: Callable[[str], Mapping[str, Any] | None] = lambda name: None
        """The supervisor's word on an agent of `main`: phase, activity and more. Set by the daemon."""
        self._ids = Ids(chance)
        self._invites = Invites(log, clock, chance)
        self._asks = Asks(clock, self._ask_ended)
        self._alarm = Alarm(clock, self._ring)
        self._accounting = Accounting(self.rules)
        self._turns = Turns(self.rules)
        self._held: dict[str, Thread] = {}
        """Conversations that are not simply active."""
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._keys: OrderedDict[tuple[str, str, str], str] = OrderedDict()
        """By workspace, sender and key: the message."""
        self._coming: dict[tuple[str, str, str], asyncio.Event] = {}
        """Keys whose message is on its way into the log."""
        self._refusals: dict[tuple[str, str], tuple[Bucket, int]] = {}
        self._announced: dict[tuple[str, str], str] = {}
        self._uploads: OrderedDict[str, tuple[str, str, Attachment]] = OrderedDict()
        """By sum: who has put it, and as what."""
        self._on_events: list[Callable[[Sequence[Event]], None]] = []
        self._on_mail: list[Callable[[str, str], None]] = []
        self._on_thread: list[Callable[[str, Thread], None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lasting: list[asyncio.Task[Any]] = []

    @classmethod
    async def open(
        cls, folder: Path, settings: Settings, clock: Clock, *, chance: Callable[[int], bytes] = os.urandom
    ) -> Exchange:
        """Open or make the hub in `folder` (`hub.db`, `blobs/`), and go on where the last one was."""
        blobs = Blobs(folder / "blobs", limits_of(settings))
        await asyncio.to_thread(blobs.prepare)
        projections = (*PROJECTIONS, threads.THREADS, registry.REGISTRY, TOKENS)
        log = await SqliteLog.open(folder / "hub.db", clock, projections)
        exchange = cls(log, blobs, settings, clock, chance)
        try:
            await exchange._begin()
        except BaseException:
            await log.close()
            raise
        return exchange

    async def _begin(self) -> None:
        head = await self.boxes.load()
        await self.registry.load()
        await self.tokens.load()
        self.tokens.may_exist = self.registry.exists
        self.tokens.created = self._admitted
        self._held = {thread.id: thread for thread in await self.log.database.read(threads.held)}
        self.log.tail(head, self._seen)
        for deadline in await self._asks.load(self.log):
            self._alarm.at(deadline)
        for due in await self.log.database.read(_expiries):
            self._alarm.at(due)
        await self._recount()
        self._lasting = [
            asyncio.create_task(self._alarm.run(), name="hub-alarm"),
            asyncio.create_task(self.history.follow(), name="hub-words"),
            asyncio.create_task(self._keep_house(), name="hub-housekeeping"),
            asyncio.create_task(self._write_figures(), name="hub-figures"),
        ]

    async def close(self) -> None:
        """Store what waits; asks that are open stay open in the log."""
        for task in self._lasting:
            task.cancel()
        await asyncio.gather(*self._lasting, return_exceptions=True)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.registry.write_figures()
        await self.history.close()
        await self.log.close()

    async def _recount(self) -> None:
        """What was counted, and what agents are at work on, as the log says."""
        now = self.clock.now()
        after: Position | None = None
        while True:
            page = await self.history.read(kinds=[MESSAGE], since=now - self.rules.window, after=after, limit=1000)
            for event in page.events:
                self._count_again(event)
            if not page.more:
                break
            after = page.position
        page = await self.history.read(kinds=[RECEIPT], limit=min(REBUILT, 1000), newest=True)
        latest: dict[tuple[str, str], Event] = {(e.data["box"], e.data["message"]): e for e in page.events}
        for (of, message), event in latest.items():
            await self._at_work_again(of, message, Recipient.from_json(event.data["recipient"]))

    def _count_again(self, event: Event) -> None:
        data = event.data
        if data.get("counted"):
            for recipient in data.get("recipients", ()):
                if not recipient.get("quiet"):
                    self._accounting.caused((data["workspace"], data["sender"]), recipient["name"], event.at)

    async def _at_work_again(self, of: str, message: str, recipient: Recipient) -> None:
        workspace, _, name = of.partition("/@")
        present = self.registry.present(workspace, name)
        if present is None or not present.card.turns or recipient.way is Way.TURN:
            return
        known = await self._find(message)
        if known is not None and recipient.state in (State.INJECTING, State.UNCONFIRMED):
            self._turns.handed((workspace, name), known.message)
        elif known is not None and recipient.state in (State.DELIVERED, State.ANSWERED):
            self._turns.arrived((workspace, name), known.message, recipient.since)

    # -- what the log brings ---------------------------------------------------------------------------------------

    def _seen(self, events: Sequence[Event]) -> None:
        """The log's tail: first what stands in memory, then whoever listens."""
        self.boxes.seen(events)
        self.registry.seen(events)
        self.history.stir()
        boxes: dict[tuple[str, str], None] = {}
        for event in events:
            kind = event.kind
            if kind == MESSAGE:
                data = event.data
                for recipient in data.get("recipients", ()):
                    boxes[data["workspace"], recipient["name"]] = None
                if data.get("expires_at") is not None:
                    self._alarm.at(data["expires_at"])
            elif kind == RECEIPT:
                workspace, _, name = event.data["box"].partition("/@")
                boxes[workspace, name] = None
                self._asks.seen(event)
            elif kind == threads.ASK:
                asked = self._asks.seen(event)
                if asked is not None:
                    self._alarm.at(asked.deadline)
            elif kind == threads.THREAD:
                self._thread_changed(event)
            elif kind == WORKSPACE_DELETED:
                self.tokens.drop_workspace(event.stream.partition("/")[0])
        for listener in tuple(self._on_events):
            _told(listener, events)
        for workspace, name in boxes:
            for on_mail in tuple(self._on_mail):
                _told(on_mail, workspace, name)

    def _thread_changed(self, event: Event) -> None:
        data = event.data
        thread = Thread(
            id=data["thread"],
            workspace=event.stream.partition("/")[0],
            opened_by=data["opened_by"],
            opened_at=data["opened_at"],
            state=ThreadState(data["state"]),
            since=event.at,
            by=data["by"],
        )
        if thread.state is ThreadState.ACTIVE:
            self._held.pop(thread.id, None)
        else:
            self._held[thread.id] = thread
        for on_thread in tuple(self._on_thread):
            _told(on_thread, thread.workspace, thread)

    def on_events(self, callback: Callable[[Sequence[Event]], None]) -> Callable[[], None]:
        """Call it, on the loop, with what was committed, in order. What is returned takes it back."""
        return _listening(self._on_events, callback)

    def on_mail(self, callback: Callable[[str, str], None]) -> Callable[[], None]:
        """Call it with (workspace, name) when something has changed in that box."""
        return _listening(self._on_mail, callback)

    def on_thread(self, callback: Callable[[str, Thread], None]) -> Callable[[], None]:
        """Call it with (workspace, thread) when an operator has changed one: its running turns are to be stopped."""
        return _listening(self._on_thread, callback)

    # -- who calls -------------------------------------------------------------------------------------------------

    def _check(self, caller: Caller, *, speaks: bool = False) -> None:
        """Raise `Refused` where the caller has no right (any more) to ask anything, or to say anything."""
        if not self.registry.exists(caller.workspace):
            raise no(Code.UNKNOWN_WORKSPACE, f"There is no workspace {caller.workspace}.")
        if not self.tokens.good(caller):
            raise no(Code.NOT_ALLOWED, "This token is no longer good.")
        if speaks and not caller.speaks:
            raise no(Code.NOT_ALLOWED, "A viewer only reads.")

    def _operator(self, caller: Caller) -> None:
        self._check(caller)
        if not caller.operator:
            raise no(Code.NOT_ALLOWED, f"That is an operator's to do; {caller.name} is of role {caller.role}.")

    def _admin(self, caller: Caller) -> None:
        self._check(caller)
        if caller.role is not Role.ADMIN:
            raise no(Code.NOT_ALLOWED, f"That is an administrator's to do; {caller.name} is of role {caller.role}.")

    async def _present(self, caller: Caller) -> None:
        """Whoever speaks is a member, so that it can be answered."""
        if self.registry.present(caller.workspace, caller.name) is None:
            await self._admitted(caller)

    async def _admitted(self, caller: Caller) -> None:
        """A token was made, or somebody speaks for the first time: a member, unless it only looks on."""
        if not caller.speaks or self.registry.present(caller.workspace, caller.name) is not None:
            return
        card = Card(name=caller.name, kind="person" if caller.operator else "agent")
        channels = [self.settings.hub_channel] if self.settings.hub_channel else []
        facts = self.registry.enrolling(caller.workspace, card, Speaker(name=caller.name), channels)
        await self.log.append(facts)

    def _sender(self, caller: Caller) -> str:
        return f"{caller.workspace}/{caller.name}"

    # -- who is there ----------------------------------------------------------------------------------------------

    async def enroll(self, card: Card, speaker: Speaker, channels: Sequence[str], workspace: str = MAIN) -> None:
        """A supervised agent, as its manifest declares it (again): what has changed is written down."""
        named = [_channel(channel) for channel in channels]
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

    def _nobody(self, workspace: str, name: str) -> Refused:
        near = nearest(name, self.registry.directory(workspace).names)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        return no(Code.UNKNOWN_RECIPIENT, f"Nobody here is called {name[:60]!a}.{hint}", nearest=list(near))

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
        channel = _channel(channel)
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
        channel = _channel(channel)
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
        """Those that can still be redeemed."""
        self._operator(caller)
        return await self._invites.list(self._within(caller, workspace))

    async def invite(self, caller: Caller, body: object) -> dict[str, Any]:
        """`{workspace?, role?, expires_in?, uses?}` → `{id, invite, …}`: what is redeemed, shown once."""
        self._operator(caller)
        asked = _object(body)
        workspace = self._within(caller, asked.get("workspace"))
        role = self._rank(caller, asked.get("role", Role.AGENT.value))
        return await self._invites.create(
            workspace,
            role,
            by=caller.name,
            expires_in=_seconds(asked, "expires_in", 7 * 86_400.0),
            uses=int(_seconds(asked, "uses", 1) or 1),
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
        asked = _object(body)
        workspace = self._within(caller, asked.get("workspace"))
        role = self._rank(caller, asked.get("role"))
        name = self._free_name(asked.get("name"))
        expires_in = _seconds(asked, "expires_in", None)
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

    # -- saying something ------------------------------------------------------------------------------------------

    async def send(
        self, caller: Caller, body: object, *, nature: Nature = Nature.MESSAGE, turn: str | None = None
    ) -> Receipt:
        """Accept a message, as the body of `POST /messages` asks; durable on return. Raise `Refused`, `NotStored`.

        `turn`: the message whose headless turn has said this: its reply, once, whatever else its agent is at work on.
        """
        self._check(caller, speaks=True)
        if self.registry.present(caller.workspace, caller.name) is None:
            await self._admitted(caller)
        if turn is not None and isinstance(body, Mapping):
            body = {**body, "reply_to": turn}
        read = read_submission(body, self.limits)
        if isinstance(read, Refusal):
            raise self._refuse(caller, read)
        timeout = None
        if read.intent is Intent.ASK and isinstance(body, Mapping) and "timeout" in body:
            timeout = _seconds(body, "timeout", None)
        return await self._say(caller, read, nature=nature, turn=turn, timeout=timeout)

    async def _say(
        self,
        caller: Caller,
        read: Submission,
        *,
        nature: Nature = Nature.MESSAGE,
        turn: str | None = None,
        timeout: float | None = None,
        quiet: bool = False,
        opened: Thread | None = None,
        answer_to: str | None = None,
    ) -> Receipt:
        """`opened`: a conversation that the hub opens with it; `quiet`: it may cause no turn whatever it says."""
        workspace, name = caller.workspace, caller.name
        if turn is not None:
            read = replace(read, idempotency_key=read.idempotency_key or f"turn:{turn}")
        if read.idempotency_key is None:
            return await self._say_once(caller, read, nature, turn, timeout, quiet, opened, answer_to)
        which = (workspace, name, read.idempotency_key)
        while which in self._coming:
            await self._coming[which].wait()
        if which in self._keys:
            return await self._repeated(caller, read)
        coming = self._coming[which] = asyncio.Event()
        try:
            return await self._say_once(caller, read, nature, turn, timeout, quiet, opened, answer_to)
        finally:
            del self._coming[which]
            coming.set()

    async def _say_once(
        self,
        caller: Caller,
        read: Submission,
        nature: Nature,
        turn: str | None,
        timeout: float | None,
        quiet: bool,
        opened: Thread | None,
        answer_to: str | None,
    ) -> Receipt:
        replied = await self._replied(caller, read)
        if read.attachments and (missing := await asyncio.to_thread(self.blobs.missing, read.attachments)):
            raise self._refuse(caller, missing, read)
        thread = opened.id if opened is not None else await self._thread_of(caller, read, replied)
        asked = await self._answered(caller, read, replied)
        composed = self._composed(caller, read, replied, thread, asked, nature, turn is not None, quiet, answer_to)
        if isinstance(composed, Refusal):
            if read.idempotency_key and await self.history.by_key(self._sender(caller), read.idempotency_key):
                return await self._repeated(caller, read)
            raise self._refuse(caller, composed, read)
        return await self._stored(composed, asked, timeout)

    def _composed(
        self,
        caller: Caller,
        read: Submission,
        replied: Known | None,
        thread: str | None,
        asked: Known | None,
        nature: Nature,
        of_turn: bool,
        quiet: bool,
        answer_to: str | None,
    ) -> _Composed | Refusal:
        """The message with whom it goes to, or why it may not leave. Nothing else happens between the look at the
        rules and what they count."""
        workspace, name = who = (caller.workspace, caller.name)
        now = self.clock.now()
        present = self.registry.present(workspace, name)
        directory = self.registry.directory(workspace)
        speaker = self.registry.speaker(caller)
        to = read.to or (reply_address(replied.message) if replied is not None else ())
        said = replied.message if replied is not None else None
        if of_turn or caller.operator:  # what a person says begins anew, unless it replies
            causes: tuple[Message, ...] = (said,) if said is not None else ()
        else:
            seen = present is not None and present.card.turns
            spoken_to = to if seen or "@" not in read.text else (*to, *mentioned(read.text, directory))
            causes = self._turns.causes(who, said, spoken_to, seen, now)
        line = lineage(causes, read.max_hops, speaker, self.rules)
        id = reply_id(replied.message.id, name) if of_turn and replied is not None else self._ids.mint("m")
        message = Message(
            id=id,
            workspace=workspace,
            sender=name,
            to=to,
            text=read.text,
            at=now,
            thread=thread if thread is not None else self._ids.mint("t"),
            intent=read.intent,
            nature=nature,
            wake=read.wake,
            reply_to=read.reply_to,
            answer_to=answer_to,
            cause=line.cause,
            hops=line.hops,
            max_hops=line.max_hops,
            expires_at=now + read.expires_in if read.expires_in is not None else None,
            attachments=read.attachments,
            metadata=read.metadata,
            idempotency_key=read.idempotency_key,
        )
        where = route(message, directory, apart=True)
        if isinstance(where, Refusal):
            return where
        if not where.hearers and not message.channels:
            reason = "A message to oneself goes nowhere; name somebody else, or a channel."
            return Refusal(Code.NOT_ALLOWED, reason, facts={"field": "to"})
        if where.mentions:
            message = replace(message, mentions=where.mentions)
        wakes = () if quiet else where.wakes
        held = self._held.get(message.thread)
        attempt = Attempt(
            message=message,
            speaker=speaker,
            wakes=wakes,
            thread=held.state if held is not None else ThreadState.ACTIVE,
            replied=said or (causes[0] if causes else None),
            answers=asked is not None,
        )
        accounts = self._accounting.of(who, message.thread, wakes, now)
        accounts, refusal = admit(attempt, accounts, now, self.rules)
        self._accounting.keep(who, message.thread, accounts, now)
        if refusal is None:
            waiting = {h.name: self.boxes.waiting(box(workspace, h.name)) for h in where.hearers}
            refusal = guardrails.room(waiting, self.limits.waiting)
        if refusal is not None:
            return refusal
        waits = asked is not None and self._asks.waited_for(asked.message.id)
        recipients = [
            self._recipient(workspace, h.name, message, not h.wakes or quiet or h.name == waits, now)
            for h in where.hearers
        ]
        return _Composed(message, recipients, where.listening, bool(wakes) and not speaker.operator)

    def _recipient(self, workspace: str, name: str, message: Message, quiet: bool, now: float) -> Recipient:
        if message.intent is Intent.ACK:
            return Recipient(name=name, state=State.QUEUED, reason="not_pushed", since=now, quiet=quiet)
        present = self.registry.present(workspace, name)
        if present is not None and present.card.supervised:
            return Recipient(name=name, since=now, quiet=quiet)
        return Recipient(name=name, state=State.QUEUED, reason="inbox", since=now, quiet=quiet)

    async def _stored(self, composed: _Composed, asked: Known | None, timeout: float | None) -> Receipt:
        message, recipients, listening = composed.message, composed.recipients, composed.listening
        workspace, sender = message.workspace, f"{message.workspace}/{message.sender}"
        direct = not message.channels
        streams = [f"{workspace}/{channel}" for channel in message.channels]
        hears = frozenset[str]()
        if not direct and recipients:
            listeners = self.registry.directory(workspace).listeners
            hears = frozenset(name for channel in message.channels for name in listeners.get(channel, ()))
        streams += [box(workspace, recipient.name) for recipient in recipients if recipient.name not in hears]
        told: list[New] = []
        if message.intent is Intent.ASK and len(recipients) == 1 and direct:
            deadline = message.at + (self.settings.hub_ask_timeout if timeout is None else timeout)
            body = {
                "message": message.id, "thread": message.thread, "asker": message.sender,
                "asked": recipients[0].name, "deadline": deadline,
            }  # fmt: skip
            told.append(New.of(receipts(workspace, message.sender), threads.ASK, sender, body))
        if message.nature is Nature.PROMPT:
            body = {"message": message.id, "to": list(message.to), "thread": message.thread}
            told.append(New.of(registry.audit(workspace), PROMPTED, sender, body))
        space = self.registry.spaces[workspace]
        for channel in message.channels:
            if channel not in space.channels:
                told.append(New.of(registry.stream(workspace), registry.CHANNEL, sender, {"name": channel}))
        also = [] if asked is None else [Change(asked.message.id, box(workspace, message.sender), Answer(message.id))]
        accepted = await self.boxes.accept(
            message, recipients, streams, counted=composed.counted, heard=bool(listening), also=also, told=told
        )
        if accepted.duplicate:
            return await self._first(message, accepted.seq)
        known = self._remember(message, accepted.seq, (r.name for r in recipients))
        for recipient in recipients:
            present = self.registry.present(workspace, recipient.name)
            if present is not None and not present.card.supervised:
                self._turns.heard((workspace, recipient.name), known.message, message.at)
        if message.idempotency_key is not None:
            self._keys[workspace, message.sender, message.idempotency_key] = message.id
            if len(self._keys) > KEYS:
                self._keys.popitem(last=False)
        if message.channels:
            self._turns.spoken(known.message, message.at)
        others = _also_listed(message, recipients, listening) if listening else ()
        position = Position(self.log.epoch, accepted.seq)
        return Receipt(id=message.id, position=position, recipients=(*recipients, *others))

    async def _replied(self, caller: Caller, read: Submission) -> Known | None:
        """What it replies to, as far as its sender may know of it."""
        if read.reply_to is None:
            return None
        known = await self._find(read.reply_to)
        if known is None or not self._may_read(caller, known):
            raise self._refuse(caller, _unknown_message(read.reply_to), read)
        return known

    async def _thread_of(self, caller: Caller, read: Submission, replied: Known | None) -> str | None:
        """The conversation that it belongs to; `None`: one of its own. Its tally is then at hand."""
        thread = read.thread or (replied.message.thread if replied is not None else None)
        if thread is None:
            return None
        ours = replied is not None and replied.message.thread == thread
        if not ours or not self._accounting.knows(thread):
            name = None if ours or caller.observes else caller.name
            found = await self.log.database.read(lambda c: _tally(c, caller.workspace, name, thread, self._window()))
            if found is None:
                reason = f"There is no conversation {thread} that {caller.name} is part of."
                raise self._refuse(caller, Refusal(Code.UNKNOWN_THREAD, reason, facts={"thread": thread}), read)
            self._accounting.recall(thread, found)
        return thread

    def _window(self) -> tuple[float, int]:
        return self.clock.now() - self.rules.window, self.rules.conversation

    async def _answered(self, caller: Caller, read: Submission, replied: Known | None) -> Known | None:
        """The question or task that it answers, where that is still open."""
        if replied is None or replied.message.intent not in (Intent.ASK, Intent.TASK):
            return None
        if read.intent not in (Intent.INFORM, Intent.RESULT) or caller.name not in replied.hearers:
            return None
        of = box(caller.workspace, caller.name)
        standing = await self.boxes.standing(replied.message.id, of)
        return replied if standing is not None and standing.state not in OVER else None

    async def _repeated(self, caller: Caller, read: Submission) -> Receipt:
        """The key was used before: for the same message, that is the answer."""
        assert read.idempotency_key is not None
        seq = await self.history.by_key(self._sender(caller), read.idempotency_key)
        event = await self.history.at(seq) if seq is not None else None
        if seq is None or event is None:
            raise no(Code.ID_TAKEN, "This key stands for a message that is no longer kept.")
        first = Message.from_json(event.data)
        # A reply that named nobody was addressed by the hub.
        again = replace(read, to=read.to or first.to)
        if refusal := guardrails.repeats(first, again):
            raise self._refuse(caller, refusal, read)
        return await self._receipt_of(first, seq, duplicate=True)

    async def _first(self, again: Message, seq: int) -> Receipt:
        """The log had the key already."""
        event = await self.history.at(seq)
        if event is None:
            raise no(Code.ID_TAKEN, "This key stands for a message that is no longer kept.")
        first = Message.from_json(event.data)
        if (first.to, first.text, first.intent, first.reply_to) != (again.to, again.text, again.intent, again.reply_to):
            raise no(Code.ID_TAKEN, f"This key stands for another message, {first.id}.")
        return await self._receipt_of(first, seq, duplicate=True)

    async def _receipt_of(self, message: Message, seq: int, *, duplicate: bool) -> Receipt:
        standing = await self.boxes.receipt(message.id) or []
        return Receipt(
            id=message.id,
            position=Position(self.log.epoch, seq),
            recipients=tuple(standing),
            duplicate=duplicate,
        )

    # -- asking ----------------------------------------------------------------------------------------------------

    async def ask(self, caller: Caller, body: object, timeout: float | None = None) -> Ask:
        """Ask one agent, and wait for the one outcome."""
        return await self.ask_end(caller, (await self.ask_begin(caller, body, timeout)).id)

    async def ask_begin(self, caller: Caller, body: object, timeout: float | None = None) -> Receipt:
        """The same without waiting. Without `timeout`: the body's `timeout`, else the settings'."""
        self._check(caller, speaks=True)
        asked = _object(body)
        await self._present(caller)
        read = read_submission({**asked, "intent": Intent.ASK.value}, self.limits)
        if isinstance(read, Refusal):
            raise self._refuse(caller, read)
        if len(read.to) > 1 or any(name.startswith("#") for name in read.to):
            raise no(Code.BAD_VALUE, "A question that has one end goes to one name.", field="to")
        timeout = _seconds(asked, "timeout", None) if timeout is None else timeout
        return await self._say(caller, read, timeout=timeout)

    async def ask_end(self, caller: Caller, id: str) -> Ask:
        """How it ended, as soon as it has. It may be awaited by many, and again after a restart."""
        ended = await self._asks.wait(await self._asked(caller, id))
        if ended.answer is not None and caller.name == ended.asker:
            # Whoever waited has the answer by this: it is not to be given to it once more, and what it goes on to
            # ask in the same turn is not caused by it.
            of = box(caller.workspace, caller.name)
            with contextlib.suppress(StorageError):  # the answer counts, not the note of its arrival
                await self.boxes.change([Change(ended.answer, of, Proven("ask", Way.INBOX))])
        return ended

    async def asked(self, caller: Caller, id: str) -> dict[str, Any]:
        """How an ask stands: `{id, thread, outcome (null: open), answer: MESSAGE|null, reason, deadline}`."""
        return await self.ask_json(await self._asked(caller, id))

    async def _asked(self, caller: Caller, id: str) -> Ask:
        self._check(caller)
        ask = self._asks.find(caller.workspace, id)
        if ask is None:
            ask = await self.log.database.read(lambda c: threads.ask(c, caller.workspace, str(id)))
        if ask is None or not (caller.observes or caller.name in (ask.asker, ask.asked)):
            raise Refused(_unknown_message(id))
        return ask

    async def ask_json(self, ask: Ask) -> dict[str, Any]:
        """The same of an ask in hand."""
        event = await self.history.message(ask.answer) if ask.answer is not None else None
        return {
            "id": ask.message,
            "thread": ask.thread,
            "asker": ask.asker,
            "asked": ask.asked,
            "outcome": ask.outcome.value if ask.outcome is not None else None,
            "answer": await self.message_json(event) if event is not None else None,
            "reason": ask.reason,
            "deadline": ask.deadline,
            "ended_at": ask.ended_at,
        }

    def _ask_ended(self, workspace: str, ask: Ask) -> None:
        self._soon(self._note_end(workspace, ask))

    async def _note_end(self, workspace: str, ask: Ask) -> None:
        fact = New.of(receipts(workspace, ask.asker), threads.ASK_ENDED, f"{workspace}/{HUB}", ask.to_json())
        await self.log.append([fact])

    async def decline(self, caller: Caller, id: str, reason: str = "declined") -> None:
        """The caller will not answer a message that is in its box."""
        self._check(caller, speaks=True)
        line = check_line(reason or "declined", "reason", 1000)
        if isinstance(line, Refusal):
            raise Refused(line)
        of = box(caller.workspace, caller.name)
        [after] = await self.change([Change(str(id), of, Decline(line))])
        if after is None:
            raise Refused(_unknown_message(id))
        if after.state is not State.DECLINED:
            raise no(Code.ALREADY_OVER, f"{id} is {after.state.value} already.", state=after.state.value)

    async def cancel(self, caller: Caller, id: str) -> None:
        """Its sender takes a message back from whoever has not got it; a question ends with it."""
        self._check(caller, speaks=True)
        known = await self._find(str(id))
        if known is None or not self._may_read(caller, known):
            raise Refused(_unknown_message(id))
        if known.message.sender != caller.name:
            self._operator(caller)
            await self._acted(caller, "cancel", message=known.message.id)
        await self._withdraw(known, "cancelled")
        self._asks.finish(known.message.id, Outcome.CANCELLED, "cancelled")

    async def _withdraw(self, known: Known, reason: str) -> None:
        workspace = known.message.workspace
        await self.change([Change(known.message.id, box(workspace, n), Cancel(reason)) for n in sorted(known.hearers)])

    # -- changing what was said ------------------------------------------------------------------------------------

    async def edit(self, caller: Caller, id: str, text: object) -> dict[str, Any]:
        """Its sender says something else instead."""
        self._check(caller, speaks=True)
        checked = check_text(text, self.limits)
        if isinstance(checked, Refusal):
            raise self._refuse(caller, checked)
        event = await self._visible(caller, id)
        if event.data["sender"] != caller.name:
            raise no(Code.NOT_ALLOWED, "One's own messages can be edited; nobody's words are changed by another.")
        if (await self.history.shown([event]))[0].deleted_at is not None:
            raise no(Code.ALREADY_OVER, f"{id} was deleted.")
        await self._fact(caller, event, EDIT, {"message": id, "text": checked})
        return await self.message_json(event)

    async def delete(self, caller: Caller, id: str) -> None:
        """Its sender, or an operator, takes it away; whoever has not got it does not get it."""
        self._check(caller, speaks=True)
        event = await self._visible(caller, id)
        own = event.data["sender"] == caller.name
        if not own:
            self._operator(caller)
        if (await self.history.shown([event]))[0].deleted_at is not None:
            return
        await self._fact(caller, event, DELETION, {"message": id})
        if not own:
            await self._acted(caller, "delete", message=id)
        if (known := await self._find(id)) is not None:
            await self._withdraw(known, "deleted")

    async def react(self, caller: Caller, id: str, reaction: object, on: bool = True) -> dict[str, Any]:
        """Set a sign at a message, or take it away."""
        self._check(caller, speaks=True)
        checked = check_line(reaction, "reaction", REACTION_MOST)
        if isinstance(checked, Refusal) or not checked:
            raise Refused(
                checked
                if isinstance(checked, Refusal)
                else Refusal(Code.EMPTY, "A reaction is a sign.", facts={"field": "reaction"})
            )
        event = await self._visible(caller, id)
        [shown] = await self.history.shown([event])
        if (caller.name in shown.reactions.get(checked, ())) is not bool(on):
            await self._fact(caller, event, REACTION, {"message": id, "reaction": checked, "on": bool(on)})
        return await self.message_json(event)

    async def _fact(self, caller: Caller, event: Event, kind: str, body: Mapping[str, Any]) -> None:
        """A change to a message, for everybody who has the message."""
        data = event.data
        workspace = data["workspace"]
        streams = [f"{workspace}/{name}" for name in data["to"] if name.startswith("#")]
        if not streams:
            streams = [box(workspace, recipient["name"]) for recipient in data.get("recipients", ())]
            streams.append(receipts(workspace, data["sender"]))
        sender = self._sender(caller)
        await self.log.append([New.of(stream, kind, sender, body) for stream in dict.fromkeys(streams)])

    async def _visible(self, caller: Caller, id: str) -> Event:
        """The event of a message that the caller may read."""
        event = await self.history.message(str(id))
        if event is None or not self._may_read(caller, _known(event)):
            raise Refused(_unknown_message(id))
        return event

    # -- reading ---------------------------------------------------------------------------------------------------

    async def receipt(self, caller: Caller, id: str) -> dict[str, Any]:
        """A message as it stands, with its `recipients` as they stand."""
        self._check(caller)
        event = await self._visible(caller, id)
        standing = await self.boxes.receipt(str(id)) or []
        return {**await self.message_json(event), "recipients": [recipient.to_json() for recipient in standing]}

    async def inbox(
        self, caller: Caller, name: str, *, after: int = 0, limit: int = 50, newest: bool = False, waiting: bool = False
    ) -> dict[str, Any]:
        """`{messages, position, more}`, each message with its `recipient`; the own box, or any for who observes."""
        self._check(caller)
        name = caller.name if name == "me" else name
        if name != caller.name and not caller.observes:
            raise no(Code.NOT_ALLOWED, f"The inbox of {name[:60]!a} is not {caller.name}'s to read.")
        if self.registry.present(caller.workspace, name) is None and name != caller.name:
            raise self._nobody(caller.workspace, name)
        limit = max(1, min(limit, 500))
        of = box(caller.workspace, name)
        if waiting:
            mail = [m for m in await self.boxes.open(of, limit=limit + 1 + self.limits.waiting) if m.seq > after]
        else:
            mail = await self.boxes.inbox(of, after=after, limit=limit + 1, newest=newest)
        more = len(mail) > limit
        mail = mail[-limit:] if newest and not waiting else mail[:limit]
        position = Position(self.log.epoch, mail[-1].seq if more and not newest and mail else self.log.head)
        return {
            "messages": [self._mail_json(one) for one in mail],
            "position": str(position),
            "more": more,
        }

    async def take(self, caller: Caller, limit: int = 50) -> list[dict[str, Any]]:
        """The caller reads its inbox: what waited is handed over, and that is its proof."""
        self._check(caller, speaks=True)
        of = box(caller.workspace, caller.name)
        mail = []
        for one in await self.boxes.open(of, limit=self.limits.waiting):
            if self._moves(one.message.thread) and one.recipient.state in WAITING:
                mail.append(one)
            elif one.heard:
                break  # what is caught up with must not pass over it
        mail = mail[: max(1, min(limit, 500))]
        proven = [Change(m.message.id, of, Proven("inbox", Way.INBOX)) for m in mail if not m.heard]
        stands = {change.message: after for change, after in zip(proven, await self.change(proven), strict=True)}
        heard = max((m.seq for m in mail if m.heard), default=None)
        if heard is not None:
            await self.boxes.catch_up(of, heard, "inbox")
        now = self.clock.now()
        taken = []
        for one in mail:
            if one.heard:
                after: Recipient | None = step(one.recipient, Proven("inbox", Way.INBOX), now)
            else:
                after = stands[one.message.id]
            if after is not None and after.state not in (State.CANCELLED, State.EXPIRED):
                taken.append(self._mail_json(one._replace(recipient=after)))
        return taken

    def _moves(self, thread: str) -> bool:
        held = self._held.get(thread)
        return held is None or held.moves

    async def read(
        self,
        caller: Caller,
        *,
        channel: str | None = None,
        with_: str | None = None,
        thread: str | None = None,
        after: Position | None = None,
        before: int | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 50,
    ) -> dict[str, Any]:
        """`{messages, position, more}`, oldest first: those after `after` (or from `since`), else the newest."""
        self._check(caller)
        limit = max(1, min(limit, 500))
        if thread is not None:
            return await self.transcript(caller, thread, after=after.seq if after is not None else 0, limit=limit)
        if with_ is not None and after is None and since is None and until is None:
            one, _, other = with_.partition(",")
            pair = (one, other) if other and caller.observes else (caller.name, one)
            page = await self.history.between(caller.workspace, *pair, before=before, limit=limit)
            return await self._page_json(caller, page)
        streams = self._asked_for(caller, channel, with_)
        page = await self.history.read(
            streams=streams,
            within=None if streams is not None else caller.workspace,
            kinds=[MESSAGE, COPY] if streams is not None else [MESSAGE],
            after=after,
            before=before,
            since=since,
            until=until,
            limit=limit,
            newest=after is None and since is None,
        )
        return await self._page_json(caller, page, with_)

    def _asked_for(self, caller: Caller, channel: str | None, with_: str | None) -> frozenset[str] | None:
        workspace = caller.workspace
        if channel is not None:
            return frozenset({f"{workspace}/{_channel(channel)}"})
        if with_ is not None:
            one, _, other = with_.partition(",")
            pair = (one, other) if other and caller.observes else (caller.name, one)
            return frozenset(box(workspace, name) for name in pair)
        return self.streams_of(caller)

    async def _page_json(self, caller: Caller, page: Page, with_: str | None = None) -> dict[str, Any]:
        events = [event for event in page.events if self._may_read(caller, _known(event))]
        if with_ is not None:
            one, _, other = with_.partition(",")
            pair = {one, other} if other and caller.observes else {caller.name, one}
            events = [event for event in events if event.data["sender"] in pair]
        return {"messages": await self._messages_json(events), "position": str(page.position), "more": page.more}

    async def search(
        self, caller: Caller, words: str, *, channel: str | None = None, before: int | None = None, limit: int = 20
    ) -> dict[str, Any]:
        """`{messages, more, behind}`, newest first."""
        self._check(caller)
        workspace = caller.workspace
        streams: Iterable[str] | None = None
        if channel is not None:
            streams = [f"{workspace}/{_channel(channel)}"]
        elif not caller.observes:
            channels = self.registry.spaces[workspace].channels
            streams = [box(workspace, caller.name), *(f"{workspace}/{name}" for name in channels)]
        found = await self.history.search(
            str(words),
            streams=None if streams is None else list(streams),
            within=workspace,
            before=before,
            limit=max(1, min(limit, 200)),
        )
        events = [event for event in found.events if self._may_read(caller, _known(event))]
        return {"messages": await self._messages_json(events), "more": found.more, "behind": found.behind}

    async def events(self, caller: Caller, after: Position | None = None, limit: int = 200) -> Page:
        """What the caller may see of the log after a position (`None`: nothing, from now). Raise `Gap`."""
        self._check(caller)
        if after is None:
            return Page([], self.log.position, False)
        streams = self.streams_of(caller)
        within = caller.workspace if streams is None else None
        return await self.history.read(streams=streams, within=within, after=after, limit=limit)

    async def audit(self, caller: Caller, after: Position | int | None = None, limit: int = 200) -> dict[str, Any]:
        """`{events, position, more}`: what operators did and what was refused; without `after` the newest."""
        self._check(caller)
        if not caller.observes:
            raise no(Code.NOT_ALLOWED, "The audit is not an agent's to read.")
        position = Position(self.log.epoch, after) if isinstance(after, int) else after
        streams = [registry.audit(caller.workspace), *(["!audit"] if caller.role is Role.ADMIN else [])]
        page = await self.history.read(streams=streams, after=position, limit=limit, newest=position is None)
        return {
            "events": [event_json(event, self.log.epoch) for event in page.events],
            "position": str(page.position),
            "more": page.more,
        }

    # -- conversations ---------------------------------------------------------------------------------------------

    async def discuss(
        self, caller: Caller, a: str, b: str, topic: str, *, max_hops: int | None = None
    ) -> dict[str, Any]:
        """Open a conversation between two agents: `{thread, messages: [RECEIPT, RECEIPT]}`.

        The second is told first, quietly; the first is asked to begin. What either replies to its note goes to the
        other, so that the conversation is theirs, and ends at its ceiling of hops like any other.
        """
        self._check(caller, speaks=True)
        await self._present(caller)
        checked = check_text(topic, self.limits, "topic")
        if isinstance(checked, Refusal):
            raise self._refuse(caller, checked)
        if a == b:
            raise no(Code.BAD_VALUE, "A discussion is between two.", field="b")
        now = self.clock.now()
        thread = Thread(
            id=self._ids.mint("t"), workspace=caller.workspace, opened_by=caller.name, opened_at=now, since=now
        )
        notes = (
            (b, a, True, f"{a} will discuss this with you, and begins. Reply to what {a} writes.\n\n{checked}"),
            (a, b, False, f"Discuss this with {b}. You begin: your reply to this goes to {b}.\n\n{checked}"),
        )
        bodies = [
            read_submission({"to": to, "text": text, "max_hops": max_hops}, self.limits) for to, _, _, text in notes
        ]
        for (to, *_), read in zip(notes, bodies, strict=True):
            if isinstance(read, Refusal):
                raise self._refuse(caller, read)
            if not self.registry.directory(caller.workspace).addressable(to):
                raise self._nobody(caller.workspace, to)
        said = []
        for (_, other, quiet, _), read in zip(notes, bodies, strict=True):
            assert isinstance(read, Submission)
            said.append(await self._say(caller, read, quiet=quiet, opened=thread, answer_to=other))
        return {"thread": thread.id, "messages": [receipt.to_json() for receipt in said]}

    async def threads(
        self, caller: Caller, *, state: str | None = None, before: int | None = None, limit: int = 50
    ) -> list[dict[str, Any]]:
        """The newest conversations, of which the caller may know."""
        self._check(caller)
        if state is not None and state not in list(ThreadState):
            raise no(Code.BAD_VALUE, f"`state` is one of {', '.join(ThreadState)}.", field="state")
        member = None if caller.observes else caller.name
        found = await self.log.database.read(
            lambda c: threads.talks(
                c, caller.workspace, state, member, before if before is not None else SEQ_MAX, max(1, min(limit, 500))
            )
        )
        return [talk.to_json() for talk in found]

    async def transcript(self, caller: Caller, id: str, *, after: int = 0, limit: int = 200) -> dict[str, Any]:
        """`{thread, messages, acts, position, more}`: all that was said in a conversation and done to it."""
        self._check(caller)
        talk = await self.log.database.read(lambda c: threads.talk(c, caller.workspace, str(id)))
        page = await self.history.thread(str(id), after=after, limit=max(1, min(limit, 500)))
        events = [event for event in page.events if self._may_read(caller, _known(event))]
        if talk is None or (not events and not caller.observes):
            raise no(Code.UNKNOWN_THREAD, f"There is no conversation {str(id)[:60]!a}.", thread=str(id))
        return {
            "thread": talk.to_json(),
            "messages": await self._messages_json(events),
            "acts": await self._acts_on(caller.workspace, str(id)),
            "position": str(page.position),
            "more": page.more,
        }

    async def _acts_on(self, workspace: str, thread: str) -> list[dict[str, Any]]:
        acts = await self.log.database.read(lambda c: threads.acts(c, workspace, thread))
        return [{**act.data, "at": act.at, "seq": act.seq} for act in acts]

    async def thread_act(self, caller: Caller, id: str, verb: Verb | str, reason: str = "") -> Thread:
        """An operator pauses, resumes, terminates or revives a conversation. That it changes nothing is written down
        too. What waits in a terminated one is cancelled; its running turns are the courier's to stop (`on_thread`)."""
        self._operator(caller)
        if verb not in list(Verb):
            raise no(Code.BAD_VALUE, f"`verb` is one of {', '.join(Verb)}.", field="verb")
        line = check_line(reason, "reason", 1000)
        if isinstance(line, Refusal):
            raise Refused(line)
        found = await self.log.database.read(lambda c: threads.talk(c, caller.workspace, str(id)))
        if found is None:
            raise no(Code.UNKNOWN_THREAD, f"There is no conversation {str(id)[:60]!a}.", thread=str(id))
        before = self._held.get(found.thread.id, found.thread)
        after = before.after(Verb(verb), caller.name, self.clock.now())
        body = {
            "thread": after.id, "verb": Verb(verb).value, "was": before.state.value, "state": after.state.value,
            "by": caller.name, "reason": line, "opened_by": after.opened_by, "opened_at": after.opened_at,
        }  # fmt: skip
        await self.log.append([New.of(registry.audit(caller.workspace), threads.THREAD, self._sender(caller), body)])
        mail = await self.boxes.open_in(after.id)
        if after.state is ThreadState.TERMINATED:
            await self.change(
                [Change(m.message.id, box(caller.workspace, m.recipient.name), Cancel("terminated")) for m in mail]
            )
        for one in mail:
            for on_mail in tuple(self._on_mail):
                _told(on_mail, caller.workspace, one.recipient.name)
        return after

    def thread_state(self, workspace: str, id: str) -> Thread | None:
        """A conversation that is not simply active; `None`: it is, or there is none."""
        held = self._held.get(id)
        return held if held is not None and held.workspace == workspace else None

    # -- files -----------------------------------------------------------------------------------------------------

    async def upload(
        self, caller: Caller, name: object, content_type: str | None, chunks: AsyncIterable[bytes]
    ) -> Attachment:
        """Keep a file that a message is going to speak of."""
        self._check(caller, speaks=True)
        return self._uploaded(caller, await self.blobs.put(name, content_type, chunks))

    async def upload_base64(self, caller: Caller, name: object, content_type: str | None, text: object) -> Attachment:
        """The same of a file that comes within JSON."""
        self._check(caller, speaks=True)
        return self._uploaded(caller, await self.blobs.put_base64(name, content_type, text))

    def _uploaded(self, caller: Caller, kept: Attachment | Refusal) -> Attachment:
        if isinstance(kept, Refusal):
            raise self._refuse(caller, kept)
        self._uploads[kept.sha256] = (caller.workspace, caller.name, kept)
        if len(self._uploads) > KNOWN:
            self._uploads.popitem(last=False)
        return kept

    async def attachment(self, caller: Caller, sha256: str) -> Attachment:
        """A file that the caller may have: it has put it, or may read a message that has it. Raise `Refused`."""
        self._check(caller)
        put = self._uploads.get(sha256)
        if put is not None and put[:2] == (caller.workspace, caller.name):
            return put[2]
        seqs = await self.log.database.read(lambda c: threads.speaking_of(c, str(sha256)))
        for seq in seqs:
            event = await self.history.at(seq)
            if event is not None and self._may_read(caller, _known(event)):
                for attachment in Message.from_json(event.data).attachments:
                    if attachment.sha256 == sha256:
                        return attachment
        raise no(Code.UNKNOWN_MESSAGE, "There is no such file that you may have.")

    # -- after the door --------------------------------------------------------------------------------------------

    async def change(self, changes: Sequence[Change]) -> list[Recipient | None]:
        """Write down what became of mail (`Mailboxes.change`), and do what follows from it."""
        if not changes:
            return []
        at_work = {}
        for change in changes:
            if isinstance(change.event, HandOver | Proven) and change.message not in at_work:
                at_work[change.message] = await self._find(change.message)
        for change in changes:  # before it is written down: the agent cannot have it sooner
            if isinstance(change.event, HandOver) and (known := at_work[change.message]) is not None:
                self._turns.handed(_who(change.box), known.message)
        after = await self.boxes.change(changes)
        now = self.clock.now()
        for change, stands in zip(changes, after, strict=True):
            self._follow(change, stands, at_work.get(change.message), now)
        return after

    def _follow(self, change: Change, stands: Recipient | None, known: Known | None, now: float) -> None:
        """What an agent is at work on, after a change to its mail."""
        who, event = _who(change.box), change.event
        if stands is None:
            self._turns.undone(who, change.message)
        elif isinstance(event, Proven) and known is not None:
            if stands.way is Way.TURN:
                self._turns.undone(who, change.message)
            else:
                self._turns.arrived(who, known.message, now)
        elif stands.state not in AT_WORK:
            self._turns.undone(who, change.message)

    def turn_ended(self, workspace: str, name: str) -> None:
        """An interactive agent's turn is over."""
        self._turns.ended((workspace, name))

    def may_see(self, caller: Caller, event: Event) -> bool:
        """Whether an event is for the caller."""
        workspace, _, of = event.stream.partition("/")
        if workspace != caller.workspace:
            return False
        if caller.observes:
            return True
        if of in ("!members", f"@{caller.name}", f"@{caller.name}/receipts"):
            return True
        member = self.registry.directory(workspace).members.get(caller.name)
        return member is not None and member.channels.get(of) is Hears.ALL

    def streams_of(self, caller: Caller) -> frozenset[str] | None:
        """The streams that an agent follows now (`WORKSPACE/#c`, `WORKSPACE/@name`, …); `None`: all of the workspace,
        for who observes it."""
        if caller.observes:
            return None
        workspace = caller.workspace
        own = {registry.stream(workspace), box(workspace, caller.name), receipts(workspace, caller.name)}
        member = self.registry.directory(workspace).members.get(caller.name)
        if member is not None:
            own |= {f"{workspace}/{channel}" for channel, hears in member.channels.items() if hears is Hears.ALL}
        return frozenset(own)

    async def message_json(self, event: Event) -> dict[str, Any]:
        """A message's event as the doors show it, as it stands now."""
        return (await self._messages_json([event]))[0]

    async def _messages_json(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        shown = await self.history.shown(events)
        first = {str(one.event.data.get("id")): one for one in shown}
        return [shown_json(one, self.log.epoch) for one in first.values()]

    def _mail_json(self, mail: Mail) -> dict[str, Any]:
        message = mail.message
        return {
            **message_json(message.to_json(), mail.seq, self.log.epoch),
            "recipient": mail.recipient.to_json(),
        }

    # -- what is at hand -------------------------------------------------------------------------------------------

    async def _find(self, id: str) -> Known | None:
        """A message, from memory or from the log's file."""
        known = self._known.get(id)
        if known is not None:
            self._known.move_to_end(id)
            return known
        event = await self.history.message(id)
        if event is None:
            return None
        found = _known(event)
        return self._remember(found.message, found.seq, found.hearers)

    def _remember(self, message: Message, seq: int, hearers: Iterable[str]) -> Known:
        known = self._known[message.id] = Known(light(message), seq, frozenset(hearers))
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return known

    def _may_read(self, caller: Caller, known: Known) -> bool:
        """Whether somebody may read a message: it is theirs, or for them, or was said in a channel of the workspace."""
        message = known.message
        if message.workspace != caller.workspace:
            return False
        return (
            caller.observes or caller.name == message.sender or caller.name in known.hearers or bool(message.channels)
        )

    # -- noes, acts, and what is done by and by --------------------------------------------------------------------

    def _refuse(self, caller: Caller, refusal: Refusal, read: Submission | None = None) -> Refused:
        """The refusal, to be raised. The audit has it too; of a flood it has the number."""
        who, now = (caller.workspace, caller.name), self.clock.now()
        bucket, unwritten = self._refusals.get(who) or (Bucket.full(REFUSALS, now), 0)
        bucket, wait = bucket.take(now, every=REFUSAL_EVERY)
        if len(self._refusals) > KNOWN:
            self._refusals = {}
        self._refusals[who] = (bucket, unwritten + 1 if wait else 0)
        if not wait:
            body = {**refusal.to_json(), "more": unwritten}
            if read is not None:
                body |= {"to": list(read.to), "thread": read.thread, "reply_to": read.reply_to}
            fact = New.of(registry.audit(caller.workspace), REFUSED, self._sender(caller), body)
            self._soon(self.log.append([fact]))
        return Refused(refusal)

    async def _acted(self, caller: Caller, verb: str, **facts: Any) -> None:
        body = {"verb": verb, **facts}
        await self.log.append([New.of(registry.audit(caller.workspace), ACT, self._sender(caller), body)])

    def _soon(self, doing: Coroutine[Any, Any, Any]) -> None:
        """Do it without waiting for it; `close` waits."""
        task = asyncio.ensure_future(doing)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the hub could not note something: %s", error)

    async def _ring(self, now: float) -> None:
        """Something is due: questions whose time is over, messages whose sender's is."""
        self._asks.due(now)
        try:
            mail = await self.boxes.due(now)
            await self.change(
                [
                    Change(m.message.id, box(m.message.workspace, m.recipient.name), Expire())
                    for m in mail
                    if m.recipient.pending is None
                ]
            )
        except StorageError as error:
            _log.error("what has expired could not be noted; again in a minute: %s", error)
            self._alarm.at(now + 60.0)

    async def _keep_house(self) -> None:
        """Every so often: what is too old goes, and files that no message speaks of."""
        while True:
            await self.clock.sleep(self.settings.hub_clean_every)
            try:
                await self.housekeep()
            except (FleetError, OSError) as error:
                _log.error("the hub could not clean up: %s", error)

    async def housekeep(self) -> int:
        """The same now. How many events went."""
        now = self.clock.now()
        gone = await retain(self.log, now, self.settings.hub_kept_days, self.settings.hub_kept_mb)
        self.boxes.forget()
        spoken_of = await self.log.database.read(threads.spoken_of)
        await asyncio.to_thread(self.blobs.sweep, spoken_of, now - UNSENT_FILES)
        return gone

    async def _write_figures(self) -> None:
        while True:
            await self.registry.unwritten.wait()
            await self.clock.sleep(registry.RESOURCES_PAUSE)
            await self.registry.write_figures()


# -- settings ------------------------------------------------------------------------------------------------------


def limits_of(settings: Settings) -> Limits:
    """What a message may be."""
    return Limits(
        text=int(settings.hub_message_kb * 1024),
        waiting=settings.hub_waiting,
        attachment=int(settings.hub_attachment_mb * 1024 * 1024),
    )


def rules_of(settings: Settings) -> guardrails.Rules:
    """How much may be said."""
    return guardrails.Rules(
        max_hops=settings.hub_max_hops,
        sender_rate=settings.hub_sender_rate,
        sender_burst=settings.hub_sender_burst,
        pair=settings.hub_pair,
        conversation=settings.hub_conversation,
        conversation_total=settings.hub_conversation_total,
        window=settings.hub_window,
    )


# -- as the doors show it ------------------------------------------------------------------------------------------

_SHOWN = (
    "id", "workspace", "sender", "to", "text", "at", "thread", "intent", "nature", "wake", "reply_to", "cause",
    "hops", "max_hops", "expires_at", "mentions", "attachments", "metadata",
)  # fmt: skip


def message_json(data: Mapping[str, Any], seq: int, epoch: str) -> dict[str, Any]:
    """A message as the doors show it, as it was accepted."""
    return {
        **{name: data.get(name) for name in _SHOWN},
        "seq": seq,
        "epoch": epoch,
        "reactions": {},
        "edited_at": None,
        "deleted_at": None,
    }


def shown_json(shown: Shown, epoch: str) -> dict[str, Any]:
    """The same as it stands now."""
    return {
        **message_json(shown.event.data, shown.event.seq, epoch),
        "text": shown.text,
        "reactions": {sign: list(names) for sign, names in shown.reactions.items()},
        "edited_at": shown.edited_at,
        "deleted_at": shown.deleted_at,
    }


def event_json(event: Event, epoch: str) -> dict[str, Any]:
    """An event as the doors show it. What a token is known by stays here."""
    data = {key: value for key, value in fields(event).items() if key != "sha256" or event.kind == MESSAGE}
    return {
        "seq": event.seq,
        "epoch": epoch,
        "at": event.at,
        "stream": event.stream,
        "kind": event.kind,
        "sender": event.sender.rpartition("/")[2],
        "data": data,
    }


def presence_of(facts: Mapping[str, Any] | None) -> str:
    """The supervisor's word on an agent in one word. Busy is never offline, and not seeing it is not seeing it gone."""
    phase = str((facts or {}).get("phase", "stopped"))
    if phase == "running":
        activity = str((facts or {}).get("activity", ""))
        return {"working": "busy", "needs_input": "waiting", "limited": "limited"}.get(activity, "online")
    return {"starting": "starting", "unverifiable": "unknown"}.get(phase, "offline")


# -- small things --------------------------------------------------------------------------------------------------


def _also_listed(message: Message, recipients: Sequence[Recipient], listening: Sequence[str]) -> Iterable[Recipient]:
    named = {message.sender, *(recipient.name for recipient in recipients)}
    for name in listening[:LISTED]:
        if name not in named:
            yield Recipient(name=name, state=State.QUEUED, reason="no_wake", since=message.at, quiet=True)


def light(message: Message) -> Message:
    """The message with as much of it as the rules look at: what is kept in memory of many."""
    if len(message.text) <= 2048 and not message.metadata and not message.attachments:
        return message
    text = message.text if len(message.text) <= 2048 else "?" if "?" in message.text else ""
    return replace(message, text=text, metadata={}, attachments=())


def _known(event: Event) -> Known:
    data = event.data
    return Known(light(Message.from_json(data)), event.seq, frozenset(r["name"] for r in data.get("recipients", ())))


def _who(of: str) -> tuple[str, str]:
    workspace, _, name = of.partition("/@")
    return workspace, name


def _channel(name: object) -> str:
    """A channel's name, with or without its #."""
    if isinstance(name, str):
        channel = name.lower() if name.startswith("#") else f"#{name.lower()}"
        if CHANNEL.fullmatch(channel):
            return channel
    raise no(Code.BAD_NAME, f"{str(name)[:60]!a} is not the name of a channel.", field="channel")


def _unknown_message(id: object) -> Refusal:
    return Refusal(Code.UNKNOWN_MESSAGE, f"There is no message {str(id)[:60]!a} that you may read.")


def _object(body: object) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise no(Code.WRONG_TYPE, "The body is a JSON object.")
    return body


def _seconds(body: Mapping[str, Any], name: str, default: float | None) -> float | None:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise no(Code.WRONG_TYPE, f"`{name}` is a number.", field=name)
    if not 0 < value <= 10**9:
        raise no(Code.BAD_VALUE, f"`{name}` is more than 0 and at most {10**9}.", field=name)
    return float(value)


def _listening(listeners: list[Any], callback: Any) -> Callable[[], None]:
    listeners.append(callback)

    def stop() -> None:
        with contextlib.suppress(ValueError):
            listeners.remove(callback)

    return stop


def _told(listener: Callable[..., None], *what: Any) -> None:
    try:
        listener(*what)
    except Exception:  # noqa: BLE001  one listener's fault is not another's
        _log.exception("a listener of the hub failed")


def _expiries(connection: sqlite3.Connection) -> list[float]:
    rows = connection.execute(
        "SELECT DISTINCT expires_at FROM receipts WHERE open = 1 AND expires_at IS NOT NULL"
    ).fetchall()
    return [row[0] for row in rows]


def _tally(
    connection: sqlite3.Connection, workspace: str, name: str | None, thread: str, window: tuple[float, int]
) -> Tally | None:
    """What a conversation has come to; `None` where there is none of which the member may know."""
    talk = threads.talk(connection, workspace, thread)
    if talk is None or (name is not None and not threads.takes_part(connection, workspace, name, thread)):
        return None
    since, most = window
    times = threads.turn_times(connection, thread, since, min(most, talk.turns)) if talk.turns else ()
    return Tally(Window(times), talk.turns)
