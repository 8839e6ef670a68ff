"""Usage limits in a program's own words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fleet.harnesses.limits import parse_reset

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("9:20pm (UTC)", "2026-11-21T21:20"),
        ("9am (UTC)", "2026-11-22T09:00"),
        ("12am (UTC)", "2026-11-22T00:00"),
        ("Nov 24, 10:10am (UTC)", "2026-11-24T10:10"),
        ("Jan 2, 1pm (UTC)", "2027-01-02T13:00"),
        ("9pm (Europe/Zurich)", "2026-11-21T20:00"),
    ],
)
def test_a_limit_ends_at_the_next_such_time(words: str, expected: str) -> None:
    at = parse_reset(words, NOON)
    assert at is not None
    assert datetime.fromtimestamp(at, UTC).isoformat().startswith(expected)


@pytest.mark.parametrize("words", ["soon", "", "Nov 24", "9:61pm (UTC)", "13pm (UTC)", "25:00 (UTC)", "9pm (No/Where)"])
def test_words_without_a_time_of_day_make_no_time(words: str) -> None:
    assert parse_reset(words, NOON) is None
