"""For tests of what runs on fleet, and of fleet itself: a clock you turn, and a host in memory.

`MemoryRuntime` keeps the contract of `fleet.runtimes.base.Runtime` and is put through the same contract tests as
the real hosts (tests/contract). Programs on it are coroutines:

    async def greeter(pane: Pane) -> int:
        pane.print("hello")
        while (line := await pane.read_line()) != "bye":
            pane.print(f"you said {line}")
        return 0

    clock = TurnedClock()
    host = MemoryRuntime(clock, programs={"greeter": greeter})

A test then breaks it: `host.pane("web").kill()`, `host.lose_multiplexer()`, `host.cut("link down")`.

Headless agents of the hub are coroutines too, in this process and without a supervisor:

    async def clerk(message: Message) -> str:
        return f"you said {message.text}"

    agents = ScriptedAgents({"clerk": clerk})
    await agents.enroll(exchange)
    courier = Courier(exchange, agents, clock)
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from fleet.clock import Clock
from fleet.errors import HostUnreachable, LaunchError, TimedOut
from fleet.hub.delivery import Agent, HandedOver, Seen, Ways
from fleet.hub.exchange import Exchange
from fleet.hub.guardrails import Speaker
from fleet.hub.message import Message, Way
from fleet.hub.reach import TurnEnd, Typing
from fleet.hub.registry import Card
from fleet.runtimes.base import Capabilities, Ended, OnHost, OnLook
from fleet.terms import Activity, File, Handle, LaunchPlan, Look, Phase, Process, Ran, Screen

SIGKILLED = 137
SIGTERMED = 143


class TurnedClock:
    """A clock that stands still until it is turned."""

    def __init__(self, now: float = 1_000_000.0, rest: Callable[[], Awaitable[None]] | None = None) -> None:
        """`rest`: how to wait until everybody has done what there is to do now; by default as `settle` does."""
        self._now = now
        self._rest = settle if rest is None else rest
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._count), sleeper))
        await sleeper

    async def turn(self, seconds: float) -> None:
        """Let this much time pass. Whoever wakes in it wakes in order, at its own time, and does what it does."""
        until = self._now + seconds
        await self._rest()
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, sleeper = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not sleeper.done():
                sleeper.set_result(None)
                await self._rest()
        self._now = until
        await self._rest()

    @property
    def next_due(self) -> float | None:
        """When the next sleeper wakes."""
        return min((due for due, _, sleeper in self._sleepers if not sleeper.done()), default=None)


async def settle(rounds: int = 50) -> None:
    """Let every task run until it waits for something else than its turn."""
    for _ in range(rounds):
        await asyncio.sleep(0)


Script = Callable[["Pane"], Coroutine[None, None, int | None]]
"""A program: it returns its exit status (`None` is 0)."""


@dataclass(slots=True)
class _Child:
    """A process that a program has started."""

    pid: int
    ignores_term: bool


class Pane:
    """One launch on a host in memory, as its program and the test see it."""

    def __init__(self, host: MemoryRuntime, handle: Handle, plan: LaunchPlan, pid: int) -> None:
        self.host = host
        self.handle = handle
        self.plan = plan
        self.pid = pid
        self.alive = True
        self.open = True
        """Whether its pane is there."""
        self.exit_status: int | None = None
        self.lost = False
        self.ignores_term = False
        self.typed: list[str] = []
        """Every text and key that was typed into it."""
        self.children: list[_Child] = []
        self._lines: list[str] = []
        self._input = ""
        self._given: deque[str] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self.screen = Screen(text="", ansi="", width=plan.width, height=plan.height, cursor=(0, 0), alternate=False)
        self.task: asyncio.Task[None] | None = None

    # -- for the program ---------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        return self.host.clock

    def print(self, text: str) -> None:
        """Print lines below the ones that are there."""
        self._lines += text.split("\n")
        shown = self._lines[-self.plan.height :]
        self.host.logs.setdefault(self.handle.agent, []).extend(text.split("\n"))
        self.show("\n".join(shown))

    def show(self, text: str, *, title: str | None = None, ansi: str | None = None) -> None:
        """Draw the whole screen."""
        self.screen = replace(self.screen, text=text, ansi=text if ansi is None else ansi, title=title)
        self.host.announce(self)

    async def read_line(self) -> str:
        """Wait for a line that is typed and sent with Enter."""
        while not self._given:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._given.popleft()

    def spawn(self, *, ignores_term: bool = False) -> int:
        """Start a child process, which may outlive the program. Its pid."""
        child = _Child(next(self.host.pids), ignores_term)
        self.children.append(child)
        return child.pid

    # -- for the test --------------------------------------------------------------------------------------------

    def exit(self, status: int | None = 0) -> None:
        """The program ends. `None`: nobody could note how, its launcher was killed too."""
        if not self.alive:
            return
        self.alive = False
        self.exit_status = status
        self.screen = replace(self.screen, dead=True, exit_status=status)
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        self.host.announce(self)

    def kill(self) -> None:
        """`kill -9` of the program."""
        self.exit(SIGKILLED)

    def kill_launcher(self) -> None:
        """`kill -9` of the launcher; the program lives on as a leftover of its generation."""
        if self.alive:
            self.children.append(_Child(self.pid, self.ignores_term))
            self.exit(None)

    # -- for the host --------------------------------------------------------------------------------------------

    def take(self, key: str, *, literal: bool) -> None:
        self.typed.append(key)
        if not literal and key == "Enter":
            self._given.append(self._input)
            self._input = ""
        elif not literal and key == "C-c":
            self.exit(130)
        elif literal:
            self._input += key
        else:
            return
        if self._waiting is not None and not self._waiting.done() and self._given:
            self._waiting.set_result(None)

    def end_all(self) -> tuple[int, ...]:
        """SIGTERM, then SIGKILL, to the program and all it started; the pids that needed SIGKILL."""
        killed = [child.pid for child in self.children if child.ignores_term]
        self.children.clear()
        if self.alive:
            if self.ignores_term:
                killed.append(self.pid)
            self.exit(SIGKILLED if self.ignores_term else SIGTERMED)
        return tuple(killed)


class MemoryRuntime:
    """A host in memory, with the same contract as a real one."""

    name = "memory"
    far = None

    def __init__(
        self,
        clock: Clock,
        *,
        programs: Mapping[str, Script] | None = None,
        run: Callable[[Sequence[str]], Ran | Awaitable[Ran]] | None = None,
        root: str = "/memory",
    ) -> None:
        self.clock = clock
        self.programs: dict[str, Script] = dict(programs or {})
        """What a launch runs, by the first word of its argv."""
        self.files: dict[str, bytes] = {}
        self.modes: dict[str, int] = {}
        self.folders: set[str] = {"/"}
        """Folders that exist though no file stands in them."""
        self.logs: dict[str, list[str]] = {}
        self.pids = itertools.count(1000)
        self.launches: list[Handle] = []
        """Every launch that happened, in order."""
        self.refusals: dict[str, str] = {}
        """Agents whose launch the host refuses, and why."""
        self.reason: str | None = None
        """Why the host cannot be reached just now."""
        self.blind: str | None = None
        """Why no pane can be seen or typed into there just now, though it does what it is told."""
        self._run = run
        self._root = root
        self._panes: dict[str, Pane] = {}
        self._watched: dict[str, tuple[Handle, OnLook]] = {}
        self._on_host: list[OnHost] = []
        self._folder_watches: dict[str, list[Callable[[str], None]]] = {}
        self._screens: dict[str, str] = {}

    # -- for the test ------------------------------------------------------------------------------------------------

    def pane(self, agent: str) -> Pane:
        """The latest launch of an agent."""
        return next(pane for pane in reversed(self._panes.values()) if pane.handle.agent == agent)

    def living(self, agent: str) -> list[Pane]:
        """The launches of an agent of which anything lives."""
        return [p for p in self._panes.values() if p.handle.agent == agent and (p.alive or p.children)]

    def cut(self, reason: str = "the link is down") -> None:
        """From now on the host cannot be reached; what runs there goes on."""
        self.reason = reason
        for callback in self._on_host:
            callback(reason)

    def heal(self) -> None:
        """The host can be reached again: what happened meanwhile is seen now."""
        self.reason = None
        for callback in self._on_host:
            callback(None)
        for generation in list(self._watched):
            self.announce(self._panes[generation])

    def lose_multiplexer(self) -> None:
        """The multiplexer's server is killed, and every program with it."""
        for pane in self._panes.values():
            if pane.open:
                pane.open = False
                pane.lost = True
                pane.exit(129)

    # -- the contract ------------------------------------------------------------------------------------------------

    def capabilities(self, multiplexer: str) -> Capabilities:
        return Capabilities(colours=True, cursor=True, title=True, alternate=True)

    def mint(self, agent: str, generation: str, multiplexer: str) -> Handle:
        folder = f"{self._root}/agents/{agent}/launch/{generation}"
        return Handle(agent, generation, self.name, multiplexer, f"{self._root}/memory.sock", agent, folder)

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        self._reach()
        if handle.generation in self._panes:
            return
        if (why := self.refusals.get(plan.agent)) is not None:
            raise LaunchError(why)
        if not self._is_folder(plan.cwd):
            raise LaunchError(f"the folder {plan.cwd} does not exist")
        script = self.programs.get(plan.argv[0])
        if script is None:
            raise LaunchError(f"the program {plan.argv[0]} is not on the agent's PATH")
        if any(pane.open and pane.alive and pane.handle.agent == plan.agent for pane in self._panes.values()):
            raise LaunchError(f"an older launch of {plan.agent} still runs in its pane")
        await self.put(plan.files)
        pane = Pane(self, handle, plan, next(self.pids))
        self._panes[handle.generation] = pane
        self.launches.append(handle)
        pane.task = asyncio.get_running_loop().create_task(self._play(pane, script), name=f"program of {plan.agent}")

    async def _play(self, pane: Pane, script: Script) -> None:
        status = await script(pane)
        pane.exit(status or 0)

    async def look(self, handle: Handle) -> Look:
        self._reach(self.blind)
        pane = self._panes.get(handle.generation)
        return Look(at=self.clock.now(), alive=False) if pane is None else self._look(pane)

    def _look(self, pane: Pane) -> Look:
        return Look(
            at=self.clock.now(),
            alive=pane.alive,
            program=Process(pane.pid, pane.pid),
            exit_status=pane.exit_status,
            screen=pane.screen if pane.open else None,
            multiplexer_lost=pane.lost,
            pane=f"%{pane.pid}" if pane.open else None,
        )

    def announce(self, pane: Pane) -> None:
        """The pane has changed: whoever watches it hears of it, when the host can be reached."""
        if not pane.alive and pane.handle.generation not in self._screens:
            self._screens[pane.handle.generation] = pane.screen.text
        asyncio.get_running_loop().call_soon(self._tell, pane)

    def _tell(self, pane: Pane) -> None:
        watched = self._watched.get(pane.handle.generation)
        if watched is not None and self.reason is None:
            handle, on_look = watched
            on_look(handle, self._look(pane))

    def watch(self, handle: Handle, on_look: OnLook) -> None:
        self._watched[handle.generation] = (handle, on_look)
        pane = self._panes.get(handle.generation)
        if pane is not None:
            self.announce(pane)
        else:
            asyncio.get_running_loop().call_soon(on_look, handle, Look(at=self.clock.now(), alive=False))

    def unwatch(self, handle: Handle) -> None:
        self._watched.pop(handle.generation, None)

    def on_host(self, callback: OnHost) -> None:
        self._on_host.append(callback)

    def seen_at(self, handle: Handle) -> float | None:
        return self.clock.now() if handle.generation in self._watched and self.reason is None else None

    async def type(self, handle: Handle, keys: Sequence[str], *, literal: bool) -> None:
        self._reach(self.blind)
        pane = self._panes.get(handle.generation)
        if pane is None or not pane.open:
            raise HostUnreachable("the agent has no pane")
        for key in keys:
            if pane.alive:
                pane.take(key, literal=literal)

    async def end(self, handle: Handle, *, grace: float) -> Ended:
        self._reach()
        pane = self._panes.get(handle.generation)
        if pane is None:
            return Ended(None)
        killed = pane.end_all()
        if killed:
            await self.clock.sleep(grace)
        pane.open = False
        return Ended(pane.exit_status, killed)

    async def purge(self, agent: str, *, keep: str | None = None, grace: float = 0.5) -> tuple[int, ...]:
        self._reach()
        pids: list[int] = []
        for generation, pane in self._panes.items():
            if pane.handle.agent == agent and generation != keep:
                pids += [pane.pid] * pane.alive + [child.pid for child in pane.children]
                pane.end_all()
                pane.open = False
        return tuple(sorted(set(pids)))

    async def cleanup(self, keep: Collection[str], *, dry_run: bool) -> list[str]:
        self._reach()
        words = []
        for generation, pane in list(self._panes.items()):
            if generation in keep:
                continue
            words.append(f"launch {generation}")
            if not dry_run:
                pane.end_all()
                pane.open = False
                del self._panes[generation]
        return words

    async def last_screen(self, handle: Handle) -> str | None:
        self._reach()
        return self._screens.get(handle.generation)

    async def log_lines(self, handle: Handle, count: int) -> list[str]:
        self._reach()
        return self.logs.get(handle.agent, [])[-count:]

    def attach_argv(self, handle: Handle, *, read_only: bool = False) -> list[str]:
        return ["true", *(["read-only"] if read_only else []), handle.session]

    async def run(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str, timeout: float, stdin: bytes = b""
    ) -> Ran:
        self._reach()
        if self._run is None:
            return Ran(0, b"", b"")
        answer = self._run(argv)
        if isinstance(answer, Ran):
            return answer
        work = asyncio.ensure_future(answer)
        limit = asyncio.ensure_future(self.clock.sleep(timeout))
        await asyncio.wait({work, limit}, return_when=asyncio.FIRST_COMPLETED)
        limit.cancel()
        if work.done():
            return work.result()
        work.cancel()
        raise TimedOut(f"{argv[0]} was not done within {timeout:g} s")

    async def put(self, files: Sequence[File]) -> None:
        self._reach()
        for file in files:
            self.files[file.path] = file.content
            self.modes[file.path] = file.mode
            self._changed(file.path)

    async def read(self, path: str, *, tail: int | None = None) -> bytes | None:
        self._reach()
        content = self.files.get(path)
        return content if content is None or tail is None else content[max(0, len(content) - tail) :]

    async def list(self, folder: str) -> list[str]:
        self._reach()
        below = folder.rstrip("/") + "/"
        return sorted({path[len(below) :].split("/")[0] for path in self.files if path.startswith(below)})

    def remove(self, path: str) -> None:
        """Remove a file, as a program on the host would."""
        del self.files[path]
        self._changed(path)

    def watch_folder(self, folder: str, on_change: Callable[[str], None]) -> Callable[[], None]:
        hearers = self._folder_watches.setdefault(folder.rstrip("/"), [])
        hearers.append(on_change)
        return lambda: hearers.remove(on_change) if on_change in hearers else None

    def _changed(self, path: str) -> None:
        place = PurePosixPath(path)
        for hearer in list(self._folder_watches.get(str(place.parent), ())):
            asyncio.get_running_loop().call_soon(hearer, place.name)

    async def dismiss(self) -> None:
        """There is no server to end."""

    async def close(self) -> None:
        self._watched.clear()
        tasks = [pane.task for pane in self._panes.values() if pane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_folder(self, path: str) -> bool:
        return path in self.folders or any(name.startswith(path.rstrip("/") + "/") for name in self.files)

    def _reach(self, also: str | None = None) -> None:
        if (why := self.reason or also) is not None:
            raise HostUnreachable(why)


# -- headless agents of the hub -------------------------------------------------------------------------------------

Answers = Callable[[Message], Awaitable["str | TurnEnd"]]
"""A headless agent's turn: what it answers to a message, or how else the turn ends."""


class ScriptedAgents:
    """Headless agents whose turns are coroutines of this process: a `hub.reach.Reach` without a supervisor.

    Each is up until `stop` is called for it, and again after `start`. What they were given is in `turns`, in order.
    """

    def __init__(self, answers: Mapping[str, Answers], *, max_parallel: int = 1) -> None:
        self.answers = dict(answers)
        self.max_parallel = max_parallel
        self.turns: list[tuple[str, Message, str]] = []
        """Agent, message and prompt of every turn that was begun."""
        self._running: dict[str, dict[str, asyncio.Task[str | TurnEnd]]] = {}
        self._down: set[str] = set()
        self._callbacks: list[Callable[[str], None]] = []

    async def enroll(self, exchange: Exchange, channels: Sequence[str] = (), **speaker: Any) -> None:
        """Make them members of the hub; `speaker`: what their manifests would let them do."""
        for name in self.answers:
            card = Card(name=name, harness="shell", supervised=True)
            await exchange.enroll(card, Speaker(name=name, **speaker), channels)

    def stop(self, name: str) -> None:
        """The agent goes down: its turns are over, its mail waits."""
        self._down.add(name)
        for task in self._running.get(name, {}).values():
            task.cancel()
        self._changed(name)

    def start(self, name: str) -> None:
        self._down.discard(name)
        self._changed(name)

    def _changed(self, name: str) -> None:
        for callback in self._callbacks:
            callback(name)

    # -- what the courier asks ---------------------------------------------------------------------------------

    def standing(self, name: str) -> Agent | None:
        if name not in self.answers:
            return None
        running = frozenset(self._running.get(name, ()))
        activity = Activity.WORKING if running else Activity.READY
        phase = Phase.STOPPED if name in self._down else Phase.RUNNING
        return Agent(name=name, phase=phase, activity=activity, turns=running)

    def ways(self, name: str) -> Ways:
        return Ways(typed=False, composer=False, turns=self.max_parallel)

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    async def turn(self, name: str, message: Message, text: str) -> TurnEnd:
        if name in self._down:
            return TurnEnd(ok=False, reason="offline", again=True)
        self.turns.append((name, message, text))
        running = self._running.setdefault(name, {})
        task = running[message.thread] = asyncio.ensure_future(self.answers[name](message))
        try:
            said = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():  # who waits has given up, not the turn
                task.cancel()
                raise
            return TurnEnd(ok=False, reason="interrupted", again=True)
        finally:
            running.pop(message.thread, None)
        return said if isinstance(said, TurnEnd) else TurnEnd(ok=True, text=said)

    async def stop_turn(self, name: str, thread: str) -> None:
        task = self._running.get(name, {}).get(thread)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # -- they have no pane and no box --------------------------------------------------------------------------

    async def put(self, name: str, key: str, text: str, way: Way) -> None:
        raise _headless(name)

    async def ring(self, name: str) -> None:
        raise _headless(name)

    async def withdraw(self, name: str, key: str) -> bool:
        return True

    def unheard(self, name: str) -> None:
        raise _headless(name)

    async def clear(self, name: str, key: str) -> None:
        """Nothing is kept of a turn."""

    async def type(self, name: str, text: str, may_submit: Callable[[Agent], bool]) -> Typing:
        return Typing.NOTHING

    def recall(self, name: str, text: str) -> None:
        raise _headless(name)

    async def enter(self, name: str, text: str) -> Typing:
        raise _headless(name)

    async def seen(
        self, name: str, key: str, handed: HandedOver, messages: Sequence[Message], since: float
    ) -> list[Seen]:
        return [Seen() for _ in messages]


def _headless(name: str) -> LaunchError:
    return LaunchError(f"{name} is headless: nothing is put into it")
