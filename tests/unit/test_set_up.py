"""What `make` does where something is missing, and where something failed once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.homes import ROOT

TOOLS = ("sh", "env", "cat", "rm", "mktemp", "dirname", "sed", "mkdir", "chmod")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of programs with nothing but what the scripts themselves use."""
    for name in TOOLS:
        found = next(p / name for p in map(Path, ("/usr/bin", "/bin")) if (p / name).exists())
        (tmp_path / name).symlink_to(found)
    return tmp_path


def program(place: Path, name: str, script: str) -> None:
    path = place / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(tool: str, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(place), "TMPDIR": str(place), "INIT": str(place / "init"), "PROGRAMS": str(place / "unpacked")}
    return subprocess.run([ROOT / "tools" / tool, *words], env=env, capture_output=True, text=True, check=False)


def test_nothing_is_done_where_nothing_is_missing(place: Path) -> None:
    program(place, "tmux", "exit 0")
    done = run("need", place, "tmux")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_root_it_says_what_is_missing_and_how_to_get_it(place: Path) -> None:
    program(place, "id", "echo 1000")
    program(place, "apt-get", "exit 99")
    done = run("need", place, "tmux", "mux2=screen")
    assert done.returncode == 1
    assert "Missing: tmux mux2." in done.stderr
    assert "apt-get install tmux screen" in done.stderr


def test_on_another_system_it_says_what_is_missing(place: Path) -> None:
    done = run("need", place, "tmux")
    assert done.returncode == 1
    assert "Missing: tmux." in done.stderr
    assert "package manager" in done.stderr


def test_root_installs_with_old_package_lists_too(place: Path) -> None:
    program(place, "id", "echo 0")
    program(
        place, "apt-get", f'echo "$@" >>{place}/asked; [ "$1" = update ] && >{place}/updated; [ -e {place}/updated ]'
    )
    done = run("need", place, "tmux", "mux2=screen")
    assert done.returncode == 0, done.stderr
    asked = (place / "asked").read_text().splitlines()
    assert [line.split()[0] for line in asked] == ["install", "update", "install"]
    assert asked[-1].endswith("tmux screen")


def test_an_installation_that_fails_is_told_in_its_own_words(place: Path) -> None:
    program(place, "id", "echo 0")
    program(place, "apt-get", "echo 'E: no such mirror' >&2; exit 100")
    done = run("need", place, "tmux")
    assert done.returncode == 1
    assert "E: no such mirror" in done.stderr


def test_what_is_welcome_is_installed_by_root(place: Path) -> None:
    program(place, "id", "echo 0")
    program(place, "apt-get", f'echo "$@" >>{place}/asked')
    done = run("need", place, "--welcome", "systemd-analyze=systemd")
    assert done.returncode == 0, done.stderr
    assert (place / "asked").read_text().split()[-1] == "systemd"


@pytest.mark.parametrize("user", ["0", "1000"])
def test_what_is_only_welcome_and_cannot_be_had_is_told_and_fails_nothing(place: Path, user: str) -> None:
    program(place, "id", f"echo {user}")
    program(place, "apt-get", "echo 'E: no such mirror' >&2; exit 100")
    done = run("need", place, "--welcome", "systemd-analyze=systemd")
    assert done.returncode == 0
    assert "Missing: systemd-analyze." in done.stderr
    assert "It goes on without." in done.stderr


def packages(place: Path) -> None:
    """An apt-get that only looks and fetches, and a dpkg that unpacks an sshd in two pieces."""
    program(
        place,
        "apt-get",
        'case $1 in -s) echo "Inst openssh-server (1)"; echo "Inst libwrap0 (1)";; download) shift 2; '
        f'for each; do >$each.deb; done;; *) echo "$@" >>{place}/asked;; esac',
    )
    tree = f"{place}/unpacked/usr"
    program(
        place,
        "dpkg",
        f"mkdir -p {tree}/sbin {tree}/lib/openssh {tree}/lib/x86_64-linux-gnu; "
        f'printf \'#!%s/sh\\necho "$LD_LIBRARY_PATH" "$@"\\n\' {place} >{tree}/sbin/sshd; '
        f">{tree}/lib/openssh/sshd-session; chmod +x {tree}/sbin/sshd {tree}/lib/openssh/sshd-session",
    )


