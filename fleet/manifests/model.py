"""The manifest as a value: `AgentSpec` is one validated agent, every field described.

The documentation page, the JSON Schema and `fleet validate` all come from these classes, so a description here is
what a person reads there. Nothing in this file reads a file or the environment: paths are kept as they were written,
with `folder` beside them to read them from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

API_VERSION = "fleet/v1"
NAME_PATTERN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"

Harness: TypeAlias = Literal["claude-code", "codex", "gemini-cli", "opencode", "aider", "cursor", "shell"]
RuntimeName: TypeAlias = Literal["local", "ssh", "slurm", "slurm-tenant"]
Permission: TypeAlias = Literal["trust-folder", "bypass-permissions", "api-key", "mcp-servers"]


def in_words(error: ValueError) -> str:
    """What is wrong with a section that was made of a command's words."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False))


def refuse(message: str, **facts: Any) -> PydanticCustomError:
    """A problem in words of our own, for the place that is being validated."""
    # Braces would be taken as places to fill in.
    return PydanticCustomError("refused", "{message}", {"message": message, **facts})


# -- what a single value may be -----------------------------------------------------------------------------------


def _clean(text: str) -> str:
    if "\0" in text:
        raise refuse("holds a NUL character, which no program can be given")
    return text


def is_name(text: str) -> bool:
    """Whether an agent may be called so."""
    return re.fullmatch(NAME_PATTERN, text) is not None


def _name(text: str) -> str:
    if not is_name(text):
        facts = {"nearest": near} if (near := nearest_name(text)) else {}
        raise refuse(
            f"{text!r} is no agent name: lower-case letters, digits and inner hyphens, at most 63 characters", **facts
        )
    return text


def nearest_name(text: str) -> str | None:
    """The agent name that was probably meant, where one can be made of the letters there are."""
    if "/" in text or ".." in text or len(text) > 63:
        return None
    near = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return near if is_name(near) else None


def _variable(text: str) -> str:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) is None:
        raise refuse(f"{text!r} is no name for a variable: letters, digits and underscores, no digit first")
    if text.startswith("FLEET_"):
        raise refuse(f"{text} is fleet's own: variables that begin with FLEET_ are set by the launch")
    return text


def _inside(text: str) -> str:
    _clean(text)
    if not text or text.startswith(("/", "~")) or ".." in text.split("/"):
        raise refuse(f"{text!r} must stay inside the workspace: a relative path without '..'")
    return text


def _label(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?", text) is None:
        raise refuse(f"{text!r} is no label: letters, digits and inner . _ / -")
    return text


def _one_line(text: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise refuse("must be a single line without control characters")
    return text


def _argument(text: str) -> str:
    _one_line(text)
    if not text or text.startswith("-"):
        raise refuse(f"{text!r} would be read as an option by the program that is given it")
    return text


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 7, _DAYS),
)


def _cron(text: str) -> str:
    fields = text.split()
    if len(fields) != len(_CRON):
        raise refuse(f"{text!r} is no cron line: five fields, such as '0 9 * * 1-5'")
    for field, (name, least, most, words) in zip(fields, _CRON, strict=True):
        for item in field.lower().split(","):
            span, slash, step = item.partition("/")
            ends = [
                least + words.index(end) if end in words else int(end) if end.isdecimal() else -1
                for end in span.split("-")
            ]
            if name == "weekday" and ends[1:] == [0]:
                ends[1] = 7  # sat-sun
            whole = span == "*" or (len(ends) < 3 and all(least <= end <= most for end in ends))
            if not whole or ends != sorted(ends) or (slash and not (step.isdecimal() and int(step))):
                raise refuse(f"{text!r} is no cron line: {field!r} is no {name}, {least} to {most}, *, a-b or */n")
    return text


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ValueError, OSError) as e:  # ZoneInfoNotFoundError is a KeyError of no such key
        raise refuse(f"{text!r} is no time zone: write it as Europe/Berlin or UTC") from e
    except KeyError as e:
        if text == "UTC" or not available_timezones():  # this machine knows none: another may
            return text
        raise refuse(f"{text!r} is no time zone: write it as Europe/Berlin or UTC") from e
    return text


