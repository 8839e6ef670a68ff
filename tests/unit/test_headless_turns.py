"""What a headless turn is given and what its words mean, decided from plain values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fleet import mcp_shim
from fleet.harnesses.base import Conversation, LaunchAsk, Remedy, TurnAsk, TurnLaunch
from fleet.harnesses.claude_code import ClaudeCode
from fleet.harnesses.shell import Shell
from fleet.headless import Note, evidence, spent
from fleet.manifests.model import AgentSpec, McpServer
from fleet.terms import Activity

CLAUDE = ClaudeCode()
SESSION = "11111111-1111-4111-8111-111111111111"


def launch(
    text: str = "hello",
    *,
    exists: bool = False,
    version: str | None = "2.1.329",
    **spec: Any,
) -> TurnLaunch:
    asked = TurnAsk(
        spec=AgentSpec(name="web", mode="headless", **spec),
        conversation=Conversation(SESSION, exists=exists),
        folder="/launch",
        cwd="/work",
        env={},
        version=version,
        text=text,
        words="",
    )
    made = CLAUDE.turn(asked)
    assert made is not None
    return made


def option(made: TurnLaunch, name: str) -> str | None:
    """The value of an option, in either of its forms."""
    for word, after in zip(made.argv, (*made.argv[1:], ""), strict=True):
        if word == name:
            return after
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def stream(*entries: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def result(**said: Any) -> dict[str, Any]:
    return {"type": "result", "subtype": "success", "is_error": False, "session_id": SESSION, **said}


def failure(error: str, text: str, **said: Any) -> bytes:
    message = {"content": [{"type": "text", "text": text}]}
    told = {"type": "assistant", "message": message, "error": error, "is_api_error_message": True}
    return stream(told, result(is_error=True, result=text, **said))


# -- what it is given --------------------------------------------------------------------------------------------


def test_the_prompt_goes_in_on_stdin_and_stands_in_no_argument() -> None:
    made = launch("the words of somebody")
    assert made.stdin == b"the words of somebody"
    assert not any("the words" in word for word in made.argv)


def test_its_conversation_is_begun_by_name_and_then_resumed() -> None:
    assert option(launch(), "--session-id") == SESSION
    assert option(launch(exists=True), "--resume") == SESSION


def test_it_says_what_it_does_as_it_does_it() -> None:
    made = launch()
    assert "-p" in made.argv and "--verbose" in made.argv and option(made, "--output-format") == "stream-json"


@pytest.mark.parametrize(
    ("tools", "built_in", "allowed", "mode"),
    [
        ("read-only", "Read,Glob,Grep", (), "dontAsk"),
        (("Read", "Bash(git *)", "mcp__db__query"), "Read,Bash", ("Read", "Bash(git *)", "mcp__db__query"), "dontAsk"),
        (("mcp__db__query",), "", ("mcp__db__query",), "dontAsk"),
        ("all", None, None, "bypassPermissions"),
    ],
)
def test_its_tools_are_what_the_manifest_says(
    tools: str | tuple[str, ...], built_in: str | None, allowed: tuple[str, ...] | None, mode: str
) -> None:
    made = launch(headless={"tools": tools})
    assert option(made, "--tools") == built_in
    own = [f"mcp__{mcp_shim.SERVER}__{tool}" for tool in mcp_shim.UNASKED]
    assert option(made, "--allowedTools") == (None if allowed is None else ",".join([*own, *allowed]))
    assert option(made, "--permission-mode") == mode
    assert (option(made, "--disallowedTools") == "AskUserQuestion") is (tools == "all")


def test_the_manifests_own_permission_mode_counts() -> None:
    assert option(launch(permission_mode="plan"), "--permission-mode") == "plan"
    assert option(launch(args=("--permission-mode", "plan")), "--permission-mode") == "plan"


@pytest.mark.parametrize(
    ("version", "switch"),
    [
        ("2.1.329", "CLAUDE_CODE_DISABLE_FILE_MENTIONS"),
        (None, "CLAUDE_CODE_DISABLE_FILE_MENTIONS"),
        ("2.1.289", "CLAUDE_CODE_DISABLE_ATTACHMENTS"),
    ],
)
def test_no_version_reads_files_that_a_prompt_names(version: str | None, switch: str) -> None:
    assert launch(version=version).env == {switch: "1"}


def test_a_prompt_that_begins_with_a_slash_is_no_command() -> None:
    assert launch("/compact now").stdin == b"Message: /compact now"
    assert launch("see /compact").stdin == b"see /compact"


def test_words_that_the_manifest_appends_stand_before_fleets_own() -> None:
    made = launch(args=("--append-system-prompt", "Be brief.", "--add-dir", "/data"))
    words = option(made, "--append-system-prompt")
    assert words is not None and words.startswith("Be brief.\n\n") and "DECLINED:" in words
    assert made.argv.count("--append-system-prompt") == 1 and option(made, "--add-dir") == "/data"


def test_its_launch_prepares_what_its_turns_share_and_has_no_hooks() -> None:
    servers = {"db": McpServer(command="db")}
    spec = AgentSpec(name="web", mode="headless", mcp_servers=servers, args=("--settings", '{"model": "opus"}'))
    asked = LaunchAsk(
        spec=spec,
        conversation=Conversation("", exists=False),
        folder="/launch",
        spool="/spool",
        cwd="/work",
        env={},
        version="2.1.329",
    )
    told = CLAUDE.launch(asked)
    files = {file.path: json.loads(file.content) for file in told.files if file.path.endswith(".json")}
    assert "hooks" not in files["/launch/settings.json"]
    assert files["/launch/settings.json"]["crossSessionInbound"] == "refuse"
    assert files["/launch/settings.json"]["model"] == "opus"
    assert "db" in files["/launch/mcp.json"]["mcpServers"]
    assert option(launch(mcp_servers=servers), "--mcp-config") == "/launch/mcp.json"


# -- what its words mean -----------------------------------------------------------------------------------------


def test_its_answer_is_its_last_result() -> None:
    used = {"usage": {"input_tokens": 7, "output_tokens": 3, "service_tier": "standard"}}
    models = {"modelUsage": {"claude-small": {"outputTokens": 1}, "claude-large": {"outputTokens": 9}}}
    said = stream(result(result="fine", total_cost_usd=0.25, **used, **models))
    told = CLAUDE.read_turn(said, b"noise", 0, 0.0)
    assert (told.model, told.tokens) == ("claude-large", {"input_tokens": 7, "output_tokens": 3})
    first = spent({}, told, 1.0)
    assert spent(first, told, 2.0) == {
        "cost_usd": 0.5,
        "model": "claude-large",
        "usage": {"turns": 2, "input_tokens": 14, "output_tokens": 6},
        "observed_at": 2.0,
    }
    assert (told.ok, told.text, told.cost_usd, told.session_id) == (True, "fine", 0.25, SESSION)


def test_a_torn_line_and_noise_among_the_lines_are_passed_over() -> None:
    output = b"warning: x\n[1, 2]\n" + stream(result(result="fine")) + b'{"type": "result", "res'
    assert CLAUDE.read_turn(output, b"", 0, 0.0).text == "fine"


@pytest.mark.parametrize(
    ("error", "text", "reason", "remedy"),
    [
        ("authentication_failed", "Invalid API key", "auth_error", Remedy.PERSON),
        ("billing_error", "Credit balance is too low", "billing_error", Remedy.PERSON),
        ("invalid_request", "Prompt is too long", "invalid_request", Remedy.PERSON),
        ("server_error", "API Error: 500", "server_error", Remedy.RETRY),
        ("rate_limit", "API Error: Request rejected (429)", "rate_limit", Remedy.RETRY),
        ("unknown", "API Error: 400 bad", "program_failed", Remedy.RETRY),
    ],
)
def test_an_error_of_the_models_server_is_told_by_its_kind(error: str, text: str, reason: str, remedy: Remedy) -> None:
    told = CLAUDE.read_turn(failure(error, text), b"", 1, 0.0)
    assert (told.ok, told.reason, told.remedy, told.message) == (False, reason, remedy, text)


def test_a_usage_limit_is_told_with_its_end() -> None:
    told = CLAUDE.read_turn(failure("rate_limit", "You've hit your 5-hour limit · resets 9:20pm (UTC)"), b"", 1, 0.0)
    assert (told.reason, told.resets_at) == ("usage_limit", 21 * 3600 + 20 * 60)


def test_an_error_that_passed_is_none() -> None:
    before = {"type": "assistant", "message": {}, "error": "server_error", "is_api_error_message": True}
    told = CLAUDE.read_turn(stream(before, {"type": "assistant", "message": {}}, result(result="fine")), b"", 0, 0.0)
    assert told.ok


@pytest.mark.parametrize(
    ("output", "errors", "reason", "remedy"),
    [
        (
            stream(result(is_error=True, errors=[f"No conversation found with session ID: {SESSION}"])),
            b"",
            "stale_session",
            Remedy.FRESH,
        ),
        (b"", f"No conversation found with session ID: {SESSION}".encode(), "stale_session", Remedy.FRESH),
        (b"", f"Error: Session ID {SESSION} is already in use.".encode(), "session_in_use", Remedy.RESUME),
        (b"", b"Segmentation fault", "program_failed", Remedy.RETRY),
        (b"", b"", "program_failed", Remedy.RETRY),
    ],
)
def test_an_end_without_a_result_is_told_by_what_was_said(
    output: bytes, errors: bytes, reason: str, remedy: Remedy
) -> None:
    told = CLAUDE.read_turn(output, errors, 1, 0.0)
    assert (told.ok, told.reason, told.remedy) == (False, reason, remedy)


def test_an_answer_that_speaks_of_a_lost_session_is_an_answer() -> None:
    told = CLAUDE.read_turn(stream(result(result="It said: No conversation found with session ID")), b"", 0, 0.0)
    assert told.ok


def test_credentials_refused_again_and_again_are_hopeless_and_once_are_not() -> None:
    refused = {"type": "system", "subtype": "api_retry", "error": "authentication_failed"}
    busy = {"type": "system", "subtype": "api_retry", "error": "overloaded"}
    assert CLAUDE.hopeless(stream(refused, refused), 0.0) is None
    assert CLAUDE.hopeless(stream(busy, busy, busy, busy), 0.0) is None
    told = CLAUDE.hopeless(stream(refused, refused, refused), 0.0)
    assert told is not None and told.reason == "auth_error"


@pytest.mark.parametrize(
    ("status", "ok", "declined", "reason"),
    [
        (0, True, False, None),
        (75, True, True, "declined"),
        (1, False, False, "program_failed"),
        (127, False, False, "not_started"),
        (None, False, False, "program_failed"),
    ],
)
def test_a_scripted_runner_speaks_by_its_exit_status(
    status: int | None, ok: bool, declined: bool, reason: str | None
) -> None:
    told = Shell().read_turn(b"out\n", b"", status, 0.0)
    assert (told.ok, told.declined, told.reason) == (ok, declined, reason)


def test_a_scripted_runner_is_given_the_messages_own_words() -> None:
    spec = AgentSpec(name="web", mode="headless", harness="shell", command=("cat", "-"), args=("-n",))
    made = Shell().turn(
        TurnAsk(
            spec=spec,
            conversation=None,
            folder="/launch",
            cwd="/work",
            env={},
            version=None,
            text="<quoted>",
            words="hi",
        )
    )
    assert made == TurnLaunch(("cat", "-", "-n"), b"hi")


# -- its activity ------------------------------------------------------------------------------------------------


def test_an_agent_works_while_a_turn_runs_and_then_its_last_trouble_stands() -> None:
    note = Note(
        agent="web",
        harness="shell",
        message="m-1",
        thread="t",
        sender="alice",
        generation="g",
        began_at=0.0,
        deadline=9.0,
    )
    limit = CLAUDE.read_turn(failure("rate_limit", "You've hit your limit · resets 9pm (UTC)"), b"", 1, 0.0)
    refused = CLAUDE.read_turn(failure("authentication_failed", "Invalid API key"), b"", 1, 0.0)
    assert evidence([note], limit, 1.0).activity is Activity.WORKING
    assert evidence([], None, 1.0).activity is Activity.READY
    assert evidence([], refused, 1.0).activity is Activity.ERROR
    limited = evidence([], limit, 1.0)
    assert (limited.activity, limited.resets_at) == (Activity.LIMITED, 21 * 3600)
