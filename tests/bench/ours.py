"""A fleet of its own to measure: a fresh home, trivial programs in its panes, the daemon's own socket."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from fleet.settings import Places
from tests.bench.measure import Command, until

BIN = Path(sys.executable).parent
TRIVIAL = "#!/bin/sh\necho ready\nexec sleep 100000\n"
"""The trivial program that stands in for an agent's, the same under fleet and under its peer."""
PRINTING = '#!/bin/sh\ni=0\nwhile :; do i=$((i + 1)); echo "line $i of work"; sleep 1; done\n'


class OurFleet:
    """A home, and the daemon in it. Leaving it ends everything that was started in it."""

    def __init__(self, **settings: object) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="flbench", dir="/tmp"))
        for name in ("bin", "run", "tmp", "agents"):
            (self.path / name).mkdir(mode=0o700)
        self.env = {
            "HOME": str(self.path),
            "FLEET_HOME": str(self.path / "fleet"),
            "XDG_RUNTIME_DIR": str(self.path / "run"),
            "TMPDIR": str(self.path / "tmp"),
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **{f"FLEET_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.trivial = self.program("claude", TRIVIAL)

    def __enter__(self) -> OurFleet:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        subprocess.run([BIN / "fleet", "shutdown"], env=self.env, capture_output=True, check=False, timeout=300)
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self.path, ignore_errors=True)

    def program(self, name: str, text: str) -> Path:
        path = self.path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def manifests(self, names: list[str], program: Path, **spec: Any) -> Path:
        """A folder that declares one shell agent for each name."""
        folder = self.path / "agents" / f"of-{names[0]}"
        folder.mkdir()
        for name in names:
            declared = {"harness": "shell", "command": [str(program)], "restart": {"policy": "always"}, **spec}
            manifest = {"apiVersion": "fleet/v1", "kind": "Agent", "metadata": {"name": name}, "spec": declared}
            (folder / f"{name}.yaml").write_text(json.dumps(manifest))
        return folder

    def command(self, *words: str, stdin: Path | None = None) -> Command:
        """`fleet WORDS…`, to be timed."""
        return Command([str(BIN / "fleet"), *words], self.env, self.path, stdin)

    def fleet(self, *words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "fleet", *words], env=self.env, cwd=self.path, capture_output=True, text=True, timeout=timeout
        )

    def must(self, *words: str) -> str:
        """`fleet WORDS…`, which has to succeed; what it printed."""
        done = self.fleet(*words)
        if done.returncode:
            fine = " started "  # of hundreds of agents, those that are not are what matters
            said = "\n".join(line for line in done.stdout.splitlines() if fine not in line)
            raise RuntimeError(f"fleet {' '.join(words)}: {done.returncode}\n{said}\n{done.stderr}{self.log}")
        return done.stdout

    @property
    def log(self) -> str:
        """The end of what the daemon has logged."""
        log = Places.of(self.env).log
        return log.read_text(errors="replace")[-4000:] if log.exists() else ""

    @property
    def control(self) -> str:
        return str(Places.of(self.env).control)

    def ask(self, verb: str, **args: Any) -> Any:
        """The daemon's answer over its socket; raise OSError where it does not answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(self.control)
            connection.sendall(json.dumps({"verb": verb, "args": args, "client": "bench"}).encode() + b"\n")
            stream = connection.makefile("rb")
            while (line := stream.readline()) and not line.startswith(b"="):
                continue
            if not line:
                raise ConnectionError("no answer")
            answer = json.loads(stream.read(int(line[1:].split()[1])))
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return answer["data"]

    def agents(self) -> list[dict[str, Any]]:
        agents: list[dict[str, Any]] = self.ask("status", targets=[], labels={}, cwd="/")["agents"]
        return agents

    @property
    def daemon(self) -> psutil.Process:
        return psutil.Process(self.ask("ping")["pid"])

    def answers(self) -> bool:
        try:
            return bool(self.ask("ping"))
        except OSError:
            return False

    def processes(self) -> list[psutil.Process]:
        """Everything that lives in this home."""
        mark, found = str(self.path), []
        for process in psutil.process_iter(["name"]):
            try:
                told = [*process.cmdline(), process.cwd(), *process.environ().values()]
            except psutil.Error:
                continue
            if process.pid != os.getpid() and any(mark in word for word in told):
                found.append(process)
        return found

    def tmux_servers(self) -> list[psutil.Process]:
        """The multiplexer's servers."""
        return [p for p in self.processes() if p.info["name"].startswith("tmux: server")]

    def kill_daemon(self) -> float:
        """`kill -9` of the daemon; the seconds until it answers again."""
        daemon = self.daemon
        daemon.send_signal(signal.SIGKILL)
        return until(self.answers, within=60)
