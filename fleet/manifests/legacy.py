"""The older manifests, converted by a table that names every key of theirs.

A key is mapped to its place in fleet/v1, or it has no meaning here and its warning says why. A key that the table
does not name is a problem, as it is in fleet/v1. The converted document then goes the same way as any other, so
nothing is accepted in an older format that would be refused in the new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fleet.manifests.problem import nearest
from fleet.manifests.yamltree import Path

V2 = "scitex-agent-container/v2"
V3 = "scitex-agent-container/v3"
CLD = "cld-agent/v1"
VERSIONS = (V2, V3, CLD)

_PLACES = ("slurm", "slurm-tenant")
_TRUSTED = ("trust-folder", "bypass-permissions", "mcp-servers")


@dataclass(frozen=True, slots=True)
class Note:
    """A word about a key of the older document."""

    path: Path
    message: str
    nearest: str | None = None


@dataclass(slots=True)
class Converted:
    """An older document in the form of fleet/v1, and where each of its values came from."""

    document: dict[str, Any]
    origin: dict[Path, Path] = field(default_factory=dict)
    problems: list[Note] = field(default_factory=list)
    warnings: list[Note] = field(default_factory=list)

    def put(self, new: Path, value: Any, old: Path) -> None:
        """Set a value, making the sections on its way."""
        where = self.document
        for part in new[:-1]:
            where = where.setdefault(str(part), {})
        where[str(new[-1])] = value
        self.origin[new] = old

    def put_default(self, new: Path, value: Any) -> None:
        """Set a value unless the document set it."""
        if self.get(new) is None:
            self.put(new, value, ("spec",))

    def get(self, new: Path) -> Any:
        value: Any = self.document
        for part in new:
            value = value.get(part) if isinstance(value, dict) else None
        return value


@dataclass(frozen=True, slots=True)
class To:
    """The key is mapped to this one, its value unchanged."""

    path: str


@dataclass(frozen=True, slots=True)
class Without:
    """The key has no meaning here; the reason is told."""

    reason: str


Rule = To | Without | Callable[[Converted, Path, Any], None]


def convert(value: dict[str, Any], version: str) -> Converted:
    """The document as fleet/v1 would say it."""
    done = Converted({key: part for key, part in value.items() if key not in ("metadata", "spec")})
    done.document |= {"apiVersion": "fleet/v1", "metadata": {}, "spec": {}}
    table = tables()[version]
    for part in ("metadata", "spec"):
        given = value.get(part)
        if isinstance(given, dict):
            _apply(done, table, (part,), given)
        elif given is not None:
            done.document[part] = given
    if isinstance(done.document["spec"], dict):
        _defaults(done, version)
    if version == CLD and not done.get(("metadata", "name")):
        done.problems.append(Note(("metadata",), "name is missing; this format has no other place for it"))
    return done


def _apply(done: Converted, table: dict[str, Rule], at: Path, section: dict[str, Any]) -> None:
    for key, value in section.items():
        path = (*at, key)
        name = ".".join(map(str, path))
        rule = table.get(name)
        if rule is None and any(known.startswith(name + ".") for known in table):
            if isinstance(value, dict):
                _apply(done, table, path, value)
            elif value is not None:
                done.problems.append(Note(path, "must be a mapping"))
        elif rule is None:
            done.problems.append(Note(path, "is no key of this format", nearest(key, _siblings(table, at))))
        elif value is not None:
            _follow(done, rule, path, value)


def _follow(done: Converted, rule: Rule, path: Path, value: Any) -> None:
    if isinstance(rule, To):
        done.put(tuple(rule.path.split(".")), value, path)
    elif isinstance(rule, Without):
        done.warnings.append(Note(path, f"has no meaning here: {rule.reason}"))
    else:
        rule(done, path, value)


def _siblings(table: dict[str, Rule], at: Path) -> set[str]:
    prefix = ".".join(map(str, at)) + "."
    return {known[len(prefix) :].split(".")[0] for known in table if known.startswith(prefix)}


# -- rules for keys whose value changes its form ------------------------------------------------------------------


def _runtime(done: Converted, path: Path, value: Any) -> None:
    """The older `runtime` names the program, or a place for Claude Code."""
    if value in _PLACES:
        done.put(("spec", "runtime"), value, path)
        done.put_default(("spec", "slurm"), {})
    else:
        done.put(("spec", "harness"), value, path)


def _auto_accept(done: Converted, path: Path, value: Any) -> None:
    if isinstance(value, bool):
        done.put(("spec", "auto_accept"), (*_TRUSTED, "api-key") if value else (), path)
    else:
        done.problems.append(Note(path, "must be true or false"))


def _claude_session(done: Converted, path: Path, value: Any) -> None:
    if done.get(("spec", "session")) is None:  # the one at the top of spec counts more
        done.put(("spec", "session"), value, path)


def _venv(done: Converted, path: Path, value: Any) -> None:
    if done.get(("spec", "venv")) is not None:
        done.problems.append(Note(path, "venv and python-venv are the same key; keep one"))
    done.put(("spec", "venv"), value, path)


def _env(done: Converted, path: Path, value: Any) -> None:
    """A value that is one variable of the starter's environment is taken from there, as a secret."""
    done.put(("spec", "env"), {}, path)
    if not isinstance(value, dict):
        done.put(("spec", "env"), value, path)
        return
    for name, text in value.items():
        found = re.fullmatch(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", text) if isinstance(text, str) else None
        done.put(("spec", "env", name), {"env": found[1]} if found else text, (*path, name))


@dataclass(frozen=True, slots=True)
class Lines:
    """A list of shell lines or URLs becomes a list of commands."""

    path: str
    alone: bool = False
    """Whether one line may stand without a list."""

    def __call__(self, done: Converted, path: Path, value: Any) -> None:
        if self.alone and isinstance(value, str):
            value = (value,)
        if isinstance(value, tuple):  # anything else is refused there, with what to write
            value = tuple(_line(done, (*path, i), line) for i, line in enumerate(value))
        done.put(tuple(self.path.split(".")), value, path)


def _line(done: Converted, path: Path, line: Any) -> Any:
    if not isinstance(line, str):
        return line
    if re.match(r"https?://", line):
        done.warnings.append(Note(path, "is called as curl --request POST"))
        return {"argv": ("curl", "--fail", "--silent", "--show-error", "--request", "POST", line)}
    return {"sh": line}


def _startup_commands(done: Converted, path: Path, value: Any) -> None:
    """What was typed after the start is the first message, as text and nothing else."""
    texts = [_startup_text(done, (*path, i), item) for i, item in enumerate(value)] if isinstance(value, tuple) else []
    if not isinstance(value, tuple):
        done.problems.append(Note(path, "must be a list"))
    said = [text for text in texts if text is not None]
    if not said:
        return
    if before := done.get(("spec", "prompt")):
        said.insert(0, before)
    if len(said) > 1:
        done.warnings.append(Note(path, "several texts become one first message, a paragraph each"))
    done.put(("spec", "prompt"), "\n\n".join(said), path)


def _startup_text(done: Converted, path: Path, item: Any) -> str | None:
    if isinstance(item, str):
        return item
    if not isinstance(item, dict) or not isinstance(item.get("command"), str):
        done.problems.append(Note(path, "must be text, or a mapping with a command"))
        return None
    for key in item:
        if key == "delay":
            done.warnings.append(Note((*path, key), f"has no meaning here: {_NO_WAITS}"))
        elif key != "command":
            done.problems.append(Note((*path, key), "is no key of this format", nearest(key, ("delay", "command"))))
    command: str = item["command"]
    return command


def _strategy(done: Converted, path: Path, value: Any) -> None:
    done.put(("spec", "context_management", "strategy"), "warn" if value == "noop" else value, path)


def _signal(done: Converted, path: Path, value: Any) -> None:
    found = re.fullmatch(r"B:USR1@([0-9]+)", value) if isinstance(value, str) else None
    if found:
        done.put(("spec", "slurm", "signal_before"), int(found[1]), path)
    else:
        done.problems.append(Note(path, "must be B:USR1@SECONDS: fleet sends that signal to the job's own script"))


def _tasks(done: Converted, path: Path, value: Any) -> None:
    if value != 1:
        known = done.get(("spec", "slurm", "extra_directives")) or ()
        done.put(("spec", "slurm", "extra_directives"), (*known, f"--ntasks={value}"), path)


def _directives(done: Converted, path: Path, value: Any) -> None:
    if isinstance(value, tuple):
        known = done.get(("spec", "slurm", "extra_directives")) or ()
        value = (*known, *(re.sub(r"^#SBATCH\s+", "", d) if isinstance(d, str) else d for d in value))
    done.put(("spec", "slurm", "extra_directives"), value, path)


def _max_retries(done: Converted, path: Path, value: Any) -> None:
    """None at all was the older 0; here 0 is without end."""
    if value == 0 and not isinstance(value, bool):
        done.put(("spec", "restart", "policy"), "never", path)
        done.warnings.append(Note(path, "0 becomes restart.policy never; in fleet/v1 it would be without end"))
    else:
        done.put(("spec", "restart", "max_retries"), value, path)


def _policy(done: Converted, path: Path, value: Any) -> None:
    if done.get(("spec", "restart", "policy")) is None:  # max_retries: 0 has said never
        done.put(("spec", "restart", "policy"), value, path)


def _host(done: Converted, path: Path, value: Any) -> None:
    """The machine it belongs to; this one needs no way there."""
    if value not in ("localhost", "127.0.0.1", "local"):
        done.put(("spec", "remote", "host"), value, path)


def _a2a(done: Converted, path: Path, value: Any) -> None:
    done.put(("spec", "a2a", "enabled"), True, path)
    if not isinstance(value, dict):
        done.problems.append(Note(path, "must be a mapping"))
        return
    for key in value:
        if key in ("port", "host", "handler"):
            done.warnings.append(Note((*path, key), "has no meaning here: the daemon serves all agents at one address"))
        else:
            known = ("port", "host", "handler")
            done.problems.append(Note((*path, key), "is no key of this format", nearest(key, known)))


# -- the table ----------------------------------------------------------------------------------------------------

_NO_WAITS = "a start waits for what happens, never for a fixed time"
_OWN_SESSION = "the session's name follows from the agent's"
_OWN_READY = "the harness's own signs say when it is ready"
_OWN_HUB = "the built-in hub needs no address or token"
_OWN_WATCH = "fleet watches the context by itself"
_SETTLED = "startup dialogs are settled by auto_accept alone"
_NOT_BUILT = "fleet has no such part"

_SPEC: dict[str, Rule] = {
    "runtime": _runtime,
    "model": To("spec.model"),
    "workdir": To("spec.workdir"),
    "multiplexer": To("spec.multiplexer"),
    "screen.name": Without(_OWN_SESSION),
    "python-venv": _venv,
    "venv": _venv,
    "env": _env,
    "session": To("spec.session"),
    "claude.channels": Without("Claude Code's channels are behind a switch of its vendor; the hub takes their place"),
    "claude.flags": To("spec.args"),
    "claude.session": _claude_session,
    "claude.continue_max_age_minutes": Without("the agent's own conversation is gone on with, however old it is"),
    "claude.resume_id": Without("fleet keeps which conversation is the agent's own"),
    "claude.auto_accept": _auto_accept,
    "health.enabled": To("spec.health.enabled"),
    "health.interval": To("spec.health.interval"),
    "health.timeout": To("spec.health.timeout"),
    "health.method": To("spec.health.method"),
    "restart.policy": _policy,
    "restart.max_retries": _max_retries,
    "restart.backoff.initial": To("spec.restart.backoff.initial"),
    "restart.backoff.max": To("spec.restart.backoff.max"),
    "restart.backoff.multiplier": To("spec.restart.backoff.multiplier"),
    "hooks.pre_start": Lines("spec.hooks.pre_start"),
    "hooks.post_start": Lines("spec.hooks.post_start"),
    "hooks.pre_stop": Lines("spec.hooks.pre_stop"),
    "hooks.post_stop": Lines("spec.hooks.post_stop"),
    "hooks.on_restart": Lines("spec.hooks.on_restart"),
    "hooks.on_compact": Without("`fleet events` has each compaction"),
    "hooks.on_diff": Without(_NOT_BUILT),
    "startup_commands": _startup_commands,
    "startup.commands": _startup_commands,
    "startup.ready_patterns": Without(_OWN_READY),
    "startup.ready_idle_ticks": Without(_OWN_READY),
    "startup.ready_poll_interval_seconds": Without(_OWN_READY),
    "startup.ready_timeout_seconds": To("spec.startup.timeout"),
    "startup.on_timeout": Without("a start that stays silent has failed, and `fleet logs` has its last screen"),
    "context_management.trigger_at_percent": To("spec.context_management.trigger_at_percent"),
    "context_management.strategy": _strategy,
    "context_management.warn_before_n_checks": Without(_OWN_WATCH),
    "context_management.check_interval_seconds": Without(_OWN_WATCH),
    "context_management.state_file": Without(_OWN_WATCH),
    "skills.required": To("spec.skills.required"),
    "skills.available": To("spec.skills.available"),
    "mcp_servers": To("spec.mcp_servers"),
    "remote.host": To("spec.remote.host"),
    "remote.user": To("spec.remote.user"),
    "remote.key": To("spec.remote.key"),
    "remote.port": To("spec.remote.port"),
    "remote.timeout": To("spec.remote.timeout"),
    "remote.login_shell": To("spec.remote.login_shell"),
    "remote.no_preflight": Without("`fleet check` looks only when it is asked to"),
    "host": _host,
    "hosts": To("spec.hosts"),
    "container.runtime": To("spec.container.runtime"),
    "container.image": To("spec.container.image"),
    "container.volumes": To("spec.container.volumes"),
    "container.network": To("spec.container.network"),
    "container.mount_host_claude": To("spec.container.mount_host_claude"),
    "slurm.partition": To("spec.slurm.partition"),
    "slurm.account": To("spec.slurm.account"),
    "slurm.qos": To("spec.slurm.qos"),
    "slurm.time_limit": To("spec.slurm.time_limit"),
    "slurm.cpus_per_task": To("spec.slurm.cpus_per_task"),
    "slurm.mem": To("spec.slurm.mem"),
    "slurm.nodes": To("spec.slurm.nodes"),
    "slurm.ntasks": _tasks,
    "slurm.gres": To("spec.slurm.gres"),
    "slurm.job_name": Without("the job's name follows from the agent's"),
    "slurm.signal": _signal,
    "slurm.auto_resubmit": To("spec.slurm.auto_resubmit"),
    "slurm.hold": Without("a job lives as long as its agent"),
    "slurm.logs_dir": To("spec.slurm.logs_dir"),
    "slurm.extra_directives": _directives,
    "slurm.reservation": To("spec.slurm.reservation"),
    "slurm.hooks.pre_submit": Lines("spec.slurm.hooks.pre_submit", alone=True),
    "slurm.hooks.pre_agent": Lines("spec.slurm.hooks.pre_agent", alone=True),
    "slurm.hooks.walltime_signal": Lines("spec.slurm.hooks.walltime_signal", alone=True),
    "slurm.hooks.post_agent": Lines("spec.slurm.hooks.post_agent", alone=True),
    "slurm.hooks.attach": Without("`fleet attach` finds the way into a job by itself"),
    "slurm.heartbeat.command": Without("the launcher's lease is the sign of life"),
    "slurm.heartbeat.interval_s": Without("the launcher's lease is the sign of life"),
    "slurm.heartbeat.log_file": Without("the launcher's lease is the sign of life"),
    "listen": Without("what an agent listens on is its own affair"),
    "extensions": Without(_NOT_BUILT),
    "a2a": _a2a,
    "watchdog.enabled": Without(_SETTLED),
    "watchdog.interval": Without(_SETTLED),
    "watchdog.responses": Without(_SETTLED),
    "telegram.bot_token_env": Without(_NOT_BUILT),
    "telegram.allowed_users": Without(_NOT_BUILT),
    "telegram.auto_connect": Without(_NOT_BUILT),
    "telegram.greeting": Without(_NOT_BUILT),
}

_METADATA: dict[str, Rule] = {
    "metadata.name": To("metadata.name"),
    "metadata.labels": To("metadata.labels"),
    "metadata.description": To("metadata.description"),
    "metadata.capabilities": To("metadata.capabilities"),
}

_OROCHI: dict[str, Rule] = {
    "spec.orochi.hosts": Without(_OWN_HUB),
    "spec.orochi.port": Without(_OWN_HUB),
    "spec.orochi.token_env": Without(_OWN_HUB),
    "spec.orochi.channels": To("spec.hub.channels"),
    "spec.orochi.heartbeat_interval": Without("presence comes from the daemon, which sees the agent"),
}


def tables() -> dict[str, dict[str, Rule]]:
    """Every key of each older format, and what becomes of it."""
    common = _METADATA | {f"spec.{name}": rule for name, rule in _SPEC.items()}
    named_by_folder = {"metadata.name": Without("in this format the name is the folder's")}
    return {V2: common, V3: common | named_by_folder, CLD: common | _OROCHI}


# -- their defaults, where they differ from ours ------------------------------------------------------------------


def _defaults(done: Converted, version: str) -> None:
    for new, default in _own_defaults(version):
        done.put_default(new, default)
    spec = done.document["spec"]
    for section, defaults in _SECTION_DEFAULTS.items():
        if isinstance(spec.get(section), dict):
            for name, default in defaults.items():
                done.put_default(("spec", section, name), default)


def _own_defaults(version: str) -> Iterator[tuple[Path, Any]]:
    """What these formats mean by silence."""
    yield ("spec", "auto_accept"), _TRUSTED
    yield ("spec", "health", "enabled"), False
    yield ("spec", "health", "interval"), 30
    yield ("spec", "restart", "policy"), "never"
    yield ("spec", "restart", "max_retries"), 3
    yield ("spec", "restart", "backoff", "initial"), 30
    if version == CLD:
        yield ("spec", "workdir"), "~/proj"
        yield ("spec", "multiplexer"), "screen"
        yield ("spec", "session"), "new"


_SECTION_DEFAULTS: dict[str, dict[str, Any]] = {
    "context_management": {"trigger_at_percent": 70},
    "remote": {"login_shell": True},
    "slurm": {"signal_before": 3600, "logs_dir": "~/slurm_logs"},
}


def reference() -> str:
    """The table for people."""
    lines = ["| key | in | becomes |", "|---|---|---|"]
    found = tables()
    for key in dict.fromkeys(key for table in found.values() for key in table):
        rules = {version: table[key] for version, table in found.items() if key in table}
        for rule in dict.fromkeys(rules.values()):
            versions = [
                version.rpartition("/")[2] if version != CLD else version for version in rules if rules[version] is rule
            ]
            where = "all" if len(versions) == len(found) else ", ".join(versions)
            lines.append(f"| `{key}` | {where} | {_becomes(rule)} |")
    return "\n".join(lines) + "\n"


def _becomes(rule: Rule) -> str:
    if isinstance(rule, To | Lines):
        return f"`{rule.path}`"
    if isinstance(rule, Without):
        return f"– ({rule.reason})"
    return _WORDS[rule]


_WORDS: dict[Rule, str] = {
    _runtime: "`spec.harness`, or `spec.runtime` where it names a place",
    _auto_accept: "`spec.auto_accept`: all, or none",
    _claude_session: "`spec.session`, unless that is set",
    _policy: "`spec.restart.policy`",
    _venv: "`spec.venv`",
    _env: "`spec.env`; a value that is `${NAME}` alone becomes `{env: NAME}`",
    _startup_commands: "`spec.prompt`",
    _strategy: "`spec.context_management.strategy`, `noop` as `warn`",
    _signal: "`spec.slurm.signal_before`",
    _tasks: "`spec.slurm.extra_directives`",
    _directives: "`spec.slurm.extra_directives`",
    _max_retries: "`spec.restart.max_retries`; 0 becomes `policy: never`",
    _host: "`spec.remote.host`, unless it is this machine",
    _a2a: "`spec.a2a.enabled`",
}
