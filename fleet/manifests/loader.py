"""Read manifests: every problem of every file at once, each with its place and what was probably meant.

`validate`, `check` and `start` all come through `load`, so what one accepts the others accept.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from fleet.errors import InvalidManifest
from fleet.manifests import legacy
from fleet.manifests.legacy import Note
from fleet.manifests.model import API_VERSION, AgentSpec, Metadata, nearest_name
from fleet.manifests.problem import Problem, dotted, nearest
from fleet.manifests.shape import as_written, known_keys
from fleet.manifests.yamltree import Path, Tree, parse

LARGEST_FILE = 1024 * 1024
HOW_TO_BEGIN = "`fleet init` writes a manifest to start from; a fleet folder holds NAME.yaml or NAME/NAME.yaml"
WHERE_KEYS_STAND = "docs/manifest.md names every key; `fleet schema` prints the JSON Schema for an editor"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The agents of a file or folder, and what is worth knowing about them."""

    specs: tuple[AgentSpec, ...]
    warnings: tuple[Problem, ...] = ()


def load(path: str | FilePath) -> Loaded:
    """The agents of a manifest (one or several documents) or of a folder of them.

    A folder holds `NAME.yaml` or `NAME/NAME.yaml`. Raise `InvalidManifest` with every problem there is.
    """
    return load_all([path])


def load_all(paths: Iterable[str | FilePath]) -> Loaded:
    """The same for several files and folders, as one fleet."""
    files = {file: flat for path in paths for file, flat in _files(path)}
    return _together(_read(file, flat=flat) for file, flat in files.items())


def _files(path: str | FilePath) -> Iterator[tuple[FilePath, bool]]:
    """The manifests at a path, each with whether it shares its folder with others of the fleet."""
    given = FilePath(os.path.abspath(path))  # noqa: PTH100 - without '..', and links stay as they are
    try:
        files = manifests_in(given) if given.is_dir() else ()
    except OSError:  # told when it is opened
        files = ()
    yield from [(file, file.parent == given) for file in files] or [(given, False)]


def load_text(text: str, file: str | FilePath) -> Loaded:
    """The agents of a manifest's text, as if it stood in that file."""
    return _together([_of_text(text, FilePath(file).absolute(), flat=False)])


