"""Headless turns of the real Claude Code against the stub model server."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet.harnesses.claude_code import ClaudeCode
from fleet.headless import Standing, log_of
from fleet.manifests.model import AgentSpec
from fleet.terms import Activity
from tests.homes import Home, Stub
from tests.turns import Desk, message
from tests.waiting import until


@pytest.fixture
async def desk(home: Home, stub: Stub) -> AsyncIterator[Desk]:
    home.seed_claude(stub.url)
    made = Desk(home.path, home.env)
    yield made
    await made.close()


@pytest.fixture(scope="session")
def version(claude_program: str) -> str:
    harness = ClaudeCode()
    argv = harness.version_argv(AgentSpec(name="web", command=(claude_program,)))
    assert argv is not None
    found = harness.parse_version(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert found is not None
    return found


async def test_a_turn_answers_and_the_next_one_of_the_conversation_goes_on_with_it(
    desk: Desk, stub: Stub, claude_program: str, version: str
) -> None:
    desk.claude(claude_program, version)
    first = await desk.ask(message(1), "Repeat one")
    second = await desk.ask(message(2), "Repeat two")
    elsewhere = await desk.ask(message(3, thread="t-other"), "Repeat three")
    assert [(e.ok, e.text) for e in (first, second, elsewhere)] == [(True, "one"), (True, "two"), (True, "three")]
    asked = {e["prompt"]: e["n_messages"] for e in stub.log() if e.get("tools")}
    assert asked["Repeat two"] > asked["Repeat one"] == asked["Repeat three"]
    events = [dict(payload) for kind, name, payload in desk.events if (kind, name) == ("turn", "answered")]
    assert all(event["cost_usd"] > 0 for event in events)


async def test_a_conversation_goes_on_after_the_daemon_was_replaced(
    desk: Desk, stub: Stub, claude_program: str, version: str
) -> None:
    desk.claude(claude_program, version)
    await desk.ask(message(1), "Repeat one")
    await desk.next_daemon()
    assert (await desk.ask(message(2), "Repeat two")).text == "two"
    asked = {e["prompt"]: e["n_messages"] for e in stub.log() if e.get("tools")}
    assert asked["Repeat two"] > asked["Repeat one"]


async def test_a_session_that_the_program_does_not_know_any_more_gets_one_fresh_start(
    desk: Desk, claude_program: str, version: str
) -> None:
    up = desk.claude(claude_program, version)
    await desk.ask(message(1), "Repeat one")
    _transcript(up).write_text('{"type":"user"}\n' * 3)  # it looks like one, and the program finds nothing in it
    assert (await desk.ask(message(2), "Repeat two")).text == "two"
    ends = [dict(p)["reason"] for kind, name, p in desk.events if kind == "turn" and name != "begun"]
    assert ends == [None, "stale_session", None]


async def test_a_session_whose_transcript_has_gone_begins_anew(desk: Desk, claude_program: str, version: str) -> None:
    up = desk.claude(claude_program, version)
    await desk.ask(message(1), "Repeat one")
    _transcript(up).unlink()
    assert (await desk.ask(message(2), "Repeat two")).text == "two"


async def test_by_default_it_can_look_and_not_touch(desk: Desk, claude_program: str, version: str) -> None:
    desk.claude(claude_program, version)
    work = desk.home / "work"
    (work / "notes.txt").write_text("the word is marzipan")
    (desk.home / "outside.txt").write_text("the word is halva")
    read = await desk.ask(message(1), f'TOOL Read {{"file_path": "{work}/notes.txt"}}')
    assert "marzipan" in read.text
    outside = await desk.ask(message(2), f'TOOL Read {{"file_path": "{desk.home}/outside.txt"}}')
    assert outside.ok and "halva" not in outside.text
    for number, call in enumerate(
        ('TOOL Bash {"command": "touch made"}', f'TOOL Write {{"file_path": "{work}/made", "content": "x"}}'), 3
    ):
        assert (await desk.ask(message(number), call)).ok
    assert not (work / "made").exists()


async def test_with_all_tools_it_does_not_ask(desk: Desk, claude_program: str, version: str) -> None:
    desk.claude(claude_program, version, headless={"tools": "all"})
    assert (await desk.ask(message(1), 'TOOL Bash {"command": "touch made"}')).ok
    assert (desk.home / "work" / "made").exists()


async def test_named_tools_are_those_it_has(desk: Desk, claude_program: str, version: str) -> None:
    desk.claude(claude_program, version, headless={"tools": ["Bash(touch made)", "Read"]})
    await desk.ask(message(1), 'TOOL Bash {"command": "touch other"}')
    await desk.ask(message(2), 'TOOL Bash {"command": "touch made"}')
    work = desk.home / "work"
    assert (work / "made").exists() and not (work / "other").exists()


async def test_a_path_in_anothers_words_brings_no_file_into_the_conversation(
    desk: Desk, claude_program: str, version: str
) -> None:
    up = desk.claude(claude_program, version)
    secret = desk.home / "secret.txt"
    secret.write_text("the word is halva")
    assert (await desk.ask(message(1), f"Repeat have a look at @{secret} please")).ok
    assert "halva" not in _transcript(up).read_text()


async def test_it_declines_by_how_its_answer_begins(desk: Desk, claude_program: str, version: str) -> None:
    desk.claude(claude_program, version)
    end = await desk.ask(message(1), "Repeat DECLINED: that is not mine to say")
    assert (end.ok, end.declined, end.text) == (True, True, "that is not mine to say")


async def test_a_usage_limit_is_told_with_its_end_and_is_the_agents_state(
    desk: Desk, stub: Stub, claude_program: str, version: str
) -> None:
    desk.claude(claude_program, version, env={"CLAUDE_CODE_MAX_RETRIES": "1"})
    stub.mode(error=429, text="You've hit your 5-hour limit · resets 9:20pm (UTC)")
    end = await desk.ask(message(1), "Repeat one")
    assert (end.ok, end.reason, end.again) == (False, "usage_limit", True)
    assert desk.heard[-1].activity is Activity.LIMITED and desk.heard[-1].resets_at is not None


async def test_credentials_that_are_refused_end_the_turn_long_before_the_program_gives_up(
    desk: Desk, stub: Stub, claude_program: str, version: str
) -> None:
    desk.claude(claude_program, version)
    stub.mode(error=401)
    end = await desk.ask(message(1), "Repeat one")
    assert (end.ok, end.reason, end.again) == (False, "auth_error", False)
    assert desk.heard[-1].activity is Activity.ERROR
    stub.mode()
    assert (await desk.ask(message(2), "Repeat two")).ok
    assert desk.heard[-1].activity is Activity.READY


async def test_a_turn_that_is_stopped_leaves_nothing_and_its_conversation_goes_on_later(
    desk: Desk, stub: Stub, claude_program: str, version: str
) -> None:
    desk.claude(claude_program, version, headless={"tools": "all"})
    turn = desk.begin(message(1, text='TOOL Bash {"command": "touch began; setsid sleep 300"}'))
    await until((desk.home / "work" / "began").exists, "its tool runs")
    await desk.turns.stop_turn("web", message().thread)
    assert (await turn).reason == "interrupted"
    assert not desk.living()
    assert (await desk.ask(message(2), "Repeat after")).text == "after"


async def test_its_log_reads_as_a_conversation(desk: Desk, claude_program: str, version: str) -> None:
    desk.claude(claude_program, version, headless={"tools": "all"})
    await desk.ask(message(1), 'TOOL Bash {"command": "echo hi"}')
    told = log_of(desk.places, "web", 100)
    assert '● Bash: {"command": "echo hi"}' in told and "  ⎿ hi" in told and "● TOOL-DONE hi" in told


async def test_its_prompt_is_seen_by_nobody_in_the_process_table(
    desk: Desk, stub: Stub, claude_program: str, version: str
) -> None:
    desk.claude(claude_program, version)
    stub.mode(hold=True)
    turn = desk.begin(message(1, text="Repeat what is for the eyes of the agent"))
    folder = desk.places.agent("web") / "turns" / f"{message().id}.1"
    pid = await until(lambda: _pid(folder / "program"), "the turn runs")
    await until(lambda: b"stream-json" in Path(f"/proc/{pid}/cmdline").read_bytes(), "the program runs")
    assert b"for the eyes" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    stub.mode()
    assert (await turn).ok


def _transcript(up: Standing) -> Path:
    (found,) = (Path(up.env["HOME"]) / ".claude" / "projects").glob("*/*.jsonl")
    return found


def _pid(path: Path) -> str | None:
    return path.read_text().split()[0] if path.exists() else None
