"""One cluster, from its submit host: its commands, and the one question for all jobs.

Every command goes through the submit host's own runtime, in an environment in which nothing stands but where programs
and the cluster are. While anybody wants to know, the queue is asked at the pace of slurm_queue.py, once for all; who
needs an answer that is newer than what they did waits for the next one. A controller that does not answer says nothing
of jobs: that is `HostUnreachable`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fleet.errors import FleetError, HostUnreachable, LaunchError, TimedOut
from fleet.runtimes import lease, slurm_queue, tmux
from fleet.runtimes.base import ByItsHost, Capabilities, Far, OnHost, Runtime
from fleet.runtimes.slurm_hub import HubInJobs
from fleet.runtimes.slurm_queue import Job, Pace, Poll
from fleet.runtimes.slurm_steps import Here, Steps
from fleet.settings import Places
from fleet.terms import LaunchPlan, Ran

log = logging.getLogger(__name__)

SUBMIT_WITHIN = 60.0
"""Seconds `sbatch` may take; then it is not known whether the job arrived."""
CANCEL_WITHIN = 30.0
SILENT = ("Unable to contact", "Socket timed out", "Communication connection failure", "Connection refused")
"""What SLURM's commands say when the controller did not answer."""
NAMES = ("PATH", "HOME", "USER", "LANG", "SLURM_CONF")
"""What its commands need to find themselves and the cluster."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the queue said."""

    asked_at: float
    """When it was asked, by a clock that nobody sets: what was done before that, it tells of."""
    jobs: Mapping[str, Job]
    """By id."""

    def named(self, name: str) -> list[Job]:
        """The jobs of that name that can still run or do, oldest first."""
        return slurm_queue.named(self.jobs.values(), name)


OnAnswer = Callable[[Answer], None]
OnState = Callable[[str | None], None]


