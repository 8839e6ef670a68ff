"""How the hub reaches into the supervisor's agents: `hub.reach.Reach`, kept over runners and their hosts.

What it tells is what the runners know; what it does is one look, one file or one key at a time, and what came of it is
read from the agent's side: its box, its transcript, its hooks. Nothing here decides when anything is done.

What is in a launch's box (harnesses/mail.sh):

    d.KEY  b.KEY       waits to be rung for, or to be told at the end of a tool call
    taken/KEY,PID      was taken by that process, for the program
    bell               is written to ring
    heard              what was written to the bell that was heard last
    owner              the pid of the program that it is served to
"""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Protocol

from fleet.clock import Clock
from fleet.harnesses.base import BOX, Said
from fleet.harnesses.screens import RuleSet, version_of
from fleet.health.classify import View, classify
from fleet.health.judge import State
from fleet.hub.delivery import Agent, HandedOver, Seen, Sign, Ways, appears
from fleet.hub.message import Message, Way
from fleet.hub.reach import TurnEnd, Typing
from fleet.keys import BEFORE_ENTER, harmless, typed
from fleet.processes import MARK
from fleet.runner import Runner
from fleet.terms import Activity, File, Handle, HookEvent, Phase, Screen, Verdict

log = logging.getLogger(__name__)

LIVES = (Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.UNVERIFIABLE)
"""Phases in which the program may still be there."""
IDLE = frozenset({Activity.READY, Activity.LIMITED})
"""What a program is while its composer waits for a prompt; at a limit that has ended, its next turn tells it."""
ALL_DRAWN_WITHIN = 15.0
"""Seconds until all of what was typed must stand in the composer: a busy program draws late."""
LOOK_EVERY = 0.1
LOOKS = 200
"""At most, while what was typed is taken out: `BACK` keys between two of them."""
BACK = 100
AGAIN = 5
"""Looks until what seems to be another's text is that."""
AHEAD = 500
"""Characters that are typed at most before the program is seen to have read them."""
READ_WITHIN = 2.0
LONG = 200
"""Characters in sight, from which on the beginning may be out of sight."""
_PASTED = re.compile(r"\[Pasted text #\d+(?: \+\d+ lines)?\]")
TAIL = 65_536
"""Bytes of a transcript's end that are read first; more where it was written to a lot since it was last read."""
TAIL_MOST = 64 * 2**20
PROMPTS = 100
"""Submitted texts that are kept of an agent's hooks."""
FOUND = 500
"""Messages of which is remembered what the transcripts have shown, when one has arrived."""
CLEAR_AT = 20
"""Texts that have arrived, after which they are removed from the box together."""
OVERLAP = 5.0
"""Seconds before the newest text that are read again: a text may be noted late."""
CLOCKS_APART = 0.05
"""Seconds by which a program's own times may be before ours: it counts in milliseconds."""


class Turns(Protocol):
    """The turns of headless agents."""

    async def turn(self, name: str, message: Message, text: str) -> TurnEnd: ...

    async def stop_turn(self, name: str, thread: str) -> None: ...

    def running(self, name: str) -> frozenset[str]: ...


@dataclass(slots=True)
class Notes:
    """What is remembered of one launch of an agent."""

    generation: str = ""
    session_at: float | None = None
    submitted_at: float | None = None
    key_at: float | None = None
    drafted: bool | None = None
    """Whether text stood in its composer when it was last looked at."""
    ours: str | None = None
    """What was typed by us last, until it is taken."""
    prompts: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=PROMPTS))
    """What its hooks carried as submitted, and when."""
    transcripts: dict[str, float] = field(default_factory=dict)
    """The files of its conversations, and the time of the newest text that was read in each."""
    recalled: bool = False
    """The launch's earlier hooks have been asked for its conversations."""
    found: dict[str, set[Sign]] = field(default_factory=dict)
    """By message that was looked for, what the transcripts have shown."""
    deaf: bool = False
    """No bell is heard in its session."""
    taken: dict[str, float] = field(default_factory=dict)
    """By key, when it was first seen to be taken."""
    done: list[str] = field(default_factory=list)
    """Files of the box that are not needed any more."""


