"""What scitex-orochi 0.5.1 says on its wire, and what that is here. Pure.

A frame has five keys: type, sender, payload, id, ts. All but the type may be missing in what comes. Times are ISO
8601. Here they are what the hub says: nobody's clock but its own orders anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from fleet.hub.message import ID, KEY, Code
from fleet.hub.wire import Fault

Json = dict[str, Any]

SERVER = "orochi-server"
GENERAL = "#general"
MOST = 1000
"""Messages in one answer."""

OWN_CLIENT = frozenset({"channels", "machine", "role", "agent_id", "project"})
"""What the package's own Python client registers with, and nothing else. It reads one frame after each of its questions
and never an ack: it is sent none but the first, or it would take that for the next answer."""

CODES: Mapping[str, str] = {
    "unauthorized": "AUTH_FAILED",
    "bad_json": "PARSE_ERROR",
    "too_deep": "PARSE_ERROR",
    "invalid_unicode": "PARSE_ERROR",
    "wrong_type": "PARSE_ERROR",
    "not_stored": "NOT_STORED",
    "not_allowed": "FORBIDDEN",
    "bad_name": "BAD_NAME",
    "unknown_channel": "BAD_CHANNEL",
    "too_large": "TOO_LARGE",
    "rate_limited": "RATE_LIMITED",
    "pair_limited": "RATE_LIMITED",
    "hop_limit": "HOP_LIMIT",
    "conversation_limited": "CONVERSATION_BUDGET",
    "conversation_exhausted": "CONVERSATION_BUDGET",
    "thread_terminated": "CONVERSATION_TERMINATED",
}
"""The hub's codes under orochi's names, or such as it would have; the others are in upper case as they are."""

GITEA: Mapping[str, tuple[str, ...]] = {
    "create_issue": ("owner", "repo", "title"),
    "list_issues": ("owner", "repo"),
    "close_issue": ("owner", "repo", "issue_number"),
    "add_comment": ("owner", "repo", "issue_number", "body"),
    "create_repo": ("name",),
    "create_org": ("name",),
    "list_repos": (),
    "get_version": (),
}
"""Its actions, and what each of them must be given."""

RESOURCES = (
    "cpu_count", "cpu_model", "load_avg_1m", "load_avg_5m", "load_avg_15m", "mem_free_mb", "mem_total_mb",
    "mem_used_percent", "disk_used_percent",
)  # fmt: skip
"""The figures of a heartbeat."""


TICK = 1e-6
"""Seconds: what a time loses when it is written."""


class Frame(NamedTuple):
    """A frame of a client's."""

    type: str
    sender: str | None
    payload: Json
    id: str | None


# -- what comes ------------------------------------------------------------------------------------------------


def read(value: object) -> Frame:
    """Raise `Fault` (PARSE_ERROR) for what is no frame; an id that can be told is in its facts as `ref`."""
    if not isinstance(value, dict):
        raise Fault(Code.WRONG_TYPE, "A frame is a JSON object.")
    id = value.get("id")
    ref: Json = {"ref": id} if isinstance(id, str) and KEY.fullmatch(id) else {}
    kind, payload = value.get("type"), value.get("payload")
    if not isinstance(kind, str):
        raise Fault(Code.WRONG_TYPE, "`type` is missing, or no string.", **ref)
    if payload is None:
        payload = {}
    if not isinstance(payload, dict):
        raise Fault(Code.WRONG_TYPE, "`payload` is an object.", **ref)
    sender = value.get("sender")
    if sender is not None and not isinstance(sender, str):
        raise Fault(Code.WRONG_TYPE, "`sender` is a string.", **ref)
    if id is not None and not ref:
        raise Fault(Code.WRONG_TYPE, "`id` is a string of at most 200 visible characters.")
    return Frame(kind, sender, payload, id)


