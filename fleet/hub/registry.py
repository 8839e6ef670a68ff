"""Who is there: workspaces, members with their cards, the channels they hear, how they are. See `exchange.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a member says of itself. Data, wherever it is shown."""

    name: str
    kind: str = "agent"
    """agent, person or program."""
    description: str = ""
    machine: str = ""
    role: str = ""
    harness: str = ""
    model: str = ""
    project: str = ""
    capabilities: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    supervised: bool = False
    """The supervisor runs it: presence is its word, and mail is carried to it."""
    turns: bool = False
    """The end of each of its turns is seen (`Exchange.turn_ended`); what it says between counts as said of its mail."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.kind, "description": self.description, "machine": self.machine,
            "role": self.role, "harness": self.harness, "model": self.model, "project": self.project,
            "capabilities": list(self.capabilities), "labels": dict(self.labels), "supervised": self.supervised,
            "turns": self.turns,
        }  # fmt: skip
