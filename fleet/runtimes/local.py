"""Agents on this machine, in tmux or screen.

What lives is told by the launcher, by pid and start time, never by the multiplexer: the exit status, the last
screen and the log do not depend on tmux. What is seen comes from the multiplexer. The two meet here.

A launch's folder (`Handle.folder`) holds, beside what the plan put there:
  env launcher program exit   the launcher's own (launcher.sh)
  server                      the multiplexer's server that the pane was opened on: pid and start time
  seen                        processes that were once seen in the launch's tree
  screen                      the last screen, kept after death
  purged                      nothing of this launch lives any more, and nothing of it can come back
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import shutil
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet import processes
from fleet.clock import Clock
from fleet.errors import HostUnreachable, LaunchError, TimedOut, Unconfirmed
from fleet.redact import redact
from fleet.runtimes import tmux
from fleet.runtimes.base import Capabilities, Ended, OnHost, OnLook
from fleet.runtimes.folders import FolderWatch
from fleet.runtimes.logs import AgentLog
from fleet.settings import Places, Settings
from fleet.terms import File, Handle, LaunchPlan, Look, Process, Ran, Screen

log = logging.getLogger(__name__)

LAUNCHER = Path(__file__).with_name("launcher.sh")
BARE = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
"""All the environment a multiplexer's server gets: every pane would inherit what it has."""
SHELL_OWN = frozenset(("_", "PPID", "OPTIND", "UID", "EUID", "BASHOPTS", "SHELLOPTS", "BASH_VERSINFO", "LINENO"))
"""Variables a shell keeps for itself: assigning them fails or means something else."""
NOTED_WITHIN = 10.0
"""Seconds the launcher may take to note itself and its program: a few milliseconds, on a loaded machine more."""
SETTLE = 0.25
"""Seconds to wait, after a death, for what else it brings: the pane's last output, the server's own end."""
REMEMBER_EVERY = 30.0
"""Seconds between two looks at the trees of all launches, for processes that leave them later."""
KEPT_LAUNCHES = 5
"""Folders of ended launches that are kept per agent."""


def quote_env(env: Mapping[str, str]) -> bytes:
    """The environment as assignments for `.`: single quotes, in which sh takes every byte for itself.

    Names that no shell can hold (exported bash functions) are left out, and those a shell keeps for itself.
    """
    lines = []
    for name, value in env.items():
        if name.isidentifier() and name.isascii() and name not in SHELL_OWN:
            lines.append(f"{name}='" + value.replace("'", "'\\''") + "'\n")
    return os.fsencode("".join(lines))


