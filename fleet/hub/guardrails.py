"""Why two agents cannot talk forever. Pure values: each answers, and returns what it has become.

A sender cannot choose any of this. What a message was caused by says how many hops it has, and the whole lineage has
the lowest ceiling that anybody in it had (`lineage`). How often somebody speaks, to whom, and how much is said in one
conversation is counted (`Accounts`); `admit` asks every rule and names the first that says no. Each no is a `Refusal`
for the sender to read. A person has no turns: what is said to one has its hops and its sender's rate, and counts for
nothing else.

What holds: no message has more hops than its ceiling allows, whatever ids, threads and ceilings its sender names; and
within a window no pair and no conversation causes more turns than the rules say, beside the answers that were asked
for: of those there are no more than questions, which are counted themselves.
"""

from __future__ import annotations

import bisect
import functools
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from fleet.brake import Bucket
from fleet.hub.message import Code, Intent, Message, Nature, Refusal, ThreadState
from fleet.hub.routing import reply_address
from fleet.hub.submission import Submission

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How much may be said. Settings."""

    max_hops: int = 8
    """A message with fewer hops may cause a turn; one with as many is refused."""
    sender_rate: float = 20.0
    """Messages a second of one sender …"""
    sender_burst: int = 100
    """… and at once."""
    pair: int = 12
    """Messages of one sender that cause one recipient a turn, in a window."""
    conversation: int = 30
    """Messages of one conversation that cause turns, in a window …"""
    conversation_total: int = 200
    """… and in all."""
    window: float = 60.0
    """Seconds."""
    implied_reply: float = 120.0
    """For so long after a message, what somebody whose turns nobody sees says to its sender counts as a reply."""


ALL_ACTS = frozenset({"send", "ask", "broadcast"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Who speaks, as its token says, and what its manifest lets it do."""

    name: str
    operator: bool = False
    may: frozenset[str] = ALL_ACTS
    wake: bool = False
    """Its broadcasts may cause turns."""
    hop_limit: int | None = None
    suppress_thanks: bool = True


# -- hops ------------------------------------------------------------------------------------------------------


class Lineage(NamedTuple):
    """Where a message stands in the chain of messages that led to it."""

    hops: int = 0
    max_hops: int = 8
    cause: str | None = None


def lineage(causes: Collection[Message], asked: int | None, speaker: Speaker, rules: Rules) -> Lineage:
    """One hop after the furthest of its causes, under the lowest of all ceilings. The first cause is the one it names.

    `asked` is the ceiling that its sender asks for: it can lower the fleet's, never raise it.
    """
    if not causes and asked is None and speaker.hop_limit is None:
        return _beginning(rules.max_hops)
    ceiling, hops, first = rules.max_hops, -1, None
    for cause in causes:
        ceiling, hops = min(ceiling, cause.max_hops), max(hops, cause.hops)
        if first is None:
            first = cause.id
    if asked is not None:
        ceiling = min(ceiling, asked)
    if speaker.hop_limit is not None:
        ceiling = min(ceiling, speaker.hop_limit)
    return Lineage(hops + 1, ceiling, first)


@functools.cache
def _beginning(max_hops: int) -> Lineage:
    return Lineage(0, max_hops)


