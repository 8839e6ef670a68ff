"""The status line's script: fleet keeps what the program tells, and the person sees their own."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from fleet import harnesses

SCRIPT = Path(harnesses.__file__).with_name("statusline.sh")
TOLD = {
    "session_id": "5f0c3b9e",
    "model": {"id": "claude-opus-4-5", "display_name": "Opus 4.5"},
    "rate_limits": {"five_hour": {"used_percentage": 90}},
    "context_window": {"context_window_size": 200000, "used_percentage": 37.5},
    "text": 'a "quote", a \\ and é\n',
}


@pytest.fixture
def launch(tmp_path):
    """A launch's folder, with the script in it."""
    (tmp_path / "statusline.sh").write_bytes(SCRIPT.read_bytes())
    (tmp_path / "statusline.sh").chmod(0o700)
    return tmp_path


def show(launch: Path, told: bytes, *command: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [launch / "statusline.sh", *command],
        input=told,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        timeout=60,
        check=False,
        **options,
    )


def compact(told: object) -> bytes:
    """As the program writes it."""
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()


def test_what_the_program_tells_is_kept_whole_and_only_the_latest(launch):
    show(launch, compact({"session_id": "old"}))
    show(launch, compact(TOLD))
    assert json.loads((launch / "statusline").read_text()) == TOLD
    assert sorted(path.name for path in launch.iterdir()) == ["statusline", "statusline.sh"]
    assert (launch / "statusline").stat().st_mode & 0o777 == 0o600


def test_the_persons_own_status_line_gets_the_same_and_shows(launch):
    done = show(launch, compact(TOLD), "cat; echo; echo 'two  words' >&2; exit 3")
    assert json.loads(done.stdout.splitlines()[0]) == TOLD
    assert done.stderr == b"two  words\n"
    assert done.returncode == 3


def test_a_status_line_that_reads_nothing_is_fine(launch):
    done = show(launch, compact({"pad": "x" * 500_000}), "echo mine")
    assert (done.stdout, done.returncode) == (b"mine\n", 0)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (TOLD, "Opus 4.5 · 37% context"),
        ({"model": {"display_name": "Opus"}, "context_window": {"used_percentage": None}}, "Opus"),
        ({"model": {"display_name": "Opus"}, "rate_limits": {"used_percentage": 3}}, "Opus"),
        ({"context_window": {"used_percentage": 0}}, "0% context"),
        ({}, ""),
    ],
)
def test_where_nobody_has_one_it_says_the_model_and_how_full_its_context_is(launch, told, shown):
    done = show(launch, compact(told))
    assert done.stdout.decode() == (f"{shown}\n" if shown else "")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("told", [b"", b"no json", b'{"model":{"display_name":"'])
def test_bad_input_breaks_nothing(launch, told):
    done = show(launch, told)
    assert (done.returncode, done.stderr) == (0, b"")
    assert show(launch, told, "echo mine").stdout == b"mine\n"


def test_a_full_disk_still_shows_the_persons_own(launch):
    def no_space() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    done = show(launch, compact({"pad": "x" * 100_000}), "echo mine", preexec_fn=no_space)
    assert (done.stdout, done.stderr, done.returncode) == (b"mine\n", b"", 0)
    assert [path.name for path in launch.iterdir()] == ["statusline.sh"]


def test_a_folder_that_cannot_be_written_still_shows_the_persons_own(launch):
    (launch / "statusline").mkdir()
    (launch / "statusline" / "in-the-way").touch()
    done = show(launch, compact(TOLD), "echo mine")
    assert (done.stdout, done.stderr, done.returncode) == (b"mine\n", b"", 0)
