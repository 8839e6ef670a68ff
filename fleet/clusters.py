"""SLURM as a place where agents run: the cluster that this machine submits to, those behind a login node, and the
bookings on them.

A cluster is named by how its submit host is reached: `HERE` for this machine, else the way over ssh, as the handles of
its launches keep it. The way is opened by whoever opens ssh hosts, whom the daemon gives (`Logins`).
"""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol

from fleet.clock import Clock
from fleet.errors import HostUnreachable
from fleet.manifests.model import AgentSpec
from fleet.runtimes.base import Runtime
from fleet.settings import Places, Settings
from fleet.terms import Handle

HERE = ""
"""The cluster that this machine submits to."""
LOGIN_SHELL = " login_shell=yes"
"""Ends the name of a login node whose programs stand on the PATH of a login shell only."""
FASTEST = 10.0
"""Seconds between two questions that no setting goes below."""
TENANTS_READ_EVERY = 15.0
"""Seconds between two looks at a folder of a tenant on a login node, if nothing is told of it: each is a command."""


OnWalltime = Callable[[Handle, str, float], Awaitable[None]]
"""See `slurm_runtime.OnWalltime`."""


class Logins(Protocol):
    """Login nodes, by how they are reached (`hosts.SshHosts`)."""

    def choices(self, spec: AgentSpec) -> tuple[str, ...]: ...

    def name(self, host: str) -> str: ...

    async def login(self, host: str, spec: AgentSpec) -> Runtime: ...

    def login_known(self, host: str, folder: str) -> Runtime: ...


class Clusters:
    """The kind of hosts that `runtime: slurm` means. What it takes is loaded with the first job."""

    def __init__(
        self,
        here: Runtime,
        settings: Settings,
        places: Places,
        clock: Clock,
        secrets_of: Callable[[str], Collection[str]],
        logins: Logins,
        on_walltime: OnWalltime,
    ) -> None:
        self._here, self._settings, self._places, self._clock, self._secrets = here, settings, places, clock, secrets_of
        self.logins, self._on_walltime = logins, on_walltime
        self._made: dict[str, Runtime] = {}
        """The runtimes of jobs, by cluster."""
        self._clusters: dict[str, Any] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self.state = places.state
        self.tenants = Tenants(self)
        """Those in the bookings of the same clusters."""

    def choices(self, spec: AgentSpec) -> tuple[str, ...]:
        if spec.remote is None:
            return (HERE,)
        more = LOGIN_SHELL if spec.remote.login_shell else ""
        return tuple(f"{way}{more}" for way in self.logins.choices(spec))

    def name(self, host: str) -> str:
        return "the cluster" if host == HERE else f"the cluster behind {self.logins.name(host)}"

    def known(self, handle: Handle) -> Runtime:
        return self._runtime(self.cluster_known(handle.host, handle))

    async def opened(self, host: str, spec: AgentSpec) -> Runtime:
        return self._runtime(await self.cluster(host, spec))

    def _runtime(self, cluster: Any) -> Runtime:
        if cluster.name not in self._made:
            made = importlib.import_module("fleet.runtimes.slurm_runtime").SlurmRuntime(
                cluster, self._places, self._settings, self._clock, self._secrets
            )
            made.on_walltime = self._on_walltime
            self._made[cluster.name] = self._with_steps(made, cluster)
        return self._made[cluster.name]

    def tenancy(self, booking: str, cluster: Any) -> Runtime:
        """The runtime of a booking's tenants."""
        more = {} if cluster.name == HERE else {"read_every": TENANTS_READ_EVERY}
        made = importlib.import_module("fleet.runtimes.slurm_tenant").TenantRuntime(
            cluster, booking, self._places, self._settings, self._clock, self._secrets, **more
        )
        return self._with_steps(made, cluster)

    def _with_steps(self, host: Any, cluster: Any) -> Runtime:
        """The same, with headless agents."""
        steps = importlib.import_module("fleet.runtimes.slurm_turns")
        if cluster.host.far is None:
            submit = importlib.import_module("fleet.runtimes.local_turns").LocalGround(self._here, self._places)
        else:
            submit = importlib.import_module("fleet.runtimes.ssh_turns").SshGround(cluster.host)
        ground = steps.StepGround(submit, host, cluster, self._places, host.place_of)
        made: Runtime = steps.WithSteps(host, ground, self._clock)
        return made

    # -- the clusters themselves: one question serves all that runs on one ----------------------------------------

    async def cluster(self, name: str, spec: AgentSpec) -> Any:
        """A cluster to which jobs can be submitted. Raise `HostUnreachable` where that is not so."""
        if name == HERE:
            must_have_slurm()
            return self._cluster_on(HERE, self._here)
        async with self._opening.setdefault(name, asyncio.Lock()):
            if name not in self._clusters:
                cluster = self._cluster_on(name, await self.logins.login(name, spec))
                try:
                    await must_have_slurm_there(cluster, self.logins.name(name))
                except BaseException:
                    del self._clusters[name]
                    await cluster.close()
                    raise
            return self._clusters[name]

    def cluster_known(self, name: str, handle: Handle) -> Any:
        """The cluster of a launch, which need not answer now."""
        if name == HERE:
            return self._cluster_on(HERE, self._here)
        if name not in self._clusters:
            folder = handle.folder.removesuffix(f"/agents/{handle.agent}/launch/{handle.generation}")
            self._cluster_on(name, self.logins.login_known(name, folder))
        return self._clusters[name]

    def _cluster_on(self, name: str, host: Any) -> Any:
        if name not in self._clusters:
            shell = name.endswith(LOGIN_SHELL)
            interval = max(FASTEST, self._settings.slurm_interval)
            pace = importlib.import_module("fleet.runtimes.slurm_queue").Pace(interval=interval)
            steps = None
            if name != HERE:
                there = importlib.import_module("fleet.runtimes.slurm_login").LoginSteps
                steps = there(host, self._settings.observe_timeout, login_shell=shell)
            self._clusters[name] = importlib.import_module("fleet.runtimes.slurm_cluster").Cluster(
                host, os.environ, pace, name=name, steps=steps, login_shell=shell
            )
        return self._clusters[name]


