"""What is done with bookings: they are submitted, released and told of. Their tenants are started elsewhere."""

from __future__ import annotations

import time
from typing import Any

from fleet.errors import LaunchError, NotAllowed, UnknownAgent
from fleet.runtimes import slurm_booking, slurm_queue, slurm_runtime, slurm_script, slurm_tenant
from fleet.runtimes.slurm_booking import Booking, Place
from fleet.runtimes.slurm_cluster import Answer, Cluster
from fleet.settings import Places, Settings
from fleet.terms import File


class Bookings:
    """The bookings of this fleet."""

    def __init__(self, cluster: Cluster, places: Places, settings: Settings, home: str) -> None:
        self._cluster, self._host = cluster, cluster.host
        self._places, self._settings, self._home = cluster.shared(places), settings, home

    def _folder(self, name: str) -> str:
        return str(slurm_tenant.folder_of(self._places, name))

    async def book(self, booking: Booking) -> str:
        """Its job's id. One that stands already is not booked again, as long as a job of it waits or runs."""
        folder = self._folder(booking.name)
        if await self._is_wanted(booking.name):
            there = (await self._cluster.newer(time.monotonic())).named(
                slurm_booking.job_name(self._folder(booking.name))
            )
            if there:
                hint = f"`fleet slurm show {booking.name}` shows it, `fleet slurm release {booking.name}` ends it."
                raise NotAllowed(f"{booking.name} is booked already: job {there[-1].id}.", hint=hint)
        await self._remove(f"{folder}/place")
        scripts = slurm_runtime.scripts_of(self._places)
        lease = File(f"{scripts}/lease.sh", slurm_runtime.SCRIPTS["lease.sh"].read_bytes(), 0o700)
        ours = slurm_booking.files(booking, folder, lease.path, self._home, self._settings)
        await self._host.put([lease, *ours])
        try:
            return await self._cluster.submit([*slurm_script.BARE, "sbatch", "--parsable", f"{folder}/job"])
        except LaunchError:
            await self._remove(f"{folder}/wanted")
            raise

    async def release(self, name: str) -> None:
        """It is wanted no more before its jobs are cancelled: one that starts just now ends by itself."""
        await self._booked(name)
        await self._remove(f"{self._folder(name)}/wanted")
        await self._cluster.cancel(f"--name={slurm_booking.job_name(self._folder(name))}")

    async def _remove(self, path: str) -> None:
        await self._host.run(["rm", "-f", path], env=slurm_runtime.RM, cwd="/", timeout=10)

    async def all(self) -> list[dict[str, Any]]:
        names = [n for n in await self._host.list(str(self._places.state / "bookings")) if await self._is_wanted(n)]
        answer = await self._cluster.newer(time.monotonic()) if names else None
        return [self._told(await self._booked(name), answer) for name in names]

    async def one(self, name: str) -> dict[str, Any]:
        booking = await self._booked(name)
        told = self._told(booking, await self._cluster.newer(time.monotonic()))
        place = Place.parse(await self._host.read(f"{self._folder(name)}/place"))
        there = await slurm_tenant.tenants(self._host, self._places, name, place)
        shown = [{"agent": t.agent, "cpus": t.section.cpus_per_task, "mem": t.section.mem} for t in there]
        free_mem = slurm_booking.megabytes(booking.mem) - sum(slurm_booking.megabytes(t.section.mem) for t in there)
        free_cpus = booking.cpus - sum(t.section.cpus_per_task for t in there)
        return {**told, "tenants": shown, "free_cpus": free_cpus, "free_mem_mb": free_mem}

    async def _is_wanted(self, name: str) -> bool:
        return await self._host.read(f"{self._folder(name)}/wanted") is not None

    async def _booked(self, name: str) -> Booking:
        content = await self._host.read(f"{self._folder(name)}/booking")
        if content is None or not await self._is_wanted(name):
            raise UnknownAgent(f"There is no booking {name}.", hint="`fleet slurm list` lists the ones there are.")
        return Booking.from_json(content)

    def _told(self, booking: Booking, answer: Answer | None) -> dict[str, Any]:
        there = answer.named(slurm_booking.job_name(self._folder(booking.name))) if answer is not None else []
        return {
            "name": booking.name,
            "job": there[-1].id if there else None,
            "state": slurm_queue.summary(there[-1], time.time()) if there else "it has no job any more",
            "partition": booking.partition,
            "cpus": booking.cpus,
            "mem": booking.mem,
            "time_limit": booking.time_limit,
            "persistent": booking.persistent,
        }
