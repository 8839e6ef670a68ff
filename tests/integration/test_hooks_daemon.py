"""Hooks and the real daemon: a thousand events from fifty programs, while it is killed again and again."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.homes import Home
from tests.integration.test_hooks_spool import DEADLINE, EVENTS, WRITERS, payload, write_all

pytestmark = pytest.mark.real

AGENT = """\
apiVersion: fleet/v1
kind: Agent
metadata: {name: web}
spec: {harness: shell, command: [sh, -c, "while :; do sleep 60; done"]}
"""


def daemon(home: Home) -> int:
    """The daemon's pid, once it answers."""
    deadline = time.monotonic() + DEADLINE
    while True:
        asked = home.fleet("status", "--json")
        if asked.returncode == 0:
            pid: int = json.loads(asked.stdout)["data"]["daemon"]["pid"]
            return pid
        assert time.monotonic() < deadline, asked.stderr
        time.sleep(0.1)


def test_nothing_is_lost_torn_or_doubled_while_the_daemon_is_killed_again_and_again(fleet_home: Home) -> None:
    home = fleet_home
    home.write("web.yaml", AGENT)
    started = home.fleet("start", "web.yaml")
    assert started.returncode == 0, started.stderr
    spool = home.path / "fleet" / "state" / "spool" / "web"
    killed = set()
    with ThreadPoolExecutor(1) as beside:
        writing = beside.submit(write_all, spool)
        while not writing.done() or len(killed) < 2:
            pid = daemon(home)
            if not list(spool.iterdir()) and writing.done():
                break
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        writing.result()
    assert killed
    deadline = time.monotonic() + DEADLINE
    daemon(home)
    while list(spool.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    told: dict[int, list[int]] = {}
    for event in home.json("events", "--agent", "web", "--type", "hook")["events"]:
        found = event["payload"]
        assert found == payload(found["writer"], found["number"])
        told.setdefault(event["pid"], []).append(found["number"])
    assert told == {1000 + writer: list(range(EVENTS)) for writer in range(WRITERS)}
