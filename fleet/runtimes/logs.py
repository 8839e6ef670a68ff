"""What an agent has printed, kept: the lines that left its screen, redacted, up to a size.

The file is turned over at half the limit, so that the older half goes and the newer stays. Each launch begins
with a line of its own, by which a later daemon finds what of this launch it has kept already.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from fleet.redact import redact

FLUSH_AFTER = 10.0
"""Seconds that lines are gathered before they are written, those of all agents at once. A daemon that is killed
meanwhile loses none: the next one finds them in the pane's scrollback."""
FLUSH_AT = 2000
"""Lines of one agent that are written without waiting."""
TRY_AGAIN = 5.0
"""Seconds until lines that could not be written, as on a full disk, are tried again."""
HELD = 20_000
"""How many such lines are held at most; the oldest go."""

log = logging.getLogger(__name__)


class Writer:
    """Writes what many logs have gathered, in one go."""

    def __init__(self) -> None:
        self._waiting: dict[AgentLog, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def soon(self, waiting: AgentLog, after: float = FLUSH_AFTER) -> None:
        """The log has lines to write; at the latest `after` so many seconds, sooner where others are due."""
        self._waiting[waiting] = None
        loop = asyncio.get_running_loop()
        if self._timer is None or self._timer.when() > loop.time() + after:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_later(after, self._begin)

    def _begin(self) -> None:
        self._timer = None
        before = self._writing
        self._writing = asyncio.get_running_loop().create_task(self._write(before))

    async def _write(self, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await before
        await self.flush()

    async def flush(self) -> None:
        """Write what was gathered."""
        waiting, self._waiting = list(self._waiting), {}
        await write(waiting)

    async def close(self) -> None:
        """Write the rest; nothing is written by itself any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        await self.flush()
        if self._timer is not None:
            self._timer.cancel()


async def write(logs: Sequence[AgentLog]) -> None:
    """Write what these have gathered. What cannot be written, as on a full disk, is held and tried again."""
    async with contextlib.AsyncExitStack() as stack:
        for one in logs:
            await stack.enter_async_context(one.writing)
        taken = [(one, lines) for one in logs if (lines := one.take())]
        for one, lines, error in await asyncio.to_thread(_append_all, taken) if taken else ():
            log.warning("%s: %s; its lines are held", one.path, error)
            one.hold(lines)


def _append_all(taken: Sequence[tuple[AgentLog, list[str]]]) -> list[tuple[AgentLog, list[str], OSError]]:
    """Which could not be written, and why."""
    failed = []
    for one, lines in taken:
        try:
            one.append("\n".join(lines) + "\n")
        except OSError as error:
            failed.append((one, lines, error))
    return failed


class AgentLog:
    """One agent's log."""

    def __init__(self, path: Path, limit: int, writer: Writer, secrets: Callable[[], Collection[str]] = tuple) -> None:
        """`secrets` tells what the agent was given as such; it is asked once for each launch."""
        self.path = path
        self._limit = limit
        self._writer = writer
        self._secrets = secrets
        self._given: Collection[str] | None = None
        self._lines: list[str] = []
        self.writing = asyncio.Lock()
        """Held by whoever writes its lines: they stay in order."""
        self.keeping = asyncio.Lock()
        """Held by whoever writes the agent's last screen, which ends up here too."""

    def begin(self, generation: str, now: float) -> None:
        """A launch begins here."""
        self._given = None
        self.add([_header(generation) + datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")])

    def add(self, lines: list[str]) -> None:
        """Lines to keep. They are written a little later."""
        if lines:
            self._lines += lines
            self._writer.soon(self, 0.0 if len(self._lines) >= FLUSH_AT else FLUSH_AFTER)

    def take(self) -> list[str]:
        """The lines to be written now."""
        lines, self._lines = self._lines, []
        return lines

    def hold(self, lines: list[str]) -> None:
        """These could not be written: they are tried again, and the oldest go where it takes too long."""
        self._lines = [*lines, *self._lines][-HELD:]
        self._writer.soon(self, TRY_AGAIN)

    async def flush(self) -> None:
        """Write what was gathered."""
        await write([self])

    def append(self, text: str) -> None:
        """Write it, redacted. It blocks."""
        if self._given is None:
            self._given = self._secrets()
        data = redact(text, self._given).encode(errors="surrogateescape")
        fd = self._open()
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
            self.path.replace(self._older)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self.path, flags, 0o600)

    @property
    def _older(self) -> Path:
        return self.path.with_name(self.path.name + ".1")

    def last(self, count: int) -> list[str]:
        """The last lines; a big file costs no more than a small one."""
        lines = _tail(self.path, count)
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


class Logs:
    """The logs of all agents of a host, which are written together."""

    def __init__(self, folder: Callable[[str], Path], limit: int, secrets: Callable[[str], Collection[str]]) -> None:
        """`folder` is an agent's own, `limit` in bytes; `secrets` tells what an agent was given as such."""
        self._folder, self._limit, self._secrets = folder, limit, secrets
        self._logs: dict[str, AgentLog] = {}
        self._writer = Writer()

    def of(self, agent: str) -> AgentLog:
        if agent not in self._logs:
            secrets = functools.partial(self._secrets, agent)
            self._logs[agent] = AgentLog(self._folder(agent) / "log", self._limit, self._writer, secrets)
        return self._logs[agent]

    async def close(self) -> None:
        """Write the rest."""
        await self._writer.close()


def not_kept(kept: list[str], lines: list[str]) -> list[str]:
    """Of the lines, those after what the log ends with already."""
    if not kept:
        return lines
    for end in range(len(lines), 0, -1):
        known = kept[-end:]
        if lines[end - len(known) : end] == known:
            return lines[end:]
    return lines


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
