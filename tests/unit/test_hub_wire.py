"""What goes over the hub's doors: one description for the checks and the documents, one form for what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.hub import wire
from fleet.hub.log import Event
from fleet.hub.message import Code, Limits, Position, Refusal
from fleet.hub.submission import read_submission
from fleet.hub.wire import Fault, read_frame, read_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def code_of(raw: bytes) -> str:
    with pytest.raises(Fault) as refused:
        read_json(raw)
    return refused.value.code


@given(values)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert read_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_a_named_fault(raw: bytes) -> None:
    try:
        read_json(raw)
    except Fault as fault:
        assert fault.code in ("bad_json", "invalid_unicode", "too_deep")


def test_what_json_does_not_know_is_refused_by_name() -> None:
    assert code_of(b"NaN") == code_of(b"[Infinity]") == code_of(b"-Infinity") == "bad_json"
    assert code_of(b'"\xff"') == "invalid_unicode"
    assert code_of(b"1" * 5000) == "bad_json"
    assert code_of(b"") == code_of(b"{}{}") == "bad_json"


@pytest.mark.parametrize("signs", ["[]", "{}"])
def test_json_may_be_nested_so_deep_and_no_deeper(signs: str) -> None:
    def nested(depth: int) -> bytes:
        if signs == "[]":
            return b"[" * depth + b"]" * depth
        return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)

    assert read_json(nested(wire.DEPTH)) is not None
    assert code_of(nested(wire.DEPTH + 2)) == "too_deep"
    assert code_of(nested(100_000)) == "too_deep"
    wide = json.dumps([[n] for n in range(1000)]).encode()
    assert len(read_json(wide)) == 1000
    assert read_json(json.dumps("[" * 1000).encode()) == "[" * 1000


GOOD: tuple[dict[str, Any], ...] = (
    {"to": "bob", "text": "hello"},
    {"to": ["#general", "bob"], "text": "x", "intent": "task", "wake": True, "max_hops": 3, "expires_in": 5},
    {"to": "bob", "text": "x", "expires_in": 0.5, "idempotency_key": "k-1", "metadata": {"a": [1, None, {"b": "c"}]}},
    {"reply_to": "m-aaaaaaaaaaaaaaaa", "text": "x", "thread": "t-aaaaaaaaaaaaaaaa"},
    {"to": "bob", "attachments": [{"sha256": "0" * 64, "name": "a.txt", "size": 3, "type": "text/plain"}]},
)
BAD: tuple[dict[str, Any], ...] = (
    {"to": 7, "text": "x"},
    {"to": ["bob", 7], "text": "x"},
    {"to": "bob", "text": 7},
    {"to": "bob", "text": "x", "intent": "order"},
    {"to": "bob", "text": "x", "wake": "yes"},
    {"to": "bob", "text": "x", "wake": 1},
    {"to": "bob", "text": "x", "thread": "no id"},
    {"to": "bob", "text": "x", "reply_to": 5},
    {"to": "bob", "text": "x", "max_hops": 0},
    {"to": "bob", "text": "x", "max_hops": 1.5},
    {"to": "bob", "text": "x", "max_hops": True},
    {"to": "bob", "text": "x", "expires_in": -1},
    {"to": "bob", "text": "x", "expires_in": float("inf")},
    {"to": "bob", "text": "x", "idempotency_key": ""},
    {"to": "bob", "text": "x", "idempotency_key": "a b"},
    {"to": "bob", "text": "x", "metadata": []},
    {"to": "bob", "text": "x", "replyto": "m-aaaaaaaaaaaaaaaa"},
    {"to": "bob", "text": "x", "\ud800": 1},
    {"to": "bob", "text": "x", "attachments": {}},
    {"to": "bob", "text": "x", "attachments": [{"name": "a"}]},
    {"to": "bob", "text": "x", "attachments": [{"sha256": "x", "name": "a", "size": 1}]},
)


@pytest.mark.parametrize("body", GOOD)
def test_what_the_documents_allow_is_taken(body: dict[str, Any]) -> None:
    assert not isinstance(read_submission(body, Limits()), Refusal)
    wire.check(wire.SendBody, body)


@pytest.mark.parametrize("body", BAD)
def test_what_the_documents_forbid_is_refused_in_the_same_words_by_whoever_looks(body: dict[str, Any]) -> None:
    refusal = read_submission(body, Limits())
    assert isinstance(refusal, Refusal)
    with pytest.raises(Fault) as fault:
        wire.check(wire.SendBody, body)
    assert {fault.value.code, refusal.code.value} <= {"wrong_type", "bad_value", "missing", "no_such_field"}


def test_a_field_that_nobody_knows_is_refused_with_the_one_that_was_meant() -> None:
    refusal = read_submission({"to": "bob", "text": "x", "replyto": "m-aaaaaaaaaaaaaaaa"}, Limits())
    assert isinstance(refusal, Refusal)
    with pytest.raises(Fault) as fault:
        wire.check(wire.TokenBody, {"role": "agent", "name": "x", "expiresin": 5})
    with pytest.raises(Fault) as asked:
        wire.check_query(["limit", "chanel"], ["channel", "limit"])
    told = [(refusal.code, refusal.reason, refusal.facts)]
    told += [(fault.value.code, str(fault.value), fault.value.facts) for fault in (fault, asked)]
    words = (("replyto", "reply_to"), ("expiresin", "expires_in"), ("chanel", "channel"))
    for (code, reason, facts), (said, meant) in zip(told, words, strict=True):
        assert (code, facts) == ("no_such_field", {"field": said})
        assert f"`{meant}`" in reason


def test_what_the_hub_itself_says_of_a_message_is_passed_over_when_a_client_says_it() -> None:
    shown = {"id": "m-aaaaaaaaaaaaaaaa", "sender": "operator", "hops": 0, "workspace": "lab", "mentions": ["eve"]}
    assert read_submission({"to": "bob", "text": "x", **shown}, Limits()) == read_submission(
        {"to": "bob", "text": "x"}, Limits()
    )


def test_a_fault_names_its_field_and_tells_nothing_else_of_what_came() -> None:
    with pytest.raises(Fault) as fault:
        wire.check(wire.TokenBody, {"role": "root-secret", "name": "x"})
    assert fault.value.facts == {"field": "role"}
    assert "root-secret" not in str(fault.value)
    assert fault.value.status == 400


def test_every_code_of_a_refusal_has_its_status() -> None:
    for code in Code:
        status = Fault.of(Refusal(code, "no", retry_after=2.0)).status
        assert 400 <= status < 500, code
        limited = code.value.endswith("_limited") or code is Code.MAILBOX_FULL
        assert (status == 429) == limited, code
        assert (status == 404) == code.value.startswith("unknown_"), code
    told = Fault.of(Refusal(Code.RATE_LIMITED, "slowly", 2.5, {"recipients": ["bob"]})).to_json("r1")
    assert told == {
        "code": "rate_limited", "message": "slowly", "ref": "r1", "retry_after": 2.5, "recipients": ["bob"],
    }  # fmt: skip


def test_a_frame_is_of_its_type_and_keeps_its_ref_when_it_is_refused() -> None:
    frame = read_frame(b'{"type": "message", "ref": "r", "message": {"to": "bob"}}')
    assert isinstance(frame, wire.Send) and frame.message == {"to": "bob"}
    for raw, code in (
        (b'{"type": "message", "ref": "r"}', "missing"),
        (b'{"type": "nonsense", "ref": "r"}', "unknown_type"),
        (b'{"ref": "r"}', "missing"),
        (b'{"type": "subscribe", "streams": "#a", "ref": "r"}', "wrong_type"),
    ):
        with pytest.raises(Fault) as fault:
            read_frame(raw)
        assert (fault.value.code, fault.value.facts["ref"]) == (code, "r")


FRAMES: tuple[dict[str, Any], ...] = (
    {"type": "hello"},
    {"type": "subscribe", "streams": ["#a"]},
    {"type": "unsubscribe", "streams": ["#a"]},
    {"type": "message", "message": {"to": "bob"}},
    {"type": "ack", "pos": "e:1"},
    {"type": "ping"},
)


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame["type"])
def test_a_field_of_a_frame_that_nobody_knows_is_refused_by_name(frame: dict[str, Any]) -> None:
    assert read_frame(json.dumps(frame).encode())
    raw = json.dumps({**frame, "steams": []}).encode()
    assert wire.plain_message(raw) is None
    with pytest.raises(Fault) as fault:
        read_frame(raw)
    assert (fault.value.code, fault.value.facts["field"]) == ("no_such_field", "steams")
    assert set(wire.CLIENT_FRAMES) == {one["type"] for one in FRAMES}


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["message", "ping", "nonsense"])},
        optional={
            "message": st.dictionaries(st.text(max_size=3), st.none() | st.text(max_size=5), max_size=3) | st.text(),
            "ref": st.none() | st.integers() | st.text(max_size=5) | st.just("x" * 201),
            "later": st.just(1),
        },
    )
)
def test_what_is_taken_for_a_message_at_a_glance_is_what_the_model_says(value: dict[str, Any]) -> None:
    raw = json.dumps(value).encode()
    plain = wire.plain_message(raw)
    if plain is not None:
        frame = wire.read_frame(raw)
        assert isinstance(frame, wire.Send)
        assert plain == (frame.message, frame.ref)


def test_most_messages_are_known_at_a_glance_and_half_a_character_is_not() -> None:
    glance = wire.plain_message
    assert glance(b'{"type": "message", "ref": "1", "message": {"to": "bob"}}') == ({"to": "bob"}, "1")
    assert glance(b'{"type": "message", "message": {"to": "\\u00e9"}}') == ({"to": "é"}, None)
    for odd in (b'"ref": "\\ud800"', b'"ref": "\\uDC00"'):
        assert glance(b'{"type": "message", "message": {}, ' + odd + b"}") is None


def test_what_is_no_json_or_nested_too_deeply_is_never_taken_for_a_message_at_a_glance() -> None:
    def message(text: bytes) -> bytes:
        return b'{"type": "message", "message": {"text": ' + text + b"}}"

    assert wire.plain_message(message(b'"[[[[[[{{{{{{' + b"[" * wire.DEPTH + b'"')) is not None
    deep = b"[" * wire.DEPTH + b"]" * wire.DEPTH
    for odd in (b"NaN", b"-Infinity", b'"\xff"', b'"\x01"', b"01", b"1" * 5000, deep, b"1} "):
        assert wire.plain_message(message(odd)) is None
        with pytest.raises(Fault):
            read_frame(message(odd))


def test_numbers_times_and_positions_of_a_query_are_whole_or_refused() -> None:
    assert wire.as_number(None, "limit", 50) == 50
    assert wire.as_number("7", "limit", 50, most=10) == 7
    for value in ("", "-1", "11", "x", "1e3", "٣", "9" * 30):
        with pytest.raises(Fault):
            wire.as_number(value, "limit", 50, most=10)
    assert wire.as_time("12.5", "since") == 12.5
    for value in ("nan", "inf", "-1", "soon"):
        with pytest.raises(Fault):
            wire.as_time(value, "since")
    assert wire.as_position("abc:7") == Position("abc", 7)
    with pytest.raises(Fault):
        wire.as_position("7")


def event(kind: str, stream: str, data: dict[str, Any], seq: int = 7) -> Event:
    return Event(seq, 12.5, stream, kind, "lab/alice", json.dumps(data).encode())


def test_an_event_is_told_without_its_workspace_and_without_what_a_token_is_known_by() -> None:
    told = json.loads(wire.event_json(event("token", "lab/!audit", {"id": "k-1", "sha256": "ab" * 32}), "e"))
    assert told == {
        "pos": "e:7", "seq": 7, "at": 12.5, "stream": "!audit", "kind": "token", "sender": "alice",
        "data": {"id": "k-1"},
    }  # fmt: skip
    frame = json.loads(wire.event_frame(event("status", "lab/!members", {"name": "bob"}), "e"))
    assert frame.pop("type") == "event"
    assert frame["data"] == {"name": "bob"}


def test_a_message_is_told_without_what_is_its_senders_business() -> None:
    body = {
        "id": "m-1", "workspace": "lab", "sender": "alice", "to": ["#a"], "text": "sha256 \u2028", "at": 1.0,
        "recipients": [{"name": "bob", "state": "queued"}], "idempotency_key": "secret-key",
    }  # fmt: skip
    told = json.loads(wire.event_json(event("message", "lab/#a", body), "e"))["data"]
    assert (told["text"], told["seq"], told["epoch"]) == ("sha256 \u2028", 7, "e")
    assert "recipients" not in told
    assert "idempotency_key" not in told


def test_a_copy_is_passed_over_by_who_has_the_message_itself() -> None:
    copy = event("copy", "lab/@bob", {"id": "m-1", "to": ["#a"]})
    assert wire.seen_twice(copy, None)
    assert wire.seen_twice(copy, frozenset({"lab/#a", "lab/@bob"}))
    assert not wire.seen_twice(copy, frozenset({"lab/@bob"}))
    assert not wire.seen_twice(copy, frozenset({"other/#a", "lab/@bob"}))
    assert not wire.seen_twice(event("message", "lab/#a", {"to": ["#a"]}), None)


def test_a_name_that_is_none_is_told_in_words() -> None:
    with pytest.raises(Fault, match="`name` is a name: at most 63 lower-case letters") as fault:
        wire.check(wire.TokenBody, {"role": "agent", "name": "Bad Name"})
    assert fault.value.code == "bad_value"
