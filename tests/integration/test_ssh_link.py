"""The way to an ssh host: who is let in, what is said where nobody is, and what a cut does not mean."""

from __future__ import annotations

import asyncio
import signal
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet import harnesses as hooks
from fleet import processes
from fleet.clock import SystemClock
from fleet.errors import HostUnreachable, TimedOut, Unauthenticated
from fleet.processes import Cost
from fleet.runtimes import files, launches, ssh, ssh_shell
from fleet.runtimes.ssh import Channel, Link
from fleet.runtimes.ssh_hosts import HostState
from fleet.runtimes.ssh_runtime import SshRuntime, folder_for
from fleet.runtimes.ssh_shell import HostShell
from fleet.runtimes.ssh_tmux import SshTmux
from fleet.terms import File, Process
from tests.contract.hosts import PROGRAMS, Kit, until, until_async
from tests.homes import Home
from tests.sshd import SshHost, needs_sshd

pytestmark = [pytest.mark.real, needs_sshd]


@pytest.fixture
async def host(home: Home) -> AsyncIterator[SshHost]:
    made = SshHost(home.path)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def kit(host: SshHost) -> Kit:
    return Kit(host)


async def refusal(link: Link) -> Unauthenticated:
    """Why the host cannot be used, which must be for a person to settle."""
    with pytest.raises(Unauthenticated) as said:
        await link.command("true")
    assert link.known.state is HostState.UNAUTHENTICATED and link.known.reason
    await link.close()
    return said.value


# -- who is let in ---------------------------------------------------------------------------------------------------


async def test_a_host_whose_key_nobody_has_accepted_is_not_used_and_the_way_to_accept_it_is_said(host: SshHost) -> None:
    host.sshd.known_hosts.write_text("")
    said = str(await refusal(host.link()))
    assert "not known yet" in said and "SHA256:" in said and "`ssh there`" in said


async def test_a_host_whose_key_has_changed_is_not_used_and_the_change_is_named(host: SshHost) -> None:
    host.sshd.stop()
    host.sshd.make_key("host")
    host.sshd.start()
    said = str(await refusal(host.link()))
    assert "has changed" in said and f"ssh-keygen -R '[127.0.0.1]:{host.wire.port}'" in said


async def test_a_host_key_that_changes_while_its_agents_run_is_told_as_that(kit: Kit, host: SshHost) -> None:
    told: list[str | None] = []
    kit.runtime.on_host(told.append)
    kit.watch(await kit.launch("web"))
    host.sshd.stop()
    host.sshd.make_key("host")
    host.sshd.start()
    await until(lambda: told and "host key has changed" in (told[-1] or ""), "word of the new key")


async def test_a_host_that_accepts_no_key_of_ours_is_told_as_such(host: SshHost) -> None:
    host.sshd.make_key("client")
    assert "none of our keys" in str(await refusal(host.link()))


async def test_a_configuration_that_trusts_any_key_is_refused(host: SshHost) -> None:
    host.sshd.lead(host.wire.port, "UserKnownHostsFile none")
    host.sshd.config.write_text(host.sshd.config.read_text().replace(str(host.sshd.known_hosts), "none"))
    assert "trust whoever answers" in str(await refusal(host.link()))
    assert host.wire.connections == 0


