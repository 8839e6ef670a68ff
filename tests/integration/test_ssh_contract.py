"""What every runtime promises, on another machine: the contract of tests/contract over a real sshd in a network of its
own (tests/networks.py says what it is where there are none)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests import networks
from tests.contract.hosts import Kit
from tests.contract.test_runtime import *  # noqa: F403 (every promise, on this host)
from tests.homes import Home
from tests.networks import Network
from tests.sshd import SshHost, needs_sshd

pytestmark = [pytest.mark.real, needs_sshd]


@pytest.fixture(scope="module")
def network() -> Iterator[Network | None]:
    with networks.network() as made:
        yield made


@pytest.fixture
async def host(home: Home, network: Network | None) -> AsyncIterator[SshHost]:
    made = SshHost(home.path, network=network)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def kit(host: SshHost) -> Kit:
    return Kit(host)
