"""A screen and its program's rules into a verdict, with its evidence. Pure.

Two steps. `View.of` takes the screen apart by how it is built, whatever it says: the composer with its draft, the
footer below it, the spinner and the last message above it, or the dialog that has the keyboard instead. Then the
rules speak, each about the region where its words mean something. So a quotation in an answer, a draft that looks
like a dialog, or a dead program's picture above a shell prompt never stand where a rule looks.

What holds: a screen that no rule knows is `unknown`; the composer counts only where the cursor says that it has the
keyboard; the program's own errors and limits are told from quotations by their colour, where there are colours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from fleet.harnesses.limits import parse_reset
from fleet.harnesses.screens import Layout, Rule, RuleSet, Version, version_of
from fleet.terms import Activity, Kind, Screen, Verdict

POINTER = "❯"
_GREYS = frozenset(f"{n}" for n in range(232, 256))
"""The colours of asides, by number."""
EXCERPT = 200
"""Characters of evidence that are kept."""

_RULE_LINE = re.compile(r"─(.*─)?\s*$")
_NAMED_RULE = re.compile(r"[^❯●]*\S ─+\s*$")
"""The composer's upper rule where the session's name takes all of a narrow screen's width."""
_SCROLLED = re.compile(r"─+ ↑ \d+ more ─+(?: \S.*\S? ─+)?\s*$")
_BORDER = re.compile(r"\s{0,4}[─▔]{8,}\s*$")
_SOFT_LINE = re.compile(r"\s*[╌─▔]{3,}\s*$|.*↑ \d+ more lines?\b")
_NOTICE = re.compile(r"\s{9,}\S")
_NUMBERED = re.compile(r"(?P<lead>\s*[❯↓↑>]?\s*)(?P<n>\d{1,2})\.\s?(?P<text>\S.*)$")
_POINTED = re.compile(r"(?P<lead>\s*❯ +)(?P<text>\S.*)$")
_SPINNER = re.compile(r"[·✢✳✶✻✽✺*●∗] ?\S")
_TURN_END = re.compile(r"[·✢✳✶✻✽✺*●∗] \S+ for (\d+[hms] ?)+")
_HEAD = re.compile(r"[●⏺❯>!·✢✳✶✻✽✺*∗](\s|$)")
_RESULT = re.compile(r"\s{1,4}⎿")
_SGR = re.compile(r"\x1b\[([0-9;:]*)m")
_OTHER_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-9;:?]*[A-Zac-ln-z]|\x1b[()][A-Z0-9]|[\x0e\x0f]"
)
_READER_SELECT = re.compile(r"Select with numbers? \[.*\]")
_READER_SAYS = re.compile(r"(you|claude|error|tool|tool error): ")


# -- colours -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Style:
    """What a character's look tells."""

    colour: str | None = None
    dim: bool = False
    inverse: bool = False


PLAIN = Style()


class Colours:
    """The styled characters of single rows, read on demand: colours carry over from row to row."""

    def __init__(self, ansi: str) -> None:
        self._text = _OTHER_ESCAPES.sub("", ansi) if "\x1b]" in ansi or "\x0e" in ansi or "\x1b(" in ansi else ansi

    @cached_property
    def _starts(self) -> list[int]:
        """Where each row begins."""
        return [0, *(m.end() for m in re.finditer("\n", self._text))]

    def row(self, number: int) -> list[tuple[str, Style]]:
        """The characters of a row with their style; a row that is not there is empty."""
        if number >= len(self._starts):
            return []
        start = self._starts[number]
        end = self._starts[number + 1] - 1 if number + 1 < len(self._starts) else len(self._text)
        style = self._before(start)
        out: list[tuple[str, Style]] = []
        at = start
        for found in _SGR.finditer(self._text, start, end):
            out += [(c, style) for c in self._text[at : found.start()]]
            style = _styled(style, found[1])
            at = found.end()
        return out + [(c, style) for c in self._text[at:end]]

    def _before(self, start: int) -> Style:
        """The style in force at a place: all changes since the last full reset before it."""
        reset = max(self._text.rfind(mark, 0, start) for mark in ("\x1b[0m", "\x1b[0;", "\x1b[m"))
        style = PLAIN
        for found in _SGR.finditer(self._text, max(reset, 0), start):
            style = _styled(style, found[1])
        return style


