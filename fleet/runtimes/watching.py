"""Watching launches: what all runtimes do alike with a pane that they look at.

The lines that leave its screen go to its agent's log, each once, also from one daemon to the next. Its last screen is
kept once, beside the launch and in the log. A look is told where it says something new. How a host is asked, and when
a launch is over, is each runtime's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from fleet.errors import HostUnreachable
from fleet.redact import redact
from fleet.runtimes.base import OnLook
from fleet.runtimes.logs import AgentLog, Logs, not_kept
from fleet.runtimes.multiplexers import Seen, ServerGone
from fleet.settings import Places, Settings
from fleet.terms import File, Handle, Look, Screen

LOG_END = 20
"""Lines of a log's end by which it is told what of a scrollback it has already."""
SCREEN = "screen"
"""The file in a launch's folder that holds its pane's last screen …"""
SCREEN_BEFORE = "screen-before"
"""… or, where the pane was gone before it could be read at the end, what it had shown last."""


class Panes(Protocol):
    """What is asked here of a multiplexer."""

    async def see(self, generation: str) -> Seen | None: ...

    async def last(self, generation: str) -> Seen | None: ...


class Watched:
    """One launch that somebody watches."""

    def __init__(self, handle: Handle, on_look: OnLook) -> None:
        self.handle = handle
        self._on_look = on_look
        self.screen: Screen | None = None
        """The last screen seen while it lived."""
        self.dead = False
        """Its end is being told, or is told."""
        self.logged = False
        """Its last screen stands in the log."""
        self.log_end: Sequence[str] = ()
        """What the log holds of this launch: the last lines."""
        self.scrolled = 0
        """How many lines of its pane's scrollback were taken in."""
        self._told: Look | None = None
        self._closed = False

    def closed(self) -> bool:
        """Whether nobody wants to hear of it any more."""
        return self._closed

    def over(self) -> bool:
        """Whether there is nothing more to tell of it."""
        return self._closed or self.dead

    def tell(self, look: Look) -> None:
        """Tell of it, where that is wanted and says something new."""
        new = replace(look, at=0.0)
        if not self._closed and new != self._told:
            self._told = new
            self._on_look(self.handle, look)

    def close(self) -> None:
        self._closed = True


W = TypeVar("W", bound=Watched)