async def test_the_persons_own_configuration_is_checked_like_one_that_the_settings_name(
    host: SshHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = host.sshd.folder / ".ssh" / "config"
    own.parent.mkdir()
    text = host.sshd.config.read_text()
    monkeypatch.setenv("HOME", str(host.sshd.folder))
    own.write_text(text.replace(str(host.sshd.known_hosts), "none"))
    assert "trust whoever answers" in str(await refusal(Link("there")))
    own.write_text(text)
    own.with_name("known_hosts").write_text(host.sshd.known_hosts.read_text())
    host.sshd.known_hosts.write_text("")
    assert "not known yet" in str(await refusal(Link("there")))


async def test_host_keys_that_this_machines_administrator_vouches_for_are_known(
    host: SshHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "KNOWN_TO_ALL", host.sshd.known_hosts.rename(host.sshd.folder / "known_to_all"))
    link = host.link()
    assert (await link.command("echo here")).stdout == b"here\n"
    await link.close()


async def test_a_host_where_nobody_listens_is_unreachable_and_no_matter_of_keys(host: SshHost) -> None:
    host.sshd.lead(1)
    link = host.link()
    with pytest.raises(HostUnreachable) as said:
        await link.command("true")
    assert not isinstance(said.value, Unauthenticated) and link.known.state is HostState.UNREACHABLE
    await link.close()


async def test_a_host_behind_a_jump_host_is_reached_as_ssh_config_says(host: SshHost) -> None:
    config = host.sshd.config.read_text()
    beyond = config.replace("Host there", "Host beyond").replace(f"Port {host.wire.port}", f"Port {host.sshd.port}")
    host.sshd.config.write_text(f"{config}{beyond}  ProxyJump there\n")
    host.sshd.known_hosts.write_text(
        host.sshd.known_hosts.read_text()
        + host.sshd.known_hosts.read_text().replace(str(host.wire.port), str(host.sshd.port))
    )
    link = Link("beyond", config=[str(host.sshd.config)])
    assert (await link.command("echo here")).stdout == b"here\n"
    assert host.wire.connections == 1
    await link.close()


# -- one connection ----------------------------------------------------------------------------------------------------


async def test_all_agents_of_a_host_share_one_connection(kit: Kit, host: SshHost) -> None:
    looks = [kit.watch(await kit.launch(f"agent-{n}")) for n in range(5)]
    for each in looks:
        await each.show("hello")
    assert host.wire.connections == 1


async def test_twenty_agents_that_idle_cost_one_round_trip_a_tick(
    kit: Kit, host: SshHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = await asyncio.gather(*(kit.launch(f"web-{number}") for number in range(20)))
    for looks in [kit.watch(handle) for handle in handles]:
        await looks.show("hello")
    said: list[bytes] = []
    write = Channel.write

    def heard(channel: Channel, data: bytes) -> None:
        said.append(data)
        write(channel, data)

    monkeypatch.setattr(Channel, "write", heard)

    def is_a_tick(data: bytes) -> bool:
        return data.startswith(b"'list-panes'") and data.count(b"\n") == 1

    await until(lambda: len(said) > 4 and all(is_a_tick(data) for data in said[-4:]), "ticks of one line each")
    assert host.wire.connections == 1


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every request to the host from here on, by its first word; sweeps and what a watch asks are not among them."""
    said: list[str] = []

    def hear(kind: type, name: str, word: Callable[..., str]) -> None:
        original = getattr(kind, name)

        def heard(self: Any, *words: Any, **more: Any) -> Any:
            said.append(word(*words))
            return original(self, *words, **more)

        monkeypatch.setattr(kind, name, heard)

    hear(Link, "call", lambda words, *_: str(words[0]))
    hear(Link, "command", lambda words, *_: f"a session of its own: {words}")
    hear(HostShell, "ask", lambda request: request.partition(" ")[0])
    hear(SshTmux, "ask_lines", lambda lines: f"tmux {lines[0][0]}")
    return said


async def test_the_way_to_a_launch_is_three_requests_one_after_the_other(
    kit: Kit, host: SshHost, requests: list[str]
) -> None:
    await kit.launch("first")
    requests.clear()
    assert await kit.runtime.purge("web") == ()
    assert requests == ["launches"], "what older launches have left"

    Path(host.folder, "file").write_bytes(b"1\0\n2")
    paths = [f"{host.folder}/file", f"{host.folder}/none", host.folder, f"{host.folder}/bin/greeter"]
    found = await asyncio.gather(*map(kit.runtime.read, paths), kit.runtime.read(paths[0], tail=2))
    assert requests == ["launches", "reads"], "all that is read"
    assert found == [b"1\0\n2", None, None, PROGRAMS["greeter"].encode(), b"\n2"]

    handle = await kit.launch("web")
    assert requests == ["launches", "reads", "launch"], "files, environment, claim, program and pane"
    facts = host.facts(handle)
    assert facts.program is not None and processes.alive(facts.program)
    await kit.watch(handle).show("hello")


async def test_a_stop_is_one_request_to_end_it_and_one_to_put_away_what_is_left(kit: Kit, requests: list[str]) -> None:
    handle = kit.mint("web")
    await kit.runtime.purge("web", keep=handle.generation)
    await kit.runtime.launch(kit.plan("web", "greeter"), handle)
    await kit.watch(handle).show("hello")
    requests.clear()
    assert (await kit.runtime.end(handle, grace=10)).exit_status == 143
    assert await kit.runtime.purge("web") == ()
    # Its screen is read between the two, in tmux's own words; facts are what the watch asks for.
    assert sorted(word for word in requests if word != "facts" and not word.startswith("tmux")) == [
        "hunt",
        "note",
        "purged",
    ]
    assert "hello" in (await kit.runtime.last_screen(handle) or "")


async def test_what_a_tree_costs_is_told_for_each_that_lives(kit: Kit, host: SshHost) -> None:
    busy = Path(host.folder) / "bin" / "busy"
    busy.write_text("#!/bin/sh\nsleep 600 &\necho hello\nwhile :; do :; done\n")
    busy.chmod(0o755)
    handles = [await kit.launch("busy", "busy"), await kit.launch("quiet")]
    for handle in handles:
        await kit.watch(handle).show("hello")
    first, second = [program for handle in handles if (program := host.facts(handle).program) is not None]
    gone = Process(first.pid, first.start - 1)

    async def worked() -> bool:
        return (await host.ssh.figures([first]))[first].cpu >= 0.2

    await until_async(worked, "CPU is used")
    told = await host.ssh.figures([first, second, gone])
    assert set(told) == {first, second}
    assert (told[first].count, told[second].count) == (2, 1)
    assert told[first].cpu > told[second].cpu and 100_000 < told[second].rss < 10**9
    later = Cost(told[first].cpu + 0.5, told[first].rss, 2)
    assert later.since(told[first], 2.0).cpu_percent == 25.0
    assert later.since(None, 2.0).cpu_percent is None


async def test_a_pane_that_cannot_be_opened_at_once_is_opened_all_the_same(kit: Kit, host: SshHost) -> None:
    await kit.watch(await kit.launch("first")).show("hello")
    odd = Path(host.folder) / "bin" / "what's this"
    odd.write_text(PROGRAMS["greeter"])
    odd.chmod(0o755)
    await kit.watch(await kit.launch("odd", str(odd))).show("hello")
    host.lose_multiplexer()
    await kit.watch(await kit.launch("web")).show("hello")


async def test_where_the_host_gives_few_sessions_none_stand_ready_and_all_goes_on(home: Home) -> None:
    host = SshHost(home.path, max_sessions=4)
    await host.open()
    try:
        kit = Kit(host)
        await kit.watch(await kit.launch("web")).show("hello")
        assert len(await asyncio.gather(*(host.runtime.list(host.folder) for _ in range(2)))) == 2
    finally:
        await host.close()


async def test_a_host_that_gives_a_connection_one_session_is_told_what_fleet_needs(home: Home) -> None:
    host = SshHost(home.path, max_sessions=1)
    await host.open()
    try:
        with pytest.raises(HostUnreachable, match=r"fleet needs three .*MaxSessions"):
            await asyncio.gather(*(host.ssh.link.command("sleep 1") for _ in range(2)))
    finally:
        await host.close()


async def test_a_host_that_carries_no_socket_has_its_agents_still(home: Home) -> None:
    host = SshHost(home.path, None, "AllowStreamLocalForwarding no")
    await host.open()
    try:
        kit = Kit(host)
        await kit.watch(await kit.launch("web")).show("hello")
        assert host.ssh.hub is None
    finally:
        await host.close()


async def test_what_a_shells_rc_file_prints_is_taken_for_nothing_else(kit: Kit, host: SshHost) -> None:
    (host.sshd.folder / "home" / ".bashrc").write_text("echo '=1 Welcome'; printf 'quota 3 GB '\n")
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    await kit.say(handle, "who goes there")
    await looks.show("you said who goes there")
    assert "Welcome" not in str(await host.ssh.environment(False))
    odd = "a\nb'c\"d\\e!$HOME"
    ran = await host.runtime.run(["printf", "%s", odd], env={"PATH": "/usr/bin:/bin"}, cwd="/", timeout=20)
    assert ran.stdout == odd.encode()


async def test_a_shell_that_ends_before_it_did_anything_is_told_as_that(host: SshHost) -> None:
    (host.sshd.folder / "home" / ".bashrc").write_text("exit 3\n")
    link = host.link()
    with pytest.raises(HostUnreachable, match=r"ended with 3 before it did anything.*`ssh there echo here`"):
        await link.command("exec true")
    await link.close()


async def test_a_launch_folder_that_cannot_be_read_is_no_death_and_is_read_once_it_can(kit: Kit, host: SshHost) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    folder = Path(handle.folder)
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.symlink_to(folder)  # it leads to itself, and can be read as little as one on a disk that is lost
    with pytest.raises(HostUnreachable):
        await host.runtime.look(handle)
    processes.send(launches.facts(aside).program, signal.SIGKILL)  # type: ignore[arg-type]
    await until(lambda: not processes.alive(launches.facts(aside).launcher), "the end")  # type: ignore[arg-type]
    assert not looks.deaths
    folder.unlink()
    aside.rename(folder)
    assert (await looks.death()).exit_status in (128 + signal.SIGKILL, None)


async def test_the_environment_is_a_sessions_there_and_a_logins_where_that_is_asked_for(host: SshHost) -> None:
    home = host.sshd.folder / "home"
    (home / ".profile").write_text("echo welcome\nexport MARK='two\nlines'\n")
    await host.ssh.link.use()
    session, login = await host.ssh.environment(False), await host.ssh.environment(True)
    assert session["HOME"] == login["HOME"] == str(home)
    assert (session.get("MARK"), login["MARK"]) == (None, "two\nlines")
    assert not [name for name in (*session, *login) if name.startswith("SSH_C")]


async def test_a_clock_that_is_an_hour_off_over_there_changes_no_time_here(kit: Kit, host: SshHost) -> None:
    wrong = Path(host.folder) / "bin" / "date"
    wrong.write_text('#!/bin/sh\nexec /bin/date -d "+1 hour" "$@"\n')
    wrong.chmod(0o755)
    host.sshd.stop()
    host.sshd.start(f"PATH={host.folder}/bin:/usr/bin:/bin")
    runtime = host.ssh
    await runtime.link.use()
    assert 3590 < runtime.ahead < 3610
    spool = f"{host.root}/spool/web"
    hook = Path(hooks.__file__).with_name("hook.sh")
    before = time.time()
    ran = await runtime.run(
        ["sh", str(hook), spool], env={"FLEET_GENERATION": "web.1.ab"}, cwd="/", timeout=20, stdin=b"{}"
    )
    assert ran.status == 0
    (event,), more = await runtime.spooled(spool)
    assert before - 0.1 <= event.at <= time.time() and not more
    await runtime.forget(spool, [event.name])
    assert await runtime.spooled(spool) == ([], False)


async def test_another_machine_that_answers_under_its_name_is_told_from_it(host: SshHost) -> None:
    link = host.link()
    folder = await folder_for(link, "this fleet")
    ours = SshRuntime(link, folder, host.places, host.settings, SystemClock(), fleet="this fleet")
    await ours.prepare()
    elsewhere = SshRuntime(
        host.link(), f"{folder[:-1]}x", host.places, host.settings, SystemClock(), fleet="this fleet"
    )
    with pytest.raises(HostUnreachable, match="answers under this name now"):
        await elsewhere.list("/")
    await ours.close()
    await elsewhere.close()


async def test_more_questions_at_once_than_sshd_has_sessions_are_all_answered(host: SshHost) -> None:
    await host.runtime.put([File(f"{host.folder}/file", b"content")])
    answers = await asyncio.gather(*(host.runtime.read(f"{host.folder}/file") for _ in range(25)))
    assert answers == [b"content"] * 25


async def test_a_secret_stands_in_no_command_line_and_in_no_file_that_others_read(kit: Kit, host: SshHost) -> None:
    handle = kit.mint("web")
    plan = kit.plan("web", "greeter")
    plan.env["TOKEN"] = "s3cret it's\n$HOME `id`"
    await kit.runtime.launch(plan, handle)
    await kit.watch(handle).show("hello")
    lines = [files.read(path) or b"" for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert lines and not any(b"s3cret" in line for line in lines)
    assert stat.S_IMODE(Path(handle.folder, "env").stat().st_mode) == 0o600
    program = host.facts(handle).program
    assert program is not None and processes.variable(program.pid, "TOKEN") == plan.env["TOKEN"]


# -- cuts ------------------------------------------------------------------------------------------------------------


async def test_what_happened_during_a_cut_is_told_after_it(kit: Kit, host: SshHost) -> None:
    lives, dies = await kit.launch("lives"), await kit.launch("dies")
    looks, others = kit.watch(lives), kit.watch(dies)
    await looks.show("hello")
    await others.show("hello")
    spool = Path(host.folder) / "spool"
    spool.mkdir()
    told: list[str] = []
    host.runtime.watch_folder(str(spool), told.append)
    heard: list[str | None] = []
    host.runtime.on_host(heard.append)
    host.cut()
    await until(lambda: host.ssh.link.known.state is HostState.UNREACHABLE, "the end of the connection")
    (spool / "event").write_text("{}")
    host.kill(dies)
    with pytest.raises(HostUnreachable):
        await host.runtime.look(lives)
    assert not looks.deaths and not others.deaths
    host.heal()
    assert (await others.death()).exit_status == 137
    await until(lambda: "event" in told, "word of the event")
    await until(lambda: heard and heard[-1] is None, "word that the host is back")
    await kit.say(lives, "good morning")
    await looks.show("you said good morning")
    assert not looks.deaths and len(others.deaths) == 1


async def test_agents_outlive_their_hosts_sshd_and_are_seen_again(kit: Kit, host: SshHost) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    program = (await host.runtime.look(handle)).program
    host.sshd.stop()
    await until(lambda: host.ssh.link.known.state is HostState.UNREACHABLE, "the end of the connection")
    host.sshd.start()
    await until(lambda: host.ssh.link.known.state is HostState.REACHABLE, "a new connection")
    look = await host.runtime.look(handle)
    assert look.alive and look.program == program and not looks.deaths


async def test_a_death_is_told_although_the_loop_there_that_tells_news_hangs(
    kit: Kit, host: SshHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_shell, "DEAF", 3.0)

    found: list[psutil.Process] = []

    def both() -> bool:
        """Whether the sh that answers and the one below it that tells news are there, and no other of theirs."""
        found.clear()
        for process in psutil.process_iter(["cmdline", "ppid"]):
            if (process.info["cmdline"] or [])[-2:] == ["serve", host.root]:
                found.append(process)
        return len(found) == 2

    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    await until(both, "both of them")
    news = next(one for one in found if one.info["ppid"] in {other.pid for other in found})
    news.suspend()
    host.kill(handle)
    assert (await looks.death()).exit_status == 137
    news.resume()
    await asyncio.to_thread(news.wait, 60)


async def test_a_host_that_rebooted_has_lost_its_agents_and_that_is_told_once(kit: Kit, host: SshHost) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    facts, servers = host.facts(handle), host.servers()
    host.sshd.stop()
    await until(lambda: host.ssh.link.known.state is HostState.UNREACHABLE, "the end of the connection")
    for process in (facts.launcher, facts.program, *servers):  # who sees its terminal go notes an exit
        assert process is not None
        processes.send(process, signal.SIGKILL)
    host.sshd.start()
    death = await looks.death()
    assert death.multiplexer_lost and death.exit_status is None
    again = kit.mint("web")
    await kit.runtime.purge("web", keep=again.generation)
    await kit.runtime.launch(kit.plan("web", "greeter"), again)
    await kit.watch(again).show("hello")
    assert len(looks.deaths) == 1


async def test_a_new_daemon_finds_the_agents_that_an_older_one_left(kit: Kit, host: SshHost) -> None:
    handle = await kit.launch("web")
    await kit.watch(handle).show("hello")
    await host.ssh.close()
    host.ssh = host.runtime = kit.runtime = host.again()
    looks = kit.watch(handle)
    await looks.show("hello")
    await kit.say(handle, "exit 3")
    assert (await looks.death()).exit_status == 3


async def test_a_command_gets_its_input_and_environment_and_leaves_no_file_of_them_behind(
    kit: Kit, host: SshHost
) -> None:
    env = {"PATH": "/usr/bin:/bin", "MARK": host.folder}
    ran = await host.runtime.run(
        ["sh", "-c", 'cat; printf %s "$MARK"; exit 7'], env=env, cwd=host.folder, timeout=20, stdin=b"a\0b\n"
    )
    assert (ran.status, ran.stdout) == (7, b"a\0b\n" + host.folder.encode())
    assert [name for name in files.names(host.root) if name.startswith("in.")] == []


async def test_a_command_that_is_not_done_in_time_is_ended_there_too(host: SshHost) -> None:
    env = {"PATH": "/usr/bin:/bin", "MARK": host.folder}
    started = Path(host.folder) / "started"
    stubborn = f"trap '' TERM HUP; : >{started}; sleep 600; sleep 600"

    def there() -> list[int]:
        rows = processes.table()
        return [process.pid for process, mark in processes.marks(rows, "MARK").items() if mark == host.folder]

    for within in (2, 8, 32):  # a busy machine may not have begun with it within the first of them
        running = asyncio.create_task(
            host.runtime.run(["sh", "-c", stubborn], env=env, cwd=host.folder, timeout=within)
        )
        await until(lambda task=running: started.exists() or task.done(), "the command's start")  # type: ignore[misc]
        if begun := started.exists() and not running.done():
            assert there()
        with pytest.raises(TimedOut):
            await running
        if begun:
            break
    assert begun
    await until(lambda: not there(), "its end")
