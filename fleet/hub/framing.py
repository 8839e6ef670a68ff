"""What a client sends over a WebSocket, from bytes to whole messages (RFC 6455), and how the hub's own frames look.

Pure: bytes in, bytes out. A message may come in several frames, with pings between them; what is no WebSocket, or too
large, is `Broken`, as soon as its head says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_CONTINUED = 0x0
_CONTROL = 0x8
"""The bit that says that a frame is about the connection; such a one is short and whole."""

NOT_THE_PROTOCOL, NOT_UNICODE, TOO_LARGE = 1002, 1007, 1009


PIECES = 512
"""So many are kept side by side: many small ones would take far more room than what they hold."""


class Broken(Exception):
    """What came cannot be read any further."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        """With which the connection is closed."""


class Incoming:
    """One client's bytes as they come: `feed` them, and take what is whole by `next`."""

    __slots__ = ("_at", "_begun", "_held", "_largest", "_more", "_need", "_opcode", "_size")

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._held = b""
        self._at = 0
        """How much of that has been taken."""
        self._more: list[bytes] | None = None
        """What came since; put to the rest once the frame can be whole, so that no byte is moved often."""
        self._size = 0
        """Of what is there altogether."""
        self._need = 2
        """So many bytes the next frame has at least."""
        self._opcode = _CONTINUED
        """Of the message that has begun."""
        self._begun: bytearray | None = None
        """What has come of it."""

    def feed(self, data: bytes) -> None:
        if not self._size:
            self._held, self._at = data, 0
        elif self._more is None:
            self._more = [data]
        elif len(self._more) < PIECES:
            self._more.append(data)
        else:
            self._more = [b"".join((*self._more, data))]
        self._size += len(data)

    def run(self, read: Callable[[bytes], T | None], most: int) -> list[T]:
        """What `read` makes of the text messages that come next, of one frame each as nearly all are. The first of
        which it makes nothing (`None`), and whatever else there is, is left to `next`."""
        made: list[T] = []
        if self._size < self._need or self._begun is not None:
            return made
        self._together()
        held, at, left = self._held, self._at, self._size
        while left >= 8 and held[at] == _WHOLE_TEXT and len(made) < most:
            size, head = held[at + 1] - 0x80, 6
            if size == 126:
                size, head = held[at + 2] << 8 | held[at + 3], 8
            if (head == 6 and not 0 <= size < 126) or size > self._largest or head + size > left:
                break
            start, end = at + head, at + head + size
            found = read(unmasked(held[start:end], held[start - 4 : start]))
            if found is None:
                break
            made.append(found)
            at, left = end, left - head - size
        if made:
            self._at, self._size, self._need = at, left, 2
            if not left:
                self._held, self._at = b"", 0
        return made

    def _together(self) -> None:
        """Put what came later to what is held."""
        if self._more is not None:
            self._held = b"".join((self._held[self._at :], *self._more))
            self._at, self._more = 0, None

    def next(self) -> tuple[int, bytes] | None:
        """The opcode and the payload of a whole message, or of a ping, a pong, a close; `None`: nothing is whole yet.
        Raise `Broken`."""
        while (frame := self._frame()) is not None:
            first, payload = frame
            if first == _WHOLE_TEXT and self._begun is None:  # nearly always
                return TEXT, payload
            opcode = first & 0x0F
            if opcode & _CONTROL:
                return opcode, payload
            begun = self._begun
            if (opcode == _CONTINUED) == (begun is None):  # goes on with nothing, or begins amid another
                raise Broken(NOT_THE_PROTOCOL)
            if begun is None:
                if first & 0x80:
                    return opcode, payload
                self._opcode, self._begun = opcode, bytearray(payload)
            else:
                begun += payload
                if first & 0x80:
                    self._begun = None
                    return self._opcode, bytes(begun)
        return None

    def _frame(self) -> tuple[int, bytes] | None:
        """The next frame's first byte, and what it carries."""
        there = self._size
        if there < self._need:
            return None
        self._together()
        held, at = self._held, self._at
        first, second = held[at], held[at + 1]
        size = second & 0x7F
        if first != _WHOLE_TEXT:
            opcode = first & 0x0F
            if first & 0x70 or opcode not in _KNOWN:
                raise Broken(NOT_THE_PROTOCOL)
            if opcode & _CONTROL and (size > 125 or first < 0x80):
                raise Broken(NOT_THE_PROTOCOL)
        if second < 0x80:
            raise Broken(NOT_THE_PROTOCOL)
        head = 6
        if size > 125:
            head = 8 if size == 126 else 14
            if there < head - 4:  # the key comes last
                self._need = head - 4
                return None
            size = int.from_bytes(held[at + 2 : at + head - 4], "big")
        begun = self._begun
        if size + (0 if begun is None or first & _CONTROL else len(begun)) > self._largest:
            raise Broken(TOO_LARGE)
        if there < head + size:
            self._need = head + size
            return None
        start = at + head
        self._at = end = start + size
        self._size, self._need = there - head - size, 2
        payload = unmasked(held[start:end], held[start - 4 : start])
        if not self._size:
            self._held, self._at = b"", 0
        return first, payload


_WHOLE_TEXT = 0x80 | TEXT
"""The first byte of most frames."""
_KNOWN = frozenset({_CONTINUED, TEXT, BINARY, CLOSE, PING, PONG})


def unmasked(payload: bytes, key: bytes) -> bytes:
    """What was masked by that key, as it was (all of it at once, as one number)."""
    size = len(payload)
    keys = int.from_bytes((key * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(payload, "little") ^ keys).to_bytes(size, "little")


def ws_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A whole frame as a server sends it (RFC 6455, 5.2): final, not masked."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def closing(payload: bytes) -> int:
    """The code of a client's close, to be sent back. Raise `Broken`."""
    if not payload:
        return 1000
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not ((1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999):
        raise Broken(NOT_THE_PROTOCOL)
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise Broken(NOT_UNICODE) from None
    return code
