"""Conversations of scripted agents, run until they fall silent."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.hub.guardrails import Rules
from fleet.hub.message import Code, Message, Outcome, Receipt, Refusal, State, Verb
from tests.unit.hub_in_memory import HEADLESS, INTERACTIVE, Died, Hub

DAY = 86_400.0


def echo(message: Message) -> str:
    return f"I heard {message.text[:20]!r}. And you?"


def sent(receipt: Receipt | Refusal) -> str:
    assert isinstance(receipt, Receipt), receipt
    return receipt.id


def hub_of(*names: str, rules: Rules | None = None) -> Hub:
    hub = Hub(rules=rules or Rules())
    for name in names:
        hub.join(name)
    return hub


# -- convergence -----------------------------------------------------------------------------------------------


def test_a_question_and_its_answer_are_two_messages_and_one_turn_each() -> None:
    hub = hub_of("alice")
    hub.join("bob", lambda message: "order_id (a uuid)")
    asked = hub.ask("alice", "bob", "Which field?")
    hub.run()
    assert [m.hops for m in hub.messages] == [0, 1]
    assert [name for name, _ in hub.turns] == ["bob", "alice"]
    assert hub.outcome(asked).outcome is Outcome.ANSWERED
    assert hub.outcome(asked).answer == hub.messages[1].id
    assert hub.pending == []
    assert hub.refused == []


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("chosen_by", ["fleet", "sender"])
def test_two_that_always_reply_run_as_many_turns_as_there_are_hops(limit: int, chosen_by: str) -> None:
    hub = Hub(rules=Rules(max_hops=limit if chosen_by == "fleet" else 16))
    hub.join("alice", echo)
    hub.join("bob", echo)
    hub.say("alice", "bob", "Hello?", max_hops=limit if chosen_by == "sender" else 64)
    hub.run()
    assert len(hub.turns) == limit
    assert [m.hops for m in hub.messages] == list(range(limit))
    assert hub.refused == [Code.HOP_LIMIT]
    assert hub.refusals[0][1].facts["hop"] == limit
    assert hub.pending == []
    before = (list(hub.log), list(hub.refusals))
    assert hub.later(DAY) == 0
    assert (hub.log, hub.refusals) == before


def test_a_conversation_that_an_agent_opens_in_its_turn_inherits_its_hops() -> None:
    hub = hub_of("carol", rules=Rules(max_hops=3))
    hub.join("alice", ways=INTERACTIVE)
    hub.join("bob", lambda m: sent(hub.say("bob", "carol", "Look at this")) and None, ways=INTERACTIVE)
    hub.say("alice", "bob", "Tell carol")
    hub.run()
    first, second = hub.messages
    assert second.thread != first.thread
    assert (second.hops, second.max_hops, second.cause) == (1, 3, first.id)
    hub.end_turn("bob")
    assert isinstance(hub.say("bob", "carol", "A thought of my own"), Receipt)
    assert hub.messages[-1].hops == 0


def test_a_chain_of_new_conversations_ends_as_one_does() -> None:
    """Each passes it on to the next in a conversation of its own, with the highest ceiling it can think of."""
    ring = ["a", "b", "c", "d"]
    hub = Hub(rules=Rules(max_hops=5))

    def passing_on(name: str) -> None:
        to = ring[(ring.index(name) + 1) % len(ring)]
        hub.join(name, lambda m: hub.say(name, to, "Pass it on", max_hops=1000) and None, ways=INTERACTIVE)

    for name in ring:
        passing_on(name)
    hub.say("a", "b", "Pass it on")
    for _ in range(20):
        hub.run()
        for name in ring:
            hub.end_turn(name)
    assert [m.hops for m in hub.messages] == [0, 1, 2, 3, 4]
    assert len({m.thread for m in hub.messages}) == 5
    assert hub.refused == [Code.HOP_LIMIT]


def test_five_a_minute_of_eight_at_once_and_one_more_a_minute_later() -> None:
    hub = hub_of("alice", "bob", rules=Rules(pair=5))
    answers = [hub.say("alice", "bob", f"Number {n}") for n in range(8)]
    hub.run()
    assert len(hub.turns) == 5
    assert [a.code for a in answers if isinstance(a, Refusal)] == [Code.PAIR_LIMITED] * 3
    hub.later(60)
    assert isinstance(hub.say("alice", "bob", "Number 9"), Receipt)
    hub.run()
    assert len(hub.turns) == 6


def test_the_same_id_twice_is_one_turn_and_the_second_is_answered_as_the_first() -> None:
    hub = hub_of("alice", "bob")
    first = hub.say("alice", "bob", "Once", idempotency_key="k-1")
    hub.run()
    second = hub.say("alice", "bob", "Once", idempotency_key="k-1")
    hub.run()
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert (second.id, second.position, second.duplicate) == (first.id, first.position, True)
    assert len(hub.turns) == 1
    other = hub.say("alice", "bob", "Something else", idempotency_key="k-1")
    assert isinstance(other, Refusal)
    assert other.code is Code.ID_TAKEN


def test_a_message_for_one_changes_nothing_for_another() -> None:
    hub = hub_of("alice", "bob", "carol")
    hub.say("alice", "bob", "For you")
    hub.run()
    assert hub.mailbox("carol") == []
    assert "carol" not in {name for name, _ in hub.turns}


@pytest.mark.parametrize("suppress", [True, False])
def test_thanks_go_nowhere_and_questions_do(suppress: bool) -> None:
    def courteous(message: Message) -> str | None:
        if "order_id" not in message.text:
            return "Thanks — could you confirm the field name?"
        return "Sounds great, thanks!"

    hub = Hub()
    hub.join("alice", courteous, suppress_thanks=suppress)
    hub.join("bob", lambda m: {0: "It is in the orders.", 2: "order_id (a uuid)"}.get(m.hops))
    hub.ask("alice", "bob", "Which field?")
    hub.run()
    texts = [m.text for m in hub.messages]
    assert texts[:4] == [
        "Which field?",
        "It is in the orders.",
        "Thanks — could you confirm the field name?",
        "order_id (a uuid)",
    ]
    assert [m.hops for m in hub.messages[:4]] == [0, 1, 2, 3]
    assert texts[4:] == ([] if suppress else ["Sounds great, thanks!"])
    assert hub.refused == ([Code.ONLY_THANKS] if suppress else [])


def test_thanks_that_were_asked_for_end_the_ask() -> None:
    hub = hub_of("alice")
    hub.join("bob", lambda message: "Thanks!")
    asked = hub.ask("alice", "bob", "How do you say it?")
    hub.run()
    assert hub.outcome(asked).outcome is Outcome.ANSWERED


# -- crashes ---------------------------------------------------------------------------------------------------


def test_a_turn_that_dies_is_taken_again_once() -> None:
    tries = count(1)

    def fragile(message: Message) -> str:
        if next(tries) == 1:
            raise Died
        return "Done"

    hub = hub_of("alice")
    hub.join("bob", fragile)
    asked = hub.ask("alice", "bob", "Do it")
    hub.run()
    assert hub.handed_over(asked, "bob") == 2
    assert hub.outcome(asked).outcome is Outcome.ANSWERED
    assert sum(m.sender == "bob" for m in hub.messages) == 1


def test_poison_is_set_aside_after_three_tries_and_the_asker_hears_of_it() -> None:
    def dying(message: Message) -> str:
        raise Died

    hub = hub_of("alice")
    hub.join("bob", dying)
    asked = hub.ask("alice", "bob", "Die")
    hub.run()
    assert hub.handed_over(asked, "bob") == 3
    ended = hub.outcome(asked)
    assert (ended.outcome, ended.reason) == (Outcome.FAILED, "set_aside: turn_died")


# -- routing and presence --------------------------------------------------------------------------------------


def test_a_reply_to_a_name_nobody_has_creates_nothing() -> None:
    hub = hub_of("alice", "bob")
    refused = hub.say("alice", "bobb", "Hello")
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.facts["nearest"]) == (Code.UNKNOWN_RECIPIENT, ["bob"])
    assert (hub.entries, hub.standing, hub.threads, hub.log) == ({}, {}, {}, [])


def test_mail_for_who_is_away_waits_and_comes_once_in_order_together() -> None:
    hub = hub_of("alice")
    bob = hub.join("bob", ways=INTERACTIVE)
    bob.up = False
    ids = [sent(hub.say("alice", "bob", f"Number {n}")) for n in range(3)]
    hub.run()
    assert [hub.states(key)["bob"] for key in ids] == [("queued", "offline")] * 3
    assert hub.later(DAY) == 0
    bob.up = True
    hub.run()
    assert hub.turns == [("bob", tuple(ids))]
    assert hub.later(DAY) == 0


def test_a_late_joiner_is_given_nothing_from_before_its_time() -> None:
    hub = hub_of("alice", "bob")
    hub.say("alice", "#general", "Early news")
    hub.join("carol")
    hub.say("alice", "#general", "Late news")
    assert [m.message.text for m in hub.mailbox("carol")] == ["Late news"]


# -- broadcast -------------------------------------------------------------------------------------------------


def test_an_announcement_is_in_every_inbox_and_runs_no_turn() -> None:
    hub = Hub()
    hub.join("alice")
    others = [f"agent-{n}" for n in range(20)]
    for name in others:
        hub.join(name, echo)
    news = sent(hub.say("alice", "#general", "The build is green"))
    hub.run()
    assert hub.turns == []
    assert hub.states(news) == dict.fromkeys(others, ("queued", "no_wake"))
    assert len(hub.messages) == 1


def test_a_question_to_all_gets_a_reply_of_each_and_none_is_broadcast() -> None:
    hub = Hub()
    hub.join("alice", wake=True)
    others = [f"agent-{n}" for n in range(5)]
    for name in others:
        hub.join(name, lambda message: "Here!")
    hub.say("alice", "#general", "Who is there", wake=True)
    hub.run()
    assert sorted(name for name, _ in hub.turns if name != "alice") == others
    replies = hub.messages[1:]
    assert [m.to for m in replies] == [("alice",)] * 5


def test_who_may_not_wake_all_is_told_so() -> None:
    hub = hub_of("alice", "bob")
    refused = hub.say("alice", "#general", "Wake up", wake=True)
    assert isinstance(refused, Refusal)
    assert refused.code is Code.WAKE_NOT_ALLOWED
    assert hub.turns == []


def test_who_was_away_hears_of_an_announcement_on_return_once() -> None:
    hub = hub_of("alice")
    bob = hub.join("bob", ways=INTERACTIVE)
    bob.up = False
    news = sent(hub.say("alice", "#general", "The build is green"))
    hub.run()
    assert hub.states(news)["bob"] == ("queued", "offline")
    bob.up = True
    hub.run()
    assert hub.turns == []
    question = sent(hub.say("alice", "bob", "And your part?"))
    hub.run()
    assert hub.turns == [("bob", (news, question))]
    hub.end_turn("bob")
    assert hub.later(DAY) == 0


# -- operators -------------------------------------------------------------------------------------------------


def test_a_paused_conversation_waits_without_work_and_goes_on_once() -> None:
    hub = hub_of("alice", "bob")
    first = sent(hub.say("alice", "bob", "One"))
    thread = hub.entries[first].message.thread
    hub.operate(Verb.PAUSE, thread)
    hub.run()
    assert hub.states(first)["bob"] == ("queued", "paused")
    rows = len(hub.log)
    for _ in range(100):
        assert hub.later(0.1) == 0
    assert len(hub.log) == rows
    hub.operate(Verb.RESUME, thread)
    hub.run()
    assert hub.handed_over(first, "bob") == 1


def test_a_terminated_conversation_delivers_nothing_until_it_is_revived() -> None:
    hub = hub_of("alice", "bob")
    first = sent(hub.say("alice", "bob", "One"))
    thread = hub.entries[first].message.thread
    hub.operate(Verb.TERMINATE, thread)
    hub.run()
    assert hub.states(first)["bob"] == ("cancelled", "terminated")
    for verb in (Verb.RESUME, Verb.PAUSE, Verb.RESUME):
        hub.operate(verb, thread)
        refused = hub.say("alice", "bob", "Two", thread=thread)
        assert isinstance(refused, Refusal)
        assert refused.code is Code.THREAD_TERMINATED
    hub.operate(Verb.REVIVE, thread)
    third = sent(hub.say("alice", "bob", "Three", thread=thread))
    hub.run()
    assert hub.turns == [("bob", (third,))]
    acts = [entry[:2] for entry in hub.log if entry[1] == "boss"]
    assert acts == [(v, "boss") for v in ("terminate", "resume", "pause", "resume", "revive")]


def test_a_reply_from_a_turn_whose_conversation_was_terminated_is_not_delivered() -> None:
    hub = hub_of("alice")

    def terminated_meanwhile(message: Message) -> str:
        hub.operate(Verb.TERMINATE, message.thread)
        return "Too late"

    hub.join("bob", terminated_meanwhile)
    hub.say("alice", "bob", "Work")
    hub.run()
    assert len(hub.messages) == 1
    assert hub.refused == [Code.THREAD_TERMINATED]
    assert [name for name, _ in hub.turns] == ["bob"]


# -- asks ------------------------------------------------------------------------------------------------------


def test_an_ask_that_is_declined_ends_as_declined() -> None:
    hub = hub_of("alice", "bob")
    asked = hub.ask("alice", "bob", "Will you?")
    hub.run()
    hub.decline("bob", asked)
    assert hub.outcome(asked).outcome is Outcome.DECLINED


def test_a_late_answer_is_found_by_its_thread_once_and_changes_no_outcome() -> None:
    hub = hub_of("alice", "bob")
    asked = hub.ask("alice", "bob", "Quick?", timeout=30)
    hub.run()
    hub.later(31)
    assert hub.outcome(asked).outcome is Outcome.TIMED_OUT
    hub.say("bob", None, "Here it is", reply_to=asked, intent="result")
    hub.run()
    assert hub.outcome(asked).outcome is Outcome.TIMED_OUT
    late = [m for m in hub.messages if m.thread == hub.entries[asked].message.thread and m.sender == "bob"]
    assert len(late) == 1
    assert hub.handed_over(late[0].id, "alice") == 1


def test_a_slow_conversation_does_not_hold_up_another() -> None:
    hub = hub_of("alice", "bob")
    slow = sent(hub.say("alice", "bob", "Slow"))
    hub.operate(Verb.PAUSE, hub.entries[slow].message.thread)
    quick = sent(hub.say("alice", "bob", "Quick"))
    hub.run()
    assert hub.handed_over(quick, "bob") == 1
    assert hub.handed_over(slow, "bob") == 0


def test_neither_an_ack_nor_a_question_in_return_ends_an_ask() -> None:
    hub = hub_of("alice", "bob")
    asked = hub.ask("alice", "bob", "Which field?")
    hub.run()
    heard = sent(hub.say("bob", None, "Heard", reply_to=asked, intent="ack"))
    hub.say("bob", None, "Of which table?", reply_to=asked, intent="ask")
    hub.run()
    assert hub.outcome(asked).outcome is None
    assert hub.states(heard)["alice"] == ("queued", "not_pushed")
    answer = sent(hub.say("bob", None, "order_id", reply_to=asked))
    assert (hub.outcome(asked).outcome, hub.outcome(asked).answer) == (Outcome.ANSWERED, answer)


# -- any story -------------------------------------------------------------------------------------------------

NAMES = ("alice", "bob", "carol")
who = st.sampled_from(NAMES)
deeds = st.lists(
    st.one_of(
        st.tuples(st.just("say"), who, st.sampled_from([*NAMES, "#general"])),
        st.tuples(st.just("ask"), who, who),
        st.tuples(st.just("away"), who, who),
        st.tuples(st.just("back"), who, who),
        st.tuples(st.just("end"), who, who),
        st.tuples(st.sampled_from([*Verb]), who, who),
        st.tuples(st.just("run"), who, who),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(deeds, st.integers(1, 6))
def test_any_story_falls_silent_and_gives_nobody_anything_twice(story: list[tuple[str, str, str]], most: int) -> None:
    hub = Hub(rules=Rules(max_hops=most))
    for name in NAMES:
        hub.join(name, echo, ways=INTERACTIVE if name == "carol" else HEADLESS, wake=True)
    dead: set[str] = set()
    for deed, one, other in story:
        handed = len(hub.turns)
        match deed:
            case "say":
                hub.say(one, other, "Hello?", wake=True)
            case "ask" if one != other:
                hub.say(one, other, "Well?", intent="ask")
            case "away" | "back":
                hub.actors[one].up = deed == "back"
            case "end":
                hub.end_turn(one)
            case "run":
                hub.run()
            case Verb() if hub.threads:
                thread = sorted(hub.threads)[len(story) % len(hub.threads)]
                hub.operate(deed, thread)
        dead = {key for key, thread in hub.threads.items() if not thread.moves}
        for _, ids in hub.turns[handed:]:
            assert not {hub.entries[key].message.thread for key in ids} & dead
    hub.run()
    assert all(m.hops < m.max_hops <= most for m in hub.messages)
    for (key, name), recipient in hub.standing.items():
        assert hub.handed_over(key, name) <= 1
        assert recipient.attempts == hub.handed_over(key, name)
        if hub.threads[hub.entries[key].message.thread].moves and hub.actors[name].up:
            assert recipient.state is not State.ACCEPTED
    assert hub.later(DAY) == 0
