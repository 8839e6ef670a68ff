"""What travels through the hub: every event in every state of a recipient, asks, threads, positions, poison."""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.hub.message import (
    EVENTS,
    ID,
    OUTCOMES,
    OVER,
    SEQ_MAX,
    THREAD_TRANSITIONS,
    TRANSITIONS,
    WAITING,
    Answer,
    Ask,
    Attachment,
    Cancel,
    Code,
    Decline,
    Event,
    Expire,
    Fail,
    HandOver,
    Ids,
    Intent,
    Limits,
    Message,
    Nature,
    Outcome,
    Position,
    Proven,
    Receipt,
    Recipient,
    Refusal,
    State,
    Thread,
    ThreadState,
    Undone,
    Unproven,
    Verb,
    Wait,
    Way,
    mint,
    reply_id,
    step,
)
from fleet.hub.submission import Submission, check_file_name, check_text, read_submission

NOW = 1_000_000.0
LIMITS = Limits()
EVERY_EVENT: tuple[Event, ...] = (
    Wait("offline"),
    Wait("dialog"),
    HandOver(Way.DOORBELL),
    HandOver(Way.TYPED),
    Proven("transcript"),
    Proven("inbox", Way.INBOX),
    Unproven(),
    Undone("program_died"),
    Answer("m-answer"),
    Decline(),
    Expire(),
    Fail("set_aside"),
    Cancel(),
)


# -- a message at a recipient ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A recipient, and what an onlooker knows besides."""

    recipient: Recipient
    there: bool = False
    """It was handed over and not yet known not to have arrived, or is proven to be there."""


@dataclass(frozen=True)
class Edge:
    """One event in one world, and what came of it."""

    before: World
    event: Event
    after: Recipient


@cache
def explored() -> tuple[Edge, ...]:
    """Every event in every state of a recipient that can be reached, with times and counts made the same."""
    first = World(Recipient(name="bob", since=NOW))
    known, waiting, edges = {first}, deque([first]), []
    while waiting:
        world = waiting.popleft()
        for event in EVERY_EVENT:
            after = step(world.recipient, event, NOW)
            edges.append(Edge(world, event, after))
            given = isinstance(event, HandOver) and after.state is State.INJECTING
            proven = isinstance(event, Proven | Answer | Decline) and after.state not in OVER - {
                State.ANSWERED,
                State.DECLINED,
            }
            there = (world.there and not isinstance(event, Undone)) or given or proven
            then = World(after._replace(attempts=0), there)
            if then not in known:
                known.add(then)
                waiting.append(then)
    return tuple(edges)


def test_every_state_has_an_answer_to_every_event() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set(EVENTS) == set(get_args(Event)) == {type(event) for event in EVERY_EVENT}
    for state, answers in TRANSITIONS.items():
        assert set(answers) == set(EVENTS), state


def test_every_state_can_be_reached() -> None:
    assert {edge.after.state for edge in explored()} == set(State)


def test_no_order_of_events_hands_over_what_may_be_there_already() -> None:
    for edge in explored():
        if edge.after.attempts > edge.before.recipient.attempts:
            assert not edge.before.there, edge
            assert edge.before.recipient.state in WAITING, edge


def test_nothing_is_delivered_answered_or_declined_without_a_proof() -> None:
    for edge in explored():
        if edge.after.state in (State.DELIVERED, State.ANSWERED, State.DECLINED):
            assert edge.after.evidence, edge
            assert edge.after.way, edge
            assert edge.after == edge.before.recipient or isinstance(edge.event, Proven | Answer | Decline), edge


def test_what_is_over_stays_over() -> None:
    for edge in explored():
        if edge.before.recipient.state in OVER:
            assert edge.after is edge.before.recipient, edge


def test_what_is_in_a_conversation_never_leaves_it() -> None:
    for edge in explored():
        if edge.before.recipient.state is State.DELIVERED:
            assert edge.after.state in (State.DELIVERED, State.ANSWERED, State.DECLINED), edge


