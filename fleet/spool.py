"""Events on their way from hooks into the database: one file an event, in a folder per agent.

A hook writes beside (a name that begins with a dot) and renames, so a file that can be seen is whole. Its name is
unique and orders it: `GENERATION,PROGRAM,CLOCK,PROCESS[,KIND]` (harnesses/hook.sh). A file is deleted only after its
event is committed; the name is the event's key, so what a killed daemon had stored and not yet deleted is not stored
twice. What is no JSON is an event as well, with its raw content: nothing is lost, and nothing blocks what follows.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fleet.errors import StorageError
from fleet.terms import HookEvent, Spooled

log = logging.getLogger(__name__)

BATCH_BYTES = 8_000_000
"""Content that is held in memory and committed at once; a single larger event goes alone."""
BATCH_FILES = 500
CLOCK_GRAIN = 2_000_000_000
"""Nanoseconds within which two changes of a folder may bear the same time, on the coarsest of file systems."""
LITTER_AGE = 3600.0
"""Seconds after which a file that never became an event belongs to a hook that was killed."""

_NAME = re.compile(
    r"(?P<generation>_?[A-Za-z0-9][A-Za-z0-9._-]*),(?P<pid>\d{1,10}),(?P<clock>\d{1,12}(?:\.\d{1,9})?),(?P<hook>\d{1,10})"
    r"(?:,(?P<kind>[A-Za-z0-9_-]{1,64}))?"
)
_EVENT_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_PIDS = 1 << 22
"""More than there are process numbers; they start again from below when they are used up."""
_PIDS_IN_A_TICK = 10_000
"""No machine starts as many processes in a hundredth of a second."""


@dataclass(frozen=True, slots=True)
class Found:
    """One whole file in the spool."""

    path: Path
    at: float
    """When it was written."""
    size: int
    generation: str | None
    pid: int | None
    clock: float
    hook: int
    kind: str | None


def found(folder: Path) -> list[Found]:
    """The events that lie in an agent's folder, in order; none where there is no folder."""
    events = []
    for entry in _entries(folder):
        if _NAME.fullmatch(entry.name) is None:
            continue
        try:
            told = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # another reader was here
        if stat.S_ISREG(told.st_mode) and (event := _found(folder / entry.name, told.st_mtime, told.st_size)):
            events.append(event)
    return _in_order(events)


def _found(path: Path, at: float, size: int) -> Found | None:
    """What the name of a file in the spool tells; `None` where it is no event's."""
    name = _NAME.fullmatch(path.name)
    if name is None:
        return None
    generation, pid = name["generation"], int(name["pid"])
    return Found(
        path=path,
        at=at,
        size=size,
        generation=None if generation.startswith("_") else generation,
        pid=pid or None,
        clock=float(name["clock"]),
        hook=int(name["hook"]),
        kind=name["kind"],
    )


def fetched(agent: str, files: Sequence[Spooled]) -> list[HookEvent]:
    """The events of files out of the spool of another machine, in order."""
    contents = {file.name: file.content for file in files}
    named = [_found(Path(agent, file.name), file.at, len(file.content)) for file in files]
    return [_as_event(one, contents[one.path.name]) for one in _in_order([one for one in named if one is not None])]


def read(folder: Path) -> list[HookEvent]:
    """The events that lie in an agent's folder, in order, with their content. It deletes nothing."""
    return [event for batch in batches(found(folder)) for _, event in batch]


