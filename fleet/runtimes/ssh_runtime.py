"""Agents on another machine, over one kept ssh connection, in tmux there. Nothing of fleet is installed there.

Beside the agent stands the same launcher as at home. What lives is told by the host's own sh (ssh_host.sh), by pid and
start time; what is seen comes from tmux over a kept channel. What is kept of a pane (its log) is kept here, what
belongs to a launch (environment, exit status, last screen) there, below one folder of fleet's.

A link that does not carry speaks of no agent: every verb raises `HostUnreachable`, no watch tells anything, and when
the host is back each launch that is watched is looked at anew.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import re
import secrets
import shlex
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fleet.clock import Clock
from fleet.errors import CannotYet, FleetError, HostUnreachable, LaunchError, StorageFull, Unconfirmed
from fleet.processes import Cost
from fleet.runtimes import launches, tmux, watching
from fleet.runtimes.base import Capabilities, Ended, OnHost, OnLook
from fleet.runtimes.multiplexers import Seen, ServerGone
from fleet.runtimes.ssh import READY, Link, for_any_shell
from fleet.runtimes.ssh_files import Reads, pack, tar, untar
from fleet.runtimes.ssh_hosts import HostState
from fleet.runtimes.ssh_shell import Facts, HostShell, read_facts
from fleet.runtimes.ssh_tmux import SshTmux, login, sh
from fleet.settings import Places, Settings
from fleet.tasks import Tasks
from fleet.terms import File, Handle, LaunchPlan, Look, Process, Ran, Screen, Spooled

log = logging.getLogger(__name__)

SCRIPTS = {name: Path(__file__).with_name(name) for name in ("ssh_host.sh", "launcher.sh", "turn_limit.sh")}
NOTED_WITHIN = 10.0
"""Seconds the launcher may take to note its program."""
SETTLE = 0.5
"""Seconds to wait, after a death, for what else it brings: the pane's last output, the server's own end."""
AGAIN = 1.0
"""Seconds until what a host that answers could not tell is asked again."""
COMMAND_WITHIN = 60.0
"""Seconds a command of ours (files put, a tree ended) may take beyond what it has to wait for."""
KEPT_LAUNCHES = 5
"""Folders of ended launches that are kept per agent."""
_OF_THE_SESSION = re.compile(r"SSH_(CLIENT|CONNECTION|TTY|ORIGINAL_COMMAND)|_|SHLVL|PWD|OLDPWD")
"""What a session's environment has that is that session's alone."""
TERMINAL = (
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
    *("-o", "ControlPath=none"),
    *("-o", "ClearAllForwardings=yes"),
    *("-o", "RemoteCommand=none"),
)
"""What ssh is told beside the person's configuration when it opens a pane: on a connection of the person's that others
share, a cut would be noticed when those notice it, and their forwarded ports are taken already."""
KNOWN_TERM = "tput clear >/dev/null 2>&1 || { command -v tput >/dev/null && TERM=xterm-256color; }"
"""A terminal that the host has never heard of is taken for what most are."""
_SHOW_ENVIRONMENT = "exec cat /proc/self/environ"
Spools = list[Spooled]  # a method is called `list`
_FOLDER = re.compile(r"/[A-Za-z0-9._/@+~-]+")


class SshRuntime:
    """Agents on one ssh host."""

    name = "ssh"

    def __init__(
        self,
        link: Link,
        folder: str,
        places: Places,
        settings: Settings,
        clock: Clock,
        secrets_: Callable[[str], Collection[str]] = lambda _: (),
        fleet: str = "",
        *,
        hub: str | None = None,
        ready: int = READY,
    ) -> None:
        """`folder`: fleet's own there, absolute. `secrets_` tells what an agent was given as such. `fleet` is this
        fleet's own mark, by which the folder was named (`folder_for`). `hub`: what launches are told of the hub's
        socket where this connection is not to carry it. `ready`: how many sessions stand ready."""
        if not _FOLDER.fullmatch(folder):
            raise LaunchError(f"{folder!r} cannot be fleet's folder on {link.alias}: only letters, digits and ._/@+~-")
        self.link = link
        self.far = self
        self.machine = link.way.name
        self.folder = self._folder = folder
        self.ahead = 0.0
        self.hub = hub
        self._fleet, self._carries_hub, self._ready = fleet, hub is None, ready
        self._environments: dict[bool, Mapping[str, str]] = {}
        self._places = places
        self._settings = settings
        self._clock = clock
        self._packed = tar([(name, path.read_bytes(), 0o700) for name, path in SCRIPTS.items()])
        self._scripts = f"{folder}/sh-{hashlib.sha256(self._packed).hexdigest()[:16]}"
        link.prepare_with(self._prepare)
        link.on_state(self._link_told)
        self._host_sh = f"exec /bin/sh {self._scripts}/ssh_host.sh"
        self._shell = HostShell(link, f"{self._host_sh} serve {folder}", settings.observe_timeout, self._process_ended)
        self._reads = Reads(self.do_there)
        self._servers: dict[str, SshTmux] = {}
        """By socket."""
        self._assigned: dict[str, str] = {}
        self._only: dict[str, str] = {}
        """By agent, the only launch of which something may live there; empty: of none. Not here: that is not known."""
        self._ending: set[str] = set()
        """Launches that are being ended, by generation: who does that keeps their last screens."""
        self._watches: watching.Watches[_Watched] = watching.Watches(places, settings, secrets_)
        self._on_host: list[OnHost] = []
        self._unreadable: dict[str, str] = {}
        """What does not answer (the link, a tmux server), and why."""
        self._told_host = False
        """Whether the host was last told of as one that cannot be read."""
        self._tasks = Tasks(_failed)
        self._closed = False

    async def prepare(self) -> None:
        """Make the host ready over a connection that is there already."""
        await self._prepare(self.link)

    async def _prepare(self, link: Link) -> None:
        """Put our scripts there, once for each version of them: the first round trip of every connection.

        What a cut connection left is taken away, and with it the sh that still tells news into nowhere ends.
        """
        run, hub = f"{self._folder}/run", f"hub-{secrets.token_hex(4)}.sock"
        new = f"{self._scripts}.{secrets.token_hex(4)}"
        script = (
            f'umask 077; echo "$(uname -n) $(date +%s.%N)"; mkdir -p {run} && cd {run} || exit 1;'
            f" rm -rf ../want.* ../in.* hub-*.sock; ln -s {hub} .{hub} && mv -f .{hub} hub.sock;"
            f" if [ -d {self._scripts} ]; then cat >/dev/null;"
            f" else mkdir -p {new} && cd {new} && tar -xompf - && mv {new} {self._scripts}; fi && {_SHOW_ENVIRONMENT}"
        )
        began = self._clock.now()
        ran = await link.command(sh(script), self._packed)
        must(ran, f"fleet's folder on {link.alias}")
        head, _, environ = ran.stdout.partition(b"\n")
        node, _, told = head.decode(errors="replace").partition(" ")
        if self._fleet and self._folder.rpartition("/")[2] != _mark(self._fleet, node):
            raise HostUnreachable(f"{node} answers under this name now, and its agents are on another machine")
        self.ahead = ahead(told, began, self._clock.now())
        self._environments = {False: _environment(environ)}
        link.stand_ready(self._host_sh, self._ready)
        if self._carries_hub:
            await self._carry_hub(link, f"{run}/{hub}")

    async def _carry_hub(self, link: Link, socket: str) -> None:
        """The hub's socket there, by a name that stays the same. A host that carries none has its agents still."""
        try:
            await link.forward(socket, str(self._places.run / "hub.sock"))
            self.hub = f"{self._folder}/run/hub.sock"
        except HostUnreachable as error:
            self.hub = None
            log.warning("%s carries no socket of the hub's (AllowStreamLocalForwarding): %s", link.alias, error)

    async def do_there(
        self, verb: str, *words: str, put: Sequence[File] = (), stdin: bytes = b"", more: float = 0.0
    ) -> Ran:
        """One verb of ssh_host.sh, with the files that it is to put first. It may take `more` than usual."""
        if put:
            name = _name()
            words, stdin = (self._folder, name, *words), self._pack(put, name)
        return await self.link.call([verb, *words], stdin, timeout=COMMAND_WITHIN + more)

    # -- minting -------------------------------------------------------------------------------------------------

    def capabilities(self, multiplexer: str) -> Capabilities:
        return tmux.CAPABILITIES

    def mint(self, agent: str, generation: str, multiplexer: str) -> Handle:
        if multiplexer != "tmux":
            raise CannotYet(f"{multiplexer} on another machine: use tmux there")
        return Handle(
            agent, generation, self.name, multiplexer, self._socket_for(agent), agent, self._launch(agent, generation),
            str(self.link.way),
        )  # fmt: skip

    def _launch(self, agent: str, generation: str) -> str:
        return f"{self._folder}/agents/{agent}/launch/{generation}"

    def _socket_for(self, agent: str) -> str:
        """The tmux server an agent has had, else the first with room."""
        if agent not in self._assigned:
            taken = list(self._assigned.values())
            number = 0
            while taken.count(self._socket(number)) >= self._settings.panes_per_server:
                number += 1
            self._assigned[agent] = self._socket(number)
        return self._assigned[agent]

    def _socket(self, number: int) -> str:
        return f"{self._folder}/run/tmux-{number}.sock"

    def _server(self, socket: str) -> SshTmux:
        if socket not in self._servers:
            made = SshTmux(self.link, socket, self._settings, self._clock)
            made.on_gone(functools.partial(self._server_gone, socket))
            made.on_host(lambda reason: self._readable(socket, reason and f"{self.link.alias}: {reason}"))
            self._servers[socket] = made
        return self._servers[socket]

    def _of(self, handle: Handle) -> SshTmux:
        return self._server(handle.socket)

    # -- launching -----------------------------------------------------------------------------------------------

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        """In one round trip, where a pane can be opened in a tmux server that we speak to already."""
        server = self._of(handle)
        if self._only.get(handle.agent) != handle.generation:
            self._only.pop(handle.agent, None)
        said = await self._put_launch(plan, handle)
        if said is None:
            await self._noted(handle)
            return
        self._watches.log(handle.agent).begin(handle.generation, self._clock.now())
        program, facts = said
        if facts is None:
            pid = await server.ensure()
            argv = self._pane_argv(plan, handle, program)
            await server.new_session(handle.session, handle.generation, argv, plan.width, plan.height)
            await self._shell.ask(f"note {handle.folder} {pid}")
        if facts is None or not facts.noted:
            await self._noted(handle)

    def _pane_argv(self, plan: LaunchPlan, handle: Handle, program: str) -> list[str]:
        launcher = f"{self._scripts}/launcher.sh"
        return ["env", "-i", "/bin/sh", launcher, handle.folder, plan.cwd, program, *plan.argv[1:]]

    async def _put_launch(self, plan: LaunchPlan, handle: Handle) -> tuple[str, Facts | None] | None:
        """Put all files, see that the program can run, and open its pane, in one go. The program's path, and its
        facts if the pane could be opened; `None` where this launch has already happened."""
        _must_be_sayable(plan)
        env = {**plan.env, "FLEET_GENERATION": handle.generation, "FLEET_LAUNCH": handle.folder, "TERM": tmux.TERM}
        if not env.get("TMUX"):  # an agent's own tmux must reach neither the fleet's server nor the person's
            env["TMUX"] = f"{self._folder}/run/own-{handle.agent}.sock,0,0"
        own = [
            File(f"{handle.folder}/env", launches.quote_env(env)),
            File(f"{handle.folder}/pane", f"{handle.multiplexer}\n{handle.socket}\n".encode()),
        ]
        name, server = _name(), self._of(handle)
        if server.is_there:
            argv = self._pane_argv(plan, handle, f"@{name}@")
            opens = tmux.new_session_line(handle.session, handle.generation, argv, plan.width, plan.height)
            own += server.files_that_open(f"{self._folder}/{name}", opens)
        packed = self._pack([*plan.files, *own], name)
        ran = await self.do_there("launch", self._folder, name, handle.folder, plan.cwd, plan.argv[0], stdin=packed)
        must(ran, "the launch's files")
        head, _, more = os.fsdecode(ran.stdout).rstrip("\n").rpartition("\nopened ")
        word, _, rest = (head or more).partition(" ")
        if word == "claimed":
            return None
        if word == "program":
            return rest, read_facts(more.split(" ")) if head and more != "!" else None
        raise self._refused(plan, rest)

    async def put_launch(self, plan: LaunchPlan, folder: str, own: Sequence[File]) -> None:
        """Put the files of a launch without a pane, and see that its program can run, in one go."""
        _must_be_sayable(plan)
        ran = await self.do_there("launch", folder, plan.cwd, plan.argv[0], put=[*plan.files, *own])
        must(ran, "the launch's files")
        word, _, rest = os.fsdecode(ran.stdout).rstrip("\n").partition(" ")
        if word == "refused":
            raise self._refused(plan, rest)

    def _refused(self, plan: LaunchPlan, said: str) -> LaunchError:
        """The host's word on why the program cannot be launched."""
        what, _, why = said.partition(" ")
        where = f"on {self.link.alias}"
        if what == "cwd":
            return LaunchError(f"the folder {plan.cwd} {why} {where}", hint="make it, or name another as workdir")
        hint = "install it there, or give its path as command"
        return LaunchError(f"the program {plan.argv[0]} {why} {where}", hint=hint)

    async def _noted(self, handle: Handle) -> None:
        """Return when the launcher has noted its program."""
        deadline = time.monotonic() + NOTED_WITHIN
        while True:
            facts = await self._facts(handle)
            if facts.noted:
                return
            if time.monotonic() > deadline:
                raise LaunchError(f"the launcher of {handle.generation} has noted nothing in {handle.folder}")
            await asyncio.sleep(0.02)

    # -- looking -------------------------------------------------------------------------------------------------

    async def look(self, handle: Handle) -> Look:
        facts, seen = await asyncio.gather(self._facts(handle), self._seen(handle))
        if seen is None and not facts.server_lost:  # the server may have gone just now
            facts = await self._facts(handle)
        shown = None if seen is None or facts.server_lost else seen
        return self._look(facts, shown.screen if shown else None, shown.pane if shown else None, facts.server_lost)

    async def _seen(self, handle: Handle) -> Seen | None:
        """The pane now; `None` where there is none, or no server."""
        try:
            return await self._of(handle).see(handle.generation)
        except ServerGone:
            return None

    def _look(self, facts: Facts, shown: Screen | None, pane: str | None, lost: bool) -> Look:
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

    async def _facts(self, handle: Handle) -> Facts:
        return await self.facts(handle.folder)

    async def facts(self, folder: str) -> Facts:
        """What a launch's folder tells, or a turn's."""
        return await self._shell.facts(folder)

    # -- watching ------------------------------------------------------------------------------------------------

    def watch(self, handle: Handle, on_look: OnLook) -> None:
        self.unwatch(handle)
        self._assigned.setdefault(handle.agent, handle.socket)
        self._tasks.begin(self._begin(self._watches.add(_Watched(handle, on_look))))

    def unwatch(self, handle: Handle) -> None:
        watched = self._watches.remove(handle)
        if watched is not None:
            if watched.launcher is not None:
                self._shell.release(watched.launcher)
            self._of(handle).unwatch(handle.generation)
            if not any(other.handle.socket == handle.socket for other in self._watches):
                self._readable(handle.socket, None)  # nobody looks at it any more, so nobody would say so

    def on_host(self, callback: OnHost) -> None:
        self._on_host.append(callback)

    def seen_at(self, handle: Handle) -> float | None:
        return self._of(handle).seen_at(handle.generation) if self._watches.get(handle) is not None else None

    async def _insist(self, watched: _Watched, doing: Callable[[_Watched], Awaitable[None]]) -> None:
        """Do it, and again where the host answers and could not tell (its file system hangs, its sh was slow). Where
        the link is lost, all begins anew once it is back."""
        while not watched.over():
            try:
                await doing(watched)
            except HostUnreachable as error:
                if self.link.known.state is not HostState.REACHABLE:
                    raise
                log.info("%s: %s", watched.handle.generation, error)
                await asyncio.sleep(AGAIN)
            else:
                return

    async def _begin(self, watched: _Watched) -> None:
        """The first look, and the first after a cut; from then on the pane and the launcher."""
        await self._insist(watched, self._begin_now)

    async def _begin_now(self, watched: _Watched) -> None:
        handle = watched.handle
        facts = await self._facts(handle)
        if watched.over():
            return
        watched.facts = facts
        if facts.launcher is None or not facts.alive:
            await self._gone(watched)
            return
        self._shell.hold(facts.launcher)
        if facts.server_lost:
            await self._gone(watched)
            return
        await self._watches.recall(watched)
        if not watched.over():
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

    def _process_ended(self, launcher: Process) -> None:
        for watched in self._watches:
            if watched.launcher == launcher:
                self._tasks.begin(self._gone(watched))

    def _server_gone(self, socket: str) -> None:
        """A tmux server and all its panes are gone. That it cannot be read any more is no news then."""
        self._readable(socket, None)
        for watched in self._watches:
            if watched.handle.socket == socket:
                self._tasks.begin(self._gone(watched))

    async def _gone(self, watched: _Watched) -> None:
        """The launcher has ended, or its pane is gone: wait for what belongs together, and tell it once."""
        await self._insist(watched, self._tell_gone)

    async def _tell_gone(self, watched: _Watched) -> None:
        handle = watched.handle
        facts = await self._settled(handle, lambda facts: not facts.alive)
        if facts.alive:
            if not watched.over():
                watched.tell(self._look(facts, None, None, facts.server_lost))
            return
        if watched.over():
            return
        watched.dead = True
        if handle.generation in self._ending:
            watched.tell(self._look(facts, watched.screen, None, facts.server_lost))
            return
        try:
            await self._keep_screen(handle, watched.screen)
            facts = await self._settled(handle, lambda facts: facts.screen_kept or not facts.server_alive)
        except HostUnreachable:
            watched.dead = False  # it is told when the host is back
            raise
        except FleetError as error:  # its death must be told all the same
            log.warning("%s: its last screen is not kept: %s", handle.generation, error)
        watched.tell(self._look(facts, watched.screen, None, facts.server_lost))

    async def _settled(self, handle: Handle, holds: Callable[[Facts], bool]) -> Facts:
        """The facts once that holds, or as they are after a moment."""
        deadline = time.monotonic() + SETTLE
        facts = await self._facts(handle)
        while not holds(facts) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            facts = await self._facts(handle)
        return facts

    def _link_told(self, reason: str | None) -> None:
        if reason is None:
            self._only.clear()
            for socket in self._servers:
                self._unreadable.pop(socket, None)  # each says so again where it still does not answer
            for watched in self._watches:
                if not watched.over():
                    self._tasks.begin(self._begin(watched))
            self._readable("link", None)
        else:
            self._readable("link", f"{self.link.alias}: {reason}")

    def _readable(self, source: str, reason: str | None) -> None:
        """One source's word on whether it can be read, made into the host's: the first bad, the last good. Why the way
        to it does not carry is told anew where that changes: a person may have to act."""
        before = self._told_host
        if reason is None:
            self._unreadable.pop(source, None)
        else:
            self._unreadable[source] = reason
        if bool(self._unreadable) != before or (source == "link" and reason is not None):
            self._told_host = bool(self._unreadable)
            for callback in self._on_host:
                callback(reason)

    # -- typing --------------------------------------------------------------------------------------------------

    async def type(self, handle: Handle, keys: Sequence[str], *, literal: bool) -> None:
        await self._of(handle).type(handle.generation, keys, literal=literal)

    def attach_argv(self, handle: Handle, *, read_only: bool = False) -> list[str]:
        words = tmux.attach_argv(handle.socket, handle.session, read_only=read_only)
        return self.terminal_argv(sh(f"{KNOWN_TERM}; exec {shlex.join(words)}"))

    def terminal_argv(self, words: str) -> list[str]:
        """The command that runs these words of a shell there, in the terminal in which it is run. It has a connection
        of its own, which ends by itself where the way to the host is cut, and opens nothing but that terminal."""
        config = [word for path in self.link.config for word in ("-F", path)]
        way = self.link.way
        said = {"-l": way.user, "-p": way.port, "-i": way.key}
        more = [word for flag, value in said.items() if value is not None for word in (flag, str(value))]
        return ["ssh", *config, *more, *TERMINAL, "-t", way.alias, "--", for_any_shell(words)]

    # -- ending --------------------------------------------------------------------------------------------------

    async def end(self, handle: Handle, *, grace: float) -> Ended:
        self._ending.add(handle.generation)
        try:
            return await self._end(handle, grace)
        finally:
            self._ending.discard(handle.generation)

    async def _end(self, handle: Handle, grace: float) -> Ended:
        """One round trip for its end, one for its last screen, and one to put both away."""
        watched = self._watches.get(handle)
        known = watched.facts if watched is not None and not watched.dead else None
        facts = known or await self._facts(handle)
        before = await self._watches.shown(handle, self._of(handle)) if facts.alive else None
        killed: tuple[int, ...] = ()
        names: Collection[str] = ()
        if not facts.purged:
            hunted = await self.hunt([handle.folder], grace)
            killed, facts, names = hunted.killed, hunted.facts, hunted.names
        is_away = False

        async def put_away(*screen: File) -> None:
            nonlocal is_away
            is_away = True
            putting = [self._put_if_there_is_room(handle, file) for file in screen]
            closing, noting = self._of(handle).close_pane(handle.generation), self.mark_purged(handle.folder)
            done = await asyncio.gather(*putting, closing, noting, return_exceptions=True)
            if failed := next((each for each in done if isinstance(each, BaseException)), None):
                raise failed

        await self._keep_screen(handle, before, names, put_away)
        if not is_away:
            await put_away()
        await self._watches.log(handle.agent).flush()
        if self._watches.get(handle) is None and self._assigned.get(handle.agent) == handle.socket:
            del self._assigned[handle.agent]
        if self._only.get(handle.agent) == handle.generation:
            self._only[handle.agent] = ""
        return Ended(facts.exit_status, killed)

    async def _put_if_there_is_room(self, handle: Handle, screen: File) -> None:
        """An end does not hang on a picture."""
        try:
            await self._put_in(handle.folder, screen)
        except HostUnreachable:
            raise
        except FleetError as error:
            log.warning("%s: its last screen is not kept: %s", handle.generation, error)

    async def mark_purged(self, folder: str) -> None:
        """Nothing of that launch lives any more, and nothing of it can come back."""
        await self._shell.ask(f"purged {folder}")

    async def hunt(self, folders: Sequence[str], grace: float, *, verb: str = "hunt") -> Hunted:
        """End all that belongs to these launches (with `halt`: turns). It is done there, in one round trip, and goes on
        where the link is cut meanwhile."""
        ran = await self.do_there(verb, str(round(grace * 100)), *folders, more=grace)
        must(ran, "the end of a launch")
        said = {word: rest for word, *rest in map(str.split, os.fsdecode(ran.stdout).splitlines())}
        if "names" not in said or said["facts"] == ["!"]:
            raise HostUnreachable(f"{self.link.alias}: nobody knows how the end of a launch went")
        if said["left"]:
            raise Unconfirmed(f"still alive after SIGKILL on {self.link.alias}: {_pids(said['left'])}")
        return Hunted(_pids(said["there"]), _pids(said["killed"]), read_facts(said["facts"]), frozenset(said["names"]))

    async def purge(self, agent: str, *, keep: str | None = None, grace: float = 0.5) -> tuple[int, ...]:
        if keep is None and self._only.get(agent) == "":
            return ()
        root = f"{self._folder}/agents/{agent}/launch"
        names = await self._shell.ask(f"launches {root}")
        if names == ["!"]:
            raise HostUnreachable(f"{self.link.alias}: {root} cannot be read there")
        older = [name for name in names if name.removeprefix("+") not in ("", keep)]
        folders = [self._launch(agent, name[1:]) for name in older if name.startswith("+")]
        there: tuple[int, ...] = ()
        if folders:
            there = (await self.hunt(folders, grace)).there
        for folder in folders:
            await self._close_old_pane(agent, folder)
            await self.mark_purged(folder)
        if len(older) > KEPT_LAUNCHES:
            found = sorted((self._launch(agent, name.removeprefix("+")) for name in older), key=_counted)
            must(await self.do_there("remove", *found[: len(found) - KEPT_LAUNCHES]), "the folders of old launches")
        self._only[agent] = keep or ""
        return there

    async def _close_old_pane(self, agent: str, folder: str) -> None:
        """Keep the last screen of an older launch, and close its pane."""
        words = (await self.read(f"{folder}/pane") or b"").decode().split("\n")
        if len(words) > 1:
            generation = folder.rpartition("/")[2]
            handle = Handle(agent, generation, self.name, words[0], words[1], agent, folder)
            await self._keep_screen(handle, None)
            await self._of(handle).close_pane(generation)

    async def cleanup(self, keep: Collection[str], *, dry_run: bool) -> list[str]:
        words, old = [], []
        agents = f"{self._folder}/agents"
        for agent in await self.list(agents):
            names = await self.list(f"{agents}/{agent}/launch")
            old += [self._launch(agent, name) for name in names if name not in keep]
        ran = await self.do_there("strays", self._folder)
        must(ran, "the process table")
        strays = {line.split()[1] for line in ran.stdout.decode().splitlines()} - set(keep)
        words += [f"processes of {generation}" for generation in sorted(strays)]
        if strays and not dry_run:
            gone = [f"{agents}/-/launch/{generation}" for generation in strays]  # those without a folder are meant too
            await self.hunt([*old, *gone], self._settings.kill_grace)
        for name in await self.list(f"{self._folder}/run"):
            if name.startswith("tmux-") and name.endswith(".sock"):
                server = self._server(f"{self._folder}/run/{name}")
                for generation in sorted(await server.panes() - set(keep)):
                    words.append(f"pane of {generation}")
                    if not dry_run:
                        await server.close_pane(generation)
        words += [f"folder {folder}" for folder in old]
        if old and not dry_run:
            must(await self.do_there("remove", *old), "the folders of old launches")
        return words

    async def dismiss(self) -> None:
        for name in await self.list(f"{self._folder}/run"):
            path = f"{self._folder}/run/{name}"
            if name.startswith("tmux-") and name.endswith(".sock") and await self._server(path).dismiss():
                must(await self.do_there("remove", path), "a socket")

    # -- what is kept ----------------------------------------------------------------------------------------------

    async def _keep_screen(
        self,
        handle: Handle,
        before: Screen | None,
        there: Collection[str] = (),
        put: Callable[[File], Awaitable[None]] | None = None,
    ) -> None:
        """`there`: the names in the launch's folder, if they are known; `put` the screen elsewhere than there."""

        async def names() -> Collection[str]:
            return there or await self.list(handle.folder)

        last = functools.partial(self._last, handle)
        await self._watches.keep(
            handle, before, names=names, last=last, put=put or functools.partial(self._put_in, handle.folder)
        )

    async def _last(self, handle: Handle) -> Seen | None:
        """`watching.final`, in one round trip where tmux knows already that the pane is dead."""
        server, generation = self._of(handle), handle.generation
        try:
            seen = await server.last(generation)
        except ServerGone:
            return None
        if seen is None or seen.screen.dead:
            return seen
        later = await watching.final(server, generation, within=SETTLE)
        return seen if later is None else replace(later, scrolled=(*seen.scrolled, *later.scrolled), first=seen.first)

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
        name = _name()
        into = f"{self._folder}/{name}"
        packed = tar([(f"{into}/env", launches.quote_env(env), 0o600), (f"{into}/stdin", stdin, 0o600)])
        words = ["run", self._folder, name, str(int(timeout) + 5), cwd, *argv]
        ran = await self.link.call(words, packed, timeout=timeout)
        if ran.status == 72 and ran.stderr.endswith(b"fleet: cannot enter\n"):
            raise LaunchError(f"the folder {cwd} cannot be entered on {self.link.alias}")
        if ran.status in (126, 127) and not ran.stdout and ran.stderr:
            raise LaunchError(f"{argv[0]} cannot be run on {self.link.alias}: {_said(ran)}")
        return ran

    async def put(self, files: Sequence[File]) -> None:
        if files:
            must(await self.do_there("put", put=files), "a file")

    async def _put_in(self, folder: str, file: File) -> None:
        """Write a file into a folder, if that is still there."""
        path = f"{folder}/{file.path.rpartition('/')[2]}"
        must(await self.do_there("note", self._folder, _name(), path, stdin=file.content), "a file")

    def _pack(self, files: Sequence[File], name: str) -> bytes:
        for file in files:
            if "\n" in file.path or not file.path.startswith("/"):
                raise LaunchError(f"{file.path!r} is no path of a file that can be put on {self.link.alias}")
        return pack(files, f"{self._folder}/{name}", name)

    async def read(self, path: str, *, tail: int | None = None) -> bytes | None:
        return await self._reads.read(path, tail)

    async def list(self, folder: str) -> list[str]:
        ran = await self.do_there("list", folder)
        must(ran, folder)
        return sorted(os.fsdecode(ran.stdout).splitlines())

    async def environment(self, login_shell: bool) -> Mapping[str, str]:
        if login_shell not in self._environments:
            mark = f"fleet-{secrets.token_hex(8)}"  # a profile may print what it likes before it
            show = f"echo {mark}; {_SHOW_ENVIRONMENT}"
            ran = await self.link.command(login(show) if login_shell else sh(show), timeout=COMMAND_WITHIN)
            _, found, said = ran.stdout.partition(f"{mark}\n".encode())
            if not found:
                raise LaunchError(f"the shell on {self.link.alias} tells no environment: {_said(ran)}")
            self._environments[login_shell] = _environment(said)
        return self._environments[login_shell]

    async def spooled(self, folder: str) -> tuple[Spools, bool]:
        ran = await self.do_there("take", folder)
        must(ran, folder)
        head, _, packed = ran.stdout.partition(b"\n")
        up, more = head.split()
        now = self._clock.now()
        found = []
        for name, content, mtime in untar(packed):
            clock = float(name.split(",")[2])  # its machine's uptime; of one that was restarted since, it says nothing
            at = now - (float(up) - clock) if clock <= float(up) else mtime - self.ahead
            found.append(Spooled(name, min(at, now), content))
        return found, int(more) > 0

    async def forget(self, folder: str, names: Sequence[str]) -> None:
        must(await self.do_there("forget", folder, *names), folder)

    async def figures(self, roots: Collection[Process]) -> Mapping[Process, Cost]:
        ran = await self.do_there("figures", *(f"{root.pid}:{root.start}" for root in roots))
        must(ran, "the process table")
        head, *lines = ran.stdout.decode().splitlines()
        ticks, page = map(int, head.split())
        told = {}
        for root, count, used, pages in map(str.split, lines):
            pid, _, start = root.partition(":")
            told[Process(int(pid), int(start))] = Cost(float(used) / ticks, int(pages) * page, int(count))
        return told

    async def clear(self, agent: str) -> None:
        ran = await self.do_there("strays", self._folder, agent)
        must(ran, "the process table")
        if ran.stdout:
            raise Unconfirmed(f"{agent} still has processes on {self.link.alias}: {ran.stdout.decode().split()[0]}")
        must(await self.do_there("remove", f"{self._folder}/agents/{agent}", f"{self._folder}/spool/{agent}"), agent)

    def watch_folder(self, folder: str, on_change: Callable[[str], None]) -> Callable[[], None]:
        return self._shell.watch_folder(folder, on_change)

    async def close(self) -> None:
        self._closed = True
        self._reads.close()
        await self._tasks.close()
        for server in self._servers.values():
            await server.close()
        await self._shell.close()
        await self.link.close()
        await self._watches.close()


