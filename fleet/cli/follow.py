"""Following what the daemon streams, across its restarts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from fleet import client
from fleet.cli import output
from fleet.errors import NoDaemon

AWAY = 20.0
"""How long a daemon that was there may be away (a restart) before following ends."""
ASK_EVERY = 0.25


def follow(
    verb: str,
    args: dict[str, Any],
    key: str,
    show: Callable[[Any], None],
    *,
    position: tuple[str, str] | None = None,
    again: dict[str, Any] | None = None,
) -> int:
    """Show what comes under `key` until the daemon ends the stream or the person leaves.

    When the daemon is restarted, following goes on: after the last `position` (the argument, and the item's field
    that it takes), with the arguments of `again`.
    """
    asked = {**args, "follow": True}
    away_since: float | None = None

    def on_progress(line: dict[str, Any]) -> None:
        if "note" in line:
            output.message(str(line["note"]))
        if key not in line:
            return
        item = line[key]
        if position is not None:
            argument, field = position
            if asked.get(argument) is not None and item[field] <= asked[argument]:
                return  # it was shown before the daemon was restarted
            asked[argument] = item[field]
        show(item)
        sys.stdout.flush()

    while True:
        try:
            reply = client.request(verb, asked, timeout=None, on_progress=on_progress)
        except client.WentAway:
            output.message("the daemon went away; waiting for it to come back")
            away_since = time.monotonic()
            asked.update(again or {})
        except NoDaemon:
            if away_since is None or time.monotonic() - away_since > AWAY:
                raise
            time.sleep(ASK_EVERY)
        else:
            reply.envelope()
            return reply.exit_code
