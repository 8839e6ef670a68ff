"""What strangers and broken programs send to the hub's doors: each is refused by name, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import resource
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from fleet.hub.stream import Pace
from tests.hub_doors import LOOSE, SOON, Hub, Socket, handshake, masked, read_frame, running_hub
from tests.waiting import until


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with running_hub(**LOOSE) as running:
        yield running


@contextlib.asynccontextmanager
async def somebody_else(hub: Hub) -> AsyncIterator[None]:
    """Another client, connected before and through all of it: what is said afterwards reaches it as ever."""
    async with hub.socket("op") as other:
        yield
        await hub.send("op", "#general", "as ever")
        while (await other.texts(1)) != ["as ever"]:
            pass


# -- HTTP ----------------------------------------------------------------------------------------------------------

JSON = {"Content-Type": "application/json"}
DEEP = b'{"to": "#general", "text": "x", "metadata": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"

BODIES: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "no content type": (b'{"to": "#general", "text": "x"}', {"Content-Type": ""}, 415, "unsupported_media_type"),
    "a form": (b"to=x&text=y", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    "as plain text": (
        b'{"to": "#general", "text": "x"}',
        {"Content-Type": "text/plain"},
        415,
        "unsupported_media_type",
    ),
    "packed": (b"\x1f\x8b\x08", {**JSON, "Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
    "not JSON": (b"{to: general}", JSON, 400, "bad_json"),
    "half of it": (b'{"to": "#general", "te', JSON, 400, "bad_json"),
    "two values": (b'{"to": "#general", "text": "x"} {}', JSON, 400, "bad_json"),
    "NaN": (b'{"to": "#general", "text": "x", "expires_in": NaN}', JSON, 400, "bad_json"),
    "a number without end": (
        b'{"to": "#general", "text": "x", "max_hops": ' + b"9" * 5000 + b"}",
        JSON,
        400,
        "bad_json",
    ),
    "infinity": (b'{"to": "#general", "text": "x", "expires_in": 1e999}', JSON, 400, "bad_value"),
    "not UTF-8": (b'{"to": "#general", "text": "\xff\xfe"}', JSON, 400, "invalid_unicode"),
    "half a character": (b'{"to": "#general", "text": "\\ud800"}', JSON, 400, "invalid_unicode"),
    "a list": (b"[1, 2]", JSON, 400, "wrong_type"),
    "nothing": (b"", JSON, 400, "missing"),
    "too deep": (DEEP, JSON, 400, "too_deep"),
    "deep in a list": (b"[" * 100_000, JSON, 400, "too_deep"),
    "two megabytes": (b'{"to": "#general", "text": "' + b"x" * 2_000_000 + b'"}', JSON, 413, "too_large"),
    "a long text": (b'{"to": "#general", "text": "' + b"x" * 70_000 + b'"}', JSON, 413, "too_large"),
    "a number as text": (b'{"to": "#general", "text": 7}', JSON, 400, "wrong_type"),
    "an object as address": (b'{"to": {"a": 1}, "text": "x"}', JSON, 400, "wrong_type"),
    "a NUL": (b'{"to": "#general", "text": "a\\u0000b"}', JSON, 400, "control_characters"),
    "an escape sequence": (b'{"to": "#general", "text": "\\u001b[2J"}', JSON, 400, "control_characters"),
    "a path as a name": (b'{"to": "../../etc/passwd", "text": "x"}', JSON, 400, "bad_name"),
    "a field that nobody knows": (
        b'{"to": "#general", "text": "x", "expires": 5}',
        JSON,
        400,
        "no_such_field",
    ),
    "an e-mail address": (b'{"to": "bob@example.org", "text": "x"}', JSON, 400, "bad_name"),
}


@pytest.mark.parametrize("what", BODIES)
async def test_a_body_that_is_wrong_is_refused_by_name(hub: Hub, what: str) -> None:
    body, headers, status, code = BODIES[what]
    async with somebody_else(hub):
        head = hub.exchange.log.head
        answer = await hub.ask(
            "POST", "/messages", "op", data=io.BytesIO(body), headers=headers, skip_auto_headers=["Content-Type"]
        )
        assert (answer.status, answer.code) == (status, code), answer.body
        stored = await hub.ask("GET", f"/messages?channel=%23general&after={hub.place(head)}", "op")
        assert stored.json["messages"] == []


async def test_bodies_of_other_routes_are_checked_as_well(hub: Hub) -> None:
    sent = await hub.send("op", "#general", "hello")
    for method, path, body, code in (
        ("PATCH", f"/messages/{sent['id']}", {}, "missing"),
        ("PATCH", f"/messages/{sent['id']}", {"text": ["x"]}, "wrong_type"),
        ("POST", f"/messages/{sent['id']}/reactions", {"reaction": ""}, "bad_value"),
        ("POST", f"/messages/{sent['id']}/reactions", {"reaction": 7}, "wrong_type"),
        ("POST", f"/messages/{sent['id']}/reactions", {"reaction": "x", "on": "yes"}, "wrong_type"),
        ("POST", "/inbox/take", {"limit": 10**9}, "bad_value"),
        ("POST", "/inbox/take", {"limit": True}, "wrong_type"),
        ("POST", "/discussions", {"a": "x", "b": "../y", "topic": "t"}, "bad_value"),
        ("PUT", "/channels/lab/members/me", {"hears": "everything"}, "bad_value"),
        ("POST", "/tokens", {"role": "root", "name": "x"}, "bad_value"),
        ("POST", "/tokens", {"role": "viewer", "name": "A B"}, "bad_value"),
        ("POST", "/invites/redeem", {"invite": "x" * 1000, "name": "x"}, "bad_value"),
        ("PATCH", f"/messages/{sent['id']}", {"text": "x", "txet": "y"}, "no_such_field"),
        ("POST", "/tokens", {"role": "viewer", "name": "eve", "expires": 5}, "no_such_field"),
        ("POST", "/asks", {"to": "bob", "text": "x", "time_out": 5}, "no_such_field"),
    ):
        answer = await hub.ask(method, path, "op", json=body)
        assert (answer.status, answer.code) == (400, code), (path, answer.body)


async def test_what_a_query_asks_is_checked(hub: Hub) -> None:
    for query, code in (
        ("messages?limit=0", "bad_value"),
        ("messages?chanel=%23general", "no_such_field"),
        ("members?limit=5", "no_such_field"),
        ("messages?limit=x", "bad_value"),
        ("messages?limit=99999999999999999999999", "bad_value"),
        ("messages?before=-1", "bad_value"),
        ("messages?since=yesterday", "bad_value"),
        ("messages?since=nan", "bad_value"),
        ("messages?after=5", "bad_value"),
        ("messages?channel=%23nowhere%2F..%2F", None),
        ("inbox/op?newest=maybe", "bad_value"),
        ("search", "missing"),
        ("search?q=%22unclosed%20AND%20OR%20NEAR(", None),
        ("search?q=%00%27%3B%20DROP%20TABLE%20log", None),
        ("messages/..%2F..%2Fetc", "unknown_message"),
        ("members/%3Cscript%3E", None),
        ("threads/nonsense", None),
    ):
        answer = await hub.ask("GET", f"/{query}", "op")
        assert answer.status < 500, (query, answer.body)
        if code is not None:
            assert answer.code == code, (query, answer.body)


async def test_there_is_one_form_of_error_for_what_is_not_there(hub: Hub) -> None:
    for method, path, status, code in (
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/../../etc/passwd", 404, "not_found"),
        ("PUT", "/messages", 405, "method_not_allowed"),
        ("TRACE", "/messages", 405, "method_not_allowed"),
        ("GET", "/ws", 426, "upgrade_required"),
    ):
        answer = await hub.ask(method, path, "op")
        assert (answer.status, answer.code) == (status, code), (method, path, answer.body)


async def test_a_token_in_a_url_is_refused_and_stands_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with running_hub(hub_access_log=True) as hub:
        token = hub.tokens["op"]
        for name in ("token", "access_token"):
            answer = await hub.ask("GET", f"/members?{name}={token}")
            assert (answer.status, answer.code) == (400, "token_in_url")
        assert (await hub.ask("GET", "/members", "op")).status == 200
    assert "/api/v1/members 200" in caplog.text
    assert token not in caplog.text


async def test_a_page_from_elsewhere_and_a_name_bound_anew_are_turned_away() -> None:
    async with running_hub(hub_origins=("https://lab.example",), hub_names=("hub.example",)) as hub:
        own = f"http://127.0.0.1:{hub.port}"
        for origin in (
            "http://evil.example",
            "null",
            "file://",
            "http://127.0.0.1:1",
            "http://localhost",
            f"{own}.evil.example",
        ):
            answer = await hub.ask("GET", "/members", "op", headers={"Origin": origin})
            assert (answer.status, answer.code) == (403, "bad_origin"), origin
            with pytest.raises(Exception, match="403"):
                async with hub.bare("op", headers={"Origin": origin}):
                    raise AssertionError(f"{origin} was let in")
        for host in (
            "evil.example",
            "evil.example:80",
            f"127.0.0.1.evil.example:{hub.port}",
            "169.254.1.1",
            "",
            "[::2]",
        ):
            answer = await hub.ask("GET", "/members", "op", headers={"Host": host})
            assert (answer.status, answer.code) == (403, "bad_host"), host
            with pytest.raises(Exception, match="403"):
                async with hub.bare("op", headers={"Host": host}):
                    raise AssertionError(f"{host} was let in")
        for host in (f"localhost:{hub.port}", "LOCALHOST", "[::1]:80", "hub.example:9"):
            assert (await hub.ask("GET", "/members", "op", headers={"Host": host})).status == 200, host
        assert (await hub.ask("GET", "/members", "op", headers={"Origin": own})).status == 200
        async with hub.bare("op", headers={"Origin": own}) as socket:
            await socket.say(type="hello")
            await socket.next("welcome")
        allowed = await hub.ask("GET", "/members", "op", headers={"Origin": "https://lab.example"})
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://lab.example"
        asked = await hub.ask("OPTIONS", "/messages", headers={"Origin": "https://lab.example"})
        assert asked.status == 204
        assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Origin" not in (await hub.ask("GET", "/members", "op")).headers


async def test_a_script_in_any_text_is_handed_out_as_data(hub: Hub) -> None:
    script = "<script>alert(1)</script>"
    await hub.agent("alice", "#general")
    await hub.send("alice", "#general", script, metadata={"note": script})
    await hub.ask("PUT", "/status", "alice", json={"status": script, "task": script})
    for path in ("/messages?channel=%23general", "/members", f"/events?after={hub.place(0)}", "/search?q=script"):
        answer = await hub.ask("GET", path, "op")
        assert answer.headers["Content-Type"].startswith("application/json"), path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


# -- the WebSocket -------------------------------------------------------------------------------------------------

FRAMES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"hello", "bad_json"),
    "empty": (b"", "bad_json"),
    "a list": (b"[]", "wrong_type"),
    "without a type": (b"{}", "missing"),
    "of an unknown type": (b'{"type": "shutdown"}', "unknown_type"),
    "whose type is a number": (b'{"type": 7}', "unknown_type"),
    "whose type is a list": (b'{"type": ["message"]}', "unknown_type"),
    "of the hub": (b'{"type": "welcome"}', "unknown_type"),
    "without its message": (b'{"type": "message"}', "missing"),
    "whose message is text": (b'{"type": "message", "message": "hello"}', "wrong_type"),
    "whose message is null": (b'{"type": "message", "message": null}', "wrong_type"),
    "that is deep": (b'{"type": "message", "message": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "too_deep"),
    "that is not UTF-8": (b'{"type": "ping", "ref": "\xff"}', "invalid_unicode"),
    "with half a character": (b'{"type": "ping", "ref": "\\ud800"}', "invalid_unicode"),
    "that acknowledges nonsense": (b'{"type": "ack", "pos": "yesterday"}', "bad_value"),
    "that acknowledges a number": (b'{"type": "ack", "pos": 5}', "wrong_type"),
    "that subscribes to nothing": (b'{"type": "subscribe", "streams": []}', "bad_value"),
    "that subscribes to a number": (b'{"type": "subscribe", "streams": [7]}', "wrong_type"),
    "that says hello again": (b'{"type": "hello"}', "unknown_type"),
    "with a field of nobody's": (b'{"type": "message", "message": {"to": "#general"}, "txt": "hi"}', "no_such_field"),
    "that pings with one": (b'{"type": "ping", "reff": "x"}', "no_such_field"),
    "with a long ref": (b'{"type": "ping", "ref": "' + b"x" * 1000 + b'"}', "bad_value"),
}


@pytest.mark.parametrize("what", FRAMES)
async def test_a_frame_that_is_wrong_is_refused_by_name_and_the_connection_goes_on(hub: Hub, what: str) -> None:
    payload, code = FRAMES[what]
    async with somebody_else(hub), hub.deaf("op", streams=["#quiet"]) as (reader, writer):
        writer.write(masked(payload))
        refused = json.loads((await read_frame(reader))[1])
        assert (refused["type"], refused["error"]["code"]) == ("error", code)
        writer.write(masked(b'{"type": "ping", "ref": "still"}'))
        assert json.loads((await read_frame(reader))[1]) == {"type": "pong", "ref": "still"}


async def test_a_binary_frame_is_refused_and_the_connection_goes_on(hub: Hub) -> None:
    async with somebody_else(hub), hub.deaf("op", streams=["#quiet"]) as (reader, writer):
        writer.write(masked(b'{"type": "ping"}', 0x2))
        assert json.loads((await read_frame(reader))[1])["error"]["code"] == "binary_frame"
        writer.write(masked(b'{"type": "ping"}'))
        assert json.loads((await read_frame(reader))[1])["type"] == "pong"


async def test_a_frame_of_fifty_megabytes_is_refused_before_it_is_there(hub: Hub) -> None:
    async with somebody_else(hub), hub.deaf("op", streams=["#quiet"]) as (reader, writer):
        writer.write(masked(b"x" * 4096, size=50_000_000))
        assert json.loads((await read_frame(reader))[1])["error"]["code"] == "too_large"
        opcode, payload = await read_frame(reader)
        assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 1009)
    async with somebody_else(hub), hub.bare("op") as socket:
        await socket.say(type="hello")
        await socket.next("welcome")
        sending = asyncio.create_task(pour(socket, 50_000_000))
        assert (await socket.error())["code"] == "too_large"
        assert await socket.closed() == 1009
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def pour(socket: Socket, size: int) -> None:
    with contextlib.suppress(ConnectionError):
        await socket.ws.send_str("x" * size)


BROKEN: dict[str, tuple[bytes, int]] = {
    "with reserved bits": (b"\xf1\x82\0\0\0\0{}", 1002),
    "of an unknown opcode": (masked(b"", 0x3), 1002),
    "a long ping": (masked(b"x" * 200, 0x9), 1002),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_is_no_websocket_ends_the_connection_and_says_why(hub: Hub, what: str) -> None:
    sent, code = BROKEN[what]
    async with somebody_else(hub), hub.deaf("op", streams=["#quiet"]) as (reader, writer):
        writer.write(sent)
        told: list[Any] = []
        while True:
            opcode, payload = await read_frame(reader)
            if opcode == 8:
                break
            told.append(json.loads(payload)["error"]["code"])
        assert int.from_bytes(payload[:2], "big") == code
        assert told == ["bad_frame"]


async def test_who_sends_nothing_but_nonsense_is_not_listened_to_for_ever(hub: Hub) -> None:
    async with somebody_else(hub), hub.deaf("op", streams=["#quiet"]) as (reader, writer):
        writer.write(masked(b"nonsense") * 1000)
        errors = 0
        while True:
            opcode, payload = await read_frame(reader)
            if opcode == 8:
                break
            errors += json.loads(payload)["type"] == "error"
        assert int.from_bytes(payload[:2], "big") == 4002
        assert 10 <= errors <= 100


async def test_who_asks_without_reading_the_answers_is_not_read_any_further(hub: Hub) -> None:
    async with somebody_else(hub), hub.deaf("op", streams=["#quiet"]) as (reader, writer):
        ping = masked(json.dumps({"type": "ping", "ref": "x" * 200}).encode())
        assert hub.server.streams is not None
        mine = next(one for one in hub.server.streams.readers if one.transport.get_extra_info("peername")[1]
                    == writer.get_extra_info("sockname")[1])  # fmt: skip

        async def flood() -> None:
            for _ in range(400):
                writer.write(ping * 100)
                await writer.drain()

        flooding = asyncio.create_task(flood())
        await until(lambda: mine.waiting > hub.server.streams.pace.behind)  # type: ignore[union-attr]
        assert mine.waiting < 4_000_000
        answered = 0
        while answered < 40_000:
            assert json.loads((await read_frame(reader))[1])["type"] == "pong"
            answered += 1
        await flooding


# -- too many, too slow --------------------------------------------------------------------------------------------


MANY = 2000
ROOM = 300


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many files as the connections of the test take, its own ends included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = MANY + 2 * ROOM + 500
    if hard != resource.RLIM_INFINITY and hard < need:
        pytest.skip(f"needs {need} open files, and this machine allows a process {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, need), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_of_two_thousand_connections_from_one_address_those_too_many_are_told_so_and_the_others_stay() -> None:
    pace = Pace(ping=1000)  # which those that idle would not answer
    async with running_hub(pace=pace, hub_connections=ROOM, **LOOSE) as hub, hub.socket("op") as watching:
        idle = []
        refused = 0
        for _ in range(MANY):
            reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
            idle.append((reader, writer))
        for _, writer in idle:
            writer.write(handshake(hub.tokens["op"]))
        for reader, _ in idle:
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON)
            except (asyncio.IncompleteReadError, ConnectionError):
                refused += 1  # so many are being refused that this one was dropped
                continue
            if head.startswith(b"HTTP/1.1 429"):
                body = json.loads(await reader.read())
                assert body["error"]["code"] == "too_many_connections"
                refused += 1
            else:
                assert head.startswith(b"HTTP/1.1 101")
        assert MANY - ROOM <= refused <= MANY - ROOM + 10
        await watching.say(type="message", ref="1", message={"to": "#general", "text": "unmoved"})
        assert await watching.texts(1) == ["unmoved"]
        for _, writer in idle:
            writer.close()
        await until(lambda: hub.server._gate is not None and sum(hub.server._gate.connections.values()) < 20)
        assert (await hub.ask("GET", "/members", "op")).status == 200


async def test_who_sends_its_request_drop_by_drop_is_let_go() -> None:
    async with running_hub(**LOOSE) as hub, somebody_else(hub):
        gate = hub.server._gate
        assert gate is not None
        gate._head_time, usual = 0.5, gate._head_time
        async with hub.raw() as (reader, writer):
            writer.write(b"GET /api/v1/members HTTP/1.1\r\nHost: localhost\r\n")
            answer = await asyncio.wait_for(reader.read(), SOON)
            assert answer.startswith(b"HTTP/1.1 408") and b'"timed_out"' in answer
        async with hub.raw() as (reader, _):
            assert b'"timed_out"' in await asyncio.wait_for(reader.read(), SOON)
        gate._head_time = usual


async def test_a_head_that_is_too_large_or_none_at_all_is_refused(hub: Hub) -> None:
    async with somebody_else(hub):
        for head in (
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\r\n\r\n",
        ):
            async with hub.raw() as (reader, writer):
                writer.write(head)
                answer = await asyncio.wait_for(reader.read(), SOON)
                assert answer.startswith(b"HTTP/1.") and b" 400 " in answer.partition(b"\r\n")[0]


async def test_a_body_that_comes_in_disorder_is_refused(hub: Hub) -> None:
    async with somebody_else(hub), hub.raw() as (reader, writer):
        writer.write(
            f"POST /api/v1/messages HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {hub.tokens['op']}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n\r\n".encode()
        )
        answer = await asyncio.wait_for(reader.read(), SOON)
        assert answer.startswith(b"HTTP/1.") and b" 400 " in answer.partition(b"\r\n")[0]


async def test_a_body_that_is_said_to_be_long_is_refused_before_it_comes(hub: Hub) -> None:
    async with somebody_else(hub), hub.raw() as (reader, writer):
        writer.write(
            f"POST /api/v1/messages HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {hub.tokens['op']}\r\n"
            "Content-Type: application/json\r\nContent-Length: 50000000\r\n\r\n{".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON)
        assert head.startswith(b"HTTP/1.1 413")
