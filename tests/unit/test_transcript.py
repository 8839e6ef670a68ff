"""The end of a Claude Code transcript, and usage limits in its words."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.harnesses.base import TranscriptTail
from fleet.harnesses.claude_code import ClaudeCode, project_folder
from fleet.harnesses.limits import LIMIT, resets_at
from fleet.terms import Activity

AT = "2026-11-21T11:12:10.624Z"
NOW = datetime(2026, 11, 21, 11, 12, 10, 624000, tzinfo=UTC).timestamp()


def line(kind: str, content: Any, **more: Any) -> dict[str, Any]:
    message = {"role": kind, "content": content, **more.pop("message", {})}
    return {"type": kind, "isSidechain": False, "timestamp": AT, "message": message, **more}


def said(*entries: dict[str, Any] | bytes) -> TranscriptTail:
    lines = [e if isinstance(e, bytes) else json.dumps(e).encode() for e in entries]
    return ClaudeCode().read_transcript(b"\n".join(lines) + b"\n", NOW)


def asked(text: str, **more: Any) -> dict[str, Any]:
    return line("user", text, promptSource="typed", **more)


def answered(text: str, stop: str = "end_turn", **usage: int) -> dict[str, Any]:
    message = {"model": "claude-x", "stop_reason": stop, "usage": usage}
    return line("assistant", [{"type": "text", "text": text}], message=message)


def called(tool: str, number: str = "1", **arguments: Any) -> dict[str, Any]:
    call = {"type": "tool_use", "id": number, "name": tool, "input": arguments}
    return line("assistant", [call], message={"model": "claude-x", "stop_reason": "tool_use"})


def result(number: str = "1", text: str = "done") -> dict[str, Any]:
    return line("user", [{"type": "tool_result", "tool_use_id": number, "content": text}])


def activity(*entries: dict[str, Any] | bytes) -> Activity | None:
    evidence = said(*entries).evidence
    return evidence.activity if evidence else None


def test_a_turn_is_read_with_what_it_cost() -> None:
    tail = said(asked("Repeat A"), answered("A", input_tokens=7, cache_read_input_tokens=14_000, output_tokens=20))
    assert (tail.last_user_message, tail.last_assistant_message) == ("Repeat A", "A")
    assert (tail.model, tail.context_tokens) == ("claude-x", 14_007)
    assert tail.last_at == NOW
    assert tail.lines == ("❯ Repeat A", "● A")


def test_the_tool_that_runs_is_the_last_without_a_result() -> None:
    calls = [called("Bash", "1", command="ls"), called("Read", "2", file_path="/a")]
    assert (said(*calls).current_tool, said(*calls).current_tool_input) == ("Read", "/a")
    assert said(*calls, result("2")).current_tool == "Bash"
    assert said(*calls, result("2"), result("1")).current_tool is None


INTERRUPTED = line("user", [{"type": "text", "text": "[Request interrupted by user for tool use]"}])
FAILED = line("assistant", [{"type": "text", "text": "API Error: 500"}], isApiErrorMessage=True)
LIMITED = line(
    "assistant", [{"type": "text", "text": "You've hit your weekly limit · resets Nov 24, 9:54am (UTC)"}],
    isApiErrorMessage=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], None),
        ([asked("x")], Activity.WORKING),
        ([asked("x"), answered("y")], Activity.READY),
        ([asked("x"), answered("y", "tool_use")], Activity.WORKING),
        ([called("Bash")], Activity.WORKING),
        ([called("Bash"), result()], Activity.WORKING),
        ([called("Bash"), INTERRUPTED], Activity.READY),
        ([asked("x"), FAILED], Activity.ERROR),
        ([asked("x"), LIMITED], Activity.LIMITED),
        ([asked("x"), FAILED, asked("y")], Activity.WORKING),
        ([answered("y"), line("user", "<command-name>/clear</command-name>")], Activity.READY),
        ([answered("y"), line("user", "<task-notification>", promptSource="system")], Activity.WORKING),
        ([answered("y"), line("user", "Caveat: …", isMeta=True)], Activity.READY),
        ([answered("y"), {**asked("sub"), "isSidechain": True}], Activity.READY),
    ],
)
def test_the_last_word_of_the_conversation_tells_how_it_stands(
    entries: list[dict[str, Any]], expected: Activity | None
) -> None:
    assert activity(*entries) is expected


def test_only_what_a_person_or_a_peer_wrote_is_a_message() -> None:
    tail = said(
        asked("mine"), line("user", "the summary", isCompactSummary=True), line("user", "<local-command-stdout>"),
        line("user", "meta", isMeta=True), result(), INTERRUPTED,
    )  # fmt: skip
    assert tail.last_user_message == "mine"


def test_an_errors_text_is_not_the_models_answer() -> None:
    assert said(answered("A"), FAILED).last_assistant_message == "A"


def test_a_torn_first_line_and_foreign_lines_say_nothing() -> None:
    whole = [asked("x"), answered("y")]
    torn = b'ssage":{"role":"user","content":"torn"}}'
    foreign = [b"", b"null", b"[1]", b"\xff\xfe", b'{"type": "mode"}', b'{"type": "user", "message": 3}']
    assert said(torn, *foreign, *whole) == said(*whole)


@given(st.binary(max_size=300), st.integers(0, 400))
def test_a_tail_may_begin_anywhere(noise: bytes, cut: int) -> None:
    content = json.dumps(asked("x")).encode() + b"\n" + noise + b"\n" + json.dumps(answered("y")).encode()
    read = ClaudeCode().read_transcript(content[cut:], NOW)
    assert read.last_assistant_message in ("y", None)


def test_lines_for_the_log_are_few_and_without_secrets() -> None:
    key = "sk-ant-api03-" + "Zk9" * 20
    tail = said(asked(f"key {key}"), *(answered(f"line {i}") for i in range(500)))
    assert len(tail.lines) == 200
    assert tail.lines[-1] == "● line 499"
    assert not any(key in shown for shown in said(asked(f"key {key}")).lines)


@pytest.mark.parametrize(
    ("tail", "resumable"),
    [
        (b'{"type":"mode","mode":"normal"}\n{"type":"permission-mode"}\n', False),
        (b"", False),
        (b'{"type":"user","message":{}}\n', True),
        (b"x" * 20_000, True),
    ],
)
def test_a_transcript_without_a_conversation_cannot_be_resumed(tail: bytes, resumable: bool) -> None:
    assert ClaudeCode().resumable(tail) is resumable


@pytest.mark.parametrize(
    ("cwd", "folder"),
    [
        ("/home/a.b/c_d e", "-home-a-b-c-d-e"),
        ("/tmp/fl9sjk_ti9/ä😀x", "-tmp-fl9sjk-ti9----x"),
        ("/tmp/flpc1gti8_/" + "x" * 184, "-tmp-flpc1gti8--" + "x" * 184),
        ("/tmp/flv8ruyc7w/" + "x" * 185, "-tmp-flv8ruyc7w-" + "x" * 184 + "-mt0wn9"),
        ("/tmp/flfdw551fo/" + "/".join(["abcdefghij" * 4] * 6),
         ("-tmp-flfdw551fo-" + "-".join(["abcdefghij" * 4] * 6))[:200] + "-bx46fi"),
    ],
)  # fmt: skip
def test_a_folders_transcripts_have_the_programs_own_name_for_it(cwd: str, folder: str) -> None:
    assert project_folder(cwd) == folder


# -- limits -----------------------------------------------------------------------------------------------------------


def at(*date: int) -> float:
    return datetime(*date, tzinfo=UTC).timestamp()  # type: ignore[misc, arg-type]


NOON = at(2026, 11, 21, 12)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("You've hit your 5-hour limit · resets 9:20pm (UTC)", at(2026, 11, 21, 21, 20)),
        ("You've hit your session limit · resets 1am (UTC)", at(2026, 11, 22, 1)),
        ("resets 12am (UTC)", at(2026, 11, 22)),
        ("resets 12:30pm (UTC)", at(2026, 11, 21, 12, 30)),
        ("resets 8pm (Asia/Tokyo)", at(2026, 11, 22, 11)),
        ("You've hit your weekly limit · resets Nov 24, 9:54am (UTC)", at(2026, 11, 24, 9, 54)),
        ("resets Jan 2 at 9am (UTC)", at(2027, 1, 2, 9)),
        ("limit resets at 21:20 (UTC)", at(2026, 11, 21, 21, 20)),
        ("limit resets soon", None),
        ("limit resets Nov 24", None),
        ("limit resets 25pm tomorrow", None),
        ("limit resets 24:10 (UTC)", None),
        ("limit resets 9:61pm (UTC)", None),
        ("resets 9:51pm (Nowhere/City)", None),
        ("resets Feb 31, 9am (UTC)", None),
        ("no limit here", None),
    ],
)
def test_a_limit_says_when_it_ends(text: str, end: float | None) -> None:
    assert resets_at(text, NOON) == end


@pytest.mark.parametrize(
    ("text", "is_limit"),
    [
        ("You've hit your 5-hour limit · resets 9:20pm (UTC)", True),
        ("You've hit your weekly limit", True),
        ("Usage limit reached · continuing automatically at 9:51pm", True),
        ("API Error: Request rejected (429) · This request would exceed your account's rate limit.", False),
        ("Credit balance too low", False),
    ],
)
def test_a_usage_limit_is_told_by_its_words(text: str, is_limit: bool) -> None:
    assert (LIMIT.search(text) is not None) is is_limit


def test_a_time_without_a_zone_is_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert resets_at("resets 9:20pm (UTC)", NOON) == at(2026, 11, 21, 21, 20)
        assert resets_at("limit resets 10pm", NOON) == at(2026, 11, 21, 13)
    finally:
        monkeypatch.undo()
        time.tzset()
