"""Rule files: what they may say, and that a person's own is taken up, or refused, while fleet runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fleet.harnesses.screens import REGIONS, BadRules, Rules, build, parse, shipped, version_of
from fleet.health.classify import classify
from fleet.terms import Activity, Screen

OURS = """
[[rule]]
name = "company-banner"
activity = "limited"
when.tail = '''Company quota is used up'''
"""


DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "screens.md"


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL))
def test_the_rules_in_the_documentation_are_valid(block: str) -> None:
    build(parse(block, "docs"), "docs", shipped("claude-code"))


def test_the_documentation_lists_the_regions_there_are() -> None:
    table = re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(table) == sorted(REGIONS)


def put(file: Path, text: str, tick: int) -> None:
    """Write a file as if some time had passed."""
    file.write_text(text)
    os.utime(file, (tick, tick))


@pytest.mark.parametrize("harness", ["claude-code", "shell"])
def test_the_shipped_rules_are_valid_and_each_has_a_name_of_its_own(harness: str) -> None:
    found = shipped(harness)
    assert found and found.rules
    assert len({r.name for r in found.rules}) == len(found.rules)


def test_a_program_without_rules_has_none() -> None:
    assert shipped("nethack") is None
    assert shipped("../claude-code") is None


def test_a_persons_rule_counts_at_once_and_stops_counting_with_its_file(tmp_path: Path) -> None:
    rules = Rules(tmp_path)
    screen = Screen("Company quota is used up\n")
    file = tmp_path / "claude-code.toml"

    def activity() -> Activity:
        known = rules.of("claude-code")
        assert known
        return classify(screen, known).activity

    assert activity() is Activity.UNKNOWN
    put(file, OURS, 1_000)
    assert activity() is Activity.LIMITED
    put(file, OURS.replace("limited", "error"), 2_000)
    assert activity() is Activity.ERROR
    file.unlink()
    assert activity() is Activity.UNKNOWN


def test_a_broken_file_changes_nothing_and_says_why(tmp_path: Path) -> None:
    rules = Rules(tmp_path)
    file = tmp_path / "claude-code.toml"
    put(file, OURS, 1_000)
    good = rules.of("claude-code")
    put(file, "[[rule]]\nname = 'x'\nactivity = 'sleeping'\nwhen.tail = 'x'", 2_000)
    assert rules.of("claude-code") is good
    assert "sleeping" in rules.errors["claude-code"]
    assert str(file) in rules.errors["claude-code"]
    put(file, OURS, 3_000)
    assert rules.of("claude-code") == good
    assert not rules.errors


def test_a_broken_file_at_the_start_leaves_the_shipped_rules(tmp_path: Path) -> None:
    (tmp_path / "claude-code.toml").write_text("[[rule]\n")
    rules = Rules(tmp_path)
    assert rules.of("claude-code") is shipped("claude-code")
    assert "claude-code.toml" in rules.errors["claude-code"]


def test_a_rule_of_the_same_name_takes_the_shipped_ones_place() -> None:
    base = shipped("claude-code")
    assert base
    found = build(parse("[[rule]]\nname = 'ready'\nactivity = 'unknown'\nwhen.composer = ''", "mine"), "mine", base)
    assert [r.name for r in found.rules] == [r.name for r in base.rules]
    assert next(r for r in found.rules if r.name == "ready").activity is Activity.UNKNOWN


def test_a_shipped_rule_can_be_removed_by_name() -> None:
    base = shipped("claude-code")
    assert base
    found = build(parse("remove = ['working-title']", "mine"), "mine", base)
    assert "working-title" not in {r.name for r in found.rules}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[rule]]\nactivity = 'ready'\nwhen.tail = 'x'", "without a name"),
        ("[[rule]]\nname = 'x'\nactivity = 'ready'", "at least one region"),
        ("[[rule]]\nname = 'x'\nactivity = 'ready'\nwhen.tial = 'x'", "no region is called 'tial'"),
        ("[[rule]]\nname = 'x'\nactivity = 'ready'\nwhen.tail = '('", "not a regular expression"),
        ("[[rule]]\nname = 'x'\nactivity = 'ready'\nwhen.tail = 3", "regular expression as text"),
        ("[[rule]]\nname = 'x'\nactivity = 'ready'\nwhen.tail = 'x'\nversions = '2.1'", "is not a range"),
        ("[[rule]]\nname = 'x'\nactivity = 'ready'\nwhen.tail = 'x'\nown = 'yes'", "true or false"),
        ("[[rule]]\nname = 'x'\nactivity = 'ready'\nwhen.tail = 'x'\nkind = 'urgent'", "'urgent' is not one of"),
        ("[[rule]]\nname = 'x'\nactivity = 'ready'\nwhen.tail = 'x'\ncolour = 1", "unknown key 'colour'"),
        ("rule = 3", "written as [[rule]]"),
        ("remove = ['nobody']", "no shipped rule named nobody"),
        ("remove = 3", "a list of rule names"),
        ("[[layout]]\nname = 'x'\nprompt = '>'\ncursor = 'left'", "composer, below"),
        (
            "[[rule]]\nname='x'\nactivity='ready'\nwhen.tail='x'\n[[rule]]\nname='x'\nactivity='ready'\nwhen.tail='x'",
            "two rules are named x",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, says: str) -> None:
    with pytest.raises(BadRules) as caught:
        build(parse(text, "mine.toml"), "mine.toml", shipped("claude-code"))
    assert says in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_a_version_range_holds_from_its_lower_bound_up_to_its_upper_one() -> None:
    text = "[[rule]]\nname = 'x'\nactivity = 'ready'\nwhen.tail = 'x'\nversions = '>=2.1.200,<2.2'"
    versions = build(parse(text, "m"), "m").rules[0].versions
    assert [version_of(v) in versions for v in ("2.1.199", "2.1.200", "2.1.1000", "2.2", None)] == [
        False, True, True, False, True,
    ]  # fmt: skip


def test_a_shell_prompt_that_asks_is_seen_at_the_cursor_only() -> None:
    rules = shipped("shell")
    assert rules
    asked = "Overwrite existing file? [y/N] "
    assert classify(Screen(asked, cursor=(len(asked), 0)), rules).activity is Activity.NEEDS_INPUT
    assert classify(Screen(asked + "\n$ ", cursor=(2, 1)), rules).activity is Activity.UNKNOWN
