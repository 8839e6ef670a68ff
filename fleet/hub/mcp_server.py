"""The table of tools as a server of the `mcp` library. Loaded when a program first asks for it (`mcp.py`)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import mcp_types as types
from mcp.server import Server as Library
from mcp.server.context import ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from fleet import __version__
from fleet.errors import FleetError
from fleet.hub import asgi, tools
from fleet.hub.exchange import Exchange
from fleet.hub.mcp import LARGEST
from fleet.mcp_shim import INSTRUCTIONS

Context = ServerRequestContext[Any, Any]


class Server:
    """An ASGI application. Made by `start`; `close` it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        library: Library[Any] = Library(
            "fleet",
            version=__version__,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
        )
        self._manager = StreamableHTTPSessionManager(
            library, json_response=True, stateless=True, max_request_body_size=LARGEST
        )
        self._leave = asyncio.Event()
        self._ready = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, exchange: Exchange) -> Server:
        """Ready to be asked."""
        server = cls(exchange)
        server._running = asyncio.ensure_future(server._run())
        await server._ready.wait()
        return server

    async def _run(self) -> None:
        """The library's own tasks are begun and ended by one and the same task."""
        async with self._manager.run():
            self._ready.set()
            await self._leave.wait()

    async def close(self) -> None:
        """End it, with what is being asked."""
        self._leave.set()
        if self._running is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        await self._manager.handle_request(scope, receive, send)

    # -- what it answers -------------------------------------------------------------------------------------------

    async def _list_tools(self, ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_tool(tool) for tool in tools.offered(_state(ctx).caller)])

    async def _call_tool(self, ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        state = _state(ctx)
        try:
            text = await tools.call(self._exchange, state.caller, params.name, params.arguments or {}, state.key)
        except FleetError as error:
            return types.CallToolResult(content=[_text(tools.refused(error))], is_error=True)
        return types.CallToolResult(content=[_text(text)])

    async def _list_prompts(self, ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=[_prompt(prompt) for prompt in tools.PROMPTS.values()])

    async def _get_prompt(self, ctx: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        prompt = tools.prompt(params.name)
        text = prompt.filled(params.arguments or {})
        return types.GetPromptResult(
            description=prompt.what, messages=[types.PromptMessage(role="user", content=_text(text))]
        )


def _state(ctx: Context) -> Any:
    """Who asks, and under which key (`mcp.py`)."""
    assert ctx.request is not None
    return ctx.request.state


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text)


def _tool(tool: tools.Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        description=tool.what,
        input_schema=tool.schema,
        annotations=types.ToolAnnotations(read_only_hint=tool.reads, open_world_hint=False),
    )


def _prompt(prompt: tools.Prompt) -> types.Prompt:
    return types.Prompt(
        name=prompt.name,
        description=prompt.what,
        arguments=[
            types.PromptArgument(name=name, description=what, required=name in prompt.needs)
            for name, what in prompt.takes.items()
        ],
    )
