"""The event store: redacted, once each, oldest first; and the facts that a status takes from it."""

from __future__ import annotations

import asyncio
import json

import pytest

from fleet.db import Database
from fleet.events import EVENTS_MIGRATIONS, READ_BACK_BYTES, Event, Events
from fleet.terms import HookEvent

NOTHING = {
    "last_at": None,
    "recent_tools": [],
    "recent_prompts": [],
    "agent_calls": [],
    "tool_counts": {},
    "last_tool_at": None,
    "last_tool_name": None,
    "last_mcp_tool_at": None,
    "last_mcp_tool_name": None,
    "background_tasks": None,
    "subagents": [],
    "subagent_count": 0,
}


@pytest.fixture
async def database(tmp_path):
    database = Database.open(tmp_path / "fleet.db", [EVENTS_MIGRATIONS])
    yield database
    await database.close()


@pytest.fixture
def events(database):
    return Events(database)


def hook(n: int, name: str, agent: str = "web", **payload) -> HookEvent:
    return HookEvent(
        key=f"{agent}/g,1,{n}.00,1", agent=agent, name=name, at=float(n), generation="g", pid=1, payload=payload
    )


def tool(n: int, name: str, call: str | None, **given) -> HookEvent:
    return hook(n, "PreToolUse", tool_name=name, tool_use_id=call, tool_input=given)


async def test_a_status_that_is_asked_for_while_old_events_go_is_counted_anew(events, database, monkeypatch):
    await events.keep([tool(1, "Bash", "a"), hook(2, "PreToolUse", "db", tool_name="Read", tool_use_id="b")])
    await events.summary("web")
    read = database.read

    async def reads(fn):
        monkeypatch.setattr(database, "read", read)
        found = await read(fn)
        await events.trim(before=2.0)
        return found

    monkeypatch.setattr(database, "read", reads)
    found = await events.summaries(["web", "db"])
    assert (found["web"]["tool_counts"], found["db"]["tool_counts"]) == ({}, {"Read": 1})


async def test_events_come_back_as_they_came_oldest_first(events):
    stored = await events.append(
        [
            Event(at=2.0, agent="web", type="phase", name="running", payload={"reason": "seen"}),
            Event(at=1.0, agent="db", type="fault", name="step", payload={}),
        ]
    )
    assert [event.id for event in stored] == [1, 2]
    assert await events.list() == stored
    assert stored[0].to_json() == {
        "id": 1, "at": 2.0, "agent": "web", "type": "phase", "name": "running", "key": None, "generation": None,
        "pid": None, "session_id": None, "payload": {"reason": "seen"},
    }  # fmt: skip


async def test_they_are_chosen_by_agent_type_place_and_number(events):
    await events.append(
        Event(at=float(n), agent=agent, type=kind, name=str(n))
        for n, (agent, kind) in enumerate([("a", "x"), ("b", "x"), ("a", "y"), ("a", "x"), ("b", "y")])
    )

    async def names(**which):
        return "".join(event.name for event in await events.list(**which))

    assert await names(agent="a") == "023"
    assert await names(type="x") == "013"
    assert await names(agent="a", type="x") == "03"
    assert await names(after=2) == "234"
    assert await names(limit=2) == "34"
    assert await names(after=1, limit=2, agent="a") == "23"
    assert await names(limit=0) == ""
    assert await names(agent="nobody") == ""


async def test_a_key_is_stored_once_whoever_brings_it(events):
    first, again = await events.keep([hook(1, "Stop", x=1)]), await events.keep([hook(1, "Stop", x=2)])
    assert (first[0].payload, again[0].payload) == ({"x": 1}, {"x": 2})
    (stored,) = await events.list()
    assert (stored.payload, stored.id) == ({"x": 1}, 1)
    (told,) = await events.append([Event(at=9.0, agent="web", type="hook", name="Stop", key=stored.key)])
    assert told.id == 1


