"""The real Claude Code with fleet's own MCP server: its model's calls reach the hub, and no dialog comes first."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.fleets import Claude, until
from tests.homes import Home, Stub

pytestmark = pytest.mark.real

NO_TOOL = "No such tool available"
"""What a model is told that calls one which its program does not have."""


@pytest.fixture
def fleet(fleet_home: Home, claude_program: str, stub: Stub) -> Iterator[Claude]:
    """A fleet in a home whose person has used Claude Code before."""
    fleet_home.seed_claude(stub.url)
    yield Claude(fleet_home, claude_program, stub)


def tool(name: str, **arguments: object) -> str:
    """A prompt that makes the model call one of fleet's tools."""
    return f"TOOL mcp__fleet__{name} {json.dumps(arguments)}"


def start(fleet: Claude, text: str) -> None:
    """Start one, and have its model send that by its tool; again where its program had not reached its servers yet: it
    waits seconds for them, and then goes on without their tools."""
    fleet.ready("web", auto_accept=["trust-folder"], workdir=".")

    def sent() -> bool:
        turns = len(fleet.hooks("web", "Stop"))
        fleet.type("web", tool("send", to="operator", text=text))
        until(lambda: len(fleet.hooks("web", "Stop")) > turns, "its turn is over, and no dialog came before its end")
        fleet.wait("web", activity="ready")
        return NO_TOOL not in fleet.answer("web")

    until(sent, "its model has the tool")


def test_what_the_model_sends_by_its_tool_arrives_and_no_dialog_comes_before_it(fleet: Claude) -> None:
    start(fleet, "hello from the model")
    mail = until(lambda: fleet.json("inbox", "operator")["messages"], "the message is in the operator's inbox")
    assert [(one["sender"], one["text"]) for one in mail] == [("web", "hello from the model")]
    fleet.wait("web", activity="ready")


def test_the_tools_work_on_after_the_daemon_has_been_another(fleet: Claude) -> None:
    start(fleet, "before")
    until(lambda: fleet.json("inbox", "operator")["messages"], "the first message is in the operator's inbox")
    fleet.wait("web", activity="ready")
    fleet.run("daemon", "restart")
    fleet.wait("web", activity="ready")
    fleet.run("prompt", "web", tool("send", to="operator", text="still here"))
    mail = until(
        lambda: len(found := fleet.json("inbox", "operator")["messages"]) > 1 and found, "the second one is there too"
    )
    assert {one["text"] for one in mail} == {"before", "still here"}


def test_an_agent_whose_manifest_says_no_has_none_of_fleets_tools(fleet: Claude) -> None:
    prompt = tool("send", to="operator", text="hello from the model")
    fleet.run(
        "start", fleet.claude("web", prompt=prompt, auto_accept=["trust-folder"], workdir=".", hub={"mcp": False})
    )
    assert NO_TOOL in fleet.answer("web")
    assert fleet.json("inbox", "operator")["messages"] == []
