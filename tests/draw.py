"""`make docs`: the documents that are drawn from the code. tests/test_docs.py compares them."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from fleet.cli import reference
from fleet.hub import app, wire
from fleet.manifests import schema
from tests import accuracy, architecture, hub_page, lists, states

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
ACCURACY, END = "<!-- make accuracy, drawn by make docs -->", "<!-- /make accuracy -->"


def benchmarks() -> str:
    """docs/benchmarks.md with the accuracy of today's rules on the screens that are kept with the tests."""
    before, _, rest = BENCHMARKS.read_text().partition(ACCURACY)
    return "\n".join([before + ACCURACY, "", *states_judged(), "", END]) + rest.partition(END)[2]


def states_judged() -> Iterator[str]:
    """How many screens of each state there are, over all versions and sizes, and how many are judged wrongly."""
    tallies, _ = accuracy.judge_all([ROOT / "tests" / "screens"])
    judged: dict[str, accuracy.Tally] = defaultdict(accuracy.Tally)
    for by_state in tallies.values():
        for state, tally in by_state.items():
            judged[state].screens += tally.screens
            judged[state].wrong += tally.wrong
            judged[state].unknown += tally.unknown
    total = accuracy.sum_of(judged)
    yield f"**{total.screens} screens, {total.wrong} wrong, {total.unknown} unknown.**"
    yield ""
    yield "| state | screens | wrong | unknown |"
    yield "|---|---|---|---|"
    for state, tally in sorted(judged.items()):
        yield f"| {state} | {tally.screens} | {tally.wrong or ''} | {tally.unknown or ''} |"


def openapi() -> str:
    """The hub's routes."""
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def asyncapi() -> str:
    """The frames of its WebSocket."""
    return json.dumps(wire.asyncapi(), indent=1, ensure_ascii=False) + "\n"


DRAWN: dict[str, Callable[[], str]] = {
    "docs/asyncapi.json": asyncapi,
    "docs/openapi.json": openapi,
    "docs/architecture.md": architecture.drawn,
    "docs/benchmarks.md": benchmarks,
    "docs/cli.md": reference.reference,
    "docs/errors.md": lists.error_list,
    "docs/hub.md": hub_page.drawn,
    "docs/manifest.md": schema.reference,
    "docs/settings.md": lists.settings,
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
