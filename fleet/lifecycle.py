"""An agent's life: phases, events, actions, and the table that ties them. Pure.

`step` takes a life and an event and says what the life becomes and what to do about it. The caller writes the new
life down and then does it; killed in between, it starts again, sees what is so (`Seen`), and the same table puts
things right. What holds, over every order of events:

- Whoever was told to stop never comes back by itself.
- There is no second launch before the first is known to be dead, ended or refused.
- A launch is made only of an agent that is wanted; one that is parked stays so until a person acts.
- An agent whose host cannot be read is neither dead nor restarted; it keeps what it was.

Two things the caller owes: events about a launch are those of the agent's present launch only (its generation), and
`End` ends the launch that was present when the step was taken, never a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from fleet.health.restart import (
    Budget,
    Cause,
    ComeBack,
    Death,
    Decision,
    Policy,
    StayDown,
    after_death,
    after_failed_start,
    failed_start,
)
from fleet.terms import Phase


class Then(StrEnum):
    """What follows once a stop is complete."""

    STOP = "stop"
    """Nothing: a person stopped it."""
    SHUTDOWN = "shutdown"
    """Nothing: the fleet is going down."""
    START = "start"
    """A launch: a person wants it up again."""
    RETRY = "retry"
    """What its budget allows: its start took too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """All that is remembered of an agent between two events."""

    wanted: bool
    """Whether a person wants it up."""
    phase: Phase
    since: float
    """When it entered the phase."""
    reason: str | None = None
    """Why it is in this phase, in one CamelCase word; `None` where there is nothing to explain."""
    message: str | None = None
    """The same as a sentence for a person."""
    budget: Budget = field(default_factory=Budget)
    due: float | None = None
    """In backoff: not launched before this."""
    launched_at: float | None = None
    started_at: float | None = None
    """Of the present launch, or the last one."""
    restarts: int = 0
    """Automatic launches since a person last started, restarted or reset it."""
    exit_status: int | None = None
    """Of the last launch, once it is over."""
    fresh: bool = False
    """The next launch begins a new conversation."""
    pending: Then | None = None
    """What follows the stop under way."""
    before: Phase | None = None
    """While unverifiable: the phase it was in, or, where a person has acted since, is to be in."""
    seen_since: float | None = None
    """Since when its host can be read; while it cannot, of the time before."""
    free_since: float | None = None
    """Since when its budget lets it come back; while it is parked, of the time before."""

    @classmethod
    def new(cls, now: float) -> Life:
        """Of an agent that was never started."""
        return cls(wanted=False, phase=Phase.STOPPED, since=now, seen_since=now, free_since=now)

    @property
    def may_live(self) -> bool:
        """Whether processes of it may be there."""
        return self.phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.UNVERIFIABLE)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Life:
        """The life that `to_json` gave. A field it lacks has its default; one that is not known here is left out."""
        known = {name: value for name, value in stored.items() if name in {f.name for f in fields(cls)}}
        budget = {n: v for n, v in known.get("budget", {}).items() if n in {f.name for f in fields(Budget)}}
        known["budget"] = Budget(**{**budget, "deaths": tuple(budget.get("deaths", ()))})
        known["phase"] = Phase(known["phase"])
        known["pending"] = Then(known["pending"]) if known.get("pending") else None
        known["before"] = Phase(known["before"]) if known.get("before") else None
        return cls(**known)


# -- events: what happened -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """A person wants it up. Where it is up already, nothing changes."""

    fresh: bool = False
    """With a new conversation."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A person wants it down, and it stays down until a person says otherwise."""


@dataclass(frozen=True, slots=True)
class Restart:
    """A person wants it ended, where it is up, and up again."""

    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """A person clears its budget and lifts what holds it back. One that is stopped or finished is not started."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The whole fleet goes down. Who was up is remembered elsewhere."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The host has carried out the launch."""


@dataclass(frozen=True, slots=True)
class Started:
    """The program's own session is seen."""


@dataclass(frozen=True, slots=True)
class StartTimedOut:
    """It was silent for longer than a start may take. The caller's clock stands still while a dialog waits."""


@dataclass(frozen=True, slots=True)
class LaunchRefused:
    """The host said no: nothing was launched."""

    reason: str
    message: str
    retry: bool
    """Whether another attempt could go better."""


