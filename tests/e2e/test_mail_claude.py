"""Mail into the real Claude Code: rung for, told at a tool's end, typed, or waiting with its reason; and once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from fleet.hub.message import State
from fleet.terms import Activity
from tests.homes import Home, Stub
from tests.post import Post, until

pytestmark = pytest.mark.real

ASKS_NOTHING = {"permission_mode": "bypassPermissions"}
GATED = "until [ -e go ]; do sleep 0.1; done"
"""A command that runs until the test opens the gate: `go` in the working folder."""


def bash(command: str) -> str:
    """A prompt that makes the model run this command."""
    return "TOOL Bash " + json.dumps({"command": command, "description": "x"})


@pytest.fixture
async def post(home: Home, claude_program: str, stub: Stub) -> AsyncIterator[Post]:
    """A fleet and its hub, in a home whose person has used Claude Code before."""
    home.seed_claude(stub.url)
    opened = await Post(home, claude_program, stub).open()
    yield opened
    await opened.close()


async def test_a_message_wakes_an_idle_agent_and_is_proven_by_its_conversation(post: Post) -> None:
    await post.ready(**ASKS_NOTHING)
    id = await post.send("Repeat GOT-IT")
    told = await post.arrives(id)
    assert (told["way"], told["evidence"]) == ("doorbell", "transcript")
    await until(lambda: post.runner().facts.transcript.last_assistant_message == "GOT-IT", "it answers")
    assert post.times_there(id) == 1
