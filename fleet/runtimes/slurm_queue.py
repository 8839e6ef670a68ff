"""What a cluster says of jobs: one question for all of them, its answer as plain facts, and when to ask again. Pure.

One `squeue` for all jobs of a cluster, with those that ended a short while ago; of what it no longer lists `sacct`
knows more, where there is accounting. Times are asked for as seconds since the epoch, so that no time zone matters.
A controller that does not answer says nothing about jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

ENVIRONMENT = {"SLURM_TIME_FORMAT": "%s"}
"""What the commands below need in their environment."""
FIELDS = "%i|%T|%V|%S|%e|%N|%j|%r"
"""squeue: id, state, submitted, start (of a waiting job: the estimate), end, nodes, name, reason."""
ACCOUNTED = "JobIDRaw,State,ExitCode,Submit,Start,End,NodeList,JobName"


class Standing(StrEnum):
    """Where a job stands, as far as its agent is concerned."""

    WAITING = "waiting"
    """No process of it runs; it may start, now or later, also again (requeued)."""
    RUNNING = "running"
    """Its processes run, or may."""
    ENDED = "ended"
    """It will not start again, and its processes are gone or are being ended."""
    UNKNOWN = "unknown"
    """A state that this version does not know: nothing follows from it."""


class Cause(StrEnum):
    """Why a job is no longer what it was: each is its own in the restart policy."""

    EXITED = "exited"
    """Its script came to its end by itself."""
    CANCELLED = "cancelled"
    """Somebody cancelled it."""
    TIMEOUT = "timeout"
    """It was ended at its limit."""
    PREEMPTED = "preempted"
    """It had to make room for another, and does not come back by itself."""
    NODE_FAIL = "node_fail"
    """Its node was lost. Its processes may live there still."""
    REQUEUED = "requeued"
    """It was ended and waits again, under the same id."""
    OUT_OF_MEMORY = "out_of_memory"
    NOT_LAUNCHED = "not_launched"
    """It could not be started at all."""
    FORGOTTEN = "forgotten"
    """The cluster does not know it any more, and nothing says how it ended."""


STATES: Mapping[str, tuple[Standing, Cause | None]] = {
    "PENDING": (Standing.WAITING, None),
    "CONFIGURING": (Standing.WAITING, None),
    "RESV_DEL_HOLD": (Standing.WAITING, None),
    "SPECIAL_EXIT": (Standing.WAITING, Cause.REQUEUED),
    "REQUEUED": (Standing.WAITING, Cause.REQUEUED),
    "REQUEUE_FED": (Standing.WAITING, Cause.REQUEUED),
    "REQUEUE_HOLD": (Standing.WAITING, Cause.REQUEUED),
    "RUNNING": (Standing.RUNNING, None),
    "COMPLETING": (Standing.RUNNING, None),
    "RESIZING": (Standing.RUNNING, None),
    "SIGNALING": (Standing.RUNNING, None),
    "STAGE_OUT": (Standing.RUNNING, None),
    "STOPPED": (Standing.RUNNING, None),
    "SUSPENDED": (Standing.RUNNING, None),
    "COMPLETED": (Standing.ENDED, Cause.EXITED),
    "FAILED": (Standing.ENDED, Cause.EXITED),
    "CANCELLED": (Standing.ENDED, Cause.CANCELLED),
    "REVOKED": (Standing.ENDED, Cause.CANCELLED),
    "TIMEOUT": (Standing.ENDED, Cause.TIMEOUT),
    "DEADLINE": (Standing.ENDED, Cause.TIMEOUT),
    "PREEMPTED": (Standing.ENDED, Cause.PREEMPTED),
    "NODE_FAIL": (Standing.ENDED, Cause.NODE_FAIL),
    "OUT_OF_MEMORY": (Standing.ENDED, Cause.OUT_OF_MEMORY),
    "BOOT_FAIL": (Standing.ENDED, Cause.NOT_LAUNCHED),
}
"""Every state that squeue and sacct print."""
NO_REASON = {"", "None", "(null)"}
NO_TIME = {"", "N/A", "NONE", "None", "Unknown", "(null)", "0"}
HELD: Mapping[str, str] = {
    "JobHeldUser": "it is held; `scontrol release {id}` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "JobHoldMaxRequeue": "it was requeued too often and is held; `scontrol release {id}` lets it go",
    "job requeued in held state": "it was put back and is held; `scontrol release {id}` lets it go",
    "launch failed requeued held": "its start failed on a node and it is held; `scontrol release {id}` lets it go",
    "PartitionTimeLimit": "its time_limit is over what the partition allows: as it is, it never starts",
    "PartitionNodeLimit": "it asks for other nodes than the partition gives: as it is, it never starts",
    "AssocMaxWallDurationPerJobLimit": "its time_limit is over what the account allows: as it is, it never starts",
    "QOSMaxWallDurationPerJobLimit": "its time_limit is over what the QOS allows: as it is, it never starts",
    "AccountNotAllowed": "the partition does not take jobs of this account",
    "QOSNotAllowed": "the partition does not take jobs of this QOS",
    "InvalidAccount": "there is no such account, or not for this user",
    "InvalidQOS": "there is no such QOS, or not for this account",
    "BadConstraints": "no node is as it asks for: as it is, it never starts",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
}
"""Reasons by which a job waits until a person acts, and what that is about. Other reasons pass by themselves. Those of
several words are SLURM's own sentence, in which some of its versions write underscores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job, as it was told."""

    id: str
    name: str
    state: str
    """SLURM's own word."""
    standing: Standing
    cause: Cause | None = None
    reason: str | None = None
    """Why it waits, in SLURM's own word."""
    submitted: float | None = None
    start: float | None = None
    """When it started; of one that waits, when the controller thinks that it will."""
    end: float | None = None
    """When it ended, or its limit is reached."""
    nodes: str = ""
    exit_status: int | None = None
    """128 + the signal for a signal; only accounting tells it."""

    @property
    def held(self) -> bool:
        """Whether it waits for a person."""
        return self.standing is Standing.WAITING and _held(self.reason) is not None


