"""The real Claude Code program under the real fleet: what a person sees of it with `fleet`, and does in its pane.

It talks to a model server of the tests' own, which does what a prompt says (tests/stub_anthropic.py). Where a test
needs something to last, it opens the gate itself: no test counts on how fast the machine is.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.claude import settings_of_their_own, trust
from tests.e2e.fleets import Claude, alive, kill, until
from tests.homes import Home, Stub

pytestmark = pytest.mark.real


@pytest.fixture
def fleet(fleet_home: Home, claude_program: str, stub: Stub) -> Iterator[Claude]:
    """A fleet in a home whose person has used Claude Code before, and trusts what is in it."""
    fleet_home.seed_claude(stub.url)
    trust(fleet_home, fleet_home.path)
    yield Claude(fleet_home, claude_program, stub)


@pytest.fixture
def fresh(fleet_home: Home, claude_program: str, stub: Stub) -> Iterator[Claude]:
    """The same, where no folder has been trusted yet."""
    fleet_home.seed_claude(stub.url)
    yield Claude(fleet_home, claude_program, stub)


def bash(command: str) -> str:
    """A prompt that makes the model run this command."""
    return "TOOL Bash " + json.dumps({"command": command, "description": "x"})


GATED = "until [ -e go ]; do sleep 0.1; done"
"""A command that runs until the test opens the gate."""
ASKS_NOTHING = {"permission_mode": "bypassPermissions"}


# -- starting ---------------------------------------------------------------------------------------------------------


def test_a_first_start_settles_what_it_may_and_leaves_no_dialog_open(fresh: Claude) -> None:
    told = fresh.json("start", fresh.claude("web", prompt="Repeat HELLO", **ASKS_NOTHING))
    assert [(a["outcome"], a["phase"]) for a in told["agents"]] == [("started", "running")]
    assert fresh.answer("web") == "HELLO"
    fresh.wait("web", activity="ready", last_assistant_msg="HELLO")
    until(lambda: "bypass permissions on" in (fresh.status("web")["pane_text"] or ""), "its mode is seen")
    accepted = [e["payload"] for e in fresh.events("web", "action") if e["name"] == "auto_accept"]
    assert {(a["dialog"], a["because"]) for a in accepted} == {("trust-folder", "Yes, I trust this folder")}
    assert fresh.asked("Repeat HELLO") == 1


def test_what_a_person_set_up_for_themselves_works_on_and_stays_as_it_was(fresh: Claude) -> None:
    theirs = settings_of_their_own(fresh.home, fresh.home.work)
    path = fresh.home.path / ".claude.json"
    own = json.loads(path.read_text()) | {"mcpServers": {"mine": {"command": "/bin/cat"}}}
    path.write_text(json.dumps(own))
    fresh.run("start", fresh.claude("web", workdir=".", auto_accept=["trust-folder"], prompt="Repeat HELLO"))
    assert fresh.answer("web") == "HELLO"
    until(lambda: "THEIR-OWN-LINE" in fresh.screen("web"), "their own status line shows")
    for file in theirs:
        ran = file.with_name("user-hooks" if fresh.home.work not in file.parents else "project-hooks")
        until(lambda ran=ran: ran.read_text().split() == ["UserPromptSubmit", "Stop"], f"{ran}: each ran once")
    fresh.wait("web", activity="ready")
    until(lambda: fresh.status("web")["context_size"], "fleet's own status line works beside theirs")
    fresh.run("stop", "web")
    assert {file: file.read_bytes() for file in theirs} == theirs
    after = json.loads(path.read_text())
    assert {key: after[key] for key in own} == own
    assert not (fresh.home.work / ".claude" / "settings.local.json").exists()
    assert not (fresh.home.work / ".mcp.json").exists()


def test_a_trust_that_nobody_gave_is_asked_of_the_person(fresh: Claude) -> None:
    done = fresh.home.fleet("start", fresh.claude("web", workdir=".", trusted=False))
    assert done.returncode == 7, done.stdout + done.stderr
    assert "fleet attach web" in done.stderr
    status = fresh.status("web")
    assert (status["phase"], status["activity"], status["kind"]) == ("starting", "needs_input", "trust")
    assert status["options"] == ["No, exit", "Yes, I trust this folder"]
    fresh.decide("web", "Up", shows="❯ Yes")
    fresh.decide("web", "Enter")
    fresh.wait("web", phase="running", activity="ready", kind=None)


def test_a_home_whose_onboarding_is_not_settled_is_told_of_and_nothing_is_pressed(fresh: Claude) -> None:
    (fresh.home.path / ".claude.json").unlink()
    path = fresh.claude("web", env={"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"})
    told = fresh.json("start", path, code=1)["agents"][0]
    assert told["outcome"] == "failed"
    assert "onboarding" in told["message"]
    assert "start `claude` once yourself" in told["message"]
    assert fresh.events("web", "action") == []


def test_a_key_that_nobody_approved_is_asked_of_the_person_and_the_program_lives_on(fresh: Claude) -> None:
    unapproved = {"ANTHROPIC_API_KEY": "sk-ant-api03-" + "n" * 40}
    done = fresh.home.fleet("start", fresh.claude("web"), "--json", env=unapproved)
    told = json.loads(done.stdout)["data"]["agents"][0]
    assert (done.returncode, told["outcome"]) == (7, "dialog"), done.stdout
    status = fresh.wait("web", phase="starting", activity="needs_input")
    assert "api-key" in told["message"] or "attach" in told["message"]
    assert alive(status["pid"])
    assert "api-key" not in {e["payload"]["dialog"] for e in fresh.events("web", "action")}


# -- working ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["SLOW 120", "THINK 120", bash(GATED)], ids=["streaming", "thinking", "in a tool"])
def test_a_long_turn_is_seen_as_working_throughout(fleet: Claude, stub: Stub, prompt: str) -> None:
    fleet.ready("web", workdir=".", **ASKS_NOTHING)
    fleet.type("web", prompt)
    fleet.wait("web", activity="working")
    seen = []
    for _ in range(25):
        seen.append(fleet.status("web")["activity"])
        time.sleep(0.15)
    fleet.open_gate()
    stub.mode(hurry=True)
    fleet.wait("web", activity="ready")
    assert set(seen) == {"working"}
    assert fleet.activities("web") == ["working", "ready"], "once, from the beginning to the end"


def test_a_permission_waits_for_a_person_and_is_over_as_soon_as_it_is_answered(fleet: Claude) -> None:
    fleet.ready("web", workdir=".")
    fleet.type("web", bash(f"touch made; {GATED}"))
    status = fleet.wait("web", activity="needs_input", kind="permission", question=f"Bash: touch made; {GATED}")
    assert status["pane_state"] == "y_n_prompt"

    def seen_whole() -> dict[str, Any] | None:
        status = fleet.status("web")
        return status if any(option.startswith("No") for option in status["options"]) else None

    status = until(seen_whole, "its options are seen, to the last")
    assert status["options"][0].startswith("Yes")
    asked = next(c for c in status["conditions"] if c["type"] == "InputRequired")
    assert (asked["status"], asked["reason"]) == ("True", "Permission")
    fleet.decide("web", "1")
    status = fleet.wait("web", activity="working", kind=None, question=None)
    until((fleet.home.work / "made").exists, "the tool runs")
    fleet.open_gate()
    fleet.wait("web", activity="ready")
    assert fleet.activities("web") == ["working", "needs_input", "working", "ready"]


def test_a_refused_dialog_and_an_interrupt_are_recovered_from_without_a_hook(fleet: Claude) -> None:
    fleet.ready("web", workdir=".")
    fleet.type("web", bash("touch made"))
    fleet.wait("web", activity="needs_input")
    until(lambda: fleet.hooks("web", "PermissionRequest"), "its hooks so far are known")
    told = heard(fleet)
    fleet.decide("web", "Escape")
    fleet.wait("web", activity="ready", kind=None)
    assert heard(fleet) == told
    assert not (fleet.home.work / "made").exists()

    fleet.type("web", "SLOW 600")
    fleet.wait("web", activity="working")
    until(lambda: "word1" in fleet.screen("web"), "it streams")
    until(lambda: len(fleet.hooks("web", "UserPromptSubmit")) == 2, "its hooks so far are known")
    told = heard(fleet)
    fleet.press("web", "Escape")
    fleet.wait("web", activity="ready")
    assert heard(fleet) == told


def heard(fleet: Claude) -> list[str]:
    """What its hooks have told, but for those that come by themselves once nobody has touched a dialog for a while."""
    return [event["name"] for event in fleet.events("web", "hook") if event["name"] != "Notification"]


def test_a_question_is_told_with_its_options(fleet: Claude) -> None:
    fleet.ready("web")
    options = [{"label": "Red", "description": "r"}, {"label": "Blue", "description": "b"}]
    question = {"question": "Which colour?", "header": "Colour", "multiSelect": False, "options": options}
    fleet.type("web", "TOOL AskUserQuestion " + json.dumps({"questions": [question]}))
    fleet.wait("web", activity="needs_input", kind="question", question="Which colour?")
    until(lambda: fleet.status("web")["options"][:2] == ["Red", "Blue"], "its options are seen")
    fleet.decide("web", "1")
    fleet.wait("web", activity="ready", kind=None, question=None, options=[])


@pytest.mark.parametrize("mode", ["dontAsk", "bypassPermissions"])
def test_a_permission_mode_that_asks_nothing_asks_nothing(fleet: Claude, mode: str) -> None:
    fleet.ready("web", workdir=".", permission_mode=mode)
    fleet.type("web", bash("touch made"))
    assert fleet.answer("web").startswith("TOOL-DONE")
    fleet.wait("web", activity="ready")
    assert fleet.activities("web") == ["working", "ready"]
    assert (fleet.home.work / "made").exists() == (mode == "bypassPermissions")


def test_sub_agents_are_work_and_a_background_shell_is_not(fleet: Claude) -> None:
    fleet.ready("web", workdir=".", **ASKS_NOTHING)
    inner = {"description": "sub", "prompt": bash(GATED), "subagent_type": "general-purpose"}
    fleet.type("web", "TOOL Agent " + json.dumps(inner))
    until(lambda: fleet.hooks("web", "Stop"), "its own turn is over, its sub-agent works on")
    until(lambda: "❯" in fleet.screen("web"), "its composer is empty, as if it were idle")
    seen = []
    for _ in range(15):
        seen.append(fleet.status("web")["activity"])
        time.sleep(0.15)
    assert set(seen) == {"working"}
    fleet.open_gate()
    until(lambda: fleet.hooks("web", "SubagentStop"), "the sub-agent ends")
    fleet.wait("web", activity="ready", background=False)

    shell = {"command": "sleep 600", "description": "x", "run_in_background": True}
    fleet.type("web", "TOOL Bash " + json.dumps(shell))
    status = fleet.wait("web", activity="ready", background=True)
    work = next(c for c in status["conditions"] if c["type"] == "BackgroundWork")
    assert work["status"] == "True"


def test_compaction_is_work_and_the_conversation_stays_the_same(fleet: Claude, stub: Stub) -> None:
    session = fleet.ready("web", prompt="Repeat HELLO")["session_id"]
    fleet.wait("web", activity="ready", last_assistant_msg="HELLO")
    stub.mode(hold=True)
    fleet.type("web", "/compact")
    fleet.wait("web", activity="working")
    stub.mode()
    until(lambda: fleet.hooks("web", "PostCompact"), "it is done")
    status = fleet.wait("web", activity="ready")
    assert status["session_id"] == session
    assert fleet.activities("web")[-2:] == ["working", "ready"]


# -- errors and limits ------------------------------------------------------------------------------------------------


def test_a_refused_key_is_an_error_until_a_turn_works_again(fleet: Claude, stub: Stub) -> None:
    fleet.ready("web", env={"CLAUDE_CODE_MAX_RETRIES": "0"})
    stub.mode(error=401)
    fleet.type("web", "Repeat HELLO")
    status = fleet.wait("web", activity="error", pane_state="auth_error")
    assert status["phase"] == "running"
    fleet.run("health", "web", code=1)
    stub.mode()
    fleet.type("web", "Repeat AGAIN")
    fleet.wait("web", activity="ready", pane_state="idle_prompt")


def test_a_usage_limit_is_told_with_its_end(fleet: Claude, stub: Stub) -> None:
    end = int(time.time()) // 3600 * 3600 + 3 * 3600
    limit = {"status": "rejected", "reset": str(end), "representative-claim": "five_hour"}
    window = {"5h-status": "rejected", "5h-reset": str(end), "5h-utilization": "1.0"}
    fleet.home.env.pop("ANTHROPIC_API_KEY")
    fleet.home.env["CLAUDE_CODE_OAUTH_TOKEN"] = "sk-ant-oat01-" + "z" * 40
    fleet.ready("web")
    headers = {f"anthropic-ratelimit-unified-{k}": v for k, v in (limit | window).items()}
    stub.mode(error=429, text="limit", headers=headers)
    fleet.type("web", "Repeat HELLO")
    status = fleet.wait("web", activity="limited", pane_state="limit_reached")
    assert status["resets_at"] == end
    assert status["phase"] == "running"
    fleet.run("daemon", "restart")
    fleet.wait("web", activity="limited", resets_at=end)
    stub.mode()
    fleet.type("web", "Repeat AGAIN")
    fleet.wait("web", activity="ready", resets_at=None)


def test_a_server_that_is_asked_again_is_work_and_an_error_only_when_given_up(fleet: Claude) -> None:
    fleet.ready("web", env={"CLAUDE_CODE_MAX_RETRIES": "4"})
    fleet.type("web", "ERR 529x4 busy")

    def while_it_tries() -> str | None:
        before, activity, after = fleet.screen("web"), fleet.status("web")["activity"], fleet.screen("web")
        return activity if "retrying" in before and "retrying" in after else None

    assert until(while_it_tries, "it tries again") == "working"
    assert fleet.answer("web") == "RECOVERED"
    fleet.wait("web", activity="ready")
    assert fleet.activities("web")[-2:] == ["working", "ready"]
    fleet.type("web", "ERR 529 for good")
    fleet.wait("web", activity="error")
    assert fleet.activities("web")[-1] == "error"


# -- conversations ----------------------------------------------------------------------------------------------------


def test_a_crash_is_followed_by_the_same_conversation_and_the_prompt_is_not_given_again(fleet: Claude) -> None:
    fleet.ready("web", prompt="Repeat HELLO", **ASKS_NOTHING)
    before = fleet.wait("web", last_assistant_msg="HELLO")
    kill(before["pid"])
    after = fleet.wait("web", phase="running", activity="ready", restarts=1)
    assert after["pid"] != before["pid"]
    assert after["session_id"] == before["session_id"]
    until(lambda: "bypass permissions on" in fleet.screen("web"), "its mode is kept")
    fleet.run("restart", "web")
    fleet.wait("web", phase="running", activity="ready", session_id=before["session_id"])
    fleet.type("web", "Repeat AGAIN")
    fleet.wait("web", activity="ready", last_assistant_msg="AGAIN")
    assert fleet.asked("Repeat HELLO") == 1
    assert fleet.messages("Repeat AGAIN") > fleet.messages("Repeat HELLO"), "the model is told what was before"


@pytest.mark.parametrize("way", ["prompt", "prompt_file"])
def test_a_prompt_is_not_given_again_where_the_program_was_killed_before_it_wrote_its_conversation(
    fleet: Claude, way: str
) -> None:
    fleet.home.write("first.txt", "Repeat HELLO")
    fleet.ready("web", **{way: "Repeat HELLO" if way == "prompt" else "first.txt"}, workdir=".", **ASKS_NOTHING)
    before = fleet.wait("web", activity="ready", last_assistant_msg="HELLO")
    told = until(lambda: fleet.hooks("web", "Stop"), "its turn's end is told")
    written = Path(told[-1]["payload"]["transcript_path"])
    kill(before["pid"], signal.SIGSTOP)  # what it writes shortly after its answer is cut off, as its death would
    until(lambda: stands_still(before["pid"]), "nothing of it writes any more")
    written.write_text('{"type":"permission-mode","permissionMode":"bypassPermissions"}\n')
    kill(before["pid"])
    after = fleet.wait("web", phase="running", activity="ready", restarts=1)
    assert after["session_id"] != before["session_id"]
    assert [before["session_id"] in told for told in fleet.json("inspect", "web")["warnings"]] == [True]
    fleet.type("web", "Repeat AGAIN")
    fleet.wait("web", activity="ready", last_assistant_msg="AGAIN")
    assert (fleet.asked("Repeat HELLO"), fleet.asked("Repeat AGAIN")) == (1, 1)
    fleet.run("restart", "web", "--fresh")
    until(lambda: fleet.asked("Repeat HELLO") == 2, "it is given where a person says so")


def stands_still(pid: int) -> bool:
    """Whether each of its threads is stopped."""
    stats = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    return {stat.rpartition(")")[2].split()[0] for stat in stats} == {"T"}


def test_a_session_that_is_always_new_is_new_at_each_start_and_has_the_prompt_each_time(fleet: Claude) -> None:
    before = fleet.ready("web", prompt="Repeat HELLO", session="new")["session_id"]
    fleet.answer("web")
    fleet.run("restart", "web")
    after = fleet.wait("web", phase="running", activity="ready")["session_id"]
    assert after != before
    until(lambda: fleet.asked("Repeat HELLO") == 2, "a conversation of its own, a first message of its own")
    first, second = fleet.requests("Repeat HELLO")
    assert second["n_messages"] == first["n_messages"], "the model is told nothing of the first"


def test_clear_binds_the_agent_to_the_new_conversation_for_good(fleet: Claude) -> None:
    first = fleet.ready("web", prompt="Repeat HELLO")["session_id"]
    fleet.wait("web", activity="ready", last_assistant_msg="HELLO")
    fleet.type("web", "/clear")
    second = until(lambda: s if (s := fleet.status("web")["session_id"]) != first else None, "it is another one")
    fleet.wait("web", activity="ready")
    fleet.type("web", "Repeat SECOND")
    fleet.wait("web", activity="ready", last_assistant_msg="SECOND")
    fleet.run("daemon", "restart")
    status = fleet.wait("web", phase="running", session_id=second)
    kill(status["pid"])
    fleet.wait("web", phase="running", activity="ready", restarts=1, session_id=second)
    fleet.type("web", "Repeat THIRD")
    fleet.wait("web", activity="ready", last_assistant_msg="THIRD")
    assert fleet.messages("Repeat THIRD") > fleet.messages("Repeat SECOND")
    assert fleet.asked("Repeat HELLO") == 1


def test_a_prompt_from_a_file_is_typed_once_and_submitted_once(fleet: Claude) -> None:
    text = "Look at this:\n\n  a line with 'quotes', \"more\" and $(touch x)\n\nRepeat FROM-A-FILE"
    fleet.home.write("first.txt", text)
    fleet.ready("web", workdir=".", prompt_file="first.txt")
    assert fleet.answer("web") == "FROM-A-FILE"
    submitted = fleet.hooks("web", "UserPromptSubmit")
    assert [e["payload"]["prompt"].strip() for e in submitted] == [text]
    fleet.wait("web", last_assistant_msg="FROM-A-FILE")  # it is written down, not only told
    pid = fleet.wait("web", activity="ready", draft=False)["pid"]
    kill(pid)
    fleet.wait("web", phase="running", activity="ready", restarts=1)
    fleet.type("web", "Repeat AFTER")
    fleet.wait("web", activity="ready", last_assistant_msg="AFTER")
    until(lambda: len(fleet.hooks("web", "UserPromptSubmit")) > 1, "both prompts are told")
    assert len(fleet.hooks("web", "UserPromptSubmit")) == 2
    assert not (fleet.home.work / "x").exists()


def test_two_agents_in_one_folder_are_two(fleet: Claude) -> None:
    one, two = (
        fleet.claude(name, workdir=".", prompt=f"Repeat {word}", **ASKS_NOTHING)
        for name, word in (("web", "ONE"), ("web-2", "TWO"))
    )
    fleet.run("start", one, two)
    first = fleet.wait("web", activity="ready", last_assistant_msg="ONE")
    second = fleet.wait("web-2", activity="ready", last_assistant_msg="TWO")
    assert first["session_id"] != second["session_id"]
    fleet.at_rest("web-2")
    told = fleet.activities("web-2")
    fleet.type("web", bash(GATED))
    fleet.wait("web", activity="working")
    assert fleet.status("web-2")["activity"] == "ready"
    fleet.open_gate()
    fleet.wait("web", activity="ready")
    assert fleet.activities("web-2") == told, "what one does is not the other's"
    for name, status in (("web", first), ("web-2", second)):
        assert {e["payload"]["session_id"] for e in fleet.events(name, "hook")} == {status["session_id"]}


@pytest.mark.parametrize("installed", [False, True], ids=["hooks of the launch", "hooks in the user's settings too"])
def test_a_nested_run_of_the_program_changes_nothing(fleet: Claude, installed: bool) -> None:
    if installed:
        fleet.run("hooks", "install", "--user", "--program", fleet.program)
    before = fleet.ready("web", workdir=".", prompt="Repeat HELLO", **ASKS_NOTHING)
    before = fleet.wait("web", last_assistant_msg="HELLO")
    fleet.type("web", bash(f"{fleet.program} -p 'Repeat NESTED' && {GATED}"))
    until(lambda: fleet.asked("Repeat NESTED"), "the nested run asks")
    seen = set()
    for _ in range(20):
        seen.add(tuple(fleet.status("web")[key] for key in ("activity", "session_id", "pid")))
        time.sleep(0.1)
    assert seen == {("working", before["session_id"], before["pid"])}
    fleet.open_gate()
    status = fleet.wait("web", activity="ready", last_assistant_msg="TOOL-DONE NESTED")
    assert (status["session_id"], status["pid"]) == (before["session_id"], before["pid"])
    assert set(fleet.all()) == {"web"}
    until(lambda: len(fleet.hooks("web", "Stop")) > 1, "both turns' ends are told")
    assert len(fleet.hooks("web", "Stop")) == 2, "each event once"


# -- the daemon, and the end ------------------------------------------------------------------------------------------


def test_a_daemon_that_is_killed_while_a_person_is_needed_still_knows_the_question(fleet: Claude) -> None:
    fleet.ready("web", workdir=".")
    fleet.type("web", bash("touch made"))
    before = fleet.wait("web", activity="needs_input", question="Bash: touch made")
    kill(fleet.daemon_pid())
    fleet.answers_again()
    after = fleet.wait("web", activity="needs_input", kind="permission", question="Bash: touch made")
    assert (after["pid"], after["restarts"]) == (before["pid"], 0)
    fleet.decide("web", "1")
    fleet.wait("web", activity="ready", kind=None)
    assert (fleet.home.work / "made").exists()


def test_a_stop_answers_no_open_dialog(fleet: Claude) -> None:
    fleet.ready("web", workdir=".")
    fleet.type("web", bash("touch made"))
    pid = fleet.wait("web", activity="needs_input")["pid"]
    fleet.run("stop", "web")
    assert not alive(pid)
    assert fleet.status("web")["phase"] == "stopped"
    assert not (fleet.home.work / "made").exists()


def test_a_draft_is_seen_and_a_stop_does_not_submit_it(fleet: Claude) -> None:
    fleet.ready("web")
    fleet.tmux("web", "send-keys", "-l", "Repeat UNSENT")
    status = fleet.wait("web", draft=True)
    assert (status["activity"], status["pane_state"]) == ("ready", "compose_pending_unsent")
    pid = status["pid"]
    fleet.run("stop", "web")
    assert not alive(pid)
    assert fleet.asked("Repeat UNSENT") == 0
    assert fleet.hooks("web", "UserPromptSubmit") == []


def test_a_person_who_leaves_the_program_has_finished_it_and_its_conversation_waits(fleet: Claude) -> None:
    session = fleet.ready("web", prompt="Repeat HELLO")["session_id"]
    fleet.answer("web")
    fleet.wait("web", activity="ready")
    fleet.tmux("web", "send-keys", "-l", "/exit")
    fleet.wait("web", draft=True)
    fleet.press("web", "Enter")
    status = fleet.wait("web", phase="finished")
    assert (status["exit_status"], status["restarts"], status["activity"]) == (0, 0, None)
    assert "HELLO" in "\n".join(fleet.json("logs", "web")["lines"])
    fleet.run("start", "web")
    fleet.wait("web", activity="ready", session_id=session)
    fleet.type("web", "Repeat AGAIN")
    fleet.wait("web", activity="ready", last_assistant_msg="AGAIN")
    assert fleet.messages("Repeat AGAIN") > fleet.messages("Repeat HELLO")
    assert fleet.asked("Repeat HELLO") == 1


def test_a_ready_program_is_stopped_by_its_own_command(fleet: Claude) -> None:
    fleet.ready("web", prompt="Repeat HELLO")
    fleet.answer("web")
    fleet.wait("web", activity="ready", draft=False)
    fleet.run("stop", "web")
    status = fleet.status("web")
    assert status["phase"] == "stopped"
    ends = until(lambda: fleet.hooks("web", "SessionEnd"), "its session's end is told")
    assert [e["payload"]["reason"] for e in ends] == ["prompt_input_exit"]


# -- what is told -----------------------------------------------------------------------------------------------------

ONE_TURN_TELLS_NOT = {
    # what does not apply to an agent that is ready
    *("kind", "question", "reason", "message", "waits_for", "waiting", "exit_status", "next_restart_at", "resets_at"),
    *("current_tool", "current_tool_input", "stuck_prompt_text"),
    # what only a headless agent has
    "usage",
    # what this manifest does not say
    *("description", "remote", "claude_md", "mcp_json"),
    # what needs an account
    *("quota_5h_used_pct", "quota_7d_used_pct", "quota_5h_reset_at", "quota_7d_reset_at", "quota_from_cache"),
    *("quota_error", "account_email"),
    # what needs a tool of an MCP server, or an action of an operator
    *("hooks.last_mcp_tool_at", "hooks.last_mcp_tool_name", "last_action_elapsed_s", "p95_elapsed_s_by_action"),
    # what fleet has nothing of
    *("current_task", "listen", "extensions", "agent_meta", "snapshot"),
}
SEED_FIELDS = """
    name config screen started_at status model runtime remote hooks_configured listen extensions context_management
    agent_meta snapshot multiplexer pid ppid subagent_count subagents context_pct current_tool current_tool_input
    current_task last_user_msg last_activity skills_loaded machine hostname_canonical workdir project version
    quota_5h_used_pct quota_7d_used_pct quota_5h_reset_at quota_7d_reset_at quota_from_cache quota_error account_email
    metrics pane_text pane_state stuck_prompt_text claude_md mcp_json recent_tools recent_prompts agent_calls
    background_tasks tool_counts last_tool_at last_tool_name last_mcp_tool_at last_mcp_tool_name last_action_at
    last_action_name last_action_outcome last_action_elapsed_s action_counts p95_elapsed_s_by_action model_transcript
