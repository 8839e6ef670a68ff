"""What all tests share: homes of their own, the real Claude Code program, a stub model server, and the guard.

The whole run lives under one short folder, its **ground** (`/tmp/fl…`): every home, temporary file and socket.
So whatever a test leaves behind can be told by that folder's name in its environment, command line, working folder
or socket. The guard looks after every test that has a home, and once more at the end of the run: what it finds
fails the run, and exactly that is ended.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from tests import networks
from tests.cluster import Cluster, cluster, no_mounts
from tests.homes import Home, Stub, claude_path, end_all, stub_server, wait_gone

GROUND = "FLEET_TEST_GROUND"
"""The environment variable by which the workers of a run know its ground."""
SESSION_MARKS = ("ANTHROPIC_", "CLAUDE", "FLEET_", "TMUX", "STY", "XDG_", "AI_AGENT", "SCITEX_")
"""What the person's own environment must not bring into a test."""
ours = pytest.StashKey["Outside"]()

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("fleet", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("fleet")


def pytest_configure(config: pytest.Config) -> None:
    """Move this process into the run's ground, before anything asks where its home is."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        outside = Outside.seen()
        ground = Path(tempfile.mkdtemp(prefix="fl", dir="/tmp"))
        for name in list(os.environ):
            if name.startswith(SESSION_MARKS) and not name.startswith("FLEET_TEST_"):
                del os.environ[name]
        os.environ |= {GROUND: str(ground), "HOME": str(ground / "home"), "TMPDIR": str(ground)}
        (ground / "home").mkdir()
        config.stash[ours] = outside
    tempfile.tempdir = os.environ[GROUND]


def pytest_report_header() -> list[str]:
    why = networks.missing()
    where = f"on loopback, behind a wire that swallows what is sent ({why})" if why else "in network namespaces"
    missing = no_mounts()
    cut = [f"SLURM: that a node is cut off from its lease is not tried ({missing})"] if missing else []
    return [f"ssh hosts: {where}", *cut]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal the tests on real programs out to all workers, before the unit tests: a run that ends with a slow test on
    one worker leaves the others idle. What shares a cluster stays together, as does each module."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers == 1:
        return
    groups: dict[str, list[pytest.Item]] = {}
    quick = []
    for item in items:
        if "unit" in item.path.parts:
            quick.append(item)
        else:
            needs = getattr(item, "fixturenames", ())
            shared = "slurm" in needs and "nodes" not in needs
            groups.setdefault("slurm" if shared else str(item.path), []).append(item)
    longest = sorted(groups.values(), key=_about, reverse=True)
    hands: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for group in longest:
        min(hands, key=_about).extend(group)
    for number, hand in enumerate(hands, 1):  # the workers get parts of one length each, in this order
        while quick and len(hand) < len(items) // workers + (number > workers - len(items) % workers):
            hand.append(quick.pop(0))
    items[:] = [*(item for hand in hands for item in hand), *quick]


def _about(tests: list[pytest.Item]) -> float:
    """About how many seconds these tests take, by what they need."""
    return sum(map(_seconds, tests))


def _seconds(test: pytest.Item) -> float:
    needs = getattr(test, "fixturenames", ())
    if "claude_program" in needs:
        return 9.0 if "e2e" in test.path.parts else 4.0
    if "nodes" in needs:
        return 70.0
    if "slurm" in needs:
        return 7.0 if "e2e" in test.path.parts else 3.0
    if "e2e" in test.path.parts:
        return 4.0
    return 0.4 if test.get_closest_marker("real") else 0.1


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    """After the workers have ended: nothing is left, and what is the person's was not touched."""
    try:
        return (yield)
    finally:
        if outside := session.config.stash.get(ours, None):
            ground = Path(os.environ[GROUND])
            left = [*end_all(wait_gone(ground)), *outside.changes(ground)]
            shutil.rmtree(ground, ignore_errors=True)
            if left:
                print("\n\nThe run left this behind:", *left, sep="\n  ")
                session.exitstatus = pytest.ExitCode.TESTS_FAILED


@dataclass(frozen=True)
class Outside:
    """What belongs to the person who runs the tests: their home, and their own tmux server."""

    home: Path
    existed: frozenset[Path]
    tmux: Path

    @classmethod
    def seen(cls) -> Outside:
        home = Path("~").expanduser()
        tmux = Path(os.environ.get("TMUX_TMPDIR") or "/tmp") / f"tmux-{os.getuid()}" / "default"
        places = (".claude", ".claude.json", ".config/fleet", ".local/state/fleet")
        return cls(home, frozenset(home / p for p in places if (home / p).exists()), tmux)

    def changes(self, ground: Path) -> list[str]:
        """What this run has done there. What the person does meanwhile is theirs: only our traces count."""
        mark = str(ground)
        slug = "".join(c if c.isalnum() else "-" for c in mark)
        kept = (self.home / ".claude" / "projects", Path(f"/tmp/claude-{os.getuid()}"))
        found = [str(path) for folder in kept for path in folder.glob(f"{slug}*")]
        for name in (".claude.json", ".claude/settings.json", ".claude/settings.local.json"):
            path = self.home / name
            if path.is_file() and mark in path.read_text(errors="replace"):
                found.append(f"{path} speaks of {mark}")
        for name in (".config/fleet", ".local/state/fleet"):
            path = self.home / name
            if path not in self.existed and any(mark in p.read_text(errors="replace") for p in path.rglob("*.json")):
                found.append(f"{path}: a test's fleet lived in the person's own home")
        return found


# -- homes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def home() -> Iterator[Home]:
    """A fresh home. After the test nothing that was started in it may still live."""
    home = Home.new()
    yield home
    left = wait_gone(home.path)
    said = end_all(left)
    shutil.rmtree(home.path, ignore_errors=True)
    assert not said, "the test left this behind:\n  " + "\n  ".join(said)


@pytest.fixture
def fleet_home(home: Home) -> Iterator[Home]:
    """A fresh home in which a fleet may be started; it is shut down after the test, and must then be gone."""
    yield home
    if (home.path / "fleet").exists():
        home.fleet("shutdown")


# -- a cluster ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """One real SLURM cluster for all tests of this process."""
    folder = Path(tempfile.mkdtemp(prefix="sl"))
    with cluster(folder / "c") as made:
        yield made
    shutil.rmtree(folder, ignore_errors=True)


# -- the real program, and the model it talks to --------------------------------------------------------------------


@pytest.fixture(scope="session")
def claude_program() -> str:
    """The path of the real Claude Code program. `make test` fetches it."""
    found = claude_path()
    if found is None:
        pytest.fail("There is no Claude Code to test with: `make claude` fetches it; FLEET_TEST_CLAUDE=PATH names it.")
    return str(found)


@pytest.fixture(scope="session")
def stub_of_session() -> Iterator[Stub]:
    """One model server for all tests of this process."""
    with stub_server() as stub:
        yield stub


@pytest.fixture
def stub(stub_of_session: Stub) -> Stub:
    """The model server, as if nobody had asked it anything yet."""
    stub_of_session.reset()
    return stub_of_session
