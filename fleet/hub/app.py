"""The hub's HTTP routes, as one table: who may, what goes in, what comes out. OpenAPI is drawn from it.

What holds at every door:

- Who calls is the token's word (`Authorization: Bearer`), never a field's. A route says which roles may use it; no
  token or a wrong one is 401, a role that may not is 403. No token ever stands in a URL.
- The `Host` must be one of the hub's own names, and an `Origin`, where a browser sends one, one that may use it: a
  page from elsewhere, and a name that was bound anew to this address, are turned away.
- A body has a limit, a time, and its content type. Whatever is wrong is `{"error": {code, message, …}}` with the
  status that `wire.STATUS` gives the code.
- What a stranger put in is handed out so that a browser runs none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from fleet import __version__
from fleet.hub import wire
from fleet.hub.auth import Caller, Role
from fleet.hub.blobs import BEGINNING, DEFAULT_TYPE, media_type, seen_type, served
from fleet.hub.bodies import BODY_TIME, SAFE, as_json, read_body, send_file, uploaded
from fleet.hub.exchange import Exchange
from fleet.hub.message import Attachment, Code, Nature, Position, Refusal, Verb
from fleet.hub.stream import Streams, as_fault, serve_sse
from fleet.hub.submission import check_file_name
from fleet.hub.websocket import serve_websocket
from fleet.hub.wire import Fault

access = logging.getLogger("fleet.hub.access")

API = "/api/v1"

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


# -- what a route is -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Doors:
    """What the routes work with."""

    exchange: Exchange
    streams: Streams
    info: Callable[[], Mapping[str, Any]]
    names: frozenset[str] = LOCAL_NAMES
    """By which the hub is reached: `Host` is one of them."""
    origins: frozenset[str] = frozenset()
    """Of pages that may use it, beside the hub's own."""
    log_access: bool = False
    seen: Callable[[asyncio.BaseTransport], None] = lambda transport: None
    """Told of each connection that has sent a whole request's head."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, from somebody who may make it."""

    doors: Doors
    request: web.Request
    caller: Caller
    body: dict[str, Any]
    """As it came, checked against the route's model."""

    @property
    def exchange(self) -> Exchange:
        return self.doors.exchange

    def part(self, name: str) -> str:
        """Of the path."""
        return self.request.match_info[name]

    def asked(self, name: str) -> str | None:
        """Of the query."""
        return self.request.query.get(name)

    def number(self, name: str, default: int, *, most: int = 2**63 - 1) -> int:
        return wire.as_number(self.asked(name), name, default, most=most)

    def limit(self, default: int = 50) -> int:
        return wire.as_number(self.asked("limit"), "limit", default, least=1, most=1000)

    def flag(self, name: str) -> bool:
        value = self.asked(name)
        if value not in (None, "0", "1", "true", "false"):
            raise Fault(Code.BAD_VALUE, f"`{name}` is 1 or 0.", field=name)
        return value in ("1", "true")

    @property
    def after(self) -> Position | None:
        value = self.asked("after")
        return None if value is None else wire.as_position(value)


Reply = web.StreamResponse | Mapping[str, Any] | tuple[int, Mapping[str, Any]]
Act = Callable[[Call], Awaitable[Reply]]

EVERYBODY = frozenset(Role)
SPEAKERS = frozenset({Role.AGENT, Role.OPERATOR, Role.ADMIN})
OBSERVERS = frozenset({Role.VIEWER, Role.OPERATOR, Role.ADMIN})
OPERATORS = frozenset({Role.OPERATOR, Role.ADMIN})
ADMINS = frozenset({Role.ADMIN})
NOBODY_ASKED: frozenset[Role] = frozenset()
"""No token is needed."""


@dataclass(frozen=True, slots=True)
class Route:
    """One way in."""

    method: str
    path: str
    who: frozenset[Role]
    act: Act
    """Its docstring is the route's description."""
    answer: type[wire.Model] | None = None
    body: type[wire.Model] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    checked: bool = True
    """The body is checked against its model here; else where it is used."""

    @property
    def operation(self) -> str:
        return self.act.__name__


