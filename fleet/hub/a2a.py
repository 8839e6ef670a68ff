"""A2A on the hub's own port: an agent whose manifest says `a2a: {enabled: true}` is one that other programs can ask.

`/.well-known/agent-card.json` names them all, `/a2a/NAME/.well-known/agent-card.json` one of them, and `/a2a/NAME`
takes messages for it. A message is an ask like any other, with the same guardrails, under the name of the token that
it comes with; a task is that ask, by the id of its message, so it is there after a restart too.

The library is an extra (`pip install 'agent-fleet[a2a]'`), loaded when somebody first asks (`a2a_server.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from aiohttp import web

from fleet.hub import asgi, wire
from fleet.hub.auth import Caller
from fleet.hub.bodies import SAFE, read_body
from fleet.hub.exchange import Exchange
from fleet.hub.message import Code
from fleet.hub.wire import Fault

CARD = "/.well-known/agent-card.json"


def mount(app: web.Application, exchange: Exchange, caller_of: Callable[[web.Request], Caller]) -> None:
    """Serve A2A. `caller_of` says who asks, and raises where nobody does."""
    server = A2A(exchange, caller_of)
    app.router.add_get(CARD, server.hub_card)
    app.router.add_get(f"/a2a/{{name}}{CARD}", server.card)
    app.router.add_post("/a2a/{name}", server.call)
    app.router.add_post("/a2a/{name}/", server.call)


class A2A:
    """The doors; what is behind them is made when first asked."""

    def __init__(self, exchange: Exchange, caller_of: Callable[[web.Request], Caller]) -> None:
        self._exchange, self._caller_of = exchange, caller_of
        self._loading: asyncio.Task[Any] | None = None

    async def hub_card(self, request: web.Request) -> web.StreamResponse:
        """Every agent that can be asked."""
        caller = self._caller_of(request)
        open_ = [member for member in self._exchange.members(caller) if member.get("a2a")]
        return _json((await self._server()).card_of_all(open_, _url(request)))

    async def card(self, request: web.Request) -> web.StreamResponse:
        """One of them."""
        member = self._member(self._caller_of(request), request)
        return _json((await self._server()).card_of(member, _url(request)))

    async def call(self, request: web.Request) -> web.StreamResponse:
        """A message, or a question about one, as JSON-RPC."""
        caller = self._caller_of(request)
        if not caller.speaks:
            raise Fault(Code.NOT_ALLOWED, "A viewer only reads.")
        member = self._member(caller, request)
        body = await read_body(request, wire.FRAME)
        return await asgi.serve(await self._server(), request, {"caller": caller, "agent": member["name"]}, body)

    def _member(self, caller: Caller, request: web.Request) -> dict[str, Any]:
        name = request.match_info["name"]
        for member in self._exchange.members(caller):
            if member["name"] == name and member.get("a2a"):
                return member
        raise Fault("unknown_agent", f"No agent {ascii(name)[:60]} takes A2A messages here.")

    async def _server(self) -> Any:
        if find_spec("a2a") is None:
            raise Fault("cannot_yet", "A2A needs its library: pip install 'agent-fleet[a2a]'.")
        if self._loading is None:
            self._loading = asyncio.ensure_future(self._load())
        return await asyncio.shield(self._loading)

    async def _load(self) -> Any:
        module = await asyncio.to_thread(import_module, "fleet.hub.a2a_server")  # the hub goes on meanwhile
        return module.Server(self._exchange)


def _url(request: web.Request) -> str:
    """By which name the hub was asked: the door has checked that it is one of its own."""
    return f"{request.scheme}://{request.headers.get('Host', 'localhost')}"


def _json(card: dict[str, Any]) -> web.Response:
    return web.json_response(card, headers=SAFE)
