"""tmux: what to say to it and how to read it.

One server (a socket of fleet's own) holds up to a hundred agents, one session each, named as the agent. One kept
control-mode client (`tmux -C`) per server does everything: it costs no process per pane, it answers a sweep over
all panes in a millisecond, and no secret travels in an argument list. How that client is reached (a pipe on this
machine, a channel of an ssh connection) is the caller's: it brings a `Connect`.

What holds here:
- A command is one line and is answered by one block per command in it, matched on the whole `%begin` triple, since
  a pane may print anything. After an error the rest of that line was not run.
- Whatever does not answer in time is killed and asked anew; that is `HostUnreachable`, never a death.
- Targets are exact: a pane id, or `=name`. tmux's prefix matching would stop web-2 for web.
- Nothing from outside is ever expanded: single quotes, `-l`, and no folder in `-c` (tmux expands formats there).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fleet.clock import Clock, beat
from fleet.errors import HostUnreachable, LaunchError
from fleet.runtimes.base import Capabilities
from fleet.runtimes.multiplexers import OnSeen, Seen, ServerGone
from fleet.settings import Settings
from fleet.terms import Screen

log = logging.getLogger(__name__)

CAPABILITIES = Capabilities(colours=True, cursor=True, title=True, alternate=True)
KEEPER = "_keeper"
"""The session our client sits in, with a pane that runs nothing. No agent's name begins with `_`."""
BATCH = 25
"""Captures asked for at once: enough to spare tmux its price per wake-up, few enough to stay in its buffers."""
STILL = 2.0
"""Seconds without a capture after which a pane's next change is the first of a new series …"""
STEADY = 3.0
"""… and how long a series lasts until the pane is one that keeps moving."""
MORE_LINES = 20
"""How many lines of the scrollback are asked for beyond those that were new at the sweep …"""
MANY_LINES = 200
"""… and where the lines that were last are not among them."""
FORSAKEN = 60.0
"""Seconds of a server's silence after which it is asked through another client."""
ANCHOR = 4
"""Lines that were reported last, by which the next capture is joined to them."""
TERM = "tmux-256color"

_SGR = re.compile(rb"\x1b\[[0-9;:]*m|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x0e\x0f]")
_SWEEP = "\t".join(
    (
        "#{pane_id}",
        "#{window_activity}",
        "#{pane_dead}",
        "#{history_size}",
        "#{cursor_x} #{cursor_y}",
        "#{session_id}",
        "#{@fleet}",
    )
)


# -- what to say -------------------------------------------------------------------------------------------------


def quote(text: str) -> str:
    """The text as one word of tmux's command language, nothing in it expanded."""
    words = re.split(r"([\x00-\x1f\x7f]+)", text)
    parts = []
    for n, word in enumerate(words):
        if n % 2:
            parts.append('"' + "".join(f"\\{ord(c):03o}" for c in word) + '"')
        elif word:
            parts.append("'" + word.replace("'", "'\\''") + "'")
    return "".join(parts) or "''"


def command(*words: str) -> str:
    return " ".join(quote(word) for word in words)


_LIST = command("list-panes", "-a", "-F", _SWEEP)
"""What every sweep asks first."""


def start_argv(socket: str, settings: Settings) -> list[str]:
    """The command that starts a server. It stays in `ps` for the server's life, so it says nothing of agents.

    Never `window-size manual` here: with `new-session` it crashes servers up to 3.6. Each window is sized by itself.
    """
    commands = [
        ["start-server"],
        ["set-option", "-s", "exit-empty", "off"],
        ["set-option", "-s", "escape-time", "20"],
        ["set-option", "-s", "default-terminal", TERM],
        ["set-option", "-g", "status", "off"],
        ["set-option", "-g", "default-shell", "/bin/sh"],
        ["set-option", "-g", "update-environment", ""],
        ["set-option", "-g", "history-limit", str(settings.history_limit)],
        ["set-option", "-g", "visual-bell", "on"],
        ["set-option", "-g", "bell-action", "none"],
        ["set-option", "-wg", "remain-on-exit", "on"],
        ["set-option", "-wg", "remain-on-exit-format", ""],
        ["set-option", "-wg", "automatic-rename", "off"],
        ["set-option", "-wg", "allow-rename", "off"],
        ["new-session", "-d", "-s", KEEPER, "-x", "20", "-y", "5", "--", "/bin/sh", "-c", ":"],
    ]
    argv = ["tmux", "-u", "-S", socket, "-f", "/dev/null"]
    for n, words in enumerate(commands):
        argv += [";"] * bool(n) + words
    return argv


