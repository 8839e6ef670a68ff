"""`fleet explain`: why an agent, or a saved screen, is said to be in its state."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import call, output, reads, words
from fleet.errors import Usage


@click.command()
@click.argument("target", metavar="[NAME]", required=False, shell_complete=call.complete_agents)
@click.option("--screen", metavar="FILE", help="Judge a saved screen instead (tmux capture-pane -p); - is stdin.")
@click.option("--ansi", metavar="FILE", help="The same screen with colours (tmux capture-pane -e -p).")
@click.option("--title", metavar="TEXT", help="The pane's title.")
@click.option("--size", metavar="WxH", help="The pane's size.")
@click.option("--cursor", metavar="X,Y", help="Where the cursor stands, from 0.")
@click.option("--harness", metavar="NAME", help="Whose screen it is.  [default: claude-code]")
@click.option("--program-version", "version", metavar="VERSION", help="The version of the program that drew it.")
@call.as_json
def explain(target: str | None, screen: str | None, as_json: bool, **told: str | None) -> int:
    """Show why an agent is said to be in its state, source by source, or judge a saved screen.

    \b
    fleet explain web
    fleet explain --screen pane.txt --ansi pane.ansi --size 120x40
    """
    if screen is not None:
        if target is not None:
            raise Usage("An agent or a saved screen, not both.", hint="Leave out the name, or `--screen`.")
        return _screen(screen, {name: value for name, value in told.items() if value is not None}, as_json)
    given = [f"--{name.replace('version', 'program-version')}" for name, value in told.items() if value is not None]
    if given:
        raise Usage(f"{', '.join(given)} goes with `--screen`.", hint="`fleet explain --help` shows both forms.")
    if target is None:
        raise Usage("Which agent, or which screen?", hint="`fleet explain NAME` or `fleet explain --screen FILE`.")
    return call.call(*reads.ask("explain", [target]), show, as_json=as_json)


def _screen(file: str, told: dict[str, Any], as_json: bool) -> int:
    from fleet.cli import explain_screen

    data, warned = explain_screen.explain_screen(file, **told)
    if as_json:
        output.envelope(data, warned)
        return 0
    output.warnings(warned)
    for line in explain_screen.lines_of(data):
        output.result(line)
    return 0


def show(data: dict[str, Any]) -> None:
    """The state, then what each source said."""
    state = data.get("state") or {}
    proof = state.get("proof") or {}
    output.facts(
        [
            ("name", data.get("name")),
            ("state", words.one_word(data) if data.get("phase") else state.get("activity")),
            ("phase", data.get("phase")),
            ("reason", ": ".join(str(data[key]) for key in ("reason", "message") if data.get(key))),
            ("kind", state.get("kind")),
            ("question", state.get("question")),
            ("options", "\n".join(map(str, state.get("options") or ()))),
            ("since", words.clock_time(state["since"]) if state.get("since") else None),
            ("because", " · ".join(str(proof[key]) for key in ("source", "rule", "evidence") if proof.get(key))),
        ]
    )
    output.result()
    output.table(("SOURCE", "SAYS", "RULE", "AGE", "SAW"), map(_row, data.get("evidence") or ()))
    if data.get("conditions"):
        output.result()
        conditions(data["conditions"])


def _row(said: dict[str, Any]) -> list[output.Cell]:
    kind = f" ({said['kind']})" if said.get("kind") else ""
    word = str(said.get("activity") or "-")
    return [
        str(said.get("source")),
        (f"{word}{kind}", words.STYLES.get(word, "")),
        str(said.get("rule") or "-"),
        words.duration(said.get("age_s")),
        str(said.get("evidence") or said.get("why") or "-"),
    ]


def conditions(found: list[dict[str, Any]]) -> None:
    """The conditions as a table."""
    output.table(
        ("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"),
        (
            [
                str(each.get("type")),
                str(each.get("status")),
                str(each.get("reason") or "-"),
                words.clock_time(each.get("since")),
                str(each.get("message") or "-"),
            ]
            for each in found
        ),
    )
