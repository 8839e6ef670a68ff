"""A real SLURM cluster for tests: one slurmctld and some slurmd on this machine, in a folder, on the loopback.

No munge, no accounting, no systemd, and cgroups only where a test asks for them and the machine gives them: the
daemons run as whoever runs the tests, and must be root to run jobs. A node is a slurmd with a name and a port of its
own. Jobs in `high` come before all others: those in `main` are put back into the queue then, those in `cheap` and
`grace` are cancelled. A job in `brief` may ask for ten minutes.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet.clock import SystemClock
from fleet.errors import HostUnreachable
from fleet.manifests.model import AgentSpec, Slurm
from fleet.runtimes.base import Runtime
from fleet.runtimes.lease import Times
from fleet.runtimes.local import LocalRuntime
from fleet.runtimes.slurm_booking import Booking
from fleet.runtimes.slurm_bookings import Bookings
from fleet.runtimes.slurm_cluster import Cluster as Asked
from fleet.runtimes.slurm_queue import Pace
from fleet.runtimes.slurm_runs import NOTES, Run
from fleet.runtimes.slurm_runtime import SlurmRuntime
from fleet.runtimes.slurm_tenant import TenantRuntime, folder_of
from fleet.settings import Places, Settings
from fleet.terms import Handle, LaunchPlan
from tests.contract.hosts import IMPATIENT, PATIENT, Kit, answers_within, until_async
from tests.contract.hosts import PROGRAMS as SCRIPTS
from tests.homes import Home

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "tmux")
WITHIN = 120.0

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.txt
SlurmdLogFile={folder}/slurmd-%n.txt
ProctrackType=proctrack/{tracking}
TaskPlugin=task/none
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
ReturnToService=2
KillWait=20
SlurmdTimeout=100
MinJobAge={kept}
FirstJobId={first_job}
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType={accounting}
"""
PARTITIONS = {
    "main": "Default=YES PriorityTier=1 PreemptMode=REQUEUE",
    "cheap": "PriorityTier=1 PreemptMode=CANCEL",
    "grace": "PriorityTier=1 PreemptMode=CANCEL GraceTime=3",
    "high": "PriorityTier=9 PreemptMode=OFF",
    "brief": "PriorityTier=1 PreemptMode=OFF MaxTime=10",
}
FREEZER = Path("/sys/fs/cgroup/freezer")
"""Where a machine has cgroups of the first version, slurmd tracks a job's processes by it."""
CGROUPS = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n"


def missing() -> str | None:
    """What this machine lacks for a cluster, and how to get it."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if absent:
        packages = "slurmctld slurmd slurm-client tmux"
        return f"no {', '.join(absent)}; `make test` installs it where it may (apt-get install {packages})"
    return None if os.geteuid() == 0 else "slurmd starts jobs only as root; run the tests as root"


def tracking() -> str:
    """The best that this machine has for telling which processes are a job's; clusters have cgroups."""
    return "cgroup" if (FREEZER / "cgroup.procs").exists() and os.access(FREEZER, os.W_OK) else "linuxproc"


def no_mounts() -> str | None:
    """Why no node can have mounts of its own, by which one can lose a file system that the others keep."""
    argv = ["unshare", "--mount", "--propagation", "private", "true"]
    made = shutil.which("unshare") and subprocess.run(argv, capture_output=True, check=False).returncode == 0
    return None if made and os.geteuid() == 0 else "needs mount namespaces: run the tests as root"


needs_slurm = pytest.mark.skipif(missing() is not None, reason=f"needs a real SLURM: {missing()}")


def until(true: Callable[[], object], what: str, within: float = WITHIN) -> None:
    """Wait for what must happen."""
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"in {within:g} s it did not happen: {what}")
        time.sleep(0.1)


