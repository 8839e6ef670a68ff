"""Agents on another machine through the installed `fleet`: a real sshd, and a link to it that can be cut."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests import networks
from tests.e2e.fleets import Claude, Fleet, alive, kill, until
from tests.e2e.test_bad_input import fill, small_disk
from tests.homes import Home, Stub, commands_left, fleet_argv
from tests.sshd import There, needs_sshd

pytestmark = [pytest.mark.real, needs_sshd]

FOREVER = "while :; do sleep 1; done"
CUT_FOR = float(os.environ.get("FLEET_TEST_CUT", "0"))
"""Seconds that a cut lasts once it is told; `make soak` takes 300."""
QUICK = {"policy": "on-failure", "backoff": {"initial": 0.2, "max": 0.4}}


@pytest.fixture
def there(home: Home, request: pytest.FixtureRequest) -> Iterator[There]:
    """In a network of its own; the real program's model server is on loopback, so that one is there too."""
    with nullcontext() if "claude" in request.fixturenames else networks.network() as network:
        made = There(home.path, network=network)
        yield made
        made.heal()
        made.close()


@pytest.fixture
def fleet(there: There, fleet_home: Home) -> Iterator[Fleet]:
    yield Fleet(fleet_home)
    there.heal()


def away(fleet: Fleet, name: str, script: str = FOREVER, **spec: Any) -> str:
    """The manifest of an agent that runs a line of sh there."""
    return fleet.shell(name, script, **({"remote": {"host": "there"}} | spec))


