"""What one agent is seen and heard to do: its pane, its program's hooks and files, its processes.

Each is evidence, of which `known` keeps the latest word and makes the state. An older launch, and a process that is
not the agent's own, say nothing about this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from fleet.agent import UP, Agent
from fleet.errors import HostUnreachable
from fleet.headless import evidence as told_by_turns
from fleet.health.judge import State
from fleet.preparing import TRANSCRIPT_TAIL, transcript_path
from fleet.processes import Figures
from fleet.redact import redact
from fleet.terms import Evidence, Handle, HookEvent, Look, Phase, Screen, Source, Verdict

log = logging.getLogger(__name__)

TRANSCRIPT_MOST = 2_000_000
"""How much of a conversation is read at most where the end holds nothing of it."""
TURN_HOOKS = ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "StopFailure")
"""Hook events after which the conversation holds something new."""


class Senses:
    """The eyes and ears for one agent."""

    def __init__(
        self,
        agent: Agent,
        *,
        ended: Callable[[Handle, Look], Coroutine[Any, Any, None]],
        looked: Callable[[], None],
    ) -> None:
        """`ended` is given a look at a launch that is over; `looked` is called after each at one that lives."""
        self._agent = agent
        self._ended, self._looked = ended, looked
        self._relook: asyncio.Task[None] | None = None
        self._unwatch: list[Callable[[], None]] = []

    # -- its pane --------------------------------------------------------------------------------------------------

    def watch(self, handle: Handle) -> None:
        """From now on be told of what changes about the launch."""
        self.unwatch()
        agent, runtime = self._agent, self._agent.runtime
        if agent.headless:
            self.hear(told_by_turns([], None, agent.parts.clock.now()))
        runtime.watch(handle, self.on_look)
        agent.facts.watched = True
        self._unwatch.append(lambda: runtime.unwatch(handle))
        self._unwatch.append(runtime.watch_folder(handle.folder, self._on_launch_file))
        agent.beside(self._read_status_line(handle))

    def unwatch(self) -> None:
        while self._unwatch:
            self._unwatch.pop()()

    @property
    def watching(self) -> bool:
        return bool(self._unwatch)

    def on_look(self, handle: Handle, look: Look) -> None:
        """What the runtime saw. Of an older launch it says nothing about this one."""
        agent = self._agent
        if handle is agent.handle or handle == agent.handle:
            try:  # what `guarded` does, for less: hundreds of looks come in a second
                self._take_in(handle, look)
            except Exception as error:
                log.exception("agent %s: look failed", agent.name)
                agent.tell_fault("look", error)

    def _take_in(self, handle: Handle, look: Look) -> None:
        agent, facts = self._agent, self._agent.facts
        if look.pane:
            facts.pane = look.pane
        if look.program and look.program != facts.program:
            again = facts.program is not None  # a successor's: who owned the one before is nobody now
            facts.program = look.program
            facts.owner = look.program.pid if again or facts.owner is None else facts.owner
            agent.beside(self.read_state_file())
        if look.waiting != facts.waiting:
            facts.waiting = look.waiting
            agent.parts.changed(agent.name)
        if not look.alive or look.multiplexer_lost:  # without its pane it can be neither seen nor steered
            agent.beside(self._ended(handle, look))
            return
        if look.screen is not None:
            self.see(look.screen, look.at)

    def see(self, screen: Screen, at: float) -> None:
        """Its pane as it is shown."""
        agent, facts, known = self._agent, self._agent.facts, self._agent.known
        before, last = facts.screen, facts.verdict
        if before is None or screen.text != before.text:
            facts.moved_at = at
        verdict = agent.parts.classify(agent.spec.harness, screen, agent.record.version)
        if last is None or verdict.rule != last.rule:
            facts.shown_since = agent.parts.clock.now()
        facts.screen, facts.verdict = screen, verdict
        news = self._hear_process()
        unheard = known.claim(Source.SCREEN) is None
        if verdict != last or before is None or screen.title != before.title or unheard:
            self._hear_eyes(screen, verdict, at)
            news = True
        if news or known.is_in_question(at):
            known.see_again(at)
            self._judge()
        else:
            known.attend_again(agent.parts.clock.now(), facts.moved_at)
        self._looked()

    def _hear_eyes(self, screen: Screen, verdict: Verdict, at: float) -> None:
        """What screen and title say, without the agent's secrets."""
        secrets = self._agent.secrets
        self._note(
            Evidence(
                source=Source.SCREEN,
                rule=verdict.rule,
                observed_at=at,
                activity=verdict.activity,
                kind=verdict.kind,
                question=redact(verdict.question, secrets) if verdict.question else verdict.question,
                options=tuple(redact(option, secrets) for option in verdict.options),
                draft=verdict.draft,
                composer=verdict.composer,
                background=verdict.background,
                resets_at=verdict.resets_at,
                continues=verdict.continues,
                excerpt=redact(verdict.evidence, secrets),
            )
        )
        version = self._agent.record.version
        if screen.title and (told := self._agent.harness.read_title(screen.title, at, version)):
            self._note(told)

    # -- its processes ---------------------------------------------------------------------------------------------

    def measured(self, figures: Figures) -> None:
        """What its processes cost now."""
        facts = self._agent.facts
        before, facts.figures = facts.figures, figures
        if figures != before and self._hear_process():
            self._judge()

    def _hear_process(self) -> bool:
        """What the processes tell; whether that is news. A headless agent's are told of by their turns; figures from
        another machine are too old to tell what it is doing."""
        agent = self._agent
        if agent.headless:
            return False
        figures, now = agent.facts.figures if agent.runtime.far is None else None, agent.parts.clock.now()
        cpu = figures.cpu_percent / 100 if figures and figures.cpu_percent is not None else None
        told = agent.harness.read_process(agent.facts.moved_at, cpu, now)
        if told is None:
            return False
        claim = agent.known.claim(Source.PROCESS)
        if claim and (claim.evidence.activity, claim.evidence.rule) == (told.activity, told.rule):
            return False
        self._note(replace(told, observed_at=now))
        return True

    # -- what is made of it ----------------------------------------------------------------------------------------

    def attend(self) -> None:
        """Nothing was heard for a while, and it is not settled yet: see what the sweeps since then, and time, tell."""
        self._agent.known.catch_up(self._agent.parts.clock.now(), self._agent.swept)
        self._hear_process()
        self._judge()

    def hear(self, evidence: Evidence) -> None:
        """One more word of a source, and what follows from it."""
        self._note(evidence)
        self._judge()

    def _note(self, evidence: Evidence) -> None:
        self._agent.known.hear(evidence, self._agent.parts.clock.now(), self._agent.swept)

    def _judge(self) -> None:
        agent = self._agent
        now = agent.parts.clock.now()
        before, state = agent.known.judge(now, started=agent.started, moved_at=agent.facts.moved_at)
        if state.pending and self._relook is None:
            self._relook = agent.beside(self._look_again())
        if state.background != before.background:
            agent.facts.background_at = now
        if (state.activity, state.kind, state.question) != (before.activity, before.kind, before.question):
            proof = state.proof
            payload = {
                "from": before.activity,
                "to": state.activity,
                "kind": state.kind,
                "question": state.question,
                "source": proof.source if proof else None,
                "rule": proof.rule if proof else None,
                "evidence": proof.excerpt if proof else None,
            }
            agent.parts.record_event(agent.name, "activity", state.activity, payload)
            agent.parts.changed(agent.name)
        elif _more_of(state) != _more_of(before):
            agent.parts.changed(agent.name)

    async def _look_again(self) -> None:
        """A change is seen and not yet believed: see it a second time."""
        agent = self._agent
        try:
            await agent.parts.clock.sleep(agent.parts.settings.ready_agree)
        finally:
            self._relook = None
        if (handle := agent.handle) and agent.life.phase in UP:
            self.on_look(handle, await agent.runtime.look(handle))

    # -- the program's own word ------------------------------------------------------------------------------------

    async def on_hook(self, event: HookEvent) -> None:
        """An event of the program's hooks, already stored. Only the owner's word moves the state."""
        agent = self._agent
        if _uses(event, agent.record.session_id) and not agent.record.session_used:
            await agent.learn(session_used=True)  # that is so whenever it is heard, also after the launch
        if not self._is_owners(event):
            return
        if event.session_id and event.session_id != agent.record.session_id and _binds(event):
            await agent.learn(session_id=event.session_id)
            agent.parts.record_event(agent.name, "session", event.session_id, {"because": event.name})
            if _uses(event, event.session_id) and not agent.record.session_used:
                await agent.learn(session_used=True)
        path = event.payload.get("transcript_path")
        if isinstance(path, str) and path != agent.record.transcript and event.session_id == agent.record.session_id:
            await agent.learn(transcript=path)
        told = agent.harness.read_hook(event)
        if told is not None:
            self.hear(told)
        if agent.life.phase is Phase.STARTING:
            agent.session_is_seen()
        if event.name in TURN_HOOKS:
            agent.beside(self.read_transcript())

    def _is_owners(self, event: HookEvent) -> bool:
        agent, facts, handle = self._agent, self._agent.facts, self._agent.handle
        if handle is None or agent.life.phase not in (*UP, Phase.UNVERIFIABLE):
            return False
        if event.generation is None:
            return event.session_id is not None and event.session_id == agent.record.session_id
        if not handle.is_of(event.generation):
            return False
        owner, program = facts.owner, facts.program
        if event.pid is None or owner is None or event.pid == owner:
            return True
        # Where the command is a wrapper, its program's own word names the program, at the start of its session.
        wrapped = program is not None and owner == program.pid and agent.known.claim(Source.STATE_FILE) is None
        if wrapped and event.name == "SessionStart" and event.session_id == agent.record.session_id:
            facts.owner = event.pid
            agent.beside(self.read_state_file())
            return True
        return False

    async def read_state_file(self) -> None:
        """The program's own word about itself, believed only while its process lives."""
        agent, owner = self._agent, self._agent.facts.owner
        if owner is None:
            return
        path = agent.harness.state_file(agent.facts.env, owner)
        content = await agent.runtime.read(path) if path else None
        if content is None:
            agent.known.catch_up(agent.parts.clock.now(), agent.swept)
            agent.known.lose(Source.STATE_FILE)
            self._judge()
            return
        told = agent.harness.read_state(content, agent.parts.clock.now() + agent.ahead)
        if told is None or told.pid != owner:
            return
        program = agent.facts.program
        if program and told.proc_start and program.pid == owner and told.proc_start != str(program.start):
            return  # an older process with the same pid
        if told.session_id and told.session_id != agent.record.session_id:
            await agent.learn(session_id=told.session_id)
            agent.parts.record_event(agent.name, "session", told.session_id, {"because": "state file"})
        if told.version and told.version != agent.record.version:
            await agent.learn(version=told.version)
        self.hear(self._by_our_clock(told.evidence))
        if agent.life.phase is Phase.STARTING:
            agent.session_is_seen()

    def _by_our_clock(self, told: Evidence) -> Evidence:
        """What a program on another machine says, with that machine's time."""
        ahead = self._agent.ahead
        return replace(told, observed_at=told.observed_at - ahead) if ahead else told

    def _on_launch_file(self, name: str) -> None:
        if name == "statusline" and self._agent.handle:
            self._agent.beside(self._read_status_line(self._agent.handle))

    async def _read_status_line(self, handle: Handle) -> None:
        agent = self._agent
        content = await agent.runtime.read(str(PurePosixPath(handle.folder) / "statusline"))
        if content is None:
            return
        now = agent.parts.clock.now()
        told = agent.harness.read_status_line(content, now)
        if told is not None:
            agent.facts.status_line = {**told, "observed_at": now}
            agent.parts.changed(agent.name)

    async def read_transcript(self, length: int = TRANSCRIPT_TAIL) -> None:
        """The end of the conversation for those who look: so many bytes, or more where they hold nothing of it.
        Where its host cannot be read, what was read last is what is known."""
        with contextlib.suppress(HostUnreachable):
            await self._read_transcript(length)

    async def _read_transcript(self, length: int) -> None:
        agent, facts = self._agent, self._agent.facts
        path = None if facts.cwd is None else transcript_path(agent.record, agent.harness, facts.env, facts.cwd)
        while path and (tail := await agent.runtime.read(path, tail=length)) is not None:
            facts.transcript = agent.harness.read_transcript(tail, agent.parts.clock.now())
            if told := facts.transcript.evidence:
                self._note(self._by_our_clock(told))
            if facts.transcript.lines or len(tail) < length or length >= TRANSCRIPT_MOST:
                return
            length *= 8  # the program's own snapshots fill tens of kilobytes


def _uses(event: HookEvent, session_id: str | None) -> bool:
    """Whether it tells of a prompt that this conversation got."""
    return event.name == "UserPromptSubmit" and session_id is not None and event.session_id == session_id


def _binds(event: HookEvent) -> bool:
    """Whether the agent is in the session that its program's hook tells. A Claude Code that is ended before it has
    taken up its conversation tells the end of another session, which never was."""
    return event.pid is not None and event.name != "SessionEnd"


def _more_of(state: State) -> tuple[object, ...]:
    """What can change while the activity stays as it is."""
    return state.draft, state.background, state.resets_at, state.continues
