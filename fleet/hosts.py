"""Where agents run: this machine and every other host, each with one runtime, which is made when it is first needed.

An agent of a list of hosts goes to the first that answers when it is started for the first time, and stays there: its
handle names the host. A host that has never answered has no runtime, and no launch was ever made on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import secrets
import shlex
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from fleet.clock import Clock
from fleet.errors import HostUnreachable, LaunchError, StorageFull, TimedOut, Unauthenticated
from fleet.manifests.model import AgentSpec, Remote
from fleet.runtimes import files
from fleet.runtimes.base import Runtime
from fleet.runtimes.headless import WithHeadless
from fleet.runtimes.ssh_hosts import Way
from fleet.settings import Places, Settings
from fleet.terms import File, Handle

SSH_AGENT = "SSH_AUTH_SOCK"
SSH_PORT = 22
"""What a manifest says that leaves the port to ssh_config."""


def use_ssh_agent_of(environ: Mapping[str, str]) -> None:
    """From now on keys are asked of the ssh agent of whoever starts something here, where that lives (ssh's own
    libraries look in the environment): the one that the daemon began with may have ended with its login."""
    socket = environ.get(SSH_AGENT, "")
    if Path(socket).is_socket():
        os.environ[SSH_AGENT] = socket


class Kind(Protocol):
    """One kind of other hosts. A host is named by the text that stands in the handles of its launches."""

    def choices(self, spec: AgentSpec) -> tuple[str, ...]:
        """The hosts that may take the agent, the preferred one first."""
        ...

    def known(self, handle: Handle) -> Runtime:
        """The host of a launch, which need not answer now."""
        ...

    async def opened(self, host: str, spec: AgentSpec) -> Runtime:
        """A host that has not been spoken to yet. Raise `HostUnreachable` where it does not answer."""
        ...

    def name(self, host: str) -> str:
        """The host for a person."""
        ...


class Hosts:
    """All of them."""

    def __init__(self, here: Runtime, kinds: Mapping[str, Kind] | None = None) -> None:
        """`kinds`: by the name of their runtime."""
        self.here = here
        self._kinds = kinds or {}
        self._runtimes: dict[tuple[str, str], Runtime] = {}
        """By kind and host."""
        self._opening: dict[tuple[str, str], asyncio.Lock] = {}
        self._chosen: dict[str, str] = {}
        """By agent, the host that answered when it was to be started for the first time."""
        self._hearers: list[Callable[[Runtime, str | None], None]] = []

    @property
    def all(self) -> list[Runtime]:
        """This machine's first."""
        return [self.here, *self._runtimes.values()]

    def on_host(self, hearer: Callable[[Runtime, str | None], None]) -> None:
        """`hearer(runtime, reason)` when one cannot be read, `hearer(runtime, None)` when it can again."""
        self._hearers.append(hearer)
        for runtime in self.all:
            runtime.on_host(partial(hearer, runtime))

    def of(self, handle: Handle | None) -> Runtime:
        """Where a launch is."""
        if handle is None or handle.runtime not in self._kinds:
            return self.here
        found = self._runtimes.get((handle.runtime, handle.host))
        return found or self._take(handle.runtime, handle.host, self._kinds[handle.runtime].known(handle))

    def next(self, spec: AgentSpec, handle: Handle | None) -> Runtime:
        """Where the agent's next launch is to be; `handle` is its newest. Raise `HostUnreachable` where none of its
        hosts has answered yet."""
        if spec.runtime not in self._kinds:
            return self.here
        if self._stays(spec, handle):
            return self.of(handle)
        host = self._chosen.get(spec.name)
        if host is None or host not in self._kinds[spec.runtime].choices(spec):
            raise HostUnreachable(f"no host of {spec.name} has answered yet")
        return self._runtimes[spec.runtime, host]

    async def reach(self, spec: AgentSpec, handle: Handle | None) -> None:
        """See that the agent's next launch has a host. Raise `HostUnreachable` with every host's reason."""
        if spec.runtime not in self._kinds or self._stays(spec, handle):
            return
        kind = self._kinds[spec.runtime]
        errors: list[HostUnreachable] = []
        for host in kind.choices(spec):
            try:
                async with self._opening.setdefault((spec.runtime, host), asyncio.Lock()):
                    if (spec.runtime, host) not in self._runtimes:
                        self._take(spec.runtime, host, await kind.opened(host, spec))
                self._chosen[spec.name] = host
                return
            except HostUnreachable as error:
                errors.append(error)
        a_persons = all(isinstance(error, Unauthenticated) for error in errors)
        raise (Unauthenticated if errors and a_persons else HostUnreachable)(
            "; ".join(map(str, errors)) or f"{spec.name} names no host",
            hint=next((error.hint for error in errors if error.hint), None),
        )

    def _stays(self, spec: AgentSpec, handle: Handle | None) -> bool:
        """Whether the host of the newest launch is still one of the manifest's."""
        return (
            handle is not None
            and handle.runtime == spec.runtime
            and handle.host in self._kinds[spec.runtime].choices(spec)
        )

    def _take(self, kind: str, host: str, runtime: Runtime) -> Runtime:
        self._runtimes[kind, host] = runtime
        for hearer in self._hearers:
            runtime.on_host(partial(hearer, runtime))
        return runtime

    async def close(self) -> None:
        """Let go of all; agents stay as they are."""
        for runtime in self.all:
            await runtime.close()


