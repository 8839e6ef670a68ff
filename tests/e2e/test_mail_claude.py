"""Mail into the real Claude Code: rung for, told at a tool's end, typed, or waiting with its reason; and once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.hub.message import State, Verb
from fleet.hub.reach import Typing
from fleet.keys import typed
from fleet.terms import Activity, Handle
from tests.claude import trust
from tests.homes import Home, Stub
from tests.post import OPERATOR, Post
from tests.waiting import DEADLINE, until

pytestmark = pytest.mark.real

ASKS_NOTHING = {"permission_mode": "bypassPermissions"}
GATED = "until [ -e go ]; do sleep 0.1; done"
"""A command that runs until the test opens the gate: `go` in the working folder."""


def bash(command: str) -> str:
    """A prompt that makes the model run this command."""
    return "TOOL Bash " + json.dumps({"command": command, "description": "x"})


@pytest.fixture
async def post(home: Home, claude_program: str, stub: Stub) -> AsyncIterator[Post]:
    """A fleet and its hub, in a home whose person has used Claude Code before."""
    home.seed_claude(stub.url)
    trust(home, home.path)
    opened = await Post(home, claude_program, stub).open()
    yield opened
    await opened.close()


async def test_a_message_wakes_an_idle_agent_and_is_proven_by_its_conversation(post: Post) -> None:
    await post.ready(**ASKS_NOTHING)
    id = await post.send("Hello there")
    told = await post.arrives(id)
    assert (told["way"], told["evidence"], told["attempts"]) == ("doorbell", "transcript", 1)
    await post.is_at("web", Activity.READY)
    assert "fleet: mail" in await post.screen()
    assert post.times_there(id) == 1


async def test_a_message_to_a_busy_agent_goes_into_the_running_turn_at_the_next_tool_boundary(post: Post) -> None:
    await post.ready(**ASKS_NOTHING)
    await post.say("web", bash(GATED))
    await post.is_at("web", Activity.WORKING)
    id = await post.send("Hello there")
    await until(lambda: list(post.box().glob("taken/*")), "it is taken while the tool runs")
    assert (await post.recipient(id))["state"] == State.INJECTING, "noted is not delivered"
    post.home.write("go", "")
    assert (await post.arrives(id))["way"] == "doorbell"
    await post.is_at("web", Activity.READY)
    assert post.times_there(id) == 1


async def test_a_message_to_a_streaming_agent_has_a_turn_of_its_own_after_it(post: Post) -> None:
    await post.ready(**ASKS_NOTHING)
    await post.say("web", "SLOW 4")
    await post.is_at("web", Activity.WORKING)
    id = await post.send("Hello there")
    assert (await post.arrives(id))["way"] == "doorbell"
    await post.is_at("web", Activity.READY)
    assert post.times_there(id) == 1


async def test_a_dialog_is_left_alone_and_the_message_waits_behind_it(post: Post) -> None:
    await post.ready()
    await post.say("web", bash("touch made"))
    await post.is_at("web", Activity.NEEDS_INPUT)
    id, order = await post.send("Hello there"), await post.prompt("Repeat ORDERED")
    await post.waits(id, "dialog")
    await post.waits(order, "dialog")
    await asyncio.sleep(3)  # long enough to ring, were it rung
    assert post.runner().state.activity is Activity.NEEDS_INPUT
    assert not (post.home.work / "made").exists()
    assert not list(post.box().glob("[db].*"))
    await post.keys("web", "1")
    assert (await post.arrives(id))["way"] == "doorbell"
    assert (await post.arrives(order))["way"] == "typed"
    assert (post.home.work / "made").exists()
    assert post.times_there(id) == 1


async def test_a_draft_stays_as_it_was_and_what_must_be_typed_waits_for_it(post: Post) -> None:
    await post.ready(**ASKS_NOTHING)
    await post.keys("web", "my half of a thought", literal=True)
    await until(lambda: post.runner().state.draft, "the draft is seen")
    id, order = await post.send("Hello there"), await post.prompt("Repeat ORDERED")
    await post.arrives(id)
    await post.is_at("web", Activity.READY)
    await post.waits(order, "draft")
    assert "my half of a thought" in (await post.screen()).rpartition("❯")[2]
    await post.keys("web", "Enter")
    assert (await post.arrives(order))["way"] == "typed"


LONG = "\n".join(f"{n}: " + "all work and no play makes a long prompt " * 3 for n in range(50))


@pytest.mark.parametrize("text", ["Repeat ONE", LONG, "!echo no shell", "/help is no command", "ends in a \\"])
async def test_an_operators_prompt_is_typed_whole_as_a_persons_own_word(post: Post, text: str) -> None:
    await post.ready(**ASKS_NOTHING)
    id = await post.prompt(text)
    told = await post.arrives(id)
    assert (told["way"], told["evidence"]) == ("typed", "transcript")
    await post.is_at("web", Activity.READY)


async def test_a_prompt_that_a_dialog_cut_short_is_taken_out_and_typed_whole(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = post.reach.type

    async def half(name: str, text: str, may_submit: object) -> Typing:
        monkeypatch.setattr(post.reach, "type", whole)
        post.reach._notes_of(post.runner(name)).ours = text
        half, _, _ = text.partition("SECOND")
        for press in typed(half, post.runner(name).harness.newline_key()):
            await post.keys(name, *press.keys, literal=press.literal)
        return Typing.HELD

    monkeypatch.setattr(post.reach, "type", half)
    await post.ready(**ASKS_NOTHING)
    id = await post.prompt("the first half\nof several lines\nand then the SECOND half")
    told = await post.arrives(id)
    assert (told["way"], told["evidence"], told["attempts"]) == ("typed", "transcript", 2)


async def test_where_hooks_are_switched_off_the_doorbells_silence_is_noticed_and_mail_is_typed(post: Post) -> None:
    path = post.home.path / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"disableAllHooks": True}))
    post.courier.rules = replace(post.courier.rules, unheard=1)
    await post.ready(**ASKS_NOTHING)
    id = await post.send("Hello there")
    assert (await post.arrives(id))["way"] == "typed"
    assert post.times_there(id) == 1


async def test_what_may_cause_no_turn_goes_in_beside_a_tools_result(post: Post) -> None:
    await post.ready(**ASKS_NOTHING)
    id = await post.send("For your information", to=["web", "operator"], intent="inform")
    await post.waits(id, "no_wake")
    await post.say("web", bash(GATED))
    await until(lambda: list(post.box().glob("b.*")), "it lies ready for the tool's end")
    post.home.write("go", "")
    assert (await post.arrives(id))["way"] == "boundary"
    await post.is_at("web", Activity.READY)
    assert post.times_there(id) == 1


async def test_the_bell_is_heard_after_a_clearing_a_compaction_and_a_change_of_folder(post: Post) -> None:
    (post.home.work / "sub").mkdir()
    await post.ready(**ASKS_NOTHING)
    ids = [await post.send("before")]
    await post.arrives(ids[0])
    for command, over in (("/clear", "SessionStart"), (bash("cd sub && pwd"), "Stop"), ("/compact", "PostCompact")):
        await post.is_at("web", Activity.READY)
        before = await post.told_by_hook(over)
        await post.say("web", command)

        async def is_over(over: str = over, before: int = before) -> bool:
            return await post.told_by_hook(over) > before

        await until(is_over, lambda command=command: f"{command} is over: {post.told('web')}")
        await post.is_at("web", Activity.READY)
        ids.append(await post.send(f"after {command[:6]}"))
        assert (await post.arrives(ids[-1]))["way"] == "doorbell"
    await post.is_at("web", Activity.READY)
    assert [post.times_there(id) for id in ids] == [1, 1, 1, 1]


async def test_a_nested_program_with_the_same_settings_takes_nothing(post: Post) -> None:
    await post.ready(**ASKS_NOTHING)
    nested = f"{post.program} -p 'SLOW 8' --settings \"$FLEET_LAUNCH/settings.json\" > nested; touch nested-over"
    await post.say("web", bash(nested))
    await post.is_at("web", Activity.WORKING)
    await until(lambda: [e for e in post.stub.log() if str(e.get("prompt")).strip() == "SLOW 8"], "the nested one asks")
    id = await post.send("Hello there")
    await until(lambda: list(post.box().glob("taken/*")), "it is taken")
    assert (post.box() / "owner").read_text().strip() == str(post.runner().facts.owner)
    await post.arrives(id)
    assert (post.home.work / "nested-over").exists(), "in the outer turn, after its tool"
    await post.is_at("web", Activity.READY)
    assert post.times_there(id) == 1


async def test_a_program_killed_between_hand_over_and_proof_is_given_it_again_once(post: Post) -> None:
    await post.ready(**ASKS_NOTHING)
    first = await post.send("something to resume")
    await post.arrives(first)
    await post.is_at("web", Activity.READY)
    await post.say("web", bash(GATED))
    await post.is_at("web", Activity.WORKING)
    id = await post.send("Hello there")
    await until(lambda: list(post.box().glob("taken/*")), "it is taken, and noted by a program that is about to die")
    owner = post.runner().facts.owner
    assert owner is not None
    os.kill(owner, signal.SIGKILL)
    told = await post.arrives(id)
    assert (told["way"], told["attempts"]) == ("doorbell", 2)
    await post.is_at("web", Activity.READY)
    assert post.times_there(id) == 1
    assert post.times_there(first) == 1


async def test_a_prompt_that_a_hook_told_of_and_no_conversation_has_is_typed_again_once(post: Post) -> None:
    """A hook of the person's own holds the program up between fleet's and its conversation, where it is killed."""
    gate = post.home.path / "gate"
    held_up = {"type": "command", "command": f"while [ -e {gate} ]; do sleep 0.05; done"}
    settings = post.home.path / ".claude" / "settings.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"hooks": {"UserPromptSubmit": [{"hooks": [held_up]}]}}))
    runner = await post.ready(**ASKS_NOTHING)
    gate.touch()
    id = await post.prompt("Repeat ORDERED")
    record = await until(lambda: r if (r := runner.record).session_used and r.transcript else None, "fleet's hook told")
    transcript = Path(record.transcript)
    assert not transcript.exists() or "Repeat ORDERED" not in transcript.read_text()
    assert runner.facts.owner is not None
    os.kill(runner.facts.owner, signal.SIGKILL)
    await until(lambda: runner.record.launches == 2, "it is launched again")
    gate.unlink()
    told = await post.arrives(id)
    assert (told["way"], told["evidence"], told["attempts"]) == ("typed", "transcript", 2)
    await until(lambda: _asked(post, "Repeat ORDERED"), "the model is asked")
    await post.is_at("web", Activity.READY)
    assert _asked(post, "Repeat ORDERED") == 1


def _asked(post: Post, prompt: str) -> int:
    """How often the model was asked this, a prompt's own side questions left out."""
    return sum(bool(e.get("tools")) and str(e.get("prompt", "")).strip() == prompt for e in post.stub.log())