@dataclass(frozen=True, slots=True)
class Turn:
    """What an interactive agent is at work on, as far as it came through the hub.

    What is being handed over counts from then on, not from its proof: the agent may have read it, and may answer,
    before the proof is seen.
    """

    coming: Mapping[str, Message] = field(default_factory=dict)
    here: Mapping[str, tuple[Message, float]] = field(default_factory=dict)
    """With when it was seen to have arrived."""

    def handed(self, message: Message) -> Turn:
        """Its hand-over begins."""
        return Turn({**self.coming, message.id: message}, self.here)

    def arrived(self, message: Message, now: float) -> Turn:
        """It is in the agent's conversation."""
        return Turn(_without(self.coming, message.id), {**self.here, message.id: (message, now)})

    def undone(self, message: str) -> Turn:
        """It has not arrived after all."""
        return Turn(_without(self.coming, message), self.here)

    def without(self, message: str) -> Turn:
        """It is not what the agent is at work on, whether it was on its way or there."""
        return Turn(_without(self.coming, message), _without(self.here, message))

    def ended(self) -> Turn:
        """The turn is over. What is on its way belongs to the next one."""
        return Turn(self.coming)

    def recent(self, now: float, rules: Rules) -> Turn:
        """Of a member whose turns nobody sees: without what arrived too long ago to be what it speaks of."""
        here = {k: (m, at) for k, (m, at) in self.here.items() if now - at <= rules.implied_reply}
        return Turn(self.coming, here)

    def causes(self, replied: Message | None, to: Iterable[str] | None = None) -> tuple[Message, ...]:
        """What a message that is sent now was caused by, what it replies to first. With `to`, only what came from
        those names counts beside that."""
        senders = None if to is None else set(to)
        given = [*self.coming.values(), *(m for m, _ in self.here.values())]
        found = {m.id: m for m in given if senders is None or m.sender in senders}
        first = {replied.id: replied} if replied else {}
        return tuple({**first, **found}.values())


def _without(messages: Mapping[str, T], gone: str) -> Mapping[str, T]:
    if gone not in messages:
        return messages
    left = dict(messages)
    del left[gone]
    return left


# -- how much --------------------------------------------------------------------------------------------------


class Window:
    """When something last happened, for as long as that counts. A value: with one more it is another one, which costs
    the same however many there are, since the two share what they have in common."""

    __slots__ = ("_end", "_start", "_times")

    def __init__(self, times: Iterable[float] = ()) -> None:
        self._times = sorted(times)
        self._start, self._end = 0, len(self._times)

    @property
    def last(self) -> float | None:
        """The newest."""
        return self._times[self._end - 1] if self._end > self._start else None

    def wait(self, now: float, most: int, span: float) -> float:
        """How long until there is room for one more; 0.0: now. A clock that is set back shortens no wait to come."""
        if self._end - self._start < most:
            return 0.0
        recent = self._end - self._since(now, span)
        if recent < most:
            return 0.0
        return max(0.0, min(self._times[self._end - most], now) + span - now) if most > 0 else span

    def counted(self, now: float, span: float) -> Window:
        """With one more."""
        after = object.__new__(Window)
        if self._end == 0:
            after._times, after._start, after._end = [now], 0, 1
            return after
        start = self._since(now, span)
        set_back = self._end > start and self._times[self._end - 1] > now
        if start >= self._end or set_back or self._end < len(self._times) or start > 1024 + len(self._times) // 2:
            after._times = [min(at, now) for at in self._times[start : self._end]]
            start = 0
        else:  # nobody else has gone on from here
            after._times = self._times
        after._times.append(now)
        after._start, after._end = start, len(after._times)
        return after

    def _since(self, now: float, span: float) -> int:
        """Where those begin that count."""
        return bisect.bisect_right(self._times, now - span, self._start, self._end)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Window):
            return NotImplemented
        return self._times[self._start : self._end] == other._times[other._start : other._end]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Window({self._times[self._start : self._end]})"


NOTHING = Window()
"""Of whom nothing is known."""


class Tally(NamedTuple):
    """The messages of one conversation that caused turns."""

    window: Window = NOTHING
    total: int = 0

    def counted(self, now: float, span: float) -> Tally:
        """With one more."""
        return Tally(self.window.counted(now, span), self.total + 1)


NO_TALLY = Tally()
NO_PAIRS: Mapping[str, Window] = {}


class Accounts(NamedTuple):
    """What is counted about one message: its sender's, its conversation's, and those of the pairs that it concerns."""

    sender: Bucket
    thread: Tally = NO_TALLY
    pairs: Mapping[str, Window] = NO_PAIRS
    """By recipient. One that is not there has nothing on it."""


class Attempt(NamedTuple):
    """A message that wants to leave."""

    message: Message
    """With the hops that `lineage` gave it."""
    speaker: Speaker
    wakes: tuple[str, ...]
    """Those to whom it would cause a turn."""
    thread: ThreadState = ThreadState.ACTIVE
    replied: Message | None = None
    """What it replies to, or what it was said in the handling of."""
    answers: bool = False
    """It is the answer to an ask or a task that is still open: such a one is never taken for mere thanks, and is not
    refused for how many came before it."""


