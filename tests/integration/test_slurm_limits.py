"""What a cluster does to jobs by itself, for real: time limits that run out, room made for others, ends forgotten.

SLURM's shortest limit is a minute, and its controller looks at limits every half minute. So all that waits for one is
side by side on one cluster, and what takes no time beside it. Processes are tracked by cgroups where the machine has
them, as on most clusters: what is not ended by fleet in time is killed with its job then.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet.runtimes import slurm_script
from fleet.runtimes.slurm_cluster import Answer
from fleet.runtimes.slurm_runs import Run
from fleet.terms import Handle
from tests.cluster import Cluster, SlurmHost, SlurmKit, cluster, happens, needs_slurm, tracking
from tests.contract.hosts import until
from tests.homes import Home

pytestmark = [pytest.mark.real, needs_slurm]

MINUTE = "1"
"""As SLURM writes it. With it the hand-off begins after half a minute."""
TICK = 30.0
"""Seconds between two looks of the controller at the limits, from its start on."""
AT_LIMIT = 150.0
"""Seconds within which a job of a minute is ended: a minute, half a minute until it is seen, and a busy machine."""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    """A cluster that soon forgets what has ended: two nodes for limits, and two where others come first."""
    folder = Path(tempfile.mkdtemp(prefix="sl"))
    with cluster(folder / "c", nodes=4, kept=10, tracking=tracking()) as made:
        yield made
    shutil.rmtree(folder, ignore_errors=True)


class Watcher:
    """A fleet on it, with all that the queue ever told."""

    def __init__(self, slurm: Cluster, home: Path) -> None:
        self.slurm = slurm
        self.host = SlurmHost(slurm, home)
        self.told: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        """By name and job: its states."""
        self.open()

    def open(self) -> None:
        self.host.open()
        self.kit = SlurmKit(self.host)
        self.host.asked.on_answer(self._heard)

    def _heard(self, answer: Answer) -> None:
        for job in answer.jobs.values():
            self.told[job.name][job.id].add(job.state)

    async def up(self, agent: str, program: str = "greeter", *, node: str = "[1-2]", **section: Any) -> Agent:
        """An agent in a job of its own, on one of those nodes."""
        others = self.slurm.nodes[0].removesuffix("1")
        only = f"--nodelist={others}{node}" if len(node) == 1 else f"--exclude={others}[3-4]"
        handle = await self.kit.launch(agent, program, extra_directives=[only], **section)
        return Agent(self, handle)


class Agent:
    """One agent of such a fleet, whose program runs in its first job."""

    def __init__(self, fleet: Watcher, handle: Handle) -> None:
        self.fleet, self.handle = fleet, handle
        self.looks = fleet.kit.watch(handle)
        self.old = self.program()
        (self.job,) = fleet.slurm.jobs(handle)

    def run(self, number: int | None = None) -> Run:
        """A run of its jobs, the newest where none is named."""
        newest = int((Path(self.handle.folder) / "run").read_text())
        first = min(int(path.name[4:]) for path in Path(self.handle.folder).glob("run.*"))
        return self.fleet.host.run_of(self.handle, newest if number is None else first + number - 1)

    def program(self) -> psutil.Process:
        noted = self.run().program
        assert noted is not None
        return psutil.Process(noted.pid)

    def states(self) -> list[set[str]]:
        """The states of each of its jobs, in the order in which they were heard of."""
        return list(self.fleet.told[f"fleet-{self.handle.generation}"].values())

    def script(self) -> psutil.Process:
        """Its job's script."""
        return self.fleet.slurm.script(self.job)

    async def goes_on(self) -> None:
        """Wait for its next program: it is the only one, and nobody took it for dead."""
        await happens(lambda: self.run().job != self.job and self.run().program is not None, "its next job", AT_LIMIT)
        assert not lives(self.old) and lives(self.program())
        assert not self.looks.deaths

    async def timed_out(self) -> None:
        """See that SLURM itself has ended the first job, and that there was one more."""
        await happens(lambda: "TIMEOUT" in self.states()[0], "SLURM's own word")
        assert len(self.states()) == 2

    async def end(self) -> None:
        await self.fleet.kit.runtime.end(self.handle, grace=1)
        await happens(lambda: not self.fleet.slurm.jobs(self.handle), "no job is left")


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture
async def fleet(slurm: Cluster, home: Home) -> AsyncIterator[Watcher]:
    made = Watcher(slurm, home.path)
    yield made
    await made.host.close()


@pytest.fixture
async def away(slurm: Cluster, home: Home) -> AsyncIterator[Watcher]:
    """Another one, whose daemon is away when it matters."""
    (home.path / "away" / "work").mkdir(parents=True)
    made = Watcher(slurm, home.path / "away")
    yield made
    await made.host.close()


async def half_way_to_a_tick(slurm: Cluster) -> None:
    """A job that starts now is warned after some fifteen seconds: neither before its script is up, nor as late as by
    the script's own clock."""
    phase = (time.monotonic() - slurm.since) % TICK
    await asyncio.sleep((TICK / 2 - 4 - phase) % TICK)


