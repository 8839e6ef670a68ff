"""The hub's doors on real sockets: who may come in, what goes through, and in which order it comes out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
from typing import Any

import pytest

from fleet.hub import app, stream, websocket, wire
from fleet.hub.auth import Role
from fleet.hub.stream import Pace
from tests.hub_doors import LOOSE, SOON, Ahead, Hub, handshake, masked, read_frame, running_hub
from tests.waiting import until

FILLED = {
    "id": "m-aaaaaaaaaaaaaaaa",
    "name": "nobody",
    "channel": "general",
    "who": "me",
    "verb": "pause",
    "sha256": "0" * 64,
}


@pytest.fixture
async def hub() -> Any:
    async with running_hub(**LOOSE) as running:
        yield running


# -- who may (C20, C26) --------------------------------------------------------------------------------------------


async def test_every_route_asks_for_a_token_and_for_a_role_that_may(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    await hub.token(Role.VIEWER, "eve")
    await hub.token(Role.ADMIN, "root")
    for route in app.ROUTES:
        if not route.who:
            continue
        path = route.path.format(**FILLED)
        where = f"{route.method} {path}"
        for wrong in (None, "flt_wrong", ""):
            answer = await hub.ask(route.method, path, wrong)
            assert (answer.status, answer.code) == (401, "unauthorized"), where
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        for who, role in (("alice", Role.AGENT), ("eve", Role.VIEWER)):
            if role not in route.who:
                answer = await hub.ask(route.method, path, who)
                assert (answer.status, answer.code) == (403, "not_allowed"), f"{where} {role}"
        if Role.OPERATOR not in route.who:
            assert (await hub.ask(route.method, path, "op")).status == 403, where
        assert (await hub.ask(route.method, path, "root")).status not in (401, 403, 500), where


async def test_a_viewer_has_only_reads() -> None:
    for route in app.ROUTES:
        if Role.VIEWER in route.who:
            assert route.method == "GET"


async def test_what_needs_no_token_tells_nothing_of_anybody(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    await hub.send("op", "#general", "a secret")
    open_ones = [route.path for route in (*app.ROUTES, *app.PLAIN_ROUTES) if not route.who]
    assert open_ones == ["/invites/redeem", "/healthz", "/openapi.json", "/asyncapi.json"]
    for path in ("/healthz", "/openapi.json", "/asyncapi.json"):
        answer = await hub.ask("GET", path)
        assert answer.status == 200
        assert b"secret" not in answer.body and b"alice" not in answer.body


async def test_who_speaks_is_the_tokens_word_whatever_a_body_says(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    await hub.agent("bob", "#general")
    async with hub.socket("op") as watching, hub.socket("alice") as alice:
        await hub.send("alice", "#general", "one", sender="bob", name="bob", workspace="other", nature="prompt", hops=0)
        await alice.say(type="message", sender="bob", ref="0", message={"to": "#general", "text": "never"})
        error = (await alice.next("error"))["error"]
        assert (error["code"], error["field"], error["ref"]) == ("no_such_field", "sender", "0")
        await alice.say(type="message", ref="1", message={"to": "#general", "text": "two", "sender": "bob"})
        for _ in range(2):
            event = await watching.next("event")
            while event["kind"] != "message":
                event = await watching.next("event")
            assert (event["sender"], event["data"]["sender"]) == ("alice", "alice")
            assert (event["data"]["workspace"], event["data"]["nature"]) == ("main", "message")


async def test_an_agent_can_neither_pause_resume_nor_terminate_a_conversation(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    await hub.agent("bob", "#general")
    sent = await hub.send("alice", "bob", "hello")
    thread = (await hub.ask("GET", f"/messages/{sent['id']}", "alice")).json["thread"]
    for verb in ("pause", "resume", "terminate", "revive"):
        assert (await hub.ask("POST", f"/threads/{thread}/{verb}", "alice")).status == 403
    assert (await hub.ask("POST", f"/threads/{thread}/pause", "op")).status == 200
    assert (await hub.ask("POST", f"/threads/{thread}/explode", "op")).code == "not_found"


async def test_an_agents_box_is_read_with_its_own_token_only(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    await hub.agent("bob", "#general")
    await hub.send("op", "bob", "for bob alone")
    assert (await hub.ask("GET", "/inbox/bob", "alice")).status in (403, 404)
    mine = await hub.ask("GET", "/inbox/bob", "bob")
    assert [message["text"] for message in mine.json["messages"]] == ["for bob alone"]
    assert b"for bob alone" not in (await hub.ask("GET", "/messages?with=bob", "alice")).body
    assert b"for bob alone" not in (await hub.ask("GET", f"/events?after={hub.place(0)}", "alice")).body


async def test_a_token_that_is_revoked_is_nobodys_at_once_and_its_connections_end(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    id, _ = await hub.exchange.tokens.create(Role.AGENT, "alice", by="test")
    async with hub.socket("alice") as stays:
        made = await hub.ask("POST", "/tokens", "op", json={"role": "viewer", "name": "eve"})
        assert made.status == 201
        hub.tokens["eve"] = made.json["token"]
        async with hub.socket("eve") as ends:
            assert (await hub.ask("DELETE", f"/tokens/{made.json['id']}", "op")).status == 200
            assert await ends.closed() == 4001
        assert (await hub.ask("GET", "/members", "eve")).status == 401
        await stays.say(type="ping", ref="still")
        assert (await stays.next("pong"))["ref"] == "still"
    assert id


async def test_a_token_that_has_expired_ends_its_connections() -> None:
    clock = Ahead()
    async with running_hub(pace=Pace(ping=1.0), clock=clock, **LOOSE) as hub:
        await hub.token(Role.VIEWER, "eve", expires_in=1000)
        async with hub.socket("eve") as socket:
            clock.seconds = 1001
            assert await socket.closed() == 4001
        assert (await hub.ask("GET", "/members", "eve")).status == 401


async def test_a_workspace_sees_nothing_of_another_and_its_tokens_end_with_it(hub: Hub) -> None:
    admin = await hub.token(Role.ADMIN, "root")
    assert (await hub.ask("POST", "/workspaces", admin, json={"name": "lab"})).status == 201
    await hub.agent("alice", "#general")
    await hub.agent("zoe", "#general", workspace="lab")
    await hub.token(Role.VIEWER, "eve", "lab")
    async with hub.socket("eve") as eve, hub.socket("zoe") as zoe:
        await hub.send("alice", "#general", "of main")
        await hub.send("zoe", "#general", "of lab")
        assert await eve.texts(1) == ["of lab"]
        for who in ("eve", "zoe"):
            for path in ("/messages?channel=%23general", f"/events?after={hub.place(0)}", "/members", "/channels"):
                answer = await hub.ask("GET", path, who)
                assert answer.status == 200
                assert b"of main" not in answer.body and b"alice" not in answer.body, path
        refused = await hub.ask("POST", "/messages", "zoe", json={"to": "alice", "text": "hello"})
        assert (refused.status, refused.code) == (404, "unknown_recipient")
        assert (await hub.ask("DELETE", "/workspaces/lab", admin)).status == 200
        assert await eve.closed() == 4001
        assert await zoe.closed() == 4001
    assert (await hub.ask("GET", "/members", "zoe")).status == 401


async def test_a_socket_without_a_header_brings_its_token_with_hello(hub: Hub) -> None:
    async with hub.bare() as socket:
        await socket.say(type="hello", token=hub.tokens["op"])
        assert (await socket.next("welcome"))["name"] == "op"
    for token in ("flt_wrong", None):
        async with hub.bare() as socket:
            await socket.say(type="hello", token=token, ref="h")
            error = await socket.error()
            assert error["code"] == "unauthorized"
            assert await socket.closed() == 4001


async def test_the_first_frame_is_hello_of_this_version_and_comes_in_time() -> None:
    async with running_hub(pace=Pace(hello=0.3)) as hub, hub.bare("op") as socket:
        assert (await socket.error())["code"] == "timed_out"
        assert await socket.closed() == 4002
    async with running_hub(pace=Pace(hello=SOON)) as hub:
        async with hub.bare("op") as socket:
            await socket.say(type="message", ref="1", message={"to": "#general", "text": "too early"})
            assert (await socket.error())["ref"] == "1"
            await socket.closed()
        async with hub.bare("op") as socket:
            await socket.say(type="hello", version=99)
            assert (await socket.error())["code"] == "wrong_version"
            assert await socket.closed() == 4002
        async with hub.bare("op") as socket:
            await socket.ws.send_bytes(b"\x00\x01")
            assert (await socket.error())["code"] == "binary_frame"
        assert b"too early" not in (await hub.ask("GET", "/messages?channel=%23general", "op")).body


# -- events in their order (C17, C29, C30) -------------------------------------------------------------------------


def of_messages(events: list[dict[str, Any]]) -> list[str]:
    return [event["data"]["text"] for event in events if event["kind"] == "message"]


async def test_who_comes_late_starts_at_now_and_who_names_a_position_after_it(hub: Hub) -> None:
    for number in range(3):
        await hub.send("op", "#general", f"before {number}")
    head = hub.exchange.log.head
    async with hub.socket("op") as late, hub.socket("op", after=hub.place(0)) as all_of_it:
        assert late.welcome["position"] == late.welcome["head"] == hub.place(head)
        assert all_of_it.welcome["position"] == hub.place(0)
        await hub.send("op", "#general", "after")
        assert await late.texts(1) == ["after"]
        assert await all_of_it.texts(4) == ["before 0", "before 1", "before 2", "after"]


async def test_a_reader_goes_on_after_any_position_without_a_gap_or_a_double(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    await hub.agent("bob", "#general")
    for number in range(12):
        await hub.send("op", ["#general", "alice", "bob"][number % 3], f"n{number} @alice")
    whole = (await hub.ask("GET", f"/events?after={hub.place(0)}&limit=1000", "op")).json["events"]
    head = hub.exchange.log.head
    for who in ("op", "alice"):
        async with hub.socket(who, after=hub.place(0)) as socket:
            all_seen = await events_up_to(socket, hub)
        mine = [event["seq"] for event in all_seen]
        assert mine == sorted(set(mine))
        if who == "op":
            assert [event for event in all_seen if event["seq"] <= head] == whole
        for seq in range(head + 1):
            async with hub.socket(who, after=hub.place(seq)) as socket:
                seen = [event["seq"] for event in await events_up_to(socket, hub)]
            assert seen[: seen.index(next(s for s in seen if s > head))] == [s for s in mine if seq < s <= head]


async def events_up_to(socket: Any, hub: Hub) -> list[dict[str, Any]]:
    """All events up to one that is sent now, and it."""
    to = socket.welcome["name"] if socket.welcome["role"] == "agent" else "#general"
    mark = await hub.send("op", to, "mark")
    seen = []
    while True:
        frame = await socket.next("event")
        seen.append({key: value for key, value in frame.items() if key != "type"})
        if frame["kind"] == "message" and frame["data"]["id"] == mark["id"]:
            return seen


async def test_who_comes_while_much_is_said_misses_nothing_and_gets_nothing_twice(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    op, many = await caller(hub), 600
    said = asyncio.Event()

    async def speak() -> None:
        for number in range(many):
            await hub.exchange.send(op, {"to": "#general", "text": str(number)})
            if number % 7 == 0:
                await asyncio.sleep(0)
        said.set()

    async def listen(who: str, delay: float) -> None:
        await asyncio.sleep(delay)
        after = hub.exchange.log.head // 2
        async with hub.socket(who, after=hub.place(after)) as socket:
            seen: list[dict[str, Any]] = []
            while not of_messages(seen) or of_messages(seen)[-1] != str(many - 1):
                seen.append(await socket.next("event"))
        seqs = [event["seq"] for event in seen]
        assert seqs == sorted(set(seqs)) and seqs[0] > after
        numbers = [int(text) for text in of_messages(seen)]
        assert numbers == list(range(numbers[0], many))

    await asyncio.gather(speak(), *(listen(("op", "alice")[n % 2], 0.02 * n) for n in range(16)))
    assert said.is_set()


async def test_websocket_sse_and_json_tell_the_same(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    await hub.agent("bob", "#general", "#lab")
    texts = ["plain", "Zoë: 日本語 \u2028 <script>alert(1)</script>", "line one\nline two\n\ndata: forged\nid: 9:9"]
    for text in texts:
        await hub.send("op", "#general", text)
    await hub.send("op", "alice", "to alice")
    await hub.send("op", "bob", "to bob")
    await hub.send("op", "#lab", "to the lab, @alice")
    for who in ("op", "alice", "bob"):
        by_json: list[dict[str, Any]] = []
        after = hub.place(0)
        while True:
            page = (await hub.ask("GET", f"/events?after={after}&limit=3", who)).json
            by_json += page["events"]
            after = page["position"]
            if not page["more"]:
                break
        async with hub.socket(who, after=hub.place(0)) as socket:
            by_socket = [await socket.next("event") for _ in by_json]
        by_sse = await read_sse(hub, who, hub.place(0), len(by_json))
        assert [{k: v for k, v in event.items() if k != "type"} for event in by_socket] == by_json
        assert by_sse == [(event["pos"], event) for event in by_json]
    assert of_messages((await hub.ask("GET", f"/events?after={hub.place(0)}", "op")).json["events"])[:3] == texts


async def test_what_was_deleted_is_told_to_nobody_who_comes_later(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    await hub.agent("bob")
    before = hub.place(hub.exchange.log.head)
    kept = await hub.send("alice", "#general", "a word that stays")
    sent = await hub.send("alice", "#general", "a secret for @bob", metadata={"key": "secret"})
    sent_id = sent["id"]
    async with hub.socket("op", after=before) as early:
        assert "a secret for @bob" in await early.texts(2), "the hub has its frame at hand now"
    assert (await hub.ask("PATCH", f"/messages/{sent_id}", "alice", json={"text": "another secret"})).status == 200
    assert (await hub.ask("DELETE", f"/messages/{sent_id}", "alice")).status == 200
    for who in ("op", "alice", "bob"):
        told = (await hub.ask("GET", f"/events?after={before}", who)).json["events"]
        async with hub.socket(who, after=before) as late:
            by_socket = [await late.next("event") for _ in told]
        assert [{k: v for k, v in event.items() if k != "type"} for event in by_socket] == told
        assert await read_sse(hub, who, before, len(told)) == [(event["pos"], event) for event in told]
        assert "secret" not in json.dumps(told)
        said = [event for event in told if event["data"].get("id") == sent_id]
        changes = {event["kind"]: event for event in told if event["data"].get("message") == sent_id}
        assert {"edit", "deletion"} <= changes.keys(), "that it was there, and what was done to it, stays"
        assert changes["edit"]["data"]["text"] is None
        for event in said:
            data = event["data"]
            assert (data["text"], data["metadata"], data["sender"]) == (None, {}, "alice")
            assert data["deleted_at"] == changes["deletion"]["at"]
        assert said
    others = (await hub.ask("GET", f"/events?after={before}", "op")).json["events"]
    assert [e["data"]["text"] for e in others if e["data"].get("id") == kept["id"]] == ["a word that stays"]


async def read_sse(hub: Hub, who: str, after: str | None, count: int) -> list[tuple[str, dict[str, Any]]]:
    """The ids and values of the first so many events; `after` goes as the browser's own header."""
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {hub.tokens[who]}"}
    if after is not None:
        headers["Last-Event-ID"] = after
    found: list[tuple[str, dict[str, Any]]] = []
    async with asyncio.timeout(SOON), hub.http.get(f"{hub.url}/api/v1/events", headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        block: dict[str, str] = {}
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                block[name] = value
            elif "data" in block and "event" not in block:
                found.append((block["id"], json.loads(block["data"])))
                block = {}
                if len(found) == count:
                    return found
            else:
                block = {}
    raise AssertionError(f"the stream ended after {len(found)} events")


async def test_a_position_that_cannot_be_gone_on_from_is_told_at_every_door(hub: Hub) -> None:
    for number in range(5):
        await hub.send("op", "#general", f"n{number}")
    head = hub.exchange.log.head
    await hub.exchange.log.trim(before=1e12, most=10**12)
    asked = {"epoch": "other:3", "ahead": hub.place(head + 100), "trimmed": hub.place(0)}
    for reason, after in asked.items():
        answer = await hub.ask("GET", f"/events?after={after}", "op")
        assert (answer.status, answer.code) == (410, "gap"), reason
        assert answer.json["error"]["reason"] == reason
        assert answer.json["error"]["head"] == hub.place(hub.exchange.log.head)
        async with hub.socket("op", after=after) as socket:
            gap = socket.welcome["gap"]
            assert (gap["reason"], gap["asked"]) == (reason, after)
            sent = await hub.send("op", "#general", f"after {reason}")
            event = await socket.next("event")
            while event["data"].get("id") != sent["id"]:
                event = await socket.next("event")
    for nonsense in ("x", "5", "a:b", "a:-1", "a:99999999999999999999"):
        assert (await hub.ask("GET", f"/events?after={nonsense}", "op")).code == "bad_value"
    sse = await hub.http.get(
        f"{hub.url}/api/v1/events?after=other:3",
        headers={"Accept": "text/event-stream", "Authorization": f"Bearer {hub.tokens['op']}"},
    )
    async with sse:
        lines = [await asyncio.wait_for(sse.content.readline(), SOON) for _ in range(4)]
    assert lines[2] == b"event: gap\n"
    assert json.loads(lines[3].removeprefix(b"data: "))["reason"] == "epoch"


async def test_what_a_reader_has_acknowledged_is_where_it_goes_on(hub: Hub) -> None:
    async with hub.socket("op", reader="page") as socket:
        for number in range(4):
            await hub.send("op", "#general", f"n{number}")
        events = []
        while len(of_messages(events)) < 4:
            events.append(await socket.next("event"))
        events = [event for event in events if event["kind"] == "message"]
        assert of_messages(events) == ["n0", "n1", "n2", "n3"]
        await socket.say(type="ack", pos=events[1]["pos"])
        await socket.say(type="ack", pos=hub.place(10**9))
        assert (await socket.error())["code"] == "bad_value"
    async with hub.socket("op", reader="page", after="cursor") as socket:
        assert await socket.texts(2) == ["n2", "n3"]
    async with hub.socket("op", reader="another", after="cursor") as socket:
        assert socket.welcome["position"] == hub.place(hub.exchange.log.head)


async def test_an_agent_is_told_what_is_for_it_and_what_it_hears_as_that_changes(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    await hub.agent("bob", "#general")
    async with hub.socket("alice") as alice:
        await hub.send("op", "bob", "not for alice")
        await hub.send("op", "#lab", "not yet for alice")
        assert (await hub.ask("PUT", "/channels/lab/members/me", "alice", json={})).status == 200
        await hub.send("op", "#lab", "now for alice")
        assert await alice.texts(1) == ["now for alice"]
        assert (await hub.ask("DELETE", "/channels/lab/members/me", "alice")).status == 200
        await hub.send("op", "#lab", "no more for alice")
        await hub.send("op", "#lab", "but this, @alice")
        await hub.send("op", "alice", "and this")
        assert await alice.texts(2) == ["but this, @alice", "and this"]
        await alice.say(type="subscribe", streams=["@bob"], ref="spy")
        error = await alice.error()
        assert (error["code"], error["ref"]) == ("not_allowed", "spy")


async def test_a_mention_in_a_channel_that_one_hears_is_told_once(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    async with hub.socket("alice") as alice, hub.socket("op") as watching:
        await hub.send("op", "#general", "hey @alice")
        await hub.send("op", "alice", "next")
        assert await alice.texts(2) == ["hey @alice", "next"]
        assert await watching.texts(2) == ["hey @alice", "next"]


async def test_a_reader_hears_only_the_streams_that_it_asks_for(hub: Hub) -> None:
    await hub.agent("alice", "#general", "#lab")
    async with hub.socket("op", streams=["#lab"]) as some, hub.socket("alice") as alice:
        assert some.welcome["streams"] == ["#lab"]
        await hub.send("op", "#general", "g1")
        await hub.send("op", "#lab", "l1")
        assert await some.texts(1) == ["l1"]
        await some.say(type="subscribe", streams=["#general"], ref="s")
        assert await some.next("subscribed") == {"type": "subscribed", "streams": ["#general", "#lab"], "ref": "s"}
        await some.say(type="unsubscribe", streams=["#lab"], ref="u")
        assert (await some.next("subscribed"))["streams"] == ["#general"]
        await alice.say(type="unsubscribe", streams=["#lab"], ref="a")
        assert "#lab" not in (await alice.next("subscribed"))["streams"]
        await hub.send("op", "#lab", "l2")
        await hub.send("op", "#general", "g2")
        assert await some.texts(1) == ["g2"]
        assert await alice.texts(3) == ["g1", "l1", "g2"]


async def test_an_observer_sees_all_and_is_seen_by_nobody(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    await hub.agent("bob", "#general")
    await hub.token(Role.VIEWER, "zeno")
    async with hub.socket("zeno") as zeno, hub.socket("alice") as alice:
        await hub.send("alice", "bob", "between us")
        assert await zeno.texts(1) == ["between us"]
        assert "zeno" not in json.dumps((await hub.ask("GET", "/members", "alice")).json)
        refused = await hub.ask("POST", "/messages", "alice", json={"to": "zeno", "text": "hello?"})
        assert refused.code == "unknown_recipient"
        await alice.say(type="ping")
        await alice.next("pong")
        assert not any("zeno" in json.dumps(frame) for frame in alice._kept)


# -- messages over the socket --------------------------------------------------------------------------------------


async def test_an_ack_follows_the_commit_and_messages_keep_the_order_they_were_sent_in(hub: Hub) -> None:
    async with hub.socket("op") as socket, hub.socket("op") as watching:
        for number in range(300):
            await socket.say(type="message", ref=f"r{number}", message={"to": "#general", "text": f"n{number}"})
        acks = [await socket.next("ack") for _ in range(300)]
        for ack in acks[:5]:
            stored = await hub.ask("GET", f"/messages/{ack['id']}", "op")
            assert stored.json["text"] == "n" + ack["ref"][1:]
        seqs = [ack["seq"] for ack in sorted(acks, key=lambda ack: int(ack["ref"][1:]))]
        assert seqs == sorted(seqs)
        assert await watching.texts(300) == [f"n{number}" for number in range(300)]


async def test_a_repeat_by_its_key_is_told_as_one_at_both_doors(hub: Hub) -> None:
    for name in ("zed", "bob", "alice"):
        await hub.agent(name, *(["#general"] if name != "bob" else []))
    message = {"to": "#general", "text": "once, @bob", "idempotency_key": "k1"}
    first = await hub.ask("POST", "/messages", "op", json=message)
    again = await hub.ask("POST", "/messages", "op", json=message)
    by_header = await hub.ask(
        "POST", "/messages", "op", json={"to": "#general", "text": "once, @bob"}, headers={"Idempotency-Key": "k1"}
    )
    assert (first.status, again.status, by_header.status) == (201, 200, 200)
    assert again.json["duplicate"] is True
    assert [r["name"] for r in first.json["recipients"]] == ["alice", "bob", "zed"]
    assert again.json == by_header.json == {**first.json, "duplicate": True}
    async with hub.socket("op") as socket:
        await socket.say(type="message", ref="r", message=message)
        ack = await socket.next("ack")
        assert (ack["id"], ack["seq"], ack["duplicate"]) == (first.json["id"], first.json["seq"], True)


async def test_a_frame_that_is_refused_is_told_with_its_ref_and_is_not_acked(hub: Hub) -> None:
    async with hub.socket("op") as socket:
        for message, code in (
            ({"to": "#general", "text": ""}, "empty"),
            ({"to": "nobody-here", "text": "hello"}, "unknown_recipient"),
            ({"to": 7, "text": "hello"}, "wrong_type"),
            ({"text": "hello"}, "missing"),
            ({"to": "#general", "text": "x" * 70_000}, "too_large"),
            ({"to": "#general", "text": "a\u202eb"}, "bidi_characters"),
        ):
            await socket.say(type="message", ref="mine", message=message)
            error = await socket.error()
            assert (error["code"], error["ref"]) == (code, "mine")
        await socket.say(type="message", ref="good", message={"to": "#general", "text": "hello"})
        assert (await socket.next("ack"))["ref"] == "good"
        assert not [frame for frame in socket._kept if frame["type"] == "ack"]


async def test_a_limit_says_when_to_try_again() -> None:
    async with running_hub(hub_sender_rate=1.0, hub_sender_burst=2) as hub:
        await hub.agent("alice", "#general")
        answers = [
            await hub.ask("POST", "/messages", "alice", json={"to": "#general", "text": f"n{number}"})
            for number in range(4)
        ]
        refused = [answer for answer in answers if answer.status == 429]
        assert refused and refused[0].code == "rate_limited"
        assert refused[0].json["error"]["retry_after"] > 0
        assert int(refused[0].headers["Retry-After"]) >= 1


async def test_an_ask_is_answered_over_http_when_it_ends_and_not_before(hub: Hub) -> None:
    await hub.agent("alice", "#general")
    await hub.agent("bob", "#general")
    asking = asyncio.create_task(hub.ask("POST", "/asks", "alice", json={"to": "bob", "text": "well?", "timeout": 60}))
    async with hub.socket("bob", after=hub.place(0)) as bob:
        event = await bob.next("event")
        while event["kind"] != "message":
            event = await bob.next("event")
        assert not asking.done()
        declined = await hub.ask("POST", f"/messages/{event['data']['id']}/decline", "bob", json={"reason": "busy"})
        assert declined.status == 200
    answer = await asking
    assert (answer.status, answer.json["outcome"], answer.json["reason"]) == (200, "declined", "busy")
    begun = await hub.ask("POST", "/asks?wait=0", "alice", json={"to": "bob", "text": "again?", "timeout": 60})
    assert (begun.status, begun.json["outcome"]) == (202, None)
    still = await hub.ask("GET", f"/asks/{begun.json['id']}?wait=0.05", "alice")
    assert (still.status, still.json["outcome"]) == (202, None)


# -- readers that do not read --------------------------------------------------------------------------------------


async def test_a_reader_that_stops_reading_holds_up_nobody_and_then_gets_all_in_order_once() -> None:
    pad = "x" * 30_000
    async with (
        running_hub(pace=Pace(ping=1000, stalled=1000), **LOOSE) as hub,
        hub.deaf("op") as (reader, _),
        hub.socket("op") as lively,
    ):
        for number in range(600):  # 18 MB
            await hub.exchange.send(await caller(hub), {"to": "#general", "text": f"{number} {pad}"})
        assert [text.split()[0] for text in await lively.texts(600)] == [str(number) for number in range(600)]
        assert hub.server.streams is not None
        behind = [one for one in hub.server.streams.readers if one.behind]
        assert len(behind) == 1
        assert behind[0].waiting < 1_000_000
        seen: list[str] = []
        while len(seen) < 600:
            opcode, payload = await read_frame(reader)
            frame = json.loads(payload) if opcode == 1 else {}
            if frame.get("kind") == "message":
                seen.append(frame["data"]["text"].split()[0])
        assert seen == [str(number) for number in range(600)]
        await until(lambda: not behind[0].behind)
        await hub.send("op", "#general", "live again")
        assert json.loads((await read_frame(reader))[1])["data"]["text"] == "live again"


async def caller(hub: Hub) -> Any:
    return hub.exchange.tokens.check(hub.tokens["op"])


async def test_a_reader_without_progress_is_cut_off_and_goes_on_by_its_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "FAREWELL", SOON)
    async with running_hub(pace=Pace(stalled=0.5), **LOOSE) as hub:
        pad = "x" * 30_000
        async with hub.deaf("op") as (reader, _):
            for number in range(300):
                await hub.exchange.send(await caller(hub), {"to": "#general", "text": f"{number} {pad}"})
            assert hub.server.streams is not None
            streams = hub.server.streams
            await until(lambda: not streams.readers)
            seen: list[dict[str, Any]] = []
            code = None
            with pytest.raises(asyncio.IncompleteReadError):
                while True:
                    opcode, payload = await read_frame(reader)
                    if opcode == 8:
                        code = int.from_bytes(payload[:2], "big")
                    else:
                        seen.append(json.loads(payload))
        assert code == 4008
        async with hub.socket("op", after=seen[-1]["pos"]) as socket:
            rest = await socket.texts(300 - len(of_messages(seen)))
        numbers = [text.split()[0] for text in [*of_messages(seen), *rest]]
        assert numbers == [str(number) for number in range(300)]


async def test_a_client_that_never_answers_a_ping_is_taken_for_gone() -> None:
    async with running_hub(pace=Pace(ping=2.0), **LOOSE) as hub, hub.socket("op") as alive:
        answering = asyncio.create_task(alive.texts(1))  # its client answers pings while it waits
        async with hub.deaf("op") as (reader, _):
            with contextlib.suppress(ConnectionResetError):
                await asyncio.wait_for(reader.read(), SOON)  # up to the end of its connection
        await hub.send("op", "#general", "still there")
        assert await answering == ["still there"]


async def test_a_stream_of_events_ends_with_its_client(hub: Hub) -> None:
    await hub.send("op", "#general", "one")
    await read_sse(hub, "op", hub.place(0), 1)
    assert hub.server.streams is not None
    streams = hub.server.streams
    await until(lambda: not streams.readers)


# -- the socket, the port, the end ---------------------------------------------------------------------------------


async def test_the_unix_socket_is_the_users_own_and_comes_back_when_it_is_removed(hub: Hub) -> None:
    path = hub.folder / "run" / "hub.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for _ in range(2):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(
            f"GET /api/v1/info HTTP/1.1\r\nHost: any-name\r\nAuthorization: Bearer {hub.tokens['op']}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        answer = await asyncio.wait_for(reader.read(), SOON)
        writer.close()
        told = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert (told["socket"], told["url"], told["epoch"]) == (str(path), hub.url, hub.epoch)
        if path.exists():
            path.unlink()
            await until(path.exists)


async def test_the_port_is_the_same_after_a_restart_and_another_where_it_is_taken(hub: Hub) -> None:
    port = hub.port
    async with running_hub(**LOOSE) as other:
        kept = other.port
        await other.server.close()
        other.server = type(other.server)(other.exchange, other.server._settings, other.server._places)
        await other.server.start()
        assert other.port == kept
        await other.server.close()
        (other.folder / "state" / "hub" / "ports").write_text(json.dumps({"hub": port}))
        other.server = type(other.server)(other.exchange, other.server._settings, other.server._places)
        await other.server.start()
        assert other.port not in (port, 0)
        await other.server.close()


async def test_a_port_that_cannot_be_had_leaves_the_socket_and_is_told(hub: Hub) -> None:
    async with running_hub(hub_port=hub.port) as other:
        info = other.server.info()
        assert info["url"] is None
        assert str(hub.port) in info["problems"][0]
        reader, writer = await asyncio.open_unix_connection(info["socket"])
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b'{"ok":true' in await asyncio.wait_for(reader.read(), SOON)
        writer.close()


async def test_a_port_that_becomes_free_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with running_hub(hub_port=port) as other:
            assert other.server.info()["url"] is None
            taken.close()
            await until(lambda: other.server.info()["url"] == f"http://127.0.0.1:{port}")
            assert other.server.problems == []


async def test_a_hub_that_leaves_says_so_to_its_readers(hub: Hub) -> None:
    async with hub.socket("op") as socket, hub.bare("op") as silent:
        closing = asyncio.create_task(hub.server.close())
        assert await socket.closed() == 1001
        assert await silent.closed() == 1001
        await closing


async def test_what_comes_behind_hello_is_taken_once_it_has_been_answered(hub: Hub) -> None:
    async with hub.raw() as (reader, writer):
        frames = [{"type": "hello", "streams": ["#quiet"]}, {"type": "ping", "ref": "behind"}]
        writer.write(handshake(hub.tokens["op"]) + b"".join(masked(json.dumps(frame).encode()) for frame in frames))
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON)
        assert json.loads((await read_frame(reader))[1])["type"] == "welcome"
        assert json.loads((await read_frame(reader))[1]) == {"type": "pong", "ref": "behind"}


async def test_a_client_that_closes_is_answered_with_its_code_and_is_no_reader_any_more(hub: Hub) -> None:
    assert hub.server.streams is not None
    async with hub.deaf("op", streams=["#quiet"]) as (reader, writer):
        assert len(hub.server.streams.readers) == 1
        writer.write(masked((4321).to_bytes(2, "big"), 0x8))
        assert await read_frame(reader) == (0x8, (4321).to_bytes(2, "big"))
        assert await reader.read() == b""
        assert not hub.server.streams.readers


async def test_more_messages_than_may_be_on_their_way_at_once_all_come_through(hub: Hub) -> None:
    async with hub.socket("op", streams=["#quiet"]) as socket:
        count = 3 * websocket.IN_FLIGHT + 7
        for number in range(count):
            await socket.say(type="message", ref=str(number), message={"to": "#general", "text": f"{number}"})
        assert [(await socket.next("ack"))["ref"] for _ in range(count)] == [str(number) for number in range(count)]


# -- files ---------------------------------------------------------------------------------------------------------


async def test_a_file_is_kept_by_its_sum_and_handed_out_so_that_nothing_of_it_runs(hub: Hub) -> None:
    import aiohttp

    form = aiohttp.FormData()
    form.add_field("file", b"<script>alert(1)</script>", filename="page.html", content_type="text/html")
    kept = await hub.ask("POST", "/files", "op", data=form)
    assert kept.status == 201, kept.body
    assert (kept.json["name"], kept.json["type"], kept.json["size"]) == ("page.html", "text/html", 25)
    sha256 = kept.json["sha256"]
    got = await hub.ask("GET", f"/files/{sha256}?name=page.html&type=text/html", "op")
    assert got.body == b"<script>alert(1)</script>"
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in got.headers["Content-Security-Policy"]
    assert (await hub.ask("GET", f"/files/{sha256}")).status == 401
    await hub.agent("bob", "#general")
    sent = await hub.send("op", "bob", "see this", attachments=[kept.json])
    assert (await hub.ask("GET", f"/messages/{sent['id']}", "op")).json["attachments"][0]["sha256"] == sha256
    again = await hub.ask(
        "POST", "/files", "op", json={"name": "same.txt", "base64": "PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg=="}
    )
    assert again.json["sha256"] == sha256
    assert (await hub.ask("GET", "/files/" + "0" * 64, "op")).code == "unknown_file"
    await hub.agent("alice", "#lab")
    admin = await hub.token(Role.ADMIN, "root")
    await hub.ask("POST", "/workspaces", admin, json={"name": "other"})
    await hub.agent("zoe", "#general", workspace="other")
    for who in ("alice", "zoe"):  # neither may read what speaks of it
        assert (await hub.ask("GET", f"/files/{sha256}", who)).code == "unknown_file"
    await hub.send("op", "alice", "for you", attachments=[{**kept.json, "name": "yours.html"}])
    mine = await hub.ask("GET", f"/files/{sha256}", "alice")
    assert mine.status == 200
    assert mine.headers["Content-Disposition"] == "attachment; filename*=UTF-8''yours.html"


async def test_the_name_of_a_file_leads_nowhere(hub: Hub) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "..", "a/b", "a\\b", "x\x00.txt", "", "a" * 300, "\u202egnp.exe"):
        answer = await hub.ask("POST", "/files", "op", json={"name": name, "base64": "eA=="})
        assert answer.status == 400, name
        assert answer.code in ("bad_name", "control_characters", "bidi_characters"), name
    raw = b'--b\r\nContent-Disposition: form-data; name="file"; filename="../../escaped"\r\n\r\nx\r\n--b--\r\n'
    answer = await hub.ask(
        "POST", "/files", "op", data=raw, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert (answer.status, answer.code) == (400, "bad_name")
    for path in ("..%2f..%2fhub.db", "../../hub.db", "%2e%2e/x", "A" * 64):
        assert (await hub.ask("GET", f"/files/{path}", "op")).status == 404
    assert not list(hub.folder.rglob("escaped*"))


async def test_a_file_that_is_too_large_is_refused_where_it_becomes_so() -> None:
    import aiohttp

    async with running_hub(hub_attachment_mb=0.1) as hub:
        form = aiohttp.FormData()
        form.add_field("file", b"x" * 300_000, filename="big.bin")
        answer = await hub.ask("POST", "/files", "op", data=form)
        assert (answer.status, answer.code) == (413, "too_large")
        answer = await hub.ask("POST", "/files", "op", json={"name": "big", "base64": "eHh4" * 60_000})
        assert (answer.status, answer.code) == (413, "too_large")
        for body, code in (
            ({"name": "x", "base64": "???"}, "bad_value"),
            ({"name": "x", "base64": 7}, "wrong_type"),
            ({"base64": "eA=="}, "missing"),
        ):
            assert (await hub.ask("POST", "/files", "op", json=body)).code == code
        for data, content_type in ((b"junk", "multipart/form-data; boundary=b"), (b"junk", "multipart/form-data")):
            answer = await hub.ask("POST", "/files", "op", data=data, headers={"Content-Type": content_type})
            assert answer.status == 400 and answer.code in ("missing", "bad_multipart")
        assert not list((hub.folder / "state" / "hub" / "blobs" / "parts").iterdir())


# -- the documents -------------------------------------------------------------------------------------------------


async def test_the_documents_name_every_route_and_frame(hub: Hub) -> None:
    described = (await hub.ask("GET", "/openapi.json")).json
    for route in app.ROUTES:
        operation = described["paths"][app.API + route.path][route.method.lower()]
        assert operation["description"], route.path
        assert operation["security"] == ([{"token": []}] if route.who else [])
    frames = (await hub.ask("GET", "/asyncapi.json")).json
    assert set(frames["channels"]["ws"]["messages"]) == {
        model.__name__ for model in (*wire.CLIENT_FRAMES.values(), *wire.HUB_FRAMES)
    }
    for document in (described, frames):
        known = document["components"]["schemas"]
        for reference in references(document):
            if reference.startswith("#/components/schemas/"):
                assert reference.rpartition("/")[2] in known, reference


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in references(item)]
    return [found for item in value for found in references(item)] if isinstance(value, list) else []


async def test_a_masked_ping_is_answered(hub: Hub) -> None:
    async with hub.deaf("op", streams=["#quiet"]) as (reader, writer):
        writer.write(masked(b"are you there", 0x9))
        assert await read_frame(reader) == (0xA, b"are you there")
