"""Speaks to a hub: HTTP/1.1 over its Unix socket, or over TCP to another machine's. Standard library only, and little
of it: a read with `--json` costs hardly more than starting Python.

One request, one connection. The answer's JSON is passed on as it came; nobody parses it who only prints it.

Which hub: `--host` and `--port`, else `FLEET_HUB` (a socket's path, or `http://host:port`), else this fleet's own
socket. Who speaks: the token in `--token-file`, else in `FLEET_TOKEN_FILE`, else the operator's own. The operator's is
given to nobody but this fleet's own hub.
"""
# ruff: noqa: PTH116, PTH118

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, TypeVar

from fleet import __version__, places
from fleet.errors import FleetError, NoDaemon, NotAllowed, TimedOut, Usage

T = TypeVar("T")

API = "/api/v1"
AWAY = 45.0
"""How long a hub that was there may be away (a restart) before a repeatable request is given up."""
SOON_BACK = 15.0
"""For how long it is waited for where it was killed and nobody has asked it anything yet."""
OPENED_WITHIN = 60.0
"""For how long it is waited for where the daemon runs and is opening it: on a busy machine that takes a while."""
ASK_EVERY = 0.1
ASK_WAIT = 300.0
"""Seconds for which the hub is asked at a time to wait for the end of a question …"""
ASK_GRACE = 15.0
"""… and how much longer it may take to say so: one that hangs is given up then."""
CLOSING = "closing"
"""With what a hub that is about to end turns requests away."""
QUIET = 90.0
"""A stream on which not even a sign of life comes for so long is taken up anew."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
BLOCK = 64 * 1024
TOKEN_MOST = 4096
"""Bytes of a token's file: a larger one is something else."""


class HubSaid(FleetError):
    """The hub could not do it."""

    def __init__(self, status: int, error: Mapping[str, Any], hint: str | None = None) -> None:
        facts = {key: value for key, value in error.items() if key not in ("code", "message", "hint")}
        later = facts.get("retry_after")
        hint = hint or (f"Try again in {max(1, round(later))} s." if isinstance(later, int | float) else None)
        super().__init__(str(error.get("message") or f"The hub answered {status}."), hint=error.get("hint") or hint)
        self.facts = facts
        self.status = status
        self._code = str(error.get("code") or f"http_{status}")
        self.exit_code = exit_code(status, self._code, facts)

    @property
    def code(self) -> str:
        """The name that the hub gave the error."""
        return self._code


class NoHub(NoDaemon):
    """No hub answers there."""


class Opening(NoHub):
    """The daemon runs, but its hub does not answer (yet)."""


class Broken(NoHub):
    """The daemon could not open its hub, and says why: waiting mends nothing."""


class Killed(NoDaemon):
    """The daemon was killed; what keeps it brings it back."""

    def __init__(self) -> None:
        super().__init__(str(NoDaemon()))

    @property
    def code(self) -> str:
        return NoDaemon().code


class NotCarried(Killed):
    """The hub cannot be reached from this job at the moment."""

    def __init__(self) -> None:
        told = "The daemon carries it here while it runs and reaches this node, which needs a python3 for that."
        FleetError.__init__(self, type(self).__doc__, hint=told)


class WentAway(NoHub):
    """The hub went away before it answered. What it had accepted is kept; `fleet doctor` says what happened."""


def exit_code(status: int, code: str, facts: Mapping[str, Any]) -> int:
    """What a refusal means for a command: 2 asked wrongly, 3 nobody and nothing by that name, 4 not now, 1 no."""
    if status == 404 or (code.startswith("unknown_") and status != 400):
        return 3
    if status in (408, 429, 504) or facts.get("retry_after") is not None:
        return 4
    return 2 if status in (400, 413, 415, 422) else 1


# -- where, and as whom ----------------------------------------------------------------------------------------


class Door:
    """Where a hub answers, and whose token opens it."""

    __slots__ = ("host", "path", "port", "tls", "token", "token_file")

    def __init__(self, *, path: str = "", host: str = "", port: int = 0, tls: bool = False) -> None:
        self.path = path
        """Of its Unix socket; empty: it is reached by TCP."""
        self.host = host
        self.port = port
        self.tls = tls
        self.token = ""
        self.token_file = ""
        """Where the token is from, for a person who is told that it does not count."""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What a program that speaks HTTP takes; its own socket has `http://localhost`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.tls}://{host}:{self.port}" if self.host else "http://localhost"


