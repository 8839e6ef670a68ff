"""The hub's socket in a SLURM job: what connects to it is carried over stdin and stdout to whoever started this, and
has the hub (slurm_hub.py).

    python3 -I -S hub_relay.py SOCKET

One file of standard library and nothing of fleet's: a copy of it runs on the node, by whatever Python 3 is there. It
listens until its standard input ends. The socket's file stays: who connects later is told at once that nobody
listens, and can come again.

Lines, both ways, each with the number of a connection:

    up 0               (from here) it listens
    open N             (from here) somebody has connected
    data N BASE64      bytes
    took N COUNT       so many of the other side's bytes were handed on: never more than WINDOW are under way
    shut N             no more bytes come from this side
    gone N             this side has lost the connection
"""

import base64
import contextlib
import os
import selectors
import socket
import sys

PIECE = 2048
"""Bytes in a line: as base64 they still go through a pipe in one piece."""
WINDOW = 16 * PIECE


def say(verb: str, number: int, more: object = "") -> None:
    line = f"{verb} {number} {more}\n".encode()
    while line:
        line = line[os.write(1, line) :]


class Connection:
    """One of somebody in the job."""

    def __init__(self, number: int, end: socket.socket, selector: selectors.BaseSelector) -> None:
        self.number, self.end, self.selector = number, end, selector
        self.under_way = 0
        self.waiting = b""
        """What it has not taken yet."""
        self.shut_here = self.shut_there = self.over = False
        end.setblocking(False)
        self.attend()

    def attend(self) -> None:
        """Wait for what it can do next, or end it."""
        self.ignore()
        wanted = 0
        if not self.shut_here and self.under_way + PIECE <= WINDOW:
            wanted |= selectors.EVENT_READ
        if self.waiting:
            wanted |= selectors.EVENT_WRITE
        if wanted:
            self.selector.register(self.end, wanted, self)
        elif self.shut_here and self.shut_there:
            self.drop()

    def ignore(self) -> None:
        with contextlib.suppress(KeyError):
            self.selector.unregister(self.end)

    def drop(self) -> None:
        self.ignore()
        self.end.close()
        self.over = True

    def ready(self, events: int) -> None:
        if self.over:  # since a moment ago
            return
        try:
            if events & selectors.EVENT_READ:
                self.read()
            if events & selectors.EVENT_WRITE:
                self.write()
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                say("gone", self.number)
                self.drop()
                return
        self.attend()

    def read(self) -> None:
        content = self.end.recv(PIECE)
        if content:
            self.under_way += len(content)
            say("data", self.number, base64.b64encode(content).decode())
        else:
            self.shut_here = True
            say("shut", self.number)

    def write(self) -> None:
        count = self.end.send(self.waiting)
        self.waiting = self.waiting[count:]
        say("took", self.number, count)
        self.pass_on_the_end()

    def pass_on_the_end(self) -> None:
        if self.shut_there and not self.waiting:
            with contextlib.suppress(OSError):  # it may have gone already
                self.end.shutdown(socket.SHUT_WR)

    def told(self, verb: str, more: str) -> None:
        if verb == "data":
            self.waiting += base64.b64decode(more)
        elif verb == "took":
            self.under_way -= int(more)
        elif verb == "shut":
            self.shut_there = True
            self.pass_on_the_end()
        if verb == "gone":
            self.drop()
        else:
            self.attend()


def listen(path: str) -> socket.socket:
    """A socket by that name, in place of whatever had it."""
    os.umask(0o077)
    beside = f"{path}.{os.getpid()}"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(beside)
    listening.listen(64)
    os.rename(beside, path)  # noqa: PTH104
    return listening


def main(path: str) -> None:
    selector = selectors.PollSelector()
    listening = listen(path)
    selector.register(listening, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    connections, count, begun = {}, 0, b""
    say("up", 0)
    while True:
        for key, events in selector.select():
            if isinstance(key.data, Connection):
                key.data.ready(events)
            elif key.fileobj is listening:
                count += 1
                say("open", count)
                connections[count] = Connection(count, listening.accept()[0], selector)
            else:
                heard = os.read(0, 65536)
                if not heard:
                    return
                *lines, begun = (begun + heard).split(b"\n")
                for line in lines:
                    verb, number, more = (line.decode() + "  ").split(" ", 2)
                    connection = connections.get(int(number))
                    if connection is not None and not connection.over:
                        connection.told(verb, more.strip())
        connections = {number: one for number, one in connections.items() if not one.over}


if __name__ == "__main__":
    main(sys.argv[1])
