"""Claude Code without a pane: one run of `claude -p` for one turn, and what its stream of JSON lines says.

The prompt goes in on stdin, so that `ps` does not show it. What others wrote must not reach further than the agent
itself may: the program's own expansion of `@path` in a prompt, which reads any file past the permissions, is off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from fleet import mcp_shim
from fleet.harnesses.base import Remedy, TurnAsk, TurnLaunch, TurnResult
from fleet.harnesses.limits import LIMIT, resets_at
from fleet.manifests.model import AgentSpec

Json: TypeAlias = Mapping[str, Any]

READ_ONLY = ("Read", "Glob", "Grep")
"""What looks at files and changes nothing. What is outside of the working folder is denied without asking."""
MENTIONS_SINCE = (2, 1, 310)
"""From here on there is a switch for `@path` alone; before, all that the program attaches by itself is off."""
DECLINES = "DECLINED:"
"""How an answer begins by which the agent declines."""
HOPELESS_AFTER = 3
"""Times that the model's server may refuse the credentials before the turn is given up: the program itself would go on
for minutes."""
SAID = 2_000
"""Characters of the program's words that a result carries for a person."""
LINES = 400
"""Lines of a turn that are kept for a person."""
PROMPT_FLAG = "--append-system-prompt"

_AUTH = ("authentication_failed", "oauth_org_not_allowed", "account_on_hold", "verification_required")
_PERSON = (*_AUTH, "billing_error", "model_not_found", "invalid_request")
"""Errors that the same again does not mend."""


def instructions(spec: AgentSpec) -> str:
    """What the agent is told of how it is run. A conversation keeps it as it was at its first turn."""
    return (
        f"You are the agent {spec.name} of a fleet, and you are run for one message at a time, without a terminal and "
        "with nobody to ask: each prompt is one message, and your last answer is sent to whoever wrote it as your "
        "reply, so you need no tool to reply. If you will not or cannot do "
        f"what is asked, answer with a single line that begins with {DECLINES} and says why."
    )


def unused(spec: AgentSpec) -> tuple[str, ...]:
    """What a manifest gives to an agent that has no first message."""
    given = [name for name in ("prompt", "prompt_file") if getattr(spec, name) is not None]
    return tuple(f"{name} does not act in mode headless: each message is a turn of its own" for name in given)


def launch(ask: TurnAsk, common: Sequence[str]) -> TurnLaunch:
    """One turn. `common`: the program and what every one of its runs in this launch is given."""
    spec, conversation = ask.spec, ask.conversation
    argv = [*common, "-p", "--output-format", "stream-json", "--verbose"]
    if conversation is not None:
        argv += ["--resume" if conversation.exists else "--session-id", conversation.session_id]
    argv += _tools(spec)
    version = tuple(int(part) for part in (ask.version or "").split(".") if part.isdigit())
    off = "FILE_MENTIONS" if not version or version >= MENTIONS_SINCE else "ATTACHMENTS"
    return TurnLaunch(tuple(argv), _led_in(ask.text).encode(), {f"CLAUDE_CODE_DISABLE_{off}": "1"})


def permission_mode(spec: AgentSpec) -> str:
    """Nobody can be asked in a turn: what is not allowed is denied, or all of it is allowed."""
    return "bypassPermissions" if spec.headless.tools == "all" else "dontAsk"


def _tools(spec: AgentSpec) -> list[str]:
    """The tools that there are for it, and those that it may use unasked. With "=", since the options take every word
    that follows."""
    wanted = spec.headless.tools
    own = [f"mcp__{mcp_shim.SERVER}__{tool}" for tool in mcp_shim.UNASKED] if spec.hub.enabled and spec.hub.mcp else []
    if wanted == "all":
        return ["--disallowedTools=AskUserQuestion"]
    names = READ_ONLY if wanted == "read-only" else wanted
    built_in = dict.fromkeys(name.partition("(")[0].strip() for name in names if not name.startswith("mcp__"))
    allowed = [*own, *(() if wanted == "read-only" else names)]
    return [f"--tools={','.join(built_in)}", *([f"--allowedTools={','.join(allowed)}"] if allowed else [])]


def _led_in(text: str) -> str:
    """A prompt that begins with a slash would be a command of the program's."""
    return f"Message: {text}" if text.lstrip().startswith("/") else text


# -- what it says -----------------------------------------------------------------------------------------------


def read(output: bytes, errors: bytes, exit_status: int | None, now: float) -> TurnResult:
    """The turn's end as the program tells it: its last line of type `result`, else what it said on stderr."""
    said: dict[str, Any] = {}
    error: str | None = None
    for entry in _entries(output):
        if entry.get("type") == "result":
            said = dict(entry)
        elif entry.get("type") == "assistant" and entry.get("is_api_error_message"):
            error = str(entry.get("error") or "unknown")
        elif entry.get("type") == "assistant":
            error = None
    words = errors.decode(errors="replace").strip()
    facts: dict[str, Any] = {
        "session_id": _text(said, "session_id"),
        "cost_usd": _number(said, "total_cost_usd"),
        "model": _model(said.get("modelUsage")),
        "tokens": _tokens(said.get("usage")),
    }
    if not said:
        return _died(words, exit_status)
    text = _text(said, "result") or ""
    if said.get("is_error"):
        told = "\n".join([*map(str, said.get("errors") or ()), text]).strip() or words
        return _failed(told, error or _by_status(said.get("api_error_status")), now, facts)
    if text.lstrip().startswith(DECLINES):
        why = text.lstrip().removeprefix(DECLINES).strip()
        return TurnResult(ok=True, text=why, declined=True, reason="declined", message=_cut(why), **facts)
    return TurnResult(ok=True, text=text, **facts)


