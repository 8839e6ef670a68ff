"""The spool's reader: in order, whole, nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fleet import spool
from fleet.errors import StorageFull
from fleet.spool import Drain
from fleet.terms import HookEvent


def leave(folder: Path, name: str, content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.fixture
def web(tmp_path):
    return tmp_path / "web"


def test_an_event_carries_what_its_file_name_and_content_say(web):
    path = leave(web, "web.17.k3f9,4711,123.45,4800", {"hook_event_name": "Stop", "session_id": "s"})
    os.utime(path, (1000.5, 1000.5))
    assert spool.read(web) == [
        HookEvent(
            key="web/web.17.k3f9,4711,123.45,4800",
            agent="web",
            name="Stop",
            at=1000.5,
            generation="web.17.k3f9",
            pid=4711,
            payload={"hook_event_name": "Stop", "session_id": "s"},
        )
    ]


def test_no_folder_and_an_empty_one_hold_nothing(web):
    assert spool.read(web) == []
    web.mkdir()
    assert spool.read(web) == []


def test_events_come_in_the_order_of_the_clock_then_of_the_processes(web):
    for clock, hook in (("9.50", 7), ("10.00", 12), ("10.00", 9), ("100.00", 1), ("9.51", 3)):
        leave(web, f"g,1,{clock},{hook}", {"n": f"{clock}/{hook}"})
    assert [event.payload["n"] for event in spool.read(web)] == ["9.50/7", "9.51/3", "10.00/9", "10.00/12", "100.00/1"]


def test_process_numbers_that_begin_again_from_below_come_last_in_their_tick(web):
    for hook in (4194302, 300, 4194303, 301):
        leave(web, f"g,1,10.00,{hook}", {"n": hook})
    assert [event.payload["n"] for event in spool.read(web)] == [4194302, 4194303, 300, 301]


def test_a_session_that_fleet_did_not_launch_has_no_generation(web):
    leave(web, "_0908a91f,0,1.00,2", {})
    (event,) = spool.read(web)
    assert (event.generation, event.pid) == (None, None)


def test_the_word_of_the_caller_names_the_event_then_the_programs_own_then_none(web):
    leave(web, "g,1,1.00,1,PreToolUse", {"hook_event_name": "Other"})
    leave(web, "g,1,2.00,1", {"hook_event_name": "MessageDisplay"})
    leave(web, "g,1,3.00,1", {"hook_event_name": ["no", "name"]})
    leave(web, "g,1,4.00,1", {"hook_event_name": "a name\nwith a line"})
    leave(web, "g,1,5.00,1,never-heard-of", {})
    assert [event.name for event in spool.read(web)] == [
        "PreToolUse", "MessageDisplay", "Other", "Other", "never-heard-of",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "payload"),
    [
        (b'{"torn": "in the mid', {"raw": '{"torn": "in the mid'}),
        (b"", {"raw": ""}),
        (b"[1, 2]", {"raw": "[1, 2]"}),
        (b'"text"', {"raw": '"text"'}),
        (b"hello", {"raw": "hello"}),
        (b'{"a": "\xff"}', {"raw": '{"a": "\\xff"}'}),
        (b"\x00\x01\xff", {"raw_base64": "AAH/"}),
        (b'{"a": NaN}', {"a": "NaN"}),
        (b'{"a": "\\ud800"}', {"a": "\ud800"}),
        (b'{"n": ' + b"9" * 5000 + b"}", {"raw": '{"n": ' + "9" * 5000 + "}"}),
        (b'{"a":' * 200_000, {"raw": '{"a":' * 200_000}),
    ],
)
def test_what_is_no_json_object_is_an_event_too(web, content, payload):
    leave(web, "g,1,1.00,1", content)
    leave(web, "g,1,2.00,1", {"after": True})
    assert [event.payload for event in spool.read(web)] == [payload, {"after": True}]


def test_what_is_being_written_or_is_no_event_is_left_alone(web):
    leave(web, ".g,1,1.00,1", b'{"half')
    leave(web, "notes.txt", b"mine")
    (web / "g,1,2.00,1").mkdir()
    (web / "g,1,3.00,1").symlink_to("/etc/passwd")
    os.mkfifo(web / "g,1,4.00,1")
    assert spool.read(web) == []
    assert len(list(web.iterdir())) == 5


def test_litter_goes_when_it_is_old(web):
    now = 10_000.0
    for name in (".g,1,1.00,1", "notes.txt", ".young", "g,1,9.00,1"):
        os.utime(leave(web, name, {}), (now - 7200, now - 7200))
    os.utime(web / ".young", (now - 10, now - 10))
    assert sorted(spool.sweep(web, now=now)) == [".g,1,1.00,1", "notes.txt"]
    assert sorted(path.name for path in web.iterdir()) == [".young", "g,1,9.00,1"]
    assert spool.sweep(web / "nowhere", now=now) == []


def test_much_content_is_taken_in_parts(web, monkeypatch):
    monkeypatch.setattr(spool, "BATCH_BYTES", 100)
    monkeypatch.setattr(spool, "BATCH_FILES", 3)
    for number in range(7):
        leave(web, f"g,1,{number}.00,1", {"n": number, "pad": "x" * (200 if number == 4 else 1)})
    parts = [[event.payload["n"] for _, event in batch] for batch in spool.batches(spool.found(web))]
    assert parts == [[0, 1, 2], [3], [4], [5, 6]]


# -- into the store ------------------------------------------------------------------------------------------------


class Shelf:
    """A store that keeps each key once, and refuses when it is told to."""

    def __init__(self) -> None:
        self.kept: dict[str, HookEvent] = {}
        self.full = False

    async def keep(self, hooks):
        if self.full:
            raise StorageFull
        for hook in hooks:
            self.kept.setdefault(hook.key, hook)
        return list(hooks)


async def test_a_drained_event_is_stored_and_then_deleted(tmp_path):
    shelf = Shelf()
    leave(tmp_path / "web", "g,1,1.00,1", {"n": 1})
    leave(tmp_path / "db", "g,1,2.00,1", {"n": 2})
    drained = await Drain(tmp_path, shelf).drain("web")
    assert [event.payload["n"] for event in drained] == [1]
    assert list(shelf.kept) == ["web/g,1,1.00,1"]
    assert not list((tmp_path / "web").iterdir())
    assert len(list((tmp_path / "db").iterdir())) == 1


async def test_without_a_name_all_agents_are_drained(tmp_path):
    shelf = Shelf()
    for agent in ("a", "b", "c"):
        leave(tmp_path / agent, "g,1,1.00,1", {})
    assert [event.agent for event in await Drain(tmp_path, shelf).drain()] == ["a", "b", "c"]
    assert await Drain(tmp_path / "nowhere", shelf).drain() == []


async def test_a_folder_found_empty_is_read_again_once_it_has_changed(tmp_path, monkeypatch):
    drain, read = Drain(tmp_path, Shelf()), []
    (tmp_path / "web").mkdir()
    os.utime(tmp_path / "web", (1000.0, 1000.0))
    entries = spool._entries
    monkeypatch.setattr(spool, "_entries", lambda folder: read.append(folder.name) or entries(folder))
    assert await drain.drain() == [] and await drain.drain() == []
    assert read.count("web") == 1
    for n in (1, 2):  # the second one within the same tick of the clock that tells of changes
        leave(tmp_path / "web", f"g,1,{n}.00,1", {})
        assert len(await drain.drain()) == 1


async def test_what_the_store_refuses_stays_for_the_next_time(tmp_path):
    shelf = Shelf()
    shelf.full = True
    drain = Drain(tmp_path, shelf)
    leave(tmp_path / "web", "g,1,1.00,1", {})
    assert await drain.drain() == []
    assert len(list((tmp_path / "web").iterdir())) == 1
    shelf.full = False
    assert len(await drain.drain()) == 1
    assert not list((tmp_path / "web").iterdir())


async def test_what_was_stored_but_not_deleted_is_told_again_and_stored_once(tmp_path, monkeypatch):
    shelf = Shelf()
    drain = Drain(tmp_path, shelf)
    leave(tmp_path / "web", "g,1,1.00,1", {})
    with monkeypatch.context() as kill:
        kill.setattr(spool, "_delete", lambda paths: None)
        assert len(await drain.drain("web")) == 1
    assert len(await drain.drain("web")) == 1
    assert len(shelf.kept) == 1
    assert await drain.drain("web") == []


async def test_an_event_that_cannot_be_read_holds_no_other_back(tmp_path, monkeypatch):
    shelf = Shelf()
    leave(tmp_path / "web", "g,1,1.00,1", {"n": 1})
    leave(tmp_path / "web", "g,1,2.00,1", {"n": 2})
    opened = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("1.00,1"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    assert [event.payload["n"] for event in await Drain(tmp_path, shelf).drain("web")] == [2]


async def test_the_litter_of_all_agents_is_swept(tmp_path):
    for agent in ("a", "b"):
        os.utime(leave(tmp_path / agent, ".g,1,1.00,1", b"{"), (1.0, 1.0))
    await Drain(tmp_path, Shelf()).sweep()
    assert not list(tmp_path.rglob(".g*"))
