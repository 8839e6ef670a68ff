"""A cluster's login node over ssh: the steps into all jobs share one channel, and their runs' notes come over it too.

A sshd lets few sessions share a connection, so that a channel for each job would not do. slurm_login.sh says what is
said over this one. A launch's notes are a round trip, and no process over there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet.errors import HostUnreachable
from fleet.runtimes.slurm_steps import Notes
from fleet.runtimes.ssh import Channel
from fleet.runtimes.ssh_runtime import SshRuntime
from fleet.runtimes.ssh_tmux import login, sh
from fleet.runtimes.tmux import Hearer

log = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("slurm_login.sh")
ENDS_WITHIN = 1.0
"""Seconds that letting go of a step waits for its end."""


class LoginSteps:
    """The steps and notes of a cluster, from its login node."""

    def __init__(self, host: SshRuntime, within: float, *, login_shell: bool = False) -> None:
        """`within`: the seconds that notes may take."""
        self._host, self._within, self._login_shell = host, within, login_shell
        self._words: _Words | None = None
        self._opening = asyncio.Lock()
        self._count = 0
        self._closed = False

    async def open(self, argv: Sequence[str], env: Mapping[str, str], control: Hearer) -> None:
        words = await self._spoken()
        given = [f"{name}={value}" for name, value in env.items()]
        id_ = self._next()
        step = words.steps[id_] = _Step(id_, words, control)
        control.pipe = step
        words.say("open", id_, "\t".join(["env", "-i", *given, *argv]))

    async def notes(self, folder: str, run: int, names: Collection[str]) -> Notes:
        words = await self._spoken()
        id_ = self._next()
        asked = words.asked[id_] = _Asked(asyncio.get_running_loop().create_future())
        words.say("notes", id_, " ".join([folder, str(run), *names]))
        try:
            return await asyncio.wait_for(asked.answer, self._within)
        except TimeoutError:
            words.channel.kill()
            raise HostUnreachable(f"{self._host.machine} did not answer within {self._within:g} s") from None
        finally:
            words.asked.pop(id_, None)

    def terminal(self, argv: Sequence[str]) -> list[str]:
        words = f"exec {shlex.join(argv)}"
        return self._host.terminal_argv(login(words) if self._login_shell else sh(words))

    def _next(self) -> str:
        self._count += 1
        return str(self._count)

    async def _spoken(self) -> _Words:
        """The channel, opened where there is none."""
        async with self._opening:
            if self._closed:
                raise HostUnreachable(f"{self._host.machine}: the connection was closed")
            if self._words is None or self._words.over:
                folder = f"{self._host.folder}/in.steps-{secrets.token_hex(4)}"
                words = _Words(self._host.machine)
                line = shlex.join(["exec", "bash", "-c", SCRIPT.read_text(), SCRIPT.name, folder])
                words.channel = await self._host.link.channel(line, words.heard, words.ended)
                self._words = words
            return self._words

    async def close(self) -> None:
        self._closed = True
        if self._words is not None and not self._words.over:
            self._words.channel.kill()
            await self._words.channel.wait()


@dataclass(slots=True)
class _Asked:
    """Notes that are on their way."""

    answer: asyncio.Future[Notes]
    newest: int | None = None
    noted: dict[str, list[str]] = field(default_factory=dict)

    def heard(self, mark: bytes, text: str) -> None:
        if mark == b"#":
            self.newest = int(text) if text.isdigit() else None
        elif mark == b"@":
            self.noted[text] = []
        elif mark == b"=":
            self.noted[next(reversed(self.noted))].append(text)
        elif not self.answer.done():
            noted = {name: "\n".join(lines).strip() for name, lines in self.noted.items()}
            self.answer.set_result(Notes(self.newest, noted))


class _Words:
    """What is said over one channel."""

    channel: Channel

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self.steps: dict[str, _Step] = {}
        self.asked: dict[str, _Asked] = {}
        self.over = False
        self._buffer = b""

    def say(self, verb: str, id_: str, text: str) -> None:
        if not self.over:
            self.channel.write(f"{verb} {id_} {text}\n".encode(errors="surrogateescape"))

    def heard(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            id_, _, rest = line.partition(b" ")
            mark, text = rest[:1], rest[1:]
            step, asked = self.steps.get(id_.decode(errors="replace")), self.asked.get(id_.decode(errors="replace"))
            if step is not None:
                step.heard(mark, text)
            elif asked is not None:
                asked.heard(mark, text.decode(errors="replace"))

    def ended(self, said: str) -> None:
        """It was cut, or its script has ended: nothing is known of what was asked."""
        self.over = True
        log.debug("%s: its channel to jobs has ended: %s", self._machine, said)
        for asked in self.asked.values():
            if not asked.answer.done():
                asked.answer.set_exception(HostUnreachable(f"{self._machine}: {said or 'the connection was lost'}"))
        for step in list(self.steps.values()):
            step.end("the connection to the login node was lost")


class _Step:
    """One client in a job, as the pipe of its control."""

    def __init__(self, id_: str, words: _Words, control: Hearer) -> None:
        self._id, self._words, self._control = id_, words, control
        self._begun: list[bytes] = []
        """Pieces of a line whose last has not come."""
        self._gone = asyncio.Event()

    def heard(self, mark: bytes, text: bytes) -> None:
        if mark == b"+":
            self._begun.append(text)
        elif mark == b"=":
            whole, self._begun = b"".join([*self._begun, text, b"\n"]), []
            self._control.feed(whole)
        else:
            self.end(text.decode(errors="replace").strip() or "the tmux client has ended")

    def end(self, said: str) -> None:
        self._words.steps.pop(self._id, None)
        self._gone.set()
        self._control.lost(said)

    def write(self, data: bytes) -> None:
        for line in data.decode(errors="surrogateescape").split("\n")[:-1]:
            self._words.say("say", self._id, line)

    def kill(self) -> None:
        self._words.say("close", self._id, "")

    async def wait(self) -> None:
        """Return when it has ended, also where the host does not answer any more."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), ENDS_WITHIN)
