"""What a screen means: on every captured one, and where quotations, drafts and torn screens could mislead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.harnesses.screens import RuleSet, build, shipped
from fleet.health.classify import Colours, classify, pane_state
from fleet.terms import Activity, Kind, Screen, Verdict
from tests.accuracy import Case, cases, silent, wrong

SCREENS = Path(__file__).parent.parent / "screens"
FOLDERS = sorted(p for p in SCREENS.iterdir() if (p / "index.jsonl").is_file())
NB = "\u00a0"
RULE = "─" * 60
FOOTER = "  ⏸ manual mode on · ? for shortcuts"


def supported(case: Case) -> bool:
    return tuple(int(n) for n in (case.version or "9").split(".")) >= (2, 1, 200)


def rules() -> RuleSet:
    found = shipped("claude-code")
    assert found
    return found


def drawn(
    *above: str, draft: str = "", footer: str = FOOTER, title: str = "✳ Claude Code", colours: str | None = None
) -> Screen:
    """A screen with a composer at its end, the cursor in it."""
    lines = [*above, RULE, f"❯{NB}{draft}", RULE, footer]
    row = len(above) + 1
    return Screen("\n".join(lines), ansi=colours, title=title, width=60, height=24, cursor=(2 + len(draft), row))


def meaning(screen: Screen, version: str | None = "2.1.329") -> Verdict:
    return classify(screen, rules(), version)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_no_captured_screen_is_judged_wrong(folder: Path) -> None:
    faults = []
    for case in cases(folder):
        verdict = classify(case.screen, rules(), case.version)
        if fault := wrong(case, verdict):
            faults.append(f"{case.file}: {fault} by {verdict.rule}")
    assert not faults


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_a_supported_version_is_unknown_only_where_that_is_accepted(folder: Path) -> None:
    assert not [c.file for c in cases(folder) if supported(c) and silent(c, classify(c.screen, rules(), c.version))]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_the_seeds_word_for_every_captured_screen_that_has_one(folder: Path) -> None:
    faults = []
    for case in cases(folder):
        verdict = classify(case.screen, rules(), case.version)
        wanted = case.expect.get("pane_state")
        if wanted and verdict.activity is not Activity.UNKNOWN and pane_state(verdict) != wanted:
            faults.append(f"{case.file}: {pane_state(verdict)}, not {wanted}")
    assert not faults


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_an_unknown_version_is_judged_no_worse_on_supported_screens(folder: Path) -> None:
    judged = [c for c in cases(folder) if supported(c) and not c.state.startswith("adv-bare")]
    assert not [c.file for c in judged if wrong(c, classify(c.screen, rules(), None))]


def test_a_screen_that_no_rule_knows_is_unknown() -> None:
    verdict = meaning(Screen("total 12\ndrwxr-xr-x 2 u u 4096 .\n", cursor=(0, 2)))
    assert verdict.activity is Activity.UNKNOWN
    assert verdict.draft is None


def test_an_empty_screen_is_unknown() -> None:
    assert meaning(Screen("")).activity is Activity.UNKNOWN


def test_a_dead_process_is_gone_whatever_its_last_screen_shows() -> None:
    verdict = meaning(replace(drawn("● Hello", title="◐ Claude Code"), dead=True, exit_status=137))
    assert verdict.activity is Activity.EXITED
    assert "137" in verdict.evidence


@pytest.mark.parametrize(
    "quoted",
    [
        "You've hit your 5-hour limit · resets 9:20pm (UTC)",
        "API Error: 500 Internal server error",
        "Please run /login · API Error: 401",
        "✻ Working… (12s · esc to interrupt)",
        " ❯ 1. Yes",
        "Do you want to proceed?",
        "Enter to select · ↑/↓ to navigate · Esc to cancel",
    ],
)
def test_words_quoted_in_an_answer_change_nothing(quoted: str) -> None:
    verdict = meaning(drawn("● The log says:", "", f"  {quoted}", "", "✻ Baked for 3s · done 9:00 AM"))
    assert verdict.activity is Activity.READY
    assert verdict.draft is False or verdict.draft is None


@pytest.mark.parametrize("words", ["esc to interrupt", "Do you want to proceed? ❯ 1. Yes", "API Error: 401", "● x…"])
def test_a_draft_is_a_draft_whatever_it_says(words: str) -> None:
    verdict = meaning(drawn(draft=words))
    assert (verdict.activity, verdict.draft) == (Activity.READY, True)


def test_the_title_tells_a_turn_that_shows_nothing_else() -> None:
    assert meaning(drawn("● text", title="◑ Claude Code")).activity is Activity.WORKING


def test_the_effort_mark_of_an_idle_screen_is_no_spinner() -> None:
    assert meaning(drawn("● Hi", " " * 40 + "◐ medium · /effort")).activity is Activity.READY


def test_a_composer_without_the_keyboard_is_not_ready() -> None:
    """The program died over a shell: its composer still stands there, the cursor is at the shell's prompt."""
    screen = drawn("● Hi")
    broken = screen.text.replace(f"❯{NB}\n{RULE}", f"❯{NB}Killed\nuser@host:~$ {RULE[13:]}")
    verdict = meaning(replace(screen, text=broken, cursor=(13, 3), title="◐ Claude Code"))
    assert verdict.activity is Activity.UNKNOWN


