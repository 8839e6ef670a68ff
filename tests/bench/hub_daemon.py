"""The hub in a real daemon: what it costs at rest, what a question to a headless agent takes, and a death."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path

import psutil

import fleet as library
from tests.bench.hub_doors import Fleet
from tests.bench.measure import until
from tests.bench.ours import OurFleet

RAISED = {
    "hub_sender_rate": 1e6, "hub_sender_burst": 10**6, "hub_pair": 10**6, "hub_conversation": 10**6,
    "hub_conversation_total": 10**7, "hub_connections": 10_000,
}  # fmt: skip
"""Limits that nobody reaches, evaluated all the same."""


def info(fleet: OurFleet) -> dict[str, str]:
    """Where the daemon's hub is, once it is there."""
    until(lambda: fleet.fleet("hub", "info", "--json").returncode == 0, within=60)
    found: dict[str, str] = json.loads(fleet.must("hub", "info", "--json"))["data"]
    return found


def operator(fleet: OurFleet) -> str:
    return (fleet.path / "fleet" / "state" / "hub" / "operator.token").read_text().strip()


class Supervised(Fleet):
    """The daemon's own hub, and its agents' tokens."""

    name = "daemon"

    def start(self) -> psutil.Process:
        self.fleet = OurFleet(**RAISED)
        self.fleet.must("start", str(self.fleet.manifests(["steady"], self.fleet.trivial)))
        url = info(self.fleet)["url"]
        self.port = int(url.rpartition(":")[2])
        token = operator(self.fleet)
        with library.SyncClient(url, token=token) as client:
            made = [client.create_token("agent", f"a{number}").token for number in range(self.subscribers)]
        self.tokens = [token, *made]
        return self.fleet.daemon

    def close(self) -> None:
        for connection in self.connections:
            connection.socket.close()
        self.fleet.__exit__()


def asks(count: int) -> list[float]:
    """Seconds of one question after the other to a headless agent whose program repeats what it is given."""
    took = []
    with OurFleet(**RAISED) as fleet:
        fleet.must("start", str(fleet.manifests(["clerk"], Path("/bin/cat"), mode="headless")))
        with library.SyncClient(info(fleet)["url"], token=operator(fleet)) as client:
            for number in range(count + 3):
                began = time.perf_counter()
                answer = client.ask("clerk", f"question {number}", timeout=60)
                took.append(time.perf_counter() - began)
                if answer.text != f"question {number}":
                    raise RuntimeError(f"{answer}")
    return took[3:]  # the first few find nothing in memory


def comebacks(kills: int, agents: int = 1) -> list[float]:
    """Seconds from `kill -9` of the daemon to the first message that its successor has accepted, so many times."""
    took = []
    with OurFleet(**RAISED) as fleet:
        names = [f"steady-{number}" for number in range(agents)]
        fleet.must("start", str(fleet.manifests(names, fleet.trivial)))
        hub, token = info(fleet)["socket"], operator(fleet)
        for _ in range(kills):
            until(lambda: accepts(hub, token), within=60)
            until(lambda: all(agent["phase"] == "running" for agent in fleet.agents()), within=60)
            daemon = fleet.daemon
            daemon.send_signal(signal.SIGKILL)
            began = time.monotonic()
            daemon.wait(10)
            until(lambda: accepts(hub, token), within=60)
            took.append(time.monotonic() - began)
            until(fleet.answers, within=60)
    return took


def accepts(hub: str, token: str) -> bool:
    """Whether a message is accepted now."""
    body = json.dumps({"to": "#general", "text": "Is anybody there?"}).encode()
    head = (
        f"POST /api/v1/messages HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(hub)
            connection.sendall(head.encode() + body)
            return connection.recv(4096).startswith(b"HTTP/1.1 201")
    except OSError:
        return False
