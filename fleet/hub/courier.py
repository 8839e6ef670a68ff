"""The courier: what waits in an agent's box comes into the agent, once, and what became of it is written down.

`delivery` decides, `Reach` acts, the log remembers. Every step is in the log before it is done: a hand-over that is
written down may have been done or not, and what is seen on the agent's side tells (`Reach.seen`). So a courier that
was killed anywhere goes on from the log alone.

One task for each agent whose box holds something to do, woken by mail, by a change at the agent, by an operator's act
on a conversation, and by the clock. Nothing is looked at where nothing waits.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fleet.clock import Clock
from fleet.errors import FleetError, HostUnreachable, StorageError
from fleet.hub import delivery
from fleet.hub.auth import MAIN, Caller, Refused, Role
from fleet.hub.delivery import (
    Agent,
    Await,
    Decisions,
    Give,
    HandedOver,
    Hold,
    PressEnter,
    Reason,
    Ring,
    Rules,
    Step,
    Ways,
    Withdraw,
    digest,
    follow,
    look,
    may_submit,
    sized,
)
from fleet.hub.exchange import Exchange
from fleet.hub.mailbox import Change, Mail, box
from fleet.hub.message import (
    Decline,
    Event,
    Fail,
    HandOver,
    Intent,
    Message,
    Nature,
    Proven,
    State,
    Thread,
    ThreadState,
    Undone,
    Unproven,
    Wait,
    Way,
)
from fleet.hub.reach import Reach, TurnEnd, Typing
from fleet.terms import Activity, Phase

log = logging.getLogger(__name__)

LOOKS = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 5.0)
"""Seconds between two looks at what is under way, while nothing tells of a change; then every so often."""
RETRY = 1.0
"""Seconds until what could not be stored is tried again."""
FAULT = 5.0
"""The same after a fault of ours."""
WATCHED = 600.0
"""Seconds for which what is unconfirmed may still prove to have arrived."""
FEW = 16
"""Messages in a headless agent's box that are looked at each time; of more, as many as may begin …"""
WHOLE = 1.0
"""… and all of them every so many seconds: why they wait is told then."""
BEGINS = 5.0
"""Seconds within which a turn is seen to run after what begins it is seen to be there."""
IN_TURN = frozenset({Activity.WORKING, Activity.NEEDS_INPUT})


