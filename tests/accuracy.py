"""How often a screen is judged rightly: `python tests/accuracy.py FOLDER…`, or `make accuracy CAPTURES=FOLDER`.

Every screen of `FOLDER/index.jsonl` (or of the folders in it) is judged only from what a pane can tell: its text,
colours, title, size, cursor, alternate screen, and whether its process is gone. Neither the state's name, nor the
note, the program's state file or a file's name is looked at. The version is the end of the folder's name.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.harnesses.screens import Rules, RuleSet
from fleet.health.classify import classify
from fleet.terms import Screen, Verdict

PROGRAMS = ("shell", "codex", "gemini", "opencode", "aider", "cursor")
"""Other programs than Claude Code; one without rules is unknown throughout."""


@dataclass(frozen=True)
class Case:
    """One captured screen, with the answers that are accepted."""

    folder: Path
    state: str
    size: str
    file: str
    screen: Screen
    expect: dict[str, Any]

    @property
    def version(self) -> str | None:
        found = re.search(r"(\d+\.\d+\.\d+)$", self.folder.name)
        return found[1] if found else None

    @property
    def harness(self) -> str:
        """The program, where the folder's name says it (`shell-…`, `codex-…`); else Claude Code."""
        return next((name for name in PROGRAMS if self.folder.name.startswith(name)), "claude-code")


def cases(folder: Path) -> Iterator[Case]:
    """The captures of a folder, and of the folders in it."""
    index = folder / "index.jsonl"
    if index.is_file():
        for line in index.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield _case(folder, json.loads(line))
    for inner in sorted(p for p in folder.iterdir() if p.is_dir()):
        yield from cases(inner)


def _case(folder: Path, row: dict[str, Any]) -> Case:
    text = folder / row["file"]
    ansi = text.with_suffix(".ansi")
    width, _, height = str(row.get("size", "")).partition("x")
    cursor = row.get("cursor")
    x, _, y = str(cursor).partition(",") if cursor else ("", "", "")
    screen = Screen(
        text=text.read_text(encoding="utf-8", errors="replace"),
        ansi=ansi.read_text(encoding="utf-8", errors="replace") if ansi.is_file() else None,
        title=row.get("title"),
        width=int(width) if width.isdigit() else None,
        height=int(height) if height.isdigit() else None,
        cursor=(int(x), int(y)) if x.isdigit() and y.isdigit() else None,
        alternate=row.get("alternate_screen"),
        dead=bool(row.get("dead")),
        exit_status=row.get("exit_status"),
    )
    return Case(folder, str(row.get("state", "")), str(row.get("size", "")), row["file"], screen, row["expect"])


def wrong(case: Case, verdict: Verdict) -> str | None:
    """What is wrong about a verdict; `None` where nothing is, or where it is only silent."""
    expect = case.expect
    if verdict.activity == "unknown":
        return None
    if verdict.activity not in expect["activity"]:
        return f"activity {verdict.activity}, not {'/'.join(expect['activity'])}"
    if "kind" in expect and verdict.kind not in expect["kind"]:
        return f"kind {verdict.kind}, not {'/'.join(expect['kind'])}"
    if "draft" in expect and verdict.draft is not expect["draft"]:
        return f"draft {verdict.draft}, not {expect['draft']}"
    return None


def silent(case: Case, verdict: Verdict) -> bool:
    """Whether a verdict is `unknown` where that is not accepted."""
    return verdict.activity == "unknown" and "unknown" not in case.expect["activity"]


@dataclass
class Tally:
    """How many screens of a state were judged, and how."""

    screens: int = 0
    wrong: int = 0
    unknown: int = 0


def judge_all(folders: list[Path], rules: Rules | None = None) -> tuple[dict[str, dict[str, Tally]], list[str]]:
    """Tallies by folder and state, and a line for each screen that is not right."""
    rules = rules or Rules()
    tallies: dict[str, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    lines = []
    for folder in folders:
        for case in cases(folder):
            known = rules.of(case.harness) or RuleSet(case.harness, (), ())
            verdict = classify(case.screen, known, case.version)
            tally = tallies[case.folder.name][case.state]
            tally.screens += 1
            if fault := wrong(case, verdict):
                tally.wrong += 1
                lines.append(f"WRONG    {case.folder.name}/{case.file}: {fault} (rule {verdict.rule})")
            elif silent(case, verdict):
                tally.unknown += 1
                lines.append(f"unknown  {case.folder.name}/{case.file} (composer {verdict.composer})")
    return tallies, lines


def table(tallies: dict[str, dict[str, Tally]], *, states: bool = True) -> Iterator[str]:
    """The tallies as lines of a table, by folder and state, each folder's sum after it."""
    yield f"{'folder':26} {'state':44} {'screens':>7} {'wrong':>6} {'unknown':>8}"
    for folder, by_state in tallies.items():
        for state, t in sorted(by_state.items()) if states else ():
            yield f"{folder:26} {state:44} {t.screens:7} {t.wrong:6} {t.unknown:8}"
        total = sum_of(by_state)
        yield f"{folder:26} {'ALL':44} {total.screens:7} {total.wrong:6} {total.unknown:8}"


def sum_of(by_state: dict[str, Tally]) -> Tally:
    every = by_state.values()
    return Tally(sum(t.screens for t in every), sum(t.wrong for t in every), sum(t.unknown for t in every))


def main(argv: list[str] | None = None) -> int:
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("folders", nargs="+", type=Path)
    ask.add_argument("--short", action="store_true", help="sums only")
    args = ask.parse_args(argv)
    if missing := [f for f in args.folders if not f.is_dir()]:
        print(f"no such folder: {missing[0]}", file=sys.stderr)
        return 2
    tallies, faults = judge_all(args.folders)
    for line in [*faults, "", *table(tallies, states=not args.short), ""]:
        print(line)
    total = sum_of({f: sum_of(s) for f, s in tallies.items()})
    print(f"{total.screens} screens, {total.wrong} wrong, {total.unknown} unknown")
    return 1 if total.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
