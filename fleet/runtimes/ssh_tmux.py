"""A tmux server on an ssh host: started by a command, then spoken to over one kept channel.

That its server is gone is only ever tmux's own word. A channel that ends without it was cut, and says nothing of
the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
from collections.abc import Callable

from fleet.clock import Clock
from fleet.errors import HostUnreachable, LaunchError
from fleet.runtimes import tmux
from fleet.runtimes.local_tmux import BARE
from fleet.runtimes.multiplexers import ServerGone
from fleet.runtimes.ssh import Link, for_any_shell
from fleet.settings import Settings
from fleet.terms import File

START_TRIES = 10
ENDS_WITHIN = 30.0
"""Seconds in which a host must have seen to the end of a server."""
_NO_SERVER = re.compile(
    r"no server running|error connecting to .*\((?:No such file|Connection refused)|can't find session"
)


def sh(script: str) -> str:
    """The script for /bin/sh, whatever the login shell there is."""
    return f"exec /bin/sh -c {shlex.quote(script)}"


def login(script: str) -> str:
    """The same after what a login there reads. (csh takes no command where it is told to be a login's.)"""
    words = for_any_shell(sh(script))
    reads = " ".join(f"if ( -r {file} ) source {file};" for file in ("/etc/csh.login", "~/.login"))
    return sh(
        f'case $SHELL in *csh) exec "$SHELL" -c {shlex.quote(f"{reads} {words}")} ;; esac;'
        f' exec "${{SHELL:-/bin/sh}}" -l -c {shlex.quote(words)}'
    )


def means_no_server(said: str) -> bool:
    """Whether a client that could not attach has said that there is no server."""
    return _NO_SERVER.search(said) is not None


class SshTmux(tmux.Tmux):
    """One tmux server on an ssh host."""

    def __init__(self, link: Link, socket: str, settings: Settings, clock: Clock) -> None:
        super().__init__(self._connect_there, settings, clock)
        self._link = link
        self._socket = socket
        self._starting = asyncio.Lock()

    async def ensure(self) -> int:
        """The server's pid; it is started where there is none."""
        async with self._starting:
            try:
                return await self.server_pid()
            except ServerGone:
                await self._start()
                return await self.server_pid()

    @property
    def is_there(self) -> bool:
        """Whether we speak to it."""
        return self._control is not None and not self._control.ended

    def files_that_open(self, folder: str, line: str) -> list[File]:
        """What the host's own sh needs to run a line of commands at the server, should it be there."""
        bare = [f"{name}={value}" for name, value in BARE.items()]
        words = shlex.join(["env", "-i", *bare, "tmux", "-N", "-u", "-S", self._socket])
        opens = line + " ; " + tmux.command("display-message", "-p", "#{pid}") + "\n"
        return [
            File(f"{folder}/server", f'at_server() {{ {words} "$@"; }}\n'.encode()),
            File(f"{folder}/open", opens.encode(errors="surrogateescape")),
        ]

    async def dismiss(self) -> bool:
        """End the server if no pane is left in it. Whether there is none now."""
        if await self.panes():
            return False
        try:
            pid = await self.server_pid()
        except ServerGone:
            return True
        with contextlib.suppress(HostUnreachable):  # it hangs up instead of answering
            await self.ask("kill-server")
        # A client that a cut has left behind can keep it from ending. It holds nothing any more.
        gone = f"while kill -0 {pid} 2>/dev/null && [ $n -lt 20 ]; do sleep 0.1; n=$((n + 1)); done"
        await self._link.command(sh(f"n=0; {gone}; kill -KILL {pid} 2>/dev/null; exit 0"), timeout=ENDS_WITHIN)
        return True

    async def _start(self) -> None:
        """Start the server. While an older one is still going away a start can fail though nothing is wrong."""
        bare = [f"{name}={value}" for name, value in BARE.items()]
        start = shlex.join(["env", "-i", *bare, *tmux.start_argv(self._socket, self._settings)])
        folder = shlex.quote(self._socket.rpartition("/")[0])
        words = sh(f"(umask 077; mkdir -p {folder}) && umask 022 && cd / && exec {start}")
        for _ in range(START_TRIES):
            ran = await self._link.command(words, timeout=self._settings.observe_timeout)
            if ran.status == 0 or b"duplicate session" in ran.stderr:  # somebody else was faster
                return
            if ran.status == 127:
                raise LaunchError(f"tmux is not installed on {self._link.alias}", hint="apt install tmux there")
            await asyncio.sleep(0.15)
        raise LaunchError(f"tmux could not start on {self._link.alias}: {ran.stderr.decode(errors='replace').strip()}")

    async def _connect_there(self, on_lost: Callable[[], None]) -> tmux.Control:
        control = tmux.Control(on_lost)
        bare = [f"{name}={value}" for name, value in BARE.items()]
        words = shlex.join(["env", "-i", *bare, *tmux.client_argv(self._socket)])
        try:
            control.pipe = await self._link.channel(
                f"exec {words}", control.feed, lambda said: control.lost(said or "the tmux client has ended")
            )
            await control.ready
        except ServerGone as error:
            control.lost("tmux could not be reached")
            if means_no_server(str(error)):
                raise
            raise HostUnreachable(f"{self._link.alias}: {error}") from error
        except BaseException:
            control.lost("tmux could not be reached")
            raise
        return control
