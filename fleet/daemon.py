"""The daemon: it puts the parts together, holds the lock, serves, and leaves without touching an agent.

`python -m fleet.daemon` runs it in the foreground. Ended with SIGTERM or SIGINT it saves and exits 0; its agents
go on. Under systemd (`Type=notify`) it says READY once everything is adopted, and pings the watchdog from the work
itself, so that a daemon that hangs is restarted.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import importlib
import json
import logging
import logging.handlers
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from fleet import __version__
from fleet.clock import Clock, SystemClock
from fleet.clusters import Clusters
from fleet.config import load_settings
from fleet.control import Operator, Server
from fleet.db import Database, place
from fleet.errors import DaemonBusy, FleetError, InvalidSettings, NotAllowed
from fleet.events import EVENTS_MIGRATIONS, Events
from fleet.headless import HEADLESS_MIGRATIONS, Hearers, Sessions, Turns
from fleet.hosts import Kind, SshHosts
from fleet.ledger import LEDGER_MIGRATIONS, Ledger, StartEnvironment
from fleet.manifests.model import AgentSpec
from fleet.preparing import Admission
from fleet.runtimes.headless import WithHeadless
from fleet.runtimes.local import LocalRuntime
from fleet.runtimes.local_turns import LocalGround
from fleet.settings import Places, Settings
from fleet.spool import Drain
from fleet.supervisor import Supervisor
from fleet.terms import Handle

log = logging.getLogger("fleet")

HUB_FIRST = 2.0
"""Seconds that agents wait for the hub at a start: nothing of what is said to them is to be lost meanwhile."""

SOCKET_CHECK = 2.0
"""Seconds between two looks at whether the socket is still there."""


@contextmanager
def the_lock(path: Path) -> Iterator[None]:
    """One daemon per state folder. The lock names its holder: pid, host, version."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NotAllowed(f"{path} cannot be written: {error.strerror}.", hint="`fleet doctor` says more.") from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DaemonBusy(
                f"{path.parent} is held by another daemon: {_holder(file.read())}.",
                hint="`fleet daemon status` shows it, `fleet daemon restart` puts a new one in its place.",
            ) from None
        file.truncate(0)
        file.seek(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "version": __version__}, file)
        file.flush()
        yield


def _holder(noted: str) -> str:
    """Who wrote the lock, for a person."""
    try:
        told = json.loads(noted)
        return f"pid {told['pid']} on {told['host']}, fleet {told['version']}"
    except (ValueError, KeyError, TypeError):
        return noted.strip() or "one that has just begun"


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


