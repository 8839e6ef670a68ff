"""Watching launches: what is logged, kept and told of a pane, whatever the runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.errors import HostUnreachable, StorageFull
from fleet.runtimes import watching
from fleet.runtimes.multiplexers import Seen, ServerGone
from fleet.runtimes.watching import Watched, Watches
from fleet.settings import Places, Settings
from fleet.terms import File, Handle, Look, Screen

HANDLE = Handle("web", "web.1.ab", "local", "tmux", "/run/tmux", "web", "/launch/web.1.ab")


def seen(text: str = "on it\n", *scrolled: str, first: bool = False, dead: bool = False) -> Seen:
    return Seen(Screen(text=text, dead=dead), "%1", scrolled, first)


def secrets_of(agent: str) -> Collection[str]:
    return {"hunter2-hunter2"}


class Pane:
    """A multiplexer with one pane, and the folder of its launch."""

    def __init__(self, *captures: Seen | Exception | None) -> None:
        self.captures = list(captures)
        self.files: dict[str, str] = {"/launch/web.1.ab/env": ""}
        self.full = False

    def _next(self) -> Seen | None:
        capture = self.captures.pop(0) if len(self.captures) > 1 else self.captures[0]
        if isinstance(capture, Exception):
            raise capture
        return capture

    async def see(self, generation: str) -> Seen | None:
        return self._next()

    async def last(self, generation: str) -> Seen | None:
        return self._next()

    async def names(self) -> list[str]:
        await asyncio.sleep(0)
        return [path.rpartition("/")[2] for path in self.files]

    async def put(self, file: File) -> None:
        await asyncio.sleep(0)
        if self.full:
            raise StorageFull("the disk is full")
        self.files[file.path] = file.content.decode()

    def kept(self, name: str) -> str | None:
        return self.files.get(f"/launch/web.1.ab/{name}")


class Told:
    def __init__(self) -> None:
        self.looks: list[Look] = []

    def __call__(self, handle: Handle, look: Look) -> None:
        assert handle == HANDLE
        self.looks.append(look)


@pytest.fixture
async def watches(tmp_path: Path) -> AsyncIterator[Watches[Watched]]:
    places = Places.of({"FLEET_HOME": str(tmp_path), "HOME": str(tmp_path)})
    made: Watches[Watched] = Watches(places, Settings(), secrets_of)
    yield made
    await made.close()


async def keep(watches: Watches[Watched], pane: Pane, before: Screen | None = None) -> None:
    async def last() -> Seen | None:
        return await pane.last(HANDLE.generation)

    await watches.keep(HANDLE, before, names=pane.names, last=last, put=pane.put)


async def nothing_new(watched: Watched) -> Seen | None:
    return None


async def lines(watches: Watches[Watched]) -> list[str]:
    return await watches.lines(HANDLE, 100, nothing_new)


def test_a_look_is_told_where_it_says_something_new() -> None:
    told = Told()
    watched = Watched(HANDLE, told)
    first = Look(at=1.0, alive=True, screen=Screen(text="a"))
    watched.tell(first)
    watched.tell(replace(first, at=2.0))
    assert told.looks == [first]
    watched.tell(replace(first, waiting="its job waits"))
    assert len(told.looks) == 2


def test_who_has_closed_a_watch_hears_nothing() -> None:
    told = Told()
    watched = Watched(HANDLE, told)
    watched.close()
    watched.tell(Look(at=1.0, alive=False))
    assert told.looks == [] and watched.over()


async def test_lines_that_leave_the_screen_are_logged_in_order_and_the_screen_is_shown_below(
    watches: Watches[Watched],
) -> None:
    watched = watches.add(Watched(HANDLE, Told()))
    assert watches.saw(watched, seen("c\n", "a", "b", first=True))
    assert watches.saw(watched, seen("d\n", "c"))
    assert await lines(watches) == ["a", "b", "c", "d"]


async def test_the_next_daemon_logs_only_what_is_new_of_a_whole_scrollback(watches: Watches[Watched]) -> None:
    watches.log("web").begin(HANDLE.generation, 0.0)
    watches.log("web").add(["a", "b"])
    await watches.log("web").flush()
    watched = watches.add(Watched(HANDLE, Told()))
    await watches.recall(watched)
    watches.saw(watched, seen("d\n", "a", "b", "c", first=True))
    assert (await lines(watches))[1:] == ["a", "b", "c", "d"]


async def test_a_multiplexer_that_is_met_anew_doubles_no_line_that_is_not_written_yet_and_drops_none_like_it(
    watches: Watches[Watched],
) -> None:
    watches.log("web").begin(HANDLE.generation, 0.0)
    watched = watches.add(Watched(HANDLE, Told()))
    await watches.recall(watched)
    watches.saw(watched, seen("c\n", "a", "b", first=True))
    watches.saw(watched, seen("d\n", "c"))
    watches.saw(watched, seen("e\n", "a", "b", "c", "d", first=True))
    watches.saw(watched, seen("e\n", *"abcd", *["tick"] * 40))
    await watches.recall(watched)
    watches.saw(watched, seen("e\n", *"abcd", *"abcd", *["tick"] * 45, "f", first=True))
    assert (await lines(watches))[1:] == [*"abcd", *"abcd", *["tick"] * 45, "f", "e"]


async def test_a_dead_pane_is_no_news_of_a_living_one_and_its_lines_are_logged(watches: Watches[Watched]) -> None:
    watched = watches.add(Watched(HANDLE, Told()))
    watches.saw(watched, seen("up\n"))
    assert not watches.saw(watched, seen("down\n", "last words", dead=True))
    assert watched.screen == Screen(text="up\n")
    assert await lines(watches) == ["last words", "up"]


async def test_a_log_shows_the_pane_as_it_is_now_or_as_it_was_seen_last(watches: Watches[Watched]) -> None:
    watched = watches.add(Watched(HANDLE, Told()))
    watches.saw(watched, seen("old\n"))

    async def newest(watched: Watched) -> Seen | None:
        return seen("new\n", dead=True)

    assert await watches.lines(HANDLE, 100, newest) == ["new"]

    async def silent(watched: Watched) -> Seen | None:
        raise HostUnreachable("it does not answer")

    assert await watches.lines(HANDLE, 100, silent) == ["old"]


async def test_a_last_screen_is_kept_once_whoever_asks_for_it_at_once(watches: Watches[Watched]) -> None:
    watched = watches.add(Watched(HANDLE, Told()))
    watches.saw(watched, seen("bye\n"))
    pane = Pane(seen("bye hunter2-hunter2\n", "one", "two", first=True, dead=True))
    results = await asyncio.gather(keep(watches, pane), keep(watches, pane), lines(watches))
    assert pane.kept("screen") is not None and "hunter2" not in (pane.kept("screen") or "")
    logged = await lines(watches)
    assert [line.split()[0] for line in logged] == ["one", "two", "bye"]
    assert results[2] in (logged, ["bye"]), "either as it was shown, or as it is kept"
    assert watched.logged


async def test_where_the_pane_is_gone_what_it_showed_last_is_kept(watches: Watches[Watched]) -> None:
    pane = Pane(None)
    await keep(watches, pane, Screen(text="up\n"))
    await keep(watches, pane, Screen(text="up\n"))
    assert pane.kept("screen") is None and pane.kept("screen-before") == "up\n"
    assert await lines(watches) == ["up"]


async def test_what_was_up_on_the_alternate_screen_stands_above_what_was_said_on_leaving(
    watches: Watches[Watched],
) -> None:
    pane = Pane(Seen(Screen(text="resume with -c\n", alternate=False, dead=True), "%1"))
    await keep(watches, pane, Screen(text="a dialog\n", alternate=True))
    assert pane.kept("screen") == "a dialog\n\nresume with -c\n"
    assert await lines(watches) == ["resume with -c"]


async def test_a_screen_that_could_not_be_written_is_shown_still_and_logged_once(watches: Watches[Watched]) -> None:
    watched = watches.add(Watched(HANDLE, Told()))
    watches.saw(watched, seen("bye\n"))
    watched.dead = True
    pane = Pane(seen("bye\n", "one", dead=True), seen("bye\n", dead=True))
    pane.full = True
    with pytest.raises(StorageFull):
        await keep(watches, pane)
    assert await lines(watches) == ["one", "bye"]
    pane.full = False
    await keep(watches, pane)
    assert await lines(watches) == ["one", "bye"]


async def test_into_a_folder_that_is_gone_nothing_is_written(watches: Watches[Watched]) -> None:
    pane = Pane(seen("bye\n", dead=True))
    pane.files.clear()
    await keep(watches, pane)
    assert pane.files == {} and await lines(watches) == []


async def test_the_final_capture_waits_until_the_pane_is_known_to_be_dead() -> None:
    pane = Pane(seen("half"), seen("half"), seen("whole", dead=True), seen("whole", "all", dead=True))
    assert await watching.final(pane, HANDLE.generation, within=60) == seen("whole", "all", dead=True)


async def test_a_pane_that_is_not_said_to_be_dead_is_captured_as_it_is() -> None:
    assert await watching.final(Pane(seen("alive")), HANDLE.generation, within=0) == seen("alive")


@pytest.mark.parametrize("capture", [None, ServerGone("no server")])
async def test_of_a_pane_that_is_gone_there_is_no_final_capture(capture: Exception | None) -> None:
    assert await watching.final(Pane(capture), HANDLE.generation, within=60) is None


async def test_an_end_does_not_hang_on_a_picture(watches: Watches[Watched]) -> None:
    assert await watches.shown(HANDLE, Pane(HostUnreachable("silent"))) is None
    assert await watches.shown(HANDLE, Pane(seen("here"))) == Screen(text="here")
    watches.saw(watches.add(Watched(HANDLE, Told())), seen("as seen"))
    assert await watches.shown(HANDLE, Pane(seen("here"))) == Screen(text="as seen")


async def test_the_kept_screen_is_read_back_the_better_one_first() -> None:
    files = {"/launch/web.1.ab/screen-before": b"before\xff\n"}

    async def read(path: str) -> bytes | None:
        return files.get(path)

    assert await watching.last_screen(read, HANDLE) == "before\N{REPLACEMENT CHARACTER}\n"
    files["/launch/web.1.ab/screen"] = b"last\n"
    assert await watching.last_screen(read, HANDLE) == "last\n"
    files.clear()
    assert await watching.last_screen(read, HANDLE) is None