def manifests_in(folder: FilePath) -> tuple[FilePath, ...]:
    """The manifests of a fleet folder, in the order of their names."""
    found = [entry for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml") and entry.is_file()]
    for entry in folder.iterdir():
        if entry.is_dir():
            found += [inner for end in (".yaml", ".yml") if (inner := entry / (entry.name + end)).is_file()]
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class _Read:
    specs: tuple[tuple[AgentSpec, Problem], ...] = ()
    """Each agent, and its name's place as a problem still without words."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def _together(parts: Iterable[_Read]) -> Loaded:
    read = list(parts)
    problems = [problem for part in read for problem in part.problems]
    named: dict[str, Problem] = {}
    for spec, place in (pair for part in read for pair in part.specs):
        if spec.name in named:
            first = named[spec.name]
            problems.append(replace(place, message=f"{spec.name} is also the name at {first.file}:{first.line}"))
        named.setdefault(spec.name, place)
    if problems:
        _raise(problems)
    return Loaded(
        specs=tuple(spec for part in read for spec, _ in part.specs),
        warnings=tuple(warning for part in read for warning in part.warnings),
    )


def _raise(problems: list[Problem]) -> None:
    lines = "\n".join(map(str, problems))
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    no_manifest = all(problem.line == 0 for problem in problems)
    raise InvalidManifest(
        f"{lines}\n{count}; nothing was started.",
        hint=HOW_TO_BEGIN if no_manifest else WHERE_KEYS_STAND,
        problems=[problem.to_json() for problem in problems],
    )


def _without_waiting(path: str, flags: int) -> int:
    """A pipe is opened at once: nobody waits for whoever may one day write to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(file: FilePath, *, flat: bool) -> _Read:
    def broken(message: str) -> _Read:
        return _Read(problems=(Problem(str(file), 0, 0, "", message),))

    if not _is_text(str(file)):
        return broken("has bytes in its path that are no UTF-8 text, which fleet cannot write down: rename it")
    try:
        with open(file, "rb", opener=_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return broken("is no plain file")
            content = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        return broken("there is no such file or folder")
    except IsADirectoryError:
        return broken("holds no manifest: no NAME.yaml and no NAME/NAME.yaml")
    except (OSError, ValueError) as e:  # ValueError: a NUL in the path
        return broken(f"cannot be read: {getattr(e, 'strerror', None) or e}")
    if len(content) > LARGEST_FILE:
        return broken("is larger than 1 MiB; a manifest is not")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        return _Read(problems=(Problem(str(file), line, 1, "", "is not UTF-8 text"),))
    return _of_text(text, file, flat=flat)


def _of_text(text: str, file: FilePath, *, flat: bool) -> _Read:
    trees = parse(text)
    if not trees:
        return _Read(problems=(Problem(str(file), 1, 1, "", "is empty"),))
    parts = [_Document(tree, file, nameless=flat or len(trees) > 1).read() for tree in trees]
    return _Read(
        specs=tuple(pair for part in parts for pair in part.specs),
        problems=tuple(problem for part in parts for problem in part.problems),
        warnings=tuple(warning for part in parts for warning in part.warnings),
    )


class _Document:
    """One document of a file on its way to a spec."""

    def __init__(self, tree: Tree, file: FilePath, *, nameless: bool) -> None:
        self.tree = tree
        self.file = file
        self.nameless = nameless
        """Whether the folder cannot give the name: several agents share it."""
        self.problems: list[Problem] = [
            self._problem(fault.path, fault.message, place=fault.place) for fault in tree.faults
        ]
        self.warnings: list[Problem] = []
        self.origin: dict[Path, Path] = {}
        """Where a value of an older format stood, by where it stands in fleet/v1."""

    def read(self) -> _Read:
        spec = self._spec()
        if spec is not None:
            self.warnings += [self._problem(("spec", *path), message) for path, message in doubts(spec)]
        if spec is None or self.problems:
            return _Read(problems=tuple(_in_order(self.problems)))
        return _Read(specs=((spec, self._problem(("metadata", "name"), "")),), warnings=tuple(self.warnings))

    def _problem(
        self,
        path: Path,
        message: str,
        *,
        key: bool = False,
        near: str | None = None,
        place: tuple[int, int] | None = None,
    ) -> Problem:
        path = self._original(path) if place is None else path
        line, column = place or self.tree.locate(path, key=key)
        return Problem(str(self.file), line, column, dotted(path), message, near)

    def _original(self, path: Path) -> Path:
        for length in range(len(path), 0, -1):
            if path[:length] in self.origin:
                return self.origin[path[:length]] + path[length:]
        return path

    def _spec(self) -> AgentSpec | None:
        """The agent, or nothing once there are problems that leave nothing to validate."""
        value = self.tree.value
        if not isinstance(value, dict):
            if not self.tree.faults:
                self._say((), "is no manifest: it begins with apiVersion, kind, metadata and spec")
            return None
        version = value.get("apiVersion")
        if version == API_VERSION:
            document = value
        elif isinstance(version, str) and version in legacy.VERSIONS:
            document = self._converted(value, version)
        else:
            self._wrong_version(value)
            return None
        document = as_written(document, self.tree, self._original)
        self._top(document)
        flat = self._flat(document)
        return None if flat is None else self._validated(flat)

    def _say(self, path: Path, message: str, *, key: bool = False, near: str | None = None) -> None:
        self.problems.append(self._problem(path, message, key=key, near=near))

    def _converted(self, value: dict[str, Any], version: str) -> dict[str, Any]:
        done = legacy.convert(value, version)
        self.origin = done.origin
        self.problems += [self._noted(note) for note in done.problems]
        self.warnings += [self._noted(note) for note in done.warnings]
        return done.document

    def _noted(self, note: Note) -> Problem:
        return self._problem(
            note.path, note.message, key=True, near=note.nearest, place=self.tree.locate(note.path, key=True)
        )

    def _wrong_version(self, value: dict[str, Any]) -> None:
        versions = (API_VERSION, *legacy.VERSIONS)
        if "apiVersion" not in value:
            meant = next((key for key in value if key.lower() == "apiversion"), None)
            path: Path = (meant,) if meant else ()
            words = f"apiVersion is missing: write apiVersion: {API_VERSION}"
            self._say(path, words, key=True, near="apiVersion" if meant else None)
            return
        given = value["apiVersion"]
        near = nearest(given, versions) if isinstance(given, str) else None
        self._say(("apiVersion",), f"{given!r} is no version that fleet loads: {', '.join(versions)}", near=near)

    def _top(self, document: dict[str, Any]) -> None:
        """The document's own keys."""
        keys = ("apiVersion", "kind", "metadata", "spec")
        for key in document:
            if key not in keys:
                self._unknown((key,), keys)
        kind = document.get("kind")
        if kind is None and "kind" not in document:
            self._say((), "kind is missing: write kind: Agent")
        elif kind != "Agent":
            self._say(("kind",), f"must be Agent, not {kind!r}")

    def _flat(self, document: dict[str, Any]) -> dict[str, Any] | None:
        """metadata and spec side by side, as `AgentSpec` has them."""
        parts: dict[str, dict[str, Any]] = {}
        for part, keys in (("metadata", metadata_keys()), ("spec", spec_keys())):
            given = document.get(part)
            if given is not None and not isinstance(given, dict):
                self._say((part,), f"must be a mapping, not {_kind(given)}")
                return None
            parts[part] = {}
            for key, value in (given or {}).items():
                if key in keys:
                    parts[part][key] = value
                else:
                    self._unknown((part, key), keys)
        self._name(parts["metadata"])
        return {**parts["metadata"], **parts["spec"]}

    def _name(self, metadata: dict[str, Any]) -> None:
        if metadata.get("name") is not None:
            return
        folder = self.file.parent.name
        if self.nameless and folder != self.file.stem and self.tree.value["apiVersion"] != legacy.V3:
            self._say(("metadata",), "name is missing: write metadata.name", near=nearest_name(self.file.stem))
            metadata["name"] = "nameless"
        elif nearest_name(folder) != folder:
            self._say(
                ("metadata",),
                f"name is missing, and the folder's name {folder!r} is none: write metadata.name",
                near=nearest_name(folder),
            )
            metadata["name"] = "nameless"
        else:
            metadata["name"] = folder

    def _unknown(self, path: Path, keys: Iterable[str]) -> None:
        key = str(path[-1])
        elsewhere = {"metadata": metadata_keys(), "spec": spec_keys(), "": ("apiVersion", "kind", "metadata", "spec")}
        for part, theirs in elsewhere.items():
            if key in theirs and part != dotted(path[:-1]):
                there = f"under {part}" if part else "at the top"
                self._say(path, f"is a key that stands {there}, not here", key=True)
                return
        self._say(path, "is no key that is known here", key=True, near=nearest(key, keys))

    def _validated(self, flat: dict[str, Any]) -> AgentSpec | None:
        try:
            return AgentSpec.model_validate(
                {**flat, "folder": str(self.file.parent), "source": str(self.file)}, strict=True
            )
        except ValidationError as e:
            errors = _without_branches(e.errors(include_url=False), flat)
            for error in errors:
                self._explain(error, flat)
            self._contradictions(flat, {_walk(error, flat)[0][:1] for error in errors})
            return None

    def _contradictions(self, flat: dict[str, Any], wrong: set[Path]) -> None:
        """What is wrong between the keys that are right by themselves."""
        right = {key: value for key, value in flat.items() if (key,) not in wrong}
        try:
            AgentSpec.model_validate(right, strict=True)
        except ValidationError as e:
            for error in e.errors(include_url=False):
                if "at" in error.get("ctx", {}):
                    self._explain(error, right)

    def _explain(self, error: Mapping[str, Any], flat: dict[str, Any]) -> None:
        """One of pydantic's errors in our words, at its place."""
        path, value = _walk(error, flat)
        context = error.get("ctx", {})
        if "at" in context:
            path = (context["at"],)
        full = ("metadata" if path and path[0] in metadata_keys() else "spec", *path)
        kind = str(error["type"])
        if kind == "extra_forbidden":
            self._unknown(full, known_keys(AgentSpec, path[:-1]))
            return
        near = context.get("nearest")
        if kind == "literal_error":
            near = nearest(str(value), shlex.split(context["expected"].replace(" or ", " ").replace(",", " ")))
        on_key = "[key]" in error["loc"]
        self._say(full, _words(kind, error, value), key=on_key or kind == "missing", near=near)


def metadata_keys() -> tuple[str, ...]:
    """The keys of `metadata`."""
    return tuple(Metadata.model_fields)


@cache
def spec_keys() -> tuple[str, ...]:
    """The keys of `spec`."""
    return tuple(key for key in AgentSpec.model_fields if key not in Metadata.model_fields and key not in _PLACE)


_PLACE = ("folder", "source")


def _walk(error: Mapping[str, Any], flat: Any) -> tuple[Path, Any]:
    """The path that an error speaks of, without pydantic's marks for branches, and the value found there."""
    path: Path = ()
    value = flat
    for part in error["loc"]:
        if _has(value, part):
            value = value[part]
        elif error["type"] == "missing" and part == error["loc"][-1]:
            value = None
        else:
            continue
        path = (*path, part)
    return path, value


def _without_branches(errors: list[Any], flat: dict[str, Any]) -> list[Any]:
    """Of a value that may have one of several forms only the problem of the form that it has."""
    at: dict[Path, list[Any]] = {}
    for error in errors:
        at.setdefault(_walk(error, flat)[0], []).append(error)
    kept = []
    for found in at.values():
        telling = [error for error in found if error["type"] not in _WRONG_FORM]
        a_list_too = len(found) > 1 and any(error["type"] == "tuple_type" for error in found)
        kept += telling or [found[0] | {"or_a_list": a_list_too}]
    return kept


_WRONG_FORM = ("tuple_type", "string_type", "literal_error", "none_required")


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list | tuple):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, Mapping) and part in value


