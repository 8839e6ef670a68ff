"""The operator's verbs, and the form of what each takes: a request that has another form is refused by name. Pure.

Nothing beyond this table is believed of a client: the socket is the person's own, and so is whatever script writes to
it. What a newer client says beside it is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from fleet.errors import BadRequest

MOST = 10**15
"""Above any count of lines or events, and any time-out in seconds that is meant."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a value must be: the words for it, and the test."""

    words: str
    holds: Callable[[Any], bool]
    needed: bool = False


def _is_text(value: Any) -> bool:
    """A text without a zero byte, which no path or variable can hold; bytes that are no text are escaped in it."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _is_word(value: Any) -> bool:
    return _is_text(value) and value.isprintable()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and abs(value) <= MOST


def _is_count(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value >= 0


def _is_map(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(key) and _is_text(text) for key, text in value.items())


TEXT = Form("a text without a zero byte", _is_text)
WORD = Form("a text of printable characters", _is_word)
NAMED = Form("the name of an agent, or the path of its manifest", _is_text, needed=True)
TEXTS = Form("a list of texts", lambda v: isinstance(v, list) and all(map(_is_text, v)))
FLAG = Form("true or false", lambda v: isinstance(v, bool))
COUNT = Form("a whole number, not below 0", _is_count)
SECONDS = Form("a number of seconds, not below 0", lambda v: _is_number(v) and v >= 0)
LABELS = Form("an object of texts", _is_map)
ENVIRONMENT = Form(
    "an object of variables and their values", lambda v: _is_map(v) and all(name and "=" not in name for name in v)
)

SOME = {"targets": TEXTS, "labels": LABELS, "cwd": TEXT}
ACT = {**SOME, "all": FLAG, "timeout": SECONDS, "wait": FLAG}
ONE = {"target": NAMED, "cwd": TEXT}
FOLDER = {"folder": TEXT, "cwd": TEXT, "env": ENVIRONMENT}

VERBS: Mapping[str, Mapping[str, Form]] = {
    "ping": {},
    "status": {**SOME, "brief": FLAG},
    "list": {**SOME, "capability": TEXT, "machine": TEXT},
    "inspect": ONE,
    "explain": ONE,
    "health": SOME,
    "events": {"agent": WORD, "cwd": TEXT, "type": WORD, "after": COUNT, "limit": COUNT, "follow": FLAG},
    "logs": {**ONE, "lines": COUNT, "follow": FLAG},
    "pane": {**ONE, "read_only": FLAG},
    "job": ONE,
    "wait": {**ONE, "for": TEXT, "timeout": SECONDS},
    "start": {**ACT, "env": ENVIRONMENT, "fresh": FLAG},
    "restart": {**ACT, "env": ENVIRONMENT, "fresh": FLAG},
    "stop": ACT,
    "reset": ACT,
    "remove": ACT,
    "diff": FOLDER,
    "apply": {**FOLDER, "prune": FLAG, "timeout": SECONDS, "wait": FLAG},
    "shutdown": {"timeout": SECONDS, "leave_unreachable": FLAG},
    "daemon_stop": {},
    "cleanup": {"dry_run": FLAG},
}
"""Each verb with what it takes. `null` is the same as not given."""


def check(verb: str, args: Mapping[str, Any]) -> None:
    """Raise `BadRequest` where an argument of the verb has another form than it must have."""
    for name, form in VERBS[verb].items():
        value = args.get(name)
        if value is None:
            if form.needed:
                raise BadRequest(f"`{verb}` needs `{name}`: {form.words}.", verb=verb, argument=name)
        elif not form.holds(value):
            raise BadRequest(f"`{verb}`: `{name}` must be {form.words}, not {shown(value)}.", verb=verb, argument=name)


def shown(value: Any) -> str:
    """A value in a message, and not more of it than a person reads."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