def door(
    host: str | None = None,
    port: int | None = None,
    token_file: str | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    stranger: bool = False,
) -> Door:
    """The hub that is meant, with the token for it; a `stranger` has none yet.

    Raise `Usage` where it cannot be told which hub or token is meant, `NotAllowed` where the token cannot be read.
    """
    env = os.environ if environ is None else environ
    found = _place(host, port, env)
    if stranger:
        return found
    found.token_file = token_file or env.get("FLEET_TOKEN_FILE") or _operators(found, env)
    found.token = _read_token(found)
    return found


def hub_socket(environ: Mapping[str, str] | None = None) -> str:
    """The Unix socket of this fleet's own hub."""
    return os.path.join(places.folders(environ)[2], "hub.sock")


def operator_token(environ: Mapping[str, str] | None = None) -> str:
    """The file with the token of the person whose fleet this is."""
    return os.path.join(places.folders(environ)[1], "hub", "operator.token")


def _place(host: str | None, port: int | None, env: Mapping[str, str]) -> Door:
    if host is not None or port is not None:
        return _by_name(host or "127.0.0.1", port, "--port")
    named = env.get("FLEET_HUB", "").strip()
    if not named:
        return Door(path=hub_socket(env))
    if named.startswith(("http://", "https://")):
        return _by_name(named, None, "FLEET_HUB")
    path = named.removeprefix("unix:")
    if not path.startswith("/"):
        raise Usage(
            f"FLEET_HUB is {named!r}: neither the path of a socket nor http://HOST:PORT.",
            hint="Without it, this fleet's own hub is meant.",
        )
    return Door(path=path)


def _by_name(name: str, port: int | None, said: str) -> Door:
    """`host`, `host:port`, `[v6]:port` or a URL of them."""
    scheme, slashes, rest = name.rpartition("://")
    if slashes and scheme not in ("http", "https"):
        raise Usage(f"A hub is reached by http or https, not by {scheme}.")
    rest = rest.rstrip("/")
    if rest.startswith("["):
        host, _, tail = rest[1:].partition("]")
        number = tail.removeprefix(":")
    elif rest.count(":") == 1:
        host, _, number = rest.partition(":")
    else:
        host, number = rest, ""
    if number and (not (number.isascii() and number.isdecimal()) or (port is not None and port != int(number))):
        raise Usage(f"Which port of {host} is meant? {name!r} cannot be read.", hint="Say --host HOST --port PORT.")
    port = port or (int(number) if number else 443 if scheme == "https" else 0)
    if not host or not port:
        raise Usage(
            "A hub on another machine has a host and a port.",
            hint=f"Give {said}; `fleet hub info` on that machine prints it.",
        )
    return Door(host=host, port=port, tls=scheme == "https")


def _operators(found: Door, env: Mapping[str, str]) -> str:
    """The operator's own token, which is for this fleet's own hub alone, and for no agent."""
    if env.get("FLEET_GENERATION"):
        raise NotAllowed(
            "This agent has no token: it takes no part in the hub.",
            hint="`hub.enabled` in its manifest says so, or there was no hub when it was started: then restart it.",
        )
    mine = operator_token(env)
    if found.path:
        if found.path != hub_socket(env):
            raise Usage(
                f"{found.path} is not this fleet's own hub, and no token is named for it.",
                hint="Name the file with its token: --token-file, or FLEET_TOKEN_FILE.",
            )
        return mine
    if found.host in LOOPBACK and _is_own(found, mine, env):
        return mine
    raise Usage(
        f"The hub at {found} wants a token, and none is named.",
        hint="`fleet tokens create` there makes one; put it into a file that only you can read and name that: "
        "--token-file, or FLEET_TOKEN_FILE.",
    )


def _is_own(found: Door, token_file: str, env: Mapping[str, str]) -> bool:
    """Whether this fleet's own hub says that this is its port."""
    own = Door(path=hub_socket(env))
    own.token_file = token_file
    try:
        own.token = _read_token(own)
        url = str(request(own, "GET", f"{API}/info", timeout=5.0).json().get("url"))
    except FleetError:
        return False
    return url.rstrip("/").endswith(f":{found.port}")


