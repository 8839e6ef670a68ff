"""What a launch needs of its host and of the agent's past, gathered and decided: the way to a LaunchPlan.

Everything here reads; nothing is launched or written into a workspace (only a folder of fleet's own is made). What
the agent's record is to hold from then on comes back with the plan, so that it can be written down first.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from fleet import plan
from fleet.errors import LaunchError
from fleet.harnesses.base import Conversation, Harness, LaunchAsk
from fleet.ledger import Record, StartEnvironment
from fleet.manifests import sources
from fleet.manifests.model import AgentSpec
from fleet.runtimes.base import Runtime
from fleet.settings import Places, Settings
from fleet.terms import File, Handle, LaunchPlan

TRANSCRIPT_TAIL = 65_536
"""How much of a conversation's end is read for its facts, in bytes, however long it is."""
HOST_ANSWERS = 60.0
"""Seconds that a host may take to say where a folder is: a few milliseconds, where hundreds start at once more."""
FIRST_MESSAGE = "first-message"
"""The file in a launch's folder that holds the message to be typed once the program is ready for it."""

Version = Callable[[Harness, AgentSpec, Mapping[str, str], str], Awaitable[str | None]]
"""What the program says of its version, in this environment and folder."""


@dataclass(frozen=True, slots=True)
class Admission:
    """One launch's way into the hub."""

    hub: str
    """Where it is: the path of its socket, or a URL."""
    token: str = field(repr=False)


Admit = Callable[[AgentSpec, str], Awaitable[Admission | None]]
"""Let an agent's launch, by its generation, into the hub; what was given to its launches before counts no more.
`None`: it takes no part, or there is no hub."""
TOKEN = "token"
"""The file in a launch's folder that holds its token for the hub."""


async def no_hub(spec: AgentSpec, generation: str) -> Admission | None:
    """Where there is no hub."""
    return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the program runs, and with what environment."""

    cwd: str
    env: Mapping[str, str]
    starters: Mapping[str, str]
    """The environment of whoever started it. A `${VAR}` in a `src_…` file is from there, inherited or not."""
    spool: str
    """The folder there in which its hooks leave their events."""
    files: tuple[File, ...] = ()
    """What the environment speaks of, in the launch's folder."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A launch, ready to be written down and then done."""

    plan: LaunchPlan
    notes: Mapping[str, Any]
    """The record's fields that it changes."""
    warnings: tuple[str, ...]


