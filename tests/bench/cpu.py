"""What agents cost the daemon at rest, and where it goes: for whoever makes that less.

    python -m tests.bench.cpu [--agents N] [--printing] [--seconds S] [--profile FILE]

A fleet of its own with N shell agents, quiet or printing a line a second; prints the daemon's and the tmux servers'
share of a core over S seconds, the fleet's memory and the machine's load meanwhile. `--profile` writes what
`py-spy record -f raw` sees of the daemon in a second run of the same length, since being looked at costs something.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tests.bench.measure import load_of, until
from tests.bench.ours import BIN, PRINTING, OurFleet


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cpu", description=__doc__)
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--printing", action="store_true")
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--settle", type=float, default=15)
    parser.add_argument("--profile")
    args = parser.parse_args()
    with OurFleet() as fleet:
        program = fleet.program("printing", PRINTING) if args.printing else fleet.trivial
        fleet.must("start", str(fleet.manifests([f"a{i}" for i in range(args.agents)], program)))
        until(lambda: all(agent["phase"] == "running" for agent in fleet.agents()), within=120, every=0.5)
        time.sleep(args.settle)
        daemon = fleet.daemon
        load = load_of({"daemon": [daemon], "tmux": fleet.tmux_servers()}, args.seconds)
        print(
            f"{args.agents} agents, {'printing' if args.printing else 'idle'}: daemon {load['daemon']:.2f} %, "
            f"tmux {load['tmux']:.2f} % of a core over {args.seconds:g} s; "
            f"{daemon.memory_info().rss / 2**20:.0f} MB; load average {os.getloadavg()[0]:.2f}",
            flush=True,
        )
        if args.profile:
            words = ["record", "-f", "raw", "-r", "200", "-d", str(round(args.seconds)), "-p", str(daemon.pid)]
            subprocess.run([BIN / "py-spy", *words, "-o", args.profile], check=True, capture_output=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
