"""An agent's SLURM job as files: the batch script, the environment, and how to start the program. Pure but for one
file of the package, the script's body (slurm_job.sh), where the shape of a job and of its folder is told.

What a person or a model wrote (a prompt, an argument, a path, a variable) is carried literally: quoted by `shlex`
into files that a shell reads, escaped for `sbatch` in the options, and never part of a command line of `sbatch`. The
environment stands in a 0600 file and nowhere else. The same script is submitted again for the successor.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet.errors import LaunchError
from fleet.manifests.model import Command, Slurm
from fleet.runtimes import launches, tmux
from fleet.runtimes.lease import Times
from fleet.settings import Settings
from fleet.terms import File, LaunchPlan

BODY = Path(__file__).with_name("slurm_job.sh")
SIGNAL_NEEDS = 120
"""Seconds of limit beyond the lead that the warning signal needs: the controller looks only every 30 s, and a signal
that comes before the script is up is lost."""
SUBMIT = ("sbatch", "--parsable", "--dependency=singleton")
"""Submits a script; no two jobs of one name run at a time."""
BARE = (
    "sh",
    "-c",
    'exec env -i PATH="$PATH" HOME="$HOME" USER="$USER" ${SLURM_CONF:+SLURM_CONF="$SLURM_CONF"} "$@"',
    "fleet-submit",
)
"""Leads a command into an environment in which nothing stands but where programs and the cluster are."""
TEST = "sbatch --test-only; status=$?; sinfo --noheader --format='%P|%l' 2>/dev/null; exit $status"
"""A line of sh that asks whether the controller would take the script on its stdin, and prints the partitions' limits:
a job over its partition's limit is taken, and never starts."""
PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The names and places of an agent's job. All paths are absolute and seen by every node."""

    agent: str
    generation: str
    folder: str
    """The launch's folder (`Handle.folder`)."""
    wanted: str
    """The file that names the generation that a person wants up."""
    leases: str
    """The agent's folder of leases: one for all of its launches."""
    launcher: str
    lease: str
    """Where launcher.sh and lease.sh stand over there."""
    home: str
    times: Times = field(default_factory=Times)
    settings: Settings = field(default_factory=Settings)
    """What the tmux in the job is to keep."""
    requeue: bool = True
    """Whether SLURM may start it again by itself after a preemption or a lost node."""

    @property
    def name(self) -> str:
        """Its successors bear it too, and nobody else: they are found, and follow each other, by it."""
        return f"fleet-{self.generation}"

    @property
    def script(self) -> str:
        return f"{self.folder}/job"


def seconds(time_limit: str) -> int:
    """A time as SLURM writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    days, dash, rest = time_limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, secs = [*parts, 0, 0][:3]
    else:
        hours, minutes, secs = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs


def lead(slurm: Slurm) -> int:
    """Seconds before its end at which the job prepares its successor: never more than half of its time, lest a short
    job do nothing else."""
    return min(slurm.signal_before, max(seconds(slurm.time_limit) // 2, 30))


def warnings(slurm: Slurm) -> list[str]:
    """What of the section will not be as written, in words."""
    limit = seconds(slurm.time_limit)
    if limit >= slurm.signal_before + SIGNAL_NEEDS:
        return []
    return [
        f"slurm.time_limit is {limit} s: with signal_before {slurm.signal_before} SLURM's own warning may be lost; "
        f"the job prepares its successor {lead(slurm)} s before its end by its own clock"
    ]


def over_limit(slurm: Slurm, partitions: str) -> str | None:
    """What is wrong with the time limit, as what `TEST` printed has it; `None` where nothing is known to be."""
    if any(re.match(r"--?(time|t|partition|p)\b", directive) for directive in slurm.extra_directives):
        return None  # the section does not say all of it
    listed = [line.strip().rpartition("|")[::2] for line in partitions.splitlines() if "|" in line]
    limits = {name.removesuffix("*"): limit for name, limit in listed}
    default = [name.removesuffix("*") for name, _ in listed if name.endswith("*")]
    wanted = slurm.partition.split(",") if slurm.partition else default
    allowed = {name: _most(limits[name]) for name in wanted if name in limits}
    if not allowed or seconds(slurm.time_limit) <= max(allowed.values()):
        return None
    told = ", ".join(f"{limits[name]} in {name}" for name in allowed)
    return f"time_limit {slurm.time_limit} is over the partition's ({told}): it would wait for ever, PartitionTimeLimit"


def _most(limit: str) -> float:
    return seconds(limit) if limit[:1].isdigit() else math.inf  # "infinite", "n/a"


def files(job: Job, slurm: Slurm, first: LaunchPlan, again: LaunchPlan | None) -> tuple[File, ...]:
    """All that must stand in the job's folder before it is submitted. `again`: how a later run goes on with the
    conversation; without it a job that SLURM starts again starts nothing."""
    starts = [File(f"{job.folder}/first", _start(job, first))]
    if again is not None:
        starts.append(File(f"{job.folder}/again", _start(job, again)))
    return (
        *first.files,
        File(f"{job.folder}/env", launches.quote_env(first.env)),
        *starts,
        File(job.wanted, f"{job.generation}\n".encode()),
        File(job.script, script(job, slurm, first).encode()),
    )


def script(job: Job, slurm: Slurm, plan: LaunchPlan) -> str:
    """The batch script. It says nothing of the environment, the program or its arguments."""
    return "\n".join(
        [*_head(job, slurm), "", *TRAPS, "", *_values(job, slurm, plan), "", BODY.read_text().partition("\n")[2]]
    )


def submit_argv(job: Job) -> list[str]:
    """The command that submits it; it prints the job's id (`id` or `id;cluster`).

    The job gets all of a bare environment: any other word than ALL to `--export` has its node run a login shell.
    """
    return [*BARE, *SUBMIT, job.script]


def test_argv(job: Job) -> list[str]:
    """The command by which the controller says whether it would take the job; nothing is submitted."""
    return [*BARE, "sbatch", "--test-only", job.script]


def attach_argv(job_id: str, socket: str, agent: str) -> list[str]:
    """The command that opens the agent's pane in a terminal, from where `srun` is."""
    return [
        "srun", f"--jobid={job_id}", "--overlap", "--pty",
        "tmux", "-u", "-S", socket, "attach-session", "-t", f"={agent}",
    ]  # fmt: skip


