"""One agent, from its start to its end: what is written down, what is done, and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet import lifecycle, report
from fleet.cli import words
from fleet.errors import StorageFull, TimedOut
from fleet.lifecycle import Then
from fleet.terms import Activity, File, Kind, Look, Phase, Ran
from fleet.testing import Pane, settle
from tests.unit.fleet_in_memory import Daemon, Faulty, World, draw


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, backoff_jitter=0.0)
    yield world
    await world.close()


@pytest.fixture
async def daemon(world: World) -> Daemon:
    return await world.daemon()


def phase(daemon: Daemon, name: str = "web") -> Phase:
    return daemon[name].life.phase


# -- a start --------------------------------------------------------------------------------------------------------


async def test_a_program_that_lives_for_a_second_has_started(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(0.5)
    assert phase(daemon) is Phase.STARTING
    await world.clock.turn(1)
    assert phase(daemon) is Phase.RUNNING


async def test_what_its_probe_takes_is_of_the_time_that_a_start_may_take(world: World, daemon: Daemon) -> None:
    async def hang() -> None:
        await world.clock.sleep(10)
        raise TimedOut("probe was not done within 10 s")

    world.host.commanded["probe"] = hang
    await daemon.start(world.shell(startup={"timeout": 30, "probe": ["probe"]}))
    await world.clock.turn(20)
    assert phase(daemon) is Phase.STARTING
    await world.clock.turn(20)
    assert daemon["web"].life.reason == "StartTimedOut", "it was silent for longer than a start may take"


async def test_a_claude_code_has_started_once_its_composer_is_seen(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code())
    await world.clock.turn(10)
    assert phase(daemon) is Phase.STARTING
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(1)
    assert phase(daemon) is Phase.RUNNING
    assert daemon["web"].state.activity is Activity.READY


async def test_a_claude_code_has_started_once_its_hook_speaks(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code())
    await daemon.hook("SessionStart", payload={"source": "startup"})
    assert phase(daemon) is Phase.RUNNING


@pytest.mark.parametrize("speaks", ["composer", "hook"])
async def test_a_program_that_is_ready_before_its_launch_is_written_down_has_started_once_that_is(
    world: World, daemon: Daemon, speaks: str
) -> None:
    launch = world.host.launch

    async def with_a_slow_disk_after_it(*told: Any) -> None:
        await launch(*told)
        world.disk.slow = asyncio.Event()

    world.host.launch = with_a_slow_disk_after_it  # type: ignore[method-assign]
    await daemon.start(world.claude_code(hooks={"post_start": [["do-post_start"]]}))
    if speaks == "hook":
        await daemon.hook("SessionStart", payload={"source": "startup"})
    else:
        draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(10)
    assert phase(daemon) is Phase.STARTING
    assert world.disk.slow is not None
    world.disk.slow.set()
    await world.clock.turn(0.1)
    assert phase(daemon) is Phase.RUNNING
    assert [argv for argv in world.host.ran if argv[0] == "do-post_start"] == [("do-post_start",)]


async def test_hooks_after_the_start_run_once_though_the_start_is_slow_to_be_written_down(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(world.claude_code(hooks={"post_start": [["do-post_start"]]}))
    world.disk.slow = asyncio.Event()
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(2)
    draw(world.host.pane("web"), "running-streaming")
    await world.clock.turn(2)
    assert phase(daemon) is Phase.STARTING
    world.disk.slow.set()
    await world.clock.turn(0.1)
    assert phase(daemon) is Phase.RUNNING
    assert [argv for argv in world.host.ran if argv[0] == "do-post_start"] == [("do-post_start",)]


async def test_handle_conversation_and_phase_are_on_the_disk_before_the_host_is_asked(
    world: World, daemon: Daemon
) -> None:
    asked = asyncio.Event()

    async def slow() -> None:
        asked.set()
        await asyncio.get_running_loop().create_future()

    world.host.commanded["pwd"] = slow
    await daemon.start(world.claude_code())
    assert asked.is_set()
    written = world.disk.record("web")
    assert written is not None
    assert (written.life.phase, written.life.wanted, written.launches) == (Phase.STARTING, True, 1)
    assert written.handle == daemon["web"].handle is not None
    assert written.session_id
    assert world.host.launches == []


async def test_silence_is_a_failed_start_that_is_tried_again_after_5_15_and_45_seconds(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(world.claude_code(startup={"timeout": 20}))
    starts, ends = [], []
    while phase(daemon) is not Phase.FAILED:
        before = phase(daemon)
        await world.clock.turn(0.25)
        if before is not Phase.STARTING and phase(daemon) is Phase.STARTING:
            starts.append(world.clock.now())
        if before is Phase.STARTING and phase(daemon) is not Phase.STARTING:
            ends.append(world.clock.now())
    assert [round(start - end) for start, end in zip(starts, ends, strict=False)] == [5, 15, 45]
    assert daemon["web"].life.reason == "StartFailed"
    assert world.host.living("web") == []


async def test_a_launch_that_the_host_refuses_is_told_and_not_tried_again(world: World, daemon: Daemon) -> None:
    world.host.refusals["web"] = "there is no such program"
    await daemon.start(world.shell())
    await world.clock.turn(600)
    life = daemon["web"].life
    assert (life.phase, life.reason) == (Phase.FAILED, "LaunchError")
    assert "no such program" in (life.message or "")


async def test_a_fault_in_a_launch_is_counted_told_and_tried_again(world: World, daemon: Daemon) -> None:
    world.host.commanded["pwd"] = _fault_once(world)
    await daemon.start(world.shell())
    assert (phase(daemon), daemon["web"].life.reason) == (Phase.BACKOFF, "InternalError")
    assert daemon.supervisor.faults == 1
    await world.clock.turn(7)
    assert phase(daemon) is Phase.RUNNING


def _fault_once(world: World):
    async def fault() -> None:
        del world.host.commanded["pwd"]
        raise ZeroDivisionError("a fault of ours")

    return fault


# -- its end, and its return ------------------------------------------------------------------------------------------


async def test_deaths_are_followed_by_launches_at_once_then_after_10_20_and_40_seconds_then_it_is_parked(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(world.shell())
    waits = []
    for _ in range(4):
        await world.clock.turn(2)
        assert phase(daemon) is Phase.RUNNING
        launches, died_at = len(world.host.launches), world.clock.now()
        world.host.pane("web").kill()
        await settle()
        while len(world.host.launches) == launches:
            await world.clock.turn(0.5)
        waits.append(world.clock.now() - died_at)
    assert waits == [0, 10, 20, 40]
    await world.clock.turn(2)
    world.host.pane("web").kill()
    await world.clock.turn(900)
    assert (phase(daemon), daemon["web"].life.reason) == (Phase.FAILED, "CrashLoop")
    assert len(world.host.launches) == 5


async def test_ten_good_minutes_forgive_all_deaths(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    for _ in range(3):
        await world.clock.turn(60)
        world.host.pane("web").kill()
    await world.clock.turn(640)
    launches = len(world.host.launches)
    world.host.pane("web").kill()
    await settle()
    assert len(world.host.launches) == launches + 1


async def test_an_agent_whose_job_waits_in_the_queue_again_is_neither_ready_nor_a_process(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(world.claude_code())
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(1)
    runner = daemon["web"]
    before = report.summary(runner, world.clock.now(), world.settings)
    assert (before["activity"], before["waiting"]) == (Activity.READY, None) and before["pid"] is not None
    assert runner.handle is not None
    waiting = "job 7 waits (BeginTime); it was requeued"
    runner.senses.on_look(runner.handle, Look(at=world.clock.now(), alive=True, waiting=waiting))
    told = report.summary(runner, world.clock.now(), world.settings)
    assert (told["phase"], told["activity"], told["pid"]) == (Phase.RUNNING, Activity.BOOTING, None)
    assert told["waiting"] == told["message"] == waiting and waiting in words.detail(told, world.clock.now())


async def test_an_exit_is_told_once_however_often_it_is_seen(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell(restart={"policy": "never"}))
    await world.clock.turn(2)
    runner = daemon["web"]
    handle = runner.handle
    assert handle is not None
    for _ in range(3):
        runner.senses.on_look(handle, Look(at=world.clock.now(), alive=False, exit_status=3))
    await world.clock.turn(1)
    assert [told["exit_status"] for _, told in world.disk.events("web", "exit")] == [3]


async def test_what_a_dead_program_left_behind_is_ended_before_the_next_launch(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    first = world.host.pane("web")
    first.spawn(ignores_term=True)
    first.kill_launcher()
    await world.clock.turn(2)
    assert (first.children, phase(daemon)) == ([], Phase.RUNNING)
    assert [pane.handle for pane in world.host.living("web")] == [world.host.launches[1]]


async def test_a_stop_during_a_launch_leaves_nothing_alive(world: World, daemon: Daemon) -> None:
    """Wherever in the launch it falls."""
    for moment in range(40):
        await daemon.start(world.shell())
        for _ in range(moment):
            await asyncio.sleep(0)
        await daemon.supervisor.stop([daemon["web"]])
        await world.clock.turn(5)
        assert (phase(daemon), world.host.living("web")) == (Phase.STOPPED, []), moment
    assert world.host.launches


async def test_a_screen_that_says_nothing_any_more_ages_the_state_until_it_is_unknown(
    world: World, daemon: Daemon
) -> None:
    await _ready(world, daemon)
    world.host.pane("web").show("nothing that any rule knows")
    await world.clock.turn(10)
    assert daemon["web"].state.activity is Activity.READY
    await world.clock.turn(world.settings.stale)
    assert daemon["web"].state.activity is Activity.UNKNOWN


async def test_an_agent_at_rest_is_as_fresh_as_the_last_sweep_and_ages_only_from_there(
    world: World, daemon: Daemon
) -> None:
    await _ready(world, daemon)
    await world.clock.turn(600)
    assert daemon["web"].due is None, "nothing has to be done for it"
    assert daemon["web"].state.seen == world.clock.now()
    assert {claim.seen for claim in daemon["web"].book} == {world.clock.now()}
    world.host.pane("web").show("nothing that any rule knows")
    await world.clock.turn(10)
    assert daemon["web"].state.activity is Activity.READY
    await world.clock.turn(world.settings.stale)
    assert daemon["web"].state.activity is Activity.UNKNOWN


async def test_two_restarts_in_a_row_are_one_launch_after_the_end(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    first = world.host.pane("web")
    first.ignores_term = True
    daemon["web"].post(lifecycle.Restart())
    await settle()
    daemon["web"].post(lifecycle.Restart())
    await world.clock.turn(15)
    assert (first.alive, phase(daemon)) == (False, Phase.RUNNING)
    assert len(world.host.living("web")) == 1
    assert len(world.host.launches) == 2


async def test_restarts_in_a_row_during_launches_leave_one_alive(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    for moment in range(30):
        daemon["web"].post(lifecycle.Restart())
        for _ in range(moment):
            await asyncio.sleep(0)
    await world.clock.turn(10)
    assert (phase(daemon), len(world.host.living("web"))) == (Phase.RUNNING, 1)


async def test_a_stop_overrules_a_restart_that_is_under_way(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    world.host.pane("web").ignores_term = True
    daemon["web"].post(lifecycle.Restart())
    await settle()
    assert daemon["web"].life.pending is Then.START
    daemon["web"].post(lifecycle.Stop())
    await world.clock.turn(60)
    assert (phase(daemon), world.host.living("web")) == (Phase.STOPPED, [])
    assert len(world.host.launches) == 1


async def test_a_stop_while_it_waits_for_its_return_is_final(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    world.host.pane("web").kill()
    await world.clock.turn(2)
    world.host.pane("web").kill()
    await settle()
    assert phase(daemon) is Phase.BACKOFF
    await daemon.supervisor.stop([daemon["web"]])
    await world.clock.turn(600)
    assert phase(daemon) is Phase.STOPPED
    assert len(world.host.launches) == 2


# -- startup dialogs ------------------------------------------------------------------------------------------------


async def test_the_clock_of_a_start_stands_still_while_a_dialog_waits(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code(startup={"timeout": 30}))
    pane = world.host.pane("web")
    await world.clock.turn(20)
    draw(pane, "trust-dialog")
    await world.clock.turn(900)
    assert (phase(daemon), daemon["web"].state.kind) == (Phase.STARTING, Kind.TRUST)
    assert pane.typed == []
    pane.show("")  # answered, and nothing follows
    await world.clock.turn(9)
    assert phase(daemon) is Phase.STARTING
    await world.clock.turn(3)
    assert phase(daemon) is Phase.BACKOFF


async def test_a_dialog_that_the_manifest_settles_gets_one_looked_at_key_at_a_time(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(world.claude_code(auto_accept=["trust-folder"]))
    pane = world.host.pane("web")
    draw(pane, "trust-dialog")
    await settle()
    assert pane.typed == []
    await world.clock.turn(0.35)
    assert pane.typed == ["Down"]
    _point_at_yes(pane)
    await world.clock.turn(1)
    assert pane.typed == ["Down", "Enter"]
    await world.clock.turn(3)
    assert pane.typed == ["Down", "Enter"], "the program is slow to take it"
    draw(pane, "idle-manual")
    await world.clock.turn(2)
    assert pane.typed == ["Down", "Enter"]
    assert phase(daemon) is Phase.RUNNING


async def test_a_half_drawn_dialog_that_fleet_will_settle_is_not_yet_a_persons_to_answer(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(world.claude_code(auto_accept=["trust-folder"]))
    pane = world.host.pane("web")
    draw(pane, "trust-dialog")
    pane.show(pane.screen.text.replace("❯", " "), title=pane.screen.title)
    await world.clock.turn(0.5)
    assert (daemon["web"].state.activity, daemon["web"].starting.asks_a_person) == (Activity.NEEDS_INPUT, False)
    await world.clock.turn(10)
    assert (pane.typed, daemon["web"].starting.asks_a_person) == ([], True), (
        "where no pointer is seen, nothing is pressed"
    )


async def test_what_is_drawn_after_a_key_of_fleets_is_given_its_time_like_the_first(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(world.claude_code(auto_accept=["trust-folder"]))
    pane = world.host.pane("web")
    draw(pane, "trust-dialog")
    await world.clock.turn(0.35)
    assert pane.typed == ["Down"]
    pane.show("\n\n Enter to confirm · Esc to cancel\n", title=pane.screen.title)
    await world.clock.turn(0.9)
    assert (daemon["web"].facts.verdict.rule, daemon["web"].state.activity) == ("menu", Activity.NEEDS_INPUT)
    assert not daemon["web"].starting.asks_a_person, "it is not drawn whole yet"
    await world.clock.turn(1)
    assert daemon["web"].starting.asks_a_person


async def test_who_has_started_behind_a_settled_dialog_is_not_said_to_ask_while_the_rest_is_drawn(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(world.claude_code(auto_accept=["trust-folder"]))
    pane = world.host.pane("web")
    draw(pane, "trust-dialog")
    await world.clock.turn(0.1)
    await daemon.hook("SessionStart", payload={"source": "startup"})
    assert (phase(daemon), daemon["web"].state.activity) == (Phase.RUNNING, Activity.NEEDS_INPUT)
    assert daemon["web"].starting.dialog_goes, "what fleet settles still stands on the last screen"
    draw(pane, "api-key-approval")
    await world.clock.turn(1)
    assert (daemon["web"].state.activity, daemon["web"].starting.dialog_goes) == (Activity.NEEDS_INPUT, False)


async def test_a_dialog_that_went_before_the_key_gets_none(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code(auto_accept=["trust-folder"]))
    pane = world.host.pane("web")
    draw(pane, "trust-dialog")
    await world.clock.turn(0.1)
    draw(pane, "idle-manual")
    await world.clock.turn(10)
    assert pane.typed == []


async def test_a_dialog_that_nobody_allowed_gets_no_key(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code(auto_accept=["trust-folder"]))
    draw(world.host.pane("web"), "api-key-approval")
    await world.clock.turn(60)
    assert world.host.pane("web").typed == []


def _point_at_yes(pane: Pane) -> None:
    def moved(text: str) -> str:
        return text.replace("❯ No, exit", "  No, exit").replace("  Yes, I trust", "❯ Yes, I trust")

    pane.screen = replace(pane.screen, cursor=(1, 14))
    pane.show(moved(pane.screen.text), title=pane.screen.title, ansi=moved(pane.screen.ansi or ""))


# -- the first prompt -----------------------------------------------------------------------------------------------


async def _with_prompt(world: World, daemon: Daemon) -> Pane:
    world.host.files["/work/first.md"] = b"say hello"
    await daemon.start(world.claude_code(prompt_file="/work/first.md"))
    return world.host.pane("web")


async def test_a_prompt_file_is_typed_once_and_submitted_once(world: World, daemon: Daemon) -> None:
    pane = await _with_prompt(world, daemon)
    await world.clock.turn(5)
    assert pane.typed == []
    draw(pane, "idle-manual")
    await _until_typed(world, pane)
    draw(pane, "compose-unsent")
    await world.clock.turn(1)
    assert pane.typed == ["say hello", "Enter"]
    await daemon.hook("UserPromptSubmit")
    draw(pane, "idle-manual")
    await world.clock.turn(120)
    assert pane.typed == ["say hello", "Enter"]
    pane.kill()
    await world.clock.turn(1)
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(60)
    assert world.host.pane("web").typed == [], "a restart goes on with the conversation"


async def test_a_prompt_is_not_typed_into_what_a_person_has_begun(world: World, daemon: Daemon) -> None:
    pane = await _with_prompt(world, daemon)
    draw(pane, "compose-unsent")
    await world.clock.turn(600)
    assert (pane.typed, phase(daemon)) == ([], Phase.RUNNING)
    draw(pane, "idle-manual")
    await world.clock.turn(2)
    assert pane.typed[:1] == ["say hello"]


async def test_a_prompt_is_not_submitted_into_a_dialog_that_came_in_between(world: World, daemon: Daemon) -> None:
    pane = await _with_prompt(world, daemon)
    draw(pane, "idle-manual")
    await _until_typed(world, pane)
    draw(pane, "perm-bash")
    await world.clock.turn(600)
    assert pane.typed == ["say hello"]


async def test_a_prompt_that_is_not_taken_is_submitted_again_and_never_typed_again(
    world: World, daemon: Daemon
) -> None:
    pane = await _with_prompt(world, daemon)
    draw(pane, "idle-manual")
    await _until_typed(world, pane)
    draw(pane, "compose-unsent")
    await world.clock.turn(600)
    assert pane.typed == ["say hello", "Enter", "Enter", "Enter"]


async def test_a_prompt_that_is_drawn_late_is_submitted_once_it_stands_there(world: World, daemon: Daemon) -> None:
    pane = await _with_prompt(world, daemon)
    draw(pane, "idle-manual")
    await _until_typed(world, pane)
    await world.clock.turn(2)
    assert pane.typed == ["say hello"]
    draw(pane, "compose-unsent")
    await world.clock.turn(1)
    assert pane.typed == ["say hello", "Enter"]


async def test_a_prompt_that_was_taken_is_never_typed_again_though_no_hook_tells_of_it(world: World) -> None:
    daemon = await world.daemon()
    pane = await _with_prompt(world, daemon)
    draw(pane, "idle-manual")
    await _until_typed(world, pane)
    draw(pane, "compose-unsent")
    await world.clock.turn(1)
    assert pane.typed == ["say hello", "Enter"]
    draw(pane, "idle-manual")
    await world.clock.turn(20)
    daemon.kill()
    await world.daemon()
    await world.clock.turn(60)
    assert pane.typed == ["say hello", "Enter"]


async def test_who_has_been_given_a_prompt_by_a_person_first_gets_none_typed(world: World, daemon: Daemon) -> None:
    pane = await _with_prompt(world, daemon)
    draw(pane, "running-streaming")
    await daemon.hook("UserPromptSubmit")
    await world.clock.turn(5)
    draw(pane, "idle-manual")
    await daemon.hook("Stop")
    await world.clock.turn(60)
    assert pane.typed == []


async def test_a_shells_first_message_is_typed_once_in_its_life(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell(prompt="hello"))
    await world.clock.turn(30)
    assert world.host.pane("web").typed == ["hello", "Enter"]
    world.host.pane("web").kill()
    await world.clock.turn(30)
    assert (phase(daemon), world.host.pane("web").typed) == (Phase.RUNNING, [])


@pytest.mark.parametrize("typed", [False, True])
async def test_a_new_daemon_types_the_prompt_that_the_old_one_could_not(world: World, typed: bool) -> None:
    daemon = await world.daemon()
    pane = await _with_prompt(world, daemon)
    if typed:
        draw(pane, "idle-manual")
        await _until_typed(world, pane)
        draw(pane, "compose-unsent")
    daemon.kill()
    daemon = await world.daemon()
    await world.clock.turn(60)
    assert pane.typed == ["say hello"] * typed
    draw(pane, "idle-manual")
    await _until_typed(world, pane, 1 + typed)
    draw(pane, "compose-unsent")
    await world.clock.turn(1)
    assert pane.typed[-2:] == ["say hello", "Enter"]
    await daemon.hook("UserPromptSubmit")
    daemon.kill()
    await world.daemon()
    draw(pane, "idle-manual")
    await world.clock.turn(60)
    assert pane.typed[-1] == "Enter"


async def test_a_prompt_that_a_lost_host_kept_back_is_typed_when_it_is_there_again(
    world: World, daemon: Daemon
) -> None:
    pane = await _with_prompt(world, daemon)
    await world.clock.turn(5)
    world.host.cut()
    await world.clock.turn(60)
    world.host.heal()
    draw(pane, "idle-manual")
    await world.clock.turn(5)
    assert pane.typed[:1] == ["say hello"]


async def _until_typed(world: World, pane: Pane, count: int = 1) -> None:
    for _ in range(300):
        if len(pane.typed) >= count:
            return
        await world.clock.turn(0.01)
    pytest.fail(f"only {pane.typed} was typed")


async def test_a_dialog_that_shows_a_secret_is_told_of_without_it(world: World, daemon: Daemon) -> None:
    secret = "correct-horse"
    spec = world.shell(env={"TOKEN": {"env": "TOKEN"}})
    await daemon.start(spec, env={"HOME": "/home/u", "PATH": "/bin", "TOKEN": secret})
    await world.clock.turn(2)
    pane, asked = world.host.pane("web"), f"Overwrite the token {secret}? [y/N] "
    pane.screen = replace(pane.screen, cursor=(len(asked), 0))
    pane.show(asked)
    await world.clock.turn(2)
    proof = daemon["web"].state.proof
    assert proof is not None
    assert (proof.activity, "[redacted]? [y/N]" in proof.excerpt) == (Activity.NEEDS_INPUT, True)
    for verb in ("inspect", "explain", "status"):
        told = (await daemon.verb(verb, target="web", targets=["web"])).data
        assert secret not in json.dumps(told, default=str)


# -- whose word counts ----------------------------------------------------------------------------------------------


async def _ready(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code())
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(2)
    assert daemon["web"].state.activity is Activity.READY


@pytest.mark.parametrize(
    "foreign",
    [
        {"generation": "web.0.older"},
        {"pid": 4_999_999},
        {"generation": None, "session_id": "another-session"},
        {"pid": 4_999_999, "session_id": "another-session"},
    ],
    ids=["older generation", "nested program", "no mark and another session", "nested session"],
)
async def test_a_hook_of_something_else_moves_nothing(world: World, daemon: Daemon, foreign: dict[str, object]) -> None:
    await _ready(world, daemon)
    await daemon.hook("UserPromptSubmit")
    await daemon.hook("Stop")
    record, state = daemon["web"].record, daemon["web"].state.activity
    await daemon.hook("UserPromptSubmit", **foreign)
    await daemon.hook("PreToolUse", **foreign, payload={"tool_name": "Bash", "tool_input": {}})
    await world.clock.turn(0.1)
    assert (daemon["web"].record, daemon["web"].state.activity) == (record, state)


async def test_what_is_explained_is_the_conversation_as_it_stands(world: World, daemon: Daemon) -> None:
    """Its end is written down after the hook that makes fleet read it."""
    await _ready(world, daemon)
    await daemon.hook("UserPromptSubmit")
    path = _transcripts(world, str(daemon["web"].record.session_id))[0]
    asked = b'{"type":"user","message":{"role":"user","content":"go"},"timestamp":"1970-01-01T00:00:01Z"}\n'
    world.host.files[path] = asked
    await daemon.hook("Stop")
    await world.clock.turn(1)
    world.host.files[path] = asked + (
        b'{"type":"assistant","message":{"role":"assistant","stop_reason":"end_turn","content":'
        b'[{"type":"text","text":"done"}]},"timestamp":"1970-01-01T00:00:02Z"}\n'
    )
    told = (await daemon.verb("explain", target="web")).data
    assert [row["evidence"] for row in told["evidence"] if row["source"] == "transcript"] == ["done"]


async def test_a_program_that_is_ended_while_it_resumes_does_not_take_the_agent_from_its_conversation(
    world: World, daemon: Daemon
) -> None:
    """It tells the end of a session that never was."""
    await _ready(world, daemon)
    record = daemon["web"].record
    await daemon.hook("SessionEnd", session_id="never-was", payload={"reason": "other"})
    assert daemon["web"].record.session_id == record.session_id


async def test_clear_binds_the_agent_to_its_new_session_in_the_ledger_too(world: World, daemon: Daemon) -> None:
    await _ready(world, daemon)
    first = daemon["web"].record.session_id
    await daemon.hook("SessionStart", session_id="new-one", payload={"source": "clear"})
    written = world.disk.record("web")
    assert first != "new-one" == daemon["web"].record.session_id
    assert written is not None
    assert (written.session_id, written.session_used) == ("new-one", False)
    await daemon.hook("UserPromptSubmit", session_id="new-one")
    written = world.disk.record("web")
    assert written is not None
    assert written.session_used
    path = next(path for path in _transcripts(world, "new-one"))
    world.host.files[path] = b'{"type":"user"}\n'
    world.host.pane("web").kill()
    await world.clock.turn(1)
    argv = world.host.pane("web").plan.argv
    assert argv[argv.index("--resume") + 1] == "new-one"


def _transcripts(world: World, session_id: str) -> list[str]:
    return [f"/home/u/.claude/projects/-work/{session_id}.jsonl"]


@pytest.mark.parametrize("kept", [None, b'{"type":"permission-mode"}\n'], ids=["no transcript", "one without a word"])
@pytest.mark.parametrize("prompted", [False, True], ids=["never prompted", "prompted"])
async def test_a_prompt_that_was_taken_is_given_to_no_second_conversation(
    world: World, daemon: Daemon, kept: bytes | None, prompted: bool
) -> None:
    """The program had not written its conversation down when it was killed."""
    await daemon.start(world.claude_code(prompt="Do it"))
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(2)
    first = daemon["web"].record.session_id
    assert first is not None
    if prompted:
        await daemon.hook("UserPromptSubmit")
    if kept is not None:
        world.host.files[_transcripts(world, first)[0]] = kept
    world.host.pane("web").kill()
    await world.clock.turn(1)
    argv = world.host.pane("web").plan.argv
    assert "--resume" not in argv
    assert (argv[argv.index("--session-id") + 1] == first) is (kept is None)
    assert any("Do it" in word for word in argv) is not prompted
    assert any(first in told and "--fresh" in told for told in daemon["web"].facts.warnings) is prompted


async def test_a_prompt_that_was_taken_just_before_the_end_is_heard_of_before_the_next_launch(
    world: World, daemon: Daemon
) -> None:
    """Its hook has told it, and the daemon was slower than the death."""
    await daemon.start(world.claude_code(prompt="Do it"))
    await world.clock.turn(2)
    _leave_in_spool(world, "UserPromptSubmit", session_id=daemon["web"].record.session_id)
    world.host.pane("web").kill()
    await world.clock.turn(1)
    assert not any("Do it" in word for word in world.host.pane("web").plan.argv)


async def test_a_prompt_that_was_taken_just_before_a_stop_is_heard_of_before_the_next_start(
    world: World, daemon: Daemon
) -> None:
    spec = world.claude_code(prompt="Do it")
    await daemon.start(spec)
    await world.clock.turn(2)
    first = world.host.pane("web")
    await daemon.supervisor.stop([daemon["web"]])
    _leave_in_spool(world, "UserPromptSubmit", session_id=daemon["web"].record.session_id)
    await daemon.start(spec)
    assert world.host.pane("web") is not first
    assert not any("Do it" in word for word in world.host.pane("web").plan.argv)


async def test_an_agent_that_is_killed_after_a_clear_goes_on_with_the_new_conversation_and_no_prompt(
    world: World, daemon: Daemon
) -> None:
    """Neither that hook nor the new conversation's transcript was seen before its death."""
    await daemon.start(world.claude_code(prompt="Do it"))
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(2)
    await daemon.hook("UserPromptSubmit")
    await daemon.hook("Stop")
    _leave_in_spool(world, "SessionStart", session_id="new-one", source="clear")
    world.host.pane("web").kill()
    await world.clock.turn(1)
    argv = world.host.pane("web").plan.argv
    assert argv[argv.index("--session-id") + 1] == "new-one"
    assert not any("Do it" in word for word in argv)


