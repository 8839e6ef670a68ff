"""A client's bytes as WebSocket messages: whole however they are cut, and refused by their code where they are none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.hub.framing import (
    BINARY,
    CLOSE,
    NOT_THE_PROTOCOL,
    NOT_UNICODE,
    PING,
    TEXT,
    TOO_LARGE,
    Broken,
    Incoming,
    closing,
    unmasked,
    ws_frame,
)  # fmt: skip

KEY = b"\x37\xfa\x21\x3d"


def client_frame(payload: bytes, opcode: int = TEXT, *, last: bool = True, key: bytes = KEY) -> bytes:
    """As a client sends it: masked."""
    plain = ws_frame(payload, opcode)
    head = bytearray(plain[: len(plain) - len(payload)])
    head[0] &= 0xFF if last else 0x7F
    head[1] |= 0x80
    return bytes(head) + key + unmasked(payload, key)


def taken(incoming: Incoming, *pieces: bytes) -> list[tuple[int, bytes]]:
    def each() -> Iterator[tuple[int, bytes]]:
        for piece in pieces:
            incoming.feed(piece)
            while (got := incoming.next()) is not None:
                yield got

    return list(each())


def code_of(*pieces: bytes, largest: int = 1000) -> int:
    with pytest.raises(Broken) as broken:
        taken(Incoming(largest), *pieces)
    return broken.value.code


MESSAGES = st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), st.binary(max_size=300)), max_size=6)


@given(MESSAGES, st.binary(min_size=4, max_size=4), st.lists(st.integers(0, 2000), max_size=8))
def test_messages_come_out_as_they_were_sent_however_their_bytes_are_cut(
    messages: list[tuple[int, bytes]], key: bytes, cuts: list[int]
) -> None:
    sent = b"".join(client_frame(payload, opcode, key=key) for opcode, payload in messages)
    places = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    pieces = [sent[a:b] for a, b in itertools.pairwise(places)]
    assert taken(Incoming(1000), *pieces) == messages


@given(MESSAGES, st.lists(st.integers(0, 2000), max_size=8), st.integers(1, 3), st.integers(0, 255))
def test_messages_that_are_taken_many_at_once_are_those_that_are_taken_one_by_one(
    messages: list[tuple[int, bytes]], cuts: list[int], most: int, odd: int
) -> None:
    def read(payload: bytes) -> tuple[int, bytes] | None:
        return None if odd in payload else (TEXT, payload)

    sent = b"".join(client_frame(payload, opcode) for opcode, payload in messages)
    incoming, got = Incoming(1000), list[tuple[int, bytes]]()
    for a, b in itertools.pairwise(sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})):
        incoming.feed(sent[a:b])
        while True:
            run = incoming.run(read, most)
            assert len(run) <= most
            one = None if run else incoming.next()
            if not run and one is None:
                break
            got += run or [one]
    assert got == messages


def test_what_is_not_as_it_should_be_is_left_for_who_says_so() -> None:
    for sent in (b"\x81\x02{}", client_frame(b"x" * 1001), client_frame(b"x", last=False), client_frame(b"", PING)):
        incoming = Incoming(1000)
        incoming.feed(client_frame(b"good") + sent + bytes(20))
        assert incoming.run(lambda payload: payload, 10) == [b"good"]
        assert incoming.run(lambda payload: payload, 10) == []


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_a_message_of_any_length_is_read(size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    assert taken(Incoming(200_000), client_frame(payload[:size])) == [(TEXT, payload[:size])]


def test_a_large_message_that_comes_byte_by_byte_is_read_once_it_is_whole() -> None:
    incoming, sent = Incoming(100_000), client_frame(b"x" * 100_000)
    for byte in sent[:-1]:
        incoming.feed(bytes((byte,)))
        assert incoming.next() is None
    incoming.feed(sent[-1:] + client_frame(b"next"))
    assert taken(incoming, b"") == [(TEXT, b"x" * 100_000), (TEXT, b"next")]


def test_a_message_in_several_frames_is_one_and_a_ping_may_stand_between_them() -> None:
    got = taken(
        Incoming(1000),
        client_frame(b"one ", last=False),
        client_frame(b"are you there", PING),
        client_frame(b"two ", 0, last=False) + client_frame(b"three", 0),
        client_frame(b"four"),
    )
    assert got == [(PING, b"are you there"), (TEXT, b"one two three"), (TEXT, b"four")]


@pytest.mark.parametrize(
    "sent",
    [
        b"\xf1\x82" + KEY + b"{}",
        b"\x81\x02{}",
        client_frame(b"", 0x3),
        client_frame(b"x" * 126, PING),
        client_frame(b"", PING, last=False),
        client_frame(b"goes on with nothing", 0),
        client_frame(b"one", last=False) + client_frame(b"another"),
    ],
    ids=["reserved bits", "not masked", "unknown opcode", "long ping", "ping in pieces", "no beginning", "no end"],
)
def test_what_is_no_websocket_is_told_by_its_head(sent: bytes) -> None:
    assert code_of(sent) == NOT_THE_PROTOCOL


def test_what_is_too_large_is_told_before_it_is_there() -> None:
    assert code_of(client_frame(b"x" * 1001)[:8]) == TOO_LARGE
    assert code_of(b"\x81\xff" + (2**63 - 1).to_bytes(8, "big")) == TOO_LARGE
    assert code_of(client_frame(b"x" * 600, last=False), client_frame(b"x" * 600, 0)[:8]) == TOO_LARGE
    assert taken(Incoming(1000), client_frame(b"x" * 1000)) == [(TEXT, b"x" * 1000)]


def test_a_close_has_a_code_that_may_be_sent_back_or_is_broken() -> None:
    assert closing(b"") == 1000
    assert closing((1001).to_bytes(2, "big") + "adieu, à bientôt".encode()) == 1001
    assert closing((4000).to_bytes(2, "big")) == 4000
    for payload, code in (
        (b"\x03", NOT_THE_PROTOCOL),
        ((1005).to_bytes(2, "big"), NOT_THE_PROTOCOL),
        ((70).to_bytes(2, "big"), NOT_THE_PROTOCOL),
        ((2999).to_bytes(2, "big"), NOT_THE_PROTOCOL),
        ((1000).to_bytes(2, "big") + b"\xff", NOT_UNICODE),
    ):
        with pytest.raises(Broken) as broken:
            closing(payload)
        assert broken.value.code == code
    assert taken(Incoming(10), client_frame(b"\x03\xe8", CLOSE)) == [(CLOSE, b"\x03\xe8")]
