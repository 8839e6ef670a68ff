"""Headless agents on a cluster: a launch of theirs is held by a waiter, and each of its turns is a step beside it.

The launch is one like any other, a job of its own or a tenant of a booking, but that its program only waits. So the
queue, the hand-off at the walltime, what a booking has room for and what ends with it hold as for every agent. Of a
turn the launcher, the files and the time limit are on the submit host, as of an agent there; its program is `srun`,
which runs the agent's own where the launch is, in a step that takes nothing from it. What `srun` cannot end any more
is ended on the node by the mark it bears.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from fleet.errors import HostUnreachable
from fleet.manifests.model import AgentSpec, Slurm
from fleet.runtimes import slurm_runtime
from fleet.runtimes.base import OnLook, Runtime
from fleet.runtimes.headless import WithHeadless
from fleet.runtimes.slurm_cluster import Cluster, said
from fleet.runtimes.slurm_tmux import step_argv
from fleet.runtimes.turns import MARK, NONE, STANDS, Ground, Printed, Wanted
from fleet.settings import Places
from fleet.terms import File, Handle, LaunchPlan, Look

WAITER = ("sh", "-c", "while :; do sleep 3600; done")
"""The program of a launch: it holds its place."""
STEP = "step"
"""The file in a turn's folder that says where its step is: job and node."""
STEP_WITHIN = 60.0
"""Seconds that the end of a step's processes may take beyond their grace."""
NO_JOB = ("Invalid job id", "Job/step already completing or completed", "Unable to confirm allocation", "has expired")
"""srun's words where a job is no more: with it all of its steps have ended."""
INTO = 'set -a; . "$0"; set +a; exec "$@"'
"""On the node: take up the environment that the launch has there, and become the program."""

Where = Callable[[Handle], Awaitable[tuple[str, str, str]]]
"""The job and node of a launch, and the file with its environment there. `HostUnreachable`: it has none now."""


def holding(plan: LaunchPlan) -> LaunchPlan:
    """The plan of the launch that holds the place of a headless agent's turns."""
    return replace(plan, argv=WAITER, again=WAITER)


class WithSteps(WithHeadless):
    """A cluster's runtime, and headless agents on it."""

    async def look(self, handle: Handle) -> Look:
        look = await self._host.look(_held(handle))
        return _without_pane(look) if handle.multiplexer == NONE else look

    def watch(self, handle: Handle, on_look: OnLook) -> None:
        if handle.multiplexer != NONE:
            self._host.watch(handle, on_look)
        else:
            self._host.watch(_held(handle), lambda _, look: on_look(handle, _without_pane(look)))

    def unwatch(self, handle: Handle) -> None:
        self._host.unwatch(_held(handle))


def _held(handle: Handle) -> Handle:
    """The same launch as its runtime knows it."""
    return replace(handle, multiplexer="tmux") if handle.multiplexer == NONE else handle


def _without_pane(look: Look) -> Look:
    """What the waiter shows is nobody's concern."""
    return replace(look, program=None, screen=None, pane=None)


class StepGround:
    """The launches of one runtime of a cluster, for turns."""

    near = False

    def __init__(self, submit: Ground, host: Runtime, cluster: Cluster, places: Places, where: Where) -> None:
        """`submit` is the submit host's own, `host` the runtime that mints the handles of launches."""
        self._submit, self._host, self._cluster, self._where = submit, host, cluster, where
        self._lease = f"{slurm_runtime.scripts_of(cluster.shared(places))}/lease.sh"
        self.check_every = submit.check_every

    # -- launches ----------------------------------------------------------------------------------------------------

    def mint(self, agent: str, generation: str) -> Handle:
        return replace(self._host.mint(agent, generation, "tmux"), multiplexer=NONE)

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        await self._host.launch(holding(plan), _held(handle))
        await self._host.put([File(f"{handle.folder}/{STANDS}", b"")])

    async def stands(self, folder: str) -> bool:
        return (await self._host.look(self._of(folder))).alive

    async def end_launch(self, folder: str, grace: float) -> tuple[int, ...]:
        return (await self._host.end(self._of(folder), grace=grace)).killed

    def _of(self, folder: str) -> Handle:
        """The launch of that folder, `…/agents/AGENT/launch/GENERATION`."""
        path = PurePosixPath(folder)
        return self._host.mint(path.parts[-3], path.name, "tmux")

    # -- turns -------------------------------------------------------------------------------------------------------

    def turn_folder(self, launch: str, here: Path) -> str:
        return self._submit.turn_folder(launch, here)

    def kept_here(self, wanted: Wanted) -> list[File]:
        return self._submit.kept_here(wanted)

    async def begin(self, wanted: Wanted) -> float | None:
        job, node, env = await self._where(self._of(wanted.launch))
        spec = wanted.place if isinstance(wanted.place, AgentSpec) else None
        section = (spec.slurm if spec is not None else None) or Slurm()
        cpus = [f"--cpus-per-task={section.cpus_per_task}"] if section.cpus_per_task > 1 else []
        timed = ["timeout", "-k", str(math.ceil(wanted.grace)), str(math.ceil(wanted.limit))]
        program = ["sh", "-c", INTO, env, *timed, *wanted.argv]
        step = step_argv(job, node, "--export=ALL", *cpus, f"--chdir={wanted.cwd}", *program)
        environ = await self._cluster.environment()
        if self._cluster.host.far is None:
            step[0] = shutil.which(step[0], path=environ.get("PATH")) or step[0]
        if "SLURM_CONF" in environ:
            step = ["env", f"SLURM_CONF={environ['SLURM_CONF']}", *step]
        await self._cluster.host.put([File(f"{wanted.folder}/{STEP}", f"{job} {node}\n".encode())])
        return await self._submit.begin(replace(wanted, argv=tuple(step)))

    async def over(self, folder: str) -> None:
        await self._submit.over(folder)

    async def printed(self, folder: str, size: int) -> Printed:
        return await self._submit.printed(folder, size)

    async def end(self, folder: str, grace: float) -> None:
        """A step that ended by itself has nothing left: SLURM sees to that."""
        by_itself = "exit" in await self._cluster.host.list(folder)
        await self._submit.end(folder, grace)
        noted = (await self._cluster.host.read(f"{folder}/{STEP}") or b"").decode().split()
        if by_itself or len(noted) != 2:
            return
        words = ("sh", self._lease, "hunt", f"{MARK}={folder}", str(max(1, round(grace))))
        ran = await self._cluster.command(step_argv(noted[0], noted[1], *words), grace + STEP_WITHIN)
        if ran.status and not any(word in said(ran) for word in NO_JOB):
            raise HostUnreachable(f"a turn in job {noted[0]} could not be ended: {said(ran)}")

    async def fetch(self, folder: str, here: Path) -> None:
        await self._submit.fetch(folder, here)

    async def forget(self, folder: str, *, sure: bool) -> None:
        await self._submit.forget(folder, sure=sure)
