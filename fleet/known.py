"""What one agent is known to be doing: the latest word of each source, the state they make, and how long that stands.

Some words stand until they are seen to change: what a screen shows is so for as long as sweeps of its pane find
nothing else. So the time of the last sweep comes along where something is asked or heard (`swept`; `None` where nobody
sweeps), and such a word is known to hold up to then, without anybody saying it again. Times are arguments; nothing is
looked at here.
"""

from __future__ import annotations

from dataclasses import replace

from fleet.health import judge
from fleet.health.judge import Book, Claim, State
from fleet.terms import Evidence, Source

EYES = frozenset({Source.SCREEN, Source.TITLE})
"""What a capture of the pane tells."""
LASTING = EYES | {Source.STATE_FILE, Source.PROCESS}
"""Sources whose word stands until they are seen to say otherwise."""
SETTLES = 5.0
"""Seconds after a new word, or a change of the pane, within which time alone may still change what is known: a hook
leads for a moment, a quiet program is taken to be ready. After that only a new word can."""
ATTEND = 2.0
"""Seconds after which an agent that is not settled yet is judged again."""


class Known:
    """What is known of one agent."""

    def __init__(self, *, agree: float, stale: float) -> None:
        """See `judge.judge` for both."""
        self._agree, self._stale = agree, stale
        self._book = Book()
        self._state = judge.BLANK
        self._word_at = 0.0
        """When a source last said something new."""
        self.due: float | None = None
        """When to judge again, whatever is heard until then; `None` where it is settled."""

    def begin_anew(self) -> None:
        """Another launch: nothing that was heard says anything of it."""
        self._book, self._state, self.due = Book(), judge.BLANK, None

    # -- asked -----------------------------------------------------------------------------------------------------

    def book(self, swept: float | None) -> Book:
        """The latest words; those that stand until they are seen to change have held up to the last sweep."""
        return self._book if swept is None else self._book.confirmed(LASTING, swept)

    def state(self, swept: float | None) -> State:
        """What it is doing. Whose word stands until it is seen to change has been seen up to the last sweep."""
        return self._state if swept is None else self._state_seen(swept)

    def claim(self, source: Source) -> Claim | None:
        """That source's latest word."""
        return self._book.claims.get(source)

    def is_in_question(self, at: float) -> bool:
        """Whether a look that shows nothing new may still change the state."""
        return not self._is_proved() or at - self._word_at < SETTLES

    # -- heard -----------------------------------------------------------------------------------------------------

    def catch_up(self, until: float, swept: float | None) -> None:
        """Take over what the sweeps have confirmed until then, before something new is heard: what a changed pane or
        a lost file said has held up to now."""
        if swept is not None:
            swept = min(swept, until)
            self._state = self._state_seen(swept)
            self._book = self._book.confirmed(LASTING, swept)

    def hear(self, evidence: Evidence, now: float, swept: float | None) -> None:
        """One more word of a source."""
        self.catch_up(evidence.observed_at, swept)
        before = self.claim(evidence.source)
        self._book = self._book.heard(evidence, now)
        after = self.claim(evidence.source)
        if before is None or after is None or after.since != before.since:
            self._word_at = now

    def see_again(self, at: float) -> None:
        """A look has shown what the pane said before."""
        self._book = self._book.confirmed(EYES, at)

    def lose(self, *sources: Source) -> None:
        """These say nothing any more."""
        for source in sources:
            self._book = self._book.without(source)

    # -- judged ----------------------------------------------------------------------------------------------------

    def judge(self, now: float, *, started: bool, moved_at: float | None) -> tuple[State, State]:
        """The state before, and the one that the words make now. `moved_at`: when the pane last changed."""
        before = self._state
        self._state = judge.judge(self._book, before, now, started=started, agree=self._agree, stale=self._stale)
        self.attend_again(now, moved_at)
        return before, self._state

    def attend_again(self, now: float, moved_at: float | None) -> None:
        """Note until when a new word is awaited."""
        settled = self._is_proved() and now - max(self._word_at, moved_at or 0.0) >= SETTLES
        self.due = None if settled else now + ATTEND

    def _state_seen(self, at: float) -> State:
        """The state, seen again at that time if its proof stands."""
        state = self._state
        return replace(state, seen=at) if self._is_proved() and at > (state.seen or 0.0) else state

    def _is_proved(self) -> bool:
        """Whether who made this state says it still, and goes on saying it until seen to say otherwise."""
        proof = self._state.proof
        if proof is None or self._state.pending or proof.source not in LASTING:
            return False
        claim = self.claim(proof.source)
        return claim is not None and claim.evidence is proof