class Cluster:
    """A cluster that this fleet submits to."""

    def __init__(
        self,
        host: Runtime,
        environ: Mapping[str, str],
        pace: Pace | None = None,
        *,
        name: str = "",
        steps: Steps | None = None,
        login_shell: bool = False,
        folder: str | None = None,
    ) -> None:
        """`host` is where its commands are. A login node is this cluster's own, with a `name` for the handles of its
        launches and `steps` that go there; what stands in its environment is asked there, with `login_shell` after
        the person's profile was read. `folder`: fleet's own there, where that is not the host's."""
        self.host = host
        self.name = name
        self.steps: Steps = steps or Here(host)
        self._environ, self._login_shell, self._folder = environ, login_shell, folder
        self.hub = HubInJobs(host, self.steps, self.environment)
        self._pace = pace or Pace()
        self._poll = Poll()
        self._hearers: list[OnAnswer] = []
        self._on_state: list[OnState] = []
        self._interested: set[str] = set()
        self._waiting: list[tuple[float, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._user: str | None = None
        self._closed = False
        self.answer: Answer | None = None
        self.silent: str | None = None
        """Why the controller could not be asked the last time."""
        if host.far is not None:
            host.on_host(self._host_told)

    # -- its submit host -----------------------------------------------------------------------------------------

    async def environment(self) -> dict[str, str]:
        """In what its commands run: nothing stands there but where programs and the cluster are."""
        far = self.host.far
        environ = self._environ if far is None else await far.environment(self._login_shell)
        return {name: environ[name] for name in NAMES if name in environ}

    def shared(self, places: Places) -> Places:
        """The places of this fleet that the nodes see: on a login node they are below fleet's folder there."""
        far = self.host.far
        return places if far is None else replace(places, state=Path(self._folder or far.folder))

    def _host_told(self, reason: str | None) -> None:
        """The way to the login node carries no more, or again."""
        if reason is not None:
            self._tell_silent(HostUnreachable(reason))
            return
        self._poll = slurm_queue.back(self._poll, time.monotonic(), self._pace)
        self._wake.set()

    # -- who wants to know ---------------------------------------------------------------------------------------

    def on_answer(self, hearer: OnAnswer) -> None:
        self._hearers.append(hearer)

    def on_state(self, hearer: OnState) -> None:
        """`hearer(reason)` when the controller does not answer, `hearer(None)` when it does again."""
        self._on_state.append(hearer)

    def want(self, who: str) -> None:
        """Ask the queue again and again from now on, for their sake as well."""
        self._interested.add(who)
        self._begin()

    def unwant(self, who: str) -> None:
        self._interested.discard(who)

    def sooner(self) -> None:
        """Something has happened: ask as soon as manners allow."""
        self._poll = slurm_queue.sooner(self._poll, time.monotonic(), self._pace)
        self._wake.set()

    async def newer(self, than: float) -> Answer:
        """An answer to a question that was asked after that moment. Where the controller does not answer at the next
        try either, that is raised."""
        if self.answer is not None and self.answer.asked_at > than:
            return self.answer
        waits: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((than, waits))
        self.sooner()
        self._begin()
        return await waits

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._ask_on(), name="fleet-squeue")
        self._wake.set()

    async def close(self) -> None:
        """Ask no more, and let go of a login node."""
        was_closed, self._closed = self._closed, True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, waits in self._waiting:
            waits.cancel()
        await self.hub.close()
        await self.steps.close()
        if self.host.far is not None and not was_closed:
            await self.host.close()

    # -- the question --------------------------------------------------------------------------------------------

    async def _ask_on(self) -> None:
        """One question at a time, when it is due, for as long as anybody wants to know."""
        while not self._closed:
            self._wake.clear()
            pause = self._poll.due - time.monotonic()
            wanted = self._interested or self._waiting
            if wanted and pause <= 0:
                await self._ask()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause if wanted else None):
                    await self._wake.wait()

    async def _ask(self) -> None:
        asked_at = time.monotonic()
        self._poll = slurm_queue.asked(self._poll, asked_at)
        try:
            said = await self._queue()
        except FleetError as error:
            self._poll = slurm_queue.unanswered(self._poll, time.monotonic(), self._pace)
            self._tell_silent(error)
            return
        self._poll = slurm_queue.answered(self._poll, time.monotonic(), self._pace)
        self.answer = Answer(asked_at, {job.id: job for job in said})
        self._tell(self.answer)

    async def _queue(self) -> list[Job]:
        if self._user is None:
            told = await self.host.run(["id", "-un"], env=await self.environment(), cwd="/", timeout=10)
            self._user = told.stdout.decode().strip()
        env = await self.environment() | slurm_queue.ENVIRONMENT
        argv = slurm_queue.queue_argv(self._user)
        try:
            ran = await self.host.run(argv, env=env, cwd="/", timeout=self._pace.timeout)
        except TimedOut as error:
            raise HostUnreachable(f"SLURM's controller does not answer: {error}") from error
        if ran.status:
            raise HostUnreachable(f"SLURM's controller does not answer: {said(ran)}")
        return slurm_queue.jobs(ran.stdout.decode(errors="replace"))

    def _tell_silent(self, error: FleetError) -> None:
        log.info("%s", error)
        news, self.silent = self.silent is None, str(error)
        waiting, self._waiting = self._waiting, []
        for _, waits in waiting:
            if not waits.done():
                waits.set_exception(HostUnreachable(str(error)))
        if news:
            for hearer in self._on_state:
                hearer(str(error))

    def _tell(self, answer: Answer) -> None:
        news, self.silent = self.silent is not None, None
        waiting, self._waiting = self._waiting, []
        for than, waits in waiting:
            if waits.done():
                continue
            if answer.asked_at > than:
                waits.set_result(answer)
            else:
                self._waiting.append((than, waits))
        if self._waiting:
            self.sooner()
        for hearer in self._hearers:
            hearer(answer)
        if news:
            for on_state in self._on_state:
                on_state(None)

    # -- commands ------------------------------------------------------------------------------------------------

    async def command(self, argv: Sequence[str], timeout: float) -> Ran:
        """Run one of SLURM's commands; where the controller did not answer it is not known what came of it."""
        try:
            ran = await self.host.run(argv, env=await self.environment(), cwd="/", timeout=timeout)
        except TimedOut as error:
            raise HostUnreachable(f"SLURM's controller does not answer: {error}") from error
        if ran.status and any(word in said(ran) for word in SILENT):
            raise HostUnreachable(f"SLURM's controller does not answer: {said(ran)}")
        return ran

    async def submit(self, argv: Sequence[str]) -> str:
        """The id of the job that this submits. Raise `LaunchError` with SLURM's own word where it takes none."""
        ran = await self.command(argv, SUBMIT_WITHIN)
        job = slurm_queue.submitted(ran.stdout.decode(errors="replace"))
        if ran.status or job is None:
            raise LaunchError(f"SLURM took no job: {said(ran)}", hint="`fleet render NAME` prints what is submitted.")
        self.sooner()
        return job

    async def cancel(self, *words: str) -> None:
        """Cancel jobs: an id, or `--name=…`. One that is over, or never was, is fine."""
        ran = await self.command(["scancel", *words], CANCEL_WITHIN)
        if ran.status and "Invalid job id" not in said(ran):
            raise HostUnreachable(f"scancel: {said(ran)}")
        self.sooner()

    async def accounted(self, job: str) -> Job | None:
        """What accounting knows of a job that the queue no longer lists; `None` where there is none."""
        try:
            ran = await self.command(["env", "SLURM_TIME_FORMAT=%s", *slurm_queue.accounting_argv([job])], 30)
        except HostUnreachable as error:
            log.info("sacct: %s", error)
            return None
        found = slurm_queue.accounted(ran.stdout.decode(errors="replace")) if not ran.status else []
        return found[-1] if found else None


