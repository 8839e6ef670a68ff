"""SLURM as a place where agents run: the cluster that this machine submits to, and the bookings on it."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Collection
from typing import Any

from fleet.clock import Clock
from fleet.errors import HostUnreachable
from fleet.manifests.model import AgentSpec
from fleet.runtimes.base import Runtime
from fleet.settings import Places, Settings
from fleet.terms import Handle

HERE = ""
"""The one cluster that there is, in the handles of its launches: the one that is reached from this machine."""
FASTEST = 10.0
"""Seconds between two questions that no setting goes below."""


class Clusters:
    """The kind of hosts that `runtime: slurm` means. What it takes is loaded with the first job."""

    def __init__(
        self,
        here: Runtime,
        settings: Settings,
        places: Places,
        clock: Clock,
        secrets_of: Callable[[str], Collection[str]],
    ) -> None:
        self._here, self._settings, self._places, self._clock, self._secrets = here, settings, places, clock, secrets_of
        self._made: Any = None
        self._cluster: Any = None
        self.tenants = Tenants(self)
        """Those in the bookings of the same cluster."""

    def choices(self, spec: AgentSpec) -> tuple[str, ...]:
        return (HERE,)

    def name(self, host: str) -> str:
        return "the cluster"

    def known(self, handle: Handle) -> Runtime:
        return self._runtime()

    async def opened(self, host: str, spec: AgentSpec) -> Runtime:
        must_have_slurm()
        return self._runtime()

    def _runtime(self) -> Runtime:
        if self._made is None:
            self._made = importlib.import_module("fleet.runtimes.slurm_runtime").SlurmRuntime(
                self._one_cluster(), self._places, self._settings, self._clock, self._secrets
            )
        made: Runtime = self._made
        return made

    def _one_cluster(self) -> Any:
        """One question serves all."""
        if self._cluster is None:
            interval = max(FASTEST, self._settings.slurm_interval)
            pace = importlib.import_module("fleet.runtimes.slurm_queue").Pace(interval=interval)
            self._cluster = importlib.import_module("fleet.runtimes.slurm_cluster").Cluster(
                self._here, os.environ, pace
            )
        return self._cluster

    def tenancy(self, booking: str) -> Runtime:
        """The runtime of a booking's tenants."""
        made: Runtime = importlib.import_module("fleet.runtimes.slurm_tenant").TenantRuntime(
            self._one_cluster(), booking, self._places, self._settings, self._clock, self._secrets
        )
        return made

    def is_booked(self, booking: str) -> bool:
        return (self._places.state / "bookings" / booking / "wanted").exists()


class Tenants:
    """The kind of hosts that `runtime: slurm-tenant` means: bookings, by their names."""

    def __init__(self, clusters: Clusters) -> None:
        self._clusters = clusters

    def choices(self, spec: AgentSpec) -> tuple[str, ...]:
        reservation = spec.slurm.reservation if spec.slurm is not None else None
        return (reservation,) if reservation else ()

    def name(self, host: str) -> str:
        return f"the booking {host}"

    def known(self, handle: Handle) -> Runtime:
        return self._clusters.tenancy(handle.host)

    async def opened(self, host: str, spec: AgentSpec) -> Runtime:
        must_have_slurm()
        if not self._clusters.is_booked(host):
            raise HostUnreachable(f"there is no booking {host}.", hint=f"`fleet slurm book {host} …` books it.")
        return self._clusters.tenancy(host)


def must_have_slurm() -> None:
    """Raise `HostUnreachable` where no job can be submitted from this machine."""
    if shutil.which("sbatch") is None:
        raise HostUnreachable(
            "sbatch is not on the daemon's PATH, so no job can be submitted from this machine.",
            hint="Install SLURM's client programs, or start the daemon where they are: `fleet daemon restart`.",
        )
