"""The lease by which one conversation has one live process, wherever a cluster starts its jobs. Pure.

lease.sh holds it, beside the agent, without the daemon; how it excludes two holders stands there. Here are the times,
the commands, and what the daemon reads out of the folder: who holds the lease, and whether that is still believed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. A holder ends what the lease covers by `ttl` after its last renewal; a taker waits `ttl` and slack."""

    every: int = 15
    ttl: int = 75
    grace: int = 10
    """Between SIGTERM and SIGKILL, both before the deadline."""

    def __post_init__(self) -> None:
        if not 0 < self.every < self.ttl - self.grace:
            raise ValueError(f"a lease of {self.ttl} s leaves no time between {self.every} s and {self.grace} s")


@dataclass(frozen=True, slots=True)
class Lease:
    """What one lease file says."""

    number: int
    holder: str
    renewals: int = 0
    released: bool = False

    @property
    def job(self) -> str:
        """The job that holds it: a holder is named JOB.RESTARTS.NODE.PID."""
        return self.holder.split(".", 1)[0]


def newest(names: Iterable[str]) -> int | None:
    """The number of the lease in force, of the names in the leases' folder."""
    return max((int(name) for name in names if name.isascii() and name.isdigit()), default=None)


def parse(number: int, content: bytes | None) -> Lease | None:
    """A lease file's content; `None` where it is not there or not one."""
    words = (content or b"").decode(errors="replace").split()
    if len(words) != 2:
        return None
    if words[0] == RELEASED:
        return Lease(number, words[1], released=True)
    return Lease(number, words[0], int(words[1])) if words[1].isdigit() else None


@dataclass(frozen=True, slots=True)
class Watched:
    """A lease under the eyes of somebody who does not hold it. No clock but the observer's counts."""

    lease: Lease
    unchanged_since: float

    def silent_for(self, now: float) -> float:
        return max(0.0, now - self.unchanged_since)

    def free(self, now: float, times: Times) -> bool:
        """Whether its holder has said so, or must have ended what it covers by now."""
        return self.lease.released or self.silent_for(now) > times.ttl


def seen(before: Watched | None, lease: Lease, now: float) -> Watched:
    """What is known after one more look."""
    return before if before is not None and before.lease == lease else Watched(lease, now)
