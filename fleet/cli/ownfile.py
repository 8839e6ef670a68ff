"""Files of the person's own, such as their settings or `.mcp.json`, written anew: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fleet.errors import NotAllowed


def replace(path: Path, content: bytes, mode: int) -> None:
    """Write beside, then rename; where the path is a link, the file it means. Raise `NotAllowed` where that cannot be
    done; the file is as it was then."""
    path, beside = path.resolve(), None
    try:
        number, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(beside).replace(path)
    except OSError as error:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
        raise NotAllowed(f"{path} could not be written ({error.strerror}); it is as it was.") from error


def mode_of(path: Path, new: int) -> int:
    """The mode that it has; `new` where it is not there yet."""
    return path.stat().st_mode & 0o7777 if path.exists() else new
