"""Saying something, asking, changing what was said: the exchange's verbs that put something into the log.

A message passes every rule in one go: nothing else happens between the look at what was counted and the counting.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fleet.errors import StorageError
from fleet.hub import guardrails, registry, threads
from fleet.hub.auth import Caller, Refused, no
from fleet.hub.base import KNOWN, Base, Known, as_object, known_of, seconds, unknown_message
from fleet.hub.base import told as told_to
from fleet.hub.blobs import not_uploaded
from fleet.hub.guardrails import Attempt, Tally, Window, lineage
from fleet.hub.log import Event, New, Stored, answer_of
from fleet.hub.mailbox import (
    Change,
    box,
    receipts,
)
from fleet.hub.message import (
    OVER,
    Answer,
    Ask,
    Attachment,
    Cancel,
    Code,
    Decline,
    Intent,
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
)
from fleet.hub.projection import DELETION, EDIT, REACTION
from fleet.hub.routing import mentioned, reply_address, route
from fleet.hub.submission import Submission, check_line, check_text, read_submission

PROMPTED = "prompted"
"""`{message, to}`: an operator's own word was put to an agent."""
KEYS = 4096
"""Keys that were used lately and are at hand."""
LISTED = 50
"""Of those who only listen to a channel, how many are listed in the answer to a send; `receipt` lists all."""
REACTION_MOST = 64
"""Bytes."""


Told = Callable[[Receipt | Exception], None]
"""Hears what became of a message: its receipt, once it is durable, or why it was not accepted."""


class _Saying(NamedTuple):
    """What somebody is about to say."""

    caller: Caller
    read: Submission
    nature: Nature = Nature.MESSAGE
    turn: str | None = None
    """The message whose headless turn says it."""
    timeout: float | None = None
    quiet: bool = False
    """It may cause no turn whatever it says."""
    opened: Thread | None = None
    """A conversation that the hub opens with it."""
    answer_to: str | None = None


class _Context(NamedTuple):
    """What it refers to."""

    replied: Known | None = None
    thread: str | None = None
    """The conversation that it belongs to; `None`: one of its own."""
    asked: Known | None = None
    """The question or task that it answers, where that is still open."""


NOTHING = _Context()


class Composed(NamedTuple):
    """A message that may leave."""

    message: Message
    recipients: list[Recipient]
    listening: tuple[str, ...]
    """Those who only listen to its channel."""
    counted: bool
    """It causes turns, and counts."""


