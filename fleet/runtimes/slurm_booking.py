"""Bookings: allocations that are held for several agents, their tenants. Pure but for the script's body.

A booking is a job that holds a tmux server (slurm_booking.sh) and a folder that all nodes see. What its tenants ask
for is counted against what is booked: SLURM itself sees only the one job.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fleet.errors import LaunchError, Usage
from fleet.manifests.model import Slurm, in_words
from fleet.runtimes import slurm_script, tmux
from fleet.settings import Settings
from fleet.terms import File

BODY = Path(__file__).with_name("slurm_booking.sh")
GRACE = 10
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_UNITS = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0 * 1024}


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """What is held, as a person has asked for it."""

    name: str
    partition: str | None = None
    account: str | None = None
    cpus: int = 1
    mem: str = "4G"
    time_limit: str = "1-00:00:00"
    persistent: bool = False
    """Whether it is followed by another before its time is up."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise Usage(f"{self.name!r} is no name of a booking: lower-case letters, digits and dashes.")
        try:
            _ = self.section
        except ValueError as error:
            raise Usage(f"The booking {self.name} cannot be: {in_words(error)}.") from error

    @property
    def section(self) -> Slurm:
        """The same as the manifest of a job would say it."""
        return Slurm(
            partition=self.partition,
            account=self.account,
            cpus_per_task=self.cpus,
            mem=self.mem,
            time_limit=self.time_limit,
        )

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Booking:
        return cls(**json.loads(content))


@dataclass(frozen=True, slots=True)
class Place:
    """Where the booking's tmux is now."""

    job: str
    node: str
    socket: str

    @classmethod
    def parse(cls, content: bytes | None) -> Place | None:
        words = (content or b"").decode(errors="replace").split()
        return cls(*words) if len(words) == 3 else None

    @property
    def mark(self) -> str:
        """What all processes of its tenants bear in their environment."""
        return f"{self.job}@{self.node}"


def job_name(folder: str) -> str:
    """The name of a booking's jobs: another fleet's booking may have the same name."""
    return f"fleet-booking-{Path(folder).name}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


def megabytes(mem: str) -> float:
    """A memory as SLURM writes it; without a unit it is megabytes."""
    return float(mem[:-1]) * _UNITS[mem[-1].upper()] if mem[-1].isalpha() else float(mem)


def fits(booking: Booking, tenants: Iterable[Slurm], wish: Slurm) -> None:
    """Raise `LaunchError` where the wish does not fit beside what the tenants have."""
    there = list(tenants)
    cpus = booking.cpus - sum(tenant.cpus_per_task for tenant in there)
    mem = megabytes(booking.mem) - sum(megabytes(tenant.mem) for tenant in there)
    lacking = []
    if wish.cpus_per_task > cpus:
        lacking.append(f"{wish.cpus_per_task} CPUs of {max(cpus, 0)} that are free")
    if megabytes(wish.mem) > mem:
        lacking.append(f"{wish.mem} of {max(mem, 0):.0f} MB that are free")
    if lacking:
        raise LaunchError(
            f"the booking {booking.name} has no room: it would take {' and '.join(lacking)}",
            hint=f"`fleet slurm show {booking.name}` lists its tenants; book more, or ask for less.",
        )


def files(booking: Booking, folder: str, lease: str, home: str, settings: Settings) -> tuple[File, ...]:
    """All that must stand in the booking's folder before its job is submitted."""
    return (
        File(f"{folder}/booking", booking.to_json()),
        File(f"{folder}/wanted", b""),
        File(f"{folder}/job", script(booking, folder, lease, home, settings).encode()),
    )


def script(booking: Booking, folder: str, lease: str, home: str, settings: Settings) -> str:
    """The batch script."""
    section = booking.section
    start = tmux.start_argv("", settings)
    values = {
        "HOME": home,
        "folder": folder,
        "lease": lease,
        "grace": GRACE,
        "limit": slurm_script.seconds(section.time_limit),
        "before": slurm_script.lead(section),
        "persistent": "1" if booking.persistent else "",
    }
    body = BODY.read_text().partition("\n")[2]
    return "\n".join(
        [
            *slurm_script.head(section, job_name(folder), folder, folder.replace("%", "%%")),
            "#SBATCH --no-requeue",
            "",
            *slurm_script.TRAPS,
            "",
            *(f"{name}={shlex.quote(str(value))}" for name, value in values.items()),
            "export HOME",
            f"tmux_start=({shlex.join(start[start.index('start-server') :])})",
            "",
            body,
        ]
    )
