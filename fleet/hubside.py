"""The hub beside the supervisor: opened with the daemon, told of the agents, and never in their way.

What holds:

- A hub that cannot be opened, or stops, takes no agent down: it is told (`problem`) and tried again.
- Messages are accepted as soon as the log is open; what they bring to agents waits until those are `adopted`.
- Every launch of an agent that takes part gets a token of its own, and those of launches that are over are nobody's.
- The person at the command line is an administrator of the hub: the token lies in a 0600 file of the state folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleet import report
from fleet.clock import Clock, SteadyClock
from fleet.db import place
from fleet.errors import FleetError, StorageError
from fleet.events import Events
from fleet.hub.auth import MAIN, REVOKED, Caller, Role
from fleet.hub.courier import Courier
from fleet.hub.exchange import Exchange
from fleet.hub.guardrails import Speaker
from fleet.hub.host import HubServer
from fleet.hub.log import Event
from fleet.hub.message import Nature
from fleet.hub.registry import Card
from fleet.manifests.model import AgentSpec
from fleet.preparing import Admission
from fleet.reach import Agents, Turns
from fleet.runner import Runner
from fleet.runtimes import files
from fleet.settings import Places, Settings
from fleet.supervisor import Supervisor
from fleet.tasks import Tasks
from fleet.terms import Activity, File, Handle, HookEvent, Phase

log = logging.getLogger(__name__)

BY = "fleet"
"""Who makes the tokens of launches, and the operator's."""

PATIENCE = 60.0
"""Seconds that a launch waits for a hub that is being opened: a second or two, on a loaded machine more. One that
cannot be opened says so sooner, and is not waited for."""

SECRET = 32
"""Bytes of what marks are made of."""

AGAIN = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Seconds after which a hub that could not be opened is tried again; then always after the last."""

OVER = frozenset({Phase.STOPPED, Phase.FINISHED, Phase.FAILED})
"""Phases in which no launch is left."""

SPEAKS_OF_TURNS = frozenset({"claude-code"})
"""Harnesses whose hooks tell the end of every turn."""


TURN_ENDS = ("Stop", "StopFailure")
"""Hook events at the end of a turn."""

WRITE_DOWN = (
    "The time limit of this SLURM job ({job}) is near: it ends in a few minutes, with all that runs in it. This"
    " conversation goes on in the next job. Do now what must be done before: save your work, and write down where you"
    " are and what comes next, briefly. Begin nothing long."
)
"""What an agent is told before its job's time is up."""

GO_ON = "Your usage limit has ended. Go on with what it has interrupted."
"""What an agent with `auto_resume` is told then."""


