"""The clock that the hub goes by never falls, and loses no time; who waits for the same beat wakes at once."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from fleet.clock import EARLY, SteadyClock, beat

steps = st.lists(st.tuples(st.floats(0, 100), st.floats(-1e6, 1e6)), max_size=30)


@given(steps)
def test_it_never_falls_and_passes_no_slower_than_time(moves: list[tuple[float, float]]) -> None:
    wall, ticks = [1_000_000_000.0], [50.0]
    clock = SteadyClock(lambda: wall[0], lambda: ticks[0])
    before = clock.now()
    for passed, set_by in moves:
        ticks[0] += passed
        wall[0] += passed + set_by
        now = clock.now()
        assert now >= wall[0]
        assert now >= before + passed - 1e-3
        before = now


def test_undisturbed_it_is_the_machines_clock() -> None:
    wall, ticks = [1_000_000_000.0], [50.0]
    clock = SteadyClock(lambda: wall[0], lambda: ticks[0])
    for _ in range(1000):
        wall[0] += 0.25
        ticks[0] += 0.25
        assert clock.now() == wall[0]


@given(st.floats(0.1, 5.0), st.floats(0.0, 100.0))
def test_whoever_waits_for_a_beat_wakes_at_a_multiple_of_it(every: float, begun: float) -> None:
    class Noted:
        waited = 0.0

        def now(self) -> float:
            return 1_000_000.0 + begun

        async def sleep(self, seconds: float) -> None:
            self.waited = seconds

    clock = Noted()
    asyncio.run(beat(clock, every))
    beats = (clock.now() + clock.waited) / every
    assert abs(beats - round(beats)) < 1e-6
    assert EARLY <= clock.waited <= every + EARLY