def admit(attempt: Attempt, accounts: Accounts, now: float, rules: Rules) -> tuple[Accounts, Refusal | None]:
    """Whether the message may leave, and what that makes of the accounts. A refused one costs its sender's rate and
    nothing else; the accounts are to be kept in either case."""
    bucket, refusal = at_its_rate(attempt, accounts.sender, now, rules)
    if refusal is None and attempt.wakes and not attempt.answers:
        refusal = _too_many(attempt, accounts, now, rules)
    if refusal is not None or not attempt.wakes or attempt.speaker.operator:
        return Accounts(bucket, accounts.thread, accounts.pairs), refusal
    return _counted(bucket, attempt, accounts, now, rules), None


def at_its_rate(attempt: Attempt, sender: Bucket, now: float, rules: Rules) -> tuple[Bucket, Refusal | None]:
    """The same of a message that causes no turn: of all that is counted it concerns its sender's rate."""
    bucket, wait = sender.take(now, every=1.0 / rules.sender_rate if rules.sender_rate > 0 else 0.0)
    if wait > 0:
        reason = f"{attempt.speaker.name} sends more than {rules.sender_rate:g} messages a second."
        return bucket, Refusal(Code.RATE_LIMITED, reason, retry_after=wait)
    return bucket, objection(attempt)


def objection(attempt: Attempt) -> Refusal | None:
    """Why the message may not leave, however little was said before it."""
    return _not_allowed(attempt) or _over(attempt)


def repeats(first: Message, again: Submission) -> Refusal | None:
    """The sender used this key before. `None`: for the same message, so that is the answer. A key that stands for
    another one is refused, or a message would be lost in silence."""
    same = (first.to, first.text, first.intent, first.reply_to) == (again.to, again.text, again.intent, again.reply_to)
    return None if same else Refusal(Code.ID_TAKEN, f"This key stands for another message, {first.id}.")


def room(message: Message, full: Iterable[str], most: int) -> Refusal | None:
    """Whether a message may leave though these mailboxes can take no more. Who does not read keeps nobody from speaking
    to a channel: there only whoever the message names by its address counts."""
    full = sorted(name for name in full if not message.channels or name in message.to)
    if not full:
        return None
    reason = f"{most} messages wait for {', '.join(full)} already; none is taken in until some are read."
    return Refusal(Code.MAILBOX_FULL, reason, facts={"recipients": full})


def _not_allowed(attempt: Attempt) -> Refusal | None:
    message, speaker = attempt.message, attempt.speaker
    if attempt.thread is ThreadState.TERMINATED:
        reason = f"The conversation {message.thread} was terminated. An operator can revive it."
        return Refusal(Code.THREAD_TERMINATED, reason, facts={"thread": message.thread})
    if message.nature is Nature.PROMPT and message.channels:
        reason = "A prompt is typed into the agents that it names, and into no channel."
        return Refusal(Code.BAD_VALUE, reason, facts={"field": "to"})
    if speaker.operator:
        return None
    if message.nature is Nature.PROMPT:
        return Refusal(Code.NOT_ALLOWED, "A prompt is the operator's own word; others send messages.")
    if speaker.may is not ALL_ACTS and not speaker.may >= ALL_ACTS:
        for act in _acts(message, attempt.replied):
            if act not in speaker.may:
                return Refusal(Code.NOT_ALLOWED, f"{speaker.name} may not {act}: its manifest says so (`hub.may`).")
    if message.wake and not speaker.wake and message.broadcast:
        reason = f"Broadcasts of {speaker.name} may not cause turns (`hub.wake` in its manifest)."
        return Refusal(Code.WAKE_NOT_ALLOWED, reason)
    return None


