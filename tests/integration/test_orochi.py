"""The compatibility ports, with the real scitex-orochi 0.5.1 as their client, and its failures as tests of ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fleet.clock import SystemClock
from fleet.hub import orochi
from fleet.hub.auth import Role
from fleet.hub.exchange import Exchange
from fleet.hub.stream import Pace
from fleet.settings import Settings
from tests import orochi as package
from tests.homes import Home

DEADLINE = 60.0
Json = dict[str, Any]


class Hub:
    """A hub with its compatibility ports, within this process."""

    def __init__(self, exchange: Exchange, ports: orochi.Ports, session: aiohttp.ClientSession) -> None:
        self.exchange, self.ports, self.session = exchange, ports, session
        self.tokens: dict[str, str] = {}

    async def token(self, name: str, role: Role = Role.AGENT, workspace: str = "main") -> str:
        key = f"{workspace}/{name}/{role}"
        if key not in self.tokens:
            _, self.tokens[key] = await self.exchange.tokens.create(role, name, workspace, by="test")
        return self.tokens[key]

    async def ws(self, name: str, role: Role = Role.AGENT, path: str = "/", workspace: str = "main") -> Raw:
        token = await self.token(name, role, workspace)
        assert self.ports.ws is not None
        socket = await self.session.ws_connect(f"{self.ports.ws}{path}?token={token}", max_msg_size=0)
        return Raw(socket, name)

    async def observer(self, name: str = "watcher", role: Role = Role.VIEWER) -> Raw:
        token = await self.token(name, role)
        return Raw(await self.session.ws_connect(f"{self.ports.http}/ws?token={token}"), name)

    async def rest(
        self, method: str, path: str, body: Any = None, *, name: str = "ops", role: Role = Role.ADMIN, **more: Any
    ) -> tuple[int, Any]:
        url = f"{self.ports.http}{path}{'&' if '?' in path else '?'}token={await self.token(name, role)}"
        async with self.session.request(method, url, json=body, **more) as answer:
            return answer.status, await answer.json(content_type=None)

    async def env(self, name: str, role: Role = Role.AGENT) -> dict[str, str]:
        """What the package's programs find in their environment."""
        assert self.ports.ws is not None and self.ports.http is not None
        return {
            "SCITEX_OROCHI_HOST": "127.0.0.1",
            "SCITEX_OROCHI_PORT": self.ports.ws.rpartition(":")[2],
            "SCITEX_OROCHI_DASHBOARD_PORT": self.ports.http.rpartition(":")[2],
            "SCITEX_OROCHI_TOKEN": await self.token(name, role),
            "SCITEX_OROCHI_AGENT": name,
        }

    async def said(self, channel: str = "#general") -> list[tuple[str, str]]:
        """Who said what in a channel, as the hub itself has it."""
        ops = self.exchange.tokens.check(await self.token("ops", Role.ADMIN))
        assert ops is not None
        page = await self.exchange.read(ops, channel=channel, limit=500)
        return [(one["sender"], one["text"]) for one in page["messages"]]


class Raw:
    """A client that speaks the frames itself."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, name: str) -> None:
        self.socket, self.name = socket, name

    async def say(self, type: str, /, id: str = "", sender: str | None = None, **payload: Any) -> None:
        frame: Json = {"type": type, "sender": self.name if sender is None else sender, "payload": payload}
        await self.socket.send_json(frame | ({"id": id} if id else {}))

    async def hear(self) -> Json:
        return json.loads(await self.socket.receive_str(timeout=DEADLINE))

    async def until(self, what: Callable[[Json], Any]) -> Json:
        """The next frame for which it holds."""
        while True:
            if what(frame := await self.hear()):
                return frame

    async def register(self, *channels: str, **more: Any) -> Json:
        await self.say("register", id="r", channels=list(channels) or ["#general"], **more)
        return await self.until(lambda frame: frame["payload"].get("ref") == "r")

    async def ask(self, type: str, **payload: Any) -> Json:
        """A question and its answer; what is pushed in between is passed over."""
        await self.say(type, id="q", **payload)
        wanted = {"query": lambda f: "history" in f["payload"], "presence": lambda f: f["type"] == "presence"}
        return await self.until(lambda f: f["type"] == "error" or wanted[type](f))

    async def history(self, channel: str = "#general", **more: Any) -> list[str]:
        answer = await self.ask("query", channel=channel, **more)
        return [row["content"] for row in answer["payload"]["history"]]

    async def close(self) -> None:
        await self.socket.close()


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with a_hub(tmp_path) as hub:
        yield hub


@contextlib.asynccontextmanager
async def a_hub(folder: Path, pace: Pace | None = None) -> AsyncIterator[Hub]:
    exchange = await Exchange.open(folder, Settings(hub_sender_rate=1e6, hub_sender_burst=10**6), SystemClock())
    ports = await orochi.serve(exchange, "127.0.0.1", 0, 0, pace=pace)
    async with aiohttp.ClientSession() as session:
        yield Hub(exchange, ports, session)
    await ports.close()
    await exchange.close()


async def until(what: Callable[[], Any]) -> Any:
    async with asyncio.timeout(DEADLINE):
        while True:
            found = what()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)


# -- the package itself --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def venv() -> Path:
    try:
        return package.environment()
    except package.Unavailable as reason:
        pytest.skip(f"scitex-orochi {package.VERSION} cannot be had: {reason}")


class Program:
    """A program of the package's, running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout
        async with asyncio.timeout(DEADLINE):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def say(self, message: Json) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        await self.process.stdin.drain()

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.communicate()


