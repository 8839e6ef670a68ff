"""The harness against the real Claude Code program, which talks to a model server of the tests' own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.harnesses.base import Remedy
from fleet.terms import Activity, Kind
from tests.claude import Desk, Program, desk, settings_of_their_own, trust, until
from tests.homes import Home, Stub

pytestmark = pytest.mark.real


@pytest.fixture
def at(home: Home, claude_program: str, stub: Stub) -> Iterator[Desk]:
    """A home with the real program in it."""
    its = desk(home, claude_program, stub.url)
    yield its
    its.close()


def bash(command: str) -> str:
    """A prompt that makes the model run this command."""
    return "TOOL Bash " + json.dumps({"command": command, "description": "x"})


GATED = "until [ -e go ]; do sleep 0.1; done"
"""A command that runs until the test opens the gate: `go` in the working folder."""


# -- starting ---------------------------------------------------------------------------------------------------------


def test_a_first_start_leaves_no_dialog_open_and_does_the_first_prompt(at: Desk) -> None:
    server = {"mcpServers": {"echo": {"command": "/bin/cat"}}}
    at.home.write(".mcp.json", json.dumps(server))
    web = at.launch(
        prompt="Repeat HELLO",
        permission_mode="bypassPermissions",
        mcp_servers={"own": {"command": "/bin/cat"}},
        mcp_written=["echo"],
    )
    stop = web.hears("Stop")
    web.reaches(Activity.READY)
    assert stop.payload["last_assistant_message"] == "HELLO"
    assert stop.session_id == web.ask.conversation.session_id
    assert stop.pid == web.pid
    assert stop.generation == "web.1"
    web.shows("bypass permissions on")
    web.notes("HELLO")
    assert web.transcript.last_user_message == "Repeat HELLO"
    facts = until(lambda: web.facts if web.facts and web.facts["context_tokens"] else None, "the status line tells")
    assert facts["session_id"] == stop.session_id
    assert facts["context_pct"] == round(100 * facts["context_tokens"] / facts["context_window"], 1)
    assert facts["version"] == at.version
    assert facts["quota_5h_used_pct"] is None


def test_the_program_says_who_it_is_in_its_state_file(at: Desk) -> None:
    web = at.ready()
    state = web.state
    assert state is not None
    started = Path(f"/proc/{web.pid}/stat").read_text().rpartition(")")[2].split()[19]
    assert (state.pid, state.proc_start) == (web.pid, started)
    assert state.session_id == web.ask.conversation.session_id
    assert state.cwd == web.ask.cwd
    assert state.version == at.version
    assert state.name == "web"


def test_what_a_person_set_up_for_themselves_works_on_and_stays_as_it_was(at: Desk) -> None:
    theirs = settings_of_their_own(at.home, at.home.work)
    web = at.launch(prompt="Repeat HELLO")
    web.hears("Stop")
    until(lambda: "THEIR-OWN-LINE" in web.screen, "their own status line shows")
    for folder, who in ((at.home.path, "user"), (at.home.work, "project")):
        ran = until(lambda f=folder, w=who: _lines(f / ".claude" / f"{w}-hooks", 2), f"the {who}'s hooks run")
        assert ran == ["UserPromptSubmit", "Stop"], "each once"
    assert [e.name for e in web.events if e.name in ("UserPromptSubmit", "Stop")] == ["UserPromptSubmit", "Stop"]
    web.close()
    for path, content in theirs.items():
        assert path.read_bytes() == content
    assert not (at.home.work / ".claude" / "settings.local.json").exists()


def _lines(path: Path, count: int) -> list[str] | None:
    lines = path.read_text().split() if path.exists() else []
    return lines if len(lines) >= count else None


@pytest.mark.parametrize("prompt", ["doctor", "-p Repeat X", "--help me", "Repeat A\nB $(touch x) 'q' \"d\""])
def test_a_first_prompt_is_only_ever_a_prompt(at: Desk, prompt: str) -> None:
    web = at.launch(prompt=prompt, args=["--allowed-tools", "Read"])
    assert web.hears("UserPromptSubmit").payload["prompt"].strip() == prompt
    web.hears("Stop")
    assert not (at.home.work / "x").exists()


@pytest.mark.parametrize("folder", ["a.b_c d", "ä😀x", "y" * 180])
def test_the_transcript_is_found_whatever_the_folder_is_called(at: Desk, folder: str) -> None:
    cwd = at.home.work / folder
    cwd.mkdir()
    web = at.launch(cwd=cwd, prompt="Repeat HELLO")
    said = web.hears("Stop").payload["transcript_path"]
    assert web.harness.transcript_path(web.ask.env, str(cwd), web.ask.conversation.session_id) == said
    until(lambda: web.harness.resumable(Path(said).read_bytes()), "it holds the conversation")


BAD: list[tuple[dict[str, Any], str, Remedy]] = [
    ({"args": ["--no-such-flag"]}, "UnknownOption", Remedy.PERSON),
    ({"permission_mode": "bogus"}, "InvalidOption", Remedy.PERSON),
    ({"session": "00000000-0000-4000-8000-000000000000", "exists": True}, "NoConversation", Remedy.FRESH),
    ({"session": "no-uuid"}, "InvalidSessionId", Remedy.PERSON),
    ({"args": ["--mcp-config", "/no/such/file"]}, "MissingFile", Remedy.PERSON),
]


@pytest.mark.parametrize(("ask", "reason", "remedy"), BAD, ids=[reason for _, reason, _ in BAD])
def test_a_start_that_cannot_work_says_why_and_what_to_do(
    at: Desk, ask: dict[str, Any], reason: str, remedy: Remedy
) -> None:
    web = at.launch(**ask)
    problem = web.start_failure()
    assert problem is not None, web.screen
    assert (problem.reason, problem.remedy) == (reason, remedy)


@pytest.mark.skipif(os.getuid() != 0, reason="only root is refused; run the tests as root to see it")
def test_bypassing_permissions_as_root_outside_a_sandbox_is_explained(at: Desk) -> None:
    web = at.launch(permission_mode="bypassPermissions", env={"IS_SANDBOX": None})
    problem = web.start_failure()
    assert problem is not None
    assert problem.reason == "BypassAsRoot"


def test_onboarding_is_left_to_the_person_and_explained(at: Desk) -> None:
    (at.home.path / ".claude.json").write_text("{}")
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    web = at.launch(env={"ANTHROPIC_BASE_URL": None, **nowhere})
    problem = web.start_failure()
    assert problem is not None, web.screen
    assert problem.reason == "NoConnection"
    assert "fleet attach" in problem.message


def test_a_key_that_nobody_approved_is_left_to_the_person_and_explained(at: Desk) -> None:
    web = at.launch(env={"ANTHROPIC_API_KEY": "sk-ant-api03-" + "n" * 40})
    problem = until(lambda: web.start_failure(alive=True), "the question is drawn")
    assert problem.reason == "ApiKeyNotApproved"
    assert "api-key" in problem.message


# -- working ----------------------------------------------------------------------------------------------------------


def test_a_turn_is_seen_by_every_source_from_its_beginning_to_its_end(at: Desk) -> None:
    web = at.ready(permission_mode="bypassPermissions")
    web.say(bash(GATED))
    web.hears("PreToolUse")
    web.reaches(Activity.WORKING)
    until(lambda: web.title and web.title.activity is Activity.WORKING, "the title says so")
    until(lambda: web.transcript.current_tool == "Bash", "the transcript says so")
    assert {e.activity for e in web.said} == {Activity.WORKING}
    at.home.write("go", "")
    web.hears("Stop")
    assert web.said[-1].activity is Activity.READY
    web.reaches(Activity.READY)
    until(lambda: web.title and web.title.activity is None, "the title is still again")
    until(lambda: web.transcript.evidence and web.transcript.evidence.activity is Activity.READY, "it is noted")


def test_a_message_typed_meanwhile_is_told_at_once_and_the_turns_follow_each_other(at: Desk, stub: Stub) -> None:
    """Why a Stop hook alone is no proof: the program goes on with what was queued."""
    web = at.ready()
    stub.mode(hold=True)
    web.say("Repeat FIRST")
    web.reaches(Activity.WORKING)
    web.tmux("send-keys", "-t", "=it:", "-l", "Repeat SECOND")
    web.keys("Enter")
    web.hears("UserPromptSubmit", prompt="Repeat SECOND")
    stub.mode()
    web.hears("Stop", last_assistant_message="SECOND")
    web.reaches(Activity.READY)
    turns = [e.name for e in web.events if e.name in ("UserPromptSubmit", "Stop")]
    assert turns == ["UserPromptSubmit", "UserPromptSubmit", "Stop", "Stop"]


def test_a_permission_dialog_needs_a_person_until_it_is_answered(at: Desk) -> None:
    web = at.ready()
    web.say(bash(f"touch made; {GATED}"))
    asked = web.harness.read_hook(web.hears("PermissionRequest"))
    assert asked is not None
    assert (asked.activity, asked.kind) == (Activity.NEEDS_INPUT, Kind.PERMISSION)
    assert asked.question == f"Bash: touch made; {GATED}"
    web.reaches(Activity.NEEDS_INPUT)
    web.answer("1")
    web.reaches(Activity.WORKING)
    assert not web.named("PostToolUse"), "it works again before the tool has ended"
    at.home.write("go", "")
    web.hears("Stop")
    assert (at.home.work / "made").exists()


def test_a_refused_dialog_fires_no_hook_and_the_state_file_tells(at: Desk) -> None:
    web = at.ready()
    web.say(bash("touch made"))
    web.hears("PermissionRequest")
    web.reaches(Activity.NEEDS_INPUT)
    before = told(web)
    web.answer("Escape")
    web.reaches(Activity.READY)
    assert told(web) == before
    until(lambda: web.transcript.evidence and web.transcript.evidence.rule == "transcript/interrupted", "it is noted")
    assert web.transcript.current_tool is None


def test_a_question_comes_with_its_words_and_options(at: Desk) -> None:
    web = at.ready()
    options = [{"label": "Red", "description": "r"}, {"label": "Blue", "description": "b"}]
    question = {"question": "Which colour?", "header": "Colour", "multiSelect": False, "options": options}
    web.say("TOOL AskUserQuestion " + json.dumps({"questions": [question]}))
    asked = web.harness.read_hook(web.hears("PermissionRequest"))
    assert asked is not None
    assert (asked.kind, asked.question, asked.options) == (Kind.QUESTION, "Which colour?", ("Red", "Blue"))
    web.reaches(Activity.NEEDS_INPUT)
    assert web.state is not None
    assert web.state.evidence.kind is Kind.QUESTION


def test_a_plan_waits_for_its_approval(at: Desk) -> None:
    web = at.ready(permission_mode="plan")
    web.say("TOOL ExitPlanMode {}")
    asked = web.harness.read_hook(web.hears("PermissionRequest"))
    assert asked is not None
    assert (asked.activity, asked.kind) == (Activity.NEEDS_INPUT, Kind.PLAN)
    web.reaches(Activity.NEEDS_INPUT)


def test_an_interrupt_fires_no_hook_and_the_state_file_tells(at: Desk) -> None:
    web = at.ready()
    web.say("SLOW 60")
    web.reaches(Activity.WORKING)
    web.shows("word1")
    before = told(web)
    web.keys("Escape")
    web.reaches(Activity.READY)
    assert told(web) == before
    until(lambda: web.transcript.evidence and web.transcript.evidence.rule == "transcript/interrupted", "it is noted")


def told(web: Program) -> list[str]:
    """What its hooks have told so far. That a dialog has been up for some seconds is told beside, on a busy machine."""
    return [event.name for event in web.events if event.name != "Notification"]


def test_a_mode_that_asks_nothing_asks_nothing(at: Desk) -> None:
    web = at.ready(permission_mode="dontAsk")
    web.say(bash("touch made"))
    web.hears("Stop")
    assert not any(e.activity is Activity.NEEDS_INPUT for e in web.said)
    assert not (at.home.work / "made").exists()


def test_waiting_for_a_sub_agent_is_work_and_its_question_is_the_agents(at: Desk) -> None:
    web = at.ready()
    inner = {"description": "sub", "prompt": bash("touch made"), "subagent_type": "general-purpose"}
    web.say("TOOL Agent " + json.dumps(inner))
    stop = web.hears("Stop")
    assert stop.payload["background_tasks"], "its own turn is over while the sub-agent works"
    assert web.harness.read_hook(stop) is None
    asked = web.hears("PermissionRequest")
    assert asked.payload["agent_id"]
    web.reaches(Activity.NEEDS_INPUT)
    web.answer("1")
    web.reaches(Activity.READY)
    assert (at.home.work / "made").exists()


def test_a_background_shell_is_told_beside_a_ready_agent(at: Desk) -> None:
    web = at.ready(permission_mode="bypassPermissions")
    web.say("TOOL Bash " + json.dumps({"command": "sleep 600", "description": "x", "run_in_background": True}))
    told = web.harness.read_hook(web.hears("Stop"))
    assert told is not None
    assert (told.activity, told.background) == (Activity.READY, True)
    until(lambda: web.state and web.state.evidence.background, "the state file says so")
    assert web.activity is Activity.READY


def test_a_worktree_can_be_made_and_the_transcript_moves_with_it(at: Desk) -> None:
    git = ["git", "-C", str(at.home.work), "-c", "user.email=a@b", "-c", "user.name=x"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *words], env=at.home.env, check=True)
    web = at.ready(permission_mode="bypassPermissions")
    before = web.hears("SessionStart").payload["transcript_path"]
    web.say('TOOL EnterWorktree {"name": "aside"}')
    after = web.hears("Stop").payload["transcript_path"]
    assert (at.home.work / ".claude" / "worktrees" / "aside" / ".git").exists(), web.screen
    assert after != before

    def found() -> bool:
        state = web.state
        path = web.harness.transcript_path
        return state is not None and path(web.ask.env, state.cwd or "", state.session_id or "") == after

    until(found, "the state file says where it is")


# -- conversations ----------------------------------------------------------------------------------------------------


def test_clear_binds_the_agent_to_a_new_session(at: Desk) -> None:
    web = at.launch(prompt="Repeat HELLO")
    web.hears("Stop")
    first = web.ask.conversation.session_id
    web.say("/clear")
    start = web.hears("SessionStart", source="clear")
    assert start.pid == web.pid
    assert start.session_id != first
    until(lambda: web.state and web.state.session_id == start.session_id, "the state file follows")
    assert web.harness.read_hook(start) is None


def test_after_a_kill_the_same_conversation_goes_on_in_the_same_mode(at: Desk, stub: Stub) -> None:
    web = at.launch(prompt="Repeat HELLO", permission_mode="bypassPermissions")
    web.hears("Stop")
    web.reaches(Activity.READY)
    web.notes("HELLO")
    session = web.ask.conversation.session_id
    os.kill(web.pid, signal.SIGKILL)
    assert web.ended() == 137
    assert web.state is not None, "a state file stays after a SIGKILL: it counts only while its process lives"
    again = at.ready(session=session, exists=True, prompt="Repeat HELLO", permission_mode="bypassPermissions")
    assert again.hears("SessionStart", source="resume").session_id == session
    again.shows("bypass permissions on")
    again.say("Repeat AGAIN")
    again.hears("Stop", last_assistant_message="AGAIN")
    asked = [e for e in stub.log() if "AGAIN" in str(e.get("prompt"))]
    assert asked[-1]["n_messages"] > 1, "the model is told what was before"
    assert len(again.named("UserPromptSubmit", prompt="Repeat HELLO")) == 1, "the first prompt is not given again"


def test_a_session_that_never_had_a_prompt_starts_again_under_its_own_id(at: Desk) -> None:
    web = at.ready()
    session = web.ask.conversation.session_id
    os.kill(web.pid, signal.SIGTERM)
    assert web.ended() == 143
    again = at.ready(session=session)
    assert again.state is not None
    assert again.state.session_id == session


def test_a_conversation_that_exists_is_refused_as_a_new_one(at: Desk) -> None:
    web = at.launch(prompt="Repeat HELLO")
    web.hears("Stop")
    web.notes("HELLO")
    web.say("/exit")
    assert web.ended() == 0
    again = at.launch(session=web.ask.conversation.session_id)
    problem = again.start_failure()
    assert problem is not None
    assert (problem.reason, problem.remedy) == ("SessionInUse", Remedy.RESUME)


def test_two_agents_in_one_folder_are_told_apart(at: Desk) -> None:
    web, other = at.launch(name="web", prompt="Repeat ONE"), at.launch(name="web-2", prompt="Repeat TWO")
    assert web.hears("Stop").payload["last_assistant_message"] == "ONE"
    assert other.hears("Stop").payload["last_assistant_message"] == "TWO"
    assert {e.pid for e in web.events} == {web.pid}
    assert {e.pid for e in other.events} == {other.pid}
    assert {e.session_id for e in web.events} == {web.ask.conversation.session_id}


@pytest.mark.parametrize("hooks", ["of this launch alone", "in the user's settings too"])
def test_a_nested_run_of_the_program_is_told_apart(at: Desk, hooks: str) -> None:
    if hooks == "in the user's settings too":
        ask = at.ask()
        given = hooks_by_hand(at, ask.spool)
        (at.home.path / ".claude").mkdir()
        (at.home.path / ".claude" / "settings.json").write_text(json.dumps(given))
    web = at.ready(permission_mode="bypassPermissions")
    web.say(bash(f"{at.program} -p 'Repeat NESTED'"))
    web.hears("PostToolUse")
    web.hears("Stop", last_assistant_message="TOOL-DONE NESTED")
    nested = [e for e in web.events if e.pid != web.pid]
    assert bool(nested) == (hooks != "of this launch alone")
    assert all(e.session_id != web.ask.conversation.session_id for e in nested)
    web.reaches(Activity.READY)
    assert web.state is not None
    assert web.state.session_id == web.ask.conversation.session_id


def hooks_by_hand(at: Desk, spool: str) -> dict[str, Any]:
    """Fleet's hooks as a user's settings could hold them: without any mark of a launch."""
    script = at.home.path / "hook.sh"
    script.write_bytes((Path(__file__).parents[2] / "fleet" / "harnesses" / "hook.sh").read_bytes())
    script.chmod(0o700)
    entry = [{"hooks": [{"type": "command", "command": str(script), "args": [spool]}]}]
    return {"hooks": dict.fromkeys(("SessionStart", "UserPromptSubmit", "Stop", "SessionEnd"), entry)}


# -- errors, limits, compaction ---------------------------------------------------------------------------------------


def asked(stub: Stub, prompt: str) -> list[dict[str, Any]]:
    """The requests of a prompt's turn; one that is not answered yet has no status."""
    return [entry for entry in stub.log() if entry.get("prompt") == prompt and entry.get("tools")]


