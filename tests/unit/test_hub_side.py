"""What the operator is told of a hub that does not work as it should."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fleet.hub.message import Nature
from fleet.hubside import GO_ON, HubSide
from fleet.manifests.model import AgentSpec, Restart
from fleet.settings import Settings
from fleet.terms import Activity, Phase
from fleet.testing import TurnedClock


def side(read_only: bool) -> HubSide:
    made = HubSide(*cast(Any, [None] * 5))
    made._exchange = cast(Any, SimpleNamespace(log=SimpleNamespace(read_only=read_only)))
    return made


async def test_a_fault_of_the_hub_fails_no_launch(caplog: pytest.LogCaptureFixture) -> None:
    made = side(read_only=False)
    made._tried.set()
    made._server = cast(Any, object())  # of the hub, nothing works that a token needs
    assert await made.admit(AgentSpec(name="web", harness="shell", command=("true",)), "web.1") is None
    assert "web is launched without the hub" in caplog.text


def test_a_hub_that_only_reads_since_the_disk_is_full_is_told() -> None:
    assert side(read_only=False).problems == []
    (told,) = side(read_only=True).problems
    assert "disk is full" in told


class Limited:
    """An agent at its usage limit, a turned clock, and what the hub is given to send."""

    def __init__(self, *, auto_resume: bool = True, continues: bool = False) -> None:
        self.clock, self.sent = TurnedClock(), list[tuple[Any, Any]]()
        self.ends = self.clock.now() + 3600
        spec = AgentSpec(name="web", harness="claude-code", restart=Restart(auto_resume=auto_resume))
        self.state = SimpleNamespace(activity=Activity.LIMITED, resets_at=self.ends, continues=continues)
        handle = SimpleNamespace(generation="web.1")
        self.runner = cast(Any, SimpleNamespace(
            name="web", spec=spec, state=self.state, headless=False, handle=handle,
            life=SimpleNamespace(phase=Phase.RUNNING),
        ))  # fmt: skip
        self.side = HubSide(*cast(Any, [None, None, Settings(), None, self.clock]))
        self.side._exchange = cast(Any, SimpleNamespace(send=self.send))

    async def send(self, _caller: Any, body: Any, nature: Any) -> None:
        self.sent.append((body, nature))


async def test_an_agent_that_lives_on_at_its_limit_is_told_to_go_on_once_that_has_ended() -> None:
    case = Limited()
    case.side._await_limit(case.runner)
    case.side._await_limit(case.runner)  # as often as something about it changes
    await case.clock.turn(3600 + 59)
    assert case.sent == []
    await case.clock.turn(300)
    ((body, nature),) = case.sent
    assert (body["to"], body["text"], nature) == ("web", GO_ON, Nature.PROMPT)
    case.side._await_limit(case.runner)  # it has not heard of it yet: a repeat, under the same key
    await case.clock.turn(400)
    assert {body["idempotency_key"] for body, _ in case.sent} == {f"web.1.limit.{case.ends:.0f}"}


async def test_one_that_is_at_another_limit_by_then_waits_for_that() -> None:
    case = Limited()
    case.side._await_limit(case.runner)
    await case.clock.turn(10)
    case.state.resets_at += 7200
    await case.clock.turn(3600 + 300)
    assert case.sent == []
    await case.clock.turn(7200)
    assert len(case.sent) == 1


@pytest.mark.parametrize("case", [{"auto_resume": False}, {"continues": True}])
async def test_one_that_is_not_to_go_on_or_does_so_by_itself_is_only_watched(case: dict[str, bool]) -> None:
    made = Limited(**case)
    made.side._await_limit(made.runner)
    await made.clock.turn(86400)
    assert made.sent == []


async def test_one_that_has_gone_on_meanwhile_is_not_told() -> None:
    case = Limited()
    case.side._await_limit(case.runner)
    await case.clock.turn(3500)
    case.state.activity, case.state.resets_at = Activity.WORKING, None
    await case.clock.turn(86400)
    assert case.sent == []
