"""The commands about manifests, as a person runs them: init, validate, check, convert, schema, config."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fleet import manifests, templates
from tests.conftest import Home

SHELL = "apiVersion: fleet/v1\nkind: Agent\nmetadata: {name: web}\nspec:\n  harness: shell\n  command: [sleep, 60]\n"


def findings(home: Home, path: Path, *, env: dict[str, str] | None = None) -> dict[str, tuple[str, str]]:
    """What `fleet check` found, by name; its exit code says whether anything failed."""
    done = home.fleet("check", str(path), "--json", env=env)
    checks: list[dict[str, Any]] = json.loads(done.stdout)["data"]["checks"]
    assert done.returncode == (1 if any(check["status"] == "fail" for check in checks) else 0)
    return {check["name"]: (check["status"], check["message"]) for check in checks}


# -- check ------------------------------------------------------------------------------------------------------------


def test_check_finds_all_that_a_plain_agent_needs_and_starts_nothing(home: Home) -> None:
    found = findings(home, home.write("web.yaml", SHELL))
    assert {status for status, _ in found.values()} == {"ok"}
    assert {"program", "multiplexer", "workdir"} <= set(found)
    assert not (home.path / "fleet" / "state").exists()


def test_check_names_what_is_missing(home: Home) -> None:
    path = home.write(
        "web.yaml",
        SHELL.replace("sleep", "no-such-program")
        + "  workdir: nowhere\n  venv: .venv\n  prompt_file: hello.txt\n"
        + "  env: {A: {env: NOT_SET}, B: {file: key}, C: {command: [no-such-pass]}}\n"
        + "  hooks: {pre_start: [[no-such-hook], {sh: 'if then'}], post_stop: [[true]]}\n"
        + "  mcp_servers: {s: {command: no-such-server}}\n",
    )
    found = findings(home, path)
    failed = {name for name, (status, _) in found.items() if status == "fail"}
    assert failed == {"program", "workdir", "venv", "prompt_file", "env.A", "env.B", "env.C", "hooks.pre_start"}
    assert found["mcp_servers.s"][0] == "warn"
    assert found["hooks.post_stop"][0] == "ok"


def test_check_reads_a_hooks_line_and_does_not_run_it(home: Home) -> None:
    path = home.write(
        "web.yaml", SHELL + "  hooks: {pre_start: [{sh: touch ran}]}\n  env: {A: {command: [touch, ran]}}\n"
    )
    found = findings(home, path)
    assert (found["hooks.pre_start"][0], found["env.A"][0]) == ("ok", "ok")
    assert not (home.work / "ran").exists()


def test_check_warns_of_a_secret_that_others_may_read(home: Home) -> None:
    home.write("key", "s3cret").chmod(0o644)
    found = findings(home, home.write("web.yaml", SHELL + "  env: {A: {file: key}}\n"))
    assert found["env.A"][0] == "warn"
    (home.work / "key").chmod(0o600)
    assert findings(home, home.work / "web.yaml")["env.A"][0] == "ok"


def test_check_finds_a_secret_in_the_starters_environment_and_does_not_show_it(home: Home) -> None:
    path = home.write("web.yaml", SHELL + "  env: {A: {env: TOKEN}}\n")
    done = home.fleet("check", str(path), env={"TOKEN": "s3cret"})
    assert done.returncode == 0, done.stderr
    assert "s3cret" not in done.stdout + done.stderr


def test_check_fills_in_the_files_beside_the_manifest_and_puts_them_nowhere(home: Home) -> None:
    home.write("web/src_notes.txt", "${TOKEN}")
    path = home.write("web/web.yaml", SHELL)
    status, message = findings(home, path)["files"]
    assert (status, "${TOKEN} is not set" in message) == ("fail", True)
    assert findings(home, path, env={"TOKEN": "x"})["files"] == ("ok", "notes.txt")
    assert not (home.path / "fleet" / "state").exists()


def test_check_sees_a_file_that_stands_in_the_way(home: Home) -> None:
    home.write("web/src_mcp.json", "{}")
    home.write("project/.mcp.json", '{"mine": 1}')
    status, message = findings(home, home.write("web/web.yaml", SHELL + "  workdir: ../project\n"))["files"]
    assert (status, "was not written by fleet" in message) == ("fail", True)


def test_check_says_what_this_version_cannot_start(home: Home) -> None:
    found = findings(
        home,
        home.write(
            "web.yaml", SHELL + "  container: {runtime: docker, image: lab}\n  schedule: [{every: 1h, stop: true}]\n"
        ),
    )
    assert (found["start"][0], found["schedule"][0]) == ("fail", "warn")


def test_check_asks_the_cluster_about_a_job_and_says_where_it_cannot(home: Home) -> None:
    found = findings(home, home.write("web.yaml", SHELL + "  slurm: {partition: lab}\n"))
    assert found["job"][0] in ("fail", "warn") and "start" not in found


def test_check_of_an_invalid_manifest_says_what_validate_says(home: Home) -> None:
    path = home.write("web.yaml", SHELL + "  restrat: {}\n")
    checked, validated = home.fleet("check", str(path)), home.fleet("validate", str(path))
    assert (checked.returncode, checked.stderr) == (2, validated.stderr)


def test_check_warns_of_a_secret_that_stands_in_the_manifest_and_does_not_show_it(home: Home) -> None:
    path = home.write("web.yaml", SHELL + "  env: {MY_TOKEN: s3cret, KEYBOARD: de}\n")
    done = home.fleet("check", str(path))
    assert (done.returncode, "env.MY_TOKEN" in done.stdout, "KEYBOARD" in done.stdout) == (0, True, False)
    assert "s3cret" not in done.stdout + done.stderr


# -- validate ---------------------------------------------------------------------------------------------------------


def test_validate_tells_every_mistake_once_with_its_place(home: Home) -> None:
    path = home.write("web.yaml", SHELL + "  restrat: {}\n  args: -v\n")
    done = home.fleet("validate", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count(f"{path}:7:3: spec.restrat: is no key that is known here (did you mean restart?)") == 1
    assert done.stderr.count(f"{path}:8:9: spec.args: must be a list") == 1


def test_validate_answers_scripts_in_json(home: Home) -> None:
    path = home.write("web.yaml", SHELL + "  env: {A: {env: TOKEN}}\n  schedule: [{every: 1h, stop: true}]\n")
    done = home.fleet("validate", str(path), "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["schema_version"]) == (0, 1)
    (agent,) = answer["data"]["agents"]
    assert (agent["name"], agent["secrets"], agent["not_acting"]) == ("web", ["A"], ["schedule"])
    path.write_text(SHELL + "  restrat: {}\n")
    done = home.fleet("validate", str(path), "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (2, "invalid_manifest")
    assert error["problems"][0] | {"message": ""} == {
        "file": str(path), "line": 7, "column": 3, "path": "spec.restrat", "message": "", "nearest": "restart",
    }  # fmt: skip


def test_validate_takes_folders_and_several_paths(home: Home) -> None:
    home.write("fleet/a.yaml", SHELL.replace("web", "a"))
    home.write("fleet/b/b.yaml", SHELL.replace("web", "b"))
    path = home.write("c.yaml", SHELL.replace("web", "c"))
    data = home.json("validate", str(home.work / "fleet"), str(path))
    assert [agent["name"] for agent in data["agents"]] == ["a", "b", "c"]


# -- init and the templates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", templates.names())
def test_every_template_is_a_manifest_that_init_writes(home: Home, template: str) -> None:
    done = home.fleet("init", "mine", "--template", template)
    assert done.returncode == 0, done.stderr
    loaded = manifests.load(home.work / "mine.yaml")
    assert loaded.warnings == ()
    names = [spec.name for spec in loaded.specs]
    assert names == (["mine"] if len(names) == 1 else templates.agents(template))


def test_the_templates_are_those_that_are_promised() -> None:
    promised = {"local", "docker", "apptainer", "ssh", "ssh-slurm", "slurm-tenant", "mcp", "team", "demo"}
    assert set(templates.names()) == promised


def test_the_demo_needs_no_account_and_can_be_started_now() -> None:
    specs = manifests.load(templates.FOLDER / "demo.yaml").specs
    assert len(specs) >= 3
    for spec in specs:
        assert (spec.harness, manifests.cannot_yet(spec), manifests.not_acting(spec)) == ("shell", None, [])


def test_the_team_is_three_that_may_talk() -> None:
    specs = manifests.load(templates.FOLDER / "team.yaml").specs
    assert len(specs) == 3
    assert all(spec.hub.channels == ("web",) and "send" in spec.hub.may for spec in specs)


def test_what_init_writes_names_a_schema_that_is_there(home: Home) -> None:
    home.fleet("init", "web")
    first = (home.work / "web.yaml").read_text().splitlines()[0]
    start, _, path = first.partition("=")
    assert start == "# yaml-language-server: $schema"
    assert json.loads(Path(path).read_text())["title"].startswith("fleet manifest")


def test_init_never_overwrites(home: Home) -> None:
    path = home.write("web.yaml", "mine")
    done = home.fleet("init", "web")
    assert (done.returncode, path.read_text()) == (1, "mine")
    assert "nothing was written" in done.stderr


def test_init_without_a_name_takes_the_folders(home: Home) -> None:
    assert home.json("init")["path"] == str(home.work / "work.yaml")


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "a;b"])
def test_init_takes_only_agent_names(home: Home, name: str) -> None:
    done = home.fleet("init", name)
    assert (done.returncode, list(home.work.iterdir())) == (2, [])


def test_init_names_the_templates_there_are(home: Home) -> None:
    done = home.fleet("init", "x", "--template", "nope")
    assert done.returncode == 2
    assert "slurm-tenant" in done.stderr
    assert {t["name"] for t in home.json("init", "--list")["templates"]} == set(templates.names())


# -- convert, schema, config ------------------------------------------------------------------------------------------

OLD = """\
apiVersion: scitex-agent-container/v2
kind: Agent
metadata: {name: my-agent}
spec:
  runtime: claude-code
  claude: {flags: [--dangerously-skip-permissions], channels: [x]}
  env: {A: '${TOKEN}'}
  hooks: {pre_start: [echo hi > log]}
