"""Mailboxes: what waits is known, what happened to a message is a fact, and no change overtakes another."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.hub.log import New, SqliteLog, as_json, verify
from fleet.hub.mailbox import PROJECTIONS, RECEIPT, Change, Mailboxes, _as_events, box, channel, receipts
from fleet.hub.message import (
    Answer,
    Attachment,
    Expire,
    HandOver,
    Intent,
    Message,
    Nature,
    Proven,
    Recipient,
    State,
    Undone,
    Wait,
    Way,
)
from fleet.hub.projection import DELETION, EDIT, History
from fleet.testing import TurnedClock

NOW = 1_800_000_000.0
BOB, CAROL, ALICE = box("lab", "bob"), box("lab", "carol"), box("lab", "alice")
GENERAL = channel("lab", "#general")


class Hub:
    """A log and its mailboxes, whose counts follow the tail."""

    def __init__(self, folder):
        self.folder = folder
        self.clock = TurnedClock(NOW)
        self.ids = 0

    def bring(self, events):
        self.boxes.seen(events)

    async def open(self):
        self.log = await SqliteLog.open(self.folder / "hub.db", self.clock, PROJECTIONS, reserve=0)
        self.boxes = Mailboxes(self.log, self.clock)
        self.log.tail(await self.boxes.load(), lambda events: self.bring(events))
        self.history = History(self.log, self.clock)
        return self

    async def again(self):
        await self.log.close()
        return await self.open()

    async def send(self, text="hello", *names, streams=(BOB,), **about):
        self.ids += 1
        message = Message(
            id=f"m-{self.ids}",
            workspace="lab",
            sender="alice",
            to=names or ("bob",),
            text=text,
            at=self.clock.now(),
            thread=about.pop("thread", "t-1"),
            **about,
        )
        to = [Recipient(name=name, since=self.clock.now()) for name in names or ("bob",)]
        return message, await self.boxes.accept(message, to, streams)

    async def change(self, id, event, of=BOB):
        return (await self.boxes.change([Change(id, of, event)]))[0]


@pytest.fixture
async def hub(tmp_path):
    made = await Hub(tmp_path).open()
    yield made
    await made.log.close()


def ids(mail):
    return [one.message.id for one in mail]


async def test_an_accepted_message_waits_in_each_recipients_box(hub):
    message, accepted = await hub.send("hi", "bob", "carol")
    assert accepted == (1, False)
    assert (hub.boxes.waiting(BOB), hub.boxes.waiting(CAROL), hub.boxes.waiting(ALICE)) == (1, 1, 0)
    [mail] = await hub.boxes.inbox(BOB)
    assert (mail.seq, mail.message, mail.recipient) == (1, message, Recipient(name="bob", since=NOW))
    assert [r.name for r in await hub.boxes.receipt("m-1")] == ["bob", "carol"]
    assert await hub.boxes.receipt("m-9") is None


async def test_all_that_a_message_says_comes_back(hub):
    message, _ = await hub.send(
        "hi",
        reply_to="m-0",
        cause="m-0",
        hops=3,
        expires_at=NOW + 9,
        mentions=("carol",),
        attachments=(Attachment("a" * 64, "ü.png", 7, "image/png"),),
        metadata={"a": [1, {"b": None}]},
        idempotency_key="k",
        intent=Intent.ASK,
        nature=Nature.PROMPT,
    )
    [mail] = await hub.boxes.inbox(BOB)
    assert mail.message == message


async def test_a_message_to_a_channel_has_a_receipt_too_without_recipients(hub):
    await hub.boxes.accept(
        Message(id="m-1", workspace="lab", sender="alice", to=("#general",), text="hi", at=NOW, thread="t"),
        [],
        [GENERAL],
    )
    assert await hub.boxes.receipt("m-1") == []


async def test_whoever_is_mentioned_elsewhere_gets_a_copy_that_counts_once(hub):
    await hub.send("@bob look", "bob", streams=(GENERAL, BOB))
    assert hub.boxes.waiting(BOB) == 1
    assert [(e.stream, e.kind) for e in (await hub.history.read()).events] == [(GENERAL, "message"), (BOB, "copy")]
    assert ids(await hub.boxes.inbox(BOB)) == ["m-1"]


async def test_the_way_of_a_message_is_told_step_by_step_to_its_sender(hub):
    await hub.send()
    await hub.change("m-1", Wait("busy"))
    await hub.change("m-1", HandOver(Way.DOORBELL))
    assert hub.boxes.waiting(BOB) == 0
    await hub.change("m-1", Proven("in the transcript"))
    after = await hub.change("m-1", Answer("m-2"))
    assert (after.state, after.way, after.evidence) == (State.ANSWERED, Way.DOORBELL, "in the transcript")
    facts = (await hub.history.read(streams=[receipts("lab", "alice")])).events
    assert [(e.kind, e.data["was"], e.data["recipient"]["state"]) for e in facts] == [
        (RECEIPT, "accepted", "queued"),
        (RECEIPT, "queued", "injecting"),
        (RECEIPT, "injecting", "delivered"),
        (RECEIPT, "delivered", "answered"),
    ]
    assert await hub.boxes.receipt("m-1") == [after]


async def test_what_changes_nothing_is_not_written(hub):
    await hub.send()
    await hub.change("m-1", Wait("busy"))
    head = hub.log.head
    assert (await hub.change("m-1", Wait("busy"))).reason == "busy"
    assert (await hub.change("m-1", Undone("never handed over"))).state is State.QUEUED
    assert hub.log.head == head


async def test_a_change_of_what_nobody_has_is_nothing(hub):
    await hub.send()
    assert await hub.boxes.change([Change("m-9", BOB, Wait("x")), Change("m-1", CAROL, Wait("x"))]) == [None, None]
    assert await hub.boxes.change([]) == []


async def test_many_changes_at_one_box_are_made_one_after_the_other(hub):
    for _ in range(20):
        await hub.send()
    handed = await asyncio.gather(
        *(hub.change(f"m-{n % 20 + 1}", HandOver(Way.TYPED)) for n in range(60)),
    )
    assert {r.attempts for r in handed} == {1}  # what is being handed over is not handed over again
    assert len((await hub.history.read(kinds=[RECEIPT])).events) == 20


async def test_several_changes_in_one_call_are_one_append_and_build_on_each_other(hub):
    await hub.send()
    await hub.send("hi", "carol")
    one, two, three = await hub.boxes.change(
        [
            Change("m-1", BOB, HandOver(Way.DOORBELL)),
            Change("m-2", CAROL, HandOver(Way.TYPED)),
            Change("m-1", BOB, Proven("seen")),
        ]
    )
    assert one == three
    assert (three.state, two.state) == (State.DELIVERED, State.INJECTING)


async def test_the_counts_are_the_same_after_a_restart(hub):
    for n in range(7):
        await hub.send("hi", "bob", "carol")
        if n < 3:
            await hub.change(f"m-{n + 1}", HandOver(Way.TYPED))
    await hub.change("m-1", Undone("died"))
    assert [hub.boxes.waiting(of) for of in (BOB, CAROL)] == [5, 7]
    await hub.again()
    assert [hub.boxes.waiting(of) for of in (BOB, CAROL)] == [5, 7]
    assert [m.recipient.state for m in await hub.boxes.open(BOB)][:3] == ["queued", "injecting", "injecting"]


async def test_a_message_counts_from_the_moment_it_is_on_its_way(hub):
    sending = [asyncio.create_task(hub.send()) for _ in range(10)]
    await asyncio.sleep(0)
    assert hub.boxes.waiting(BOB) == 10
    await asyncio.gather(*sending)
    assert hub.boxes.waiting(BOB) == 10


async def test_a_stored_message_counts_before_the_tail_has_brought_it(hub):
    tail = []
    hub.bring = tail.extend
    for n in range(3):
        await hub.send()
        assert hub.boxes.waiting(BOB) == n + 1
    await hub.change("m-1", Proven("seen"))
    await hub.log.close()
    hub.boxes.seen(tail)
    assert hub.boxes.waiting(BOB) == 2


async def test_a_repeat_by_key_is_no_second_message(hub):
    await hub.send("a", idempotency_key="k")
    _, again = await hub.send("a", idempotency_key="k")
    assert again == (1, True)
    assert hub.boxes.waiting(BOB) == 1
    assert ids(await hub.boxes.inbox(BOB)) == ["m-1"]
    await hub.again()
    assert hub.boxes.waiting(BOB) == 1


async def test_the_inbox_is_read_from_either_end(hub):
    for n in range(5):
        await hub.send(str(n))
    assert ids(await hub.boxes.inbox(BOB, limit=2)) == ["m-1", "m-2"]
    assert ids(await hub.boxes.inbox(BOB, after=2, limit=2)) == ["m-3", "m-4"]
    assert ids(await hub.boxes.inbox(BOB, newest=True, limit=2)) == ["m-4", "m-5"]


async def test_mail_shows_what_it_says_now(hub):
    await hub.send("old")
    await hub.send("gone")
    await hub.log.append([_fact(EDIT, message="m-1", text="new"), _fact(DELETION, message="m-2")])
    assert [m.message.text for m in await hub.boxes.open(BOB)] == ["new", ""]


async def test_what_is_to_be_delivered_is_followed_without_looking_again(hub):
    first, _ = await hub.send("one")
    assert ids(await hub.boxes.to_deliver(BOB)) == [first.id]
    hub.log.database.read = None  # from here on the file is not asked
    second, _ = await hub.send("two")
    third, _ = await hub.send("three")
    await hub.change(second.id, HandOver(Way.TURN))
    assert ids(await hub.boxes.to_deliver(BOB)) == [first.id, second.id, third.id]
    await hub.change(first.id, Proven("hook", Way.TYPED))
    mail = await hub.boxes.to_deliver(BOB)
    assert [(m.message.text, m.recipient.state) for m in mail] == [("two", "injecting"), ("three", "accepted")]
    await hub.change(second.id, Undone("died"))
    assert [m.recipient.state for m in await hub.boxes.to_deliver(BOB)] == ["queued", "accepted"]


async def test_what_is_to_be_delivered_is_what_the_file_says(hub):
    """Also where it has been edited, has no place in memory, or came while the box was being read."""
    await hub.boxes.to_deliver(BOB)
    long, _ = await hub.send("x" * 5000)
    assert await hub.boxes.to_deliver(BOB) == await hub.boxes.open(BOB)
    reading = asyncio.create_task(hub.boxes.to_deliver(BOB))
    await asyncio.sleep(0)
    short, _ = await hub.send("old")
    await hub.change(long.id, Expire())
    await reading
    assert ids(await hub.boxes.to_deliver(BOB)) == [short.id]
    await hub.log.append([New.of(BOB, EDIT, "lab/alice", {"message": short.id, "text": "new"})])
    assert [m.message.text for m in await hub.boxes.to_deliver(BOB)] == ["new"]
    assert await hub.boxes.to_deliver(BOB) == await hub.boxes.open(BOB)


async def test_a_box_that_begins_to_listen_is_looked_into_again(hub):
    assert await hub.boxes.to_deliver(BOB) == []
    await hub.log.append(
        [New.of("lab/!members", "joined", "lab/bob", {"name": "bob", "channel": "#general", "hears": "all"})]
    )
    message = Message(id="m-said", workspace="lab", sender="alice", to=("#general",), text="hi", at=NOW, thread="t-1")
    await hub.boxes.accept(message, [], [GENERAL], heard=True)
    assert ids(await hub.boxes.to_deliver(BOB)) == ["m-said"]


async def test_events_that_the_tail_left_out_are_not_missed(hub):
    assert await hub.boxes.to_deliver(BOB) == []
    bring, hub.bring = hub.bring, lambda events: None
    lost, _ = await hub.send("lost on the way")
    assert ids(await hub.boxes.to_deliver(BOB)) == [lost.id]
    hub.bring = bring
    later, _ = await hub.send("later")
    assert ids(await hub.boxes.to_deliver(BOB)) == [lost.id, later.id]


async def test_what_is_open_in_a_conversation_and_what_has_expired_is_known(hub):
    await hub.send("a", thread="t-x")
    await hub.send("b", thread="t-y", expires_at=NOW + 10)
    await hub.send("c", thread="t-x", expires_at=NOW + 20)
    await hub.change("m-1", HandOver(Way.TYPED))
    await hub.change("m-1", Proven("seen"))
    assert ids(await hub.boxes.open_in("t-x")) == ["m-3"]
    assert ids(await hub.boxes.due(NOW + 9)) == []
    assert ids(await hub.boxes.due(NOW + 15)) == ["m-2"]
    await hub.change("m-2", Expire())
    assert ids(await hub.boxes.due(NOW + 30)) == ["m-3"]
    assert ids(await hub.boxes.open()) == ["m-3"]


async def test_retention_never_takes_mail_that_waits_nor_what_was_changed_about_it(hub):
    await hub.send("waits")
    await hub.send("read")
    await hub.change("m-2", HandOver(Way.TYPED))
    await hub.change("m-2", Proven("seen"))
    await hub.log.append([_fact(EDIT, message="m-1", text="waits, edited")])
    await hub.log.trim(NOW + 1, 0)
    assert [m.message.text for m in await hub.boxes.inbox(BOB)] == ["waits, edited"]
    assert await hub.boxes.receipt("m-2") is None
    await hub.change("m-1", HandOver(Way.TYPED))
    await hub.change("m-1", Proven("seen"))
    await hub.log.trim(NOW + 1, 0)
    assert await hub.boxes.inbox(BOB) == []
    assert (await hub.history.read()).events == []
    assert verify(hub.log.database.path).ok


def _fact(kind, **data):
    return New.of(GENERAL, kind, "lab/alice", data)


@given(text=st.text(), key=st.none() | st.text(), sender=st.text(), expires_at=st.none() | st.floats(0, 1e12))
@pytest.mark.parametrize(
    "more",
    [{}, {"to": ("bob", "#a")}, {"reply_to": "m-0"}, {"mentions": ("bob",)}, {"metadata": {"a": [1, None]}}],
)
def test_a_message_is_written_down_as_the_encoder_would(text, key, sender, expires_at, more):
    said = Message(
        id="m-1", workspace="lab", sender=sender, text=text, at=NOW + 0.1, thread="t-1", wake=True,
        idempotency_key=key, expires_at=expires_at, **{"to": ("bob",), **more},
    )  # fmt: skip
    events = _as_events(said, [Recipient(name="bob", since=NOW, reason="inbox")], ["lab/@bob"], True, True)
    assert json.loads(events[0].body) == json.loads(as_json(events[0].data))
    assert Message.from_json(json.loads(events[0].body)) == said