def test_what_was_cancelled_in_the_agents_hands_never_comes_back_into_the_queue() -> None:
    for edge in explored():
        if edge.before.recipient.pending is State.CANCELLED:
            assert edge.after.state not in WAITING, edge
            assert edge.after.pending is State.CANCELLED or edge.after.state not in (
                State.INJECTING,
                State.UNCONFIRMED,
            ), edge


def test_whatever_waits_or_ended_badly_says_why() -> None:
    silent = (State.ACCEPTED, State.INJECTING, State.DELIVERED, State.ANSWERED)
    for edge in explored():
        assert edge.after.reason or edge.after.state in silent, edge


def test_nothing_is_called_expired_or_cancelled_that_may_be_there() -> None:
    for edge in explored():
        if edge.after.state in (State.EXPIRED, State.CANCELLED) and edge.after != edge.before.recipient:
            assert not edge.before.there or isinstance(edge.event, Undone), edge


def test_a_kill_between_hand_over_and_proof_doubles_nothing_and_loses_nothing() -> None:
    given_once = step(Recipient(name="bob", since=NOW), HandOver(Way.DOORBELL), NOW)
    assert step(given_once, HandOver(Way.DOORBELL), NOW) is given_once
    back = step(given_once, Undone("program_died"), NOW + 1)
    assert (back.state, back.reason, back.way) == (State.QUEUED, "program_died", None)
    again = step(step(back, HandOver(Way.DOORBELL), NOW + 2), Proven("transcript"), NOW + 3)
    assert (again.state, again.attempts, again.since) == (State.DELIVERED, 2, NOW + 3)


def test_a_late_proof_turns_doubt_into_delivered() -> None:
    doubtful = step(step(Recipient(name="b", since=NOW), HandOver(Way.TYPED), NOW), Unproven(), NOW + 60)
    assert doubtful.state is State.UNCONFIRMED
    proven = step(doubtful, Proven("transcript"), NOW + 99)
    assert (proven.state, proven.way, proven.reason) == (State.DELIVERED, Way.TYPED, None)


def test_what_expires_while_it_is_handed_over_counts_as_arrived_if_it_did() -> None:
    late = step(step(Recipient(name="b", since=NOW), HandOver(Way.DOORBELL), NOW), Expire(), NOW + 9)
    assert (late.state, late.pending) == (State.INJECTING, State.EXPIRED)
    assert step(late, Proven("transcript"), NOW + 10).state is State.DELIVERED
    gone = step(late, Undone("program_died"), NOW + 10)
    assert (gone.state, gone.reason) == (State.EXPIRED, "expired")


def test_waiting_for_the_same_reason_is_no_news() -> None:
    waiting = step(Recipient(name="b", since=NOW), Wait("dialog"), NOW)
    assert step(waiting, Wait("dialog"), NOW + 5) is waiting
    other = step(waiting, Wait("draft"), NOW + 5)
    assert (other.reason, other.since) == ("draft", NOW)


# -- asks ------------------------------------------------------------------------------------------------------

ASK = Ask(message="m-ask", thread="t-1", asker="alice", asked="bob", deadline=NOW + 60)


def test_every_state_says_what_it_means_for_an_ask() -> None:
    assert set(OUTCOMES) == set(State)
    assert {outcome for outcome in OUTCOMES.values() if outcome} == set(Outcome) - {Outcome.TIMED_OUT}
    assert {state for state, outcome in OUTCOMES.items() if outcome} == OVER


@given(st.lists(st.tuples(st.sampled_from(EVERY_EVENT), st.floats(0, 40)), max_size=8))
def test_an_ask_ends_once_and_at_its_deadline_at_the_latest(story: list[tuple[Event, float]]) -> None:
    recipient, ask, now = Recipient(name="bob", since=NOW), ASK, NOW
    for event, pause in story:
        now += pause
        recipient = step(recipient, event, now)
        before, ask = ask, ask.seen(recipient, now)
        if before.outcome:
            assert ask is before
    ask = ask.seen(recipient, NOW + 1000)
    assert ask.outcome
    assert ask.ended_at is not None
    assert ask.ended_at <= ASK.deadline
    assert (ask.answer is not None) == (ask.outcome is Outcome.ANSWERED)


