"""Conversations of scripted agents on the hub's engine, over a log on the disk, until they fall silent."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import threading
from collections.abc import AsyncIterator
from itertools import count

import pytest

from fleet.clock import SteadyClock
from fleet.db import READERS
from fleet.errors import StorageError
from fleet.hub.exchange import Caller, Exchange, Refused, Role
from fleet.hub.mailbox import Change, box
from fleet.hub.message import Answer, Code, HandOver, Ids, Message, Nature, Outcome, Position, Receipt, Verb, Way
from fleet.hub.shown import presence_of
from fleet.settings import Settings
from fleet.terms import Activity
from tests.stage import BOSS, HEADLESS, INTERACTIVE, Died, Stage, with_
from tests.waiting import DEADLINE, until

DAY = 86_400.0
ALICE, BOB, CAROL = (Caller(name, Role.AGENT) for name in ("alice", "bob", "carol"))


@pytest.fixture
async def stage(tmp_path) -> AsyncIterator[Stage]:
    async with Stage(tmp_path) as made:
        yield made


def echo(message: Message) -> str:
    return f"I heard {message.text[:20]!r}. And you?"


# -- convergence and guards ------------------------------------------------------------------------------------


async def test_a_question_and_its_answer_are_two_messages_and_one_turn_each(stage):
    await stage.join("alice")
    await stage.join("bob", lambda message: "order_id (a uuid)")
    asked = await stage.sent("alice", "bob", "Which field?", intent="ask")
    await stage.run()
    assert [m["hops"] for m in await stage.messages()] == [0, 1]
    assert [name for name, _ in stage.turns] == ["bob", "alice"]
    end = await stage.exchange.ask_end(ALICE, asked)
    assert (end.outcome, end.answer) == (Outcome.ANSWERED, (await stage.messages())[1]["id"])
    assert (await stage.pending(), stage.refused) == ([], [])


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("chosen_by", ["fleet", "sender"])
async def test_two_that_always_reply_run_as_many_turns_as_there_are_hops(tmp_path, limit, chosen_by):
    settings = with_(hub_max_hops=limit if chosen_by == "fleet" else 16)
    async with Stage(tmp_path, settings) as stage:
        await stage.join("alice", echo)
        await stage.join("bob", echo)
        await stage.say("alice", "bob", "Hello?", max_hops=limit if chosen_by == "sender" else 64)
        await stage.run()
        assert len(stage.turns) == limit
        assert [m["hops"] for m in await stage.messages()] == list(range(limit))
        assert stage.refused == [Code.HOP_LIMIT]
        assert stage.refusals[0][1].refusal.facts["hop"] == limit
        assert await stage.pending() == []
        head = await until_quiet(stage)
        assert await stage.later(DAY) == 0
        assert await until_quiet(stage) == head


async def until_quiet(stage: Stage) -> int:
    """The head of the log once nothing more comes into it."""
    head, log = -1, stage.exchange.log
    while head != log.head or not log.idle:
        head = log.head
        await asyncio.sleep(0.05)
    return head


async def test_a_conversation_that_an_agent_opens_in_its_turn_inherits_its_hops(tmp_path):
    async with Stage(tmp_path, with_(hub_max_hops=3)) as stage:
        await stage.join("carol", ways=INTERACTIVE)
        await stage.join("alice", ways=INTERACTIVE)

        async def passing_on(message: Message) -> None:
            await stage.sent("bob", "carol", "Look at this", max_hops=64)

        await stage.join("bob", passing_on, ways=INTERACTIVE)
        await stage.say("alice", "bob", "Tell carol")
        await stage.run()
        first, second = await stage.messages()
        assert second["thread"] != first["thread"]
        assert (second["hops"], second["max_hops"], second["cause"]) == (1, 3, first["id"])
        stage.end_turn("bob")
        await stage.sent("bob", "carol", "A thought of my own")
        assert (await stage.messages())[-1]["hops"] == 0


async def test_what_an_agent_is_at_work_on_outlives_the_daemon(stage):
    for name in ("alice", "bob", "carol"):
        await stage.join(name, ways=INTERACTIVE)
    first = await stage.sent("alice", "bob", "Tell carol")
    await stage.run()
    await stage.again()
    await stage.sent("bob", "carol", "Look at this")
    assert (await stage.messages())[-1]["cause"] == first


async def test_an_agent_whose_turns_nobody_sees_answers_what_was_last_said_to_it(stage):
    for caller in (ALICE, BOB, CAROL):
        await stage.exchange.tokens.create(Role.AGENT, caller.name, by="operator")
    first = await stage.sent(ALICE, "bob", "Hello")
    await stage.sent(BOB, "alice", "Hello yourself")
    await stage.sent(BOB, "carol", "Something else")
    await stage.clock.turn(121)
    await stage.sent(BOB, "alice", "Much later")
    assert [(m["hops"], m["cause"]) for m in (await stage.messages())[1:]] == [(1, first), (0, None), (0, None)]


async def test_a_person_talks_to_an_agent_for_as_long_as_they_like(stage):
    await stage.join("bob", lambda message: "Done")
    for number in range(10):
        await stage.sent(BOSS, "bob", f"Number {number}")
        await stage.run()
    said = await stage.messages()
    assert [(m["sender"], m["hops"]) for m in said] == [("operator", 0), ("bob", 1)] * 10
    await stage.sent(BOSS, "bob", "Now to that", reply_to=said[-1]["id"])
    assert (await stage.messages())[-1]["hops"] == 2, "what a person says to a message belongs to it"


async def test_what_is_said_to_a_person_causes_no_turn_and_counts_for_nobody(tmp_path):
    few = with_(hub_pair=2, hub_conversation=2, hub_conversation_total=2)
    async with Stage(tmp_path, few) as stage:
        await stage.join("alice")
        await stage.join("bob", lambda message: None if message.sender == "alice" else "Done")
        first = await stage.sent(BOSS, "bob", "Number 0")
        await stage.run()
        thread = (await stage.messages())[0]["thread"]
        for number in range(1, 9):
            await stage.sent(BOSS, "bob", f"Number {number}", thread=thread)
        await stage.run()
        await stage.sent("bob", None, "And one thing more", reply_to=first)
        said = [m["sender"] for m in await stage.messages()]
        assert (said.count("bob"), stage.refused) == (10, [])
        await stage.again()
        await stage.sent("bob", "operator", "That is all")
        await stage.sent("bob", "alice", "Between us")
        await stage.sent("bob", "alice", "And again")
        assert (await refused(stage.say("bob", "alice", "A third"))).code is Code.PAIR_LIMITED


async def test_a_person_who_does_not_read_is_answered_all_the_same(tmp_path):
    async with Stage(tmp_path, with_(hub_waiting=2)) as stage:
        await stage.join("bob", lambda message: "Done")
        for number in range(3):
            await stage.sent(BOSS, "bob", f"Number {number}")
            await stage.run()
        said = [m for m in await stage.messages() if m["sender"] == "bob"]
        [stands] = (await stage.exchange.receipt(BOSS, said[-1]["id"]))["recipients"]
        assert (len(said), stands["state"], stands["reason"]) == (3, "failed", "mailbox_full")
        asked = await stage.sent(BOSS, "bob", "And now?", intent="ask")
        await stage.run()
        assert (await stage.exchange.ask_end(BOSS, asked)).outcome is Outcome.ANSWERED
        assert [m["text"] for m in await stage.exchange.take(BOSS)] == ["Done", "Done"]


async def test_two_that_shout_into_a_channel_at_each_other_come_to_an_end(tmp_path):
    async with Stage(tmp_path, with_(hub_max_hops=4)) as stage:
        for caller in (ALICE, BOB):
            await stage.exchange.tokens.create(Role.AGENT, caller.name, by="operator")
        said: list[Receipt | Refused] = []
        while len(said) < 20 and not (said and isinstance(said[-1], Refused)):
            who, other = (ALICE, "bob") if len(said) % 2 == 0 else (BOB, "alice")
            said.append(await stage.say(who, "#general", f"@{other} I heard you, {other}. Number {len(said)}?"))
        assert [m["hops"] for m in await stage.messages()] == [0, 1, 2, 3]
        assert stage.refused == [Code.HOP_LIMIT]


async def test_five_a_minute_of_eight_at_once_and_one_more_a_minute_later(tmp_path):
    async with Stage(tmp_path, with_(hub_pair=5)) as stage:
        await stage.join("alice")
        await stage.join("bob")
        answers = await asyncio.gather(*(stage.say("alice", "bob", f"Number {n}") for n in range(8)))
        await stage.run()
        assert len(stage.turns) == 5
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        assert [one.refusal.code for one in refused] == [Code.PAIR_LIMITED] * 3
        assert refused[0].refusal.retry_after == 60.0
        await stage.later(59)
        assert isinstance(await stage.say("alice", "bob", "Too soon"), Refused)
        await stage.later(1)
        assert isinstance(await stage.say("alice", "bob", "Number 9"), Receipt)
        await stage.run()
        assert len(stage.turns) == 6


async def test_what_was_counted_outlives_the_daemon(tmp_path):
    async with Stage(tmp_path, with_(hub_pair=5, hub_conversation_total=3)) as stage:
        for name in ("alice", "bob"):
            await stage.join(name)
        first = await stage.sent("alice", "bob", "One")
        thread = (await stage.messages())[0]["thread"]
        await stage.sent("bob", "alice", "Two", reply_to=first)
        await stage.sent("alice", "bob", "Three", thread=thread)
        for number in range(3):
            await stage.sent("alice", "bob", f"Elsewhere {number}")
        await stage.again()
        assert (await refused(stage.say("bob", "alice", "Four", thread=thread))).code is Code.CONVERSATION_EXHAUSTED
        assert (await refused(stage.say("alice", "bob", "A sixth"))).code is Code.PAIR_LIMITED


async def refused(saying):
    answer = await saying
    assert isinstance(answer, Refused), answer
    return answer.refusal


async def test_the_same_key_twice_is_one_turn_and_the_second_is_answered_as_the_first(stage):
    await stage.join("alice")
    await stage.join("bob", lambda message: "Done")
    first = await stage.say("alice", "bob", "Once", idempotency_key="k-1")
    await stage.run()
    for again in (stage.again, None, None):
        if again is not None:
            await again()
        second = await stage.say("alice", "bob", "Once", idempotency_key="k-1")
        assert isinstance(first, Receipt)
        assert isinstance(second, Receipt)
        assert (second.id, second.position, second.duplicate) == (first.id, first.position, True)
    await stage.run()
    assert [name for name, _ in stage.turns] == ["bob", "alice"]
    other = await refused(stage.say("alice", "bob", "Something else", idempotency_key="k-1"))
    assert other.code is Code.ID_TAKEN
    at_once = await asyncio.gather(*(stage.say("alice", "bob", "Twice", idempotency_key="k-2") for _ in range(8)))
    assert len({receipt.id for receipt in at_once}) == 1
    assert sum(not receipt.duplicate for receipt in at_once) == 1


async def test_a_repeat_lists_who_the_first_listed_of_a_large_channel(stage):
    for number in range(60):
        await stage.join(f"a{number:02}")
    await stage.join("bob", channels=[])
    for more, named in (({}, []), ({"reply": "@bob"}, ["bob"])):
        text = f"Hello {more.get('reply', '')}"
        key = f"k-{len(named)}"
        first = await stage.say("a07", "#general", text, idempotency_key=key)
        for again in (None, stage.again):
            if again is not None:
                await again()
            repeat = await stage.say("a07", "#general", text, idempotency_key=key)
            assert repeat.to_json() == {**first.to_json(), "duplicate": True}
        names = [r["name"] for r in first.to_json()["recipients"]]
        assert names == [*(f"a{n:02}" for n in range(51) if n != 7), *named]


async def test_a_repeat_is_answered_although_its_like_would_be_refused_now(stage):
    for name in ("alice", "bob"):
        await stage.join(name)
    first = await stage.say("alice", "bob", "Once", idempotency_key="k-1")
    await stage.exchange.thread_act(BOSS, (await stage.messages())[0]["thread"], Verb.TERMINATE)
    await stage.again()
    thread = (await stage.messages())[0]["thread"]
    again = await stage.say("alice", "bob", "Once", idempotency_key="k-1", thread=thread)
    assert isinstance(again, Receipt)
    assert (again.id, again.duplicate) == (first.id, True)


async def test_a_message_for_one_changes_nothing_for_another(stage):
    for name in ("alice", "bob", "carol"):
        await stage.join(name)
    await stage.say("alice", "bob", "For you")
    await stage.run()
    assert (await stage.exchange.inbox(BOSS, "carol"))["messages"] == []
    assert "carol" not in {name for name, _ in stage.turns}
    id = (await stage.messages())[0]["id"]
    for verb in (
        stage.exchange.receipt(CAROL, id),
        stage.exchange.decline(CAROL, id),
        stage.exchange.react(CAROL, id, "👍"),
        stage.exchange.cancel(CAROL, id),
        stage.exchange.delete(CAROL, id),
        stage.exchange.edit(CAROL, id, "mine"),
        stage.exchange.send(CAROL, {"reply_to": id, "text": "I heard that"}),
    ):
        with pytest.raises(Refused) as no:
            await verb
        assert no.value.refusal.code is Code.UNKNOWN_MESSAGE
    assert (await stage.exchange.read(CAROL))["messages"] == []
    assert (await stage.exchange.search(CAROL, "you"))["messages"] == []


@pytest.mark.parametrize("suppress", [True, False])
async def test_thanks_go_nowhere_and_questions_do(stage, suppress):
    def courteous(message: Message) -> str | None:
        if "order_id" not in message.text:
            return "Thanks — could you confirm the field name?"
        return "Sounds great, thanks!"

    await stage.join("alice", courteous, suppress_thanks=suppress)
    await stage.join("bob", lambda m: {0: "It is in the orders.", 2: "order_id (a uuid)"}.get(m.hops))
    await stage.sent("alice", "bob", "Which field?", intent="ask")
    await stage.run()
    said = await stage.messages()
    assert [m["hops"] for m in said[:4]] == [0, 1, 2, 3]
    assert [m["text"] for m in said[4:]] == ([] if suppress else ["Sounds great, thanks!"])
    assert stage.refused == ([Code.ONLY_THANKS] if suppress else [])


# -- crashes ---------------------------------------------------------------------------------------------------


async def test_a_turn_that_dies_is_taken_again_once(stage):
    tries = count(1)

    def fragile(message: Message) -> str:
        if next(tries) == 1:
            raise Died
        return "Done"

    await stage.join("alice")
    await stage.join("bob", fragile)
    asked = await stage.sent("alice", "bob", "Do it", intent="ask")
    await stage.run()
    assert stage.handed_over(asked, "bob") == 2
    assert (await stage.exchange.ask_end(ALICE, asked)).outcome is Outcome.ANSWERED
    assert sum(m["sender"] == "bob" for m in await stage.messages()) == 1


async def test_a_turn_whose_end_was_not_noted_does_not_speak_twice(stage):
    await stage.join("alice")
    await stage.join("bob")
    asked = await stage.sent("alice", "bob", "Do it", intent="task")
    body = {"text": "Done", "intent": "result"}
    first = await stage.exchange.send(BOB, body, turn=asked)
    await stage.again()
    second = await stage.exchange.send(BOB, body, turn=asked)
    assert (second.id, second.duplicate) == (first.id, True)
    assert len(await stage.messages()) == 2


async def test_poison_is_set_aside_after_three_tries_and_the_asker_hears_of_it(stage):
    def dying(message: Message) -> str:
        raise Died

    await stage.join("alice")
    await stage.join("bob", dying)
    asked = await stage.sent("alice", "bob", "Die", intent="ask")
    await stage.run()
    assert stage.handed_over(asked, "bob") == 3
    ended = await stage.exchange.ask_end(ALICE, asked)
    assert (ended.outcome, ended.reason) == (Outcome.FAILED, "set_aside: turn_died")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("text", Code.WRONG_TYPE),
        ({"to": "bob"}, Code.MISSING),
        ({"to": "bob", "text": "x" * 200_000}, Code.TOO_LARGE),
        ({"to": "bob", "text": "a\x07b"}, Code.CONTROL_CHARACTERS),
        ({"to": "bob", "text": "\ud800"}, Code.INVALID_UNICODE),
        ({"to": "bob", "text": "x", "metadata": {"a": float("nan")}}, Code.WRONG_TYPE),
        ({"to": "bob", "text": "x", "metadata": {"a": float("inf")}}, Code.WRONG_TYPE),
        ({"to": "bob", "text": "x", "thread": "t-aaaaaaaaaaaaaaaa"}, Code.UNKNOWN_THREAD),
        ({"to": "bob", "text": "x", "reply_to": "m-aaaaaaaaaaaaaaaa"}, Code.UNKNOWN_MESSAGE),
        ({"to": "alice", "text": "x"}, Code.BAD_VALUE),
        ({"to": "bob", "text": "x", "attachments": [{"sha256": "a" * 64, "name": "x", "size": 1}]}, Code.BAD_VALUE),
    ],
)
async def test_poison_is_refused_at_the_door_and_leaves_nothing_but_the_note_of_it(stage, body, code):
    await stage.join("alice")
    await stage.join("bob")
    with pytest.raises(Refused) as no:
        await stage.exchange.send(ALICE, body)
    assert no.value.refusal.code is code
    assert await stage.messages() == []
    [note] = await until(stage.audit)
    assert (note["kind"], note["data"]["code"], note["sender"]) == ("refused", code.value, "alice")


async def test_a_flood_of_refusals_is_counted_not_kept(stage):
    await stage.join("alice")
    for _ in range(300):
        await stage.say("alice", "nobody", "Hello")
    await stage.clock.turn(5)
    await stage.say("alice", "nobody", "Hello")
    await stage.again()
    notes = [event["data"] for event in await stage.audit()]
    assert len(notes) == 51
    assert sum(1 + note["more"] for note in notes) == 301


# -- routing and presence --------------------------------------------------------------------------------------


async def test_a_reply_to_a_name_nobody_has_creates_nothing(stage):
    await stage.join("alice")
    await stage.join("bob")
    head = stage.exchange.log.head
    no = await refused(stage.say("alice", "bobb", "Hello"))
    assert (no.code, no.facts["nearest"]) == (Code.UNKNOWN_RECIPIENT, ["bob"])
    with pytest.raises(Refused, match="Did you mean bob"):
        await stage.exchange.read(BOSS, with_="bobb")
    assert (await stage.exchange.read(BOSS, with_="bob"))["messages"] == []
    assert await stage.messages() == []
    assert await stage.exchange.threads(BOSS) == []
    assert [e.kind for e in (await stage.exchange.history.read(after=position(stage, head))).events] in (
        [],
        ["refused"],
    )


def position(stage: Stage, seq: int) -> Position:
    return Position(stage.exchange.log.epoch, seq)


async def test_mail_for_who_is_away_waits_and_comes_once_in_order_together(stage):
    await stage.join("alice")
    bob = await stage.join("bob", ways=INTERACTIVE)
    bob.up = False
    ids = [await stage.sent("alice", "bob", f"Number {n}") for n in range(3)]
    await stage.run()
    assert [(await stage.states(id))["bob"] for id in ids] == [("queued", "offline")] * 3
    head = stage.exchange.log.head
    assert await stage.later(DAY) == 0
    assert stage.exchange.log.head == head
    await stage.again()
    bob.up = True
    await stage.run()
    assert stage.turns == [("bob", tuple(ids))]
    assert await stage.later(DAY) == 0


async def test_busy_is_never_offline(stage):
    await stage.join("bob")
    stage.exchange.presence = lambda name: {"phase": "running", "activity": "working"}
    stage.exchange.announce("bob")
    await stage.clock.turn(600)
    stage.exchange.announce("bob")
    assert stage.exchange.member(ALICE, "bob")["presence"] == "busy"
    stage.exchange.presence = lambda name: {"phase": "unverifiable"}
    assert stage.exchange.member(ALICE, "bob")["presence"] == "unknown"

    async def heard():
        events = (await stage.exchange.history.read(streams=["main/!members"], kinds=["presence"])).events
        return [event.data["presence"] for event in events]

    assert await until(heard) == ["busy"]


async def test_a_late_joiner_is_given_nothing_from_before_its_time_unless_it_asks(stage):
    await stage.join("alice")
    await stage.sent("alice", "#general", "Early news")
    await stage.join("carol")
    await stage.sent("alice", "#general", "Late news")
    await stage.again()
    assert [m["text"] for m in (await stage.exchange.inbox(CAROL, "carol"))["messages"]] == ["Late news"]
    assert [m["text"] for m in await stage.exchange.take(CAROL)] == ["Late news"]
    asked = await stage.exchange.read(CAROL, channel="general")
    assert [m["text"] for m in asked["messages"]] == ["Early news", "Late news"]


async def test_a_full_box_refuses_the_next_with_that_reason_until_some_is_read(tmp_path):
    async with Stage(tmp_path, with_(hub_waiting=3, hub_pair=100)) as stage:
        for name in ("alice", "bob"):
            await stage.join(name)
        at_once = await asyncio.gather(*(stage.say("alice", "bob", f"Number {n}") for n in range(5)))
        assert sum(isinstance(answer, Receipt) for answer in at_once) == 3
        assert set(stage.refused) == {Code.MAILBOX_FULL}
        for number in range(5):
            await stage.sent("alice", "#general", f"News {number}")
        assert len(await stage.exchange.take(BOB, limit=1)) == 1
        await stage.sent("alice", "bob", "There is room again")


# -- who may do what -------------------------------------------------------------------------------------------


async def test_the_token_decides_who_speaks(stage):
    await stage.join("alice")
    await stage.join("bob")
    body = {"to": "bob", "text": "It is me, carol", "sender": "carol", "from": "carol", "name": "carol"}
    await stage.exchange.send(ALICE, body)
    assert [m["sender"] for m in await stage.messages()] == ["alice"]


async def test_an_agent_cannot_do_what_is_an_operators(stage):
    await stage.join("alice")
    await stage.join("bob")
    await stage.sent("alice", "bob", "Hello")
    thread = (await stage.messages())[0]["thread"]
    exchange = stage.exchange
    viewer = Caller("eve", Role.VIEWER)
    operators = {
        "act": lambda caller: exchange.thread_act(caller, thread, Verb.PAUSE),
        "remove": lambda caller: exchange.remove(caller, "carol"),
        "join": lambda caller: exchange.join(caller, "#ops", who="bob"),
        "tokens": lambda caller: exchange.list_tokens(caller),
        "token": lambda caller: exchange.create_token(caller, {"role": "agent", "name": "mallory"}),
        "invite": lambda caller: exchange.invite(caller, {}),
        "workspace": lambda caller: exchange.create_workspace(caller, "lab"),
    }
    for caller in (ALICE, viewer):
        for what, act in operators.items():
            with pytest.raises(Refused) as no:
                await act(caller)
            assert no.value.refusal.code is Code.NOT_ALLOWED, (caller, what)
    with pytest.raises(Refused):
        await exchange.audit(ALICE)
    with pytest.raises(Refused):
        await exchange.inbox(ALICE, "bob")
    for act in (
        exchange.send(viewer, {"to": "bob", "text": "Hello"}),
        exchange.join(viewer, "#general"),
        exchange.set_status(viewer, {"status": "here"}),
        exchange.take(viewer),
    ):
        with pytest.raises(Refused) as no:
            await act
        assert no.value.refusal.code is Code.NOT_ALLOWED
    assert len((await exchange.inbox(viewer, "bob"))["messages"]) == 1
    assert "eve" not in [member["name"] for member in exchange.members(ALICE)]
    with pytest.raises(Refused) as no:
        await exchange.send(ALICE, {"to": "bob", "text": "x"}, nature=Nature.PROMPT)
    assert no.value.refusal.code is Code.NOT_ALLOWED


# -- broadcast -------------------------------------------------------------------------------------------------


async def test_an_announcement_is_in_every_inbox_and_runs_no_turn(stage):
    await stage.join("alice")
    others = [f"agent-{n}" for n in range(80)]
    for name in others:
        await stage.join(name, echo)
    news = await stage.sent("alice", "#general", "The build is green")
    await stage.run()
    assert stage.turns == []
    assert await stage.states(news) == dict.fromkeys(others, ("queued", "no_wake"))
    for name in others[:3]:
        assert [m["id"] for m in (await stage.exchange.inbox(BOSS, name, waiting=True))["messages"]] == [news]
    assert len(await stage.messages()) == 1


async def test_a_question_to_all_gets_a_reply_of_each_and_none_is_broadcast(stage):
    await stage.join("alice", wake=True)
    others = [f"agent-{n}" for n in range(5)]
    for name in others:
        await stage.join(name, lambda message: "Here!")
    await stage.sent("alice", "#general", "Who is there", wake=True)
    await stage.run()
    assert sorted(name for name, _ in stage.turns if name != "alice") == others
    assert [m["to"] for m in (await stage.messages())[1:]] == [["alice"]] * 5


async def test_who_may_not_wake_all_is_told_so(stage):
    await stage.join("alice")
    await stage.join("bob")
    assert (await refused(stage.say("alice", "#general", "Wake up", wake=True))).code is Code.WAKE_NOT_ALLOWED


async def test_who_was_away_hears_of_an_announcement_on_return_once(stage):
    await stage.join("alice")
    bob = await stage.join("bob", ways=INTERACTIVE)
    bob.up = False
    news = [await stage.sent("alice", "#general", f"News {n}") for n in range(3)]
    await stage.run()
    await stage.again()
    bob.up = True
    await stage.run()
    assert stage.turns == []
    question = await stage.sent("alice", "bob", "And your part?")
    await stage.run()
    assert stage.turns == [("bob", (*news, question))]
    assert (await stage.states(news[0]))["bob"] == ("delivered", None)
    stage.end_turn("bob")
    await stage.again()
    await stage.sent("alice", "bob", "And?")
    await stage.run()
    assert len(stage.turns) == 2
    assert len(stage.turns[1][1]) == 1


async def test_the_inbox_holds_what_was_heard_and_what_was_said_to_one_in_their_order(stage):
    for name in ("alice", "bob"):
        await stage.join(name)
    texts = []
    for number in range(6):
        texts.append(f"Number {number}")
        await stage.sent("alice", "#general" if number % 2 else "bob", texts[-1])
    exchange = stage.exchange
    assert [m["text"] for m in (await exchange.inbox(BOB, "me"))["messages"]] == texts
    assert [m["text"] for m in (await exchange.inbox(BOB, "bob", newest=True, limit=3))["messages"]] == texts[3:]
    page = await exchange.inbox(BOB, "bob", limit=4)
    after = Position.parse(page["position"]).seq
    assert [m["text"] for m in (await exchange.inbox(BOB, "bob", after=after))["messages"]] == texts[4:]
    assert [m["text"] for m in await exchange.take(BOB, limit=4)] == texts[:4]
    assert [m["text"] for m in (await exchange.inbox(BOB, "bob", waiting=True))["messages"]] == texts[4:]
    assert [m["text"] for m in await exchange.take(BOB)] == texts[4:]
    assert await exchange.take(BOB) == []
    states = {str(m["recipient"]["state"]) for m in (await exchange.inbox(BOB, "bob"))["messages"]}
    assert states == {"delivered"}


async def test_two_that_take_together_are_given_nothing_twice(stage):
    for name in ("alice", "bob"):
        await stage.join(name)
    ids = [await stage.sent("alice", "#general" if n % 2 else "bob", f"Number {n}") for n in range(10)]
    taken = await asyncio.gather(*(stage.exchange.take(BOB, limit=4) for _ in range(4)))
    assert sorted(m["id"] for some in taken for m in some) == sorted(ids)


async def test_a_paused_conversation_in_a_channel_keeps_no_other_mail_back_and_is_not_passed_over(stage):
    for name in ("alice", "bob"):
        await stage.join(name)
    held = await stage.sent("alice", "#general", "Hold this")
    thread = (await stage.messages())[0]["thread"]
    await stage.exchange.thread_act(BOSS, thread, Verb.PAUSE)
    direct, later = await stage.sent("alice", "bob", "For you"), await stage.sent("alice", "#general", "Later")
    assert [m["id"] for m in await stage.exchange.take(BOB)] == [direct]
    await stage.exchange.thread_act(BOSS, thread, Verb.RESUME)
    assert [m["id"] for m in await stage.exchange.take(BOB)] == [held, later]


# -- the operator ----------------------------------------------------------------------------------------------


async def test_a_paused_conversation_waits_without_work_and_is_delivered_once_when_it_resumes(stage):
    await stage.join("alice")
    await stage.join("bob", lambda message: "Done")
    first = await stage.sent("alice", "bob", "Begin")
    await stage.run()
    thread = (await stage.messages())[0]["thread"]
    await stage.exchange.thread_act(BOSS, thread, Verb.PAUSE)
    held = await stage.sent("alice", "bob", "Go on", reply_to=first)
    await stage.run()
    assert (await stage.states(held))["bob"] == ("queued", "paused")
    head = stage.exchange.log.head
    for _ in range(5):
        await stage.later(2)
    assert stage.exchange.log.head == head
    await stage.again()
    assert await stage.run() == 0
    await stage.exchange.thread_act(BOSS, thread, Verb.RESUME)
    await stage.run()
    assert stage.handed_over(held, "bob") == 1


async def test_a_terminated_conversation_is_over_until_it_is_revived(stage):
    await stage.join("alice")
    bob = await stage.join("bob", lambda message: "Done")
    bob.up = False
    asked = await stage.sent("alice", "bob", "Begin", intent="ask")
    thread = (await stage.messages())[0]["thread"]
    stopped = []
    stage.exchange.on_thread(lambda workspace, changed: stopped.append((workspace, changed.id, changed.state.value)))
    await stage.exchange.thread_act(BOSS, thread, Verb.TERMINATE, "enough")
    assert stopped == [("main", thread, "terminated")]
    assert (await stage.exchange.ask_end(ALICE, asked)).outcome is Outcome.CANCELLED
    no = await refused(stage.say("alice", "bob", "Still there?", thread=thread))
    assert no.code is Code.THREAD_TERMINATED
    assert (await stage.exchange.thread_act(BOSS, thread, Verb.RESUME)).state.value == "terminated"
    await stage.again()
    bob.up = True
    assert await stage.run() == 0
    assert (await stage.exchange.thread_act(BOSS, thread, Verb.REVIVE)).state.value == "revived"
    await stage.sent("alice", "bob", "Again", thread=thread)
    await stage.run()
    assert [name for name, _ in stage.turns] == ["bob", "alice"]
    transcript = await stage.exchange.transcript(BOSS, thread)
    assert [(act["verb"], act["was"], act["state"], act["by"]) for act in transcript["acts"]] == [
        ("terminate", "active", "terminated", "operator"),
        ("resume", "terminated", "terminated", "operator"),
        ("revive", "terminated", "revived", "operator"),
    ]


async def test_the_audit_has_every_act_in_order_also_after_retention(tmp_path):
    async with Stage(tmp_path, with_(hub_kept_days=1)) as stage:
        for name in ("alice", "bob"):
            await stage.join(name)
        await stage.sent("alice", "bob", "Begin")
        await stage.run()
        thread = (await stage.messages())[0]["thread"]
        for verb in (Verb.PAUSE, Verb.RESUME):
            await stage.exchange.thread_act(BOSS, thread, verb)
            await stage.clock.turn(60)
        await stage.exchange.send(BOSS, {"to": "bob", "text": "Stop that"}, nature=Nature.PROMPT)
        await stage.exchange.thread_act(BOSS, thread, Verb.TERMINATE)
        await stage.run()
        before = await stage.audit()
        await stage.clock.turn(2 * DAY)
        await stage.sent("alice", "bob", "News")
        assert await stage.exchange.housekeep() > 0
        assert [m["text"] for m in await stage.messages()] == ["News"]
        assert await stage.audit() == before
        acts = [(e["data"].get("verb", e["kind"]), e["sender"]) for e in before]
        assert acts == [(v, "operator") for v in ("pause", "resume", "prompted", "terminate")]
        assert [e["at"] for e in before] == sorted(e["at"] for e in before)
        assert (await stage.exchange.log.verify()).ok


# -- asking ----------------------------------------------------------------------------------------------------


async def test_an_ask_returns_when_its_answer_is_there_and_the_answer_is_not_given_again(stage):
    for name in ("alice", "bob"):
        await stage.join(name, ways=INTERACTIVE)
    asking = asyncio.create_task(stage.exchange.ask(ALICE, {"to": "bob", "text": "Which?"}, 60))
    await until(lambda: stage.run())
    [asked] = await stage.messages()
    await stage.sent("bob", None, "That one", reply_to=asked["id"])
    ended = await asking
    told = await stage.exchange.ask_json(ended)
    assert (told["outcome"], told["answer"]["text"], told["id"]) == ("answered", "That one", asked["id"])
    await stage.run()
    assert [name for name, _ in stage.turns] == ["bob"]
    assert (await stage.states(ended.answer or ""))["alice"] == ("delivered", None)


async def test_an_ask_that_nobody_answers_ends_at_its_time_and_a_late_answer_is_found_by_its_thread(stage):
    for name in ("alice", "bob"):
        await stage.join(name, ways=INTERACTIVE)
    asking = asyncio.create_task(stage.exchange.ask(ALICE, {"to": "bob", "text": "Which?"}, 60))
    await until(lambda: stage.run())
    await stage.clock.turn(59)
    assert not asking.done()
    await stage.clock.turn(1)
    ended = await asking
    assert (ended.outcome, ended.ended_at) == (Outcome.TIMED_OUT, ended.deadline)
    late = await stage.sent("bob", None, "Sorry, that one", reply_to=ended.message)
    await stage.run()
    assert stage.handed_over(late, "alice") == 1
    transcript = await stage.exchange.transcript(ALICE, ended.thread)
    assert [m["text"] for m in transcript["messages"]] == ["Which?", "Sorry, that one"]
    assert (await stage.exchange.ask_end(ALICE, ended.message)).outcome is Outcome.TIMED_OUT
    await stage.again()
    assert (await stage.exchange.asked(ALICE, ended.message))["outcome"] == "timed_out"


async def test_who_declines_ends_the_ask(stage):
    for name in ("alice", "bob"):
        await stage.join(name)
    asking = asyncio.create_task(stage.exchange.ask(ALICE, {"to": "bob", "text": "Which?"}, 60))
    [asked] = await until(stage.messages)
    await stage.exchange.decline(BOB, asked["id"], "not my part")
    ended = await asking
    assert (ended.outcome, ended.reason) == (Outcome.DECLINED, "not my part")
    with pytest.raises(Refused) as no:
        await stage.exchange.cancel(BOB, asked["id"])
    assert no.value.refusal.code is Code.NOT_ALLOWED


async def test_its_asker_can_take_a_question_back(stage):
    for name in ("alice", "bob"):
        await stage.join(name, ways=INTERACTIVE)
    asking = asyncio.create_task(stage.exchange.ask(ALICE, {"to": "bob", "text": "Which?"}, 60))
    [asked] = await until(stage.messages)
    await stage.run()
    await stage.exchange.cancel(ALICE, asked["id"])
    assert (await asking).outcome is Outcome.CANCELLED


async def test_a_question_whose_time_to_be_delivered_is_over_expires(stage):
    await stage.join("alice")
    (await stage.join("bob")).up = False
    asked = await stage.sent("alice", "bob", "Which?", intent="ask", expires_in=30)
    await stage.run()
    await stage.clock.turn(31)

    async def ended():
        return (await stage.exchange.asked(ALICE, asked))["outcome"]

    assert await until(ended) == "expired"
    assert (await stage.states(asked))["bob"] == ("expired", "expired")


async def test_questions_outlive_the_daemon(stage):
    for name in ("alice", "bob"):
        await stage.join(name)
    answered, late, forgotten = [
        (await stage.exchange.ask_begin(ALICE, {"to": "bob", "text": f"Number {n}"}, 60)).id for n in range(3)
    ]
    await stage.sent("bob", None, "In time", reply_to=answered)
    await stage.again()
    assert (await stage.exchange.ask_end(ALICE, answered)).outcome is Outcome.ANSWERED
    waiting = asyncio.create_task(stage.exchange.ask_end(ALICE, late))
    await asyncio.sleep(0)
    await stage.sent("bob", None, "In time too", reply_to=late)
    assert (await waiting).outcome is Outcome.ANSWERED
    await stage.exchange.close()
    await stage.clock.turn(3600)
    await stage.__aenter__()
    ended = await stage.exchange.ask_end(ALICE, forgotten)
    assert (ended.outcome, ended.ended_at) == (Outcome.TIMED_OUT, ended.deadline)


async def test_a_question_has_one_end_whatever_comes_together(stage):
    for name in ("alice", "bob"):
        await stage.join(name)
    for number in range(10):
        asked = (await stage.exchange.ask_begin(ALICE, {"to": "bob", "text": f"Number {number}"}, 60)).id
        answer = stage.say("bob", None, "That one", reply_to=asked)
        decline = stage.exchange.decline(BOB, asked)
        done = await asyncio.gather(answer, decline, stage.exchange.cancel(ALICE, asked), return_exceptions=True)
        assert not [one for one in done if isinstance(one, Exception) and not isinstance(one, Refused)]
        first = await stage.exchange.ask_end(ALICE, asked)
        assert first.outcome in (Outcome.ANSWERED, Outcome.DECLINED, Outcome.CANCELLED)
        assert await stage.exchange.ask_end(ALICE, asked) == first
        await stage.clock.turn(10)
    events = (await stage.exchange.history.read(kinds=["ask_ended"], limit=100)).events
    assert len(events) == len({event.data["message"] for event in events}) == 10


# -- growth ----------------------------------------------------------------------------------------------------


async def test_recipients_work_in_parallel(stage):
    """A conversation whose turn goes on does not hold up another."""
    go_on = asyncio.Event()

    async def slow(message: Message) -> str:
        await go_on.wait()
        return "At last"

    await stage.join("alice")
    await stage.join("bob", slow)
    await stage.join("carol", lambda message: "At once")
    of_bob = asyncio.create_task(stage.exchange.ask(ALICE, {"to": "bob", "text": "Which?"}, 60))
    of_carol = asyncio.create_task(stage.exchange.ask(ALICE, {"to": "carol", "text": "Which?"}, 60))
    await until(lambda: _said(stage, 2))
    running = [asyncio.create_task(stage._serve(stage.actors[name])) for name in ("bob", "carol")]
    assert (await of_carol).outcome is Outcome.ANSWERED
    assert not of_bob.done()
    go_on.set()
    assert (await of_bob).outcome is Outcome.ANSWERED
    await asyncio.gather(*running)


async def _said(stage: Stage, many: int) -> bool:
    return len(await stage.messages()) >= many


async def test_the_plan_of_every_hot_question_uses_an_index(tmp_path):
    """With many messages stored, what is asked again and again looks at few rows."""
    async with Stage(tmp_path, with_(hub_sender_rate=0.0, hub_sender_burst=10**6, hub_waiting=10**6)) as stage:
        for name in ("alice", "bob"):
            await stage.join(name)
        steps: list[int] = []
        for many in (50, 1500):
            said = len(await stage.messages()) if many == 50 else 50
            for start in range(said, many, 50):
                await asyncio.gather(
                    *(stage.say(BOSS, "bob" if n % 2 else "#general", f"Number {n}") for n in range(start, start + 50))
                )
            steps.append(await _work(stage))
        assert steps[1] <= 2 * steps[0]


async def _work(stage: Stage) -> int:
    """How many steps SQLite's machine makes for the newest pages."""
    exchange, counted = stage.exchange, 0

    def step() -> int:
        nonlocal counted
        counted += 1
        return 0

    async def everywhere(handler) -> None:
        met = threading.Barrier(READERS)  # else one connection could be met twice, and another not at all

        def watch(connection) -> None:
            met.wait(DEADLINE)
            connection.set_progress_handler(handler, 1)

        await asyncio.gather(*(exchange.log.database.read(watch) for _ in range(READERS)))

    await everywhere(step)
    await exchange.read(BOB, channel="general", limit=20)
    await exchange.read(BOB, with_="operator", limit=20)
    await exchange.inbox(BOB, "bob", newest=True, limit=20)
    await exchange.inbox(BOB, "bob", limit=20)
    await exchange.events(BOB, exchange.log.position, 20)
    await exchange.threads(BOSS, limit=20)
    await everywhere(None)
    return counted


