"""The hub's table: one function for each part, from hubs in processes of their own to the lines that are printed."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tests.bench.hub_daemon import Supervised, asks, comebacks
from tests.bench.hub_doors import (
    APART,
    Bare,
    Fanned,
    Fleet,
    Group,
    Nats,
    Orochi,
    Served,
    Stalled,
    accept,
    fan,
    idle,
    last,
    low,
    stall,
)
from tests.bench.hub_history import BEHIND, PAGE, Stored
from tests.bench.measure import limited, median, percentile, side_by_side
from tests.bench.rows import ROOT, Row, Sizes

T = TypeVar("T")
Part = Callable[[Sizes], Iterator[Row]]

ATTEMPT = 240.0
"""Seconds that one measurement of one hub may take."""

WHOLE = {
    "accept seconds": 3,
    "accept turns": 2,
    "subscribers": 500,
    "rate": 1000,
    "fan seconds": 6,
    "rounds": 100,
    "rounds turns": 6,
    "idle": 15,
    "megabytes": 18,
    "stalls": 5,
    "few": 1000,
    "many": 1_000_000,
    "pages": 60,
    "asks": 60,
    "messages": 4000,
    "kills": 5,
    "crowd": 200,
}
QUICK = {
    "accept seconds": 1,
    "accept turns": 1,
    "subscribers": 60,
    "rate": 200,
    "fan seconds": 2,
    "rounds": 5,
    "rounds turns": 1,
    "idle": 2,
    "megabytes": 2,
    "stalls": 1,
    "few": 500,
    "many": 5000,
    "pages": 5,
    "asks": 3,
    "messages": 300,
    "kills": 1,
    "crowd": 3,
}


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def both(seconds: Sequence[float]) -> str:
    return f"{ms(median(seconds))} / {ms(percentile(seconds, 0.99))}"


class Turns:
    """What each of them gave, one after the other, and again. One that fails is tried once more, and then left out: the
    line is measured without it, and says why."""

    def __init__(
        self, makes: Sequence[type[Served]], turns: int, way: Callable[[type[Served]], Sequence[float]]
    ) -> None:
        self._runs: dict[type[Served], list[Sequence[float]]] = {make: [] for make in makes}
        self._why: dict[type[Served], str] = {}
        for _ in range(turns):
            for make in makes:
                got = attempt(functools.partial(way, make))
                if isinstance(got, str):
                    self._why[make] = got
                else:
                    self._runs[make].append(got)

    def __getitem__(self, make: type[Served]) -> list[float]:
        """Raise `RuntimeError` where it gave nothing."""
        if not self._runs[make]:
            raise RuntimeError(f"{make.name}: {self._why[make]}")
        return [value for run in self._runs[make] for value in run]

    def p99(self, make: type[Served]) -> float:
        """The median of its turns' 99th percentiles: what the machine does to one turn is not the hub's doing."""
        return median([percentile(run, 0.99) for run in self._runs[make]])

    def both(self, make: type[Served]) -> str:
        """The median, and `p99`."""
        return f"{ms(median(self[make]))} / {ms(self.p99(make))}"

    def beside(self, make: type[Served], peer: type[Served]) -> str:
        """The peer's, and what the first is of it."""
        medians, tails = median(self[make]) / median(self[peer]), self.p99(make) / self.p99(peer)
        return f"{self.both(peer)} ({medians:.2f} / {tails:.2f} of it)"

    def told(self, make: type[Served], how: Callable[[list[float]], str]) -> str:
        """It by its name, and what it gave."""
        return f"{make.name} {how(self[make])}" if self._runs[make] else f"{make.name} not measured: {self._why[make]}"

    def kept(self, judge: Callable[[], bool]) -> bool | None:
        """Whether the goal is; `None` where something to compare with is missing."""
        return judge() if all(self._runs.values()) else None


def attempt(way: Callable[[], T]) -> T | str:
    """What it gives; the second time it fails, why."""
    for again in (True, False):
        try:
            with limited(ATTEMPT):
                return way()
        except Exception as error:  # noqa: BLE001 (whatever it is, it is told in the line)
            traceback.print_exc()
            why = " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "/")[:300]
            if not again:
                return why
    raise AssertionError


def whole(got: T | str) -> T:
    """What was given. Raise `RuntimeError` with the reason where nothing was."""
    if isinstance(got, str):
        raise RuntimeError(got)
    return got


def accepted(senders: int, in_flight: int) -> Part:
    """Durable messages a second."""

    def part(sizes: Sizes) -> Iterator[Row]:
        took = Turns(
            (Fleet, Orochi, Group), sizes["accept turns"],
            lambda make: [accept(make, senders, in_flight, sizes["accept seconds"])[0]],
        )  # fmt: skip
        ours = median(took[Fleet])
        judged = in_flight == 64
        yield Row(
            f"durable accepted messages/s, {senders} sender{'s' * (senders > 1)} × {in_flight} in flight",
            "≥ 5 × orochi and ≥ 1/2 of the bare group commit" if judged else "",
            f"{ours:,.0f}; {took.told(Orochi, lambda got: f'{median(got):,.0f} ({ours / median(got):.1f} ×)')}; "
            f"bare {took.told(Group, lambda got: f'commit {median(got):,.0f} ({ours / median(got):.2f} of it)')}",
            took.kept(lambda: ours >= 5 * median(took[Orochi]) and 2 * ours >= median(took[Group])) if judged else None,
        )

    return part


