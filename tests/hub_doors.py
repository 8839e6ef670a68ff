"""A hub on real sockets, for tests: an engine in a folder of its own, its doors, and clients of several kinds."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from fleet.clock import SystemClock
from fleet.hub.auth import MAIN, Role
from fleet.hub.exchange import Exchange
from fleet.hub.guardrails import Speaker
from fleet.hub.host import HubServer
from fleet.hub.registry import Card
from fleet.hub.stream import Pace
from fleet.settings import Places, Settings

SOON = 60.0
"""Seconds: what has not happened by then will not, on a busy machine either."""

LOOSE: dict[str, Any] = {"hub_sender_rate": 1e6, "hub_sender_burst": 1_000_000}
"""Settings under which nobody is told to slow down."""


@dataclass
class Answer:
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """Of its error, if it is one; it has the one form then."""
        error = self.json.get("error") if self.body[:1] == b"{" else None
        if error is None:
            return None
        assert isinstance(error["message"], str) and error["message"]
        return str(error["code"])


class Socket:
    """A WebSocket client that has said hello."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.welcome: dict[str, Any] = {}
        self._kept: list[dict[str, Any]] = []

    async def frame(self) -> dict[str, Any]:
        """The next frame, whatever it is. Raise `ConnectionError` with the close code where there is none."""
        message = await asyncio.wait_for(self.ws.receive(), SOON)
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionError(message.data if message.type is aiohttp.WSMsgType.CLOSE else self.ws.close_code)
        return dict(json.loads(message.data))

    async def next(self, kind: str) -> dict[str, Any]:
        """The next frame of that type; those of others are kept for later."""
        for number, kept in enumerate(self._kept):
            if kept["type"] == kind:
                return self._kept.pop(number)
        while (frame := await self.frame())["type"] != kind:
            self._kept.append(frame)
        return frame

    async def texts(self, count: int) -> list[str]:
        """The texts of the next so many messages."""
        found: list[str] = []
        while len(found) < count:
            event = await self.next("event")
            if event["kind"] in ("message", "copy"):
                found.append(event["data"]["text"])
        return found

    async def say(self, **frame: Any) -> None:
        await self.ws.send_str(json.dumps(frame))

    async def error(self) -> dict[str, Any]:
        return dict((await self.next("error"))["error"])

    async def closed(self) -> int:
        """The code with which the hub closes, whatever comes before."""
        while True:
            try:
                await self.frame()
            except ConnectionError as closed:
                return int(closed.args[0])