def attach_and_say(fleet: Fleet, name: str, text: str) -> None:
    """`fleet attach` in a terminal of its own, a line typed there and answered, and out again by Ctrl-B D."""
    terminal, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    argv, env = [*fleet_argv(), "attach", name], {**fleet.home.env, "TERM": "xterm"}
    person = subprocess.Popen(argv, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""

    def shows(what: bytes) -> bool:
        nonlocal shown
        while select.select([terminal], [], [], 0)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # its other end is closed
                break
        return what in shown

    def leaves() -> bool:
        """On a busy machine the keys do not always come through to tmux: they are pressed again, as a person would."""
        os.write(terminal, b"\x02d")
        seen = time.monotonic() + 5
        while not (gone := shows(b"detached")) and time.monotonic() < seen:
            time.sleep(0.05)
        return gone

    try:
        until(lambda: shows(b"home "), f"the pane opens: {shown!r}")
        os.write(terminal, text.encode() + b"\r")
        until(lambda: shows(f"heard {text}".encode()), f"the line is answered: {shown!r}")
        until(leaves, f"it leaves: {shown!r}")
        assert person.wait(60) == 0
    except BaseException:
        person.kill()
        person.wait()
        raise
    finally:
        os.close(terminal)


def test_an_agent_on_another_machine_is_started_seen_restarted_adopted_and_stopped_as_one_here(
    fleet: Fleet, there: There
) -> None:
    script = 'echo "home $HOME"; while read -r line; do echo "heard $line"; done'
    told = fleet.json("start", away(fleet, "web", script, restart=QUICK))
    assert [(a["name"], a["outcome"], a["phase"]) for a in told["agents"]] == [("web", "started", "running")]
    status = fleet.wait("web", phase="running", pane_state="idle_prompt")
    assert alive(status["pid"]) and status["workdir"] == f"{there.folder}/workspaces/web"
    assert f"home {there.user_home}" in status["pane_text"]
    assert f"home {there.user_home}" in fleet.run("logs", "web")
    attach_and_say(fleet, "web", "a person was here")
    fleet.wait("web", phase="running")

    kill(status["pid"])
    second = fleet.wait("web", phase="running", restarts=1)
    assert second["pid"] != status["pid"] and alive(second["pid"])
    exits = fleet.json("events", "--agent", "web", "--type", "exit")["events"]
    assert [e["payload"]["exit_status"] for e in exits] == [128 + signal.SIGKILL]

    kill(fleet.daemon_pid())
    fleet.answers_again()
    adopted = fleet.wait("web", phase="running", pid=second["pid"])
    assert (adopted["generation"], adopted["restarts"]) == (second["generation"], 1)

    fleet.run("stop", "web")
    assert not alive(second["pid"]) and fleet.status("web")["phase"] == "stopped"


def test_a_cut_link_is_no_death_to_this_daemon_or_the_next_and_a_stop_meanwhile_is_carried_out_after_it(
    fleet: Fleet, there: There
) -> None:
    fleet.run("start", away(fleet, "web"), away(fleet, "stops"), fleet.shell("here", FOREVER))
    before, stops = fleet.status("web"), fleet.status("stops")["pid"]
    there.cut()
    lost = fleet.wait("web", phase="unverifiable")
    assert lost["reason"] == "HostUnreachable" and "there" in lost["message"]
    assert fleet.status("here")["phase"] == "running"
    assert any("there" in warning for warning in fleet.json_warnings("status"))
    fleet.wait("stops", phase="unverifiable")
    fleet.run("stop", "stops", "--timeout", "0.5", code=4)
    assert alive(stops)
    kill(fleet.daemon_pid())
    fleet.answers_again()
    fleet.wait("web", phase="unverifiable")
    time.sleep(CUT_FOR)
    there.heal()
    after = fleet.wait("web", phase="running")
    assert (after["pid"], after["generation"], after["restarts"]) == (before["pid"], before["generation"], 0)
    fleet.wait("stops", phase="stopped")
    assert not alive(stops)
    process = until(lambda: fleet.status("web")["process"], "what its processes cost there")
    assert process["processes"] >= 1 and process["rss_mb"] > 0


def test_the_first_host_that_answers_takes_the_agent_and_one_that_is_away_is_named_and_awaited(
    fleet: Fleet, there: There
) -> None:
    there.sshd.config.write_text(f"{there.sshd.config.read_text()}\nHost nowhere\n  HostName 127.0.0.1\n  Port 1\n")
    path = away(fleet, "web", remote={"host": ["nowhere", "there"]}, venv="env", workdir="/no/such/folder")
    checked = {c["name"]: c for c in fleet.json("check", path, code=1)["checks"] if c["status"] != "ok"}
    assert {name: c["status"] for name, c in checked.items()} == {"host": "warn", "venv": "fail", "workdir": "fail"}
    assert checked["venv"]["remedy"] == "ssh there python3 -m venv env"

    fleet.run("start", away(fleet, "web", remote={"host": ["nowhere", "there"]}))
    assert fleet.status("web")["pane"]["socket"].startswith(str(there.folder))
    lost = fleet.json("start", away(fleet, "lost", remote={"host": "nowhere"}), code=4)["agents"][0]
    assert (lost["outcome"], lost["reason"]) == ("held", "HostUnreachable") and "nowhere" in lost["message"]
    config = there.sshd.config.read_text()
    there.sshd.known_hosts.rename(there.sshd.folder / "aside")
    there.sshd.known_hosts.write_text("")
    there.sshd.config.write_text(config.partition("Host nowhere")[0].replace("Host there", "Host there nowhere"))
    unknown = fleet.wait("lost", reason="Unauthenticated")
    assert "host key is not known yet" in unknown["message"] and "`ssh nowhere`" in unknown["message"]
    (there.sshd.folder / "aside").rename(there.sshd.known_hosts)
    fleet.wait("lost", phase="running")


def test_what_happens_to_the_host_is_no_fault_of_its_agents(fleet: Fleet, there: There) -> None:
    fleet.run("start", away(fleet, "web", restart={"policy": "on-failure", "max_retries": 1}))
    before = fleet.status("web")
    there.sshd.stop()
    fleet.wait("web", phase="unverifiable")
    there.sshd.start()
    same = fleet.wait("web", phase="running")
    assert (same["pid"], same["restarts"]) == (before["pid"], 0)

    tmux = int((there.folder / "agents" / "web" / "launch" / before["generation"] / "server").read_text().split()[0])
    kill(tmux)
    other = until(
        lambda: (s := fleet.status("web"))["phase"] == "running" and s["pid"] != before["pid"] and s, "a new one"
    )
    until(lambda: not alive(before["pid"]), "the old one has ended")

    there.sshd.stop()
    fleet.wait("web", phase="unverifiable")
    launch = there.folder / "agents" / "web" / "launch" / other["generation"]
    for name in ("launcher", "program", "server"):
        kill(int((launch / name).read_text().split()[0]))
    (launch / "boot").write_text("another boot\n")
    there.sshd.start()
    after = until(
        lambda: (s := fleet.status("web"))["phase"] == "running" and s["pid"] != other["pid"] and s, "a third"
    )
    assert after["life"]["budget"]["deaths"] == [], "the host's end is nobody's fault"

    fleet.run("stop", "web")
    team = fleet.home.work / "team"
    team.mkdir()
    Path(fleet.shell("here", FOREVER)).rename(team / "here.yaml")
    left = [there.folder / part / "web" for part in ("agents", "spool", "workspaces")]
    left[1].mkdir(parents=True)  # as one whose hooks have left their events has it
    there.sshd.stop()
    told = fleet.json_warnings("apply", "team", "--prune")
    assert any("What web has left on there stays for now" in warning for warning in told), told
    assert "web" not in fleet.all() and all(folder.exists() for folder in left)
    there.sshd.start()
    until(lambda: [folder.name for folder in left if folder.exists()] == ["web"], "its folders go, not its workspace")
    assert left[-1].exists()


def test_a_full_disk_there_ends_nobody_and_a_start_waits_for_space(fleet: Fleet, there: There) -> None:
    disk = there.user_home / ".local"
    with small_disk(disk):
        try:
            fleet.run("start", away(fleet, "web"))
            before = fleet.status("web")
            fill(disk / "ballast")
            late = fleet.json("start", away(fleet, "late"), code=1)["agents"][0]
            assert "No space left" in late["message"]
            assert (fleet.status("web")["phase"], fleet.status("web")["pid"]) == ("running", before["pid"])
            (disk / "ballast").unlink()
            fleet.wait("late", phase="running")
            assert fleet.status("web")["pid"] == before["pid"]
        finally:
            (disk / "ballast").unlink(missing_ok=True)
            fleet.run("shutdown")


# -- without a pane ----------------------------------------------------------------------------------------------------


def test_a_headless_agent_there_answers_and_a_turn_outlives_a_cut_and_the_daemon(fleet: Fleet, there: There) -> None:
    script = "cat > asked; echo begun >> count; while [ ! -e go ]; do sleep 0.123; done; echo done"
    path = away(fleet, "clerk", script, mode="headless")
    assert {c["status"] for c in fleet.json("check", path)["checks"]} <= {"ok", "warn"}
    fleet.run("start", path)
    status = fleet.wait("clerk", phase="running", activity="ready")
    work = Path(status["workdir"])
    assert work == there.folder / "workspaces" / "clerk"

    sent = fleet.json("send", "clerk", "the time is nigh")
    until((work / "count").exists, "its turn runs there")
    assert "the time is nigh" in (work / "asked").read_text()
    fleet.wait("clerk", activity="working")
    there.cut()
    fleet.wait("clerk", phase="unverifiable")
    kill(fleet.daemon_pid())
    fleet.answers_again()
    (work / "go").touch()
    fleet.wait("clerk", phase="unverifiable")
    there.heal()
    fleet.wait("clerk", phase="running")
    ended = lambda: fleet.json("receipt", sent["id"])["recipients"][0]["state"] == "delivered"  # noqa: E731
    until(ended, "its turn has ended well")
    assert (work / "count").read_text() == "begun\n"
    replies = [m["text"] for m in fleet.json("inbox", "operator")["messages"] if m["sender"] == "clerk"]
    assert replies == ["done"]
    fleet.wait("clerk", activity="ready")
    assert "done" in fleet.json("logs", "clerk")["lines"]

    (work / "go").unlink()
    fleet.json("send", "clerk", "once more")
    until(lambda: (work / "count").read_text() == "begun\nbegun\n", "its next turn runs")
    fleet.run("stop", "clerk")
    assert ["sleep", "0.123"] not in commands_left(there.user_home)


# -- the real program, over there --------------------------------------------------------------------------------------


@pytest.fixture
def claude(there: There, fleet_home: Home, claude_program: str, stub: Stub) -> Iterator[Claude]:
    """A fleet whose agents are Claude Code on the other machine, in the home of a person who has used it there."""
    seeded = Home(there.user_home)
    seeded.seed_claude(stub.url)
    seeded.env["TMPDIR"] = str(there.user_home)  # where it would else keep notes in /tmp for good
    made = Claude(fleet_home, claude_program, stub)
    made.run("start", made.claude("web", remote={"host": "there"}, env=seeded.env, permission_mode="bypassPermissions"))
    yield made
    there.heal()


def bash(command: str) -> str:
    """A prompt that makes the model run this command."""
    return "TOOL Bash " + json.dumps({"command": command, "description": "x"})


def test_the_real_program_works_there_hears_of_mail_and_replies_and_a_cut_loses_nothing(
    claude: Claude, there: There
) -> None:
    status = claude.wait("web", phase="running", activity="ready")
    assert status["workdir"] == f"{there.folder}/workspaces/web"
    until(lambda: claude.hooks("web", "SessionStart"), "its hooks are told by push")

    sent = claude.json("send", "web", "Hello there", "--wait", "100")["id"]
    until(lambda: claude.hooks("web", "Stop"), "the turn on it is over")
    work = there.folder / "workspaces" / "web"
    claude.run("prompt", "web", bash("until [ -e go ]; do sleep 0.1; done"), "--wait", "100")
    claude.wait("web", activity="working")
    there.cut()
    claude.wait("web", phase="unverifiable")
    told = len(claude.hooks("web", "Stop"))
    (work / "go").touch()
    spool = there.folder / "spool" / "web"
    until(
        lambda: any("," in path.name and not path.name.startswith(".") for path in spool.iterdir()), "a hook meanwhile"
    )
    there.heal()
    after = claude.wait("web", phase="running", activity="ready")
    assert (after["pid"], after["restarts"], after["session_id"]) == (status["pid"], 0, status["session_id"])
    until(lambda: not any("," in path.name for path in spool.iterdir()), "the spool is empty")
    assert len(claude.hooks("web", "Stop")) == told + 1
    keys = [event["key"] for event in claude.events("web", "hook")]
    assert len(keys) == len(set(keys)), "nothing is told twice"

    kill(claude.daemon_pid())
    claude.answers_again()
    again = claude.wait("web", phase="running", activity="ready")
    assert (again["pid"], again["session_id"]) == (status["pid"], status["session_id"])
    reply = shlex.join([*fleet_argv(), "reply", sent, "from over there"])
    claude.run("prompt", "web", bash(reply), "--wait", "100")
    until(lambda: "from over there" in claude.run("history"), f"its reply\n{claude.log()}")
    claude.run("restart", "web")
    resumed = claude.wait("web", phase="running", activity="ready")
    assert resumed["pid"] != status["pid"] and resumed["session_id"] == status["session_id"]
