"""Headless agents: one run of the program for each message, its turn.

A turn is a process tree of its own, started by the same launcher as an agent in a pane, in a folder of its own:

    state/agents/NAME/turns/MESSAGE.ATTEMPT/
        turn                              what it is about, and until when it may run
        prompt out err                    its stdin, stdout and stderr: files, so that nothing has to be drained
        env claim launcher program exit   the launcher's (launcher.sh)
        cut                               why it is ended before its end, where it is not to be run again
        end                               what came of it

So a turn needs no daemon: one that is killed leaves it running, and the next one waits for it, or finds its answer
and its exit status. Its time limit is kept without one too, a little late. Where the agent is on another host, what
its launcher needs and leaves stands in a folder there, and `out`, `err` and `exit` are brought here after its end; a
host that cannot be read says nothing of its turns: they are waited for. (`runtimes/turns.py` has what a host does.)
What holds:

- One turn at a time in a conversation, and no more than `max_parallel` of an agent.
- A message has one turn; asked for again, the same answer comes back. Only a turn that came to nothing by a fault
  that may pass is run again.
- All processes of a turn bear its mark (`FLEET_TURN`) and its agent's generation. At its time limit, or when its
  conversation is stopped, they are ended, those that moved to another session too.
- The program's session of a conversation is written down before the program first hears of it. One that the program
  does not know any more gets one fresh start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
import shutil
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from fleet import processes
from fleet.clock import Clock
from fleet.db import Database, Migrations
from fleet.errors import FleetError, HostUnreachable, Unconfirmed
from fleet.harnesses import harness as find_harness
from fleet.harnesses.base import Conversation, Harness, Remedy, TurnAsk, TurnLaunch, TurnResult
from fleet.hub.message import Message
from fleet.hub.reach import TurnEnd
from fleet.manifests.model import AgentSpec
from fleet.redact import redact
from fleet.runtimes import files, launches
from fleet.runtimes.local_tmux import UMASK
from fleet.runtimes.turns import MARK, OUTPUT_MOST, TAIL, Ground, Wanted
from fleet.settings import Places, Settings
from fleet.tasks import Tasks
from fleet.terms import Activity, Evidence, File, Process, Source

log = logging.getLogger(__name__)

HEADLESS_MIGRATIONS = Migrations(
    "headless",
    (
        """
        CREATE TABLE headless_sessions (
            agent TEXT NOT NULL,
            thread TEXT NOT NULL,
            session_id TEXT NOT NULL,
            PRIMARY KEY (agent, thread)
        ) STRICT, WITHOUT ROWID;
        """,
        """
        CREATE TABLE headless_spent (
            agent TEXT PRIMARY KEY,
            figures TEXT NOT NULL
        ) STRICT, WITHOUT ROWID;
        """,
    ),
)

OUTPUT_KEPT = 2**20
"""Bytes of its end that are kept after it."""
ANSWER_MOST = 60_000
"""Bytes of an answer that are sent; a message holds 64 KiB."""
LIMIT_FOR = 300.0
"""Seconds that a usage limit is taken to last which does not say when it ends."""
KEPT = 25
"""Folders of ended turns that are kept per agent."""
TRANSCRIPT_TAIL = 65_536
"""Bytes of a conversation's end by which it is told whether it can be resumed."""
LATE = 5.0
"""Seconds after its time limit at which a turn ends although no daemon is there to end it."""
AGAIN = 1.0
"""Seconds until a host that could not be read is asked again …"""
AGAIN_AT_MOST = 5.0
"""… and, by and by, to begin a turn: one may have to wait for its job's node."""
TIMED = frozenset({124, 137})
"""The exit statuses of a turn that has been ended at its time limit on its host."""
KILLED = frozenset({129, 130, 137, 143})
"""Exit statuses of a program that somebody has ended."""


INTERRUPTED = TurnResult(
    ok=False, reason="interrupted", message="An operator stopped its conversation.", remedy=Remedy.RETRY
)
"""It may be run again: a conversation that was paused goes on."""
STOPPED = TurnResult(ok=False, reason="stopped", message="The agent was stopped.", remedy=Remedy.RETRY)