async def happens(true: Callable[[], object], what: str, within: float = WITHIN) -> None:
    """The same beside other work; what is asked may be a command."""
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"in {within:g} s it did not happen: {what}")
        await asyncio.sleep(0.1)


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs."""

    folder: Path
    nodes: tuple[str, ...]
    env: dict[str, str]
    since: float
    """When its controller was started, by the machine's own clock."""

    def run(self, *argv: str, check: bool = True) -> str:
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def states(self) -> dict[str, str]:
        listed = self.run("squeue", "--noheader", "--states=all", "--format=%i %T").split()
        return dict(zip(listed[::2], listed[1::2], strict=True))

    def idle(self) -> bool:
        """Whether its nodes take jobs, and have none."""
        listed = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False)
        return listed.split() == ["idle"] * len(self.nodes)

    def jobs(self, handle: Handle) -> list[str]:
        """The jobs of a launch that wait or run."""
        return self.run("squeue", "-h", "-t", "PD,R", "-o", "%i", f"--name=fleet-{handle.generation}").split()

    def take(self, node: str) -> str:
        """Submit a job that comes before those of agents there, and takes the whole node: its id."""
        words = ("--partition=high", "--exclusive", f"--nodelist={node}", "--output=/dev/null", "--wrap=exec sleep 600")
        return self.run("sbatch", "--parsable", *words).strip()

    def slurmd(self, node: str) -> psutil.Process:
        """A node's daemon."""
        return psutil.Process(int((self.folder / f"slurmd-{node}.pid").read_text()))

    def script(self, job: str) -> psutil.Process:
        """The batch script of a job that runs."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.cmdline()[-1:] and process.cmdline()[-1].endswith(f"/job{int(job):05}/slurm_script"):
                    return process
        raise AssertionError(f"job {job} has no script")

    def lose(self, job: str) -> None:
        """Kill what watches over a job on its node: from now on a cancel tells nobody, and ends nothing there."""
        lost = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.name().startswith("slurmstepd") and f"[{job}." in " ".join(process.cmdline()):
                    process.kill()
                    lost.append(process)
        assert lost, f"nothing watches over job {job}"

    def controller(self) -> psutil.Process:
        return psutil.Process(int((self.folder / "slurmctld.pid").read_text()))

    def daemons(self) -> list[psutil.Process]:
        """The daemons and the steps' own processes: all that was started with this configuration."""
        config = str(self.folder / "slurm.conf")
        found = []
        for process in psutil.process_iter():
            try:
                told = [*process.cmdline(), *process.environ().values()]
                name = process.name()
            except psutil.Error:
                continue
            if name.startswith(("slurmctld", "slurmd", "slurmstepd", "slurmscriptd")) and config in told:
                found.append(process)
        return found


def _ports(count: int) -> int:
    """The first of some free ports in a row, below those that the kernel gives away."""
    for _ in range(200):
        first = random.randint(20000, 31000)
        try:
            for port in range(first, first + count):
                with closing(socket.socket()) as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")


