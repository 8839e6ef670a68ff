"""A2A on the real hub, with the library's own client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fleet.clock import SystemClock
from fleet.hub.auth import Caller, Role
from fleet.hub.exchange import Card, Exchange, Speaker
from fleet.hub.host import HubServer
from fleet.settings import Places, Settings

a2a_client = pytest.importorskip("a2a.client", reason="A2A is an extra: pip install 'agent-fleet[a2a]'")
from a2a.types import a2a_pb2 as words  # noqa: E402
from a2a.utils.errors import A2AError  # noqa: E402

DEADLINE = 100.0


class Hub:
    """A hub in which the agent `web` can be asked by A2A, and `shy` cannot."""

    def __init__(self, exchange: Exchange, url: str, token: str, web: Caller) -> None:
        self.exchange, self.url, self.token, self.web = exchange, url, token, web

    @contextlib.asynccontextmanager
    async def client(self, agent: str = "web", token: str | None = None) -> AsyncIterator[Any]:
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=DEADLINE) as http:
            config = a2a_client.ClientConfig(httpx_client=http, streaming=False)
            yield await a2a_client.create_client(f"{self.url}/a2a/{agent}", client_config=config)

    async def answer(self, text: str | None) -> str:
        """The agent reads its mail and answers, or declines; what it read."""
        async with asyncio.timeout(DEADLINE):
            while not (mail := await self.exchange.take(self.web)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        if text is None:
            await self.exchange.decline(self.web, mail[0]["id"], "not my field")
        else:
            await self.exchange.send(self.web, {"reply_to": mail[0]["id"], "text": text})
        return str(mail[0]["text"])


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    places = Places(config=tmp_path / "config", state=tmp_path / "state", run=tmp_path / "run")
    settings = Settings(hub_orochi_ws_port=-1, hub_orochi_http_port=-1)
    (tmp_path / "state" / "hub").mkdir(parents=True)
    exchange = await Exchange.open(tmp_path / "state" / "hub", settings, SystemClock())
    for name in ("web", "shy"):
        card = Card(name=name, description=f"what {name} is for", capabilities=("python",), a2a=name == "web")
        await exchange.enroll(card, Speaker(name=name), [])
    server = HubServer(exchange, settings, places)
    await server.start()
    _, token = await exchange.tokens.create(Role.AGENT, "visitor", by="test")
    _, web = await exchange.tokens.create(Role.AGENT, "web", by="test")
    caller = exchange.tokens.check(web)
    assert caller is not None
    yield Hub(exchange, server.info()["url"], token, caller)
    await server.close()
    await exchange.close()


def asked(text: str, **more: Any) -> Any:
    message = words.Message(
        message_id=more.pop("id", "m1"), role=words.Role.ROLE_USER, parts=[words.Part(text=text)], **more
    )
    return words.SendMessageRequest(message=message)


async def last(events: AsyncIterator[Any]) -> Any:
    """The task, as the last event tells it."""
    task = None
    async for event in events:
        task = event.task if event.HasField("task") else task
    assert task is not None
    return task


async def test_a_message_is_an_ask_and_its_answer_the_tasks_artifact(hub: Hub) -> None:
    async with hub.client() as client:
        sending = asyncio.ensure_future(last(client.send_message(asked("Which port is it?"))))
        assert await hub.answer("9559") == "Which port is it?"
        task = await sending
        assert task.status.state == words.TaskState.TASK_STATE_COMPLETED
        assert [part.text for part in task.artifacts[0].parts] == ["9559"]
        again = await client.get_task(words.GetTaskRequest(id=task.id))
        assert again == task, "it is read from the log"
        goes_on = asyncio.ensure_future(
            last(client.send_message(asked("And then?", id="m2", context_id=task.context_id)))
        )
        await hub.answer("That was all.")
        assert (await goes_on).context_id == task.context_id


async def test_an_agent_that_declines_rejects_the_task(hub: Hub) -> None:
    async with hub.client() as client:
        sending = asyncio.ensure_future(last(client.send_message(asked("Will you?"))))
        await hub.answer(None)
        task = await sending
        assert task.status.state == words.TaskState.TASK_STATE_REJECTED
        assert "not my field" in task.status.message.parts[0].text


async def test_who_does_not_wait_comes_back_for_it_or_takes_it_back(hub: Hub) -> None:
    async with hub.client() as client:
        request = asked("Later?")
        request.configuration.return_immediately = True
        task = await last(client.send_message(request))
        assert task.status.state == words.TaskState.TASK_STATE_WORKING
        gone = await client.cancel_task(words.CancelTaskRequest(id=task.id))
        assert gone.status.state == words.TaskState.TASK_STATE_CANCELED
        with pytest.raises(A2AError):
            await client.cancel_task(words.CancelTaskRequest(id=task.id))
        with pytest.raises(A2AError):
            await client.get_task(words.GetTaskRequest(id="m-aaaaaaaaaaaaaaaa"))


async def test_a_task_is_told_as_it_happens(hub: Hub) -> None:
    headers = {"Authorization": f"Bearer {hub.token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=DEADLINE) as http:
        config = a2a_client.ClientConfig(httpx_client=http, streaming=True)
        client = await a2a_client.create_client(f"{hub.url}/a2a/web", client_config=config)
        events = client.send_message(asked("Stream?"))
        first = await anext(events)
        assert first.task.status.state == words.TaskState.TASK_STATE_WORKING
        await hub.answer("streamed")
        rest = [event async for event in events]
        assert rest[-1].task.status.state == words.TaskState.TASK_STATE_COMPLETED


async def test_the_cards_name_who_can_be_asked_and_nobody_else(hub: Hub) -> None:
    headers = {"Authorization": f"Bearer {hub.token}"}
    async with httpx2.AsyncClient(timeout=DEADLINE) as http:
        path = "/.well-known/agent-card.json"
        assert (await http.get(hub.url + path)).status_code == 401
        card = (await http.get(hub.url + path, headers=headers)).json()
        assert [skill["id"] for skill in card["skills"]] == ["web"]
        mine = (await http.get(f"{hub.url}/a2a/web{path}", headers=headers)).json()
        assert mine["name"] == "web" and mine["supportedInterfaces"][0]["url"] == f"{hub.url}/a2a/web"
        assert (await http.get(f"{hub.url}/a2a/shy{path}", headers=headers)).status_code == 404
        assert (await http.post(f"{hub.url}/a2a/shy", headers=headers, json={})).status_code == 404
        assert (await http.post(f"{hub.url}/a2a/web", json={})).status_code == 401


async def test_what_the_agent_cannot_take_is_refused_by_name(hub: Hub) -> None:
    async with hub.client() as client:
        picture = words.Message(message_id="p", role=words.Role.ROLE_USER, parts=[words.Part(raw=b"x")])
        with pytest.raises(A2AError):
            await last(client.send_message(words.SendMessageRequest(message=picture)))
        with pytest.raises(A2AError, match="too_large"):
            await last(client.send_message(asked("x" * 70_000)))
