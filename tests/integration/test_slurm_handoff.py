"""The walltime hand-off and the ends of a job, on a real SLURM: one launch, whatever becomes of its jobs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fleet.errors import HostUnreachable
from fleet.terms import Handle, Look
from tests.cluster import Cluster, SlurmHost, SlurmKit, happens, needs_slurm, slurm_host, slurm_kit  # noqa: F401
from tests.contract.hosts import Looks, until_async

pytestmark = [pytest.mark.real, needs_slurm]


def signal(slurm: Cluster, job: str) -> None:
    """SLURM's own warning that the time is nearly up."""
    slurm.run("scancel", "--batch", "--signal=USR1", job)


async def runs_as(host: SlurmHost, handle: Handle, number: int) -> None:
    async def there() -> bool:
        try:
            look = await host.runtime.look(handle)
        except HostUnreachable:  # its pane has gone this very moment
            return False
        newest = (Path(handle.folder) / "run").read_text().strip()
        return look.waiting is None and look.program is not None and newest == str(number)

    await until_async(there, f"run {number}")


async def test_a_job_near_its_limit_hands_on_to_one_successor_and_the_launch_lives_on(
    kit: SlurmKit, host: SlurmHost, slurm: Cluster
) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    (first,) = slurm.jobs(handle)
    signal(slurm, first)
    await runs_as(host, handle, 2)
    (second,) = slurm.jobs(handle)
    assert second != first
    await happens(lambda: slurm.states()[first] == "COMPLETED", "the first has come to its own end")
    assert not looks.deaths and host.run_of(handle).ended == "left"
    await kit.say(handle, "still here")
    await looks.show("you said still here")


async def test_a_hand_off_while_the_daemon_is_away_is_found_by_the_next(
    kit: SlurmKit, host: SlurmHost, slurm: Cluster
) -> None:
    handle = await kit.launch("web")
    (first,) = slurm.jobs(handle)
    await host.leave()
    signal(slurm, first)
    await happens(
        lambda: (Path(handle.folder) / "run.1" / "successor").exists(), "the job submits its successor itself"
    )
    host.open()
    looks = Looks()
    host.runtime.watch(handle, looks)
    await runs_as(host, handle, 2)
    assert len(slurm.jobs(handle)) == 1 and not looks.deaths


async def test_a_stop_after_the_signal_leaves_nothing_that_comes_back(
    kit: SlurmKit, host: SlurmHost, slurm: Cluster
) -> None:
    handle = await kit.launch("web")
    (first,) = slurm.jobs(handle)
    signal(slurm, first)  # nobody watches: the job alone submits, and both are there
    await happens(lambda: len(slurm.jobs(handle)) == 2, "the successor waits")
    await kit.runtime.end(handle, grace=1)
    assert not (await kit.runtime.look(handle)).alive
    await happens(lambda: not slurm.jobs(handle), "no job is left")
    assert not (Path(handle.folder) / "run.2").exists()


async def test_a_job_that_somebody_cancels_is_told_as_that(kit: SlurmKit, slurm: Cluster) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    slurm.run("scancel", *slurm.jobs(handle))
    death = await looks.death()
    assert death.gone == "cancelled" and not slurm.jobs(handle)


@pytest.mark.parametrize("by", ["stop", "cancel"])
async def test_what_its_cluster_has_lost_hold_of_is_over_once_nothing_of_it_lives(
    kit: SlurmKit, host: SlurmHost, slurm: Cluster, by: str
) -> None:
    handle = await kit.launch("web")
    look = await kit.runtime.look(handle)
    assert look.program is not None
    program = psutil.Process(look.program.pid)
    (job,) = slurm.jobs(handle)
    slurm.lose(job)
    if by == "stop":
        await kit.runtime.end(handle, grace=1)
        assert not is_alive(program)
        return
    slurm.run("scancel", job)
    await happens(lambda: slurm.states()[job] == "CANCELLED", "the queue takes it for cancelled")
    await host.leave()
    host.open()
    look = await seen(host, handle)  # by a daemon that cannot reach its pane
    assert look.alive and "was cancelled" in (look.waiting or "")
    looks = Looks()
    host.runtime.watch(handle, looks)
    assert (await looks.death()).gone == "cancelled"
    assert not is_alive(program)


async def seen(host: SlurmHost, handle: Handle) -> Look:
    """A look, once the queue has answered."""
    looks: list[Look] = []

    async def told() -> bool:
        with suppress(HostUnreachable):
            looks.append(await host.runtime.look(handle))
        return bool(looks)

    await until_async(told, "a look")
    return looks[0]


def is_alive(process: psutil.Process) -> bool:
    """Whether it lives; a zombie does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_requeued_job_is_waited_for_and_goes_on(kit: SlurmKit, host: SlurmHost, slurm: Cluster) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    (job,) = slurm.jobs(handle)
    before = len(looks.all)
    slurm.run("scontrol", "requeue", job)
    await happens(lambda: any("requeued" in (look.waiting or "") for look in looks.all), "word of the queue")
    assert not any("prepares the start" in (look.waiting or "") for look in looks.all[before:]), "it ended first"
    assert (await kit.runtime.look(handle)).alive
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    await runs_as(host, handle, 2)
    assert not looks.deaths and slurm.jobs(handle) == [job]


async def test_a_job_that_finds_no_room_says_why_and_is_no_failure(kit: SlurmKit, slurm: Cluster) -> None:
    for node in slurm.nodes:
        slurm.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    try:
        handle = kit.mint("web")
        await kit.runtime.launch(kit.plan("web", "greeter"), handle)
        looks = kit.watch(handle)
        await happens(lambda: any("waits (" in (look.waiting or "") for look in looks.all), "a reason")
        look: Look = looks.all[-1]
        assert look.alive and look.program is None
        with pytest.raises(HostUnreachable, match="no pane"):
            await kit.say(handle, "hello")
        await kit.runtime.end(handle, grace=1)
        assert not (await kit.runtime.look(handle)).alive
    finally:
        for node in slurm.nodes:
            slurm.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        await happens(slurm.idle, "nodes are idle")
