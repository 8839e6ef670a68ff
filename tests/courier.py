"""A hub on the disk whose agents are scripted, on a clock that only tests turn; its courier may be killed anywhere.

`Program` does what the real one does with its box: it takes, notes and takes up. What it has taken up is its
conversation, which outlives it; what it has only noted dies with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fleet.hub.auth import Caller, Role
from fleet.hub.courier import Courier
from fleet.hub.delivery import Agent, HandedOver, Rules, Seen, Sign, Ways, appears
from fleet.hub.exchange import Card, Exchange, Speaker
from fleet.hub.message import Message, Nature, Way
from fleet.hub.reach import TurnEnd, Typing
from fleet.settings import Settings
from fleet.terms import Activity, Phase
from fleet.testing import TurnedClock

OPERATOR = Caller("operator", Role.OPERATOR)
INTERACTIVE = Ways(doorbell=True, boundary=True, kept=True)


class Killed(BaseException):
    """The courier is gone."""


@dataclass
class Program:
    """One agent's program, and what is left of it."""

    name: str
    clock: TurnedClock
    ways: Ways = INTERACTIVE
    phase: Phase = Phase.RUNNING
    activity: Activity = Activity.READY
    dialog: bool = False
    draft: bool | None = False
    key_at: float | None = None
    deaf: bool = False
    """It does not hear the bell."""
    frozen: bool = False
    """It goes on later, with what was taken for it then."""
    held: list[str] = field(default_factory=list)
    """What was taken for it when it was frozen."""
    heard_at: float | None = None
    forgets: int = 0
    """So many times it dies on what it has taken before it notes it: the hook, not the program."""
    keeps: bool = True
    """What it takes up ends in its conversation; else it stays in its queue."""
    launch: int = 1
    boxes: dict[tuple[int, str], tuple[Way, str]] = field(default_factory=dict)
    taken: dict[tuple[int, str], float] = field(default_factory=dict)
    queue: list[str] = field(default_factory=list)
    conversation: list[tuple[float, str]] = field(default_factory=list)
    composer: str = ""
    eats_enter: int = 0
    """So many Enters are lost."""
    rings: int = 0
    answers: Callable[[Message], TurnEnd] = lambda message: TurnEnd(ok=True, text="done")
    turns: list[str] = field(default_factory=list)
    ended: dict[str, TurnEnd] = field(default_factory=dict)
    """What came of turns, which outlives a courier."""
    stopped: list[str] = field(default_factory=list)
    """Conversations whose turns were stopped."""
    gate: asyncio.Event | None = None
    """Turns wait for it."""

    def ring(self) -> None:
        self.rings += 1
        if self.phase is not Phase.RUNNING or self.deaf or self.frozen:
            return
        self.heard_at = self.clock.now()
        for (launch, key), (way, text) in sorted(self.boxes.items()):
            if launch == self.launch and way is Way.DOORBELL:
                self._take(key)
                if self.forgets:
                    self.forgets -= 1
                    continue
                self.queue.append(text)
        if self.activity is Activity.READY:
            self.take_up()

    def freeze(self) -> None:
        """Its hook has just taken what lies in the box, and the program does nothing for a while."""
        self.frozen = True
        for launch, key in sorted(self.boxes):
            if launch == self.launch:
                self.held.append(self.boxes[launch, key][1])
                self._take(key)

    def go_on(self) -> None:
        self.frozen = False
        self.queue, self.held = [*self.queue, *self.held], []
        self.take_up()

    def _take(self, key: str) -> None:
        del self.boxes[self.launch, key]
        self.taken[self.launch, key] = self.clock.now()

    def take_up(self) -> None:
        """What is noted goes into the conversation."""
        if self.keeps:
            self.conversation += [(self.clock.now(), text) for text in self.queue]
            self.queue.clear()

    def tool_ends(self) -> None:
        for (launch, key), (way, text) in sorted(self.boxes.items()):
            if launch == self.launch and way is Way.BOUNDARY:
                self._take(key)
                self.conversation.append((self.clock.now(), text))
        self.take_up()

    def turn_ends(self) -> None:
        self.activity = Activity.READY
        self.take_up()

    def die(self) -> None:
        self.phase, self.activity = Phase.BACKOFF, Activity.UNKNOWN
        self.queue.clear()
        self.composer = ""

    def come_back(self) -> None:
        self.launch += 1
        self.phase, self.activity = Phase.RUNNING, Activity.READY

    def times(self, id: str) -> int:
        """How often a message stands in the conversation."""
        return sum(text.count(f' id="{id}"') for _, text in self.conversation)

    def order(self) -> list[str]:
        """The ids of the messages in the conversation, as they stand there."""
        words = " ".join(text for _, text in self.conversation).split(' id="')[1:]
        return [word.partition('"')[0] for word in words]


