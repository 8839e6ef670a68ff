"""What a client sends over a WebSocket, from bytes to whole messages (RFC 6455), and how the hub's own frames look.

Pure: bytes in, bytes out. A message may come in several frames, with pings between them; what is no WebSocket, or too
large, is `Broken`, as soon as its head says so.
"""

from __future__ import annotations

from typing import NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_CONTINUED = 0x0
_CONTROL = 0x8
"""The bit that says that a frame is about the connection; such a one is short and whole."""

NOT_THE_PROTOCOL, NOT_UNICODE, TOO_LARGE = 1002, 1007, 1009


class Broken(Exception):
    """What came cannot be read any further."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        """With which the connection is closed."""


class Got(NamedTuple):
    """A whole message, or a ping, a pong, a close."""

    opcode: int
    payload: bytes


class Incoming:
    """One client's bytes as they come: `feed` them, and take what is whole by `next`."""

    __slots__ = ("_begun", "_held", "_largest", "_opcode")

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._held = bytearray()
        self._opcode = _CONTINUED
        """Of the message that has begun."""
        self._begun: bytearray | None = None
        """What has come of it."""

    def feed(self, data: bytes) -> None:
        self._held += data

    def next(self) -> Got | None:
        """What is whole; `None`: nothing yet. Raise `Broken`."""
        while (frame := self._frame()) is not None:
            last, opcode, payload = frame
            if opcode & _CONTROL:
                return Got(opcode, payload)
            if (opcode == _CONTINUED) == (self._begun is None):  # goes on with nothing, or begins amid another
                raise Broken(NOT_THE_PROTOCOL)
            if self._begun is None:
                if last:
                    return Got(opcode, payload)
                self._opcode, self._begun = opcode, bytearray(payload)
            else:
                self._begun += payload
                if last:
                    whole, self._begun = bytes(self._begun), None
                    return Got(self._opcode, whole)
        return None

    def _frame(self) -> tuple[bool, int, bytes] | None:
        """Whether it is the last of its message, its opcode, and what it carries."""
        held = self._held
        there = len(held)
        if there < 2:
            return None
        first, second = held[0], held[1]
        opcode, size, start = first & 0x0F, second & 0x7F, 6
        if first & 0x70 or not second & 0x80 or opcode not in _KNOWN:
            raise Broken(NOT_THE_PROTOCOL)
        if opcode & _CONTROL and (size > 125 or not first & 0x80):
            raise Broken(NOT_THE_PROTOCOL)
        if size == 126:
            start = 8
            size = int.from_bytes(held[2:4], "big") if there >= 4 else 0
        elif size == 127:
            start = 14
            size = int.from_bytes(held[2:10], "big") if there >= 10 else 0
        if size + (0 if self._begun is None or opcode & _CONTROL else len(self._begun)) > self._largest:
            raise Broken(TOO_LARGE)
        end = start + size
        if there < start or there < end:
            return None
        payload = unmasked(held[start:end], held[start - 4 : start])
        if there == end:
            held.clear()
        else:
            del held[:end]
        return bool(first & 0x80), opcode, payload


_KNOWN = frozenset({_CONTINUED, TEXT, BINARY, CLOSE, PING, PONG})


def unmasked(payload: bytes | bytearray, key: bytes | bytearray) -> bytes:
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
