"""One agent as fleet has it: its record, on the disk as it changes, and beside it the facts of its present launch.

What is done with an agent stands in the rooms around this one: `senses` takes in what it is seen and heard to do,
`starting` sees a launch through its start, `runner` leads its life. They meet here, and in the events that they `post`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fleet import lifecycle
from fleet.clock import Clock
from fleet.errors import HostUnreachable, StorageError
from fleet.harnesses import harness as find_harness
from fleet.harnesses.base import Harness
from fleet.headless import Standing
from fleet.health import judge
from fleet.health.answers import Step
from fleet.health.judge import Book
from fleet.hosts import Hosts
from fleet.known import Known
from fleet.ledger import Ledger, Record
from fleet.lifecycle import Life
from fleet.manifests.model import AgentSpec
from fleet.preparing import Admit, no_hub
from fleet.processes import Figures
from fleet.redact import redact
from fleet.runtimes.base import Runtime
from fleet.runtimes.headless import WithHeadless
from fleet.runtimes.turns import NONE
from fleet.settings import Places, Settings
from fleet.tasks import Tasks
from fleet.terms import Handle, Look, Phase, Process, Screen, Verdict

log = logging.getLogger(__name__)

UP = (Phase.STARTING, Phase.RUNNING)
STORAGE_RETRY = 1.0
"""Seconds until what could not be written down is tried again: nothing that was heard is dropped."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What every agent is given: the rooms below, and the supervisor's functions. A test's seams."""

    clock: Clock
    settings: Settings
    places: Places
    ledger: Ledger
    hosts: Hosts
    classify: Callable[[str, Screen, str | None], Verdict]
    """By harness name and program version."""
    startup_step: Callable[[str, Screen, frozenset[str], str | None], Step | None]
    """The next keys for a startup dialog that may be settled, by harness name and program version."""
    version: Callable[[Runtime, Harness, AgentSpec, Mapping[str, str], str], Awaitable[str | None]]
    """What the program on that host says of its version, in this environment and folder."""
    may_restart: Callable[[str, str | None], Awaitable[None]]
    """Waits until the fleet's brake lets one more automatic restart go; the second word is the restart's reason."""
    look_again: Callable[[Handle], Awaitable[Look]]
    """What a later look says of a launch whose death nothing explains."""
    record_event: Callable[[str, str, str, Mapping[str, Any]], None]
    """Agent, type, name, payload: into the event store."""
    storage: Callable[[StorageError | None], None]
    """The ledger could not be written, or could again."""
    changed: Callable[[str], None]
    """Something about the agent of that name is different now."""
    take_in: Callable[[str], Awaitable[None]]
    """Returns once what the agent's hooks have left in its spool so far has been heard, as far as it can be."""
    admit: Admit = no_hub


@dataclass(slots=True)
class Facts:
    """What is known of a launch beside the agent's state. Gathered as it comes, shown by `report.py`."""

    screen: Screen | None = None
    verdict: Verdict | None = None
    pane: str | None = None
    program: Process | None = None
    owner: int | None = None
    """The process whose word counts: the program itself, or what a wrapper has started as it."""
    status_line: Mapping[str, Any] = field(default_factory=dict)
    transcript: Any = None
    figures: Figures | None = None
    moved_at: float | None = None
    """When the pane last changed."""
    warnings: tuple[str, ...] = ()
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    argv: tuple[str, ...] = ()
    advice: str | None = None
    """What a person can do about a start that stands still."""
    start_used: float = 0.0
    """Seconds of the time that its start may take which have passed."""
    background_at: float | None = None
    """When it was last seen to begin, or to end, work in the background."""
    settling: str | None = None
    """The startup dialog that fleet itself is settling."""
    shown_since: float = 0.0
    """Since when the pane shows what it shows, by the rule that reads it; anew after fleet has pressed a key."""
    resumed: bool = False
    """This launch went on with a conversation."""
    session_seen: bool = False
    """Its own session was seen: it has started, once the launch is written down as made."""
    over: bool = False
    """Its end has been told."""
    unseen: str | None = None
    """Why it could not be seen the last time that it was looked for."""
    waiting: str | None = None
    """It is not there at the moment, and why: its job stands in a queue."""
    watched: bool = False
    """This daemon has seen it, and is told of what changes."""


