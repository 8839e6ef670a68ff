"""What the hub counts and remembers in memory is bounded, and what is let go has no effect any more."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleet.hub import books
from fleet.hub.asks import Alarm
from fleet.hub.books import Accounting, Turns
from fleet.hub.guardrails import Accounts, Attempt, Rules, Speaker, Tally, Window
from fleet.hub.message import Code, Message
from fleet.testing import TurnedClock, settle

NOW = 1_000_000.0
RULES = Rules()
ALICE, BOB = ("main", "alice"), ("main", "bob")


def message(id: str, sender: str = "alice", hops: int = 0, **more: Any) -> Message:
    given_fields = {"to": ("bob",), "text": "x", "at": NOW, "thread": "t-1", "workspace": "main", **more}
    return Message(id=id, sender=sender, hops=hops, **given_fields)


# -- windows ---------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 20), max_size=40), st.integers(1, 5))
def test_a_window_gives_room_just_when_enough_has_left_it(steps: list[float], most: int) -> None:
    window, now, times = Window(), NOW, list[float]()
    for step in steps:
        now += step
        wait = window.wait(now, most, 60.0)
        recent = [at for at in times if at > now - 60.0]
        assert (wait == 0.0) == (len(recent) < most or recent[-most] + 60.0 - now <= 0.0)
        if wait == 0.0:
            window, times = window.counted(now, 60.0), [*times, now]


def test_two_that_go_on_from_one_window_do_not_see_each_other() -> None:
    first = Window().counted(NOW, 60.0)
    left, right = first.counted(NOW + 1, 60.0), first.counted(NOW + 2, 60.0)
    assert (left, right, first) == (Window([NOW, NOW + 1]), Window([NOW, NOW + 2]), Window([NOW]))
    assert Window().wait(NOW, 1, 60.0) == 0.0


# -- accounts --------------------------------------------------------------------------------------------------


def test_a_message_that_causes_no_turn_counts_against_its_senders_rate_and_nothing_else() -> None:
    accounting = Accounting(Rules(sender_rate=1.0, sender_burst=2, pair=1))
    quiet, waking = (Attempt(message("m-1"), Speaker(name="alice"), wakes) for wakes in ((), ("bob",)))
    assert accounting.admit(ALICE, quiet, NOW) is None
    assert accounting.admit(ALICE, waking, NOW) is None
    refusal = accounting.admit(ALICE, quiet, NOW)
    assert refusal is not None
    assert refusal.code is Code.RATE_LIMITED
    assert accounting.of(ALICE, "t-1", ["bob"], NOW) == Accounts(
        accounting.of(ALICE, "t-1", [], NOW).sender, Tally(Window([NOW]), 1), {"bob": Window([NOW])}
    )
    assert accounting.admit(ALICE, quiet, NOW + 1) is None
    refusal = accounting.admit(ALICE, waking, NOW + 2)
    assert refusal is not None
    assert refusal.code is Code.PAIR_LIMITED


def test_accounts_without_effect_are_let_go(monkeypatch: Any) -> None:
    monkeypatch.setattr(books, "MANY", 10)
    monkeypatch.setattr(books, "TALLIES", 5)
    accounting = Accounting(RULES)
    for number in range(30):
        who, now = ("main", f"s{number}"), NOW + number
        held = accounting.of(who, f"t{number}", ["bob"], now)
        counted = Accounts(held.sender, Tally(Window([now]), 1), {"bob": Window([now])})
        accounting.keep(who, f"t{number}", counted, now)
    later = NOW + 1000
    accounting.keep(ALICE, "t", accounting.of(ALICE, "t", [], later), later)
    assert accounting.of(("main", "s29"), "t29", ["bob"], later).pairs == {}
    assert not accounting.knows("t0")
    assert accounting.knows("t29")
    accounting.recall("t0", Tally(Window(), 7))
    assert accounting.of(ALICE, "t0", [], later).thread.total == 7
    accounting.recall("t29", Tally(Window(), 99))
    assert accounting.of(ALICE, "t29", [], later).thread.total == 1


# -- turns -----------------------------------------------------------------------------------------------------


def test_what_is_on_its_way_and_what_is_there_is_what_a_seen_turn_is_about_until_it_ends() -> None:
    turns = Turns(RULES)
    first, second = message("m-1", hops=3), message("m-2", hops=1)
    turns.handed(BOB, first)
    turns.arrived(BOB, first, NOW)
    turns.handed(BOB, second)
    found = turns.causes(BOB, None, ["carol"], True, NOW + 10_000)
    assert {m.id for m in found} == {"m-1", "m-2"}
    turns.ended(BOB)
    assert turns.causes(BOB, None, ["carol"], True, NOW) == (second,)
    turns.undone(BOB, "m-2")
    assert turns.causes(BOB, first, ["carol"], True, NOW) == (first,)


def test_of_too_many_those_with_the_most_hops_stay() -> None:
    turns = Turns(RULES)
    for number in range(500):
        turns.arrived(BOB, message(f"m-{number}", hops=number % 7), NOW + number)
    found = turns.causes(BOB, None, [], True, NOW)
    assert len(found) == books.IN_A_TURN
    assert {m.hops for m in found} == {6}


def test_one_whose_turns_nobody_sees_answers_whom_it_speaks_to_for_a_while() -> None:
    turns = Turns(RULES)
    turns.heard(BOB, message("m-1", hops=2), NOW)
    turns.spoken(message("m-2", "carol", hops=4, to=("#general",)), NOW)
    soon, late = NOW + RULES.implied_reply, NOW + RULES.implied_reply + 1
    assert [m.id for m in turns.causes(BOB, None, ["alice"], False, soon)] == ["m-1"]
    assert [m.id for m in turns.causes(BOB, None, ["carol"], False, soon)] == ["m-2"]
    assert turns.causes(BOB, None, ["dave"], False, soon) == ()
    assert turns.causes(BOB, None, ["alice", "carol"], False, late) == ()
    turns.handed(BOB, message("m-3", "eve", hops=5))  # a headless turn, whomever it speaks to
    assert [m.id for m in turns.causes(BOB, None, ["dave"], False, late)] == ["m-3"]


# -- the alarm -------------------------------------------------------------------------------------------------


async def test_an_alarm_rings_at_each_time_and_at_no_other() -> None:
    clock = TurnedClock(NOW)
    rung: list[float] = []

    async def ring(now: float) -> None:
        rung.append(now)

    alarm = Alarm(clock, ring)
    running = asyncio.create_task(alarm.run())
    await settle()
    assert clock.next_due is None
    for due in (50.0, 20.0, 20.0, 90.0):
        alarm.at(NOW + due)
        await settle()
    await clock.turn(60)
    alarm.at(NOW + 10)
    await clock.turn(100)
    assert rung == [NOW + 20, NOW + 50, NOW + 60, NOW + 90]
    assert clock.next_due is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
