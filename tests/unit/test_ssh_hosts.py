"""When a host is tried, and what is known of it meanwhile."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.runtimes.ssh_hosts import LOST, HostState, Known, answered, failed, lost, wait

STEPS = ("answers", "silent", "refuses", "is lost")


def silent(known: Known, now: float, took: float = 0.0) -> Known:
    return failed(known, HostState.UNREACHABLE, now - took, now, "no answer")


def refuses(known: Known, now: float) -> Known:
    return failed(known, HostState.UNAUTHENTICATED, now, now, "no key of ours")


def after(known: Known, step: str, now: float) -> Known:
    match step:
        case "answers":
            return answered(known, now)
        case "silent":
            return silent(known, now)
        case "refuses":
            return refuses(known, now)
        case _:
            return lost(known, now, "cut")


def probes(known: Known, until: float, took: float = 0.0) -> list[float]:
    """When a host that never answers is tried."""
    times = []
    while known.probe_at is not None and known.probe_at <= until:
        times.append(known.probe_at)
        known = silent(known, known.probe_at + took, took)
    return times


def test_a_host_is_tried_at_once_when_nothing_is_known_of_it() -> None:
    assert Known().state is HostState.UNKNOWN and Known().probe_at == 0.0


def test_a_host_that_is_lost_is_tried_after_one_and_two_seconds_then_every_five() -> None:
    known = lost(answered(Known(), 0.0), 100.0, "cut")
    assert probes(known, 130.0) == [101.0, 103.0, 108.0, 113.0, 118.0, 123.0, 128.0]


def test_after_a_quarter_of_an_hour_it_is_tried_once_a_minute() -> None:
    times = probes(lost(answered(Known(), 0.0), 0.0, "cut"), 3600.0)
    pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
    soon = [pause for sooner, pause in zip(times, pauses, strict=False) if sooner < 900]
    late = [pause for sooner, pause in zip(times, pauses, strict=False) if sooner >= 900]
    assert set(soon[2:]) == {5.0} and set(late) == {60.0}


def test_a_host_that_swallows_everything_is_tried_as_often_as_one_that_refuses() -> None:
    known = lost(answered(Known(), 0.0), 100.0, "cut")
    pauses = [b - a for a, b in itertools.pairwise(probes(known, 200.0, took=4.0))]
    assert set(pauses[2:]) == {5.0}


def test_a_probe_that_takes_longer_than_the_pause_is_followed_at_once() -> None:
    known = silent(Known(state=HostState.UNREACHABLE, failed=4, away_since=0.0), 60.0, took=20.0)
    assert known.probe_at == 60.0


def test_a_host_that_wants_a_person_is_tried_once_a_minute_from_the_start() -> None:
    assert refuses(Known(), 10.0).probe_at == 70.0


def test_nobody_tries_a_host_whose_connection_is_held() -> None:
    assert answered(Known(), 5.0).probe_at is None


def test_a_probe_cannot_end_in_a_state_that_is_none_of_failure() -> None:
    for state in set(HostState) - LOST:
        with pytest.raises(ValueError, match=state):
            failed(Known(), state, 0.0, 0.0, "")


def test_a_host_that_comes_back_begins_the_schedule_anew() -> None:
    known = lost(Known(), 0.0, "cut")
    for now in (1.0, 3.0, 8.0, 1000.0):
        known = silent(known, now)
    again = lost(answered(known, 1001.0), 1002.0, "cut")
    assert again.probe_at == 1003.0 and again.away_since == 1002.0 and again.failed == 0


@pytest.mark.parametrize("first", STEPS)
def test_what_holds_after_every_order_of_five_events(first: str) -> None:
    for rest in itertools.product(STEPS, repeat=4):
        known = Known()
        for now, step in enumerate((first, *rest), 1):
            before, known = known, after(known, step, float(now))
            reachable = known.state is HostState.REACHABLE
            assert (known.probe_at is None) == reachable, "whoever is not reachable is tried again"
            assert (known.reason is not None) == (known.state in LOST), "whoever is lost, is so for a reason"
            assert (known.away_since is not None) == (known.state in LOST)
            assert known.probe_at is None or known.probe_at <= now + 60.0
            if known.state is before.state:
                assert known.since == before.since, "a state keeps the time at which it began"
            else:
                assert known.since == float(now)
            if before.away_since is not None and not reachable:
                assert known.away_since == before.away_since, "it is away since it was last there"


@given(st.integers(0, 10_000), st.floats(0, 1e7))
def test_no_pause_is_shorter_than_a_second_or_longer_than_a_minute(tries: int, away: float) -> None:
    assert 1.0 <= wait(tries, away) <= 60.0