class Courier:
    """Serves the boxes of one workspace's agents. `run` it; `close` leaves everything as it is written down."""

    def __init__(
        self,
        exchange: Exchange,
        reach: Reach,
        clock: Clock,
        rules: Rules | None = None,
        *,
        workspace: str = MAIN,
        chance: Callable[[int], bytes] = os.urandom,
        secret: bytes | None = None,
    ) -> None:
        """`secret`: what the marks around others' words are made of. Whoever has the same one makes the same marks of
        what was handed over together, and so knows what an earlier courier was typing when it was killed."""
        self.exchange, self.reach, self.clock = exchange, reach, clock
        self.rules = rules or exchange.delivery_rules
        self.workspace = workspace
        self.secret = chance(32) if secret is None else secret
        self._routes: dict[str, Route] = {}
        self._in_turn: set[str] = set()
        """Agents whose turn is running, as far as was seen."""
        self._begins: dict[str, float] = {}
        """Agents whose turn is about to be seen, since something is proven to be there; and until when."""
        self._turn_of: dict[str, str] = {}
        """Interactive agents at work on one conversation alone, since its mail has begun their turn."""
        self._stops: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    async def run(self) -> None:
        """Serve until it is closed."""
        ends = [self.exchange.on_mail(self._on_mail), self.exchange.on_thread(self._on_thread)]
        self.reach.on_change(self._on_change)
        for name in await self.exchange.boxes.names_open(self.workspace):
            self._wake(name)
        try:
            await self._closing.wait()
        finally:
            for end in ends:
                end()
            await asyncio.gather(*(route.close() for route in self._routes.values()))

    async def close(self) -> None:
        """Let go; what is under way stays so in the log."""
        self._closing.set()
        await asyncio.gather(*(route.close() for route in self._routes.values()))

    def over(self, route: Route) -> None:
        """Nothing is left to do for this agent."""
        if self._routes.get(route.name) is route:
            del self._routes[route.name]

    def arrived(self, name: str, thread: str | None) -> None:
        """Something is in the agent's conversation: a turn is to be seen, or is running. `thread`: what it is about,
        where this has begun it and nothing else."""
        self._begins[name] = self.clock.now() + BEGINS
        if thread is not None:
            self._turn_of[name] = thread

    def settle(self, name: str) -> None:
        """The agent's turn is over once it has been seen to run and to end, and nothing is on its way into it."""
        agent = self.reach.standing(name)
        if name not in self._in_turn or (agent is not None and _may_speak(agent)):
            return
        if self.clock.now() < self._begins.get(name, 0.0) or (name in self._routes and self._routes[name].under_way):
            return
        self._begins.pop(name, None)
        self._turn_of.pop(name, None)
        self._in_turn.discard(name)
        self.exchange.turn_ended(self.workspace, name)

    # -- what wakes it ---------------------------------------------------------------------------------------------

    def _on_mail(self, workspace: str, name: str) -> None:
        if workspace == self.workspace:
            self._wake(name)

    def _on_thread(self, workspace: str, thread: Thread) -> None:
        if workspace != self.workspace:
            return
        for route in self._routes.values():
            route.look_at_all()
        for name in [name for name, of in self._turn_of.items() if of == thread.id and not thread.moves]:
            del self._turn_of[name]
            task = asyncio.create_task(self._stop(name, thread.id), name=f"stop {name}")
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)

    async def _stop(self, name: str, thread: str) -> None:
        try:
            await self.reach.stop_turn(name, thread)
        except (FleetError, OSError) as error:
            log.warning("the turn of %s could not be stopped: %s", name, error)

    def _on_change(self, name: str) -> None:
        if self._closing.is_set():
            return  # another has taken over
        agent = self.reach.standing(name)
        if agent is not None and agent.activity in IN_TURN:
            self._in_turn.add(name)
            self._begins.pop(name, None)
        if name in self._routes:
            self._routes[name].wake()
        elif self.exchange.boxes.waiting(box(self.workspace, name)):
            self._wake(name)
        self.settle(name)

    def _wake(self, name: str) -> None:
        """There may be something to do; for who is no agent of ours there is not: they read by themselves."""
        if self._closing.is_set() or self.reach.standing(name) is None:
            return
        if name not in self._routes:
            self._routes[name] = Route(self, name)
        self._routes[name].wake()


def _may_speak(agent: Agent) -> bool:
    """Whether what it was given may still make it say something."""
    return agent.phase in (Phase.RUNNING, Phase.STARTING, Phase.UNVERIFIABLE) and agent.activity in IN_TURN


@dataclass(slots=True)
class Group:
    """What was handed over together."""

    key: str
    way: Way
    since: float
    mail: list[Mail] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        return [mail.message for mail in self.mail]


