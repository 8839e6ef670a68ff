"""Speaks to the daemon over its Unix socket: one request, one answer. Standard library only, and little of it: a
read with `--json` costs hardly more than starting Python.

The answer's JSON is passed on as it came; nobody parses it who only prints it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from fleet import __version__, places
from fleet.errors import FleetError, NoDaemon, NotAllowed, TimedOut

Progress = Callable[[dict[str, Any]], None]


class DaemonSaid(FleetError):
    """The daemon could not do it."""

    def __init__(self, error: Mapping[str, Any], exit_code: int) -> None:
        facts = {key: value for key, value in error.items() if key not in ("code", "message", "hint")}
        super().__init__(error.get("message"), hint=error.get("hint"), **facts)
        self.exit_code = exit_code or 1
        self._code = str(error.get("code", "error"))

    @property
    def code(self) -> str:
        """The name that the daemon gave the error."""
        return self._code


class WentAway(NoDaemon):
    """The daemon went away before it answered. Agents go on without it; `fleet doctor` says what happened."""


class Reply:
    """An answer: the exit code it means for a command, and the JSON text as the daemon wrote it."""

    __slots__ = ("body", "daemon_version", "exit_code")

    def __init__(self, exit_code: int, body: bytes, daemon_version: str | None) -> None:
        self.exit_code = exit_code
        self.body = body
        self.daemon_version = daemon_version

    def envelope(self) -> dict[str, Any]:
        """The parsed answer; where it is an error, that is raised."""
        envelope: dict[str, Any] = json.loads(self.body)
        if "error" in envelope:
            raise DaemonSaid(envelope["error"], self.exit_code)
        return envelope

    @property
    def skew(self) -> str | None:
        """What to tell a person whose command and daemon are of different versions."""
        if self.daemon_version in (None, __version__):
            return None
        return (
            f"this is fleet {__version__}, the daemon is {self.daemon_version}: "
            "`fleet daemon restart` changes it under running agents"
        )


def request(
    verb: str,
    args: Mapping[str, Any],
    *,
    timeout: float | None = places.REQUEST_TIMEOUT,
    on_progress: Progress | None = None,
) -> Reply:
    """Ask the daemon and wait for its answer, `timeout` seconds in all; `None` follows until the daemon ends it.

    Raise `NoDaemon` where none listens or it goes away before it has answered, `TimedOut` where it does not answer.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with _connect(places.control_socket(), timeout) as connection:
        try:
            connection.sendall(json.dumps({"verb": verb, "args": args, "client": __version__}).encode() + b"\n")
            return _read(connection, deadline, on_progress)
        except TimeoutError as error:
            raise TimedOut(
                f"The daemon has not answered `{verb}` within {timeout:g} s.",
                hint="`fleet doctor` says what stands in the way; its log is daemon.log in the state folder.",
            ) from error
        except ConnectionError as error:
            raise WentAway() from error


def _connect(path: str, timeout: float | None) -> socket.socket:
    """A connection to the daemon's own socket, never to one that another user has put in its place."""
    try:
        owner = os.stat(path).st_uid  # noqa: PTH116 (pathlib would cost more than the request)
    except OSError as error:
        raise NoDaemon() from error
    if owner not in (os.getuid(), 0):
        raise NotAllowed(
            f"The socket {path} belongs to another user (uid {owner}).", hint="Remove it, or set FLEET_HOME."
        )
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(path)
    except TimeoutError as error:
        connection.close()
        raise TimedOut("The daemon does not take connections.", hint="`fleet doctor` says more.") from error
    except OSError as error:
        connection.close()
        raise NoDaemon() from error
    return connection


def _read(connection: socket.socket, deadline: float | None, on_progress: Progress | None) -> Reply:
    """Progress lines until the header `=EXITCODE NBYTES [VERSION]`, then the body."""
    with connection.makefile("rb") as stream:
        while True:
            if deadline is not None:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
            line = stream.readline()
            if not line.endswith(b"\n"):
                raise WentAway()
            if line.startswith(b"="):
                break
            if on_progress is not None:
                on_progress(_parse(json.loads, line))
        exit_code, size, version = _parse(_header, line)
        body = stream.read(size)
        if len(body) < size:
            raise WentAway()
        return Reply(exit_code, body, version)


def _header(line: bytes) -> tuple[int, int, str | None]:
    exit_code, size, *version = line[1:].decode().split()
    return int(exit_code), int(size), version[0] if version else None


def _parse(reader: Callable[[bytes], Any], line: bytes) -> Any:
    try:
        return reader(line)
    except ValueError as error:
        raise FleetError(
            "The daemon's answer cannot be understood.", hint="`fleet daemon restart` makes both the same version."
        ) from error
