"""What travels through the hub: messages, threads, receipts, and the positions of a reader. Pure.

What becomes of a message at each of its recipients is a table (`TRANSITIONS`): complete, so that every event has an
answer in every state. What holds over every order of events:

- Nothing is delivered, answered or declined without a proof from the recipient's side.
- While a message is being handed over, and once it is there, it is never handed over again; only the knowledge that
  it did *not* arrive (`Undone`) brings it back into the queue.
- What is over stays over.

Ids, times and chance are arguments.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""The name of whoever speaks or is spoken to, and of a workspace."""
CHANNEL = re.compile(r"#[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
ID = re.compile(r"[a-z]-[a-z2-7]{16}")
KEY = re.compile(r"[!-~]{1,200}")
"""A client's idempotency key: visible ASCII."""
SEQ_MAX = 2**63 - 1


class Intent(StrEnum):
    """What the sender wants of its reader."""

    ASK = "ask"
    """An answer."""
    INFORM = "inform"
    """Nothing: it should know."""
    TASK = "task"
    """Work, and a `result` when it is done."""
    RESULT = "result"
    """Nothing: this is what came of a task, or the answer to an ask."""
    ACK = "ack"
    """Nothing: heard. It is stored and never pushed."""


class Nature(StrEnum):
    """Whose word a text is to its reader."""

    MESSAGE = "message"
    """Somebody's words, to be quoted."""
    PROMPT = "prompt"
    """The operator's own, to be typed as the person's."""


class Way(StrEnum):
    """How a text came to an agent."""

    DOORBELL = "doorbell"
    """The program's own way to be woken."""
    BOUNDARY = "boundary"
    """With a hook, at the end of a tool call or a turn."""
    TYPED = "typed"
    ARGUMENT = "argument"
    """As an argument of the program's launch."""
    INBOX = "inbox"
    """The agent read its inbox by itself."""
    TURN = "turn"
    """As the prompt of a headless agent's turn."""
    REPLY = "reply"
    """Nobody saw it arrive; that it was answered proves it."""


class Code(StrEnum):
    """Every reason for which the hub says no."""

    WRONG_TYPE = "wrong_type"
    MISSING = "missing"
    EMPTY = "empty"
    TOO_DEEP = "too_deep"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    INVALID_UNICODE = "invalid_unicode"
    CONTROL_CHARACTERS = "control_characters"
    BIDI_CHARACTERS = "bidi_characters"
    BAD_NAME = "bad_name"
    BAD_VALUE = "bad_value"
    NO_SUCH_FIELD = "no_such_field"
    WRONG_VERSION = "wrong_version"
    UNKNOWN_RECIPIENT = "unknown_recipient"
    UNKNOWN_CHANNEL = "unknown_channel"
    UNKNOWN_MESSAGE = "unknown_message"
    UNKNOWN_THREAD = "unknown_thread"
    UNKNOWN_FILE = "unknown_file"
    UNKNOWN_WORKSPACE = "unknown_workspace"
    UNKNOWN_TOKEN = "unknown_token"
    UNKNOWN_INVITE = "unknown_invite"
    NAME_TAKEN = "name_taken"
    ALREADY_OVER = "already_over"
    NOT_ALLOWED = "not_allowed"
    HOP_LIMIT = "hop_limit"
    RATE_LIMITED = "rate_limited"
    PAIR_LIMITED = "pair_limited"
    CONVERSATION_LIMITED = "conversation_limited"
    CONVERSATION_EXHAUSTED = "conversation_exhausted"
    ONLY_THANKS = "only_thanks"
    WAKE_NOT_ALLOWED = "wake_not_allowed"
    MAILBOX_FULL = "mailbox_full"
    THREAD_TERMINATED = "thread_terminated"
    ID_TAKEN = "id_taken"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A no that reaches its sender: by which rule, in words, and when it may be tried again."""

    code: Code
    reason: str
    retry_after: float | None = None
    """Seconds; `None` where waiting does not help."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The `error` object."""
        later = {} if self.retry_after is None else {"retry_after": self.retry_after}
        return {"code": self.code.value, "message": self.reason, **later, **self.facts}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a message may be, and how many may wait. Settings."""

    text: int = 64 * 1024
    """Bytes of UTF-8."""
    metadata: int = 16 * 1024
    """Bytes of strings and keys in it."""
    depth: int = 8
    """Of metadata."""
    waiting: int = 500
    """Messages that wait for one agent."""
    recipients: int = 100
    """Names in one address."""
    attachments: int = 20
    attachment: int = 20 * 1024 * 1024
    """Bytes."""


# -- positions and ids -----------------------------------------------------------------------------------------


class Position(NamedTuple):
    """A place in the log. Written `EPOCH:SEQ`."""

    epoch: str
    """Which log: it changes if the log is ever lost."""
    seq: int
    """0 is before the first event."""

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Raise `ValueError` for anything but `EPOCH:SEQ`."""
        found = _POSITION.fullmatch(text)
        if not found or int(found[2]) > SEQ_MAX:
            raise ValueError(f"not a position (EPOCH:SEQ): {text[:60]!r}")
        return cls(found[1], int(found[2]))


_POSITION = re.compile(r"([A-Za-z0-9_.-]{1,64}):([0-9]{1,19})")


def mint(kind: str, chance: bytes) -> str:
    """An id: the kind's letter (`m` a message, `t` a thread, `a` an attachment), and at least ten random bytes."""
    if len(chance) < 10:
        raise ValueError("an id needs ten random bytes")
    return f"{kind}-{base64.b32encode(chance[:10]).decode().lower()}"


class Ids:
    """Mints one id after the other, each after all before it in the order of letters, so that an index of them grows
    at its end and not all over. Ten letters are the time, and never the same ones twice; six are chance, drawn for
    many at once."""

    def __init__(self, chance: Callable[[int], bytes]) -> None:
        self._chance = chance
        self._drawn: list[str] = []
        self._last = 0
        self._second = ("", -1)

    def mint(self, kind: str, now: float) -> str:
        """The next: sixteen letters of five bits each, as `mint` makes them."""
        last = int(now * _A_SECOND)
        if last <= self._last:
            last = self._last + 1
        self._last = last
        second = last >> 20
        if self._second[1] != second:
            self._second = ("".join(_RISING[second >> shift & 1023] for shift in (20, 10, 0)), second)
        if not self._drawn:
            letters = self._chance(6 * 512).translate(_LETTERS).decode()
            self._drawn = [letters[start : start + 6] for start in range(0, len(letters) - 5, 6)]
        return f"{kind}-{self._second[0]}{_RISING[last >> 10 & 1023]}{_RISING[last & 1023]}{self._drawn.pop()}"


_A_SECOND = 1 << 20
_IN_ORDER = "234567abcdefghijklmnopqrstuvwxyz"
_RISING = tuple(first + second for first in _IN_ORDER for second in _IN_ORDER)
"""Ten bits as two letters, in the order of letters."""
_LETTERS = bytes(b"abcdefghijklmnopqrstuvwxyz234567"[n % 32] for n in range(256))


def reply_id(message: str, agent: str) -> str:
    """The id of the reply that a headless agent's turn gives: always the same, so a repeat can be told."""
    return mint("m", hashlib.sha256(f"{message} {agent}".encode()).digest())


# -- messages --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that goes with a message; its bytes are kept by their sum."""

    sha256: str
    name: str
    size: int
    type: str = "application/octet-stream"


NO_METADATA: Mapping[str, Any] = {}
"""Nobody writes into it."""


class Message(NamedTuple):
    """What one member says to others, as it stands in the log."""

    id: str
    workspace: str
    sender: str
    to: tuple[str, ...]
    """As it was addressed: names and `#channels`. Who hears it is in its receipt."""
    text: str
    at: float
    """When it was accepted."""
    thread: str
    intent: Intent = Intent.INFORM
    nature: Nature = Nature.MESSAGE
    wake: bool = False
    reply_to: str | None = None
    answer_to: str | None = None
    """Whom a reply goes to that names nobody; `None`: its sender. Only the hub sets it."""
    cause: str | None = None
    """The message in whose handling it was said: what it replies to, or what its sender was at work on."""
    hops: int = 0
    """Messages before it in its lineage."""
    max_hops: int = 8
    """A turn follows only a message with fewer hops than this; the whole lineage has it."""
    expires_at: float | None = None
    mentions: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    metadata: Mapping[str, Any] = NO_METADATA
    idempotency_key: str | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        if len(self.to) == 1:
            return self.to if self.to[0][0] == "#" else ()
        return tuple(name for name in self.to if name.startswith("#"))

    @property
    def broadcast(self) -> bool:
        """Whether it is for whoever listens: it goes to a channel, or to several without asking anything of them."""
        asks = self.intent in (Intent.ASK, Intent.TASK) or self.nature is Nature.PROMPT
        return bool(self.channels) or (len(self.to) > 1 and not asks)

    def answers(self, asked: Message) -> bool:
        """Whether it ends an ask or a task. An ack does not, and neither does a question in return."""
        wanted = asked.intent in (Intent.ASK, Intent.TASK) and self.intent in (Intent.INFORM, Intent.RESULT)
        return wanted and self.reply_to == asked.id

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id, "workspace": self.workspace, "sender": self.sender, "to": list(self.to), "text": self.text,
            "at": self.at, "thread": self.thread, "intent": self.intent, "nature": self.nature, "wake": self.wake,
            "reply_to": self.reply_to, "answer_to": self.answer_to, "cause": self.cause, "hops": self.hops,
            "max_hops": self.max_hops, "expires_at": self.expires_at, "mentions": list(self.mentions),
            "attachments": [asdict(attachment) for attachment in self.attachments], "metadata": self.metadata,
            "idempotency_key": self.idempotency_key,
        }  # fmt: skip

    def beside(self) -> dict[str, Any]:
        """What it says beside what each message says, such as what it replies to. Most say nothing more."""
        said = (*self[7:13], *self[15:])
        if said == _UNLESS_SAID:
            return {}
        told: dict[str, Any] = {
            name: value for name, value, unless in zip(_BESIDE, said, _UNLESS_SAID, strict=True) if value != unless
        }
        if self.mentions:
            told["mentions"] = list(self.mentions)
        if self.attachments:
            told["attachments"] = [asdict(attachment) for attachment in self.attachments]
        return told

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Message:
        """The message that `to_json` gave. A field it lacks has its default; one not known here is left out."""
        known = _known(cls, stored)
        known["intent"] = Intent(known.get("intent", Intent.INFORM))
        known["nature"] = Nature(known.get("nature", Nature.MESSAGE))
        known["to"] = tuple(known["to"])
        known["mentions"] = tuple(known.get("mentions", ()))
        known["attachments"] = tuple(Attachment(**_known(Attachment, a)) for a in known.get("attachments", ()))
        return cls(**known)


