"""`fleet inspect`: everything known about one agent."""

from __future__ import annotations

import shlex
from typing import Any

import click

from fleet import client
from fleet.cli import call, explain, output, reads, words


@click.command()
@call.one
@click.option("--format", "form", type=click.Choice(["seed"]), help="As the flat JSON of the seed's status.")
@call.as_json
def inspect(target: str, form: str | None, as_json: bool) -> int:
    """Show everything known about one agent."""
    if form == "seed":
        return as_the_seed(*reads.ask("inspect", [target]))
    return call.call(*reads.ask("inspect", [target]), show, as_json=as_json)


def as_the_seed(verb: str, args: dict[str, Any]) -> int:
    """Print the flat object that the seed's `status --json` printed."""
    from fleet.cli import seed_format

    reply = client.request(verb, args, timeout=reads.request_timeout())
    output.as_json(seed_format.flat(reply.envelope()["data"]))
    return reply.exit_code


def show(agent: dict[str, Any]) -> None:
    """What a person asks first stands first."""
    output.facts(_headline(agent))
    output.result()
    output.facts(_rest(agent))
    if agent.get("conditions"):
        output.result()
        explain.conditions(agent["conditions"])
    output.warnings(agent.get("warnings") or ())


def _headline(agent: dict[str, Any]) -> list[tuple[str, Any]]:
    kind = f" ({agent['kind']})" if agent.get("kind") else ""
    return [
        ("name", agent.get("name")),
        ("state", f"{words.one_word(agent)}{kind}"),
        ("question", agent.get("question")),
        ("options", "\n".join(map(str, agent.get("options") or (agent.get("state") or {}).get("options") or ()))),
        ("reason", ": ".join(str(agent[key]) for key in ("reason", "message") if agent.get(key))),
        ("phase", f"{agent.get('phase')} since {words.clock_time(agent.get('since'))}"),
        ("activity", _since(agent.get("activity"), agent.get("activity_since"))),
        ("wanted", agent.get("wanted")),
        ("limited until", words.clock_time(agent["resets_at"]) if agent.get("resets_at") else None),
        ("restarts at", words.clock_time(agent["next_restart_at"]) if agent.get("next_restart_at") else None),
        ("restarts", agent.get("restarts") or None),
        ("exit status", agent.get("exit_status")),
        ("uptime", words.duration(agent["uptime_s"]) if agent.get("uptime_s") is not None else None),
    ]


def _since(value: Any, at: float | None) -> str | None:
    return f"{value} since {words.clock_time(at)}" if value and at else value


def _rest(agent: dict[str, Any]) -> list[tuple[str, Any]]:
    pane, process = agent.get("pane") or {}, agent.get("process") or {}
    tools = (agent.get("hooks") or {}).get("tool_counts") or {}
    command = agent.get("command")
    return [
        ("description", agent.get("description")),
        ("harness", " ".join(str(agent[key]) for key in ("harness", "version") if agent.get(key))),
        ("model", agent.get("model")),
        ("context", f"{agent['context_pct']:g} % used" if agent.get("context_pct") is not None else None),
        ("session", agent.get("session_id")),
        ("manifest", agent.get("source")),
        ("workdir", agent.get("workdir")),
        ("command", shlex.join(map(str, command)) if isinstance(command, list) else command),
        ("pid", agent.get("pid")),
        ("processes", process.get("processes")),
        ("cpu", f"{process['cpu_percent']:g} % of a core" if process.get("cpu_percent") is not None else None),
        ("memory", f"{process['rss_mb']:g} MB" if process else None),
        ("runtime", agent.get("runtime")),
        ("host", agent.get("machine") if agent.get("remote") else None),
        ("pane", " ".join(str(pane[key]) for key in ("multiplexer", "socket", "target") if pane.get(key))),
        ("labels", " ".join(f"{name}={value}" for name, value in (agent.get("labels") or {}).items())),
        ("capabilities", " ".join(agent.get("capabilities") or ())),
        ("last message", agent.get("last_user_msg")),
        ("current tool", agent.get("current_tool")),
        ("tool input", agent.get("current_tool_input")),
        ("tools used", " ".join(f"{tool}={count}" for tool, count in tools.items())),
    ]