# -- messages ------------------------------------------------------------------------------------------------------


async def send_message(call: Call) -> Reply:
    """Send a message. 201 once it is on the disk; 200 for a repeat by its key, which changes nothing."""
    return await _send(call, Nature.MESSAGE)


async def send_prompt(call: Call) -> Reply:
    """Give an agent the operator's own word: it is typed into its program, not quoted."""
    return await _send(call, Nature.PROMPT)


async def _send(call: Call, nature: Nature) -> Reply:
    body = call.body
    key = call.request.headers.get("Idempotency-Key")
    if key is not None:
        body = {"idempotency_key": key, **body}
    receipt = await call.exchange.send(call.caller, body, nature=nature)
    return (200 if receipt.duplicate else 201), receipt.to_json()


async def read_messages(call: Call) -> Reply:
    """A page of messages, oldest first: those after a position, else the newest."""
    before = call.asked("before")
    return await call.exchange.read(
        call.caller,
        channel=call.asked("channel"),
        with_=call.asked("with"),
        thread=call.asked("thread"),
        after=call.after,
        before=None if before is None else call.number("before", 0),
        since=wire.as_time(call.asked("since"), "since"),
        until=wire.as_time(call.asked("until"), "until"),
        limit=call.limit(),
    )


async def read_message(call: Call) -> Reply:
    """A message as it stands now, and where it stands at each of its recipients."""
    return await call.exchange.receipt(call.caller, call.part("id"))


async def edit_message(call: Call) -> Reply:
    """Say something else instead. The message stays what it was in the log."""
    return await call.exchange.edit(call.caller, call.part("id"), call.body["text"])


async def delete_message(call: Call) -> Reply:
    """Take a message back from everybody's sight."""
    await call.exchange.delete(call.caller, call.part("id"))
    return {"deleted": call.part("id")}


async def react(call: Call) -> Reply:
    """Set a sign at a message, or take one's own away."""
    return await call.exchange.react(call.caller, call.part("id"), call.body["reaction"], on=call.body.get("on", True))


async def decline(call: Call) -> Reply:
    """Not answer a message that asked something."""
    reason = call.body.get("reason", "declined")
    await call.exchange.decline(call.caller, call.part("id"), reason)
    return {"declined": call.part("id"), "reason": reason}


async def cancel(call: Call) -> Reply:
    """Take a message of one's own back from whoever has not got it."""
    await call.exchange.cancel(call.caller, call.part("id"))
    return {"cancelled": call.part("id")}


async def ask(call: Call) -> Reply:
    """Ask one agent. The answer comes with its one outcome, however long that takes; with `wait` after so many
    seconds at the latest, as 202 where it is still open."""
    timeout = call.body.get("timeout")
    receipt = await call.exchange.ask_begin(call.caller, call.body, None if timeout is None else float(timeout))
    return await _ask_end(call, receipt.id, _wait(call, None))


async def read_ask(call: Call) -> Reply:
    """How a question stands; with `wait` as soon as it has ended, or after so many seconds."""
    return await _ask_end(call, call.part("id"), _wait(call, 0.0))


def _wait(call: Call, default: float | None) -> float | None:
    wait = wire.as_time(call.asked("wait"), "wait")
    return default if wait is None else wait


async def _ask_end(call: Call, id: str, wait: float | None) -> Reply:
    if wait is None or wait > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                return await call.exchange.ask_json(await call.exchange.ask_end(call.caller, id))
    standing = await call.exchange.asked(call.caller, id)
    return (200 if standing.get("outcome") else 202), standing


async def discuss(call: Call) -> Reply:
    """Open a conversation between two agents."""
    body = call.body
    found = await call.exchange.discuss(
        call.caller, body["a"], body["b"], body["topic"], max_hops=body.get("max_hops")
    )  # fmt: skip
    return 201, found


async def read_inbox(call: Call) -> Reply:
    """Somebody's mail, whatever became of it: one's own, or any for whoever sees all of the workspace."""
    return await call.exchange.inbox(
        call.caller, call.part("name"), after=call.number("after", 0), limit=call.limit(),
        newest=call.flag("newest"), waiting=call.flag("waiting"),
    )  # fmt: skip