class Route:
    """One agent's mail on its way. It is there for as long as there is something to do."""

    def __init__(self, courier: Courier, name: str) -> None:
        self.name = name
        self.under_way = False
        self._courier = courier
        self._exchange, self._reach, self._clock = courier.exchange, courier.reach, courier.clock
        self._rules = courier.rules
        self._box = box(courier.workspace, name)
        self._woken = asyncio.Event()
        self._handed: dict[str, HandedOver] = {}
        """By key, what was done since it was written down that it would be. A courier that is new assumes as little as
        possible: one act, when it was written down."""
        self._lying = False
        """Something lies in the box that was rung for. What comes meanwhile waits: a bell that is rung again and again
        is not heard, and a program may cut what is too much at once."""
        self._looks = 0
        """Looks at what is under way since something told of a change."""
        self._begin: set[str] = set()
        """Keys of what was handed over to an agent that did nothing: its turn is about that."""
        self._watched: dict[str, tuple[Mail, str, HandedOver]] = {}
        """What is unconfirmed, and when it was so."""
        self._turns: dict[str, asyncio.Task[None]] = {}
        """By message, of a headless agent."""
        self._looked: dict[str, delivery.Mail] = {}
        """By message, what was last looked at: most of a backlog stands as it stood."""
        self._whole_at = 0.0
        """When the whole of a long backlog is looked at again."""
        self._concluded: dict[str, int] = {}
        """Messages whose turn is over, with the hand-over that it was: what was read before says otherwise."""
        self._task = asyncio.create_task(self._serve(), name=f"mail of {name}")

    def wake(self) -> None:
        self._looks = 0
        self._woken.set()

    def look_at_all(self) -> None:
        """Something is different that may concern any of its mail."""
        self._whole_at = 0.0
        self.wake()

    async def close(self) -> None:
        tasks = [self._task, *self._turns.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self) -> None:
        while True:
            self._woken.clear()
            try:
                again_at = await self._round()
                self._courier.settle(self.name)
            except HostUnreachable as error:
                log.info("mail of %s: %s", self.name, error)
                again_at = self._clock.now() + FAULT
            except (FleetError, OSError) as error:
                log.warning("mail of %s: %s", self.name, error)
                again_at = self._clock.now() + RETRY
            except Exception:  # one agent's mail must not stop the others'; it is told whole
                log.exception("mail of %s", self.name)
                again_at = self._clock.now() + FAULT
            else:
                if again_at is None and self._idle and not self._woken.is_set():
                    self._courier.over(self)
                    return
            await self._until(again_at)

    @property
    def _idle(self) -> bool:
        return not (self._has_mail or self._turns or self._watched)

    _has_mail = False

    async def _until(self, at: float | None) -> None:
        """Wait until somebody wakes it, or so late."""
        if at is None:
            await self._woken.wait()
            return
        timer = asyncio.create_task(self._wake_at(at))
        try:
            await self._woken.wait()
        finally:
            timer.cancel()

    async def _wake_at(self, at: float) -> None:
        await self._clock.sleep(max(0.0, at - self._clock.now()))
        self._woken.set()

    # -- one round -------------------------------------------------------------------------------------------------

    async def _round(self) -> float | None:
        """Do what can be done now. When to look again, if nothing happens before."""
        mail = await self._exchange.boxes.to_deliver(self._box)
        self._has_mail = bool(mail)
        agent = self._reach.standing(self.name)
        if agent is None:
            self._has_mail = False  # it was removed: whoever bears the name next is woken anew
            return None
        ways = self._reach.ways(self.name)
        times = [await self._look_after_watched(agent, ways)]
        moved = self._lying = False
        for group in _groups(mail):
            at, changed = await self._follow(group, agent, ways)
            times.append(at)
            moved = moved or changed
        if moved:
            mail = await self._exchange.boxes.to_deliver(self._box)
            agent = self._reach.standing(self.name) or agent
        times.append(await self._hand_over(mail, agent, ways))
        return min((at for at in times if at is not None), default=None)

    async def _hand_over(self, mail: Sequence[Mail], agent: Agent, ways: Ways) -> float | None:
        """Decide about the box, write that down, and do it."""
        now, box_has = self._clock.now(), len(mail)
        mail, decisions = self._looked_into(mail, agent, ways, now)
        in_part = len(mail) < box_has
        taken = {group.key for group in _groups(mail)}
        gives = [give for give in decisions.gives if give.way is Way.TURN or _key(give.way, now) not in taken]
        late = now + 0.001 if len(gives) < len(decisions.gives) else None
        holds = [] if in_part else _holds(decisions, mail)
        changes = [*_ends(decisions), *holds, *(c for give in gives for c in _handed(give))]
        after = await self._change(changes)
        for give in gives:
            if give.way is Way.TURN:
                continue  # it is taken up below
            since = [after[id].since for id in give.messages if _goes(after, id, give.way)]
            if since:
                going = [
                    one for one in mail if one.message.id in give.messages and _goes(after, one.message.id, give.way)
                ]
                await self._act(Group(_key(give.way, since[0]), give.way, since[0], going))
        self._take_up_turns(mail, after)
        states = {after[one.message.id].state if one.message.id in after else one.recipient.state for one in mail}
        self._has_mail = in_part or not states.isdisjoint(_OPEN)
        self.under_way = State.INJECTING in states
        expiries = [one.message.expires_at for one in mail if one.message.expires_at and one.message.expires_at > now]
        soon = now if any(give.way is not Way.TURN for give in gives) else None
        rest = self._whole_at if in_part else None
        return min((at for at in (decisions.again_at, late, soon, rest, *expiries) if at is not None), default=None)

    def _looked_into(
        self, mail: Sequence[Mail], agent: Agent, ways: Ways, now: float
    ) -> tuple[Sequence[Mail], Decisions]:
        """What was looked at, and what becomes of it. Of a headless agent's long backlog that is what is under way, and
        as much of the rest as may begin: the others wait for a place whatever they are. But where a place stays free,
        and every so often, all is looked at."""
        if ways.turns and len(mail) > FEW and now < self._whole_at:
            under_way = [one for one in mail if one.recipient.state is State.INJECTING]
            next_ones = (one for one in mail if one.recipient.state is not State.INJECTING)
            part = [*under_way, *itertools.islice(next_ones, max(0, ways.turns - len(under_way)) + 1)]
            decisions = self._decided(part, agent, ways, now)
            if any(hold.reason is Reason.WORKING for hold in decisions.holds.values()):
                return part, decisions
        self._whole_at = now + WHOLE
        return mail, self._decided(mail, agent, ways, now)

    def _decided(self, mail: Sequence[Mail], agent: Agent, ways: Ways, now: float) -> Decisions:
        self._looked = {one.message.id: self._as_mail(one) for one in mail}
        decisions = look(list(self._looked.values()), agent, ways, now, self._rules)
        if not self._lying:
            return decisions
        behind = {
            id: Hold(Reason.BEHIND) for give in decisions.gives if give.way is Way.DOORBELL for id in give.messages
        }
        gives = tuple(give for give in decisions.gives if give.way is not Way.DOORBELL)
        return replace(decisions, gives=gives, holds={**decisions.holds, **behind})

    def _as_mail(self, mail: Mail) -> delivery.Mail:
        message, recipient = mail.message, mail.recipient
        held = self._exchange.thread_state(message.workspace, message.thread)
        thread = held.state if held else ThreadState.ACTIVE
        before = self._looked.get(message.id)
        if before is not None and (before.message, before.recipient, before.thread) == (message, recipient, thread):
            return before
        return delivery.Mail(message=message, recipient=recipient, thread=thread)

    async def _change(self, changes: Sequence[tuple[str, Event]]) -> dict[str, _Stand]:
        """Write it down; how each message stands then."""
        if not changes:
            return {}
        after = await self._exchange.change([Change(id, self._box, event) for id, event in changes])
        return {
            id: _Stand(recipient.state, recipient.way, recipient.since, recipient.attempts)
            for (id, _), recipient in zip(changes, after, strict=True)
            if recipient is not None
        }

    # -- acting ----------------------------------------------------------------------------------------------------

    async def _act(self, group: Group) -> None:
        """Hand it over. What goes wrong here is seen afterwards."""
        if group.way is Way.TURN:
            return
        self._handed[group.key] = HandedOver(way=group.way, at=group.since, acted_at=group.since)
        agent = self._reach.standing(self.name)
        if agent is not None and agent.activity is Activity.READY:
            self._begin.add(group.key)
        try:
            if group.way is Way.TYPED:
                await self._type(group)
            else:
                rules = sized(self._rules, group.way)
                text = digest(group.messages, self._mark(group.key), rules)
                await self._reach.put(self.name, group.key, text, group.way)
                if group.way is Way.DOORBELL:
                    await self._reach.ring(self.name)
        except (HostUnreachable, OSError) as error:
            log.info("mail of %s: %s", self.name, error)
            await self._clock.sleep(RETRY)

    async def _type(self, group: Group) -> None:
        began = HandedOver(way=Way.TYPED, at=self._clock.now(), acted_at=self._clock.now())
        typed = await self._reach.type(self.name, self._typed_text(group), lambda agent: may_submit(began, agent))
        now = self._clock.now()
        if typed is Typing.NOTHING:
            del self._handed[group.key]
            await self._change([(message.id, Undone("not_typed")) for message in group.messages])
            await self._clock.sleep(RETRY)
        else:
            self._handed[group.key] = HandedOver(way=Way.TYPED, at=now, acted_at=now)

    def _typed_text(self, group: Group) -> str:
        """A person's own word as it is; others' in quotes."""
        if group.messages[0].nature is Nature.PROMPT:
            return group.messages[0].text
        return digest(group.messages, self._mark(group.key), self._rules)

    def _mark(self, key: str) -> str:
        """The nonce of what is handed over together: nobody else can tell it before, and it is never another's."""
        about = f"{self._box} {key}".encode()
        return hashlib.blake2s(about, key=self._courier.secret, digest_size=10).hexdigest()

    # -- what is under way -----------------------------------------------------------------------------------------

    async def _follow(self, group: Group, agent: Agent, ways: Ways) -> tuple[float | None, bool]:
        """See what became of it, and do what follows. When to look again, and whether something is different now."""
        if group.way is Way.TURN:
            return None, False
        if group.way is Way.TYPED and group.key not in self._handed:  # an earlier courier was killed over it
            self._reach.recall(self.name, self._typed_text(group))
        handed = self._handed.setdefault(group.key, HandedOver(way=group.way, at=group.since, acted_at=group.since))
        seen = await self._reach.seen(self.name, group.key, handed, group.messages, group.since)
        now = self._clock.now()
        self._lying = self._lying or (group.way is Way.DOORBELL and any(one.in_box for one in seen))
        steps = [follow(handed, one, agent, ways, now, self._rules) for one in seen]
        changed = await self._take_steps(group, handed, steps, now)
        waits = [step.until for step in steps if isinstance(step, Await) and step.until is not None]
        again = LOOKS[min(self._looks, len(LOOKS) - 1)]
        self._looks += 1
        return min([now + again, *waits]), changed

    async def _take_steps(self, group: Group, handed: HandedOver, steps: Sequence[Step], now: float) -> bool:
        by_id = dict(zip((m.id for m in group.messages), steps, strict=True))
        facts: list[tuple[str, Event]] = [
            (id, step) for id, step in by_id.items() if isinstance(step, Proven | Unproven | Undone)
        ]
        left = [(id, step) for id, step in by_id.items() if isinstance(step, Withdraw)]
        if left and await self._reach.withdraw(self.name, group.key):
            facts += [(id, Undone(step.reason)) for id, step in left]
            if any(step.reason == delivery.NOT_HEARD for _, step in left):
                log.warning("mail of %s: its doorbell is not heard; are hooks switched off in its settings?", self.name)
                self._reach.unheard(self.name)
        if any(isinstance(step, Ring) for step in steps):
            await self._reach.ring(self.name)
            self._handed[group.key] = replace(handed, acted_at=now, rings=handed.rings + 1)
        if any(isinstance(step, PressEnter) for step in steps):
            pressed = await self._reach.enter(self.name, self._typed_text(group))
            self._handed[group.key] = replace(handed, acted_at=now, enters=handed.enters + 1)
            if pressed is Typing.NOTHING:
                facts += [(id, Undone("not_typed")) for id in by_id]
        if not facts:
            return False
        await self._change(facts)
        if any(isinstance(event, Proven) for _, event in facts) and group.way in (Way.DOORBELL, Way.TYPED):
            threads = {message.thread for message in group.messages}
            alone = group.key in self._begin and len(threads) == 1
            self._courier.arrived(self.name, threads.pop() if alone else None)
        self._watch(group, handed, facts, now)
        if len(facts) == len(steps):
            self._handed.pop(group.key, None)
            self._begin.discard(group.key)
            if not all(isinstance(event, Undone) for _, event in facts) or group.way is not Way.TYPED:
                await self._reach.clear(self.name, group.key)
        return True

    def _watch(self, group: Group, handed: HandedOver, facts: Iterable[tuple[str, Event]], now: float) -> None:
        """What is unconfirmed may still be seen to have arrived."""
        unproven = {id for id, event in facts if isinstance(event, Unproven)}
        for mail in group.mail:
            if mail.message.id in unproven:
                watched = replace(handed, watched=True, acted_at=now)
                self._watched[mail.message.id] = (mail, group.key, watched)

    async def _look_after_watched(self, agent: Agent, ways: Ways) -> float | None:
        now = self._clock.now()
        for id, (mail, key, handed) in list(self._watched.items()):
            if now - handed.acted_at >= WATCHED:
                del self._watched[id]
                continue
            [seen] = await self._reach.seen(self.name, key, handed, [mail.message], mail.recipient.since)
            step = follow(handed, seen, agent, ways, now, self._rules)
            if isinstance(step, Proven):
                await self._change([(id, step)])
                del self._watched[id]
        return min((handed.acted_at + WATCHED for _, _, handed in self._watched.values()), default=None)

    # -- headless turns --------------------------------------------------------------------------------------------

    def _take_up_turns(self, mail: Sequence[Mail], after: Mapping[str, _Stand]) -> None:
        """See every turn through, also one that another courier has begun; and end those that an operator stopped."""
        if self._concluded:
            there = {one.message.id for one in mail}
            self._concluded = {id: attempts for id, attempts in self._concluded.items() if id in there}
        for one in mail:
            id, was = one.message.id, one.recipient
            if was.state is not State.INJECTING and id not in after:
                continue
            stand = after.get(id) or _Stand(was.state, was.way, was.since, was.attempts)
            if stand.state is not State.INJECTING or stand.way is not Way.TURN:
                continue
            if id not in self._turns and self._concluded.get(id, 0) < stand.attempts:
                seeing = self._see_through(one.message, stand.attempts)
                self._turns[id] = asyncio.create_task(seeing, name=f"turn of {self.name} on {id}")
            thread = self._exchange.thread_state(one.message.workspace, one.message.thread)
            stop = f"stop {one.message.thread}"
            if thread is not None and not thread.moves and stop not in self._turns:
                self._turns[stop] = asyncio.create_task(self._stop(one.message.thread), name=stop)

    async def _stop(self, thread: str) -> None:
        try:
            await self._reach.stop_turn(self.name, thread)
        finally:
            self._turns.pop(f"stop {thread}", None)

    async def _see_through(self, message: Message, attempt: int) -> None:
        """One turn, to its end and what follows from it."""
        try:
            end = await self._reach.turn(self.name, message, self._turn_text(message))
            while True:
                try:
                    await self._conclude(message, end)
                    self._concluded[message.id] = attempt
                    break
                except StorageError as error:
                    log.warning("the turn of %s on %s: %s", self.name, message.id, error)
                    await self._clock.sleep(RETRY)
        except FleetError as error:
            log.error("the turn of %s on %s: %s", self.name, message.id, error)
            await self._change([(message.id, Undone(error.code))])
            self._concluded[message.id] = attempt
        except Exception:  # the next round takes the turn up again
            log.exception("the turn of %s on %s", self.name, message.id)
            await self._clock.sleep(FAULT)
        finally:
            self._turns.pop(message.id, None)
            self.wake()

    def _turn_text(self, message: Message) -> str:
        if message.nature is Nature.PROMPT:
            return message.text
        return digest([message], self._mark(message.id), self._rules, turn=True)

    async def _conclude(self, message: Message, end: TurnEnd) -> None:
        """What came of a turn: its reply first, so that a courier that is killed in between says it again, as the
        same."""
        event: Event = Proven(delivery.Sign.TURN.value)
        asks = message.intent in (Intent.ASK, Intent.TASK)
        thread = self._exchange.thread_state(message.workspace, message.thread)
        if end.declined:
            event = Decline(end.reason or "declined")
        elif not end.ok and thread is not None and not thread.moves:
            event = Undone(thread.state.value)  # an operator stopped it: it waits, or is cancelled
        elif not end.ok:
            event = Undone(end.reason or "failed") if end.again else Fail(end.reason or "failed")
        elif end.text.strip():
            refused = await self._reply(message, end.text)
            if refused:
                event = Fail(refused) if asks else Proven(f"{delivery.Sign.TURN.value}; its reply: {refused}")
        elif asks:
            event = Fail("no_answer")
        await self._change([(message.id, event)])

    async def _reply(self, message: Message, text: str) -> str | None:
        """Say it as the agent; the refusal's code where the hub does not take it."""
        asks = message.intent in (Intent.ASK, Intent.TASK)
        body = {
            "reply_to": message.id,
            "text": text,
            "intent": (Intent.RESULT if asks else Intent.INFORM).value,
        }
        try:
            await self._exchange.send(Caller(self.name, Role.AGENT, self._courier.workspace), body, turn=message.id)
        except Refused as error:
            log.info("what %s says to %s: %s", self.name, message.id, error)
            return error.code
        return None


