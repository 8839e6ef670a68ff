"""What a cluster does to jobs by itself, for real: time limits that run out, room made for others, ends forgotten.

SLURM's shortest limit is a minute, and its controller looks at limits every half minute. So all that waits for one is
side by side on one cluster, and what takes no time beside it; and the time of jobs that run is cut, as an administrator
may, so that it is up just before the controller looks. Processes are tracked by cgroups where the machine has
them, as on most clusters: what is not ended by fleet in time is killed with its job then.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
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
from tests.cluster import SHORT, Cluster, SlurmHost, SlurmKit, cluster, happens, needs_slurm, no_mounts, tracking
from tests.contract.hosts import until
from tests.homes import Home

pytestmark = [pytest.mark.real, needs_slurm]

MINUTE = "1"
"""As SLURM writes it. With it the hand-off begins after half a minute."""
LONG = "9"
"""The limit of jobs that are not to do anything of their own accord before the test does something to them."""
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
        self.host = SlurmHost(slurm, home, times=SHORT)
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
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it went between the two
        return False


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


@pytest.fixture
def nodes() -> Iterator[Cluster | None]:
    """Another cluster, whose nodes have mounts of their own; none where the machine gives nobody such."""
    if no_mounts():
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="sl"))
    with cluster(folder / "c", apart=True) as made:
        yield made
    shutil.rmtree(folder, ignore_errors=True)


async def soon_after_a_tick(slurm: Cluster) -> None:
    """A job that starts now is not warned before its script is up."""
    phase = (time.monotonic() - slurm.since) % TICK
    if phase > TICK / 2:
        await asyncio.sleep(TICK - phase)


def end_at_a_tick(*agents: Agent) -> None:
    """Their time is up just before the controller's next look but one."""
    for agent in agents:
        slurm = agent.fleet.slurm
        phase = (time.monotonic() - slurm.since) % TICK
        slurm.run("scontrol", "update", f"JobId={agent.job}", f"EndTime=now+{2 * TICK - 5 - phase:.0f}")


async def test_what_a_cluster_does_to_jobs_by_itself(
    fleet: Watcher, away: Watcher, slurm: Cluster, nodes: Cluster | None, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    await soon_after_a_tick(slurm)
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
        fleet.up("stuck", "stubborn", time_limit=LONG),
        fleet.up("last", time_limit=LONG, auto_resubmit=False),
        away.up("alone", time_limit=MINUTE),
        *(away.up(name, time_limit=LONG) for name in ("cancelled", "killed")),
    )
    end_at_a_tick(hooked, stuck, last, alone)
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
        *([cut_off_from_its_lease(nodes, home.path / "cut")] if nodes is not None else ()),
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


# -- a node that is cut off --------------------------------------------------------------------------------------------

BEATS = """#!/bin/sh
while :; do echo "$FLEET_RUN $(cut -d' ' -f1 /proc/uptime)" >>"$BEATS"; sleep 0.1; done
"""


def _on_node(slurm: Cluster, node: str, *argv: str) -> int:
    """Run it among the node's own mounts."""
    return subprocess.run(["nsenter", f"--target={slurm.slurmd(node).pid}", "--mount", *argv], check=False).returncode


def _cut_off(slurm: Cluster, node: str, folder: Path) -> bool:
    """Nothing that the node writes there arrives any more. Whether it is so: a file that is open there forbids it."""
    return _on_node(slurm, node, "mount", "-o", "remount,bind,ro", str(folder)) == 0


async def cut_off_from_its_lease(nodes: Cluster, home: Path) -> None:
    """One live process for each conversation, also where a node is cut off, its lease file with it, and its job is
    started again elsewhere."""
    host = SlurmHost(nodes, home, times=SHORT)
    kit = SlurmKit(host)
    leases, beats = host.places.agent("web") / "leases", Path(tempfile.mkdtemp(prefix="sb")) / "beats"
    leases.mkdir(parents=True, exist_ok=True)
    program = Path(host.folder) / "bin" / "beats"
    program.write_text(BEATS)
    program.chmod(0o755)
    _on_node(nodes, "n1", "mount", "--bind", str(leases), str(leases))
    nodes.run("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=test")
    slurmd = nodes.slurmd("n1")
    try:
        handle = kit.mint("web")
        plan = kit.plan("web", "beats")
        plan.env["BEATS"] = str(beats)
        await kit.runtime.launch(plan, handle)
        await happens(beats.exists, "the first run")
        await happens(lambda: host.run_of(handle).program is not None, "its note")
        looks = kit.watch(handle)
        noted = host.run_of(handle).program
        assert noted is not None
        old = psutil.Process(noted.pid)
        (job,) = nodes.run("squeue", "-h", "-o", "%i").split()
        nodes.run("scontrol", "update", "NodeName=n2", "State=RESUME")

        slurmd.suspend()
        await happens(lambda: _cut_off(nodes, "n1", leases), "no lease is being written just now")
        nodes.run("scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=cut")
        await happens(lambda: nodes.states().get(job) == "PENDING", "the job is requeued")
        assert lives(old), "the old process lives when its job waits to run again"
        nodes.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        await happens(lambda: nodes.states().get(job) == "RUNNING", "the job runs elsewhere")

        def runs() -> list[tuple[str, float]]:
            lines = [line.split() for line in beats.read_text().splitlines()]
            return [(words[0], float(words[1])) for words in lines if len(words) == 2]  # the last may be cut short

        await happens(lambda: any(run != "1" for run, _ in runs()), "the second run's program", 60)
        assert not lives(old)
        first = [at for run, at in runs() if run == "1"]
        second = [at for run, at in runs() if run != "1"]
        assert max(first) < min(second)
        assert not looks.deaths
    finally:
        slurmd.resume()
        await host.close()
        shutil.rmtree(beats.parent, ignore_errors=True)
