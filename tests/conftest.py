"""What all tests share: homes of their own, the real Claude Code program, a stub model server, and the guard.

The whole run lives under one short folder, its **ground** (`/tmp/fl…`): every home, temporary file and socket.
So whatever a test leaves behind can be told by that folder's name in its environment, command line, working folder
or socket. The guard looks after every test that has a home, and once more at the end of the run: what it finds
fails the run, and exactly that is ended.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parent.parent
GROUND = "FLEET_TEST_GROUND"
"""The environment variable by which the workers of a run know its ground."""
KEY = "sk-ant-test-000000000000000000000000"
GONE_WITHIN = 15.0
"""Seconds that what was told to end may take to be gone: a deadline, not a wait."""
SESSION_MARKS = ("ANTHROPIC_", "CLAUDE", "FLEET_", "TMUX", "STY", "XDG_", "AI_AGENT", "SCITEX_")
"""What the person's own environment must not bring into a test."""
WORKER = "import sys;exec(eval(sys.stdin.readline()))"
"""How a worker of pytest-xdist is started."""
ours = pytest.StashKey["Outside"]()


def pytest_configure(config: pytest.Config) -> None:
    """Move this process into the run's ground, before anything asks where its home is."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        outside = Outside.seen()
        ground = Path(tempfile.mkdtemp(prefix="fl", dir="/tmp"))
        for name in list(os.environ):
            if name.startswith(SESSION_MARKS) and not name.startswith("FLEET_TEST_"):
                del os.environ[name]
        os.environ |= {GROUND: str(ground), "HOME": str(ground / "home"), "TMPDIR": str(ground)}
        (ground / "home").mkdir()
        config.stash[ours] = outside
    tempfile.tempdir = os.environ[GROUND]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    """After the workers have ended: nothing is left, and what is the person's was not touched."""
    try:
        return (yield)
    finally:
        if outside := session.config.stash.get(ours, None):
            ground = Path(os.environ[GROUND])
            left = [*end_all(left_behind(ground)), *outside.changes(ground)]
            shutil.rmtree(ground, ignore_errors=True)
            if left:
                print("\n\nThe run left this behind:", *left, sep="\n  ")
                session.exitstatus = pytest.ExitCode.TESTS_FAILED


@dataclass(frozen=True)
class Outside:
    """What belongs to the person who runs the tests: their home, and their own tmux server."""

    home: Path
    existed: frozenset[Path]
    tmux: Path

    @classmethod
    def seen(cls) -> Outside:
        home = Path("~").expanduser()
        tmux = Path(os.environ.get("TMUX_TMPDIR") or "/tmp") / f"tmux-{os.getuid()}" / "default"
        places = (".claude", ".claude.json", ".config/fleet", ".local/state/fleet")
        return cls(home, frozenset(home / p for p in places if (home / p).exists()), tmux)

    def changes(self, ground: Path) -> list[str]:
        """What this run has done there. What the person does meanwhile is theirs: only our traces count."""
        mark = str(ground)
        slug = "".join(c if c.isalnum() else "-" for c in mark)
        found = [str(p) for p in (self.home / ".claude" / "projects").glob(f"{slug}*")]
        for name in (".claude.json", ".claude/settings.json", ".claude/settings.local.json"):
            path = self.home / name
            if path.is_file() and mark in path.read_text(errors="replace"):
                found.append(f"{path} speaks of {mark}")
        for name in (".config/fleet", ".local/state/fleet"):
            path = self.home / name
            if path not in self.existed and any(mark in p.read_text(errors="replace") for p in path.rglob("*.json")):
                found.append(f"{path}: a test's fleet lived in the person's own home")
        return found


# -- what is left behind ------------------------------------------------------------------------------------------


def left_behind(folder: Path) -> list[psutil.Process]:
    """Every process that lives under this folder: by its environment, command, working folder or sockets.

    This process, those it came from and the run's own workers are not meant.
    """
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
            found.append(process)
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
        self, *words: str, env: Mapping[str, str] | None = None, stdin: str = "", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run `fleet WORDS…` here to its end."""
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


@pytest.fixture
def home() -> Iterator[Home]:
    """A fresh home. After the test nothing that was started in it may still live."""
    home = Home.new()
    yield home
    left = wait_gone(home.path)
    said = end_all(left)
    shutil.rmtree(home.path, ignore_errors=True)
    assert not said, "the test left this behind:\n  " + "\n  ".join(said)


@pytest.fixture
def fleet_home(home: Home) -> Iterator[Home]:
    """A fresh home in which a fleet may be started; it is shut down after the test, and must then be gone."""
    yield home
    if (home.path / "fleet").exists():
        home.fleet("shutdown")


# -- the real program, and the model it talks to --------------------------------------------------------------------


@pytest.fixture(scope="session")
def claude_program() -> str:
    """The path of the real Claude Code program. `make test` fetches it."""
    named = os.environ.get("FLEET_TEST_CLAUDE")
    found = (
        [Path(named)] if named else sorted((ROOT / ".cache").glob("claude-code-*/node_modules/@anthropic-ai/*/claude"))
    )
    if not found or not os.access(found[-1], os.X_OK):
        pytest.fail(
            "There is no Claude Code program to test with. `make claude` fetches it; FLEET_TEST_CLAUDE=PATH names it."
        )
    return str(found[-1])


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


@pytest.fixture(scope="session")
def stub_server() -> Iterator[Stub]:
    """One model server for all tests of this process, on a free port of loopback."""
    argv = [sys.executable, str(ROOT / "tests" / "stub_anthropic.py")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Stub(f"http://127.0.0.1:{int(process.stdout.readline())}")
        process.terminate()


@pytest.fixture
def stub(stub_server: Stub) -> Stub:
    """The model server, as if nobody had asked it anything yet."""
    stub_server.reset()
    return stub_server
