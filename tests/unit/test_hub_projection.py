"""What the log says: nothing missing, or told so; as it stands now; found by its words; kept as long as it must be."""

from __future__ import annotations

import asyncio
import json

import pytest

from fleet.hub import log as log_module
from fleet.hub.log import New, SqliteLog
from fleet.hub.mailbox import PROJECTIONS
from fleet.hub.message import Position
from fleet.hub.projection import (
    DELETION,
    EDIT,
    INDEX_CROWD,
    INDEX_LOOKS,
    INDEX_PAUSE,
    MESSAGE,
    REACTION,
    Gap,
    History,
    retain,
)  # fmt: skip
from fleet.testing import TurnedClock, settle

NOW = 1_800_000_000.0
DAY = 86_400
GENERAL, BOB, AUDIT = "lab/#general", "lab/@bob", "lab/!audit"


class Hub:
    """A log and its history, on a turned clock."""

    def __init__(self, folder):
        self.folder = folder
        self.clock = TurnedClock(NOW)
        self.ids = 0

    async def open(self):
        self.log = await SqliteLog.open(self.folder / "hub.db", self.clock, PROJECTIONS, reserve=0)
        self.history = History(self.log, self.clock)
        return self

    async def close(self):
        await self.history.close()
        await self.log.close()

    def message(self, text, *, stream=GENERAL, sender="alice", thread="t-1", id=None):
        self.ids += 1
        data = {"id": id or f"m-{self.ids}", "workspace": "lab", "sender": sender, "text": text, "thread": thread}
        return New.of(stream, MESSAGE, f"lab/{sender}", data)

    async def say(self, *texts, **about):
        stored = []
        for text in texts:
            stored += await self.log.append([self.message(text, **about)])
        return stored[-1].seq

    async def tell(self, kind, sender="alice", **data):
        return (await self.log.append([New.of(GENERAL, kind, f"lab/{sender}", data)]))[0].seq

    def position(self, seq):
        return Position(self.log.epoch, seq)

    async def found(self, words, **how):
        return [e.data["text"] for e in (await self.history.search(words, **how)).events]


@pytest.fixture
async def hub(tmp_path):
    made = await Hub(tmp_path).open()
    yield made
    await made.close()


def texts(page):
    return [e.data["text"] for e in page.events]


# -- resuming ------------------------------------------------------------------------------------------------------


async def test_a_reader_gets_everything_after_its_position_page_by_page(hub):
    await hub.say(*map(str, range(25)))
    position, got = hub.position(4), []
    while True:
        page = await hub.history.read(after=position, limit=7)
        got += texts(page)
        position = page.position
        if not page.more:
            break
    assert got == [str(n) for n in range(4, 25)]
    assert position == hub.log.position
    assert await hub.history.read(after=position) == ([], position, False)


async def test_a_page_ends_at_the_head_also_where_the_last_events_were_for_others(hub):
    await hub.say("for all")
    await hub.say("for bob", stream=BOB)
    page = await hub.history.read(streams=[GENERAL])
    assert (texts(page), page.position) == (["for all"], hub.position(2))


async def test_streams_are_merged_in_their_order(hub):
    for n in range(30):
        await hub.say(str(n), stream=[GENERAL, BOB, "lab/#other"][n % 3])
    page = await hub.history.read(streams=[BOB, GENERAL, BOB], after=hub.position(3), limit=10)
    wanted = [str(n) for n in range(3, 30) if n % 3 != 2]
    assert (texts(page), page.more) == (wanted[:10], True)
    rest = await hub.history.read(streams=[BOB, GENERAL], after=page.position, limit=100)
    assert (texts(rest), rest.more) == (wanted[10:], False)


async def test_the_newest_page_and_the_one_before_it(hub):
    await hub.say(*map(str, range(10)))
    page = await hub.history.read(streams=[GENERAL], newest=True, limit=3)
    assert (texts(page), page.more, page.position) == (["7", "8", "9"], True, hub.position(10))
    older = await hub.history.read(streams=[GENERAL], newest=True, limit=100, before=page.events[0].seq)
    assert (texts(older), older.more) == ([str(n) for n in range(7)], False)


async def test_kinds_are_chosen(hub):
    await hub.say("a")
    await hub.tell(REACTION, message="m-1", reaction="👍")
    assert [e.kind for e in (await hub.history.read(kinds=[REACTION])).events] == [REACTION]
    assert [e.kind for e in (await hub.history.read(streams=[GENERAL], kinds=[MESSAGE])).events] == [MESSAGE]
    assert (await hub.history.read(kinds=[])).events == []


