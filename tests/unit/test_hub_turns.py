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