@pytest.mark.parametrize("step", ["before it is put", "before the ring", "after the ring"])
async def test_a_courier_killed_between_any_two_steps_loses_and_doubles_nothing(post: Post, step: str) -> None:
    await post.ready(**ASKS_NOTHING)
    reached = asyncio.Event()
    stuck: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    put, ring = post.reach.put, post.reach.ring

    async def stop(*_: object) -> None:
        reached.set()
        await stuck

    async def ring_and_stop(name: str) -> None:
        await ring(name)
        await stop()

    if step == "before it is put":
        post.reach.put = stop  # type: ignore[method-assign, assignment]
    else:
        post.reach.ring = stop if step == "before the ring" else ring_and_stop  # type: ignore[method-assign, assignment]
    assert put is not None
    id = await post.send("Hello there")
    await asyncio.wait_for(reached.wait(), DEADLINE)
    assert (await post.recipient(id))["state"] == State.INJECTING, "it is written down before it is done"
    await post.again()
    assert (await post.arrives(id))["way"] == "doorbell"
    await post.is_at("web", Activity.READY)
    assert post.times_there(id) == 1


@pytest.mark.parametrize("whose", ["others", "the person's own"])
async def test_what_a_killed_courier_left_half_typed_is_taken_out_and_typed_whole(post: Post, whose: str) -> None:
    await post.ready(**ASKS_NOTHING)
    ways, pressed = post.reach.ways, post.runtime.type
    stuck = asyncio.Event()

    async def half(handle: Handle, keys: Sequence[str], *, literal: bool) -> None:
        if "SECOND" in "".join(keys):
            await pressed(handle, ["".join(keys).partition("SECOND")[0]], literal=literal)
            stuck.set()
            await asyncio.get_running_loop().create_future()
        await pressed(handle, keys, literal=literal)

    post.reach.ways = lambda name: replace(ways(name), doorbell=False)  # type: ignore[method-assign]
    post.runtime.type = half  # type: ignore[method-assign, assignment]
    text = "the first half\nof several lines\nand then the SECOND half"
    id = await (post.send(text) if whose == "others" else post.prompt(text))
    await asyncio.wait_for(stuck.wait(), DEADLINE)
    assert (await post.recipient(id))["state"] == State.INJECTING
    await post.again()
    ways_again = post.reach.ways
    post.reach.ways = lambda name: replace(ways_again(name), doorbell=False)  # type: ignore[method-assign]
    told = await post.arrives(id)
    assert (told["way"], told["evidence"], told["attempts"]) == ("typed", "transcript", 2)
    await post.is_at("web", Activity.READY)
    assert post.times_there(id) == (whose == "others")


