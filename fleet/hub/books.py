"""What the guardrails count, and what each member is at work on: in memory, bounded, and made anew after a start.

What has no effect any more is let go: a window that is over, a bucket that is full again. What a conversation has come
to in all stands with it in the log's file, and is read from there when it is spoken of again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fleet.brake import Bucket
from fleet.hub.guardrails import NO_PAIRS, NO_TALLY, Accounts, Attempt, Rules, Tally, Turn, Window, admit, at_its_rate
from fleet.hub.message import Message, Refusal

MANY = 20_000
"""Accounts of one kind that are kept before those without effect are looked for."""
TALLIES = 10_000
"""Conversations whose tally is kept at hand."""
IN_A_TURN = 64
"""Messages that one turn is known to be about."""
HEARD = 1_000
"""Senders of whom it is kept what they last said to somebody."""

Who = tuple[str, str]
"""A workspace, and a name in it."""


class Accounting:
    """How much everybody has said."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._senders: dict[Who, Bucket] = {}
        self._pairs: dict[tuple[str, str, str], Window] = {}
        self._tallies: OrderedDict[str, Tally] = OrderedDict()

    def knows(self, thread: str) -> bool:
        """Whether the conversation's tally is at hand."""
        return thread in self._tallies

    def opened(self, thread: str) -> None:
        """A conversation begins: nothing was said in it."""
        self._tallies[thread] = NO_TALLY
        if len(self._tallies) > TALLIES:
            self._tallies.popitem(last=False)

    def recall(self, thread: str, tally: Tally) -> None:
        """What the log's file says of a conversation that is not at hand."""
        if thread not in self._tallies:
            self._put(thread, tally)

    def admit(self, who: Who, attempt: Attempt, now: float) -> Refusal | None:
        """Ask every rule whether a message may leave, and keep what that makes of the accounts."""
        if attempt.wakes:
            thread = attempt.message.thread
            accounts, refusal = admit(attempt, self.of(who, thread, attempt.wakes, now), now, self._rules)
            self.keep(who, thread, accounts, now)
            return refusal
        bucket = self._senders.get(who) or Bucket.full(self._rules.sender_burst, now)
        self._senders[who], refusal = at_its_rate(attempt, bucket, now, self._rules)
        if len(self._senders) > MANY:
            self._let_go(now)
        return refusal

    def room(self, who: Who, now: float) -> int:
        """How many messages that cause no turn the sender's rate lets go now."""
        bucket = self._senders.get(who)
        return self._rules.sender_burst if bucket is None else bucket.left(now, every=self._every)

    def spoke(self, who: Who, count: int, now: float) -> None:
        """The sender has sent so many of them, for which there was room."""
        bucket = self._senders.get(who) or Bucket.full(self._rules.sender_burst, now)
        self._senders[who] = bucket.less(count, now, every=self._every)
        if len(self._senders) > MANY:
            self._let_go(now)

    @property
    def _every(self) -> float:
        return 1.0 / self._rules.sender_rate if self._rules.sender_rate > 0 else 0.0

    def of(self, who: Who, thread: str, recipients: Sequence[str], now: float) -> Accounts:
        """The accounts that a message concerns."""
        workspace, name = who
        pairs = self._pairs
        return Accounts(
            self._senders.get(who) or Bucket.full(self._rules.sender_burst, now),
            self._tallies.get(thread, NO_TALLY),
            {to: window for to in recipients if (window := pairs.get((workspace, name, to))) is not None}
            if recipients
            else NO_PAIRS,
        )

    def keep(self, who: Who, thread: str, accounts: Accounts, now: float) -> None:
        """What has become of them."""
        workspace, name = who
        self._senders[who] = accounts.sender
        if accounts.thread.total:
            self._put(thread, accounts.thread)
        if accounts.pairs:
            for to, window in accounts.pairs.items():
                self._pairs[workspace, name, to] = window
        if len(self._pairs) > MANY or len(self._senders) > MANY:
            self._let_go(now)

    def _put(self, thread: str, tally: Tally) -> None:
        self._tallies[thread] = tally
        self._tallies.move_to_end(thread)
        if len(self._tallies) > TALLIES:
            self._tallies.popitem(last=False)

    def caused(self, who: Who, to: str, at: float) -> None:
        """Somebody has caused a turn, before this hub was started."""
        key = (*who, to)
        self._pairs[key] = self._pairs.get(key, Window()).counted(at, self._rules.window)

    def _let_go(self, now: float) -> None:
        window, rate = self._rules.window, self._rules.sender_rate
        self._pairs = {k: w for k, w in self._pairs.items() if w.last is not None and now - w.last < window}
        full = self._rules.sender_burst / rate if rate > 0 else 0.0
        self._senders = {k: b for k, b in self._senders.items() if now - b.at < full}


