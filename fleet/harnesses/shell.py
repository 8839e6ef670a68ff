"""Any program: it has no sessions and says nothing about itself, so only its pane and its processes tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.harnesses import claude_code
from fleet.harnesses.base import (
    Heard,
    Launch,
    LaunchAsk,
    MailWays,
    Remedy,
    StartProblem,
    StateFile,
    TranscriptTail,
    TurnAsk,
    TurnLaunch,
    TurnResult,
)
from fleet.harnesses.claude_turns import unused
from fleet.manifests.model import AgentSpec
from fleet.terms import Activity, Evidence, HookEvent, Source

QUIET = 3.0
"""Seconds without output and without CPU after which a program is taken to wait for something."""
BUSY = 0.02
"""The part of a core above which a process tree counts as at work."""
DECLINED = 75
"""The exit status by which a scripted runner declines (EX_TEMPFAIL of sysexits.h)."""
SAID = 2_000
"""Characters of a failed run's words that a person is shown."""


class Shell:
    """The harness of a program that fleet knows nothing about."""

    name = "shell"
    program = "sh"
    has_sessions = False
    env_names: tuple[str, ...] = ()
    env_dropped: tuple[str, ...] = claude_code.ENV_DROPPED
    """A line of shell may start that program, and it must not take itself for a part of its starter's session."""

    def version_argv(self, spec: AgentSpec) -> tuple[str, ...] | None:
        return None

    def parse_version(self, output: str) -> str | None:
        return None

    def wants(self, spec: AgentSpec, env: Mapping[str, str], cwd: str) -> tuple[str, ...]:
        return ()

    def launch(self, ask: LaunchAsk) -> Launch:
        """The command as it is written. A first message is typed, on a first start only, as for every harness."""
        spec = ask.spec
        if spec.mode == "headless":
            return Launch(argv=(*spec.command, *spec.args), warnings=unused(spec))
        typed = (spec.prompt or ask.first_message) if ask.conversation.fresh else None
        return Launch(argv=(*spec.command, *spec.args), types_prompt=typed)

    def start_failure(self, screen: str, exit_status: int | None, version: str | None) -> StartProblem | None:
        """126 and 127 are what a launcher's shell says of a program that it could not run."""
        return _NOT_RUN.get(exit_status) if exit_status is not None else None

    def transcript_path(self, env: Mapping[str, str], cwd: str, session_id: str) -> str | None:
        return None

    def resumable(self, tail: bytes) -> bool:
        return False

    def state_folder(self, env: Mapping[str, str]) -> str | None:
        return None

    def state_file(self, env: Mapping[str, str], pid: int) -> str | None:
        return None

    def read_state(self, content: bytes, now: float) -> StateFile | None:
        return None

    def read_hook(self, event: HookEvent) -> Evidence | None:
        return None

    def read_title(self, title: str, now: float, version: str | None) -> Evidence | None:
        return None

    def read_transcript(self, tail: bytes, now: float) -> TranscriptTail:
        return TranscriptTail()

    def mail_ways(self, version: str | None) -> MailWays:
        return MailWays()

    def read_said(self, tail: bytes) -> Heard:
        return Heard()

    def read_status_line(self, content: bytes, now: float) -> Mapping[str, Any] | None:
        return None

    def read_process(self, moved_at: float | None, cpu: float | None, now: float) -> Evidence | None:
        """Working while it prints or computes, else ready. It never needs a person on a guess: only a screen rule
        that knows a prompt may say that."""
        if cpu is not None and cpu >= BUSY:
            return _process(Activity.WORKING, "process/cpu", now, f"{cpu:.0%} of a core")
        if moved_at is not None and now - moved_at < QUIET:
            return _process(Activity.WORKING, "process/output", moved_at, "its pane has just changed")
        since = moved_at + QUIET if moved_at is not None else now
        return _process(Activity.READY, "process/quiet", since, f"no output for {QUIET:g} s, no CPU")

    def exit_command(self) -> str | None:
        return None

    def newline_key(self) -> str:
        return "Enter"

    # -- headless: a scripted runner ---------------------------------------------------------------------------

    def turn(self, ask: TurnAsk) -> TurnLaunch | None:
        """The command, with the message's own words on stdin. What it prints is the answer."""
        return TurnLaunch((*ask.spec.command, *ask.spec.args), ask.words.encode())

    def read_turn(self, output: bytes, errors: bytes, exit_status: int | None, now: float) -> TurnResult:
        """0: it has answered. 75: it declines, and says why on stderr or stdout. Else it failed."""
        said = output.decode(errors="replace").strip("\n")
        words = errors.decode(errors="replace").strip()[-SAID:]
        if exit_status == 0:
            return TurnResult(ok=True, text=said)
        if exit_status == DECLINED:
            why = words or said
            return TurnResult(ok=True, text=why, declined=True, reason="declined", message=why)
        if (problem := self.start_failure("", exit_status, None)) is not None:
            return TurnResult(ok=False, reason="not_started", message=problem.message, remedy=problem.remedy)
        how = "ended in a way that nobody saw" if exit_status is None else f"exited with {exit_status}"
        message = f"The command {how}" + (f": {words}" if words else ".")
        return TurnResult(ok=False, reason="program_failed", message=message, remedy=Remedy.RETRY)

    def hopeless(self, output: bytes, now: float) -> TurnResult | None:
        return None

    def turn_lines(self, output: bytes) -> list[str]:
        return output.decode(errors="replace").splitlines()


def _process(activity: Activity, rule: str, at: float, excerpt: str) -> Evidence:
    return Evidence(source=Source.PROCESS, rule=rule, observed_at=at, activity=activity, excerpt=excerpt)


_NOT_RUN: Mapping[int, StartProblem] = {
    126: StartProblem(
        "ProgramNotExecutable",
        "The program cannot be executed (exit status 126): it lacks the permission, or is no program for this machine.",
        Remedy.PERSON,
    ),
    127: StartProblem(
        "ProgramNotFound",
        "The program was not found (exit status 127): install it on that host, or name its path in `command`.",
        Remedy.PERSON,
    ),
}
