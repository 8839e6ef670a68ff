"""How a text is typed into a program: which keys, in which pieces, how far apart. Pure.

Measured rules (Claude Code on tmux): several pieces of at most 700 characters 15 ms apart arrive as typed text;
one burst arrives as a paste with a warning, or is cut. Enter goes on its own, 150 ms after the last piece.
"""

from __future__ import annotations

from dataclasses import dataclass

PIECE = 700
PAUSE = 0.015
BEFORE_ENTER = 0.15
COMMAND_MARKS = ("!", "/", "#", "@")
"""With one of these in front a program runs a shell, a command or a lookup instead of reading a message."""


@dataclass(frozen=True, slots=True)
class Press:
    """Keys to send, as text or by name, and how long to wait afterwards (seconds)."""

    keys: tuple[str, ...]
    literal: bool
    pause: float


def harmless(text: str) -> str:
    """The text without control characters (but newlines), and never beginning or ending as a command."""
    kept = "".join(c for c in text.replace("\r\n", "\n").replace("\t", "    ") if c == "\n" or c.isprintable())
    kept = kept.strip("\n")
    if kept.startswith(COMMAND_MARKS):
        kept = "Message: " + kept
    return kept + " " if kept.endswith("\\") else kept


def typed(text: str, newline: str) -> tuple[Press, ...]:
    """The presses that put `text` into a composer, without the Enter that submits it.

    `newline` is the program's own key for a new line that does not send.
    """
    presses: list[Press] = []
    for n, line in enumerate(harmless(text).split("\n")):
        if n:
            presses.append(Press((newline,), literal=False, pause=PAUSE))
        for at in range(0, len(line), PIECE):
            presses.append(Press((line[at : at + PIECE],), literal=True, pause=PAUSE))
    return tuple(presses)