class Package:
    """The package's programs, each ended with the test."""

    def __init__(self, venv: Path, home: Home, hub: Hub) -> None:
        self.bin, self._home, self._hub = venv / "bin", home, hub
        self.started: list[Program] = []

    async def start(self, name: str, *argv: str, **env: str) -> Program:
        """Start one as an agent."""
        pipe = asyncio.subprocess.PIPE
        more = {"SCITEX_OROCHI_DB": str(self._home.path / "orochi.db"), "PYTHONUNBUFFERED": "1"}
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self._home.work,
            env={**self._home.env, **more, **await self._hub.env(name), **env},
        )  # fmt: skip
        self.started.append(Program(process))
        return self.started[-1]

    async def cli(self, name: str, *words: str, **env: str) -> tuple[int, str]:
        """Run its command line to its end."""
        program = await self.start(name, str(self.bin / "scitex-orochi"), *words, **env)
        async with asyncio.timeout(DEADLINE):
            out, err = await program.process.communicate()
        assert program.process.returncode is not None
        return program.process.returncode, (out or err).decode()

    async def python(self, name: str, script: str) -> Program:
        return await self.start(name, str(self.bin / "python"), "-c", script)


@pytest.fixture
async def orochis(hub: Hub, venv: Path, home: Home) -> AsyncIterator[Package]:
    package = Package(venv, home, hub)
    yield package
    for program in package.started:
        await program.end()


CLIENT = """
import asyncio, json, sys
from scitex_orochi._client import OrochiClient

async def main():
    async with OrochiClient("alice", channels=["#general", "#lab"], machine="m1", role="tester") as alice:
        await alice.send("#general", "hello all")
        await alice.send("#lab", "an experiment", {"run": 7})
        await alice.heartbeat({"cpu_count": 8, "load_avg_1m": 0.5, "secret": "x"})
        await alice.update_status("busy", "measuring")
        await alice.subscribe("#later")
        print(json.dumps(await alice.query_history("#general")))
        print(json.dumps(await alice.query_history("#lab", limit=5)))
        print(json.dumps(await alice.who()))
        print(json.dumps(await alice.query_history("#later")))
        print("listening", flush=True)
        async for message in alice.listen():
            print(json.dumps([message.type, message.sender, message.payload, message.id, message.ts]), flush=True)

asyncio.run(main())
"""


async def test_its_python_client_works_unchanged(hub: Hub, orochis: Package) -> None:
    bob = await hub.ws("bob")
    await bob.register("#lab", model="opus")
    client = await orochis.python("alice", CLIENT)
    [row] = json.loads(await client.line())
    assert (row["sender"], row["content"], row["channel"]) == ("alice", "hello all", "#general")
    assert row["msg_id"] and datetime.fromisoformat(row["ts"]) and row["attachments"] == [] and row["mentions"] == []
    [row] = json.loads(await client.line())
    assert (row["content"], row["metadata"]) == ("an experiment", {"run": 7})
    who = json.loads(await client.line())
    assert who["alice"] == ["#general", "#lab", "#later"]
    assert "#lab" in who["bob"]
    assert json.loads(await client.line()) == []
    assert await client.line() == "listening"
    got = await bob.until(lambda frame: frame["payload"].get("channel") == "#lab")
    assert (got["type"], got["sender"], got["payload"]["content"]) == ("message", "alice", "an experiment")
    assert got["payload"]["metadata"] == {"run": 7}
    await bob.say("message", channel="#later", content="seen, @alice")
    kind, sender, payload, _, _ = json.loads(await client.line())
    assert (kind, sender, payload["channel"], payload["content"]) == ("message", "bob", "#later", "seen, @alice")
    _, agents = await hub.rest("GET", "/api/agents")
    [alice] = [agent for agent in agents if agent["name"] == "alice"]
    assert [alice[x] for x in ("machine", "role", "status", "current_task")] == ["m1", "tester", "busy", "measuring"]
    assert alice["resources"] == {"cpu_count": 8, "load_avg_1m": 0.5}
    await bob.close()


