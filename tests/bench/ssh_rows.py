"""What agents on an ssh host cost: a real sshd on loopback behind a wire that counts, and that can be cut."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fleet.settings import Settings
from tests.bench.measure import Command, median, until
from tests.bench.ours import OurFleet
from tests.bench.rows import Row, Sizes, ms
from tests.contract.hosts import Kit
from tests.sshd import SSHD, SshHost, There

WHOLE: Sizes = {"runs": 200, "fresh": 15, "agents": 50, "ticks": 30, "starts": 5}
QUICK: Sizes = {"runs": 20, "fresh": 2, "agents": 4, "ticks": 4, "starts": 1}
ROUND_TRIP = 0.2
"""Seconds, for the starts whose round trips are counted."""
CUT_FOR = 20.0
"""Seconds of the cut."""


def looks(sizes: Sizes) -> Iterator[Row]:
    """One agent looked at, and many that idle."""
    with tempfile.TemporaryDirectory(prefix="flbench", dir="/tmp") as folder:
        yield from asyncio.run(_looks(Path(folder), sizes))


async def _looks(folder: Path, sizes: Sizes) -> list[Row]:
    host = SshHost(folder, Settings())
    await host.open()
    try:
        kit = Kit(host)
        handle = await kit.launch("web")
        await kit.watch(handle).show("hello")
        took = []
        for _ in range(sizes["runs"]):
            began = time.perf_counter()
            await host.runtime.look(handle)
            took.append(time.perf_counter() - began)
        fresh = []
        ssh = Command([shutil.which("ssh") or "ssh", "-F", str(host.sshd.config), "there", "true"], {}, folder)
        for _ in range(sizes["fresh"]):
            fresh.append(await asyncio.to_thread(ssh))
        ours, theirs = median(took), median(fresh)
        rows = [
            Row(
                "look at an agent on an ssh host, over the kept connection",
                "≤ 1/100 of a fresh `ssh host true`",
                f"{ms(ours)}; a fresh one {ms(theirs)} (1/{theirs / ours:.0f})",
                ours * 100 <= theirs,
            )
        ]
        for number in range(sizes["agents"] - 1):
            await kit.watch(await kit.launch(f"a{number}")).show("hello")
        rows.append(await _idle(host, sizes))
        return rows
    finally:
        await host.close()


async def _idle(host: SshHost, sizes: Sizes) -> Row:
    """Bytes both ways and requests for each sweep, once nothing moves any more."""
    every = host.settings.observe_idle_interval
    await asyncio.sleep(10 * every)
    said, carried = host.written, host.wire.carried
    await asyncio.sleep(sizes["ticks"] * every)
    requests, bytes_ = (host.written - said) / sizes["ticks"], (host.wire.carried - carried) / sizes["ticks"]
    return Row(
        f"{sizes['agents']} agents on one ssh host, idle: requests and bytes a tick, both ways, encrypted",
        "1 round trip, ≤ 2 KB",
        f"{requests:.1f} requests, {bytes_:.0f} bytes over {sizes['ticks']} ticks of {every:g} s",
        requests <= 1.1 and bytes_ <= 2048,
    )


def starts(sizes: Sizes) -> Iterator[Row]:
    """A start there beside the same one here, and a cut of the link."""
    with OurFleet(ssh_keepalive=2, ssh_probe_within=5) as fleet:
        there = There(fleet.path, settings=False)
        fleet.env["FLEET_SSH_CONFIG"] = str(there.sshd.config)
        try:
            yield from _starts(fleet, there, sizes)
        finally:
            there.heal()
            subprocess.run([*fleet.command("shutdown").argv], env=fleet.env, capture_output=True, check=False)
            there.close()


def _starts(fleet: OurFleet, there: There, sizes: Sizes) -> Iterator[Row]:
    remote = {"host": "there"}
    fleet.must("start", str(fleet.manifests(["first"], fleet.trivial, remote=remote)))
    away, here = [], []
    for number in range(sizes["starts"]):
        away.append(fleet.command("start", str(fleet.manifests([f"w{number}"], fleet.trivial, remote=remote)))())
        here.append(fleet.command("start", str(fleet.manifests([f"h{number}"], fleet.trivial)))())
    there.wire.delay = ROUND_TRIP / 2
    far = []
    for number in range(sizes["starts"]):
        far.append(fleet.command("start", str(fleet.manifests([f"f{number}"], fleet.trivial, remote=remote)))())
    there.wire.delay = 0.0
    beyond, trips = median(far) - 1.0, (median(far) - median(away)) / ROUND_TRIP
    yield Row(
        f"`fleet start` on an ssh host that is {ms(ROUND_TRIP)} away (there and back) to started, beyond the program's"
        " own (1 s for a shell agent)",
        "≤ 3 round trips + 1 s",
        f"{ms(beyond)}: {trips:.1f} round trips, and {ms(median(away) - 1.0)} (on this machine"
        f" {ms(median(here) - 1.0)})",
        beyond <= 3 * ROUND_TRIP + 1.0,
    )

    def phase() -> str:
        return next(str(agent["phase"]) for agent in fleet.agents() if agent["name"] == "first")

    def is_(wanted: str) -> Callable[[], bool]:
        return lambda: phase() == wanted

    there.cut()
    lost = until(is_("unverifiable"), within=60)
    time.sleep(max(0.0, CUT_FOR - lost))
    there.heal()
    back = until(is_("running"), within=60)
    yield Row("cut link to `unverifiable`, by the usual keepalive (2 s, three times)", "≤ 10 s", ms(lost), lost <= 10)
    yield Row(f"link whole again to known, after a cut of {CUT_FOR:g} s", "≤ 8 s", ms(back), back <= 8)


SSH_PARTS: dict[str, Callable[[Sizes], Iterator[Row]]] = {"ssh-looks": looks, "ssh-starts": starts} if SSHD else {}
