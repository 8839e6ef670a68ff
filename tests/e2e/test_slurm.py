"""Agents in jobs of a real SLURM, by the commands a person uses."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster import Cluster, needs_slurm
from tests.e2e.fleets import Claude, Fleet, alive, kill, until
from tests.e2e.test_ssh import attach_and_say
from tests.homes import Home, Stub, fleet_argv
from tests.sshd import There, needs_sshd

pytestmark = [pytest.mark.real, needs_slurm]

MINUTES = os.environ.get("FLEET_TEST_WALLTIME")
"""Where it is set, a job's time limit really runs out: so many minutes, four at least."""
FOREVER = "while :; do sleep 1; done"
ASKS = 'echo "hello home $COUNT"; while read -r line; do echo "heard $line"; done'
TALKS = (
    'echo "hello home $COUNT"; while read -r line; do case $line in say*) '
    f'{fleet_argv()[0]} send "#general" "$line"; echo "$? by $FLEET_HUB"; esac; echo "heard $line"; done'
)
"""The same, and a line that begins so is told to all."""


@pytest.fixture
def fleet(slurm: Cluster, home: Home) -> Iterator[Fleet]:
    there = replace(home, env=home.env | {"SLURM_CONF": slurm.env["SLURM_CONF"]})
    yield Fleet(there)
    if (home.path / "fleet").exists():
        there.fleet("shutdown")
        if (home.path / "fleet" / "state" / "bookings").exists():
            there.fleet("slurm", "release", "pool")
    try:
        until(lambda: not left_behind(slurm, home), "its jobs have gone", 60)
    finally:
        for job in left_behind(slurm, home):
            slurm.run("scancel", job, check=False)


def left_behind(slurm: Cluster, home: Home) -> list[str]:
    """The jobs of this home that wait or run."""
    return [job for job in jobs(slurm, "") if str(home.path) in slurm.run("scontrol", "show", "job", job, check=False)]


def jobs(slurm: Cluster, agent: str) -> list[str]:
    """The agent's jobs that wait or run."""
    told = [line.split() for line in slurm.run("squeue", "-h", "-t", "PD,R", "-o", "%i %j").splitlines()]
    return [job for job, name in told if name.startswith(f"fleet-{agent}.") or not agent]


def is_told(fleet: Fleet, name: str, text: str, job: str) -> None:
    """What an agent in a job has said has come to the hub, by the socket on its own node."""
    until(lambda: text in fleet.run("history"), f"the hub has it\n{fleet.log()}")
    by = f"0 by /tmp/fleet-{os.getuid()}/{job}.n"
    until(lambda: by in "\n".join(fleet.json("logs", name)["lines"]), "it is told so")


def test_what_is_rendered_is_what_the_controller_would_take(fleet: Fleet, slurm: Cluster, home: Home) -> None:
    odd = "a b'c\"d$HOME`id`\\e\nf"
    hooks = {"pre_agent": [{"sh": odd}], "post_agent": [["echo", odd]], "walltime_signal": [{"sh": "~/x"}]}
    section = {"mem": "100M", "hooks": hooks, "extra_directives": ["--comment='x y'"], "time_limit": "1:00:00"}
    rendered = fleet.json("render", fleet.shell("web", FOREVER, slurm=section, env={"TOKEN": "very-secret"}))
    (agent,) = rendered["agents"]
    script = home.write("job", agent["script"])
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "to start at" in slurm.run("sbatch", "--test-only", str(script))
    paths = [fleet.shell("web", FOREVER, slurm=section)]
    paths += [fleet.shell(name, FOREVER, slurm=section | {"partition": name}) for name in ("nosuch", "brief")]
    checks = fleet.json("check", *paths, code=1)["checks"]
    told = {check["agent"]: (check["status"], check["message"]) for check in checks if check["name"] == "job"}
    assert [status for status, _ in told.values()] == ["ok", "fail", "fail"]
    assert "to start at" in told["web"][1] and "nosuch" in told["nosuch"][1]
    assert "PartitionTimeLimit" in told["brief"][1]
    assert agent["commands"][0].startswith("sbatch ")
    assert "very-secret" not in agent["script"] and FOREVER not in agent["script"]


