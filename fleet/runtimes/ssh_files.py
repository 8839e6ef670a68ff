"""Files of an ssh host, many at a time: one stream there, one stream back."""

from __future__ import annotations

import asyncio
import io
import secrets
import tarfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fleet.errors import FleetError, HostUnreachable, LaunchError
from fleet.terms import File, Ran

MOMENT = 0.002
"""Seconds within which what is to be read goes in one request."""
AT_ONCE = 16
"""Files that are read by one request."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    path: str
    tail: int | None
    answer: asyncio.Future[bytes | None]

    def tell(self, status: int, content: bytes, said: str) -> None:
        if self.answer.done():
            return
        if status in (0, 44):
            self.answer.set_result(None if status else content)
            return
        why = next((line for line in said.splitlines() if self.path in line), f"{self.path} cannot be read")
        self.answer.set_exception(LaunchError(f"{self.path} is no plain file" if status == 45 else why))


class Reads:
    """Reads files there; what is asked for within a moment goes in one request."""

    def __init__(self, do_there: Callable[..., Awaitable[Ran]]) -> None:
        """`do_there(verb, *words)` runs a verb of ssh_host.sh."""
        self._do_there = do_there
        self._wanted: list[_Wanted] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, path: str, tail: int | None) -> bytes | None:
        """A file's content, or its last `tail` bytes; `None` where there is none."""
        loop = asyncio.get_running_loop()
        wanted = _Wanted(path, tail, loop.create_future())
        self._wanted.append(wanted)
        if len(self._wanted) == 1:
            loop.call_later(MOMENT, self._ask)
        return await wanted.answer

    def _ask(self) -> None:
        wanted, self._wanted = self._wanted, []
        for n in range(0, len(wanted), AT_ONCE):
            task = asyncio.get_running_loop().create_task(self._read(wanted[n : n + AT_ONCE]), name="fleet-ssh-reads")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _read(self, wanted: Sequence[_Wanted]) -> None:
        mark = f"fleet-{secrets.token_hex(16)}"
        words = [word for one in wanted for word in (one.path, "-" if one.tail is None else str(one.tail))]
        try:
            ran = await self._do_there("reads", mark, *words)
            content, *more = ran.stdout.split(f"{mark} ".encode())
            if len(more) != len(wanted):
                raise HostUnreachable("what was read has not come back whole")
            for one, part in zip(wanted, more, strict=True):
                status, _, after = part.partition(b"\n")
                one.tell(int(status), content, ran.stderr.decode(errors="replace"))
                content = after
        except FleetError as error:
            for one in wanted:
                if not one.answer.done():
                    one.answer.set_exception(error)
        finally:
            for one in wanted:
                one.answer.cancel()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()


def pack(files: Sequence[File], into: str, name: str) -> bytes:
    """The files as one tar, each beside its place, and in `into` a list of what is to be renamed to what."""
    members, places = [], []
    for number, file in enumerate(files):
        folder, _, last = file.path.rpartition("/")
        beside = f"{folder}/.{last[:150]}.{name}.{number}"
        members.append((beside, file.content, file.mode))
        places.append(f"{beside}\n{file.path}\n")
    listed = "".join(places).encode(errors="surrogateescape")
    return tar([*members, (f"{into}/places", listed, 0o600)])


def tar(members: Sequence[tuple[str, bytes, int]]) -> bytes:
    """Files as one stream; names are from the root."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as stream:
        for path, content, mode in members:
            info = tarfile.TarInfo(path.lstrip("/"))
            info.size, info.mode = len(content), mode
            stream.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def untar(packed: bytes) -> list[tuple[str, bytes, float]]:
    """Name, content and time of the files of a stream."""
    if not packed:
        return []
    with tarfile.open(fileobj=io.BytesIO(packed)) as stream:
        opened = [(member, stream.extractfile(member)) for member in stream]
        return [(member.name, file.read(), member.mtime) for member, file in opened if file is not None]
