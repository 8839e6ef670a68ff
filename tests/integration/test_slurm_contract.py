"""What every runtime promises, in jobs of a real SLURM: those tests of tests/contract that a queue leaves as they are.

Each takes a job of its own, so that they are few; what is not here is told in docs/slurm.md or tried on other hosts.
"""

from __future__ import annotations

import pytest

from tests.cluster import needs_slurm, slurm_host, slurm_kit  # noqa: F401
from tests.contract.test_runtime import (  # noqa: F401
    test_a_host_that_cannot_be_read_is_no_death,
    test_a_killed_program_ends_with_the_signals_status,
    test_a_launch_that_happened_already_is_left_as_it_is,
    test_a_launch_that_never_happened_is_not_alive,
    test_a_lost_multiplexer_is_told_as_such_once_per_agent,
    test_a_missing_folder_is_refused_by_name,
    test_a_pane_has_the_size_it_was_given,
    test_after_a_launcher_is_killed_nobody_knows_the_status,
    test_ending_lets_a_program_end_by_sigterm,
    test_ending_what_was_never_launched_is_fine,
    test_lines_that_left_the_screen_are_kept,
    test_stopping_web_never_touches_web_2,
    test_the_last_screen_is_kept_after_the_pane_is_gone,
    test_typed_text_arrives_and_enter_sends_it,
)

pytestmark = [pytest.mark.real, needs_slurm]