@pytest.mark.parametrize(
    ("position", "reason"),
    [(Position("another", 1), "epoch"), (None, "ahead")],
)
async def test_a_position_of_another_log_or_ahead_of_it_is_told_as_a_gap(hub, position, reason):
    await hub.say("a")
    with pytest.raises(Gap) as gap:
        await hub.history.read(after=position or hub.position(2))
    assert gap.value.facts["reason"] == reason
    assert gap.value.facts["head"] == str(hub.log.position)


async def test_what_retention_has_taken_is_told_as_a_gap_except_to_who_reads_only_what_is_kept(hub):
    await hub.say("a", "b")
    await hub.say("paused", stream=AUDIT)
    await hub.say("c")
    await hub.log.trim(NOW + 1, 0)
    await hub.say("d")
    with pytest.raises(Gap) as gap:
        await hub.history.read(after=hub.position(1))
    assert (gap.value.facts["reason"], gap.value.facts["oldest"]) == ("trimmed", f"{hub.log.epoch}:4")
    assert await hub.history.oldest() == hub.position(4)
    assert texts(await hub.history.read(after=hub.position(4))) == ["d"]
    assert texts(await hub.history.read(streams=[AUDIT], after=hub.position(1))) == ["paused"]


async def test_a_reader_that_pages_while_others_write_misses_nothing_and_sees_nothing_twice(hub):
    async def write(n):
        for k in range(40):
            await hub.say(f"{n}-{k}")

    async def read():
        position, got = hub.position(0), []
        while len(got) < 200:
            page = await hub.history.read(after=position, limit=9)
            got += [e.seq for e in page.events]
            position = page.position
        return got

    *_, got = await asyncio.gather(*(write(n) for n in range(5)), read())
    assert got == list(range(1, 201))


# -- times ---------------------------------------------------------------------------------------------------------


async def test_a_time_has_its_position(hub):
    for n in range(40):
        await hub.say(str(n), stream=AUDIT if n == 3 else GENERAL)
        await hub.clock.turn(10)
    for n in (0, 1, 17, 39):
        assert await hub.history.position_at(NOW + 10 * n) == hub.position(n)
        assert await hub.history.position_at(NOW + 10 * n + 1) == hub.position(n + 1)
    assert await hub.history.position_at(0) == hub.position(0)
    assert await hub.history.position_at(NOW + 10**6) == hub.position(40)
    await hub.log.trim(NOW + 200, 10**9)
    assert await hub.history.position_at(NOW + 250) == hub.position(25)
    assert await hub.history.position_at(NOW + 35) == hub.position(4)
    assert await hub.history.position_at(NOW) == hub.position(0)


async def test_history_of_a_time_range(hub):
    for n in range(10):
        await hub.say(str(n))
        await hub.clock.turn(10)
    page = await hub.history.read(streams=[GENERAL], since=NOW + 20, until=NOW + 50)
    assert texts(page) == ["2", "3", "4"]
    assert texts(await hub.history.read(since=NOW + 25, until=NOW + 1000, newest=True, limit=2)) == ["8", "9"]
    assert texts(await hub.history.read(since=NOW + 1000)) == []


# -- as it stands --------------------------------------------------------------------------------------------------


async def test_edits_reactions_and_deletions_are_facts_and_show_on_the_message(hub):
    await hub.say("helo")
    await hub.clock.turn(5)
    await hub.tell(EDIT, message="m-1", text="hello")
    await hub.tell(REACTION, "bob", message="m-1", reaction="👍")
    await hub.tell(REACTION, "carol", message="m-1", reaction="👍")
    await hub.tell(REACTION, "carol", message="m-1", reaction="👍", on=False)
    await hub.tell(EDIT, message="m-unknown", text="x")
    page = await hub.history.read(streams=[GENERAL])
    [shown] = await hub.history.shown(page.events)
    assert (shown.text, shown.edited_at, shown.reactions) == ("hello", NOW + 5, {"👍": ("bob",)})
    assert shown.event.data["text"] == "helo"
    await hub.tell(DELETION, message="m-1")
    [shown] = await hub.history.shown(page.events)
    assert (shown.text, shown.deleted_at, shown.reactions) == (None, NOW + 5, {})


async def test_a_message_is_found_by_its_id_and_a_conversation_by_its_thread(hub):
    await hub.say("a", "b", thread="t-x")
    await hub.say("c", thread="t-y")
    await hub.say("d", thread="t-x")
    assert (await hub.history.message("m-3")).data["text"] == "c"
    assert await hub.history.message("m-9") is None
    page = await hub.history.thread("t-x", limit=2)
    assert (texts(page), page.more) == (["a", "b"], True)
    assert texts(await hub.history.thread("t-x", after=page.position.seq)) == ["d"]


