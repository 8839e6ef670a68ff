"""The files a manifest puts into the workspace: its `src_…` siblings and `files`, filled in.

`render` decides everything and touches nothing: from what the sources say, what stands in the workspace already and
what fleet wrote there before, it gives the files to write and the new record of what is fleet's. A file that fleet
did not write, or that was changed since, is never overwritten. What a variable holds can only ever be text inside
the place it was inserted into: a JSON string in `.mcp.json`, a quoted value in `.env`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.errors import InvalidManifest, NotAllowed
from fleet.manifests import skills
from fleet.manifests.model import AgentSpec
from fleet.manifests.problem import Problem
from fleet.settings import Places
from fleet.terms import File

PREFIX = "src_"
RENAMED = {"src_mcp.json": ".mcp.json", "src_env": ".env"}
BLOCK_TARGET = "CLAUDE.md"

_PLACEHOLDER = re.compile(r"(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*|metadata\.[A-Za-z0-9_./-]+)\}")
_ASSIGNMENT = re.compile(r"(\s*(?:export\s+)?[A-Za-z_][A-Za-z0-9_]*=)(.*)")


@dataclass(frozen=True, slots=True)
class Source:
    """A file beside the manifest, on its way into the workspace."""

    target: str
    """Its path in the workspace: relative, and inside."""
    origin: str
    content: bytes
    verbatim: bool = False
    """Nothing is filled in."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What to write, and what is fleet's from then on."""

    files: tuple[File, ...]
    written: dict[str, str]
    """By path in the workspace: the hash of what fleet wrote there. To be kept, and given back next time."""


def targets(spec: AgentSpec) -> dict[str, Path]:
    """Where each source goes: the `src_…` siblings of the manifest, and `files`, which counts more."""
    folder = Path(spec.folder)
    siblings = sorted(p for p in folder.glob(PREFIX + "*") if p.is_file() and p.name != PREFIX) if spec.folder else []
    found = {RENAMED.get(path.name, path.name.removeprefix(PREFIX)): path for path in siblings}
    found |= {target: folder / Path(source).expanduser() for target, source in spec.files.items()}
    return found


def read_sources(spec: AgentSpec) -> tuple[Source, ...]:
    """The sources as they stand beside the manifest now."""
    sources, problems = [], []
    for target, path in targets(spec).items():
        try:
            sources.append(Source(target, str(path), path.read_bytes()))
        except OSError as e:
            problems.append(Problem(spec.source, 1, 1, f"spec.files.{target}", f"{path}: {e.strerror or e}"))
    _refuse(problems)
    return tuple(sources)


def render(
    spec: AgentSpec,
    sources: tuple[Source, ...],
    *,
    workspace: str,
    values: Mapping[str, str],
    existing: Mapping[str, bytes | None],
    written: Mapping[str, str],
) -> Rendered:
    """The files to write, with `${VAR}` taken from `values` and `${metadata.name}` from the agent.

    Raise `InvalidManifest` with every variable that is not set, `NotAllowed` where a file stands in the way.
    """
    fillers = [_Filler(spec, source, values) for source in sources]
    contents = [filler.content() for filler in fillers]
    _refuse([problem for filler in fillers for problem in filler.problems])
    files: list[File] = []
    record, in_the_way = dict(written), []
    for source, filler, content in zip(sources, fillers, contents, strict=True):
        before = existing.get(source.target)
        if source.target == BLOCK_TARGET:
            content = _with_block(spec.name, source, before, content)
        elif before is not None and before != content and fingerprint(before) != written.get(source.target):
            in_the_way.append(source.target)
        if before == content and (source.target == BLOCK_TARGET or source.target not in written):
            continue  # the person's own file says the same already
        files.append(File(f"{workspace}/{source.target}", content, 0o600 if filler.private else 0o644))
        record[source.target] = fingerprint(content)
    if in_the_way:
        raise NotAllowed(
            f"{', '.join(in_the_way)} in {workspace} was not written by fleet, or was changed since.",
            hint="Move it away, or take it out of the manifest's folder; fleet overwrites only its own files.",
            files=in_the_way,
        )
    return Rendered(tuple(files), record)


