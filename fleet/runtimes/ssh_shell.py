"""The one sh that serves a host: it is asked for the facts of launches, and tells by itself what has changed.

Requests and answers are lines over one kept channel (ssh_host.sh says which). When the channel ends, for whatever
reason, it is opened again, and everything that is wanted is wanted anew: the sh tells of each wanted folder all that
is in it, and of each process that has ended, so that nothing is lost in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from fleet.errors import HostUnreachable
from fleet.runtimes.ssh import Channel, Link
from fleet.terms import Process

log = logging.getLogger(__name__)

AGAIN = 1.0
"""Seconds until a channel that ended while the host is there is opened again."""
DEAF = 30.0
"""Seconds without a beat of the loop there that tells news (it beats every five), after which it is taken for one that
hangs, or was killed beside the sh that answers: it is given up for another one …"""
DEAF_AT_MOST = 600.0
"""… and where that one does not beat either, as on a file system that hangs, after twice as many, up to these."""

OnChange = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a launch's folder tells, and who of it lives."""

    launcher: Process | None
    program: Process | None
    server: Process | None
    exit_status: int | None
    alive: bool
    """Whether the launcher lives."""
    server_alive: bool
    claimed: bool
    screen_kept: bool
    purged: bool

    @property
    def noted(self) -> bool:
        """Whether the launcher has noted its program, or its end."""
        return self.program is not None or self.exit_status is not None

    @property
    def server_lost(self) -> bool:
        """The pane went with its server. (A pane whose last screen was kept was there when the program ended.)"""
        return self.server is not None and not self.screen_kept and not self.server_alive


def read_facts(words: list[str]) -> Facts:
    """The answer to `facts`."""
    launcher, program, server, status, alive, there, claimed, kept, purged = words
    return Facts(
        launcher=_process(launcher),
        program=_process(program),
        server=_process(server),
        exit_status=int(status) if status.isdigit() else None,
        alive=alive == "1",
        server_alive=there == "1",
        claimed=claimed == "1",
        screen_kept=kept == "1",
        purged=purged == "1",
    )


def _process(word: str) -> Process | None:
    pid, _, start = word.partition(":")
    return Process(int(pid), int(start)) if pid.isdigit() and start.isdigit() else None


