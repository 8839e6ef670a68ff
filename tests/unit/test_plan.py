"""What an agent gets of the environment that it was started from."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet import plan
from fleet.cli import reads

STARTER = {
    "PATH": "/bin", "HOME": "/home/u", "LC_TIME": "C", "AWS_REGION": "x", "SECRET": "s", "TMUX": "/tmp/x,1,0",
    "FLEET_HOME": "/home/u/lab", "FLEET_AGENT": "outer", "FLEET_GENERATION": "outer.1.ab", "CLAUDE_PID": "7",
}  # fmt: skip


def inherited(rule: str | tuple[str, ...], **environ: str) -> dict[str, str]:
    return plan.inherited({**STARTER, **environ}, rule, keep=("AWS_*",), dropped=("CLAUDE_PID",))


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("default", {"PATH", "HOME", "LC_TIME", "AWS_REGION"}),
        ("all", {"PATH", "HOME", "LC_TIME", "AWS_REGION", "SECRET"}),
        ("none", set()),
        (("SEC*", "FLEET_*", "TMUX"), {"SECRET"}),
    ],
)
def test_whatever_it_inherits_it_is_told_where_its_fleet_lives_and_nothing_of_another_session(
    rule: str | tuple[str, ...], names: set[str]
) -> None:
    found = inherited(rule)
    assert found.keys() == names | {"FLEET_HOME"}
    assert found["FLEET_HOME"] == "/home/u/lab"


def test_a_fleet_in_the_folders_of_the_user_has_no_home_to_tell_of() -> None:
    assert "FLEET_HOME" not in inherited("all", FLEET_HOME="")


def test_a_relative_home_is_told_as_a_path_that_holds_in_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEET_HOME", "lab")
    assert reads.environment()["FLEET_HOME"] == str(tmp_path / "lab")
    monkeypatch.delenv("FLEET_HOME")
    assert "FLEET_HOME" not in reads.environment()
