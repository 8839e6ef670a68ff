"""What `fleet validate` and `fleet start` accept, and what they say about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet import manifests
from fleet.errors import InvalidManifest
from fleet.manifests import AgentSpec, Command, Secret, cannot_yet, load, load_text, not_acting
from fleet.manifests.loader import metadata_keys
from fleet.manifests.model import ScheduleEntry

HEAD = "apiVersion: fleet/v1\nkind: Agent\nmetadata: {name: web}\n"


def spec_of(body: str, tmp_path: Path = Path("/nowhere")) -> AgentSpec:
    """The agent that this body of `spec` declares."""
    return load_text(HEAD + "spec:\n" + body, tmp_path / "web.yaml").specs[0]


def problems_of(text: str, file: Path = Path("/nowhere/web/web.yaml")) -> list[dict[str, Any]]:
    """What is wrong with a manifest's text."""
    with pytest.raises(InvalidManifest) as refused:
        load_text(text, file)
    found: list[dict[str, Any]] = refused.value.facts["problems"]
    return found


def problem_of(text: str) -> dict[str, Any]:
    (problem,) = problems_of(text)
    return problem


def in_spec(body: str) -> dict[str, Any]:
    return problem_of(HEAD + "spec:\n" + body)


# -- what a valid one says ----------------------------------------------------------------------------------------


def test_a_manifest_without_spec_is_claude_code_on_this_machine() -> None:
    spec = load_text(HEAD, "/nowhere/web.yaml").specs[0]
    assert (spec.name, spec.harness, spec.runtime, spec.restart.policy) == ("web", "claude-code", "local", "on-failure")
    assert (spec.folder, spec.source) == ("/nowhere", "/nowhere/web.yaml")


@pytest.mark.parametrize(
    ("body", "runtime"),
    [
        ("  remote: {host: mba}\n", "ssh"),
        ("  slurm: {}\n", "slurm"),
        ("  slurm: {reservation: pool}\n", "slurm-tenant"),
        ("  remote: {host: login}\n  slurm: {}\n", "slurm"),
        ("  runtime: ssh\n  remote: {host: mba}\n", "ssh"),
        ("  runtime: ssh\n  hosts: [a, b]\n", "ssh"),
    ],
)
def test_the_runtime_follows_from_what_is_written(body: str, runtime: str) -> None:
    assert spec_of(body).runtime == runtime


@pytest.mark.parametrize(
    "body", ["  runtime: ssh\n", "  runtime: local\n  slurm: {}\n", "  runtime: slurm-tenant\n  slurm: {}\n"]
)
def test_a_runtime_that_contradicts_the_rest_is_refused_at_its_line(body: str) -> None:
    problem = in_spec(body)
    assert (problem["path"], problem["line"]) == ("spec.runtime", 5)


def test_values_of_variables_labels_and_arguments_are_text_as_written() -> None:
    spec = load_text(
        "apiVersion: fleet/v1\nkind: Agent\nmetadata: {name: web, labels: {v: 1.10, on: yes}}\n"
        "spec:\n  harness: shell\n  command: [sleep, 060]\n  args: [1e3, 0x10, true, 12:30]\n"
        "  env: {PORT: 8080, MODE: 0640, DEBUG: yes, EMPTY: ''}\n"
        "  hooks: {pre_start: [[sleep, 1], {argv: [sleep, 2.50], timeout: 3}]}\n"
        "  slurm: {time_limit: 12:00:00, mem: 16000}\n",
        "/nowhere/web.yaml",
    ).specs[0]
    assert spec.labels == {"v": "1.10", "on": "yes"}
    assert (spec.command, spec.args) == (("sleep", "060"), ("1e3", "0x10", "true", "12:30"))
    assert spec.env == {"PORT": "8080", "MODE": "0640", "DEBUG": "yes", "EMPTY": ""}
    assert spec.hooks.pre_start == (Command(argv=("sleep", "1")), Command(argv=("sleep", "2.50"), timeout=3))
    assert spec.slurm is not None
    assert (spec.slurm.time_limit, spec.slurm.mem) == ("12:00:00", "16000")


