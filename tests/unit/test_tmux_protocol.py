"""The control-mode protocol as bytes, and how words are quoted for tmux."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from fleet.errors import HostUnreachable
from fleet.runtimes import tmux
from fleet.runtimes.multiplexers import Seen, ServerGone
from fleet.runtimes.screen import key_bytes
from fleet.settings import Settings
from fleet.testing import TurnedClock


class Pipe:
    """A client that remembers what it was told."""

    def __init__(self) -> None:
        self.written = b""
        self.killed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def kill(self) -> None:
        self.killed = True

    async def wait(self) -> None:
        return


def control() -> tuple[tmux.Control, Pipe]:
    pipe = Pipe()
    made = tmux.Control()
    made.pipe = pipe
    return made, pipe


GREETING = b"%begin 100 1 0\n%end 100 1 0\n%session-changed $0 _keeper\n"


async def test_a_client_is_ready_when_its_own_attach_was_answered() -> None:
    it, _ = control()
    it.feed(GREETING)
    assert it.ready.done() and it.ready.result() is None


async def test_an_attach_that_was_refused_means_there_is_no_server_to_speak_to() -> None:
    it, _ = control()
    it.feed(b"%begin 100 1 0\ncan't find session: _keeper\n%error 100 1 0\n")
    with pytest.raises(ServerGone, match="_keeper"):
        await it.ready


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_answers_are_put_together_however_they_arrive(size: int) -> None:
    it, pipe = control()
    answers = it.send([("first", 1), ("second ; third", 2)])
    said = GREETING + b"%begin 101 2 1\na\nb\n%end 101 2 1\n%sessions-changed\n"
    said += b"%begin 102 3 1\n%end 102 3 1\n%begin 102 4 1\nc\n%end 102 4 1\n"
    for at in range(0, len(said), size):
        it.feed(said[at : at + size])
    first, second = await asyncio.gather(*answers)
    assert pipe.written == b"first\nsecond ; third\n"
    assert first == [tmux.Block(True, 101, b"a\nb\n")]
    assert second == [tmux.Block(True, 102, b""), tmux.Block(True, 102, b"c\n")]


async def test_a_pane_that_prints_the_protocol_ends_no_block() -> None:
    it, _ = control()
    (answer,) = it.send([("capture", 1)])
    body = b"%end 101 2 0\n%end 101 3 1\nx%end 101 2 1\n%begin 101 2 1\n"
    it.feed(GREETING + b"%begin 101 2 1\n" + body + b"%end 101 2 1\n")
    assert (await answer)[0].body == body


async def test_after_an_error_the_rest_of_its_line_is_not_waited_for() -> None:
    it, _ = control()
    answers = it.send([("a ; b ; c", 3), ("d", 1)])
    it.feed(GREETING + b"%begin 1 2 1\n%end 1 2 1\n%begin 1 3 1\noh\n%error 1 3 1\n%begin 1 4 1\nd\n%end 1 4 1\n")
    first, second = await asyncio.gather(*answers)
    assert [block.ok for block in first] == [True, False]
    assert second[0].body == b"d\n"


async def test_who_waits_for_a_lost_client_hears_so_and_it_is_ended_once() -> None:
    lost = []
    pipe = Pipe()
    it = tmux.Control(lambda: lost.append(True))
    it.pipe = pipe
    it.feed(GREETING)
    (answer,) = it.send([("x", 1)])
    it.lost("gone")
    it.lost("gone again")
    with pytest.raises(HostUnreachable, match="gone"):
        await answer
    assert pipe.killed and lost == [True]
    with pytest.raises(HostUnreachable):
        it.send([("y", 1)])


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", "'plain'"),
        ("", "''"),
        ("it's", "'it'\\''s'"),
        ("#{x} $Y ; ~ \\", "'#{x} $Y ; ~ \\'"),
        ("a\nb", "'a'\"\\012\"'b'"),
        ("\x1b[0m", "\"\\033\"'[0m'"),
        ("é日", "'é日'"),
    ],
)
def test_a_word_is_quoted_so_that_nothing_in_it_is_expanded(text: str, quoted: str) -> None:
    assert tmux.quote(text) == quoted


def test_a_servers_command_line_never_sets_the_window_size_for_all() -> None:
    argv = tmux.start_argv("/run/x.sock", Settings())
    assert "window-size" not in argv
    assert argv[:6] == ["tmux", "-u", "-S", "/run/x.sock", "-f", "/dev/null"]


def test_colours_are_stripped_and_nothing_else() -> None:
    assert tmux.plain(b"\x1b[1;31mred\x1b[39m \x1b[38:2::1:2:3mx\x1b[m [31m") == "red x [31m"


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("Enter", b"\r"),
        ("Escape", b"\x1b"),
        ("C-c", b"\x03"),
        ("C-[", b"\x1b"),
        ("M-Enter", b"\x1b\r"),
        ("Up", b"\x1b[A"),
        ("1", b"1"),
        ("y", b"y"),
        ("BTab", b"\x1b[Z"),
    ],
)
def test_screen_sends_for_a_key_what_a_terminal_sends(name: str, sent: bytes) -> None:
    assert key_bytes(name) == sent


@pytest.mark.parametrize("lines", [1, 100])
async def test_a_pane_that_keeps_printing_is_captured_within_the_second_and_one_that_floods_at_every_sweep(
    lines: int,
) -> None:
    clock, settings = TurnedClock(), Settings()
    server = tmux.Tmux(no_connection, settings, clock)
    pane = tmux._Pane("%1", "$1")
    captured: list[float] = []
    for _ in range(80):
        await clock.turn(settings.observe_interval)
        pane.history, pane.activity = pane.history + lines, int(clock.now())
        if server._may_have_changed(pane):
            captured.append(clock.now())
            detail = f"0\t39\t120\t40\t0\t0\t{pane.history}\t\n".encode()
            said = (detail, f"line {pane.history}\n".encode(), b"line\n" * (lines + 200))
            server._take(pane, [tmux.Block(True, int(clock.now()), body) for body in said])
    pauses = [later - earlier for earlier, later in pairwise(captured)]
    assert max(pauses) <= (0.75 if lines == 1 else 0.25)
    assert len(captured) <= (40 if lines == 1 else 80)


def test_lines_that_cannot_be_joined_to_those_before_are_asked_for_again_with_more_before_them() -> None:
    server = tmux.Tmux(no_connection, Settings(), TurnedClock())
    limit = Settings().history_limit
    pane = tmux._Pane("%1", "$1", history=limit, logged=limit - 1, newest=("line 1", "line 2", "line 3", "line 4"))

    def capture(first: int, last: int) -> Seen | None:
        detail = f"0\t39\t120\t40\t0\t0\t{limit}\t\n".encode()
        lines = "".join(f"line {n}\n" for n in range(first, last + 1)).encode()
        return server._take(pane, [tmux.Block(True, 100, body) for body in (detail, b"a screen\n", lines)])

    assert server._lines_wanted(pane) == tmux.MORE_LINES + 2
    hidden = capture(150, 171)  # tmux has dropped lines: more are new than its count tells
    assert hidden is not None and hidden.scrolled == ()
    assert server._may_have_changed(pane) and server._lines_wanted(pane) > 200
    pane.captured_at = 0.0
    pane.detail = b""
    shown = capture(-29, 171)
    assert shown is not None and shown.scrolled == tuple(f"line {n}" for n in range(5, 172))
    assert not pane.doubt


class LatePipe(Pipe):
    """A client whose answer lies there to be read, while we are kept from it for longer than it may take."""

    def __init__(self, it: tmux.Control, kept: float) -> None:
        super().__init__()
        self._it, self._kept = it, kept
        self._reads, self._writes = os.pipe()

    def write(self, data: bytes) -> None:
        asyncio.get_running_loop().add_reader(self._reads, self._read)
        asyncio.get_running_loop().call_soon(self._keep)

    def _keep(self) -> None:
        until = time.monotonic() + self._kept
        while time.monotonic() < until:  # nothing else has its turn
            pass
        os.write(self._writes, b"%begin 100 2 1\nhere\n%end 100 2 1\n")

    def _read(self) -> None:
        self._it.feed(os.read(self._reads, 1000))

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._reads)
        os.close(self._reads)
        os.close(self._writes)


async def test_what_was_answered_counts_though_we_look_late() -> None:
    made, _ = control()
    made.feed(GREETING)
    settings = Settings(observe_timeout=0.05)
    made.pipe = pipe = LatePipe(made, kept=3 * settings.observe_timeout)
    server = tmux.Tmux(functools.partial(connected, made), settings, TurnedClock())
    assert (await server.ask("list-panes")).body == b"here\n"
    assert not made.ended
    pipe.close()


async def test_a_server_that_could_not_be_looked_for_is_told_as_back_by_the_next_sweep() -> None:
    """The client is lost between two sweeps, one attempt to open another fails, and the next sweep's goes well."""
    clock, settings = TurnedClock(), Settings()
    ways: list[tmux.Control | None] = []

    async def connect(on_lost: Callable[[], None]) -> tmux.Control:
        way = ways.pop(0)
        if way is None:
            raise HostUnreachable("tmux is busy")
        way._on_lost = on_lost
        return way

    def answering() -> tmux.Control:
        made, _ = control()
        made.feed(GREETING)
        made.pipe = Answering(made)
        return made

    first, second = answering(), answering()
    ways += [first, None, second]
    server = tmux.Tmux(connect, settings, clock)
    told: list[str | None] = []
    server.on_host(told.append)
    server.watch("web.1", lambda seen: None, lambda: None)
    await clock.turn(1)
    assert told == []
    first.lost("the client was killed")
    await clock.turn(0)
    assert told == ["tmux is busy"]
    await clock.turn(2)
    assert told == ["tmux is busy", None]
    await server.close()


