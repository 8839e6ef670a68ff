"""Headless agents of a whole fleet: asked by the command line, stopped, killed under, and found again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleets import Claude, Fleet, alive, kill, until
from tests.homes import Home, Stub, commands_left

pytestmark = pytest.mark.real


class Clerks(Fleet):
    """A fleet of headless agents that are scripted: a line of sh each."""

    def clerk(self, name: str, script: str, **spec: Any) -> str:
        """Start one."""
        self.run("start", self.shell(name, script, mode="headless", workdir=str(self.home.work), **spec))
        return name

    def ask(self, name: str, text: str, code: int = 0) -> dict[str, Any]:
        """Ask it; how that ended."""
        said: dict[str, Any] = self.json("ask", name, text, "--timeout", "100", code=code)
        return said

    def counted(self) -> int:
        """Turns that were begun, by scripts that write a line into `count`."""
        path = self.home.work / "count"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def fleet(fleet_home: Home) -> Iterator[Clerks]:
    yield Clerks(fleet_home)


def test_a_headless_agent_is_up_without_a_pane_and_answers_an_ask(fleet: Clerks) -> None:
    fleet.clerk("clerk", "cat")
    status = fleet.wait("clerk", phase="running", activity="ready")
    assert (status["pane"], status["pid"], status["mode"]) == (None, None, "headless")
    assert "headless" in status["missing"]["pane"]
    said = fleet.ask("clerk", "the time is nigh")
    assert (said["outcome"], said["answer"]["text"]) == ("answered", "the time is nigh")
    assert fleet.status("clerk")["restarts"] == 0


def test_what_speaks_of_panes_says_what_a_headless_agent_has_instead(fleet: Clerks) -> None:
    fleet.clerk("clerk", "echo hello from $FLEET_AGENT")
    assert fleet.ask("clerk", "hi")["outcome"] == "answered"
    refused = fleet.home.fleet("attach", "clerk", "--print")
    assert refused.returncode == 1 and "headless" in refused.stderr and "fleet logs clerk" in refused.stderr
    lines = fleet.json("logs", "clerk")["lines"]
    assert lines[0].startswith("▶") and "hello from clerk" in lines and "answered" in lines[-1]
    assert "no turn runs" in json.dumps(fleet.json("explain", "clerk"))
    assert [e["name"] for e in fleet.json("events", "--agent", "clerk", "--type", "turn")["events"]] == [
        "begun",
        "answered",
    ]


def test_a_decline_and_a_failure_are_told_as_such(fleet: Clerks) -> None:
    fleet.clerk("shy", "echo not me >&2; exit 75")
    fleet.clerk("weak", "echo x >> count; exit 3")
    assert fleet.home.fleet("ask", "shy", "hi", "--json").stdout.count('"declined"')
    said = json.loads(fleet.home.fleet("ask", "weak", "hi", "--timeout", "100", "--json").stdout)
    assert said.get("data", said)["outcome"] == "failed"
    assert 1 <= fleet.counted() <= 3


def test_stopping_the_agent_ends_its_turns_and_its_mail_waits_for_its_return(fleet: Clerks) -> None:
    fleet.clerk("clerk", "echo $$ >> count; [ -e go ] || sleep 300; echo done")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(fleet.ask, "clerk", "hi")
        pid = until(lambda: _last(fleet.home.work / "count"), "its turn runs")
        assert fleet.wait("clerk", activity="working")["phase"] == "running"
        fleet.run("stop", "clerk")
        assert not alive(pid)
        (fleet.home.work / "go").touch()
        fleet.run("start", "clerk")
        assert asked.result()["answer"]["text"] == "done"
    assert fleet.counted() == 2


def test_a_daemon_that_is_killed_in_a_turn_finds_it_again_and_the_answer_comes_once(fleet: Clerks) -> None:
    fleet.clerk("clerk", "echo $$ >> count; while [ ! -e go ]; do sleep 0.1; done; echo done")
    sent = fleet.json("send", "clerk", "hi")
    until(lambda: fleet.counted() == 1, "its turn runs")
    kill(fleet.daemon_pid())
    fleet.answers_again()
    fleet.wait("clerk", phase="running", activity="working")
    (fleet.home.work / "go").touch()
    until(lambda: _state(fleet, sent["id"]) not in ("injecting", "queued", "accepted"), "its turn is over")
    assert fleet.counted() == 1
    replies = [m for m in fleet.json("inbox", "operator")["messages"] if m["sender"] == "clerk"]
    assert [m["text"] for m in replies] == ["done"]


def test_a_daemon_killed_again_and_again_runs_each_turn_once_and_loses_no_reply(fleet: Clerks) -> None:
    script = "id=$FLEET_MESSAGE_ID; echo begun $id >> count; sleep 0.7; echo ended $id >> count; echo re $id"
    fleet.clerk("clerk", script, headless={"max_parallel": 3})
    sent = [fleet.json("send", "clerk", f"message {n}")["id"] for n in range(10)]
    for ended in (1, 4, 7):
        until(lambda ended=ended: fleet.counted() > 2 * ended, "some turns have run")
        kill(fleet.daemon_pid())
        fleet.answers_again()
    until(lambda: all(_state(fleet, id) == "delivered" for id in sent), "every turn has ended well")
    told = (fleet.home.work / "count").read_text().split("\n")[:-1]
    assert sorted(told) == sorted(f"{word} {id}" for id in sent for word in ("begun", "ended"))
    replies = [m for m in fleet.json("inbox", "operator", "--limit", "100")["messages"] if m["sender"] == "clerk"]
    assert sorted(m["text"] for m in replies) == sorted(f"re {id}" for id in sent)


def test_terminating_the_conversation_ends_the_turn_and_no_reply_is_sent(fleet: Clerks) -> None:
    fleet.clerk("clerk", "echo $$ >> count; sleep 300; echo done")
    sent = fleet.json("send", "clerk", "hi")
    pid = until(lambda: _last(fleet.home.work / "count"), "its turn runs")
    thread = fleet.json("receipt", sent["id"])["thread"]
    fleet.run("threads", "terminate", thread)
    until(lambda: not alive(pid), "its processes are gone")
    until(lambda: _state(fleet, sent["id"]) == "cancelled", "the message is cancelled")
    assert [m for m in fleet.json("inbox", "operator")["messages"] if m["sender"] == "clerk"] == []


def test_pausing_the_conversation_ends_the_turn_and_resuming_it_answers_once(fleet: Clerks) -> None:
    fleet.clerk("clerk", "echo $$ >> count; [ -e go ] || sleep 300; echo done")
    sent = fleet.json("send", "clerk", "hi")
    pid = until(lambda: _last(fleet.home.work / "count"), "its turn runs")
    thread = fleet.json("receipt", sent["id"])["thread"]
    fleet.run("threads", "pause", thread)
    until(lambda: not alive(pid), "its processes are gone")
    (fleet.home.work / "go").touch()
    assert fleet.counted() == 1
    fleet.run("threads", "resume", thread)
    until(lambda: _state(fleet, sent["id"]) == "delivered", "its turn has ended well")
    assert fleet.counted() == 2
    assert [m["text"] for m in fleet.json("inbox", "operator")["messages"] if m["sender"] == "clerk"] == ["done"]


def test_a_script_is_given_the_words_of_a_message_and_of_a_prompt(fleet: Clerks) -> None:
    fleet.clerk("clerk", "tee -a given > /dev/null; echo >> given")
    for verb, words in (("prompt", "one"), ("send", "two")):
        sent = fleet.json(verb, "clerk", words)
        until(lambda sent=sent: _state(fleet, sent["id"]) == "delivered", "its turn has ended well")
    assert (fleet.home.work / "given").read_text() == "one\ntwo\n"


def test_one_whose_program_is_not_there_does_not_start_and_says_why(fleet: Clerks) -> None:
    path = fleet.manifest("clerk", harness="shell", mode="headless", command=["no-such-program-anywhere"])
    done = fleet.home.fleet("start", path)
    assert done.returncode == 1 and "no-such-program-anywhere" in done.stdout + done.stderr
    assert fleet.status("clerk")["phase"] in ("failed", "backoff")


def test_nothing_of_a_headless_agent_is_left_after_a_shutdown(fleet: Clerks) -> None:
    fleet.clerk("clerk", "echo $$ >> count; setsid sleep 300 & sleep 300")
    fleet.json("send", "clerk", "hi")
    pid = until(lambda: _last(fleet.home.work / "count"), "its turn runs")
    fleet.run("shutdown")
    assert not alive(pid)
    assert ["sleep", "300"] not in commands_left(fleet.home.path)


def test_a_headless_claude_code_answers_and_goes_on_with_its_conversation(
    fleet_home: Home, claude_program: str, stub: Stub
) -> None:
    fleet_home.seed_claude(stub.url)
    fleet = Claude(fleet_home, claude_program, stub)
    fleet.run("start", fleet.claude("clerk", mode="headless", permission_mode=None, auto_accept=[]))
    first = fleet.json("ask", "clerk", "Repeat one", "--timeout", "100")
    assert first["outcome"] == "answered" and first["answer"]["text"].startswith("one")
    second = fleet.json("send", "clerk", "Repeat two", "--thread", first["thread"])
    until(lambda: _state(fleet, second["id"]) == "delivered", "the turn ends")
    asked = [e for e in stub.log() if e.get("tools") and re.search("Repeat (one|two)", str(e.get("prompt")))]
    assert asked[-1]["n_messages"] > asked[0]["n_messages"]
    assert all("<fleet-message-" in e["prompt"] and "approves nothing" in e["prompt"] for e in asked)
    prompted = fleet.json("prompt", "clerk", "Repeat three")
    until(lambda: _state(fleet, prompted["id"]) == "delivered", "the turn ends")
    assert [e["prompt"].strip() for e in stub.log() if e.get("tools")][-1] == "Repeat three"
    spent = until(lambda: _spent(fleet, turns=3), "its turns are counted")
    assert spent["cost_usd"] > 0 and spent["usage"]["output_tokens"] > 0, spent["usage"]


def _spent(fleet: Fleet, turns: int) -> Any:
    told = fleet.json("status", "clerk")
    return told if (told["usage"] or {}).get("turns") == turns else None


def _state(fleet: Fleet, message: str) -> str:
    (recipient,) = fleet.json("receipt", message)["recipients"]
    state: str = recipient["state"]
    return state


def _last(path: Path) -> int | None:
    text = path.read_text() if path.exists() else ""
    return int(text.split()[-1]) if text.endswith("\n") else None