@dataclass(frozen=True, slots=True)
class Hunted:
    """How the end of launches went: who was there, who needed SIGKILL, and how it stands with the first of them."""

    there: tuple[int, ...]
    killed: tuple[int, ...]
    facts: Facts
    names: Collection[str]
    """What is in its folder."""


class _Watched(watching.Watched):
    """One launch that somebody watches."""

    facts: Facts | None = None

    @property
    def launcher(self) -> Process | None:
        return self.facts.launcher if self.facts is not None else None


def _must_be_sayable(plan: LaunchPlan) -> None:
    """That there is a program, and nothing that no program can be given."""
    if not plan.argv or not plan.argv[0]:
        raise LaunchError("there is no program to run")
    given = {"an argument": "".join(plan.argv), **{f"the variable {name}": text for name, text in plan.env.items()}}
    if zero := next((what for what, text in given.items() if "\0" in text), None):
        raise LaunchError(f"{zero} holds a zero byte, which no program can be given")


def _pids(entries: Sequence[str]) -> tuple[int, ...]:
    """Of processes that are told as `PID:START`."""
    return tuple(sorted({int(entry.partition(":")[0]) for entry in entries}))


def _name() -> str:
    return f"in.{secrets.token_hex(6)}"


def _environment(said: bytes) -> dict[str, str]:
    """A session's, less what is that session's alone."""
    pairs = (entry.partition("=") for entry in os.fsdecode(said).split("\0"))
    return {name: value for name, is_, value in pairs if is_ and not _OF_THE_SESSION.fullmatch(name)}