def _kind(value: Any) -> str:
    """What a value is, for a person."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list | tuple) else "a mapping"


def _words(kind: str, error: Mapping[str, Any], value: Any) -> str:
    """What is wrong, in a sentence that says what to write."""
    context = error.get("ctx", {})
    also = ", or a list" if error.get("or_a_list") else ""
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        return f"must be {context['expected']}{also}, not {json.dumps(value, default=str)}"
    if kind == "tuple_type":
        return f"must be a list, not {_kind(value)}" + (f": write {_as_list(value)}" if isinstance(value, str) else "")
    if kind == "string_type":
        hint = ": put it in quotes" if isinstance(value, bool | int | float) else ""
        return f"must be text{also}, not {_kind(value)}{hint}"
    wanted = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "dict_type": "a mapping",
        "model_type": "a mapping",
        "model_attributes_type": "a mapping",
    }.get(kind)
    if wanted:
        hint = ": leave the key out for its default" if value is None else ""
        given = str(value) if isinstance(value, float) else _kind(value)
        return f"must be {wanted}, not {given}{hint}"
    limits = {
        "greater_than": ("more than", "gt"),
        "greater_than_equal": ("at least", "ge"),
        "less_than": ("less than", "lt"),
        "less_than_equal": ("at most", "le"),
    }
    if kind in limits:
        words, limit = limits[kind]
        return f"must be {words} {context[limit]:g}, not {value}"
    if kind == "finite_number":
        return f"must be a finite number, not {value}"
    return str(error["msg"])


def _as_list(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError:
        words = [text]
    return json.dumps(words or [text], ensure_ascii=False)


def _in_order(problems: list[Problem]) -> list[Problem]:
    """By place; a value that several rules object to in the same words is one problem."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column))


def doubts(spec: AgentSpec) -> list[tuple[Path, str]]:
    """What is valid and probably not meant."""
    found: list[tuple[Path, str]] = []
    for name, value in spec.env.items():
        if isinstance(value, str) and "${" in value:
            found.append((("env", name), "${…} is not filled in here; a value from outside is {env: NAME}"))
    mode = spec.permission_mode
    if spec.harness == "claude-code" and mode is not None and mode not in CLAUDE_CODE_MODES:
        near = nearest(mode, CLAUDE_CODE_MODES)
        meant = f"; did you mean {near}?" if near else ""
        found.append((("permission_mode",), f"{mode} is no mode of Claude Code that fleet knows of{meant}"))
    return found


CLAUDE_CODE_MODES = ("default", "manual", "acceptEdits", "plan", "auto", "dontAsk", "bypassPermissions")
