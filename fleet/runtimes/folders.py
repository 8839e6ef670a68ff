"""Watching folders: the kernel tells on Linux (one inotify for all of them), elsewhere they are listed again, as is
here what the kernel will not watch: it has so many watches for a user, and others may have taken them.

A watch survives its folder: one that is not there yet, or is removed and made again, is picked up, and what it
then holds is told like any change. When the kernel had to drop events, everything is told once more.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.clock import Clock
from fleet.runtimes import files

if sys.platform == "linux":
    import asyncinotify

if TYPE_CHECKING:
    from asyncinotify import Event, Inotify, Watch

log = logging.getLogger(__name__)

NET = 1.0
"""Seconds between two listings of a folder that the kernel does not watch for us."""

OnChange = Callable[[str], None]


@dataclass(slots=True)
class _Folder:
    """One folder, and who wants to hear of it."""

    path: str
    hearers: list[OnChange] = field(default_factory=list)
    there: bool = False
    listed: dict[str, tuple[int, int]] | None = None
    """Where it is listed: names with their time and size."""

    def tell(self, name: str) -> None:
        for hearer in list(self.hearers):
            hearer(name)

    def tell_all(self) -> None:
        for name in files.names(self.path):
            self.tell(name)


class FolderWatch:
    """All watched folders."""

    def __init__(self, clock: Clock, *, kernel: bool = sys.platform == "linux") -> None:
        self._clock = clock
        self._kernel = kernel
        self._folders: dict[str, _Folder] = {}
        self._inotify: Inotify | None = None
        self._watches: dict[str, Watch] = {}
        """What the kernel watches, by path: wanted folders, and for missing ones the nearest folder above."""
        self._task: asyncio.Task[None] | None = None
        self._lister: asyncio.Task[None] | None = None

    def watch(self, path: str, on_change: OnChange) -> Callable[[], None]:
        """Call back with the name of each file that is written or renamed into the folder, or removed from it."""
        folder = self._folders.setdefault(path, _Folder(path))
        folder.hearers.append(on_change)
        if self._kernel:
            try:
                self._listen()
                self._attach(folder, tell=False)
            except OSError as error:
                self._list_instead(folder, error)
        else:
            self._list(folder)
        return lambda: self._unwatch(folder, on_change)

    def _unwatch(self, folder: _Folder, on_change: OnChange) -> None:
        if on_change in folder.hearers:
            folder.hearers.remove(on_change)
        if not folder.hearers and self._folders.get(folder.path) is folder:
            del self._folders[folder.path]
            self._drop_unneeded()

    async def close(self) -> None:
        self._folders.clear()
        tasks = [task for task in (self._task, self._lister) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = self._lister = None
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    # -- told by the kernel ----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._task is None:
            self._inotify = asyncinotify.Inotify()
            self._task = asyncio.get_running_loop().create_task(self._hear(self._inotify), name="fleet-folders")

    async def _hear(self, inotify: Inotify) -> None:
        async for event in inotify:
            try:
                self._heard(event)
            except Exception:  # one hearer's fault must not deafen the others
                log.exception("a watch on a folder failed")

    def _heard(self, event: Event) -> None:
        mask = asyncinotify.Mask
        if mask.Q_OVERFLOW in event.mask:
            for folder in list(self._folders.values()):
                folder.tell_all()
            return
        watch = event.watch
        if watch is None:
            return
        path = str(watch.path)
        if mask.IGNORED in event.mask or mask.DELETE_SELF in event.mask or mask.MOVE_SELF in event.mask:
            self._lost(path, watch)
            return
        heard_of = self._folders.get(path)
        named = event.mask & (mask.CLOSE_WRITE | mask.MOVED_TO | mask.MOVED_FROM | mask.DELETE)
        if heard_of is not None and event.name is not None and named:
            heard_of.tell(str(event.name))
        if mask.ISDIR in event.mask:
            self._attach_missing()

    def _lost(self, path: str, watch: Watch) -> None:
        """What was watched is gone, or is now called something else."""
        if self._watches.get(path) is watch:
            del self._watches[path]
            if watch.path is not None and self._inotify is not None:
                try:
                    self._inotify.rm_watch(watch)
                except OSError:
                    log.debug("%s was no longer watched", path)
        if path in self._folders:
            self._folders[path].there = False
        self._attach_missing()

    def _attach_missing(self) -> None:
        for folder in list(self._folders.values()):
            if not folder.there:
                try:
                    self._attach(folder, tell=True)
                except OSError as error:
                    self._list_instead(folder, error)
                    folder.tell_all()

    def _attach(self, folder: _Folder, *, tell: bool) -> None:
        """Watch the folder, or as long as it is not there the nearest one above it that is."""
        if folder.there or folder.listed is not None:
            return
        path = Path(folder.path)
        for _ in range(100):  # a folder may come or go while we look for it
            if self._add(str(path)):
                if str(path) == folder.path:
                    folder.there = True
                    self._drop_unneeded()
                    if tell:
                        folder.tell_all()
                    return
                below = next(p for p in (Path(folder.path), *Path(folder.path).parents) if p.parent == path)
                if not below.is_dir():
                    return
                path = below
            else:
                path = path.parent
        log.warning("%s cannot be watched", folder.path)

    def _add(self, path: str) -> bool:
        if path in self._watches:
            return True
        assert self._inotify is not None
        mask = asyncinotify.Mask
        wanted = mask.CLOSE_WRITE | mask.MOVED_TO | mask.MOVED_FROM | mask.DELETE | mask.CREATE
        wanted |= mask.DELETE_SELF | mask.MOVE_SELF | mask.ONLYDIR
        try:
            self._watches[path] = self._inotify.add_watch(path, wanted)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _drop_unneeded(self) -> None:
        """Stop watching folders above, once nothing below them is missing."""
        if self._inotify is None:
            return
        missing = [folder.path for folder in self._folders.values() if not folder.there and folder.listed is None]
        for path, watch in list(self._watches.items()):
            wanted = path in self._folders or any(m.startswith(path.rstrip("/") + "/") for m in missing)
            if not wanted:
                del self._watches[path]
                try:
                    self._inotify.rm_watch(watch)
                except OSError:
                    log.debug("%s was no longer watched", path)

    # -- listed again ----------------------------------------------------------------------------------------------

    def _list_instead(self, folder: _Folder, error: OSError) -> None:
        """The kernel will not watch it. (ENOSPC here means no watches, not no space.)"""
        log.warning(
            "the kernel does not watch %s (%s; fs.inotify.max_user_watches and max_user_instances say how much it"
            " does): it is listed every second", folder.path, error.strerror,
        )  # fmt: skip
        self._list(folder)

    def _list(self, folder: _Folder) -> None:
        """From now on see for ourselves what changes in it."""
        if folder.listed is None:
            folder.listed = _stamps(folder.path)
        if self._lister is None:
            self._lister = asyncio.get_running_loop().create_task(self._list_again(), name="fleet-folders-listed")

    async def _list_again(self) -> None:
        while True:
            await self._clock.sleep(NET)
            for folder in [folder for folder in self._folders.values() if folder.listed is not None]:
                now = await asyncio.to_thread(_stamps, folder.path)
                before, folder.listed = folder.listed or {}, now
                for name in sorted(now.keys() | before.keys()):
                    if now.get(name) != before.get(name):
                        folder.tell(name)


def _stamps(path: str) -> dict[str, tuple[int, int]]:
    stamps = {}
    for name in files.names(path):
        try:
            stat = (Path(path) / name).stat()
        except OSError:
            continue
        stamps[name] = (stat.st_mtime_ns, stat.st_size)
    return stamps