# -- what was said, changed ------------------------------------------------------------------------------------


async def test_what_was_said_can_be_changed_by_who_said_it_and_only_as_a_new_fact(stage):
    for name in ("alice", "bob", "carol"):
        await stage.join(name)
    exchange = stage.exchange
    id = await stage.sent("alice", "#general", "Helo @bob")
    await exchange.edit(ALICE, id, "Hello @bob")
    await exchange.react(BOB, id, "👍")
    await exchange.react(CAROL, id, "👍")
    await exchange.react(CAROL, id, "👍", on=False)
    shown = await exchange.receipt(CAROL, id)
    assert (shown["text"], shown["reactions"], shown["edited_at"]) == ("Hello @bob", {"👍": ["bob"]}, stage.clock.now())
    for act in (exchange.edit(BOB, id, "mine"), exchange.edit(BOSS, id, "mine"), exchange.delete(BOB, id)):
        with pytest.raises(Refused) as no:
            await act
        assert no.value.refusal.code is Code.NOT_ALLOWED
    kinds = [e.kind for e in (await exchange.history.read(streams=["main/#general"])).events]
    assert kinds == ["message", "edit", "reaction", "reaction", "reaction"]
    await exchange.delete(BOSS, id)
    await exchange.delete(BOSS, id)
    shown = await exchange.receipt(CAROL, id)
    assert (shown["text"], shown["deleted_at"]) == (None, stage.clock.now())
    assert (await stage.states(id))["bob"] == ("cancelled", "deleted")
    assert [e["data"]["verb"] for e in await stage.audit()] == ["delete"]


