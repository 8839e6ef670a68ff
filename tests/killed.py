"""A program that is killed in the midst of its work, and what it had told by then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.homes import ROOT


def told_until_killed(program: str, *args: str, enough: int) -> list[list[str]]:
    """Let the Python program work until it has told so many lines, kill it, and return the words of each whole line."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *args],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    told = b""
    try:
        while told.count(b"\n") < enough:
            piece = os.read(process.stdout.fileno(), 65_536)
            assert piece, "it ended by itself"
            told += piece
    finally:
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    return [line.split() for line in (told + rest).decode().rpartition("\n")[0].splitlines()]
