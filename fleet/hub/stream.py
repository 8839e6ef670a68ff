"""Events as they happen: over WebSocket and SSE, from a position on, in order, and none of it twice on a connection.

The log's tail alone drives what is sent. What holds:

- A frame is built once per event, and one write per connection and flush carries all of it, acks included. The next
  flush begins no sooner after the last one than that one took (up to `REST`): an idle hub sends at once, a busy one in
  batches that grow by themselves, and sending takes about half of the loop at most.
- A reader that is further behind than `Pace.behind` is not pushed to any more. It is served from the log, in pages,
  as fast as it reads, and goes live again without a gap; without progress for `Pace.stalled` seconds it is cut off
  (4008). Nobody waits for it.
- Who comes without a position starts at now. Who comes with one gets everything after it, or is told the gap.
- What a reader may see is asked of the exchange by its token, and again when memberships change. A token that has
  ended ends its connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from aiohttp import web

from fleet.errors import FleetError
from fleet.hub import wire
from fleet.hub.auth import REVOKED, Caller, Refused
from fleet.hub.exchange import Exchange
from fleet.hub.framing import CLOSE, PING, ws_frame
from fleet.hub.log import Event
from fleet.hub.mailbox import WORKSPACE_DELETED
from fleet.hub.message import Code, Position
from fleet.hub.projection import COPY, MOST, Gap
from fleet.hub.registry import ENROLLED, JOINED, LEFT, REMOVED
from fleet.hub.routing import resume
from fleet.hub.wire import Fault

log = logging.getLogger(__name__)

LOW = 64 * 1024
"""Bytes that may be left of what was written before more is read from the log."""

PAGE = 100
"""Events of the first page of a catch-up; the next ones are about as large as what a reader may be behind."""

FRAMES = 1024
"""Frames that are kept for readers who are a little behind."""

FAREWELL = 10.0
"""Seconds in which a reader that was sent away may read what it was sent before."""

REST = 0.1
"""Seconds of rest after a flush at most: one that took longer had to wait for the processor, and nobody else has to."""

TEND = 5.0
"""Seconds between two looks at all connections."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How far a reader may be behind. Settings."""

    behind: int = 256 * 1024
    """Bytes."""
    stalled: float = 60.0
    """Seconds without progress."""
    ping: float = wire.PING
    hello: float = 10.0
    """Seconds for the first frame."""


# -- frames --------------------------------------------------------------------------------------------------------


def close_frame(code: int) -> bytes:
    """The hub's last frame."""
    return ws_frame(code.to_bytes(2, "big") + wire.CLOSES[code].encode()[:123], CLOSE)


def sse_chunk(text: str) -> bytes:
    """A piece of an event stream, as a chunk of HTTP."""
    piece = text.encode()
    return b"%x\r\n%b\r\n" % (len(piece), piece)


class Framing(NamedTuple):
    """How one door writes what a reader is told."""

    event: Callable[[Event, str], bytes]
    gap: Callable[[wire.GapAnswer], bytes]
    ping: bytes
    last: Callable[[int], bytes]
    pongs: bool = False
    """Whether its clients answer a ping: one that does not is taken for gone."""


def _ws_gap(gap: wire.GapAnswer) -> bytes:
    return ws_frame(wire.encode({"type": "gap", **gap.model_dump()}).encode())


WEBSOCKET = Framing(
    event=lambda event, epoch: ws_frame(wire.event_frame(event, epoch).encode()),
    gap=_ws_gap,
    ping=ws_frame(b"", PING),
    last=close_frame,
    pongs=True,
)
SSE = Framing(
    event=lambda event, epoch: sse_chunk(f"id: {epoch}:{event.seq}\ndata: {wire.event_json(event, epoch)}\n\n"),
    gap=lambda gap: sse_chunk(f"event: gap\ndata: {gap.model_dump_json()}\n\n"),
    ping=sse_chunk(":\n\n"),
    last=lambda code: (
        sse_chunk(f"event: end\ndata: {wire.encode({'code': code, 'reason': wire.CLOSES[code]})}\n\n") + b"0\r\n\r\n"
    ),
)


