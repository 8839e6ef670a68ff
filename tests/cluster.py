"""A real SLURM cluster for tests: one slurmctld and some slurmd on this machine, in a folder, on the loopback.

No cgroups, no munge, no accounting, no systemd: the daemons run as whoever runs the tests, and must be root to run
jobs. A node is a slurmd with a name and a port of its own.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "tmux")
WITHIN = 60.0

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
ProctrackType=proctrack/linuxproc
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
SlurmdTimeout=10
MinJobAge=300
JobRequeue=1
AccountingStorageType=accounting_storage/none
"""


def missing() -> str | None:
    """What this machine lacks for a cluster, and how to get it."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if absent:
        packages = "slurmctld slurmd slurm-client tmux"
        return f"no {', '.join(absent)}; `make test` installs it where it may (apt-get install {packages})"
    return None if os.geteuid() == 0 else "slurmd starts jobs only as root"


def until(true: Callable[[], object], what: str, within: float = WITHIN) -> None:
    """Wait for what must happen."""
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"in {within:g} s it did not happen: {what}")
        time.sleep(0.1)


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs."""

    folder: Path
    nodes: tuple[str, ...]
    env: dict[str, str]

    def run(self, *argv: str, check: bool = True) -> str:
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def states(self) -> dict[str, str]:
        listed = self.run("squeue", "--noheader", "--states=all", "--format=%i %T").split()
        return dict(zip(listed[::2], listed[1::2], strict=True))

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
def cluster(folder: Path, nodes: int = 2) -> Iterator[Cluster]:
    """A cluster as long as it is needed; afterwards its jobs and daemons are gone."""
    names = tuple(f"n{number}" for number in range(1, nodes + 1))
    port = _ports(nodes + 1)
    (folder / "state").mkdir(parents=True)
    lines = [CONFIGURATION.format(host=socket.gethostname().split(".")[0], port=port, folder=folder)]
    for number, name in enumerate(names, 1):
        (folder / "spool" / name).mkdir(parents=True)
        lines.append(
            f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port + number} CPUs=4 RealMemory=8000"
        )
    lines.append(f"PartitionName=main Nodes={','.join(names)} Default=YES MaxTime=INFINITE State=UP")
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(folder), "USER": "root"}
    made = Cluster(folder, names, env | {"SLURM_CONF": str(folder / "slurm.conf")})
    try:
        made.run("slurmctld", "-f", str(folder / "slurm.conf"))
        for name in names:
            made.run("slurmd", "-f", str(folder / "slurm.conf"), "-N", name)
        until(
            lambda: made.run("sinfo", "-h", "-N", "-o", "%T", check=False).split() == ["idle"] * nodes, "nodes are idle"
        )
        yield made
    finally:
        made.run("scancel", "--user=root", check=False)
        waiting = time.monotonic() + 30
        while made.run("squeue", "-h", check=False).strip() and time.monotonic() < waiting:
            time.sleep(0.1)
        daemons = made.daemons()
        for process in daemons:
            process.terminate()
        for process in psutil.wait_procs(daemons, timeout=10)[1]:
            process.kill()