@dataclass(frozen=True, slots=True)
class Standing:
    """A headless agent that is up: what a turn of it needs to know."""

    spec: AgentSpec
    harness: Harness
    generation: str
    folder: str
    """The launch's folder."""
    cwd: str
    env: Mapping[str, str] = field(repr=False)
    """What is known of its environment here; the whole of it stands in the launch's `env`."""
    ground: Ground
    """Where its turns run."""
    read: Callable[[str, int], Awaitable[bytes | None]]
    """The end of a file there, of so many bytes; `None`: there is none."""
    version: str | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Values that are shown nowhere, and not kept in what a turn has printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearers:
    """Who hears of turns. Given once, by the daemon."""

    standing: Callable[[str], Standing | None]
    """How the agent stands now; `None`: it is not up, or not headless."""
    unseen: Callable[[str], bool] = lambda name: False
    """Whether it is not known if it is up: its host could not be read yet, or cannot any more."""
    evidence: Callable[[str, Evidence], None]
    """An agent's activity, by its turns."""
    event: Callable[[str, str, str, Mapping[str, Any]], None]
    """Agent, type, name, payload: into the event store."""
    spent: Callable[[str, Mapping[str, Any]], None] = lambda name, figures: None
    """What an agent's turns have cost together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What stands in a turn's folder about it."""

    agent: str
    harness: str
    message: str
    thread: str
    sender: str
    generation: str
    began_at: float
    deadline: float
    session_id: str | None = None
    there: str | None = None
    """Its folder on another host; `None`: this is all."""


@dataclass(slots=True)
class Turn:
    """One turn that runs."""

    note: Note
    folder: Path
    """That of its note."""
    ground: Ground
    secrets: tuple[str, ...] = field(default=(), repr=False)
    cut: TurnResult | None = None
    """Why it was ended before its end."""
    sure: bool = True
    """No request to begin it can still be on its way."""
    printed: int = 0
    """Bytes that it was last seen to have printed."""

    @property
    def place(self) -> str:
        """Its folder on its host."""
        return self.note.there or str(self.folder)