def client_argv(socket: str) -> list[str]:
    """The command of our kept client. `no-output` must be given here: switched on later it can wedge the client."""
    return [
        "tmux",
        "-N",
        "-u",
        "-S",
        socket,
        "-f",
        "/dev/null",
        "-C",
        "attach-session",
        "-f",
        "no-output",
        "-t",
        f"={KEEPER}",
    ]


def new_session_line(name: str, generation: str, argv: Sequence[str], width: int, height: int) -> str:
    """The four commands, in one line, that open a session with one pane for a launch."""
    size = ("-x", str(width), "-y", str(height))
    commands = (
        ("new-session", "-d", "-s", name, *size, "-c", "/", "--", *argv),
        ("set-option", "-t", f"={name}:", "@fleet", generation),
        ("select-pane", "-t", f"={name}:", "-T", ""),
        ("resize-window", "-t", f"={name}:", *size),
    )
    return " ; ".join(command(*words) for words in commands)


def attach_argv(socket: str, session: str, *, read_only: bool) -> list[str]:
    """The command a person attaches with. The pane keeps its size: its window is sized by hand."""
    only = ["-r"] if read_only else []
    return ["tmux", "-N", "-u", "-S", socket, "-f", "/dev/null", "attach-session", *only, "-t", f"={session}"]


_DETAIL = quote(
    "\t".join(
        (
            "#{cursor_x}",
            "#{cursor_y}",
            "#{pane_width}",
            "#{pane_height}",
            "#{alternate_on}",
            "#{pane_dead}",
            "#{history_size}",
            "#{pane_title}",
        )
    )
)
"""What is asked of a pane beside its capture."""


# -- how to read it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """The answer to one command."""

    ok: bool
    second: int
    """The server's clock when it ran the command."""
    body: bytes


@dataclass(slots=True)
class _Asked:
    """One line that was sent: how many blocks it is answered with, and who waits."""

    count: int
    answer: asyncio.Future[list[Block]]
    blocks: list[Block] = field(default_factory=list)


class Pipe(Protocol):
    """The way to one `tmux -C` process."""

    def write(self, data: bytes) -> None: ...

    def kill(self) -> None:
        """End the client process, and with it the connection. The server and its panes stay."""
        ...

    async def wait(self) -> None:
        """Return when the client has ended."""
        ...


class Hearer(Protocol):
    """Who hears what a process at the other end of a pipe prints, and that it has ended."""

    pipe: Pipe | None

    def feed(self, data: bytes) -> None: ...

    def lost(self, reason: str) -> None: ...


