"""The real Claude Code with fleet's own MCP server: its model's calls reach the hub, and no dialog comes first."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.fleets import Claude, until
from tests.homes import Home, Stub

pytestmark = pytest.mark.real


@pytest.fixture
def fleet(fleet_home: Home, claude_program: str, stub: Stub) -> Iterator[Claude]:
    """A fleet in a home whose person has used Claude Code before."""
    fleet_home.seed_claude(stub.url)
    yield Claude(fleet_home, claude_program, stub)


def tool(name: str, **arguments: object) -> str:
    """A prompt that makes the model call one of fleet's tools."""
    return f"TOOL mcp__fleet__{name} {json.dumps(arguments)}"


def start(fleet: Claude) -> None:
    """Start one whose model has the tools: the program waits seconds for its servers, and then asks without them."""
    fleet.ready("web", prompt="Repeat HELLO", auto_accept=["trust-folder"], workdir=".")
    until(lambda: fleet.asked("Repeat HELLO"), "its model is asked")
    while "mcp__fleet__send" not in fleet.requests("Repeat HELLO")[-1]["tools"]:
        before = fleet.asked("Repeat HELLO")
        fleet.at_rest("web")
        fleet.type("web", "Repeat HELLO")
        until(lambda before=before: fleet.asked("Repeat HELLO") > before, "its model is asked again")
    fleet.at_rest("web")


def test_what_the_model_sends_by_its_tool_arrives_and_no_dialog_comes_before_it(fleet: Claude) -> None:
    start(fleet)
    fleet.type("web", tool("send", to="operator", text="hello from the model"))
    mail = until(lambda: fleet.json("inbox", "operator")["messages"], "the message is in the operator's inbox")
    assert [(one["sender"], one["text"]) for one in mail] == [("web", "hello from the model")]
    fleet.wait("web", activity="ready")


def test_the_tools_work_on_after_the_daemon_has_been_another(fleet: Claude) -> None:
    start(fleet)
    fleet.type("web", tool("send", to="operator", text="before"))
    until(lambda: fleet.json("inbox", "operator")["messages"], "the first message is in the operator's inbox")
    fleet.wait("web", activity="ready")
    fleet.run("daemon", "restart")
    fleet.wait("web", activity="ready")
    fleet.run("prompt", "web", tool("send", to="operator", text="still here"))
    mail = until(
        lambda: len(found := fleet.json("inbox", "operator")["messages"]) > 1 and found, "the second one is there too"
    )
    assert {one["text"] for one in mail} == {"before", "still here"}


def test_an_agent_whose_manifest_says_no_has_none_of_fleets_tools(fleet: Claude, stub: Stub) -> None:
    path = fleet.claude("web", prompt="Repeat HELLO", auto_accept=["trust-folder"], workdir=".", hub={"mcp": False})
    fleet.run("start", path)
    assert fleet.answer("web") == "HELLO"
    assert "mcp__fleet__" not in json.dumps(stub.log())