class Talk(Base):
    """Messages, questions, edits and signs, discussions, an operator's acts on conversations, files."""

    async def send(
        self, caller: Caller, body: object, *, nature: Nature = Nature.MESSAGE, turn: str | None = None
    ) -> Receipt:
        """Accept a message, as the body of `POST /messages` asks; durable on return. Raise `Refused`, `NotStored`.

        `turn`: the message whose headless turn has said this: its reply, once, whatever else its agent is at work on.
        """
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.begin_send(caller, body, answer_of(future), nature=nature, turn=turn)
        return await future

    def begin_send(
        self,
        caller: Caller,
        body: object,
        told: Told,
        *,
        nature: Nature = Nature.MESSAGE,
        turn: str | None = None,
    ) -> None:
        """The same without waiting, and without a task where all that it refers to is at hand. `told` hears once, on
        the loop, what became of it: a refusal maybe before this returns, a receipt after the commit, with all others of
        that commit. It does not wait and does not raise."""
        try:
            self._check(caller, speaks=True)
            if turn is not None and isinstance(body, Mapping):
                key = body.get("idempotency_key")
                body = {**body, "reply_to": turn, "idempotency_key": f"turn:{turn}" if key is None else key}
            read = read_submission(body, self.limits)
            if isinstance(read, Refusal):
                raise self._refuse(caller, read)
            timeout = None
            if read.intent is Intent.ASK and isinstance(body, Mapping) and "timeout" in body:
                timeout = seconds(body, "timeout", None)
            self._set_out(_Saying(caller, read, nature, turn, timeout), told)
        except Exception as error:  # noqa: BLE001  it goes to whoever asked
            told(error)

    async def _say(self, saying: _Saying) -> Receipt:
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._set_out(saying, answer_of(future))
        return await future

    def _set_out(self, saying: _Saying, told: Told) -> None:
        """Say it, unless the same, by its key, was said or is on its way."""
        caller, key = saying.caller, saying.read.idempotency_key
        if key is not None:
            which = (caller.workspace, caller.name, key)
            if which in self._coming:
                self._coming[which].append(lambda: self._set_out(saying, told))
                return
            if which in self._keys:
                self._later(self._repeated(caller, saying.read), told)
                return
            self._coming[which] = []
            told = functools.partial(self._came, which, told)
        try:
            context = self._at_hand(saying)
            if context is None:
                self._later_say(saying, told)
            else:
                self._say_now(saying, context, told)
        except Exception as error:  # noqa: BLE001  it goes to whoever asked
            told(error)

    def _came(self, which: tuple[str, str, str], told: Told, went: Receipt | Exception) -> None:
        """It is there, or is not: whoever came with the same key meanwhile may go on."""
        waiting = self._coming.pop(which)
        told(went)
        for go_on in waiting:
            go_on()

    def _later(self, doing: Coroutine[Any, Any, Receipt], told: Told) -> None:
        """What has to wait for the log's file gets a task."""

        async def do() -> None:
            try:
                went: Receipt | Exception = await doing
            except Exception as error:  # noqa: BLE001  it goes to whoever asked
                went = error
            told(went)

        self._soon(do())

    def _later_say(self, saying: _Saying, told: Told) -> None:
        async def do() -> None:
            try:
                await self._present(saying.caller)
                context = await self._looked_up(saying)
                self._say_now(saying, context, told)
            except Exception as error:  # noqa: BLE001  it goes to whoever asked
                told(error)

        self._soon(do())

    def _at_hand(self, saying: _Saying) -> _Context | None:
        """What it refers to, where nothing has to be looked up in the log's file for it."""
        caller, read = saying.caller, saying.read
        if read.attachments or self.registry.present(caller.workspace, caller.name) is None:
            return None
        if read.reply_to is None:
            if read.thread is None:
                return NOTHING if saying.opened is None else _Context(thread=saying.opened.id)
            return None
        known = self._known.get(read.reply_to)
        if known is None:
            return None
        replied = self._replied(caller, read, known)
        thread = replied.message.thread
        if (read.thread or thread) != thread or not self._accounting.knows(thread):
            return None
        if not _may_answer(caller, read, replied):
            return _Context(replied, thread)
        standing = self.boxes.at_hand(replied.message.id, box(caller.workspace, caller.name))
        if standing is None:
            return None
        return _Context(replied, thread, replied if standing.state not in OVER else None)

    async def _looked_up(self, saying: _Saying) -> _Context:
        """The same, wherever it is."""
        caller, read = saying.caller, saying.read
        replied = None
        if read.reply_to is not None:
            replied = self._replied(caller, read, await self._find(read.reply_to))
        if read.attachments and (missing := await asyncio.to_thread(self.blobs.missing, read.attachments)):
            raise self._refuse(caller, missing, read)
        for attachment in read.attachments:
            if not await self._may_attach(caller, attachment.sha256):
                raise self._refuse(caller, not_uploaded(attachment), read)
        if saying.opened is not None:
            thread: str | None = saying.opened.id
        else:
            thread = await self._thread_of(caller, read, replied)
        asked = None
        if replied is not None and _may_answer(caller, read, replied):
            standing = await self.boxes.standing(replied.message.id, box(caller.workspace, caller.name))
            asked = replied if standing is not None and standing.state not in OVER else None
        return _Context(replied, thread, asked)

    def _say_now(self, saying: _Saying, context: _Context, told: Told) -> None:
        """Let it pass the rules, and store it. Nothing else happens between the look at the rules and what they
        count."""
        composed = self._composed(saying, context)
        if not isinstance(composed, Refusal):
            self._store(composed, saying, context, told)
        elif saying.read.idempotency_key is not None:
            self._later(self._refused_or_repeated(saying, composed), told)
        else:
            told(self._refuse(saying.caller, composed, saying.read))

    async def _refused_or_repeated(self, saying: _Saying, refusal: Refusal) -> Receipt:
        """What was accepted once is not refused when it is sent again."""
        caller, read = saying.caller, saying.read
        if await self.history.by_key(self._sender(caller), read.idempotency_key or ""):
            return await self._repeated(caller, read)
        raise self._refuse(caller, refusal, read)

    def _composed(self, saying: _Saying, context: _Context) -> Composed | Refusal:
        """The message with whom it goes to, or why it may not leave."""
        caller, read, quiet = saying.caller, saying.read, saying.quiet
        replied, thread, asked = context
        workspace, name = who = (caller.workspace, caller.name)
        now = self.clock.now()
        space = self.registry.spaces[workspace]
        directory = space.directory
        speaker = self.registry.speaker(caller)
        to = read.to or (reply_address(replied.message) if replied is not None else ())
        said = replied.message if replied is not None else None
        if saying.turn is not None or caller.operator:  # what a person says begins anew, unless it replies
            causes: tuple[Message, ...] = (said,) if said is not None else ()
        else:
            present = space.members.get(name)
            seen = present is not None and present.card.turns
            spoken_to = to if seen or "@" not in read.text else (*to, *mentioned(read.text, directory))
            causes = self._turns.causes(who, said, spoken_to, seen, now)
        hops, max_hops, cause = lineage(causes, read.max_hops, speaker, self.rules)
        id = reply_id(said.id, name) if saying.turn is not None and said is not None else self._ids.mint("m", now)
        if thread is None:  # named after what opens it
            thread = f"t{id[1:]}"
            self._accounting.opened(thread)
        message = Message(
            id, workspace, name, to, read.text, now, thread, read.intent, saying.nature, read.wake, read.reply_to,
            saying.answer_to, cause, hops, max_hops, now + read.expires_in if read.expires_in is not None else None, (),
            read.attachments, read.metadata, read.idempotency_key,
        )  # fmt: skip
        where = route(message, directory, apart=True)
        if isinstance(where, Refusal):
            return where
        hearers = where.hearers
        if not hearers and not message.channels:
            reason = "A message to oneself goes nowhere; name somebody else, or a channel."
            return Refusal(Code.BAD_VALUE, reason, facts={"field": "to"})
        if where.mentions:
            message = message._replace(mentions=where.mentions)
        # A person has no turns: what is said to one counts for nobody.
        wakes = () if quiet or not hearers else tuple([h.name for h in hearers if h.wakes and not space.person(h.name)])
        held = self._held.get(thread)
        state = held.state if held is not None else ThreadState.ACTIVE
        attempt = Attempt(message, speaker, wakes, state, said or (causes[0] if causes else None), asked is not None)
        if (refusal := self._accounting.admit(who, attempt, now)) is not None:
            return refusal
        if not hearers:
            return Composed(message, [], where.listening, False)
        most = self.limits.waiting
        full = [h.name for h in hearers if self.boxes.waiting(f"{workspace}/@{h.name}") >= most]
        refusing = [name for name in full if not space.person(name)]
        if refusing and (refusal := guardrails.room(message, refusing, most)) is not None:
            return refusal
        waits = asked is not None and self._asks.waited_for(asked.message.id)
        recipients = [
            _recipient(space, h.name, message, not h.wakes or quiet or h.name == waits, now, h.name in full)
            for h in hearers
        ]
        return Composed(message, recipients, where.listening, bool(wakes) and not speaker.operator)

    def _store(self, composed: Composed, saying: _Saying, context: _Context, told: Told) -> None:
        message, recipients, listening, counted = composed
        workspace = message.workspace
        channels = message.channels
        if not channels:
            streams = [f"{workspace}/@{recipient.name}" for recipient in recipients]
        elif not recipients and len(channels) == 1:
            streams = [f"{workspace}/{channels[0]}"]
        else:
            streams = [f"{workspace}/{channel}" for channel in channels]
            if recipients:
                listeners = self.registry.directory(workspace).listeners
                hears = frozenset(name for channel in channels for name in listeners.get(channel, ()))
                streams += [f"{workspace}/@{r.name}" for r in recipients if r.name not in hears]
        told_of = self.registry.spaces[workspace].channels
        plain = message.intent is not Intent.ASK and message.nature is Nature.MESSAGE and told_of.issuperset(channels)
        facts = () if plain else self._facts(message, recipients, saying.timeout)
        asked = context.asked
        also = () if asked is None else (Change(asked.message.id, box(workspace, message.sender), Answer(message.id)),)
        self.boxes.begin_accept(
            message,
            recipients,
            streams,
            functools.partial(self._accepted, composed, told),
            counted=counted,
            heard=bool(listening),
            also=also,
            told=facts,
        )

    def _facts(self, message: Message, recipients: Sequence[Recipient], timeout: float | None) -> list[New]:
        """What else is to be written down with it."""
        facts: list[New] = []
        workspace, channels = message.workspace, message.channels
        sender = f"{workspace}/{message.sender}"
        if message.intent is Intent.ASK and len(recipients) == 1 and not channels:
            deadline = message.at + (self.settings.hub_ask_timeout if timeout is None else timeout)
            body = {
                "message": message.id, "thread": message.thread, "asker": message.sender,
                "asked": recipients[0].name, "deadline": deadline,
            }  # fmt: skip
            facts.append(New.of(receipts(workspace, message.sender), threads.ASK, sender, body))
        if message.nature is Nature.PROMPT:
            body = {"message": message.id, "to": list(message.to), "thread": message.thread}
            facts.append(New.of(registry.audit(workspace), PROMPTED, sender, body))
        for channel in channels:
            if channel not in self.registry.spaces[workspace].channels:
                facts.append(New.of(registry.stream(workspace), registry.CHANNEL, sender, {"name": channel}))
        return facts

    def _accepted(self, composed: Composed, told: Told, accepted: Stored | Exception) -> None:
        """It is in the log, or why not."""
        if isinstance(accepted, Exception):
            told(accepted)
            return
        message, recipients, listening, _ = composed
        if accepted.duplicate:
            self._later(self._first(message, accepted.seq), told)
            return
        known = self._remember(message, accepted.seq, [r.name for r in recipients] if recipients else ())
        space = self.registry.spaces.get(message.workspace) if recipients else None
        for recipient in recipients:
            present = space.members.get(recipient.name) if space is not None else None
            if present is not None and not present.card.supervised:
                self._turns.heard((message.workspace, recipient.name), known.message, message.at)
        if message.idempotency_key is not None:
            self._keys[message.workspace, message.sender, message.idempotency_key] = message.id
            if len(self._keys) > KEYS:
                self._keys.popitem(last=False)
        if message.channels:
            self._turns.spoken(known.message, message.at)
        others = also_listed(message, recipients, listening) if listening else ()
        told(Receipt(message.id, Position(self.log.epoch, accepted.seq), tuple(recipients), False, message.at, others))

    def _replied(self, caller: Caller, read: Submission, known: Known | None) -> Known:
        """What it replies to, as far as its sender may know of it."""
        if known is None or not self._may_read(caller, known):
            raise self._refuse(caller, unknown_message(read.reply_to), read)
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

    async def _repeated(self, caller: Caller, read: Submission) -> Receipt:
        """The key was used before: for the same message, that is the answer."""
        assert read.idempotency_key is not None
        seq = await self.history.by_key(self._sender(caller), read.idempotency_key)
        event = await self.history.at(seq) if seq is not None else None
        if seq is None or event is None:
            raise no(Code.ID_TAKEN, "This key stands for a message that is no longer kept.")
        first = Message.from_json(event.data)
        # A reply that named nobody was addressed by the hub.
        again = read._replace(to=read.to or first.to)
        if refusal := guardrails.repeats(first, again):
            raise self._refuse(caller, refusal, read)
        return await self._receipt_again(event)

    async def _first(self, again: Message, seq: int) -> Receipt:
        """The log had the key already."""
        event = await self.history.at(seq)
        if event is None:
            raise no(Code.ID_TAKEN, "This key stands for a message that is no longer kept.")
        first = Message.from_json(event.data)
        if (first.to, first.text, first.intent, first.reply_to) != (again.to, again.text, again.intent, again.reply_to):
            raise no(Code.ID_TAKEN, f"This key stands for another message, {first.id}.")
        return await self._receipt_again(event)

    async def _receipt_again(self, event: Event) -> Receipt:
        """The receipt that the message had when it was new, as it stands now."""
        named = {recipient["name"] for recipient in event.data.get("recipients", ())}
        standing = await self.boxes.receipt(event.data["id"]) or []
        listening = [recipient for recipient in standing if recipient.name not in named]
        listed = [recipient for recipient in standing if recipient.name in named] + listening[:LISTED]
        return Receipt(event.data["id"], Position(self.log.epoch, event.seq), tuple(listed), duplicate=True)

    # -- asking ----------------------------------------------------------------------------------------------------

    async def ask(self, caller: Caller, body: object, timeout: float | None = None) -> Ask:
        """Ask one agent, and wait for the one outcome."""
        return await self.ask_end(caller, (await self.ask_begin(caller, body, timeout)).id)

    async def ask_begin(self, caller: Caller, body: object, timeout: float | None = None) -> Receipt:
        """The same without waiting. Without `timeout`: the body's `timeout`, else the settings'."""
        self._check(caller, speaks=True)
        asked = as_object(body)
        await self._present(caller)
        read = read_submission({**asked, "intent": Intent.ASK.value}, self.limits)
        if isinstance(read, Refusal):
            raise self._refuse(caller, read)
        if len(read.to) > 1 or any(name.startswith("#") for name in read.to):
            raise no(Code.BAD_VALUE, "A question that has one end goes to one name.", field="to")
        timeout = seconds(asked, "timeout", None) if timeout is None else timeout
        return await self._say(_Saying(caller, read, timeout=timeout))

    async def ask_end(self, caller: Caller, id: str) -> Ask:
        """How it ended, as soon as it has. It may be awaited by many, and again after a restart."""
        ended = await self._asks.wait(await self._asked(caller, id))
        if ended.answer is not None and caller.speaks and caller.name == ended.asker:
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
            raise Refused(unknown_message(id))
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

    async def decline(self, caller: Caller, id: str, reason: str = "declined") -> None:
        """The caller will not answer a message that is in its box."""
        self._check(caller, speaks=True)
        line = check_line(reason or "declined", "reason", 1000)
        if isinstance(line, Refusal):
            raise Refused(line)
        of = box(caller.workspace, caller.name)
        [after] = await self.change([Change(str(id), of, Decline(line))])
        if after is None:
            raise Refused(unknown_message(id))
        if after.state is not State.DECLINED:
            raise no(Code.ALREADY_OVER, f"{id} is {after.state.value} already.", state=after.state.value)

    async def cancel(self, caller: Caller, id: str) -> None:
        """Its sender takes a message back from whoever has not got it; a question ends with it."""
        self._check(caller, speaks=True)
        known = await self._find(str(id))
        if known is None or not self._may_read(caller, known):
            raise Refused(unknown_message(id))
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
        if await self._is_deleted(event):
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
        if await self._is_deleted(event):
            return
        known = known_of(event)
        boxes = [box(caller.workspace, name) for name in sorted(known.hearers)]
        # In one append: a hub that is killed leaves nobody a message with nothing in it.
        await self.change(
            [Change(known.message.id, of, Cancel("deleted")) for of in boxes],
            self._facts_of(caller, event, DELETION, {"message": id}),
        )
        if not own:
            await self._acted(caller, "delete", message=id)

    async def _is_deleted(self, event: Event) -> bool:
        return (await self.history.shown([event]))[0].deleted_at is not None

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
        await self.log.append(self._facts_of(caller, event, kind, body))

    def _facts_of(self, caller: Caller, event: Event, kind: str, body: Mapping[str, Any]) -> list[New]:
        """A change to a message, for everybody who has the message."""
        data = event.data
        workspace = data["workspace"]
        channels = [name for name in data["to"] if name.startswith("#")]
        listeners = self.registry.directory(workspace).listeners
        hear = {name for channel in channels for name in listeners.get(channel, ())}
        streams = [f"{workspace}/{channel}" for channel in channels]
        streams += [box(workspace, r["name"]) for r in data.get("recipients", ()) if r["name"] not in hear]
        if data["sender"] not in hear:
            streams.append(receipts(workspace, data["sender"]))
        sender = self._sender(caller)
        return [New.of(stream, kind, sender, body) for stream in dict.fromkeys(streams)]

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
            id=self._ids.mint("t", now), workspace=caller.workspace, opened_by=caller.name, opened_at=now, since=now
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
            said.append(await self._say(_Saying(caller, read, quiet=quiet, opened=thread, answer_to=other)))
        return {"thread": thread.id, "messages": [receipt.to_json() for receipt in said]}

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
                told_to(on_mail, caller.workspace, one.recipient.name)
        return after

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
        self._uploads[kept.sha256, caller.workspace, caller.name] = kept
        if len(self._uploads) > KNOWN:
            self._uploads.popitem(last=False)
        return kept

    async def attachment(self, caller: Caller, sha256: str) -> Attachment:
        """A file that the caller may have: it has put it, or may read a message that has it. Raise `Refused`."""
        self._check(caller)
        put = self._uploads.get((sha256, caller.workspace, caller.name))
        if put is not None:
            return put
        attached = await self._attached(caller, await self._speaking_of(sha256), sha256)
        if attached is None:
            raise no(Code.UNKNOWN_FILE, "There is no file with that sum that you may have.")
        return attached

    async def _may_attach(self, caller: Caller, sha256: str) -> bool:
        """Whether a file may go with a message: to know its sum is not to have it. What no message speaks of yet has
        just been put, maybe before the hub was started anew."""
        if (sha256, caller.workspace, caller.name) in self._uploads:
            return True
        spoken_of = await self._speaking_of(sha256)
        return not spoken_of or await self._attached(caller, spoken_of, sha256) is not None

    async def _speaking_of(self, sha256: str) -> list[int]:
        return await self.log.database.read(lambda c: threads.speaking_of(c, str(sha256)))

    async def _attached(self, caller: Caller, seqs: Iterable[int], sha256: str) -> Attachment | None:
        """The file as it went with one of these messages that the caller may read."""
        for seq in seqs:
            event = await self.history.at(seq)
            if event is not None and self._may_read(caller, known_of(event)) and not await self._is_deleted(event):
                for attachment in Message.from_json(event.data).attachments:
                    if attachment.sha256 == sha256:
                        return attachment
        return None


