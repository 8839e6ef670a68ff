"""What is said of an agent: the one object behind `status`, `inspect`, `explain` and their tables.

A field that is not known is null, and `missing` says why; nothing is made up to fill it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fleet.agent import UP
from fleet.events import Event
from fleet.health import judge
from fleet.health.judge import State
from fleet.lifecycle import Life
from fleet.manifests.model import AgentSpec
from fleet.processes import Figures
from fleet.redact import redact
from fleet.runner import Runner
from fleet.settings import Settings
from fleet.terms import Activity, Evidence, Kind, Phase, Source


def freshness(age: float | None, settings: Settings) -> str | None:
    """live, stale or critical (SEMANTICS 1)."""
    if age is None:
        return None
    return "live" if age < settings.fresh else "stale" if age <= settings.stale else "critical"


def pane_state(runner: Runner) -> str:
    """The seed format's word for the same."""
    state = runner.state
    if runner.life.phase not in UP:
        return "unknown"
    match state.activity:
        case Activity.WORKING:
            return "running"
        case Activity.NEEDS_INPUT:
            return "y_n_prompt"
        case Activity.LIMITED:
            return "limit_reached"
        case Activity.READY:
            return "compose_pending_unsent" if state.draft else "idle_prompt"
        case Activity.ERROR if state.kind is Kind.LOGIN or (state.proof and judge.is_auth(state.proof.rule)):
            return "auth_error"
        case Activity.ERROR:
            return "compose_pending_unsent" if state.draft else "idle_prompt"
        case _:
            return "unknown"


def activity(runner: Runner) -> Activity | None:
    """What it is doing; none where nothing of it runs. A program whose job waits for a node again is not there."""
    if runner.life.phase in UP and runner.facts.waiting is not None:
        return Activity.BOOTING
    return runner.state.activity if runner.life.phase in (*UP, Phase.UNVERIFIABLE) else None


def summary(runner: Runner, now: float, settings: Settings) -> dict[str, Any]:
    """One agent in a line."""
    life, state, facts, spec = runner.life, runner.state, runner.facts, runner.spec
    up = life.phase in (*UP, Phase.UNVERIFIABLE)
    age = now - state.seen if up and state.seen is not None else None
    line = facts.status_line
    return {
        "name": runner.name,
        "harness": spec.harness,
        "runtime": spec.runtime,
        "wanted": life.wanted or runner.unreached,
        "phase": life.phase,
        "activity": activity(runner),
        "kind": state.kind if up else None,
        "question": state.question if up else None,
        "options": list(state.options) if up else [],
        "pane_state": pane_state(runner),
        "draft": state.draft if up else None,
        "background": state.background if up else None,
        **why(runner),
        "waits_for": runner.waits_for,
        "waiting": runner.facts.waiting if up else None,
        "pid": facts.owner if up and facts.waiting is None else None,
        "restarts": life.restarts,
        "since": life.since,
        "activity_since": state.since if up else None,
        "observed_at": state.seen if up else None,
        "age_s": round(age, 3) if age is not None else None,
        "freshness": freshness(age, settings),
        "started_at": life.started_at,
        "uptime_s": round(now - life.started_at, 1) if life.phase is Phase.RUNNING and life.started_at else None,
        "exit_status": life.exit_status,
        "next_restart_at": life.due if life.phase is Phase.BACKOFF else None,
        "resets_at": state.resets_at if up else None,
        "session_id": runner.record.session_id,
        "model": line.get("model") or spec.model,
        "context_pct": line.get("context_pct"),
        "labels": dict(spec.labels),
        "capabilities": list(spec.capabilities),
    }


def why(runner: Runner) -> dict[str, str | None]:
    """Why it stands where it stands: the reason's name, and the same in words."""
    life, facts = runner.life, runner.facts
    if runner.waits_for:
        return {"reason": runner.waits_because, "message": runner.waits_for}
    now = facts.waiting if life.phase in UP else facts.unseen if life.phase is Phase.UNVERIFIABLE else None
    return {"reason": life.reason, "message": facts.advice or now or life.message}


