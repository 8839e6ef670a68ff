"""The words that several rooms share, as types. Pure: nothing here reads a file, a clock or a host.

Times are seconds since the epoch as `float`; durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """Where an agent stands in its life: the supervisor's word."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    FINISHED = "finished"
    """It ended by itself and its policy does not bring it back."""
    FAILED = "failed"
    UNVERIFIABLE = "unverifiable"
    """Its host or multiplexer cannot be read: neither alive nor dead is known."""


class Activity(StrEnum):
    """What an agent is doing, as far as it is known."""

    BOOTING = "booting"
    WORKING = "working"
    NEEDS_INPUT = "needs_input"
    READY = "ready"
    LIMITED = "limited"
    ERROR = "error"
    UNKNOWN = "unknown"
    EXITED = "exited"
    """Only said of a screen whose process is gone; an agent then has a phase instead."""


class Kind(StrEnum):
    """What an agent in `needs_input` waits for."""

    PERMISSION = "permission"
    QUESTION = "question"
    PLAN = "plan"
    TRUST = "trust"
    LOGIN = "login"
    ELICITATION = "elicitation"
    OTHER = "other"


class Source(StrEnum):
    """Who says it, strongest first while fresh."""

    HOOK = "hook"
    STATE_FILE = "state_file"
    TITLE = "title"
    TRANSCRIPT = "transcript"
    SCREEN = "screen"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Screen:
    """What a pane can tell at one moment, and nothing else."""

    text: str
    """The visible lines, without colours (`capture-pane -p`)."""
    ansi: str | None = None
    """The same with SGR sequences (`capture-pane -e -p`); `None` where the multiplexer has no colours."""
    title: str | None = None
    width: int | None = None
    height: int | None = None
    cursor: tuple[int, int] | None = None
    """Column and row, from 0."""
    alternate: bool | None = None
    """Whether the alternate (full-screen) buffer is shown."""
    dead: bool = False
    exit_status: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a screen means, with the rule that said so and the line it matched."""

    activity: Activity
    rule: str
    evidence: str = ""
    kind: Kind | None = None
    draft: bool | None = None
    """Whether a person's unsent text stands in the composer; `None` where it cannot be told."""
    question: str | None = None
    options: tuple[str, ...] = ()
    resets_at: float | None = None
    resets_text: str | None = None
    """The limit's own words for when it ends, where no time could be made of them."""
    background: bool | None = None
    """Whether a background shell or agent is announced."""
    continues: bool = False
    """The program says that it goes on by itself after its limit."""
    composer: bool | None = None
    """Whether the composer is seen: what text is typed into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One source's word about an agent, with its time. `activity=None`: it says nothing about that."""

    source: Source
    rule: str
    observed_at: float
    activity: Activity | None = None
    kind: Kind | None = None
    question: str | None = None
    options: tuple[str, ...] = ()
    draft: bool | None = None
    composer: bool | None = None
    background: bool | None = None
    resets_at: float | None = None
    continues: bool = False
    excerpt: str = ""
    """What was seen, redacted."""
    session_id: str | None = None
    pid: int | None = None
    generation: str | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told apart from a later one with the same pid by its start time."""

    pid: int
    start: int
    """Field 22 of /proc/PID/stat (clock ticks since boot); elsewhere what psutil gives, in ms."""


@dataclass(frozen=True, slots=True)
class Handle:
    """How to find a launched agent again. Minted and written down before the launch."""

    agent: str
    generation: str
    """The mark this launch leaves on all its processes (`FLEET_GENERATION`): unique, never reused."""
    runtime: str
    multiplexer: str
    socket: str
    """The multiplexer server's socket (tmux) or socket folder (screen)."""
    session: str
    """The multiplexer's session name; the target is always written exactly (`=name` or an id)."""
    folder: str
    """Where this launch's files stand on the agent's host: env, program, exit, settings. 0700."""
    host: str = ""
    """How that host is reached (`ssh_hosts.Way`); empty where it is this machine."""

    def is_of(self, mark: str | None) -> bool:
        """Whether a process that bears this mark is of the launch: each later run of its job has the launch's own,
        `.r` and the run's number."""
        return mark is not None and (mark == self.generation or mark.startswith(f"{self.generation}.r"))


@dataclass(frozen=True, slots=True)
class File:
    """A file to be put on the agent's host before the launch, whole or not at all (written beside, then renamed)."""

    path: str
    content: bytes
    mode: int = 0o600


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Everything decided for one launch. No secret stands in `argv`."""

    agent: str
    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str] = field(repr=False)
    """The whole environment of the program; it travels in a 0600 file."""
    files: tuple[File, ...] = ()
    session_id: str | None = None
    """The program's conversation, where fleet names it."""
    resumes: bool = False
    width: int = 120
    height: int = 40
    version: str | None = None
    """The program's version, where it was asked."""
    again: tuple[str, ...] | None = None
    """How a later run of this very launch goes on with the conversation, where its place starts it again by itself
    (a job's successor); `None` where it cannot go on."""
    place: Any = None
    """The manifest, where it says more of the place that it is launched at: for that place's runtime alone."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at an agent on its host. Not seeing it is an exception (`HostUnreachable`), never a Look."""

    at: float
    alive: bool
    """Whether the launcher lives. It ends with its program, so a launch lives exactly as long as its launcher."""
    program: Process | None = None
    """The program itself, as the launcher noted it."""
    exit_status: int | None = None
    """As the launcher wrote it (128 + signal for a signal); `None` where nobody could say."""
    screen: Screen | None = None
    multiplexer_lost: bool = False
    """The multiplexer's server is gone: one event for all its agents, and no agent's fault."""
    pane: str | None = None
    """The exact id of the pane (`%7`), where there is one."""
    waiting: str | None = None
    """It is not there yet, or not at the moment, and why: its job waits in a queue. Its start's clock stands still."""
    gone: str | None = None
    """Of one that is not alive: why, as a word of `health.restart.Cause`, where its place has said so."""
    words: str | None = None
    """The same as a clause for a person."""

    @property
    def unexplained(self) -> bool:
        """It is not alive, and nothing says why: lost contact looks the same."""
        return not self.alive and self.exit_status is None and self.gone is None and not self.multiplexer_lost


@dataclass(frozen=True, slots=True)
class Ran:
    """A short command that was run to its end on a host."""

    status: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Spooled:
    """A file out of the spool of another machine."""

    name: str
    at: float
    """When it was written, by our clock."""
    content: bytes


@dataclass(frozen=True, slots=True)
class HookEvent:
    """One event that a program's hook left in the spool."""

    key: str
    """Unique for ever: generation, process, count."""
    agent: str
    name: str
    """The program's own event name (PreToolUse, Stop, …) or a kind of the seed's (pretool, …) made into one."""
    at: float
    generation: str | None
    pid: int | None
    """The program process whose hook it was."""
    payload: Mapping[str, Any]

    @property
    def session_id(self) -> str | None:
        found = self.payload.get("session_id")
        return found if isinstance(found, str) else None
