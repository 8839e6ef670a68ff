"""The walltime hand-off, over every order of events, of whatever length: all facts that can be reached are visited."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import pytest

from fleet.runtimes.handoff import (
    FACTS,
    TRIES,
    Action,
    AskToWriteDown,
    Cancel,
    Ended,
    Event,
    Find,
    Follow,
    Handoff,
    Leave,
    NotFound,
    Outcome,
    Refused,
    Report,
    Signalled,
    Stage,
    Stop,
    Submit,
    Submitted,
    Successor,
    SuccessorGone,
    Told,
    Unanswered,
    Writing,
    Written,
    step,
)
from fleet.runtimes.slurm_queue import Cause

OLD, NEW, OTHER = "100", "101", "102"
EVENTS: tuple[Event, ...] = (
    Signalled(),
    Written(),
    Submitted(OLD),
    Submitted(NEW),
    Submitted(OTHER),
    Refused(),
    Refused(for_good=True),
    Unanswered(),
    NotFound(),
    *(SuccessorGone(cause) for cause in Cause),
    Told(),
    *(Ended(cause) for cause in Cause),
    Stop(),
)


@dataclass(frozen=True)
class Seen:
    """What an onlooker remembers of a history, beside the facts themselves."""

    asked: int = 0
    left: int = 0
    settled: int = 0
    ended: bool = False
    down: bool = False
    """A person stopped it, or cancelled the job."""
    called_off: bool = False
    out: bool = False
    """A submission is out, of which nothing is known."""
    attempt: int = 0
    """The latest submission's number."""
    there: frozenset[str] = frozenset()
    """Jobs that were submitted and that nobody has cancelled."""


@dataclass(frozen=True)
class Moment:
    """One step of one history."""

    before: Handoff
    past: Seen
    event: Event
    now: Handoff
    actions: tuple[Action, ...]
    seen: Seen


def noted(seen: Seen, event: Event, actions: tuple[Action, ...], before: Handoff) -> Seen:
    there = set(seen.there)
    out = seen.out
    if isinstance(event, Submitted) and event.job != OLD:
        there.add(event.job)
        out = False
    if isinstance(event, SuccessorGone) and before.successor_job is not None:
        there.discard(before.successor_job)
    if isinstance(event, Told) and before.successor_job is not None and before.ended is None:
        there.discard(before.successor_job)
    if isinstance(event, Refused) and before.successor is Successor.WANTED:
        out = False
    if isinstance(event, NotFound) and before.successor is Successor.UNSURE:
        out = False
    for action in actions:
        if isinstance(action, Cancel):
            there = set() if action.job is None else there - {action.job}
        out = out or isinstance(action, Submit)
    cancelled_it = isinstance(event, Ended) and event.cause is Cause.CANCELLED and before.ended is None
    return Seen(
        asked=min(2, seen.asked + sum(isinstance(a, AskToWriteDown) for a in actions)),
        left=min(2, seen.left + sum(isinstance(a, Leave) for a in actions)),
        settled=min(2, seen.settled + sum(isinstance(a, Follow | Report) for a in actions)),
        ended=seen.ended or isinstance(event, Ended),
        down=seen.down or isinstance(event, Stop) or cancelled_it,
        called_off=seen.called_off
        or (isinstance(event, SuccessorGone) and event.cause is Cause.CANCELLED and before.successor is Successor.KNOWN
            and before.outcome is None),
        out=out,
        attempt=max([seen.attempt, *(a.attempt for a in actions if isinstance(a, Submit))]),
        there=frozenset(there),
    )  # fmt: skip


@cache
def histories() -> tuple[Moment, ...]:
    """Every step that any order of events can lead to."""
    beginnings = [(Handoff(job=OLD), Seen()), (Handoff(job=OLD, resubmits=False), Seen())]
    known = set(beginnings)
    waiting = deque(beginnings)
    moments = []
    while waiting:
        before, seen = waiting.popleft()
        for event in EVENTS:
            now, actions = step(before, event)
            then = noted(seen, event, actions, before)
            moments.append(Moment(before, seen, event, now, actions, then))
            if (now, then) not in known:
                known.add((now, then))
                waiting.append((now, then))
    return tuple(moments)