@lru_cache(maxsize=1024)
def _styled(style: Style, codes: str) -> Style:
    """The style after one SGR sequence. A program uses few of them, again and again."""
    colour, dim, inverse = style.colour, style.dim, style.inverse
    numbers = iter(codes.replace(":", ";").split(";"))
    for n in numbers:
        if n in ("", "0"):
            colour, dim, inverse = None, False, False
        elif n == "2":
            dim = True
        elif n == "22":
            dim = False
        elif n == "7":
            inverse = True
        elif n == "27":
            inverse = False
        elif n == "39":
            colour = None
        elif n in ("38", "48", "58"):
            chosen = _extended(numbers)
            colour = chosen if n == "38" else colour
        elif len(n) == 2 and n[0] in "39":
            colour = n
    return Style(colour, dim, inverse)


def _extended(numbers: Iterator[str]) -> str:
    """A colour by number (5;N) or by parts (2;R;G;B)."""
    how = next(numbers, "")
    return ";".join(next(numbers, "") for _ in range(3 if how == "2" else 1))


# -- the regions of a screen ---------------------------------------------------------------------------------------


def _written(screen: Screen) -> list[str]:
    """The lines of a screen, but for the empty ones at its end."""
    lines = screen.text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _cursor_line(screen: Screen, lines: Sequence[str]) -> str:
    """The cursor's line up to it."""
    x, y = screen.cursor or (0, 0)
    return lines[y][:x] if y < len(lines) else ""


