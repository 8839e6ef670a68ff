"""docs/architecture.md, drawn from the rows that tests/test_house.py checks and from each module's first sentence."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.test_house import DOORS, FLEET, PURE, ROWS, rooms

INTRODUCTION = """\
# Architecture

<!-- Drawn from the code by `make docs`; change the code, not this page. -->

How the code of fleet is laid out. A reader who wants one thing finds its room here; a writer finds out where a new
thing belongs.

## The idea

**One place decides, another acts.** Whether a dead agent comes back, what a screen means, which keys answer a dialog:
functions from values to values, without a clock, a file or a process in them. Around them stand thin modules that
launch, type, store and serve.

**Wanting and being are kept apart.** A person says that an agent should be up, or down. A look at its host says what
is. The table in `fleet/lifecycle.py` says what follows from the two ([States](states.md)).

**First the ledger, then the deed.** What is going to be done is on the disk before it is begun. A daemon that is
killed at any line reads the ledger when it is back, looks at the hosts, and the same table carries on from there.
Taking over agents that outlived their daemon needs no code of its own.

**Not seen is not gone.** A host that does not answer says nothing about its agents: they keep what they were, and
are shown as that, with its age.

## From a manifest to a state

1. The CLI turns a command line into one line of JSON for the daemon's socket (`cli`, `client`, `control`).
2. The manifest is read into an `AgentSpec`, or refused with all of its problems (`manifests`).
3. The agent's runner asks the life table, mints the handle of the launch, and writes both down (`runner`, `lifecycle`,
   `agent`, `ledger`).
4. Harness and plan decide everything about the launch; the runtime puts a launcher beside the program and starts both
   (`preparing`, `harnesses`, `plan`, `runtimes`). It is seen through to its first message (`starting`).
5. The program's hooks leave events in the spool, its pane changes, its files say how it stands. Each of these is
   evidence (`senses`, `spool`, `runtimes`, `harnesses`, `health/classify`).
6. The judge makes one state of the evidence, and who said what is kept (`health/judge`, `known`); the report shows it
   (`report`).
7. When the program ends, its launcher leaves the exit status. The life table and the budget decide what follows
   (`lifecycle`, `health/restart`), the supervisor's brake when (`supervisor`, `brake`).

## From a message to its recipient

1. A message comes in by a door: HTTP, the WebSocket, MCP, A2A, orochi's ports (`hub/app`, `hub/websocket`, `hub/mcp`,
   `hub/a2a`, `hub/orochi`). The token says who speaks (`hub/auth`); the door hands the rest over as it came.
2. The exchange does what is asked, the same for every door. Its verbs are in three parts, on one base (`hub/exchange`;
   `hub/talk`, `hub/reading`, `hub/membership`; `hub/base`).
3. What came is read or refused (`hub/submission`), its names become those who hear it (`hub/routing`), and the
   guardrails say why it may not pass, if it may not (`hub/guardrails`; `hub/books` counts for them).
4. The log takes it: one append, on the disk before anybody is told (`hub/log`). Everything else that the hub keeps
   follows from the log: receipts (`hub/mailbox`), conversations and questions (`hub/threads`), members
   (`hub/registry`), history and search (`hub/projection`).
5. The tail of the log drives what goes out: events to whoever listens (`hub/stream`), the end of a question to whoever
   waits for it (`hub/asks`).
6. The courier brings the message into the agent (`hub/courier`). When, and by which way, is decided from values
   (`hub/delivery`); the acts are those of `hub/reach`, done by `reach` through runtimes and harnesses, for an agent
   without a pane by `headless`.
7. What proves that it arrived is read from the agent's side, and is one more event in the log.

## One package, five doors

All code is in the import package `fleet`. `manifests`, `templates`, `runtimes`, `hub` and `health` at the top of the
repository are links into it, for people who look there; nothing imports through them. Why:
[decision 1](decisions/0001-one-import-package.md).
"""
ROWS_TEXT = """
## The rows

A room imports only from rows below its own. The test `tests/test_house.py` reads every import and says where one does
not; a new room gets its place there.
"""
BETWEEN = """
Rooms of one row are strangers. Where two of them have to work together, a room above hands one of them a function or
a value of the other. Words that many need, such as `Phase` or `Handle`, stand in `terms`, at the bottom.

The pure core does no input or output and reads no clock; time and chance are arguments. It is
{pure}.

Each library comes in by one door, so that what runs at every tool call of an agent loads none of them:

{doors}

## The rooms
"""


def drawn() -> str:
    """The whole page."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield INTRODUCTION.rstrip("\n")
    yield ROWS_TEXT
    yield "```"
    present = rooms()
    for number, row in reversed(list(enumerate(ROWS))):
        if here := [room for room in row if room in present]:
            yield f"{number:>2}  {'   '.join(here)}"
    yield "```"
    pure = ", ".join(f"`{file.removesuffix('.py')}`" for file in PURE if (FLEET / file).exists())
    yield BETWEEN.format(pure=pure, doors="\n".join(_doors())).rstrip("\n")
    for row in reversed(ROWS):
        for room in row:
            if room in present:
                yield ""
                yield from _room(room)


def _doors() -> Iterator[str]:
    for library, doors in sorted(DOORS.items()):
        open_ones = [door for door in doors if (FLEET / door).exists()]
        if open_ones:
            yield f"- {library}: {', '.join(f'`{door}`' for door in open_ones)}"


def _room(room: str) -> Iterator[str]:
    folder = FLEET / room
    if not folder.is_dir():
        yield f"**`{room}.py`** {_first_sentence(FLEET / f'{room}.py')}"
        return
    yield f"**`{room}/`** {_first_sentence(folder / '__init__.py')}"
    members = list(_members(folder))
    if members:
        yield ""
        yield from members


def _members(folder: Path) -> Iterator[str]:
    for file in sorted(folder.iterdir()):
        if file.suffix in (".py", ".sh") and file.name != "__init__.py":
            yield f"- `{file.name}` {_first_sentence(file)}"
        elif (file / "__init__.py").exists():
            yield f"- `{file.name}/` {_first_sentence(file / '__init__.py')}"


def _first_sentence(file: Path) -> str:
    """What the file says that it is, up to the first full stop."""
    text = " ".join(_opening(file).split())
    found = re.match(r"(.*?[.?!])(?=\s|$)", text)
    return found[1] if found else f"{text.rstrip(':')}."


def _opening(file: Path) -> str:
    if file.suffix == ".py":
        return ast.get_docstring(ast.parse(file.read_text())) or ""
    lines = file.read_text().splitlines()
    comment = [line.removeprefix("#").strip() for line in lines[1:8] if line.startswith("#")]
    return " ".join(comment).split(":")[0]
