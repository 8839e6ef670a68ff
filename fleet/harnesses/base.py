"""Harness: one coding-agent program. It names paths, builds argument lists and parses bytes; it opens no files,
so that the same code serves an agent on this machine and on another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from fleet.manifests.model import AgentSpec
from fleet.terms import Evidence, File, HookEvent

BOX = "box"
"""The folder in a launch's own in which its mail lies."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The agent's conversation as the ledger knows it."""

    session_id: str
    """Minted by fleet before the first launch, or the one the program has bound itself to since."""
    exists: bool
    """Whether its transcript is there on the host: only then can it be resumed."""
    fresh: bool = False
    """Start it anew: a session that was never used before; the first prompt is given."""


@dataclass(frozen=True, slots=True)
class LaunchAsk:
    """What a harness is told to build a launch."""

    spec: AgentSpec
    conversation: Conversation
    folder: str
    """The launch's own folder on the host (0700), for settings and hooks."""
    spool: str
    """The agent's spool folder on the host."""
    cwd: str
    env: Mapping[str, str]
    """The environment the program will get, without what the harness adds."""
    version: str | None
    """What the program says of its version; `None` where it could not be asked."""
    user_files: Mapping[str, bytes | None] = field(default_factory=dict)
    """The content of the files that `wants` named, read on the host; `None` for one that is not there."""
    first_message: str | None = None
    """The content of the manifest's `prompt_file`, where it has one."""
    mcp_written: tuple[str, ...] = ()
    """The servers of a `.mcp.json` that fleet itself put into the workspace: the program need not ask about them."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A harness's part of a LaunchPlan."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment."""
    files: tuple[File, ...] = ()
    types_prompt: str | None = None
    """A first message that must be typed once the program is ready (prompt_file, or no argument for it)."""
    warnings: tuple[str, ...] = ()


class Remedy(StrEnum):
    """What may help after a start that failed."""

    RETRY = "retry"
    """The same again, later."""
    RESUME = "resume"
    """At once, going on with the conversation: it is there after all."""
    FRESH = "fresh"
    """At once, as a new conversation with a new id: there is nothing to go on with, and the old id may be taken."""
    PERSON = "person"
    """Nothing that fleet may do: a person has to settle it."""


@dataclass(frozen=True, slots=True)
class StartProblem:
    """Why a program does not start, as far as it says so itself."""

    reason: str
    """CamelCase, stable: for conditions and scripts."""
    message: str
    """For a person: what is wrong, and what to do about it."""
    remedy: Remedy

    @property
    def retry(self) -> bool:
        """Whether another attempt makes sense without a person."""
        return self.remedy is not Remedy.PERSON


@dataclass(frozen=True, slots=True)
class TurnAsk:
    """What a harness is told to build one turn of a headless agent."""

    spec: AgentSpec
    conversation: Conversation | None
    """The session that this exchange has in the program; `None` where the program has none."""
    folder: str
    """The agent's launch's folder on the host, where the files that `launch` gave stand."""
    cwd: str
    env: Mapping[str, str]
    version: str | None
    text: str
    """What the turn is about, for a model: others' words between their markers, or the operator's own."""
    words: str
    """The message's own words, for a script."""


@dataclass(frozen=True, slots=True)
class TurnLaunch:
    """One run of the program for one turn. The prompt never stands in `argv`, where anyone could read it."""

    argv: tuple[str, ...]
    stdin: bytes
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """What became of a turn, as far as the program itself tells."""

    ok: bool
    text: str = ""
    """What it answers."""
    reason: str | None = None
    """Where it is not ok, or declined: why, in one word of lower_snake."""
    message: str = ""
    """The same for a person, with the program's own words."""
    declined: bool = False
    remedy: Remedy | None = None
    """What may help after a turn that is not ok."""
    session_id: str | None = None
    cost_usd: float | None = None
    model: str | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    """How many it took, by their kind, as the program names it."""
    resets_at: float | None = None
    """When a usage limit ends, where one stopped the turn and says so."""


