"""One live process for each conversation, also where a node is cut off and its job is started again elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster import Cluster, SlurmHost, SlurmKit, cluster, happens, needs_slurm
from tests.homes import Home


def _no_mounts() -> bool:
    """Whether this machine gives nobody mounts of their own."""
    done = subprocess.run(["unshare", "--mount", "--propagation", "private", "true"], capture_output=True, check=False)
    return os.geteuid() != 0 or done.returncode != 0


pytestmark = [
    pytest.mark.real,
    needs_slurm,
    pytest.mark.skipif(
        _no_mounts(), reason="needs mount namespaces, to cut one node's file system off: run it as root"
    ),
]

BEATS = """#!/bin/sh
while :; do echo "$FLEET_RUN $(cut -d' ' -f1 /proc/uptime)" >>"$BEATS"; sleep 0.1; done
"""


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="sl"))
    with cluster(folder / "c", apart=True) as made:
        yield made
    shutil.rmtree(folder, ignore_errors=True)


def _on_node(slurm: Cluster, node: str, *argv: str) -> int:
    """Run it among the node's own mounts."""
    return subprocess.run(["nsenter", f"--target={slurm.slurmd(node).pid}", "--mount", *argv], check=False).returncode


def _cut_off(slurm: Cluster, node: str, folder: Path) -> bool:
    """Nothing that the node writes there arrives any more. Whether it is so: a file that is open there forbids it."""
    return _on_node(slurm, node, "mount", "-o", "remount,bind,ro", str(folder)) == 0


def _lives(program: psutil.Process) -> bool:
    return program.is_running() and program.status() != psutil.STATUS_ZOMBIE


async def test_the_cut_off_process_has_ended_before_its_job_runs_elsewhere(nodes: Cluster, home: Home) -> None:
    host = SlurmHost(nodes, home.path)
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
        assert _lives(old), "the old process lives when its job waits to run again"
        nodes.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        await happens(lambda: nodes.states().get(job) == "RUNNING", "the job runs elsewhere")

        def runs() -> list[tuple[str, float]]:
            return [(line.split()[0], float(line.split()[1])) for line in beats.read_text().splitlines()]

        await happens(lambda: any(run != "1" for run, _ in runs()), "the second run's program", 60)
        assert not _lives(old)
        first = [at for run, at in runs() if run == "1"]
        second = [at for run, at in runs() if run != "1"]
        assert max(first) < min(second)
        assert not looks.deaths
    finally:
        slurmd.resume()
        await host.close()
        shutil.rmtree(beats.parent, ignore_errors=True)
