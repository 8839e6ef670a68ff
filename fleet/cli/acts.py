"""What acting on agents has in common: news as it comes on stderr, the outcomes on stdout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet import client
from fleet.cli import call, output, words

GRACE = 10.0
"""The daemon ends a wait by itself and says so; only a daemon that hangs is waited for this much longer."""

STYLES = {"failed": "bold red", "dialog": "bold magenta", "held": "yellow", "started": "green"}

HINTS = {
    "dialog": "{name} waits for a person: `fleet attach {name}` opens its pane (Ctrl-B D leaves)",
    "failed": "`fleet logs {name}` shows what it put out, `fleet explain {name}` what was seen",
    "held": "`fleet status {name}` says what it waits for",
}


NEVER_BEGAN = "LaunchError"
"""The reason of a launch that was refused: there is nothing that it put out."""


def act(verb: str, args: Mapping[str, Any], *, timeout: float, as_json: bool, show: call.Show | None = None) -> int:
    """Have the daemon do it and show what became of each agent."""
    try:
        return call.call(
            verb,
            args,
            show or outcomes,
            as_json=as_json,
            timeout=timeout + GRACE,
            on_progress=None if as_json else news(),
        )
    except KeyboardInterrupt:
        output.message(f"left; the {verb} goes on in the daemon: `fleet status` shows it")
        raise


def news() -> client.Progress:
    """What tells a person how it goes: each agent's changes, once."""
    told: dict[str, str] = {}

    def tell(line: dict[str, Any]) -> None:
        name, word = str(line.get("agent") or ""), words.one_word(line)
        if not name:
            output.message(str(line.get("message") or ""))
        elif told.get(name, "stopped") != word:
            output.message(f"{name}: " + ": ".join(filter(None, [word, _about(name, line.get("message"))])))
        told[name] = word

    return tell


def outcomes(data: dict[str, Any]) -> None:
    """What became of each agent."""
    agents = data["agents"]
    if not agents:
        output.message("no agents: nothing to do")
        return
    for agent in agents:
        output.warnings(f"{agent['name']}: {text}" for text in agent.get("warnings") or ())
    output.table(("NAME", "OUTCOME", "STATE", "DETAIL"), [_row(agent) for agent in agents])
    for agent in agents:
        if agent.get("reason") == NEVER_BEGAN:
            continue  # what there is to say of it stands in its row
        if hint := HINTS.get(str(agent.get("outcome"))):
            output.message(hint.format(name=agent["name"]))


def _row(agent: Mapping[str, Any]) -> list[output.Cell]:
    outcome, word = str(agent.get("outcome")), words.one_word(agent)
    why = filter(None, [agent.get("reason"), _about(str(agent["name"]), agent.get("message"))])
    told = [agent.get("question"), ": ".join(map(str, why))]
    return [
        str(agent["name"]),
        (outcome.replace("_", " "), STYLES.get(outcome, "")),
        (f"{word} ({agent['kind']})" if agent.get("kind") else word, words.STYLES.get(word, "")),
        " · ".join(filter(None, told)) or "-",
    ]


def _about(name: str, message: str | None) -> str | None:
    """A message without the agent's name before it, where that stands beside it already."""
    return message.removeprefix(f"{name}: ") if message else None
