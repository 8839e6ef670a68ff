"""How the hub reaches into agents: the verbs that the courier needs of whoever runs them, and their answers.

The hub does not know the supervisor; `fleet/reach.py` keeps this contract over it. Signs come from the agent's side
only: its box, its transcript, its hooks. A verb that acts raises nothing where the agent has gone meanwhile: what
became of the act is seen afterwards, with `seen`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from fleet.hub.delivery import Agent, HandedOver, Seen, Ways
from fleet.hub.message import Message, Way


class Typing(StrEnum):
    """What typing a text has come to."""

    SUBMITTED = "submitted"
    """Enter was pressed on it."""
    HELD = "held"
    """Something of it is typed, and Enter was not pressed: a dialog came in between, or a person."""
    NOTHING = "nothing"
    """Nothing of it stands there: it may be typed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnd:
    """How a headless agent's turn ended."""

    ok: bool
    text: str = ""
    """What it says: the reply."""
    reason: str | None = None
    """Where it is not ok, or declined: why, in one word."""
    declined: bool = False
    """The agent will not answer; the turn itself is over."""
    again: bool = False
    """It came to nothing by what may pass (its program died, the agent was stopped, a limit): it may be tried again."""


class Reach(Protocol):
    """What the courier asks of whoever runs the agents."""

    def standing(self, name: str) -> Agent | None:
        """How the agent stands now; `None`: it is no agent of this fleet."""
        ...

    def ways(self, name: str) -> Ways:
        """The ways into it, as it runs now or would run."""
        ...

    def on_change(self, callback: Callable[[str], None]) -> None:
        """From now on `callback(name)` whenever something about an agent may be different."""
        ...

    async def put(self, name: str, key: str, text: str, way: Way) -> None:
        """Lay a text into the box of the agent's present launch, whole or not at all, for its doorbell or its next
        boundary."""
        ...

    async def ring(self, name: str) -> None:
        """Say that something lies in the box."""
        ...

    async def withdraw(self, name: str, key: str) -> bool:
        """Take it out of the box, whichever launch's it is. False: it had been taken before."""
        ...

    def unheard(self, name: str) -> None:
        """Its bell is not heard: until its next session nothing is rung for."""
        ...

    async def clear(self, name: str, key: str) -> None:
        """What became of it is written down: the box need not keep it."""
        ...

    async def type(self, name: str, text: str, may_submit: Callable[[Agent], bool]) -> Typing:
        """Type it, look again, and press Enter if the agent as it stands then allows it."""
        ...

    def recall(self, name: str, text: str) -> None:
        """This was being typed when an earlier daemon was killed: what of it stands there is nobody's draft."""
        ...

    async def enter(self, name: str, text: str) -> Typing:
        """Press Enter, if the composer holds this text and nothing else. Where it holds a beginning of it and nothing
        else, a dialog came in between: that is taken out, and `NOTHING` stands there."""
        ...

    async def seen(
        self, name: str, key: str, handed: HandedOver, messages: Sequence[Message], since: float
    ) -> list[Seen]:
        """What is seen now of each of the messages that were handed over together under this key. Nothing from before
        `since`, when it was written down that they will be, speaks of them."""
        ...

    async def turn(self, name: str, message: Message, text: str) -> TurnEnd:
        """Run a headless agent's turn on it to its end. Who gives up waiting does not end it: asked again, also by the
        next daemon, it is the same turn."""
        ...

    async def stop_turn(self, name: str, thread: str) -> None:
        """End the turn that runs in this conversation, if one does; a headless one then ends as not ok."""
        ...
