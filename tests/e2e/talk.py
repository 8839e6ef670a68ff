"""A fleet whose scripted agents talk, and callers that come in by the hub's public doors: a real daemon all along."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.e2e.fleets import Fleet, until
from tests.homes import Home, end_all, wait_gone

TURN = """\
# One turn: its beginning, what it was given, what it is to do, and its end stand in the agent's own notes.
gate() { while [ ! -e "$1" ]; do sleep 0.05; done; }
first() { ! [ -e "$FLEET_AGENT.$1" ] && : > "$FLEET_AGENT.$1"; }
cat > "$FLEET_AGENT.$FLEET_MESSAGE_ID.in"
echo "begin $FLEET_MESSAGE_ID" >> "$FLEET_AGENT.turns"
. "./$FLEET_AGENT.sh"
echo "end $FLEET_MESSAGE_ID" >> "$FLEET_AGENT.turns"
"""

MODEL = """\
# A model's program as far as the fleet sees it: it takes what it is given, and has the same answer to everything.
if [ "$1" = --version ]; then echo "2.1.329 (Claude Code)"; exit; fi
cat > "$FLEET_AGENT.$FLEET_MESSAGE_ID.in"
echo "begin $FLEET_MESSAGE_ID" >> "$FLEET_AGENT.turns"
echo '{"type": "result", "subtype": "success", "is_error": false, "result": "The port is 8080.", "session_id": "s"}'
echo "end $FLEET_MESSAGE_ID" >> "$FLEET_AGENT.turns"
"""

SETTINGS: Mapping[str, Any] = {
    "shell_started": 0.1,
    "hub_max_hops": 16,
    "hub_pair": 500,
    "hub_conversation": 500,
    "hub_conversation_total": 5000,
    "hub_sender_rate": 5000.0,
    "hub_sender_burst": 20_000,
}
"""Nobody is told to slow down, and sixteen hops are allowed, unless a test says otherwise."""


@dataclass(frozen=True)
class Answer:
    """What a door said."""

    status: int
    body: Any

    @property
    def code(self) -> str | None:
        """Of its error."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return None if error is None else str(error["code"])