@dataclass(frozen=True, slots=True)
class Died:
    """The present launch is over, by itself or by another's hand."""

    exit_status: int | None
    cause: Cause = Cause.CRASH
    resumed_within: bool = False
    """It had resumed a conversation, and died within the guard time of that."""
    resets_at: float | None = None
    """With `Cause.LIMIT`: when the limit ends."""
    message: str | None = None
    """What the program said of it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """`End` is done: nothing of the launch lives."""

    exit_status: int | None = None


@dataclass(frozen=True, slots=True)
class Elapsed:
    """Its wait is over, and the brake lets it go."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Its host or multiplexer cannot be read. This says nothing about the agent."""

    reason: str = "HostUnreachable"
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What is so, seen by a daemon that has just started or on a host that can be read again."""

    alive: bool
    started: bool = False
    exit_status: int | None = None
    cause: Cause = Cause.CRASH
    """If it is dead: why."""


Event = (
    Start | Stop | Restart | Reset | Shutdown
    | Launched | Started | StartTimedOut | LaunchRefused | Died | Ended | Elapsed | Lost | Seen
)  # fmt: skip
EVENTS: tuple[type[Event], ...] = (
    Start, Stop, Restart, Reset, Shutdown,
    Launched, Started, StartTimedOut, LaunchRefused, Died, Ended, Elapsed, Lost, Seen,
)  # fmt: skip


# -- actions: what to do about it ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    """Launch it, and report `Launched` or `LaunchRefused` (or `Lost`)."""

    fresh: bool = False
    """With a new conversation."""


@dataclass(frozen=True, slots=True)
class End:
    """End the present launch and all that is left of it, and report `Ended` (or `Lost`). Idempotent."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Report `Elapsed` once it is `until` and the brake lets it go; at once where that time is past."""

    until: float


Action = Launch | End | Wait
Step = tuple[Life, tuple[Action, ...]]


def step(life: Life, event: Event, now: float, policy: Policy) -> Step:
    """What the agent becomes, and what to do about it."""
    return TRANSITIONS[life.phase][type(event)](life, event, _Moment(now, policy))


@dataclass(frozen=True, slots=True)
class _Moment:
    now: float
    policy: Policy


# -- what a person does ----------------------------------------------------------------------------------------


def stay(life: Life, event: Event, at: _Moment) -> Step:
    """Nothing changes."""
    return life, ()


def begin(life: Life, event: Start | Restart, at: _Moment) -> Step:
    """Launch it, with a cleared budget."""
    return _launch(_cleared(life, wanted=True), at, event.fresh or life.fresh)


def end(life: Life, event: Stop | Shutdown, at: _Moment) -> Step:
    """End it, for good."""
    return _stopping(life, _follows(event), at)


def end_then_start(life: Life, event: Restart, at: _Moment) -> Step:
    """End it, then launch it."""
    return _stopping(replace(_cleared(life), fresh=event.fresh), Then.START, at)


def give_up(life: Life, event: Stop | Shutdown, at: _Moment) -> Step:
    """Nothing of it lives: it is stopped."""
    return _stopped(life, _follows(event), at)


def stop_after_all(life: Life, event: Stop | Shutdown, at: _Moment) -> Step:
    """The stop under way is for good, whatever was to follow it."""
    return _told(replace(life, wanted=False), _follows(event)), ()


def start_after_all(life: Life, event: Start | Restart, at: _Moment) -> Step:
    """A launch follows the stop under way."""
    return _told(replace(_cleared(life, wanted=True), fresh=event.fresh or life.fresh), Then.START), ()


def stay_parked(life: Life, event: Shutdown, at: _Moment) -> Step:
    """It stays as it is, with its reason, and is no longer wanted."""
    return replace(life, wanted=False), ()


def forgive(life: Life, event: Reset, at: _Moment) -> Step:
    """Its budget is cleared."""
    return _cleared(life), ()


def unpark(life: Life, event: Reset, at: _Moment) -> Step:
    """Its budget is cleared, and where it is wanted it comes back as soon as the brake allows."""
    if not life.wanted:
        return _enter(_cleared(life), Phase.STOPPED, at, "Reset", "A person cleared it."), ()
    return _back_off(_cleared(life), at, ComeBack(at.now, "Reset", "A person cleared it; it comes back."))


# -- what a launch does ----------------------------------------------------------------------------------------


def launched(life: Life, event: Launched, at: _Moment) -> Step:
    """Its launch is noted; what it was to begin afresh it has begun."""
    return _noted(life, at), ()


def end_stray(life: Life, event: Launched, at: _Moment) -> Step:
    """It was launched although it is stopped (the stop overtook the launch): end it."""
    return _stopping(life, _as_it_was_told(life), at)


def started(life: Life, event: Started, at: _Moment) -> Step:
    """It runs."""
    return _running(life, at), ()


