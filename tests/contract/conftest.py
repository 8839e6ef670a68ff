"""Every test here runs on every host."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.hosts import Host, Kit, LocalHost, MemoryHost
from tests.homes import Home


@pytest.fixture(params=["memory", "tmux", "screen"])
async def host(request: pytest.FixtureRequest, home: Home) -> AsyncIterator[Host]:
    made: Host = MemoryHost() if request.param == "memory" else LocalHost(home.path, request.param)
    yield made
    await made.close()


@pytest.fixture
def kit(host: Host) -> Kit:
    return Kit(host)
