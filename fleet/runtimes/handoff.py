"""The walltime hand-off: a job that nears its limit gives its conversation to a successor. Pure.

Facts are gathered in any order (`after`); from what has changed follows what to do (`step`). The caller writes the
facts down before it acts, and the job does the same by itself where the daemon is away (slurm_job.sh): whoever makes
the folder `handover` submits, the other one hears of it. What holds, over every order of events:

- Whoever was told to stop, or was cancelled by somebody, never comes back by this: nothing is submitted from then on,
  and a successor that becomes known, however late, is cancelled.
- A successor is submitted only while no other one exists or may exist. Where it is not known whether a submission
  arrived, it is looked for by name before another is made.
- The agent is asked once to write down where it is, and only as long as its job lives.
- An end is settled once: either the successor is followed, and it was no death, or it is reported with its cause.
- A successor that somebody cancelled is not replaced; the job that runs is left to its end.

The stages: running, preparing (signalled; the agent writes, the successor is being submitted), leaving (both done,
or time is up), moved (the successor has it), stopped, ended (nothing follows; the restart policy has the word).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from fleet.runtimes.slurm_queue import Cause


class Successor(StrEnum):
    """What is known of it."""

    NONE = "none"
    WANTED = "wanted"
    """A submission is under way, here or in the job."""
    UNSURE = "unsure"
    """A submission may have arrived; it is being looked for by name."""
    KNOWN = "known"
    REFUSED = "refused"
    """There will be none: SLURM said no for good, or somebody called it off."""


class Writing(StrEnum):
    """Whether the agent has written down where it is."""

    NO = "no"
    ASKED = "asked"
    DONE = "done"
    """Or it cannot, or its time is up."""


class Outcome(StrEnum):
    """What became of the conversation at the job's end."""

    FOLLOWED = "followed"
    REPORTED = "reported"


class Stage(StrEnum):
    """Where the hand-off stands, in a word for people."""

    RUNNING = "running"
    PREPARING = "preparing"
    LEAVING = "leaving"
    MOVED = "moved"
    STOPPED = "stopped"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """The facts about one job and its successor."""

    job: str
    resubmits: bool = True
    """Whether a job that reaches its limit is followed by another (`auto_resubmit`)."""
    wanted: bool = True
    signalled: bool = False
    writing: Writing = Writing.NO
    successor: Successor = Successor.NONE
    successor_job: str | None = None
    tries: int = 0
    """Submissions that came to nothing."""
    called_off: bool = False
    """Somebody cancelled the successor."""
    told: bool = False
    """The job was told to end before its time; why is not known yet."""
    leaving: bool = False
    """It may end now: the conversation is written down, and the successor is known."""
    ended: Cause | None = None
    """How the job came to its end."""
    outcome: Outcome | None = None

    @property
    def stage(self) -> Stage:
        if not self.wanted:
            return Stage.STOPPED
        if self.outcome is not None:
            return Stage.MOVED if self.outcome is Outcome.FOLLOWED else Stage.ENDED
        if self.leaving or self.ended is not None:
            return Stage.LEAVING
        return Stage.PREPARING if self.signalled else Stage.RUNNING


TRIES = 3
"""Submissions that came to nothing before the successor is given up."""


# -- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signalled:
    """The job's end is near: SLURM's warning came, or the job's own clock says so."""


@dataclass(frozen=True, slots=True)
class Written:
    """The agent has written down where it is; or it cannot, or has had its time."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The successor's job id: from `sbatch`, from the job's folder, or found by name."""

    job: str


