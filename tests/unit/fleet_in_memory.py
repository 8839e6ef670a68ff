"""A whole fleet on a turned clock: the real supervisor, runners, ledger and events, on a host and a disk in memory.

A `World` is what outlives a daemon: the clock, the host with its programs, the disk. A `Daemon` is one run of it. It
reaches host and disk only through `Hands`, so it can be killed at any touch: from then on nothing of it does anything,
and nobody tells it anything. The next daemon opens on what is there.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fleet.control import Answer, Operator
from fleet.errors import LaunchError, StorageFull
from fleet.events import EVENTS_MIGRATIONS, Events
from fleet.ledger import LEDGER_MIGRATIONS, Ledger, Record
from fleet.manifests.model import AgentSpec
from fleet.runner import Runner
from fleet.settings import Places, Settings
from fleet.supervisor import Supervisor
from fleet.terms import Handle, HookEvent, LaunchPlan, Phase, Ran
from fleet.testing import MemoryRuntime, Pane, TurnedClock

T = TypeVar("T")

SCREENS = Path(__file__).parents[1] / "screens" / "claude-code-2.1.329"
VERSION = "2.1.329"
COUNTED = frozenset({"save", "remove", "set_note", "launch", "end", "purge", "run", "put", "type"})
"""Touches that change something, or that a launch waits for: a daemon is killed at each of them."""


async def at_rest() -> None:
    """Let every task run until it waits for something else than its turn: nothing of this world comes from a thread or
    a socket, so that is over once nobody is ready."""
    ready = getattr(asyncio.get_running_loop(), "_ready", True)
    for _ in range(50):
        await asyncio.sleep(0)
        if not ready:
            return


class AtOnce(ThreadPoolExecutor):
    """Runs what is meant for a thread where it is asked, so that nothing depends on how threads are scheduled."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
            # Whatever it raises belongs to whoever waits for the result.
        except Exception as error:  # noqa: BLE001
            done.set_exception(error)
        return done


class Disk:
    """The database in memory: the real tables, answered at once. It can be full."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.row_factory = sqlite3.Row
        self.full = False
        self.slow: asyncio.Event | None = None
        """While it is not set, nothing that is asked to be written is answered."""
        for migrations in (EVENTS_MIGRATIONS, LEDGER_MIGRATIONS):
            for step in migrations.steps:
                assert isinstance(step, str)
                self.connection.executescript(step)

    def write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        if self.full:
            raise StorageFull
        with self.connection:
            return fn(self.connection)

    def record(self, name: str) -> Record | None:
        """What is written down of an agent."""
        kept = Ledger(_Reader(self)).load()  # type: ignore[arg-type]
        return next((record for record in kept if record.name == name), None)

    def events(self, agent: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """Name and payload of the stored events of a type, oldest first."""
        rows = self.connection.execute(
            "SELECT name, payload FROM events WHERE agent = ? AND type = ? ORDER BY id", (agent, kind)
        )
        return [(row["name"], json.loads(row["payload"])) for row in rows]


class _Reader:
    """A disk that is only read, whoever lives."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def read_now(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        return fn(self._disk.connection)


class Machine(MemoryRuntime):
    """The host: it has folders, answers the few commands that a launch asks, and notes what must never be."""

    def __init__(self, clock: TurnedClock, disk: Disk) -> None:
        super().__init__(clock)
        self.disk = disk
        self.pids = itertools.count(10_000_000)  # no process of this machine has such a number
        self.folders |= {"/work", "/home/u"}
        self.broken: list[str] = []
        """What must never be, and was."""
        self.ran: list[tuple[str, ...]] = []
        self.commands: dict[str, Ran] = {}
        """What a command answers, by its first word."""
        self.commanded: dict[str, Callable[[], Awaitable[None]]] = {}
        """What is waited for before a command answers."""

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        written = self.disk.record(plan.agent)
        if written is None or written.handle != handle or written.life.phase not in (Phase.STARTING, Phase.STOPPING):
            self.broken.append(f"{handle.generation} was launched and not written down first")
        if any(p.handle != handle for p in self.living(plan.agent)):
            self.broken.append(f"{handle.generation} was launched beside an older one")
        await super().launch(plan, handle)

    async def run(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str, timeout: float, stdin: bytes = b""
    ) -> Ran:
        self._reach()
        self.ran.append(tuple(argv))
        if wait := self.commanded.get(argv[0]):
            await wait()
        if argv[0] == "mkdir":
            self.folders.add(argv[-1])
        elif argv[0] == "pwd":
            if cwd not in self.folders:
                raise LaunchError(f"the folder {cwd} does not exist")
            return Ran(0, f"{cwd}\n".encode(), b"")
        elif argv[-1] == "--version":
            return Ran(0, f"{VERSION} (Claude Code)\n".encode(), b"")
        return self.commands.get(argv[0], Ran(0, b"", b""))


