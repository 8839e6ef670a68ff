"""Agents in SLURM jobs: one job at a time for each, followed by its successor at the walltime.

A launch is a folder that all nodes see, and the jobs that are submitted with its script (slurm_job.sh), one after the
other: to the supervisor it is one launch that lives as long as one of them waits or runs. What becomes of it is told
by three: the notes that a run leaves in the folder, the one question for all jobs (slurm_cluster.py), and tmux in the
job (slurm_tmux.py) for what is seen. handoff.py makes them into facts, which are written down before they are acted
on, and are gone on with by the next daemon.

What concerns the submit host itself (commands, files) goes through that host's own runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleet.clock import Clock
from fleet.errors import CannotYet, FleetError, HostUnreachable, LaunchError, TimedOut, Unconfirmed
from fleet.manifests.model import AgentSpec, Slurm
from fleet.redact import redact
from fleet.runtimes import handoff as handing
from fleet.runtimes import lease, slurm_queue, slurm_runs, slurm_script, slurm_tmux, watching
from fleet.runtimes.base import Ended, OnLook
from fleet.runtimes.handoff import Handoff, Outcome, Successor
from fleet.runtimes.lease import Times
from fleet.runtimes.multiplexers import Seen, ServerGone
from fleet.runtimes.slurm_cluster import SUBMIT_WITHIN, Answer, Cluster, OnSubmitHost, check
from fleet.runtimes.slurm_hub import Door
from fleet.runtimes.slurm_queue import Cause, Standing
from fleet.runtimes.slurm_runs import Run
from fleet.settings import Places, Settings
from fleet.tasks import Tasks
from fleet.terms import File, Handle, LaunchPlan, Look, Screen

log = logging.getLogger(__name__)

SCRIPTS = {name: Path(__file__).with_name(name) for name in ("launcher.sh", "lease.sh", "slurm_tenant.sh")}
READ_EVERY = 1.0
"""Seconds between two looks at a launch's folder for new notes."""
END_WITHIN = 90.0
"""Seconds a cancelled job may take to be gone, beside its grace and its lease: what SLURM waits before it kills."""
LOOK_WITHIN = 3.0
"""Seconds a look waits for the queue's answer."""
TOLD_WITHIN = 30.0
"""Seconds that the queue's word on a job whose pane cannot be reached counts."""
KEPT_LAUNCHES = 5
"""Folders of ended launches that are kept per agent."""
SUBMIT_AGAIN = 5.0
"""Seconds between two attempts to submit a successor, more before each one."""
WANTED_NO_MORE = b"-\n"
PURGED = "purged"
END = "an end"
RM = {"PATH": "/usr/local/bin:/usr/bin:/bin"}

WRITES_WITHIN = 240.0
"""Seconds that an agent has to write down where it is, where its job's end is not known …"""
LEFT = 45.0
"""… and before that end, the seconds that are left for the end itself."""

OnWalltime = Callable[[Handle, str, float], Awaitable[None]]
"""Have the agent write down where it is, as far as it can: its launch, the job that ends, and the seconds it has. The
job may end once this returns."""


async def nothing_to_write(handle: Handle, job: str, within: float) -> None:
    """Of an agent that has no words."""


