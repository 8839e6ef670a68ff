"""The call to the hub: which one, as whom, and what each answer means."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet import hubcall
from fleet.errors import FleetError, NoDaemon, NotAllowed, TimedOut, Usage
from tests.unit.cli_fixtures import place
from tests.unit.scripted_hub import TOKEN, ScriptedHub, event, response, scripted_hub, scripted_tcp_hub

__all__ = ["place"]

API = hubcall.API


@pytest.fixture
def hub(place: Path) -> Iterator[ScriptedHub]:
    with scripted_hub(place / "run" / "hub.sock", place / "state" / "hub" / "operator.token") as hub:
        yield hub


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLEET_HUB", "FLEET_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def token_file(folder: Path, token: str = "flt_mine") -> str:
    path = folder / "token"
    path.write_text(token)
    return str(path)


# -- where, and as whom --------------------------------------------------------------------------------------------


def test_the_fleets_own_hub_is_spoken_to_with_the_operators_token(hub: ScriptedHub) -> None:
    hub.will("GET", "info", {"seq": 1})
    assert hubcall.request(hubcall.door(), "GET", f"{API}/info").json() == {"seq": 1}
    assert hub.heard[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_an_agent_speaks_with_its_own_token_to_the_hub_it_is_told(hub: ScriptedHub, place: Path) -> None:
    environ = {"FLEET_HUB": str(place / "run" / "hub.sock"), "FLEET_TOKEN_FILE": token_file(place)}
    hub.will("GET", "info", {})
    hubcall.request(hubcall.door(environ=environ), "GET", f"{API}/info")
    assert hub.heard[0].headers["authorization"] == "Bearer flt_mine"


def test_another_machines_hub_is_spoken_to_by_tcp(place: Path) -> None:
    with scripted_tcp_hub() as (hub, port):
        hub.will("GET", "info", {"seq": 2})
        mine = token_file(place)
        for door in (
            hubcall.door("127.0.0.1", port, mine),
            hubcall.door(f"127.0.0.1:{port}", None, mine),
            hubcall.door(environ={"FLEET_HUB": f"http://127.0.0.1:{port}/", "FLEET_TOKEN_FILE": mine}),
        ):
            assert hubcall.request(door, "GET", f"{API}/info").json() == {"seq": 2}
            assert hub.heard[-1].headers["host"] == f"127.0.0.1:{port}"


def test_the_operators_token_is_given_to_no_other_hub(hub: ScriptedHub, place: Path) -> None:
    hub.will("GET", "info", {"url": "http://127.0.0.1:1"})
    with scripted_tcp_hub() as (other, port):
        with pytest.raises(Usage, match="wants a token"):
            hubcall.door("127.0.0.1", port)
        with pytest.raises(Usage, match="wants a token"):
            hubcall.door("lab7.example", 9560)
        with pytest.raises(Usage, match="not this fleet's own"):
            hubcall.door(environ={"FLEET_HOME": str(place), "FLEET_HUB": "/somewhere/else.sock"})
        assert other.heard == []


def test_an_agent_without_a_token_does_not_speak_as_the_operator(hub: ScriptedHub, place: Path) -> None:
    with pytest.raises(NotAllowed, match="takes no part"):
        hubcall.door(environ={"FLEET_HOME": str(place), "FLEET_GENERATION": "web.1.abc"})
    assert hub.heard == []


def test_on_the_fleets_own_port_the_operators_token_counts(hub: ScriptedHub) -> None:
    with scripted_tcp_hub() as (_, port):
        hub.will("GET", "info", {"url": f"http://127.0.0.1:{port}"})
        assert hubcall.door("127.0.0.1", port).token == TOKEN


@pytest.mark.parametrize(
    ("named", "host", "port", "tls"),
    [
        ("lab7:9560", "lab7", 9560, False),
        ("http://lab7:9560/", "lab7", 9560, False),
        ("https://hub.lab.org", "hub.lab.org", 443, True),
        ("[fd00::7]:9560", "fd00::7", 9560, False),
    ],
)
def test_a_host_may_be_written_in_any_usual_way(place: Path, named: str, host: str, port: int, tls: bool) -> None:
    door = hubcall.door(named, None, token_file(place))
    assert (door.host, door.port, door.tls) == (host, port, tls)


@pytest.mark.parametrize("named", ["lab7", "ftp://lab7:1", "lab7:port", "http://:9"])
def test_an_address_that_cannot_be_read_is_a_mistake(place: Path, named: str) -> None:
    with pytest.raises(Usage):
        hubcall.door(named, None, token_file(place))


@pytest.mark.parametrize("content", ["", "two words", "line\nline", "ü", "\x00"])
def test_a_file_that_holds_no_token_is_told_by_name(place: Path, content: str) -> None:
    with pytest.raises(NotAllowed, match="token"):
        hubcall.door(token_file=token_file(place, content))


def test_who_has_no_token_yet_sends_none(place: Path) -> None:
    with scripted_tcp_hub() as (hub, port):
        hub.will("POST", "invites/redeem", {"token": "flt_x"})
        hubcall.request(hubcall.door("127.0.0.1", port, stranger=True), "POST", hubcall.path("invites", "redeem"), {})
        assert "authorization" not in hub.heard[0].headers


# -- nobody there --------------------------------------------------------------------------------------------------


def test_without_a_daemon_that_is_what_is_said(place: Path) -> None:
    with pytest.raises(NoDaemon) as caught:
        hubcall.door()
    assert (caught.value.code, caught.value.exit_code) == ("no_daemon", 69)


def test_a_hub_that_is_being_opened_is_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubcall, "ASK_EVERY", 0.001)
    calls = iter([hubcall.Opening(), hubcall.Killed(), hubcall.WentAway(), NoDaemon(), "there"])
    told: list[str] = []

    def ask() -> str:
        found = next(calls)
        if isinstance(found, FleetError):
            raise found
        return str(found)

    assert hubcall.patiently(ask, waiting=lambda: told.append("waiting")) == "there"
    monkeypatch.setattr(hubcall, "SOON_BACK", 0.01)
    with pytest.raises(hubcall.Killed) as caught:
        hubcall.patiently(lambda: (_ for _ in ()).throw(hubcall.Killed()))
    assert (caught.value.code, caught.value.exit_code) == ("no_daemon", 69)


def test_a_daemon_that_was_killed_is_told_from_one_that_was_ended(place: Path) -> None:
    path = Path(hubcall.hub_socket())
    path.parent.mkdir()
    for error in (NoDaemon, hubcall.Killed):
        with pytest.raises(error) as caught:
            hubcall.request(hubcall.Door(path=str(path)), "GET", f"{API}/info")
        assert type(caught.value) is error
        with socket.socket(socket.AF_UNIX) as gone:
            if not path.exists():
                gone.bind(str(path))


def test_a_daemon_without_a_hub_is_told_apart(place: Path) -> None:
    token = Path(hubcall.operator_token())
    token.parent.mkdir(parents=True)
    token.write_text(TOKEN)
    control = place / "run" / "control.sock"
    control.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(control))
        daemon.listen()
        with pytest.raises(hubcall.NoHub, match="its hub does not answer") as caught:
            hubcall.request(hubcall.door(), "GET", f"{API}/info")
    assert caught.value.exit_code == 69


def test_a_hub_that_could_not_be_opened_is_told_at_once_with_why(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = Path(hubcall.operator_token())
    token.parent.mkdir(parents=True)
    token.write_text(TOKEN)
    control = place / "run" / "control.sock"
    control.parent.mkdir()
    told = json.dumps({"data": {"problems": ["There is no hub: hub.db is damaged."]}}).encode()
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(4096))
            connection.sendall(b"=0 %d 0.1.0\n%b\n" % (len(told), told))

    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(control))
        daemon.listen()
        answering = threading.Thread(target=serve, args=(daemon,))
        answering.start()
        with pytest.raises(hubcall.Broken, match="damaged"):
            hubcall.repeatable(hubcall.door(), "GET", f"{API}/info", stood=True)
        answering.join()
    assert json.loads(asked[0])["verb"] == "ping"


def test_nobody_at_a_port_is_told_with_its_address(place: Path) -> None:
    with scripted_tcp_hub() as (_, port):
        pass
    with pytest.raises(hubcall.NoHub, match=f"127.0.0.1:{port}"):
        hubcall.request(hubcall.door("127.0.0.1", port, token_file(place)), "GET", f"{API}/info")


def test_a_socket_of_another_kind_is_not_spoken_to(place: Path) -> None:
    path = Path(hubcall.hub_socket())
    path.parent.mkdir()
    path.write_text("")
    token = Path(hubcall.operator_token())
    token.parent.mkdir(parents=True)
    token.write_text(TOKEN)
    with pytest.raises(NotAllowed):
        hubcall.request(hubcall.door(), "GET", f"{API}/info")


def test_a_hub_that_does_not_answer_in_time_is_told(hub: ScriptedHub) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        door = hubcall.Door(host="127.0.0.1", port=silent.getsockname()[1])
        with pytest.raises(TimedOut):
            hubcall.request(door, "GET", f"{API}/info", timeout=0.05)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_an_answer_that_is_cut_off_is_no_answer(hub: ScriptedHub, raw: bytes) -> None:
    hub.will_send("GET", "info", raw)
    with pytest.raises(hubcall.WentAway):
        hubcall.request(hubcall.door(), "GET", f"{API}/info")


def test_what_speaks_no_http_is_no_hub(hub: ScriptedHub) -> None:
    hub.will_send("GET", "info", b"SSH-2.0-OpenSSH_9.2\r\n")
    with pytest.raises(FleetError, match="is no hub"):
        hubcall.request(hubcall.door(), "GET", f"{API}/info")


# -- answers -------------------------------------------------------------------------------------------------------


def test_an_answer_may_come_in_chunks_or_until_the_end(hub: ScriptedHub) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"
    for raw in (chunked, b"HTTP/1.1 200 OK\r\n\r\n[1,2]", response(b"[1,2]", 200, {})):
        hub.scripts.clear()
        hub.will_send("GET", "info", raw)
        assert hubcall.request(hubcall.door(), "GET", f"{API}/info").json() == [1, 2]


@pytest.mark.parametrize(
    ("status", "code", "facts", "exit_code"),
    [
        (400, "empty", {}, 2),
        (413, "too_large", {}, 2),
        (400, "unknown_type", {}, 2),
        (403, "not_allowed", {}, 1),
        (404, "unknown_recipient", {"nearest": ["web"]}, 3),
        (404, "unknown_message", {}, 3),
        (409, "hop_limit", {"hop": 8}, 1),
        (409, "only_thanks", {}, 1),
        (429, "rate_limited", {"retry_after": 0.5}, 4),
        (429, "mailbox_full", {}, 4),
        (408, "timed_out", {}, 4),
        (503, "not_stored", {}, 1),
        (500, "internal", {}, 1),
    ],
)
def test_each_refusal_ends_a_command_by_its_meaning(
    hub: ScriptedHub, status: int, code: str, facts: dict[str, Any], exit_code: int
) -> None:
    hub.will_refuse("POST", "messages", status, code, "Because.", **facts)
    with pytest.raises(hubcall.HubSaid) as caught:
        hubcall.request(hubcall.door(), "POST", f"{API}/messages", {})
    assert (caught.value.exit_code, caught.value.code, str(caught.value)) == (exit_code, code, "Because.")
    assert caught.value.to_json().items() >= {"code": code, "message": "Because.", **facts}.items()


@pytest.mark.parametrize(("status", "word"), [(401, "fleet tokens create"), (403, "role")])
def test_a_token_that_does_not_count_is_told_with_what_to_do(hub: ScriptedHub, status: int, word: str) -> None:
    hub.will_send("GET", "info", response(b"no", status, {}))
    with pytest.raises(hubcall.HubSaid) as caught:
        hubcall.request(hubcall.door(), "GET", f"{API}/info")
    assert word in str(caught.value.hint)
    assert TOKEN not in caught.value.with_hint()


@pytest.mark.parametrize(
    ("message", "advised"), [("The workspace main stays.", False), ("A token of role viewer may not do it.", True)]
)
def test_what_no_other_role_may_either_is_told_without_advice(hub: ScriptedHub, message: str, advised: bool) -> None:
    hub.will_refuse("GET", "info", 403, "not_allowed", message)
    with pytest.raises(hubcall.HubSaid, match=message) as caught:
        hubcall.request(hubcall.door(), "GET", f"{API}/info")
    assert (caught.value.hint is not None) is advised


def test_a_hub_of_another_version_is_told(hub: ScriptedHub) -> None:
    hub.will_send("GET", "info", response(b"404: Not Found", 404, {}))
    with pytest.raises(hubcall.HubSaid) as caught:
        hubcall.request(hubcall.door(), "GET", f"{API}/info")
    assert "same version" in str(caught.value.hint)


def test_a_refusal_before_the_end_of_a_long_text_is_heard(hub: ScriptedHub) -> None:
    """The hub may hang up on what is too large while it is still being sent."""
    ready = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            body = json.dumps({"error": {"code": "too_large", "message": "No."}}).encode()
            connection.sendall(response(body, 413, {}))
            ready.wait(10)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        door = hubcall.Door(host="127.0.0.1", port=listener.getsockname()[1])
        try:
            with pytest.raises(hubcall.HubSaid, match="No"):
                hubcall.request(door, "POST", f"{API}/messages", {"text": "x" * 100_000})
        finally:
            ready.set()
            thread.join()


def test_the_envelope_is_that_of_every_command(hub: ScriptedHub) -> None:
    text = hub.will("GET", "info", {"name": "ü"})
    envelope = hubcall.request(hubcall.door(), "GET", f"{API}/info").envelope()
    assert text in envelope
    told = json.loads(envelope)
    assert told["data"] == {"name": "ü"}
    assert (told["schema_version"], told["warnings"]) == (1, [])


def test_words_in_a_path_stay_words() -> None:
    assert hubcall.path("messages", "../tokens") == f"{API}/messages/..%2Ftokens"
    path = hubcall.path("search", q="a&b=c #ü", channel="#general", with_="web", waiting=True, before=None, more=False)
    assert path == f"{API}/search?q=a%26b%3Dc%20%23%C3%BC&channel=%23general&with=web&waiting=1"
    assert hubcall.path("events", stream=["#a", "#b"]) == f"{API}/events?stream=%23a&stream=%23b"
    assert hubcall.path("events", stream=[]) == f"{API}/events"


# -- again, files, streams -----------------------------------------------------------------------------------------


def test_what_may_be_repeated_is_asked_again_when_the_hub_is_back(
    hub: ScriptedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubcall, "ASK_EVERY", 0.001)
    told: list[str] = []
    hub.will_send("POST", "messages", b"")
    hub.will_refuse("POST", "messages", 503, "closing")
    hub.will("POST", "messages", {"id": "m-1"}, 201)
    said = hubcall.repeatable(
        hubcall.door(), "POST", f"{API}/messages", {"idempotency_key": "k"}, waiting=lambda: told.append("waiting")
    )
    assert said.json() == {"id": "m-1"}
    assert told == ["waiting"]
    assert [asked.json for asked in hub.heard] == [{"idempotency_key": "k"}] * 3


def test_a_refusal_is_not_asked_again(hub: ScriptedHub) -> None:
    hub.will_refuse("POST", "messages", 409, "only_thanks")
    with pytest.raises(hubcall.HubSaid):
        hubcall.repeatable(hubcall.door(), "POST", f"{API}/messages", {})
    assert len(hub.heard) == 1


def test_a_hub_that_was_never_there_is_not_waited_for(place: Path) -> None:
    with pytest.raises(NoDaemon):
        hubcall.repeatable(hubcall.Door(path=hubcall.hub_socket()), "GET", f"{API}/info")


@pytest.mark.parametrize("name", ["notes.txt", 'a "b".txt', "résumé.pdf", "100%.txt"])
def test_a_file_is_sent_whole_under_its_name(hub: ScriptedHub, name: str) -> None:
    content = bytes(range(256)) * 1000
    hub.will("POST", "files", {"sha256": "0"}, 201)
    hubcall.upload(hubcall.door(), io.BytesIO(content), name, len(content), timeout=10)
    asked = hub.asked("POST", "files")
    head, _, rest = asked.body.partition(b"\r\n\r\n")
    mark = asked.headers["content-type"].partition("boundary=")[2]
    assert rest == content + f"\r\n--{mark}--\r\n".encode()
    assert head.count(b"\r\n") == 2
    assert b"filename" in head


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(hub: ScriptedHub) -> None:
    with pytest.raises(FleetError, match="shorter"):
        hubcall.upload(hubcall.door(), io.BytesIO(b"short"), "f", 10, timeout=10)


def test_a_download_is_the_bytes_as_they_are(hub: ScriptedHub) -> None:
    content = bytes(range(256)) * 1000
    hub.will_send("GET", "files/abc", response(content, 200, {}))
    out = io.BytesIO()
    assert hubcall.download(hubcall.door(), hubcall.path("files", "abc"), out, timeout=10) == len(content)
    assert out.getvalue() == content


def test_a_stream_is_read_event_by_event(hub: ScriptedHub) -> None:
    first, second = event("message", {"text": "a\nb"}, 1), event("edit", {"text": "ü"}, 2)
    hub.will_stream("events", first, second)
    heard = list(hubcall.events(hubcall.door(), hubcall.path("events"), "e1:0"))
    assert [(place, kind) for place, kind, _ in heard] == [("e1:1", "message"), ("e1:2", "edit")]
    assert [json.loads(data) for _, _, data in heard] == [first, second]
    asked = hub.asked("GET", "events")
    assert (asked.headers["accept"], asked.headers["last-event-id"]) == ("text/event-stream", "e1:0")


def test_a_stream_that_breaks_off_has_not_ended(hub: ScriptedHub) -> None:
    hub.will_stream("events", event("message", {}, 1), end=False)
    heard = []
    with pytest.raises(hubcall.WentAway):
        for place, _, _ in hubcall.events(hubcall.door(), hubcall.path("events"), None):
            heard.append(place)
    assert heard == ["e1:1"]
