"""Claude Code: how it is launched, and what it says about itself.

A launch edits nothing of the user's or the project's: hooks, status line, MCP servers and the rest go in through
`--settings` and `--mcp-config`, which add to what the program finds. What it may be told depends on its version: an
unknown hook event or a wrong value opens a dialog, so everything here is chosen by what `claude --version` says.
docs/claude-code.md has the table of which source says what in which situation.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, TypeAlias

from fleet import mcp_shim
from fleet.harnesses import claude_turns
from fleet.harnesses.base import (
    BOX,
    Heard,
    Launch,
    LaunchAsk,
    MailWays,
    Remedy,
    StartProblem,
    StateFile,
    TranscriptTail,
    TurnAsk,
    TurnLaunch,
    TurnResult,
)
from fleet.harnesses.claude_events import heard, shell_line, takes_args
from fleet.harnesses.claude_mail import read_said
from fleet.harnesses.limits import LIMIT, resets_at
from fleet.manifests.model import AgentSpec
from fleet.redact import redact
from fleet.terms import Activity, Evidence, File, HookEvent, Kind, Source

Version: TypeAlias = tuple[int, ...]
Json: TypeAlias = Mapping[str, Any]

SUPPORTED: Version = (2, 1, 200)
"""From here on it is run by the tests; older ones start with a warning and are rather unknown than wrong."""

ENV_NAMES = ("ANTHROPIC_*", "CLAUDE_*", "DISABLE_*", "IS_SANDBOX", "AWS_*", "GOOGLE_*")
ENV_DROPPED = (
    "CLAUDECODE", "CLAUDE_PID", "CLAUDE_PROJECT_DIR", "CLAUDE_EFFORT", "CLAUDE_ENV_FILE", "CLAUDE_AGENT_ID",
    "CLAUDE_AGENT_ROLE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SESSION_ID", "CLAUDE_CODE_SESSION_ATTENDED",
    "CLAUDE_CODE_CHILD_SESSION", "CLAUDE_CODE_CHILD_NOTES_DIR", "CLAUDE_CODE_MESSAGING_SOCKET",
    "CLAUDE_CODE_MESSAGING_TOKEN", "CLAUDE_CODE_EXECPATH", "CLAUDE_CODE_SSE_PORT", "AI_AGENT",
)  # fmt: skip
"""What the program gives to everything that it starts, and what marks that as a part of its own session."""

EXCERPT = 200
"""Characters of what was seen that evidence carries."""
QUESTION = 500
NO_CONVERSATION = 16_384
"""Bytes that a transcript without a conversation never reaches."""
LONGEST_FOLDER = 200
"""Characters of a transcript folder's name, beyond which the program cuts it and adds a hash."""
HOOK_TIMEOUT = 10
"""Seconds that the program waits for an event hook where the host's disk hangs. It writes one small file."""

MAIL_TIMEOUT = 30
"""The same for the hook that hands over mail: a few files are copied."""
MCP_SHIM = "mcp_shim.py"
"""A copy of it lies in the launch's folder: there it serves on any host that has a Python."""
SHIM = resources.files("fleet").joinpath(MCP_SHIM).read_bytes()
SCRIPTS = {
    name: resources.files("fleet.harnesses").joinpath(name).read_bytes()
    for name in ("hook.sh", "statusline.sh", "mail.sh")
}
"""What lies beside a launch's program, read at the start: code that is replaced under a running daemon is for the
next one, all of it together."""
DOORBELL_SINCE: Version = (2, 1, 210)
"""From here on a watched file wakes it with words of fleet's own; before, mail goes in at a tool's end or is typed."""
TOLD_AT = ("PostToolUse", "PostToolUseFailure")
"""The events at which mail that is to cause no turn goes in, beside the tool's result."""

PERMISSION_FLAGS = ("--permission-mode", "--dangerously-skip-permissions")
CONVERSATION_FLAGS = ("--session-id", "--resume", "-r", "--continue", "-c", "--from-pr", "--teleport")


