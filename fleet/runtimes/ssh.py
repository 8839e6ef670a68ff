"""One kept ssh connection to a host, shared by all that fleet does there.

The person's ssh_config says how the host is reached (alias, HostName, Port, User, IdentityFile, ProxyJump, …). What
is not theirs to loosen: a host key must stand in known_hosts, and only keys (a file's or the agent's) open the door;
nobody is there to be asked for a password.

What holds here:
- A link that does not carry raises `HostUnreachable`, whatever asyncssh calls it. It is tried again by itself, when
  ssh_hosts.py says so.
- A command that ends without an exit status has not ended as far as anybody knows: that too is `HostUnreachable`.
- At most four commands run at once beside the kept channels and those that stand ready: sshd lets ten sessions share
  a connection.
- Whatever the login shell there is (bash, fish, csh), it gets one line that it cannot misread; what its rc file prints
  stands before our mark and is passed over.
- A new session costs two round trips before its command can begin. So some stand ready, each a sh that waits for its
  words (`stand_ready`): a call to one of them is a single round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from fleet.errors import FleetError, HostUnreachable, TimedOut, Unauthenticated
from fleet.runtimes import ssh_hosts
from fleet.runtimes.ssh_hosts import HostState, Known, Way
from fleet.terms import Ran

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Process = asyncssh.SSHClientProcess[bytes]

COMMANDS = 4
"""How many commands run at once …"""
READY = 3
"""… and how many sessions stand ready for the next ones."""
PROBE_WITHIN = 5.0
"""Seconds a probe (the connection and one command there and back) may take."""
NEXT = "next"
"""The word by which a server is told that its words are still to come."""
MARK = b"fleet-begins\n"
"""What a session prints before what it was asked for: what stands before that comes from the rc file of its shell."""
KNOWN_TO_ALL = Path("/etc/ssh/ssh_known_hosts")
"""The host keys that this machine's administrator vouches for."""
KEEPALIVE = 2.0
"""Seconds without a word after which the host is asked for one …"""
KEEPALIVES = 3
"""… and how often in vain: a cut is noticed (KEEPALIVES + 1) * KEEPALIVE seconds after the last word."""