async def workspace_files(
    spec: AgentSpec,
    cwd: str,
    *,
    environ: Mapping[str, str],
    read: Callable[[str], Awaitable[bytes | None]],
    wrote: Mapping[str, str],
) -> tuple[tuple[File, ...], dict[str, str], tuple[str, ...]]:
    """The files to put into the workspace `cwd` before a launch, the new record, and warnings.

    `read` gives the content of a file on the agent's host, `wrote` is the record of the launch before.
    """
    sources = read_sources(spec)
    skilled = skills.find(spec, workspace=Path(cwd), config=Places.of().config, environ=environ)
    if skilled.missing and spec.skills.strict:
        raise _invalid([Problem(spec.source, 0, 0, "", warning) for warning in skilled.warnings])
    if spec.harness == "claude-code":
        sources += _skill_sources(skilled)
    if spec.runtime == "local":
        _refuse_ways_out(cwd, sources)
    there = await asyncio.gather(*(read(f"{cwd}/{source.target}") for source in sources))
    found = {source.target: content for source, content in zip(sources, there, strict=True)}
    done = render(spec, sources, workspace=cwd, values=environ, existing=found, written=wrote)
    return done.files, done.written, skilled.warnings


def _skill_sources(found: skills.Found) -> tuple[Source, ...]:
    return tuple(
        Source(f".claude/skills/{name}/{inner}", str(path), path.read_bytes(), verbatim=True)
        for name, folder in found.to_put.items()
        for inner, path in skills.files_of(folder)
    )


def _refuse_ways_out(workspace: str, sources: tuple[Source, ...]) -> None:
    """A link in the workspace must not lead a file of ours out of it."""
    root = Path(workspace).resolve()
    for source in sources:
        path = root / source.target
        if not path.parent.resolve().is_relative_to(root):
            raise NotAllowed(f"{path} leads out of the workspace by a link; fleet does not write there.")
        if path.is_dir():
            raise NotAllowed(f"{path} is a folder; {source.origin} cannot be put there.")


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise _invalid(problems)


def _invalid(problems: list[Problem]) -> InvalidManifest:
    return InvalidManifest(
        "\n".join(map(str, problems)),
        hint="A variable is taken from the environment of `fleet start` and from env in the manifest.",
        problems=[problem.to_json() for problem in problems],
    )


def fingerprint(content: bytes) -> str:
    """By what fleet knows its own file again."""
    return hashlib.sha256(content).hexdigest()


