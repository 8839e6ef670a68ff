"""What a job's runs have noted, and what follows from it."""

from __future__ import annotations

import pytest

from fleet.runtimes import handoff as handing
from fleet.runtimes import slurm_runs
from fleet.runtimes.handoff import Handoff, Outcome, Successor
from fleet.runtimes.slurm_queue import Cause
from fleet.runtimes.slurm_runs import Run

SAID = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-22T00:18:58"


def after(known: Handoff, run: Run, *more: handing.Event) -> Handoff:
    """The facts once the notes are taken in, and then the queue's word."""
    for event in [*slurm_runs.events(known, run), *more]:
        known, _ = handing.step(known, event)
    return known


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (f"{SAID} ***", Cause.CANCELLED),
        (f"{SAID} DUE TO TIME LIMIT ***", Cause.TIMEOUT),
        (f"{SAID} DUE TO PREEMPTION ***", Cause.PREEMPTED),
        (f"{SAID} DUE TO JOB REQUEUE ***", Cause.REQUEUED),
        (f"{SAID} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***", Cause.NODE_FAIL),
        ("", None),
    ],
)
def test_slurms_word_to_a_job_tells_why_it_was_to_end(said: str, cause: Cause | None) -> None:
    assert Run(1, {"told": said}).told is cause
    assert Run(1).told is None


def test_a_job_that_did_all_by_itself_is_followed_and_its_agent_is_not_asked_any_more() -> None:
    run = Run(1, {"job": "7 0 n1", "walltime": "deadline 5", "successor": "8", "ended": "walltime"})
    known = after(Handoff(job="7"), run)
    assert (known.outcome, known.successor_job, known.writing) == (Outcome.FOLLOWED, "8", handing.Writing.NO)


def test_a_job_that_was_ended_at_its_limit_keeps_the_successor_that_it_has() -> None:
    run = Run(1, {"job": "7 0 n1", "walltime": "signal 5", "successor": "8", "ended": "told"})
    known = after(Handoff(job="7"), run, handing.Ended(Cause.TIMEOUT))
    assert (known.outcome, known.successor_job) == (Outcome.FOLLOWED, "8")


def test_a_job_that_was_ended_before_its_time_has_taken_its_successor_back() -> None:
    notes = {"job": "7 0 n1", "walltime": "signal 5", "successor": "8"}
    known = after(Handoff(job="7"), Run(1, notes))
    assert known.successor is Successor.KNOWN
    known = after(known, Run(1, {**notes, "withdrawn": "8", "ended": "told"}), handing.Ended(Cause.PREEMPTED))
    assert (known.outcome, known.successor_job) == (Outcome.REPORTED, None)
