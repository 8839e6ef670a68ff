"""Time as an argument: what waits takes a Clock, so that tests can turn it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

EARLY = 0.02
"""Seconds by which a wait may seem to have ended too early, since it is measured by another clock than `now`."""


class Clock(Protocol):
    """The time, and waiting for it."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; a negative time is none."""
        ...


async def beat(clock: Clock, every: float) -> None:
    """Wait for the next time that is a multiple of `every`: at most that long, or a hair longer. Whoever waits for
    the same beat, or for a multiple of it, is awake at the same moment, and a process that has nothing to do wakes
    once for all of them."""
    left = every - clock.now() % every
    await clock.sleep(left if left > EARLY else left + every)


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class SteadyClock:
    """The machine's clock, but one that never falls: set back while this process runs, it goes on from where it was, at
    its pace. (Set forward, it follows.) For what is ordered by time, and for what ends at a time that was promised."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._ahead = wall() - monotonic()
        """What is to be added to the time that only rises."""

    def now(self) -> float:
        wall = self._wall()
        steady = self._monotonic()  # read second, so that a pause between the two does not push it forward
        self._ahead = max(self._ahead, wall - steady)
        return steady + self._ahead

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
