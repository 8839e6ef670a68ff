"""docs/states.md, drawn from the words, the life table and every life that can be reached."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from fleet import lifecycle
from fleet.health.restart import Policy
from fleet.lifecycle import EVENTS, TRANSITIONS
from fleet.terms import Activity, Kind, Phase
from tests.lives import POLICIES, explored

PHASES = {
    Phase.STOPPED: "Down, because nobody wants it up.",
    Phase.STARTING: "Launched, or about to be; its own session has not been seen yet.",
    Phase.RUNNING: "Started and alive.",
    Phase.BACKOFF: "Down for now: it is launched again when its wait is over and the fleet's brake lets it go.",
    Phase.STOPPING: "Being ended, together with every process it has left behind.",
    Phase.FINISHED: "It ended by itself and its policy leaves it at that.",
    Phase.FAILED: "Fleet has given up on it, for the reason that stands beside it. It stays down until a person acts.",
    Phase.UNVERIFIABLE: "Its host or multiplexer cannot be read. Nothing is done until it can; then it is what it is.",
}
ACTIVITIES = {
    Activity.BOOTING: "Launched; the program's own session has not been seen.",
    Activity.WORKING: "A turn is under way.",
    Activity.NEEDS_INPUT: "A dialog waits for a person. `kind` says which, with its question and options.",
    Activity.READY: "It takes a prompt. A background shell of it does not change that.",
    Activity.LIMITED: "A usage limit holds it; `resets_at` says until when, where that is known.",
    Activity.ERROR: "It shows an error that it does not get past by itself.",
    Activity.UNKNOWN: "Nothing that fleet knows says. It is never taken for ready.",
    Activity.EXITED: "Said by `fleet explain --screen` of a screen whose program is gone; an agent then has a phase.",
}
INTRODUCTION = """\
# States

<!-- Drawn from the code by `make docs`; change the code, not this page. -->

An agent has two states at once. The **phase** is the supervisor's: what became of what a person wants. The
**activity** is the program's: what it does while it is starting or running. `fleet status` shows them together,
`fleet explain NAME` says who saw what, and when.

## Phases
"""
UNREADABLE = """
Left out of the picture: from `starting`, `running` and `stopping` an agent becomes `unverifiable` while its host or
multiplexer cannot be read, and leaves it for whatever is then seen.

## Activities
"""
REASONS = """\
## Reasons

The word in `reason`; `message` says the same as a sentence. A refused launch brings a reason of its own.
"""
WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")


def drawn() -> str:
    """The whole page."""
    return "\n".join(_page())


def _page() -> Iterator[str]:
    yield INTRODUCTION
    yield from _table(("phase", "means"), ((p.value, PHASES[p]) for p in Phase))
    yield "```mermaid\nstateDiagram-v2\n    [*] --> stopped"
    yield from _diagram()
    yield "```"
    yield UNREADABLE
    yield from _table(("activity", "means"), ((a.value, ACTIVITIES[a]) for a in Activity))
    yield "`kind`, with `needs_input`: " + ", ".join(f"`{kind.value}`" for kind in Kind) + ".\n"
    yield _numbers(Policy())
    yield "## What can happen\n"
    yield from _table(("event", "says"), ((f"`{e.__name__}`", _says(e)) for e in EVENTS))
    yield "## The table\n\nEvery event in every phase. A dot: nothing changes.\n"
    yield from _table(
        ("", *(phase.value for phase in Phase)),
        ((f"`{e.__name__}`", *(_cell(TRANSITIONS[p][e].__name__) for p in Phase)) for e in EVENTS),
    )
    named = {t.__name__: _says(t) for p in Phase for t in (TRANSITIONS[p][e] for e in EVENTS)}
    yield from _table(("step", "does"), ((_cell(n), named[n]) for n in sorted(named) if n != "stay"))
    yield "## From where to where\n\nAll changes of phase that any order of events can bring about.\n"
    yield from _table(
        ("from", "to", "on"),
        ((a.value, b.value, ", ".join(f"`{e}`" for e in events)) for (a, b), events in _changes().items()),
    )
    yield REASONS
    yield from _table(
        ("phase", "reasons"),
        ((p.value, ", ".join(f"`{r}`" for r in sorted(reasons))) for p, reasons in _reasons().items()),
    )


def _numbers(policy: Policy) -> str:
    starts = ", ".join(f"{wait:g}" for wait in policy.start_backoff)
    least, most = policy.limit_jitter
    return f"""\
## Who comes back, and when

- A start that fails (dead, or silent for too long) is tried again after {starts} s; then the agent is `failed`.
- A run that dies comes back at once, the next one within {policy.window:g} s after {policy.backoff_initial:g} s,
  then ×{policy.multiplier:g} each, at most {policy.backoff_max:g} s, ±{policy.backoff_jitter:.0%}.
  Death number {policy.max_retries} within the window parks it as `CrashLoop` (`max_retries: 0`: never).
- Once it has run for {policy.reset_after:g} s since it started, all that was before is forgiven.
- `on-failure`: a clean exit (`success_exit_codes`) is `finished`. A death without an exit status is a failure.
- An authentication error gets one more try. A start that could only fail again gets none.
- A usage limit is waited for, and {least:g} to {most:g} s more, where the manifest says `auto_resume: true`:
  the agent is started, or told to go on where it lives. One that says it goes on by itself is only watched.
  Elsewhere a person does it. What was said to the agent meanwhile is delivered when the limit ends.
- The loss of a host or multiplexer is nobody's fault: it charges no budget, and its agents come back in turn.
- A resume that the program gives up within seconds gets one new conversation, without the first prompt, never a
  second.
- A person's `start` or `restart` clears what was used up. So does `reset`, which also lets a parked agent come back
  as soon as the brake allows. A `start` that finds the agent up changes nothing.
- `restarts` counts the launches that fleet made by itself since a person last started, restarted or reset the agent.

The numbers are defaults, set in the manifest under `restart` or in `config.yaml`.
"""


def _changes() -> dict[tuple[Phase, Phase], list[str]]:
    found: dict[tuple[Phase, Phase], set[type]] = defaultdict(set)
    for name in POLICIES:
        for edge in explored(name):
            if edge.before.life.phase is not edge.after.phase:
                found[edge.before.life.phase, edge.after.phase].add(type(edge.event))
    order = list(Phase)
    return {
        pair: [event.__name__ for event in EVENTS if event in found[pair]]
        for pair in sorted(found, key=lambda pair: (order.index(pair[0]), order.index(pair[1])))
    }


def _diagram() -> Iterator[str]:
    """The changes while the host can be read, but for what only a new daemon or a late word brings."""
    for (a, b), events in _changes().items():
        shown = [event for event in events if event not in ("Seen", "Lost", "Launched")]
        if shown and Phase.UNVERIFIABLE not in (a, b):
            yield f"    {a.value} --> {b.value}: {', '.join(_spoken(event) for event in shown)}"


def _reasons() -> dict[Phase, set[str]]:
    found: dict[Phase, set[str]] = {phase: set() for phase in Phase}
    for name in POLICIES:
        for edge in explored(name):
            refused = isinstance(edge.event, lifecycle.LaunchRefused)
            if edge.after.reason and edge.after.reason != "Reason" and not refused:
                found[edge.after.phase].add(edge.after.reason)
    return {phase: reasons for phase, reasons in found.items() if reasons}


def _cell(name: str) -> str:
    return "·" if name == "stay" else name.replace("_", " ")


def _spoken(event: str) -> str:
    return WORDS.sub(" ", event).lower()


def _says(thing: object) -> str:
    return " ".join((thing.__doc__ or "").split())


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
