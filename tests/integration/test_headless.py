"""A headless agent's turns, with real processes: what is answered, cut, killed, flooded, and found again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from fleet import headless
from fleet.headless import log_of
from fleet.runtimes.local_tmux import UMASK
from fleet.terms import Activity
from tests.homes import Home
from tests.turns import Desk, message
from tests.waiting import until


@pytest.fixture
async def desk(home: Home) -> AsyncIterator[Desk]:
    made = Desk(home.path, home.env)
    yield made
    await made.close()


# -- one turn ----------------------------------------------------------------------------------------------------


async def test_what_a_runner_prints_is_the_answer_to_the_message_on_its_stdin(desk: Desk) -> None:
    desk.runner(
        "cat; printf ' to %s from %s about %s in %s' $FLEET_INTENT $FLEET_SENDER $FLEET_MESSAGE_ID $FLEET_THREAD"
    )
    asked = message(text="größe")
    end = await desk.ask(asked, "größe between its markers")
    assert end.ok and not end.declined
    assert end.text == f"größe to inform from alice about {asked.id} in {asked.thread}"


async def test_a_runner_declines_by_its_exit_status_and_says_why(desk: Desk) -> None:
    desk.runner("echo 'not my field' >&2; exit 75")
    end = await desk.ask()
    assert (end.ok, end.declined, end.text, end.reason) == (True, True, "not my field", "declined")


async def test_a_runner_that_fails_is_told_by_one_typed_outcome_that_may_be_tried_again(desk: Desk) -> None:
    desk.runner("echo broken >&2; exit 3")
    end = await desk.ask()
    assert (end.ok, end.reason, end.again) == (False, "program_failed", True)
    assert "broken" in dict(desk.events[-1][2])["said"]


async def test_a_program_that_is_not_there_is_not_tried_again(desk: Desk) -> None:
    desk.agent(harness="shell", command=("no-such-program-anywhere",))
    end = await desk.ask()
    assert (end.ok, end.reason, end.again) == (False, "not_started", False)


async def test_a_megabyte_on_stderr_changes_nothing(desk: Desk) -> None:
    desk.runner("head -c 1048576 /dev/zero | tr '\\0' x >&2; echo fine")
    end = await desk.ask()
    assert (end.ok, end.text) == (True, "fine")


async def test_a_flood_on_stderr_does_not_fill_the_disk(desk: Desk) -> None:
    flood = "while [ ! -e stop ]; do head -c 1000000 /dev/zero >&2; sleep 0.05; done; echo fine"
    desk.runner(flood)
    turn = desk.begin()
    errors = desk.places.agent("web") / "turns" / f"{message().id}.1" / "err"
    grown = False

    def cut_down() -> bool:
        nonlocal grown
        size = errors.stat().st_size if errors.exists() else 0
        grown = grown or size > 2**20
        return grown and size < 2**20

    await until(cut_down, "what flooded is cut down")
    (desk.home / "work" / "stop").touch()
    end = await turn
    assert (end.ok, end.text) == (True, "fine")


async def test_an_answer_larger_than_a_message_is_cut_and_says_so(desk: Desk) -> None:
    desk.runner("head -c 100000 /dev/zero | tr '\\0' y")
    end = await desk.ask()
    assert end.ok and len(end.text.encode()) < 64 * 1024
    assert end.text.endswith("(40000 bytes are left out)")


async def test_its_environment_is_its_launchs_and_its_secrets_are_copied_nowhere(desk: Desk) -> None:
    up = desk.runner("echo $KEY $FLEET_GENERATION", env={"KEY": "it's $HOME"})
    assert (await desk.ask()).text == f"it's $HOME {up.generation}"
    folder = desk.places.agent("web") / "turns" / desk.turns_of()[0]
    assert not any("it's" in path.read_text() for path in folder.iterdir() if path.name not in ("out", "end"))


async def test_the_files_that_it_makes_are_as_open_as_those_of_an_agent_in_a_pane(desk: Desk) -> None:
    desk.runner("touch made; umask")
    before = os.umask(0o077)  # the daemon's
    try:
        end = await desk.ask()
    finally:
        os.umask(before)
    assert int(end.text, 8) == UMASK
    assert (desk.home / "work" / "made").stat().st_mode & 0o777 == 0o666 & ~UMASK


async def test_a_secret_that_it_prints_is_not_kept(desk: Desk) -> None:
    up = desk.runner("echo the word is sesame; echo sesame >&2")
    desk.agents["web"] = replace(up, secrets=("sesame",))
    assert (await desk.ask()).ok
    folder = desk.places.agent("web") / "turns" / desk.turns_of()[0]
    assert not any("sesame" in (folder / name).read_text() for name in ("out", "err"))
    assert not any("sesame" in line for line in log_of(desk.places, "web", 100))


# -- its time, and its end ---------------------------------------------------------------------------------------


async def test_a_hung_turn_is_gone_at_its_time_limit_with_its_whole_tree(desk: Desk) -> None:
    hang = "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 300' & sleep 300"
    desk.runner(hang, headless={"timeout": 1})
    end = await desk.ask()
    assert (end.ok, end.reason, end.again) == (False, "timed_out", False)
    assert not desk.living()


async def test_the_time_limit_holds_for_one_that_prints_without_end(desk: Desk) -> None:
    desk.runner("while :; do echo busy; sleep 0.01; done", headless={"timeout": 1})
    end = await desk.ask()
    assert end.reason == "timed_out"
    assert not desk.living()


async def test_stopping_a_conversation_ends_its_turn_and_no_other(desk: Desk) -> None:
    desk.runner(
        "echo $$ > $FLEET_THREAD; while [ ! -e go ]; do sleep 0.05; done; echo done", headless={"max_parallel": 2}
    )
    one, other = message(1, thread="t-one"), message(2, thread="t-other")
    first, second = desk.begin(one), desk.begin(other)
    work = desk.home / "work"
    await until(lambda: (work / "t-one").exists() and (work / "t-other").exists(), "both turns run")
    assert desk.turns.running("web") == {"t-one", "t-other"}
    await desk.turns.stop_turn("web", "t-one")
    end = await first
    assert (end.ok, end.reason, end.again) == (False, "interrupted", True)
    (work / "go").touch()
    assert (await second).text == "done"


async def test_a_turn_that_waits_for_its_conversation_does_not_begin_once_that_was_stopped(desk: Desk) -> None:
    desk.runner("echo x >> began; sleep 300")
    first, second = desk.begin(message(1)), desk.begin(message(2))
    await until(lambda: _begun(desk.home / "work" / "began") == ["x"], "the first turn runs")
    await desk.turns.stop_turn("web", message().thread)
    assert [(await first).reason, (await second).reason] == ["interrupted", "interrupted"]
    assert (desk.home / "work" / "began").read_text() == "x\n"


async def test_what_a_turn_leaves_running_goes_with_it(desk: Desk) -> None:
    desk.runner("setsid sleep 300 >/dev/null 2>&1 & echo done")
    assert (await desk.ask()).text == "done"
    await desk.gone()


async def test_a_turn_that_somebody_kills_may_be_tried_again(desk: Desk) -> None:
    desk.runner("echo $$ > pid; sleep 300")
    turn = desk.begin()
    pid = await until(lambda: _number(desk.home / "work" / "pid"), "the turn runs")
    os.kill(pid, signal.SIGKILL)
    end = await turn
    assert (end.ok, end.reason, end.again) == (False, "died", True)


async def test_one_whose_launcher_is_killed_leaves_no_program_behind(desk: Desk) -> None:
    desk.runner("echo $$ > pid; sleep 300")
    turn = desk.begin()
    await until(lambda: _number(desk.home / "work" / "pid"), "the turn runs")
    folder = desk.places.agent("web") / "turns" / desk.turns_of()[0]
    os.kill(int((folder / "launcher").read_text().split()[0]), signal.SIGKILL)
    end = await turn
    assert (end.reason, end.again) == ("died", True)
    assert not desk.living()


async def test_a_turn_of_an_agent_that_is_down_waits_for_its_return(desk: Desk) -> None:
    desk.runner("echo hi")
    up = desk.agents.pop("web")
    end = await desk.ask()
    assert (end.ok, end.reason, end.again) == (False, "offline", True)
    desk.agents["web"] = up
    assert (await desk.ask()).text == "hi"


async def test_where_the_kernel_does_not_tell_of_an_end_it_is_seen_all_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    desk.runner("cat", headless={"timeout": 30})
    assert (await desk.ask()).text == "hello"
    desk.runner("sleep 300", headless={"timeout": 1})
    assert (await desk.ask(message(2))).reason == "timed_out"


# -- serial and parallel -----------------------------------------------------------------------------------------


async def test_a_conversation_has_one_turn_at_a_time_and_others_run_beside_it(desk: Desk) -> None:
    script = """
    echo "begin $FLEET_MESSAGE_ID" >> order.$FLEET_THREAD
    while [ ! -e go.$FLEET_THREAD ]; do sleep 0.02; done
    echo "end $FLEET_MESSAGE_ID" >> order.$FLEET_THREAD
    """
    desk.runner(script, headless={"max_parallel": 4})
    one, two, three = message(1, thread="t-a"), message(2, thread="t-a"), message(3, thread="t-b")
    work = desk.home / "work"
    turns = [desk.begin(one)]
    await until(lambda: _begun(work / "order.t-a"), "the first turn runs")
    turns += [desk.begin(two), desk.begin(three)]
    (work / "go.t-b").touch()
    assert (await turns[2]).ok
    assert _begun(work / "order.t-a") == ["begin", one.id]
    (work / "go.t-a").touch()
    await asyncio.gather(*turns)
    told = (work / "order.t-a").read_text().split()
    assert told == ["begin", one.id, "end", one.id, "begin", two.id, "end", two.id]


async def test_no_more_turns_run_at_a_time_than_the_manifest_allows(desk: Desk) -> None:
    script = """
    touch run.$FLEET_MESSAGE_ID; ls run.* | wc -l >> most; sleep 0.1; rm run.$FLEET_MESSAGE_ID
    """
    desk.runner(script, headless={"max_parallel": 2})
    ends = await asyncio.gather(*(desk.ask(message(n, thread=f"t-{n}")) for n in range(6)))
    assert all(end.ok for end in ends)
    most = [int(n) for n in (desk.home / "work" / "most").read_text().split()]
    assert len(most) == 6 and max(most) <= 2


async def test_its_turns_are_its_activity(desk: Desk) -> None:
    desk.runner("while [ ! -e go ]; do sleep 0.02; done; echo done")
    turn = desk.begin()
    await until(lambda: any(e.activity is Activity.WORKING for e in desk.heard), "it works")
    (desk.home / "work" / "go").touch()
    await turn
    assert desk.heard[-1].activity is Activity.READY
    assert desk.word("turn") == ["begun", "answered"]


# -- asked again, and after the daemon's death -------------------------------------------------------------------


async def test_a_message_has_one_turn_however_often_it_is_asked_for(desk: Desk) -> None:
    desk.runner("echo x >> count; sleep 0.1; echo done")
    ends = await asyncio.gather(desk.ask(), desk.ask())
    assert {end.text for end in ends} == {"done"}
    assert (await desk.ask()).text == "done"
    assert (desk.home / "work" / "count").read_text() == "x\n"


async def test_one_that_failed_by_what_may_pass_is_run_again(desk: Desk) -> None:
    desk.runner("echo x >> count; [ -e mended ] && echo fine || exit 1")
    assert (await desk.ask()).again
    (desk.home / "work" / "mended").touch()
    assert (await desk.ask()).text == "fine"
    assert len(desk.turns_of()) == 2


async def test_the_next_daemon_waits_for_the_turn_that_the_last_one_left(desk: Desk) -> None:
    desk.runner("echo x >> count; while [ ! -e go ]; do sleep 0.02; done; echo done")
    turn = desk.begin()
    await until(lambda: (desk.home / "work" / "count").exists(), "the turn runs")
    await desk.next_daemon()
    await asyncio.gather(turn, return_exceptions=True)
    assert desk.turns.running("web") == {message().thread}
    again = desk.begin()
    (desk.home / "work" / "go").touch()
    assert (await again).text == "done"
    assert (desk.home / "work" / "count").read_text() == "x\n"


async def test_what_was_answered_while_no_daemon_ran_is_not_asked_again(desk: Desk) -> None:
    desk.runner("echo x >> count; while [ ! -e go ]; do sleep 0.02; done; echo done")
    turn = desk.begin()
    await until(lambda: (desk.home / "work" / "count").exists(), "the turn runs")
    await desk.turns.close()
    await asyncio.gather(turn, return_exceptions=True)
    (desk.home / "work" / "go").touch()
    folder = desk.places.agent("web") / "turns" / desk.turns_of()[0]
    await until((folder / "exit").exists, "it ends by itself")
    await desk.next_daemon()
    assert (await desk.ask()).text == "done"
    assert (desk.home / "work" / "count").read_text() == "x\n"


async def test_a_time_limit_that_passed_without_a_daemon_ends_the_turn_at_the_next_ones_start(desk: Desk) -> None:
    desk.runner("touch runs; sleep 300", headless={"timeout": 900})
    turn = desk.begin()
    await until(lambda: (desk.home / "work" / "runs").exists(), "the turn runs")
    await desk.turns.close()
    await asyncio.gather(turn, return_exceptions=True)
    note = desk.places.agent("web") / "turns" / desk.turns_of()[0] / "turn"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"deadline": 0.0}))
    await desk.next_daemon()
    await desk.gone()
    assert (await desk.ask()).reason == "timed_out"


async def test_a_time_limit_is_kept_without_a_daemon(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headless, "LATE", 0.0)
    desk.runner("setsid sleep 300 & sleep 300 & sleep 300", headless={"timeout": 4})
    turn = desk.begin()
    turns = desk.places.agent("web") / "turns"
    await until(lambda: list(turns.glob("*/launcher")), "its launcher runs")
    await desk.turns.close()  # long before the limit
    await asyncio.gather(turn, return_exceptions=True)
    await desk.gone()
    await desk.next_daemon()
    assert (await desk.ask()).reason == "timed_out"
    assert len(desk.turns_of()) == 1


@pytest.mark.parametrize("back", ["at once", "after a restart of the agent"])
async def test_a_turn_that_was_being_ended_at_its_limit_when_the_daemon_left_is_not_run_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, back: str
) -> None:
    up = desk.runner("sleep 300", headless={"timeout": 1})
    ends, ended = desk.ground.end, asyncio.Event()

    async def end(folder: str, grace: float) -> None:
        await ends(folder, grace)
        ended.set()
        await asyncio.Event().wait()  # it leaves before it has heard of it

    monkeypatch.setattr(desk.ground, "end", end)
    turn = desk.begin()
    await asyncio.wait_for(ended.wait(), 60)
    await desk.turns.close()
    await asyncio.gather(turn, return_exceptions=True)
    if back != "at once":
        desk.agents["web"] = replace(up, generation="web.2.bbbb")
    await desk.next_daemon()
    told = await desk.ask()
    assert (told.reason, told.again) == ("timed_out", False)
    assert len(desk.turns_of()) == 1


async def test_what_turns_have_cost_outlives_the_daemon(desk: Desk) -> None:
    desk.runner("echo done")
    await desk.ask(message(1))
    await desk.ask(message(2))
    await desk.next_daemon()
    assert desk.spent["web"]["usage"] == {"turns": 2}
    assert desk.spent["web"]["cost_usd"] is None, "nothing has told it"


async def test_turns_of_an_older_launch_are_ended_at_the_next_daemons_start(desk: Desk) -> None:
    up = desk.runner("touch runs; setsid sleep 300")
    turn = desk.begin()
    await until(lambda: (desk.home / "work" / "runs").exists(), "the turn runs")
    await desk.turns.close()
    await asyncio.gather(turn, return_exceptions=True)
    desk.agents["web"] = replace(up, generation="web.2.bbbb")
    await desk.next_daemon()
    assert not desk.living()


async def test_its_log_tells_what_each_turn_was_about_and_what_came_of_it(desk: Desk) -> None:
    desk.runner('read word; echo "you said $word"; [ $word = good ] || { echo oh >&2; exit 4; }')
    await desk.ask(message(1, text="good\n"))
    await desk.ask(message(2, text="bad\n", sender="bob"))
    told = log_of(desk.places, "web", 100)
    assert any(line.startswith("▶") and "of alice" in line for line in told)
    assert "you said good" in told and "you said bad" in told and "oh" in told
    assert "failed" in told[-1] and "exited with 4" in told[-1]
    assert log_of(desk.places, "web", 1) == told[-1:]


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdigit() else None


def _begun(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []
