"""What is read from the agent's side: whether a composer holds a text, and what came into a conversation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fleet.harnesses.claude_code import ClaudeCode
from fleet.harnesses.screens import Rules
from fleet.health.classify import View
from fleet.hub.delivery import HandedOver, Seen, Sign
from fleet.hub.message import Message, Way
from fleet.reach import Agents, begins, shows
from fleet.settings import Places
from fleet.terms import Screen
from tests.unit.fleet_in_memory import World, draw

LINE = "all work and no play makes a long prompt "


@pytest.mark.parametrize(
    ("composer", "text"),
    [
        ("do it", "do it"),
        ("a line that is\nbroken by its box", "a line that is broken by its box"),
        (LINE * 8, "what is out of sight; " + LINE * 8),
        ("[Pasted text #1 +2 lines]", "one\ntwo\nthree"),
        (f"begin\n[Pasted text #3 +9 lines]{LINE * 6}", "begin\nwhat came too fast\n" + LINE * 6),
    ],
)
def test_a_composer_that_shows_the_text_holds_it(composer: str, text: str) -> None:
    assert shows(composer, text)


@pytest.mark.parametrize(
    ("composer", "text"),
    [
        ("", "do it"),
        ("do i", "do it"),
        ("do it now", "do it"),
        ("it", "do it"),
        ("my draft do it", "do it"),
        (LINE * 8 + "and mine", LINE * 9),
        ("[Pasted text #1 +2 lines] and mine", "one\ntwo\nthree"),
        ("do.*it", "do this and that, it"),
    ],
)
def test_a_composer_that_shows_anything_else_does_not(composer: str, text: str) -> None:
    assert not shows(composer, text)


@pytest.mark.parametrize(
    ("composer", "text", "found"),
    [
        ("do", "do it", True),
        ("do it", "do it", True),
        ("[Pasted text #1 +2 lines]", "one\ntwo\nthree\nand more", True),
        (LINE * 8, "what is out of sight; " + LINE * 12, True),
        ("", "do it", False),
        ("it", "do it", False),
        ("do it now", "do it", False),
        ("mine: do", "do it", False),
        (LINE * 8 + "and mine", LINE * 12, False),
    ],
)
def test_a_beginning_of_a_text_is_known_as_such(composer: str, text: str, found: bool) -> None:
    assert begins(composer, text) is found


def test_a_composer_that_is_scrolled_below_its_name_is_seen(tmp_path: Any) -> None:
    rows = [
        "● an answer",
        *[""] * 20,
        "─── ↑ 3 more ──────────────── web ─",
        "  second to last",
        "  the last line",
        "─" * 60,
    ]
    screen = Screen(text="\n".join([*rows, "  Opus"]), width=60, height=40, cursor=(15, 23))
    rules = Rules(Places(tmp_path, tmp_path, tmp_path).rules).of("claude-code")
    assert rules is not None
    view = View.of(screen, rules, (2, 1, 329))
    assert (view.composer, view.draft) == (True, True)
    assert view.regions["composer"] == "second to last\nthe last line"


AT = "2026-11-21T14:25:01.446Z"


def line(**entry: Any) -> bytes:
    return json.dumps({"timestamp": AT, **entry}, separators=(",", ":")).encode() + b"\n"


def said(*lines: bytes) -> list[tuple[str, bool]]:
    return [(one.text, one.queued) for one in ClaudeCode().read_said(b"".join(lines)).said]


def test_what_is_queued_is_noted_and_what_is_in_the_conversation_is_there() -> None:
    assert said(
        line(type="queue-operation", operation="enqueue", content="one"),
        line(type="queue-operation", operation="remove", content="one", reason="absorbed_mid_turn"),
        line(type="attachment", attachment={"type": "queued_command", "prompt": "one"}),
        line(type="user", message={"role": "user", "content": "two"}, origin={"kind": "task-notification"}),
        line(type="user", message={"role": "user", "content": [{"type": "text", "text": "three"}]}),
        line(type="attachment", attachment={"type": "hook_additional_context", "content": ["four"]}),
    ) == [("one", True), ("one", False), ("two", False), ("three", False), ("four", False)]


def test_what_an_agent_has_merely_read_or_said_is_not_what_was_said_to_it() -> None:
    assert (
        said(
            line(type="user", message={"content": [{"type": "tool_result", "content": "from a file"}]}),
            line(type="assistant", message={"content": [{"type": "text", "text": "its own words"}]}),
            line(type="attachment", attachment={"type": "hook_success", "stdout": "a hook's output", "content": ""}),
            line(type="user", isSidechain=True, message={"content": "to a sub-agent"}),
            line(type="last-prompt", message={"content": "noted elsewhere"}),
        )
        == []
    )


def test_torn_and_strange_lines_say_nothing() -> None:
    whole = line(type="user", message={"content": "whole"})
    strange = [
        b'"type":"user","message":{"content":"torn"}}\n',
        b'{"type":"user"}\n',
        b'["\xff"]\n',
        b"[" * 5000 + b"\n",
    ]
    assert said(*strange, whole, line(type="user", message="a word"), line(type="user", message={"content": 7})) == [
        ("whole", False)
    ]


def test_where_the_tail_begins_is_told_by_its_first_line_that_was_not_attached_later() -> None:
    attached = line(type="attachment", timestamp="2026-11-21T13:00:00Z", attachment={"type": "queued_command"})
    begins = ClaudeCode().read_said(b'torn"}\n' + attached + line(type="assistant", message={})).begins
    assert begins is not None
    assert round(begins % 3600) == 25 * 60 + 1
    assert ClaudeCode().read_said(b"").begins is None


KEY = "00000000000000100-doorbell"
MAIL = Message(id="m-1", workspace="main", sender="bob", to=("web",), text="hello", at=0.0, thread="t-1")


@pytest.mark.parametrize("whose", ["the program", "a stranger with its pid"])
async def test_what_a_program_without_a_terminal_still_writes_down_is_waited_for(tmp_path: Any, whose: str) -> None:
    """Its launch is over, and the next one is under way, before it has written the message into its conversation."""
    world = World(tmp_path)
    daemon = await world.daemon()
    await daemon.start(world.claude_code())
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(2)
    runner, host = daemon["web"], world.host
    assert runner.handle is not None
    box, mark = f"{runner.handle.folder}/box", runner.handle.generation
    handed = HandedOver(way=Way.DOORBELL, at=world.clock.now(), acted_at=world.clock.now())
    agents = Agents(
        daemon.supervisor.runners, world.clock, lambda harness: None, daemon.supervisor.events.of_generation
    )
    await agents.put("web", KEY, "<its text>", Way.DOORBELL)
    host.files[f"{box}/taken/{KEY},99"] = host.files.pop(f"{box}/d.{KEY}")
    host.files[f"{box}/owner"] = b"4242\n"
    environ = f"FLEET_GENERATION={mark}" if whose == "the program" else f"FLEET_GENERATION={mark}0"
    host.files["/proc/4242/environ"] = f"HOME=/home/u\0{environ}\0".encode()

    async def seen() -> Seen:
        (one,) = await agents.seen("web", KEY, handed, [MAIL], 0.0)
        return one

    assert (await seen()).alive
    host.pane("web").kill()
    await world.clock.turn(1)
    assert runner.handle.generation != mark
    assert (await seen()).alive is (whose == "the program")
    host.files[f"/home/u/.claude/projects/-work/{runner.record.session_id}.jsonl"] = line(
        type="user", message={"content": '<fleet-message-x id="m-1" from="bob">'}
    )
    del host.files["/proc/4242/environ"]
    told = await seen()
    assert (told.alive, told.signs) == (False, {Sign.TRANSCRIPT})
    await world.close()
