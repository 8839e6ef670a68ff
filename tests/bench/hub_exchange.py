"""How much the hub's engine costs: `python -m tests.bench.hub_exchange [SECONDS]`.

- send: one sender, a message to one agent, accepted and durable; the bare group commit of `hub_log` is the ceiling.
- pipeline: a scripted agent in the process takes each message from its box as a headless turn and replies to it, so
  that every message is accepted, handed over, proven, answered and counted. Messages a second, both ways.
- fan-out: a message to a channel that 500 hear.

The limits are raised in the settings, and evaluated all the same.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from fleet.clock import SystemClock
from fleet.hub.exchange import Caller, Card, Exchange, Role, Speaker
from fleet.hub.mailbox import Change, box
from fleet.hub.message import HandOver, Proven, Way
from fleet.settings import Settings
from tests.bench.hub_log import bare

MANY = 10**6
RAISED = replace(
    Settings(), hub_sender_rate=float(MANY), hub_sender_burst=MANY, hub_pair=MANY, hub_conversation=MANY,
    hub_conversation_total=10**9, hub_waiting=10**9,
)  # fmt: skip


async def measure(act: Callable[[int], Awaitable[object]], in_flight: int, seconds: float) -> tuple[float, float]:
    """Acts a second, and microseconds of processor for each."""
    numbers, done, end = itertools.count(), 0, time.perf_counter() + seconds

    async def one() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await act(next(numbers))
            done += 1

    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(one() for _ in range(in_flight)))
    took = time.perf_counter() - began
    return done / took, (time.process_time() - cpu) / done * 1e6


async def opened(folder: Path, *names: str) -> Exchange:
    exchange = await Exchange.open(folder, RAISED, SystemClock())
    for name in names:
        await exchange.enroll(Card(name=name, supervised=True), Speaker(name=name), ["#general"])
    return exchange


async def send(folder: Path, in_flight: int, seconds: float) -> tuple[float, float]:
    exchange = await opened(folder, "alice", "bob")
    alice = Caller("alice", Role.AGENT)
    try:
        return await measure(
            lambda n: exchange.send(alice, {"to": "bob", "text": "x" * 300, "idempotency_key": f"k{n}"}),
            in_flight,
            seconds,
        )
    finally:
        await exchange.close()


async def pipeline(folder: Path, in_flight: int, seconds: float) -> tuple[float, float]:
    exchange = await opened(folder, "alice", "bob")
    alice, bob = Caller("alice", Role.AGENT), Caller("bob", Role.AGENT)
    of = box("main", "bob")

    async def talk(n: int) -> None:
        sent = await exchange.send(alice, {"to": "bob", "text": "x" * 300, "intent": "ask"})
        await exchange.change([Change(sent.id, of, HandOver(Way.TURN))])
        await exchange.send(bob, {"reply_to": sent.id, "text": "done", "intent": "result"}, turn=sent.id)
        await exchange.change([Change(sent.id, of, Proven("turn"))])

    try:
        rate, cpu = await measure(talk, in_flight, seconds)
        return 2 * rate, cpu / 2
    finally:
        await exchange.close()


async def fan_out(folder: Path, in_flight: int, seconds: float) -> tuple[float, float]:
    exchange = await opened(folder, "alice", *(f"agent-{n}" for n in range(500)))
    alice = Caller("alice", Role.AGENT)
    try:
        return await measure(lambda n: exchange.send(alice, {"to": "#general", "text": "x" * 300}), in_flight, seconds)
    finally:
        await exchange.close()


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    wanted = sys.argv[2:]
    print(f"{'':24}{'1 in flight':>24}{'64 in flight':>24}")
    for what in (bare, send, pipeline, fan_out):
        if wanted and what.__name__ not in wanted:
            continue
        cells = []
        for in_flight in (1, 64):
            with tempfile.TemporaryDirectory(prefix="fl") as folder:
                path = Path(folder) / "hub.db" if what is bare else Path(folder)
                rate, cpu = asyncio.run(what(path, in_flight, seconds))
            cells.append(f"{rate:>10,.0f}/s {cpu:>6.1f} µs")
        print(f"{what.__name__:24}{cells[0]:>24}{cells[1]:>24}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