"""


def test_convert_writes_what_loads_to_the_same_agent(home: Home) -> None:
    path = home.write("old.yaml", OLD)
    done = home.fleet("convert", str(path))
    assert done.returncode == 0
    assert "spec.claude.channels: has no meaning here" in done.stderr
    assert manifests.load_text(done.stdout, path).specs == manifests.load(path).specs
    assert path.read_text() == OLD


def test_convert_answers_in_json(home: Home) -> None:
    data = home.json("convert", str(home.write("old.yaml", OLD)))
    assert data["documents"][0]["spec"]["env"] == {"A": {"env": "TOKEN"}}
    assert data["yaml"].startswith("apiVersion: fleet/v1\n")


def test_schema_prints_the_schema(home: Home) -> None:
    plain = json.loads(home.fleet("schema").stdout)
    assert plain == home.json("schema")
    assert plain["properties"]["apiVersion"] == {"const": "fleet/v1", "description": "The version of this format."}


def test_config_shows_each_setting_with_where_it_comes_from(home: Home) -> None:
    file = Path(home.env["FLEET_HOME"], "config.yaml")
    file.parent.mkdir(exist_ok=True)
    file.write_text("fresh: 7\n")
    rows = {row["name"]: row for row in home.json("config", "show", env={"FLEET_STALE": "40"})["settings"]}
    assert (rows["fresh"]["value"], rows["fresh"]["from"]) == (7.0, f"{file}:1")
    assert (rows["stale"]["value"], rows["stale"]["from"]) == (40.0, "FLEET_STALE")
    assert rows["ramp_halt"]["from"] == "default"
    assert home.json("config", "path")["config_file"] == str(file)
    file.write_text("frsh: 7\n")
    done = home.fleet("config", "show")
    assert (done.returncode, f"{file}:1:1: frsh: is no setting (did you mean fresh?)" in done.stderr) == (2, True)


# -- the systemd unit -------------------------------------------------------------------------------------------------


def test_the_unit_leaves_agents_alone_and_watches_the_daemon() -> None:
    text = (templates.FOLDER / "fleet.service").read_text()
    for line in ("Type=notify", "KillMode=process", "Restart=always", "WatchdogSec=30"):
        assert f"\n{line}\n" in text


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="needs systemd-analyze, which `make test` installs where it may (apt-get install systemd)",
)
def test_systemd_reads_the_unit_without_a_complaint(home: Home) -> None:
    text = (templates.FOLDER / "fleet.service").read_text()
    unit = home.write("fleet.service", text.replace("%h/.local/bin/fleet", shutil.which("true") or "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(unit)],
        env=home.env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
