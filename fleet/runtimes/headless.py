"""Agents without a pane: a launch of theirs keeps no process, only a file that says that it stands.

`WithHeadless` is a runtime that hands on everything to the host's own, but what is asked of a headless agent's
launch: that one is alive from its launch to its end, whatever becomes of a turn, and also after the host was
restarted. Its turns run on the host's ground (`turns.py`), and fleet/headless.py has them begin; they bear the launch's
generation, and end with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from fleet.clock import Clock
from fleet.errors import CannotYet, HostUnreachable
from fleet.runtimes.base import ByItsHost, Capabilities, Ended, OnHost, OnLook, Runtime
from fleet.runtimes.turns import NONE, Ground
from fleet.terms import Handle, LaunchPlan, Look

log = logging.getLogger(__name__)


class WithHeadless(ByItsHost):
    """A host's runtime, and headless agents on it."""

    def __init__(self, host: Runtime, ground: Ground, clock: Clock) -> None:
        self._host, self._clock = host, clock
        self.ground = ground
        self.name = host.name
        self.far = host.far
        self._telling: dict[Handle, asyncio.Task[None]] = {}

    # -- the launch of a headless agent ------------------------------------------------------------------------------

    def mint(self, agent: str, generation: str, multiplexer: str) -> Handle:
        if multiplexer != NONE:
            return self._host.mint(agent, generation, multiplexer)
        return self.ground.mint(agent, generation)

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        if handle.multiplexer != NONE:
            await self._host.launch(plan, handle)
        else:
            await self.ground.launch(plan, handle)

    async def look(self, handle: Handle) -> Look:
        return await self._look(handle) if handle.multiplexer == NONE else await self._host.look(handle)

    async def _look(self, handle: Handle) -> Look:
        stands = await self.ground.stands(handle.folder)
        return Look(at=self._clock.now(), alive=stands, exit_status=None if stands else 0)

    def watch(self, handle: Handle, on_look: OnLook) -> None:
        if handle.multiplexer != NONE:
            self._host.watch(handle, on_look)
            return
        self.unwatch(handle)
        self._telling[handle] = asyncio.get_running_loop().create_task(self._tell(handle, on_look))

    async def _tell(self, handle: Handle, on_look: OnLook) -> None:
        """Once is enough: nothing but its end ends it. (One whose host is away is looked at when that is back.)"""
        try:
            on_look(handle, await self._look(handle))
        except HostUnreachable as error:
            log.info("agent %s: %s", handle.agent, error)

    def unwatch(self, handle: Handle) -> None:
        if handle.multiplexer != NONE:
            self._host.unwatch(handle)
        elif handle in self._telling:
            self._telling.pop(handle).cancel()

    def seen_at(self, handle: Handle) -> float | None:
        return self._clock.now() if handle.multiplexer == NONE else self._host.seen_at(handle)

    async def end(self, handle: Handle, *, grace: float) -> Ended:
        if handle.multiplexer != NONE:
            return await self._host.end(handle, grace=grace)
        return Ended(0, await self.ground.end_launch(handle.folder, grace))

    async def type(self, handle: Handle, keys: Sequence[str], *, literal: bool) -> None:
        if handle.multiplexer == NONE:
            raise _no_pane(handle.agent)
        await self._host.type(handle, keys, literal=literal)

    def attach_argv(self, handle: Handle, *, read_only: bool = False) -> list[str]:
        if handle.multiplexer == NONE:
            raise _no_pane(handle.agent)
        return self._host.attach_argv(handle, read_only=read_only)

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
        for task in self._telling.values():
            task.cancel()
        await asyncio.gather(*self._telling.values(), return_exceptions=True)
        await self._host.close()


def _no_pane(agent: str) -> CannotYet:
    return CannotYet(
        f"{agent} is headless: it has no pane, each message is a turn of its own.",
        hint=f"`fleet logs {agent}` shows its turns; `fleet ask {agent} TEXT` has one run.",
    )