TOKENS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def _tokens(usage: object) -> dict[str, int]:
    told = usage if isinstance(usage, Mapping) else {}
    return {kind: told[kind] for kind in TOKENS if isinstance(told.get(kind), int)}


def _model(usage: object) -> str | None:
    """The model that wrote most of it: small ones do small work beside it."""
    told = {str(name): used for name, used in usage.items()} if isinstance(usage, Mapping) else {}
    written = {name: used.get("outputTokens") or 0 for name, used in told.items() if isinstance(used, Mapping)}
    return max(written, key=lambda name: written[name], default=None)


def hopeless(output: bytes) -> TurnResult | None:
    """Credentials that are refused again and again."""
    refused = 0
    for entry in _entries(output):
        retries = entry.get("type") == "system" and entry.get("subtype") == "api_retry"
        refused = refused + 1 if retries and entry.get("error") in _AUTH else 0
    if refused < HOPELESS_AFTER:
        return None
    message = "The model's server refuses the credentials: mend the key or the login."
    return TurnResult(ok=False, reason="auth_error", message=message, remedy=Remedy.PERSON)


def _died(words: str, exit_status: int | None) -> TurnResult:
    """It has ended without a result."""
    if "is already in use" in words:
        return TurnResult(ok=False, reason="session_in_use", message=_cut(words), remedy=Remedy.RESUME)
    if stale(words):
        return TurnResult(ok=False, reason="stale_session", message=_cut(words), remedy=Remedy.FRESH)
    how = "ended in a way that nobody saw" if exit_status is None else f"exited with {exit_status}"
    message = f"Claude Code {how} and gave no result" + (f": {_cut(words)}" if words else ".")
    return TurnResult(ok=False, reason="program_failed", message=message, remedy=Remedy.RETRY)


def stale(words: str) -> bool:
    """Whether they say that the session is not there (any more)."""
    return "No conversation found" in words


def _failed(told: str, error: str | None, now: float, facts: Mapping[str, Any]) -> TurnResult:
    if stale(told):
        return TurnResult(ok=False, reason="stale_session", message=_cut(told), remedy=Remedy.FRESH)
    if error in ("rate_limit", "unknown", None) and LIMIT.search(told):
        at = resets_at(told, now)
        message = _cut(told)
        return TurnResult(ok=False, reason="usage_limit", message=message, remedy=Remedy.RETRY, resets_at=at, **facts)
    reason = "auth_error" if error in _AUTH else error if error and error != "unknown" else "program_failed"
    remedy = Remedy.PERSON if error in _PERSON else Remedy.RETRY
    return TurnResult(ok=False, reason=reason, message=_cut(told), remedy=remedy, **facts)


def _by_status(status: object) -> str | None:
    """The kind of error by the server's status, for versions that name only that."""
    return {
        401: "authentication_failed",
        403: "authentication_failed",
        404: "model_not_found",
        413: "invalid_request",
        429: "rate_limit",
        529: "server_error",
    }.get(status if isinstance(status, int) else 0, "server_error" if _is_server(status) else None)


def _is_server(status: object) -> bool:
    return isinstance(status, int) and 500 <= status < 600


def lines(output: bytes) -> list[str]:
    """The turn as a person reads it: what it said, what it called, and what came back."""
    told: list[str] = []
    for entry in _entries(output):
        message = entry.get("message")
        for block in message.get("content") or () if isinstance(message, Mapping) else ():
            if isinstance(block, Mapping):
                told += _line(block)
    return told[-LINES:]


def _line(block: Json) -> list[str]:
    match block.get("type"):
        case "text":
            return [("● " if n == 0 else "  ") + line for n, line in enumerate(str(block.get("text", "")).splitlines())]
        case "tool_use":
            arguments = json.dumps(block.get("input"), ensure_ascii=False)
            return [f"● {block.get('name')}: {arguments[:300]}"]
        case "tool_result":
            content = block.get("content")
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            return [f"  ⎿ {text.strip().partition(chr(10))[0][:300]}"]
    return []


def _entries(output: bytes) -> Iterator[Json]:
    """The JSON objects among the lines; the last may be torn."""
    for line in output.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _text(said: Json, key: str) -> str | None:
    value = said.get(key)
    return value if isinstance(value, str) else None


def _number(said: Json, key: str) -> float | None:
    value = said.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _cut(text: str) -> str:
    return text if len(text) <= SAID else text[: SAID - 1] + "…"
