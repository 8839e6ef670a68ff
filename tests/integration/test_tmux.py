"""The tmux side of things, on a real server of our own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import libtmux
import pytest

from fleet.runtimes.local_tmux import Client, LocalTmux, program
from fleet.runtimes.tmux import Control
from fleet.settings import Settings
from fleet.terms import Handle
from tests.contract.hosts import PATIENCE, PATIENT, Kit, LocalHost, Looks, until
from tests.homes import Home


@pytest.fixture
async def host(home: Home) -> AsyncIterator[LocalHost]:
    made = LocalHost(home.path)
    yield made
    await made.close()


@pytest.fixture
def kit(host: LocalHost) -> Kit:
    return Kit(host)


def tmux_of(host: LocalHost, handle: Handle) -> LocalTmux:
    found = host.local._of(handle)
    assert isinstance(found, LocalTmux)
    return found


@contextmanager
def terminal(argv: list[str], width: int, height: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A person's terminal of that size, with a command in it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True) as client:
        os.set_blocking(ours, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, _drain, ours)
        try:
            yield ours, client
        finally:
            client.kill()
            loop.remove_reader(ours)
            os.close(ours)
            os.close(theirs)


def _drain(fd: int) -> None:
    try:
        os.read(fd, 65536)
    except OSError:
        return


async def test_a_person_with_a_small_terminal_changes_no_panes_size_and_leaves_by_ctrl_b_d(
    kit: Kit, host: LocalHost
) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    server = libtmux.Server(socket_path=handle.socket)

    def size() -> tuple[str, str]:
        width, height = (
            server.cmd("display-message", "-p", "-t", "=web:", "#{window_width} #{window_height}").stdout[0].split()
        )
        return width, height

    def people() -> int:
        return len(server.cmd("list-clients", "-t", "=web").stdout)

    assert size() == ("120", "40")
    with terminal(kit.runtime.attach_argv(handle), 80, 24) as (keys, client):
        await until(lambda: people() == 1, "the person in the pane")
        assert size() == ("120", "40")
        os.write(keys, b"typed by a person\r")
        await looks.show("you said typed by a person")
        os.write(keys, b"\x02d")
        await until(lambda: client.poll() is not None, "the person's leaving")
    assert size() == ("120", "40")
    screen = (await kit.runtime.look(handle)).screen
    assert screen is not None and (screen.width, screen.height) == (120, 40)


async def test_no_pane_is_ever_stale(kit: Kit, host: LocalHost) -> None:
    """Forty panes that change at their own pace: when they fall silent, what was told last is what is there."""
    line = "n=0; while [ $n -lt 25 ]; do n=$((n+1)); printf '\\033[Hcount %s.' $n; sleep 0.0$(($$ % 10)); done; read x"
    told: dict[str, Looks] = {}
    handles = []
    for n in range(40):
        handle = kit.mint(f"a{n}")
        await kit.runtime.launch(kit.plan(f"a{n}", "sh", "-c", line), handle)
        told[handle.agent] = kit.watch(handle)
        handles.append(handle)
    for handle in handles:
        await told[handle.agent].show("count 25.")
        look = await kit.runtime.look(handle)
        await until(lambda h=handle, s=look.screen: told[h.agent].all[-1].screen == s, "the last screen")  # type: ignore[misc]


async def test_more_agents_than_a_server_holds_get_another(home: Home) -> None:
    host = LocalHost(home.path, settings=Settings(panes_per_server=2, observe_timeout=PATIENT))
    try:
        kit = Kit(host)
        handles = [await kit.launch(f"a{n}") for n in range(5)]
        assert [Path(handle.socket).name for handle in handles] == [f"tmux-{n}.sock" for n in (0, 0, 1, 1, 2)]
        for handle in handles:
            await kit.watch(handle).show("hello")
        assert len(host.servers()) == 3
    finally:
        await host.close()


async def test_a_client_that_was_killed_is_no_loss(kit: Kit, host: LocalHost) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    before = set(tmux_of(host, handle)._clients)
    for client in before:
        client.kill()
    await until(lambda: tmux_of(host, handle)._clients - before, "another client")
    await until(lambda: not tmux_of(host, handle)._clients & before, "the end of the first")
    await kit.say(handle, "again")
    await looks.show("you said again")
    assert not looks.deaths


async def test_a_deleted_socket_is_made_again(kit: Kit, host: LocalHost) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    Path(handle.socket).unlink()
    for client in list(tmux_of(host, handle)._clients):
        client.kill()
    await until(lambda: Path(handle.socket).exists(), "the socket")
    await kit.say(handle, "again")
    await looks.show("you said again")
    assert not looks.deaths


async def test_a_pane_that_a_person_closed_is_told_as_a_death(kit: Kit) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    libtmux.Server(socket_path=handle.socket).cmd("kill-session", "-t", "=web")
    death = await looks.death()
    assert not death.multiplexer_lost
    assert "hello" in (await kit.runtime.last_screen(handle) or "")


async def test_a_program_that_outlives_its_server_is_seen_and_ended(kit: Kit, host: LocalHost) -> None:
    handle = await kit.launch("web", "stubborn")
    looks = kit.watch(handle)
    await looks.show("ready")
    host.lose_multiplexer()
    await until(lambda: any(look.multiplexer_lost for look in looks.all), "the loss")
    lost = next(look for look in looks.all if look.multiplexer_lost)
    assert lost.alive, "it ignores SIGHUP"
    assert await kit.runtime.purge("web", grace=0.1)
    await looks.death()


async def test_pane_text_that_looks_like_the_protocol_is_text(kit: Kit) -> None:
    handle = kit.mint("web")
    line = "printf '%s\\n' '%end 1 2 1' '%begin 1 2 1' '%error 1 2 1' '%exit' last; cat"
    await kit.runtime.launch(kit.plan("web", "sh", "-c", line), handle)
    looks = kit.watch(handle)
    await looks.show("last")
    assert looks.text.startswith("%end 1 2 1\n%begin 1 2 1\n%error 1 2 1\n%exit\nlast\n")


async def test_title_cursor_colours_and_alternate_screen_are_seen(kit: Kit) -> None:
    handle = kit.mint("web")
    line = "printf '\\033]2;a \\047title\\047\\007\\033[?1049h\\033[2;3H\\033[31mred'; cat"
    await kit.runtime.launch(kit.plan("web", "sh", "-c", line), handle)
    looks = kit.watch(handle)
    await looks.show("red")
    screen = (await kit.runtime.look(handle)).screen
    assert screen is not None
    assert (screen.title, screen.cursor, screen.alternate) == ("a 'title'", (5, 1), True)
    assert screen.ansi is not None and "\x1b[31mred" in screen.ansi and "\x1b" not in screen.text


async def test_the_scrollbacks_limit_loses_no_line(home: Home) -> None:
    """Also where a tenth of the scrollback was dropped many times between two looks."""
    host = LocalHost(home.path, settings=Settings(history_limit=200, observe_timeout=PATIENT))
    try:
        kit = Kit(host)
        handle = kit.mint("web")
        said = 0
        program = "n=0; while read x; do m=$((n+x)); while [ $n -lt $m ]; do n=$((n+1)); echo line $n; done; done"
        await kit.runtime.launch(kit.plan("web", "sh", "-c", program), handle)
        looks = kit.watch(handle)
        for more in (15, 100, 110, 130, 30, 150, 1, 140, 90):
            await kit.say(handle, str(more))
            said += more
            await looks.show(f"line {said}\n")
        lines = [line for line in await kit.runtime.log_lines(handle, 5000) if line.startswith(("line ", "["))]
        assert lines == [f"line {n}" for n in range(1, said + 1)]
    finally:
        await host.close()


async def test_a_flood_is_not_waited_for_and_says_what_it_hid(kit: Kit) -> None:
    handle = kit.mint("web")
    await kit.runtime.launch(kit.plan("web", "sh", "-c", "echo on; read x; seq 200000; echo done; read x"), handle)
    looks = kit.watch(handle)
    await looks.show("on")
    await kit.say(handle, "go")
    await looks.show("done")
    lines = await kit.runtime.log_lines(handle, 10000)
    assert any("lines went by unseen" in line for line in lines)
    assert lines[-2:] == ["200000", "done"]


async def test_a_servers_environment_and_command_line_say_nothing_of_agents(kit: Kit, host: LocalHost) -> None:
    handle = kit.mint("web")
    plan = kit.plan("web", "greeter")
    await kit.runtime.launch(replace(plan, env={**plan.env, "WHO": "nobody-must-know"}), handle)
    for server in host.servers():
        for what in ("environ", "cmdline"):
            assert b"nobody-must-know" not in Path(f"/proc/{server.pid}/{what}").read_bytes()


async def test_a_server_without_panes_is_dismissed_and_one_with_panes_is_not(kit: Kit, host: LocalHost) -> None:
    handle = await kit.launch("web")
    await host.local.dismiss()
    assert host.servers()
    await kit.runtime.end(handle, grace=5)
    await host.local.dismiss()
    assert not host.servers() and not Path(handle.socket).exists()
    again = await kit.launch("web")
    await kit.watch(again).show("hello")


async def test_a_silent_server_keeps_its_client_and_goes_on(kit: Kit, host: LocalHost) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    before = set(tmux_of(host, handle)._clients)
    told: list[str | None] = []
    kit.runtime.on_host(told.append)
    host.cut()
    await until(lambda: told, "word that it cannot be read")
    host.heal()
    await until(lambda: told[-1] is None, "word that it can be read again")
    await kit.say(handle, "well")
    await looks.show("you said well")
    assert before == set(tmux_of(host, handle)._clients)
    assert not looks.deaths


def test_a_persons_own_tmux_comes_before_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "tmux"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program("tmux") == str(own)
    own.unlink()
    assert Path(program("tmux")).is_absolute()  # the system's, though it is not on this PATH
    assert program("no-such-multiplexer") == "no-such-multiplexer"


async def test_a_client_that_has_ended_is_not_waited_for_because_a_child_of_it_holds_its_output(home: Home) -> None:
    lost: list[str] = []
    control, clients = Control(lambda: lost.append("")), set[Client]()
    pid = home.path / "pid"
    line = f"sleep 600 & echo $! >{pid}.new; mv {pid}.new {pid}; exec sleep 600"
    await Client.open(["/bin/sh", "-c", line], control, clients)
    await until(pid.exists, "its child")
    (client,) = clients
    client.kill()
    async with asyncio.timeout(PATIENCE):
        await client.wait()
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert not clients and control.ended
