"""All agents: wanted against so, brakes, and a daemon's restart.

The supervisor makes a runner for every agent in the ledger, gives each what they share (the runtime, the brake, the
version of a program), and brings the spool's events and the hosts' word to the right one. It decides nothing about a
single agent; `lifecycle` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from fleet import brake, dependencies, lifecycle
from fleet.agent import STORAGE_RETRY, UP, Parts
from fleet.clock import Clock, beat
from fleet.errors import Held, HostUnreachable, LaunchError, StorageError, TimedOut, Unconfirmed
from fleet.events import Event, Events
from fleet.harnesses.base import Harness
from fleet.harnesses.screens import Rules, RuleSet
from fleet.headless import Standing
from fleet.health import answers
from fleet.health.classify import classify
from fleet.health.restart import NOBODYS_FAULT
from fleet.hosts import Hosts, Kind, use_ssh_agent_of
from fleet.ledger import Ledger, Record, StartEnvironment
from fleet.lifecycle import Life
from fleet.manifests.model import AgentSpec, Secret
from fleet.preparing import Admit, no_hub, resolved, spool_of
from fleet.processes import Cost, Meter, host_figures
from fleet.redact import redact
from fleet.runner import WAITS_FOR_OTHERS, Runner
from fleet.runtimes.base import Far, Runtime
from fleet.settings import Places, Settings
from fleet.spool import Drain, fetched
from fleet.tasks import Tasks
from fleet.terms import Activity, Evidence, Handle, HookEvent, Look, Phase, Process, Screen, Verdict

log = logging.getLogger(__name__)

DOWN = "down"
START = "start "
"""How the name of a start's task begins."""
STARTS = "starts"
"""The note of those whose start waits for others, or is waited for, with whether it is to be a fresh one."""
STOPS = "stops"
"""The note of those that a person stops in an order, while that is under way."""
OVER = (Phase.BACKOFF, Phase.FINISHED, Phase.FAILED)
"""Where an end that nobody asked for leads to."""
MEASURE_EVERY = 5.0
"""Seconds between two readings of what processes cost …"""
MEASURE_EACH = 0.06
"""… or so many for each agent, where that is more: two hundred cost no more of a core than eighty …"""
MEASURE_AT_LAST = 20.0
"""… and never more than these."""
MEASURE_THERE = 15.0
"""The same on another machine, which is asked for all its agents at once; sooner only for one not measured yet."""
CATCH_EACH = 0.02
"""Seconds for each agent between two rounds of the net, where that is more than `spool_check`."""
ATTEND_EVERY = 0.5
"""Seconds between two looks for agents that are to be judged again …"""
ATTEND_SETTLED = 0.8
"""… and where all are settled: as between two sweeps where nothing moves, and far less than `ATTEND`."""
TAKEN_IN_WITHIN = 5.0
"""Seconds that a death or a launch waits at most for what hooks have left in the spool: a host may be slow."""
SECOND_LOOK = 0.25
"""Seconds after which a death that nothing explains is looked at again."""
REACH_AGAIN = 5.0
"""Seconds until a host that has never answered is tried again for an agent that is to start on it."""
RULES_FOR = 1.0
"""Seconds for which a person's screen rules are taken as they were read."""
EVENTS_HELD = 10_000
"""Events that are held while the disk is full; beyond that the oldest go."""


OnChange = Callable[[Runner, HookEvent | None], None]


