"""Which dialogs fleet may settle by itself, and with which keys. Pure.

Only a startup dialog that the manifest's `auto_accept` names is ever settled, and one step at a time: move the
pointer, look again, and press Enter only when the screen shows the pointer on the option that is meant. The default
of these dialogs ends the program, they drop keys in their first moments, and their order changed between versions;
so nothing here counts keys ahead.

`answer` is what a person's decision about a permission, a plan or a question is in keys; fleet presses none of them by
itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fleet.harnesses.screens import RuleSet, version_of
from fleet.health.classify import View, classify
from fleet.terms import Activity, Kind, Screen

SETTLE = 0.3
"""A dialog just drawn drops keys: wait this many seconds, then look again and type."""


@dataclass(frozen=True, slots=True)
class Consent:
    """A startup dialog that `auto_accept` may settle."""

    name: str
    """The word in the manifest."""
    rules: frozenset[str]
    """The screen rules that know this dialog."""
    option: re.Pattern[str]
    """The option that consents."""


CONSENTS = (
    Consent("trust-folder", frozenset({"trust-folder"}), re.compile(r"^Yes, I trust this folder|^Yes, proceed")),
    Consent("bypass-permissions", frozenset({"bypass-permissions"}), re.compile(r"^Yes, I accept")),
    Consent("api-key", frozenset({"api-key"}), re.compile(r"^Yes\b")),
    Consent("mcp-servers", frozenset({"mcp-servers"}), re.compile(r"^Use this MCP server")),
)


@dataclass(frozen=True, slots=True)
class Step:
    """The next keys for a dialog."""

    consent: str
    keys: tuple[str, ...]
    """Names of keys as tmux has them."""
    last: bool
    """Whether these keys settle the dialog; else look again after them."""
    because: str
    """The option that is meant, as it stands on the screen: for the log."""


def next_step(screen: Screen, rules: RuleSet, auto_accept: Collection[str], version: str | None = None) -> Step | None:
    """The next keys for a startup dialog that `auto_accept` settles; `None`: hands off.

    Where the pointer cannot be seen, or two options would fit, nothing is pressed.
    """
    verdict = classify(screen, rules, version)
    if verdict.activity is not Activity.NEEDS_INPUT:
        return None
    consent = next((c for c in CONSENTS if c.name in auto_accept and verdict.rule in c.rules), None)
    if consent is None:
        return None
    view = View.of(screen, rules, version_of(version))
    fitting = [i for i, option in enumerate(view.options) if consent.option.search(option)]
    if len(fitting) != 1 or view.selected is None:
        return None
    wanted = fitting[0]
    if view.selected == wanted:
        return Step(consent.name, ("Enter",), True, view.options[wanted])
    return Step(consent.name, ("Down" if wanted > view.selected else "Up",), False, view.options[wanted])


NARROWEST: dict[Kind, tuple[re.Pattern[str], ...]] = {
    Kind.PERMISSION: (re.compile(r"^Yes$"), re.compile(r"^Yes, but ask again")),
    Kind.PLAN: (re.compile(r"manually approve"), re.compile(r"^Yes$"), re.compile(r"default \(ask each time\)")),
}
"""What a plain yes means, best first: this once, and no more. "Yes, and always allow …" is another decision."""


def answer(kind: Kind, decision: str, options: Sequence[str]) -> tuple[str, ...] | None:
    """The keys for a person's decision about a numbered dialog; `None` where it offers no such thing.

    `yes` takes the option that consents to no more than what is asked; `no` is Escape, which also interrupts the turn;
    a number is that option. Never a bare Enter, which takes whatever the pointer stands on.
    """
    if kind not in (Kind.PERMISSION, Kind.PLAN, Kind.QUESTION):
        return None
    if decision == "no":
        return ("Escape",)
    if decision == "yes":
        found = (i for want in NARROWEST.get(kind, ()) for i, option in enumerate(options, 1) if want.search(option))
        chosen = next(found, 0)
    else:
        chosen = int(decision) if decision.isdecimal() else 0
    return (str(chosen),) if 1 <= chosen <= min(len(options), 9) else None
