"""Agents without a pane: a launch of theirs keeps no process, only a file that says that it stands.

`WithHeadless` is a runtime that hands on everything to the host's own, but what is asked of a headless agent's
launch: that one is alive from its launch to its end, whatever becomes of a turn, and also after the host was
restarted. Turns are started elsewhere (`fleet/headless.py`); they bear the launch's generation, and end with it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from fleet import processes
from fleet.clock import Clock
from fleet.errors import CannotYet, LaunchError, Unconfirmed
from fleet.runtimes import launches
from fleet.runtimes.base import ByItsHost, Capabilities, Ended, OnHost, OnLook, Runtime
from fleet.settings import Places
from fleet.terms import File, Handle, LaunchPlan, Look

NONE = "none"
"""What holds the pane of an agent that has none."""
STANDS = "stands"
"""The file in a launch's folder that is there while it stands."""


class WithHeadless(ByItsHost):
    """A host's runtime, and headless agents on it."""

    def __init__(self, host: Runtime, places: Places, clock: Clock) -> None:
        self._host, self._places, self._clock = host, places, clock
        self.name = host.name
        self.far = host.far

    # -- the launch of a headless agent ------------------------------------------------------------------------------

    def mint(self, agent: str, generation: str, multiplexer: str) -> Handle:
        if multiplexer != NONE:
            return self._host.mint(agent, generation, multiplexer)
        folder = self._places.agent(agent) / "launch" / generation
        return Handle(agent, generation, self.name, NONE, "", agent, str(folder))

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        if handle.multiplexer != NONE:
            await self._host.launch(plan, handle)
            return
        program = plan.argv[0]
        path = str(Path(plan.cwd, program)) if "/" in program else program
        if await asyncio.to_thread(shutil.which, path, path=plan.env.get("PATH")) is None:
            raise LaunchError(
                f"the program {program} is not there, or may not be executed.",
                hint="Install it, or give its path as command.",
            )
        marks = {processes.MARK: handle.generation, "FLEET_LAUNCH": handle.folder}
        env = File(f"{handle.folder}/env", launches.quote_env({**plan.env, **marks}))
        await self._host.put([*plan.files, env, File(f"{handle.folder}/{STANDS}", b"")])

    async def look(self, handle: Handle) -> Look:
        return self._look(handle) if handle.multiplexer == NONE else await self._host.look(handle)

    def _look(self, handle: Handle) -> Look:
        stands = (Path(handle.folder) / STANDS).exists()
        return Look(at=self._clock.now(), alive=stands, exit_status=None if stands else 0)

    def watch(self, handle: Handle, on_look: OnLook) -> None:
        if handle.multiplexer == NONE:
            asyncio.get_running_loop().call_soon(lambda: on_look(handle, self._look(handle)))
        else:
            self._host.watch(handle, on_look)

    def unwatch(self, handle: Handle) -> None:
        if handle.multiplexer != NONE:
            self._host.unwatch(handle)

    def seen_at(self, handle: Handle) -> float | None:
        return self._clock.now() if handle.multiplexer == NONE else self._host.seen_at(handle)

    async def end(self, handle: Handle, *, grace: float) -> Ended:
        if handle.multiplexer != NONE:
            return await self._host.end(handle, grace=grace)
        folder = Path(handle.folder)
        try:
            killed = await processes.end(partial(launches.search, [folder]), grace=grace)
        except TimeoutError as error:
            raise Unconfirmed(str(error)) from error
        (folder / STANDS).unlink(missing_ok=True)
        await asyncio.to_thread(launches.mark_purged, folder)
        return Ended(0, killed)

    async def type(self, handle: Handle, keys: Sequence[str], *, literal: bool) -> None:
        if handle.multiplexer == NONE:
            raise _no_pane(handle.agent)
        await self._host.type(handle, keys, literal=literal)

    def attach_argv(self, handle: Handle) -> list[str]:
        if handle.multiplexer == NONE:
            raise _no_pane(handle.agent)
        return self._host.attach_argv(handle)

    async def last_screen(self, handle: Handle) -> str | None:
        return None if handle.multiplexer == NONE else await self._host.last_screen(handle)

    async def log_lines(self, handle: Handle, count: int) -> list[str]:
        return [] if handle.multiplexer == NONE else await self._host.log_lines(handle, count)

    # -- the host's own --------------------------------------------------------------------------------------------

    def capabilities(self, multiplexer: str) -> Capabilities:
        if multiplexer == NONE:
            return Capabilities(colours=False, cursor=False, title=False, alternate=False)
        return self._host.capabilities(multiplexer)

    def on_host(self, callback: OnHost) -> None:
        self._host.on_host(callback)

    async def purge(self, agent: str, *, keep: str | None = None, grace: float = 0.5) -> tuple[int, ...]:
        return await self._host.purge(agent, keep=keep, grace=grace)

    async def cleanup(self, keep: Collection[str], *, dry_run: bool) -> list[str]:
        return await self._host.cleanup(keep, dry_run=dry_run)

    async def dismiss(self) -> None:
        await self._host.dismiss()

    async def close(self) -> None:
        await self._host.close()


def _no_pane(agent: str) -> CannotYet:
    return CannotYet(
        f"{agent} is headless: it has no pane, each message is a turn of its own.",
        hint=f"`fleet logs {agent}` shows its turns; `fleet ask {agent} TEXT` has one run.",
    )
