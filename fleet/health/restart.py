"""Whether a dead agent comes back, and when. Pure: time and chance come in as arguments.

One budget per agent. Starts that fail and deaths after a start are counted apart, because they ask for different
patience: a start that fails is tried again a few times, a while apart; a run that dies is first brought back at
once, then ever more slowly, and parked when it keeps dying. What was nobody's fault (a host or a multiplexer that
went away) costs nothing. Whoever stays down does so with a reason a person can read.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal


class Cause(StrEnum):
    """Why an agent died, as far as it is known."""

    CRASH = "crash"
    """Nothing better is known: the exit status decides."""
    AUTH = "auth"
    """The program could not authenticate."""
    LIMIT = "limit"
    """It ended at a usage limit."""
    UNRECOVERABLE = "unrecoverable"
    """The same launch can only fail again: a bad flag, a missing program."""
    MULTIPLEXER = "multiplexer"
    """The multiplexer's server went away, and the agent with it."""
    HOST = "host"
    """The host could not be read for a while; when it could again, nothing lived and nobody could say why."""
    PREEMPTED = "preempted"
    """Its SLURM job had to make room for another."""
    REQUEUED = "requeued"
    """Its SLURM job was put back into the queue."""
    NODE_FAIL = "node_fail"
    """The node of its SLURM job was lost."""
    TIMEOUT = "timeout"
    """Its SLURM job reached its time limit, and no other follows it."""
    CANCELLED = "cancelled"
    """Somebody cancelled its SLURM job."""
    OUT_OF_MEMORY = "out_of_memory"
    """Its SLURM job took more memory than it had asked for."""
    NOT_LAUNCHED = "not_launched"
    """Its SLURM job could not start the program."""


