"""The mail hook (mail.sh), run as the program runs it: one taker, nothing lost, and only for the box's owner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.homes import ROOT

SCRIPT = ROOT / "fleet" / "harnesses" / "mail.sh"
HOOK = ROOT / "fleet" / "harnesses" / "hook.sh"
OWNER = {"CLAUDE_CODE_ENTRYPOINT": "cli", "CLAUDE_CODE_SESSION_ATTENDED": "1", "CLAUDE_PID": str(os.getpid())}


@pytest.fixture
def box(tmp_path: Path) -> Path:
    made = tmp_path / "a box"
    made.mkdir()
    return made


def run(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    argv = ["/bin/sh", str(SCRIPT), *map(str, words)]
    return subprocess.run(argv, env=OWNER | env, input="{}", capture_output=True, text=True, check=False)


def lay(box: Path, name: str, text: str) -> None:
    (box / f".{name}").write_text(text)
    (box / f".{name}").rename(box / name)


@pytest.mark.parametrize("event", ["SessionStart", "CwdChanged"])
def test_the_program_is_told_to_watch_the_bell(box: Path, event: str) -> None:
    done = run(box, "watch", event)
    assert done.returncode == 0
    told = json.loads(done.stdout)["hookSpecificOutput"]
    assert told == {"hookEventName": event, "watchPaths": [f"{box}/bell"]}


def test_what_lies_in_the_box_is_handed_over_whole_in_order_and_kept(box: Path) -> None:
    long = "x" * 20_000 + "\n'\"$HOME`id`\\\n"
    lay(box, "d.1", "first\n")
    lay(box, "d.2", long)
    lay(box, "b.3", '"for another moment"')
    done = run(box, "ring")
    assert (done.returncode, done.stderr, done.stdout) == (2, "first\n" + long, "")
    kept = sorted(path.name.partition(",")[0] for path in (box / "taken").iterdir())
    assert kept == ["1", "2"]
    assert (box / "b.3").exists()


def test_an_empty_box_wakes_nobody(box: Path) -> None:
    done = run(box, "ring")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    assert not (box / "heard").exists()


def test_the_last_bell_that_was_heard_is_noted(box: Path) -> None:
    for rung in ("17.5", "19.25"):
        lay(box, "bell", f"{rung}\n")
        assert run(box, "ring").returncode == 0
        assert (box / "heard").read_text() == f"{rung}\n"


def test_fifty_hooks_at_once_take_every_text_once(box: Path) -> None:
    run(box, "watch", "SessionStart")
    for n in range(100):
        lay(box, f"d.{n:03}", f"text {n}\n")
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: run(box, "ring"), range(50)))
    lines = [line for one in done for line in one.stderr.splitlines()]
    assert sorted(lines) == sorted(f"text {n}" for n in range(100))
    assert {one.returncode for one in done if one.stderr} == {2}
    assert {one.returncode for one in done if not one.stderr} <= {0}


def test_what_is_told_is_one_text_as_the_programs_json(box: Path) -> None:
    lay(box, "b.1", json.dumps('say "hello"\nto ü'))
    lay(box, "b.2", json.dumps("later"))
    done = run(box, "tell", "PostToolUse")
    told = json.loads(done.stdout)["hookSpecificOutput"]
    assert told == {"hookEventName": "PostToolUse", "additionalContext": 'say "hello"\nto ü'}
    assert (box / "b.2").exists()


def test_the_event_hook_tells_what_waits_and_else_prints_nothing(tmp_path: Path, box: Path) -> None:
    folder = tmp_path / "harness"
    folder.mkdir()
    for script in (SCRIPT, HOOK):
        (folder / script.name).write_bytes(script.read_bytes())
        (folder / script.name).chmod(0o700)
    argv = [str(folder / "hook.sh"), str(tmp_path / "spool"), str(box), "PostToolUse"]

    def hook() -> str:
        done = subprocess.run(argv, env=OWNER, input="{}", capture_output=True, text=True, check=True)
        return done.stdout

    assert hook() == ""
    lay(box, "b.1", json.dumps("hello"))
    assert json.loads(hook())["hookSpecificOutput"]["additionalContext"] == "hello"
    assert hook() == ""
    assert len(list((tmp_path / "spool").iterdir())) == 3, "every event is in the spool"


@pytest.mark.parametrize(
    "other",
    [
        {"CLAUDE_CODE_ENTRYPOINT": "sdk-cli"},
        {"CLAUDE_CODE_SESSION_ATTENDED": "0"},
        {"CLAUDE_PID": str(os.getppid())},
    ],
    ids=["headless", "unattended", "another program"],
)
@pytest.mark.parametrize("words", [("ring",), ("tell", "PostToolUse"), ("watch", "SessionStart")])
def test_nobody_but_the_owner_is_served(box: Path, other: dict[str, str], words: tuple[str, ...]) -> None:
    run(box, "watch", "SessionStart")
    lay(box, "d.1", "secret\n")
    lay(box, "b.1", '"secret"')
    done = run(box, *words, **other)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (box / "d.1").exists()
    assert (box / "b.1").exists()


def test_a_box_whose_owner_has_died_has_the_next_one(box: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    run(box, "watch", "SessionStart", CLAUDE_PID=str(gone.pid))
    lay(box, "d.1", "hello\n")
    assert run(box, "ring").stderr == "hello\n"


def test_a_box_that_is_not_there_disturbs_nobody(tmp_path: Path) -> None:
    done = run(tmp_path / "gone", "ring")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