@dataclass(slots=True)
class View:
    """A screen taken apart."""

    regions: dict[str, str] = field(default_factory=dict)
    """The regions there are; a rule about one that is missing does not hold."""
    options: tuple[str, ...] = ()
    selected: int | None = None
    """Which of the options the pointer stands on."""
    quoted: frozenset[str] = frozenset()
    """Regions whose colour says that the program did not say this itself."""
    draft: bool | None = None
    composer: bool | None = None

    @classmethod
    def of_line(cls, screen: Screen) -> View:
        """The cursor's line, and nothing else."""
        return cls({"line": _cursor_line(screen, _written(screen))} if screen.cursor else {})

    @classmethod
    def of(cls, screen: Screen, rules: RuleSet, version: tuple[int, ...] | None = None) -> View:
        """Take a screen apart."""
        lines = _written(screen)
        view = cls()
        if screen.title:
            view.regions["title"] = screen.title
        view._read_ends(screen, lines)
        colours = Colours(screen.ansi) if screen.ansi else None
        drawn = False
        for layout in rules.layouts:
            if version in layout.versions:
                found = _find_composer(lines, layout, screen)
                drawn = drawn or found is not None
                if found and _has_keyboard(found, lines, layout, screen):
                    view.composer = True
                    view._read_composer(found, lines, layout, screen, colours)
                    return view
        view.composer = False
        view._read_dialog(lines, screen, below=not drawn)
        return view

    def _read_ends(self, screen: Screen, lines: list[str]) -> None:
        """The lowest lines, and the cursor's line up to it."""
        tail: list[str] = []
        for line in reversed(lines):
            if line.strip():
                tail.append(line.rstrip())
                if len(tail) == 12:
                    break
        self.regions["tail"] = "\n".join(reversed(tail))
        if screen.cursor:
            self.regions["line"] = _cursor_line(screen, lines)

    def _read_composer(
        self, at: Composer, lines: list[str], layout: Layout, screen: Screen, colours: Colours | None
    ) -> None:
        """The draft, and the regions around it."""
        rows = [lines[at.first][at.indent :], *(line[2:] for line in lines[at.first + 1 : at.end])]
        typed = "\n".join(rows).strip("\n").rstrip()
        self.draft = True if at.command else _is_draft(rows, at, screen, colours)
        self.regions["composer"] = typed
        self.regions["hint"] = typed if typed and self.draft is False else ""
        if layout.reader:
            self._read_reader(lines, at)
            return
        self.regions["footer"] = "\n".join(line.strip() for line in lines[at.end + 1 :] if line.strip())
        self._read_messages(lines[: at.first - 1], colours)

    def _read_messages(self, lines: list[str], colours: Colours | None) -> None:
        """What stands above the composer: notices, the spinner, the last message."""
        end = len(lines)
        notices = []
        for i in range(end - 1, max(end - 5, -1), -1):
            if _NOTICE.match(lines[i]):
                notices.append(lines[i].strip())
            elif lines[i].strip():
                break
        self.regions["notice"] = "\n".join(notices)
        self.regions["spinner"] = self.regions["ended"] = ""
        row = _head_above(lines, end)
        while row is not None and _TURN_END.match(lines[row]):
            self.regions["ended"] = _said(lines, row, end)
            end, row = row, _head_above(lines, row)
        if row is not None and not self.regions["ended"] and _is_spinner(lines, row, colours):
            self.regions["spinner"] = _said(lines, row, end)
            end, row = row, _head_above(lines, row)
        if row is None:
            self._read_cut(lines[:end], colours)
        else:
            self._read_last(lines, row, end, colours)

    def _read_cut(self, lines: list[str], colours: Colours | None) -> None:
        """A last message whose beginning is out of sight."""
        self.regions["cut"] = _unwrapped(lines)
        rows = [colours.row(i) for i, line in enumerate(lines) if line.strip()] if colours else []
        seen = {style.colour for row in rows for c, style in row if not c.isspace()}
        if len(seen) == 1 and (only := seen.pop()) is not None:
            self.regions["colour"] = only
        if len(rows) < 2 or self.regions.get("colour") in (None, *_GREYS):
            self.quoted |= {"cut"}
        results = [i for i, line in enumerate(lines) if _RESULT.match(line)]
        if results and colours:
            self._read_reply(lines[results[-1] :], colours.row(results[-1]))

    def _read_last(self, lines: list[str], row: int, end: int, colours: Colours | None) -> None:
        """The last message: an answer, and what the program said itself below a prompt or a tool."""
        kept = [i for i in range(row, end) if not _NOTICE.match(lines[i])]
        answers = lines[row][0] in "●⏺"
        if answers:
            self.regions["answer"] = _unwrapped([lines[row][1:], *(lines[i] for i in kept[1:])])
            if colours and not _same_colour(colours.row(row), row_glyph=True):
                self.quoted |= {"answer"}
        elif lines[row][0] not in "❯>":
            return
        results = [i for i in kept if _RESULT.match(lines[i])]
        if not results or (answers and colours is None):
            return  # without colours a tool's output cannot be told from the program's word
        start = results[-1] if answers else results[0]
        self._read_reply([lines[i] for i in kept if i >= start], colours.row(start) if colours else None)

    def _read_reply(self, said: list[str], row: list[tuple[str, Style]] | None) -> None:
        """What the program put below a prompt or a tool."""
        self.regions["reply"] = _unwrapped([said[0].split("⎿", 1)[1], *said[1:]])
        if row and not _same_colour(row, row_glyph=False):
            self.quoted |= {"reply"}

    def _read_reader(self, lines: list[str], at: Composer) -> None:
        """Flat text: who speaks is told by a word."""
        above = [line for line in lines[: at.first] if line.strip()]
        self.regions["footer"] = "\n".join(above[-3:])
        self.regions["spinner"] = next((line for line in reversed(above[-4:]) if re.match(r"\S+…", line)), "")
        for i in range(len(above) - 1, -1, -1):
            if said := _READER_SAYS.match(above[i]):
                self.regions["answer"] = _unwrapped([above[i][said.end() :], *above[i + 1 : -1]])
                self.quoted |= set() if said[1] == "error" else {"answer"}
                return

    def _read_dialog(self, lines: list[str], screen: Screen, *, below: bool) -> None:
        """The dialog or menu that has the keyboard, if one does."""
        pointer = _find_pointer(lines, screen, below=below)
        if pointer is None:
            self._read_reader_dialog(lines, screen)
            return
        first, last, options, self.selected = _options_around(lines, pointer)
        self.options = tuple(options)
        top = next((i for i in range(first - 1, -1, -1) if _BORDER.match(lines[i])), -1)
        body = ["" if _SOFT_LINE.match(line) else line for line in lines[top + 1 : first]]
        paragraphs = _paragraphs(body)
        asked = [p for p in paragraphs if "?" in p]
        near = paragraphs[-1] if paragraphs else ""
        heading = next((line.strip() for line in body if line.strip()), "")
        self.regions["heading"] = heading
        asks = near if "?" in near else asked[-1] if asked else heading if top >= 0 else near
        self.regions["question"] = asks
        self.regions["options"] = "\n".join(options)
        self.regions["hints"] = _unwrapped(lines[last + 1 :])
        self.regions["dialog"] = _unwrapped(lines[top + 1 :])

    def _read_reader_dialog(self, lines: list[str], screen: Screen) -> None:
        """A dialog as flat text: numbered lines above the words that say how to choose."""
        row = screen.cursor[1] if screen.cursor else len(lines) - 1
        if not 0 <= row < len(lines) or not _READER_SELECT.match(lines[row]):
            return
        first = row
        while first > 0 and re.match(r"\d+\. ", lines[first - 1]):
            first -= 1
        self.options = tuple(re.sub(r"^\d+\. ", "", line).strip() for line in lines[first:row])
        self.regions["question"] = lines[first - 1].removeprefix("> ").strip() if first else ""
        self.regions["options"] = "\n".join(self.options)
        self.regions["hints"] = _unwrapped(lines[row:])
        self.regions["heading"] = next((x for x in reversed(lines[:first]) if x.startswith("Permission")), "")
        self.regions["dialog"] = _unwrapped(lines[max(0, first - 6) :])


