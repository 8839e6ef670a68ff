"""Secrets that the hub shows once: kept in a file that only its owner can read, or printed alone on stdout."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from fleet.cli import output
from fleet.errors import NotAllowed, Usage

MOST = 4096

option = click.option("--out", metavar="FILE", help="Write it into this new file, which only you can read.")


def keep(secret: str, file: str) -> Path:
    """Write it into a new file. Raise `NotAllowed` where there is one already."""
    path = Path(file).expanduser()
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as out:
            out.write(secret + "\n")
    except FileExistsError as error:
        raise NotAllowed(f"{path} is there already.", hint="Name a file that does not exist.") from error
    except OSError as error:
        raise NotAllowed(f"{path} cannot be written: {error.strerror}.") from error
    return path


def check(file: str | None) -> None:
    """Raise before the secret is made, where it could not be kept."""
    if file is None:
        return
    path = Path(file).expanduser()
    if path.exists() or path.is_symlink():
        raise NotAllowed(f"{path} is there already.", hint="Name a file that does not exist.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise NotAllowed(f"Nothing can be written into {path.parent}.")


def hand_over(made: dict[str, Any], key: str, file: str | None, about: str, as_json: bool) -> None:
    """Keep the secret that stands under `key`, or print it: alone on stdout, what is said about it on stderr."""
    if file is not None:
        path = keep(str(made[key]), file)
        made = {**{name: value for name, value in made.items() if name != key}, "file": str(path)}
    if as_json:
        output.envelope(made)
        return
    output.message(about)
    if file is None:
        output.result(str(made[key]))
    else:
        output.result(str(made["file"]))


def take(file: str) -> str:
    """A secret from a file, or from stdin (`-`): never from the command line, where everybody could read it."""
    if file == "-" and sys.stdin.isatty():
        output.message("paste it and press Enter")
    try:
        with click.open_file(file, "r", encoding="utf-8") as stream:
            secret: str = (stream.readline() if file == "-" else stream.read(MOST)).strip()
    except (OSError, ValueError) as error:
        raise Usage(f"{file} cannot be read.", hint="Put the secret into a file, or give it on stdin (`-`).") from error
    if not secret:
        raise Usage(f"There is nothing in {file}.")
    return secret
