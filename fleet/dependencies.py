"""Who waits for whom: the order of starts and stops, and what an agent still waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from fleet.errors import InvalidManifest
from fleet.terms import Phase

Condition = Literal["started", "ready", "completed"]
Groups = tuple[tuple[str, ...], ...]


class DependencyCycle(InvalidManifest):
    """Agents wait for each other in a circle. Take one of them out of a `depends_on`."""

    def __init__(self, circle: tuple[str, ...]) -> None:
        super().__init__(
            f"These agents wait for each other in a circle: {' → '.join(circle)}.",
            hint="Take one of them out of a `depends_on`.",
            circle=list(circle),
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """How an agent stands, as far as others wait for it."""

    phase: Phase | None
    """`None`: there is no such agent."""
    ready: bool = False
    succeeded: bool = False
    """It has ended by itself, and cleanly."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What an agent still waits for."""

    message: str
    hopeless: bool
    """It will not come about by itself: a person has to act."""


def start_order(needs: Mapping[str, Iterable[str]]) -> Groups:
    """Groups whose members can start at the same time, each after the ones before it.

    `needs` names, for each agent, those it waits for; one that is not an agent here is none of this order's business.
    Raise `DependencyCycle` where there is no order. The answer does not depend on the order of the mapping.
    """
    groups, circling = _groups(needs)
    if circling:
        raise DependencyCycle(_circle(circling))
    return groups


def stop_order(needs: Mapping[str, Iterable[str]]) -> Groups:
    """The same the other way round: who waits for others goes down first.

    A stop is never refused: agents that wait for each other in a circle go down together, before those they need.
    """
    groups, circling = _groups(needs)
    return (*((tuple(sorted(circling)),) if circling else ()), *reversed(groups))


def obstacle(agent: str, condition: Condition, standing: Standing) -> Obstacle | None:
    """What stands between a dependant and its start; `None` where the agent it needs is far enough."""
    phase = standing.phase
    if phase is None:
        return Obstacle(f"{agent} is not an agent here", hopeless=True)
    if _far_enough(condition, standing):
        return None
    if phase is Phase.FINISHED:
        how = "has ended, and not cleanly" if condition == "completed" else "has ended"
        return Obstacle(f"{agent} {how}", hopeless=True)
    hopeless = phase in (Phase.STOPPED, Phase.STOPPING, Phase.FAILED)
    return Obstacle(f"{agent} is {phase.value}, not {condition}", hopeless)


def _far_enough(condition: Condition, standing: Standing) -> bool:
    match condition:
        case "started":
            return standing.phase in (Phase.RUNNING, Phase.FINISHED)
        case "ready":
            return standing.phase is Phase.RUNNING and standing.ready
        case "completed":
            return standing.phase is Phase.FINISHED and standing.succeeded


def _groups(needs: Mapping[str, Iterable[str]]) -> tuple[Groups, dict[str, set[str]]]:
    """The order as far as there is one, and whoever is left: those in circles, and those who wait for them."""
    waiting = {name: {need for need in wants if need in needs} for name, wants in needs.items()}
    groups: list[tuple[str, ...]] = []
    while group := tuple(sorted(name for name, wants in waiting.items() if not wants)):
        groups.append(group)
        waiting = {name: wants.difference(group) for name, wants in waiting.items() if name not in group}
    return tuple(groups), waiting


def _circle(waiting: Mapping[str, set[str]]) -> tuple[str, ...]:
    """One circle among agents that all wait for one another, from its first name back to it."""
    path = [min(waiting)]
    while (following := min(waiting[path[-1]])) not in path:
        path.append(following)
    circle = path[path.index(following) :]
    first = circle.index(min(circle))
    return (*circle[first:], *circle[:first], min(circle))
