"""Following a log: what is told of it, from one look at its end to the next."""

from __future__ import annotations

from fleet.control import FOLLOWED, ON_SCREEN, _news


def numbered(first: int, last: int) -> list[str]:
    return [f"line {n}" for n in range(first, last + 1)]


def test_what_comes_is_told_once_also_where_the_lines_are_alike() -> None:
    assert _news([], []) == ([], True)
    assert _news([], ["a"]) == (["a"], False)
    assert _news(["a"], ["a"]) == ([], True)
    assert _news(["tick"] * 300, ["tick"] * 310) == (["tick"] * 10, True)
    assert _news(numbered(1, FOLLOWED), numbered(301, FOLLOWED + 300)) == (numbered(FOLLOWED + 1, FOLLOWED + 300), True)


def test_a_line_that_grows_on_the_screen_is_told_again_and_not_all_that_is_above_it() -> None:
    before = [*numbered(1, 500), "working …"]
    assert _news(before, [*numbered(1, 500), "working … done", "next"]) == (["working … done", "next"], True)


def test_what_went_by_in_a_cut_is_told_from_where_it_ended_and_else_that_some_is_missing() -> None:
    before, later = numbered(1, FOLLOWED), numbered(4 * FOLLOWED, 5 * FOLLOWED - 1)
    assert _news(before, later) == (later, False)
    whole = numbered(1, 5 * FOLLOWED - 1)
    assert _news(before, whole) == (numbered(FOLLOWED + 1, 5 * FOLLOWED - 1), True)
    assert _news(before, whole[FOLLOWED // 2 :])[0] == numbered(FOLLOWED + 1, 5 * FOLLOWED - 1)
    assert _news(["line 1"], later) == (later, False), "the rest of them is asked for"
    assert _news(["line 1"], whole) == (whole[1:], True)
    assert _news(numbered(1, ON_SCREEN), [*numbered(1, ON_SCREEN), "more"]) == (["more"], True)