async def test_mail_that_lay_in_the_box_when_the_program_died_goes_to_the_next_launch(post: Post) -> None:
    runner = await post.ready(**ASKS_NOTHING)
    first = await post.send("something to resume")
    await post.arrives(first)
    await post.is_at("web", Activity.READY)
    ring = post.reach.ring

    async def nobody_rings(name: str) -> None:
        """The bell is broken."""

    post.reach.ring = nobody_rings  # type: ignore[method-assign]
    id = await post.send("Hello there")
    await until(lambda: list(post.box().glob("d.*")), "it lies in the box")
    box = post.box()
    await post.supervisor.stop([runner])
    await post.waits(id, "offline")
    assert not list(box.glob("d.*")), "it is taken back"
    post.reach.ring = ring  # type: ignore[method-assign]
    await post.supervisor.start([runner])
    assert (await post.arrives(id))["way"] == "doorbell"
    await post.is_at("web", Activity.READY)
    assert [post.times_there(id), post.times_there(first)] == [1, 1]


async def test_into_a_shell_a_prompt_is_typed_and_others_words_are_not(post: Post) -> None:
    await post.start("sh", harness="shell", command=("sh",))
    message, order = await post.send("touch said", to="sh"), await post.prompt("touch ordered", to="sh")
    await until(lambda: (post.home.work / "ordered").exists(), "its line is run")
    assert (await post.recipient(message))["reason"] == "inbox"
    assert (await post.arrives(order, State.UNCONFIRMED))["reason"] == "no_proof", "nothing in a shell proves it"
    await post.prompt("touch next", to="sh")
    await until((post.home.work / "next").exists, "what comes after it is not held up")
    assert not (post.home.work / "said").exists()