def failed(web: Program) -> Any:
    told = web.harness.read_hook(web.hears("StopFailure"))
    assert told is not None
    web.reaches(Activity.READY)
    return told


def test_a_refused_key_is_an_error_with_its_cause(at: Desk) -> None:
    web = at.ready(env={"CLAUDE_CODE_MAX_RETRIES": "0"})
    web.say("ERR 401")
    told = failed(web)
    assert (told.activity, told.rule) == (Activity.ERROR, "StopFailure/authentication_failed")
    until(lambda: web.transcript.evidence and web.transcript.evidence.activity is Activity.ERROR, "it is noted")


def test_an_overloaded_server_is_work_while_it_is_asked_again_and_an_error_at_last(at: Desk, stub: Stub) -> None:
    web = at.ready(env={"CLAUDE_CODE_MAX_RETRIES": "2"})
    stub.mode(hold_answers=True)
    web.say("ERR 529x2 busy")
    until(lambda: [e.get("status") for e in asked(stub, "ERR 529x2 busy")] == [529, 529, None], "it asks again")
    web.reaches(Activity.WORKING)
    stub.mode()
    web.hears("Stop", last_assistant_message="RECOVERED")
    assert all(e.activity is not Activity.ERROR for e in web.said)
    web.say("/clear")
    web.hears("SessionStart", source="clear")
    web.say("ERR 529 for good")
    told = failed(web)
    assert (told.activity, told.rule) == (Activity.ERROR, "StopFailure/server_error")


