"""How much may be said, and for how long it is kept: black-box, on a fleet whose limits and times are short."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.fleets import until
from tests.e2e.talk import Answer, Talk, spoken, talking

pytestmark = pytest.mark.real

WINDOW = 12.0
"""Seconds: a busy machine says within them what a test says at once."""
SILENT = ":"


@pytest.fixture(scope="module")
def talk() -> Iterator[Talk]:
    short = {"hub_pair": 5, "hub_window": WINDOW, "hub_waiting": 6, "hub_max_hops": 2, "hub_conversation_total": 8}
    with talking(**short) as made:
        yield made


def test_five_within_a_window_pass_of_eight_at_once_and_one_more_passes_later(talk: Talk) -> None:
    talk.cast({"c4b": SILENT})
    caller = talk.caller("c4a")
    caller.send("#c4", "Here I am")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: caller.try_send("c4b", f"Number {n}"), range(8)))
    taken = [a.body["id"] for a in answers if a.status == 201]
    refused = [a for a in answers if a.status != 201]
    assert (len(taken), [(a.status, a.code) for a in refused]) == (5, [(429, "pair_limited")] * 3)
    assert all(0 < a.body["error"]["retry_after"] <= WINDOW for a in refused)
    told = [e["data"]["code"] for e in spoken(talk.operator.audit(), "refused") if e["sender"] == "c4a"]
    assert told == ["pair_limited"] * 3
    for id in taken:
        assert talk.settled(id, "c4b") == "delivered"
    assert sorted(talk.turns("c4b")) == sorted(taken)

    def passes() -> Answer | None:
        answer = caller.try_send("c4b", "One more")
        return answer if answer.status == 201 else None

    later = until(passes, "there is room for one more")
    talk.settled(later.body["id"], "c4b")
    assert len(talk.turns("c4b")) == 6
    assert talk.operator.try_send("c4b", "A person's word is not counted").status == 201


def test_who_asks_more_often_than_a_pair_may_speak_gets_every_answer(talk: Talk) -> None:
    talk.cast({"c4q": "echo Done."})
    assert [talk.operator.ask("c4q", f"Number {n}?")["outcome"] for n in range(7)] == ["answered"] * 7
    told = [talk.operator.send("c4q", f"Number {n}")["id"] for n in range(7)]
    assert [talk.settled(id, "c4q") for id in told] == ["delivered"] * 7
    for number, id in enumerate(told):
        said = talk.operator.texts(thread=talk.operator.message(id)["thread"])
        assert said == [f"Number {number}", "Done."], "a person's words are answered too, read or not"


def test_every_reason_for_which_a_message_stopped_is_listed(talk: Talk) -> None:
    talk.cast({"c29b": SILENT, "c29up": "gate c29-go", "c29bad": "exit 3"})
    talk.cast({"c29away": SILENT})
    talk.run("stop", "c29away")
    a = talk.caller("c29a")
    sent = {"failed": a.send("c29bad", "Poison"), "offline": a.send("c29away", "Are you there?")}
    sent["expired"] = a.send("c29away", "Now or never", expires_in=0.2)
    hello = a.send("c29b", "Hello, c29b")
    talk.settled(hello["id"], "c29b")
    b = talk.caller("c29b")
    back = b.send(None, "Hello yourself", reply_to=hello["id"])
    assert talk.settled(sent["expired"]["id"], "c29away") == "expired"
    crowd = [talk.caller(f"c29-{n}").try_send("c29away", "Hello") for n in range(7)]
    assert crowd[-1].code == "mailbox_full", (crowd, talk.operator.inbox("c29away"))
    codes = {
        "hop_limit": a.try_send(None, "And again?", reply_to=back["id"]),
        "only_thanks": a.try_send(None, "Thanks!", reply_to=back["id"]),
        "control_characters": a.try_send("c29b", "bell \x07"),
        "mailbox_full": crowd[-1],
        "unknown_recipient": a.try_send("c29nobody", "Hello"),
    }
    assert {code: answer.code for code, answer in codes.items()} == {code: code for code in codes}
    k = talk.caller("c29k")
    once = [k.try_send("c29b", "Once", idempotency_key="c29") for _ in range(2)]
    assert [(answer.status, answer.body["id"]) for answer in once] == [(n, once[0].body["id"]) for n in (201, 200)]
    running = a.send("c29up", "Work", intent="ask")
    until(lambda: talk.turns("c29up"), "it is at work")
    thread = talk.operator.message(running["id"])["thread"]
    talk.operator.act(thread, "pause")
    sent["paused"] = running
    talk.held(running["id"], "c29up", "paused")
    talk.operator.act(thread, "terminate")
    assert talk.settled(running["id"], "c29up") == "cancelled"
    assert a.try_send("c29up", "Go on", thread=thread).code == "thread_terminated"
    until(lambda: k.try_send("c29b", "Faster").code == "pair_limited", "it is told to speak less")
    assert talk.settled(sent["failed"]["id"], "c29bad") == "failed"
    talk.held(sent["offline"]["id"], "c29away", "offline")
    told = {e["data"]["code"] for e in spoken(talk.operator.audit(), "refused") if e["sender"].startswith("c29")}
    assert {*codes, "thread_terminated", "pair_limited"} <= told
    receipts = spoken(a.events(), "receipt")
    seen = {(e["data"]["recipient"]["state"], e["data"]["recipient"].get("reason")) for e in receipts}
    assert {("queued", "offline"), ("queued", "paused"), ("cancelled", "terminated")} <= seen
    assert {"expired", "failed"} <= {state for state, _ in seen}


def test_the_acts_of_an_operator_stand_in_the_audit_in_order_when_the_messages_are_gone() -> None:
    with talking() as talk:
        talk.cast({"bob": SILENT})
        sent = talk.caller("alice").send("bob", "Hello")
        first = sent["seq"]
        thread = talk.operator.message(sent["id"])["thread"]
        talk.settled(sent["id"], "bob")
        for verb in ("pause", "resume"):
            talk.operator.act(thread, verb)
        talk.operator.done("POST", "prompts", {"to": "bob", "text": "Stop that"})
        talk.operator.act(thread, "terminate")
        talk.configure(hub_kept_days=1e-6, hub_clean_every=1)
        talk.run("daemon", "restart")
        talk.find_port()
        until(lambda: talk.operator.call("GET", f"messages/{sent['id']}").status == 404, "the message is forgotten")
        acts = [e for e in talk.operator.audit() if e["sender"] == "operator" and e["kind"] in ("thread", "prompted")]
        assert [e["data"].get("verb", e["kind"]) for e in acts] == ["pause", "resume", "prompted", "terminate"]
        assert [e["at"] for e in acts] == sorted(e["at"] for e in acts)
        assert all(e["at"] > 0 for e in acts)
        late = talk.operator.call("GET", "events", after=f"{sent['epoch']}:{first - 1}")
        assert "gap" in str(late.body), "who is too far behind is told so"
        assert talk.json("hub", "verify")["ok"]
