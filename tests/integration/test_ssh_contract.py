"""What every runtime promises, on another machine: the contract of tests/contract over a real sshd."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.hosts import Kit
from tests.contract.test_runtime import *  # noqa: F403 (every promise, on this host)
from tests.homes import Home
from tests.sshd import SshHost, needs_sshd

pytestmark = [pytest.mark.real, needs_sshd]


@pytest.fixture
async def host(home: Home) -> AsyncIterator[SshHost]:
    made = SshHost(home.path)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def kit(host: SshHost) -> Kit:
    return Kit(host)
