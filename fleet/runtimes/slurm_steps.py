"""What the submit host of a cluster does again and again: the steps by which jobs are looked into, and reading what
their runs note. On this machine each step is a child process and each note a file; slurm_login.py is the other way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet.runtimes.base import Runtime
from fleet.runtimes.local_tmux import Client
from fleet.runtimes.tmux import Hearer


@dataclass(frozen=True, slots=True)
class Notes:
    """What a launch's folder told."""

    newest: int | None
    """The number of its newest run; `None`: there was none yet."""
    noted: Mapping[str, str]
    """The notes of the run that was asked for, by name."""


class Steps(Protocol):
    """The steps and notes of a cluster, from its submit host."""

    async def open(self, argv: Sequence[str], env: Mapping[str, str], control: Hearer) -> None:
        """Start a program in a step of a job, and let it and `control` hear each other."""
        ...

    async def notes(self, folder: str, run: int, names: Collection[str]) -> Notes:
        """The newest run of the launch in that folder, and those notes of one of its runs that are there."""
        ...

    def terminal(self, argv: Sequence[str]) -> list[str]:
        """The command that runs that one on the submit host, in the terminal in which it is run."""
        ...

    async def close(self) -> None: ...


class Here:
    """This machine is the submit host."""

    def __init__(self, host: Runtime) -> None:
        self._host = host
        self._clients: set[Client] = set()

    async def open(self, argv: Sequence[str], env: Mapping[str, str], control: Hearer) -> None:
        await Client.open(argv, control, self._clients, env)

    async def notes(self, folder: str, run: int, names: Collection[str]) -> Notes:
        newest = (await self._host.read(f"{folder}/run") or b"").strip()
        noted: dict[str, str] = {}
        for name in await self._host.list(f"{folder}/run.{run}"):
            content = await self._host.read(f"{folder}/run.{run}/{name}") if name in names else None
            if content is not None:
                noted[name] = content.decode(errors="replace").strip()
        return Notes(int(newest) if newest.isdigit() else None, noted)

    def terminal(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    async def close(self) -> None:
        for client in list(self._clients):
            client.kill()
            await client.wait()
