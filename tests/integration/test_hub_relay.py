"""The hub's socket in a job: a real relay on pipes, and a server in the hub's place."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet.runtimes.local_tmux import Client
from fleet.runtimes.slurm_hub import SCRIPT, Relay
from tests.contract.hosts import until
from tests.homes import Home

pytestmark = pytest.mark.real

LONG = os.urandom(300_001)


@dataclass
class Way:
    """From `door` to `hub`."""

    relay: Relay
    door: str
    hub: Path
    clients: set[Client]
    came: list[bytes]
    """What the server was told, by connection that has ended."""

    async def ask(self, said: bytes) -> bytes:
        """What is answered to this; the asker says that it has ended, and reads to the end."""
        reader, writer = await asyncio.open_unix_connection(self.door)
        writer.write(said)
        writer.write_eof()
        try:
            return await reader.read()
        except ConnectionResetError:  # an end, before all that was said was read
            return b""
        finally:
            writer.close()


@pytest.fixture
async def way(home: Home) -> AsyncIterator[Way]:
    """A server that answers with what it was told, once it has been told all."""
    came: list[bytes] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read())
        writer.write(came[-1])
        writer.close()

    made = Way(Relay("1", home.path / "hub"), str(home.path / "door"), home.path / "hub", set(), came)
    server = await asyncio.start_unix_server(echo, made.hub)
    await Client.open([sys.executable, "-I", "-S", str(SCRIPT), made.door], made.relay, made.clients)
    await until(lambda: made.relay.up, "it listens")
    yield made
    await made.relay.close()
    for client in list(made.clients):
        await client.wait()
    server.close()


async def test_what_is_said_comes_out_at_the_other_end_whole_and_so_does_the_answer(way: Way) -> None:
    said = [b"", b"x", b"a\0b\n", LONG, LONG[:2047], LONG[:2048], LONG[:2049]]
    assert await asyncio.gather(*map(way.ask, said)) == said


async def test_one_who_does_not_read_holds_up_nobody_and_little_of_his_answer_is_under_way(way: Way) -> None:
    reader, writer = await asyncio.open_unix_connection(way.door, limit=1)
    writer.write(LONG)
    writer.write_eof()
    await until(lambda: way.came, "the server was told all")
    assert await way.ask(b"hello") == b"hello"
    assert await reader.read() == LONG
    writer.close()


async def test_a_hub_that_is_away_is_an_end_and_one_that_is_back_answers(way: Way, home: Home) -> None:
    aside = way.hub.rename(home.path / "aside")
    assert await way.ask(b"hello") == b""
    aside.rename(way.hub)
    assert await way.ask(b"hello") == b"hello"


async def test_one_who_leaves_in_the_middle_is_an_end_to_the_hub(way: Way) -> None:
    _, writer = await asyncio.open_unix_connection(way.door)
    writer.write(b"hel")
    await writer.drain()
    writer.close()
    await until(lambda: way.came == [b"hel"], "the server has heard of it")
    assert await way.ask(b"hello") == b"hello"


async def test_after_its_end_nobody_listens_and_the_next_one_takes_its_place(way: Way) -> None:
    (first,) = way.clients
    first.kill()
    await first.wait()
    with pytest.raises(ConnectionRefusedError):
        await way.ask(b"hello")
    relay = Relay("1", way.hub)
    await Client.open([sys.executable, "-I", "-S", str(SCRIPT), way.door], relay, way.clients)
    await until(lambda: relay.up, "it listens")
    assert await way.ask(b"hello") == b"hello"
    await relay.close()