def channel(value: object) -> str:
    """A channel as it is called here: with its `#`; what begins with `@` is a member."""
    if not isinstance(value, str) or not value.strip():
        raise Fault("BAD_CHANNEL", "`channel` is missing, or no string.")
    name = value.strip().lower()
    return name if name.startswith(("#", "@")) else f"#{name}"


def channels(value: object) -> list[str]:
    """Those that a client registers with."""
    if value is None:
        return [GENERAL]
    if not isinstance(value, list) or len(value) > 100:
        raise Fault(Code.WRONG_TYPE, "`channels` is a list of at most 100 names.")
    return list(dict.fromkeys(channel(item) for item in value))


def submission(payload: Mapping[str, Any], key: str | None) -> Json:
    """A `message` as the hub takes one."""
    body: Json = {"to": _address(payload), "text": _content(payload)}
    metadata = payload.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise Fault(Code.WRONG_TYPE, "`metadata` is an object.")
    metadata = dict(metadata or {})
    replied = metadata.get("reply_to", payload.get("reply_to"))
    if isinstance(replied, str) and ID.fullmatch(replied):
        body["reply_to"] = replied
    files = payload.get("attachments") or metadata.pop("attachments", None)
    if files:
        body["attachments"] = [_attachment(item) for item in _list(files)]
    if metadata:
        body["metadata"] = metadata
    for name in ("intent", "wake", "thread", "max_hops", "expires_in"):
        if payload.get(name) is not None:
            body[name] = payload[name]
    if key is not None:
        body["idempotency_key"] = key
    return body


def _address(payload: Mapping[str, Any]) -> Any:
    if payload.get("channel") is not None:
        return channel(payload["channel"]).removeprefix("@")
    if payload.get("to") is not None:
        return payload["to"]
    raise Fault("BAD_CHANNEL", "`channel` is missing.")


def _content(payload: Mapping[str, Any]) -> Any:
    """The package's client says `content`, its sidecar `text`."""
    return next((payload[name] for name in ("content", "text", "message") if payload.get(name) is not None), "")


def _list(value: object) -> Sequence[Any]:
    if not isinstance(value, list):
        raise Fault(Code.WRONG_TYPE, "`attachments` is a list.")
    return value


def _attachment(value: object) -> Json:
    """What an upload answered. An address elsewhere is no attachment: whoever reads it would open that."""
    sha256 = value.get("file_id", value.get("sha256")) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise Fault(Code.BAD_VALUE, "An attachment is what `upload` answered, with its `file_id`.", field="attachments")
    told = {"sha256": sha256, "name": value.get("filename", value.get("name")), "size": value.get("size")}
    kind = value.get("mime_type", value.get("type"))
    return told if kind is None else {**told, "type": kind}


def number(value: object, default: int, most: int = MOST) -> int:
    """A limit: of a frame, or of a query's text."""
    if value is None:
        return default
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Fault(Code.BAD_VALUE, "`limit` is a whole number.", field="limit")
    return max(1, min(value, most))


