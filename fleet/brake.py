"""What keeps many restarts from becoming one storm. Pure values: each answers, and returns what it has become.

- `Bucket` lets restarts go a few at once, then one by one. A person's own start does not draw from it.
- `Ramp` brings many agents back a few at a time, and stops where start after start fails.
- `Toll` says when deaths are so many at a time that the observer is to be doubted before the agents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple


class Bucket(NamedTuple):
    """Restarts that may go now. It never holds more than `burst`, and a clock that is set back costs nothing."""

    burst: int
    level: float
    at: float
    """When the level was this."""

    @classmethod
    def full(cls, burst: int, now: float) -> Bucket:
        return cls(burst, float(burst), now)

    def take(self, now: float, *, every: float) -> tuple[Bucket, float]:
        """Take one, if there is one; and how long to wait before asking again: 0.0 where one was taken."""
        burst, level = self.burst, self._level(now, every)
        if level >= 1.0 - _LOST:
            return Bucket(burst, max(0.0, level - 1.0), now), 0.0
        return Bucket(burst, level, now), (1.0 - level) * every

    def left(self, now: float, *, every: float) -> int:
        """How many may be taken, one after the other."""
        return int(self._level(now, every) + _LOST)

    def less(self, count: int, now: float, *, every: float) -> Bucket:
        """With so many taken, of those that were left."""
        return Bucket(self.burst, max(0.0, self._level(now, every) - count), now)

    def _level(self, now: float, every: float) -> float:
        burst, level, at = self
        if every <= 0:
            return float(burst)
        return min(float(burst), level + (now - at) / every) if now > at else level


_LOST = 1e-9
"""A share of one that arithmetic has lost must not cost a wait of nanoseconds."""


@dataclass(frozen=True, slots=True)
class Ramp:
    """Many agents that come back, a few at a time."""

    parallel: int
    halt_after: int
    """Failed starts in a row that halt it; 0: it is never halted."""
    under_way: frozenset[str] = frozenset()
    failures: int = 0
    """Failed starts in a row."""

    @property
    def halted(self) -> bool:
        return 0 < self.halt_after <= self.failures

    @property
    def open(self) -> bool:
        """Whether one more may begin."""
        return not self.halted and len(self.under_way) < self.parallel

    @property
    def note(self) -> str | None:
        """Why it stands still, for a person; `None` while it moves."""
        if not self.halted:
            return None
        return (
            f"{self.failures} starts in a row failed, so no further agents are brought back. "
            "`fleet logs NAME` shows why; `fleet start` goes on."
        )

    def begin(self, agent: str) -> Ramp:
        """The agent's start is under way."""
        return replace(self, under_way=self.under_way | {agent})

    def succeeded(self, agent: str) -> Ramp:
        """It has started: what failed before it was not everybody's trouble."""
        return replace(self, under_way=self.under_way - {agent}, failures=0)

    def failed(self, agent: str) -> Ramp:
        """Its start failed. One that is not under way here does not count."""
        if agent not in self.under_way:
            return self
        return replace(self, under_way=self.under_way - {agent}, failures=self.failures + 1)

    def left(self, agent: str) -> Ramp:
        """It is neither started nor failed: a person stopped it, or its host was lost."""
        return replace(self, under_way=self.under_way - {agent})

    def lifted(self) -> Ramp:
        """A person lets it go on."""
        return replace(self, failures=0)


@dataclass(frozen=True, slots=True)
class Toll:
    """Deaths that nobody can explain, of the whole fleet."""

    limit: int
    """So many …"""
    window: float
    """… within so many seconds are many."""
    deaths: tuple[float, ...] = ()

    def strike(self, now: float) -> Toll:
        """One more."""
        recent = tuple(min(at, now) for at in self.deaths if now - at <= self.window)
        return replace(self, deaths=(*recent, now))

    @property
    def many(self) -> bool:
        """Whether they were many at the last of them."""
        return len(self.deaths) >= self.limit
