"""The database: what `write` returned is on the disk, and one write's failure is its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fleet import db
from fleet.db import Database, Migrations
from fleet.errors import NetworkFilesystem, SchemaTooNew, StorageError, StorageFull

NOTES = Migrations("notes", ("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT UNIQUE)",))
MORE_NOTES = Migrations("notes", (*NOTES.steps, "ALTER TABLE notes ADD COLUMN colour TEXT DEFAULT 'white'"))


def insert(text: str):
    return lambda connection: connection.execute("INSERT INTO notes (text) VALUES (?)", (text,)).lastrowid


def texts(connection: sqlite3.Connection) -> list[str]:
    return [row["text"] for row in connection.execute("SELECT text FROM notes ORDER BY id")]


async def test_what_was_written_is_read_by_others(tmp_path):
    database = Database.open(tmp_path / "fleet.db", [NOTES])
    assert await database.write(insert("a")) == 1
    assert await database.read(texts) == ["a"]
    assert database.read_now(texts) == ["a"]
    await database.close()


async def test_it_is_there_again_after_a_restart(tmp_path):
    first = Database.open(tmp_path / "fleet.db", [NOTES])
    await first.write(insert("a"))
    await first.close()
    second = Database.open(tmp_path / "fleet.db", [NOTES])
    assert second.read_now(texts) == ["a"]
    await second.close()


async def test_commits_go_to_the_disk_before_they_are_answered(tmp_path):
    database = Database.open(tmp_path / "fleet.db", [NOTES])
    assert await database.write(lambda c: c.execute("PRAGMA synchronous").fetchone()[0]) == 2
    assert await database.write(lambda c: c.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"
    await database.close()


async def test_writes_that_wait_together_commit_together_and_in_order(tmp_path):
    database = Database.open(tmp_path / "fleet.db", [NOTES])
    gate = threading.Event()
    first = asyncio.create_task(database.write(lambda _: gate.wait(30)))
    await asyncio.sleep(0)
    before = await database.read(lambda c: c.execute("PRAGMA data_version").fetchone()[0])
    rest = [asyncio.create_task(database.write(insert(str(n)))) for n in range(100)]
    await asyncio.sleep(0)
    gate.set()
    await first
    assert await asyncio.gather(*rest) == list(range(1, 101))
    assert await database.read(texts) == [str(n) for n in range(100)]
    assert before is not None
    await database.close()


async def test_one_that_fails_undoes_itself_only(tmp_path):
    database = Database.open(tmp_path / "fleet.db", [NOTES])

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO notes (text) VALUES ('half')")
        raise KeyError("no")

    gate = threading.Event()
    first = asyncio.create_task(database.write(lambda _: gate.wait(30)))
    await asyncio.sleep(0)
    rest = [asyncio.create_task(database.write(fn)) for fn in (insert("a"), half, insert("a"), insert("b"))]
    await asyncio.sleep(0)
    gate.set()
    await first
    one, two, three, four = await asyncio.gather(*rest, return_exceptions=True)
    assert one == 1
    assert isinstance(two, KeyError)
    assert isinstance(three, StorageError)
    assert isinstance(three.__cause__, sqlite3.IntegrityError)
    assert four == 2
    assert await database.read(texts) == ["a", "b"]
    await database.close()


async def test_one_that_fails_only_at_the_commit_undoes_itself_only(tmp_path):
    kin = Migrations(
        "kin",
        (
            "CREATE TABLE parents (id INTEGER PRIMARY KEY);"
            "CREATE TABLE children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)",
        ),
    )
    database = Database.open(tmp_path / "fleet.db", [NOTES, kin])
    gate = threading.Event()
    first = asyncio.create_task(database.write(lambda _: gate.wait(30)))
    await asyncio.sleep(0)
    rest = [
        asyncio.create_task(database.write(fn))
        for fn in (insert("a"), lambda c: c.execute("INSERT INTO children VALUES (7)").rowcount, insert("b"))
    ]
    await asyncio.sleep(0)
    gate.set()
    await first
    one, two, three = await asyncio.gather(*rest, return_exceptions=True)
    assert isinstance(two, StorageError)
    assert (one, three) == (1, 2)
    assert await database.read(texts) == ["a", "b"]
    await database.close()


async def test_a_cancelled_caller_leaves_the_others_their_answers(tmp_path):
    database = Database.open(tmp_path / "fleet.db", [NOTES])
    cancelled = asyncio.create_task(database.write(insert("a")))
    await asyncio.sleep(0)
    cancelled.cancel()
    await database.write(insert("b"))
    assert await database.read(texts) == ["a", "b"]
    await database.close()


async def test_what_waits_at_the_close_is_committed_and_later_ones_are_refused(tmp_path):
    database = Database.open(tmp_path / "fleet.db", [NOTES])
    waiting = [asyncio.create_task(database.write(insert(str(n)))) for n in range(20)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*waiting)
    with pytest.raises(StorageError, match="closed"):
        await database.write(insert("late"))
    with pytest.raises(StorageError, match="closed"):
        await database.read(texts)
    await database.close()
    again = Database.open(tmp_path / "fleet.db", [NOTES])
    assert len(again.read_now(texts)) == 20
    await again.close()


async def test_readers_cannot_write(tmp_path):
    database = Database.open(tmp_path / "fleet.db", [NOTES])
    with pytest.raises(StorageError, match="readonly"):
        await database.read(insert("a"))
    assert await database.read(texts) == []
    await database.close()


async def test_all_that_one_read_sees_is_of_one_moment(tmp_path):
    database = Database.open(tmp_path / "fleet.db", [NOTES])
    inside, written = threading.Event(), threading.Event()

    def twice(connection: sqlite3.Connection) -> tuple[list[str], list[str]]:
        before = texts(connection)
        inside.set()
        assert written.wait(30)
        return before, texts(connection)

    reading = asyncio.create_task(database.read(twice))
    await asyncio.to_thread(inside.wait, 30)
    await database.write(insert("a"))
    written.set()
    assert await reading == ([], [])
    assert await database.read(texts) == ["a"]
    await database.close()


async def test_the_files_are_the_owners_alone(tmp_path):
    database = Database.open(tmp_path / "deep" / "fleet.db", [NOTES])
    await database.write(insert("a"))
    modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in (tmp_path / "deep").iterdir()}
    assert modes == dict.fromkeys(("fleet.db", "fleet.db-wal", "fleet.db-shm"), 0o600)
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700
    await database.close()


# -- migrations ----------------------------------------------------------------------------------------------------


async def test_a_newer_fleet_migrates_and_keeps_a_backup_of_the_old(tmp_path):
    path = tmp_path / "fleet.db"
    old = Database.open(path, [NOTES])
    await old.write(insert("a"))
    await old.close()
    new = Database.open(path, [MORE_NOTES])
    assert new.read_now(lambda c: c.execute("SELECT colour FROM notes").fetchone()[0]) == "white"
    await new.close()
    backup = sqlite3.connect(tmp_path / "fleet.db.bak-1")
    assert backup.execute("SELECT * FROM notes").fetchall() == [(1, "a")]
    backup.close()
    assert stat.S_IMODE((tmp_path / "fleet.db.bak-1").stat().st_mode) == 0o600


async def test_nothing_to_migrate_makes_no_backup(tmp_path):
    for _ in range(3):
        database = Database.open(tmp_path / "fleet.db", [MORE_NOTES])
        await database.close()
    assert not list(tmp_path.glob("*.bak*"))


async def test_only_the_newest_backups_stay(tmp_path):
    path = tmp_path / "fleet.db"
    steps = list(NOTES.steps)
    for number in range(6):
        database = Database.open(path, [Migrations("notes", tuple(steps))])
        await database.close()
        steps.append(f"CREATE TABLE more_{number} (x)")
    assert sorted(found.name for found in tmp_path.glob("*.bak*")) == [f"fleet.db.bak-{n}" for n in (3, 4, 5)]


async def test_modules_are_numbered_apart_from_each_other(tmp_path):
    other = Migrations("other", ("CREATE TABLE other (x)", "CREATE TABLE other_too (x)"))
    first = Database.open(tmp_path / "fleet.db", [NOTES])
    await first.close()
    second = Database.open(tmp_path / "fleet.db", [other, NOTES])
    names = second.read_now(
        lambda c: {row[0] for row in c.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    )
    assert {"notes", "other", "other_too"} <= names
    await second.close()


async def test_a_migration_that_fails_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "fleet.db"
    first = Database.open(path, [NOTES])
    await first.close()
    broken = Migrations("notes", (*NOTES.steps, "CREATE TABLE half (x)", "CREATE NONSENSE"))
    with pytest.raises(StorageError, match="NONSENSE"):
        Database.open(path, [broken])
    again = Database.open(path, [NOTES])
    assert again.read_now(lambda c: c.execute("SELECT 1 FROM sqlite_master WHERE name='half'").fetchone()) is None
    await again.close()


async def test_a_step_may_be_a_function_or_hold_triggers(tmp_path):
    steps = (
        "CREATE TABLE a (x); CREATE TABLE seen (x);"
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN INSERT INTO seen VALUES (new.x); UPDATE a SET x = 0; END;",
        lambda connection: connection.execute("INSERT INTO a VALUES (';')"),
    )
    database = Database.open(tmp_path / "fleet.db", [Migrations("m", steps)])
    assert database.read_now(lambda c: [tuple(row) for row in c.execute("SELECT x FROM seen")]) == [(";",)]
    await database.close()


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "fleet.db"
    new = Database.open(path, [MORE_NOTES])
    await new.write(insert("a"))
    await new.close()
    with pytest.raises(SchemaTooNew, match="newer fleet"):
        Database.open(path, [NOTES])
    with pytest.raises(SchemaTooNew, match="'notes' schema is 2"):
        Database.open(path, [])
    again = Database.open(path, [MORE_NOTES])
    assert again.read_now(texts) == ["a"]
    await again.close()
    assert not list(tmp_path.glob("*.bak*"))


# -- bad days ------------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_told_with_its_remedy(tmp_path):
    path = tmp_path / "fleet.db"
    path.write_bytes(b"not a database, but longer than its header would be" * 100)
    with pytest.raises(StorageError, match="damaged") as caught:
        Database.open(path, [NOTES])
    assert "There is no backup" in caught.value.hint
    assert "start your agents again" in caught.value.hint
    for number in (2, 10, 9):
        (tmp_path / f"fleet.db.bak-{number}").write_bytes(b"")
    with pytest.raises(StorageError, match="damaged") as caught:
        Database.open(path, [NOTES])
    assert caught.value.hint.endswith(str(tmp_path / "fleet.db.bak-10"))
    assert path.read_bytes().startswith(b"not a database")


def test_a_network_file_system_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(db, "_filesystem_type", lambda folder: 0x6969)
    with pytest.raises(NetworkFilesystem, match="nfs") as caught:
        Database.open(tmp_path / "fleet.db", [NOTES])
    assert "database_folder" in caught.value.hint
    assert not (tmp_path / "fleet.db").exists()


def test_a_local_folder_holds_the_databases_of_several_fleets_apart(tmp_path):
    one, two = tmp_path / "one" / "fleet.db", tmp_path / "two" / "fleet.db"
    assert db.place(one, "") == one
    places = {db.place(path, str(tmp_path / "local")) for path in (one, two, one)}
    assert len(places) == 2
    assert {path.parent for path in places} == {tmp_path / "local"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="statfs numbers are Linux's own")
def test_the_kernels_word_about_a_file_system_is_read():
    assert db._filesystem_type(Path("/proc")) == 0x9FA0
    assert db._filesystem_type(Path("/nowhere/at/all")) is None


async def test_a_full_disk_is_told_and_it_goes_on_once_there_is_space(tmp_path):
    database = Database.open(tmp_path / "fleet.db", [NOTES])
    await database.write(insert("before"))
    await database.write(lambda c: c.execute("PRAGMA max_page_count = 20").fetchone())
    small = asyncio.create_task(database.write(insert("small")))
    big = asyncio.create_task(database.write(insert("x" * 1_000_000)))
    with pytest.raises(StorageFull, match="full"):
        await big
    await small
    await database.write(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone())
    await database.write(insert("y" * 1_000_000))
    assert [text[:6] for text in await database.read(texts)] == ["before", "small", "yyyyyy"]
    await database.close()


async def test_a_write_whose_commit_fails_has_no_result(tmp_path):
    database = Database.open(tmp_path / "fleet.db", [NOTES])

    def orphan(connection):
        connection.execute("CREATE TABLE IF NOT EXISTS known (id INTEGER PRIMARY KEY)")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS told (id INTEGER REFERENCES known (id) DEFERRABLE INITIALLY DEFERRED)"
        )
        connection.execute("INSERT INTO told VALUES (7)")
        return "written"

    went = asyncio.get_running_loop().create_future()
    database.submit(orphan, lambda result, error: went.set_result((result, error)))
    result, error = await went
    assert result is None
    assert isinstance(error, StorageError)
    await database.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from fleet.db import Database, Migrations
NOTES = Migrations("notes", ("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT UNIQUE)",))
async def main():
    database = Database.open(Path(sys.argv[1]), [NOTES])
    async def one(who):
        n = 0
        while True:
            text = f"{who}-{n}"
            await database.write(lambda c: c.execute("INSERT INTO notes (text) VALUES (?)", (text,)))
            print(text, flush=True)
            n += 1
    await asyncio.gather(*(one(who) for who in range(8)))
asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill(tmp_path):
    path = tmp_path / "fleet.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(db.__file__).parents[1])},
    )
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline().strip() for _ in range(300)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    writer.wait()
    writer.stdout.close()
    assert len(acknowledged) >= 300
    database = Database.open(path, [NOTES])
    kept = await database.read(texts)
    assert set(acknowledged) <= set(kept)
    assert database.read_now(lambda c: c.execute("PRAGMA integrity_check").fetchone()[0]) == "ok"
    await database.close()


async def test_a_copy_taken_with_its_log_opens_too(tmp_path):
    """What a snapshot of the folder at any moment holds: the file and its log, nothing closed."""
    database = Database.open(tmp_path / "fleet.db", [NOTES])
    await database.write(insert("a"))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("fleet.db", "fleet.db-wal"):
        shutil.copy(tmp_path / name, copy / name)
    await database.close()
    snapshot = Database.open(copy / "fleet.db", [NOTES])
    assert snapshot.read_now(texts) == ["a"]
    await snapshot.close()


def pause(pauses: db._Pauses) -> None:
    """Nobody writes for as long as there is something to do."""
    while pauses.due is not None:
        pauses.use()


async def test_where_commits_are_waited_for_there_is_room_for_them_from_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(db, "LOG_PAGES", 600)
    monkeypatch.setattr(db, "ROOM_AT_ONCE", 1_000_000)
    log = tmp_path / "fleet.db-wal"
    for text in ("a", "b"):  # a new file, and one that was left in order: its log is gone then
        assert not log.exists()
        database = Database.open(tmp_path / "fleet.db", [NOTES], roomy=True)
        assert log.stat().st_size == 600 * db.FRAME
        await database.write(insert(text))
        assert log.stat().st_size == 600 * db.FRAME
        copy = tmp_path / text
        copy.mkdir()
        for name in ("fleet.db", "fleet.db-wal"):
            shutil.copy(tmp_path / name, copy / name)
        await database.close()
    after_a_kill = Database.open(copy / "fleet.db", [NOTES], roomy=True)
    assert (copy / "fleet.db-wal").stat().st_size == 600 * db.FRAME
    assert after_a_kill.read_now(texts) == ["a", "b"]
    assert after_a_kill.read_now(lambda c: c.execute("PRAGMA integrity_check").fetchone()[0]) == "ok"
    await after_a_kill.close()


async def test_no_room_is_made_on_a_disk_that_has_little_nor_where_nobody_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(db, "PLENTY", 10**9)
    for name, roomy in (("little.db", True), ("else.db", False)):
        database = Database.open(tmp_path / name, [NOTES], roomy=roomy)
        await database.write(insert("a"))
        assert (tmp_path / f"{name}-wal").stat().st_size < 100 * db.FRAME
        await database.close()


async def test_room_that_cannot_be_made_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        database = Database.open(tmp_path / "fleet.db", [NOTES], roomy=True)
    assert (tmp_path / "fleet.db-wal").stat().st_size < 100 * db.FRAME
    await database.write(insert("a"))
    assert await database.read(texts) == ["a"]
    await database.close()


def test_a_pause_after_many_writes_brings_the_log_into_the_file(tmp_path):
    path = tmp_path / "fleet.db"
    path.touch()
    with contextlib.closing(db._connect(path, read_only=False)) as connection:
        pauses = db._Pauses(connection)
        connection.execute("CREATE TABLE notes (text TEXT)")
        connection.execute("INSERT INTO notes VALUES (?)", ("x" * 100_000,))
        pauses.written(db.WORTH_IT - 1)
        assert pauses.due is None
        pauses.written(1)
        assert pauses.due == db.REST
        assert path.stat().st_size < 100_000
        pause(pauses)
        assert path.stat().st_size > 100_000
