"""The REST paths of scitex-orochi 0.5.1's dashboard port, with fleet's rules: every one of them needs a token.

A workspace's id is its name. Secrets are shown once, when they are made, and to whoever made them. What fleet has not
(push, Gitea) is answered with an error that says so. An error is `{"error": words, "code": …}`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from fleet import __version__
from fleet.errors import FleetError
from fleet.hub import orochi_frames as frames
from fleet.hub import wire
from fleet.hub.app import NOBODY, host_name
from fleet.hub.auth import Caller
from fleet.hub.blobs import served
from fleet.hub.bodies import as_json, read_body, send_file, uploaded
from fleet.hub.exchange import Card, Exchange, Speaker
from fleet.hub.mailbox import HUB
from fleet.hub.message import CHANNEL, NAME, Attachment, Code
from fleet.hub.stream import as_fault
from fleet.hub.wire import Fault

Json = dict[str, Any]

RECENT = 500
"""Messages in one answer over all channels."""

ROLES: Mapping[str, str] = {"member": "agent", "agent": "agent", "admin": "operator", "operator": "operator",
                            "observer": "viewer", "viewer": "viewer"}  # fmt: skip
"""Orochi's roles, and what they are here."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Call:
    """One request, from somebody who has a token."""

    def __init__(self, exchange: Exchange, caller: Caller, request: web.Request) -> None:
        self.exchange, self.caller, self.request = exchange, caller, request

    def part(self, name: str) -> str:
        """Of the path."""
        return self.request.match_info[name]

    def asked(self, name: str) -> str | None:
        """Of the query."""
        return self.request.query.get(name)

    async def body(self, most: int = wire.FRAME) -> Json:
        """The JSON object that came. A page can send no JSON without being asked for its origin first."""
        if self.request.content_type != "application/json":
            raise Fault("unsupported_media_type", "The body is application/json, and says so in Content-Type.")
        value = wire.read_json(await read_body(self.request, most))
        if not isinstance(value, dict):
            raise Fault(Code.WRONG_TYPE, "The body is a JSON object.")
        return value

    def operator(self) -> None:
        """Raise `Fault` for everybody else."""
        if not self.caller.operator:
            raise Fault(Code.NOT_ALLOWED, f"A token of role {self.caller.role} may not do that.")

    def speaker(self) -> None:
        if not self.caller.speaks:
            raise Fault(Code.NOT_ALLOWED, f"A token of role {self.caller.role} may only read.")


Answer = web.StreamResponse | tuple[int, Any] | list[Any] | Json
Act = Callable[[Call], Awaitable[Answer]]


# -- who is there --------------------------------------------------------------------------------------------------


async def agents(call: Call) -> Answer:
    """Who is connected."""
    return [frames.agent(m, call.caller.workspace) for m in call.exchange.members(call.caller) if frames.is_online(m)]


async def registry(call: Call) -> Answer:
    """Everybody, connected or not."""
    return [
        frames.agent(member, call.caller.workspace) | {"status": "online" if frames.is_online(member) else "offline"}
        for member in call.exchange.members(call.caller)
    ]


async def resources(call: Call) -> Answer:
    """The newest figures of each machine."""
    told = [frames.agent(member, call.caller.workspace) for member in call.exchange.members(call.caller)]
    return {one["name"]: {k: one[k] for k in ("resources", "last_heartbeat", "machine", "status")} for one in told}


async def channels(call: Call) -> Answer:
    """Each channel, and who is in it."""
    return {channel["name"]: sorted(channel["members"]) for channel in call.exchange.channels(call.caller)}


async def stats(call: Call, observers: Callable[[], int]) -> Answer:
    """How many of what."""
    online = [member["name"] for member in call.exchange.members(call.caller) if frames.is_online(member)]
    named = [channel["name"] for channel in call.exchange.channels(call.caller)]
    return {
        "agents_online": len(online),
        "channels_active": len(named),
        "observers_connected": observers(),
        "agents": online,
        "channels": named,
        "telegram_bridge": {"enabled": False, "running": False},
        "push_subscriptions": 0,
    }


async def config(call: Call) -> Answer:
    """What a dashboard asks first."""
    return {"version": __version__, "ws_upstream": ""}


# -- messages ------------------------------------------------------------------------------------------------------


async def history(exchange: Exchange, caller: Caller, asked: str, since: object, limit: object) -> list[Json]:
    """The newest messages of a channel, or between the caller and somebody (`@name`), the newest first."""
    direct = asked.startswith("@")
    page = await exchange.read(
        caller, channel=None if direct else asked, with_=asked[1:] if direct else None, limit=frames.number(limit, 50)
    )  # fmt: skip
    oldest = (frames.since(since) or 0.0) - frames.TICK
    return [frames.row(message) for message in reversed(page["messages"]) if message["at"] >= oldest]


