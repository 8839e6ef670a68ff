"""What `fleet diff` calls a change, and which of them need a restart."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from fleet.manifests import AgentSpec
from fleet.manifests.changes import NO_RESTART, Change, compare
from fleet.manifests.loader import metadata_keys, spec_keys

BEFORE: dict[str, Any] = {"name": "web", "env": {"A": "1", "B": "2"}, "restart": {"policy": "never"}, "args": ["-v"]}


def after(**changed: Any) -> tuple[Change, ...]:
    return compare(AgentSpec.model_validate(BEFORE), AgentSpec.model_validate({**BEFORE, **changed}))


def test_the_same_manifest_is_no_change() -> None:
    assert after() == ()


def test_where_the_file_stands_is_no_change_by_itself() -> None:
    assert after(folder="/other", source="/other/web.yaml") == ()


@pytest.mark.parametrize("leans", [{"workdir": "src"}, {"venv": ".venv"}, {"command": ["./claude"]}])
def test_a_moved_manifest_needs_a_restart_where_a_path_starts_from_it(leans: dict[str, Any]) -> None:
    before = AgentSpec.model_validate({**BEFORE, **leans, "folder": "/a"})
    now = AgentSpec.model_validate({**BEFORE, **leans, "folder": "/b"})
    assert compare(before, now) == (Change("folder", restart=True),)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"labels": {"role": "x"}}, [("labels.role", False)]),
        ({"description": "x"}, [("description", False)]),
        ({"restart": {"policy": "always"}}, [("restart.policy", False)]),
        ({"prompt": "hello"}, [("prompt", False)]),
        ({"hub": {"channels": ["x"], "mcp": False}}, [("hub.channels", False), ("hub.mcp", True)]),
        ({"env": {"A": "1", "B": "3", "C": "4"}}, [("env.B", True), ("env.C", True)]),
        ({"env": {"A": "1"}}, [("env.B", True)]),
        ({"env": {"A": {"env": "X"}, "B": "2"}}, [("env.A", True)]),
        ({"args": ["-v", "-x"]}, [("args", True)]),
        ({"model": "opus", "health": {"interval": 5}}, [("model", True), ("health.interval", False)]),
        ({"remote": {"host": "mba"}}, [("runtime", True), ("remote", True)]),
        ({"health": [{"role": "liveness"}]}, [("health", False)]),
    ],
)
def test_a_change_is_told_by_its_key_with_whether_it_needs_a_restart(
    changed: dict[str, Any], expected: list[tuple[str, bool]]
) -> None:
    assert [(change.path, change.restart) for change in after(**changed)] == expected


def test_every_key_that_needs_no_restart_is_a_key_of_the_model() -> None:
    for path in NO_RESTART:
        model: type[BaseModel] = AgentSpec
        for part in path.split("."):
            assert part in model.model_fields, path
            model = type(model.model_fields[part].default)
    assert set(NO_RESTART) - {*metadata_keys(), *spec_keys()} == {path for path in NO_RESTART if "." in path}


def test_what_the_program_itself_sees_always_needs_a_restart() -> None:
    seen = ("harness", "model", "command", "args", "workdir", "permission_mode", "env", "venv", "files", "mcp_servers")
    assert not set(seen) & set(NO_RESTART)
