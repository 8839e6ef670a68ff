"""What a manifest says survives: YAML to spec, spec to JSON, spec to YAML, with any subset of its keys."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fleet.manifests import AgentSpec, Secret, load_text
from fleet.manifests.loader import metadata_keys, spec_keys
from fleet.manifests.writer import to_yaml

calm = settings(deadline=None, max_examples=40)
FILE = "/nowhere/web/web.yaml"

commands = st.just([["make", "build"], {"sh": "make | tee log", "timeout": 5}, {"argv": ["x", "060"], "timeout": 1.5}])
plain = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(plain, max_size=40)
lines = st.sampled_from(["x", "yes", "060", "1.10", "null", "~", "a: b", "# x", "'q'", "- x", "é", "12:30"])

HOOKS = ("pre_start", "post_start", "pre_stop", "post_stop", "on_restart", "on_needs_input", "on_limit")
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["web", "web-2", "7"]),
    "description": texts,
    "labels": st.dictionaries(st.sampled_from(["role", "a/b", "on"]), lines, max_size=3),
    "capabilities": st.lists(st.sampled_from(["python", "review"]), max_size=2),
    "harness": st.sampled_from(["claude-code", "codex", "aider"]),
    "runtime": st.just("local"),
    "mode": st.sampled_from(["interactive", "headless"]),
    "model": st.sampled_from(["opus[1m]", "sonnet"]),
    "command": st.lists(texts.filter(bool), min_size=1, max_size=3),
    "args": st.lists(texts, max_size=3),
    "workdir": texts,
    "prompt": texts,
    "prompt_file": texts,
    "session": st.sampled_from(["continue", "new"]),
    "permission_mode": st.just("plan"),
    "auto_accept": st.just(["trust-folder", "bypass-permissions", "api-key", "mcp-servers"]),
    "env": st.dictionaries(
        st.sampled_from(["A", "B_2", "_c"]),
        texts | st.sampled_from([{"env": "X"}, {"file": "~/x"}, {"command": ["pass", "060"]}]),
    ),
    "env_inherit": st.sampled_from(["all", "none", ["PATH", "LC_*"]]),
    "venv": st.sampled_from(["~/a", ["~/a", "b"]]),
    "files": st.just({"CLAUDE.md": "src_CLAUDE.md", "a/b": "c"}),
    "skills": st.just({"required": ["a"], "available": ["b"], "strict": True}),
    "mcp_servers": st.just(
        {
            "a": {"type": "stdio", "command": "npx", "args": ["-y", "1"], "env": {"A": "0"}, "unknown": [1, None]},
            "b": {"type": "http", "url": "https://x", "headers": {"A": "b"}},
        }
    ),
    "startup": st.just({"timeout": 5, "probe": ["true"]}),
    "stop": st.just({"timeout": 0, "command": "/exit"}),
    "remote": st.just(
        {"host": ["a", "b"], "user": "me", "port": 23, "key": "~/k", "timeout": 9.5, "login_shell": True}
    ),
    "hosts": st.sampled_from(["all", ["a", "b"]]),
    "slurm": st.just(
        {
            "partition": "cpu", "account": "x", "qos": "q", "cpus_per_task": 2, "mem": "8G", "gres": "gpu:1",
            "nodes": 2, "time_limit": "12:30:00", "signal_before": 300, "auto_resubmit": False, "reservation": "pool",
            "extra_directives": ["--x=y"], "logs_dir": "~/l",
            "hooks": {
                "pre_submit": [["x"]], "pre_agent": [{"sh": "x"}], "walltime_signal": [["y"]], "post_agent": [["z"]],
            },
        }
    ),
    "container": st.just(
        {"runtime": "docker", "image": "x", "volumes": ["a:b"], "network": "host", "mount_host_claude": True}
    ),
    "multiplexer": st.just("screen"),
    "health": st.sampled_from(
        [
            {"enabled": False, "interval": 5, "timeout": 1, "method": "multiplexer-alive"},
            [
                {"role": "startup", "method": "command", "command": {"sh": "x"}, "period": 1, "timeout": 2},
                {"role": "liveness", "method": "http", "url": "http://x", "failures": 2, "successes": 2},
                {"role": "progress", "method": "tcp", "port": 1},
            ],
        ]
    ),
    "restart": st.just(
        {
            "policy": "always", "max_retries": 0, "window": 1, "reset_after": 2, "success_exit_codes": [0, 143],
            "never_exit_codes": [2], "auto_resume": True, "backoff": {"initial": 1, "max": 2.5, "multiplier": 3},
        }
    ),
    "hooks": commands.map(lambda these: dict.fromkeys(HOOKS, these)),
    "context_management": st.just({"trigger_at_percent": 70, "strategy": "compact", "min_drop_percent": 10}),
    "schedule": st.just(
        [
            {"cron": "0 9 * * 1-5", "send": "x", "timezone": "UTC", "only_if": ["x"]},
            {"every": "5s", "send": "x", "misfire": "skip", "overlap": "queue"},
            {"every": "10m", "ask": "x"}, {"at": "2026-01-01T09:00:00", "start": True}, {"every": "1h", "stop": True},
            {"every": "1h", "restart": True}, {"every": "1d", "action": "compact"},
        ]
    ),
    "hub": st.just(
        {
            "enabled": False, "channels": ["#a"], "may": ["send"], "hop_limit": 1, "wake": True, "mcp": False,
            "side_channels": True, "suppress_thanks": False,
        }
    ),
    "headless": st.sampled_from([{"max_parallel": 2, "timeout": 1, "tools": "all"}, {"tools": ["Bash"]}]),
    "a2a": st.just({"enabled": True}),
    "budget": st.just({"usd_per_day": 1.5, "on_limit": "warn"}),
    "depends_on": st.just([{"agent": "db", "condition": "ready"}]),
}  # fmt: skip
EXCLUSIVE = ({"prompt", "prompt_file"}, {"runtime", "remote"}, {"runtime", "slurm"})

documents = st.fixed_dictionaries({"name": VALUES["name"]}, optional={k: v for k, v in VALUES.items() if k != "name"})


def manifest(flat: dict[str, Any]) -> str:
    for pair in EXCLUSIVE:
        if pair <= set(flat):
            flat.pop(sorted(pair)[-1])
    metadata = {key: value for key, value in flat.items() if key in metadata_keys()}
    spec = {key: value for key, value in flat.items() if key not in metadata}
    return yaml.safe_dump({"apiVersion": "fleet/v1", "kind": "Agent", "metadata": metadata, "spec": spec})


def test_the_samples_cover_every_key_of_the_model() -> None:
    assert set(VALUES) == {*metadata_keys(), *spec_keys()}


@calm
@given(documents)
def test_a_spec_survives_json(flat: dict[str, Any]) -> None:
    (spec,) = load_text(manifest(flat), FILE).specs
    assert AgentSpec.model_validate_json(spec.model_dump_json()) == spec


@calm
@given(documents)
def test_what_convert_writes_loads_to_the_same_agent(flat: dict[str, Any]) -> None:
    (spec,) = load_text(manifest(flat), FILE).specs
    assert load_text(to_yaml([spec]), FILE).specs == (spec,)


@calm
@given(documents)
def test_what_was_said_is_in_the_spec(flat: dict[str, Any]) -> None:
    (spec,) = load_text(manifest(flat), FILE).specs
    for key, value in flat.items():
        found = getattr(spec, key)
        if isinstance(value, str):
            assert found == value
        elif key == "env":
            assert {n: v.model_dump(exclude_unset=True) if isinstance(v, Secret) else v for n, v in found.items()} == {
                n: {k: tuple(w) if isinstance(w, list) else w for k, w in v.items()} if isinstance(v, dict) else v
                for n, v in value.items()
            }
        elif isinstance(found, BaseModel) and key != "hooks":
            said = found.model_dump(mode="json", exclude_unset=True)
            assert said.keys() == value.keys()


@settings(deadline=None, max_examples=10)
@given(st.lists(documents, max_size=3, unique_by=lambda flat: flat["name"]))
def test_several_agents_survive_in_one_file(flats: list[dict[str, Any]]) -> None:
    if flats:
        specs = [load_text(manifest(flat), FILE).specs[0] for flat in flats]
        assert load_text(to_yaml(specs), FILE).specs == tuple(specs)


@calm
@given(st.text(plain, max_size=200))
def test_any_text_at_all_is_a_manifest_or_a_clear_refusal(text: str) -> None:
    from fleet.errors import InvalidManifest

    try:
        load_text(text, FILE)
    except InvalidManifest as refused:
        assert refused.facts["problems"]


@calm
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*VALUES, "x", "initial"]), inner),
        max_leaves=12,
    )
)
def test_any_value_in_spec_is_taken_or_clearly_refused(value: Any) -> None:
    from fleet.errors import InvalidManifest

    document = {"apiVersion": "fleet/v1", "kind": "Agent", "metadata": {"name": "web"}, "spec": value}
    try:
        load_text(yaml.safe_dump(document), FILE)
    except InvalidManifest as refused:
        assert all(problem["line"] for problem in refused.facts["problems"])