def since(value: object) -> float | None:
    """A time in ISO 8601, or in seconds."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11:
            return float(value)
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise Fault(Code.BAD_VALUE, f"`since` is a time in ISO 8601: {error}.", field="since") from None
    raise Fault(Code.BAD_VALUE, "`since` is a time in ISO 8601.", field="since")


def status(payload: Mapping[str, Any]) -> Json:
    """A `status_update` as the hub takes it."""
    told = {name: value for name, value in payload.items() if name not in ("current_task", "channels")}
    if "current_task" in payload:
        told["task"] = payload["current_task"]
    return told


def gitea_problem(payload: Mapping[str, Any]) -> tuple[str, str]:
    """Code and detail: what a `gitea` frame is answered with while the hub has no Gitea."""
    action, params = payload.get("action"), payload.get("params")
    if not isinstance(action, str) or action not in GITEA:
        return "GITEA_UNKNOWN_ACTION", f"Unknown gitea action: {ascii(action)[:60]}"
    missing = [name for name in GITEA[action] if not isinstance(params, dict) or name not in params]
    if missing:
        return "GITEA_MISSING_PARAM", f"Missing required parameter: {missing[0]}"
    return "GITEA_API_ERROR", "This hub has no Gitea behind it yet."


# -- what goes -------------------------------------------------------------------------------------------------


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def frame(kind: str, payload: Json, *, sender: str = SERVER, id: str, at: float, **more: Any) -> str:
    """A frame as text."""
    told = {"type": kind, "sender": sender, "payload": payload, "id": id, "ts": iso(at), **more}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def refusal(fault: Fault) -> Json:
    """The payload of an `error`."""
    code = CODES.get(fault.code, fault.code.upper())
    return {"code": code, "detail": str(fault)} | (
        {} if fault.retry_after is None else {"retry_after": fault.retry_after}
    )


def row(message: Mapping[str, Any]) -> Json:
    """A message as the hub shows it, as a row of history."""
    files = [attachment(file) for file in message.get("attachments") or ()]
    metadata = dict(message.get("metadata") or {})
    if message.get("reply_to"):
        metadata.setdefault("reply_to", message["reply_to"])
    return {
        "msg_id": message["id"],
        "ts": iso(message["at"]),
        "channel": place(message),
        "sender": message["sender"],
        "content": message.get("text") or "",
        "mentions": list(message.get("mentions") or ()),
        "metadata": metadata | ({"attachments": files} if files else {}),
        "attachments": files,
    }


def place(message: Mapping[str, Any], reader: str | None = None) -> str:
    """The channel that it is in; of a direct message, whoever an answer goes to."""
    named = [name for name in message["to"] if name.startswith("#")]
    if named:
        return str(named[0])
    if reader is None or reader != message["sender"]:
        return f"@{message['sender']}"
    return f"@{message['to'][0]}" if message["to"] else ""


def attachment(file: Mapping[str, Any]) -> Json:
    """A file as an upload answers it."""
    return {
        "file_id": file["sha256"],
        "url": f"/media/{file['sha256']}",
        "mime_type": file.get("type", "application/octet-stream"),
        "filename": file["name"],
        "size": file["size"],
    }


def message_frame(message: Mapping[str, Any], reader: str, seq: int) -> str:
    """A message on its way to a subscriber. `text` and what stands beside the payload is for clients that know the
    flat form of its newer server."""
    told = row(message)
    where = place(message, reader)
    payload = {
        "channel": where,
        "content": told["content"],
        "text": told["content"],
        "mentions": told["mentions"],
        "metadata": told["metadata"],
        "attachments": told["attachments"],
        "msg_id": told["msg_id"],
        "thread": message.get("thread"),
    }
    return frame(
        "message", payload, sender=message["sender"], id=message["id"], at=message["at"],
        pos=seq, channel=where, text=told["content"], metadata=told["metadata"],
    )  # fmt: skip


def agent(member: Mapping[str, Any], workspace: str) -> Json:
    """A member as REST lists it."""
    said = member.get("status") or {}
    about = {name: member.get(name) or "" for name in ("machine", "role", "model", "project")}
    return {
        "name": member["name"],
        "channels": sorted(member.get("channels") or {}),
        **about,
        "agent_id": f"{member['name']}@{about['machine']}" if about["machine"] else member["name"],
        "status": said.get("status") or ("online" if is_online(member) else "offline"),
        "current_task": said.get("task", "") or "",
        "resources": resources(member),
        "last_heartbeat": _time(member.get("last_seen")),
        "workspace_id": workspace,
        "registered_at": _time(member.get("since")),
    }


def resources(member: Mapping[str, Any]) -> Json:
    """The newest figures of its machine."""
    return {name: value for name, value in (member.get("resources") or {}).items() if name in RESOURCES}


def _time(at: object) -> str:
    return iso(at) if isinstance(at, int | float) and not isinstance(at, bool) else ""


def is_online(member: Mapping[str, Any]) -> bool:
    """Whether somebody is there to hear."""
    return member.get("presence") not in (None, "", "offline", "unknown")
