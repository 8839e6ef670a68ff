"""The daemon is killed again and again while agents talk: what was accepted is done, once. Black-box."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from fleet import SyncClient
from tests.e2e.fleets import kill, until
from tests.e2e.talk import Talk, spoken, talking

pytestmark = pytest.mark.real

WORKERS = ("k1", "k2", "k3")
MESSAGES = 48
KILLS = 6


def client(talk: Talk, name: str) -> SyncClient:
    """A program that speaks under that name, and goes on where the hub is away for a while."""
    return SyncClient("127.0.0.1", talk.port, token=talk.caller(name).token, patience=100)


def test_what_was_accepted_is_done_and_a_turn_that_has_ended_is_never_run_again() -> None:
    with talking() as talk:
        talk.cast(dict.fromkeys(WORKERS, "sleep 0.05; echo Done $FLEET_MESSAGE_ID."), headless={"max_parallel": 2})
        accepted: dict[str, str] = {}

        def speak(hub: SyncClient, number: int) -> None:
            with hub:
                for n in range(MESSAGES // 2):
                    to = WORKERS[(n + number) % len(WORKERS)]
                    accepted[hub.send(to, f"{number}: {n}", intent="ask").id] = to

        with ThreadPoolExecutor(2) as pool:
            speakers = [pool.submit(speak, client(talk, f"speaker-{n}"), n) for n in range(2)]
            chance = random.Random(9)
            for _ in range(KILLS):
                before = len(accepted)
                until(
                    lambda before=before: len(accepted) > before or all(s.done() for s in speakers), "some are accepted"
                )
                time.sleep(chance.uniform(0, 0.4))  # the moment: anywhere between accepting, turn and reply
                kill(talk.daemon_pid(), signal.SIGKILL)
                talk.answers_again()
        for speaker in speakers:
            speaker.result()
        assert len(accepted) == MESSAGES
        talk.find_port()
        for id, to in accepted.items():
            assert talk.settled(id, to) == "answered"
        ends = Counter(id for name in WORKERS for id in talk.notes(name, "end"))
        assert set(ends) == set(accepted), "none is lost"
        assert max(ends.values()) == 1, "a turn that has ended is not run again"
        replies = Counter(
            e["data"]["reply_to"] for e in spoken(talk.operator.events(), "message") if e["data"]["sender"] in WORKERS
        )
        assert replies == Counter(dict.fromkeys(accepted, 1)), "each is answered once"
        assert talk.json("hub", "verify")["ok"]


def test_a_turn_that_ends_while_there_is_no_daemon_is_answered_by_the_next_and_not_run_again() -> None:
    with talking() as talk:
        talk.cast({"bob": "gate go; echo Done."})
        sent = talk.caller("alice").send("bob", "Do it", intent="ask")
        until(lambda: talk.turns("bob"), "its turn runs")
        pid, keeper = talk.daemon_pid(), talk.keeper_pid()
        assert keeper is not None
        kill(keeper, signal.SIGSTOP)
        try:
            kill(pid, signal.SIGKILL)
            talk.open_gate("go")
            until(lambda: talk.notes("bob", "end"), "its turn has ended")
        finally:
            kill(keeper, signal.SIGCONT)
        talk.answers_again()
        talk.find_port()
        assert talk.settled(sent["id"], "bob") == "answered"
        assert talk.turns("bob") == [sent["id"]]
        assert [m["text"] for m in talk.operator.inbox("alice")] == ["Done."]


def test_agents_that_talk_with_each_other_come_to_the_same_end_when_the_daemon_is_killed() -> None:
    with talking() as talk:
        talk.cast(dict.fromkeys(("ann", "ben"), "sleep 0.1; echo And what of $FLEET_MESSAGE_ID?"))
        sent = talk.caller("ann").send("ben", "Begin", max_hops=12)
        for kills in range(4):
            done = 1 + 2 * kills
            until(lambda done=done: len(talk.turns("ann")) + len(talk.turns("ben")) >= done, "they talk")
            kill(talk.daemon_pid(), signal.SIGKILL)
            talk.answers_again()
        talk.find_port()
        thread = talk.operator.message(sent["id"])["thread"]
        until(lambda: len(talk.operator.thread(thread)) >= 12, f"it comes to its end\n{talk.log()}")
        talk.quiet()
        assert [m["hops"] for m in talk.operator.thread(thread)] == list(range(12))
        ends = [*talk.notes("ann", "end"), *talk.notes("ben", "end")]
        assert len(ends) == len(set(ends)) == 12
        assert talk.operator.inbox("ann", waiting="1") == talk.operator.inbox("ben", waiting="1") == []
