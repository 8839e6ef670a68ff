"""A program on a machine whose clock is off: what it says of itself counts by our clock."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.terms import Activity, Source
from tests.unit.fleet_in_memory import World, draw


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, backoff_jitter=0.0)
    yield world
    await world.close()


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
async def test_a_state_file_is_as_old_as_it_is_whatever_the_clock_there_says(world: World, ahead: float) -> None:
    daemon = await world.daemon()
    await daemon.start(world.claude_code())
    draw(world.host.pane("web"), "idle-manual")
    await world.clock.turn(2)
    runner: Any = daemon["web"]
    world.host.far = SimpleNamespace(ahead=ahead, folder="/far")  # type: ignore[assignment]
    now = world.clock.now()
    told = {"pid": runner.facts.owner, "status": "busy", "statusUpdatedAt": (now + ahead - 3) * 1000}
    path = runner.harness.state_file(runner.facts.env, runner.facts.owner)
    world.host.files[path] = json.dumps(told).encode()
    await runner.senses.read_state_file()
    claim = runner.book.claims[Source.STATE_FILE]
    assert claim.evidence.observed_at == pytest.approx(now - 3)
    assert runner.state.activity is Activity.WORKING
    world.host.far = None