async def test_what_was_taken_back_is_handed_to_nobody(stage):
    exchange = stage.exchange
    for name in ("alice", "bob", "carol"):
        await stage.join(name)
    direct = await stage.sent("alice", "bob", "Do not read this")
    call = await stage.sent("alice", "#general", "Nor this")
    for id in (direct, call):
        await exchange.delete(ALICE, id)
    await stage.again()
    exchange = stage.exchange
    assert await exchange.take(BOB) == await exchange.take(CAROL) == []
    assert (await exchange.inbox(BOB, "me", waiting=True))["messages"] == []
    [kept] = (await exchange.inbox(CAROL, "me"))["messages"]
    assert (kept["id"], kept["text"], kept["deleted_at"]) == (call, None, stage.clock.now())
    last = await stage.sent("alice", "#general", "This you may read")
    assert [m["id"] for m in await exchange.take(CAROL)] == [last]


async def test_who_said_it_finds_it_again(stage):
    for name in ("alice", "bob", "carol"):
        await stage.join(name)
    id = await stage.sent("alice", "bob", "The anchor is in the third drawer")
    for caller, found in ((ALICE, [id]), (BOB, [id]), (CAROL, [])):
        assert [m["id"] for m in (await stage.exchange.search(caller, "anchor"))["messages"]] == found