_BESIDE = tuple(name for name in Message._field_defaults if name not in ("hops", "max_hops"))
_UNLESS_SAID = tuple(Message._field_defaults[name] for name in _BESIDE)


# -- what becomes of it at a recipient -------------------------------------------------------------------------


class State(StrEnum):
    """Where a message stands at one of its recipients."""

    ACCEPTED = "accepted"
    """It is on the disk."""
    QUEUED = "queued"
    """It waits, for a reason that is told."""
    INJECTING = "injecting"
    """It is being handed over; the proof is awaited."""
    DELIVERED = "delivered"
    """It is in the agent's conversation, and that is proven."""
    ANSWERED = "answered"
    DECLINED = "declined"
    UNCONFIRMED = "unconfirmed"
    """It was handed over and nothing proves that it arrived. It is not handed over again."""
    EXPIRED = "expired"
    FAILED = "failed"
    CANCELLED = "cancelled"


OVER = frozenset({State.ANSWERED, State.DECLINED, State.EXPIRED, State.FAILED, State.CANCELLED})
"""Nothing changes any more."""
WAITING = frozenset({State.ACCEPTED, State.QUEUED})
"""It counts as waiting mail, and may be handed over."""


class Recipient(NamedTuple):
    """A message at one of its recipients."""

    name: str
    since: float
    """When it entered the state."""
    state: State = State.ACCEPTED
    reason: str | None = None
    """Why it waits, or ended so: one word."""
    way: Way | None = None
    evidence: str | None = None
    """What proves that it is there."""
    attempts: int = 0
    """Hand-overs that were begun."""
    answer: str | None = None
    """The id of the message that answers it."""
    quiet: bool = False
    """It may cause no turn: it comes with the next one, or is read in the inbox."""
    pending: State | None = None
    """While handed over or unconfirmed: what it becomes, expired or cancelled, should it prove not to have arrived."""

    def to_json(self) -> dict[str, Any]:
        """Without what there is nothing to say about."""
        told = {name: getattr(self, name) for name in _TOLD}
        return {name: value for name, value in told.items() if value or name == "since"}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Recipient:
        known = _known(cls, stored)
        known["state"] = State(known["state"])
        known["way"] = Way(known["way"]) if known.get("way") else None
        known["pending"] = State(known["pending"]) if known.get("pending") else None
        return cls(**known)