async def read_history(call: Call) -> Answer:
    """A channel's newest messages, the newest first."""
    return await history(
        call.exchange, call.caller, frames.channel(call.part("channel")), call.asked("since"), call.asked("limit")
    )


async def read_messages(call: Call) -> Answer:
    """The newest messages of all channels that the token sees, or of one, the oldest first."""
    limit = frames.number(call.asked("limit"), 100, RECENT)
    if (asked := call.asked("channel")) is not None:
        found = await history(call.exchange, call.caller, frames.channel(asked), call.asked("since"), limit)
        return found[::-1]
    page = await call.exchange.read(call.caller, limit=limit)
    return [frames.row(message) for message in page["messages"]]


async def post_message(call: Call) -> Answer:
    """Send a message, as whom the token says. 201 once it is stored."""
    call.speaker()
    body = await call.body()
    payload = body.get("payload", body)
    if not isinstance(payload, dict):
        raise Fault(Code.WRONG_TYPE, "`payload` is an object.")
    key = body.get("id") if isinstance(body.get("id"), str) else None
    receipt = await call.exchange.send(call.caller, frames.submission(payload, key))
    return 201, {"status": "ok", "id": receipt.id, "seq": receipt.position.seq, "sender": call.caller.name}


# -- files ---------------------------------------------------------------------------------------------------------


async def upload(call: Call) -> Answer:
    """Keep a file that comes as multipart/form-data."""
    call.speaker()
    return _kept(await uploaded(call.exchange, call.caller, call.request))


