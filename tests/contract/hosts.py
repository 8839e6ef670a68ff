"""The hosts that the contract is tried on, and what a test may do to them."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from fleet import processes
from fleet.clock import SystemClock
from fleet.runtimes import files, launches
from fleet.runtimes.base import Runtime
from fleet.runtimes.local import LocalRuntime
from fleet.settings import Places, Settings
from fleet.terms import Handle, LaunchPlan, Look, Process
from fleet.testing import MemoryRuntime, Pane

PATIENCE = 60.0
"""Seconds a test waits for what must happen. Only a failing test waits so long."""
PATIENT = 20.0
"""Seconds a host may take to answer, so that a busy machine is not taken for a host that is away …"""
IMPATIENT = 1.0
"""… and one that a test has cut, so that it is soon noticed."""

PROGRAMS = {
    "greeter": r"""#!/bin/sh
echo hello
while read -r line; do
    case $line in
        bye) exit 0 ;;
        exit\ *) exit "${line#exit }" ;;
    esac
    printf 'you said %s\n' "$line"
done
""",
    "stubborn": """#!/bin/sh
trap '' TERM HUP
setsid sleep 600 &
echo ready
while :; do sleep 1; done
""",
    "talkative": """#!/bin/sh
n=0
while [ $n -lt 100 ]; do n=$((n + 1)); echo "line $n"; done
read -r line
""",
}


async def until(holds: Callable[[], object], what: str = "it") -> None:
    """Wait for what must happen."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen") from None