# -- the script's parts ---------------------------------------------------------------------------------------------


def _head(job: Job, slurm: Slurm) -> list[str]:
    logs = f"{expand(slurm.logs_dir, job.home)}" if slurm.logs_dir else job.folder.replace("%", "%%")
    requeue = "#SBATCH --requeue" if job.requeue else "#SBATCH --no-requeue"
    return [*head(slurm, job.name, job.folder, logs), requeue]


def head(slurm: Slurm, name: str, folder: str, logs: str) -> list[str]:
    """The options of a job: what a manifest asks for, and then what is ours to say."""
    wishes = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "gres": slurm.gres,
        "nodes": slurm.nodes,
        "cpus-per-task": slurm.cpus_per_task,
        "mem": slurm.mem,
        "time": slurm.time_limit,
    }
    ours = {
        "job-name": name,
        "output": f"{logs}/{name}.%j.out",
        "chdir": folder,
        "export": "ALL",
        "signal": f"B:USR1@{lead(slurm)}",
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{name}={escaped(str(value))}" for name, value in wishes.items() if value is not None]
    lines += [f"#SBATCH {line}" for line in slurm.extra_directives]
    lines += [f"#SBATCH --{name}={escaped(value)}" for name, value in ours.items()]
    return ["#!/bin/bash", *lines]


TRAPS = (
    "ended='' walltime=''",
    "trap 'ended=term' TERM",
    "trap 'walltime=${walltime:-signal}' USR1",
    "trap : HUP INT",
    "umask 077",
)
"""The first that a script does: a signal that comes before its trap stands is lost."""


def _values(job: Job, slurm: Slurm, plan: LaunchPlan) -> list[str]:
    values: dict[str, object] = {
        "HOME": job.home,
        "agent": job.agent,
        "generation": job.generation,
        "folder": job.folder,
        "wanted": job.wanted,
        "leases": job.leases,
        "lease": job.lease,
        "every": job.times.every,
        "ttl": job.times.ttl,
        "grace": job.times.grace,
        "width": plan.width,
        "height": plan.height,
        "term": tmux.TERM,
        "limit": seconds(slurm.time_limit),
        "before": lead(slurm),
        "auto_resubmit": "1" if slurm.auto_resubmit else "",
        "pre_agent_within": f"{sum(hook.timeout for hook in slurm.hooks.pre_agent) or 60:g}",
        "pre_agent": "\n".join(_in_this_shell(hook) for hook in slurm.hooks.pre_agent) or ":",
    }
    lines = [f"{name}={shlex.quote(str(value))}" for name, value in values.items()]
    start = tmux.start_argv("", job.settings)
    return [
        *lines,
        f"tmux_start=({shlex.join(start[start.index('start-server') :])})",
        *_hooks("walltime_hooks", slurm.hooks.walltime_signal),
        *_hooks("post_agent_hooks", slurm.hooks.post_agent),
    ]


def _in_this_shell(hook: Command) -> str:
    """A `pre_agent` hook: a line is read by the shell whose environment the agent gets, so that it can load modules."""
    run = f"eval {shlex.quote(hook.sh)}" if hook.sh else _timed(hook)
    return f"{run} || exit"


def _timed(hook: Command) -> str:
    return f"timeout -k 5 {hook.timeout:g} {words(hook.words)}"


def _hooks(name: str, hooks: Iterable[Command]) -> list[str]:
    """A function that runs the hooks one after the other; one that fails is told and stops nothing."""
    lines = [f"{name}() {{", "    :"]
    for number, hook in enumerate(hooks, 1):
        lines.append(f"    {_timed(hook)} &")
        lines.append(f'    attend "$!" || echo "fleet: {name} {number} failed with status $?" >&2')
    return [*lines, "}"]


def _start(job: Job, plan: LaunchPlan) -> bytes:
    """The file by which a pane starts the launcher; the run's folder is its argument."""
    line = shlex.join(["exec", "env", "-i", "/bin/sh", job.launcher])
    return f'{line} "$1" {shlex.join([plan.cwd, *plan.argv])}\n'.encode()


# -- quoting --------------------------------------------------------------------------------------------------------


def words(argv: Sequence[str]) -> str:
    """A command for a shell, every word literal; only a leading `~/` is the home."""
    return " ".join(f'"$HOME"{shlex.quote(word[1:])}' if word.startswith("~/") else shlex.quote(word) for word in argv)


def expand(path: str, home: str) -> str:
    return home + path[1:] if path == "~" or path.startswith("~/") else path


def escaped(value: str) -> str:
    """A value for an `#SBATCH` line: between double quotes a backslash takes the next character as it is."""
    if not value.isprintable():
        raise LaunchError(f"{value!r} cannot be an option of sbatch: it holds a character that no line can")
    if PLAIN.fullmatch(value):
        return value
    return '"' + "".join(f"\\{c}" if c in '"\\' else c for c in value) + '"'