async def test_one_who_does_not_read_silences_no_channel(tmp_path):
    async with Stage(tmp_path, with_(hub_waiting=3, hub_pair=100)) as stage:
        stage_of = {name: await stage.join(name, wake=True) for name in ("alice", "bob", "carol")}
        stage_of["bob"].up = False
        for _ in range(3):
            await stage.sent("alice", "bob", "Are you there?")
        for text, more in (("@bob @carol look", {}), ("All of you, look", {"wake": True})):
            id = await stage.sent("alice", "#general", text, **more)
            states = await stage.states(id)
            assert states["bob"] == ("failed", "mailbox_full")
            assert states["carol"][0] == "accepted"
        assert isinstance(await stage.say("alice", ["#general", "bob"], "And you"), Refused)


async def test_an_agent_that_is_declared_twice_at_once_is_enrolled_once(stage):
    await asyncio.gather(*(stage.join("web") for _ in range(5)), stage.exchange.tokens.create(Role.AGENT, "db", by="x"))
    events = (await stage.exchange.history.read(streams=["main/!members"])).events
    assert [e.data["name"] for e in events if e.kind == "enrolled"].count("web") == 1


async def test_a_clock_that_is_set_back_turns_no_order_round_and_ends_nothing_early(tmp_path):
    wall, ticks = [5_000_000.0], [100.0]
    clock = SteadyClock(lambda: wall[0], lambda: ticks[0])
    exchange = await Exchange.open(tmp_path, Settings(), clock)
    try:
        sent = []
        for back in (0.0, 3600.0, 0.0):
            wall[0] += 1.0 - back
            ticks[0] += 1.0
            receipt = await exchange.send(BOSS, {"to": "#general", "text": "tick", "expires_in": 60})
            sent.append(await exchange.receipt(BOSS, receipt.id))
        assert [m["at"] for m in sent] == [5_000_001.0, 5_000_002.0, 5_000_003.0]
        assert [m["expires_at"] - m["at"] for m in sent] == [60.0] * 3
    finally:
        await exchange.close()