def full(
    runner: Runner, now: float, settings: Settings, *, host: Mapping[str, Any], hooks: Mapping[str, Any]
) -> dict[str, Any]:
    """One agent with everything that is known of it."""
    life, facts, spec, handle = runner.life, runner.facts, runner.spec, runner.handle
    line, transcript = facts.status_line, facts.transcript
    up = life.phase in (*UP, Phase.UNVERIFIABLE)

    def clean(text: str | None) -> str | None:
        return redact(text, runner.secrets) if text else text

    pane = (
        {"multiplexer": handle.multiplexer, "socket": handle.socket, "target": facts.pane or f"={handle.session}:"}
        if handle and up and not runner.headless
        else None
    )
    said = {
        **summary(runner, now, settings),
        "description": spec.description,
        "source": spec.source or None,
        "workdir": facts.cwd,
        "command": [redact(a, runner.secrets) for a in facts.argv] or None,
        "version": runner.record.version,
        "permission_mode": line.get("permission_mode") or spec.permission_mode,
        "mode": spec.mode,
        "multiplexer": None if runner.headless else spec.multiplexer,
        "pane": pane,
        "pane_text": redact(facts.screen.text, runner.secrets) if facts.screen and up else None,
        "size": [facts.screen.width, facts.screen.height] if facts.screen and up else None,
        "title": clean(facts.screen.title) if facts.screen and up else None,
        "launched_at": life.launched_at,
        "launches": runner.record.launches,
        "generation": handle.generation if handle else None,
        "life": life.to_json(),
        "state": state_json(runner.state, now) if up else None,
        "conditions": conditions(runner, now),
        "process": process_json(facts.figures) if facts.figures else None,
        "metrics": dict(host),
        "depends_on": [need.model_dump(mode="json") for need in spec.depends_on],
        "warnings": list(facts.warnings),
        "last_user_msg": clean(getattr(transcript, "last_user_message", None)),
        "last_assistant_msg": clean(getattr(transcript, "last_assistant_message", None)),
        "current_tool": getattr(transcript, "current_tool", None) if up else None,
        "current_tool_input": clean(getattr(transcript, "current_tool_input", None)) if up else None,
        "model_transcript": getattr(transcript, "model", None),
        "context_tokens": getattr(transcript, "context_tokens", None),
        "transcript_at": getattr(transcript, "last_at", None),
        "cost_usd": line.get("cost_usd"),
        "usage": line.get("usage"),
        "context_size": line.get("context_window"),
        "quota_5h_used_pct": line.get("quota_5h_used_pct"),
        "quota_7d_used_pct": line.get("quota_7d_used_pct"),
        "quota_5h_reset_at": line.get("quota_5h_reset_at"),
        "quota_7d_reset_at": line.get("quota_7d_reset_at"),
        "status_line_at": line.get("observed_at"),
        "hooks": dict(hooks),
        "mcp_servers": sorted(spec.mcp_servers),
        "skills": [*spec.skills.required, *spec.skills.available],
        **_seed_facts(runner, up),
    }
    said["missing"] = {name: _why(name, runner) for name, value in said.items() if value is None}
    said["missing"] |= {f"hooks.{name}": "no hook has told it" for name, value in hooks.items() if value is None}
    return said


def _seed_facts(runner: Runner, up: bool) -> dict[str, Any]:
    """What the seed's status tells beyond that, under its own names."""
    spec, state, line = runner.spec, runner.state, runner.facts.status_line
    stuck = up and pane_state(runner) in ("y_n_prompt", "auth_error", "limit_reached", "compose_pending_unsent")
    seen = state.proof.excerpt if state.proof else None
    far = runner.runtime.far
    where = machine(spec) if far is None else far.machine
    return {
        "machine": where,
        "hostname_canonical": where,
        "remote": spec.remote.model_dump(mode="json") if spec.remote else None,
        "project": Path(runner.facts.cwd).name if runner.facts.cwd else None,
        "hooks_configured": runner.harness.has_sessions,
        "context_management": spec.context_management.model_dump(mode="json"),
        "stuck_prompt_text": (state.question or seen or None) if stuck else None,
        "quota_from_cache": False if line.get("quota_5h_used_pct") is not None else None,
        "quota_error": None,
        "account_email": None,
        "current_task": None,
        "listen": None,
        "extensions": None,
        "agent_meta": None,
        "snapshot": None,
    }


