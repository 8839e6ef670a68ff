"""`make docs`: the documents that are drawn from the code. tests/test_docs.py compares them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fleet.cli import reference
from fleet.manifests import schema
from tests import accuracy, architecture, states

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
ACCURACY, END = "<!-- make accuracy, drawn by make docs -->", "<!-- /make accuracy -->"


def benchmarks() -> str:
    """docs/benchmarks.md with the accuracy of today's rules on the screens that are kept with the tests."""
    before, _, rest = BENCHMARKS.read_text().partition(ACCURACY)
    return "\n".join([before + ACCURACY, "", *states_judged(), "", END]) + rest.partition(END)[2]


def states_judged() -> Iterator[str]:
    """How many screens of each state there are, by folder, and which of them are judged wrong or not at all."""
    tallies, _ = accuracy.judge_all([ROOT / "tests" / "screens"])
    folders = list(tallies)
    total = accuracy.sum_of({name: accuracy.sum_of(by_state) for name, by_state in tallies.items()})
    yield f"**{total.screens} screens, {total.wrong} wrong, {total.unknown} unknown.**"
    yield ""
    yield f"| state | {' | '.join(folders)} |"
    yield f"|---|{'---|' * len(folders)}"
    every = {name: accuracy.sum_of(tallies[name]) for name in folders}
    yield row("all", folders, every)
    for state in sorted({state for by_state in tallies.values() for state in by_state}):
        yield row(state, folders, {name: tallies[name][state] for name in folders if state in tallies[name]})


def row(state: str, folders: Sequence[str], judged: Mapping[str, accuracy.Tally]) -> str:
    cells = []
    for tally in map(judged.get, folders):
        faults = [] if tally is None else [(tally.wrong, "wrong"), (tally.unknown, "unknown")]
        said = ", ".join(f"**{count} {what}**" for count, what in faults if count)
        cells.append(" ".join(filter(None, [str(tally.screens) if tally else "", said])))
    return f"| {state} | {' | '.join(cells)} |"


DRAWN: dict[str, Callable[[], str]] = {
    "docs/architecture.md": architecture.drawn,
    "docs/benchmarks.md": benchmarks,
    "docs/cli.md": reference.reference,
    "docs/manifest.md": schema.reference,
    "docs/states.md": states.drawn,
}


def main() -> int:
    for name, draw in DRAWN.items():
        path, text = ROOT / name, draw()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"{name} drawn anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
