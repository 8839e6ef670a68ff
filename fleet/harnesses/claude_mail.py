"""What came to a Claude Code from outside, as its transcript has it: the proof that a message arrived.

A text that is only noted (the program's own queue) dies with the program. In the conversation it stands as a user's
line, as a queued command that went into a running turn, or as what a hook has added to a tool's result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from fleet.harnesses.base import Heard, Said

_KINDS = (b'"type":"user"', b'"queue-operation"', b'"queued_command"', b'"hook_additional_context"')
"""What a line must hold to be worth reading: most of a transcript is answers and tools' output."""


def read_said(tail: bytes) -> Heard:
    """The texts in the end of a transcript, in their order; its first line may be torn, and says nothing then."""
    lines = tail.splitlines()
    said = (said for line in lines if any(kind in line for kind in _KINDS) for said in _said(line))
    return Heard(tuple(said), next((at for line in lines if (at := _written_at(line)) is not None), None))


def _entry(line: bytes) -> tuple[float, Mapping[str, Any]] | None:
    try:
        entry = json.loads(line)
        return datetime.fromisoformat(entry["timestamp"]).timestamp(), entry
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _written_at(line: bytes) -> float | None:
    """When a line was written. What was attached may bear an older time, that of its being noted."""
    found = None if b'"attachment"' in line else _entry(line)
    return found[0] if found else None


def _said(line: bytes) -> Iterator[Said]:
    found = _entry(line)
    if found is None or found[1].get("isSidechain"):
        return
    at, entry = found
    match entry:
        case {"type": "queue-operation", "operation": "enqueue", "content": str(text)}:
            yield Said(at, text, queued=True)
        case {"type": "user", "message": {"content": content}}:
            yield from (Said(at, text) for text in _texts(content))
        case {"type": "attachment", "attachment": {"type": "queued_command", "prompt": content}}:
            yield from (Said(at, text) for text in _texts(content))
        case {"type": "attachment", "attachment": {"type": "hook_additional_context", "content": content}}:
            yield from (Said(at, text) for text in _texts(content))


def _texts(content: object) -> Iterable[str]:
    """Plain text, or blocks of it. A tool's result is no block of text: what an agent has read somewhere is not what
    was said to it."""
    if isinstance(content, str):
        return [content]
    blocks: list[Any] = content if isinstance(content, list) else []
    texts = [block.get("text") if isinstance(block, Mapping) else block for block in blocks]
    return [text for text in texts if isinstance(text, str)]
