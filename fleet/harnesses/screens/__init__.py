"""What the screens of each program mean, as data: one rule file per program, and a person's own beside it.

A rule file is TOML. `[[layout]]` says how a range of versions draws its composer; `[[rule]]` says what a state is,
by regular expressions over the regions of a screen (docs/screens.md lists them). The first rule that holds decides.
A person's file adds rules before the shipped ones, replaces those of the same name, and removes others by name. One
that cannot be read changes nothing: its error is kept to be shown, and the rules before it stay in force.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from fleet.errors import FleetError
from fleet.terms import Activity, Kind

REGIONS = (
    "title",
    "composer",
    "hint",
    "footer",
    "spinner",
    "ended",
    "answer",
    "reply",
    "cut",
    "colour",
    "notice",
    "dialog",
    "heading",
    "question",
    "options",
    "hints",
    "tail",
    "line",
)
"""What a rule can speak about; docs/screens.md says what each holds."""

Version = tuple[int, ...]
W = TypeVar("W", Activity, Kind)


class BadRules(FleetError):
    """A screen rule file is not valid; the rules before it stay in force."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Versions:
    """A range of versions, such as `>=2.1.200,<3`. An unknown version is in every range."""

    text: str = ""
    low: Version = ()
    high: Version | None = None

    def __contains__(self, version: Version | None) -> bool:
        return version is None or (version >= self.low and (self.high is None or version < self.high))


@dataclass(frozen=True, slots=True)
class Layout:
    """How a range of versions draws the place where text is typed."""

    name: str
    prompt: re.Pattern[str]
    """The composer's first line, up to where the text begins."""
    command: re.Pattern[str]
    """The same while a shell command is typed: what stands there is run, not said."""
    cursor: str = "composer"
    """Where the terminal's cursor stands while the composer has the keyboard: `composer`, or `below` the screen."""
    reader: bool = False
    """Flat text for a screen reader: no rules around the composer."""
    versions: Versions = Versions()


@dataclass(frozen=True, slots=True)
class Rule:
    """One meaning of a screen."""

    name: str
    activity: Activity
    when: tuple[tuple[str, re.Pattern[str]], ...]
    """Each region must be there and match; the first one's match is the evidence."""
    unless: tuple[tuple[str, re.Pattern[str]], ...] = ()
    kind: Kind | None = None
    own: bool = False
    """The last message must be the program's own, as its colour tells: a quotation in an answer is not."""
    continues: bool = False
    versions: Versions = Versions()
    known_version: bool = False
    """Where the version is not known, the rule does not hold."""

    def speaks_of(self, version: Version | None) -> bool:
        """Whether the rule is about that version."""
        return version in self.versions and not (self.known_version and version is None)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All that is known of one program's screens."""

    harness: str
    layouts: tuple[Layout, ...]
    rules: tuple[Rule, ...]
    background: tuple[tuple[str, re.Pattern[str]], ...] = ()
    """Any of these tells of a shell or agent that goes on in the background."""
    resets: re.Pattern[str] | None = None
    """The words in which a limit says when it ends; the group `when` holds them."""
    line_only: bool = field(init=False)
    """Whether the cursor's line alone decides if any rule holds: then no more need be read of most screens."""

    def __post_init__(self) -> None:
        regions = {region for rule in self.rules for region, _ in (*rule.when, *rule.unless)}
        object.__setattr__(self, "line_only", not self.layouts and regions <= {"line"})


def version_of(text: str | None) -> Version | None:
    """`2.1.329` as numbers; `None` where it is not a version."""
    found = re.match(r"\s*v?(\d+(?:\.\d+)*)", text or "")
    return tuple(int(n) for n in found[1].split(".")) if found else None


def parse(text: str, source: str) -> dict[str, Any]:
    """A rule file's tables; a TOML error names its place."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise BadRules(f"{source}: {problem}", hint="Regular expressions go in '''three quotes'''.") from problem


def build(data: Mapping[str, Any], source: str, base: RuleSet | None = None) -> RuleSet:
    """The rules of a file; with `base`, a person's file over the shipped rules."""
    _known(data, {"harness", "layout", "rule", "remove", "marks"}, source)
    rules = tuple(_rule(entry, source) for entry in _tables(data, "rule", source))
    names = [r.name for r in rules]
    if twice := {n for n in names if names.count(n) > 1}:
        raise BadRules(f"{source}: two rules are named {', '.join(sorted(twice))}")
    layouts = tuple(_layout(entry, source) for entry in _tables(data, "layout", source))
    marks = data.get("marks", {})
    _known(marks, {"background", "resets"}, f"{source}: [marks]")
    background = _patterns(marks.get("background", {}), f"{source}: marks.background")
    resets = _pattern(marks["resets"], f"{source}: marks.resets") if "resets" in marks else None
    if base is None:
        return RuleSet(str(data.get("harness", "")), layouts, rules, background, resets)
    removed = data.get("remove", [])
    if not isinstance(removed, list):
        raise BadRules(f"{source}: remove: a list of rule names is meant")
    shipped = {r.name for r in base.rules}
    if unknown := [n for n in removed if n not in shipped]:
        raise BadRules(f"{source}: remove: there is no shipped rule named {unknown[0]}")
    own = {r.name: r for r in rules}
    rest = tuple(own.get(r.name, r) for r in base.rules if r.name not in removed)
    first = tuple(r for r in rules if r.name not in shipped)
    return replace(
        base,
        layouts=layouts + base.layouts,
        rules=first + rest,
        background=background + base.background,
        resets=resets or base.resets,
    )


def _tables(data: Mapping[str, Any], key: str, source: str) -> list[Mapping[str, Any]]:
    found = data.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        raise BadRules(f"{source}: {key}: written as [[{key}]], each with its keys below")
    return found


