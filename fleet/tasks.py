"""What goes on beside: tasks that are held until they end, whose faults are told, and that end with their owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """The tasks of one owner."""

    def __init__(self, failed: Callable[[asyncio.Task[Any], BaseException], None]) -> None:
        """`failed` is told of every task that ends with a fault."""
        self._failed = failed
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(tuple(self._running))

    def begin(self, doing: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Do it beside. Once closed, nothing is done any more."""
        task = asyncio.get_running_loop().create_task(doing, name=name or getattr(doing, "__qualname__", None))
        self._running.add(task)
        task.add_done_callback(self._done)
        if self._closed:
            task.cancel()
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(task, error)

    async def close(self) -> None:
        """Cancel what goes on, and wait for its end."""
        self._closed = True
        for task in self:
            task.cancel()
        await asyncio.gather(*self, return_exceptions=True)