class Caller:
    """Somebody with a token, or with none, who speaks HTTP."""

    def __init__(self, port: int, token: str | None) -> None:
        self.port, self.token = port, token

    def call(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **query: Any) -> Answer:
        """One request to /api/v1; `raw`: these bytes instead of JSON."""
        headers = {"Content-Type": "application/json"} if body is not None or raw is not None else {}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        given = urlencode({key: value for key, value in query.items() if value is not None})
        target = f"/api/v1/{path}" + (f"?{given}" if given else "")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=150)
        try:
            connection.request(method, target, raw if raw is not None else _json(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return Answer(answer.status, json.loads(text) if text else None)

    def done(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One that has to succeed: what came."""
        answer = self.call(method, path, body, **query)
        assert answer.status < 300, (method, path, body, answer)
        return answer.body

    def try_send(self, to: str | Sequence[str] | None, text: str, **more: Any) -> Answer:
        """A message that may be refused."""
        return self.call("POST", "messages", {"to": to, "text": text, **more})

    def send(self, to: str | Sequence[str] | None, text: str, **more: Any) -> dict[str, Any]:
        """A message: its receipt."""
        answer = self.try_send(to, text, **more)
        assert answer.status in (200, 201), answer
        return dict(answer.body)

    def ask(self, to: str, text: str, timeout: float = 100.0, **more: Any) -> dict[str, Any]:
        """A question, and its one end."""
        return dict(self.done("POST", "asks", {"to": to, "text": text, "timeout": timeout, **more}))

    def message(self, id: str) -> dict[str, Any]:
        """A message as it stands, with its recipients."""
        return dict(self.done("GET", f"messages/{id}"))

    def stands(self, id: str, name: str) -> tuple[str, str | None]:
        """How a message stands with one of its recipients, and why."""
        (found,) = [r for r in self.message(id)["recipients"] if r["name"] == name]
        return found["state"], found.get("reason")

    def read(self, **which: Any) -> list[dict[str, Any]]:
        return list(self.done("GET", "messages", **which)["messages"])

    def texts(self, **which: Any) -> list[str]:
        return [m["text"] for m in self.read(**which)]

    def thread(self, id: str) -> list[dict[str, Any]]:
        """What was said in a conversation."""
        return list(self.done("GET", f"threads/{id}")["messages"])

    def act(self, thread: str, verb: str) -> Any:
        return self.done("POST", f"threads/{thread}/{verb}", {})

    def inbox(self, name: str, **which: Any) -> list[dict[str, Any]]:
        return list(self.done("GET", f"inbox/{name}", **which)["messages"])

    def audit(self) -> list[dict[str, Any]]:
        return self.pages("audit")

    def events(self, after: str | None = None) -> list[dict[str, Any]]:
        return self.pages("events", after)

    def pages(self, what: str, after: str | None = None) -> list[dict[str, Any]]:
        """All of it, page for page."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.done("GET", what, after=after or f"{self.info()['epoch']}:0", limit=200)
            found += page["events"]
            after = page["position"]
            if not page["more"]:
                return found

    def position(self) -> str:
        """Where the log stands."""
        info = self.info()
        return f"{info['epoch']}:{info['seq']}"

    def info(self) -> dict[str, Any]:
        return dict(self.done("GET", "info"))


def _json(body: Any) -> bytes | None:
    return None if body is None else json.dumps(body).encode()


class Talk(Fleet):
    """One fleet, its scripted agents and its callers."""

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        self._callers: dict[tuple[str, str], Caller] = {}

    def configure(self, **settings: Any) -> None:
        """Before the daemon starts."""
        folder = self.home.path / "fleet"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, **settings}))

    @property
    def port(self) -> int:
        port: str = self.json("hub", "info")["url"].rpartition(":")[2]
        return int(port)

    @property
    def operator(self) -> Caller:
        """The person at the command line."""
        if ("admin", "operator") not in self._callers:
            token = (self.home.path / "fleet" / "state" / "hub" / "operator.token").read_text().strip()
            self._callers["admin", "operator"] = Caller(self.port, token)
        return self._callers["admin", "operator"]

    def caller(self, name: str, role: str = "agent", **more: Any) -> Caller:
        """Somebody of that name, with a token of that role."""
        if (role, name) not in self._callers:
            made = self.operator.done("POST", "tokens", {"role": role, "name": name, **more})
            self._callers[role, name] = Caller(self.operator.port, made["token"])
        return self._callers[role, name]

    def find_port(self) -> None:
        """The hub may have another port now: whoever calls looks for it anew."""
        port = self.port
        for caller in self._callers.values():
            caller.port = port

    def cast(self, scripts: Mapping[str, str], **spec: Any) -> None:
        """Start headless agents: their names, and what each does in a turn. What a turn prints is its answer."""
        self.home.write("turn.sh", TURN)
        paths = [self._headless(name, script, **spec) for name, script in scripts.items()]
        self.run("start", *paths)
        self._online(scripts)

    def models(self, *names: str, **spec: Any) -> None:
        """Start headless agents whose program is a model's: they are given messages as a model is."""
        self.home.write("model.sh", MODEL)
        wanted = {"harness": "claude-code", "mode": "headless", "command": ["sh", "model.sh"]}
        wanted |= {"workdir": str(self.home.work), "auto_accept": ["trust-folder"]}
        self.run("start", *(self.manifest(name, **wanted | spec) for name in names))
        self._online(names)

    def _headless(self, name: str, script: str, **spec: Any) -> str:
        self.home.write(f"{name}.sh", script)
        wanted = {"harness": "shell", "mode": "headless", "command": ["sh", "turn.sh"], "workdir": str(self.home.work)}
        wanted |= {"hub": {"hop_limit": 64}, "headless": {"max_parallel": 8, "timeout": 60}}
        return self.manifest(name, **wanted | spec)

    def _online(self, names: Iterable[str]) -> None:
        """Wait until the hub knows them, and that they are there."""

        def known() -> bool:
            members = self.members()
            return all(members.get(name, {}).get("presence") == "online" for name in names)

        until(known, f"{names} are members, and online\n{self.log()}")

    def members(self) -> dict[str, dict[str, Any]]:
        return {m["name"]: m for m in self.operator.done("GET", "members")["members"]}

    # -- what an agent has noted of itself -------------------------------------------------------------------------

    def notes(self, name: str, what: str) -> list[str]:
        """The messages whose turns have come to their `begin` or `end`, in that order."""
        path = self.home.work / f"{name}.turns"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(what)]

    def turns(self, name: str) -> list[str]:
        return self.notes(name, "begin")

    def given(self, name: str, message: str) -> str:
        """What a turn was given."""
        return (self.home.work / f"{name}.{message}.in").read_text()

    def open_gate(self, name: str) -> None:
        """Let turns that wait at it go on."""
        self.home.write(name, "")

    # -- waiting ---------------------------------------------------------------------------------------------------

    def settled(self, id: str, name: str) -> str:
        """Wait until it is decided what becomes of a message there: its state."""
        return str(until(lambda: self._decided(id, name), f"{id} is settled at {name}\n{self.log()}"))

    def _decided(self, id: str, name: str) -> str | None:
        state, _ = self.operator.stands(id, name)
        return state if state not in ("accepted", "queued", "injecting") else None

    def held(self, id: str, name: str, reason: str) -> None:
        """Wait until it waits there, for that reason."""
        until(lambda: self.operator.stands(id, name) == ("queued", reason), f"{id} waits at {name}: {reason}")

    def quiet(self) -> None:
        """Wait until nothing is on its way to anybody."""
        until(lambda: not self._moving(), f"nothing moves\n{self.log()}")

    def _moving(self) -> list[str]:
        return [name for name, member in self.members().items() if member["supervised"] and self._awaits(name)]

    def _awaits(self, name: str) -> bool:
        mail = self.operator.inbox(name, waiting="1")
        return any(self.operator.stands(m["id"], name)[0] in ("accepted", "injecting") for m in mail)


def spoken(events: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    """The events of a kind."""
    return [event for event in events if event["kind"] == kind]


@contextmanager
def talking(**settings: Any) -> Iterator[Talk]:
    """A fleet of its own, with these settings; gone afterwards, with all that it started."""
    home = Home.new()
    talk = Talk(home)
    talk.configure(**settings)
    try:
        yield talk
    finally:
        home.fleet("shutdown")
        said = end_all(wait_gone(home.path))
        shutil.rmtree(home.path, ignore_errors=True)
        assert not said, "left behind:\n  " + "\n  ".join(said)
