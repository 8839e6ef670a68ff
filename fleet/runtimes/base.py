"""Runtime: a few verbs by which an agent is launched, seen, typed into and ended on its host.

Every verb raises `HostUnreachable` when the host or its multiplexer could not be read: not seeing an agent is
not seeing it gone. A verb that would act on a handle acts on exactly that launch, never on a namesake.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet.processes import Cost
from fleet.terms import File, Handle, LaunchPlan, Look, Process, Ran, Spooled

OnLook = Callable[[Handle, Look], None]
OnHost = Callable[[str | None], None]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a multiplexer can tell. What it cannot is unknown, and nothing is typed on a guess."""

    colours: bool
    cursor: bool
    title: bool
    alternate: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """What ending a launch took."""

    exit_status: int | None
    killed: tuple[int, ...] = ()
    """Pids that needed SIGKILL."""


class Far(Protocol):
    """What another machine has of its own: nothing of this one's environment, folders or clock holds there."""

    machine: str
    """Its name, for a person."""
    folder: str
    """Fleet's own folder there."""
    ahead: float
    """Seconds by which its clock is ahead of ours, when it was last heard."""
    hub: str | None
    """The hub's socket there; `None` where the host does not carry one."""

    async def environment(self, login_shell: bool) -> Mapping[str, str]:
        """What a session of the user's has there; with `login_shell` after their profile was read."""
        ...

    async def spooled(self, folder: str) -> tuple[list[Spooled], bool]:
        """Events that lie in a folder of the spool, and whether there are more. They stay there."""
        ...

    async def forget(self, folder: str, names: Sequence[str]) -> None:
        """Remove these from a folder of the spool: they are kept here now."""
        ...

    async def figures(self, roots: Collection[Process]) -> Mapping[Process, Cost]:
        """What the trees of those that live there cost, in one request."""
        ...

    async def clear(self, agent: str) -> None:
        """Remove what is kept there of an agent that is no more: its launches and its part of the spool. Its workspace
        stays. Raise `Unconfirmed` where something of it lives."""
        ...


class Runtime(Protocol):
    """Where agents run."""

    name: str
    """local, ssh, slurm, slurm-tenant, memory."""

    @property
    def far(self) -> Far | None:
        """Another machine's own things; `None` where agents run on this machine."""
        ...

    def capabilities(self, multiplexer: str) -> Capabilities:
        """What that multiplexer can tell here."""
        ...

    def mint(self, agent: str, generation: str, multiplexer: str) -> Handle:
        """A handle for a launch to come. Nothing is done yet, so it can be written down first."""
        ...

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        """Put the plan's files, then start the launcher and, in it, the program.

        Idempotent per handle: a launch that already happened (the daemon was killed in between) is left as it is.
        Raise `LaunchError` where the host says no (no such folder, program not found).
        """
        ...

    async def look(self, handle: Handle) -> Look:
        """See the agent now, its screen included where it has one. One that is not there is not alive."""
        ...

    def watch(self, handle: Handle, on_look: OnLook) -> None:
        """From now on call `on_look` when the pane has changed, or the launch has died; also once at once."""
        ...

    def unwatch(self, handle: Handle) -> None: ...

    def on_host(self, callback: OnHost) -> None:
        """`callback(reason)` when the host or multiplexer cannot be read, `callback(None)` when it can again."""
        ...

    async def type(self, handle: Handle, keys: Sequence[str], *, literal: bool) -> None:
        """Send keys: with `literal` as text, else as key names of tmux (`Enter`, `Escape`, `C-c`, `1`)."""
        ...

    async def end(self, handle: Handle, *, grace: float) -> Ended:
        """End the launch: SIGTERM to the program's whole tree and all that bears its generation, after `grace`
        seconds SIGKILL, what has moved to another session included; the pane goes too. Its last screen is kept.
        Idempotent: ending what has ended is fine.
        """
        ...

    async def purge(self, agent: str, *, keep: str | None = None, grace: float = 0.5) -> tuple[int, ...]:
        """End every process of the agent that bears another generation than `keep`, and their panes. Their pids."""
        ...

    async def last_screen(self, handle: Handle) -> str | None:
        """The screen as it stood at the end, kept after the pane is gone."""
        ...

    async def log_lines(self, handle: Handle, count: int) -> list[str]:
        """The newest lines that went over the pane, oldest first, also after the pane is gone."""
        ...

    def seen_at(self, handle: Handle) -> float | None:
        """When the pane was last part of a sweep that succeeded, changed or not; `None`: not watched."""
        ...

    async def cleanup(self, keep: Collection[str], *, dry_run: bool) -> list[str]:
        """Remove what no launch in `keep` (generations) needs any more: panes and processes of other generations of
        this fleet, their launch folders, sockets without a server. What was (or would be) removed, in words.
        """
        ...

    def attach_argv(self, handle: Handle, *, read_only: bool = False) -> list[str]:
        """The command that opens the pane in a terminal; with `read_only` what is typed there does not reach it.
        `Usage` where the multiplexer cannot do that."""
        ...

    # -- the host itself -------------------------------------------------------------------------------------

    async def run(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str, timeout: float, stdin: bytes = b""
    ) -> Ran:
        """Run a short command to its end, in a process group of its own that is ended at the time-out
        (`TimedOut`)."""
        ...

    async def put(self, files: Sequence[File]) -> None:
        """Write files, each whole or not at all; missing folders are made, 0700."""
        ...

    async def read(self, path: str, *, tail: int | None = None) -> bytes | None:
        """A file's content, or its last `tail` bytes; `None` where there is none. Costs no more for a big file."""
        ...

    async def list(self, folder: str) -> list[str]:
        """Names in a folder; none where there is no folder."""
        ...

    def watch_folder(self, folder: str, on_change: Callable[[str], None]) -> Callable[[], None]:
        """Call back with the name of each file that was written or renamed into the folder, or removed from it.

        A folder that does not exist yet is watched for as well. The returned function ends the watch.
        """
        ...

    async def dismiss(self) -> None:
        """End the multiplexers' servers of this fleet in which no pane is left."""
        ...

    async def close(self) -> None:
        """Let go of connections and watches. Agents stay as they are."""
        ...


class ByItsHost:
    """What a runtime leaves to that of the host it stands on: short commands, files and folders."""

    _host: Runtime

    async def run(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str, timeout: float, stdin: bytes = b""
    ) -> Ran:
        return await self._host.run(argv, env=env, cwd=cwd, timeout=timeout, stdin=stdin)

    async def put(self, files: Sequence[File]) -> None:
        await self._host.put(files)

    async def read(self, path: str, *, tail: int | None = None) -> bytes | None:
        return await self._host.read(path, tail=tail)

    async def list(self, folder: str) -> list[str]:
        return await self._host.list(folder)

    def watch_folder(self, folder: str, on_change: Callable[[str], None]) -> Callable[[], None]:
        return self._host.watch_folder(folder, on_change)