class Tenants:
    """The kind of hosts that `runtime: slurm-tenant` means: bookings, by their names and clusters."""

    def __init__(self, clusters: Clusters) -> None:
        self._clusters = clusters

    def choices(self, spec: AgentSpec) -> tuple[str, ...]:
        reservation = spec.slurm.reservation if spec.slurm is not None else None
        if not reservation:
            return ()
        return tuple(f"{reservation} {cluster}".rstrip() for cluster in self._clusters.choices(spec))

    def name(self, host: str) -> str:
        return f"the booking {host.partition(' ')[0]}"

    def known(self, handle: Handle) -> Runtime:
        booking, _, cluster = handle.host.partition(" ")
        return self._clusters.tenancy(booking, self._clusters.cluster_known(cluster, handle))

    async def opened(self, host: str, spec: AgentSpec) -> Runtime:
        booking, _, name = host.partition(" ")
        cluster = await self._clusters.cluster(name, spec)
        tenancy = self._clusters.tenancy(booking, cluster)
        folder = f"{(tenancy.far.folder if tenancy.far else self._clusters.state)}/bookings/{booking}"
        if await tenancy.read(f"{folder}/wanted") is None:
            where = f" --host {self._clusters.logins.name(name)}" if name else ""
            hint = f"`fleet slurm book {booking}{where} …` books it."
            raise HostUnreachable(f"there is no booking {booking}.", hint=hint)
        return tenancy


def must_have_slurm() -> None:
    """Raise `HostUnreachable` where no job can be submitted from this machine."""
    if shutil.which("sbatch") is None:
        raise HostUnreachable(
            "sbatch is not on the daemon's PATH, so no job can be submitted from this machine.",
            hint="Install SLURM's client programs, or start the daemon where they are: `fleet daemon restart`.",
        )


async def must_have_slurm_there(cluster: Any, login: str) -> None:
    """The same for a login node."""
    env = await cluster.environment()
    ran = await cluster.host.run(["sh", "-c", "command -v sbatch && command -v bash"], env=env, cwd="/", timeout=20)
    if ran.status:
        raise HostUnreachable(
            f"sbatch or bash is not on the PATH of a session on {login}, so no job can be submitted there.",
            hint="Where only a login shell finds it: `login_shell: true` beside `host` in the manifest.",
        )