async def take_inbox(call: Call) -> Reply:
    """Read one's own inbox: what waited is handed over, and that is its proof."""
    return {"messages": await call.exchange.take(call.caller, call.body.get("limit", 50))}


async def search(call: Call) -> Reply:
    """Messages that hold all of the words, newest first."""
    words = call.asked("q")
    if not words:
        raise Fault(Code.MISSING, "`q` is missing: the words.", field="q")
    before = call.asked("before")
    return await call.exchange.search(
        call.caller, words, channel=call.asked("channel"),
        before=None if before is None else call.number("before", 0), limit=call.limit(20),
    )  # fmt: skip


# -- members and channels ------------------------------------------------------------------------------------------


async def read_channels(call: Call) -> Reply:
    """The channels somebody is in, and who."""
    return {"channels": call.exchange.channels(call.caller)}


async def join(call: Call) -> Reply:
    """Hear a channel from now on. `WHO` is a name, or `me`; the channel stands without its #."""
    channel, who = _membership(call)
    await call.exchange.join(call.caller, channel, call.body.get("hears", "all"), who)
    return {"channel": channel, "member": who or call.caller.name, "hears": call.body.get("hears", "all")}


async def leave(call: Call) -> Reply:
    """Not hear a channel any more."""
    channel, who = _membership(call)
    await call.exchange.leave(call.caller, channel, who)
    return {"channel": channel, "member": who or call.caller.name}


def _membership(call: Call) -> tuple[str, str | None]:
    who = call.part("who")
    return "#" + call.part("channel").removeprefix("#"), None if who == "me" else who


async def read_members(call: Call) -> Reply:
    """Who is there, and how they are."""
    return {"members": call.exchange.members(call.caller)}


async def read_member(call: Call) -> Reply:
    """One of them."""
    return call.exchange.member(call.caller, call.part("name"))


async def remove_member(call: Call) -> Reply:
    """Out of the registry; what was said stays."""
    await call.exchange.remove(call.caller, call.part("name"))
    return {"removed": call.part("name")}


async def set_status(call: Call) -> Reply:
    """Say what one is doing."""
    return await call.exchange.set_status(call.caller, call.body)


async def set_resources(call: Call) -> Reply:
    """Figures of one's machine."""
    await call.exchange.heartbeat(call.caller, call.body)
    return {"ok": True}


# -- conversations -------------------------------------------------------------------------------------------------


async def read_threads(call: Call) -> Reply:
    """Conversations, the newest first."""
    before = call.asked("before")
    found = await call.exchange.threads(
        call.caller, state=call.asked("state"), before=None if before is None else call.number("before", 0),
        limit=call.limit(),
    )  # fmt: skip
    return {"threads": found}


async def read_thread(call: Call) -> Reply:
    """A conversation's transcript, and what operators did to it."""
    return await call.exchange.transcript(
        call.caller, call.part("id"), after=call.number("after", 0), limit=call.limit(200)
    )  # fmt: skip


async def thread_act(call: Call) -> Reply:
    """Pause, resume, terminate or revive a conversation."""
    verb = call.part("verb")
    if verb not in list(Verb):
        raise Fault("not_found", f"There is no {verb[:40]!a}; there is {', '.join(Verb)}.")
    thread = await call.exchange.thread_act(call.caller, call.part("id"), verb, call.body.get("reason", ""))
    return thread.to_json()


# -- files ---------------------------------------------------------------------------------------------------------


