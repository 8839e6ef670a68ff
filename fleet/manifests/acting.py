"""What a valid manifest asks for that this version does not do yet: named at start, never passed over in silence."""

from __future__ import annotations

from fleet.manifests.model import AgentSpec, Budget, ContextManagement, Headless, Health, Hooks, Hub

_OWN_HARNESSES = ("claude-code", "shell")


def not_acting(spec: AgentSpec) -> list[str]:
    """The keys that were set and do not act yet, by name."""
    said: dict[str, bool] = {
        "context_management": spec.context_management != ContextManagement(),
        "schedule": bool(spec.schedule),
        "hub": spec.hub.enabled and spec.hub != Hub(),
        "headless": spec.headless != Headless(),
        "a2a": spec.a2a.enabled,
        "budget": spec.budget != Budget(),
        "health": _more_than_alive(spec.health),
        **{f"hooks.{name}": bool(getattr(spec.hooks, name)) for name in Hooks.model_fields if name.startswith("on_")},
    }
    return [name for name, is_said in said.items() if is_said]


def _more_than_alive(health: object) -> bool:
    return not (isinstance(health, Health) and health.method == "multiplexer-alive")


def cannot_yet(spec: AgentSpec) -> str | None:
    """Why this version cannot start the agent although its manifest is valid; `None` where it can."""
    if spec.harness not in _OWN_HARNESSES:
        return f"harness {spec.harness} cannot be started by this version yet; {' and '.join(_OWN_HARNESSES)} can"
    if spec.mode == "headless":
        return "mode headless cannot be started by this version yet; leave mode out for an agent in a pane"
    if spec.runtime != "local":
        return f"runtime {spec.runtime} cannot be started by this version yet; only local agents can"
    if spec.hosts is not None:
        return "hosts cannot be started by this version yet; only local agents can"
    if spec.container.runtime != "none":
        return f"container.runtime {spec.container.runtime} cannot be started by this version yet; only none can"
    return None


def later(spec: AgentSpec) -> list[str]:
    """Both, as warnings for a person."""
    quiet = not_acting(spec)
    found = [f"{spec.name}: {', '.join(quiet)} stand in the manifest and do not act yet"] if quiet else []
    return found + [f"{spec.name}: {why}" for why in [cannot_yet(spec)] if why]
