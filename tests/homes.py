"""Homes that nobody has used before, a model server to talk to, and how to tell what a test has left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fleet import places

ROOT = Path(__file__).parent.parent
KEY = "sk-ant-test-000000000000000000000000"
ANSWERS_WITHIN = 100.0
"""Seconds that a daemon may take to answer: a deadline on a busy machine."""
GONE_WITHIN = 60.0
"""Seconds that what was told to end may take to be gone: a deadline on a busy machine, not a wait."""
WORKER = "import sys;exec(eval(sys.stdin.readline()))"
"""How a worker of pytest-xdist is started."""


# -- homes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Home:
    """A person's home that nobody has used before, and the bare environment of somebody who lives in it."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def new(cls) -> Home:
        path = Path(tempfile.mkdtemp(prefix="h"))
        env = {
            "HOME": str(path),
            "FLEET_HOME": str(path / "fleet"),
            "XDG_RUNTIME_DIR": str(path / "run"),
            "TMPDIR": str(path / "tmp"),
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "SHELL": "/bin/sh",
            "USER": "tester",
        }
        for name in ("run", "tmp", "work"):
            (path / name).mkdir(mode=0o700)
        return cls(path, env)

    @property
    def work(self) -> Path:
        """A folder to work in."""
        return self.path / "work"

    def write(self, name: str, text: str) -> Path:
        """A file in the working folder."""
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def fleet(
        self, *words: str, env: Mapping[str, str] | None = None, stdin: str = "", timeout: float = 200
    ) -> subprocess.CompletedProcess[str]:
        """Run `fleet WORDS…` here to its end. Where that does not come, what the daemon was at is told."""
        try:
            return subprocess.run(
                [*fleet_argv(), *words],
                cwd=self.work,
                env={**self.env, **(env or {})},
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            late.add_note(self.log(20_000))
            raise

    def log(self, most: int = 4_000) -> str:
        """The end of the daemon's log."""
        path = self.path / "fleet" / "state" / "daemon.log"
        return path.read_text(errors="replace")[-most:] if path.exists() else "(no daemon's log)"

    def account(self) -> str:
        """What is known of this home's agents: what each shows and what is made of it, and the daemon's log."""
        told = []
        try:
            for agent in self.ask("status")["agents"]:
                screen = self.ask("inspect", target=agent["name"])["pane_text"]
                told.append(f"{json.dumps(self.ask('explain', target=agent['name']), indent=1)}\n{screen}")
        except (OSError, StopIteration, AssertionError) as error:
            told.append(f"(the daemon tells no more: {error!r})")
        return "\n".join([*told, self.log()])

    def ask(self, verb: str, **args: Any) -> Any:
        """What the daemon answers to one of its verbs, which has to succeed: the `data`.

        It is what `fleet … --json` prints, without a Python that is started for it: for what is asked again and again.
        """
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(ANSWERS_WITHIN)
            asking.connect(places.control_socket(self.env))
            asking.sendall(json.dumps({"verb": verb, "args": args}).encode() + b"\n")
            with asking.makefile("rb") as answer:
                head = next(line for line in answer if line.startswith(b"="))
                told: dict[str, Any] = json.load(answer)
        assert "data" in told, f"{verb} {args}: {head.decode()}{told}"
        return told["data"]

    def json(self, *words: str, **options: Any) -> Any:
        """`fleet WORDS… --json`, which has to succeed: its `data`."""
        done = self.fleet(*words, "--json", **options)
        assert done.returncode == 0, f"fleet {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)["data"]

    def seed_claude(self, url: str) -> None:
        """Settle what Claude Code asks a person once (onboarding, the key), and point it at a model server."""
        said = {"hasCompletedOnboarding": True, "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []}}
        (self.path / ".claude.json").write_text(json.dumps(said))
        self.env.update(
            ANTHROPIC_BASE_URL=url,
            ANTHROPIC_API_KEY=KEY,
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL="1",
            DISABLE_AUTOUPDATER="1",
            DISABLE_TELEMETRY="1",
            IS_SANDBOX="1",
        )


def fleet_argv() -> list[str]:
    """The installed `fleet`."""
    installed = Path(sys.executable).parent / "fleet"
    assert installed.exists(), f"fleet is not installed in {installed.parent}: `make setup` makes .venv with it"
    return [str(installed)]


@dataclass(frozen=True)
class Stub:
    """A model server of the test's own (tests/stub_anthropic.py says what it understands)."""

    url: str

    def mode(self, **mode: Any) -> None:
        """How to answer from now on, whatever is asked; without arguments as usual again."""
        self._call("mode", mode)

    def log(self) -> list[dict[str, Any]]:
        """What was asked so far."""
        log: list[dict[str, Any]] = self._call("log")
        return log

    def reset(self) -> None:
        self._call("reset", {})

    def _call(self, what: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_stub/{what}", data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextmanager
def stub_server() -> Iterator[Stub]:
    """A model server on a free port of loopback, for as long as it is needed."""
    argv = [sys.executable, str(ROOT / "tests" / "stub_anthropic.py")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Stub(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


def claude_path() -> Path | None:
    """The real Claude Code program: the one that `FLEET_TEST_CLAUDE` names, else what `make claude` has fetched."""
    named = os.environ.get("FLEET_TEST_CLAUDE")
    fetched = (ROOT / ".cache").glob("claude-code-*/node_modules/@anthropic-ai/*/claude")
    found = [Path(named)] if named else sorted(fetched)
    return found[-1] if found and os.access(found[-1], os.X_OK) else None


# -- what is left behind ------------------------------------------------------------------------------------------


def left_behind(folder: Path) -> list[psutil.Process]:
    """Every process that lives under this folder: by its environment, command, working folder or sockets.

    This process, those it came from and the run's own workers are not meant.
    """
    return [process for process, _ in _under(folder)]


def commands_left(folder: Path) -> list[list[str]]:
    """The command lines of these processes, each as it was when it was found: it may be gone a moment later."""
    return [argv for _, argv in _under(folder)]


def _under(folder: Path) -> list[tuple[psutil.Process, list[str]]]:
    mark = str(folder)
    spared = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    holders = {c.pid for c in psutil.net_connections("unix") if c.pid and str(c.laddr).startswith(mark)}
    found = []
    for process in psutil.process_iter():
        if process.pid in spared:
            continue
        try:
            with process.oneshot():
                argv = process.cmdline()
                told = [*argv, process.cwd(), *process.environ().values()]
        except psutil.Error:  # gone meanwhile, a zombie, or another user's
            continue
        if WORKER not in argv and (process.pid in holders or any(mark in word for word in told)):
            found.append((process, argv))
    return found


def wait_gone(folder: Path) -> list[psutil.Process]:
    """What still lives under the folder after what was told to end has had its time."""
    deadline = time.monotonic() + GONE_WITHIN
    while (left := left_behind(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def end_all(processes: list[psutil.Process]) -> list[str]:
    """End these, by pid and start time (psutil compares it), and say which they were."""
    said = []
    for process in processes:
        try:
            said.append(f"process {process.pid}: {' '.join(process.cmdline())[:200]}")
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=GONE_WITHIN)
    return said
