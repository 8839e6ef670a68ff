"""The keeper: a few lines that start the daemon, and start it again when it died without being asked to end.

It stands in for systemd where the daemon was started on demand. It holds nothing and knows nothing: a daemon that
ends with status 0 was asked to, and one that ends with 69 found another holding the state.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from types import FrameType

from fleet.errors import DaemonBusy

DELAY, DELAY_MAX, SETTLED = 0.2, 30.0, 60.0
"""Seconds before the next attempt: doubled while the daemon keeps dying within `SETTLED`."""


def main() -> int:
    """Run the daemon until it was asked to end. SIGTERM to the keeper is passed on."""
    child: subprocess.Popen[bytes] | None = None
    asked = False

    def pass_on(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if child is not None:
            child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    delay = DELAY
    while True:
        began = time.monotonic()
        child = subprocess.Popen([sys.executable, "-m", "fleet.daemon"], stdin=subprocess.DEVNULL)
        status = child.wait()
        if asked or status in (0, DaemonBusy.exit_code):
            return status if status >= 0 else 0
        print(f"fleet keeper: the daemon ended with {status}; starting it again", file=sys.stderr, flush=True)  # noqa: T201
        delay = DELAY if time.monotonic() - began > SETTLED else delay
        time.sleep(delay)
        delay = min(delay * 2, DELAY_MAX)


if __name__ == "__main__":
    sys.exit(main())
