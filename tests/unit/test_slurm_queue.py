"""What squeue and sacct say, as facts, and how often they are asked."""

from __future__ import annotations

import pytest

from fleet.runtimes.slurm_queue import (
    FASTEST,
    STATES,
    Cause,
    Pace,
    Poll,
    Standing,
    accounted,
    answered,
    asked,
    change,
    jobs,
    named,
    sooner,
    submitted,
    summary,
    unanswered,
)

ANSWER = """\
slurm_load_jobs: something on the way
12|PENDING|1795276089|1795279689|1795280000||fleet-web.1.ab|Resources
13|RUNNING|1795276092|1795276092|1795276392|n1|fleet-web.2.ab|None
14|CANCELLED|1795276000|1795276001|1795276002|n2|odd|name|(null)
15|PENDING|1795276000|N/A|N/A||fleet-x|ReqNodeNotAvail, UnavailableNodes:n[1-2]
16|SOMETHING_NEW|1|N/A|N/A||y|None
"""


def test_one_answer_tells_all_jobs() -> None:
    found = jobs(ANSWER)
    assert [job.id for job in found] == ["12", "13", "14", "15", "16"]
    assert found[0].start == 1795279689.0
    assert (found[0].standing, found[0].reason, found[0].cause) == (Standing.WAITING, "Resources", None)
    assert (found[1].standing, found[1].reason, found[1].nodes) == (Standing.RUNNING, None, "n1")
    assert found[2].cause is Cause.CANCELLED
    assert (found[3].start, found[3].reason) == (None, "ReqNodeNotAvail, UnavailableNodes:n[1-2]")


def test_of_a_state_that_nobody_knows_nothing_follows() -> None:
    strange = jobs(ANSWER)[-1]
    assert strange.standing is Standing.UNKNOWN
    assert change(jobs(ANSWER)[1], strange) is None


def test_not_being_listed_is_no_end() -> None:
    assert change(jobs(ANSWER)[1], None) is None


def test_a_job_that_waits_after_it_ran_was_requeued() -> None:
    waiting, running = jobs(ANSWER)[0], jobs(ANSWER)[1]
    assert change(running, waiting) is Cause.REQUEUED
    assert change(None, waiting) is None


def test_every_end_has_a_cause() -> None:
    assert [word for word, (standing, cause) in STATES.items() if standing is Standing.ENDED and cause is None] == []


def test_accounting_tells_who_cancelled_and_the_exit_status() -> None:
    text = "7|CANCELLED by 1000|0:15|1|2|3|n1|a\n8|FAILED|3:0|1|2|3|n1|b\n9|RUNNING|0:0|1|2|Unknown|n1|c\n"
    found = accounted(text)
    assert [(job.state, job.exit_status) for job in found] == [("CANCELLED", 143), ("FAILED", 3), ("RUNNING", None)]


def test_times_in_words_are_understood_where_the_format_is_not_known() -> None:
    assert jobs("1|RUNNING|2026-11-21T15:48:12|Unknown|N/A|n1|a|None")[0].submitted is not None


def test_successors_are_found_by_name_oldest_first() -> None:
    text = "10|PENDING|20|N/A|N/A||a|None\n9|RUNNING|10|10|99|n1|a|None\n"
    text += "8|COMPLETED|5|5|9|n1|a|None\n7|RUNNING|1|1|9|n1|b|None\n"
    assert [job.id for job in named(jobs(text), "a")] == ["9", "10"]


@pytest.mark.parametrize(
    ("said", "job"), [("12\n", "12"), ("12;big\n", "12"), ("a motd\n12", "12"), ("no", None), ("", None)]
)
def test_the_answer_of_sbatch_is_the_last_line(said: str, job: str | None) -> None:
    assert submitted(said) == job


def test_a_waiting_job_says_why_and_until_when() -> None:
    assert summary(jobs(ANSWER)[0], 1795276089) == "job 12 waits (Resources), estimated to start in 60 min"


def test_a_job_that_is_held_waits_for_a_person() -> None:
    (job,) = jobs("7|PENDING|1|N/A|N/A||a|JobHeldUser")
    assert job.held and summary(job, 1.0) == "job 7 waits (JobHeldUser): it is held; `scontrol release 7` lets it go"
    for reason in ("job requeued in held state", "launch failed requeued held", "launch_failed_requeued_held"):
        (job,) = jobs(f"7|PENDING|1|113|N/A||a|{reason}")
        assert job.held and summary(job, 1.0).endswith("held; `scontrol release 7` lets it go"), (
            "not that it will start"
        )


def test_a_job_that_never_starts_as_it_is_says_so() -> None:
    (job,) = jobs("7|PENDING|1|N/A|N/A||a|PartitionTimeLimit")
    assert job.held and summary(job, 1.0).startswith("job 7 waits (PartitionTimeLimit): its time_limit is over what")


# -- the pace ---------------------------------------------------------------------------------------------------------


def test_no_cluster_is_asked_more_often_than_every_ten_seconds() -> None:
    with pytest.raises(ValueError, match="at most every 10 s"):
        Pace(interval=5)
    pace = Pace(interval=FASTEST)
    poll = answered(asked(Poll(), 100.0), 100.1, pace)
    assert not sooner(poll, 101.0, pace).may_ask(109.0)
    assert sooner(poll, 101.0, pace).may_ask(100.1 + FASTEST)


def test_there_is_one_question_at_a_time() -> None:
    poll = asked(Poll(), 1.0)
    assert not poll.may_ask(1e9)
    with pytest.raises(ValueError, match="not answered yet"):
        asked(poll, 2.0)


def test_a_slow_controller_is_asked_less() -> None:
    pace = Pace()
    quick = answered(asked(Poll(), 0.0), 0.1, pace)
    slow = answered(asked(Poll(), 0.0), 6.0, pace)
    assert (quick.due - 0.1, slow.due - 6.0) == (15.0, 120.0)


def test_a_controller_that_does_not_answer_is_asked_ever_less_and_then_as_before() -> None:
    pace, poll, waits, now = Pace(), Poll(), [], 0.0
    for _ in range(7):
        poll = unanswered(asked(poll, now), now, pace)
        waits.append(poll.due - now)
        now = poll.due
    assert waits == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0, 300.0]
    assert not sooner(poll, now - 1, pace).may_ask(now - 1)
    assert answered(asked(poll, now), now, pace).due == now + 15.0