def start_again(life: Life, event: StartTimedOut, at: _Moment) -> Step:
    """Its start took too long: end it, then see what its budget allows."""
    return _stopping(replace(life, budget=failed_start(life.budget)), Then.RETRY, at)


def refused(life: Life, event: LaunchRefused, at: _Moment) -> Step:
    """Nothing was launched: try again later, or give it up."""
    if not event.retry:
        return _carry_out(life, StayDown(True, event.reason, event.message), at)
    why = event.message.rstrip(".")
    budget, decision = after_failed_start(failed_start(life.budget), at.now, at.policy, event.reason, why)
    return _carry_out(replace(life, budget=budget), decision, at)


def died(life: Life, event: Died, at: _Moment) -> Step:
    """It comes back or stays down, as its policy, its budget and the cause say."""
    death = Death(
        exit_status=event.exit_status,
        cause=event.cause,
        started_at=life.started_at,
        resumed_within=event.resumed_within,
        resets_at=event.resets_at,
        words=event.message,
    )
    budget, decision = after_death(death, life.budget, at.now, at.policy)
    over = replace(life, budget=budget, exit_status=event.exit_status, fresh=False)
    return _carry_out(over, decision, at)


def note_status(life: Life, event: Died, at: _Moment) -> Step:
    """It is dying as it was told to; what is left of it is still being ended."""
    return (replace(life, exit_status=event.exit_status) if event.exit_status is not None else life), ()


def ended(life: Life, event: Ended, at: _Moment) -> Step:
    """Nothing of it lives: now what was to follow the stop."""
    if event.exit_status is not None:
        life = replace(life, exit_status=event.exit_status)
    if life.pending is Then.START:
        return _launch(_cleared(life), at, life.fresh)
    if life.pending is Then.RETRY:
        why = "it was silent for too long"
        budget, decision = after_failed_start(life.budget, at.now, at.policy, "StartTimedOut", why)
        return _carry_out(replace(life, budget=budget), decision, at)
    return _stopped(life, life.pending or Then.STOP, at)


def come_back(life: Life, event: Elapsed, at: _Moment) -> Step:
    """Launch it, unless the timer was an older one."""
    if life.due is not None and at.now < life.due:
        return life, (Wait(life.due),)
    return _launch(replace(life, restarts=life.restarts + 1), at, life.fresh)


# -- what a host does ------------------------------------------------------------------------------------------


def lose(life: Life, event: Lost, at: _Moment) -> Step:
    """Neither alive nor dead is known: it keeps what it was."""
    message = event.message or "Its host cannot be read; it is shown as it was last seen."
    return replace(
        life, phase=Phase.UNVERIFIABLE, since=at.now, before=life.phase, reason=event.reason, message=message
    ), ()


def seen_down(life: Life, event: Seen, at: _Moment) -> Step:
    """It is down, as it should be; one that is found alive is ended if it is not wanted, else taken as it is."""
    if not event.alive:
        return life, ()
    if not life.wanted:
        return _stopping(life, _as_it_was_told(life), at)
    return _found_alive(life, event, at), ()


def seen_waiting(life: Life, event: Seen, at: _Moment) -> Step:
    """It waits on; one that is found alive was not dead."""
    if event.alive:
        return _found_alive(life, event, at), ()
    return life, (Wait(at.now if life.due is None else life.due),)


def seen_starting(life: Life, event: Seen, at: _Moment) -> Step:
    """A launch that was written down and never made is made now; one that was made goes on, or has died."""
    if event.alive:
        return _found_alive(life, event, at), ()
    if life.launched_at is None and event.exit_status is None and event.cause is Cause.CRASH:
        return _launch(life, at, life.fresh)
    return died(life, Died(event.exit_status, event.cause), at)


def seen_running(life: Life, event: Seen, at: _Moment) -> Step:
    """It runs on, or has died unseen."""
    if event.alive:
        return life, ()
    return died(life, Died(event.exit_status, event.cause), at)


def seen_stopping(life: Life, event: Seen, at: _Moment) -> Step:
    """End it again: alive or dead, only that shows that nothing of it is left."""
    return life, (End(),)


def seen_again(life: Life, event: Seen, at: _Moment) -> Step:
    """Its host can be read again: it is what it is, and no loss of the host is laid to it."""
    if event.alive and life.before is not Phase.STOPPING:
        return _found_alive(life, event, at), ()
    return gone_meanwhile(life, Died(event.exit_status, _unless_known(event)), at)


# -- while its host cannot be read -----------------------------------------------------------------------------


def end_when_seen(life: Life, event: Stop | Shutdown, at: _Moment) -> Step:
    """It is to be ended, for good, once its host can be read."""
    return replace(life, wanted=False, before=Phase.STOPPING, pending=_follows(event)), ()