class Supervisor:
    """The fleet. Made by the daemon; `open` it, then speak to it."""

    def __init__(
        self,
        settings: Settings,
        places: Places,
        clock: Clock,
        ledger: Ledger,
        events: Events,
        runtime: Runtime,
        kinds: Mapping[str, Kind] | None = None,
    ) -> None:
        """`runtime`: this machine's; `kinds`: the other hosts that agents may be on."""
        self.settings, self.places, self.clock = settings, places, clock
        self.ledger, self.events, self.runtime = ledger, events, runtime
        self.hosts = Hosts(runtime, kinds)
        self.runners: dict[str, Runner] = {}
        self._known = asyncio.Lock()
        """Held by whoever makes an agent known, or forgets one."""
        self.rules = Rules(places.rules)
        self._rules: dict[str, RuleSet | None] = {}
        self._rules_until = 0.0
        self.unreachable: dict[Runtime, str] = {}
        """The hosts that cannot be read at the moment, and why."""
        self.host: Mapping[str, Any] = {}
        self.faults = 0
        self.admit: Admit = no_hub
        """How a launch comes into the hub. Set by the daemon."""
        self._listeners: list[OnChange] = []
        self.storage_problem: str | None = None
        """Why nothing can be written down at the moment. What happens meanwhile is kept and written later."""
        self._change = asyncio.Event()
        self._meter = Meter()
        self._costs: dict[tuple[Runtime, Process], tuple[float, Cost]] = {}
        """What was told of programs on other machines, and when."""
        self._brake = brake.Bucket.full(settings.brake_burst, clock.now())
        self._brake_lock = asyncio.Lock()
        self._ramp = brake.Ramp(settings.start_parallel, settings.ramp_halt)
        self._toll = brake.Toll(settings.mass_deaths, settings.mass_window)
        self._versions: dict[tuple[str, float, int], str | None] = {}
        self._asked: dict[tuple[str, float, int], asyncio.Task[str | None]] = {}
        """The programs that are being asked for their version."""
        self._versions_there: dict[tuple[str, bytes], str | None] = {}
        """By machine, and what `ls -l` says of the file there."""
        self._drain = Drain(places.spool, events)
        self._spool_watches: dict[str, Callable[[], None]] = {}
        self._spools_there: dict[tuple[Runtime, str], Callable[[], None]] = {}
        """By host and agent."""
        self._clearing = asyncio.Lock()
        self._fetching: dict[str, asyncio.Lock] = {}
        self._state_watches: dict[tuple[Runtime, str], Callable[[], None]] = {}
        """By host and folder."""
        self._waiting: list[Event] = []
        self._flush = asyncio.Event()
        self._writing = asyncio.Lock()
        self._tasks = Tasks(self._failed)
        self._leaves_unreached = False
        """The shutdown under way does not wait for agents whose host does not answer."""
        self._writes = Tasks(self._failed)
        """They end by themselves."""
        self._noted: dict[str, bool] = {}
        """What the note of the starts says."""
        self._stops: frozenset[str] = frozenset()
        """What the note of the stops says."""
        self._noting = asyncio.Lock()
        self._parts = Parts(
            clock=clock,
            settings=settings,
            places=places,
            ledger=ledger,
            hosts=self.hosts,
            classify=self._classify,
            startup_step=self._startup_step,
            version=self._version,
            may_restart=self._may_restart,
            look_again=self._look_again,
            record_event=self.record_event,
            storage=self._on_storage,
            changed=self._changed,
            take_in=self._take_in,
            admit=lambda spec, generation: self.admit(spec, generation),
        )

    # -- life of the daemon ----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take up every agent of the ledger as it stands. One after the other: whoever speaks to the hub meanwhile is
        answered in between."""
        self.hosts.on_host(self._on_host)
        for record in self.ledger.load():
            self._add(record)
            await asyncio.sleep(0)
        for name, rounds in {
            "events": self._write_events(),
            "net": self._again_and_again(self._caught_every, self._net),
            "attend": self._again_and_again(self._attended_every, self._attend),
            "measure": self._again_and_again(self._measured_every, self._measure),
            "measure there": self._again_and_again(MEASURE_EVERY, self._measure_there),
        }.items():
            self._tasks.begin(rounds, name)
        await self._collect_first()
        here = [runner for runner in self.runners.values() if runner.runtime.far is None]
        for runner in self.runners.values():
            if runner.runtime.far is not None:  # a host that is away must not keep the others waiting
                runner.beside(runner.adopt(self._replay))
        adopting = []
        for runner in here:
            adopting.append(asyncio.ensure_future(self._adopt(runner)))
            await asyncio.sleep(0)
        await asyncio.gather(*adopting)
        for name, runner in self.runners.items():
            self._watch_spool(name)
            self._watch_spool_there(runner)
        self._go_on()

    async def _adopt(self, runner: Runner) -> None:
        """A fault in one agent's adoption keeps nobody else from theirs: it is not seen, and looked for again."""
        try:
            await runner.adopt(self._replay)
        except Exception as error:
            log.exception("agent %s: its adoption failed", runner.name)
            runner.tell_fault("adopt", error)
            runner.post(lifecycle.Lost("InternalError", f"{type(error).__name__}: {error}"))

    def _go_on(self) -> None:
        """What a person asked of an earlier daemon, and it had not finished."""
        self._noted = json.loads(self.ledger.note(STARTS) or "{}")
        left = [runner for runner in self.runners.values() if runner.life.wanted]
        if self.ledger.note(DOWN) and left:
            self._tasks.begin(self.stop(left, event=lifecycle.Shutdown()))
        self._stops = frozenset(json.loads(self.ledger.note(STOPS) or "[]"))
        if self._stops:
            self._tasks.begin(self._down_then_up([r for r in self.runners.values() if r.name in self._stops]))
        for name, fresh in self._noted.items():
            if name in self.runners and name not in self._stops:
                self._begin_start(self.runners[name], fresh)

    async def close(self) -> None:
        """Leave: agents stay as they are."""
        asking = tuple(self._asked.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(self._tasks.close(), *asking, return_exceptions=True)
        await asyncio.gather(*(runner.close() for runner in self.runners.values()), return_exceptions=True)
        for end in (*self._spool_watches.values(), *self._spools_there.values(), *self._state_watches.values()):
            end()
        await self.write_events()
        await self.hosts.close()

    def _add(self, record: Record) -> Runner:
        runner = Runner(record, self._parts)
        self.runners[record.name] = runner
        return runner

    # -- what an operator asks -------------------------------------------------------------------------------------

    async def environment(self, spec: AgentSpec, environ: Mapping[str, str]) -> StartEnvironment:
        """What a start of the agent from this environment gives it: secrets are read now, or refused now."""
        secrets = {name: await self._secret(spec, name, value, environ) for name, value in _secrets(spec)}
        use_ssh_agent_of(environ)
        return StartEnvironment(dict(environ), secrets)

    async def declare(self, spec: AgentSpec, environment: StartEnvironment | None) -> Runner:
        """The agent as its manifest has it from now on; it acts from the next launch."""
        async with self._known:
            return await self._declare(spec, environment)

    async def _declare(self, spec: AgentSpec, environment: StartEnvironment | None) -> Runner:
        if environment is not None:
            environment.save(self.places.agent(spec.name))
        runner = self.runners.get(spec.name)
        if runner is None:
            now = self.clock.now()
            record = Record(spec, Life.new(now), session_used_at=now)
            await self.ledger.save(record)
            runner = self._add(record)
        elif runner.spec != spec:
            await runner.declare(spec)
        self._watch_spool(spec.name)
        return runner

    async def start(self, runners: Sequence[Runner], *, fresh: bool = False) -> None:
        """Want them up, in the order of what they depend on; those that wait for others are started in time."""
        await self.ledger.set_note(DOWN, "")
        self._ramp = self._ramp.lifted()
        await self._forget_stops([runner.name for runner in runners])
        if any(runner.spec.depends_on or runner.spec.runtime != "local" for runner in runners):
            await self._note_starts(dict.fromkeys((r.name for r in runners), fresh))
        for runner in runners:
            self._begin_start(runner, fresh)

    def _begin_start(self, runner: Runner, fresh: bool) -> None:
        runner.held = False
        self._tasks.begin(self._start_in_order(runner, fresh), f"{START}{runner.name}")

    async def _note_starts(self, begun: Mapping[str, bool]) -> None:
        """Write it down before it is done: the next daemon goes on with it."""
        async with self._noting:
            noted = {**self._noted, **begun}
            await self.ledger.set_note(STARTS, json.dumps(noted))
            self._noted = noted

    async def _forget_starts(self, names: Collection[str]) -> None:
        """They are started, held or stopped: nobody goes on with their start."""
        async with self._noting:
            while not self._noted.keys().isdisjoint(names):
                noted = {name: fresh for name, fresh in self._noted.items() if name not in names}
                try:
                    await self.ledger.set_note(STARTS, json.dumps(noted))
                    self._noted = noted
                except StorageError as error:
                    self._on_storage(error)
                    await self.clock.sleep(STORAGE_RETRY)

    async def _start_in_order(self, runner: Runner, fresh: bool) -> None:
        try:
            for need in runner.spec.depends_on:
                while (found := self._obstacle(need.agent, need.condition)) is not None:
                    runner.waits_for = found.message
                    self._wake()
                    if found.hopeless and need.agent not in self.starting():
                        self.record_event(runner.name, "phase", "held", {"message": found.message})
                        runner.held = True
                        await self._forget_starts([runner.name])
                        return
                    await self._change.wait()
            runner.waits_for = None
            await self._reach_host(runner)
            runner.post(lifecycle.Start(fresh=fresh))
            await runner.handled()
            await self._forget_starts([runner.name])
        finally:
            self._wake()

    async def _reach_host(self, runner: Runner) -> None:
        """Wait until a host of its answers; who asked for the start need not wait with it."""
        while True:
            try:
                await self.hosts.reach(runner.spec, runner.handle)
            except HostUnreachable as error:
                if runner.waits_for is None:
                    self.record_event(runner.name, "phase", "held", {"message": error.with_hint()})
                    runner.waits_since = self.clock.now()
                runner.waits_for, runner.waits_because, runner.held = error.with_hint(), type(error).__name__, True
                self._wake()
                await self.clock.sleep(REACH_AGAIN)
            else:
                runner.waits_for, runner.waits_because, runner.held = None, WAITS_FOR_OTHERS, False
                return

    def starting(self) -> set[str]:
        """Whose start is under way here, if only because it waits itself: they will not stay stopped."""
        names = [task.get_name() for task in self._tasks if not task.done()]
        under_way = {name.removeprefix(START) for name in names if name.startswith(START)}
        return {name for name in under_way if name not in self.runners or not self.runners[name].held}

    def _obstacle(self, agent: str, condition: dependencies.Condition) -> dependencies.Obstacle | None:
        other = self.runners.get(agent)
        if other is None:
            return dependencies.obstacle(agent, condition, dependencies.Standing(None))
        life = other.life
        ready = other.state.activity is Activity.READY
        clean = life.exit_status in other.spec.restart.success_exit_codes
        return dependencies.obstacle(agent, condition, dependencies.Standing(life.phase, ready, clean))

    async def stop(self, runners: Sequence[Runner], *, event: lifecycle.Event | None = None) -> None:
        """Want them down, those that depend on others first, and wait until nothing of them lives."""
        self._end_waiting(runners)
        await self._forget_starts([runner.name for runner in runners])
        await self._stop_in_order(runners, event or lifecycle.Stop())

    async def restart(self, runners: Sequence[Runner], *, fresh: bool = False) -> None:
        """End them and start them again. Those that depend on each other go down and come up in their order."""
        for runner in runners:  # before anything is ended for it
            await self.hosts.reach(runner.spec, runner.handle)
        await self.ledger.set_note(DOWN, "")
        chosen = {runner.name for runner in runners}
        pairs = [(r.name, need) for r in runners for need in _needs(r.spec) if need in chosen]
        tied = {name for pair in pairs for name in pair}
        if tied:
            ordered = [runner for runner in runners if runner.name in tied]
            self._end_waiting(ordered)
            await self._note_starts(dict.fromkeys(sorted(tied), fresh))
            self._tasks.begin(self._down_then_up(ordered))
        for runner in runners:
            if runner.name not in tied:
                runner.post(lifecycle.Restart(fresh=fresh))

    async def _down_then_up(self, runners: Sequence[Runner]) -> None:
        """Stop them in their order, then start those that are to start; who is stopped meanwhile is not."""
        await self._stop_in_order(runners, lifecycle.Stop())
        for runner in runners:
            if runner.name in self._noted:
                self._begin_start(runner, self._noted[runner.name])

    def _end_waiting(self, runners: Sequence[Runner]) -> None:
        """Their start does not wait for others any more."""
        starts = {f"{START}{runner.name}" for runner in runners}
        for task in self._tasks:
            if task.get_name() in starts:
                task.cancel()
        for runner in runners:
            runner.waits_for, runner.held = None, False

    async def _stop_in_order(self, runners: Sequence[Runner], event: lifecycle.Event) -> None:
        specs = {r.name: r.spec for r in runners}
        groups = dependencies.stop_order({name: _needs(spec) for name, spec in specs.items()})
        noted = len(groups) > 1 and isinstance(event, lifecycle.Stop)
        if noted:
            await self._note_stops(self._stops | specs.keys())
        for group in groups:
            left = self._stops if noted else self.runners.keys()  # who was started meanwhile is let be
            members = [self.runners[name] for name in group if name in left and name in self.runners]
            for runner in members:
                runner.post(event)
            for runner in members:
                await runner.handled()
            await self._until(partial(self._all_down, members), None)
        await self._forget_stops(specs)

    def _all_down(self, runners: Sequence[Runner]) -> bool:
        """Nothing of them lives. Who was started again meanwhile is not waited for: it will not go down. Nor is one
        that cannot be reached, where the fleet is to go down without those."""
        left = [runner for runner in runners if not _is_down(runner) and not runner.life.wanted]
        return not left or (self._leaves_unreached and all(r.life.phase is Phase.UNVERIFIABLE for r in left))

    async def _note_stops(self, names: frozenset[str]) -> None:
        """Write it down before it is done. A full disk keeps nobody from stopping: then it is kept in mind only."""
        async with self._noting:
            self._stops = names
            try:
                await self.ledger.set_note(STOPS, json.dumps(sorted(names)))
            except StorageError as error:
                self._on_storage(error)

    async def _forget_stops(self, names: Iterable[str]) -> None:
        """They are down, or wanted again."""
        if not self._stops.isdisjoint(left := frozenset(names)):
            await self._note_stops(self._stops - left)

    async def shutdown(self) -> tuple[list[str], StorageError | None]:
        """Stop everything and mark the fleet as down: nothing comes back by itself. Who was up, and why that, and
        their end, is not written down, where the disk is full: they are ended all the same."""
        self._leaves_unreached = False
        up = [r for r in self.runners.values() if r.life.wanted]
        unwritten = await self._mark_down(up)
        if unwritten is not None:
            self._noted = {}  # nobody goes on with a start, whatever is written of it
            for runner in self.runners.values():
                runner.ends_unwritten = True
        await self.stop(list(self.runners.values()), event=lifecycle.Shutdown())
        if unwritten is not None:  # what has ended may have left space
            unwritten = await self._mark_down(up)
        for host in self.hosts.all:
            try:
                await host.dismiss()
            except (HostUnreachable, LaunchError, TimedOut) as error:
                log.warning("an empty multiplexer may be left: %s", error)
        left = self.unreached()
        return [r.name for r in up if r not in left], unwritten

    def leave_unreached(self) -> None:
        """The shutdown that is under way waits no more for agents whose host does not answer."""
        self._leaves_unreached = True
        self._wake()

    def unreached(self) -> list[Runner]:
        """Who is to end, and of whom that cannot be seen: their host does not answer."""
        return [r for r in self.runners.values() if r.life.phase is Phase.UNVERIFIABLE and not r.life.wanted]

    async def _mark_down(self, up: Collection[Runner]) -> StorageError | None:
        """Write down that the fleet is down, and who was up; why not, where that cannot be written."""
        try:
            for runner in self.runners.values():
                await runner.amend(was_up=runner in up)
            await self.ledger.set_note(DOWN, "yes")
        except StorageError as error:
            self._on_storage(error)
            return error
        return None

    def was_up(self) -> list[Runner]:
        """Who was up when the fleet was shut down."""
        return [r for r in self.runners.values() if r.record.was_up]

    async def remove(self, runner: Runner) -> list[str]:
        """Stop it and forget it; its folder goes too, and those on another machine. What is left there, in words. Raise
        `Held` where somebody has started it meanwhile."""
        await self.stop([runner])
        async with self._known:
            if self.runners.get(runner.name) is not runner:
                return []  # somebody else has removed it
            if runner.life.wanted or runner.name in self.starting():
                raise Held(f"{runner.name} was started again meanwhile, and stays.", hint=f"fleet stop {runner.name}")
            await self._forget(runner)
        return (await self.clear_there())[1]

    async def _forget(self, runner: Runner) -> None:
        await runner.close()
        try:
            if runner.handle is not None and runner.runtime.far is not None:
                async with self._clearing:
                    await self.ledger.set_left_there([*self.ledger.left_there(), runner.handle])
            await self.ledger.remove(runner.name)
        except StorageError:
            self._add(runner.record)  # it is known on
            raise
        del self.runners[runner.name]
        there = [key for key in self._spools_there if key[1] == runner.name]
        for end in [self._spool_watches.pop(runner.name, None), *(self._spools_there.pop(key) for key in there)]:
            if end:
                end()
        await asyncio.to_thread(shutil.rmtree, self.places.agent(runner.name), True)
        self._wake()

    async def clear_there(self, *, dry_run: bool = False) -> tuple[list[str], list[str]]:
        """Remove what agents that are no more have left on other machines: what was (or would be), and what could not
        be. That is tried again when its host is back, and by `fleet cleanup`."""
        removed, problems = [], []
        async with self._clearing:
            left = list(self.ledger.left_there())
            for handle in tuple(left):
                far = self.hosts.of(handle).far
                if handle.agent not in self.runners and far is not None:
                    try:
                        if not dry_run:
                            await far.clear(handle.agent)
                    except (HostUnreachable, LaunchError, TimedOut, Unconfirmed) as error:
                        problems.append(f"What {handle.agent} has left on {far.machine} stays for now: {error}")
                        continue
                    removed.append(f"folders of {handle.agent} on {far.machine}")
                left.remove(handle)
            if not dry_run and tuple(left) != self.ledger.left_there():
                await self.ledger.set_left_there(left)
        return removed, problems

    async def until(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Wait until it holds; False where it did not in time."""
        return await self._until(predicate, timeout)

    # -- what runners ask ------------------------------------------------------------------------------------------

    def _rules_of(self, harness: str) -> RuleSet | None:
        """The rules in force; a person's file is looked at once a second at most."""
        now = self.clock.now()
        if now >= self._rules_until:
            self._rules, self._rules_until = {}, now + RULES_FOR
        if harness not in self._rules:
            self._rules[harness] = self.rules.of(harness)
        return self._rules[harness]

    def _classify(self, harness: str, screen: Screen, version: str | None) -> Verdict:
        rules = self._rules_of(harness)
        if rules is None:
            return Verdict(Activity.UNKNOWN, rule="no-rules")
        return classify(screen, rules, version, now=self.clock.now())

    def _startup_step(
        self, harness: str, screen: Screen, consents: frozenset[str], version: str | None
    ) -> answers.Step | None:
        rules = self._rules_of(harness)
        return answers.next_step(screen, rules, consents, version) if rules else None

    async def _version(
        self, host: Runtime, harness: Harness, spec: AgentSpec, env: Mapping[str, str], cwd: str
    ) -> str | None:
        """What the program says of its version; asked once for each program file as it stands."""
        argv = harness.version_argv(spec)
        if argv is None:
            return None
        if host.far is not None:
            return await self._version_there(host, harness, argv, env, cwd)
        found = shutil.which(argv[0], path=env.get("PATH"))
        if found is None:
            raise LaunchError(
                f"{spec.name}: the program {argv[0]!r} is not on its PATH.",
                hint="Install it, or name it: `command: [/path/to/it]`. `fleet check` looks at all of this.",
            )
        stat = await asyncio.to_thread(Path(found).stat)
        key = (found, stat.st_mtime, stat.st_size)
        if key not in self._versions:
            if key not in self._asked:  # of many that start at once, one asks for all
                self._asked[key] = asyncio.create_task(self._ask_version(harness, (found, *argv[1:]), env))
            try:
                self._versions[key] = await asyncio.shield(self._asked[key])
            except TimedOut:
                return None
            finally:
                self._asked.pop(key, None)
        return self._versions[key]

    async def _ask_version(self, harness: Harness, argv: Sequence[str], env: Mapping[str, str]) -> str | None:
        ran = await self.runtime.run(argv, env=dict(env), cwd="/", timeout=20)
        return harness.parse_version(ran.stdout.decode(errors="replace"))

    async def _version_there(
        self, host: Runtime, harness: Harness, argv: Sequence[str], env: Mapping[str, str], cwd: str
    ) -> str | None:
        """The same on another machine: whether the file is still the same is asked there."""
        assert host.far is not None
        ran = await host.run(
            ["sh", "-c", 'file=$(command -v "$0") && ls -lLd "$file"', argv[0]], env=env, cwd=cwd, timeout=20
        )
        if ran.status:
            raise LaunchError(
                f"the program {argv[0]!r} is not on the agent's PATH on {host.far.machine}.",
                hint="Install it there, or name it: `command: [/path/to/it]`.",
            )
        key = (host.far.machine, ran.stdout)
        if key not in self._versions_there:
            try:
                ran = await host.run(argv, env=env, cwd=cwd, timeout=20)
            except TimedOut:
                return None
            self._versions_there[key] = harness.parse_version(ran.stdout.decode(errors="replace"))
        return self._versions_there[key]

    async def _may_restart(self, name: str, reason: str | None) -> None:
        if reason in NOBODYS_FAULT.values():
            await self._until(lambda: self._ramp.open, None)
            self._ramp = self._ramp.begin(name)
            return
        async with self._brake_lock:
            while True:
                self._brake, wait = self._brake.take(self.clock.now(), every=self.settings.brake_every)
                if wait <= 0:
                    return
                log.info("agent %s: its restart waits %.1f s for the fleet's brake", name, wait)
                await self.clock.sleep(wait)

    @property
    def ramp_note(self) -> str | None:
        """Why agents that should come back do not, for a person."""
        return self._ramp.note

    def _climb(self, runner: Runner) -> None:
        """What a start on the ramp has come to."""
        name = runner.name
        if name not in self._ramp.under_way:
            return
        match runner.life.phase:
            case Phase.RUNNING | Phase.FINISHED:
                self._ramp = self._ramp.succeeded(name)
            case Phase.BACKOFF | Phase.FAILED:
                self._ramp = self._ramp.failed(name)
            case Phase.STOPPED | Phase.STOPPING | Phase.UNVERIFIABLE:
                self._ramp = self._ramp.left(name)
            case Phase.STARTING if runner.state.activity is Activity.NEEDS_INPUT and runner.facts.settling is None:
                self._ramp = self._ramp.left(name)  # it waits for a person, and the others need not

    async def _look_again(self, handle: Handle) -> Look:
        """A death that nothing explains is looked at again before it is believed, and where there are many at a time,
        the first ones of them too, once more and later: then the observer is to be doubted before the agents."""
        self._toll = self._toll.strike(self.clock.now())
        await self.clock.sleep(SECOND_LOOK)
        look = await self.hosts.of(handle).look(handle)
        if look.unexplained and self._toll.many:
            await self.clock.sleep(self.settings.mass_recheck - SECOND_LOOK)
            look = await self.hosts.of(handle).look(handle)
        return look

    def record_event(self, agent: str, kind: str, name: str, payload: Mapping[str, Any]) -> None:
        """Into the event store, soon."""
        if kind == "phase" and payload.get("because") == lifecycle.Seen.__name__:
            self._tell_unseen_end(self.runners[agent], payload)
        self._waiting.append(Event(at=self.clock.now(), agent=agent, type=kind, name=name, payload=dict(payload)))
        if kind == "fault":
            self.faults += 1
        self._flush.set()

    def _tell_unseen_end(self, runner: Runner, payload: Mapping[str, Any]) -> None:
        """An end while nobody looked, the daemon being away or the host, is told as one that was seen."""
        was_up = payload["from"] in (*UP, Phase.UNVERIFIABLE) and not runner.facts.over
        if was_up and payload["to"] in OVER and runner.handle is not None:
            told = {"exit_status": payload["exit_status"], "unseen": True}
            self.record_event(runner.name, "exit", runner.handle.generation, told)

    def _on_storage(self, error: StorageError | None) -> None:
        problem = str(error) if error else None
        if problem != self.storage_problem:
            log.warning("writing: %s", problem or "it goes again")
        self.storage_problem = problem

    def standing(self, name: str) -> Standing | None:
        """What a turn of the agent needs to know of it, where it is headless and up."""
        runner = self.runners.get(name)
        return runner.standing if runner is not None else None

    def unseen(self, name: str) -> bool:
        """Whether it is not known if the agent is up for a turn."""
        runner = self.runners.get(name)
        return runner is not None and runner.unseen

    def hear(self, name: str, evidence: Evidence) -> None:
        """What a headless agent's turns tell of it."""
        if name in self.runners:
            self.runners[name].senses.hear(evidence)

    def hear_spent(self, name: str, figures: Mapping[str, Any]) -> None:
        """What a headless agent's turns have cost together, as a status line tells it of the others."""
        if name in self.runners:
            self.runners[name].facts.status_line = figures

    def on_change(self, listener: OnChange) -> None:
        """From now on tell it when an agent stands differently, and of each of its hooks' events."""
        self._listeners.append(listener)

    def _tell(self, runner: Runner, event: HookEvent | None = None) -> None:
        for listener in self._listeners:
            with runner.guarded("telling"):
                listener(runner, event)

    def _changed(self, name: str) -> None:
        runner = self.runners.get(name)
        if runner is None:
            return  # it was removed meanwhile
        self._tell(runner)
        self._climb(runner)
        self._watch_state_folder(runner)
        self._watch_spool_there(runner)
        self._wake()

    def _wake(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def _until(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while not predicate():
            remaining = None if deadline is None else deadline - loop.time()
            if remaining is not None and remaining <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._change.wait(), remaining)
        return True

    async def _secret(self, spec: AgentSpec, name: str, value: Secret, environ: Mapping[str, str]) -> str:
        try:
            content = await self._secret_content(spec, value, environ)
            if b"\0" in content:
                raise LaunchError("it holds a zero byte, which no variable can")
        except (LaunchError, TimedOut) as error:
            hint = f"Nothing was started. `fleet check {spec.source or spec.name}` looks at every secret."
            raise LaunchError(f"{spec.name}: env.{name}: {error}", hint=hint) from error
        return content.decode(errors="surrogateescape")

    async def _secret_content(self, spec: AgentSpec, value: Secret, environ: Mapping[str, str]) -> bytes:
        if value.env is not None:
            if value.env not in environ:
                raise LaunchError(f"the variable {value.env} is not set where fleet was started")
            return environ[value.env].encode(errors="surrogateescape")
        if value.file is not None:
            path = resolved(value.file, spec.folder, environ)
            content = await self.runtime.read(path)
            if content is None:
                raise LaunchError(f"there is no file {path}")
            return content.removesuffix(b"\n")
        ran = await self.runtime.run(value.command, env=dict(environ), cwd=spec.folder or "/", timeout=30)
        if ran.status:
            said = redact(ran.stderr.decode(errors="replace").strip()[-300:])
            raise LaunchError(": ".join(filter(None, [f"its command ended with {ran.status}", said])))
        return ran.stdout.removesuffix(b"\n")

    # -- hosts -----------------------------------------------------------------------------------------------------

    def _on_host(self, host: Runtime, reason: str | None) -> None:
        if reason is None:
            self.unreachable.pop(host, None)
        else:
            self.unreachable[host] = reason
        for runner in self.runners.values():
            if runner.runtime is not host:
                continue
            if reason is not None:
                if runner.life.phase in (*UP, Phase.STOPPING):
                    runner.post(lifecycle.Lost(message=reason))
                elif runner.life.phase is Phase.UNVERIFIABLE:
                    runner.facts.unseen = reason
                    self._changed(runner.name)
            else:
                runner.beside(runner.host_back(self._replay))
        if reason is None and self.ledger.left_there():
            self._tasks.begin(self._clear_later())

    async def _clear_later(self) -> None:
        for problem in (await self.clear_there())[1]:
            log.info("%s", problem)

    # -- the spool -------------------------------------------------------------------------------------------------

    def _watch_spool(self, name: str) -> None:
        if name in self._spool_watches:
            return
        folder = self.places.spool / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        pending = asyncio.Event()

        def on_change(_file: str) -> None:
            if not pending.is_set():
                pending.set()
                self._tasks.begin(self._collect_soon(name, pending))

        self._spool_watches[name] = self.runtime.watch_folder(str(folder), on_change)

    async def _collect_soon(self, name: str, pending: asyncio.Event) -> None:
        pending.clear()
        await self._collect(name)

    async def _collect(self, name: str | None) -> None:
        """Store what lies in the spool, then tell the agents whose hooks it was."""
        await self._heard(await self._drain.drain(name))

    async def _collect_first(self) -> None:
        """Hear what hooks have told while no daemon was there. No launch has been looked at yet, so its first hook
        says who its program is: a nested run of it must not take the agent to its own conversation."""
        events = await self._drain.drain()
        programs = await self.events.first_pids(event.generation for event in events if event.generation)
        await self._heard([e for e in events if e.pid is None or programs.get(e.generation or "", e.pid) == e.pid])

    async def _take_in(self, name: str) -> None:
        """Hear what an agent's hooks have told so far. What cannot be had within a moment is heard later."""
        runner = self.runners.get(name)
        if runner is None:
            return  # it was removed meanwhile
        host = runner.runtime
        try:
            async with asyncio.timeout(TAKEN_IN_WITHIN):
                if host.far is None:
                    await self._collect(name)
                else:
                    await self._collect_there(host.far, name, spool_of(name, host, self.places))
        except TimeoutError:
            log.warning("agent %s: what its hooks told last is not heard within %g s", name, TAKEN_IN_WITHIN)

    async def _heard(self, events: Sequence[HookEvent]) -> None:
        for event in events:
            runner = self.runners.get(event.agent)
            if runner is not None:
                with runner.guarded(event.name):
                    await runner.senses.on_hook(event)
                    self._tell(runner, event)

    def _watch_spool_there(self, runner: Runner) -> None:
        """The spool on another machine, for as long as the agent is known: events may come in late."""
        host = runner.runtime
        if host.far is None or (host, runner.name) in self._spools_there:
            return
        folder, pending = spool_of(runner.name, host, self.places), asyncio.Event()

        async def collect() -> None:
            pending.clear()
            await self._collect_there(host.far, runner.name, folder)

        def on_change(file: str) -> None:
            if not file.startswith(".") and not pending.is_set():
                pending.set()
                self._tasks.begin(collect())

        self._spools_there[host, runner.name] = host.watch_folder(folder, on_change)

    async def _collect_there(self, far: Far | None, agent: str, folder: str) -> None:
        """Store what lies in a spool on another machine, and only then remove it there. What a cut leaves is fetched
        again, and its name tells it from what is stored."""
        assert far is not None
        async with self._fetching.setdefault(folder, asyncio.Lock()):
            more = True
            while more:
                try:
                    files, more = await far.spooled(folder)
                    if not files:
                        return
                    stored = await self.events.keep(fetched(agent, files))
                    await self._heard(stored)
                    await far.forget(folder, [file.name for file in files])
                except (HostUnreachable, LaunchError, TimedOut) as error:
                    log.info("agent %s: its events stay in its spool: %s", agent, error)
                    return  # all that lies there is told of anew at the next connection
                except StorageError as error:
                    self._on_storage(error)
                    await self.clock.sleep(STORAGE_RETRY)
                    more = True

    async def _replay(self, generation: str) -> list[HookEvent]:
        return await self.events.of_generation(generation)

    def _watch_state_folder(self, runner: Runner) -> None:
        """One watch on a home's folder of state files sees every agent of that home."""
        folder = runner.harness.state_folder(runner.facts.env) if runner.facts.env else None
        host = runner.runtime
        if folder is None or (host, folder) in self._state_watches or runner.life.phase not in UP:
            return

        def on_change(file: str) -> None:
            pid = PurePosixPath(file).stem
            for other in self.runners.values():
                if str(other.facts.owner) == pid and other.runtime is host:
                    other.beside(other.senses.read_state_file())

        self._state_watches[host, folder] = host.watch_folder(folder, on_change)

    # -- housekeeping ----------------------------------------------------------------------------------------------

    def _failed(self, task: asyncio.Task[Any], error: BaseException) -> None:
        self.faults += 1
        log.error("%s failed", task.get_name(), exc_info=error)

    def _caught_every(self) -> float:
        return max(self.settings.spool_check, CATCH_EACH * len(self.runners))

    def _measured_every(self) -> float:
        return max(MEASURE_EVERY, min(MEASURE_EACH * len(self.runners), MEASURE_AT_LAST))

    async def _again_and_again(self, every: float | Callable[[], float], doing: Callable[[], Awaitable[None]]) -> None:
        """One round after the other; a fault in one is told, and does not end the rounds."""
        while True:
            try:
                await doing()
            except Exception:
                self.faults += 1
                log.exception("%s failed", getattr(doing, "__name__", "a round"))
            await beat(self.clock, every() if callable(every) else every)

    async def _write_events(self) -> None:
        while True:
            await self._flush.wait()
            await self.write_events()
            if self.storage_problem:
                await self.clock.sleep(STORAGE_RETRY)
                self._flush.set()

    async def write_events(self) -> None:
        """What was recorded so far stands in the store when this returns, unless nothing can be written. Whoever waits
        for it may go away: it is done nevertheless, once."""
        await asyncio.shield(self._writes.begin(self._write_waiting()))

    async def _write_waiting(self) -> None:
        async with self._writing:
            self._flush.clear()
            batch, self._waiting = self._waiting, []
            if not batch:
                return
            try:
                await self.events.append(batch)
            except StorageError as error:
                self._on_storage(error)
                self._waiting = [*batch, *self._waiting][-EVENTS_HELD:]
                return
            self._on_storage(None)

    async def _net(self) -> None:
        """Below the pushes: what they missed is found here."""
        await self._collect(None)
        for runner in self.runners.values():
            if runner.life.phase is Phase.UNVERIFIABLE and runner.runtime not in self.unreachable:
                runner.beside(runner.host_back(self._replay))  # one call failed, and nobody else will tell it

    async def _attend(self) -> None:
        """Agents about which nothing was heard for a while, and time alone may still change what is known."""
        now = self.clock.now()
        for runner in self.runners.values():
            if runner.due is not None and runner.due <= now and runner.life.phase in UP:
                with runner.guarded("attend"):
                    runner.senses.attend()

    def _attended_every(self) -> float:
        return ATTEND_SETTLED if all(runner.due is None for runner in self.runners.values()) else ATTEND_EVERY

    async def _measure(self) -> None:
        """Figures of processes and host."""
        up = [r for r in self.runners.values() if r.life.phase in UP and r.runtime.far is None]
        roots = {r.name: [r.facts.program] for r in up if r.facts.program}
        figures = await asyncio.to_thread(self._meter.read, roots, self.clock.now())
        for name, found in figures.items():
            if name in self.runners:
                with self.runners[name].guarded("figures"):
                    self.runners[name].senses.measured(found)
        self.host = await asyncio.to_thread(host_figures, str(self.places.state))

    async def _measure_there(self) -> None:
        """Figures of processes on other machines: one request for each of those."""
        up: dict[Runtime, list[Runner]] = {}
        for runner in self.runners.values():
            host = runner.runtime
            over_ssh = host.name == "ssh"  # processes of a job are on yet another machine
            if runner.life.phase in UP and runner.facts.program and over_ssh and host not in self.unreachable:
                up.setdefault(host, []).append(runner)
        living = {(host, runner.facts.program) for host, runners in up.items() for runner in runners}
        self._costs = {key: cost for key, cost in self._costs.items() if key in living}
        await asyncio.gather(*(self._measure_on(host, runners) for host, runners in up.items()))

    async def _measure_on(self, host: Runtime, runners: Sequence[Runner]) -> None:
        roots = {runner.facts.program: runner for runner in runners if runner.facts.program}
        measured = [self._costs[host, program][0] for program in roots if (host, program) in self._costs]
        if len(measured) == len(roots) and self.clock.now() - min(measured) < MEASURE_THERE:
            return
        try:
            costs = await host.far.figures(roots) if host.far else {}
        except (HostUnreachable, LaunchError, TimedOut) as error:  # those of before stand until it tells
            log.info("no figures: %s", error)
            return
        now = self.clock.now()
        for program, cost in costs.items():
            at, before = self._costs.get((host, program), (now, None))
            self._costs[host, program] = now, cost
            if roots[program].facts.program == program:
                roots[program].senses.measured(cost.since(before, now - at))


def _secrets(spec: AgentSpec) -> list[tuple[str, Secret]]:
    return [(name, value) for name, value in spec.env.items() if isinstance(value, Secret)]


def _needs(spec: AgentSpec) -> list[str]:
    return [need.agent for need in spec.depends_on]


def _is_down(runner: Runner) -> bool:
    return runner.life.phase in (Phase.STOPPED, Phase.FINISHED, Phase.FAILED) and not runner.life.wanted


def names(runners: Iterable[Runner]) -> str:
    return ", ".join(sorted(r.name for r in runners))