def _acts(message: Message, replied: Message | None) -> Iterable[str]:
    """What is done by it: to ask is an act of its own, and nobody has to be allowed another one for it. To answer
    whoever has spoken to one is none."""
    if message.intent in (Intent.ASK, Intent.TASK):
        yield "ask"
    elif replied is None or replied.id != message.reply_to or message.to != reply_address(replied):
        yield "send"
    if message.broadcast:
        yield "broadcast"


def _over(attempt: Attempt) -> Refusal | None:
    """What has been said enough about."""
    message = attempt.message
    if attempt.replied is not None and _is_thanks(attempt):
        return Refusal(Code.ONLY_THANKS, "A reply that only says thanks is not sent; nobody waits for it.")
    if message.hops >= message.max_hops:
        reason = f"This would be hop {message.hops}; the conversation ends at {message.max_hops}."
        return Refusal(Code.HOP_LIMIT, reason, facts={"hop": message.hops, "max_hops": message.max_hops})
    return None


def _is_thanks(attempt: Attempt) -> bool:
    message, speaker, replied = attempt.message, attempt.speaker, attempt.replied
    if speaker.operator or not speaker.suppress_thanks or replied is None or attempt.answers or message.attachments:
        return False
    if message.intent not in (Intent.INFORM, Intent.ACK):
        return False
    return only_thanks(message.text, names=(replied.sender,), asked="?" in replied.text or "？" in replied.text)


def _too_many(attempt: Attempt, accounts: Accounts, now: float, rules: Rules) -> Refusal | None:
    if attempt.speaker.operator or not attempt.wakes:
        return None
    name, conversation, tally = attempt.speaker.name, attempt.message.thread, accounts.thread
    waits: dict[str, float] = {}
    for to in attempt.wakes:
        pair = accounts.pairs.get(to)
        if (wait := (NOTHING if pair is None else pair).wait(now, rules.pair, rules.window)) > 0:
            waits[to] = wait
    if waits:
        busy = sorted(waits)
        reason = f"{name} has caused {', '.join(busy)} {rules.pair} turns within {rules.window:g} s."
        return Refusal(Code.PAIR_LIMITED, reason, max(waits.values()), {"recipients": busy})
    if tally.total >= rules.conversation_total:
        reason = f"{tally.total} messages of the conversation {conversation} have caused turns; it may go no further."
        return Refusal(Code.CONVERSATION_EXHAUSTED, reason, facts={"thread": conversation})
    if (wait := tally.window.wait(now, rules.conversation, rules.window)) > 0:
        reason = f"{rules.conversation} messages of the conversation {conversation} have caused turns within "
        return Refusal(Code.CONVERSATION_LIMITED, f"{reason}{rules.window:g} s.", wait, {"thread": conversation})
    return None


def _counted(bucket: Bucket, attempt: Attempt, accounts: Accounts, now: float, rules: Rules) -> Accounts:
    """With the turns that it causes. Those that operators cause are not counted against anybody."""
    pairs = dict(accounts.pairs)
    for to in attempt.wakes:
        pairs[to] = pairs.get(to, NOTHING).counted(now, rules.window)
    return Accounts(bucket, accounts.thread.counted(now, rules.window), pairs)


# -- thanks ----------------------------------------------------------------------------------------------------

_LONGEST = 300
"""A longer text says more than thanks, and costs nothing to look at."""