class Watches(Generic[W]):
    """The launches of one runtime that are watched, and what is kept of all of its panes."""

    def __init__(self, places: Places, settings: Settings, secrets: Callable[[str], Collection[str]]) -> None:
        """`secrets` tells what an agent was given as such: it goes from what is kept."""
        self._secrets = secrets
        self._logs = Logs(places.agent, int(settings.log_kept_mb * 2**20), secrets)
        self._watched: dict[str, W] = {}
        """By generation."""

    def __iter__(self) -> Iterator[W]:
        """Those that are watched now."""
        return iter(list(self._watched.values()))

    def add(self, watched: W) -> W:
        self._watched[watched.handle.generation] = watched
        return watched

    def get(self, handle: Handle) -> W | None:
        return self._watched.get(handle.generation)

    def remove(self, handle: Handle) -> W | None:
        """It is watched no more: that watch, closed."""
        watched = self._watched.pop(handle.generation, None)
        if watched is not None:
            watched.close()
        return watched

    def log(self, agent: str) -> AgentLog:
        return self._logs.of(agent)

    # -- while it lives ------------------------------------------------------------------------------------------

    async def recall(self, watched: Watched) -> None:
        """Before its pane is watched: see what the log has of it already. (What this watch has added it knows.)"""
        handle = watched.handle
        if not watched.log_end:
            await self.log(handle.agent).flush()
            watched.log_end = await asyncio.to_thread(self.log(handle.agent).tail_of, handle.generation)

    def saw(self, watched: W, seen: Seen) -> bool:
        """Take in a capture of its pane. Whether it shows something that lives."""
        if watched.closed():
            return False
        self._take_in(watched, seen)
        if seen.screen.dead or watched.dead:
            return False
        watched.screen = seen.screen
        return True

    def _take_in(self, watched: Watched, seen: Seen) -> None:
        """Log what has left its screen. A multiplexer that is met anew shows its whole scrollback again."""
        fresh = lines = list(seen.scrolled)
        if seen.first:
            end, taken = list(watched.log_end), watched.scrolled
            counted = bool(taken) and lines[max(0, taken - len(end)) : taken] == end
            fresh = lines[taken:] if counted else not_kept(end, lines)
            watched.scrolled = len(lines)
        else:
            watched.scrolled += len(lines)
        if fresh:
            watched.log_end = (*watched.log_end, *fresh)[-LOG_END:]
            self.log(watched.handle.agent).add(fresh)

    async def shown(self, handle: Handle, panes: Panes) -> Screen | None:
        """What the pane shows, if that can be told: ending an agent does not hang on a picture."""
        watched = self.get(handle)
        if watched is not None and watched.screen is not None:
            return watched.screen
        with contextlib.suppress(HostUnreachable):
            seen = await panes.see(handle.generation)
            return seen.screen if seen else None
        return None

    async def lines(self, handle: Handle, count: int, newest: Callable[[W], Awaitable[Seen | None]]) -> list[str]:
        """The newest lines of its agent's log; below them what its pane shows, until that is in the log too.

        `newest` looks at the pane and takes in what it sees.
        """
        log, watched = self.log(handle.agent), self.get(handle)
        showing: list[str] = []
        async with log.keeping:  # its last screen is in the log or shown here, never both and never neither
            if watched is not None and not watched.logged:
                screen = watched.screen
                if screen is not None and not watched.dead:
                    with contextlib.suppress(HostUnreachable):  # then it is what was seen last
                        seen = await newest(watched)
                        screen = seen.screen if seen is not None else screen
                if screen is not None:
                    showing = redact(screen.text.rstrip(), self._secrets(handle.agent)).splitlines()
            await log.flush()
            kept = await asyncio.to_thread(log.last, count)
        return (kept + showing)[-count:]

    # -- at its end ----------------------------------------------------------------------------------------------

    async def keep(
        self,
        handle: Handle,
        before: Screen | None,
        *,
        names: Callable[[], Awaitable[Collection[str]]],
        last: Callable[[], Awaitable[Seen | None]],
        put: Callable[[File], Awaitable[None]],
    ) -> None:
        """Write down, once, the pane's screen as it stands at the end; where the pane is gone, as it last stood.

        `names` of what stands in the launch's folder, `last` of the pane's captures; `put` writes into the folder.
        """
        log = self.log(handle.agent)
        async with log.keeping:
            if (watched := self.get(handle)) is not None and watched.logged:
                return
            there = await names()
            if there and SCREEN not in there:
                seen = await last()
                if seen is not None:
                    taking: Watched = watched or Watched(handle, lambda handle, look: None)
                    if seen.first:
                        await self.recall(taking)
                    self._take_in(taking, seen)
                    text = shown = seen.screen.text.rstrip()
                    if before is not None and before.alternate and not seen.screen.alternate:
                        text = before.text.rstrip() + "\n\n" + text  # what was up, then what it said on leaving
                    await put(self._file(handle, SCREEN, text))
                    log.add([line.rstrip() for line in shown.splitlines()])
                elif before is not None and SCREEN_BEFORE not in there:
                    await put(self._file(handle, SCREEN_BEFORE, before.text.rstrip()))
                    log.add([line.rstrip() for line in before.text.rstrip().splitlines()])
            if (watched := self.get(handle)) is not None:
                watched.logged = True

    def _file(self, handle: Handle, name: str, text: str) -> File:
        content = redact(text + "\n", self._secrets(handle.agent)).encode(errors="surrogateescape")
        return File(f"{handle.folder}/{name}", content)

    async def close(self) -> None:
        """Watch nothing any more, and write the rest of the logs."""
        for watched in self._watched.values():
            watched.close()
        self._watched.clear()
        await self._logs.close()


async def final(panes: Panes, generation: str, *, within: float) -> Seen | None:
    """The pane once its multiplexer knows that it is dead, which it may not know yet; before, it has not read the
    last output either. As it is after `within` seconds at the latest; `None` where it is gone."""
    deadline = time.monotonic() + within
    try:
        seen = await panes.see(generation)
        while seen is not None and not seen.screen.dead and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            seen = await panes.see(generation)
        return None if seen is None else await panes.last(generation)
    except ServerGone:
        return None


async def last_screen(read: Callable[[str], Awaitable[bytes | None]], handle: Handle) -> str | None:
    """The screen that was kept of it."""
    for name in (SCREEN, SCREEN_BEFORE):
        if (kept := await read(f"{handle.folder}/{name}")) is not None:
            return kept.decode(errors="replace")
    return None
