"""Where the hub listens: its Unix socket (0600), a TCP port, and the compatibility ports; who may come in at all.

What holds:

- The Unix socket is the user's own; the TCP port is on loopback unless the settings say otherwise. A port that cannot
  be had does not keep the hub from its socket: `info` says what is missing.
- From one address come at most so many connections, and from all together no more than the process has files for.
  The next one is told so (429) while there are files to tell it by, and nobody else notices.
- Who opens a connection and does not ask for anything in time is let go.
- The port is the same again after a restart, where that is possible, so that clients find the hub where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from fleet import sockets
from fleet.errors import FleetError
from fleet.hub import a2a, mcp, orochi, wire
from fleet.hub.app import LOCAL_NAMES, Doors, authenticated, make_app
from fleet.hub.exchange import Exchange
from fleet.hub.stream import Pace, Streams
from fleet.hub.wire import Fault
from fleet.settings import Places, Settings

log = logging.getLogger(__name__)

HEAD_TIME = 10.0
"""Seconds for the head of a connection's first request."""

KEEP_ALIVE = 75.0
"""Seconds that a connection may be idle between two requests."""

LEAVING = 2.0
"""Seconds that requests which are being answered have when the hub leaves."""

CHECK = 1.0
"""Seconds between two looks at connections and at the socket's file."""

SPARE = 256
"""Files of the process that connections do not take: the log, the agents and all else need them."""

BACKLOG = 1024


class HubUnreachable(FleetError):
    """The hub could not listen."""


class Gate:
    """Counts who is connected, and lets in whom there is room for."""

    def __init__(
        self, inside: Callable[[], asyncio.Protocol], per_address: int, in_all: int, head_time: float = HEAD_TIME
    ) -> None:
        self._inside = inside
        self._head_time = head_time
        self._per_address = per_address
        self._in_all = in_all
        self._connected: dict[str, set[asyncio.Transport]] = {}
        """By address; those that have gone since are left out when somebody counts."""
        self._silent: dict[asyncio.Transport, float] = {}
        """Those that have not asked for anything yet, and since when."""
        self._refused: set[asyncio.Transport] = set()

    def __call__(self) -> asyncio.Protocol:
        """Whoever connects stands here first."""
        return _Entrance(self)

    @property
    def connections(self) -> dict[str, int]:
        """How many there are, by address; `unix` for the socket."""
        return {address: count for address, found in self._connected.items() if (count := _still_open(found))}

    def come_in(self, transport: asyncio.Transport) -> asyncio.Protocol | None:
        """Who serves the connection; `None`: nobody, it is one too many."""
        address = _address(transport)
        theirs = self._connected.setdefault(address, set())
        if len(theirs) >= self._per_address and _still_open(theirs) >= self._per_address:
            return None
        if sum(map(len, self._connected.values())) >= self._in_all and sum(self.connections.values()) >= self._in_all:
            return None
        theirs.add(transport)
        self._silent[transport] = asyncio.get_running_loop().time()
        return self._inside()

    def refuse(self, transport: asyncio.Transport) -> bool:
        """Whether there is a file to tell it why; else it is dropped."""
        room = min(self._per_address, self._in_all - sum(map(len, self._connected.values())))
        if len(self._refused) >= room and _still_open(self._refused) >= room:
            return False
        self._refused.add(transport)
        return True

    def heard(self, transport: asyncio.BaseTransport) -> None:
        """It has asked for something."""
        self._silent.pop(transport, None)  # type: ignore[call-overload]

    def sweep(self) -> None:
        """Let go of those who do not say what they want."""
        now = asyncio.get_running_loop().time()
        for transport, since in list(self._silent.items()):
            if transport.is_closing():
                del self._silent[transport]
            elif now - since > self._head_time:
                del self._silent[transport]
                _say_no(transport, Fault("timed_out", f"No request within {self._head_time:g} s."))
        _still_open(self._refused)
        for address, found in list(self._connected.items()):
            if not _still_open(found):
                del self._connected[address]


def _still_open(transports: set[asyncio.Transport]) -> int:
    """How many of them are; the others are taken out."""
    transports.difference_update([transport for transport in transports if transport.is_closing()])
    return len(transports)