class Preparing:
    """One launch of an agent, from its record and its handle."""

    def __init__(
        self,
        record: Record,
        harness: Harness,
        handle: Handle,
        runtime: Runtime,
        places: Places,
        settings: Settings,
        admit: Admit = no_hub,
        here: Runtime | None = None,
    ) -> None:
        """`here`: this machine, where the manifest is, if the launch is on another."""
        self._record, self._spec, self._harness, self._handle = record, record.spec, harness, handle
        self._runtime, self._places, self._settings = runtime, places, settings
        self._here = here or runtime
        self._admit = admit
        self._warnings: list[str] = []

    async def surroundings(self) -> Surroundings:
        """Raise `LaunchError` where the working folder or the virtual environment is not there."""
        spec = self._spec
        kept = StartEnvironment.load(self._places.agent(spec.name))
        env = environment(spec, self._harness, kept, await session_there(spec, self._runtime))
        cwd, venv = await together(self._working_folder(env), self._venv(env))
        if venv:
            env = plan.venv_environment(env, venv)
        env.update(plan.derived(spec, self._handle, cwd))
        files = await self._enter_hub(env)
        return Surroundings(cwd, env, kept.environ, spool_of(spec.name, self._runtime, self._places), files)

    async def _enter_hub(self, env: dict[str, str]) -> tuple[File, ...]:
        """Tell it where the hub is, and where its token for it lies: never the token itself."""
        admission = await self._admit(self._spec, self._handle.generation)
        if admission is None:
            return ()
        token = File(f"{self._handle.folder}/{TOKEN}", admission.token.encode() + b"\n")
        far = self._runtime.far
        hub = admission.hub if far is None else far.hub
        if hub is None:
            self._warnings.append(f"{far.machine if far else 'the host'} carries no socket of the hub's")
            return ()
        env |= {"FLEET_HUB": hub, "FLEET_TOKEN_FILE": token.path}
        return (token,)

    async def launch(self, record: Record, around: Surroundings, version: Version, *, must_resume: bool) -> Prepared:
        """Everything decided. `record`: as it stands now that no older launch can add to it. With `must_resume` the
        program itself has said that its conversation is there."""
        self._record = record
        spec, handle, cwd, env = self._spec, self._handle, around.cwd, around.env
        paths = self._harness.wants(spec, env, cwd)
        there = sources.workspace_files(
            spec, cwd, environ={**around.starters, **env}, read=self._runtime.read, wrote=self._record.wrote
        )
        told, found, conversation, (files, wrote, warnings) = await together(
            version(self._harness, spec, env, cwd),
            asyncio.gather(*map(self._runtime.read, paths)),
            self._conversation(env, cwd, must_resume),
            there,
        )
        wanted = dict(zip(paths, found, strict=True))
        ask = LaunchAsk(
            spec=spec,
            conversation=conversation,
            folder=handle.folder,
            spool=around.spool,
            cwd=cwd,
            env=env,
            version=told,
            user_files=wanted,
            first_message=await self._first_message(env),
            mcp_written=mcp_servers(files, cwd),
        )
        launch = self._harness.launch(ask)
        again = None
        if spec.slurm is not None:  # its job has successors, which go on with the conversation
            going_on = replace(conversation, exists=bool(conversation.session_id), fresh=False)
            again = self._harness.launch(replace(ask, conversation=going_on)).argv
        files += around.files
        if launch.types_prompt is not None:
            files += (File(f"{handle.folder}/{FIRST_MESSAGE}", launch.types_prompt.encode()),)
        planned = plan.plan(
            spec,
            handle,
            launch,
            cwd=cwd,
            env=env,
            files=files,
            session_id=conversation.session_id or None,
            resumes=conversation.exists,
            version=told,
            size=(self._settings.pane_width, self._settings.pane_height),
            again=again,
        )
        notes: dict[str, Any] = {"version": told, "cwd": cwd, "wrote": wrote}
        if conversation.session_id and conversation.session_id != self._record.session_id:
            notes |= {"session_id": conversation.session_id, "transcript": None}
        return Prepared(planned, notes, (*self._warnings, *warnings, *launch.warnings))

    async def _working_folder(self, env: Mapping[str, str]) -> str:
        spec, far = self._spec, self._runtime.far
        if spec.workdir is None and far is not None:  # in one round trip
            own_there = f"{far.folder}/workspaces/{spec.name}"
            words = ["sh", "-c", 'mkdir -p -m 700 "$0" && cd "$0" && pwd -P', own_there]
            ran = await self._runtime.run(words, env={}, cwd="/", timeout=HOST_ANSWERS)
            if ran.status:
                said = ran.stderr.decode(errors="replace").strip()
                raise LaunchError(f"its workspace on {far.machine} cannot be made: {said}")
            return ran.stdout.decode(errors="surrogateescape").removesuffix("\n")
        if spec.workdir is None:
            cwd = str(self._places.workspace(spec.name))
            await self._runtime.run(["mkdir", "-p", "-m", "700", cwd], env={}, cwd="/", timeout=HOST_ANSWERS)
        else:
            cwd = resolved(spec.workdir, self._base(env), env)
        try:
            ran = await self._runtime.run(["pwd", "-P"], env={}, cwd=cwd, timeout=HOST_ANSWERS)
        except LaunchError as error:
            raise LaunchError(f"workdir: {error}", hint="Make it, or name another in the manifest.") from error
        return ran.stdout.decode(errors="surrogateescape").removesuffix("\n")

    def _base(self, env: Mapping[str, str]) -> str:
        """Where a relative path on the agent's host starts: the manifest is not on another machine, a home is."""
        return self._spec.folder if self._runtime.far is None else env.get("HOME", "/")

    async def _venv(self, env: Mapping[str, str]) -> str | None:
        choices = (self._spec.venv,) if isinstance(self._spec.venv, str) else self._spec.venv or ()
        paths = [resolved(choice, self._base(env), env) for choice in choices]
        found = await asyncio.gather(*(self._runtime.list(f"{path}/bin") for path in paths))
        if path := next((path for path, names in zip(paths, found, strict=True) if names), None):
            return path
        if choices:
            far = self._runtime.far
            make = f"python3 -m venv {choices[0]}"
            raise LaunchError(
                f"venv: none of {', '.join(choices)} is {f'on {far.machine}' if far else 'there'}.",
                hint=f"Make it: {make}" if far is None else f"Make it: ssh {far.machine} {make}",
            )
        return None

    async def _conversation(self, env: Mapping[str, str], cwd: str, must_resume: bool) -> Conversation:
        record, session_id = self._record, self._record.session_id
        if session_id is None:
            return Conversation("", exists=False, fresh=not record.session_used)
        path = transcript_path(record, self._harness, env, cwd)
        tail = await self._runtime.read(path, tail=TRANSCRIPT_TAIL) if path else None
        if tail is not None and not self._harness.resumable(tail) and not must_resume:
            # Its id is taken and nothing is in it: only a new one can be launched.
            session_id, tail = str(uuid.uuid4()), None
        exists = tail is not None or must_resume
        if self._spec.session == "continue" and not exists:
            raise LaunchError(
                f"session: continue, but {record.name} has no recorded conversation to go on with.",
                hint="Use session: continue-or-new, or start it once with `fleet start --fresh`.",
            )
        if record.session_used and not exists:
            self._warnings.append(self._begun_anew())
        return Conversation(session_id, exists=exists, fresh=not exists and not record.session_used)

    def _begun_anew(self) -> str:
        """Why an agent that has been at work is launched with an empty conversation."""
        record = self._record
        why = (
            "its conversation could not be resumed"
            if record.life.budget.renewed
            else f"nothing of its conversation {record.session_id} was kept: the program ended before it wrote it "
            "down, or somebody deleted it"
        )
        prompted = self._spec.prompt is not None or self._spec.prompt_file is not None
        again = f", without its first prompt: `fleet start {record.name} --fresh` gives it again"
        return f"{why}. A new one is begun{again if prompted else ''}"

    async def _first_message(self, env: Mapping[str, str]) -> str | None:
        if self._spec.prompt_file is None:
            return None
        path = resolved(self._spec.prompt_file, self._spec.folder, env)
        content = await self._here.read(path)
        if content is None:
            raise LaunchError(f"prompt_file: {path} cannot be read.")
        return content.decode(errors="replace")


