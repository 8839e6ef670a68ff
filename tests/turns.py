"""Turns of headless agents with real processes, without a fleet around them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fleet import processes
from fleet.clock import SystemClock
from fleet.db import Database
from fleet.harnesses import harness
from fleet.harnesses.base import Conversation, LaunchAsk
from fleet.headless import HEADLESS_MIGRATIONS, Hearers, Sessions, Standing, Turns
from fleet.hub.message import Message
from fleet.hub.reach import TurnEnd
from fleet.manifests.model import AgentSpec
from fleet.runtimes import files, launches
from fleet.runtimes.base import Runtime
from fleet.runtimes.local import LocalRuntime
from fleet.runtimes.local_turns import LocalGround
from fleet.runtimes.turns import MARK, STANDS, Ground
from fleet.settings import Places, Settings
from fleet.terms import Evidence, File, Process
from tests.waiting import until

"""Seconds that anything which must happen may take: a deadline on a busy machine, not a wait."""


def message(
    number: int = 1, *, thread: str = "t-aaaaaaaaaaaaaaaa", text: str = "hello", sender: str = "alice"
) -> Message:
    """A message, told apart by its number."""
    letters = "".join("abcdefghijklmnop"[int(digit)] for digit in f"{number:016}")
    return Message(id=f"m-{letters}", workspace="main", sender=sender, to=("web",), text=text, at=0.0, thread=thread)


@dataclass
class Desk:
    """Headless agents of a home, and the daemon's part that runs their turns; it can be replaced by a next one."""

    home: Path
    env: Mapping[str, str]
    agents: dict[str, Standing] = field(default_factory=dict)
    heard: list[Evidence] = field(default_factory=list)
    events: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    spent: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    """Agents whose host is not read just now."""

    def __post_init__(self) -> None:
        self.places = Places.of({"HOME": str(self.home), "FLEET_HOME": str(self.home / "fleet")})
        self.database = Database.open(self.home / "fleet.db", [HEADLESS_MIGRATIONS])
        self.host: Runtime = self._host()
        self.ground: Ground = self._ground()
        self.turns = self._turns()

    def _host(self) -> Runtime:
        return LocalRuntime(self.places, Settings(), SystemClock())

    def _ground(self) -> Ground:
        return LocalGround(self.host, self.places)

    async def _read(self, path: str, tail: int) -> bytes | None:
        return await self.host.read(path, tail=tail)

    def _turns(self) -> Turns:
        hearers = Hearers(
            standing=self._standing,
            unseen=lambda name: name in self.away,
            evidence=lambda _, evidence: self.heard.append(evidence),
            event=lambda _, kind, name, payload: self.events.append((kind, name, payload)),
            spent=self.spent.__setitem__,
        )
        settings = Settings(kill_grace=0.2)
        return Turns(SystemClock(), settings, self.places, Sessions(self.database), hearers)

    def _standing(self, name: str) -> Standing | None:
        return None if name in self.away else self.agents.get(name)

    def agent(self, name: str = "web", env: Mapping[str, str] | None = None, **spec: Any) -> Standing:
        """An agent that is up."""
        wanted = AgentSpec(name=name, mode="headless", **spec)
        generation = f"{name}.1.{secrets.token_hex(4)}"  # what bears it is ended: it must be nobody else's
        folder = Path(self.ground.mint(name, generation).folder)
        cwd = self.home / "work"
        cwd.mkdir(exist_ok=True)
        env = {
            **self.env,
            **(env or {}),
            "FLEET_AGENT": name,
            "FLEET_GENERATION": generation,
            "FLEET_LAUNCH": str(folder),
        }
        files.put([File(str(folder / "env"), launches.quote_env(env)), File(str(folder / STANDS), b"")])
        up = Standing(
            wanted,
            harness(wanted.harness),
            generation,
            str(folder),
            str(cwd.resolve()),
            env,
            ground=self.ground,
            read=self._read,
        )
        self.agents[name] = up
        return up

    def runner(self, script: str, **spec: Any) -> Standing:
        """A scripted runner: a line of sh."""
        return self.agent(harness="shell", command=("sh", "-c", script), **spec)

    def claude(self, program: str, version: str, **spec: Any) -> Standing:
        """A real Claude Code. There is no hub here: its tools would be waited for."""
        up = self.agent(harness="claude-code", command=(program,), hub={"mcp": False}, **spec)
        ask = LaunchAsk(
            spec=up.spec,
            conversation=Conversation("", exists=False),
            folder=up.folder,
            spool="",
            cwd=up.cwd,
            env=up.env,
            version=version,
        )
        files.put(up.harness.launch(ask).files)
        self.agents[up.spec.name] = replace(up, version=version)
        return self.agents[up.spec.name]

    async def ask(self, asked: Message | None = None, text: str | None = None) -> TurnEnd:
        asked = asked or message()
        return await self.turns.turn("web", asked, asked.text if text is None else text)

    def begin(self, asked: Message | None = None) -> asyncio.Task[TurnEnd]:
        return asyncio.create_task(self.ask(asked))

    async def next_daemon(self) -> None:
        """The one that there is leaves; another takes up what it left."""
        await self.turns.close()
        self.ground = self._ground()
        self.agents.update({name: replace(up, ground=self.ground) for name, up in self.agents.items()})
        self.turns = self._turns()
        await self.turns.open()

    async def close(self) -> None:
        """End what still runs, and leave."""
        for name in self.agents:
            for thread in self.turns.running(name):
                await self.turns.stop_turn(name, thread)
        await self.turns.close()
        await self.host.close()
        await self.database.close()

    def living(self) -> set[Process]:
        """Every process of a turn of this home."""
        return {p for p, mark in processes.census(MARK)[1].items() if mark.startswith(str(self.home))}

    async def gone(self) -> None:
        await until(lambda: not self.living(), "nothing of a turn lives")

    def turns_of(self, name: str = "web") -> list[str]:
        """The folders of its turns."""
        return files.names(self.places.agent(name) / "turns")

    def word(self, kind: str) -> list[str]:
        """The names of the events of a kind."""
        return [name for event, name, _ in self.events if event == kind]
