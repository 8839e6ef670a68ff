"""The real Claude Code program, launched as fleet launches it, in a tmux server of the test's own.

Only the harness is under test here: what it gives to the program, and what it reads out of what the program says.
So the pane is raw tmux with the launcher in it, and the spool is read as it lies; runtime, runner and daemon have no
part in it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fleet import spool
from fleet.harnesses.base import Conversation, Launch, LaunchAsk, StartProblem, StateFile, TranscriptTail
from fleet.harnesses.claude_code import ClaudeCode
from fleet.manifests.model import AgentSpec
from fleet.terms import Activity, Evidence, HookEvent
from tests.homes import ROOT, Home

LAUNCHER = ROOT / "fleet" / "runtimes" / "launcher.sh"

PATIENCE = 90.0
"""Seconds that anything which must happen may take: a deadline on a busy machine, not a wait."""

T = TypeVar("T")


def until(what: Callable[[], T | None], why: str, patience: float = PATIENCE) -> T:
    """What `what` gives once it gives anything; fail with `why` where it never does."""
    deadline = time.monotonic() + patience
    while not (got := what()):
        assert time.monotonic() < deadline, f"it never happened: {why}"
        time.sleep(0.05)
    return got


def trust(home: Home, *folders: Path) -> None:
    """Say for the person of this home that they trust these folders."""
    path = home.path / ".claude.json"
    said = json.loads(path.read_text())
    said.setdefault("projects", {}).update({str(f): {"hasTrustDialogAccepted": True} for f in folders})
    path.write_text(json.dumps(said))


def settings_of_their_own(home: Home, project: Path) -> dict[Path, bytes]:
    """A user's and a project's own settings, hooks and status line; their files as they are before the test.

    Each hook appends its event's name to `user-hooks` or `project-hooks` beside the settings it stands in.
    """
    files = {}
    for folder, who in ((home.path / ".claude", "user"), (project / ".claude", "project")):
        folder.mkdir(parents=True, exist_ok=True)
        command = f'sed -n \'s/.*"hook_event_name":"\\([A-Za-z]*\\)".*/\\1/p\' >> {folder}/{who}-hooks'
        hook = [{"hooks": [{"type": "command", "command": command}]}]
        said: dict[str, Any] = {"hooks": {"UserPromptSubmit": hook, "Stop": hook}}
        if who == "user":
            said["statusLine"] = {"type": "command", "command": "cat > /dev/null; echo THEIR-OWN-LINE", "padding": 0}
            said["cleanupPeriodDays"] = 7
        # Laid out as a person would, not as a program: who writes it anew is found out.
        (folder / "settings.json").write_text(json.dumps(said, indent=3) + "\n\n")
        files[folder / "settings.json"] = (folder / "settings.json").read_bytes()
    return files


@dataclass
class Program:
    """One launch of the real program."""

    home: Home
    launch: Launch
    ask: LaunchAsk
    size: tuple[int, int] = (120, 40)
    harness: ClaudeCode = field(default_factory=ClaudeCode)

    @property
    def socket(self) -> str:
        return f"{self.ask.folder}/tmux"

    def start(self) -> Program:
        for file in self.launch.files:
            path = Path(file.path)
            path.parent.mkdir(exist_ok=True, mode=0o700)
            path.write_bytes(file.content)
            path.chmod(file.mode)
        env = {**self.ask.env, **self.launch.env}
        self.beside("env").write_text("".join(f"{k}={shlex.quote(v)}\n" for k, v in env.items()))
        width, height = map(str, self.size)
        words = ["new-session", "-d", "-x", width, "-y", height, "-s", "it"]
        pane = ["env", "-i", "/bin/sh", str(LAUNCHER), self.ask.folder, self.ask.cwd, *self.launch.argv]
        self.tmux("-f", "/dev/null", *words, *pane, ";", "set-option", "-w", "remain-on-exit", "on")
        return self

    def beside(self, name: str) -> Path:
        """A file of this launch."""
        return Path(self.ask.folder, name)

    def tmux(self, *words: str) -> str:
        argv = ["tmux", "-S", self.socket, *words]
        done = subprocess.run(argv, env=self.home.env, capture_output=True, text=True, check=False)
        return done.stdout

    def close(self) -> None:
        """End it and all that it started, and its tmux server."""
        if self.beside("launcher").exists() and not self.beside("exit").exists():
            with suppress(ProcessLookupError):  # it ends just now
                os.kill(self.pid, signal.SIGTERM)
            self.ended()
        self.tmux("kill-server")

    # -- what a pane tells

    def pane(self, what: str) -> str:
        return self.tmux("display-message", "-p", "-t", "=it:", f"#{{{what}}}").strip()

    @property
    def pid(self) -> int:
        return int(until(lambda: _content(str(self.beside("program"))), "the launcher notes the program").split()[0])

    @property
    def screen(self) -> str:
        return self.tmux("capture-pane", "-p", "-S", "-", "-t", "=it:")

    @property
    def title(self) -> Evidence | None:
        return self.harness.read_title(self.pane("pane_title"), time.time(), self.ask.version)

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        return int(until(lambda: _content(str(self.beside("exit"))), f"the program ends:\n{self.screen}"))

    def start_failure(self, *, alive: bool = False) -> StartProblem | None:
        """Why it has ended (or, `alive`, why it stands still), in the harness's reading of its last screen."""
        status = None if alive else self.ended()
        return self.harness.start_failure(self.screen, status, self.ask.version)

    # -- what it says itself

    @property
    def events(self) -> list[HookEvent]:
        return spool.read(Path(self.ask.spool))

    def named(self, name: str, **payload: Any) -> list[HookEvent]:
        return [e for e in self.events if e.name == name and all(e.payload.get(k) == v for k, v in payload.items())]

    @property
    def said(self) -> list[Evidence]:
        """What its hooks have said of its activity so far."""
        return [told for event in self.events if (told := self.harness.read_hook(event))]

    @property
    def state(self) -> StateFile | None:
        path = self.harness.state_file(self.ask.env, self.pid)
        for _ in range(100):  # it may be being written just now
            if (content := _content(path or "")) is None:
                return None
            if (state := self.harness.read_state(content, time.time())) is not None:
                return state
            time.sleep(0.01)
        return None

    @property
    def activity(self) -> Activity | None:
        return self.state.evidence.activity if self.state else None

    @property
    def facts(self) -> Mapping[str, Any] | None:
        """What its status line has told last."""
        try:
            content = Path(self.ask.folder, "statusline").read_bytes()
        except FileNotFoundError:
            return None
        return self.harness.read_status_line(content, time.time())

    @property
    def transcript(self) -> TranscriptTail:
        session = self.state.session_id if self.state else self.ask.conversation.session_id
        path = self.harness.transcript_path(self.ask.env, self.ask.cwd, session or "")
        try:
            content = Path(path or "").read_bytes()
        except FileNotFoundError:  # it comes with the first entry
            content = b""
        return self.harness.read_transcript(content, time.time())

    # -- what a person does

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", "-t", "=it:", *keys)

    def say(self, text: str) -> None:
        """Type a prompt as a person would, once the composer is ready for it."""
        self.reaches(Activity.READY)
        until(lambda: "❯\N{NO-BREAK SPACE}" in self.screen, "the composer is drawn")
        self.tmux("send-keys", "-t", "=it:", "-l", text)
        until(lambda: text[-20:] in self.screen.replace("\n", ""), "the text stands in the composer")
        self.keys("Enter")

    def answer(self, key: str) -> None:
        """Answer the dialog that is up. It is announced before it is drawn, and not drawn while somebody types; one
        that was just drawn drops keys, so look again."""
        self.reaches(Activity.NEEDS_INPUT)
        if key.isdigit():
            until(lambda: re.search(r"❯ +\d\. ", self.screen), f"the dialog is drawn:\n{self.screen}")

        def answered() -> bool:
            self.keys(key)
            deadline = time.monotonic() + 1.0
            while self.activity is Activity.NEEDS_INPUT and time.monotonic() < deadline:
                time.sleep(0.05)
            return self.activity is not Activity.NEEDS_INPUT

        until(answered, f"{key} answers the dialog:\n{self.screen}")

    def reaches(self, activity: Activity) -> Program:
        until(lambda: self.activity is activity, f"its own word says {activity}; the screen:\n{self.screen}")
        return self

    def shows(self, text: str) -> Program:
        until(lambda: text in self.screen, f"{text!r} is drawn; the screen:\n{self.screen}")
        return self

    def notes(self, answer: str) -> Program:
        """It writes its answer down some while after it has told of it: only then there is a conversation to resume."""
        until(lambda: self.transcript.last_assistant_message == answer, f"the transcript has {answer}")
        return self

    def hears(self, name: str, **payload: Any) -> HookEvent:
        """The latest event of this name, once there is one."""
        return until(lambda: self.named(name, **payload), f"hook {name} {payload}; the screen:\n{self.screen}")[-1]