class Harness(Protocol):
    """One coding-agent program: how to start it, and how to read its word about itself."""

    name: str
    program: str
    """The program's name where no `command` names it."""
    has_sessions: bool
    """Whether fleet can name, find and resume its conversation."""
    env_names: tuple[str, ...]
    """Names (globs) of the starter's environment that the program needs beside the common ones."""
    env_dropped: tuple[str, ...]
    """Names (globs) that belong to one running session and must not be inherited by another."""

    def version_argv(self, spec: AgentSpec) -> tuple[str, ...] | None:
        """The command that prints the version; `None` where there is none to ask."""
        ...

    def parse_version(self, output: str) -> str | None: ...

    def wants(self, spec: AgentSpec, env: Mapping[str, str], cwd: str) -> tuple[str, ...]:
        """Paths on the host whose content the launch must know (a user's settings: their status line)."""
        ...

    def launch(self, ask: LaunchAsk) -> Launch:
        """The arguments, environment and files of a launch. Nothing of the user's or the project's is edited."""
        ...

    def transcript_path(self, env: Mapping[str, str], cwd: str, session_id: str) -> str | None:
        """Where the conversation is kept on the host. `cwd` is the folder's real path, without symbolic links."""
        ...

    def resumable(self, tail: bytes) -> bool:
        """Whether the transcript with this end can be resumed. One that is there and cannot keeps its id taken: then
        only a new id can be launched."""
        ...

    def state_folder(self, env: Mapping[str, str]) -> str | None:
        """The folder in which the program keeps its own word about itself, one file a process."""
        ...

    def state_file(self, env: Mapping[str, str], pid: int) -> str | None: ...

    def read_state(self, content: bytes, now: float) -> StateFile | None:
        """What a state file says; `None` where it is torn or not one."""
        ...

    def read_hook(self, event: HookEvent) -> Evidence | None:
        """What a hook event says of the agent's activity; `None` where it says nothing about that."""
        ...

    def read_title(self, title: str, now: float, version: str | None) -> Evidence | None: ...

    def read_transcript(self, tail: bytes, now: float) -> TranscriptTail: ...

    def mail_ways(self, version: str | None) -> MailWays:
        """The ways into the program, beside typing, that its launch opens for mail in its box."""
        ...

    def read_said(self, tail: bytes) -> Heard:
        """What came from outside into its conversation, or into its queue, by this end of its transcript."""
        ...

    def read_status_line(self, content: bytes, now: float) -> Mapping[str, Any] | None:
        """Facts from the status line's JSON: model, context_pct, cost_usd, quota …, under fleet's names."""
        ...

    def exit_command(self) -> str | None:
        """What a person types to leave the program; `None` where a signal is the way."""
        ...

    def newline_key(self) -> str:
        """The key that begins a new line in the composer without sending."""
        ...

    def start_failure(self, screen: str, exit_status: int | None, version: str | None) -> StartProblem | None:
        """Why a start failed or stands still, where the program's last words say so. `exit_status` is `None` while
        it lives. Only asked before the program's session was seen: later the same words may be anything."""
        ...

    # -- headless: one run of the program for each turn

    def turn(self, ask: TurnAsk) -> TurnLaunch | None:
        """The run for one turn. `None` where the program cannot be run so."""
        ...

    def read_turn(self, output: bytes, errors: bytes, exit_status: int | None, now: float) -> TurnResult:
        """What became of a turn: all that it printed, the end of what it said on stderr, and how it ended (`None`
        where nobody could say)."""
        ...

    def hopeless(self, output: bytes, now: float) -> TurnResult | None:
        """Whether a turn that still runs can come to nothing, by the end of what it has printed so far."""
        ...

    def turn_lines(self, output: bytes) -> list[str]:
        """What a turn has printed, as lines for a person."""
        ...

    def read_process(self, moved_at: float | None, cpu: float | None, now: float) -> Evidence | None:
        """What the process alone tells: `moved_at` is when the pane last changed, `cpu` how much of a core the
        process tree has used since the last look. `None` where a program says more about itself than that."""
        ...


@dataclass(frozen=True, slots=True)
class MailWays:
    """How mail comes into a program without typing."""

    doorbell: bool = False
    """It can be woken with what lies in its box."""
    boundary: bool = False
    """What lies there can go in with a tool's result."""


@dataclass(frozen=True, slots=True)
class Said:
    """A text that came to the program from outside, as its transcript has it."""

    at: float
    text: str
    queued: bool = False
    """It is noted only, and not in the conversation."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the end of a transcript tells of texts from outside."""

    said: tuple[Said, ...] = ()
    begins: float | None = None
    """When the first of its lines was written; `None` where no line tells."""


@dataclass(frozen=True, slots=True)
class StateFile:
    """A program's own word about itself."""

    evidence: Evidence
    pid: int
    proc_start: str | None
    """The process's start as the program noted it; with `pid` it says whether the file is still true."""
    session_id: str | None
    cwd: str | None
    version: str | None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class TranscriptTail:
    """What the end of a transcript tells."""

    evidence: Evidence | None = None
    last_user_message: str | None = None
    last_assistant_message: str | None = None
    current_tool: str | None = None
    current_tool_input: str | None = None
    model: str | None = None
    context_tokens: int | None = None
    last_at: float | None = None
    lines: tuple[str, ...] = ()
    """The conversation's last lines as plain text, for `fleet logs`."""