async def together(*doing: Awaitable[Any]) -> list[Any]:
    """Do all of it at once, to the end of each, and then raise the first that failed."""
    done = await asyncio.gather(*doing, return_exceptions=True)
    if failed := next((each for each in done if isinstance(each, BaseException)), None):
        raise failed
    return done


async def session_there(spec: AgentSpec, runtime: Runtime) -> Mapping[str, str] | None:
    """The environment of a session on the agent's host, where that is another machine."""
    if runtime.far is None:
        return None
    return await runtime.far.environment(spec.remote is not None and spec.remote.login_shell)


def spool_of(agent: str, runtime: Runtime, places: Places) -> str:
    """The folder on the agent's host in which its hooks leave their events."""
    return str(places.spool / agent) if runtime.far is None else f"{runtime.far.folder}/spool/{agent}"


def environment(
    spec: AgentSpec, harness: Harness, kept: StartEnvironment, there: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What the agent gets of its start's environment (on another machine: of a session's there), and its manifest's
    on top; what a launch adds is not in it."""
    environ = kept.environ if there is None else there
    env = plan.inherited(environ, spec.env_inherit, keep=harness.env_names, dropped=harness.env_dropped)
    env.update({name: value for name, value in spec.env.items() if isinstance(value, str)}, **kept.secrets)
    return env


def transcript_path(record: Record, harness: Harness, env: Mapping[str, str], cwd: str) -> str | None:
    """Where the conversation is kept: as the program itself said, else where its folder's are."""
    session_id, told = record.session_id, record.transcript
    if session_id is None:
        return None
    return told if told is not None and session_id in told else harness.transcript_path(env, cwd, session_id)


def resolved(path: str, folder: str, env: Mapping[str, str]) -> str:
    """A path of a manifest: `~` is the agent's home, a relative one starts from the manifest's folder."""
    if path == "~" or path.startswith("~/"):
        path = env.get("HOME", "~") + path[1:]
    return str(PurePosixPath(folder) / path)


def mcp_servers(files: tuple[File, ...], cwd: str) -> tuple[str, ...]:
    """The servers of the `.mcp.json` among the files: the program need not ask a person about those."""
    for file in files:
        if file.path == f"{cwd}/.mcp.json":
            return tuple(json.loads(file.content).get("mcpServers", {}))
    return ()
