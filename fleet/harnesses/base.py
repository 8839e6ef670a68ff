"""Harness: one coding-agent program. It names paths, builds argument lists and parses bytes; it opens no files,
so that the same code serves an agent on this machine and on another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fleet.manifests.model import AgentSpec
from fleet.terms import Evidence, File, HookEvent, Screen


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


class Harness(Protocol):
    """One coding-agent program: how to start it, and how to read its word about itself."""

    name: str
    program: str
    """The program's name where no `command` names it."""
    has_sessions: bool
    """Whether fleet can name, find and resume its conversation."""

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
        """Where the conversation is kept on the host."""
        ...

    def state_folder(self, env: Mapping[str, str]) -> str | None:
        """The folder in which the program keeps its own word about itself, one file a process."""
        ...

    def state_file(self, env: Mapping[str, str], pid: int) -> str | None: ...

    def read_state(self, content: bytes, now: float) -> StateFile | None:
        """What a state file says; `None` where it is torn or not one."""
        ...

    def read_hook(self, event: HookEvent) -> Evidence | None:
        """What a hook event says; an event that says nothing about the agent's state gives `activity=None`."""
        ...

    def read_title(self, title: str, now: float, version: str | None) -> Evidence | None: ...

    def read_transcript(self, tail: bytes, now: float) -> TranscriptTail: ...

    def read_status_line(self, content: bytes, now: float) -> Mapping[str, Any] | None:
        """Facts from the status line's JSON: model, context_pct, cost_usd, quota …, under fleet's names."""
        ...

    def exit_command(self) -> str | None:
        """What a person types to leave the program; `None` where a signal is the way."""
        ...

    def newline_key(self) -> str:
        """The key that begins a new line in the composer without sending."""
        ...

    def dialog_keys(self, screen: Screen, auto_accept: frozenset[str]) -> tuple[str, tuple[str, ...]] | None:
        """For a startup dialog that `auto_accept` settles: which one, and the next keys to send. One step at a
        time: move first; Enter only when the screen shows the cursor on Yes. `None`: hands off."""
        ...


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