class HubSide:
    """The hub of one daemon. `begin` it, say when its agents are `adopted`, `close` it."""

    def __init__(
        self,
        supervisor: Supervisor,
        events: Events,
        settings: Settings,
        places: Places,
        clock: Clock,
        turns: Turns | None = None,
    ) -> None:
        self._supervisor, self._events = supervisor, events
        self._settings, self._places, self._clock, self._turns = settings, places, clock, turns
        self._exchange: Exchange | None = None
        self._server: HubServer | None = None
        self._tried = asyncio.Event()
        """It is open, or could not be opened at first."""
        self._open = asyncio.Event()
        self._adopted = asyncio.Event()
        self._carries = asyncio.Event()
        """It hears the agents' hooks, and carries their mail."""
        self._declared: dict[str, AgentSpec] = {}
        """The agents as they stand in the hub."""
        self._admitted: dict[str, str] = {}
        """By agent, the id of its launch's token."""
        self._writing: dict[str, _Writing] = {}
        """By agent, who has been asked to write down where it is."""
        self._limited: set[str] = set()
        """Agents that are told to go on once their usage limit has ended."""
        self._tasks = Tasks(self._failed)
        self.problem: str | None = None
        """Why there is no hub at the moment."""

    @property
    def problems(self) -> list[str]:
        """What of the hub does not work, for the operator."""
        whole = [] if self.problem is None else [self.problem]
        if self._exchange is not None and self._exchange.log.read_only:
            whole.append("The disk is full: the hub only reads until there is space again.")
        return whole if self._server is None else [*whole, *self._server.problems]

    def begin(self) -> None:
        """Open it, and try again until it is open."""
        self._tasks.begin(self._keep_open(), "hub")

    async def tried(self) -> None:
        """Wait until it is open, or could not be opened at first."""
        await self._tried.wait()

    def adopted(self) -> None:
        """The supervisor knows its agents as they are."""
        self._adopted.set()

    async def close(self) -> None:
        """Let go; what is under way goes on from the log."""
        await self._tasks.close()
        if self._server is not None:
            await self._server.close()
        if self._exchange is not None:
            await self._exchange.close()

    # -- opening ---------------------------------------------------------------------------------------------------

    async def _keep_open(self) -> None:
        for tries in range(10**9):
            try:
                self._exchange, self._server = await self._opened()
                break
            except Exception as error:
                expected = isinstance(error, FleetError | OSError)
                log.error("there is no hub: %s", error, exc_info=None if expected else error)
                self.problem = f"There is no hub: {error} {_remedy(error)}".rstrip()
                self._tried.set()
                await self._clock.sleep(AGAIN[min(tries, len(AGAIN) - 1)])
        self.problem = None
        self._tried.set()
        self._open.set()
        await self._adopted.wait()
        await self._serve_agents(self._hub)

    async def _opened(self) -> tuple[Exchange, HubServer]:
        folder = place(self._places.state / "hub", self._settings.database_folder)
        exchange = await Exchange.open(folder, self._settings, SteadyClock())
        try:
            await self._keep_operators_token(exchange)
            server = HubServer(exchange, self._settings, self._places)
            await server.start()
        except BaseException:
            await exchange.close()
            raise
        return exchange, server

    async def _keep_operators_token(self, exchange: Exchange, revoked: str | None = None) -> None:
        """Where there is none that is good, make one; `revoked` is not."""
        path = self._places.state / "hub" / "operator.token"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            caller = exchange.tokens.check(path.read_text().strip())
            mine = (self._settings.hub_operator, Role.ADMIN)
            if caller is not None and caller.token != revoked and (caller.name, caller.role) == mine:
                return
        _, token = await exchange.tokens.create(Role.ADMIN, self._settings.hub_operator, by=BY)
        await asyncio.to_thread(files.put, [File(str(path), f"{token}\n".encode())])

    def _renew_operators_token(self, events: Sequence[Event]) -> None:
        """The person at the command line is never locked out: where their token was revoked they get another."""
        for event in events:
            if event.kind == REVOKED and event.data["name"] == self._settings.hub_operator:
                self._tasks.begin(self._keep_operators_token(self._hub, event.data["id"]), "the operator's token")

    @property
    def _hub(self) -> Exchange:
        assert self._exchange is not None
        return self._exchange

    # -- agents ----------------------------------------------------------------------------------------------------

    async def _serve_agents(self, hub: Exchange) -> None:
        """Bring the hub's members up to the supervisor's agents, then carry their mail."""
        hub.presence = self._presence
        reach = Agents(
            self._supervisor.runners, self._clock, self._supervisor.rules.of,
            self._events.of_generation, self._turns,
        )  # fmt: skip
        self._supervisor.on_change(reach.heard)
        self._supervisor.on_change(self._heard)
        self._carries.set()
        for runner in list(self._supervisor.runners.values()):
            await self._declare(runner.spec)
        me = Caller(self._settings.hub_operator, Role.ADMIN)
        for member in hub.members(me):
            if member["supervised"] and member["name"] not in self._supervisor.runners:
                await hub.remove(me, member["name"])
        hub.on_events(self._renew_operators_token)
        for row in await hub.tokens.list(MAIN):
            if (row.role, row.created_by, row.revoked_at) == (Role.AGENT, BY, None):
                self._admitted.setdefault(row.name, row.id)
        for runner in self._supervisor.runners.values():
            self._take_back(runner)
            self._await_limit(runner)
        secret = await asyncio.to_thread(_kept_secret, self._places.state / "hub" / "marks.key")
        while True:
            courier = Courier(hub, reach, self._clock, secret=secret)
            try:
                await courier.run()
                return
            except Exception:  # mail waits, and is taken up again
                log.exception("the courier stopped; again in a second")
                await self._clock.sleep(1.0)
            finally:
                await courier.close()

    def _presence(self, name: str) -> Mapping[str, Any] | None:
        runner = self._supervisor.runners.get(name)
        if runner is None:
            return None
        told = report.summary(runner, self._clock.now(), self._settings)
        return {key: told[key] for key in _TOLD} | {"dialog": told["kind"]}

    def _heard(self, runner: Runner, event: HookEvent | None) -> None:
        if event is not None and (writing := self._writing.get(runner.name)) is not None:
            writing.hear(event)
        if event is not None or not self._open.is_set():
            return
        if self._declared.get(runner.name) is not runner.spec:
            self._tasks.begin(self._declare(runner.spec), f"declare {runner.name}")
        self._take_back(runner)
        self._await_limit(runner)
        self._hub.announce(runner.name)

    async def write_down(self, handle: Handle, job: str, within: float) -> None:
        """Have an agent whose job nears its limit write down where it is, as its person's own word, delivered like
        any: after the turn that runs, behind a dialog or a draft. Returns when the turn that this causes has ended,
        when the time is over, or at once where the program tells no turns. Asked once for each job."""
        name = handle.agent
        try:
            async with asyncio.timeout(within):
                await self._adopted.wait()  # a daemon that has just begun knows nobody yet …
                runner = self._supervisor.runners.get(name)
                if runner is None or runner.handle != handle or not _is_asked(runner):
                    return
                await self._tried.wait()
                if self._open.is_set():
                    await self._carries.wait()  # … and hears no hooks
                    await self._ask_to_write_down(handle, job, within)
        except TimeoutError:
            log.info("%s has not written down where it is within %.0f s", name, within)

    async def _ask_to_write_down(self, handle: Handle, job: str, within: float) -> None:
        name = handle.agent
        writing = self._writing[name] = _Writing(WRITE_DOWN.format(job=job))
        body = {"to": name, "text": writing.text, "expires_in": within, "idempotency_key": f"{handle.generation}.{job}"}
        try:
            receipt = await self._hub.send(_OPERATOR, body, nature=Nature.PROMPT)
            if receipt.duplicate:  # by an earlier daemon: what has come of it since is in the table
                for event in await self._events.of_generation(handle.generation):
                    writing.hear(event)
            await writing.done.wait()
        finally:
            self._writing.pop(name, None)

    def _await_limit(self, runner: Runner) -> None:
        """An agent that lives on at its usage limit goes on after it, where its manifest says so."""
        if runner.name not in self._limited and _limit_to_outlast(runner) is not None:
            self._limited.add(runner.name)
            self._tasks.begin(self._go_on_after_limit(runner), f"the usage limit of {runner.name}")

    async def _go_on_after_limit(self, runner: Runner) -> None:
        least, most = self._settings.limit_jitter_min, self._settings.limit_jitter_max
        try:
            while (ends := _limit_to_outlast(runner)) is not None:
                handle = runner.handle
                await self._clock.sleep(ends + random.uniform(least, most) - self._clock.now())
                if handle is None or (handle, ends) != (runner.handle, _limit_to_outlast(runner)):
                    continue  # it was another limit's
                body = {"to": runner.name, "text": GO_ON, "idempotency_key": f"{handle.generation}.limit.{ends:.0f}"}
                await self._hub.send(_OPERATOR, body, nature=Nature.PROMPT)
                return
        finally:
            self._limited.discard(runner.name)

    def _take_back(self, runner: Runner) -> None:
        """What was given to a launch ends with it."""
        if runner.life.phase in OVER and (id := self._admitted.pop(runner.name, None)) is not None:
            self._tasks.begin(self._hub.tokens.revoke(id, by=BY), f"the launch of {runner.name} is over")

    async def _declare(self, spec: AgentSpec) -> None:
        """The agent is a member as its manifest says."""
        self._declared[spec.name] = spec
        try:
            if spec.hub.enabled:
                named = spec.hub.channels or (self._settings.hub_channel,)
                channels = [f"#{channel.removeprefix('#').lower()}" for channel in named]
                await self._hub.enroll(_card(spec), _speaker(spec), channels)
            elif any(member["name"] == spec.name for member in self._hub.members(_OPERATOR)):
                await self._hub.remove(_OPERATOR, spec.name)
        except FleetError as error:
            del self._declared[spec.name]
            log.error("the hub does not know %s as it is now: %s", spec.name, error)

    async def admit(self, spec: AgentSpec, generation: str) -> Admission | None:
        """See `preparing.Admit`. A hub that is away does not keep an agent from its launch."""
        if not spec.hub.enabled:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                await self._tried.wait()
            if self._server is None:
                log.error("%s is launched without the hub. %s", spec.name, self.problem)
                return None
            await self._declare(spec)
            id, token = await self._hub.tokens.create(Role.AGENT, spec.name, by=BY)
            self._admitted[spec.name] = id
            for row in await self._hub.tokens.list(MAIN):
                if (row.name, row.created_by, row.revoked_at) == (spec.name, BY, None) and row.id != id:
                    await self._hub.tokens.revoke(row.id, by=BY)
        except (FleetError, TimeoutError) as error:
            log.error("%s is launched without the hub: %s", spec.name, str(error) or "it takes too long to open")
            return None
        except Exception:  # a fault of the hub's must not fail a start
            log.exception("%s is launched without the hub", spec.name)
            return None
        return Admission(str(self._server.info()["socket"]), token)

    def _failed(self, task: asyncio.Task[Any], error: BaseException) -> None:
        log.error("the hub: %s failed", task.get_name(), exc_info=error)


