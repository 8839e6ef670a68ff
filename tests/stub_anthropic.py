"""A scriptable stand-in for the Anthropic Messages API on loopback, so that the real program can be run offline.

    python tests/stub_anthropic.py [--port N]        prints the port it listens on, and serves until it is ended

What it answers is chosen by the last thing the *user* typed (system reminders are ignored). A directive is the
first match of one of these, anywhere in it:

    Repeat <text>            answer with <text> (also: Reply with / Say / Echo)
    SLOW <secs>              stream words for <secs> seconds
    THINK <secs>             send nothing at all for <secs> seconds, then answer
    TOOL <Name> {json}       one tool_use; after its result, answer "TOOL-DONE <result>"
    TOOLS <n> <Name> {json}  the same tool n times, one per turn ("%d" = index)
    PAR <n> <Name> {json}    n tool_use blocks in one turn ("$PLANFILE" = the plan-mode file)
    ERR <status>[x<n>] [txt] error <status>; with x<n> only the first n times
    USAGE <n>                answer, reporting n input tokens used
    DROP                     cut the connection in the middle of the stream
    BIG <n>                  answer with n lines

A mode for all, set with POST /_stub/mode {"error": 401, "count": 2, "usage": 150000, "delay": 0.2,
"headers": {...}}, comes first; {} clears it; with "hold": true nothing is answered until it is cleared, with
"hold_answers" nothing but errors, and with "hurry": true whatever is slow or thinks, also already, goes on at once.
GET /_stub/log returns what was asked so far; POST /_stub/reset forgets log, mode and counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

ERRORS = {
    400: ("invalid_request_error", "invalid request (stub)"),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    403: ("permission_error", "Your account does not have permission (stub)"),
    404: ("not_found_error", "model: stub-not-found"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your account's rate limit. Please try again later."),
    500: ("api_error", "Internal server error"),
    529: ("overloaded_error", "Overloaded"),
}
MODELS = ("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5")
REMINDER = re.compile(r"<(system-reminder|command-[a-z]+|local-command-[a-z]+)>.*?</\1>", re.S)
COMPACT = re.compile(
    r"create a detailed summary of (the|this) conversation|Your task is to create a detailed summary", re.I
)
DIRECTIVE = re.compile(
    r"\b(?:(?:Repeat|Reply with|Say|Echo)[: ]+(?P<say>.+?)(?:\n|$)"
    r"|SLOW (?P<slow>[\d.]+)"
    r"|THINK (?P<think>[\d.]+)"
    r"|(?:TOOL|TOOLS (?P<turns>\d+)|PAR (?P<batch>\d+)) (?P<tool>\w+) (?P<input>\{.*\})"
    r"|ERR (?P<error>\d+)(?:x(?P<times>\d+))?(?P<why>[^\n]*)"
    r"|USAGE (?P<usage>\d+)"
    r"|(?P<drop>DROP)\b"
    r"|BIG (?P<big>\d+))",
    re.S,
)
Json = dict[str, Any]


@dataclass
class Script:
    """What the stub was told, and what it was asked."""

    log: list[Json] = field(default_factory=list)
    mode: Json = field(default_factory=dict)
    errors_left: dict[str, int] = field(default_factory=dict)


SCRIPT = web.AppKey("script", Script)


@dataclass
class Reply:
    """What to answer."""

    blocks: list[Json] = field(default_factory=list)
    delay: float = 0.0
    pace: float = 0.0
    """Seconds between two words."""
    usage: int | None = None
    error: tuple[int, str | None] | None = None
    drop: bool = False

    def say(self, text: str) -> None:
        self.blocks.append({"type": "text", "text": text})

    def call(self, tool: str, arguments: str) -> None:
        identity = "toolu_" + uuid.uuid4().hex[:24]
        self.blocks.append({"type": "tool_use", "id": identity, "name": tool, "input": json.loads(arguments)})


def texts(message: Json) -> list[str]:
    """A message's pieces of text, without the system's reminders."""
    content = message.get("content")
    if isinstance(content, str):
        parts = [content]
    else:
        parts = [block.get("text", "") for block in content or [] if block.get("type") == "text"]
    return [text for text in (REMINDER.sub("", part).strip() for part in parts) if text]


def results_of(message: Json) -> list[Json]:
    content = message.get("content")
    return [b for b in content if b.get("type") == "tool_result"] if isinstance(content, list) else []


def last_prompt(messages: list[Json]) -> tuple[str, list[Json]]:
    """The last text a user typed, and the tool results that came after it."""
    results: list[Json] = []
    for message in reversed(messages):
        if message.get("role") != "user":
            continue
        found, said = results_of(message), texts(message)
        if said and not found:
            return "\n".join(said), results
        if said and DIRECTIVE.search(said[-1]):  # typed while a tool ran: it travels beside the tool's result
            return said[-1], results
        results = found + results
    return "", results


def result_text(result: Json) -> str:
    content = result.get("content")
    if isinstance(content, list):
        content = " ".join(block.get("text", "") for block in content if isinstance(block, dict))
    return str(content or "").strip().replace("\n", " ")[:120]


def reply_to(body: Json, script: Script) -> Reply:
    """The answer that the last prompt asks for."""
    prompt, results = last_prompt(body.get("messages", []))
    reply = Reply()
    if COMPACT.search(prompt):
        reply.say("<analysis>stub</analysis>\n<summary>\n1. Primary request: STUB-SUMMARY of the talk.\n</summary>")
        reply.delay = script.mode.get("compact_delay", 0)
    elif body.get("output_config", {}).get("format") or "title" in json.dumps(body.get("system", ""))[:600].lower():
        reply.say('{"title": "Stub session title", "isNewTopic": true}')
    elif found := DIRECTIVE.search(prompt):
        follow(found, prompt, results, body, script, reply)
    else:
        reply.say("OK: " + prompt[:60].replace("\n", " "))
    return reply


def follow(found: re.Match[str], prompt: str, results: list[Json], body: Json, script: Script, reply: Reply) -> None:
    """Do what a directive says."""
    if found["say"]:
        reply.say(found["say"].strip().strip('"'))
    elif found["slow"]:
        seconds = float(found["slow"])
        words = max(1, int(seconds / 0.25))
        reply.say(" ".join(f"word{i}" for i in range(words)))
        reply.pace = seconds / words
    elif found["think"]:
        reply.delay = float(found["think"])
        reply.say("THOUGHT-DONE")
    elif found["tool"]:
        use_tool(found, results, body, reply)
    elif found["error"]:
        left = script.errors_left.setdefault(prompt, int(found["times"] or 10**9))
        if left > 0:
            script.errors_left[prompt] = left - 1
            reply.error = (int(found["error"]), found["why"].strip() or None)
        else:
            reply.say("RECOVERED")
    elif found["usage"]:
        reply.usage = int(found["usage"])
        reply.say(f"USAGE-SET {reply.usage}")
    elif found["drop"]:
        reply.drop = True
        reply.say("this answer is cut in the middle " * 5)
    else:
        lines = int(found["big"])
        reply.say("\n".join(f"line {i} of {lines}" for i in range(lines)))


def use_tool(found: re.Match[str], results: list[Json], body: Json, reply: Reply) -> None:
    """Ask for a tool, as often as the directive says, or tell what came of it."""
    turns, batch, tool, arguments = int(found["turns"] or 1), int(found["batch"] or 1), found["tool"], found["input"]
    if len(results) >= turns * batch or (found["batch"] and results):
        reply.say("TOOL-DONE " + (result_text(results[-1]) if results else ""))
        return
    if not results and turns == 1:
        reply.say(f"I will use {tool}.")
    if "$PLANFILE" in arguments:  # the plan file that the program names in its plan-mode reminder
        named = re.search(r"(/[^\s\"\\]+/plans/[^\s\"\\]+\.md)", json.dumps(body["messages"]))
        arguments = arguments.replace("$PLANFILE", named.group(1) if named else "/nonexistent.md")
    for i in range(batch):
        reply.call(tool, arguments.replace("%d", str(len(results) + i)))


def error_response(status: int, text: str | None = None, headers: Json | None = None) -> web.Response:
    kind, message = ERRORS.get(status, ("api_error", f"stub error {status}"))
    error = {"type": kind, "message": text or message}
    return web.json_response(
        {"type": "error", "error": error, "request_id": "req_stub" + uuid.uuid4().hex[:12]},
        status=status,
        headers={"request-id": "req_stub", **(headers or {})},
    )


async def messages(request: web.Request) -> web.StreamResponse:
    script = request.app[SCRIPT]
    body = await request.json()
    mode = script.mode
    await asyncio.sleep(mode.get("delay", 0))
    while script.mode.get("hold"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    if mode.get("error") and mode.get("count", 1) > 0:
        if "count" in mode:
            mode["count"] -= 1
        return error_response(mode["error"], mode.get("text"), mode.get("headers"))
    reply = reply_to(body, script)
    if reply.error:
        return error_response(*reply.error, mode.get("headers"))
    while script.mode.get("hold_answers"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await wait(script, reply.delay)
    tokens = reply.usage or mode.get("usage") or len(json.dumps(body)) // 4
    usage = {
        "input_tokens": 7,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": tokens,
        "output_tokens": 1,
        "service_tier": "standard",
    }
    head = {
        "id": "msg_stub" + uuid.uuid4().hex[:16],
        "type": "message",
        "role": "assistant",
        "model": body.get("model", "stub"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    headers = {"request-id": "req_stub" + uuid.uuid4().hex[:12], **mode.get("headers", {})}
    if body.get("stream"):
        return await stream(request, reply, head, headers)
    tail = {"content": reply.blocks, "stop_reason": stop_reason(reply), "usage": {**usage, "output_tokens": 20}}
    return web.json_response({**head, **tail}, headers=headers)


async def wait(script: Script, seconds: float) -> None:
    """So long, or until it is to hurry."""
    over = time.monotonic() + seconds
    while (left := over - time.monotonic()) > 0 and not script.mode.get("hurry"):  # noqa: ASYNC110
        await asyncio.sleep(min(left, 0.1))


def stop_reason(reply: Reply) -> str:
    return "tool_use" if any(block["type"] == "tool_use" for block in reply.blocks) else "end_turn"


async def stream(request: web.Request, reply: Reply, head: Json, headers: Json) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache", **headers})
    await response.prepare(request)

    async def send(kind: str, **data: Any) -> None:
        await response.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode())

    await send("message_start", message=head)
    for i, block in enumerate(reply.blocks):
        if block["type"] == "text":
            await send("content_block_start", index=i, content_block={"type": "text", "text": ""})
            for piece in re.findall(r"\S+\s*|\s+", block["text"]) if reply.pace else [block["text"]]:
                await send("content_block_delta", index=i, delta={"type": "text_delta", "text": piece})
                if reply.drop and request.transport is not None:
                    request.transport.close()
                    return response
                await wait(request.app[SCRIPT], reply.pace)
        else:
            await send("content_block_start", index=i, content_block={**block, "input": {}})
            arguments = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            await send("content_block_delta", index=i, delta=arguments)
        await send("content_block_stop", index=i)
    usage = {**head["usage"], "output_tokens": 20}
    await send("message_delta", delta={"stop_reason": stop_reason(reply), "stop_sequence": None}, usage=usage)
    await send("message_stop")
    return response


async def count_tokens(request: web.Request) -> web.Response:
    return web.json_response({"input_tokens": len(await request.text()) // 4})


async def models(_request: web.Request) -> web.Response:
    data = [{"type": "model", "id": m, "display_name": m, "created_at": "2025-10-01T00:00:00Z"} for m in MODELS]
    return web.json_response({"data": data, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]})


async def unknown(request: web.Request) -> web.Response:
    return error_response(404, f"stub has no {request.path}")


async def set_mode(request: web.Request) -> web.Response:
    request.app[SCRIPT].mode = await request.json()
    return web.json_response(request.app[SCRIPT].mode)


async def get_log(request: web.Request) -> web.Response:
    return web.json_response(request.app[SCRIPT].log)


async def reset(request: web.Request) -> web.Response:
    script = request.app[SCRIPT]
    script.log, script.mode, script.errors_left = [], {}, {}
    return web.json_response({})


@web.middleware
async def record(request: web.Request, handler: Any) -> web.StreamResponse:
    """Keep what was asked, and how it was answered, for the tests to read."""
    if request.path.startswith("/_stub/"):
        return await handler(request)
    started = time.time()
    raw = await request.text()
    entry: Json = {
        "t": started,
        "method": request.method,
        "path": request.path_qs,
        "headers": dict(request.headers),
    }
    try:
        body = json.loads(raw) if raw else None
    except ValueError:
        body = None
    if isinstance(body, dict) and "messages" in body:
        prompt, results = last_prompt(body["messages"])
        entry |= {
            "model": body.get("model"),
            "stream": body.get("stream"),
            "n_messages": len(body["messages"]),
            "tools": [tool.get("name") for tool in body.get("tools") or []],
            "prompt": prompt[:20000],
            "n_results": len(results),
        }
    request.app[SCRIPT].log.append(entry)
    try:
        response = await handler(request)
        entry["status"] = response.status
        return response
    except (ConnectionResetError, asyncio.CancelledError):
        entry["status"] = "client-gone"
        raise
    finally:
        entry["took"] = round(time.time() - started, 3)


def application() -> web.Application:
    app = web.Application(middlewares=[record], client_max_size=64 << 20)
    app[SCRIPT] = Script()
    app.router.add_post("/v1/messages", messages)
    app.router.add_post("/v1/messages/count_tokens", count_tokens)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/_stub/mode", set_mode)
    app.router.add_get("/_stub/log", get_log)
    app.router.add_post("/_stub/reset", reset)
    app.router.add_route("*", "/{tail:.*}", unknown)
    return app


async def serve(port: int) -> None:
    runner = web.AppRunner(application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="0: one that is free")
    asyncio.run(serve(parser.parse_args().port))
