"""`fleet wait`: until an agent is where a script needs it."""

from __future__ import annotations

import time
from typing import Any

import click

from fleet import client
from fleet.cli import call, output, reads, words
from fleet.cli.acts import GRACE
from fleet.errors import NoDaemon

STATES = ("started", "ready", "working", "needs_input", "limited", "error", "stopped", "finished", "failed")
ASK_EVERY = 0.25


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
    args = {"target": target, "for": state, "cwd": reads.here()}
    deadline = time.monotonic() + timeout
    heard = False
    while True:
        left = max(0.001, deadline - time.monotonic())
        try:
            return call.call("wait", {**args, "timeout": left}, _show, as_json=as_json, timeout=left + GRACE)
        except NoDaemon as error:
            # A daemon that is restarted meanwhile is waited for as well.
            heard = heard or isinstance(error, client.WentAway)
            if not heard or time.monotonic() > deadline:
                raise
            time.sleep(ASK_EVERY)


def _show(data: dict[str, Any]) -> None:
    output.result(f"{data['name']}: {words.one_word(data)}")