def test_an_agent_lives_in_a_job_as_it_would_here(fleet: Fleet, slurm: Cluster) -> None:
    path = fleet.shell("web", TALKS, slurm={"mem": "100M"}, env={"COUNT": "a 'b'"})
    assert fleet.json("start", path)["agents"][0]["outcome"] == "started"
    assert fleet.status("web")["phase"] == "running"
    until(lambda: "hello home a 'b'" in "\n".join(fleet.json("logs", "web")["lines"]), "its first line is in the log")
    assert len(jobs(slurm, "web")) == 1

    attach_and_say(fleet, "web", "say that a person was here")
    is_told(fleet, "web", "say that a person was here", jobs(slurm, "web")[0])
    (rendered,) = fleet.json("render", "web")["agents"]
    folder = str(fleet.launch_folder("web"))
    assert rendered["script"] == Path(folder, "job").read_text() and f"folder={folder}\n" in rendered["script"]
    assert rendered["commands"] == [f"sbatch --parsable --dependency=singleton {folder}/job"]
    argv = shlex.split(fleet.run("attach", "web", "--print"))
    assert argv[:2] == ["srun", f"--jobid={jobs(slurm, 'web')[0]}"]

    first = jobs(slurm, "web")
    kill(fleet.daemon_pid())
    fleet.answers_again()
    assert fleet.wait("web", phase="running")["restarts"] == 0
    assert jobs(slurm, "web") == first

    fleet.json("restart", "web")
    assert fleet.status("web")["phase"] == "running"
    until(lambda: len(jobs(slurm, "web")) == 1 and jobs(slurm, "web") != first, "one job, another one")

    fleet.json("stop", "web")
    assert fleet.status("web")["phase"] == "stopped"
    until(lambda: not jobs(slurm, "web"), "no job is left")


@pytest.fixture
def claude(fleet: Fleet, claude_program: str, stub: Stub) -> Claude:
    """The same, with the real Claude Code, in a home whose person has used it before."""
    fleet.home.seed_claude(stub.url)
    return Claude(fleet.home, claude_program, stub)


def test_tenants_share_a_booking_are_sized_against_it_and_move_along_with_it(claude: Claude, slurm: Cluster) -> None:
    fleet = claude
    pool = fleet.home.path / "fleet" / "state" / "bookings" / "pool"
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    wishes = ("--cpus", "2", "--mem", "300M", "--time", "1:00:00", "--persistent")
    job = fleet.json("slurm", "book", "pool", *wishes)["job"]
    agents = {
        name: fleet.shell(name, ASKS, slurm={"reservation": "pool", "mem": "100M"}, env={"COUNT": name})
        for name in ("two", "three")
    }
    agents["one"] = claude.claude("one", prompt="Repeat FIRST", slurm={"reservation": "pool", "mem": "100M"})
    [held] = fleet.json("start", agents["one"], code=4)["agents"]
    assert (held["phase"], held["reason"]) == ("unverifiable", "HostUnreachable") and "no node" in held["message"]
    slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    until((pool / "place").exists, "the booking has its node")
    assert fleet.wait("one", phase="running")["restarts"] == 1  # launched when it could be, and not tried before
    assert [agent["outcome"] for agent in fleet.json("start", agents["two"])["agents"]] == ["started"]
    assert "no room" in fleet.json("start", agents["three"], code=1)["agents"][0]["message"]
    shown = fleet.json("slurm", "show", "pool")
    assert shown["free_cpus"] == 0 and {t["agent"] for t in shown["tenants"]} == {"one", "two"}
    assert "--overlap" in fleet.run("attach", "one", "--print")
    until(lambda: "hello home two" in "\n".join(fleet.json("logs", "two")["lines"]), "its first line is in the log")
    assert claude.answer("one") == "FIRST"
    before = fleet.wait("one", phase="running", activity="ready", last_assistant_msg="FIRST")  # and it is written down
    launch = claude.launch_folder("one")

    fleet.json("stop", "two")
    assert fleet.json("slurm", "show", "pool")["free_cpus"] == 1
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    until(lambda: not (pool / "place").read_text().startswith(f"{job} "), "the next allocation has taken over")
    after = fleet.wait("one", phase="running", activity="ready", restarts=2)
    assert after["session_id"] == before["session_id"] and not alive(before["pid"])
    ended, began = launch / "exit", claude.launch_folder("one") / "program"
    assert ended.stat().st_mtime <= began.stat().st_mtime
    claude.json("prompt", "one", "Repeat SECOND")
    until(lambda: claude.asked("Repeat SECOND"), "the model is asked in the next allocation")
    assert claude.messages("Repeat SECOND") > claude.messages("Repeat FIRST") and claude.asked("Repeat FIRST") == 1
    assert fleet.status("two")["phase"] == "stopped"

    fleet.json("slurm", "release", "pool")
    fleet.wait("one", phase="finished", reason="JobCancelled")
    assert fleet.json("slurm", "list")["bookings"] == []