class HostShell:
    """The channel to the serving sh."""

    def __init__(self, link: Link, words: str, within: float, on_ended: Callable[[Process], None]) -> None:
        """`words` is its command, `within` the seconds an answer may take. `on_ended` is called for each wanted
        process that is not there any more."""
        self._link = link
        self._words = words
        self._within = within
        self._on_ended = on_ended
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._epoch = 0
        """Which channel is meant: one that was given up is not heard any more."""
        self._over = 0
        self._buffer = b""
        self._count = 0
        self._asked: dict[str, asyncio.Future[list[str]]] = {}
        self._folders: dict[str, list[OnChange]] = {}
        self._processes: set[Process] = set()
        self._again: asyncio.Task[None] | None = None
        self._deaf: asyncio.TimerHandle | None = None
        """When the loop that tells news is taken for one that tells none any more."""
        self._silences = 0
        """How often that has come to pass, one after the other."""
        self._due = False
        self._closed = False
        link.on_state(self._link_told)

    async def facts(self, folder: str) -> Facts:
        """Raise `HostUnreachable` where the file system there does not tell: that speaks of no agent."""
        words = await self.ask(f"facts {folder}")
        if words == ["!"]:
            raise HostUnreachable(f"{self._link.alias}: {folder} cannot be read there")
        return read_facts(words)

    async def ask(self, request: str) -> list[str]:
        """One request; the words of its answer."""
        channel = await self._open()
        self._count += 1
        log.debug("%s: ask %.60s", self._link.alias, request)
        number = str(self._count)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        channel.write(f"{number} {request}\n".encode(errors="surrogateescape"))
        try:
            return await asyncio.wait_for(answer, self._within)
        except TimeoutError:
            if channel is self._channel:
                self._ended(self._epoch, "it does not answer")
            channel.kill()
            raise HostUnreachable(f"{self._link.alias} did not answer within {self._within:g} s") from None
        finally:
            self._asked.pop(number, None)

    # -- news ------------------------------------------------------------------------------------------------------

    def watch_folder(self, folder: str, on_change: OnChange) -> Callable[[], None]:
        """Call back with the name of what changes in it; at first, and after a cut, with all that is in it."""
        hearers = self._folders.setdefault(folder, [])
        hearers.append(on_change)
        self._want()

        def stop() -> None:
            if on_change in hearers:
                hearers.remove(on_change)
            if not hearers and self._folders.get(folder) is hearers:
                del self._folders[folder]
                self._want()

        return stop

    def hold(self, process: Process) -> None:
        """Tell when this process ends, at once where it has ended."""
        self._processes.add(process)
        self._want()

    def release(self, process: Process) -> None:
        if process in self._processes:
            self._processes.discard(process)
            self._want()

    def _want(self) -> None:
        """Say what is wanted, a moment from now: what comes together goes in one write."""
        if not self._due and not self._closed:
            self._due = True
            asyncio.get_running_loop().call_soon(self._say_wanted)

    def _say_wanted(self) -> None:
        self._due = False
        if self._channel is None:
            self._reopen(0.0)
            return
        lines = [f"folder {folder}" for folder in self._folders]
        lines += [f"process {process.pid} {process.start}" for process in self._processes]
        text = "\n".join([f"want {len(lines)}", *lines]) + "\n"
        self._channel.write(text.encode(errors="surrogateescape"))

    # -- the channel -------------------------------------------------------------------------------------------------

    async def _open(self) -> Channel:
        async with self._opening:
            if self._channel is None:
                self._buffer = b""
                self._epoch += 1
                heard = functools.partial(self._heard, self._epoch)
                channel = await self._link.channel(self._words, heard, functools.partial(self._ended, self._epoch))
                if self._over == self._epoch:
                    raise HostUnreachable(f"{self._link.alias}: its sh ended at once")
                self._channel = channel
                self._await_beat()
                if self._folders or self._processes:
                    self._say_wanted()
            return self._channel

    def _link_told(self, reason: str | None) -> None:
        if reason is None and (self._folders or self._processes):
            self._reopen(0.0)

    def _reopen(self, after: float) -> None:
        if not self._closed and (self._again is None or self._again.done()):
            self._again = asyncio.get_running_loop().create_task(self._open_again(after), name="fleet-ssh-shell")

    async def _open_again(self, after: float) -> None:
        await asyncio.sleep(after)
        try:
            await self._open()
        except HostUnreachable as error:  # the link says when it is back
            log.debug("%s: its sh is not there: %s", self._link.alias, error)

    def _ended(self, epoch: int, said: str) -> None:
        if epoch != self._epoch:
            return
        self._over = epoch
        self._channel = None
        self._no_beat()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(HostUnreachable(f"{self._link.alias}: {said or 'its sh has ended'}"))
        if self._folders or self._processes:
            self._reopen(AGAIN)

    def _await_beat(self) -> None:
        """The loop that tells news lives, or begins."""
        self._no_beat()
        patience = min(DEAF * 2 ** min(self._silences, 10), DEAF_AT_MOST)
        self._deaf = asyncio.get_running_loop().call_later(patience, self._fell_silent, self._epoch)

    def _no_beat(self) -> None:
        """Nobody is there who could beat."""
        if self._deaf is not None:
            self._deaf.cancel()
            self._deaf = None

    def _fell_silent(self, epoch: int) -> None:
        channel = self._channel
        if channel is not None and epoch == self._epoch:
            self._silences += 1
            log.warning("%s: its sh tells no news any more: another one is begun", self._link.alias)
            self._ended(epoch, "it tells no news any more")
            channel.kill()

    def _heard(self, epoch: int, data: bytes) -> None:
        if epoch != self._epoch:
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="surrogateescape")
            if text.startswith("="):
                number, *words = text[1:].split(" ")
                answer = self._asked.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(words)
                continue
            try:
                self._news(text)
            except Exception:  # one hearer's fault must not deafen the others
                log.exception("%s: a watch failed", self._link.alias)

    def _news(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        if word == "changed":
            folder, _, name = rest.rpartition("/")
            for hearer in list(self._folders.get(folder, ())):
                hearer(name)
        elif word == "beat":
            self._silences = 0
            self._await_beat()
        elif word == "unwanted":  # a full disk: the older list holds until there is room
            log.warning("%s cannot keep what is watched there", self._link.alias)
            asyncio.get_running_loop().call_later(AGAIN, self._want)
        elif word == "ended":
            pid, _, start = rest.partition(" ")
            process = Process(int(pid), int(start))
            if process in self._processes:
                self._processes.discard(process)
                self._want()
                self._on_ended(process)

    async def close(self) -> None:
        self._closed = True
        self._no_beat()
        self._folders.clear()
        self._processes.clear()
        if self._again is not None:
            self._again.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._again
        if self._channel is not None:
            channel, self._channel = self._channel, None
            channel.kill()
            await channel.wait()
