"""`fleet hooks`: put fleet's hooks into the settings of sessions that are started by hand, and take them out again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import click

from fleet.cli import call, output, ownfile
from fleet.errors import NotAllowed, Usage
from fleet.harnesses import claude_events, claude_hooks
from fleet.settings import Places

ANSWERS_WITHIN = 15.0
"""Seconds the program has to say its version."""
HOOK_TIMEOUT = 10

Command = Callable[..., Any]


@click.group()
def hooks() -> None:
    """Install or remove hooks for sessions of Claude Code that are started by hand.

    The agents that fleet launches need none of this: theirs come with the launch, and an installed hook stands aside
    in them.
    """


def _which_file(command: Command) -> Command:
    for option in (
        click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing."),
        click.option("--project", is_flag=True, help="The settings of this folder: .claude/settings.json."),
        click.option("--user", is_flag=True, help="Your own settings (where nothing is said)."),
        click.option("--settings", metavar="FILE", type=click.Path(path_type=Path), help="This settings file."),
        call.as_json,
    ):
        command = option(command)
    return command


@hooks.command()
@_which_file
@click.option("--program", metavar="PATH", default="claude", show_default=True, help="Whose version is asked.")
def install(settings: Path | None, user: bool, project: bool, dry_run: bool, as_json: bool, program: str) -> int:
    """Add fleet's hooks beside the ones that are there. Done twice, it changes nothing more."""
    places = Places.of()
    script = _script(places)
    version = _version(program)
    file = _File.read(_path(settings, user, project))
    entries = dict.fromkeys(claude_events.heard(version), _entry(script, places.spool, version))
    changed = file.changed(lambda text: claude_hooks.with_hooks(text, str(script), entries))
    if not dry_run:
        _put_script(script)
        places.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        changed.write()
    warned = []
    if version is None:
        warned.append(f"`{program} --version` told nothing: only the events that every version knows are asked for")
    if re.search(r'"disableAllHooks"\s*:\s*true', changed.text):
        warned.append(f"{changed.path} says disableAllHooks: no hook runs until it does not")
    return _tell(changed, script, "installed", warned, dry_run=dry_run, as_json=as_json)


@hooks.command()
@_which_file
def uninstall(settings: Path | None, user: bool, project: bool, dry_run: bool, as_json: bool) -> int:
    """Remove exactly the hooks that `fleet hooks install` added."""
    script = _script(Places.of())
    file = _File.read(_path(settings, user, project))
    changed = file.changed(lambda text: claude_hooks.without(text, str(script)))
    if not dry_run:
        changed.write()
    return _tell(changed, script, "removed", [], dry_run=dry_run, as_json=as_json)


def _tell(file: _File, script: Path, done: str, warned: list[str], *, dry_run: bool, as_json: bool) -> int:
    before = claude_hooks.events_of(file.before, str(script))
    after = claude_hooks.events_of(file.text, str(script))
    if as_json:
        data = {
            "settings": str(file.path),
            "changed": file.text != file.before,
            "dry_run": dry_run,
            "events": list(after),
            "added": [event for event in after if event not in before],
            "removed": [event for event in before if event not in after],
        }
        output.envelope(data, warned)
        return 0
    output.warnings(warned)
    if file.text == file.before:
        output.result(f"{file.path}: nothing to change")
    else:
        events = after if done == "installed" else before
        output.result(f"{file.path}: {'would be ' if dry_run else ''}{done}: {', '.join(events)}")
    return 0


# -- what is put in ------------------------------------------------------------------------------------------------


def _entry(script: Path, spool: Path, version: str | None) -> dict[str, Any]:
    if claude_events.takes_args(version):
        command: dict[str, Any] = {"command": str(script), "args": ["--by-hand", str(spool)]}
    else:
        command = {"command": claude_events.shell_line([str(script), "--by-hand", str(spool)])}
    return {"type": "command", **command, "timeout": HOOK_TIMEOUT}


def _script(places: Places) -> Path:
    """A copy of the hook in fleet's own state: a package that is updated or removed must not break a session."""
    return places.state / "hook.sh"


def _put_script(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    ownfile.replace(path, resources.files("fleet.harnesses").joinpath("hook.sh").read_bytes(), 0o700)


def _version(program: str) -> str | None:
    found = shutil.which(program)
    if found is None:
        return None
    try:
        told = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=ANSWERS_WITHIN, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    number = re.match(r"\s*v?(\d+\.\d+\.\d+)", told)
    return number[1] if number else None


# -- the file ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    """A settings file: as it was read, and as it shall be."""

    path: Path
    content: bytes | None
    """`None` where there is none yet."""
    before: str
    text: str

    @classmethod
    def read(cls, path: Path) -> _File:
        """Raise `NotAllowed` where it cannot be read as text: then it is not written either."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return cls(path, None, "", "")
        except OSError as error:
            raise NotAllowed(f"{path} could not be read ({error.strerror}); nothing was changed.") from error
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise NotAllowed(f"{path} is not UTF-8 text; nothing was changed.") from error
        return cls(path, content, text, text)

    def changed(self, change: Callable[[str], str]) -> _File:
        try:
            return _File(self.path, self.content, self.before, change(self.before))
        except NotAllowed as error:
            raise NotAllowed(
                f"{self.path}: {error} Nothing was changed.", hint="Mend the file by hand, then try again."
            ) from error

    def write(self) -> None:
        """Whole or not at all, with the mode it had; not where somebody else wrote it meanwhile."""
        if self.text == self.before:
            return
        path = self.path.resolve()  # where it is a link, the file it means
        path.parent.mkdir(parents=True, exist_ok=True)
        now = path.read_bytes() if path.exists() else None
        if now != self.content:
            raise NotAllowed(f"{self.path} was changed meanwhile by somebody else.", hint="Try again.")
        ownfile.replace(path, self.text.encode(), ownfile.mode_of(path, 0o600))


def _path(settings: Path | None, user: bool, project: bool) -> Path:
    if (settings is not None) + user + project > 1:
        raise Usage("--settings, --user and --project name three different files.", hint="Give one of them.")
    if settings is not None:
        return settings.expanduser().absolute()
    if project:
        return Path.cwd() / ".claude" / "settings.json"
    folder = os.environ.get("CLAUDE_CONFIG_DIR")
    return (Path(folder) if folder else Path("~/.claude").expanduser()) / "settings.json"
