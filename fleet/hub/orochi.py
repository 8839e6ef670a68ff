"""The compatibility ports: scitex-orochi 0.5.1's clients, its Python client, command line and sidecars, unchanged.

Two ports, as its server has them: one for agents, whose WebSocket takes any path, and one for observers; REST
(`orochi_rest.py`) and `/ws/agent/`, the flat form of its newer server, are on both. docs/orochi.md says what is where
in fleet.

What is fleet's own rule holds here too:

- Who speaks is the token's word. The name a client registers with is taken as its own word for itself; a frame under
  a third name is refused (SENDER_MISMATCH).
- What was not accepted is never acked as ok: it is answered with an error that bears the frame's id.
- Every connection is its own: a second one under the same name takes nothing from the first.
- An answer comes before anything that is pushed after it: the package's client reads one frame and takes it for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from aiohttp import WSMsgType, web

from fleet.errors import FleetError
from fleet.hub import orochi_frames as frames
from fleet.hub import orochi_rest, wire
from fleet.hub.auth import Caller, Role
from fleet.hub.exchange import Exchange
from fleet.hub.framing import ws_frame
from fleet.hub.log import Event
from fleet.hub.mailbox import Change, box
from fleet.hub.message import Position, Proven, Way, mint
from fleet.hub.orochi_frames import Frame
from fleet.hub.projection import COPY, MESSAGE, fields
from fleet.hub.registry import PRESENCE, STATUS
from fleet.hub.stream import Framing, Pace, Reader, Streams, as_fault, close_frame
from fleet.hub.websocket import IN_FLIGHT
from fleet.hub.wire import Fault

FRAME = 1024 * 1024
"""Bytes of a frame; a larger one closes the connection (1009)."""
PING = 30.0
NOTED = 0.25
"""Seconds until what was written to a client counts as delivered, if the connection has held until then."""
GRACE = 0.2
"""Seconds after a registration in which nothing is pushed: a client that only asks has its answer first."""

Json = dict[str, Any]


class Orochi:
    """What all connections share."""

    def __init__(self, exchange: Exchange, pace: Pace, most: int) -> None:
        self.exchange = exchange
        self._most = most
        self._connected: Counter[str] = Counter()
        """WebSockets, by address."""
        self.streams = Streams(exchange, pace)
        self.scoped: Counter[tuple[str, str, str]] = Counter()
        """Channels that are heard for as long as a connection lasts, and by how many."""
        self._memberships: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self.observers = 0

    def caller(self, request: web.Request) -> Caller | None:
        """Whose token the request bears: in its header, or, as orochi's clients have it, in the URL."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        given = token.strip() if kind.lower() == "bearer" else request.query.get("token", "")
        return self.exchange.tokens.check(given)

    async def agent(self, request: web.Request) -> web.StreamResponse:
        """The WebSocket of an agent."""
        flat = request.path.rstrip("/").endswith("/ws/agent")
        caller, socket = self.caller(request), _socket()
        if (refused := self._refused(request, socket)) is not None:
            return refused
        with self._counted(request):
            await self._serve_agent(request, socket, caller, flat)
        return socket

    async def _serve_agent(
        self, request: web.Request, socket: web.WebSocketResponse, caller: Caller | None, flat: bool
    ) -> None:
        await socket.prepare(request)
        if caller is None or not caller.speaks or request.transport is None:
            problem = {"code": "AUTH_FAILED", "detail": "Invalid or missing token"}
            with contextlib.suppress(ConnectionError):
                await socket.send_str(self.frame("error", problem))
            await socket.close(code=4001, message=b"Authentication failed")
        else:
            await Connection(self, socket, request.transport, caller, flat=flat).run()

    async def observe(self, request: web.Request) -> web.StreamResponse:
        """The WebSocket of a dashboard: it sees all of its workspace, and is seen by nobody."""
        caller, socket = self.caller(request), _socket()
        if caller is None:
            return web.Response(status=401, text="Unauthorized")
        if not caller.observes:
            return web.Response(status=403, text="An agent's token does not observe")
        if (refused := self._refused(request, socket)) is not None:
            return refused
        with self._counted(request):
            await socket.prepare(request)
            if request.transport is not None:
                self.observers += 1
                try:
                    await Observer(self, socket, request.transport, caller).run()
                finally:
                    self.observers -= 1
        return socket

    def _refused(self, request: web.Request, socket: web.WebSocketResponse) -> web.Response | None:
        """Why there is no WebSocket for this request, if so."""
        if not socket.can_prepare(request):
            return web.Response(status=426, text="This is a WebSocket: ask for the upgrade.\n")
        if self._connected[request.remote or ""] >= self._most:
            return web.Response(status=429, text="There are too many connections from your address.\n")
        return None

    @contextlib.contextmanager
    def _counted(self, request: web.Request) -> Iterator[None]:
        address = request.remote or ""
        self._connected[address] += 1
        try:
            yield
        finally:
            self._connected[address] -= 1

    def frame(self, kind: str, payload: Json) -> str:
        """A frame of the hub's own."""
        return frames.frame(kind, payload, id=mint("f", os.urandom(10)), at=self.exchange.clock.now())

    def memberships(self, caller: Caller) -> asyncio.Lock:
        """One connection of a name's joins and leaves at a time: the next one must not find what the last one ends."""
        who = (caller.workspace, caller.name)
        lock = self._memberships.get(who)
        if lock is None:
            lock = self._memberships[who] = asyncio.Lock()
        return lock

    async def close(self) -> None:
        await self.streams.close()