@contextmanager
def cluster(
    folder: Path,
    nodes: int = 2,
    *,
    cpus: int = 4,
    apart: bool = False,
    kept: int = 300,
    tracking: str = "linuxproc",
    accounting: str = "accounting_storage/none",
) -> Iterator[Cluster]:
    """A cluster as long as it is needed; afterwards its jobs and daemons are gone. With `apart` each node has mounts
    of its own, so that one can lose a file system that the others keep. `kept`: the seconds that a job is known after
    its end."""
    port = _ports(nodes + 1)
    letter = "n" if tracking == "linuxproc" else f"n{port}x"  # cgroups are named by it
    names = tuple(f"{letter}{number}" for number in range(1, nodes + 1))
    (folder / "state").mkdir(parents=True)
    first_job = random.randint(1000, 60_000_000)  # a job is told by its id and node, here on one machine for them all
    host = socket.gethostname().split(".")[0]
    given = {"tracking": tracking, "kept": kept, "accounting": accounting}
    lines = [CONFIGURATION.format(host=host, port=port, folder=folder, first_job=first_job, **given)]
    for number, name in enumerate(names, 1):
        (folder / "spool" / name).mkdir(parents=True)
        lines.append(
            f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port + number} CPUs={cpus} RealMemory=8000"
        )
    for name, how in PARTITIONS.items():
        lines.append(f"PartitionName={name} Nodes={','.join(names)} {how} State=UP")
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    if tracking == "cgroup":
        (folder / "cgroup.conf").write_text(CGROUPS)
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(folder), "USER": "root"}
    made = Cluster(folder, names, env | {"SLURM_CONF": str(folder / "slurm.conf")}, time.monotonic())
    try:
        made.run("slurmctld", "-f", str(folder / "slurm.conf"))
        for name in names:
            alone = ["unshare", "--mount", "--propagation", "private"] if apart else []
            made.run(*alone, "slurmd", "-f", str(folder / "slurm.conf"), "-N", name)
        until(made.idle, "nodes are idle")
        yield made
    finally:
        made.run("scancel", "--user=root", check=False)
        waiting = time.monotonic() + 30
        while made.run("squeue", "-h", check=False).strip() and time.monotonic() < waiting:
            time.sleep(0.1)
        daemons = made.daemons()
        for process in daemons:
            with suppress(psutil.NoSuchProcess):  # a step's own ends with its step
                process.terminate()
        for process in psutil.wait_procs(daemons, timeout=10)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for left in FREEZER.glob(f"slurm_{letter}*") if tracking == "cgroup" else ():
            with suppress(OSError):
                left.rmdir()


# -- agents on it -----------------------------------------------------------------------------------------------------

PACE = Pace(interval=0.5, timeout=PATIENT, slowest=1.0, fastest=0.1)
TIMES = Times(every=2, ttl=40, grace=3)
"""Of leases that are held and let go of …"""
SHORT = Times(every=2, ttl=14, grace=3)
"""… and of those whose end is waited for."""


