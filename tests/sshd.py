"""A real sshd of OpenSSH on loopback as another machine, and a wire to it that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet import processes
from fleet.clock import SystemClock
from fleet.runtimes import files, launches
from fleet.runtimes.base import Runtime
from fleet.runtimes.ssh import Link
from fleet.runtimes.ssh_runtime import SshRuntime
from fleet.settings import Places, Settings
from fleet.terms import Handle, Process
from tests.contract.hosts import IMPATIENT, PATIENCE, PATIENT, PROGRAMS, until
from tests.networks import Network

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def _missing() -> str | None:
    """What sshd lacks on this machine."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        return "sshd and ssh-keygen; `make test` gets them where it may (apt-get install openssh-server)"
    try:
        pwd.getpwnam("sshd")
    except KeyError:
        if os.geteuid() == 0:
            return "the user sshd, under which root's sshd looks at newcomers (apt-get install openssh-server)"
    return None


needs_sshd = pytest.mark.skipif(_missing() is not None, reason=f"another machine needs {_missing()}")


class Wire:
    """A way to a port on loopback that can be cut: what is sent then is swallowed until it is healed, as by a
    network. (A sshd that is killed would say so.)"""

    def __init__(self, port: int) -> None:
        self.to = port
        self.port = 0
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server | None = None
        self._carrying: set[asyncio.Task[None]] = set()
        self.delay = 0.0
        """Seconds that everything takes from one end to the other."""
        self.carried = 0
        """Bytes that went over it, both ways."""
        self.connections = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        self._whole.clear()

    def heal(self) -> None:
        self._whole.set()

    async def close(self) -> None:
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._join(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        away: asyncio.StreamWriter | None = None
        try:
            await self._whole.wait()
            there, away = await asyncio.open_connection("127.0.0.1", self.to)
            await asyncio.gather(self._carry(reader, away), self._carry(there, writer))
        except OSError:
            writer.transport.abort()
        finally:
            for end in (writer, away):
                if end is not None:
                    end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.create_task(self._arrive(under_way, writer))
        try:
            data = b"."
            while data:
                data = await reader.read(65536)
                under_way.put_nowait((time.monotonic() + self.delay, data))
            await arriving
        finally:
            arriving.cancel()

    async def _arrive(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        """What was sent comes out at the other end, in order; nothing is the end."""
        while True:
            due, data = await under_way.get()
            if due > (now := time.monotonic()):
                await asyncio.sleep(due - now)
            await self._whole.wait()
            if not data:
                writer.close()
                return
            self.carried += len(data)
            writer.write(data)
            await writer.drain()


class Sshd:
    """One sshd with a key of its own, a client's key, and an ssh_config that leads to it as `there`."""

    def __init__(self, folder: Path, *more: str, max_sessions: int = 10, network: Network | None = None) -> None:
        """In `network`, else on loopback. `more` lines stand in its configuration."""
        assert SSHD is not None
        self.folder = folder
        self.port = 0
        self._address = "127.0.0.1" if network is None else network.address
        self._enter = () if network is None else network.enter
        self._max_sessions, self._more = max_sessions, more
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o755, parents=True)
        (folder / "home").mkdir()
        for name in ("host", "client"):
            self.make_key(name)
        shutil.copy(folder / "client.pub", folder / "authorized_keys")
        self.config = folder / "config"
        self.known_hosts = folder / "known_hosts"

    def make_key(self, name: str) -> None:
        """A new key of that name, in place of one there is."""
        for path in (self.folder / name, self.folder / f"{name}.pub"):
            path.unlink(missing_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)

    def start(self, *environment: str) -> None:
        """Start it, on the port it had. `environment`: what its sessions have beside a home."""
        assert SSHD is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where it must find an empty folder to shut itself in
        has_port = bool(self.port)
        for _ in range(20):  # somebody may be faster to take a port that is free now, or not have let go of it yet
            if not has_port:
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    self.port = free.getsockname()[1]
            if self._listens(environment):
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def _listens(self, environment: Sequence[str]) -> bool:
        """Whether it could be started on its port."""
        assert SSHD is not None
        lines = [
            f"Port {self.port}",
            f"ListenAddress {self._address}",
            f"HostKey {self.folder}/host",
            "PidFile none",
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            "StrictModes no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            f"UsePAM {'no' if os.geteuid() == 0 else 'yes'}",  # only PAM lets an account in that has no password
            "PermitRootLogin prohibit-password",
            f"MaxSessions {self._max_sessions}",
            *self._more,
            " ".join(["SetEnv", f"HOME={self.folder}/home", *environment]),
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
        argv = [*self._enter, SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "sshd.log")]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return False
            with contextlib.suppress(OSError), socket.create_connection((self._address, self.port), 5) as said:
                if said.recv(4) == b"SSH-":  # it is there, and not what is left of one that was killed
                    return True
            time.sleep(0.02)
        raise AssertionError("sshd does not answer")

    def lead(self, port: int, *more: str) -> None:
        """Write the ssh_config by which `there` is reached over that port, and the host's key as known."""
        lines = [
            "Host there",
            f"  HostName {self._address}",
            f"  Port {port}",
            f"  IdentityFile {self.folder}/client",
            "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {self.known_hosts}",
            *(f"  {line}" for line in more),
        ]
        self.config.write_text("\n".join(lines) + "\n")
        self.trust(port)

    def trust(self, port: int) -> None:
        key = " ".join((self.folder / "host.pub").read_text().split()[:2])
        self.known_hosts.write_text(f"[{self._address}]:{port} {key}\n")

    def stop(self) -> None:
        """End it with all its connections, as a reboot would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)  # from now on it has no further child
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            family = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            self._process.wait()
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):  # a session may end at any moment
                    if each.name() == "sshd":
                        each.kill()
            self._process = None


class SshHost:
    """This machine as another one: an sshd, a wire to it, and a fleet folder and programs over there."""

    multiplexer = "tmux"

    def __init__(
        self,
        home: Path,
        settings: Settings | None = None,
        *more: str,
        max_sessions: int = 10,
        network: Network | None = None,
    ) -> None:
        """In a network its cable is what is cut, and there is no wire."""
        self._network = network
        self.sshd = Sshd(home / "sshd", *more, max_sessions=max_sessions, network=network)
        self.folder = str(home / "work")
        self.root = str(home / "there")
        self.places = Places.of({"FLEET_HOME": str(home / "fleet"), "HOME": str(home)})
        self.settings = settings or Settings(observe_timeout=PATIENT, observe_idle_interval=0.5)
        bin_ = Path(self.folder) / "bin"
        bin_.mkdir(parents=True, exist_ok=True)
        for name, text in PROGRAMS.items():
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)

    @property
    def written(self) -> int:
        """Requests so far, over all kept channels."""
        return self.ssh.link.written

    async def open(self) -> None:
        self.sshd.start()
        self.wire = Wire(self.sshd.port)
        if self._network is None:
            await self.wire.open()
        self.sshd.lead(self.wire.port or self.sshd.port)
        self.ssh = self.again()
        self.runtime: Runtime = self.ssh

    def link(self) -> Link:
        return Link("there", config=[str(self.sshd.config)], keepalive=PATIENT / 4, probe_within=PATIENT)

    def again(self) -> SshRuntime:
        """A runtime as a daemon that starts anew makes it."""
        return SshRuntime(self.link(), self.root, self.places, self.settings, SystemClock())

    def facts(self, handle: Handle) -> launches.Facts:
        return launches.facts(Path(handle.folder))

    def servers(self) -> list[Process]:
        """The tmux servers of this host that live."""
        notes = Path(self.root).glob("agents/*/launch/*/server")
        noted = {processes.parse(files.read(path)) for path in notes}
        return sorted((server for server in noted if server is not None and processes.alive(server)), key=str)

    def kill(self, handle: Handle) -> None:
        program = self.facts(handle).program
        assert program is not None and processes.send(program, signal.SIGKILL)

    def kill_launcher(self, handle: Handle) -> None:
        launcher = self.facts(handle).launcher
        assert launcher is not None and processes.send(launcher, signal.SIGKILL)

    def lose_multiplexer(self) -> None:
        servers = self.servers()
        assert servers
        for server in servers:
            processes.send(server, signal.SIGKILL)

    def cut(self) -> None:
        """It is noticed soon. Once it is healed, nobody takes a busy machine for a cut."""
        (self._network or self.wire).cut()
        self._answers_within(IMPATIENT)

    def heal(self) -> None:
        self._answers_within(PATIENT)
        (self._network or self.wire).heal()

    def _answers_within(self, seconds: float) -> None:
        link = self.ssh.link
        link._keepalive, link._within = seconds / 4, seconds
        if link._connection is not None:
            link._connection.set_keepalive(link._keepalive)

    async def end_agents(self, names: Sequence[str]) -> None:
        for name in names:
            await self.ssh.purge(name, grace=0.1)

    async def close(self) -> None:
        """End everything that was started, the sshd last."""
        try:
            self.heal()
            servers = self.servers()
            root = Path(self.root) / "agents"
            folders = [path for path in root.glob("*/launch/*") if path.is_dir()]
            await processes.end(lambda: launches.search(folders), grace=0.1)
            await self.ssh.close()
            await self.wire.close()
            for server in servers:
                processes.send(server, signal.SIGKILL)
            await until(lambda: not any(processes.alive(server) for server in servers), "the end of tmux")
        finally:
            self.sshd.stop()


class There:
    """The same for a fleet that runs as programs: its settings lead it to an sshd on this machine, over a wire or in a
    network of its own."""

    def __init__(self, home: Path, *environment: str, settings: bool = True, network: Network | None = None) -> None:
        """`settings`: write them; a slow machine is no cut. `environment`: what its sessions have beside a home."""
        self._network = network
        self.sshd = Sshd(home / "sshd", network=network)
        self.sshd.start(*environment)
        self.wire = Wire(self.sshd.port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        if network is None:
            self._do(self.wire.open())
        self.sshd.lead(self.wire.port or self.sshd.port, f"User {pwd.getpwuid(os.getuid()).pw_name}")
        if not settings:
            return
        config = home / "fleet" / "config.yaml"
        config.parent.mkdir(exist_ok=True)
        config.write_text(f"ssh_config: {self.sshd.config}\nssh_keepalive: 2\nssh_probe_within: 15\n")

    @property
    def user_home(self) -> Path:
        """The home that a session there has."""
        return self.sshd.folder / "home"

    @property
    def folder(self) -> Path:
        """Fleet's own folder there."""
        return next((self.user_home / ".local" / "state" / "fleet-hosts").iterdir())

    def cut(self) -> None:
        if self._network is not None:
            self._network.cut()
        else:
            self._loop.call_soon_threadsafe(self.wire.cut)

    def heal(self) -> None:
        if self._network is not None:
            self._network.heal()
        else:
            self._loop.call_soon_threadsafe(self.wire.heal)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def close(self) -> None:
        self._do(self.wire.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.sshd.stop()