class Agents:
    """The supervisor's agents, as the courier reaches into them."""

    def __init__(
        self,
        runners: Mapping[str, Runner],
        clock: Clock,
        rules_of: Callable[[str], RuleSet | None],
        hooks_of: Callable[[str], Awaitable[Sequence[HookEvent]]],
        turns: Turns | None = None,
    ) -> None:
        """`rules_of`: a harness's screen rules; `hooks_of`: the events that a launch's hooks have told so far."""
        self._runners, self._clock = runners, clock
        self._rules_of, self._hooks_of, self._turns = rules_of, hooks_of, turns
        self._notes: dict[str, Notes] = {}
        self._callbacks: list[Callable[[str], None]] = []

    # -- what is known ---------------------------------------------------------------------------------------------

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def heard(self, runner: Runner, event: HookEvent | None = None) -> None:
        """An agent stands differently, or one of its hooks has told something. Given to the supervisor."""
        notes = self._notes_of(runner)
        if event is not None and (runner.handle is None or runner.handle.is_of(event.generation)):
            _note_hook(notes, event)
        drafted = runner.state.draft
        if notes.drafted and drafted is False and notes.ours is None and not self._is_just_submitted(notes):
            notes.key_at = self._clock.now()  # a person has taken their text out again
        notes.drafted = drafted
        for callback in self._callbacks:
            callback(runner.name)

    def _is_just_submitted(self, notes: Notes) -> bool:
        return notes.submitted_at is not None and self._clock.now() - notes.submitted_at < 1.0

    def standing(self, name: str) -> Agent | None:
        runner = self._runners.get(name)
        if runner is None or not runner.spec.hub.enabled:
            return None
        notes, state, facts = self._notes_of(runner), runner.state, runner.facts
        shown = facts.verdict is not None and facts.verdict.activity is Activity.NEEDS_INPUT
        return Agent(
            name=name,
            phase=runner.life.phase,
            activity=_as_of(self._clock.now(), state),
            dialog=shown or facts.settling is not None,
            draft=state.draft,
            unsent=notes.ours if notes.ours and self._holds(runner, facts.screen, notes.ours) else None,
            composer=state.composer if not _is_introduced(runner) else None,
            key_at=self._key_at(runner, notes),
            submitted_at=notes.submitted_at,
            session_at=notes.session_at,
            resets_at=state.resets_at,
            turns=self._turns.running(name) if self._turns else frozenset(),
        )

    def ways(self, name: str) -> Ways:
        runner = self._runners[name]
        if runner.spec.mode == "headless":
            return Ways(typed=False, composer=False, turns=runner.spec.headless.max_parallel)
        harness = runner.harness
        mail = harness.mail_ways(runner.record.version)
        return Ways(
            doorbell=mail.doorbell and not self._notes_of(runner).deaf,
            boundary=mail.boundary,
            talk=harness.has_sessions,
            composer=harness.has_sessions,
            kept=mail.doorbell or mail.boundary,
        )

    def _notes_of(self, runner: Runner) -> Notes:
        generation = runner.handle.generation if runner.handle else ""
        notes = self._notes.get(runner.name)
        if notes is None or notes.generation != generation:
            notes = self._notes[runner.name] = Notes(generation)
        return notes

    def _key_at(self, runner: Runner, notes: Notes) -> float | None:
        """When a person last pressed a key, as far as the pane tells: it moves, though the program does not, while
        there is a text in its composer that is not ours."""
        moved_at, state = runner.facts.moved_at, runner.state
        if not state.draft or moved_at is None or state.activity not in IDLE:
            return notes.key_at
        ours = (self._holds, self._begins)
        if notes.ours is not None and any(stands(runner, runner.facts.screen, notes.ours) for stands in ours):
            return notes.key_at
        return max(moved_at, notes.key_at or 0.0)

    # -- the box ---------------------------------------------------------------------------------------------------

    async def put(self, name: str, key: str, text: str, way: Way) -> None:
        handle = self._runners[name].handle
        if handle is None:
            return
        content = json.dumps(text) if way is Way.BOUNDARY else text
        letter = "b" if way is Way.BOUNDARY else "d"
        await self._runners[name].runtime.put([File(f"{handle.folder}/{BOX}/{letter}.{key}", content.encode())])

    async def ring(self, name: str) -> None:
        handle = self._runners[name].handle
        if handle is not None:
            await self._runners[name].runtime.put(
                [File(f"{handle.folder}/{BOX}/bell", f"{self._clock.now()}\n".encode())]
            )

    async def withdraw(self, name: str, key: str) -> bool:
        found = await self._find(self._runners[name], key)
        if found is None or found.taker is not None:
            return found is None
        aside = f"{found.box}/.{key}"
        line = 'mv "$1" "$2" 2>/dev/null && rm -f "$2"'
        ran = await self._runners[name].runtime.run(
            ["sh", "-c", line, "sh", found.path, aside], env={}, cwd="/", timeout=10
        )
        return ran.status == 0

    def unheard(self, name: str) -> None:
        self._notes_of(self._runners[name]).deaf = True

    async def clear(self, name: str, key: str) -> None:
        runner = self._runners[name]
        notes, found = self._notes_of(runner), await self._find(runner, key)
        notes.taken.pop(key, None)
        if key.endswith(Way.TYPED.value):
            notes.ours = None
        for id in list(notes.found)[:-FOUND]:
            del notes.found[id]
        if found is not None:
            notes.done.append(found.path)
        if len(notes.done) >= CLEAR_AT:
            done, notes.done = notes.done, []
            await self._runners[name].runtime.run(["rm", "-f", "--", *done], env={}, cwd="/", timeout=10)

    async def _find(self, runner: Runner, key: str) -> Found | None:
        """Where a text lies: in the present launch's box, or in that of an earlier one."""
        if runner.handle is None:
            return None
        present = PurePosixPath(runner.handle.folder)
        earlier = [name for name in await runner.runtime.list(str(present.parent)) if name != present.name]
        for generation in (present.name, *reversed(earlier)):
            box = f"{present.parent}/{generation}/{BOX}"
            names = await runner.runtime.list(box)
            lying = next((n for n in names if n in (f"d.{key}", f"b.{key}")), None)
            if lying is not None:
                return Found(generation, box, f"{box}/{lying}", None)
            for taken in await runner.runtime.list(f"{box}/taken"):
                name, _, pid = taken.rpartition(",")
                if name == key:
                    return Found(generation, box, f"{box}/taken/{taken}", pid)
        return None

    # -- typing ----------------------------------------------------------------------------------------------------

    async def type(self, name: str, text: str, may_submit: Callable[[Agent], bool]) -> Typing:
        runner = self._runners[name]
        handle, notes = runner.handle, self._notes_of(runner)
        if handle is None:
            return Typing.NOTHING
        room = await self._room(runner, handle, text if notes.ours == text else None)
        if room is None:
            return Typing.NOTHING
        notes.ours = text
        so_far, seen = "", 0
        for press in typed(text, runner.harness.newline_key()) if room else ():
            if _asks(runner):  # whatever was typed into it is lost, and the next key could answer it
                return Typing.HELD
            await self._runners[name].runtime.type(handle, press.keys, literal=press.literal)
            await self._clock.sleep(press.pause)
            so_far += "".join(press.keys) if press.literal else "\n"
            if len(so_far) - seen >= AHEAD and runner.harness.has_sessions:
                seen = len(so_far)
                await self._drawn(runner, handle, so_far)
        await self._clock.sleep(BEFORE_ENTER)
        outcome = await self._stands(runner, handle, text)
        agent = self.standing(name)
        if outcome is not Typing.SUBMITTED or agent is None or not may_submit(agent):
            return Typing.HELD if outcome is Typing.SUBMITTED else outcome
        await self._enter(handle, notes)
        return Typing.SUBMITTED

    def recall(self, name: str, text: str) -> None:
        notes = self._notes_of(self._runners[name])
        notes.ours = notes.ours or text

    async def enter(self, name: str, text: str) -> Typing:
        runner = self._runners[name]
        handle, notes = runner.handle, self._notes_of(runner)
        ours = notes.ours or text
        if handle is None:
            return Typing.HELD
        screen = (await self._runners[name].runtime.look(handle)).screen
        if screen is None or _asks(runner):
            return Typing.HELD
        if self._holds(runner, screen, ours):
            await self._enter(handle, notes)
            return Typing.SUBMITTED
        return await self._take_out(runner, handle, ours)

    async def _take_out(self, runner: Runner, handle: Handle, text: str) -> Typing:
        """Take the beginning of a text out of the composer, key by key: in a dialog, such a key does nothing. A frame
        may be seen half drawn, so what seems to be something else is looked at again."""
        strange = 0
        for _ in range(LOOKS):
            screen = (await runner.runtime.look(handle)).screen
            verdict = self._verdict(runner, screen) if screen else None
            if verdict is None or verdict.activity is Activity.NEEDS_INPUT or _asks(runner):
                return Typing.HELD
            if verdict.composer and verdict.draft is False:
                return Typing.NOTHING
            if self._begins(runner, screen, text):
                strange = 0
                await runner.runtime.type(handle, ["BSpace"] * BACK, literal=False)
            elif (strange := strange + 1) > AGAIN:
                return Typing.HELD
            await self._clock.sleep(LOOK_EVERY)
        return Typing.HELD

    async def _enter(self, handle: Handle, notes: Notes) -> None:
        await self._runners[handle.agent].runtime.type(handle, ["Enter"], literal=False)
        notes.submitted_at = self._clock.now()

    async def _room(self, runner: Runner, handle: Handle, ours: str | None) -> bool | None:
        """Whether there is room for a text, looked at now; `False`: it stands there already, since it was drawn too
        late for the last look. `None`: something stands in the way of typing."""
        screen = (await runner.runtime.look(handle)).screen
        if screen is None or _asks(runner) or await self._is_stopped(runner):
            return None
        if not runner.harness.has_sessions:
            return True
        verdict = self._verdict(runner, screen)
        if verdict.activity not in IDLE or verdict.composer is not True or verdict.draft is None:
            return None
        if verdict.draft:
            return False if ours is not None and self._holds(runner, screen, ours) else None
        return True

    async def _is_stopped(self, runner: Runner) -> bool:
        """Whether the program is stopped (SIGSTOP, a debugger): it would get all that was typed when it goes on."""
        program = runner.facts.program
        stat = await runner.runtime.read(f"/proc/{program.pid}/stat") if program is not None else None
        return stat is not None and stat.rpartition(b")")[2].split()[:1] in ([b"T"], [b"t"])

    async def _stands(self, runner: Runner, handle: Handle, text: str) -> Typing:
        """Whether all of it stands in the composer and nothing is asked (`SUBMITTED`: it may be). A busy program draws
        it late; where its composer stays empty, all of it was lost."""
        if not runner.harness.has_sessions:
            return Typing.HELD if _asks(runner) else Typing.SUBMITTED
        until = self._clock.now() + ALL_DRAWN_WITHIN
        while True:
            screen = (await runner.runtime.look(handle)).screen
            verdict = self._verdict(runner, screen) if screen else None
            if screen is None or verdict is None or verdict.activity is Activity.NEEDS_INPUT or _asks(runner):
                return Typing.HELD
            if self._holds(runner, screen, text):
                return Typing.SUBMITTED
            if self._clock.now() >= until:
                return Typing.NOTHING if verdict.composer and verdict.draft is False else Typing.HELD
            await self._clock.sleep(LOOK_EVERY)

    async def _drawn(self, runner: Runner, handle: Handle, so_far: str) -> None:
        """Give a busy program the time to read what was typed: what comes too fast is taken for a paste."""
        until = self._clock.now() + READ_WITHIN
        while self._clock.now() < until and not _asks(runner):
            screen = (await runner.runtime.look(handle)).screen
            if screen is None or self._holds(runner, screen, so_far):
                return
            await self._clock.sleep(0.02)

    def _verdict(self, runner: Runner, screen: Screen) -> Verdict:
        rules = self._rules_of(runner.spec.harness)
        if rules is None:
            return Verdict(Activity.UNKNOWN, rule="no-rules")
        return classify(screen, rules, runner.record.version, now=self._clock.now())

    def _holds(self, runner: Runner, screen: Screen | None, text: str) -> bool:
        """Whether what stands in the composer is the text, as far as it shows: of a long one, its end."""
        drafted = self._drafted(runner, screen)
        return drafted is not None and shows(drafted, harmless(text))

    def _begins(self, runner: Runner, screen: Screen | None, text: str) -> bool:
        """Whether what stands in the composer is the beginning of the text: it was not typed to its end."""
        drafted = self._drafted(runner, screen)
        return drafted is not None and begins(drafted, harmless(text))

    def _drafted(self, runner: Runner, screen: Screen | None) -> str | None:
        """What stands in the composer; `None`: nothing, or that cannot be told."""
        rules = self._rules_of(runner.spec.harness)
        if screen is None or rules is None:
            return None
        view = View.of(screen, rules, version_of(runner.record.version))
        return view.regions.get("composer", "") if view.draft else None

    # -- what came of it -------------------------------------------------------------------------------------------

    async def seen(
        self, name: str, key: str, handed: HandedOver, messages: Sequence[Message], since: float
    ) -> list[Seen]:
        runner = self._runners[name]
        notes = self._notes_of(runner)
        found = None if handed.way is Way.TYPED else await self._find(runner, key)
        # Before its conversation is read: what is not there then is not.
        alive = self._is_alive(runner, handed, found) or await self._lingers(runner, handed, found)
        read = await self._read(runner, notes, messages, since)
        taken_at, taker, heard_at = None, False, None
        if found is not None and found.taker is not None:
            taken_at = notes.taken.setdefault(key, self._clock.now())
            taker = await self._is_taker(runner, found.taker)
            heard_at = await self._heard_at(runner, found.box)
        return [
            Seen(
                signs=frozenset(self._signs(runner, notes, message, handed, since)),
                alive=alive,
                read=read,
                in_box=found is not None and found.taker is None,
                taken_at=taken_at,
                taker_alive=taker,
                heard_at=heard_at,
            )
            for message in messages
        ]

    def _is_alive(self, runner: Runner, handed: HandedOver, found: Found | None) -> bool:
        """Whether the program that it was given to may still be there. What lies in no box was never put into one, or
        its launch is forgotten: nobody has it."""
        handle, life = runner.handle, runner.life
        if handle is None or life.phase not in LIVES:
            return False
        if handed.way is Way.TYPED:
            return life.launched_at is None or life.launched_at <= handed.at
        return found is not None and found.generation == handle.generation

    async def _lingers(self, runner: Runner, handed: HandedOver, found: Found | None) -> bool:
        """Whether the program is still there although its launch is over: one that has lost its terminal writes down
        what it has before it goes. It is known by the box that it owns, and by its launch's mark."""
        typed = handed.way is Way.TYPED and runner.life.phase not in LIVES
        if runner.handle is None or (found is None and not typed):
            return False  # what lies in no box was never put into one
        generation = found.generation if found is not None else runner.handle.generation
        box = found.box if found is not None else f"{runner.handle.folder}/{BOX}"
        owner = (await runner.runtime.read(f"{box}/owner") or b"").strip().decode(errors="replace")
        environ = await runner.runtime.read(f"/proc/{owner}/environ") if owner.isdigit() else None
        return environ is not None and f"{MARK}={generation}".encode() in environ.split(b"\0")

    async def _heard_at(self, runner: Runner, box: str) -> float | None:
        """When that bell was rung which was heard last: the mail hook notes it."""
        noted = await runner.runtime.read(f"{box}/heard")
        try:
            return None if noted is None else float(noted)
        except ValueError:
            return None

    async def _is_taker(self, runner: Runner, pid: str) -> bool:
        """Whether that process is still the mail hook."""
        line = await runner.runtime.read(f"/proc/{pid}/cmdline") if pid.isdigit() else None
        return line is not None and b"mail.sh" in line

    def _signs(
        self, runner: Runner, notes: Notes, message: Message, handed: HandedOver, since: float
    ) -> Iterable[Sign]:
        yield from notes.found.get(message.id, ())
        if any(at >= since - CLOCKS_APART and appears(text, message) for at, text in notes.prompts):
            yield Sign.HOOK
        state = runner.state
        if handed.way is Way.TYPED and state.activity is Activity.WORKING and state.since >= handed.at - 1.0:
            yield Sign.BUSY

    async def _read(self, runner: Runner, notes: Notes, messages: Sequence[Message], since: float) -> bool:
        """Take in what its conversations have got since they were last read. Whether they were read to the end."""
        new = any(message.id not in notes.found for message in messages)
        for path in await self._transcripts(runner, notes):
            read_to = notes.transcripts.get(path, 0.0)
            said = await self._said_since(runner, path, since if new else max(since, read_to - OVERLAP))
            notes.transcripts[path] = max([read_to, *(one.at for one in said)])
            for message in messages:
                signs = notes.found.setdefault(message.id, set())
                for one in said:
                    if one.at >= since - CLOCKS_APART and appears(one.text, message):
                        signs.add(Sign.NOTED if one.queued else Sign.TRANSCRIPT)
        return True

    async def _said_since(self, runner: Runner, path: str, since: float) -> Sequence[Said]:
        """What was said in a conversation since then, and perhaps some of before; none without a file."""
        length = TAIL
        while True:
            tail = await runner.runtime.read(path, tail=length)
            if tail is None:
                return ()
            heard, ahead = runner.harness.read_said(tail), runner.ahead
            whole = heard.begins is not None and heard.begins - ahead < since - CLOCKS_APART
            if whole or len(tail) < length or length >= TAIL_MOST:
                return [replace(said, at=said.at - ahead) for said in heard.said] if ahead else heard.said
            length *= 8

    async def _transcripts(self, runner: Runner, notes: Notes) -> list[str]:
        """The files of the conversations that the launch has had: a cleared one goes on in a new file."""
        if not notes.recalled and notes.generation:
            heard, notes.prompts = list(notes.prompts), deque(maxlen=PROMPTS)
            for event in await self._hooks_of(notes.generation):
                _note_hook(notes, event)
            notes.prompts.extend(told for told in heard if told not in notes.prompts)
            notes.recalled = True
        own = runner.record.transcript
        if own is None and runner.record.session_id and runner.facts.cwd:
            own = runner.harness.transcript_path(runner.facts.env, runner.facts.cwd, runner.record.session_id)
        if own is not None and own not in notes.transcripts:
            return [own, *notes.transcripts]
        return list(notes.transcripts)

    # -- headless --------------------------------------------------------------------------------------------------

    async def turn(self, name: str, message: Message, text: str) -> TurnEnd:
        if self._turns is None:
            return TurnEnd(ok=False, reason="not_headless")
        return await self._turns.turn(name, message, text)

    async def stop_turn(self, name: str, thread: str) -> None:
        """An interactive agent's as a person stops it; a dialog that is open stays."""
        runner = self._runners.get(name)
        if runner is not None and runner.spec.mode != "headless":
            if runner.handle and runner.state.activity is Activity.WORKING and not _asks(runner):
                await runner.runtime.type(runner.handle, ["Escape"], literal=False)
        elif self._turns is not None:
            await self._turns.stop_turn(name, thread)


