"""A hub that is killed in a burst: what it accepted is there, once, and what it was asked comes to its one end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from fleet.clock import SystemClock
from fleet.hub.exchange import Caller, Exchange, Role
from fleet.hub.message import Outcome, Position, State
from fleet.hub.projection import MESSAGE
from tests.bench.hub_exchange import RAISED
from tests.killed import told_until_killed

ROUNDS = 5

pytestmark = pytest.mark.real

HUB = """
import asyncio, os, sys
from pathlib import Path
from fleet.clock import SystemClock
from fleet.hub.exchange import Caller, Card, Exchange, Role, Speaker
from fleet.hub.mailbox import Change, box
from fleet.hub.message import HandOver, Proven, Way
from tests.bench.hub_exchange import RAISED

async def main(folder, mark):
    exchange = await Exchange.open(folder, RAISED, SystemClock())
    for name in ("alice", "bob"):
        await exchange.enroll(Card(name=name, supervised=True), Speaker(name=name), ["#general"])
    alice, bob = Caller("alice", Role.AGENT), Caller("bob", Role.AGENT)
    of = box("main", "bob")

    def told(*words):
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())

    async def talk(who):
        for n in range(1_000_000):
            key = f"{mark}-{who}-{n}"
            to, intent = ("#general", "inform") if n % 3 == 2 else ("bob", "ask")
            body = {"to": to, "text": f"Number {n}", "idempotency_key": key, "intent": intent}
            sent = await exchange.send(alice, body)
            told("sent", key, sent.id, sent.position.seq)
            if to == "bob":
                await exchange.change([Change(sent.id, of, HandOver(Way.TURN))])
                told("handed", sent.id)
                reply = await exchange.send(bob, {"text": "Done", "intent": "result"}, turn=sent.id)
                told("answered", sent.id, reply.id)
                await exchange.change([Change(sent.id, of, Proven("turn"))])

    await asyncio.gather(*(talk(who) for who in range(16)))

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def burst(folder: Path, mark: str, enough: int) -> list[list[str]]:
    """What a hub had told when it was killed at work."""
    return told_until_killed(HUB, str(folder), mark, enough=enough)


async def test_a_kill_in_a_burst_loses_nothing_and_every_question_comes_to_the_end_that_was_told(tmp_path):
    chance = random.Random(5)
    for number in range(ROUNDS):
        told = burst(tmp_path, f"r{number}", chance.randint(1, 600))
        exchange = await Exchange.open(tmp_path, RAISED, SystemClock())
        alice, bob = Caller("alice", Role.AGENT), Caller("bob", Role.AGENT)
        try:
            await looked_at(exchange, alice, bob, told)
        finally:
            await exchange.close()


async def looked_at(exchange: Exchange, alice: Caller, bob: Caller, told: list[list[str]]) -> None:
    events, position, more = [], Position(exchange.log.epoch, 0), True
    while more:
        page = await exchange.history.read(kinds=[MESSAGE], after=position, limit=1000)
        events, position, more = events + page.events, page.position, page.more
    stored = {event.data["id"]: event for event in events}
    sent = {words[2]: words for words in told if words[0] == "sent"}
    assert {id: (event.key, str(event.seq)) for id, event in stored.items() if id in sent} == {
        id: (words[1], words[3]) for id, words in sent.items()
    }
    assert max(Counter(event.key for event in events if event.key).values()) == 1

    for _, id, reply in (words for words in told if words[0] == "answered"):
        ended = await exchange.ask_end(alice, id)
        assert (ended.outcome, ended.answer) == (Outcome.ANSWERED, reply)
        again = await exchange.send(bob, {"text": "Done", "intent": "result"}, turn=id)
        assert (again.id, again.duplicate) == (reply, True)

    handed = {words[1] for words in told if words[0] == "handed"}
    open_still = {m.message.id: m.recipient for m in await exchange.boxes.open(limit=100_000)}
    for id in handed & set(open_still):
        assert open_still[id].state is State.INJECTING

    repeats = [(words[1], id) for id, words in sent.items() if stored[id].data["to"] == ["bob"]][:50]
    for key, id in repeats:
        body = {"to": "bob", "text": stored[id].data["text"], "idempotency_key": key, "intent": "ask"}
        again = await exchange.send(alice, body)
        assert (again.id, again.duplicate) == (id, True)
    await asyncio.sleep(0)
    assert (await exchange.log.verify()).problems == ()
