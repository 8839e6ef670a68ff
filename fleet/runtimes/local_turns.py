"""Headless agents on this machine: their turns are processes here, in sessions of their own."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fleet import processes
from fleet.errors import LaunchError, Unconfirmed
from fleet.runtimes import files, launches
from fleet.runtimes.base import Runtime
from fleet.runtimes.turns import ERRORS_KEPT, MARK, NONE, STANDS, TAIL, Printed, Wanted
from fleet.settings import Places
from fleet.terms import File, Handle, LaunchPlan, Process

log = logging.getLogger(__name__)

TIMER = shutil.which("timeout")
"""What keeps the time limit where there is no daemon (turn_limit.sh). Where there is none, only the daemon keeps it."""
LIMITER = Path(__file__).with_name("turn_limit.sh")
"""Stands between launcher and program."""


class LocalGround:
    """This machine."""

    near = True
    check_every = 0.5

    def __init__(self, host: Runtime, places: Places) -> None:
        self._host, self._places = host, places
        self._children: dict[str, Process] = {}
        """By folder, the launchers that this daemon has started: it has to hear their exit status."""

    # -- launches ----------------------------------------------------------------------------------------------------

    def mint(self, agent: str, generation: str) -> Handle:
        folder = self._places.agent(agent) / "launch" / generation
        return Handle(agent, generation, self._host.name, NONE, "", agent, str(folder))

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        program = plan.argv[0]
        path = str(Path(plan.cwd, program)) if "/" in program else program
        if await asyncio.to_thread(shutil.which, path, path=plan.env.get("PATH")) is None:
            raise LaunchError(
                f"the program {program} is not there, or may not be executed.",
                hint="Install it, or give its path as command.",
            )
        marks = {processes.MARK: handle.generation, "FLEET_LAUNCH": handle.folder}
        env = File(f"{handle.folder}/env", launches.quote_env({**plan.env, **marks}))
        await self._host.put([*plan.files, env, File(f"{handle.folder}/{STANDS}", b"")])

    async def stands(self, folder: str) -> bool:
        return Path(folder, STANDS).exists()

    async def end_launch(self, folder: str, grace: float) -> tuple[int, ...]:
        launch = Path(folder)
        killed = await _end(partial(launches.search, [launch]), grace)
        (launch / STANDS).unlink(missing_ok=True)
        await asyncio.to_thread(launches.mark_purged, launch)
        return killed

    # -- turns -------------------------------------------------------------------------------------------------------

    def turn_folder(self, launch: str, here: Path) -> str:
        return str(here)

    def kept_here(self, wanted: Wanted) -> list[File]:
        folder = wanted.folder
        own = [File(f"{folder}/prompt", wanted.prompt), File(f"{folder}/env", wanted.env)]
        return [*own, launches.launcher(Path(folder))]

    async def begin(self, wanted: Wanted) -> float | None:
        """Nothing is waited for on the way: whoever has just seen that it may begin still does."""
        if wanted.folder not in self._children:
            try:
                self._children[wanted.folder] = _spawn(wanted)
            except OSError as error:
                raise LaunchError(f"{error.strerror or error}") from error
        return 0.0

    async def over(self, folder: str) -> None:
        child = self._children.get(folder)
        launcher = child or (await asyncio.to_thread(launches.facts, Path(folder))).launcher
        if launcher is None:
            return
        try:
            fd = os.pidfd_open(launcher.pid)
        except (OSError, AttributeError):  # it has ended, or the kernel does not tell
            while processes.alive(launcher):  # noqa: ASYNC110
                await asyncio.sleep(processes.POLL)
        else:
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(fd, ended.set)
            try:
                if child is not None or processes.alive(launcher):  # else its pid may be another's by now
                    await ended.wait()
            finally:
                loop.remove_reader(fd)
                os.close(fd)
        if child is not None:
            _reap(child)

    async def printed(self, folder: str, size: int) -> Printed:
        return await asyncio.to_thread(_printed, Path(folder), size)

    async def end(self, folder: str, grace: float) -> None:
        turn = Path(folder)
        if turn.is_dir():
            (turn / "claim").touch()
        await _end(partial(search, turn), grace)

    async def fetch(self, folder: str, here: Path) -> None:
        """It is here."""

    async def forget(self, folder: str, *, sure: bool) -> None:
        self._children.pop(folder, None)


async def _end(search: Callable[[], set[Process]], grace: float) -> tuple[int, ...]:
    try:
        return await processes.end(search, grace=grace)
    except TimeoutError as error:
        raise Unconfirmed(str(error)) from error


def search(folder: Path) -> set[Process]:
    """All processes of a turn that live: by their tree, and by the mark they bear."""
    rows, marks = processes.census(MARK)
    facts = launches.facts(folder)
    roots = [process for process in (facts.launcher, facts.program) if process is not None]
    roots += [process for process, mark in marks.items() if mark == str(folder)]
    return {process for process in processes.descendants(rows, roots) if process.pid != os.getpid()}


def timed(argv: tuple[str, ...], limit: float, grace: float) -> tuple[str, ...]:
    """The same, with a time limit of its own."""
    if TIMER is None:
        return argv
    return ("/bin/sh", str(LIMITER), TIMER, str(math.ceil(limit)), str(math.ceil(grace)), *argv)


def _spawn(wanted: Wanted) -> Process:
    """Start the launcher in a session of its own, its three streams on files. It is marked from its first moment."""
    folder, argv = wanted.folder, timed(wanted.argv, wanted.limit, wanted.grace)
    written = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        "/bin/sh",
        ["/bin/sh", f"{folder}/{launches.LAUNCHER}", folder, wanted.cwd, *argv],
        dict(wanted.marks),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, f"{folder}/prompt", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, f"{folder}/out", written, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, f"{folder}/err", written, 0o600),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    )
    return Process(pid, processes.start_time(pid) or 0)


def _reap(child: Process) -> None:
    """The kernel keeps a child's exit status until it is asked for."""
    try:
        os.waitpid(child.pid, os.WNOHANG)
    except ChildProcessError:
        log.debug("the launcher %s was waited for elsewhere", child.pid)


def _printed(folder: Path, size: int) -> Printed:
    errors, out = folder / "err", folder / "out"
    if _size(errors) > ERRORS_KEPT:
        os.truncate(errors, 0)  # it is written at its end, wherever that is
    now = _size(out)
    return Printed(now, None if now == size else files.read(out, TAIL))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