_TOLD = ("name", "state", *(name for name in Recipient._fields if name not in ("name", "state")))


@dataclass(frozen=True, slots=True)
class Wait:
    """It cannot be handed over now."""

    reason: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """It is going to be handed over. Written down before it is done."""

    way: Way


@dataclass(frozen=True, slots=True)
class Proven:
    """The agent's side shows that it is there."""

    evidence: str
    way: Way | None = None
    """Where it came another way than the one it was handed over by: the agent read its inbox."""


@dataclass(frozen=True, slots=True)
class Unproven:
    """The hand-over is done, and its proof has not come in time."""

    reason: str = "no_proof"


@dataclass(frozen=True, slots=True)
class Undone:
    """It is known not to have arrived: its taker died, the program died before it took it up, it was withdrawn."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The recipient has answered it."""

    message: str


@dataclass(frozen=True, slots=True)
class Decline:
    """The recipient will not answer it."""

    reason: str = "declined"


@dataclass(frozen=True, slots=True)
class Expire:
    """Its sender's time for it is over."""


@dataclass(frozen=True, slots=True)
class Fail:
    """It cannot be delivered, or its turn failed for good."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Its sender took it back, or its thread was terminated."""

    reason: str = "cancelled"


Event = Wait | HandOver | Proven | Unproven | Undone | Answer | Decline | Expire | Fail | Cancel
EVENTS: tuple[type[Event], ...] = (
    Wait, HandOver, Proven, Unproven, Undone, Answer, Decline, Expire, Fail, Cancel,
)  # fmt: skip