async def put_file(call: Call) -> Reply:
    """Keep a file, to be named in messages: multipart/form-data, or JSON with its bytes as base64."""
    request = call.request
    if request.content_type == "multipart/form-data":
        kept = await uploaded(call.exchange, call.caller, request)
    elif request.content_type == "application/json":
        raw = await read_body(request, call.exchange.limits.attachment * 4 // 3 + 64 * 1024)
        value = wire.read_json(raw)
        body = wire.check(wire.FileBody, value)
        kept = await call.exchange.upload_base64(call.caller, body.name, body.type, body.base64)
    else:
        raise Fault("unsupported_media_type", "A file comes as multipart/form-data, or within application/json.")
    return 201, {"sha256": kept.sha256, "name": kept.name, "size": kept.size, "type": kept.type}


async def get_file(call: Call) -> Reply:
    """A file's bytes, as a download unless it is a picture or plain text; for who has put it, or may read a message
    that has it. `name` and `type` are the message's, where none are asked for."""
    sha256 = call.part("sha256")
    known = await call.exchange.attachment(call.caller, sha256)
    name = check_file_name(call.asked("name") or known.name)
    if isinstance(name, Refusal):
        raise Fault.of(name)
    try:
        file = await asyncio.to_thread(call.exchange.blobs.open, sha256)
    except OSError:
        raise Fault("unknown_file", "There is no file with that sum.") from None
    with file:
        size = call.exchange.blobs.size(sha256) or 0
        begins = await asyncio.to_thread(file.peek, BEGINNING)
        kind = seen_type(begins[:BEGINNING], media_type(call.asked("type") or known.type) or DEFAULT_TYPE)
        headers = {**served(Attachment(sha256, name, size, kind)), "Content-Length": str(size)}
        return await send_file(call.request, headers, file)


# -- workspaces, invites, tokens -----------------------------------------------------------------------------------


async def read_workspaces(call: Call) -> Reply:
    """The workspaces that the caller may see."""
    return {"workspaces": await call.exchange.workspaces(call.caller)}


async def create_workspace(call: Call) -> Reply:
    """A new workspace: nobody of another one sees into it."""
    return 201, await call.exchange.create_workspace(
        call.caller, call.body["name"], call.body.get("description", "")
    )  # fmt: skip


async def delete_workspace(call: Call) -> Reply:
    """Its tokens are nobody's from then on."""
    await call.exchange.delete_workspace(call.caller, call.part("name"))
    return {"deleted": call.part("name")}


async def read_invites(call: Call) -> Reply:
    """The invites of a workspace that can still be redeemed."""
    return {"invites": await call.exchange.invites(call.caller, call.part("name"))}


async def read_all_invites(call: Call) -> Reply:
    """Those of the caller's workspace; an administrator's of all."""
    return {"invites": await call.exchange.invites(call.caller)}


async def create_own_invite(call: Call) -> Reply:
    """An invite to the workspace that is named, else to the caller's own. It is shown this once."""
    return 201, await call.exchange.invite(call.caller, call.body)


async def create_invite(call: Call) -> Reply:
    """An invite: whoever has it may redeem it for a token. It is shown this once."""
    return 201, await call.exchange.invite(call.caller, {**call.body, "workspace": call.part("name")})


async def delete_invite(call: Call) -> Reply:
    """Nobody can redeem it any more."""
    await call.exchange.delete_invite(call.caller, call.part("id"))
    return {"deleted": call.part("id")}


async def redeem_invite(call: Call) -> Reply:
    """A token for who has an invite. The token is shown this once."""
    return 201, await call.exchange.redeem(call.body["invite"], call.body["name"])


async def read_tokens(call: Call) -> Reply:
    """The tokens there are, without what opens the door."""
    return {"tokens": await call.exchange.list_tokens(call.caller, call.asked("workspace"))}


async def create_token(call: Call) -> Reply:
    """A new token, shown this once."""
    return 201, await call.exchange.create_token(call.caller, call.body)


async def revoke_token(call: Call) -> Reply:
    """It is nobody's from now on, and its connections end."""
    await call.exchange.revoke_token(call.caller, call.part("id"))
    return {"revoked": call.part("id")}


# -- the log -------------------------------------------------------------------------------------------------------


async def read_audit(call: Call) -> Reply:
    """What operators did, and what was refused to whom. Retention never takes it."""
    found = await call.exchange.audit(call.caller, call.after, call.limit(200))
    told = [
        {**one, "pos": f"{one['epoch']}:{one['seq']}", "stream": wire.local(one["stream"])} for one in found["events"]
    ]
    return {**found, "events": told}


async def read_events(call: Call) -> Reply:
    """What has happened after a position, as far as the token may see it: a page of JSON, or, where the client accepts
    `text/event-stream`, as it happens (SSE; `Last-Event-ID` and `after` are the same)."""
    request = call.request
    if "text/event-stream" in request.headers.get("Accept", ""):
        last = request.headers.get("Last-Event-ID")
        after = wire.as_position(last, "Last-Event-ID") if last else call.after
        return await serve_sse(call.doors.streams, request, call.caller, after, request.query.getall("stream", None))
    page = await call.exchange.events(call.caller, call.after, call.limit(200))
    streams, epoch = call.exchange.streams_of(call.caller), page.position.epoch
    told = ",".join(wire.event_json(e, epoch) for e in page.events if not wire.seen_twice(e, streams))
    more = "true" if page.more else "false"
    text = f'{{"events":[{told}],"position":{wire.encode(str(page.position))},"more":{more}}}'
    return web.Response(text=text, content_type="application/json", headers=SAFE)


async def export(call: Call) -> Reply:
    """The log as lines of JSON, from a position on: with all of it a backup, with what came since, one of that much.
    An operator gets the own workspace's, an admin all."""
    lines = call.exchange.history.export(call.after)
    first = await anext(lines)
    response = web.StreamResponse(headers={**SAFE, "Content-Type": "application/x-ndjson; charset=utf-8"})
    await response.prepare(call.request)
    await response.write(first.encode() + b"\n")
    mine = f'"stream":"{call.caller.workspace}/'
    async for line in lines:
        if call.caller.role is Role.ADMIN or mine in line.partition('"kind":')[0]:
            async with asyncio.timeout(BODY_TIME):
                await response.write(line.encode() + b"\n")
    return response


async def read_info(call: Call) -> Reply:
    """Where the hub is, and how far it has come."""
    position = call.exchange.log.position
    return {**call.doors.info(), "epoch": position.epoch, "seq": position.seq, "version": __version__}


async def healthz(call: Call) -> Reply:
    """Whether the hub takes messages."""
    return {"ok": True, "read_only": call.exchange.log.read_only}


async def openapi_document(call: Call) -> Reply:
    """This document."""
    return openapi()


async def asyncapi_document(call: Call) -> Reply:
    """The frames of the WebSocket."""
    return wire.asyncapi()


PAGING = {"after": "Go on from this position (EPOCH:SEQ).", "limit": "At most so many, up to 1000."}
BEFORE = {"before": "Only what is before this seq."}

ROUTES: tuple[Route, ...] = (
    Route("POST", "/messages", SPEAKERS, send_message, wire.ReceiptAnswer, wire.SendBody, status=201, checked=False),
    Route(
        "GET", "/messages", EVERYBODY, read_messages, wire.MessagesAnswer,
        query={
            "channel": "Of this channel.", "with": "Between the caller and this member.",
            "thread": "Of this conversation.", **PAGING, **BEFORE,
            "since": "Not older than this time.", "until": "Older than this time.",
        },
    ),
    Route("GET", "/messages/{id}", EVERYBODY, read_message, wire.MessageReceiptAnswer),
    Route("PATCH", "/messages/{id}", SPEAKERS, edit_message, wire.MessageAnswer, wire.EditBody),
    Route("DELETE", "/messages/{id}", SPEAKERS, delete_message),
    Route("POST", "/messages/{id}/reactions", SPEAKERS, react, wire.MessageAnswer, wire.ReactionBody),
    Route("POST", "/messages/{id}/decline", SPEAKERS, decline, None, wire.DeclineBody),
    Route("POST", "/messages/{id}/cancel", SPEAKERS, cancel),
    Route("POST", "/prompts", OPERATORS, send_prompt, wire.ReceiptAnswer, wire.SendBody, status=201, checked=False),
    Route(
        "POST", "/asks", SPEAKERS, ask, wire.AskAnswer, wire.AskBody, {"wait": "Seconds; left out: to its end."},
        checked=False,
    ),
    Route("GET", "/asks/{id}", EVERYBODY, read_ask, wire.AskAnswer, query={"wait": "Seconds to wait for its end."}),
    Route("POST", "/discussions", SPEAKERS, discuss, None, wire.DiscussBody, status=201),
    Route(
        "GET", "/inbox/{name}", EVERYBODY, read_inbox, wire.MessagesAnswer,
        query={
            "after": "Only what is after this seq.", "limit": PAGING["limit"],
            "newest": "1: the last ones.", "waiting": "1: only what waits.",
        },
    ),
    Route("POST", "/inbox/take", SPEAKERS, take_inbox, wire.MessagesAnswer, wire.TakeBody),
    Route(
        "GET", "/search", EVERYBODY, search, wire.MessagesAnswer,
        query={"q": "The words.", "channel": "Of this channel.", **BEFORE, "limit": PAGING["limit"]},
    ),
    Route("GET", "/channels", EVERYBODY, read_channels),
    Route("PUT", "/channels/{channel}/members/{who}", SPEAKERS, join, None, wire.MembershipBody),
    Route("DELETE", "/channels/{channel}/members/{who}", SPEAKERS, leave),
    Route("GET", "/members", EVERYBODY, read_members),
    Route("GET", "/members/{name}", EVERYBODY, read_member),
    Route("DELETE", "/members/{name}", SPEAKERS, remove_member),
    Route("PUT", "/status", SPEAKERS, set_status, None, wire.OpenBody),
    Route("PUT", "/resources", SPEAKERS, set_resources, None, wire.OpenBody),
    Route(
        "GET", "/threads", EVERYBODY, read_threads,
        query={"state": "active, paused, terminated or revived.", **BEFORE, "limit": PAGING["limit"]},
    ),
    Route(
        "GET", "/threads/{id}", EVERYBODY, read_thread,
        query={"after": "Only what is after this seq.", "limit": PAGING["limit"]},
    ),
    Route("POST", "/threads/{id}/{verb}", OPERATORS, thread_act, None, wire.ReasonBody),
    Route("POST", "/files", SPEAKERS, put_file, wire.FileAnswer, wire.FileBody, status=201, checked=False),
    Route(
        "GET", "/files/{sha256}", EVERYBODY, get_file,
        query={"name": "What it is called.", "type": "Its media type."},
    ),
    Route("GET", "/workspaces", EVERYBODY, read_workspaces),
    Route("POST", "/workspaces", ADMINS, create_workspace, None, wire.WorkspaceBody, status=201),
    Route("DELETE", "/workspaces/{name}", ADMINS, delete_workspace),
    Route("GET", "/workspaces/{name}/invites", OPERATORS, read_invites),
    Route("POST", "/workspaces/{name}/invites", OPERATORS, create_invite, None, wire.InviteBody, status=201),
    Route("GET", "/invites", OPERATORS, read_all_invites),
    Route("POST", "/invites", OPERATORS, create_own_invite, None, wire.InviteBody, status=201),
    Route("DELETE", "/invites/{id}", OPERATORS, delete_invite),
    Route("POST", "/invites/redeem", NOBODY_ASKED, redeem_invite, wire.TokenAnswer, wire.RedeemBody, status=201),
    Route("GET", "/tokens", OPERATORS, read_tokens, query={"workspace": "Of this one; an admin's right."}),
    Route("POST", "/tokens", OPERATORS, create_token, wire.TokenAnswer, wire.TokenBody, status=201),
    Route("DELETE", "/tokens/{id}", OPERATORS, revoke_token),
    Route("GET", "/audit", OBSERVERS, read_audit, wire.EventsAnswer, query=PAGING),
    Route(
        "GET", "/events", EVERYBODY, read_events, wire.EventsAnswer,
        query={**PAGING, "stream": "For SSE: only this stream; may be given several times."},
    ),
    Route("GET", "/export", OPERATORS, export, query={"after": PAGING["after"]}),
    Route("GET", "/info", EVERYBODY, read_info, wire.InfoAnswer),
)  # fmt: skip
"""Below `/api/v1`."""

PLAIN_ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", NOBODY_ASKED, healthz),
    Route("GET", "/openapi.json", NOBODY_ASKED, openapi_document),
    Route("GET", "/asyncapi.json", NOBODY_ASKED, asyncapi_document),
)
"""Beside it."""


