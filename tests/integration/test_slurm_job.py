"""An agent's job on a real SLURM: what the script does there, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fleet.manifests.model import Command, Slurm, SlurmHooks
from fleet.runtimes import files, slurm_queue, slurm_script
from fleet.terms import LaunchPlan
from tests.cluster import TIMES, Cluster, needs_slurm, until

RUNTIMES = Path(slurm_script.__file__).parent
AWKWARD = "a b'c\"d$HOME`id`\\e\nf"
PROGRAM = 'printf "%s\\0" "$ODD" "$LOADED" "$1" "$FLEET_GENERATION" >"$2.new"; mv "$2.new" "$2"; exec sleep 600'

pytestmark = [pytest.mark.real, needs_slurm]


class Agent:
    """One agent's job, with its files on what all nodes see."""

    def __init__(self, slurm: Cluster, shared: Path, section: Slurm) -> None:
        self.slurm, self.shared, self.section = slurm, shared, section
        self.job = slurm_script.Job(
            agent="web",
            generation=f"web.1.{shared.name.replace('_', '-')}",
            folder=str(shared / "fo ld$er"),
            wanted=str(shared / "wanted"),
            leases=str(shared / "leases"),
            launcher=str(RUNTIMES / "launcher.sh"),
            lease=str(RUNTIMES / "lease.sh"),
            home=str(shared),
            times=TIMES,
        )
        self.folder = Path(self.job.folder)

    def plan(self, how: str) -> LaunchPlan:
        env = {"PATH": "/usr/bin:/bin", "ODD": AWKWARD, "HOME": str(self.shared)}
        argv = ("sh", "-c", PROGRAM, "sh", how, str(self.shared / how))
        return LaunchPlan(agent="web", argv=argv, cwd=str(self.shared), env=env)

    def put(self) -> None:
        files.put(slurm_script.files(self.job, self.section, self.plan("first"), self.plan("again")))

    def submit(self) -> str:
        self.put()
        job = slurm_queue.submitted(self.slurm.run(*slurm_script.submit_argv(self.job)))
        assert job is not None
        return job

    def said(self, how: str) -> list[str]:
        until((self.shared / how).exists, f"the program wrote {how}; the job said: {self.output()}")
        return (self.shared / how).read_text().split("\0")[:-1]

    def output(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("*.out"))

    def run(self, number: int) -> Path:
        return self.folder / f"run.{number}"

    def processes(self) -> list[psutil.Process]:
        mark = str(self.shared)
        found = []
        for process in psutil.process_iter():
            try:
                if any(mark in word for word in [*process.cmdline(), *process.environ().values()]):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def agent(slurm: Cluster, tmp_path: Path) -> Iterator[Callable[[Slurm], Agent]]:
    made: list[Agent] = []

    def make(section: Slurm) -> Agent:
        made.append(Agent(slurm, tmp_path, section))
        return made[-1]

    yield make
    for one in made:
        slurm.run("scancel", f"--name={one.job.name}", check=False)
        until(lambda one=one: not one.processes(), f"nothing lives of it: {one.processes()}")


def state(slurm: Cluster, job: str) -> str:
    return slurm.states().get(job, "")


def test_the_controller_takes_the_script(slurm: Cluster, agent: Callable[[Slurm], Agent]) -> None:
    hooks = SlurmHooks(pre_agent=(Command(sh=AWKWARD),), post_agent=(Command(argv=("echo", AWKWARD)),))
    one = agent(Slurm(mem="100M", hooks=hooks, extra_directives=("--comment='x y'",), logs_dir="~/lo gs'$\"#x"))
    one.put()
    assert "to start at" in slurm.run(*slurm_script.test_argv(one.job))


