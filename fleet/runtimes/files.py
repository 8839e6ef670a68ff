"""Files on this machine, as a runtime puts and reads them. Everything here blocks; call it in a thread."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

from fleet.terms import File


def put(files: Iterable[File]) -> None:
    """Write files, each whole or not at all; missing folders are made, 0700. Two may write the same one at a time."""
    writer = f"{os.getpid()}-{threading.get_native_id()}"
    for file in files:
        path = Path(file.path)
        make_folder(path.parent)
        beside = path.with_name(f".{path.name[:200]}.{writer}.new")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(fd, "wb") as out:
                os.fchmod(out.fileno(), file.mode)
                out.write(file.content)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def make_folder(folder: Path) -> None:
    """The folder; it and each that has to be made above it are 0700."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def _without_waiting(path: str, flags: int) -> int:
    """Opening a pipe must not wait for whoever may one day write to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def read(path: str | Path, tail: int | None = None) -> bytes | None:
    """A file's content, or its last `tail` bytes; `None` where there is none. A pipe is refused, not waited for."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "is no plain file", str(path))
            if tail is None:
                return file.read()
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - tail))
            return file.read(tail)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def names(folder: str | Path) -> list[str]:
    """The names in a folder, sorted; none where there is no folder."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 (names are what is asked for)
    except (FileNotFoundError, NotADirectoryError):
        return []