async def upload_base64(call: Call) -> Answer:
    """Keep a file that comes within JSON."""
    call.speaker()
    body = await call.body(call.exchange.limits.attachment * 4 // 3 + 64 * 1024)
    kind = body.get("mime_type") or None
    if kind is not None and not isinstance(kind, str):
        raise Fault(Code.WRONG_TYPE, "`mime_type` is a string.", field="mime_type")
    name, content = body.get("filename", "upload"), body.get("data")
    return _kept(await call.exchange.upload_base64(call.caller, name, kind, content))


def _kept(file: Attachment) -> Answer:
    told = {"sha256": file.sha256, "name": file.name, "size": file.size, "type": file.type}
    return 201, frames.attachment(told)


async def media(call: Call) -> Answer:
    """A file's bytes, so that a page runs none of them."""
    kept = await call.exchange.attachment(call.caller, call.part("file"))
    try:
        file = await asyncio.to_thread(call.exchange.blobs.open, kept.sha256)
    except OSError:
        raise Fault("unknown_file", "There is no such file.") from None
    with file:
        return await send_file(call.request, {**served(kept), "Content-Length": str(kept.size)}, file)


# -- workspaces ----------------------------------------------------------------------------------------------------


async def workspaces(call: Call) -> Answer:
    """Those that the token may see."""
    return [_workspace(call, space) for space in await call.exchange.workspaces(call.caller)]


async def workspace(call: Call) -> Answer:
    """One of them."""
    return _workspace(call, await _space(call))


async def _space(call: Call) -> Mapping[str, Any]:
    for space in await call.exchange.workspaces(call.caller):
        if space["name"] == call.part("id"):
            return space
    raise Fault("unknown_workspace", "Not found")


def _workspace(call: Call, space: Mapping[str, Any]) -> Json:
    mine = space["name"] == call.caller.workspace
    members = call.exchange.members(call.caller) if mine else []
    return {
        "id": space["name"],
        "name": space["name"],
        "description": space.get("description", ""),
        "channels": list(space.get("channels", ())),
        "members": {member["name"]: member.get("role") or "member" for member in members},
        "settings": {},
        "created_at": frames.iso(space["created_at"]) if space.get("created_at") else "",
    }


async def create_workspace(call: Call) -> Answer:
    """A new one, with the token of a first agent in it."""
    call.operator()
    body = await call.body()
    name = _name(body.get("name"), "name")
    asked = _channels(body.get("channels"))
    made = await call.exchange.create_workspace(call.caller, name, str(body.get("description") or ""))
    token = await call.exchange.create_token(call.caller, {"role": "agent", "name": "default", "workspace": name})
    return 201, _workspace(call, made) | {"token": token["token"], "channels": asked or list(made.get("channels", ()))}


def _channels(value: object) -> list[str]:
    """Names of channels, checked before anything is made of them."""
    if value is not None and not isinstance(value, list):
        raise Fault(Code.WRONG_TYPE, "`channels` is a list of names.", field="channels")
    named = [frames.channel(item) for item in value or ()]
    for name in named:
        _check_channel(name)
    return named


def _check_channel(name: str) -> None:
    if not CHANNEL.fullmatch(name):
        raise Fault("bad_channel", f"{ascii(name)[:60]} is no channel.")


async def delete_workspace(call: Call) -> Answer:
    """It is gone, and its tokens with it."""
    call.operator()
    await call.exchange.delete_workspace(call.caller, call.part("id"))
    return {"ok": True}


async def add_channel(call: Call) -> Answer:
    """A channel is there as soon as somebody is in it: that its name can be one is all there is to say."""
    call.operator()
    await _space(call)
    name = frames.channel((await call.body()).get("channel"))
    _check_channel(name)
    return {"ok": True, "channel": name}


async def add_member(call: Call) -> Answer:
    """Somebody who can be spoken to from now on; to speak takes a token."""
    call.operator()
    space = await _space(call)
    body = await call.body()
    name = _name(body.get("agent_name"), "agent_name")
    if name == HUB:
        raise Fault(Code.NAME_TAKEN, f"{HUB} is the hub's own name.")
    if call.exchange.registry.present(space["name"], name) is not None:
        return {"ok": True}  # it stays as it is
    await call.exchange.enroll(Card(name=name), Speaker(name=name), [frames.GENERAL], space["name"])
    return {"ok": True}


def _name(value: object, field: str) -> str:
    name = value.strip().lower() if isinstance(value, str) else ""
    if not NAME.fullmatch(name):
        raise Fault(Code.BAD_NAME, f"`{field}` is a name: lower case, digits, hyphens.", field=field)
    return name


# -- tokens and invites --------------------------------------------------------------------------------------------


async def tokens(call: Call) -> Answer:
    """The tokens of a workspace, without what opens the door."""
    call.operator()
    found = await call.exchange.list_tokens(call.caller, call.part("id"))
    return [
        {"id": one["id"], "label": one["name"], "role": one["role"], "created_at": frames.iso(one["created_at"])}
        for one in found
        if one.get("revoked_at") is None
    ]


async def create_token(call: Call) -> Answer:
    """A token for the agent that its label names, shown this once."""
    call.operator()
    body = await call.body()
    name = _name(body.get("label") or "default", "label")
    made = await call.exchange.create_token(
        call.caller, {"role": "agent", "name": name, "workspace": call.part("id")}
    )  # fmt: skip
    return 201, {"token": made["token"], "id": made["id"], "workspace_id": call.part("id"), "label": name}


async def revoke_token(call: Call) -> Answer:
    """By its id, or by the token itself."""
    call.operator()
    given = call.part("token")
    owner = call.exchange.tokens.check(given)
    await call.exchange.revoke_token(call.caller, owner.token if owner else given)
    return {"ok": True}


async def invites(call: Call) -> Answer:
    """Those that can still be redeemed, without what redeems them."""
    call.operator()
    return [
        {"id": one["id"], "role": one["role"], "max_uses": one.get("uses", 0), "use_count": one.get("used", 0),
         "created_by": one.get("created_by", ""), "expires_at": _when(one.get("expires_at"))}
        for one in await call.exchange.invites(call.caller, call.part("id"))
    ]  # fmt: skip


def _when(at: object) -> str | None:
    return frames.iso(at) if isinstance(at, int | float) else None


async def create_invite(call: Call) -> Answer:
    """An invite, shown this once. 0 uses are as many as there may be, 0 hours as long as it may be."""
    call.operator()
    body = await call.body()
    role = ROLES.get(str(body.get("role") or "member"))
    if role is None:
        raise Fault(Code.BAD_VALUE, f"`role` is one of {', '.join(ROLES)}.", field="role")
    asked: Json = {"workspace": call.part("id"), "role": role}
    asked["uses"] = frames.number(body.get("max_uses") or None, 1000)
    if hours := frames.number(body.get("expires_hours") or None, 0, 24 * 3650) if body.get("expires_hours") else 0:
        asked["expires_in"] = hours * 3600.0
    made = await call.exchange.invite(call.caller, asked)
    return 201, {
        "token": made["invite"], "code": made["invite"], "id": made["id"], "workspace_id": call.part("id"),
        "role": body.get("role") or "member", "max_uses": body.get("max_uses") or 0,
        "expires_at": _when(made.get("expires_at")),
    }  # fmt: skip


async def revoke_invite(call: Call) -> Answer:
    """Nobody can redeem it any more."""
    call.operator()
    await call.exchange.delete_invite(call.caller, call.part("invite"))
    return {"ok": True}


async def redeem(exchange: Exchange, request: web.Request) -> Answer:
    """A token for who has an invite and none yet."""
    call = Call(exchange, NOBODY, request)
    body = await call.body()
    if not isinstance(body.get("token"), str):
        raise Fault(Code.MISSING, "token and agent_name required", field="token")
    made = await exchange.redeem(body["token"], _name(body.get("agent_name"), "agent_name"))
    return {"id": made["workspace"], "name": made["workspace"], **made}


# -- what is not here ----------------------------------------------------------------------------------------------


async def no_push(call: Call) -> Answer:
    """The phone is told in another way."""
    return 503, {"error": "Push notifications not configured", "code": "cannot_yet"}


async def no_gitea(call: Call) -> Answer:
    """Tasks come with a later version."""
    return 501, {"error": "This hub has no Gitea behind it yet.", "code": "GITEA_API_ERROR"}


ROUTES: tuple[tuple[str, str, Act], ...] = (
    ("GET", "/api/agents", agents),
    ("GET", "/api/agents/registry", registry),
    ("GET", "/api/resources", resources),
    ("GET", "/api/channels", channels),
    ("GET", "/api/messages", read_messages),
    ("POST", "/api/messages", post_message),
    ("GET", "/api/history/{channel}", read_history),
    ("GET", "/api/config", config),
    ("POST", "/api/upload", upload),
    ("POST", "/api/upload-base64", upload_base64),
    ("GET", "/media/{file}", media),
    ("GET", "/api/workspaces", workspaces),
    ("POST", "/api/workspaces", create_workspace),
    ("GET", "/api/workspaces/{id}", workspace),
    ("DELETE", "/api/workspaces/{id}", delete_workspace),
    ("POST", "/api/workspaces/{id}/channels", add_channel),
    ("POST", "/api/workspaces/{id}/members", add_member),
    ("GET", "/api/workspaces/{id}/invites", invites),
    ("POST", "/api/workspaces/{id}/invites", create_invite),
    ("DELETE", "/api/workspaces/{id}/invites/{invite}", revoke_invite),
    ("GET", "/api/workspaces/{id}/tokens", tokens),
    ("POST", "/api/workspaces/{id}/tokens", create_token),
    ("DELETE", "/api/workspaces/{id}/tokens/{token}", revoke_token),
    ("GET", "/api/push/vapid-key", no_push),
    ("POST", "/api/push/subscribe", no_push),
    ("POST", "/api/push/unsubscribe", no_push),
    ("GET", "/api/gitea/repos", no_gitea),
    ("GET", "/api/gitea/issues/{owner}/{repo}", no_gitea),
    ("POST", "/api/gitea/issues/{owner}/{repo}", no_gitea),
    ("GET", "/api/github/issues", no_gitea),
)


def mount(
    app: web.Application,
    exchange: Exchange,
    caller_of: Callable[[web.Request], Caller | None],
    observers: Callable[[], int],
) -> None:
    """Put all of them into an application."""
    counted: Act = functools.partial(stats, observers=observers)
    table = (*ROUTES, ("GET", "/api/stats", counted))
    for method, path, act in table:
        app.router.add_route(method, path, functools.partial(_answer, exchange, caller_of, act))
        if method == "GET" and "{" not in path:
            app.router.add_route(method, f"{path}/", functools.partial(_answer, exchange, caller_of, act))
    app.router.add_post("/api/invites/redeem", functools.partial(_redeem, exchange))


async def _answer(
    exchange: Exchange, caller_of: Callable[[web.Request], Caller | None], act: Act, request: web.Request
) -> web.StreamResponse:
    caller = caller_of(request)
    if caller is None:
        raise Fault("unauthorized", "Unauthorized")
    return _reply(await act(Call(exchange, caller, request)))


async def _redeem(exchange: Exchange, request: web.Request) -> web.StreamResponse:
    return _reply(await redeem(exchange, request))


def _reply(answer: Answer) -> web.StreamResponse:
    if isinstance(answer, web.StreamResponse):
        return answer
    status, value = answer if isinstance(answer, tuple) else (200, answer)
    return as_json(value, status)


def at_the_door(names: frozenset[str], origins: frozenset[str]) -> Any:
    """Before any route: is the request for us, and from a page that may; after it, one form for what is wrong."""

    @web.middleware
    async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _admit(request, names, origins)
            return await handler(request)
        except web.HTTPException as error:
            return as_json({"error": error.reason, "code": f"http_{error.status}"}, error.status)
        except (Fault, FleetError) as error:
            fault = as_fault(error)
            return as_json({"error": str(fault), "code": fault.code}, fault.status)

    return door


def _admit(request: web.Request, names: frozenset[str], origins: frozenset[str]) -> None:
    host = request.headers.get("Host", "")
    if names and host_name(host) not in names:
        raise Fault("bad_host", "The hub does not go by that name.")
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{host}" and origin not in origins:
        raise Fault("bad_origin", "Pages from elsewhere may not use the hub.")