def test_a_value_from_outside_is_a_secret_and_its_name_is_known() -> None:
    spec = spec_of("  env: {A: text, B: {env: TOKEN}, C: {file: ~/key}, D: {command: [pass, show, key]}}\n")
    assert spec.secret_names == ("B", "C", "D")
    assert spec.env["D"] == Secret(command=("pass", "show", "key"))


def test_a_value_means_itself_whatever_a_shell_would_make_of_it() -> None:
    nasty = "$(touch /tmp/x) `id` \"q\" 'q' \\ \n two lines ; rm -rf / # é"
    spec = AgentSpec(name="web", env={"A": nasty}, harness="shell", command=("printf", nasty))
    assert AgentSpec.model_validate_json(spec.model_dump_json()) == spec
    assert (spec.env["A"], spec.command[1]) == (nasty, nasty)


def test_a_spec_survives_json() -> None:
    spec = spec_of(
        "  env: {A: {env: B}}\n  health: [{role: readiness, method: http, url: http://localhost}]\n"
        "  hooks: {pre_start: [{sh: make}]}\n  remote: {host: [a, b]}\n"
    )
    assert AgentSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        spec_of("  harness: claude-code\n").name = "other"


# -- where the name comes from ------------------------------------------------------------------------------------


def test_a_missing_name_is_the_folders(tmp_path: Path) -> None:
    (tmp_path / "reviewer").mkdir()
    (tmp_path / "reviewer" / "agent.yaml").write_text("apiVersion: fleet/v1\nkind: Agent\n")
    assert load(tmp_path / "reviewer" / "agent.yaml").specs[0].name == "reviewer"


def test_a_folder_whose_name_is_no_agent_name_gives_none(tmp_path: Path) -> None:
    folder = tmp_path / "a;touch X"
    folder.mkdir()
    (folder / "agent.yaml").write_text("apiVersion: fleet/v1\nkind: Agent\n")
    with pytest.raises(InvalidManifest, match=r"'a;touch X' is none: write metadata\.name"):
        load(folder / "agent.yaml")


@pytest.mark.parametrize(
    "name", ["../x", "a;touch X", "A", "a_b", "-a", "a-", "a.b", "a b", "a/b", "é", "a" * 64, "", "$(id)", "a\\nb"]
)
def test_a_name_that_could_mean_more_than_a_name_is_refused(name: str) -> None:
    problem = problem_of(f'apiVersion: fleet/v1\nkind: Agent\nmetadata:\n  name: "{name}"\n')
    assert (problem["path"], problem["line"], problem["column"]) == ("metadata.name", 4, 9)


@pytest.mark.parametrize("name", ["a", "7", "web-2", "a" * 63])
def test_plain_names_are_taken(name: str) -> None:
    assert manifests.is_name(name)


def test_the_nearest_name_is_told() -> None:
    assert problem_of("apiVersion: fleet/v1\nkind: Agent\nmetadata: {name: My_Agent}\n")["nearest"] == "my-agent"


# -- files and folders --------------------------------------------------------------------------------------------


def test_a_fleet_folder_holds_files_and_folders_of_agents(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(HEAD)
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "db.yaml").write_text("apiVersion: fleet/v1\nkind: Agent\n")
    (tmp_path / "db" / "other.yaml").write_text("not: read")
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("x")
    assert {spec.name for spec in load(tmp_path).specs} == {"web", "db"}


def test_several_documents_are_several_agents() -> None:
    loaded = load_text(f"{HEAD}---\n{HEAD.replace('web', 'db')}---\n", "/nowhere/fleet.yaml")
    assert [spec.name for spec in loaded.specs] == ["web", "db"]


def test_one_name_for_two_agents_is_refused_at_the_second(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(HEAD)
    (tmp_path / "b.yaml").write_text(HEAD)
    with pytest.raises(InvalidManifest) as refused:
        load(tmp_path)
    (problem,) = refused.value.facts["problems"]
    assert problem["file"] == str(tmp_path / "b.yaml")
    assert str(tmp_path / "a.yaml") in problem["message"]


def test_agents_that_share_a_folder_need_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text("apiVersion: fleet/v1\nkind: Agent\n")
    with pytest.raises(InvalidManifest) as refused:
        load(tmp_path)
    assert refused.value.facts["problems"][0]["nearest"] == "web"


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n---\n"])
def test_an_empty_file_is_told_apart_from_a_wrong_one(text: str) -> None:
    assert problem_of(text)["message"] == "is empty"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="there is no such file or folder"):
        load(tmp_path / "nothing.yaml")
    with pytest.raises(InvalidManifest, match="holds no manifest"):
        load(tmp_path)


