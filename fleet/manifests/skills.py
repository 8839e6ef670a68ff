"""Skills: folders with a SKILL.md that a coding agent reads when it needs them.

A skill is looked for beside the manifest (`skills/NAME`), in fleet's config folder (`skills/NAME`), and where Claude
Code looks by itself (the workspace's and the person's own `.claude/skills`). Only one that the program would not
find by itself has to be put into the workspace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet.manifests.model import AgentSpec

MARK = "SKILL.md"


@dataclass(frozen=True, slots=True)
class Found:
    """What became of an agent's skills."""

    to_put: dict[str, Path]
    """Skills that the program would not find by itself, with their folders."""
    by_itself: tuple[str, ...]
    missing: tuple[str, ...]
    """Required ones that are nowhere."""

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(f"skills: {name} is required and is nowhere" for name in self.missing)


def find(spec: AgentSpec, *, workspace: Path, config: Path, environ: Mapping[str, str]) -> Found:
    """Where each of the agent's skills stands on this machine."""
    home = environ.get("HOME", "")
    own = Path(environ.get("CLAUDE_CONFIG_DIR") or Path(home, ".claude"))
    seen_by_program = (workspace / ".claude" / "skills", own / "skills")
    to_put: dict[str, Path] = {}
    by_itself: list[str] = []
    missing: list[str] = []
    for name in dict.fromkeys((*spec.skills.required, *spec.skills.available)):
        kept = next((at for at in _beside(spec, config, name) if (at / MARK).is_file()), None)
        if kept is not None:
            to_put[name] = kept
        elif any((place / name / MARK).is_file() for place in seen_by_program):
            by_itself.append(name)
        elif name in spec.skills.required:
            missing.append(name)
    return Found(to_put, tuple(by_itself), tuple(missing))


def _beside(spec: AgentSpec, config: Path, name: str) -> Iterator[Path]:
    if spec.folder:
        yield Path(spec.folder, "skills", name)
    yield config / "skills" / name


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a skill, by their path in it; links that lead out of it are left out."""
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.resolve().is_relative_to(root):
            yield path.relative_to(folder).as_posix(), path