async def test_a_discussion_is_between_two_and_ends_at_its_ceiling(stage):
    await stage.join("alice", echo)
    await stage.join("bob", echo)
    opened = await stage.exchange.discuss(BOSS, "alice", "bob", "Tabs or spaces?", max_hops=4)
    await stage.run()
    transcript = await stage.exchange.transcript(BOSS, opened["thread"])
    said = [(m["sender"], m["to"], m["hops"]) for m in transcript["messages"]]
    assert said == [
        ("operator", ["bob"], 0),
        ("operator", ["alice"], 0),
        ("alice", ["bob"], 1),
        ("bob", ["alice"], 2),
        ("alice", ["bob"], 3),
    ]
    assert stage.refused == [Code.HOP_LIMIT]
    assert [name for name, _ in stage.turns] == ["alice", "bob", "alice", "bob"]


# -- workspaces, tokens, invites -------------------------------------------------------------------------------


async def test_a_workspace_keeps_its_words_and_names_to_itself_and_ends_with_its_tokens(stage):
    exchange = stage.exchange
    await stage.join("alice")
    await exchange.create_workspace(BOSS, "lab", "Elsewhere")
    made = await exchange.create_token(BOSS, {"role": "agent", "name": "alice", "workspace": "lab"})
    other = await exchange.create_token(BOSS, {"role": "operator", "name": "chief", "workspace": "lab"})
    lab_alice, chief = exchange.tokens.check(made["token"]), exchange.tokens.check(other["token"])
    assert lab_alice is not None
    assert chief is not None
    here = await stage.sent("alice", "#general", "For main only")
    there = (await exchange.send(lab_alice, {"to": "#general", "text": "For lab only"})).id
    for caller, mine, theirs in (
        (ALICE, here, there),
        (BOSS, here, there),
        (lab_alice, there, here),
        (chief, there, here),
    ):
        assert [m["id"] for m in (await exchange.read(caller))["messages"]] in ([mine], [])
        assert [m["id"] for m in (await exchange.read(caller, channel="general"))["messages"]] == [mine]
        assert {m["id"] for m in (await exchange.search(caller, "only"))["messages"]} == {mine}
        with pytest.raises(Refused):
            await exchange.receipt(caller, theirs)
        thread = [t["id"] for t in await exchange.threads(caller)]
        assert len(thread) == 1
        page = await exchange.events(caller, position(stage, 0), 500)
        assert {event.stream.partition("/")[0] for event in page.events} == {caller.workspace}
        streams = exchange.streams_of(caller)
        assert streams is None or {event.stream for event in page.events} <= streams
    with pytest.raises(Refused):
        await exchange.create_token(chief, {"role": "admin", "name": "chief2"})
    with pytest.raises(Refused):
        await exchange.create_token(chief, {"role": "agent", "name": "x", "workspace": "main"})
    await exchange.delete_workspace(BOSS, "lab")
    for token in (made["token"], other["token"]):
        assert exchange.tokens.check(token) is None
    with pytest.raises(Refused):
        await exchange.send(lab_alice, {"to": "#general", "text": "Still here?"})
    await stage.again()
    assert stage.exchange.tokens.check(made["token"]) is None
    with pytest.raises(Refused) as no:
        await stage.exchange.create_workspace(BOSS, "lab")
    assert no.value.refusal.code is Code.NAME_TAKEN


