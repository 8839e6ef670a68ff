"""What a multiplexer does for a runtime: hold panes, show them, take keys. tmux and screen keep this contract.

A launch is named by its generation, so that nothing here can reach a namesake. Whether a program lives is never
asked here: the launcher tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet.errors import HostUnreachable
from fleet.runtimes.base import Capabilities
from fleet.terms import Process, Screen


class ServerGone(HostUnreachable):
    """The multiplexer's server is not there any more: all its panes went with it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A pane as it was captured at one moment."""

    screen: Screen
    pane: str
    """The pane's exact id."""
    scrolled: tuple[str, ...] = ()
    """The lines that have left the screen since the capture before."""
    first: bool = False
    """It is the first capture: `scrolled` is the whole scrollback."""


OnSeen = Callable[[Seen], None]


class Multiplexer(Protocol):
    """One server's worth of panes on this machine. `HostUnreachable` where it does not answer."""

    capabilities: Capabilities
    term: str
    """What TERM must say in its panes."""

    async def open(self, name: str, generation: str, argv: Sequence[str], width: int, height: int) -> Process:
        """A pane that runs `argv`, and the process whose end would be the end of the pane: the server.

        A pane of this generation that is there already is left as it is. `LaunchError` where it says no.
        """
        ...

    async def see(self, generation: str) -> Seen | None:
        """The pane now; `None` where the launch has none. `ServerGone` where there is no server."""
        ...

    async def last(self, generation: str) -> Seen | None:
        """The same, with all lines that have left the screen and were not told of yet."""
        ...

    async def type(self, generation: str, keys: Sequence[str], *, literal: bool) -> None: ...

    async def close_pane(self, generation: str) -> None:
        """End that launch's pane and no other; fine where it is gone, or its server is."""
        ...

    async def panes(self) -> set[str]:
        """The generations that have a pane here; none where there is no server."""
        ...

    def watch(self, generation: str, on_seen: OnSeen, on_missing: Callable[[], None]) -> None:
        """Call `on_seen` when the pane has changed, and once at first; `on_missing` when it is not there."""
        ...

    def unwatch(self, generation: str) -> None: ...

    def seen_at(self, generation: str) -> float | None:
        """When the watched pane was last found there, changed or not."""
        ...

    def attach_argv(self, name: str, generation: str, *, read_only: bool) -> list[str]: ...

    async def dismiss(self) -> None:
        """End the server if no pane is left in it."""
        ...

    async def close(self) -> None:
        """Let go of it. The panes stay."""
        ...
