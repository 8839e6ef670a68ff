"""The harness of any program: it launches what is written, and guesses nothing."""

from __future__ import annotations

import pytest

from fleet.harnesses.base import Conversation, LaunchAsk
from fleet.harnesses.shell import BUSY, QUIET, Shell
from fleet.manifests.model import AgentSpec
from fleet.terms import Activity

SHELL = Shell()


def test_the_command_is_run_as_written() -> None:
    spec = AgentSpec(name="w", harness="shell", command=("printf", "%s", "$(touch x); `y`"), args=("a b",))
    asked = LaunchAsk(spec, Conversation("", exists=False), "/f", "/s", "/w", {}, None)
    launch = SHELL.launch(asked)
    assert launch.argv == ("printf", "%s", "$(touch x); `y`", "a b")
    assert not launch.files
    assert not launch.env


@pytest.mark.parametrize(
    ("moved", "cpu", "activity", "since"),
    [
        (100.0, 0.0, Activity.WORKING, 100.0),
        (100.0 - QUIET, 0.0, Activity.READY, 100.0),
        (10.0, 0.0, Activity.READY, 10.0 + QUIET),
        (10.0, BUSY, Activity.WORKING, 100.0),
        (None, None, Activity.READY, 100.0),
        (None, 1.0, Activity.WORKING, 100.0),
    ],
)
def test_it_works_while_it_prints_or_computes(
    moved: float | None, cpu: float | None, activity: Activity, since: float
) -> None:
    said = SHELL.read_process(moved, cpu, 100.0)
    assert said is not None
    assert (said.activity, said.observed_at) == (activity, since)


@pytest.mark.parametrize("moved", [None, 0.0, 99.9])
@pytest.mark.parametrize("cpu", [None, 0.0, 5.0])
def test_it_never_needs_a_person_on_a_guess(moved: float | None, cpu: float | None) -> None:
    said = SHELL.read_process(moved, cpu, 100.0)
    assert said is not None
    assert said.activity in (Activity.WORKING, Activity.READY)


@pytest.mark.parametrize(("status", "reason"), [(127, "ProgramNotFound"), (126, "ProgramNotExecutable")])
def test_a_program_that_could_not_be_run_is_not_tried_again(status: int, reason: str) -> None:
    problem = SHELL.start_failure("", status, None)
    assert problem is not None
    assert (problem.reason, problem.retry) == (reason, False)


@pytest.mark.parametrize("status", [None, 0, 1, 137])
def test_any_other_end_is_its_own_affair(status: int | None) -> None:
    assert SHELL.start_failure("not found", status, None) is None
