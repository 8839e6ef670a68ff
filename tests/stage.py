"""Scripted agents on the hub's real engine: a log on the disk, a clock that tests turn, and turns that are calls.

`Stage.run` does what a courier does, with values: it looks into each agent's box, hands over what may be handed over,
and runs the script. A headless agent's turn is one call, and what it returns is its reply; an interactive agent takes
up what it is given, and speaks by itself until `end_turn`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fleet.hub import delivery
from fleet.hub.delivery import Agent, Mail, Ways, look
from fleet.hub.exchange import Caller, Card, Exchange, Refused, Role, Speaker
from fleet.hub.mailbox import Change, box
from fleet.hub.message import (
    Code,
    HandOver,
    Intent,
    Message,
    Position,
    Proven,
    Receipt,
    ThreadState,
    Undone,
    Wait,
    Way,
)
from fleet.settings import Settings
from fleet.terms import Activity, Phase
from fleet.testing import TurnedClock

HEADLESS = Ways(turns=4, typed=False)
INTERACTIVE = Ways(doorbell=True, boundary=True)
BOSS = Caller("operator", Role.ADMIN)

Script = Callable[[Message], "str | Awaitable[str | None] | None"]


class Died(Exception):
    """Raised by a script: the turn's process is gone before it finished."""


@dataclass
class Actor:
    """One scripted agent."""

    name: str
    script: Script
    ways: Ways
    up: bool = True
    activity: Activity = Activity.READY

    @property
    def caller(self) -> Caller:
        return Caller(self.name, Role.AGENT)

    def stands(self) -> Agent:
        phase = Phase.RUNNING if self.up else Phase.STOPPED
        return Agent(name=self.name, phase=phase, activity=self.activity, draft=False, composer=True)


@dataclass
class Stage:
    """The engine, and who plays on it."""

    folder: Path
    settings: Settings = field(default_factory=Settings)
    clock: TurnedClock = field(default_factory=TurnedClock)
    actors: dict[str, Actor] = field(default_factory=dict)
    turns: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """Who was given what, each time."""
    refusals: list[tuple[str, Refused]] = field(default_factory=list)

    async def __aenter__(self) -> Stage:
        self.exchange = await Exchange.open(self.folder, self.settings, self.clock)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.exchange.close()

    async def again(self) -> None:
        """Another daemon on the same folder."""
        await self.exchange.close()
        await self.__aenter__()

    async def join(self, name: str, script: Script = lambda message: None, **given: Any) -> Actor:
        ways = given.pop("ways", HEADLESS)
        channels = given.pop("channels", ["#general"])
        card = Card(name=name, supervised=True, turns=not ways.turns)
        await self.exchange.enroll(card, Speaker(name=name, **given), channels)
        self.actors[name] = Actor(name, script, ways)
        return self.actors[name]

    # -- the door -----------------------------------------------------------------------------------------------

    async def say(self, sender: str | Caller, to: str | list[str] | None, text: str, **more: Any) -> Receipt | Refused:
        """What a client's request comes to."""
        caller = Caller(sender, Role.AGENT) if isinstance(sender, str) else sender
        try:
            return await self.exchange.send(caller, {"to": to, "text": text, **more})
        except Refused as refused:
            self.refusals.append((caller.name, refused))
            return refused

    async def sent(self, sender: str | Caller, to: str | list[str] | None, text: str, **more: Any) -> str:
        receipt = await self.say(sender, to, text, **more)
        assert isinstance(receipt, Receipt), receipt
        return receipt.id

    # -- the courier --------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Until nothing moves any more. How many hand-overs that took."""
        moved = 0
        while sum([await self._serve(actor) for _, actor in sorted(self.actors.items())]):
            moved += 1
            assert moved < 1000, "they talk forever"
        return moved

    async def later(self, seconds: float) -> int:
        await self.clock.turn(seconds)
        return await self.run()

    async def _serve(self, actor: Actor) -> bool:
        of = box("main", actor.name)
        mailbox = [
            Mail(message=m.message, recipient=m.recipient, thread=self._state(m.message))
            for m in await self.exchange.boxes.open(of)
        ]
        messages = {m.message.id: m.message for m in mailbox}
        found = look(mailbox, actor.stands(), actor.ways, self.clock.now(), delivery.Rules())
        await self.exchange.change(
            [
                *(Change(id, of, event) for id, event in found.ends.items()),
                *(Change(id, of, Wait(hold.reason)) for id, hold in found.holds.items()),
            ]
        )
        for give in found.gives:
            await self.exchange.change([Change(id, of, HandOver(give.way)) for id in give.messages])
            self.turns.append((actor.name, give.messages))
            if give.way is Way.TURN:
                await self._turn(actor, messages[give.messages[0]])
            else:
                await self._take_up(actor, [messages[id] for id in give.messages])
        return bool(found.gives)

    def _state(self, message: Message) -> ThreadState:
        thread = self.exchange.thread_state("main", message.thread)
        return thread.state if thread is not None else ThreadState.ACTIVE

    async def _turn(self, actor: Actor, message: Message) -> None:
        of = box("main", actor.name)
        try:
            said = actor.script(message)
            text = await said if isinstance(said, Awaitable) else said
        except Died:
            await self.exchange.change([Change(message.id, of, Undone("turn_died"))])
            return
        if text is not None:
            intent = Intent.RESULT if message.intent in (Intent.ASK, Intent.TASK) else Intent.INFORM
            try:
                await self.exchange.send(
                    actor.caller, {"reply_to": message.id, "text": text, "intent": intent.value}, turn=message.id
                )
            except Refused as refused:
                self.refusals.append((actor.name, refused))
        await self.exchange.change([Change(message.id, of, Proven("turn"))])

    async def _take_up(self, actor: Actor, messages: list[Message]) -> None:
        of = box("main", actor.name)
        actor.activity = Activity.WORKING
        for message in messages:
            await self.exchange.change([Change(message.id, of, Proven("transcript"))])
            said = actor.script(message)
            if isinstance(said, Awaitable):
                await said

    def end_turn(self, name: str) -> None:
        self.actors[name].activity = Activity.READY
        self.exchange.turn_ended("main", name)

    # -- what a test looks at -----------------------------------------------------------------------------------

    async def messages(self) -> list[dict[str, Any]]:
        page = await self.exchange.read(BOSS, since=0.0, limit=500)
        found: list[dict[str, Any]] = page["messages"]
        return found

    async def states(self, id: str) -> dict[str, tuple[str, str | None]]:
        receipt = await self.exchange.receipt(BOSS, id)
        return {r["name"]: (str(r["state"]), r.get("reason")) for r in receipt["recipients"]}

    async def pending(self) -> list[tuple[str, str]]:
        """What waits for a turn."""
        return [(m.message.id, m.recipient.name) for m in await self.exchange.boxes.open() if not m.recipient.quiet]

    async def audit(self) -> list[dict[str, Any]]:
        page = await self.exchange.audit(BOSS, Position(self.exchange.log.epoch, 0))
        found: list[dict[str, Any]] = page["events"]
        return found

    @property
    def refused(self) -> list[Code]:
        return [refused.refusal.code for _, refused in self.refusals]

    def handed_over(self, id: str, name: str) -> int:
        return sum(id in given for who, given in self.turns if who == name)


def with_(settings: Settings | None = None, **changed: Any) -> Settings:
    return replace(settings or Settings(), **changed)
