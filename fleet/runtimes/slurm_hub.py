"""The hub in jobs: each has a socket of the hub's on its own node, from which a step carries every connection here.

A node sees neither this machine's sockets nor a login node's, and no port is opened for it. The step takes nothing of
the job and is reached as the job's tmux is (slurm_steps.py): from a login node over the one channel that all jobs
share. In it runs hub_relay.py, which tells what is said. Who speaks to the hub from a job has a Python there anyway.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import FleetError, HostUnreachable
from fleet.runtimes.base import Runtime
from fleet.runtimes.hub_relay import PIECE, WINDOW
from fleet.runtimes.slurm_steps import Steps
from fleet.runtimes.slurm_tmux import step_argv
from fleet.runtimes.tmux import Pipe
from fleet.terms import File

log = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("hub_relay.py")
AGAIN = 1.0
"""Seconds from the end of a step to the next attempt …"""
PATIENT = 60.0
"""… and from that of one that never listened: its node may have no Python."""
RUN = 'PATH=$(. "$1" && printf %s "$PATH") && export PATH && exec python3 -I -S "$2" "$3"'
"""The relay, by the Python that the agent has: PATH is that of its environment's file."""


@dataclass(frozen=True, slots=True)
class Door:
    """The hub's socket in one job."""

    job: str
    node: str
    socket: str
    env: str
    """The file with the environment of an agent that uses it."""


class HubInJobs:
    """The steps that carry the hub into the jobs of one cluster."""

    def __init__(self, host: Runtime, steps: Steps, environment: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        self._host, self._steps, self._environment = host, steps, environment
        self._relays: dict[tuple[str, str], Relay] = {}
        """By job and node, the newest."""
        self._put: set[str] = set()

    def carry(self, door: Door, hub: Path, folder: str) -> None:
        """See that whoever connects to that door reaches this socket here; where it is so already, nothing is done.
        `folder` is for the relay's script, and seen by the nodes."""
        place = (door.job, door.node)
        before = self._relays.get(place)
        if before is None or before.due():
            relay = self._relays[place] = Relay(door.job, hub)
            relay.opening = asyncio.get_running_loop().create_task(self._open(relay, door, folder))

    async def _open(self, relay: Relay, door: Door, folder: str) -> None:
        script = f"{folder}/{SCRIPT.name}"
        words = ("sh", "-c", RUN, "sh", door.env, script, door.socket)
        argv = step_argv(door.job, door.node, "--unbuffered", *words)
        try:
            if script not in self._put:
                await self._host.put([File(script, await asyncio.to_thread(SCRIPT.read_bytes))])
                self._put.add(script)
            await self._steps.open(argv, await self._environment(), relay)
        except HostUnreachable as error:  # the way to all jobs, which others mind
            relay.up = True
            relay.lost(str(error))
        except FleetError as error:
            relay.lost(str(error))

    def leave(self, job: str) -> None:
        """That job is over."""
        for place in [place for place in self._relays if place[0] == job]:
            self._relays.pop(place).lost("its job is over")

    async def close(self) -> None:
        for relay in self._relays.values():
            await relay.close()


class Relay:
    """One step with the relay in it, in place of a tmux client's `Control`: what it says, and what it is told."""

    def __init__(self, job: str, hub: Path) -> None:
        self._job, self._hub = job, hub
        self.pipe: Pipe | None = None
        self.opening: asyncio.Task[None] | None = None
        self.up = False
        """It has listened."""
        self._over: float | None = None
        self._begun = b""
        self._carried: dict[str, _Carried] = {}

    def due(self) -> bool:
        """Whether it has ended, and may be tried again."""
        return self._over is not None and time.monotonic() - self._over > (AGAIN if self.up else PATIENT)

    def feed(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            verb, number, more = (line.decode(errors="replace") + "  ").split(" ", 2)
            if verb == "up":
                self.up = True
            elif verb == "open":
                carried = self._carried[number] = _Carried(number, self._say)
                carried.task = asyncio.get_running_loop().create_task(self._carry(carried))
            elif (known := self._carried.get(number)) is not None:
                known.told(verb, more.strip())

    async def _carry(self, carried: _Carried) -> None:
        try:
            await carried.run(self._hub)
        finally:
            self._carried.pop(carried.number, None)

    def _say(self, line: str) -> None:
        if self._over is None and self.pipe is not None:
            self.pipe.write(f"{line}\n".encode())

    def lost(self, reason: str) -> None:
        """The step has ended."""
        if self._over is not None:
            return
        self._over = time.monotonic()
        if self.up:
            log.debug("job %s: its way to the hub has ended: %s", self._job, reason)
        else:
            log.warning("job %s has no way to the hub (it needs a python3 on its node): %s", self._job, reason)
        for carried in self._carried.values():
            carried.cancel()
        if self.pipe is not None:
            self.pipe.kill()

    async def close(self) -> None:
        tasks = [task for task in (self.opening, *(carried.task for carried in self._carried.values())) if task]
        if self.opening is not None:
            self.opening.cancel()
        self.up = True  # it is nobody's fault
        self.lost("closed")
        await asyncio.gather(*tasks, return_exceptions=True)


class _Carried:
    """One connection of somebody in the job, and its other half to the hub."""

    def __init__(self, number: str, say: Callable[[str], None]) -> None:
        self.number, self._say = number, say
        self.task: asyncio.Task[None] | None = None
        self._came: asyncio.Queue[bytes] = asyncio.Queue()
        """What is for the hub; nothing is the end of it."""
        self._under_way = 0
        self._room = asyncio.Event()

    def told(self, verb: str, more: str) -> None:
        if verb == "data":
            self._came.put_nowait(base64.b64decode(more))
        elif verb == "shut":
            self._came.put_nowait(b"")
        elif verb == "took":
            self._under_way -= int(more)
            self._room.set()
        elif verb == "gone":
            self.cancel()

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def run(self, hub: Path) -> None:
        writer = None
        try:
            reader, writer = await asyncio.open_unix_connection(str(hub))
            async with asyncio.TaskGroup() as both:
                both.create_task(self._to_hub(writer))
                both.create_task(self._from_hub(reader))
        except* OSError:
            self._say(f"gone {self.number}")
        finally:
            if writer is not None:
                writer.transport.abort()

    async def _to_hub(self, writer: asyncio.StreamWriter) -> None:
        while content := await self._came.get():
            writer.write(content)
            await writer.drain()
            self._say(f"took {self.number} {len(content)}")
        writer.write_eof()

    async def _from_hub(self, reader: asyncio.StreamReader) -> None:
        while content := await reader.read(PIECE):
            while self._under_way + len(content) > WINDOW:
                self._room.clear()
                await self._room.wait()
            self._under_way += len(content)
            self._say(f"data {self.number} {base64.b64encode(content).decode()}")
        self._say(f"shut {self.number}")
