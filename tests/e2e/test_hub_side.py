"""The hub beside the supervisor, in the installed fleet: it fails alone, comes back by itself, knows each launch."""

from __future__ import annotations

import json
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleets import Fleet, kill, until
from tests.homes import Home

pytestmark = pytest.mark.real

FOREVER = "while :; do sleep 1; done"


@pytest.fixture
def fleet(fleet_home: Home) -> Iterator[Fleet]:
    yield Fleet(fleet_home)


def folder(fleet: Fleet) -> Path:
    return fleet.home.path / "fleet"


def ask(path: Path, token: str, request: str, body: Any = None) -> tuple[int, Any]:
    """One request over the hub's socket: its status and value."""
    sent = b"" if body is None else json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(60)
        plain.connect(str(path))
        plain.sendall(
            f"{request} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n".encode()
            + sent
        )
        got = b""
        while piece := plain.recv(65536):
            got += piece
    head, _, rest = got.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(rest)


def hub_socket(fleet: Fleet) -> Path:
    return folder(fleet) / "run" / "hub.sock"


def operator_token(fleet: Fleet) -> str:
    path = folder(fleet) / "state" / "hub" / "operator.token"
    until(path.exists, f"there is an operator's token\n{fleet.log()}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text().strip()


def launch_token(fleet: Fleet, name: str) -> str:
    """That of the agent's present launch."""
    [path] = (folder(fleet) / "state" / "agents" / name / "launch").glob(f"{generation(fleet, name)}/token")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text().strip()


def generation(fleet: Fleet, name: str) -> str:
    launches = (folder(fleet) / "state" / "agents" / name / "launch").iterdir()
    return max(launches, key=lambda path: int(path.name.split(".")[1])).name


def test_a_hub_that_cannot_be_opened_takes_no_agent_down_is_told_and_comes_by_itself(fleet: Fleet) -> None:
    state = folder(fleet) / "state"
    state.mkdir(parents=True, mode=0o700)
    (state / "hub").write_text("something else stands here\n")
    fleet.run("start", fleet.shell("web", FOREVER))
    assert fleet.json("status", "web")["phase"] == "running"
    doctor = json.loads(fleet.home.fleet("doctor", "--json").stdout)["data"]["checks"]
    hub = [check for check in doctor if check["name"] == "hub"]
    assert [check["status"] for check in hub] == ["warn"]
    assert "hub" in hub[0]["message"]
    (state / "hub").unlink()
    until(hub_socket(fleet).exists, f"the hub listens\n{fleet.log()}")
    token = operator_token(fleet)
    until(
        lambda: "web" in [m["name"] for m in ask(hub_socket(fleet), token, "GET /api/v1/members")[1]["members"]],
        f"the agent is a member\n{fleet.log()}",
    )


def test_each_launch_has_a_token_of_its_own_and_those_before_are_nobodys(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    path = hub_socket(fleet)
    first = launch_token(fleet, "web")
    assert ask(path, first, "POST /api/v1/messages", {"to": "#general", "text": "from my pane"})[0] == 201
    status, told = ask(path, first, "POST /api/v1/tokens", {"role": "admin", "name": "web"})
    assert (status, told["error"]["code"]) == (403, "not_allowed")
    said = ask(path, operator_token(fleet), "GET /api/v1/messages?channel=%23general")[1]["messages"]
    assert [(one["sender"], one["text"]) for one in said] == [("web", "from my pane")]
    fleet.run("restart", "web")
    second = launch_token(fleet, "web")
    assert second != first
    assert ask(path, first, "GET /api/v1/members")[0] == 401
    assert ask(path, second, "GET /api/v1/members")[0] == 200
    fleet.run("stop", "web")
    until(lambda: ask(path, second, "GET /api/v1/members")[0] == 401, "the token of a launch ends with it")
    fleet.run("start", "web")
    assert ask(path, launch_token(fleet, "web"), "GET /api/v1/members")[0] == 200
    environment = fleet.home.fleet("logs", "web").stdout
    assert first not in environment and second not in environment


def test_the_person_at_the_command_line_is_never_locked_out(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    assert fleet.json("remove", "operator", code=1)["code"] == "not_allowed"
    before = operator_token(fleet)
    (mine,) = [t for t in fleet.json("tokens", "list")["tokens"] if (t["name"], t["role"]) == ("operator", "admin")]
    fleet.run("tokens", "revoke", mine["id"])
    until(lambda: fleet.home.fleet("members").returncode == 0, "the person has another token")
    assert operator_token(fleet) != before


def test_after_a_kill_of_the_daemon_the_hub_is_where_it_was_with_all_that_was_accepted(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    path, token = hub_socket(fleet), operator_token(fleet)
    before = ask(path, token, "GET /api/v1/info")[1]
    accepted = [
        ask(path, token, "POST /api/v1/messages", {"to": "#general", "text": str(n), "idempotency_key": f"k{n}"})[1]
        for n in range(20)
    ]
    kill(fleet.json("daemon", "status")["pid"], signal.SIGKILL)

    def answers() -> Any:
        try:
            return ask(path, token, "GET /api/v1/info")[1]
        except (OSError, IndexError, ValueError):
            time.sleep(0.05)
            return None

    after = until(answers, f"the hub answers again\n{fleet.log()}")
    for name in ("url", "socket", "epoch", "orochi_ws", "orochi_http"):
        assert after[name] == before[name], name
    assert after["seq"] >= accepted[-1]["seq"]
    again = ask(path, token, "POST /api/v1/messages", {"to": "#general", "text": "3", "idempotency_key": "k3"})
    assert (again[0], again[1]["id"], again[1]["duplicate"]) == (200, accepted[3]["id"], True)
    said = ask(path, token, "GET /api/v1/messages?channel=%23general")[1]["messages"]
    assert [one["id"] for one in said] == [one["id"] for one in accepted]