def bad(wrong: Iterator[Moment]) -> Moment | None:
    return next(wrong, None)


def holds(moment: Moment, kind: type) -> bool:
    return any(isinstance(action, kind) for action in moment.actions)


# -- every order ------------------------------------------------------------------------------------------------------


def test_every_event_has_its_place_in_the_table() -> None:
    assert set(FACTS) == {type(event) for event in EVENTS}


def test_the_histories_reach_every_stage() -> None:
    assert {m.now.stage for m in histories()} == set(Stage)
    assert {m.now.outcome for m in histories()} == {None, *Outcome}
    assert {m.now.successor for m in histories()} == set(Successor)
    assert {m.now.writing for m in histories()} == set(Writing)


def test_nothing_is_submitted_for_whoever_was_stopped_or_cancelled() -> None:
    assert bad(m for m in histories() if m.seen.down and holds(m, Submit)) is None


def test_whoever_was_stopped_is_followed_nowhere() -> None:
    assert bad(m for m in histories() if m.seen.down and holds(m, Follow)) is None


def test_no_successor_stays_of_whoever_was_stopped() -> None:
    assert bad(m for m in histories() if m.seen.down and m.seen.there) is None


def test_a_stop_reaches_jobs_that_nobody_has_heard_of() -> None:
    first = [m for m in histories() if m.seen.down and not m.past.down]
    assert all(Cancel(None) in m.actions for m in first) and first


def test_a_successor_that_was_called_off_is_not_replaced() -> None:
    assert bad(m for m in histories() if m.seen.called_off and holds(m, Submit)) is None
    assert bad(m for m in histories() if m.seen.called_off and m.seen.there) is None


def test_calling_off_the_successor_leaves_the_job_that_runs() -> None:
    gone = SuccessorGone(Cause.CANCELLED)
    assert bad(m for m in histories() if m.event == gone and m.actions and m.before.ended is None) is None


def test_nothing_is_submitted_while_a_submission_may_have_arrived() -> None:
    assert bad(m for m in histories() if m.past.out and holds(m, Submit) and _still_out(m)) is None


def _still_out(moment: Moment) -> bool:
    settled = isinstance(moment.event, Refused | NotFound | Submitted)
    return not settled


def test_nothing_is_submitted_beside_a_successor_that_is_there() -> None:
    assert bad(m for m in histories() if m.seen.there and holds(m, Submit)) is None


def test_there_is_never_more_than_one_successor() -> None:
    assert bad(m for m in histories() if len(m.seen.there) > 1) is None


def test_submissions_that_come_to_nothing_come_to_an_end() -> None:
    attempts = {a.attempt for m in histories() for a in m.actions if isinstance(a, Submit)}
    assert attempts == set(range(1, TRIES + 1))


def test_each_submission_has_a_number_of_its_own() -> None:
    submissions = [(m, a) for m in histories() for a in m.actions if isinstance(a, Submit)]
    assert all(a.attempt > m.past.attempt for m, a in submissions)


def test_an_agent_is_asked_once_and_only_while_its_job_lives() -> None:
    assert bad(m for m in histories() if m.seen.asked > 1) is None
    assert bad(m for m in histories() if holds(m, AskToWriteDown) and m.past.ended) is None


def test_a_job_is_told_to_leave_once_and_only_when_all_is_there() -> None:
    assert bad(m for m in histories() if m.seen.left > 1) is None
    leaving = [m for m in histories() if holds(m, Leave)]
    assert all(m.now.writing is Writing.DONE and m.now.successor is Successor.KNOWN for m in leaving) and leaving


def test_an_end_is_settled_once() -> None:
    assert bad(m for m in histories() if m.seen.settled > 1) is None
    assert bad(m for m in histories() if m.seen.settled and not m.seen.ended) is None


def test_an_end_stays_open_only_while_a_successor_may_come() -> None:
    unsettled = [m for m in histories() if m.seen.ended and not m.seen.settled]
    assert all(m.now.successor in (Successor.WANTED, Successor.UNSURE) for m in unsettled) and unsettled


