"""How long programs keep away from a hub that is away, without a hub and without waiting."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest

from fleet import hubcall
from fleet.hub import client as client_module
from fleet.hub.client import Client, Event

SOON_HEARD = 2.0
"""Seconds after its return within which a hub hears of whoever was there before."""


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each pause may be at most; none is made."""
    longest: list[float] = []

    def uniform(_: float, most: float) -> float:
        longest.append(most)
        return 0.0

    monkeypatch.setattr(client_module.random, "uniform", uniform)
    return longest


async def test_a_request_is_put_again_soon_however_long_the_hub_was_away(pauses: list[float]) -> None:
    async def once() -> str:
        if len(pauses) < 20:
            raise hubcall.WentAway()
        return "there"

    async with Client("http://127.0.0.1:9", token="t") as client:
        assert await client._again(once) == "there"
    assert pauses == sorted(pauses) and 0 < pauses[0] < pauses[-1] <= SOON_HEARD


async def test_who_follows_is_back_soon_however_long_the_hub_was_away(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def events(_: Client, streams: Sequence[str], after: str | None) -> AsyncGenerator[Event | None, None]:
        if len(pauses) < 20:
            raise hubcall.WentAway()
        yield Event("e:2", 0.0, "#general", "message", "web", {})

    monkeypatch.setattr(Client, "_events", events)
    async with Client("http://127.0.0.1:9", token="t") as client:
        assert (await anext(client.follow(after="e:1"))).position == "e:2"
    assert pauses == sorted(pauses) and 0 < pauses[0] < pauses[-1] <= SOON_HEARD