def test_a_headless_agents_turns_are_steps_of_its_job(fleet: Fleet, slurm: Cluster) -> None:
    script = "cat; echo; echo from $SLURM_JOB_ID"
    path = fleet.shell("clerk", script, mode="headless", slurm={"mem": "100M"}, workdir=str(fleet.home.work))
    assert fleet.json("start", path)["agents"][0]["outcome"] == "started"
    status = fleet.wait("clerk", phase="running", activity="ready")
    assert (status["pane"], status["pid"]) == (None, None)
    (job,) = jobs(slurm, "clerk")
    said = fleet.json("ask", "clerk", "the time is nigh", "--timeout", "100")
    assert (said["outcome"], said["answer"]["text"]) == ("answered", f"the time is nigh\nfrom {job}")
    refused = fleet.home.fleet("attach", "clerk", "--print")
    assert refused.returncode == 1 and "headless" in refused.stderr
    fleet.run("stop", "clerk")
    until(lambda: not jobs(slurm, "clerk"), "its job is cancelled")


def test_claude_code_writes_down_where_it_is_before_its_jobs_end_and_goes_on_in_the_next(
    claude: Claude, slurm: Cluster
) -> None:
    limit = {"time_limit": MINUTES, "signal_before": 120} if MINUTES else {}
    claude.json("start", claude.claude("web", prompt="Repeat FIRST", slurm={"mem": "500M", **limit}))
    before = claude.wait("web", phase="running", activity="ready")
    assert claude.answer("web") == "FIRST"
    (first,) = jobs(slurm, "web")
    (run,) = claude.launch_folder("web").glob("run.*")
    claude.stub.mode(hold=True)
    if not MINUTES:
        slurm.run("scancel", "--batch", "--signal=USR1", first)
    within = 60.0 * float(MINUTES or 2)
    until(lambda: len(claude.hooks("web", "UserPromptSubmit")) == 2, "it is asked", within)
    kill(claude.daemon_pid())
    claude.answers_again()
    claude.wait("web", phase="running", pid=before["pid"])
    until((run / "successor").exists, "the next job waits")
    assert not (run / "leave").exists(), "its turn runs still"
    claude.stub.mode()
    until(lambda: first not in jobs(slurm, "web") and jobs(slurm, "web"), "the next job has the conversation")
    told = [event["payload"]["prompt"] for event in claude.hooks("web", "UserPromptSubmit")]
    assert len(told) == 2 and told[1].startswith(f"The time limit of this SLURM job ({first}) is near")
    until(lambda: len(claude.hooks("web", "Stop")) > 1, "both turns' ends are told")
    assert len(claude.hooks("web", "Stop")) == 2 and (run / "ended").read_text() == "left\n"

    until(lambda: claude.status("web")["pid"] not in (None, before["pid"]), "its program runs in the next job")
    after = claude.wait("web", phase="running", activity="ready")
    assert (after["session_id"], after["restarts"]) == (before["session_id"], 0)
    claude.json("prompt", "web", "Repeat SECOND")
    until(lambda: claude.asked("Repeat SECOND"), "the model is asked in the next job")
    assert claude.messages("Repeat SECOND") > claude.messages("Repeat FIRST") and claude.asked("Repeat FIRST") == 1


def test_a_preempted_claude_code_goes_on_in_its_conversation_also_if_it_is_preempted_while_it_resumes(
    claude: Claude, slurm: Cluster
) -> None:
    claude.json("start", claude.claude("web", prompt="Repeat FIRST", slurm={"mem": "500M", "partition": "grace"}))
    assert claude.answer("web") == "FIRST"
    before = claude.wait("web", phase="running", activity="ready", last_assistant_msg="FIRST")  # and it is written down

    def node_of(job: str) -> str:
        return slurm.run("squeue", "-h", "-j", job, "-o", "%N").strip()

    (first,) = jobs(slurm, "web")
    others = [slurm.take(node_of(first))]
    second = until(lambda: [job for job in jobs(slurm, "web") if job != first and node_of(job)], "its next job runs")[0]
    resuming = until(
        lambda: claude.status("web")["pid"] not in (None, before["pid"]) and claude.status("web")["pid"], "it resumes"
    )
    others.append(slurm.take(node_of(second)))
    until(lambda: not alive(resuming), "it is preempted again")
    slurm.run("scancel", others[0])
    after = claude.wait("web", phase="running", activity="ready", restarts=2)
    assert after["session_id"] == before["session_id"] and not alive(before["pid"])
    deaths = [event["payload"] for event in claude.events("web", "phase") if event["payload"]["because"] == "Died"]
    assert [death["reason"] for death in deaths] == ["Preempted", "Preempted"] and len(jobs(slurm, "web")) == 1
    claude.json("prompt", "web", "Repeat SECOND")
    until(lambda: claude.asked("Repeat SECOND"), "the model is asked in the last job")
    assert claude.messages("Repeat SECOND") > claude.messages("Repeat FIRST") and claude.asked("Repeat FIRST") == 1
    slurm.run("scancel", others[1])


