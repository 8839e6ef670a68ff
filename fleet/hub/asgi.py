"""An ASGI application under a path of the hub's own port: what MCP's and A2A's libraries bring is one.

It is called as any server would call it, whole body first. When the client goes away, the call is cancelled: nobody
reads its answer, so it must not go on to take somebody's mail.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from aiohttp import web

from fleet.hub.message import Code
from fleet.hub.wire import Fault

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOK = 0.2
"""Seconds between two looks at whether the client is still there."""


async def serve(
    application: Application, request: web.Request, state: Mapping[str, Any], body: bytes
) -> web.StreamResponse:
    """Answer a request by the application; `state` is what it finds as `request.state`. Its body has been read."""
    answer = _Answer(request)
    call = asyncio.ensure_future(application(_scope(request, state), _receiver(body), answer.send))
    watch = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((call, watch), return_when=asyncio.FIRST_COMPLETED)
        if not call.done():
            raise web.HTTPRequestTimeout  # to nobody
        await call
    finally:
        for task in (call, watch):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    return await answer.end()


async def read(request: web.Request, largest: int) -> bytes:
    """The body of a request, which may be larger than what the hub's other doors take. Raise `Fault`."""
    parts, size = [], 0
    async for part in request.content.iter_chunked(256 * 1024):
        size += len(part)
        if size > largest:
            raise Fault(Code.TOO_LARGE, f"A request is at most {largest} bytes here.", limit=largest)
        parts.append(part)
    return b"".join(parts)


async def _gone(request: web.Request) -> None:
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 (nothing tells it)
        await asyncio.sleep(LOOK)


def _scope(request: web.Request, state: Mapping[str, Any]) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": f"{request.version.major}.{request.version.minor}",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.raw_path.partition("?")[0].encode(),
        "query_string": request.query_string.encode(),
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
        "client": None,
        "server": None,
        "state": dict(state),
    }


def _receiver(body: bytes) -> Receive:
    """The body as one message; after that nothing comes, until the call ends."""
    messages: asyncio.Queue[Message] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
    return messages.get


class _Answer:
    """What the application sends, as an answer of aiohttp's: in one piece where it comes in one."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._status = 500
        self._headers: list[tuple[str, str]] = []
        self._whole: bytes | None = None
        self._stream: web.StreamResponse | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
            return
        body, more = bytes(message.get("body", b"")), message.get("more_body", False)
        if self._stream is None and not more:
            self._whole = body
            return
        if self._stream is None:
            self._stream = self._made(web.StreamResponse(status=self._status))
            await self._stream.prepare(self._request)
        if body:
            await self._stream.write(body)

    async def end(self) -> web.StreamResponse:
        if self._stream is not None:
            await self._stream.write_eof()
            return self._stream
        return self._made(web.Response(status=self._status, body=self._whole or b""))

    def _made(self, response: web.StreamResponse) -> web.StreamResponse:
        for name, value in self._headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                response.headers[name] = value
        return response