async def test_secrets_are_taken_out_on_the_way_in(events):
    (told,) = await events.keep([tool(1, "Bash", "c", command="PGPASSWORD=hunter2 psql")])
    assert told.payload["tool_input"]["command"] == "PGPASSWORD=[redacted] psql"
    assert "hunter2" not in json.dumps([event.to_json() for event in await events.list()])


async def test_what_an_agent_was_given_as_a_secret_is_taken_out_by_its_value(database):
    events = Events(database, {"web": ["plain-word"], "db": []}.__getitem__)
    await events.append(
        Event(at=1.0, agent=agent, type="t", name="n", payload={"x": f"say plain-word to {agent}"})
        for agent in ("web", "db")
    )
    assert [event.payload["x"] for event in await events.list()] == ["say [redacted] to web", "say plain-word to db"]


async def test_five_megabytes_are_kept_whole(events):
    (told,) = await events.keep([hook(1, "PostToolUse", tool_response="é" * 5_000_000)])
    (stored,) = await events.list()
    assert stored.payload == told.payload == {"tool_response": "é" * 5_000_000}


async def test_odd_content_is_kept_and_given_back(events):
    nested: dict = {}
    for _ in range(2000):
        nested = {"a": nested}
    odd = [
        hook(1, "Stop", session_id="\ud800", text="\ud800 \0 \u2028"),
        hook(2, "Stop", session_id=17, deep=nested),
        hook(3, "N\ud800", tool_name=["list"], tool_use_id={}),
    ]
    await events.keep(odd)
    one, two, three = await events.list()
    assert one.payload["text"] == "\ud800 \0 \u2028"
    assert one.session_id == "?"
    assert two.session_id is None
    assert "raw" in two.payload
    assert three.name == "N?"
    json.dumps([event.to_json() for event in (one, two, three)]).encode()


async def test_old_events_go_and_their_numbers_are_not_used_again(events):
    await events.append(Event(at=float(n), agent="a", type="t", name=str(n)) for n in range(1200))
    assert await events.trim(before=1150.0) == 1150
    assert [event.name for event in await events.list()] == [str(n) for n in range(1150, 1200)]
    assert await events.trim(before=9999.0) == 50
    (new,) = await events.append([Event(at=1.0, agent="a", type="t", name="new")])
    assert new.id == 1201


async def test_what_has_gone_is_no_longer_counted(events):
    await events.keep([tool(1, "Bash", "c1"), tool(9, "Bash", "c2")])
    assert (await events.summary("web"))["tool_counts"] == {"Bash": 2}
    await events.trim(before=5.0)
    assert (await events.summary("web"))["tool_counts"] == {"Bash": 1}


async def test_a_launch_taken_up_again_hears_what_its_hooks_told(events):
    await events.keep([hook(1, "SessionStart"), hook(2, "Stop", x=1)])
    await events.append([Event(at=3.0, agent="web", type="phase", name="running", generation="g")])
    assert await events.of_generation("g") == [hook(1, "SessionStart"), hook(2, "Stop", x=1)]
    assert await events.of_generation("other") == []


# -- what a status shows -------------------------------------------------------------------------------------------

DAY = [
    hook(1, "SessionStart", source="startup"),
    hook(2, "UserPromptSubmit", prompt="Fix it " + "x" * 500, prompt_id="p1"),
    tool(3, "Bash", "c1", command="make test", description="d"),
    hook(4, "PostToolUse", tool_name="Bash", tool_use_id="c1", duration_ms=220),
    tool(5, "Read", "c2", file_path="/a"),
    hook(6, "PostToolUseFailure", tool_name="Read", tool_use_id="c2"),
    tool(7, "mcp__db__query", "c3", sql="select"),
    tool(8, "Agent", "c4", description="look", subagent_type="general-purpose"),
    hook(9, "SubagentStart", agent_id="a1", agent_type="general-purpose"),
    tool(10, "Bash", "c5", command="ls"),
    hook(11, "SubagentStop", agent_id="a1", background_tasks=[{"id": "b1"}]),
    tool(12, "Bash", None, command="pwd"),
    hook(13, "MessageDisplay", text="…"),
]


