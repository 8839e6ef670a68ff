"""What every runtime promises: the same tests on a host in memory, on this machine with tmux, and with screen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.errors import HostUnreachable, LaunchError, TimedOut
from fleet.terms import File, Handle
from tests.contract.hosts import Host, Kit, until, until_async


async def test_a_launch_is_alive_and_its_program_is_known(kit: Kit) -> None:
    handle = await kit.launch("web")
    look = await kit.runtime.look(handle)
    assert look.alive and look.exit_status is None and not look.multiplexer_lost
    assert look.program is not None
    assert look.pane


async def test_what_the_program_prints_is_seen(kit: Kit) -> None:
    looks = kit.watch(await kit.launch("web"))
    await looks.show("hello")


async def test_a_watch_tells_at_once_how_things_stand(kit: Kit) -> None:
    handle = await kit.launch("web")
    await kit.watch(handle).show("hello")
    again = kit.watch(handle)
    await until(lambda: again.all, "a first look")
    assert again.all[0].alive


async def test_a_launch_that_happened_already_is_left_as_it_is(kit: Kit) -> None:
    handle = await kit.launch("web")
    first = (await kit.runtime.look(handle)).program
    await kit.runtime.launch(kit.plan("web", "greeter"), handle)
    assert (await kit.runtime.look(handle)).program == first


async def test_a_missing_program_is_refused_by_name(kit: Kit) -> None:
    with pytest.raises(LaunchError, match="no-such-program"):
        await kit.runtime.launch(kit.plan("web", "no-such-program"), kit.mint("web"))


async def test_a_missing_folder_is_refused_by_name(kit: Kit) -> None:
    with pytest.raises(LaunchError, match="/no/such/folder"):
        await kit.runtime.launch(kit.plan("web", "greeter", cwd="/no/such/folder"), kit.mint("web"))


async def test_a_launch_that_never_happened_is_not_alive(kit: Kit) -> None:
    look = await kit.runtime.look(kit.mint("web"))
    assert not look.alive and look.exit_status is None


async def test_typed_text_arrives_and_enter_sends_it(kit: Kit) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    await kit.say(handle, "good morning")
    await looks.show("you said good morning")


@pytest.mark.parametrize("text", ["C-c", "Enter", "a; b", "#{pane_id} $HOME `id` ~", 'it\'s "so"', "-l", "100%", "\\"])
async def test_literal_text_means_its_characters_and_nothing_else(kit: Kit, text: str) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    await kit.say(handle, text)
    await looks.show(f"you said {text}")


async def test_a_key_by_name_reaches_the_program_as_that_key(kit: Kit) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    await kit.runtime.type(handle, ["C-c"], literal=False)
    assert (await looks.death()).exit_status == 130


@pytest.mark.parametrize("status", [0, 3, 77])
async def test_an_end_is_told_with_its_exit_status(kit: Kit, status: int) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    await kit.say(handle, f"exit {status}")
    death = await looks.death()
    assert death.exit_status == status and not death.multiplexer_lost
    look = await kit.runtime.look(handle)
    assert not look.alive and look.exit_status == status


async def test_a_killed_program_ends_with_the_signals_status(kit: Kit, host: Host) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    host.kill(handle)
    assert (await looks.death()).exit_status == 137


async def test_an_end_is_told_once(kit: Kit, host: Host) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    host.kill(handle)
    await looks.death()
    other = await kit.launch("db")
    await kit.watch(other).show("hello")
    assert len(looks.deaths) == 1


async def test_a_watch_on_what_has_ended_tells_of_the_end(kit: Kit) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    await kit.say(handle, "exit 5")
    await looks.death()
    assert (await kit.watch(handle).death()).exit_status == 5


async def test_who_does_not_watch_hears_nothing(kit: Kit) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    kit.runtime.unwatch(handle)
    told = len(looks.all)
    await kit.say(handle, "bye")
    await until_async(lambda: _is_over(kit, handle), "its end")
    assert len(looks.all) == told


async def _is_over(kit: Kit, handle: Handle) -> bool:
    return not (await kit.runtime.look(handle)).alive


async def test_after_a_launcher_is_killed_nobody_knows_the_status(kit: Kit, host: Host) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    host.kill_launcher(handle)
    death = await looks.death()
    assert death.exit_status is None and not death.multiplexer_lost


async def test_what_a_killed_launcher_left_behind_is_purged(kit: Kit, host: Host) -> None:
    handle = await kit.launch("web", "stubborn")
    looks = kit.watch(handle)
    await looks.show("ready")
    host.kill_launcher(handle)
    await looks.death()
    next_ = kit.mint("web")
    assert await kit.runtime.purge("web", keep=next_.generation, grace=0.1)
    assert await kit.runtime.purge("web", keep=next_.generation, grace=0.1) == ()


async def test_ending_ends_what_ignores_sigterm_and_says_so(kit: Kit) -> None:
    handle = await kit.launch("web", "stubborn")
    await kit.watch(handle).show("ready")
    ended = await kit.runtime.end(handle, grace=0.1)
    assert len(ended.killed) >= 2
    assert not (await kit.runtime.look(handle)).alive


async def test_ending_lets_a_program_end_by_sigterm(kit: Kit) -> None:
    handle = await kit.launch("web")
    await kit.watch(handle).show("hello")
    ended = await kit.runtime.end(handle, grace=10)
    assert ended.exit_status == 143 and ended.killed == ()


async def test_ending_twice_is_fine(kit: Kit) -> None:
    handle = await kit.launch("web")
    first = await kit.runtime.end(handle, grace=10)
    assert await kit.runtime.end(handle, grace=10) == first


async def test_ending_what_was_never_launched_is_fine(kit: Kit) -> None:
    assert (await kit.runtime.end(kit.mint("web"), grace=0.1)).exit_status is None


async def test_an_agent_is_launched_again_after_its_end(kit: Kit) -> None:
    first = await kit.launch("web")
    await kit.runtime.end(first, grace=10)
    await kit.runtime.purge("web")
    second = await kit.launch("web")
    await kit.watch(second).show("hello")
    assert not (await kit.runtime.look(first)).alive
    assert (await kit.runtime.look(second)).alive


async def test_an_agent_is_launched_again_after_it_ended_by_itself(kit: Kit) -> None:
    first = await kit.launch("web")
    looks = kit.watch(first)
    await looks.show("hello")
    await kit.say(first, "exit 3")
    await looks.death()
    second = kit.mint("web")
    await kit.runtime.purge("web", keep=second.generation)
    await kit.runtime.launch(kit.plan("web", "greeter"), second)
    await kit.watch(second).show("hello")


async def test_a_purge_spares_the_launch_it_is_told_to_keep(kit: Kit) -> None:
    handle = await kit.launch("web")
    assert await kit.runtime.purge("web", keep=handle.generation) == ()
    assert (await kit.runtime.look(handle)).alive


async def test_stopping_web_never_touches_web_2(kit: Kit) -> None:
    web, web2 = await kit.launch("web"), await kit.launch("web-2")
    looks = kit.watch(web2)
    await looks.show("hello")
    await kit.runtime.end(web, grace=10)
    await kit.runtime.purge("web")
    await kit.runtime.end(web, grace=10)
    await kit.say(web2, "still there")
    await looks.show("you said still there")
    assert not looks.deaths


async def test_typing_to_a_launch_that_is_over_reaches_no_namesake(kit: Kit) -> None:
    old = await kit.launch("web")
    await kit.runtime.end(old, grace=10)
    new = await kit.launch("web-2")
    looks = kit.watch(new)
    await looks.show("hello")
    with pytest.raises(HostUnreachable):
        await kit.say(old, "are you there")
    await kit.say(new, "yes")
    await looks.show("you said yes")
    assert "are you there" not in looks.text


async def test_a_lost_multiplexer_is_told_as_such_once_per_agent(kit: Kit, host: Host) -> None:
    agents = [await kit.launch(name) for name in ("a", "b", "c")]
    looks = [kit.watch(handle) for handle in agents]
    for each in looks:
        await each.show("hello")
    host.lose_multiplexer()
    for handle, each in zip(agents, looks, strict=True):
        death = await each.death()
        assert death.multiplexer_lost
        assert (await kit.runtime.look(handle)).multiplexer_lost
        assert len(each.deaths) == 1


async def test_agents_come_back_after_the_multiplexer_was_lost(kit: Kit, host: Host) -> None:
    first = await kit.launch("web")
    looks = kit.watch(first)
    await looks.show("hello")
    host.lose_multiplexer()
    await looks.death()
    second = kit.mint("web")
    await kit.runtime.purge("web", keep=second.generation)
    await kit.runtime.launch(kit.plan("web", "greeter"), second)
    await kit.watch(second).show("hello")
    assert not (await kit.runtime.look(second)).multiplexer_lost


async def test_a_host_that_cannot_be_read_is_no_death(kit: Kit, host: Host) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    told: list[str | None] = []
    kit.runtime.on_host(told.append)
    host.cut()
    await until(lambda: told, "word of the host")
    assert told[0]
    with pytest.raises(HostUnreachable):
        await kit.runtime.look(handle)
    host.heal()
    await until(lambda: told[-1] is None, "word that the host is back")
    assert not looks.deaths
    assert (await kit.runtime.look(handle)).alive


async def test_the_last_screen_is_kept_after_the_pane_is_gone(kit: Kit) -> None:
    handle = await kit.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    await kit.say(handle, "remember me")
    await looks.show("you said remember me")
    await kit.runtime.end(handle, grace=10)
    assert "you said remember me" in (await kit.runtime.last_screen(handle) or "")


async def test_lines_that_left_the_screen_are_kept(kit: Kit) -> None:
    handle = await kit.launch("web", "talkative")
    await kit.watch(handle).show("line 100")
    lines = await kit.runtime.log_lines(handle, 1000)
    assert [line for line in lines if line.startswith("line ")] == [f"line {n}" for n in range(1, 101)]
    await kit.runtime.end(handle, grace=10)
    kept = await kit.runtime.log_lines(handle, 1000)
    assert [line for line in kept if line.startswith("line ")] == [f"line {n}" for n in range(1, 101)]


async def test_what_a_multiplexer_cannot_tell_is_left_unsaid(kit: Kit, host: Host) -> None:
    can = kit.runtime.capabilities(host.multiplexer)
    handle = await kit.launch("web")
    await kit.watch(handle).show("hello")
    screen = (await kit.runtime.look(handle)).screen
    assert screen is not None
    assert (screen.ansi is not None) == can.colours
    assert (screen.cursor is not None) == can.cursor
    assert (screen.alternate is not None) == can.alternate


async def test_a_pane_has_the_size_it_was_given(kit: Kit) -> None:
    handle = await kit.launch("web")
    await kit.watch(handle).show("hello")
    screen = (await kit.runtime.look(handle)).screen
    assert screen is not None and (screen.width, screen.height) == (120, 40)


async def test_files_are_put_whole_and_read_back(kit: Kit, host: Host) -> None:
    path = f"{host.folder}/new/folder/file"
    await kit.runtime.put([File(path, b"first"), File(path, b"0123456789")])
    assert await kit.runtime.read(path) == b"0123456789"
    assert await kit.runtime.read(path, tail=4) == b"6789"
    assert await kit.runtime.read(path, tail=400) == b"0123456789"
    assert await kit.runtime.list(f"{host.folder}/new/folder") == ["file"]


async def test_what_is_not_there_reads_as_nothing(kit: Kit, host: Host) -> None:
    assert await kit.runtime.read(f"{host.folder}/nothing") is None
    assert await kit.runtime.list(f"{host.folder}/nothing") == []


async def test_a_plans_files_are_there_before_the_program_runs(kit: Kit, host: Host) -> None:
    handle = kit.mint("web")
    path = f"{handle.folder}/settings.json"
    plan = kit.plan("web", "greeter")
    await kit.runtime.launch(replace(plan, files=(File(path, b"{}"),)), handle)
    assert await kit.runtime.read(path) == b"{}"


async def test_a_folder_is_watched_from_before_it_exists(kit: Kit, host: Host) -> None:
    told: list[str] = []
    stop = kit.runtime.watch_folder(f"{host.folder}/later/spool", told.append)
    await kit.runtime.put([File(f"{host.folder}/later/spool/one", b"1")])
    await until(lambda: "one" in told, "word of the first file")
    await kit.runtime.put([File(f"{host.folder}/later/spool/two", b"2")])
    await until(lambda: "two" in told, "word of the second file")
    stop()
    await kit.runtime.put([File(f"{host.folder}/later/spool/three", b"3")])
    other: list[str] = []
    kit.runtime.watch_folder(f"{host.folder}/later/spool", other.append)
    await kit.runtime.put([File(f"{host.folder}/later/spool/four", b"4")])
    await until(lambda: "four" in other, "word to another watch")
    assert "three" not in told and "four" not in told


async def test_a_folder_is_seen_to_change(kit: Kit, host: Host) -> None:
    told: list[str] = []
    await kit.runtime.put([File(f"{host.folder}/spool/zero", b"0")])
    kit.runtime.watch_folder(f"{host.folder}/spool", told.append)
    await kit.runtime.put([File(f"{host.folder}/spool/one", b"1")])
    await until(lambda: "one" in told, "word of the file")


async def test_attaching_is_a_command(kit: Kit) -> None:
    assert kit.runtime.attach_argv(await kit.launch("web"))


async def test_cleaning_up_removes_only_what_nobody_keeps(kit: Kit) -> None:
    kept, old = await kit.launch("kept"), await kit.launch("old", "stubborn")
    await kit.watch(old).show("ready")
    would = await kit.runtime.cleanup({kept.generation}, dry_run=True)
    assert would and all("kept" not in words for words in would)
    assert (await kit.runtime.look(old)).alive
    done = await kit.runtime.cleanup({kept.generation}, dry_run=False)
    assert _lasting(done) == _lasting(would) != []
    assert not (await kit.runtime.look(old)).alive
    assert (await kit.runtime.look(kept)).alive
    assert await kit.runtime.cleanup({kept.generation}, dry_run=True) == []


def _lasting(removed: list[str]) -> list[str]:
    """What is no process: a program has other children from one moment to the next."""
    return [words for words in removed if not words.startswith("process ")]


async def test_a_short_command_is_run_to_its_end(kit: Kit, host: Host) -> None:
    ran = await kit.runtime.run(["true"], env={"PATH": "/usr/bin:/bin"}, cwd=host.folder, timeout=20)
    assert ran.status == 0


@pytest.mark.parametrize("host", ["tmux"], indirect=True)
async def test_a_command_that_takes_too_long_is_ended(kit: Kit, host: Host) -> None:
    with pytest.raises(TimedOut):
        await kit.runtime.run(["sleep", "600"], env={"PATH": "/usr/bin:/bin"}, cwd=host.folder, timeout=0.1)
