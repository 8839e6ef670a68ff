"""Files that go with messages: given to the hub, and fetched from it."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fleet import hubcall
from fleet.cli import talk
from fleet.errors import Usage

TIMEOUT = 300.0
"""Seconds for one file."""

option = click.option("--attach", multiple=True, metavar="FILE", help="A file that goes with it; may be given again.")


def found(names: Sequence[str]) -> list[Path]:
    """The files by these names. Raise `Usage` for one that cannot be sent."""
    files = [Path(name).expanduser() for name in names]
    for file in files:
        if not file.is_file() or not os.access(file, os.R_OK):
            raise Usage(f"{file} is not a file that can be read.")
    return files


def give(where: talk.Where, files: Sequence[Path], *, dry_run: bool = False) -> dict[str, Any]:
    """Give them to the hub: the part of a message that speaks of them. A dry run only says what it would be."""
    if not files:
        return {}
    return {"attachments": planned(files) if dry_run else [give_one(where, file) for file in files]}


def give_one(where: talk.Where, file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            media = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            said = hubcall.upload(where.door, stream, file.name, size, media=media, timeout=TIMEOUT)
            given: dict[str, Any] = said.json()
    except OSError as error:
        raise Usage(f"{file} cannot be read: {error.strerror}.") from error
    return given


def planned(files: Sequence[Path]) -> list[dict[str, Any]]:
    """What would be given."""
    return [{"name": file.name, "size": file.stat().st_size} for file in files]
