"""`fleet render`: the batch script of an agent's SLURM job, and the commands that would run."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleet import client
from fleet.cli import call, output, reads
from fleet.errors import FleetError, Usage
from fleet.settings import Places, Settings

if TYPE_CHECKING:
    from fleet.terms import Ran

TEST_WITHIN = 20.0
"""Seconds for the controller's word."""


@click.command()
@click.argument("path", metavar="NAME|FILE", shell_complete=call.complete_agents)
@call.as_json
def render(path: str, as_json: bool) -> int:
    """Print the batch script of an agent with `slurm:`, and the commands that would run; nothing is submitted.

    Of an agent that runs or waits in a job, by its NAME: the script of that job. The environment, the program and its
    arguments stand in files of their own beside the script.
    """
    from fleet import manifests

    if (submitted := _submitted(path)) is not None:
        return _show([submitted], as_json)
    loaded = manifests.load_all([call.manifest(path)])
    output.warnings([*map(str, loaded.warnings)] if not as_json else [])
    specs = [spec for spec in loaded.specs if spec.runtime == "slurm"]
    if not specs:
        names = ", ".join(spec.name for spec in loaded.specs)
        raise Usage(f"{names}: no job of its own is submitted for it.", hint="`fleet validate` reads it.")
    return _show([_as_submitted(spec) for spec in specs], as_json, [*map(str, loaded.warnings)])


def _submitted(word: str) -> dict[str, Any] | None:
    """The job that an agent of that name has now; `None` where it has none, or a file is meant."""
    if "/" in word or os.path.exists(word):  # noqa: PTH110
        return None
    try:
        asked = {"target": word, "cwd": reads.here()}
        told = client.request("job", asked, timeout=reads.request_timeout()).envelope()["data"]
    except FleetError:
        return None  # no daemon knows it: it may be the name of a manifest
    if told["script"] is None:
        return None
    from fleet.runtimes import slurm_script

    command = shlex.join([*slurm_script.SUBMIT, f"{told['folder']}/job"])
    return {"name": told["name"], "host": None, "commands": [command], "script": told["script"], "warnings": []}


def _show(jobs: list[dict[str, Any]], as_json: bool, warnings: Sequence[str] = ()) -> int:
    if as_json:
        output.envelope({"agents": jobs}, [*warnings])
        return 0
    for agent in jobs:
        output.warnings(agent["warnings"])
        if agent["host"]:
            output.result(f"# on {agent['host']}:")
        for command in agent["commands"]:
            output.result(f"# {command}")
        output.result(agent["script"])
    return 0


def _as_submitted(spec: Any) -> dict[str, Any]:
    """The job as it would be submitted; a login node is asked for its folder and home."""
    from fleet.config import load_settings

    places = Places.of()
    settings = load_settings(places)
    if spec.remote is None:
        return rendered(spec, settings, places, here())
    from fleet.cli import check_cluster

    return check_cluster.rendered_there(spec, settings, places)


def here() -> str:
    """The person's home on this machine."""
    return os.environ.get("HOME", str(Path.home()))


def rendered(spec: Any, settings: Settings, places: Places, home: str, host: str | None = None) -> dict[str, Any]:
    """The batch script of an agent's first job, and what submits it. `places` and `home` are the submit host's."""
    from fleet.runtimes import slurm_runtime, slurm_script
    from fleet.terms import LaunchPlan

    handle = slurm_runtime.handle_of(places, spec.name, f"{spec.name}.1.00000000")
    job = slurm_runtime.job_of(handle, places, settings, home, requeue=spec.restart.policy != "never")
    width, height = settings.pane_width, settings.pane_height
    plan = LaunchPlan(agent=spec.name, argv=("program",), cwd="/", env={}, width=width, height=height)
    submit = slurm_script.submit_argv(job)
    commands = [hook.words for hook in spec.slurm.hooks.pre_submit] + [submit[len(slurm_script.BARE) :]]
    return {
        "name": spec.name,
        "host": host,
        "commands": [shlex.join(words) for words in commands],
        "script": slurm_script.script(job, spec.slurm, plan),
        "warnings": slurm_script.warnings(spec.slurm),
    }


def tested(job: dict[str, Any]) -> Ran:
    """What the controller says to the job, and the partitions' limits; nothing is submitted."""
    from fleet.runtimes import slurm_script
    from fleet.terms import Ran

    argv = [*slurm_script.BARE, "sh", "-c", slurm_script.TEST]
    done = subprocess.run(argv, input=job["script"].encode(), capture_output=True, timeout=TEST_WITHIN, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)
