"""`make picture`: docs/status.svg, drawn from what `fleet status` prints of a real fleet.

Three real Claude Code agents talk to the stub model server; two shell agents stand beside them.
"""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.homes import ROOT, Home, claude_path, end_all, left_behind, stub_server

COLUMNS = 112
PUBLISH = {"command": "npm publish ./dist", "description": "Publish the package"}
AGENTS = {
    "reviewer": {"harness": "claude-code", "prompt": "Repeat All tests pass; two remarks stand in REVIEW.md."},
    "builder": {"harness": "claude-code", "permission_mode": "default", "prompt": f"TOOL Bash {json.dumps(PUBLISH)}"},
    "writer": {"harness": "claude-code", "prompt": "SLOW 120"},
    "nightly": {
        "harness": "shell",
        "command": ["sh", "-c", "echo sums done; sleep 1.5"],
        "restart": {"policy": "never"},
    },
    "importer": {
        "harness": "shell",
        "command": ["sh", "-c", "echo 'no such table: orders' >&2; sleep 1.5; exit 3"],
        "restart": {"backoff": {"initial": 60}},
    },
}
SETTLED = {"reviewer": "ready", "builder": "needs_input", "writer": "working", "nightly": "finished"}


def main() -> int:
    tempfile.tempdir = tempfile.mkdtemp(prefix="fl", dir="/tmp")
    home = Home.new()
    try:
        with stub_server() as stub:
            home.seed_claude(stub.url)
            declare(home)
            home.fleet("start", "agents")
            for name, word in SETTLED.items():
                home.json("wait", name, "--for", word, "--timeout", "60")
            until_backoff(home)
            draw(seen(home))
    finally:
        home.fleet("shutdown")
        end_all(left_behind(home.path))
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)
    return 0


def declare(home: Home) -> None:
    program = claude_path()
    assert program is not None, "`make claude` fetches Claude Code"
    for name, spec in AGENTS.items():
        command = {} if spec["harness"] == "shell" else {"command": [str(program)]}
        manifest = {"apiVersion": "fleet/v1", "kind": "Agent", "metadata": {"name": name}, "spec": {**spec, **command}}
        home.write(f"agents/{name}.yaml", json.dumps(manifest))


def until_backoff(home: Home) -> None:
    """The first death is answered at once; the second waits."""
    while home.json("inspect", "importer")["phase"] != "backoff":
        continue


def seen(home: Home) -> str:
    """`fleet status` as a terminal gets it."""
    ours, theirs = pty.openpty()
    env = {**home.env, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": "24"}
    fleet = Path(sys.executable).parent / "fleet"
    with subprocess.Popen([fleet, "status"], env=env, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        pieces = []
        while piece := read(ours):
            pieces.append(piece)
    os.close(ours)
    return b"".join(pieces).decode()


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


def draw(ansi: str) -> None:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ fleet status", style="bold"))
    console.print(Text.from_ansi(ansi.replace("\r\n", "\n").rstrip()))
    svg = console.export_svg(title="fleet", theme=MONOKAI, unique_id="fleet")
    (ROOT / "docs" / "status.svg").write_text(svg)


if __name__ == "__main__":
    sys.exit(main())
