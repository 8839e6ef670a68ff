"""What is known of a host, and when it is tried next: a pure function of what its probes have said.

A host is unknown until its first probe, then reachable, unreachable (the way to it does not carry: a time-out, a
refused connection, ssh's own 255) or unauthenticated (it answers, and one of the two will not have the other: a host
key that is new or has changed, a key of ours that is not accepted). None of this speaks of the agents on it.

`now` is seconds of a clock that is never set (time.monotonic): a probe must not wait for a clock that went back.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum

FIRST = (1.0, 2.0)
"""Seconds to the first probes after a host was lost …"""
SOON = 5.0
"""… and between those that follow …"""
PATIENT_AFTER = 15 * 60.0
"""… until it has been away for so long …"""
PATIENT = 60.0
"""… and from then on; and where a person has to act first, always."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a host is reached: its name, as ssh_config has it, and what a manifest says beside that."""

    alias: str
    user: str | None = None
    port: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        """In one line, for the ledger: `parse` reads it."""
        more = {"user": self.user, "port": self.port, "key": self.key}
        return shlex.join([self.alias, *(f"{name}={value}" for name, value in more.items() if value is not None)])

    @classmethod
    def parse(cls, line: str) -> Way:
        alias, *more = shlex.split(line)
        said = {name: value for name, _, value in (word.partition("=") for word in more)}
        port = said.get("port")
        return cls(alias, said.get("user"), int(port) if port else None, said.get("key"))

    @property
    def name(self) -> str:
        """For a person."""
        return f"{self.user}@{self.alias}" if self.user else self.alias


class HostState(StrEnum):
    UNKNOWN = "unknown"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"
    UNAUTHENTICATED = "unauthenticated"


LOST = frozenset((HostState.UNREACHABLE, HostState.UNAUTHENTICATED))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one host."""

    state: HostState = HostState.UNKNOWN
    since: float | None = None
    """When this state began."""
    reason: str | None = None
    """Why it cannot be used, in words for a person; `None` while it can."""
    failed: int = 0
    """Probes that failed, one after the other, since the host was last reachable."""
    away_since: float | None = None
    """When it was first found not to be usable; `None` while it is."""
    probe_at: float | None = 0.0
    """When it is to be tried next; `None` while a connection is held, which tells of its own end."""


def answered(known: Known, now: float) -> Known:
    """A probe went there and back."""
    since = known.since if known.state is HostState.REACHABLE else now
    return Known(HostState.REACHABLE, since, probe_at=None)


def lost(known: Known, now: float, reason: str) -> Known:
    """The connection that was held has ended. No probe has failed yet."""
    return _away(known, HostState.UNREACHABLE, now, now, reason, failed=0)


def failed(known: Known, state: HostState, began: float, now: float, reason: str) -> Known:
    """A probe that began at `began` has failed. Its own length is part of the wait: a host that swallows everything
    is tried as often as one that refuses."""
    if state not in LOST:
        raise ValueError(f"a probe that failed leaves no host {state}")
    return _away(known, state, began, now, reason, failed=known.failed + 1)


def wait(failed: int, away: float) -> float:
    """Seconds from one probe of an unreachable host to the next, after `failed` that failed in `away` seconds."""
    if failed < len(FIRST):
        return FIRST[failed]
    return PATIENT if away >= PATIENT_AFTER else SOON


def _away(known: Known, state: HostState, began: float, now: float, reason: str, failed: int) -> Known:
    since = known.since if known.state is state else now
    away_since = now if known.away_since is None else known.away_since
    pause = PATIENT if state is HostState.UNAUTHENTICATED else wait(failed, now - away_since)
    return Known(state, since, reason, failed, away_since, max(now, began + pause))
