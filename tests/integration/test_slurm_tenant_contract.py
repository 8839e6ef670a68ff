"""What every runtime promises, for tenants of one booking on a real SLURM; and what their lease adds.

Of the contract's tests those that a booking leaves as they are. A tenant whose tmux is lost has lost its allocation,
and what a killed launcher leaves is ended by its guard. Files and commands are the submit host's.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fleet.errors import HostUnreachable
from fleet.runtimes import lease
from fleet.terms import Handle, Process
from tests.cluster import (  # noqa: F401
    SHORT,
    Cluster,
    SlurmHost,
    SlurmKit,
    TenantHost,
    happens,
    needs_slurm,
    slurm_kit,
    until,
)
from tests.contract.hosts import Looks, until_async
from tests.contract.test_runtime import (  # noqa: F401
    test_a_host_that_cannot_be_read_is_no_death,
    test_a_killed_program_ends_with_the_signals_status,
    test_a_launch_that_happened_already_is_left_as_it_is,
    test_a_launch_that_never_happened_is_not_alive,
    test_a_missing_folder_is_refused_by_name,
    test_a_pane_has_the_size_it_was_given,
    test_a_watch_on_what_has_ended_tells_of_the_end,
    test_after_a_launcher_is_killed_nobody_knows_the_status,
    test_an_agent_is_launched_again_after_its_end,
    test_cleaning_up_removes_only_what_nobody_keeps,
    test_ending_ends_what_ignores_sigterm_and_says_so,
    test_ending_lets_a_program_end_by_sigterm,
    test_ending_what_was_never_launched_is_fine,
    test_lines_that_left_the_screen_are_kept,
    test_stopping_web_never_touches_web_2,
    test_the_last_screen_is_kept_after_the_pane_is_gone,
    test_typed_text_arrives_and_enter_sends_it,
    test_who_does_not_watch_hears_nothing,
)
from tests.homes import Home, end_all, wait_gone

pytestmark = [pytest.mark.real, needs_slurm]


@pytest.fixture(scope="module")
def lodgings(slurm: Cluster) -> Iterator[Home]:
    """A home with a booking for all tests here. Afterwards nothing lives of it."""
    home = Home.new()
    yield home
    asyncio.run(_release(slurm, home))
    until(lambda: not slurm.run("squeue", "--noheader"), "the booking's job has ended")  # which may take its grace
    said = end_all(wait_gone(home.path))
    shutil.rmtree(home.path, ignore_errors=True)
    assert not said, "the tests left this behind:\n  " + "\n  ".join(said)


async def _release(slurm: Cluster, home: Home) -> None:
    await SlurmHost(slurm, home.path).close()


@pytest.fixture
async def host(slurm: Cluster, lodgings: Home) -> AsyncIterator[TenantHost]:
    made = TenantHost(slurm, lodgings.path)
    await made.lodge()
    yield made
    await made.close()


async def stubborn(kit: SlurmKit, agent: str) -> tuple[Handle, Looks, Process]:
    """A program that ends for nobody who asks, and is up."""
    handle = await kit.launch(agent, "stubborn")
    looks = kit.watch(handle)
    await looks.show("ready")
    program = (await kit.runtime.look(handle)).program
    assert program is not None
    return handle, looks, program


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def held(host: TenantHost, agent: str) -> lease.Lease | None:
    """The newest lease of an agent's conversation."""
    folder = host.places.agent(agent) / "leases"
    number = lease.newest(path.name for path in folder.iterdir())
    return None if number is None else lease.parse(number, (folder / str(number)).read_bytes())