class SlurmHost:
    """A cluster with a fleet home that all its nodes see."""

    multiplexer = "tmux"

    def __init__(
        self, cluster: Cluster, home: Path, *, pace: Pace = PACE, settings: Settings | None = None, times: Times = TIMES
    ) -> None:
        self.cluster = cluster
        self.times = times
        self.folder = str(home / "work")
        self.places = Places.of({"FLEET_HOME": str(home / "fleet"), "HOME": str(home)})
        self.settings = settings or Settings(observe_timeout=PATIENT, observe_idle_interval=0.5)
        self._pace = pace
        bin_ = Path(self.folder) / "bin"
        bin_.mkdir(parents=True, exist_ok=True)
        for name, text in SCRIPTS.items():
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        self.tenancies: list[TenantRuntime] = []
        self.open()

    def open(self) -> None:
        """As a daemon does at its start."""
        clock = SystemClock()
        self.local = LocalRuntime(self.places, self.settings, clock)
        self.asked = Asked(self.local, self.cluster.env | {"HOME": str(Path(self.folder).parent)}, self._pace)
        self.slurm = SlurmRuntime(self.asked, self.places, self.settings, clock, times=self.times, read_every=0.1)
        self.runtime: Runtime = self.slurm

    async def leave(self) -> None:
        """As a daemon does that is killed: nothing is ended, nothing finished."""
        await self.slurm.close()
        await self.local.close()

    async def book(self, name: str, *, cpus: int, persistent: bool = False) -> TenantRuntime:
        """A booking with a node, for tenants."""
        home, there = str(Path(self.folder).parent), folder_of(self.places, name) / "place"
        if not there.exists():
            booking = Booking(name=name, cpus=cpus, mem="4G", persistent=persistent)
            await Bookings(self.asked, self.places, self.settings, home).book(booking)
        await happens(there.exists, "the booking has its node")
        clock = SystemClock()
        made = TenantRuntime(self.asked, name, self.places, self.settings, clock, times=self.times, read_every=0.1)
        self.tenancies.append(made)
        return made

    def run_of(self, handle: Handle, number: int = 1) -> Run:
        folder = Path(handle.folder) / f"run.{number}"
        notes = {path.name: path.read_text().strip() for name in NOTES if (path := folder / name).is_file()}
        return Run(number, notes)

    def _kill(self, handle: Handle, name: str) -> None:
        pid, start = self.run_of(handle).notes[name].split()
        assert start
        psutil.Process(int(pid)).kill()

    def kill(self, handle: Handle) -> None:
        self._kill(handle, "program")

    def kill_launcher(self, handle: Handle) -> None:
        self._kill(handle, "launcher")

    def lose_multiplexer(self) -> None:
        own = tuple(f"/tmp/fleet-{os.getuid()}/{job}." for job in self.cluster.states())
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.name().startswith("tmux: server") and any(w.startswith(own) for w in process.cmdline()):
                    process.kill()

    def _controller(self) -> psutil.Process:
        return self.cluster.controller()

    def cut(self) -> None:
        self._answers_within(IMPATIENT)
        self._controller().suspend()

    def heal(self) -> None:
        self._controller().resume()
        self._answers_within(PATIENT)

    def _answers_within(self, seconds: float) -> None:
        self.asked._pace = replace(self.asked._pace, timeout=seconds)
        answers_within(self.settings, seconds)

    async def close(self) -> None:
        with suppress(psutil.NoSuchProcess, OSError):
            self.heal()
        agents = self.places.state / "agents"
        for agent in sorted(path.name for path in agents.glob("*")):
            for tenancy in self.tenancies:
                await tenancy.purge(agent, grace=1)
            await self.slurm.purge(agent, grace=0.1)
        for tenancy in self.tenancies:
            await tenancy.close()
        await self.release()
        await self.leave()

    async def release(self) -> None:
        """End all that is booked."""
        for booking in (self.places.state / "bookings").glob("*"):
            await Bookings(self.asked, self.places, self.settings, "").release(booking.name)
            await happens(lambda booking=booking: not (booking / "place").exists(), "its job has ended")


class TenantHost(SlurmHost):
    """A booking on it, in which one test after the other lives."""

    async def lodge(self) -> None:
        self.runtime = await self.book("pool", cpus=4)

    def run_of(self, handle: Handle, number: int = 1) -> Run:
        folder = Path(handle.folder)
        return Run(number, {name: (folder / name).read_text().strip() for name in ("launcher", "program")})

    async def release(self) -> None:
        """Not after each test."""


class SlurmKit(Kit):
    """What the contract's tests do, where a launch stands in a queue first."""

    async def launch(self, agent: str, program: str = "greeter", **section: Any) -> Handle:
        handle = self.mint(agent)
        await self.runtime.launch(self.plan(agent, program, **section), handle)

        async def runs() -> bool:
            try:
                look = await self.runtime.look(handle)
            except HostUnreachable:  # the queue was not told in time
                return False
            return look.waiting is None and look.program is not None

        await until_async(runs, "the job's start")
        return handle

    def plan(self, agent: str, *argv: str, cwd: str | None = None, **section: Any) -> LaunchPlan:
        wanted = Slurm(**{"mem": "100M", **section})
        spec = AgentSpec(name=agent, harness="shell", command=argv, runtime="slurm", slurm=wanted)
        return replace(super().plan(agent, *argv, cwd=cwd), again=argv, place=spec)


@pytest.fixture(name="host")
async def slurm_host(slurm: Cluster, home: Home) -> AsyncIterator[SlurmHost]:
    """The contract's host, for modules that import it."""
    made = SlurmHost(slurm, home.path)
    yield made
    await made.close()


@pytest.fixture(name="kit")
def slurm_kit(host: SlurmHost) -> SlurmKit:
    return SlurmKit(host)