@dataclass(frozen=True, slots=True)
class Found:
    """Where a text of the box is."""

    generation: str
    box: str
    path: str
    taker: str | None
    """The pid of who has taken it; `None`: nobody has."""


def _note_hook(notes: Notes, event: HookEvent) -> None:
    _note_transcript(notes, event)
    if event.name == "SessionStart":
        notes.session_at, notes.deaf = event.at, False
    elif event.name == "UserPromptSubmit":
        notes.submitted_at = event.at
        text = event.payload.get("prompt")
        if isinstance(text, str):
            notes.prompts.append((event.at, text))


def _note_transcript(notes: Notes, event: HookEvent) -> None:
    path = event.payload.get("transcript_path")
    if isinstance(path, str):
        notes.transcripts.setdefault(path, 0.0)


def _as_of(now: float, state: State) -> Activity:
    """What it is doing, for its mail: a limit that has ended holds nothing any more."""
    over = state.activity is Activity.LIMITED and state.resets_at is not None and now >= state.resets_at
    return Activity.READY if over else state.activity


def _asks(runner: Runner) -> bool:
    """Whether a dialog is up, as far as anything tells."""
    verdict = runner.facts.verdict
    screen = verdict is not None and verdict.activity is Activity.NEEDS_INPUT
    return screen or runner.facts.settling is not None or runner.state.activity is Activity.NEEDS_INPUT