async def test_what_a_cluster_does_to_jobs_by_itself(
    fleet: Watcher, away: Watcher, slurm: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await half_way_to_a_tick(slurm)
    busy = {"walltime_signal": [{"sh": "sleep 300", "timeout": 300}]}
    warned, hooked, back, gone = await asyncio.gather(
        fleet.up("warned", time_limit=MINUTE),
        fleet.up("hooked", time_limit=MINUTE, hooks=busy),
        fleet.up("back", node="3", cpus_per_task=4),
        fleet.up("gone", "stubborn", node="4", cpus_per_task=4, partition="grace"),
    )
    head = slurm_script.head
    monkeypatch.setattr(slurm_script, "head", lambda *of: [line for line in head(*of) if "--signal" not in line])
    stuck, last, alone, cancelled, killed = await asyncio.gather(
        fleet.up("stuck", "stubborn", time_limit=MINUTE),
        fleet.up("last", time_limit=MINUTE, auto_resubmit=False),
        *(away.up(name, time_limit=MINUTE) for name in ("alone", "cancelled", "killed")),
    )
    for agent in (stuck, last):  # its job's script does not get to run until it is told to end
        agent.script().suspend()
    await away.host.leave()
    await asyncio.gather(
        warned_by_slurm(warned),
        at_the_limit(stuck),
        at_the_limit_with_a_successor(hooked),
        at_the_limit_for_good(last),
        put_back_into_the_queue(back),
        cancelled_for_another(gone),
        with_nobody_there(away, alone, cancelled, killed),
    )


async def warned_by_slurm(agent: Agent) -> None:
    await agent.goes_on()
    assert agent.run(1).notes["walltime"].startswith("signal ") and agent.run(1).ended == "left"
    assert "TIMEOUT" not in set().union(*agent.states())
    await agent.end()


async def at_the_limit(agent: Agent) -> None:
    """Time ran out before anything was handed on; fleet submits the successor then."""
    await agent.goes_on()
    await agent.timed_out()
    await agent.end()


async def at_the_limit_with_a_successor(agent: Agent) -> None:
    """It was submitted before, and is the only one."""
    await happens(lambda: "successor" in agent.run(1).notes or len(agent.states()) == 2, "its successor", AT_LIMIT)
    await agent.goes_on()
    await agent.timed_out()
    assert agent.run(1).ended == "told" and "withdrawn" not in agent.run(1).notes
    await agent.end()


async def at_the_limit_for_good(agent: Agent) -> None:
    await happens(lambda: agent.looks.deaths, "its end", AT_LIMIT)
    assert agent.looks.deaths[0].gone == "timeout" and not lives(agent.old)
    assert len(agent.states()) == 1 and "TIMEOUT" in agent.states()[0]


async def put_back_into_the_queue(agent: Agent) -> None:
    slurm = agent.fleet.slurm
    other = slurm.take(slurm.nodes[2])
    await happens(lambda: any("requeued" in (look.waiting or "") for look in agent.looks.all), "word that it waits")
    await happens(lambda: not lives(agent.old), "its program has ended")
    slurm.run("scancel", other)
    slurm.run("scontrol", "update", f"JobId={agent.job}", "StartTime=now")
    await happens(lambda: agent.run() != agent.run(1) and agent.run().program is not None, "its next run")
    assert not agent.looks.deaths and slurm.jobs(agent.handle) == [agent.job]
    await agent.end()


async def cancelled_for_another(agent: Agent) -> None:
    agent.fleet.slurm.take(agent.fleet.slurm.nodes[3])
    await happens(lambda: agent.looks.deaths, "its end", AT_LIMIT)
    assert agent.looks.deaths[0].gone == "preempted" and not lives(agent.old)
    assert not agent.fleet.slurm.jobs(agent.handle)


async def with_nobody_there(away: Watcher, alone: Agent, cancelled: Agent, killed: Agent) -> None:
    """A job does all of its hand-off by itself, by its own clock; others have ended, and the cluster has forgotten them
    when the next daemon comes."""
    away.slurm.run("scancel", cancelled.job)
    killed.script().kill()  # without a last word
    await alone.goes_on()
    assert alone.run(1).notes["walltime"].startswith("deadline ") and alone.run(1).ended == "walltime"
    await happens(lambda: not {cancelled.job, killed.job} & set(away.slurm.states()), "the ended are forgotten")
    away.open()
    seen, *deaths = [away.kit.watch(agent.handle) for agent in (alone, cancelled, killed)]
    assert [(await looks.death()).gone for looks in deaths] == ["cancelled", "host"]
    assert "nobody knows" in (deaths[1].deaths[0].words or "")
    assert not lives(cancelled.old) and not lives(killed.old)
    await until(lambda: seen.all and seen.all[-1].program == alone.run().program, "it is seen where it is")
    assert not seen.deaths and len(away.slurm.jobs(alone.handle)) == 1
    await alone.end()
