"""Why two agents cannot talk forever: hops, rates, thanks, and the refusal of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.brake import Bucket
from fleet.hub.guardrails import (
    Accounts,
    Attempt,
    Lineage,
    Rules,
    Speaker,
    Tally,
    Turn,
    Window,
    admit,
    lineage,
    only_thanks,
    repeats,
    room,
)
from fleet.hub.message import Attachment, Code, Intent, Message, Nature, Refusal, ThreadState
from fleet.hub.submission import Submission

NOW = 1_000_000.0
RULES = Rules()
ALICE = Speaker(name="alice")
BOSS = Speaker(name="boss", operator=True)


def message(text: str = "x", **fields: Any) -> Message:
    given_fields = {"id": "m-1", "sender": "alice", "to": ("bob",), "thread": "t-1", **fields}
    return Message(workspace="main", text=text, at=NOW, **given_fields)


def attempt(**fields: Any) -> Attempt:
    return Attempt(**{"message": message(), "speaker": ALICE, "wakes": ("bob",), **fields})


def accounts(**fields: Any) -> Accounts:
    return Accounts(**{"sender": Bucket.full(RULES.sender_burst, NOW), **fields})


def code(tried: Attempt, held: Accounts | None = None, rules: Rules = RULES) -> Code | None:
    refusal = admit(tried, held or accounts(), NOW, rules)[1]
    return refusal.code if refusal else None


# -- hops ------------------------------------------------------------------------------------------------------


def test_a_first_message_has_the_fleets_ceiling_and_a_sender_can_only_lower_it() -> None:
    assert lineage([], None, ALICE, RULES) == Lineage(0, 8)
    assert lineage([], 3, ALICE, RULES) == Lineage(0, 3)
    assert lineage([], 1000, ALICE, RULES) == Lineage(0, 8)
    assert lineage([], 5, replace(ALICE, hop_limit=2), RULES) == Lineage(0, 2)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=5),
    st.none() | st.integers(1, 50),
    st.none() | st.integers(0, 50),
)
def test_no_choice_of_causes_or_ceilings_gains_a_hop(
    chain: list[tuple[int, int]], asked: int | None, own: int | None
) -> None:
    causes = [message(id=f"m-{n}", hops=hops, max_hops=most) for n, (hops, most) in enumerate(chain)]
    found = lineage(causes, asked, replace(ALICE, hop_limit=own), RULES)
    assert found.hops > max(hops for hops, _ in chain)
    assert found.max_hops <= min(RULES.max_hops, *(most for _, most in chain))
    assert found.cause == "m-0"


def test_the_hop_that_reaches_the_ceiling_is_refused_by_number() -> None:
    assert code(attempt(message=message(hops=7))) is None
    refusal = admit(attempt(message=message(hops=8)), accounts(), NOW, RULES)[1]
    assert refusal
    assert (refusal.code, refusal.facts) == (Code.HOP_LIMIT, {"hop": 8, "max_hops": 8})


def test_operators_have_hops_too() -> None:
    assert code(attempt(speaker=BOSS, message=message(hops=8))) is Code.HOP_LIMIT


def test_what_is_said_in_a_turn_inherits_what_the_turn_was_given() -> None:
    early, late = message(id="m-a", hops=2, max_hops=5), message(id="m-b", hops=4, max_hops=6)
    turn = Turn().handed(early).arrived(early, NOW).handed(late)
    assert lineage(turn.causes(None), None, ALICE, RULES) == Lineage(5, 5, "m-b")
    assert lineage(turn.causes(early), None, ALICE, RULES) == Lineage(5, 5, "m-a")


def test_an_answer_may_come_before_the_proof_is_seen() -> None:
    turn = Turn().handed(message(hops=3))
    assert lineage(turn.causes(None), None, ALICE, RULES).hops == 4
    assert lineage(turn.undone("m-1").causes(None), None, ALICE, RULES).hops == 0


def test_the_end_of_a_turn_forgets_what_it_was_given_and_not_what_is_on_its_way() -> None:
    turn = Turn().arrived(message(id="m-a"), NOW).handed(message(id="m-b"))
    assert [m.id for m in turn.ended().causes(None)] == ["m-b"]


def test_whose_turns_nobody_sees_replies_for_a_while() -> None:
    heard = Turn().arrived(message(sender="bob", hops=3), NOW)
    assert lineage(heard.recent(NOW + 120, RULES).causes(None, ("bob",)), None, ALICE, RULES).hops == 4
    assert heard.recent(NOW + 120, RULES).causes(None, ("carol",)) == ()
    assert heard.recent(NOW + 121, RULES).causes(None, ("bob",)) == ()


# -- how much --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 5))
def test_no_window_ever_holds_more_than_it_may(pauses: list[float], most: int) -> None:
    window, now, passed = Window(), NOW, list[float]()
    for pause in pauses:
        now += pause
        if window.wait(now, most, 60.0) == 0.0:
            window = window.counted(now, 60.0)
            passed.append(now)
    for at in passed:
        assert sum(at - 60.0 < other <= at for other in passed) <= most


@given(st.lists(st.floats(0, 30), min_size=1, max_size=30), st.integers(1, 5))
def test_who_waits_as_long_as_told_gets_through(pauses: list[float], most: int) -> None:
    window, now = Window(), NOW
    for pause in pauses:
        now += pause
        now += window.wait(now, most, 60.0)
        assert window.wait(now + 1e-6, most, 60.0) == 0.0
        window = window.counted(now + 1e-6, 60.0)


def test_a_clock_that_is_set_back_makes_nobody_wait_longer_than_a_window() -> None:
    window = Window().counted(NOW, 60.0)
    assert window.wait(NOW - 3600, 1, 60.0) == 60.0


def test_eight_at_once_where_five_may_are_five_and_three_refusals() -> None:
    rules, held = Rules(pair=5), accounts()
    codes = []
    for _ in range(8):
        held, refusal = admit(attempt(), held, NOW, rules)
        codes.append(refusal.code if refusal else None)
        if refusal:
            assert refusal.retry_after == 60.0
    assert codes == [None] * 5 + [Code.PAIR_LIMITED] * 3
    assert admit(attempt(), held, NOW + 59.9, rules)[1] is not None
    assert admit(attempt(), held, NOW + 60, rules)[1] is None


def test_an_answer_that_is_owed_is_never_one_too_many() -> None:
    full = accounts(
        pairs={"bob": Window([NOW] * RULES.pair)}, thread=Tally(Window([NOW] * 30), RULES.conversation_total)
    )
    assert code(attempt(), full) is Code.PAIR_LIMITED
    assert code(attempt(answers=True), full) is None
    assert code(attempt(answers=True), accounts(sender=Bucket(1, 0.0, NOW))) is Code.RATE_LIMITED


def test_a_pair_is_ordered() -> None:
    held = accounts(pairs={"bob": Window((NOW,) * 12)})
    assert code(attempt(), held) is Code.PAIR_LIMITED
    assert code(attempt(wakes=("carol",)), held) is None


def test_a_conversation_has_its_rate_and_its_end() -> None:
    assert code(attempt(), accounts(thread=Tally(Window((NOW,) * 30), 30))) is Code.CONVERSATION_LIMITED
    refusal = admit(attempt(), accounts(thread=Tally(Window(), 200)), NOW, RULES)[1]
    assert refusal
    assert (refusal.code, refusal.retry_after) == (Code.CONVERSATION_EXHAUSTED, None)


def test_what_causes_no_turn_is_not_counted_as_one() -> None:
    full = accounts(pairs={"bob": Window((NOW,) * 12)}, thread=Tally(Window((NOW,) * 30), 200))
    held, refusal = admit(attempt(wakes=()), full, NOW, RULES)
    assert refusal is None
    assert (held.pairs, held.thread) == (full.pairs, full.thread)


def test_operators_are_exempt_from_pair_and_conversation_but_not_from_their_rate() -> None:
    full = accounts(pairs={"bob": Window((NOW,) * 12)}, thread=Tally(Window((NOW,) * 30), 200))
    assert code(attempt(speaker=BOSS), full) is None
    assert code(attempt(speaker=BOSS), accounts(sender=Bucket(100, 0.0, NOW))) is Code.RATE_LIMITED


def test_a_burst_passes_and_then_twenty_a_second() -> None:
    held, passed = accounts(), 0
    for n in range(300):
        held, refusal = admit(attempt(wakes=()), held, NOW + n / 100, RULES)
        passed += refusal is None
        if refusal:
            assert refusal.code is Code.RATE_LIMITED
            assert 0 < (refusal.retry_after or 0) <= 0.05
    assert passed == 100 + 59


def test_a_refused_message_costs_its_senders_rate_and_nothing_else() -> None:
    before = accounts()
    after, refusal = admit(attempt(message=message(hops=8)), before, NOW, RULES)
    assert refusal
    assert after.sender.level == before.sender.level - 1
    assert (after.pairs, after.thread) == (before.pairs, before.thread)


# -- who may ---------------------------------------------------------------------------------------------------


def test_nothing_is_said_in_a_terminated_conversation_by_anybody() -> None:
    assert code(attempt(thread=ThreadState.TERMINATED)) is Code.THREAD_TERMINATED
    assert code(attempt(thread=ThreadState.TERMINATED, speaker=BOSS)) is Code.THREAD_TERMINATED
    assert code(attempt(thread=ThreadState.PAUSED)) is None
    assert code(attempt(thread=ThreadState.REVIVED)) is None


def test_a_manifest_says_what_its_agent_may() -> None:
    mute = replace(ALICE, may=frozenset())
    assert code(attempt(speaker=mute)) is Code.NOT_ALLOWED
    asker = replace(ALICE, may=frozenset({"ask"}))
    assert code(attempt(speaker=asker)) is Code.NOT_ALLOWED
    assert code(attempt(speaker=asker, message=message(intent=Intent.ASK))) is None
    assert code(attempt(speaker=asker, message=message(to=("#general",), intent=Intent.ASK))) is Code.NOT_ALLOWED
    teller = replace(ALICE, may=frozenset({"send"}))
    assert code(attempt(speaker=teller)) is None
    assert code(attempt(speaker=teller, message=message(intent=Intent.ASK))) is Code.NOT_ALLOWED
    assert code(attempt(speaker=teller, message=message(to=("#general",)))) is Code.NOT_ALLOWED


def test_to_answer_whoever_has_spoken_to_one_is_nobodys_leave() -> None:
    mute = replace(ALICE, may=frozenset())
    asked = message("Which port?", sender="bob", to=("alice",), intent=Intent.ASK)
    answer = message("8080", to=("bob",), intent=Intent.RESULT, reply_to=asked.id)
    assert code(attempt(speaker=mute, message=answer, replied=asked)) is None
    for more in ({"to": ("bob", "carol")}, {"to": ("carol",)}, {"to": ("#general",)}, {"intent": Intent.ASK}):
        assert code(attempt(speaker=mute, message=answer._replace(**more), replied=asked)) is Code.NOT_ALLOWED
    beside = answer._replace(reply_to=None)
    assert code(attempt(speaker=mute, message=beside, replied=asked)) is Code.NOT_ALLOWED, "it only handles it"


def test_a_broadcast_wakes_only_where_the_manifest_allows_it() -> None:
    call = message(to=("#general",), wake=True)
    assert code(attempt(message=call)) is Code.WAKE_NOT_ALLOWED
    assert code(attempt(message=call, speaker=replace(ALICE, wake=True))) is None
    assert code(attempt(message=call, speaker=BOSS)) is None
    assert code(attempt(message=call._replace(wake=False))) is None


def test_only_an_operators_word_can_be_the_persons_own() -> None:
    order = message(nature=Nature.PROMPT)
    assert code(attempt(message=order)) is Code.NOT_ALLOWED
    assert code(attempt(message=order, speaker=BOSS)) is None


def test_the_same_key_is_the_same_message_or_refused() -> None:
    first = message("hello")
    assert repeats(first, Submission(to=("bob",), text="hello")) is None
    other = repeats(first, Submission(to=("bob",), text="hello!"))
    assert isinstance(other, Refusal)
    assert other.code is Code.ID_TAKEN


def test_a_full_mailbox_takes_no_more_and_says_whose_it_is() -> None:
    assert room(message(), [], 500) is None
    full = room(message(), ["bob"], 500)
    assert full
    assert (full.code, full.facts) == (Code.MAILBOX_FULL, {"recipients": ["bob"]})


def test_a_full_mailbox_keeps_nobody_from_speaking_to_a_channel() -> None:
    assert room(message(to=("#general",)), ["bob"], 500) is None
    named = room(message(to=("#general", "bob")), ["bob", "carol"], 500)
    assert named
    assert named.facts == {"recipients": ["bob"]}


# -- thanks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Sounds great, thanks!",
        "Thanks!",
        "THANK YOU SO MUCH 🙏🙏",
        "Thank you so much for your help!",
        "Thanks for the quick reply!",
        "Got it — thank you, bob.",
        "@bob thanks again :)",
        "You're welcome! Have a nice day.",
        "You’re very welcome",
        "Perfect, that's all. Thanks, everyone!",
        "No problem!",
        "Vielen Dank!",
        "Danke, alles klar.",
        "Merci beaucoup !",
        "¡Muchas gracias!",
        "Grazie mille!",
        "Muito obrigada!",
        "Dank je wel",
        "Большое спасибо!",
        "ありがとうございます。",
        "了解しました、ありがとうございます！",
        "谢谢你！",
        "非常感谢",
        "감사합니다",
    ],
)
def test_mere_thanks_are_known(text: str) -> None:
    assert only_thanks(text, names=("bob",))


@pytest.mark.parametrize(
    "text",
    [
        "Thanks — could you confirm the field name?",
        "order_id (a uuid)",
        "",
        "ok",
        "Sounds great",
        "👍",
        "No, thank you.",
        "No thanks",
        "Thanks, yes.",
        "Thanks, go ahead",
        "Thanks. Merge it.",
        "Thanks, but the field is wrong",
        "Thanks, 42",
        "thanks `rm`",
        "Thanks, carol",
        "Please tell them thanks",
        "Danke, aber nein",
        "Gracias, ¿qué campo?",
        "谢谢，字段是什么？",
        "ありがとう、でも違います",
        "Thanks! " * 60,
    ],
)
def test_whatever_says_more_than_thanks_leaves(text: str) -> None:
    assert not only_thanks(text, names=("bob",))


def test_agreement_is_an_answer_where_something_was_asked() -> None:
    assert only_thanks("ok, thanks", asked=False)
    assert not only_thanks("ok, thanks", asked=True)
    assert only_thanks("thanks a lot!", asked=True)


def thanks(**fields: Any) -> Attempt:
    told = message("The field is order_id (a uuid).", sender="bob", to=("alice",), intent=Intent.RESULT)
    return attempt(**{"message": message("Sounds great, thanks!", hops=2), "replied": told, **fields})


def test_a_reply_that_only_thanks_goes_nowhere() -> None:
    assert code(thanks()) is Code.ONLY_THANKS


def test_thanks_leave_where_they_are_wanted() -> None:
    assert code(thanks(speaker=replace(ALICE, suppress_thanks=False))) is None
    assert code(thanks(speaker=BOSS)) is None
    assert code(thanks(answers=True)) is None
    assert code(thanks(replied=None)) is None
    assert code(thanks(message=message("Thanks!", hops=2, intent=Intent.RESULT))) is None
    photo = Attachment("0" * 64, "cake.png", 1)
    assert code(thanks(message=message("Thanks!", hops=2, attachments=(photo,)))) is None


@pytest.mark.parametrize("question", ["Shall I delete it?", "削除しますか？"])
def test_consent_to_a_question_leaves_however_it_thanks(question: str) -> None:
    asked = message(question, sender="bob", to=("alice",))
    assert code(thanks(replied=asked, message=message("ok, thanks", hops=2))) is None
    assert code(thanks(replied=asked, message=message("Thanks a lot!", hops=2))) is Code.ONLY_THANKS


@given(st.text(max_size=400))
def test_looking_for_thanks_never_fails(text: str) -> None:
    assert only_thanks(text) in (True, False)


@pytest.mark.parametrize("word", ["all right ", "thanks ", "that is so good for me ", "for the very very ", "dank u "])
def test_looking_for_thanks_takes_no_time_on_long_repeats(word: str) -> None:
    only_thanks((word * 300)[:300])
    only_thanks((word * 300)[:299] + "x")
