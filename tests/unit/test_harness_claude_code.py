"""Claude Code's harness on the bytes that the real program has said: launches, settings, states, hooks, starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fleet import mcp_shim
from fleet.errors import CannotYet
from fleet.harnesses import HARNESSES, harness
from fleet.harnesses.base import Conversation, Harness, Launch, LaunchAsk, Remedy
from fleet.harnesses.claude_code import ENV_DROPPED, ENV_NAMES, ClaudeCode
from fleet.harnesses.claude_events import ALL, known
from fleet.manifests.model import AgentSpec
from fleet.redact import MARK
from fleet.runtimes import launches
from fleet.terms import Activity, Evidence, HookEvent, Kind, Source

SESSION = "5e989710-a61f-408b-93d3-158b7f28f544"
CLAUDE = ClaudeCode()
HOME = {"HOME": "/home/ann"}


def ask(
    *,
    exists: bool = False,
    fresh: bool = True,
    version: str | None = "2.1.329",
    files: Mapping[str, Any] | None = None,
    mcp_written: tuple[str, ...] = (),
    first_message: str | None = None,
    **spec: Any,
) -> LaunchAsk:
    return LaunchAsk(
        spec=AgentSpec(name="web", **spec),
        conversation=Conversation(SESSION, exists=exists, fresh=fresh and not exists),
        folder="/f/launch/web.1.a",
        spool="/f/spool/web",
        cwd="/work",
        env=HOME,
        version=version,
        user_files={k: v if isinstance(v, bytes) else json.dumps(v).encode() for k, v in (files or {}).items()},
        mcp_written=mcp_written,
        first_message=first_message,
    )


def file(launch: Launch, name: str) -> Any:
    return next(json.loads(f.content) for f in launch.files if f.path.endswith(f"/{name}"))


def settings(**asked: Any) -> Any:
    return file(CLAUDE.launch(ask(**asked)), "settings.json")


def after(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


# -- the table of harnesses -------------------------------------------------------------------------------------------


def test_a_harness_that_is_declared_and_not_built_says_so() -> None:
    with pytest.raises(CannotYet, match="codex validates, but this version cannot start it"):
        harness("codex")


@pytest.mark.parametrize("found", HARNESSES.values(), ids=list(HARNESSES))
def test_every_harness_answers_to_its_own_name(found: Harness) -> None:
    assert harness(found.name) is found


# -- launching --------------------------------------------------------------------------------------------------------


def test_a_fresh_launch_names_its_conversation_and_gives_the_first_prompt_last() -> None:
    argv = CLAUDE.launch(ask(prompt="do it", model="opus", args=["--add-dir", "/a"])).argv
    assert argv[:3] == ("claude", "--session-id", SESSION)
    assert argv[-4:] == ("--add-dir", "/a", "--", "do it")
    assert after(argv, "--model") == "opus"
    assert after(argv, "--name") == "web"


def test_a_conversation_that_exists_is_resumed_without_the_first_prompt() -> None:
    launch = CLAUDE.launch(ask(exists=True, prompt="do it", first_message="typed"))
    assert launch.argv[1:3] == ("--resume", SESSION)
    assert "do it" not in launch.argv
    assert launch.types_prompt is None


def test_a_used_session_without_a_transcript_gets_no_prompt_again() -> None:
    assert "--" not in CLAUDE.launch(ask(fresh=False, prompt="do it")).argv


def test_a_prompt_file_is_typed_on_the_first_start() -> None:
    assert CLAUDE.launch(ask(first_message="a secret task")).types_prompt == "a secret task"


def test_a_command_replaces_the_program() -> None:
    assert CLAUDE.launch(ask(command=["nice", "claude"])).argv[:2] == ("nice", "claude")
    assert CLAUDE.version_argv(AgentSpec(name="web", command=("nice", "claude"))) == ("nice", "claude", "--version")


@pytest.mark.parametrize(("mode", "given"), [(None, "default"), ("manual", "default"), ("plan", "plan")])
def test_the_permission_mode_is_always_said(mode: str | None, given: str) -> None:
    assert after(CLAUDE.launch(ask(permission_mode=mode)).argv, "--permission-mode") == given
    assert after(CLAUDE.launch(ask(permission_mode=mode, exists=True)).argv, "--permission-mode") == given


@pytest.mark.parametrize("args", [["--dangerously-skip-permissions"], ["--permission-mode=plan"]])
def test_a_permission_mode_in_the_arguments_stays_the_only_one(args: list[str]) -> None:
    argv = CLAUDE.launch(ask(args=args)).argv
    assert [a for a in argv if "permission" in a] == args


def test_the_users_own_default_mode_counts_and_a_projects_only_where_it_asks_as_much() -> None:
    def mode(project: str | None, user: str | None) -> str:
        files = {
            path: {"permissions": {"defaultMode": said}}
            for path, said in (("/work/.claude/settings.json", project), ("/home/ann/.claude/settings.json", user))
            if said
        }
        return after(CLAUDE.launch(ask(files=files)).argv, "--permission-mode")

    assert mode(None, "acceptEdits") == "acceptEdits"
    assert mode("plan", "acceptEdits") == "plan"
    assert mode("bypassPermissions", None) == "default"
    assert mode("bypassPermissions", "plan") == "plan"
    assert mode(None, "--evil") == "default"


def test_arguments_that_name_the_conversation_are_left_alone_with_a_warning() -> None:
    launch = CLAUDE.launch(ask(args=["--resume", "my-own"]))
    assert SESSION not in launch.argv
    assert any("session" in w for w in launch.warnings)


@pytest.mark.parametrize(("version", "warns"), [("2.1.199", True), ("2.1.200", False), (None, False)])
def test_an_older_program_starts_with_a_warning(version: str | None, warns: bool) -> None:
    assert bool(CLAUDE.launch(ask(version=version)).warnings) is warns


def test_no_secret_of_the_environment_stands_in_the_arguments_or_settings() -> None:
    asked = ask()
    told = LaunchAsk(**{f: getattr(asked, f) for f in asked.__slots__} | {"env": {**HOME, "ANTHROPIC_API_KEY": "sk-1"}})
    launch = CLAUDE.launch(told)
    assert not any("sk-1" in a for a in launch.argv)
    assert not any(b"sk-1" in f.content for f in launch.files)


def test_every_file_of_a_launch_lies_in_its_own_folder_and_is_private() -> None:
    launch = CLAUDE.launch(ask(mcp_servers={"s": {"command": "x"}}))
    assert all(f.path.startswith("/f/launch/web.1.a/") and not f.mode & 0o077 for f in launch.files)
    assert {f.path.rpartition("/")[2] for f in launch.files} == {
        "settings.json", "mcp.json", "mcp_shim.py", "hook.sh", "statusline.sh", "mail.sh", "bell"
    }  # fmt: skip


def test_what_replaces_fleets_files_under_a_running_daemon_is_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def replaced(path: Path) -> bytes:
        raise AssertionError(f"{path} is read at a launch")

    before = ClaudeCode().launch(ask(hub={"enabled": True})).files
    monkeypatch.setattr(Path, "read_bytes", replaced)
    assert ClaudeCode().launch(ask(hub={"enabled": True})).files == before
    assert launches.launcher(Path("/f")).content.startswith(b"#!/bin/sh")


def test_mcp_servers_go_with_the_launch_and_swallow_no_argument() -> None:
    launch = CLAUDE.launch(ask(mcp_servers={"own": {"command": "x", "args": ["1"], "env": {"A": "b"}}}, prompt="do it"))
    assert "--mcp-config=/f/launch/web.1.a/mcp.json" in launch.argv
    servers = file(launch, "mcp.json")["mcpServers"]
    assert servers["own"] == {"command": "x", "args": ["1"], "env": {"A": "b"}}


def test_an_agent_gets_fleets_own_server_unless_its_manifest_says_no() -> None:
    launch = CLAUDE.launch(ask())
    server = file(launch, "mcp.json")["mcpServers"]["fleet"]
    assert server["args"] == ["-I", "-S", "/f/launch/web.1.a/mcp_shim.py", "--own"]
    shim = next(f for f in launch.files if f.path.endswith("/mcp_shim.py"))
    assert shim.content == Path(mcp_shim.__file__).read_bytes()
    assert "mcp__fleet__send" in file(launch, "settings.json")["permissions"]["allow"]
    for no in ({"hub": {"mcp": False}}, {"hub": {"enabled": False}}):
        without = CLAUDE.launch(ask(**no))
        assert not [f.path for f in without.files if "mcp" in f.path]
        assert "permissions" not in file(without, "settings.json")
    own = CLAUDE.launch(ask(mcp_servers={"fleet": {"command": "mine"}}))
    assert file(own, "mcp.json") == {"mcpServers": {"fleet": {"command": "mine"}}}


def test_what_reads_or_writes_files_is_asked_about_however_it_is_done() -> None:
    assert not {"mcp__fleet__upload", "mcp__fleet__download", "mcp__fleet"} & set(settings()["permissions"]["allow"])


def test_permissions_of_the_manifests_own_settings_stand_beside_fleets() -> None:
    given = json.dumps({"permissions": {"allow": ["Bash(ls:*)"], "deny": ["Read(x)"]}})
    permissions = settings(args=["--settings", given])["permissions"]
    assert "Bash(ls:*)" in permissions["allow"] and "mcp__fleet__send" in permissions["allow"]
    assert permissions["deny"] == ["Read(x)"]


def test_a_turn_of_a_headless_agent_does_not_read_the_mail_that_comes_as_turns() -> None:
    server = file(CLAUDE.launch(ask(mode="headless")), "mcp.json")["mcpServers"]["fleet"]
    assert "--own" not in server["args"]


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.0.65", "2.1.90", "2.1.200", "2.1.210", "2.1.289", "2.1.329"])
def test_only_events_that_the_version_knows_are_hooked(version: str) -> None:
    hooked = set(settings(version=version)["hooks"])
    assert hooked <= set(known(version))
    assert {"PreToolUse", "Stop", "SessionStart", "PermissionRequest"} <= hooked


def test_a_version_that_could_not_be_asked_gets_no_event_that_a_supported_one_lacks() -> None:
    assert set(settings(version=None)["hooks"]) <= set(known("2.1.200"))


def test_making_worktrees_is_left_to_the_program() -> None:
    assert "WorktreeCreate" in ALL
    assert not {"WorktreeCreate", "WorktreeRemove"} & set(settings()["hooks"])


def test_a_hook_runs_without_a_shell_where_the_program_can() -> None:
    assert settings()["hooks"]["Stop"][0]["hooks"][0]["args"] == ["/f/spool/web"]
    old = settings(version="2.1.90")["hooks"]["Stop"][0]["hooks"][0]
    assert "args" not in old
    assert old["command"].endswith("/f/launch/web.1.a/hook.sh /f/spool/web")


def test_the_unauthenticated_socket_is_closed() -> None:
    assert settings()["crossSessionInbound"] == "refuse"


@pytest.mark.parametrize(
    ("asked", "skips"),
    [
        ({}, False),
        ({"auto_accept": ["bypass-permissions"]}, True),
        ({"permission_mode": "bypassPermissions"}, True),
        ({"args": ["--dangerously-skip-permissions"]}, True),
        ({"args": ["--permission-mode", "bypassPermissions"]}, True),
        ({"permission_mode": "acceptEdits"}, False),
    ],
)
def test_the_bypass_dialog_is_spared_only_where_bypassing_was_asked_for(asked: dict[str, Any], skips: bool) -> None:
    assert settings(**asked).get("skipDangerousModePermissionPrompt", False) is skips


def test_a_projects_mcp_servers_are_allowed_only_as_far_as_said() -> None:
    assert not {"enableAllProjectMcpServers", "enabledMcpjsonServers"} & settings().keys()
    assert settings(auto_accept=["mcp-servers"])["enableAllProjectMcpServers"] is True
    assert settings(mcp_written=("a",))["enabledMcpjsonServers"] == ["a"]


def test_the_renderer_is_pinned_unless_the_person_chose_one() -> None:
    assert settings()["tui"] == "fullscreen"
    assert "tui" not in settings(files={"/home/ann/.claude/settings.json": {"tui": "default"}})
    assert "tui" not in settings(version="2.1.210")


def test_the_users_own_status_line_runs_inside_fleets() -> None:
    own = {"type": "command", "command": "mine.sh 'a b' | head -1", "padding": 3}
    line = settings(files={"/home/ann/.claude/settings.json": {"statusLine": own}})["statusLine"]
    assert line == {
        "type": "command",
        "command": """/f/launch/web.1.a/statusline.sh 'mine.sh '"'"'a b'"'"' | head -1'""",
        "padding": 3,
    }


def test_the_status_line_that_counts_is_the_nearest_one() -> None:
    files = {
        "/home/ann/.claude/settings.json": {"statusLine": {"type": "command", "command": "user"}},
        "/work/.claude/settings.local.json": {"statusLine": {"type": "command", "command": "local"}},
    }
    assert settings(files=files)["statusLine"]["command"].endswith("statusline.sh local")


def test_settings_in_the_arguments_are_kept_beside_fleets() -> None:
    theirs = {"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "theirs"}]}]}, "model": "opus"}
    launch = CLAUDE.launch(ask(args=["--settings", json.dumps(theirs), "--verbose"]))
    merged = file(launch, "settings.json")
    assert launch.argv.count("--settings") == 1
    assert "--verbose" in launch.argv
    assert merged["model"] == "opus"
    assert [h["hooks"][0]["command"] for h in merged["hooks"]["Stop"]] == ["/f/launch/web.1.a/hook.sh", "theirs"]


def test_a_settings_file_in_the_arguments_is_read_on_the_host() -> None:
    spec = AgentSpec(name="web", args=("--settings=mine.json",))
    assert CLAUDE.wants(spec, HOME, "/work")[-1] == "/work/mine.json"
    launch = CLAUDE.launch(ask(args=["--settings=mine.json"], files={"/work/mine.json": {"model": "opus"}}))
    assert file(launch, "settings.json")["model"] == "opus"
    gone = CLAUDE.launch(ask(args=["--settings=mine.json"]))
    assert any("mine.json" in w for w in gone.warnings)


def test_a_broken_settings_file_of_the_users_is_told_and_stops_nothing() -> None:
    launch = CLAUDE.launch(ask(files={"/home/ann/.claude/settings.json": b"{broken"}))
    assert any("/home/ann/.claude/settings.json" in w for w in launch.warnings)
    assert file(launch, "settings.json")["statusLine"]["command"].endswith("statusline.sh")


def test_what_marks_a_running_session_is_never_handed_on() -> None:
    marks = {"CLAUDECODE", "CLAUDE_PID", "CLAUDE_CODE_SESSION_ID", "CLAUDE_CODE_ENTRYPOINT"}
    assert marks <= set(ENV_DROPPED)
    assert "CLAUDE_*" in ENV_NAMES
    assert "CLAUDE_CONFIG_DIR" not in ENV_DROPPED


def test_a_config_folder_of_its_own_moves_everything() -> None:
    env = {**HOME, "CLAUDE_CONFIG_DIR": "/c"}
    assert CLAUDE.state_file(env, 7) == "/c/sessions/7.json"
    assert CLAUDE.transcript_path(env, "/a.b", "s") == "/c/projects/-a-b/s.jsonl"
    assert "/c/settings.json" in CLAUDE.wants(AgentSpec(name="web"), env, "/work")


@pytest.mark.parametrize("printed", ["2.1.329 (Claude Code)\n", "warning: x\nv2.1.329\n"])
def test_the_version_is_found_in_what_it_prints(printed: str) -> None:
    assert CLAUDE.parse_version(printed) == "2.1.329"


def test_what_prints_no_version_has_none() -> None:
    assert CLAUDE.parse_version("sh: claude: not found") is None


# -- its state file ---------------------------------------------------------------------------------------------------


def state(**said: Any) -> Evidence:
    whole = {"pid": 7, "sessionId": SESSION, "procStart": "99150", "statusUpdatedAt": 1_000_500, **said}
    read = CLAUDE.read_state(json.dumps(whole).encode(), 2000.0)
    assert read is not None
    assert (read.pid, read.proc_start) == (7, "99150")
    return read.evidence


@pytest.mark.parametrize(
    ("status", "waits", "activity", "kind"),
    [
        ("idle", None, Activity.READY, None),
        ("shell", None, Activity.READY, None),
        ("busy", None, Activity.WORKING, None),
        ("waiting", "permission prompt", Activity.NEEDS_INPUT, None),
        ("waiting", "input needed", Activity.NEEDS_INPUT, Kind.QUESTION),
        ("waiting", "worker request", Activity.NEEDS_INPUT, Kind.PERMISSION),
        ("waiting", "sandbox request", Activity.NEEDS_INPUT, Kind.PERMISSION),
        ("waiting", "dialog open", Activity.NEEDS_INPUT, Kind.OTHER),
        ("waiting", "something new", Activity.NEEDS_INPUT, Kind.OTHER),
        ("a word of tomorrow", None, None, None),
        (None, None, None, None),
    ],
)
def test_a_state_file_says(status: str | None, waits: str | None, activity: Activity | None, kind: Kind | None) -> None:
    said = state(**{k: v for k, v in (("status", status), ("waitingFor", waits)) if v})
    assert (said.activity, said.kind) == (activity, kind)


def test_a_state_file_counts_from_its_last_change_and_never_from_the_future() -> None:
    assert state(status="idle").observed_at == 1000.5
    assert state(status="idle", statusUpdatedAt=9e12).observed_at == 2000.0


def test_a_background_shell_is_told_by_the_state_file() -> None:
    assert state(status="shell").background is True
    assert state(status="idle").background is False
    assert state(status="busy").background is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_torn_state_file_is_none(content: bytes) -> None:
    assert CLAUDE.read_state(content, 1.0) is None


# -- its title --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "version", "working"),
    [
        ("◐ web", "2.1.329", True),
        ("◑ Claude Code", "2.1.329", True),
        ("⠂ web", "2.1.210", True),
        ("⠐ web", "2.1.90", True),
        ("⠂ web", None, True),
        ("⠂ web", "2.1.329", False),
        ("✳ web", "2.1.329", False),
        ("vm", "2.1.329", False),
        ("Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA", "2.1.329", False),
        ("", "2.1.329", False),
    ],
)
def test_only_the_running_title_says_anything(title: str, version: str | None, working: bool) -> None:
    said = CLAUDE.read_title(title, 1.0, version)
    assert (said is not None and said.activity is Activity.WORKING) is working
    assert said is None or said.activity in (None, Activity.WORKING)


# -- its hooks --------------------------------------------------------------------------------------------------------


def hook(name: str, **payload: Any) -> Evidence | None:
    given = {"session_id": SESSION, "hook_event_name": name, **payload}
    return CLAUDE.read_hook(HookEvent("k", "web", name, 1000.0, "web.1.a", 7, given))


@pytest.mark.parametrize(
    ("name", "payload", "activity"),
    [
        ("UserPromptSubmit", {"prompt": "x"}, Activity.WORKING),
        ("PreToolUse", {"tool_name": "Bash", "tool_input": {"command": "ls"}}, Activity.WORKING),
        ("PreToolUse", {"tool_name": "Bash", "agent_id": "a1"}, None),
        ("PostToolUse", {"tool_name": "Bash"}, Activity.WORKING),
        ("PostToolUseFailure", {"tool_name": "Bash", "is_interrupt": False}, Activity.WORKING),
        ("PostToolUseFailure", {"tool_name": "Bash", "is_interrupt": True}, None),
        ("PermissionRequest", {"tool_name": "Bash"}, Activity.NEEDS_INPUT),
        ("PermissionRequest", {"tool_name": "Bash", "agent_id": "a1"}, Activity.NEEDS_INPUT),
        ("Notification", {"notification_type": "permission_prompt"}, Activity.NEEDS_INPUT),
        ("Notification", {"notification_type": "idle_prompt"}, Activity.READY),
        ("Notification", {"notification_type": "auth_success"}, None),
        ("Stop", {"background_tasks": []}, Activity.READY),
        ("Stop", {}, Activity.READY),
        ("Stop", {"background_tasks": [{"type": "shell", "status": "running"}]}, Activity.READY),
        ("Stop", {"background_tasks": [{"type": "subagent", "status": "running"}]}, None),
        ("StopFailure", {"error": "server_error"}, Activity.ERROR),
        ("PreCompact", {"trigger": "auto"}, Activity.WORKING),
        ("PostCompact", {"trigger": "auto"}, Activity.WORKING),
        ("PostCompact", {"trigger": "manual"}, Activity.READY),
        ("Elicitation", {"message": "Colour?"}, Activity.NEEDS_INPUT),
        ("ElicitationResult", {"action": "cancel"}, Activity.WORKING),
        ("SubagentStart", {}, None),
        ("SubagentStop", {}, None),
        ("SessionStart", {"source": "clear"}, None),
        ("SessionEnd", {"reason": "clear"}, None),
        ("AnEventOfTomorrow", {}, None),
    ],
)
def test_a_hook_says(name: str, payload: dict[str, Any], activity: Activity | None) -> None:
    said = hook(name, **payload)
    assert (said.activity if said else None) is activity
    if said:
        assert (said.source, said.session_id, said.pid, said.generation) == (Source.HOOK, SESSION, 7, "web.1.a")


STRANGE: list[dict[str, Any]] = [
    {},
    {"tool_name": 1, "tool_input": 3, "background_tasks": 7, "error": [], "prompt": {}},
    {"tool_name": "AskUserQuestion", "tool_input": {"questions": 7}, "background_tasks": [7], "message": None},
    {"tool_name": "AskUserQuestion", "tool_input": {"questions": [{"options": "x"}, 7]}},
]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("payload", STRANGE)
def test_no_payload_is_too_strange(name: str, payload: dict[str, Any]) -> None:
    told = HookEvent("k", "web", name, 1000.0, None, None, payload)
    said = CLAUDE.read_hook(told)
    assert said is None or said.activity is not None


def test_a_permission_carries_what_it_is_asked_for() -> None:
    said = hook("PermissionRequest", tool_name="Edit", tool_input={"file_path": "/a", "old_string": "x"})
    assert said is not None
    assert (said.kind, said.question) == (Kind.PERMISSION, "Edit: /a")


def test_a_question_carries_its_options_and_how_many_more_there_are() -> None:
    one = {"question": "Which?", "options": [{"label": "Red"}, {"label": "Blue"}]}
    said = hook("PermissionRequest", tool_name="AskUserQuestion", tool_input={"questions": [one, one, one]})
    assert said is not None
    assert (said.kind, said.question, said.options) == (Kind.QUESTION, "Which? (and 2 more)", ("Red", "Blue"))


def test_a_plan_is_its_own_question() -> None:
    said = hook("PermissionRequest", tool_name="ExitPlanMode", tool_input={"plan": "# Do it"})
    assert said is not None
    assert (said.kind, said.question) == (Kind.PLAN, "# Do it")


def test_a_usage_limit_is_told_from_a_rate_limit() -> None:
    limit = hook(
        "StopFailure", error="rate_limit", last_assistant_message="You've hit your 5-hour limit · resets 1am (UTC)"
    )
    rate = hook("StopFailure", error="rate_limit", last_assistant_message="API Error: Request rejected (429) · limit")
    assert limit is not None
    assert rate is not None
    assert (limit.activity, limit.resets_at) == (Activity.LIMITED, 3600.0)
    assert (rate.activity, rate.rule) == (Activity.ERROR, "StopFailure/rate_limit")


def test_no_secret_reaches_the_evidence() -> None:
    key = "sk-ant-api03-" + "Zk9" * 20
    said = hook("PermissionRequest", tool_name="Bash", tool_input={"command": f"curl -H 'x-api-key: {key}' x"})
    assert said is not None
    assert key not in f"{said.question}{said.excerpt}"
    assert MARK in (said.question or "")


def test_evidence_stays_short_however_long_the_payload() -> None:
    said = hook("UserPromptSubmit", prompt="word " * 1_000_000)
    assert said is not None
    assert len(said.excerpt) <= 200


# -- its status line --------------------------------------------------------------------------------------------------


def status_line(**said: Any) -> Mapping[str, Any]:
    facts = CLAUDE.read_status_line(json.dumps(said).encode(), 1.0)
    assert facts is not None
    return facts


def test_context_is_measured_by_the_window_that_the_program_reports() -> None:
    usage = {"input_tokens": 10, "cache_creation_input_tokens": 90, "cache_read_input_tokens": 49_900}
    window = {"context_window_size": 200_000, "current_usage": usage, "used_percentage": 24, "total_input_tokens": 9e9}
    assert status_line(context_window=window)["context_pct"] == 25.0
    assert status_line(context_window={**window, "context_window_size": 1_000_000})["context_pct"] == 5.0


def test_before_the_first_answer_nothing_is_invented() -> None:
    facts = status_line(context_window={"context_window_size": 200_000, "current_usage": None, "used_percentage": None})
    assert facts["context_pct"] is None
    assert facts["cost_usd"] is None
    assert facts["quota_5h_used_pct"] is None


def test_quotas_come_with_their_end() -> None:
    facts = status_line(
        rate_limits={
            "five_hour": {"used_percentage": 42.5, "resets_at": 1_795_300_000},
            "seven_day": {"used_percentage": 7, "resets_at": 1_795_900_000},
        },
        model={"id": "claude-x", "display_name": "X"},
        cost={"total_cost_usd": 0.25},
    )
    assert (facts["quota_5h_used_pct"], facts["quota_5h_reset_at"]) == (42.5, 1_795_300_000)
    assert (facts["quota_7d_used_pct"], facts["quota_7d_reset_at"]) == (7, 1_795_900_000)
    assert (facts["model"], facts["model_name"], facts["cost_usd"]) == ("claude-x", "X", 0.25)


def test_a_torn_status_line_says_nothing() -> None:
    assert CLAUDE.read_status_line(b'{"model": {', 1.0) is None


# -- why it does not start --------------------------------------------------------------------------------------------

WORDS = {
    "error: unknown option '--bogus'": ("UnknownOption", Remedy.PERSON),
    "error: option '--permission-mode <mode>' argument 'x' is invalid. Allowed…": ("InvalidOption", Remedy.PERSON),
    f"Error: Session ID {SESSION} is already in use.": ("SessionInUse", Remedy.RESUME),
    f"No conversation found with session ID: {SESSION}": ("NoConversation", Remedy.FRESH),
    "--dangerously-skip-permissions cannot be used with root/sudo privileges": ("BypassAsRoot", Remedy.PERSON),
    " Unable to connect to Anthropic services": ("NoConnection", Remedy.RETRY),
    "sh: 1: claude: not found": ("ProgramNotFound", Remedy.PERSON),
}


@pytest.mark.parametrize("words", WORDS)
def test_the_last_words_of_a_failed_start_are_understood(words: str) -> None:
    problem = CLAUDE.start_failure(f"\n{words}\n\nPane is dead (status 1)", 1, "2.1.329")
    assert problem is not None
    assert (problem.reason, problem.remedy) == WORDS[words]
    assert problem.retry is (problem.remedy is not Remedy.PERSON)
    assert CLAUDE.start_failure(words, None, "2.1.329") is None, "what lives has not failed"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("Choose the text style that looks best with your terminal", "OnboardingNeeded"),
        (" Select login method:", "OnboardingNeeded"),
        (" Do you want to use this API key?", "ApiKeyNotApproved"),
        ("  Not logged in · Run /login", "NotLoggedIn"),
    ],
)
def test_what_only_a_person_can_settle_is_said_while_it_waits(words: str, reason: str) -> None:
    problem = CLAUDE.start_failure(words, None, "2.1.329")
    assert problem is not None
    assert (problem.reason, problem.retry) == (reason, False)
    assert "fleet attach" in problem.message


def test_an_ordinary_crash_is_no_start_problem() -> None:
    assert CLAUDE.start_failure("Segmentation fault", 139, "2.1.329") is None


# -- mail --------------------------------------------------------------------------------------------------------


def test_mail_has_a_hook_that_wakes_where_the_version_can_be_woken() -> None:
    hooks = settings(version="2.1.329")["hooks"]
    bell = hooks["FileChanged"][0]["hooks"][0]
    assert bell["asyncRewake"] is True
    assert [bell["command"], *bell["args"]] == ["/f/launch/web.1.a/mail.sh", "/f/launch/web.1.a/box", "ring"]
    for event in ("SessionStart", "CwdChanged"):
        own, mail = (group["hooks"][0] for group in hooks[event])
        assert own["command"].endswith("/hook.sh")
        assert mail["args"] == ["/f/launch/web.1.a/box", "watch", event]
    assert hooks["PostToolUse"][0]["hooks"][0]["args"][1:] == ["/f/launch/web.1.a/box", "PostToolUse"]


@pytest.mark.parametrize(
    "asked",
    [{"version": "2.1.200"}, {"version": "2.1.329", "hub": {"enabled": False}}],
    ids=["older", "not in the hub"],
)
def test_where_it_cannot_be_woken_or_has_no_mail_no_hook_is_given_for_that(asked: dict[str, Any]) -> None:
    hooks = settings(**asked)["hooks"]
    assert "FileChanged" not in hooks
    assert len(hooks["SessionStart"]) == 1


def test_an_agent_without_mail_has_its_event_hook_alone() -> None:
    hooks = settings(version="2.1.329", hub={"enabled": False})["hooks"]
    assert len(hooks["PostToolUse"][0]["hooks"][0]["args"]) == 1


def test_the_programs_own_socket_stays_open_only_where_the_manifest_says_so() -> None:
    assert "crossSessionInbound" not in settings(hub={"side_channels": True})
    assert settings(hub={"side_channels": False})["crossSessionInbound"] == "refuse"
