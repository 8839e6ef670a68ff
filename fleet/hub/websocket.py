"""The WebSocket: a client's frames taken, checked and answered, and events sent to it as they happen (`stream`).

The first frame is `hello`, and says from where on events are wanted. What a client sends goes into the log as at every
other door, and its ack comes after the commit, and not before. A frame that the hub cannot take is told of and costs
nothing else; a client that sends nothing but such frames is sent away.

After the handshake the connection is no HTTP any more: it is taken from aiohttp, with all that aiohttp keeps of it, and
served by the loop itself. Who only listens costs a socket and a `Connection`; no task waits for it, and a message that
comes makes none.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from fleet.errors import FleetError
from fleet.hub import framing, wire
from fleet.hub.auth import Caller
from fleet.hub.exchange import Exchange
from fleet.hub.framing import Incoming, ws_frame
from fleet.hub.message import Code, Position, Receipt
from fleet.hub.stream import WEBSOCKET, Reader, Streams, as_fault, close_frame
from fleet.hub.wire import Fault

log = logging.getLogger(__name__)

IN_FLIGHT = 256
"""Messages of one connection that may be on their way into the log."""

AT_A_TIME = 64
"""Frames of one connection that are looked at before others have their turn."""

FAULTS = 50
"""Frames in a row that the hub could not take, before it stops listening to their sender."""

LINGER = 5.0
"""Seconds in which a client that was sent away may read why; what it sends meanwhile is thrown away."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, 1.3."""

_BROKEN = {
    framing.NOT_THE_PROTOCOL: "bad_frame", framing.NOT_UNICODE: "invalid_unicode", framing.TOO_LARGE: "too_large",
}  # fmt: skip
"""What is told before a frame that cannot be read ends the connection."""


def _error(fault: Fault, ref: str | None) -> bytes:
    told = wire.encode({"type": "error", "error": fault.to_json(ref)})
    return ws_frame(told.encode(errors="replace"))  # what was refused may have been half a character


# -- from HTTP to here ---------------------------------------------------------------------------------------------


class Upgraded(web.StreamResponse):
    """The answer that aiohttp is given for a request whose connection it has no more."""

    def __init__(self) -> None:
        super().__init__(status=101)

    @property
    def prepared(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        """It has been written."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing follows."""


class _Rest:
    """Takes what came with the request, behind it, from aiohttp."""

    def __init__(self) -> None:
        self.bytes = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.bytes += data
        return False, b""

    def feed_eof(self) -> None:
        """It has let go of the connection."""


def serve_websocket(streams: Streams, request: web.Request, caller: Caller | None) -> web.StreamResponse:
    """Answer the handshake, and take the connection over. `caller`: whom its token names; else the first frame brings
    one. Raise `Fault` where the request is none for a WebSocket."""
    transport = request.transport
    key = request.headers.get("Sec-WebSocket-Key", "")
    if not web.WebSocketResponse().can_prepare(request):
        raise Fault("upgrade_required", "This is a WebSocket: ask for the upgrade.")
    if transport is None:
        raise ConnectionResetError("the client has gone")
    accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest())
    rest, http = _Rest(), request.protocol
    http.set_parser(rest)  # type: ignore[arg-type]  # as much of one as is asked here
    http.transport = None  # so that it does not close it
    http.connection_lost(None)
    connection = Connection(streams, transport, caller)
    transport.set_protocol(connection)
    transport.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    connection.begin(rest.bytes)
    return Upgraded()


