"""What each read asks of the daemon, and the short way to its answer: with `--json` the daemon's text is passed on.

The short way understands plain forms only. Whatever it does not know, `--help` and mistakes included, it leaves to
click; `ask` makes the request for both, so that they cannot differ.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fleet import client, places
from fleet.errors import Usage

Ask = tuple[str, dict[str, Any]]

LABEL = ("labels", "label")
COUNT = "count"
TEXT = "text"
FLAG = "flag"

READS: dict[str, dict[str, tuple[str, str]]] = {
    "status": {"-l": LABEL, "--label": LABEL},
    "inspect": {},
    "list": {"-l": LABEL, "--label": LABEL, "--capability": ("capability", TEXT), "--machine": ("machine", TEXT)},
    "explain": {},
    "health": {"-l": LABEL, "--label": LABEL},
    "events": {
        "--agent": ("agent", TEXT),
        "--type": ("type", TEXT),
        "--after": ("after", COUNT),
        "-n": ("limit", COUNT),
        "--limit": ("limit", COUNT),
    },
    "logs": {"-n": ("lines", COUNT), "--lines": ("lines", COUNT)},
    "diff": {},
}
"""The reads and, for each, its options: the argument that an option gives, and its form."""

ONE_TARGET = ("inspect", "explain", "logs")
LOG_LINES = 100


def ask(command: str, targets: Sequence[str] = (), **options: Any) -> Ask:
    """The request that a read makes. `options` bear the names of the request's arguments; `None` means not given."""
    given = {key: value for key, value in options.items() if value not in (None, {}, ())}
    cwd = here()
    if command == "status" and len(targets) == 1 and not given and not _is_folder(targets[0]):
        return "inspect", {"target": targets[0], "cwd": cwd}
    if command in ONE_TARGET:
        lines = {"lines": LOG_LINES} if command == "logs" else {}
        return command, {"target": targets[0], "cwd": cwd, **lines, **given}
    if command == "events":
        named = {"agent": targets[0]} if targets else {}
        return command, {**named, **given, "cwd": cwd}
    if command == "diff":
        folder = {"folder": os.path.abspath(targets[0])} if targets else {}  # noqa: PTH100
        return command, {**folder, "cwd": cwd, "env": environment()}
    return command, {"targets": list(targets), "labels": {}, "cwd": cwd, **given}


def _is_folder(target: str) -> bool:
    return ("/" in target or target in (".", "..")) and os.path.isdir(target)  # noqa: PTH112


def here() -> str:
    """The folder that relative manifest paths start from."""
    try:
        return os.getcwd()  # noqa: PTH109 (pathlib would cost more than the request)
    except FileNotFoundError as error:
        raise Usage("The current folder no longer exists.", hint="`cd` to one that does.") from error


def environment() -> dict[str, str]:
    """The environment that agents are started from. FLEET_HOME is made to hold in every folder."""
    given = dict(os.environ)
    if given.get("FLEET_HOME"):
        given["FLEET_HOME"] = places.folders()[0]
    return given


def understand(words: Sequence[str]) -> Ask | None:
    """The request of a plain read with `--json`; `None` where click must look."""
    command, *rest = words
    if [command, *rest] == ["daemon", "status", "--json"]:
        return "ping", {}
    if command not in READS:
        return None
    plain = take(rest, READS[command], _value)
    return ask(command, plain[0], **plain[1]) if plain is not None and _fit(command, *plain) else None


def take(
    words: Sequence[str], options: Mapping[str, tuple[str, str]], value_of: Callable[[Any, str, str], Any]
) -> tuple[list[str], dict[str, Any]] | None:
    """The targets and the values of plain options; `None` where click must look.

    `value_of` makes a value of what was there, the option's form and its text. Raise `ValueError`: it has another form.
    """
    targets: list[str] = []
    given: dict[str, Any] = {}
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if word == "--json":
            continue
        if not word.startswith("-"):
            targets.append(word)
            continue
        name, equals, text = word.partition("=")
        if name not in options or (equals and not name.startswith("--")):
            return None
        key, form = options[name]
        if form == FLAG:
            if equals:
                return None
            given[key] = True
            continue
        if not equals:
            if not rest:
                return None
            text = rest.pop()
        if not text or text.startswith("-"):
            return None
        try:
            given[key] = value_of(given.get(key), form, text)
        except ValueError:
            return None
    return targets, given


def count(text: str) -> int:
    """A number without a sign. Raise `ValueError` where it is none."""
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(text)
    return int(text)


def _value(before: Any, form: str, text: str) -> Any:
    if form == COUNT:
        return count(text)
    if form != LABEL[1]:
        return text
    label, equals, value = text.partition("=")
    if not label or not equals:
        raise ValueError(text)
    return {**(before or {}), label: value}


def _fit(command: str, targets: Sequence[str], given: Mapping[str, Any]) -> bool:
    """Whether the command takes these names."""
    if command in ONE_TARGET:
        return len(targets) == 1
    if command == "events":
        return len(targets) + ("agent" in given) <= 1
    if command == "diff":
        return len(targets) <= 1 and all(map(os.path.exists, targets))
    return command != "list" or not targets


def request_timeout() -> float:
    """How long to wait for an answer that is not meant to take long. Settings are loaded only where they say so."""
    if "FLEET_REQUEST_TIMEOUT" not in os.environ and b"request_timeout" not in _config():
        return places.REQUEST_TIMEOUT
    from fleet.config import load_settings
    from fleet.settings import Places

    return load_settings(Places.of()).request_timeout


def _config() -> bytes:
    try:
        with open(os.path.join(places.folders()[0], "config.yaml"), "rb") as file:  # noqa: PTH118
            return file.read()
    except OSError:
        return b""


def answer(verb: str, args: Mapping[str, Any]) -> int:
    """Ask, and pass the daemon's JSON on; the exit code."""
    reply = client.request(verb, args, timeout=request_timeout())
    if reply.skew:
        print(f"fleet: {reply.skew}", file=sys.stderr)
    sys.stdout.flush()
    sys.stdout.buffer.write(reply.body.rstrip(b"\n") + b"\n")
    sys.stdout.buffer.flush()
    return reply.exit_code
