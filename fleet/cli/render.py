"""`fleet render`: the batch script of an agent's SLURM job, and the commands that would run."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fleet import client
from fleet.cli import call, output, reads
from fleet.errors import FleetError, Usage

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
    jobs = [rendered(spec) for spec in loaded.specs if spec.runtime == "slurm"]
    if not jobs:
        names = ", ".join(spec.name for spec in loaded.specs)
        raise Usage(f"{names}: no job of its own is submitted for it.", hint="`fleet validate` reads it.")
    return _show(jobs, as_json, [*map(str, loaded.warnings)])


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
    return {"name": told["name"], "commands": [command], "script": told["script"], "warnings": []}


def _show(jobs: list[dict[str, Any]], as_json: bool, warnings: Sequence[str] = ()) -> int:
    if as_json:
        output.envelope({"agents": jobs}, [*warnings])
        return 0
    for agent in jobs:
        output.warnings(agent["warnings"])
        for command in agent["commands"]:
            output.result(f"# {command}")
        output.result(agent["script"])
    return 0


def rendered(spec: Any) -> dict[str, Any]:
    """The batch script of an agent's first job, and what submits it."""
    from fleet.runtimes import slurm_runtime, slurm_script
    from fleet.settings import Places, Settings
    from fleet.terms import LaunchPlan

    places, settings = Places.of(), Settings()
    handle = slurm_runtime.handle_of(places, spec.name, f"{spec.name}.1.00000000")
    requeue = spec.restart.policy != "never"
    job = slurm_runtime.job_of(handle, places, settings, os.environ.get("HOME", str(Path.home())), requeue=requeue)
    width, height = settings.pane_width, settings.pane_height
    plan = LaunchPlan(agent=spec.name, argv=("program",), cwd="/", env={}, width=width, height=height)
    submit = slurm_script.submit_argv(job)
    commands = [hook.words for hook in spec.slurm.hooks.pre_submit] + [submit[len(slurm_script.BARE) :]]
    return {
        "name": spec.name,
        "commands": [shlex.join(words) for words in commands],
        "script": slurm_script.script(job, spec.slurm, plan),
        "warnings": slurm_script.warnings(spec.slurm),
    }


def tested(job: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """What the controller says to the job; nothing is submitted."""
    from fleet.runtimes import slurm_script

    argv = [*slurm_script.BARE, "sbatch", "--test-only"]
    return subprocess.run(argv, input=job["script"], capture_output=True, text=True, timeout=TEST_WITHIN, check=False)
