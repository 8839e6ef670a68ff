"""Fleet's hooks in a settings file of Claude Code, beside what else stands there. Pure: text in, text out.

The text is changed only where a hook is put in or taken out, so everything of the user's keeps its place and its
form, to the byte; `without` undoes `with_hooks`. What is not understood is refused, never rewritten.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fleet import jsontext
from fleet.errors import NotAllowed


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
class _Ours:
    """One hook of ours: what to take out, outermost last one that holds nothing else."""

    event: str
    entry: jsontext.Value
    path: tuple[jsontext.Value, ...]
    """From the whole document down to the entry."""


def _check(text: str) -> None:
    """Raise `NotAllowed` where the text is not what settings are."""
    settings = jsontext.load(text)
    hooks = settings.get("hooks", {})
    if not isinstance(hooks, dict):
        raise NotAllowed("Its `hooks` are not a JSON object.")
    for event, groups in hooks.items():
        if not isinstance(groups, list):
            raise NotAllowed(f"Its `hooks.{event}` is not a list.")


def _ours(text: str, script: str) -> Iterator[_Ours]:
    document = jsontext.document(text)
    hooks = jsontext.member(text, document, "hooks")
    for event in jsontext.children(text, hooks) if hooks else ():
        for group in jsontext.children(text, event):
            inner = jsontext.member(text, group, "hooks") if text[group.start] == "{" else None
            for entry in jsontext.children(text, inner) if inner and hooks else ():
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
    document = jsontext.document(text)
    hooks = jsontext.member(text, document, "hooks")
    group = {"hooks": [entry]}
    if hooks is None:
        return jsontext.append(text, document, "hooks", {event: [group]})
    groups = jsontext.member(text, hooks, event)
    if groups is None:
        return jsontext.append(text, hooks, event, [group])
    return jsontext.append(text, groups, None, group)


# -- taking out ----------------------------------------------------------------------------------------------------


def _remove(text: str, ours: _Ours) -> str:
    """Without this hook, nor what holds nothing but it: its group, its event, `hooks` itself."""
    document, hooks, event, group, inner, entry = ours.path
    container, child = inner, entry
    for outer, held in ((event, group), (hooks, event), (document, hooks)):
        alone = len(jsontext.children(text, container)) == 1
        if not alone or (held is group and len(jsontext.children(text, group)) > 1):
            break
        container, child = outer, held
    return jsontext.cut(text, container, child)
