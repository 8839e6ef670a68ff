"""The brake: how many restarts may go, how many agents come back at a time, when deaths are doubted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.brake import Bucket, Ramp, Toll

NOW = 1_000_000.0
EVERY = 5.0


def test_a_burst_goes_at_once_and_the_rest_one_by_one() -> None:
    bucket, now, times = Bucket.full(5, NOW), NOW, []
    while len(times) < 8:
        bucket, wait = bucket.take(now, every=EVERY)
        if wait:
            now += wait
        else:
            times.append(now - NOW)
    assert times == pytest.approx([0, 0, 0, 0, 0, 5, 10, 15])


def test_a_refusal_takes_nothing() -> None:
    bucket = Bucket(5, 0.5, NOW)
    bucket, wait = bucket.take(NOW, every=EVERY)
    assert (bucket.level, wait) == (0.5, 2.5)
    bucket, wait = bucket.take(NOW + 2.5, every=EVERY)
    assert (bucket.level, wait) == (0.0, 0.0)


def test_a_long_rest_saves_up_no_more_than_a_burst() -> None:
    bucket, _ = Bucket(5, 0.0, NOW).take(NOW + 86400, every=EVERY)
    assert bucket.level == 4.0


def test_a_clock_that_is_set_back_takes_nothing_and_gives_nothing() -> None:
    bucket, wait = Bucket(5, 2.0, NOW).take(NOW - 3600, every=EVERY)
    assert (bucket.level, wait) == (1.0, 0.0)
    bucket, wait = bucket.take(NOW - 3595, every=EVERY)
    assert (bucket.level, wait) == (1.0, 0.0)


def test_no_pause_at_all_is_no_brake() -> None:
    bucket = Bucket(5, 0.0, NOW)
    for _ in range(20):
        bucket, wait = bucket.take(NOW, every=0.0)
        assert wait == 0.0


@given(st.integers(0, 12), st.floats(0, 12), st.floats(-10, 100), st.integers(0, 12))
def test_many_at_once_are_as_many_as_one_by_one(burst: int, level: float, later: float, wanted: int) -> None:
    full = Bucket(burst, min(float(burst), level), NOW)
    one_by_one, taken = full, 0
    while taken < wanted:
        one_by_one, wait = one_by_one.take(NOW + later, every=EVERY)
        if wait:
            break
        taken += 1
    assert min(wanted, full.left(NOW + later, every=EVERY)) == taken
    if taken:
        at_once = full.less(taken, NOW + later, every=EVERY)
        assert at_once.level == pytest.approx(one_by_one.level, abs=1e-6)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=200), st.integers(1, 10), st.floats(0.1, 60))
def test_no_pattern_of_asking_gets_more_than_the_rate_allows(pauses: list[float], burst: int, every: float) -> None:
    bucket, now, taken = Bucket.full(burst, NOW), NOW, 0
    for pause in pauses:
        now += pause
        bucket, wait = bucket.take(now, every=every)
        taken += wait == 0.0
        assert wait >= 0.0
        assert taken <= burst + (now - NOW) / every + 1e-3


@given(st.integers(1, 10), st.floats(0.1, 60), st.floats(0, 1))
def test_who_waits_as_long_as_told_is_let_go(burst: int, every: float, level: float) -> None:
    bucket, wait = Bucket(burst, level, NOW).take(NOW, every=every)
    if wait:
        _, wait = bucket.take(NOW + wait, every=every)
    assert wait == pytest.approx(0.0, abs=1e-5)


def test_agents_come_back_a_few_at_a_time() -> None:
    ramp = Ramp(parallel=2, halt_after=3)
    ramp = ramp.begin("a").begin("b")
    assert not ramp.open
    assert ramp.succeeded("a").open
    assert ramp.failed("a").open
    assert ramp.left("a").open


def test_failed_starts_in_a_row_halt_the_ramp_and_say_so() -> None:
    ramp = Ramp(parallel=4, halt_after=3)
    for name in "abc":
        assert ramp.open and ramp.note is None
        ramp = ramp.begin(name).failed(name)
    assert ramp.halted and not ramp.open
    assert ramp.note is not None and ramp.note.startswith("3 starts in a row failed")


def test_a_start_that_succeeds_in_between_keeps_the_ramp_going() -> None:
    ramp = Ramp(parallel=4, halt_after=3)
    for name in "abcdefgh":
        ramp = ramp.begin(name)
        ramp = ramp.succeeded(name) if name in "cf" else ramp.failed(name)
    assert not ramp.halted


def test_a_late_success_or_a_person_sets_a_halted_ramp_going_again() -> None:
    ramp = Ramp(parallel=4, halt_after=3)
    for name in "abcd":
        ramp = ramp.begin(name)
    for name in "abc":
        ramp = ramp.failed(name)
    assert ramp.halted
    assert ramp.succeeded("d").open
    assert ramp.lifted().open


def test_one_failed_start_told_twice_counts_once() -> None:
    ramp = Ramp(parallel=4, halt_after=3).begin("a").failed("a").failed("a").failed("a")
    assert (ramp.failures, ramp.halted) == (1, False)


def test_a_ramp_without_a_limit_is_never_halted() -> None:
    ramp = Ramp(parallel=4, halt_after=0)
    for name in "abcdef":
        ramp = ramp.begin(name).failed(name)
    assert ramp.open


def test_deaths_in_a_crowd_are_many_from_the_third_on() -> None:
    toll, answers = Toll(3, 30.0), []
    for at in (0.0, 10.0, 20.0, 20.0):
        toll = toll.strike(NOW + at)
        answers.append(toll.many)
    assert answers == [False, False, True, True]


def test_deaths_far_apart_are_never_many() -> None:
    toll = Toll(3, 30.0)
    for at in range(0, 1000, 16):
        toll = toll.strike(NOW + at)
        assert not toll.many
    assert len(toll.deaths) <= 3
