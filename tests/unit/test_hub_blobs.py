"""Attachments: whole or not there, never outside their folder, never run by a browser."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os

import pytest

from fleet.errors import StorageError, StorageFull
from fleet.hub import blobs as blobs_module
from fleet.hub.blobs import Blobs, media_type, seen_type, served
from fleet.hub.message import Attachment, Code, Limits, Refusal

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture
def blobs(tmp_path):
    made = Blobs(tmp_path / "blobs", Limits(attachment=10_000))
    made.prepare()
    return made


async def pieces(content, size=7):
    for start in range(0, len(content), size):
        yield content[start : start + size]


def files(tmp_path):
    return sorted(p.relative_to(tmp_path / "blobs").as_posix() for p in (tmp_path / "blobs").rglob("*") if p.is_file())


async def put(blobs, content, name="notes.txt", kind="text/plain"):
    return await blobs.put(name, kind, pieces(content))


async def test_a_file_comes_back_as_it_went_in(blobs, tmp_path):
    content = os.urandom(9_999)
    kept = await put(blobs, content, "data.bin", "application/x-data")
    assert kept == Attachment(hashlib.sha256(content).hexdigest(), "data.bin", 9_999, "application/x-data")
    with blobs.open(kept.sha256) as file:
        assert file.read() == content
    assert blobs.size(kept.sha256) == 9_999
    [path] = files(tmp_path)
    assert path == f"{kept.sha256[:2]}/{kept.sha256}"
    assert (tmp_path / "blobs" / path).stat().st_mode & 0o777 == 0o600


async def test_the_same_bytes_are_kept_once_under_whatever_name(blobs, tmp_path):
    one, two = await asyncio.gather(put(blobs, b"same", "a.txt"), put(blobs, b"same", "b.txt"))
    assert (one.sha256, one.name, two.name) == (two.sha256, "a.txt", "b.txt")
    assert len(files(tmp_path)) == 1


async def test_an_empty_file_is_a_file(blobs):
    assert (await put(blobs, b"")).size == 0


async def test_too_much_is_refused_where_it_becomes_too_much(blobs, tmp_path):
    given = 0

    async def endless():
        nonlocal given
        while True:
            given += 1
            yield bytes(1000)

    refused = await blobs.put("big.bin", None, endless())
    assert isinstance(refused, Refusal)
    assert refused.code is Code.TOO_LARGE
    assert given == 11
    assert files(tmp_path) == []


async def test_exactly_the_limit_is_taken(blobs):
    assert (await put(blobs, bytes(10_000))).size == 10_000


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "..",
        ".",
        "",
        "a\0b",
        "a\nb",
        "x" * 300,
        "\u202egpj.exe",
        None,
        7,
        "\ud800",
    ],
)
async def test_a_name_that_could_lead_elsewhere_is_refused(blobs, tmp_path, name):
    assert isinstance(await put(blobs, b"x", name), Refusal)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "sha256", ["", "..", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 62 + "/.", "\0" * 64, None]
)
async def test_what_is_no_sum_is_no_file(blobs, sha256):
    with pytest.raises(FileNotFoundError):
        blobs.open(sha256)
    assert blobs.size(sha256) is None


async def test_a_link_in_the_place_of_a_file_is_not_followed(blobs, tmp_path):
    (tmp_path / "secret").write_text("secret")
    sha256 = "a" * 64
    (tmp_path / "blobs" / "aa").mkdir()
    (tmp_path / "blobs" / "aa" / sha256).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        blobs.open(sha256)
    assert blobs.size(sha256) is None


async def test_a_sender_that_breaks_off_leaves_nothing(blobs, tmp_path):
    async def broken():
        yield b"abc"
        raise ConnectionResetError

    with pytest.raises(StorageError):
        await blobs.put("a.txt", None, broken())
    assert files(tmp_path) == []


async def test_a_sender_that_is_cut_off_leaves_nothing(blobs, tmp_path):
    began = asyncio.Event()

    async def slow():
        yield b"abc"
        began.set()
        await asyncio.Event().wait()

    uploading = asyncio.create_task(blobs.put("a.txt", None, slow()))
    await began.wait()
    assert len(files(tmp_path)) == 1
    uploading.cancel()
    await asyncio.gather(uploading, return_exceptions=True)
    assert files(tmp_path) == []


async def test_what_a_killed_hub_had_begun_is_taken_away(blobs, tmp_path):
    (tmp_path / "blobs" / "parts" / "tmpx").write_bytes(b"half")
    kept = await put(blobs, b"whole")
    Blobs(tmp_path / "blobs", Limits()).prepare()
    assert files(tmp_path) == [f"{kept.sha256[:2]}/{kept.sha256}"]


async def test_a_disk_with_little_left_takes_no_attachment(tmp_path):
    blobs = Blobs(tmp_path / "blobs", Limits(), free=lambda folder: 1_000_000)
    blobs.prepare()
    with pytest.raises(StorageFull):
        await put(blobs, b"x")


async def test_a_disk_that_fills_up_is_told_by_name(blobs, tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blobs_module.os, "fsync", full)
    with pytest.raises(StorageFull):
        await put(blobs, b"x")
    assert files(tmp_path) == []


async def test_base64_is_the_same_file(blobs):
    content = os.urandom(5000)
    kept = await blobs.put_base64("a.bin", None, base64.b64encode(content).decode())
    assert kept == await put(blobs, content, "a.bin", None)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("not base64!", Code.BAD_VALUE),
        ("YQ", Code.BAD_VALUE),
        ("YQ==YQ==", Code.BAD_VALUE),
        ("ä", Code.BAD_VALUE),
        (None, Code.WRONG_TYPE),
        ("A" * 20_000, Code.TOO_LARGE),
    ],
)
async def test_what_is_not_base64_or_too_much_is_refused(blobs, text, code):
    assert (await blobs.put_base64("a.bin", None, text)).code is code


@pytest.mark.parametrize("kind", ["text", "text/html\r\nX: y", "a/b/c", "/", "<script>/x", "x" * 100 + "/y"])
async def test_what_is_no_media_type_is_refused(blobs, kind):
    assert (await put(blobs, b"x", "a", kind)).code is Code.BAD_VALUE


def test_a_type_is_kept_without_its_parameters():
    assert media_type("Text/Plain; charset=x") == "text/plain"
    assert media_type(None) == media_type("") == "application/octet-stream"


def test_the_type_is_what_the_bytes_show():
    assert seen_type(PNG, "text/html") == "image/png"
    assert seen_type(b"RIFF\x00\x00\x00\x00WEBPVP8 ", "x/y") == "image/webp"
    assert seen_type(b"\x7fELF\x02", "image/png") == "application/x-executable"
    assert seen_type(b"<script>", "image/png") == "application/octet-stream"
    assert seen_type(b"<script>", "application/pdf") == "application/octet-stream"
    assert seen_type(b"hello", "text/markdown") == "text/markdown"
    docx = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    assert seen_type(b"PK\x03\x04", docx) == docx
    assert seen_type(b"PK\x03\x04", "text/html") == "application/zip"


async def test_a_file_that_comes_without_a_type_has_the_one_of_its_name(blobs):
    assert (await put(blobs, b"hello", "notes.txt", None)).type == "text/plain"
    assert (await put(blobs, b"hello", "notes", None)).type == "application/octet-stream"


async def test_the_type_is_seen_also_where_the_bytes_come_one_by_one(blobs):
    assert (await blobs.put("a.png", "text/html", pieces(PNG, 1))).type == "image/png"


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "application/xhtml+xml", "text/javascript", "text/xml"])
def test_what_a_browser_would_run_is_a_download(kind):
    headers = served(Attachment("a" * 64, "x.html", 1, kind))
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"].startswith("attachment;")


def test_what_is_shown_cannot_be_taken_for_something_else_and_its_name_breaks_no_header():
    headers = served(Attachment("a" * 64, 'a"; x=ü\r\n.png', 1, "image/png"))
    assert headers["Content-Type"] == "image/png"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    assert headers["Content-Disposition"] == "inline; filename*=UTF-8''a%22%3B%20x%3D%C3%BC%0D%0A.png"


async def test_a_message_may_only_speak_of_what_was_uploaded(blobs):
    kept = await put(blobs, b"x")
    assert blobs.missing([kept]) is None
    for other in (Attachment(kept.sha256, "a", 2), Attachment("b" * 64, "a", 1)):
        refused = blobs.missing([kept, other])
        assert refused is not None
        assert refused.facts["sha256"] == other.sha256


async def test_what_no_message_speaks_of_goes_after_a_while(blobs, tmp_path):
    spoken, old, young = [await put(blobs, content) for content in (b"spoken of", b"old", b"young")]
    for one in (spoken, old):
        os.utime(tmp_path / "blobs" / one.sha256[:2] / one.sha256, (1000, 1000))
    assert blobs.sweep({spoken.sha256}, before=2000) == 1
    assert [blobs.size(one.sha256) is not None for one in (spoken, old, young)] == [True, False, True]
