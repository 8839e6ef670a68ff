"""A hub in memory: the pure core with agents that are scripted, on a clock that only tests turn.

It does with values what the hub does with a log, mailboxes and panes: `say` is the door, `run` hands over whatever may
be handed over until all is silent. A headless agent's turn is one call of its script; an interactive one's begins when
its program takes up the mail, and ends when the test says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.brake import Bucket
from fleet.hub import delivery, guardrails
from fleet.hub.delivery import Agent, Mail, Ways, look
from fleet.hub.guardrails import Accounts, Attempt, Speaker, Tally, Turn, Window, admit, lineage
from fleet.hub.message import (
    Answer,
    Ask,
    Code,
    Decline,
    Event,
    HandOver,
    Intent,
    Limits,
    Message,
    Position,
    Proven,
    Receipt,
    Recipient,
    Refusal,
    Thread,
    Undone,
    Verb,
    Wait,
    Way,
    mint,
    step,
)
from fleet.hub.routing import Directory, Member, reply_address, route
from fleet.hub.submission import read_submission
from fleet.terms import Activity, Phase

NOW = 1_000_000.0
HEADLESS = Ways(turns=4, typed=False)
INTERACTIVE = Ways(doorbell=True, boundary=True)

Script = Callable[[Message], str | None]
"""What an agent answers; `None`: nothing."""


class Died(Exception):
    """Raised by a script: the turn's process is gone before it finished."""


@dataclass
class Actor:
    """One scripted agent."""

    speaker: Speaker
    script: Script
    ways: Ways
    up: bool = True
    turn: Turn = field(default_factory=Turn)
    activity: Activity = Activity.READY

    def stands(self) -> Agent:
        phase = Phase.RUNNING if self.up else Phase.STOPPED
        return Agent(name=self.speaker.name, phase=phase, activity=self.activity, draft=False, composer=True)


@dataclass
class Entry:
    """One message as the hub has it."""

    message: Message
    position: Position


