"""A writer that is killed in the middle of a burst: nothing that it acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from fleet.clock import SystemClock
from fleet.hub.log import SqliteLog, verify
from fleet.hub.mailbox import PROJECTIONS, RECEIPT, Mailboxes, box
from fleet.hub.message import Message, Recipient
from fleet.hub.projection import MESSAGE, History
from tests.killed import told_until_killed

ROUNDS = 12
SENDERS = 32

pytestmark = pytest.mark.real

WRITER = """
import asyncio, os, sys
from pathlib import Path
from fleet.clock import SystemClock
from fleet.hub.log import SqliteLog
from fleet.hub.mailbox import PROJECTIONS, Change, Mailboxes, box
from fleet.hub.message import HandOver, Message, Recipient, Way

async def main(path, mark, senders):
    log = await SqliteLog.open(path, SystemClock(), PROJECTIONS, reserve=0)
    boxes = Mailboxes(log, SystemClock())
    log.tail(await boxes.load(), boxes.seen)

    async def send(sender):
        for n in range(1_000_000):
            key = f"{mark}-{sender}-{n}"
            message = Message(id=f"m-{key}", workspace="lab", sender=f"s{sender}", to=("bob",), text="x" * 200, at=0.0,
                              thread="t", idempotency_key=key)
            accepted = await boxes.accept(message, [Recipient(name="bob", since=0.0)], [box("lab", "bob")])
            os.write(1, f"{sender} {key} {accepted.seq}\\n".encode())
            if n % 4 == 0:
                await boxes.change([Change(message.id, box("lab", "bob"), HandOver(Way.TYPED))])
                os.write(1, f"handed {key} 0\\n".encode())

    await asyncio.gather(*(send(sender) for sender in range(senders)))

asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


def burst(path: Path, mark: str, enough: int) -> list[list[str]]:
    """What a writer had acknowledged when it was killed at work."""
    return told_until_killed(WRITER, str(path), mark, str(SENDERS), enough=enough)


async def everything(history: History) -> list:
    events, position = [], None
    while True:
        page = await history.read(after=position, limit=1000)
        events += page.events
        position = page.position
        if not page.more:
            return events


async def repeat(log: SqliteLog, keys: list[str]) -> None:
    """What a client does that was cut off: it sends all again, under the same keys."""
    boxes = Mailboxes(log, SystemClock())

    async def send(key: str) -> None:
        sender = key.split("-")[1]
        message = Message(
            id=f"m-again-{key}", workspace="lab", sender=f"s{sender}", to=("bob",), text="x" * 200, at=0.0, thread="t",
            idempotency_key=key,
        )  # fmt: skip
        await boxes.accept(message, [Recipient(name="bob", since=0.0)], [box("lab", "bob")])

    await asyncio.gather(*(send(key) for key in keys))


async def test_a_kill_in_a_burst_loses_nothing_acknowledged_and_a_replay_doubles_nothing(tmp_path):
    path = tmp_path / "hub.db"
    chance = random.Random(7)
    acknowledged: dict[str, int] = {}
    handed: set[str] = set()
    epochs = set()
    for number in range(ROUNDS):
        said = burst(path, f"r{number}", enough=chance.randint(1, 1500))
        acknowledged |= {key: int(seq) for sender, key, seq in said if sender != "handed"}
        handed |= {key for sender, key, _ in said if sender == "handed"}
        begun = [f"r{number}-{sender}-{n}" for sender in range(SENDERS) for n in range(last_of(said, sender) + 2)]

        log = await SqliteLog.open(path, SystemClock(), PROJECTIONS, reserve=0)
        history = History(log, SystemClock())
        epochs.add(log.epoch)
        await repeat(log, begun)
        events = await everything(history)
        stored = {event.key: event.seq for event in events if event.kind == MESSAGE}
        assert {key: stored.get(key) for key in acknowledged} == acknowledged
        assert Counter(e.key for e in events if e.kind == MESSAGE).most_common(1)[0][1] == 1
        assert set(begun) <= set(stored)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        facts = {event.data["message"]: event.data["recipient"] for event in events if event.kind == RECEIPT}
        assert {f"m-{key}" for key in handed} <= set(facts)
        states = await log.database.read(lambda c: c.execute("SELECT message, state FROM receipts").fetchall())
        assert {row["message"]: row["state"] for row in states} == {
            event.data["id"]: facts[event.data["id"]]["state"] if event.data["id"] in facts else "accepted"
            for event in events
            if event.kind == MESSAGE
        }
        await log.close()
        assert verify(path).problems == ()
    assert len(epochs) == 1
    assert len(acknowledged) > ROUNDS


def last_of(said: list[list[str]], sender: int) -> int:
    """The number of the last message that the sender had acknowledged; -1: none."""
    return max((int(key.split("-")[2]) for who, key, _ in said if who == str(sender)), default=-1)
