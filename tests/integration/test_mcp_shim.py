"""`fleet mcp` as a program starts it: a process that speaks JSON-RPC, with a hub that is scripted."""

from __future__ import annotations

import json
import os
import queue
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from fleet import mcp_shim
from tests.homes import Home

SHIM = mcp_shim.__file__
DEADLINE = 100.0
Json = dict[str, Any]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    hub: ScriptedHub


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(*self.server.hub.answer(self.path, dict(self.headers), body))

    def do_GET(self) -> None:
        self._answer(*self.server.hub.answer(self.path, dict(self.headers), b""))

    def _answer(self, status: int, body: bytes) -> None:
        if status == 0:
            return  # the connection ends without an answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests look at `asked`."""


class ScriptedHub:
    """What listens where the hub would; `says` answers a request of `/mcp`."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.asked: list[tuple[str, dict[str, str], Json]] = []
        self.says: Callable[[Json], Json | None] = lambda request: {"echo": request["method"]}
        self.files: dict[str, bytes] = {}
        self._server: _Server | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._server = _Server(str(self.socket), _Handler)
        self._server.hub = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self.socket.unlink(missing_ok=True)
            self._server = None

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if path.startswith("/api/v1/files/"):
            content = self.files.get(path.rpartition("/")[2])
            return (200, content) if content is not None else (404, _error("unknown_file", "No such file."))
        request: Json = json.loads(body)
        self.asked.append((path, headers, request))
        if headers["Authorization"] != "Bearer flt_right":
            return 401, _error("unauthorized", "This token is not valid.")
        if path == "/api/v1/files":
            return 201, json.dumps({"sha256": "0" * 64, "name": request["name"]}).encode()
        result = self.says(request)
        if result is None:
            return 0, b""
        return 200, json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()


def _error(code: str, message: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": message}}).encode()


class Session:
    """A program with its server as a process."""

    def __init__(self, home: Home, hub: ScriptedHub, *words: str, **env: str) -> None:
        token = home.path / "token"
        token.write_text("flt_right\n")
        env = {**home.env, "FLEET_HUB": str(hub.socket), "FLEET_TOKEN_FILE": str(token), **env}
        argv = [sys.executable, "-I", "-S", SHIM, *words]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd=home.work)
        self._lines: queue.Queue[Json] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def say(self, message: object) -> None:
        self.raw(json.dumps(message).encode())

    def raw(self, line: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def hear(self) -> Json:
        return self._lines.get(timeout=DEADLINE)

    def ask(self, id: object, method: str, **params: Any) -> Json:
        self.say({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        answer = self.hear()
        assert answer["id"] == id
        return answer

    def call(self, tool: str, **arguments: Any) -> Json:
        return self.ask(7, "tools/call", name=tool, arguments=arguments)

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        code = self.process.wait(DEADLINE)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()
        return code


@pytest.fixture
def hub(home: Home) -> Iterator[ScriptedHub]:
    hub = ScriptedHub(home.path / "hub.sock")
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture
def session(home: Home, hub: ScriptedHub) -> Iterator[Session]:
    session = Session(home, hub)
    yield session
    assert session.end() == 0


def words_of(answer: Json) -> str:
    (block,) = answer["result"]["content"]
    return str(block["text"])


def test_a_session_begins_without_the_hub(home: Home, hub: ScriptedHub) -> None:
    hub.stop()
    session = Session(home, hub)
    result = session.ask(1, "initialize", protocolVersion="2025-06-18", capabilities={})["result"]
    assert result["protocolVersion"] == "2025-06-18"
    assert result["serverInfo"]["name"] == "fleet"
    assert "tools" in result["capabilities"]
    assert session.ask("p", "ping")["result"] == {}
    assert session.end() == 0


def test_a_version_that_nobody_knows_is_answered_with_the_newest(session: Session) -> None:
    result = session.ask(1, "initialize", protocolVersion="1999-01-01")["result"]
    assert result["protocolVersion"] == mcp_shim.PROTOCOLS[-1]


def test_requests_reach_the_hub_with_the_token_and_its_version(session: Session, hub: ScriptedHub) -> None:
    session.ask(1, "initialize", protocolVersion="2025-06-18")
    session.say({"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert session.ask("a", "tools/list")["result"] == {"echo": "tools/list"}
    ((path, headers, request),) = hub.asked
    assert path == "/mcp" and request["method"] == "tools/list"
    assert headers["Authorization"] == "Bearer flt_right"
    assert headers["MCP-Protocol-Version"] == "2025-06-18"


def test_a_slow_request_holds_up_nobody(session: Session, hub: ScriptedHub) -> None:
    release = threading.Event()

    def says(request: Json) -> Json:
        if request["params"].get("name") == "ask":
            assert release.wait(DEADLINE)
        return {"which": request["params"]["name"]}

    hub.says = says
    session.say({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ask"}})
    session.say({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "who"}})
    assert session.hear() == {"jsonrpc": "2.0", "id": 2, "result": {"which": "who"}}
    release.set()
    assert session.hear() == {"jsonrpc": "2.0", "id": 1, "result": {"which": "ask"}}


def test_what_was_asked_before_stdin_ends_is_answered(home: Home, hub: ScriptedHub) -> None:
    session = Session(home, hub)
    asked = threading.Event()

    def says(request: Json) -> Json:
        asked.set()
        assert ended.wait(DEADLINE)
        return {"late": True}

    ended = threading.Event()
    hub.says = says
    session.say({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert asked.wait(DEADLINE) and session.process.stdin
    session.process.stdin.close()
    ended.set()
    assert session.hear()["result"] == {"late": True}
    assert session.end() == 0


def test_a_cancelled_request_is_not_answered(session: Session, hub: ScriptedHub) -> None:
    asked, release = threading.Event(), threading.Event()

    def says(request: Json) -> Json:
        if request["id"] == 1:
            asked.set()
            assert release.wait(DEADLINE)
        return {}

    hub.says = says
    session.say({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ask"}})
    assert asked.wait(DEADLINE)
    session.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    assert session.ask(2, "tools/list")["result"] == {}
    release.set()
    assert session.ask(3, "tools/list")["result"] == {}, "nothing of request 1 came in between"
    assert len(hub.asked) == 3, "and it was not repeated"


def test_a_daemon_that_restarts_is_found_again_and_hears_a_request_under_one_key(
    session: Session, hub: ScriptedHub
) -> None:
    def dies(request: Json) -> None:
        hub.says = lambda request: {"done": True}

    hub.says = dies
    assert session.call("send", to="web", text="hello")["result"] == {"done": True}
    keys = [headers["Idempotency-Key"] for _, headers, _ in hub.asked]
    assert len(keys) == 2 and keys[0] == keys[1]
    hub.stop()
    session.say({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "who"}})
    hub.start()
    assert session.hear()["result"] == {"done": True}
    assert hub.asked[-1][1]["Idempotency-Key"] not in keys, "another request has a key of its own"


def test_without_a_daemon_the_model_is_told_so_and_the_next_call_works(home: Home, hub: ScriptedHub) -> None:
    session = Session(home, hub, "--own")
    hub.stop()
    answer = session.call("who")
    assert answer["result"]["isError"] is True and "not running" in words_of(answer)
    session.say({"jsonrpc": "2.0", "id": "list", "method": "tools/list"})
    assert session.call("who")["result"]["isError"] is True, "a call is told at once that there is still no daemon"
    hub.start()
    heard = [session.hear() for _ in range(3)]
    assert {"jsonrpc": "2.0", "id": "list", "result": {"echo": "tools/list"}} in heard, "the tools are waited for"
    told = [one["method"] for one in heard if "method" in one]
    assert told == ["notifications/tools/list_changed", "notifications/prompts/list_changed"]
    assert session.call("who")["result"] == {"echo": "tools/call"}
    assert session.end() == 0


def test_a_token_that_is_not_valid_is_told_as_the_hub_says_it(home: Home, hub: ScriptedHub) -> None:
    session = Session(home, hub)
    (home.path / "token").write_text("flt_old")
    assert words_of(session.call("who")) == "This token is not valid."
    assert session.ask(3, "tools/list")["error"]["message"] == "This token is not valid."
    (home.path / "token").write_text("flt_right")
    assert session.call("who")["result"] == {"echo": "tools/call"}
    (home.path / "token").unlink()
    assert "no token" in words_of(session.call("who"))
    assert session.end() == 0


@pytest.mark.parametrize("line", [b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"jsonrpc": "2.0", "id": 1}'])
def test_a_line_that_is_no_request_is_refused_and_the_session_goes_on(session: Session, line: bytes) -> None:
    session.raw(line)
    assert session.hear()["error"]["code"] in (-32700, -32600)
    assert session.ask(1, "ping")["result"] == {}


def test_a_session_inside_of_an_agent_does_not_take_its_mail(home: Home, hub: ScriptedHub) -> None:
    nested = Session(home, hub, FLEET_GENERATION="web.1.abc")
    assert "comes to the agent by itself" in words_of(nested.call("poll"))
    assert nested.call("who")["result"] == {"echo": "tools/call"}
    own = Session(home, hub, "--own", FLEET_GENERATION="web.1.abc")
    assert own.call("poll")["result"] == {"echo": "tools/call"}
    assert (nested.end(), own.end()) == (0, 0)


def test_files_are_read_and_written_beside_the_program(session: Session, hub: ScriptedHub, home: Home) -> None:
    home.write("notes.txt", "hello")
    sent = session.call("upload", path="notes.txt", type="text/plain")["result"]["structuredContent"]
    assert sent == {"sha256": "0" * 64, "name": "notes.txt"}
    assert hub.asked[-1][2] == {"name": "notes.txt", "base64": "aGVsbG8=", "type": "text/plain"}
    hub.files["a" * 64] = b"\x00\xffbytes"
    got = session.call("download", file="a" * 64, path="got.bin")["result"]["structuredContent"]
    assert got["size"] == 7 and Path(got["path"]).read_bytes() == b"\x00\xffbytes"
    again = session.call("download", file="a" * 64, path="got.bin")
    assert again["result"]["isError"] is True, "never over a file that is there"
    assert session.call("download", file="b" * 64, path="no")["result"]["isError"] is True
    assert session.call("download", file="../../x", path="no")["result"]["isError"] is True
    assert session.call("upload", path="missing")["result"]["isError"] is True
    assert not (home.work / "no").exists()


@pytest.mark.parametrize(
    ("environ", "speaks_as_operator"),
    [
        ({}, True),
        ({"FLEET_HUB": "/run/hub.sock"}, True),
        ({"FLEET_HUB": "http://elsewhere:80"}, False),
        ({"FLEET_GENERATION": "web.1.a"}, False),
        ({"FLEET_TOKEN_FILE": "/mine"}, False),
    ],
)
def test_the_operators_token_is_for_the_operator_at_the_own_hub_alone(
    environ: dict[str, str], speaks_as_operator: bool
) -> None:
    hub = mcp_shim.Hub.of(environ, lambda: ("/config", "/state", "/run"))
    assert (hub._token_file == "/state/hub/operator.token") is speaks_as_operator


def test_the_shim_needs_nothing_but_the_standard_library() -> None:
    code = "import sys, runpy; runpy.run_path(sys.argv[1], run_name='shim'); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, SHIM], capture_output=True, text=True, check=True, env={**os.environ}
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - set(sys.stdlib_module_names) <= {"__main__"}
    assert loaded & {"asyncio", "http", "email", "ssl", "urllib"} == set(), "each would cost more than the rest"


def _a_pipe() -> tuple[int, int]:
    read, write = os.pipe()
    return read, write


def _a_socket() -> tuple[int, int]:
    one, other = socket.socketpair()
    return one.detach(), other.detach()


@pytest.mark.parametrize("ends", [_a_pipe, _a_socket], ids=["pipe", "socket"])
def test_that_nobody_reads_any_more_is_seen(ends: Callable[[], tuple[int, int]]) -> None:
    reader, writer = ends()
    assert mcp_shim.is_read(writer)
    os.write(writer, b"full\n")
    assert mcp_shim.is_read(writer), "whoever reads late reads"
    os.close(reader)
    assert not mcp_shim.is_read(writer)
    os.close(writer)


def test_what_a_killed_program_has_asked_stays_open_no_longer(
    home: Home, hub: ScriptedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else mail that comes meanwhile would be taken by it, and reach nobody."""
    asked, release = threading.Event(), threading.Event()

    def says(request: Json) -> Json:
        asked.set()
        assert release.wait(DEADLINE)
        return {"content": []}

    hub.says = says
    monkeypatch.setattr(mcp_shim, "LAST", float("inf"))
    (home.path / "token").write_text("flt_right\n")
    answers: list[bytes] = []
    shim = mcp_shim.Shim(mcp_shim.Hub(str(hub.socket), str(home.path / "token")), answers.append)
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "poll", "arguments": {"wait": 50}}}
    shim.take(json.dumps(call).encode())
    assert asked.wait(DEADLINE)
    shim.finish(lambda: False)
    assert answers == []
    release.set()
    shim.finish(lambda: True)
    assert len(answers) == 1