def restart_when_seen(life: Life, event: Restart, at: _Moment) -> Step:
    """It is to be ended, then launched, once its host can be read."""
    life = replace(_cleared(life, wanted=True), fresh=event.fresh)
    return replace(life, before=Phase.STOPPING, pending=Then.START), ()


def start_when_seen(life: Life, event: Start, at: _Moment) -> Step:
    """Once its host can be read: if it is dead, or was being ended, it is launched."""
    return replace(life, wanted=True, pending=Then.START, fresh=event.fresh or life.fresh), ()


def launched_unseen(life: Life, event: Launched, at: _Moment) -> Step:
    """The launch whose answer was lost has been made."""
    return (_noted(life, at) if life.before is Phase.STARTING else life), ()


def started_unseen(life: Life, event: Started, at: _Moment) -> Step:
    """Its own word has come through: once its host can be read, it runs."""
    if life.before is not Phase.STARTING:
        return life, ()
    running = _running(life, at)
    return replace(
        running, phase=life.phase, since=life.since, before=Phase.RUNNING, pending=life.pending,
        reason=life.reason, message=life.message,
    ), ()  # fmt: skip


def refused_unseen(life: Life, event: LaunchRefused, at: _Moment) -> Step:
    """The host has answered after all, and said no."""
    return refused(life, event, at) if life.before is Phase.STARTING else (life, ())


def gone_meanwhile(life: Life, event: Died, at: _Moment) -> Step:
    """It is known to be dead: what a person has asked for meanwhile, else what its policy says."""
    if life.before is Phase.STOPPING:
        dying = replace(life, exit_status=event.exit_status)
        return _stopping(dying, life.pending or Then.STOP, at)
    if life.pending is Then.START:
        return _launch(_cleared(life), at, life.fresh)
    return died(life, event, at)


def ended_unseen(life: Life, event: Ended, at: _Moment) -> Step:
    """The stop whose answer was lost is complete."""
    return ended(life, event, at) if life.before is Phase.STOPPING else (life, ())


# -- the table -------------------------------------------------------------------------------------------------

Transition = Callable[[Life, Any, _Moment], Step]

TRANSITIONS: Mapping[Phase, Mapping[type[Event], Transition]] = {
    Phase.STOPPED: {
        Start: begin, Stop: give_up, Restart: begin, Reset: forgive, Shutdown: stay,
        Launched: end_stray, Started: stay, StartTimedOut: stay, LaunchRefused: stay,
        Died: stay, Ended: stay, Elapsed: stay, Lost: stay, Seen: seen_down,
    },
    Phase.STARTING: {
        Start: stay, Stop: end, Restart: end_then_start, Reset: forgive, Shutdown: end,
        Launched: launched, Started: started, StartTimedOut: start_again, LaunchRefused: refused,
        Died: died, Ended: stay, Elapsed: stay, Lost: lose, Seen: seen_starting,
    },
    Phase.RUNNING: {
        Start: stay, Stop: end, Restart: end_then_start, Reset: forgive, Shutdown: end,
        Launched: launched, Started: stay, StartTimedOut: stay, LaunchRefused: stay,
        Died: died, Ended: stay, Elapsed: stay, Lost: lose, Seen: seen_running,
    },
    Phase.BACKOFF: {
        Start: begin, Stop: give_up, Restart: begin, Reset: unpark, Shutdown: give_up,
        Launched: stay, Started: stay, StartTimedOut: stay, LaunchRefused: stay,
        Died: stay, Ended: stay, Elapsed: come_back, Lost: stay, Seen: seen_waiting,
    },
    Phase.STOPPING: {
        Start: start_after_all, Stop: stop_after_all, Restart: start_after_all, Reset: forgive,
        Shutdown: stop_after_all, Launched: stay, Started: stay, StartTimedOut: stay, LaunchRefused: stay,
        Died: note_status, Ended: ended, Elapsed: stay, Lost: lose, Seen: seen_stopping,
    },
    Phase.FINISHED: {
        Start: begin, Stop: give_up, Restart: begin, Reset: forgive, Shutdown: stay_parked,
        Launched: stay, Started: stay, StartTimedOut: stay, LaunchRefused: stay,
        Died: stay, Ended: stay, Elapsed: stay, Lost: stay, Seen: seen_down,
    },
    Phase.FAILED: {
        Start: begin, Stop: give_up, Restart: begin, Reset: unpark, Shutdown: stay_parked,
        Launched: stay, Started: stay, StartTimedOut: stay, LaunchRefused: stay,
        Died: stay, Ended: stay, Elapsed: stay, Lost: stay, Seen: seen_down,
    },
    Phase.UNVERIFIABLE: {
        Start: start_when_seen, Stop: end_when_seen, Restart: restart_when_seen, Reset: forgive,
        Shutdown: end_when_seen, Launched: launched_unseen, Started: started_unseen, StartTimedOut: stay,
        LaunchRefused: refused_unseen, Died: gone_meanwhile, Ended: ended_unseen, Elapsed: stay, Lost: stay,
        Seen: seen_again,
    },
}  # fmt: skip