class ClaudeCode:
    """The harness of the Claude Code program."""

    name = "claude-code"
    program = "claude"
    has_sessions = True
    env_names: tuple[str, ...] = ENV_NAMES
    env_dropped: tuple[str, ...] = ENV_DROPPED

    # -- asking it --------------------------------------------------------------------------------------------

    def version_argv(self, spec: AgentSpec) -> tuple[str, ...] | None:
        return (*(spec.command or (self.program,)), "--version")

    def parse_version(self, output: str) -> str | None:
        found = re.search(r"^\s*v?(\d+(?:\.\d+)+)", output, re.M)
        return found[1] if found else None

    def wants(self, spec: AgentSpec, env: Mapping[str, str], cwd: str) -> tuple[str, ...]:
        given = (v for v in _values(spec.args, "--settings") if not v.lstrip().startswith("{"))
        return (*_settings_files(env, cwd), *(path if path.startswith("/") else f"{cwd}/{path}" for path in given))

    # -- launching it -----------------------------------------------------------------------------------------

    def launch(self, ask: LaunchAsk) -> Launch:
        spec, version = ask.spec, _version(ask.version)
        warnings: list[str] = []
        if version and version < SUPPORTED:
            warnings.append(
                f"Claude Code {ask.version} is older than {_dotted(SUPPORTED)}, the oldest that fleet is tested with: "
                "its state may be shown as unknown"
            )
        args, given = _without(spec.args, "--settings")
        own = [_inline(value, ask, warnings) for value in given]
        if spec.mode == "headless":
            return self._headless(ask, own, warnings)
        found = _found_settings(ask, warnings)
        argv = [*(spec.command or (self.program,)), *_conversation(ask, args, warnings)]
        mode = _permission_mode(ask, found)
        if mode is not None:
            argv += ["--permission-mode", mode]
        if spec.model and not _has(args, "--model"):
            argv += ["--model", spec.model]
        if not _has(args, "--name", "-n") and _knows(version, (2, 1, 90)):
            argv += ["--name", spec.name]
        settings = _merged(_settings(ask, version, mode, [*own, *found]), own)
        files = [_json_file(f"{ask.folder}/settings.json", settings), *_scripts(ask)]
        argv += ["--settings", files[0].path]
        files += _mcp_file(ask)
        argv += [*_mcp_option(ask.folder, spec), *args]
        typed = None
        if ask.conversation.fresh:
            argv += _prompt(spec.prompt)
            typed = ask.first_message
        return Launch(argv=tuple(argv), files=tuple(files), types_prompt=typed, warnings=tuple(warnings))

    def _headless(self, ask: LaunchAsk, own: Sequence[Json], warnings: list[str]) -> Launch:
        """What its turns share. They have no hooks of fleet's: fleet itself runs each, and reads what it says."""
        settings: dict[str, Any] = {}
        if not ask.spec.hub.side_channels:
            settings["crossSessionInbound"] = "refuse"
        if "mcp-servers" in ask.spec.auto_accept:
            settings["enableAllProjectMcpServers"] = True
        elif ask.mcp_written:
            settings["enabledMcpjsonServers"] = list(ask.mcp_written)
        for theirs in own:
            settings |= theirs
        files = [_json_file(f"{ask.folder}/settings.json", settings), *_mcp_file(ask)]
        return Launch(
            argv=self._program(ask.spec), files=tuple(files), warnings=(*warnings, *claude_turns.unused(ask.spec))
        )

    def _program(self, spec: AgentSpec) -> tuple[str, ...]:
        return spec.command or (self.program,)

    # -- headless: one run for each turn ----------------------------------------------------------------------

    def turn(self, ask: TurnAsk) -> TurnLaunch | None:
        spec = ask.spec
        args, _ = _without(spec.args, "--settings")
        args, own_words = _without(args, claude_turns.PROMPT_FLAG)
        common = [*self._program(spec), "--settings", f"{ask.folder}/settings.json", *_mcp_option(ask.folder, spec)]
        if not _has(args, *PERMISSION_FLAGS):
            mode = spec.permission_mode or claude_turns.permission_mode(spec)
            common += ["--permission-mode", "default" if mode == "manual" else mode]
        if spec.model and not _has(args, "--model"):
            common += ["--model", spec.model]
        words = "\n\n".join([*own_words, claude_turns.instructions(spec)])
        return claude_turns.launch(ask, [*common, *args, claude_turns.PROMPT_FLAG, words])

    def read_turn(self, output: bytes, errors: bytes, exit_status: int | None, now: float) -> TurnResult:
        return claude_turns.read(output, errors, exit_status, now)

    def hopeless(self, output: bytes, now: float) -> TurnResult | None:
        return claude_turns.hopeless(output)

    def turn_lines(self, output: bytes) -> list[str]:
        return claude_turns.lines(output)

    # -- its start --------------------------------------------------------------------------------------------

    def start_failure(self, screen: str, exit_status: int | None, version: str | None) -> StartProblem | None:
        return next((p.problem for p in _START_PROBLEMS if p.fits(screen, exit_status)), None)

    # -- where its word stands --------------------------------------------------------------------------------

    def transcript_path(self, env: Mapping[str, str], cwd: str, session_id: str) -> str | None:
        return f"{_config(env)}/projects/{project_folder(cwd)}/{session_id}.jsonl"

    def resumable(self, tail: bytes) -> bool:
        """One that was left without a prompt may hold a few lines of settings, and no conversation."""
        return len(tail) >= NO_CONVERSATION or b'"type":"user"' in tail or b'"type":"assistant"' in tail

    def state_folder(self, env: Mapping[str, str]) -> str | None:
        return f"{_config(env)}/sessions"

    def state_file(self, env: Mapping[str, str], pid: int) -> str | None:
        return f"{_config(env)}/sessions/{pid}.json"

    # -- reading it -------------------------------------------------------------------------------------------

    def read_state(self, content: bytes, now: float) -> StateFile | None:
        said = _object(content)
        if said is None or not isinstance(said.get("pid"), int):
            return None
        status, waits = _text(said, "status"), _text(said, "waitingFor")
        changed = said.get("statusUpdatedAt")
        activity, kind = _STATUS.get(status or "", (None, None))
        if activity is Activity.NEEDS_INPUT:
            kind = _WAITING_FOR.get(waits or "", Kind.OTHER)
        word = " › ".join(w for w in (status, waits) if w) or "no status yet"
        evidence = Evidence(
            source=Source.STATE_FILE,
            rule=f"status/{status or 'none'}" + (f"/{waits}" if waits else ""),
            observed_at=min(now, changed / 1000) if isinstance(changed, int | float) else now,
            activity=activity,
            kind=kind,
            background={"shell": True, "idle": False}.get(status or ""),
            excerpt=_cut(word, EXCERPT),
            session_id=_text(said, "sessionId"),
            pid=said["pid"],
        )
        return StateFile(
            evidence=evidence,
            pid=said["pid"],
            proc_start=_text(said, "procStart"),
            session_id=_text(said, "sessionId"),
            cwd=_text(said, "cwd"),
            version=_text(said, "version"),
            name=_text(said, "name"),
        )

    def read_hook(self, event: HookEvent) -> Evidence | None:
        reader = _HOOKS.get(event.name)
        said = reader(event) if reader else None
        if said is None:
            return None
        return Evidence(
            source=Source.HOOK,
            rule=said.rule or event.name,
            observed_at=event.at,
            activity=said.activity,
            kind=said.kind,
            question=_cut(said.question, QUESTION) if said.question else None,
            options=said.options,
            background=said.background,
            resets_at=said.resets_at,
            excerpt=_cut(said.excerpt or event.name, EXCERPT),
            session_id=event.session_id,
            pid=event.pid,
            generation=event.generation,
        )

    def read_title(self, title: str, now: float, version: str | None) -> Evidence | None:
        glyph = title[:2]
        if glyph == "✳ ":
            # Not running, which a dialog is as well: it says nothing more.
            return Evidence(source=Source.TITLE, rule="title/still", observed_at=now, excerpt=_cut(title, EXCERPT))
        if glyph in _running_glyphs(_version(version)):
            return Evidence(
                source=Source.TITLE,
                rule="title/running",
                observed_at=now,
                activity=Activity.WORKING,
                excerpt=_cut(title, EXCERPT),
            )
        return None

    def read_transcript(self, tail: bytes, now: float) -> TranscriptTail:
        return read_tail(tail)

    def mail_ways(self, version: str | None) -> MailWays:
        return MailWays(doorbell=has_doorbell(version), boundary=_knows(_version(version), (2, 1, 90)))

    def read_said(self, tail: bytes) -> Heard:
        return read_said(tail)

    def read_status_line(self, content: bytes, now: float) -> Mapping[str, Any] | None:
        said = _object(content)
        return None if said is None else _facts(said)

    def read_process(self, moved_at: float | None, cpu: float | None, now: float) -> Evidence | None:
        return None

    # -- typing into it ---------------------------------------------------------------------------------------

    def exit_command(self) -> str | None:
        return "/exit"

    def newline_key(self) -> str:
        return "C-j"


