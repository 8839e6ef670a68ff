"""The operator's verbs, as lines of JSON over the Unix socket.

One request a connection: a line `{"verb", "args", "client"}`. The answer: any number of progress lines, each a JSON
object, then `=EXIT BYTES VERSION` and that many bytes: the very text that `--json` prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fleet import __version__, headless, lifecycle, manifests, processes, report, sockets
from fleet.agent import UP
from fleet.dependencies import start_order
from fleet.errors import (
    BadRequest,
    CannotYet,
    DialogOpen,
    FleetError,
    Held,
    HostUnreachable,
    InvalidManifest,
    LaunchError,
    NotAllowed,
    StartFailed,
    StorageError,
    TimedOut,
    Unconfirmed,
    UnknownAgent,
    Usage,
)
from fleet.ledger import StartEnvironment
from fleet.manifests.changes import compare
from fleet.manifests.model import NAME_PATTERN, AgentSpec
from fleet.manifests.problem import nearest
from fleet.redact import redact
from fleet.runner import Runner
from fleet.supervisor import DOWN, Supervisor
from fleet.tasks import Tasks
from fleet.terms import Activity, Phase
from fleet.verbs import VERBS, check, shown

log = logging.getLogger(__name__)

LINE_LIMIT = 16 * 1024 * 1024
"""A request's longest line in bytes: an environment fits many times."""

LOG_LINES = 200
"""How much of a log is shown, and followed from, where nobody says."""

FOLLOWED = 600
"""How many of a log's last lines are compared with those of half a second ago, by whoever follows it."""

CAUGHT_UP = 5000
"""How many are asked for where none of them is among those any more."""

ON_SCREEN = 100
"""How many of them may stand on the screen still, where a program may change them."""

LOG_TAIL = 2_000_000
"""How much of a conversation's end `fleet logs` reads, in bytes, however long it is."""
DIALOG_GOES = 2.0
"""Seconds after which a dialog of a started agent is one that a person should hear of."""
NEXT_DRAWN_WITHIN = 20.0
"""The same where its pane shows another thing by now, or what fleet has settled: a busy machine draws late."""

UNENDED = (Phase.STOPPING, Phase.UNVERIFIABLE)
"""Where a stop is under way, or waits for the host: something of the agent may live."""
EVENT_TYPES = ("hook", "phase", "activity", "launch", "exit", "killed", "action", "session", "fault")
"""What events are of, as far as agents are concerned."""