class _Frames:
    """The newest frames, each built once for all who get it."""

    def __init__(self, epoch: Callable[[], str]) -> None:
        self._epoch = epoch
        self._kept: dict[tuple[int, Framing], tuple[bytes, bytes]] = {}
        """With the event's body that it was built of: that of a message that was deleted since is another."""

    def __call__(self, event: Event, framing: Framing) -> bytes:
        key = (event.seq, framing)
        body, frame = self._kept.get(key, (None, b""))
        if body != event.body:
            frame = framing.event(event, self._epoch())
            self._kept[key] = (event.body, frame)
            if len(self._kept) > FRAMES:
                del self._kept[next(iter(self._kept))]
        return frame


class _Chunk:
    """What one stream has brought in this flush, as the bytes that all its readers get."""

    __slots__ = ("_frames", "_joined", "events", "first", "last")

    def __init__(self, events: list[Event], frames: _Frames) -> None:
        self.events = events
        self.first, self.last = events[0].seq, events[-1].seq
        self._frames = frames
        self._joined: dict[int, bytes] = {}

    def joined(self, framing: Framing) -> bytes:
        found = self._joined.get(id(framing))
        if found is None:
            found = self._joined[id(framing)] = b"".join(self._frames(event, framing) for event in self.events)
        return found


# -- readers -------------------------------------------------------------------------------------------------------


class Reader:
    """One connection that is told events."""

    __slots__ = (
        "after", "behind", "caller", "catching_up", "chunks", "ended", "framing", "heard", "on_end", "out", "pinged",
        "routed", "transport", "wants", "without",
    )  # fmt: skip

    def __init__(self, caller: Caller, transport: asyncio.Transport, framing: Framing, now: float) -> None:
        self.caller = caller
        self.transport = transport
        self.framing = framing
        self.wants: frozenset[str] | None = None
        """The streams it has asked for; `None`: all that it may see."""
        self.without: frozenset[str] = frozenset()
        self.routed: frozenset[str] | None = frozenset()
        """The streams it hears; `None`: all of its workspace."""
        self.after = 0
        """It needs nothing up to here."""
        self.behind = False
        """It is served from the log."""
        self.catching_up: asyncio.Task[None] | None = None
        self.chunks: list[_Chunk] = []
        self.out: list[bytes] = []
        """What it is told beside events, to go with the next flush."""
        self.heard = now
        self.pinged = now
        self.ended = False
        self.on_end: Callable[[], None] | None = None

    @property
    def waiting(self) -> int:
        """Bytes that it has not read yet, beyond what the system holds."""
        return self.transport.get_write_buffer_size()

    def hears(self, event: Event) -> bool:
        """Whether the event is for it."""
        if self.routed is None:
            mine = wire.workspace_of(event.stream) == self.caller.workspace
        else:
            mine = event.stream in self.routed
        return mine and not wire.seen_twice(event, self.routed)

    def stream_names(self) -> list[str] | None:
        """What it hears, in its own words."""
        return None if self.routed is None else sorted(wire.local(stream) for stream in self.routed)


MEMBERSHIP = frozenset({JOINED, LEFT, ENROLLED, REMOVED})
"""Kinds of events after which a member may hear other streams."""

ENDS = frozenset({REVOKED, WORKSPACE_DELETED})
"""Kinds of events after which a token may be nobody's."""