class Control:
    """The control-mode protocol, over bytes: feed it what the client prints, ask it commands."""

    def __init__(self, on_lost: Callable[[], None] = lambda: None) -> None:
        self.pipe: Pipe | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = False
        self._served = False
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._asked: deque[_Asked] = deque()
        self._begun: tuple[bytes, bool, int] | None = None
        """The block that is being read: its triple, whether it answers us, the server's second."""
        self.silence: asyncio.Future[None] | None = None
        """Since an answer has failed to come in time: done once one comes."""
        self.silent_since = 0.0

    def feed(self, data: bytes) -> None:
        """Take what the client printed."""
        self._buffer += data
        start = 0
        while True:
            if self._begun is None:
                stop = self._buffer.find(b"\n", start)
                if stop < 0:
                    break
                self._line(bytes(self._buffer[start:stop]))
                start = stop + 1
            else:
                found = self._block_end(start)
                if found is None:
                    break
                start = found
        del self._buffer[:start]

    def _line(self, line: bytes) -> None:
        """A line outside a block: the beginning of one, or a notification, of which we need none."""
        if line.startswith(b"%begin "):
            words = line.split(b" ")
            self._begun = (line[7:], words[3] == b"1", int(words[1]))

    def _block_end(self, start: int) -> int | None:
        """Close the block whose body starts at `start`, if its end is there; where it ended."""
        assert self._begun is not None
        triple, ours, second = self._begun
        for word in (b"%end ", b"%error "):
            mark = word + triple + b"\n"
            if self._buffer.startswith(mark, start):
                at = start
            else:
                at = self._buffer.find(b"\n" + mark, start)
                if at < 0:
                    continue
                at += 1
            self._begun = None
            block = Block(word == b"%end ", second, bytes(self._buffer[start:at]))
            if ours:
                self._answered(block)
            elif not self.ready.done():
                self._greeted(block)
            return at + len(mark)
        return None

    def _greeted(self, block: Block) -> None:
        """The block of the client's own `attach-session`."""
        if block.ok:
            self._served = True
            self.ready.set_result(None)
        else:
            self.ready.set_exception(ServerGone(block.body.decode(errors="replace").strip()))

    def _answered(self, block: Block) -> None:
        if self.silence is not None:
            self._heard()
        if not self._asked:
            return
        asked = self._asked[0]
        asked.blocks.append(block)
        if len(asked.blocks) == asked.count or not block.ok:
            self._asked.popleft()
            if not asked.answer.done():
                asked.answer.set_result(asked.blocks)

    def fell_silent(self) -> None:
        """An answer did not come in time."""
        if self.silence is None and not self.ended:
            loop = asyncio.get_running_loop()
            self.silence, self.silent_since = loop.create_future(), loop.time()

    def _heard(self) -> None:
        if self.silence is not None and not self.silence.done():
            self.silence.set_result(None)
        self.silence = None

    def lost(self, reason: str) -> None:
        """The client has ended, or was ended: nobody waits for it any longer."""
        if self.ended:
            return
        self.ended = True
        self._heard()
        if not self.ready.done():
            self.ready.set_exception(ServerGone(reason))
            self.ready.exception()  # where nobody waits, nobody has to be told
        for asked in self._asked:
            if not asked.answer.done():
                asked.answer.set_exception(HostUnreachable(reason))
                asked.answer.exception()
        self._asked.clear()
        if self.pipe is not None:
            self.pipe.kill()
        if self._served:
            self._on_lost()

    def send(self, lines: Iterable[tuple[str, int]]) -> list[asyncio.Future[list[Block]]]:
        """Send command lines, each with the number of commands in it, in one write; their answers to come."""
        if self.ended or self.pipe is None:
            raise HostUnreachable("the tmux client has ended")
        loop = asyncio.get_running_loop()
        answers = []
        text = []
        for line, count in lines:
            asked = _Asked(count, loop.create_future())
            self._asked.append(asked)
            answers.append(asked.answer)
            text.append(line)
        self.pipe.write(("\n".join(text) + "\n").encode(errors="surrogateescape"))
        return answers


Connect = Callable[[Callable[[], None]], Awaitable[Control]]
"""Opens the way to the server and gives a `Control` that is ready; its argument is the `on_lost` of that. Raises
`ServerGone` where there is no server any more, `HostUnreachable` where that cannot be told."""


@dataclass(slots=True)
class _Pane:
    """What is known of one agent's pane."""

    id: str
    session: str
    activity: int = 0
    dead: bool = False
    captured: int = -1
    """The server's second of the last capture."""
    captured_at: float = 0.0
    """The same by our own clock."""
    moving_since: float = 0.0
    """When the first capture was of those that came without a longer pause between them."""
    cursor: str = ""
    moved: bool = False
    """Whether the cursor was elsewhere at a sweep since the last capture."""
    history: int = 0
    """How many lines the scrollback had at the sweep."""
    logged: int = -1
    """How many lines of the scrollback have been reported; -1: it was never captured."""
    newest: tuple[str, ...] = ()
    """The last lines that were reported."""
    doubt: bool = False
    """Lines went by that cannot be joined to those before: more of them are asked for."""
    grew: int = 0
    """How many lines had entered the scrollback at the last capture that showed something new."""
    seen: int = -1
    """How many lines the scrollback had at the last capture."""
    raw: bytes = b""
    detail: bytes = b""


