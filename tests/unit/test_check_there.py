"""What `fleet check` makes of an ssh host: the question itself, asked of this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fleet.cli.check_there import SCRIPT, TOOLS, Told, findings
from fleet.hosts import config_files
from fleet.manifests.model import AgentSpec, Remote
from fleet.runtimes.ssh_hosts import Way
from fleet.settings import Settings


@pytest.fixture
def bin_(tmp_path: Path) -> Path:
    """All that fleet's own sh needs there, but tmux and python3."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(str(shutil.which(tool)))
    return folder


def told(bin_: Path, program: str, **fields: Any) -> dict[str, Told]:
    spec = AgentSpec(name="web", remote=Remote(host="gpu1"), **fields)
    venvs = (spec.venv,) if isinstance(spec.venv, str) else spec.venv or ()
    argv = ["/bin/sh", "-c", SCRIPT, "sh", " ".join(TOOLS), program, spec.workdir or "", "", "1", *venvs]
    env = {"PATH": str(bin_), "HOME": str(bin_.parent)}
    out = subprocess.run(argv, env=env, capture_output=True, text=True, check=False).stdout
    said: dict[str, list[str]] = {}
    for line in out.splitlines():
        key, _, value = line.partition("\t")
        said.setdefault(key, []).append(value)
    return {one.name: one for one in findings(spec, Way("gpu1"), program, said)}


def test_a_config_of_ones_own_is_found_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_files(Settings(ssh_config="~/lab.conf")) == [f"{tmp_path}/lab.conf"]
    assert config_files(Settings()) == []


def test_what_is_missing_is_named_with_the_way_to_get_it(bin_: Path) -> None:
    found = told(bin_, "claude", workdir="~/proj", venv=("~/env", "other"))
    assert {name: one.status for name, one in found.items()} == {
        "host": "ok", "multiplexer": "fail", "program": "fail", "workdir": "fail", "venv": "fail", "mcp": "warn",
    }  # fmt: skip
    assert found["multiplexer"].remedy == "ssh gpu1 sudo apt-get install tmux"
    assert found["venv"].remedy == "ssh gpu1 python3 -m venv ~/env"
    assert f"{bin_.parent}/proj" in found["workdir"].message and str(bin_) in found["program"].message


def test_a_headless_agent_needs_no_tmux_there_and_is_told_what_keeps_its_time_limit(bin_: Path) -> None:
    found = told(bin_, "sh", harness="shell", command=("sh",), mode="headless")
    assert "multiplexer" not in found and found["headless"].status == "warn"
    (bin_ / "timeout").symlink_to("/bin/sh")
    assert "headless" not in told(bin_, "sh", harness="shell", command=("sh",), mode="headless")


def test_what_is_there_is_told_with_its_place(bin_: Path) -> None:
    for name, text in (("tmux", "echo tmux 3.4"), ("claude", ""), ("python3", "")):
        (bin_ / name).write_text(f"#!/bin/sh\n{text}\n")
        (bin_ / name).chmod(0o755)
    python = bin_.parent / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/bin/sh")
    found = told(bin_, "claude", workdir="~", venv=("none", "env"))
    assert {one.status for one in found.values()} == {"ok"}
    assert found["multiplexer"].message == "tmux 3.4 on gpu1" and found["program"].message.startswith(str(bin_))
    assert found["venv"].message == f"{bin_.parent}/env on gpu1"


def test_a_tool_that_is_missing_is_named(bin_: Path) -> None:
    (bin_ / "tar").unlink()
    assert "tar not found on gpu1" in told(bin_, "claude")["host"].message