NOBODYS_FAULT = {
    Cause.MULTIPLEXER: "MultiplexerLost",
    Cause.HOST: "HostLost",
    Cause.PREEMPTED: "Preempted",
    Cause.REQUEUED: "Requeued",
    Cause.NODE_FAIL: "NodeFailed",
}
"""Causes that charge no budget, with the reason they are shown under. Those who come back for one of these
reasons are many at a time: the start ramp lets them go, not the bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules for one agent: its manifest's `restart`, and the fleet's settings. Seconds."""

    policy: Literal["never", "on-failure", "always"] = "on-failure"
    max_retries: int = 5
    """The death within the window that parks it; 0: never."""
    window: float = 900.0
    reset_after: float = 600.0
    """Started for so long, all is forgiven."""
    backoff_initial: float = 10.0
    backoff_max: float = 300.0
    multiplier: float = 2.0
    success_exit_codes: tuple[int, ...] = (0,)
    never_exit_codes: tuple[int, ...] = ()
    """An exit with one of these is not followed by a restart, whatever the policy."""
    auto_resume: bool = False
    """Whether it comes back by itself once a usage limit has ended."""
    start_backoff: tuple[float, ...] = (5.0, 15.0, 45.0)
    """The waits after failed starts; one more failure than there are waits parks it."""
    backoff_jitter: float = 0.2
    """The wait after a run's death is up to this part longer or shorter."""
    limit_jitter: tuple[float, float] = (60.0, 300.0)
    """The wait after a usage limit's end: between these."""
    jitter: float = 0.0
    """This call's chance, drawn by the caller, in [-1, 1]: where within those bounds its waits fall."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What an agent has used up. A person's act clears it, and so does a long enough run."""

    deaths: tuple[float, ...] = ()
    """When it died after having started, within the window."""
    start_failures: int = 0
    """Failed starts in a row."""
    auth_failures: int = 0
    renewed: bool = False
    """It has had the one fresh conversation that a resume gets which dies at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """What is known of one death."""

    exit_status: int | None
    """128 + the signal for a signal; `None` where nobody could say: that counts as a failure."""
    cause: Cause = Cause.CRASH
    started_at: float | None = None
    """When this launch had started; `None`: it never had, so this is a failed start."""
    resumed_within: bool = False
    """It had resumed a conversation and died within the guard time."""
    resets_at: float | None = None
    """When the usage limit ends."""
    words: str | None = None
    """What the program said of it, where that is known."""

    @property
    def manner(self) -> str:
        """How it ended, as the words after "it"."""
        how = manner(self.exit_status)
        return f"{how} ({self.words.rstrip('.')})" if self.words else how


@dataclass(frozen=True, slots=True)
class ComeBack:
    """It is launched again, not before `at`."""

    at: float
    reason: str
    message: str
    fresh: bool = False
    """With a new conversation."""


@dataclass(frozen=True, slots=True)
class StayDown:
    """It is not launched again until a person says so."""

    failed: bool
    """Fleet gave up on it; otherwise it ended by itself and its policy leaves it at that."""
    reason: str
    message: str


Decision = ComeBack | StayDown

ENDED_FROM_OUTSIDE = {None, *(128 + s for s in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL))}
"""Exit statuses that say nothing against the conversation that was resumed: somebody else ended the program."""


def after_death(death: Death, budget: Budget, now: float, policy: Policy) -> tuple[Budget, Decision]:
    """What becomes of an agent that died, and what that leaves of its budget."""
    if death.started_at is not None and now - death.started_at >= policy.reset_after:
        budget = Budget()
    how = death.manner
    if death.cause is Cause.UNRECOVERABLE:
        return budget, StayDown(True, "Unrecoverable", f"It {how}; the same launch could only fail again.")
    if death.cause in _ITS_JOB:
        return budget, _after_its_job(death)
    if death.cause in NOBODYS_FAULT:
        return budget, _after_loss(death.cause, now, policy)
    if (end := _left_alone(death, policy)) is not None:
        return budget, end
    if death.cause is Cause.LIMIT:
        return budget, _after_limit(death.resets_at, now, policy)
    if death.cause is Cause.AUTH:
        budget = replace(budget, auth_failures=budget.auth_failures + 1)
        if budget.auth_failures > 1:
            return budget, StayDown(True, "AuthFailed", "It could not authenticate, twice. Log in, then start it.")
    elif _resume_failed(death, policy) and not budget.renewed:
        message = f"It {how} right after resuming its conversation; it gets a new one, once."
        return replace(budget, renewed=True), ComeBack(now, "ResumeFailed", message, fresh=True)
    if death.started_at is None:
        return after_failed_start(failed_start(budget), now, policy, _reason(death), f"it {how} before it had started")
    return _after_run(death, budget, now, policy)


def failed_start(budget: Budget) -> Budget:
    """The budget with one more failed start on it."""
    return replace(budget, start_failures=budget.start_failures + 1)


def after_failed_start(budget: Budget, now: float, policy: Policy, reason: str, why: str) -> tuple[Budget, Decision]:
    """What becomes of an agent whose start failed; the failure is on the budget already. `why` is a clause."""
    count = budget.start_failures
    if policy.policy == "never":
        return budget, StayDown(True, "StartFailed", f"The start failed: {why}. Its policy is never to try again.")
    if count > len(policy.start_backoff):
        return budget, StayDown(True, "StartFailed", f"{_times(count, 'start')} failed in a row; last, {why}.")
    wait = policy.start_backoff[count - 1] if count else 0.0
    return budget, ComeBack(now + wait, reason, f"The start failed: {why}. It is tried again after {wait:g} s.")


def backoff(recent: int, policy: Policy) -> float:
    """How long to wait after the death that is number `recent` in the window: none, then ever longer."""
    if recent <= 1:
        return 0.0
    wait = min(policy.backoff_initial, policy.backoff_max)
    for _ in range(recent - 2):
        longer = min(wait * policy.multiplier, policy.backoff_max)
        if longer == wait:
            break
        wait = longer
    return wait * (1.0 + policy.backoff_jitter * policy.jitter)


def within(deaths: tuple[float, ...], now: float, window: float) -> tuple[float, ...]:
    """The deaths that still count. One from the future (the clock was set back) counts as of now."""
    return tuple(min(died, now) for died in deaths if died > now - window)


def manner(exit_status: int | None) -> str:
    """How it ended, as the words after "it"."""
    if exit_status is None:
        return "died without an exit status"
    if exit_status > 128 and exit_status - 128 in signal.valid_signals():
        return f"was ended by {signal.Signals(exit_status - 128).name} (status {exit_status})"
    return f"exited with status {exit_status}"


_LOST = {
    Cause.MULTIPLEXER: "Its multiplexer went away",
    Cause.HOST: "Its host went away",
    Cause.PREEMPTED: "Its job was preempted",
    Cause.REQUEUED: "Its job was requeued",
    Cause.NODE_FAIL: "Its job's node was lost",
}
_ITS_JOB = {
    Cause.CANCELLED: StayDown(False, "JobCancelled", "Somebody cancelled its job. `fleet start` brings it back."),
    Cause.TIMEOUT: StayDown(True, "TimeLimit", "Its job reached its time limit, and no other follows. Start it anew."),
}
"""Ends of a job that a person, or the manifest, has meant."""


def _after_loss(cause: Cause, now: float, policy: Policy) -> Decision:
    reason, what = NOBODYS_FAULT[cause], _LOST[cause]
    if policy.policy == "never":
        return StayDown(True, reason, f"{what}, and its policy is never to restart it.")
    return ComeBack(now, reason, f"{what}; it comes back in its turn.")


def _after_its_job(death: Death) -> StayDown:
    """With the name of what was cancelled, where that is known: its job, or the booking that it lived in."""
    end = _ITS_JOB[death.cause]
    if death.cause is not Cause.CANCELLED or not death.words:
        return end
    words = death.words.rstrip(".")
    return replace(end, message=f"{words[:1].upper()}{words[1:]}. `fleet start` brings it back.")


def _left_alone(death: Death, policy: Policy) -> StayDown | None:
    """The end of an agent that its own policy does not bring back."""
    clean = death.exit_status in policy.success_exit_codes
    listed = death.exit_status in policy.never_exit_codes
    if not (listed or policy.policy == "never" or (clean and policy.policy == "on-failure")):
        return None
    how = death.manner
    because = "that status is listed as one without a restart" if listed else f"its policy is {policy.policy}"
    if clean:
        return StayDown(False, "ExitedCleanly", f"It {how}, and {because}.")
    if death.started_at is None:
        return StayDown(True, "StartFailed", f"It {how} before it had started, and {because}.")
    return StayDown(False, "Exited", f"It {how}, and {because}.")


def _after_limit(resets_at: float | None, now: float, policy: Policy) -> Decision:
    if not policy.auto_resume:
        return StayDown(True, "UsageLimit", "It ended at a usage limit, and `auto_resume` is off. Start it to go on.")
    if resets_at is None:
        return StayDown(True, "UsageLimit", "It ended at a usage limit that does not say when it ends. Start it then.")
    least, most = policy.limit_jitter
    wait = least + (most - least) * (policy.jitter + 1.0) / 2.0
    return ComeBack(max(now, resets_at) + wait, "UsageLimit", "It waits for its usage limit to end.")


def _resume_failed(death: Death, policy: Policy) -> bool:
    """Whether the program itself gave up on the conversation that it had resumed."""
    own_failure = death.exit_status not in ENDED_FROM_OUTSIDE and death.exit_status not in policy.success_exit_codes
    return death.resumed_within and own_failure


def _after_run(death: Death, budget: Budget, now: float, policy: Policy) -> tuple[Budget, Decision]:
    budget = replace(budget, deaths=(*within(budget.deaths, now, policy.window), now))
    count, how = len(budget.deaths), death.manner
    if policy.max_retries and count >= policy.max_retries:
        message = f"{_times(count, 'death')} within {policy.window:g} s; last, it {how}."
        return budget, StayDown(True, "CrashLoop", message)
    wait = backoff(count, policy)
    when = f"after {wait:.0f} s" if wait else "at once"
    return budget, ComeBack(now + wait, _reason(death), f"It {how}; it comes back {when}.")


def _reason(death: Death) -> str:
    if death.cause is Cause.AUTH:
        return "AuthFailed"
    if death.cause is Cause.OUT_OF_MEMORY:
        return "OutOfMemory"
    return "Crashed" if death.started_at is not None else "StartFailed"


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
