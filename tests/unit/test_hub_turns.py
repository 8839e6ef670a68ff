"""Scripted headless agents in this process: the exchange, the courier, and turns that are coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fleet.clock import SystemClock
from fleet.hub.auth import Caller, Role
from fleet.hub.courier import Courier
from fleet.hub.exchange import Exchange
from fleet.hub.message import Message
from fleet.hub.reach import TurnEnd
from fleet.settings import Settings
from fleet.testing import ScriptedAgents

ALICE = Caller("alice", Role.OPERATOR)


@asynccontextmanager
async def hub(
    folder: Path, answers: dict[str, Callable[[Message], Awaitable[str | TurnEnd]]], max_parallel: int = 1
) -> AsyncIterator[tuple[Exchange, ScriptedAgents]]:
    clock = SystemClock()
    exchange = await Exchange.open(folder, Settings(), clock)
    agents = ScriptedAgents(answers, max_parallel=max_parallel)
    await agents.enroll(exchange)
    courier = Courier(exchange, agents, clock)
    serving = asyncio.create_task(courier.run())
    try:
        yield exchange, agents
    finally:
        await courier.close()
        await serving
        await exchange.close()


async def echo(message: Message) -> str:
    return f"you said {message.text}"


async def test_an_ask_is_answered_by_the_turn_it_causes(tmp_path: Path) -> None:
    async with hub(tmp_path, {"clerk": echo}) as (exchange, agents):
        ask = await exchange.ask(ALICE, {"to": "clerk", "text": "hello"}, 30)
        told = await exchange.ask_json(ask)
        assert (told["outcome"], told["answer"]["text"]) == ("answered", "you said hello")
        ((name, message, prompt),) = agents.turns
        assert name == "clerk" and message.id in prompt and "hello" in prompt


async def test_a_turn_that_declines_or_fails_is_the_asks_one_outcome(tmp_path: Path) -> None:
    async def declines(message: Message) -> TurnEnd:
        return TurnEnd(ok=True, declined=True, reason="declined")

    async def fails(message: Message) -> TurnEnd:
        return TurnEnd(ok=False, reason="timed_out")

    async def dies(message: Message) -> TurnEnd:
        return TurnEnd(ok=False, reason="died", again=True)

    async with hub(tmp_path, {"shy": declines, "slow": fails, "weak": dies}) as (exchange, agents):
        told = [
            await exchange.ask_json(await exchange.ask(ALICE, {"to": name, "text": "hello"}, 30))
            for name in ("shy", "slow", "weak")
        ]
        assert [one["outcome"] for one in told] == ["declined", "failed", "failed"]
        assert [name for name, _, _ in agents.turns] == ["shy", "slow", "weak", "weak", "weak"]


async def test_mail_of_an_agent_that_is_down_waits_and_is_taken_up_once_when_it_returns(tmp_path: Path) -> None:
    async with hub(tmp_path, {"clerk": echo}) as (exchange, agents):
        agents.stop("clerk")
        asked = await exchange.ask_begin(ALICE, {"to": "clerk", "text": "hello"}, 30)
        agents.start("clerk")
        told = await exchange.ask_json(await exchange.ask_end(ALICE, asked.id))
        assert told["outcome"] == "answered" and len(agents.turns) == 1


async def test_of_a_long_backlog_all_is_served_once_in_order_past_what_is_paused(tmp_path: Path) -> None:
    running: set[str] = set()
    served = asyncio.Queue[str]()
    most = 0

    async def busy(message: Message) -> str:
        nonlocal most
        running.add(message.id)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.remove(message.id)
        served.put_nowait(message.id)
        return ""

    async with hub(tmp_path, {"clerk": busy}, max_parallel=2) as (exchange, agents):
        agents.stop("clerk")
        sent = [await exchange.send(ALICE, {"to": "clerk", "text": f"work {number}"}) for number in range(60)]
        paused, free = [one.id for one in sent[:20]], [one.id for one in sent[20:]]
        threads = [(await exchange.receipt(ALICE, id))["thread"] for id in paused]
        for thread in threads:
            await exchange.thread_act(ALICE, thread, "pause")
        agents.start("clerk")
        assert [await served.get() for _ in free] == free
        for id in paused:
            [recipient] = (await exchange.receipt(ALICE, id))["recipients"]
            assert (recipient["state"], recipient["reason"]) == ("queued", "paused")
        for thread in threads:
            await exchange.thread_act(ALICE, thread, "resume")
        assert [await served.get() for _ in paused] == paused
        assert (len(agents.turns), most) == (len(sent), 2)