def fanned(sizes: Sizes) -> Iterator[Row]:
    """A steady stream to many."""
    count, rate, seconds = sizes["subscribers"], sizes["rate"], sizes["fan seconds"]
    ours, core, bare = (attempt(functools.partial(fan, make, count, rate, seconds)) for make in (Fleet, Nats, Bare))
    ours = whole(ours)
    yield Row(
        f"{count} subscribers, {rate:,} messages/s in, through the durable log, for {seconds} s",
        "sustained on one core",
        f"{ours.delivered:,} of {ours.wanted:,} deliveries, the last {ms(ours.late)} after the last sending, "
        f"{100 * ours.load:.0f} % of a core (the reader {100 * ours.reader:.0f} %), p50 / p99 {both(ours.ages)}",
        ours.delivered == ours.wanted and ours.late <= 1 and ours.load <= 1,
    )

    def told(other: Fanned | str) -> str:
        if isinstance(other, str):
            return f"not measured: {other}"
        return (
            f"{1e6 * other.cpu:.2f} µs ({ours.cpu / other.cpu:.2f} ×; {other.delivered:,} of {other.wanted:,}, "
            f"the last {ms(other.late)} late, the reader {100 * other.reader:.0f} %)"
        )

    yield Row(
        "the same: CPU per delivery",
        "≤ nats-server core's in the same run",
        f"{1e6 * ours.cpu:.2f} µs; nats-server {told(core)}; bare broadcast {told(bare)}",
        None if isinstance(core, str) else ours.cpu <= core.cpu,
    )


def lasts(sizes: Sizes) -> Iterator[Row]:
    """One message to many."""
    count, rounds = sizes["subscribers"], sizes["rounds"]
    took = Turns((Fleet, Orochi, Bare), sizes["rounds turns"], lambda make: last(make, count, rounds))
    yield Row(
        f"one message to {count} subscribers, last one served, p50 / p99",
        "≤ 1/2 of orochi's",
        f"{took.both(Fleet)}; {took.told(Orochi, lambda _: took.beside(Fleet, Orochi))}; "
        f"{took.told(Bare, lambda _: took.both(Bare))} (broadcast)",
        took.kept(lambda: 2 * median(took[Fleet]) <= median(took[Orochi]) and 2 * took.p99(Fleet) <= took.p99(Orochi)),
    )


def slow(sizes: Sizes) -> Iterator[Row]:
    """End to end at a low rate, beside what the disk takes meanwhile."""
    synced: list[float] = []

    def way(make: type[Served]) -> Sequence[float]:
        run = fsyncs(sizes["rounds"])
        synced.append(percentile(run, 0.99))
        return low(make, sizes["rounds"])

    took = Turns((Fleet, Orochi, Bare), sizes["rounds turns"], way)
    disk = median(synced)

    def bound() -> float:
        return took.p99(Bare) + 2 * disk

    yield Row(
        "end-to-end latency at a low rate, p50 / p99",
        "p99 ≤ orochi's, and ≤ the bare broadcast's + 2 × the fsync p99 of the run",
        f"{took.both(Fleet)}; {took.told(Orochi, lambda _: took.beside(Fleet, Orochi))}; "
        f"{took.told(Bare, lambda _: f'{took.both(Bare)} (broadcast; bound {ms(bound())})')}; fsync p99 {ms(disk)}",
        took.kept(lambda: took.p99(Fleet) <= took.p99(Orochi) and took.p99(Fleet) <= bound()),
    )


