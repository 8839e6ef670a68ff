"""What readers are told, on a hub in memory: one frame an event, one write a flush, nothing missing, nothing twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.hub import framing, guardrails, stream
from fleet.hub.auth import Caller, Role
from fleet.hub.log import Event
from fleet.hub.mailbox import WORKSPACE_DELETED
from fleet.hub.message import Limits, Position
from fleet.hub.projection import Page
from fleet.hub.stream import SSE, WEBSOCKET, Framing, Pace, Reader, Streams


class Transport:
    """A connection whose other side reads when the test says so."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.unread = 0
        self.holds = False
        """The other side does not read."""
        self.closing = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.unread += len(data) if self.holds else 0

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def reads_all(self) -> None:
        self.holds, self.unread = False, 0


class Hub:
    """What the streams need of an exchange."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.log = SimpleNamespace(epoch="e", head=0)
        self.history = self
        self.tokens = self
        self.limits, self.rules = Limits(), guardrails.Rules()
        self.streams: dict[str, frozenset[str] | None] = {}
        self.revoked: set[str] = set()
        self._tell: Callable[[Sequence[Event]], None] = lambda events: None

    def on_events(self, callback: Callable[[Sequence[Event]], None]) -> Callable[[], None]:
        self._tell = callback
        return lambda: None

    def streams_of(self, caller: Caller) -> frozenset[str] | None:
        return self.streams.get(caller.name)

    def good(self, caller: Caller) -> bool:
        return caller.name not in self.revoked

    async def oldest(self) -> Position:
        return Position("e", 0)

    async def read(
        self, *, streams: Collection[str] | None, within: str, after: Position, limit: int, veils: bool
    ) -> Page:
        found = [e for e in self.events if e.seq > after.seq and (streams is None or e.stream in streams)]
        more = len(found) > limit
        last = found[limit - 1].seq if more else self.log.head
        return Page(found[:limit], Position("e", last), more)

    def say(self, *texts: str, to: str = "main/#a", kind: str = "note", **data: Any) -> None:
        """Events that are committed together."""
        new = []
        for text in texts:
            self.log.head += 1
            body = json.dumps({"text": text, **data}).encode()
            new.append(Event(self.log.head, 1.0, to, kind, "main/op", body))
        self.events += new
        self._tell(new)


class Watched:
    """A reader, and what it was told."""

    def __init__(self, streams: Streams, name: str = "op", framing: Framing = WEBSOCKET) -> None:
        self.transport = Transport()
        self.streams = streams
        self.reader = Reader(Caller(name, Role.VIEWER), self.transport, framing, 0.0)  # type: ignore[arg-type]

    async def join(self, after: int | None = None, names: Sequence[str] | None = None) -> Watched:
        await self.streams.join(self.reader, None if after is None else Position("e", after), names)
        self.streams.begin(self.reader)
        return self

    @property
    def texts(self) -> list[str]:
        """Of all events, in the order that they came."""
        raw, texts = b"".join(self.transport.writes), []
        while raw:
            size, start = raw[1], 2
            if size == 126:
                size, start = int.from_bytes(raw[2:4], "big"), 4
            if raw[0] == 0x81:
                texts.append(json.loads(raw[start : start + size])["data"]["text"])
            raw = raw[start + size :]
        return texts


@pytest.fixture
async def hub() -> Hub:
    return Hub()


async def streams_of(hub: Hub, **pace: Any) -> Streams:
    return Streams(hub, Pace(**pace))  # type: ignore[arg-type]


async def settled(*what: Callable[[], bool]) -> None:
    """Until it is so, at the loop's own pace."""
    async with asyncio.timeout(20):
        while not all(one() for one in what):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def flushed(streams: Streams) -> None:
    await settled(lambda: streams._flush_due is None)


