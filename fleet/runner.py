"""One agent: look, step, write down, act.

A runner handles one event at a time. What takes long (a launch, a stop, a wait) runs beside it as one task, and
comes back as an event; a new action first ends the one before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from fleet import lifecycle, plan
from fleet.clock import Clock
from fleet.errors import FleetError, HostUnreachable, LaunchError, StorageError, TimedOut
from fleet.harnesses import harness as find_harness
from fleet.harnesses.base import Harness, Remedy
from fleet.headless import Standing, evidence
from fleet.health import judge, restart
from fleet.health.answers import SETTLE, Step
from fleet.health.judge import Book
from fleet.hosts import Hosts
from fleet.keys import BEFORE_ENTER, typed
from fleet.known import Known
from fleet.ledger import Ledger, Record, StartEnvironment
from fleet.lifecycle import Life
from fleet.manifests.model import AgentSpec, Command
from fleet.preparing import (
    FIRST_MESSAGE,
    TRANSCRIPT_TAIL,
    Admit,
    Preparing,
    environment,
    no_hub,
    session_there,
    together,
    transcript_path,
)
from fleet.processes import Figures
from fleet.redact import redact
from fleet.runtimes.base import Runtime
from fleet.runtimes.headless import NONE
from fleet.settings import Places, Settings
from fleet.terms import (
    Activity,
    Evidence,
    Handle,
    HookEvent,
    LaunchPlan,
    Look,
    Phase,
    Process,
    Screen,
    Source,
    Verdict,
)

log = logging.getLogger(__name__)

UP = (Phase.STARTING, Phase.RUNNING)
WAITS_FOR_OTHERS = "WaitsForOthers"
TRANSCRIPT_MOST = 2_000_000
"""How much is read at most where the end holds nothing of the conversation."""
STORAGE_RETRY = 1.0
"""Seconds until what could not be written down is tried again: an event is never dropped."""
SUBMIT_AGAIN = (2.0, 8.0, 20.0)
"""Seconds to wait after each Enter for a typed message to be taken, before the next one."""
DRAWN_WITHIN = 5.0
"""Seconds until what was typed must stand in the composer: a busy program draws late."""
HALF_DRAWN = 1.0
"""Seconds that a dialog at the start must stand before a person is told of it: it is drawn piece by piece."""
FAULT_RETRY = 5.0
"""Seconds until a stop, or a wait, that failed by a fault of ours is tried again."""
QUEUE_PATIENCE = 20.0
"""Seconds that a job may stand in the queue before `start` says so and leaves it at that."""
GOES_AWAY = 5.0
"""Seconds that a settled dialog has to go away before it is taken for still open."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What every runner is given: the rooms below, and the supervisor's functions. A test's seams."""

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
    believe_death: Callable[[str, Look], Awaitable[bool]]
    """Whether an unexplained death may be believed; it may look a second time first."""
    record_event: Callable[[str, str, str, Mapping[str, Any]], None]
    """Agent, type, name, payload: into the event store."""
    storage: Callable[[StorageError | None], None]
    """The ledger could not be written, or could again."""
    changed: Callable[[Runner], None]
    """Something about the agent is different now."""
    admit: Admit = no_hub


@dataclass(slots=True)
class Facts:
    """What is known of an agent beside its state. Gathered as it comes, shown by `report.py`."""

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
    resumed: bool = False
    """This launch went on with a conversation."""
    session_seen: bool = False
    """Its own session was seen: it has started, once the launch is written down as made."""
    over: bool = False
    """Its end has been told."""
    waiting: str | None = None
    """It is not there at the moment, and why: its job stands in a queue."""


