"""`fleet.Client` and `fleet.SyncClient` on the real hub: what they promise across its restarts too."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import fleet
from fleet import hubcall
from fleet.clock import SystemClock
from fleet.errors import FleetError, NoDaemon, TimedOut, Usage
from fleet.hub import client as client_module
from fleet.hub.auth import MAIN, Role
from fleet.hub.client import Client, Event, SyncClient
from fleet.hub.exchange import Exchange
from fleet.hub.guardrails import Speaker
from fleet.hub.host import HubServer
from fleet.hub.message import Outcome, State
from fleet.hub.registry import Card
from fleet.settings import Places, Settings
from tests.hub_doors import SOON
from tests.waiting import until

FREE = Settings(hub_sender_rate=1e6, hub_sender_burst=1_000_000)


class House:
    """A hub that can be torn down and put up again in the same place."""

    def __init__(self, folder: Path) -> None:
        self.places = Places(config=folder, state=folder / "state", run=folder / "run")
        self.tokens: dict[str, str] = {}

    async def up(self) -> None:
        self.exchange = await Exchange.open(self.places.state / "hub", FREE, SystemClock())
        self.server = HubServer(self.exchange, FREE, self.places)
        await self.server.start()

    async def down(self) -> None:
        await self.server.close()
        await self.exchange.close()

    async def cut(self) -> None:
        """Break every connection in the middle, as a network does."""
        assert self.server.streams is not None
        for reader in list(self.server.streams.readers):
            reader.transport.abort()

    async def enroll(self, name: str, role: Role = Role.AGENT) -> None:
        if role is Role.AGENT:
            await self.exchange.enroll(Card(name=name), Speaker(name=name, wake=True), ["#general"])
        _, self.tokens[name] = await self.exchange.tokens.create(role, name, MAIN, by="test")

    def client(self, name: str, **more: Any) -> Client:
        url = self.server.info()["url"]
        return Client(url, token=self.tokens[name], **more)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(client_module, "LONGEST_PAUSE", 0.1)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="fl"))
    house = House(folder)
    await house.up()
    for name in ("web", "db"):
        await house.enroll(name)
    await house.enroll("boss", Role.OPERATOR)
    try:
        yield house
    finally:
        await house.down()
        shutil.rmtree(folder)


async def answers(client: Client, count: int, text: str = "8080") -> None:
    """Take what comes in, and answer what is asked."""
    async with contextlib.aclosing(client.incoming()) as incoming:
        async for message in incoming:
            if message.intent == "ask":
                await client.reply(message, text)
            count -= 1
            if not count:
                return


async def collect(events: Any, count: int) -> list[Any]:
    found = []
    async with contextlib.aclosing(events):
        async for event in events:
            found.append(event)
            if len(found) == count:
                return found
    raise AssertionError("it ended")


# -- saying and hearing ------------------------------------------------------------------------------------------------


async def test_what_one_sends_the_other_takes_once_and_its_sender_hears_of_it(house: House) -> None:
    async with house.client("web") as web, house.client("db") as db:
        receipt = await web.send("db", "The build is green.", metadata={"build": 7})
        assert [r.name for r in receipt.recipients] == ["db"]
        (message,) = await db.take()
        assert (message.sender, message.text, message.metadata) == ("web", "The build is green.", {"build": 7})
        assert await db.take() == []
        (stands,) = await web.delivered(receipt, timeout=SOON)
        assert (stands.state, stands.way) == (State.DELIVERED, "inbox")


async def test_an_ask_is_answered_by_push(house: House) -> None:
    async with house.client("web") as web, house.client("db") as db:
        replying = asyncio.create_task(answers(db, 1))
        answer = await web.ask("db", "Which port?", timeout=SOON)
        assert (answer.outcome, answer.text, bool(answer)) == (Outcome.ANSWERED, "8080", True)
        await asyncio.wait_for(replying, SOON)


async def test_an_ask_that_is_declined_or_not_answered_is_false(house: House) -> None:
    async with house.client("web") as web, house.client("db") as db:
        asking = asyncio.create_task(web.ask("db", "Which port?", timeout=SOON))
        (asked,) = await collect(db.incoming(), 1)
        await db.decline(asked, "busy")
        answer = await asking
        assert (answer.outcome, answer.reason, bool(answer)) == (Outcome.DECLINED, "busy", False)
        late = await web.ask("db", "And now?", timeout=0.1)
        assert (late.outcome, late.answer) == (Outcome.TIMED_OUT, None)


async def test_an_ask_lasts_as_long_as_the_hub_says_where_nobody_says_how_long(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubcall, "ASK_WAIT", 0.05)
    looks, asked = [], house.exchange.asked

    async def looked(*about: Any) -> dict[str, Any]:
        looks.append(await asked(*about))
        return dict(looks[-1])

    monkeypatch.setattr(house.exchange, "asked", looked)
    async with house.client("web") as web, house.client("db") as db:
        asking = asyncio.create_task(web.ask("db", "Which port?"))
        (question,) = await collect(db.incoming(), 1)
        await until(lambda: len(looks) > 2, "it has looked again and again")
        assert looks[0]["deadline"] == pytest.approx(question.at + FREE.hub_ask_timeout)
        await db.reply(question, "8080")
        assert (await asking).text == "8080"


async def test_a_no_is_an_exception_with_the_hubs_reason(house: House) -> None:
    async with house.client("web") as web, Client(house.server.info()["url"], token="flt_wrong") as stranger:
        with pytest.raises(hubcall.HubSaid) as caught:
            await web.send("dbb", "hello")
        assert (caught.value.code, caught.value.exit_code, caught.value.facts["nearest"]) == (
            "unknown_recipient",
            3,
            ["db"],
        )
        with pytest.raises(hubcall.HubSaid) as caught:
            await web.pause("t-aaaaaaaaaaaaaaaa")
        assert caught.value.status == 403
        for act in (stranger.members(), anext(stranger.follow())):
            with pytest.raises(hubcall.HubSaid) as caught:
                await act
            assert caught.value.status == 401


async def test_files_go_and_come_as_they_are(house: House, tmp_path: Path) -> None:
    content = bytes(range(256)) * 500
    (tmp_path / "notes.bin").write_bytes(content)
    async with house.client("web") as web, house.client("db") as db:
        await web.send("db", attachments=[tmp_path / "notes.bin"])
        (message,) = await db.take()
        (file,) = message.attachments
        assert (file.name, file.size) == ("notes.bin", len(content))
        assert await db.download(file) == content


@pytest.mark.parametrize("name", ["notes.txt", "a \"b\" 'c'.txt", "résumé 日本.pdf", "100% %20.txt", "a;b=c.txt"])
async def test_a_file_keeps_its_name_by_every_client(house: House, name: str) -> None:
    url = house.server.info()["url"]
    door = hubcall.door(url, stranger=True)
    door.token = house.tokens["web"]
    said = await asyncio.to_thread(hubcall.upload, door, io.BytesIO(b"12345"), name, 5, timeout=SOON)
    assert (said.json()["name"], said.json()["size"]) == (name, 5)
    async with house.client("web") as web:
        assert (await web.upload(b"12345", name)).name == name


async def test_history_search_and_changes_are_shown_as_they_stand(house: House) -> None:
    async with house.client("web") as web:
        first = await web.send("#general", "the quick brown fox")
        await web.edit(first, "the slow brown fox")
        await web.react(first.id, "👍")
        (message,) = await web.history("#general")
        assert (message.text, dict(message.reactions), message.edited_at is not None) == (
            "the slow brown fox",
            {"👍": ["web"]},
            True,
        )
        assert [m.id for m in await web.search("slow fox")] == [first.id]
        await web.delete(first)
        (message,) = await web.history("#general")
        assert message.text == ""


async def test_members_and_channels_are_listed(house: House) -> None:
    async with house.client("web") as web:
        await web.join("#lab", "mentions")
        assert {m.name for m in await web.members()} >= {"web", "db"}
        assert (await web.channels())["#lab"] == {"web": "mentions"}
        await web.leave("#lab")
        assert (await web.channels()).get("#lab", {}) == {}


# -- following ---------------------------------------------------------------------------------------------------------


def texts(found: list[Event]) -> list[str]:
    return [event.message.text for event in found if event.message]


async def test_who_follows_gets_all_once_and_in_order_across_restarts_and_breaks(house: House) -> None:
    count = 300
    async with house.client("boss") as boss, house.client("web") as web:
        heard: list[str] = []
        joined = asyncio.Event()

        async def follow() -> None:
            async with contextlib.aclosing(boss.follow("#general")) as events:
                async for event in events:
                    joined.set()
                    heard.extend(texts([event]))
                    if heard[-1:] == ["end"]:
                        return

        following = asyncio.create_task(follow())
        while not joined.is_set():
            await web.send("#general", "begin")
            await asyncio.sleep(0.01)

        async def disturb() -> None:
            for turn in range(4):
                await asyncio.sleep(0.1)
                if turn % 2:
                    await house.down()
                    await house.up()
                else:
                    await house.cut()

        disturbing = asyncio.create_task(disturb())
        for number in range(count):
            await web.send("#general", str(number))
            await asyncio.sleep(0.002)
        await disturbing
        await web.send("#general", "end")
        async with asyncio.timeout(SOON):
            await following
        numbers = [text for text in heard if text.isdigit()]
        assert numbers == [str(n) for n in range(count)]


async def test_a_message_is_sent_once_whatever_happens_to_the_hub_meanwhile(house: House) -> None:
    async with house.client("web") as web:
        sending = [asyncio.create_task(web.send("#general", f"message {n}")) for n in range(50)]
        await asyncio.sleep(0.01)
        await house.down()
        await house.up()
        sending += [asyncio.create_task(web.send("#general", f"message {n}")) for n in range(50, 100)]
        receipts = await asyncio.wait_for(asyncio.gather(*sending), 2 * SOON)
        assert len({receipt.id for receipt in receipts}) == 100
        page = await web.history("#general", limit=500)
        assert sorted(m.text for m in page) == sorted(f"message {n}" for n in range(100))


async def test_an_ask_is_answered_across_a_restart(house: House) -> None:
    async with house.client("web") as web, house.client("db") as db:
        asking = asyncio.create_task(web.ask("db", "Which port?", timeout=2 * SOON))
        (asked,) = await collect(db.incoming(), 1)
        await house.down()
        await house.up()
        await db.reply(asked, "8080")
        answer = await asyncio.wait_for(asking, SOON)
        assert answer.text == "8080"
        assert len(await db.history("web")) == 2, "it was asked once"


async def test_who_comes_with_a_position_gets_what_was_since(house: House) -> None:
    async with house.client("web") as web:
        first = await web.send("#general", "one")
        await web.send("#general", "two")
        found = await collect(web.messages("#general", after=str(first.position)), 1)
        assert [m.text for m in found] == ["two"]


async def test_a_position_of_another_log_is_told_as_a_gap(house: House) -> None:
    async with house.client("boss") as boss:
        (gap,) = await collect(boss.follow(after="another:7"), 1)
        assert (gap.kind, gap.data["reason"], gap.data["asked"]) == ("gap", "epoch", "another:7")


async def test_a_token_that_is_revoked_ends_what_is_followed(house: House) -> None:
    await house.enroll("eve", Role.VIEWER)
    id = next(row.id for row in await house.exchange.tokens.list() if row.name == "eve")
    async with house.client("eve") as eve, house.client("web") as web:
        await eve.members()
        following = asyncio.create_task(collect(eve.follow(), 1000))
        await until(lambda: house.server.streams and house.server.streams.readers)
        await web.send("#general", "hello")
        await house.exchange.tokens.revoke(id, by="test")
        with pytest.raises(hubcall.HubSaid) as caught:
            await asyncio.wait_for(following, SOON)
        assert caught.value.status == 401


async def test_a_hub_that_was_never_there_is_told_at_once(tmp_path: Path) -> None:
    async with Client("127.0.0.1", 9, token="flt_x") as nobody:
        with pytest.raises(NoDaemon):
            await nobody.members()
        with pytest.raises(NoDaemon):
            await anext(nobody.follow())


async def test_waiting_for_a_delivery_ends_in_time(house: House) -> None:
    async with house.client("web") as web:
        receipt = await web.send("db", "hello")
        with pytest.raises(TimedOut):
            await web.delivered(receipt, timeout=0.1)


# -- without an event loop ---------------------------------------------------------------------------------------------


async def test_the_same_works_without_an_event_loop(house: House) -> None:
    url = house.server.info()["url"]

    def program() -> list[str]:
        with SyncClient(url, token=house.tokens["web"]) as web, SyncClient(url, token=house.tokens["db"]) as db:
            first = web.send("#general", "one")
            web.send("#general", "two", key="k")
            assert web.send("#general", "two", key="k").duplicate
            followed = web.messages("#general", after=str(first.position))
            heard = [next(followed).text]
            followed.close()  # type: ignore[attr-defined]
            web.send("db", "direct")
            heard += [message.text for message in db.take()]
            with pytest.raises(hubcall.HubSaid):
                web.send("nobody-here", "hello")
            return heard

    def threads() -> set[str]:
        """But for pools, which grow with what is asked of them at a time."""
        names = {thread.name for thread in threading.enumerate()}
        return {name for name in names if not name.startswith(("asyncio_", "fleet-db-read"))}

    before = threads()
    heard = await asyncio.wait_for(asyncio.to_thread(program), SOON)
    assert heard[0] == "two"
    assert heard[-1] == "direct"
    assert "fleet-client" not in threads() and threads() <= before


async def test_every_method_is_there_without_an_event_loop_too() -> None:
    def public(of: type) -> set[str]:
        return {name for name in vars(of) if not name.startswith("_")}

    assert public(Client) == public(SyncClient)


# -- what the package gives --------------------------------------------------------------------------------------------


def test_the_package_gives_the_clients_by_name() -> None:
    assert (fleet.Client, fleet.SyncClient, fleet.HubSaid, fleet.FleetError) == (
        Client,
        SyncClient,
        hubcall.HubSaid,
        FleetError,
    )
    with pytest.raises(AttributeError):
        _ = fleet.Clients  # type: ignore[attr-defined]


def test_a_hub_that_is_not_this_fleets_own_wants_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEET_HOME", str(tmp_path))
    for name in ("FLEET_HUB", "FLEET_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Usage):
        Client("lab7.example", 9560)
