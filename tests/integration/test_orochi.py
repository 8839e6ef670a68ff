"""The compatibility ports, with the real scitex-orochi 0.5.1 as their client, and its failures as tests of ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fleet.clock import SystemClock
from fleet.hub import orochi, tools
from fleet.hub.auth import Caller, Role
from fleet.hub.exchange import Card, Exchange, Speaker
from fleet.hub.mailbox import HUB
from fleet.hub.stream import Pace
from fleet.settings import Settings
from tests import orochi as package
from tests.homes import ROOT, Home
from tests.waiting import until

DEADLINE = 100.0
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


# -- the package itself --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def venv() -> Path:
    try:
        return package.environment()
    except package.Unavailable as reason:
        pytest.skip(f"scitex-orochi {package.VERSION} cannot be had from PyPI here: {reason}")


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
    assert await until(lambda: hub.said("#lab")) == [("alice", "built")]  # it says so before the hub has it
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
    assert await until(hub.said) == [("alice", "something")]  # its programs end before the hub has it


async def test_its_mcp_server_works_unchanged(hub: Hub, orochis: Package) -> None:
    program = await orochis.start("alice", str(orochis.bin / "scitex-orochi-mcp"))
    tools = await mcp_session(program)
    assert {"orochi_send", "orochi_who", "orochi_history", "orochi_channels"} <= tools
    sent = await mcp_call(program, "orochi_send", channel="#general", message="by way of MCP")
    assert json.loads(sent)["status"] == "sent"

    async def said() -> list[str]:
        history = json.loads(await mcp_call(program, "orochi_history", channel="#general"))
        return [row["content"] for row in history["messages"]]

    assert await until(said) == ["by way of MCP"]  # it says "sent" before the hub has it
    assert "alice" in json.loads(await mcp_call(program, "orochi_who"))["agents"]
    assert "#general" in json.loads(await mcp_call(program, "orochi_channels"))["channels"]


async def test_its_sidecar_in_typescript_works_unchanged(hub: Hub, orochis: Package, home: Home) -> None:
    try:
        folder = package.sidecar()
    except package.Unavailable as reason:
        pytest.skip(f"what the sidecar needs cannot be had from npm here: {reason}")
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


async def test_each_of_its_verbs_and_tools_has_its_counterpart_in_the_documents(orochis: Package) -> None:
    page = (ROOT / "docs/orochi.md").read_text()
    _, shown = await orochis.cli("alice", "--help")
    verbs = [line.split()[0] for line in shown.partition("Commands:")[2].splitlines() if line.strip()[:1].isalpha()]
    verbs = [verb for verb in verbs if re.fullmatch(r"[a-z-]+", verb) and f"  {verb} " in shown]
    assert {"send", "listen", "join", "show-history", "create-invite"} <= set(verbs)
    assert [verb for verb in verbs if f"`{verb}" not in page] == []
    server = await orochis.start("alice", str(orochis.bin / "scitex-orochi-mcp"))
    assert [tool for tool in await mcp_session(server) if f"| `{tool}` |" not in page] == []
    ours = (ROOT / "docs/mcp.md").read_text()
    assert [tool for tool in tools.TOOLS if f"`{tool}`" not in ours] == []
    assert [prompt for prompt in tools.PROMPTS if f"`{prompt}`" not in ours] == []


# -- the frames ----------------------------------------------------------------------------------------------------


async def test_frames_but_messages_are_acked_by_their_id_and_messages_where_that_was_asked_for(hub: Hub) -> None:
    alice = await hub.ws("alice")
    ack = await alice.register("#general", model="opus")
    assert ack["payload"]["status"] == "ok" and ack["payload"]["agent"] == "alice" and ack["sender"] == "orochi-server"
    for number, (type, payload) in enumerate(
        [("subscribe", {"channel": "#a"}), ("heartbeat", {"cpu_count": 2}), ("status_update", {"status": "busy"}),
         ("unsubscribe", {"channel": "#a"})]
    ):  # fmt: skip
        await alice.say(type, id=f"f{number}", **payload)
        assert (await alice.hear())["payload"] == {"status": "ok", "ref": f"f{number}"}
    await alice.say("message", id="quiet", channel="#general", content="no ack")
    await alice.say("query", id="q", channel="#general")
    assert [row["content"] for row in (await alice.hear())["payload"]["history"]] == ["no ack"]
    assert (await alice.hear())["payload"]["ref"] == "q"
    await alice.register("#general", acks=True)
    await alice.say("message", id="loud", channel="#general", content="ack")
    told = (await alice.hear())["payload"]
    assert (told["ref"], told["status"], told["dup"]) == ("loud", "ok", False)
    await alice.say("message", id="loud", channel="#general", content="ack")
    again = (await alice.hear())["payload"]
    assert (again["pos"], again["dup"]) == (told["pos"], True), "an id is good once"
    await alice.close()


async def test_a_message_goes_to_subscribers_and_to_whom_it_mentions_and_not_back(hub: Hub) -> None:
    alice, bob, carol, dave = [await hub.ws(name) for name in ("alice", "bob", "carol", "dave")]
    for one, channels in ((alice, ("#lab",)), (bob, ("#lab",)), (carol, ("#other",)), (dave, ("#other",))):
        await one.register(*channels)
    await alice.say("message", channel="#lab", content="look at this, @carol", metadata={"n": 1})
    heard = [await one.until(lambda f: f["type"] == "message") for one in (bob, carol)]
    assert {(f["sender"], f["payload"]["channel"], f["payload"]["content"]) for f in heard} == {
        ("alice", "#lab", "look at this, @carol")
    }
    assert heard[1]["payload"]["mentions"] == ["carol"]
    await bob.say("message", channel="#general", content="to all")
    for one in (alice, carol, dave):
        frame = await one.until(lambda f: f["type"] == "message")
        assert frame["payload"]["content"] == "to all", f"{one.name} heard nothing before this"
    for one in (alice, bob, carol, dave):
        await one.close()


async def test_an_address_in_a_text_mentions_nobody(hub: Hub) -> None:
    alice, bob = await hub.ws("alice"), await hub.ws("bob")
    await alice.register("#lab")
    await bob.register("#other")
    await alice.say("message", channel="#lab", content="write to someone@bob.org or x@bob")
    await alice.say("message", channel="#general", content="after it")
    assert (await bob.until(lambda f: f["type"] == "message"))["payload"]["content"] == "after it"
    assert (await alice.history("#lab")) == ["write to someone@bob.org or x@bob"]
    await alice.close()
    await bob.close()


async def test_history_is_the_newest_first_and_since_and_limit_hold(hub: Hub) -> None:
    alice = await hub.ws("alice")
    await alice.register(acks=True)
    for number in range(5):
        await alice.say("message", id=f"n{number}", channel="general", content=f"{number}")
        await alice.until(lambda f: f["type"] == "ack")
    assert await alice.history() == ["4", "3", "2", "1", "0"]
    assert await alice.history(limit=2) == ["4", "3"]
    rows = (await alice.ask("query", channel="#general"))["payload"]["history"]
    assert set(rows[0]) == {"msg_id", "ts", "channel", "sender", "content", "mentions", "metadata", "attachments"}
    assert await alice.history(since=rows[1]["ts"]) == ["4", "3"]
    await alice.say("query", id="bad", channel="#general", since="yesterday")
    assert (await alice.until(lambda f: f["type"] == "error"))["payload"]["ref"] == "bad"
    await alice.close()


async def test_a_reply_and_what_it_replies_to_are_one_conversation(hub: Hub) -> None:
    alice, bob = await hub.ws("alice"), await hub.ws("bob")
    await alice.register()
    await bob.register()
    await alice.say("message", channel="#general", content="which port?")
    asked = await bob.until(lambda f: f["type"] == "message")
    await bob.say("message", channel="#general", content="9559", metadata={"reply_to": asked["id"]})
    answer = await alice.until(lambda f: f["type"] == "message")
    assert answer["payload"]["metadata"] == {"reply_to": asked["id"]}
    assert answer["payload"]["thread"] == asked["payload"]["thread"]
    await alice.close()
    await bob.close()


async def test_gitea_frames_are_answered_with_the_named_error(hub: Hub) -> None:
    alice = await hub.ws("alice")
    await alice.register()
    for payload, code in (
        ({"action": "fly"}, "GITEA_UNKNOWN_ACTION"),
        ({"action": ["x"]}, "GITEA_UNKNOWN_ACTION"),
        ({"action": "create_issue", "params": {"owner": "o"}}, "GITEA_MISSING_PARAM"),
        ({"action": "list_repos", "params": {}}, "GITEA_API_ERROR"),
    ):
        await alice.say("gitea", id="g", **payload)
        answer = await alice.hear()
        assert (answer["type"], answer["payload"]["code"], answer["payload"]["ref"]) == ("error", code, "g")
    await alice.close()


async def test_the_flat_form_of_the_newer_server_is_spoken_on_both_ports(hub: Hub) -> None:
    bob = await hub.ws("bob")
    await bob.register()
    for base in (hub.ports.ws, hub.ports.http):
        url = f"{base}/ws/agent/?token={await hub.token('alice')}&agent=alice"
        alice = Raw(await hub.session.ws_connect(url), "alice")
        await alice.socket.send_json({"type": "register", "payload": {"channels": ["#general"]}})
        assert (await alice.hear())["type"] == "registered"
        await alice.socket.send_json({"type": "message", "payload": {"channel": "#general", "text": "flat"}})
        assert (await bob.until(lambda f: f["type"] == "message"))["payload"]["content"] == "flat"
        await bob.say("message", channel="#general", content="and back")
        frame = await alice.until(lambda f: f["type"] == "message")
        assert (frame["text"], frame["channel"], frame["payload"]["text"]) == ("and back", "#general", "and back")
        await alice.close()
    await bob.close()


async def test_observers_see_all_and_are_seen_by_nobody(hub: Hub) -> None:
    watcher = await hub.observer()
    alice = await hub.ws("alice")
    await alice.register("#lab")
    came = await watcher.until(lambda f: f["type"] == "presence_change")
    assert came["payload"] == {"agent": "alice", "event": "connected"}
    await alice.say("status_update", status="busy", current_task="measuring")
    said = await watcher.until(lambda f: f["type"] == "status_update")
    assert (said["payload"]["status"], said["payload"]["current_task"]) == ("busy", "measuring")
    await alice.say("message", channel="#lab", content="hm")
    assert (await watcher.until(lambda f: f["type"] == "message"))["payload"]["content"] == "hm"
    assert "watcher" not in (await alice.ask("presence"))["payload"]["agents"]
    assert (await hub.rest("GET", "/api/stats"))[1]["observers_connected"] == 1
    await watcher.say("message", id="w", channel="#lab", content="a viewer only reads")
    refused_so = await watcher.until(lambda f: f["type"] == "error")
    assert (refused_so["payload"]["ref"], refused_so["payload"]["detail"]) == ("w", "A viewer only reads.")
    await alice.say("message", channel="#lab", content="end")
    assert (await watcher.until(lambda f: f["type"] == "message"))["payload"]["content"] == "end"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await hub.observer("alice", Role.AGENT)
    assert refused.value.status == 403
    await alice.close()
    await watcher.close()


# -- what failed there, and must not here --------------------------------------------------------------------------


ASKED = [
    ("GET", path.replace("{channel}", "general").replace("{id}", "main").replace("{file}", "a" * 64)
     .replace("{owner}", "o").replace("{repo}", "r"))
    for method, path, _ in orochi.orochi_rest.ROUTES if method == "GET"
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), [*ASKED, ("GET", "/api/stats"), ("POST", "/api/messages")])
async def test_nothing_is_told_without_a_token(hub: Hub, method: str, path: str) -> None:
    for base in (hub.ports.http, str(hub.ports.ws).replace("ws:", "http:")):
        for query in ("", "?token=wrong"):
            async with hub.session.request(method, f"{base}{path}{query}") as answer:
                assert answer.status == 401, await answer.text()


async def test_tokens_are_shown_once_and_only_to_whoever_made_them(hub: Hub) -> None:
    status, made = await hub.rest("POST", "/api/workspaces/main/tokens", {"label": "eve"})
    assert status == 201 and hub.exchange.tokens.check(made["token"]) is not None
    listed = await hub.rest("GET", "/api/workspaces/main/tokens")
    assert made["token"] not in json.dumps(listed) and "eve" in json.dumps(listed)
    assert (await hub.rest("GET", "/api/workspaces/main/tokens", name="alice", role=Role.AGENT))[0] == 403
    assert (await hub.rest("DELETE", f"/api/workspaces/main/tokens/{made['token']}"))[0] == 200
    assert hub.exchange.tokens.check(made["token"]) is None


async def test_the_sender_is_the_tokens_whatever_a_frame_says(hub: Hub) -> None:
    alice = await hub.ws("alice")
    await alice.say("register", id="r", sender="my-laptop", channels=["#general"])
    assert (await alice.hear())["payload"]["agent"] == "alice"
    await alice.say("message", id="m", sender="my-laptop", channel="#general", content="under its own word for itself")
    await alice.say("message", id="f", sender="bob", channel="#general", content="forged")
    refused = await alice.until(lambda f: f["type"] == "error")
    assert (refused["payload"]["code"], refused["payload"]["ref"]) == ("SENDER_MISMATCH", "f")
    body = {"sender": "bob", "payload": {"channel": "#general", "content": "by REST"}}
    assert (await hub.rest("POST", "/api/messages", body, name="alice", role=Role.AGENT))[0] == 201
    assert await hub.said() == [("alice", "under its own word for itself"), ("alice", "by REST")]
    await alice.close()


async def test_workspaces_see_nothing_of_each_other(hub: Hub) -> None:
    assert (await hub.rest("POST", "/api/workspaces", {"name": "other"}))[0] == 201
    here, there = await hub.ws("alice"), await hub.ws("mallory", workspace="other")
    await here.register("#lab")
    await there.register("#lab")
    await here.say("message", channel="#lab", content="ours alone, @mallory")
    assert await here.history("#lab") == ["ours alone, @mallory"]
    assert await there.history("#lab") == []
    assert set((await there.ask("presence"))["payload"]["agents"]) == {"mallory"}
    await there.say("message", id="m", channel="@alice", content="hello there")
    assert (await there.until(lambda f: f["type"] == "error"))["payload"]["ref"] == "m"
    token = await hub.token("mallory", workspace="other")
    for path in ("/api/agents", "/api/agents/registry", "/api/messages", "/api/history/lab", "/api/channels",
                 "/api/resources", "/api/stats", "/api/workspaces"):  # fmt: skip
        async with hub.session.get(f"{hub.ports.http}{path}?token={token}") as answer:
            text = await answer.text()
            assert answer.status == 200 and "alice" not in text and "ours alone" not in text, path
    await here.close()
    await there.close()


async def test_with_a_workspace_its_tokens_and_connections_end(hub: Hub) -> None:
    await hub.rest("POST", "/api/workspaces", {"name": "short"})
    eve = await hub.ws("eve", workspace="short")
    await eve.register()
    token = await hub.token("eve", workspace="short")
    assert (await hub.rest("DELETE", "/api/workspaces/short"))[0] == 200
    await eve.say("presence")
    async with asyncio.timeout(DEADLINE):
        while not (message := await eve.socket.receive()).type.name.startswith("CLOS"):
            assert "agents" not in str(message.data)
    assert eve.socket.close_code == 4001
    async with hub.session.get(f"{hub.ports.http}/api/agents?token={token}") as answer:
        assert answer.status == 401


async def test_no_script_is_stored_where_a_page_would_run_it(hub: Hub) -> None:
    alice = await hub.ws("alice")
    await alice.register(acks=True)
    script = "<script>alert(1)</script>"
    for attachment in ({"url": "javascript:alert(1)"}, {"url": "https://elsewhere/x"}, "x", {"file_id": "../../x"}):
        await alice.say("message", id="a", channel="#general", content="look", attachments=[attachment])
        assert (await alice.hear())["payload"]["ref"] == "a"
    assert await hub.said() == []
    await alice.say("status_update", status=script, current_task=script)
    await alice.say("message", id="t", channel="#general", content=script)
    await alice.until(lambda f: f["payload"].get("ref") == "t")
    html = f"<html>{script}</html>".encode()
    form = aiohttp.FormData()
    form.add_field("file", html, filename="page.html", content_type="text/html")
    url = f"{hub.ports.http}/api/upload?token={await hub.token('alice')}"
    async with hub.session.post(url, data=form) as answer:
        kept = await answer.json()
        assert answer.status == 201 and kept["url"] == f"/media/{kept['file_id']}"
    async with hub.session.get(f"{hub.ports.http}{kept['url']}?token={await hub.token('alice')}") as answer:
        assert await answer.read() == html
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
    for path in ("/api/agents", "/api/messages"):
        url = f"{hub.ports.http}{path}?token={await hub.token('ops', Role.ADMIN)}"
        async with hub.session.get(url) as answer:
            assert answer.content_type == "application/json" and answer.headers["X-Content-Type-Options"] == "nosniff"
    for name in (script, "a b", "../x", ""):
        assert (await hub.rest("POST", "/api/workspaces/main/members", {"agent_name": name}))[0] == 400
    await alice.close()


async def test_a_member_that_is_there_stays_as_it_is_and_what_is_refused_makes_nothing(hub: Hub) -> None:
    await hub.exchange.enroll(Card(name="web", supervised=True, turns=True), Speaker(name="web"), [])
    assert (await hub.rest("POST", "/api/workspaces", {"name": "lab"}))[0] == 201
    of_lab = Caller("boss", Role.ADMIN, "lab")
    token = (await hub.exchange.create_token(of_lab, {"role": "admin", "name": "boss"}))["token"]
    for name, status in (("web", 200), (HUB, 409)):
        url = f"{hub.ports.http}/api/workspaces/main/members?token={token}"
        async with hub.session.post(url, json={"agent_name": name}) as answer:
            assert answer.status == status
    assert hub.exchange.member(Caller("ops", Role.ADMIN), "web")["supervised"]
    for channels in (5, "#a", ["#a", 7], ["no channel"]):
        assert (await hub.rest("POST", "/api/workspaces", {"name": "other", "channels": channels}))[0] == 400
    status, made = await hub.rest("POST", "/api/workspaces", {"name": "other", "channels": ["a", "#b"]})
    assert (status, made["channels"]) == (201, ["#a", "#b"])


async def test_more_than_five_thousand_messages_are_kept_and_no_clients_clock_orders_them(hub: Hub) -> None:
    alice = await hub.ws("alice")
    await alice.register(acks=True)
    for number in range(5200):
        frame = {
            "type": "message",
            "id": f"n{number}",
            "ts": "2099-01-01T00:00:00+00:00" if number % 2 else "1970-01-01",
        }
        await alice.socket.send_json({**frame, "payload": {"channel": "#general", "content": f"{number}"}})
    acked = 0
    while acked < 5200:
        frame = await alice.hear()
        assert frame["type"] == "ack", frame
        acked += 1
    assert await alice.history(limit=3) == ["5199", "5198", "5197"]
    ops = hub.exchange.tokens.check(await hub.token("ops", Role.ADMIN))
    assert ops is not None
    first = await hub.exchange.read(ops, channel="#general", since=1.0, limit=2)
    assert [one["text"] for one in first["messages"]] == ["0", "1"]
    await alice.close()


async def test_a_call_under_an_agents_name_takes_nothing_from_its_listener(hub: Hub) -> None:
    listener, bob = await hub.ws("alice"), await hub.ws("bob")
    await listener.register("#lab")
    await bob.register("#lab")
    call = await hub.ws("alice")
    await call.register("#lab")
    assert "alice" in (await call.ask("presence"))["payload"]["agents"]
    await call.close()
    await bob.say("message", channel="#lab", content="still there?")
    assert (await listener.until(lambda f: f["type"] == "message"))["payload"]["content"] == "still there?"
    assert "#lab" in (await bob.ask("presence"))["payload"]["agents"]["alice"]
    await listener.close()
    await bob.close()


async def test_a_stalled_subscriber_holds_up_nobody_and_has_all_of_it_later(tmp_path: Path) -> None:
    async with a_hub(tmp_path, Pace(behind=64 * 1024, stalled=DEADLINE)) as hub:
        stalled, other, alice = [await hub.ws(name) for name in ("stalled", "other", "alice")]
        await stalled.register()
        await other.register()
        await alice.register(acks=True)
        reading = stalled.socket._response.connection
        assert reading is not None and reading.transport is not None
        reading.transport.pause_reading()  # type: ignore[attr-defined]
        text, count = "x" * 30_000, 400  # 12 MB, more than the system holds for a connection

        async def speak() -> None:
            for number in range(count):
                await alice.say("message", id=f"s{number}", channel="#general", content=f"{number} {text}")

        async def hears_all(one: Raw) -> list[int]:
            numbers = []
            while len(numbers) < count:
                frame = await one.until(lambda f: f["type"] == "message")
                numbers.append(int(frame["payload"]["content"].split()[0]))
            return numbers

        async with asyncio.timeout(DEADLINE):
            _, heard = await asyncio.gather(speak(), hears_all(other))
        assert heard == list(range(count))
        reading.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(DEADLINE):
            assert await hears_all(stalled) == list(range(count))
        for one in (stalled, other, alice):
            await one.close()


async def test_what_was_said_meanwhile_comes_after_a_reconnect(hub: Hub) -> None:
    alice, bob = await hub.ws("alice"), await hub.ws("bob")
    await alice.register("#lab", resume=True)
    await bob.register("#lab", acks=True)
    await bob.say("message", id="1", channel="#lab", content="one")
    seen = await alice.until(lambda f: f["type"] == "message")
    await alice.close()
    await until(lambda: not hub.exchange.registry.connections["main", "alice"])
    for number in ("two", "three"):
        await bob.say("message", id=number, channel="#lab", content=number)
        await bob.until(lambda f, number=number: f["payload"].get("ref") == number)
    for more in ({"resume": True}, {"after": seen["pos"]}, {"after": f"{hub.exchange.log.epoch}:{seen['pos']}"}):
        again = await hub.ws("alice")
        ack = await again.register("#lab", **more)
        assert ack["payload"]["recovered"] is True
        got = [(await again.until(lambda f: f["type"] == "message"))["payload"]["content"] for _ in range(2)]
        assert got == ["two", "three"], more
        await again.say("ack", pos=seen["pos"])
        await again.ask("presence")
        await again.close()
        await until(lambda: not hub.exchange.registry.connections["main", "alice"])
    strange = await hub.ws("alice")
    ack = await strange.register("#lab", after="another:5")
    assert ack["payload"]["recovered"] is False
    await strange.close()
    await bob.close()


BAD: list[Any] = [
    "not json", "[]", "null", '{"type": 5}', '{"no": "type"}', '{"type": "message", "payload": []}',
    '{"type": "message", "payload": {"channel": 7, "content": "x"}}',
    '{"type": "message", "payload": {"channel": "#general", "content": {"a": 1}}}',
    '{"type": "message", "payload": {"channel": "#general", "content": "x", "metadata": "m"}}',
    '{"type": "message", "payload": {"channel": "#general", "content": "x", "attachments": {"a": 1}}}',
    '{"type": "message", "payload": {"channel": "#general", "content": "x", "metadata": {"n": NaN}}}',
    '{"type": "message", "payload": {"channel": "#<script>", "content": "x"}}',
    '{"type": "message", "payload": {"channel": "#general", "content": "\\u0000"}}',
    '{"type": "message", "payload": {"content": "nowhere"}}', '{"type": "message", "payload": {"channel": "#general"}}',
    '{"type": "register", "payload": {"channels": "x"}}', '{"type": "register", "payload": {"channels": [1]}}',
    '{"type": "query", "payload": {"limit": "many"}}', '{"type": "query", "payload": {"channel": []}}',
    '{"type": "query", "payload": {"since": {}}}', '{"type": "subscribe"}', '{"type": "unsubscribe", "payload": {}}',
    '{"type": "heartbeat", "payload": {"cpu_count": NaN}}', '{"type": "ack", "payload": {"pos": -1}}',
    '{"type": "message", "sender": 5}', '{"type": "message", "id": {"a": 1}}',
    '{"type": "status_update", "payload": 1}',
    "[" * 100_000, '{"type": "fly"}', b"\xff\xfe", b"\x00" * 10,
]  # fmt: skip


async def test_whatever_is_wrong_is_answered_with_an_error_and_never_with_ok(hub: Hub) -> None:
    alice = await hub.ws("alice")
    await alice.register(acks=True)
    for bad in BAD:
        await (alice.socket.send_bytes(bad) if isinstance(bad, bytes) else alice.socket.send_str(bad))
        answer = await alice.hear()
        assert answer["type"] == "error", (bad[:60], answer)
        assert answer["payload"]["code"].isupper() and answer["payload"]["detail"]
    await alice.say("fly", id="u")
    assert (await alice.hear())["payload"] == {
        "code": "UNKNOWN_TYPE", "detail": "Unknown message type: 'fly'", "ref": "u"
    }  # fmt: skip
    assert await alice.history() == []
    await alice.close()


async def test_a_frame_that_is_too_large_ends_its_connection_and_no_other(hub: Hub) -> None:
    alice, bob = await hub.ws("alice"), await hub.ws("bob")
    await bob.register()
    await alice.socket.send_str(
        json.dumps({"type": "message", "payload": {"channel": "#general", "content": "x" * 2**20}})
    )
    async with asyncio.timeout(DEADLINE):
        assert (await alice.socket.receive()).type.name.startswith("CLOS") and alice.socket.close_code == 1009
    assert await bob.history() == []
    await bob.close()


async def test_a_wrong_token_is_told_and_closed_with_4001(hub: Hub) -> None:
    for query in ("", "?token=", "?token=wrong"):
        socket = await hub.session.ws_connect(f"{hub.ports.ws}/{query}")
        told = json.loads(await socket.receive_str())
        assert (told["type"], told["sender"], told["payload"]["code"]) == ("error", "orochi-server", "AUTH_FAILED")
        await socket.receive()
        assert socket.close_code == 4001


async def test_a_page_from_elsewhere_and_another_name_of_the_host_are_turned_away(tmp_path: Path) -> None:
    exchange = await Exchange.open(tmp_path, Settings(), SystemClock())
    ports = await orochi.serve(exchange, "127.0.0.1", 0, 0, names=frozenset({"127.0.0.1"}))
    _, token = await exchange.tokens.create(Role.ADMIN, "ops", by="test")
    async with aiohttp.ClientSession() as session:
        url = f"{ports.http}/api/agents?token={token}"
        for headers, status in (
            ({}, 200), ({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Host": "evil"}, 403),
        ):  # fmt: skip
            async with session.get(url, headers=headers) as answer:
                assert answer.status == status, headers
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"{ports.ws}/?token={token}", headers={"Origin": "https://evil.example"})
        async with session.post(f"{ports.http}/api/messages?token={token}", data="{}") as answer:
            assert answer.status == 415, "a form of another page's sends no JSON"
    await ports.close()
    await exchange.close()


async def test_one_connection_too_many_from_an_address_is_refused_and_the_others_stay(tmp_path: Path) -> None:
    exchange = await Exchange.open(tmp_path, Settings(), SystemClock())
    ports = await orochi.serve(exchange, "127.0.0.1", 0, 0, connections=2)
    async with aiohttp.ClientSession() as session:
        hub = Hub(exchange, ports, session)
        one, two = await hub.ws("alice"), await hub.ws("bob")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await hub.ws("carol")
        assert refused.value.status == 429
        await one.register()
        assert "alice" in (await one.ask("presence"))["payload"]["agents"]
        await one.close()
        await until(lambda: not exchange.registry.connections["main", "alice"])
        three = await hub.ws("carol")
        await three.register()
        for client in (two, three):
            await client.close()
    await ports.close()
    await exchange.close()


async def test_the_ports_close_though_clients_are_there(tmp_path: Path) -> None:
    exchange = await Exchange.open(tmp_path, Settings(), SystemClock())
    ports = await orochi.serve(exchange, "127.0.0.1", 0, 0)
    async with aiohttp.ClientSession() as session:
        hub = Hub(exchange, ports, session)
        clients = [await hub.ws("alice"), await hub.observer()]
        await clients[0].register()
        async with asyncio.timeout(DEADLINE):
            await ports.close()
            for client in clients:
                while not (await client.socket.receive()).type.name.startswith("CLOS"):
                    continue
    await exchange.close()