@pytest.fixture
def login(slurm: Cluster, home: Home) -> Iterator[There]:
    """A login node: an sshd in front of the cluster, with a home of its own."""
    made = There(home.path, f"SLURM_CONF={slurm.env['SLURM_CONF']}")
    with (home.path / "fleet" / "config.yaml").open("a") as config:
        config.write("slurm_interval: 10\n")
    yield made
    made.heal()
    made.close()


@pytest.fixture
def away(login: There, fleet_home: Home, slurm: Cluster) -> Iterator[Fleet]:
    made = Fleet(fleet_home)
    yield made
    login.heal()
    made.home.fleet("shutdown")
    until(lambda: not jobs(slurm, ""), "no job is left behind")


@needs_sshd
def test_agents_and_bookings_are_submitted_over_ssh_and_a_cut_link_says_nothing_of_them(
    login: There, away: Fleet, slurm: Cluster
) -> None:
    held = {"mem": "100M", "extra_directives": ["--hold"]}
    path = away.shell("web", TALKS, remote={"host": "there"}, slurm=held, env={"COUNT": "a 'b'"})
    checked = {check["name"]: check for check in away.json("check", path)["checks"]}
    assert checked["job"]["message"].startswith("Job ")
    away.json("start", path, "--no-wait")
    (rendered,) = away.json("render", path)["agents"]
    assert rendered["host"] == "there" and f"folder={login.folder}/agents/web/launch/" in rendered["script"]
    assert f"HOME={login.user_home}\n" in rendered["script"]
    until(lambda: "(JobHeldUser)" in (away.status("web")["message"] or ""), "why it waits is told")
    (job,) = jobs(slurm, "web")
    slurm.run("scontrol", "release", job)
    away.wait("web", phase="running")
    pid = until(lambda: away.status("web")["pid"], "its process is known")
    until(lambda: "hello home a 'b'" in "\n".join(away.json("logs", "web")["lines"]), "its first line is in the log")
    attach_and_say(away, "web", "say over there")
    is_told(away, "web", "say over there", job)
    assert str(login.user_home) in slurm.run("scontrol", "show", "job", job)
    assert not (away.home.path / "fleet" / "state" / "agents" / "web" / "launch").exists()

    login.cut()
    away.wait("web", phase="unverifiable")
    kill(away.daemon_pid())
    away.answers_again()
    login.heal()
    away.wait("web", phase="running", restarts=0, pid=pid)
    assert jobs(slurm, "web") == [job]

    away.json("stop", "web")
    assert away.status("web")["phase"] == "stopped"
    until(lambda: not jobs(slurm, "web"), "no job is left")

    booked = ("slurm", "book", "pool", "--host", "there", "--cpus", "2", "--mem", "300M", "--time", "1:00:00")
    job = away.json(*booked)["job"]
    until((login.folder / "bookings" / "pool" / "place").exists, "the booking has its node")
    there = {"remote": {"host": "there"}, "slurm": {"reservation": "pool", "mem": "100M"}}
    path, other = away.shell("one", TALKS, env={"COUNT": "one"}, **there), there["slurm"] | {"reservation": "other"}
    checked = away.json("check", path, away.shell("two", ASKS, **there | {"slurm": other}), code=1)["checks"]
    (answers, booking, _, missing) = checked
    assert answers["status"] == "ok" and booking["message"].startswith(f"pool is booked: job {job} on n")
    assert missing["remedy"].startswith("`fleet slurm book other --host there")
    told = away.json("start", path)
    assert [agent["outcome"] for agent in told["agents"]] == ["started"]
    until(lambda: "hello home one" in "\n".join(away.json("logs", "one")["lines"]), "its first line is in the log")
    (shown,) = away.json("slurm", "show", "pool", "--host", "there")["tenants"]
    assert shown["agent"] == "one" and jobs(slurm, "") == [job]
    away.run("prompt", "one", "say from a booking")
    is_told(away, "one", "say from a booking", job)
    away.json("start", away.shell("clerk", "cat; echo; echo from $SLURM_JOB_ID", mode="headless", **there))
    said = away.json("ask", "clerk", "the time is nigh", "--timeout", "100")
    assert (said["outcome"], said["answer"]["text"]) == ("answered", f"the time is nigh\nfrom {job}")
    away.json("stop", "one", "clerk")
    away.json("slurm", "release", "pool", "--host", "there")
