"""SLURM as a place where agents run: the cluster that this machine submits to."""

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

    def choices(self, spec: AgentSpec) -> tuple[str, ...]:
        return (HERE,)

    def name(self, host: str) -> str:
        return "the cluster"

    def known(self, handle: Handle) -> Runtime:
        return self._runtime()

    async def opened(self, host: str, spec: AgentSpec) -> Runtime:
        if shutil.which("sbatch") is None:
            raise HostUnreachable(
                "sbatch is not on the daemon's PATH, so no job can be submitted from this machine.",
                hint="Install SLURM's client programs, or start the daemon where they are: `fleet daemon restart`.",
            )
        return self._runtime()

    def _runtime(self) -> Runtime:
        if self._made is None:
            asked = importlib.import_module("fleet.runtimes.slurm_cluster")
            pace = importlib.import_module("fleet.runtimes.slurm_queue").Pace(
                interval=max(10.0, self._settings.slurm_interval)
            )
            cluster = asked.Cluster(self._here, os.environ, pace)
            self._made = importlib.import_module("fleet.runtimes.slurm_runtime").SlurmRuntime(
                cluster, self._places, self._settings, self._clock, self._secrets
            )
        made: Runtime = self._made
        return made