def fsyncs(count: int) -> list[float]:
    """Seconds of one fsync after another, each of one more page, as far apart as the messages are."""
    took = []
    with tempfile.TemporaryFile(prefix="fl", dir="/tmp") as file:
        for _ in range(count):
            time.sleep(APART)
            os.write(file.fileno(), bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return took


def memory(sizes: Sizes) -> Iterator[Row]:
    """What waits, in bytes."""
    count = sizes["subscribers"]
    took = Turns((Fleet, Orochi), 1, lambda make: [idle(make, count, 0.1)[0]])
    ours = took[Fleet][0]
    yield Row(
        "memory per idle connection",
        "≤ orochi's",
        f"{ours / 1000:.1f} KB; "
        f"{took.told(Orochi, lambda peer: f'{peer[0] / 1000:.1f} KB ({ours / peer[0]:.2f} of it)')}, of {count} each",
        took.kept(lambda: ours <= took[Orochi][0]),
    )


def idling(sizes: Sizes) -> Iterator[Row]:
    """What waits, in CPU."""
    count = sizes["subscribers"]
    _, load = whole(attempt(lambda: idle(Supervised, count, sizes["idle"])))
    yield Row(
        f"idle CPU with {count} connected agents, the whole daemon (and one agent in a pane)",
        "≤ 2 % of a core",
        f"{100 * load:.1f} % over {sizes['idle']} s",
        load <= 0.02,
    )


def history(sizes: Sizes) -> Iterator[Row]:
    """Where much is stored."""
    with contextlib.ExitStack() as open_:
        many = Stored(sizes["many"])  # first, since a connection over which nothing is asked for long is closed
        open_.callback(many.close)
        few = Stored(sizes["few"])
        open_.callback(few.close)
        for what, name in (
            (f"history: the newest page ({PAGE})", "newest"),
            (f"history: a page from the middle ({PAGE})", "middle"),
            (f"resume of a reader {BEHIND} messages behind, connecting included", "resume"),
        ):
            ways: dict[str, Callable[[], float]] = {"few": getattr(few, name), "many": getattr(many, name)}
            took = {n: median(t) for n, t in side_by_side(ways, dict.fromkeys(ways, sizes["pages"])).items()}
            yield Row(
                f"{what}, {sizes['many']:,} messages stored",
                f"≤ 2 × the same at {sizes['few']:,}",
                f"{ms(took['many'])}; at {sizes['few']:,} {ms(took['few'])} ({took['many'] / took['few']:.2f} ×)",
                took["many"] <= 2 * took["few"],
            )


def stalls(sizes: Sizes) -> Iterator[Row]:
    """One who does not read."""
    quiet: list[Stalled] = []
    beside: list[Stalled] = []
    for _ in range(sizes["stalls"]):
        for runs, stalled in ((quiet, False), (beside, True)):
            runs.append(whole(attempt(functools.partial(stall, Fleet, sizes["megabytes"], stalled=stalled))))
    p99 = [[percentile(one.ages, 0.99) for one in runs] for runs in (quiet, beside)]
    got = all(one.whole for one in (*quiet, *beside)) and all(one.ordered for one in beside)
    yield Row(
        f"a subscriber that stops reading during {sizes['megabytes']} MB of broadcast",
        "others' p99 unchanged within noise (median of the runs ≤ 1.2 × the worst without it); "
        "it then gets all, in order, once",
        f"others' p99 {', '.join(map(ms, sorted(p99[1])))}; without it {', '.join(map(ms, sorted(p99[0])))}; it then "
        f"has {'all, in order, once' if got else 'not all'}, within {ms(max(one.rest for one in beside))}",
        got and median(p99[1]) <= 1.2 * max(p99[0]),
    )


def asking(sizes: Sizes) -> Iterator[Row]:
    """A question, and its answer."""
    took = whole(attempt(lambda: asks(sizes["asks"])))
    yield Row(
        "ask round trip with a zero-work headless agent, a real daemon, p50 / p99 (Aether: 2.3 s)",
        "p50 ≤ 120 ms",
        f"{both(took)} of {len(took)}",
        median(took) <= 0.12,
    )


def pipeline(sizes: Sizes) -> Iterator[Row]:
    """All that happens to a message but the model's work."""
    argv = [sys.executable, "-m", "tests.bench.hub_turns", str(sizes["messages"])]
    ran = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True, timeout=ATTEMPT)
    quiet, asked = json.loads(ran.stdout)
    for what, rate in (("a turn for each", quiet), ("each with its answer, which is a message too", asked)):
        yield Row(
            f"full pipeline with a scripted runner in the process, messages/s: {what} (Aether: 610–725)",
            "≥ 1,300",
            f"{rate:,.0f}",
            rate >= 1300,
        )


def killed(sizes: Sizes) -> Iterator[Row]:
    """A daemon's death."""
    took = [seconds for _ in range(sizes["kills"]) for seconds in whole(attempt(lambda: comebacks(1)))]
    yield Row(
        "`kill -9` of the daemon to the first accepted message",
        "≤ 1.5 s",
        f"median {ms(median(took))}, slowest {ms(max(took))} of {len(took)}",
        max(took) <= 1.5,
    )


def killed_crowd(sizes: Sizes) -> Iterator[Row]:
    """A daemon's death among many agents."""
    took = whole(attempt(lambda: comebacks(sizes["kills"], sizes["crowd"])))
    yield Row(
        f"the same with {sizes['crowd']} agents",
        "≤ 1.5 s",
        f"median {ms(median(took))}, slowest {ms(max(took))} of {len(took)}",
        max(took) <= 1.5,
    )


HUB_PARTS: dict[str, Part] = {
    "accept": accepted(1, 64),
    "accept-one": accepted(1, 1),
    "accept-ten": accepted(10, 64),
    "accept-ten-one": accepted(10, 1),
    "fan": fanned,
    "last": lasts,
    "low": slow,
    "memory": memory,
    "idle": idling,
    "history": history,
    "stall": stalls,
    "ask": asking,
    "pipeline": pipeline,
    "killed": killed,
    "killed-crowd": killed_crowd,
}
"""Each by itself: what goes wrong in one is told in its line, and the others are measured all the same."""