async def test_an_administrator_sees_the_invites_of_all_workspaces_and_an_operator_those_of_its_own(stage):
    exchange = stage.exchange
    await exchange.create_workspace(BOSS, "lab", "Elsewhere")
    made = await exchange.create_token(BOSS, {"role": "operator", "name": "chief", "workspace": "lab"})
    chief = exchange.tokens.check(made["token"])
    here, there = await exchange.invite(BOSS, {}), await exchange.invite(chief, {})
    assert (here["workspace"], there["workspace"]) == ("main", "lab")
    assert {one["id"] for one in await exchange.invites(BOSS)} == {here["id"], there["id"]}
    assert [one["id"] for one in await exchange.invites(BOSS, "main")] == [here["id"]]
    assert [one["id"] for one in await exchange.invites(chief)] == [there["id"]]
    await exchange.delete_workspace(BOSS, "lab")
    assert [one["id"] for one in await exchange.invites(BOSS)] == [here["id"]]


async def test_a_token_is_good_until_it_is_revoked_or_its_time_is_over(stage):
    exchange = stage.exchange
    made = await exchange.create_token(BOSS, {"role": "agent", "name": "alice", "expires_in": 60})
    lasting = await exchange.create_token(BOSS, {"role": "agent", "name": "bob"})
    caller = exchange.tokens.check(made["token"])
    assert caller == Caller("alice", Role.AGENT, "main", made["id"])
    assert exchange.tokens.check(made["token"] + "x") is None
    stored = "".join(event.body.decode() for event in (await exchange.history.read()).events)
    assert made["token"] not in stored
    assert "sha256" not in str(await stage.audit())
    await stage.clock.turn(60)
    assert exchange.tokens.check(made["token"]) is None
    with pytest.raises(Refused):
        await exchange.send(caller, {"to": "bob", "text": "Late"})
    await exchange.revoke_token(BOSS, lasting["id"])
    await stage.again()
    assert stage.exchange.tokens.check(lasting["token"]) is None
    rows = await stage.exchange.list_tokens(BOSS)
    assert sorted((row["name"], row["revoked_at"] is not None) for row in rows) == [("alice", False), ("bob", True)]


