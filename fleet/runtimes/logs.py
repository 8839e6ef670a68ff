"""What an agent has printed, kept: the lines that left its screen, redacted, up to a size.

The file is turned over at half the limit, so that the older half goes and the newer stays. Each launch begins
with a line of its own, by which a later daemon finds what of this launch it has kept already.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path

from fleet.redact import redact

FLUSH_AFTER = 2.0
"""Seconds that lines are gathered before they are written: one write for many lines."""
FLUSH_AT = 2000
"""Lines that are written without waiting."""
TRY_AGAIN = 5.0
"""Seconds until lines that could not be written, as on a full disk, are tried again."""
HELD = 20_000
"""How many such lines are held at most; the oldest go."""

log = logging.getLogger(__name__)


class AgentLog:
    """One agent's log."""

    def __init__(self, path: Path, limit: int, secrets: Callable[[], Collection[str]] = tuple) -> None:
        self._secrets = secrets
        self._path = path
        self._limit = limit
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self.keeping = asyncio.Lock()
        """Held by whoever writes the agent's last screen, which ends up here too."""

    def begin(self, generation: str, now: float) -> None:
        """A launch begins here."""
        self.add([_header(generation) + datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")])

    def add(self, lines: list[str]) -> None:
        """Lines to keep. They are written a little later."""
        self._lines += lines
        if not self._lines:
            return
        if len(self._lines) >= FLUSH_AT:
            self._write_now()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_AFTER, self._write_now)

    def _write_now(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self.flush())

    async def flush(self) -> None:
        """Write what was gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        async with self._lock:
            lines, self._lines = self._lines, []
            if not lines:
                return
            try:
                await asyncio.to_thread(self._append, "\n".join(lines) + "\n")
            except OSError as error:
                log.warning("%s: %s; its lines are held", self._path, error)
                self._lines = [*lines, *self._lines][-HELD:]
                self._timer = asyncio.get_running_loop().call_later(TRY_AGAIN, self._write_now)

    def _append(self, text: str) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = redact(text, self._secrets()).encode(errors="surrogateescape")
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(fd).st_size
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(fd, left) :]
            except OSError:
                os.ftruncate(fd, before)  # what is tried again must not stand there twice
                raise
            size = before + len(data)
        finally:
            os.close(fd)
        if size > self._limit // 2:
            self._path.replace(self._older)

    @property
    def _older(self) -> Path:
        return self._path.with_name(self._path.name + ".1")

    def last(self, count: int) -> list[str]:
        """The last lines; a big file costs no more than a small one."""
        lines = _tail(self._path, count)
        if len(lines) < count:
            lines = _tail(self._older, count - len(lines)) + lines
        return lines

    def tail_of(self, generation: str, count: int = 20) -> list[str]:
        """The last lines of one launch that are kept; none where it has left none."""
        lines = self.last(4000)
        header = _header(generation)
        for n in range(len(lines) - 1, -1, -1):
            if lines[n].startswith(header):
                return lines[n + 1 :][-count:]
        return lines[-count:] if lines and len(lines) >= 4000 else []


def _header(generation: str) -> str:
    return f"──── {generation} ──── "


def _tail(path: Path, count: int) -> list[str]:
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            data = b""
            while end > 0 and data.count(b"\n") <= count:
                step = min(65536, end)
                end -= step
                file.seek(end)
                data = file.read(step) + data
    except FileNotFoundError:
        return []
    return data.decode(errors="replace").splitlines()[-count:]
