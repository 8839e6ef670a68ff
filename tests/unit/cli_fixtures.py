"""A home, the daemon in it, and the command line run in this process."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet.cli import main
from tests.unit.scripted_daemon import ScriptedDaemon, scripted_daemon


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


class Shell:
    """Runs `fleet WORDS…` in this process, as its script does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str) -> Ran:
        self._monkeypatch.setattr(sys, "argv", ["fleet", *words])
        self._capsys.readouterr()
        code = main()
        out, err = self._capsys.readouterr()
        return Ran(code, out, err)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty FLEET_HOME, short enough for sockets; the current folder is empty too."""
    with tempfile.TemporaryDirectory(prefix="fl") as folder:
        home = Path(folder, "home")
        home.mkdir()
        (Path(folder) / "work").mkdir()
        monkeypatch.chdir(Path(folder) / "work")
        for name in ("NO_COLOR", "TMUX", "STY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("FLEET_HOME", str(home))
        yield home


@pytest.fixture
def daemon(place: Path) -> Iterator[ScriptedDaemon]:
    with scripted_daemon(place / "run" / "control.sock") as daemon:
        yield daemon


@pytest.fixture
def fleet(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)