async def test_an_invite_gives_as_many_tokens_as_it_says(stage):
    exchange = stage.exchange
    await stage.join("alice")
    invite = (await exchange.invite(BOSS, {"uses": 2, "expires_in": 60}))["invite"]
    with pytest.raises(Refused) as no:
        await exchange.redeem(invite, "alice")
    assert no.value.refusal.code is Code.NAME_TAKEN
    done = await asyncio.gather(*(exchange.redeem(invite, f"guest-{n}") for n in range(4)), return_exceptions=True)
    given = [one for one in done if not isinstance(one, BaseException)]
    assert len(given) == 2
    assert exchange.tokens.check(given[0]["token"]) is not None
    late = (await exchange.invite(BOSS, {"expires_in": 60}))["invite"]
    await stage.clock.turn(61)
    with pytest.raises(Refused):
        await exchange.redeem(late, "guest-9")


async def test_who_was_removed_is_named_no_more_and_what_it_said_stays(stage):
    for name in ("alice", "bob"):
        await stage.join(name)
    made = await stage.exchange.create_token(BOSS, {"role": "agent", "name": "bob"})
    await stage.sent("bob", "#general", "I was here")
    waiting = await stage.sent("alice", "bob", "Are you?")
    await stage.exchange.remove(BOSS, "bob")
    assert (await refused(stage.say("alice", "bob", "Hello"))).code is Code.UNKNOWN_RECIPIENT
    assert stage.exchange.tokens.check(made["token"]) is None
    assert (await stage.states(waiting))["bob"] == ("cancelled", "removed")
    await stage.again()
    assert [m["name"] for m in stage.exchange.members(ALICE)] == ["alice"]
    assert [m["text"] for m in (await stage.exchange.read(ALICE, channel="#general"))["messages"]] == ["I was here"]


# -- members ---------------------------------------------------------------------------------------------------


async def test_status_and_figures_are_seen_and_only_a_changed_status_is_an_event(stage):
    exchange = stage.exchange
    await stage.join("alice")
    await exchange.set_status(ALICE, {"status": "writing", "task": "docs", "name": "mallory"})
    head = exchange.log.head
    await exchange.set_status(ALICE, {"status": "writing", "task": "docs"})
    for load in range(5):
        await exchange.heartbeat(ALICE, {"load": load})
    assert exchange.log.head == head
    shown = exchange.member(BOB, "alice")
    assert (shown["status"]["status"], shown["resources"]["load"]) == ("writing", 4)
    await stage.again()
    shown = stage.exchange.member(BOB, "alice")
    assert (shown["status"]["task"], shown["resources"]["load"]) == ("docs", 4)
    with pytest.raises(Refused):
        await stage.exchange.heartbeat(ALICE, {"load": float("nan")})


async def test_a_member_is_online_while_it_has_a_connection(stage):
    exchange = stage.exchange
    await exchange.tokens.create(Role.AGENT, "alice", by="operator")
    viewer = Caller("eve", Role.VIEWER)
    gone = [exchange.connected(ALICE), exchange.connected(ALICE), exchange.connected(viewer)]
    assert exchange.member(BOB, "alice")["presence"] == "online"
    for end in gone:
        end()
        end()
    assert exchange.member(BOB, "alice")["presence"] == "offline"
    await stage.clock.turn(10)

    async def heard():
        events = (await exchange.history.read(kinds=["presence"])).events
        return [(e.data["name"], e.data["presence"]) for e in events] if len(events) > 1 else None

    assert await until(heard) == [("alice", "online"), ("alice", "offline")]


async def test_what_an_agent_joined_and_left_by_itself_stays_when_it_is_declared_again(stage):
    await stage.join("alice", channels=["#general", "#builds"])
    await stage.exchange.leave(ALICE, "builds")
    await stage.exchange.join(ALICE, "ops", "mentions")
    await stage.again()
    await stage.join("alice", channels=["#general", "#builds"])
    assert stage.exchange.member(BOB, "alice")["channels"] == {"#general": "all", "#ops": "mentions"}
    await stage.join("alice", channels=["#general", "#builds", "#news"])
    assert set(stage.exchange.member(BOB, "alice")["channels"]) == {"#general", "#ops", "#news"}


# -- files -----------------------------------------------------------------------------------------------------


async def test_a_file_is_for_who_may_read_a_message_that_has_it(stage):
    for name in ("alice", "bob", "carol"):
        await stage.join(name)
    kept = await stage.exchange.upload_base64(ALICE, "notes.txt", "text/plain", "aGVsbG8=")
    with pytest.raises(Refused):
        await stage.exchange.attachment(BOB, kept.sha256)
    attached = {"sha256": kept.sha256, "name": kept.name, "size": kept.size, "type": kept.type}
    await stage.sent("alice", "bob", "See this", attachments=[attached])
    assert (await stage.exchange.attachment(BOB, kept.sha256)).name == "notes.txt"
    with pytest.raises(Refused):
        await stage.exchange.attachment(CAROL, kept.sha256)
    [told] = (await stage.exchange.read(BOB))["messages"]
    assert told["attachments"] == [attached]
    await stage.exchange.delete(ALICE, told["id"])
    [told] = (await stage.exchange.read(BOB))["messages"]
    assert told["attachments"] == (await stage.exchange.inbox(BOB, "me"))["messages"][0]["attachments"] == []
    with pytest.raises(Refused):
        await stage.exchange.attachment(BOB, kept.sha256)
    await stage.clock.turn(DAY)
    await stage.exchange.housekeep()
    assert stage.exchange.blobs.size(kept.sha256) == 5


