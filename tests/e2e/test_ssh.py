"""Agents on another machine through the installed `fleet`: a real sshd on loopback, a wire to it that can be cut."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.fleets import Fleet, alive, kill
from tests.homes import Home
from tests.sshd import There, needs_sshd

pytestmark = [pytest.mark.real, needs_sshd]

FOREVER = "while :; do sleep 1; done"
QUICK = {"policy": "on-failure", "backoff": {"initial": 0.2, "max": 0.4}}


@pytest.fixture
def there(home: Home) -> Iterator[There]:
    made = There(home)
    yield made
    made.heal()
    made.close()


@pytest.fixture
def fleet(there: There, fleet_home: Home) -> Iterator[Fleet]:
    yield Fleet(fleet_home)
    there.heal()


def away(fleet: Fleet, name: str, script: str = FOREVER, **spec: Any) -> str:
    """The manifest of an agent that runs a line of sh there."""
    return fleet.shell(name, script, **({"remote": {"host": "there"}} | spec))


def test_an_agent_on_another_machine_is_started_seen_and_stopped_as_one_here(fleet: Fleet, there: There) -> None:
    told = fleet.json("start", away(fleet, "web", 'echo "home $HOME"; ' + FOREVER))
    assert [(a["name"], a["outcome"], a["phase"]) for a in told["agents"]] == [("web", "started", "running")]
    status = fleet.wait("web", phase="running", pane_state="idle_prompt")
    assert alive(status["pid"]) and status["workdir"] == f"{there.folder}/workspaces/web"
    assert f"home {there.user_home}" in status["pane_text"]
    assert f"home {there.user_home}" in fleet.run("logs", "web")
    opened = shlex.split(fleet.run("attach", "web", "--print"))
    assert (
        opened[:1] == ["ssh"] and opened[-3:-1] == ["there", "--"] and f"{there.folder}/run/tmux-0.sock" in opened[-1]
    )
    fleet.run("stop", "web")
    assert not alive(status["pid"]) and fleet.status("web")["phase"] == "stopped"


def test_a_program_that_dies_there_is_restarted_by_its_policy(fleet: Fleet, there: There) -> None:
    fleet.run("start", away(fleet, "web", restart=QUICK))
    before = fleet.status("web")["pid"]
    kill(before)
    status = fleet.wait("web", phase="running", restarts=1)
    assert status["pid"] != before and alive(status["pid"])
    exits = fleet.json("events", "--agent", "web", "--type", "exit")["events"]
    assert [e["payload"]["exit_status"] for e in exits] == [128 + signal.SIGKILL]


def test_a_killed_daemon_takes_its_agents_there_up_again(fleet: Fleet, there: There) -> None:
    fleet.run("start", away(fleet, "web"))
    before = fleet.status("web")
    kill(fleet.daemon_pid())
    fleet.answers_again()
    after = fleet.wait("web", phase="running", pid=before["pid"])
    assert after["generation"] == before["generation"] and after["restarts"] == 0


def test_a_cut_link_is_told_and_is_no_death(fleet: Fleet, there: There) -> None:
    fleet.run("start", away(fleet, "web"), fleet.shell("here", FOREVER))
    before = fleet.status("web")
    there.cut()
    lost = fleet.wait("web", phase="unverifiable")
    assert lost["reason"] == "HostUnreachable" and "there" in lost["message"]
    assert fleet.status("here")["phase"] == "running"
    assert any("there" in warning for warning in fleet.json_warnings("status"))
    there.heal()
    after = fleet.wait("web", phase="running")
    assert (after["pid"], after["generation"], after["restarts"]) == (before["pid"], before["generation"], 0)
