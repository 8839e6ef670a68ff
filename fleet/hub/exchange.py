"""The exchange: everything that the hub does, for whoever came in by whichever door.

A door (REST, WebSocket, MCP, the compatibility port, the CLI's) knows who calls by the token and hands over what was
asked, as parsed JSON; the courier hands over what became of mail. Everything that changes anything is in the log
before it is answered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fleet.clock import Clock
from fleet.hub import delivery, guardrails
from fleet.hub.auth import Caller, Refused, Role, Tokens
from fleet.hub.blobs import Blobs
from fleet.hub.guardrails import Speaker
from fleet.hub.log import Event, SqliteLog
from fleet.hub.mailbox import Change, Mailboxes
from fleet.hub.message import Ask, Limits, Nature, Position, Receipt, Recipient, Thread, Verb
from fleet.hub.projection import History, Page
from fleet.hub.registry import Card
from fleet.hub.routing import Hears
from fleet.settings import Settings

__all__ = ["Caller", "Card", "Exchange", "Refused", "Role", "Speaker"]


class Exchange:
    """The hub's engine. Made by `open`; `close` it."""

    log: SqliteLog
    history: History
    boxes: Mailboxes
    blobs: Blobs
    tokens: Tokens
    limits: Limits
    rules: guardrails.Rules
    delivery_rules: delivery.Rules
    presence: Callable[[str], Mapping[str, Any] | None]
    """The supervisor's word on an agent of `main`: phase, activity and more. Set by the daemon."""

    @classmethod
    async def open(
        cls, folder: Path, settings: Settings, clock: Clock, *, chance: Callable[[int], bytes] = os.urandom
    ) -> Exchange:
        """Open or make the hub in `folder` (`hub.db`, `blobs/`), and go on where the last one was."""
        raise NotImplementedError

    async def close(self) -> None:
        """Store what waits; asks that are open stay open in the log."""
        raise NotImplementedError

    # -- who is there ----------------------------------------------------------------------------------------------

    async def enroll(self, card: Card, speaker: Speaker, channels: Sequence[str], workspace: str = "main") -> None:
        """A supervised agent, as its manifest declares it (again): what has changed is written down."""
        raise NotImplementedError

    async def remove(self, caller: Caller, name: str) -> None:
        """Out of the registry, its tokens with it. What it said stays. An operator's act; one may remove oneself."""
        raise NotImplementedError

    def members(self, caller: Caller) -> list[dict[str, Any]]:
        """Each: its card, `presence`, `status`, `resources`, `channels` (`{name: hears}`), `waiting`."""
        raise NotImplementedError

    def member(self, caller: Caller, name: str) -> dict[str, Any]:
        raise NotImplementedError

    def channels(self, caller: Caller) -> list[dict[str, Any]]:
        """Each: `{name, members: {name: hears}}`."""
        raise NotImplementedError

    async def join(self, caller: Caller, channel: str, hears: Hears | str = Hears.ALL, who: str | None = None) -> None:
        """Hear a channel (with or without its #) from now on; `who`: an operator's word for somebody else."""
        raise NotImplementedError

    async def leave(self, caller: Caller, channel: str, who: str | None = None) -> None:
        raise NotImplementedError

    async def set_status(self, caller: Caller, body: object) -> dict[str, Any]:
        """What the caller says it is doing: `{status, task?, …}`. Members hear of it as an event."""
        raise NotImplementedError

    async def heartbeat(self, caller: Caller, body: object) -> None:
        """Figures of the caller's machine. The newest is kept; it is no event."""
        raise NotImplementedError

    def connected(self, caller: Caller) -> Callable[[], None]:
        """A connection of the caller's is open: it is online until what this returns is called (once)."""
        raise NotImplementedError

    async def workspaces(self, caller: Caller) -> list[dict[str, Any]]:
        raise NotImplementedError

    async def create_workspace(self, caller: Caller, name: str, description: str = "") -> dict[str, Any]:
        raise NotImplementedError

    async def delete_workspace(self, caller: Caller, name: str) -> None:
        """Its tokens are nobody's at once."""
        raise NotImplementedError

    async def invites(self, caller: Caller, workspace: str | None = None) -> list[dict[str, Any]]:
        raise NotImplementedError

    async def invite(self, caller: Caller, body: object) -> dict[str, Any]:
        """`{workspace?, role?, expires_in?, uses?}` → `{id, invite}`: what is redeemed, shown once."""
        raise NotImplementedError

    async def delete_invite(self, caller: Caller, id: str) -> None:
        raise NotImplementedError

    async def redeem(self, invite: str, name: str) -> dict[str, Any]:
        """A token for who has an invite and no token yet: `{id, token, name, role, workspace}`."""
        raise NotImplementedError

    async def create_token(self, caller: Caller, body: object) -> dict[str, Any]:
        """`{role, name, workspace?, expires_in?}` → `{id, token, …}`: an operator's act within the own rank."""
        raise NotImplementedError

    async def list_tokens(self, caller: Caller, workspace: str | None = None) -> list[dict[str, Any]]:
        raise NotImplementedError

    async def revoke_token(self, caller: Caller, id: str) -> None:
        raise NotImplementedError

    # -- talk ------------------------------------------------------------------------------------------------------

    async def send(
        self, caller: Caller, body: object, *, nature: Nature = Nature.MESSAGE, turn: str | None = None
    ) -> Receipt:
        """Accept a message, as the body of `POST /messages` asks; durable on return. Raise `Refused`, `NotStored`.

        `turn`: the message whose headless turn has said this: its reply, once, whatever else its agent is at work on.
        """
        raise NotImplementedError

    async def ask(self, caller: Caller, body: object, timeout: float | None = None) -> Ask:
        """Ask one agent, and wait for the one outcome."""
        return await self.ask_end(caller, (await self.ask_begin(caller, body, timeout)).id)

    async def ask_begin(self, caller: Caller, body: object, timeout: float | None = None) -> Receipt:
        """The same without waiting. Without `timeout`: the body's `timeout`, else the settings'."""
        raise NotImplementedError

    async def ask_end(self, caller: Caller, id: str) -> Ask:
        """How it ended, as soon as it has. It may be awaited by many, and again after a restart."""
        raise NotImplementedError

    async def asked(self, caller: Caller, id: str) -> dict[str, Any]:
        """How an ask stands: `{id, thread, outcome (null: open), answer: MESSAGE|null, reason, deadline}`."""
        raise NotImplementedError

    async def ask_json(self, ask: Ask) -> dict[str, Any]:
        """The same of an ask in hand."""
        raise NotImplementedError

    async def decline(self, caller: Caller, id: str, reason: str = "declined") -> None:
        """The caller will not answer a message that is in its box."""
        raise NotImplementedError

    async def cancel(self, caller: Caller, id: str) -> None:
        """Its sender takes a message back from whoever has not got it."""
        raise NotImplementedError

    async def edit(self, caller: Caller, id: str, text: object) -> dict[str, Any]:
        raise NotImplementedError

    async def delete(self, caller: Caller, id: str) -> None:
        raise NotImplementedError

    async def react(self, caller: Caller, id: str, reaction: object, on: bool = True) -> dict[str, Any]:
        raise NotImplementedError

    async def receipt(self, caller: Caller, id: str) -> dict[str, Any]:
        """A message as it stands, with its `recipients` as they stand."""
        raise NotImplementedError

    async def inbox(
        self, caller: Caller, name: str, *, after: int = 0, limit: int = 50, newest: bool = False, waiting: bool = False
    ) -> dict[str, Any]:
        """`{messages, position, more}`, each message with its `recipient`; the own box, or any for an operator."""
        raise NotImplementedError

    async def take(self, caller: Caller, limit: int = 50) -> list[dict[str, Any]]:
        """The caller reads its inbox: what waited is handed over, and that is its proof."""
        raise NotImplementedError

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
        """`{messages, position, more}`, oldest first: those after `after`, else the newest."""
        raise NotImplementedError

    async def search(
        self, caller: Caller, words: str, *, channel: str | None = None, before: int | None = None, limit: int = 20
    ) -> dict[str, Any]:
        """`{messages, more, behind}`, newest first."""
        raise NotImplementedError

    async def discuss(
        self, caller: Caller, a: str, b: str, topic: str, *, max_hops: int | None = None
    ) -> dict[str, Any]:
        """Open a conversation between two agents: `{thread, messages: [RECEIPT, …]}`."""
        raise NotImplementedError

    async def threads(
        self, caller: Caller, *, state: str | None = None, before: int | None = None, limit: int = 50
    ) -> list[dict[str, Any]]:
        raise NotImplementedError

    async def transcript(self, caller: Caller, id: str, *, after: int = 0, limit: int = 200) -> dict[str, Any]:
        """`{thread, messages, acts, position, more}`."""
        raise NotImplementedError

    async def thread_act(self, caller: Caller, id: str, verb: Verb | str, reason: str = "") -> Thread:
        """An operator pauses, resumes, terminates or revives a conversation."""
        raise NotImplementedError

    async def audit(self, caller: Caller, after: Position | int | None = None, limit: int = 200) -> dict[str, Any]:
        """`{events, position, more}`."""
        raise NotImplementedError

    async def events(self, caller: Caller, after: Position | None = None, limit: int = 200) -> Page:
        """What the caller may see of the log after a position (`None`: nothing, from now). Raise `Gap`."""
        raise NotImplementedError

    # -- after the door --------------------------------------------------------------------------------------------

    def on_events(self, callback: Callable[[Sequence[Event]], None]) -> Callable[[], None]:
        """Call it, on the loop, with what was committed, in order. What is returned takes it back."""
        raise NotImplementedError

    def on_mail(self, callback: Callable[[str, str], None]) -> Callable[[], None]:
        """Call it with (workspace, name) when something has changed in that box."""
        raise NotImplementedError

    def on_thread(self, callback: Callable[[str, Thread], None]) -> Callable[[], None]:
        """Call it with (workspace, thread) when an operator has changed one: its running turns are to be stopped."""
        raise NotImplementedError

    def thread_state(self, workspace: str, id: str) -> Thread | None:
        """A conversation that is not simply active; `None`: it is, or there is none."""
        raise NotImplementedError

    async def change(self, changes: Sequence[Change]) -> list[Recipient | None]:
        """Write down what became of mail (`Mailboxes.change`), and do what follows from it."""
        raise NotImplementedError

    def turn_ended(self, workspace: str, name: str) -> None:
        """An interactive agent's turn is over."""
        raise NotImplementedError

    def may_see(self, caller: Caller, event: Event) -> bool:
        """Whether an event is for the caller."""
        raise NotImplementedError

    def streams_of(self, caller: Caller) -> frozenset[str] | None:
        """The streams that an agent follows now (`WORKSPACE/#c`, `WORKSPACE/@name`, …); `None`: all of the workspace,
        for who observes it."""
        raise NotImplementedError

    async def message_json(self, event: Event) -> dict[str, Any]:
        """A message's event as the doors show it."""
        raise NotImplementedError