def test_a_usage_limit_is_told_with_its_end(at: Desk, stub: Stub) -> None:
    end = int(time.time()) // 3600 * 3600 + 3 * 3600
    limit = {"status": "rejected", "reset": str(end), "representative-claim": "five_hour"}
    window = {"5h-status": "rejected", "5h-reset": str(end), "5h-utilization": "1.0"}
    headers = {f"anthropic-ratelimit-unified-{k}": v for k, v in (limit | window).items()}
    web = at.ready(env={"ANTHROPIC_API_KEY": None, "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-" + "z" * 40})
    stub.mode(error=429, text="limit", headers=headers)
    web.say("Repeat HELLO")
    told = failed(web)
    assert (told.activity, told.rule) == (Activity.LIMITED, "StopFailure/usage_limit")
    assert told.resets_at == end
    until(lambda: web.transcript.evidence and web.transcript.evidence.activity is Activity.LIMITED, "it is noted")


def test_a_compaction_is_work_and_the_session_stays(at: Desk, stub: Stub) -> None:
    web = at.launch(prompt="Repeat HELLO")
    web.hears("Stop")
    stub.mode(hold=True)
    web.say("/compact")
    assert web.harness.read_hook(web.hears("PreCompact", trigger="manual")).activity is Activity.WORKING  # type: ignore[union-attr]
    web.reaches(Activity.WORKING)
    stub.mode()
    done = web.hears("PostCompact", trigger="manual")
    web.reaches(Activity.READY)
    assert web.said[-1].activity is Activity.READY
    assert done.session_id == web.ask.conversation.session_id
    web.say("USAGE 985000")
    web.hears("Stop", last_assistant_message="USAGE-SET 985000")
    web.say("Repeat AFTER")
    web.hears("PostCompact", trigger="auto")
    web.hears("Stop", last_assistant_message="AFTER")
    web.reaches(Activity.READY)


# -- the end ----------------------------------------------------------------------------------------------------------


def test_its_exit_command_ends_it_and_its_state_file_goes(at: Desk) -> None:
    web = at.launch(prompt="Repeat HELLO")
    web.hears("Stop")
    command = web.harness.exit_command()
    assert command is not None
    web.say(command)
    assert web.ended() == 0
    assert web.hears("SessionEnd").payload["reason"] == "prompt_input_exit"
    assert web.state is None


def test_trust_is_asked_where_nobody_gave_it_and_nothing_is_said_before(at: Desk) -> None:
    aside = at.home.path / "aside"
    aside.mkdir()
    web = at.launch(cwd=aside)
    until(lambda: "Yes, I trust this folder" in web.screen, "the question is drawn")
    assert web.state is None
    assert not web.events
    trust(at.home, aside)
