"""The daemon: it puts the parts together, holds the lock, serves, and leaves without touching an agent.

`python -m fleet.daemon` runs it in the foreground. Ended with SIGTERM or SIGINT it saves and exits 0; its agents
go on. Under systemd (`Type=notify`) it says READY once everything is adopted, and pings the watchdog from the work
itself, so that a daemon that hangs is restarted.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import logging.handlers
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet import __version__
from fleet.clock import Clock, SystemClock
from fleet.config import load_settings
from fleet.control import Operator, Server
from fleet.db import Database, place
from fleet.errors import DaemonBusy, FleetError
from fleet.events import EVENTS_MIGRATIONS, Events
from fleet.ledger import LEDGER_MIGRATIONS, Ledger, StartEnvironment
from fleet.runtimes.local import LocalRuntime
from fleet.settings import Places, Settings
from fleet.spool import Drain
from fleet.supervisor import Supervisor

log = logging.getLogger("fleet")


@contextmanager
def the_lock(path: Path) -> Iterator[None]:
    """One daemon per state folder. The lock names its holder: pid, host, version."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "another process"
            raise DaemonBusy(
                f"{path.parent} is held by another daemon: {holder}.", hint="`fleet daemon status`"
            ) from None
        file.truncate(0)
        file.seek(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "version": __version__}, file)
        file.flush()
        yield


def notify(text: str) -> None:
    """Tell systemd, where it listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        try:
            out.sendto(text.encode(), address)
        except OSError as error:
            log.warning("systemd could not be told %r: %s", text, error)


class Daemon:
    """One run of the daemon."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings, self._places = settings, places
        self._leave = asyncio.Event()

    def leave(self) -> None:
        """End soon; agents stay."""
        self._leave.set()

    async def serve(self) -> None:
        """Until it is asked to leave."""
        places, settings, clock = self._places, self._settings, SystemClock()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.leave)
        file = place(places.database, settings.database_folder)
        database = Database.open(file, [EVENTS_MIGRATIONS, LEDGER_MIGRATIONS])
        events = Events(database, lambda agent: StartEnvironment.load(places.agent(agent)).secrets.values())
        runtime = LocalRuntime(places, settings, clock)
        supervisor = Supervisor(settings, places, clock, Ledger(database), events, runtime)
        server = Server(Operator(supervisor, self.leave))
        cleaning = asyncio.create_task(keep_clean(events, settings, places, clock), name="clean")
        try:
            await supervisor.open()
            await server.listen(places.control)
            agents = len(supervisor.runners)
            log.info("fleet %s serves %d agents on %s", __version__, agents, places.control)
            notify(f"READY=1\nSTATUS={agents} agents")
            await self._until_asked(supervisor)
        finally:
            notify("STOPPING=1")
            cleaning.cancel()
            await server.close()
            await supervisor.close()
            await database.close()
            places.control.unlink(missing_ok=True)
            log.info("fleet leaves; its agents go on")

    async def _until_asked(self, supervisor: Supervisor) -> None:
        """Wait; meanwhile show the watchdog that the loop turns."""
        period = int(os.environ.get("WATCHDOG_USEC") or 0) / 2e6
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        while not self._leave.is_set():
            try:
                await asyncio.wait_for(self._leave.wait(), period if period and mine else None)
            except TimeoutError:
                notify(f"WATCHDOG=1\nSTATUS={len(supervisor.runners)} agents")


async def keep_clean(events: Events, settings: Settings, places: Places, clock: Clock) -> None:
    """Once an hour: events that are too old go, and what killed hooks left half-written."""
    spool = Drain(places.spool, events)
    while True:
        try:
            gone = await events.trim(clock.now() - settings.events_kept_days * 86_400)
            await spool.sweep()
            log.debug("%d old events have gone", gone)
        except (FleetError, OSError) as error:
            log.error("could not clean up: %s", error)
        await clock.sleep(3600.0)


def _log_to(places: Places) -> None:
    """To the log file, and to stderr where somebody watches (systemd, a terminal)."""
    places.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = logging.handlers.RotatingFileHandler(places.log, maxBytes=8_000_000, backupCount=3)
    places.log.chmod(0o600)
    handlers: list[logging.Handler] = [file]
    if sys.stderr.isatty() or "NOTIFY_SOCKET" in os.environ or "INVOCATION_ID" in os.environ:
        handlers.append(logging.StreamHandler())
    logging.basicConfig(
        level=os.environ.get("FLEET_LOG", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=handlers,
    )


def main() -> int:
    """Run the daemon in the foreground until SIGTERM; its exit code."""
    os.umask(0o077)
    places = Places.of()
    _log_to(places)
    try:
        settings = load_settings(places)
        with the_lock(places.lock):
            asyncio.run(Daemon(settings, places).serve())
    except FleetError as error:
        log.error("%s", error.with_hint())
        print(f"fleet: {error}\n{error.hint or ''}".rstrip(), file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
