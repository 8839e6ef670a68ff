"""What `diff` and `apply` print: which agents a folder of manifests adds, takes away or changes."""

from __future__ import annotations

from typing import Any

from fleet.cli import acts, output

STYLES = {"new": "green", "gone": "red", "changed": "yellow", "same": "dim"}


def show(data: dict[str, Any]) -> None:
    """The changes, and what became of who was started; agents that stay the same are counted only."""
    changes = [each for each in data["changes"] if {each.get("change"), each.get("outcome", "same")} != {"same"}]
    same = len(data["changes"]) - len(changes)
    if changes:
        output.table(("NAME", "CHANGE", "DETAIL"), map(_row, changes))
    if changes and "agents" not in data:
        output.message(f"{len(changes)} to change, {same} the same; `fleet apply` does it")
    elif not changes:
        output.message(f"no differences: {same} {'agent' if same == 1 else 'agents'} as declared")
    if data.get("agents"):
        acts.outcomes(data)


def _row(change: dict[str, Any]) -> list[output.Cell]:
    word = str(change.get("change"))
    fields = ", ".join(str(field["path"]) for field in change.get("fields") or ())
    told = [
        fields,
        "needs a restart" if change.get("restart") and word == "changed" else "",
        str(change.get("outcome") or ""),
        str(change.get("message") or ""),
    ]
    return [str(change["name"]), (word, STYLES.get(word, "")), " · ".join(filter(None, told)) or "-"]
