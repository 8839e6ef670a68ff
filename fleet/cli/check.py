"""`fleet check`: is there what a manifest needs? Nothing is started, and nothing is written."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleet.cli import call, output
from fleet.errors import FleetError
from fleet.settings import Places

if TYPE_CHECKING:
    from fleet.manifests import AgentSpec, Command

OK, WARN, FAIL = "ok", "warn", "fail"
STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}

PROGRAMS = {
    "claude-code": "claude",
    "codex": "codex",
    "gemini-cli": "gemini",
    "opencode": "opencode",
    "aider": "aider",
    "cursor": "cursor-agent",
}
"""Each harness's program, where no `command` names it."""

SECRET_NAME = re.compile(r"(?i)(token|secret|passw(or)?d|api_?key|credentials?)$")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing an agent needs: how it is, and what to do about it."""

    agent: str
    name: str
    status: str
    message: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Here:
    """This machine, as an agent that is started now would find it."""

    environ: Mapping[str, str]
    places: Places

    def path(self, text: str, spec: AgentSpec) -> Path:
        """A path of the manifest: `~` is the home, a relative one starts from the manifest's folder."""
        if text == "~" or text.startswith("~/"):
            text = self.environ.get("HOME", "~") + text[1:]
        return Path(spec.folder, text)

    def workdir(self, spec: AgentSpec) -> Path:
        return self.path(spec.workdir, spec) if spec.workdir else self.places.workspace(spec.name)

    def program(self, word: str, spec: AgentSpec) -> str | None:
        """Where a program is found: on the agent's PATH, or by its path from the agent's folder."""
        if "/" in word:
            at = self.workdir(spec) / Path(word).expanduser()
            return str(at) if at.is_file() and os.access(at, os.X_OK) else None
        given = spec.env.get("PATH")
        return shutil.which(word, path=given if isinstance(given, str) else self.environ.get("PATH"))


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@call.as_json
def check(paths: tuple[str, ...], as_json: bool) -> int:
    """Check that what manifests need is there: program, folder, secrets, files, hooks, multiplexer.

    Nothing is started. Exits 1 where something is missing, 2 where a manifest is not valid.
    """
    from fleet import manifests

    loaded = manifests.agents_of([call.manifest(path) for path in paths])
    here = Here(os.environ, Places.of())
    names = {spec.name for spec in loaded.specs}
    findings = [found for spec in loaded.specs for found in examine(spec, here, names)]
    warned = [*map(str, loaded.warnings)]
    if as_json:
        output.envelope({"checks": [asdict(found) for found in findings]}, warned)
    else:
        output.warnings(warned)
        _show(findings)
    return 1 if any(found.status == FAIL for found in findings) else 0


def _show(findings: list[Finding]) -> None:
    rows: list[list[output.Cell]] = [
        [found.agent, found.name, (found.status, STYLES[found.status]), found.message] for found in findings
    ]
    output.table(("AGENT", "CHECK", "STATUS", "FOUND"), rows)
    for found in findings:
        if found.remedy and found.status != OK:
            output.message(f"{found.agent}: {found.name}: {found.remedy}")


def examine(spec: AgentSpec, here: Here, names: set[str]) -> Iterator[Finding]:
    """What an agent needs and whether it is there."""
    from fleet.manifests import cannot_yet, not_acting

    if why := cannot_yet(spec):
        yield Finding(spec.name, "start", FAIL, why)
    for key in not_acting(spec):
        yield Finding(spec.name, key, WARN, "stands in the manifest and does not act yet")
    for need in spec.depends_on:
        if need.agent not in names:
            yield Finding(
                spec.name,
                "depends_on",
                WARN,
                f"{need.agent} is not declared here",
                "Check its manifest along with this.",
            )
    yield from _secrets(spec, here)
    if spec.runtime == "ssh" and spec.remote is not None:
        yield from _there(spec, here)
        return
    if spec.runtime == "slurm" and spec.remote is not None:
        yield from _job_there(spec, here)
        return
    if spec.runtime == "slurm-tenant" and spec.remote is not None:
        yield from _booking_there(spec, here)
        return
    for part in {"slurm": (_job, _folder, _files), "slurm-tenant": (_booking, _folder, _files)}.get(
        spec.runtime, PARTS
    ):
        yield from part(spec, here)