async def test_where_a_key_was_used_is_known(hub):
    await hub.log.append([hub.message("a")._replace(key="k")])
    assert await hub.history.by_key("lab/alice", "k") == 1
    assert await hub.history.by_key("lab/bob", "k") is None


# -- words ---------------------------------------------------------------------------------------------------------


async def test_words_are_found_newest_first_page_by_page(hub):
    await hub.say("the build is red", "the build is green", "lunch?", "Build again")
    assert await hub.found("build") == ["Build again", "the build is green", "the build is red"]
    assert await hub.found("build green") == ["the build is green"]
    assert await hub.found('"is green"') == ["the build is green"]
    assert await hub.found('"green is"') == []
    assert await hub.found("gree*") == ["the build is green"]
    first = await hub.history.search("build", limit=2)
    assert (len(first.events), first.more, first.behind) == (2, True, 0)
    assert await hub.found("build", before=first.events[-1].seq) == ["the build is red"]


@pytest.mark.parametrize(
    "words", ["", "   ", '"', '""', "*", "build OR", "NOT", "text:build", "(", "build)", "a\0b", "^x", "-", "{x}", "''"]
)
async def test_whatever_a_person_writes_is_words_and_no_syntax(hub, words):
    await hub.say("the build is red")
    assert isinstance(await hub.found(words), list)


async def test_accents_and_case_do_not_matter(hub):
    await hub.say("Der Übergabetest läuft")
    assert await hub.found("ubergabetest LAUFT") == ["Der Übergabetest läuft"]


async def test_only_the_streams_of_the_reader_are_searched(hub):
    await hub.say("secret plan", stream=BOB)
    await hub.say("open plan")
    assert await hub.found("plan", streams=[GENERAL]) == ["open plan"]
    assert await hub.found("plan", streams=[]) == []


async def test_an_edited_message_is_found_by_what_it_says_now_and_a_deleted_one_not_at_all(hub):
    await hub.say("first words", "other words")
    assert len(await hub.found("first")) == 1
    await hub.tell(EDIT, message="m-1", text="second words")
    await hub.tell(EDIT, message="m-1", text="third words")
    assert await hub.found("first") == []
    assert await hub.found("second") == []
    assert len(await hub.found("third")) == 1
    await hub.tell(DELETION, message="m-1")
    await hub.tell(EDIT, message="m-1", text="fourth words")
    assert await hub.found("words") == ["other words"]
    assert await hub.found("fourth") == []


async def indexed(hub, up_to):
    """Wait for the disk, which is real: a commit of the index's takes as long as it takes."""
    async with asyncio.timeout(60):
        while await hub.history.cursor("!words") != up_to:
            await settle()


async def test_the_index_lets_a_few_events_gather_before_it_commits_anything_of_its_own(hub):
    await hub.say(*(f"word{n}" for n in range(10)))
    following = asyncio.create_task(hub.history.follow())
    await settle()
    await hub.clock.turn(INDEX_PAUSE - INDEX_PAUSE / INDEX_LOOKS)
    assert await hub.history.cursor("!words") is None
    await hub.clock.turn(INDEX_PAUSE / INDEX_LOOKS)
    await indexed(hub, 10)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_of_many_events_the_index_takes_some_soon(hub):
    await hub.say(*(f"word{n}" for n in range(INDEX_CROWD)))
    following = asyncio.create_task(hub.history.follow())
    await settle()
    await hub.clock.turn(INDEX_PAUSE / INDEX_LOOKS)
    await indexed(hub, INDEX_CROWD)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_the_index_follows_behind_and_needs_no_append_to_wait(hub):
    await hub.say(*(f"word{n}" for n in range(10)))
    following = asyncio.create_task(hub.history.follow())
    await settle()
    await hub.clock.turn(INDEX_PAUSE)
    await indexed(hub, 10)
    assert (
        await hub.log.database.read(
            lambda c: c.execute("SELECT rowid FROM words WHERE words MATCH 'word7'").fetchone()[0]
        )
        == 8
    )
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_the_index_is_whole_after_retention_and_edits(hub):
    await hub.say(*(f"common word{n}" for n in range(20)))
    await hub.tell(EDIT, message="m-3", text="common edited")
    await hub.clock.turn(10)
    await hub.say("common young")
    assert len(await hub.found("common", limit=100)) == 21
    await hub.log.trim(NOW + 5, 10**9)
    assert await hub.found("common") == ["common young"]
    assert await hub.found("edited") == []
    left = await hub.log.database.read(
        lambda c: c.execute("SELECT count(*) FROM words WHERE words MATCH 'common OR edited OR word3'").fetchone()[0]
    )
    assert left == 1


