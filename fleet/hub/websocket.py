"""The WebSocket: a client's frames taken, checked and answered, and events sent to it as they happen (`stream`).

The first frame is `hello`, and says from where on events are wanted. What a client sends goes into the log as at every
other door, and its ack comes after the commit, and not before. A frame that the hub cannot take is told of and costs
nothing else; a client that sends nothing but such frames is sent away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from aiohttp import WSMsgType, web

from fleet.errors import FleetError
from fleet.hub import wire
from fleet.hub.auth import Caller
from fleet.hub.message import Code, Position
from fleet.hub.stream import WEBSOCKET, Reader, Streams, as_fault, ws_frame
from fleet.hub.wire import Fault

log = logging.getLogger(__name__)

IN_FLIGHT = 256
"""Messages of one connection that may be on their way into the log."""

AT_A_TIME = 64
"""Frames of one connection that are looked at before others have their turn."""

FAULTS = 50
"""Frames in a row that the hub could not take, before it stops listening to their sender."""


class Socket(web.WebSocketResponse):
    """A WebSocket that says why it closes."""

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        if not self.closed and code in _BROKEN:
            with contextlib.suppress(ConnectionError):
                await self.send_str(_error(Fault(_BROKEN[code], wire.CLOSES[code].capitalize() + "."), None))
        return await super().close(code=code, message=message or wire.CLOSES.get(code, "").encode(), drain=drain)


_BROKEN = {1002: "bad_frame", 1007: "invalid_unicode", 1009: "too_large"}
"""What is told before a frame that cannot be read ends the connection."""


def _error(fault: Fault, ref: str | None) -> str:
    told = wire.encode({"type": "error", "error": fault.to_json(ref)})
    return told.encode(errors="replace").decode()  # what was refused may have been half a character


class Connection:
    """One client, from its handshake to its end."""

    __slots__ = ("_cursor", "_exchange", "_flying", "_socket", "_streams", "_transport")

    def __init__(self, streams: Streams, socket: Socket, transport: asyncio.Transport) -> None:
        self._streams = streams
        self._exchange = streams.exchange
        self._socket = socket
        self._transport = transport
        self._flying: set[asyncio.Task[None]] | None = None
        """Its messages that are on their way into the log."""
        self._cursor = ""
        """The name of this reader's cursor."""

    async def run(self, caller: Caller | None) -> None:
        """Until it ends. `caller`: whom the handshake's token names; else the first frame brings one."""
        reader = await self._greet(caller)
        if reader is None:
            return
        gone = self._exchange.connected(reader.caller)
        try:
            self._streams.begin(reader)
            with contextlib.suppress(ConnectionError):  # it has gone
                await self._listen(reader)
        except Exception:  # what nobody foresaw ends this connection, and no other
            log.exception("the connection of %s ended by a fault of the hub's", reader.caller.name)
            self._streams.end(reader, 1011)
        finally:
            gone()
            self._streams.leave(reader)

    async def _greet(self, caller: Caller | None) -> Reader | None:
        """Hear the first frame, and answer it; `None`: the client has gone, or was sent away."""
        try:
            async with asyncio.timeout(self._streams.pace.hello):
                hello = await self._hello()
                if hello is None:
                    return None
                if hello.token is not None:
                    caller = self._exchange.tokens.check(hello.token)
                if caller is None:
                    raise Fault("unauthorized", "No token, or one that is not valid (any more).")
                self._cursor = f"{caller.workspace}/{caller.name}/{hello.reader}"
                return await self._welcome(hello, caller)
        except TimeoutError:
            await self._refuse(Fault("timed_out", f"No `hello` within {self._streams.pace.hello:g} s."), None, 4002)
        except (Fault, FleetError) as error:
            fault = as_fault(error)
            await self._refuse(fault, fault.facts.pop("ref", None), 4001 if fault.code == "unauthorized" else 4002)
        return None

    async def _hello(self) -> wire.Hello | None:
        """The first frame; `None`: the client has gone."""
        message = await self._socket.receive()
        if message.type is not WSMsgType.TEXT:
            if message.type in (WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG):
                raise Fault("binary_frame", "The first frame is `hello`, as text.")
            return None
        frame = wire.read_frame(message.data)
        if not isinstance(frame, wire.Hello):
            raise Fault("unauthorized", "The first frame is `hello`.", ref=getattr(frame, "ref", None))
        if frame.version != wire.VERSION:
            raise Fault(
                Code.WRONG_VERSION, f"The hub speaks version {wire.VERSION} of its frames.", ref=frame.ref,
                version=wire.VERSION,
            )  # fmt: skip
        return frame

    async def _welcome(self, hello: wire.Hello, caller: Caller) -> Reader:
        reader = Reader(caller, self._transport, WEBSOCKET, asyncio.get_running_loop().time())
        gap = await self._streams.join(reader, await self._after(hello), hello.streams)
        log_ = self._exchange.log
        welcome = wire.Welcome(
            name=caller.name,
            role=caller.role.value,
            workspace=caller.workspace,
            position=str(Position(log_.epoch, reader.after)),
            head=str(log_.position),
            streams=reader.stream_names(),
            limits=self._streams.limits,
            ping=self._streams.pace.ping,
            gap=gap,
            ref=hello.ref,
        )
        reader.transport.write(ws_frame(welcome.model_dump_json(exclude_none=True).encode()))
        return reader

    async def _after(self, hello: wire.Hello) -> Position | None:
        if hello.after != "cursor":
            return None if hello.after is None else wire.as_position(hello.after)
        seq = await self._exchange.history.cursor(self._cursor)
        return None if seq is None else Position(self._exchange.log.epoch, seq)

    async def _refuse(self, fault: Fault, ref: str | None, code: int) -> None:
        with contextlib.suppress(ConnectionError):
            await self._socket.send_str(_error(fault, ref))
        await self._socket.close(code=code)

    async def _listen(self, reader: Reader) -> None:
        """Take frames until there are no more. One client's frames do not keep the loop from the others."""
        loop = asyncio.get_running_loop()
        frames = faults = 0
        while not reader.ended and await self._streams.room(reader):
            message = await self._socket.receive()
            reader.heard = loop.time()
            try:
                if message.type is WSMsgType.TEXT:
                    await self._take(reader, wire.read_frame(message.data))
                elif message.type is WSMsgType.BINARY:
                    raise Fault("binary_frame", "Frames are text.")
                elif message.type is WSMsgType.PING:
                    self._streams.say(reader, ws_frame(message.data, 0xA))
                elif message.type is not WSMsgType.PONG:
                    return
                faults = 0
            except (Fault, FleetError) as error:
                fault = as_fault(error)
                self._say(reader, _error(fault, fault.facts.pop("ref", None)))
                faults += 1
                if faults >= FAULTS:
                    self._streams.end(reader, 4002)
            frames += 1
            if frames % AT_A_TIME == 0:
                await asyncio.sleep(0)

    async def _take(self, reader: Reader, frame: wire.ClientFrame) -> None:
        match frame:
            case wire.Send():
                if self._flying is None:  # most connections only listen
                    self._flying = set()
                while len(self._flying) >= IN_FLIGHT:
                    await asyncio.wait(self._flying, return_when=asyncio.FIRST_COMPLETED)
                sending = asyncio.get_running_loop().create_task(self._send(reader, frame))
                self._flying.add(sending)
                sending.add_done_callback(self._flying.discard)
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
                self._say(reader, told.model_dump_json())
            case wire.Ping():
                self._say(reader, wire.Pong(ref=frame.ref).model_dump_json())
            case wire.Hello():
                raise Fault("unknown_type", "`hello` comes once, at the beginning.", ref=frame.ref)

    async def _send(self, reader: Reader, frame: wire.Send) -> None:
        """Its ack goes out after its commit, and not before."""
        try:
            if not self._exchange.tokens.good(reader.caller):
                raise Fault("unauthorized", "The token is not valid any more.")
            receipt = await self._exchange.send(reader.caller, frame.message)
        except Exception as error:  # noqa: BLE001  whatever it is, the sender hears of it
            self._say(reader, _error(as_fault(error), frame.ref))
            return
        told: dict[str, Any] = {
            "type": "ack", "ref": frame.ref, "id": receipt.id, "seq": receipt.position.seq,
            "epoch": receipt.position.epoch, "duplicate": receipt.duplicate,
        }  # fmt: skip
        self._say(reader, wire.encode(told))

    def _acknowledge(self, pos: Position) -> None:
        head = self._exchange.log.position
        if pos.epoch != head.epoch or pos.seq > head.seq:
            raise Fault(Code.BAD_VALUE, f"{pos} is no position that was told.", field="pos")
        self._exchange.history.set_cursor(self._cursor, pos.seq)

    def _say(self, reader: Reader, text: str) -> None:
        self._streams.say(reader, ws_frame(text.encode()))