# -- versions ---------------------------------------------------------------------------------------------------


def _version(text: str | None) -> Version | None:
    return tuple(int(part) for part in text.split(".")) if text and re.fullmatch(r"\d+(\.\d+)*", text) else None


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _knows(version: Version | None, since: Version) -> bool:
    """Whether it knows what came with `since`. A version that could not be asked is taken as a supported one."""
    return (version or SUPPORTED) >= since


def _running_glyphs(version: Version | None) -> tuple[str, ...]:
    dots, halves = ("⠂ ", "⠐ "), ("◐ ", "◑ ")
    if version is None:
        return dots + halves
    return halves if version >= (2, 1, 289) else dots + halves if version > (2, 1, 210) else dots


# -- the launch's arguments -------------------------------------------------------------------------------------


def _conversation(ask: LaunchAsk, args: Sequence[str], warnings: list[str]) -> list[str]:
    if _has(args, *CONVERSATION_FLAGS):
        warnings.append(
            "args name the conversation themselves: fleet cannot resume it by its own record; "
            "`session` in the manifest is the way to choose"
        )
        return []
    conversation = ask.conversation
    resumes = conversation.exists and not conversation.fresh
    return ["--resume" if resumes else "--session-id", conversation.session_id]


def _permission_mode(ask: LaunchAsk, found: Sequence[Json]) -> str | None:
    """The mode to pass; `None` where the manifest's own arguments say it.

    It is always passed: the program's default sends each call to a check of the vendor's, and a resumed
    conversation forgets that it bypassed. Where the manifest is silent, the user's own default counts.
    """
    if _has(ask.spec.args, *PERMISSION_FLAGS):
        return None
    mode = ask.spec.permission_mode or _default_mode(found) or "default"
    return "default" if mode == "manual" else mode


def _default_mode(found: Sequence[Json]) -> str | None:
    """`permissions.defaultMode` as the settings files give it, the project's only where it asks as much as usual."""
    *project, user = found
    for settings in project:
        mode = _section(settings, "permissions").get("defaultMode")
        if mode in ("default", "manual", "plan", "dontAsk"):
            return str(mode)
    mode = _section(user, "permissions").get("defaultMode")
    return mode if isinstance(mode, str) and re.fullmatch(r"\w+", mode) else None


def _prompt(prompt: str | None) -> list[str]:
    if not prompt:
        return []
    # A single word might be one of the program's subcommands, even after "--"; with a space behind it, it is none.
    return ["--", prompt if re.search(r"\s", prompt) else f"{prompt} "]


def _has(args: Sequence[str], *flags: str) -> bool:
    return any(arg == flag or arg.startswith(f"{flag}=") for arg in args for flag in flags)


def _values(args: Sequence[str], flag: str) -> list[str]:
    return _without(args, flag)[1]