async def test_retention_of_what_the_index_has_not_seen_does_no_harm(hub):
    await hub.say("early bird")
    await hub.tell(EDIT, message="m-1", text="early worm")
    await hub.log.trim(NOW + 1, 0)
    await hub.say("late bird")
    assert await hub.found("bird") == ["late bird"]
    assert await hub.found("worm") == []


# -- cursors -------------------------------------------------------------------------------------------------------


async def test_a_cursor_is_known_at_once_never_goes_back_and_survives_a_restart(hub):
    assert await hub.history.cursor("bob") is None
    hub.history.set_cursor("bob", 5)
    hub.history.set_cursor("bob", 3)
    assert await hub.history.cursor("bob") == 5
    await hub.close()
    await hub.open()
    assert await hub.history.cursor("bob") == 5
    hub.history.set_cursor("bob", 4)
    await hub.close()
    await hub.open()
    assert await hub.history.cursor("bob") == 5


# -- keeping -------------------------------------------------------------------------------------------------------


async def test_retention_by_days_and_megabytes(hub):
    await hub.say("old")
    await hub.say("audit", stream=AUDIT)
    await hub.clock.turn(31 * DAY)
    await hub.say("young")
    assert await retain(hub.log, hub.clock.now(), days=30, megabytes=100) == 1
    assert texts(await hub.history.read()) == ["audit", "young"]
    assert await retain(hub.log, hub.clock.now(), days=30, megabytes=0) == 1
    assert texts(await hub.history.read()) == ["audit"]


async def test_an_export_is_the_log_line_by_line_and_goes_on_where_the_last_ended(hub, monkeypatch):
    monkeypatch.setattr(log_module, "PAGE", 3)
    await hub.say(*map(str, range(8)))
    lines = [json.loads(line) async for line in hub.history.export()]
    assert lines[0] == {"epoch": hub.log.epoch, "after": 0, "head": 8}
    assert [json.loads(line["body"])["text"] for line in lines[1:]] == [str(n) for n in range(8)]
    await hub.say("new")
    more = [json.loads(line) async for line in hub.history.export(hub.position(lines[0]["head"]))]
    assert [line["seq"] for line in more[1:]] == [9]
    await hub.log.trim(NOW + 1, 0)
    with pytest.raises(Gap):
        [line async for line in hub.history.export(hub.position(3))]


async def test_a_page_costs_the_same_steps_however_much_is_stored(hub):
    """Counted in steps of SQLite's machine, not in time."""

    def fill(connection, start, count):
        connection.executemany(
            "INSERT INTO log VALUES (?, ?, ?, 'message', 'lab/alice', NULL, ?, zeroblob(32), NULL)",
            (
                (seq, NOW, GENERAL if seq % 10 == 0 else "lab/#other", b'{"text":"x"}')
                for seq in range(start, start + count)
            ),
        )
        connection.execute("UPDATE log_state SET head = ?, at = ?", (start + count - 1, NOW))

    async def steps():
        counted = {}
        real = hub.log.database.read

        async def counting(fn):
            def counted_fn(connection):
                ticks = 0

                def tick():
                    nonlocal ticks
                    ticks += 1

                connection.set_progress_handler(tick, 100)
                try:
                    return fn(connection)
                finally:
                    connection.set_progress_handler(None, 100)
                    counted[what] = ticks

            return await real(counted_fn)

        hub.log.database.read = counting
        head = hub.log.database.read_now(lambda c: c.execute("SELECT head FROM log_state").fetchone()[0])
        middle = hub.position(head // 2)
        for what, how in {  # noqa: B007  counted_fn looks at it
            "newest": {"streams": [GENERAL], "newest": True},
            "resume": {"streams": [GENERAL, "lab/#other"], "after": middle},
            "all": {"after": middle},
            "time": {"since": NOW, "until": NOW + 1, "streams": [GENERAL]},
        }.items():
            assert len((await hub.history.read(limit=50, **how)).events) == 50
        del hub.log.database.read
        return counted

    await hub.log.database.write(lambda c: fill(c, 1, 1000))
    small = await steps()
    await hub.log.database.write(lambda c: fill(c, 1001, 99_000))
    large = await steps()
    assert set(small) == {"newest", "resume", "all", "time"}
    assert {what: large[what] <= 2 * small[what] + 2 for what in large} == dict.fromkeys(large, True), (small, large)