@pytest.mark.parametrize(("user", "init"), [("0", "systemd"), ("1000", "systemd"), ("1000", "sh")])
def test_a_service_is_unpacked_where_it_would_be_started_or_nobody_may_install_it(
    place: Path, user: str, init: str
) -> None:
    (place / "init").write_text(f"{init}\n")
    program(place, "id", f"echo {user}")
    packages(place)
    done = run("need", place, "--welcome", "--service", "--unpack", "sshd=openssh-server")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (place / "asked").exists()
    assert {path.name for path in (place / "unpacked" / "packages").iterdir()} == {"openssh-server.deb", "libwrap0.deb"}
    said = subprocess.run([place / "unpacked" / "sshd", "-D"], capture_output=True, text=True, check=True).stdout
    usr = place / "unpacked" / "usr"
    assert said.split() == [
        f"{usr}/lib/x86_64-linux-gnu",
        "-o",
        f"SshdSessionPath={usr}/lib/openssh/sshd-session",
        "-D",
    ]


def test_a_service_is_installed_where_nothing_would_start_it(place: Path) -> None:
    (place / "init").write_text("sh\n")
    program(place, "id", "echo 0")
    packages(place)
    assert run("need", place, "--welcome", "--service", "--unpack", "sshd=openssh-server").returncode == 0
    assert (place / "asked").read_text().split()[-1] == "openssh-server"


def test_a_service_that_would_be_started_and_cannot_be_unpacked_is_left_to_the_person(place: Path) -> None:
    (place / "init").write_text("systemd\n")
    program(place, "id", "echo 0")
    packages(place)
    done = run("need", place, "--welcome", "--service", "slurmctld")
    assert done.returncode == 0
    assert not (place / "asked").exists()
    assert "Missing: slurmctld. Their services would be started on this machine" in done.stderr
    assert "It goes on without." in done.stderr


def test_a_python_that_is_too_old_is_passed_over(place: Path) -> None:
    program(place, "python3", "exit 1")
    program(place, "python3.12", "exit 0")
    assert run("python", place).stdout.strip() == str(place / "python3.12")


def test_a_python_without_venv_is_told_by_the_name_of_its_package(place: Path) -> None:
    program(place, "id", "echo 1000")
    program(place, "apt-get", "exit 99")
    program(place, "python3", "case $2 in *ensurepip*) exit 1;; *print*) echo 3.11;; esac")
    done = run("python", place)
    assert done.returncode == 1
    assert "apt-get install python3.11-venv" in done.stderr


def test_ci_runs_the_suite_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ['cd "$(dirname "$0")/.." && exec make test']
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# -- the suite's second look ----------------------------------------------------------------------------------------


def suite(folder: Path, first: str, second: str = "exit 0", **env: str) -> subprocess.CompletedProcess[str]:
    """`tools/suite` with a pytest of two runs."""
    (folder / "python").symlink_to(sys.executable)
    script = f"""if [ -e ran ]; then echo "second $*"; {second}; fi
: >ran; mkdir -p .pytest_cache/v/cache; record=.pytest_cache/v/cache/lastfailed
{first}"""
    program(folder, "pytest", script)
    path = os.environ["PATH"]
    words = [ROOT / "tools" / "suite", folder / "pytest", "-n", "3"]
    return subprocess.run(words, cwd=folder, env={"PATH": path, **env}, capture_output=True, text=True, check=False)


def failing(*names: str) -> str:
    return f"echo '{json.dumps(dict.fromkeys(names, True))}' >$record; exit 1"


def test_a_suite_that_passes_is_run_once(tmp_path: Path) -> None:
    done = suite(tmp_path, "exit 0")
    assert (done.returncode, done.stdout) == (0, "")


def test_what_failed_beside_others_and_passes_alone_is_named_last(tmp_path: Path) -> None:
    done = suite(tmp_path, failing("a.py::one", "b.py::two[x y]"))
    assert done.returncode == 0
    assert "second" in done.stdout and "--last-failed" in done.stdout and "-n" not in done.stdout.split()
    assert done.stdout.endswith("a fault to be found:\na.py::one\nb.py::two[x y]\n")


def test_what_fails_alone_too_fails_the_suite(tmp_path: Path) -> None:
    done = suite(tmp_path, failing("a.py::one"), "exit 1")
    assert done.returncode == 1 and "UNSTEADY" not in done.stdout


@pytest.mark.parametrize(
    ("first", "env"),
    [
        pytest.param(failing("a.py::one"), {"STEADY": "1"}, id="asked-not-to"),
        pytest.param(failing(*(f"a.py::t{number}" for number in range(5))), {}, id="many"),
        pytest.param(failing("tests/unit"), {}, id="not-collected"),
        pytest.param("exit 1", {}, id="nothing-recorded"),
        pytest.param("exit 2", {}, id="interrupted"),
    ],
)
def test_there_is_no_second_look(tmp_path: Path, first: str, env: dict[str, str]) -> None:
    done = suite(tmp_path, first, **env)
    assert done.returncode in (1, 2) and "second" not in done.stdout
