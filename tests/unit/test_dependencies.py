"""Who waits for whom."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.dependencies import (
    Condition,
    DependencyCycle,
    Obstacle,
    Standing,
    obstacle,
    start_order,
    stop_order,
)
from fleet.errors import InvalidManifest
from fleet.terms import Phase

CONDITIONS: tuple[Condition, ...] = ("started", "ready", "completed")


def test_those_who_wait_for_nobody_start_first_and_stop_last() -> None:
    needs = {"web": ["db", "cache"], "db": [], "cache": [], "tests": ["web"]}
    assert start_order(needs) == (("cache", "db"), ("web",), ("tests",))
    assert stop_order(needs) == (("tests",), ("web",), ("cache", "db"))


def test_an_agent_that_is_not_here_does_not_hold_up_the_order() -> None:
    assert start_order({"web": ["elsewhere"]}) == (("web",),)


def test_nobody_is_an_order_too() -> None:
    assert start_order({}) == ()


def test_a_circle_is_an_error_that_names_it() -> None:
    with pytest.raises(DependencyCycle, match="b → c → d → b") as caught:
        start_order({"a": ["b"], "b": ["c"], "c": ["d"], "d": ["b"], "free": []})
    assert isinstance(caught.value, InvalidManifest)
    assert caught.value.exit_code == 2
    assert caught.value.to_json()["circle"] == ["b", "c", "d", "b"]


def test_an_agent_that_waits_for_itself_is_a_circle_of_one() -> None:
    with pytest.raises(DependencyCycle, match="a → a"):
        start_order({"a": ["a"]})


def test_a_circle_can_still_be_stopped() -> None:
    needs = {"a": ["b"], "b": ["a", "db"], "db": [], "tests": ["a"]}
    assert stop_order(needs) == (("a", "b", "tests"), ("db",))


NAMES = st.sampled_from("abcdefgh")


@given(st.dictionaries(NAMES, st.sets(NAMES)))
def test_every_order_holds_what_it_promises_and_every_circle_is_one(needs: dict[str, set[str]]) -> None:
    try:
        groups = start_order(needs)
    except DependencyCycle as error:
        circle = error.facts["circle"]
        assert circle[0] == circle[-1] == min(circle)
        assert len(set(circle)) == len(circle) - 1
        for waits, needed in pairwise(circle):
            assert needed in needs[waits]
        return
    assert sorted(chain(*groups)) == sorted(needs)
    up: set[str] = set()
    for group in groups:
        for name in group:
            assert needs[name] & needs.keys() <= up
        up |= set(group)


@given(st.dictionaries(NAMES, st.sets(NAMES)))
def test_the_order_does_not_depend_on_who_is_named_first(needs: dict[str, set[str]]) -> None:
    turned = dict(reversed(needs.items()))
    try:
        assert start_order(needs) == start_order(turned)
    except DependencyCycle as error:
        with pytest.raises(DependencyCycle) as again:
            start_order(turned)
        assert again.value.facts == error.facts


def test_each_condition_is_met_by_what_its_name_says() -> None:
    met = {
        (condition, standing)
        for condition in CONDITIONS
        for phase in (None, *Phase)
        for ready in (False, True)
        for succeeded in (False, True)
        if obstacle("db", condition, standing := Standing(phase, ready, succeeded)) is None
    }
    assert met == {
        *(("started", Standing(p, r, s)) for p in (Phase.RUNNING, Phase.FINISHED) for r in (0, 1) for s in (0, 1)),
        *(("ready", Standing(Phase.RUNNING, True, s)) for s in (False, True)),
        *(("completed", Standing(Phase.FINISHED, r, True)) for r in (False, True)),
    }


def test_what_is_still_waited_for_is_said_and_whether_it_can_come() -> None:
    assert obstacle("db", "ready", Standing(Phase.STARTING)) == Obstacle("db is starting, not ready", False)
    assert obstacle("db", "ready", Standing(Phase.FAILED)) == Obstacle("db is failed, not ready", True)
    assert obstacle("db", "ready", Standing(Phase.FINISHED)) == Obstacle("db has ended", True)
    assert obstacle("db", "completed", Standing(Phase.FINISHED)) == Obstacle("db has ended, and not cleanly", True)
    assert obstacle("db", "started", Standing(None)) == Obstacle("db is not an agent here", True)
