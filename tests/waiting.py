"""Waiting for what must happen, in tests of what happens beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

DEADLINE = 150.0


async def until(what: Callable[[], Any], why: Callable[[], str] | str = "it", deadline: float = DEADLINE) -> Any:
    """What it gives, once that is something true; fail with `why` where it never is. What it gives may be awaited."""
    end = time.monotonic() + deadline
    while True:
        found = what()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {why if isinstance(why, str) else why()}")
        await asyncio.sleep(0.01)