def step(recipient: Recipient, event: Event, now: float) -> Recipient:
    """What the message becomes at this recipient. The same value where nothing changes."""
    return TRANSITIONS[recipient.state][type(event)](recipient, event, now)


def stay(r: Recipient, event: Event, now: float) -> Recipient:
    """Nothing changes."""
    return r


def wait(r: Recipient, event: Wait, now: float) -> Recipient:
    """It waits, for this reason."""
    if (r.state, r.reason) == (State.QUEUED, event.reason):
        return r
    return _enter(r, State.QUEUED, now, event.reason)


def hand_over(r: Recipient, event: HandOver, now: float) -> Recipient:
    """Its hand-over begins."""
    return _enter(r, State.INJECTING, now, None, way=event.way, attempts=r.attempts + 1)


def deliver(r: Recipient, event: Proven, now: float) -> Recipient:
    """It is there."""
    way = event.way or r.way or Way.INBOX
    return _enter(r, State.DELIVERED, now, None, way=way, evidence=event.evidence)


def doubt(r: Recipient, event: Unproven, now: float) -> Recipient:
    """It may be there or not."""
    return _enter(r, State.UNCONFIRMED, now, event.reason)._replace(pending=r.pending)


def take_back(r: Recipient, event: Undone, now: float) -> Recipient:
    """It is not there: it waits again, unless it has been ended meanwhile."""
    return _enter(r, r.pending or State.QUEUED, now, r.reason if r.pending else event.reason, way=None)


def answer(r: Recipient, event: Answer, now: float) -> Recipient:
    """It is answered. Where nobody saw it arrive, this proves that it has."""
    way, evidence = (r.way, r.evidence) if r.evidence else (r.way or Way.REPLY, f"reply {event.message}")
    return _enter(r, State.ANSWERED, now, None, way=way, evidence=evidence, answer=event.message)


def decline(r: Recipient, event: Decline, now: float) -> Recipient:
    """It will not be answered."""
    r = _enter(r, State.DECLINED, now, event.reason)
    return r if r.evidence else r._replace(way=r.way or Way.REPLY, evidence="declined")


def expire(r: Recipient, event: Expire, now: float) -> Recipient:
    """Its time is over before it was handed over."""
    return _enter(r, State.EXPIRED, now, "expired")


def fail(r: Recipient, event: Fail, now: float) -> Recipient:
    """It is given up."""
    return _enter(r, State.FAILED, now, event.reason)


def cancel(r: Recipient, event: Cancel, now: float) -> Recipient:
    """It goes nowhere."""
    return _enter(r, State.CANCELLED, now, event.reason)