@dataclass(frozen=True, slots=True)
class Composer:
    """Where the composer stands."""

    first: int
    end: int
    """The row of its lower rule, or one past the last row where there is none."""
    indent: int
    """Where its text begins on the first row."""
    command: bool
    closed: bool
    """Whether its lower rule is there."""
    flat: bool = False
    """A screen reader's: its prompt is followed by a space of its own."""


def _find_composer(lines: list[str], layout: Layout, screen: Screen) -> Composer | None:
    """The lowest composer that is drawn, if one is."""
    if layout.reader:
        return _find_reader_composer(lines, layout, screen)
    for i in range(len(lines) - 1, 0, -1):
        if not _RULE_LINE.match(lines[i - 1]) and not _NAMED_RULE.match(lines[i - 1]):
            continue
        command = layout.command.match(lines[i])
        found = command or layout.prompt.match(lines[i])
        if found or (_SCROLLED.match(lines[i - 1]) and lines[i][:2].strip() == ""):
            end = next((j for j in range(i + 1, len(lines)) if _RULE_LINE.match(lines[j])), len(lines))
            return Composer(i, end, found.end() if found else 2, command is not None, end < len(lines))
    return _find_tall_composer(lines, screen)


def _find_tall_composer(lines: list[str], screen: Screen) -> Composer | None:
    """A draft that is taller than the screen: its beginning is out of sight, the cursor is in what is left."""
    end = next((i for i, line in enumerate(lines) if _RULE_LINE.match(line)), None)
    if end is None or screen.cursor is None or not 0 <= screen.cursor[1] < end or screen.cursor[0] < 2:
        return None
    below = lines[end + 1 :]
    drafted = all(not line[:2].strip() for line in lines[:end]) and not any(_NUMBERED.match(x) for x in below)
    return Composer(0, end, 2, False, True) if drafted and len(below) < 6 else None


