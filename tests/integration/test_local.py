"""Agents on this machine, tried with real programs that are as awkward as programs get."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from fleet import processes
from fleet.runtimes import files, launches
from fleet.runtimes.local_tmux import program
from fleet.terms import Handle, Process
from tests.contract.hosts import Kit, LocalHost, bears, until
from tests.homes import Home

PYTHON = sys.executable
DUMP = "import os,sys; open(sys.argv[1]+'.new','wb').write(b'\\0'.join(k+b'='+v for k,v in os.environb.items()));"
DUMP += "os.rename(sys.argv[1]+'.new',sys.argv[1])"


@pytest.fixture
async def host(home: Home) -> AsyncIterator[LocalHost]:
    made = LocalHost(home.path)
    yield made
    await made.close()


@pytest.fixture
def kit(host: LocalHost) -> Kit:
    return Kit(host)


async def start(kit: Kit, *argv: str, agent: str = "web", cwd: str | None = None, **env: str) -> Handle:
    handle = kit.mint(agent)
    plan = kit.plan(agent, *argv, cwd=cwd)
    await kit.runtime.launch(replace(plan, env={**plan.env, **env}), handle)
    return handle


async def content(path: Path) -> bytes:
    await until(path.exists, f"{path.name}")
    return path.read_bytes()


# -- what reaches the program ----------------------------------------------------------------------------------------


async def test_the_program_gets_exactly_its_environment(kit: Kit, host: LocalHost) -> None:
    out = Path(host.folder) / "env"
    values = {
        "PLAIN": "x",
        "EMPTY": "",
        "NEWLINES": "a\nb\n\nc\n",
        "QUOTES": 'it\'s "so" `id` $(touch X) ${HOME} \\ \\n !',
        "UNICODE": "āä日本 ❯",
        "BYTES": os.fsdecode(bytes(range(1, 256))),
        "IFS": "abc",
        "folder": "not ours",
        "stat": "nor this",
    }
    handle = await start(kit, PYTHON, "-I", "-c", DUMP, str(out), **values)
    got = dict(entry.split(b"=", 1) for entry in (await content(out)).split(b"\0"))
    for name, value in values.items():
        assert got[os.fsencode(name)] == os.fsencode(value), name
    given = {*values, *kit.plan("web").env, "FLEET_GENERATION", "FLEET_LAUNCH", "TERM", "TMUX", "PWD"}
    assert {os.fsdecode(name) for name in got} <= {*given, "LC_CTYPE"}  # which Python itself sets
    assert not (Path(host.folder) / "X").exists()
    assert got[b"FLEET_GENERATION"] == handle.generation.encode()


@pytest.mark.parametrize(
    "word", ["a b", "$(touch X)", "`touch X`", "it's", 'say "so"', "x;y", "#{pid}", "-n", "", "*", "a\nb", "é日"]
)
async def test_an_argument_arrives_as_it_is(kit: Kit, host: LocalHost, word: str) -> None:
    out = Path(host.folder) / "argv"
    await start(kit, PYTHON, "-I", "-c", "import sys; open(sys.argv[1],'w').write(repr(sys.argv[2:]))", str(out), word)
    await until(lambda: out.exists() and out.read_text().endswith("]"), "the arguments")
    assert out.read_text() == repr([word])
    assert not (Path(host.folder) / "X").exists()


@pytest.mark.parametrize("name", ["a;touch X", "$(touch X)", "#(touch X)", "it's", "a b", "-p", "#{pane_id}"])
async def test_a_folder_may_be_called_anything(kit: Kit, host: LocalHost, name: str) -> None:
    folder = Path(host.folder) / name
    folder.mkdir()
    handle = await start(kit, "sh", "-c", "pwd > here; cat", cwd=str(folder))
    await until(lambda: (folder / "here").exists() and (folder / "here").read_text(), "the folder")
    assert (folder / "here").read_text() == f"{folder}\n"
    assert not list(Path(host.folder).rglob("X"))
    assert (await kit.runtime.look(handle)).alive


async def test_a_home_may_be_called_anything(home: Home) -> None:
    odd = home.path / "a;touch X '$(id)' #{x}"
    odd.mkdir()
    for multiplexer in ("tmux", "screen"):
        host = LocalHost(odd / multiplexer, multiplexer)
        try:
            kit = Kit(host)
            handle = await kit.launch("web")
            looks = kit.watch(handle)
            await looks.show("hello")
            await kit.say(handle, "ok")
            await looks.show("you said ok")
        finally:
            await host.close()
    assert not list(home.path.rglob("X"))


async def test_a_screen_session_that_takes_no_command_yet_is_waited_for(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket is there before it listens."""
    real, refused = program("screen"), home.path / "refused"
    slow = home.path / "slow" / "screen"
    slow.parent.mkdir()
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *detach*) [ -e {refused} ] || {{ : >{refused}; exit 1; }} ;; esac\nexec {real} "$@"\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    host = LocalHost(home.path, "screen")
    try:
        kit = Kit(host)
        looks = kit.watch(await kit.launch("web"))
        await looks.show("hello")
        assert refused.exists()
    finally:
        await host.close()