def own_folder(folder: Path) -> None:
    """Make the folder for sockets. Raise `NotAllowed` where it, or the short one above it, is another user's."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise NotAllowed(f"{folder} cannot be made: {error.strerror}.", hint="Its sockets belong there.") from error
    shared = f"fleet-{os.getuid()}"  # what a deep home is given, in a folder where everybody may write
    for own in (folder.parent, folder) if folder.parent.name == shared else (folder,):
        stat = own.lstat()
        if stat.st_uid != os.getuid():
            raise NotAllowed(
                f"{own} belongs to another user (uid {stat.st_uid}), who could stand between you and your agents.",
                hint="Remove it, or set FLEET_HOME or XDG_RUNTIME_DIR to a folder of your own.",
            )
        if stat.st_mode & 0o077:
            own.chmod(0o700)


class Side(Protocol):
    """What the daemon asks of the hub: `hubside.HubSide`."""

    @property
    def problems(self) -> list[str]: ...

    def begin(self) -> None: ...

    async def tried(self) -> None: ...

    def adopted(self) -> None: ...

    async def admit(self, spec: AgentSpec, generation: str) -> Admission | None: ...

    async def write_down(self, handle: Handle, job: str, within: float) -> None: ...

    async def close(self) -> None: ...


class HubLater:
    """The hub. Its libraries take as long to load as the rest of the daemon, and agents take long to be looked at: it
    is loaded beside that, and first of all, for whoever speaks has to be answered."""

    def __init__(self, make: Callable[[Any], Side]) -> None:
        self._make = make
        self._side: Side | None = None
        self._problem: str | None = None
        self._loaded = asyncio.Event()
        self._adopted = False
        self._loading: asyncio.Task[None] | None = None

    def load(self) -> None:
        """From now on it comes."""
        self._loading = asyncio.create_task(self._load(), name="load the hub")

    async def _load(self) -> None:
        try:
            self._side = self._make(await asyncio.to_thread(importlib.import_module, "fleet.hubside"))
            gc.freeze()  # what was loaded is there for good
            self._side.begin()
            if self._adopted:
                self._side.adopted()
        except Exception as error:
            log.exception("the hub cannot be loaded")
            self._problem = f"The hub cannot be loaded: {error}"
        finally:
            self._loaded.set()

    async def opened(self, within: float) -> None:
        """Wait until it accepts messages, or cannot; but no longer than that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._loaded.wait()
                if self._side is not None:
                    await self._side.tried()

    def adopted(self) -> None:
        """The agents are known: the hub may carry their mail."""
        self._adopted = True
        if self._side is not None:
            self._side.adopted()

    async def admit(self, spec: AgentSpec, generation: str) -> Admission | None:
        """See `preparing.Admit`."""
        await self._loaded.wait()
        return await self._side.admit(spec, generation) if self._side is not None else None

    async def write_down(self, handle: Handle, job: str, within: float) -> None:
        """See `HubSide.write_down`."""
        await self._loaded.wait()
        if self._side is not None:
            await self._side.write_down(handle, job, within)

    @property
    def problems(self) -> list[str]:
        """What of the hub does not work, for the operator."""
        loading = [self._problem] if self._problem else []
        return self._side.problems if self._side is not None else loading

    async def close(self) -> None:
        """Let go; what is under way goes on from the log."""
        if self._loading is not None:
            await self._loading
        if self._side is not None:
            await self._side.close()


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
        own_folder(places.run)
        file = place(places.database, settings.database_folder)
        database = Database.open(file, [EVENTS_MIGRATIONS, LEDGER_MIGRATIONS, HEADLESS_MIGRATIONS])

        def secrets(agent: str) -> Collection[str]:
            return StartEnvironment.load(places.agent(agent)).secrets.values()

        events = Events(database, secrets)
        local = LocalRuntime(places, settings, clock, secrets)
        runtime = WithHeadless(local, LocalGround(local, places), clock)
        ssh = SshHosts(settings, places, clock, secrets)
        hub = HubLater(lambda hubside: hubside.HubSide(supervisor, events, settings, places, clock, turns))
        clusters = Clusters(runtime, settings, places, clock, secrets, ssh, hub.write_down)
        kinds: dict[str, Kind] = {
            "ssh": ssh,
            "slurm": clusters,
            "slurm-tenant": clusters.tenants,
        }
        supervisor = Supervisor(settings, places, clock, Ledger(database), events, runtime, kinds)
        hearers = Hearers(
            standing=supervisor.standing,
            unseen=supervisor.unseen,
            evidence=supervisor.hear,
            event=supervisor.record_event,
            spent=supervisor.hear_spent,
        )
        turns = Turns(clock, settings, places, Sessions(database), hearers)
        supervisor.admit = hub.admit
        operator = Operator(supervisor, self.leave)
        operator.notices.append(lambda: hub.problems)
        server = Server(operator)
        cleaning: asyncio.Task[None] | None = None
        try:
            hub.load()
            await hub.opened(within=HUB_FIRST)
            await supervisor.open()
            await turns.open()
            hub.adopted()
            await server.listen(places.control)
            cleaning = asyncio.create_task(keep_clean(events, settings, places, clock), name="clean")
            agents = len(supervisor.runners)
            log.info("fleet %s serves %d agents on %s", __version__, agents, places.control)
            notify(f"READY=1\nSTATUS={agents} agents")
            await self._until_asked(supervisor, server)
        finally:
            notify("STOPPING=1")
            if cleaning is not None:
                cleaning.cancel()
            await server.close()
            await hub.close()
            await turns.close()
            await supervisor.close()
            await database.close()
            log.info("fleet leaves; its agents go on")

    async def _until_asked(self, supervisor: Supervisor, server: Server) -> None:
        """Wait; meanwhile show the watchdog that the loop turns, and keep the socket where it belongs."""
        period = int(os.environ.get("WATCHDOG_USEC") or 0) / 2e6
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            period = 0
        while not self._leave.is_set():
            try:
                await asyncio.wait_for(self._leave.wait(), min(period or SOCKET_CHECK, SOCKET_CHECK))
            except TimeoutError:
                if period:
                    notify(f"WATCHDOG=1\nSTATUS={len(supervisor.runners)} agents")
                try:
                    await server.listen_still()
                except (FleetError, OSError) as error:
                    log.error("nobody can reach the daemon: %s", error)


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


def _log_to(places: Places) -> bool:
    """To the log file, and to stderr where somebody watches (systemd, a terminal). Whether stderr has it too."""
    level = os.environ.get("FLEET_LOG", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise InvalidSettings(f"FLEET_LOG={level} is no level.", hint="Use DEBUG, INFO, WARNING or ERROR.")
    try:
        places.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = logging.handlers.RotatingFileHandler(places.log, maxBytes=8_000_000, backupCount=3)
        places.log.chmod(0o600)
    except OSError as error:
        raise NotAllowed(
            f"{places.state} cannot be written: {error.strerror}.",
            hint="Fleet keeps its state there; FLEET_HOME names another place.",
        ) from error
    handlers: list[logging.Handler] = [file]
    if sys.stderr.isatty() or "NOTIFY_SOCKET" in os.environ or "INVOCATION_ID" in os.environ:
        handlers.append(logging.StreamHandler())
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=handlers,
    )
    if level != "DEBUG":  # what of it matters is told by the ssh runtime
        for library in ("asyncssh", "mcp"):
            logging.getLogger(library).setLevel(logging.WARNING)
    return len(handlers) > 1 or _same_file(2, places.log)


def _same_file(fd: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(fd), path.stat())


def collect_seldom() -> None:
    """Look for cycles of garbage less often. What a message leaves behind in the hub's memory is many small objects
    and no cycle; by Python's own thresholds every few dozen messages would be gone through for nothing, and with them
    all modules that are there for good."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def main() -> int:
    """Run the daemon in the foreground until SIGTERM; its exit code."""
    os.umask(0o077)
    places = Places.of()
    heard = False
    try:
        heard = _log_to(places)
        settings = load_settings(places)
        with the_lock(places.lock):
            collect_seldom()
            asyncio.run(Daemon(settings, places).serve())
    except FleetError as error:
        if logging.root.handlers:
            log.error("%s", error.with_hint())
        if not heard:
            print(f"fleet: {error}\n{error.hint or ''}".rstrip(), file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