class SlurmRuntime(OnSubmitHost):
    """Agents in jobs of one cluster."""

    name = "slurm"

    def __init__(
        self,
        cluster: Cluster,
        places: Places,
        settings: Settings,
        clock: Clock,
        secrets: Callable[[str], Collection[str]] = lambda _: (),
        *,
        times: Times | None = None,
        read_every: float = READ_EVERY,
    ) -> None:
        """`secrets` tells what an agent was given as such: it goes from what is kept of its pane."""
        super().__init__(cluster)
        self._settings, self._clock, self._secrets = settings, clock, secrets
        self._places = cluster.shared(places)
        """Those that the nodes see."""
        self._hub = places.run / "hub.sock"
        self._times = times or Times()
        self._read_every = read_every
        self._chains: dict[str, _Chain] = {}
        """By generation."""
        self._watches: watching.Watches[_Watched] = watching.Watches(places, settings, secrets)
        self.on_walltime: OnWalltime = nothing_to_write
        self._tasks = Tasks(_failed)
        self._closed = False
        cluster.on_answer(self._queue_answered)

    # -- minting -------------------------------------------------------------------------------------------------

    def mint(self, agent: str, generation: str, multiplexer: str) -> Handle:
        if multiplexer != "tmux":
            raise CannotYet(f"{multiplexer} in a SLURM job: use tmux there")
        return self._handle(agent, generation)

    def _handle(self, agent: str, generation: str) -> Handle:
        return replace(handle_of(self._places, agent, generation), host=self._cluster.name)

    def _root(self, agent: str) -> Path:
        return self._places.agent(agent) / "launch"

    def _leases(self, handle: Handle) -> str:
        return str(self._places.agent(handle.agent) / "leases")

    # -- launching -----------------------------------------------------------------------------------------------

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        """Submit the job; that it waits is seen by looking."""
        if await self._known(handle) is not None:
            return
        await check(self._host, plan)
        spec = plan.place if isinstance(plan.place, AgentSpec) else None
        section = (spec.slurm if spec is not None else None) or Slurm()
        requeue = spec is None or spec.restart.policy != "never"
        home = plan.env.get("HOME", str(Path.home()))
        job = job_of(handle, self._places, self._settings, home, times=self._times, requeue=requeue)
        await self._pre_submit(section, plan)
        again = None if plan.again is None else replace(plan, argv=plan.again)
        ours = [File(f"{scripts_of(self._places)}/{name}", path.read_bytes(), 0o700) for name, path in SCRIPTS.items()]
        resubmits = section.auto_resubmit and again is not None
        attempt = File(f"{handle.folder}/submitting", f"{time.time():.0f} {resubmits:d}\n".encode())
        await self._host.put([*ours, *slurm_script.files(job, section, plan, again), attempt])
        self._watches.log(handle.agent).begin(handle.generation, self._clock.now())
        id_ = await self._cluster.submit(slurm_script.submit_argv(job))
        known = Handoff(job=id_, resubmits=resubmits)
        self._chains[handle.generation] = _Chain(handle, known)  # what the queue is asked from now on tells of the job
        await self._note(handle, known)
        log.info("agent %s: job %s is submitted", handle.agent, id_)

    async def _note(self, handle: Handle, known: Handoff) -> None:
        await self._host.put([File(f"{handle.folder}/handoff", slurm_runs.to_json(known))])

    async def _pre_submit(self, section: Slurm, plan: LaunchPlan) -> None:
        for hook in section.hooks.pre_submit:
            shown = redact(" ".join(hook.words), self._secrets(plan.agent))
            try:
                ran = await self._host.run(hook.words, env=plan.env, cwd=plan.cwd, timeout=hook.timeout)
            except TimedOut as error:
                raise LaunchError(f"slurm.hooks.pre_submit `{shown}`: {error}") from error
            if ran.status:
                raise LaunchError(f"slurm.hooks.pre_submit `{shown}` ended with {ran.status}")

    # -- what is known of a launch -------------------------------------------------------------------------------

    async def _known(self, handle: Handle) -> _Chain | None:
        """The launch's jobs; `None` where none was ever submitted.

        Where it is not known whether a submission arrived, it is looked for by name; while one may still be under
        way, not finding it means nothing.
        """
        if (chain := self._chains.get(handle.generation)) is not None:
            return chain
        content = await self._host.read(f"{handle.folder}/handoff")
        if content is None:
            content = await self._find(handle)
        if content is None:
            return None
        return self._chains.setdefault(handle.generation, _Chain(handle, slurm_runs.from_json(content)))

    async def _find(self, handle: Handle) -> bytes | None:
        noted = await self._host.read(f"{handle.folder}/submitting")
        if noted is None or PURGED in await self._host.list(handle.folder):
            return None
        at, resubmits = noted.split()
        answer = await self._answer(time.monotonic())
        named = answer.named(_name(handle))
        if named:
            await self._note(handle, Handoff(job=named[0].id, resubmits=resubmits == b"1"))
            return await self._host.read(f"{handle.folder}/handoff")
        if time.time() - float(at) < SUBMIT_WITHIN + 10:
            raise HostUnreachable(f"it is not known yet whether the job of {handle.generation} was submitted")
        return None

    async def _answer(self, newer_than: float, within: float = LOOK_WITHIN) -> Answer:
        """What the queue says, if it says so soon."""
        try:
            async with asyncio.timeout(within):
                return await self._cluster.newer(newer_than)
        except TimeoutError:
            silent = self._cluster.silent or "SLURM's controller has not been heard yet"
            raise HostUnreachable(silent) from None

    async def _take_in_notes(self, chain: _Chain) -> None:
        """Read what its runs have noted since, the oldest first, and go on from there: of runs that came and went while
        nobody looked, each one's last words come before the next one's first."""
        async with chain.reading:
            newest, run = await self._read_run(chain, chain.run or Run(0))
            if newest is None:
                return
            await self._tell_of_run(chain, run)
            for number in await self._later_runs(chain, newest):
                earlier, chain.run, chain.run_at = chain.run, Run(number), time.monotonic()
                _, run = await self._read_run(chain, chain.run)
                if earlier is not None and earlier.job == run.job == chain.handoff.job:
                    await self._start_over(chain, earlier.number)  # requeued, and running again
                await self._tell_of_run(chain, run)

    async def _later_runs(self, chain: _Chain, newest: int) -> list[int]:
        """The numbers of its runs after the one that was the newest; at first, of all."""
        known = chain.run.number if chain.run is not None else 0
        if newest == known:
            return []
        if newest == known + 1:
            return [newest]
        names = await self._host.list(chain.handle.folder)
        numbers = [int(name[4:]) for name in names if name.startswith("run.") and name[4:].isdigit()]
        return sorted(number for number in numbers if known < number <= newest)

    async def _read_run(self, chain: _Chain, run: Run) -> tuple[int | None, Run]:
        """The number of the newest run, and this one with all that it has noted."""
        names = [name for name in slurm_runs.NOTES if name not in run.notes]
        told = await self._cluster.steps.notes(chain.handle.folder, run.number, names)
        if told.noted:
            run = Run(run.number, {**run.notes, **told.noted})
            if chain.run is not None and chain.run.number == run.number:
                chain.run = run
        return told.newest, run

    async def _tell_of_run(self, chain: _Chain, run: Run) -> None:
        if run is chain.present:
            for event in slurm_runs.events(chain.handoff, run):
                await self._post(chain, event)
                if isinstance(event, handing.Told):
                    self._cluster.sooner()

    # -- the hand-off --------------------------------------------------------------------------------------------

    async def _post(self, chain: _Chain, event: handing.Event) -> None:
        """Something is known: write down what follows, then do it."""
        async with chain.stepping:
            known, actions = handing.step(chain.handoff, event)
            if known != chain.handoff:
                await self._note(chain.handle, known)
                if known.successor is not chain.handoff.successor:
                    chain.successor_at = time.monotonic()
                chain.handoff = known
        for action in actions:
            log.info("agent %s: job %s: %s", chain.handle.agent, known.job, action)
            await self._perform(chain, action)

    async def _perform(self, chain: _Chain, action: handing.Action) -> None:
        match action:
            case handing.AskToWriteDown():
                chain.writing = self._tasks.begin(self._write_down(chain))
            case handing.Submit(attempt=attempt):
                self._tasks.begin(self._submit(chain, attempt))
            case handing.Find():
                self._cluster.sooner()
            case handing.Leave():
                if (run := chain.present) is not None:
                    await self._host.put([File(f"{chain.handle.folder}/run.{run.number}/leave", b"")])
            case handing.Cancel(job=job):
                chain.cancels.append(job if job is not None else f"--name={_name(chain.handle)}")
            case handing.Follow(job=job):
                await self._move(chain, job)
            case handing.Report():
                pass  # the next look tells of it

    async def _write_down(self, chain: _Chain) -> None:
        if chain.job is None:  # this daemon has not heard of it yet
            with contextlib.suppress(HostUnreachable):
                chain.job = (await self._answer(chain.since)).jobs.get(chain.handoff.job)
        end = chain.job.end if chain.job is not None else None
        within = WRITES_WITHIN if end is None else max(end - time.time() - LEFT, 10.0)
        try:
            await self.on_walltime(chain.handle, chain.handoff.job, within)
        except FleetError as error:
            log.info("agent %s: it could not be asked to write down where it is: %s", chain.handle.agent, error)
        await self._post(chain, handing.Written())

    async def _submit(self, chain: _Chain, attempt: int) -> None:
        """Submit the successor, unless the job itself was faster."""
        run = chain.present
        if attempt == 1 and run is not None:
            made = await self._host.run(
                ["mkdir", f"{chain.handle.folder}/run.{run.number}/handover"], env={}, cwd="/", timeout=10
            )
            if made.status:
                return
        await self._clock.sleep(SUBMIT_AGAIN * (attempt - 1))
        script = slurm_script.submit_argv(job_of(chain.handle, self._places, self._settings, ""))
        try:
            job = await self._cluster.submit(script)
        except HostUnreachable:
            await self._post(chain, handing.Unanswered())
        except LaunchError as error:
            log.warning("agent %s: its successor: %s", chain.handle.agent, error)
            await self._post(chain, handing.Refused())
        else:
            await self._post(chain, handing.Submitted(job))

    async def _move(self, chain: _Chain, job: str) -> None:
        """From now on the launch is the successor's."""
        known = Handoff(job=job, resubmits=chain.handoff.resubmits)
        await self._note(chain.handle, known)
        chain.begin(known)

    async def _start_over(self, chain: _Chain, number: int) -> None:
        """The job was requeued: it is what it was before its runs up to that number."""
        known = Handoff(job=chain.handoff.job, resubmits=chain.handoff.resubmits)
        await self._note(chain.handle, known)
        job, asked = chain.job, chain.asked
        chain.begin(known)
        chain.floor, chain.job, chain.asked = number, job, asked

    async def _finish(self, chain: _Chain) -> None:
        """What an earlier daemon had decided and not done, and what has to be tried again."""
        known = chain.handoff
        if known.outcome is Outcome.FOLLOWED and known.successor_job is not None:
            await self._move(chain, known.successor_job)
        for job in list(chain.cancels):
            await self._cluster.cancel(job)
            chain.cancels = [other for other in chain.cancels if other != job]
        if known.successor is Successor.WANTED and time.monotonic() - chain.successor_at > SUBMIT_WITHIN + 20:
            await self._post(chain, handing.Unanswered())

    def _resume(self, chain: _Chain) -> None:
        """What an earlier daemon had asked the agent for, or what failed, is waited for again while its job lives."""
        under_way = chain.writing is not None and not chain.writing.done()
        lives = chain.present is not None and chain.handoff.ended is None
        if chain.handoff.writing is handing.Writing.ASKED and lives and not under_way:
            chain.writing = self._tasks.begin(self._write_down(chain))

    # -- the queue's word ----------------------------------------------------------------------------------------

    def _queue_answered(self, answer: Answer) -> None:
        for watched in self._watches:
            chain = self._chains.get(watched.handle.generation)
            if chain is not None:
                self._tasks.begin(self._queue_told(chain, answer))

    async def _queue_told(self, chain: _Chain, answer: Answer) -> None:
        """What the queue says of the launch's job and of its successor."""
        known = chain.handoff
        if known.outcome is not None or answer.asked_at <= chain.since:
            return
        chain.asked = answer.asked_at
        job = answer.jobs.get(known.job)
        chain.job = job or chain.job
        if known.ended is None:
            if job is None or job.standing is Standing.ENDED:
                await self._job_over(chain, job)
            elif job.standing is Standing.WAITING and chain.present is not None and answer.asked_at > chain.run_at:
                await self._requeued(chain)
        known = chain.handoff
        if known.successor is Successor.UNSURE and answer.asked_at > chain.successor_at:
            others = [other.id for other in answer.named(_name(chain.handle)) if other.id != known.job]
            await self._post(chain, handing.Submitted(others[-1]) if others else handing.NotFound())
        elif known.successor is Successor.KNOWN and known.outcome is None and known.successor_job is not None:
            successor = answer.jobs.get(known.successor_job)
            if successor is not None and successor.standing is Standing.ENDED:
                await self._post(chain, handing.SuccessorGone(successor.cause or Cause.EXITED))

    async def _job_over(self, chain: _Chain, job: slurm_queue.Job | None) -> None:
        """The job has ended; what its run has noted of it goes before what SLURM makes of its script's status."""
        await self._take_in_notes(chain)
        if chain.handoff.ended is not None:
            return
        if job is None and not chain.lingers:  # the queue has forgotten it
            job = await self._cluster.accounted(chain.handoff.job)
        run = chain.present
        told = Cause.CANCELLED if chain.lingers else run.told if run is not None else None
        cause = (job.cause if job is not None else None) or told or Cause.FORGOTTEN
        chain.lingers = cause is Cause.CANCELLED and not await self._has_ended(chain)
        if chain.lingers:  # cancelled behind the back of its script, which nobody told to end
            await self._want_no_more(chain.handle)
        else:
            await self._post(chain, handing.Ended(cause))

    async def _has_ended(self, chain: _Chain) -> bool:
        """Whether nothing of the present run lives, by its own word or by its lease."""
        run = chain.present
        if run is None or run.ended is not None:
            return True
        chain.lease, free = await self.lease_of(self._leases(chain.handle), run.number, chain.lease, self._times)
        return free

    async def _requeued(self, chain: _Chain) -> None:
        """It will run again, under the same id; where a successor is under way, that one has the conversation."""
        assert chain.run is not None
        if chain.handoff.successor in (Successor.WANTED, Successor.UNSURE, Successor.KNOWN):
            await self._post(chain, handing.Ended(Cause.REQUEUED))
        else:
            await self._start_over(chain, chain.run.number)

    # -- looking -------------------------------------------------------------------------------------------------

    async def look(self, handle: Handle) -> Look:
        chain = await self._known(handle)
        if chain is None:
            return Look(at=self._clock.now(), alive=False)
        if chain.handoff.outcome is not Outcome.REPORTED:
            if self._cluster.silent is not None:
                await self._answer(time.monotonic(), within=0.05)
            await self._learn(chain)
        else:
            await self._take_in_notes(chain)
        try:
            seen = None if chain.over else await self._seen(chain)
        except HostUnreachable:
            if not await self._is_gone(chain):
                raise
            seen = None
        return self._look(chain, seen.screen if seen else None, seen.pane if seen else None)

    async def _is_gone(self, chain: _Chain) -> bool:
        """Whether a job whose pane cannot be reached is no more, as far as anybody tells."""
        try:
            answer = await self._answer(max(chain.since, time.monotonic() - TOLD_WITHIN))
        except HostUnreachable as error:
            log.debug("agent %s: %s", chain.handle.agent, error)
            return False
        await self._queue_told(chain, answer)
        return chain.over or chain.lingers

    async def _learn(self, chain: _Chain) -> None:
        """Read the notes; of a job that has noted nothing yet, or no longer, the queue knows."""
        await self._take_in_notes(chain)
        run = chain.present
        if chain.asked is None and not chain.over and (run is None or not run.open):
            await self._queue_told(chain, await self._answer(chain.since))
            await self._take_in_notes(chain)

    async def _seen(self, chain: _Chain) -> Seen | None:
        """The pane now; `None` where there is none, or no server."""
        server = await self._server(chain)
        if server is None:
            return None
        try:
            return await server.see(chain.handle.generation)
        except ServerGone:
            return None

    async def _server(self, chain: _Chain) -> slurm_tmux.JobTmux | None:
        """tmux in the present run; one that belongs to an earlier run is let go."""
        run = chain.present
        there = run is not None and run.open and not (chain.over or chain.lingers)
        number = run.number if run is not None and there else None
        if chain.server is not None and chain.server_run != number:
            gone, chain.server = chain.server, None
            await gone.close()
        if chain.server is None and run is not None and number is not None and not self._closed:
            assert run.job is not None and run.node is not None and run.socket is not None
            where, cluster = (run.job, run.node, run.socket), self._cluster
            chain.server = slurm_tmux.JobTmux(*where, cluster.steps, cluster.environment, self._settings, self._clock)
            chain.server_run = number

            def lost_its_server() -> None:
                self._tasks.begin(self._take_in_notes(chain))

            chain.server.on_gone(lost_its_server)
        return chain.server

    async def place_of(self, handle: Handle) -> tuple[str, str, str]:
        """The job and node where the launch runs, and the file with its environment there."""
        chain = await self._known(handle)
        if chain is not None:
            await self._learn(chain)
        run = chain.present if chain is not None and not chain.over else None
        if chain is None or run is None or not run.open or run.program is None:
            why = "it has no job" if chain is None or chain.over else self._waiting(chain)
            raise HostUnreachable(f"{handle.agent} has no node at the moment: {why}")
        assert run.job is not None and run.node is not None
        return run.job, run.node, f"{handle.folder}/run.{run.number}/env"

    def _look(self, chain: _Chain, shown: Screen | None, pane: str | None) -> Look:
        run = chain.present or chain.run
        status = run.exit_status if run is not None and chain.over else None
        gone, words = chain.end if chain.over else (None, None)
        if shown is not None and chain.over:
            shown = replace(shown, dead=True, exit_status=status)
        return Look(
            at=self._clock.now(),
            alive=not chain.over,
            program=run.program if run is not None else None,
            exit_status=status,
            screen=shown,
            multiplexer_lost=chain.over and run is not None and run.ended == "multiplexer",
            pane=pane,
            waiting=None if chain.over else self._waiting(chain),
            gone=gone,
            words=words,
        )

    def _waiting(self, chain: _Chain) -> str | None:
        """Why there is no program at the moment."""
        run, job = chain.present, chain.job
        if chain.lingers:
            return f"job {chain.handoff.job} was cancelled, and its script has not said yet that nothing of it lives"
        if run is not None and run.open and run.program is not None:
            return None
        if (run is not None and run.ended is not None) or (job is not None and job.state == "COMPLETING"):
            return f"job {chain.handoff.job} is being ended, and SLURM has not said yet what becomes of it"
        if job is None:
            return f"job {chain.handoff.job} is submitted"
        if job.standing is Standing.RUNNING:
            return f"job {job.id} has its node{f' ({job.nodes})' if job.nodes else ''} and prepares the start"
        again = "; it was requeued" if chain.floor else ""
        return slurm_queue.summary(job, time.time()) + again

    # -- watching ------------------------------------------------------------------------------------------------

    def watch(self, handle: Handle, on_look: OnLook) -> None:
        self.unwatch(handle)
        watched = self._watches.add(_Watched(handle, on_look))
        self._cluster.want(handle.generation)
        watched.task = self._tasks.begin(self._watch_on(watched))

    def unwatch(self, handle: Handle) -> None:
        watched = self._watches.remove(handle)
        if watched is None:
            return
        if watched.task is not None:
            watched.task.cancel()
        self._cluster.unwant(handle.generation)
        chain = self._chains.get(handle.generation)
        if chain is not None and chain.server is not None:
            chain.server.unwatch(handle.generation)

    def seen_at(self, handle: Handle) -> float | None:
        chain = self._chains.get(handle.generation)
        if self._watches.get(handle) is None or chain is None or chain.server is None:
            return None
        return chain.server.seen_at(handle.generation)

    async def _watch_on(self, watched: _Watched) -> None:
        """Read its notes again and again, and see to its pane, until its end has been told."""
        over = False
        while not watched.closed() and not over:
            try:
                over = await self._watched_once(watched)
            except Exception:  # a fault of ours is told whole; nobody else would see to this agent
                log.exception("agent %s: a look at its job failed", watched.handle.agent)
            await self._clock.sleep(self._read_every)

    async def _watched_once(self, watched: _Watched) -> bool:
        """One round; whether there is nothing more to tell."""
        try:
            chain = await self._known(watched.handle)
            if chain is None:
                watched.tell(Look(at=self._clock.now(), alive=False))
                return True
            await self._finish(chain)
            if chain.asked is None and not chain.over and chain.present is None:
                watched.tell(self._look(chain, None, None))  # it waits, whatever the queue will say
            await self._learn(chain)
            if chain.lingers and self._cluster.answer is not None:
                await self._queue_told(chain, self._cluster.answer)
            self._carry_hub(chain)
            self._resume(chain)
            await self._watch_pane(watched, chain)
        except HostUnreachable as error:  # it says nothing of the job; the next round asks again
            log.debug("agent %s: %s", watched.handle.agent, error)
            return False
        except FleetError as error:
            log.warning("agent %s: %s", watched.handle.agent, error)
            return False
        if chain.over:
            await self._keep_screen(chain)
            watched.tell(self._look(chain, watched.screen, None))
        else:
            waited, watched.waits = watched.waits, self._waiting(chain) is not None
            if waited or watched.waits or chain.server is None:  # else its pane tells, when it changes
                watched.tell(self._look(chain, None, None))
        return chain.over

    def _carry_hub(self, chain: _Chain) -> None:
        """See that the agent reaches the hub from its node."""
        run = chain.present
        if run is None or not run.open or chain.over or chain.lingers or run.hub is None or self._closed:
            return
        assert run.job is not None and run.node is not None
        door = Door(run.job, run.node, run.hub, f"{chain.handle.folder}/run.{run.number}/env")
        self._cluster.hub.carry(door, self._hub, scripts_of(self._places))

    async def _watch_pane(self, watched: _Watched, chain: _Chain) -> None:
        server = await self._server(chain)
        if server is None or server is watched.server or watched.closed():
            return
        watched.server = server
        await self._watches.recall(watched)
        if not watched.closed():
            server.watch(watched.handle.generation, functools.partial(self._saw, watched, chain), lambda: None)

    def _saw(self, watched: _Watched, chain: _Chain, seen: Seen) -> None:
        """The pane has changed. (A dead one is told of by its run's notes.)"""
        watched.dead = chain.over
        if self._watches.saw(watched, seen):
            watched.tell(self._look(chain, seen.screen, seen.pane))

    # -- typing --------------------------------------------------------------------------------------------------

    async def type(self, handle: Handle, keys: Sequence[str], *, literal: bool) -> None:
        chain = await self._known(handle)
        server = None if chain is None or chain.over else await self._server(chain)
        if server is None:
            raise HostUnreachable(f"{handle.agent} has no pane at the moment")
        await server.type(handle.generation, keys, literal=literal)

    def attach_argv(self, handle: Handle, *, read_only: bool = False) -> list[str]:
        chain = self._chains.get(handle.generation)
        run = chain.present if chain is not None else None
        if run is None or not run.open:
            why = self._waiting(chain) if chain is not None else None
            raise HostUnreachable(f"{handle.agent} has no pane at the moment{f': {why}' if why else ''}.")
        assert run.job is not None and run.node is not None and run.socket is not None
        words = slurm_tmux.attach_argv(run.job, run.node, run.socket, handle.session, read_only=read_only)
        return self._cluster.steps.terminal(words)

    # -- ending --------------------------------------------------------------------------------------------------

    async def end(self, handle: Handle, *, grace: float) -> Ended:
        return await self._end(handle, grace)

    async def _end(self, handle: Handle, grace: float, *, proven: bool = True) -> Ended:
        """Cancel the launch's jobs, and see that what runs of it has ended. It is wanted no more before anything is
        asked of SLURM: also a job that starts just now, or that nobody has heard of, starts nothing.

        Not `proven`: it is enough that no job is left. What may live still on a node that was lost then keeps the next
        launch waiting for its lease."""
        names = await self._host.list(handle.folder)
        if "submitting" not in names:
            return Ended(None)
        if PURGED not in names:
            await self._want_no_more(handle)
            chain = await self._chain_to_end(handle)
            await self._cluster.cancel(f"--name={_name(handle)}")
            gone = await self._until_gone(handle, time.monotonic(), grace, proven=proven)
            if chain is not None:
                if chain.writing is not None:
                    chain.writing.cancel()
                await self._post(chain, handing.Stop())
                await self._post(chain, handing.Ended(Cause.CANCELLED))
                chain.cancels.clear()
                await self._server(chain)
            if gone:
                await self._host.put([File(f"{handle.folder}/{PURGED}", b"")])
        await self._watches.log(handle.agent).flush()
        return Ended(await self._exit_status(handle))

    async def _want_no_more(self, handle: Handle) -> None:
        path = str(self._places.agent(handle.agent) / "wanted")
        if (await self._host.read(path) or b"").strip() == handle.generation.encode():
            await self._host.put([File(path, WANTED_NO_MORE)])

    async def _chain_to_end(self, handle: Handle) -> _Chain | None:
        if (chain := self._chains.get(handle.generation)) is not None:
            return chain
        content = await self._host.read(f"{handle.folder}/handoff")
        if content is None:
            return None
        return self._chains.setdefault(handle.generation, _Chain(handle, slurm_runs.from_json(content)))

    async def _until_gone(self, handle: Handle, cancelled: float, grace: float, *, proven: bool) -> bool:
        """Wait until nothing of it lives: a run says so itself at its end, and of one that cannot, its lease does. That
        the queue has no job of it any more does not say that: who killed the job's daemon on its node, or cut the node
        off, has left what ran there. False, where this need not be `proven`: then the queue's word is enough."""
        deadline = time.monotonic() + END_WITHIN + grace + self._times.ttl
        held, look_at = None, 0.0
        while True:
            number = (await self._host.read(f"{handle.folder}/run") or b"").decode().strip()
            if not number or "ended" in await self._host.list(f"{handle.folder}/run.{number}"):
                return True
            if time.monotonic() >= look_at:
                held, free = await self.lease_of(self._leases(handle), int(number), held, self._times)
                if free:
                    return True
                look_at = time.monotonic() + READ_EVERY
            answer = self._cluster.answer
            if not proven and answer is not None and answer.asked_at > cancelled and not answer.named(_name(handle)):
                return False
            if time.monotonic() > deadline:
                raise Unconfirmed(f"the jobs of {handle.agent} were cancelled, and nothing says that they are gone")
            self._cluster.want(END)
            try:
                await asyncio.sleep(0.1)
            finally:
                self._cluster.unwant(END)

    async def _exit_status(self, handle: Handle) -> int | None:
        number = (await self._host.read(f"{handle.folder}/run") or b"").decode().strip()
        status = (await self._host.read(f"{handle.folder}/run.{number}/exit") or b"").strip() if number else b""
        return int(status) if status.isdigit() else None

    async def purge(self, agent: str, *, keep: str | None = None, grace: float = 0.5) -> tuple[int, ...]:
        """End what other launches left, by their jobs; what runs in those is ended there, and not told by pid. Before
        the next launch it is enough that they have no job: the lease keeps that one from running beside them."""
        root = self._root(agent)
        found = [name for name in await self._host.list(str(root)) if name != keep]
        for name in found:
            names = await self._host.list(str(root / name))
            if "submitting" in names and PURGED not in names:
                await self._end(self._handle(agent, name), grace, proven=keep is None)
        if len(found) > KEPT_LAUNCHES:
            old = sorted(found, key=_counted)[: len(found) - KEPT_LAUNCHES]
            await self._host.run(["rm", "-rf", *(str(root / name) for name in old)], env=RM, cwd="/", timeout=30)
            for name in old:
                self._chains.pop(name, None)
        return ()

    async def cleanup(self, keep: Collection[str], *, dry_run: bool) -> list[str]:
        words = []
        agents = self._places.state / "agents"
        for agent in await self._host.list(str(agents)):
            root = agents / agent / "launch"
            for name in sorted(set(await self._host.list(str(root))) - set(keep)):
                names = await self._host.list(str(root / name))
                if "submitting" not in names:
                    continue  # another runtime's
                handle = self._handle(agent, name)
                if PURGED not in names:
                    words.append(f"jobs of {name}")
                words.append(f"folder {root / name}")
                if not dry_run:
                    await self.end(handle, grace=self._settings.kill_grace)
                    await self._host.run(["rm", "-rf", str(root / name)], env=RM, cwd="/", timeout=30)
                    self._chains.pop(name, None)
        return words

    async def dismiss(self) -> None:
        """A job's tmux ends with the job."""

    # -- what is kept ----------------------------------------------------------------------------------------------

    async def _keep_screen(self, chain: _Chain) -> None:
        """The run itself has kept its last screen; its lines go to the log, once."""
        log = self._watches.log(chain.handle.agent)
        async with log.keeping:
            if not chain.kept and (text := await self.last_screen(chain.handle)) is not None:
                log.add([line.rstrip() for line in text.rstrip().splitlines()])
            chain.kept = True
            if (watched := self._watches.get(chain.handle)) is not None:
                watched.logged = True

    async def last_screen(self, handle: Handle) -> str | None:
        numbers = [name[4:] for name in await self._host.list(handle.folder) if name.startswith("run.")]
        for number in sorted((int(number) for number in numbers if number.isdigit()), reverse=True):
            content = await self._host.read(f"{handle.folder}/run.{number}/screen")
            if content is not None:
                return redact(content.decode(errors="replace"), self._secrets(handle.agent))
        return None

    async def log_lines(self, handle: Handle, count: int) -> list[str]:
        chain = self._chains.get(handle.generation)
        if chain is not None and chain.over:
            await self._keep_screen(chain)
        return await self._watches.lines(handle, count, self._newest)

    async def _newest(self, watched: _Watched) -> Seen | None:
        chain = self._chains.get(watched.handle.generation)
        if chain is None or chain.over or chain.server is None:
            return None
        seen = await chain.server.last(watched.handle.generation)
        if seen is not None:
            self._saw(watched, chain, seen)
        return seen

    async def close(self) -> None:
        """Let go; jobs go on. This machine's own runtime is its owner's to close."""
        self._closed = True
        await self._tasks.close()
        for chain in self._chains.values():
            if chain.server is not None:
                await chain.server.close()
        await self._cluster.close()
        await self._watches.close()


