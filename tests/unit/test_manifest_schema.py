"""The JSON Schema and docs/manifest.md say what the model says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.manifests import AgentSpec, load_text
from fleet.manifests.loader import metadata_keys, spec_keys
from fleet.manifests.schema import json_schema, reference
from fleet.manifests.shape import known_keys, written_paths

ROOT = Path(__file__).parent.parent.parent
SCHEMA = json_schema()


def objects(schema: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in a schema, with its place."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("type") == "object":
            yield at, schema
        for key, inner in schema.items():
            yield from objects(inner, f"{at}/{key}")


def test_the_schema_knows_every_key_and_no_other() -> None:
    parts = SCHEMA["properties"]
    assert tuple(parts["metadata"]["properties"]) == metadata_keys()
    assert tuple(parts["spec"]["properties"]) == spec_keys()
    for at, found in objects(SCHEMA):
        if not at.endswith("/McpServer"):
            assert found["additionalProperties"] is False, at


def test_every_key_is_described() -> None:
    for at, found in objects(SCHEMA):
        for name, field in found["properties"].items():
            described = field.get("description") or SCHEMA["$defs"].get(
                field.get("$ref", "").rpartition("/")[2], {}
            ).get("description")
            assert described, f"{at}/{name}"


def test_every_reference_leads_somewhere() -> None:
    text = str(SCHEMA)
    for name in re.findall(r"#/\$defs/(\w+)", text):
        assert name in SCHEMA["$defs"]


def test_the_page_is_the_one_that_the_model_draws() -> None:
    assert (ROOT / "docs" / "manifest.md").read_text() == reference(), "`make docs` draws it again"


def test_the_pages_example_is_a_manifest() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", reference(), flags=re.DOTALL):
        assert load_text(block, "/nowhere/x.yaml").specs


@pytest.mark.parametrize(
    ("path", "some"),
    [
        ((), {"harness", "restart"}),
        (("restart", "backoff"), {"initial", "max"}),
        (("env", "A"), {"env", "file"}),
        (("health",), {"interval"}),
        (("health", 0), {"role", "period"}),
        (("hooks", "pre_start", 3), {"argv", "sh"}),
        (("slurm", "hooks"), {"pre_agent"}),
        (("nothing",), set()),
    ],
)
def test_the_keys_at_a_place_are_read_off_the_model(path: tuple[str | int, ...], some: set[str]) -> None:
    found = set(known_keys(AgentSpec, path))
    assert some <= found if some else not found


def test_text_as_written_is_meant_where_a_program_gets_it() -> None:
    found = {".".join(map(str, path)) for path in written_paths()}
    assert {
        "spec.command.[]",
        "spec.args.[]",
        "spec.env.*",
        "spec.env.*.command.[]",
        "metadata.labels.*",
        "spec.hooks.pre_start.[].[]",
        "spec.hooks.pre_start.[].argv.[]",
        "spec.slurm.time_limit",
    } <= found
    assert not any("timeout" in path or "max_retries" in path for path in found)


def test_the_schema_is_plain_data() -> None:
    assert yaml.safe_load(yaml.safe_dump(SCHEMA)) == SCHEMA