class Hands:
    """What one daemon reaches the world with. At its last touch it is killed: before it is done, or right after."""

    def __init__(self, last: int | None = None, *, after: bool = False) -> None:
        self.last, self.after = last, after
        self.touches: list[str] = []
        self.dead = False
        self.buried = asyncio.Event()

    async def living(self) -> None:
        """A killed daemon never comes back from here."""
        if self.dead and not self.buried.is_set():
            await self.buried.wait()
            raise asyncio.CancelledError

    async def touch(self, what: str, doing: Callable[[], Awaitable[T]]) -> T:
        await self.living()
        is_last = False
        if what in COUNTED:
            self.touches.append(what)
            is_last = len(self.touches) == self.last
        self.dead = self.dead or (is_last and not self.after)
        await asyncio.sleep(0)
        await self.living()
        result = await doing()
        self.dead = self.dead or is_last
        await asyncio.sleep(0)
        await self.living()
        return result

    def hears(self, callback: Callable[..., None]) -> Callable[..., None]:
        """The callback, for as long as the daemon lives."""
        return lambda *told: None if self.dead else callback(*told)


class HeldHost:
    """The host in a daemon's hands."""

    def __init__(self, host: Machine, hands: Hands) -> None:
        self._host, self._hands = host, hands

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._host, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *args, **kwargs: self._hands.touch(name, partial(found, *args, **kwargs))

    def watch(self, handle: Handle, on_look: Callable[..., None]) -> None:
        self._host.watch(handle, self._hands.hears(on_look))

    def on_host(self, callback: Callable[..., None]) -> None:
        self._host.on_host(self._hands.hears(callback))

    def watch_folder(self, folder: str, on_change: Callable[[str], None]) -> Callable[[], None]:
        return self._host.watch_folder(folder, self._hands.hears(on_change))

    async def close(self) -> None:
        """A daemon that leaves takes no agent with it."""


