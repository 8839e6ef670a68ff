"""What is wrong with a file that a person wrote: where, what, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong, or worth a warning."""

    file: str
    line: int
    """From 1, as is the column; 0 where there is no such place."""
    column: int
    path: str
    """The key's path, such as `spec.restart.policy`; empty for the whole file."""
    message: str
    nearest: str | None = None
    """The right name that comes closest."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: "
        what = f"{self.path}: {self.message}" if self.path else self.message
        return where + what + (f" (did you mean {self.nearest}?)" if self.nearest else "")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def dotted(path: Iterable[str | int]) -> str:
    """`spec.hooks.pre_start[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(word: str, right: Iterable[str]) -> str | None:
    """The right word that this one comes closest to, hyphens and case aside."""
    words = {_plain(known): known for known in right}
    found = difflib.get_close_matches(_plain(word), words, n=1, cutoff=0.6)
    return words[found[0]] if found else None


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