class _Chain:
    """One launch's jobs, one after the other, as far as is known."""

    def __init__(self, handle: Handle, handoff: Handoff) -> None:
        self.handle = handle
        self.run: Run | None = None
        """The newest."""
        self.run_at = 0.0
        """When it was first seen; like all times here by a clock that nobody sets."""
        self.server: slurm_tmux.JobTmux | None = None
        self.server_run: int | None = None
        self.cancels: list[str] = []
        """What is still to be cancelled, in scancel's words."""
        self.writing: asyncio.Task[None] | None = None
        """The agent is writing down where it is."""
        self.kept = False
        self.reading = asyncio.Lock()
        self.stepping = asyncio.Lock()
        self.begin(handoff)

    def begin(self, handoff: Handoff) -> None:
        """A job of its own, of which nothing is known yet."""
        if self.writing is not None:
            self.writing.cancel()  # its time is over
        self.handoff = handoff
        self.since = self.successor_at = time.monotonic()
        self.job: slurm_queue.Job | None = None
        self.asked: float | None = None
        """When the queue was last asked of it."""
        self.floor = 0
        """Runs up to this one are over: the job was requeued since."""
        self.lingers = False
        """The job was cancelled, and what ran in it may live."""
        self.lease: lease.Watched | None = None
        """That of its run, while it lingers."""

    @property
    def present(self) -> Run | None:
        """The run of the present job."""
        run = self.run
        return run if run is not None and run.job == self.handoff.job and run.number > self.floor else None

    @property
    def over(self) -> bool:
        return self.handoff.outcome is Outcome.REPORTED

    @property
    def end(self) -> tuple[str | None, str | None]:
        """Why it is over, where that is not the program's own doing: a word and a clause."""
        cause, run = self.handoff.ended, self.present
        if self.handoff.called_off:
            return Cause.CANCELLED.value, f"the job that was to follow job {self.handoff.job} was cancelled"
        if cause is Cause.CANCELLED:
            return cause.value, f"job {self.handoff.job} was cancelled"
        if cause in (None, Cause.EXITED):
            lost = run is not None and run.ended == "lease"
            return ("host", "its lease could not be renewed") if lost else (None, None)
        assert cause is not None
        if cause is Cause.FORGOTTEN:
            return "host", f"job {self.handoff.job} has ended, and nobody knows how any more"
        words = run.ended if cause is Cause.NOT_LAUNCHED and run is not None else None
        return cause.value, words or f"job {self.handoff.job}: {cause.value.replace('_', ' ')}"


