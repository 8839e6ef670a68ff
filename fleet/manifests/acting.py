"""What a valid manifest asks for that this version does not do yet: named at start, never passed over in silence."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from fleet.manifests.model import AgentSpec, Budget, ContextManagement, Health, Hooks

HARNESSES = ("claude-code", "shell")
"""The harnesses that this version can start."""
RUNTIMES = ("local", "ssh", "slurm", "slurm-tenant")
"""Where it can start them."""


def not_acting(spec: AgentSpec) -> list[str]:
    """The keys that were set and do not act yet, by name."""
    return [name for name, is_said in LATER.items() if is_said(spec)]


def _hook(name: str) -> Callable[[AgentSpec], bool]:
    return lambda spec: bool(getattr(spec.hooks, name))


def _more_than_alive(health: object) -> bool:
    return not (isinstance(health, Health) and health.method == "multiplexer-alive")


LATER: dict[str, Callable[[AgentSpec], bool]] = {
    "context_management": lambda spec: spec.context_management != ContextManagement(),
    "schedule": lambda spec: bool(spec.schedule),
    "budget": lambda spec: spec.budget != Budget(),
    "health": lambda spec: _more_than_alive(spec.health),
    **{f"hooks.{name}": _hook(name) for name in Hooks.model_fields if name.startswith("on_")},
}
"""Keys whose part comes later, each with whether a manifest asks for it."""


def cannot_yet(spec: AgentSpec) -> str | None:
    """Why this version cannot start the agent although its manifest is valid; `None` where it can."""
    if spec.harness not in HARNESSES:
        return f"harness {spec.harness} cannot be started by this version yet; {' and '.join(HARNESSES)} can"
    if spec.runtime not in RUNTIMES:
        return f"runtime {spec.runtime} cannot be started by this version yet; {' and '.join(RUNTIMES)} can"
    if spec.runtime == "ssh" and spec.multiplexer != "tmux":
        return f"multiplexer {spec.multiplexer} cannot be used on another machine by this version yet; tmux can"
    if spec.slurm is not None and spec.multiplexer != "tmux":
        return f"multiplexer {spec.multiplexer} cannot be used in a SLURM job by this version yet; tmux can"
    if spec.container.runtime != "none":
        return f"container.runtime {spec.container.runtime} cannot be started by this version yet; only none can"
    return None


def later(spec: AgentSpec) -> list[str]:
    """Both, as warnings for a person."""
    quiet = not_acting(spec)
    found = [f"{spec.name}: {', '.join(quiet)} stand in the manifest and do not act yet"] if quiet else []
    return found + [f"{spec.name}: {why}" for why in [cannot_yet(spec)] if why]


def reference() -> str:
    """What this version leaves for later, as a paragraph of docs/manifest.md."""
    keys = ", ".join(f"`{name}`" for name in LATER if name != "health")
    can = " and ".join(f"`{name}`" for name in HARNESSES)
    words = (
        f"This version checks {keys} and probes of `health` beyond `multiplexer-alive`, but they do not act yet: "
        f"`start` says so once, by name. It starts the harnesses {can} on this machine, on ssh hosts and in SLURM "
        "jobs, and without a container; any other validates, and starting it says that this version cannot yet."
    )
    return textwrap.fill(words, 120, break_on_hyphens=False) + "\n"
