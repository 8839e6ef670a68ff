"""The client keeps the daemon's word as it came, and says plainly where there is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fleet import __version__, client, places
from fleet.errors import FleetError, NoDaemon, NotAllowed, TimedOut
from fleet.settings import Places, Settings
from tests.unit.cli_fixtures import daemon, place
from tests.unit.scripted_daemon import ScriptedDaemon

__all__ = ["daemon", "place"]


def test_an_answer_is_passed_on_byte_for_byte(daemon: ScriptedDaemon) -> None:
    sent = daemon.will("list", {"agents": [{"name": "web", "question": "Überschreiben? ☃"}]}, exit_code=4)
    reply = client.request("list", {"capability": "python"})
    assert (reply.body, reply.exit_code) == (sent, 4)
    assert daemon.heard == [{"verb": "list", "args": {"capability": "python"}, "client": __version__}]


def test_progress_comes_before_the_answer_and_in_order(daemon: ScriptedDaemon) -> None:
    news = [{"agent": "web", "phase": "starting"}, {"agent": "web", "phase": "running"}]
    daemon.will("start", {}, progress=news)
    heard: list[dict[str, object]] = []
    reply = client.request("start", {}, on_progress=heard.append)
    assert heard == news
    assert reply.envelope()["data"] == {}


def test_an_error_of_the_daemon_keeps_its_code_hint_and_facts(daemon: ScriptedDaemon) -> None:
    daemon.will_refuse("inspect", "unknown_agent", "No agent is named 'wbe'.", exit_code=3, hint="Did you mean web?")
    with pytest.raises(client.DaemonSaid) as caught:
        client.request("inspect", {"target": "wbe"}).envelope()
    assert (caught.value.code, caught.value.exit_code) == ("unknown_agent", 3)
    assert caught.value.to_json()["hint"] == "Did you mean web?"


def test_without_a_daemon_it_says_so(place: Path) -> None:
    with pytest.raises(NoDaemon) as caught:
        client.request("ping", {})
    assert caught.value.exit_code == 69


def test_a_socket_that_nobody_listens_on_is_no_daemon(place: Path) -> None:
    path = Path(places.control_socket())
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(os.fspath(path))
    with pytest.raises(NoDaemon):
        client.request("ping", {})


@pytest.mark.parametrize("cut", [b"", b"=0 100\n{", b'{"agent": "web"', b"=0"])
def test_an_answer_that_breaks_off_is_a_daemon_that_went_away(daemon: ScriptedDaemon, cut: bytes) -> None:
    daemon.will_send("ping", cut)
    with pytest.raises(client.WentAway):
        client.request("ping", {})


@pytest.mark.parametrize("tongue", [b"=HTTP/1.1 200\n", b"HTTP/1.1 200\n", b"=\n", b"\xff\n"])
def test_an_answer_in_another_tongue_is_an_error_not_a_traceback(daemon: ScriptedDaemon, tongue: bytes) -> None:
    daemon.will_send("ping", tongue)
    with pytest.raises(FleetError, match="cannot be understood"):
        client.request("ping", {}, on_progress=print)


def test_a_daemon_that_is_silent_is_not_waited_for_longer_than_asked(place: Path) -> None:
    path = Path(places.control_socket())
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(os.fspath(path))
        silent.listen()
        with pytest.raises(TimedOut, match=r"`ping` within 0\.05 s"):
            client.request("ping", {}, timeout=0.05)


def test_another_users_socket_is_not_trusted_with_our_environment(
    daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    os.chown(places.control_socket(), uid or 1000, -1)
    with pytest.raises(NotAllowed, match="another user"):
        client.request("start", {"env": dict(os.environ)})
    assert daemon.heard == []


def test_a_daemon_of_another_version_is_told(daemon: ScriptedDaemon) -> None:
    daemon.will("ping", {}, version="0.0.1")
    assert "the daemon is 0.0.1" in str(client.request("ping", {}).skew)


@pytest.mark.parametrize("version", [__version__, None])
def test_a_daemon_of_the_same_version_is_nothing_to_speak_of(daemon: ScriptedDaemon, version: str | None) -> None:
    daemon.will("ping", {}, version=version)
    assert client.request("ping", {}).skew is None


def test_the_light_places_and_the_settings_are_the_same_places(place: Path) -> None:
    assert places.control_socket() == str(Places.of().control)
    assert Settings().request_timeout == places.REQUEST_TIMEOUT


@pytest.mark.parametrize("deep", [{"FLEET_HOME": "/x" * 60}, {"FLEET_HOME": "/x" * 60, "XDG_RUNTIME_DIR": "/r" * 60}])
def test_a_deep_home_still_has_a_socket_that_can_be_bound(deep: dict[str, str]) -> None:
    path = places.control_socket({"HOME": "/h", **deep})
    assert len(path) <= places.SOCKET_PATH_LIMIT
    assert path != places.control_socket({"HOME": "/h", "FLEET_HOME": "/y" * 60})


def test_a_read_loads_neither_click_nor_anything_that_is_not_pythons_own() -> None:
    code = (
        "import sys; import fleet.cli, fleet.cli.reads\n"
        "print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names) - {'__main__'})\n"
        "print(*{'dataclasses', 'pathlib', 'asyncio', 'subprocess', 'argparse'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(client.__file__).parent.parent)},
    )
    assert ran.stdout == "fleet\n\n"
