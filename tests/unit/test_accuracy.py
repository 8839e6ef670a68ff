"""The tool that says how often a screen is judged rightly must itself be right, and blind to what it may not see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fleet.terms import Activity, Kind, Verdict
from tests.accuracy import cases, main, wrong

SCREEN = "─" * 40 + "\n❯\u00a0\n" + "─" * 40 + "\n  ? for shortcuts\n"


def folder(tmp_path: Path, *rows: dict[str, object], name: str = "claude-code-2.1.329") -> Path:
    """A folder of captures, all of the same idle screen."""
    found = tmp_path / name
    found.mkdir()
    lines = []
    for i, row in enumerate(rows):
        (found / f"{i}.txt").write_text(SCREEN)
        base = {"state": "s", "size": "40x4", "file": f"{i}.txt", "title": "✳ x", "cursor": "2,1", "dead": False}
        lines.append(json.dumps(base | {"exit_status": None, "alternate_screen": True} | row))
    (found / "index.jsonl").write_text("\n".join(lines) + "\n")
    return found


def test_right_wrong_and_silent_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = folder(
        tmp_path,
        {"expect": {"activity": ["ready"], "draft": False}},
        {"expect": {"activity": ["working"]}, "state": "busy"},
        {"expect": {"activity": ["ready"]}, "cursor": "9,9", "title": None, "state": "lost"},
    )
    (found / "2.txt").write_text("nothing known\n")
    assert main([str(found)]) == 1
    assert capsys.readouterr().out.rstrip().splitlines()[-1] == "3 screens, 1 wrong, 1 unknown"


def test_unknown_is_no_fault_where_it_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = folder(tmp_path, {"expect": {"activity": ["unknown", "ready"]}})
    (found / "0.txt").write_text("nothing known\n")
    assert main([str(found)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("1 screens, 0 wrong, 0 unknown")


def test_the_state_file_the_note_and_the_names_are_not_looked_at(tmp_path: Path) -> None:
    said = {"session_file": {"status": "busy"}, "note": "working", "state": "running-streaming"}
    plain, told = folder(tmp_path, {"expect": {"activity": ["ready"]}}), tmp_path / "b"
    told.mkdir()
    told = folder(told, {"expect": {"activity": ["ready"]}, **said})
    assert next(cases(plain)).screen == next(cases(told)).screen


def test_the_version_is_the_end_of_the_folders_name(tmp_path: Path) -> None:
    found = folder(tmp_path, {"expect": {"activity": ["ready"]}}, name="quoting-of-many-2.1.210")
    assert next(cases(found)).version == "2.1.210"


def test_kind_and_draft_are_compared_where_the_index_names_them(tmp_path: Path) -> None:
    case = next(cases(folder(tmp_path, {"expect": {"activity": ["needs_input"], "kind": ["plan"], "draft": False}})))
    assert wrong(case, Verdict(Activity.NEEDS_INPUT, "r", kind=Kind.PLAN, draft=False)) is None
    assert wrong(case, Verdict(Activity.NEEDS_INPUT, "r", kind=Kind.PERMISSION, draft=False))
    assert wrong(case, Verdict(Activity.NEEDS_INPUT, "r", kind=Kind.PLAN, draft=True))
    assert wrong(case, Verdict(Activity.NEEDS_INPUT, "r", kind=Kind.PLAN))


def test_folders_in_the_folder_are_judged_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path, {"expect": {"activity": ["ready"]}})
    folder(tmp_path, {"expect": {"activity": ["ready"]}}, name="claude-code-2.1.210")
    assert main([str(tmp_path), "--short"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("2 screens, 0 wrong, 0 unknown")


def test_the_document_shows_what_the_tool_says_today(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parent.parent.parent
    main([str(root / "tests" / "screens"), "--short"])
    said = capsys.readouterr().out.strip()
    assert said[said.index("folder ") :] in (root / "docs" / "accuracy.md").read_text(encoding="utf-8")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