async def test_an_observer_outlives_what_nobody_has_thought_of(caplog: pytest.LogCaptureFixture) -> None:
    """As where the process has no files left for another client."""
    clock = TurnedClock()
    files = [False]

    async def connect(on_lost: Callable[[], None]) -> tmux.Control:
        if not files[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made, _ = control()
        made.feed(GREETING)
        made.pipe = Answering(made)
        return made

    server = tmux.Tmux(connect, Settings(), clock)
    told: list[str | None] = []
    server.on_host(told.append)
    seen: list[Seen] = []
    server.watch("web.1", seen.append, lambda: None)
    await clock.turn(1)
    assert told and "Too many open files" in str(told[-1]) and not seen and "failed" in caplog.text
    files[0] = True
    await clock.turn(5)
    assert told[-1] is None and seen
    await server.close()


async def test_a_silent_server_keeps_its_client_and_is_asked_on_once_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, pipe = control()
    made.feed(GREETING)
    server = tmux.Tmux(functools.partial(connected, made), Settings(observe_timeout=0.01), TurnedClock())
    for _ in range(3):
        with pytest.raises(HostUnreachable, match=r"did not answer within 0.01 s"):
            await server.ask("display-message")
    assert not pipe.killed and pipe.written.count(b"\n") == 1, "what it was asked first it is not asked again"
    asking = asyncio.ensure_future(server.ask("list-keys"))
    asyncio.get_running_loop().call_soon(made.feed, b"%begin 100 2 1\nlate\n%end 100 2 1\n")
    made.pipe = answers = Answering(made)
    assert (await asking).ok and not answers.killed
    made.pipe = pipe
    monkeypatch.setattr(tmux, "FORSAKEN", 0.0)
    for _ in range(2):
        with pytest.raises(HostUnreachable):
            await server.ask("display-message")
    assert pipe.killed and made.ended


async def test_a_pane_at_rest_is_captured_once_its_line_says_otherwise_or_it_is_watched_anew() -> None:
    made, _ = control()
    made.feed(GREETING)
    made.pipe = pane = Answering(made)
    clock = TurnedClock()
    server = tmux.Tmux(functools.partial(connected, made), Settings(), clock)
    server.watch("web.1", lambda seen: None, lambda: None)
    await clock.turn(2)
    captured = pane.captured
    await clock.turn(2)
    assert pane.captured > captured, "what it put out in the very second of a capture may have come after that"

    async def rests() -> int:
        pane.second += 2
        await clock.turn(2)
        captured = pane.captured
        await clock.turn(20)
        assert pane.captured == captured
        return captured

    captured = await rests()
    pane.activity = pane.second
    await clock.turn(1)
    assert pane.captured > captured
    captured = await rests()
    server.watch("web.1", lambda seen: None, lambda: None)
    await clock.turn(1)
    assert pane.captured > captured
    captured = await rests()
    pane.activity = pane.second = 50
    await clock.turn(1)
    assert pane.captured > captured, "its host's clock was set back, and then it put something out"
    await server.close()


class Answering(Pipe):
    """A client of a server with one pane."""

    def __init__(self, it: tmux.Control) -> None:
        super().__init__()
        self._it, self._asked = it, 1
        self.second = self.activity = 100
        """The server's clock; when the pane last put something out."""
        self.captured = 0

    def write(self, data: bytes) -> None:
        screen = [b"0\t0\t120\t40\t0\t0\t0\t\n", b"a screen\n"]
        for line in data.splitlines():
            listed = line.startswith(b"'list-panes'")
            self.captured += not listed
            for body in [b"%%1\t%d\t0\t0\t0 0\t$1\tweb.1\n" % self.activity] if listed else screen:
                self._asked += 1
                mark = b"%d %d 1" % (self.second, self._asked)
                answer = b"%begin " + mark + b"\n" + body + b"%end " + mark + b"\n"
                asyncio.get_running_loop().call_soon(self._it.feed, answer)


async def connected(made: tmux.Control, on_lost: object) -> tmux.Control:
    return made


async def no_connection(on_lost: object) -> tmux.Control:
    raise AssertionError("nothing is asked")