def _read_token(found: Door) -> str:
    """The token in the file; where the operator's is not there, no hub has been up yet."""
    path = found.token_file
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read(TOKEN_MOST).strip()
    except (FileNotFoundError, NotADirectoryError) as error:
        if found.path and path.endswith("operator.token"):
            raise nobody(found) from error
        raise NotAllowed(f"There is no token at {path}.", hint="Name its file: --token-file.") from error
    except (OSError, ValueError) as error:
        raise NotAllowed(f"The token at {path} cannot be read: {error}.") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise NotAllowed(f"{path} holds no token.", hint="`fleet tokens create` makes one.")
    return token


# -- one request -----------------------------------------------------------------------------------------------


class Answer:
    """What the hub answered."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        """Its JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise FleetError(
                "The hub's answer cannot be understood.", hint="`fleet daemon restart` makes both the same version."
            ) from error

    def envelope(self) -> bytes:
        """The form that every command's `--json` has, around the hub's own text."""
        data = self.body.strip() or b"null"
        return b'{"schema_version": 1, "generated_at": %.3f, "data": %b, "warnings": []}' % (time.time(), data)


def path(*parts: str, **query: Any) -> str:
    """A path of the API. What is `None` is left out of the query, a list is asked item by item; `with_` stands for
    `with`."""
    asked = "&".join(
        f"{name.rstrip('_')}={_quoted(_plain(value))}"
        for name, values in query.items()
        for value in (values if isinstance(values, list) else [values])
        if value not in (None, False)
    )
    return "/".join([API, *map(_quoted, parts)]) + (f"?{asked}" if asked else "")


def request(
    to: Door,
    method: str,
    target: str,
    body: Any = None,
    *,
    timeout: float | None = places.REQUEST_TIMEOUT,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Ask the hub and wait for its answer, `timeout` seconds in all.

    Raise `HubSaid` where it says no, `NoDaemon` or `NoHub` where none is there, `WentAway` where it leaves before it
    has answered, `TimedOut` where it does not answer.
    """
    content = () if body is None else (json.dumps(body, ensure_ascii=False).encode(errors="surrogatepass"),)
    kind = {} if body is None else {"Content-Type": "application/json"}
    return _call(to, method, target, content, {**kind, **(headers or {})}, timeout)


def repeatable(
    to: Door,
    method: str,
    target: str,
    body: Any = None,
    *,
    timeout: float | None = places.REQUEST_TIMEOUT,
    stood: bool = False,
    waiting: Callable[[], None] = lambda: None,
) -> Answer:
    """The same for what may be asked twice, since it carries a key or changes nothing: where the hub goes away before
    it has answered, it is asked again once it is back. `waiting` is called before that."""
    deadline = None if timeout is None else time.monotonic() + timeout

    def once() -> Answer:
        rest = None if deadline is None else max(0.001, deadline - time.monotonic())
        return request(to, method, target, body, timeout=rest)

    return patiently(once, deadline=deadline, stood=stood, waiting=waiting)


def ask(to: Door, body: Any, *, waiting: Callable[[], None] = lambda: None) -> Answer:
    """Put a question that carries a key; the hub's word on how it ended, as soon as it has. How long that may take is
    the hub's to say: by the body's `timeout`, else by its own setting."""
    patience = ASK_WAIT + ASK_GRACE
    put = path("asks", wait=ASK_WAIT)
    said = patiently(lambda: request(to, "POST", put, body, timeout=patience), waiting=waiting)
    if said.status == 202:
        look = path("asks", said.json()["id"], wait=ASK_WAIT)
        while said.status == 202:
            said = patiently(lambda: request(to, "GET", look, timeout=patience), stood=True, waiting=waiting)
    return said


def patiently(
    what: Callable[[], T],
    *,
    deadline: float | None = None,
    stood: bool = False,
    waiting: Callable[[], None] = lambda: None,
) -> T:
    """Do it, again and again while the hub is away and bound to come back; `stood`: it was there a moment ago."""
    since: float | None = None
    patience = AWAY if stood else 0.0
    told = False
    while True:
        try:
            return what()
        except (NoDaemon, HubSaid) as error:
            now, patience = time.monotonic(), max(patience, patience_with(error))
            if not patience or isinstance(error, Broken) or (isinstance(error, HubSaid) and error.code != CLOSING):
                raise
            if not told and (not isinstance(error, Opening) or now - (since or now) > 1.0):
                waiting()
                told = True
            if since is None or patience_with(error) == AWAY:
                since = now
            if now - since > patience or (deadline is not None and now > deadline):
                raise
            time.sleep(ASK_EVERY)


def patience_with(error: FleetError) -> float:
    """For how long a hub that says this may be waited for."""
    if isinstance(error, WentAway) or (isinstance(error, HubSaid) and error.code == CLOSING):
        return AWAY
    if isinstance(error, Opening):
        return OPENED_WITHIN
    return SOON_BACK if isinstance(error, Killed) else 0.0


def upload(
    to: Door,
    file: IO[bytes],
    name: str,
    size: int,
    *,
    media: str = "application/octet-stream",
    timeout: float | None,
) -> Answer:
    """Give the hub a file, in pieces; `media` is its media type, as far as that is known."""
    kind, head, tail = around_file(name, media)

    def pieces() -> Iterator[bytes]:
        yield head
        left = size
        while left and (piece := file.read(min(left, BLOCK))):
            left -= len(piece)
            yield piece
        if left:
            raise FleetError(f"{name} has become shorter while it was sent.")
        yield tail

    told = {"Content-Type": kind, "Content-Length": str(len(head) + size + len(tail))}
    return _call(to, "POST", path("files"), pieces(), told, timeout)


def around_file(name: str, media: str) -> tuple[str, bytes, bytes]:
    """A form with one file: its content type, and what stands before and after the file's bytes."""
    mark = "fleet-" + os.urandom(12).hex()
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; {_file_name(name)}\r\nContent-Type: {media}\r\n\r\n'
    )
    return f"multipart/form-data; boundary={mark}", head.encode(), f"\r\n--{mark}--\r\n".encode()


