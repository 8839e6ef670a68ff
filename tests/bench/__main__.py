"""`make bench`: fleet beside its peer, in one run, and the table in docs/benchmarks.md.

    python tests/bench [PART …] [--quick]

Without PART everything is measured and the document is written; with PART, or --quick (small numbers, to see that
the benchmark itself works), the table is only printed.
"""

from __future__ import annotations

import argparse
import datetime
import sys

from measure import machine
from ours import TRIVIAL, OurFleet
from peer import VERSION, Peer, installed
from rows import PARTS, ROOT, Row

from fleet import __version__

WHOLE = {
    "runs": 60,
    "peer runs": 11,
    "agents": 50,
    "panes": 200,
    "crowd": 500,
    "seconds": 30,
    "settle": 10,
    "kills": 7,
    "rounds": 1,
}
QUICK = {
    "runs": 5,
    "peer runs": 1,
    "agents": 3,
    "panes": 4,
    "crowd": 8,
    "seconds": 3,
    "settle": 2,
    "kills": 2,
    "rounds": 1,
}
DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- make bench -->", "<!-- /make bench -->"
MARKS = {True: "yes", False: "**no**", None: ""}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    sizes = QUICK if args.quick else WHOLE
    program = installed(ROOT / ".cache")
    rows: list[Row] = []
    for name in args.parts or PARTS:
        print(f"— {name}", flush=True)
        with OurFleet() as fleet, Peer(program, TRIVIAL) as peer:
            for row in PARTS[name](fleet, peer, sizes):
                print(line(row), flush=True)
                rows.append(row)
    if not args.parts and not args.quick:
        write(rows)
        print(f"Written to {DOCUMENT.relative_to(ROOT)}")
    return 0


def line(row: Row) -> str:
    return f"| {row.what} | {row.goal} | {row.found} | {MARKS[row.kept]} |"


def write(rows: list[Row]) -> None:
    """Put the table between its marks, with how and on what it was taken."""
    today = datetime.datetime.now(datetime.UTC).date()
    table = [
        f"`make bench`, {today}, fleet {__version__}, scitex-agent-container {VERSION}. {machine()}.",
        "",
        "| what | goal | found | kept |",
        "|---|---|---|---|",
        *map(line, rows),
    ]
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text("\n".join([before + BEGIN, "", *table, "", END]) + after)


if __name__ == "__main__":
    sys.exit(main())
