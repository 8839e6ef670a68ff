"""docs/states.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from fleet.terms import Activity, Phase
from tests import states

PAGE = Path(__file__).parent.parent.parent / "docs" / "states.md"


def test_the_page_of_states_is_the_one_that_the_code_draws() -> None:
    assert PAGE.read_text() == states.drawn(), "`make docs` draws it anew"


def test_every_phase_and_activity_is_explained() -> None:
    assert set(states.PHASES) == set(Phase)
    assert set(states.ACTIVITIES) == set(Activity)