def test_only_a_successor_that_is_there_is_followed() -> None:
    following = [(m, a.job) for m in histories() for a in m.actions if isinstance(a, Follow)]
    assert all(job in m.seen.there for m, job in following) and following


def test_whoever_is_reported_leaves_no_successor_behind() -> None:
    assert bad(m for m in histories() if m.now.outcome is Outcome.REPORTED and m.seen.there) is None


def test_a_requeued_job_does_not_run_as_well_as_its_successor() -> None:
    both = [m for m in histories() if m.now.ended is Cause.REQUEUED and holds(m, Follow)]
    assert all(Cancel(OLD) in m.actions for m in both) and both


def test_whoever_ended_by_itself_is_for_its_policy_to_judge() -> None:
    ended = [m for m in histories() if m.event == Ended(Cause.EXITED) and not m.past.ended and not m.before.leaving]
    assert all(Report(Cause.EXITED) in m.actions or m.seen.called_off or m.seen.down for m in ended) and ended


def test_without_resubmission_nothing_is_submitted() -> None:
    assert bad(m for m in histories() if not m.now.resubmits and holds(m, Submit)) is None


# -- the ways through -------------------------------------------------------------------------------------------------


def run(*events: Event, handoff: Handoff | None = None) -> tuple[Handoff, list[Action]]:
    now, done = handoff or Handoff(job=OLD), []
    for event in events:
        now, actions = step(now, event)
        done += actions
    return now, done


def test_signalled_asked_submitted_moved() -> None:
    now, done = run(Signalled(), Submitted(NEW), Written(), Ended(Cause.EXITED))
    assert done == [AskToWriteDown(), Submit(1), Leave(), Follow(NEW)]
    assert now.stage is Stage.MOVED


def test_a_limit_reached_without_a_signal_is_followed_too() -> None:
    now, done = run(Ended(Cause.TIMEOUT), Submitted(NEW))
    assert done == [Submit(1), Follow(NEW)]
    assert now.stage is Stage.MOVED


def test_a_submission_without_an_answer_is_looked_for_before_another_is_made() -> None:
    _, done = run(Signalled(), Unanswered(), NotFound())
    assert done == [AskToWriteDown(), Submit(1), Find(), Submit(2)]
    _, done = run(Signalled(), Unanswered(), Submitted(NEW))
    assert done == [AskToWriteDown(), Submit(1), Find()]


@pytest.mark.parametrize("cause", [Cause.PREEMPTED, Cause.NODE_FAIL, Cause.REQUEUED, Cause.OUT_OF_MEMORY])
def test_an_end_out_of_turn_is_reported_with_its_own_cause(cause: Cause) -> None:
    now, done = run(Ended(cause))
    assert done == [Report(cause)]
    assert now.stage is Stage.ENDED


def test_a_job_that_is_preempted_while_it_hands_over_is_preempted_and_not_called_off() -> None:
    now, done = run(Signalled(), Submitted(NEW), Told(), SuccessorGone(Cause.CANCELLED), Ended(Cause.PREEMPTED))
    assert done[-1] == Report(Cause.PREEMPTED)
    assert now.wanted


def test_what_a_stop_met_on_its_way_is_cancelled_when_it_becomes_known() -> None:
    now, done = run(Signalled(), Stop(), Submitted(NEW), Ended(Cause.CANCELLED))
    assert done == [AskToWriteDown(), Submit(1), Cancel(None), Cancel(NEW), Report(Cause.CANCELLED)]
    assert now.stage is Stage.STOPPED


def test_two_successors_become_one() -> None:
    _, done = run(Signalled(), Submitted(NEW), Submitted(OTHER))
    assert done[-1] == Cancel(OTHER)


def test_a_successor_that_is_known_outlives_a_restart_of_whoever_watches() -> None:
    before, _ = run(Signalled(), Submitted(NEW))
    again, done = run(Submitted(NEW), Signalled(), handoff=replace(before))
    assert (again, done) == (before, [])