def batches(files: Sequence[Found]) -> Iterator[list[tuple[Found, HookEvent]]]:
    """The same, no more of it in memory than needs to be."""
    batch: list[tuple[Found, HookEvent]] = []
    size = 0
    for file in files:
        if batch and (len(batch) == BATCH_FILES or size + file.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        event = _event(file)
        if event is not None:
            batch.append((file, event))
            size += file.size
    if batch:
        yield batch


def sweep(folder: Path, *, now: float, age: float = LITTER_AGE) -> list[str]:
    """Remove what hooks left half-written long ago, and whatever else is no event. The names of what went."""
    swept = []
    for entry in _entries(folder):
        if _NAME.fullmatch(entry.name):
            continue
        try:
            told = entry.stat(follow_symlinks=False)
            if now - told.st_mtime > age and not stat.S_ISDIR(told.st_mode):
                (folder / entry.name).unlink()
                swept.append(entry.name)
        except FileNotFoundError:
            continue  # it was renamed or removed just now
    return swept


def parse(content: bytes) -> dict[str, Any]:
    """A hook's JSON object; anything else under `raw` (as text) or `raw_base64` (where it is none)."""
    try:
        value = json.loads(content, parse_constant=str)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    if b"\0" in content:
        return {"raw_base64": base64.b64encode(content).decode()}
    return {"raw": content.decode(errors="backslashreplace")}


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _in_order(events: list[Found]) -> list[Found]:
    """By the clock, and within its tick by process number; numbers that began again from below come last."""
    highest: dict[float, int] = {}
    for event in events:
        highest[event.clock] = max(highest.get(event.clock, 0), event.hook)

    def place(event: Found) -> tuple[float, int, str]:
        began_again = highest[event.clock] - event.hook > _PIDS_IN_A_TICK
        return event.clock, event.hook + _PIDS * began_again, event.path.name

    return sorted(events, key=place)


def _event(file: Found) -> HookEvent | None:
    """The file as an event; `None` where it has gone or cannot be read."""
    try:
        with os.fdopen(os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as opened:
            content = opened.read()
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            log.error("an event stays in the spool: %s", error)
        return None
    return _as_event(file, content)


def _as_event(file: Found, content: bytes) -> HookEvent:
    payload = parse(content)
    return HookEvent(
        key=f"{file.path.parent.name}/{file.path.name}",
        agent=file.path.parent.name,
        name=_name(file.kind, payload),
        at=file.at,
        generation=file.generation,
        pid=file.pid,
        payload=payload,
    )


def _name(kind: str | None, payload: Mapping[str, Any]) -> str:
    """What the caller of `fleet hook-event` said, or else the program itself."""
    said = kind or payload.get("hook_event_name")
    return said if isinstance(said, str) and _EVENT_NAME.fullmatch(said) else "Other"


# -- into the database ---------------------------------------------------------------------------------------------


class Store(Protocol):
    """Where events are kept (`events.Events`)."""

    async def keep(self, hooks: Sequence[HookEvent]) -> list[HookEvent]:
        """Commit them, those that are there already left as they are, and give them back as they may be shown."""
        ...


class Drain:
    """Empties the spool into the store."""

    def __init__(self, root: Path, store: Store) -> None:
        self._root, self._store = root, store
        self._busy: dict[str, asyncio.Lock] = {}
        self._empty: dict[str, int] = {}
        """Folders in which nothing lay, with when they were last changed at that time."""

    async def drain(self, agent: str | None = None) -> list[HookEvent]:
        """Store what lies in an agent's folder (or in all), then delete it. The events, redacted, in order.

        Everything that is returned is committed; an event of a daemon that was killed in between is returned again.
        Where the store refuses (a full disk), the files stay for the next time.
        """
        names = [agent] if agent is not None else await asyncio.to_thread(self._waiting)
        drained = []
        for name in names:
            async with self._busy.setdefault(name, asyncio.Lock()):
                drained += await self._drain_folder(self._root / name)
        return drained

    async def sweep(self) -> None:
        """Remove the litter of hooks that were killed."""
        for name in await asyncio.to_thread(self._folders):
            swept = await asyncio.to_thread(sweep, self._root / name, now=time.time())
            if swept:
                log.warning("%s: %d hooks were cut off while they wrote: %s", name, len(swept), ", ".join(swept[:5]))

    def _waiting(self) -> list[str]:
        """The agents for whom something may lie here. It is asked every few seconds, so a folder that has not been
        changed since it was found empty is not read again."""
        names, empty, now = [], {}, time.time_ns()
        for name in self._folders():
            folder = f"{self._root}/{name}"  # hundreds of them: paths as objects would double the price
            try:
                changed = os.stat(folder).st_mtime_ns  # noqa: PTH116
            except FileNotFoundError:
                continue
            if self._empty.get(name) == changed:
                empty[name] = changed
            elif any(_NAME.fullmatch(entry.name) for entry in _entries(Path(folder))):
                names.append(name)
            elif now - changed > CLOCK_GRAIN:
                empty[name] = changed
        self._empty = empty
        return names

    def _folders(self) -> list[str]:
        return sorted(entry.name for entry in _entries(self._root) if entry.is_dir(follow_symlinks=False))

    async def _drain_folder(self, folder: Path) -> list[HookEvent]:
        drained: list[HookEvent] = []
        waiting = batches(await asyncio.to_thread(found, folder))
        while batch := await asyncio.to_thread(next, waiting, None):
            try:
                drained += await self._store.keep([event for _, event in batch])
            except StorageError as error:
                log.error("%d events stay in %s: %s", len(batch), folder, error)
                break
            await asyncio.to_thread(_delete, [file.path for file, _ in batch])
        return drained


def _delete(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.error("a stored event stays in the spool, and will be told again: %s", error)
