"""The older manifests: converted by a table that names every key, as mapped or as without meaning here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from fleet.manifests.yamltree import Path, Tree

VERSIONS = ("scitex-agent-container/v2", "scitex-agent-container/v3", "cld-agent/v1")


@dataclass(frozen=True, slots=True)
class Note:
    """A word about a key of the older document."""

    path: Path
    message: str
    nearest: str | None = None


@dataclass(slots=True)
class Converted:
    """An older document in the form of fleet/v1."""

    document: dict[str, Any] = field(default_factory=dict)
    origin: dict[Path, Path] = field(default_factory=dict)
    problems: list[Note] = field(default_factory=list)
    warnings: list[Note] = field(default_factory=list)


def convert(value: dict[str, Any], version: str, tree: Tree, *, folder: FilePath) -> Converted:
    """The document as fleet/v1 would say it."""
    return Converted(problems=[Note(("apiVersion",), f"{version} is not converted yet")])