async def test_a_first_message_is_not_typed_again_after_a_clear_and_a_daemons_end(world: World, daemon: Daemon) -> None:
    world.host.files["/work/first.txt"] = b"Do it"
    await daemon.start(world.claude_code(prompt_file="/work/first.txt"))
    pane = world.host.pane("web")
    draw(pane, "idle-manual")
    await _until_typed(world, pane)
    await daemon.hook("UserPromptSubmit")
    await daemon.hook("Stop")
    typed = list(pane.typed)
    await daemon.hook("SessionStart", session_id="new-one", payload={"source": "clear"})
    daemon.kill()
    daemon = await world.daemon()
    await world.clock.turn(5)
    assert daemon["web"].state.activity is Activity.READY
    assert pane.typed == typed


def _leave_in_spool(world: World, event: str, **payload: object) -> None:
    """What a hook of the program has written, and no daemon has looked at."""
    pane = world.host.pane("web")
    content = json.dumps({"hook_event_name": event, **payload})
    (world.places.spool / "web" / f"{pane.handle.generation},{pane.pid},100.01,77").write_text(content)


async def test_a_resume_that_dies_at_once_gets_one_new_conversation_and_no_loop(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code(prompt="Do it"))
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(2)
    await daemon.hook("UserPromptSubmit")
    first = daemon["web"].record.session_id
    assert first is not None
    world.host.files[_transcripts(world, first)[0]] = b'{"type":"user"}\n'
    world.host.pane("web").kill()
    await world.clock.turn(1)
    assert "--resume" in world.host.pane("web").plan.argv
    world.host.pane("web").exit(1)
    await world.clock.turn(1)
    argv = world.host.pane("web").plan.argv
    assert argv[argv.index("--session-id") + 1] not in (first, None)
    assert not any("Do it" in word for word in argv), "a prompt that was taken is given to no second conversation"
    assert any("could not be resumed" in told for told in daemon["web"].facts.warnings)
    world.host.pane("web").exit(1)
    await world.clock.turn(4)
    assert phase(daemon) is Phase.BACKOFF, "the next one is an ordinary failed start"