def test_a_draft_needs_colours_or_the_cursor_to_be_told_from_a_hint() -> None:
    hint = drawn(draft="Try “edit app.py”")
    assert meaning(replace(hint, cursor=(2, 1))).draft is None
    dim = f"{RULE}\n❯{NB}\x1b[7mT\x1b[0;2mry “edit app.py”\x1b[0m\n{RULE}\n{FOOTER}"
    assert meaning(replace(hint, cursor=(2, 1), ansi=dim)).draft is False
    bright = f"{RULE}\n❯{NB}\x1b[7mT\x1b[0mry “edit app.py”\n{RULE}\n{FOOTER}"
    assert meaning(replace(hint, cursor=(2, 1), ansi=bright)).draft is True


def test_a_shell_command_in_the_composer_is_never_an_empty_composer() -> None:
    screen = drawn()
    assert meaning(replace(screen, text=screen.text.replace("❯", "!"))).draft is True


def test_an_error_is_told_from_a_quotation_by_its_colour() -> None:
    screen = drawn("❯ go on", "", "● API Error: 500 Internal server error")
    red = screen.text.replace("● API", "\x1b[38;5;220m●\x1b[39m \x1b[38;5;220mAPI").replace(
        "error\n", "error\x1b[39m\n"
    )
    plain = screen.text.replace("● API", "\x1b[38;5;231m●\x1b[39m API")
    assert meaning(replace(screen, ansi=red)).activity is Activity.ERROR
    assert meaning(replace(screen, ansi=plain)).activity is Activity.READY


def test_a_permission_brings_its_question_and_options() -> None:
    lines = ["● I will.", RULE, " Bash command", "", "   rm -rf build", "", " Do you want to proceed?", " ❯ 1. Yes",
             "   2. Yes, and don't ask again for rm -rf", "      build in this folder", "   3. No", "",
             " Esc to cancel · Tab to amend"]  # fmt: skip
    verdict = meaning(Screen("\n".join(lines), cursor=(1, 7), title="✳ Claude Code"))
    assert (verdict.activity, verdict.kind) == (Activity.NEEDS_INPUT, Kind.PERMISSION)
    assert verdict.question == "Do you want to proceed?"
    assert verdict.options == ("Yes", "Yes, and don't ask again for rm -rf build in this folder", "No")
    assert verdict.composer is False


def test_a_dialog_above_a_shell_prompt_has_no_keyboard() -> None:
    lines = [RULE, " Do you want to proceed?", " ❯ 1. Yes", "   2. No", "", " Esc to cancel", "user@host:~$ ls"]
    assert meaning(Screen("\n".join(lines), cursor=(15, 6))).activity is Activity.UNKNOWN


def test_an_unknown_dialog_still_needs_a_person() -> None:
    lines = [RULE, "  A new kind of question", "", "  ❯ Later", "    Now", "", "  Enter to confirm · Esc to cancel"]
    verdict = meaning(Screen("\n".join(lines), cursor=(2, 3)))
    assert (verdict.activity, verdict.kind) == (Activity.NEEDS_INPUT, Kind.OTHER)
    assert verdict.options == ("Later", "Now")