class Sessions:
    """Which session of the program each conversation of an agent has."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def of(self, agent: str, thread: str) -> str | None:
        sql = "SELECT session_id FROM headless_sessions WHERE agent = ? AND thread = ?"
        row = await self._db.read(lambda c: c.execute(sql, (agent, thread)).fetchone())
        return row["session_id"] if row else None

    async def keep(self, agent: str, thread: str, session_id: str) -> None:
        """Returns once it is on the disk."""
        row = (agent, thread, session_id)
        await self._db.write(lambda c: c.execute("INSERT OR REPLACE INTO headless_sessions VALUES (?, ?, ?)", row))

    async def forget(self, agent: str) -> None:
        await self._db.write(lambda c: c.execute("DELETE FROM headless_sessions WHERE agent = ?", (agent,)))

    async def spent(self) -> dict[str, Mapping[str, Any]]:
        """By agent, what its turns have cost together."""
        rows = await self._db.read(lambda c: c.execute("SELECT agent, figures FROM headless_spent").fetchall())
        return {row["agent"]: json.loads(row["figures"]) for row in rows}

    async def spend(self, agent: str, result: TurnResult, now: float) -> Mapping[str, Any]:
        """One turn more; what they have cost together."""

        def add(connection: sqlite3.Connection) -> Mapping[str, Any]:
            row = connection.execute("SELECT figures FROM headless_spent WHERE agent = ?", (agent,)).fetchone()
            figures = spent(json.loads(row["figures"]) if row else {}, result, now)
            values = (agent, json.dumps(figures))
            connection.execute("INSERT OR REPLACE INTO headless_spent VALUES (?, ?)", values)
            return figures

        return await self._db.write(add)


class Turns:
    """The turns of all headless agents. `open` it once the agents are known; `close` leaves them running."""

    def __init__(self, clock: Clock, settings: Settings, places: Places, sessions: Sessions, hearers: Hearers) -> None:
        self._clock, self._settings, self._places = clock, settings, places
        self._sessions, self._hear = sessions, hearers
        self._running: dict[str, dict[str, Turn | None]] = {}
        """By agent, the conversations that have a turn; `None` while it is being prepared."""
        self._freed: dict[str, asyncio.Condition] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[TurnEnd]] = {}
        """By agent and message."""
        self._sweeps = Tasks(_failed)
        """What is left of turns that are over is being ended."""
        self._let_go = Tasks(_failed)
        """What is waited for as long as this daemon lives: the end of usage limits, hosts that cannot be read."""
        self._trouble: dict[str, TurnResult] = {}
        """What ended an agent's last turn, where that stands in the way of the next as well."""
        self._stops: dict[tuple[str, str], int] = {}
        """How often a conversation's turns were stopped: one that was asked for before does not begin after it."""
        self._closed = False

    # -- life ------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take up the turns that an earlier daemon has left running; end what is left of those that are over."""
        for name, figures in (await self._sessions.spent()).items():
            self._hear.spent(name, figures)
        if not await asyncio.to_thread(lambda: any(self._root.glob("*/turns/*"))):
            return
        kept: set[str] = set()
        for note, folder in await asyncio.to_thread(self._unfinished):
            if not self._is_down(note):
                kept.add(str(folder))
                self._place(note.agent)[note.thread] = None
                self._task(note.agent, note.message, self._go_on(note, folder))
        await processes.end(partial(self._strays, kept), grace=self._settings.kill_grace)

    async def close(self) -> None:
        """Leave; turns go on, and the next daemon hears how they end."""
        self._closed = True
        turns = tuple(self._tasks.values())
        for task in turns:
            task.cancel()
        await asyncio.gather(self._let_go.close(), *turns, *self._sweeps, return_exceptions=True)

    def _unfinished(self) -> list[tuple[Note, Path]]:
        """Every turn of whose end nothing is known."""
        found = []
        for folder in sorted(self._root.glob("*/turns/*")):
            note = _note(folder)
            if note is not None and not (folder / "end").exists() and not (folder / "exit").exists():
                found.append((note, folder))
        return found

    def _strays(self, kept: set[str]) -> set[Process]:
        """Processes of turns of this fleet that are not among these."""
        rows, marks = processes.census(MARK)
        root = str(self._root) + "/"
        roots = [p for p, mark in marks.items() if mark.startswith(root) and mark not in kept]
        return {process for process in processes.descendants(rows, roots) if process.pid != os.getpid()}

    @property
    def _root(self) -> Path:
        return self._places.state / "agents"

    # -- what the courier asks -------------------------------------------------------------------------------------

    async def turn(self, name: str, message: Message, text: str) -> TurnEnd:
        """Run the agent's turn on a message to its end; what came of it.

        Asked again, while it runs or after it (by the next daemon too), it is the same turn. Who gives up waiting
        does not end it: `stop_turn` does.
        """
        task = self._tasks.get((name, message.id)) or self._task(name, message.id, self._take_up(name, message, text))
        return await asyncio.shield(task)

    async def stop_turn(self, name: str, thread: str) -> None:
        """End the turn that runs in this conversation; returns when nothing of it lives."""
        self._stops[name, thread] = self._stops.get((name, thread), 0) + 1
        turn = self._running.get(name, {}).get(thread)
        if turn is not None:
            await self._cut(turn, INTERRUPTED)

    def running(self, name: str) -> frozenset[str]:
        """The conversations whose turn runs."""
        return frozenset(self._running.get(name, ()))

    # -- one turn --------------------------------------------------------------------------------------------------

    def _task(self, name: str, message: str, work: Awaitable[TurnEnd]) -> asyncio.Task[TurnEnd]:
        async def see_through() -> TurnEnd:
            try:
                return await work
            except Exception as error:  # one turn's fault is that turn's end, and is told whole
                log.exception("agent %s: the turn of %s", name, message)
                self._hear.event(name, "fault", "turn", {"message": message, "error": redact(repr(error))})
                return TurnEnd(ok=False, reason="internal_error")

        task = asyncio.create_task(see_through(), name=f"turn {name} {message}")
        self._tasks[name, message] = task
        task.add_done_callback(lambda _: self._tasks.pop((name, message), None))
        return task

    async def _take_up(self, name: str, message: Message, text: str) -> TurnEnd:
        """The turn that there was already; else a new one, once there is room for it."""
        thread = message.thread
        stops = self._stops.get((name, thread), 0)
        kept = await asyncio.to_thread(self._kept, name, message.id)
        if kept is not None:
            return _end(kept)
        while True:
            up = await self._room(name, thread)
            if up is None:
                return TurnEnd(ok=False, reason="offline", again=True)
            try:
                return _end(await self._through(up, message, text, stops))
            except HostUnreachable as error:  # before anything of it has begun
                log.info("agent %s: the turn of %s waits: %s", name, message.id, error)
            finally:
                await self._free(name, thread)
            await self._clock.sleep(AGAIN)

    async def _room(self, name: str, thread: str) -> Standing | None:
        """Take the place of the conversation's turn, once that is free and the agent is seen; `None`: it is not up."""
        place = self._place(name)
        async with self._freed[name]:
            while True:
                up = self._hear.standing(name)
                if up is None and not self._hear.unseen(name):
                    return None
                if up is not None and _room(place, thread, up.spec):
                    place[thread] = None
                    return up
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._freed[name].wait(), AGAIN if up is None else None)

    async def _through(self, up: Standing, message: Message, text: str, stops: int) -> TurnResult:
        """The turn; where the program does not know the session, or knows it already, once more."""
        conversation = await self._conversation(up, message.thread)
        result = await self._once(up, message, text, conversation, stops)
        if result.remedy not in (Remedy.FRESH, Remedy.RESUME) or conversation is None:
            return result
        if result.remedy is Remedy.RESUME:
            again = replace(conversation, exists=True, fresh=False)
        else:
            again = await self._anew(up, message.thread)
        return await self._once(up, message, text, again, stops)

    async def _conversation(self, up: Standing, thread: str) -> Conversation | None:
        """The session of this exchange: it exists where its transcript can be resumed."""
        if not up.harness.has_sessions:
            return None
        known = None if up.spec.session == "new" else await self._sessions.of(up.spec.name, thread)
        if known is None:
            return await self._anew(up, thread)
        path = up.harness.transcript_path(up.env, up.cwd, known)
        tail = await up.read(path, TRANSCRIPT_TAIL) if path else None
        if tail is None:
            # It was never used, or has gone: only the program can tell, and it says so.
            return Conversation(known, exists=False, fresh=True)
        if not up.harness.resumable(tail):
            return await self._anew(up, thread)
        return Conversation(known, exists=True)

    async def _anew(self, up: Standing, thread: str) -> Conversation:
        session_id = str(uuid.uuid4())
        await self._sessions.keep(up.spec.name, thread, session_id)
        return Conversation(session_id, exists=False, fresh=True)

    async def _once(
        self, up: Standing, message: Message, text: str, conversation: Conversation | None, stops: int
    ) -> TurnResult:
        """One run of the program, to its end."""
        name, now = up.spec.name, self._clock.now()
        launch = up.harness.turn(
            TurnAsk(
                spec=up.spec,
                conversation=conversation,
                folder=up.folder,
                cwd=up.cwd,
                env=up.env,
                version=up.version,
                text=text,
                words=message.text,
            )
        )
        if launch is None:
            why = f"{up.spec.harness} cannot be run for one turn."
            return TurnResult(ok=False, reason="not_headless", message=why, remedy=Remedy.PERSON)
        note = Note(
            agent=name,
            harness=up.spec.harness,
            message=message.id,
            thread=message.thread,
            sender=message.sender,
            generation=up.generation,
            began_at=now,
            deadline=now + up.spec.headless.timeout,
            session_id=conversation.session_id if conversation else None,
        )
        about = {
            "FLEET_MESSAGE_ID": message.id,
            "FLEET_THREAD": message.thread,
            "FLEET_SENDER": message.sender,
            "FLEET_INTENT": message.intent.value,
        }
        try:
            turn, wanted = await asyncio.to_thread(self._lay_out, up, note, launch, about)
        except OSError as error:
            return _not_started(error.strerror or str(error))
        self._running[name][message.thread] = turn
        refused = await self._begin(turn, wanted, stops)
        if refused is not None:
            return refused
        self._tell_begin(turn)
        return await self._see_through(turn, up.harness)

    async def _begin(self, turn: Turn, wanted: Wanted, stops: int) -> TurnResult | None:
        """Have it begun. Else why it was not; then it will not begin any more either."""
        pause = AGAIN
        while True:
            if self._is_down(turn.note):
                why = STOPPED
            elif turn.cut is not None or self._stops.get((turn.note.agent, turn.note.thread), 0) != stops:
                why = INTERRUPTED
            else:
                try:
                    age = await turn.ground.begin(wanted)
                    if not turn.sure and age is not None:
                        await self._count_from(turn, self._clock.now() - age)
                    return None
                except HostUnreachable as error:
                    if turn.sure:
                        log.info("agent %s: the turn of %s waits: %s", turn.note.agent, turn.note.message, error)
                    turn.sure = False
                    await self._clock.sleep(pause)
                    pause = min(2 * pause, AGAIN_AT_MOST)
                    continue
                except FleetError as error:
                    why = _not_started(str(error).removesuffix("."))
            if not turn.sure:
                await self._end_tree(turn)
            await asyncio.to_thread(files.put, [_noted(turn.folder / "end", why, self._clock.now())])
            return why

    async def _count_from(self, turn: Turn, began_at: float) -> None:
        """It has begun later than it was laid out: its time counts from then."""
        note = turn.note
        turn.note = replace(note, began_at=began_at, deadline=began_at + note.deadline - note.began_at)
        said = json.dumps(asdict(turn.note)).encode()
        await asyncio.to_thread(files.put, [File(str(turn.folder / "turn"), said)])

    def _is_down(self, note: Note) -> bool:
        """Whether the launch that it is a turn of is over."""
        up = self._hear.standing(note.agent)
        return not self._hear.unseen(note.agent) if up is None else up.generation != note.generation

    async def _go_on(self, note: Note, folder: Path) -> TurnEnd:
        """A turn that an earlier daemon began; its host need not answer now. Its place is taken."""
        name, thread = note.agent, note.thread
        stops = self._stops.get((name, thread), 0)
        try:
            while (up := self._hear.standing(name)) is None and self._hear.unseen(name):
                await self._clock.sleep(AGAIN)
            if up is None or up.generation != note.generation:
                return _end(STOPPED)
            turn = Turn(note, folder, up.ground, up.secrets, sure=False)
            self._running[name][thread] = turn
            self._tell_agent(name)
            if self._stops.get((name, thread), 0) != stops:
                await self._cut(turn, INTERRUPTED)
            return _end(await self._see_through(turn, up.harness))
        finally:
            await self._free(name, thread)

    async def _see_through(self, turn: Turn, harness: Harness) -> TurnResult:
        """Wait for its end, or bring it about."""
        over = asyncio.ensure_future(self._insist(lambda: turn.ground.over(turn.place)))
        try:
            while not over.done():
                left = turn.note.deadline - self._clock.now()
                if left <= 0:
                    await self._cut(turn, _timed_out(turn.note))
                    break
                timer = asyncio.ensure_future(self._clock.sleep(min(left, turn.ground.check_every)))
                await asyncio.wait({over, timer}, return_when=asyncio.FIRST_COMPLETED)
                timer.cancel()
                if not over.done() and turn.cut is None:
                    objection = await self._objection(turn, harness)
                    if objection is not None:
                        await self._cut(turn, objection)
            await over
        finally:
            over.cancel()
            await asyncio.gather(over, return_exceptions=True)
        return await self._conclude(turn, harness)

    async def _objection(self, turn: Turn, harness: Harness) -> TurnResult | None:
        """Why a turn that runs should not go on, by what it has printed so far. Of one that is elsewhere that is kept
        here, for the log."""
        try:
            printed = await turn.ground.printed(turn.place, turn.printed)
        except HostUnreachable:
            return None
        turn.printed = printed.size
        if printed.size > OUTPUT_MOST:
            message = f"It printed more than {OUTPUT_MOST // 2**20} MB and was ended."
            return TurnResult(ok=False, reason="too_much_output", message=message, remedy=Remedy.PERSON)
        if not printed.tail:
            return None
        if turn.note.there is not None:
            shown = File(str(turn.folder / "out"), _redacted(printed.tail, turn.secrets))
            await asyncio.to_thread(files.put, [shown])
        return harness.hopeless(printed.tail, self._clock.now())

    async def _insist(self, doing: Callable[[], Awaitable[None]]) -> None:
        """Do it, however long its host cannot be read."""
        while True:
            try:
                return await doing()
            except HostUnreachable as error:
                log.debug("%s", error)
            await self._clock.sleep(AGAIN)

    async def _cut(self, turn: Turn, result: TurnResult) -> None:
        """End it now, all of it. Why is on the disk first: a daemon that leaves meanwhile leaves no turn that seems to
        have been ended from outside, and is run again."""
        turn.cut = turn.cut or result
        if not _again(turn.cut):
            try:
                await asyncio.to_thread(files.put, [_noted(turn.folder / "cut", turn.cut, self._clock.now())])
            except OSError as error:  # it runs for too long all the same
                log.error("agent %s: why the turn of %s ends: %s", turn.note.agent, turn.note.message, error)
        await self._end_tree(turn)

    async def _end_tree(self, turn: Turn) -> None:
        try:
            await self._insist(lambda: turn.ground.end(turn.place, self._settings.kill_grace))
        except Unconfirmed as error:
            log.error("agent %s: the turn of %s: %s", turn.note.agent, turn.note.message, error)

    async def _sweep(self, turn: Turn) -> None:
        """It has ended and is noted: what is left of it goes."""
        await self._end_tree(turn)
        await self._insist(lambda: turn.ground.forget(turn.place, sure=turn.sure))

    async def _conclude(self, turn: Turn, harness: Harness) -> TurnResult:
        """What came of it, written down beside its note. What is left of its processes goes."""
        await self._insist(lambda: turn.ground.fetch(turn.place, turn.folder))
        if not (turn.folder / "exit").exists():  # its launcher was killed, and its program may live
            await self._end_tree(turn)
            await self._insist(lambda: turn.ground.fetch(turn.place, turn.folder))
        stopped = self._is_down(turn.note)
        result = await asyncio.to_thread(self._read, turn.folder, harness, turn.cut, stopped, turn.secrets)
        if result.ok and result.session_id is not None and result.session_id != turn.note.session_id:
            await self._sessions.keep(turn.note.agent, turn.note.thread, result.session_id)
        self._tell_end(turn, result)
        (self._sweeps if turn.ground.near else self._let_go).begin(self._sweep(turn))
        return result

    # -- its folder ------------------------------------------------------------------------------------------------

    def _lay_out(self, up: Standing, note: Note, launch: TurnLaunch, about: Mapping[str, str]) -> tuple[Turn, Wanted]:
        """The folder of a new turn, with its note and all that its launcher needs. Its environment is its launch's,
        read from there, and what is its own."""
        root = self._places.agent(note.agent) / "turns"
        before = _attempts(root, note.message)
        number = int(before[-1].suffix[1:]) + 1 if before else 1
        folder = root / f"{note.message}.{number}"
        place = up.ground.turn_folder(up.folder, folder)
        own = launches.quote_env({**launch.env, **about, MARK: place})
        wanted = Wanted(
            folder=place,
            launch=up.folder,
            cwd=up.cwd,
            argv=launch.argv,
            env=f"umask {UMASK:03o}\n. {shlex.quote(f'{up.folder}/env')}\n".encode() + own,
            prompt=launch.stdin,
            marks={processes.MARK: up.generation, "FLEET_LAUNCH": up.folder, MARK: place},
            limit=up.spec.headless.timeout + LATE,
            grace=self._settings.kill_grace,
            place=up.spec,
        )
        note = replace(note, there=None if place == str(folder) else place)
        said = File(str(folder / "turn"), json.dumps(asdict(note)).encode())
        files.put([said, *up.ground.kept_here(wanted)])
        return Turn(note, folder, up.ground, up.secrets), wanted

    def _kept(self, name: str, message: str) -> TurnResult | None:
        """What came of a message's turn, where it has ended for good."""
        folders = _attempts(self._places.agent(name) / "turns", message)
        note = _note(folders[-1]) if folders else None
        if note is None:
            return None
        kept = files.read(folders[-1] / "end")
        if kept is not None:
            result, _ = _ending(kept)
        elif any((folders[-1] / name).exists() for name in ("exit", "cut")):
            result = self._read(folders[-1], find_harness(note.harness), None, stopped=False)
        else:
            return None
        return None if _again(result) else result

    def _read(
        self, folder: Path, harness: Harness, cut: TurnResult | None, stopped: bool, secrets: tuple[str, ...] = ()
    ) -> TurnResult:
        """What came of the turn in this folder. It is kept from then on; the prompt goes."""
        noted = (files.read(folder / "exit") or b"").strip()
        status = int(noted) if noted.isdigit() else None
        output = files.read(folder / "out", OUTPUT_MOST) or b""
        errors = files.read(folder / "err", TAIL) or b""
        result = harness.read_turn(output, errors, status, self._clock.now())
        note, said = _note(folder), files.read(folder / "cut")
        if cut is None and said is not None:
            cut, _ = _ending(said)
        if cut is None and status in TIMED and note is not None and _ended_at(folder) >= note.deadline:
            cut = _timed_out(note)
        if cut is not None and (cut is INTERRUPTED or not result.ok):
            result = cut
        elif not result.ok and result.remedy is Remedy.RETRY and (status is None or status in KILLED):
            died = TurnResult(
                ok=False, reason="died", message="Its processes were ended from outside.", remedy=Remedy.RETRY
            )
            result = STOPPED if stopped else died
        result = replace(result, text=_bounded(result.text))
        printed = {"out": (output, output[-OUTPUT_KEPT:]), "err": (errors, errors)}
        kept = {name: (whole, _redacted(end, secrets)) for name, (whole, end) in printed.items()}
        put = [File(str(folder / name), clean) for name, (whole, clean) in kept.items() if clean != whole]
        files.put([*put, _noted(folder / "end", result, self._clock.now())])
        (folder / "prompt").unlink(missing_ok=True)
        _forget_oldest(folder.parent)
        return result

    # -- what is told ----------------------------------------------------------------------------------------------

    def _place(self, name: str) -> dict[str, Turn | None]:
        self._freed.setdefault(name, asyncio.Condition())
        return self._running.setdefault(name, {})

    async def _free(self, name: str, thread: str) -> None:
        self._place(name).pop(thread, None)
        async with self._freed[name]:
            self._freed[name].notify_all()
        self._tell_agent(name)

    def _tell_begin(self, turn: Turn) -> None:
        note = turn.note
        payload = {"thread": note.thread, "from": note.sender, "session_id": note.session_id, "turn": turn.folder.name}
        self._hear.event(note.agent, "turn", "begun", {"message": note.message, **payload})
        self._tell_agent(note.agent)

    def _tell_end(self, turn: Turn, result: TurnResult) -> None:
        note = turn.note
        took = round(self._clock.now() - note.began_at, 3)
        payload = {
            "message": note.message,
            "thread": note.thread,
            "reason": result.reason,
            "said": redact(result.message) or None,
            "after_s": took,
            "cost_usd": result.cost_usd,
            "turn": turn.folder.name,
        }
        self._hear.event(note.agent, "turn", _outcome(result), payload)
        self._sweeps.begin(self._spend(note.agent, result))
        if result.reason in ("usage_limit", "auth_error"):
            self._trouble[note.agent] = result
            if result.reason == "usage_limit":
                self._let_go.begin(self._lift(note.agent, result))
        elif result.ok:
            self._trouble.pop(note.agent, None)

    async def _spend(self, name: str, result: TurnResult) -> None:
        self._hear.spent(name, await self._sessions.spend(name, result, self._clock.now()))

    async def _lift(self, name: str, limit: TurnResult) -> None:
        """A usage limit is over at its time."""
        until = limit.resets_at or self._clock.now() + LIMIT_FOR
        await self._clock.sleep(until - self._clock.now())
        if self._trouble.get(name) is limit:
            del self._trouble[name]
            self._tell_agent(name)

    def _tell_agent(self, name: str) -> None:
        """Its activity, by its turns."""
        if not self._closed and (self._hear.standing(name) is not None or self._hear.unseen(name)):
            turns = [turn.note for turn in self._running.get(name, {}).values() if turn is not None]
            self._hear.evidence(name, evidence(turns, self._trouble.get(name), self._clock.now()))


