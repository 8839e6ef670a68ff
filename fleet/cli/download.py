"""`fleet download`: fetch files from the hub."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from fleet import hubcall
from fleet.cli import attachments, conversation, output, reads, talk
from fleet.errors import FleetError, NotAllowed, Usage

SUM = re.compile(r"[0-9a-f]{64}")


@click.command()
@click.argument("what", metavar="SHA256|ID")
@click.option("-o", "--output", "target", metavar="FILE|FOLDER", help="Where to; `-` is stdout.")
@click.option("--force", is_flag=True, help="Write over what is there.")
@talk.dry_run
@talk.as_json
@talk.on_hub
def download(where: talk.Where, what: str, target: str | None, force: bool, dry_run: bool, as_json: bool) -> int:
    """Download a file by its sum, or the files of a message by its ID.

    What a message's sender named a file is only its name: it is written into the current folder, or the one that is
    named, and never over anything that is there.
    """
    wanted = _wanted(where, what)
    if target == "-":
        return _to_stdout(where, wanted, as_json)
    places = _places(wanted, target)
    if not dry_run:
        for file, place in zip(wanted, places, strict=True):
            fetch(where, file["sha256"], place, force)
    done = [{**file, "path": str(place)} for file, place in zip(wanted, places, strict=True)]
    if as_json:
        output.envelope({"files": done, **({"dry_run": True} if dry_run else {})})
    else:
        for file in done:
            output.result(str(file["path"]))
    return 0


def _wanted(where: talk.Where, what: str) -> list[dict[str, Any]]:
    """The files that are meant: one by its sum, or those of a message."""
    if SUM.fullmatch(what.lower()):
        return [{"sha256": what.lower(), "name": what.lower()[:16]}]
    look = hubcall.path("messages", what)
    message = hubcall.request(where.door, "GET", look, timeout=reads.request_timeout()).json()
    found: list[dict[str, Any]] = message.get("attachments") or []
    if not found:
        raise Usage(f"{what} has no attachments.")
    return found


def _places(wanted: list[dict[str, Any]], target: str | None) -> list[Path]:
    """Where each goes."""
    folder = Path(target).expanduser() if target else Path()
    if target and len(wanted) == 1 and not folder.is_dir():
        return [folder]
    if not folder.is_dir():
        raise Usage(f"{folder} is not a folder.", hint="Several files go into a folder.")
    names = [str(file["name"]).lstrip(".") or "file" for file in wanted]
    if any("/" in name or "\0" in name for name in names):
        raise NotAllowed("A file's name leads to another folder.", hint="Name a file with -o.")
    return [folder / (name if names.index(name) == i else f"{i + 1}-{name}") for i, name in enumerate(names)]


def fetch(where: talk.Where, sha256: str, place: Path, force: bool) -> None:
    """Write the file there, whole or not at all."""
    if place.is_symlink() or (place.exists() and not force):
        raise NotAllowed(f"{place} is there already.", hint="`--force` writes over it, `-o FILE` names another place.")
    part = place.with_name(f".{place.name[:200]}.{os.getpid()}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb") as out:
            hubcall.download(where.door, hubcall.path("files", sha256), out, timeout=attachments.TIMEOUT)
        _check(part, sha256)
        part.rename(place)
    except OSError as error:
        raise FleetError(f"{place} cannot be written: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)


def _check(file: Path, sha256: str) -> None:
    with file.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
            raise FleetError("What came is not the file: its sum is another.", hint="Try again.")


def _to_stdout(where: talk.Where, wanted: list[dict[str, Any]], as_json: bool) -> int:
    if as_json or len(wanted) != 1:
        raise Usage("One file can go to stdout, and nothing beside it.", hint="Name it by its sum, without `--json`.")
    if sys.stdout.isatty():
        raise Usage(f"The file ({conversation.size(wanted[0].get('size'))}) is not for a terminal.", hint="-o FILE")
    sys.stdout.flush()
    hubcall.download(
        where.door, hubcall.path("files", wanted[0]["sha256"]), sys.stdout.buffer, timeout=attachments.TIMEOUT
    )
    return 0
