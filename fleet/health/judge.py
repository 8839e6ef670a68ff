"""The evidence into one state, and why. Pure.

Each question is asked of the source that can answer it (SEMANTICS 1):

- *Is it at work?* The program's own state file, which stands until the program changes it; a hook that came after
  the file's last change leads it for a moment. Without a state file: the last hook, unless title or screen have
  since said otherwise; without hooks: title and screen.
- *Does it wait for a person?* Any of hook, state file and screen may say so; it is over as soon as a later word
  of the program says that it works. A prompt on the screen beats "working".
- *Is it limited, or in error?* A failed turn's hook, and the screen: a state file calls both idle.
- *Is something typed and unsent?* The screen alone.

A source that says `unknown` says nothing. What is known ages; it is not overwritten by silence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from fleet.terms import Activity, Evidence, Kind, Source

LEAD = 2.0
"""For how long a hook that came after the state file's last change outweighs it, in seconds: the file follows within
a fraction of that, and what a hook cannot see (an interrupt) must be recovered within 2 s."""

QUIET: frozenset[Activity] = frozenset({Activity.READY, Activity.LIMITED, Activity.ERROR})
"""A turn is over in all of them; which one it is, a state file does not tell."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A source's word, with when it began to say so and when it last did."""

    evidence: Evidence
    since: float
    seen: float


@dataclass(frozen=True, slots=True)
class Book:
    """The latest word of every source about one launch. Values: a new word makes a new book."""

    claims: Mapping[Source, Claim] = field(default_factory=dict)
    failure: Evidence | None = None
    """The last turn's failure as its hook told it, until a new turn begins."""

    def heard(self, evidence: Evidence, now: float) -> Book:
        """The book with one more word in it. An older word than the one that stands changes nothing."""
        before = self.claims.get(evidence.source)
        if before and evidence.observed_at < before.evidence.observed_at:
            return self
        if before:
            evidence = _remembering(evidence, before.evidence)
        same = before and _word(before.evidence) == _word(evidence)
        since = before.since if before and same else evidence.observed_at
        claims = {**self.claims, evidence.source: Claim(evidence, since, max(now, evidence.observed_at))}
        failure = self.failure
        if evidence.source is Source.HOOK and evidence.activity is not None:
            failure = evidence if evidence.activity in (Activity.ERROR, Activity.LIMITED) else None
        return Book(claims, failure)

    def confirmed(self, sources: Collection[Source], now: float) -> Book:
        """These sources were looked at again and say the same."""
        claims = {s: replace(c, seen=now) for s, c in self.claims.items() if s in sources and c.seen < now}
        return Book({**self.claims, **claims}, self.failure) if claims else self

    def without(self, source: Source) -> Book:
        """The source has nothing to say any more: its process is gone."""
        return Book({s: c for s, c in self.claims.items() if s is not source}, self.failure)

    def __iter__(self) -> Iterator[Claim]:
        return iter(sorted(self.claims.values(), key=lambda c: list(Source).index(c.evidence.source)))


def _remembering(evidence: Evidence, before: Evidence) -> Evidence:
    """A later word about the same dialog may say less of it: what was asked is still asked."""
    asks = evidence.activity is Activity.NEEDS_INPUT is before.activity
    if not asks or evidence.question or evidence.session_id != before.session_id:
        return evidence
    return replace(evidence, kind=evidence.kind or before.kind, question=before.question, options=before.options)


def _word(e: Evidence) -> tuple[object, ...]:
    return (e.activity, e.kind, e.question, e.session_id)


@dataclass(frozen=True, slots=True)
class State:
    """What an agent is doing, with the proof."""

    activity: Activity
    since: float
    proof: Evidence | None = None
    seen: float | None = None
    """When its proof last held."""
    kind: Kind | None = None
    question: str | None = None
    options: tuple[str, ...] = ()
    resets_at: float | None = None
    continues: bool = False
    draft: bool | None = None
    composer: bool | None = None
    background: bool | None = None
    dissent: tuple[Evidence, ...] = ()
    """Words of other sources that say otherwise. Shown, not averaged."""
    pending: bool = False
    """A change is seen but not yet believed: look again soon."""