def test_an_answer_that_was_there_in_time_counts_however_late_it_is_looked_at() -> None:
    answered = step(Recipient(name="bob", since=NOW), Answer("m-answer"), NOW + 59)
    assert ASK.seen(answered, NOW + 500).outcome is Outcome.ANSWERED
    late = step(Recipient(name="bob", since=NOW), Answer("m-answer"), NOW + 60)
    assert ASK.seen(late, NOW + 500).outcome is Outcome.TIMED_OUT


# -- threads ---------------------------------------------------------------------------------------------------


def test_every_thread_has_an_answer_to_every_verb() -> None:
    assert set(THREAD_TRANSITIONS) == set(ThreadState)
    for answers in THREAD_TRANSITIONS.values():
        assert set(answers) == set(Verb)


@given(st.lists(st.sampled_from(list(Verb))))
def test_only_a_revival_brings_a_terminated_thread_back(verbs: list[Verb]) -> None:
    thread = Thread(id="t-1", workspace="main", opened_by="alice", opened_at=NOW, since=NOW)
    for at, verb in enumerate(verbs):
        before, thread = thread, thread.after(verb, "boss", NOW + at)
        if before.state is ThreadState.TERMINATED and verb is not Verb.REVIVE:
            assert thread is before
        if thread is not before:
            assert (thread.by, thread.since) == ("boss", NOW + at)
        if verb is Verb.TERMINATE:
            assert not thread.moves


# -- positions and ids -----------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.text("abcXYZ019_.-", min_size=1, max_size=64), st.integers(0, SEQ_MAX))
def test_a_position_is_read_as_it_was_written(epoch: str, seq: int) -> None:
    assert Position.parse(str(Position(epoch, seq))) == Position(epoch, seq)


@pytest.mark.parametrize("text", ["", "5", "e:", ":5", "e:-1", "e:5:6", "e 5", "e:٣", f"e:{SEQ_MAX + 1}", "e:5\n"])
def test_what_is_no_position_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError, match="not a position"):
        Position.parse(text)


def test_ids_are_as_random_as_they_are_given_and_a_turns_reply_has_always_the_same() -> None:
    assert mint("m", bytes(10)) == "m-aaaaaaaaaaaaaaaa"
    with pytest.raises(ValueError, match="ten random bytes"):
        mint("m", b"short")
    assert reply_id("m-1", "bob") == reply_id("m-1", "bob") != reply_id("m-1", "carol")


def test_ids_rise_also_when_the_clock_stands_or_is_set_back_and_have_their_form() -> None:
    ids = Ids(bytes)
    minted = [ids.mint("m", now) for now in (1e9, 1e9, 1e9 + 0.5, 1e9 + 1, 5.0, 1e9 + 1)]
    minted += [ids.mint("m", 1e9 + 2) for _ in range(5000)]
    assert minted == sorted(set(minted))
    assert all(ID.fullmatch(id) for id in minted)
    assert len({Ids(os.urandom).mint("m", 1e9) for _ in range(100)}) > 90  # of one moment, but of other chance


# -- JSON ------------------------------------------------------------------------------------------------------

MESSAGE = Message(
    id=mint("m", b"0123456789"),
    workspace="main",
    sender="alice",
    to=("bob", "#general"),
    text="Grüße, 世界",
    at=NOW,
    thread="t-1",
    intent=Intent.ASK,
    nature=Nature.PROMPT,
    hops=3,
    mentions=("carol",),
    attachments=(Attachment("0" * 64, "a.txt", 5),),
    metadata={"k": [1, None, {"x": "y"}]},
)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value.to_json()))


def test_all_of_a_message_and_of_a_question_is_stored() -> None:
    assert set(through_json(MESSAGE)) == set(Message._fields)
    assert set(through_json(ASK)) == {field.name for field in fields(Ask)}


