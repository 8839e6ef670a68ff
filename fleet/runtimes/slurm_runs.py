"""What a job's runs have noted in their launch's folder, and what that means for the hand-off. Pure.

slurm_job.sh tells what stands in a run's folder. A note is written once and whole, so one that was read needs no
second look.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from fleet import processes
from fleet.runtimes import handoff as handing
from fleet.runtimes.handoff import Handoff
from fleet.runtimes.slurm_queue import Cause
from fleet.terms import Process

NOTES = (
    "job", "pane", "hub", "launcher", "program", "exit",
    "walltime", "successor", "refused", "withdrawn", "told", "ended",
)  # fmt: skip
OWN_END = ("exited", "multiplexer", "left")
"""Ends that the run came to by itself, or because it was let go."""
UNSAID = ("told", "stopped", "lease")
"""Ends of which the queue knows the cause."""
TOLD = {
    "TIME LIMIT": Cause.TIMEOUT,
    "PREEMPTION": Cause.PREEMPTED,
    "NODE FAILURE": Cause.NODE_FAIL,
    "JOB REQUEUE": Cause.REQUEUED,
}
"""What SLURM writes into a job's output behind "CANCELLED AT … DUE TO"; nothing there: somebody cancelled it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job's script."""

    number: int
    notes: Mapping[str, str] = field(default_factory=dict)
    """What was read so far, by name."""

    @property
    def job(self) -> str | None:
        return self._word("job", 0)

    @property
    def node(self) -> str | None:
        return self._word("job", 2)

    @property
    def socket(self) -> str | None:
        """Its tmux server's, on the node."""
        return self._word("pane", 1)

    @property
    def hub(self) -> str | None:
        """The hub's socket on the node, if its agent speaks to the hub."""
        return self.notes.get("hub")

    @property
    def program(self) -> Process | None:
        return processes.parse(self.notes.get("program", "").encode())

    @property
    def ended(self) -> str | None:
        return self.notes.get("ended")

    @property
    def told(self) -> Cause | None:
        """Why it was told to end, in SLURM's words to the job: for when the queue has forgotten it."""
        words = self.notes.get("told")
        if not words:
            return None
        return next((cause for due, cause in TOLD.items() if f"DUE TO {due}" in words), Cause.CANCELLED)

    @property
    def exit_status(self) -> int | None:
        noted = self.notes.get("exit", "")
        return int(noted) if noted.isdigit() else None

    @property
    def open(self) -> bool:
        """Whether its pane can be looked at."""
        return self.ended is None and self.socket is not None and self.node is not None

    def _word(self, name: str, number: int) -> str | None:
        words = self.notes.get(name, "").split(maxsplit=2)
        return words[number] if len(words) > number else None


def events(known: Handoff, run: Run) -> list[handing.Event]:
    """What the present run's notes tell that is not known yet."""
    notes = run.notes
    told: list[handing.Event] = []
    if "walltime" in notes and not known.signalled and run.ended is None:
        told.append(handing.Signalled())
    if (successor := notes.get("successor")) and "withdrawn" not in notes and known.successor_job != successor:
        told.append(handing.Submitted(successor))
    if "refused" in notes and known.tries == 0 and known.successor is handing.Successor.WANTED:
        told.append(handing.Refused())
    if run.ended is None or known.ended is not None:
        return told
    if run.ended in OWN_END:
        told.append(handing.Ended(Cause.EXITED))
    elif run.ended == "walltime":
        told.append(handing.Ended(Cause.TIMEOUT))
    elif run.ended == "told":
        taken_back = "withdrawn" in notes or "successor" not in notes  # not at its limit: there the successor goes on
        told += [handing.Told()] if taken_back and not known.told else []
    elif run.ended not in UNSAID:
        told.append(handing.Ended(Cause.NOT_LAUNCHED))
    return told


def to_json(known: Handoff) -> bytes:
    return json.dumps(asdict(known)).encode() + b"\n"


def from_json(content: bytes) -> Handoff:
    stored = json.loads(content)
    stored["writing"] = handing.Writing(stored["writing"])
    stored["successor"] = handing.Successor(stored["successor"])
    stored["ended"] = Cause(stored["ended"]) if stored["ended"] else None
    stored["outcome"] = handing.Outcome(stored["outcome"]) if stored["outcome"] else None
    return Handoff(**stored)
