"""Unix sockets that only their owner may speak to."""

from __future__ import annotations

import socket
from pathlib import Path


def bound(path: Path) -> socket.socket:
    """A socket by that name, 0600 before anybody can connect to it. (Not by the umask, which is the whole process's:
    what others make at that moment would have the wrong mode.) Raise `OSError` where the name cannot be had."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        made.close()
        raise
    return made