class _Watched(watching.Watched):
    """One launch that somebody watches."""

    task: asyncio.Task[None] | None = None
    server: slurm_tmux.JobTmux | None = None
    """The tmux whose pane is watched."""
    waits = True
    """It was told last that there is no program yet, or nothing was told."""


def handle_of(places: Places, agent: str, generation: str) -> Handle:
    """How a launch of that mark is found again."""
    folder = str(places.agent(agent) / "launch" / generation)
    return Handle(agent, generation, SlurmRuntime.name, "tmux", "", agent, folder)


def job_of(
    handle: Handle, places: Places, settings: Settings, home: str, *, times: Times | None = None, requeue: bool = True
) -> slurm_script.Job:
    """The job of a launch: its names and places."""
    agent, scripts = places.agent(handle.agent), scripts_of(places)
    return slurm_script.Job(
        agent=handle.agent,
        generation=handle.generation,
        folder=handle.folder,
        wanted=str(agent / "wanted"),
        leases=str(agent / "leases"),
        launcher=f"{scripts}/launcher.sh",
        lease=f"{scripts}/lease.sh",
        home=home,
        times=times or Times(),
        settings=settings,
        requeue=requeue,
    )


def scripts_of(places: Places) -> str:
    """Where our scripts stand that every node must see: a folder for each version of them."""
    content = b"".join(path.read_bytes() for path in SCRIPTS.values())
    return str(places.state / "jobs" / f"sh-{hashlib.sha256(content).hexdigest()[:16]}")


def _name(handle: Handle) -> str:
    """The name of all jobs of a launch."""
    return f"fleet-{handle.generation}"


def _counted(generation: str) -> int:
    """Which launch of its agent it was: generations are `AGENT.COUNT.LOT`."""
    words = generation.rsplit(".", 2)
    return int(words[1]) if len(words) == 3 and words[1].isdigit() else 0


def _failed(task: asyncio.Task[Any], error: BaseException) -> None:
    if isinstance(error, HostUnreachable):  # the next round goes on
        log.info("%s", error)
    else:
        log.error("%s failed", task.get_name(), exc_info=error)
