"""The model's own shape, read off its annotations: which keys stand where, and which values are text as written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, WithJsonSchema
from pydantic.fields import FieldInfo

from fleet.manifests.model import AgentSpec, Metadata
from fleet.manifests.yamltree import Path, Tree

ITEM = "[]"
KEY = "*"


def _inner(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The plain types that an annotation allows, each with what was annotated on it."""
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        yield from _inner(inner, (*metadata, *extra))
    elif (args := get_args(annotation)) and get_origin(annotation) not in (tuple, dict, list):
        for arg in args:
            yield from _inner(arg, metadata)
    else:
        yield annotation, metadata


def _of_field(field: FieldInfo) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    yield from _inner(field.annotation, tuple(field.metadata))


def _below(annotation: Any) -> Iterator[tuple[str, Any]]:
    """What stands below a value: a model's fields by name, a list's items under `[]`, a mapping's values under `*`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield name, Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    elif get_origin(annotation) in (tuple, list):
        yield ITEM, get_args(annotation)[0]
    elif get_origin(annotation) is dict:
        yield KEY, get_args(annotation)[1]


def _fits(part: str | int, pattern: str | int) -> bool:
    return pattern == ITEM if isinstance(part, int) else pattern in (part, KEY)


def known_keys(model: type[BaseModel], path: Path) -> tuple[str, ...]:
    """The keys that may stand at a path of the model."""
    types: list[Any] = [model]
    for part in path:
        types = [
            inner
            for annotation in types
            for name, below in _below(annotation)
            if _fits(part, name)
            for inner, _ in _inner(below)
        ]
    return tuple(name for annotation in types for name, _ in _below(annotation) if name not in (ITEM, KEY))


@cache
def written_paths() -> frozenset[Path]:
    """The paths of a manifest whose values are text as written, `*` for any key or item."""
    return frozenset(
        ("metadata" if path[0] in Metadata.model_fields else "spec", *path) for path in _written(AgentSpec, ())
    )


def _written(annotation: Any, path: Path) -> Iterator[Path]:
    for name, below in _below(annotation):
        for inner, metadata in _inner(below):
            if inner is str and any(_says_as_written(mark) for mark in metadata):
                yield (*path, name)
            elif inner is not annotation:
                yield from _written(inner, (*path, name))
                # A command may be given as its bare list of arguments.
                if isinstance(inner, type) and inner.__name__ == "Command":
                    yield (*path, name, ITEM)


def _says_as_written(mark: Any) -> bool:
    return isinstance(mark, WithJsonSchema) and bool((mark.json_schema or {}).get("x-as-written"))


def as_written(
    document: dict[str, Any], tree: Tree, original: Callable[[Path], Path] = lambda path: path
) -> dict[str, Any]:
    """The document with the text of each value that is text by its nature: `sleep 60`, `PORT: 0640`, `DEBUG: yes`.

    `original` says where in the tree a path of the document was read.
    """
    patterns = written_paths()

    def restored(value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: restored(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, tuple):
            return tuple(restored(inner, (*path, i)) for i, inner in enumerate(value))
        if isinstance(value, bool | int | float) and any(_matches(path, pattern) for pattern in patterns):
            return tree.written.get(original(path), value)
        return value

    return {key: restored(value, (key,)) for key, value in document.items()}


def _matches(path: Path, pattern: Path) -> bool:
    return len(path) == len(pattern) and all(map(_fits, path, pattern))