LISTENER = """
import asyncio
from scitex_orochi._client import OrochiClient

async def main():
    async with OrochiClient("alice") as alice:
        print("up", flush=True)
        async for message in alice.listen():
            print(message.content, flush=True)

asyncio.run(main())
"""


async def test_a_message_that_its_client_hears_is_delivered(hub: Hub, orochis: Package) -> None:
    client = await orochis.python("alice", LISTENER)
    assert await client.line() == "up"
    bob = await hub.ws("bob")
    await bob.register(acks=True)
    await bob.say("message", id="m1", channel="@alice", content="for you alone")
    ack = await bob.until(lambda frame: frame["payload"].get("ref") == "m1")
    assert await client.line() == "for you alone"
    ops = hub.exchange.tokens.check(await hub.token("ops", Role.ADMIN))
    assert ops is not None
    receipt: Json = {}

    async def delivered() -> bool:
        nonlocal receipt
        receipt = await hub.exchange.receipt(ops, ack["payload"]["msg_id"])
        return bool(receipt["recipients"][0]["state"] == "delivered")

    await until(delivered)
    assert [(one["name"], one["evidence"]) for one in receipt["recipients"]] == [("alice", "orochi")]
    await bob.close()


async def test_each_verb_of_its_command_line_works(hub: Hub, orochis: Package) -> None:
    async def ok(*words: str, **env: str) -> str:
        code, out = await orochis.cli("alice", *words, **env)
        assert code == 0, out
        return out

    assert "Sent to #lab" in await ok("send", "#lab", "built")
    assert await hub.said("#lab") == [("alice", "built")]
    assert json.loads(await ok("show-history", "--json", "#lab"))[0]["content"] == "built"
    assert "Joined #alerts" in await ok("join", "#alerts")
    listening = await orochis.start(
        "carol", str(orochis.bin / "scitex-orochi"), "listen", "--json", "--channel", "#lab"
    )
    await until(lambda: hub.exchange.registry.connections["main", "carol"])
    await until(lambda: "#lab" in hub.exchange.registry.directory("main").members["carol"].channels)
    assert "carol" in json.loads(await ok("list-agents", "--json"))
    assert "carol" in json.loads(await ok("show-status", "--json"))["agents"]
    assert {"#lab", "#alerts", "#general"} == set(json.loads(await ok("list-channels", "--json")))
    assert set(json.loads(await ok("list-members", "--channel", "#lab", "--json"))) == {"carol"}
    assert set(json.loads(await ok("list-members", "--channel", "#alerts", "--json"))) == {"alice"}
    await ok("send", "#lab", "again")
    heard = json.loads(await listening.line())
    assert (heard["sender"], heard["content"], heard["channel"]) == ("alice", "again", "#lab")
    logged_in = await orochis.start("dave", str(orochis.bin / "scitex-orochi"), "login", "--channels", "#lab")
    assert "Logged in as dave" in await logged_in.line()
    admin = await hub.token("ops", Role.ADMIN)

    async def administers(*words: str) -> Any:
        return json.loads(await ok(*words, "--json", SCITEX_OROCHI_ADMIN_TOKEN=admin))

    made = await administers("create-workspace", "physics", "--channels", "#runs")
    assert hub.exchange.tokens.check(made["token"]) is not None
    assert [space["name"] for space in await administers("list-workspaces")] == ["main", "physics"]
    invite = await administers("create-invite", "physics", "--max-uses", "2", "--expires-hours", "1")
    assert (await hub.rest("POST", "/api/invites/redeem", {"token": invite["code"], "agent_name": "eve"}))[0] == 200
    assert [one["max_uses"] for one in await administers("list-invites", "physics")] == [1]
    assert await administers("delete-workspace", "physics", "--yes") == {"ok": True}
    code, out = await orochis.cli("alice", "doctor", "--json")
    assert code != 0 and "docker" in out, "its own failing: it asks for docker"


