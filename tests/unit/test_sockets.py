"""Sockets that only their owner may speak to, and what is made while one is opened."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from fleet import sockets
from fleet.control import Operator, Server


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def open_to_all():
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_socket_is_its_owners_alone_whatever_the_umask(open_to_all: None, tmp_path: Path) -> None:
    made = sockets.bound(tmp_path / "s.sock")
    assert mode(tmp_path / "s.sock") == 0o600
    made.close()


async def test_what_is_made_while_a_socket_is_opened_has_the_mode_that_it_was_given(tmp_path: Path) -> None:
    server = Server(Operator(None, lambda: None))  # type: ignore[arg-type]
    listening = asyncio.create_task(server.listen(tmp_path / "run" / "control.sock"))
    modes = []
    while not listening.done():
        folder = tmp_path / f"spool-{len(modes)}"
        folder.mkdir(mode=0o700)
        modes.append(mode(folder))
        await asyncio.sleep(0)
    await listening
    await server.close()
    assert len(modes) > 1 and set(modes) == {0o700}, [oct(each) for each in modes]