def machine(spec: AgentSpec) -> str:
    """The host that the agent runs on."""
    return spec.remote.choices[0] if spec.remote else os.uname().nodename


def actions(events: Sequence[Event]) -> dict[str, Any]:
    """What fleet has done to an agent's pane or around its starts, from its own events, oldest first."""
    last = events[-1] if events else None
    return {
        "last_action_at": last.at if last else None,
        "last_action_name": last.name if last else None,
        "last_action_outcome": ("failed" if last.payload.get("failure") else "success") if last else None,
        "last_action_elapsed_s": None,
        "action_counts": dict(Counter(event.name for event in events)),
        "p95_elapsed_s_by_action": None,
    }


def add(whole: dict[str, Any], name: str, value: Any, why: str) -> None:
    """One more fact of an agent; where it is not known, with the reason."""
    whole[name] = value
    if value is None:
        whole["missing"][name] = why
    else:
        whole["missing"].pop(name, None)


def _why(name: str, runner: Runner) -> str:
    """Why a field is null."""
    if runner.life.phase not in (*UP, Phase.UNVERIFIABLE):
        return f"the agent is {runner.life.phase}"
    if name == "quota_error":
        return "nothing has failed: the program tells its quota by itself"
    if name.startswith("quota_"):
        return "the program tells it with an account's login only"
    if runner.headless and name in ("multiplexer", "pane", "pane_text", "size", "title", "pid", "session_id"):
        return "it is headless: each turn has its own processes and session"
    if name in ("context_pct", "cost_usd", "context_size", "model", "status_line_at"):
        return "no turn has told it yet" if runner.headless else "the program's status line has not told it yet"
    if name in ("last_user_msg", "last_assistant_msg", "model_transcript", "context_tokens", "transcript_at"):
        return "the transcript does not tell it"
    if name == "usage":
        return "only the turns of a headless agent tell it"
    if name in ("current_tool", "current_tool_input"):
        return "no tool runs"
    if name in ("description", "permission_mode"):
        return "the manifest names none"
    if name == "process":
        in_a_job = runner.runtime.far is not None and runner.runtime.name != "ssh"
        return "what runs in a job is not measured" if in_a_job else "not measured yet"
    if name == "stuck_prompt_text":
        return "nothing waits"
    if name == "remote":
        return "it runs on this machine"
    if name == "account_email":
        return "fleet does not read the program's login"
    if name == "current_task":
        return "the program tells of tools and prompts, not of tasks"
    if name in ("listen", "extensions", "agent_meta", "snapshot"):
        return "fleet has nothing of that kind"
    if name in ("kind", "question"):
        return "nothing is asked"
    if name in ("reason", "message", "waits_for", "next_restart_at", "exit_status", "resets_at"):
        return "does not apply now"
    return "not known"


def process_json(figures: Figures) -> dict[str, Any]:
    """What the agent's processes cost now."""
    return {
        "cpu_percent": figures.cpu_percent,
        "rss_mb": round(figures.rss / 2**20, 1),
        "processes": figures.count,
    }


def state_json(state: State, now: float) -> dict[str, Any]:
    """The judged state with its proof."""
    return {
        "activity": state.activity,
        "kind": state.kind,
        "question": state.question,
        "options": list(state.options),
        "since": state.since,
        "draft": state.draft,
        "background": state.background,
        "resets_at": state.resets_at,
        "continues": state.continues,
        "proof": evidence_json(state.proof, now, state.seen) if state.proof else None,
        "dissent": [evidence_json(e, now) for e in state.dissent],
    }


def evidence_json(e: Evidence, now: float, seen: float | None = None) -> dict[str, Any]:
    """One source's word: value, source, rule, evidence, observed_at, age."""
    at = max(e.observed_at, seen or 0.0)
    return {
        "source": e.source,
        "activity": e.activity,
        "kind": e.kind,
        "question": e.question,
        "rule": e.rule,
        "evidence": e.excerpt,
        "draft": e.draft,
        "observed_at": at,
        "age_s": round(now - at, 3),
    }