def _counted(folder: str) -> int:
    """Which launch of its agent it was: generations are `AGENT.COUNT.LOT`."""
    words = folder.rpartition("/")[2].rsplit(".", 2)
    return int(words[1]) if len(words) == 3 and words[1].isdigit() else 0


def ahead(told: str, began: float, ended: float) -> float:
    """Seconds by which a clock is ahead of ours that said this between the two: none where that cannot be told."""
    whole, _, part = told.partition(".")
    if not whole.isdigit():
        return 0.0
    grain = 0.0 if part.isdigit() else 0.5  # a `date` without nanoseconds
    found = float(f"{whole}.{part}" if part.isdigit() else whole) + grain - (began + ended) / 2
    return found if abs(found) > (ended - began) / 2 + grain else 0.0


async def folder_for(link: Link, fleet: str, cluster: str | None = None) -> str:
    """Fleet's own folder on a host. Each fleet has its own there, and each machine: several may share a home. That of
    a `cluster` is all its login nodes', which may answer under one name in turn."""
    ran = await link.command(sh('printf "%s\\n%s\\n" "$(uname -n)" "${XDG_STATE_HOME:-$HOME/.local/state}"'))
    must(ran, f"the home on {link.alias}")
    node, state = os.fsdecode(ran.stdout).splitlines()[:2]
    whose = node if cluster is None else f"cluster {cluster}"
    return f"{state.rstrip('/')}/fleet-hosts/{_mark(fleet, whose)}"


def _mark(fleet: str, node: str) -> str:
    return hashlib.sha256(f"{fleet}\0{node}".encode()).hexdigest()[:12]


def _said(ran: Ran) -> str:
    lines = ran.stderr.decode(errors="replace").strip().splitlines()
    return lines[0] if lines else f"status {ran.status}"


def must(ran: Ran, what: str) -> None:
    """That it worked; a full disk is one that time or a person settles."""
    if ran.status:
        full = re.search(rb"No space left|quota exceeded", ran.stderr, re.IGNORECASE)
        raise (StorageFull if full else LaunchError)(f"{what}: {_said(ran)}")


def _failed(task: asyncio.Task[Any], error: BaseException) -> None:
    if isinstance(error, HostUnreachable):  # the watch goes on from the first look once the host is back
        log.info("%s", error)
    else:
        log.error("%s failed", task.get_name(), exc_info=error)
