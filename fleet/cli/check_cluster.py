"""What `fleet check` asks a cluster behind a login node: whether its controller would take the agent's job, or whether
the booking is there that it is to live in. Nothing is submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleet.cli.check_there import FAIL, OK, WARN, Told
from fleet.cli.render import rendered
from fleet.clock import SystemClock
from fleet.errors import FleetError, HostUnreachable
from fleet.hosts import SshHosts, ways
from fleet.manifests.model import AgentSpec, Remote, Slurm
from fleet.runtimes import slurm_script
from fleet.runtimes.slurm_booking import Place
from fleet.runtimes.ssh_tmux import login, sh
from fleet.settings import Places, Settings
from fleet.terms import Ran

WITHIN = 40.0
"""Seconds that a controller may take: of one that is gone SLURM says so after 20."""
SILENT = ("Unable to contact", "Socket timed out", "Communication connection failure", "Connection refused")


def examine(spec: AgentSpec, settings: Settings, places: Places) -> Iterator[Told]:
    """The job's partition, account and limits, by the controller's own word. What the nodes have is seen at a start."""
    try:
        login, ran = asyncio.run(_asked(spec, settings, places))
    except FleetError as error:
        yield Told("host", FAIL, str(error), error.hint)
        return
    yield Told("host", OK, f"{login} answers")
    yield finding(f"on {login}", ran, spec.slurm)


def finding(where: str, ran: Ran, section: Slurm | None) -> Told:
    """What the controller has said, with the partitions' limits beside it."""
    lines = [line.replace("sbatch: ", "").replace("error: ", "") for line in ran.stderr.decode().splitlines() if line]
    said = "; ".join(lines) or f"status {ran.status}"
    if ran.status == 127:
        remedy = "Where only a login shell has it on its PATH: login_shell: true."
        return Told("job", FAIL, f"sbatch is not found {where}", remedy)
    if any(word in said for word in SILENT):
        return Told("job", WARN, f"SLURM's controller does not answer: {said}")
    if not ran.status and (over := slurm_script.over_limit(section or Slurm(), ran.stdout.decode(errors="replace"))):
        return Told("job", FAIL, over, "Ask for less in slurm.time_limit, or for another partition.")
    return Told("job", FAIL if ran.status else OK, said)


async def _asked(spec: AgentSpec, settings: Settings, places: Places) -> tuple[str, Ran]:
    """Ask on the first login node that answers."""
    assert spec.remote is not None
    words = login(slurm_script.TEST) if spec.remote.login_shell else sh(slurm_script.TEST)
    async with _hosts(settings, places).asked(spec.remote) as (name, link, folder, home):
        job = rendered(spec, settings, replace(places, state=Path(folder)), home)
        return name, await link.command(words, job["script"].encode(), timeout=WITHIN)


def rendered_there(spec: AgentSpec, settings: Settings, places: Places) -> dict[str, Any]:
    """The agent's job as it would be submitted on the first login node that answers."""

    async def ask() -> dict[str, Any]:
        assert spec.remote is not None
        async with _hosts(settings, places).asked(spec.remote) as (name, _, folder, home):
            return rendered(spec, settings, replace(places, state=Path(folder)), home, name)

    return asyncio.run(ask())


def _hosts(settings: Settings, places: Places) -> SshHosts:
    return SshHosts(settings, places, SystemClock(), lambda _: ())


def booked(spec: AgentSpec, settings: Settings, places: Places) -> Iterator[Told]:
    """The tenant's booking."""
    assert spec.remote is not None and spec.slurm is not None and spec.slurm.reservation
    name = spec.slurm.reservation
    try:
        login, wanted, place = asyncio.run(_booking(spec.remote, name, settings, places))
    except FleetError as error:
        yield Told("host", FAIL, str(error), error.hint)
        return
    yield Told("host", OK, f"{login} answers")
    if not wanted:
        remedy = f"`fleet slurm book {name} --host {login} …` books it."
        yield Told("booking", FAIL, f"{name} is not booked from {login}", remedy)
    elif place is None:
        yield Told("booking", OK, f"{name} is booked, and has no node yet")
    else:
        yield Told("booking", OK, f"{name} is booked: job {place.job} on {place.node}")


async def _booking(remote: Remote, name: str, settings: Settings, places: Places) -> tuple[str, bool, Place | None]:
    """On the first login node that answers: whether it is wanted, and where it is."""
    hosts = _hosts(settings, places)
    away: HostUnreachable | None = None
    for way in ways(remote):
        try:
            async with hosts.visited(way) as (node, folder):
                wanted = await node.read(f"{folder}/bookings/{name}/wanted")
                place = await node.read(f"{folder}/bookings/{name}/place")
                return way.name, wanted is not None, Place.parse(place)
        except HostUnreachable as error:
            away = error
    raise away or HostUnreachable("it names no host")
