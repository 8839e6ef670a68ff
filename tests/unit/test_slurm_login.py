"""The one channel to a cluster's login node: what its script carries, and what is said where it cannot."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.cli import check_cluster
from fleet.manifests.model import Slurm
from fleet.runtimes import slurm_queue
from fleet.runtimes.slurm_login import SCRIPT
from fleet.runtimes.slurm_queue import Pace, Poll
from fleet.terms import Ran
from tests.e2e.fleets import alive, until


class Channel:
    """The script as a channel has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        argv = ["bash", "-c", SCRIPT.read_text(), SCRIPT.name, str(folder / "in.steps")]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().removesuffix("\n")

    def end(self) -> None:
        """Close it, as a lost connection does; its output ends when nobody is left who could write to it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.read()
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    made = Channel(tmp_path)
    yield made
    if not made._process.stdin.closed:  # type: ignore[union-attr]
        made.end()


def test_what_is_said_to_a_step_and_what_it_says_is_carried_literally(channel: Channel) -> None:
    channel.say("open 1 cat")
    odd = "  two  blanks\t'\"$HOME`id`\\ %begin "
    channel.say(f"say 1 {odd}")
    assert channel.heard() == f"1 ={odd}"


def test_a_long_line_comes_in_pieces(channel: Channel) -> None:
    channel.say("open 1 cat")
    channel.say("say 1 " + "x" * 7000)
    assert [channel.heard() for _ in range(3)] == ["1 +" + "x" * 3000, "1 +" + "x" * 3000, "1 =" + "x" * 1000]


def test_a_step_that_ends_is_told_with_what_it_wrote_to_its_standard_error(channel: Channel) -> None:
    channel.say("open 1 sh\t-c\techo no server running >&2")
    assert channel.heard().strip() == "1 !no server running"


def test_the_notes_of_a_run_come_with_the_number_of_the_newest(channel: Channel) -> None:
    run = channel.folder / "run.2"
    run.mkdir()
    (channel.folder / "run").write_text("3\n")
    (run / "job").write_text("12 0 n1\n")
    (run / "pane").write_text("tmux\n/tmp/a b\n")
    channel.say(f"notes 7 {channel.folder} 2 job pane exit")
    told = [channel.heard() for _ in range(7)]
    assert told == ["7 #3", "7 @job", "7 =12 0 n1", "7 @pane", "7 =tmux", "7 =/tmp/a b", "7 ."]


def test_when_the_channel_ends_so_do_its_steps(channel: Channel) -> None:
    channel.say("open 1 sh\t-c\techo $$; exec sleep 600")
    pid = int(channel.heard().removeprefix("1 ="))
    channel.end()
    until(lambda: not alive(pid), "the step has ended")
    assert not (channel.folder / "in.steps").exists()


def test_a_cluster_whose_way_carries_again_is_asked_as_soon_as_manners_allow() -> None:
    away = slurm_queue.unanswered(slurm_queue.asked(Poll(answered_at=95.0), 100.0), 101.0, Pace())
    assert slurm_queue.back(away, 102.0, Pace()) == Poll(due=105.0, answered_at=95.0)
    assert slurm_queue.back(away, 200.0, Pace()).due == 200.0


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (0, "sbatch: Job 7 to start at noon", ("ok", "Job 7 to start at noon")),
        (1, "sbatch: error: invalid partition specified: x\n", ("fail", "invalid partition specified: x")),
        (127, "sh: sbatch: not found", ("fail", "sbatch is not found on there")),
    ],
)
def test_check_tells_what_the_controller_said(status: int, said: str, expected: tuple[str, str]) -> None:
    told = check_cluster.finding("on there", Ran(status, b"main*|infinite\n", said.encode()), Slurm())
    assert (told.status, told.message) == expected


def test_check_takes_a_controller_that_does_not_answer_for_no_word() -> None:
    ran = Ran(1, b"", b"allocation failure: Unable to contact slurm controller")
    assert check_cluster.finding("there", ran, Slurm()).status == "warn"


def test_check_tells_of_a_time_limit_by_which_the_job_would_wait_for_ever() -> None:
    ran = Ran(0, b"main*|1:00:00\n", b"sbatch: Job 7 to start at noon")
    told = check_cluster.finding("here", ran, Slurm(time_limit="2:00:00"))
    assert told.status == "fail" and "(1:00:00 in main)" in told.message and "PartitionTimeLimit" in told.message
