"""An agent and a host, everything decided: a LaunchPlan. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from fleet.harnesses.base import Launch
from fleet.manifests.model import AgentSpec
from fleet.terms import File, Handle, LaunchPlan

INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TMPDIR", "SSH_AUTH_SOCK", "XDG_*",
    "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
)  # fmt: skip
"""What an agent gets of its starter's environment (SEMANTICS 2); a harness adds its own names."""

DROPPED = ("TMUX", "TMUX_PANE", "STY", "WINDOW", "FLEET_*", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""What belongs to one running session and must not be inherited by another."""

WHERE = "FLEET_HOME"
"""Where the fleet lives: `fleet` reaches the agent's own daemon from its pane. A path, and no session's."""


def generation(agent: str, count: int, lot: str) -> str:
    """The mark of one launch: readable, in order, and never used twice (`lot` is drawn by the caller)."""
    return f"{agent}.{count}.{lot}"


def inherited(
    environ: Mapping[str, str], rule: str | Sequence[str], *, keep: Iterable[str], dropped: Iterable[str]
) -> dict[str, str]:
    """The part of the starter's environment that the agent gets: `rule` is `env_inherit` of its manifest."""
    where = {WHERE: environ[WHERE]} if environ.get(WHERE) else {}
    if rule == "none":
        return where
    allowed = ("*",) if rule == "all" else (*INHERITED, *keep) if rule == "default" else tuple(rule)
    never = (*DROPPED, *dropped)
    return where | {
        name: value
        for name, value in environ.items()
        if any(fnmatchcase(name, glob) for glob in allowed) and not any(fnmatchcase(name, glob) for glob in never)
    }


def derived(spec: AgentSpec, handle: Handle, cwd: str) -> dict[str, str]:
    """What every agent is told about itself."""
    return {
        "FLEET_AGENT": spec.name,
        "FLEET_GENERATION": handle.generation,
        "FLEET_LAUNCH": handle.folder,
        "CLAUDE_AGENT_ID": spec.name,
        "CLAUDE_AGENT_ROLE": spec.labels.get("role", "agent"),
        "PWD": cwd,
        "TMUX": "",
    }


def plan(
    spec: AgentSpec,
    handle: Handle,
    launch: Launch,
    *,
    cwd: str,
    env: Mapping[str, str],
    files: Sequence[File] = (),
    session_id: str | None,
    resumes: bool,
    version: str | None,
    size: tuple[int, int],
    again: tuple[str, ...] | None = None,
) -> LaunchPlan:
    """All of it in one value; `env` is complete but for what the harness adds."""
    return LaunchPlan(
        agent=spec.name,
        argv=launch.argv,
        cwd=cwd,
        env={**env, **launch.env},
        files=(*files, *launch.files),
        session_id=session_id,
        resumes=resumes,
        width=size[0],
        height=size[1],
        version=version,
        again=again,
        place=spec if spec.slurm is not None else None,
    )


def venv_environment(env: Mapping[str, str], venv: str) -> dict[str, str]:
    """The environment with a Python virtual environment in front."""
    path = env.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    return {**env, "VIRTUAL_ENV": venv, "PATH": f"{venv}/bin:{path}"}
