"""All agents: a daemon that is killed anywhere, brakes, order, and what a start, a restart and an apply change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fleet import lifecycle
from fleet.cli import words
from fleet.errors import (
    CannotYet,
    FleetError,
    Held,
    HostUnreachable,
    InvalidManifest,
    LaunchError,
    StorageFull,
    UnknownAgent,
)
from fleet.manifests.model import AgentSpec
from fleet.supervisor import DOWN
from fleet.terms import Activity, Handle, Look, Phase
from fleet.testing import settle
from tests.unit.fleet_in_memory import VERSION, Daemon, Faulty, World, draw

Act = Callable[[World, Daemon], Awaitable[None]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, backoff_jitter=0.0)
    yield world
    await world.close()


@pytest.fixture
async def daemon(world: World) -> Daemon:
    return await world.daemon()


def phases(daemon: Daemon) -> dict[str, Phase]:
    return {name: runner.life.phase for name, runner in daemon.supervisor.runners.items()}


def all_in(daemon: Daemon, phase: Phase) -> bool:
    return set(phases(daemon).values()) == {phase}


# -- a daemon that is killed ----------------------------------------------------------------------------------------


async def start(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())


async def crash(world: World, daemon: Daemon) -> None:
    world.host.pane("web").kill()


async def crash_with_leftovers(world: World, daemon: Daemon) -> None:
    world.host.pane("web").spawn(ignores_term=True)
    world.host.pane("web").kill_launcher()


async def restart(world: World, daemon: Daemon) -> None:
    daemon["web"].post(lifecycle.Restart())


async def stop(world: World, daemon: Daemon) -> None:
    await daemon.supervisor.stop([daemon["web"]])


async def shutdown(world: World, daemon: Daemon) -> None:
    await daemon.supervisor.shutdown()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("act", [start, crash, crash_with_leftovers, restart, stop, shutdown])
async def test_a_daemon_killed_at_any_touch_of_disk_or_host_is_followed_by_one_that_puts_things_right(
    tmp_path: Path, act: Act, after: bool
) -> None:
    """Whoever is wanted runs, once; of whoever is not, nothing is left; nobody is launched unwritten or twice."""
    last, killed = 0, True
    while killed:
        last += 1
        folder = tmp_path / str(last)
        folder.mkdir()
        world = World(folder, backoff_jitter=0.0)
        if act is not start:
            first = await world.daemon()
            await start(world, first)
            await world.clock.turn(2)
            first.kill()
        daemon = await world.daemon(last, after=after)
        acting = asyncio.ensure_future(act(world, daemon)) if not daemon.hands.dead else None
        await world.clock.turn(3)
        hands = daemon.hands
        killed = hands.dead
        if killed:
            daemon = await world.daemon()
            await world.clock.turn(6)
        where = f"killed {'after' if after else 'before'} touch {last}: {hands.touches}"
        runner = daemon.supervisor.runners.get("web")
        written = world.disk.record("web")
        living = [pane.handle for pane in world.host.living("web")]
        if runner is None or written is None:
            assert (act, living) == (start, []), where
        elif runner.life.wanted:
            assert (runner.life.phase, living) == (Phase.RUNNING, [runner.handle]), where
            assert written.handle == runner.handle, where
        else:
            assert (runner.life.phase, living) == (Phase.STOPPED, []), where
            assert act in (start, stop, shutdown), where
        deaths = runner.life.budget.deaths if runner else ()
        assert len(deaths) == (act in (crash, crash_with_leftovers)), where
        assert len(world.host.launches) <= (1 if act in (start, stop, shutdown) else 2), where
        if acting is not None:
            acting.cancel()
        await world.close()
    assert last > 3


async def test_a_stop_that_was_heard_is_kept_by_the_next_daemon(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell(restart={"policy": "always"}))
    await world.clock.turn(2)
    pane = world.host.pane("web")
    pane.ignores_term = True
    daemon["web"].post(lifecycle.Stop())
    await settle()
    daemon.kill()
    daemon = await world.daemon()
    await world.clock.turn(30)
    assert (phases(daemon), pane.alive, len(world.host.launches)) == ({"web": Phase.STOPPED}, False, 1)


async def test_a_wait_goes_on_from_its_due_time(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell())
    for _ in range(2):
        await world.clock.turn(2)
        world.host.pane("web").kill()
    await world.clock.turn(4)
    assert phases(daemon) == {"web": Phase.BACKOFF}
    due = daemon["web"].life.due
    daemon.kill()
    await world.clock.turn(3)
    daemon = await world.daemon()
    assert (phases(daemon), daemon["web"].life.due) == ({"web": Phase.BACKOFF}, due)
    await world.clock.turn(2.9)
    assert len(world.host.launches) == 2
    await world.clock.turn(0.2)
    assert len(world.host.launches) == 3


async def test_a_death_while_no_daemon_was_there_counts_and_is_followed_by_a_launch(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("a"), world.shell("b"), world.shell("c", restart={"policy": "never"}))
    await world.clock.turn(2)
    daemon.kill()
    world.host.pane("a").kill()
    world.host.pane("c").exit(4)
    await world.clock.turn(60)
    daemon = await world.daemon()
    await world.clock.turn(2)
    assert phases(daemon) == {"a": Phase.RUNNING, "b": Phase.RUNNING, "c": Phase.FINISHED}
    assert {name: len(daemon[name].life.budget.deaths) for name in "abc"} == {"a": 1, "b": 0, "c": 0}
    assert daemon["c"].life.exit_status == 4
    assert [handle.agent for handle in world.host.launches] == ["a", "b", "c", "a"]


async def test_an_end_while_no_daemon_was_there_is_told_once_with_its_status(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("a"), world.shell("b"), world.shell("c", restart={"policy": "never"}))
    await world.clock.turn(2)
    daemon.kill()
    world.host.pane("a").exit(3)
    world.host.pane("c").exit(0)
    await world.clock.turn(60)
    for _ in range(2):  # the next daemon finds nothing to tell any more
        daemon = await world.daemon()
        await world.clock.turn(2)
        daemon.kill()
    told = {name: world.disk.events(name, "exit") for name in "abc"}
    assert [payload["exit_status"] for _, payload in told["a"]] == [3]
    assert [generation.split(".")[:2] for generation, _ in told["a"]] == [["a", "1"]]
    assert told["b"] == []
    assert [payload for _, payload in told["c"]] == [{"exit_status": 0, "unseen": True}]


async def test_an_end_while_the_host_was_away_is_told_once(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell("a"))
    await world.clock.turn(2)
    world.host.cut()
    await world.clock.turn(2)
    world.host.pane("a").exit(3)
    await world.clock.turn(2)
    world.host.heal()
    await world.clock.turn(5)
    assert [payload["exit_status"] for _, payload in world.disk.events("a", "exit")] == [3]


async def test_a_multiplexer_that_was_lost_while_no_daemon_was_there_costs_nobody_anything(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(*(world.shell(name) for name in "abcdef"))
    await world.clock.turn(2)
    daemon.kill()
    world.host.lose_multiplexer()
    daemon = await world.daemon()
    await world.clock.turn(6)
    assert all_in(daemon, Phase.RUNNING)
    assert {runner.life.budget.deaths for runner in daemon.supervisor.runners.values()} == {()}


async def test_a_daemon_that_starts_while_the_host_is_away_takes_everything_up_when_it_is_back(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("a"), world.shell("b"))
    await world.clock.turn(2)
    daemon.kill()
    world.host.cut()
    daemon = await world.daemon()
    await world.clock.turn(60)
    assert all_in(daemon, Phase.UNVERIFIABLE)
    world.host.heal()
    await world.clock.turn(5)
    assert (all_in(daemon, Phase.RUNNING), len(world.host.launches)) == (True, 2)
    world.host.pane("a").kill()
    await world.clock.turn(2)
    assert [handle.agent for handle in world.host.launches] == ["a", "b", "a"], "it is watched again"


async def test_a_startup_dialog_that_outlives_the_daemon_is_still_a_start(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.claude_code())
    draw(world.host.pane("web"), "trust-dialog")
    await world.clock.turn(5)
    daemon.kill()
    daemon = await world.daemon()
    await world.clock.turn(600)
    assert (phases(daemon), daemon["web"].state.activity) == ({"web": Phase.STARTING}, Activity.NEEDS_INPUT)
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(1)
    assert phases(daemon) == {"web": Phase.RUNNING}


async def test_what_hooks_told_while_no_daemon_was_there_counts(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.claude_code())
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(2)
    daemon.kill()
    pane = world.host.pane("web")
    folder = world.places.spool / "web"
    payload = '{"hook_event_name": "UserPromptSubmit", "session_id": "typed-clear", "prompt": "go"}'
    (folder / f"{pane.handle.generation},{pane.pid},100.01,77").write_text(payload)
    daemon = await world.daemon()
    assert daemon["web"].record.session_id == "typed-clear"
    assert daemon["web"].record.session_used
    assert list(folder.iterdir()) == []


async def test_a_nested_run_that_no_daemon_saw_does_not_take_a_dead_agent_to_its_own_conversation(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.claude_code())
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(2)
    own = daemon["web"].record.session_id
    daemon.kill()
    pane, folder = world.host.pane("web"), world.places.spool / "web"
    told = [(pane.pid, "UserPromptSubmit", own), (pane.pid + 1, "SessionStart", "nested")]
    for count, (pid, name, session) in enumerate(told):
        payload = json.dumps({"hook_event_name": name, "session_id": session, "prompt": "go"})
        (folder / f"{pane.handle.generation},{pid},100.0{count},77").write_text(payload)
    world.host.files[f"/home/u/.claude/projects/-work/{own}.jsonl"] = b'{"type":"user"}\n'
    pane.kill()
    daemon = await world.daemon()
    await world.clock.turn(1)
    argv = world.host.pane("web").plan.argv
    assert argv[argv.index("--resume") + 1] == own


# -- the brake ------------------------------------------------------------------------------------------------------


async def test_restarts_go_five_at_once_and_then_one_every_five_seconds(world: World, daemon: Daemon) -> None:
    names = [f"a{n}" for n in range(9)]
    await daemon.start(*(world.shell(name) for name in names))
    await world.clock.turn(2)
    for name in names:
        world.host.pane(name).kill()
    counts = []
    for seconds in (0, 4.9, 0.2, 5, 5, 5, 60):
        await world.clock.turn(seconds)
        counts.append(len(world.host.launches) - len(names))
    assert counts == [5, 5, 6, 7, 8, 9, 9]


async def test_a_persons_start_is_not_slowed_by_the_brake(world: World, daemon: Daemon) -> None:
    names = [f"a{n}" for n in range(9)]
    await daemon.start(*(world.shell(name) for name in names))
    await settle()
    assert len(world.host.launches) == 9
    await world.clock.turn(2)
    for name in names:
        world.host.pane(name).kill()
    await settle()
    held = [name for name, phase in phases(daemon).items() if phase is Phase.BACKOFF]
    assert len(held) == 4
    await daemon.start(world.shell("other"), *(world.shell(name) for name in held[:2]))
    assert {handle.agent for handle in world.host.launches[-3:]} == {"other", *held[:2]}
    await world.clock.turn(5.1)
    await world.clock.turn(5.1)
    assert len(world.host.launches) == 9 + 5 + 3 + 2, "and nothing was drawn for them"


async def test_a_lost_multiplexer_brings_its_agents_back_four_at_a_time_and_charges_nobody(
    world: World, daemon: Daemon
) -> None:
    names = [f"a{n}" for n in range(10)]
    await daemon.start(*(world.shell(name) for name in names))
    await world.clock.turn(2)
    world.host.lose_multiplexer()
    together = []
    while not all_in(daemon, Phase.RUNNING) or len(world.host.launches) < 20:
        await world.clock.turn(0.25)
        together.append(sum(phase is Phase.STARTING for phase in phases(daemon).values()))
        assert len(together) < 100
    assert max(together) == 4
    assert {runner.life.budget.deaths for runner in daemon.supervisor.runners.values()} == {()}


async def test_three_failed_starts_halt_the_return_and_say_so_until_a_person_starts_something(
    world: World, daemon: Daemon
) -> None:
    names = [f"a{n}" for n in range(10)]
    await daemon.start(*(world.shell(name) for name in names))
    await world.clock.turn(2)
    world.host.refusals |= dict.fromkeys(names, "no licence left")
    world.host.lose_multiplexer()
    await world.clock.turn(600)
    assert sorted(phases(daemon).values()) == [Phase.BACKOFF] * 6 + [Phase.FAILED] * 4
    warnings = (await daemon.verb("status")).warnings
    assert any("starts in a row failed" in warning for warning in warnings)
    world.host.refusals.clear()
    await daemon.start(world.shell("a0"))
    await world.clock.turn(10)
    assert sum(phase is Phase.RUNNING for phase in phases(daemon).values()) >= 7
    assert not (await daemon.verb("status")).warnings


async def test_one_that_waits_at_a_dialog_does_not_hold_up_the_others(world: World, daemon: Daemon) -> None:
    names = [f"a{n}" for n in range(6)]
    await daemon.start(*(world.claude_code(name) for name in names))
    for name in names:
        draw(world.host.pane(name), "idle-manual")
    await world.clock.turn(2)
    world.host.lose_multiplexer()
    await world.clock.turn(1)
    for name in {handle.agent for handle in world.host.launches[6:]}:
        draw(world.host.pane(name), "trust-dialog")
    await world.clock.turn(10)
    assert len(world.host.launches) == 12


# -- deaths that nobody can explain ---------------------------------------------------------------------------------


async def test_many_unexplained_deaths_are_believed_only_after_a_while_the_first_of_them_too(
    world: World, daemon: Daemon
) -> None:
    names = [f"a{n}" for n in range(6)]
    await daemon.start(*(world.shell(name) for name in names))
    await world.clock.turn(2)
    for name in names:
        world.host.pane(name).kill_launcher()
    await world.clock.turn(0.7)
    assert all_in(daemon, Phase.RUNNING)
    await world.clock.turn(0.1)
    assert not [name for name, phase in phases(daemon).items() if phase is Phase.RUNNING]


async def test_one_unexplained_death_is_looked_at_again_and_soon_followed_by_a_restart(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    world.host.pane("web").kill_launcher()
    await settle()
    assert (all_in(daemon, Phase.RUNNING), len(world.host.launches)) == (True, 1)
    await world.clock.turn(0.3)
    assert len(world.host.launches) == 2


async def test_an_explained_death_is_believed_at_once(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    world.host.pane("web").kill()
    await settle()
    assert len(world.host.launches) == 2


async def test_one_who_was_only_taken_for_dead_is_watched_on(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    handle = daemon["web"].handle
    assert handle is not None
    world.host.unwatch(handle)  # a watch that has told of an end tells nothing more
    daemon["web"].senses.on_look(handle, Look(at=world.clock.now(), alive=False))
    await world.clock.turn(5)
    assert (all_in(daemon, Phase.RUNNING), len(world.host.launches)) == (True, 1)
    world.host.pane("web").kill()
    await settle()
    assert len(world.host.launches) == 2


async def test_a_new_daemon_looks_twice_before_it_believes_an_unexplained_death(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    daemon.kill()
    world.host.pane("web").kill_launcher()
    after = await world.daemon()
    assert (all_in(after, Phase.RUNNING), len(world.host.launches)) == (True, 1)
    await world.clock.turn(0.3)
    assert len(world.host.launches) == 2


async def test_deaths_that_a_second_look_does_not_confirm_are_none(world: World, daemon: Daemon) -> None:
    names = [f"a{n}" for n in range(6)]
    await daemon.start(*(world.shell(name) for name in names))
    await world.clock.turn(2)
    for name in names[:2]:
        world.host.pane(name).kill_launcher()
    await settle()
    for name in names[2:]:
        handle = daemon[name].handle
        assert handle is not None
        daemon[name].senses.on_look(handle, Look(at=world.clock.now(), alive=False))
    await world.clock.turn(30)
    assert all_in(daemon, Phase.RUNNING)
    assert {handle.agent for handle in world.host.launches[6:]} == {"a0", "a1"}


async def test_a_host_that_is_cut_off_with_many_agents_restarts_none_of_them(world: World, daemon: Daemon) -> None:
    names = [f"a{n}" for n in range(20)]
    await daemon.start(*(world.shell(name) for name in names))
    await world.clock.turn(2)
    for _ in range(3):
        world.host.cut()
        await world.clock.turn(60)
        assert all_in(daemon, Phase.UNVERIFIABLE)
        world.host.heal()
        await world.clock.turn(5)
    assert (all_in(daemon, Phase.RUNNING), len(world.host.launches)) == (True, 20)


# -- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["read_hook", "read_title", "read_process"])
async def test_a_fault_in_one_agent_is_counted_and_stops_no_other(world: World, daemon: Daemon, method: str) -> None:
    await daemon.start(world.claude_code("a"), world.claude_code("b"))
    daemon["a"].harness = Faulty(daemon["a"].harness, method)  # type: ignore[assignment]
    for name in "ab":
        pane = world.host.pane(name)
        payload = f'{{"hook_event_name": "SessionStart", "session_id": "{daemon[name].record.session_id}"}}'
        (world.places.spool / name / f"{pane.handle.generation},{pane.pid},100.01,77").write_text(payload)
        draw(pane, "idle-manual")
    await world.clock.turn(5)
    assert (daemon["b"].life.phase, daemon["b"].state.activity) == (Phase.RUNNING, Activity.READY)
    assert world.clock.now() - (daemon["b"].state.seen or 0) <= world.settings.spool_check
    assert world.host.pane("a").alive
    assert daemon.supervisor.faults >= 1
    assert world.disk.events("a", "fault")
    assert not world.disk.events("b", "fault")
    warnings = (await daemon.verb("status", brief=True)).warnings
    assert any("internal faults" in warning for warning in warnings)


async def test_no_event_is_lost_while_the_disk_is_full(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    stored = len(world.disk.events("web", "phase"))
    world.disk.full = True
    for n in range(5):
        daemon.supervisor.record_event("web", "action", f"n{n}", {})
    await world.clock.turn(120)
    warnings = (await daemon.verb("status")).warnings
    assert any("Nothing can be written down" in warning for warning in warnings)
    world.disk.full = False
    await world.clock.turn(3)
    assert [name for name, _ in world.disk.events("web", "action")] == [f"n{n}" for n in range(5)]
    assert len(world.disk.events("web", "phase")) == stored
    assert not (await daemon.verb("status")).warnings


# -- order ----------------------------------------------------------------------------------------------------------


def needs(agent: str, condition: str) -> list[dict[str, str]]:
    return [{"agent": agent, "condition": condition}]


async def test_who_needs_another_started_is_launched_once_it_has(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell("web", depends_on=needs("db", "started")), world.shell("db"))
    assert [handle.agent for handle in world.host.launches] == ["db"]
    assert (daemon["web"].waits_for, daemon["web"].held) == ("db is starting, not started", False)
    await world.clock.turn(2)
    assert phases(daemon) == {"db": Phase.RUNNING, "web": Phase.RUNNING}
    assert daemon["web"].waits_for is None


async def test_who_needs_another_ready_waits_for_its_composer(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell("web", depends_on=needs("db", "ready")), world.claude_code("db"))
    await daemon.hook("SessionStart", "db")
    draw(world.host.pane("db"), "running-streaming")
    await world.clock.turn(60)
    assert phases(daemon) == {"db": Phase.RUNNING, "web": Phase.STOPPED}
    draw(world.host.pane("db"), "idle-manual")
    await daemon.hook("Stop", "db")
    await world.clock.turn(4)
    assert phases(daemon) == {"db": Phase.RUNNING, "web": Phase.RUNNING}


@pytest.mark.parametrize(("status", "goes"), [(0, True), (3, False)])
async def test_who_needs_another_completed_waits_for_its_clean_end(
    world: World, daemon: Daemon, status: int, goes: bool
) -> None:
    job = world.shell("job", restart={"policy": "never"})
    await daemon.start(world.shell("web", depends_on=needs("job", "completed")), job)
    await world.clock.turn(5)
    assert phases(daemon) == {"job": Phase.RUNNING, "web": Phase.STOPPED}
    world.host.pane("job").exit(status)
    await world.clock.turn(2)
    assert daemon["web"].life.phase is (Phase.RUNNING if goes else Phase.STOPPED)
    assert daemon["web"].held is not goes
    if not goes:
        assert daemon["web"].waits_for == "job has ended, and not cleanly"
        assert world.disk.events("web", "phase") == [("held", {"message": "job has ended, and not cleanly"})]


async def test_what_can_never_come_about_is_told_and_a_later_start_goes_on(world: World, daemon: Daemon) -> None:
    world.host.refusals["db"] = "no such program"
    await daemon.start(world.shell("web", depends_on=needs("db", "started")), world.shell("db"))
    await world.clock.turn(1)
    assert (daemon["web"].held, daemon["web"].waits_for) == (True, "db is failed, not started")
    world.host.refusals.clear()
    await daemon.start(world.shell("web", depends_on=needs("db", "started")), world.shell("db"))
    await world.clock.turn(3)
    assert phases(daemon) == {"db": Phase.RUNNING, "web": Phase.RUNNING}


async def test_a_chain_is_started_from_its_end_and_stopped_from_its_beginning(world: World, daemon: Daemon) -> None:
    chain = [
        world.shell("a", depends_on=needs("b", "started")),
        world.shell("b", depends_on=needs("c", "started")),
        world.shell("c"),
    ]
    await daemon.start(*chain)
    await world.clock.turn(6)
    assert [handle.agent for handle in world.host.launches] == ["c", "b", "a"]
    stopping = asyncio.ensure_future(daemon.supervisor.stop(list(daemon.supervisor.runners.values())))
    await world.clock.turn(5)
    assert stopping.done()
    ends = [
        row["agent"]
        for row in world.disk.connection.execute(
            "SELECT agent FROM events WHERE type = 'phase' AND name = 'stopped' ORDER BY id"
        )
    ]
    assert ends == ["a", "b", "c"]


def team(world: World) -> list[AgentSpec]:
    return [
        world.shell("a", depends_on=needs("b", "started")),
        world.shell("b", depends_on=needs("c", "started")),
        world.shell("c"),
        world.shell("d"),
    ]


def told_phases(world: World, *names: str) -> list[tuple[str, str]]:
    """Agent and phase, in the order in which the phases were reached."""
    marks = ", ".join("?" * len(names))
    rows = world.disk.connection.execute(
        f"SELECT agent, name FROM events WHERE type = 'phase' AND name IN ({marks}) ORDER BY id", names
    )
    return [(row["agent"], row["name"]) for row in rows]


async def test_a_restart_of_a_chain_stops_it_from_its_beginning_and_starts_it_from_its_end(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(*team(world))
    await world.clock.turn(6)
    before = len(told_phases(world, "stopped", "starting"))
    await daemon.verb("restart", targets=["c", "a", "b", "d"])
    await world.clock.turn(10)
    told = [each for each in told_phases(world, "stopped", "starting")[before:] if each[0] != "d"]
    assert told == [
        ("a", "stopped"), ("b", "stopped"), ("c", "stopped"), ("c", "starting"), ("b", "starting"), ("a", "starting")
    ]  # fmt: skip
    assert all_in(daemon, Phase.RUNNING)
    assert [daemon[name].record.launches for name in "abcd"] == [2, 2, 2, 2]


async def test_one_that_is_stopped_while_it_is_restarted_in_an_order_stays_stopped(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(*team(world))
    await world.clock.turn(6)
    world.host.pane("c").ignores_term = True
    await daemon.verb("restart", all=True)
    await world.clock.turn(1)
    stopping = asyncio.ensure_future(daemon.supervisor.stop([daemon["a"]]))
    await world.clock.turn(60)
    assert stopping.done()
    assert phases(daemon) == dict.fromkeys("bcd", Phase.RUNNING) | {"a": Phase.STOPPED}


async def test_one_that_is_started_again_while_all_are_stopped_holds_up_nobody(world: World, daemon: Daemon) -> None:
    await daemon.start(*team(world))
    await world.clock.turn(6)
    world.host.pane("a").ignores_term = True
    stopping = asyncio.ensure_future(daemon.supervisor.stop(list(daemon.supervisor.runners.values())))
    await world.clock.turn(1)
    assert daemon["a"].life.phase is Phase.STOPPING
    await daemon.supervisor.start([daemon["d"], daemon["a"]])
    await world.clock.turn(30)
    assert stopping.done()
    assert {name: phases(daemon)[name] for name in "bcd"} == {
        "b": Phase.STOPPED,
        "c": Phase.STOPPED,
        "d": Phase.RUNNING,
    }
    assert world.disk.connection.execute("SELECT value FROM fleet WHERE key = 'stops'").fetchone()["value"] == "[]"


@pytest.mark.parametrize("verb", ["stop", "restart"])
async def test_an_order_that_was_cut_short_by_the_daemons_death_is_gone_on_with_by_the_next(
    tmp_path: Path, verb: str
) -> None:
    """From the first touch on that wrote it down; before that the person has no answer, and nothing happens."""
    last, killed, ended = 0, True, []
    while killed:
        last += 1
        folder = tmp_path / str(last)
        folder.mkdir()
        world = World(folder, backoff_jitter=0.0)
        first = await world.daemon()
        await first.start(world.shell("a", depends_on=needs("b", "started")), world.shell("b"))
        await world.clock.turn(4)
        first.kill()
        daemon = await world.daemon(last, after=True)
        asking = asyncio.ensure_future(daemon.verb(verb, all=True)) if not daemon.hands.dead else None
        await world.clock.turn(6)
        killed = daemon.hands.dead
        daemon = await world.daemon() if killed else daemon
        await world.clock.turn(6)
        ended.append(set(phases(daemon).values()))
        wanted = {Phase.STOPPED} if verb == "stop" else {Phase.RUNNING}
        assert ended[-1] in (wanted, {Phase.RUNNING}), (last, phases(daemon), daemon.hands.touches)
        assert len(world.host.living("a")) == (ended[-1] == {Phase.RUNNING})
        if asking is not None:
            asking.cancel()
        await world.close()
    assert ended.count(wanted) > 6


@pytest.mark.parametrize("phase", [Phase.BACKOFF, Phase.FAILED])
async def test_a_start_of_one_that_is_down_for_now_tells_what_came_of_this_start(
    world: World, daemon: Daemon, phase: Phase
) -> None:
    path = manifest(world, "web", restart=f"{{max_retries: {2 if phase is Phase.FAILED else 5}}}")
    await daemon.verb("start", targets=[path], env={"HOME": "/home/u"})
    for _ in range(2):
        await world.clock.turn(2)
        world.host.pane("web").exit(3)
        await world.clock.turn(0.1)
    assert daemon["web"].life.phase is phase
    starting = asyncio.ensure_future(daemon.verb("start", targets=["web"], wait=True, env={"HOME": "/home/u"}))
    await world.clock.turn(3)
    answer = await asyncio.wait_for(starting, 30)
    assert [(agent["outcome"], agent["phase"]) for agent in answer.data["agents"]] == [("started", Phase.RUNNING)]


async def test_a_start_that_no_wait_can_bring_about_is_answered_at_once(world: World, daemon: Daemon) -> None:
    world.host.refusals["db"] = "no such program"
    manifest(world, "db")
    manifest(world, "web", depends_on="[{agent: db}]")
    starting = asyncio.ensure_future(daemon.verb("start", wait=True, timeout=600, env={"HOME": "/home/u"}))
    await world.clock.turn(30)
    answer = await asyncio.wait_for(starting, 30)
    outcomes = {agent["name"]: (agent["outcome"], agent["message"]) for agent in answer.data["agents"]}
    assert outcomes["web"] == ("held", "db is failed, not started")


async def test_a_stop_ends_the_waiting_of_one_that_has_not_been_launched_yet(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell("web", depends_on=needs("db", "ready")), world.claude_code("db"))
    await daemon.supervisor.stop([daemon["web"]])
    draw(world.host.pane("db"), "idle-manual")
    await world.clock.turn(60)
    assert phases(daemon) == {"db": Phase.RUNNING, "web": Phase.STOPPED}
    assert daemon["web"].waits_for is None


async def test_a_start_that_waits_for_its_host_is_told_with_the_hosts_words_wherever_the_agent_is_shown(
    world: World, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = True

    async def reach(spec: AgentSpec, handle: Handle | None) -> None:
        if away:
            raise HostUnreachable("gpu1: no route to host")

    monkeypatch.setattr(daemon.supervisor.hosts, "reach", reach)
    await daemon.start(world.shell("web"))
    [agent] = (await daemon.verb("status")).data["agents"]
    assert (agent["phase"], agent["wanted"], agent["waits_for"]) == ("stopped", True, "gpu1: no route to host")
    assert "HostUnreachable: gpu1: no route to host" in words.detail(agent, world.clock.now())
    told = (await daemon.verb("explain", target="web")).data
    assert (told["reason"], told["message"]) == ("HostUnreachable", "gpu1: no route to host")
    [seen] = [row for row in told["conditions"] if row["type"] == "HostReachable"]
    assert (seen["status"], seen["reason"], seen["message"]) == ("False", "HostUnreachable", "gpu1: no route to host")
    [health] = (await daemon.verb("health", targets=["web"])).data["agents"]
    assert health["healthy"] is False
    away = False
    await world.clock.turn(10)
    [agent] = (await daemon.verb("status")).data["agents"]
    assert (agent["phase"], agent["waits_for"], agent["reason"]) == ("running", None, None)


# -- what a person asks: start, restart, apply ----------------------------------------------------------------------


def manifest(world: World, name: str, **spec: Any) -> str:
    folder = world.places.agents
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"  {key}: {value}" for key, value in {"harness": "shell", "command": "[stay]", **spec}.items()]
    path = folder / f"{name}.yaml"
    head = ["apiVersion: fleet/v1", "kind: Agent", f"metadata: {{name: {name}}}", "spec:", "  workdir: /work"]
    path.write_text("\n".join([*head, *lines]) + "\n")
    return str(path)


async def test_a_secret_that_cannot_be_read_refuses_the_whole_start_before_anything_is_written(
    world: World, daemon: Daemon
) -> None:
    good = manifest(world, "good")
    bad = manifest(world, "bad", env="{TOKEN: {env: NOT_THERE}}")
    with pytest.raises(LaunchError, match="NOT_THERE"):
        await daemon.verb("start", targets=[good, bad], env={})
    assert daemon.supervisor.runners == {}
    assert world.disk.record("good") is None
    assert not (world.places.state / "agents").exists()


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"harness": "codex", "command": "[]"}, CannotYet),
        ({"depends_on": "[{agent: nobody}]"}, InvalidManifest),
        ({"depends_on": "[{agent: bad}]"}, InvalidManifest),
        ({"nonsense": "1"}, InvalidManifest),
    ],
)
async def test_one_manifest_that_cannot_be_refuses_the_whole_start(
    world: World, daemon: Daemon, spec: dict[str, str], error: type[FleetError]
) -> None:
    good, bad = manifest(world, "good"), manifest(world, "bad", **spec)
    with pytest.raises(error):
        await daemon.verb("start", targets=[good, bad], env={})
    assert daemon.supervisor.runners == {}
    assert world.disk.record("good") is None


async def test_a_start_of_what_runs_changes_nothing_and_tells_what_the_manifest_says_otherwise(
    world: World, daemon: Daemon
) -> None:
    path = manifest(world, "web", env="{A: one}")
    await daemon.verb("start", targets=[path], env={"SOME": "thing"})
    await world.clock.turn(2)
    before = world.disk.record("web")
    kept = (world.places.agent("web") / "environ.json").read_text()
    manifest(world, "web", env="{A: two}", args="[-v]")
    answer = await daemon.verb("start", targets=[path], env={"SOME": "thing else"})
    await world.clock.turn(2)
    assert [agent["outcome"] for agent in answer.data["agents"]] == ["already_running"]
    assert any("env" in warning and "args" in warning and "apply" in warning for warning in answer.warnings)
    assert (world.disk.record("web"), len(world.host.launches)) == (before, 1)
    assert (world.places.agent("web") / "environ.json").read_text() == kept


async def test_a_start_after_a_stop_takes_the_manifest_and_the_environment_as_they_are_now(
    world: World, daemon: Daemon
) -> None:
    path = manifest(world, "web", env_inherit="[SOME]")
    await daemon.verb("start", targets=[path], env={"SOME": "thing"})
    await world.clock.turn(2)
    await daemon.verb("stop", targets=["web"])
    manifest(world, "web", env_inherit="[SOME]", env="{A: two}")
    await daemon.verb("start", targets=[path], env={"SOME": "thing else"})
    await world.clock.turn(2)
    env = world.host.pane("web").plan.env
    assert (env["A"], env["SOME"]) == ("two", "thing else")


async def test_a_restart_by_the_daemon_has_the_environment_of_the_start(world: World) -> None:
    daemon = await world.daemon()
    path = manifest(world, "web", env_inherit="[SOME]", env="{TOKEN: {env: SECRET}}")
    await daemon.verb("start", targets=[path], env={"SOME": "thing", "SECRET": "hunter2"})
    await world.clock.turn(2)
    daemon.kill()
    daemon = await world.daemon()
    world.host.pane("web").kill()
    await world.clock.turn(2)
    env = world.host.pane("web").plan.env
    assert (len(world.host.launches), env["SOME"], env["TOKEN"]) == (2, "thing", "hunter2")


async def test_apply_starts_what_is_new_restarts_only_what_needs_it_and_leaves_the_rest(
    world: World, daemon: Daemon
) -> None:
    for name in ("same", "label", "args", "gone"):
        manifest(world, name)
    await daemon.verb("start", targets=[str(world.places.agents)], env={})
    await world.clock.turn(2)
    manifest(world, "label", restart="{max_retries: 9}")
    manifest(world, "args", args="[-v]")
    manifest(world, "new")
    (world.places.agents / "gone.yaml").unlink()
    answer = await daemon.verb("apply", env={})
    await world.clock.turn(3)
    assert {change["name"]: change["outcome"] for change in answer.data["changes"]} == {
        "same": "same",
        "label": "taken over",
        "args": "restarted",
        "gone": "kept; --prune stops it",
        "new": "started",
    }
    assert [handle.agent for handle in world.host.launches[4:]] in (["args", "new"], ["new", "args"])
    assert all_in(daemon, Phase.RUNNING)
    assert daemon["label"].spec.restart.max_retries == 9
    again = await daemon.verb("apply", env={})
    await world.clock.turn(3)
    assert {change["outcome"] for change in again.data["changes"]} == {"same", "kept; --prune stops it"}
    assert len(world.host.launches) == 6
    pruning = asyncio.ensure_future(daemon.verb("apply", env={}, prune=True))
    await world.clock.turn(3)
    assert pruning.done()
    assert (world.host.living("gone"), world.disk.record("gone")) == ([], None)


async def test_an_apply_in_which_a_secret_cannot_be_read_changes_nothing(world: World, daemon: Daemon) -> None:
    manifest(world, "web")
    await daemon.verb("apply", env={})
    await world.clock.turn(2)
    manifest(world, "web", args="[-v]")
    manifest(world, "bad", env="{TOKEN: {file: /nowhere}}")
    with pytest.raises(LaunchError, match="/nowhere"):
        await daemon.verb("apply", env={})
    assert (len(world.host.launches), list(daemon.supervisor.runners)) == (1, ["web"])
    assert daemon["web"].spec.args == ()


async def test_a_restart_with_a_manifest_that_cannot_be_leaves_what_runs(world: World, daemon: Daemon) -> None:
    path = manifest(world, "web")
    await daemon.verb("start", targets=[path], env={})
    await world.clock.turn(2)
    manifest(world, "web", nonsense="1")
    with pytest.raises(InvalidManifest):
        await daemon.verb("restart", targets=["web"], env={})
    manifest(world, "web", env="{TOKEN: {env: NOT_THERE}}")
    with pytest.raises(LaunchError):
        await daemon.verb("restart", targets=["web"], env={})
    await world.clock.turn(2)
    assert (phases(daemon), len(world.host.launches)) == ({"web": Phase.RUNNING}, 1)


async def test_a_start_that_cannot_be_written_down_is_refused_and_starts_nothing(world: World, daemon: Daemon) -> None:
    path = manifest(world, "web")
    world.disk.full = True
    with pytest.raises(StorageFull):
        await daemon.verb("start", targets=[path], env={})
    world.disk.full = False
    await world.clock.turn(5)
    assert world.host.launches == []
    await daemon.verb("start", targets=[path], env={})
    await world.clock.turn(2)
    assert phases(daemon) == {"web": Phase.RUNNING}


async def test_a_shutdown_is_remembered_and_undone_by_a_start_without_a_name(world: World) -> None:
    daemon = await world.daemon()
    for name in ("up", "down"):
        await daemon.verb("start", targets=[manifest(world, name)], env={})
    await world.clock.turn(2)
    await daemon.verb("stop", targets=["down"])
    await daemon.verb("shutdown")
    assert all_in(daemon, Phase.STOPPED)
    daemon.kill()
    daemon = await world.daemon()
    await world.clock.turn(600)
    assert (all_in(daemon, Phase.STOPPED), daemon.supervisor.ledger.note(DOWN)) == (True, "yes")
    await daemon.verb("start", env={})
    await world.clock.turn(2)
    assert phases(daemon) == {"up": Phase.RUNNING, "down": Phase.STOPPED}


async def test_who_follows_from_now_on_hears_nothing_from_before(world: World, daemon: Daemon) -> None:
    told: list[str] = []

    async def progress(line: Any) -> None:
        told.append(line["event"]["name"])

    await daemon.start(world.shell("web"))
    await world.clock.turn(2)
    args = {"agent": "web", "type": "phase", "follow": True, "limit": 0}
    following = asyncio.ensure_future(daemon.operator.do("events", args, progress))
    await settle()
    await daemon.verb("stop", targets=["web"])
    await world.clock.turn(2)
    assert told == ["stopping", "stopped"]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_removing_one_ends_it_and_forgets_it(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell("web"), world.shell("web-2"))
    await world.clock.turn(2)
    await daemon.verb("remove", targets=["web"])
    assert (world.host.living("web"), world.disk.record("web")) == ([], None)
    assert not world.places.agent("web").exists()
    with pytest.raises(UnknownAgent):
        await daemon.verb("stop", targets=["web"])
    assert phases(daemon) == {"web-2": Phase.RUNNING}


async def test_one_that_two_remove_at_a_time_is_removed_once(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell("web"))
    await world.clock.turn(2)
    answers = await asyncio.gather(*(daemon.verb("remove", targets=["web"]) for _ in range(2)))
    assert [answer.data["agents"][0]["outcome"] for answer in answers] == ["removed", "removed"]
    assert (world.host.living("web"), world.disk.record("web"), phases(daemon)) == ([], None, {})


async def test_one_that_is_started_while_it_is_removed_stays(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell("web"))
    await world.clock.turn(2)
    world.host.pane("web").spawn(ignores_term=True)  # its end takes a while
    removing = asyncio.ensure_future(daemon.verb("remove", targets=["web"]))
    await settle()
    await daemon.start(world.shell("web"))
    await world.clock.turn(30)
    with pytest.raises(Held, match="started again"):
        await removing
    assert phases(daemon) == {"web": Phase.RUNNING} and len(world.host.living("web")) == 1
    await daemon.verb("stop", targets=["web"])
    assert world.host.living("web") == []


async def test_one_whose_removal_cannot_be_written_down_is_known_on(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell("web"))
    await world.clock.turn(2)
    await daemon.verb("stop", targets=["web"])
    world.disk.full = True
    with pytest.raises(StorageFull):
        await daemon.supervisor._forget(daemon["web"])
    world.disk.full = False
    await daemon.verb("start", targets=["web"])
    await world.clock.turn(2)
    assert phases(daemon) == {"web": Phase.RUNNING}


async def test_an_agent_whose_notes_cannot_be_read_keeps_no_other_from_being_taken_over(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("web"), world.shell("db"))
    await world.clock.turn(2)
    daemon.kill()
    kept = world.places.agent("web") / "environ.json"
    content = kept.read_text()
    kept.write_text(content[:20])
    daemon = await world.daemon()
    await world.clock.turn(5)
    assert phases(daemon) == {"web": Phase.UNVERIFIABLE, "db": Phase.RUNNING}
    told = (await daemon.verb("status", targets=["web"])).data["agents"][0]["message"]
    assert "environ.json" in told and "fleet restart web" in told
    kept.write_text(content)
    await world.clock.turn(10)
    assert phases(daemon) == {"web": Phase.RUNNING, "db": Phase.RUNNING}


async def test_a_fault_in_one_adoption_keeps_no_other_agent_from_its_own(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("web"), world.shell("db"))
    await world.clock.turn(2)
    daemon.kill()
    look, broken = world.host.look, [True]

    async def breaks(handle: Handle) -> Look:
        if broken[0] and handle.agent == "web":
            raise ZeroDivisionError("a fault of ours")
        return await look(handle)

    world.host.look = breaks  # type: ignore[method-assign]
    daemon = await world.daemon()
    await world.clock.turn(1)
    assert phases(daemon) == {"web": Phase.UNVERIFIABLE, "db": Phase.RUNNING}
    broken[0] = False
    await world.clock.turn(10)
    assert phases(daemon) == {"web": Phase.RUNNING, "db": Phase.RUNNING}


async def test_who_waits_for_another_is_started_by_the_next_daemon(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("web", depends_on=needs("db", "ready")), world.claude_code("db"))
    assert phases(daemon) == {"db": Phase.STARTING, "web": Phase.STOPPED}
    daemon.kill()
    daemon = await world.daemon()
    await world.clock.turn(10)
    assert daemon["web"].waits_for == "db is starting, not ready"
    draw(world.host.pane("db"), "idle-manual")
    await world.clock.turn(5)
    assert phases(daemon) == {"db": Phase.RUNNING, "web": Phase.RUNNING}
    await daemon.supervisor.stop([daemon["web"]])
    daemon.kill()
    daemon = await world.daemon()
    await world.clock.turn(10)
    assert phases(daemon) == {"db": Phase.RUNNING, "web": Phase.STOPPED}


async def test_a_stop_of_one_that_waits_is_kept_by_the_next_daemon(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("web", depends_on=needs("db", "ready")), world.claude_code("db"))
    await daemon.supervisor.stop([daemon["web"]])
    daemon.kill()
    daemon = await world.daemon()
    draw(world.host.pane("db"), "idle-manual")
    await world.clock.turn(10)
    assert phases(daemon) == {"db": Phase.RUNNING, "web": Phase.STOPPED}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_daemon_killed_while_it_starts_a_team_is_followed_by_one_that_goes_on(
    tmp_path: Path, after: bool
) -> None:
    """From the first start that was written down on: before that the person has no answer, and nothing happens."""
    last, killed, begun = 0, True, []
    while killed:
        last += 1
        folder = tmp_path / str(last)
        folder.mkdir()
        world = World(folder)
        daemon = await world.daemon(last, after=after)
        team = [world.shell("a", depends_on=needs("b", "started")), world.shell("b")]
        starting = asyncio.ensure_future(daemon.start(*team))
        await world.clock.turn(4)
        killed = daemon.hands.dead
        daemon = await world.daemon() if killed else daemon
        await world.clock.turn(4)
        begun.append(set(phases(daemon).values()))
        assert begun[-1] in ({Phase.RUNNING}, {Phase.STOPPED}, set()), f"killed at touch {last}"
        starting.cancel()
        await world.close()
    assert begun == sorted(begun, key=lambda seen: (Phase.RUNNING in seen, len(seen)))
    assert begun.count({Phase.RUNNING}) > 8


async def test_a_shutdown_that_was_cut_short_is_finished_by_the_next_daemon(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("web", depends_on=needs("db", "started")), world.shell("db"))
    await world.clock.turn(3)
    world.host.pane("web").ignores_term = True
    going = asyncio.ensure_future(daemon.supervisor.shutdown())
    await world.clock.turn(1)
    assert phases(daemon) == {"db": Phase.RUNNING, "web": Phase.STOPPING}
    daemon.kill()
    daemon = await world.daemon()
    await world.clock.turn(30)
    assert (phases(daemon), world.host.living("db")) == ({"db": Phase.STOPPED, "web": Phase.STOPPED}, [])
    assert {runner.name for runner in daemon.supervisor.was_up()} == {"db", "web"}
    going.cancel()


async def test_on_a_full_disk_a_shutdown_ends_the_agents_and_says_what_is_not_written_down(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("web"), world.shell("db"))
    await world.clock.turn(3)
    world.disk.full = True
    answer = await daemon.verb("shutdown")
    assert answer.data["stopped"] == ["db", "web"] or answer.data["stopped"] == ["web", "db"]
    assert (world.host.living("web"), world.host.living("db")) == ([], [])
    assert answer.exit_code == 5
    assert "It is not written down that the fleet is down" in answer.warnings[0]


async def test_a_shutdown_is_written_down_where_its_ends_have_left_space(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("web"))
    await world.clock.turn(3)
    world.disk.full = True
    world.host.pane("web").ignores_term = True
    going = asyncio.ensure_future(daemon.verb("shutdown"))
    await world.clock.turn(1)
    world.disk.full = False
    await world.clock.turn(30)
    answer = await going
    assert (answer.exit_code, list(answer.warnings)) == (0, [])
    daemon.kill()
    daemon = await world.daemon()
    assert phases(daemon) == {"web": Phase.STOPPED}
    assert [runner.name for runner in daemon.supervisor.was_up()] == ["web"]


async def cut_off(world: World) -> Daemon:
    """A daemon that does not see its one agent, web, any more."""
    daemon = await world.daemon()
    await daemon.start(world.shell("web"))
    await world.clock.turn(3)
    world.host.cut()
    await world.clock.turn(1)
    return daemon


async def test_a_shutdown_tells_at_once_whom_it_cannot_reach_and_goes_on_behind_who_asked(world: World) -> None:
    daemon = await cut_off(world)
    told: list[str] = []
    heard = asyncio.Event()

    async def progress(said: Mapping[str, Any]) -> None:
        told.append(str(said["message"]))
        heard.set()

    asking = asyncio.ensure_future(daemon.operator.do("shutdown", {"timeout": 180}, progress))
    await asyncio.wait_for(heard.wait(), 60)
    assert "waits for web" in told[0] and "the link is down" in told[0] and "--leave-unreachable" in told[0]
    await world.clock.turn(200)
    held = await asking
    assert (held.exit_code, held.data["daemon"], [one["name"] for one in held.data["left"]]) == (4, "running", ["web"])
    again = asyncio.ensure_future(daemon.verb("shutdown"))
    world.host.heal()
    await world.clock.turn(5)
    assert (await again).data == {"stopped": ["web"], "left": [], "daemon": "ending"}
    assert world.host.living("web") == []


async def test_who_follows_a_log_is_told_of_a_cut_and_misses_and_doubles_nothing_that_came_meanwhile(
    world: World,
) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("web"))
    await world.clock.turn(3)
    world.host.logs["web"] = [f"line {n}" for n in range(300)]
    told: list[Mapping[str, Any]] = []

    async def progress(said: Mapping[str, Any]) -> None:
        told.append(said)

    following = asyncio.ensure_future(
        daemon.operator.do("logs", {"target": "web", "lines": 1, "follow": True}, progress)
    )
    await world.clock.turn(1)
    daemon["web"].post(lifecycle.Lost(message="the link is down"))
    await world.clock.turn(1)
    world.host.logs["web"] += [f"line {n}" for n in range(300, 3000)]
    daemon["web"].post(lifecycle.Seen(alive=True))
    await world.clock.turn(2)
    following.cancel()
    assert [said["note"] for said in told if "note" in said] == [
        "web cannot be seen: the link is down",
        "web is seen again",
    ]
    assert [said["line"] for said in told if "line" in said] == [f"line {n}" for n in range(299, 3000)]


async def test_why_a_host_cannot_be_read_is_shown_as_it_was_told_last(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.shell("web"))
    await world.clock.turn(3)
    world.host.cut("the connection was lost")
    await world.clock.turn(1)
    world.host.cut("its host key has changed")
    await world.clock.turn(1)
    (web,) = (await daemon.verb("status", targets=["web"])).data["agents"]
    assert (web["phase"], web["message"]) == ("unverifiable", "its host key has changed")


async def test_a_shutdown_that_leaves_who_cannot_be_reached_ends_the_others_and_the_next_daemon_ends_those(
    world: World,
) -> None:
    daemon = await cut_off(world)
    answer = await daemon.verb("shutdown", leave_unreachable=True)
    assert (answer.exit_code, answer.data["stopped"], answer.data["daemon"]) == (5, [], "ending")
    assert "web may still run" in answer.warnings[0]
    daemon.kill()
    world.host.heal()
    daemon = await world.daemon()
    await world.clock.turn(5)
    assert (phases(daemon), world.host.living("web")) == ({"web": Phase.STOPPED}, [])
    assert [runner.name for runner in daemon.supervisor.was_up()] == ["web"]


@pytest.mark.parametrize("act", [crash, restart, stop])
async def test_a_daemon_that_is_killed_while_it_puts_things_right_does_no_harm_either(tmp_path: Path, act: Act) -> None:
    for first in range(1, 10):
        for second in range(1, 10, 3):
            folder = tmp_path / f"{first}-{second}"
            folder.mkdir()
            world = World(folder, backoff_jitter=0.0)
            daemon = await world.daemon()
            await start(world, daemon)
            await world.clock.turn(2)
            daemon.kill()
            daemon = await world.daemon(first, after=True)
            acting = asyncio.ensure_future(act(world, daemon))
            await world.clock.turn(1)
            daemon.kill()
            daemon = await world.daemon(second, after=True)
            await world.clock.turn(1)
            daemon.kill()
            daemon = await world.daemon()
            await world.clock.turn(3)
            living = [pane.handle for pane in world.host.living("web")]
            expected = (Phase.STOPPED, []) if act is stop else (Phase.RUNNING, [daemon["web"].handle])
            assert (phases(daemon)["web"], living) == expected, (first, second)
            assert len(daemon["web"].life.budget.deaths) == (act is crash), (first, second)
            acting.cancel()
            await world.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_conversation_is_never_lost_or_doubled_wherever_the_daemon_is_killed(
    tmp_path: Path, after: bool
) -> None:
    last, killed = 0, True
    while killed:
        last += 1
        folder = tmp_path / str(last)
        folder.mkdir()
        world = World(folder, backoff_jitter=0.0)
        daemon = await world.daemon()
        await daemon.start(world.claude_code(prompt="go on"))
        await daemon.hook("UserPromptSubmit")
        conversation = daemon["web"].record.session_id
        world.host.files[f"/home/u/.claude/projects/-work/{conversation}.jsonl"] = b'{"type":"user"}\n'
        daemon.kill()
        daemon = await world.daemon(last, after=after)
        world.host.pane("web").kill()
        await world.clock.turn(3)
        killed = daemon.hands.dead
        daemon = await world.daemon() if killed else daemon
        await world.clock.turn(3)
        where = f"killed at touch {last}"
        assert [daemon["web"].handle] == [pane.handle for pane in world.host.living("web")], where
        argv = world.host.pane("web").plan.argv
        assert argv[argv.index("--resume") + 1] == conversation == daemon["web"].record.session_id, where
        assert "go on" not in argv, where
        assert len(world.host.launches) == 2, where
        await world.close()
    assert last > 5


async def test_a_persons_stop_holds_while_many_come_back(world: World, daemon: Daemon) -> None:
    names = [f"a{n}" for n in range(10)]
    await daemon.start(*(world.shell(name) for name in names))
    await world.clock.turn(2)
    world.host.lose_multiplexer()
    await world.clock.turn(0.5)
    await daemon.supervisor.stop([daemon[name] for name in names[::2]])
    await world.clock.turn(60)
    assert phases(daemon) == {name: Phase.STOPPED if n % 2 == 0 else Phase.RUNNING for n, name in enumerate(names)}
    assert [name for name in names[::2] if world.host.living(name)] == []


async def test_a_host_that_is_cut_off_while_many_come_back_only_delays_them(world: World, daemon: Daemon) -> None:
    names = [f"a{n}" for n in range(10)]
    await daemon.start(*(world.shell(name) for name in names))
    await world.clock.turn(2)
    world.host.lose_multiplexer()
    await world.clock.turn(1.3)
    for _ in range(3):
        world.host.cut()
        await world.clock.turn(20)
        world.host.heal()
        await world.clock.turn(0.4)
    await world.clock.turn(20)
    assert all_in(daemon, Phase.RUNNING)
    assert [len(world.host.living(name)) for name in names] == [1] * 10
    assert {runner.life.budget.deaths for runner in daemon.supervisor.runners.values()} == {()}
    assert daemon.supervisor.ramp_note is None


async def test_a_daemon_killed_while_many_come_back_brings_back_the_rest_as_gently(world: World) -> None:
    daemon = await world.daemon()
    names = [f"a{n}" for n in range(10)]
    await daemon.start(*(world.shell(name) for name in names))
    await world.clock.turn(2)
    world.host.lose_multiplexer()
    await world.clock.turn(0.5)
    assert len(world.host.launches) == 14
    daemon.kill()
    daemon = await world.daemon()
    assert sum(phase is Phase.STARTING for phase in phases(daemon).values()) <= 8
    await world.clock.turn(20)
    assert (all_in(daemon, Phase.RUNNING), len(world.host.launches)) == (True, 20)
    assert {runner.life.budget.deaths for runner in daemon.supervisor.runners.values()} == {()}


async def test_starts_of_the_same_agent_at_once_are_one(world: World, daemon: Daemon) -> None:
    path = manifest(world, "web")
    await asyncio.gather(*(daemon.verb("start", targets=[path], env={}) for _ in range(3)))
    await world.clock.turn(3)
    assert (phases(daemon), len(world.host.launches)) == ({"web": Phase.RUNNING}, 1)


async def test_one_that_is_stopped_while_the_brake_holds_it_draws_nothing_from_it(world: World, daemon: Daemon) -> None:
    names = [f"a{n}" for n in range(8)]
    await daemon.start(*(world.shell(name) for name in names))
    await world.clock.turn(2)
    for name in names:
        world.host.pane(name).kill()
    await settle()
    first, *others = [name for name, phase in phases(daemon).items() if phase is Phase.BACKOFF]
    await daemon.supervisor.stop([daemon[first]])
    await world.clock.turn(10.1)
    assert [daemon[name].life.phase for name in (first, *others)] == [Phase.STOPPED, Phase.RUNNING, Phase.STARTING]


# -- many at once ----------------------------------------------------------------------------------------------------


async def test_of_many_that_start_at_once_one_asks_the_program_for_its_version(world: World, daemon: Daemon) -> None:
    answers = asyncio.Event()

    async def slow() -> None:
        await answers.wait()

    world.host.commanded[str(world.claude)] = slow
    await daemon.start(*(world.claude_code(f"w{n}") for n in range(5)))
    answers.set()
    await settle()
    assert [runner.record.version for runner in daemon.supervisor.runners.values()] == [VERSION] * 5
    assert [argv[0] for argv in world.host.ran if argv[-1] == "--version"] == [str(world.claude)]


async def test_every_condition_tells_since_when_it_is_so(world: World) -> None:
    daemon = await world.daemon()
    await daemon.start(world.claude_code())
    began = world.clock.now()
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(5)

    async def since() -> tuple[float, ...]:
        """Of the three that hardly ever change."""
        told = (await daemon.verb("explain", target="web")).data["conditions"]
        assert all(row["since"] is not None for row in told), told
        times = {row["type"]: row["since"] for row in told}
        return times["HostReachable"], times["Resumable"], times["BudgetOK"]

    assert await since() == (began, began, began)
    await daemon.hook("UserPromptSubmit", payload={"prompt": "hello"})
    used = world.clock.now()
    world.host.cut()
    await world.clock.turn(10)
    world.host.heal()
    await world.clock.turn(10)
    seen, recorded, free = await since()
    assert (used < seen <= world.clock.now(), recorded, free) == (True, used, began)
    daemon.kill()
    daemon = await world.daemon()
    assert await since() == (seen, used, began)
