"""`make demo`: a small fleet that needs no account, twice, and its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.homes import ROOT, Home

pytestmark = pytest.mark.real


def demo(home: Home, *words: str) -> str:
    env = {**home.env, "DEMO_HOME": str(home.path / "demo"), "DEMO_PROGRAM": str(Path(sys.executable).parent / "fleet")}
    del env["FLEET_HOME"]
    done = subprocess.run([ROOT / "tools" / "demo", *words], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def agents(home: Home) -> dict[str, dict[str, object]]:
    told = subprocess.run(
        [home.path / "demo" / "fleet", "status", "--json"], env=home.env, capture_output=True, text=True, check=True
    )
    return {agent["name"]: agent for agent in json.loads(told.stdout)["data"]["agents"]}


def test_the_demo_starts_shows_itself_runs_again_and_ends(home: Home) -> None:
    try:
        shown = demo(home)
        for name in ("clock", "worker", "flaky"):
            assert f"{name} " in shown
        assert "attach worker" in shown
        first = agents(home)
        assert {name: agent["phase"] for name, agent in first.items() if name != "flaky"} == {
            "clock": "running",
            "worker": "running",
        }
        demo(home)
        assert agents(home)["clock"]["pid"] == first["clock"]["pid"]
    finally:
        demo(home, "stop")
    assert not (home.path / "demo").exists()


def test_ending_a_demo_that_is_not_there_says_so(home: Home) -> None:
    assert "nothing to stop" in demo(home, "stop")
