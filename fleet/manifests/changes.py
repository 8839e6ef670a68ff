"""What differs between an agent as it runs and as it is declared now, and what of that needs a restart. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from fleet.manifests.model import AgentSpec
from fleet.manifests.problem import dotted
from fleet.manifests.yamltree import Path

NO_RESTART: dict[str, str] = {
    "description": "only people read it",
    "labels": "selects agents; the program does not see it",
    "capabilities": "selects agents; the program does not see it",
    "prompt": "is given with a new conversation only",
    "prompt_file": "is given with a new conversation only",
    "session": "decides at the next start",
    "auto_accept": "acts at the next start",
    "startup": "acts at the next start",
    "stop": "acts at the next stop",
    "health": "is the daemon's to do",
    "restart": "is the daemon's to do",
    "hooks": "are run by the daemon",
    "context_management": "is the daemon's to do",
    "schedule": "is the daemon's to do",
    "hub.channels": "is the hub's to do",
    "hub.may": "is the hub's to do",
    "hub.hop_limit": "is the hub's to do",
    "hub.wake": "is the hub's to do",
    "hub.suppress_thanks": "is the hub's to do",
    "headless.max_parallel": "acts at the next turn",
    "headless.timeout": "acts at the next turn",
    "a2a": "is the daemon's to do",
    "budget": "is the daemon's to do",
    "depends_on": "decides at the next start",
}
"""The keys (and all below them) that a running agent takes over as it is, and why. Every other needs a restart."""


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs."""

    path: str
    restart: bool
    """Whether a running agent must be restarted for it to act."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(running: AgentSpec, declared: AgentSpec) -> tuple[Change, ...]:
    """The keys that differ, in the order of the manifest. Where the file stands does not matter by itself."""
    before, now = _said(running), _said(declared)
    found = [Change(dotted(path), _needs_restart(path)) for path in _differing(before, now, ())]
    if running.folder != declared.folder and _leans_on_folder(declared):
        found.append(Change("folder", restart=True))
    return tuple(found)


def _said(spec: AgentSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude={"folder", "source"})


def _differing(before: Any, now: Any, path: Path) -> Iterator[Path]:
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from _differing(before.get(key, _ABSENT), now.get(key, _ABSENT), (*path, key))
    else:
        yield path


_ABSENT = object()


def _needs_restart(path: Path) -> bool:
    return not any(".".join(map(str, path[:length])) in NO_RESTART for length in range(1, len(path) + 1))


def _leans_on_folder(spec: AgentSpec) -> bool:
    """Whether a path that the program sees starts from the manifest's folder."""
    venvs = (spec.venv,) if isinstance(spec.venv, str) else spec.venv or ()
    program = spec.command[:1] if "/" in "".join(spec.command[:1]) else ()
    named = (*((spec.workdir,) if spec.workdir else ()), *venvs, *program)
    return any(not text.startswith(("/", "~")) for text in named)
