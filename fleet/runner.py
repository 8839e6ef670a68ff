"""One agent's life: look, step, write down, act.

A runner handles one event at a time. What takes long (a launch, a stop, a wait) runs beside it as one task, and
comes back as an event; a new action first ends the one before it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from fleet import lifecycle, plan
from fleet.agent import STORAGE_RETRY, UP, Agent, Parts
from fleet.errors import FleetError, HostUnreachable, LaunchError, StorageError, TimedOut
from fleet.harnesses.base import Remedy
from fleet.health import judge, restart
from fleet.keys import BEFORE_ENTER
from fleet.ledger import Record, StartEnvironment
from fleet.lifecycle import Life
from fleet.manifests.model import Command
from fleet.preparing import Preparing, environment, session_there, together
from fleet.redact import redact
from fleet.runtimes.turns import NONE
from fleet.senses import Senses
from fleet.starting import Starting
from fleet.terms import Activity, Handle, HookEvent, LaunchPlan, Look, Phase, Source

log = logging.getLogger(__name__)

WAITS_FOR_OTHERS = "WaitsForOthers"
FAULT_RETRY = 5.0
"""Seconds until a stop, or a wait, that failed by a fault of ours is tried again."""

Replay = Callable[[str], Awaitable[list[HookEvent]]]
"""The stored hook events of a generation."""


class Runner(Agent):
    """One agent of this fleet, alive."""

    def __init__(self, record: Record, parts: Parts) -> None:
        super().__init__(record, parts)
        self.starting = Starting(self, see=lambda handle, look: self.senses.on_look(handle, look))
        self.senses = Senses(self, ended=self._died, looked=self.starting.heed)
        self._acting: asyncio.Task[None] | None = None
        self._returning = False
        self.waits_for: str | None = None
        """What stands between its start and it, where it depends on others or its host does not answer."""
        self.waits_because = WAITS_FOR_OTHERS
        self.waits_since: float | None = None
        """When its host was first found not to answer."""
        self.held = False
        """What stands in between will not go away by itself."""
        self.ends_unwritten = False
        """Its end is asked for, and must not wait until it can be written down."""
        self._must_resume = False
        self._main = asyncio.create_task(self._run(), name=f"agent {record.name}")

    @property
    def unreached(self) -> bool:
        """Its start waits for its host."""
        return self.waits_for is not None and self.waits_because != WAITS_FOR_OTHERS

    async def close(self) -> None:
        """Let go of the agent and leave it as it is."""
        self._main.cancel()
        await asyncio.gather(self._main, return_exceptions=True)
        await self._tasks.close()
        self.senses.unwatch()

    # -- one event at a time ---------------------------------------------------------------------------------------

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
                await self._write_down(record)
                self.record = record
        if life.phase is not before.phase or life.reason != before.reason:
            self._tell_phase(before, event)
        if launch:
            self.begin_anew()
        for action in actions:
            self._perform(action)
        if before.phase is Phase.BACKOFF and life.phase is not Phase.BACKOFF and not actions and self._acting:
            self._acting.cancel()  # its wait must not draw from the brake any more
        if isinstance(event, lifecycle.Seen) and life.phase in UP and not launch and self.handle:
            self.starting.begin_clock(self.handle)
            self.starting.heed()
        if isinstance(event, lifecycle.Launched) and self.facts.session_seen:
            self.session_is_seen()  # the disk was slower than the program
        if isinstance(event, lifecycle.Started) and before.started_at is None and life.started_at is not None:
            self.beside(self._run_hooks("post_start", required=False))
        if life.phase in (Phase.STOPPED, Phase.FINISHED, Phase.FAILED, Phase.BACKOFF):
            self.senses.unwatch()
            if before.phase in (*UP, Phase.UNVERIFIABLE) and self.handle:
                self.beside(self._bury(self.handle))
        self.parts.changed(self.name)

    async def _write_down(self, record: Record) -> None:
        """First the ledger, then the deed; but a fleet that goes down on a full disk goes down."""
        try:
            await self.parts.ledger.save(record)
        except StorageError as error:
            if not self.ends_unwritten:
                raise
            self.parts.storage(error)

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
        record = replace(record, handle=handle, launches=count, start_used=0.0)
        if not self.harness.has_sessions or headless:  # a headless agent has one for each conversation
            return self._noting_use(replace(record, session_id=None, session_used=record.session_used and not fresh))
        if fresh or record.session_id is None or record.spec.session == "new":
            # One that only takes the place of what could not be resumed gets no first prompt again.
            instead = record.life.budget.renewed and record.session_id is not None and record.spec.session != "new"
            used = record.session_used and instead
            anew = replace(record, session_id=str(uuid.uuid4()), session_used=used, transcript=None)
            return self._noting_use(anew)
        return record

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

        self._acting = self.beside(act(), f"{type(action).__name__} {self.name}")

    def _failed(self, task: asyncio.Task[Any], error: BaseException) -> None:
        super()._failed(task, error)
        if isinstance(error, HostUnreachable):
            return
        if self.life.phase is Phase.STARTING and task in (self._acting, self.starting.clock):
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
        self.senses.watch(handle)
        self.starting.begin_clock(handle)

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
        try:
            await self.runtime.type(handle, [command], literal=True)
            await self.parts.clock.sleep(BEFORE_ENTER)
            await self.runtime.type(handle, ["Enter"], literal=False)
            until = self.parts.clock.now() + self.parts.settings.exit_command_grace
            while self.parts.clock.now() < until:
                if not (await self.runtime.look(handle)).alive:
                    return
                await self.parts.clock.sleep(0.05)
        except HostUnreachable as error:  # whether it can be ended all the same, its end will show
            log.info("agent %s: it could not be asked to leave: %s", self.name, error)

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
        process lives any more, and its last hooks are heard: they might still change what is decided by."""
        parts = self.parts
        preparing = Preparing(
            self.record, self.harness, handle, self.runtime, parts.places, parts.settings, parts.admit, parts.hosts.here
        )
        _, around = await together(self._outlast(handle), preparing.surroundings())
        self.facts.cwd, self.facts.env = around.cwd, around.env
        version = partial(parts.version, self.runtime)
        prepared = await preparing.launch(self.record, around, version, must_resume=self._must_resume)
        self._must_resume = False
        self.facts.warnings = (*self.facts.warnings, *prepared.warnings)
        await self.amend(**prepared.notes)
        return prepared.plan

    async def _outlast(self, handle: Handle) -> None:
        """What is left of older launches goes, and what their hooks have left behind is heard."""
        await self.runtime.purge(self.name, keep=handle.generation, grace=self.parts.settings.kill_grace)
        await self.parts.take_in(self.name)

    # -- its death -------------------------------------------------------------------------------------------------

    async def _died(self, handle: Handle, look: Look) -> None:
        if look.unexplained:
            try:
                look = await self.parts.look_again(handle)
            except HostUnreachable as error:
                if handle == self.handle:
                    self.post(lifecycle.Lost(message=str(error)))
                return
            if look.alive:
                log.warning("agent %s was taken for dead, and lives", self.name)
                if self.is_up(handle):
                    self.senses.watch(handle)
                    self.senses.on_look(handle, look)
                return
        await self.parts.take_in(self.name)  # its last words, while they are still those of the present launch
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
        self.known.catch_up(now, self.swept)
        self.known.lose(Source.STATE_FILE, Source.TITLE, Source.PROCESS)
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
        if state.activity is Activity.ERROR and state.proof and judge.is_auth(state.proof.rule):
            return restart.Cause.AUTH, None
        if state.activity is Activity.LIMITED:
            return restart.Cause.LIMIT, None
        return restart.Cause.CRASH, None

    # -- after the daemon's own restart ----------------------------------------------------------------------------

    async def adopt(self, replay: Replay) -> None:
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
            self.facts.unseen = str(error)
            self.post(lifecycle.Lost(message=str(error)))
            return
        except StorageError as error:
            self.facts.unseen = error.with_hint()
            self.post(lifecycle.Lost(type(error).__name__, error.with_hint()))
            return
        if self._doubts(look):
            self.beside(self._take_over_after_all(handle, replay))  # the others' adoption need not wait for it
        else:
            await self._take_over(handle, look, replay)

    def _doubts(self, look: Look) -> bool:
        """Whether a look must not be taken for a death without another one."""
        return look.unexplained and self.life.launched_at is not None and self.life.phase in (*UP, Phase.UNVERIFIABLE)

    async def _take_over_after_all(self, handle: Handle, replay: Replay) -> None:
        try:
            look = await self.parts.look_again(handle)
        except HostUnreachable as error:
            self.post(lifecycle.Lost(message=str(error)))
            return
        if handle == self.handle and self.life.phase in (*UP, Phase.UNVERIFIABLE):
            await self._take_over(handle, look, replay)

    async def _take_over(self, handle: Handle, look: Look, replay: Replay) -> None:
        self.facts.unseen = None
        if look.alive and not look.multiplexer_lost:
            self.facts.program, self.facts.pane = look.program, look.pane
            self.facts.owner = look.program.pid if look.program else None
            for event in await replay(handle.generation):
                await self.senses.on_hook(event)
            await self.senses.read_state_file()
            self.senses.watch(handle)
            if look.screen:
                self.senses.see(look.screen, look.at)
            await self.senses.read_transcript()
        cause = restart.Cause.MULTIPLEXER if look.multiplexer_lost else restart.Cause(look.gone or restart.Cause.CRASH)
        self.facts.waiting = look.waiting
        alive = look.alive and not look.multiplexer_lost
        self.post(lifecycle.Seen(alive, self.life.started_at is not None, look.exit_status, cause))

    async def _recall(self, handle: Handle) -> None:
        """What a launch knew: from the ledger, and what that does not hold: its environment and folder."""
        self.facts.start_used = self.record.start_used
        kept = StartEnvironment.load(self.parts.places.agent(self.name))
        env = environment(self.spec, self.harness, kept, await session_there(self.spec, self.runtime))
        cwd = self.record.cwd or self.spec.folder
        env.update(plan.derived(self.spec, handle, cwd))
        self.facts.cwd, self.facts.env = cwd, env

    async def host_back(self, replay: Replay) -> None:
        """The host can be read again, or may be: see the agent."""
        if self.life.phase is not Phase.UNVERIFIABLE or self._returning:
            return
        self._returning = True
        try:
            if self.senses.watching:
                await self._look_after_loss()
            else:  # its launch was interrupted, or this daemon has never seen it
                await self.adopt(replay)
            await self.handled()
            to_end = self.life.phase is Phase.UNVERIFIABLE and self.life.before is Phase.STOPPING
            if to_end and (self._acting is None or self._acting.done()):
                self._perform(lifecycle.End())  # what cannot be seen may still be told to end
        finally:
            self._returning = False

    async def _look_after_loss(self) -> None:
        handle = self.handle
        if handle is None:
            return
        try:
            look = await self.runtime.look(handle)
            if self._doubts(look):
                look = await self.parts.look_again(handle)
        except HostUnreachable as error:
            self.facts.unseen = str(error)
            log.info("agent %s: %s", self.name, error)
            return
        if handle != self.handle or self.life.phase is not Phase.UNVERIFIABLE:
            return  # somebody else has seen it meanwhile
        self.facts.unseen = None
        if look.multiplexer_lost:
            self.post(lifecycle.Died(look.exit_status, restart.Cause.MULTIPLEXER))
            return
        cause = restart.Cause(look.gone or restart.Cause.CRASH)
        self.post(lifecycle.Seen(look.alive, self.life.started_at is not None, look.exit_status, cause))
        self.senses.on_look(handle, look)
