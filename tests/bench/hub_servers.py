"""The hubs that `hub_doors` measures, each a process of its own: `python -m tests.bench.hub_servers WHICH FOLDER N`.

Each prints one line of JSON: where it is, and N tokens. `fleet` is the hub with its doors; `bare` is aiohttp that
passes each message on to everybody, and keeps nothing; `group` is the same after a bare group commit (`hub_log.Bare`).
All of them look for cycles of garbage as seldom as the daemon does.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

from aiohttp import WSMsgType, web

from fleet.clock import SystemClock
from fleet.hub.auth import Role
from fleet.hub.exchange import Card, Exchange, Speaker
from fleet.hub.host import HubServer
from fleet.settings import Places
from tests.bench.hub_exchange import RAISED
from tests.bench.hub_log import Bare


async def fleet(folder: Path, agents: int) -> None:
    settings = replace(RAISED, hub_connections=10_000, hub_orochi_ws_port=-1, hub_orochi_http_port=-1)
    exchange = await Exchange.open(folder / "hub", settings, SystemClock())
    tokens = [(await exchange.tokens.create(Role.OPERATOR, "op", by="bench"))[1]]
    for number in range(agents):
        name = f"a{number}"
        await exchange.enroll(Card(name=name), Speaker(name=name), ["#general"])
        tokens.append((await exchange.tokens.create(Role.AGENT, name, by="bench"))[1])
    server = HubServer(exchange, settings, Places(folder / "config", folder / "state", folder / "run"))
    await server.start()
    say({"port": int(server.info()["url"].rpartition(":")[2]), "tokens": tokens})
    await asyncio.Event().wait()


async def broadcast(folder: Path, bare: Bare | None) -> None:
    """Each frame goes to all as it came, after it is stored where it is; then its sender has its ack."""
    open_: set[web.WebSocketResponse] = set()
    numbers = itertools.count()

    async def one(socket: web.WebSocketResponse, text: str) -> None:
        if bare is not None:
            await bare.append(f"k{next(numbers)}")
        for other in open_:
            await other.send_str(text)
        await socket.send_str('{"type":"ack"}')

    async def handler(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        hears, tasks = False, set()
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    continue
                if message.data.startswith('{"type":"hello'):
                    hears = '"quiet"' not in message.data
                    if hears:
                        open_.add(socket)
                    await socket.send_str('{"type":"welcome"}')
                else:
                    task = asyncio.create_task(one(socket, message.data))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
        finally:
            open_.discard(socket)
        return socket

    app = web.Application()
    app.router.add_get("/api/v1/ws", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    say({"port": runner.addresses[0][1], "tokens": []})
    await asyncio.Event().wait()


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


async def main() -> None:
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)  # as `daemon.collect_seldom`
    which, folder, agents = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if which == "fleet":
        await fleet(folder, agents)
    elif which == "bare":
        await broadcast(folder, None)
    else:
        await broadcast(folder, Bare(folder / "bare.db"))


if __name__ == "__main__":
    asyncio.run(main())