def _address(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else "unix"


class _Entrance(asyncio.Protocol):
    """A connection before anybody serves it."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        inside = self._gate.come_in(transport)
        if inside is not None:
            transport.set_protocol(inside)
            inside.connection_made(transport)
        elif self._gate.refuse(transport):
            self._transport = transport
            self._patience = asyncio.get_running_loop().call_later(CHECK, self._refuse)
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """It has said something, so it listens."""
        self._refuse()

    def connection_lost(self, error: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def _refuse(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            fault = Fault("too_many_connections", "There are too many connections from your address.", retry_after=5.0)
            _say_no(self._transport, fault)


_REASONS = {408: "Request Timeout", 429: "Too Many Requests"}


def _say_no(transport: asyncio.Transport, fault: Fault) -> None:
    """A whole answer, without a request's having been read."""
    body = wire.encode({"error": fault.to_json()}).encode()
    head = (
        f"HTTP/1.1 {fault.status} {_REASONS[fault.status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    transport.write(head.encode() + body)
    transport.close()


class HubServer:
    """The doors of one hub: `start`, and `close`."""

    def __init__(
        self,
        exchange: Exchange,
        settings: Settings,
        places: Places,
        *,
        pace: Pace | None = None,
        head_time: float = HEAD_TIME,
    ) -> None:
        self.exchange = exchange
        self._settings = settings
        self._pace = pace or Pace(behind=int(settings.hub_behind_kb * 1024), stalled=settings.hub_stalled)
        self._head_time = head_time
        self._places = places
        self._socket = places.run / "hub.sock"
        self._ports_file = places.state / "hub" / "ports"
        self._runner: web.AppRunner | None = None
        self._gate: Gate | None = None
        self._servers: list[asyncio.Server] = []
        self._unix: asyncio.Server | None = None
        self._inode: int | None = None
        self._tending: asyncio.Task[None] | None = None
        self._url: str | None = None
        self._orochi: orochi.Ports | None = None
        self.streams: Streams | None = None
        self._not_had: dict[str, str] = {}
        """Which of its ports it could not have, and why."""

    async def start(self) -> None:
        """Listen. Raise `HubUnreachable` where not even the socket can be had."""
        settings = self._settings
        self.streams = Streams(self.exchange, self._pace)
        doors = Doors(
            self.exchange,
            self.streams,
            self.info,
            names=self._names(),
            origins=frozenset(settings.hub_origins),
            log_access=settings.hub_access_log,
            seen=self._heard,
        )
        app = make_app(doors)
        self._mount(app)
        self._runner = web.AppRunner(
            app, handle_signals=False, access_log=None, keepalive_timeout=KEEP_ALIVE, auto_decompress=False,
            shutdown_timeout=LEAVING,
        )  # fmt: skip
        await self._runner.setup()
        inside = self._runner.server
        assert inside is not None
        most = settings.hub_connections
        self._gate = Gate(inside, most, files_for_connections(most), self._head_time)
        await self._listen_tcp()
        await self._listen_orochi()
        try:
            await self._listen_unix()  # last: whoever is answered on the socket is told of all the others
        except OSError as error:
            await self.close()
            raise HubUnreachable(f"The hub cannot listen on {self._socket}: {error.strerror}.") from error
        self._tending = asyncio.get_running_loop().create_task(self._tend(), name="hub-doors")
        log.info("the hub listens on %s and %s", self._socket, self._url or "no port")

    @property
    def problems(self) -> list[str]:
        """What of it does not work, for whoever looks after the machine."""
        return list(self._not_had.values())

    def info(self) -> dict[str, Any]:
        """Where it is."""
        return {
            "url": self._url,
            "socket": str(self._socket),
            "orochi_ws": self._orochi.ws if self._orochi is not None else None,
            "orochi_http": self._orochi.http if self._orochi is not None else None,
            "problems": self.problems,
        }

    async def close(self) -> None:
        """Tell everybody, answer what is being answered for a moment, and let go of socket and ports."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        for server in (*self._servers, self._unix):
            if server is not None:
                server.close()
        if self._inode is not None and _inode(self._socket) == self._inode:
            self._socket.unlink(missing_ok=True)
        if self._orochi is not None:
            await self._orochi.close()
        if self.streams is not None:
            await self.streams.close()
        if self._runner is not None:
            await self._runner.cleanup()

    # -- listening -------------------------------------------------------------------------------------------------

    def _mount(self, app: web.Application) -> None:
        """What other doors add to the same port."""
        for door in (mcp, a2a):
            door.mount(app, self.exchange, lambda request: authenticated(self.exchange, request))

    async def _listen_unix(self) -> None:
        assert self._gate is not None
        self._socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._socket.unlink(missing_ok=True)
        self._unix = await asyncio.get_running_loop().create_unix_server(
            self._gate, sock=sockets.bound(self._socket), backlog=BACKLOG
        )
        self._inode = _inode(self._socket)

    async def _listen_tcp(self) -> None:
        """On the port of the settings; where any will do, on the last one if it is free."""
        assert self._gate is not None
        host, gate = self._settings.hub_host, self._gate

        async def listen(port: int) -> int:
            server = await asyncio.get_running_loop().create_server(gate, host, port, backlog=BACKLOG)
            self._servers.append(server)
            return int(server.sockets[0].getsockname()[1])

        got = await self._on_a_port("hub", self._settings.hub_port, listen)
        if got is not None:
            self._url = f"http://{_as_host(host)}:{got}"

    async def _listen_orochi(self) -> None:
        """The compatibility ports: both, or none."""
        settings = self._settings
        if settings.hub_orochi_ws_port < 0 and settings.hub_orochi_http_port < 0:
            return
        ports = self._last_ports()
        wanted = [
            (settings.hub_orochi_ws_port or ports.get("orochi_ws", 0)),
            (settings.hub_orochi_http_port or ports.get("orochi_http", 0)),
        ]
        for ws, http in (wanted, (settings.hub_orochi_ws_port, settings.hub_orochi_http_port)):
            try:
                self._orochi = await orochi.serve(
                    self.exchange, settings.hub_host, ws, http, names=self._names(),
                    origins=frozenset(settings.hub_origins), pace=self._pace, connections=settings.hub_connections,
                )  # fmt: skip
            except OSError as error:
                problem = f"The compatibility ports cannot be had on {settings.hub_host}: {error.strerror}."
            else:
                for name, url in (("orochi_ws", self._orochi.ws), ("orochi_http", self._orochi.http)):
                    if url is not None:
                        self._keep_port(name, int(url.rpartition(":")[2]))
                self._not_had.pop("orochi", None)
                return
        self._cannot_have("orochi", problem)

    async def _on_a_port(self, name: str, wanted: int, listen: Callable[[int], Awaitable[int]]) -> int | None:
        """Where it listens then; `None`: nowhere, and that is told."""
        last = self._last_ports().get(name)
        for port in [wanted] if wanted else [last, 0] if last else [0]:
            try:
                got = await listen(port)
            except OSError as error:
                problem = f"The hub cannot listen on {self._settings.hub_host} port {port}: {error.strerror}."
            else:
                self._keep_port(name, got)
                self._not_had.pop(name, None)
                return got
        self._cannot_have(name, problem)
        return None

    def _cannot_have(self, name: str, problem: str) -> None:
        if self._not_had.get(name) != problem:
            log.error("%s It is reached by its socket; the port is tried again.", problem)
        self._not_had[name] = problem

    async def _try_again(self) -> None:
        """The ports that could not be had: whoever had them may have left."""
        if "hub" in self._not_had:
            await self._listen_tcp()
        if "orochi" in self._not_had:
            await self._listen_orochi()

    def _last_ports(self) -> dict[str, int]:
        try:
            found = json.loads(self._ports_file.read_text())
            return {name: port for name, port in found.items() if type(port) is int and 0 < port < 65536}
        except (OSError, ValueError, AttributeError):
            return {}

    def _keep_port(self, name: str, port: int) -> None:
        try:
            self._ports_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._ports_file.write_text(json.dumps({**self._last_ports(), name: port}))
        except OSError as error:
            log.warning("the hub's ports may be others after a restart: %s", error)

    def _names(self) -> frozenset[str]:
        """The names by which it is reached."""
        settings = self._settings
        return LOCAL_NAMES | {_as_host(settings.hub_host), *(name.lower() for name in settings.hub_names)}

    def _heard(self, transport: asyncio.BaseTransport) -> None:
        if self._gate is not None:
            self._gate.heard(transport)

    async def _tend(self) -> None:
        """Let go of the silent, and listen anew where the socket was removed, as a logout does, or a port is free."""
        while True:
            await asyncio.sleep(CHECK)
            await self._try_again()
            assert self._gate is not None
            self._gate.sweep()
            if _inode(self._socket) != self._inode:
                log.warning("%s was removed: it is made again", self._socket)
                try:
                    if self._unix is not None:
                        self._unix.close()
                    await self._listen_unix()
                except OSError as error:
                    log.error("the hub cannot listen on %s: %s", self._socket, error)


def files_for_connections(wanted: int) -> int:
    """How many connections the process has files for; the limit is raised for as many as are wanted, if it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = 2 * wanted + 4 * SPARE  # as many again may be told no at a time
    if soft != resource.RLIM_INFINITY and soft < need:
        raised = need if hard == resource.RLIM_INFINITY else min(need, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return 1_000_000 if soft == resource.RLIM_INFINITY else max(SPARE, soft - SPARE)


def _as_host(address: str) -> str:
    """An address as it stands in a URL and in `Host`."""
    try:
        return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    except ValueError:
        return address.lower()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
