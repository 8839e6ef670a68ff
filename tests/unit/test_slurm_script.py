"""An agent's SLURM job as files: what any shell and sbatch make of them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import LaunchError
from fleet.manifests.model import Command, Slurm, SlurmHooks
from fleet.runtimes.lease import Lease, Times, newest, parse, seen
from fleet.runtimes.slurm_script import BARE, Job, escaped, files, lead, over_limit, script, seconds, warnings, words
from fleet.terms import LaunchPlan

AWKWARD = "a b'c\"d$HOME`id`\\e\n;#é"
SECRET = "sk-very-secret"


def job(folder: str = "/shared/fo lder'$x") -> Job:
    return Job(
        agent="web",
        generation="web.1.k3",
        folder=folder,
        wanted="/shared/wanted",
        leases="/shared/leases",
        launcher="/shared/launcher.sh",
        lease="/shared/lease.sh",
        home="/home/me",
    )


def plan(*argv: str) -> LaunchPlan:
    return LaunchPlan(agent="web", argv=argv, cwd="/work place", env={"TOKEN": SECRET, "ODD": AWKWARD})


def hooks(*commands: Command) -> SlurmHooks:
    return SlurmHooks(pre_agent=commands, walltime_signal=commands, post_agent=commands)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@given(st.lists(text, min_size=1, max_size=3), text)
def test_every_script_is_one_that_bash_can_read(argv: list[str], line: str) -> None:
    section = Slurm(hooks=hooks(Command(argv=tuple(argv)), Command(sh=line)))
    written = script(job(), section, plan("prog", *argv))
    for shell in ("bash", "sh"):
        done = subprocess.run([shell, "-n"], input=written.encode(), capture_output=True, check=False)
        if shell == "bash":
            assert done.returncode == 0, done.stderr


def test_the_parts_that_are_files_of_their_own_are_read_by_their_shells() -> None:
    runtimes = Path("fleet/runtimes")
    subprocess.run(["bash", "-n", str(runtimes / "slurm_job.sh")], check=True)
    subprocess.run(["sh", "-n", str(runtimes / "lease.sh")], check=True)


def test_neither_environment_nor_arguments_stand_in_the_script() -> None:
    put = {Path(file.path).name: file for file in files(job(), Slurm(), plan("prog", AWKWARD), plan("prog", "-c"))}
    assert SECRET not in put["job"].content.decode() and "prog" not in put["job"].content.decode().split("# What a")[0]
    assert SECRET in put["env"].content.decode()
    assert {file.mode for file in put.values()} == {0o600}


def test_the_program_gets_its_arguments_as_they_were(tmp_path: Path) -> None:
    launcher = tmp_path / "show.sh"
    launcher.write_text('printf "%s\\0" "$@"')
    mine = Job(**{**{name: getattr(job(), name) for name in Job.__slots__}, "launcher": str(launcher)})
    first = next(f for f in files(mine, Slurm(), plan("prog", AWKWARD, ""), None) if f.path.endswith("/first"))
    (tmp_path / "first").write_bytes(first.content)
    done = subprocess.run(["/bin/sh", str(tmp_path / "first"), "/run folder"], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == ["/run folder", "/work place", "prog", AWKWARD, ""]


def test_without_a_way_to_go_on_there_is_no_again() -> None:
    names = {Path(file.path).name for file in files(job(), Slurm(), plan("p"), None)}
    assert "again" not in names and "first" in names


def test_the_traps_stand_before_everything_else() -> None:
    commands = [line for line in script(job(), Slurm(), plan("p")).splitlines() if line and not line.startswith("#")]
    assert commands[1:3] == ["trap 'ended=term' TERM", "trap 'walltime=${walltime:-signal}' USR1"]


@given(st.lists(text, min_size=1, max_size=4))
def test_words_are_literal_but_for_a_leading_home(argv: list[str]) -> None:
    expected = ["/h o" + word[1:] if word.startswith("~/") else word for word in argv]
    line = 'printf "%s\\0" ' + words(argv)
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True, env={"HOME": "/h o"})
    assert done.stdout.decode().split("\0")[:-1] == expected


def test_an_option_that_no_line_can_hold_is_refused() -> None:
    with pytest.raises(LaunchError):
        escaped("a\nb")


def test_submitting_takes_nothing_of_the_environment_along() -> None:
    done = subprocess.run([*BARE, "env"], capture_output=True, text=True, check=True,
                          env={"PATH": "/usr/bin:/bin", "HOME": "/h", "USER": "me", "TOKEN": SECRET})  # fmt: skip
    assert {line.split("=")[0] for line in done.stdout.splitlines()} == {"PATH", "HOME", "USER"}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("5", 300), ("5:30", 330), ("1:00:00", 3600), ("1-0", 86400), ("1-02:30", 95400), ("7-00:00:10", 604810)],
)
def test_a_time_limit_is_read_as_slurm_reads_it(limit: str, expected: int) -> None:
    assert seconds(limit) == expected


def test_a_short_job_has_half_of_its_time_for_its_work_and_says_so() -> None:
    short = Slurm(time_limit="10:00", signal_before=600)
    assert lead(short) == 300
    assert len(warnings(short)) == 1 and warnings(Slurm()) == []
    assert f"--signal=B:USR1@{lead(short)}" in script(job(), short, plan("p"))


def test_what_the_person_asked_of_sbatch_stands_in_the_options() -> None:
    section = Slurm(partition="gpu", gres="gpu:1", extra_directives=("--constraint=avx512",), logs_dir="~/lo gs")
    options = [line for line in script(job(), section, plan("p")).splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --partition=gpu", "#SBATCH --gres=gpu:1", "#SBATCH --constraint=avx512"} <= set(options)
    assert '#SBATCH --output="/home/me/lo gs/fleet-web.1.k3.%j.out"' in options


def test_shlex_and_the_option_form_agree_on_plain_words() -> None:
    assert escaped("gpu:1") == shlex.quote("gpu:1")


# -- the lease, as it is read -----------------------------------------------------------------------------------------


def test_a_lease_that_changes_is_held_and_one_that_does_not_is_free_in_the_end() -> None:
    times = Times()
    held = seen(None, Lease(3, "7.0.n1.55", 1), 100.0)
    assert seen(held, Lease(3, "7.0.n1.55", 1), 160.0).unchanged_since == 100.0
    assert not held.free(100.0 + times.ttl, times) and held.free(100.1 + times.ttl, times)
    assert not seen(held, Lease(3, "7.0.n1.55", 2), 170.0).free(200.0, times)


def test_a_lease_that_was_released_is_free_at_once() -> None:
    lease = parse(4, b"released 7.0.n1.55\n")
    assert lease is not None and lease.job == "7" and seen(None, lease, 0.0).free(0.0, Times())


def test_the_lease_in_force_has_the_highest_number() -> None:
    assert newest([".9.new", "2", "10", "x1"]) == 10 and newest([]) is None
    assert parse(1, None) is None and parse(1, b"half") is None


def test_times_that_leave_no_time_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves no time"):
        Times(every=60, ttl=65, grace=10)


LIMITS = "main*|1:00:00\nlong|7-00:00:00\nfree|infinite\n"


@pytest.mark.parametrize(
    ("section", "over"),
    [
        ({"time_limit": "1:00:00"}, None),
        ({"time_limit": "1:00:01"}, "1:00:00 in main"),
        ({"time_limit": "8-00", "partition": "long"}, "7-00:00:00 in long"),
        ({"time_limit": "8-00", "partition": "main,long"}, "1:00:00 in main, 7-00:00:00 in long"),
        ({"time_limit": "2-00", "partition": "main,long"}, None),
        ({"time_limit": "99-00", "partition": "free"}, None),
        ({"time_limit": "99-00", "partition": "hidden"}, None),
        ({"time_limit": "99-00", "extra_directives": ("--partition=free",)}, None),
        ({"time_limit": "99-00", "extra_directives": ("-p free",)}, None),
    ],
)
def test_a_time_limit_is_over_the_partitions_where_none_of_those_named_allows_it(
    section: dict[str, Any], over: str | None
) -> None:
    told = over_limit(Slurm(**section), LIMITS)
    assert told is None if over is None else told is not None and f"({over})" in told


def test_without_the_partitions_limits_nothing_is_said_of_the_time_limit() -> None:
    assert over_limit(Slurm(time_limit="99-00"), "") is None