async def test_a_launch_waits_for_its_conversations_lease_and_one_that_is_ended_meanwhile_starts_nothing(
    kit: SlurmKit, host: TenantHost
) -> None:
    leases = host.places.agent("web") / "leases"
    leases.mkdir(parents=True, exist_ok=True)
    number = (lease.newest(path.name for path in leases.iterdir()) or 0) + 1
    (leases / str(number)).write_text("7.0.n9.1 3\n")  # somebody holds it, on a node that nobody sees

    first = kit.mint("web")
    await kit.runtime.launch(kit.plan("web", "greeter"), first)
    look = await kit.runtime.look(first)
    assert look.alive and look.program is None and "lease" in (look.waiting or "")
    await kit.runtime.end(first, grace=1)
    assert not (await kit.runtime.look(first)).alive

    second = kit.mint("web")
    await kit.runtime.launch(kit.plan("web", "greeter"), second)
    looks = kit.watch(second)
    await happens(lambda: any(look.waiting for look in looks.all), "word that it waits")
    assert not looks.text.strip() and not (Path(second.folder) / "program").exists()
    (leases / str(number)).write_text("released 7.0.n9.1\n")
    await looks.show("hello")
    await happens(lambda: looks.all[-1].waiting is None and looks.all[-1].program is not None, "word of its program")
    assert not (Path(first.folder) / "program").exists()


async def test_what_a_killed_launcher_left_behind_is_ended_before_its_lease_is_let_go_of(
    kit: SlurmKit, host: TenantHost
) -> None:
    handle, _, program = await stubborn(kit, "web")
    host.kill_launcher(handle)
    await happens(lambda: (now := held(host, "web")) is not None and now.released, "its lease is released")
    assert not lives(program.pid)


async def test_a_lease_that_cannot_be_renewed_ends_the_program_by_its_deadline(host: TenantHost) -> None:
    host.times = SHORT
    await host.lodge()
    kit = SlurmKit(host)
    handle, looks, program = await stubborn(kit, "cut-off")
    leases = host.places.agent("cut-off") / "leases"
    leases.rename(leases.with_name("leases-away"))
    await looks.death()
    await until_async(lambda: _lapsed(kit, handle), "word of its lease")
    assert not lives(program.pid)


async def test_a_tenant_whose_keeper_is_killed_is_ended_too(kit: SlurmKit, host: TenantHost) -> None:
    handle, looks, program = await stubborn(kit, "unkept")
    place = (host.places.state / "bookings" / "pool" / "place").read_text().split()[2]
    here = Path(place).parent / "tenants" / handle.generation
    psutil.Process(int((here / "keeper").read_text().split()[0])).kill()
    await looks.death()
    await until_async(lambda: _lapsed(kit, handle), "word of its lease")
    assert not lives(program.pid)


async def _lapsed(kit: SlurmKit, handle: Handle) -> bool:
    look = await kit.runtime.look(handle)
    return not look.alive and look.gone == "host"


async def test_a_tenant_whose_booking_its_cluster_has_lost_hold_of_is_ended_and_only_then_stopped(
    host: TenantHost, slurm: Cluster
) -> None:
    host.runtime = await host.book("lost", cpus=1)
    kit = SlurmKit(host)
    handle = await kit.launch("squatter")
    host.asked.want("a test")  # not by watching, which would open another step of the job
    program = (await kit.runtime.look(handle)).program
    job, _, socket = (host.places.state / "bookings" / "lost" / "place").read_text().split()
    slurm.lose(job)
    slurm.run("scancel", job)

    async def is_over() -> bool:
        with suppress(HostUnreachable):  # until the queue has said so
            return (await kit.runtime.look(handle)).gone == "host"
        return False

    await until_async(is_over, "its allocation is gone")
    await kit.runtime.end(handle, grace=1)
    assert program is not None and not lives(program.pid)
    await happens(lambda: not Path(socket).parent.exists(), "its tmux has ended")


async def test_tenants_of_a_booking_whose_script_is_killed_end_and_wait_for_another(
    host: TenantHost, slurm: Cluster
) -> None:
    """SLURM itself does not see them here: it tracks by parent."""
    host.runtime = await host.book("other", cpus=1)
    kit = SlurmKit(host)
    handle = await kit.launch("orphan")
    looks = kit.watch(handle)
    await looks.show("hello")
    program = (await kit.runtime.look(handle)).program
    job, _, socket = (host.places.state / "bookings" / "other" / "place").read_text().split()
    slurm.script(job).kill()
    assert (await looks.death()).gone == "host" and program is not None
    await happens(lambda: not lives(program.pid), "its program has ended")
    with pytest.raises(HostUnreachable, match="the booking other has no node"):
        await kit.runtime.launch(kit.plan("orphan", "greeter"), kit.mint("orphan"))
    await happens(lambda: not Path(socket).parent.exists(), "its tmux has ended")