def test_whatever_is_stored_is_read_as_it_was() -> None:
    assert Message.from_json(through_json(MESSAGE)) == MESSAGE
    for edge in explored():
        assert Recipient.from_json(through_json(edge.after)) == edge.after
    receipt = Receipt(id="m-1", position=Position("e", 7), recipients=(explored()[-1].after,), duplicate=True)
    assert Receipt.from_json(through_json(receipt)) == receipt
    ended = replace(ASK, outcome=Outcome.ANSWERED, answer="m-2")
    assert Ask.from_json(through_json(ended)) == ended
    thread = Thread(id="t", workspace="w", opened_by="a", opened_at=NOW, since=NOW, state=ThreadState.REVIVED)
    assert Thread.from_json(through_json(thread)) == thread


def test_what_a_later_version_stored_besides_is_left_out() -> None:
    assert Message.from_json({**through_json(MESSAGE), "colour": "green"}) == MESSAGE


def test_a_receipt_says_no_more_than_there_is_to_say() -> None:
    receipt = Receipt(id="m-1", position=Position("e", 7), recipients=(Recipient(name="bob", since=NOW),))
    assert receipt.to_json() == {
        "id": "m-1",
        "seq": 7,
        "epoch": "e",
        "recipients": [{"name": "bob", "state": "accepted", "since": NOW}],
    }


# -- poison ----------------------------------------------------------------------------------------------------


def refusal(body: object) -> tuple[Code, Any]:
    read = read_submission(body, LIMITS)
    assert isinstance(read, Refusal), read
    json.dumps(read.to_json()).encode()
    return read.code, read.facts.get("field")


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": [value]}
    return value


GOOD = {"to": "bob", "text": "hello"}


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (None, Code.WRONG_TYPE, None),
        ([GOOD], Code.WRONG_TYPE, None),
        ({"text": "x"}, Code.MISSING, "to"),
        ({"to": [], "text": "x"}, Code.MISSING, "to"),
        ({"to": 5, "text": "x"}, Code.WRONG_TYPE, "to"),
        ({"to": [["bob"]], "text": "x"}, Code.WRONG_TYPE, "to"),
        ({"to": "../etc", "text": "x"}, Code.BAD_NAME, "to"),
        ({"to": "bob\u200b", "text": "x"}, Code.BAD_NAME, "to"),
        ({"to": "bоb", "text": "x"}, Code.BAD_NAME, "to"),  # a Cyrillic o
        ({"to": "#", "text": "x"}, Code.BAD_NAME, "to"),
        ({"to": "a" * 64, "text": "x"}, Code.BAD_NAME, "to"),
        ({"to": [f"a{n}" for n in range(101)], "text": "x"}, Code.TOO_MANY, "to"),
        ({"to": "bob"}, Code.MISSING, "text"),
        ({"to": "bob", "text": " \n"}, Code.EMPTY, "text"),
        ({"to": "bob", "text": {"a": 1}}, Code.WRONG_TYPE, "text"),
        ({"to": "bob", "text": "x" * 65537}, Code.TOO_LARGE, "text"),
        ({"to": "bob", "text": "€" * 30000}, Code.TOO_LARGE, "text"),
        ({"to": "bob", "text": "a\x1b[2J"}, Code.CONTROL_CHARACTERS, "text"),
        ({"to": "bob", "text": "a\x00"}, Code.CONTROL_CHARACTERS, "text"),
        ({"to": "bob", "text": "a\x85b"}, Code.CONTROL_CHARACTERS, "text"),
        ({"to": "bob", "text": "a\u202eb"}, Code.BIDI_CHARACTERS, "text"),
        ({"to": "bob", "text": "a\ud800"}, Code.INVALID_UNICODE, "text"),
        ({**GOOD, "intent": "shout"}, Code.BAD_VALUE, "intent"),
        ({**GOOD, "intent": ["ask"]}, Code.BAD_VALUE, "intent"),
        ({**GOOD, "wake": "yes"}, Code.WRONG_TYPE, "wake"),
        ({**GOOD, "wake": 1}, Code.WRONG_TYPE, "wake"),
        ({**GOOD, "thread": "t-1"}, Code.BAD_VALUE, "thread"),
        ({**GOOD, "reply_to": 7}, Code.WRONG_TYPE, "reply_to"),
        ({**GOOD, "max_hops": 0}, Code.BAD_VALUE, "max_hops"),
        ({**GOOD, "max_hops": True}, Code.WRONG_TYPE, "max_hops"),
        ({**GOOD, "max_hops": 1.5}, Code.WRONG_TYPE, "max_hops"),
        ({**GOOD, "expires_in": float("nan")}, Code.BAD_VALUE, "expires_in"),
        ({**GOOD, "expires_in": float("inf")}, Code.BAD_VALUE, "expires_in"),
        ({**GOOD, "expires_in": -1}, Code.BAD_VALUE, "expires_in"),
        ({**GOOD, "idempotency_key": "a b"}, Code.BAD_VALUE, "idempotency_key"),
        ({**GOOD, "attachments": {}}, Code.WRONG_TYPE, "attachments"),
        ({**GOOD, "attachments": [5]}, Code.WRONG_TYPE, "attachments"),
        ({**GOOD, "attachments": [{}] * 21}, Code.TOO_MANY, "attachments"),
        ({**GOOD, "attachments": [{"sha256": "0" * 64, "size": -1, "name": "a"}]}, Code.MISSING, "attachments"),
        ({**GOOD, "attachments": [{"sha256": "0" * 64, "size": 2**40, "name": "a"}]}, Code.TOO_LARGE, "attachments"),
        ({**GOOD, "attachments": [{"sha256": "../x", "size": 1, "name": "a"}]}, Code.BAD_VALUE, "sha256"),
        ({**GOOD, "metadata": []}, Code.WRONG_TYPE, "metadata"),
        ({**GOOD, "metadata": {"a": float("nan")}}, Code.WRONG_TYPE, "metadata"),
        ({**GOOD, "metadata": {"a\x00": 1}}, Code.CONTROL_CHARACTERS, "metadata"),
        ({**GOOD, "metadata": {"a": "x" * 20000}}, Code.TOO_LARGE, "metadata"),
        ({**GOOD, "metadata": {"a": [0] * 20000}}, Code.TOO_LARGE, "metadata"),
        ({**GOOD, "metadata": nested(900)}, Code.TOO_DEEP, "metadata"),
    ],
)
def test_poison_is_refused_by_name(body: object, code: Code, field: str | None) -> None:
    assert refusal(body) == (code, field)


