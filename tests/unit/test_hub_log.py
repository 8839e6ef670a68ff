"""The hub's log: what was accepted is there, once, in order, for everybody the same."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading

import pytest

from fleet import db
from fleet.db import Migrations
from fleet.errors import NetworkFilesystem, NotAllowed
from fleet.hub import log as log_module
from fleet.hub.log import New, NotStored, Projection, SqliteLog, back_up, verify, wal_reset_bug
from fleet.testing import TurnedClock

NOW = 1_800_000_000.0


class Logs:
    """Opens logs, and closes them at the end."""

    def __init__(self, folder):
        self.folder = folder
        self.clock = TurnedClock(NOW)
        self.opened = []

    async def open(self, *projections, name="hub.db", **settings):
        settings.setdefault("reserve", 0)
        log = await SqliteLog.open(self.folder / name, self.clock, projections, **settings)
        self.opened.append(log)
        return log


@pytest.fixture
async def logs(tmp_path):
    made = Logs(tmp_path)
    yield made
    for log in made.opened:
        await log.close()


def said(text="hello", *, stream="lab/#general", sender="lab/alice", key=None):
    return New.of(stream, "message", sender, {"text": text}, key)


def everything(log):
    return log.database.read(lambda c: log_module.events_after(c, 0, 10_000))


async def test_what_was_appended_is_there_in_its_order_with_rising_numbers(logs):
    log = await logs.open()
    assert [s.seq for s in await log.append([said("a"), said("b")])] == [1, 2]
    assert await log.append([said("c")]) == [(3, False)]
    assert [(e.seq, e.data["text"], e.stream, e.sender, e.at) for e in await everything(log)] == [
        (1, "a", "lab/#general", "lab/alice", NOW),
        (2, "b", "lab/#general", "lab/alice", NOW),
        (3, "c", "lab/#general", "lab/alice", NOW),
    ]


async def test_a_key_is_good_once_per_sender_and_a_repeat_is_told_where_the_first_is(logs):
    log = await logs.open()
    assert await log.append([said("a", key="k"), said("to bob", stream="lab/@bob")]) == [(1, False), (2, False)]
    assert await log.append([said("again", key="k"), said("to bob", stream="lab/@bob")]) == [(1, True), (2, True)]
    assert await log.append([said("mine", key="k", sender="lab/bob")]) == [(3, False)]
    assert [e.data["text"] for e in await everything(log)] == ["a", "to bob", "mine"]


async def test_the_same_key_many_times_at_once_is_one_event(logs):
    log = await logs.open()
    stored = await asyncio.gather(*(log.append([said(str(n), key="k")]) for n in range(50)))
    assert {s[0].seq for s in stored} == {1}
    assert sorted(s[0].duplicate for s in stored) == [False] + [True] * 49
    assert log.head == 1


async def test_a_key_is_known_after_a_restart_and_after_its_event_is_gone(logs):
    log = await logs.open()
    await log.append([said("a", key="k")])
    assert await log.trim(NOW + 1, 0) == 1
    await log.close()
    again = await logs.open()
    assert await again.append([said("a", key="k")]) == [(1, True)]
    assert await again.append([said("b")]) == [(2, False)]


async def test_appends_from_many_tasks_share_commits_and_leave_no_gap(logs):
    log = await logs.open()
    commits = 0

    def count(*_):
        nonlocal commits
        commits += 1

    log.tail(0, count)
    gate = threading.Event()  # the disk is busy until all of them are there
    held = asyncio.create_task(log.database.write(lambda _: gate.wait(30)))
    await asyncio.sleep(0)
    appends = [asyncio.create_task(log.append([said(str(n)), said(f"{n}b")])) for n in range(200)]
    await asyncio.sleep(0)
    gate.set()
    await held
    stored = await asyncio.gather(*appends)
    assert sorted(s.seq for batch in stored for s in batch) == list(range(1, 401))
    assert all(second.seq == first.seq + 1 for first, second in stored)
    assert commits < 20


async def test_only_the_first_event_of_an_append_has_a_key(logs):
    log = await logs.open()
    with pytest.raises(ValueError, match="only the first"):
        await log.append([said("a"), said("b", key="k")])
    for odd in (said(key=""), said(stream="lab/#a\0b")):
        with pytest.raises(ValueError):
            await log.append([odd])
    with pytest.raises(UnicodeEncodeError):
        await log.append([said(sender="lab/\ud800")])
    assert await log.append([]) == []
    assert log.head == 0


async def test_time_never_falls(logs):
    log = await logs.open()
    await log.append([said("a")])
    await logs.clock.turn(-3600)
    await log.append([said("b")])
    assert [e.at for e in await everything(log)] == [NOW, NOW]


async def test_a_caller_who_gives_up_leaves_the_event_to_be_stored(logs):
    log = await logs.open()
    gate = threading.Event()
    held = asyncio.create_task(log.database.write(lambda _: gate.wait(30)))
    await asyncio.sleep(0)
    asked = asyncio.create_task(log.append([said("a")]))
    await asyncio.sleep(0)
    asked.cancel()
    gate.set()
    await held
    await log.append([said("b")])
    assert [e.data["text"] for e in await everything(log)] == ["a", "b"]


# -- the tail ------------------------------------------------------------------------------------------------------


async def test_the_tail_is_told_everything_once_and_in_order_before_the_sender_hears(logs):
    log = await logs.open()
    await log.append([said("before")])
    told = []
    log.tail(1, told.extend)

    async def send(n):
        [stored] = await log.append([said(str(n))])
        assert stored.seq in {e.seq for e in told}

    await asyncio.gather(*(send(n) for n in range(100)))
    assert [e.seq for e in told] == list(range(2, 102))


async def test_a_tail_that_begins_in_the_past_reads_up_and_goes_on_live(logs, monkeypatch):
    monkeypatch.setattr(log_module, "PAGE", 7)
    log = await logs.open()
    await log.append([said(str(n)) for n in range(50)])
    told = []
    log.tail(3, told.extend)
    await asyncio.gather(*(log.append([said(f"live {n}")]) for n in range(30)))
    await log.close()  # waits for the tail
    assert [e.seq for e in told] == list(range(4, 81))


async def test_there_is_one_tail(logs):
    log = await logs.open()
    log.tail(0, list)
    with pytest.raises(RuntimeError):
        log.tail(0, list)


async def test_a_reader_that_fails_does_not_stop_the_tail_nor_the_senders(logs, caplog):
    log = await logs.open()
    told = []

    def reader(events):
        told.extend(events)
        if len(told) == 1:
            raise KeyError("no")

    log.tail(0, reader)
    await log.append([said("a")])
    await log.append([said("b")])
    assert [e.data["text"] for e in told] == ["a", "b"]
    assert "the tail's reader failed at events 1 to 1" in caplog.text


# -- projections ---------------------------------------------------------------------------------------------------


def counted(*, name="counted", poison=None, held=None):
    def project(connection, events):
        for event in events:
            if event.data.get("text") == poison:
                raise KeyError(poison)
            connection.execute(f"INSERT INTO {name} VALUES (?, ?)", (event.seq, event.data.get("text")))

    table = f"CREATE TABLE {name} (seq INTEGER PRIMARY KEY, text TEXT)"
    return Projection(Migrations(name, (table,)), project, held=held)


def rows(log, name="counted"):
    return log.database.read(lambda c: [tuple(r) for r in c.execute(f"SELECT * FROM {name} ORDER BY seq")])


async def test_what_the_tail_shows_is_projected_already(logs):
    log = await logs.open(counted())
    found = []
    log.tail(
        0,
        lambda events: found.append(
            (events, log.database.read_now(lambda c: c.execute("SELECT count(*) FROM counted").fetchone()[0]))
        ),
    )
    await asyncio.gather(*(log.append([said(str(n))]) for n in range(20)))
    assert sum(len(events) for events, _ in found) == 20
    assert all(there >= events[-1].seq for events, there in found)


async def test_one_event_that_cannot_be_projected_fails_alone(logs):
    log = await logs.open(counted(poison="bad"))
    gate = threading.Event()
    held = asyncio.create_task(log.database.write(lambda _: gate.wait(30)))
    await asyncio.sleep(0)
    asked = [asyncio.create_task(log.append([said(text)])) for text in ("a", "bad", "b")]
    await asyncio.sleep(0)
    gate.set()
    await held
    one, two, three = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(two, KeyError)
    assert (one, three) == ([(1, False)], [(2, False)])
    assert await rows(log) == [(1, "a"), (2, "b")]
    assert verify(log.database.path).ok


async def test_of_several_appends_each_is_for_itself_and_all_are_told_together(logs):
    log = await logs.open(counted(poison="bad"))
    await log.append([said("known", key="k")])
    told = asyncio.get_running_loop().create_future()
    log.submit_each([[said("a")], [said("bad")], [said("known", key="k")], [said("b"), said("c")]], told.set_result)
    one, two, three, four = await told
    assert isinstance(two, KeyError)
    assert (one, three, four) == ([(2, False)], [(1, True)], [(3, False), (4, False)])
    assert await rows(log) == [(1, "known"), (2, "a"), (3, "b"), (4, "c")]
    assert verify(log.database.path).ok


async def test_several_appends_to_a_log_that_is_closed_are_all_refused(logs):
    log = await logs.open()
    await log.close()
    told = []
    log.submit_each([[said("a")], [said("b")]], told.append)
    assert [[type(one) for one in went] for went in told] == [[NotStored, NotStored]]


async def test_what_could_be_written_and_not_be_committed_is_not_stored(logs):
    tables = """
        CREATE TABLE known (id TEXT PRIMARY KEY);
        CREATE TABLE told (id TEXT REFERENCES known (id) DEFERRABLE INITIALLY DEFERRED);
    """

    def project(connection, events):
        connection.executemany(
            "INSERT INTO told VALUES (?)", [[e.data["text"]] for e in events if e.data["text"] == "bad"]
        )

    log = await logs.open(Projection(Migrations("told", (tables,)), project))
    shown = []
    log.tail(0, shown.extend)
    await log.append([said("one")])
    with pytest.raises(NotStored):
        await log.append([said("bad")])
    went = await asyncio.gather(*(log.append([said(text)]) for text in ("two", "bad", "three")), return_exceptions=True)
    assert [isinstance(one, NotStored) for one in went] == [False, True, False]
    assert [event.data["text"] for event in shown] == ["one", "two", "three"]
    assert log.head == 3
    assert verify(log.database.path).ok


async def test_a_projection_that_is_new_to_a_log_is_filled_from_it_once(logs, monkeypatch):
    monkeypatch.setattr(log_module, "PAGE", 3)
    first = await logs.open()
    await first.append([said(str(n)) for n in range(10)])
    await first.close()
    for _ in range(2):
        log = await logs.open(counted())
        assert len(await rows(log)) == 10
        await log.close()


async def test_a_projection_whose_filling_was_cut_off_goes_on_where_it_was(logs, monkeypatch):
    monkeypatch.setattr(log_module, "PAGE", 3)
    first = await logs.open()
    await first.append([said(str(n)) for n in range(10)])
    await first.close()
    with pytest.raises(KeyError):
        await logs.open(counted(poison="7"))
    log = await logs.open(counted())
    assert [seq for seq, _ in await rows(log)] == list(range(1, 11))


# -- retention -----------------------------------------------------------------------------------------------------


async def test_retention_by_age_takes_the_old_and_leaves_what_is_kept(logs):
    log = await logs.open()
    await log.append([said("old"), said("paused", stream="lab/!audit"), said("0.10", stream="lab/!cost")])
    await log.append([said("seen", stream="!audit")])
    await logs.clock.turn(100)
    await log.append([said("young")])
    assert await log.trim(NOW + 50, 10**9) == 1
    assert [e.data["text"] for e in await everything(log)] == ["paused", "0.10", "seen", "young"]
    assert verify(log.database.path).ok


async def test_retention_by_size_takes_the_oldest_until_the_rest_fits(logs):
    log = await logs.open()
    await log.append([said(f"{n:01000}") for n in range(600)])
    await log.append([said("kept", stream="lab/!audit")])
    await log.trim(0, 100_000)
    left = await everything(log)
    assert 70 < len(left) < 100
    assert [e.seq for e in left] == list(range(left[0].seq, 602))
    assert verify(log.database.path).ok


async def test_retention_leaves_what_is_held_until_it_is_let_go(logs):
    log = await logs.open(counted(held="EXISTS (SELECT 1 FROM counted WHERE counted.seq = log.seq AND text = 'waits')"))
    await log.append([said("a"), said("waits"), said("b")])
    assert await log.trim(NOW + 1, 0) == 2
    assert [e.data["text"] for e in await everything(log)] == ["waits"]
    assert await log.trim(NOW + 1, 0) == 0
    await log.database.write(lambda c: c.execute("UPDATE counted SET text = 'read'").rowcount)
    assert await log.trim(NOW + 1, 0) == 1
    assert await everything(log) == []
    assert await log.append([said("next")]) == [(4, False)]
    assert verify(log.database.path).ok


# -- which log it is -----------------------------------------------------------------------------------------------


async def test_the_epoch_stays_over_restarts_and_is_new_for_a_new_log(logs):
    log = await logs.open()
    epoch = log.epoch
    await log.append([said("a")])
    await log.close()
    again = await logs.open()
    assert (again.epoch, again.head, str(again.position)) == (epoch, 1, f"{epoch}:1")
    await again.close()
    for part in logs.folder.glob("hub.db*"):
        part.unlink()
    assert (await logs.open()).epoch != epoch


async def test_a_restored_backup_is_a_new_epoch_and_the_audit_says_so(logs):
    log = await logs.open()
    await log.append([said("a")])
    await log.back_up(logs.folder / "copy.db")
    await log.close()
    (logs.folder / "copy.db").rename(logs.folder / "hub.db")
    again = await logs.open()
    assert again.epoch != log.epoch
    *_, fact = await everything(again)
    assert (fact.stream, fact.kind, fact.data["was"], fact.data["head"]) == ("!audit", "restored", log.epoch, 1)
    await again.close()
    assert (await logs.open()).epoch == again.epoch


async def test_an_older_file_put_back_by_hand_is_a_new_epoch(logs):
    log = await logs.open()
    await log.append([said("a")])
    await log.close()
    old = (logs.folder / "hub.db").read_bytes()
    log = await logs.open()
    await log.append([said("b"), said("c")])
    await log.close()
    (logs.folder / "hub.db").write_bytes(old)
    again = await logs.open()
    assert again.epoch != log.epoch
    assert (await everything(again))[-1].data == {"epoch": again.epoch, "was": log.epoch, "head": 1, "was_at": 3}


async def test_the_same_file_put_back_is_the_same_log(logs):
    log = await logs.open()
    await log.append([said("a")])
    await log.close()
    same = (logs.folder / "hub.db").read_bytes()
    (logs.folder / "hub.db").write_bytes(same)
    assert (await logs.open()).epoch == log.epoch


# -- copies and proofs ---------------------------------------------------------------------------------------------


async def test_a_backup_made_while_others_write_is_whole(logs):
    log = await logs.open()
    await log.append([said(str(n), key=None) for n in range(2000)])
    writing = asyncio.gather(*(log.append([said(f"more {n}", key=str(n))]) for n in range(300)))
    await log.back_up(logs.folder / "copy.db")
    await writing
    copy = verify(logs.folder / "copy.db")
    assert copy.ok
    assert 2000 <= copy.events <= 2300
    assert copy.epoch == log.epoch
    assert (logs.folder / "copy.db").stat().st_mode & 0o777 == 0o600
    with pytest.raises(NotAllowed):
        await log.back_up(logs.folder / "copy.db")


async def test_a_backup_that_cannot_be_made_leaves_nothing(logs):
    log = await logs.open()
    with pytest.raises(db.StorageError):
        back_up(log.database.path, logs.folder / "nowhere" / "copy.db")
    assert sorted(p.name for p in logs.folder.glob("*.part")) == []


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        ("UPDATE log SET body = x'7b7d' WHERE seq = 5", "event 5 is not what was stored"),
        ("UPDATE log SET sender = 'lab/mallory' WHERE seq = 5", "event 5 is not what was stored"),
        ("UPDATE log SET at = at + 1 WHERE seq = 5", "event 5 is not what was stored"),
        ("DELETE FROM log WHERE seq = 5", "events 5 to 5 are missing"),
        ("DELETE FROM log WHERE seq = 12", "the log ends at 11"),
        ("DELETE FROM log_keys", "event 1: its key is not noted"),
        ("UPDATE log SET stream = 'lab/#x' WHERE stream = 'lab/!audit'", "is not what was stored"),
        ("DELETE FROM log WHERE stream = 'lab/!audit'", "one before it is missing"),
    ],
)
async def test_what_was_tampered_with_is_found(logs, tampering, found):
    log = await logs.open()
    await log.append([said("first", key="k")])
    await log.append([said("who", stream="lab/!audit"), said("b"), said("when", stream="lab/!cost")])
    await log.append([said(str(n)) for n in range(8)])
    assert verify(log.database.path).ok
    await log.close()
    with sqlite3.connect(logs.folder / "hub.db") as connection:
        connection.execute(tampering)
    connection.close()
    looked = verify(logs.folder / "hub.db")
    assert not looked.ok
    assert any(found in problem for problem in looked.problems), looked.problems


async def test_an_audit_that_was_touched_is_found_after_retention_took_the_rest(logs):
    log = await logs.open()
    for n in range(5):
        await log.append([said(str(n)), said(f"act {n}", stream="lab/!audit")])
    await log.trim(NOW + 1, 0)
    assert verify(log.database.path).events == 5
    assert verify(log.database.path).ok
    await log.database.write(lambda c: c.execute("DELETE FROM log WHERE seq = 4").rowcount)
    assert any("event 6 of lab/!audit" in problem for problem in verify(log.database.path).problems)


# -- a disk that cannot --------------------------------------------------------------------------------------------


def pages(log, most):
    return log.database.write(lambda c: c.execute(f"PRAGMA max_page_count = {most}").fetchone()[0])


async def test_a_full_disk_is_an_answer_and_it_goes_on_once_there_is_space(logs):
    log = await logs.open()
    await log.append([said("a", key="a")])
    await pages(log, 1)  # SQLite takes the size that it has
    with pytest.raises(NotStored) as refused:
        await log.append([said("x" * 100_000, key="b")])
    assert refused.value.code == "not_stored"
    assert log.read_only
    await pages(log, 1_000_000)
    assert await log.append([said("x" * 100_000, key="b")]) == [(2, False)]
    assert not log.read_only
    assert verify(log.database.path).ok


async def test_while_the_disk_is_full_only_the_audit_is_written(logs):
    room = 10**9
    log = await logs.open(reserve=4096, free=lambda folder: room)
    reserve = logs.folder / "hub.db-reserve"
    assert reserve.stat().st_size == 4096
    await pages(log, 1)
    room = 0
    with pytest.raises(NotStored):
        await log.append([said("x" * 100_000)])
    assert not reserve.exists()
    await pages(log, 1_000_000)
    with pytest.raises(NotStored, match="only reads"):
        await log.append([said("small")])
    assert await log.append([said("refused", stream="lab/!audit")]) == [(1, False)]
    room = 10**9
    assert await log.append([said("small")]) == [(2, False)]
    assert reserve.stat().st_size == 4096


async def test_retention_makes_room_on_a_full_disk(logs):
    log = await logs.open(reserve=100_000, free=lambda folder: 0)
    await log.append([said("x" * 1000) for _ in range(500)])
    await pages(log, 1)
    with pytest.raises(NotStored):
        await log.append([said("x" * 100_000)])
    await pages(log, 1_000_000)
    with pytest.raises(NotStored, match="only reads"):
        await log.append([said("small")])
    await log.trim(0, 50_000)
    assert await log.append([said("small")]) == [(501, False)]


async def test_a_closed_log_refuses(logs):
    log = await logs.open()
    waiting = asyncio.gather(*(log.append([said(str(n))]) for n in range(10)))
    await asyncio.sleep(0)
    await log.close()
    assert len(await waiting) == 10
    with pytest.raises(NotStored):
        await log.append([said("late")])


async def test_a_network_mount_is_refused(logs, monkeypatch):
    monkeypatch.setattr(db, "_filesystem_type", lambda folder: 0x6969)
    with pytest.raises(NetworkFilesystem, match="nfs"):
        await logs.open()


def test_the_wal_reset_bug_is_told_by_name():
    assert wal_reset_bug((3, 51, 3)) is None
    assert wal_reset_bug((3, 52, 0)) is None
    for version in ((3, 51, 2), (3, 40, 1)):
        told = wal_reset_bug(version)
        assert told is not None
        assert "WAL-reset bug" in told
        assert ".".join(map(str, version)) in told


# -- leases --------------------------------------------------------------------------------------------------------


async def test_a_lease_is_one_owners_until_it_runs_out_or_is_given_back(logs):
    log = await logs.open()
    first = await log.acquire("leader", "one", 10)
    assert first is not None
    assert await log.acquire("leader", "two", 10) is None
    assert await log.renew(first, 10)
    await logs.clock.turn(11)
    assert not await log.renew(first, 10)
    second = await log.acquire("leader", "two", 10)
    assert second is not None
    assert second.token > first.token
    await log.release(first)  # late: it changes nothing
    assert await log.acquire("leader", "one", 10) is None
    await log.release(second)
    third = await log.acquire("leader", "one", 10)
    assert third is not None
    assert third.token > second.token


async def test_an_owner_that_asks_again_gets_a_higher_token_and_the_old_one_is_fenced(logs):
    log = await logs.open()
    first = await log.acquire("leader", "one", 10)
    second = await log.acquire("leader", "one", 10)
    assert first is not None
    assert second is not None
    assert second.token > first.token
    assert not await log.renew(first, 10)
    assert await log.renew(second, 10)


async def test_a_body_is_kept_byte_for_byte(logs):
    log = await logs.open()
    body = json.dumps({"text": "schön 👋 \u0000 \\"}, indent=3).encode()
    await log.append([New("lab/#general", "message", "lab/alice", body)])
    [event] = await everything(log)
    assert event.body == body
