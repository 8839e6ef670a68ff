"""`make picture`: docs/status.svg, drawn from what `fleet status` prints of a real fleet.

Three real Claude Code agents talk to the stub model server; two shell agents stand beside them.
"""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.homes import ROOT, Home, claude_path, end_all, left_behind, stub_server

PICTURE = ROOT / "docs" / "status.svg"
COLUMNS = 112
ADVANCE, LEADING, MARGIN = 8.43, 20.0, 16.0
"""A character's width at this font size, a line's height, and the edge; in pixels."""
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
SHOWN = {
    "reviewer": ("running", "ready"),
    "builder": ("running", "needs_input"),
    "writer": ("running", "working"),
    "nightly": ("finished", None),
    "importer": ("backoff", None),
}
"""What the picture is to show, of each agent its phase and activity."""


def main() -> int:
    tempfile.tempdir = tempfile.mkdtemp(prefix="fl", dir="/tmp")
    home = Home.new()
    try:
        with stub_server() as stub:
            home.seed_claude(stub.url)
            declare(home)
            home.fleet("start", "agents")
            until_shown(home)
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


def until_shown(home: Home) -> None:
    """Wait until all stand as they are to be shown, and have for some seconds."""
    calm, deadline = 0, time.monotonic() + 60
    while calm < 20:
        agents = home.json("status")["agents"]
        told = {a["name"]: (a["phase"], SHOWN[a["name"]][1] and a["activity"]) for a in agents}
        assert time.monotonic() < deadline, told
        calm = calm + 1 if told == SHOWN else 0
        time.sleep(0.2)


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
    """The terminal as an SVG. Every run of words stands at its own column, so that columns hold in any font."""
    told = Text.from_ansi(ansi.replace("\r\n", "\n").rstrip())
    lines = [Text("$ fleet status", style="bold"), *told.split("\n")]
    console = Console(width=COLUMNS, color_system="256", file=io.StringIO(), force_terminal=True)
    shapes = [shape for number, line in enumerate(lines) for shape in runs(console, line, number)]
    width, height = COLUMNS * ADVANCE + 2 * MARGIN, len(lines) * LEADING + 2 * MARGIN
    frame = f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#16181d"/>'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        'aria-label="fleet status" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14">'
    )
    PICTURE.write_text("\n".join([head, frame, *shapes, "</svg>"]) + "\n")


def runs(console: Console, line: Text, number: int) -> Iterator[str]:
    """The words of a line that stand together, each with its style and place."""
    column = 0
    for segment in console.render(line, console.options.update(width=COLUMNS, no_wrap=True)):
        for found in re.finditer(r"\S+(?: \S+)*", segment.text):
            x, y = MARGIN + (column + found.start()) * ADVANCE, MARGIN + (number + 0.75) * LEADING
            style = segment.style or Style()
            colour = style.color.get_truecolor(MONOKAI).hex if style.color else "#d9d9d9"
            weight = ' font-weight="bold"' if style.bold else ""
            dim = ' opacity="0.6"' if style.dim else ""
            yield f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{weight}{dim}>{escape(found.group())}</text>'
        column += len(segment.text)


if __name__ == "__main__":
    sys.exit(main())
