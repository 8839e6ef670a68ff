"""JSON text that belongs to a person, changed only where something is put in or taken out. Pure: text in, text out.

Everything else keeps its place and its form, to the byte. What is not understood is refused, never rewritten.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from fleet.errors import NotAllowed

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Value:
    """A value's place in the text; with `key_start`, a member's."""

    start: int
    end: int
    key: str | None = None
    key_start: int = -1

    @property
    def whole(self) -> int:
        """Where it begins, its key included."""
        return self.start if self.key is None else self.key_start


def load(text: str) -> dict[str, Any]:
    """What the text says, which must be one object. Raise `NotAllowed` with what is wrong, and where."""
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise NotAllowed("It is nested too deeply to be settings.") from None
    except json.JSONDecodeError as error:
        raise NotAllowed(f"It is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from error
    if not isinstance(value, dict):
        raise NotAllowed("It is not a JSON object.")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise NotAllowed(f"The key {key!r} stands twice in one object: which of them counts?")
    return dict(pairs)


def document(text: str) -> Value:
    """The whole of it."""
    start = _skip(text, 0)
    return Value(start, _end(text, start))


def children(text: str, value: Value) -> list[Value]:
    """The members of an object, or the items of a list, in their order; none of anything else."""
    opening = text[value.start]
    if opening not in "{[":
        return []
    found = []
    at = _skip(text, value.start + 1)
    while text[at] not in "}]":
        key, key_start = None, at
        if opening == "{":
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)  # the colon
        end = _end(text, at)
        found.append(Value(at, end, key, key_start))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def member(text: str, value: Value, key: str) -> Value | None:
    """The member of an object by its key."""
    return next((child for child in children(text, value) if child.key == key), None)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _end(text: str, start: int) -> int:
    return _DECODER.raw_decode(text, start)[1]


def append(text: str, container: Value, key: str | None, value: object) -> str:
    """One more member or item at the end of a container, in the manner of what stands there."""
    there = children(text, container)
    closing = container.end - 1
    unit = _unit(text)
    if there and "\n" not in text[container.start : there[0].whole]:
        return text[: there[-1].end] + ", " + _shown(key, value, None, "") + text[there[-1].end :]
    if there:
        indent = _indent(text, there[-1].whole)
        new = f",{_newline(text)}{indent}" + _shown(key, value, unit, indent, _newline(text))
        return text[: there[-1].end] + new + text[there[-1].end :]
    outer = _indent(text, container.start)
    indent = outer + unit
    new = f"{_newline(text)}{indent}" + _shown(key, value, unit, indent, _newline(text)) + f"{_newline(text)}{outer}"
    return text[: container.start + 1] + new + text[closing:]


def _shown(key: str | None, value: object, unit: str | None, indent: str, newline: str = "\n") -> str:
    shown = json.dumps(value, ensure_ascii=False, indent=unit)
    if unit is not None:
        shown = shown.replace("\n", f"{newline}{indent}")
    return shown if key is None else f"{json.dumps(key, ensure_ascii=False)}: {shown}"


def _unit(text: str) -> str:
    """What one level is set in by."""
    found = re.search(r"\n([ \t]+)\S", text)
    return found[1] if found else "  "


def _indent(text: str, at: int) -> str:
    """What the line of this place is set in by."""
    found = re.match(r"[ \t]*", text[text.rfind("\n", 0, at) + 1 : at])
    return found[0] if found else ""


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def cut(text: str, container: Value, child: Value) -> str:
    """The text without one member or item, and without the comma that parts it from its neighbour."""
    there = children(text, container)
    place = there.index(child)
    if len(there) == 1:
        return text[: container.start + 1] + text[container.end - 1 :]
    if place:
        return text[: there[place - 1].end] + text[child.end :]
    return text[: child.whole] + text[there[1].whole :]