@dataclass(frozen=True, slots=True)
class _Stand:
    """How a message stands after a change."""

    state: State
    way: Way | None
    since: float
    attempts: int


_OPEN = frozenset({State.ACCEPTED, State.QUEUED, State.INJECTING})


def _key(way: Way, since: float) -> str:
    """The key of what was handed over together: the log knows it, so that nothing else need remember it. It sorts by
    time."""
    return f"{round(since * 1e6):017d}-{way.value}"


def _groups(mail: Iterable[Mail]) -> list[Group]:
    """What is under way, as it was handed over."""
    groups: dict[str, Group] = {}
    for one in mail:
        way, since = one.recipient.way, one.recipient.since
        if one.recipient.state is State.INJECTING and way is not None:
            key = _key(way, since) if way is not Way.TURN else one.message.id
            groups.setdefault(key, Group(key, way, since)).mail.append(one)
    return list(groups.values())


def _goes(after: Mapping[str, _Stand], id: str, way: Way) -> bool:
    """Whether it is under way by this way: nobody has taken it back meanwhile."""
    stand = after.get(id)
    return stand is not None and stand.state is State.INJECTING and stand.way is way


def _handed(give: Give) -> list[tuple[str, Event]]:
    return [(id, HandOver(give.way)) for id in give.messages]


def _holds(decisions: Decisions, mail: Iterable[Mail]) -> list[tuple[str, Event]]:
    """Why what is held waits, where that is not what stands there already."""
    told = {one.message.id: one.recipient.reason for one in mail if one.recipient.state is State.QUEUED}
    return [(id, Wait(hold.reason.value)) for id, hold in decisions.holds.items() if told.get(id) != hold.reason.value]


def _ends(decisions: Decisions) -> list[tuple[str, Event]]:
    return list(decisions.ends.items())