class Agent:
    """One agent of this fleet."""

    def __init__(self, record: Record, parts: Parts) -> None:
        self.record = record
        self.parts = parts
        self.harness = find_harness(record.spec.harness)
        self.facts = Facts()
        self.known = Known(agree=parts.settings.ready_agree, stale=parts.settings.stale)
        self._inbox: asyncio.Queue[lifecycle.Event] = asyncio.Queue()
        self._writing = asyncio.Lock()
        """Held from reading the record to its being on the disk: what two of them change is in both."""
        self._tasks = Tasks(self._failed)

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def spec(self) -> AgentSpec:
        return self.record.spec

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that its launch was given as secrets: they are shown nowhere."""
        env = self.facts.env
        return tuple(env[name] for name, value in self.spec.env.items() if not isinstance(value, str) and name in env)

    @property
    def headless(self) -> bool:
        """Each message is a turn of its own. The launch says so, since the manifest may have changed."""
        return self.spec.mode == "headless" if self.handle is None else self.handle.multiplexer == NONE

    # -- how it stands ---------------------------------------------------------------------------------------------

    @property
    def life(self) -> Life:
        return self.record.life

    @property
    def started(self) -> bool:
        return self.life.phase is Phase.RUNNING or self.life.started_at is not None

    @property
    def handle(self) -> Handle | None:
        return self.record.handle

    def is_up(self, handle: Handle) -> bool:
        """Whether that launch is the present one, and up."""
        return self.handle == handle and self.life.phase in UP

    @property
    def runtime(self) -> Runtime:
        """Where its newest launch is."""
        return self.parts.hosts.of(self.record.handle)

    @property
    def ahead(self) -> float:
        """Seconds by which the clock of its host is ahead of ours."""
        far = self.runtime.far
        return far.ahead if far is not None else 0.0

    @property
    def swept(self) -> float | None:
        """When its pane was last found as it is known."""
        return self.runtime.seen_at(self.handle) if self.handle else None

    @property
    def book(self) -> Book:
        """The latest words of what it is doing."""
        return self.known.book(self.swept)

    @property
    def state(self) -> judge.State:
        """What it is doing."""
        return self.known.state(self.swept)

    @property
    def due(self) -> float | None:
        """When its senses are to `attend` to it, whatever is heard until then; `None` where it is settled."""
        return self.known.due

    @property
    def standing(self) -> Standing | None:
        """What a turn needs to know of it; `None` where it is not up for one."""
        handle, cwd, runtime = self.handle, self.facts.cwd, self.runtime
        if not self.headless or handle is None or cwd is None or self.life.phase is not Phase.RUNNING:
            return None
        if not self.facts.watched or not isinstance(runtime, WithHeadless):
            return None
        return Standing(
            spec=self.spec,
            harness=self.harness,
            generation=handle.generation,
            folder=handle.folder,
            cwd=cwd,
            env=self.facts.env,
            ground=runtime.ground,
            read=lambda path, tail: runtime.read(path, tail=tail),
            version=self.record.version,
            secrets=self.secrets,
        )

    @property
    def unseen(self) -> bool:
        """It is headless, and whether it is up for a turn is not known: its host could not be read, or not yet."""
        if not self.headless:
            return False
        return self.life.phase is Phase.UNVERIFIABLE or (self.life.phase is Phase.RUNNING and self.standing is None)

    # -- what happens to it ----------------------------------------------------------------------------------------

    def post(self, event: lifecycle.Event) -> None:
        """Something happened, or somebody wants something. It is handled in its turn."""
        self._inbox.put_nowait(event)

    async def handled(self) -> None:
        """Wait until everything posted so far has been handled."""
        await self._inbox.join()

    def begin_anew(self) -> None:
        """Another launch: what was known of the one before says nothing of it."""
        self.known.begin_anew()
        self.facts = Facts(status_line=self.facts.status_line)

    def session_is_seen(self) -> None:
        """The program's own session is seen: it has started, once the launch is written down as made."""
        self.facts.session_seen = True
        if self.life.phase is Phase.STARTING and self.life.launched_at is not None:
            self.facts.advice = None
            self.post(lifecycle.Started())

    # -- what is written down of it --------------------------------------------------------------------------------

    async def declare(self, spec: AgentSpec) -> None:
        """The manifest as it stands now; it acts from the next launch on."""
        await self.amend(spec=spec)
        self.harness = find_harness(spec.harness)

    async def amend(self, **fields: Any) -> None:
        """Change the record's own notes, and write them down."""
        async with self._writing:
            record = self._noting_use(replace(self.record, **fields))
            await self.parts.ledger.save(record)
            self.record = record

    def _noting_use(self, record: Record) -> Record:
        """The record that is to follow, with the time from which its conversation is what it is."""
        same = record.session_used == self.record.session_used
        return record if same else replace(record, session_used_at=self.parts.clock.now())

    async def learn(self, **fields: Any) -> None:
        """The same for what was heard: it counts also where it cannot be written down, and is written once it can."""
        try:
            await self.amend(**fields)
        except StorageError as error:
            self.parts.storage(error)
            self.record = self._noting_use(replace(self.record, **fields))
            self.beside(self._write_later())

    async def _write_later(self) -> None:
        while True:
            await self.parts.clock.sleep(STORAGE_RETRY)
            try:
                await self.amend()
            except StorageError as error:
                self.parts.storage(error)
            else:
                self.parts.storage(None)
                return

    # -- what goes on beside ---------------------------------------------------------------------------------------

    def beside(self, doing: Coroutine[Any, Any, Any], name: str | None = None) -> asyncio.Task[Any]:
        """Do something beside the events; a fault in it is told."""
        return self._tasks.begin(doing, name)

    def _failed(self, task: asyncio.Task[Any], error: BaseException) -> None:
        if isinstance(error, HostUnreachable):
            log.info("agent %s: %s", self.name, error)  # it says nothing about the agent
            return
        log.error("agent %s: %s failed", self.name, task.get_name(), exc_info=error)
        self.tell_fault(task.get_name(), error)

    @contextlib.contextmanager
    def guarded(self, doing: str) -> Iterator[None]:
        """A fault of one agent must not stop what is done for others as well: it is told whole, and that is all."""
        try:
            yield
        except Exception as error:
            log.exception("agent %s: %s failed", self.name, doing)
            self.tell_fault(doing, error)

    def tell_fault(self, doing: str, error: BaseException) -> None:
        """A fault of ours, as one of the agent's events."""
        self.parts.record_event(self.name, "fault", doing, {"error": redact(repr(error))})