def test_a_job_hands_its_conversation_on_once_and_stays_down_when_cancelled(
    slurm: Cluster, agent: Callable[[Slurm], Agent]
) -> None:
    hooks = SlurmHooks(
        pre_agent=(Command(sh="LOADED='a module'; export LOADED"),),
        walltime_signal=(Command(argv=("touch", "~/told")),),
    )
    one = agent(Slurm(mem="100M", time_limit="30", hooks=hooks))
    first = one.submit()
    assert one.said("first") == [AWKWARD, "a module", "first", one.job.generation]
    until((one.folder / "began").exists, "the run is noted")

    slurm.run("scancel", "--batch", "--signal=USR1", first)
    until((one.run(1) / "successor").exists, f"the successor is submitted: {one.output()}")
    second = (one.run(1) / "successor").read_text().strip()
    found = slurm_queue.named(slurm_queue.jobs(_queue(slurm)), one.job.name)
    assert [job.id for job in found] == [first, second]
    assert found[1].standing is slurm_queue.Standing.WAITING
    until((one.shared / "told").exists, "the walltime hook ran, at home")

    (one.run(1) / "leave").touch()
    assert one.said("again")[2:] == ["again", f"{one.job.generation}.r2"]
    until(lambda: state(slurm, first) == "COMPLETED", "the first has come to its own end")
    assert (one.run(1) / "ended").read_text() == "left\n"

    until((one.run(2) / "pane").exists, "the second run watches")
    slurm.run("scancel", second)
    until(lambda: state(slurm, second) == "CANCELLED" and not one.processes(), "it is gone with all it had")
    assert (one.run(2) / "ended").read_text() == "told\n"
    assert not (one.run(2) / "successor").exists()


def test_a_cancel_in_the_middle_of_a_look_is_a_cancel(slurm: Cluster, agent: Callable[[Slurm], Agent]) -> None:
    """What the script has begun to look with is told to end too, and finds nobody alive."""
    one = agent(Slurm(mem="100M", time_limit="30"))
    one.put()
    script, slow, looks = (one.folder / name for name in ("job", "slow", "looks"))
    held = '\n    [ ! -e "$folder/slow" ] || { : >"$folder/looks"; sleep 60; }'
    script.write_text(script.read_text().replace("\nidentity() {", "\nidentity() {" + held))
    job = slurm_queue.submitted(slurm.run(*slurm_script.submit_argv(one.job)))
    assert job is not None
    until((one.run(1) / "pane").exists, f"it runs: {one.output()}")
    slow.touch()
    until(looks.exists, "it looks whether its processes live")
    slow.unlink()
    slurm.run("scancel", job)
    until(lambda: state(slurm, job) == "CANCELLED" and not one.processes(), "it is gone with all it had")
    assert (one.run(1) / "ended").read_text() == "told\n"


def test_a_job_that_is_wanted_no_more_starts_nothing(slurm: Cluster, agent: Callable[[Slurm], Agent]) -> None:
    one = agent(Slurm(mem="100M"))
    one.put()
    Path(one.job.wanted).write_text("another\n")
    job = slurm_queue.submitted(slurm.run(*slurm_script.submit_argv(one.job)))
    assert job is not None
    until(lambda: state(slurm, job) == "COMPLETED", "it has ended")
    assert list(one.folder.glob("run.*")) == []


def test_a_program_that_ends_ends_its_job_with_its_status(slurm: Cluster, agent: Callable[[Slurm], Agent]) -> None:
    one = agent(Slurm(mem="100M"))
    failing = replace(one.plan("first"), argv=("sh", "-c", "exit 7"))
    files.put(slurm_script.files(one.job, one.section, failing, None))
    job = slurm_queue.submitted(slurm.run(*slurm_script.submit_argv(one.job)))
    assert job is not None
    until(lambda: state(slurm, job) == "FAILED", f"it has ended: {one.output()}")
    assert (one.run(1) / "exit").read_text() == "7\n"
    assert (one.run(1) / "ended").read_text() == "exited\n"


def _queue(slurm: Cluster) -> str:
    env = [f"{name}={value}" for name, value in slurm_queue.ENVIRONMENT.items()]
    return slurm.run("env", *env, *slurm_queue.queue_argv("root"))