def _channel(text: str) -> str:
    if re.fullmatch(r"#?[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", text.lower()) is None:
        raise refuse(f"{text!r} is no channel: letters, digits and inner . _ -, at most 63, such as builds")
    return text


def _memory(text: str) -> str:
    if re.fullmatch(r"[0-9]+[KMGTkmgt]?", text) is None:
        raise refuse(f"{text!r} is no amount of memory: a number and K, M, G or T, such as 4G")
    return text


def _job_time(text: str) -> str:
    if re.fullmatch(r"[0-9]+|[0-9]+:[0-9]{2}(:[0-9]{2})?|[0-9]+-[0-9]{1,2}(:[0-9]{2}){0,2}", text) is None:
        raise refuse(f"{text!r} is no time limit: days-hours:minutes:seconds, such as 1-00:00:00, or minutes")
    return text


def _every(text: str) -> str:
    if re.fullmatch(r"[1-9][0-9]*[smhd]", text) is None:
        raise refuse(f"{text!r} is no interval: a whole number and s, m, h or d, such as 10m")
    return text


def _at(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError as e:
        raise refuse(f"{text!r} is no time: write it as 2026-03-01T09:00:00") from e
    return text


Text: TypeAlias = Annotated[str, AfterValidator(_clean)]
Line: TypeAlias = Annotated[str, AfterValidator(_one_line)]
Written: TypeAlias = Annotated[
    str, AfterValidator(_clean), WithJsonSchema({"type": ["string", "number", "boolean"], "x-as-written": True})
]
"""Text that YAML would read as a number or a truth value and that is meant as it stands there: `sleep 60`."""
AgentName: TypeAlias = Annotated[
    str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN}$"})
]
VariableName: TypeAlias = Annotated[str, AfterValidator(_variable)]
InsidePath: TypeAlias = Annotated[str, AfterValidator(_inside)]
LabelText: TypeAlias = Annotated[str, AfterValidator(_label)]
Argument: TypeAlias = Annotated[str, AfterValidator(_argument)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False, le=31_536_000)]
SecondsOrNone: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False, le=31_536_000)]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
ExitCode: TypeAlias = Annotated[int, Field(ge=0, le=255)]
Percent: TypeAlias = Annotated[float, Field(ge=0, le=100)]


