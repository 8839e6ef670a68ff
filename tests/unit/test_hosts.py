"""Which host an agent's next launch is on, and which of several takes it."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from fleet.errors import HostUnreachable, Unauthenticated
from fleet.hosts import Hosts, use_ssh_agent_of, ways
from fleet.manifests.model import AgentSpec, Remote
from fleet.runtimes.base import Runtime
from fleet.runtimes.ssh_hosts import Way
from fleet.terms import Handle
from fleet.testing import MemoryRuntime, TurnedClock


class Far:
    """Hosts of one kind, some of which answer."""

    def __init__(self, **answers: Exception | None) -> None:
        self.answers = answers
        self.made: dict[str, MemoryRuntime] = {}
        self.opened_: list[str] = []

    def choices(self, spec: AgentSpec) -> tuple[str, ...]:
        return spec.remote.choices if spec.remote else ()

    def name(self, host: str) -> str:
        return host

    def known(self, handle: Handle) -> Runtime:
        return self.made.setdefault(handle.host, MemoryRuntime(TurnedClock()))

    async def opened(self, host: str, spec: AgentSpec) -> Runtime:
        await asyncio.sleep(0)
        self.opened_.append(host)
        error = self.answers.get(host)
        if error is not None:
            raise error
        return self.made.setdefault(host, MemoryRuntime(TurnedClock()))


def spec(*hosts: str, **more: Any) -> AgentSpec:
    remote = Remote(host=hosts) if hosts else None
    return AgentSpec(name="web", harness="shell", command=("true",), remote=remote, **more)


def handle(host: str, runtime: str = "ssh") -> Handle:
    return Handle("web", "web.1.0", runtime, "tmux", "s", "web", "/f/agents/web/launch/web.1.0", host)


def silent(host: str) -> HostUnreachable:
    return HostUnreachable(f"{host}: no answer")


@pytest.fixture
def here() -> MemoryRuntime:
    return MemoryRuntime(TurnedClock())


async def test_an_agent_without_remote_is_here(here: MemoryRuntime) -> None:
    hosts = Hosts(here, {"ssh": Far()})
    await hosts.reach(spec(), None)
    assert hosts.next(spec(), None) is here and hosts.of(None) is here and hosts.of(handle("", "local")) is here


async def test_the_first_host_that_answers_takes_it_and_then_it_stays(here: MemoryRuntime) -> None:
    far = Far(a=silent("a"))
    hosts = Hosts(here, {"ssh": far})
    await hosts.reach(spec("a", "b", "c"), None)
    assert hosts.next(spec("a", "b", "c"), None) is far.made["b"]
    far.answers = {"b": silent("b")}
    await hosts.reach(spec("a", "b", "c"), handle("b"))
    assert hosts.next(spec("a", "b", "c"), handle("b")) is far.made["b"] is hosts.of(handle("b"))


async def test_agents_that_start_at_once_share_one_opening_of_their_host(here: MemoryRuntime) -> None:
    far = Far()
    hosts = Hosts(here, {"ssh": far})
    await asyncio.gather(*(hosts.reach(spec("a").model_copy(update={"name": name}), None) for name in ("x", "y", "z")))
    assert far.opened_ == ["a"]


async def test_a_manifest_that_names_other_hosts_moves_the_next_launch(here: MemoryRuntime) -> None:
    far = Far()
    hosts = Hosts(here, {"ssh": far})
    await hosts.reach(spec("c"), handle("b"))
    assert hosts.next(spec("c"), handle("b")) is far.made["c"] and hosts.of(handle("b")) is far.made["b"]


async def test_a_launch_of_an_earlier_daemon_is_found_though_its_host_does_not_answer(here: MemoryRuntime) -> None:
    far = Far(a=silent("a"))
    assert Hosts(here, {"ssh": far}).of(handle("a")) is far.made["a"]


async def test_where_no_host_answers_every_reason_is_told(here: MemoryRuntime) -> None:
    refused = Unauthenticated("b: no key", hint="Add it.")
    hosts = Hosts(here, {"ssh": Far(a=silent("a"), b=refused)})
    with pytest.raises(HostUnreachable) as said:
        await hosts.reach(spec("a", "b"), None)
    assert str(said.value) == "a: no answer; b: no key" and said.value.hint == "Add it."
    assert not isinstance(said.value, Unauthenticated), "one of them may answer without a person"
    with pytest.raises(Unauthenticated):
        await hosts.reach(spec("b"), None)
    with pytest.raises(HostUnreachable):
        hosts.next(spec("a", "b"), None)


async def test_who_listens_hears_of_hosts_that_come_later(here: MemoryRuntime) -> None:
    far, told = Far(), list[tuple[Runtime, str | None]]()
    hosts = Hosts(here, {"ssh": far})
    hosts.on_host(lambda runtime, reason: told.append((runtime, reason)))
    await hosts.reach(spec("a"), None)
    far.made["a"].cut()
    far.made["a"].heal()
    assert [(runtime is far.made["a"], reason is None) for runtime, reason in told] == [(True, False), (True, True)]


@pytest.mark.parametrize("way", [Way("mba"), Way("::1", "me", 2222, "/home/me/a key"), Way("a", port=22)])
def test_the_way_to_a_host_is_kept_in_one_line(way: Way) -> None:
    assert Way.parse(str(way)) == way


def test_the_usual_port_leaves_the_port_to_ssh_config() -> None:
    assert ways(Remote(host=("a", "b"), user="me")) == [Way("a", "me"), Way("b", "me")]
    assert ways(Remote(host="a", port=2222)) == [Way("a", None, 2222)]


def test_keys_are_asked_of_the_agent_of_whoever_started_something_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "of the daemon's start")
    use_ssh_agent_of({})
    use_ssh_agent_of({"SSH_AUTH_SOCK": str(tmp_path / "ended")})
    assert os.environ["SSH_AUTH_SOCK"] == "of the daemon's start"
    with socket.socket(socket.AF_UNIX) as agent:
        monkeypatch.chdir(tmp_path)
        agent.bind("agent")
        use_ssh_agent_of({"SSH_AUTH_SOCK": str(tmp_path / "agent")})
    assert os.environ["SSH_AUTH_SOCK"] == str(tmp_path / "agent")
