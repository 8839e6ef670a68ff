"""What agents in SLURM jobs cost: a real slurmctld with two slurmd on this machine, at fleet's own defaults but for
the pace of the queue's questions."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.measure import median
from tests.bench.rows import Row, Sizes, ms
from tests.cluster import Cluster, SlurmHost, SlurmKit, cluster, happens, missing

WHOLE: Sizes = {"tenants": 9, "signals": 5}
QUICK: Sizes = {"tenants": 2, "signals": 1}
POOL = 16
"""CPUs that are booked, one for each tenant."""


def jobs(sizes: Sizes) -> Iterator[Row]:
    """Tenants that are launched, and jobs that are told that their time is nearly up."""
    with (
        tempfile.TemporaryDirectory(prefix="flbench", dir="/tmp") as folder,
        cluster(Path(folder) / "c", cpus=POOL) as made,
    ):
        yield from asyncio.run(_jobs(made, Path(folder), sizes))


async def _jobs(made: Cluster, folder: Path, sizes: Sizes) -> list[Row]:
    host = SlurmHost(made, folder)
    try:
        return [await _tenants(host, sizes), await _signals(host, sizes)]
    finally:
        await host.close()


async def _tenants(host: SlurmHost, sizes: Sizes) -> Row:
    """From the launch to the program's having been noted, one after the other."""
    tenancy = await host.book("pool", cpus=POOL)
    kit, took = SlurmKit(host), []
    kit.runtime = tenancy
    for number in range(sizes["tenants"]):
        handle = kit.mint(f"t{number}")
        began = time.perf_counter()
        await tenancy.launch(kit.plan(f"t{number}", "greeter"), handle)
        took.append(time.perf_counter() - began)
    slowest = max(took)
    found = f"{ms(median(took))}, at most {ms(slowest)} of {len(took)}, the first included"
    return Row(
        "tenant launched into a booked SLURM allocation, until its program is noted", "≤ 2 s", found, slowest <= 2
    )


async def _signals(host: SlurmHost, sizes: Sizes) -> Row:
    """From SLURM's warning to the successor's standing in the queue."""
    kit, took = SlurmKit(host), []
    for number in range(sizes["signals"]):
        handle = await kit.launch(f"s{number}")
        await happens((Path(handle.folder) / "run.1" / "pane").exists, "the job watches")
        await kit.watch(handle).show("hello")
        (job,) = host.cluster.run("squeue", "-h", "-o", "%i", f"--name=fleet-{handle.generation}").split()
        began = time.perf_counter()
        host.cluster.run("scancel", "--batch", "--signal=USR1", job)
        noted = Path(handle.folder) / "run.1" / "successor"
        while not noted.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        took.append(time.perf_counter() - began)
        await host.runtime.end(handle, grace=1)
    slowest = max(took)
    found = f"{ms(median(took))}, at most {ms(slowest)} of {len(took)}"
    return Row("SIGUSR1 before the walltime to the successor's job id", "≤ 2 s", found, slowest <= 2)


SLURM_PARTS: dict[str, Callable[[Sizes], Iterator[Row]]] = {} if missing() else {"slurm-jobs": jobs}
