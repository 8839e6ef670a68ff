"""The tables of agents, shown without click: what is typed all day costs hardly more than starting Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from fleet import client
from fleet.cli import output, reads, words

HEALTHY = {"True": ("yes", "green"), "False": ("no", "bold red")}


def status(data: Mapping[str, Any], *, chosen: bool = False) -> None:
    """Who is there and what they do; `chosen`: only some of them were asked for."""
    now = time.time()
    if data["agents"]:
        output.table(words.HEADINGS, [words.row(agent, now) for agent in data["agents"]])
    elif chosen:
        output.message("no agent has these labels: `fleet list` shows what each has")
    else:
        output.message("no agents yet: `fleet init` writes a manifest, `fleet start FILE` starts it")


def listed(data: Mapping[str, Any], *, chosen: bool = False) -> None:
    """Who can do what, and where."""
    if data["agents"]:
        headings = ("NAME", "STATE", "HARNESS", "RUNTIME", "CAPABILITIES", "LABELS")
        output.table(headings, map(_listed, data["agents"]))
    elif chosen:
        output.message("no such agent: `fleet list` shows all of them")
    else:
        output.message("no agents yet: `fleet init` writes a manifest, `fleet start FILE` starts it")


def health(data: Mapping[str, Any], *, chosen: bool = False) -> None:
    """Who is healthy, and why the others are not."""
    if not data["agents"]:
        status(data, chosen=chosen)
        return
    output.table(("NAME", "HEALTHY", "WHY"), map(_health, data["agents"]))


SHOWN: dict[str, Callable[..., None]] = {"status": status, "list": listed, "health": health}
"""The reads that are shown from here."""


def answer(verb: str, args: dict[str, Any]) -> int:
    """Ask, and show the table; the exit code."""
    asked = {**args, "brief": True} if verb == "status" else args
    reply = client.request(verb, asked, timeout=reads.request_timeout())
    if reply.skew:
        output.message(reply.skew)
    envelope = reply.envelope()
    output.warnings(envelope.get("warnings") or ())
    SHOWN[verb](envelope["data"], chosen=is_choice(args))
    return reply.exit_code


def is_choice(args: Mapping[str, Any]) -> bool:
    """Whether only some agents are asked for."""
    return any(args.get(name) for name in ("targets", "labels", "capability", "machine"))


def _listed(agent: words.Agent) -> list[output.Cell]:
    word = words.one_word(agent)
    return [
        str(agent.get("name")),
        (word, words.STYLES.get(word, "")),
        str(agent.get("harness") or "-"),
        str(agent.get("runtime") or "-"),
        " ".join(agent.get("capabilities") or ()),
        " ".join(f"{name}={value}" for name, value in (agent.get("labels") or {}).items()),
    ]


def _health(agent: words.Agent) -> list[output.Cell]:
    return [str(agent.get("name")), HEALTHY.get(str(agent.get("healthy")), ("unknown", "dim")), _why(agent)]


def _why(agent: words.Agent) -> str:
    """What it is instead of healthy."""
    if agent.get("healthy"):
        return "-"
    reason = ": ".join(str(agent[key]) for key in ("reason", "message") if agent.get(key))
    return " · ".join(filter(None, [words.one_word(agent), reason]))
