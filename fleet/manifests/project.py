"""What a project says of itself, as the beginning of an agent that answers for it. Nothing in it is run.

All of it is data that others wrote: names are made into names, texts into one plain line of bounded length.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.manifests.model import AgentSpec, Headless, nearest_name

MOST_READ = 256 * 1024
"""Bytes of a file that are read."""
DESCRIPTION = 300
"""Characters of a description."""
CAPABILITIES = 16
"""Words that tell what it can do."""
WORDS = ("README.md", "README.rst", "README.txt", "README", "AGENTS.md", "CLAUDE.md")
"""Files whose first paragraph says what the project is, where its own metadata does not."""
LANGUAGES: Mapping[str, tuple[str, ...]] = {
    "python": ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt"),
    "typescript": ("tsconfig.json",),
    "javascript": ("package.json",),
    "rust": ("Cargo.toml",),
    "go": ("go.mod",),
    "java": ("pom.xml", "build.gradle", "build.gradle.kts"),
    "ruby": ("Gemfile",),
    "r": ("DESCRIPTION",),
    "julia": ("Project.toml",),
    "cpp": ("CMakeLists.txt",),
    "docker": ("Dockerfile",),
}
"""Each with the files by which a project of it is told."""
SKILLS = (".claude/skills", ".agents/skills")

_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.M | re.S)
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_FRONT = re.compile(r"\A---\n.*?\n---\n", re.S)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)|!\[[^\]]*\]\[[^\]]*\]")
_LINK = re.compile(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
_TAG = re.compile(r"<[^>]*>")
_NO_PROSE = re.compile(r"^\s*(?:#|=|-{3}|\*{3}|_{3}|\||>|\.\. |[-*+] |\d+[.)] |:\w|\[[^\]]*\]:|@)")
_UNDERLINE = re.compile(r"^\s*(?:={3,}|-{3,}|~{3,})\s*$")


@dataclass(frozen=True, slots=True)
class Project:
    """What was found, and where."""

    folder: Path
    name: str
    description: str | None = None
    capabilities: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    """For name, description and capabilities: the files that said so."""

    def agent(self, name: str | None = None) -> AgentSpec:
        """A headless agent that answers for it, and changes nothing in it."""
        said: dict[str, Any] = {"description": self.description} if self.description else {}
        if self.capabilities:
            said["capabilities"] = self.capabilities
        return AgentSpec(
            name=name or self.name,
            harness="claude-code",
            mode="headless",
            workdir=str(self.folder),
            headless=Headless(tools="read-only"),
            **said,
        )


def read(folder: Path) -> Project:
    """What the project in this folder says of itself. Raise `NotADirectoryError` where there is no folder."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise NotADirectoryError(str(folder))
    metadata = dict(_metadata(folder))
    name, named = _name(folder, metadata)
    description, described = _description(folder, metadata)
    capabilities = dict(_capabilities(folder, metadata))
    sources = {"name": named} | ({"description": described} if described else {})
    if capabilities:
        sources["capabilities"] = ", ".join(dict.fromkeys(capabilities.values()))
    return Project(folder, name, description, tuple(capabilities)[:CAPABILITIES], sources)


# -- its metadata ------------------------------------------------------------------------------------------------


def _metadata(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """By file: the part that speaks of the project. A file that cannot be read says nothing."""
    for file, (parse, *path) in _FILES.items():
        text = _text(folder / file)
        try:
            part: Any = parse(text) if text else {}
        except (ValueError, RecursionError):
            continue
        for key in path:
            part = part.get(key) if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and part:
            yield file, part


_FILES: Mapping[str, tuple[Any, ...]] = {
    "pyproject.toml": (tomllib.loads, "project"),
    "package.json": (json.loads,),
    "Cargo.toml": (tomllib.loads, "package"),
    "Project.toml": (tomllib.loads,),
}


def _name(folder: Path, metadata: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """The project's name as an agent's, and who said so; the folder's where nobody did."""
    for file, said in metadata.items():
        own = said.get("name")
        if isinstance(own, str) and (near := nearest_name(own.rpartition("/")[2])):
            return near, file
    return nearest_name(folder.name) or "project", "the folder's name"


def _description(folder: Path, metadata: Mapping[str, Mapping[str, Any]]) -> tuple[str | None, str | None]:
    for file, said in metadata.items():
        own = said.get("description")
        if isinstance(own, str) and _line(own):
            return _line(own), file
    for file in WORDS:
        if (text := _text(folder / file)) and (prose := first_paragraph(text)):
            return prose, file
    return None, None


def _capabilities(folder: Path, metadata: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Words, each with who said it: its skills, its languages, its keywords. The first who says one counts."""
    found: dict[str, str] = {}
    for place in SKILLS:
        for skill in sorted((folder / place).glob("*/SKILL.md")):
            name = re.search(r"^name:\s*[\"']?([^\"'\n]+)", _text(skill) or "", re.M)
            found.setdefault(_label(name[1] if name else skill.parent.name), place)
    for language, files in LANGUAGES.items():
        if there := next((file for file in files if (folder / file).is_file()), None):
            found.setdefault(language, there)
    if "typescript" in found:
        found.pop("javascript", None)
    for file, said in metadata.items():
        words = said.get("keywords")
        for word in words if isinstance(words, list) else ():
            if isinstance(word, str):
                found.setdefault(_label(word), file)
    yield from ((word, source) for word, source in found.items() if word)


# -- texts -------------------------------------------------------------------------------------------------------


def first_paragraph(text: str) -> str | None:
    """The first prose of a Markdown or reStructuredText file, as one line: no heading, badge, list, table or code."""
    text = _FRONT.sub("", text.replace("\r\n", "\n"))
    for clean in (_FENCE, _COMMENT, _IMAGE):
        text = clean.sub("", text)
    text = _TAG.sub("", _LINK.sub(r"\1", text))
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.splitlines() if line.strip()]
        if len(lines) > 1 and _UNDERLINE.match(lines[1]):  # a heading with its underline
            lines = lines[2:]
        if not lines or any(_NO_PROSE.match(line) for line in lines):
            continue
        prose = _line(" ".join(lines))
        if len(prose.split()) > 2:
            return prose
    return None


def _line(text: str) -> str:
    """One plain line of bounded length; whole sentences where that costs little."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).replace("`", "").split())
    line = re.sub(r"(\*\*|__)(.+?)\1", r"\2", line)
    if len(line) <= DESCRIPTION:
        return line
    cut = line[: DESCRIPTION - 1]
    end = max(cut.rfind(mark) for mark in (". ", "! ", "? "))
    return cut[: end + 1] if end > DESCRIPTION // 3 else cut.rpartition(" ")[0] + "…"


def _label(word: str) -> str:
    """A word as a manifest takes it: lower case, letters, digits and inner . _ / -; empty where none is left."""
    return re.sub(r"[^a-z0-9._/-]+", "-", word.strip().lower())[:40].strip("-._/")


def _text(path: Path) -> str | None:
    """A file's beginning; `None` where it is no plain file, or not to be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(MOST_READ).decode("utf-8-sig", errors="replace")
    except OSError:
        return None