def test_a_limit_says_when_it_ends_and_whether_the_program_goes_on_by_itself() -> None:
    footer = "  ⚠ Usage limit reached · limit resets 9:51pm\n    Continuing automatically at 9:51pm · Esc to cancel\n"
    verdict = meaning(drawn("❯ go on", footer=footer + FOOTER))
    assert (verdict.activity, verdict.continues, verdict.resets_text) == (Activity.LIMITED, True, "9:51pm")


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (Verdict(Activity.WORKING, "r", draft=True), "running"),
        (Verdict(Activity.READY, "r", draft=False), "idle_prompt"),
        (Verdict(Activity.READY, "r", draft=True), "compose_pending_unsent"),
        (Verdict(Activity.NEEDS_INPUT, "r", kind=Kind.PERMISSION), "y_n_prompt"),
        (Verdict(Activity.ERROR, "r", kind=Kind.LOGIN), "auth_error"),
        (Verdict(Activity.LIMITED, "r"), "limit_reached"),
        (Verdict(Activity.UNKNOWN, "r"), "unknown"),
        (Verdict(Activity.EXITED, "r"), "unknown"),
    ],
)
def test_the_seeds_one_word(verdict: Verdict, word: str) -> None:
    assert pane_state(verdict) == word


def test_colours_carry_over_from_row_to_row() -> None:
    rows = Colours("\x1b[38;5;211mred\nstill\x1b[39m plain \x1b[2mdim\nx")
    assert [style.colour for _, style in rows.row(1)][:5] == ["5;211"[2:]] * 5
    assert rows.row(1)[-1][1].dim
    assert rows.row(2)[0][1].dim
    assert rows.row(9) == []


@given(st.text(alphabet="❯─ ●✻…1.Yesno?\n\u00a0│╌⎿!>$", max_size=400), st.integers(0, 60), st.integers(0, 30))
def test_no_screen_breaks_the_classifier(text: str, x: int, y: int) -> None:
    for version in (None, "2.0.65", "2.1.210", "2.1.329"):
        verdict = classify(Screen(text, ansi=text, cursor=(x, y)), rules(), version)
        assert verdict.rule


@given(st.sampled_from(["error-500", "perm", "limit"]), st.integers(0, 40))
def test_a_torn_screen_is_never_an_invitation_to_type(kind: str, cut: int) -> None:
    """Whatever upper part of a dialog's screen is missing, it is not ready."""
    lines = ["❯ please", "", "● I will use Bash.", RULE, " Bash command", "", "   touch made", "",
             " Do you want to proceed?", " ❯ 1. Yes", "   2. No", "", " Esc to cancel"]  # fmt: skip
    rest = lines[min(cut, 9) :]
    verdict = meaning(Screen("\n".join(rest), cursor=(1, rest.index(" ❯ 1. Yes"))))
    assert verdict.activity is not Activity.READY
    assert verdict.composer is not True


@pytest.mark.parametrize("rules", ["shell", "of the line"])
def test_rules_of_the_cursors_line_say_the_same_of_every_screen_whether_the_rest_is_read_or_not(rules: str) -> None:
    own = {"rule": [{"name": "blank", "activity": "ready", "when": {"line": r"^\s*$"}, "unless": {"line": "^$"}}]}
    quick = shipped("shell") if rules == "shell" else build(own, "own")
    assert quick is not None and quick.line_only
    whole = replace(quick)
    object.__setattr__(whole, "line_only", False)
    asked = "Are you sure? [y/N] "
    screens = [case.screen for folder in FOLDERS for case in cases(folder)]
    screens += [Screen(text=f"some\n{asked}\n\n", cursor=(x, y)) for x in range(len(asked) + 2) for y in range(5)]
    assert [classify(screen, quick) for screen in screens] == [classify(screen, whole) for screen in screens]
    said = {classify(screen, quick).activity for screen in screens}
    assert said == {Activity.EXITED, Activity.UNKNOWN, quick.rules[0].activity}