def _socket() -> web.WebSocketResponse:
    return web.WebSocketResponse(heartbeat=PING, compress=False, max_msg_size=FRAME, timeout=5.0)


class _Client:
    """One WebSocket: what comes is taken frame by frame, what goes is written whole."""

    def __init__(
        self, orochi: Orochi, socket: web.WebSocketResponse, transport: asyncio.Transport, caller: Caller
    ) -> None:
        self.orochi, self.exchange, self.streams = orochi, orochi.exchange, orochi.streams
        self.socket, self.transport, self.caller = socket, transport, caller
        self.reader = self._reader()

    def _reader(self) -> Reader:
        # aiohttp itself pings, and ends what does not answer.
        framing = Framing(event=self._shown, gap=self._gap, ping=b"", last=close_frame)
        return Reader(self.caller, self.transport, framing, asyncio.get_running_loop().time())

    def _shown(self, event: Event, epoch: str) -> bytes:
        """The event as this client gets it; nothing where it is not for it."""
        raise NotImplementedError

    def _gap(self, gap: wire.GapAnswer) -> bytes:
        detail = f"Nothing from before {gap.oldest} can be told any more."
        return ws_frame(self.orochi.frame("error", {"code": "EPOCH_CHANGED", "detail": detail}).encode())

    def say(self, kind: str, payload: Json) -> None:
        """A frame of the hub's own, now."""
        self.write(self.orochi.frame(kind, payload))

    def write(self, text: str) -> None:
        if not self.transport.is_closing():
            self.transport.write(ws_frame(text.encode(errors="replace")))

    def refuse(self, fault: Fault, ref: str | None) -> None:
        """An error, with the id of the frame that it answers."""
        self.say("error", frames.refusal(fault) | ({} if ref is None else {"ref": ref}))

    async def frames(self, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Take frames until there are no more."""
        async for message in self.socket:
            self.reader.heard = asyncio.get_running_loop().time()
            if not self.exchange.tokens.good(self.caller):
                await self.socket.close(code=4001, message=b"the token is not valid any more")
            elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                raw = message.data.encode() if isinstance(message.data, str) else bytes(message.data)
                await take(raw)
                if self.reader.ended or not await self.streams.room(self.reader):
                    return


class Observer(_Client):
    """A dashboard's connection."""

    async def run(self) -> None:
        await self.streams.join(self.reader, None, None)
        try:
            await self.frames(self._take)
        finally:
            self.streams.leave(self.reader)

    async def _take(self, raw: bytes) -> None:
        """It may speak, where its token may, under the token's own name; else it is told that it may not."""
        ref: str | None = None
        try:
            frame = frames.read(wire.read_json(raw))
            ref = frame.id
            if frame.type == "message":
                await self.exchange.send(self.caller, frames.submission(frame.payload, frame.id))
        except (Fault, FleetError) as error:
            fault = as_fault(error)
            self.refuse(fault, fault.facts.pop("ref", ref))

    def _shown(self, event: Event, epoch: str) -> bytes:
        told = fields(event)
        if event.kind == MESSAGE:
            return ws_frame(frames.message_frame(told, "", event.seq).encode(errors="replace"))
        if event.kind == PRESENCE:
            what = "connected" if frames.is_online(told) else "disconnected"
            return self._of("presence_change", told["name"], event, {"event": what})
        if event.kind == STATUS:
            said = {"status": told.get("status", ""), "current_task": told.get("task", "")}
            return self._of("status_update", told["name"], event, said)
        return b""

    def _of(self, kind: str, name: str, event: Event, payload: Json) -> bytes:
        told = frames.frame(
            kind, {"agent": name, **payload}, sender=name, id=f"{event.seq}", at=event.at, pos=event.seq
        )  # fmt: skip
        return ws_frame(told.encode(errors="replace"))


@dataclass(frozen=True, slots=True)
class _Way:
    """How a client wants to be answered."""

    acks: bool
    """Of messages."""
    others: bool
    """Of all other frames."""


class Connection(_Client):
    """An agent's connection."""

    def __init__(
        self, orochi: Orochi, socket: web.WebSocketResponse, transport: asyncio.Transport, caller: Caller, *, flat: bool
    ) -> None:
        super().__init__(orochi, socket, transport, caller)
        self._flat = flat
        self._alias: str | None = None
        """What it calls itself."""
        self._way = _Way(acks=False, others=not flat)
        self._scoped: set[str] = set()
        """Channels that it hears only as long as it is there."""
        self._wanted: set[str] = set()
        """Of an observer's token: what it has registered for."""
        self._resumes = False
        self._given: list[str] = []
        """Messages for its own box that were written to it."""
        self._begin: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._acts: Mapping[str, Callable[[Frame], Awaitable[None]]] = {
            "register": self._register,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "query": self._query,
            "presence": self._presence,
            "heartbeat": self._heartbeat,
            "status_update": self._status_update,
            "ack": self._ack,
        }

    async def run(self) -> None:
        """Until it ends."""
        gone = self.exchange.connected(self.caller)
        try:
            await self.frames(self._take)
        finally:
            if self._begin is not None:
                self._begin.cancel()
            self.streams.leave(self.reader)
            gone()
            await self._settled()
            await self._unscope()

    # -- what comes ------------------------------------------------------------------------------------------------

    async def _take(self, raw: bytes) -> None:
        ref: str | None = None
        try:
            frame = frames.read(wire.read_json(raw))
            ref = frame.id
            self._check_sender(frame)
            if frame.type == "message":
                await self._message(frame)
                return
            await self._settled()
            if frame.type == "gitea":
                code, detail = frames.gitea_problem(frame.payload)
                self.say("error", {"code": code, "detail": detail} | ({} if ref is None else {"ref": ref}))
                return
            act = self._acts.get(frame.type)
            if act is None:
                raise Fault("unknown_type", f"Unknown message type: {ascii(frame.type)[:60]}")
            await act(frame)
        except Exception as error:  # noqa: BLE001  whatever it is, the sender hears of it and the others notice nothing
            fault = as_fault(error)
            self.refuse(fault, fault.facts.pop("ref", ref))
        else:
            if self._way.others and frame.type not in ("register", "ack"):
                self._acked(frame)

    def _check_sender(self, frame: Frame) -> None:
        if frame.type == "register" or not frame.sender or frame.sender in (self.caller.name, self._alias):
            return
        raise Fault("SENDER_MISMATCH", f"This connection speaks for {self.caller.name}, by its token.")

    def _acked(self, frame: Frame, **facts: Any) -> None:
        self.say("ack", {"status": "ok", "ref": frame.id, **facts})

    async def _register(self, frame: Frame) -> None:
        payload = frame.payload
        named = payload.get("channels") if "channels" in payload or not self._flat else []
        wanted = frames.channels(named)
        self._alias = frame.sender or self.caller.name
        own = payload.keys() == frames.OWN_CLIENT
        self._way = _Way(payload.get("acks") is True, payload.get("acks") is True or not (own or self._flat))
        await self._hear(channel for channel in wanted if channel.startswith("#"))
        await self.exchange.introduce(self.caller, payload)
        if payload.get("resume") is True or payload.get("after") is not None:
            await self._go_on(frame)
            return
        head = self.exchange.log.position
        if self._flat:
            self.write(wire.encode({"type": "registered", "channels": wanted, "agent": self.caller.name}))
        else:
            self._acked(frame, agent=self.caller.name, epoch=head.epoch, head=head.seq)
        if self._begin is None:
            loop = asyncio.get_running_loop()
            self._begin = loop.call_later(GRACE, lambda: self._do(self._follow(head)))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _said(self) -> Json:
        """What it last said of how it is; an update of orochi's changes a part of that."""
        said = dict(self.exchange.member(self.caller, self.caller.name)["status"])
        said.pop("at", None)
        return said

    async def _go_on(self, frame: Frame) -> None:
        """Register where a connection broke off: what came since comes now. Its cursor moves as it is written to."""
        self._resumes = True
        after = await self._after(frame.payload.get("after"))
        gap = await self.streams.join(self.reader, after, self._streams())
        head = self.exchange.log.position
        self._acked(
            frame, agent=self.caller.name, epoch=head.epoch, head=head.seq, resumed_from=self.reader.after,
            recovered=gap is None, oldest=None if gap is None else gap.oldest,
        )  # fmt: skip
        self.streams.begin(self.reader)

    async def _after(self, asked: object) -> Position | None:
        epoch = self.exchange.log.epoch
        if asked is None:
            seq = await self.exchange.history.cursor(self._cursor)
            return None if seq is None else Position(epoch, seq)
        if isinstance(asked, int) and not isinstance(asked, bool) and asked >= 0:
            return Position(epoch, asked)
        if isinstance(asked, str):
            return wire.as_position(asked)
        raise Fault("bad_value", "`after` is a position: EPOCH:SEQ, or a number.", field="after")

    @property
    def _cursor(self) -> str:
        return f"{self.caller.workspace}/{self.caller.name}/orochi"

    async def _follow(self, after: Position) -> None:
        """Push from now on, with what has come since the registration."""
        if not self.transport.is_closing():
            await self.streams.join(self.reader, after, self._streams())
            self.streams.begin(self.reader)

    def _streams(self) -> list[str] | None:
        """What it hears: an agent all that is for it; who may see all, what it has registered for."""
        return None if self.caller.role is Role.AGENT else sorted({*self._wanted, f"@{self.caller.name}"})

    # -- channels --------------------------------------------------------------------------------------------------

    async def _hear(self, channels: Any) -> None:
        """Hear these for as long as the connection lasts."""
        if self.caller.role is not Role.AGENT:
            self._wanted |= set(channels)
            return
        async with self.orochi.memberships(self.caller):
            mine = self.exchange.member(self.caller, self.caller.name)["channels"]
            for channel in channels:
                key = (self.caller.workspace, self.caller.name, channel)
                if channel not in self._scoped and (channel not in mine or key in self.orochi.scoped):
                    await self.exchange.join(self.caller, channel)
                    self._scoped.add(channel)
                    self.orochi.scoped[key] += 1

    async def _unscope(self) -> None:
        async with self.orochi.memberships(self.caller):
            for channel in self._scoped:
                key = (self.caller.workspace, self.caller.name, channel)
                if key not in self.orochi.scoped:
                    continue  # made lasting meanwhile
                self.orochi.scoped[key] -= 1
                if self.orochi.scoped[key] <= 0:
                    del self.orochi.scoped[key]
                    if self.exchange.tokens.good(self.caller):
                        with contextlib.suppress(FleetError):  # it was removed, or its workspace
                            await self.exchange.leave(self.caller, channel)
            self._scoped.clear()

    async def _subscribe(self, frame: Frame) -> None:
        """For good: a later connection hears it as well."""
        channel = frames.channel(frame.payload.get("channel"))
        if self.caller.role is not Role.AGENT:
            self._wanted.add(channel)
            if self.reader in self.streams.readers:
                self.streams.subscribe(self.reader, [channel])
            return
        async with self.orochi.memberships(self.caller):
            await self.exchange.join(self.caller, channel)
            self._for_good(channel)

    def _for_good(self, channel: str) -> None:
        """Its membership no longer ends with any connection."""
        self._scoped.discard(channel)
        self.orochi.scoped.pop((self.caller.workspace, self.caller.name, channel), None)

    async def _unsubscribe(self, frame: Frame) -> None:
        channel = frames.channel(frame.payload.get("channel"))
        if self.caller.role is not Role.AGENT:
            self._wanted.discard(channel)
            if self.reader in self.streams.readers:
                self.streams.unsubscribe(self.reader, [channel])
            return
        async with self.orochi.memberships(self.caller):
            await self.exchange.leave(self.caller, channel)
            self._for_good(channel)

    # -- talk ------------------------------------------------------------------------------------------------------

    async def _message(self, frame: Frame) -> None:
        """Many may be on their way; they are stored in their order. Whatever else comes waits for them."""
        body = frames.submission(frame.payload, frame.id)
        while len(self._tasks) >= IN_FLIGHT:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self._do(self._send(frame, body))

    async def _send(self, frame: Frame, body: Json) -> None:
        try:
            receipt = await self.exchange.send(self.caller, body)
        except Exception as error:  # noqa: BLE001  whatever it is, the sender hears of it
            self.refuse(as_fault(error), frame.id)
            return
        if self._way.acks:
            self._acked(frame, pos=receipt.position.seq, msg_id=receipt.id, dup=receipt.duplicate)

    async def _settled(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _query(self, frame: Frame) -> None:
        asked = frames.channel(frame.payload.get("channel", frames.GENERAL))
        page = await orochi_rest.history(
            self.exchange, self.caller, asked, frame.payload.get("since"), frame.payload.get("limit")
        )  # fmt: skip
        self.say("message", {"channel": asked, "content": "", "history": page})

    async def _presence(self, frame: Frame) -> None:
        online = [member for member in self.exchange.members(self.caller) if frames.is_online(member)]
        self.say("presence", {"agents": {member["name"]: sorted(member.get("channels") or {}) for member in online}})

    async def _heartbeat(self, frame: Frame) -> None:
        figures = {name: value for name, value in frame.payload.items() if name in frames.RESOURCES}
        if figures:
            await self.exchange.heartbeat(self.caller, figures)

    async def _status_update(self, frame: Frame) -> None:
        await self.exchange.set_status(self.caller, {**self._said(), **frames.status(frame.payload)})

    async def _ack(self, frame: Frame) -> None:
        """It has all up to there."""
        pos = frame.payload.get("pos")
        if not isinstance(pos, int) or isinstance(pos, bool) or not 0 <= pos <= self.exchange.log.head:
            raise Fault("bad_value", "`pos` is a place that was told.", field="pos")
        self.exchange.history.set_cursor(self._cursor, pos)

    # -- what goes -------------------------------------------------------------------------------------------------

    def _shown(self, event: Event, epoch: str) -> bytes:
        if event.kind not in (MESSAGE, COPY):
            return b""
        message = fields(event)
        if message.get("sender") == self.caller.name:
            return b""
        if self._resumes:
            self.exchange.history.set_cursor(self._cursor, event.seq)
        if any(recipient["name"] == self.caller.name for recipient in message.get("recipients", ())):
            self._give(message["id"])
        return ws_frame(frames.message_frame(message, self.caller.name, event.seq).encode(errors="replace"))

    def _give(self, id: str) -> None:
        self._given.append(id)
        if len(self._given) == 1:
            asyncio.get_running_loop().call_later(NOTED, lambda: self._do(self._note()))

    async def _note(self) -> None:
        """What was written, and has left for the client, need not wait in its inbox. Into an agent that fleet runs
        the courier brings its mail, and the courier knows when it is there."""
        given, self._given = self._given, []
        if not given or self.transport.is_closing() or self.transport.get_write_buffer_size():
            return
        if self.exchange.member(self.caller, self.caller.name)["supervised"]:
            return
        of = box(self.caller.workspace, self.caller.name)
        await self.exchange.change([Change(id, of, Proven("orochi", Way.INBOX)) for id in given])


# -- the ports -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ports:
    """Where it listens; `close` it."""

    ws: str | None
    http: str | None
    runners: tuple[web.AppRunner, ...]
    orochi: Orochi

    async def close(self) -> None:
        await self.orochi.close()
        for runner in self.runners:
            await runner.cleanup()


async def serve(
    exchange: Exchange,
    host: str,
    ws_port: int,
    http_port: int,
    *,
    names: frozenset[str] = frozenset(),
    origins: frozenset[str] = frozenset(),
    pace: Pace | None = None,
    connections: int = 1000,
) -> Ports:
    """Listen on both ports; 0 is any free one, a negative number none. `names` are those of the hub in `Host`,
    `origins` those of pages that may use it; from one address come at most so many `connections`. Raise `OSError`
    where a port is taken."""
    orochi = Orochi(exchange, pace or Pace(), connections)
    door = orochi_rest.at_the_door(names, origins)
    agents = web.Application(middlewares=[door], client_max_size=FRAME)
    orochi_rest.mount(agents, exchange, orochi.caller, lambda: orochi.observers)  # its command line asks here
    agents.router.add_get("/{path:.*}", orochi.agent)
    rest = web.Application(middlewares=[door], client_max_size=FRAME)
    rest.router.add_get("/ws", orochi.observe)
    rest.router.add_get("/ws/agent/", orochi.agent)
    rest.router.add_get("/ws/agent", orochi.agent)
    orochi_rest.mount(rest, exchange, orochi.caller, lambda: orochi.observers)
    runners: list[web.AppRunner] = []
    try:
        ws = await _listen(agents, host, ws_port, "ws", runners)
        http = await _listen(rest, host, http_port, "http", runners)
    except BaseException:
        await Ports(None, None, tuple(runners), orochi).close()
        raise
    return Ports(ws, http, tuple(runners), orochi)


async def _listen(app: web.Application, host: str, port: int, scheme: str, runners: list[web.AppRunner]) -> str | None:
    if port < 0:
        return None
    # A token may stand in a URL here: no line of a log may hold one.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    runners.append(runner)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    bound = runner.addresses[0][1]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{bound}"
