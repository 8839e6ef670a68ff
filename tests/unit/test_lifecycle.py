"""The life table, over every order of events (see tests/lives.py)."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import lifecycle
from fleet.health.restart import Cause, Policy
from fleet.lifecycle import (
    EVENTS,
    TRANSITIONS,
    Action,
    Died,
    Elapsed,
    End,
    Ended,
    Event,
    Launch,
    Launched,
    Life,
    Lost,
    Reset,
    Restart,
    Seen,
    Shutdown,
    Start,
    Started,
    StartTimedOut,
    Stop,
    Then,
    Wait,
    step,
)
from fleet.terms import Phase
from tests.lives import EVERY_EVENT, NOW, POLICIES, Edge, explored, told_up_after

PARKED = (Phase.FINISHED, Phase.FAILED)
TELLS = (Start, Stop, Restart, Reset, Shutdown)


@pytest.fixture(params=sorted(POLICIES))
def edges(request: pytest.FixtureRequest) -> tuple[Edge, ...]:
    return explored(request.param)


# -- the table -------------------------------------------------------------------------------------------------


def test_every_phase_has_an_answer_to_every_event() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert set(EVENTS) == set(get_args(Event)) == {type(event) for event in EVERY_EVENT}
    for phase, answers in TRANSITIONS.items():
        assert set(answers) == set(EVENTS), phase


def test_every_phase_can_be_reached_and_every_action_happens() -> None:
    reached = {edge.after.phase for name in POLICIES for edge in explored(name)}
    done = {type(action) for name in POLICIES for edge in explored(name) for action in edge.actions}
    assert reached == set(Phase)
    assert done == {Launch, End, Wait}


# -- promises over every order of events -----------------------------------------------------------------------


def test_who_was_told_to_stop_never_comes_back_by_itself(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        if not told_up_after(edge.before, edge.event):
            assert not edge.after.wanted or edge.after.phase in PARKED, edge
            assert edge.after.phase not in (Phase.STARTING, Phase.RUNNING, Phase.BACKOFF), edge
            assert not any(isinstance(action, Launch | Wait) for action in edge.actions), edge


def test_a_launch_is_made_only_of_an_agent_that_is_wanted(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        if any(isinstance(action, Launch) for action in edge.actions):
            assert edge.after.wanted, edge
            assert edge.after.phase is Phase.STARTING, edge


def test_there_is_never_a_second_launch_while_the_first_may_live(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        launches = sum(isinstance(action, Launch) for action in edge.actions)
        assert launches <= (0 if edge.there else 1), edge


def test_what_lives_is_never_taken_for_gone(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        if edge.there:
            assert edge.after.may_live, edge


def test_one_that_is_parked_stays_so_until_a_person_acts(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        if edge.before.life.phase in PARKED and not isinstance(edge.event, TELLS):
            assert not any(isinstance(action, Launch | Wait) for action in edge.actions), edge
            seen_alive = isinstance(edge.event, Seen) and edge.event.alive
            assert edge.after == edge.before.life or seen_alive, edge


def test_a_host_that_cannot_be_read_changes_nothing_but_what_is_known(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        if isinstance(edge.event, Lost):
            assert edge.actions == (), edge
            assert edge.after.budget == edge.before.life.budget, edge
            assert edge.after.wanted == edge.before.life.wanted, edge


def test_a_host_that_is_back_shows_the_agent_as_it_was(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        life = edge.before.life
        if isinstance(edge.event, Lost) and life.phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING):
            back, actions = step(edge.after, Seen(alive=True), NOW + 3600, Policy())
            assert (back.phase, back.budget, back.pending) == (life.phase, life.budget, life.pending), edge
            assert actions == ((End(),) if life.phase is Phase.STOPPING else ()), edge


def test_a_loss_of_host_or_multiplexer_charges_no_budget(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        gone = getattr(edge.event, "cause", None) is Cause.MULTIPLEXER or (
            edge.event == Seen(alive=False) and edge.before.life.phase is Phase.UNVERIFIABLE
        )
        if gone:
            kept, now = edge.before.life.budget, edge.after.budget
            assert now.deaths in (kept.deaths, ()), edge
            assert now.start_failures <= kept.start_failures, edge


def test_the_same_sight_again_changes_nothing_more(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        # After a launch, the sight would be of that one.
        if isinstance(edge.event, Seen) and edge.after.phase is not Phase.STARTING:
            again, _ = step(edge.after, edge.event, NOW, POLICIES["on-failure"])
            assert (again.budget, again.wanted) == (edge.after.budget, edge.after.wanted), edge
            assert again.phase is edge.after.phase, edge


def test_only_what_could_live_can_die(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        if isinstance(edge.event, Died) and not edge.before.life.may_live:
            assert (edge.after, edge.actions) == (edge.before.life, ()), edge


def test_each_phase_holds_only_what_belongs_to_it(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        life = edge.after
        assert (life.due is not None) == (life.phase is Phase.BACKOFF), edge
        assert (life.before is not None) == (life.phase is Phase.UNVERIFIABLE), edge
        assert life.before in (None, Phase.STARTING, Phase.RUNNING, Phase.STOPPING), edge
        assert (life.pending is not None) == (life.phase is Phase.STOPPING) or life.phase is Phase.UNVERIFIABLE, edge
        if life.phase in (Phase.STARTING, Phase.RUNNING, Phase.BACKOFF):
            assert life.wanted, edge
        if Phase.STOPPING in (life.phase, life.before):
            assert life.wanted == (life.pending in (Then.START, Then.RETRY)), edge
        if life.phase is Phase.STOPPED:
            assert not life.wanted, edge
        if Phase.RUNNING in (life.phase, life.before):
            assert life.started_at is not None, edge
        if life.phase not in (Phase.STARTING, Phase.RUNNING, Phase.STOPPED):
            assert life.reason, edge
            assert life.message or edge.before.life.phase is life.phase, edge


def test_a_wait_is_due_when_the_life_says_so(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        for action in edge.actions:
            if isinstance(action, Wait):
                assert action.until == edge.after.due, edge


def test_nothing_is_ended_that_is_to_run_on(edges: tuple[Edge, ...]) -> None:
    for edge in edges:
        if End() in edge.actions:
            assert edge.after.phase is Phase.STOPPING, edge


def test_every_life_survives_being_written_down(edges: tuple[Edge, ...]) -> None:
    for life in {edge.before.life for edge in edges}:
        assert Life.from_json(json.loads(json.dumps(life.to_json()))) == life


# -- where it all leads ----------------------------------------------------------------------------------------


def _play_out(life: Life, alive: bool, policy: Policy, actions: tuple[Action, ...]) -> tuple[Life, bool]:
    """A host that does as it is told and a program that runs, until nothing is left to do."""
    now, todo = NOW, deque(actions)
    for _ in range(12):
        if not todo:
            return life, alive
        heard: tuple[Event, ...]
        match todo.popleft():
            case Launch():
                assert not alive, life
                alive, heard = True, (Launched(), Started())
            case End():
                alive, heard = False, (Ended(),)
            case Wait(until=until):
                now, heard = max(now, until), (Elapsed(),)
        for event in heard:
            life, more = step(life, event, now, policy)
            todo.extend(more)
    raise AssertionError(f"no rest: {life}")


@pytest.mark.parametrize("alive", [True, False])
def test_a_daemon_killed_between_the_ledger_and_the_deed_puts_things_right(
    edges: tuple[Edge, ...], alive: bool
) -> None:
    for life in {edge.before.life for edge in edges}:
        # What was to be done is lost; a new daemon reads the ledger and looks.
        kept = Life.from_json(json.loads(json.dumps(life.to_json())))
        seen, actions = step(kept, Seen(alive=alive, started=True), NOW, Policy())
        rest, lives = _play_out(seen, alive, Policy(), actions)
        assert lives == (rest.phase is Phase.RUNNING), life
        if kept.wanted and kept.phase not in PARKED:
            assert lives, life
        if not kept.wanted:
            assert rest.phase in (Phase.STOPPED, *PARKED), life


def test_a_life_that_is_carried_on_comes_to_rest(edges: tuple[Edge, ...]) -> None:
    for edge in {(edge.after, edge.actions, edge.there) for edge in edges if edge.actions}:
        life, actions, there = edge
        if actions == (End(),) or not there:
            rest, lives = _play_out(life, there, Policy(), actions)
            assert lives == (rest.phase is Phase.RUNNING) == life.wanted, life


# -- stories that are promises of their own --------------------------------------------------------------------


def _after(*events: Event, policy: Policy | None = None, now: float = NOW, apart: float = 1.0) -> Life:
    life = Life.new(now)
    for number, event in enumerate(events):
        life, _ = step(life, event, now + number * apart, policy or Policy())
    return life


UP = (Start(), Launched(), Started())


def test_a_person_s_start_clears_what_was_used_up() -> None:
    life = _after(*UP, Died(1), Elapsed(), Started())
    assert (life.restarts, len(life.budget.deaths)) == (1, 1)
    life, actions = step(_after(*UP, *(Died(1), Elapsed(), Started()) * 2, Stop(), Ended()), Start(), NOW, Policy())
    assert actions == (Launch(),)
    assert (life.restarts, life.budget.deaths) == (0, ())


def test_a_start_that_finds_it_running_changes_nothing() -> None:
    life = _after(*UP, Died(1), Elapsed(), Started())
    assert step(life, Start(fresh=True), NOW, Policy()) == (life, ())


def test_a_reset_brings_a_parked_agent_back_through_the_brake() -> None:
    life = _after(*UP, Died(1, Cause.UNRECOVERABLE))
    assert (life.phase, life.reason) == (Phase.FAILED, "Unrecoverable")
    life, actions = step(life, Reset(), NOW, Policy())
    assert (life.phase, actions) == (Phase.BACKOFF, (Wait(NOW),))


def test_a_reset_does_not_start_what_is_stopped_or_finished() -> None:
    for life in (_after(*UP, Stop(), Ended()), _after(*UP, Died(0))):
        assert step(life, Reset(), NOW, Policy()) == (life, ())


def test_a_restart_ends_the_old_launch_before_the_new_one() -> None:
    life, actions = step(_after(*UP), Restart(fresh=True), NOW, Policy())
    assert actions == (End(),)
    life, actions = step(life, Died(143), NOW, Policy())
    assert (life.phase, actions) == (Phase.STOPPING, ())
    life, actions = step(life, Ended(), NOW, Policy())
    assert (life.phase, actions) == (Phase.STARTING, (Launch(fresh=True),))


def test_a_stop_outweighs_the_restart_under_way() -> None:
    life = _after(*UP, Restart(), Stop(), Ended())
    assert (life.phase, life.reason, life.wanted) == (Phase.STOPPED, "StoppedByOperator", False)


def test_a_stop_while_the_host_is_away_is_carried_out_when_it_is_back() -> None:
    life = _after(*UP, Lost(), Stop())
    assert (life.phase, life.wanted) == (Phase.UNVERIFIABLE, False)
    life, actions = step(life, Seen(alive=True, started=True), NOW, Policy())
    assert (life.phase, actions) == (Phase.STOPPING, (End(),))
    life, actions = step(life, Ended(), NOW, Policy())
    assert (life.phase, life.reason, actions) == (Phase.STOPPED, "StoppedByOperator", ())


def test_a_shutdown_is_told_from_a_stop_also_through_a_lost_host() -> None:
    assert _after(*UP, Shutdown(), Lost(), Seen(alive=True), Ended()).reason == "Shutdown"
    assert _after(*UP, Stop(), Lost(), Seen(alive=True), Ended()).reason == "StoppedByOperator"


def test_a_stop_that_overtakes_a_launch_ends_it_after_all() -> None:
    life, actions = step(_after(Start(), Stop(), Ended()), Launched(), NOW, Policy())
    assert (life.phase, life.wanted, actions) == (Phase.STOPPING, False, (End(),))


def test_an_exit_seen_after_the_host_is_back_is_judged_by_its_status() -> None:
    assert _after(*UP, Lost(), Seen(alive=False, exit_status=0)).phase is Phase.FINISHED
    crashed = _after(*UP, Lost(), Seen(alive=False, exit_status=1))
    assert (crashed.phase, len(crashed.budget.deaths)) == (Phase.BACKOFF, 1)
    vanished = _after(*UP, Lost(), Seen(alive=False))
    assert (vanished.phase, vanished.reason, vanished.budget.deaths) == (Phase.BACKOFF, "HostLost", ())


def test_a_launch_that_was_written_down_and_never_made_is_made() -> None:
    life, actions = step(_after(Start(fresh=True)), Seen(alive=False), NOW, Policy())
    assert (life.phase, actions) == (Phase.STARTING, (Launch(fresh=True),))


def test_a_launch_that_was_made_and_died_while_nobody_looked_is_a_failed_start() -> None:
    life, actions = step(_after(Start(), Launched()), Seen(alive=False, exit_status=2), NOW, Policy())
    assert (life.phase, life.budget.start_failures, actions) == (Phase.BACKOFF, 1, (Wait(NOW + 5.0),))


def test_a_backoff_goes_on_from_its_due_time_after_the_daemon_s_restart() -> None:
    life = _after(*UP, Died(1), Elapsed(), Started(), Died(1))
    assert life.due is not None
    assert step(life, Seen(alive=False), life.due + 60, Policy()) == (life, (Wait(life.due),))


def test_a_timer_of_an_older_wait_does_not_shorten_a_later_one() -> None:
    life = _after(*UP, Died(1), Elapsed(), Started(), Died(1))
    assert life.due is not None
    assert step(life, Elapsed(), life.due - 3, Policy()) == (life, (Wait(life.due),))


def test_a_resume_that_dies_at_once_gets_one_new_conversation_and_never_a_second() -> None:
    life = _after(*UP, Died(1, resumed_within=True))
    assert (life.reason, life.fresh, life.budget.deaths) == ("ResumeFailed", True, ())
    life, actions = step(life, Elapsed(), NOW + 10, Policy())
    assert actions == (Launch(fresh=True),)
    for event in (Launched(), Started(), Died(1, resumed_within=True)):
        life, actions = step(life, event, NOW + 11, Policy())
    assert (life.reason, life.fresh, len(life.budget.deaths)) == ("Crashed", False, 1)


def test_a_start_that_succeeds_forgives_those_that_failed() -> None:
    failed = (Start(), Launched(), Died(1))
    assert _after(*failed).budget.start_failures == 1
    assert _after(*failed, Elapsed(), Launched(), Started(), apart=20.0).budget.start_failures == 0


def test_a_silent_start_is_ended_before_it_is_tried_again() -> None:
    life, actions = step(_after(Start(), Launched()), StartTimedOut(), NOW, Policy())
    assert (life.phase, actions) == (Phase.STOPPING, (End(),))
    life, actions = step(life, Ended(), NOW, Policy())
    assert (life.phase, life.reason, actions) == (Phase.BACKOFF, "StartTimedOut", (Wait(NOW + 5.0),))


def test_what_the_program_said_of_its_death_reaches_the_operator() -> None:
    life = _after(Start(), Launched(), Died(1, message="Unknown model opus-9."))
    assert life.message == (
        "The start failed: it exited with status 1 (Unknown model opus-9) before it had started. "
        "It is tried again after 5 s."
    )


def test_a_field_that_a_newer_version_has_written_is_passed_over() -> None:
    stored = {**Life.new(NOW).to_json(), "colour": "blue"}
    assert Life.from_json(stored) == Life.new(NOW)


def test_a_field_that_an_older_version_has_not_written_has_its_default() -> None:
    bare = Life(wanted=False, phase=Phase.STOPPED, since=NOW)
    assert Life.from_json({"wanted": False, "phase": "stopped", "since": NOW}) == bare


# -- long runs -------------------------------------------------------------------------------------------------

FACTS = tuple(event for event in EVERY_EVENT if not isinstance(event, TELLS))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FACTS), st.sampled_from((0.0, 0.3, 4.0, 30.0, 400.0))), max_size=120))
def test_no_run_of_bad_luck_gets_more_launches_than_the_budget_allows(run: list[tuple[Event, float]]) -> None:
    policy, now, died = Policy(), NOW, []
    life, _ = step(Life.new(now), Start(), now, policy)
    failed = 0
    for event, passed in run:
        now += passed
        before = life
        life, _ = step(before, event, now, policy)
        if life.phase is Phase.RUNNING:
            failed = 0
        if life.budget.start_failures > before.budget.start_failures:
            failed += 1
        if len(life.budget.deaths) and life.budget.deaths[-1] == now and life.budget != before.budget:
            # Counted here on its own: the deaths since the last run that lasted.
            assert before.started_at is not None
            if now - before.started_at >= policy.reset_after:
                died = []
            died.append(now)
        recent = [at for at in died if at > now - policy.window]
        if life.phase is Phase.BACKOFF:
            assert failed <= len(policy.start_backoff)
            assert len(recent) < policy.max_retries
        if life.phase is Phase.FAILED and life.reason == "CrashLoop" and before.phase is not Phase.FAILED:
            assert len(recent) == policy.max_retries


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(EVERY_EVENT), max_size=80), st.floats(-1, 1), st.sampled_from(sorted(POLICIES)))
def test_a_long_run_is_the_same_whether_or_not_it_is_written_down_in_between(
    run: list[Event], chance: float, name: str
) -> None:
    policy = replace(POLICIES[name], jitter=chance)
    life, written = Life.new(NOW), Life.new(NOW)
    for number, event in enumerate(run):
        life, actions = step(life, event, NOW + number, policy)
        stored = Life.from_json(json.loads(json.dumps(written.to_json())))
        written, same = step(stored, event, NOW + number, policy)
        assert (written, same) == (life, actions)


def test_every_transition_says_what_it_does() -> None:
    for answers in TRANSITIONS.values():
        for transition in answers.values():
            assert transition.__doc__, transition
            assert transition is getattr(lifecycle, transition.__name__)
