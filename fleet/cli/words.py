"""An agent's facts in words for people: plain values in, text out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fleet.cli.output import Cell

Agent = Mapping[str, Any]

STYLES = {
    "working": "green",
    "ready": "cyan",
    "running": "green",
    "starting": "yellow",
    "booting": "yellow",
    "backoff": "yellow",
    "stopping": "yellow",
    "needs_input": "bold magenta",
    "limited": "yellow",
    "error": "bold red",
    "failed": "bold red",
    "unverifiable": "red",
    "unknown": "dim",
    "stopped": "dim",
    "finished": "dim",
}

HEADINGS = ("NAME", "PHASE", "ACTIVITY", "SINCE", "RESTARTS", "PID", "DETAIL")


def duration(seconds: float | None) -> str:
    """A span in its two largest units: 8s, 3m 20s, 5h 2m, 4d 1h."""
    if seconds is None:
        return "-"
    left = max(0, int(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount}{unit}")
    return " ".join(parts[:2]) or "0s"


def clock_time(at: float | None) -> str:
    """A moment as local time; with its date unless it is within half a day."""
    if not at:
        return "-"
    near = abs(time.time() - at) < 43200
    return time.strftime("%H:%M:%S" if near else "%Y-%m-%d %H:%M:%S", time.localtime(at))


def one_word(agent: Agent) -> str:
    """What a person is told: the activity while it runs, otherwise where it stands in its life."""
    phase, activity = agent.get("phase"), agent.get("activity")
    if activity and (phase == "running" or (phase == "starting" and activity == "needs_input")):
        return str(activity)
    return str(phase)


def activity(agent: Agent) -> str:
    """The activity, and what kind of input it waits for."""
    if agent.get("phase") not in ("starting", "running", "stopping", "unverifiable"):
        return "-"
    kind = f" ({agent['kind']})" if agent.get("kind") else ""
    return f"{agent.get('activity') or '-'}{kind}"


def detail(agent: Agent, now: float) -> str:
    """What a person must know beyond the state: the question, the limit's end, the next restart, the reason."""
    said = []
    if agent.get("question"):
        said.append(str(agent["question"]))
    if agent.get("resets_at"):
        said.append(f"until {clock_time(agent['resets_at'])}")
    told = agent.get("phase") not in ("running", "stopped") or agent.get("waits_for") or agent.get("waiting")
    if told and not said:
        said.append(": ".join(str(agent[key]) for key in ("reason", "message") if agent.get(key)))
    if agent.get("next_restart_at"):
        said.append(f"restarts in {duration(agent['next_restart_at'] - now)}")
    if agent.get("freshness") in ("stale", "critical"):
        said.append(f"seen {duration(agent.get('age_s'))} ago")
    if agent.get("draft"):
        said.append("unsent draft")
    return " · ".join(text for text in said if text)


def row(agent: Agent, now: float) -> list[Cell]:
    """An agent's line in `fleet status`."""
    phase, doing = str(agent.get("phase")), activity(agent)
    since = agent.get("since") if doing == "-" else agent.get("activity_since") or agent.get("since")
    return [
        str(agent.get("name")),
        (phase, STYLES.get(phase, "")),
        (doing, STYLES.get(str(agent.get("activity")), "")),
        duration(None if since is None else now - since),
        str(agent.get("restarts") or 0),
        str(agent.get("pid") or "-"),
        detail(agent, now),
    ]
