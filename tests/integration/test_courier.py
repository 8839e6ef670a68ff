"""The courier: what waits comes into the agent once, is proven, or waits with its reason; wherever it is killed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.hub.delivery import Ways
from fleet.hub.message import Verb
from fleet.hub.reach import TurnEnd
from fleet.terms import Activity, Phase
from tests.courier import INTERACTIVE, OPERATOR, Hub, Program

HEADLESS = Ways(turns=2, typed=False, composer=False)
TYPED_ONLY = Ways(kept=True)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    made = await Hub(tmp_path).open()
    yield made
    await made.close()


# -- the doorbell ----------------------------------------------------------------------------------------------------


async def test_a_message_rings_an_idle_agent_and_is_proven_by_its_conversation(hub: Hub) -> None:
    web = await hub.join()
    id = await hub.send()
    await hub.arrives(id)
    told = await hub.stands(id)
    assert (told["way"], told["evidence"], told["attempts"]) == ("doorbell", "transcript", 1)
    assert web.times(id) == 1
    assert not web.boxes
    assert not web.taken


async def test_nothing_runs_where_nothing_waits(hub: Hub) -> None:
    await hub.join()
    await hub.arrives(await hub.send())
    await hub.settle()
    tasks = {task.get_name() for task in asyncio.all_tasks()}
    assert not any(name.startswith("mail of") for name in tasks)
    steps = len(hub.steps.taken)
    for _ in range(20):
        await hub.change(activity=Activity.WORKING)
        await hub.change(activity=Activity.READY)
    await hub.turn(600, step=60)
    assert len(hub.steps.taken) == steps


async def test_the_bell_is_rung_again_until_somebody_takes_the_mail(hub: Hub) -> None:
    web = await hub.join(deaf=True)
    id = await hub.send()
    await hub.until(lambda: web.rings >= 4)
    assert (await hub.state(id))[0] == "injecting"
    web.deaf = False
    await hub.arrives(id)
    assert web.times(id) == 1


async def test_a_program_that_hears_no_bell_is_typed_to_once_it_idles(hub: Hub) -> None:
    web = await hub.join(deaf=True, draft=True)
    id = await hub.send()
    await hub.until(lambda: not web.boxes and web.rings > 0)
    assert await hub.state(id) == ("queued", "draft"), "the true reason is told"
    await hub.change(draft=False)
    await hub.arrives(id)
    assert ((await hub.stands(id))["way"], web.times(id)) == ("typed", 1)
    await hub.change(activity=Activity.READY)
    rings, next_one = web.rings, await hub.send("and this")
    await hub.arrives(next_one)
    assert web.rings == rings, "what is known to be deaf is not rung for"


async def test_a_busy_program_that_hears_no_bell_is_waited_for(hub: Hub) -> None:
    web = await hub.join(deaf=True, activity=Activity.WORKING)
    id = await hub.send()
    await hub.turn(60, step=1)
    assert (await hub.state(id))[0] == "injecting"
    web.deaf = False
    await hub.until(lambda: not web.boxes)
    web.turn_ends()
    await hub.arrives(id)
    assert ((await hub.stands(id))["way"], web.times(id)) == ("doorbell", 1)


async def test_what_a_frozen_program_has_taken_is_there_once_when_it_goes_on(hub: Hub) -> None:
    web = await hub.join(deaf=True)
    id = await hub.send()
    await hub.until(lambda: bool(web.boxes))
    web.freeze()
    web.deaf = False
    await hub.turn(30, step=1)
    assert (await hub.state(id))[0] == "injecting"
    web.go_on()
    await hub.arrives(id)
    assert (web.times(id), (await hub.stands(id))["attempts"]) == (1, 1)


async def test_what_a_hook_took_and_the_program_never_noted_is_given_again(hub: Hub) -> None:
    web = await hub.join(forgets=2)
    id = await hub.send()
    await hub.arrives(id)
    assert web.times(id) == 1
    assert (await hub.stands(id))["attempts"] == 3


async def test_what_is_noted_is_waited_for_however_long_the_turn_is(hub: Hub) -> None:
    web = await hub.join(activity=Activity.WORKING)
    id = await hub.send()
    await hub.turn(300, step=30)
    assert (await hub.state(id))[0] == "injecting"
    assert len(web.queue) == 1
    await hub.change(activity=Activity.READY)
    web.take_up()
    await hub.arrives(id)
    assert web.times(id) == 1


async def test_mail_of_a_time_away_comes_as_one_digest_in_its_order(hub: Hub) -> None:
    web = await hub.join(phase=Phase.STOPPED)
    ids = [await hub.send(f"number {n}") for n in range(12)]
    await hub.turn(60, step=10)
    assert {await hub.state(id) for id in ids} == {("queued", "offline")}
    await hub.change(phase=Phase.RUNNING)
    await hub.arrives(*ids)
    assert web.order() == ids
    assert len(web.conversation) == 1


async def test_long_mail_comes_whole_in_as_many_digests_as_it_takes(hub: Hub) -> None:
    web = await hub.join(phase=Phase.STOPPED)
    texts = [f"<{n}>" + "x" * 7000 for n in range(7)]
    ids = [await hub.send(text) for text in texts]
    await hub.change(phase=Phase.RUNNING)
    await hub.arrives(*ids)
    assert web.order() == ids
    assert len(web.conversation) == 4
    assert all(sum("x" * 7000 in text for _, text in web.conversation) for text in texts)
    assert not any("excerpt" in text for _, text in web.conversation)


async def test_a_dialog_holds_everything_and_after_it_all_comes(hub: Hub) -> None:
    web = await hub.join(activity=Activity.NEEDS_INPUT, dialog=True)
    id, order = await hub.send(), await hub.prompt("do it")
    await hub.turn(30, step=5)
    assert await hub.state(id) == await hub.state(order) == ("queued", "dialog")
    assert (web.rings, web.composer) == (0, "")
    await hub.change(activity=Activity.READY, dialog=False)
    await hub.arrives(order)
    web.turn_ends()
    await hub.arrives(id)
    assert web.times(id) == 1


async def test_what_may_cause_no_turn_waits_for_one_and_goes_in_beside_a_tools_result(hub: Hub) -> None:
    web = await hub.join()
    id = await hub.send(to=["web", "operator"], intent="inform")
    await hub.turn(30, step=5)
    assert await hub.state(id) == ("queued", "no_wake")
    assert web.rings == 0
    await hub.change(activity=Activity.WORKING)
    await hub.until(lambda: bool(web.boxes))
    web.tool_ends()
    await hub.arrives(id)
    assert (await hub.stands(id))["way"] == "boundary"


async def test_what_lies_at_a_boundary_that_never_came_is_taken_back(hub: Hub) -> None:
    web = await hub.join(activity=Activity.WORKING)
    id = await hub.send(to=["web", "operator"], intent="inform")
    await hub.until(lambda: bool(web.boxes))
    await hub.change(activity=Activity.READY)
    await hub.until(lambda: not web.boxes)
    assert await hub.state(id) == ("queued", "no_wake")


# -- the program dies ------------------------------------------------------------------------------------------------


async def test_mail_in_the_box_of_a_dead_launch_goes_to_the_next_one(hub: Hub) -> None:
    web = await hub.join(deaf=True)
    id = await hub.send()
    await hub.until(lambda: bool(web.boxes))
    web.die()
    await hub.change()
    assert await hub.state(id) == ("queued", "offline")
    web.deaf = False
    web.come_back()
    await hub.change()
    await hub.arrives(id)
    assert web.times(id) == 1


async def test_what_was_only_noted_when_the_program_died_is_given_to_the_next_launch(hub: Hub) -> None:
    web = await hub.join(activity=Activity.WORKING)
    id = await hub.send()
    await hub.until(lambda: bool(web.queue))
    web.die()
    await hub.change()
    web.come_back()
    await hub.change()
    await hub.arrives(id)
    assert web.times(id) == 1


async def test_what_was_in_the_conversation_when_the_program_died_is_not_given_again(hub: Hub) -> None:
    web = await hub.join(activity=Activity.WORKING)
    id = await hub.send()
    await hub.until(lambda: bool(web.queue))
    web.take_up()
    web.die()
    web.come_back()
    await hub.change()
    await hub.arrives(id)
    assert web.times(id) == 1


# -- the courier dies ------------------------------------------------------------------------------------------------


async def lives(web: Program, hub: Hub) -> None:
    """Nothing happens to it."""


async def is_busy(web: Program, hub: Hub) -> None:
    """It works, and its tool ends later."""
    web.activity = Activity.WORKING


@pytest.mark.parametrize("dies", [False, True], ids=["program lives", "program dies too"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("script", [lives, is_busy])
async def test_killed_at_any_step_it_loses_nothing_and_doubles_nothing(
    tmp_path: Path, script: Callable[[Program, Hub], Awaitable[None]], before: bool, dies: bool
) -> None:
    """Every step of a burst in turn is the last one of the first courier; until there is no such step any more."""
    for last in itertools.count():
        hub = Hub(tmp_path / str(last))
        hub.steps.last, hub.steps.before = last, before
        await hub.open()
        web = await hub.join()
        await script(web, hub)
        ids = [await hub.send(f"number {n}") for n in range(2)]
        order = await hub.prompt("the operator's own")
        await hub.turn(6, step=0.5)
        killed, hub.steps.last = hub.steps.dead.is_set(), None
        if killed:
            if dies:
                web.die()
            await hub.again()
        elif dies:
            web.die()
            await hub.change()
        if dies:
            await hub.turn(1)
            web.come_back()
            await hub.change()
        for _ in range(100):
            web.turn_ends()
            hub.reach.changed("web")
            await hub.turn(1, step=0.5)
            stands = [await hub.state(id) for id in (*ids, order)]
            if all(state in ("delivered", "unconfirmed") for state, _ in stands):
                break
        assert {state for state, _ in stands} == {"delivered"}, (last, hub.steps.taken, stands)
        assert [web.times(id) for id in ids] == [1, 1], (last, hub.steps.taken)
        assert sum(text == "the operator's own" for _, text in web.conversation) == 1, (last, hub.steps.taken)
        await hub.close()
        if not killed:
            assert last > 8
            return


# -- typing ----------------------------------------------------------------------------------------------------------


async def test_an_operators_prompt_is_typed_and_proven(hub: Hub) -> None:
    web = await hub.join()
    id = await hub.prompt("do it")
    await hub.arrives(id)
    assert (await hub.stands(id))["way"] == "typed"
    assert [text for _, text in web.conversation] == ["do it"]


async def test_a_prompt_waits_for_the_draft_and_the_persons_last_key(hub: Hub) -> None:
    web = await hub.join(draft=True)
    id = await hub.prompt("do it")
    await hub.turn(5)
    assert await hub.state(id) == ("queued", "draft")
    await hub.change(draft=False, key_at=hub.clock.now())
    assert await hub.state(id) == ("queued", "typing")
    assert not web.conversation
    await hub.turn(4)
    await hub.arrives(id)


async def test_a_lost_enter_is_pressed_again_and_the_text_is_there_once(hub: Hub) -> None:
    web = await hub.join(eats_enter=2)
    id = await hub.prompt("do it")
    await hub.arrives(id)
    assert [text for _, text in web.conversation] == ["do it"]
    assert hub.steps.taken.count("enter") == 2


async def test_a_dialog_that_comes_while_typing_gets_no_enter(hub: Hub) -> None:
    web = await hub.join()
    hub.while_typing = lambda it: (setattr(it, "dialog", True), setattr(it, "activity", Activity.NEEDS_INPUT))[0]
    id = await hub.prompt("do it")
    await hub.turn(40, step=1)
    assert (await hub.state(id))[0] == "injecting"
    assert web.composer == "do it"
    await hub.change(dialog=False, activity=Activity.READY)
    await hub.arrives(id)
    assert [text for _, text in web.conversation] == ["do it"]


async def test_what_a_dialog_cut_short_is_taken_out_again_and_typed_whole_once(hub: Hub) -> None:
    def comes_between(it: Program) -> None:
        it.composer, it.dialog, it.activity = "do", True, Activity.NEEDS_INPUT
        hub.while_typing = None

    web = await hub.join()
    hub.while_typing = comes_between
    id = await hub.prompt("do it")
    await hub.turn(40, step=1)
    assert ((await hub.state(id))[0], web.composer) == ("injecting", "do"), "nothing is pressed behind a dialog"
    await hub.change(dialog=False, activity=Activity.READY)
    await hub.arrives(id)
    assert [text for _, text in web.conversation] == ["do it"]


async def test_what_is_never_proven_is_unconfirmed_and_never_typed_again(hub: Hub) -> None:
    web = await hub.join(eats_enter=99)
    id = await hub.prompt("do it")
    await hub.arrives(id, state="unconfirmed")
    await hub.turn(60, step=5)
    assert hub.steps.taken.count("type") == 1
    web.eats_enter = 0
    web.conversation.append((hub.clock.now(), "do it"))
    await hub.change()
    assert (await hub.stands(id))["state"] == "delivered", "a late proof counts"


async def test_others_words_are_never_typed_into_a_shell(hub: Hub) -> None:
    web = await hub.join(ways=Ways(talk=False, composer=False))
    id, order = await hub.send("rm -rf /"), await hub.prompt("ls")
    await hub.turn(30, step=5)
    assert await hub.state(id) == ("queued", "inbox")
    assert [text for _, text in web.conversation] == ["ls"]
    await hub.arrives(order)


async def test_without_a_doorbell_others_words_are_typed_in_quotes(hub: Hub) -> None:
    web = await hub.join(ways=TYPED_ONLY)
    ids = [await hub.send("one"), await hub.send("two")]
    for _ in range(20):
        await hub.turn(1)
        web.turn_ends()
        hub.reach.changed("web")
    await hub.arrives(*ids)
    assert web.order() == ids
    assert all("from other members" in text.partition(".")[0] for _, text in web.conversation)  # one, or both at once


async def test_what_a_killed_courier_left_half_typed_is_taken_out_and_typed_whole(hub: Hub) -> None:
    web = await hub.join(ways=TYPED_ONLY)
    ended: list[str] = []

    def dies(it: Program) -> None:
        ended.append(it.composer)
        it.composer, it.dialog = it.composer[:150], True

    hub.while_typing = dies
    id = await hub.send("several words")
    await hub.until(lambda: bool(ended))
    hub.while_typing = None
    await hub.again()
    web.dialog = False
    await hub.change()
    await hub.arrives(id)
    assert web.order() == [id]


# -- conversations ---------------------------------------------------------------------------------------------------


async def test_a_paused_conversation_waits_without_work_and_goes_on_once(hub: Hub) -> None:
    web = await hub.join(phase=Phase.STOPPED)
    id = await hub.send()
    thread = (await hub.exchange.receipt(OPERATOR, id))["thread"]
    await hub.exchange.thread_act(OPERATOR, thread, Verb.PAUSE)
    await hub.change(phase=Phase.RUNNING)
    assert await hub.state(id) == ("queued", "paused")
    steps, head = len(hub.steps.taken), hub.exchange.log.head
    await hub.turn(60, step=5)
    assert (len(hub.steps.taken), hub.exchange.log.head) == (steps, head)
    await hub.exchange.thread_act(OPERATOR, thread, Verb.RESUME)
    await hub.arrives(id)
    assert web.times(id) == 1


@pytest.mark.parametrize("verb", [Verb.PAUSE, Verb.TERMINATE])
async def test_an_operators_act_stops_the_turn_that_is_about_that_conversation_and_no_other(
    hub: Hub, verb: Verb
) -> None:
    web = await hub.join()
    begun = await hub.send("begins the turn")
    await hub.arrives(begun)
    await hub.change(activity=Activity.WORKING)
    joined = await hub.send("comes into it")
    await hub.until(lambda: bool(web.queue))
    web.tool_ends()
    await hub.arrives(joined)
    threads = [(await hub.exchange.receipt(OPERATOR, id))["thread"] for id in (begun, joined)]
    await hub.exchange.thread_act(OPERATOR, threads[1], verb)
    await hub.settle()
    assert web.stopped == []
    await hub.exchange.thread_act(OPERATOR, threads[0], verb)
    await hub.settle()
    assert web.stopped == [threads[0]]


async def test_what_its_sender_gave_a_time_expires_then(hub: Hub) -> None:
    web = await hub.join(phase=Phase.STOPPED)
    id = await hub.send(expires_in=30)
    await hub.turn(40, step=5)
    assert (await hub.state(id))[0] == "expired"
    await hub.change(phase=Phase.RUNNING)
    await hub.turn(10)
    assert web.times(id) == 0


async def test_the_end_of_a_turn_is_told_once_it_has_been_seen_to_run(hub: Hub) -> None:
    await hub.join()
    id = await hub.send()
    await hub.arrives(id)
    await hub.change()
    assert hub.ended == [], "its turn has not even begun"
    await hub.change(activity=Activity.WORKING)
    await hub.change(activity=Activity.NEEDS_INPUT)
    assert hub.ended == []
    await hub.change(activity=Activity.READY)
    assert hub.ended == ["web"]
    await hub.change()
    assert hub.ended == ["web"]


# -- headless --------------------------------------------------------------------------------------------------------


async def test_a_turns_words_are_the_reply(hub: Hub) -> None:
    web = await hub.join(ways=HEADLESS)
    id = await hub.send("2 + 2?", intent="ask", timeout=60)
    await hub.arrives(id, state="answered")
    told = await hub.stands(id)
    answer = await hub.exchange.receipt(OPERATOR, told["answer"])
    assert (answer["text"], answer["sender"], answer["intent"]) == ("done", "web", "result")
    assert web.turns == [id]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_killed_at_any_step_a_headless_agent_replies_once_and_runs_one_turn(tmp_path: Path, before: bool) -> None:
    for last in itertools.count():
        hub = Hub(tmp_path / str(last))
        hub.steps.last, hub.steps.before = last, before
        await hub.open()
        web = await hub.join(ways=HEADLESS)
        id = await hub.send("2 + 2?", intent="ask", timeout=600)
        await hub.turn(3)
        killed = hub.steps.dead.is_set()
        if killed:
            await hub.again()
        await hub.arrives(id, state="answered")
        await hub.turn(5)
        assert web.turns == [id], (last, hub.steps.taken)
        page = await hub.exchange.read(OPERATOR, thread=(await hub.exchange.receipt(OPERATOR, id))["thread"])
        assert [m["sender"] for m in page["messages"]] == ["operator", "web"], last
        await hub.close()
        if not killed:
            assert last > 3
            return


@pytest.mark.parametrize(
    ("end", "state", "reason", "turns"),
    [
        (TurnEnd(ok=True, declined=True, reason="not_mine"), "declined", "not_mine", 1),
        (TurnEnd(ok=False, reason="timed_out"), "failed", "timed_out", 1),
        (TurnEnd(ok=False, reason="crashed", again=True), "failed", "set_aside: crashed", 3),
        (TurnEnd(ok=True, text=" "), "failed", "no_answer", 1),
    ],
)
async def test_a_turn_that_gives_no_answer_ends_the_ask_in_its_own_way(
    hub: Hub, end: TurnEnd, state: str, reason: str, turns: int
) -> None:
    web = await hub.join(ways=HEADLESS, answers=lambda message: end)
    id = await hub.send("2 + 2?", intent="ask", timeout=600)
    await hub.arrives(id, state=state)
    assert await hub.state(id) == (state, reason)
    assert len(web.turns) == turns


async def test_who_wrote_hears_that_the_reply_of_a_turn_was_refused(hub: Hub) -> None:
    await hub.join(ways=HEADLESS)
    id = await hub.send("Go on", intent="inform", max_hops=1)
    await hub.arrives(id)
    assert (await hub.stands(id))["evidence"] == "turn; its reply: hop_limit"


async def test_turns_are_one_at_a_time_in_a_conversation_and_so_many_beside_each_other(hub: Hub) -> None:
    web = await hub.join(ways=HEADLESS, gate=asyncio.Event())
    ids = [await hub.send(f"{n}") for n in range(3)]
    thread = (await hub.exchange.receipt(OPERATOR, ids[0]))["thread"]
    more = await hub.send("and", thread=thread)
    await hub.until(lambda: len(web.turns) == 2)
    await hub.turn(5)
    assert sorted(web.turns) == sorted(ids[:2])
    assert {await hub.state(ids[2]), await hub.state(more)} == {("queued", "working"), ("queued", "behind")}
    assert web.gate is not None
    web.gate.set()
    for id in (*ids, more):
        await hub.arrives(id, state="answered")
    assert web.turns.index(more) > web.turns.index(ids[0])


async def test_a_terminated_conversations_turn_is_stopped_and_nothing_of_it_is_said(hub: Hub) -> None:
    web = await hub.join(ways=HEADLESS, gate=asyncio.Event())
    id = await hub.send()
    await hub.until(lambda: bool(web.turns))
    thread = (await hub.exchange.receipt(OPERATOR, id))["thread"]
    await hub.exchange.thread_act(OPERATOR, thread, Verb.TERMINATE)
    await hub.arrives(id, state="cancelled")
    page = await hub.exchange.read(OPERATOR, thread=thread)
    assert [m["sender"] for m in page["messages"]] == ["operator"]


async def test_one_agents_long_turn_holds_up_nobody_else(hub: Hub) -> None:
    slow = await hub.join("slow", ways=HEADLESS, gate=asyncio.Event())
    await hub.join("web")
    held = await hub.send(to="slow")
    await hub.until(lambda: bool(slow.turns))
    id = await hub.send(to="web")
    await hub.arrives(id)
    assert (await hub.state(held))[0] == "injecting"


def test_the_rules_of_the_tests_are_those_in_force() -> None:
    assert replace(INTERACTIVE, boundary=False).doorbell
