"""The tables of docs/hub.md, drawn from the code: roles, limits, refusals, states, reasons, ways, outcomes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from enum import StrEnum
from pathlib import Path

from fleet import hubcall
from fleet.cli import ask, standing
from fleet.hub import wire
from fleet.hub.auth import Role
from fleet.hub.message import Code, Intent, Outcome, Way
from fleet.hub.routing import Hears
from fleet.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "hub.md"
SECTION = re.compile(r"(<!-- drawn: (?P<name>[a-z]+) -->\n).*?(<!-- /drawn -->)", re.S)

REFUSALS: Mapping[Code, str] = {
    Code.UNKNOWN_RECIPIENT: "Nobody is called that. The whole message is refused; the nearest names are told.",
    Code.NOT_ALLOWED: "The token's role, or `hub.may` in the agent's manifest, does not have it.",
    Code.WAKE_NOT_ALLOWED: "`wake` was asked for a broadcast, and the sender's manifest does not have `hub.wake`.",
    Code.HOP_LIMIT: "The exchange has gone back and forth often enough.",
    Code.ONLY_THANKS: "A reply that says thanks and nothing else goes nowhere.",
    Code.RATE_LIMITED: "The sender speaks too fast.",
    Code.PAIR_LIMITED: "One has caused the other too many turns within a minute.",
    Code.CONVERSATION_LIMITED: "The conversation has caused too many turns within a minute.",
    Code.CONVERSATION_EXHAUSTED: "It has caused too many in all.",
    Code.MAILBOX_FULL: "Too many messages wait for a recipient already.",
    Code.THREAD_TERMINATED: "An operator has ended the conversation.",
    Code.ID_TAKEN: "The idempotency key stands for another message.",
    Code.TOO_LARGE: "The text, the file or the metadata is too large.",
}
"""The refusals that a sender meets; the other codes say that a request was written wrongly."""

GUARDS = (
    "hub_max_hops",
    "hub_sender_rate",
    "hub_sender_burst",
    "hub_pair",
    "hub_conversation",
    "hub_conversation_total",
    "hub_window",
    "hub_message_kb",
    "hub_waiting",
    "hub_attachment_mb",
    "hub_ask_timeout",
)
"""The settings by which the guardrails are set."""

WAYS: Mapping[Way, str] = {Way.TYPED: "Typed into its prompt, as a person would."}
HEARS: Mapping[Hears, str] = {Hears.ALL: "Everything that is said there."}
OUTCOMES: Mapping[Outcome, str] = {
    Outcome.ANSWERED: "The answer is printed.",
    Outcome.DECLINED: "Whoever was asked will not answer, and says why.",
    Outcome.FAILED: "It could not be delivered, or its turn failed for good.",
    Outcome.TIMED_OUT: "No answer within `--timeout`. A later one is still found in the conversation.",
    Outcome.CANCELLED: "It was taken back, or its conversation was ended.",
    Outcome.EXPIRED: "Its `expires_in` was over before it was delivered.",
}


def drawn() -> str:
    """The page, with its tables as the code has them."""

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n" + "\n".join(TABLES[found["name"]]()) + f"\n\n{found[3]}"

    return SECTION.sub(table, PAGE.read_text())


def docs_of(enum: type[StrEnum], more: Mapping[StrEnum, str] | None = None) -> Iterator[tuple[StrEnum, str]]:
    """Each member of an enum with the text that stands below it in the code."""
    (tree,) = ast.parse(inspect.getsource(enum)).body
    assert isinstance(tree, ast.ClassDef)
    told = dict(more or {})
    name = ""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            told.setdefault(enum[name], " ".join(str(node.value.value).split()))
    for member in enum:
        yield member, told[member]


def comments_of_settings() -> dict[str, str]:
    """What stands beside each setting in the code."""
    source = inspect.getsource(Settings)
    return dict(re.findall(r"^    (\w+): [^#\n]*# (.*)$", source, re.M))


def _rows(headings: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def roles() -> Iterator[str]:
    return _rows(("role", "may"), ((f"`{role}`", words) for role, words in docs_of(Role)))


def guards() -> Iterator[str]:
    comments = comments_of_settings()
    defaults = {field.name: field.default for field in fields(Settings)}
    rows = ((f"`{name}`", f"{defaults[name]:g}", comments[name]) for name in GUARDS)
    return _rows(("setting", "default", "means"), rows)


def refusals() -> Iterator[str]:
    def rows() -> Iterator[tuple[str, ...]]:
        for code, words in REFUSALS.items():
            status = wire.STATUS.get(code, 400)
            later = {"retry_after": 1} if status == 429 else {}
            yield f"`{code}`", str(status), str(hubcall.exit_code(status, code, later)), words

    return _rows(("code", "HTTP", "exit code", "why"), rows())


def states() -> Iterator[str]:
    rows = ((f"`{state}`", f"{words[0].upper()}{words[1:]}.") for state, words in standing.STATES.items())
    return _rows(("state", "means"), rows)


def reasons() -> Iterator[str]:
    rows = ((f"`{reason}`", f"{words[0].upper()}{words[1:]}.") for reason, words in standing.REASONS.items())
    return _rows(("reason", "a message waits, because"), rows)


def ways() -> Iterator[str]:
    return _rows(("way", "how it came"), ((f"`{way}`", words) for way, words in docs_of(Way, WAYS)))


def intents() -> Iterator[str]:
    return _rows(("intent", "the sender wants"), ((f"`{intent}`", words) for intent, words in docs_of(Intent)))


def hears() -> Iterator[str]:
    return _rows(("hears", "means"), ((f"`{word}`", words) for word, words in docs_of(Hears, HEARS)))


def outcomes() -> Iterator[str]:
    rows = ((f"`{outcome}`", str(ask.EXIT[outcome]), OUTCOMES[outcome]) for outcome in Outcome)
    return _rows(("outcome", "exit code", "means"), rows)


TABLES: Mapping[str, Callable[[], Iterator[str]]] = {
    "roles": roles,
    "guards": guards,
    "refusals": refusals,
    "states": states,
    "reasons": reasons,
    "ways": ways,
    "intents": intents,
    "hears": hears,
    "outcomes": outcomes,
}
