"""A manifest of the older format v2, with its siblings, starts as it is: the real program, its flags and its files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.conftest import Home, Stub
from tests.legacy import QUICKSTART

MCP = """\
{"mcpServers": {"notes": {"type": "stdio", "command": "~/bin/notes", "args": ["${metadata.name}"],
                          "env": {"NOTES_TOKEN": "${NOTES_TOKEN}"}}}}
"""


@pytest.mark.real
def test_the_quickstart_of_v2_starts_unchanged(fleet_home: Home, stub: Stub, claude_program: str) -> None:
    home = fleet_home
    home.seed_claude(stub.url)
    bin_ = home.path / "bin"
    bin_.mkdir()
    (bin_ / "claude").symlink_to(claude_program)
    (bin_ / "notes").write_text("#!/bin/sh\nexec sleep 600\n")
    (bin_ / "notes").chmod(0o755)
    home.env["PATH"] = f"{bin_}:{home.env['PATH']}"
    home.write("my-agent/my-agent.yaml", QUICKSTART)
    home.write("my-agent/src_CLAUDE.md", "You are ${metadata.name}.\n")
    home.write("my-agent/src_mcp.json", MCP)
    home.write("my-agent/src_env", "TOKEN=${NOTES_TOKEN}\n")

    done = home.fleet("start", "my-agent/my-agent.yaml", env={"NOTES_TOKEN": "it's $(id)"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scitex is required and is nowhere" in done.stdout + done.stderr

    agent = home.json("status", "my-agent")
    assert (agent["phase"], agent["labels"]["role"]) == ("running", "worker")
    argv = Path(f"/proc/{agent['pid']}/cmdline").read_bytes().split(b"\0")
    assert b"--dangerously-skip-permissions" in argv
    assert b"sonnet" in argv
    workspace = Path(f"/proc/{agent['pid']}/cwd").readlink()
    assert "You are my-agent.\n" in (workspace / "CLAUDE.md").read_text()
    assert "it's $(id)" in (workspace / ".mcp.json").read_text()
    assert stat.S_IMODE((workspace / ".env").stat().st_mode) == 0o600

    assert home.fleet("stop", "my-agent").returncode == 0
    again = home.fleet("start", "my-agent/my-agent.yaml", env={"NOTES_TOKEN": "another"})
    assert again.returncode == 0, again.stdout + again.stderr
    assert "another" in (workspace / ".env").read_text()