class _Filler:
    """One source, filled in."""

    def __init__(self, spec: AgentSpec, source: Source, values: Mapping[str, str]) -> None:
        self.spec = spec
        self.source = source
        self.values = values
        self.problems: list[Problem] = []
        self.private = source.target in (".env", ".mcp.json")
        """Whether only its owner may read it: it holds what came from the environment, or is meant to."""

    def content(self) -> bytes:
        text = None if self.source.verbatim else self._text()
        if text is None:  # no text, so there is nothing to fill in
            return self.source.content
        if self.source.target == ".mcp.json":
            return self._json(text).encode()
        if self.source.target == ".env":
            lines = text.splitlines(keepends=True)
            return "".join(self._assignment(i, line) for i, line in enumerate(lines, 1)).encode()
        lines = text.splitlines(keepends=True)
        return "".join(self._fill(line, i) for i, line in enumerate(lines, 1)).encode()

    def _text(self) -> str | None:
        try:
            return self.source.content.decode()
        except UnicodeDecodeError:
            if self.source.target in (".env", ".mcp.json", BLOCK_TARGET):
                self._problem(1, 1, "is not UTF-8 text")
            return None

    def _problem(self, line: int, column: int, message: str) -> None:
        self.problems.append(Problem(self.source.origin, line, column, "", message))

    def _fill(self, text: str, line: int) -> str:
        def value(found: re.Match[str]) -> str:
            escaped, name = found.groups()
            if escaped:
                return found[0][1:]
            known = self._value(name)
            if known is None:
                self._problem(line, found.start() + 1, f"${{{name}}} is not set")
            return known or ""

        return _PLACEHOLDER.sub(value, text)

    def _value(self, name: str) -> str | None:
        if name == "metadata.name":
            return self.spec.name
        if name == "metadata.description":
            return self.spec.description or ""
        if name.startswith("metadata."):
            return self.spec.labels.get(name.removeprefix("metadata.labels."))
        self.private = True
        return self.values.get(name)

    def _assignment(self, number: int, line: str) -> str:
        """A line of `.env`: a value with something filled in is quoted whole, so that sourcing it runs nothing."""
        if not _PLACEHOLDER.search(line) or line.lstrip().startswith("#"):
            return line
        found = _ASSIGNMENT.fullmatch(line.rstrip("\r\n"))
        if found is None:
            self._problem(number, 1, "a variable is filled in only after NAME=")
            return line
        start, value = found.groups()
        bare = value.strip()
        if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"":
            bare = bare[1:-1]
        return start + _quoted(self._fill(bare, number)) + line[len(line.rstrip("\r\n")) :]

    def _json(self, text: str) -> str:
        """`.mcp.json`: filled in string by string, so that no value can become anything but text."""
        try:
            document = json.loads(text)
        except json.JSONDecodeError as e:
            self._problem(e.lineno, e.colno, f"is no valid JSON: {e.msg}")
            return text

        def line_of(string: str) -> int:
            at = text.find(json.dumps(string, ensure_ascii=False)[1:-1])
            return text.count("\n", 0, at) + 1 if at >= 0 else 1

        def walk(value: Any, key: str) -> Any:
            if isinstance(value, dict):
                return {self._fill(name, line_of(name)): walk(inner, name) for name, inner in value.items()}
            if isinstance(value, list):
                return [walk(inner, key) for inner in value]
            if isinstance(value, str):
                home, rest = self._home(value) if key in ("command", "args") else ("", value)
                return home + self._fill(rest, line_of(value))
            return value

        return json.dumps(walk(document, ""), indent=2, ensure_ascii=False) + "\n"

    def _home(self, text: str) -> tuple[str, str]:
        """The home that a leading `~` stands for, and the rest."""
        if text != "~" and not text.startswith("~/"):
            return "", text
        home = self.values.get("HOME")
        if home is None:
            self._problem(1, 1, "~ cannot be filled in: HOME is not set")
        return home or "", text[1:]


def _quoted(value: str) -> str:
    return shlex.quote(value) if value else "''"


def _with_block(agent: str, source: Source, before: bytes | None, content: bytes) -> bytes:
    """An existing text with the agent's block put in or renewed; all else in it stays as it was."""
    begin, end = (f"<!-- fleet: {word} {agent} (kept by fleet, from {PREFIX}{BLOCK_TARGET}) -->" for word in _MARKS)
    text, inner = _decoded(before or b"", source.target), _decoded(content, source.origin)
    if any(f"<!-- fleet: {word} " in inner for word in _MARKS):
        raise NotAllowed(f"{source.origin} holds a mark that fleet uses for its own block; take it out.")
    block = f"{begin}\n{inner.rstrip()}\n{end}"
    starts, ends = text.count(begin), text.count(end)
    if (starts, ends) == (0, 0):
        gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        return f"{text}{gap}{block}\n".encode()
    at, until = text.find(begin), text.find(end)
    if (starts, ends) != (1, 1) or until < at:
        raise NotAllowed(
            f"The marks of fleet's block for {agent} in {source.target} are no pair any more.",
            hint=f"Remove what is left of them; the next start puts the block in again:\n{begin}\n{end}",
        )
    return (text[:at] + block + text[until + len(end) :]).encode()


_MARKS = ("begin", "end")


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as e:
        raise NotAllowed(f"{name} is not UTF-8 text; fleet's block cannot be put into it.") from e
