"""Fleet's hooks in a settings file of Claude Code, beside what else stands there. Pure: text in, text out.

The text is changed only where a hook is put in or taken out, so everything of the user's keeps its place and its
form, to the byte; `without` undoes `with_hooks`. What is not understood is refused, never rewritten.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fleet.errors import NotAllowed

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def with_hooks(text: str, script: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The settings with each event's hook in it, behind the user's own. One of ours that differs is replaced.

    `script` is what tells ours from others: the program that they run.
    """
    text = text if text.strip() else "{}\n"
    _check(text)
    for event, entry in entries.items():
        text = _with_hook(text, script, event, dict(entry))
    return text


def without(text: str, script: str) -> str:
    """The settings without any hook of ours, and without what is empty for that reason alone."""
    if not text.strip():
        return text
    _check(text)
    while (span := next(_ours(text, script), None)) is not None:
        text = _remove(text, span)
    return text


def events_of(text: str, script: str) -> tuple[str, ...]:
    """The events that have a hook of ours."""
    if not text.strip():
        return ()
    _check(text)
    return tuple(dict.fromkeys(span.event for span in _ours(text, script)))


# -- where things stand --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Value:
    """A value's place in the text; with `key_start`, a member's."""

    start: int
    end: int
    key: str | None = None
    key_start: int = -1

    @property
    def whole(self) -> int:
        """Where it begins, its key included."""
        return self.start if self.key is None else self.key_start


@dataclass(frozen=True, slots=True)
class _Ours:
    """One hook of ours: what to take out, outermost last one that holds nothing else."""

    event: str
    entry: _Value
    path: tuple[_Value, ...]
    """From the whole document down to the entry."""


def _check(text: str) -> None:
    """Raise `NotAllowed` where the text is not what settings are."""
    try:
        settings = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise NotAllowed("It is nested too deeply to be settings.") from None
    except json.JSONDecodeError as error:
        raise NotAllowed(f"It is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from error
    if not isinstance(settings, dict):
        raise NotAllowed("It is not a JSON object.")
    hooks = settings.get("hooks", {})
    if not isinstance(hooks, dict):
        raise NotAllowed("Its `hooks` are not a JSON object.")
    for event, groups in hooks.items():
        if not isinstance(groups, list):
            raise NotAllowed(f"Its `hooks.{event}` is not a list.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise NotAllowed(f"The key {key!r} stands twice in one object: which of them counts?")
    return dict(pairs)


def _document(text: str) -> _Value:
    start = _skip(text, 0)
    return _Value(start, _end(text, start))


def _children(text: str, value: _Value) -> list[_Value]:
    """The members of an object, or the items of a list, in their order; none of anything else."""
    opening = text[value.start]
    if opening not in "{[":
        return []
    children = []
    at = _skip(text, value.start + 1)
    while text[at] not in "}]":
        key, key_start = None, at
        if opening == "{":
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)  # the colon
        end = _end(text, at)
        children.append(_Value(at, end, key, key_start))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return children


def _member(text: str, value: _Value, key: str) -> _Value | None:
    return next((child for child in _children(text, value) if child.key == key), None)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _end(text: str, start: int) -> int:
    return _DECODER.raw_decode(text, start)[1]


def _ours(text: str, script: str) -> Iterator[_Ours]:
    document = _document(text)
    hooks = _member(text, document, "hooks")
    for event in _children(text, hooks) if hooks else ():
        for group in _children(text, event):
            inner = _member(text, group, "hooks") if text[group.start] == "{" else None
            for entry in _children(text, inner) if inner and hooks else ():
                if _runs(json.loads(text[entry.start : entry.end]), script):
                    assert hooks is not None and inner is not None and event.key is not None
                    yield _Ours(event.key, entry, (document, hooks, event, group, inner, entry))


def _runs(entry: object, script: str) -> bool:
    """Whether this hook runs the script: as a program, or as the command of a shell line."""
    command = entry.get("command") if isinstance(entry, dict) else None
    if not isinstance(command, str):
        return False
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    return command == script or words[:1] == [script] or words[:2] == ["exec", script]


# -- putting in ----------------------------------------------------------------------------------------------------


def _with_hook(text: str, script: str, event: str, entry: dict[str, Any]) -> str:
    mine = [ours for ours in _ours(text, script) if ours.event == event]
    for double in reversed(mine[1:]):
        text = _remove(text, double)
    if mine:
        at = mine[0].entry
        if json.loads(text[at.start : at.end]) == entry:
            return text
        return text[: at.start] + json.dumps(entry, ensure_ascii=False) + text[at.end :]
    document = _document(text)
    hooks = _member(text, document, "hooks")
    group = {"hooks": [entry]}
    if hooks is None:
        return _append(text, document, "hooks", {event: [group]})
    groups = _member(text, hooks, event)
    if groups is None:
        return _append(text, hooks, event, [group])
    return _append(text, groups, None, group)


def _append(text: str, container: _Value, key: str | None, value: object) -> str:
    """One more member or item at the end of a container, in the manner of what stands there."""
    children = _children(text, container)
    closing = container.end - 1
    unit = _unit(text)
    if children and "\n" not in text[container.start : children[0].whole]:
        return text[: children[-1].end] + ", " + _shown(key, value, None, "") + text[children[-1].end :]
    if children:
        indent = _indent(text, children[-1].whole)
        new = f",{_newline(text)}{indent}" + _shown(key, value, unit, indent, _newline(text))
        return text[: children[-1].end] + new + text[children[-1].end :]
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


# -- taking out ----------------------------------------------------------------------------------------------------


def _remove(text: str, ours: _Ours) -> str:
    """Without this hook, nor what holds nothing but it: its group, its event, `hooks` itself."""
    document, hooks, event, group, inner, entry = ours.path
    container, child = inner, entry
    for outer, held in ((event, group), (hooks, event), (document, hooks)):
        alone = len(_children(text, container)) == 1
        if not alone or (held is group and len(_children(text, group)) > 1):
            break
        container, child = outer, held
    return _cut(text, container, child)


def _cut(text: str, container: _Value, child: _Value) -> str:
    """The text without one member or item, and without the comma that parts it from its neighbour."""
    children = _children(text, container)
    place = children.index(child)
    if len(children) == 1:
        return text[: container.start + 1] + text[container.end - 1 :]
    if place:
        return text[: children[place - 1].end] + text[child.end :]
    return text[: child.whole] + text[children[1].whole :]
