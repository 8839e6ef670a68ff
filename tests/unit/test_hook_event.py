"""`fleet hook-event`: into the spool under the right name, and never a word or a status to the session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleet import hook, spool


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run it with this on stdin; what then lies in the spool, as events."""
    for name in ("FLEET_AGENT", "CLAUDE_AGENT_ID", "SCITEX_OROCHI_AGENT", "CLAUDE_PROJECT_DIR", "FLEET_GENERATION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLEET_HOME", str(tmp_path / "fleet"))
    (tmp_path / "My Project").mkdir()
    monkeypatch.chdir(tmp_path / "My Project")

    def run(*argv: str, stdin: bytes = b'{"a": 1}', **environ: str) -> list:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        readable, writable = os.pipe()
        kept = os.dup(0)
        os.dup2(readable, 0)
        os.close(readable)
        os.write(writable, stdin)
        os.close(writable)
        try:
            assert hook.main(argv) == 0
        finally:
            os.dup2(kept, 0)
            os.close(kept)
        assert capfd.readouterr().out == ""
        root = tmp_path / "fleet" / "state" / "spool"
        return [event for folder in sorted(root.glob("*")) for event in spool.read(folder)]

    return run


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("pretool", "PreToolUse"),
        ("posttool", "PostToolUse"),
        ("prompt", "UserPromptSubmit"),
        ("stop", "Stop"),
        ("Stop", "Stop"),
        ("FileChanged", "FileChanged"),
        ("SomethingNew", "SomethingNew"),
        ("a/../b", "a----b"),
        ("other", "Other"),
    ],
)
def test_every_kind_is_kept_under_its_name(run, kind, name):
    (event,) = run(kind)
    assert (event.name, event.payload) == (name, {"a": 1})


@pytest.mark.parametrize("argv", [(), ("other",)])
def test_without_a_kind_the_programs_own_word_counts(run, argv):
    (event,) = run(*argv, stdin=b'{"hook_event_name": "PreCompact"}')
    assert event.name == "PreCompact"


def test_the_agent_is_named_by_the_caller_then_the_environment_then_the_folder(run):
    assert [e.agent for e in run("stop")] == ["my-project"]
    assert "p" in {e.agent for e in run("stop", CLAUDE_PROJECT_DIR="/x/p/")}
    assert "o" in {e.agent for e in run("stop", SCITEX_OROCHI_AGENT="o")}
    assert "c" in {e.agent for e in run("stop", CLAUDE_AGENT_ID="c")}
    assert "f" in {e.agent for e in run("stop", FLEET_AGENT="f")}
    assert "g" in {e.agent for e in run("stop", "--agent", "g")}
    assert {e.agent for e in run("--agent=h", "stop")} == {"my-project", "p", "o", "c", "f", "g", "h"}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("web-2", "web-2"),
        ("../../etc", "etc"),
        ("/etc/passwd", "etc-passwd"),
        ("a;touch X", "a-touch-x"),
        ("$(id)\n`id`", "id-id"),
        ("My_Agent.v2", "my-agent-v2"),
        ("-x-", "x"),
        ("é", "my-project"),
        ("..", "my-project"),
        ("", "my-project"),
        ("a" * 100, "a" * 63),
        ("a" * 62 + "_b", "a" * 62),
    ],
)
def test_a_name_cannot_leave_its_folder(run, tmp_path, given, name):
    (event,) = run("stop", "--agent", given)
    assert event.agent == name
    assert {path.name for path in (tmp_path / "fleet").rglob("*") if path.is_file()} == {event.key.partition("/")[2]}


def test_the_launch_and_the_program_stand_in_the_key(run):
    (event,) = run("stop", FLEET_GENERATION="web.1.k3f9", CLAUDE_PID="4711")
    assert (event.generation, event.pid) == ("web.1.k3f9", 4711)
    assert event.key.startswith("my-project/web.1.k3f9,4711,")


@pytest.mark.parametrize("generation", ["../x", "a/b", "", "a,b", "_x", "é", "a b"])
def test_a_generation_that_is_none_is_none(run, generation):
    (event,) = run("stop", FLEET_GENERATION=generation, CLAUDE_PID="1;2")
    assert event.generation is None
    assert event.pid == os.getppid()


@pytest.mark.parametrize("stdin", [b"", b"not json", b'{"torn', b"\x00\xff"])
def test_bad_input_is_an_event_all_the_same(run, stdin):
    (event,) = run("stop", stdin=stdin)
    assert event.payload == (spool.parse(stdin) if stdin else {})


def test_unknown_options_are_passed_over(run):
    (event,) = run("--what", "stop", "too", "--agent")
    assert (event.name, event.agent) == ("Stop", "my-project")


def test_a_spool_that_cannot_be_written_is_nobodys_trouble(run, tmp_path, capfd):
    (tmp_path / "fleet").write_text("a file where a folder should be")
    assert run("stop") == []


def test_a_folder_that_has_gone_is_nobodys_trouble(run, tmp_path):
    (tmp_path / "My Project").rmdir()
    (event,) = run("stop")
    assert event.agent == "unnamed"


def test_help_is_told_and_nothing_stored(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FLEET_HOME", str(tmp_path))
    assert hook.main(["--help"]) == 0
    assert "Usage: fleet hook-event" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_files_are_the_owners_alone(run, tmp_path):
    before = os.umask(0o022)
    try:
        run("stop")
    finally:
        os.umask(before)
    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "fleet" / "state").rglob("*")}
    assert modes == {"0o700", "0o600"}


def test_it_imports_nothing_that_takes_time(tmp_path):
    root = str(Path(hook.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r}); import fleet.hook; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"json", "argparse", "pathlib", "re", "dataclasses", "subprocess", "click"} & set(loaded.split())