def _known(entry: Mapping[str, Any], keys: set[str], where: str) -> None:
    for key in entry:
        if key not in keys:
            raise BadRules(f"{where}: unknown key {key!r}; known are {', '.join(sorted(keys))}")


def _pattern(value: object, where: str) -> re.Pattern[str]:
    if not isinstance(value, str):
        raise BadRules(f"{where}: a regular expression as text is meant, not {value!r}")
    try:
        return re.compile(value, re.MULTILINE)
    except re.error as problem:
        raise BadRules(f"{where}: not a regular expression: {problem}") from problem


def _patterns(entry: object, where: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    if not isinstance(entry, Mapping):
        raise BadRules(f"{where}: regions with their regular expressions are meant")
    for region in entry:
        if region not in REGIONS:
            raise BadRules(f"{where}: no region is called {region!r}; there are {', '.join(REGIONS)}")
    return tuple((region, _pattern(value, f"{where}.{region}")) for region, value in entry.items())


def _versions(value: object, where: str) -> Versions:
    low: Version = ()
    high: Version | None = None
    for part in str(value).split(",") if value else []:
        found = re.fullmatch(r"\s*(>=|<)\s*(\d+(?:\.\d+)*)\s*", part)
        if not found:
            raise BadRules(f"{where}: versions: {value!r} is not a range; one looks like '>=2.1.200,<3'")
        bound = tuple(int(n) for n in found[2].split("."))
        if found[1] == ">=":
            low = bound
        else:
            high = bound
    return Versions(str(value or ""), low, high)


def _word(kind: type[W], value: object, where: str) -> W:
    try:
        return kind(str(value))
    except ValueError as problem:
        raise BadRules(f"{where}: {value!r} is not one of {', '.join(kind)}") from problem


def _rule(entry: Mapping[str, Any], source: str) -> Rule:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise BadRules(f"{source}: a rule without a name")
    where = f"{source}: rule {name}"
    keys = {"name", "activity", "kind", "when", "unless", "own", "continues", "versions", "known_version"}
    _known(entry, keys, where)
    when = _patterns(entry.get("when", {}), f"{where}: when")
    if not when:
        raise BadRules(f"{where}: when: at least one region is needed, or it would hold on every screen")
    for key in ("own", "continues", "known_version"):
        if not isinstance(entry.get(key, False), bool):
            raise BadRules(f"{where}: {key}: true or false is meant")
    return Rule(
        name=name,
        activity=_word(Activity, entry.get("activity"), f"{where}: activity"),
        when=when,
        unless=_patterns(entry.get("unless", {}), f"{where}: unless"),
        kind=_word(Kind, entry["kind"], f"{where}: kind") if "kind" in entry else None,
        own=entry.get("own", False),
        continues=entry.get("continues", False),
        versions=_versions(entry.get("versions"), where),
        known_version=entry.get("known_version", False),
    )


def _layout(entry: Mapping[str, Any], source: str) -> Layout:
    where = f"{source}: layout {entry.get('name')}"
    _known(entry, {"name", "prompt", "command", "cursor", "reader", "versions"}, where)
    cursor = entry.get("cursor", "composer")
    if cursor not in ("composer", "below"):
        raise BadRules(f"{where}: cursor: {cursor!r} is not one of composer, below")
    return Layout(
        name=str(entry.get("name", "")),
        prompt=_pattern(entry.get("prompt"), f"{where}: prompt"),
        command=_pattern(entry.get("command", r"(?!)"), f"{where}: command"),
        cursor=cursor,
        reader=bool(entry.get("reader", False)),
        versions=_versions(entry.get("versions"), where),
    )


@cache
def shipped(harness: str) -> RuleSet | None:
    """The rules that come with fleet; `None` for a program that has none. They never change while fleet runs."""
    file = resources.files("fleet.harnesses.screens") / f"{harness}.toml"
    if not re.fullmatch(r"[a-z0-9-]+", harness) or not file.is_file():
        return None
    return build(parse(file.read_text(encoding="utf-8"), file.name), file.name)


@dataclass(slots=True)
class Rules:
    """The rules in force: the shipped ones, and a person's `HARNESS.toml` in `folder` over them.

    A changed file counts from the next `of`; there is nothing to restart.
    """

    folder: Path | None = None
    errors: dict[str, str] = field(default_factory=dict)
    """Per harness: why the person's file does not count at the moment."""
    _seen: dict[str, tuple[tuple[int, int] | None, RuleSet | None]] = field(default_factory=dict)

    def of(self, harness: str) -> RuleSet | None:
        """The rules for that program now."""
        mark = self._mark(harness)
        known = self._seen.get(harness)
        if known is None or known[0] != mark:
            before = known[1] if known else shipped(harness)
            known = (mark, self._read(harness, before) if mark else self._forget(harness))
            self._seen[harness] = known
        return known[1]

    def _mark(self, harness: str) -> tuple[int, int] | None:
        if self.folder is None:
            return None
        try:
            found = (self.folder / f"{harness}.toml").stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def _forget(self, harness: str) -> RuleSet | None:
        self.errors.pop(harness, None)
        return shipped(harness)

    def _read(self, harness: str, before: RuleSet | None) -> RuleSet | None:
        assert self.folder is not None
        file = self.folder / f"{harness}.toml"
        base = shipped(harness) or RuleSet(harness, (), ())
        try:
            found = build(parse(file.read_text(encoding="utf-8"), str(file)), str(file), base)
        except (BadRules, OSError, UnicodeDecodeError) as problem:
            self.errors[harness] = str(problem)
            return before
        self.errors.pop(harness, None)
        return found
