"""Fleet's hooks in the real Claude Code program: what it does is what the spool then holds."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleet import harnesses, spool
from fleet.harnesses import claude_events
from fleet.terms import HookEvent
from tests.homes import Home, Stub

pytestmark = pytest.mark.real

HARNESSES = Path(harnesses.__file__).parent
DEADLINE = 90.0
SESSION = "5f0c3b9e-4a0e-4c6e-9d5b-0a1b2c3d4e5f"


@pytest.fixture
def person(home: Home, stub: Stub) -> Home:
    """Somebody who has settled what the program asks once, and trusts the folder they work in."""
    home.seed_claude(stub.url)
    path = home.path / ".claude.json"
    settled = json.loads(path.read_text())
    settled["projects"] = {str(home.work): {"hasTrustDialogAccepted": True}}
    path.write_text(json.dumps(settled))
    return home


def settings(home: Home, folder: Path) -> Path:
    """What a launch gives: every event that this version is told of, into the agent's folder of the spool."""
    folder.mkdir(parents=True)
    entry = {"type": "command", "command": str(HARNESSES / "hook.sh"), "args": [str(folder)], "timeout": 10}
    hooks = {event: [{"hooks": [entry]}] for event in claude_events.heard("9.9.9")}
    script = home.path / "statusline.sh"
    script.write_bytes((HARNESSES / "statusline.sh").read_bytes())
    script.chmod(0o755)
    line = {"type": "command", "command": f"{script} 'cat >told; echo the-persons-own'"}
    return home.write("settings.json", json.dumps({"hooks": hooks, "statusLine": line}))


def once(home: Home, program: str, prompt: str, *words: str, **environ: str) -> str:
    """One prompt, without a terminal."""
    done = subprocess.run(
        [program, "-p", "--permission-mode", "bypassPermissions", *words, prompt],
        cwd=home.work,
        env=home.env | environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(holds, what: str):
    deadline = time.monotonic() + DEADLINE
    while not (found := holds()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def names(events: list[HookEvent]) -> list[str]:
    return [event.name for event in events]


def test_a_turn_with_a_tool_is_told_whole_and_in_order(person: Home, stub: Stub, claude_program: str) -> None:
    folder = person.path / "spool" / "web"
    file = settings(person, folder)
    answer = once(
        person,
        claude_program,
        'TOOL Bash {"command": "echo made > made.txt; printenv CLAUDE_PID"}',
        "--settings",
        str(file),
        "--session-id",
        SESSION,
        FLEET_GENERATION="web.1.k3f9",
    )
    assert "TOOL-DONE" in answer
    events = spool.read(folder)
    told = [name for name in names(events) if name not in ("InstructionsLoaded", "UserPromptExpansion", "Setup")]
    assert told == ["SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd"]
    assert {event.session_id for event in events} == {SESSION}
    assert {event.generation for event in events} == {"web.1.k3f9"}
    (pid,) = {event.pid for event in events}
    by_name = {event.name: event.payload for event in events}
    assert by_name["PreToolUse"]["tool_name"] == "Bash"
    assert by_name["PreToolUse"]["tool_input"]["command"].startswith("echo made")
    assert by_name["PostToolUse"]["tool_use_id"] == by_name["PreToolUse"]["tool_use_id"]
    assert by_name["PostToolUse"]["tool_response"]["stdout"].strip() == str(pid)
    assert "TOOL-DONE" in by_name["Stop"]["last_assistant_message"]
    assert [event.at for event in events] == sorted(event.at for event in events)


def test_hooks_installed_by_hand_tell_of_a_session_under_its_folders_name(
    person: Home, stub: Stub, claude_program: str
) -> None:
    assert person.fleet("hooks", "install", "--program", claude_program).returncode == 0
    once(person, claude_program, "Repeat HELLO")
    events = spool.read(person.path / "fleet" / "state" / "spool" / "work")
    assert {"SessionStart", "UserPromptSubmit", "Stop", "SessionEnd"} <= set(names(events))
    assert {event.generation for event in events} == {None}


def test_hooks_installed_by_hand_stand_aside_in_fleets_own_sessions(
    person: Home, stub: Stub, claude_program: str
) -> None:
    assert person.fleet("hooks", "install", "--program", claude_program).returncode == 0
    once(person, claude_program, "Repeat HELLO", FLEET_GENERATION="web.1.k3f9", FLEET_AGENT="web")
    assert list((person.path / "fleet" / "state" / "spool").iterdir()) == []


@contextmanager
def terminal(home: Home, program: str, *words: str, **environ: str) -> Iterator[None]:
    """The program in a terminal of its own; what it draws is read and let go."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [program, "--permission-mode", "default", *words],
        cwd=home.work,
        env=home.env | {"TERM": "xterm-256color"} | environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)

    def drain() -> None:
        try:
            while os.read(ours, 65536):
                continue
        except OSError:  # the terminal has gone with its program
            return

    reading = threading.Thread(target=drain)
    reading.start()
    try:
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(DEADLINE)
        reading.join(DEADLINE)
        os.close(ours)


def test_no_dialog_stands_before_a_session_with_all_events_and_the_status_line_is_kept(
    person: Home, stub: Stub, claude_program: str
) -> None:
    """A settings file with an event that the program does not know would open one, and no session would start."""
    folder = person.path / "spool" / "web"
    file = settings(person, folder)
    with terminal(person, claude_program, "--settings", str(file), "Repeat HELLO", FLEET_GENERATION="web.1.k3f9"):
        until(lambda: "Stop" in names(spool.read(folder)), "the turn's end")
        until(lambda: (person.path / "statusline").exists() and (person.work / "told").exists(), "status line")
        told = json.loads((person.path / "statusline").read_text())
        assert told["session_id"] == spool.read(folder)[0].session_id
    until(lambda: "SessionEnd" in names(spool.read(folder)), "the session's end")
    assert names(spool.read(folder))[-1] == "SessionEnd"


@pytest.mark.parametrize("added", [(), ("NeverHeardOf",)])
def test_every_event_of_the_table_is_known_to_the_program(
    person: Home, stub: Stub, claude_program: str, added: tuple[str, ...]
) -> None:
    """Without a terminal the program says in words what it would open a dialog for."""
    version = subprocess.run([claude_program, "--version"], capture_output=True, text=True, check=True).stdout.split()[
        0
    ]
    hooks = {event: [{"hooks": [{"type": "command", "command": "true"}]}] for event in claude_events.known(version)}
    hooks |= dict.fromkeys(added, hooks["Stop"])
    file = person.write("all.json", json.dumps({"hooks": hooks}))
    done = subprocess.run(
        [claude_program, "-p", "--settings", str(file), "Repeat HELLO"],
        cwd=person.work,
        env=person.env,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert ("Unknown hook event" in done.stderr) is bool(added)