# -- the steps they are made of --------------------------------------------------------------------------------


def _enter(life: Life, phase: Phase, at: _Moment, reason: str | None, message: str | None) -> Life:
    """The phase, with nothing left that belongs to another one."""
    changes = life.phase is not phase
    if changes and life.phase is Phase.UNVERIFIABLE:
        life = replace(life, seen_since=at.now)
    if changes and life.phase is Phase.FAILED:
        life = replace(life, free_since=at.now)
    since = at.now if changes else life.since
    return replace(life, phase=phase, since=since, reason=reason, message=message, due=None, pending=None, before=None)


def _cleared(life: Life, *, wanted: bool | None = None) -> Life:
    """A person has acted: what was used up is forgotten."""
    return replace(life, budget=Budget(), restarts=0, wanted=life.wanted if wanted is None else wanted)


def _launch(life: Life, at: _Moment, fresh: bool) -> Step:
    # Why it is launched again stays to be read until it has started.
    again = life.phase is Phase.BACKOFF
    life = _enter(life, Phase.STARTING, at, life.reason if again else None, life.message if again else None)
    life = replace(life, since=at.now, launched_at=None, started_at=None, exit_status=None, fresh=fresh)
    return life, (Launch(fresh),)


def _noted(life: Life, at: _Moment) -> Life:
    return replace(life, launched_at=at.now if life.launched_at is None else life.launched_at, fresh=False)


def _running(life: Life, at: _Moment) -> Life:
    life = _noted(_enter(life, Phase.RUNNING, at, None, None), at)
    budget = replace(life.budget, start_failures=0)
    return replace(life, budget=budget, started_at=at.now if life.started_at is None else life.started_at)


def _found_alive(life: Life, event: Seen, at: _Moment) -> Life:
    """It is there, in whatever phase it was thought to be."""
    known = life.before or life.phase
    if event.started or known is Phase.RUNNING:
        return _running(life, at)
    return _noted(replace(_enter(life, Phase.STARTING, at, None, None), exit_status=None), at)


def _stopping(life: Life, then: Then, at: _Moment) -> Step:
    life = _enter(replace(life, wanted=then in (Then.START, Then.RETRY)), Phase.STOPPING, at, None, None)
    return _told(life, then), (End(),)


def _told(life: Life, then: Then) -> Life:
    reason, message = _WHY[then]
    return replace(life, pending=then, reason=reason, message=message)


def _stopped(life: Life, then: Then, at: _Moment) -> Step:
    reason, message = _WHY[then]
    return _enter(replace(life, wanted=False, fresh=False), Phase.STOPPED, at, reason, message), ()


def _carry_out(life: Life, decision: Decision, at: _Moment) -> Step:
    if isinstance(decision, ComeBack):
        return _back_off(life, at, decision)
    phase = Phase.FAILED if decision.failed else Phase.FINISHED
    return _enter(life, phase, at, decision.reason, decision.message), ()


def _back_off(life: Life, at: _Moment, decision: ComeBack) -> Step:
    life = _enter(life, Phase.BACKOFF, at, decision.reason, decision.message)
    return replace(life, due=decision.at, fresh=life.fresh or decision.fresh), (Wait(decision.at),)


def _follows(event: Stop | Shutdown) -> Then:
    return Then.SHUTDOWN if isinstance(event, Shutdown) else Then.STOP


def _as_it_was_told(life: Life) -> Then:
    return Then.SHUTDOWN if life.reason == _WHY[Then.SHUTDOWN][0] else Then.STOP


def _unless_known(event: Seen) -> Cause:
    """The cause of a death while the host was away: the host's, unless the agent left an exit status."""
    return Cause.HOST if event.cause is Cause.CRASH and event.exit_status is None else event.cause


_WHY: Mapping[Then, tuple[str, str]] = {
    Then.STOP: ("StoppedByOperator", "A person stopped it."),
    Then.SHUTDOWN: ("Shutdown", "The fleet was shut down."),
    Then.START: ("Restarting", "A person wants it up again; what is there is ended first."),
    Then.RETRY: ("StartTimedOut", "It was silent for too long at its start; it is ended."),
}
