"""`fleet explain --screen`: what a saved screen means, without a daemon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fleet.cli.explain_screen import explain_screen, lines_of
from fleet.errors import Usage
from fleet.harnesses.screens import Rules

SCREENS = Path(__file__).parent.parent / "screens"
PERMISSION = SCREENS / "claude-code-2.1.329" / "perm-bash-80x24.txt"


def test_a_saved_dialog_is_explained_with_its_question_and_options() -> None:
    data, warnings = explain_screen(
        str(PERMISSION), ansi=str(PERMISSION.with_suffix(".ansi")), title="✳ Claude Code", size="80x24", cursor="1,17",
        version="2.1.329",
    )  # fmt: skip
    assert data["activity"] == "needs_input"
    assert (data["kind"], data["pane_state"], data["rule"]) == ("permission", "y_n_prompt", "permission")
    assert data["question"] == "Do you want to proceed?"
    assert [option.split(",")[0] for option in data["options"]] == ["Yes", "Yes", "Yes", "No"]
    assert not warnings
    json.dumps(data)


def test_the_issues_fields_are_there_on_every_screen(tmp_path: Path) -> None:
    file = tmp_path / "screen.txt"
    file.write_bytes(b"\xff\xfe nothing known\r\n")
    data, _ = explain_screen(str(file))
    assert {"activity", "kind", "draft", "pane_state", "rule", "evidence"} <= set(data)
    assert (data["activity"], data["pane_state"]) == ("unknown", "unknown")
    assert lines_of(data)


def test_a_persons_rules_count_and_a_broken_file_is_told(tmp_path: Path) -> None:
    screen = tmp_path / "screen.txt"
    screen.write_text("Type the ticket number to go on: ")
    (tmp_path / "shell.toml").write_text(
        "[[rule]]\nname = 'ticket'\nactivity = 'needs_input'\nkind = 'question'\nwhen.line = '''ticket number'''\n"
    )
    rules = Rules(tmp_path)
    data, warnings = explain_screen(str(screen), cursor="33,0", harness="shell", rules=rules)
    assert (data["rule"], data["kind"], warnings) == ("ticket", "question", [])
    (tmp_path / "shell.toml").write_text("nonsense")
    data, warnings = explain_screen(str(screen), cursor="33,0", harness="shell", rules=Rules(tmp_path))
    assert data["activity"] == "unknown"
    assert "shell.toml" in warnings[0]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"size": "80"}, "--size"),
        ({"cursor": "left"}, "--cursor"),
        ({"harness": "nethack"}, "nethack"),
        ({"ansi": "/nowhere/x.ansi"}, "/nowhere/x.ansi"),
    ],
)
def test_what_cannot_be_understood_is_named(told: dict[str, str], says: str) -> None:
    with pytest.raises(Usage) as caught:
        explain_screen(str(PERMISSION), **told)  # type: ignore[arg-type]
    assert says in str(caught.value)
