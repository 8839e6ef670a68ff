"""Mail into the real Claude Code through the installed fleet: many messages, every obstacle, a killed daemon."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.claude import trust
from tests.e2e.fleets import Claude, until
from tests.homes import Home, Stub

pytestmark = pytest.mark.real

MESSAGES = int(os.environ.get("FLEET_TEST_MESSAGES", "24"))
"""How many messages; `make soak` takes 200."""
GATED = "until [ -e go ]; do sleep 0.1; done"


@pytest.fixture
def fleet(fleet_home: Home, claude_program: str, stub: Stub) -> Iterator[Claude]:
    """A fleet in a home whose person has used Claude Code before; nobody is too talkative in it."""
    fleet_home.seed_claude(stub.url)
    trust(fleet_home, fleet_home.path)
    yield Claude(fleet_home, claude_program, stub)


def bash(command: str) -> str:
    return "TOOL Bash " + json.dumps({"command": command, "description": "x"})


def send(fleet: Claude, text: str, to: str = "web") -> str:
    """A message of the operator's, to be quoted: its id, once a hub takes it."""

    def sent() -> str | None:
        done = fleet.home.fleet("send", to, text, "--intent", "task", "--json")
        return str(json.loads(done.stdout)["data"]["id"]) if done.returncode in (0, 4, 5, 7) and done.stdout else None

    id: str = until(sent, f"a hub takes it\n{fleet.log()}")
    return id


def recipient(fleet: Claude, id: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet.json("receipt", id)["recipients"][0]
    return found


def stands(fleet: Claude, id: str) -> tuple[str, str | None]:
    told = recipient(fleet, id)
    return told["state"], told.get("reason")


def conversation(home: Path) -> list[str]:
    """The ids of the messages in the agents' conversations, as their programs keep them, in order."""
    ids = []
    for path in home.glob(".claude/projects/*/*.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            attached = entry.get("attachment", {}).get("type")
            if entry.get("type") == "user" or attached in ("queued_command", "hook_additional_context"):
                about = entry["message"] if entry.get("type") == "user" else entry["attachment"]
                said = json.dumps({k: v for k, v in about.items() if not k.startswith("rendered")})
                ids += [word.partition('\\"')[0] for word in said.split(' id=\\"')[1:]]
    return ids


def kill_daemon(fleet: Claude) -> None:
    os.kill(fleet.daemon_pid(), signal.SIGKILL)
    fleet.answers_again()


def test_a_message_by_the_command_line_wakes_the_agent_and_its_receipt_says_how(fleet: Claude) -> None:
    fleet.ready("web", workdir=".", permission_mode="bypassPermissions")
    id = send(fleet, "Hello there")
    told = until(lambda: r if (r := recipient(fleet, id))["state"] == "delivered" else None, "it is delivered")
    assert (told["way"], told["evidence"]) == ("doorbell", "transcript")
    kill_daemon(fleet)
    fleet.wait("web", activity="ready")
    again = send(fleet, "And again")
    until(lambda: recipient(fleet, again)["state"] == "delivered", f"after the daemon's death as well\n{fleet.log()}")
    assert conversation(fleet.home.path) == [id, again]


def test_many_messages_past_every_obstacle_and_two_dead_daemons_arrive_once_each(fleet: Claude) -> None:
    """Idle, busy, with a dialog, with a draft; of one line to 10 KB."""
    fleet.home.write("config.yaml", "")
    fleet.ready("web", workdir=".")
    chance = random.Random(7)
    ids: list[str] = []

    def some(count: int) -> None:
        for _ in range(count):
            words = "a line of ten words that says nothing at all. " * max(1, chance.randrange(10_000) // 46)
            ids.append(send(fleet, f"{len(ids)}: {words[: chance.choice((40, 700, 3000, 10_000))]}"))

    def arrive(what: list[str]) -> None:
        for id in what:
            until(lambda id=id: stands(fleet, id)[0] == "delivered", f"{id} is delivered\n{fleet.log()}")

    share = max(1, MESSAGES // 5)
    some(share)  # idle
    arrive(ids)
    fleet.wait("web", activity="ready")
    fleet.type("web", bash(f"touch asked; {GATED}"))  # a dialog, and then at work
    fleet.wait("web", activity="needs_input")
    behind = len(ids)
    some(share)
    for id in ids[behind:]:
        until(lambda id=id: stands(fleet, id) == ("queued", "dialog"), f"{id} waits behind it\n{fleet.log()}")
    kill_daemon(fleet)
    fleet.wait("web", activity="needs_input")
    assert not (fleet.home.work / "asked").exists(), "nobody has answered it"
    fleet.decide("web", "1")
    fleet.wait("web", activity="working")
    some(share)  # busy
    fleet.open_gate()
    arrive(ids)
    fleet.wait("web", activity="ready")
    fleet.tmux("web", "send-keys", "-l", "half of a thought")
    fleet.wait("web", draft=True)
    some(share)  # beside a draft
    kill_daemon(fleet)
    some(MESSAGES - len(ids))
    arrive(ids)
    fleet.wait("web", activity="ready")
    assert "half of a thought" in fleet.screen("web").rpartition("❯")[2]
    assert sorted(conversation(fleet.home.path)) == sorted(ids)


def test_agents_speak_to_each_other_with_their_own_tokens_and_hear_each_other_without_a_person(fleet: Claude) -> None:
    for name in ("one", "two"):
        fleet.ready(name, workdir=".", permission_mode="bypassPermissions")

    def does(name: str, command: str) -> dict[str, Any]:
        """An operator's prompt makes the agent run `fleet …`; what that printed."""
        out = fleet.home.work / f"{name}-said"
        fleet.run("prompt", name, bash(f"{command} --json > {out}.part; mv {out}.part {out}"))
        told: dict[str, Any] = json.loads(until(lambda: out.exists() and out.read_text(), f"{name} has run {command}"))
        return told["data"]

    asked = does("one", "fleet send two 'Which field is it?' --intent task")["id"]
    until(lambda: recipient(fleet, asked)["state"] == "delivered", f"it reaches the other\n{fleet.log()}")
    assert fleet.json("receipt", asked)["sender"] == "one"
    fleet.wait("two", activity="ready")
    answered = does("two", f"fleet reply {asked} 'It is order_id, a uuid.'")["id"]
    told = until(lambda: r if (r := recipient(fleet, answered))["state"] == "delivered" else None, "and back")
    assert (told["name"], told["way"]) == ("one", "doorbell")
    reply = fleet.json("receipt", answered)
    # The operator's prompt, what it made the one say, and the reply to that.
    assert (reply["sender"], reply["reply_to"], reply["hops"]) == ("two", asked, 2)
    assert recipient(fleet, asked)["state"] == "answered"
    for name in ("one", "two"):
        fleet.wait(name, activity="ready")
    assert sorted(conversation(fleet.home.path)) == sorted([asked, answered])