def _failed(task: asyncio.Task[Any], error: BaseException) -> None:
    log.error("after a turn: %s failed", task.get_name(), exc_info=error)


# -- decisions, of plain values --------------------------------------------------------------------------------


def _room(place: Mapping[str, object], thread: str, spec: AgentSpec) -> bool:
    """Whether a turn of this conversation may begin: one at a time in it, and so many of the agent."""
    return thread not in place and len(place) < spec.headless.max_parallel


def evidence(turns: list[Note], trouble: TurnResult | None, now: float) -> Evidence:
    """What an agent's turns say of its activity: it works while one runs; then the last one's trouble stands."""
    if turns:
        about = ", ".join(f"{note.message} of {note.sender}" for note in turns[:3])
        more = f" and {len(turns) - 3} more" if len(turns) > 3 else ""
        return _said(Activity.WORKING, "turns/running", now, f"a turn runs for {about}{more}")
    if trouble is None:
        return _said(Activity.READY, "turns/none", now, "no turn runs")
    if trouble.reason == "usage_limit":
        said = _said(Activity.LIMITED, "turns/usage_limit", now, redact(trouble.message))
        return replace(said, resets_at=trouble.resets_at)
    return _said(Activity.ERROR, f"turns/{trouble.reason}", now, redact(trouble.message))


