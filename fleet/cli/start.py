"""`fleet start`: bring agents up, and say for each how that went."""

from __future__ import annotations

import click

from fleet.cli import acts, call, ondemand, reads


@click.command()
@click.argument("targets", nargs=-1, metavar="[NAME|FILE|FOLDER]...", shell_complete=call.complete_agents)
@call.labels
@call.everything
@click.option("--fresh", is_flag=True, help="Begin a new conversation instead of going on with the last one.")
@click.option("--wait/--no-wait", default=True, help="Return when each has started, or at once.  [default: wait]")
@call.time_limit(600, "How long to wait for the start; the agents go on starting after that.")
@call.as_json
def start(
    targets: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    everything: bool,
    fresh: bool,
    wait: bool,
    timeout: float,
    as_json: bool,
) -> int:
    """Start agents from names, manifests or folders, and the daemon too where it is not running.

    Without a name it brings up what was up before `fleet shutdown`, or the default folder of manifests.
    Returns when each has started, or says why not; exits 7 where a dialog waits for a person.

    \b
    fleet start web.yaml
    fleet start agents/
    fleet start web db --fresh
    """
    args = {
        "targets": list(targets),
        "labels": dict(labels),
        "all": everything,
        "cwd": reads.here(),
        "env": reads.environment(),
        "fresh": fresh,
        "wait": wait,
        "timeout": timeout,
    }
    ondemand.ensure_daemon(targets)
    return acts.act("start", args, timeout=timeout, as_json=as_json)