def explanation(runner: Runner, now: float) -> dict[str, Any]:
    """What every source says, and what was made of it."""
    up = runner.life.phase in (*UP, Phase.UNVERIFIABLE)
    said = {
        claim.evidence.source: evidence_json(claim.evidence, now, claim.seen) | {"since": claim.since}
        for claim in runner.book
    }
    silent = [
        {"source": s, "activity": None, "why": "has said nothing of this launch"} for s in Source if s not in said
    ]
    return {
        "name": runner.name,
        "phase": runner.life.phase,
        **why(runner),
        "activity": activity(runner),
        "state": state_json(runner.state, now) if up else None,
        "evidence": [*said.values(), *silent] if up else [],
        "conditions": conditions(runner, now),
    }


Condition = tuple[str, bool | None, str, str | None, float | None]
"""Type, status, reason, message, since."""


def conditions(runner: Runner, now: float) -> list[dict[str, Any]]:
    """The same as Kubernetes has them: type, status, reason, message, since."""
    life, state, record = runner.life, runner.state, runner.record
    up, running, seen = life.phase in UP, life.phase is Phase.RUNNING, life.phase is not Phase.UNVERIFIABLE
    word = _camel(state.activity if up else life.phase)
    since = state.since if up else life.since

    def doing(*wanted: Activity) -> bool | None:
        if not up:
            return False if seen else None
        return None if state.activity in (Activity.UNKNOWN, Activity.BOOTING) else state.activity in wanted

    asks = doing(Activity.NEEDS_INPUT)
    began = life.started_at if running else life.since
    background = state.background if up else False
    recorded = "ConversationRecorded" if record.session_used else "NoConversation"
    rows: list[Condition] = [
        _host_reachable(runner),
        ("Started", running if seen else None, _camel(life.phase), life.message, began),
        ("Ready", doing(Activity.READY), word, None, since),
        ("InputRequired", asks, _camel(state.kind) if asks and state.kind else word, state.question, since),
        ("Progressing", doing(Activity.WORKING), word, None, since),
        ("BackgroundWork", background, "Announced" if background else "None", None, _background_since(runner)),
        ("Resumable", record.session_used, recorded, None, record.session_used_at or life.since),
        _budget_ok(life),
    ]
    return [
        {
            "type": kind,
            "status": "Unknown" if status is None else str(status),
            "reason": reason,
            "message": message or "",
            "since": at,
        }
        for kind, status, reason, message, at in rows
    ]


def _host_reachable(runner: Runner) -> Condition:
    life = runner.life
    if runner.unreached:
        return "HostReachable", False, runner.waits_because, runner.waits_for, runner.waits_since
    if life.phase is Phase.UNVERIFIABLE:
        return "HostReachable", False, life.reason or "HostUnreachable", life.message, life.since
    return "HostReachable", True, "Seen", None, life.seen_since or life.since


def _budget_ok(life: Life) -> Condition:
    if life.phase is Phase.FAILED:
        return "BudgetOK", False, life.reason or "Failed", life.message, life.since
    return "BudgetOK", True, "WithinBudget", None, life.free_since or life.since


def _background_since(runner: Runner) -> float:
    life = runner.life
    return (runner.facts.background_at or life.launched_at or life.since) if life.phase in UP else life.since


def _camel(word: str | None) -> str:
    return "".join(part.capitalize() for part in str(word or "unknown").split("_"))


def health(runner: Runner, now: float, settings: Settings) -> dict[str, Any]:
    """Whether it is well: up as wanted, seen lately, and not in error."""
    brief = summary(runner, now, settings)
    life = runner.life
    healthy: bool | None
    if life.phase is Phase.UNVERIFIABLE:
        healthy = None
    elif life.phase is Phase.FINISHED:
        healthy = life.exit_status in runner.spec.restart.success_exit_codes
    elif life.wanted or runner.held:
        healthy = life.phase in UP and runner.state.activity not in (Activity.ERROR, Activity.LIMITED)
    else:
        healthy = life.phase in (Phase.STOPPED, Phase.FINISHED)
    picked = ("name", "phase", "activity", "reason", "message", "age_s", "freshness", "pid", "restarts")
    return {**{key: brief[key] for key in picked}, "healthy": healthy, "conditions": conditions(runner, now)}


def matching(runners: Iterable[Runner], labels: Mapping[str, str]) -> list[Runner]:
    """Those that bear all the labels."""
    return [r for r in runners if all(r.spec.labels.get(k) == v for k, v in labels.items())]