def spent(before: Mapping[str, Any], result: TurnResult, now: float) -> dict[str, Any]:
    """What an agent's turns have cost with one more: under the names of a status line, `usage` beside them."""
    usage = dict(before.get("usage") or {})
    usage["turns"] = usage.get("turns", 0) + 1
    for kind, count in result.tokens.items():
        usage[kind] = usage.get(kind, 0) + count
    costs = [cost for cost in (before.get("cost_usd"), result.cost_usd) if cost is not None]
    model = result.model or before.get("model")
    return {"cost_usd": sum(costs) if costs else None, "model": model, "usage": usage, "observed_at": now}


def _said(activity: Activity, rule: str, now: float, excerpt: str) -> Evidence:
    return Evidence(source=Source.PROCESS, rule=rule, observed_at=now, activity=activity, excerpt=excerpt)


def _again(result: TurnResult) -> bool:
    """Whether the message may have another turn after this."""
    return not result.ok and result.remedy in (Remedy.RETRY, Remedy.FRESH, Remedy.RESUME)


def _end(result: TurnResult) -> TurnEnd:
    """The same for the hub."""
    return TurnEnd(ok=result.ok, text=result.text, reason=result.reason, declined=result.declined, again=_again(result))


def _ended_at(folder: Path) -> float:
    """When its launcher noted its end."""
    return (folder / "exit").stat().st_mtime


