"""A wrong word on the command line is told: what happened, with which word, and what to do instead."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.unit.cli_fixtures import Shell, daemon, fleet, place

__all__ = ["daemon", "fleet", "place"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("events -n -3", "`--limit`: it must be at least 0, not -3."),
        ("invites create main --uses 5000", "`--uses`: it must be from 1 to 1000, not 5000."),
        ("events --after abc", "`--after`: 'abc' is no whole number."),
        ("logs web -n many", "`--lines`: 'many' is no whole number."),
        ("start web --timeout x", "`--timeout`: 'x' is no number."),
        ("stop web --timeout 0", "`--timeout`: it must be above 0, not 0.0."),
        ("wait web", "`fleet wait` needs `--for`: one of started, ready, working,"),
        ("wait --for ready", "`fleet wait` needs NAME|FILE."),
        ("wait web --for redy", "Did you mean ready?"),
        ("validate", "`fleet validate` needs PATH."),
        ("completion tcl", "'tcl' is none of bash, zsh, fish."),
        ("status --format csv", "`--format`: 'csv' is not seed."),
        ("status -l role", "a label is written NAME=VALUE."),
        ("diff nofolder", "FOLDER: Path 'nofolder' does not exist."),
        ("explain --screen nofile", "nofile cannot be read: No such file or directory."),
        ("statsu", "Did you mean `fleet status`?"),
        ("daemon strat", "Did you mean one of"),
        ("doctor --fix", "No such option '--fix'."),
    ],
)
def test_a_wrong_word_is_told_in_one_line_with_what_to_do(fleet: Shell, words: str, told: str) -> None:
    ran = fleet(*words.split())
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    first, hint = ran.err.splitlines()
    assert first.startswith("fleet: ")
    assert hint.startswith("  ")


def test_help_is_what_people_type_first(fleet: Shell) -> None:
    assert fleet("help") == fleet("--help")
    assert fleet("help", "start").out == fleet("start", "--help").out


def test_a_group_alone_shows_its_commands_as_they_are(fleet: Shell) -> None:
    ran = fleet("hooks")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: fleet hooks")
    assert "fleet:" not in ran.err


def test_a_manifest_of_the_fleet_folder_is_meant_by_its_name(fleet: Shell, place: Path) -> None:
    for path in (place / "agents" / "web.yaml", place / "agents" / "db" / "db.yaml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        head = f"apiVersion: fleet/v1\nkind: Agent\nmetadata: {{name: {path.stem}}}\n"
        path.write_text(head + "spec: {harness: shell, command: [sleep, '9']}\n")
    ran = fleet("validate", "web", "db")
    assert ran.code == 0, ran.err
    assert ran.out.count(": valid") == 2
    assert "name: web" in fleet("convert", "web").out
    assert fleet("validate", "wbe").code == 2


@pytest.mark.parametrize(
    ("words", "told"), [(["Stop", "--agnt", "x"], "--agnt is not understood"), (["Stop", "--agent"], "given no name")]
)
def test_a_hooks_wrong_word_is_told_and_its_event_is_kept(
    fleet: Shell, place: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.setenv("FLEET_AGENT", "web")
    monkeypatch.setattr(sys, "stdin", None)
    ran = fleet("hook-event", *words)
    assert (ran.code, ran.out) == (0, "")
    assert told in ran.err
    assert len(list((place / "state" / "spool" / "web").glob("*,Stop"))) == 1
