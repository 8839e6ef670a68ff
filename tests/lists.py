"""docs/settings.md and docs/errors.md, drawn from the settings and from what can go wrong."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields

from fleet import client, config, dependencies, errors, hubcall
from fleet.errors import FleetError
from fleet.hub import wire
from fleet.hub.message import Code
from fleet.hubcall import exit_code
from fleet.settings import Settings

SETTINGS = """\
# Settings

<!-- Drawn from the code by `make docs`; change the code, not this page. -->

Each is a key of `config.yaml` (`fleet config path` says where that is) and a variable: `FLEET_` and the name in
capitals, such as `FLEET_START_PARALLEL`. The variable of the daemon's environment counts first, then the file, then the
default.
`fleet config show` prints what is in force and where it comes from; the daemon takes a change up at its next start
(`fleet daemon restart`, agents run on). [How to change one](recipes/settings.md).

Seconds, unless the name says otherwise. `…` at an end goes on in the next line.
"""

ERRORS = """\
# Errors

<!-- Drawn from the code by `make docs`; change the code, not this page. -->

With `--json` an error is `{"error": {"code", "message", "hint"}}` on stdout, beside the exit code. The message says
what has happened, the hint what to do. Codes are stable: scripts may go by them.

## Of commands

| code | exit | means |
|---|---|---|
"""

OF_THE_HUB = """
## Of the hub

At its doors (HTTP, WebSocket, MCP) an error is `{"error": {"code", "message", …}}`. What else stands in it depends on
the code: `field`, `limit`, `nearest`, and `retry_after` in seconds where it may be tried again (a command then exits
with 4). `exit` is that of the command that asked.

| code | status | exit | means |
|---|---|---|---|
"""

MEANS: dict[str, str] = {
    Code.WRONG_TYPE: "a field has another type than it must have",
    Code.MISSING: "a field, a file or a word of the query is missing",
    Code.EMPTY: "there is nothing in it",
    Code.TOO_DEEP: "the JSON is nested too deeply",
    Code.TOO_LARGE: "a text, a body or a file is too large; `limit` says how large it may be",
    Code.TOO_MANY: "too many recipients, attachments or fields",
    Code.INVALID_UNICODE: "the text is no valid Unicode",
    Code.CONTROL_CHARACTERS: "control characters stand where only text may",
    Code.BIDI_CHARACTERS: "characters that turn the direction of writing stand in a name",
    Code.BAD_NAME: "it is not the name of a member, channel, workspace or file",
    Code.BAD_VALUE: "the value is not one of those that may be",
    Code.NO_SUCH_FIELD: "the hub knows no such field; `nearest` may say which was meant",
    Code.WRONG_VERSION: "the frame is of a version that this hub does not speak",
    Code.UNKNOWN_RECIPIENT: "nobody is called so; `nearest` may say who was meant",
    Code.UNKNOWN_CHANNEL: "there is no such channel",
    Code.UNKNOWN_MESSAGE: "there is no such message that you may read",
    Code.UNKNOWN_THREAD: "there is no such conversation that you are part of",
    Code.UNKNOWN_FILE: "there is no such file that you may have",
    Code.UNKNOWN_WORKSPACE: "there is no such workspace",
    Code.UNKNOWN_TOKEN: "there is no such token",
    Code.UNKNOWN_INVITE: "there is no such invite, or it is used up or over",
    Code.NAME_TAKEN: "somebody has, or had, that name",
    Code.ALREADY_OVER: "it was answered, cancelled or deleted before",
    Code.NOT_ALLOWED: "the token's role, or the manifest, does not allow it",
    Code.HOP_LIMIT: "the exchange has had as many hops as it may have",
    Code.RATE_LIMITED: "the sender says too much at a time",
    Code.PAIR_LIMITED: "the sender causes this recipient too many turns a minute",
    Code.CONVERSATION_LIMITED: "the conversation causes too many turns a minute",
    Code.CONVERSATION_EXHAUSTED: "the conversation has caused all the turns that it may cause",
    Code.ONLY_THANKS: "a reply that only says thanks goes nowhere",
    Code.WAKE_NOT_ALLOWED: "the sender's manifest does not let it wake others by a broadcast",
    Code.MAILBOX_FULL: "too much waits for the recipient",
    Code.THREAD_TERMINATED: "an operator has ended the conversation",
    Code.ID_TAKEN: "the idempotency key stands for another message",
    "unauthorized": "there is no token, or it is nobody's (any more)",
    "bad_host": "`Host` is none of the hub's names (`hub_names`)",
    "bad_origin": "the page is not one that may use the hub (`hub_origins`)",
    "token_in_url": "a token must not stand in a URL",
    "bad_json": "it is not JSON",
    "bad_request": "the request has not the form that it must have",
    "bad_multipart": "the body is no form with a file",
    "bad_channel": "the channel is not one of the stream's",
    "binary_frame": "frames are text",
    "unknown_type": "there is no such type of frame",
    "unknown_agent": "there is no such agent",
    "unknown_member": "there is no such member",
    "not_found": "there is no such route",
    "method_not_allowed": "the route has other methods",
    "timed_out": "the request did not come whole in time",
    "gap": "what followed the position cannot be had any more; `oldest` can",
    "unsupported_media_type": "the body is of another content type, or packed",
    "upgrade_required": "this route is a WebSocket",
    "too_many_connections": "there are too many connections from one address (`hub_connections`)",
    "internal": "a fault of the hub's own; its log has it whole",
    "cannot_yet": "this version cannot do that yet",
    "not_stored": "nothing of it is kept; send it again with the same key",
    "closing": "the hub is about to end; try again",
    "storage_error": "the log could not be read or written",
    "storage_full": "the disk is full",
}


PASSED_ON = (FleetError, client.DaemonSaid, hubcall.HubSaid)
"""Errors with another's code."""


