"""`fleet shutdown`: everything down, until a person says start."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import acts, call, daemon, output


@click.command()
@call.time_limit(180, "How long to wait for the agents' end; it goes on after that.")
@call.as_json
def shutdown(timeout: float, as_json: bool) -> int:
    """Stop all agents and the daemon, and mark the fleet as down: nothing comes back by itself.

    `fleet start` without a name brings up what was up.
    """
    before = daemon.running()
    code = acts.act("shutdown", {"timeout": timeout}, show=_show, timeout=timeout, as_json=as_json)
    daemon.until_gone(before)
    return code


def _show(data: dict[str, Any]) -> None:
    for name in data.get("stopped") or ():
        output.result(f"{name}: stopped")
    output.message("the fleet is down; `fleet start` brings up what was up")