# -- the door itself -----------------------------------------------------------------------------------------------


def make_app(doors: Doors) -> web.Application:
    """The hub's application: the routes and the WebSocket."""
    app = web.Application(middlewares=[_at_the_door(doors)], client_max_size=wire.FRAME)
    for prefix, routes in ((API, ROUTES), ("", PLAIN_ROUTES)):
        for route in routes:
            app.router.add_route(route.method, prefix + route.path, functools.partial(_answer, doors, route))
    app.router.add_get(f"{API}/ws", functools.partial(_websocket, doors))
    return app


async def _answer(doors: Doors, route: Route, request: web.Request) -> web.StreamResponse:
    """One request along its route."""
    caller = NOBODY
    if route.who:
        caller = authenticated(doors.exchange, request)
        if caller.role not in route.who:
            raise Fault(Code.NOT_ALLOWED, f"A token of role {caller.role} may not {route.method} {route.path}.")
        if request.query_string:
            wire.check_query(request.query, route.query)
    reply = await route.act(Call(doors, request, caller, await _body(route, request)))
    if isinstance(reply, web.StreamResponse):
        return reply
    status, value = reply if isinstance(reply, tuple) else (route.status, reply)
    return as_json(value, status)


async def _websocket(doors: Doors, request: web.Request) -> web.StreamResponse:
    """The WebSocket, from the handshake on. Who brings no token with it brings one with the first frame."""
    caller = authenticated(doors.exchange, request) if "Authorization" in request.headers else None
    return serve_websocket(doors.streams, request, caller)


