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

DELAY, DELAY_MAX, SETTLED = 0.01, 30.0, 60.0
"""Seconds before the next attempt …"""
AT_ONCE = 5
"""… doubled for each death, in a row of more than these, of a daemon that has not lived for `SETTLED`."""
CAME_UP = 10.0
"""A daemon that lived for so many seconds had come up."""


def pause(deaths: int) -> float:
    """Seconds before the next attempt, after so many deaths in a row."""
    return min(DELAY * 2.0 ** min(max(0, deaths - AT_ONCE), 32), DELAY_MAX)


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
    deaths, came_up = 0, False
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
        deaths = 1 if lived > SETTLED else deaths + 1
        asked.wait(pause(deaths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