async def test_a_status_shows_what_the_hooks_told(events):
    assert await events.summary("web") == NOTHING
    await events.keep(DAY[:9])
    facts = await events.summary("web")
    assert facts["subagents"] == [{"id": "a1", "type": "general-purpose", "at": 9.0}]
    assert facts["subagent_count"] == 1
    await events.keep(DAY[9:])
    facts = await events.summary("web")
    assert facts["last_at"] == 13.0
    assert facts["tool_counts"] == {"Bash": 3, "Read": 1, "mcp__db__query": 1, "Agent": 1}
    assert (facts["last_tool_at"], facts["last_tool_name"]) == (12.0, "Bash")
    assert (facts["last_mcp_tool_at"], facts["last_mcp_tool_name"]) == (7.0, "mcp__db__query")
    assert facts["recent_tools"][:2] == [
        {"at": 3.0, "tool": "Bash", "input": "make test", "call": "c1", "outcome": "done", "duration_ms": 220},
        {"at": 5.0, "tool": "Read", "input": "/a", "call": "c2", "outcome": "failed", "duration_ms": None},
    ]
    assert facts["recent_prompts"][0]["prompt"].startswith("Fix it x")
    assert len(facts["recent_prompts"][0]["prompt"]) == 200
    assert facts["agent_calls"] == [
        {"at": 8.0, "description": "look", "subagent_type": "general-purpose", "call": "c4"}
    ]
    assert facts["background_tasks"] == [{"id": "b1"}]
    assert facts["subagent_count"] == 0


async def test_it_shows_the_same_after_a_restart(events, database):
    await events.summary("web")
    await events.keep(DAY)
    told = await events.summary("web")
    assert await Events(database).summary("web") == told


async def test_the_same_event_told_twice_counts_once(events):
    await events.summary("web")
    await events.keep([tool(1, "Bash", "c1", command="a")])
    await events.keep([tool(1, "Bash", "c1", command="a")])
    await events.keep([tool(2, "Bash", "c1", command="a")])  # the seed's settings tell it as well
    facts = await events.summary("web")
    assert facts["tool_counts"] == {"Bash": 1}
    assert len(facts["recent_tools"]) == 1


async def test_agents_do_not_mix_and_lists_stay_short(events):
    await events.keep([hook(n, "UserPromptSubmit", prompt=str(n)) for n in range(1, 60)])
    await events.keep([hook(n, "UserPromptSubmit", agent="web-2", prompt=str(n)) for n in range(1, 3)])
    facts = await events.summaries(["web", "web-2", "none"])
    assert [prompt["prompt"] for prompt in facts["web"]["recent_prompts"]] == [str(n) for n in range(50, 60)]
    assert len(facts["web-2"]["recent_prompts"]) == 2
    assert facts["none"] == NOTHING


async def test_a_large_payload_counts_without_being_read_back(events, database):
    await events.keep([tool(1, "Write", "c1", file_path="/a", content="x" * READ_BACK_BYTES)])
    facts = await Events(database).summary("web")
    assert facts["tool_counts"] == {"Write": 1}
    assert facts["last_tool_name"] == "Write"


async def test_nothing_is_missed_or_doubled_while_the_past_is_read(events):
    """Events go on coming in while a first status asks."""

    async def bring() -> None:
        for n in range(1, 200):
            await events.keep([tool(n, "Bash", None, command=str(n))])

    bringing = asyncio.create_task(bring())
    while not bringing.done():
        await events.append([Event(at=0.0, agent="old", type="t", name="n")])
        assert await events.trim(before=0.5) == 1  # so that all is counted anew
        counted = (await events.summary("web"))["tool_counts"].get("Bash", 0)
        assert counted <= len(await events.list())
    await bringing
    assert (await events.summary("web"))["tool_counts"] == {"Bash": 199}


async def test_what_a_caller_does_to_the_facts_stays_with_the_caller(events):
    await events.keep(DAY)
    facts = await events.summary("web")
    facts["recent_tools"].clear()
    facts["tool_counts"]["Bash"] = 0
    assert (await events.summary("web"))["tool_counts"]["Bash"] == 3
