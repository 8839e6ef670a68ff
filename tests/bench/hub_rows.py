"""The hub's table: one function for each part, from hubs in processes of their own to the lines that are printed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fleet.testing import ScriptedAgents
from tests.bench import hub_turns
from tests.bench.hub_daemon import Supervised, asks, comeback
from tests.bench.hub_doors import Bare, Fleet, Group, Nats, Orochi, Served, accept, fan, idle, last, low, stall
from tests.bench.hub_history import BEHIND, PAGE, Stored
from tests.bench.measure import median, percentile, side_by_side
from tests.bench.rows import Row, Sizes

WHOLE = {
    "accept seconds": 3,
    "accept turns": 2,
    "subscribers": 500,
    "rate": 1000,
    "fan seconds": 6,
    "rounds": 100,
    "slow": 300,
    "turns": 2,
    "idle": 15,
    "megabytes": 18,
    "stalls": 3,
    "few": 1000,
    "many": 1_000_000,
    "pages": 60,
    "asks": 60,
    "messages": 4000,
    "kills": 5,
}
QUICK = {
    "accept seconds": 1,
    "accept turns": 1,
    "subscribers": 60,
    "rate": 200,
    "fan seconds": 2,
    "rounds": 5,
    "slow": 20,
    "turns": 1,
    "idle": 2,
    "megabytes": 2,
    "stalls": 1,
    "few": 500,
    "many": 5000,
    "pages": 5,
    "asks": 3,
    "messages": 300,
    "kills": 1,
}


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def both(seconds: Sequence[float]) -> str:
    return f"{ms(median(seconds))} / {ms(percentile(seconds, 0.99))}"


def in_turns(
    makes: Sequence[type[Served]], turns: int, way: Callable[[type[Served]], Sequence[float]]
) -> dict[type[Served], list[float]]:
    """What each of them gave, one after the other, and again."""
    got: dict[type[Served], list[float]] = {make: [] for make in makes}
    for _ in range(turns):
        for make in makes:
            got[make] += way(make)
    return got


def accepted(sizes: Sizes) -> Iterator[Row]:
    """Durable messages a second."""
    for senders in (1, 10):
        for in_flight in (64, 1):

            def way(make: type[Served], senders: int = senders, in_flight: int = in_flight) -> Sequence[float]:
                return [accept(make, senders, in_flight, sizes["accept seconds"])[0]]

            rates = {
                make: median(took)
                for make, took in in_turns((Fleet, Orochi, Group), sizes["accept turns"], way).items()
            }
            ours, peer, ceiling = rates[Fleet], rates[Orochi], rates[Group]
            judged = in_flight == 64
            yield Row(
                f"durable accepted messages/s, {senders} sender{'s' * (senders > 1)} × {in_flight} in flight",
                "≥ 5 × orochi and ≥ 1/2 of the bare group commit" if judged else "",
                f"{ours:,.0f}; orochi {peer:,.0f} ({ours / peer:.1f} ×); "
                f"bare group commit {ceiling:,.0f} ({ours / ceiling:.2f} of it)",
                ours >= 5 * peer and 2 * ours >= ceiling if judged else None,
            )


def fanned(sizes: Sizes) -> Iterator[Row]:
    """A steady stream to many."""
    count, rate, seconds = sizes["subscribers"], sizes["rate"], sizes["fan seconds"]
    ours, core, bare = (fan(make, count, rate, seconds) for make in (Fleet, Nats, Bare))
    yield Row(
        f"{count} subscribers, {rate:,} messages/s in, through the durable log, for {seconds} s",
        "sustained on one core",
        f"{ours.delivered:,} of {ours.wanted:,} deliveries, the last {ms(ours.late)} after the last sending, "
        f"{100 * ours.load:.0f} % of a core (the reader {100 * ours.reader:.0f} %), p50 / p99 {both(ours.ages)}",
        ours.delivered == ours.wanted and ours.late <= 1 and ours.load <= 1,
    )
    yield Row(
        "the same: CPU per delivery",
        "≤ nats-server core's in the same run",
        f"{1e6 * ours.cpu:.2f} µs; nats-server {1e6 * core.cpu:.2f} µs ({ours.cpu / core.cpu:.2f} ×; "
        f"{core.delivered:,} of {core.wanted:,}, the last {ms(core.late)} late, the reader {100 * core.reader:.0f} %); "
        f"bare broadcast {1e6 * bare.cpu:.2f} µs ({bare.delivered:,} of {bare.wanted:,})",
        ours.cpu <= core.cpu,
    )


def lasts(sizes: Sizes) -> Iterator[Row]:
    """One message to many."""
    count, rounds = sizes["subscribers"], sizes["rounds"] // sizes["turns"]
    took = in_turns((Fleet, Orochi, Bare), sizes["turns"], lambda make: last(make, count, rounds))
    ours, peer = took[Fleet], took[Orochi]
    yield Row(
        f"one message to {count} subscribers, last one served, p50 / p99",
        "≤ 1/2 of orochi's",
        f"{both(ours)}; orochi {both(peer)} ({median(ours) / median(peer):.2f} / "
        f"{percentile(ours, 0.99) / percentile(peer, 0.99):.2f} of it); bare broadcast {both(took[Bare])}",
        2 * median(ours) <= median(peer) and 2 * percentile(ours, 0.99) <= percentile(peer, 0.99),
    )


def slow(sizes: Sizes) -> Iterator[Row]:
    """End to end at a low rate, beside what the disk takes meanwhile."""
    synced: list[float] = []

    def way(make: type[Served]) -> Sequence[float]:
        synced.extend(fsyncs(sizes["slow"]))
        return low(make, sizes["slow"])

    took = in_turns((Fleet, Orochi, Bare), sizes["turns"], way)
    ours, peer, bare = (percentile(took[make], 0.99) for make in (Fleet, Orochi, Bare))
    disk = percentile(synced, 0.99)
    yield Row(
        "end-to-end latency at a low rate, p50 / p99",
        "p99 ≤ orochi's, and ≤ the bare broadcast's + 2 × the fsync p99 of the run",
        f"{both(took[Fleet])}; orochi {both(took[Orochi])} ({ours / peer:.2f} of its p99); bare broadcast "
        f"{both(took[Bare])}; fsync p99 {ms(disk)} (bound {ms(bare + 2 * disk)})",
        ours <= peer and ours <= bare + 2 * disk,
    )


def fsyncs(count: int) -> list[float]:
    """Seconds of one fsync after another, each of one more page."""
    took = []
    with tempfile.TemporaryFile(prefix="fl", dir="/tmp") as file:
        for _ in range(count):
            os.write(file.fileno(), bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return took


def idling(sizes: Sizes) -> Iterator[Row]:
    """What waits."""
    count = sizes["subscribers"]
    ours, peer = (idle(make, count, 0.1)[0] for make in (Fleet, Orochi))
    _, load = idle(Supervised, count, sizes["idle"])
    yield Row(
        "memory per idle connection",
        "≤ orochi's",
        f"{ours / 1000:.1f} KB; orochi {peer / 1000:.1f} KB ({ours / peer:.2f} of it), of {count} each",
        ours <= peer,
    )
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
    quiet, beside = [], []
    for _ in range(sizes["stalls"]):
        quiet.append(stall(Fleet, sizes["megabytes"], stalled=False))
        beside.append(stall(Fleet, sizes["megabytes"], stalled=True))
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
    took = asks(sizes["asks"])
    yield Row(
        "ask round trip with a zero-work headless agent, a real daemon, p50 / p99 (Aether: 2.3 s)",
        "p50 ≤ 120 ms",
        f"{both(took)} of {len(took)}",
        median(took) <= 0.12,
    )


def pipeline(sizes: Sizes) -> Iterator[Row]:
    """All that happens to a message but the model's work."""
    quiet, asked = asyncio.run(_pipeline(sizes["messages"]))
    for what, rate in (("a turn for each", quiet), ("each with its answer, which is a message too", asked)):
        yield Row(
            f"full pipeline with a scripted runner in the process, messages/s: {what} (Aether: 610–725)",
            "≥ 1,300",
            f"{rate:,.0f}",
            rate >= 1300,
        )


