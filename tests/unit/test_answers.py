"""Which dialogs fleet may settle, and with which keys: one step at a time, and only what was allowed."""

from __future__ import annotations

import re
from pathlib import Path

from fleet.harnesses.screens import RuleSet, shipped
from fleet.health.answers import CONSENTS, answer, next_step
from fleet.health.classify import classify
from fleet.terms import Activity, Kind, Screen
from tests.accuracy import cases

SCREENS = Path(__file__).parent.parent / "screens"
EVERYTHING = frozenset(c.name for c in CONSENTS)
EVERY_CASE = [c for folder in sorted(SCREENS.iterdir()) if folder.is_dir() for c in cases(folder)]


def rules() -> RuleSet:
    found = shipped("claude-code")
    assert found
    return found


def dialog(*lines: str, pointer: int) -> Screen:
    return Screen("\n".join(lines), cursor=(1, pointer))


TRUST = ("─" * 40, " Accessing workspace:", "", " /home/u/proj", "", " Is this a project you trust?", "")
HINTS = ("", " Enter to confirm · Esc to cancel")


def test_the_pointer_is_moved_first_and_enter_comes_only_after_another_look() -> None:
    refused = dialog(*TRUST, " ❯ No, exit", "   Yes, I trust this folder", *HINTS, pointer=7)
    step = next_step(refused, rules(), {"trust-folder"})
    assert step and (step.keys, step.last) == (("Down",), False)
    agreed = dialog(*TRUST, "   No, exit", " ❯ Yes, I trust this folder", *HINTS, pointer=8)
    step = next_step(agreed, rules(), {"trust-folder"})
    assert step and (step.keys, step.last) == (("Enter",), True)
    assert step.because == "Yes, I trust this folder"


def test_the_order_of_the_options_does_not_matter() -> None:
    numbered = dialog(*TRUST, "   1. Yes, I trust this folder", " ❯ 2. No, exit", *HINTS, pointer=8)
    step = next_step(numbered, rules(), {"trust-folder"})
    assert step and (step.keys, step.last) == (("Up",), False)


def test_what_is_not_allowed_is_left_alone() -> None:
    screen = dialog(*TRUST, "   No, exit", " ❯ Yes, I trust this folder", *HINTS, pointer=8)
    assert next_step(screen, rules(), set()) is None
    assert next_step(screen, rules(), {"api-key", "mcp-servers", "bypass-permissions"}) is None


def test_a_dialog_whose_pointer_cannot_be_seen_is_left_alone() -> None:
    screen = dialog(*TRUST, "   No, exit", "   Yes, I trust this folder", *HINTS, pointer=8)
    assert next_step(screen, rules(), EVERYTHING) is None


def test_enter_is_pressed_on_no_captured_screen_but_on_a_yes_that_was_allowed() -> None:
    for case in EVERY_CASE:
        step = next_step(case.screen, rules(), EVERYTHING, case.version)
        if step is None:
            continue
        assert set(case.expect["kind"]) & {"trust", "login"}, case.file
        pointed = next(line for line in case.screen.text.splitlines() if line.strip().startswith("❯"))
        if step.last:
            assert ("Yes" in pointed or "Use this MCP server" in pointed) and "No" not in pointed.split(), case.file
        assert step.keys in (("Enter",), ("Up",), ("Down",))


def test_every_captured_trust_dialog_that_is_known_can_be_settled() -> None:
    in_sight = re.compile(
        r"Yes, (I trust|proceed)"
    )  # a screen of eight lines shows one option, and it may be the other
    seen = [c for c in EVERY_CASE if c.state.startswith("trust-dialog") and in_sight.search(c.screen.text)]
    known = [c for c in seen if classify(c.screen, rules(), c.version).activity is Activity.NEEDS_INPUT]
    assert len(known) >= 10
    assert not [c.file for c in known if next_step(c.screen, rules(), {"trust-folder"}, c.version) is None]


def test_a_persons_answer_becomes_keys_that_never_are_a_bare_enter() -> None:
    assert answer(Kind.PERMISSION, "yes", ("Yes", "No")) == ("1",)
    assert answer(Kind.PERMISSION, "no", ("Yes", "No")) == ("Escape",)
    assert answer(Kind.QUESTION, "2", ("SQLite", "Postgres")) == ("2",)
    assert answer(Kind.QUESTION, "3", ("SQLite", "Postgres")) is None
    assert answer(Kind.QUESTION, "yes", ("SQLite", "Postgres")) is None
    assert answer(Kind.PERMISSION, "yes", ("Exit", "Stay")) is None
    assert answer(Kind.TRUST, "yes", ("Yes",)) is None


def test_a_yes_consents_to_no_more_than_what_is_asked() -> None:
    always = ("Yes, and keep allowing any reads", "No, and ask again next time", "Yes, but ask again next time")
    assert answer(Kind.PERMISSION, "yes", always) == ("3",)
    assert answer(Kind.PERMISSION, "yes", ("Yes, and always allow access", "No")) is None
    assert answer(Kind.PLAN, "yes", ("Yes, and use auto mode", "Yes, manually approve edits", "No")) == ("2",)
    assert answer(Kind.PLAN, "yes", ("Yes, and switch to default (ask each time) for this session", "No")) == ("1",)


def test_every_captured_permission_can_be_answered_from_its_options() -> None:
    verdicts = [classify(c.screen, rules(), c.version) for c in EVERY_CASE if c.state.startswith("perm-bash")]
    shown = [v for v in verdicts if v.activity is Activity.NEEDS_INPUT and len(v.options) > 1]
    assert len(shown) >= 20
    for verdict in shown:
        assert answer(Kind.PERMISSION, "yes", verdict.options) == ("1",)
        assert verdict.options[-1].startswith(("No", "Type"))