_OPERATOR = Caller("fleet", Role.ADMIN)

_TOLD = ("phase", "activity", "reason", "since", "activity_since", "observed_at", "context_pct", "resets_at")
"""What members hear of an agent, from its report."""


def _remedy(error: Exception) -> str:
    """What a person can do about a hub that cannot be opened."""
    if isinstance(error, StorageError) and "is damaged" in str(error):
        return (
            "Stop the daemon (`fleet daemon stop`), put hub.db and what is named like it aside, and put a copy that "
            "`fleet hub backup` has made in its place; without one a new log begins."
        )
    return (error.hint or "") if isinstance(error, FleetError) else ""


def _is_asked(runner: Runner) -> bool:
    """Whether an agent can be asked something, and its turns are told of."""
    return not runner.headless and runner.spec.harness in SPEAKS_OF_TURNS and runner.spec.hub.enabled


def _limit_to_outlast(runner: Runner) -> float | None:
    """When the usage limit ends after which an agent is to be told to go on. A program that says that it goes on by
    itself is only watched, and a headless agent takes up what waits for it."""
    state, spec = runner.state, runner.spec
    asked = spec.restart.auto_resume and spec.hub.enabled and not runner.headless
    held = runner.life.phase is Phase.RUNNING and state.activity is Activity.LIMITED and not state.continues
    return state.resets_at if asked and held else None