@dataclass
class Desk:
    """Launches of the real program in one home."""

    home: Home
    program: str
    version: str
    programs: list[Program] = field(default_factory=list)

    def ask(
        self,
        *,
        name: str = "web",
        cwd: Path | None = None,
        session: str | None = None,
        exists: bool = False,
        fresh: bool = True,
        env: Mapping[str, str | None] | None = None,
        mcp_written: Sequence[str] = (),
        **spec: Any,
    ) -> LaunchAsk:
        agent = AgentSpec(name=name, command=(self.program,), **spec)
        number = f"{name}.{len(self.programs) + 1}"
        folder, spool_folder = self.home.path / "launch" / number, self.home.path / "spool" / name
        for path in (folder, spool_folder):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        said = {**self.home.env, "FLEET_GENERATION": number, "TERM": "xterm-256color", **(env or {})}
        kept = {k: v for k, v in said.items() if v is not None}
        where = str(cwd or self.home.work)
        harness = ClaudeCode()
        return LaunchAsk(
            spec=agent,
            conversation=Conversation(session or str(uuid.uuid4()), exists=exists, fresh=fresh and not exists),
            folder=str(folder),
            spool=str(spool_folder),
            cwd=where,
            env=kept,
            version=self.version,
            user_files={p: _content(p) for p in harness.wants(agent, kept, where)},
            mcp_written=tuple(mcp_written),
        )

    def launch(self, **ask: Any) -> Program:
        """Launch an agent, and give it as it begins; `close` of the desk ends it."""
        told = self.ask(**ask)
        program = Program(self.home, ClaudeCode().launch(told), told)
        self.programs.append(program)
        return program.start()

    def ready(self, **ask: Any) -> Program:
        """An agent that has started and waits for a prompt."""
        return self.launch(**ask).reaches(Activity.READY)

    def close(self) -> None:
        for program in self.programs:
            program.close()


def _content(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None


def desk(home: Home, program: str, url: str) -> Desk:
    """A desk in a home whose person has settled what the program asks once, and trusts the working folder."""
    assert shutil.which("tmux"), "tmux is missing: `make setup` installs it"
    home.seed_claude(url)
    trust(home, home.work)
    harness = ClaudeCode()
    argv = harness.version_argv(AgentSpec(name="web", command=(program,)))
    assert argv is not None
    printed = subprocess.run(argv, env=home.env, capture_output=True, text=True, check=True).stdout
    version = harness.parse_version(printed)
    assert version is not None, printed
    return Desk(home, program, version)