Args = Mapping[str, Any]
Progress = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb gives back: the data, and the exit code that the command line ends with."""

    data: Mapping[str, Any]
    exit_code: int = 0
    warnings: Sequence[str] = field(default_factory=tuple)


class Operator:
    """The verbs. Each takes its arguments and a way to tell progress."""

    def __init__(self, supervisor: Supervisor, leave: Callable[[], None]) -> None:
        self.fleet = supervisor
        self.leave = leave
        self.started_at = time.time()
        self.notices: list[Callable[[], Iterable[str]]] = []
        """What others beside the supervisor have to tell of themselves that does not work."""
        self._going_down: asyncio.Task[tuple[list[str], StorageError | None]] | None = None
        self._beside = Tasks(_failed)
        """What goes on though nobody at the command line waits for it any more."""

    async def do(self, verb: str, args: Args, progress: Progress) -> Answer:
        """Carry out one verb."""
        if verb not in VERBS:
            raise BadRequest(
                f"This daemon ({__version__}) does not know the verb {verb!r}.",
                hint="A newer command line meets an older daemon: `fleet daemon restart`.",
                known=sorted(VERBS),
            )
        check(verb, args)
        answer: Answer = await getattr(self, f"verb_{verb}")(args, progress)
        return answer

    # -- reading ---------------------------------------------------------------------------------------------------

    async def verb_ping(self, args: Args, progress: Progress) -> Answer:
        home, problems = str(self.fleet.places.state), [notice for notices in self.notices for notice in notices()]
        return Answer({**self._daemon(), "home": home, "problems": problems})

    async def verb_status(self, args: Args, progress: Progress) -> Answer:
        runners = self._select(args, everything=True)
        if args.get("brief"):
            now = self.fleet.clock.now()
            agents = [report.summary(r, now, self.fleet.settings) for r in runners]
        else:
            hooks = await self.fleet.events.summaries([r.name for r in runners])
            agents = [self._full(r, hooks.get(r.name, {})) for r in runners]
        return Answer({"agents": agents, "daemon": self._daemon()}, warnings=self._warnings())

    async def verb_list(self, args: Args, progress: Progress) -> Answer:
        capability, machine = args.get("capability"), args.get("machine")
        found = [
            r
            for r in self._select(args, everything=True)
            if (not capability or capability in r.spec.capabilities)
            and (not machine or machine in (r.spec.labels.get("machine"), report.machine(r.spec)))
        ]
        now = self.fleet.clock.now()
        agents = [
            {
                **report.summary(r, now, self.fleet.settings),
                "machine": report.machine(r.spec),
                "description": r.spec.description,
            }
            for r in found
        ]
        return Answer({"agents": agents})

    async def verb_inspect(self, args: Args, progress: Progress) -> Answer:
        runner = self._one(args)
        await runner.senses.read_transcript()
        if getattr(runner.facts.transcript, "last_user_message", None) is None:
            await runner.senses.read_transcript(LOG_TAIL)
        hooks = await self.fleet.events.summaries([runner.name])
        whole = self._full(runner, hooks.get(runner.name, {}))
        if whole["command"] is None:
            launches = await self.fleet.events.list(agent=runner.name, type="launch", limit=1)
            report.add(whole, "command", launches[-1].payload.get("argv") if launches else None, "never launched")
        here = runner.runtime.far is None
        parent = processes.parent(whole["pid"]) if whole["pid"] and here else None
        report.add(whole, "ppid", parent, "no process of it runs" if here else "it runs on another machine")
        actions = await self.fleet.events.list(agent=runner.name, type="action")
        for name, value in report.actions(actions).items():
            report.add(whole, name, value, "fleet has not acted on it" if not actions else "fleet does not measure it")
        if runner.facts.cwd:
            for key, name in (("claude_md", "CLAUDE.md"), ("mcp_json", ".mcp.json")):
                content, why = None, f"there is no {name} in the workspace"
                try:
                    content = await runner.runtime.read(f"{runner.facts.cwd}/{name}")
                except (LaunchError, HostUnreachable) as error:
                    why = str(error)
                text = redact(content.decode(errors="replace"))[:8000] if content is not None else None
                report.add(whole, key, text, why)
        return Answer(whole, warnings=self._warnings())

    async def verb_explain(self, args: Args, progress: Progress) -> Answer:
        runner = self._one(args)
        await runner.senses.read_transcript()  # a turn's end is written there after its hook has told
        return Answer(report.explanation(runner, self.fleet.clock.now()))

    async def verb_health(self, args: Args, progress: Progress) -> Answer:
        now = self.fleet.clock.now()
        agents = [report.health(r, now, self.fleet.settings) for r in self._select(args, everything=True)]
        sick = any(a["healthy"] is False for a in agents)
        return Answer({"agents": agents}, exit_code=1 if sick else 0)

    async def verb_events(self, args: Args, progress: Progress) -> Answer:
        agent = args.get("agent")
        await self.fleet.write_events()  # what `status` has told is among them
        if agent is not None and agent not in self.fleet.runners and not await self._has_events(agent):
            agent = self._named(agent, str(args.get("cwd") or "/")).name
        kind, after, limit = args.get("type"), args.get("after"), args.get("limit")
        if not args.get("follow"):
            told = [e.to_json() for e in await self.fleet.events.list(agent=agent, type=kind, after=after, limit=limit)]
            return Answer({"events": told}, warnings=[] if told else await self._no_such_type(kind))
        if limit == 0 and (newest := await self.fleet.events.list(limit=1)):  # only what comes from now on
            after = max(after or 0, newest[-1].id or 0)
        while True:
            more = self.fleet.events.more()
            for event in await self.fleet.events.list(agent=agent, type=kind, after=after, limit=limit):
                await progress({"event": event.to_json()})
                after = event.id
            limit = None
            await more.wait()

    async def _no_such_type(self, word: str | None) -> list[str]:
        """A word about a type that no event has ever had: most often it is misspelt."""
        if word is None or word in EVENT_TYPES or await self.fleet.events.list(type=word, limit=1):
            return []
        near = nearest(word, EVENT_TYPES)
        meant = f"did you mean {near}?" if near else f"there are {', '.join(EVENT_TYPES)}"
        return [f"no event is of the type {shown(word)}: {meant}"]

    async def _has_events(self, name: str) -> bool:
        """A session that was started by hand has a name and events, and so has an agent that was removed."""
        return bool(await self.fleet.events.list(agent=name, limit=1))

    async def verb_logs(self, args: Args, progress: Progress) -> Answer:
        runner = self._one(args)
        count = LOG_LINES if args.get("lines") is None else int(args["lines"])
        if not args.get("follow"):
            return Answer(await self._log(runner, count))
        window = max(count, FOLLOWED)
        shown: list[str] = (await self._log(runner, window))["lines"]
        for line in shown[len(shown) - min(count, len(shown)) :]:
            await progress({"line": line})
        away = False
        while True:
            if away is not (runner.life.phase is Phase.UNVERIFIABLE):
                away = not away
                why = f"{runner.name} cannot be seen: {report.why(runner)['message']}"
                await progress({"note": why if away else f"{runner.name} is seen again"})
            await self.fleet.clock.sleep(0.5)
            lines = (await self._log(runner, window))["lines"]
            fresh, joined = _news(shown, lines)
            if not joined and len(lines) == window:  # after a cut there may be many
                lines = (await self._log(runner, CAUGHT_UP))["lines"]
                fresh, joined = _news(shown, lines)
                lines = lines[-window:]
            if not joined and len(fresh) >= CAUGHT_UP:
                await progress(
                    {"note": f"more lines went by than can be followed: `fleet logs {runner.name}` has them"}
                )
            for line in fresh:
                await progress({"line": line})
            shown = lines

    async def _log(self, runner: Runner, count: int) -> dict[str, Any]:
        await runner.senses.read_transcript(LOG_TAIL)
        handle = runner.handle
        if runner.headless:
            lines = await asyncio.to_thread(headless.log_of, self.fleet.places, runner.name, count)
            return {
                "name": runner.name,
                "source": "turns",
                "lines": [redact(line, runner.secrets) for line in lines],
                "screen": None,
            }
        lines = list(getattr(runner.facts.transcript, "lines", ()) or ())
        source = "transcript"
        screen: str | None = None
        if handle is not None:
            if not lines:
                lines, source = await runner.runtime.log_lines(handle, count), "pane"
            if runner.life.phase in (*UP, Phase.UNVERIFIABLE) and runner.facts.screen is not None:
                screen = runner.facts.screen.text
            else:
                with contextlib.suppress(HostUnreachable):  # what is kept here is shown all the same
                    screen = await runner.runtime.last_screen(handle)
        return {
            "name": runner.name,
            "source": source,
            "lines": [redact(line, runner.secrets) for line in lines[max(0, len(lines) - count) :]],
            "screen": redact(screen, runner.secrets) if screen else None,
        }

    async def verb_pane(self, args: Args, progress: Progress) -> Answer:
        runner = self._one(args)
        if runner.handle is None or runner.life.phase not in (*UP, Phase.STOPPING):
            why = f" ({report.why(runner)['message']})" if runner.life.phase is Phase.UNVERIFIABLE else ""
            raise Held(f"{runner.name} has no pane: it is {runner.life.phase}{why}.", hint=f"fleet logs {runner.name}")
        pane = self._full(runner, {})["pane"]
        read_only = bool(args.get("read_only"))
        argv = runner.runtime.attach_argv(runner.handle, read_only=read_only)
        return Answer({**(pane or {}), "name": runner.name, "argv": argv, "read_only": read_only})

    async def verb_job(self, args: Args, progress: Progress) -> Answer:
        """The batch script that was submitted for an agent, while its launch lasts; `null` where there is none."""
        runner = self._one(args)
        handle, script = runner.handle, None
        lasts = runner.life.phase in (*UP, Phase.STOPPING, Phase.UNVERIFIABLE)
        if lasts and handle is not None and handle.runtime == "slurm":
            script = await runner.runtime.read(f"{handle.folder}/job")
        told = {"name": runner.name, "folder": handle.folder if handle else None}
        return Answer({**told, "script": None if script is None else script.decode(errors="replace")})

    async def verb_wait(self, args: Args, progress: Progress) -> Answer:
        runner, word = self._one(args), str(args.get("for") or "started")
        timeout = float(args.get("timeout") or 60)
        if not await self.fleet.until(lambda: _reached(runner, word), timeout):
            raise TimedOut(
                f"{runner.name} was not {word} within {round(timeout, 2):g} s: it is {_where(runner)}.",
                hint=f"fleet explain {runner.name}",
            )
        return Answer(
            {"name": runner.name, "reached": word, "phase": runner.life.phase, "activity": report.activity(runner)}
        )

    # -- acting ----------------------------------------------------------------------------------------------------

    async def verb_start(self, args: Args, progress: Progress) -> Answer:
        runners, warnings = await self._declared(args)
        running = {r.name for r in runners if r.life.phase in UP and r.life.wanted}
        await self.fleet.start(runners, fresh=bool(args.get("fresh")))
        return await self._await_starts(runners, running, args, progress, warnings)

    async def verb_restart(self, args: Args, progress: Progress) -> Answer:
        chosen = self._select(args)
        warnings: list[str] = []
        env = args.get("env")
        renewed: list[tuple[AgentSpec, StartEnvironment | None]] = []
        for runner in chosen:
            if runner.spec.source and Path(runner.spec.source).exists():
                spec, told = await self._reread(runner.spec)
                _refuse_what_cannot_be(spec)
                warnings += told
                renewed.append((spec, await self.fleet.environment(spec, env) if env is not None else None))
        for spec, environment in renewed:
            await self.fleet.declare(spec, environment)
        await self._restart(chosen, args)
        return await self._await_starts(chosen, set(), args, progress, warnings)

    async def _restart(self, runners: Sequence[Runner], args: Args) -> None:
        """Ask for it and, where somebody waits, see each of them launched again."""
        launches = {r.name: r.record.launches for r in runners}
        await self.fleet.restart(runners, fresh=bool(args.get("fresh")))
        if args.get("wait", True):
            timeout = float(args.get("timeout") or 60)
            await self.fleet.until(
                lambda: all(r.held or r.record.launches > launches[r.name] for r in runners), timeout
            )

    async def verb_stop(self, args: Args, progress: Progress) -> Answer:
        chosen = self._select(args)
        was = {r.name: r.life.phase for r in chosen}
        deadline = self.fleet.clock.now() + float(args.get("timeout") or 60)
        stopping = self._beside.begin(self.fleet.stop(chosen), f"stop {', '.join(was)}")
        while not stopping.done() and not self.fleet.storage_problem and self.fleet.clock.now() < deadline:
            await asyncio.wait({stopping}, timeout=min(0.5, deadline - self.fleet.clock.now()))
        if stopping.done():
            stopping.result()
        else:
            log.warning("stop of %s goes on behind the command line", ", ".join(was))
        told = [
            {
                "name": r.name,
                "outcome": "held" if r.life.wanted or r.life.phase in UNENDED else "stopped",
                "was": was[r.name],
                "phase": r.life.phase,
                "exit_status": r.life.exit_status,
                "message": report.why(r)["message"],
            }
            for r in chosen
        ]
        held = any(t["outcome"] == "held" for t in told)
        problem = self.fleet.storage_problem
        why = [f"It goes on once it can be written down: {problem}"] if held and problem else []
        return Answer({"agents": told}, exit_code=Held.exit_code if held else 0, warnings=why)

    async def verb_reset(self, args: Args, progress: Progress) -> Answer:
        chosen = self._select(args)
        for runner in chosen:
            runner.post(lifecycle.Reset())
        for runner in chosen:
            await runner.handled()
        told = [
            {"name": r.name, "outcome": "reset", "phase": r.life.phase, "reason": None, "message": r.life.message}
            for r in chosen
        ]
        return Answer({"agents": told})

    async def verb_remove(self, args: Args, progress: Progress) -> Answer:
        chosen = self._select(args)
        warnings = [warning for runner in chosen for warning in await self.fleet.remove(runner)]
        return Answer({"agents": [{"name": r.name, "outcome": "removed"} for r in chosen]}, warnings=warnings)

    async def verb_diff(self, args: Args, progress: Progress) -> Answer:
        changes, warnings, _ = await self._changes(args)
        differ = any(c["change"] != "same" for c in changes)
        return Answer({"changes": changes}, exit_code=1 if differ else 0, warnings=warnings)

    async def verb_apply(self, args: Args, progress: Progress) -> Answer:
        changes, warnings, specs = await self._changes(args)
        for spec in specs.values():
            _refuse_what_cannot_be(spec)
        env = args.get("env") or {}
        environments = {name: await self.fleet.environment(spec, env) for name, spec in specs.items()}
        up = {r.name for r in self.fleet.runners.values() if r.life.wanted}
        started: list[Runner] = []
        restarted: list[Runner] = []
        for change in changes:
            name, kind = change["name"], change["change"]
            if kind == "gone":
                change["outcome"] = "kept; --prune stops it"
                if args.get("prune"):
                    warnings += await self.fleet.remove(self.fleet.runners[name])
                    change["outcome"] = "removed"
                continue
            again = name in up and kind == "changed" and change["restart"]
            environment = environments[name] if again or name not in up else None
            runner = await self.fleet.declare(specs[name], environment)
            if name not in up:
                started.append(runner)
                change["outcome"] = "started"
            elif again:
                restarted.append(runner)
                change["outcome"] = "restarted"
            else:
                change["outcome"] = "taken over" if kind == "changed" else "same"
        await self.fleet.start(started)
        await self._restart(restarted, args)
        started += restarted
        answer = await self._await_starts(started, set(), args, progress, warnings)
        return Answer(
            {"changes": changes, "agents": answer.data["agents"]}, exit_code=answer.exit_code, warnings=warnings
        )

    async def verb_shutdown(self, args: Args, progress: Progress) -> Answer:
        """Where whoever asks goes away, or waits no longer, it goes on; who asks again waits for the same."""
        if self._going_down is None or self._going_down.done():
            self._going_down = asyncio.create_task(self._go_down(), name="fleet-shutdown")
            await asyncio.sleep(0)
        if args.get("leave_unreachable"):
            self.fleet.leave_unreached()
        deadline = self.fleet.clock.now() + float(args.get("timeout") or 180)
        told: set[str] = set()
        while not self._going_down.done() and self.fleet.clock.now() < deadline:
            await asyncio.wait({self._going_down}, timeout=0.25)
            for runner in self.fleet.unreached():
                if runner.name not in told and not self._going_down.done():
                    told.add(runner.name)
                    told_of = f"waits for {runner.name}, which cannot be reached: {report.why(runner)['message']}"
                    await progress({"message": f"{told_of} (`fleet shutdown --leave-unreachable` does not wait)"})
        left = [{"name": r.name, "message": report.why(r)["message"]} for r in self.fleet.unreached()]
        if not self._going_down.done():
            ends = [r.name for r in self.fleet.runners.values() if r.life.phase in UNENDED]
            data = {"stopped": [], "left": left, "daemon": "running"}
            goes_on = f"The daemon stays until these have ended, and ends then: {', '.join(ends)}"
            return Answer(data, exit_code=Held.exit_code, warnings=[goes_on])
        up, unwritten = self._going_down.result()
        data = {"stopped": up, "left": left, "daemon": "ending"}
        if unwritten is None:
            may = [f"{one['name']} may still run, and the next daemon ends it: {one['message']}" for one in left]
            return Answer(data, exit_code=Unconfirmed.exit_code if left else 0, warnings=may)
        again = f" and would bring {', '.join(up)} up again" if up else ""
        why = (
            f"It is not written down that the fleet is down: {unwritten} The next daemon does not know it{again}: "
            "make space, then say `fleet shutdown` once more."
        )
        return Answer(data, exit_code=Unconfirmed.exit_code, warnings=[why])

    async def _go_down(self) -> tuple[list[str], StorageError | None]:
        done = await self.fleet.shutdown()
        self.leave()
        return done

    async def verb_daemon_stop(self, args: Args, progress: Progress) -> Answer:
        self.leave()
        left = [r.name for r in self.fleet.runners.values() if r.life.phase in UP]
        return Answer({"daemon": "ending", "agents_left_running": left})

    async def verb_cleanup(self, args: Args, progress: Progress) -> Answer:
        keep = {
            r.handle.generation
            for r in self.fleet.runners.values()
            if r.handle and r.life.phase in (*UP, Phase.STOPPING, Phase.UNVERIFIABLE)
        }
        dry_run = bool(args.get("dry_run"))
        removed, warnings = await self.fleet.clear_there(dry_run=dry_run)
        for host in self.fleet.hosts.all:
            where = f" on {host.far.machine}" if host.far else ""
            try:
                removed += [f"{what}{where}" for what in await host.cleanup(keep, dry_run=dry_run)]
            except HostUnreachable as error:
                warnings.append(f"Nothing was removed{where}: {error}")
        return Answer({"removed": removed, "dry_run": dry_run}, warnings=warnings)

    # -- what they share -------------------------------------------------------------------------------------------

    def _daemon(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "version": __version__, "uptime_s": round(time.time() - self.started_at, 1)}

    def _warnings(self) -> list[str]:
        told = []
        for host, why in self.fleet.unreachable.items():
            here = "The cluster" if host.name.startswith("slurm") else "The multiplexer"
            told.append(f"{host.far.machine if host.far else here} cannot be read: {why}. States are as last seen.")
        if self.fleet.storage_problem:
            told.append(f"Nothing can be written down, so nothing is started or stopped: {self.fleet.storage_problem}")
        if self.fleet.faults:
            told.append(f"{self.fleet.faults} internal faults; see {self.fleet.places.log}")
        told += [notice for notices in self.notices for notice in notices()]
        if self.fleet.ramp_note:
            told.append(self.fleet.ramp_note)
        told += self.fleet.rules.errors.values()
        return told

    def _full(self, runner: Runner, hooks: Mapping[str, Any]) -> dict[str, Any]:
        return report.full(runner, self.fleet.clock.now(), self.fleet.settings, host=self.fleet.host, hooks=hooks)

    def _one(self, args: Args) -> Runner:
        target = str(args.get("target") or "")
        return self._named(target, str(args.get("cwd") or "/"))

    def _select(self, args: Args, *, everything: bool = False) -> list[Runner]:
        """The agents that the arguments name: names, manifest paths, labels, all."""
        targets: list[str] = list(args.get("targets") or ())
        labels: dict[str, str] = dict(args.get("labels") or {})
        runners = sorted(self.fleet.runners.values(), key=lambda r: r.name)
        if targets:
            cwd = str(args.get("cwd") or "/")
            found = {r.name: r for t in targets for r in self._at(t, cwd)}
            return report.matching(found.values(), labels)
        if labels:
            chosen = report.matching(runners, labels)
            if not chosen and not everything:
                raise UnknownAgent(f"No agent has {', '.join(f'{k}={v}' for k, v in labels.items())}.")
            return chosen
        if args.get("all") or everything:
            return runners
        raise Usage("No agent is named.", hint="Give names, -l label=value, or --all.")

    def _at(self, target: str, cwd: str) -> list[Runner]:
        if _is_path(target):
            path = Path(cwd, target)
            inside = [r for r in self.fleet.runners.values() if r.spec.source and _holds(path.resolve(), r.spec)]
            if inside:
                return inside
            loaded = manifests.agents(path)
            return [self._named(spec.name, cwd) for spec in loaded.specs]
        return [self._named(target, cwd)]

    def _named(self, target: str, cwd: str) -> Runner:
        if not target:
            raise Usage("The name is empty.", hint="A variable that is not set? `fleet status` lists the agents.")
        if target in self.fleet.runners:
            return self.fleet.runners[target]
        if _is_path(target):
            found = self._at(target, cwd)
            if len(found) == 1:
                return found[0]
            raise Usage(f"{target} holds {len(found)} agents; name one.")
        raise self._unknown(target, cwd)

    def _unknown(self, name: str, cwd: str) -> UnknownAgent:
        """With the manifest that bears the name and was never started, or the nearest of the names that there are."""
        beside = next((f for f in (f"{name}.yaml", f"{name}.yml") if _exists(cwd, f)), None)
        if beside:
            hint = f"`fleet start {beside}` starts the manifest of that name in this folder."
        elif near := nearest(name, self.fleet.runners):
            hint = f"Did you mean {near}?"
        else:
            hint = "`fleet status` lists the ones there are."
        return UnknownAgent(f"No agent is named {shown(name)}.", hint=hint, name=name)

    async def _declared(self, args: Args) -> tuple[list[Runner], list[str]]:
        """The agents that a start names, declared as their manifests stand now. All or none."""
        targets: list[str] = list(args.get("targets") or ())
        cwd, env = str(args.get("cwd") or "/"), args.get("env")
        specs: dict[str, AgentSpec] = {}
        known: list[Runner] = []
        warnings: list[str] = []

        async def take(path: Path) -> None:
            loaded = await asyncio.to_thread(manifests.agents, path)
            warnings.extend(str(w) for w in loaded.warnings)
            for spec in loaded.specs:
                if spec.name in specs and specs[spec.name].source != spec.source:
                    raise InvalidManifest(
                        f"Two manifests declare {spec.name}: {specs[spec.name].source} and {spec.source}."
                    )
                specs[spec.name] = spec

        if not targets and (args.get("labels") or args.get("all")):
            if self.fleet.places.agents.is_dir():
                await take(self.fleet.places.agents)
            for runner in self.fleet.runners.values():
                if runner.name not in specs:
                    known.append(runner)
            labels = dict(args.get("labels") or {})
            specs = {n: s for n, s in specs.items() if all(s.labels.get(k) == v for k, v in labels.items())}
            known = report.matching(known, labels)
        elif not targets:
            known = self.fleet.was_up() if self.fleet.ledger.note(DOWN) else []
            if not known and not self.fleet.places.agents.is_dir():
                raise Usage(
                    f"No agent is named, and there is no folder {self.fleet.places.agents}.",
                    hint="`fleet init NAME` writes a manifest; `fleet start NAME.yaml` starts it.",
                )
            if not known:
                await take(self.fleet.places.agents)
        for target in targets:
            if not target:
                raise Usage("One of the names is empty.", hint="A variable that is not set? `.` is this folder.")
            if _is_path(target) or (target not in self.fleet.runners and _exists(cwd, target)):
                await take(Path(cwd, target))
            elif (place := self._in_folder(target)) is not None:
                await take(place)
            else:
                known.append(self._named(target, cwd))
        for runner in known:
            if runner.spec.source and Path(runner.spec.source).exists():
                specs[runner.name], told = await self._reread(runner.spec)
                warnings += told
            else:
                specs[runner.name] = runner.spec
        for spec in specs.values():
            _refuse_what_cannot_be(spec)
        self._check_dependencies(specs)
        for spec in specs.values():
            quiet = manifests.not_acting(spec)
            first = spec.name not in self.fleet.runners
            if quiet and first:
                warnings.append(f"{spec.name}: not acting yet, though in the manifest: {', '.join(quiet)}.")
        runners = await self._declare_all(specs.values(), env, warnings)
        return runners, warnings

    async def _declare_all(
        self, specs: Iterable[AgentSpec], env: Mapping[str, str] | None, warnings: list[str]
    ) -> list[Runner]:
        """All of them or none: what can be refused is refused before the first is written down.

        One that runs keeps what it was launched with; that its manifest says something else now is told.
        """
        chosen: list[tuple[AgentSpec, StartEnvironment | None]] = []
        for spec in specs:
            runner = self.fleet.runners.get(spec.name)
            if runner is not None and runner.life.wanted and runner.life.phase in UP:
                if found := compare(runner.spec, spec):
                    differs = ", ".join(change.path for change in found)
                    warnings.append(
                        f"{spec.name} runs as it was started; its manifest says otherwise now ({differs}). "
                        f"`fleet apply` or `fleet restart {spec.name}` takes that over."
                    )
                spec = runner.spec
                chosen.append((spec, None))
            else:
                chosen.append((spec, await self.fleet.environment(spec, env) if env is not None else None))
        return [await self.fleet.declare(spec, environment) for spec, environment in chosen]

    def _in_folder(self, name: str) -> Path | None:
        """The manifest of that name in the default fleet folder, where no agent of that name is known yet."""
        if name in self.fleet.runners or not re.fullmatch(NAME_PATTERN, name):
            return None
        folder = self.fleet.places.agents
        return next((p for p in (folder / f"{name}.yaml", folder / name / f"{name}.yaml") if p.exists()), None)

    async def _reread(self, spec: AgentSpec) -> tuple[AgentSpec, list[str]]:
        """The manifest as it stands in its file now."""
        loaded = await asyncio.to_thread(manifests.agents, Path(spec.source))
        again = next((s for s in loaded.specs if s.name == spec.name), None)
        if again is None:
            raise UnknownAgent(
                f"{spec.source} declares {spec.name} no more.", hint=f"`fleet stop {spec.name}`, or put it back."
            )
        return again, [str(w) for w in loaded.warnings]

    def _check_dependencies(self, specs: Mapping[str, AgentSpec]) -> None:
        """Everybody it waits for is there, and nobody waits in a circle."""
        known = {r.name: r.spec for r in self.fleet.runners.values()} | dict(specs)
        start_order({name: [need.agent for need in spec.depends_on] for name, spec in known.items()})
        for spec in specs.values():
            for need in spec.depends_on:
                if need.agent not in specs and need.agent not in self.fleet.runners:
                    raise InvalidManifest(
                        f"{spec.name} depends on {need.agent}, and there is no such agent.",
                        hint=f"Start the folder that declares {need.agent}, or take it out of depends_on.",
                    )

    async def _await_starts(
        self, runners: Sequence[Runner], running: set[str], args: Args, progress: Progress, warnings: Sequence[str]
    ) -> Answer:
        """Until each has started, or it is clear that it has not."""
        if args.get("wait", True):
            timeout = float(args.get("timeout") or max((r.spec.startup.timeout for r in runners), default=1) + 30)
            told: dict[str, str] = {}
            deadline = self.fleet.clock.now() + timeout
            while True:
                begun = self.fleet.starting()  # before that, what is seen of one is of an earlier launch
                for runner in runners:
                    if runner.name in begun and runner.life.phase not in (*UP, Phase.BACKOFF):
                        continue
                    if told.get(runner.name) != (word := _where(runner)):
                        told[runner.name] = word
                        await progress(
                            {
                                "agent": runner.name,
                                "phase": runner.life.phase,
                                "activity": report.activity(runner),
                                "message": runner.life.message,
                            }
                        )
                remaining = deadline - self.fleet.clock.now()
                if remaining <= 0 or all(r.name not in begun and _settled(r) for r in runners):
                    break
                seen = {r.name: _where(r) for r in runners}
                await self.fleet.until(partial(_moved, runners, seen), min(remaining, 0.5))
            # A dialog that was just settled still stands on the last screen for a moment.
            await self.fleet.until(partial(_nobody_asks, runners), DIALOG_GOES)
            await self.fleet.until(partial(_all_drawn, runners), NEXT_DRAWN_WITHIN)
        agents = [_outcome(r, r.name in running) for r in runners]
        if not args.get("wait", True):
            for agent in agents:  # nothing has come of it yet: what is known is of before
                asked = {"outcome": "asked", "exit_code": 0, "reason": None, "message": None}
                agent |= {} if agent["name"] in running else asked
        codes = {a["exit_code"] for a in agents}
        code = next((c for c in (1, Held.exit_code, DialogOpen.exit_code) if c in codes), 0)
        for agent, runner in zip(agents, runners, strict=True):
            agent["warnings"] = list(runner.facts.warnings)
        return Answer({"agents": agents}, exit_code=code, warnings=list(warnings))

    async def _changes(self, args: Args) -> tuple[list[dict[str, Any]], list[str], dict[str, AgentSpec]]:
        folder = Path(str(args.get("cwd") or "/"), str(args.get("folder") or self.fleet.places.agents))
        loaded = await asyncio.to_thread(manifests.agents, folder)
        specs = {spec.name: spec for spec in loaded.specs}
        self._check_dependencies(specs)
        changes: list[dict[str, Any]] = []
        for name in sorted({*specs, *self.fleet.runners}):
            runner, spec = self.fleet.runners.get(name), specs.get(name)
            if spec is None:
                assert runner is not None
                changes.append({"name": name, "change": "gone", "fields": [], "restart": False})
            elif runner is None:
                changes.append({"name": name, "change": "new", "fields": [], "restart": True})
            else:
                found = compare(runner.spec, spec)
                changes.append(
                    {
                        "name": name,
                        "change": "changed" if found else "same",
                        "fields": [{"path": f.path, "restart": f.restart} for f in found],
                        "restart": any(f.restart for f in found),
                    }
                )
        return changes, [str(w) for w in loaded.warnings], specs


def _refuse_what_cannot_be(spec: AgentSpec) -> None:
    if why := manifests.cannot_yet(spec):
        raise CannotYet(why, hint="It validates; this version cannot start it.")


def _holds(path: Path, spec: AgentSpec) -> bool:
    """Whether a path means this agent: its manifest, or the fleet folder that holds NAME.yaml or NAME/NAME.yaml."""
    source = Path(spec.source)
    return path in (source, source.parent) or (path == source.parent.parent and source.stem == source.parent.name)


def _is_path(target: str) -> bool:
    return "/" in target or target.endswith((".yaml", ".yml")) or target in (".", "..")


def _exists(folder: str, path: str) -> bool:
    """Also of a path that no file can have, such as one that is too long."""
    return os.path.exists(os.path.join(folder, path))  # noqa: PTH110, PTH118


def _where(runner: Runner) -> str:
    """Phase and activity in one word or two."""
    doing = report.activity(runner)
    return f"{runner.life.phase}/{doing}" if doing else str(runner.life.phase)


def _reached(runner: Runner, word: str) -> bool:
    life, doing = runner.life, report.activity(runner)
    match word:
        case "started":
            return life.phase is Phase.RUNNING
        case "needs_input":
            return doing == word and life.phase in UP and not runner.facts.settling
        case "ready" | "working" | "limited" | "error":
            return doing == word and life.phase in UP
        case "stopped" | "finished" | "failed" | "backoff" | "running":
            return life.phase == word
        case _:
            raise Usage(
                f"`--for {word}` is none of started, ready, working, needs_input, limited, error, stopped, finished, "
                "failed, backoff, running."
            )


def _moved(runners: Sequence[Runner], seen: Mapping[str, str]) -> bool:
    return any(_where(r) != seen[r.name] for r in runners)


def _nobody_asks(runners: Sequence[Runner]) -> bool:
    running = [r for r in runners if r.life.phase is Phase.RUNNING]
    return not any(r.state.activity is Activity.NEEDS_INPUT for r in running)


def _all_drawn(runners: Sequence[Runner]) -> bool:
    return not any(r.life.phase is Phase.RUNNING and r.starting.dialog_goes for r in runners)


def _settled(runner: Runner) -> bool:
    """Whether a start has come to something that a person should hear of."""
    life = runner.life
    if life.phase is Phase.STARTING:
        return runner.starting.asks_a_person or runner.starting.stands_in_queue
    if runner.held:
        return True
    return (
        life.wanted
        and life.phase
        in (
            Phase.RUNNING,
            Phase.FINISHED,
            Phase.FAILED,
            Phase.BACKOFF,
            Phase.UNVERIFIABLE,
        )
    ) or (not life.wanted and life.phase in (Phase.FINISHED, Phase.FAILED))


def _outcome(runner: Runner, was_running: bool) -> dict[str, Any]:
    life = runner.life
    outcome, code = "held", Held.exit_code
    if life.phase is Phase.RUNNING or life.phase is Phase.FINISHED:
        outcome, code = ("already_running" if was_running else "started"), 0
    if life.phase in UP and runner.state.activity is Activity.NEEDS_INPUT:
        outcome, code = "dialog", DialogOpen.exit_code
    if life.phase in (Phase.FAILED, Phase.BACKOFF):
        outcome, code = "failed", StartFailed.exit_code
    return {
        "name": runner.name,
        "outcome": outcome,
        "exit_code": code,
        "phase": life.phase,
        "activity": report.activity(runner),
        "kind": runner.state.kind,
        "question": runner.state.question,
        **report.why(runner),
        "pid": runner.facts.owner,
        "session_id": runner.record.session_id,
    }


def _news(before: Sequence[str], after: Sequence[str]) -> tuple[Sequence[str], bool]:
    """What the end of a log shows that it did not before: new lines, and from the first that was changed on its screen.
    And whether it goes on where the other ended; else lines went by between the two."""
    settled = max(0, len(before) - ON_SCREEN)
    gone = 0  # how many of those before are not among the last ones any more
    first = after[0] if after else None
    while gone < settled and (before[gone] != first or before[gone:settled] != after[: settled - gone]):
        gone += 1
    joined, begin = gone < settled if settled else before[:1] == after[:1], 0
    if not joined and (known := before[max(0, settled - 20) : settled]):
        ends = range(len(after), len(known) - 1, -1)
        end = next((end for end in ends if after[end - len(known) : end] == known), None)
        joined, begin = end is not None, end or 0
    same = begin
    for was, line in zip(before[gone:], after[begin:], strict=False):
        if was != line:
            break
        same += 1
    return after[same:], joined


def _failed(task: asyncio.Task[Any], error: BaseException) -> None:
    log.error("%s failed", task.get_name(), exc_info=error)


# -- the socket -----------------------------------------------------------------------------------------------------


class Server:
    """The daemon's door: one request a connection, each in a task of its own."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()
        self._path: Path | None = None
        self._inode: int | None = None

    async def listen(self, path: Path) -> None:
        """Listen on a 0600 socket in a 0700 folder."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise NotAllowed(
                f"{path} stands where the daemon's socket belongs: {error.strerror}.", hint="Move it away."
            ) from error
        self._server = await asyncio.start_unix_server(self._serve, sock=sockets.bound(path), limit=LINE_LIMIT)
        self._path, self._inode = path, _inode(path)

    async def listen_still(self) -> None:
        """Listen anew where the socket was removed, as a logout does with all of $XDG_RUNTIME_DIR."""
        if self._path is not None and self._server is not None and _inode(self._path) != self._inode:
            log.warning("%s was removed: it is made again", self._path)
            self._server.close()
            await self.listen(self._path)

    async def close(self) -> None:
        """Answer what is being answered for a moment, then close; the socket goes."""
        if self._server is not None:
            self._server.close()
        if self._path is not None and _inode(self._path) == self._inode:
            self._path.unlink(missing_ok=True)
        current = [t for t in self._open if t is not asyncio.current_task()]
        if current:
            await asyncio.wait(current, timeout=1.0)
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            text, code = await self._answer(reader, writer)
            body = text.encode(errors="backslashreplace")  # of a byte that is no text, which JSON writes the same
            writer.write(b"=%d %d %s\n" % (code, len(body), __version__.encode()))
            writer.write(body + b"\n")
            await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            log.debug("a client hung up")
        finally:
            self._open.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int]:
        async def progress(told: Mapping[str, Any]) -> None:
            writer.write(encode(told).encode(errors="backslashreplace") + b"\n")
            await writer.drain()

        try:
            request = await _request(reader)
            doing = asyncio.ensure_future(
                self._operator.do(str(request.get("verb")), request.get("args") or {}, progress)
            )
            gone = asyncio.ensure_future(reader.read(1))
            try:
                done, _ = await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:  # the client hung up, or the daemon leaves: nobody waits for the answer any more
                gone.cancel()
                if not doing.done():
                    doing.cancel()
            if doing not in done:
                await asyncio.gather(doing, return_exceptions=True)
                raise ConnectionResetError
            answer = doing.result()
        except FleetError as error:
            return encode({"error": error.to_json()}), error.exit_code
        except ConnectionError:
            raise
        except Exception as error:  # a fault of ours must reach the asker, and the log
            log.exception("a request failed")
            fault = FleetError(
                f"The daemon failed at this: {type(error).__name__}: {error}",
                hint=f"Please report it with {self._operator.fleet.places.log}.",
            )
            return encode({"error": {**fault.to_json(), "code": "internal_error"}}), 1
        return encode(envelope(answer.data, answer.warnings)), answer.exit_code


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


async def _request(reader: asyncio.StreamReader) -> Mapping[str, Any]:
    hint = 'It looks like {"verb": "status", "args": {}}, on one line.'
    try:
        line = await asyncio.wait_for(reader.readline(), 10)
        request = json.loads(line)
    except (ValueError, RecursionError, TimeoutError) as error:
        raise BadRequest("The request is not one line of JSON.", hint=hint) from error
    if not isinstance(request, dict) or not isinstance(request.get("args"), dict | None):
        raise BadRequest("The request is not a JSON object with args.", hint=hint)
    return request


def envelope(data: Mapping[str, Any], warnings: Sequence[str] = ()) -> dict[str, Any]:
    """What `--json` prints."""
    return {"schema_version": 1, "generated_at": time.time(), "data": data, "warnings": list(warnings)}


def encode(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str, separators=(",", ":"))
