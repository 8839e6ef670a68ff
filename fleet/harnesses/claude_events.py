"""The hook events of Claude Code, each with the version it came with.

An event name that the installed program does not know opens a dialog at its start, and its whole settings file is
skipped. So nothing is written into settings but what `known` gives. Taken from the programs themselves: 2.0.65, 2.1.2,
2.1.90, 2.1.200, 2.1.210, 2.1.225, 2.1.250, 2.1.270, 2.1.289, 2.1.310 and 2.1.329; an event counts from the oldest of
these that has it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

SINCE: dict[tuple[int, int, int], tuple[str, ...]] = {
    (2, 0, 65): (
        "PreToolUse", "PostToolUse", "PostToolUseFailure", "Notification", "UserPromptSubmit", "SessionStart",
        "SessionEnd", "Stop", "SubagentStart", "SubagentStop", "PreCompact", "PermissionRequest",
    ),
    (2, 1, 90): (
        "StopFailure", "PostCompact", "PermissionDenied", "Setup", "TeammateIdle", "TaskCreated", "TaskCompleted",
        "Elicitation", "ElicitationResult", "ConfigChange", "WorktreeCreate", "WorktreeRemove", "InstructionsLoaded",
        "CwdChanged", "FileChanged",
    ),
    (2, 1, 200): ("PostToolBatch", "UserPromptExpansion", "MessageDisplay"),
    (2, 1, 225): ("DirectoryAdded",),
    (2, 1, 270): ("PreModelSwitch", "PostModelSwitch"),
}  # fmt: skip

ALL = tuple(event for events in SINCE.values() for event in events)

UNHEARD = frozenset({"MessageDisplay", "PostToolBatch", "FileChanged", "WorktreeCreate", "WorktreeRemove"})
"""Events that no hook of fleet's is given for: the first two come often and say nothing new; the third comes only for
paths that were asked for; a hook on the last two is expected to make and remove the worktree itself."""

ARGS_SINCE = (2, 1, 200)
"""From here on a hook's `args` run its command without a shell; before, they are ignored."""


def known(version: str | None) -> tuple[str, ...]:
    """The events that this version knows; of one that could not be asked, those that every version knows."""
    numbers = _numbers(version) or min(SINCE)
    return tuple(event for since, events in SINCE.items() if since <= numbers for event in events)


def heard(version: str | None) -> tuple[str, ...]:
    """The events that fleet's hooks are given for."""
    return tuple(event for event in known(version) if event not in UNHEARD)


def takes_args(version: str | None) -> bool:
    """Whether a hook can be given as a program and its arguments."""
    numbers = _numbers(version)
    return numbers is not None and numbers >= ARGS_SINCE


def shell_line(argv: Sequence[str]) -> str:
    """A hook as a shell line, for a program that does not. The shell makes way for it, so that its parent is the
    program, whose pid the older versions do not tell."""
    return f"exec {shlex.join(argv)}"


def _numbers(version: str | None) -> tuple[int, int, int] | None:
    parts = (version or "").split("-")[0].split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        return None
    return int(parts[0]), int(parts[1]), int(parts[2])