class LocalRuntime:
    """Agents on this machine."""

    name = "local"

    def __init__(self, places: Places, settings: Settings, clock: Clock) -> None:
        self._places = places
        self._settings = settings
        self._clock = clock
        self._servers: dict[str, _TmuxServer] = {}
        self._assigned: dict[str, str] = {}
        """Which server's socket an agent's panes go to."""
        self._watched: dict[str, _Watched] = {}
        self._logs: dict[str, AgentLog] = {}
        self._on_host: list[OnHost] = []
        self._unreachable: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._folders = FolderWatch(clock)
        self._remembering: asyncio.Task[None] | None = None
        self._closed = False

    # -- minting -------------------------------------------------------------------------------------------------

    def capabilities(self, multiplexer: str) -> Capabilities:
        return tmux.CAPABILITIES

    def mint(self, agent: str, generation: str, multiplexer: str) -> Handle:
        folder = self._places.agent(agent) / "launch" / generation
        return Handle(
            agent=agent,
            generation=generation,
            runtime=self.name,
            multiplexer=multiplexer,
            socket=self._socket_for(agent),
            session=agent,
            folder=str(folder),
        )

    def _socket_for(self, agent: str) -> str:
        """The server an agent has had, else the first with room."""
        if agent in self._assigned:
            return self._assigned[agent]
        counts: dict[str, int] = {}
        for socket in self._assigned.values():
            counts[socket] = counts.get(socket, 0) + 1
        number = 0
        while counts.get(socket := str(self._places.run / f"tmux-{number}.sock"), 0) >= self._settings.panes_per_server:
            number += 1
        self._assigned[agent] = socket
        return socket

    def _server(self, handle: Handle) -> _TmuxServer:
        server = self._servers.get(handle.socket)
        if server is None:
            server = _TmuxServer(Path(handle.socket), self._places, self._settings, self._clock)
            server.tmux.on_host(functools.partial(self._host, handle.socket))
            server.tmux.on_gone(functools.partial(self._server_gone, handle.socket))
            self._servers[handle.socket] = server
        return server

    # -- launching -----------------------------------------------------------------------------------------------

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        folder = Path(handle.folder)
        if not (folder / "claim").exists():
            program = await asyncio.to_thread(self._check, plan)
            env = {**plan.env, "FLEET_GENERATION": handle.generation, "TERM": tmux.TERM}
            if not env.get("TMUX"):
                env["TMUX"] = f"{self._places.run}/own-{handle.agent}.sock,0,0"
            await self.put([*plan.files, File(str(folder / "env"), quote_env(env))])
            argv = ["env", "-i", "/bin/sh", str(LAUNCHER), handle.folder, plan.cwd, program, *plan.argv[1:]]
            server = self._server(handle)
            process = await server.ensure()
            await self.put([File(str(folder / "server"), _note(process))])
            self._log(handle.agent).begin(handle.generation, self._clock.now())
            await server.tmux.new_session(handle.session, handle.generation, argv, plan.width, plan.height)
        await self._noted(handle)

    def _check(self, plan: LaunchPlan) -> str:
        """The program's path, or why it cannot be launched: tmux itself would pass over a missing folder in
        silence and tell of a missing program by status 1."""
        cwd = Path(plan.cwd)
        if not cwd.is_dir():
            what = "is not a folder" if cwd.exists() else "does not exist"
            raise LaunchError(f"the folder {plan.cwd} {what}", hint="make it, or name another as workdir")
        if not os.access(cwd, os.X_OK):
            raise LaunchError(f"the folder {plan.cwd} may not be entered")
        if not plan.argv or not plan.argv[0]:
            raise LaunchError("there is no program to run")
        if any("\0" in word for word in (*plan.argv, *plan.env.values())):
            raise LaunchError("an argument or a variable holds a zero byte, which no program can be given")
        name = plan.argv[0]
        path = str(cwd / name) if "/" in name else shutil.which(name, path=plan.env.get("PATH", os.defpath))
        if path is None:
            raise LaunchError(
                f"the program {name} is not on the agent's PATH", hint="install it, or give its path as command"
            )
        if not Path(path).is_file():
            raise LaunchError(f"the program {path} does not exist")
        if not os.access(path, os.X_OK):
            raise LaunchError(f"the program {path} may not be executed")
        return path

    async def _noted(self, handle: Handle) -> None:
        """Return when the launcher has noted its program."""
        folder = Path(handle.folder)
        try:
            async with asyncio.timeout(NOTED_WITHIN):
                while not ((folder / "program").exists() or (folder / "exit").exists()):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise LaunchError(f"the launcher of {handle.generation} has noted nothing in {handle.folder}") from None

    # -- looking -------------------------------------------------------------------------------------------------

    async def look(self, handle: Handle) -> Look:
        facts = await asyncio.to_thread(_Facts.read, Path(handle.folder))
        server = self._server(handle)
        pane: str | None = None
        screen: Screen | None = None
        lost = facts.server is not None and not processes.alive(facts.server) and not facts.screen_kept
        if not lost:
            try:
                seen = await server.tmux.see(handle.generation)
            except tmux.ServerGone:
                seen = None
                lost = facts.server is not None and not facts.screen_kept
            if seen is not None:
                pane, screen = seen
        if screen is not None and facts.exit_status is not None:
            screen = _with_status(screen, facts.exit_status)
        return Look(
            at=self._clock.now(),
            alive=facts.alive,
            program=facts.program,
            exit_status=facts.exit_status,
            screen=screen,
            multiplexer_lost=lost,
            pane=pane,
        )

    # -- watching ------------------------------------------------------------------------------------------------

    def watch(self, handle: Handle, on_look: OnLook) -> None:
        self.unwatch(handle)
        self._assigned.setdefault(handle.agent, handle.socket)
        watched = _Watched(handle, on_look)
        self._watched[handle.generation] = watched
        self._do(self._begin(watched))
        if self._remembering is None:
            self._remembering = asyncio.create_task(self._remember(), name="fleet-remember-trees")

    def unwatch(self, handle: Handle) -> None:
        watched = self._watched.pop(handle.generation, None)
        if watched is not None:
            watched.close()
            self._server(handle).tmux.unwatch(handle.generation)

    def on_host(self, callback: OnHost) -> None:
        self._on_host.append(callback)

    async def _begin(self, watched: _Watched) -> None:
        """The first look, and from then on the pane and the launcher."""
        handle = watched.handle
        facts = await asyncio.to_thread(_Facts.read, Path(handle.folder))
        if watched.closed():
            return
        if not facts.alive:
            await self._died(watched)
            return
        assert facts.launcher is not None
        watched.program = facts.program
        watched.launcher = facts.launcher
        if not watched.hold(functools.partial(self._on_launcher_end, watched)):
            self._do(self._poll_launcher(watched))
        if facts.server is not None and not processes.alive(facts.server):
            await self._lost(watched)
            return
        tail = await asyncio.to_thread(self._log(handle.agent).tail_of, handle.generation)
        if watched.closed():
            return
        self._server(handle).tmux.watch(
            handle.generation,
            functools.partial(self._on_seen, watched, tail),
            functools.partial(self._on_missing, watched),
        )

    def _on_seen(self, watched: _Watched, tail: list[str], seen: tmux.Seen) -> None:
        """The pane has changed."""
        if watched.closed() or watched.dead:
            return
        if seen.scrolled:
            lines = list(seen.scrolled)
            self._log(watched.handle.agent).add(_after(tail, lines) if seen.first else lines)
        if not seen.screen.dead:
            watched.screen = seen.screen
            server = self._server(watched.handle)
            self._tell(
                watched,
                Look(
                    at=self._clock.now(),
                    alive=True,
                    program=watched.program,
                    screen=seen.screen,
                    pane=server.tmux.id_of(watched.handle.generation),
                ),
            )

    def _on_missing(self, watched: _Watched) -> None:
        """The pane is not there, though the server is: somebody closed it. The launcher tells whether it lives."""
        self._do(self._died(watched))

    def _on_launcher_end(self, watched: _Watched) -> None:
        watched.release()
        self._do(self._died(watched))

    async def _poll_launcher(self, watched: _Watched) -> None:
        while not watched.closed() and watched.launcher is not None:
            if not processes.alive(watched.launcher):
                await self._died(watched)
                return
            await self._clock.sleep(self._settings.observe_interval)

    async def _died(self, watched: _Watched) -> None:
        """The launcher has ended, or its pane is gone: what became of it, told once."""
        if watched.closed() or watched.dead:
            return
        handle = watched.handle
        if watched.launcher is not None and processes.alive(watched.launcher):
            await self._lost(watched)
            return
        watched.dead = True
        try:
            await self._keep_screen(handle, watched.screen)
        except HostUnreachable as error:
            log.warning("%s: its last screen could not be read: %s", handle.generation, error)
        facts = await asyncio.to_thread(_Facts.read, Path(handle.folder))
        screen = watched.screen
        self._tell(
            watched,
            Look(
                at=self._clock.now(),
                alive=False,
                program=facts.program,
                exit_status=facts.exit_status,
                screen=_with_status(screen, facts.exit_status) if screen is not None else None,
                multiplexer_lost=await self._was_lost(facts),
                pane=None,
            ),
        )

    async def _was_lost(self, facts: _Facts) -> bool:
        """Whether the launch's server is gone: a pane that vanished with it is nobody's fault."""
        if facts.server is None or facts.screen_kept:
            return False
        return not processes.alive(facts.server) or await self._ends_soon(facts.server)

    async def _ends_soon(self, process: Process) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE
        while processes.alive(process):
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _lost(self, watched: _Watched) -> None:
        """The pane is gone and the launcher may live on: told as lost, unless it dies of it right away."""
        if watched.launcher is not None and await self._ends_soon(watched.launcher):
            await self._died(watched)
            return
        facts = await asyncio.to_thread(_Facts.read, Path(watched.handle.folder))
        if not watched.closed() and not watched.dead:
            self._tell(
                watched,
                Look(
                    at=self._clock.now(),
                    alive=True,
                    program=facts.program,
                    multiplexer_lost=facts.server is not None and not processes.alive(facts.server),
                ),
            )

    def _server_gone(self, socket: str) -> None:
        self._host(socket, None)
        for watched in list(self._watched.values()):
            if watched.handle.socket == socket:
                self._do(self._died(watched))

    def _host(self, socket: str, reason: str | None) -> None:
        """One server's word about being readable, made into the host's."""
        before = bool(self._unreachable)
        if reason is None:
            self._unreachable.discard(socket)
        else:
            self._unreachable.add(socket)
        if bool(self._unreachable) != before:
            for callback in self._on_host:
                callback(reason)

    def _tell(self, watched: _Watched, look: Look) -> None:
        told = (look.alive, look.exit_status, look.multiplexer_lost, look.screen)
        if not watched.closed() and told != watched.told:
            watched.told = told
            watched.on_look(watched.handle, look)

    def _do(self, work: Coroutine[None, None, None]) -> None:
        """Do something beside; a fault in it is logged, and stops nothing else."""
        if self._closed:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, HostUnreachable):
                log.warning("%s", error)
            else:
                log.error("a look failed", exc_info=error)

    # -- typing --------------------------------------------------------------------------------------------------

    async def type(self, handle: Handle, keys: Sequence[str], *, literal: bool) -> None:
        await self._server(handle).tmux.type(handle.generation, keys, literal=literal)

    def attach_argv(self, handle: Handle) -> list[str]:
        return tmux.attach_argv(handle.socket, handle.session)

    # -- ending --------------------------------------------------------------------------------------------------

    async def end(self, handle: Handle, *, grace: float) -> Ended:
        folder = Path(handle.folder)
        facts = await asyncio.to_thread(_Facts.read, folder)
        watched = self._watched.get(handle.generation)
        before = watched.screen if watched is not None else None
        if before is None and facts.alive:
            with contextlib.suppress(HostUnreachable):  # ending does not hang on a picture
                seen = await self._server(handle).tmux.see(handle.generation)
                before = seen[1] if seen is not None else None
        killed: tuple[int, ...] = ()
        if not (folder / "purged").exists():
            spare = [facts.launcher] if facts.launcher is not None else []
            search = functools.partial(_search, [folder], {handle.generation})
            killed = await self._kill(search, grace, spare)
        await self._keep_screen(handle, before)
        await self._server(handle).tmux.close_session(handle.generation)
        await asyncio.to_thread(_mark_purged, folder)
        await self._log(handle.agent).flush()
        if self._assigned.get(handle.agent) == handle.socket and watched is None:
            del self._assigned[handle.agent]
        facts = await asyncio.to_thread(_Facts.read, folder)
        return Ended(facts.exit_status, killed)

    async def purge(self, agent: str, *, keep: str | None = None, grace: float = 0.5) -> tuple[int, ...]:
        launches = self._places.agent(agent) / "launch"
        folders = [
            launches / name
            for name in await self.list(str(launches))
            if name != keep and not (launches / name / "purged").exists()
        ]
        if not folders:
            return ()
        facts = [await asyncio.to_thread(_Facts.read, folder) for folder in folders]
        spare = [fact.launcher for fact in facts if fact.launcher is not None]
        before = await asyncio.to_thread(_search, folders, {folder.name for folder in folders})
        if before:
            search = functools.partial(_search, folders, {folder.name for folder in folders})
            await self._kill(search, grace, spare)
        for folder, fact in zip(folders, facts, strict=True):
            await self._close_pane(agent, folder, fact)
            await asyncio.to_thread(_mark_purged, folder)
        await asyncio.to_thread(_forget_oldest, launches, keep)
        return tuple(sorted(process.pid for process in before))

    async def _close_pane(self, agent: str, folder: Path, facts: _Facts) -> None:
        """Keep the last screen of a launch that has ended, and close its pane, whichever server it is on."""
        if facts.server is None or not processes.alive(facts.server):
            return
        socket = await asyncio.to_thread(_read_text, folder / "socket")
        handle = Handle(
            agent=agent,
            generation=folder.name,
            runtime=self.name,
            multiplexer="tmux",
            socket=socket or self._socket_for(agent),
            session=agent,
            folder=str(folder),
        )
        await self._keep_screen(handle, None)
        await self._server(handle).tmux.close_session(folder.name)

    async def _kill(
        self, search: Callable[[], set[Process]], grace: float, spare: Sequence[Process]
    ) -> tuple[int, ...]:
        try:
            return await processes.end(search, grace=grace, spare=spare)
        except TimeoutError as error:
            raise Unconfirmed(str(error)) from error

    async def _remember(self) -> None:
        """Now and then note who is in the launches' trees, so that who leaves them is found at the end."""
        while True:
            await self._clock.sleep(REMEMBER_EVERY)
            roots = {w.handle.folder: w.launcher for w in self._watched.values() if w.launcher and not w.dead}
            if roots:
                await asyncio.to_thread(_note_trees, roots)

    # -- what is kept ----------------------------------------------------------------------------------------------

    async def _keep_screen(self, handle: Handle, before: Screen | None) -> None:
        """Write down the pane's screen as it stands at the end, once."""
        path = Path(handle.folder) / "screen"
        if path.exists():
            return
        last = await self._final(handle)
        if last is None:
            if before is None:
                return
            text = before.text
        elif before is not None and before.alternate and not last.alternate:
            text = before.text.rstrip() + "\n\n" + last.text  # what was up, then what it said on leaving
        else:
            text = last.text
        text = redact(text.rstrip() + "\n")
        if last is not None:
            await self.put([File(str(path), text.encode(errors="surrogateescape"))])
            self._log(handle.agent).add([line.rstrip() for line in last.text.rstrip().splitlines()])
        else:
            await self.put([File(str(path.with_name("screen-before")), text.encode(errors="surrogateescape"))])

    async def _final(self, handle: Handle) -> Screen | None:
        """The screen once tmux knows that the pane is dead: it may not have read the last output before."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE
        while True:
            try:
                seen = await self._server(handle).tmux.see(handle.generation)
            except tmux.ServerGone:
                return None
            if seen is None or seen[1].dead or loop.time() >= deadline:
                return seen[1] if seen is not None else None
            await asyncio.sleep(0.01)

    async def last_screen(self, handle: Handle) -> str | None:
        folder = Path(handle.folder)
        kept = await self.read(str(folder / "screen")) or await self.read(str(folder / "screen-before"))
        return None if kept is None else kept.decode(errors="replace")

    async def log_lines(self, handle: Handle, count: int) -> list[str]:
        """The last lines the agent has printed, over all its launches; those on its screen now come last."""
        watched = self._watched.get(handle.generation)
        showing: list[str] = []
        if watched is not None and watched.screen is not None and not watched.dead:
            showing = redact(watched.screen.text.rstrip()).splitlines()
        log = self._log(handle.agent)
        await log.flush()
        return (await asyncio.to_thread(log.last, count) + showing)[-count:]

    def _log(self, agent: str) -> AgentLog:
        if agent not in self._logs:
            limit = int(self._settings.log_kept_mb * 2**20)
            self._logs[agent] = AgentLog(self._places.agent(agent) / "log", limit)
        return self._logs[agent]

    # -- the host itself -------------------------------------------------------------------------------------------

    async def run(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str, timeout: float, stdin: bytes = b""
    ) -> Ran:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=dict(env),
                cwd=cwd,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(f"{argv[0]} could not be run in {cwd}: {error.strerror}") from error
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(stdin)
        except TimeoutError:
            raise TimedOut(f"{argv[0]} was not done within {timeout:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        status = process.returncode if process.returncode is not None else -1
        return Ran(status if status >= 0 else 128 - status, out, err)

    async def put(self, files: Sequence[File]) -> None:
        await asyncio.to_thread(_put, files)

    async def read(self, path: str, *, tail: int | None = None) -> bytes | None:
        return await asyncio.to_thread(_read, path, tail)

    async def list(self, folder: str) -> list[str]:
        return await asyncio.to_thread(_list, folder)

    def watch_folder(self, folder: str, on_change: Callable[[str], None]) -> Callable[[], None]:
        return self._folders.watch(folder, on_change)

    async def close(self) -> None:
        self._closed = True
        for watched in self._watched.values():
            watched.close()
        self._watched.clear()
        pending = [task for task in (*self._tasks, self._remembering) if task is not None]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for server in self._servers.values():
            await server.tmux.close()
        for log in self._logs.values():
            await log.flush()
        await self._folders.close()


# -- one launch ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Watched:
    """One launch that somebody watches."""

    handle: Handle
    on_look: OnLook
    launcher: Process | None = None
    program: Process | None = None
    screen: Screen | None = None
    """The last screen seen while it lived."""
    told: object = None
    dead: bool = False
    _closed: bool = False
    _fd: int | None = field(default=None)

    def hold(self, on_end: Callable[[], None]) -> bool:
        """Have the kernel tell when the launcher ends. False where it cannot."""
        assert self.launcher is not None
        if not hasattr(os, "pidfd_open"):
            return False
        try:
            self._fd = os.pidfd_open(self.launcher.pid)
        except OSError:
            return False
        asyncio.get_running_loop().add_reader(self._fd, on_end)
        if not processes.alive(self.launcher):  # it ended, and its pid is another's, before we held it
            asyncio.get_running_loop().call_soon(on_end)
        return True

    def release(self) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def closed(self) -> bool:
        """Whether nobody wants to hear of it any more."""
        return self._closed

    def close(self) -> None:
        self._closed = True
        self.release()


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a launch's folder tells, and whether its launcher lives."""

    launcher: Process | None
    program: Process | None
    server: Process | None
    exit_status: int | None
    screen_kept: bool
    alive: bool

    @classmethod
    def read(cls, folder: Path) -> _Facts:
        launcher = _process(folder / "launcher")
        alive = launcher is not None and processes.alive(launcher)
        noted = (_read(str(folder / "exit"), None) or b"").strip()
        return cls(
            launcher=launcher,
            program=_process(folder / "program"),
            server=_process(folder / "server"),
            exit_status=int(noted) if noted.isdigit() else None,
            screen_kept=(folder / "screen").exists(),
            alive=alive,
        )