class Runner:
    """One agent of this fleet."""

    def __init__(self, record: Record, parts: Parts) -> None:
        self.record = record
        self.parts = parts
        self.harness = find_harness(record.spec.harness)
        self.facts = Facts()
        self._known = Known(agree=parts.settings.ready_agree, stale=parts.settings.stale)
        self._inbox: asyncio.Queue[lifecycle.Event] = asyncio.Queue()
        self._writing = asyncio.Lock()
        """Held from reading the record to its being on the disk: what two of them change is in both."""
        self._acting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._relook: asyncio.Task[None] | None = None
        self._clock: asyncio.Task[None] | None = None
        """The clock of the present launch's start."""
        self._returning = False
        self.settling: str | None = None
        """The startup dialog that fleet itself is settling."""
        self.waits_for: str | None = None
        """What stands between its start and it, where it depends on others or its host does not answer."""
        self.waits_because = WAITS_FOR_OTHERS
        self.held = False
        """What stands in between will not go away by itself."""
        self._must_resume = False
        self._unwatch: list[Callable[[], None]] = []
        self._main = asyncio.create_task(self._run(), name=f"agent {record.name}")

    # -- what others ask -------------------------------------------------------------------------------------------

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
    def life(self) -> Life:
        return self.record.life

    @property
    def handle(self) -> Handle | None:
        return self.record.handle

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
    def book(self) -> Book:
        """The latest words of what it is doing."""
        return self._known.book(self._swept_at())

    @property
    def state(self) -> judge.State:
        """What it is doing."""
        return self._known.state(self._swept_at())

    @property
    def due(self) -> float | None:
        """When to `attend` to it, whatever is heard until then; `None` where it is settled."""
        return self._known.due

    def _swept_at(self) -> float | None:
        return self.runtime.seen_at(self.handle) if self.handle else None

    @property
    def unreached(self) -> bool:
        """Its start waits for its host."""
        return self.waits_for is not None and self.waits_because != WAITS_FOR_OTHERS

    @property
    def headless(self) -> bool:
        """Each message is a turn of its own. The launch says so, since the manifest may have changed."""
        return self.spec.mode == "headless" if self.handle is None else self.handle.multiplexer == NONE

    @property
    def standing(self) -> Standing | None:
        """What a turn needs to know of it; `None` where it is not up for one."""
        handle, cwd = self.handle, self.facts.cwd
        if not self.headless or handle is None or cwd is None or self.life.phase is not Phase.RUNNING:
            return None
        return Standing(
            spec=self.spec,
            harness=self.harness,
            generation=handle.generation,
            folder=handle.folder,
            cwd=cwd,
            env=self.facts.env,
            version=self.record.version,
            secrets=self.secrets,
        )

    @property
    def started(self) -> bool:
        return self.life.phase is Phase.RUNNING or self.life.started_at is not None

    def post(self, event: lifecycle.Event) -> None:
        """Something happened, or somebody wants something. It is handled in its turn."""
        self._inbox.put_nowait(event)

    async def declare(self, spec: AgentSpec) -> None:
        """The manifest as it stands now; it acts from the next launch on."""
        await self.amend(spec=spec)
        self.harness = find_harness(spec.harness)

    async def amend(self, **fields: Any) -> None:
        """Change the record's own notes, and write them down."""
        async with self._writing:
            record = replace(self.record, **fields)
            await self.parts.ledger.save(record)
            self.record = record

    async def learn(self, **fields: Any) -> None:
        """The same for what was heard: it counts also where it cannot be written down, and is written once it can."""
        try:
            await self.amend(**fields)
        except StorageError as error:
            self.parts.storage(error)
            self.record = replace(self.record, **fields)
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

    async def close(self) -> None:
        """Let go of the agent and leave it as it is."""
        for task in (self._main, self._acting, self._relook, *self._tasks):
            if task:
                task.cancel()
        await asyncio.gather(
            *(t for t in (self._main, self._acting, self._relook, *self._tasks) if t), return_exceptions=True
        )
        self._forget_watches()

    # -- one event at a time ---------------------------------------------------------------------------------------

    async def handled(self) -> None:
        """Wait until everything posted so far has been handled."""
        await self._inbox.join()

    async def _run(self) -> None:
        while True:
            event = await self._inbox.get()
            try:
                while not await self._kept(event):
                    await self.parts.clock.sleep(STORAGE_RETRY)
            except Exception:  # one agent's fault must not stop the others; it is told whole
                log.exception("agent %s: %s", self.name, event)
                self.parts.record_event(self.name, "fault", type(event).__name__, {})
            finally:
                self._inbox.task_done()

    async def _kept(self, event: lifecycle.Event) -> bool:
        """Handle the event; False where it could not be written down (a full disk), and so nothing was done."""
        try:
            await self._step(event)
        except StorageError as error:
            self.parts.storage(error)
            return False
        self.parts.storage(None)
        return True

    async def _step(self, event: lifecycle.Event) -> None:
        async with self._writing:
            before = self.life
            life, actions = lifecycle.step(before, event, self.parts.clock.now(), self.policy())
            record = replace(self.record, life=life)
            launch = next((a for a in actions if isinstance(a, lifecycle.Launch)), None)
            if launch:
                record = self._mint(record, fresh=launch.fresh or life.fresh)
            if record != self.record:
                await self.parts.ledger.save(record)
                self.record = record
        if life.phase is not before.phase or life.reason != before.reason:
            self._tell_phase(before, event)
        if launch:
            self._begin_anew()
        for action in actions:
            self._perform(action)
        if before.phase is Phase.BACKOFF and life.phase is not Phase.BACKOFF and not actions and self._acting:
            self._acting.cancel()  # its wait must not draw from the brake any more
        if isinstance(event, lifecycle.Seen) and life.phase in UP and not launch and self.handle:
            self._begin_clock(self.handle)
            self._heed()
        if isinstance(event, lifecycle.Launched) and self.facts.session_seen:
            self._mark_started()  # the disk was slower than the program
        if isinstance(event, lifecycle.Started) and before.started_at is None and life.started_at is not None:
            self.beside(self._run_hooks("post_start", required=False))
        if life.phase in (Phase.STOPPED, Phase.FINISHED, Phase.FAILED, Phase.BACKOFF):
            self._forget_watches()
            if before.phase in (*UP, Phase.UNVERIFIABLE) and self.handle:
                self.beside(self._bury(self.handle))
        self.parts.changed(self)

    def policy(self) -> restart.Policy:
        """The manifest's policy with this moment's chance in it."""
        wants, settings = self.spec.restart, self.parts.settings
        return restart.Policy(
            policy=wants.policy,
            max_retries=wants.max_retries,
            window=wants.window,
            reset_after=wants.reset_after,
            backoff_initial=wants.backoff.initial,
            backoff_max=wants.backoff.max,
            multiplier=wants.backoff.multiplier,
            success_exit_codes=wants.success_exit_codes,
            never_exit_codes=wants.never_exit_codes,
            start_backoff=settings.start_backoff,
            auto_resume=wants.auto_resume,
            backoff_jitter=settings.backoff_jitter,
            limit_jitter=(settings.limit_jitter_min, settings.limit_jitter_max),
            jitter=random.uniform(-1.0, 1.0),
        )

    def _tell_phase(self, before: Life, event: lifecycle.Event) -> None:
        life = self.life
        payload = {
            "from": before.phase,
            "to": life.phase,
            "because": type(event).__name__,
            "reason": life.reason,
            "message": life.message,
            "exit_status": life.exit_status,
            "due": life.due,
        }
        self.parts.record_event(self.name, "phase", life.phase, payload)

    def _mint(self, record: Record, *, fresh: bool) -> Record:
        """The next launch's handle and conversation. They are written down before anything is done."""
        count = record.launches + 1
        lot = f"{random.SystemRandom().getrandbits(32):08x}"
        mark = plan.generation(record.name, count, lot)
        headless = record.spec.mode == "headless"
        host = self.parts.hosts.next(record.spec, record.handle)
        handle = host.mint(record.name, mark, NONE if headless else record.spec.multiplexer)
        record = replace(record, handle=handle, launches=count)
        if not self.harness.has_sessions or headless:  # a headless agent has one for each conversation
            return replace(record, session_id=None, session_used=record.session_used and not fresh)
        if fresh or record.session_id is None or record.spec.session == "new":
            return replace(record, session_id=str(uuid.uuid4()), session_used=False, transcript=None)
        return record

    def _begin_anew(self) -> None:
        self._known.begin_anew()
        self.facts = Facts(status_line=self.facts.status_line)
        self.settling = None

    # -- acting ----------------------------------------------------------------------------------------------------

    def _perform(self, action: lifecycle.Action) -> None:
        doing: Callable[[], Awaitable[None]]
        match action:
            case lifecycle.Launch():
                doing = self._launch
            case lifecycle.End():
                doing = self._end
            case lifecycle.Wait(until=until):
                doing = partial(self._wait, until)
        previous, self._acting = self._acting, None

        async def act() -> None:
            if previous and not previous.done():
                previous.cancel()
                await asyncio.gather(previous, return_exceptions=True)
            await doing()

        self._acting = asyncio.create_task(act(), name=f"{type(action).__name__} {self.name}")
        self._acting.add_done_callback(self._report_fault)

    def _report_fault(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, HostUnreachable):
            log.info("agent %s: %s", self.name, error)  # it says nothing about the agent
            return
        log.error("agent %s: %s failed", self.name, task.get_name(), exc_info=error)
        self.parts.record_event(self.name, "fault", task.get_name(), {"error": redact(repr(error))})
        if self.life.phase is Phase.STARTING and task in (self._acting, self._clock):
            self.post(lifecycle.LaunchRefused("InternalError", f"{type(error).__name__}: {error}", retry=True))
        elif task is self._acting:
            self.beside(self._act_again(task))

    async def _act_again(self, failed: asyncio.Task[Any]) -> None:
        """A stop that failed must not stand still, nor a wait: there is nobody else to go on with it."""
        await self.parts.clock.sleep(FAULT_RETRY)
        if self._acting is not failed:
            return
        if self.life.phase is Phase.STOPPING:
            self._perform(lifecycle.End())
        elif self.life.phase is Phase.BACKOFF:
            self._perform(lifecycle.Wait(self.life.due or self.parts.clock.now()))

    @contextlib.contextmanager
    def guarded(self, doing: str) -> Iterator[None]:
        """A fault of one agent must not stop what is done for others as well: it is told whole, and that is all."""
        try:
            yield
        except Exception as error:
            log.exception("agent %s: %s failed", self.name, doing)
            self._tell_fault(doing, error)

    def _tell_fault(self, doing: str, error: Exception) -> None:
        self.parts.record_event(self.name, "fault", doing, {"error": redact(repr(error))})

    def beside(self, doing: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do something beside the events; a fault in it is reported."""
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._report_fault)
        return task

    async def _wait(self, until: float) -> None:
        await self.parts.clock.sleep(until - self.parts.clock.now())
        await self.parts.may_restart(self.name, self.life.reason)
        self.post(lifecycle.Elapsed())

    async def _launch(self) -> None:
        handle = self.handle
        assert handle is not None
        runtime = self.runtime
        try:
            planned = await self._prepare(handle)
            await self._run_hooks("pre_start", required=True)
            async with self._writing:  # what stands in memory stands on the disk too
                lost = self.life.phase is Phase.UNVERIFIABLE
            if lost:
                return  # its host went meanwhile: it is looked at first, once that is back
            await runtime.launch(planned, handle)
        except HostUnreachable as error:
            self.post(lifecycle.Lost(message=str(error)))
            return
        except FleetError as error:
            full = isinstance(error, StorageError)  # it goes on once there is space again
            self.post(lifecycle.LaunchRefused(type(error).__name__, error.with_hint(), retry=full))
            return
        self.facts.argv, self.facts.resumed = planned.argv, planned.resumes
        self.parts.record_event(
            self.name,
            "launch",
            handle.generation,
            {
                "argv": [redact(a) for a in planned.argv],
                "cwd": planned.cwd,
                "session_id": planned.session_id,
                "resumes": planned.resumes,
                "version": planned.version,
            },
        )
        self.post(lifecycle.Launched())
        self._watch(handle)
        self._begin_clock(handle)

    async def _end(self) -> None:
        handle = self.handle
        if handle is None:
            self.post(lifecycle.Ended())
            return
        try:
            await self._run_hooks("pre_stop", required=False)
            await self._ask_to_leave(handle)
            ended = await self.runtime.end(handle, grace=self.spec.stop.timeout)
            await self.runtime.purge(self.name, grace=self.parts.settings.kill_grace)
        except HostUnreachable as error:
            self.post(lifecycle.Lost(message=str(error)))
            return
        if ended.killed:
            self.parts.record_event(self.name, "killed", handle.generation, {"pids": list(ended.killed)})
        await self._run_hooks("post_stop", required=False)
        self.post(lifecycle.Ended(ended.exit_status))

    async def _bury(self, handle: Handle) -> None:
        """It died by itself: what is left of the launch goes, its last screen is kept."""
        try:
            ended = await self.runtime.end(handle, grace=self.parts.settings.kill_grace)
        except HostUnreachable as error:
            log.info("agent %s: what is left of it is ended before its next launch: %s", self.name, error)
            return
        if ended.killed:
            self.parts.record_event(self.name, "killed", handle.generation, {"pids": list(ended.killed)})

    async def _ask_to_leave(self, handle: Handle) -> None:
        """The program's own exit command, where it would read it: ready, nothing typed, no dialog."""
        command = self.spec.stop.command or self.harness.exit_command()
        state = self.state
        if not command or state.activity is not Activity.READY or state.draft is not False:
            return
        await self.runtime.type(handle, [command], literal=True)
        await self.parts.clock.sleep(BEFORE_ENTER)
        await self.runtime.type(handle, ["Enter"], literal=False)
        until = self.parts.clock.now() + self.parts.settings.exit_command_grace
        while self.parts.clock.now() < until:
            if not (await self.runtime.look(handle)).alive:
                return
            await self.parts.clock.sleep(0.05)

    async def _run_hooks(self, which: str, *, required: bool) -> None:
        """The manifest's own commands around the life. A required one that fails refuses the launch."""
        commands: tuple[Command, ...] = getattr(self.spec.hooks, which)
        for command in commands:
            shown = " ".join(command.words)
            try:
                ran = await self.runtime.run(
                    command.words, env=self.facts.env, cwd=self.facts.cwd or self.spec.folder, timeout=command.timeout
                )
                said = redact(ran.stderr.decode(errors="replace").strip()[-400:])
                failure = ": ".join(filter(None, [f"ended with {ran.status}", said])) if ran.status else None
            except (TimedOut, LaunchError) as error:
                failure = str(error)
            self.parts.record_event(self.name, "action", which, {"command": redact(shown), "failure": failure})
            if failure and required:
                raise LaunchError(f"hooks.{which} `{redact(shown)}`: {failure}", hint="Nothing was launched.")

    async def _prepare(self, handle: Handle) -> LaunchPlan:
        """Everything decided about the launch, and what the record is to say of it written down. No older launch's
        process lives any more: it might still write what is read."""
        parts = self.parts
        preparing = Preparing(
            self.record, self.harness, handle, self.runtime, parts.places, parts.settings, parts.admit, parts.hosts.here
        )
        purged = self.runtime.purge(self.name, keep=handle.generation, grace=parts.settings.kill_grace)
        _, around = await together(purged, preparing.surroundings())
        self.facts.cwd, self.facts.env = around.cwd, around.env
        version = partial(parts.version, self.runtime)
        prepared = await preparing.launch(around, version, must_resume=self._must_resume)
        self._must_resume = False
        self.facts.warnings = (*self.facts.warnings, *prepared.warnings)
        await self.amend(**prepared.notes)
        return prepared.plan

    # -- the start -------------------------------------------------------------------------------------------------

    def _begin_clock(self, handle: Handle) -> None:
        """See the launch through its start, and to its first message; one clock for each launch."""
        name = f"start of {handle.generation}"
        if self._clock is None or self._clock.done() or self._clock.get_name() != name:
            self._clock = self.beside(self._await_start(handle))
            self._clock.set_name(name)

    async def _await_start(self, handle: Handle) -> None:
        """The start's clock. It stands still while a dialog waits for a person."""
        clock, passed, step = self.parts.clock, 0.0, 0.25
        while self.handle == handle and self.life.phase is Phase.STARTING:
            await clock.sleep(step)
            if self.state.activity is Activity.NEEDS_INPUT or self.facts.waiting is not None:
                continue
            passed += step
            lives = not self.harness.has_sessions and passed >= self.parts.settings.shell_started
            if (lives or self.headless) and await self._probe_passes():
                self._mark_started()
                break
            if passed >= self.spec.startup.timeout:
                self.post(lifecycle.StartTimedOut())
                return
        if self.handle == handle and not self.record.session_used:
            text = await self.runtime.read(f"{handle.folder}/{FIRST_MESSAGE}")
            if text is not None:
                await self._type_first_prompt(handle, text.decode())

    async def _probe_passes(self) -> bool:
        probe = self.spec.startup.probe
        if probe is None:
            return True
        try:
            ran = await self.runtime.run(
                probe.words, env=self.facts.env, cwd=self.facts.cwd or "/", timeout=probe.timeout
            )
        except (TimedOut, LaunchError, HostUnreachable) as error:
            log.info("agent %s: startup probe: %s", self.name, error)
            return False
        return ran.status == 0

    async def _type_first_prompt(self, handle: Handle, text: str) -> None:
        """Type it once the program is ready for it, and submit it. Never into anything but an empty composer, and
        not after a person's own."""
        while self._is_up(handle) and not self.record.session_used and not self._can_type():
            await self.parts.clock.sleep(0.1)
        if not self._is_up(handle) or self.record.session_used:
            return
        if not self.harness.has_sessions:  # nobody can tell whether it was taken: once, and no more
            await self.amend(session_used=True)
        try:
            await self._type(handle, text)
        except HostUnreachable as error:
            if self._is_up(handle):
                self.post(lifecycle.Lost(message=str(error)))

    def _is_up(self, handle: Handle) -> bool:
        return self.handle == handle and self.life.phase in UP

    async def _type(self, handle: Handle, text: str) -> None:
        clock, runtime = self.parts.clock, self.runtime
        for press in typed(text, self.harness.newline_key()):
            await runtime.type(handle, press.keys, literal=press.literal)
            await clock.sleep(press.pause)
        await clock.sleep(BEFORE_ENTER)
        if not self.harness.has_sessions:
            await runtime.type(handle, ["Enter"], literal=False)
            return
        for again, wait in enumerate(SUBMIT_AGAIN):
            held = await self._holds_our_text(handle)
            if again and held is False:
                await self.learn(session_used=True)  # it was taken, and no hook has told so
            if not held:
                return
            await runtime.type(handle, ["Enter"], literal=False)
            await clock.sleep(wait)

    async def _holds_our_text(self, handle: Handle) -> bool | None:
        """Whether the text stands in the composer, unsent. It may take a moment until it is drawn; `None` where a
        dialog came in between, or a turn began that was told."""
        clock = self.parts.clock
        until = clock.now() + DRAWN_WITHIN
        while self._is_up(handle) and not self.record.session_used:
            screen = (await self.runtime.look(handle)).screen
            if screen is None:
                return None
            verdict = self.parts.classify(self.spec.harness, screen, self.record.version)
            if verdict.activity is Activity.NEEDS_INPUT:
                return None
            if verdict.draft or clock.now() > until:
                return verdict.draft is True
            await clock.sleep(0.1)
        return None

    def _can_type(self) -> bool:
        s = self.state
        if not self.harness.has_sessions:  # it has no composer to look for
            return s.activity is Activity.READY
        return s.activity is Activity.READY and s.composer is True and s.draft is False

    # -- evidence --------------------------------------------------------------------------------------------------

    def _watch(self, handle: Handle) -> None:
        self._forget_watches()
        if self.headless:
            self.hear(evidence([], None, self.parts.clock.now()))
        runtime = self.runtime
        runtime.watch(handle, self.on_look)
        self._unwatch.append(lambda: runtime.unwatch(handle))
        self._unwatch.append(runtime.watch_folder(handle.folder, self._on_launch_file))
        self.beside(self._read_status_line(handle))

    def _forget_watches(self) -> None:
        while self._unwatch:
            self._unwatch.pop()()

    def on_look(self, handle: Handle, look: Look) -> None:
        """What the runtime saw. Of an older launch it says nothing about this one."""
        if handle is self.handle or handle == self.handle:
            try:  # what `guarded` does, for less: hundreds of looks come in a second
                self._take_in(handle, look)
            except Exception as error:
                log.exception("agent %s: look failed", self.name)
                self._tell_fault("look", error)

    def _take_in(self, handle: Handle, look: Look) -> None:
        if look.pane:
            self.facts.pane = look.pane
        if look.program and look.program != self.facts.program:
            again = self.facts.program is not None  # a successor's: who owned the one before is nobody now
            self.facts.program = look.program
            self.facts.owner = look.program.pid if again or self.facts.owner is None else self.facts.owner
            self.beside(self.read_state_file())
        if look.waiting != self.facts.waiting:
            self.facts.waiting = look.waiting
            self.parts.changed(self)
        if not look.alive or look.multiplexer_lost:  # without its pane it can be neither seen nor steered
            self.beside(self._died(handle, look))
            return
        if look.screen is not None:
            self._see(look.screen, look.at)

    def measured(self, figures: Figures) -> None:
        """What its processes cost now."""
        before, self.facts.figures = self.facts.figures, figures
        if figures != before and self._hear_process():
            self._judge()

    def _hear_process(self) -> bool:
        """What the processes tell; whether that is news. A headless agent's are told of by their turns; figures from
        another machine are too old to tell what it is doing."""
        if self.headless:
            return False
        figures, now = self.facts.figures if self.runtime.far is None else None, self.parts.clock.now()
        cpu = figures.cpu_percent / 100 if figures and figures.cpu_percent is not None else None
        told = self.harness.read_process(self.facts.moved_at, cpu, now)
        if told is None:
            return False
        claim = self._known.claim(Source.PROCESS)
        if claim and (claim.evidence.activity, claim.evidence.rule) == (told.activity, told.rule):
            return False
        self.hear(replace(told, observed_at=now), judge_now=False)
        return True

    def attend(self) -> None:
        """Nothing was heard for a while, and it is not settled yet: see what the sweeps since then, and time, tell."""
        self._known.catch_up(self.parts.clock.now(), self._swept_at())
        self._hear_process()
        self._judge()

    async def _died(self, handle: Handle, look: Look) -> None:
        unexplained = look.exit_status is None and not look.multiplexer_lost and look.gone is None
        if unexplained and not await self.parts.believe_death(self.name, look):
            return
        cause, words = restart.Cause.CRASH, None
        with self.guarded("cause"):  # whatever its last words are, it is dead
            cause, words = await self._cause(handle, look)
        up = self.life.phase in (*UP, Phase.UNVERIFIABLE)
        if handle != self.handle or not up or self.facts.over:
            return
        self.facts.over = True
        now = self.parts.clock.now()
        alive_for = now - (self.life.launched_at or now)
        self.parts.record_event(
            self.name, "exit", handle.generation, {"exit_status": look.exit_status, "after_s": round(alive_for, 3)}
        )
        self._known.catch_up(now, self._swept_at())
        self._known.lose(Source.STATE_FILE, Source.TITLE, Source.PROCESS)
        resumed_within = self.facts.resumed and not self.started and alive_for < self.parts.settings.resume_guard
        self.post(lifecycle.Died(look.exit_status, cause, resumed_within, self.state.resets_at, words))

    async def _cause(self, handle: Handle, look: Look) -> tuple[restart.Cause, str | None]:
        """Why it died, as far as its last words tell."""
        if look.multiplexer_lost:
            return restart.Cause.MULTIPLEXER, None
        if look.gone is not None:
            return restart.Cause(look.gone), look.words
        if look.exit_status is None and self.life.phase is Phase.UNVERIFIABLE:
            return restart.Cause.HOST, None
        if not self.started:
            try:
                text = await self.runtime.last_screen(handle) or ""
            except HostUnreachable as error:
                log.info("agent %s: its last screen: %s", self.name, error)
                text = ""
            problem = self.harness.start_failure(text, look.exit_status, self.record.version)
            if problem is not None:
                self._must_resume = problem.remedy is Remedy.RESUME
                cause = restart.Cause.CRASH if problem.retry else restart.Cause.UNRECOVERABLE
                return cause, problem.message
        state = self.state
        if state.activity is Activity.ERROR and state.proof and is_auth(state.proof.rule):
            return restart.Cause.AUTH, None
        if state.activity is Activity.LIMITED:
            return restart.Cause.LIMIT, None
        return restart.Cause.CRASH, None

    def _see(self, screen: Screen, at: float) -> None:
        before, last = self.facts.screen, self.facts.verdict
        if before is None or screen.text != before.text:
            self.facts.moved_at = at
        verdict = self.parts.classify(self.spec.harness, screen, self.record.version)
        self.facts.screen, self.facts.verdict = screen, verdict
        news = self._hear_process()
        unheard = self._known.claim(Source.SCREEN) is None
        if verdict != last or before is None or screen.title != before.title or unheard:
            self._hear_eyes(screen, verdict, at)
            news = True
        if news or self._known.is_in_question(at):
            self._known.see_again(at)
            self._judge()
        else:
            self._known.attend_again(self.parts.clock.now(), self.facts.moved_at)
        self._heed()

    def _hear_eyes(self, screen: Screen, verdict: Verdict, at: float) -> None:
        """What screen and title say."""
        self.hear(
            Evidence(
                source=Source.SCREEN,
                rule=verdict.rule,
                observed_at=at,
                activity=verdict.activity,
                kind=verdict.kind,
                question=verdict.question,
                options=verdict.options,
                draft=verdict.draft,
                composer=verdict.composer,
                background=verdict.background,
                resets_at=verdict.resets_at,
                continues=verdict.continues,
                excerpt=redact(verdict.evidence),
            ),
            judge_now=False,
        )
        if screen.title and (told := self.harness.read_title(screen.title, at, self.record.version)):
            self.hear(told, judge_now=False)

    def _heed(self) -> None:
        """What is known of a start: it is done, or a dialog stands in its way."""
        screen, verdict = self.facts.screen, self.facts.verdict
        if self.life.phase is not Phase.STARTING:
            return
        told = self._known.claim(Source.HOOK) or self._known.claim(Source.STATE_FILE)
        if told or (verdict and verdict.composer):
            self._mark_started()
        elif screen and verdict and verdict.activity is Activity.NEEDS_INPUT and self.settling is None:
            problem = self.harness.start_failure(screen.text, None, self.record.version)
            self.facts.advice = problem.message if problem else None
            self._settle_dialog(screen)

    def _consents(self) -> frozenset[str]:
        """The startup dialogs that fleet may settle for this agent."""
        spec = self.spec
        consents = set[str](spec.auto_accept)
        if spec.workdir is None:
            consents.add("trust-folder")  # fleet made that folder itself
        if spec.permission_mode == "bypassPermissions" or "--dangerously-skip-permissions" in spec.args:
            consents.add("bypass-permissions")
        return frozenset(consents)

    @property
    def asks_a_person(self) -> bool:
        """A dialog stands in its way, and fleet is not about to settle it."""
        verdict = self.facts.verdict
        if self.state.activity is not Activity.NEEDS_INPUT or self.settling:
            return False
        if verdict is None or verdict.activity is not Activity.NEEDS_INPUT:
            return verdict is None  # it is gone, and what follows is not drawn yet
        stood = self.parts.clock.now() - self.state.since
        return stood >= (GOES_AWAY if verdict.rule in self._consents() else HALF_DRAWN)

    @property
    def stands_in_queue(self) -> bool:
        """Its job has waited for longer than a start takes where there is room: who asked for it need not wait."""
        return self.facts.waiting is not None and self.parts.clock.now() - self.life.since > QUEUE_PATIENCE

    def _next_step(self, screen: Screen) -> Step | None:
        return self.parts.startup_step(self.spec.harness, screen, self._consents(), self.record.version)

    def _settle_dialog(self, screen: Screen) -> None:
        """A startup dialog that the manifest lets fleet settle: one step, then look again."""
        step = self._next_step(screen)
        if step is not None:
            self.settling = step.consent
            self.beside(self._press(step))

    async def _press(self, step: Step) -> None:
        """A dialog just drawn drops keys: wait, look whether it still asks for the same key, press, look.

        After the last key the dialog has a while to go away: a second Enter could answer the next one.
        """
        handle, runtime, clock = self.handle, self.runtime, self.parts.clock
        if handle is None:
            return
        try:
            await clock.sleep(SETTLE)
            look = await runtime.look(handle)
            if look.screen is not None and self._next_step(look.screen) == step:
                await runtime.type(handle, step.keys, literal=False)
                payload = {"dialog": step.consent, "keys": list(step.keys), "because": step.because}
                self.parts.record_event(self.name, "action", "auto_accept", payload)
                until = clock.now() + (GOES_AWAY if step.last else 0.0)
                await clock.sleep(SETTLE)
                look = await runtime.look(handle)
                while look.screen and self._next_step(look.screen) == step and clock.now() < until:
                    await clock.sleep(SETTLE)
                    look = await runtime.look(handle)
        except HostUnreachable as error:
            if self._is_up(handle):
                self.post(lifecycle.Lost(message=str(error)))
            return
        finally:
            self.settling = None
        self.on_look(handle, look)

    def hear(self, evidence: Evidence, *, judge_now: bool = True) -> None:
        """One more word of a source."""
        self._known.hear(evidence, self.parts.clock.now(), self._swept_at())
        if judge_now:
            self._judge()

    def _judge(self) -> None:
        now = self.parts.clock.now()
        before, state = self._known.judge(now, started=self.started, moved_at=self.facts.moved_at)
        if state.pending and self._relook is None:
            self._relook = asyncio.create_task(self._look_again())
        if (state.activity, state.kind, state.question) != (before.activity, before.kind, before.question):
            proof = state.proof
            payload = {
                "from": before.activity,
                "to": state.activity,
                "kind": state.kind,
                "question": state.question,
                "source": proof.source if proof else None,
                "rule": proof.rule if proof else None,
                "evidence": proof.excerpt if proof else None,
            }
            self.parts.record_event(self.name, "activity", state.activity, payload)
            self.parts.changed(self)
        elif (state.draft, state.background) != (before.draft, before.background):
            self.parts.changed(self)

    async def _look_again(self) -> None:
        """A change is seen and not yet believed: see it a second time."""
        try:
            await self.parts.clock.sleep(self.parts.settings.ready_agree)
        finally:
            self._relook = None
        handle = self.handle
        if handle and self.life.phase in UP:
            try:
                look = await self.runtime.look(handle)
            except HostUnreachable as error:
                log.info("agent %s: %s", self.name, error)
                return
            self.on_look(handle, look)

    def _mark_started(self) -> None:
        self.facts.session_seen = True
        if self.life.phase is Phase.STARTING and self.life.launched_at is not None:
            self.facts.advice = None
            self.post(lifecycle.Started())

    # -- the program's own word ------------------------------------------------------------------------------------

    async def on_hook(self, event: HookEvent) -> None:
        """An event of the program's hooks, already stored. Only the owner's word moves the state."""
        if not self._owns(event):
            return
        if event.session_id and event.session_id != self.record.session_id and event.pid is not None:
            await self.learn(session_id=event.session_id, session_used=event.name == "UserPromptSubmit")
            self.parts.record_event(self.name, "session", event.session_id, {"because": event.name})
        if event.name == "UserPromptSubmit" and not self.record.session_used:
            await self.learn(session_used=True)
        path = event.payload.get("transcript_path")
        if isinstance(path, str) and path != self.record.transcript and event.session_id == self.record.session_id:
            await self.learn(transcript=path)
        told = self.harness.read_hook(event)
        if told is not None:
            self.hear(told)
        if self.life.phase is Phase.STARTING:
            self._mark_started()
        if event.name in ("Stop", "StopFailure", "UserPromptSubmit", "PostToolUse", "SessionStart"):
            self.beside(self.read_transcript())

    def _owns(self, event: HookEvent) -> bool:
        handle = self.handle
        if handle is None or self.life.phase not in (*UP, Phase.UNVERIFIABLE):
            return False
        if event.generation is None:
            return event.session_id is not None and event.session_id == self.record.session_id
        if not handle.is_of(event.generation):
            return False
        owner, program = self.facts.owner, self.facts.program
        if event.pid is None or owner is None or event.pid == owner:
            return True
        # Where the command is a wrapper, its program's own word names the program, at the start of its session.
        wrapped = program is not None and owner == program.pid and self._known.claim(Source.STATE_FILE) is None
        if wrapped and event.name == "SessionStart" and event.session_id == self.record.session_id:
            self.facts.owner = event.pid
            self.beside(self.read_state_file())
            return True
        return False

    async def read_state_file(self) -> None:
        """The program's own word about itself, believed only while its process lives."""
        owner = self.facts.owner
        if owner is None:
            return
        path = self.harness.state_file(self.facts.env, owner)
        content = await self.runtime.read(path) if path else None
        if content is None:
            self._known.catch_up(self.parts.clock.now(), self._swept_at())
            self._known.lose(Source.STATE_FILE)
            self._judge()
            return
        told = self.harness.read_state(content, self.parts.clock.now() + self.ahead)
        if told is None or told.pid != owner:
            return
        program = self.facts.program
        if program and told.proc_start and program.pid == owner and told.proc_start != str(program.start):
            return  # an older process with the same pid
        if told.session_id and told.session_id != self.record.session_id:
            await self.learn(session_id=told.session_id)
            self.parts.record_event(self.name, "session", told.session_id, {"because": "state file"})
        if told.version and told.version != self.record.version:
            await self.learn(version=told.version)
        self.hear(self._by_our_clock(told.evidence))
        if self.life.phase is Phase.STARTING:
            self._mark_started()

    def _by_our_clock(self, told: Evidence) -> Evidence:
        """What a program on another machine says, with that machine's time."""
        return replace(told, observed_at=told.observed_at - self.ahead) if self.ahead else told

    def _on_launch_file(self, name: str) -> None:
        if name == "statusline" and self.handle:
            self.beside(self._read_status_line(self.handle))

    async def _read_status_line(self, handle: Handle) -> None:
        content = await self.runtime.read(str(PurePosixPath(handle.folder) / "statusline"))
        if content is None:
            return
        told = self.harness.read_status_line(content, self.parts.clock.now())
        if told is not None:
            self.facts.status_line = {**told, "observed_at": self.parts.clock.now()}
            self.parts.changed(self)

    async def read_transcript(self, length: int = TRANSCRIPT_TAIL) -> None:
        """The end of the conversation for those who look: so many bytes, or more where they hold nothing of it.
        Where its host cannot be read, what was read last is what is known."""
        with contextlib.suppress(HostUnreachable):
            await self._read_transcript(length)

    async def _read_transcript(self, length: int) -> None:
        cwd = self.facts.cwd
        path = None if cwd is None else transcript_path(self.record, self.harness, self.facts.env, cwd)
        while path and (tail := await self.runtime.read(path, tail=length)) is not None:
            self.facts.transcript = self.harness.read_transcript(tail, self.parts.clock.now())
            if told := self.facts.transcript.evidence:
                self.hear(self._by_our_clock(told), judge_now=False)
            if self.facts.transcript.lines or len(tail) < length or length >= TRANSCRIPT_MOST:
                return
            length *= 8  # the program's own snapshots fill tens of kilobytes

    # -- after the daemon's own restart ----------------------------------------------------------------------------

    async def adopt(self, replay: Callable[[str], Awaitable[list[HookEvent]]]) -> None:
        """The daemon is new, the agent may not be: see how it stands, and go on from there."""
        handle = self.handle
        if handle is None or self.life.phase in (Phase.STOPPED, Phase.FINISHED, Phase.FAILED):
            if self.life.due is not None:
                self._perform(lifecycle.Wait(self.life.due))
            return
        try:
            await self._recall(handle)
            look = await self.runtime.look(handle)
        except HostUnreachable as error:
            self.post(lifecycle.Lost(message=str(error)))
            return
        if look.alive and not look.multiplexer_lost:
            self.facts.program, self.facts.pane = look.program, look.pane
            self.facts.owner = look.program.pid if look.program else None
            for event in await replay(handle.generation):
                await self.on_hook(event)
            await self.read_state_file()
            self._watch(handle)
            if look.screen:
                self._see(look.screen, look.at)
            await self.read_transcript()
        cause = restart.Cause.MULTIPLEXER if look.multiplexer_lost else restart.Cause(look.gone or restart.Cause.CRASH)
        self.facts.waiting = look.waiting
        alive = look.alive and not look.multiplexer_lost
        self.post(lifecycle.Seen(alive, self.life.started_at is not None, look.exit_status, cause))

    async def _recall(self, handle: Handle) -> None:
        """What a launch knew that the ledger does not hold: its environment and folder."""
        kept = StartEnvironment.load(self.parts.places.agent(self.name))
        env = environment(self.spec, self.harness, kept, await session_there(self.spec, self.runtime))
        cwd = self.record.cwd or self.spec.folder
        env.update(plan.derived(self.spec, handle, cwd))
        self.facts.cwd, self.facts.env = cwd, env

    async def host_back(self, replay: Callable[[str], Awaitable[list[HookEvent]]]) -> None:
        """The host can be read again, or may be: see the agent."""
        if self.life.phase is not Phase.UNVERIFIABLE or self._returning:
            return
        self._returning = True
        try:
            if self._unwatch:
                await self._look_after_loss()
            else:  # its launch was interrupted, or this daemon has never seen it
                await self.adopt(replay)
            await self.handled()
        finally:
            self._returning = False

    async def _look_after_loss(self) -> None:
        handle = self.handle
        if handle is None:
            return
        try:
            look = await self.runtime.look(handle)
        except HostUnreachable as error:
            log.info("agent %s: %s", self.name, error)
            return
        if look.multiplexer_lost:
            self.post(lifecycle.Died(look.exit_status, restart.Cause.MULTIPLEXER))
            return
        cause = restart.Cause(look.gone or restart.Cause.CRASH)
        self.post(lifecycle.Seen(look.alive, self.life.started_at is not None, look.exit_status, cause))
        self.on_look(handle, look)


def is_auth(rule: str) -> bool:
    """Whether a rule of a screen or an error of a hook speaks of credentials."""
    return any(word in rule for word in ("auth", "login", "oauth", "account"))