class Turns:
    """What each member is at work on, as far as it came through the hub.

    Of a member whose turns are seen, that is what was handed to it since its last turn ended. Of another it is what
    each sender last said to it, and it counts for a while, for what is said to that sender.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._turns: dict[Who, Turn] = {}
        self._heard: dict[Who, OrderedDict[str, tuple[Message, float]]] = {}
        self._spoken: OrderedDict[Who, tuple[Message, float]] = OrderedDict()
        """What each sender last said to a channel."""

    def handed(self, who: Who, message: Message) -> None:
        """Its hand-over begins."""
        self._turns[who] = _bounded(self._turns.get(who, Turn()).handed(message))

    def arrived(self, who: Who, message: Message, now: float) -> None:
        """It is in the agent's conversation."""
        self._turns[who] = _bounded(self._turns.get(who, Turn()).arrived(message, now))

    def undone(self, who: Who, message: str) -> None:
        """It is not there, or the turn that it was is over."""
        turn = self._turns.get(who)
        if turn is not None and (message in turn.coming or message in turn.here):
            self._turns[who] = turn.without(message)

    def ended(self, who: Who) -> None:
        """The turn is over."""
        turn = self._turns.get(who)
        if turn is not None:
            if turn.coming:
                self._turns[who] = turn.ended()
            else:
                del self._turns[who]

    def heard(self, who: Who, message: Message, now: float) -> None:
        """A member whose turns nobody sees may have read it from now on."""
        by_sender = self._heard.setdefault(who, OrderedDict())
        before = by_sender.get(message.sender)
        if before is None or now - before[1] > self._rules.implied_reply or message.hops >= before[0].hops:
            by_sender[message.sender] = (message, now)
            by_sender.move_to_end(message.sender)
        if len(by_sender) > HEARD:
            by_sender.popitem(last=False)

    def spoken(self, message: Message, now: float) -> None:
        """Whoever listens to its channel may have read it from now on."""
        who = (message.workspace, message.sender)
        before = self._spoken.get(who)
        if before is None or now - before[1] > self._rules.implied_reply or message.hops >= before[0].hops:
            self._spoken[who] = (message, now)
            self._spoken.move_to_end(who)
        if len(self._spoken) > MANY:
            self._spoken.popitem(last=False)

    def causes(
        self, who: Who, replied: Message | None, to: Iterable[str], seen: bool, now: float
    ) -> tuple[Message, ...]:
        """What a message that is sent now was caused by; `seen`: its sender's turns are."""
        turn = self._turns.get(who)
        if seen:
            return turn.causes(replied) if turn is not None else (replied,) if replied else ()
        found: dict[str, Message] = {replied.id: replied} if replied else {}
        if turn is not None:
            found |= turn.coming  # a headless turn is under way from its hand-over to its end
            found |= {m.id: m for m in turn.recent(now, self._rules).causes(None, to)}
        heard = self._heard.get(who)
        if heard:
            for name in to:
                last = heard.get(name)
                if last is not None and now - last[1] <= self._rules.implied_reply:
                    found.setdefault(last[0].id, last[0])
        for name in to:
            spoke = self._spoken.get((who[0], name))
            if spoke is not None and name != who[1] and now - spoke[1] <= self._rules.implied_reply:
                found.setdefault(spoke[0].id, spoke[0])
        return tuple(found.values())

    def forget(self, who: Who) -> None:
        """It is no member any more."""
        self._turns.pop(who, None)
        self._heard.pop(who, None)


def _bounded(turn: Turn) -> Turn:
    """With those that count: of too many, the ones with the fewest hops go."""
    if len(turn.here) <= IN_A_TURN and len(turn.coming) <= 4 * IN_A_TURN:
        return turn
    kept = sorted(turn.here.items(), key=lambda item: (item[1][0].hops, item[1][1]))[-IN_A_TURN:]
    return replace(turn, here=dict(kept))