NOBODY = Caller("", Role.VIEWER, "")
"""Who calls where nobody is asked."""


def authenticated(exchange: Exchange, request: web.Request) -> Caller:
    """Whose token the request bears. Raise `Fault` (401)."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    caller = exchange.tokens.check(token.strip()) if kind.lower() == "bearer" else None
    if caller is None:
        raise Fault("unauthorized", "No token, or one that is not valid (any more). Authorization: Bearer TOKEN")
    return caller


# -- bodies --------------------------------------------------------------------------------------------------------


async def _body(route: Route, request: web.Request) -> dict[str, Any]:
    """The JSON object that the route takes, checked."""
    if route.body is None or route.body is wire.FileBody:
        return {}
    raw = await read_body(request, wire.FRAME)
    if not raw:
        value: Any = {}
    elif request.content_type != "application/json":
        raise Fault("unsupported_media_type", "The body is application/json, and says so in Content-Type.")
    else:
        value = wire.read_json(raw)
    if not isinstance(value, dict):
        raise Fault(Code.WRONG_TYPE, "The body is a JSON object.")
    if route.checked:
        wire.check(route.body, value)
    return value


def as_error(fault: Fault) -> web.Response:
    """An answer that says no."""
    headers: dict[str, str] = {}
    if fault.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if fault.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(fault.retry_after)))
    ref = fault.facts.pop("ref", None)
    return as_json({"error": fault.to_json(ref)}, fault.status, headers)


# -- what comes before any route -----------------------------------------------------------------------------------

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _at_the_door(doors: Doors) -> Middleware:
    """Before any route: whether the request may be for us at all; and after it, one form for everything that is
    wrong."""

    @web.middleware
    async def at_the_door(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.monotonic()
        if request.transport is not None:
            doors.seen(request.transport)
        try:
            origin = _admit(doors, request)
            if request.method == "OPTIONS" and origin:
                response: web.StreamResponse = web.Response(status=204)
            else:
                response = await handler(request)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except web.RequestPayloadError:
            origin, response = None, as_error(Fault("bad_request", "The body ended before its end, or in disorder."))
        except web.HTTPException as error:
            origin, response = None, as_error(_of_aiohttp(error, request))
        except Exception as error:  # noqa: BLE001  whatever it is, it is answered in the one form
            origin, response = None, as_error(as_fault(error))
        if origin and not response.prepared:
            response.headers.update(_cross_origin(origin))
        if doors.log_access:
            took = time.monotonic() - began
            access.info("%s %s %d %.1f ms", request.method, request.rel_url.raw_path, response.status, 1000 * took)
        return response

    return at_the_door


def _admit(doors: Doors, request: web.Request) -> str | None:
    """The page's origin that may read the answer, where there is one. Raise `Fault` for what is not for us."""
    over_tcp = request.transport is None or isinstance(request.transport.get_extra_info("peername"), tuple)
    if over_tcp and host_name(request.headers.get("Host", "")) not in doors.names:
        raise Fault(
            "bad_host", "The hub does not go by that name.",
            hint="Use its address, or list the name in the setting `hub_names`.",
        )  # fmt: skip
    if "token" in request.query or "access_token" in request.query:
        raise Fault("token_in_url", "A token never stands in a URL, where it is logged. Authorization: Bearer TOKEN")
    origin = request.headers.get("Origin")
    if origin is None or origin == f"http://{request.headers.get('Host')}":
        return None
    if origin not in doors.origins:
        raise Fault(
            "bad_origin", "Pages from elsewhere may not use the hub.",
            hint="List the page's origin in the setting `hub_origins`.",
        )  # fmt: skip
    return origin