def _find_reader_composer(lines: list[str], layout: Layout, screen: Screen) -> Composer | None:
    """The last line, where it looks like a shell's prompt and the program's own words or title stand by it."""
    row = len(lines) - 1
    found = layout.prompt.match(lines[row]) if lines else None
    if not found or (screen.cursor and screen.cursor[1] != row):
        return None
    beside = any("mode on" in line or "/effort" in line for line in lines[max(0, row - 3) : row])
    titled = screen.title is not None and re.match(r"[✳◐◑\u2801-\u28ff] ", screen.title)
    return Composer(row, len(lines), found.end(), False, True, True) if beside or titled else None


def _has_keyboard(at: Composer, lines: list[str], layout: Layout, screen: Screen) -> bool:
    """Whether what is typed now goes into the composer."""
    if any(line[:1].strip() for line in lines[at.first + 1 : at.end]):
        return False  # something else was written over it: the program is gone
    if layout.reader:
        return True
    footer = at.closed and all(line[:1] in ("", " ", "/", "─") for line in lines[at.end + 1 :])
    if screen.cursor is None:
        return footer
    x, y = screen.cursor
    if not at.closed and y == len(lines) and x >= 2:
        y -= 1  # a draft at the screen's lower edge, and the cursor in its next, still empty line
    if at.first <= y < max(at.end, at.first + 1):
        return layout.cursor == "composer" and x >= 2 and (at.closed or y == len(lines) - 1)
    if layout.cursor == "below":
        return footer and x == 0 and y >= len(lines) - 1
    # After a resize or a clearing the cursor may rest a little off, where nothing is.
    return footer and y > at.first - 4 and (y >= len(lines) or not lines[y].strip())


def _is_draft(rows: list[str], at: Composer, screen: Screen, colours: Colours | None) -> bool | None:
    """Whether a person's text stands there: the program's own hints are dim, and the cursor stands before them."""
    beyond = screen.cursor is not None and (screen.cursor[1] > at.first or screen.cursor[0] > at.indent)
    inside = screen.cursor is not None and at.first <= screen.cursor[1] < max(at.end, at.first + 1)
    if not any(row.strip() for row in rows):
        return beyond and inside and not at.flat
    if colours is None:
        return True if beyond and inside else None
    looks = [
        style
        for i in range(at.first, at.first + len(rows))
        for c, style in colours.row(i)[at.indent if i == at.first else 0 :]
        if not c.isspace()
    ]
    bright = any(not style.dim and not style.inverse for style in looks)
    return bright or not any(style.dim for style in looks)


def _head_above(lines: list[str], end: int) -> int | None:
    """The last row before `end` on which a message begins: what follows it is indented."""
    return next((i for i in range(end - 1, -1, -1) if _HEAD.match(lines[i])), None)


def _is_spinner(lines: list[str], row: int, colours: Colours | None) -> bool:
    """Whether a turn is seen running there. With reduced motion the spinner is a bullet in the colour of its word;
    an answer's bullet is not."""
    if lines[row][0] == "●":
        return "…" in lines[row] and colours is not None and _same_colour(colours.row(row), row_glyph=True)
    return _SPINNER.match(lines[row]) is not None


def _said(lines: list[str], row: int, end: int) -> str:
    """The paragraph that begins on a row, without the notices at the right edge."""
    last = next((i for i in range(row, end) if not lines[i].strip()), end)
    return _unwrapped([line for line in lines[row:last] if not _NOTICE.match(line)])


def _same_colour(row: list[tuple[str, Style]], *, row_glyph: bool) -> bool:
    """Whether the program coloured the whole message: an answer's text is plain, whatever its bullet's colour."""
    if not row:
        return True
    start = 1 if row_glyph else next((i + 1 for i, (c, _) in enumerate(row) if c == "⎿"), 0)
    text = next((style for c, style in row[start:] if not c.isspace()), PLAIN)
    return text.colour is not None and (not row_glyph or text.colour == row[0][1].colour)