def _not_started(why: str) -> TurnResult:
    message = f"The turn could not be started: {why}."
    return TurnResult(ok=False, reason="not_started", message=message, remedy=Remedy.RETRY)


def _timed_out(note: Note) -> TurnResult:
    span = note.deadline - note.began_at
    return TurnResult(
        ok=False,
        reason="timed_out",
        message=f"It was not done within {span:g} s (headless.timeout) and was ended.",
        remedy=Remedy.PERSON,
    )


def _outcome(result: TurnResult) -> str:
    return "declined" if result.declined else "answered" if result.ok else "failed"


def _redacted(printed: bytes, secrets: tuple[str, ...]) -> bytes:
    return redact(printed.decode(errors="surrogateescape"), secrets).encode(errors="surrogateescape")


def _bounded(text: str) -> str:
    """An answer that fits into a message."""
    whole = text.encode()
    if len(whole) <= ANSWER_MOST:
        return text
    return whole[:ANSWER_MOST].decode(errors="ignore") + f"\n… ({len(whole) - ANSWER_MOST} bytes are left out)"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")


# -- the log ---------------------------------------------------------------------------------------------------


def log_of(places: Places, agent: str, count: int) -> list[str]:
    """The newest lines of an agent's turns, oldest first: what each was about, what it printed, what came of it."""
    root = places.agent(agent) / "turns"
    found = [(note, root / name) for name in files.names(root) if (note := _note(root / name)) is not None]
    found.sort(key=lambda each: each[0].began_at, reverse=True)
    lines: list[str] = []
    for note, folder in found:
        if len(lines) >= count:
            break
        lines = [*_turn_log(note, folder), *lines]
    return lines[max(0, len(lines) - count) :]