async def until_async(holds: Callable[[], Awaitable[object]], what: str = "it") -> None:
    """Wait for what must happen, where telling it takes a question to the host."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not await holds():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen") from None


class Looks:
    """What a runtime told of one launch."""

    def __init__(self) -> None:
        self.all: list[Look] = []

    def __call__(self, handle: Handle, look: Look) -> None:
        self.all.append(look)

    @property
    def text(self) -> str:
        """The screen as it was last seen."""
        return next((look.screen.text for look in reversed(self.all) if look.screen is not None), "")

    @property
    def deaths(self) -> list[Look]:
        return [look for look in self.all if not look.alive]

    async def show(self, text: str) -> None:
        await until(lambda: text in self.text, f"{text!r} on the screen")

    async def death(self) -> Look:
        await until(lambda: self.deaths, "a death")
        return self.deaths[0]


class Host(Protocol):
    """A runtime, and what happens to its host."""

    runtime: Runtime
    multiplexer: str
    folder: str
    """A folder that exists there."""

    def kill(self, handle: Handle) -> None:
        """kill -9 of the program."""

    def kill_launcher(self, handle: Handle) -> None: ...

    def lose_multiplexer(self) -> None: ...

    def cut(self) -> None:
        """The host or its multiplexer does not answer any more."""

    def heal(self) -> None: ...

    async def close(self) -> None: ...


class Kit:
    """A host under test, with short words for what tests do most."""

    def __init__(self, host: Host, lot: str | None = None) -> None:
        self.host = host
        self.runtime = host.runtime
        self._count = 0
        self._lot = lot or secrets.token_hex(4)
        """As in real marks: a purge finds processes by them, and other tests run on this machine."""

    def mint(self, agent: str) -> Handle:
        self._count += 1
        return self.runtime.mint(agent, f"{agent}.{self._count}.{self._lot}", self.host.multiplexer)

    def plan(self, agent: str, *argv: str, cwd: str | None = None) -> LaunchPlan:
        env = {"PATH": f"{self.host.folder}/bin:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        return LaunchPlan(agent=agent, argv=argv, cwd=cwd or self.host.folder, env=env)

    async def launch(self, agent: str, program: str = "greeter") -> Handle:
        handle = self.mint(agent)
        await self.runtime.launch(self.plan(agent, program), handle)
        return handle

    def watch(self, handle: Handle) -> Looks:
        looks = Looks()
        self.runtime.watch(handle, looks)
        return looks

    async def say(self, handle: Handle, text: str) -> None:
        await self.runtime.type(handle, [text], literal=True)
        await self.runtime.type(handle, ["Enter"], literal=False)


class MemoryHost:
    multiplexer = "tmux"
    folder = "/memory/work"

    def __init__(self) -> None:
        self.memory = MemoryRuntime(
            SystemClock(), programs={"greeter": greeter, "stubborn": stubborn, "talkative": talkative}
        )
        self.memory.folders.add(self.folder)
        self.runtime: Runtime = self.memory

    def kill(self, handle: Handle) -> None:
        self.memory.pane(handle.agent).kill()

    def kill_launcher(self, handle: Handle) -> None:
        self.memory.pane(handle.agent).kill_launcher()

    def lose_multiplexer(self) -> None:
        self.memory.lose_multiplexer()

    def cut(self) -> None:
        self.memory.cut()

    def heal(self) -> None:
        self.memory.heal()

    async def close(self) -> None:
        await self.memory.close()


async def greeter(pane: Pane) -> int:
    pane.print("hello")
    while (line := await pane.read_line()) != "bye":
        if line.startswith("exit "):
            return int(line[5:])
        pane.print(f"you said {line}")
    return 0


async def stubborn(pane: Pane) -> int:
    pane.ignores_term = True
    pane.spawn(ignores_term=True)
    pane.print("ready")
    while True:
        await pane.clock.sleep(1)


async def talkative(pane: Pane) -> int:
    for n in range(1, 101):
        pane.print(f"line {n}")
    await pane.read_line()
    return 0


class LocalHost:
    """This machine, with a fleet home, a multiplexer and programs of its own."""

    def __init__(self, home: Path, multiplexer: str = "tmux", settings: Settings | None = None) -> None:
        self.multiplexer = multiplexer
        self.folder = str(home / "work")
        self.places = Places.of({"FLEET_HOME": str(home / "fleet"), "HOME": str(home)})
        self.settings = settings or Settings(observe_timeout=PATIENT, observe_idle_interval=0.5)
        bin_ = Path(self.folder) / "bin"
        bin_.mkdir(parents=True, exist_ok=True)
        for name, text in PROGRAMS.items():
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        self.local = LocalRuntime(self.places, self.settings, SystemClock())
        self.runtime: Runtime = self.local

    def facts(self, handle: Handle) -> launches.Facts:
        return launches.facts(Path(handle.folder))

    def servers(self) -> list[Process]:
        """The multiplexer's servers that live."""
        noted = [processes.parse(files.read(path)) for path in (self.places.state / "multiplexers").glob("*")]
        noted += [
            processes.parse(files.read(path)) for path in (self.places.state / "agents").glob("*/launch/*/server")
        ]
        return sorted({server for server in noted if server is not None and processes.alive(server)}, key=str)

    def kill(self, handle: Handle) -> None:
        program = self.facts(handle).program
        assert program is not None and processes.send(program, signal.SIGKILL)

    def kill_launcher(self, handle: Handle) -> None:
        launcher = self.facts(handle).launcher
        assert launcher is not None and processes.send(launcher, signal.SIGKILL)

    def lose_multiplexer(self) -> None:
        self._signal(signal.SIGKILL)

    def cut(self) -> None:
        answers_within(self.settings, IMPATIENT)
        self._signal(signal.SIGSTOP)

    def heal(self) -> None:
        self._signal(signal.SIGCONT)
        answers_within(self.settings, PATIENT)

    def _signal(self, number: int) -> None:
        servers = self.servers()
        assert servers
        for server in servers:
            processes.send(server, number)

    async def close(self) -> None:
        """End everything that was started, the multiplexer's servers last."""
        for server in self.servers():
            processes.send(server, signal.SIGCONT)
        agents = self.places.state / "agents"
        for agent in files.names(agents):
            await self.runtime.purge(agent, grace=0.1)
        await self.runtime.close()
        for server in self.servers():
            processes.send(server, signal.SIGKILL)
        await until(lambda: not self.servers(), "the end of the multiplexer")


def answers_within(settings: Settings, seconds: float) -> None:
    """Have those who were given these settings wait so long for an answer from now on."""
    object.__setattr__(settings, "observe_timeout", seconds)


def bears(generation: str) -> list[int]:
    """The processes that bear a generation's mark."""
    return [p.pid for p, mark in processes.census()[1].items() if mark == generation]


def plan_for(host: LocalHost, agent: str, argv: Sequence[str], **env: str) -> LaunchPlan:
    path = f"{host.folder}/bin:{os.defpath}"
    return LaunchPlan(agent=agent, argv=tuple(argv), cwd=host.folder, env={"PATH": path, **env})
