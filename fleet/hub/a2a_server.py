"""A2A's messages and tasks as asks of the hub, by the `a2a` library. Loaded when somebody first asks (`a2a.py`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, NoReturn

from a2a.server.context import ServerCallContext
from a2a.server.events.event_queue import Event
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.types import a2a_pb2 as words
from a2a.utils.errors import (
    A2AError,
    ContentTypeNotSupportedError,
    InvalidParamsError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from starlette.requests import Request

from fleet import __version__
from fleet.errors import FleetError
from fleet.hub import asgi
from fleet.hub.auth import Caller
from fleet.hub.exchange import Exchange
from fleet.hub.message import ID, KEY, Outcome

Json = dict[str, Any]
_State = words.TaskState

STATES: Mapping[str | None, int] = {
    None: _State.TASK_STATE_WORKING,
    Outcome.ANSWERED: _State.TASK_STATE_COMPLETED,
    Outcome.DECLINED: _State.TASK_STATE_REJECTED,
    Outcome.FAILED: _State.TASK_STATE_FAILED,
    Outcome.TIMED_OUT: _State.TASK_STATE_FAILED,
    Outcome.EXPIRED: _State.TASK_STATE_FAILED,
    Outcome.CANCELLED: _State.TASK_STATE_CANCELED,
}
"""What each outcome of an ask is as a task's state."""

TEXT = "text/plain"
VERSION = "1.0"


class Server:
    """An ASGI application for `/a2a/NAME`, and the cards."""

    def __init__(self, exchange: Exchange) -> None:
        self._dispatcher = JsonRpcDispatcher(Asks(exchange), context_builder=_Caller())

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        response = await self._dispatcher.handle_requests(Request(scope, receive))
        await response(scope, receive, send)

    def card_of(self, member: Mapping[str, Any], url: str) -> Json:
        """An agent's card, as JSON."""
        return agent_card_to_dict(_card(member["name"], member["description"] or member["name"], [member], url))

    def card_of_all(self, members: Sequence[Mapping[str, Any]], url: str) -> Json:
        """The hub's card: a skill and an interface for each agent."""
        return agent_card_to_dict(_card("fleet", "A fleet of agents: each of its skills is one agent.", members, url))


def _card(name: str, about: str, members: Sequence[Mapping[str, Any]], url: str) -> words.AgentCard:
    bearer = words.SecurityScheme(http_auth_security_scheme=words.HTTPAuthSecurityScheme(scheme="Bearer"))
    return words.AgentCard(
        name=name,
        description=about,
        version=__version__,
        supported_interfaces=[
            words.AgentInterface(
                url=f"{url}/a2a/{member['name']}", protocol_binding="JSONRPC", protocol_version=VERSION
            )
            for member in members
        ],
        capabilities=words.AgentCapabilities(streaming=True, push_notifications=False),
        security_schemes={"token": bearer},
        security_requirements=[words.SecurityRequirement(schemes={"token": words.StringList()})],
        default_input_modes=[TEXT],
        default_output_modes=[TEXT],
        skills=[
            words.AgentSkill(
                id=member["name"],
                name=member["name"],
                description=member["description"] or member["name"],
                tags=list(member["capabilities"]) or [member["harness"] or "agent"],
            )
            for member in members
        ],
    )


class _Caller(DefaultServerCallContextBuilder):
    """Who asks, and whom: what `a2a.py` has found out."""

    def build(self, request: Request) -> ServerCallContext:
        context = super().build(request)
        context.state.update(caller=request.state.caller, agent=request.state.agent)
        return context


