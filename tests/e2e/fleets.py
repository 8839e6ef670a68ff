"""A fleet that a test runs: manifests, waiting for what must happen, and the pane seen and used as a person would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.homes import Home, Stub

DEADLINE = 180.0
"""Seconds for what must happen: generous, since the machine may be busy; a whole test has 300."""
DRAWN = "Esc to cancel"
"""The last line of every dialog of Claude Code: it is drawn."""
DROPPED = 10.0
"""Seconds after which a dialog that stands as it stood is taken to have dropped a key, not to be slow over it."""


def until(what: Callable[[], Any], why: str, deadline: float = DEADLINE) -> Any:
    """Wait until it gives something true, and return that. What is long in telling is not asked all the time."""
    end = time.monotonic() + deadline
    while (asked := time.monotonic()) < end:
        if found := what():
            return found
        time.sleep(min(1.0, max(0.05, time.monotonic() - asked)))
    raise AssertionError(f"not within {deadline:g} s: {why}")


class Fleet:
    """One fleet in a home of its own."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def manifest(self, name: str, **spec: Any) -> str:
        """Write NAME.yaml; `labels` go to the metadata. The path."""
        metadata = {"name": name} | ({"labels": spec.pop("labels")} if "labels" in spec else {})
        text = yaml.safe_dump({"apiVersion": "fleet/v1", "kind": "Agent", "metadata": metadata, "spec": spec})
        return str(self.home.write(f"{name}.yaml", text))

    def shell(self, name: str, script: str, **spec: Any) -> str:
        """The manifest of an agent that runs a line of sh."""
        return self.manifest(name, harness="shell", command=["sh", "-c", script], **spec)

    def run(self, *words: str, code: int = 0, **options: Any) -> str:
        """`fleet WORDS…`, which has to end with `code`: what it printed."""
        done = self.home.fleet(*words, **options)
        said = f"fleet {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, f"{said}\n{self.home.account()}"
        return done.stdout

    def json(self, *words: str, code: int = 0, **options: Any) -> Any:
        """The same with --json: the `data`, or the `error`."""
        answer = json.loads(self.run(*words, "--json", code=code, **options))
        return answer.get("data", answer.get("error"))

    def json_warnings(self, *words: str) -> list[str]:
        """The warnings of such an answer."""
        found: list[str] = json.loads(self.run(*words, "--json"))["warnings"]
        return found

    def status(self, name: str) -> dict[str, Any]:
        """Everything about one agent, as `fleet status NAME --json` has it."""
        found: dict[str, Any] = self.asks("inspect", target=name)
        return found

    def all(self) -> dict[str, dict[str, Any]]:
        return {a["name"]: a for a in self.asks("status")["agents"]}

    def asks(self, verb: str, **args: Any) -> Any:
        """What the daemon answers to one of its verbs."""
        try:
            return self.home.ask(verb, **args)
        except (OSError, StopIteration) as error:
            raise AssertionError(f"the daemon does not answer {verb} {args}: {error!r}\n{self.log()}") from error

    def wait(self, name: str, deadline: float = DEADLINE, **wanted: Any) -> dict[str, Any]:
        """Wait until the agent's status has these values."""
        seen: dict[str, Any] = {}

        def there() -> dict[str, Any] | None:
            nonlocal seen
            seen = self.status(name)
            return seen if all(seen.get(key) == value for key, value in wanted.items()) else None

        try:
            found: dict[str, Any] = until(there, "", deadline)
        except AssertionError:
            keys = ("phase", "activity", "kind", "reason", "message", "pid", "restarts", "session_id", *wanted)
            brief = {key: seen.get(key) for key in keys}
            raise AssertionError(f"{name} never was {wanted}: {brief}\n{self.home.account()}") from None
        return found

    def log(self) -> str:
        """The end of the daemon's log."""
        return self.home.log()

    # -- the pane, as a person has it -------------------------------------------------------------------------------

    def tmux(self, name: str, *words: str) -> str:
        """A tmux command on the agent's pane, by what `status` says of it."""
        pane = self.status(name)["pane"]
        argv = ["tmux", "-S", pane["socket"], words[0], "-t", pane["target"], *words[1:]]
        return subprocess.run(argv, capture_output=True, text=True, check=True, env=self.home.env).stdout

    def type(self, name: str, text: str) -> None:
        """Type a line and submit it."""
        self.tmux(name, "send-keys", "-l", text)
        time.sleep(0.2)
        self.tmux(name, "send-keys", "Enter")

    def screen(self, name: str) -> str:
        return self.tmux(name, "capture-pane", "-p")

    # -- breaking things -------------------------------------------------------------------------------------------

    def daemon_pid(self) -> int:
        pid: int = self.asks("ping")["pid"]
        return pid

    def keeper_pid(self) -> int | None:
        parent = psutil.Process(self.daemon_pid()).parent()
        return parent.pid if parent and "fleet.keeper" in parent.cmdline() else None

    def answers_again(self) -> None:
        """Wait until a daemon answers."""
        until(lambda: self.home.fleet("status", "--json").returncode == 0, f"a daemon answers\n{self.log()}")

    def launch_folder(self, name: str) -> Path:
        launches = self.home.path / "fleet" / "state" / "agents" / name / "launch"
        return launches / str(self.status(name)["generation"])

    def launcher_pid(self, name: str) -> int:
        return int((self.launch_folder(name) / "launcher").read_text().split()[0])