async def test_one_write_carries_all_of_a_flush_to_each_reader_and_a_frame_is_built_once(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    real = stream.wire.event_frame

    def counted(event: Event, epoch: str) -> str:
        built.append(event.seq)
        return real(event, epoch)

    monkeypatch.setattr(stream.wire, "event_frame", counted)
    streams = await streams_of(hub)
    hub.streams["alice"] = frozenset({"main/#a", "main/@alice"})
    readers = [await Watched(streams, name).join() for name in ("op", "op", "alice")]
    hub.say("1", "2")
    hub.say("to alice", to="main/@alice")
    hub.say("3")
    streams.say(readers[2].reader, b"")
    await flushed(streams)
    assert [len(one.transport.writes) for one in readers] == [1, 1, 1]
    assert [one.texts for one in readers] == [["1", "2", "to alice", "3"]] * 3
    assert sorted(built) == [1, 2, 3, 4]
    await streams.close()


async def test_the_next_flush_is_no_sooner_than_the_last_one_took(hub: Hub) -> None:
    streams = await streams_of(hub)
    reader = await Watched(streams).join()
    hub.say("1")
    await flushed(streams)
    streams._rest_until = asyncio.get_running_loop().time() + 3600  # the last one took an hour
    hub.say("2")
    assert isinstance(streams._flush_due, asyncio.TimerHandle)
    hub.say("3")
    assert reader.texts == ["1"]
    streams._flush_due.cancel()
    streams._flush()
    assert reader.texts == ["1", "2", "3"]
    assert len(reader.transport.writes) == 2
    await streams.close()


async def test_who_is_behind_is_served_from_the_log_when_it_reads_and_then_goes_live(hub: Hub) -> None:
    streams = await streams_of(hub, behind=1000)
    slow, lively = await Watched(streams).join(), await Watched(streams).join()
    slow.transport.holds = True
    for number in range(50):
        hub.say(f"{number} {'x' * 500}")
        await flushed(streams)
    assert len(lively.texts) == 50
    assert slow.reader.behind
    assert len(slow.texts) < 6
    slow.transport.reads_all()
    await settled(lambda: not slow.reader.behind)
    hub.say("live")
    await flushed(streams)
    assert slow.texts == lively.texts
    assert slow.texts[-1] == "live"
    await streams.close()


@pytest.mark.parametrize("after", range(9))
async def test_a_reader_that_comes_while_events_are_on_their_way_gets_each_once(hub: Hub, after: int) -> None:
    streams = await streams_of(hub)
    hub.say("1", "2", "3")
    await flushed(streams)
    hub.say("4", "5")  # committed, and not yet sent
    reader = await Watched(streams).join(min(after, 5))
    hub.say("6")
    await settled(lambda: not reader.reader.behind)
    hub.say("7", "8")
    await flushed(streams)
    assert reader.texts == [str(n) for n in range(min(after, 5) + 1, 9)]
    await streams.close()


async def test_who_names_no_position_gets_nothing_that_was_committed_before_it_came(hub: Hub) -> None:
    streams = await streams_of(hub)
    hub.say("before")
    reader = await Watched(streams).join()
    hub.say("after")
    await flushed(streams)
    assert reader.texts == ["after"]
    await streams.close()


async def test_a_member_hears_what_it_joined_from_then_on(hub: Hub) -> None:
    streams = await streams_of(hub)
    hub.streams["alice"] = frozenset({"main/@alice"})
    alice = await Watched(streams, "alice").join()
    hub.say("not heard")
    hub.streams["alice"] = frozenset({"main/@alice", "main/#a"})
    hub.say("joined", to="main/!members", kind="joined", name="alice", channel="#a")
    hub.say("heard")
    await flushed(streams)
    assert alice.texts == ["heard"]
    hub.streams["alice"] = frozenset({"main/@alice"})
    hub.say("left", to="main/!members", kind="left", name="alice", channel="#a")
    hub.say("not heard any more")
    await flushed(streams)
    assert alice.texts == ["heard"]
    await streams.close()


async def test_a_revoked_token_ends_its_connections_with_the_event_that_says_so(hub: Hub) -> None:
    streams = await streams_of(hub)
    op, eve = await Watched(streams).join(), await Watched(streams, "eve").join()
    hub.revoked.add("eve")
    hub.say("gone", to="main/!audit", kind="token_revoked")
    hub.say("not for eve")
    await flushed(streams)
    assert "not for eve" not in eve.texts
    assert eve.transport.closing
    assert not op.transport.closing
    assert streams.readers == {op.reader}
    await streams.close()


async def test_a_revoked_token_ends_its_connections_though_whoever_revokes_it_has_not_come_to_that_yet(
    hub: Hub,
) -> None:
    streams = await streams_of(hub)
    op = await Watched(streams).join()
    eve = Watched(streams, "eve")
    eve.reader.caller = Caller("eve", Role.VIEWER, token="k-eve")
    await eve.join()
    hub.say("gone", to="main/!audit", kind="token_revoked", id="k-eve")
    await flushed(streams)
    assert eve.transport.closing
    assert streams.readers == {op.reader}
    await streams.close()


async def test_the_tokens_of_a_deleted_workspace_end_their_connections_with_it(hub: Hub) -> None:
    streams = await streams_of(hub)
    eve = await Watched(streams, "eve").join()
    hub.revoked.add("eve")
    hub.say("gone", to="main/!audit", kind=WORKSPACE_DELETED)
    await flushed(streams)
    assert eve.transport.closing
    await streams.close()


async def test_what_cannot_be_handed_out_at_once_is_read_from_the_log_and_nobody_misses_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = await streams_of(hub)
    reader = await Watched(streams).join()
    real = streams._hand_out

    def fails_once(events: Sequence[Event], speaking: set[Reader]) -> None:
        monkeypatch.setattr(streams, "_hand_out", real)
        raise RuntimeError("a bug")

    monkeypatch.setattr(streams, "_hand_out", fails_once)
    hub.say("1", "2")
    await settled(lambda: streams._flush_due is None, lambda: not reader.reader.behind)
    hub.say("3")
    await flushed(streams)
    assert reader.texts == ["1", "2", "3"]
    await streams.close()


async def test_one_reader_that_cannot_be_told_leaves_the_others_alone(hub: Hub) -> None:
    streams = await streams_of(hub)
    broken, fine = await Watched(streams).join(), await Watched(streams).join()
    real = broken.transport.write

    def write(data: bytes) -> None:
        broken.transport.write = real  # type: ignore[method-assign]
        raise RuntimeError("a bug")

    broken.transport.write = write  # type: ignore[method-assign]
    hub.say("1")
    await flushed(streams)
    assert fine.texts == ["1"]
    assert broken.transport.closing
    assert streams.readers == {fine.reader}
    await streams.close()


async def test_the_same_event_is_a_frame_here_and_a_block_with_its_position_there(hub: Hub) -> None:
    streams = await streams_of(hub)
    one, two = await Watched(streams).join(), await Watched(streams, framing=SSE).join()
    hub.say("line\nline")
    await flushed(streams)
    size, _, rest = two.transport.writes[0].partition(b"\r\n")
    piece = rest[: int(size, 16)]
    assert rest[int(size, 16) :] == b"\r\n"
    fields = dict(line.split(": ", 1) for line in piece.decode().strip().split("\n"))
    assert fields["id"] == "e:1"
    assert json.loads(fields["data"])["data"]["text"] == one.texts[0] == "line\nline"
    await streams.close()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_a_frame_says_how_long_it_is(size: int) -> None:
    frame = framing.ws_frame(b"x" * size)
    assert frame[0] == 0x81
    told, start = frame[1], 2
    if told == 126:
        told, start = int.from_bytes(frame[2:4], "big"), 4
    elif told == 127:
        told, start = int.from_bytes(frame[2:10], "big"), 10
    assert (told, frame[start:]) == (size, b"x" * size)