class Asks(RequestHandler):
    """Messages are asks, tasks are what became of them."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def on_message_send(self, params: words.SendMessageRequest, context: ServerCallContext) -> words.Task:
        """Ask; and wait for the one outcome, unless the client would rather come back for it."""
        id = await self._begin(params, context)
        if not params.configuration.return_immediately:
            await self._exchange.ask_end(_caller(context), id)
        return await self._task(id, context)

    async def on_message_send_stream(
        self, params: words.SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        """The same, told as it happens."""
        id = await self._begin(params, context)
        async for event in self._to_its_end(id, context):
            yield event

    async def on_subscribe_to_task(
        self, params: words.SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        """Follow a task that was begun before."""
        task = await self._task(params.id, context)
        if task.status.state != _State.TASK_STATE_WORKING:
            raise UnsupportedOperationError(message="The task is over.")
        async for event in self._to_its_end(params.id, context):
            yield event

    async def _to_its_end(self, id: str, context: ServerCallContext) -> AsyncGenerator[Event, None]:
        yield await self._task(id, context)
        await self._exchange.ask_end(_caller(context), id)
        yield await self._task(id, context)

    async def on_get_task(self, params: words.GetTaskRequest, context: ServerCallContext) -> words.Task:
        """How it stands."""
        return await self._task(params.id, context)

    async def on_cancel_task(self, params: words.CancelTaskRequest, context: ServerCallContext) -> words.Task:
        """Take the question back."""
        task = await self._task(params.id, context)
        if task.status.state != _State.TASK_STATE_WORKING:
            raise TaskNotCancelableError(message="The task is over.")
        try:
            await self._exchange.cancel(_caller(context), params.id)
        except FleetError as error:
            raise TaskNotCancelableError(message=str(error)) from error
        return await self._task(params.id, context)

    async def _begin(self, params: words.SendMessageRequest, context: ServerCallContext) -> str:
        message = params.message
        body: Json = {"to": context.state["agent"], "text": _text(message)}
        if message.task_id:
            task = await self._task(message.task_id, context)
            if task.status.state != _State.TASK_STATE_WORKING:
                raise UnsupportedOperationError(message="The task is over; send a message with its context instead.")
            raise UnsupportedOperationError(message="The agent is at work on it.")
        if message.context_id:
            if not ID.fullmatch(message.context_id):
                raise InvalidParamsError(message="`contextId` is one that this agent has given.")
            body["thread"] = message.context_id
        if KEY.fullmatch(message.message_id):
            body["idempotency_key"] = f"a2a:{message.message_id}"[:200]
        try:
            return (await self._exchange.ask_begin(_caller(context), body)).id
        except FleetError as error:
            raise _refused(error) from error

    async def _task(self, id: str, context: ServerCallContext) -> words.Task:
        """The ask by this id as a task. Raise `TaskNotFoundError` where the caller has none, or asked another agent."""
        try:
            told = await self._exchange.asked(_caller(context), id)
        except FleetError as error:
            raise TaskNotFoundError(message=f"There is no task {id[:60]}.") from error
        if told["asked"] != context.state["agent"]:
            raise TaskNotFoundError(message=f"There is no task {id[:60]} of this agent.")
        task = words.Task(id=id, context_id=told["thread"])
        task.status.state = STATES[told["outcome"]]  # type: ignore[assignment]
        if told.get("ended_at"):
            task.status.timestamp.FromMilliseconds(int(told["ended_at"] * 1000))
        answer = told.get("answer")
        if answer is not None:
            text = answer["text"] or ""
            said = words.Message(
                message_id=answer["id"], context_id=told["thread"], task_id=id, role=words.Role.ROLE_AGENT,
                parts=[words.Part(text=text)],
            )  # fmt: skip
            task.status.message.CopyFrom(said)
            task.artifacts.append(
                words.Artifact(artifact_id=answer["id"], name="answer", parts=[words.Part(text=text)])
            )
        elif told.get("reason"):
            task.status.message.CopyFrom(
                words.Message(
                    message_id=f"{id}-end",
                    context_id=told["thread"],
                    task_id=id,
                    role=words.Role.ROLE_AGENT,
                    parts=[words.Part(text=f"{told['outcome']}: {told['reason']}")],
                )
            )
        return task

    # -- what there is not -----------------------------------------------------------------------------------------

    async def on_list_tasks(
        self, params: words.ListTasksRequest, context: ServerCallContext
    ) -> words.ListTasksResponse:
        """Tasks are found by their ids, and by their conversations in the hub's own API."""
        raise UnsupportedOperationError(message="Tasks are not listed here.")

    async def on_get_extended_agent_card(
        self, params: words.GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> words.AgentCard:
        """The one card says all."""
        raise UnsupportedOperationError(message="There is no other card.")

    async def on_create_task_push_notification_config(self, params: Any, context: ServerCallContext) -> NoReturn:
        """The hub calls nobody."""
        raise PushNotificationNotSupportedError

    on_get_task_push_notification_config = on_create_task_push_notification_config
    on_list_task_push_notification_configs = on_create_task_push_notification_config
    on_delete_task_push_notification_config = on_create_task_push_notification_config


def _caller(context: ServerCallContext) -> Caller:
    caller: Caller = context.state["caller"]
    return caller


def _text(message: words.Message) -> str:
    """What is asked, in words: a part that is a file or data is refused, not left out."""
    if not message.parts:
        raise InvalidParamsError(message="The message has no part.")
    if any(part.WhichOneof("content") != "text" for part in message.parts):
        raise ContentTypeNotSupportedError(message="This agent takes text.")
    return "\n\n".join(part.text for part in message.parts)


def _refused(error: FleetError) -> A2AError:
    """A guardrail's no, in its words and by its name."""
    return InvalidParamsError(message=f"{error} ({error.code})")
