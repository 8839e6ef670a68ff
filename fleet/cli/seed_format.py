"""`fleet status NAME --format seed`: one agent as the flat object that the seed's `status --json` printed.

For scripts written for it: exactly its names, from the same facts that `--json` holds under fleet's own. What is not
known is null; `--json` says why, under `missing`. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

Full = Mapping[str, Any]


def flat(full: Full) -> dict[str, Any]:
    """The seed's object."""
    return {name: read(full) for name, read in FIELDS.items()}


def _is(name: str, *groups: str) -> Callable[[Full], Any]:
    """The fact of that name, or the one inside the groups that lead to it."""

    def read(full: Full) -> Any:
        found: Any = full
        for key in (*groups, name):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    return read


def _moment(name: str, *groups: str) -> Callable[[Full], str | None]:
    """A time, as the seed wrote it."""
    read = _is(name, *groups)

    def as_text(full: Full) -> str | None:
        at = read(full)
        if isinstance(at, int | float):
            return datetime.fromtimestamp(at, UTC).isoformat()
        return None if at is None else str(at)

    return as_text


def _status(full: Full) -> str:
    return "running" if full.get("phase") in ("starting", "running", "stopping") else "stopped"


def _last_activity(full: Full) -> str | None:
    """The newest sign of work by the program itself."""
    times = [full.get("transcript_at"), (full.get("hooks") or {}).get("last_at"), full.get("activity_since")]
    known = [at for at in times if isinstance(at, int | float)]
    return datetime.fromtimestamp(max(known), UTC).isoformat() if known else None


FIELDS: dict[str, Callable[[Full], Any]] = {
    "name": _is("name"),
    "config": _is("source"),
    "screen": _is("target", "pane"),
    "started_at": _moment("started_at"),
    "status": _status,
    "model": _is("model"),
    "runtime": _is("harness"),
    "remote": _is("remote"),
    "hooks_configured": _is("hooks_configured"),
    "listen": _is("listen"),
    "extensions": _is("extensions"),
    "context_management": _is("context_management"),
    "agent_meta": _is("agent_meta"),
    "snapshot": _is("snapshot"),
    "multiplexer": _is("multiplexer"),
    "pid": _is("pid"),
    "ppid": _is("ppid"),
    "subagent_count": _is("subagent_count", "hooks"),
    "subagents": _is("subagents", "hooks"),
    "context_pct": _is("context_pct"),
    "current_tool": _is("current_tool"),
    "current_tool_input": _is("current_tool_input"),
    "current_task": _is("current_task"),
    "last_user_msg": _is("last_user_msg"),
    "last_activity": _last_activity,
    "skills_loaded": _is("skills"),
    "machine": _is("machine"),
    "hostname_canonical": _is("hostname_canonical"),
    "workdir": _is("workdir"),
    "project": _is("project"),
    "version": _is("version"),
    "quota_5h_used_pct": _is("quota_5h_used_pct"),
    "quota_7d_used_pct": _is("quota_7d_used_pct"),
    "quota_5h_reset_at": _moment("quota_5h_reset_at"),
    "quota_7d_reset_at": _moment("quota_7d_reset_at"),
    "quota_from_cache": _is("quota_from_cache"),
    "quota_error": _is("quota_error"),
    "account_email": _is("account_email"),
    "metrics": _is("metrics"),
    "pane_text": _is("pane_text"),
    "pane_state": _is("pane_state"),
    "stuck_prompt_text": _is("stuck_prompt_text"),
    "claude_md": _is("claude_md"),
    "mcp_json": _is("mcp_json"),
    "recent_tools": _is("recent_tools", "hooks"),
    "recent_prompts": _is("recent_prompts", "hooks"),
    "agent_calls": _is("agent_calls", "hooks"),
    "background_tasks": _is("background_tasks", "hooks"),
    "tool_counts": _is("tool_counts", "hooks"),
    "last_tool_at": _moment("last_tool_at", "hooks"),
    "last_tool_name": _is("last_tool_name", "hooks"),
    "last_mcp_tool_at": _moment("last_mcp_tool_at", "hooks"),
    "last_mcp_tool_name": _is("last_mcp_tool_name", "hooks"),
    "last_action_at": _moment("last_action_at"),
    "last_action_name": _is("last_action_name"),
    "last_action_outcome": _is("last_action_outcome"),
    "last_action_elapsed_s": _is("last_action_elapsed_s"),
    "action_counts": _is("action_counts"),
    "p95_elapsed_s_by_action": _is("p95_elapsed_s_by_action"),
    "model_transcript": _is("model_transcript"),
}
"""The seed's fields in its order, and where each fact stands in the inspected agent."""