BLANK = State(Activity.BOOTING, 0.0)


def judge(book: Book, before: State, now: float, *, started: bool, agree: float = 0.4, stale: float = 30.0) -> State:
    """One state out of all the words.

    `before` is the state that stood; `started` says whether the program's own session has been seen (before that
    it is booting); `agree` is how far apart two screens must be that say ready; `stale` is the age in seconds from
    which what nothing confirms any more is unknown.
    """
    chosen, pending = _choose(book, before, now, agree)
    state = _settled(book, before, chosen) if chosen else _unsettled(book, before, now, started, agree, stale)
    screen, file, hook = (book.claims.get(s) for s in (Source.SCREEN, Source.STATE_FILE, Source.HOOK))
    return replace(
        state,
        pending=pending,
        draft=screen.evidence.draft if screen else None,
        composer=screen.evidence.composer if screen else None,
        background=_any(*(c.evidence.background for c in (file, screen, hook) if c)),
    )


def _settled(book: Book, before: State, chosen: Claim) -> State:
    """The state that the chosen claim makes, with what the others know about it."""
    e = _detail(book, chosen.evidence)
    activity = e.activity or Activity.UNKNOWN
    goes_on = before.activity is activity and before.kind is e.kind and before.since
    return State(
        activity=activity,
        since=before.since if goes_on else chosen.since,
        proof=chosen.evidence,
        seen=chosen.seen,
        kind=e.kind,
        question=e.question,
        options=e.options,
        resets_at=_limit_ends(book, before.resets_at if goes_on else None) if activity is Activity.LIMITED else None,
        continues=e.continues,
        dissent=tuple(c.evidence for c in book if _differs(c.evidence.activity, activity)),
    )


def _unsettled(book: Book, before: State, now: float, started: bool, agree: float, stale: float) -> State:
    """Nobody says anything: what was known ages, and is unknown at last. A dialog that is not on the screen any more
    is over, whatever comes next."""
    known = before.activity not in (Activity.UNKNOWN, Activity.BOOTING)
    if known and not _dialog_went(book, before, agree) and before.seen is not None and now - before.seen <= stale:
        return before
    activity = Activity.UNKNOWN if started else Activity.BOOTING
    screen = book.claims.get(Source.SCREEN)
    since = before.since if before.activity is activity and before.since else now
    return State(activity, since, screen.evidence if screen else None, screen.seen if screen else None)


def _dialog_went(book: Book, before: State, agree: float) -> bool:
    """Whether the screen that alone knew of a dialog has shown something else for a while."""
    screen = book.claims.get(Source.SCREEN)
    seen_there = before.activity is Activity.NEEDS_INPUT and before.proof and before.proof.source is Source.SCREEN
    if not seen_there or screen is None or screen.evidence.activity is Activity.NEEDS_INPUT:
        return False
    return _apart(screen.since, screen.seen, agree)


def _choose(book: Book, before: State, now: float, agree: float) -> tuple[Claim | None, bool]:
    """The claim that counts, and whether another one waits to be believed."""
    hook, file = _said(book, Source.HOOK), _said(book, Source.STATE_FILE)
    screen, title = _said(book, Source.SCREEN), _said(book, Source.TITLE)
    base = _own_word(hook, file, now)
    if base is None:
        return _looks(book, screen, title, before, agree)
    # A prompt on the screen, drawn after the program's last word, beats whatever that word was.
    if screen and screen.evidence.activity is Activity.NEEDS_INPUT and screen.seen > base.since:
        if base.evidence.activity is Activity.NEEDS_INPUT:
            return base, False
        settled = _apart(max(screen.since, base.since), screen.seen, agree)
        return (screen, False) if settled or base is not file else (base, True)
    activity = base.evidence.activity
    if activity in QUIET:
        return _quiet(book, base, screen), False
    if file is not None:
        return base, False
    # Only hooks speak, and they are silent about interrupts and refused dialogs: the eye may correct them.
    for eye in (title, screen):
        if eye and _differs(eye.evidence.activity, activity) and eye.since > base.since:
            if _apart(eye.since, eye.seen, agree):
                return (_quiet(book, eye, screen) if eye.evidence.activity in QUIET else eye), False
            return base, True
    return base, False


