"""Every life that an agent can have, explored: what the tests of the life table walk, and what docs/states.md draws.

From a life that was never started, every event is tried in every life that can be reached, until nothing new appears.
Times that only differ in amount are made the same (`still`), so the graph is finite, and a promise that holds on each
of its edges holds over every order of events, of five and of any number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from fleet.health.restart import Budget, Cause, Policy
from fleet.lifecycle import (
    Action,
    Died,
    Elapsed,
    Ended,
    Event,
    Launch,
    Launched,
    LaunchRefused,
    Life,
    Lost,
    Reset,
    Restart,
    Seen,
    Shutdown,
    Start,
    Started,
    StartTimedOut,
    Stop,
    step,
)
from fleet.terms import Phase

NOW = 1_000_000.0
LONG_AGO = NOW - 10_000.0

EVERY_EVENT: tuple[Event, ...] = (
    Start(),
    Start(fresh=True),
    Stop(),
    Restart(),
    Restart(fresh=True),
    Reset(),
    Shutdown(),
    Launched(),
    Started(),
    StartTimedOut(),
    LaunchRefused("NoSuchFolder", "The folder is not there.", retry=False),
    LaunchRefused("NoMemory", "There is no memory left.", retry=True),
    Died(0),
    Died(1),
    Died(None),
    Died(1, resumed_within=True),
    Died(1, Cause.AUTH),
    Died(1, Cause.LIMIT, resets_at=NOW + 3600),
    Died(1, Cause.LIMIT),
    Died(1, Cause.UNRECOVERABLE),
    Died(None, Cause.MULTIPLEXER),
    Ended(),
    Elapsed(),
    Lost(),
    Seen(alive=True),
    Seen(alive=True, started=True),
    Seen(alive=False),
    Seen(alive=False, exit_status=1),
    Seen(alive=False, cause=Cause.MULTIPLEXER),
)
CAUSES = tuple(
    event
    for event in EVERY_EVENT
    if isinstance(event, Died) and (event.resumed_within or event.cause not in (Cause.CRASH, Cause.MULTIPLEXER))
)
POLICIES = {
    "on-failure": Policy(max_retries=2, start_backoff=(5.0,)),
    "never": Policy(policy="never", max_retries=2, start_backoff=()),
    "always, by cause": Policy(policy="always", max_retries=0, start_backoff=(), auto_resume=True),
}
"""Small budgets, so that they are soon used up. The rarer causes of death are explored where deaths are not counted."""


@dataclass(frozen=True, slots=True)
class World:
    """A life, and what an onlooker knows besides."""

    life: Life
    told_up: bool = False
    """The last word of a person was that it should be up."""
    there: bool = False
    """A launch was made, or seen alive, and not yet known to be over."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One event in one life, and what came of it."""

    before: World
    event: Event
    after: Life
    actions: tuple[Action, ...]
    there: bool
    """Whether, with the event heard and before the actions, something of it lives."""

    def __str__(self) -> str:
        return f"{self.before}\n  + {self.event}\n  = {self.after}\n  → {self.actions}"


@cache
def explored(policy: str) -> tuple[Edge, ...]:
    """Every event in every life that can be reached."""
    rules = POLICIES[policy]
    events = [event for event in EVERY_EVENT if event not in CAUSES or not rules.max_retries]
    first = World(still(Life.new(NOW), rules))
    known, waiting, edges = {first}, deque([first]), []
    while waiting:
        world = waiting.popleft()
        for life in (world.life, *later(world.life)):
            here = replace(world, life=life)
            for event in events:
                after, actions = step(life, event, NOW, rules)
                edge = Edge(here, event, after, actions, lives_after(here, event))
                edges.append(edge)
                there = edge.there or any(isinstance(action, Launch) for action in actions)
                same = world.life if after is world.life else still(after, rules)
                then = World(same, told_up_after(here, event), there)
                if then not in known:
                    known.add(then)
                    waiting.append(then)
    return tuple(edges)


def still(life: Life, policy: Policy) -> Life:
    """The life with amounts of time, counts beyond their limit, and what only people read, made the same."""
    used = life.budget
    return replace(
        life,
        since=NOW,
        launched_at=None if life.launched_at is None else NOW,
        started_at=None if life.started_at is None else NOW,
        due=None if life.due is None else NOW if life.due <= NOW else NOW + 50.0,
        budget=Budget(
            (NOW,) * min(len(used.deaths), policy.max_retries),
            min(used.start_failures, len(policy.start_backoff) + 1),
            min(used.auth_failures, 2),
            used.renewed,
        ),
        restarts=0,
        exit_status=None,
        fresh=False,
        reason=life.reason if life.reason in (None, "Shutdown") else "Reason",
        message=None,
    )


def later(life: Life) -> Iterator[Life]:
    """The same life once time has passed: a wait that is over, a run that has lasted, deaths long ago."""
    if life.due is not None and life.due > NOW:
        yield replace(life, due=NOW)
    if life.started_at is not None:
        yield replace(life, started_at=LONG_AGO)
    if life.budget.deaths:
        yield replace(life, budget=replace(life.budget, deaths=(LONG_AGO,) * len(life.budget.deaths)))


def told_up_after(world: World, event: Event) -> bool:
    """Whether a person's last word, the event included, is that it should be up."""
    if isinstance(event, Start | Restart):
        return True
    return world.told_up and not isinstance(event, Stop | Shutdown)


def lives_after(world: World, event: Event) -> bool:
    """Whether something of it lives, as far as the event tells."""
    phase = world.life.before or world.life.phase
    match event:
        case Seen(alive=alive):
            return alive
        case Died():
            return False
        case Ended() if phase is Phase.STOPPING:
            return False
        case LaunchRefused() if phase is Phase.STARTING:
            return False
    return world.there