# -- one client ----------------------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One client, from its handshake to its end."""

    __slots__ = (
        "_caller", "_cursor", "_exchange", "_faults", "_flying", "_full", "_gone", "_greeting", "_incoming", "_over",
        "_patience", "_reader", "_streams", "_transport", "_waits",
    )  # fmt: skip

    def __init__(self, streams: Streams, transport: asyncio.Transport, caller: Caller | None) -> None:
        self._streams = streams
        self._exchange: Exchange = streams.exchange
        self._transport = transport
        self._caller = caller
        self._incoming = Incoming(wire.FRAME)
        self._reader: Reader | None = None
        """From its welcome on."""
        self._greeting: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        """Until its `hello`; at the end, until it has read why."""
        self._gone: Callable[[], None] | None = None
        """To be told once it has left."""
        self._cursor = ""
        """The name of this reader's cursor."""
        self._flying = 0
        """Its messages that are on their way into the log."""
        self._faults = 0
        """Frames in a row that could not be taken."""
        self._waits = False
        """No frame is looked at until somebody goes on."""
        self._full = False
        """That is for so many messages on their way."""
        self._over = False
        """It was sent away: what comes is thrown away."""

    # -- what the loop tells ---------------------------------------------------------------------------------------

    def begin(self, rest: bytes) -> None:
        """It is ours; `rest` came behind the handshake."""
        pace = self._streams.pace
        self._patience = asyncio.get_running_loop().call_later(pace.hello, self._too_late)
        self._streams.unwelcomed.add(self._send_away)
        self._incoming.feed(rest)
        self._go_on()

    def data_received(self, data: bytes) -> None:
        """Some frames, or a piece of one."""
        if self._over:
            return
        self._incoming.feed(data)
        if self._reader is not None:
            self._reader.heard = asyncio.get_running_loop().time()
        if not self._waits:
            self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        """It has gone."""
        self._over = True
        if self._patience is not None:
            self._patience.cancel()
        if self._greeting is not None:
            self._greeting.cancel()
        self._streams.unwelcomed.discard(self._send_away)
        self._streams.leaving.discard(self._transport)
        if self._reader is not None:
            self._streams.leave(self._reader)

    # -- frames ----------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Take the frames that are whole, while there is room for what they bring."""
        self._waits = False
        if not self._reads():
            return
        left = AT_A_TIME
        while left > 0:
            if self._over:
                return
            room = IN_FLIGHT - self._flying
            if self._greeting is not None or room <= 0:
                self._full = self._greeting is None
                self._wait()
                return
            try:
                reader = self._reader
                said = [] if reader is None else self._incoming.run(wire.plain_message, min(left, room))
                left -= max(1, len(said))
                if reader is not None and said:
                    self._send(reader, said)
                else:
                    got = self._incoming.next()
                    if got is None:
                        self._transport.resume_reading()
                        return
                    self._take(*got)
                self._faults = 0
            except framing.Broken as broken:
                self._send_away(broken.code, Fault(_BROKEN[broken.code], wire.CLOSES[broken.code].capitalize() + "."))
            except (Fault, FleetError) as error:
                self._refuse(as_fault(error))
            except Exception:  # what nobody foresaw ends this connection, and no other
                log.exception("the connection of %s ended by a fault of the hub's", self._name)
                self._send_away(1011)
        self._wait()
        asyncio.get_running_loop().call_soon(self._go_on)

    def _reads(self) -> bool:
        """Whether it has read most of what it was told, answers included. If not, it waits for that."""
        reader = self._reader
        if reader is None or reader.waiting <= self._streams.pace.behind:
            return True
        self._wait()
        self._streams.when_read(reader, self._go_on)
        return False

    def _wait(self) -> None:
        """Until somebody calls `_go_on`."""
        self._waits = True
        self._transport.pause_reading()

    def _take(self, opcode: int, payload: bytes) -> None:
        """One message of the client's. Raise `Fault` where it is not what clients are to send."""
        reader = self._reader
        if opcode == framing.TEXT:
            if reader is None:
                self._greet(wire.read_frame(payload))
            else:
                self._answer(reader, wire.read_frame(payload))
        elif opcode == framing.CLOSE:
            self._part(framing.closing(payload))
        elif reader is None:
            raise Fault("binary_frame", "The first frame is `hello`, as text.")
        elif opcode == framing.BINARY:
            raise Fault("binary_frame", "Frames are text.")
        elif opcode == framing.PING:
            self._streams.say(reader, ws_frame(payload, framing.PONG))

    def _refuse(self, fault: Fault) -> None:
        """A frame could not be taken."""
        ref = fault.facts.pop("ref", None)
        if self._reader is None:
            self._send_away(4001 if fault.code == "unauthorized" else 4002, fault, ref)
            return
        self._streams.say(self._reader, _error(fault, ref))
        self._faults += 1
        if self._faults >= FAULTS:
            self._send_away(4002)

    # -- hello -----------------------------------------------------------------------------------------------------

    def _greet(self, hello: wire.ClientFrame) -> None:
        """Hear the first frame; its answer comes by and by."""
        if not isinstance(hello, wire.Hello):
            raise Fault("unauthorized", "The first frame is `hello`.", ref=getattr(hello, "ref", None))
        if hello.version != wire.VERSION:
            raise Fault(
                Code.WRONG_VERSION, f"The hub speaks version {wire.VERSION} of its frames.", ref=hello.ref,
                version=wire.VERSION,
            )  # fmt: skip
        if hello.token is not None:
            self._caller = self._exchange.tokens.check(hello.token)
        if self._caller is None:
            raise Fault("unauthorized", "No token, or one that is not valid (any more).", ref=hello.ref)
        self._greeting = asyncio.get_running_loop().create_task(self._welcome(hello, self._caller))

    async def _welcome(self, hello: wire.Hello, caller: Caller) -> None:
        """Answer it, and go on with what came behind it."""
        loop = asyncio.get_running_loop()
        reader = Reader(caller, self._transport, WEBSOCKET, loop.time())
        cursor = f"{caller.workspace}/{caller.name}/{hello.reader}"
        try:
            gap = await self._streams.join(reader, await self._after(hello, cursor), hello.streams)
            if self._over:  # it has gone meanwhile
                return
            self._reader, self._cursor, self._greeting = reader, cursor, None
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
            self._streams.unwelcomed.discard(self._send_away)
            self._gone = self._exchange.connected(caller)
            reader.on_end = self._left
            log_ = self._exchange.log
            told = {
                "type": "welcome", "version": wire.VERSION, "name": caller.name, "role": caller.role.value,
                "workspace": caller.workspace, "position": str(Position(log_.epoch, reader.after)),
                "head": str(log_.position), "streams": reader.stream_names(), "limits": self._streams.limits,
                "ping": self._streams.pace.ping, "gap": None if gap is None else gap.model_dump(), "ref": hello.ref,
            }  # fmt: skip
            told = {name: value for name, value in told.items() if value is not None}
            self._transport.write(ws_frame(wire.encode(told).encode()))
            self._streams.begin(reader)
            self._go_on()
        except (Fault, FleetError) as error:
            fault = as_fault(error)
            fault.facts.setdefault("ref", hello.ref)
            self._refuse(fault)
        except Exception:
            log.exception("%s could not be welcomed", caller.name)
            self._send_away(1011)
        finally:
            self._greeting = None
            if self._reader is not reader:
                self._streams.leave(reader)

    async def _after(self, hello: wire.Hello, cursor: str) -> Position | None:
        if hello.after != "cursor":
            return None if hello.after is None else wire.as_position(hello.after)
        seq = await self._exchange.history.cursor(cursor)
        return None if seq is None else Position(self._exchange.log.epoch, seq)

    def _too_late(self) -> None:
        self._send_away(4002, Fault("timed_out", f"No `hello` within {self._streams.pace.hello:g} s."))

    # -- what a welcome client says --------------------------------------------------------------------------------

    def _answer(self, reader: Reader, frame: wire.ClientFrame) -> None:
        match frame:
            case wire.Send():
                self._send(reader, [(frame.message, frame.ref)])
            case wire.Acknowledge():
                self._acknowledge(wire.as_position(frame.pos, "pos"))
            case wire.Subscribe() | wire.Unsubscribe():
                change = self._streams.subscribe if isinstance(frame, wire.Subscribe) else self._streams.unsubscribe
                try:
                    change(reader, frame.streams)
                except Fault as fault:
                    fault.facts["ref"] = frame.ref
                    raise
                told = wire.Subscribed(streams=reader.stream_names(), ref=frame.ref)
                self._streams.say(reader, ws_frame(told.model_dump_json().encode()))
            case wire.Ping():
                self._streams.say(reader, ws_frame(wire.encode({"type": "pong", "ref": frame.ref}).encode()))
            case wire.Hello():
                raise Fault("unknown_type", "`hello` comes once, at the beginning.", ref=frame.ref)

    def _send(self, reader: Reader, said: Sequence[tuple[dict[str, Any], str | None]]) -> None:
        """The ack of each goes out after its commit, and not before, with those of all others that were committed with
        it."""
        self._flying += len(said)
        self._exchange.begin_send_all(reader.caller, said, functools.partial(self._stored, reader))

    def _stored(self, reader: Reader, came: Sequence[tuple[str | None, Receipt | Exception]]) -> None:
        """What became of some messages."""
        self._flying -= len(came)
        self._streams.say(reader, b"".join([self._outcome(reader, ref, went) for ref, went in came]))
        if self._full and self._flying <= IN_FLIGHT // 2:
            self._full = False
            asyncio.get_running_loop().call_soon(self._go_on)

    def _outcome(self, reader: Reader, ref: str | None, went: Receipt | Exception) -> bytes:
        """The frame that says what became of a message."""
        if not isinstance(went, Exception):
            return ws_frame(wire.accepted(went, ref).encode())
        good = self._exchange.tokens.good(reader.caller)
        return _error(as_fault(went) if good else Fault("unauthorized", "The token is not valid any more."), ref)

    def _acknowledge(self, pos: Position) -> None:
        head = self._exchange.log.position
        if pos.epoch != head.epoch or pos.seq > head.seq:
            raise Fault(Code.BAD_VALUE, f"{pos} is no position that was told.", field="pos")
        self._exchange.history.set_cursor(self._cursor, pos.seq)

    # -- the end ---------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return "nobody yet" if self._caller is None else self._caller.name

    def _left(self) -> None:
        """It is no reader any more, whoever ended that."""
        self._over = True
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def _part(self, code: int) -> None:
        """The client closes."""
        self._last_words(ws_frame(code.to_bytes(2, "big"), framing.CLOSE))
        self._transport.close()

    def _send_away(self, code: int, fault: Fault | None = None, ref: str | None = None) -> None:
        """The hub closes, and says why. What the client still sends is thrown away, so that it can read that."""
        if self._over:
            return
        self._last_words((b"" if fault is None else _error(fault, ref)) + close_frame(code))
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()
            self._patience = asyncio.get_running_loop().call_later(LINGER, self._transport.abort)
            self._streams.leaving.add(self._transport)

    def _last_words(self, told: bytes) -> None:
        self._over = True
        if self._patience is not None:
            self._patience.cancel()
        if self._greeting is not None and self._greeting is not asyncio.current_task():
            self._greeting.cancel()
        self._streams.unwelcomed.discard(self._send_away)
        self._incoming = Incoming(0)
        reader = self._reader
        if reader is not None:
            before, reader.out = reader.out, []
            told = b"".join((*before, told))
            self._streams.leave(reader)
        if not self._transport.is_closing():
            self._transport.write(told)
