"""Older manifests load as they are; every key of theirs is mapped, or named with the reason why not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fleet.errors import InvalidManifest
from fleet.manifests import AgentSpec, Loaded, load, load_text
from fleet.manifests.legacy import CLD, V2, V3, VERSIONS, To, Without, tables
from fleet.manifests.model import Command, Remote, Slurm
from tests.legacy import QUICKSTART

KEYS = re.findall(
    r"\S+",
    """\
runtime model workdir multiplexer screen.name python-venv venv env session claude.channels claude.flags
claude.session claude.continue_max_age_minutes claude.resume_id claude.auto_accept health.enabled
health.interval health.timeout health.method restart.policy restart.max_retries restart.backoff.initial
restart.backoff.max restart.backoff.multiplier hooks.pre_start hooks.post_start hooks.pre_stop hooks.post_stop
hooks.on_compact hooks.on_restart hooks.on_diff startup_commands startup.ready_patterns
startup.ready_idle_ticks startup.ready_poll_interval_seconds startup.ready_timeout_seconds startup.on_timeout
startup.commands context_management.trigger_at_percent context_management.strategy
context_management.warn_before_n_checks context_management.check_interval_seconds
context_management.state_file skills.required skills.available mcp_servers remote.host remote.user remote.key
remote.port remote.login_shell remote.no_preflight remote.timeout host hosts container.runtime container.image
container.volumes container.network container.mount_host_claude slurm.partition slurm.time_limit
slurm.cpus_per_task slurm.mem slurm.nodes slurm.ntasks slurm.gres slurm.job_name slurm.signal
slurm.auto_resubmit slurm.hold slurm.logs_dir slurm.extra_directives slurm.reservation slurm.hooks.pre_submit
slurm.hooks.pre_agent slurm.hooks.walltime_signal slurm.hooks.post_agent slurm.hooks.attach
slurm.heartbeat.command slurm.heartbeat.interval_s slurm.heartbeat.log_file listen extensions a2a
watchdog.enabled watchdog.interval watchdog.responses telegram.bot_token_env telegram.allowed_users
telegram.auto_connect telegram.greeting
""",
)
"""Every key of `spec` in the older formats, as their releases have them."""


def loaded(version: str, body: str = "", *, name: str | None = "web", folder: str = "web") -> Loaded:
    metadata = f"metadata: {{name: {name}}}\n" if name else ""
    return load_text(
        f"apiVersion: {version}\nkind: Agent\n{metadata}spec:\n{body or '  model: opus'}\n", f"/x/{folder}/a.yaml"
    )


def spec_of(body: str, version: str = V2) -> AgentSpec:
    return loaded(version, body).specs[0]


def warnings_of(body: str, version: str = V2) -> dict[str, str]:
    return {warning.path: warning.message for warning in loaded(version, body).warnings}


def problem_of(body: str, version: str = V2) -> dict[str, Any]:
    with pytest.raises(InvalidManifest) as refused:
        loaded(version, body)
    (problem,) = refused.value.facts["problems"]
    found: dict[str, Any] = problem
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_the_older_formats_is_in_the_table(version: str, key: str) -> None:
    assert f"spec.{key}" in tables()[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_mapped_key_leads_to_a_key_that_there_is(version: str) -> None:
    for rule in tables()[version].values():
        if isinstance(rule, To):
            section, *path = rule.path.split(".")
            assert section in ("metadata", "spec")
            model: Any = AgentSpec
            for part in path:
                assert part in model.model_fields, rule.path
                default = model.model_fields[part].default
                model = type(default) if hasattr(type(default), "model_fields") else _section(part)


def _section(part: str) -> Any:
    """The section of a key whose default is that it is not there."""
    return {"slurm": Slurm, "remote": Remote}.get(part)


def test_a_key_without_meaning_says_why_and_where() -> None:
    for key, rule in tables()[V3].items():
        if isinstance(rule, Without) and key != "metadata.name":
            path = key.split(".")[1:]
            body = "".join(f"{'  ' * (depth + 1)}{part}:\n" for depth, part in enumerate(path)).rstrip("\n") + " x\n"
            (warning,) = loaded(V3, body, name=None).warnings
            assert (warning.path, rule.reason in warning.message) == (key, True)
            assert warning.line == 3 + len(path)


def test_the_quickstart_of_v2_loads_unchanged() -> None:
    result = load_text(QUICKSTART, "/x/my-agent/my-agent.yaml")
    (spec,) = result.specs
    assert result.warnings == ()
    assert (spec.name, spec.harness, spec.runtime, spec.model) == ("my-agent", "claude-code", "local", "sonnet")
    assert spec.labels == {"role": "worker", "machine": "local"}
    assert (spec.args, spec.session) == (("--dangerously-skip-permissions",), "continue-or-new")
    assert spec.skills.required == ("scitex",)
    assert (spec.restart.policy, spec.restart.max_retries, spec.restart.backoff.initial) == ("on-failure", 3, 30)
    assert "bypass-permissions" in spec.auto_accept


def test_each_format_keeps_its_own_defaults() -> None:
    for version in VERSIONS:
        (spec,) = loaded(version).specs
        assert (spec.restart.policy, spec.restart.max_retries) == ("never", 3)
    (cld,) = loaded(CLD).specs
    assert (cld.workdir, cld.multiplexer, cld.session) == ("~/proj", "screen", "new")
    assert spec_of("  slurm: {partition: cpu}\n  runtime: slurm\n", V3).slurm.signal_before == 3600  # type: ignore[union-attr]


def test_v3_takes_its_name_from_the_folder() -> None:
    result = loaded(V3, name="ignored", folder="head-node")
    assert result.specs[0].name == "head-node"
    assert "the name is the folder's" in result.warnings[0].message


def test_v3_in_a_folder_that_is_no_name_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a;touch X"
    folder.mkdir()
    (folder / "a.yaml").write_text(f"apiVersion: {V3}\nkind: Agent\nspec: {{}}\n")
    with pytest.raises(InvalidManifest, match="'a;touch X' is none"):
        load(folder / "a.yaml")


def test_cld_agent_needs_a_name() -> None:
    with pytest.raises(InvalidManifest, match="no other place"):
        loaded(CLD, name=None)


@pytest.mark.parametrize(
    ("runtime", "harness", "place"),
    [
        ("claude-code", "claude-code", "local"),
        ("cursor", "cursor", "local"),
        ("aider", "aider", "local"),
        ("slurm", "claude-code", "slurm"),
        ("slurm-tenant\n  slurm: {reservation: pool}", "claude-code", "slurm-tenant"),
    ],
)
def test_the_older_runtime_is_the_program_or_the_place(runtime: str, harness: str, place: str) -> None:
    spec = spec_of(f"  runtime: {runtime}\n")
    assert (spec.harness, spec.runtime) == (harness, place)


def test_an_unknown_runtime_is_refused_at_its_own_key() -> None:
    problem = problem_of("  runtime: claud-code\n")
    assert (problem["path"], problem["line"], problem["nearest"]) == ("spec.runtime", 5, "claude-code")


def test_the_session_at_the_top_counts_more_whichever_comes_first() -> None:
    assert spec_of("  session: new\n  claude: {session: continue}\n").session == "new"
    assert spec_of("  claude: {session: continue}\n  session: new\n").session == "new"
    assert spec_of("  claude: {session: continue}\n").session == "continue"


def test_shell_lines_stay_lines_and_urls_become_a_call() -> None:
    spec = spec_of("  hooks: {pre_start: [echo hi > log, 'https://example.org/x']}\n")
    line, call = spec.hooks.pre_start
    assert line == Command(sh="echo hi > log")
    assert call.argv[0] == "curl"
    assert call.argv[-1] == "https://example.org/x"


def test_a_hook_that_is_one_text_is_refused_rather_than_taken_letter_by_letter() -> None:
    problem = problem_of('  hooks:\n    pre_start: "echo hi"\n')
    assert (problem["path"], problem["line"], problem["column"]) == ("spec.hooks.pre_start", 6, 16)


def test_flags_that_are_one_text_are_refused_rather_than_taken_letter_by_letter() -> None:
    problem = problem_of('  claude: {flags: "--verbose"}\n')
    assert problem["path"] == "spec.claude.flags"
    assert 'write ["--verbose"]' in problem["message"]


def test_a_startup_text_is_the_first_message_and_no_key() -> None:
    spec = spec_of("  startup_commands: [{delay: 5, command: C-c}]\n")
    assert spec.prompt == "C-c"
    assert (
        "fixed time"
        in warnings_of("  startup_commands: [{delay: 5, command: C-c}]\n")["spec.startup_commands[0].delay"]
    )


def test_several_startup_texts_become_one_message() -> None:
    spec = spec_of("  startup_commands: [{command: one}]\n  startup: {commands: [two]}\n")
    assert spec.prompt == "one\n\ntwo"


def test_an_env_value_that_is_one_variable_is_taken_from_the_starters_environment() -> None:
    spec = spec_of("  env: {A: '${TOKEN}', B: 'x ${TOKEN}', C: 8080, D: '$(id)'}\n")
    assert spec.secret_names == ("A",)
    assert spec.env["B"] == "x ${TOKEN}"
    assert (spec.env["C"], spec.env["D"]) == ("8080", "$(id)")
    assert "spec.env.B" in warnings_of("  env: {B: 'x ${TOKEN}'}\n")


def test_retries_of_none_mean_never() -> None:
    assert spec_of("  restart: {policy: always, max_retries: 0}\n").restart.policy == "never"
    assert spec_of("  restart: {max_retries: 0, policy: always}\n").restart.policy == "never"


def test_both_names_of_the_venv_are_one_key() -> None:
    assert spec_of("  python-venv: [~/a, ~/b]\n", V3).venv == ("~/a", "~/b")
    assert "keep one" in problem_of("  python-venv: ~/a\n  venv: ~/b\n")["message"]


def test_auto_accept_is_all_or_nothing_there() -> None:
    assert len(spec_of("  claude: {auto_accept: true}\n").auto_accept) == 4
    assert spec_of("  claude: {auto_accept: false}\n").auto_accept == ()


def test_a_host_is_where_ssh_leads_unless_it_is_this_machine() -> None:
    assert spec_of("  host: localhost\n", V3).runtime == "local"
    remote = spec_of("  host: [a, b]\n  remote: {user: me}\n", V3).remote
    assert remote is not None
    assert (remote.choices, remote.user, remote.login_shell) == (("a", "b"), "me", True)


def test_the_slurm_section_is_carried_over() -> None:
    spec = spec_of(
        "  runtime: slurm\n  slurm: {partition: cascade, mem: 16G, time_limit: 7-00:00:00, signal: 'B:USR1@900',\n"
        "    ntasks: 2, extra_directives: ['#SBATCH --x=y'], hooks: {pre_agent: ~/load.sh}}\n"
    )
    assert spec.slurm is not None
    assert (spec.slurm.partition, spec.slurm.mem, spec.slurm.signal_before) == ("cascade", "16G", 900)
    assert spec.slurm.extra_directives == ("--ntasks=2", "--x=y")
    assert spec.slurm.hooks.pre_agent == (Command(sh="~/load.sh"),)


def test_the_block_of_the_older_hub_means_the_built_in_one() -> None:
    result = loaded(CLD, "  orochi: {hosts: [a], port: 8559, token_env: T, channels: ['#x'], heartbeat_interval: 5}\n")
    assert result.specs[0].hub.channels == ("#x",)
    assert len(result.warnings) == 4


@pytest.mark.parametrize(
    ("body", "path", "near"),
    [
        ("  modle: x\n", "spec.modle", "model"),
        ("  claude: {flag: []}\n", "spec.claude.flag", "flags"),
        ("  claude: x\n", "spec.claude", None),
        ("  restart: 'yes'\n", "spec.restart", None),
        ("  slurm: {signal: TERM}\n", "spec.slurm.signal", None),
        ("  permission_mode: plan\n", "spec.permission_mode", None),
        ("  a2a: {prt: 1}\n", "spec.a2a.prt", "port"),
    ],
)
def test_older_formats_are_strict_too(body: str, path: str, near: str | None) -> None:
    problem = problem_of(body)
    assert (problem["path"], problem["line"]) == (path, 5)
    assert near is None or problem["nearest"] == near
