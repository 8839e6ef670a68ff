"""A hub and a supervisor in the test's own process, so that a test can stop between any two steps of theirs.

Its agents are real programs in a tmux server of its own. `abandon` leaves everything as a `kill -9` would, and `open`
goes on from what is written down.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from fleet.clock import SystemClock
from fleet.db import Database
from fleet.events import EVENTS_MIGRATIONS, Events
from fleet.hub.auth import Caller, Role
from fleet.hub.courier import Courier
from fleet.hub.exchange import Card, Exchange, Speaker
from fleet.hub.message import Nature, State
from fleet.ledger import LEDGER_MIGRATIONS, Ledger, StartEnvironment
from fleet.manifests.model import AgentSpec
from fleet.reach import Agents
from fleet.runner import Runner
from fleet.runtimes.local import LocalRuntime
from fleet.settings import Places, Settings
from fleet.supervisor import Supervisor
from fleet.terms import Activity, Phase
from tests.homes import Home, Stub
from tests.waiting import until

OPERATOR = Caller("operator", Role.OPERATOR)


class Post:
    """One fleet with its hub."""

    def __init__(self, home: Home, program: str, stub: Stub) -> None:
        self.home, self.program, self.stub = home, program, stub
        self.places = Places.of(home.env)
        self.settings = Settings()

    async def open(self) -> Post:
        self.clock = SystemClock()
        self.places.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.database = Database.open(self.places.database, [EVENTS_MIGRATIONS, LEDGER_MIGRATIONS])
        self.events = events = Events(self.database)
        runtime = LocalRuntime(self.places, self.settings, self.clock, lambda agent: ())
        self.supervisor = Supervisor(self.settings, self.places, self.clock, Ledger(self.database), events, runtime)
        self.runtime = runtime
        await self.supervisor.open()
        (self.places.state / "hub").mkdir(parents=True, exist_ok=True, mode=0o700)
        self.exchange = await Exchange.open(self.places.state / "hub", self.settings, self.clock)
        self.reach = Agents(self.supervisor.runners, self.clock, self.supervisor.rules.of, events.of_generation)
        self.supervisor.on_change(self.reach.heard)
        self.courier = Courier(self.exchange, self.reach, self.clock, secret=b"kept beside the log")
        self._serving = asyncio.create_task(self.courier.run())
        return self

    async def close(self) -> None:
        await self.courier.close()
        await self._serving
        await self.exchange.close()
        await self.supervisor.stop(list(self.supervisor.runners.values()))
        await self.runtime.dismiss()
        await self.supervisor.close()
        await self.database.close()

    async def abandon(self) -> None:
        """Be gone without a word: nothing that is not written down already is written."""
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        await self.courier.close()
        await self.exchange.close()
        await self.supervisor.close()
        await self.database.close()

    async def again(self) -> None:
        await self.abandon()
        await self.open()

    # -- agents ----------------------------------------------------------------------------------------------------

    async def ready(self, name: str = "web", **spec: Any) -> Runner:
        """A Claude Code that waits for its next prompt."""
        runner = await self.start(name, **spec)
        await self.is_at(name, Activity.READY)
        return runner

    async def start(self, name: str = "web", **spec: Any) -> Runner:
        wanted = {"command": (self.program,), "permission_mode": "default", "auto_accept": ("trust-folder",)}
        about = AgentSpec(name=name, folder=str(self.home.work), workdir=".", **(wanted | spec))
        runner = await self.supervisor.declare(about, StartEnvironment(dict(self.home.env), {}))
        await self.exchange.enroll(Card(name=name, supervised=True, turns=True), Speaker(name=name), [])
        await self.supervisor.start([runner])
        return runner

    def runner(self, name: str = "web") -> Runner:
        return self.supervisor.runners[name]

    async def is_at(self, name: str, *activities: Activity) -> None:
        def there() -> bool:
            runner = self.runner(name)
            return runner.life.phase is Phase.RUNNING and runner.state.activity in activities

        await until(there, lambda: f"{name} is {activities}: {self.told(name)}")

    def told(self, name: str) -> str:
        runner = self.runner(name)
        screen = runner.facts.screen.text.rstrip() if runner.facts.screen else "(no screen)"
        return f"{runner.life.phase}/{runner.state.activity} draft={runner.state.draft} {runner.state.proof}\n{screen}"

    async def keys(self, name: str, *keys: str, literal: bool = False) -> None:
        """Press keys, as a person in the pane."""
        handle = self.runner(name).handle
        assert handle is not None
        await self.runtime.type(handle, keys, literal=literal)

    async def say(self, name: str, text: str) -> None:
        """Type a prompt and submit it, as a person does."""
        await self.keys(name, text, literal=True)
        await until(lambda: self.runner(name).state.draft, lambda: f"the text stands there: {self.told(name)}")
        await asyncio.sleep(0.2)
        await self.keys(name, "Enter")

    async def screen(self, name: str = "web") -> str:
        handle = self.runner(name).handle
        assert handle is not None
        look = await self.runtime.look(handle)
        return look.screen.text if look.screen else ""

    async def told_by_hook(self, event: str, name: str = "web") -> int:
        """How often the agent's program has told such an event."""
        return sum(told.name == event for told in await self.events.list(agent=name, type="hook"))

    def box(self, name: str = "web") -> Path:
        handle = self.runner(name).handle
        assert handle is not None
        return Path(handle.folder, "box")

    # -- talk ------------------------------------------------------------------------------------------------------

    async def send(self, text: str, to: str = "web", **body: Any) -> str:
        """A message of the operator's, to be quoted: its id."""
        about = {"to": to, "text": text, "intent": "task", **body}
        return (await self.exchange.send(OPERATOR, about)).id

    async def prompt(self, text: str, to: str = "web") -> str:
        """The operator's own word, to be typed: its id."""
        return (await self.exchange.send(OPERATOR, {"to": to, "text": text}, nature=Nature.PROMPT)).id

    async def recipient(self, id: str) -> dict[str, Any]:
        told = await self.exchange.receipt(OPERATOR, id)
        found: dict[str, Any] = told["recipients"][0]
        return found

    async def arrives(self, id: str, state: State = State.DELIVERED) -> dict[str, Any]:
        """Wait until the message stands so: its recipient."""
        last: dict[str, Any] = {}

        async def there() -> dict[str, Any] | None:
            last.update(await self.recipient(id))
            return last if last["state"] == state else None

        await until(there, lambda: f"{id} is {state}: {last}\n{self.told('web')}")
        return await self.recipient(id)

    async def waits(self, id: str, reason: str) -> None:
        last: dict[str, Any] = {}

        async def there() -> bool:
            last.update(await self.recipient(id))
            return (last["state"], last.get("reason")) == (State.QUEUED, reason)

        await until(there, lambda: f"{id} waits because of {reason}: {last}\n{self.told('web')}")

    def times_there(self, id: str, home: Path | None = None) -> int:
        """How often a message stands in the agents' conversations: as their programs keep them."""
        count = 0
        for path in (home or self.home.path).glob(".claude/projects/*/*.jsonl"):
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                attached = entry.get("attachment", {}).get("type")
                said = entry.get("type") == "user" or attached in ("queued_command", "hook_additional_context")
                about = entry["message"] if entry.get("type") == "user" else entry.get("attachment")
                count += said and f' id="{id}"' in json.dumps(about, ensure_ascii=False).replace('\\"', '"')
        return count
