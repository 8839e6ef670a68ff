"""What goes on beside: held, told of where it fails, and ended with its owner."""

from __future__ import annotations

import asyncio

from fleet.tasks import Tasks
from fleet.testing import settle


class Owner:
    """Notes what its tasks end with."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.tasks = Tasks(lambda task, error: self.told.append((task.get_name(), str(error))))
        self.done: list[str] = []

    async def do(self, what: str) -> None:
        self.done.append(what)

    async def fail(self) -> None:
        raise ValueError("a fault")

    async def go_on(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            self.done.append("ended")


async def test_a_task_that_ends_is_held_no_more_and_nothing_is_told() -> None:
    owner = Owner()
    task = owner.tasks.begin(owner.do("it"))
    assert [*owner.tasks] == [task]
    await settle()
    assert (owner.done, [*owner.tasks], owner.told) == (["it"], [], [])


async def test_a_fault_is_told_with_the_name_of_what_failed() -> None:
    owner = Owner()
    owner.tasks.begin(owner.fail(), "first")
    owner.tasks.begin(owner.fail())
    await settle()
    assert owner.told == [("first", "a fault"), ("Owner.fail", "a fault")]


async def test_closed_what_goes_on_has_ended_and_nothing_begins() -> None:
    owner = Owner()
    owner.tasks.begin(owner.go_on())
    await settle()
    await owner.tasks.close()
    assert owner.done == ["ended"]
    owner.tasks.begin(owner.do("late"))
    await settle()
    assert (owner.done, [*owner.tasks], owner.told) == (["ended"], [], [])