@dataclass(frozen=True, slots=True)
class Refused:
    """SLURM took no job, and said so."""

    for_good: bool = False


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A submission had no answer: it may have arrived."""


@dataclass(frozen=True, slots=True)
class NotFound:
    """There is no successor by that name, said by a controller that answered after the submission had ended."""


@dataclass(frozen=True, slots=True)
class SuccessorGone:
    """The successor was cancelled by somebody, or failed before it ran."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Told:
    """The job was told to end before its time, and has taken back the successor that it had submitted."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is no longer what it was. `EXITED` is the program's own doing, or `Leave`'s; a job that ended itself
    because its time was up has the cause `TIMEOUT`."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Stop:
    """A person wants it down."""


Event = Signalled | Written | Submitted | Refused | Unanswered | NotFound | SuccessorGone | Told | Ended | Stop


# -- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskToWriteDown:
    """Ask the agent to write down where it is, as far as its harness can; `Written` is the answer in any case."""


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit the successor, unless the job itself does: that is the first attempt of whoever makes the folder
    `handover`. Later attempts are fleet's alone."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Find:
    """Look for the successor by its name."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Have the job end its run: everything that its successor needs is there."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel a job; `None`: every job of this launch, by name."""

    job: str | None


@dataclass(frozen=True, slots=True)
class Follow:
    """The conversation is the successor's now: look there from now on. The lease sees to it that there is one."""

    job: str


@dataclass(frozen=True, slots=True)
class Report:
    """The agent is gone, and nothing is under way that brings it back: its restart policy has the word."""

    cause: Cause


Action = AskToWriteDown | Submit | Find | Leave | Cancel | Follow | Report


# -- the step ---------------------------------------------------------------------------------------------------------


def step(handoff: Handoff, event: Event) -> tuple[Handoff, tuple[Action, ...]]:
    """The facts after the event, and what to do about them."""
    decided = _decide(FACTS[type(event)](handoff, event))
    return decided, tuple(_actions(handoff, decided, event))


def _signalled(handoff: Handoff, _: Signalled) -> Handoff:
    return replace(handoff, signalled=True) if handoff.ended is None else handoff


def _written(handoff: Handoff, _: Written) -> Handoff:
    return replace(handoff, writing=Writing.DONE) if handoff.writing is Writing.ASKED else handoff


def _submitted(handoff: Handoff, event: Submitted) -> Handoff:
    if event.job == handoff.job or handoff.successor is Successor.KNOWN:
        return handoff
    if _takes_successor(handoff):
        return replace(handoff, successor=Successor.KNOWN, successor_job=event.job)
    under_way = handoff.successor in (Successor.WANTED, Successor.UNSURE)
    return _came_to_nothing(handoff) if under_way else handoff


def _takes_successor(handoff: Handoff) -> bool:
    """Whether a successor that becomes known now is the one. Otherwise it is cancelled."""
    open_still = handoff.wanted and handoff.outcome is None
    return open_still and not handoff.called_off and not (handoff.told and handoff.ended is None)


def _refused(handoff: Handoff, event: Refused) -> Handoff:
    if handoff.successor is not Successor.WANTED:
        return handoff
    return _came_to_nothing(handoff, for_good=event.for_good)


def _unanswered(handoff: Handoff, _: Unanswered) -> Handoff:
    return replace(handoff, successor=Successor.UNSURE) if handoff.successor is Successor.WANTED else handoff


def _not_found(handoff: Handoff, _: NotFound) -> Handoff:
    return _came_to_nothing(handoff) if handoff.successor is Successor.UNSURE else handoff


def _successor_gone(handoff: Handoff, event: SuccessorGone) -> Handoff:
    if handoff.successor is not Successor.KNOWN or handoff.outcome is not None:
        return handoff
    gone = _came_to_nothing(handoff, for_good=event.cause is Cause.CANCELLED)
    return replace(gone, called_off=event.cause is Cause.CANCELLED)


def _told(handoff: Handoff, _: Told) -> Handoff:
    if handoff.ended is not None:
        return handoff
    taken_back = _came_to_nothing(handoff) if handoff.successor is Successor.KNOWN else handoff
    return replace(taken_back, told=True)


def _ended(handoff: Handoff, event: Ended) -> Handoff:
    if handoff.ended is not None:
        return handoff
    ended = replace(handoff, ended=event.cause)
    return replace(ended, wanted=False) if event.cause is Cause.CANCELLED else ended


def _stop(handoff: Handoff, _: Stop) -> Handoff:
    return replace(handoff, wanted=False)


