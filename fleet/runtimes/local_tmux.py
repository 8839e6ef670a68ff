"""A tmux server of this machine: started with a bare environment, told by pid and start time, reached by a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fleet import processes
from fleet.clock import Clock
from fleet.errors import HostUnreachable, LaunchError
from fleet.runtimes import files, launches, tmux
from fleet.runtimes.multiplexers import ServerGone
from fleet.settings import Settings
from fleet.terms import Process

BARE = {"PATH": "/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin", "LANG": "C.UTF-8"}
"""All the environment a multiplexer's server gets: every pane would inherit what it has."""
UMASK = 0o022
"""The agents', whatever the daemon's own is."""
START_TRIES = 10
LAST_WORDS = 1.0
"""Seconds that a client's output is read for after its end."""


def program(name: str) -> str:
    """Where a multiplexer's program is: on the daemon's own PATH (a person's own build included), or the system's."""
    path = f"{os.environ.get('PATH', '')}:{BARE['PATH']}".strip(":")
    return shutil.which(name, path=path) or name


class LocalTmux(tmux.Tmux):
    """One tmux server on this machine."""

    def __init__(self, socket: Path, notes: Path, settings: Settings, clock: Clock) -> None:
        """`notes`: the folder where servers are written down, which outlives the sockets' folder."""
        super().__init__(self._connect_here, settings, clock)
        self._socket = socket
        self._note = notes / socket.stem
        self._starting = asyncio.Lock()
        self._clients: set[Client] = set()

    def process(self) -> Process | None:
        """The server's process as it was noted, if that lives."""
        noted = processes.parse(files.read(self._note))
        return noted if noted is not None and processes.alive(noted) else None

    async def open(self, name: str, generation: str, argv: Sequence[str], width: int, height: int) -> Process:
        server = await self._ensure()
        await self.new_session(name, generation, argv, width, height)
        return server

    def attach_argv(self, name: str, generation: str, *, read_only: bool) -> list[str]:
        return tmux.attach_argv(str(self._socket), name, read_only=read_only)

    async def dismiss(self) -> None:
        """End the server if no pane is left in it, and take its socket away."""
        server = self.process()
        if server is not None and not await self.panes():
            with contextlib.suppress(HostUnreachable):  # it hangs up instead of answering
                await self.ask("kill-server")
            left = {server}
            await processes.end(lambda: set(filter(processes.alive, left)), grace=self._settings.observe_timeout)
            self.forget("its server was dismissed")
            server = None
        if server is None:
            await asyncio.to_thread(self._socket.unlink, missing_ok=True)
            await asyncio.to_thread(self._note.unlink, missing_ok=True)

    async def close(self) -> None:
        await super().close()
        for client in list(self._clients):
            client.kill()
            await client.wait()

    async def _ensure(self) -> Process:
        """The server, started where there is none."""
        async with self._starting:
            try:
                pid = await self.server_pid()
            except ServerGone:
                await self._start()
                pid = await self.server_pid()
            process = processes.find(pid)
            if process is None:
                raise HostUnreachable("the tmux server ended just now")
            if process != self.process():
                await asyncio.to_thread(files.put, [launches.note(self._note.parent, self._note.name, process)])
            return process

    async def _start(self) -> None:
        """Start the server. While an older one is still going away, or was killed just now, a start can fail though
        nothing is wrong: it is tried again for a while."""
        await asyncio.to_thread(files.make_folder, self._socket.parent)
        for _ in range(START_TRIES):
            said = await self._try_to_start()
            if said is None:
                return
            await asyncio.sleep(0.15)
        raise LaunchError(f"tmux could not start: {said}")

    async def _try_to_start(self) -> str | None:
        """One attempt; what tmux says where it fails."""
        argv = [program("tmux"), *tmux.start_argv(str(self._socket), self._settings)[1:]]
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=BARE,
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                umask=UMASK,
            )
        except (FileNotFoundError, PermissionError):
            raise _not_installed() from None
        try:
            _, said = await asyncio.wait_for(process.communicate(), self._settings.observe_timeout)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise HostUnreachable("tmux did not start in time") from None
        return said.decode(errors="replace").strip() if process.returncode else None

    async def _connect_here(self, on_lost: Callable[[], None]) -> tmux.Control:
        """Open our client. A server that lives without its socket is asked to make it again."""
        try:
            return await self._open_client(on_lost)
        except ServerGone:
            server = self.process()
            if server is None:
                raise
        processes.send(server, signal.SIGUSR1)
        await asyncio.sleep(0.05)
        try:
            return await self._open_client(on_lost)
        except ServerGone as error:
            if self.process() is None:
                raise
            raise HostUnreachable(f"tmux is there but does not let us in: {error}") from error

    async def _open_client(self, on_lost: Callable[[], None]) -> tmux.Control:
        control = tmux.Control(on_lost)
        try:
            argv = [program("tmux"), *tmux.client_argv(str(self._socket))[1:]]
            await Client.open(argv, control, self._clients)
            await control.ready
        except BaseException:
            control.lost("tmux could not be reached")
            raise
        return control


class Client(asyncio.SubprocessProtocol):
    """Our kept client as a child process."""

    def __init__(self, control: tmux.Hearer, clients: set[Client]) -> None:
        """`clients`: those that have not ended yet; this one keeps itself in it."""
        self._control = control
        self._clients = clients
        self._transport: asyncio.SubprocessTransport | None = None
        self._said = b""
        self._gone = asyncio.Event()

    @classmethod
    async def open(
        cls, argv: Sequence[str], control: tmux.Hearer, clients: set[Client], env: Mapping[str, str] = BARE
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.subprocess_exec(lambda: cls(control, clients), *argv, env=env, cwd="/", start_new_session=True)
        except (FileNotFoundError, PermissionError):
            raise _not_installed() from None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        self._clients.add(self)
        self._control.pipe = self

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self._control.feed(data)
        else:
            self._said += data[:1000]

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._transport.close()
        self._clients.discard(self)
        self._gone.set()
        self._control.lost(self._said.decode(errors="replace").strip() or "the tmux client has ended")

    def process_exited(self) -> None:
        """Its last words come by the pipes, which a child of its own may hold on to: nobody waits for that one."""
        assert self._transport is not None
        asyncio.get_running_loop().call_later(LAST_WORDS, self._transport.close)

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        stdin = self._transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        stdin.write(data)

    def kill(self) -> None:
        if self._transport is not None:
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()

    async def wait(self) -> None:
        if self._transport is not None:
            await self._gone.wait()


def _not_installed() -> LaunchError:
    return LaunchError("tmux is not installed", hint="apt install tmux, or brew install tmux")
