"""YAML as plain values with the place of each: every problem can then name its line and column.

The text is parsed once, into nodes. Sequences become tuples, and nothing becomes an object: a tag that would make
one is a problem. A key that stands twice is a problem too, where PyYAML would let the last one win in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML without its C part
    from yaml import SafeLoader  # type: ignore[assignment]

Path = tuple[str | int, ...]
Place = tuple[int, int]
"""Line and column, from 1."""

MOST_VALUES = 100_000
"""A manifest has a few hundred values; aliases of aliases could ask for billions."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the YAML itself."""

    place: Place
    path: Path
    message: str


@dataclass(slots=True)
class Tree:
    """One document: its value, and where each part of it stands."""

    value: Any = None
    place: Place = (1, 1)
    keys: dict[Path, Place] = field(default_factory=dict)
    """Where the key stands under which a value is found."""
    values: dict[Path, Place] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)
    """The text of each plain value, as it was written: `0640`, `1.10`, `yes`."""
    faults: list[Fault] = field(default_factory=list)

    def locate(self, path: Path, *, key: bool = False) -> Place:
        """Where a value (or its key) stands; one that is not there stands where its parent does."""
        if key and path in self.keys:
            return self.keys[path]
        for length in range(len(path), -1, -1):
            if path[:length] in self.values:
                return self.values[path[:length]]
        return self.place


def parse(text: str) -> list[Tree]:
    """The documents of a text. One that cannot be parsed ends the list, with its fault."""
    trees: list[Tree] = []
    try:
        for node in yaml.compose_all(text, Loader=SafeLoader):
            if node is not None and not _is_empty(node):
                trees.append(_Reader().read(node))
    except yaml.YAMLError as e:
        trees.append(_broken(e))
    except RecursionError:
        trees.append(Tree(faults=[Fault((1, 1), (), "is nested too deeply")]))
    return trees


def _broken(error: yaml.YAMLError) -> Tree:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    parts = [getattr(error, "problem", None), getattr(error, "context", None)]
    words = ", ".join(part for part in parts if part) or str(error).splitlines()[0]
    return Tree(place=place, faults=[Fault(place, (), f"is no valid YAML: {words}")])


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null") and node.value == ""


def _place(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


class _TooLarge(Exception):
    pass


class _Reader:
    """One walk over the nodes of a document."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.open: set[int] = set()
        self.count = 0

    def read(self, node: yaml.Node) -> Tree:
        self.tree.place = _place(node)
        try:
            self.tree.value = self._value(node, ())
        except _TooLarge:
            self._fault(node, (), f"has more than {MOST_VALUES} values; its aliases multiply")
        return self.tree

    def _fault(self, node: yaml.Node, path: Path, message: str) -> None:
        self.tree.faults.append(Fault(_place(node), path, message))

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self.count += 1
        if self.count > MOST_VALUES:
            raise _TooLarge
        self.tree.values[path] = _place(node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self.open:
            self._fault(node, path, "contains itself, by an alias")
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return self._sequence(node, path)
        finally:
            self.open.discard(id(node))

    def _sequence(self, node: yaml.Node, path: Path) -> tuple[Any, ...]:
        self._plain_tag(node, path, "seq")
        return tuple(self._value(item, (*path, i)) for i, item in enumerate(node.value))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        self._plain_tag(node, path, "map")
        found: dict[str, Any] = {}
        for key_node, value_node in self._pairs(node, path):
            key = self._key(key_node, path)
            if key is None:
                continue
            where = (*path, key)
            if key in found:
                line, column = self.tree.keys[where]
                self._fault(key_node, where, f"stands twice; the first is at line {line}, column {column}")
                continue
            self.tree.keys[where] = _place(key_node)
            found[key] = self._value(value_node, where)
        return found

    def _pairs(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """The pairs of a mapping; those that a `<<` brings in come last and yield to its own."""
        own = {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
        merges: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                merges += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                yield key, value
        for merged in merges:
            if not isinstance(merged, yaml.MappingNode):
                self._fault(merged, path, "<< takes a mapping, or a list of mappings")
                continue
            for key, value in merged.value:
                if isinstance(key, yaml.ScalarNode) and key.value not in own:
                    own.add(key.value)
                    yield key, value

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag.rpartition(":")[2] in ("str", "int", "float", "bool"):
            return str(node.value)
        self._fault(node, path, "has a key that is no plain text")
        return None

    def _plain_tag(self, node: yaml.Node, path: Path, kind: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{kind}":
            self._fault(node, path, f"has the tag {_short(node.tag)}, which means nothing here")

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        kind = node.tag.rpartition(":")[2] if node.tag.startswith("tag:yaml.org,2002:") else node.tag
        text = str(node.value)
        if not node.style:
            self.tree.written[path] = text
        if kind in ("str", "timestamp", "value"):
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("yes", "true", "on")
        if kind in ("int", "float"):
            return self._number(node, text, kind, path)
        self._fault(node, path, f"has the tag {_short(node.tag)}, which means nothing here")
        return None

    def _number(self, node: yaml.Node, text: str, kind: str, path: Path) -> Any:
        if ":" in text:  # sixties, as in 12:30:00: a time of day or a length to whoever wrote it
            return text
        digits = text.replace("_", "")
        try:
            return _whole(digits) if kind == "int" else _fraction(digits)
        except ValueError:
            self._fault(node, path, f"{text!r} is no number")
            return None


def _whole(digits: str) -> int:
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-").lower()
    if digits.startswith(("0x", "0b", "0o")):
        return sign * int(digits, 0)
    return sign * (int(digits, 8) if digits.startswith("0") and len(digits) > 1 else int(digits))


def _fraction(digits: str) -> float:
    return float(digits.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")
