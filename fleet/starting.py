"""A launch on its way: the clock of its start, the dialogs that fleet may settle, and the first message typed."""

from __future__ import annotations

import asyncio
import logging

from fleet import lifecycle
from fleet.agent import Agent
from fleet.errors import HostUnreachable, LaunchError, TimedOut
from fleet.health.answers import SETTLE, Step
from fleet.keys import BEFORE_ENTER, typed
from fleet.preparing import FIRST_MESSAGE
from fleet.runtimes.base import OnLook
from fleet.terms import Activity, Handle, Phase, Screen, Source

log = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between two looks at how a start stands."""
WRITTEN_EVERY = 10.0
"""Seconds of a start between two notes of how many have passed: so many are given again after a daemon's end."""
SUBMIT_AGAIN = (2.0, 8.0, 20.0)
"""Seconds to wait after each Enter for a typed message to be taken, before the next one."""
DRAWN_WITHIN = 5.0
"""Seconds until something of what was typed must be seen in the composer: a busy program draws late."""
HALF_DRAWN = 1.0
"""Seconds that a dialog at the start must stand before a person is told of it: it is drawn piece by piece."""
GOES_AWAY = 5.0
"""Seconds that a settled dialog has to go away before it is taken for still open."""
QUEUE_PATIENCE = 20.0
"""Seconds that a job may stand in the queue before `start` says so and leaves it at that."""


