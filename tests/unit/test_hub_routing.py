"""Who hears a message, whom it wakes, and from where a reader goes on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.hub.message import Code, Intent, Message, Position, Refusal
from fleet.hub.routing import (
    Because,
    Directory,
    Hears,
    Member,
    Resumption,
    Route,
    mentioned,
    nearest,
    reply_address,
    resume,
    route,
    sees,
)

ALL = {"#general": Hears.ALL}
LAB = Directory(
    {
        m.name: m
        for m in (
            Member("alice", ALL),
            Member("bob", ALL),
            Member("carol", {"#build": Hears.ALL}),
            Member("dave", {"#general": Hears.MENTIONS}),
            Member("logger", {"#general": Hears.NOTHING}),
            Member("watcher", ALL, observer=True),
        )
    }
)


def message(to: tuple[str, ...], text: str = "x", **fields: Any) -> Message:
    given_fields = {"id": "m-1", "sender": "alice", "thread": "t-1", **fields}
    return Message(workspace="main", to=to, text=text, at=0.0, **given_fields)


def heard(sent: Message, directory: Directory = LAB) -> dict[str, tuple[Because, bool]]:
    found = route(sent, directory)
    assert isinstance(found, Route), found
    return {h.name: (h.because, h.wakes) for h in found.hearers}


# -- who hears -------------------------------------------------------------------------------------------------


def test_a_direct_message_is_for_one_and_wakes_it() -> None:
    assert heard(message(("bob",))) == {"bob": (Because.NAMED, True)}


def test_a_channel_is_for_who_listens_and_wakes_nobody() -> None:
    assert heard(message(("#general",))) == {"bob": (Because.CHANNEL, False)}


def test_a_broadcast_that_may_wake_wakes_all() -> None:
    assert heard(message(("#general",), wake=True)) == {"bob": (Because.CHANNEL, True)}


def test_a_mention_reaches_across_channels_and_wakes() -> None:
    assert heard(message(("#general",), "@carol, @dave and @bob: look")) == {
        "bob": (Because.MENTIONED, True),
        "carol": (Because.MENTIONED, True),
        "dave": (Because.MENTIONED, True),
    }


def test_a_mention_wakes_who_is_named_beside_others_as_well() -> None:
    for to in (("bob", "carol"), ("bob", "carol", "#build")):
        told = heard(message(to, "@bob please, and @dave"))
        assert (told["bob"], told["carol"]) == ((Because.MENTIONED, True), (Because.NAMED, False))
        assert ("dave" in told) is ("#build" in to)


def test_who_does_not_listen_is_reached_by_a_mention() -> None:
    assert heard(message(("#general",), "@logger stop"))["logger"] == (Because.MENTIONED, True)


def test_a_direct_message_stays_between_two_whomever_it_mentions() -> None:
    assert heard(message(("bob",), "do not tell @carol")) == {"bob": (Because.NAMED, True)}


def test_an_announcement_to_several_wakes_nobody_and_a_question_does() -> None:
    assert heard(message(("bob", "carol"))) == {"bob": (Because.NAMED, False), "carol": (Because.NAMED, False)}
    asked = heard(message(("bob", "carol"), intent=Intent.ASK))
    assert asked == {"bob": (Because.NAMED, True), "carol": (Because.NAMED, True)}


def test_an_ack_wakes_nobody() -> None:
    assert heard(message(("bob",), intent=Intent.ACK)) == {"bob": (Because.NAMED, False)}


def test_a_channel_nobody_is_in_is_heard_by_nobody() -> None:
    assert heard(message(("#empty",))) == {}


def test_a_name_nobody_has_refuses_the_whole_and_offers_the_nearest() -> None:
    found = route(message(("bob", "caroll")), LAB)
    assert isinstance(found, Refusal)
    assert found.code is Code.UNKNOWN_RECIPIENT
    assert found.facts == {"unknown": ["caroll"], "nearest": ["carol"]}
    assert "carol?" in found.reason


def test_another_workspace_is_not_there() -> None:
    other = Directory().having(Member("alice"))
    found = route(message(("bob",)), other)
    assert isinstance(found, Refusal)
    assert found.facts["nearest"] == []


def test_observers_are_named_nowhere() -> None:
    assert "watcher" not in LAB.names
    assert all("watcher" not in names for names in LAB.channels.values())
    assert isinstance(route(message(("watcher",)), LAB), Refusal)
    assert mentioned("@watcher", LAB) == ()
    assert nearest("watchr", LAB.names) == ()


names = st.sampled_from(["alice", "bob", "carol", "dave", "logger"])
channels = st.sampled_from(["#general", "#build", "#empty"])


@given(
    st.lists(names | channels, min_size=1, max_size=6),
    st.lists(names, max_size=4),
    names,
    st.sampled_from(list(Intent)),
    st.booleans(),
)
def test_nobody_hears_itself_or_anything_twice(
    to: list[str], called: list[str], sender: str, intent: Intent, wake: bool
) -> None:
    text = " ".join(f"@{name}" for name in called)
    sent = message(tuple(dict.fromkeys(to)), text, sender=sender, intent=intent, wake=wake)
    found = route(sent, LAB)
    assert isinstance(found, Route)
    hearers = [h.name for h in found.hearers]
    assert sender not in hearers
    assert len(hearers) == len(set(hearers))
    assert set(found.wakes) <= set(hearers)
    if sent.broadcast and not wake:
        assert all(h.because is Because.MENTIONED for h in found.hearers if h.wakes)
    streams = found.streams(sent)
    for name in hearers:
        in_channel = LAB.members[name].streams & set(streams)
        assert in_channel, "whoever hears it finds it in a stream that it follows"


def test_it_stands_in_the_streams_of_its_channels_and_of_who_is_not_there() -> None:
    sent = message(("#general",), "@carol")
    found = route(sent, LAB)
    assert isinstance(found, Route)
    assert found.streams(sent) == ("#general", "@carol")


def test_a_reply_to_all_is_for_who_asked() -> None:
    assert reply_address(message(("#general",))) == ("alice",)


def test_joining_and_leaving() -> None:
    erin = Member("erin").joined("#general").joined("#build", Hears.MENTIONS)
    assert erin.streams == {"@erin", "#general"}
    assert "erin" in heard(message(("#general",)), LAB.having(erin))
    assert "erin" not in heard(message(("#general",)), LAB.having(erin.left("#general")))
    assert LAB.having(erin).channels == {
        "#build": ("carol", "erin"),
        "#general": ("alice", "bob", "dave", "erin", "logger"),
    }
    assert LAB.having(erin).without("erin") == LAB


# -- mentions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("@bob", ("bob",)),
        ("hey @Bob, @carol: and @bob.", ("bob", "carol")),
        ("(@bob) @bob's *@bob*", ("bob",)),
        ("écoute：@bob。", ("bob",)),
        ("write to alice@bob.org", ()),
        ("first.last@bob", ()),
        ("user+tag@bob", ()),
        ("git@bob:repo.git", ()),
        ("@bob.org", ()),
        ("@bob@example.org", ()),
        ("@bob/package", ()),
        ("npm i x/@bob", ()),
        ("@bobby @bo", ()),
        ("@bob_x @bob-x", ()),
        ("@@bob", ()),
        ("`@bob` and ```\n@bob\n```", ()),
        ("```\n@bob never closed", ()),
        ("@nobody", ()),
    ],
)
def test_mentions_are_told_from_addresses_and_code(text: str, found: tuple[str, ...]) -> None:
    assert mentioned(text, LAB) == found


# -- who sees what ---------------------------------------------------------------------------------------------


def test_a_direct_message_is_seen_by_its_two_ends_and_the_observers() -> None:
    sent = message(("bob",))
    assert [n for n, m in LAB.members.items() if sees(m, sent, ("bob",))] == ["alice", "bob", "watcher"]


def test_what_is_said_in_a_channel_is_seen_by_its_members_and_the_mentioned() -> None:
    sent = message(("#general",), "@carol")
    seen = [n for n, m in LAB.members.items() if sees(m, sent, ("bob", "carol"))]
    assert seen == ["alice", "bob", "carol", "dave", "logger", "watcher"]
    assert not sees(LAB.members["carol"], message(("#general",)), ("bob",))


# -- where a reader goes on ------------------------------------------------------------------------------------

HEAD = Position("e1", 100)


def test_a_late_joiner_starts_at_now() -> None:
    assert resume(None, HEAD, oldest=1) == Resumption(HEAD)


@pytest.mark.parametrize("seq", [0, 57, 100])
def test_who_says_where_it_was_goes_on_there(seq: int) -> None:
    assert resume(Position("e1", seq), HEAD, oldest=1) == Resumption(Position("e1", seq))


@pytest.mark.parametrize("asked", [Position("e0", 50), Position("e1", 101), Position("e1", 8)])
def test_who_cannot_go_on_is_told_so_and_gets_what_there_is(asked: Position) -> None:
    assert resume(asked, HEAD, oldest=10) == Resumption(Position("e1", 9), gap=True)


def test_nothing_is_missing_where_the_oldest_comes_next() -> None:
    assert not resume(Position("e1", 9), HEAD, oldest=10).gap
