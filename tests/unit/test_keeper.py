"""The keeper: a daemon that died comes back at once, and one that keeps dying does not burn the machine."""

from __future__ import annotations

from fleet.keeper import AT_ONCE, DELAY, DELAY_MAX, pause


def test_a_few_deaths_in_a_row_cost_no_wait_and_more_of_them_wait_longer_and_longer():
    assert {pause(deaths) for deaths in range(1, AT_ONCE + 1)} == {DELAY}
    later = [pause(deaths) for deaths in range(AT_ONCE, 10_000)]
    assert later == sorted(later)
    assert later[1:3] == [2 * DELAY, 4 * DELAY]
    assert later[-1] == DELAY_MAX
