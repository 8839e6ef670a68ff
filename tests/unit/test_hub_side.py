"""What the operator is told of a hub that does not work as it should."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fleet.hubside import HubSide
from fleet.manifests.model import AgentSpec


def side(read_only: bool) -> HubSide:
    made = HubSide(*cast(Any, [None] * 5))
    made._exchange = cast(Any, SimpleNamespace(log=SimpleNamespace(read_only=read_only)))
    return made


async def test_a_fault_of_the_hub_fails_no_launch(caplog: pytest.LogCaptureFixture) -> None:
    made = side(read_only=False)
    made._tried.set()
    made._server = cast(Any, object())  # of the hub, nothing works that a token needs
    assert await made.admit(AgentSpec(name="web", harness="shell", command=("true",)), "web.1") is None
    assert "web is launched without the hub" in caplog.text


def test_a_hub_that_only_reads_since_the_disk_is_full_is_told() -> None:
    assert side(read_only=False).problems == []
    (told,) = side(read_only=True).problems
    assert "disk is full" in told
