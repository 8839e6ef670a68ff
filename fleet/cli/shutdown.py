"""`fleet shutdown`: everything down, until a person says start."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import acts, call, daemon, output
from fleet.errors import Held


@click.command()
@call.time_limit(180, "How long to wait for the agents' end; it goes on after that.")
@click.option(
    "--leave-unreachable",
    is_flag=True,
    help="Do not wait for agents whose host does not answer: the next daemon ends them.",
)
@call.as_json
def shutdown(timeout: float, leave_unreachable: bool, as_json: bool) -> int:
    """Stop all agents and the daemon, and mark the fleet as down: nothing comes back by itself.

    `fleet start` without a name brings up what was up. An agent whose host does not answer is waited for, which is
    said; exits 4 where the time limit came first (the daemon goes on, and ends with the last agent), 5 where one was
    left.
    """
    before = daemon.running()
    args = {"timeout": timeout, "leave_unreachable": leave_unreachable}
    code = acts.act("shutdown", args, show=_show, timeout=timeout, as_json=as_json)
    if code != Held.exit_code:
        daemon.until_gone(before)
    return code


def _show(data: dict[str, Any]) -> None:
    for name in data.get("stopped") or ():
        output.result(f"{name}: stopped")
    if data.get("daemon") == "running":
        output.message("the fleet is still going down; `fleet status` shows what is left")
    else:
        output.message("the fleet is down; `fleet start` brings up what was up")