class Steps:
    """Counts what the courier does, and is its death at one of those steps: before it is done, or right after."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.last: int | None = None
        self.before = True
        self.dead = asyncio.Event()
        self.busy = 0

    async def take(self, name: str, doing: Coroutine[Any, Any, Any]) -> Any:
        number = len(self.taken)
        self.taken.append(name)
        if number == self.last and self.before:
            doing.close()
            await self.die()
        stores = name not in ("turn", "type")  # those may last as long as they like
        self.busy += stores
        try:
            result = await doing
        finally:
            self.busy -= stores
        if number == self.last and not self.before:
            await self.die()
        return result

    async def die(self) -> None:
        self.dead.set()
        await asyncio.get_running_loop().create_future()


class Reached:
    """`Reach`, over programs in memory."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._callbacks: list[Callable[[str], None]] = []

    def standing(self, name: str) -> Agent | None:
        it = self._hub.programs.get(name)
        if it is None:
            return None
        return Agent(
            name=name,
            phase=it.phase,
            activity=it.activity,
            dialog=it.dialog,
            draft=bool(it.draft or it.composer) if it.draft is not None else None,
            composer=not it.dialog,
            key_at=it.key_at,
        )

    def ways(self, name: str) -> Ways:
        return self._hub.programs[name].ways

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def changed(self, name: str) -> None:
        for callback in self._callbacks:
            callback(name)

    async def put(self, name: str, key: str, text: str, way: Way) -> None:
        async def put() -> None:
            it = self._hub.programs[name]
            assert (it.launch, key) not in it.boxes | it.taken, "nothing is put twice under one key"
            it.boxes[it.launch, key] = (way, text)

        await self._hub.steps.take("put", put())

    async def ring(self, name: str) -> None:
        async def ring() -> None:
            self._hub.programs[name].ring()

        await self._hub.steps.take("ring", ring())

    async def withdraw(self, name: str, key: str) -> bool:
        async def withdraw() -> bool:
            it = self._hub.programs[name]
            where = next((place for place in it.boxes if place[1] == key), None)
            if where is not None:
                del it.boxes[where]
                return True
            return not any(place[1] == key for place in it.taken)

        taken_out: bool = await self._hub.steps.take("withdraw", withdraw())
        return taken_out

    def unheard(self, name: str) -> None:
        it = self._hub.programs[name]
        it.ways = replace(it.ways, doorbell=False)

    async def clear(self, name: str, key: str) -> None:
        async def clear() -> None:
            it = self._hub.programs[name]
            it.taken = {place: at for place, at in it.taken.items() if place[1] != key}

        await self._hub.steps.take("clear", clear())

    async def type(self, name: str, text: str, may_submit: Callable[[Agent], bool]) -> Typing:
        async def typed() -> Typing:
            it = self._hub.programs[name]
            if it.dialog or it.composer or it.draft:
                return Typing.NOTHING
            it.composer = text
            if self._hub.while_typing is not None:
                self._hub.while_typing(it)
            agent = self.standing(name)
            assert agent is not None
            if not may_submit(agent):
                return Typing.HELD
            self._submit(it)
            return Typing.SUBMITTED

        outcome: Typing = await self._hub.steps.take("type", typed())
        return outcome

    def _submit(self, it: Program) -> None:
        assert not it.dialog, "no Enter on a dialog"
        if it.eats_enter:
            it.eats_enter -= 1
        elif it.composer:
            it.conversation.append((it.clock.now(), it.composer))
            it.composer, it.activity = "", Activity.WORKING

    def recall(self, name: str, text: str) -> None:
        """A program in memory knows by itself whose text stands in its composer."""

    async def enter(self, name: str, text: str) -> Typing:
        async def enter() -> Typing:
            it = self._hub.programs[name]
            if it.composer == text:
                self._submit(it)
                return Typing.SUBMITTED
            if not it.composer or not text.startswith(it.composer):
                return Typing.HELD
            it.composer = ""
            return Typing.NOTHING

        outcome: Typing = await self._hub.steps.take("enter", enter())
        return outcome

    async def seen(
        self, name: str, key: str, handed: HandedOver, messages: Sequence[Message], since: float
    ) -> list[Seen]:
        it = self._hub.programs[name]
        where = next((place for place in (*it.boxes, *it.taken) if place[1] == key), None)
        launch = self._hub.launched.get((name, key)) if handed.way is Way.TYPED else (where[0] if where else None)
        if handed.way is Way.TYPED and launch is None:
            launch = self._hub.launched[name, key] = it.launch
        alive = it.phase is Phase.RUNNING and launch == it.launch
        return [
            Seen(
                signs=frozenset(self._signs(it, message, since)),
                alive=alive,
                read=True,
                in_box=where in it.boxes,
                taken_at=it.taken.get(where) if where else None,
                heard_at=it.heard_at,
            )
            for message in messages
        ]

    def _signs(self, it: Program, message: Message, since: float) -> set[Sign]:
        signs = {Sign.NOTED for text in it.queue if appears(text, message)}
        return signs | {Sign.TRANSCRIPT for at, text in it.conversation if at >= since and appears(text, message)}

    async def turn(self, name: str, message: Message, text: str) -> TurnEnd:
        """One turn a message, whoever asks for it, and however often."""
        it = self._hub.programs[name]

        async def run() -> TurnEnd:
            if message.id not in it.ended:
                it.turns.append(message.id)
                it.conversation.append((it.clock.now(), text))
                if it.gate is not None:
                    await it.gate.wait()
                end = it.answers(message)
                if end.again:
                    return end
                it.ended[message.id] = end
            return it.ended[message.id]

        end: TurnEnd = await self._hub.steps.take("turn", run())
        return end

    async def stop_turn(self, name: str, thread: str) -> None:
        it = self._hub.programs[name]
        it.stopped.append(thread)
        it.answers = lambda message: TurnEnd(ok=False, reason="terminated")
        if it.gate is not None:
            it.gate.set()


