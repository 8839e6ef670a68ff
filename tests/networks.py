"""A network of its own for a host: a namespace of the kernel, and one cable to it that can be pulled.

Where a machine gives none, hosts are on loopback, each behind a wire (tests/sshd.py) that can swallow what is sent.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

IP = shutil.which("ip", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


class Network:
    """One. `close` takes it away. Raise `OSError` where this machine gives none."""

    def __init__(self) -> None:
        number = random.randrange(1 << 14)
        self._cable = f"fl{number}"
        self.name = f"fleet-{number}"
        base = f"10.251.{number >> 6}.{(number & 63) * 4}"
        ours, self.address = (f"{base.rpartition('.')[0]}.{(number & 63) * 4 + one}" for one in (1, 2))
        self.enter = ("nsenter", f"--net=/run/netns/{self.name}")
        """What a command begins with that runs there."""
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._cable, "type", "veth", "peer", "name", "there", "netns", self.name)
            _ip("addr", "add", f"{ours}/30", "dev", self._cable)
            _ip("link", "set", self._cable, "up")
            _ip("-n", self.name, "addr", "add", f"{self.address}/30", "dev", "there")
            _ip("-n", self.name, "link", "set", "lo", "up")
            self.heal()
            subprocess.run([*self.enter, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            raise OSError(str(error)) from error

    def cut(self) -> None:
        """Pull the cable at its far end: what is sent is lost, and nobody is told."""
        _ip("-n", self.name, "link", "set", "there", "down")

    def heal(self) -> None:
        _ip("-n", self.name, "link", "set", "there", "up")

    def close(self) -> None:
        _ip("netns", "del", self.name)


def _ip(*words: str) -> None:
    if IP is None:
        raise OSError("there is no `ip` (apt-get install iproute2)")
    done = subprocess.run([IP, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@functools.cache
def missing() -> str | None:
    """Why this machine gives no networks, or they are not wanted (`FLEET_TEST_LOOPBACK` says so)."""
    if os.environ.get("FLEET_TEST_LOOPBACK"):
        return "FLEET_TEST_LOOPBACK is set"
    if os.geteuid() != 0:
        return "only root may make networks"
    try:
        Network().close()
    except OSError as error:
        return str(error)
    return None


@contextmanager
def network() -> Iterator[Network | None]:
    """One, as long as it is needed; `None` where this machine gives none."""
    made = None if missing() else Network()
    try:
        yield made
    finally:
        if made is not None:
            made.close()
