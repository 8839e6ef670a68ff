"""What the sh on an ssh host tells of launches and of a spool: the script itself, run here."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from fleet import processes
from fleet.runtimes import ssh_runtime
from fleet.runtimes.ssh_runtime import ahead

SCRIPT = Path(ssh_runtime.__file__).with_name("ssh_host.sh")


def facts(folder: Path, launch: Path) -> list[str]:
    asked = f"1 facts {launch}\n"
    ran = subprocess.run(["sh", SCRIPT, "serve", folder], input=asked, capture_output=True, text=True, check=True)
    return ran.stdout.strip().removeprefix("=1 ").split()


@pytest.fixture
def launch(tmp_path: Path) -> Path:
    """The folder of a launch whose launcher is this process."""
    made = tmp_path / "launch"
    made.mkdir()
    (made / "launcher").write_text(f"{os.getpid()} {processes.start_time(os.getpid())}\n")
    return made


def test_a_launcher_lives_by_pid_and_start_time_within_one_boot(tmp_path: Path, launch: Path) -> None:
    (launch / "boot").write_text(Path("/proc/sys/kernel/random/boot_id").read_text())
    assert facts(tmp_path, launch)[4] == "1"
    (launch / "boot").write_text("another\n")
    assert facts(tmp_path, launch)[4] == "0", "a host that was rebooted may have given the pid to another"


@pytest.mark.parametrize("name", ["launcher", "exit"])
def test_what_the_file_system_does_not_tell_is_no_death(tmp_path: Path, launch: Path, name: str) -> None:
    (launch / "launcher").write_text("1 1\n")
    assert facts(tmp_path, launch)[4] == "0"
    (launch / name).unlink(missing_ok=True)
    (launch / name).symlink_to(launch / name)  # it leads to itself: to be read it is as little as one on a lost disk
    assert facts(tmp_path, launch) == ["!"]


def test_a_folder_that_is_not_there_holds_no_launch(tmp_path: Path) -> None:
    assert facts(tmp_path, tmp_path / "none") == ["-", "-", "-", "-", "0", "0", "0", "0", "0"]


def test_whole_events_are_taken_oldest_first_and_stay_until_they_are_forgotten(tmp_path: Path) -> None:
    names = ["web.1.ab,7,5.10,9", "web.1.ab,7,12.00,10,Stop"]
    for at, name in enumerate([*names, ".web.1.ab,7,13.00,11", "note"]):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (at, at))
    out = subprocess.run(["sh", SCRIPT, "take", tmp_path], capture_output=True, check=True).stdout
    head, _, packed = out.partition(b"\n")
    assert head.split()[1] == b"0"
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert tar.getnames() == names
    subprocess.run(["sh", SCRIPT, "forget", tmp_path, *names], check=True)
    again = subprocess.run(["sh", SCRIPT, "take", tmp_path], capture_output=True, check=True).stdout
    assert again.count(b"\n") == 1 and (tmp_path / "note").exists()


def test_more_events_than_are_taken_at_once_are_told_of(tmp_path: Path) -> None:
    for number in range(503):
        (tmp_path / f"web.1.ab,7,5.10,{number}").touch()
    out = subprocess.run(["sh", SCRIPT, "take", tmp_path], capture_output=True, check=True).stdout
    assert out.partition(b"\n")[0].split()[1] == b"3"


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ("1003600.5", 3600.0),
        ("996400.5", -3600.0),
        ("1000000.9", 0.0),
        ("1000001", 0.0),
        ("1003600", 3600.0),
        ("x", 0.0),
    ],
)
def test_how_far_a_clock_is_ahead_is_told_no_finer_than_it_can_be(told: str, found: float) -> None:
    assert ahead(told, 1000000.0, 1000001.0) == pytest.approx(found)


def note(folder: Path, launch: Path) -> subprocess.CompletedProcess[bytes]:
    words = ["sh", SCRIPT, "note", folder, "a1", launch / "screen"]
    return subprocess.run(words, input=b"the last screen\n", capture_output=True, check=False)


def test_a_note_is_written_whole_into_its_folder_and_for_its_owner_only(tmp_path: Path, launch: Path) -> None:
    assert note(tmp_path, launch).returncode == 0
    assert (launch / "screen").read_text() == "the last screen\n"
    assert (launch / "screen").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["launch"]


def test_a_note_for_a_folder_that_was_taken_away_does_not_bring_it_back(tmp_path: Path) -> None:
    assert note(tmp_path, tmp_path / "gone").returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_note_that_cannot_be_written_says_so(tmp_path: Path, launch: Path) -> None:
    (launch / "screen").mkdir()
    (launch / "screen" / "a1").mkdir()  # mv cannot take its place either
    assert note(tmp_path, launch).returncode != 0