class Link:
    """The way to one host."""

    def __init__(
        self,
        way: Way | str,
        *,
        config: Sequence[str] = (),
        keepalive: float = KEEPALIVE,
        probe_within: float = PROBE_WITHIN,
    ) -> None:
        """`way`: the host, or just its name. `config`: ssh_config files instead of the person's own."""
        self.way = Way(way) if isinstance(way, str) else way
        self.alias = self.way.alias
        self.known = Known()
        self.config = tuple(config)
        self._keepalive = keepalive
        self._within = probe_within
        self._prepare: Callable[[Link], Awaitable[None]] = _there_and_back
        self._connection: asyncssh.SSHClientConnection | None = None
        self._opening: asyncssh.SSHClientConnection | None = None
        """A fresh connection while it is prepared: only `prepare` may use it."""
        self._commands = asyncio.Semaphore(COMMANDS)
        self._hearers: list[Callable[[str | None], None]] = []
        self._keeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()
        """Set while nothing is being tried, and something has been."""
        self._closed = False
        self._server = ""
        """The command whose words a session that stands ready is given."""
        self._ready: deque[asyncio.Task[_Process | None]] = deque()
        self._room = 0
        self.written = 0
        """Requests over kept channels, in all."""

    # -- its state -----------------------------------------------------------------------------------------------

    def on_state(self, hearer: Callable[[str | None], None]) -> None:
        """`hearer(None)` at each new connection, `hearer(reason)` when one was lost or could not be had at first."""
        self._hearers.append(hearer)

    def prepare_with(self, prepare: Callable[[Link], Awaitable[None]]) -> None:
        """What the probe does there and back on a fresh connection, before anybody uses it."""
        self._prepare = prepare

    def stand_ready(self, server: str, count: int = READY) -> None:
        """Have so many sessions ready for `call`. `server NEXT`, which is there already, has to read its words, as sh
        quotes them, from the first line of its standard input."""
        self._server, self._room = server, count
        if self._connection is not None:
            self._make_ready(self._connection)

    async def use(self) -> asyncssh.SSHClientConnection:
        """The connection. At first it is waited for; where the last probe failed, its reason is raised at once."""
        if self._closed:
            raise HostUnreachable(f"{self.alias}: the connection was closed")
        if self._opening is not None and asyncio.current_task() is self._keeper:
            return self._opening
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"fleet-ssh-{self.alias}")
        if self._connection is None and self.known.state is HostState.UNKNOWN:
            await self._tried.wait()
        if self._connection is None:
            kind = Unauthenticated if self.known.state is HostState.UNAUTHENTICATED else HostUnreachable
            raise kind(f"{self.alias}: {self.known.reason or 'there is no connection'}")
        return self._connection

    async def _keep(self) -> None:
        """Probe when it is due; while a connection is held, wait for its end."""
        while not self._closed:
            due = self.known.probe_at
            pause = None if due is None else max(0.0, due - time.monotonic())
            if pause != 0.0:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                continue
            await self._probe()
            self._tried.set()

    async def _probe(self) -> None:
        """Connect, and go there and back once."""
        began = time.monotonic()
        state, reason = HostState.UNREACHABLE, ""
        try:
            async with asyncio.timeout(self._within):
                self._opening = await self._connect()
                await self._prepare(self)
        except TimeoutError:
            reason = f"no answer within {self._within:g} s"
        except Unauthenticated as error:
            state, reason = HostState.UNAUTHENTICATED, error.with_hint()
        except FleetError as error:
            reason = error.with_hint().removeprefix(f"{self.alias}: ")
        except Exception as error:
            log.exception("%s could not be probed", self.alias)
            reason = f"{type(error).__name__}: {error}"
        now = time.monotonic()
        opened, self._opening = self._opening, None
        if not reason and opened is not None and not opened.is_closed():
            self._connection = opened
            self.known = ssh_hosts.answered(self.known, now)
            self._make_ready(opened)
            self._tell(None)
            return
        if opened is not None:
            opened.abort()
        before = self.known
        reason = reason or "the connection ended at once"
        self.known = ssh_hosts.failed(before, state, began, now, reason)
        if (before.state, before.reason) != (state, reason):
            self._tell(reason)

    def _tell(self, reason: str | None) -> None:
        for hearer in list(self._hearers):
            hearer(reason)

    def _ended(self, connection: asyncssh.SSHClientConnection, error: Exception | None) -> None:
        """A connection has ended; only the one in use is news."""
        if connection is not self._connection:
            return
        self._connection = None
        self._forget_ready()
        if not self._closed:
            reason = f"the connection was lost: {_words(error)}" if error else "the host closed the connection"
            self.known = ssh_hosts.lost(self.known, time.monotonic(), reason)
            self._wake.set()
            self._tell(reason)

    async def close(self) -> None:
        self._closed = True
        self._forget_ready()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for connection in (self._connection, self._opening):
            if connection is not None:
                connection.close()
                with contextlib.suppress(TimeoutError, OSError, asyncssh.Error):
                    await asyncio.wait_for(connection.wait_closed(), 1)
                connection.abort()

    # -- connecting ----------------------------------------------------------------------------------------------

    async def _connect(self) -> asyncssh.SSHClientConnection:
        offered: list[_Offered] = []
        given: dict[str, Any] = {"config": list(self.config) or ()}  # (): the person's own
        own = self._own_words()
        trusted: list[str] = []
        wanted: asyncssh.SSHClientConnectionOptions | None = None
        try:
            wanted = asyncssh.SSHClientConnectionOptions(host=self.alias, **own, **given)
            _must_check(self.alias, wanted)
            trusted = _trusted(wanted)
            for jump in wanted.tunnel.split(",") if isinstance(wanted.tunnel, str) else ():
                name = jump.rpartition("@")[2].partition(":")[0]
                _must_check(name, asyncssh.SSHClientConnectionOptions(host=name, **given))
            connection, _ = await asyncssh.create_connection(
                lambda: _Client(self, offered),
                self.alias,
                known_hosts=trusted,
                preferred_auth="publickey",
                password=None,
                keepalive_interval=self._keepalive,
                keepalive_count_max=KEEPALIVES,
                connect_timeout=self._within,
                login_timeout=self._within,
                agent_forwarding=False,
                compression_algs=["zlib@openssh.com", "none"],  # what a sweep answers is mostly what it answered before
                **own,
                **given,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise _host_key(self.alias, trusted, offered, str(error)) from error
        except asyncssh.PermissionDenied as error:
            who = f" for the user {wanted.username}" if wanted is not None and wanted.username else ""
            raise Unauthenticated(
                f"it accepts none of our keys{who}{_by_way_of(wanted)}",
                hint=f"`ssh -o BatchMode=yes {self.alias} true` has to work: name the key as IdentityFile in"
                " ssh_config or add it to the ssh agent (one with a passphrase has to be there: `ssh-add`), and its"
                " public half to authorized_keys there.",
            ) from error
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise Unauthenticated(
                f"a key of ours cannot be used: {error}",
                hint="A key with a passphrase has to be in the ssh agent (`ssh-add`).",
            ) from error
        except asyncssh.KeyExchangeFailed as error:
            raise Unauthenticated(f"we agree on no key: {error}") from error
        except asyncssh.ConfigParseError as error:
            raise Unauthenticated(f"its ssh_config cannot be read: {error}") from error
        except (asyncssh.Error, OSError) as error:
            if isinstance(error, FileNotFoundError):
                whose = "the manifest" if error.filename == self.way.key else "its ssh_config"
                raise Unauthenticated(f"{error.filename} does not exist, and {whose} names it") from error
            raise HostUnreachable(_no_way(error, wanted)) from error
        return connection

    def _own_words(self) -> dict[str, Any]:
        """What the manifest says of the way, which counts more than ssh_config."""
        way = self.way
        said = {"username": way.user, "port": way.port, "client_keys": [way.key] if way.key else None}
        return {name: value for name, value in said.items() if value is not None}

    async def forward(self, there: str, here: str) -> None:
        """Let whoever connects to that socket there reach this one here, as long as the connection lasts."""
        connection = await self.use()
        try:
            async with asyncio.timeout(self._within):
                await connection.forward_remote_path(there, here)
        except TimeoutError:
            raise HostUnreachable(f"{self.alias}: no answer within {self._within:g} s") from None
        except (asyncssh.Error, asyncssh.ChannelListenError, OSError) as error:
            raise HostUnreachable(f"{self.alias}: {_words(error)}") from error

    # -- commands and channels -----------------------------------------------------------------------------------

    async def command(self, words: str, stdin: bytes = b"", *, timeout: float | None = None) -> Ran:
        """Run a command of the login shell there to its end. `TimedOut` where it takes longer than that."""
        connection = await self.use()
        log.debug("%s: a session for %.60s", self.alias, words)
        return await self._to_its_end(lambda: self._session(connection, words), stdin, timeout)

    async def call(self, words: Sequence[str], stdin: bytes = b"", *, timeout: float | None = None) -> Ran:
        """The same for words of the `stand_ready` server, by a session that stands ready where there is one."""
        line, connection = shlex.join(words), await self.use()
        log.debug("%s: call %.60s", self.alias, line)
        line = line.replace("\n", "'\"$newline\"'")  # shlex has put it between single quotes
        said = line.encode(errors="surrogateescape") + b"\n" + stdin
        return await self._to_its_end(lambda: self._ready_session(connection), said, timeout)

    async def _to_its_end(self, start: Callable[[], Awaitable[_Process]], stdin: bytes, timeout: float | None) -> Ran:
        async with self._commands:
            try:
                async with asyncio.timeout(timeout):
                    process = await start()
                    try:
                        out, err = await process.communicate(stdin)
                    except BaseException:
                        process.kill()
                        process.close()
                        raise
            except TimeoutError:
                raise TimedOut(f"{self.alias} was not done within {timeout:g} s") from None
            except (asyncssh.Error, OSError) as error:
                raise HostUnreachable(f"{self.alias}: {_words(error)}") from error
        status = process.returncode
        if status is None:
            raise HostUnreachable(f"{self.alias}: the connection ended before the command did")
        _, begun, out = bytes(out or b"").partition(MARK)
        if not begun:
            raise HostUnreachable(
                f"{self.alias}: its login shell ended with {status} before it did anything",
                hint=f"`ssh {self.alias} echo here` has to print `here`: its .bashrc, .cshrc or the like may end it.",
            )
        return Ran(status if status >= 0 else 128 - status, out, bytes(err or b""))

    async def _session(self, connection: asyncssh.SSHClientConnection, words: str) -> _Process:
        return await self._with_room(lambda: connection.create_process(_marked(words), encoding=None))

    async def _ready_session(self, connection: asyncssh.SSHClientConnection) -> _Process:
        """The session that has stood ready for longest, and another one in its place."""
        while self._ready:
            standing = self._ready.popleft()
            self._make_ready(connection)
            process = await asyncio.shield(standing)
            if process is not None and not process.is_closing() and process.exit_status is None:
                return process
            if process is None:
                break
        return await self._session(connection, f"{self._server} {NEXT}")

    def _make_ready(self, connection: asyncssh.SSHClientConnection) -> None:
        while self._server and connection is self._connection and len(self._ready) < self._room:
            self._ready.append(asyncio.create_task(self._open_ready(connection), name="fleet-ssh-ready"))

    async def _open_ready(self, connection: asyncssh.SSHClientConnection) -> _Process | None:
        try:
            return await connection.create_process(_marked(f"{self._server} {NEXT}"), encoding=None)
        except (asyncssh.Error, OSError) as error:
            log.debug("%s: no session stands ready: %s", self.alias, error)
            return None

    def _forget_ready(self) -> None:
        for standing in self._ready:
            standing.cancel()
        self._ready.clear()

    async def _with_room(self, opening: Callable[[], Awaitable[_T]]) -> _T:
        """Open a session. Where the host gives no more of them, those that stand ready make room, for good."""
        try:
            return await opening()
        except asyncssh.ChannelOpenError as error:
            if not await self._made_room():
                raise self._no_room(error) from error
        try:
            return await opening()
        except asyncssh.ChannelOpenError as error:
            raise self._no_room(error) from error

    async def _made_room(self) -> bool:
        """Let go of the sessions that stand ready, if there are any."""
        had, self._room = self._room, 0
        standing = list(self._ready)
        self._ready.clear()
        for process in await asyncio.gather(*standing):
            if process is not None:
                process.close()
                await process.wait_closed()
        return had > 0

    def _no_room(self, error: asyncssh.ChannelOpenError) -> HostUnreachable:
        return HostUnreachable(
            f"{self.alias}: its sshd opens no further session on our connection ({_words(error)}): fleet needs three of"
            " them (MaxSessions in its sshd_config)"
        )

    async def channel(self, words: str, on_data: Callable[[bytes], None], on_end: Callable[[str], None]) -> Channel:
        """Start a command there and keep the channel to it. `on_end` comes once, after the last data, with what the
        command wrote to its standard error."""
        connection = await self.use()
        try:
            async with asyncio.timeout(self._within):
                session = _Session(on_data, on_end)
                log.debug("%s: a channel for %.60s", self.alias, words)
                channel, _ = await self._with_room(
                    lambda: connection.create_session(lambda: session, _marked(words), encoding=None)
                )
        except TimeoutError:
            raise HostUnreachable(f"{self.alias}: no answer within {self._within:g} s") from None
        except (asyncssh.Error, OSError) as error:
            raise HostUnreachable(f"{self.alias}: {_words(error)}") from error
        return Channel(channel, session, self)


async def _there_and_back(link: Link) -> None:
    await link.command("exec true")


class Channel:
    """A kept channel to one command."""

    def __init__(self, channel: asyncssh.SSHClientChannel[bytes], session: _Session, link: Link) -> None:
        self._channel = channel
        self._session = session
        self._link = link

    def write(self, data: bytes) -> None:
        self._link.written += 1
        with contextlib.suppress(BrokenPipeError, OSError):  # its end is told to `on_end`
            self._channel.write(data)

    def kill(self) -> None:
        self._channel.close()

    async def wait(self) -> None:
        """Return when the channel is closed, also where the host does not answer any more."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._session.gone.wait(), 1)


class _Session(asyncssh.SSHClientSession[bytes]):
    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        self._said = b""
        self._before: bytes | None = b""
        """What came before our mark; `None` once that has been seen."""
        self.gone = asyncio.Event()
        self._on_data = on_data
        self._on_end = on_end

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype:
            self._said = (self._said + data)[-1000:]
            return
        if self._before is not None:
            before, begun, data = (self._before + data).partition(MARK)
            self._before = None if begun else before[-len(MARK) :]
        if data:
            self._on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        self._on_end(self._said.decode(errors="replace").strip())


_Offered = tuple[str, str, int, asyncssh.SSHKey]


class _Client(asyncssh.SSHClient):
    """Hears of the connection's end, and of a host key that known_hosts does not hold."""

    def __init__(self, link: Link, offered: list[_Offered]) -> None:
        self._link = link
        self._offered = offered
        self._connection: asyncssh.SSHClientConnection | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._link._ended(self._connection, exc)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self._offered.append((host, addr, port, key))
        return False


def _must_check(name: str, wanted: asyncssh.SSHClientConnectionOptions) -> None:
    """asyncssh takes `UserKnownHostsFile none` to mean that any key will do."""
    if wanted.known_hosts is None:
        raise Unauthenticated(
            f"ssh_config says UserKnownHostsFile none for {name}, which would trust whoever answers",
            hint="Take that line out, and add the host's key to known_hosts.",
        )


def _trusted(wanted: asyncssh.SSHClientConnectionOptions) -> list[str]:
    """The files of host keys that count: those of ssh_config, else the person's own, and this machine's."""
    named = wanted.known_hosts if isinstance(wanted.known_hosts, list) else []
    said = [str(path) for path in named] or [str(Path("~/.ssh/known_hosts").expanduser())]
    there = [path for path in dict.fromkeys([*said, str(KNOWN_TO_ALL)]) if Path(path).is_file()]
    return there or [os.devnull]  # asyncssh takes none at all for the person's own


def for_any_shell(words: str) -> str:
    """A line of sh for whatever login shell is there: between quotes csh takes no line's end and expands `!`, and fish
    reads backslashes."""
    if not any(sign in words for sign in "\n\\!"):
        return words
    octal = "".join(f"\\0{byte:03o}" for byte in words.encode(errors="surrogateescape"))
    return f"""exec /bin/sh -c 'eval "$(printf %b "{octal}")"'"""


def _marked(words: str) -> str:
    """The same, and our mark before it."""
    return f"echo {MARK.decode().strip()}; {for_any_shell(words)}"


def _host_key(alias: str, trusted: Sequence[str], offered: Sequence[_Offered], said: str) -> Unauthenticated:
    """Why the host's key is not accepted: it is new, or it is not the one we know."""
    if not offered:  # revoked, or of a jump host
        return Unauthenticated(f"its host key is not accepted: {said}")
    host, addr, port, key = offered[-1]
    place = host if port == 22 else f"[{host}]:{port}"
    print_ = f"{key.get_algorithm()} {key.get_fingerprint()}"
    if asyncssh.match_known_hosts(list(trusted), host, addr, port)[0]:
        return Unauthenticated(
            f"its host key has changed: {place} now shows {print_}. Somebody may be in between",
            hint=f"If its administrator confirms that key: `ssh-keygen -R '{place}'`, then `ssh {alias}` once.",
        )
    return Unauthenticated(
        f"its host key is not known yet: {place} shows {print_}",
        hint=f"Compare it with what its administrator says, and accept it by `ssh {alias}` once.",
    )


def _by_way_of(wanted: asyncssh.SSHClientConnectionOptions | None) -> str:
    """The jump hosts on the way, of which an error does not say whether it is one of theirs."""
    tunnel = wanted.tunnel if wanted is not None else None
    return f", by way of {tunnel}" if isinstance(tunnel, str) and tunnel else ""


def _no_way(error: Exception, wanted: asyncssh.SSHClientConnectionOptions | None) -> str:
    """Why there is no connection, and to where it was tried."""
    where = f"{wanted.host}, port {wanted.port}{_by_way_of(wanted)}" if wanted is not None else ""
    if isinstance(error, socket.gaierror):
        return f"there is no such name: {wanted.host if wanted is not None else ''}{_by_way_of(wanted)}"
    if isinstance(error, OSError) and error.errno and where:
        return f"{os.strerror(error.errno)} ({where})"
    return f"{_words(error)} ({where})" if where else _words(error)


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(reason) or type(error).__name__