def test_a_file_that_is_no_text_is_refused_at_its_line(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_bytes(b"apiVersion: fleet/v1\n\xff\xfe\n")
    with pytest.raises(InvalidManifest, match=r"web\.yaml:2:1: is not UTF-8"):
        load(tmp_path / "web.yaml")


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(InvalidManifest, match="larger than 1 MiB"):
        load(tmp_path / "web.yaml")


def test_a_path_given_twice_is_one_fleet(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(HEAD)
    assert len(manifests.load_all([tmp_path, tmp_path / "web.yaml"]).specs) == 1


# -- every mistake, with its place --------------------------------------------------------------------------------

MISTAKES: list[tuple[str, str, tuple[int, int], str, str | None]] = [
    ("  restrat: {}\n", "spec.restrat", (5, 3), "no key", "restart"),
    ("  restart: {polcy: never}\n", "spec.restart.polcy", (5, 13), "no key", "policy"),
    ("  restart: {policy: sometimes}\n", "spec.restart.policy", (5, 21), "'never', 'on-failure' or 'always'", None),
    ("  restart: {max_retries: 1.5}\n", "spec.restart.max_retries", (5, 26), "a whole number", None),
    ("  restart: {max_retries: -1}\n", "spec.restart.max_retries", (5, 26), "at least 0", None),
    ("  restart: {backoff: {initial: 60, max: 5}}\n", "spec.restart.backoff", (5, 22), "below backoff.initial", None),
    ("  restart: {window: .inf}\n", "spec.restart.window", (5, 21), "finite", None),
    ('  args: "--verbose"\n', "spec.args", (5, 9), 'write ["--verbose"]', None),
    ("  hooks: {pre_start: echo hi}\n", "spec.hooks.pre_start", (5, 22), 'write ["echo", "hi"]', None),
    ("  hooks: {pre_start: [echo hi]}\n", "spec.hooks.pre_start[0]", (5, 23), '{sh: "make build"}', None),
    ("  hooks: {pre_start: [[]]}\n", "spec.hooks.pre_start[0]", (5, 23), "a command is a list", None),
    ("  health: 'yes'\n", "spec.health", (5, 11), "must be a mapping", None),
    ("  health: [{method: command}]\n", "spec.health[0].role", (5, 12), "is missing", None),
    ("  health: [{role: liveness, method: http}]\n", "spec.health[0]", (5, 12), "needs url", None),
    ("  env: {A: }\n", "spec.env.A", (5, 12), "must be text", None),
    ("  env: {A: [1]}\n", "spec.env.A", (5, 12), "must be text", None),
    ("  env: {A-B: x}\n", "spec.env.A-B", (5, 9), "no name for a variable", None),
    ("  env: {FLEET_AGENT: x}\n", "spec.env.FLEET_AGENT", (5, 9), "fleet's own", None),
    ("  env: {A: {env: X, file: Y}}\n", "spec.env.A", (5, 12), "exactly one source", None),
    ("  env: {A: {flie: Y}}\n", "spec.env.A.flie", (5, 13), "no key", "file"),
    ("  files: {../x: y}\n", "spec.files.../x", (5, 11), "inside the workspace", None),
    ("  files: {/etc/passwd: y}\n", "spec.files./etc/passwd", (5, 11), "inside the workspace", None),
    ("  multiplexer: tmx\n", "spec.multiplexer", (5, 16), "'tmux' or 'screen'", "tmux"),
    ("  harness: claude\n", "spec.harness", (5, 12), "must be", "claude-code"),
    ("  harness: shell\n", "spec.harness", (5, 12), "needs a command", None),
    ("  harness: claude-code\n  command: ['']\n", "spec.command", (6, 12), "it is empty", None),
    ("  name: x\n", "spec.name", (5, 3), "stands under metadata", None),
    ("  kind: x\n", "spec.kind", (5, 3), "stands at the top", None),
    ("  model: --help\n", "spec.model", (5, 10), "read as an option", None),
    ("  prompt: a\n  prompt_file: b\n", "spec.prompt_file", (6, 16), "two first messages", None),
    ('  prompt: "a\\0b"\n', "spec.prompt", (5, 11), "NUL", None),
    ("  remote: {}\n", "spec.remote.host", (5, 11), "is missing", None),
    ("  remote: {host: -oProxyCommand=x}\n", "spec.remote.host", (5, 18), "read as an option", None),
    ("  remote: {host: []}\n", "spec.remote", (5, 11), "names no host", None),
    ("  remote: {host: a, port: 99999}\n", "spec.remote.port", (5, 27), "at most 65535", None),
    ("  slurm: {time_limit: tomorrow}\n", "spec.slurm.time_limit", (5, 23), "days-hours:minutes:seconds", None),
    ("  slurm: {extra_directives: ['#SBATCH -x']}\n", "spec.slurm", (5, 10), "without #SBATCH", None),
    ("  container: {runtime: docker}\n", "spec.container", (5, 14), "needs an image", None),
    ("  mcp_servers: {a: {args: [x]}}\n", "spec.mcp_servers.a", (5, 20), "a command (stdio) or a url", None),
    ("  schedule: [{cron: '0 9 * *', send: x}]\n", "spec.schedule[0].cron", (5, 21), "five fields", None),
    ("  schedule: [{cron: '99 * * * *', send: x}]\n", "spec.schedule[0].cron", (5, 21), "'99' is no minute", None),
    ("  schedule: [{every: 1h, timezone: Mars/X, send: x}]\n", "spec.schedule[0].timezone", (5, 36), "Europe", None),
    ("  hub: {channels: ['a b']}\n", "spec.hub.channels[0]", (5, 20), "'a b' is no channel", None),
    ("  slurm: {mem: lots}\n", "spec.slurm.mem", (5, 16), "such as 4G", None),
    ("  schedule: [{every: 10m, send: x, ask: y}]\n", "spec.schedule[0]", (5, 14), "exactly one of", None),
    ("  schedule: [{every: often, send: x}]\n", "spec.schedule[0].every", (5, 22), "no interval", None),
    ("  schedule: [{at: noon, send: x}]\n", "spec.schedule[0].at", (5, 19), "no time", None),
    ("  depends_on: [db]\n", "spec.depends_on[0]", (5, 16), "must be a mapping", None),
    ("  depends_on: [{agent: web}]\n", "spec.depends_on", (5, 15), "depends on itself", None),
    ("  auto_accept: [everything]\n", "spec.auto_accept[0]", (5, 17), "must be", None),
    ("  workdir: 5\n", "spec.workdir", (5, 12), "put it in quotes", None),
    ("  restart:\n", "spec.restart", (5, 11), "leave the key out", None),
    ("  stop: {timeout: soon}\n", "spec.stop.timeout", (5, 19), "must be a number, not text", None),
    ("  skills: {strict: 'no'}\n", "spec.skills.strict", (5, 20), "true or false", None),
    ("  env_inherit: some\n", "spec.env_inherit", (5, 16), "'none', or a list, not", None),
    ("  venv: 5\n", "spec.venv", (5, 9), "text, or a list, not a number", None),
    ("  labels: {a: b}\n", "spec.labels", (5, 3), "stands under metadata", None),
]


@pytest.mark.parametrize(("body", "path", "place", "words", "near"), MISTAKES, ids=[m[0].strip() for m in MISTAKES])
def test_a_mistake_is_told_with_its_place_and_what_was_meant(
    body: str, path: str, place: tuple[int, int], words: str, near: str | None
) -> None:
    problem = in_spec(body)
    assert (problem["path"], (problem["line"], problem["column"])) == (path, place)
    assert words in problem["message"]
    if near:
        assert problem["nearest"] == near


@pytest.mark.parametrize(
    ("text", "path", "words", "near"),
    [
        ("kind: Agent\n", "", "apiVersion is missing", None),
        ("apiversion: fleet/v1\nkind: Agent\n", "apiversion", "apiVersion is missing", "apiVersion"),
        ("apiVersion: fleet/v2\nkind: Agent\n", "apiVersion", "no version", "fleet/v1"),
        ("apiVersion: 1\nkind: Agent\n", "apiVersion", "no version", None),
        ("apiVersion: fleet/v1\nkind: Agnet\n", "kind", "must be Agent", None),
        ("apiVersion: fleet/v1\n", "", "kind is missing", None),
        ("apiVersion: fleet/v1\nkind: Agent\nspce: {}\n", "spce", "no key", "spec"),
        ("apiVersion: fleet/v1\nkind: Agent\nmodel: x\n", "model", "stands under spec", None),
        ("apiVersion: fleet/v1\nkind: Agent\nspec: []\n", "spec", "must be a mapping, not a list", None),
        ("just text\n", "", "is no manifest", None),
        ("- a\n- b\n", "", "is no manifest", None),
        ("a: [b\n", "", "no valid YAML", None),
        ("a: b\n\tc: d\n", "", "no valid YAML", None),
        ("apiVersion: fleet/v1\nkind: Agent\nkind: Agent\n", "kind", "stands twice; the first is at line 2", None),
        ("apiVersion: fleet/v1\nkind: Agent\nmetadata: !!python/object:os.system {}\n", "metadata", "the tag", None),
        ("apiVersion: fleet/v1\nkind: Agent\nmetadata: &a {name: *a}\n", "metadata.name", "contains itself", None),
    ],
)  # fmt: skip
def test_a_document_that_is_no_manifest_says_what_is_missing(
    text: str, path: str, words: str, near: str | None
) -> None:
    problem = problems_of(text)[0]
    assert problem["path"] == path
    assert words in problem["message"]
    assert near is None or problem["nearest"] == near


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(HEAD + "spec: {harnes: shell, argz: [], prompt: a, prompt_file: b}\n")
    (tmp_path / "b.yaml").write_text("apiVersion: fleet/v1\nkind: Agent\nmetadata: {name: B, foo: 1}\n")
    with pytest.raises(InvalidManifest) as refused:
        load(tmp_path)
    paths = [problem["path"] for problem in refused.value.facts["problems"]]
    assert paths == ["spec.harnes", "spec.argz", "spec.prompt_file", "metadata.name", "metadata.foo"]
    assert str(refused.value).endswith("5 problems; nothing was started.")
    assert f"{tmp_path}/a.yaml:4:8: spec.harnes: is no key that is known here (did you mean harness?)" in str(
        refused.value
    )


def test_what_is_wrong_with_one_path_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.yaml").write_text(HEAD + "spec: {harnes: shell}\n")
    with pytest.raises(InvalidManifest) as refused:
        manifests.load_all([tmp_path / "empty", tmp_path / "a.yaml", tmp_path / "nothing.yaml"])
    assert [Path(problem["file"]).name for problem in refused.value.facts["problems"]] == [
        "empty",
        "a.yaml",
        "nothing.yaml",
    ]


def test_a_key_of_spec_that_stands_too_deep_is_told_where_it_belongs() -> None:
    assert "stands under spec" in in_spec("  restart: {prompt: x}\n")["message"]


def test_a_broken_document_does_not_hide_the_mistakes_of_the_one_before() -> None:
    paths = [p["path"] for p in problems_of(HEAD + "spec: {harnes: x}\n---\na: [b\n", Path("/nowhere/web.yaml"))]
    assert paths == ["spec.harnes", ""]


def test_aliases_that_multiply_are_refused_and_not_expanded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert any("aliases multiply" in problem["message"] for problem in problems_of("\n".join(lines)))


def test_deep_nesting_is_refused() -> None:
    assert problems_of("a: " + "[" * 5000 + "]" * 5000)


def test_anchors_and_merges_work_as_in_yaml() -> None:
    text = (
        "apiVersion: fleet/v1\nkind: Agent\nmetadata: {name: web}\nspec:\n  harness: shell\n  command: [x]\n"
        "  env: &env {A: one, B: two}\n  mcp_servers:\n    s: {command: y, env: {<<: *env, B: three}}\n"
    )
    assert load_text(text, "/nowhere/web.yaml").specs[0].mcp_servers["s"].env == {"A": "one", "B": "three"}


def test_a_placeholder_in_env_is_a_warning_since_nothing_fills_it_in() -> None:
    loaded = load_text(HEAD + "spec: {env: {A: '${TOKEN}'}}\n", "/nowhere/web.yaml")
    assert [(w.path, w.line) for w in loaded.warnings] == [("spec.env.A", 4)]


def test_a_permission_mode_that_nobody_knows_is_a_warning_since_programs_grow_new_ones() -> None:
    loaded = load_text(HEAD + "spec: {permission_mode: acceptedits}\n", "/nowhere/web.yaml")
    assert ["did you mean acceptEdits?" in w.message for w in loaded.warnings] == [True]


def test_every_key_may_be_written_with_its_default() -> None:
    plain = AgentSpec(name="web", folder="/nowhere", source="/nowhere/web.yaml")
    said = plain.model_dump(mode="json", exclude={"folder", "source"})
    metadata = {key: said.pop(key) for key in metadata_keys()}
    text = yaml.safe_dump({"apiVersion": "fleet/v1", "kind": "Agent", "metadata": metadata, "spec": said})
    assert load_text(text, "/nowhere/web.yaml").specs == (plain,)


def test_values_of_variables_do_not_stand_in_a_log_by_accident() -> None:
    assert "s3cret" not in repr(AgentSpec(name="web", env={"TOKEN": "s3cret"}))


@pytest.mark.parametrize("path", ["a" * 5000, "/dev/null/x", "a\0b"])
def test_a_path_that_cannot_be_is_a_clear_refusal(path: str) -> None:
    with pytest.raises(InvalidManifest, match=r"cannot be read|no such file"):
        load(path)


# -- what does not act yet ----------------------------------------------------------------------------------------


def test_keys_whose_part_comes_later_are_named() -> None:
    spec = spec_of(
        "  schedule: [{every: 10m, send: hi}]\n  budget: {usd_per_day: 5}\n"
        "  hub: {channels: [x]}\n  headless: {max_parallel: 2}\n  context_management: {strategy: compact}\n"
        "  hooks: {on_limit: [[x]], pre_start: [[x]]}\n  health: {method: http}\n"
    )
    named = {"context_management", "schedule", "budget", "health", "hooks.on_limit"}
    assert set(not_acting(spec)) == named


def test_a_plain_manifest_names_nothing() -> None:
    assert not_acting(spec_of("  health: {interval: 30}\n  hooks: {pre_start: [[x]]}\n")) == []


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("  remote: {host: mba}\n  multiplexer: screen\n", "screen"),
        ("  container: {runtime: docker, image: x}\n", "docker"),
        *((f"  harness: {name}\n", name) for name in ("codex", "gemini-cli", "opencode", "aider", "cursor")),
    ],
)
def test_what_this_version_cannot_start_validates_and_says_so(body: str, word: str) -> None:
    assert word in (cannot_yet(spec_of(body)) or "")


@pytest.mark.parametrize(
    "body",
    [
        "  harness: claude-code\n",
        "  harness: shell\n  command: [x]\n",
        "  mode: headless\n",
        "  remote: {host: mba}\n",
        "  remote: {host: mba}\n  mode: headless\n",
        "  slurm: {reservation: lab}\n  mode: headless\n",
        "  remote: {host: login}\n  slurm: {}\n",
    ],
)
def test_what_this_version_can_start_says_nothing(body: str) -> None:
    assert cannot_yet(spec_of(body)) is None


@pytest.mark.parametrize("line", ["* * * * *", "*/5 9-17 1,15 jan-mar MON-fri", "0 0 * * 7", "0 8 * * sat-sun"])
def test_a_cron_line_may_say_all_that_cron_lines_say(line: str) -> None:
    assert ScheduleEntry(cron=line, send="x").cron == line
