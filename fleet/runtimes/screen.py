"""GNU screen, the alternative multiplexer: one session (and one process of screen's) per launch.

Its `hardcopy` gives the characters of a pane and nothing else: no colours, no cursor, no title, and of a character
beyond Latin-1 only the lowest byte, so what is not plain ASCII is shown as a replacement character. What it cannot
tell is unknown, and nothing is typed on a guess (`Capabilities`). There is no kept client as with tmux: each look is
a process, so panes are looked at once a second.

Targets are exact: screen, too, would match a name by its beginning; `PID.GENERATION` is one session's alone.
A session's size is that of the terminal it is opened on, so it is opened on one of ours, and then detached.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import pty
import re
import struct
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet import processes
from fleet.clock import Clock
from fleet.errors import HostUnreachable, LaunchError, Usage
from fleet.runtimes import files
from fleet.runtimes.base import Capabilities
from fleet.runtimes.local_tmux import BARE, UMASK, program
from fleet.runtimes.multiplexers import OnSeen, Seen, ServerGone
from fleet.settings import Settings
from fleet.terms import File, Process, Screen

log = logging.getLogger(__name__)

CAPABILITIES = Capabilities(colours=False, cursor=False, title=False, alternate=False)
RC = """\
startup_message off
defutf8 on
vbell off
bell_msg ""
vbell_msg ""
defflow off
altscreen on
msgwait 0
zombie qr
defscrollback {history}
"""
"""`zombie`: the pane stays when its program has ended, until it is closed."""
PARALLEL = 4
"""Looks at once."""

KEYS = {
    "Enter": b"\r",
    "Escape": b"\x1b",
    "Tab": b"\t",
    "BTab": b"\x1b[Z",
    "Space": b" ",
    "BSpace": b"\x7f",
    "Up": b"\x1b[A",
    "Down": b"\x1b[B",
    "Right": b"\x1b[C",
    "Left": b"\x1b[D",
    "Home": b"\x1b[1~",
    "End": b"\x1b[4~",
    "PageUp": b"\x1b[5~",
    "PageDown": b"\x1b[6~",
    "PPage": b"\x1b[5~",
    "NPage": b"\x1b[6~",
    "DC": b"\x1b[3~",
    "IC": b"\x1b[2~",
}
"""tmux's key names, as the bytes a terminal sends."""
_ENDED = re.compile(r"\n*=== Command [^\n]* ===[^\n]*\s*\Z")


def key_bytes(name: str) -> bytes:
    """What a terminal sends for a key of that name; a name that is none is text."""
    if name in KEYS:
        return KEYS[name]
    if len(name) == 3 and name[:2] in ("C-", "^-"):
        return bytes([ord(name[2].upper()) & 0x1F])
    if name.startswith("M-") and len(name) > 2:
        return b"\x1b" + key_bytes(name[2:])
    return name.encode(errors="surrogateescape")


@dataclass(slots=True)
class _Watched:
    """One pane that is looked at again and again."""

    on_seen: OnSeen
    on_missing: Callable[[], None]
    text: str | None = None
    history: tuple[str, ...] = ()
    seen_at: float | None = None


