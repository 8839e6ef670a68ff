"""What every verb of the exchange stands on: who calls and what it may, what is at hand, what becomes of mail, and how
the hub says no."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from fleet.brake import Bucket
from fleet.clock import Clock
from fleet.hub import delivery, guardrails, registry, threads
from fleet.hub.asks import Asks
from fleet.hub.auth import Caller, Invites, Refused, Role, Tokens, no
from fleet.hub.blobs import Blobs
from fleet.hub.books import Accounting, Turns
from fleet.hub.guardrails import Speaker
from fleet.hub.log import Event, New, SqliteLog
from fleet.hub.mailbox import (
    HUB,
    Change,
    Mail,
    Mailboxes,
    receipts,
)
from fleet.hub.message import (
    CHANNEL,
    NO_METADATA,
    Ask,
    Attachment,
    Code,
    HandOver,
    Ids,
    Limits,
    Message,
    Proven,
    Recipient,
    Refusal,
    State,
    Thread,
    Way,
)
from fleet.hub.projection import History
from fleet.hub.registry import Card, Registry
from fleet.hub.routing import nearest
from fleet.hub.shown import deleted_json, message_json, shown_json
from fleet.hub.submission import Submission
from fleet.settings import Settings

_log = logging.getLogger(__name__)

REFUSED = "refused"
"""`{code, message, …, to, more}`: the hub said no. `more`: so many before it were not written down."""
ACT = "act"
"""`{verb, …}`: something else that an operator did."""
KNOWN = 4096
"""Messages of which the most needful is at hand."""
REFUSALS = 50
"""Refusals of one sender that are written down at once …"""
REFUSAL_EVERY = 1.0
"""… and then one in so many seconds; the others are counted."""
AT_WORK = frozenset({State.INJECTING, State.UNCONFIRMED, State.DELIVERED, State.ANSWERED})
"""Where a message stands that its reader may have: what the reader says may be said of it."""


class Known(NamedTuple):
    """What is kept at hand of a message."""

    message: Message
    """Without what the rules do not look at."""
    seq: int
    hearers: frozenset[str]


class Base:
    """The exchange's state."""

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
        self._ends: list[New] = []
        """Ends of questions that are to be noted."""
        self._accounting = Accounting(self.rules)
        self._turns = Turns(self.rules)
        self._held: dict[str, Thread] = {}
        """Conversations that are not simply active."""
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._keys: OrderedDict[tuple[str, str, str], str] = OrderedDict()
        """By workspace, sender and key: the message."""
        self._coming: dict[tuple[str, str, str], list[Callable[[], None]]] = {}
        """Keys whose message is on its way into the log, and who waits to see it there."""
        self._enrolling = asyncio.Lock()
        """Who is a member is looked at and written down by one at a time, so that nobody is enrolled twice."""
        self._taking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Boxes that somebody takes mail from right now."""
        self._refusals: dict[tuple[str, str], tuple[Bucket, int]] = {}
        self._announced: dict[tuple[str, str], str] = {}
        self._uploads: OrderedDict[tuple[str, str, str], Attachment] = OrderedDict()
        """By sum, workspace and name of who has put it."""
        self._on_events: list[Callable[[Sequence[Event]], None]] = []
        self._on_mail: list[Callable[[str, str], None]] = []
        self._on_thread: list[Callable[[str, Thread], None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lasting: list[asyncio.Task[Any]] = []

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
        async with self._enrolling:
            if self.registry.present(caller.workspace, caller.name) is None:
                await self.log.append(
                    self.registry.enrolling(caller.workspace, card, Speaker(name=caller.name), channels)
                )

    def _sender(self, caller: Caller) -> str:
        return f"{caller.workspace}/{caller.name}"

    def _nobody(self, workspace: str, name: str) -> Refused:
        near = nearest(name, self.registry.directory(workspace).names)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        return no(Code.UNKNOWN_RECIPIENT, f"Nobody here is called {name[:60]!a}.{hint}", nearest=list(near))

    # -- what becomes of mail --------------------------------------------------------------------------------------

    async def change(self, changes: Sequence[Change], facts: Sequence[New] = ()) -> list[Recipient | None]:
        """Write down what became of mail (`Mailboxes.change`), and do what follows from it."""
        if not changes and not facts:
            return []
        at_work = {}
        for change in changes:
            if isinstance(change.event, HandOver | Proven) and change.message not in at_work:
                at_work[change.message] = await self._find(change.message)
        for change in changes:  # before it is written down: the agent cannot have it sooner
            if isinstance(change.event, HandOver) and (known := at_work[change.message]) is not None:
                self._turns.handed(who_of(change.box), known.message)
        after = await self.boxes.change(changes, facts)
        now = self.clock.now()
        for change, stands in zip(changes, after, strict=True):
            self._follow(change, stands, at_work.get(change.message), now)
        return after

    def _follow(self, change: Change, stands: Recipient | None, known: Known | None, now: float) -> None:
        """What an agent is at work on, after a change to its mail."""
        who, event = who_of(change.box), change.event
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

    def thread_state(self, workspace: str, id: str) -> Thread | None:
        """A conversation that is not simply active; `None`: it is, or there is none."""
        held = self._held.get(id)
        return held if held is not None and held.workspace == workspace else None

    def _moves(self, thread: str) -> bool:
        held = self._held.get(thread)
        return held is None or held.moves

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
        found = known_of(event)
        return self._remember(found.message, found.seq, found.hearers)

    def _remember(self, message: Message, seq: int, hearers: Iterable[str]) -> Known:
        known = Known(light(message), seq, frozenset(hearers))
        self._keep_known(known)
        return known

    def _keep_known(self, known: Known) -> None:
        self._known[known.message.id] = known
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def _may_read(self, caller: Caller, known: Known) -> bool:
        """Whether somebody may read a message: it is theirs, or for them, or was said in a channel of the workspace."""
        message = known.message
        if message.workspace != caller.workspace:
            return False
        return (
            caller.observes or caller.name == message.sender or caller.name in known.hearers or bool(message.channels)
        )

    async def _visible(self, caller: Caller, id: str) -> Event:
        """The event of a message that the caller may read."""
        event = await self.history.message(str(id))
        if event is None or not self._may_read(caller, known_of(event)):
            raise Refused(unknown_message(id))
        return event

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
            **deleted_json(mail.deleted_at),
            "recipient": mail.recipient.to_json(),
        }

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

    def _ask_ended(self, workspace: str, ask: Ask) -> None:
        """Note it, together with all that end by the same commit."""
        self._ends.append(
            New.of(receipts(workspace, ask.asker), threads.ASK_ENDED, f"{workspace}/{HUB}", ask.to_json())
        )
        if len(self._ends) == 1:
            self._soon(self._note_ends())

    async def _note_ends(self) -> None:
        ends, self._ends = self._ends, []
        await self.log.append(ends)

    def _soon(self, doing: Coroutine[Any, Any, Any]) -> None:
        """Do it without waiting for it; `close` waits."""
        task = asyncio.ensure_future(doing)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the hub could not note something: %s", error)


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


# -- what is asked, read -------------------------------------------------------------------------------------------


def light(message: Message) -> Message:
    """The message with as much of it as the rules look at: what is kept in memory of many."""
    if len(message.text) <= 2048 and not message.metadata and not message.attachments:
        return message
    text = message.text if len(message.text) <= 2048 else "?" if "?" in message.text else ""
    return message._replace(text=text, metadata=NO_METADATA, attachments=())


def known_of(event: Event) -> Known:
    data = event.data
    return Known(light(Message.from_json(data)), event.seq, frozenset(r["name"] for r in data.get("recipients", ())))


def who_of(of: str) -> tuple[str, str]:
    workspace, _, name = of.partition("/@")
    return workspace, name


def channel_of(name: object) -> str:
    """A channel's name, with or without its #."""
    if isinstance(name, str):
        channel = name.lower() if name.startswith("#") else f"#{name.lower()}"
        if CHANNEL.fullmatch(channel):
            return channel
    raise no(Code.BAD_NAME, f"{str(name)[:60]!a} is not the name of a channel.", field="channel")


def unknown_message(id: object) -> Refusal:
    return Refusal(Code.UNKNOWN_MESSAGE, f"There is no message {str(id)[:60]!a} that you may read.")


def as_object(body: object) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise no(Code.WRONG_TYPE, "The body is a JSON object.")
    return body


def seconds(body: Mapping[str, Any], name: str, default: float | None) -> float | None:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise no(Code.WRONG_TYPE, f"`{name}` is a number.", field=name)
    if not 0 < value <= 10**9:
        raise no(Code.BAD_VALUE, f"`{name}` is more than 0 and at most {10**9}.", field=name)
    return float(value)


# -- who listens ---------------------------------------------------------------------------------------------------


def listening(listeners: list[Any], callback: Any) -> Callable[[], None]:
    listeners.append(callback)

    def stop() -> None:
        with contextlib.suppress(ValueError):
            listeners.remove(callback)

    return stop


def told(listener: Callable[..., None], *what: Any) -> None:
    try:
        listener(*what)
    except Exception:  # noqa: BLE001  one listener's fault is not another's
        _log.exception("a listener of the hub failed")
