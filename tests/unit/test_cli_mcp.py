"""`fleet mcp setup`: fleet's server in a project's file, beside what is there, and out of it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fleet.cli import mcp
from fleet.errors import NotAllowed

ENTRY = {"type": "stdio", "command": "fleet", "args": ["mcp"]}
OTHERS = '{\n\t"mcpServers": {\n\t\t"a": {"command": "x"},   \n\t\t"b": {"url": "http://h"}\n\t},\n\t"more": [1,2]\n}\n'


@pytest.mark.parametrize(
    "text", ["", "  \n", "{}", '{"mcpServers": {}}', OTHERS, '{"mcpServers":{"a":{"command":"x"}}}']
)
def test_it_is_written_once_and_the_rest_stays_as_it_was(text: str) -> None:
    after = mcp.with_server(text, ENTRY)
    before = json.loads(text) if text.strip() else {}
    servers = {**before.get("mcpServers", {}), "fleet": ENTRY}
    assert json.loads(after) == {**before, "mcpServers": servers}
    assert mcp.with_server(after, ENTRY) == after


def test_the_form_of_what_is_there_is_kept_to_the_byte() -> None:
    after = mcp.with_server(OTHERS, ENTRY)
    start = OTHERS.index('\n\t},\n\t"more"')
    assert after.startswith(OTHERS[:start]) and after.endswith(OTHERS[start:])
    assert mcp.without(after) == OTHERS


def test_one_that_differs_is_replaced() -> None:
    old = mcp.with_server(OTHERS, {"command": "/old/fleet"})
    after = mcp.with_server(old, ENTRY)
    assert json.loads(after)["mcpServers"]["fleet"] == ENTRY
    assert mcp.without(after) == OTHERS


@pytest.mark.parametrize("text", ['{"a":', "[]", '{"mcpServers": []}', '{"a": 1, "a": 2}', "[" * 100_000])
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(NotAllowed):
        mcp.with_server(text, ENTRY)


def test_a_token_goes_in_as_its_files_name_only(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("flt_secret")
    entry = mcp.server(tmp_path / "token")
    assert entry["env"] == {"FLEET_TOKEN_FILE": str(tmp_path / "token")}
    assert "flt_secret" not in json.dumps(entry)
