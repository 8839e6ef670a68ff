"""`fleet hub`: where the hub is, and what keeps its log safe."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import click

from fleet import hubcall
from fleet.cli import attachments, hubreads, output, talk
from fleet.errors import FleetError, NoDaemon, NotAllowed, Usage
from fleet.settings import Places


@click.group()
def hub() -> None:
    """Say where the hub is; copy, check and export its log."""


@hub.command()
@talk.as_json
@talk.on_hub
def info(where: talk.Where, as_json: bool) -> int:
    """Show the hub's addresses, and how far its log has come."""
    return talk.read(where, hubreads.ask("hub info"), _info, as_json=as_json)


def _info(data: dict[str, Any]) -> None:
    output.facts(
        [
            ("url", data.get("url")),
            ("socket", data.get("socket")),
            ("orochi", ", ".join(str(data[key]) for key in ("orochi_ws", "orochi_http") if data.get(key))),
            ("position", f"{data.get('epoch')}:{data.get('seq')}"),
            ("version", data.get("version")),
            ("problems", "\n".join(map(str, data.get("problems") or ()))),
        ]
    )


# -- copies --------------------------------------------------------------------------------------------------------


def _log() -> Path:
    """The log of this fleet's own hub."""
    from fleet.config import load_settings
    from fleet.db import place

    places = Places.of()
    path = place(places.state / "hub", load_settings(places).database_folder) / "hub.db"
    if not path.exists():
        raise Usage(f"There is no log at {path}.", hint="It is made when the daemon first starts its hub.")
    return path


def files_beside(log: Path) -> Path:
    """Where the files are that the messages of a log speak of: beside the hub's own, or beside a copy."""
    return log.parent / "blobs" if log.name == "hub.db" else log.with_name(log.name + ".files")


@hub.command()
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--no-files", is_flag=True, help="Leave out the files that were sent.")
@talk.dry_run
@talk.as_json
def backup(target: Path, no_files: bool, dry_run: bool, as_json: bool) -> int:
    """Copy the log into a new FILE, and the files that were sent into FILE.files beside it.

    The hub may go on meanwhile, or be down. To go back to a copy: stop the daemon, put FILE in the place of `hub.db`
    and FILE.files in that of `blobs`, in the `hub` folder of the state; readers are told that it is another log.
    """
    from fleet.hub import log

    source, target = _log(), target.expanduser().absolute()
    files, copies = files_beside(source), target.with_name(target.name + ".files")
    if target.exists() or copies.exists():
        raise NotAllowed(f"{target} is there already.", hint="Name a file that does not exist.")
    if not target.parent.is_dir():
        raise Usage(f"There is no folder {target.parent}.")
    count = 0
    if not dry_run:
        log.back_up(source, target)
        count = 0 if no_files else _copy_files(files, copies)
    data = {"file": str(target), "files": count, "bytes": target.stat().st_size if not dry_run else None}
    if as_json:
        output.envelope({**data, **({"dry_run": True} if dry_run else {})})
    elif dry_run:
        output.message(f"would copy {source} to {target}")
    else:
        output.result(str(target))
        output.message(f"copied, with {count} file(s); `fleet hub verify {target}` checks it")
    return 0


def _copy_files(source: Path, target: Path) -> int:
    """Every stored file. They never change, so that a link is as good as a copy where one can be made."""
    count = 0
    for file, _ in _stored(source):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.link(file, copy)
        except FileNotFoundError:
            continue  # retention has just taken it
        except OSError:
            shutil.copy2(file, copy)
        count += 1
    return count


def _stored(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files in a store, each with the sum that it bears as its name."""
    for file in sorted(folder.rglob("*")):
        name = file.name if len(file.name) == 64 else file.parent.name + file.name
        if len(name) == 64 and set(name) <= set("0123456789abcdef") and file.is_file():
            yield file, name


@hub.command()
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@talk.as_json
def verify(file: Path | None, as_json: bool) -> int:
    """Check the log, or a copy of it: that nothing in it was changed, lost or damaged. Exit 1: something was."""
    from fleet.hub import log

    path = _log() if file is None else file.expanduser()
    if not path.is_file():
        raise Usage(f"There is no file {path}.")
    found = log.verify(path)
    damaged = [
        f"file {sha256}: it is not what was stored" for f, sha256 in _stored(files_beside(path)) if _sum(f) != sha256
    ]
    problems = [*found.problems, *damaged]
    if as_json:
        output.envelope({"file": str(path), **asdict(found), "problems": problems, "ok": not problems})
    else:
        for problem in problems:
            output.result(problem)
        if not problems:
            output.result(f"{path}: {found.events} events up to {found.epoch}:{found.head}, all as they were stored")
    return 1 if problems else 0


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@hub.command()
@click.option("--after", type=talk.Place(), metavar="POSITION", help="Only what came after this position (EPOCH:SEQ).")
@click.option("-o", "--output", "target", metavar="FILE", type=click.Path(path_type=Path), help="Rather than stdout.")
@talk.as_json
@talk.on_hub
def export(where: talk.Where, after: str | None, target: Path | None, as_json: bool) -> int:
    """Write the log as lines of JSON: first what it is, then each event as it was stored, with its hash.

    It needs no daemon. With --after it is what came since: together with a copy from then, a backup of today.
    """
    if target is None:
        if as_json:
            raise Usage("The export is JSON already.", hint="Leave out `--json`, or write it into a file with -o.")
        sys.stdout.flush()
        _export(where, after, sys.stdout.buffer)
        return 0
    target = target.expanduser()
    try:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            try:
                size = _export(where, after, out)
            except BaseException:
                target.unlink(missing_ok=True)  # half of it is no export
                raise
    except FileExistsError as error:
        raise NotAllowed(f"{target} is there already.", hint="Name a file that does not exist.") from error
    except OSError as error:
        raise FleetError(f"{target} cannot be written: {error.strerror}.") from error
    with target.open() as lines:
        first = json.loads(lines.readline())
    if as_json:
        output.envelope({"file": str(target), "bytes": size, **first})
    else:
        output.result(str(target))
        output.message(f"up to {first.get('epoch')}:{first.get('head')}")
    return 0


def _export(where: talk.Where, after: str | None, out: IO[bytes]) -> int:
    try:
        size = hubcall.download(where.door, hubcall.path("export", after=after), out, timeout=attachments.TIMEOUT)
    except hubcall.WentAway:
        raise
    except NoDaemon:
        if where.is_elsewhere:
            raise
        size = _export_file(after, out)
    out.flush()
    return size


def _export_file(after: str | None, out: IO[bytes]) -> int:
    """The same from the file, where no hub is up."""
    from fleet.hub import message, projection

    size = 0
    for line in projection.export(_log(), message.Position.parse(after) if after else None):
        size += out.write(line.encode() + b"\n")
    return size