def _may_answer(caller: Caller, read: Submission, replied: Known) -> bool:
    """Whether this would end a question or a task, where that is still open."""
    if replied.message.intent not in (Intent.ASK, Intent.TASK):
        return False
    return read.intent in (Intent.INFORM, Intent.RESULT) and caller.name in replied.hearers


def _recipient(space: registry.Space, name: str, message: Message, quiet: bool, now: float, full: bool) -> Recipient:
    if full:  # the others get it all the same; it reads it where it was said
        return Recipient(name=name, state=State.FAILED, reason=Code.MAILBOX_FULL.value, since=now, quiet=quiet)
    if message.intent is Intent.ACK:
        return Recipient(name=name, state=State.QUEUED, reason="not_pushed", since=now, quiet=quiet)
    present = space.members.get(name)
    if present is not None and present.card.supervised:
        return Recipient(name=name, since=now, quiet=quiet)
    return Recipient(name=name, state=State.QUEUED, reason="inbox", since=now, quiet=quiet)


def also_listed(message: Message, recipients: Sequence[Recipient], listening: Sequence[str]) -> tuple[str, ...]:
    """The first of them by name. A repeat of the message lists the same."""
    if not recipients and message.sender not in listening[:LISTED]:
        return tuple(listening[:LISTED])
    named = {message.sender, *(recipient.name for recipient in recipients)}
    return tuple([name for name in listening[: LISTED + len(named)] if name not in named][:LISTED])


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
