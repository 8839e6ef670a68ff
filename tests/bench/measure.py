"""How the benchmark measures: processes from start to end, series side by side, CPU and memory of living ones."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

Way = Callable[[], float]
"""One measured run: its seconds."""


@dataclass(frozen=True)
class Command:
    """A program as it is called: started without a shell, its output thrown away, timed from start to end."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    stdin: Path | None = None

    def __call__(self) -> float:
        files: list[tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, str(self.stdin or os.devnull), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        here = Path.cwd()
        os.chdir(self.cwd)
        try:
            started = time.perf_counter()
            pid = os.posix_spawn(self.argv[0], list(self.argv), dict(self.env), file_actions=files)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            took = time.perf_counter() - started
        finally:
            os.chdir(here)
        if status:
            raise RuntimeError(f"{' '.join(self.argv)} ended with {status}")
        return took


def side_by_side(ways: Mapping[str, Way], rounds: Mapping[str, int]) -> dict[str, list[float]]:
    """Every way as often as `rounds` says, taken in turns, so that what slows the machine slows them alike."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    most = max(rounds[name] for name in ways)
    for way in ways.values():  # once unmeasured: files are in memory then
        way()
    for turn in range(most):
        for name, way in ways.items():
            if turn * rounds[name] // most != (turn + 1) * rounds[name] // most:
                took[name].append(way())
    return took


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which that part of them lies (nearest rank)."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, round(part * len(ranked) + 0.5) - 1)]


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """What these processes have used of the processor so far."""
    return sum(p.cpu_times().user + p.cpu_times().system for p in processes)


def load_of(groups: Mapping[str, Sequence[psutil.Process]], seconds: float) -> dict[str, float]:
    """How much of one core each group takes over the next `seconds`, in per cent."""
    before = {name: cpu_seconds(group) for name, group in groups.items()}
    started = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - started
    return {name: 100 * (cpu_seconds(group) - before[name]) / passed for name, group in groups.items()}


def until(what: Callable[[], bool], *, within: float, every: float = 0.01) -> float:
    """Wait for it; the seconds it took."""
    started = time.monotonic()
    while not what():
        if time.monotonic() - started > within:
            raise TimeoutError(f"did not happen within {within:g} s")
        time.sleep(every)
    return time.monotonic() - started


def taken_away(before: Mapping[str, float]) -> float:
    """The share of the processors' time since then that a virtual machine's host kept for others."""
    now = psutil.cpu_times()._asdict()
    passed = {kind: now[kind] - before[kind] for kind in now}
    return passed.get("steal", 0.0) / max(sum(passed.values()), 1e-9)


def calm() -> None:
    """Have all that was written so far on the disk: nobody's commit is to wait for what another has left unwritten."""
    os.sync()


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in what takes longer, wherever it waits (in the main thread, and not within asyncio)."""

    def over(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def cache() -> Path:
    """Where the peers are installed: outside of the repository, and for more than one run."""
    folder = Path.home() / ".cache" / "fleet-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def machine() -> str:
    """What the figures were taken on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = psutil.virtual_memory().total / 2**30
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {system}, Python {platform.python_version()}"
