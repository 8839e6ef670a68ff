"""`fleet hooks install|uninstall`: which file, which events, and nothing half-done."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from fleet.cli import app
from fleet.errors import NotAllowed, Usage


@pytest.fixture
def person(tmp_path, monkeypatch):
    """A person's home, with a Claude Code in it that only knows its version."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLEET_HOME", str(tmp_path / "fleet"))
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    claude(tmp_path, "2.1.329 (Claude Code)")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def claude(home: Path, says: str) -> None:
    program = home / "bin" / "claude"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)


def run(capsys, *words: str) -> dict:
    assert app.run(["hooks", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_persons_own_settings_are_meant_where_nothing_is_said(person, capsys):
    told = run(capsys, "install")["data"]
    path = person / ".claude" / "settings.json"
    assert told["settings"] == str(path)
    assert told["changed"] is True
    assert set(told["added"]) == set(told["events"]) == set(json.loads(path.read_text())["hooks"])
    assert len(told["added"]) == 28
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("words", "path"),
    [(["--user"], ".claude/settings.json"), (["--project"], "project/.claude/settings.json"),
     (["--settings", "my.json"], "project/my.json"), (["--settings", "~/x.json"], "x.json")],
)  # fmt: skip
def test_other_files_can_be_named(person, capsys, words, path):
    assert run(capsys, "install", *words)["data"]["settings"] == str(person / path)
    assert (person / path).exists()


def test_the_programs_own_folder_counts(person, capsys, monkeypatch):
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(person / "other"))
    assert run(capsys, "install")["data"]["settings"] == str(person / "other" / "settings.json")


def test_two_files_at_once_are_refused(person):
    with pytest.raises(Usage, match="different files"):
        app.run(["hooks", "install", "--user", "--project"])


def test_an_installed_hook_runs_a_script_that_is_there(person, capsys):
    run(capsys, "install")
    entry = json.loads((person / ".claude" / "settings.json").read_text())["hooks"]["Stop"][0]["hooks"][0]
    script = Path(entry["command"])
    assert os.access(script, os.X_OK)
    assert (script.parent / "spool").is_dir()
    assert entry["args"] == ["--by-hand", str(script.parent / "spool")]


def test_an_old_program_gets_a_shell_line_and_only_the_events_it_knows(person, capsys):
    claude(person, "2.1.90 (Claude Code)")
    told = run(capsys, "install")["data"]
    assert "PostModelSwitch" not in told["added"]
    entry = json.loads((person / ".claude" / "settings.json").read_text())["hooks"]["Stop"][0]["hooks"][0]
    assert "args" not in entry
    assert entry["command"] == f"exec {person}/fleet/state/hook.sh --by-hand {person}/fleet/state/spool"
    assert run(capsys, "install")["data"]["changed"] is False
    assert len(run(capsys, "uninstall")["data"]["removed"]) == len(told["added"])


@pytest.mark.parametrize("says", ["", "what?"])
def test_a_program_that_tells_no_version_gets_what_every_version_knows(person, capsys, says):
    claude(person, says)
    told = run(capsys, "install")
    assert len(told["data"]["added"]) == 12
    assert "told nothing" in told["warnings"][0]
    claude(person, "2.1.329 (Claude Code)")
    assert len(run(capsys, "install")["data"]["added"]) == 16


def test_install_and_uninstall_leave_the_file_as_it_was(person, capsys):
    path = person / "s.json"
    text = '{ "model":"opus",\n   "hooks": {"Stop": [{"hooks": [{"type":"command","command":"echo hi"}]}]} }\n'
    path.write_text(text)
    path.chmod(0o640)
    run(capsys, "install", "--settings", str(path))
    assert path.read_text() != text
    assert run(capsys, "install", "--settings", str(path))["data"]["changed"] is False
    told = run(capsys, "uninstall", "--settings", str(path))["data"]
    assert "Stop" in told["removed"]
    assert path.read_text() == text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert run(capsys, "uninstall", "--settings", str(path))["data"]["changed"] is False


def test_a_link_stays_a_link(person, capsys):
    (person / "dotfiles").mkdir()
    real = person / "dotfiles" / "settings.json"
    real.write_text("{}")
    (person / ".claude").mkdir()
    (person / ".claude" / "settings.json").symlink_to(real)
    run(capsys, "install")
    assert (person / ".claude" / "settings.json").is_symlink()
    assert "hooks" in json.loads(real.read_text())


def test_a_dry_run_writes_nothing(person, capsys):
    told = run(capsys, "install", "--dry-run")["data"]
    assert (told["changed"], told["dry_run"], len(told["added"])) == (True, True, 28)
    assert not (person / ".claude").exists()
    assert not (person / "fleet").exists()
    assert app.run(["hooks", "install", "--dry-run"]) == 0
    assert "would be installed" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"{broken", b"\xff\xfe{}", b"[]", b'{"hooks": 1}'])
def test_a_file_that_is_not_understood_is_not_written(person, content):
    path = person / "s.json"
    path.write_bytes(content)
    for command in ("install", "uninstall"):
        with pytest.raises(NotAllowed, match=r"s\.json.*(N|n)othing was changed"):
            app.run(["hooks", command, "--settings", str(path)])
    assert path.read_bytes() == content
    assert sorted(p.name for p in person.iterdir()) == ["bin", "project", "s.json"]


def test_a_folder_in_the_files_place_is_told(person):
    (person / "s.json").mkdir()
    with pytest.raises(NotAllowed, match="could not be read"):
        app.run(["hooks", "install", "--settings", str(person / "s.json")])


def test_a_file_that_somebody_writes_meanwhile_is_left_to_them(person):
    from fleet.cli.hooks import _File

    path = person / "s.json"
    path.write_text("{}")
    changed = _File.read(path).changed(lambda text: '{"a": 1}')
    path.write_text('{"theirs": 1}')
    with pytest.raises(NotAllowed, match="changed meanwhile"):
        changed.write()
    assert path.read_text() == '{"theirs": 1}'


def test_disabled_hooks_are_told(person, capsys):
    (person / "s.json").write_text('{"disableAllHooks": true}')
    assert "disableAllHooks" in run(capsys, "install", "--settings", str(person / "s.json"))["warnings"][0]


def test_nothing_to_change_is_said(person, capsys):
    assert app.run(["hooks", "uninstall"]) == 0
    assert "nothing to change" in capsys.readouterr().out
