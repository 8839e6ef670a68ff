"""The hub's things as its doors show them: plain JSON, the same at every door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.hub.log import Event
from fleet.hub.projection import MESSAGE, Shown, fields

_SHOWN: Mapping[str, Any] = {
    "id": None, "workspace": None, "sender": None, "to": None, "text": None, "at": None, "thread": None,
    "intent": "inform", "nature": "message", "wake": False, "reply_to": None, "cause": None, "hops": 0,
    "max_hops": None, "expires_at": None, "mentions": [], "attachments": [], "metadata": {},
}  # fmt: skip
"""What is shown of a message, and as what where it says nothing of it."""


def message_json(data: Mapping[str, Any], seq: int, epoch: str) -> dict[str, Any]:
    """A message as the doors show it, as it was accepted; one that was deleted since, without what it said."""
    return {
        **{name: data.get(name, unless_said) for name, unless_said in _SHOWN.items()},
        "seq": seq,
        "epoch": epoch,
        "reactions": {},
        "edited_at": None,
        "deleted_at": data.get("deleted_at"),
    }


def shown_json(shown: Shown, epoch: str) -> dict[str, Any]:
    """The same as it stands now."""
    return {
        **message_json(shown.event.data, shown.event.seq, epoch),
        "text": shown.text,
        "reactions": {sign: list(names) for sign, names in shown.reactions.items()},
        "edited_at": shown.edited_at,
        **deleted_json(shown.deleted_at),
    }


def deleted_json(at: float | None) -> dict[str, Any]:
    """What is different about a message that was deleted: nothing that its sender put into it is shown."""
    return {"deleted_at": at} | ({} if at is None else {"text": None, "attachments": [], "metadata": {}})


def event_json(event: Event, epoch: str) -> dict[str, Any]:
    """An event as the doors show it. What a token is known by stays here."""
    data = {key: value for key, value in fields(event).items() if key != "sha256" or event.kind == MESSAGE}
    return {
        "seq": event.seq,
        "epoch": epoch,
        "at": event.at,
        "stream": event.stream,
        "kind": event.kind,
        "sender": event.sender.rpartition("/")[2],
        "data": data,
    }


def presence_of(facts: Mapping[str, Any] | None) -> str:
    """The supervisor's word on an agent in one word. Busy is never offline, and not seeing it is not seeing it gone."""
    phase = str((facts or {}).get("phase", "stopped"))
    if phase == "running":
        activity = str((facts or {}).get("activity", ""))
        return {"working": "busy", "needs_input": "waiting", "limited": "limited"}.get(activity, "online")
    return {"starting": "starting", "unverifiable": "unknown"}.get(phase, "offline")
