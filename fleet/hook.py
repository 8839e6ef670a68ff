"""`fleet hook-event KIND`: a hook's event from stdin into the spool. It runs at every tool call of sessions that name
it in their settings, so it imports little, answers nothing, and always exits 0.

What is written is what harnesses/hook.sh writes, file names included; there is one way into the database.
"""
# ruff: noqa: PTH103, PTH104, PTH109, PTH108, PTH110, PTH118, PTH119, T201

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from fleet import places

USAGE = """\
Usage: fleet hook-event [KIND] [--agent NAME]

Takes the JSON of a hook on stdin and stores it as an event of the agent. Always exits 0 and prints nothing.

KIND   pretool, posttool, prompt, stop, other, or the program's own name of the event (PreToolUse, …);
       any other word is kept as it is. Without one, the JSON's hook_event_name counts.
NAME   the agent; else FLEET_AGENT, CLAUDE_AGENT_ID, SCITEX_OROCHI_AGENT or the folder's name.
"""

KINDS = {"pretool": "PreToolUse", "posttool": "PostToolUse", "prompt": "UserPromptSubmit", "stop": "Stop", "other": ""}
"""The short words for events, and the program's own."""

LONGEST_NAME = 63


def main(argv: Sequence[str]) -> int:
    """Run it; always 0."""
    try:
        if "--help" in argv or "-h" in argv:
            print(USAGE, end="")
            return 0
        kind, agent = _arguments(argv)
        _store(kind, agent_name(agent, os.environ, _folder), _stdin())
    except Exception as error:  # noqa: BLE001  a hook that fails must not touch the session it belongs to
        _complain(error)
    return 0


def agent_name(given: str | None, environ: Mapping[str, str], folder: Callable[[], str]) -> str:
    """Whose event it is: as given, by the environment, or by the folder it came from."""
    names = (given, *(environ.get(name) for name in ("FLEET_AGENT", "CLAUDE_AGENT_ID", "SCITEX_OROCHI_AGENT")))
    for name in names:
        if name and (cleaned := clean(name)):
            return cleaned
    path = environ.get("CLAUDE_PROJECT_DIR") or folder()
    return clean(os.path.basename(path.rstrip("/"))) or "unnamed"


def clean(name: str) -> str:
    """The nearest valid agent name: lower case, digits and single dashes; nothing of it can leave its folder."""
    if _plain(name, "-") and name == name.lower() and name == name.strip("-") and len(name) <= LONGEST_NAME:
        return name
    lowered = "".join(c.lower() if c.isascii() and c.isalnum() else "-" for c in name)
    return "-".join(part for part in lowered.split("-") if part)[:LONGEST_NAME].strip("-")


def _arguments(argv: Sequence[str]) -> tuple[str, str | None]:
    """KIND and NAME; what else is there is told, and passed over."""
    kind, agent = "", None
    words = iter(argv)
    for word in words:
        if word == "--agent":
            agent = next(words, None)
            if agent is None:
                _complain("--agent is given no name; the event is stored as without it")
        elif word.startswith("--agent="):
            agent = word.partition("=")[2]
        elif not word.startswith("-") and not kind:
            kind = word
        else:
            _complain(f"{word} is not understood, and passed over: `fleet hook-event --help` shows its form")
    return KINDS.get(kind.lower(), kind), agent


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""  # it was removed under the session


def _stdin() -> bytes:
    if sys.stdin is None or os.isatty(0):
        return b"{}"
    parts = []
    while part := os.read(0, 1 << 20):
        parts.append(part)
    return b"".join(parts) or b"{}"


def _store(kind: str, agent: str, content: bytes) -> None:
    folder = os.path.join(places.folders()[1], "spool", agent)
    os.umask(0o077)
    os.makedirs(folder, exist_ok=True)
    name = _file_name(kind)
    beside = os.path.join(folder, "." + name)
    try:
        with open(beside, "xb") as file:
            file.write(content)
        os.rename(beside, os.path.join(folder, name))
    except OSError:
        if os.path.lexists(beside):
            os.unlink(beside)
        raise


def _file_name(kind: str) -> str:
    generation = os.environ.get("FLEET_GENERATION", "")
    if not _plain(generation, "._-") or not generation[0].isalnum():
        generation = "_" + _boot()
    program = os.environ.get("CLAUDE_PID", "")
    if not (program.isascii() and program.isdigit()):
        program = str(os.getppid())
    kind = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in kind)[:64]
    return f"{generation},{program},{_clock()},{os.getpid()}" + (f",{kind}" if kind else "")


def _plain(text: str, also: str) -> bool:
    return bool(text) and all(c.isascii() and (c.isalnum() or c in also) for c in text)


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().partition("-")[0]
    except OSError:
        return ""


def _clock() -> str:
    """Seconds since boot, in hundredths as /proc/uptime has them; elsewhere whole seconds, as `date` has them."""
    if not os.path.exists("/proc/uptime"):
        return str(int(time.time()))
    hundredths = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 10_000_000
    return f"{hundredths // 100}.{hundredths % 100:02d}"


def _complain(error: Exception | str) -> None:
    """On stderr, for who types it; where that is closed too, nothing can be said."""
    try:
        print(f"fleet hook-event: {error}", file=sys.stderr)
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
