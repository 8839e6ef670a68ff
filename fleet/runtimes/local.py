"""Agents on this machine, in tmux or screen.

What lives is told by the launcher, by pid and start time, never by the multiplexer: exit status, last screen and
log do not depend on it. What is seen comes from the multiplexer. The two meet here. launches.py says what stands
in a launch's folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fleet import processes
from fleet.clock import Clock
from fleet.errors import FleetError, HostUnreachable, LaunchError, StorageFull, TimedOut, Unconfirmed
from fleet.runtimes import files, launches, screen, tmux, watching
from fleet.runtimes.base import Capabilities, Ended, OnHost, OnLook
from fleet.runtimes.folders import FolderWatch
from fleet.runtimes.local_tmux import LocalTmux
from fleet.runtimes.multiplexers import Multiplexer, Seen, ServerGone
from fleet.settings import Places, Settings
from fleet.tasks import Tasks
from fleet.terms import File, Handle, LaunchPlan, Look, Process, Ran, Screen

log = logging.getLogger(__name__)

NOTED_WITHIN = 10.0
"""Seconds the launcher may take to note itself and its program: a few milliseconds, on a loaded machine more …"""
NOTED_AT_LAST = 120.0
"""… and this many as long as its pane lives."""
LAUNCHED_AT_ONCE = 16
"""Launches between their pane's opening and the launcher's note. More at once would not be done sooner: they only wait
for each other, each with its time running."""
SETTLE = 0.25
"""Seconds to wait, after a death, for what else it brings: the pane's last output, the server's own end."""
REMEMBER_EVERY = 30.0
"""Seconds between two looks at the trees of all launches, for processes that leave them later."""
KEPT_LAUNCHES = 5
"""Folders of ended launches that are kept per agent."""


class LocalRuntime:
    """Agents on this machine."""

    name = "local"
    far = None

    def __init__(
        self, places: Places, settings: Settings, clock: Clock, secrets: Callable[[str], Collection[str]] = lambda _: ()
    ) -> None:
        """`secrets` tells what an agent was given as such: it goes from what is kept of its pane."""
        self._places = places
        self._settings = settings
        self._clock = clock
        self._multiplexers: dict[str, Multiplexer] = {}
        """By socket."""
        self._assigned: dict[str, str] = {}
        """Which tmux server's socket an agent's panes go to."""
        self._watches: watching.Watches[_Watched] = watching.Watches(places, settings, secrets)
        self._on_host: list[OnHost] = []
        self._unreadable: dict[str, str] = {}
        """Multiplexers that do not answer, and why."""
        self._tasks = Tasks(_failed)
        self._launching = asyncio.Semaphore(LAUNCHED_AT_ONCE)
        self._censuses = processes.Censuses()
        self._folders = FolderWatch(clock)
        self._remembering: asyncio.Task[None] | None = None

    # -- minting -------------------------------------------------------------------------------------------------

    def capabilities(self, multiplexer: str) -> Capabilities:
        return screen.CAPABILITIES if multiplexer == "screen" else tmux.CAPABILITIES

    def mint(self, agent: str, generation: str, multiplexer: str) -> Handle:
        folder = self._places.agent(agent) / "launch" / generation
        socket = str(self._places.run / "screen") if multiplexer == "screen" else self._socket_for(agent)
        session = generation if multiplexer == "screen" else agent
        return Handle(agent, generation, self.name, multiplexer, socket, session, str(folder))

    def _socket_for(self, agent: str) -> str:
        """The tmux server an agent has had, else the first with room."""
        if agent not in self._assigned:
            counts: dict[str, int] = {}
            for socket in self._assigned.values():
                counts[socket] = counts.get(socket, 0) + 1
            number = 0
            while counts.get(self._tmux_socket(number), 0) >= self._settings.panes_per_server:
                number += 1
            self._assigned[agent] = self._tmux_socket(number)
        return self._assigned[agent]

    def _tmux_socket(self, number: int) -> str:
        return str(self._places.run / f"tmux-{number}.sock")

    def _multiplexer(self, kind: str, socket: str) -> Multiplexer:
        if socket not in self._multiplexers:
            made: LocalTmux | screen.Screens
            if kind == "screen":
                made = screen.Screens(Path(socket), self._settings, self._clock)
            else:
                made = LocalTmux(Path(socket), self._places.state / "multiplexers", self._settings, self._clock)
                made.on_gone(functools.partial(self._server_gone, socket))
            made.on_host(functools.partial(self._readable, socket))
            self._multiplexers[socket] = made
        return self._multiplexers[socket]

    def _of(self, handle: Handle) -> Multiplexer:
        return self._multiplexer(handle.multiplexer, handle.socket)

    # -- launching -----------------------------------------------------------------------------------------------

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        folder = Path(handle.folder)
        if not (folder / "claim").exists():
            program = await asyncio.to_thread(_program_of, plan)
            multiplexer = self._of(handle)
            env = {**plan.env, "FLEET_GENERATION": handle.generation, "FLEET_LAUNCH": handle.folder}
            env["TERM"] = multiplexer.term
            if not env.get("TMUX"):  # an agent's own tmux must reach neither the fleet's server nor the person's
                env["TMUX"] = f"{self._places.run}/own-{handle.agent}.sock,0,0"
            whose = f"{handle.multiplexer}\n{handle.socket}\n".encode()
            own = [File(str(folder / "env"), launches.quote_env(env)), File(str(folder / "pane"), whose)]
            launcher = launches.launcher(folder)
            await self.put([*plan.files, *own, launcher])
            argv = ["env", "-i", "/bin/sh", launcher.path, handle.folder, plan.cwd, program, *plan.argv[1:]]
            self._watches.log(handle.agent).begin(handle.generation, self._clock.now())
            async with self._launching:
                server = await multiplexer.open(handle.session, handle.generation, argv, plan.width, plan.height)
                await self.put([launches.note(folder, "server", server)])
                await self._noted(handle)
        else:
            await self._noted(handle)

    async def _noted(self, handle: Handle) -> None:
        """Return when the launcher has noted its program."""
        loop = asyncio.get_running_loop()
        folder, began, pause = Path(handle.folder), loop.time(), 0.005
        while not ((folder / "program").exists() or (folder / "exit").exists()):
            waited = loop.time() - began
            if waited > NOTED_AT_LAST or (waited > NOTED_WITHIN and not await self._pane_lives(handle)):
                raise LaunchError(f"the launcher of {handle.generation} has noted nothing in {handle.folder}")
            await asyncio.sleep(pause)
            pause = min(1.2 * pause, 0.1)

    async def _pane_lives(self, handle: Handle) -> bool:
        try:
            seen = await self._of(handle).see(handle.generation)
        except ServerGone:
            return False
        return seen is not None and not seen.screen.dead

    # -- looking -------------------------------------------------------------------------------------------------

    async def look(self, handle: Handle) -> Look:
        facts = await self._facts(handle)
        lost = facts.server_lost
        seen: Seen | None = None
        if not lost:
            try:
                seen = await self._of(handle).see(handle.generation)
            except ServerGone:
                facts = await self._facts(handle)
                lost = facts.server_lost
        return self._look(facts, seen.screen if seen else None, seen.pane if seen else None, lost)

    def _look(self, facts: launches.Facts, shown: Screen | None, pane: str | None, lost: bool) -> Look:
        if shown is not None and not facts.alive:
            shown = replace(shown, dead=True, exit_status=facts.exit_status)
        return Look(
            at=self._clock.now(),
            alive=facts.alive,
            program=facts.program,
            exit_status=facts.exit_status,
            screen=shown,
            multiplexer_lost=lost,
            pane=pane,
        )

    async def _facts(self, handle: Handle) -> launches.Facts:
        return await asyncio.to_thread(launches.facts, Path(handle.folder))

    # -- watching ------------------------------------------------------------------------------------------------

    def watch(self, handle: Handle, on_look: OnLook) -> None:
        self.unwatch(handle)
        if handle.multiplexer == "tmux":
            self._assigned.setdefault(handle.agent, handle.socket)
        self._tasks.begin(self._begin(self._watches.add(_Watched(handle, on_look))))
        if self._remembering is None:
            self._remembering = self._tasks.begin(self._remember(), "fleet-trees")

    def unwatch(self, handle: Handle) -> None:
        if self._watches.remove(handle) is not None:
            self._of(handle).unwatch(handle.generation)

    def on_host(self, callback: OnHost) -> None:
        self._on_host.append(callback)

    def seen_at(self, handle: Handle) -> float | None:
        return self._of(handle).seen_at(handle.generation) if self._watches.get(handle) is not None else None

    async def _begin(self, watched: _Watched) -> None:
        """The first look, and from then on the pane and the launcher."""
        handle = watched.handle
        facts = await self._facts(handle)
        if watched.closed():
            return
        watched.facts = facts
        if facts.launcher is None or not facts.alive:
            await self._gone(watched)
            return
        if not watched.hold(functools.partial(self._launcher_ended, watched)):
            self._tasks.begin(self._poll_launcher(watched))
        if facts.server_lost:
            await self._gone(watched)
            return
        await self._watches.recall(watched)
        if not watched.closed():
            self._of(handle).watch(
                handle.generation,
                functools.partial(self._saw, watched),
                functools.partial(self._pane_missing, watched),
            )

    def _saw(self, watched: _Watched, seen: Seen) -> None:
        """The pane has changed. (A dead one is told of by its launcher's end.)"""
        if watched.facts is not None and self._watches.saw(watched, seen):
            watched.tell(self._look(watched.facts, seen.screen, seen.pane, lost=False))

    def _pane_missing(self, watched: _Watched) -> None:
        """The pane is not there, though its server is: somebody closed it. The launcher tells what lives."""
        self._tasks.begin(self._gone(watched))

    def _launcher_ended(self, watched: _Watched) -> None:
        watched.release()
        self._tasks.begin(self._gone(watched))

    async def _poll_launcher(self, watched: _Watched) -> None:
        """Where the kernel does not tell of a process's end."""
        while not watched.over():
            if watched.launcher_lives():
                await self._clock.sleep(self._settings.observe_interval)
            else:
                await self._gone(watched)

    async def _gone(self, watched: _Watched) -> None:
        """The launcher has ended, or its pane is gone: wait for what belongs together, and tell it once."""
        if watched.over():
            return
        if await _lives_on(watched.launcher_lives):
            await self._without_pane(watched)
            return
        if watched.over():
            return
        watched.dead = True
        handle = watched.handle
        try:
            await self._keep_screen(handle, watched.screen)
        except FleetError as error:  # its death must be told all the same
            log.warning("%s: its last screen is not kept: %s", handle.generation, error)
        facts = await self._facts(handle)
        lost = facts.server_lost
        if facts.server is not None and not facts.screen_kept and not lost:
            lost = not await _lives_on(functools.partial(processes.alive, facts.server))
        watched.tell(self._look(facts, watched.screen, None, lost))

    async def _without_pane(self, watched: _Watched) -> None:
        """The launcher lives, and nobody can see it any more."""
        facts = await self._facts(watched.handle)
        if facts.alive and not watched.dead:
            watched.tell(self._look(facts, None, None, facts.server_lost))

    def _server_gone(self, socket: str) -> None:
        """A tmux server and all its panes are gone. That it cannot be read any more is no news then."""
        self._readable(socket, None)
        for watched in self._watches:
            if watched.handle.socket == socket:
                self._tasks.begin(self._gone(watched))

    def _readable(self, socket: str, reason: str | None) -> None:
        """One multiplexer's word on whether it can be read, made into the host's: the first bad, the last good."""
        before = bool(self._unreadable)
        if reason is None:
            self._unreadable.pop(socket, None)
        else:
            self._unreadable[socket] = reason
        if bool(self._unreadable) != before:
            for callback in self._on_host:
                callback(reason)

    # -- typing --------------------------------------------------------------------------------------------------

    async def type(self, handle: Handle, keys: Sequence[str], *, literal: bool) -> None:
        await self._of(handle).type(handle.generation, keys, literal=literal)

    def attach_argv(self, handle: Handle, *, read_only: bool = False) -> list[str]:
        return self._of(handle).attach_argv(handle.session, handle.generation, read_only=read_only)

    # -- ending --------------------------------------------------------------------------------------------------

    async def end(self, handle: Handle, *, grace: float) -> Ended:
        folder = Path(handle.folder)
        facts = await self._facts(handle)
        before = await self._watches.shown(handle, self._of(handle)) if facts.alive else None
        killed: tuple[int, ...] = ()
        if not launches.is_purged(folder):
            spare = [facts.launcher] if facts.launcher is not None else []
            killed = await self._kill([folder], grace, spare)
        try:
            await self._keep_screen(handle, before)
        except StorageFull as error:  # what is to end ends all the same
            log.warning("%s: its last screen is not kept: %s", handle.generation, error)
        await self._of(handle).close_pane(handle.generation)
        await asyncio.to_thread(launches.mark_purged, folder)
        await self._watches.log(handle.agent).flush()
        if self._watches.get(handle) is None and self._assigned.get(handle.agent) == handle.socket:
            del self._assigned[handle.agent]
        return Ended((await self._facts(handle)).exit_status, killed)

    async def purge(self, agent: str, *, keep: str | None = None, grace: float = 0.5) -> tuple[int, ...]:
        root = self._places.agent(agent) / "launch"
        found = [root / name for name in await self.list(str(root)) if name != keep]
        folders = [folder for folder in found if not launches.is_purged(folder)]
        if not folders:
            if len(found) > KEPT_LAUNCHES:
                await asyncio.to_thread(launches.forget_oldest, root, keep, KEPT_LAUNCHES)
            return ()
        facts = [await asyncio.to_thread(launches.facts, folder) for folder in folders]
        there = await self._search(folders)
        if there:
            await self._kill(folders, grace, [fact.launcher for fact in facts if fact.launcher is not None])
        for folder in folders:
            await self._close_old_pane(agent, folder)
            await asyncio.to_thread(launches.mark_purged, folder)
        await asyncio.to_thread(launches.forget_oldest, root, keep, KEPT_LAUNCHES)
        return tuple(sorted(process.pid for process in there))

    async def _close_old_pane(self, agent: str, folder: Path) -> None:
        """Keep the last screen of an older launch, and close its pane."""
        where = launches.pane(folder)
        if where is not None:
            handle = Handle(agent, folder.name, self.name, *where, agent, str(folder))
            await self._keep_screen(handle, None)
            await self._of(handle).close_pane(folder.name)

    async def _kill(self, folders: Sequence[Path], grace: float, spare: Sequence[Process]) -> tuple[int, ...]:
        search, look = functools.partial(launches.search, folders), functools.partial(self._search, folders)
        try:
            return await processes.end(search, grace=grace, spare=spare, look=look)
        except TimeoutError as error:
            raise Unconfirmed(str(error)) from error

    async def _search(self, folders: Sequence[Path]) -> set[Process]:
        """All processes of these launches that live. Whoever asks at the same time shares the census."""
        return await asyncio.to_thread(launches.found, folders, *await self._censuses.read())

    async def _remember(self) -> None:
        """Now and then note who is in the launches' trees, so that who leaves them is found at the end."""
        trees = launches.Trees()
        while True:
            await self._clock.sleep(REMEMBER_EVERY)
            roots = {}
            for watched in self._watches:
                if (facts := watched.facts) is not None and facts.launcher is not None and not watched.dead:
                    own = (facts.launcher, facts.program)
                    roots[watched.handle.folder] = [process for process in own if process is not None]
            if roots:
                await asyncio.to_thread(trees.note, roots)

    async def cleanup(self, keep: Collection[str], *, dry_run: bool) -> list[str]:
        words = []
        agents = self._places.state / "agents"
        strays = await asyncio.to_thread(launches.strays, agents, keep)
        words += [f"process {process.pid} of {generation}" for process, generation in strays.items()]
        if strays and not dry_run:
            old = functools.partial(_strays_now, agents, frozenset(keep))
            await processes.end(old, grace=self._settings.kill_grace)
        words += await self._clean_panes(keep, dry_run)
        for agent in await self.list(str(agents)):
            root = agents / agent / "launch"
            for name in await self.list(str(root)):
                if name not in keep:
                    words.append(f"folder {root / name}")
                    if not dry_run:
                        await asyncio.to_thread(launches.remove, root / name)
        return words

    async def _clean_panes(self, keep: Collection[str], dry_run: bool) -> list[str]:
        """Panes of launches that are over, and sockets behind which nobody is."""
        words = []
        for name in await self.list(str(self._places.run)):
            path = self._places.run / name
            if name.startswith("tmux-") and name.endswith(".sock"):
                panes = await asyncio.to_thread(tmux.panes_of, str(path))
                if panes is None:
                    words.append(f"socket {path}")
                    if not dry_run:
                        await asyncio.to_thread(path.unlink, missing_ok=True)
                    continue
            elif name == "screen":
                panes = await self._multiplexer("screen", str(path)).panes()
            else:
                continue
            for generation in sorted(panes - set(keep)):
                words.append(f"pane of {generation}")
                if not dry_run:
                    await self._multiplexer("screen" if name == "screen" else "tmux", str(path)).close_pane(generation)
        return words

    async def dismiss(self) -> None:
        for name in await self.list(str(self._places.run)):
            if name.startswith("tmux-") and name.endswith(".sock"):
                try:
                    await self._multiplexer("tmux", str(self._places.run / name)).dismiss()
                except (HostUnreachable, TimeoutError) as error:
                    log.warning("the tmux server %s could not be ended: %s", name, error)

    # -- what is kept ----------------------------------------------------------------------------------------------

    async def _keep_screen(self, handle: Handle, before: Screen | None) -> None:
        within = 0.0 if handle.multiplexer == "screen" else SETTLE  # which cannot tell a dead pane from a living one
        await self._watches.keep(
            handle,
            before,
            names=functools.partial(self.list, handle.folder),
            last=lambda: watching.final(self._of(handle), handle.generation, within=within),
            put=lambda file: self.put([file]),
        )

    async def last_screen(self, handle: Handle) -> str | None:
        return await watching.last_screen(self.read, handle)

    async def log_lines(self, handle: Handle, count: int) -> list[str]:
        return await self._watches.lines(handle, count, self._newest)

    async def _newest(self, watched: _Watched) -> Seen | None:
        seen = await self._of(watched.handle).last(watched.handle.generation)
        if seen is not None:
            self._saw(watched, seen)
        return seen

    # -- the host itself -------------------------------------------------------------------------------------------

    async def run(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str, timeout: float, stdin: bytes = b""
    ) -> Ran:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, env=dict(env), cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
            )
        except OSError as error:
            what = f"the folder {cwd} cannot be entered" if error.filename == cwd else f"{argv[0]} cannot be run"
            raise LaunchError(f"{what}: {error.strerror}") from error
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(stdin)
        except TimeoutError:
            raise TimedOut(f"{argv[0]} was not done within {timeout:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        status = process.returncode or 0
        return Ran(status if status >= 0 else 128 - status, out, err)

    async def put(self, files_: Sequence[File]) -> None:
        try:
            await asyncio.to_thread(files.put, files_)
        except OSError as error:
            raise _refused(error, "written") from error

    async def read(self, path: str, *, tail: int | None = None) -> bytes | None:
        try:
            return await asyncio.to_thread(files.read, path, tail)
        except OSError as error:
            raise _refused(error, "read") from error

    async def list(self, folder: str) -> list[str]:
        return await asyncio.to_thread(files.names, folder)

    def watch_folder(self, folder: str, on_change: Callable[[str], None]) -> Callable[[], None]:
        return self._folders.watch(folder, on_change)

    async def close(self) -> None:
        await self._tasks.close()
        for multiplexer in self._multiplexers.values():
            await multiplexer.close()
        await self._watches.close()
        await self._folders.close()


class _Watched(watching.Watched):
    """One launch that somebody watches."""

    def __init__(self, handle: Handle, on_look: OnLook) -> None:
        super().__init__(handle, on_look)
        self.facts: launches.Facts | None = None
        self._fd: int | None = None

    def launcher_lives(self) -> bool:
        launcher = self.facts.launcher if self.facts is not None else None
        return launcher is not None and processes.alive(launcher)

    def hold(self, on_end: Callable[[], None]) -> bool:
        """Have the kernel tell when the launcher ends. False where it cannot."""
        assert self.facts is not None and self.facts.launcher is not None
        if not hasattr(os, "pidfd_open"):
            return False
        try:
            self._fd = os.pidfd_open(self.facts.launcher.pid)
        except OSError:
            return False
        asyncio.get_running_loop().add_reader(self._fd, on_end)
        if not self.launcher_lives():  # it ended, and its pid may be another's, before we held it
            asyncio.get_running_loop().call_soon(on_end)
        return True

    def release(self) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def close(self) -> None:
        super().close()
        self.release()


def _program_of(plan: LaunchPlan) -> str:
    """The program's path, or why it cannot be launched: tmux itself would pass over a missing folder in silence,
    and tell of a missing program by status 1."""
    cwd = Path(plan.cwd)
    if not cwd.is_dir():
        what = "is not a folder" if cwd.exists() else "does not exist"
        raise LaunchError(f"the folder {plan.cwd} {what}", hint="make it, or name another as workdir")
    if not os.access(cwd, os.X_OK):
        raise LaunchError(f"the folder {plan.cwd} may not be entered")
    if not plan.argv or not plan.argv[0]:
        raise LaunchError("there is no program to run")
    given = {"an argument": "".join(plan.argv), **{f"the variable {name}": text for name, text in plan.env.items()}}
    if zero := next((what for what, text in given.items() if "\0" in text), None):
        raise LaunchError(f"{zero} holds a zero byte, which no program can be given")
    name = plan.argv[0]
    path = str(cwd / name) if "/" in name else shutil.which(name, path=plan.env.get("PATH", os.defpath))
    if path is None:
        hint = "install it, or give its path as command"
        raise LaunchError(f"the program {name} is not on the agent's PATH", hint=hint)
    if not Path(path).is_file():
        what = "is no file" if Path(path).exists() else "does not exist"
        raise LaunchError(f"the program {path} {what}", hint="name another as command")
    if not os.access(path, os.X_OK):
        raise LaunchError(f"the program {path} may not be executed", hint=f"`chmod +x {shlex.quote(path)}`")
    return path


def _refused(error: OSError, what: str) -> FleetError:
    """Why a file could not be had, in the tree of errors; a full disk is one that time or a person settles."""
    kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else LaunchError
    return kind(f"{error.filename or 'a file'} could not be {what}: {error.strerror or error}")


async def _lives_on(lives: Callable[[], bool]) -> bool:
    """Whether something that may be about to end still lives after a moment."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLE
    while lives():
        if loop.time() >= deadline:
            return True
        await asyncio.sleep(0.01)
    return False


def _failed(task: asyncio.Task[None], error: BaseException) -> None:
    """A fault in what is done beside stops nothing else."""
    log.error("%s failed", task.get_name(), exc_info=error)


def _strays_now(agents: Path, keep: frozenset[str]) -> set[Process]:
    return set(launches.strays(agents, keep))