# -- asking -----------------------------------------------------------------------------------------------------------


def queue_argv(user: str) -> list[str]:
    """The one question for all jobs of a user."""
    return ["squeue", "--noheader", "--array", f"--user={user}", "--states=all", f"--format={FIELDS}"]


def accounting_argv(ids: Iterable[str]) -> list[str]:
    """The question about jobs that squeue no longer lists."""
    return [
        "sacct", "--noheader", "--parsable2", "--allocations",
        f"--jobs={','.join(ids)}", f"--format={ACCOUNTED}",
    ]  # fmt: skip


def jobs(text: str) -> list[Job]:
    """squeue's answer, in its order. A line that is none of its form is left out: it is a warning among them."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", 7)]
        if len(fields) == 8 and fields[0]:
            id_, state, submitted, start, end, nodes, name, reason = fields
            found.append(_job(id_, state, submitted, start, end, nodes, name, reason=reason))
    return found


def accounted(text: str) -> list[Job]:
    """sacct's answer. A job that was requeued is there once per run, oldest first."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", 7)]
        if len(fields) == 8 and fields[0]:
            id_, state, code, submitted, start, end, nodes, name = fields
            job = _job(id_, state, submitted, start, end, nodes, name)
            found.append(replace(job, exit_status=_status(code) if job.standing is Standing.ENDED else None))
    return found


def named(found: Iterable[Job], name: str) -> list[Job]:
    """The jobs of that name that can still run or do: a launch's job and its successors, oldest first."""
    live = [job for job in found if job.name == name and job.standing in (Standing.WAITING, Standing.RUNNING)]
    return sorted(live, key=lambda job: (job.submitted or 0.0, len(job.id), job.id))


def submitted(stdout: str) -> str | None:
    """The id in the answer of `sbatch --parsable`; what else was printed stands before it."""
    last = stdout.strip().rpartition("\n")[2].split(";", 1)[0].strip()
    return last if last.isascii() and last.isdigit() else None


def change(before: Job | None, after: Job | None) -> Cause | None:
    """Why a job that ran, or was to run, does so no longer; `None`: it does, or nobody can tell.

    Not being listed tells nothing: the list forgets what ended some minutes ago.
    """
    if after is None or after.standing is Standing.UNKNOWN:
        return None
    if after.standing is Standing.ENDED:
        return after.cause
    ran = before is not None and before.standing is Standing.RUNNING
    return Cause.REQUEUED if ran and after.standing is Standing.WAITING else after.cause


