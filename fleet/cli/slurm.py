"""`fleet slurm`: bookings, the allocations that agents share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fleet.cli import call, output

T = TypeVar("T")

over_ssh = click.option("--host", help="The login node it is booked from, over ssh: a name of your ssh_config.")


@click.group()
def slurm() -> None:
    """Hold an allocation on a cluster for several agents: `slurm.reservation: NAME` in their manifests."""


@slurm.command()
@click.argument("name")
@click.option("--partition", help="The partition; by default the cluster's.")
@click.option("--account", help="The account that is charged.")
@click.option("--cpus", type=click.IntRange(1), default=1, show_default=True, help="CPUs for all tenants together.")
@click.option("--mem", default="4G", show_default=True, help="Memory for all tenants together, as SLURM writes it.")
@click.option("--time", "time_limit", default="1-00:00:00", show_default=True, help="Its time limit.")
@over_ssh
@click.option("--persistent", is_flag=True, help="Follow it by another before its time is up; its tenants move along.")
@call.as_json
def book(host: str | None, as_json: bool, **wishes: Any) -> int:
    """Submit the job that holds the allocation. Agents start in it once it has a node."""
    from fleet.runtimes.slurm_booking import Booking

    booking = Booking(**wishes)
    job = with_bookings(lambda bookings: bookings.book(booking), host)
    if as_json:
        output.envelope({"name": booking.name, "job": job})
    else:
        output.result(f"{booking.name}: job {job} is submitted")
    return 0


@slurm.command()
@click.argument("name")
@over_ssh
@call.as_json
def release(name: str, host: str | None, as_json: bool) -> int:
    """End a booking, and all that lives in it."""
    with_bookings(lambda bookings: bookings.release(name), host)
    if as_json:
        output.envelope({"name": name, "outcome": "released"})
    else:
        output.result(f"{name}: released")
    return 0


@slurm.command("list")
@over_ssh
@call.as_json
def list_(host: str | None, as_json: bool) -> int:
    """List the bookings, and how they stand."""
    told = with_bookings(lambda bookings: bookings.all(), host)
    if as_json:
        output.envelope({"bookings": told})
        return 0
    if not told:
        output.message("nothing is booked; `fleet slurm book NAME` books")
    for booking in told:
        output.result(_line(booking))
    return 0


@slurm.command()
@click.argument("name")
@over_ssh
@call.as_json
def show(name: str, host: str | None, as_json: bool) -> int:
    """Show a booking with its tenants, and what of it is free."""
    told = with_bookings(lambda bookings: bookings.one(name), host)
    if as_json:
        output.envelope(told)
        return 0
    output.result(_line(told))
    for tenant in told["tenants"]:
        output.result(f"  {tenant['agent']}: {tenant['cpus']} CPUs, {tenant['mem']}")
    output.result(f"  free: {told['free_cpus']} CPUs, {told['free_mem_mb']:.0f} MB")
    return 0


def _line(told: dict[str, Any]) -> str:
    size = f"{told['cpus']} CPUs, {told['mem']}, {told['time_limit']}"
    return f"{told['name']}: {told['state']} ({size}{', persistent' if told['persistent'] else ''})"


def with_bookings(doing: Callable[[Any], Awaitable[T]], login: str | None = None) -> T:
    """Do something with the bookings of this fleet, from here: they are files and jobs, and need no daemon."""
    from fleet.clock import SystemClock
    from fleet.clusters import must_have_slurm_there
    from fleet.config import load_settings
    from fleet.hosts import SshHosts
    from fleet.runtimes.local import LocalRuntime
    from fleet.runtimes.slurm_bookings import Bookings
    from fleet.runtimes.slurm_cluster import Cluster
    from fleet.runtimes.ssh_hosts import Way
    from fleet.settings import Places

    async def do() -> T:
        places = Places.of()
        settings = load_settings(places)
        if login is not None:
            async with SshHosts(settings, places, SystemClock(), lambda _: ()).visited(Way(login)) as (node, folder):
                there = Cluster(node, {}, folder=folder)
                try:
                    await must_have_slurm_there(there, login)
                    return await doing(Bookings(there, places, settings, (await there.environment())["HOME"]))
                finally:
                    await there.close()
        host = LocalRuntime(places, settings, SystemClock())
        cluster = Cluster(host, os.environ)
        try:
            return await doing(Bookings(cluster, places, settings, os.environ.get("HOME", str(Path.home()))))
        finally:
            await cluster.close()
            await host.close()

    return asyncio.run(do())
