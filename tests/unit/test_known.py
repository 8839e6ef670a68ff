"""What an agent is known to be doing, and up to when that has been seen."""

from __future__ import annotations

from fleet.known import ATTEND, SETTLES, Known
from fleet.terms import Activity, Evidence, Source


def word(source: Source, activity: Activity, at: float) -> Evidence:
    return Evidence(source=source, rule="a rule", observed_at=at, activity=activity)


def told(source: Source, activity: Activity = Activity.WORKING) -> Known:
    """What is known right after that source has spoken at 100."""
    known = Known(agree=0.4, stale=30.0)
    known.hear(word(source, activity, 100.0), 100.0, None)
    known.judge(100.0, started=True, moved_at=100.0)
    return known


def test_what_a_screen_says_holds_up_to_the_last_sweep() -> None:
    known = told(Source.SCREEN)
    assert (known.state(None).activity, known.state(None).seen) == (Activity.WORKING, 100.0)
    assert known.state(110.0).seen == 110.0
    assert known.book(110.0).claims[Source.SCREEN].seen == 110.0


def test_what_a_hook_says_is_no_younger_for_a_sweep() -> None:
    known = told(Source.HOOK)
    assert known.state(110.0).seen == 100.0
    assert known.book(110.0).claims[Source.HOOK].seen == 100.0


def test_what_was_lost_had_held_up_to_then_and_holds_no_longer() -> None:
    known = told(Source.SCREEN)
    known.catch_up(105.0, 110.0)
    known.lose(Source.SCREEN)
    assert known.state(None).seen == 105.0, "what was heard later than that may be what has ended it"
    assert known.claim(Source.SCREEN) is None
    assert known.state(120.0).seen == 105.0


def test_it_is_settled_once_its_proof_stands_and_nothing_was_new_for_a_while() -> None:
    known = told(Source.SCREEN)
    assert known.due == 100.0 + ATTEND and known.is_in_question(100.0 + SETTLES - 0.1)
    known.attend_again(100.0 + SETTLES, moved_at=100.0)
    assert known.due is None and not known.is_in_question(100.0 + SETTLES)
    known.attend_again(100.0 + SETTLES, moved_at=103.0)
    assert known.due == 100.0 + SETTLES + ATTEND, "its pane has changed just now"


def test_of_another_launch_nothing_is_known() -> None:
    known = told(Source.SCREEN)
    known.begin_anew()
    assert known.book(110.0).claims == {} and known.due is None
    assert known.state(110.0).activity is not Activity.WORKING