def _there(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    """What is on an ssh host is asked there; what stands beside the manifest is looked at here."""
    from fleet.cli import check_there
    from fleet.config import load_settings

    if spec.prompt_file is not None and not os.access(here.path(spec.prompt_file, spec), os.R_OK):
        yield Finding(spec.name, "prompt_file", FAIL, f"{here.path(spec.prompt_file, spec)} cannot be read")
    program = spec.command[0] if spec.command else PROGRAMS[spec.harness]
    for told in check_there.examine(spec, program, load_settings(here.places)):
        yield Finding(spec.name, told.name, told.status, told.message, told.remedy)


# -- the parts ----------------------------------------------------------------------------------------------------


def _program(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    word = spec.command[0] if spec.command else PROGRAMS[spec.harness]
    if spec.container.runtime != "none":
        word = spec.container.runtime
    found = here.program(word, spec)
    if found:
        yield Finding(spec.name, "program", OK, found)
    else:
        yield Finding(spec.name, "program", FAIL, f"{word} is not found", "Install it, or name its path in command.")


def _folder(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    folder = here.workdir(spec)
    if spec.workdir is None:
        yield Finding(spec.name, "workdir", OK, f"{folder} (made at the first start)")
    elif not folder.is_dir():
        yield Finding(spec.name, "workdir", FAIL, f"{folder} is no folder", "Make it, or change workdir.")
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(spec.name, "workdir", FAIL, f"{folder} may not be written", "Change its mode or owner.")
    else:
        yield Finding(spec.name, "workdir", OK, str(folder))


def _venv(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    choices = (spec.venv,) if isinstance(spec.venv, str) else spec.venv or ()
    if not choices:
        return
    found = next((at for choice in choices if (at := here.path(choice, spec)).joinpath("bin").is_dir()), None)
    if found:
        yield Finding(spec.name, "venv", OK, str(found))
    else:
        yield Finding(
            spec.name, "venv", FAIL, f"none of {', '.join(choices)} is there", "python3 -m venv PATH makes one."
        )


def _secrets(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    from fleet.manifests import Secret

    for name, value in spec.env.items():
        if isinstance(value, Secret):
            yield _secret(spec, here, name, value)
        elif value and SECRET_NAME.search(name):
            yield Finding(
                spec.name, f"env.{name}", WARN, "stands in the manifest in the open", f"Write {{env: {name}}} instead."
            )


def _secret(spec: AgentSpec, here: Here, name: str, value: Any) -> Finding:
    where = f"env.{name}"
    if value.env is not None:
        if value.env in here.environ:
            return Finding(spec.name, where, OK, f"from the variable {value.env}")
        return Finding(
            spec.name,
            where,
            FAIL,
            f"the variable {value.env} is not set here",
            f"export {value.env}=… before the start.",
        )
    if value.file is not None:
        return _secret_file(spec, where, here.path(value.file, spec))
    if here.program(value.command[0], spec):
        return Finding(spec.name, where, OK, f"from the command {value.command[0]} (not run now)")
    return Finding(spec.name, where, FAIL, f"{value.command[0]} is not found", "Install it, or name its path.")


def _secret_file(spec: AgentSpec, where: str, path: Path) -> Finding:
    if not path.is_file() or not os.access(path, os.R_OK):
        return Finding(spec.name, where, FAIL, f"{path} cannot be read", "Make the file, readable by you alone.")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return Finding(spec.name, where, WARN, f"others may read {path}", f"chmod 600 {path}")
    return Finding(spec.name, where, OK, f"from {path}")


def _files(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    """The src_ files and `files`, filled in as a start would, and put nowhere."""
    from fleet.manifests import Secret
    from fleet.manifests.sources import targets, workspace_files

    if spec.prompt_file is not None and not os.access(here.path(spec.prompt_file, spec), os.R_OK):
        yield Finding(spec.name, "prompt_file", FAIL, f"{here.path(spec.prompt_file, spec)} cannot be read")
    wanted = targets(spec)
    if not wanted and not spec.skills.required:
        return
    given = {name: "" if isinstance(value, Secret) else value for name, value in spec.env.items()}

    async def content(path: str) -> bytes | None:
        at = Path(path)
        return at.read_bytes() if at.is_file() else None

    done = workspace_files(
        spec, str(here.workdir(spec)), environ={**here.environ, **given}, read=content, wrote=_written(spec, here)
    )
    try:
        _, _, warned = asyncio.run(done)
    except FleetError as e:
        yield Finding(spec.name, "files", FAIL, str(e), e.hint)
        return
    for warning in warned:
        yield Finding(spec.name, "skills", WARN, warning, f"Put it into {spec.folder}/skills.")
    if wanted:
        yield Finding(spec.name, "files", OK, ", ".join(wanted))


def _written(spec: AgentSpec, here: Here) -> dict[str, str]:
    """What stands in a workspace of the agent's own is fleet's; of a person's folder fleet has the record, not we."""
    from fleet.manifests.sources import fingerprint, targets

    if spec.workdir is not None:
        return {}
    at = {target: here.workdir(spec) / target for target in targets(spec)}
    return {target: fingerprint(path.read_bytes()) for target, path in at.items() if path.is_file()}


def _hooks(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    from fleet.manifests.model import Hooks

    named = [(f"hooks.{name}", command) for name in Hooks.model_fields for command in getattr(spec.hooks, name)]
    if spec.startup.probe is not None:
        named.append(("startup.probe", spec.startup.probe))
    for name, command in named:
        yield _runnable(spec, here, name, command)


def _runnable(spec: AgentSpec, here: Here, name: str, command: Command) -> Finding:
    word = command.words[0]
    if here.program(word, spec) is None:
        return Finding(spec.name, name, FAIL, f"{word} is not found", "Install it, or name its path.")
    if command.sh is not None:
        # -n reads the line and runs nothing.
        asked = subprocess.run(["sh", "-n", "-c", command.sh], capture_output=True, text=True, timeout=10, check=False)
        if asked.returncode:
            return Finding(spec.name, name, FAIL, f"sh cannot read the line: {asked.stderr.strip()}")
    return Finding(spec.name, name, OK, " ".join(command.argv) or str(command.sh))


def _mcp_servers(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    for name, server in spec.mcp_servers.items():
        if server.command and here.program(server.command, spec) is None:
            yield Finding(
                spec.name,
                f"mcp_servers.{name}",
                WARN,
                f"{server.command} is not found",
                "Install it, or name its path.",
            )


def _multiplexer(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    if spec.mode == "headless":
        return
    found = shutil.which(spec.multiplexer, path=here.environ.get("PATH"))
    if found:
        yield Finding(spec.name, "multiplexer", OK, found)
    else:
        yield Finding(
            spec.name,
            "multiplexer",
            FAIL,
            f"{spec.multiplexer} is not found",
            f"sudo apt-get install {spec.multiplexer}",
        )


def _job(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    """The controller says whether it would take the job: partition, account and limits. Nothing is submitted."""
    from fleet.cli import check_cluster, render
    from fleet.config import load_settings

    if shutil.which("sbatch", path=here.environ.get("PATH")) is None:
        yield Finding(spec.name, "job", FAIL, "sbatch is not found", "Run fleet where jobs are submitted.")
        return
    settings = load_settings(here.places)
    try:
        ran = render.tested(render.rendered(spec, settings, here.places, render.here()))
    except subprocess.TimeoutExpired:
        yield Finding(spec.name, "job", WARN, "SLURM's controller does not answer")
        return
    told = check_cluster.finding("here", ran, spec.slurm)
    yield Finding(spec.name, told.name, told.status, told.message, told.remedy)


def _job_there(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    from fleet.cli import check_cluster
    from fleet.config import load_settings

    for told in check_cluster.examine(spec, load_settings(here.places), here.places):
        yield Finding(spec.name, told.name, told.status, told.message, told.remedy)


def _booking(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    from fleet.cli.slurm import with_bookings

    name = str(spec.slurm.reservation if spec.slurm is not None else None)
    remedy = f"`fleet slurm book {name} …` books it."
    if not (here.places.state / "bookings" / name / "wanted").exists():
        yield Finding(spec.name, "booking", FAIL, f"{name} is not booked", remedy)
        return
    try:
        told = with_bookings(lambda bookings: bookings.one(name))
    except FleetError as error:
        yield Finding(spec.name, "booking", WARN, f"{name} is booked; {error}", error.hint)
        return
    stands = f"{name} is booked: {told['state']}"
    yield (
        Finding(spec.name, "booking", OK, stands)
        if told["job"]
        else Finding(spec.name, "booking", FAIL, stands, remedy)
    )


def _booking_there(spec: AgentSpec, here: Here) -> Iterator[Finding]:
    from fleet.cli import check_cluster
    from fleet.config import load_settings

    for told in check_cluster.booked(spec, load_settings(here.places), here.places):
        yield Finding(spec.name, told.name, told.status, told.message, told.remedy)


PARTS: tuple[Callable[[AgentSpec, Here], Iterator[Finding]], ...] = (
    _program,
    _multiplexer,
    _folder,
    _venv,
    _files,
    _hooks,
    _mcp_servers,
)
