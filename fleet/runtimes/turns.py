"""Where the turns of headless agents run: the verbs by which a launch stands, and a turn is begun, seen and ended.

A turn is a launcher (launcher.sh) and all below it, in a folder of its own on its host: its stdin, stdout and stderr
are files there, so that nothing has to be drained, and its exit status is noted there. It belongs to nobody who
looks: neither a daemon's end nor a lost connection ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fleet.terms import File, Handle, LaunchPlan

NONE = "none"
"""What holds the pane of an agent that has none."""
STANDS = "stands"
"""The file in a launch's folder that is there while it stands. Where it is not, no turn begins."""
MARK = "FLEET_TURN"
"""The variable that every process of a turn inherits: its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A turn to be begun."""

    folder: str
    """Its own, on its host."""
    launch: str
    """The folder of the launch that it is a turn of."""
    cwd: str
    argv: tuple[str, ...]
    env: bytes = field(repr=False)
    """What its launcher reads: the launch's environment, and its own."""
    prompt: bytes = field(repr=False)
    marks: Mapping[str, str]
    """What all of its processes bear from their first moment."""
    limit: float
    """Seconds after which it is ended on its host, whoever hears of it there."""
    grace: float
    place: Any = None
    """The manifest, where it says more of the place that it runs at: for that place alone."""


@dataclass(frozen=True, slots=True)
class Printed:
    """What a turn has printed so far."""

    size: int
    tail: bytes | None
    """Its end; `None`: it is as long as when it was last asked for."""


class Ground(Protocol):
    """One host, for headless agents.

    What could not be told raises `HostUnreachable`; that speaks of no turn. What was asked for may be asked for again.
    """

    near: bool
    """It is this machine, which can always be read."""
    check_every: float
    """Seconds between two looks at what a turn prints."""

    # -- launches ----------------------------------------------------------------------------------------------------

    def mint(self, agent: str, generation: str) -> Handle: ...

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        """Put what turns need. Raise `LaunchError` where its program could not be run."""
        ...

    async def stands(self, folder: str) -> bool:
        """Whether turns may begin."""
        ...

    async def end_launch(self, folder: str, grace: float) -> tuple[int, ...]:
        """Let no turn begin any more, and end those that run; who needed SIGKILL."""
        ...

    # -- turns -------------------------------------------------------------------------------------------------------

    def turn_folder(self, launch: str, here: Path) -> str:
        """Where the turn is, that is noted here, in this folder."""
        ...

    def kept_here(self, wanted: Wanted) -> list[File]:
        """What of it stands beside its note."""
        ...

    async def begin(self, wanted: Wanted) -> float | None:
        """Begin it. One folder is begun once, however often it is asked for. Raise `LaunchError` where it cannot be.

        The seconds since it began; `None`: it has ended already.
        """
        ...

    async def over(self, folder: str) -> None:
        """Return once it does not run: it has ended, or never began."""
        ...

    async def printed(self, folder: str, size: int) -> Printed:
        """What it has printed, where that is another size. What floods its stderr is cut down."""
        ...

    async def end(self, folder: str, grace: float) -> None:
        """End all of it, and what was asked to begin and has not does not begin any more. Raise `Unconfirmed` where
        something of it lives on."""
        ...

    async def fetch(self, folder: str, here: Path) -> None:
        """Bring what it has left behind to the folder of its note."""
        ...

    async def forget(self, folder: str, *, sure: bool) -> None:
        """What it has left behind has been brought here. Not `sure`: it may have been asked to begin by a request
        that is still on its way."""
        ...


ERRORS_KEPT = 2**20
"""Bytes of stderr that may stand there before the older ones go: it may flood."""
TAIL = 64 * 2**10
"""Bytes of an end that is read: of stderr, and of what a turn has printed so far."""
OUTPUT_MOST = 64 * 2**20
"""Bytes that a turn may print. One that prints more is ended."""
