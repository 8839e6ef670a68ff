"""`fleet explain --screen FILE`: what a saved screen means, and which rule says so. Needs no daemon."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from fleet.errors import Usage
from fleet.harnesses.screens import Rules
from fleet.health.classify import classify, pane_state
from fleet.settings import Places
from fleet.terms import Screen


def explain_screen(
    file: str,
    *,
    ansi: str | None = None,
    title: str | None = None,
    size: str | None = None,
    cursor: str | None = None,
    harness: str = "claude-code",
    version: str | None = None,
    dead: bool = False,
    exit_status: int | None = None,
    now: float | None = None,
    rules: Rules | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """The `data` of the answer, and warnings. `file` may be `-` for standard input.

    Without `ansi` next to it, the colours are unknown: a draft then often cannot be told from a hint.
    """
    rules = rules or Rules(Places.of().rules)
    known = rules.of(harness)
    if known is None:
        raise Usage(f"There are no screen rules for {harness!r}.", hint="--harness claude-code, or shell")
    width, height = _pair(size, "x", "--size", "120x40")
    screen = Screen(
        text=_read(file),
        ansi=_read(ansi) if ansi else None,
        title=title,
        width=width,
        height=height,
        cursor=_cursor(cursor),
        dead=dead,
        exit_status=exit_status,
    )
    verdict = classify(screen, known, version, now=now)
    data = {
        "activity": verdict.activity.value,
        "kind": verdict.kind.value if verdict.kind else None,
        "draft": verdict.draft,
        "pane_state": pane_state(verdict),
        "rule": verdict.rule,
        "evidence": verdict.evidence,
        "question": verdict.question,
        "options": list(verdict.options),
        "composer": verdict.composer,
        "background": verdict.background,
        "resets_at": verdict.resets_at,
        "resets_text": verdict.resets_text,
        "continues": verdict.continues,
        "harness": harness,
        "version": version,
    }
    return data, [f"The rules in {rules.folder} do not count: {why}" for why in rules.errors.values()]


def _read(name: str) -> str:
    """The text of a file, whatever bytes are in it."""
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as problem:
        raise Usage(
            f"{name} cannot be read: {problem.strerror}.", hint="`tmux capture-pane -p >FILE` saves one."
        ) from problem
    return raw.decode("utf-8", errors="replace").replace("\r\n", "\n")


def _pair(text: str | None, mark: str, option: str, sample: str) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    found = re.fullmatch(rf"(\d{{1,5}}){mark}(\d{{1,5}})", text.strip())
    if not found:
        raise Usage(f"{option} {text!r} is not understood.", hint=f"{option} {sample}")
    return int(found[1]), int(found[2])


def _cursor(text: str | None) -> tuple[int, int] | None:
    x, y = _pair(text, ",", "--cursor", "2,36")
    return None if x is None or y is None else (x, y)


def lines_of(data: dict[str, Any]) -> list[str]:
    """The same for a person: one fact a line."""
    shown = {k: v for k, v in data.items() if v not in (None, [], "", False)}
    return [f"{key:12} {json.dumps(value, ensure_ascii=False)}" for key, value in shown.items()]