class Streams:
    """All readers, and what each of them is told."""

    def __init__(self, exchange: Exchange, pace: Pace | None = None) -> None:
        self.exchange = exchange
        self.pace = pace or Pace()
        self.readers: set[Reader] = set()
        self.unwelcomed: set[Callable[[int], None]] = set()
        """Of who has said no `hello` yet: what sends it away, by a close code."""
        self.leaving: set[asyncio.Transport] = set()
        """Of who was sent away, and may still read why."""
        self.limits = _limits(exchange, self.pace)
        self._loop = asyncio.get_running_loop()
        self._router: dict[str, list[Reader]] = {}
        """By stream; who hears all of a workspace is under `WORKSPACE/`."""
        self._frames = _Frames(lambda: exchange.log.epoch)
        self._fresh: list[Event] = []
        self._speaking: set[Reader] = set()
        self._flushed = exchange.log.head
        """Every live reader has been given all up to here."""
        self._flush_due: asyncio.Handle | None = None
        self._waiting: set[asyncio.Task[None]] = set()
        self._rest_until = 0.0
        self._unhook = exchange.on_events(self._take)
        self._tending = self._loop.create_task(self._tend())

    async def close(self) -> None:
        """Tell everybody that the hub leaves (1001)."""
        self._unhook()
        self._tending.cancel()
        await asyncio.gather(self._tending, return_exceptions=True)
        for reader in list(self.readers):
            self.end(reader, 1001)
        for send_away in list(self.unwelcomed):
            send_away(1001)
        for transport in self.leaving:  # nobody waits for who does not read
            transport.abort() if transport.get_write_buffer_size() else transport.close()
        if self._flush_due:
            self._flush_due.cancel()

    # -- who hears what --------------------------------------------------------------------------------------------

    async def join(
        self, reader: Reader, after: Position | None, streams: Sequence[str] | None
    ) -> wire.GapAnswer | None:
        """Tell the reader what comes after that position (`None`: now). What it cannot be told, if so."""
        self._want(reader, streams)
        epoch, gap = self.exchange.log.epoch, None
        oldest = await self.exchange.history.oldest() if after else None
        head = self.exchange.log.head
        found = resume(after, Position(epoch, head), oldest.seq + 1 if oldest else 0)
        if after is not None and found.gap:
            gap = wire.GapAnswer(
                reason=_why(after, epoch, head), asked=str(after), oldest=str(found.after),
                head=str(Position(epoch, head)),
            )  # fmt: skip
        reader.after = found.after.seq
        self.readers.add(reader)
        self.route(reader)
        if reader.after < head:
            reader.behind = True
        return gap

    def begin(self, reader: Reader) -> None:
        """It has been welcomed: what it missed comes now."""
        if reader.behind:
            self._serve_from_log(reader)

    def subscribe(self, reader: Reader, streams: Sequence[str]) -> None:
        """It hears these as well. Raise `Fault` for one that its token may not see."""
        named = self._named(reader, streams)
        if reader.wants is not None:
            reader.wants |= named
        reader.without -= named
        self.route(reader)

    def unsubscribe(self, reader: Reader, streams: Sequence[str]) -> None:
        """It does not hear these any more."""
        if reader.routed is None:
            raise Fault(Code.BAD_VALUE, "Who hears all says in `hello` or `subscribe` what it wants instead.")
        named = frozenset(f"{reader.caller.workspace}/{stream}" for stream in streams)
        if reader.wants is not None:
            reader.wants -= named
        else:
            reader.without |= named
        self.route(reader)

    def _want(self, reader: Reader, streams: Sequence[str] | None) -> None:
        if streams is not None:
            reader.wants = self._named(reader, streams)

    def _named(self, reader: Reader, streams: Sequence[str]) -> frozenset[str]:
        named = frozenset(f"{reader.caller.workspace}/{stream}" for stream in streams)
        seen = self.exchange.streams_of(reader.caller)
        if seen is not None and (hidden := sorted(named - seen)):
            names = [wire.local(stream) for stream in hidden]
            raise Fault(
                Code.NOT_ALLOWED, f"{reader.caller.name} does not hear {', '.join(names)[:200]}.", streams=names[:20]
            )
        return named

    def route(self, reader: Reader) -> None:
        """Bring the router up to what the reader wants and may see."""
        seen = self.exchange.streams_of(reader.caller)
        hears = reader.wants if seen is None else seen if reader.wants is None else seen & reader.wants
        hears = None if hears is None else hears - reader.without
        if hears != reader.routed:
            self._unroute(reader)
            reader.routed = hears
            for key in self._keys(reader):
                self._router.setdefault(key, []).append(reader)

    def _keys(self, reader: Reader) -> Iterable[str]:
        return (f"{reader.caller.workspace}/",) if reader.routed is None else reader.routed

    def _unroute(self, reader: Reader) -> None:
        for key in self._keys(reader):
            if readers := self._router.get(key):
                readers.remove(reader)
                if not readers:
                    del self._router[key]

    # -- a flush ---------------------------------------------------------------------------------------------------

    def say(self, reader: Reader, frame: bytes) -> None:
        """Tell one reader something that is no event; it goes with the next flush."""
        reader.out.append(frame)
        self._speaking.add(reader)
        self._flush_soon()

    def _take(self, events: Sequence[Event]) -> None:
        self._fresh += events
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flush_due is None:
            if self._rest_until <= self._loop.time():
                self._flush_due = self._loop.call_soon(self._flush)
            else:
                self._flush_due = self._loop.call_at(self._rest_until, self._flush)

    def _flush(self) -> None:
        """Send all that is new. The next time is no sooner from its end than it took."""
        began = self._loop.time()
        self._flush_due = None
        events, self._fresh = self._fresh, []
        speaking, self._speaking = self._speaking, set()
        before, self._flushed = self._flushed, events[-1].seq if events else self._flushed
        try:
            for run in _runs(events):
                self._hand_out(run, speaking)
                self._follow(run[-1])
        except Exception:  # nobody is left out in silence: the log has it
            log.exception("the events after %d could not be handed out; they are read from the log", before)
            for reader in self.readers:
                reader.chunks = []
                self._falls_behind(reader, before)
        merged: dict[tuple[int, ...], bytes] = {}
        for reader in speaking:
            try:
                self._write(reader, before, merged)
            except Exception:  # one reader's trouble is not the others': it comes again, by its position
                log.exception("a reader of %s could not be told the events after %d", reader.caller.name, before)
                self.end(reader, 1011)
        ended = self._loop.time()
        self._rest_until = ended + min(ended - began, REST)

    def _hand_out(self, events: Sequence[Event], speaking: set[Reader]) -> None:
        """Give each stream's events to those who hear it."""
        by_stream: dict[str, list[Event]] = {}
        for event in events:
            if event.kind == COPY:
                for reader in self._router.get(event.stream, ()):
                    if not wire.seen_twice(event, reader.routed):
                        reader.chunks.append(_Chunk([event], self._frames))
                        speaking.add(reader)
                continue
            if event.stream in by_stream:
                by_stream[event.stream].append(event)
            else:
                by_stream[event.stream] = [event]
        by_key = {stream: heard for stream, heard in by_stream.items() if stream in self._router}
        for key in {f"{wire.workspace_of(stream)}/" for stream in by_stream if "/" in stream} & self._router.keys():
            by_key[key] = [event for event in events if event.kind != COPY and event.stream.startswith(key)]
        for key, heard in by_key.items():
            chunk = _Chunk(heard, self._frames)
            readers = self._router[key]
            for reader in readers:
                reader.chunks.append(chunk)
            speaking.update(readers)

    def _write(self, reader: Reader, before: int, merged: dict[tuple[int, ...], bytes]) -> None:
        """One write, unless the reader is too far behind for events: then they stay in the log."""
        chunks, out, transport = reader.chunks, reader.out, reader.transport
        if len(chunks) == 1 and not (out or reader.behind or reader.ended or transport.is_closing()):  # nearly always
            chunk = chunks[0]
            if chunk.first > reader.after and transport.get_write_buffer_size() <= self.pace.behind:
                chunks.clear()
                transport.write(chunk.joined(reader.framing))
                return
        if chunks:
            reader.chunks = []
        if out:
            reader.out = []
        if reader.ended or transport.is_closing():
            return
        told = b""
        if chunks and not reader.behind:
            if self.pace.behind < reader.waiting:
                self._falls_behind(reader, before)
            else:
                told = self._merged(reader, chunks, merged)
        if out:
            told = b"".join((*out, told))
        if told:
            transport.write(told)

    def _merged(self, reader: Reader, chunks: list[_Chunk], merged: dict[tuple[int, ...], bytes]) -> bytes:
        """The chunks in the log's order, without what the reader has."""
        if all(chunk.first > reader.after for chunk in chunks):
            if len(chunks) == 1:
                return chunks[0].joined(reader.framing)
            key = (id(reader.framing), *map(id, chunks))
            if key not in merged:
                merged[key] = self._in_order(reader, chunks)
            return merged[key]
        return self._in_order(reader, chunks)

    def _in_order(self, reader: Reader, chunks: list[_Chunk]) -> bytes:
        events = {event.seq: event for chunk in chunks for event in chunk.events if event.seq > reader.after}
        return b"".join(self._frames(events[seq], reader.framing) for seq in sorted(events))

    def _falls_behind(self, reader: Reader, before: int) -> None:
        """It has all up to `before`; the rest is for it in the log."""
        if not reader.behind and not reader.ended:
            reader.behind = True
            reader.after = max(reader.after, before)
            self._serve_from_log(reader)

    def _follow(self, event: Event) -> None:
        """Who hears what may be different after this."""
        if event.kind in MEMBERSHIP:
            self._member_changed(event)
        elif event.kind in ENDS:
            self._let_go(event.data.get("id") if event.kind == REVOKED else None)

    def _member_changed(self, event: Event) -> None:
        workspace, name = wire.workspace_of(event.stream), event.data.get("name")
        for reader in self.readers:
            if (reader.caller.workspace, reader.caller.name) == (workspace, name):
                self.route(reader)

    def _let_go(self, revoked: str | None) -> None:
        """End the connections of tokens that are nobody's any more: of this one, whatever whoever revokes it has come
        to, and of all that are not good."""
        good = self.exchange.tokens.good
        for reader in [one for one in self.readers if one.caller.token == revoked or not good(one.caller)]:
            self.end(reader, 4001)

    # -- from the log ----------------------------------------------------------------------------------------------

    def _serve_from_log(self, reader: Reader) -> None:
        reader.catching_up = self._loop.create_task(self._catch_up(reader))

    async def _catch_up(self, reader: Reader) -> None:
        """Page by page, as fast as it reads; live again at the head, with no wait in between."""
        limit = PAGE
        try:
            while await self._has_read(reader):
                after = Position(self.exchange.log.epoch, reader.after)
                try:
                    page = await self.exchange.history.read(
                        streams=reader.routed, within=reader.caller.workspace, after=after, limit=limit, veils=True
                    )
                except Gap as gap:
                    self._tell_gap(reader, gap)
                    continue
                size = 0
                for event in page.events:
                    if reader.hears(event):
                        frame = self._frames(event, reader.framing)
                        size += len(frame)
                        if reader.waiting > self.pace.behind and not await self._has_read(reader):
                            return
                        reader.transport.write(frame)
                    reader.after = event.seq
                reader.after = max(reader.after, page.position.seq)
                if reader.after >= self._flushed:
                    reader.behind, reader.heard = False, self._loop.time()
                    return
                limit = max(10, min(MOST, limit * self.pace.behind // max(size, 1)))
        except Exception:  # one reader's trouble is not the others': it comes again, by its position
            log.exception("a reader of %s could not be served from the log", reader.caller.name)
            self.end(reader, 1011)
        finally:
            reader.catching_up = None

    def _tell_gap(self, reader: Reader, gap: Gap) -> None:
        facts = wire.GapAnswer.model_validate(gap.facts)
        reader.transport.write(reader.framing.gap(facts))
        reader.after = Position.parse(facts.oldest).seq

    async def _has_read(self, reader: Reader) -> bool:
        """Wait until little is left of what was written. False: it is over with the reader."""
        little = min(LOW, self.pace.behind // 4)
        left, since, pause = reader.waiting, self._loop.time(), 0.01
        while left > little and not reader.ended:
            await asyncio.sleep(pause)
            now, still = self._loop.time(), reader.waiting
            if still < left:
                since, pause = now, 0.01
            elif now - since >= self.pace.stalled:
                self.end(reader, 4008)
            else:
                pause = min(2 * pause, 0.5, self.pace.stalled)
            left = still
        return not reader.ended

    async def room(self, reader: Reader) -> bool:
        """Wait until what the reader was told, answers included, is not too much. False: it is over."""
        return reader.waiting <= self.pace.behind or await self._has_read(reader)

    def when_read(self, reader: Reader, then: Callable[[], None]) -> None:
        """Call it once there is room again; never, where it is over with the reader."""

        async def wait() -> None:
            if await self._has_read(reader):
                then()

        waiting = self._loop.create_task(wait())
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self, reader: Reader, code: int) -> None:
        """The hub's last word to a reader. What it has not read it may still read for a while."""
        if reader.ended:
            return
        out, reader.out = reader.out, []
        if not reader.transport.is_closing():
            reader.transport.write(b"".join(out) + reader.framing.last(code))
            reader.transport.close()
            self._loop.call_later(FAREWELL, reader.transport.abort)
        self.leave(reader)

    def leave(self, reader: Reader) -> None:
        """It has gone."""
        if reader not in self.readers:
            return
        reader.ended = True
        self._unroute(reader)
        self.readers.discard(reader)
        self._speaking.discard(reader)
        if reader.catching_up is not None and reader.catching_up is not asyncio.current_task():
            reader.catching_up.cancel()
        if reader.on_end is not None:
            reader.on_end()

    async def _tend(self) -> None:
        """Look at all from time to time: whose token has ended, who has gone without a word."""
        while True:
            await asyncio.sleep(min(TEND, self.pace.ping / 2))
            now = self._loop.time()
            for reader in list(self.readers):
                self._look_at(reader, now)

    def _look_at(self, reader: Reader, now: float) -> None:
        if not self.exchange.tokens.good(reader.caller):
            self.end(reader, 4001)
        elif reader.transport.is_closing():
            self.leave(reader)
        elif reader.behind:
            pass  # whether it makes progress is being looked at
        elif reader.framing.pongs and now - reader.heard > 2.5 * self.pace.ping:
            reader.transport.abort()
            self.leave(reader)
        elif now - max(reader.heard, reader.pinged) >= self.pace.ping:
            reader.pinged = now
            reader.transport.write(reader.framing.ping)


def _limits(exchange: Exchange, pace: Pace) -> dict[str, float]:
    """A `LimitsAnswer`."""
    limits, rules = exchange.limits, exchange.rules
    return {
        "frame": wire.FRAME,
        "text": limits.text,
        "attachment": limits.attachment,
        "behind": pace.behind,
        "stalled": pace.stalled,
        "max_hops": rules.max_hops,
        "sender_rate": rules.sender_rate,
        "sender_burst": rules.sender_burst,
    }


def _why(asked: Position, epoch: str, head: int) -> Literal["epoch", "ahead", "trimmed"]:
    return "epoch" if asked.epoch != epoch else "ahead" if asked.seq > head else "trimmed"


def _runs(events: list[Event]) -> Iterator[list[Event]]:
    """The events, cut after each that changes who hears what."""
    start = 0
    for number, event in enumerate(events, 1):
        if event.kind in MEMBERSHIP or event.kind in ENDS:
            yield events[start:number]
            start = number
    if start < len(events):
        yield events[start:]


def as_fault(error: Exception) -> Fault:
    """What an error is to its sender. What nobody foresaw is logged whole, and told without its inside."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, Refused):
        return Fault.of(error.refusal)
    if isinstance(error, FleetError):
        fault = Fault(error.code, str(error))
        fault.facts |= error.facts if error.hint is None else {"hint": error.hint, **error.facts}
        return fault
    if isinstance(error, TimeoutError):
        return Fault("timed_out", "It did not come, or was not taken, in time.")
    log.error("a request failed", exc_info=error)
    return Fault("internal", "Something went wrong in the hub; its log says what.")


# -- server-sent events --------------------------------------------------------------------------------------------


async def serve_sse(
    streams: Streams, request: web.Request, caller: Caller, after: Position | None, names: Sequence[str] | None
) -> web.StreamResponse:
    """Events as they happen, for as long as the client stays; each with its position as its id."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    reader = Reader(caller, transport, SSE, asyncio.get_running_loop().time())
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
    )
    response.force_close()
    over = asyncio.Event()
    gap = await streams.join(reader, after, names)
    reader.on_end = over.set
    try:
        await response.prepare(request)
        reader.transport.write(sse_chunk("retry: 1000\n\n"))
        if gap is not None:
            reader.transport.write(SSE.gap(gap))
        streams.begin(reader)
        await over.wait()
    finally:
        streams.leave(reader)
    return response