async def _pipeline(count: int) -> tuple[float, float]:
    names = [f"a{number}" for number in range(16)]
    with tempfile.TemporaryDirectory(prefix="fl") as folder:
        silent = ScriptedAgents(dict.fromkeys(names, hub_turns.silent), max_parallel=8)
        async with hub_turns.hub(Path(folder) / "silent", silent) as exchange:
            quiet = await hub_turns.pipeline(exchange, silent, count, 64)
        echoing = ScriptedAgents(dict.fromkeys(names, hub_turns.echo), max_parallel=8)
        async with hub_turns.hub(Path(folder) / "echoing", echoing) as exchange:
            return quiet, await hub_turns.answered(exchange, echoing, count // 2, 64)


def killed(sizes: Sizes) -> Iterator[Row]:
    """A daemon's death."""
    took = [comeback() for _ in range(sizes["kills"])]
    yield Row(
        "`kill -9` of the daemon to the first accepted message",
        "≤ 1.5 s",
        f"median {ms(median(took))}, slowest {ms(max(took))} of {len(took)}",
        max(took) <= 1.5,
    )


HUB_PARTS: dict[str, Callable[[Sizes], Iterator[Row]]] = {
    "accept": accepted,
    "fan": fanned,
    "last": lasts,
    "low": slow,
    "idle": idling,
    "history": history,
    "stall": stalls,
    "ask": asking,
    "pipeline": pipeline,
    "killed": killed,
}
