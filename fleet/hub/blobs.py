"""Attachments: files kept by the sum of their bytes.

- A file is written as it comes, to a part of its own, and takes its place by rename once it is on the disk: it is
  whole or not there. The same bytes are kept once, whatever they are called.
- Nothing from outside becomes a path: a sum is 64 hexadecimal digits, a name only ever a label. No link is followed.
- Too much is refused where it becomes too much. The type is what the bytes show, where they show one; what a browser
  would run is handed out as a download, never as a page (`served`).
"""

from __future__ import annotations

import asyncio
import binascii
import errno
import hashlib
import io
import mimetypes
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection
from pathlib import Path
from typing import IO
from urllib.parse import quote

from fleet.errors import StorageError, StorageFull
from fleet.hub.message import Attachment, Code, Limits, Refusal
from fleet.hub.submission import check_file_name

CHUNK = 256 * 1024
"""Bytes that are handed to the disk at once."""

BEGINNING = 16
"""Bytes that are looked at for the type."""

KEEP_FREE = 64 * 1024 * 1024
"""Bytes of the disk that no attachment takes: the log needs them more."""

DEFAULT_TYPE = "application/octet-stream"

SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x7fELF", "application/x-executable"),
    (b"MZ", "application/x-executable"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
)
"""How files of a kind begin."""

SHOWN = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "text/plain"})
"""What a browser may show in its place: nothing of it runs."""

CONTAINERS = frozenset({"application/zip"})
"""Kinds that many others are made of: the sender's word is finer than what the bytes show."""

_SUM = re.compile(r"[0-9a-f]{64}")
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}")


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


class Blobs:
    """The folder of attachments, 0700, its files 0600."""

    def __init__(self, folder: Path, limits: Limits, *, free: Callable[[Path], int] = _free) -> None:
        self._folder = folder
        self._limits = limits
        self._free = free

    def prepare(self) -> None:
        """Make the folder, and take away what a killed hub had begun."""
        self._parts.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in self._parts.iterdir():
            part.unlink(missing_ok=True)

    async def put(self, name: object, content_type: str | None, chunks: AsyncIterable[bytes]) -> Attachment | Refusal:
        """Keep a file as it comes in, under the name and type that its sender gives it, or say why not. Without a type
        its name says.

        Raise `StorageFull` or `StorageError` where the disk cannot take it. Whatever happens, and whoever is
        cancelled, no part stays behind.
        """
        checked = check_file_name(name)
        if isinstance(checked, Refusal):
            return checked
        declared = media_type(content_type or mimetypes.guess_type(checked)[0])
        if declared is None:
            return Refusal(Code.BAD_VALUE, f"{ascii(content_type)[:80]} is not a media type.", facts={"field": "type"})
        try:
            return await self._put(checked, declared, chunks)
        except OSError as error:
            raise _translated(error) from error

    async def put_base64(self, name: object, content_type: str | None, text: object) -> Attachment | Refusal:
        """The same for a file that comes as base64 within JSON."""
        if not isinstance(text, str):
            return Refusal(Code.WRONG_TYPE, "The file's content is a string of base64.", facts={"field": "content"})
        if len(text) > (self._limits.attachment + 2) // 3 * 4:
            return _too_large(self._limits.attachment)
        try:
            content = await asyncio.to_thread(binascii.a2b_base64, text, strict_mode=True)
        except ValueError:
            return Refusal(Code.BAD_VALUE, "The file's content is not base64.", facts={"field": "content"})
        return await self.put(name, content_type, _in_chunks(content))

    async def _put(self, name: str, declared: str, chunks: AsyncIterable[bytes]) -> Attachment | Refusal:
        if self._free(self._folder) < KEEP_FREE + self._limits.attachment:
            raise StorageFull("There is too little space left for attachments.", hint="Free some space.")
        descriptor, path = tempfile.mkstemp(dir=self._parts)  # 0600
        part = Path(path)
        try:
            with os.fdopen(descriptor, "wb") as out:
                incoming = _Incoming(out)
                async for chunk in chunks:
                    if incoming.size + len(chunk) > self._limits.attachment:
                        return _too_large(self._limits.attachment)
                    await incoming.take(chunk)
                await incoming.finish()
            sha256 = incoming.sum.hexdigest()
            await asyncio.to_thread(self._settle, part, self._path(sha256))
            return Attachment(sha256, name, incoming.size, seen_type(incoming.begins, declared))
        finally:
            part.unlink(missing_ok=True)

    def _settle(self, part: Path, place: Path) -> None:
        place.parent.mkdir(exist_ok=True, mode=0o700)
        part.rename(place)  # over the same bytes, if they are there: then they are as new, and no sweep takes them
        opened = os.open(place.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)

    def open(self, sha256: str) -> io.BufferedReader:
        """The file with that sum, to read. Raise `FileNotFoundError`, also for what is no sum."""
        path = self._path(sha256)
        return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")

    def size(self, sha256: str) -> int | None:
        """Its size; `None`: there is none. What a message refers to must be there, and be as large as it says."""
        try:
            with self.open(sha256) as file:
                return os.fstat(file.fileno()).st_size
        except OSError:
            return None

    def missing(self, attachments: Collection[Attachment]) -> Refusal | None:
        """Why a message with these attachments cannot be sent, if so."""
        for attachment in attachments:
            if self.size(attachment.sha256) != attachment.size:
                return not_uploaded(attachment)
        return None

    def sweep(self, spoken_of: Collection[str], before: float) -> int:
        """Take the files that were put before that time and that no message speaks of. How many."""
        gone = 0
        for file in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            if file.name not in spoken_of and file.lstat().st_mtime < before:
                file.unlink(missing_ok=True)
                gone += 1
        return gone

    @property
    def _parts(self) -> Path:
        return self._folder / "parts"

    def _path(self, sha256: str) -> Path:
        if not isinstance(sha256, str) or not _SUM.fullmatch(sha256):
            raise FileNotFoundError("not the sum of a file")
        return self._folder / sha256[:2] / sha256