# -- a host that cannot be read -------------------------------------------------------------------------------------


async def test_a_host_that_is_cut_off_for_minutes_is_no_death(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(5)
    before = daemon["web"].record
    world.host.cut("link down")
    await world.clock.turn(600)
    assert (phase(daemon), daemon["web"].life.message) == (Phase.UNVERIFIABLE, "link down")
    world.host.heal()
    await world.clock.turn(1)
    after = daemon["web"].record
    assert (phase(daemon), after.handle, after.launches) == (Phase.RUNNING, before.handle, 1)
    assert (after.life.restarts, after.life.budget, after.life.started_at) == (
        0,
        before.life.budget,
        before.life.started_at,
    )


async def test_a_host_that_is_cut_off_during_a_start_costs_nothing_and_the_start_goes_on(
    world: World, daemon: Daemon
) -> None:
    await daemon.start(world.claude_code(startup={"timeout": 30}))
    await world.clock.turn(10)
    world.host.cut()
    await world.clock.turn(600)
    assert phase(daemon) is Phase.UNVERIFIABLE
    world.host.heal()
    await world.clock.turn(1)
    assert (phase(daemon), len(world.host.launches)) == (Phase.STARTING, 1)
    await world.clock.turn(21)
    assert phase(daemon) in (Phase.STOPPING, Phase.BACKOFF), "its clock goes on from where it stood"


async def test_a_death_while_the_host_was_cut_off_counts_where_it_left_a_status(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(5)
    world.host.cut()
    await settle()
    world.host.pane("web").kill()
    await world.clock.turn(60)
    assert (phase(daemon), len(world.host.launches)) == (Phase.UNVERIFIABLE, 1)
    world.host.heal()
    await world.clock.turn(2)
    assert (phase(daemon), len(world.host.launches)) == (Phase.RUNNING, 2)
    assert len(daemon["web"].life.budget.deaths) == 1


async def test_a_cut_gives_a_silent_start_no_more_time(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code())
    await world.clock.turn(100)
    world.host.cut()
    await world.clock.turn(300)
    assert phase(daemon) is Phase.UNVERIFIABLE, "the clock stands still while the host is away"
    world.host.heal()
    await world.clock.turn(15)
    assert phase(daemon) is Phase.STARTING
    await world.clock.turn(7)
    assert (phase(daemon), daemon["web"].life.reason) == (Phase.BACKOFF, "StartTimedOut")


async def test_a_new_daemon_gives_a_silent_start_hardly_more_time(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code())
    await world.clock.turn(100)
    daemon.kill()
    await world.clock.turn(300)
    after = await world.daemon()
    assert phase(after) is Phase.STARTING, "nobody looked meanwhile, and a dialog may have stood there"
    await world.clock.turn(22)  # of the 120 seconds, 100 were written down
    assert (phase(after), after["web"].life.reason) == (Phase.BACKOFF, "StartTimedOut")


async def test_the_next_launch_has_the_whole_time_for_its_start(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code())
    await world.clock.turn(130)
    assert (len(world.host.launches), phase(daemon)) == (2, Phase.STARTING)
    await world.clock.turn(100)
    assert phase(daemon) is Phase.STARTING


async def test_a_death_that_nobody_can_explain_after_a_cut_is_laid_to_the_host(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(5)
    world.host.cut()
    await settle()
    world.host.pane("web").kill_launcher()
    await world.clock.turn(60)
    world.host.heal()
    await world.clock.turn(2)
    assert (phase(daemon), len(world.host.living("web"))) == (Phase.RUNNING, 1)
    assert daemon["web"].life.budget.deaths == ()


@pytest.mark.parametrize("asked", ["stop", "restart"])
async def test_what_a_person_asked_while_the_host_was_cut_off_is_done_when_it_is_back(
    world: World, daemon: Daemon, asked: str
) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(5)
    world.host.cut()
    await settle()
    daemon["web"].post(lifecycle.Stop() if asked == "stop" else lifecycle.Restart())
    await world.clock.turn(60)
    assert len(world.host.living("web")) == 1
    world.host.heal()
    await world.clock.turn(5)
    if asked == "stop":
        assert (phase(daemon), world.host.living("web")) == (Phase.STOPPED, [])
    else:
        assert (phase(daemon), [p.handle for p in world.host.living("web")]) == (Phase.RUNNING, world.host.launches[1:])


async def test_a_host_that_fails_only_one_launch_is_asked_again(world: World, daemon: Daemon) -> None:
    world.host.reason = "busy"  # nobody is told: it is read again before anyone notices
    await daemon.start(world.shell())
    assert phase(daemon) is Phase.UNVERIFIABLE
    world.host.reason = None
    await world.clock.turn(10)
    assert (phase(daemon), len(world.host.living("web"))) == (Phase.RUNNING, 1)


async def test_a_host_that_fails_only_one_stop_is_asked_again(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    world.host.reason = "busy"
    daemon["web"].post(lifecycle.Stop())
    await settle()
    world.host.reason = None
    await world.clock.turn(10)
    assert (phase(daemon), world.host.living("web")) == (Phase.STOPPED, [])


@pytest.mark.parametrize("asked", ["while it runs", "while it cannot be seen"])
async def test_what_cannot_be_seen_is_ended_where_it_can_be(world: World, daemon: Daemon, asked: str) -> None:
    await daemon.start(world.claude_code())
    pane = world.host.pane("web")
    draw(pane, "idle-manual")
    await world.clock.turn(2)
    world.host.blind = "its pane cannot be reached"
    if asked == "while it cannot be seen":
        world.host.cut()
        await settle()
        assert phase(daemon) is Phase.UNVERIFIABLE
    daemon["web"].post(lifecycle.Stop())
    await settle()
    world.host.heal()
    await world.clock.turn(10)
    assert (phase(daemon), world.host.living("web"), pane.typed) == (Phase.STOPPED, [], [])


async def test_a_host_that_is_lost_while_a_dialog_is_settled_is_no_failed_start(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code(auto_accept=["trust-folder"]))
    pane = world.host.pane("web")
    draw(pane, "trust-dialog")
    await settle()
    world.host.reason = "busy"
    await world.clock.turn(1)
    assert (phase(daemon), pane.alive, daemon.supervisor.faults) == (Phase.UNVERIFIABLE, True, 0)
    world.host.reason = None
    await world.clock.turn(3)
    assert (phase(daemon), pane.typed[:1], len(world.host.launches)) == (Phase.STARTING, ["Down"], 1)


# -- a disk that is full --------------------------------------------------------------------------------------------


async def test_a_death_that_cannot_be_written_down_is_acted_on_once_it_can(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    world.disk.full = True
    world.host.pane("web").kill()
    await world.clock.turn(60)
    assert (phase(daemon), len(world.host.launches)) == (Phase.RUNNING, 1)
    assert daemon.supervisor.storage_problem
    world.disk.full = False
    await world.clock.turn(3)
    assert (phase(daemon), len(world.host.launches)) == (Phase.RUNNING, 2)
    assert daemon.supervisor.storage_problem is None
    assert [told["exit_status"] for _, told in world.disk.events("web", "exit")] == [137]


async def test_a_stop_that_cannot_be_written_down_is_carried_out_once_it_can(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    world.disk.full = True
    daemon["web"].post(lifecycle.Stop())
    await world.clock.turn(60)
    assert world.host.pane("web").alive
    world.disk.full = False
    await world.clock.turn(3)
    assert (phase(daemon), world.host.living("web")) == (Phase.STOPPED, [])


async def test_a_disk_that_fills_up_during_a_launch_does_not_park_the_agent(world: World, daemon: Daemon) -> None:
    async def fill() -> None:
        world.disk.full = True

    world.host.commanded["pwd"] = fill
    await daemon.start(world.shell())
    assert world.disk.full
    await world.clock.turn(60)
    del world.host.commanded["pwd"]
    world.disk.full = False
    await world.clock.turn(30)
    assert (phase(daemon), len(world.host.living("web"))) == (Phase.RUNNING, 1)


async def test_a_hook_counts_though_the_disk_is_full(world: World, daemon: Daemon) -> None:
    await _ready(world, daemon)
    world.disk.full = True
    await daemon.hook("UserPromptSubmit")
    assert daemon["web"].state.activity is Activity.WORKING
    world.disk.full = False
    daemon["web"].post(lifecycle.Stop())
    await world.clock.turn(10)
    written = world.disk.record("web")
    assert written is not None
    assert written.session_used


async def test_a_declaration_that_cannot_be_written_down_is_refused(world: World, daemon: Daemon) -> None:
    world.disk.full = True
    with pytest.raises(StorageFull):
        await daemon.start(world.shell())


async def test_what_is_heard_while_a_stop_is_written_down_does_not_undo_it(world: World, daemon: Daemon) -> None:
    await _ready(world, daemon)
    world.disk.slow = asyncio.Event()
    daemon["web"].post(lifecycle.Stop())
    for _ in range(5):
        await asyncio.sleep(0)
    hearing = asyncio.ensure_future(daemon.hook("UserPromptSubmit"))
    await settle()
    world.disk.slow.set()
    await hearing
    written = world.disk.record("web")
    assert written is not None
    assert not written.life.wanted
    assert (daemon["web"].record.session_used, written.session_used) == (True, True)


async def test_a_cut_in_the_middle_of_a_launch_ends_with_one_alive(tmp_path: Path) -> None:
    """Wherever in the launch the host goes, and however soon it is back."""
    for moment in range(0, 40, 3):
        for away in (0.0, 1.0, 30.0):
            folder = tmp_path / f"{moment}-{away}"
            folder.mkdir()
            world = World(folder)
            daemon = await world.daemon()
            await daemon.supervisor.start([await daemon.supervisor.declare(world.shell(), None)])
            for _ in range(moment):
                await asyncio.sleep(0)
            world.host.cut()
            await world.clock.turn(away)
            world.host.heal()
            await world.clock.turn(15)
            living = [pane.handle for pane in world.host.living("web")]
            assert (phase(daemon), living) == (Phase.RUNNING, [daemon["web"].handle]), (moment, away)
            assert daemon["web"].life.budget.start_failures == 0, (moment, away)
            await world.close()


async def test_a_stop_that_fails_by_a_fault_of_ours_is_tried_again(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    end, faults = world.host.end, [ZeroDivisionError("a fault of ours")]

    async def faulty(*args: Any, **kwargs: Any) -> Any:
        if faults:
            raise faults.pop()
        return await end(*args, **kwargs)

    world.host.end = faulty  # type: ignore[method-assign]
    daemon["web"].post(lifecycle.Stop())
    await world.clock.turn(10)
    assert (phase(daemon), world.host.living("web"), daemon.supervisor.faults) == (Phase.STOPPED, [], 1)


async def test_an_exit_command_is_typed_only_where_it_would_be_read(world: World, daemon: Daemon) -> None:
    for screen, typed in (("idle-manual", ["/exit", "Enter"]), ("compose-unsent", []), ("perm-bash", [])):
        await daemon.start(world.claude_code())
        pane = world.host.pane("web")
        draw(pane, "idle-manual")
        await world.clock.turn(2)
        draw(pane, screen)
        await world.clock.turn(1)
        stopping = asyncio.ensure_future(daemon.supervisor.stop([daemon["web"]]))
        await world.clock.turn(20)
        assert stopping.done()
        assert (pane.typed, pane.alive) == (typed, False), screen


async def test_hooks_of_the_manifest_run_in_their_order_and_a_failing_one_refuses_the_launch(
    world: World, daemon: Daemon
) -> None:
    hooks = {name: [[f"do-{name}"]] for name in ("pre_start", "post_start", "pre_stop", "post_stop")}
    await daemon.start(world.shell(hooks=hooks))
    await world.clock.turn(2)
    await daemon.supervisor.stop([daemon["web"]])
    assert [argv[0] for argv in world.host.ran if argv[0].startswith("do-")] == [
        "do-pre_start",
        "do-post_start",
        "do-pre_stop",
        "do-post_stop",
    ]
    world.host.commands["do-pre_start"] = Ran(1, b"", b"not today")
    await daemon.start(world.shell(hooks=hooks))
    await world.clock.turn(2)
    assert (phase(daemon), len(world.host.launches)) == (Phase.FAILED, 1)
    assert "not today" in (daemon["web"].life.message or "")


async def test_a_wrong_word_about_an_older_launch_moves_nothing(world: World, daemon: Daemon) -> None:
    await daemon.start(world.shell())
    await world.clock.turn(2)
    old = daemon["web"].handle
    assert old is not None
    world.host.pane("web").kill()
    await world.clock.turn(2)
    before = daemon["web"].record
    daemon["web"].senses.on_look(old, Look(at=world.clock.now(), alive=False, exit_status=1))
    await world.clock.turn(2)
    assert daemon["web"].record == before


async def test_a_death_counts_though_a_fault_of_ours_keeps_its_last_words_from_us(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code())
    daemon["web"].harness = Faulty(daemon["web"].harness, "start_failure")  # type: ignore[assignment]
    world.host.pane("web").exit(1)
    await settle()
    assert (phase(daemon), daemon.supervisor.faults) == (Phase.BACKOFF, 1)
    await world.clock.turn(6)
    assert len(world.host.living("web")) == 1


async def test_a_fault_beside_a_start_does_not_end_it(world: World, daemon: Daemon) -> None:
    await daemon.start(world.claude_code())
    daemon["web"].harness = Faulty(daemon["web"].harness, "read_status_line")  # type: ignore[assignment]
    pane = world.host.pane("web")
    await world.host.put([File(f"{pane.handle.folder}/statusline", b"{}")])
    await world.clock.turn(2)
    assert (phase(daemon), pane.alive, daemon.supervisor.faults) == (Phase.STARTING, True, 1)