def _is_introduced(runner: Runner) -> bool:
    """Whether the runner is still to type the manifest's own first message: nothing else is typed before it."""
    return runner.spec.prompt_file is not None and runner.harness.has_sessions and not runner.record.session_used


def shows(composer: str, text: str) -> bool:
    """Whether a composer that shows this holds the text: all of it, or of a long one the end. White space is drawn as
    it fits; a part that came too fast is drawn as a note of its length."""
    shown, pattern = _pattern(composer)
    whole = shown > 0 and re.fullmatch(pattern, _bare(text)) is not None
    return whole or (shown > LONG and re.fullmatch(f".*{pattern}", _bare(text)) is not None)


def begins(composer: str, text: str) -> bool:
    """Whether a composer that shows this holds a beginning of the text, or all of it, and nothing else."""
    shown, pattern = _pattern(composer)
    start = shown > 0 and re.match(pattern, _bare(text)) is not None
    return start or (shown > LONG and re.search(pattern, _bare(text)) is not None)


def _pattern(composer: str) -> tuple[int, str]:
    """How much of a text a composer shows, and what that text is like."""
    parts = [_bare(part) for part in _PASTED.split(composer)]
    shown = sum(map(len, parts)) + len(parts) - 1
    return shown, ".*".join(re.escape(part) for part in parts)


def _bare(text: str) -> str:
    return "".join(text.split())
