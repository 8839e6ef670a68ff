"""What is read from an ssh host: the facts of a launch, tmux's own word, the news of the sh there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet.clock import SystemClock
from fleet.errors import HostUnreachable
from fleet.runtimes import slurm_tmux, ssh, ssh_runtime, ssh_shell
from fleet.runtimes.slurm_login import LoginSteps
from fleet.runtimes.ssh import Link
from fleet.runtimes.ssh_runtime import SshRuntime
from fleet.runtimes.ssh_shell import HostShell, read_facts
from fleet.runtimes.ssh_tmux import means_no_server
from fleet.settings import Places, Settings
from fleet.terms import Handle, Process
from tests.contract.hosts import until

SCRIPT = Path(ssh_runtime.__file__).with_name("ssh_host.sh")


def test_the_facts_of_a_launch_that_lives() -> None:
    facts = read_facts(["7:100", "8:101", "5:90", "-", "1", "1", "1", "0", "0"])
    assert (facts.launcher, facts.program, facts.server) == (Process(7, 100), Process(8, 101), Process(5, 90))
    assert facts.alive and facts.claimed and facts.exit_status is None and not facts.server_lost


def test_the_facts_of_a_launch_that_never_was() -> None:
    facts = read_facts(["-", "-", "-", "-", "0", "0", "0", "0", "0"])
    assert facts.launcher is None and not facts.alive and not facts.claimed and not facts.server_lost


@pytest.mark.parametrize(("there", "kept", "lost"), [(0, 0, True), (0, 1, False), (1, 0, False), (1, 1, False)])
def test_a_server_is_lost_where_it_is_gone_and_took_the_screen_along(there: int, kept: int, lost: bool) -> None:
    assert read_facts(f"7:100 8:101 5:90 137 0 {there} 1 {kept} 0".split()).server_lost is lost


@pytest.mark.parametrize(
    "said",
    [
        "error connecting to /x/tmux-0.sock (No such file or directory)",
        "error connecting to /x/tmux-0.sock (Connection refused)",
        "no server running on /x/tmux-0.sock",
        "can't find session: _keeper",
    ],
)
def test_tmux_itself_says_that_its_server_is_gone(said: str) -> None:
    assert means_no_server(said)


@pytest.mark.parametrize(
    "said",
    ["", "the tmux client has ended", "error connecting to /x/tmux-0.sock (Permission denied)", "sh: tmux: not found"],
)
def test_anything_else_says_nothing_of_the_server(said: str) -> None:
    assert not means_no_server(said)


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_every_shell_can_read_what_is_run_there(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"this machine has no {shell} (apt-get install {shell})")
    subprocess.run([shell, "-n", str(SCRIPT)], check=True)


def test_every_login_shell_runs_a_line_as_it_was_meant() -> None:
    odd = "a\nb'c\"d\\\\e\\f!g !! $HOME `id` %s ü"
    shells = [shell for shell in ("sh", "dash", "bash", "zsh", "fish", "csh", "tcsh") if shutil.which(shell)]
    assert shells
    for shell in shells:
        for said in (odd, "plain"):
            argv = [shell, "-c", ssh.for_any_shell(f"exec printf %s {shlex.quote(said)}")]
            ran = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            assert ran.stdout.decode() == said, (shell, ran)


def test_a_pane_there_is_opened_through_every_shell_read_only_too_and_in_a_terminal_the_host_has_never_heard_of(
    tmp_path: Path,
) -> None:
    tmux = tmp_path / "tmux"
    tmux.write_text('#!/bin/sh\necho "$TERM" "$@"\n')
    tmux.chmod(0o755)
    places = Places.of({"FLEET_HOME": str(tmp_path), "HOME": str(tmp_path)})
    there = SshRuntime(Link("there"), "/there", places, Settings(), SystemClock())
    handle = Handle("web", "web.1.ab", "ssh", "tmux", "/there/run/tmux-0.sock", "web", "/there/web.1.ab", "there")
    ways = [there.attach_argv(handle, read_only=True)]
    for login_shell in (False, True):
        steps = LoginSteps(there, login_shell=login_shell, within=1.0)
        ways.append(steps.terminal(slurm_tmux.attach_argv("7", "n1", "/s", "web", read_only=True)))
    (tmp_path / "srun").write_text(tmux.read_text())
    (tmp_path / "srun").chmod(0o755)
    for profile in (".profile", ".zprofile"):  # a login begins with a PATH of its own
        (tmp_path / profile).write_text(f"PATH={tmp_path}:$PATH\n")
    (tmp_path / ".login").write_text(f"setenv PATH {tmp_path}:$PATH\n")
    (tmp_path / ".config" / "fish").mkdir(parents=True)
    (tmp_path / ".config" / "fish" / "config.fish").write_text(f"set -x PATH {tmp_path} $PATH\n")
    for shell in (shell for shell in ("sh", "dash", "bash", "zsh", "fish", "csh", "tcsh") if shutil.which(shell)):
        for argv in ways:
            assert argv[0] == "ssh" and "ServerAliveInterval=5" in argv, "a cut must not hang the terminal"
            path = shutil.which(shell)
            assert path is not None
            env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TERM": "of-next-year", "HOME": str(tmp_path), "SHELL": path}
            ran = subprocess.run([path, "-c", argv[-1]], env=env, capture_output=True, text=True, check=False)
            said = ran.stdout.split()
            assert said[-4:] == ["attach-session", "-r", "-t", "=web"], (shell, argv, ran)
        ran = subprocess.run([path, "-c", ways[0][-1]], env=env, capture_output=True, text=True, check=False)
        assert ran.stdout.split()[0] == ("xterm-256color" if shutil.which("tput") else "of-next-year")


class _Channel:
    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        self.on_data, self.on_end = on_data, on_end
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data
        number, _, request = data.decode().rstrip("\n").partition(" ")
        if request == "ping":
            self.on_data(f"={number} he".encode())  # an answer may come in pieces
            self.on_data(b"re\n")
        if request == "cut":
            self.on_end("")

    def kill(self) -> None:
        self.on_end("")

    async def wait(self) -> None:
        return None


class _Link:
    alias = "there"

    def __init__(self) -> None:
        self.channels: list[_Channel] = []

    def on_state(self, hearer: Callable[[str | None], None]) -> None:
        self.hearer = hearer

    async def channel(self, words: str, on_data: Callable[[bytes], None], on_end: Callable[[str], None]) -> Any:
        self.channels.append(_Channel(on_data, on_end))
        return self.channels[-1]


async def _shell(ended: list[Process]) -> tuple[HostShell, _Link]:
    link = _Link()
    return HostShell(link, "serve", 20.0, ended.append), link  # type: ignore[arg-type]


async def test_an_answer_that_comes_in_pieces_is_one_answer() -> None:
    shell, _ = await _shell([])
    assert await shell.ask("ping") == ["here"]
    await shell.close()


async def test_a_question_that_the_cut_came_upon_is_no_answer() -> None:
    shell, link = await _shell([])
    with pytest.raises(HostUnreachable):
        await shell.ask("cut")
    assert await shell.ask("ping") == ["here"] and len(link.channels) == 2
    await shell.close()


async def test_what_is_wanted_is_wanted_anew_over_a_new_channel_and_each_end_is_told_once() -> None:
    ended: list[Process] = []
    shell, link = await _shell(ended)
    told: list[str] = []
    stop = shell.watch_folder("/spool/web", told.append)
    shell.hold(Process(7, 100))
    assert await shell.ask("ping") == ["here"]
    with pytest.raises(HostUnreachable):
        await shell.ask("cut")
    assert await shell.ask("ping") == ["here"]
    second = link.channels[1]
    assert b"want 2\nfolder /spool/web\nprocess 7 100\n" in second.sent
    link.channels[0].on_data(b"changed /spool/web/late\n")  # of a channel that was given up
    second.on_data(b"changed /spool/web/a b\nchanged /elsewhere/c\nended 7 100\nended 7 100\n")
    assert told == ["a b"] and ended == [Process(7, 100)]
    stop()
    second.on_data(b"changed /spool/web/d\n")
    assert told == ["a b"]
    await shell.close()


async def test_a_sh_that_tells_no_news_any_more_is_given_up_for_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_shell, "DEAF", 0.2)
    monkeypatch.setattr(ssh_shell, "AGAIN", 0.0)
    shell, link = await _shell([])
    shell.hold(Process(7, 100))
    await until(lambda: len(link.channels) > 1 and link.channels[1].sent, "another one")
    assert b"process 7 100\n" in link.channels[1].sent
    link.channels[1].on_data(b"beat\n")
    assert await shell.ask("ping") == ["here"]
    await shell.close()
