"""Everything the commands print: results on stdout, messages on stderr.

A terminal that wants colours gets them, everyone else the same words as plain text. rich, which costs more than all
the rest of a command, is imported only for what is drawn again in place. What came from a pane, a hook or a manifest
is made printable first, so that it cannot steer the terminal.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from fleet.errors import FleetError

Cell = str | tuple[str, str]
"""A table's cell: its text, and with it the style that a terminal with colours gives it."""

HUES = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
SGR = {
    "bold": 1,
    "dim": 2,
    **{hue: 30 + number for number, hue in enumerate(HUES)},
    **{f"bright_{hue}": 90 + number for number, hue in enumerate(HUES)},
}
"""The words of a style, as a terminal knows them (ECMA-48, Select Graphic Rendition)."""

LAST_COLUMN = 24
"""What is left for the last column of a table is at least this wide, or it stands in lines of its own."""
INDENT = "    "

_CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "�")


def printable(text: object) -> str:
    """A text in which nothing but line ends and tabs is a control character."""
    return str(text).translate(_CONTROLS)


def colours() -> bool:
    """Whether stdout is a terminal that wants colours (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def result(text: str = "") -> None:
    """A line of the answer."""
    print(printable(text))


def message(text: str) -> None:
    """A line about the answer, for a person."""
    sys.stdout.flush()
    print(f"fleet: {printable(text)}", file=sys.stderr, flush=True)


def warnings(texts: Iterable[object]) -> None:
    """The warnings that came with an answer."""
    for text in texts:
        message(f"warning: {text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)}")


def verbatim(body: bytes) -> None:
    """JSON as the daemon wrote it."""
    sys.stdout.flush()
    sys.stdout.buffer.write(body.rstrip(b"\n") + b"\n")
    sys.stdout.buffer.flush()


def as_json(value: object) -> None:
    """A value as one line of JSON."""
    verbatim(json.dumps(value, ensure_ascii=False, default=str).encode(errors="backslashreplace"))


def envelope(data: object, warned: Sequence[str] = ()) -> None:
    """What this command found out itself, in the form of the daemon's answers."""
    as_json({"schema_version": 1, "generated_at": time.time(), "data": data, "warnings": list(warned)})


def error(problem: FleetError, as_json: bool) -> int:
    """Say what went wrong, where, and what to do; the exit code."""
    told = problem.to_json()
    if as_json:
        verbatim(json.dumps({"error": told}, ensure_ascii=False, default=str).encode(errors="backslashreplace"))
        return problem.exit_code
    for each in told.get("problems") or ():
        if not isinstance(each, Mapping) or str(each.get("message")) not in told["message"]:
            print(printable(_problem(each)), file=sys.stderr)
    *places, last = str(told["message"]).splitlines() or [""]
    for place in places:
        print(printable(place), file=sys.stderr)
    message(last)
    if told.get("hint"):
        print(f"  {printable(told['hint'])}", file=sys.stderr)
    return problem.exit_code


def _problem(problem: object) -> str:
    """One problem of a manifest, with its place."""
    if not isinstance(problem, Mapping):
        return str(problem)
    place = ":".join(str(problem[key]) for key in ("file", "line", "column") if problem.get(key) is not None)
    key = f"{problem['path']}: " if problem.get("path") else ""
    return f"{place}: {key}{problem.get('message', '')}" + (f" ({problem['hint']})" if problem.get("hint") else "")


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Columns under headings; for a program that reads them, one line a row, never cut or folded."""
    for line in (styled_table if colours() else plain_table)(headings, rows):
        print(line)


def plain_table(headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> list[str]:
    """The lines of a table without colours."""
    lines = [list(headings), *([_flat(cell) for cell in row] for row in rows)]
    widths = _widths(lines)
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def styled(text: str, style: str) -> str:
    """The text in its style, for a terminal with colours; a word that names none is passed over."""
    codes = ";".join(str(SGR[word]) for word in style.split() if word in SGR)
    return f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text


def styled_table(headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> list[str]:
    """The same for a terminal with colours; the last column is folded at its edge, in a narrow one below the others."""
    from textwrap import wrap

    rows = list(rows)
    lines = [[_flat(cell) for cell in row] for row in rows]
    widths = _widths([headings, *lines])
    before = sum(widths[:-1]) + 2 * len(widths[:-1])
    room = _columns() - before
    below = room < LAST_COLUMN
    if below:
        before, room = len(INDENT), max(LAST_COLUMN, _columns() - len(INDENT))
    drawn = [styled("  ".join(map(str.ljust, headings, widths)).rstrip(), "bold")]
    for row, line in zip(rows, lines, strict=True):
        styles = ["" if isinstance(cell, str) else cell[1] for cell in row]
        gaps = [" " * (width - len(text) + 2) for width, text in zip(widths, line, strict=True)]
        first, *folded = wrap(line[-1], room)
        if below:
            first, folded = "", [] if line[-1] == "-" else [first, *folded]
        cells = map(styled, [*line[:-1], first], styles)
        drawn.append("".join(cell + gap for cell, gap in zip(cells, [*gaps[:-1], ""], strict=True)).rstrip())
        drawn += [" " * before + styled(rest, styles[-1]) for rest in folded]
    return drawn


def _columns() -> int:
    """How wide the terminal is. (`shutil` would say it too, and costs as much as the rest of the table.)"""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):  # no terminal, or no file at all
        return 80


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _flat(cell: Cell) -> str:
    text = cell if isinstance(cell, str) else cell[0]
    return " ".join(printable(text).split()) or "-"


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line; further lines of a value stand under its first."""
    shown = [(name, value) for name, value in pairs if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *others = printable(value).splitlines() or [""]
        print(f"{name.ljust(width)}  {first}")
        for line in others:
            print(f"{' ' * width}  {line}")


def pieces(cells: Sequence[Cell]) -> None:
    """One line of pieces, each in its style where the terminal has colours."""
    if colours():
        print("  ".join(styled(_flat(c), "" if isinstance(c, str) else c[1]) for c in cells))
    else:
        print("  ".join(map(_flat, cells)))


def indented(text: str, indent: str) -> None:
    """A text of any lines, each set in: none of them can be taken for a heading."""
    for line in printable(text).splitlines() or [""]:
        print(f"{indent}{line}".rstrip())


class Screen:
    """A table that is drawn again in place; where stdout is no terminal, nothing is drawn."""

    def __enter__(self) -> Screen:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(highlight=False, markup=False), auto_refresh=False, screen=False)
        self._live.__enter__()
        return self

    def __exit__(self, *caught: object) -> None:
        self._live.__exit__(None, None, None)

    def draw(self, headings: Sequence[str], rows: Iterable[Sequence[Cell]], footer: str) -> None:
        from rich.console import Group
        from rich.text import Text

        drawn = Text.from_ansi("\n".join(styled_table(headings, rows)))
        self._live.update(Group(drawn, Text(footer, style="dim")), refresh=True)