class Section(BaseModel):
    """A part of a manifest: a value that does not change, and knows all of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def _tagged(message: str, **shapes: type | tuple[type, ...]) -> Discriminator:
    """Which form of a value this is, by its shape, so that a problem speaks of that form alone."""

    def shape(value: Any) -> str | None:
        return next((tag for tag, types in shapes.items() if isinstance(value, types)), None)

    return Discriminator(shape, custom_error_type="refused", custom_error_message=message)


def _one_of(section: Section, names: tuple[str, ...], what: str) -> None:
    given = [name for name in names if getattr(section, name) not in (None, False)]
    if len(given) != 1:
        raise refuse(f"{what} needs exactly one of {', '.join(names)}" + (f", not {', '.join(given)}" if given else ""))


# -- commands and secrets -----------------------------------------------------------------------------------------


class Command(Section):
    """Something to run: a list of arguments, or a line for `sh`."""

    argv: tuple[Written, ...] = Field(default=(), description="The program and its arguments; no shell reads them.")
    sh: Text | None = Field(default=None, description="A line for `sh -c`, where a shell is wanted.")
    timeout: Seconds = Field(default=60, description="Seconds until it is ended.")

    @model_validator(mode="after")
    def _one_form(self) -> Command:
        if bool(self.argv) == bool(self.sh):
            raise refuse('a command is a list such as [make, build], or {sh: "make build"}')
        if self.argv and not self.argv[0]:
            raise refuse("the first word of a command is the program; it is empty")
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """The argument list that is executed."""
        return self.argv or ("sh", "-c", self.sh or "")


def _command_form(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return {"argv": tuple(value)}
    if isinstance(value, str):
        raise refuse('a command is a list such as [make, build], or {sh: "make build"}; here stands plain text')
    return value


CommandForm: TypeAlias = Annotated[
    Command,
    BeforeValidator(
        _command_form,
        json_schema_input_type=Annotated[tuple[Written, ...] | Command, "a list of arguments, or a mapping"],
    ),
]


class Secret(Section):
    """A value that is not in the manifest: read at start from the starter's environment, a file or a command."""

    env: Line | None = Field(default=None, description="The variable of the starter's environment that holds it.")
    file: Text | None = Field(default=None, description="The file that holds it; one closing newline is dropped.")
    command: tuple[Written, ...] = Field(
        default=(), description="The argument list that prints it; one closing newline is dropped."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Secret:
        given = [name for name in ("env", "file", "command") if getattr(self, name)]
        if len(given) != 1:
            raise refuse("a secret has exactly one source: {env: NAME}, {file: PATH} or {command: [argv]}")
        return self


EnvValue: TypeAlias = Annotated[
    Annotated[Written, Tag("text")] | Annotated[Secret, Tag("secret")],
    _tagged(
        "must be text, or a secret as {env: NAME}, {file: PATH} or {command: [argv]}",
        text=str,
        secret=(dict, Secret),
    ),
]


# -- the sections of spec -----------------------------------------------------------------------------------------


class Skills(Section):
    """Folders of skills, copied into the workspace for the harness."""

    required: tuple[Line, ...] = Field(default=(), description="Skills it must have; one that is nowhere is a warning.")
    available: tuple[Line, ...] = Field(default=(), description="Skills it gets where they are found.")
    strict: bool = Field(default=False, description="A required skill that is nowhere is an error.")


def _with_tuples(value: Any) -> Any:
    """Lists as tuples at every depth: keys that nobody knows stay as frozen as those of the model."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(_with_tuples(inner) for inner in value) if isinstance(value, list | tuple) else value


class McpServer(BaseModel):
    """One MCP server, in the form of an `.mcp.json`. Keys that fleet does not know go through to the program."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    type: Literal["stdio", "http", "sse", "ws"] | None = Field(default=None, description="How it is spoken to.")
    command: Text | None = Field(default=None, description="stdio: the program.")
    args: tuple[Written, ...] = Field(default=(), description="stdio: its arguments.")
    env: dict[str, Written] = Field(default_factory=dict, description="stdio: its variables.")
    url: Text | None = Field(default=None, description="http, sse, ws: its address.")
    headers: dict[str, Text] = Field(default_factory=dict, description="http, sse, ws: headers of each request.")

    @model_validator(mode="before")
    @classmethod
    def _frozen(cls, data: Any) -> Any:
        return _with_tuples(data)

    @model_validator(mode="after")
    def _has_an_end(self) -> McpServer:
        if bool(self.command) == bool(self.url):
            raise refuse("an MCP server needs a command (stdio) or a url (http, sse, ws), one of the two")
        return self


class Startup(Section):
    """When a start counts as done."""

    timeout: Seconds = Field(
        default=120, description="Seconds of silence after which a start has failed; a dialog stops this clock."
    )
    probe: CommandForm | None = Field(
        default=None, description="A command that ends with 0 once the agent has started; mostly for shell agents."
    )


class Stop(Section):
    """How it is stopped."""

    timeout: SecondsOrNone = Field(default=10, description="Seconds from SIGTERM to SIGKILL.")
    command: Line | None = Field(
        default=None, description="What is typed to leave the program; by default the harness's own exit command."
    )


class Remote(Section):
    """An ssh host to run on."""

    host: Argument | tuple[Argument, ...] = Field(
        description="A host or an alias of ssh_config; of a list the first that answers takes the agent, and keeps it."
    )
    user: Argument | None = Field(default=None, description="The user there; by default ssh's own choice.")
    port: Port = Field(default=22, description="The port of sshd.")
    key: Text | None = Field(default=None, description="The private key's file.")
    timeout: Seconds = Field(default=180, description="Seconds until a connection attempt has failed.")
    login_shell: bool = Field(default=False, description="Take the environment from a login shell there.")

    @model_validator(mode="after")
    def _has_a_host(self) -> Remote:
        if not self.host:
            raise refuse("remote.host names no host")
        return self

    @property
    def choices(self) -> tuple[str, ...]:
        """The hosts to try, in order."""
        return (self.host,) if isinstance(self.host, str) else self.host


class SlurmHooks(Section):
    """Commands around a SLURM job."""

    pre_submit: tuple[CommandForm, ...] = Field(default=(), description="On the submitting host, before `sbatch`.")
    pre_agent: tuple[CommandForm, ...] = Field(default=(), description="In the job, before the agent.")
    walltime_signal: tuple[CommandForm, ...] = Field(default=(), description="In the job, when its time nears the end.")
    post_agent: tuple[CommandForm, ...] = Field(default=(), description="In the job, after the agent.")


class Slurm(Section):
    """A SLURM job to run in."""

    partition: Argument | None = Field(default=None, description="The partition; by default the cluster's.")
    account: Annotated[Argument, WithJsonSchema({"type": ["string", "number"], "x-as-written": True})] | None = Field(
        default=None, description="The account that is charged."
    )
    qos: Argument | None = Field(default=None, description="The quality of service.")
    cpus_per_task: int = Field(default=1, ge=1, description="CPUs.")
    mem: Annotated[Written, AfterValidator(_memory)] = Field(
        default="4G", description="Memory of the node, as SLURM writes it."
    )
    gres: Argument | None = Field(default=None, description="Generic resources, such as gpu:1.")
    nodes: int = Field(default=1, ge=1, description="Nodes.")
    time_limit: Annotated[Written, AfterValidator(_job_time)] = Field(
        default="1-00:00:00", description="The job's time limit, as SLURM writes it: days-hours:minutes:seconds."
    )
    signal_before: int = Field(
        default=600, ge=120, description="Seconds before the limit at which the job is told and prepares its successor."
    )
    auto_resubmit: bool = Field(
        default=True, description="Whether a job that reaches its limit is followed by another."
    )
    reservation: Argument | None = Field(
        default=None, description="An allocation held by others' jobs as well: the agent becomes one of its tenants."
    )
    extra_directives: tuple[Line, ...] = Field(
        default=(), description="Further `#SBATCH` options, each as `--constraint=avx512`."
    )
    logs_dir: Text | None = Field(default=None, description="The folder of the job's output.")
    hooks: SlurmHooks = Field(default=SlurmHooks(), description="Commands around the job.")

    @model_validator(mode="after")
    def _directives_are_options(self) -> Slurm:
        for line in self.extra_directives:
            if not line.startswith("-"):
                raise refuse(f"{line!r} in extra_directives is no option: write --name=value, without #SBATCH")
        return self


class Container(Section):
    """A container to run in."""

    runtime: Literal["none", "docker", "apptainer"] = Field(default="none", description="The container program.")
    image: Line = Field(default="", description="The image.")
    volumes: tuple[Line, ...] = Field(default=(), description="What is mounted: HOST:CONTAINER or HOST:CONTAINER:ro.")
    network: Literal["none", "host", "bridge"] = Field(default="none", description="Its network.")
    mount_host_claude: bool = Field(
        default=False, description="Whether the person's own ~/.claude is mounted, credentials included."
    )

    @model_validator(mode="after")
    def _has_an_image(self) -> Container:
        if self.runtime != "none" and not self.image:
            raise refuse(f"container.runtime {self.runtime} needs an image")
        return self


HealthMethod: TypeAlias = Literal["multiplexer-alive", "command", "http", "tcp"]


class Health(Section):
    """One check of an agent's health."""

    enabled: bool = Field(default=True, description="Whether it is checked at all.")
    interval: Seconds = Field(default=60, description="Seconds between two checks.")
    timeout: Seconds = Field(default=5, description="Seconds until a check has failed.")
    method: HealthMethod = Field(default="multiplexer-alive", description="What is checked.")


class Probe(Section):
    """One of several checks, each with its role."""

    role: Literal["startup", "readiness", "liveness", "progress"] = Field(description="What its answer decides.")
    method: HealthMethod = Field(default="multiplexer-alive", description="What is checked.")
    period: Seconds = Field(default=60, description="Seconds between two checks.")
    timeout: Seconds = Field(default=5, description="Seconds until a check has failed.")
    failures: int = Field(default=3, ge=1, description="Failures in a row until it is believed.")
    successes: int = Field(default=1, ge=1, description="Successes in a row until it is believed.")
    command: CommandForm | None = Field(default=None, description="method command: ends with 0 when all is well.")
    url: Line | None = Field(default=None, description="method http: answers with 2xx or 3xx when all is well.")
    port: Port | None = Field(default=None, description="method tcp: accepts a connection when all is well.")

    @model_validator(mode="after")
    def _has_its_target(self) -> Probe:
        needed = {"command": "command", "http": "url", "tcp": "port"}.get(self.method)
        if needed and getattr(self, needed) is None:
            raise refuse(f"method {self.method} needs {needed}")
        return self


HealthForm: TypeAlias = Annotated[
    Annotated[Health, Tag("check")] | Annotated[tuple[Probe, ...], Tag("probes")],
    _tagged(
        "must be a mapping such as {interval: 60}, or a list of probes with a role each",
        check=(dict, Health),
        probes=(list, tuple),
    ),
]


class Backoff(Section):
    """The waits between restarts."""

    initial: SecondsOrNone = Field(default=10, description="Seconds before the second restart; the first is at once.")
    max: SecondsOrNone = Field(default=300, description="The longest wait.")
    multiplier: float = Field(default=2, ge=1, le=100, description="Each wait is this many times the one before.")

    @model_validator(mode="after")
    def _grows(self) -> Backoff:
        if self.max < self.initial:
            raise refuse(f"backoff.max ({self.max:g}) is below backoff.initial ({self.initial:g})")
        return self


class Restart(Section):
    """Whether and when it comes back after it ended by itself."""

    policy: Literal["never", "on-failure", "always"] = Field(
        default="on-failure", description="A clean exit is no failure; a stop by a person is never undone."
    )
    max_retries: int = Field(
        default=5, ge=0, description="The death within the window that parks the agent; 0: it is never parked."
    )
    window: Seconds = Field(default=900, description="Seconds in which deaths are counted together.")
    reset_after: Seconds = Field(default=600, description="Seconds of running after which all deaths are forgiven.")
    backoff: Backoff = Field(default=Backoff(), description="The waits between restarts.")
    success_exit_codes: tuple[ExitCode, ...] = Field(default=(0,), description="Exit codes that are a clean exit.")
    never_exit_codes: tuple[ExitCode, ...] = Field(default=(), description="Exit codes after which it stays down.")
    auto_resume: bool = Field(
        default=False, description="Whether it goes on by itself once a usage limit has ended; otherwise it is held."
    )


class Hooks(Section):
    """Commands around an agent's life: argument lists, or `{sh: "line", timeout: 60}`."""

    pre_start: tuple[CommandForm, ...] = Field(default=(), description="Before each launch; a failure stops the start.")
    post_start: tuple[CommandForm, ...] = Field(default=(), description="Once it has started.")
    pre_stop: tuple[CommandForm, ...] = Field(default=(), description="Before a person's stop.")
    post_stop: tuple[CommandForm, ...] = Field(default=(), description="After it was stopped.")
    on_restart: tuple[CommandForm, ...] = Field(default=(), description="Before it is restarted after a death.")
    on_needs_input: tuple[CommandForm, ...] = Field(default=(), description="When it begins to wait for a person.")
    on_limit: tuple[CommandForm, ...] = Field(default=(), description="When it has reached a usage limit.")


class ContextManagement(Section):
    """What happens when the conversation fills the model's context."""

    trigger_at_percent: Percent = Field(default=80, description="How full it must be.")
    strategy: Literal["warn", "compact", "restart"] = Field(default="warn", description="What is done then.")
    min_drop_percent: Percent = Field(default=20, description="The drop that proves that a compaction worked.")


class ScheduleEntry(Section):
    """Something done at set times."""

    cron: Annotated[str, AfterValidator(_cron)] | None = Field(
        default=None, description="When: a cron line of five fields."
    )
    every: Annotated[str, AfterValidator(_every)] | None = Field(
        default=None, description="When: an interval, such as 10m."
    )
    at: Annotated[str, AfterValidator(_at)] | None = Field(default=None, description="When: once, at this time.")
    send: Text | None = Field(default=None, description="What: a message to the agent.")
    ask: Text | None = Field(default=None, description="What: a question whose answer is kept.")
    start: bool = Field(default=False, description="What: start it.")
    stop: bool = Field(default=False, description="What: stop it.")
    restart: bool = Field(default=False, description="What: restart it.")
    action: Line | None = Field(default=None, description="What: one of the harness's actions, by name.")
    timezone: Annotated[Line, AfterValidator(_zone)] | None = Field(
        default=None, description="The time zone of the times, by default the machine's."
    )
    only_if: tuple[Written, ...] = Field(
        default=(), description="An argument list that is asked first; any exit but 0 skips this time."
    )
    misfire: Literal["run-once", "skip"] = Field(
        default="run-once", description="What happens to times that were missed."
    )
    overlap: Literal["skip", "queue"] = Field(
        default="skip", description="What happens while the one before still works."
    )

    @model_validator(mode="after")
    def _one_time_one_deed(self) -> ScheduleEntry:
        _one_of(self, ("cron", "every", "at"), "a schedule")
        _one_of(self, ("send", "ask", "start", "stop", "restart", "action"), "a schedule")
        return self


class Hub(Section):
    """Its place in the hub."""

    enabled: bool = Field(default=True, description="Whether it takes part.")
    channels: tuple[Annotated[Line, AfterValidator(_channel)], ...] = Field(
        default=(), description="Channels it hears."
    )
    may: tuple[Literal["send", "ask", "broadcast"], ...] = Field(
        default=("send", "ask", "broadcast"), description="What it may do there; to answer is always allowed."
    )
    hop_limit: int = Field(default=8, ge=0, le=64, description="How far a message may be passed on from it.")
    wake: bool = Field(default=False, description="Whether its broadcasts may cause turns.")
    mcp: bool = Field(default=True, description="Whether it gets fleet's own MCP server.")
    side_channels: bool = Field(
        default=False, description="Whether the program's own ways to other sessions stay open."
    )
    suppress_thanks: bool = Field(default=True, description="Whether replies that only say thanks go nowhere.")


class Headless(Section):
    """How a headless agent works."""

    max_parallel: int = Field(default=1, ge=1, le=64, description="Turns at the same time.")
    timeout: Seconds = Field(default=900, description="Seconds until a turn is ended.")
    tools: Literal["read-only", "all"] | tuple[Line, ...] = Field(
        default="read-only", description="Tools it may use: read-only, all, or their names."
    )


class A2A(Section):
    """The agent as an A2A endpoint."""

    enabled: bool = Field(default=False, description="Whether it can be called.")


class Budget(Section):
    """What it may cost."""

    usd_per_day: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None, description="US dollars a day; by default without limit."
    )
    on_limit: Literal["pause", "warn"] = Field(default="pause", description="What happens when it is spent.")