class Hub:
    """The hub and its courier; `again` is the next daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = TurnedClock(1_800_000_000.0)
        self.programs: dict[str, Program] = {}
        self.steps = Steps()
        self.launched: dict[tuple[str, str], int] = {}
        self.while_typing: Callable[[Program], None] | None = None
        self.ended: list[str] = []
        """Whose turns were told to be over."""
        self._chance = itertools.count(1)

    async def open(self) -> Hub:
        def chance(size: int) -> bytes:
            return hashlib.sha256(str(next(self._chance)).encode()).digest()[:size]

        self.exchange = await Exchange.open(self.folder, Settings(), self.clock, chance=chance)
        self._count(self.exchange, "change")
        self._count(self.exchange, "send")
        self._count(self.exchange.boxes, "to_deliver")
        ended = self.exchange.turn_ended
        self.exchange.turn_ended = lambda workspace, name: (self.ended.append(name), ended(workspace, name))  # type: ignore[method-assign, assignment]
        self.reach = Reached(self)
        self.courier = Courier(self.exchange, self.reach, self.clock, Rules(), chance=chance, secret=b"kept")
        self._serving = asyncio.create_task(self.courier.run())
        await self.settle()
        return self

    def _count(self, of: Any, verb: str) -> None:
        real = getattr(of, verb)

        async def counted(*args: Any, **options: Any) -> Any:
            return await self.steps.take(verb, real(*args, **options))

        setattr(of, verb, counted)

    async def close(self) -> None:
        await self.courier.close()
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        await self.exchange.close()

    async def again(self) -> None:
        """The courier is killed as it stands, and another one goes on."""
        await self.close()
        self.steps = Steps()
        await self.open()

    async def join(self, name: str = "web", **about: Any) -> Program:
        self.programs[name] = Program(name, self.clock, **about)
        turns = not self.programs[name].ways.turns
        await self.exchange.enroll(Card(name=name, supervised=True, turns=turns), Speaker(name=name), [])
        return self.programs[name]

    # -- time ------------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Let everything be done that can be done now: the disk is real, the clock is not."""
        quiet = 0
        while quiet < 3 and not self.steps.dead.is_set():
            await self.clock.turn(0)
            if self.steps.busy or not self.exchange.log.idle:
                quiet = 0
                await asyncio.sleep(0)
            else:
                quiet += 1
                await asyncio.sleep(0)

    async def turn(self, seconds: float, step: float = 0.25) -> None:
        until = self.clock.now() + seconds
        while self.clock.now() < until and not self.steps.dead.is_set():
            await self.clock.turn(min(step, until - self.clock.now()))
            await self.settle()

    async def until(self, what: Callable[[], bool], seconds: float = 120.0) -> None:
        """Turn the clock until it holds."""
        await self.settle()
        end = self.clock.now() + seconds
        while not what() and not self.steps.dead.is_set():
            assert self.clock.now() < end, "it never happened"
            await self.turn(0.25)

    # -- talk ------------------------------------------------------------------------------------------------------

    async def send(self, text: str = "hello", to: str | list[str] = "web", **body: Any) -> str:
        about = {"to": to, "text": text, "intent": "task", **body}
        id: str = (await Exchange.send(self.exchange, OPERATOR, about)).id
        return id

    async def prompt(self, text: str, to: str = "web") -> str:
        return (await Exchange.send(self.exchange, OPERATOR, {"to": to, "text": text}, nature=Nature.PROMPT)).id

    async def change(self, name: str = "web", **about: Any) -> None:
        """Something is different at the agent, and that is told."""
        for key, value in about.items():
            setattr(self.programs[name], key, value)
        self.reach.changed(name)
        await self.settle()

    async def stands(self, id: str, name: str | None = None) -> dict[str, Any]:
        told = await Exchange.receipt(self.exchange, OPERATOR, id)
        found: dict[str, Any] = next(r for r in told["recipients"] if name in (None, r["name"]))
        return found

    async def state(self, id: str) -> tuple[str, str | None]:
        told = await self.stands(id)
        return str(told["state"]), told.get("reason")

    async def arrives(self, *ids: str, seconds: float = 120.0, state: str = "delivered") -> None:
        end = self.clock.now() + seconds
        for id in ids:
            while (await self.state(id))[0] != state and not self.steps.dead.is_set():
                assert self.clock.now() < end, f"{id} never is {state}: {await self.stands(id)}"
                await self.turn(0.25)
