"""One launch's folder on this machine: what stands in it, and which processes belong to the launch.

  env claim launcher program exit   the launcher's (launcher.sh)
  launcher.sh                       the launcher itself
  pane                              the multiplexer and its socket
  server                            the multiplexer's server that holds the pane: pid and start time
  seen                              processes that were once seen in the launch's tree
  screen                            the last screen, kept after death
  purged                            nothing of this launch lives any more, and nothing of it can come back

Everything here blocks; call it in a thread.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet import processes
from fleet.processes import Row
from fleet.runtimes import files
from fleet.terms import File, Process

LAUNCHER = "launcher.sh"
_LAUNCHER = Path(__file__).with_name(LAUNCHER).read_bytes()
"""Read at the start, as all that stands beside the code: what replaces it under a running daemon is for the next."""
SHELL_OWN = frozenset(("_", "PPID", "OPTIND", "UID", "EUID", "BASHOPTS", "SHELLOPTS", "BASH_VERSINFO", "LINENO"))
"""Variables a shell keeps for itself: assigning them fails or means something else."""
REMOVED_IN = 40
"""Tries, a twentieth of a second apart."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a launch's folder tells, and whether its launcher lives."""

    launcher: Process | None
    program: Process | None
    server: Process | None
    exit_status: int | None
    screen_kept: bool
    alive: bool
    """Whether the launcher lives."""

    @property
    def server_lost(self) -> bool:
        """The pane went with its server. (A pane whose last screen was kept was there when the program ended.)"""
        return self.server is not None and not self.screen_kept and not processes.alive(self.server)


def facts(folder: Path) -> Facts:
    launcher = _process(folder / "launcher")
    alive = launcher is not None and processes.alive(launcher)
    noted = (files.read(folder / "exit") or b"").strip()
    return Facts(
        launcher=launcher,
        program=_process(folder / "program"),
        server=_process(folder / "server"),
        exit_status=int(noted) if noted.isdigit() else None,
        screen_kept=(folder / "screen").exists(),
        alive=alive,
    )


def launcher(folder: Path) -> File:
    """The launcher, in the launch's own folder."""
    return File(str(folder / LAUNCHER), _LAUNCHER, 0o700)


def quote_env(env: Mapping[str, str]) -> bytes:
    """The environment as assignments for `.`: single quotes, in which sh takes every byte for itself.

    Names that no shell can hold (exported bash functions) are left out, and those a shell keeps for itself.
    """
    lines = []
    for name, value in env.items():
        if name.isidentifier() and name.isascii() and name not in SHELL_OWN:
            lines.append(f"{name}='" + value.replace("'", "'\\''") + "'\n")
    return os.fsencode("".join(lines))


def note(folder: Path, name: str, process: Process) -> File:
    """The file that notes a process, in the launcher's own form."""
    return File(str(folder / name), _line(process))


def pane(folder: Path) -> tuple[str, str] | None:
    """The multiplexer and the socket of the launch's pane."""
    words = (files.read(folder / "pane") or b"").decode().split("\n")
    return (words[0], words[1]) if len(words) > 1 else None


def search(folders: Iterable[Path]) -> set[Process]:
    """All processes of these launches that live: by their trees, by the mark they bear, by having been seen."""
    return found(folders, *processes.census())


def found(folders: Iterable[Path], rows: Mapping[int, Row], marks: Mapping[Process, str]) -> set[Process]:
    """The same in a census that was taken."""
    roots: list[Process] = []
    generations = set()
    for folder in folders:
        generations.add(folder.name)
        noted = (_process(folder / "launcher"), _process(folder / "program"))
        roots += [process for process in noted if process is not None]
        roots += _seen(folder)
    roots += [process for process, mark in marks.items() if mark in generations]
    return {process for process in processes.descendants(rows, roots) if process.pid != os.getpid()}


def strays(agents: Path, keep: Iterable[str]) -> dict[Process, str]:
    """Processes that bear the mark of a launch below this folder which is not among `keep`, with its generation."""
    _, marks = processes.census("FLEET_LAUNCH")
    kept = set(keep)
    found = {}
    for process, folder in marks.items():
        generation = Path(folder).name
        if Path(folder).is_relative_to(agents) and generation not in kept and process.pid != os.getpid():
            found[process] = generation
    return found


class Trees:
    """Who was seen in each launch's tree, noted in its folder."""

    def __init__(self) -> None:
        self._table = processes.Table()
        self._noted: dict[str, set[Process]] = {}
        """Each tree as it was last time, by folder, so that the files are read once."""

    def note(self, roots: Mapping[str, Collection[Process]]) -> None:
        """Note the processes below each launch's own, by its folder, that were not noted before. (Its own are those
        that the folder names anyway: the launcher and its program.)"""
        forest = processes.Forest(self._table.read())
        for folder in self._noted.keys() - roots.keys():
            del self._noted[folder]
        for folder, own in roots.items():
            if folder not in self._noted:
                self._noted[folder] = {*own, *_seen(Path(folder))}
            tree = forest.below(own)
            if tree != self._noted[folder]:
                new, self._noted[folder] = tree - self._noted[folder], tree
                _note_seen(Path(folder), new)


def _note_seen(folder: Path, new: Iterable[Process]) -> None:
    lines = b"".join(_line(process) for process in sorted(new, key=lambda process: process.pid))
    if lines and folder.is_dir():
        with open(folder / "seen", "ab") as file:
            file.write(lines)


def mark_purged(folder: Path) -> None:
    """Nothing of the launch lives. On a full disk it stays unsaid, and the next to ask looks for itself."""
    if folder.is_dir():
        with contextlib.suppress(OSError):
            (folder / "purged").touch()


def is_purged(folder: Path) -> bool:
    return (folder / "purged").exists()


def forget_oldest(launches: Path, keep: str | None, count: int) -> None:
    """Remove the folders of purged launches, but for the latest few."""
    ended = [folder for folder in launches.iterdir() if folder.name != keep and is_purged(folder)]
    ended.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in ended[count:]:
        remove(folder)


def _process(path: Path) -> Process | None:
    try:
        return processes.parse(path.read_bytes(), path.stat().st_mtime)
    except OSError:
        return None


def _line(process: Process) -> bytes:
    return f"{process.pid} {process.start}\n".encode()


def _seen(folder: Path) -> list[Process]:
    found = [processes.parse(line) for line in (files.read(folder / "seen") or b"").splitlines()]
    return [process for process in found if process is not None]


def remove(folder: Path) -> None:
    """Take a folder away with all that is in it, also where somebody who is just ending still writes a last note."""
    for _ in range(REMOVED_IN):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)