"""
SEED_METRICS = """
    cpu_count cpu_model cpu_used_percent load_avg_1m load_avg_5m load_avg_15m mem_used_percent mem_total_mb mem_free_mb
    disk_used_percent
"""


def _percent(status: dict[str, Any]) -> float:
    return round(100 * status["context_tokens"] / status["context_size"], 1)


def test_after_one_turn_every_field_is_told_or_says_why_not(fleet: Claude) -> None:
    fleet.ready("web", workdir=".", hooks={"pre_start": [["true"]]}, **ASKS_NOTHING)
    fleet.type("web", bash("echo hi"))
    assert fleet.answer("web") == "TOOL-DONE hi"
    fleet.wait("web", activity="ready", last_assistant_msg="TOOL-DONE hi")

    def settled() -> dict[str, Any] | None:
        status = fleet.status("web")
        told = status["process"] and status["context_size"]
        return status if told and status["context_pct"] == _percent(status) else None

    status = until(settled, "its processes are measured and its status line has told of the turn's end")
    assert set(status["missing"]) == ONE_TURN_TELLS_NOT
    nulls = {key for key, value in status.items() if value is None}
    assert nulls == {key for key in ONE_TURN_TELLS_NOT if "." not in key}
    assert all(status["missing"].values())

    assert status["last_user_msg"] == bash("echo hi")
    assert status["model"] == status["model_transcript"]
    assert status["hooks"]["tool_counts"] == {"Bash": 1}
    assert status["hooks"]["recent_tools"][0]["input"] == "echo hi"
    assert status["process"]["rss_mb"] > 50
    assert (status["permission_mode"], status["workdir"]) == ("bypassPermissions", str(fleet.home.work))

    seed = json.loads(fleet.run("status", "web", "--format", "seed"))
    assert sorted(seed) == sorted(SEED_FIELDS.split())
    assert sorted(seed["metrics"]) == sorted(SEED_METRICS.split())
    assert (seed["pid"], seed["pane_state"], seed["last_tool_name"]) == (status["pid"], "idle_prompt", "Bash")


def test_explain_says_what_each_source_says(fleet: Claude) -> None:
    fleet.ready("web", prompt="Repeat HELLO")
    fleet.answer("web")
    fleet.wait("web", activity="ready", last_assistant_msg="HELLO")
    told = fleet.at_rest("web")
    said = {e["source"]: e for e in told["evidence"]}
    assert (said["hook"]["rule"], said["hook"]["evidence"]) == ("Stop", "HELLO")
    assert told["state"]["proof"]["source"] in said