def test_what_is_sound_is_read_and_names_are_made_one() -> None:
    read = read_submission({"to": ["@Bob", "#General", "bob"], "text": "a\r\nb\rc", "sender": "eve"}, LIMITS)
    assert read == Submission(to=("bob", "#general"), text="a\nb\nc")


def test_a_reply_need_not_say_to_whom() -> None:
    read = read_submission({"reply_to": mint("m", bytes(10)), "text": "x"}, LIMITS)
    assert isinstance(read, Submission)
    assert read.to == ()


def test_a_file_needs_no_words() -> None:
    body = {"to": "bob", "attachments": [{"sha256": "0" * 64, "size": 1, "name": "a.png", "type": "image/png"}]}
    read = read_submission(body, LIMITS)
    assert isinstance(read, Submission)
    assert read.attachments[0].type == "image/png"


def test_scripts_that_need_joiners_and_emoji_may_be_written() -> None:
    for text in ("👩‍💻", "می‌خواهم", "\u200fעברית", "tab\there"):
        assert check_text(text, LIMITS) == text


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", " . ", "a/b", "..\\b", "/etc/passwd", "a\x00", "a\nb", "a\u202egnp.exe", "a\u200bb", "x" * 256, 5],
)
def test_a_file_name_leads_nowhere_else(name: object) -> None:
    assert isinstance(check_file_name(name), Refusal)


def test_an_ordinary_file_name_stays_as_it_is() -> None:
    for name in ("report.pdf", "..hidden", "a b (1).txt", "résumé.md", "数据.csv"):
        assert check_file_name(name) == name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["to", "text", "intent", "wake", "metadata", "attachments", "x"]), JSON))
def test_whatever_arrives_is_read_or_refused(body: dict[str, Any]) -> None:
    read = read_submission(body, LIMITS)
    if isinstance(read, Submission):
        json.dumps([read.text, dict(read.metadata)], allow_nan=False).encode()
        assert not {"\r", "\x00", "\x1b"} & set(read.text)
    else:
        json.dumps(read.to_json()).encode()