def _kept_secret(path: Path) -> bytes:
    """What the marks around others' words are made of: the same after a restart. Where it cannot be kept, another."""
    made = os.urandom(SECRET)
    try:
        kept = files.read(path)
        if kept is not None and len(kept) == SECRET:
            return kept
        files.put([File(str(path), made)])
    except OSError as error:
        log.warning("%s cannot be kept: %s", path, error)
    return made


def _card(spec: AgentSpec) -> Card:
    return Card(
        name=spec.name,
        description=spec.description or "",
        machine=report.machine(spec),
        role=spec.labels.get("role", ""),
        harness=spec.harness,
        model=spec.model or "",
        project=spec.labels.get("project", ""),
        capabilities=tuple(spec.capabilities),
        labels=dict(spec.labels),
        supervised=True,
        turns=spec.harness in SPEAKS_OF_TURNS and spec.mode != "headless",
        a2a=spec.a2a.enabled,
    )


def _speaker(spec: AgentSpec) -> Speaker:
    hub = spec.hub
    return Speaker(
        name=spec.name, may=frozenset(hub.may), wake=hub.wake, hop_limit=hub.hop_limit,
        suppress_thanks=hub.suppress_thanks,
    )  # fmt: skip


class _Writing:
    """An agent's turn in which it writes down where it is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.done = asyncio.Event()
        self._begun = False

    def hear(self, event: HookEvent) -> None:
        """A hook of its program."""
        if event.name == "UserPromptSubmit" and self.text in str(event.payload.get("prompt", "")):
            self._begun = True
        elif self._begun and event.name in TURN_ENDS:
            self.done.set()