def _find_pointer(lines: list[str], screen: Screen, *, below: bool) -> int | None:
    """The row of the dialog's pointer: where the cursor stands, or the lowest one where the cursor is hidden."""
    if screen.cursor and screen.cursor[1] < len(lines):
        row = lines[screen.cursor[1]]
        if POINTER in row[: screen.cursor[0] + 1] and _POINTED.match(row):
            return screen.cursor[1]
        if screen.cursor[0] > 0 and row.strip():
            return None
    if not below or POINTER not in screen.text:
        return None
    for i in range(len(lines) - 1, max(len(lines) - 25, -1), -1):
        if lines[i][:1].strip() and not lines[i].startswith((POINTER, "Enter to", "Esc to", "navigate", "to cancel")):
            if _BORDER.match(lines[i]) or (_NUMBERED.match(lines[i]) is None and i < len(lines) - 4):
                return None
        elif _POINTED.match(lines[i]):
            return i
    return None


def _options_around(lines: list[str], pointer: int) -> tuple[int, int, list[str], int | None]:
    """First and last row of the options, the options themselves, and which one is pointed at."""
    if _NUMBERED.match(lines[pointer]):
        return _numbered(lines, pointer)
    column = len(_POINTED.match(lines[pointer])["lead"])  # type: ignore[index]
    first = last = pointer
    while first > 0 and _indent(lines[first - 1]) == column:
        first -= 1
    while last + 1 < len(lines) and _indent(lines[last + 1]) == column:
        last += 1
    rows = [line.replace(POINTER, " ", 1).strip() if i == pointer else line.strip()
            for i, line in enumerate(lines[first : last + 1], first)]  # fmt: skip
    return first, last, rows, pointer - first


def _numbered(lines: list[str], pointer: int) -> tuple[int, int, list[str], int | None]:
    """Numbered options: each begins with its number; further lines of it are indented at least as far."""
    column = _digit_column(lines[pointer])
    rows: dict[int, str] = {}
    first = pointer
    for i in range(pointer, -1, -1):
        if found := _NUMBERED.match(lines[i]):
            rows[i] = found["text"].strip()
            first = i
            if found["n"] == "1":
                break
        elif lines[i].strip() and _indent(lines[i]) < max(column - 1, 1) and not _SOFT_LINE.match(lines[i]):
            break
    last = pointer
    number = int(_NUMBERED.match(lines[pointer])["n"])  # type: ignore[index]
    for i in range(pointer + 1, len(lines)):
        found = _NUMBERED.match(lines[i])
        if found and int(found["n"]) == number + 1:
            rows[i], number, last = found["text"].strip(), number + 1, i
        elif lines[i].strip() and not _SOFT_LINE.match(lines[i]) and _indent(lines[i]) < column:
            break
        elif lines[i].strip() and not _SOFT_LINE.match(lines[i]):
            last = i if last in (i - 1, pointer) or i - last < 2 else last
    order = sorted(rows)
    texts = []
    for i in order:
        more = [rows[i]]
        for line in lines[i + 1 : last + 1]:
            if not line.strip() or _NUMBERED.match(line) or _SOFT_LINE.match(line) or _indent(line) < column:
                break
            more.append(line.strip())
        texts.append(" ".join(more))
    return first, last, texts, order.index(pointer) if pointer in order else None


def _digit_column(line: str) -> int:
    found = _NUMBERED.match(line)
    return len(found["lead"]) if found else _indent(line)


def _indent(line: str) -> int:
    """How far a line is indented; -1 where it is blank."""
    return len(line) - len(line.lstrip(" ")) if line.strip() else -1


def _paragraphs(lines: list[str]) -> list[str]:
    """Lines as paragraphs, each on one line."""
    out: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            out[-1].append(line.strip())
        elif out[-1]:
            out.append([])
    return [" ".join(p) for p in out if p]


def _unwrapped(lines: list[str]) -> str:
    """Lines as one, so that a rule need not know where a width breaks them."""
    return " ".join(" ".join(lines).split())


# -- the verdict ---------------------------------------------------------------------------------------------------