def _without(args: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """The arguments less an option that takes one value, and the values that it had."""
    rest: list[str] = []
    values: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            return [*rest, word, *words], values
        if word == flag:
            values += [value for value in [next(words, None)] if value is not None]
        elif word.startswith(f"{flag}="):
            values.append(word.partition("=")[2])
        else:
            rest.append(word)
    return rest, values


# -- the launch's settings --------------------------------------------------------------------------------------


def _config(env: Mapping[str, str]) -> str:
    return env.get("CLAUDE_CONFIG_DIR") or f"{env.get('HOME', '')}/.claude"


def _settings_files(env: Mapping[str, str], cwd: str) -> tuple[str, str, str]:
    """The settings files that the program reads by itself, the one that counts most first, the user's last."""
    return (f"{cwd}/.claude/settings.local.json", f"{cwd}/.claude/settings.json", f"{_config(env)}/settings.json")


def _found_settings(ask: LaunchAsk, warnings: list[str]) -> list[Json]:
    found: list[Json] = []
    for path in _settings_files(ask.env, ask.cwd):
        content = ask.user_files.get(path)
        settings = _object(content) if content is not None else {}
        if settings is None:
            warnings.append(f"{path} is not a JSON object: Claude Code will say so in a dialog")
        found.append(settings or {})
    return found


def _inline(value: str, ask: LaunchAsk, warnings: list[str]) -> Json:
    """Settings that the manifest's own arguments give: the program takes the option once only."""
    if value.lstrip().startswith("{"):
        content: bytes | None = value.encode()
    else:
        content = ask.user_files.get(value if value.startswith("/") else f"{ask.cwd}/{value}")
    settings = _object(content) if content is not None else None
    if settings is None:
        warnings.append(f"--settings {_cut(value, 60)}: no such file, or not a JSON object; left out")
    return settings or {}


def _settings(ask: LaunchAsk, version: Version | None, mode: str | None, found: Sequence[Json]) -> dict[str, Any]:
    spec = ask.spec
    settings: dict[str, Any] = {
        "hooks": _with_mail(
            ask, {event: [{"hooks": [_hook(ask, event)]}] for event in heard(_or_supported(ask.version))}
        ),
        "statusLine": _status_line(ask, found),
    }
    if not spec.hub.side_channels:
        # The program's own socket takes messages from every process of the user's, without a token.
        settings["crossSessionInbound"] = "refuse"
    if "bypass-permissions" in spec.auto_accept or _bypasses(spec, mode):
        settings["skipDangerousModePermissionPrompt"] = True
    if "mcp-servers" in spec.auto_accept:
        settings["enableAllProjectMcpServers"] = True
    elif ask.mcp_written:
        settings["enabledMcpjsonServers"] = list(ask.mcp_written)
    if has_fleet_tools(spec):
        # Talking to the fleet needs no person's word each time; what reads or writes files does.
        settings["permissions"] = {"allow": [f"mcp__{mcp_shim.SERVER}__{tool}" for tool in mcp_shim.UNASKED]}
    if _knows(version, (2, 1, 289)) and not any("tui" in s for s in found):
        # Else the renderer follows a remote flag, and may be another one tomorrow.
        settings["tui"] = "fullscreen"
    return settings


def _bypasses(spec: AgentSpec, mode: str | None) -> bool:
    return (
        mode == "bypassPermissions"
        or "--dangerously-skip-permissions" in spec.args
        or "bypassPermissions" in _values(spec.args, "--permission-mode")
    )


def _hook(ask: LaunchAsk, event: str) -> dict[str, Any]:
    told = [box(ask.folder), event] if event in TOLD_AT and ask.spec.hub.enabled else []
    return {"type": "command", **_command(ask, "hook.sh", ask.spool, *told), "timeout": HOOK_TIMEOUT}


def _command(ask: LaunchAsk, script: str, *args: str) -> dict[str, Any]:
    path = f"{ask.folder}/{script}"
    if takes_args(_or_supported(ask.version)):  # spares a shell
        return {"command": path, "args": list(args)}
    return {"command": shell_line([path, *args])}


def box(folder: str) -> str:
    """Where a launch's mail lies, for mail.sh."""
    return f"{folder}/{BOX}"


def has_doorbell(version: str | None) -> bool:
    """Whether this version can be woken by a file that it watches. One that could not be asked counts as supported."""
    return _knows(_version(version), DOORBELL_SINCE)


def _with_mail(ask: LaunchAsk, hooks: dict[str, Any]) -> dict[str, Any]:
    """The hooks, and those by which mail wakes the program, where it can be woken."""
    if not ask.spec.hub.enabled or not has_doorbell(ask.version):
        return hooks
    mine: dict[str, dict[str, Any]] = {
        event: {"type": "command", **_command(ask, "mail.sh", box(ask.folder), "watch", event), "timeout": HOOK_TIMEOUT}
        for event in ("SessionStart", "CwdChanged")
    }
    mine["FileChanged"] = {
        "type": "command",
        **_command(ask, "mail.sh", box(ask.folder), "ring"),
        "asyncRewake": True,
        "timeout": MAIL_TIMEOUT,
        "rewakeMessage": "Message from fleet:",
        "rewakeSummary": "fleet: mail",
    }
    return {**hooks, **{event: [*hooks.get(event, []), {"hooks": [entry]}] for event, entry in mine.items()}}


def _or_supported(version: str | None) -> str:
    return version or _dotted(SUPPORTED)


def _status_line(ask: LaunchAsk, found: Sequence[Json]) -> dict[str, Any]:
    """Fleet's status line, which shows what the user's own one prints."""
    own: Json = next((s["statusLine"] for s in found if isinstance(s.get("statusLine"), Mapping)), {})
    inner = [own["command"]] if isinstance(own.get("command"), str) else []
    return {**own, "type": "command", "command": shlex.join([f"{ask.folder}/statusline.sh", *inner])}


def _scripts(ask: LaunchAsk) -> list[File]:
    scripts = [File(f"{ask.folder}/{name}", content, 0o700) for name, content in SCRIPTS.items()]
    return [*scripts, File(f"{box(ask.folder)}/bell", b"")]


def _merged(ours: dict[str, Any], theirs: Sequence[Json]) -> dict[str, Any]:
    """Ours and what the manifest's arguments give: its hooks run beside ours, elsewhere its word counts."""
    merged = dict(ours)
    for settings in theirs:
        hooks = {**merged["hooks"]}
        for event, entries in _section(settings, "hooks").items():
            hooks[event] = [*hooks.get(event, []), *(entries if isinstance(entries, list) else [])]
        permissions = _both(_section(merged, "permissions"), _section(settings, "permissions"))
        merged = {**merged, **{k: v for k, v in settings.items() if k not in ("hooks", "statusLine")}, "hooks": hooks}
        if permissions:
            merged["permissions"] = permissions
    return merged


def _both(ours: Json, theirs: Json) -> dict[str, Any]:
    """Permissions of both; what both name as a list is one list."""
    lists = {k: [*v, *theirs[k]] for k, v in ours.items() if isinstance(v, list) and isinstance(theirs.get(k), list)}
    return {**ours, **theirs, **lists}


def _mcp_servers(folder: str, spec: AgentSpec) -> dict[str, Any]:
    """The MCP servers that a launch is given: the manifest's, and fleet's own, unless the manifest says no."""
    given = {k: s.model_dump(mode="json", exclude_unset=True) for k, s in spec.mcp_servers.items()}
    if not has_fleet_tools(spec):
        return given
    # What comes to a headless agent comes as its turns: those do not read its mail.
    own = [] if spec.mode == "headless" else [mcp_shim.OWN]
    python = sys.executable if spec.runtime == "local" else "python3"
    args = ["-I", "-S", f"{folder}/{MCP_SHIM}", *own]
    return {**given, mcp_shim.SERVER: {"type": "stdio", "command": python, "args": args}}


def has_fleet_tools(spec: AgentSpec) -> bool:
    """Whether it gets fleet's own MCP server. One of its own by that name counts more."""
    return spec.hub.enabled and spec.hub.mcp and mcp_shim.SERVER not in spec.mcp_servers


def _mcp_file(ask: LaunchAsk) -> list[File]:
    servers = _mcp_servers(ask.folder, ask.spec)
    shim = [File(f"{ask.folder}/{MCP_SHIM}", SHIM, 0o600)] if has_fleet_tools(ask.spec) else []
    return [*shim, _json_file(f"{ask.folder}/mcp.json", {"mcpServers": servers})] if servers else []


def _mcp_option(folder: str, spec: AgentSpec) -> list[str]:
    """With "=", since the option takes every word that follows it."""
    return [f"--mcp-config={folder}/mcp.json"] if _mcp_servers(folder, spec) else []


def _json_file(path: str, content: Json) -> File:
    return File(path, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


# -- what its hooks say -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Said:
    """What one event tells of the agent's activity."""

    activity: Activity
    excerpt: str = ""
    rule: str | None = None
    kind: Kind | None = None
    question: str | None = None
    options: tuple[str, ...] = ()
    background: bool | None = None
    resets_at: float | None = None


_Reader: TypeAlias = Callable[[HookEvent], _Said | None]


def _prompt_submitted(event: HookEvent) -> _Said:
    return _Said(Activity.WORKING, excerpt=_text(event.payload, "prompt") or "")


def _tool(event: HookEvent) -> _Said | None:
    """Work of the conversation itself; that of a sub-agent may go on beside an agent that is ready."""
    if event.payload.get("agent_id"):
        return None
    return _Said(Activity.WORKING, excerpt=_tool_line(event.payload))


def _tool_failed(event: HookEvent) -> _Said | None:
    return None if event.payload.get("is_interrupt") else _tool(event)


def _permission(event: HookEvent) -> _Said:
    tool = _text(event.payload, "tool_name") or "a tool"
    arguments = _section(event.payload, "tool_input")
    if tool == "AskUserQuestion":
        question, options = _questions(arguments)
        return _Said(
            Activity.NEEDS_INPUT, question, f"{event.name}/{tool}", Kind.QUESTION, question=question, options=options
        )
    if tool == "ExitPlanMode":
        plan = _text(arguments, "plan") or "The plan is ready."
        return _Said(Activity.NEEDS_INPUT, plan, f"{event.name}/{tool}", Kind.PLAN, question=plan)
    line = _tool_line(event.payload)
    return _Said(Activity.NEEDS_INPUT, line, event.name, Kind.PERMISSION, question=line)


def _questions(arguments: Json) -> tuple[str, tuple[str, ...]]:
    """The question that is asked first, and its options; further ones are counted."""
    asked = _objects(arguments, "questions")
    if not asked:
        return "", ()
    first = _text(asked[0], "question") or ""
    options = tuple(_cut(o["label"], EXCERPT) for o in _objects(asked[0], "options") if _text(o, "label"))
    return first + (f" (and {len(asked) - 1} more)" if len(asked) > 1 else ""), options


def _notification(event: HookEvent) -> _Said | None:
    which = _text(event.payload, "notification_type") or ""
    activity = _NOTIFICATIONS.get(which)
    if activity is None:
        return None
    kind = Kind.ELICITATION if which == "elicitation_dialog" else None
    return _Said(activity, _text(event.payload, "message") or "", f"{event.name}/{which}", kind)


def _stopped(event: HookEvent) -> _Said | None:
    tasks = _objects(event.payload, "background_tasks")
    if any(t.get("type") == "subagent" and t.get("status") == "running" for t in tasks):
        return None  # its turn is over, its work is not: it waits for its sub-agents
    answer = _text(event.payload, "last_assistant_message") or ""
    return _Said(Activity.READY, excerpt=answer, background=bool(tasks))


def _failed(event: HookEvent) -> _Said:
    error = _text(event.payload, "error") or "unknown"
    words = _text(event.payload, "last_assistant_message") or error
    limited = error in ("rate_limit", "unknown") and LIMIT.search(words)
    return _Said(
        Activity.LIMITED if limited else Activity.ERROR,
        excerpt=words,
        rule=f"{event.name}/{'usage_limit' if limited else error}",
        resets_at=resets_at(words, event.at) if limited else None,
    )


def _compacts(event: HookEvent) -> _Said:
    return _Said(Activity.WORKING, excerpt=f"compacting ({_text(event.payload, 'trigger') or 'unknown'})")


def _compacted(event: HookEvent) -> _Said:
    """One that a person asked for is over then, and no Stop follows; after the program's own the turn goes on."""
    trigger = _text(event.payload, "trigger") or "unknown"
    activity = Activity.READY if trigger == "manual" else Activity.WORKING
    return _Said(activity, f"compacted ({trigger})", f"{event.name}/{trigger}")


def _elicits(event: HookEvent) -> _Said:
    message = _text(event.payload, "message") or ""
    return _Said(Activity.NEEDS_INPUT, message, kind=Kind.ELICITATION, question=message)


def _elicited(event: HookEvent) -> _Said:
    return _Said(Activity.WORKING, excerpt=_text(event.payload, "action") or "")


_HOOKS: Mapping[str, _Reader] = {
    "UserPromptSubmit": _prompt_submitted,
    "PreToolUse": _tool,
    "PostToolUse": _tool,
    "PostToolUseFailure": _tool_failed,
    "PermissionDenied": _tool,
    "PermissionRequest": _permission,
    "Notification": _notification,
    "Stop": _stopped,
    "StopFailure": _failed,
    "PreCompact": _compacts,
    "PostCompact": _compacted,
    "Elicitation": _elicits,
    "ElicitationResult": _elicited,
}
"""The events that tell something about the activity. The others are facts: stored, and nobody's state."""

_NOTIFICATIONS: Mapping[str, Activity] = {
    "permission_prompt": Activity.NEEDS_INPUT,
    "elicitation_dialog": Activity.NEEDS_INPUT,
    "idle_prompt": Activity.READY,
}

_STATUS: Mapping[str, tuple[Activity, Kind | None]] = {
    "idle": (Activity.READY, None),
    "shell": (Activity.READY, None),
    "busy": (Activity.WORKING, None),
    "waiting": (Activity.NEEDS_INPUT, Kind.OTHER),
}
_WAITING_FOR: Mapping[str, Kind | None] = {
    # Said of permissions and plans, and before 2.1.289 of questions: which one it is, hook and screen know.
    "permission prompt": None,
    "input needed": Kind.QUESTION,
    "worker request": Kind.PERMISSION,
    "sandbox request": Kind.PERMISSION,
    "dialog open": Kind.OTHER,
    "goal proposal": Kind.OTHER,
}

_SUBJECT = (
    "command",
    "file_path",
    "notebook_path",
    "path",
    "url",
    "query",
    "pattern",
    "description",
    "prompt",
    "skill",
)
"""The argument of a tool that tells most about the call, the first that is there."""


def _tool_line(payload: Json) -> str:
    """`Bash: touch a` of a tool's call."""
    arguments = _section(payload, "tool_input")
    subject = next((s for key in _SUBJECT if (s := _text(arguments, key))), "")
    tool = _text(payload, "tool_name") or "a tool"
    return f"{tool}: {subject}" if subject else tool


# -- what its status line says ----------------------------------------------------------------------------------


def _facts(said: Json) -> dict[str, Any]:
    """The status line's JSON under fleet's names; `None` where the program does not say it (yet)."""
    model, cost, window = (_section(said, key) for key in ("model", "cost", "context_window"))
    limits = _section(said, "rate_limits")
    tokens, size = _used_tokens(window), _number(window, "context_window_size")
    pct = round(100 * tokens / size, 1) if tokens is not None and size else _number(window, "used_percentage")
    facts: dict[str, Any] = {
        "session_id": _text(said, "session_id"),
        "session_name": _text(said, "session_name"),
        "transcript_path": _text(said, "transcript_path"),
        "version": _text(said, "version"),
        "model": _text(model, "id"),
        "model_name": _text(model, "display_name"),
        "effort": _text(_section(said, "effort"), "level"),
        "output_style": _text(_section(said, "output_style"), "name"),
        "context_pct": pct,
        "context_tokens": tokens,
        "context_window": size,
        "cost_usd": _number(cost, "total_cost_usd"),
        "lines_added": _number(cost, "total_lines_added"),
        "lines_removed": _number(cost, "total_lines_removed"),
    }
    for ours, theirs in (("quota_5h", "five_hour"), ("quota_7d", "seven_day")):
        limit = _section(limits, theirs)
        facts[f"{ours}_used_pct"] = _number(limit, "used_percentage")
        facts[f"{ours}_reset_at"] = _number(limit, "resets_at")
    return facts


def _used_tokens(window: Json) -> float | None:
    """What the last request held. The totals beside it have meant the whole session in some versions."""
    usage = _section(window, "current_usage")
    parts = [_number(usage, key) for key in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")]
    return sum(p or 0 for p in parts) if any(p is not None for p in parts) else None


# -- its transcript ---------------------------------------------------------------------------------------------

LINES = 200
"""How many lines of the conversation are kept for `fleet logs`."""
_INTERRUPTED = "[Request interrupted by user"
_MACHINE_MADE = re.compile(r"\s*<(?:command-|local-command-|bash-|task-notification|system-reminder)|Caveat: ")


def project_folder(cwd: str) -> str:
    """The name of a folder's transcripts: every UTF-16 unit that is no letter or digit becomes a hyphen."""
    name = "".join(c if c.isascii() and c.isalnum() else "-" * (1 + (ord(c) > 0xFFFF)) for c in cwd)
    return name if len(name) <= LONGEST_FOLDER else f"{name[:LONGEST_FOLDER]}-{_path_hash(cwd)}"


def _path_hash(path: str) -> str:
    """The program's hash of a path: 31 times what was, and the next UTF-16 unit, in 32 signed bits, to base 36."""
    units = path.encode("utf-16-le", "surrogatepass")
    value = 0
    for i in range(0, len(units), 2):
        value = (31 * value + int.from_bytes(units[i : i + 2], "little")) & 0xFFFFFFFF
    value = min(value, (1 << 32) - value)
    digits = ""
    while value:
        value, digit = divmod(value, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


def read_tail(tail: bytes) -> TranscriptTail:
    """What the end of a transcript tells; its first line may be torn, and says nothing then."""
    reading = _Reading()
    for line in tail.splitlines():
        if (entry := _object(line)) is not None:
            reading.take(entry)
    return reading.tail()


class _Reading:
    """A transcript's tail, read from front to back."""

    def __init__(self) -> None:
        self.user: str | None = None
        self.assistant: str | None = None
        self.model: str | None = None
        self.tokens: int | None = None
        self.at: float | None = None
        self.open: dict[str, tuple[str, str]] = {}
        self.lines: list[str] = []
        self.evidence: Evidence | None = None

    def take(self, entry: Json) -> None:
        if entry.get("type") not in ("user", "assistant") or entry.get("isSidechain"):
            return
        self.at = _time(entry.get("timestamp")) or self.at
        message = _section(entry, "message")
        if entry["type"] == "user":
            self._user(entry, message)
        else:
            self._assistant(entry, message)

    def _user(self, entry: Json, message: Json) -> None:
        for result in _blocks(message, "tool_result"):
            self.open.pop(str(result.get("tool_use_id")), None)
            self._line("  ⎿ ", _result_text(result).strip().partition("\n")[0])
            self._says(Activity.WORKING, "tool result")
        text = "\n".join(_texts(message)).strip()
        if not text or entry.get("isMeta") or entry.get("isCompactSummary"):
            return
        if text.startswith(_INTERRUPTED):
            self.open.clear()
            self._line("  ⎿ ", "Interrupted")
            self._says(Activity.READY, "interrupted")
            return
        if not _MACHINE_MADE.match(text):
            self.user = _cut(text, 2000)
            self._line("❯ ", text)
        elif entry.get("promptSource") is None:
            return  # a command of the program itself, such as /clear: no turn
        self._says(Activity.WORKING, "prompt")

    def _assistant(self, entry: Json, message: Json) -> None:
        text = "\n".join(_texts(message)).strip()
        if text:
            self._line("● ", text)
        if entry.get("isApiErrorMessage") or message.get("model") == "<synthetic>":
            if entry.get("isApiErrorMessage"):
                self._says(Activity.LIMITED if LIMIT.search(text) else Activity.ERROR, "api error", text)
            return
        if text:
            self.assistant = _cut(text, 2000)
        self.model = _text(message, "model") or self.model
        tokens = _used_tokens({"current_usage": message.get("usage")})
        self.tokens = int(tokens) if tokens is not None else self.tokens
        for call in _blocks(message, "tool_use"):
            line = _tool_line({"tool_name": call.get("name"), "tool_input": call.get("input")})
            tool, _, subject = line.partition(": ")
            self.open[str(call.get("id"))] = (tool, subject)
            self._line("● ", line)
        ended = message.get("stop_reason") in ("end_turn", "stop_sequence")
        self._says(Activity.READY if ended and not self.open else Activity.WORKING, "answer", text)

    def _line(self, mark: str, text: str) -> None:
        self.lines += [(mark if i == 0 else "  ") + line for i, line in enumerate(text.split("\n"))]

    def _says(self, activity: Activity, what: str, excerpt: str = "") -> None:
        if self.at is not None:
            self.evidence = Evidence(
                source=Source.TRANSCRIPT,
                rule=f"transcript/{what}",
                observed_at=self.at,
                activity=activity,
                excerpt=_cut(excerpt or what, EXCERPT),
            )

    def tail(self) -> TranscriptTail:
        tool, subject = next(reversed(self.open.values()), (None, None))
        return TranscriptTail(
            evidence=self.evidence,
            last_user_message=self.user,
            last_assistant_message=self.assistant,
            current_tool=tool,
            current_tool_input=_cut(subject, EXCERPT) if subject else None,
            model=self.model,
            context_tokens=self.tokens,
            last_at=self.at,
            lines=tuple(redact("\n".join(self.lines[-LINES:])).split("\n")) if self.lines else (),
        )


def _blocks(message: Json, kind: str) -> Iterator[Json]:
    return (block for block in _objects(message, "content") if block.get("type") == kind)


def _texts(message: Json) -> list[str]:
    content = message.get("content")
    return [content] if isinstance(content, str) else [t for b in _blocks(message, "text") if (t := _text(b, "text"))]


def _result_text(result: Json) -> str:
    content = result.get("content")
    return content if isinstance(content, str) else "\n".join(_texts({"content": content}))


def _time(text: object) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
    except ValueError:
        return None


# -- why it does not start --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _StartRule:
    words: re.Pattern[str]
    problem: StartProblem
    alive: bool = False
    """Whether the program stands there and waits, rather than having ended."""

    def fits(self, screen: str, exit_status: int | None) -> bool:
        return self.alive == (exit_status is None) and self.words.search(screen) is not None


def _rule(words: str, reason: str, message: str, remedy: Remedy = Remedy.PERSON, *, alive: bool = False) -> _StartRule:
    return _StartRule(re.compile(words, re.M), StartProblem(reason, message, remedy), alive)


_SETTLE = "start `claude` once yourself as the same user, or `fleet attach` and answer it there"

_START_PROBLEMS = (
    _rule(
        r"^error: unknown option",
        "UnknownOption",
        "Claude Code does not know one of its arguments: mend `args` in the manifest (`claude --help` lists them).",
    ),
    _rule(
        r"^error: option .* is invalid",
        "InvalidOption",
        "Claude Code refuses the value of one of its options: mend `permission_mode` or `args` in the manifest.",
    ),
    _rule(
        r"^Error: Invalid session ID",
        "InvalidSessionId",
        "Claude Code takes only a UUID as session id: `fleet start --fresh` begins a new conversation.",
    ),
    _rule(
        r"^Error: Session ID \S+ is already in use",
        "SessionInUse",
        "The conversation exists already: it can only be resumed.",
        Remedy.RESUME,
    ),
    _rule(
        r"^No conversation found with session ID|^No conversation found to continue",
        "NoConversation",
        "Claude Code does not find the conversation: it was removed, or never had a prompt.",
        Remedy.FRESH,
    ),
    _rule(
        r"cannot be used with root/sudo privileges",
        "BypassAsRoot",
        "Claude Code does not bypass permissions as root: run it as another user, or, in a sandbox, set "
        '`env: {IS_SANDBOX: "1"}` in the manifest.',
    ),
    _rule(
        r"^Error: Settings file not found|^Error: Invalid MCP configuration",
        "MissingFile",
        "Claude Code does not find a settings or MCP file named in `args`, or cannot read it: mend the manifest.",
    ),
    _rule(
        r"^\s*Unable to connect to Anthropic services",
        "NoConnection",
        "Claude Code's first start in this home wants the vendor's service and could not reach it. Once a person has "
        f"finished its onboarding it does not ask again: {_SETTLE}.",
        Remedy.RETRY,
    ),
    _rule(
        r"command not found|: not found$|No such file or directory",
        "ProgramNotFound",
        "The program was not found: install Claude Code on that host, or name its path in `command`.",
    ),
    _rule(
        r"Choose the (?:text style|syntax theme)|Select login method|Let['’]s get started",
        "OnboardingNeeded",
        f"Claude Code has never been set up in this home (theme, login). That is yours to settle: {_SETTLE}.",
        alive=True,
    ),
    _rule(
        r"Do you want to use this API key\?",
        "ApiKeyNotApproved",
        "Claude Code asks whether it may use the API key of the environment. That is yours to settle: answer it once "
        "in `fleet attach`, or write `auto_accept: [api-key]` into the manifest.",
        alive=True,
    ),
    _rule(
        r"Not logged in · (?:Please r|R)un /login",
        "NotLoggedIn",
        "Claude Code is not logged in: run /login in `fleet attach`, or give it a key (`env: {ANTHROPIC_API_KEY: "
        "{file: …}}`).",
        alive=True,
    ),
)


# -- small things -----------------------------------------------------------------------------------------------


def _object(content: bytes) -> Json | None:
    """A JSON object; `None` where it is torn, or something else."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _section(said: Json, key: str) -> Json:
    value = said.get(key)
    return value if isinstance(value, Mapping) else {}


def _objects(said: Json, key: str) -> list[Json]:
    value = said.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _text(said: object, key: str) -> str | None:
    value = said.get(key) if isinstance(said, Mapping) else None
    return value if isinstance(value, str) else None


def _number(said: Json, key: str) -> float | None:
    value = said.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _cut(text: str, length: int) -> str:
    """The beginning of a text, without secrets."""
    clean = redact(text[: 20 * length])
    return clean if len(clean) <= length else clean[: length - 1] + "…"