def _process(path: Path) -> Process | None:
    try:
        return processes.parse(path.read_bytes(), path.stat().st_mtime)
    except OSError:
        return None


def _note(process: Process) -> bytes:
    return f"{process.pid} {process.start}\n".encode()


def _with_status(screen: Screen, status: int | None) -> Screen:
    return Screen(
        text=screen.text,
        ansi=screen.ansi,
        title=screen.title,
        width=screen.width,
        height=screen.height,
        cursor=screen.cursor,
        alternate=screen.alternate,
        dead=True,
        exit_status=status,
    )


def _after(tail: list[str], lines: list[str]) -> list[str]:
    """Of `lines`, those after what the log ends with already."""
    if not tail:
        return lines
    for end in range(len(lines), 0, -1):
        known = tail[-end:] if end < len(tail) else tail
        if lines[end - len(known) : end] == known:
            return lines[end:]
    return lines


# -- a launch's processes --------------------------------------------------------------------------------------------


def _search(folders: Sequence[Path], generations: set[str]) -> set[Process]:
    """All processes of these launches that live: by their trees, by the mark they bear, by having been seen."""
    rows = processes.table()
    roots: list[Process] = []
    for folder in folders:
        roots += [process for name in ("launcher", "program") if (process := _process(folder / name)) is not None]
        roots += _seen(folder)
    roots += [process for process, mark in processes.marks(rows).items() if mark in generations]
    found = processes.descendants(rows, roots)
    return {process for process in found if process.pid != os.getpid()}


