"""`fleet wait`: until an agent is where a script needs it."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import call, output, reads, words
from fleet.cli.acts import GRACE

STATES = ("started", "ready", "working", "needs_input", "stopped", "finished", "failed")


@click.command()
@call.one
@click.option("--for", "state", type=click.Choice(STATES), required=True, help="The state to wait for.")
@call.time_limit(300, "Give up after this and exit 4.")
@call.as_json
def wait(target: str, state: str, timeout: float, as_json: bool) -> int:
    """Wait until an agent has reached a state. Exits 0 when it has, 4 when it has not in time.

    \b
    fleet wait web --for ready --timeout 60 && echo "web waits for work"
    """
    args = {"target": target, "for": state, "timeout": timeout, "cwd": reads.here()}
    return call.call("wait", args, _show, as_json=as_json, timeout=timeout + GRACE)


def _show(data: dict[str, Any]) -> None:
    if data.get("reached"):
        output.result(f"{data['name']}: {words.one_word(data)}")
    else:
        output.message(f"{data['name']} is {words.one_word(data)}; `fleet explain {data['name']}` shows why")
