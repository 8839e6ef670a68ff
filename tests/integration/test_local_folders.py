"""Watching folders, by the kernel and by listing; and the log of what an agent has printed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fleet.clock import SystemClock
from fleet.runtimes import files
from fleet.runtimes.folders import FolderWatch
from fleet.runtimes.logs import AgentLog, Writer
from fleet.terms import File
from tests.contract.hosts import until


@pytest.fixture(params=[True, False], ids=["kernel", "listing"])
async def folders(request: pytest.FixtureRequest) -> AsyncIterator[FolderWatch]:
    made = FolderWatch(SystemClock(), kernel=request.param)
    yield made
    await made.close()


def write(path: Path) -> None:
    files.put([File(str(path), b"x")])


async def hears(told: list[str], name: str) -> None:
    await until(lambda: name in told, f"word of {name}")


async def test_a_folder_that_is_removed_and_made_again_is_watched_on(folders: FolderWatch, tmp_path: Path) -> None:
    told: list[str] = []
    folder = tmp_path / "a" / "spool"
    folder.mkdir(parents=True)
    folders.watch(str(folder), told.append)
    write(folder / "one")
    await hears(told, "one")
    shutil.rmtree(tmp_path / "a")
    write(folder / "two")
    await hears(told, "two")
    write(folder / "three")
    await hears(told, "three")


async def test_what_is_removed_from_a_folder_is_told(folders: FolderWatch, tmp_path: Path) -> None:
    told: list[str] = []
    write(tmp_path / "spool" / "one")
    folders.watch(str(tmp_path / "spool"), told.append)
    (tmp_path / "spool" / "one").unlink()
    await hears(told, "one")


async def test_two_watches_on_one_folder_both_hear(folders: FolderWatch, tmp_path: Path) -> None:
    first: list[str] = []
    second: list[str] = []
    stop: Callable[[], None] = folders.watch(str(tmp_path / "s"), first.append)
    folders.watch(str(tmp_path / "s"), second.append)
    write(tmp_path / "s" / "one")
    await hears(first, "one")
    await hears(second, "one")
    stop()
    write(tmp_path / "s" / "two")
    await hears(second, "two")
    assert "two" not in first


@pytest.mark.parametrize("what", ["watches", "instances"])
async def test_what_the_kernel_will_not_watch_is_listed(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asyncinotify = pytest.importorskip("asyncinotify", reason="the kernel watches no folders for us here")

    def none_left(*given: object) -> None:
        raise OSError(errno.ENOSPC if what == "watches" else errno.EMFILE, "none left")

    monkeypatch.setattr(asyncinotify.Inotify, "add_watch" if what == "watches" else "__init__", none_left)
    folders = FolderWatch(SystemClock())
    told: list[str] = []
    folders.watch(str(tmp_path / "spool"), told.append)
    assert "max_user_watches" in caplog.text
    write(tmp_path / "spool" / "one")
    await hears(told, "one")
    await folders.close()


async def test_a_fault_in_one_hearer_deafens_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = FolderWatch(SystemClock())
    told: list[str] = []

    def broken(name: str) -> None:
        raise ValueError(name)

    for name, hearer in (("a", broken), ("b", told.append)):
        (tmp_path / name).mkdir()
        folders.watch(str(tmp_path / name), hearer)
    write(tmp_path / "a" / "one")
    await until(lambda: "failed" in caplog.text, "word of the fault")
    write(tmp_path / "b" / "two")
    await hears(told, "two")
    await folders.close()


def test_a_file_is_never_seen_half_written_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file"
    files.put([File(str(path), b"first", 0o600), File(str(path), b"second", 0o640)])
    assert path.read_bytes() == b"second" and path.stat().st_mode & 0o777 == 0o640
    assert path.parent.stat().st_mode & 0o777 == path.parent.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == ["file"]  # noqa: PTH208


async def test_a_log_keeps_the_newest_lines_and_stays_below_its_limit(tmp_path: Path) -> None:
    log = AgentLog(tmp_path / "web" / "log", limit=20_000, writer=Writer())
    for start in range(0, 5000, 100):
        log.add([f"line {n}" for n in range(start, start + 100)])
        await log.flush()
    assert log.last(300) == [f"line {n}" for n in range(4700, 5000)]
    sizes = [path.stat().st_size for path in (tmp_path / "web").iterdir()]
    assert sum(sizes) <= 21_000
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "web").iterdir())


async def test_what_many_agents_print_is_written_in_one_go_each_in_its_order(tmp_path: Path) -> None:
    writer = Writer()
    logs = [AgentLog(tmp_path / name / "log", 2**20, writer) for name in ("web", "api")]
    for n in range(10):
        for log in logs:
            log.add([f"line {n}"])
    await writer.flush()
    assert [log.last(100) for log in logs] == [[f"line {n}" for n in range(10)]] * 2
    logs[0].add(["later"])
    await writer.close()
    assert logs[0].last(1) == ["later"]


async def test_lines_that_cannot_be_written_are_held_and_those_of_others_are_not(tmp_path: Path) -> None:
    writer = Writer()
    (tmp_path / "web").write_text("a file where the folder should be")
    web, api = (AgentLog(tmp_path / name / "log", 2**20, writer) for name in ("web", "api"))
    web.add(["held"])
    api.add(["written"])
    await writer.flush()
    assert api.last(5) == ["written"]
    (tmp_path / "web").unlink()
    web.add(["and more"])
    await writer.flush()
    assert web.last(5) == ["held", "and more"]
    await writer.close()


async def test_a_log_knows_what_it_holds_of_which_launch(tmp_path: Path) -> None:
    log = AgentLog(tmp_path / "log", limit=2**20, writer=Writer())
    log.begin("web.1.ab", 0.0)
    log.add(["old"])
    log.begin("web.2.cd", 1.0)
    log.add(["new", "newer"])
    await log.flush()
    assert log.tail_of("web.2.cd") == ["new", "newer"]
    assert log.tail_of("web.3.ef") == []


def test_a_file_that_several_write_at_once_is_whole_and_none_of_them_fails(tmp_path: Path) -> None:
    path, texts = tmp_path / "shared", [letter * 5000 for letter in "abcdefgh"]
    with ThreadPoolExecutor(len(texts)) as writers:
        for _ in range(50):
            list(writers.map(lambda text: files.put([File(str(path), text.encode())]), texts))
    assert path.read_text() in texts and [p.name for p in tmp_path.iterdir()] == ["shared"]