def download(to: Door, target: str, out: IO[bytes], *, timeout: float | None) -> int:
    """Write what is at `target` into a file, as it comes; how many bytes that were."""
    written = 0
    with _Exchange(to, timeout) as exchange:
        exchange.send("GET", target, (), {"Accept": "*/*"})
        exchange.open(target)
        for piece in exchange.pieces():
            out.write(piece)
            written += len(piece)
    return written


def events(
    to: Door,
    target: str,
    after: str | None,
    *,
    timeout: float | None = QUIET,
    opened: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, str, bytes]]:
    """What the hub streams (text/event-stream), each with its position and its kind; `after` is the position of the
    last one that was seen. It ends where the hub ends it. `opened` is called once it is open."""
    asked = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
    with _Exchange(to, timeout, each=True) as exchange:
        exchange.send("GET", target, (), asked)
        exchange.open(target)
        opened()
        yield from _parsed(exchange.pieces())


def _parsed(pieces: Iterable[bytes]) -> Iterator[tuple[str, str, bytes]]:
    """The events of a text/event-stream."""
    rest, place, kind, data = b"", "", "", list[bytes]()
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            name, _, value = line.rstrip(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if name == b"id":
                place = value.decode(errors="replace")
            elif name == b"event":
                kind = value.decode(errors="replace")
            elif name == b"data":
                data.append(value)
            elif not name and not value:
                if data:
                    yield place, kind or "message", b"\n".join(data)
                kind, data = "", []


def _call(
    to: Door,
    method: str,
    target: str,
    content: Iterable[bytes],
    headers: Mapping[str, str],
    timeout: float | None,
) -> Answer:
    with _Exchange(to, timeout) as exchange:
        exchange.send(method, target, content, headers)
        status, told = exchange.open(target)
        return Answer(status, told, b"".join(exchange.pieces()))


class _Exchange:
    """One connection, one request, one answer."""

    def __init__(self, to: Door, timeout: float | None, *, each: bool = False) -> None:
        self._to = to
        self._timeout = timeout
        self._each = each  # the time limit is for each piece, not for all
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._headers: dict[str, str] = {}
        self._socket = _connect(to, timeout)
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, *caught: object) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, method: str, target: str, content: Iterable[bytes], headers: Mapping[str, str]) -> None:
        pieces = iter(content)
        if isinstance(content, tuple) and method != "GET":
            headers = {**headers, "Content-Length": str(sum(map(len, content)))}
        host = self._to.url.partition("://")[2]
        lines = {
            "Host": host,
            "User-Agent": f"fleet/{__version__}",
            "Accept": "application/json",
            **({"Authorization": f"Bearer {self._to.token}"} if self._to.token else {}),
            "Connection": "close",
            **headers,
        }
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        try:
            self._socket.sendall(head.encode("latin-1") + b"\r\n" + next(pieces, b""))
            for piece in pieces:
                self._tick()
                self._socket.sendall(piece)
        except TimeoutError as error:
            raise self._late(target) from error
        except (BrokenPipeError, ConnectionResetError):
            return  # it may have refused a long text before the end, and said why

    def open(self, target: str) -> tuple[int, Mapping[str, str]]:
        """The status and headers; raise where the hub says no."""
        status = self._head(target)
        if status >= 400:
            body = b"".join(self.pieces())
            raise refusal(self._to, status, self._headers, body)
        return status, self._headers

    def _head(self, target: str) -> int:
        version, _, rest = self._line(target).partition(b" ")
        status = rest[:3]
        if not version.startswith(b"HTTP/1.") or not status.isdigit():
            raise FleetError(f"What answers at {self._to} is no hub.", hint="Look at the address and the port.")
        while line := self._line(target):
            name, _, value = line.decode("latin-1").partition(":")
            self._headers[name.strip().lower()] = value.strip()
        return int(status)

    def pieces(self) -> Iterator[bytes]:
        """The body, as it comes."""
        try:
            if self._headers.get("transfer-encoding", "").lower() == "chunked":
                yield from self._chunks()
            else:
                yield from self._plainly()
        except TimeoutError as error:
            raise self._late("its answer") from error
        except ConnectionError as error:
            raise WentAway() from error

    def _chunks(self) -> Iterator[bytes]:
        while True:
            self._tick()
            try:
                size = int(self._stream.readline(256).split(b";")[0], 16)
            except ValueError as error:
                raise WentAway() from error
            self._tick()
            piece = self._stream.read(size)
            if len(piece) < size or len(self._stream.read(2)) < 2:
                raise WentAway()
            if not size:
                return
            yield piece

    def _plainly(self) -> Iterator[bytes]:
        told = self._headers.get("content-length")
        left = int(told) if told and told.isdigit() else None
        while left is None or left > 0:
            self._tick()
            piece = self._stream.read1(BLOCK if left is None else min(left, BLOCK))
            if not piece:
                if left:
                    raise WentAway()
                return
            left = None if left is None else left - len(piece)
            yield piece

    def _line(self, target: str) -> bytes:
        self._tick()
        try:
            line = self._stream.readline(65536)
        except TimeoutError as error:
            raise self._late(target) from error
        except ConnectionError as error:
            raise WentAway() from error
        if not line.endswith(b"\n"):
            raise WentAway()
        return line.rstrip(b"\r\n")

    def _tick(self) -> None:
        if self._deadline is not None and not self._each:
            self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))

    def _late(self, target: str) -> TimedOut:
        what = target.partition("?")[0]
        return TimedOut(
            f"The hub at {self._to} has not answered {what} within {self._timeout:g} s.",
            hint="`fleet doctor` says what stands in the way.",
        )