async def test_a_zero_byte_is_refused(kit: Kit) -> None:
    from fleet.errors import LaunchError

    with pytest.raises(LaunchError, match="zero byte"):
        await start(kit, "greeter", "a\0b")


async def test_secrets_are_in_no_command_line_and_their_files_are_closed(kit: Kit, host: LocalHost) -> None:
    handle = await start(kit, "greeter", TOKEN="hunter2-hunter2")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        assert b"hunter2" not in (files.read(path) or b"")
    for server in host.servers():
        assert b"hunter2" not in Path(f"/proc/{server.pid}/environ").read_bytes()
    for path in [*Path(handle.folder).parents][:2]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((Path(handle.folder) / "env").stat().st_mode) == 0o600


async def test_nothing_of_the_daemons_environment_reaches_an_agent(
    kit: Kit, host: LocalHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_PID", "12345")
    out = Path(host.folder) / "env"
    await start(kit, PYTHON, "-I", "-c", DUMP, str(out))
    assert b"CLAUDE_PID" not in await content(out)
    for server in host.servers():
        assert b"CLAUDE_PID" not in Path(f"/proc/{server.pid}/environ").read_bytes()


async def test_an_agents_own_tmux_cannot_reach_the_fleet(kit: Kit) -> None:
    other = await kit.launch("other")
    looks = kit.watch(other)
    await looks.show("hello")
    handle = await start(kit, "sh", "-c", "tmux kill-server; tmux new-session -d -s mine; tmux ls; cat")
    await kit.watch(handle).show("mine:")
    await kit.say(other, "still here")
    await looks.show("you said still here")
    assert len(bears(handle.generation)) > 2, "the agent's own tmux server is its child"
    await kit.runtime.end(handle, grace=0.1)
    assert not bears(handle.generation)


# -- what is ended ---------------------------------------------------------------------------------------------------

TREES = {
    "a child in a session of its own": "setsid sleep 600 & echo ready; wait",
    "a child that ignores SIGHUP and SIGTERM": "(trap '' HUP TERM; while :; do sleep 600; done) & echo ready; wait",
    "a daemon that forked twice": "(setsid sh -c 'sleep 600 & sleep 0.1' &) ; sleep 0.3; echo ready; cat",
    "a child with an empty environment": "env -i /bin/sleep 600 & echo ready; wait",
    "a program that is stopped": "sleep 600 & kill -STOP $!; echo ready; wait",
    "a tree that grows again": "trap '' TERM; sleep 600 & echo ready; while wait; do sleep 600 & done",
    "children of children": "sh -c 'sh -c \"sleep 600; :\" & sleep 600; :' & echo ready; sleep 600; :",
}


@pytest.mark.parametrize("line", TREES.values(), ids=[name.replace(" ", "-") for name in TREES])
async def test_ending_an_agent_leaves_nothing_of_it(kit: Kit, host: LocalHost, line: str) -> None:
    handle = await start(kit, "sh", "-c", line)
    await kit.watch(handle).show("ready")
    tree = launches.search([Path(handle.folder)])
    assert len(tree) >= 3
    await kit.runtime.end(handle, grace=0.3)
    assert not [process for process in tree if processes.alive(process)]
    assert not bears(handle.generation)


@pytest.mark.parametrize("line", TREES.values(), ids=[name.replace(" ", "-") for name in TREES])
async def test_what_survives_launcher_and_program_is_purged(kit: Kit, host: LocalHost, line: str) -> None:
    handle = await start(kit, "sh", "-c", line)
    looks = kit.watch(handle)
    await looks.show("ready")
    launches.Trees().note({handle.folder: [_launcher(host, handle)]})
    tree = launches.search([Path(handle.folder)])
    program = host.facts(handle).program
    host.kill_launcher(handle)
    if program is not None:
        processes.send(program, signal.SIGKILL)
    await looks.death()
    await kit.runtime.purge("web", grace=0.1)
    assert not [process for process in tree if processes.alive(process)]


async def test_a_tree_that_forks_while_it_is_killed_is_ended(kit: Kit, host: LocalHost) -> None:
    spawn = """
import os, signal, time
for number in (1, 15):
    signal.signal(number, signal.SIG_IGN)
os.setsid()
print("ready", flush=True)
while True:  # each lives a moment, and its child goes on
    if os.fork():
        os._exit(0)
    time.sleep(0.1)
"""
    handle = await start(kit, "sh", "-c", f'{PYTHON} -I -c "$0" & cat', spawn)
    await kit.watch(handle).show("ready")
    await kit.runtime.end(handle, grace=0.1)
    assert not bears(handle.generation)


async def test_a_later_process_with_the_same_pid_is_spared(kit: Kit, host: LocalHost) -> None:
    handle = await kit.launch("web")
    innocent = await asyncio.create_subprocess_exec("sleep", "600", env={})
    try:
        stale = Process(innocent.pid, (processes.start_time(innocent.pid) or 0) - 1)
        await kit.runtime.put([launches.note(Path(handle.folder), "seen", stale)])
        await kit.runtime.end(handle, grace=0.1)
        assert innocent.returncode is None and processes.start_time(innocent.pid)
    finally:
        innocent.kill()
        await innocent.wait()


async def test_two_homes_never_meet(home: Home) -> None:
    first, second = LocalHost(home.path / "one"), LocalHost(home.path / "two")
    try:
        lot = secrets.token_hex(4)
        here, there = await Kit(first, lot).launch("web"), await Kit(second, lot).launch("web")
        assert here.generation == there.generation, "the worst case"
        kit = Kit(second)
        looks = kit.watch(there)
        await looks.show("hello")
        await first.runtime.purge("other")
        await first.runtime.cleanup([], dry_run=False)
        await kit.say(there, "untouched")
        await looks.show("you said untouched")
    finally:
        await first.close()
        await second.close()


# -- what a daemon that comes later finds ----------------------------------------------------------------------------


async def test_a_later_daemon_finds_its_agents_and_doubles_no_line(kit: Kit, host: LocalHost) -> None:
    handle = await kit.launch("web", "talkative")
    await kit.watch(handle).show("line 100")
    await kit.runtime.log_lines(handle, 1)
    await kit.runtime.close()
    later = LocalHost(Path(host.folder).parent)
    try:
        looks = Kit(later).watch(handle)
        await looks.show("line 100")
        await later.runtime.launch(Kit(later).plan("web", "talkative"), handle)
        assert (await later.runtime.look(handle)).program == host.facts(handle).program
        await Kit(later).say(handle, "enough")
        assert (await looks.death()).exit_status == 0
        lines = [line for line in await later.runtime.log_lines(handle, 1000) if line.startswith("line ")]
        assert lines == [f"line {n}" for n in range(1, 101)]
    finally:
        await later.runtime.close()


async def test_an_end_while_no_daemon_ran_is_found_with_status_and_screen(kit: Kit, host: LocalHost) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    await kit.runtime.close()
    host.kill(handle)
    launcher = _launcher(host, handle)
    await until(lambda: not processes.alive(launcher), "the end of the launcher")
    later = LocalHost(Path(host.folder).parent)
    try:
        death = await Kit(later).watch(handle).death()
        assert death.exit_status == 137 and not death.multiplexer_lost
        assert "hello" in (await later.runtime.last_screen(handle) or "")
    finally:
        await later.runtime.close()


# -- what is kept ----------------------------------------------------------------------------------------------------


async def test_kept_screens_and_lines_are_redacted(kit: Kit) -> None:
    secret = "sk-ant-api03-" + "a1B2" * 20
    handle = await start(kit, "sh", "-c", f"echo key={secret}; seq 60; cat")
    await kit.watch(handle).show("60")
    lines = await kit.runtime.log_lines(handle, 100)
    await kit.runtime.end(handle, grace=1)
    screen = await kit.runtime.last_screen(handle) or ""
    assert secret not in "\n".join(lines) and secret not in screen
    assert secret.encode() not in (Path(handle.folder).parents[1] / "log").read_bytes()


async def test_what_was_up_is_kept_where_the_program_clears_its_screen_on_leaving(kit: Kit) -> None:
    leave = 'printf "\\033[?1049l"; echo bye; exit 0'
    line = f"printf '\\033[?1049h\\033[HFULL SCREEN'; trap '{leave}' TERM; while :; do sleep 0.1; done"
    handle = await start(kit, "sh", "-c", line)
    await kit.watch(handle).show("FULL SCREEN")
    ended = await kit.runtime.end(handle, grace=10)
    assert ended.exit_status == 0
    kept = await kit.runtime.last_screen(handle) or ""
    assert "FULL SCREEN" in kept and "bye" in kept


async def test_old_launch_folders_go(kit: Kit) -> None:
    for _ in range(8):
        handle = await kit.launch("web")
        await kit.runtime.end(handle, grace=5)
    await kit.runtime.purge("web")
    last = await kit.launch("web")
    await kit.runtime.purge("web", keep=last.generation)
    kept = await kit.runtime.list(str(Path(last.folder).parent))
    assert last.generation in kept and len(kept) <= 8


async def test_a_signal_to_the_group_leaves_the_status_known(kit: Kit, host: LocalHost) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    os.killpg(os.getpgid(_launcher(host, handle).pid), signal.SIGTERM)
    assert (await looks.death()).exit_status == 143


async def test_what_runs_too_long_takes_its_children_with_it(kit: Kit, host: LocalHost) -> None:
    from fleet.errors import TimedOut

    note = Path(host.folder) / "pid"
    line = f"sleep 600 & echo $! > {note}.new; mv {note}.new {note}; wait"
    for within in (1, 5, 25):  # a busy machine may not have begun with it within the first of them
        with pytest.raises(TimedOut):
            await kit.runtime.run(["sh", "-c", line], env={"PATH": os.defpath}, cwd=host.folder, timeout=within)
        if note.exists():
            break
    pid = int(await content(note))
    await until(lambda: processes.start_time(pid) is None, "the end of the child")


async def test_a_runs_output_and_status_are_told(kit: Kit, host: LocalHost) -> None:
    line = "cat; echo oops >&2; pwd; exit 3"
    ran = await kit.runtime.run(
        ["sh", "-c", line], env={"PATH": os.defpath}, cwd=host.folder, timeout=20, stdin=b"in\n"
    )
    assert (ran.status, ran.stdout, ran.stderr) == (3, f"in\n{host.folder}\n".encode(), b"oops\n")


def _launcher(host: LocalHost, handle: Handle) -> Process:
    launcher = host.facts(handle).launcher
    assert launcher is not None
    return launcher