class SshHosts:
    """Hosts that are reached over ssh. What that takes is loaded with the first of them."""

    def __init__(
        self, settings: Settings, places: Places, clock: Clock, secrets_of: Callable[[str], Collection[str]]
    ) -> None:
        self._settings, self._places, self._clock, self._secrets = settings, places, clock, secrets_of

    def choices(self, spec: AgentSpec) -> tuple[str, ...]:
        return tuple(str(way) for way in ways(spec.remote)) if spec.remote else ()

    def name(self, host: str) -> str:
        return Way.parse(host).name

    def known(self, handle: Handle) -> Runtime:
        folder = handle.folder.removesuffix(f"/agents/{handle.agent}/launch/{handle.generation}")
        return self._with_headless(self._runtime(self._link(Way.parse(handle.host), None), folder))

    async def opened(self, host: str, spec: AgentSpec) -> Runtime:
        link = self._link(Way.parse(host), spec.remote)
        return self._with_headless(await self._prepared(link, lambda folder: self._runtime(link, folder)))

    def _with_headless(self, host: Any) -> Runtime:
        return WithHeadless(host, self._module("ssh_turns").SshGround(host), self._clock)

    async def login(self, host: str, spec: AgentSpec) -> Runtime:
        """A cluster's login node that has not been spoken to yet. Raise `HostUnreachable` where it does not answer."""
        link = self._link(Way.parse(host), spec.remote)
        return await self._prepared(link, lambda folder: self.login_known(host, folder, link), link.alias)

    async def _prepared(self, link: Any, make: Callable[[str], Any], *names: str) -> Runtime:
        """What `make` gives for fleet's folder at the end of that link, once it has answered; else the link is let go
        of."""
        try:
            made = make(await self._module("ssh_runtime").folder_for(link, self._own_mark(), *names))
            await made.prepare()
        except (LaunchError, StorageFull, TimedOut) as error:
            await link.close()
            raise HostUnreachable(str(error), hint=error.hint) from error
        except BaseException:
            await link.close()
            raise
        runtime: Runtime = made
        return runtime

    @contextlib.asynccontextmanager
    async def visited(self, way: Way) -> AsyncIterator[tuple[Runtime, str]]:
        """A login node for one command, and fleet's folder there. A daemon that is connected to it is not disturbed:
        what a visit needs there has a folder of its own, as long as it lasts."""
        link = self._link(way, None)
        try:
            folder = await self._module("ssh_runtime").folder_for(link, self._own_mark(), way.alias)
            own = f"{folder}/visits/{secrets.token_hex(4)}"
            node = self.login_known(str(way), own, link, ready=0)
            await node.prepare()
            try:
                yield node, folder
            finally:
                with contextlib.suppress(HostUnreachable):
                    await link.command(shlex.join(["exec", "rm", "-rf", own]))
                await node.close()
        finally:
            await link.close()

    @contextlib.asynccontextmanager
    async def asked(self, remote: Remote) -> AsyncIterator[tuple[str, Any, str, str]]:
        """The first login node that answers, for a question: its name, the link, fleet's folder and the person's home
        there. Nothing is put anywhere: a fleet without a mark yet, which its first start gives it, is told with one
        that stands for it."""
        mark = (files.read(self._mark_file) or b"0" * 16).decode()
        away: HostUnreachable | None = None
        for way in ways(remote):
            async with contextlib.AsyncExitStack() as stack:
                link = self._link(way, remote)
                stack.push_async_callback(link.close)
                try:
                    folder = await self._module("ssh_runtime").folder_for(link, mark, way.alias)
                    home = os.fsdecode((await link.command("exec printenv HOME")).stdout).strip()
                except HostUnreachable as error:
                    away = error
                    continue
                yield way.name, link, folder, home
                return
        raise away or HostUnreachable("it names no host")

    def login_known(self, host: str, folder: str, link: Any = None, **more: Any) -> Any:
        """A login node where fleet's folder is known; it need not answer now. Whichever machine answers under its
        name, it is the same cluster's. The hub is carried into its jobs, not to it."""
        link = link or self._link(Way.parse(host), None)
        made = self._module("ssh_runtime").SshRuntime
        given = (link, folder, self._places, self._settings, self._clock, self._secrets)
        return made(*given, hub=str(self._places.run / "hub.sock"), **more)

    def _link(self, way: Way, remote: Remote | None) -> Any:
        settings = self._settings
        within = settings.ssh_probe_within
        if remote is not None and "timeout" in remote.model_fields_set and remote.timeout != _TIMEOUT:
            within = remote.timeout
        return self._module("ssh").Link(
            way, config=config_files(settings), keepalive=settings.ssh_keepalive, probe_within=within
        )

    def _runtime(self, link: Any, folder: str) -> Any:
        return self._module("ssh_runtime").SshRuntime(
            link, folder, self._places, self._settings, self._clock, self._secrets, self._own_mark()
        )

    def _module(self, name: str) -> Any:
        return importlib.import_module(f"fleet.runtimes.{name}")

    def _own_mark(self) -> str:
        """By what this fleet's folders on other hosts are told from another's."""
        found = files.read(self._mark_file)
        if found is None:
            found = secrets.token_hex(8).encode()
            files.put([File(str(self._mark_file), found)])
        return found.decode()

    @property
    def _mark_file(self) -> Path:
        return self._places.state / "fleet.id"


_TIMEOUT = Remote.model_fields["timeout"].default


def config_files(settings: Settings) -> list[str]:
    """The ssh_config files that count instead of the person's own; none: those do."""
    return [str(Path(settings.ssh_config).expanduser())] if settings.ssh_config else []


def ways(remote: Remote) -> list[Way]:
    """How the hosts of a manifest are reached, in its order."""
    key = str(Path(remote.key).expanduser()) if remote.key else None
    port = None if remote.port == SSH_PORT else remote.port
    return [Way(alias, remote.user, port, key) for alias in remote.choices]