def _turn_log(note: Note, folder: Path) -> list[str]:
    lines = [f"▶ {_time(note.began_at)} {note.message} of {note.sender} in {note.thread}"]
    lines += find_harness(note.harness).turn_lines(files.read(folder / "out", OUTPUT_KEPT) or b"")
    lines += (files.read(folder / "err", TAIL) or b"").decode(errors="replace").splitlines()[-20:]
    kept = files.read(folder / "end")
    if kept is not None:
        result, at = _ending(kept)
        why = "" if result.ok else f" ({result.reason}: {result.message})"
        lines.append(f"■ {_time(at)} {note.message} {_outcome(result)} after {at - note.began_at:.1f} s{why}")
    return lines


def _noted(path: Path, result: TurnResult, now: float) -> File:
    """What came of a turn, or is about to, to be written down."""
    return File(str(path), json.dumps(asdict(result) | {"at": now}).encode())


def _ending(kept: bytes) -> tuple[TurnResult, float]:
    """What came of a turn, as it was written down, and when."""
    said = json.loads(kept)
    at = said.pop("at")
    return TurnResult(**{**said, "remedy": Remedy(said["remedy"]) if said["remedy"] else None}), at


# -- folders --------------------------------------------------------------------------------------------------


def _attempts(root: Path, message: str) -> list[Path]:
    """The folders of a message's turns, the newest last."""
    numbers = [name.removeprefix(f"{message}.") for name in files.names(root) if name.startswith(f"{message}.")]
    return [root / f"{message}.{number}" for number in sorted(int(n) for n in numbers if n.isdigit())]


def _note(folder: Path) -> Note | None:
    content = files.read(folder / "turn")
    return None if content is None else Note(**json.loads(content))


def _forget_oldest(root: Path) -> None:
    """Remove the folders of turns that are over, but for the latest."""
    names = files.names(root)
    if len(names) <= 2 * KEPT:  # now and then is enough
        return
    ended = [root / name for name in names if (root / name / "end").exists()]
    ended.sort(key=lambda folder: (folder / "end").stat().st_mtime, reverse=True)
    for folder in ended[KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)