def _job(id_: str, state: str, submitted: str, start: str, end: str, nodes: str, name: str, *, reason: str = "") -> Job:
    word = state.split()[0].rstrip("+") if state.split() else ""  # "CANCELLED by 1000", and cut short "CANCELLED+"
    standing, cause = STATES.get(word, (Standing.UNKNOWN, None))
    return Job(
        id=id_,
        name=name,
        state=word,
        standing=standing,
        cause=cause,
        reason=None if reason in NO_REASON else reason,
        submitted=_time(submitted),
        start=_time(start),
        end=_time(end),
        nodes="" if nodes in ("(null)", "None assigned") else nodes,
    )


def _time(word: str) -> float | None:
    """Seconds since the epoch; a cluster that does not know the format answers in this machine's time zone."""
    if word in NO_TIME:
        return None
    if word.isascii() and word.isdigit():
        return float(word)
    try:
        return datetime.fromisoformat(word).timestamp()
    except ValueError:
        return None


def _status(code: str) -> int | None:
    """`STATUS:SIGNAL`."""
    status, colon, signal = code.partition(":")
    if not (colon and status.isdigit() and signal.isdigit()):
        return None
    return 128 + int(signal) if int(signal) else int(status)


# -- when to ask ------------------------------------------------------------------------------------------------------

FASTEST = 10.0
"""Seconds: no cluster is asked more often, whatever the settings say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a cluster is asked. Seconds."""

    interval: float = 15.0
    slowest: float = 300.0
    share: float = 0.05
    """The part of the time that the controller may be busy with us: after a slow answer the next question waits."""
    timeout: float = 30.0
    """A controller that is gone blocks squeue for 20 s."""
    fastest: float = FASTEST
    """What no setting goes below. Less is for a cluster of one's own, in tests."""

    def __post_init__(self) -> None:
        if self.interval < self.fastest:
            raise ValueError(f"a cluster is asked at most every {self.fastest:g} s, not every {self.interval:g} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """One cluster's questions: at most one at a time."""

    due: float = 0.0
    asked_at: float | None = None
    """The question that is out."""
    failures: int = 0
    """In a row."""
    answered_at: float | None = None

    def may_ask(self, now: float) -> bool:
        return self.asked_at is None and now >= self.due


def asked(poll: Poll, now: float) -> Poll:
    if poll.asked_at is not None:
        raise ValueError("the cluster has not answered yet")
    return replace(poll, asked_at=now)


def answered(poll: Poll, now: float, pace: Pace) -> Poll:
    """It has answered; the next question waits from now on, longer where this one took long."""
    took = max(0.0, now - (poll.asked_at if poll.asked_at is not None else now))
    wait = min(max(pace.interval, took / pace.share), pace.slowest)
    return Poll(due=now + wait, answered_at=now)


def unanswered(poll: Poll, now: float, pace: Pace) -> Poll:
    """It has not, or with an error: ask ever less often."""
    failures = poll.failures + 1
    wait = min(pace.interval * 2.0 ** min(failures, 30), pace.slowest)
    return replace(poll, due=now + wait, asked_at=None, failures=failures)


def back(poll: Poll, now: float, pace: Pace) -> Poll:
    """The way to it carries again: what failed meanwhile says nothing of the controller."""
    earliest = now if poll.answered_at is None else poll.answered_at + pace.fastest
    return replace(poll, due=max(now, earliest), failures=0)


def sooner(poll: Poll, now: float, pace: Pace) -> Poll:
    """Something is known to have happened (a job was submitted): ask as soon as manners allow."""
    if poll.failures:
        return poll
    earliest = (poll.answered_at or now - pace.fastest) + pace.fastest
    return replace(poll, due=min(poll.due, max(now, earliest)))


def summary(job: Job, now: float) -> str:
    """Why an agent is not there yet, as a clause for a person."""
    if job.standing is not Standing.WAITING:
        return f"job {job.id} is {job.state.lower()}{f' on {job.nodes}' if job.nodes else ''}"
    why = f" ({job.reason})" if job.reason else ""
    if (about := _held(job.reason)) is not None:
        return f"job {job.id} waits{why}: {about.format(id=job.id)}"
    if job.start is None:
        return f"job {job.id} waits{why}"
    return f"job {job.id} waits{why}, estimated to start in {_duration(max(0.0, job.start - now))}"


def _held(reason: str | None) -> str | None:
    return HELD.get((reason or "").replace("_", " "))


def _duration(seconds: float) -> str:
    units: Sequence[tuple[str, int]] = (("d", 86400), ("h", 3600), ("min", 60))
    for unit, length in units:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