def expire_if_undone(r: Recipient, event: Expire, now: float) -> Recipient:
    """It is in the agent's hands: it expires only if it proves not to have arrived."""
    return r if r.pending else r._replace(pending=State.EXPIRED, reason="expired")


def cancel_if_undone(r: Recipient, event: Cancel, now: float) -> Recipient:
    """It is in the agent's hands: it is cancelled only if it proves not to have arrived."""
    return r if r.pending is State.CANCELLED else r._replace(pending=State.CANCELLED, reason=event.reason)


_SAME: Any = object()


def _enter(
    r: Recipient,
    state: State,
    now: float,
    reason: str | None,
    *,
    way: Way | None = _SAME,
    evidence: str | None = _SAME,
    answer: str | None = _SAME,
    attempts: int = _SAME,
) -> Recipient:
    """It enters the state. (`replace` takes four times as long, and each message passes here several times.)"""
    return Recipient(
        name=r.name,
        state=state,
        since=r.since if r.state is state else now,
        reason=reason,
        way=r.way if way is _SAME else way,
        evidence=r.evidence if evidence is _SAME else evidence,
        attempts=r.attempts if attempts is _SAME else attempts,
        answer=r.answer if answer is _SAME else answer,
        quiet=r.quiet,
    )


Transition = Callable[[Recipient, Any, float], Recipient]
_before: Mapping[type[Event], Transition] = {
    Wait: wait, HandOver: hand_over, Proven: deliver, Unproven: stay, Undone: stay,
    Answer: answer, Decline: decline, Expire: expire, Fail: fail, Cancel: cancel,
}  # fmt: skip
_over: Mapping[type[Event], Transition] = dict.fromkeys(EVENTS, stay)

TRANSITIONS: Mapping[State, Mapping[type[Event], Transition]] = {
    State.ACCEPTED: _before,
    State.QUEUED: _before,
    State.INJECTING: {
        Wait: stay, HandOver: stay, Proven: deliver, Unproven: doubt, Undone: take_back,
        Answer: answer, Decline: decline, Expire: expire_if_undone, Fail: fail, Cancel: cancel_if_undone,
    },
    State.UNCONFIRMED: {
        Wait: stay, HandOver: stay, Proven: deliver, Unproven: stay, Undone: take_back,
        Answer: answer, Decline: decline, Expire: expire_if_undone, Fail: fail, Cancel: cancel_if_undone,
    },
    State.DELIVERED: {
        Wait: stay, HandOver: stay, Proven: stay, Unproven: stay, Undone: stay,
        Answer: answer, Decline: decline, Expire: stay, Fail: stay, Cancel: stay,
    },
    State.ANSWERED: _over,
    State.DECLINED: _over,
    State.EXPIRED: _over,
    State.FAILED: _over,
    State.CANCELLED: _over,
}  # fmt: skip


class Receipt(NamedTuple):
    """What its sender hears of a message: where it stands in the log, and with whom."""

    id: str
    position: Position
    recipients: tuple[Recipient, ...]
    duplicate: bool = False
    """It was sent before, by its key; this is the receipt of then, as it stands now."""
    at: float = 0.0
    listening: tuple[str, ...] = ()
    """Some of those who only listen to its channel."""

    def to_json(self) -> dict[str, Any]:
        listening = [
            Recipient(name=name, state=State.QUEUED, reason="no_wake", since=self.at, quiet=True)
            for name in self.listening
        ]
        told = {
            "id": self.id,
            "seq": self.position.seq,
            "epoch": self.position.epoch,
            "recipients": [r.to_json() for r in sorted((*self.recipients, *listening), key=lambda r: r.name)],
        }
        return {**told, "duplicate": True} if self.duplicate else told

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Receipt:
        return cls(
            id=stored["id"],
            position=Position(stored["epoch"], stored["seq"]),
            recipients=tuple(Recipient.from_json(r) for r in stored["recipients"]),
            duplicate=stored.get("duplicate", False),
        )


# -- asks ------------------------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """How an ask ended."""

    ANSWERED = "answered"
    DECLINED = "declined"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