def classify(screen: Screen, rules: RuleSet, version: str | None = None, *, now: float | None = None) -> Verdict:
    """What a screen means.

    `version` is the program's, where it is known; `now` lets a limit's end be given as a time.
    """
    if screen.dead:
        status = "" if screen.exit_status is None else f"exit status {screen.exit_status}"
        return Verdict(Activity.EXITED, rule="dead", evidence=status, composer=False)
    number = version_of(version)
    if rules.line_only and not _any_holds(rules, View.of_line(screen), number):
        return Verdict(Activity.UNKNOWN, rule="no-rule", composer=False)
    view = View.of(screen, rules, number)
    for rule in rules.rules:
        if rule.speaks_of(number) and (evidence := _holds(rule, view)) is not None:
            return _verdict(rule, evidence, view, rules, now)
    return Verdict(Activity.UNKNOWN, rule="no-rule", draft=view.draft, composer=view.composer)


def _any_holds(rules: RuleSet, view: View, number: Version | None) -> bool:
    return any(rule.speaks_of(number) and _holds(rule, view) is not None for rule in rules.rules)


def _holds(rule: Rule, view: View) -> str | None:
    """The line that a rule matched, or `None`."""
    if rule.own and any(region in view.quoted for region, _ in rule.when):
        return None
    evidence: str | None = None
    for region, pattern in rule.when:
        text = view.regions.get(region)
        found = pattern.search(text) if text is not None else None
        if found is None or text is None:
            return None
        evidence = _line_of(text, found) if evidence is None else evidence
    for region, pattern in rule.unless:
        text = view.regions.get(region)
        if text is not None and pattern.search(text):
            return None
    return evidence


def _line_of(text: str, found: re.Match[str]) -> str:
    start = text.rfind("\n", 0, found.start()) + 1
    end = text.find("\n", found.end())
    line = text[start : end if end >= 0 else len(text)].strip()
    if len(line) <= EXCERPT:
        return line
    cut = max(0, found.start() - start - 20)
    return line[cut : cut + EXCERPT]


def _verdict(rule: Rule, evidence: str, view: View, rules: RuleSet, now: float | None) -> Verdict:
    asks = rule.activity in (Activity.NEEDS_INPUT, Activity.LIMITED) and not view.composer
    words = _reset_words(view, rules) if rule.activity is Activity.LIMITED else None
    return Verdict(
        activity=rule.activity,
        rule=rule.name,
        evidence=evidence,
        kind=rule.kind,
        draft=view.draft,
        question=(view.regions.get("question") or view.regions.get("heading") or None) if asks else None,
        options=view.options if asks else (),
        resets_at=parse_reset(words, now) if words and now is not None else None,
        resets_text=words,
        background=_in_background(view, rules),
        continues=rule.continues,
        composer=view.composer,
    )


def _in_background(view: View, rules: RuleSet) -> bool | None:
    """Whether work in the background is announced; not told while a dialog hides the footer."""
    if not view.composer:
        return None
    return any(pattern.search(view.regions.get(region, "")) for region, pattern in rules.background)


def _reset_words(view: View, rules: RuleSet) -> str | None:
    if rules.resets is None:
        return None
    for region in ("footer", "reply", "answer", "tail"):
        if found := list(rules.resets.finditer(view.regions.get(region, ""))):
            return found[-1]["when"].strip()
    return None


def pane_state(verdict: Verdict) -> str:
    """The seed format's one word for it: running, idle_prompt, y_n_prompt, auth_error, compose_pending_unsent,
    limit_reached, unknown."""
    if verdict.activity in (Activity.WORKING, Activity.BOOTING):
        return "running"
    if verdict.activity is Activity.LIMITED:
        return "limit_reached"
    if verdict.activity is Activity.NEEDS_INPUT:
        return "y_n_prompt" if verdict.kind is not Kind.LOGIN else "auth_error"
    if verdict.activity is Activity.ERROR and verdict.kind is Kind.LOGIN:
        return "auth_error"
    if verdict.activity in (Activity.READY, Activity.ERROR) and verdict.draft:
        return "compose_pending_unsent"
    return "idle_prompt" if verdict.activity is Activity.READY else "unknown"