async def test_a_version_without_a_doorbell_is_told_at_a_tools_end_or_typed_to(post: Post) -> None:
    """What an older one does, with this one: its bell is not used."""
    await post.ready(**ASKS_NOTHING)
    ways = post.reach.ways
    post.reach.ways = lambda name: replace(ways(name), doorbell=False)  # type: ignore[method-assign]
    idle = await post.send("to the idle")
    assert (await post.arrives(idle))["way"] == "typed"
    await post.is_at("web", Activity.READY)
    await post.say("web", bash(GATED))
    await post.is_at("web", Activity.WORKING)
    busy = await post.send("to the busy")
    await until(lambda: list(post.box().glob("b.*")), "it lies ready for the tool's end")
    post.home.write("go", "")
    assert (await post.arrives(busy))["way"] == "boundary"
    await post.is_at("web", Activity.READY)
    assert [post.times_there(idle), post.times_there(busy)] == [1, 1]


async def test_a_conversation_that_is_terminated_stops_the_turn_that_is_about_it(post: Post) -> None:
    await post.ready(**ASKS_NOTHING)
    order = await post.prompt("SLOW 600")
    await post.arrives(order)
    await post.is_at("web", Activity.WORKING)
    thread = (await post.exchange.receipt(OPERATOR, order))["thread"]
    await post.exchange.thread_act(OPERATOR, thread, Verb.TERMINATE)
    await post.is_at("web", Activity.READY)

    async def interrupted() -> bool:
        return "Interrupted" in await post.screen()

    await until(interrupted, lambda: post.told("web"))