def host_name(host: str) -> str:
    """A `Host` without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def _cross_origin(origin: str) -> Mapping[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
        "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }


def _of_aiohttp(error: web.HTTPException, request: web.Request) -> Fault:
    path = request.rel_url.raw_path[:200]
    match error.status:
        case 404:
            return Fault("not_found", f"There is nothing at {path}.")
        case 405:
            return Fault("method_not_allowed", f"{path} has no {request.method[:20]}.")
        case 413:
            return Fault(Code.TOO_LARGE, f"A body is at most {wire.FRAME} bytes.", limit=wire.FRAME)
        case _:
            return Fault("bad_request", f"That cannot be read: {error.reason}.")


# -- the documents -------------------------------------------------------------------------------------------------


@functools.cache
def openapi() -> dict[str, Any]:
    """OpenAPI 3.1, drawn from the routes."""
    paths: dict[str, dict[str, Any]] = {}
    models: list[type[wire.Model]] = [wire.ErrorAnswer]
    for prefix, routes in ((API, ROUTES), ("", PLAIN_ROUTES)):
        for route in routes:
            models += [model for model in (route.body, route.answer) if model is not None]
            paths.setdefault(prefix + route.path, {})[route.method.lower()] = _described(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fleet hub",
            "version": str(wire.VERSION),
            "description": "Agents that talk, and people and programs who watch and speak. Events as they happen, and "
            f"many messages at once, go over the WebSocket at {API}/ws (asyncapi.json).",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": wire.schemas(models),
        },
    }


def _described(route: Route) -> dict[str, Any]:
    about = " ".join((route.act.__doc__ or "").split())
    names = [part.strip("{}") for part in route.path.split("/") if part.startswith("{")]
    told: dict[str, Any] = {"operationId": route.operation, "summary": about.partition(". ")[0].rstrip("."),
                            "description": about}  # fmt: skip
    told["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ] + [
        {"name": name, "in": "query", "required": False, "description": words, "schema": {"type": "string"}}
        for name, words in route.query.items()
    ]
    if route.body is not None:
        content: dict[str, Any] = {"application/json": {"schema": _reference(route.body)}}
        if route.body is wire.FileBody:
            content["multipart/form-data"] = {
                "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
            }
        told["requestBody"] = {"content": content}
    answer = {"application/json": {"schema": _reference(route.answer) if route.answer else {"type": "object"}}}
    told["responses"] = {
        str(route.status): {"description": "Done.", "content": answer},
        "default": {
            "description": "Refused, with the reason.",
            "content": {"application/json": {"schema": _reference(wire.ErrorAnswer)}},
        },
    }
    told["security"] = [{"token": []}] if route.who else []
    if route.who:
        told["x-roles"] = [role.value for role in Role if role in route.who]
    return told


def _reference(model: type[wire.Model]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
