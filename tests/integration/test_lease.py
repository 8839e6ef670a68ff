"""The lease on real processes: who holds it, who waits, and what ends when it cannot be renewed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fleet import processes
from fleet.runtimes import slurm_script
from fleet.runtimes.lease import newest, parse
from tests.cluster import until

LEASE = str(Path(slurm_script.__file__).with_name("lease.sh"))
TTL, EVERY, GRACE = 60, 2, 3
SHORT = 12
"""The TTL of a lease whose end is waited for. All others are renewed or let go of long before, on any machine."""

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not Path("/proc/uptime").exists(), reason="a lease is held on Linux: it needs /proc"),
]


class Holder:
    """A node's part in it: somebody who owns a program and keeps its lease."""

    def __init__(self, folder: Path, name: str) -> None:
        self.ttl = TTL
        self.leases, self.name = folder / "leases", name
        self.here = folder / name
        self.here.mkdir()
        self.mark = f"FLEET_JOB={self.here}"
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        bare = {"PATH": "/usr/bin:/bin", **(env or {})}
        self.started.append(subprocess.Popen(argv, env=bare, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return self.started[-1]

    def take(self) -> subprocess.Popen[str]:
        return self.start("sh", LEASE, "take", str(self.leases), self.name, str(self.ttl))

    def run_program(self) -> subprocess.Popen[str]:
        """A program that ends for nobody who asks, with a child in a session of its own."""
        name, _, value = self.mark.partition("=")
        line = "trap '' TERM; setsid sleep 600 & while :; do sleep 600; done"
        return self.start("sh", "-c", line, env={name: value})

    def keep(self, number: str, taken: str, taker: int, owner: int) -> subprocess.Popen[str]:
        process = processes.find(owner)
        assert process is not None
        words = [str(self.leases), f"{self.name}.{taker}", str(self.ttl), number, taken, str(EVERY), str(GRACE)]
        return self.start("sh", LEASE, "keep", *words, self.mark, f"{process.pid} {process.start}", str(self.here))

    def hold(self, owner: int) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
        """Its keeper and its program."""
        taking = self.take()
        number, taken = taking.communicate(timeout=60)[0].split()
        program = self.run_program()
        until(lambda: len(self.members()) >= 3, "the program runs")
        return self.keep(number, taken, taking.pid, owner), program

    def let_go(self, keeper: subprocess.Popen[str]) -> None:
        (self.here / "release").touch()
        keeper.terminate()

    def members(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if f"FLEET_JOB={process.environ().get('FLEET_JOB')}" == self.mark:
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def end(self) -> None:
        for process in self.started:
            with suppress(ProcessLookupError):  # with what it has put beside itself, which holds its output
                os.killpg(process.pid, signal.SIGKILL)
        for pid in self.members():
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        for process in self.started:
            process.communicate()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[str], Holder]]:
    made: list[Holder] = []

    def make(name: str) -> Holder:
        made.append(Holder(tmp_path, name))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_a_lease_is_one_takers_only_and_is_handed_on_when_released(holder: Callable[[str], Holder]) -> None:
    one, other = holder("1.0.n1"), holder("2.0.n2")
    keeper, _ = one.hold(os.getpid())
    until(lambda: _renewals(one.leases, 1) >= 2, "it is renewed")
    waiting = other.take()
    keeper.terminate()  # as a cluster does to all that belongs to a cancelled job
    seen = _renewals(one.leases, 1)
    until(lambda: _renewals(one.leases, 1) >= seen + 2, "it is renewed all the same")
    one.let_go(keeper)
    assert keeper.wait(60) == 0
    assert waiting.communicate(timeout=60)[0].split()[0] == "2"
    assert len(one.members()) >= 3  # releasing ends nothing


def test_a_lease_that_is_being_renewed_is_handed_on_all_the_same(holder: Callable[[str], Holder]) -> None:
    one = holder("1.0.n1")
    keeper, _ = one.hold(os.getpid())
    renewal = one.leases / ".1.new"

    def stuck() -> bool:
        if not renewal.is_fifo():
            with suppress(FileExistsError):  # a renewal is being written just now
                os.mkfifo(renewal)
        children = psutil.Process(keeper.pid).children()  # one of them sleeps, which is no shell
        return any(map(_is_old_shell, children)) and renewal.is_fifo()

    until(stuck, "a renewal is under way")
    one.let_go(keeper)
    reader = os.open(renewal, os.O_RDONLY | os.O_NONBLOCK)  # and goes on
    assert keeper.wait(60) == 0
    os.close(reader)
    lease = parse(1, (one.leases / "1").read_bytes())
    assert lease is not None and lease.released


def test_whoever_is_cut_off_has_ended_its_program_before_another_may_start(
    holder: Callable[[str], Holder], tmp_path: Path
) -> None:
    one, other = holder("1.0.n1"), holder("2.0.n2")
    one.ttl = other.ttl = SHORT
    away = tmp_path / "elsewhere"
    one.leases = tmp_path / "n1"
    other.leases = tmp_path / "n2"
    away.mkdir()
    for way in (one.leases, other.leases):
        way.symlink_to(away)
    keeper, _ = one.hold(os.getpid())
    until(lambda: _renewals(away, 1) >= 2, "it is renewed")
    one.leases.unlink()  # this node no longer reaches the file system; the other does
    taking = other.take()
    assert taking.communicate(timeout=90)[0].split()[0] == "2"
    assert one.members() == []
    assert keeper.wait(60) == 70


def test_a_higher_number_ends_whoever_holds_a_lower_one(holder: Callable[[str], Holder]) -> None:
    one = holder("1.0.n1")
    keeper, _ = one.hold(os.getpid())
    (one.leases / "2").write_text("other 1\n")
    assert keeper.wait(60) == 71
    assert one.members() == []


def test_a_program_does_not_outlive_the_owner_of_its_lease(holder: Callable[[str], Holder]) -> None:
    one = holder("1.0.n1")
    owner = one.start("sleep", "600")
    keeper, _ = one.hold(owner.pid)
    owner.kill()
    owner.wait()
    assert keeper.wait(60) == 72
    assert one.members() == []
    assert (one.leases / "1").read_text().startswith("released "), "nobody waits for it in vain"


def test_an_end_is_carried_through_whatever_it_is_told_itself(holder: Callable[[str], Holder]) -> None:
    one = holder("1.0.n1")
    one.run_program()
    until(lambda: len(one.members()) >= 3, "the program runs")
    ending = one.start("sh", LEASE, "hunt", one.mark, "1")
    until(lambda: psutil.Process(ending.pid).children(), "it is at work")
    ending.terminate()
    told = ending.communicate(timeout=60)[0]
    assert ending.returncode == 0 and one.members() == []
    assert "there " in told and "killed " in told


def test_of_many_who_want_a_free_lease_one_gets_it(holder: Callable[[str], Holder]) -> None:
    takers = [holder(f"{n}.0.n1").take() for n in range(1, 5)]
    until(lambda: any(taker.poll() is not None for taker in takers), "somebody has it")
    folder = holder("9.0.n9").leases
    assert newest(path.name for path in folder.iterdir()) == 1
    assert sum(taker.poll() is not None for taker in takers) == 1


def _renewals(folder: Path, number: int) -> int:
    try:
        lease = parse(number, (folder / str(number)).read_bytes())
    except FileNotFoundError:
        return 0
    return lease.renewals if lease is not None else 0


def _is_old_shell(process: psutil.Process) -> bool:
    """By the machine's uptime: psutil's word of when it began is off by what the clock was set since."""
    found = processes.find(process.pid)
    if found is None:
        return False
    up = float(Path("/proc/uptime").read_text().split()[0])
    try:
        return process.name() == "sh" and up - found.start / os.sysconf("SC_CLK_TCK") > 1
    except psutil.NoSuchProcess:
        return False
