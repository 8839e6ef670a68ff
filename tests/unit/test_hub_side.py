"""What the operator is told of a hub that does not work as it should."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from fleet.hubside import HubSide


def side(read_only: bool) -> HubSide:
    made = HubSide(*cast(Any, [None] * 6))
    made._exchange = cast(Any, SimpleNamespace(log=SimpleNamespace(read_only=read_only)))
    return made


def test_a_hub_that_only_reads_since_the_disk_is_full_is_told() -> None:
    assert side(read_only=False).problems == []
    (told,) = side(read_only=True).problems
    assert "disk is full" in told
