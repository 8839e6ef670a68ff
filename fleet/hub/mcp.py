"""MCP on the hub's own port: `POST /mcp`, streamable HTTP without sessions.

Without sessions, a program's connection outlives the daemon: there is nothing to begin anew. The library, which takes
a second to load and 20 MB, is loaded when the first program asks (`mcp_server.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any

from aiohttp import web

from fleet.hub import asgi
from fleet.hub.auth import Caller
from fleet.hub.exchange import Exchange

PATH = "/mcp"
LARGEST = 32 * 1024 * 1024
"""Bytes of a request: a file of 20 MB as base64, and what stands around it."""


def mount(app: web.Application, exchange: Exchange, caller_of: Callable[[web.Request], Caller]) -> None:
    """Serve MCP. `caller_of` says who asks, and raises where nobody does."""
    server = Mcp(exchange, caller_of)
    app.router.add_post(PATH, server.handle)
    app.on_cleanup.append(server.close)


class Mcp:
    """The server, made when it is first asked."""

    def __init__(self, exchange: Exchange, caller_of: Callable[[web.Request], Caller]) -> None:
        self._exchange, self._caller_of = exchange, caller_of
        self._loading: asyncio.Task[Any] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request of a program's."""
        caller = self._caller_of(request)
        body = await asgi.read(request, LARGEST)
        if self._loading is None:
            self._loading = asyncio.ensure_future(self._load())
        server = await asyncio.shield(self._loading)
        state = {"caller": caller, "key": request.headers.get("Idempotency-Key")}
        return await asgi.serve(server, request, state, body)

    async def _load(self) -> Any:
        module = await asyncio.to_thread(import_module, "fleet.hub.mcp_server")  # the hub goes on meanwhile
        return await module.Server.start(self._exchange)

    async def close(self, app: web.Application) -> None:
        """End what is asked now."""
        if self._loading is not None:
            await (await self._loading).close()