OUTCOMES: Mapping[State, Outcome | None] = {
    State.ACCEPTED: None,
    State.QUEUED: None,
    State.INJECTING: None,
    State.DELIVERED: None,
    State.UNCONFIRMED: None,
    State.ANSWERED: Outcome.ANSWERED,
    State.DECLINED: Outcome.DECLINED,
    State.EXPIRED: Outcome.EXPIRED,
    State.FAILED: Outcome.FAILED,
    State.CANCELLED: Outcome.CANCELLED,
}
"""What each state of the asked message means for the ask; `None`: it is still open. Only the clock times it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question to one agent. It ends once, in one way."""

    message: str
    thread: str
    asker: str
    asked: str
    deadline: float
    outcome: Outcome | None = None
    answer: str | None = None
    """The id of the answer."""
    reason: str | None = None
    ended_at: float | None = None

    def seen(self, recipient: Recipient, now: float) -> Ask:
        """The ask, once the asked message stands like this at the one who was asked. An answer counts as in time when
        it was there by the deadline, however late it is looked at."""
        if self.outcome is not None:
            return self
        outcome = OUTCOMES[recipient.state]
        at = recipient.since if outcome else now
        if at >= self.deadline:
            return replace(self, outcome=Outcome.TIMED_OUT, reason="deadline", ended_at=self.deadline)
        if outcome is None:
            return self
        return replace(self, outcome=outcome, answer=recipient.answer, reason=recipient.reason, ended_at=at)

    def to_json(self) -> dict[str, Any]:
        return {
            "message": self.message, "thread": self.thread, "asker": self.asker, "asked": self.asked,
            "deadline": self.deadline, "outcome": self.outcome, "answer": self.answer, "reason": self.reason,
            "ended_at": self.ended_at,
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Ask:
        known = _known(cls, stored)
        known["outcome"] = Outcome(known["outcome"]) if known.get("outcome") else None
        return cls(**known)


# -- threads ---------------------------------------------------------------------------------------------------


class ThreadState(StrEnum):
    """Whether a conversation moves."""

    ACTIVE = "active"
    PAUSED = "paused"
    """Its mail is kept, and waits."""
    TERMINATED = "terminated"
    """It is over: what waits in it is cancelled, what is said in it is refused."""
    REVIVED = "revived"
    """Active again after it was terminated. What was cancelled stays so."""


class Verb(StrEnum):
    """What an operator does to a thread."""

    PAUSE = "pause"
    RESUME = "resume"
    TERMINATE = "terminate"
    REVIVE = "revive"


_T = ThreadState
THREAD_TRANSITIONS: Mapping[ThreadState, Mapping[Verb, ThreadState]] = {
    _T.ACTIVE: {
        Verb.PAUSE: _T.PAUSED, Verb.RESUME: _T.ACTIVE, Verb.TERMINATE: _T.TERMINATED, Verb.REVIVE: _T.ACTIVE,
    },
    _T.PAUSED: {
        Verb.PAUSE: _T.PAUSED, Verb.RESUME: _T.ACTIVE, Verb.TERMINATE: _T.TERMINATED, Verb.REVIVE: _T.PAUSED,
    },
    _T.TERMINATED: {
        Verb.PAUSE: _T.TERMINATED, Verb.RESUME: _T.TERMINATED, Verb.TERMINATE: _T.TERMINATED, Verb.REVIVE: _T.REVIVED,
    },
    _T.REVIVED: {
        Verb.PAUSE: _T.PAUSED, Verb.RESUME: _T.REVIVED, Verb.TERMINATE: _T.TERMINATED, Verb.REVIVE: _T.REVIVED,
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """The exchange that a message belongs to."""

    id: str
    workspace: str
    opened_by: str
    opened_at: float
    state: ThreadState = ThreadState.ACTIVE
    since: float
    """When it entered the state."""
    by: str | None = None
    """The operator who last changed it."""

    @property
    def moves(self) -> bool:
        """Whether its mail is handed over."""
        return self.state in (ThreadState.ACTIVE, ThreadState.REVIVED)

    def after(self, verb: Verb, actor: str, now: float) -> Thread:
        """What an operator's act makes of it. The same value where it changes nothing; that is written down too."""
        state = THREAD_TRANSITIONS[self.state][verb]
        return self if state is self.state else replace(self, state=state, since=now, by=actor)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Thread:
        known = _known(cls, stored)
        return cls(**{**known, "state": ThreadState(known.get("state", ThreadState.ACTIVE))})


def _known(cls: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    names = _names(cls)
    return {name: value for name, value in stored.items() if name in names}


@functools.cache
def _names(cls: Any) -> frozenset[str]:
    return frozenset(cls._fields if hasattr(cls, "_fields") else (f.name for f in fields(cls)))