class Starting:
    """The starts of one agent."""

    def __init__(self, agent: Agent, *, see: OnLook) -> None:
        """`see` is given what is looked at here."""
        self._agent, self._see = agent, see
        self.clock: asyncio.Task[None] | None = None
        """The clock of the present launch's start."""

    # -- the clock -------------------------------------------------------------------------------------------------

    def begin_clock(self, handle: Handle) -> None:
        """See the launch through its start, and to its first message; one clock for each launch."""
        name = f"start of {handle.generation}"
        if self.clock is None or self.clock.done() or self.clock.get_name() != name:
            self.clock = self._agent.beside(self._see_through(handle), name)

    async def _see_through(self, handle: Handle) -> None:
        if not await self._has_started(handle):
            return
        if self._agent.handle == handle and not self._agent.record.session_used:
            text = await self._agent.runtime.read(f"{handle.folder}/{FIRST_MESSAGE}")
            if text is not None:
                await self._type_first_message(handle, text.decode())

    async def _has_started(self, handle: Handle) -> bool:
        """Wait until its start is over; False where it took too long. The clock stands still while a dialog waits for
        a person, while the host is away, and while no daemon looks."""
        agent, facts = self._agent, self._agent.facts
        written = facts.start_used
        while agent.handle == handle and agent.life.phase is Phase.STARTING:
            await agent.parts.clock.sleep(TICK)
            if agent.state.activity is Activity.NEEDS_INPUT or facts.waiting is not None:
                continue
            facts.start_used += TICK
            if facts.start_used >= written + WRITTEN_EVERY:
                written = facts.start_used
                agent.beside(agent.learn(start_used=written))
            lives = not agent.harness.has_sessions and facts.start_used >= agent.parts.settings.shell_started
            if (lives or agent.headless) and await self._probe_passes():
                agent.session_is_seen()
                return True
            if facts.start_used >= agent.spec.startup.timeout:
                agent.post(lifecycle.StartTimedOut())
                return False
        return True

    async def _probe_passes(self) -> bool:
        """What it takes is of the start's time, and it gets no more than is left of that."""
        agent, facts, probe = self._agent, self._agent.facts, self._agent.spec.startup.probe
        if probe is None:
            return True
        began = agent.parts.clock.now()
        limit = min(probe.timeout, max(agent.spec.startup.timeout - facts.start_used, TICK))
        try:
            ran = await agent.runtime.run(probe.words, env=facts.env, cwd=facts.cwd or "/", timeout=limit)
        except (TimedOut, LaunchError, HostUnreachable) as error:
            log.info("agent %s: startup probe: %s", agent.name, error)
            return False
        finally:  # a clock that is set meanwhile counts for no more than the probe could take
            facts.start_used += min(max(agent.parts.clock.now() - began, 0.0), limit)
        return ran.status == 0

    @property
    def stands_in_queue(self) -> bool:
        """Its job has waited for longer than a start takes where there is room: who asked for it need not wait."""
        agent = self._agent
        return agent.facts.waiting is not None and agent.parts.clock.now() - agent.life.since > QUEUE_PATIENCE

    # -- dialogs ---------------------------------------------------------------------------------------------------

    def heed(self) -> None:
        """What is known of a start: it is done, or a dialog stands in its way."""
        agent, facts = self._agent, self._agent.facts
        if agent.life.phase is not Phase.STARTING:
            return
        told = agent.known.claim(Source.HOOK) or agent.known.claim(Source.STATE_FILE)
        if told or (facts.verdict and facts.verdict.composer):
            agent.session_is_seen()
        elif facts.screen and facts.verdict and facts.verdict.activity is Activity.NEEDS_INPUT and not facts.settling:
            problem = agent.harness.start_failure(facts.screen.text, None, agent.record.version)
            facts.advice = problem.message if problem else None
            self._settle_dialog(facts.screen)

    @property
    def asks_a_person(self) -> bool:
        """A dialog stands in its way, and fleet is not about to settle it."""
        agent, verdict = self._agent, self._agent.facts.verdict
        if agent.state.activity is not Activity.NEEDS_INPUT or agent.facts.settling:
            return False
        if verdict is None or verdict.activity is not Activity.NEEDS_INPUT:
            return verdict is None  # it is gone, and what follows is not drawn yet
        stood = agent.parts.clock.now() - max(agent.state.since, agent.facts.shown_since)
        return stood >= (GOES_AWAY if verdict.rule in self._consents() else HALF_DRAWN)

    @property
    def dialog_goes(self) -> bool:
        """It is said to ask, but what its pane shows is no dialog, or one that fleet settles: what follows is not
        drawn yet."""
        agent, verdict = self._agent, self._agent.facts.verdict
        if agent.state.activity is not Activity.NEEDS_INPUT or verdict is None:
            return False
        return verdict.activity is not Activity.NEEDS_INPUT or verdict.rule in self._consents()

    def _consents(self) -> frozenset[str]:
        """The startup dialogs that fleet may settle for this agent."""
        spec = self._agent.spec
        consents = set[str](spec.auto_accept)
        if spec.workdir is None:
            consents.add("trust-folder")  # fleet made that folder itself
        if spec.permission_mode == "bypassPermissions" or "--dangerously-skip-permissions" in spec.args:
            consents.add("bypass-permissions")
        return frozenset(consents)

    def _next_step(self, screen: Screen) -> Step | None:
        agent = self._agent
        return agent.parts.startup_step(agent.spec.harness, screen, self._consents(), agent.record.version)

    def _settle_dialog(self, screen: Screen) -> None:
        """A startup dialog that the manifest lets fleet settle: one step, then look again."""
        if (step := self._next_step(screen)) is not None:
            self._agent.facts.settling = step.consent
            self._agent.beside(self._press(step))

    async def _press(self, step: Step) -> None:
        """A dialog just drawn drops keys: wait, look whether it still asks for the same key, press, look.

        After the last key the dialog has a while to go away: a second Enter could answer the next one.
        """
        agent, facts, handle = self._agent, self._agent.facts, self._agent.handle
        runtime, clock = agent.runtime, agent.parts.clock
        if handle is None:
            return
        try:
            await clock.sleep(SETTLE)
            look = await runtime.look(handle)
            if look.screen is not None and self._next_step(look.screen) == step:
                await runtime.type(handle, step.keys, literal=False)
                payload = {"dialog": step.consent, "keys": list(step.keys), "because": step.because}
                agent.parts.record_event(agent.name, "action", "auto_accept", payload)
                until = clock.now() + (GOES_AWAY if step.last else 0.0)
                await clock.sleep(SETTLE)
                look = await runtime.look(handle)
                while look.screen and self._next_step(look.screen) == step and clock.now() < until:
                    await clock.sleep(SETTLE)
                    look = await runtime.look(handle)
        except HostUnreachable as error:
            if agent.is_up(handle):
                agent.post(lifecycle.Lost(message=str(error)))
            return
        finally:
            facts.settling, facts.shown_since = None, clock.now()
        self._see(handle, look)

    # -- the first message -----------------------------------------------------------------------------------------

    async def _type_first_message(self, handle: Handle, text: str) -> None:
        """Type it once the program is ready for it, and submit it. Never into anything but an empty composer, and
        not after a person's own."""
        agent = self._agent
        while agent.is_up(handle) and not agent.record.session_used and not self._can_type():
            await agent.parts.clock.sleep(0.1)
        if not agent.is_up(handle) or agent.record.session_used:
            return
        if not agent.harness.has_sessions:  # nobody can tell whether it was taken: once, and no more
            await agent.amend(session_used=True)
        try:
            await self._type(handle, text)
        except HostUnreachable as error:
            if agent.is_up(handle):
                agent.post(lifecycle.Lost(message=str(error)))

    def _can_type(self) -> bool:
        state = self._agent.state
        if not self._agent.harness.has_sessions:  # it has no composer to look for
            return state.activity is Activity.READY
        return state.activity is Activity.READY and state.composer is True and state.draft is False

    async def _type(self, handle: Handle, text: str) -> None:
        agent, clock, runtime = self._agent, self._agent.parts.clock, self._agent.runtime
        for press in typed(text, agent.harness.newline_key()):
            await runtime.type(handle, press.keys, literal=press.literal)
            await clock.sleep(press.pause)
        await clock.sleep(BEFORE_ENTER)
        if not agent.harness.has_sessions:
            await runtime.type(handle, ["Enter"], literal=False)
            return
        for again, wait in enumerate(SUBMIT_AGAIN):
            held = await self._holds_our_text(handle)
            if again and held is False:
                await agent.learn(session_used=True)  # it was taken, and no hook has told so
            if not held:
                return
            await runtime.type(handle, ["Enter"], literal=False)
            await clock.sleep(wait)

    async def _holds_our_text(self, handle: Handle) -> bool | None:
        """Whether the text stands in the composer, unsent. It may take a moment until it is drawn; `None` where a
        dialog came in between, or a turn began that was told."""
        agent, clock = self._agent, self._agent.parts.clock
        until = clock.now() + DRAWN_WITHIN
        while agent.is_up(handle) and not agent.record.session_used:
            screen = (await agent.runtime.look(handle)).screen
            if screen is None:
                return None
            verdict = agent.parts.classify(agent.spec.harness, screen, agent.record.version)
            if verdict.activity is Activity.NEEDS_INPUT:
                return None
            if verdict.draft or clock.now() > until:
                return verdict.draft is True
            await clock.sleep(0.1)
        return None