_THANKS = re.compile(
    r"(?<!\w)(?:"
    r"(?:many |much |with )?thanks|thank you|th(?:n?x|ank u)|ty(?:sm|vm)?|cheers|much obliged"
    r"|(?:(?:i|we) )?(?:really )?appreciate (?:it|that|the help|your help)|much appreciated"
    r"|you(?:[' ]a?re| are) (?:very |most )?welcome|my pleasure|no (?:problem|worries)|don't mention it|any ?time"
    r"|(?:i'm |we're )?(?:glad|happy) (?:to help|(?:i|we) could help)|(?:good ?)?bye"
    r"|have a (?:nice|good|great|lovely) (?:day|one|evening|weekend)"
    r"|(?:hartelijk )?bedankt|(?:hartelijk )?dank (?:je(?: wel)?|u(?: wel)?)|graag gedaan"
    r"|(?:vielen |besten |herzlichen |tausend )?dank(?:e|eschön)?(?: (?:dir|ihnen|euch|schön|sehr))?"
    r"|gern(?:e| geschehen)"
    r"|merci(?: beaucoup| bien| à (?:toi|vous|tous))?|de rien|avec plaisir|je (?:vous en|t'en) prie"
    r"|(?:muchas |mil )?gracias|de nada|un placer|grazie(?: mille)?|prego"
    r"|(?:muito )?obrigad[oa]"
    r"|tack(?: så mycket)?|(?:mange )?tak|takk|kiitos|dziękuję|dzięki|děkuji|дякую|teşekkür(?:ler| ederim)"
    r"|(?:большое |огромное )?спасибо(?: большое)?|благодарю"
    r")(?!\w)"
    r"|(?:ありがとう|有難う|有り難う)(?:ございま(?:した|す))?|感謝(?:いた)?します|どういたしまして"
    r"|(?:非常)?[感多]?[谢謝]{1,2}[你您]?|非常感激|不客[气氣]|감사합니다|감사해요|고맙습니다|고마워요?|천만에요"
)
"""Words of thanks, of their return, and of leave."""
_ASSENT = re.compile(
    r"(?<!\w)(?:"
    r"ok(?:ay)?|k|all ?right|right|sure|got it|(?:i )?understood|noted|roger|will do|(?:that |it )?makes sense"
    r"|(?:(?:that|it|this|all|everything)(?:'s| is)? )?(?:(?:sounds?|looks?) )?(?:(?:really|very|so|just|all) )?"
    r"(?:great|good|perfect|fine|awesome|excellent|wonderful|nice|cool|lovely|fantastic|amazing|brilliant)"
    r"(?: (?:to|for) me)?"
    r"|alles klar|verstanden|(?:das )?klingt gut|super|prima|perfekt|toll|in ordnung|passt"
    r"|parfait|d'accord|très bien|entendu|perfecto|entendido|de acuerdo|vale|genial|perfetto|va bene|capito|perfeito"
    r"|that's (?:all|it)|begrepen|понятно|хорошо|отлично"
    r")(?!\w)"
    r"|(?:了解|承知)(?:です|しま(?:した|す)|いたしました)?|わかりました|分かりました|好的|明白了?|收到|알겠습니다"
)
"""Words that agree. Where something was asked they are an answer; else they are as good as thanks."""
_BESIDE = re.compile(
    r"(?<!\w)(?:"
    r"(?:so|very) much|a (?:lot|bunch|million|ton)|again|everyone|everybody|all|team|too|and|oh|ah|wow|indeed|kindly"
    r"|for (?:all )?(?:the|your|that|this)(?: (?:very|really|quick|fast|great|kind|helpful|prompt|detailed|clear))*"
    r" (?:help|reply|response|answer|update|info|information|explanation|clarification|support|work|message)"
    r"|for (?:(?:your|the) )?(?:help|helping|that|this|everything)"
    r"|sehr|nochmals?|für (?:die|deine|ihre|eure) (?:schnelle )?(?:hilfe|antwort)"
    r"|pour (?:votre|ton|l') ?(?:aide|réponse)|por (?:la|tu|su) (?:ayuda|respuesta)|und|et|y"
    r")(?!\w)"
    r"|どうも|大変|とても|非常に|정말|너무"
)
"""What goes with thanks and adds nothing to them."""
_MENTION = re.compile(r"@[a-z0-9-]+")


def only_thanks(text: str, names: Iterable[str] = (), *, asked: bool = False) -> bool:
    """Whether a text says thanks and nothing else. In doubt it says more.

    `names` are those it may address; `asked`: something was asked, so that agreement is an answer.
    """
    if len(text) > _LONGEST:
        return False
    said = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    if "?" in said or "`" in said:
        return False
    left = _MENTION.sub(" ", said)
    for name in names:
        left = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", " ", left)
    left, thanks = _THANKS.subn(" ", left)
    if not asked:
        left = _ASSENT.sub(" ", left)
    left = _BESIDE.sub(" ", left)
    return thanks > 0 and not any(c.isalnum() for c in left)