def _seen(folder: Path) -> list[Process]:
    content = _read(str(folder / "seen"), None) or b""
    found = [processes.parse(line) for line in content.splitlines()]
    return [process for process in found if process is not None]


def _note_trees(roots: Mapping[str, Process]) -> None:
    """Note the processes below each launcher that were not noted before."""
    rows = processes.table()
    for folder, launcher in roots.items():
        known = set(_seen(Path(folder)))
        new = processes.descendants(rows, [launcher]) - known
        if new:
            with contextlib.suppress(FileNotFoundError), open(Path(folder) / "seen", "ab") as file:
                file.write(b"".join(_note(process) for process in sorted(new, key=lambda p: p.pid)))


def _mark_purged(folder: Path) -> None:
    if folder.is_dir():
        (folder / "purged").touch()


def _forget_oldest(launches: Path, keep: str | None) -> None:
    """Remove the folders of ended launches, but for the latest few."""
    ended = [folder for folder in launches.iterdir() if folder.name != keep and (folder / "purged").exists()]
    ended.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in ended[KEPT_LAUNCHES:]:
        shutil.rmtree(folder, ignore_errors=True)


# -- files -----------------------------------------------------------------------------------------------------------


def _put(files: Sequence[File]) -> None:
    for file in files:
        path = Path(file.path)
        _make_folder(path.parent)
        beside = path.with_name(f".{path.name}.{os.getpid()}.new")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as out:
                os.fchmod(out.fileno(), file.mode)
                out.write(file.content)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def _make_folder(folder: Path) -> None:
    """The folder, 0700 like each that has to be made above it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def _read(path: str, tail: int | None) -> bytes | None:
    try:
        with open(path, "rb") as file:
            if tail is not None:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - tail))
            return file.read() if tail is None else file.read(tail)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _read_text(path: Path) -> str | None:
    content = _read(str(path), None)
    return None if content is None else content.decode().strip()


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 (names are what is asked for)
    except (FileNotFoundError, NotADirectoryError):
        return []


# -- a tmux server of this machine -------------------------------------------------------------------------------------


class _TmuxServer:
    """One tmux server on this machine: started with a bare environment, told by pid and start time."""

    def __init__(self, socket: Path, places: Places, settings: Settings, clock: Clock) -> None:
        self._socket = socket
        self._note = places.state / "multiplexers" / socket.stem
        self._settings = settings
        self._starting = asyncio.Lock()
        self.tmux = tmux.Tmux(self._connect, settings, clock)

    def process(self) -> Process | None:
        """The server's process as it was noted, if that lives."""
        noted = _process(self._note)
        return noted if noted is not None and processes.alive(noted) else None

    async def ensure(self) -> Process:
        """The server, started where there is none."""
        async with self._starting:
            try:
                pid = await self.tmux.server_pid()
            except tmux.ServerGone:
                await self._start()
                pid = await self.tmux.server_pid()
            process = processes.find(pid)
            if process is None:
                raise HostUnreachable("the tmux server ended just now")
            if process != self.process():
                await asyncio.to_thread(_put, [File(str(self._note), _note(process))])
            return process

    async def _start(self) -> None:
        await asyncio.to_thread(_make_folder, self._socket.parent)
        argv = tmux.start_argv(str(self._socket), self._settings)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=BARE,
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                umask=0o022,
            )
        except FileNotFoundError:
            raise LaunchError("tmux is not installed", hint="apt install tmux, or brew install tmux") from None
        _, said = await asyncio.wait_for(process.communicate(), self._settings.observe_timeout)
        if process.returncode:
            raise LaunchError(f"tmux could not start: {said.decode(errors='replace').strip()}")

    async def _connect(self, on_lost: Callable[[], None]) -> tmux.Control:
        """Open our client. A server that lives without its socket is asked to make it again."""
        try:
            return await self._open_client(on_lost)
        except tmux.ServerGone:
            server = self.process()
            if server is None:
                raise
        processes.send(server, signal.SIGUSR1)
        await asyncio.sleep(0.05)
        try:
            return await self._open_client(on_lost)
        except tmux.ServerGone as error:
            if self.process() is None:
                raise
            raise HostUnreachable(f"tmux is there but does not let us in: {error}") from error

    async def _open_client(self, on_lost: Callable[[], None]) -> tmux.Control:
        control = tmux.Control(on_lost)
        try:
            await _LocalClient.open(tmux.client_argv(str(self._socket)), control)
            await control.ready
        except BaseException:
            control.lost("tmux could not be reached")
            raise
        return control


class _LocalClient(asyncio.SubprocessProtocol):
    """Our kept client as a child process."""

    def __init__(self, control: tmux.Control) -> None:
        self._control = control
        self._transport: asyncio.SubprocessTransport | None = None
        self._said = b""

    @classmethod
    async def open(cls, argv: Sequence[str], control: tmux.Control) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.subprocess_exec(lambda: cls(control), *argv, env=BARE, cwd="/", start_new_session=True)
        except FileNotFoundError:
            raise LaunchError("tmux is not installed", hint="apt install tmux, or brew install tmux") from None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        self._control.pipe = self

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self._control.feed(data)
        else:
            self._said += data[:1000]

    def connection_lost(self, error: Exception | None) -> None:
        self._control.lost(self._said.decode(errors="replace").strip() or "the tmux client has ended")

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        stdin = self._transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        stdin.write(data)

    def kill(self) -> None:
        if self._transport is not None:
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()
            self._transport.close()