async def test_to_know_the_sum_of_a_file_is_not_to_have_it(stage):
    for name in ("alice", "bob", "carol"):
        await stage.join(name)
    kept = await stage.exchange.upload_base64(ALICE, "notes.txt", "text/plain", "aGVsbG8=")
    attached = {"sha256": kept.sha256, "name": kept.name, "size": kept.size, "type": kept.type}
    await stage.sent("alice", "bob", "See this", attachments=[attached])
    no = await refused(stage.say("carol", "#general", "Mine", attachments=[attached]))
    assert (no.code, no.facts["field"]) == (Code.BAD_VALUE, "attachments")
    with pytest.raises(Refused):
        await stage.exchange.attachment(CAROL, kept.sha256)
    await stage.sent("bob", "carol", "You too", attachments=[attached])
    await stage.sent("carol", "#general", "Now I may", attachments=[attached])
    await stage.exchange.upload_base64(ALICE, "new.txt", "text/plain", "bmV3")
    await stage.exchange.upload_base64(BOB, "same.txt", "text/plain", "bmV3")
    unsent = {"sha256": hashlib.sha256(b"new").hexdigest(), "name": "new.txt", "size": 3}
    await stage.again()
    await stage.sent("alice", "bob", "Put before the hub was started anew", attachments=[unsent])


async def test_a_prompt_goes_to_the_agents_that_it_names(stage):
    for name in ("alice", "bob"):
        await stage.join(name)
    with pytest.raises(Refused) as told:
        await stage.exchange.send(BOSS, {"to": "#general", "text": "Stop"}, nature=Nature.PROMPT)
    assert told.value.refusal.code is Code.BAD_VALUE
    receipt = await stage.exchange.send(BOSS, {"to": ["alice", "bob"], "text": "Stop"}, nature=Nature.PROMPT)
    assert not any(recipient.quiet for recipient in receipt.recipients)


# -- trouble ---------------------------------------------------------------------------------------------------


async def test_a_listener_that_fails_holds_up_nobody(stage, caplog):
    for name in ("alice", "bob"):
        await stage.join(name)
    heard: list[int] = []

    def failing(events) -> None:
        raise ValueError("a reader's fault")

    stage.exchange.on_events(failing)
    stop = stage.exchange.on_events(lambda events: heard.extend(event.seq for event in events))
    await stage.sent("alice", "bob", "One")
    assert heard == [stage.exchange.log.head]
    stop()
    await stage.sent("alice", "bob", "Two")
    assert len(heard) == 1
    assert "a listener of the hub failed" in caplog.text


async def test_what_could_not_be_stored_was_not_said_and_can_be_said_again(stage, monkeypatch):
    for name in ("alice", "bob"):
        await stage.join(name)
    first = await stage.sent("alice", "bob", "Which?", intent="ask")

    def full(batch, told):
        told(StorageError("no space"))

    with monkeypatch.context() as broken:
        broken.setattr(stage.exchange.log, "submit", full)
        with pytest.raises(StorageError):
            await stage.say("bob", None, "That one", reply_to=first, idempotency_key="k")
    assert (await stage.exchange.asked(ALICE, first))["outcome"] is None
    answer = await stage.sent("bob", None, "That one", reply_to=first, idempotency_key="k")
    assert (await stage.exchange.ask_end(ALICE, first)).answer == answer


MANY = [
    {"to": "#general", "text": "one"},
    {"to": "#General", "text": "two\r\nlines", "idempotency_key": "k1"},
    {"to": ["#general"], "text": "three", "intent": "inform"},
    {"to": "#general", "text": "for @bob"},
    {"to": "#general", "text": "two\r\nlines", "idempotency_key": "k1"},
    {"to": "#general", "text": "another", "idempotency_key": "k1"},
    {"to": "bob", "text": "to one", "idempotency_key": "k2"},
    {"to": "#new", "text": "nobody has spoken here"},
    {"to": "#new", "text": "nor is it known yet"},
    {"to": "#general", "text": "  "},
    {"to": "#general", "text": "a\x07b"},
    {"to": "#general", "text": "héé 世界"},
    {"to": "#general", "text": "", "txt": "meant"},
    {"to": "#general", "text": "thanks", "wake": True},
    {"to": "nobody", "text": "hello"},
    "no object",
    *({"to": "#general", "text": f"number {number}"} for number in range(8)),
]


@pytest.mark.parametrize("who", [ALICE, BOSS, Caller("viewer", Role.VIEWER), Caller("stranger", Role.AGENT)])
@pytest.mark.parametrize("at_work", [False, True])
async def test_what_comes_of_many_messages_at_once_is_what_comes_of_each(tmp_path, who, at_work):
    one_by_one = await _come_of(MANY, who, at_work, at_once=False, folder=tmp_path / "each")
    assert await _come_of(MANY, who, at_work, at_once=True, folder=tmp_path / "all") == one_by_one


async def _come_of(bodies, who, at_work, *, at_once, folder):
    """The messages in the log, everything else there, and what their sender hears of each."""
    went: dict[int, object] = {}
    async with Stage(folder, Settings(hub_sender_burst=17)) as stage:
        await stage.join("alice", ways=INTERACTIVE if at_work else HEADLESS)
        await stage.join("bob")
        exchange = stage.exchange
        exchange._ids = Ids(bytes)
        if at_work:  # what alice says now is caused by it
            id = await stage.sent("bob", "alice", "Look into this")
            await exchange.change([Change(id, box("main", "alice"), HandOver(Way.DOORBELL))])
        if at_once:
            exchange.begin_send_all(who, [(body, mark) for mark, body in enumerate(bodies)], went.update)
        else:
            for mark, body in enumerate(bodies):
                exchange.begin_send(who, body, functools.partial(went.__setitem__, mark))
        await until(lambda: len(went) == len(bodies))
        await stage.again()  # so that the audit has all
        events = (await stage.exchange.history.read(limit=1000)).events
    return (
        [(e.stream, e.sender, e.key, e.body) for e in events if e.kind == "message"],
        sorted((e.stream, e.kind, e.sender, e.body) for e in events if e.kind != "message"),
        [_heard(went[mark]) for mark in range(len(bodies))],
    )


def _heard(answer):
    if isinstance(answer, Refused):
        return answer.refusal
    return (answer.id, answer.recipients, answer.duplicate, answer.at, answer.listening)


async def test_of_many_messages_those_that_cannot_be_stored_are_told_so_and_can_be_said_again(stage, monkeypatch):
    await stage.join("alice")
    many = [({"to": "#general", "text": str(n), "idempotency_key": f"k{n}"}, n) for n in range(3)]
    many.append(({"to": "#general", "text": "no key"}, 3))
    told: list[tuple[int, object]] = []
    with monkeypatch.context() as broken:
        broken.setattr(stage.exchange.log, "submit_each", lambda appends, then: then([StorageError("full")] * 4))
        stage.exchange.begin_send_all(ALICE, many, told.extend)
    assert sorted((mark, type(went)) for mark, went in told) == [(mark, StorageError) for mark in range(4)]
    told.clear()
    stage.exchange.begin_send_all(ALICE, many, told.extend)
    await until(lambda: len(told) == 4)
    assert all(isinstance(went, Receipt) and not went.duplicate for _, went in told)


async def test_changes_that_come_together_are_each_written_once(stage):
    for name in ("alice", "bob"):
        await stage.join(name)
    id = await stage.sent("alice", "bob", "Hello")
    of = box("main", "bob")
    handed = [stage.exchange.change([Change(id, of, HandOver(Way.DOORBELL))]) for _ in range(8)]
    after = await asyncio.gather(*handed)
    assert {stands.attempts for [stands] in after} == {1}
    await stage.exchange.change([Change(id, of, Answer("m-1"))])
    events = (await stage.exchange.history.read(kinds=["receipt"])).events
    assert [event.data["recipient"]["state"] for event in events] == ["injecting", "answered"]


def test_working_is_a_word_of_the_supervisor() -> None:
    words = {activity: presence_of({"phase": "running", "activity": activity.value}) for activity in Activity}
    assert "offline" not in words.values()
    assert presence_of(None) == presence_of({"phase": "stopped"}) == "offline"
