"""A headless agent's launch keeps no process, and is alive from its launch to its end; all else is the host's own."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fleet.errors import CannotYet, LaunchError
from fleet.runtimes.headless import WithHeadless
from fleet.runtimes.local_turns import LocalGround
from fleet.runtimes.turns import NONE
from fleet.settings import Places
from fleet.terms import File, Handle, LaunchPlan, Look
from fleet.testing import MemoryRuntime, Pane, TurnedClock, settle

GENERATION = f"web.1.{secrets.token_hex(4)}"
"""Nobody else's: what bears it is ended."""


class Disk(MemoryRuntime):
    """A host in memory whose files are on the disk."""

    async def put(self, files: Sequence[File]) -> None:
        for file in files:
            Path(file.path).parent.mkdir(parents=True, exist_ok=True)
            Path(file.path).write_bytes(file.content)


@pytest.fixture
def runtime(tmp_path: Path) -> WithHeadless:
    async def forever(pane: Pane) -> int:
        await pane.clock.sleep(1e9)
        return 0

    clock = TurnedClock()
    places = Places.of({"HOME": str(tmp_path), "FLEET_HOME": str(tmp_path / "fleet")})
    host = Disk(clock, programs={"forever": forever})
    return WithHeadless(host, LocalGround(host, places), clock)


def plan(program: str = sys.executable, cwd: str = "/") -> LaunchPlan:
    return LaunchPlan(agent="web", argv=(program,), cwd=cwd, env={"PATH": "/usr/bin:/bin", "WORD": "it's"})


async def test_it_is_alive_from_its_launch_to_its_end_and_again_after_nothing(runtime: WithHeadless) -> None:
    handle = runtime.mint("web", GENERATION, NONE)
    assert not (await runtime.look(handle)).alive
    await runtime.launch(plan(), handle)
    look = await runtime.look(handle)
    assert (look.alive, look.program, look.screen, look.exit_status) == (True, None, None, None)
    assert (await runtime.end(handle, grace=0.1)).exit_status == 0
    assert not (await runtime.look(handle)).alive
    assert (await runtime.end(handle, grace=0.1)).exit_status == 0


async def test_whoever_watches_it_is_told_once_that_it_is_there(runtime: WithHeadless) -> None:
    handle = runtime.mint("web", GENERATION, NONE)
    await runtime.launch(plan(), handle)
    seen: list[tuple[Handle, Look]] = []
    runtime.watch(handle, lambda *told: seen.append(told))
    await settle()
    assert [(told, look.alive) for told, look in seen] == [(handle, True)]
    runtime.unwatch(handle)


async def test_its_environment_is_kept_for_its_turns_as_a_shell_reads_it(runtime: WithHeadless) -> None:
    handle = runtime.mint("web", GENERATION, NONE)
    await runtime.launch(plan(), handle)
    told = (Path(handle.folder) / "env").read_text()
    assert "WORD='it'\\''s'\n" in told and f"FLEET_GENERATION='{GENERATION}'\n" in told


@pytest.mark.parametrize("program", ["no-such-program-anywhere", "/no/such/program", "./none"])
async def test_a_program_that_is_not_there_is_refused_at_the_launch(runtime: WithHeadless, program: str) -> None:
    handle = runtime.mint("web", GENERATION, NONE)
    with pytest.raises(LaunchError, match="is not there"):
        await runtime.launch(plan(program), handle)
    assert not (await runtime.look(handle)).alive


async def test_what_needs_a_pane_is_refused_by_name(runtime: WithHeadless) -> None:
    handle = runtime.mint("web", GENERATION, NONE)
    with pytest.raises(CannotYet, match="headless"):
        runtime.attach_argv(handle)
    with pytest.raises(CannotYet, match="headless"):
        await runtime.type(handle, ["Enter"], literal=False)
    assert await runtime.last_screen(handle) is None
    assert await runtime.log_lines(handle, 10) == []


async def test_agents_in_panes_are_the_hosts(runtime: WithHeadless) -> None:
    handle = runtime.mint("web", GENERATION, "tmux")
    assert handle.multiplexer == "tmux"
    host = runtime._host
    assert isinstance(host, MemoryRuntime)
    host.folders.add("/work")
    await runtime.launch(plan("forever", "/work"), handle)
    assert (await runtime.look(handle)).alive and (await host.look(handle)).alive
    await runtime.end(handle, grace=0.0)
    assert not (await host.look(handle)).alive
    await runtime.close()