async def test_a_message_with_nothing_in_it_is_not_stored_whatever_its_command_line_prints(
    hub: Hub, orochis: Package
) -> None:
    await orochis.cli("alice", "send", "#general", "")
    await orochis.cli("alice", "send", "#general", "something")
    assert await hub.said() == [("alice", "something")]


async def test_its_mcp_server_works_unchanged(hub: Hub, orochis: Package) -> None:
    program = await orochis.start("alice", str(orochis.bin / "scitex-orochi-mcp"))
    tools = await mcp_session(program)
    assert {"orochi_send", "orochi_who", "orochi_history", "orochi_channels"} <= tools
    sent = await mcp_call(program, "orochi_send", channel="#general", message="by way of MCP")
    assert json.loads(sent)["status"] == "sent"
    history = json.loads(await mcp_call(program, "orochi_history", channel="#general"))
    assert [row["content"] for row in history["messages"]] == ["by way of MCP"]
    assert "alice" in json.loads(await mcp_call(program, "orochi_who"))["agents"]
    assert "#general" in json.loads(await mcp_call(program, "orochi_channels"))["channels"]


async def test_its_sidecar_in_typescript_works_unchanged(hub: Hub, orochis: Package, home: Home) -> None:
    try:
        folder = package.sidecar()
    except package.Unavailable as reason:
        pytest.skip(f"the sidecar cannot be had: {reason}")
    port = (await hub.env("alice"))["SCITEX_OROCHI_DASHBOARD_PORT"]
    bun = str(folder / "node_modules/.bin/bun")
    program = await orochis.start("alice", bun, "run", str(folder / "mcp_channel.ts"), SCITEX_OROCHI_PORT=port)
    assert {"reply", "history", "status"} <= await mcp_session(program)
    await until(lambda: hub.exchange.registry.connections["main", "alice"])
    (home.work / "plot.txt").write_text("a plot")
    files = [str(home.work / "plot.txt")]
    assert await mcp_call(program, "reply", chat_id="#general", text="from the sidecar", files=files) == "sent"
    await until(lambda: hub.said())
    assert await hub.said() == [("alice", "from the sidecar")]
    assert "alice: from the sidecar" in await mcp_call(program, "history", channel="#general")
    assert "state: connected" in await mcp_call(program, "status")
    bob = await hub.ws("bob")
    await bob.register()
    [row] = (await bob.ask("query", channel="#general"))["payload"]["history"]
    assert row["attachments"][0]["filename"] == "plot.txt" and row["attachments"][0]["size"] == 6
    await bob.say("message", channel="#general", content="do you hear?")
    pushed = await mcp_hear(program, lambda m: m.get("method") == "notifications/claude/channel")
    assert pushed["params"]["content"] == "do you hear?"
    assert pushed["params"]["meta"]["user"] == "bob" and pushed["params"]["meta"]["chat_id"] == "#general"
    await bob.close()


async def mcp_session(program: Program) -> set[str]:
    """Begin a session over stdio; the names of the tools."""
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    await program.say({"jsonrpc": "2.0", "id": "i", "method": "initialize", "params": about})
    await mcp_hear(program, lambda m: m.get("id") == "i")
    await program.say({"jsonrpc": "2.0", "method": "notifications/initialized"})
    await program.say({"jsonrpc": "2.0", "id": "l", "method": "tools/list"})
    listed = await mcp_hear(program, lambda m: m.get("id") == "l")
    return {tool["name"] for tool in listed["result"]["tools"]}


async def mcp_call(program: Program, tool: str, **arguments: Any) -> str:
    params = {"name": tool, "arguments": arguments}
    await program.say({"jsonrpc": "2.0", "id": tool, "method": "tools/call", "params": params})
    answer = await mcp_hear(program, lambda m: m.get("id") == tool)
    return str(answer["result"]["content"][0]["text"])


async def mcp_hear(program: Program, what: Callable[[Json], Any]) -> Json:
    while True:
        line = await program.line()
        assert line, "the server has ended"
        if what(message := json.loads(line)):
            return message