class Dependency(Section):
    """An agent that must be there first."""

    agent: AgentName = Field(description="Its name.")
    condition: Literal["started", "ready", "completed"] = Field(default="started", description="How far it must be.")


# -- the agent ----------------------------------------------------------------------------------------------------


class Metadata(Section):
    """Who the agent is."""

    name: AgentName = Field(description="Its name, unique in the fleet; where it is missing, the folder's name.")
    description: Text | None = Field(default=None, description="What it is for, in a line.")
    labels: dict[LabelText, Annotated[Written, AfterValidator(_one_line)]] = Field(
        default_factory=dict, description="Words to select it by: `fleet status -l role=worker`."
    )
    capabilities: tuple[LabelText, ...] = Field(
        default=(), description="What it can do: `fleet list --capability review`, and routing."
    )


class AgentSpec(Metadata):
    """One agent, validated. The keys of `metadata` and of `spec` stand side by side."""

    harness: Harness = Field(default="claude-code", description="The coding-agent program.")
    runtime: RuntimeName = Field(
        default="local",
        description="Where it runs. It follows from `remote` and `slurm`; where it is stated, it must agree with them.",
    )
    mode: Literal["interactive", "headless"] = Field(
        default="interactive", description="interactive: it lives in a pane; headless: one turn per message."
    )
    model: Argument | None = Field(default=None, description="The model; by default the harness's own.")
    command: tuple[Written, ...] = Field(
        default=(), description="shell: the argument list to run. Others: the program's path and first arguments."
    )
    args: tuple[Written, ...] = Field(default=(), description="Further arguments, a list, never one string.")
    workdir: Text | None = Field(
        default=None,
        description="The folder it works in, relative to the manifest's; it must exist. "
        "By default a workspace of the agent's own, made by fleet.",
    )
    prompt: Text | None = Field(
        default=None, description="The first message, given as the program's argument: `ps` shows it to everyone."
    )
    prompt_file: Text | None = Field(
        default=None, description="A file with the first message, relative to the manifest's folder; it is typed."
    )
    session: Literal["continue-or-new", "continue", "new"] = Field(
        default="continue-or-new",
        description="Whether a start goes on with this agent's own recorded conversation. continue: fail without one.",
    )
    permission_mode: Argument | None = Field(
        default=None, description="The harness's own word for what it may do unasked, such as acceptEdits or plan."
    )
    auto_accept: tuple[Permission, ...] = Field(
        default=(),
        description="Startup dialogs fleet may settle: by a setting of the launch where there is one, else by key.",
    )
    env: dict[VariableName, EnvValue] = Field(
        default_factory=dict,
        repr=False,
        description="Variables: text as it stands, or a secret as {env: NAME}, {file: PATH} or {command: [argv]}.",
    )
    env_inherit: Literal["default", "all", "none"] | tuple[Line, ...] = Field(
        default="default", description="What it gets of the starter's environment: default, all, none, names or globs."
    )
    venv: Text | tuple[Text, ...] | None = Field(
        default=None, description="A Python environment to activate; of a list the first that exists."
    )
    files: dict[InsidePath, Text] = Field(
        default_factory=dict,
        description="Files put into the workspace at start: its path there, and the source beside the manifest.",
    )
    skills: Skills = Field(
        default=Skills(), description="Folders of skills, copied into the workspace for the harness."
    )
    mcp_servers: dict[LabelText, McpServer] = Field(
        default_factory=dict, description="MCP servers given to the launch; nothing is written into the project."
    )
    startup: Startup = Field(default=Startup(), description="When a start counts as done.")
    stop: Stop = Field(default=Stop(), description="How it is stopped.")
    remote: Remote | None = Field(default=None, description="An ssh host to run on.")
    hosts: Literal["all"] | tuple[Argument, ...] | None = Field(
        default=None, description="One agent a host, each named NAME-HOST: all, or a list."
    )
    slurm: Slurm | None = Field(default=None, description="A SLURM job to run in.")
    container: Container = Field(default=Container(), description="A container to run in.")
    multiplexer: Literal["tmux", "screen"] = Field(default="tmux", description="What holds its pane.")
    health: HealthForm = Field(default=Health(), description="How its health is checked: one check, or several probes.")
    restart: Restart = Field(default=Restart(), description="Whether and when it comes back after it ended by itself.")
    hooks: Hooks = Field(default=Hooks(), description="Commands around its life.")
    context_management: ContextManagement = Field(
        default=ContextManagement(), description="What happens when the conversation fills the model's context."
    )
    schedule: tuple[ScheduleEntry, ...] = Field(default=(), description="What is done at set times.")
    hub: Hub = Field(default=Hub(), description="Its place in the hub.")
    headless: Headless = Field(default=Headless(), description="How a headless agent works.")
    a2a: A2A = Field(default=A2A(), description="The agent as an A2A endpoint.")
    budget: Budget = Field(default=Budget(), description="What it may cost.")
    depends_on: tuple[Dependency, ...] = Field(
        default=(), description="Agents that must be there first; stops go the other way round."
    )

    folder: str = Field(default="", description="The absolute folder of the manifest, which relative paths start from.")
    source: str = Field(default="", description="The manifest's absolute path.")

    @model_validator(mode="before")
    @classmethod
    def _derive_runtime(cls, data: Any) -> Any:
        """Fill in where it runs; a statement that contradicts the rest is a problem of its own."""
        if not isinstance(data, Mapping) or data.get("runtime") is not None:
            return data
        return {**data, "runtime": derived_runtime(data.get("remote"), data.get("slurm"))}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> AgentSpec:
        for objection in (check(self) for check in _CHECKS):
            if objection is not None:
                raise objection
        return self

    @property
    def secret_names(self) -> tuple[str, ...]:
        """The variables whose values are secrets."""
        return tuple(name for name, value in self.env.items() if isinstance(value, Secret))

    def to_manifest(self) -> dict[str, Any]:
        """The fleet/v1 document that loads to this very agent: what was said, without the defaults."""
        said = self.model_dump(mode="json", exclude_unset=True, exclude={"folder", "source"})
        if not {"runtime"} & self.model_fields_set or self.runtime == derived_runtime(self.remote, self.slurm):
            said.pop("runtime", None)
        metadata = {key: said.pop(key) for key in Metadata.model_fields if key in said}
        return {"apiVersion": API_VERSION, "kind": "Agent", "metadata": metadata, "spec": said}


