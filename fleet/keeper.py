"""The keeper: a few lines that start the daemon, and start it again when it died without being asked to end.

It stands in for systemd where the daemon was started on demand. It holds nothing and knows nothing: a daemon that
ends with status 0 was asked to, and one that ends with 69 found another holding the state. Where the very first one
gives up by itself, it says why in its log, and the next would say the same: the keeper ends with its status, so that
whoever asked for a daemon hears of it at once.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from types import FrameType

from fleet.errors import DaemonBusy

DELAY, DELAY_MAX, SETTLED = 0.05, 30.0, 60.0
"""Seconds before the next attempt: doubled while the daemon keeps dying within `SETTLED`."""
CAME_UP = 10.0
"""A daemon that lived for so many seconds had come up."""


def main() -> int:
    """Run the daemon until it was asked to end. SIGTERM to the keeper is passed on."""
    child: subprocess.Popen[bytes] | None = None
    asked = threading.Event()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        asked.set()
        if child is not None:
            child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    delay, came_up = DELAY, False
    while not asked.is_set():
        began = time.monotonic()
        child = subprocess.Popen([sys.executable, "-m", "fleet.daemon"], stdin=subprocess.DEVNULL)
        if asked.is_set():  # while it was being started
            child.terminate()
        status = child.wait()
        child = None
        lived = time.monotonic() - began
        came_up = came_up or status < 0 or lived > CAME_UP
        if asked.is_set() or not came_up or status in (0, DaemonBusy.exit_code):
            return status if status >= 0 else 0
        print(f"fleet keeper: the daemon ended with {status}; starting it again", file=sys.stderr, flush=True)  # noqa: T201
        delay = DELAY if lived > SETTLED else delay
        asked.wait(delay)
        delay = min(delay * 2, DELAY_MAX)
    return 0


if __name__ == "__main__":
    sys.exit(main())