def panes_of(socket: str) -> set[str] | None:
    """The generations that have a pane on a server nobody observes; `None` where there is no server. It blocks.

    For cleaning up only: here libtmux's process for each question does not matter, and its client needs no minding.
    """
    import libtmux  # noqa: PLC0415 (100 ms that only `fleet cleanup` pays)

    answer = libtmux.Server(socket_path=socket, config_file="/dev/null").cmd("list-panes", "-a", "-F", "#{@fleet}")
    if answer.returncode:
        return None
    return {line for line in answer.stdout if line}


class Tmux:
    """One tmux server: its panes by generation, and the observer that sweeps them."""

    capabilities = CAPABILITIES
    term = TERM

    def __init__(self, connect: Connect, settings: Settings, clock: Clock) -> None:
        self._connect = connect
        self._settings = settings
        self._clock = clock
        self._control: Control | None = None
        self._opening = asyncio.Lock()
        self._panes: dict[str, _Pane] = {}
        self._watched: dict[str, OnSeen] = {}
        self._missing: dict[str, Callable[[], None]] = {}
        self._listed = b""
        self._at_rest = False
        """No watched pane can look different unless the table of panes does: see `_is_at_rest`."""
        self._lines: dict[bytes, tuple[str, _Pane]] = {}
        """The lines of that table, read."""
        self._task: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._closed = False
        self._swept_at: float | None = None
        self._told_unreachable = False
        """Whoever said so, the observer or the look for the server: the next sweep that succeeds takes it back."""
        self._on_host: Callable[[str | None], None] = lambda reason: None
        self._on_gone: Callable[[], None] = lambda: None

    # -- asking --------------------------------------------------------------------------------------------------

    async def ask(self, *words: str) -> Block:
        """Run one command. `HostUnreachable` where the server does not answer in time."""
        return (await self.ask_line(command(*words), 1))[0]

    async def ask_line(self, line: str, count: int) -> list[Block]:
        """Run a line of `count` commands joined by ` ; `."""
        return (await self.ask_lines([(line, count)]))[0]

    async def ask_lines(self, lines: Sequence[tuple[str, int]]) -> list[list[Block]]:
        """Run many lines with one write.

        A server that is silent keeps its client, and is asked nothing more until it answers: tmux 3.3 can crash, with
        all its panes, when it goes on and finds a client that has left beside one that has just come. Only a client
        that hears nothing for `FORSAKEN` seconds is given up for another one.
        """
        control = self._control
        if control is None or control.ended:
            control = await self._open()
        if control.silence is not None:
            await self._wait_for(control, control.silence)
        answers = control.send(lines)
        loop = asyncio.get_running_loop()
        late = loop.call_later(self._settings.observe_timeout, loop.call_soon, self._give_up, control, answers[-1])
        try:
            await answers[-1]  # they come in the order of the questions
        finally:
            late.cancel()
        return [answer.result() for answer in answers]

    def _give_up(self, control: Control, answer: asyncio.Future[list[Block]]) -> None:
        """An answer is not there in time. It is one turn of the loop after that: what came in time counts, also where
        we are late ourselves to look at it."""
        if not answer.done():
            control.fell_silent()
            answer.set_exception(self._silent())

    async def _wait_for(self, control: Control, silence: asyncio.Future[None]) -> None:
        """Return once a server that was silent has answered."""
        await asyncio.wait([silence], timeout=self._settings.observe_timeout)
        if silence.done():
            return
        if asyncio.get_running_loop().time() - control.silent_since > FORSAKEN:
            control.lost("tmux did not answer for a long time")
        raise self._silent()

    def _silent(self) -> HostUnreachable:
        return HostUnreachable(f"tmux did not answer within {self._settings.observe_timeout:g} s")

    async def _open(self) -> Control:
        async with self._opening:
            if self._control is not None and not self._control.ended:
                return self._control
            self._panes.clear()
            self._read_anew()
            try:
                async with asyncio.timeout(self._settings.observe_timeout):
                    control = await self._connect(self._client_lost)
            except TimeoutError:
                raise self._silent() from None
            self._control = control
            return control

    def forget(self, why: str) -> None:
        """What speaks to a server that is no more is asked nothing."""
        if self._control is not None and not self._control.ended:
            self._control.lost(why)

    def _client_lost(self) -> None:
        """Whether only our client went, or the server too, is found out now and not at the next sweep."""
        if self._watched and not self._closed and (self._probe is None or self._probe.done()):
            self._probe = asyncio.get_running_loop().create_task(self._look_for_server(), name="fleet-tmux-probe")

    async def _look_for_server(self) -> None:
        try:
            await self._open()
        except ServerGone:
            self._on_gone()
        except (HostUnreachable, LaunchError, OSError) as error:
            self._cannot_be_read(str(error))

    def _cannot_be_read(self, reason: str) -> None:
        self._told_unreachable = True
        self._on_host(reason)

    async def server_pid(self) -> int:
        return int((await self.ask("display-message", "-p", "#{pid}")).body)

    # -- sessions ------------------------------------------------------------------------------------------------

    async def new_session(self, name: str, generation: str, argv: Sequence[str], width: int, height: int) -> None:
        """A session of that name running `argv` (two words or more: one would go through a shell).

        Already there with this generation: left as it is. There with another: replaced where its program is gone,
        `LaunchError` where it still runs.
        """
        for _ in range(2):
            blocks = await self.ask_line(new_session_line(name, generation, argv, width, height), 4)
            if blocks[-1].ok:
                return
            said = blocks[-1].body.decode(errors="replace").strip()
            if not said.startswith("duplicate session"):
                raise LaunchError(f"tmux would not open a session for {name}: {said}")
            await self._list()
            there = next((g for g, pane in self._panes.items() if g == generation), None)
            if there is not None:
                return
            old = await self.ask("list-panes", "-t", f"={name}:", "-F", "#{session_id} #{pane_dead} #{@fleet}")
            session, dead, *mark = old.body.decode(errors="replace").split()
            if dead != "1":
                raise LaunchError(f"an older launch of {name} ({', '.join(mark)}) still runs in its pane")
            await self.ask("kill-session", "-t", session)
        raise LaunchError(f"tmux would not open a session for {name}: its name is taken")

    async def close_pane(self, generation: str) -> None:
        """End the session of that launch, and no other; fine where it is gone already."""
        try:
            pane = await self.pane(generation)
        except ServerGone:
            return
        if pane is not None:
            await self.ask("kill-session", "-t", pane.session)
            self._forget(generation)

    async def panes(self) -> set[str]:
        """The generations that have a pane here; none where there is no server."""
        try:
            await self._list()
        except ServerGone:
            return set()
        return set(self._panes)

    async def type(self, generation: str, keys: Sequence[str], *, literal: bool) -> None:
        """Send keys to that launch's pane: with `literal` as text, else by tmux's key names."""
        pane = await self.pane(generation)
        if pane is None:
            raise HostUnreachable("the agent has no pane")
        flags = ("-l",) if literal else ()
        lines = [(command("send-keys", "-t", pane.id, *flags, "--", key), 1) for key in keys if key]
        for blocks in await self.ask_lines(lines) if lines else ():
            if not blocks[-1].ok:
                raise HostUnreachable(blocks[-1].body.decode(errors="replace").strip())

    async def pane(self, generation: str) -> _Pane | None:
        """The pane of that launch, if it has one."""
        await self._open()
        if generation not in self._panes:
            await self._list()
        return self._panes.get(generation)

    async def see(self, generation: str) -> Seen | None:
        """The pane now; `None` where the launch has none."""
        pane = await self.pane(generation)
        if pane is None:
            return None
        blocks = (await self.ask_lines([(self._capture(pane, 0), 2)]))[0]
        if not blocks[-1].ok:
            self._forget(generation)
            return None
        return Seen(read_screen(blocks[0].body, blocks[1].body)[0], pane.id)

    async def last(self, generation: str) -> Seen | None:
        """The pane now, with all lines that have left the screen and were not told of yet: in one round trip, where it
        is known and has not moved a lot since the last sweep."""
        await self._open()
        known, asked = self._panes.get(generation), 0
        lines = [(_LIST, 1)]
        if known is not None:
            known.doubt = True  # there may be no next time, and at its limit it may be as long as it was, and all new
            asked = self._lines_wanted(known)
            lines.append((self._capture(known, asked), 3 if asked else 2))
        table, *captured = await self.ask_lines(lines)
        self._listed = b""
        self._read_table(table[0])
        pane = self._panes.get(generation)
        if pane is None:
            return None
        if pane is not known or self._grown(pane, pane.history) > asked or (pane.history and not asked):
            pane.doubt = True
            asked = self._lines_wanted(pane)
            captured = await self.ask_lines([(self._capture(pane, asked), 3 if asked else 2)])
        blocks = captured[0]
        if not blocks[-1].ok:
            self._forget(generation)
            return None
        pane.detail = b""  # tell it, changed or not
        return self._take(pane, blocks)

    def _forget(self, generation: str) -> None:
        self._panes.pop(generation, None)
        self._read_anew()

    def _read_anew(self) -> None:
        """What the table of panes said is worth nothing any more."""
        self._lines.clear()
        self._listed, self._at_rest = b"", False

    # -- observing -----------------------------------------------------------------------------------------------

    def on_host(self, callback: Callable[[str | None], None]) -> None:
        """`callback(reason)` when the server does not answer, `callback(None)` when it does again."""
        self._on_host = callback

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Called when the server turns out to be gone with all its panes."""
        self._on_gone = callback

    def watch(self, generation: str, on_seen: OnSeen, on_missing: Callable[[], None]) -> None:
        """Call `on_seen` when the pane has changed, and once at first; `on_missing` when it is not there."""
        self._watched[generation] = on_seen
        self._missing[generation] = on_missing
        self._at_rest = False
        if (pane := self._panes.get(generation)) is not None:
            pane.captured = pane.logged = -1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._observe(), name="fleet-tmux-observer")

    def unwatch(self, generation: str) -> None:
        self._watched.pop(generation, None)
        self._missing.pop(generation, None)

    def seen_at(self, generation: str) -> float | None:
        """When the watched pane was last part of a sweep."""
        return self._swept_at if generation in self._watched else None

    async def close(self) -> None:
        """Let go of the client. The server and its panes stay."""
        self._closed = True
        for task in (self._task, self._probe):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._control is not None:
            self._control.lost("closed")
            if self._control.pipe is not None:
                await self._control.pipe.wait()

    async def _observe(self) -> None:
        """Sweep while anybody is watched: soon again where something moves, later where nothing does."""
        quiet = 0
        while self._watched:
            try:
                moved = await self.sweep()
            except ServerGone:
                self._on_gone()
                return
            except HostUnreachable as error:
                self._cannot_be_read(str(error))
                moved = False
            except Exception as error:  # who looks must not stop looking: there is nobody else
                log.exception("a look over the panes failed")
                self._cannot_be_read(f"{type(error).__name__}: {error}")
                moved = False
            else:
                if self._told_unreachable:
                    self._told_unreachable = False
                    self._on_host(None)
            quiet = 0 if moved else quiet + 1
            if quiet * self._settings.observe_interval > 4 * self._settings.observe_idle_interval:
                await beat(self._clock, self._settings.observe_idle_interval)
            else:
                await self._clock.sleep(self._settings.observe_interval)

    async def sweep(self) -> bool:
        """One look over all panes: those that may have changed are captured. Whether any might have."""
        await self._list()
        self._swept_at = self._clock.now()
        if self._at_rest:
            return False
        for generation in [generation for generation in self._watched if generation not in self._panes]:
            self._watched.pop(generation)
            self._missing.pop(generation)()
        watched = [(generation, pane) for generation, pane in self._panes.items() if generation in self._watched]
        dirty = [(generation, pane) for generation, pane in watched if self._may_have_changed(pane)]
        self._at_rest = all(self._is_at_rest(pane) for _, pane in watched)
        for n in range(0, len(dirty), BATCH):
            await self._capture_all(dirty[n : n + BATCH])
        return bool(dirty)

    def _may_have_changed(self, pane: _Pane) -> bool:
        """Whether to capture a pane. tmux tells the second of its last output, so that a pane captured in that very
        second may have changed since. One whose cursor and scrollback are where they were is then not captured at
        each sweep of that second, but at every other. A pane that has been moving for a while is captured at every
        third sweep, which is within the second all the same; not so where lines go by fast, for tmux drops a tenth of
        the scrollback at its limit, and fewer than that must go by between two captures.
        """
        turn = self._settings.observe_interval * 0.9
        passed = self._clock.now() - pane.captured_at
        steady = pane.captured >= 0 and pane.captured_at - pane.moving_since > STEADY
        many = self._settings.history_limit // 40
        if steady and passed < 3 * turn and pane.grew < many and abs(pane.history - pane.logged) < many:
            return False
        if pane.moved or pane.doubt or pane.logged != pane.history or pane.activity > pane.captured:
            return True
        return pane.activity == pane.captured and passed >= 2 * turn

    def _is_at_rest(self, pane: _Pane) -> bool:
        """Whether nothing but another line in the table of panes can make it one to capture, however much time passes:
        it was captured in a later second than that of its last output, as it stands there, to its last line."""
        return pane.activity < pane.captured and not (pane.moved or pane.doubt) and pane.logged == pane.history

    async def _list(self) -> None:
        """Read the table of panes; one that is to the byte what it was needs no parsing."""
        self._read_table((await self.ask_line(_LIST, 1))[0])

    def _read_table(self, block: Block) -> None:
        if not block.ok:
            raise HostUnreachable(block.body.decode(errors="replace").strip())
        if block.body == self._listed:
            return
        self._listed, self._at_rest = block.body, False
        panes: dict[str, _Pane] = {}
        lines: dict[bytes, tuple[str, _Pane]] = {}
        for line in block.body.split(b"\n"):
            known = self._lines.get(line) or self._read_line(line)
            if known is not None:
                panes[known[0]] = known[1]
                lines[line] = known
        self._panes, self._lines = panes, lines

    def _read_line(self, line: bytes) -> tuple[str, _Pane] | None:
        """One pane's line of the table, with the generation that it belongs to; `None` where it is not an agent's."""
        words = line.decode(errors="replace").split("\t")
        if len(words) != 7 or not words[6]:
            return None
        pane = self._panes.get(words[6])
        if pane is None or pane.id != words[0]:
            pane = _Pane(words[0], words[5])
        if (activity := int(words[1])) < pane.activity:
            pane.moved = True  # its host's clock was set back: by that alone it would seem to be long at rest
        pane.activity = activity
        pane.history = int(words[3] or 0)
        if (words[2] == "1") != pane.dead:
            pane.dead = words[2] == "1"
            pane.captured = -1
        if words[4] != pane.cursor:
            pane.cursor, pane.moved = words[4], True
        return words[6], pane

    def _capture(self, pane: _Pane, scrolled: int) -> str:
        """The line that captures a pane, all at one moment: its figures, its screen, the lines that scrolled off."""
        line = f"display-message -p -t {pane.id} {_DETAIL} ; capture-pane -e -p -t {pane.id}"
        return line + (f" ; capture-pane -p -t {pane.id} -S -{scrolled} -E -1" if scrolled else "")

    async def _capture_all(self, panes: Sequence[tuple[str, _Pane]]) -> None:
        wanted = [self._lines_wanted(pane) for _, pane in panes]
        lines = [
            (self._capture(pane, scrolled), 3 if scrolled else 2)
            for (_, pane), scrolled in zip(panes, wanted, strict=True)
        ]
        answers = await self.ask_lines(lines)
        again = []
        for (generation, pane), blocks in zip(panes, answers, strict=True):
            if not blocks[-1].ok:
                continue  # gone between the sweep and the capture: the next sweep says so
            on_seen, doubted = self._watched.get(generation), pane.doubt
            seen = self._take(pane, blocks)
            if pane.doubt and not doubted:
                again.append((generation, pane))
            elif seen is not None and on_seen is not None:
                on_seen(seen)
        if again:  # at once, before what is looked for is dropped
            await self._capture_all(again)

    def _lines_wanted(self, pane: _Pane) -> int:
        """How many lines of the scrollback to ask for: more than were new at the sweep, for it goes on. None where
        it is empty: tmux would then give the first line of the screen."""
        if not pane.history:
            return 0
        if pane.logged < 0:
            return self._settings.history_limit
        grown = self._grown(pane, pane.history)
        if pane.doubt:
            return grown + MANY_LINES
        return 2 * grown + MORE_LINES if grown else 0

    def _grown(self, pane: _Pane, history: int) -> int:
        """How many lines have entered the scrollback. At its limit tmux drops a tenth of it and goes on."""
        logged = max(pane.logged, 0)
        if history >= logged:
            return history - logged
        limit = self._settings.history_limit
        tenth = max(limit // 10, 1)
        drops = -(-(limit - history) // tenth)
        return min(history - logged + drops * tenth, history)

    def _take(self, pane: _Pane, blocks: Sequence[Block]) -> Seen | None:
        """What a capture shows that the one before did not; `None` where nothing has changed."""
        detail, raw = blocks[0].body, blocks[1].body
        now = self._clock.now()
        self._at_rest = False
        if now - pane.captured_at > STILL:
            pane.moving_since = now
        pane.captured, pane.captured_at, pane.moved = blocks[1].second, now, False
        screen, history = read_screen(detail, raw) if (raw, detail) != (pane.raw, pane.detail) else (None, pane.seen)
        if screen is None and history == pane.logged:
            return None
        top = plain(pane.raw.partition(b"\n")[0]).rstrip()  # of what was visible, the first to leave
        pane.raw, pane.detail, pane.seen = raw, detail, history
        first = pane.logged < 0
        grown = pane.grew = history if first else self._grown(pane, history)
        got = plain(blocks[2].body).splitlines() if len(blocks) == 3 else []
        if grown > len(got):  # they came after the sweep: the next one asks for them
            return Seen(screen or read_screen(detail, raw)[0], pane.id)
        lines = [line.rstrip() for line in got]
        begin = max(0, len(lines) - grown)
        scrolled = lines[begin:]
        if not first and scrolled and history > 0.85 * self._settings.history_limit:
            # tmux may have dropped a tenth more often than its count tells: more lines are new then, never fewer
            known = _after(lines, pane.newest, begin) if pane.newest else begin if scrolled[0] == top else None
            if pane.newest and not pane.doubt and (known is None or known < len(pane.newest)):
                pane.doubt = True
                return Seen(screen or read_screen(detail, raw)[0], pane.id)
            scrolled = ["[… lines went by unseen …]", *lines] if known is None else lines[known:]
        pane.logged, pane.doubt = history, False
        if scrolled:
            pane.newest = tuple([*pane.newest, *scrolled][-ANCHOR:])
        return Seen(screen or read_screen(detail, raw)[0], pane.id, tuple(scrolled), first)


def _after(lines: Sequence[str], known: Sequence[str], latest: int) -> int | None:
    """Where the lines go on after those that are known, at `latest` or before; `None`: they are not among them."""
    for end in range(latest, 0, -1):
        if lines[max(0, end - len(known)) : end] == list(known[-end:]):
            return end
    return None


def plain(ansi: bytes) -> str:
    """The text without its colours."""
    return (_SGR.sub(b"", ansi) if coloured(ansi) else ansi).decode(errors="replace")


def coloured(ansi: bytes) -> bool:
    """Whether there is more in it than text."""
    return b"\x1b" in ansi or b"\x0e" in ansi or b"\x0f" in ansi


def read_screen(detail: bytes, raw: bytes) -> tuple[Screen, int]:
    """A screen from its figures and its capture, and how long the scrollback is."""
    words = detail.decode(errors="replace").rstrip("\n").split("\t", 7)
    x, y, width, height, alternate, dead, history, title = words
    text = plain(raw)
    screen = Screen(
        text=text,
        ansi=raw.decode(errors="replace") if coloured(raw) else text,
        title=title or None,
        width=int(width),
        height=int(height),
        cursor=(int(x), int(y)),
        alternate=alternate == "1",
        dead=dead == "1",
    )
    return screen, int(history or 0)