def derived_runtime(remote: Any, slurm: Any) -> RuntimeName:
    """Where an agent runs that has these two sections: validated ones, or mappings still to be read."""
    if slurm is not None:
        reservation = slurm.get("reservation") if isinstance(slurm, Mapping) else getattr(slurm, "reservation", None)
        return "slurm-tenant" if reservation else "slurm"
    return "ssh" if remote is not None else "local"


def _runtime_agrees(spec: AgentSpec) -> PydanticCustomError | None:
    derived = derived_runtime(spec.remote, spec.slurm)
    if spec.hosts is not None and spec.runtime == "ssh" and derived == "local":
        return None
    if spec.runtime == derived:
        return None
    wanted = {
        "local": "stands without remote and slurm",
        "ssh": "needs remote, and no slurm",
        "slurm": "needs slurm, without a reservation",
        "slurm-tenant": "needs slurm with a reservation",
    }[spec.runtime]
    return refuse(f"runtime {spec.runtime} {wanted}; what is written here means {derived}", at="runtime")


def _one_first_message(spec: AgentSpec) -> PydanticCustomError | None:
    if spec.prompt is not None and spec.prompt_file is not None:
        return refuse("prompt and prompt_file are two first messages; keep one", at="prompt_file")
    return None


def _shell_has_a_command(spec: AgentSpec) -> PydanticCustomError | None:
    if spec.harness == "shell" and not spec.command:
        return refuse("harness shell needs a command, such as [python3, worker.py]", at="harness")
    if spec.command and not spec.command[0]:
        return refuse("the first word of a command is the program; it is empty", at="command")
    return None


def _not_its_own_dependency(spec: AgentSpec) -> PydanticCustomError | None:
    if spec.name in (dependency.agent for dependency in spec.depends_on):
        return refuse(f"{spec.name} depends on itself", at="depends_on")
    return None


_CHECKS: tuple[Callable[[AgentSpec], PydanticCustomError | None], ...] = (
    _runtime_agrees,
    _one_first_message,
    _shell_has_a_command,
    _not_its_own_dependency,
)