class HeldDisk:
    """The disk in a daemon's hands."""

    def __init__(self, disk: Disk, hands: Hands) -> None:
        self._disk, self._hands = disk, hands

    async def write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        await self._hands.living()
        await asyncio.sleep(0)
        result = self._disk.write(fn)
        if self._disk.slow is not None:
            await self._disk.slow.wait()
        return result

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        await self._hands.living()
        return fn(self._disk.connection)

    def read_now(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        return fn(self._disk.connection)


class HeldLedger(Ledger):
    """The ledger in a daemon's hands."""

    def __init__(self, disk: HeldDisk, hands: Hands) -> None:
        super().__init__(disk)  # type: ignore[arg-type]
        self._hands = hands

    async def save(self, record: Record) -> None:
        await self._hands.touch("save", partial(super().save, record))

    async def remove(self, name: str) -> None:
        await self._hands.touch("remove", partial(super().remove, name))

    async def set_note(self, key: str, value: str) -> None:
        await self._hands.touch("set_note", partial(super().set_note, key, value))


class HeldClock:
    """The clock, as one daemon sees it."""

    def __init__(self, clock: TurnedClock, hands: Hands) -> None:
        self._clock, self._hands = clock, hands

    def now(self) -> float:
        return self._clock.now()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        await self._hands.living()


class Unmeasured(Supervisor):
    """What this machine's processes cost says nothing about agents in memory."""

    async def _measure(self) -> None: ...


class Daemon:
    """One run of the daemon."""

    def __init__(self, world: World, hands: Hands) -> None:
        self.world, self.hands = world, hands
        disk = HeldDisk(world.disk, hands)
        self.supervisor = Unmeasured(
            world.settings,
            world.places,
            HeldClock(world.clock, hands),
            HeldLedger(disk, hands),
            Events(disk),  # type: ignore[arg-type]
            HeldHost(world.host, hands),  # type: ignore[arg-type]
        )
        self.operator = Operator(self.supervisor, lambda: None)

    def __getitem__(self, name: str) -> Runner:
        return self.supervisor.runners[name]

    def kill(self) -> None:
        """`kill -9`."""
        self.hands.dead = True

    async def start(self, *specs: AgentSpec, env: Mapping[str, str] | None = None, **how: Any) -> None:
        """A person starts them; returns once that is under way."""
        runners = []
        for spec in specs:
            environment = await self.supervisor.environment(spec, env or {"HOME": "/home/u", "PATH": "/bin"})
            runners.append(await self.supervisor.declare(spec, environment))
        await self.supervisor.start(runners, **how)
        await at_rest()

    async def verb(self, verb: str, **args: Any) -> Answer:
        """What the command line asks."""

        async def progress(told: Mapping[str, Any]) -> None:
            assert told

        return await self.operator.do(verb, {"wait": False, "cwd": "/", **args}, progress)

    async def hook(self, name: str, agent: str = "web", **fields: Any) -> None:
        """One of the program's hooks tells something. By default it is the agent's own program that does."""
        runner, pane = self[agent], self.world.host.pane(agent)
        payload = {"session_id": fields.pop("session_id", runner.record.session_id), **fields.pop("payload", {})}
        event = HookEvent(
            key=f"{agent}/{next(self.world.keys)}",
            agent=agent,
            name=name,
            at=self.world.clock.now(),
            generation=pane.handle.generation,
            pid=pane.pid,
            payload=payload,
        )
        await runner.senses.on_hook(replace(event, **fields))
        await at_rest()


class World:
    """What is there whether a daemon runs or not."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        asyncio.get_running_loop().set_default_executor(AtOnce())
        self.clock = TurnedClock(rest=at_rest)
        self.disk = Disk()
        self.host = Machine(self.clock, self.disk)
        self.places = Places(folder / "config", folder / "state", folder / "run")
        self.settings = Settings(**settings)
        self.keys = itertools.count()
        self.daemons: list[Daemon] = []
        self.claude = folder / "claude"
        self.claude.write_text("")
        self.claude.chmod(0o700)
        self.host.programs |= {"stay": stay, str(self.claude): stay}
        self.places.state.mkdir(mode=0o700)

    async def daemon(self, last: int | None = None, *, after: bool = False) -> Daemon:
        """A daemon that is open, or was killed while it opened."""
        daemon = Daemon(self, Hands(last, after=after))
        self.daemons.append(daemon)
        opening = asyncio.ensure_future(daemon.supervisor.open())
        while not opening.done() and not daemon.hands.dead:  # noqa: ASYNC110
            await asyncio.sleep(0)
        if opening.done():
            opening.result()
        await at_rest()
        return daemon

    async def close(self) -> None:
        """Nothing goes on, and nothing was that must never be."""
        for daemon in self.daemons:
            daemon.hands.buried.set()
            await daemon.supervisor.close()
        await self.host.close()
        assert self.host.broken == []

    def shell(self, name: str = "web", **fields: Any) -> AgentSpec:
        """An agent of any program, which is taken for started once it has lived for a second."""
        return AgentSpec(**{"name": name, "harness": "shell", "command": ("stay",), "workdir": "/work", **fields})

    def claude_code(self, name: str = "web", **fields: Any) -> AgentSpec:
        """A Claude Code agent, whose screens the test draws."""
        return AgentSpec(**{"name": name, "command": (str(self.claude),), "workdir": "/work", **fields})


class Faulty:
    """A harness with a fault of ours in some of its methods."""

    def __init__(self, harness: Any, *methods: str) -> None:
        self._harness, self._methods = harness, methods

    def __getattr__(self, name: str) -> Any:
        if name in self._methods:
            raise ZeroDivisionError("a fault of ours")
        return getattr(self._harness, name)


async def stay(pane: Pane) -> int:
    """A program that goes on until it is ended."""
    await asyncio.get_running_loop().create_future()
    return 0


def draw(pane: Pane, state: str) -> None:
    """Show a captured screen of the real program."""
    index = (json.loads(line) for line in (SCREENS / "index.jsonl").read_text().splitlines())
    entry = next(e for e in index if e["state"] == state and e["size"] == "120x40")
    text = (SCREENS / entry["file"]).read_text()
    column, row = map(int, entry["cursor"].split(","))
    pane.screen = replace(pane.screen, cursor=(column, row), alternate=entry["alternate_screen"])
    ansi = (SCREENS / entry["file"]).with_suffix(".ansi").read_text()
    pane.show(text, title=entry["title"], ansi=ansi)
