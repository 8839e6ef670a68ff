"""A headless agent's turns on a real SLURM: steps beside the waiter that holds its job, or its part of a booking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fleet.clock import SystemClock
from fleet.manifests.model import Headless
from fleet.runtimes.base import Runtime
from fleet.runtimes.local_turns import LocalGround
from fleet.runtimes.slurm_runtime import SlurmRuntime
from fleet.runtimes.slurm_tenant import TenantRuntime
from fleet.runtimes.slurm_turns import StepGround, WithSteps
from fleet.runtimes.turns import NONE, Ground
from fleet.terms import Handle, LaunchPlan
from tests.cluster import Cluster, SlurmHost, happens, needs_slurm
from tests.contract.hosts import until_async
from tests.homes import Home
from tests.turns import Desk, message
from tests.waiting import until

pytestmark = [pytest.mark.real, needs_slurm]


@dataclass(kw_only=True)
class StepDesk(Desk):
    """Headless agents of a home, on a cluster."""

    cluster: SlurmHost
    lodge: SlurmRuntime | TenantRuntime

    def _ground(self) -> Ground:
        submit = LocalGround(self.cluster.local, self.cluster.places)
        return StepGround(submit, self.lodge, self.cluster.asked, self.cluster.places, self.lodge.place_of)

    def _host(self) -> Runtime:
        return WithSteps(self.lodge, self._ground(), SystemClock())

    async def launch(self, script: str, **spec: Any) -> Handle:
        """A scripted runner that is up."""
        booked = {"reservation": "pool"} if self.lodge.name == "slurm-tenant" else {}
        up = self.runner(script, runtime=self.lodge.name, slurm={"mem": "100M", **booked}, **spec)
        handle = self.host.mint("web", up.generation, NONE)
        plan = LaunchPlan(
            agent="web", argv=("none",), cwd=up.cwd, env={**up.env, "PATH": "/usr/bin:/bin"}, place=up.spec
        )
        await self.host.launch(plan, handle)

        async def runs() -> bool:
            look = await self.host.look(handle)
            return look.alive and look.waiting is None

        await until_async(runs, "its place is held")
        return handle

    async def close(self) -> None:
        for thread in self.turns.running("web"):
            await self.turns.stop_turn("web", thread)
        await self.turns.close()
        await self.database.close()


@pytest.fixture
async def desk(request: pytest.FixtureRequest, slurm: Cluster, home: Home) -> AsyncIterator[StepDesk]:
    cluster = SlurmHost(slurm, home.path)
    lodge = cluster.slurm if request.param == "slurm" else await cluster.book("pool", cpus=2)
    made = StepDesk(home.path, home.env, cluster=cluster, lodge=lodge)
    yield made
    await made.close()
    await cluster.close()


WAITS = (
    "echo $SLURM_JOB_ID.$SLURM_STEP_ID >> begun; while [ ! -e go ]; do sleep 0.05; done; echo done $FLEET_MESSAGE_ID"
)


@pytest.mark.parametrize("desk", ["slurm"], indirect=True)
async def test_a_turn_is_a_step_of_its_launchs_job_and_the_next_daemon_waits_for_it(desk: StepDesk) -> None:
    handle = await desk.launch(f"cat; setsid sleep 300 >/dev/null 2>&1 & {WAITS}")
    look = await desk.host.look(handle)
    assert (look.screen, look.program, look.pane) == (None, None, None)
    turn = desk.begin(message(text="größe 'x' $HOME\n"))
    begun = desk.home / "work" / "begun"
    await until(lambda: begun.exists() and begun.read_text().endswith("\n"), "the turn runs")
    job, _, step = begun.read_text().strip().partition(".")
    assert desk.cluster.cluster.states()[job] == "RUNNING" and step.isdigit()
    await desk.next_daemon()
    await asyncio.gather(turn, return_exceptions=True)
    again = desk.begin(message(text="größe 'x' $HOME\n"))
    (desk.home / "work" / "go").touch()
    end = await again
    assert (end.ok, end.text) == (True, f"größe 'x' $HOME\ndone {message().id}")
    assert len(begun.read_text().splitlines()) == 1
    await desk.gone()


@pytest.mark.parametrize("desk", ["slurm-tenant"], indirect=True)
async def test_what_ends_a_turn_ends_its_step_and_the_next_one_runs(desk: StepDesk) -> None:
    handle = await desk.launch(f"trap '' TERM; setsid sleep 300 & {WAITS}", headless={"timeout": 3})
    begun = desk.home / "work" / "begun"
    assert (await desk.ask(message(1))).reason == "timed_out"
    assert not desk.living()

    up = desk.agents["web"]
    desk.agents["web"] = replace(up, spec=up.spec.model_copy(update={"headless": Headless(timeout=900)}))
    begun.unlink(missing_ok=True)
    stopped = desk.begin(message(2))
    await until(begun.exists, "the turn runs")
    await desk.turns.stop_turn("web", message().thread)
    assert (await stopped).reason == "interrupted"
    assert not desk.living()

    begun.unlink()
    last = desk.begin(message(3))
    await until(begun.exists, "the turn runs")
    up = desk.agents.pop("web")
    await desk.host.end(handle, grace=1)
    end = await last
    assert (end.reason, end.again) == ("stopped", True)
    assert not desk.living()
    desk.agents["web"] = up
    waits = desk.begin(message(4))
    note = desk.places.agent("web") / "turns" / f"{message(4).id}.1" / "turn"
    await happens(note.exists, "a turn without a place is laid out")
    await desk.turns.stop_turn("web", message().thread)
    assert (await waits).reason == "interrupted"
    assert not Path(note.parent / "out").exists()
