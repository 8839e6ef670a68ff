"""The peer beside which fleet is measured: scitex-agent-container from PyPI, in an environment of its own.

It is installed on demand below the user's cache folder (1.6 GB). It runs on a tmux server of its own, in a home of its
own, and starts the same trivial program: its login shell finds it under the name `claude`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from tests.bench.measure import Command, cache

VERSION = "0.10.7"
MANIFEST = """\
apiVersion: scitex-agent-container/v3
kind: Agent
spec:
  runtime: claude-code
  model: sonnet
  multiplexer: tmux
  session: new
  health:
    enabled: true
"""


def installed() -> Path:
    """The peer's program, installed where it is missing. `FLEET_BENCH_PEER` names an environment that has it."""
    named = os.environ.get("FLEET_BENCH_PEER")
    venv = Path(named) if named else cache() / f"peer-{VERSION}"
    program = venv / "bin" / "sac"
    if not program.exists():
        print(f"Installing scitex-agent-container {VERSION} into {venv} (some minutes, once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, f"scitex-agent-container=={VERSION}"], check=True)
    return program


class Peer:
    """The peer in a home of its own. Leaving it ends its tmux server."""

    def __init__(self, program: Path, trivial: str) -> None:
        self.program = program
        self.path = Path(tempfile.mkdtemp(prefix="flpeer", dir="/tmp"))
        for name in ("bin", "tmux"):
            (self.path / name).mkdir()
        claude = self.path / "bin" / "claude"
        claude.write_text(trivial)
        claude.chmod(0o755)
        (self.path / ".bash_profile").write_text(f"PATH={self.path}/bin:$PATH\n")
        self.env = {
            "HOME": str(self.path),
            "TMUX_TMPDIR": str(self.path / "tmux"),
            "PATH": f"{self.path}/bin:{program.parent}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
        }

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        subprocess.run(["tmux", "kill-server"], env=self.env, capture_output=True, check=False)
        shutil.rmtree(self.path, ignore_errors=True)

    def declare(self, names: list[str]) -> None:
        for name in names:
            path = self.path / ".scitex" / "agent-container" / "agents" / name / f"{name}.yaml"
            path.parent.mkdir(parents=True)
            path.write_text(MANIFEST)

    def command(self, *words: str, stdin: Path | None = None) -> Command:
        return Command([str(self.program), *words], self.env, self.path, stdin)

    def sessions(self) -> int:
        """How many of its agents' tmux sessions there are."""
        listed = subprocess.run(["tmux", "ls"], env=self.env, capture_output=True, text=True, check=False)
        return len(listed.stdout.splitlines())
