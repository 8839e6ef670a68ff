"""What is drawn from the model: the JSON Schema that editors use, and the page docs/manifest.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from fleet.manifests import acting, legacy
from fleet.manifests.loader import metadata_keys, spec_keys
from fleet.manifests.model import API_VERSION, AgentSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a fleet/v1 document."""
    flat = AgentSpec.model_json_schema()
    keys: dict[str, Any] = flat["properties"]
    keys["name"]["type"] = ["string", "null"]  # null: the folder's name
    return {
        "$schema": DIALECT,
        "title": f"fleet manifest, {API_VERSION}",
        "description": "One agent. A file may hold several documents.",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": API_VERSION, "description": "The version of this format."},
            "kind": {"const": "Agent", "description": "What the document declares."},
            "metadata": _part("Who the agent is.", metadata_keys(), keys),
            "spec": _part("What it is and how it is kept.", spec_keys(), keys),
        },
        "$defs": flat["$defs"],
    }


def _part(description: str, names: tuple[str, ...], keys: dict[str, Any]) -> dict[str, Any]:
    properties = {name: keys[name] for name in names}
    return {"description": description, "type": "object", "additionalProperties": False, "properties": properties}


# -- docs/manifest.md ---------------------------------------------------------------------------------------------

_HEAD = f"""# The manifest

<!-- Drawn from fleet/manifests/model.py by `make docs`; a test compares. -->

One YAML file declares one agent; several documents in one file declare a small fleet. `fleet init` writes a first
one, `fleet validate FILE` names every mistake with its line, `fleet check FILE` looks whether what it needs is there,
and `fleet schema` prints the JSON Schema for an editor.

```yaml
apiVersion: {API_VERSION}
kind: Agent
metadata:
  name: counter
spec:
  harness: shell
  command: [sh, -c, "while sleep 1; do date; done"]
```

A key that is unknown, stands twice or has the wrong type is an error with file, line, column and the nearest right
name; all problems of a file are told at once, and nothing is started from it. Where `metadata.name` is missing, the
agent is called as the manifest's folder. A fleet folder (`fleet start DIR`) holds `NAME.yaml` or `NAME/NAME.yaml`.

Values of `env`, `labels`, `args`, `command` and other argument lists are text as it is written: `PORT: 8080` is
`8080` and `VERSION: 1.10` is `1.10`. A command is a list of arguments, `[make, build]`, that no shell reads; or, where
one is wanted, `{{sh: "make build | tee log", timeout: 60}}`, ended after that many seconds.

## Files beside the manifest

A file `src_X` beside the manifest is put into the workspace as `X` at each start: `src_CLAUDE.md` as `CLAUDE.md`,
`src_mcp.json` as `.mcp.json`, `src_env` as `.env` (readable by its owner alone). `${{NAME}}` is filled in from the
environment of `fleet start` and from `env`, `${{metadata.name}}` and `${{metadata.labels.X}}` from the manifest;
`$${{NAME}}` stays `${{NAME}}`. A variable that is not set is an error. In `.mcp.json` a value only ever becomes text
inside a JSON string, in `.env` a quoted value. An existing `CLAUDE.md` keeps its own text: fleet owns a marked block
in it. Any other file that fleet did not write is never overwritten.

## Not yet

{acting.reference()}
## Keys
"""

_TAIL = """
## Older formats

`scitex-agent-container/v2`, `scitex-agent-container/v3` and `cld-agent/v1` load as they are. A key of theirs that has
no meaning here is named in a warning with the reason, and `fleet convert FILE` prints the fleet/v1 form. What a key
becomes:

"""


def reference() -> str:
    """docs/manifest.md."""
    schema = json_schema()
    lines = [_HEAD]
    for part in ("metadata", "spec"):
        lines += [f"### {part}", "", *_rows(schema["properties"][part]["properties"], schema), ""]
        lines += _sections(schema["properties"][part]["properties"], schema, part)
    return "\n".join(lines).rstrip() + "\n" + _TAIL + legacy.reference()


def _described(schema: dict[str, Any], defined: str) -> str:
    return str(schema["$defs"][defined].get("description", "")).split("\n")[0]


def _rows(properties: dict[str, Any], schema: dict[str, Any], required: Sequence[str] = ()) -> Iterator[str]:
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    for name, field in properties.items():
        said = field.get("description") or next((_described(schema, each) for each in _references(field)), "")
        default = "required" if name in required else _default(field)
        cells = (f"`{name}`", _kind(field, schema), default, said)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _sections(properties: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    """A table for each key that is a mapping with keys of its own, or a list of such."""
    for name, field in properties.items():
        for defined in dict.fromkeys(_references(field)):
            inner = schema["$defs"][defined]
            if defined == "Command" or "properties" not in inner:
                continue
            yield f"#### {at}.{name}" + (f" ({defined.lower()})" if len(set(_references(field))) > 1 else "")
            yield ""
            if inner.get("description"):
                yield inner["description"].replace("\n", " ")
                yield ""
            yield from _rows(inner["properties"], schema, inner.get("required", ()))
            yield ""
            yield from _sections(inner["properties"], schema, f"{at}.{name}")


def _references(field: dict[str, Any]) -> Iterator[str]:
    if "$ref" in field:
        yield field["$ref"].rpartition("/")[2]
    for key in ("anyOf", "oneOf", "allOf"):
        for branch in field.get(key, ()):
            yield from _references(branch)
    for key in ("items", "additionalProperties"):
        if isinstance(field.get(key), dict):
            yield from _references(field[key])


def _kind(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """A value's form in words."""
    branches = [branch for key in ("anyOf", "oneOf") for branch in field.get(key, ())]
    if any(branch.get("$ref", "").endswith("/Command") for branch in branches):
        return "a command"
    if branches:
        return ", or ".join(dict.fromkeys(_kind(b, schema) for b in branches if b.get("type") != "null"))
    if "$ref" in field:
        return "a command" if field["$ref"].endswith("/Command") else "a mapping"
    if "enum" in field:
        return ", ".join(f"`{word}`" for word in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = field.get("type")
    if kind == "array":
        inner = _kind(field.get("items", {}), schema)
        return f"a list of {_many(inner)}"
    if kind == "object":
        return "a mapping"
    if isinstance(kind, list):
        return "text"
    return {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}.get(
        str(kind), "any value"
    )


def _many(words: str) -> str:
    plain = {"text": "texts", "a mapping": "mappings", "a command": "commands", "a whole number": "whole numbers"}
    return plain.get(words, words)


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value in (None, "", [], {}) or isinstance(value, dict):
        return ""
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"
