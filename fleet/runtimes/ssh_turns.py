"""Headless agents on an ssh host: their turns are processes there, in folders there, begun and ended by its own sh.

A request whose answer a cut has swallowed may have been carried out, or may be yet: it is made again. A turn is begun
once all the same, since its launcher claims its folder; and one that is given up is claimed, so that it cannot begin.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

from fleet import processes
from fleet.errors import HostUnreachable, LaunchError, TimedOut
from fleet.runtimes import files, launches
from fleet.runtimes.ssh_files import untar
from fleet.runtimes.ssh_runtime import SshRuntime, must
from fleet.runtimes.ssh_shell import Facts
from fleet.runtimes.turns import ERRORS_KEPT, NONE, OUTPUT_MOST, STANDS, TAIL, Printed, Wanted
from fleet.terms import File, Handle, LaunchPlan, Ran

LOOK_EVERY = 5.0
"""Seconds between two looks at a turn of whose end no news has come."""
FETCH_WITHIN = 240.0
"""Seconds that bringing what a turn has printed may take beyond what other requests may."""
OWN = ("prompt", "out", "err", "env", "boot", "launcher", "program", "exit")
"""What stands in a turn's folder there beside its claim."""


class SshGround:
    """One ssh host."""

    near = False
    check_every = 2.0

    def __init__(self, host: SshRuntime) -> None:
        self._host = host

    # -- launches ----------------------------------------------------------------------------------------------------

    def mint(self, agent: str, generation: str) -> Handle:
        folder = f"{self._host.folder}/agents/{agent}/launch/{generation}"
        return Handle(agent, generation, self._host.name, NONE, "", agent, folder, str(self._host.link.way))

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        marks = {processes.MARK: handle.generation, "FLEET_LAUNCH": handle.folder}
        env = File(f"{handle.folder}/env", launches.quote_env({**plan.env, **marks}))
        await self._host.put_launch(plan, handle.folder, [env])
        await self._host.put([File(f"{handle.folder}/{STANDS}", b"")])

    async def stands(self, folder: str) -> bool:
        return STANDS in await self._host.list(folder)

    async def end_launch(self, folder: str, grace: float) -> tuple[int, ...]:
        must(await self._ask("remove", f"{folder}/{STANDS}"), "a launch")
        killed = (await self._host.hunt([folder], grace)).killed
        await self._host.mark_purged(folder)
        return killed

    # -- turns -------------------------------------------------------------------------------------------------------

    def turn_folder(self, launch: str, here: Path) -> str:
        return f"{launch}/turns/{here.name}"

    def kept_here(self, wanted: Wanted) -> list[File]:
        return []

    async def begin(self, wanted: Wanted) -> float | None:
        given = [File(f"{wanted.folder}/prompt", wanted.prompt), File(f"{wanted.folder}/env", wanted.env)]
        words = [wanted.launch, wanted.cwd, str(math.ceil(wanted.limit)), str(math.ceil(wanted.grace)), *wanted.argv]
        ran = await self._ask("begin", wanted.folder, *words, put=given)
        must(ran, "the turn's files")
        if ran.stdout.strip() == b"stopped":
            raise LaunchError(f"its launch is over on {self._host.machine}")
        age = ran.stdout.decode().removeprefix("begun ").strip()
        return int(age) / 100 if age.isdigit() else None

    async def over(self, folder: str) -> None:
        news = asyncio.Event()
        stop = self._host.watch_folder(folder, lambda name: news.set() if name == "exit" else None)
        try:
            while _runs(await self._host.facts(folder)):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), LOOK_EVERY)
                news.clear()
        finally:
            stop()

    async def printed(self, folder: str, size: int) -> Printed:
        ran = await self._ask("printed", folder, str(ERRORS_KEPT), str(TAIL), str(size))
        must(ran, "what a turn has printed")
        head, _, tail = ran.stdout.partition(b"\n")
        return Printed(int(head), None if int(head) == size else tail)

    async def end(self, folder: str, grace: float) -> None:
        await self._host.hunt([folder], grace, verb="halt")

    async def fetch(self, folder: str, here: Path) -> None:
        ran = await self._ask("fetch", folder, str(OUTPUT_MOST), more=FETCH_WITHIN)
        must(ran, "what a turn has left behind")
        await asyncio.to_thread(_keep, here, ran.stdout, self._host.ahead)

    async def forget(self, folder: str, *, sure: bool) -> None:
        gone = [folder] if sure else [f"{folder}/{name}" for name in OWN]
        must(await self._ask("remove", *gone), "the folder of a turn")

    async def _ask(self, verb: str, *words: str, put: Sequence[File] = (), more: float = 0.0) -> Ran:
        """One request; one that takes too long speaks of no turn either."""
        try:
            return await self._host.do_there(verb, *words, put=put, more=more)
        except TimedOut as error:
            raise HostUnreachable(str(error)) from error


def _runs(facts: Facts) -> bool:
    """It may be that its launcher has claimed its folder and has noted nothing yet."""
    return facts.claimed and not facts.purged and facts.exit_status is None and (facts.alive or facts.launcher is None)


def _keep(here: Path, packed: bytes, ahead: float) -> None:
    """That it has ended is kept last, with when that was by our clock. (A tar knows whole seconds.)"""
    found = {name: (content, at) for name, content, at in untar(packed)}
    for name in ("out", "err", "exit"):
        if name in found:
            content, at = found[name]
            files.put([File(str(here / name), content)])
            os.utime(here / name, (at + 1 - ahead, at + 1 - ahead))
