"""Whether the dead come back, and when: the numbers of the promise, and what no number may do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.health.restart import (
    NOBODYS_FAULT,
    Budget,
    Cause,
    ComeBack,
    Death,
    Policy,
    StayDown,
    after_death,
    after_failed_start,
    backoff,
    failed_start,
    manner,
    within,
)

NOW = 1_000_000.0
CRASH = Death(exit_status=1, started_at=NOW - 60)
NO_START = Death(exit_status=1)


def decide(death: Death, budget: Budget | None = None, policy: Policy | None = None) -> ComeBack | StayDown:
    return after_death(death, budget or Budget(), NOW, policy or Policy())[1]


def test_the_first_death_comes_back_at_once_then_ever_later_and_the_fifth_parks() -> None:
    budget, now, waits = Budget(), NOW, []
    for _ in range(4):
        budget, decision = after_death(replace(CRASH, started_at=now - 1), budget, now, Policy())
        assert isinstance(decision, ComeBack)
        waits.append(decision.at - now)
        now = decision.at + 1
    assert waits == [0.0, 10.0, 20.0, 40.0]
    budget, decision = after_death(replace(CRASH, started_at=now - 1), budget, now, Policy())
    assert decision == StayDown(True, "CrashLoop", "5 deaths within 900 s; last, it exited with status 1.")


def test_a_limit_of_none_never_parks_and_never_waits_longer_than_the_most() -> None:
    policy = Policy(max_retries=0)
    budget = Budget(deaths=(NOW - 1,) * 500)
    _, decision = after_death(CRASH, budget, NOW, policy)
    assert isinstance(decision, ComeBack)
    assert decision.at == NOW + 300


@pytest.mark.parametrize(("chance", "least", "most"), [(-1.0, 8.0, 240.0), (0.0, 10.0, 300.0), (1.0, 12.0, 360.0)])
def test_a_wait_differs_by_a_fifth_at_most(chance: float, least: float, most: float) -> None:
    policy = Policy(jitter=chance)
    assert backoff(1, policy) == 0.0
    assert backoff(2, policy) == pytest.approx(least)
    assert backoff(20, policy) == pytest.approx(most)


@given(
    st.integers(1, 10_000),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.floats(1, 1e6),
    st.floats(-1, 1),
)
def test_no_number_makes_a_wait_that_cannot_be_waited(
    recent: int, initial: float, most: float, multiplier: float, chance: float
) -> None:
    policy = Policy(backoff_initial=initial, backoff_max=most, multiplier=multiplier, jitter=chance)
    assert 0.0 <= backoff(recent, policy) <= most * 1.2 + 1e-6


def test_waits_grow_with_every_death() -> None:
    waits = [backoff(count, Policy()) for count in range(1, 12)]
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300]


def test_deaths_before_the_window_do_not_count() -> None:
    old = Budget(deaths=(NOW - 1000, NOW - 950, NOW - 901, NOW - 900))
    budget, decision = after_death(CRASH, old, NOW, Policy())
    assert (budget.deaths, decision.at if isinstance(decision, ComeBack) else None) == ((NOW,), NOW)


def test_a_clock_set_back_neither_forgives_nor_condemns_for_longer() -> None:
    assert within((NOW + 3600, NOW - 1), NOW, 900) == (NOW, NOW - 1)


def test_a_run_that_lasted_is_forgiven_everything() -> None:
    used = Budget(deaths=(NOW - 500,) * 4, auth_failures=1, renewed=True)
    budget, decision = after_death(replace(CRASH, started_at=NOW - 600), used, NOW, Policy())
    assert budget == Budget(deaths=(NOW,))
    assert isinstance(decision, ComeBack) and decision.at == NOW
    assert decide(replace(CRASH, started_at=NOW - 599), used) == StayDown(
        True, "CrashLoop", "5 deaths within 900 s; last, it exited with status 1."
    )


def test_a_start_that_fails_is_tried_after_5_15_and_45_seconds_and_then_no_more() -> None:
    budget, waits = Budget(), []
    for _ in range(3):
        budget, decision = after_death(NO_START, budget, NOW, Policy())
        assert isinstance(decision, ComeBack)
        waits.append(decision.at - NOW)
    assert waits == [5.0, 15.0, 45.0]
    budget, decision = after_death(NO_START, budget, NOW, Policy())
    assert isinstance(decision, StayDown)
    assert (decision.failed, decision.reason) == (True, "StartFailed")
    assert "4 starts failed in a row" in decision.message


def test_failed_starts_and_deaths_are_counted_apart() -> None:
    budget, _ = after_death(NO_START, Budget(deaths=(NOW - 1,)), NOW, Policy())
    assert budget == Budget(deaths=(NOW - 1,), start_failures=1)
    budget, _ = after_death(CRASH, Budget(start_failures=2), NOW, Policy())
    assert budget == Budget(deaths=(NOW,), start_failures=2)


@pytest.mark.parametrize("started_at", [None, NOW - 60])
def test_a_clean_exit_is_no_failure(started_at: float | None) -> None:
    down = decide(Death(exit_status=0, started_at=started_at))
    assert isinstance(down, StayDown)
    assert (down.failed, down.reason) == (False, "ExitedCleanly")


def test_always_brings_back_a_clean_exit_too() -> None:
    assert isinstance(decide(replace(CRASH, exit_status=0), policy=Policy(policy="always")), ComeBack)


def test_a_death_without_a_status_is_a_failure() -> None:
    back = decide(replace(CRASH, exit_status=None))
    assert isinstance(back, ComeBack)
    assert back.message == "It died without an exit status; it comes back at once."


def test_exit_codes_can_be_listed_as_success_or_as_the_end() -> None:
    policy = Policy(success_exit_codes=(0, 3), never_exit_codes=(4,))
    succeeded, ended, failed = (decide(replace(CRASH, exit_status=code), policy=policy) for code in (3, 4, 5))
    assert isinstance(succeeded, StayDown) and succeeded.reason == "ExitedCleanly"
    assert isinstance(ended, StayDown) and (ended.failed, ended.reason) == (False, "Exited")
    assert isinstance(failed, ComeBack)
    always = decide(replace(CRASH, exit_status=4), policy=replace(policy, policy="always"))
    assert isinstance(always, StayDown)


@pytest.mark.parametrize("cause", list(Cause))
@pytest.mark.parametrize("status", [0, 1, None])
@pytest.mark.parametrize("started_at", [None, NOW - 60])
@pytest.mark.parametrize("resumed", [True, False])
def test_never_is_never(cause: Cause, status: int | None, started_at: float | None, resumed: bool) -> None:
    death = Death(exit_status=status, cause=cause, started_at=started_at, resumed_within=resumed, resets_at=NOW)
    assert isinstance(decide(death, policy=Policy(policy="never", auto_resume=True)), StayDown)


def test_an_auth_error_gets_one_more_try_then_holds() -> None:
    budget, first = after_death(replace(CRASH, cause=Cause.AUTH), Budget(), NOW, Policy())
    assert isinstance(first, ComeBack) and first.reason == "AuthFailed"
    _, second = after_death(replace(CRASH, cause=Cause.AUTH), budget, NOW, Policy())
    assert isinstance(second, StayDown)
    assert (second.failed, second.reason) == (True, "AuthFailed")


def test_an_auth_error_in_a_long_run_is_a_first_one_again() -> None:
    death = Death(exit_status=1, cause=Cause.AUTH, started_at=NOW - 3600)
    assert isinstance(decide(death, Budget(auth_failures=1)), ComeBack)


def test_a_usage_limit_holds_until_it_ends_and_a_while_more() -> None:
    policy, death = Policy(auto_resume=True), replace(CRASH, cause=Cause.LIMIT, resets_at=NOW + 3600)
    waits = []
    for chance in (-1.0, 0.0, 1.0):
        budget, decision = after_death(death, Budget(), NOW, replace(policy, jitter=chance))
        assert isinstance(decision, ComeBack) and decision.reason == "UsageLimit"
        assert budget == Budget()
        waits.append(decision.at - NOW - 3600)
    assert waits == [60.0, 180.0, 300.0]


def test_a_usage_limit_that_should_be_over_is_waited_for_still() -> None:
    back = decide(replace(CRASH, cause=Cause.LIMIT, resets_at=NOW - 3600), policy=Policy(auto_resume=True, jitter=-1))
    assert isinstance(back, ComeBack) and back.at == NOW + 60


@pytest.mark.parametrize(("auto", "resets_at"), [(False, NOW + 60), (True, None)])
def test_a_usage_limit_holds_for_a_person_where_nobody_said_to_resume_or_when(
    auto: bool, resets_at: float | None
) -> None:
    death = replace(CRASH, cause=Cause.LIMIT, resets_at=resets_at)
    budget, down = after_death(death, Budget(), NOW, Policy(auto_resume=auto))
    assert isinstance(down, StayDown) and (down.failed, down.reason) == (True, "UsageLimit")
    assert budget == Budget()


@pytest.mark.parametrize("policy", ["never", "on-failure", "always"])
def test_a_start_that_can_only_fail_again_is_never_retried(policy: str) -> None:
    down = decide(replace(NO_START, cause=Cause.UNRECOVERABLE), policy=Policy(policy=policy))  # type: ignore[arg-type]
    assert isinstance(down, StayDown) and (down.failed, down.reason) == (True, "Unrecoverable")


@pytest.mark.parametrize("cause", sorted(NOBODYS_FAULT))
@pytest.mark.parametrize("death", [CRASH, NO_START, replace(CRASH, exit_status=0)])
def test_a_loss_that_is_nobody_s_fault_costs_nothing_however_often(cause: Cause, death: Death) -> None:
    used = Budget(deaths=(NOW - 1,) * 4, start_failures=3, auth_failures=1, renewed=True)
    budget, decision = after_death(replace(death, cause=cause), used, NOW, Policy())
    assert budget == used
    assert isinstance(decision, ComeBack) and (decision.at, decision.reason) == (NOW, NOBODYS_FAULT[cause])


def test_a_resume_that_fails_gets_one_fresh_start() -> None:
    for death in (replace(CRASH, resumed_within=True), replace(NO_START, resumed_within=True)):
        budget, decision = after_death(death, Budget(), NOW, Policy())
        assert isinstance(decision, ComeBack) and decision.fresh and decision.at == NOW
        assert budget == Budget(renewed=True)
        again, decision = after_death(death, budget, NOW, Policy())
        assert isinstance(decision, ComeBack) and not decision.fresh
        assert again.deaths or again.start_failures


@pytest.mark.parametrize("status", [None, 129, 130, 137, 143])
def test_a_program_ended_from_outside_keeps_its_conversation(status: int | None) -> None:
    back = decide(replace(CRASH, exit_status=status, resumed_within=True))
    assert isinstance(back, ComeBack) and not back.fresh


@pytest.mark.parametrize("cause", [Cause.AUTH, Cause.LIMIT, Cause.MULTIPLEXER, Cause.HOST])
def test_a_conversation_is_not_given_up_for_what_is_not_its_fault(cause: Cause) -> None:
    death = replace(CRASH, cause=cause, resumed_within=True, resets_at=NOW)
    decision = decide(death, policy=Policy(auto_resume=True))
    assert isinstance(decision, ComeBack) and not decision.fresh


def test_a_budget_that_was_cleared_meanwhile_lets_a_failed_start_go_at_once() -> None:
    _, decision = after_failed_start(Budget(), NOW, Policy(), "StartTimedOut", "it was silent")
    assert isinstance(decision, ComeBack) and decision.at == NOW


def test_no_waits_means_no_second_start() -> None:
    _, decision = after_failed_start(failed_start(Budget()), NOW, Policy(start_backoff=()), "Reason", "it broke")
    assert decision == StayDown(True, "StartFailed", "1 start failed in a row; last, it broke.")


def test_the_manner_of_a_death_can_be_read() -> None:
    assert manner(3) == "exited with status 3"
    assert manner(137) == "was ended by SIGKILL (status 137)"
    assert manner(255) == "exited with status 255"
    assert manner(None) == "died without an exit status"


@given(
    st.builds(
        Death,
        exit_status=st.sampled_from((None, 0, 1, 2, 137, 255)),
        cause=st.sampled_from(Cause),
        started_at=st.none() | st.floats(NOW - 2000, NOW + 2000),
        resumed_within=st.booleans(),
        resets_at=st.none() | st.floats(NOW - 9000, NOW + 9000),
        words=st.none() | st.text(max_size=20),
    ),
    st.builds(
        Budget,
        deaths=st.lists(st.floats(NOW - 2000, NOW + 2000), max_size=8).map(tuple),
        start_failures=st.integers(0, 6),
        auth_failures=st.integers(0, 3),
        renewed=st.booleans(),
    ),
    st.sampled_from(("never", "on-failure", "always")),
    st.floats(-1, 1),
)
def test_every_death_has_a_decision_with_a_reason_and_no_wait_lies_in_the_past(
    death: Death, budget: Budget, policy: str, chance: float
) -> None:
    rules = Policy(policy=policy, jitter=chance, auto_resume=True)  # type: ignore[arg-type]
    _, decision = after_death(death, budget, NOW, rules)
    assert decision.reason.isidentifier() and decision.reason[0].isupper()
    assert decision.message.endswith((".", '."'))
    if isinstance(decision, ComeBack):
        assert decision.at >= NOW


def test_who_is_down_with_its_job_says_which_job_or_booking_that_was() -> None:
    released = replace(NO_START, cause=Cause.CANCELLED, words="its booking pool was released")
    end = decide(released)
    assert end == StayDown(False, "JobCancelled", "Its booking pool was released. `fleet start` brings it back.")
    assert "Somebody cancelled its job" in decide(replace(released, words=None)).message