def settings() -> str:
    """docs/settings.md."""
    source, described = inspect.getsource(Settings), config.described()
    parts = [SETTINGS]
    for title, body in re.findall(r"^    # (\S.*)\n((?:    \w+: .*\n)+)", source, flags=re.M):
        title = re.sub(r" *[(]SEMANTICS.*[)]", "", title)
        parts.append(f"\n## {title[0].upper()}{title[1:]}\n")
        parts.append("| setting | default | is |\n|---|---|---|")
        for name in re.findall(r"^    (\w+):", body, flags=re.M):
            parts.append(f"| `{name}` | {_default(name)} | {described[name]} |")
    return "\n".join(parts).replace("\n\n\n", "\n\n") + "\n"


def _default(name: str) -> str:
    value = next(field.default for field in fields(Settings) if field.name == name)
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown}`" if shown else "none"


def error_list() -> str:
    """docs/errors.md."""
    return ERRORS + "\n".join(_of_commands()) + "\n" + OF_THE_HUB + "\n".join(_of_the_hub()) + "\n"


def _of_commands() -> Iterator[str]:
    rows: dict[tuple[int, str], str] = {}
    for each in [each for module in (errors, client, dependencies, hubcall) for each in vars(module).values()]:
        if isinstance(each, type) and issubclass(each, FleetError) and each not in PASSED_ON:
            code = each.__new__(each).code
            rows.setdefault((each.exit_code, code), " ".join((each.__doc__ or "").split()))
    rows[1, "internal_error"] = "A fault of fleet's own; the daemon's log has it whole."
    return (f"| `{code}` | {status} | {words} |" for (status, code), words in sorted(rows.items()))


def _of_the_hub() -> Iterator[str]:
    codes = sorted({*map(str, Code), *map(str, wire.STATUS), *MEANS})
    for code in codes:
        status = wire.STATUS.get(code, 400)
        yield f"| `{code}` | {status} | {exit_code(status, code, {})} | {MEANS[code]} |"