class _Incoming:
    """A file on its way in: summed, counted, and written in pieces that are worth a thread's while."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._waiting = bytearray()
        self.sum = hashlib.sha256()
        self.size = 0
        self.begins = b""

    async def take(self, chunk: bytes) -> None:
        if len(self.begins) < BEGINNING:
            self.begins += chunk[: BEGINNING - len(self.begins)]
        self.size += len(chunk)
        self._waiting += chunk
        if len(self._waiting) >= CHUNK:
            await self._write()

    async def finish(self) -> None:
        """All of it is on the disk then."""
        await self._write(last=True)

    async def _write(self, *, last: bool = False) -> None:
        waiting, self._waiting = bytes(self._waiting), bytearray()
        await asyncio.to_thread(self._to_the_disk, waiting, last)

    def _to_the_disk(self, piece: bytes, last: bool) -> None:
        self.sum.update(piece)
        self._out.write(piece)
        if last:
            self._out.flush()
            os.fsync(self._out.fileno())


async def _in_chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), CHUNK):
        yield content[start : start + CHUNK]


def media_type(declared: str | None) -> str | None:
    """A media type as it is kept, without its parameters; `None` where it is none."""
    if not declared:
        return DEFAULT_TYPE
    bare = declared.partition(";")[0].strip().lower()
    return bare if _TYPE.fullmatch(bare) else None


def seen_type(begins: bytes, declared: str) -> str:
    """What the file is: what its bytes show; else, what its sender says, unless that is a picture, which they would."""
    if begins[:4] == b"RIFF" and begins[8:12] == b"WEBP":
        return "image/webp"
    for signature, kind in SIGNATURES:
        if begins.startswith(signature):
            return declared if kind in CONTAINERS and declared.startswith("application/") else kind
    return DEFAULT_TYPE if declared in SHOWN - {"text/plain"} or declared in dict(SIGNATURES).values() else declared


def served(attachment: Attachment) -> dict[str, str]:
    """The headers with which an attachment is handed out: nothing of it runs in a page, whatever it holds."""
    shown = attachment.type in SHOWN
    name = quote(attachment.name, safe="")
    return {
        "Content-Type": f"{attachment.type}; charset=utf-8"
        if attachment.type == "text/plain"
        else attachment.type
        if shown
        else DEFAULT_TYPE,
        "Content-Disposition": f"{'inline' if shown else 'attachment'}; filename*=UTF-8''{name}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
    }


def not_uploaded(attachment: Attachment) -> Refusal:
    """Told alike of a file that is not there and of one that its sender may not have."""
    return Refusal(
        Code.BAD_VALUE,
        f"No file of {attachment.size} bytes with the sum {attachment.sha256[:12]}… was uploaded.",
        facts={"field": "attachments", "sha256": attachment.sha256},
    )


def _too_large(most: int) -> Refusal:
    return Refusal(Code.TOO_LARGE, f"A file is at most {most} bytes.", facts={"limit": most})


def _translated(error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull()
    return StorageError(f"The attachment could not be kept: {error}.")