class Hub:
    """A hub, and whoever speaks to it."""

    def __init__(self, folder: Path, exchange: Exchange, server: HubServer, http: aiohttp.ClientSession) -> None:
        self.folder = folder
        self.exchange = exchange
        self.server = server
        self.http = http
        self.tokens: dict[str, str] = {}

    @property
    def url(self) -> str:
        return str(self.server.info()["url"])

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def epoch(self) -> str:
        return self.exchange.log.epoch

    def place(self, seq: int) -> str:
        return f"{self.epoch}:{seq}"

    async def token(self, role: Role, name: str, workspace: str = MAIN, **more: Any) -> str:
        """A new token for that name; it is kept as the one of that name."""
        _, token = await self.exchange.tokens.create(role, name, workspace, by="test", **more)
        self.tokens[name] = token
        return token

    async def agent(self, name: str, *channels: str, workspace: str = MAIN) -> str:
        """An agent that is declared, hears these channels, and has a token."""
        speaker = Speaker(name=name, may=frozenset({"send", "ask", "broadcast"}), wake=True)
        await self.exchange.enroll(Card(name=name), speaker, channels, workspace)
        return await self.token(Role.AGENT, name, workspace)

    async def ask(
        self, method: str, path: str, who: str | None = None, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Answer:
        """One request; `who`: whose token it bears."""
        told = dict(headers or {})
        if who is not None:
            told["Authorization"] = f"Bearer {self.tokens.get(who, who)}"
        where = path if path.startswith(("/health", "/openapi", "/asyncapi", "/mcp")) else f"/api/v1{path}"
        async with self.http.request(method, self.url + where, headers=told, **more) as response:
            return Answer(response.status, response.headers.copy(), await response.read())

    async def send(self, who: str, to: str | list[str], text: str, **more: Any) -> dict[str, Any]:
        """A message that is accepted."""
        answer = await self.ask("POST", "/messages", who, json={"to": to, "text": text, **more})
        assert answer.status == 201, answer.body
        return dict(answer.json)

    @asynccontextmanager
    async def bare(self, who: str | None = None, headers: Mapping[str, str] | None = None) -> AsyncIterator[Socket]:
        """A WebSocket that has said nothing yet."""
        told = dict(headers or {})
        if who is not None:
            told["Authorization"] = f"Bearer {self.tokens.get(who, who)}"
        async with self.http.ws_connect(
            f"{self.url}/api/v1/ws", headers=told, max_msg_size=0, autoping=True
        ) as ws:  # fmt: skip
            yield Socket(ws)

    @asynccontextmanager
    async def socket(self, who: str, **hello: Any) -> AsyncIterator[Socket]:
        """A WebSocket that is welcome."""
        async with self.bare(who) as socket:
            await socket.say(type="hello", **hello)
            socket.welcome = await socket.next("welcome")
            yield socket

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A plain connection to the port."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    @asynccontextmanager
    async def deaf(self, who: str, **hello: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A WebSocket without a client behind it, welcome and with small buffers: it reads when the test reads."""
        import socket as sockets

        plain = sockets.socket()
        plain.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 16 * 1024)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=plain, limit=16 * 1024)
        try:
            writer.write(handshake(self.tokens[who]) + masked(json.dumps({"type": "hello", **hello}).encode()))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON)
            assert head.startswith(b"HTTP/1.1 101"), head
            assert json.loads((await read_frame(reader))[1])["type"] == "welcome"
            yield reader, writer
        finally:
            writer.close()


def handshake(token: str, **headers: str) -> bytes:
    """A client's request for a WebSocket."""
    lines = [
        "GET /api/v1/ws HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Version: 13",
        f"Authorization: Bearer {token}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def masked(payload: bytes, opcode: int = 0x1, *, size: int | None = None) -> bytes:
    """A frame as a client sends it, with a mask that changes nothing. `size`: what its head says."""
    length = len(payload) if size is None else size
    if length < 126:
        head = bytes((0x80 | opcode, 0x80 | length))
    elif length < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + length.to_bytes(8, "big")
    return head + bytes(4) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next frame of the hub: its opcode and payload."""
    async with asyncio.timeout(SOON):
        first, second = await reader.readexactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
        return first & 0x0F, await reader.readexactly(size)


class Ahead(SystemClock):
    """This machine's time and `seconds`, which a test may let pass at once."""

    seconds = 0.0

    def now(self) -> float:
        return super().now() + self.seconds


@asynccontextmanager
async def running_hub(
    *,
    pace: Pace | None = None,
    head_time: float = SOON,
    clock: SystemClock | None = None,
    folder: Path | None = None,
    **settings: Any,
) -> AsyncIterator[Hub]:
    """A hub that listens; in `folder`, else in one of its own that goes with it. There is an operator `op`."""
    home = folder or Path(tempfile.mkdtemp(prefix="fl"))
    chosen = Settings(**settings)
    places = Places(home / "config", home / "state", home / "run")
    try:
        exchange = await Exchange.open(home / "state" / "hub", chosen, clock or SystemClock())
        try:
            server = HubServer(exchange, chosen, places, pace=pace, head_time=head_time)
            await server.start()
            try:
                async with aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(SOON)
                ) as http:
                    hub = Hub(home, exchange, server, http)
                    await hub.token(Role.OPERATOR, "op")
                    yield hub
            finally:
                await server.close()
        finally:
            await exchange.close()
    finally:
        if folder is None:
            shutil.rmtree(home, ignore_errors=True)