def _came_to_nothing(handoff: Handoff, *, for_good: bool = False) -> Handoff:
    tries = min(handoff.tries + 1, TRIES)
    final = for_good or tries >= TRIES
    return replace(handoff, tries=tries, successor_job=None, successor=Successor.REFUSED if final else Successor.NONE)


FACTS: Mapping[type, Callable[[Handoff, Any], Handoff]] = {
    Signalled: _signalled,
    Written: _written,
    Submitted: _submitted,
    Refused: _refused,
    Unanswered: _unanswered,
    NotFound: _not_found,
    SuccessorGone: _successor_gone,
    Told: _told,
    Ended: _ended,
    Stop: _stop,
}


def _decide(handoff: Handoff) -> Handoff:
    """What is begun, and how it is settled, because of the facts."""
    if not handoff.wanted:
        handoff = _without_successor(handoff)
    if handoff.outcome is not None:
        return handoff
    if not handoff.wanted:
        return handoff if handoff.ended is None else replace(handoff, outcome=Outcome.REPORTED)
    lives = handoff.ended is None
    if lives and handoff.signalled and handoff.writing is Writing.NO:
        handoff = replace(handoff, writing=Writing.ASKED)
    if _needs_successor(handoff):
        handoff = replace(handoff, successor=Successor.WANTED)
    if lives and handoff.successor is Successor.KNOWN and handoff.writing is Writing.DONE:
        handoff = replace(handoff, leaving=True)
    return handoff if lives else _settle(handoff)


def _needs_successor(handoff: Handoff) -> bool:
    """At the limit, foreseen or not, the job is followed by another; every other end is for the restart policy."""
    if not handoff.resubmits or handoff.successor is not Successor.NONE:
        return False
    if handoff.ended is None:
        return handoff.signalled and not handoff.told
    return handoff.ended is Cause.TIMEOUT or (handoff.leaving and handoff.ended is Cause.EXITED)


def _settle(handoff: Handoff) -> Handoff:
    """After the end: whoever ended by itself is the policy's; else the successor has it, once that is known."""
    if handoff.ended is Cause.EXITED and not handoff.leaving:
        return replace(_without_successor(handoff), outcome=Outcome.REPORTED)
    if handoff.successor in (Successor.WANTED, Successor.UNSURE):
        return handoff
    followed = handoff.successor is Successor.KNOWN
    return replace(handoff, outcome=Outcome.FOLLOWED if followed else Outcome.REPORTED)


def _without_successor(handoff: Handoff) -> Handoff:
    """The facts once the successor that is known is cancelled."""
    return _came_to_nothing(handoff) if handoff.successor is Successor.KNOWN else handoff


def _actions(before: Handoff, now: Handoff, event: Event) -> list[Action]:
    actions: list[Action] = []
    if now.writing is Writing.ASKED and before.writing is Writing.NO:
        actions.append(AskToWriteDown())
    begun = before.successor is not Successor.WANTED or now.tries > before.tries
    if now.successor is Successor.WANTED and begun:
        actions.append(Submit(now.tries + 1))
    if now.successor is Successor.UNSURE and before.successor is not Successor.UNSURE:
        actions.append(Find())
    if now.leaving and not before.leaving:
        actions.append(Leave())
    if before.wanted and not now.wanted:
        actions.append(Cancel(None))
    elif isinstance(event, Submitted) and event.job not in (now.job, now.successor_job):
        actions.append(Cancel(event.job))
    if now.outcome is not before.outcome:
        actions += _outcome(before, now)
    return actions


def _outcome(before: Handoff, now: Handoff) -> list[Action]:
    assert now.ended is not None
    if now.outcome is Outcome.REPORTED:
        unneeded = [Cancel(before.successor_job)] if now.wanted and before.successor is Successor.KNOWN else []
        return [*unneeded, Report(Cause.CANCELLED if now.called_off else now.ended)]
    assert now.successor_job is not None
    # Requeued, it would run as well as its successor, one after the other, on one conversation.
    returns = [Cancel(now.job)] if now.ended is Cause.REQUEUED else []
    return [*returns, Follow(now.successor_job)]