@dataclass
class Hub:
    """The whole of it."""

    rules: guardrails.Rules = field(default_factory=guardrails.Rules)
    now: float = NOW
    directory: Directory = field(default_factory=Directory)
    actors: dict[str, Actor] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    standing: dict[tuple[str, str], Recipient] = field(default_factory=dict)
    """Every message at every recipient."""
    threads: dict[str, Thread] = field(default_factory=dict)
    buckets: dict[str, Bucket] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Window] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    asks: dict[str, Ask] = field(default_factory=dict)
    turns: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """Who was given what, each time."""
    refusals: list[tuple[str, Refusal]] = field(default_factory=list)
    log: list[tuple[str, ...]] = field(default_factory=list)

    # -- who is there -------------------------------------------------------------------------------------------

    def join(self, name: str, script: Script = lambda message: None, *, ways: Ways = HEADLESS, **fields: Any) -> Actor:
        channels = fields.pop("channels", ("#general",))
        member = Member(name)
        for channel in channels:
            member = member.joined(channel)
        self.directory = self.directory.having(member)
        self.actors[name] = Actor(Speaker(name=name, **fields), script, ways)
        return self.actors[name]

    # -- the door -----------------------------------------------------------------------------------------------

    def say(self, sender: str, to: str | list[str] | None, text: str, **asked: Any) -> Receipt | Refusal:
        """What a client's request comes to."""
        read = read_submission({"to": to, "text": text, **asked}, Limits())
        if isinstance(read, Refusal):
            return self._refuse(sender, read)
        actor = self.actors[sender]
        if read.idempotency_key and (known := self.keys.get((sender, read.idempotency_key))):
            other = guardrails.repeats(self.entries[known].message, read)
            return self._refuse(sender, other) if other else self.receipt(known)._replace(duplicate=True)
        replied = self.entries[read.reply_to].message if read.reply_to else None
        causes = actor.turn.causes(replied)
        line = lineage(causes, read.max_hops, actor.speaker, self.rules)
        number = len(self.entries) + 1
        thread = read.thread or (replied.thread if replied else mint("t", number.to_bytes(10, "big")))
        message = Message(
            id=mint("m", number.to_bytes(10, "big")),
            workspace="main",
            sender=sender,
            to=read.to or (reply_address(replied) if replied else ()),
            text=read.text,
            at=self.now,
            thread=thread,
            intent=read.intent,
            wake=read.wake,
            reply_to=read.reply_to,
            cause=line.cause,
            hops=line.hops,
            max_hops=line.max_hops,
            expires_at=self.now + read.expires_in if read.expires_in else None,
            idempotency_key=read.idempotency_key,
        )
        return self._send(actor, message, replied or (causes[0] if causes else None))

    def _send(self, actor: Actor, message: Message, replied: Message | None) -> Receipt | Refusal:
        sender = message.sender
        where = route(message, self.directory)
        if isinstance(where, Refusal):
            return self._refuse(sender, where)
        thread = self.threads.get(message.thread) or Thread(
            id=message.thread, workspace="main", opened_by=sender, opened_at=self.now, since=self.now
        )
        attempt = Attempt(
            message=message,
            speaker=actor.speaker,
            wakes=where.wakes,
            thread=thread.state,
            replied=replied,
            answers=self._answered(message) is not None,
        )
        accounts = Accounts(
            self.buckets.get(sender) or Bucket.full(self.rules.sender_burst, self.now),
            self.tallies.get(message.thread, Tally()),
            {to: self.pairs[sender, to] for to in where.wakes if (sender, to) in self.pairs},
        )
        accounts, refusal = admit(attempt, accounts, self.now, self.rules)
        self.buckets[sender] = accounts.sender
        if refusal:
            return self._refuse(sender, refusal)
        self.tallies[message.thread] = accounts.thread
        self.pairs.update({(sender, to): window for to, window in accounts.pairs.items()})
        self.threads[message.thread] = thread
        self.entries[message.id] = Entry(message, Position("e", len(self.entries) + 1))
        self.log.append(("message", sender, message.id))
        if message.idempotency_key:
            self.keys[sender, message.idempotency_key] = message.id
        for hearer in where.hearers:
            self.standing[message.id, hearer.name] = Recipient(name=hearer.name, since=self.now, quiet=not hearer.wakes)
        if asked := self._answered(message):
            self.hear(asked.id, sender, Answer(message.id))
        return self.receipt(message.id)

    def _answered(self, message: Message) -> Message | None:
        """The ask or task that the message answers, where it is still open."""
        entry = self.entries.get(message.reply_to or "")
        if entry is None or not message.answers(entry.message):
            return None
        standing = self.standing.get((entry.message.id, message.sender))
        return entry.message if standing and standing.answer is None else None

    def _refuse(self, sender: str, refusal: Refusal) -> Refusal:
        self.refusals.append((sender, refusal))
        return refusal

    def ask(self, asker: str, asked: str, text: str, timeout: float = 60.0, **more: Any) -> str:
        """Ask; the id of the message. Its outcome is `outcome(id)`."""
        receipt = self.say(asker, asked, text, intent="ask", **more)
        assert isinstance(receipt, Receipt), receipt
        message = self.entries[receipt.id].message
        self.asks[message.id] = Ask(
            message=message.id, thread=message.thread, asker=asker, asked=asked, deadline=self.now + timeout
        )
        return message.id

    def outcome(self, message: str) -> Ask:
        ask = self.asks[message]
        self.asks[message] = ask.seen(self.standing[message, ask.asked], self.now)
        return self.asks[message]

    def decline(self, agent: str, message: str) -> None:
        self.hear(message, agent, Decline())

    def operate(self, verb: Verb, thread: str, actor: str = "boss") -> None:
        self.threads[thread] = self.threads[thread].after(verb, actor, self.now)
        self.log.append((verb.value, actor, thread))

    # -- what is handed over -------------------------------------------------------------------------------------

    def receipt(self, message: str) -> Receipt:
        found = tuple(r for (key, _), r in self.standing.items() if key == message)
        return Receipt(id=message, position=self.entries[message].position, recipients=found)

    def hear(self, message: str, name: str, event: Event) -> None:
        before = self.standing[message, name]
        after = self.standing[message, name] = step(before, event, self.now)
        if after.state is not before.state:
            self.log.append((after.state.value, name, message))

    def mailbox(self, name: str) -> list[Mail]:
        return [
            Mail(
                message=entry.message,
                recipient=self.standing[key, name],
                thread=self.threads[entry.message.thread].state,
            )
            for key, entry in self.entries.items()
            if (key, name) in self.standing
        ]

    def run(self) -> int:
        """Until nothing moves any more. How many hand-overs that took."""
        moved = 0
        while sum(self._serve(name) for name in sorted(self.actors)):
            moved += 1
            assert moved < 10_000, "they talk forever"
        return moved

    def later(self, seconds: float) -> int:
        self.now += seconds
        return self.run()

    def _serve(self, name: str) -> bool:
        actor = self.actors[name]
        found = look(self.mailbox(name), actor.stands(), actor.ways, self.now, delivery.Rules())
        for key, event in found.ends.items():
            self.hear(key, name, event)
        for key, hold in found.holds.items():
            self.hear(key, name, Wait(hold.reason))
        for give in found.gives:
            messages = [self.entries[key].message for key in give.messages]
            for message in messages:
                self.hear(message.id, name, HandOver(give.way))
            self.turns.append((name, give.messages))
            if give.way is Way.TURN:
                self._turn(actor, messages[0])
            else:
                self._take_up(actor, messages)
        return bool(found.gives)

    def _turn(self, actor: Actor, message: Message) -> None:
        """A headless agent's: from its beginning to its end, and what it said there is its reply."""
        name = actor.speaker.name
        try:
            said = actor.script(message)
        except Died:
            self.hear(message.id, name, Undone("turn_died"))
            return
        self.hear(message.id, name, Proven("turn"))
        if said is not None:
            intent = Intent.RESULT if message.intent in (Intent.ASK, Intent.TASK) else Intent.INFORM
            self.say(name, None, said, reply_to=message.id, intent=intent.value)

    def _take_up(self, actor: Actor, messages: list[Message]) -> None:
        """An interactive agent's program has them in its conversation; its turn goes on until `end_turn`."""
        actor.activity = Activity.WORKING
        for message in messages:
            actor.turn = actor.turn.handed(message).arrived(message, self.now)
            self.hear(message.id, actor.speaker.name, Proven("transcript"))
            actor.script(message)

    def end_turn(self, name: str) -> None:
        actor = self.actors[name]
        actor.activity, actor.turn = Activity.READY, actor.turn.ended()

    # -- what a test looks at ------------------------------------------------------------------------------------

    @property
    def messages(self) -> list[Message]:
        return [entry.message for entry in self.entries.values()]

    @property
    def pending(self) -> list[tuple[str, str]]:
        """What waits for a turn."""
        states = ("accepted", "queued", "injecting")
        return [key for key, r in self.standing.items() if r.state in states and not r.quiet]

    def states(self, message: str) -> Mapping[str, tuple[str, str | None]]:
        return {n: (r.state.value, r.reason) for (key, n), r in self.standing.items() if key == message}

    @property
    def refused(self) -> list[Code]:
        return [refusal.code for _, refusal in self.refusals]

    def handed_over(self, message: str, name: str) -> int:
        return sum(message in given for who, given in self.turns if who == name)
