"""What a headless agent costs: one question and its answer, and the whole pipeline with runners in this process.

    python -m tests.bench.hub_turns [MESSAGES]

With MESSAGES only the last two, over so many, as a line of JSON. In a process of its own, which looks for cycles of
garbage as seldom as the daemon does.

- *ask, scripted runner*: accepted, handed over, one process (`cat`) run by the launcher, its answer sent, told.
- *ask, in this process*: the same where the turn is a coroutine: what the hub itself takes.
- *questions*, *messages*: the pipeline with turns of this process, each with a reply or without; limits raised and
  evaluated.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from fleet.clock import SystemClock
from fleet.daemon import collect_seldom
from fleet.hub.auth import Caller, Role
from fleet.hub.courier import Courier
from fleet.hub.exchange import Exchange
from fleet.hub.guardrails import Speaker
from fleet.hub.message import Message
from fleet.hub.reach import Reach, TurnEnd
from fleet.hub.registry import Card
from fleet.settings import Settings
from fleet.testing import ScriptedAgents
from tests.bench.measure import calm
from tests.turns import Desk

ALICE = Caller("alice", Role.OPERATOR)
RAISED = replace(
    Settings(), hub_sender_rate=1e6, hub_sender_burst=10**6, hub_pair=10**6, hub_conversation=10**6,
    hub_conversation_total=10**7, hub_waiting=10**6, hub_max_hops=10**6,
)  # fmt: skip


async def echo(message: Message) -> str:
    return message.text


class Processes(ScriptedAgents):
    """The same agents, their turns real processes."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(dict.fromkeys(desk.agents, echo))
        self.desk = desk

    async def turn(self, name: str, message: Message, text: str) -> TurnEnd:
        return await self.desk.turns.turn(name, message, text)


@asynccontextmanager
async def hub(folder: Path, agents: ScriptedAgents) -> AsyncIterator[Exchange]:
    clock = SystemClock()
    exchange = await Exchange.open(folder, RAISED, clock)
    for name in agents.answers:
        await exchange.enroll(Card(name=name, supervised=True), Speaker(name=name), ())
    reach: Reach = agents
    courier = Courier(exchange, reach, clock)
    serving = asyncio.create_task(courier.run())
    yield exchange
    await courier.close()
    await serving
    await exchange.close()


async def asks(exchange: Exchange, count: int) -> list[float]:
    """Seconds from a question to its answer, one after the other."""
    took = []
    for number in range(count):
        began = time.perf_counter()
        ask = await exchange.ask(ALICE, {"to": "a0", "text": f"question {number}"}, 30)
        took.append(time.perf_counter() - began)
        assert ask.outcome is not None and ask.outcome.value == "answered", ask
    return took


async def silent(message: Message) -> str:
    return ""


async def pipeline(exchange: Exchange, agents: ScriptedAgents, count: int, flight: int) -> float:
    """Messages a second through all of it: accepted, handed over, its turn run, its end written down."""
    names = list(agents.answers)
    room = asyncio.Semaphore(flight)
    began = time.perf_counter()

    async def one(number: int) -> None:
        async with room:
            await exchange.send(ALICE, {"to": names[number % len(names)], "text": f"work {number}"})

    await asyncio.gather(*(one(number) for number in range(count)))
    while any(exchange.boxes.waiting(f"main/@{name}") for name in names) or len(agents.turns) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.002)
    return count / (time.perf_counter() - began)


async def answered(exchange: Exchange, agents: ScriptedAgents, count: int, flight: int) -> float:
    """The same where each is a question with its answer: two messages."""
    names = list(agents.answers)
    room = asyncio.Semaphore(flight)

    async def one(number: int) -> None:
        async with room:
            ask = await exchange.ask(ALICE, {"to": names[number % len(names)], "text": f"work {number}"}, 120)
            assert ask.outcome is not None and ask.outcome.value == "answered", ask

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(count)))
    return 2 * count / (time.perf_counter() - began)


def show(name: str, took: list[float]) -> None:
    ordered = sorted(took)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(f"{name:28} p50 {statistics.median(took) * 1000:6.1f} ms   p99 {p99 * 1000:6.1f} ms")


async def pipelines(count: int) -> tuple[float, float]:
    """Messages a second, a turn for each; and each with its answer."""
    names = [f"a{number}" for number in range(16)]
    with tempfile.TemporaryDirectory(prefix="fl") as folder:
        quiet = ScriptedAgents(dict.fromkeys(names, silent), max_parallel=8)
        async with hub(Path(folder) / "quiet", quiet) as exchange:
            rate = await pipeline(exchange, quiet, count, 64)
        calm()
        echoing = ScriptedAgents(dict.fromkeys(names, echo), max_parallel=8)
        async with hub(Path(folder) / "echoing", echoing) as exchange:
            return rate, await answered(exchange, echoing, count // 2, 64)


async def costs() -> None:
    """Everything, for a person."""
    with tempfile.TemporaryDirectory(prefix="fl") as folder:
        home = Path(folder)
        desk = Desk(home, {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": folder})
        desk.agent("a0", harness="shell", command=("cat",))
        real = Processes(desk)
        async with hub(home / "real", real) as exchange:
            show("ask, scripted runner", await asks(exchange, 60))
        await desk.close()
        scripted = ScriptedAgents({"a0": echo})
        async with hub(home / "scripted", scripted) as exchange:
            show("ask, in this process", await asks(exchange, 200))
    messages, questions = await pipelines(4000)
    print(f"questions, 64 in flight       {questions:8.0f} messages/s")
    print(f"messages, 64 in flight        {messages:8.0f} messages/s")


def main() -> None:
    collect_seldom()
    if len(sys.argv) > 1:
        print(json.dumps(asyncio.run(pipelines(int(sys.argv[1])))))
    else:
        asyncio.run(costs())


if __name__ == "__main__":
    main()