def _own_word(hook: Claim | None, file: Claim | None, now: float) -> Claim | None:
    """The program's own word: its file, or a hook that came later and not long ago.

    A Stop hook is no proof of ready while the file says busy: it also fires before a queued message, when a hook of
    the user's makes the turn go on, and while sub-agents run. The file follows a real one within a third of a second.
    """
    if hook is None or file is None:
        return file or hook
    if hook.evidence.activity is Activity.READY:
        return file
    leads = now - hook.evidence.observed_at < LEAD or not _differs(hook.evidence.activity, file.evidence.activity)
    return hook if hook.evidence.observed_at > file.since and leads else file


def _quiet(book: Book, base: Claim, screen: Claim | None) -> Claim:
    """A turn is over: in what way? The failed turn's hook knows, and so does the screen."""
    if base.evidence.activity is not Activity.READY:
        return base
    if screen and screen.evidence.activity in (Activity.LIMITED, Activity.ERROR):
        return screen
    failure = book.failure
    if failure and (screen is None or screen.evidence.activity is not Activity.READY):
        return Claim(failure, failure.observed_at, base.seen)
    if failure and failure.observed_at >= base.since - LEAD:
        return Claim(failure, failure.observed_at, base.seen)
    return base


def _looks(
    book: Book, screen: Claim | None, title: Claim | None, before: State, agree: float
) -> tuple[Claim | None, bool]:
    """No word of the program itself: title and screen, and last the process."""
    if screen is None:
        if title and title.evidence.activity is Activity.WORKING:
            return title, False
        return _said(book, Source.TRANSCRIPT) or _said(book, Source.PROCESS), False
    activity = screen.evidence.activity
    if activity is Activity.READY and title and title.evidence.activity is Activity.WORKING:
        return title, False
    twice = _apart(screen.since, screen.seen, agree)
    if activity is Activity.READY and before.activity is not Activity.READY and not twice:
        return None, True
    return screen, False


def _said(book: Book, source: Source) -> Claim | None:
    """The source's claim, where it says anything about the activity."""
    claim = book.claims.get(source)
    if claim is None or claim.evidence.activity in (None, Activity.UNKNOWN, Activity.EXITED):
        return None
    return claim


def _detail(book: Book, chosen: Evidence) -> Evidence:
    """The evidence that knows most about what the chosen one says: a dialog's question, a limit's end."""
    full = chosen
    for claim in book:
        e = claim.evidence
        if e.activity is not chosen.activity:
            continue
        if chosen.activity is Activity.NEEDS_INPUT:
            kind = full.kind if full.kind not in (None, Kind.OTHER) else e.kind or full.kind
            if not full.question and e.question:
                full = replace(full, question=e.question, options=e.options or full.options)
            elif not full.options and e.options:
                full = replace(full, options=e.options)
            full = replace(full, kind=kind)
        if chosen.activity is Activity.LIMITED:
            full = replace(full, continues=full.continues or e.continues)
    return full


def _limit_ends(book: Book, said: float | None) -> float | None:
    """When the limit ends, as it was told first: a screen names a time of day, and once that is over it reads as
    tomorrow's. `said`: what was told before."""
    words = [*(claim.evidence for claim in book), *([book.failure] if book.failure else [])]
    ends = [e.resets_at for e in words if e.activity is Activity.LIMITED]
    return min((at for at in (*ends, said) if at is not None), default=None)


def _differs(one: Activity | None, other: Activity | None) -> bool:
    silent = (None, Activity.UNKNOWN, Activity.EXITED)
    if one in silent or other in silent:
        return False
    return one is not other and not (one in QUIET and other in QUIET)


def _apart(first: float, second: float, agree: float) -> bool:
    """Whether two looks are far enough apart, a clock's grain allowed for."""
    return second - first > agree - 0.001


def _any(*values: bool | None) -> bool | None:
    """True wins, then False, then None."""
    if any(values):
        return True
    return False if any(v is False for v in values) else None


def is_auth(rule: str) -> bool:
    """Whether a rule of a screen or an error of a hook speaks of credentials."""
    return any(word in rule for word in ("auth", "login", "oauth", "account"))
