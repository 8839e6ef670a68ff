"""What a fleet promises of any program: real processes, real tmux, a real daemon that is killed."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.e2e.fleets import Fleet, alive, kill, until
from tests.homes import Home, fleet_argv

pytestmark = pytest.mark.real

FOREVER = "while :; do sleep 1; done"
QUICK = {"policy": "on-failure", "backoff": {"initial": 0.2, "max": 0.4}}


@pytest.fixture
def fleet(fleet_home: Home) -> Iterator[Fleet]:
    yield Fleet(fleet_home)


def test_a_manifest_becomes_a_running_agent_and_a_stop_ends_all_of_it(fleet: Fleet) -> None:
    told = fleet.json("start", fleet.shell("web", FOREVER))
    assert [(a["name"], a["outcome"], a["phase"]) for a in told["agents"]] == [("web", "started", "running")]
    status = fleet.status("web")
    assert status["pane"]["multiplexer"] == "tmux"
    assert psutil.Process(status["pid"]).cmdline()[1:] == ["-c", FOREVER]
    fleet.run("stop", "web")
    assert not alive(status["pid"])
    assert fleet.status("web")["phase"] == "stopped"


def test_stopping_web_never_touches_web_2(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER), fleet.shell("web-2", FOREVER))
    pid, other = fleet.status("web")["pid"], fleet.status("web-2")["pid"]
    kill(pid)
    fleet.wait("web", phase="running", restarts=1)
    fleet.run("stop", "web")
    assert fleet.status("web")["phase"] == "stopped"
    assert (fleet.status("web-2")["phase"], fleet.status("web-2")["pid"]) == ("running", other)
    assert alive(other)


def test_a_killed_program_is_restarted_at_once_the_first_time(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    before = fleet.status("web")["pid"]
    kill(before)
    status = fleet.wait("web", phase="running", restarts=1)
    assert status["pid"] != before
    assert alive(status["pid"])
    exits = fleet.json("events", "--agent", "web", "--type", "exit")["events"]
    assert [e["payload"]["exit_status"] for e in exits] == [128 + signal.SIGKILL]


def test_a_crash_loop_parks_the_agent_with_a_reason_and_a_reset_frees_it(fleet: Fleet) -> None:
    die = fleet.home.work / "die"
    script = f"until [ -e {die} ]; do sleep 0.1; done; rm {die}; exit 3"
    fleet.run("start", fleet.shell("web", script, restart={**QUICK, "max_retries": 3}))
    for restarts in range(3):
        fleet.wait("web", phase="running", restarts=restarts)
        die.touch()
    status = fleet.wait("web", phase="failed", reason="CrashLoop")
    assert "3" in status["message"]
    assert status["restarts"] == 2
    fleet.run("reset", "web")
    fleet.wait("web", phase="running")


def test_a_program_that_never_starts_is_told_as_a_failed_start(fleet: Fleet) -> None:
    told = fleet.json("start", fleet.shell("web", "echo 'no licence'; exit 4"), code=1)
    agent = told["agents"][0]
    assert agent["outcome"] == "failed"
    assert "4" in agent["message"]
    until(lambda: "no licence" in (fleet.json("logs", "web")["screen"] or ""), "its last words are kept")


def test_a_clean_exit_is_no_failure(fleet: Fleet) -> None:
    done = fleet.home.work / "done"
    fleet.run("start", fleet.shell("job", f"until [ -e {done} ]; do sleep 0.1; done; exit 0"))
    done.touch()
    status = fleet.wait("job", phase="finished")
    assert (status["exit_status"], status["restarts"]) == (0, 0)


def test_a_persons_stop_is_not_undone_by_a_new_daemon(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER, restart={"policy": "always"}))
    fleet.run("stop", "web")
    kill(fleet.daemon_pid())
    fleet.answers_again()
    fleet.run("daemon", "restart")
    assert fleet.status("web")["phase"] == "stopped"


def test_killing_the_daemon_is_invisible_to_agents_and_it_comes_back(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER), fleet.shell("api", FOREVER))
    before = {name: a["pid"] for name, a in fleet.all().items()}
    daemon = fleet.daemon_pid()
    kill(daemon)
    fleet.answers_again()
    assert fleet.daemon_pid() != daemon
    after = fleet.all()
    assert {name: a["pid"] for name, a in after.items()} == before
    assert {a["phase"] for a in after.values()} == {"running"}
    assert {a["restarts"] for a in after.values()} == {0}


def test_an_agent_that_died_while_no_daemon_watched_is_brought_back(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    pid = fleet.status("web")["pid"]
    keeper = fleet.keeper_pid()
    assert keeper is not None
    daemon = fleet.daemon_pid()
    kill(keeper)
    kill(daemon)
    kill(pid)
    until(lambda: not alive(daemon), "the daemon is gone")
    fleet.run("start", "web")
    status = fleet.wait("web", phase="running")
    assert status["pid"] != pid


def test_agent_and_daemon_killed_together_both_come_back(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    pid, daemon = fleet.status("web")["pid"], fleet.daemon_pid()
    kill(daemon)
    kill(pid)
    fleet.answers_again()
    status = fleet.wait("web", phase="running", restarts=1)
    assert status["pid"] != pid


def test_a_killed_launcher_counts_as_a_death_and_its_program_does_not_live_on(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", "trap '' HUP TERM; " + FOREVER))
    pid = fleet.status("web")["pid"]
    kill(fleet.launcher_pid("web"))
    status = fleet.wait("web", phase="running", restarts=1)
    assert status["pid"] != pid
    assert not alive(pid)


def test_a_killed_tmux_server_is_one_event_that_costs_no_agents_budget(fleet: Fleet) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    fleet.run("start", *(fleet.shell(name, FOREVER) for name in names))
    before = {name: a["pid"] for name, a in fleet.all().items()}
    socket = fleet.status("a")["pane"]["socket"]
    server = subprocess.run(
        ["tmux", "-S", socket, "display-message", "-p", "#{pid}"], capture_output=True, text=True, check=True
    ).stdout
    kill(int(server))
    for name in names:
        until(lambda name=name: fleet.status(name)["pid"] not in (None, before[name]), f"{name} is back")
        status = fleet.wait(name, phase="running")
        assert status["life"]["budget"]["deaths"] == []
    assert not any(alive(pid) for pid in before.values())


def test_a_child_in_its_own_session_and_one_that_ignores_signals_are_gone_after_a_stop(fleet: Fleet) -> None:
    work = fleet.home.work
    script = f"setsid sh -c 'echo $$ > {work}/far; trap \"\" HUP TERM; {FOREVER}' & echo $! >/dev/null; {FOREVER}"
    fleet.run("start", fleet.shell("web", script, stop={"timeout": 1}))
    far = int(until(lambda: (work / "far").exists() and (work / "far").read_text(), "the child says who it is"))
    assert alive(far)
    fleet.run("stop", "web")
    assert not alive(far)


def test_leftovers_of_a_dead_generation_are_gone_before_the_next_is_launched(fleet: Fleet) -> None:
    work = fleet.home.work
    script = f"setsid sh -c 'echo $$ >> {work}/far; trap \"\" HUP TERM; {FOREVER}' & {FOREVER}"
    fleet.run("start", fleet.shell("web", script))
    until(lambda: (work / "far").exists(), "the child says who it is")
    kill(fleet.status("web")["pid"])
    fleet.wait("web", phase="running", restarts=1)
    until(lambda: len((work / "far").read_text().split()) == 2, "the second child says who it is")
    first, second = map(int, (work / "far").read_text().split())
    assert (alive(first), alive(second)) == (False, True)


def test_three_starts_at_once_start_one(fleet: Fleet) -> None:
    path = fleet.shell("web", f"echo x >> {fleet.home.work}/starts; {FOREVER}")
    with ThreadPoolExecutor(3) as pool:
        codes = [d.returncode for d in pool.map(lambda _: fleet.home.fleet("start", path), range(3))]
    assert codes == [0, 0, 0]
    assert (fleet.home.work / "starts").read_text() == "x\n"


def test_what_the_environment_holds_is_literal(fleet: Fleet) -> None:
    hostile = {"A": "$(touch pwned)", "B": "`touch pwned`", "C": 'it\'s "quoted"\nand $HOME', "D": "; touch pwned"}
    script = 'python3 -c \'import os, json; json.dump(dict(os.environ), open("env.json", "w"))\'; ' + FOREVER
    fleet.run("start", fleet.shell("web", script, env=hostile, workdir="."), env={"SECRET_OF_STARTER": "no"})
    until(lambda: (fleet.home.work / "env.json").exists(), "the environment is written")
    seen = until(lambda: _read(fleet.home.work / "env.json"), "it is whole")
    assert {name: seen[name] for name in hostile} == hostile
    assert "SECRET_OF_STARTER" not in seen
    assert seen["FLEET_AGENT"] == "web"
    assert not (fleet.home.work / "pwned").exists()


def _read(path: Path) -> dict[str, str] | None:
    try:
        found: dict[str, str] = json.loads(path.read_text())
    except ValueError:
        return None
    return found


def test_a_folder_named_like_a_command_is_only_a_folder(fleet: Fleet) -> None:
    folder = fleet.home.work / "a;touch X"
    folder.mkdir()
    path = fleet.home.write(
        "a;touch X/it.yaml",
        "apiVersion: fleet/v1\nkind: Agent\nmetadata: {name: odd}\n"
        "spec: {harness: shell, command: [sh, -c, 'pwd; sleep 100'], workdir: .}\n",
    )
    fleet.run("start", str(path))
    assert fleet.status("odd")["workdir"] == str(folder)
    assert list(fleet.home.work.glob("**/X")) == []


def test_secrets_stand_in_no_command_line(fleet: Fleet) -> None:
    (fleet.home.work / "token").write_text("hunter2-from-a-file\n")
    env = {"A": {"file": "token"}, "B": {"env": "STARTERS"}, "C": {"command": ["printf", "hunter2-from-a-command"]}}
    path = fleet.shell("web", f"printf '%s ' $A $B $C > got; {FOREVER}", env=env, workdir=".")
    fleet.run("start", path, env={"STARTERS": "hunter2-from-the-environment"})
    got = until(lambda: _text(fleet.home.work / "got"), "the agent has its secrets")
    assert got.split() == ["hunter2-from-a-file", "hunter2-from-the-environment", "hunter2-from-a-command"]
    told = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    assert not [line for line in told if "hunter2" in line]
    pid = fleet.status("web")["pid"]
    (fleet.home.work / "got").unlink()
    kill(pid)
    got = until(lambda: _text(fleet.home.work / "got"), "the restarted agent has them too")
    assert len(got.split()) == 3


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_shutdown_stops_all_and_start_without_a_name_brings_up_what_was_up(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("up", FOREVER), fleet.shell("down", FOREVER))
    fleet.run("stop", "down")
    pid = fleet.status("up")["pid"]
    fleet.run("shutdown")
    assert not alive(pid)
    fleet.run("status", code=69)
    fleet.run("start")
    assert {n: a["phase"] for n, a in fleet.all().items()} == {"up": "running", "down": "stopped"}


def test_who_depends_on_others_starts_after_them_and_stops_before(fleet: Fleet) -> None:
    mark = fleet.home.work / "order"
    say = "echo {0} up >> {1}; trap 'echo {0} down >> {1}; exit 0' TERM; while :; do sleep 0.1; done"
    api = fleet.shell("api", say.format("api", mark), depends_on=[{"agent": "db", "condition": "started"}])
    fleet.run("start", api, fleet.shell("db", say.format("db", mark)))
    fleet.run("stop", "--all")
    assert mark.read_text().splitlines() == ["db up", "api up", "api down", "db down"]


def test_logs_and_last_screen_outlive_the_pane(fleet: Fleet) -> None:
    done = fleet.home.work / "done"
    script = f"seq 1 200; echo the end; until [ -e {done} ]; do sleep 0.1; done; exit 0"
    fleet.run("start", fleet.shell("job", script))
    done.touch()
    fleet.wait("job", phase="finished")
    told = fleet.json("logs", "job", "-n", "500")
    assert "the end" in told["screen"]
    lines = [line.strip() for line in told["lines"]]
    assert [n for n in lines if n.isdigit()] == [str(n) for n in range(1, 201)]


def test_a_second_daemon_says_who_holds_the_state(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    done = fleet.home.fleet("daemon", "run")
    assert done.returncode == 69
    assert str(fleet.daemon_pid()) in done.stderr


def test_two_homes_are_two_fleets_that_never_meet(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    other = {"FLEET_HOME": str(fleet.home.path / "other"), "XDG_RUNTIME_DIR": str(fleet.home.path / "run2")}
    done = fleet.home.fleet("start", str(fleet.home.work / "web.yaml"), env=other)
    try:
        assert done.returncode == 0, done.stderr
        fleet.home.fleet("stop", "web", env=other)
        assert fleet.status("web")["phase"] == "running"
    finally:
        fleet.home.fleet("shutdown", env=other)


def test_a_tmux_server_that_does_not_answer_is_not_a_death(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER), env={"FLEET_OBSERVE_TIMEOUT": "3"})
    status = fleet.wait("web", activity="ready")  # it has nothing more to do: what is shown of it changes no more
    server = subprocess.run(
        ["tmux", "-S", status["pane"]["socket"], "display-message", "-p", "#{pid}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    kill(int(server), signal.SIGSTOP)
    try:
        seen = fleet.wait("web", phase="unverifiable")
        assert (seen["restarts"], seen["activity"]) == (0, status["activity"])
        assert alive(status["pid"])
    finally:
        kill(int(server), signal.SIGCONT)
    seen = fleet.wait("web", phase="running")
    assert (seen["pid"], seen["restarts"]) == (status["pid"], 0)


def test_a_circle_of_dependencies_is_refused_by_name(fleet: Fleet) -> None:
    one = fleet.shell("one", FOREVER, depends_on=[{"agent": "two"}])
    two = fleet.shell("two", FOREVER, depends_on=[{"agent": "one"}])
    told = fleet.json("start", one, two, code=2)
    assert "one → two → one" in told["message"]
    assert fleet.all() == {}


def test_systemd_is_told_that_it_is_ready_what_it_does_and_that_it_lives(fleet: Fleet) -> None:
    path = fleet.home.path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(path))
        told.settimeout(60)
        env = {**fleet.home.env, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}
        with subprocess.Popen([*fleet_argv(), "daemon", "run"], env=env, stderr=subprocess.DEVNULL) as daemon:
            first, second = told.recv(4096).decode(), told.recv(4096).decode()
            daemon.send_signal(signal.SIGTERM)
            words = second
            while "STOPPING=1" not in words:
                words = told.recv(4096).decode()
    assert first.startswith("READY=1\nSTATUS=")
    assert second.startswith("WATCHDOG=1")
    assert daemon.returncode == 0