class Screens:
    """All panes of one fleet that are screen's. `folder` is its socket folder."""

    capabilities = CAPABILITIES
    term = "screen-256color"

    def __init__(self, folder: Path, settings: Settings, clock: Clock) -> None:
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._sizes: dict[str, tuple[int, int]] = {}
        self._watched: dict[str, _Watched] = {}
        self._typing: dict[str, asyncio.Lock] = {}
        self._task: asyncio.Task[None] | None = None
        self._count = itertools.count()
        self._parallel = asyncio.Semaphore(PARALLEL)
        self._on_host: Callable[[str | None], None] = lambda reason: None

    # -- sessions ------------------------------------------------------------------------------------------------

    async def open(self, name: str, generation: str, argv: Sequence[str], width: int, height: int) -> Process:
        found = await self._session(generation)
        if found is None:
            await asyncio.to_thread(files.make_folder, self._folder)
            rc = RC.format(history=self._settings.history_limit).encode()
            await asyncio.to_thread(files.put, [File(str(self._rc), rc)])
            found = await self._begin(generation, argv, width, height)
        process = processes.find(int(found.split(".")[0]))
        if process is None:
            raise LaunchError(f"the screen session of {name} ended at once")
        return process

    async def _begin(self, generation: str, argv: Sequence[str], width: int, height: int) -> str:
        """Open the session on a terminal of ours, which gives it its size, and detach it."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        loop = asyncio.get_running_loop()
        drain = _drain(ours)
        loop.add_reader(ours, drain)
        client: asyncio.subprocess.Process | None = None
        try:
            client = await self._spawn(["-c", str(self._rc), "-S", generation, *argv], terminal=theirs)
            async with asyncio.timeout(self._settings.observe_timeout):
                while (found := await self._session(generation)) is None:
                    if client.returncode is not None:
                        raise LaunchError(f"screen would not open a session for {generation}")
                    await asyncio.sleep(0.01)
                while client.returncode is None:
                    with contextlib.suppress(HostUnreachable):  # its socket is there before it takes commands
                        await self._tell(found, "detach")
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise HostUnreachable("screen did not open a session in time") from None
        finally:
            loop.remove_reader(ours)
            os.close(ours)
            os.close(theirs)
            if client is not None:
                await _ended(client)
        self._sizes[generation] = (width, height)
        return found

    async def close_pane(self, generation: str) -> None:
        found = await self._session(generation)
        if found is not None:
            with contextlib.suppress(ServerGone):
                await self._tell(found, "quit", window=False)
            try:
                async with asyncio.timeout(self._settings.observe_timeout):
                    while _lives(found):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            except TimeoutError:
                raise HostUnreachable("screen would not close its session") from None
        self._sizes.pop(generation, None)
        self._typing.pop(generation, None)

    async def panes(self) -> set[str]:
        names = await asyncio.to_thread(files.names, self._folder)
        return {name.partition(".")[2] for name in names if _lives(name)}

    async def _session(self, generation: str) -> str | None:
        """`PID.GENERATION` of that launch's session, if its process lives."""
        for name in await asyncio.to_thread(files.names, self._folder):
            if name.partition(".")[2] == generation and _lives(name):
                return name
        return None

    def attach_argv(self, name: str, generation: str, *, read_only: bool) -> list[str]:
        """The command a person attaches with. Ctrl-A D leaves; the pane takes the terminal's size."""
        if read_only:
            raise Usage("screen cannot attach read-only.", hint="`fleet logs NAME --screen` shows the pane.")
        sessions = [name for name in files.names(self._folder) if name.partition(".")[2] == generation]
        target = sessions[0] if sessions else generation
        return ["env", f"SCREENDIR={self._folder}", "screen", "-U", "-x", target]

    # -- seeing and typing ---------------------------------------------------------------------------------------

    async def see(self, generation: str) -> Seen | None:
        found = await self._session(generation)
        if found is None:
            return None
        text, _ = await self._hardcopy(found, generation)
        return Seen(self._screen(generation, text), found)

    async def _hardcopy(self, session: str, generation: str) -> tuple[str, tuple[str, ...]]:
        """What is visible, and the lines above it."""
        content = await self._copy(session, generation)
        lines = _legible(content).split("\n")[:-1]
        height = self._sizes.get(generation, (0, self._settings.pane_height))[1]
        return "\n".join(lines[-height:]) + "\n", tuple(lines[:-height])

    async def last(self, generation: str) -> Seen | None:
        found = await self._session(generation)
        if found is None:
            return None
        text, history = await self._hardcopy(found, generation)
        watched = self._watched.get(generation)
        if watched is None or watched.text is None:
            return Seen(self._screen(generation, text), found, history, first=True)
        scrolled = _news(watched.history, history)
        watched.text, watched.history = text, history
        return Seen(self._screen(generation, text), found, scrolled)

    async def _copy(self, session: str, generation: str, *before: str) -> bytes:
        """A hardcopy, and `before` it some commands. It is all one message to screen: `-X` returns before it is done,
        and two of them may be done in either order. The picture is the proof that the rest was done."""
        height = self._sizes.get(generation, (0, 1))[1]
        name = f"{generation}.{next(self._count)}.copy"
        path = self._beside / name
        await self._tell(session, "eval", *before, f"hardcopy -h {name}")
        try:
            async with asyncio.timeout(self._settings.observe_timeout):
                while True:
                    content = await asyncio.to_thread(files.read, path)
                    if content is not None and content.endswith(b"\n") and content.count(b"\n") >= height:
                        return content
                    if not _lives(session):
                        raise ServerGone("the screen session is gone")
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise HostUnreachable(f"screen did not answer within {self._settings.observe_timeout:g} s") from None
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    def _screen(self, generation: str, text: str) -> Screen:
        width, height = self._sizes.get(generation, (None, None))
        return Screen(text=_ENDED.sub("\n", text), width=width, height=height)

    async def type(self, generation: str, keys: Sequence[str], *, literal: bool) -> None:
        """By way of a register, which takes every byte as it is; `stuff` would expand `^`, `$` and backslashes."""
        found = await self._session(generation)
        if found is None:
            raise HostUnreachable("the agent has no pane")
        text = b"".join(key.encode(errors="surrogateescape") if literal else key_bytes(key) for key in keys)
        if not text:
            return
        name = f"{generation}.{next(self._count)}.keys"
        path = self._beside / name
        async with self._typing.setdefault(generation, asyncio.Lock()):
            await asyncio.to_thread(files.put, [File(str(path), text)])
            try:
                await self._copy(found, generation, f"readreg p {name}", "paste p")
            finally:
                await asyncio.to_thread(path.unlink, missing_ok=True)

    # -- watching ------------------------------------------------------------------------------------------------

    def on_host(self, callback: Callable[[str | None], None]) -> None:
        self._on_host = callback

    def watch(self, generation: str, on_seen: OnSeen, on_missing: Callable[[], None]) -> None:
        self._watched[generation] = _Watched(on_seen, on_missing)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._observe(), name="fleet-screen-observer")

    def unwatch(self, generation: str) -> None:
        self._watched.pop(generation, None)

    def seen_at(self, generation: str) -> float | None:
        watched = self._watched.get(generation)
        return None if watched is None else watched.seen_at

    async def dismiss(self) -> None:
        """There is nothing to end: a session's process ends with its pane."""

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _observe(self) -> None:
        while self._watched:
            results = await asyncio.gather(
                *(self._look_again(generation, watched) for generation, watched in list(self._watched.items())),
                return_exceptions=True,
            )
            failed = [result for result in results if isinstance(result, Exception)]
            for error in failed:
                if not isinstance(error, HostUnreachable):  # who looks must not stop looking: there is nobody else
                    log.error("a look at a pane failed", exc_info=error)
            self._on_host(next((str(error) or type(error).__name__ for error in failed), None))
            await self._clock.sleep(self._settings.observe_idle_interval)

    async def _look_again(self, generation: str, watched: _Watched) -> None:
        async with self._parallel:
            found = await self._session(generation)
            if found is None:
                if self._watched.pop(generation, None) is not None:
                    watched.on_missing()
                return
            text, history = await self._hardcopy(found, generation)
        watched.seen_at = self._clock.now()
        if text == watched.text and history == watched.history:
            return
        first = watched.text is None
        scrolled = history if first else _news(watched.history, history)
        watched.text, watched.history = text, history
        if self._watched.get(generation) is watched:
            watched.on_seen(Seen(self._screen(generation, text), found, scrolled, first))

    # -- screen itself -------------------------------------------------------------------------------------------

    @property
    def _rc(self) -> Path:
        return self._beside / "rc"

    @property
    def _beside(self) -> Path:
        """A folder for our own files: in its socket folder screen takes every name for a session."""
        return self._folder.with_name(self._folder.name + "-files")

    async def _tell(self, session: str, *words: str, window: bool = True) -> None:
        """Have a session do one command, and wait until it has."""
        process = await self._spawn(["-S", session, *(("-p", "0") * window), "-X", *words])
        try:
            async with asyncio.timeout(self._settings.observe_timeout):
                await process.wait()
        except TimeoutError:
            raise HostUnreachable(f"screen did not answer within {self._settings.observe_timeout:g} s") from None
        finally:
            await _ended(process)
        if process.returncode and _lives(session):
            raise HostUnreachable(f"screen would not {words[0]}")
        if process.returncode:
            raise ServerGone("the screen session is gone")

    async def _spawn(self, args: Sequence[str], terminal: int | None = None) -> asyncio.subprocess.Process:
        stream = asyncio.subprocess.DEVNULL if terminal is None else terminal
        try:
            return await asyncio.create_subprocess_exec(
                program("screen"),
                "-U",
                *args,
                env={**BARE, "SCREENDIR": str(self._folder), "TERM": "xterm-256color"},
                cwd=self._beside,  # screen reads and writes our files by their names alone
                stdin=stream,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                umask=UMASK,
            )
        except FileNotFoundError:
            raise LaunchError("screen is not installed", hint="apt install screen, or brew install screen") from None


def _lives(session: str) -> bool:
    """Whether the process of a session named `PID.NAME` lives."""
    pid = session.partition(".")[0]
    return pid.isdigit() and processes.start_time(int(pid)) is not None


async def _ended(process: asyncio.subprocess.Process) -> None:
    """See that a client of ours is gone, also where nobody waits for it any more."""
    if process.returncode is None:
        process.kill()
        await process.wait()


def _drain(fd: int) -> Callable[[], None]:
    """A reader that takes whatever comes and keeps none of it."""

    def drain() -> None:
        with contextlib.suppress(OSError):
            os.read(fd, 65536)

    return drain


def _legible(copy: bytes) -> str:
    """A hardcopy as text. Each cell is one byte; 0xff fills the second half of a wide character."""
    text = copy.replace(b"\xff", b"").decode("latin-1")
    return "".join(c if c == "\n" or " " <= c <= "~" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _news(before: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of a scrollback that were not in the one before, of which the oldest may have been dropped."""
    for dropped in range(len(before) + 1):
        rest = before[dropped:]
        if now[: len(rest)] == rest:
            return now[len(rest) :]
    return now