def check_socket(to: Door) -> None:
    """Raise `NotAllowed` where another user, or something else, is in the place of a hub's socket."""
    try:
        found = os.stat(to.path) if to.path else None
    except OSError:  # who connects is told
        return
    if found and (found.st_uid not in (os.getuid(), 0) or not stat.S_ISSOCK(found.st_mode)):
        raise NotAllowed(f"{to.path} is not a socket of yours (uid {found.st_uid}).", hint="Remove it.")


def _connect(to: Door, timeout: float | None) -> socket.socket:
    """A connection to the hub; a socket that another user has put in its place is none."""
    connection: socket.socket | None = None
    try:
        if to.path:
            check_socket(to)
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(timeout)
            connection.connect(to.path)
            return connection
        connection = socket.create_connection((to.host, to.port), timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _encrypted(connection, to.host) if to.tls else connection
    except TimeoutError as error:
        raise _closed(connection, TimedOut(f"No connection to the hub at {to} in time.")) from error
    except OSError as error:
        raise _closed(connection, nobody(to, error)) from error


def _closed(connection: socket.socket | None, error: FleetError) -> FleetError:
    if connection is not None:
        connection.close()
    return error


def _encrypted(connection: socket.socket, host: str) -> socket.socket:
    import ssl  # noqa: PLC0415 (only who speaks to another machine by https pays for it)

    return ssl.create_default_context().wrap_socket(connection, server_hostname=host)


def nobody(to: Door, why: OSError | None = None) -> FleetError:
    """Nobody listens there: is it the daemon that is missing, or its hub?"""
    if not to.path:
        said = why.strerror or str(why) if why else "nobody listens"
        return NoHub(f"No hub answers at {to}: {said}.", hint="`fleet hub info` on that machine prints its address.")
    problems = _problems()
    if problems is None and os.environ.get("FLEET_JOB") and to.path == os.environ.get("FLEET_HUB"):
        return NotCarried()
    if problems is None:
        return Killed() if isinstance(why, ConnectionRefusedError) else NoDaemon()
    for problem in problems:
        if problem.startswith(NO_HUB):
            return Broken(problem, hint="The daemon tries again by itself; daemon.log in the state folder says more.")
    return Opening(
        "The daemon runs, but its hub does not answer.",
        hint="The end of daemon.log in the state folder says why; `fleet daemon restart` starts it anew.",
    )


NO_HUB = ("There is no hub", "The hub cannot be loaded")
"""How the daemon begins to say that its hub could not be opened."""


def _problems() -> list[str] | None:
    """What the daemon says that does not work; `None` where none listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(2.0)
    try:
        connection.connect(places.control_socket())
    except OSError:
        connection.close()
        return None
    try:
        connection.sendall(json.dumps({"verb": "ping", "args": {}, "client": __version__}).encode() + b"\n")
        with connection.makefile("rb") as stream:
            while not (line := stream.readline()).startswith(b"="):
                if not line:
                    return []
            body = json.loads(stream.read(int(line[1:].split()[1])))
        return [str(problem) for problem in body["data"]["problems"]]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return []  # it is there, and busy
    finally:
        connection.close()


HINTS = {
    401: "`fleet tokens create` makes a new one; name its file with --token-file or FLEET_TOKEN_FILE.",
}
ROLE = (
    "This takes another role. `fleet tokens list` shows who has which, `fleet tokens create --role operator` makes one."
)
ROLES = (" role ", "operator", "viewer")
"""What a refusal speaks of that another role would not have met."""


WHERE = {
    "unknown_recipient": "`fleet members` lists who can be spoken to.",
    "unknown_message": "`fleet history` shows messages with their ids.",
    "unknown_thread": "`fleet threads list` lists them.",
    "unknown_token": "`fleet tokens list` lists them.",
    "unknown_invite": "`fleet invites list` lists them.",
    "unknown_workspace": "`fleet workspaces list` lists them.",
}
"""Where to find the right word for what nobody knows."""


def refusal(to: Door, status: int, headers: Mapping[str, str], body: bytes) -> FleetError:
    """The hub's refusal as an error; where it is none of the hub's own, what that means."""
    try:
        told = json.loads(body)["error"]
        error = told if isinstance(told, dict) else {"message": str(told)}
    except (ValueError, KeyError, TypeError):
        if status == 404:
            return HubSaid(
                status,
                {"code": "not_there", "message": f"The hub at {to} does not know this request."},
                "`fleet daemon restart` makes hub and command the same version.",
            )
        error = {}
    if status == 401:
        which = f"the token in {to.token_file}" if to.token_file else "this token"
        told = f"The hub does not take {which}: it has ended, or is another hub's."
        error = {"code": "unauthorized", **error, "message": told}
    later = headers.get("retry-after", "")
    if later.isdigit() and "retry_after" not in error:
        error = {**error, "retry_after": int(later)}
    return HubSaid(status, error, _hint(status, error))


def _hint(status: int, error: Mapping[str, Any]) -> str | None:
    """What to do about a refusal that does not say it."""
    told = str(error.get("message") or " role ")
    if status == 403 and any(word in told for word in ROLES):
        return ROLE
    return HINTS.get(status) or (None if error.get("nearest") else WHERE.get(str(error.get("code"))))


def _plain(value: Any) -> str:
    return "1" if value is True else str(value)


_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def _quoted(text: str) -> str:
    return "".join(chr(b) if b in _SAFE else f"%{b:02X}" for b in text.encode(errors="surrogatepass"))


def _file_name(name: str) -> str:
    """A file's name in a header."""
    plain = all(c.isascii() and c.isprintable() and c not in '"\\%' for c in name)
    return f'filename="{name}"' if plain else f"filename*=UTF-8''{_quoted(name)}"