class OnSubmitHost(ByItsHost):
    """What of a runtime concerns the submit host itself: its own runtime does it. The folders that the nodes see, the
    submit host sees too."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._host: Runtime = cluster.host
        self.far: Far | None = cluster.host.far
        self._on_host: list[OnHost] = []
        cluster.on_state(self._controller)

    def _controller(self, reason: str | None) -> None:
        for callback in self._on_host:
            callback(reason)

    def on_host(self, callback: OnHost) -> None:
        self._on_host.append(callback)

    def capabilities(self, multiplexer: str) -> Capabilities:
        return tmux.CAPABILITIES

    async def lease_of(
        self, folder: str, number: int, before: lease.Watched | None, times: lease.Times
    ) -> tuple[lease.Watched | None, bool]:
        """A lease after one more look, and whether it covers nothing any more. One that cannot be read has said
        nothing."""
        newest = lease.newest(await self._host.list(folder))
        if newest is None or newest > number:  # it was free before the next one was taken
            return before, True
        held = lease.parse(number, await self._host.read(f"{folder}/{number}"))
        if held is None:
            return before, False
        now = time.monotonic()
        watched = lease.seen(before, held, now)
        return watched, watched.free(now, times)


async def check(host: Runtime, plan: LaunchPlan) -> None:
    """Raise `LaunchError` where the plan cannot be launched from there. (A program may be on the nodes alone.)"""
    if not plan.argv or not plan.argv[0]:
        raise LaunchError("there is no program to run")
    given = {"an argument": "".join(plan.argv), **{f"the variable {name}": text for name, text in plan.env.items()}}
    if zero := next((what for what, text in given.items() if "\0" in text), None):
        raise LaunchError(f"{zero} holds a zero byte, which no program can be given")
    ran = await host.run(["test", "-d", plan.cwd], env={}, cwd="/", timeout=10)
    if ran.status:
        hint = "make it where all nodes see it, or name another as workdir"
        raise LaunchError(f"the folder {plan.cwd} does not exist on the submit host", hint=hint)


def said(ran: Ran) -> str:
    """A command's own word on why it failed."""
    lines = (ran.stderr + b"\n" + ran.stdout).decode(errors="replace").strip().splitlines()
    return lines[0].strip() if lines else f"status {ran.status}"