class Claude(Fleet):
    """A fleet whose agents are the real Claude Code, and the model server they talk to."""

    def __init__(self, home: Home, program: str, stub: Stub) -> None:
        super().__init__(home)
        self.program, self.stub = program, stub

    def claude(self, name: str, *, trusted: bool = True, **spec: Any) -> str:
        """The manifest of such an agent, which asks before it acts; a folder that it names may be trusted."""
        consent = {"auto_accept": ["trust-folder"]} if trusted else {}
        wanted = {"harness": "claude-code", "command": [self.program], "permission_mode": "default"}
        return self.manifest(name, **(wanted | consent | spec))

    def ready(self, name: str, **spec: Any) -> dict[str, Any]:
        """Start one and wait until it can be talked to: its status."""
        self.run("start", self.claude(name, **spec))
        return self.wait(name, phase="running", activity="ready")

    def type(self, name: str, text: str) -> None:
        """Type a line, see it stand there, submit it, and see it taken."""
        end = "".join(text.split())[-20:]

        def stands() -> bool:
            return end in "".join(self.screen(name).rpartition("❯")[2].split())

        self.tmux(name, "send-keys", "-l", text)
        until(stands, f"{text!r} stands in the composer")
        time.sleep(0.2)
        self.tmux(name, "send-keys", "Enter")
        until(lambda: not stands(), f"{text!r} is taken")

    def press(self, name: str, key: str) -> None:
        """A key, as a person presses it who has read what is there."""
        time.sleep(0.5)
        self.tmux(name, "send-keys", key)

    def decide(self, name: str, key: str, shows: str | None = None) -> None:
        """Press a key in the dialog that is open, until that is gone or, given it, `shows` stands there. A dialog just
        drawn drops keys."""
        until(lambda: DRAWN in self.screen(name), "the dialog is drawn")

        def done() -> bool:
            screen = self.screen(name)
            return shows in screen if shows else DRAWN not in screen

        def pressed() -> bool:
            self.press(name, key)
            end = time.monotonic() + DROPPED
            while not (heard := done()) and time.monotonic() < end:
                time.sleep(0.05)
            return heard

        until(pressed, f"{key} is heard by the dialog")

    def at_rest(self, name: str) -> dict[str, Any]:
        """Wait until every source says that it is ready, the slowest too: what is told of it then (`explain`)."""

        def agreed() -> dict[str, Any] | None:
            told: dict[str, Any] = self.asks("explain", target=name)
            said = {e["source"]: e["activity"] for e in told["evidence"]}
            agree = {said.get(source) for source in ("hook", "state_file", "screen")} == {"ready"}
            return told if agree and not told["state"]["dissent"] else None

        found: dict[str, Any] = until(agreed, f"every source says that {name} is ready")
        return found

    def open_gate(self) -> None:
        """Let a command that waits for `go` in the working folder end."""
        self.home.write("go", "")

    def events(self, name: str, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.asks("events", agent=name, type=kind)["events"]
        return found

    def hooks(self, name: str, event: str) -> list[dict[str, Any]]:
        """The hook events of that name, oldest first."""
        return [e for e in self.events(name, "hook") if e["name"] == event]

    def activities(self, name: str) -> list[str]:
        """What fleet said it was doing, one after the other, since it was first ready: none is left out."""
        told = [e["payload"]["to"] for e in self.events(name, "activity")]
        told = told[told.index("ready") :]
        return [now for before, now in pairwise(told) if now != before]

    def answer(self, name: str) -> str:
        """The model's last words, once the turn that runs is over."""
        stop = until(lambda: self.hooks(name, "Stop"), f"{name} ends a turn\n{self.log()}")[-1]
        said: str = stop["payload"]["last_assistant_message"]
        return said

    def asked(self, prompt: str) -> int:
        """How often the model was asked exactly that."""
        return len(self.requests(prompt))

    def messages(self, prompt: str) -> int:
        """How many messages the last such request held: more than one where the conversation goes on."""
        count: int = self.requests(prompt)[-1]["n_messages"]
        return count

    def requests(self, prompt: str) -> list[dict[str, Any]]:
        """What the model was asked with this as the last thing typed, a prompt's own side questions left out."""
        return [e for e in self.stub.log() if e.get("tools") and str(e.get("prompt", "")).strip() == prompt]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)


def alive(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
