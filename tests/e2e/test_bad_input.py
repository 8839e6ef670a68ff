"""What a clumsy or hostile user gets: a clear word that names the place and the remedy, and nothing half-done."""

from __future__ import annotations

import ctypes
import json
import os
import pty
import select
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.fleets import Fleet, alive, kill, until
from tests.homes import Home, commands_left, fleet_argv

pytestmark = pytest.mark.real

FOREVER = "while :; do sleep 1; done"


@pytest.fixture
def fleet(fleet_home: Home) -> Iterator[Fleet]:
    yield Fleet(fleet_home)


def refused(fleet: Fleet, *words: str, code: int, says: str, **options: object) -> None:
    """The command ends with that code and says so on stderr, in words and not with a traceback."""
    done = fleet.home.fleet(*words, **options)  # type: ignore[arg-type]
    assert done.returncode == code, f"fleet {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def state(fleet: Fleet) -> Path:
    return fleet.home.path / "fleet" / "state"


def control(fleet: Fleet) -> Path:
    return fleet.home.path / "fleet" / "run" / "control.sock"


# -- names and manifests --------------------------------------------------------------------------------------------


def test_a_name_that_is_not_there_is_told_with_the_nearest_one_and_nothing_is_touched(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER), fleet.shell("web-2", FOREVER))
    before = {name: a["pid"] for name, a in fleet.all().items()}
    refused(fleet, "status", "wbe", code=3, says="Did you mean web?")
    refused(fleet, "stop", "web-3", code=3, says="Did you mean web-2?")
    refused(fleet, "stop", "we", code=3, says="No agent is named 'we'")
    refused(fleet, "start", "nobody", code=3, says="`fleet status` lists")
    refused(fleet, "start", "", code=2, says="One of the names is empty")
    refused(fleet, "stop", code=2, says="Which agents?")
    for name in ("../web", "..", "../../etc/passwd", "web/../web-2", "web.yaml/../../x"):
        for verb in ("inspect", "explain", "logs", "stop", "restart", "reset"):
            done = fleet.home.fleet(verb, name)
            assert done.returncode in (2, 3), (verb, name, done)
            assert "Traceback" not in done.stderr
            assert done.returncode == 2 or name == "..", "what has a slash is a path, for every verb"
    assert {name: a["pid"] for name, a in fleet.all().items()} == before


def test_a_known_name_means_its_agent_also_where_a_folder_of_that_name_lies(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    (fleet.home.work / "web").mkdir()
    fleet.run("stop", "web")
    fleet.run("start", "web")
    assert fleet.status("web")["phase"] == "running"


def test_a_file_that_is_no_manifest_starts_nothing_and_says_where_and_what_to_do(fleet: Fleet) -> None:
    work = fleet.home.work
    fleet.run("start", fleet.shell("up", FOREVER))
    (work / "empty").mkdir()
    (work / "bytes.yaml").write_bytes(b"apiVersion: fleet/v1\nkind: \xff\xfe")
    (work / "nul.yaml").write_text(Path(fleet.shell("nul", FOREVER)).read_text() + '  env: {A: "a\\0b"}\n')
    (work / "loop.yaml").write_text("a: &a [*a]\n")
    (work / "deep.yaml").write_text("a: " + "[" * 5000)
    (work / "huge.yaml").write_bytes(b"# " + b"x" * (2 << 20))
    (work / "page.yaml").write_text("<html>")
    os.mkfifo(work / "pipe.yaml")
    (work / "link.yaml").symlink_to("link.yaml")
    for path, says in {
        "empty/": "holds no manifest",
        "nowhere.yaml": "`fleet init` writes a manifest",
        "bytes.yaml": "bytes.yaml:2:1: is not UTF-8 text",
        "nul.yaml": "spec.env.A: holds a NUL character",
        "loop.yaml": "contains itself",
        "deep.yaml": "is no valid YAML",
        "huge.yaml": "larger than 1 MiB",
        "page.yaml": "page.yaml:1:1",
        "pipe.yaml": "is no plain file",
        "/dev/zero": "is no plain file",
        "link.yaml": "cannot be read",
    }.items():
        refused(fleet, "start", path, code=2, says=says)
    for command in ("diff", "apply"):
        refused(fleet, command, "empty/", code=2, says="holds no manifest")
    odd = os.fsencode(work) + b"/odd\xff"
    os.mkdir(odd)  # noqa: PTH102 (bytes)
    os.rename(fleet.shell("odd", FOREVER), odd + b"/odd.yaml")  # noqa: PTH104
    argv = [*fleet_argv(), "start", odd + b"/odd.yaml"]
    done = subprocess.run(argv, env=fleet.home.env, capture_output=True, check=False)
    assert (done.returncode, b"no UTF-8 text" in done.stderr) == (2, True), done.stderr
    assert list(fleet.all()) == ["up"]


def test_one_bad_file_in_a_folder_starts_none_of_it(fleet: Fleet) -> None:
    good = Path(fleet.shell("good", FOREVER))
    folder = fleet.home.work / "team"
    folder.mkdir()
    good.rename(folder / "good.yaml")
    (folder / "bad.yaml").write_text("apiVersion: fleet/v1\nkind: Agent\nspec: {harnes: shell}\n")
    refused(fleet, "start", "team", code=2, says="did you mean harness?")
    (folder / "bad.yaml").write_text((folder / "good.yaml").read_text())
    refused(fleet, "start", "team", code=2, says="good is also the name at")
    (folder / "bad.yaml").unlink()
    secret = fleet.shell("secret", FOREVER, env={"TOKEN": {"file": "no-such-file"}})
    refused(fleet, "start", "team", secret, code=1, says="secret: env.TOKEN: there is no file")
    refused(fleet, "start", "team", f"{folder}/../team/good.yaml", "nobody", code=3, says="nobody")
    assert fleet.all() == {}
    other = fleet.home.write("other.yaml", (folder / "good.yaml").read_text())
    refused(fleet, "start", "team", str(other), code=2, says="Two manifests declare good")
    assert fleet.all() == {}


def test_a_manifest_that_changes_while_its_agent_runs_changes_nothing_by_itself(fleet: Fleet) -> None:
    path = Path(fleet.shell("web", FOREVER))
    good = path.read_text()
    fleet.run("start", str(path))
    pid = fleet.status("web")["pid"]
    path.write_text(good.replace("spec:", "spec:\n  restrat: 1"))
    for verb in ("restart", "start"):
        refused(fleet, verb, "web", code=2, says="did you mean restart?")
    fleet.run("status", "web.yaml")
    path.write_text(good.replace("name: web", "name: other"))
    for verb in ("restart", "start"):
        refused(fleet, verb, "web", code=3, says="declares web no more")
    assert (fleet.status("web")["phase"], fleet.status("web")["pid"]) == ("running", pid)
    path.unlink()
    fleet.run("restart", "web")
    assert fleet.status("web")["pid"] != pid


def test_diff_and_apply_tell_what_is_new_changed_and_gone_and_prune_only_where_asked(fleet: Fleet) -> None:
    folder = fleet.home.work / "team"
    folder.mkdir()
    for name in ("one", "two", "three"):
        Path(fleet.shell(name, FOREVER)).rename(folder / f"{name}.yaml")
    refused(fleet, "diff", "team", code=69, says="`fleet start` starts it")
    fleet.run("apply", "team")
    fleet.run("diff", "team", code=0)
    before = {name: a["pid"] for name, a in fleet.all().items()}
    (folder / "one.yaml").write_text((folder / "one.yaml").read_text().replace("name: one", "name: uno"))
    changed = (folder / "two.yaml").read_text().replace("spec:", "spec:\n  env: {A: b}")
    (folder / "two.yaml").write_text(changed)
    told = {c["name"]: c["change"] for c in fleet.json("diff", "team", code=1)["changes"]}
    assert told == {"one": "gone", "three": "same", "two": "changed", "uno": "new"}
    fleet.run("apply", "team")
    after = fleet.all()
    assert (after["one"]["pid"], after["three"]["pid"]) == (before["one"], before["three"])
    assert after["two"]["pid"] != before["two"]
    assert after["uno"]["phase"] == "running"
    fleet.run("diff", "team", code=1)
    fleet.run("apply", "team", "--prune")
    assert sorted(fleet.all()) == ["three", "two", "uno"]
    assert not alive(before["one"])
    fleet.run("diff", "team", code=0)


# -- what a launch needs --------------------------------------------------------------------------------------------


def test_what_a_launch_lacks_is_named_with_its_remedy_and_nothing_is_launched(fleet: Fleet) -> None:
    work = fleet.home.work
    (work / "script").write_text("#!/bin/sh\n")
    ran = work / "ran"
    for name, spec, says in (
        ("no-program", {"command": ["no-such-program"]}, "no-such-program is not on the agent's PATH. install it"),
        ("no-bit", {"command": ["./script"], "workdir": "."}, "chmod +x"),
        ("a-folder", {"command": [str(work)]}, "is no file"),
        ("no-folder", {"command": ["sh"], "workdir": "gone"}, "Make it, or name another"),
        ("hook", {"hooks": {"pre_start": [{"sh": "echo because >&2; exit 3"}]}}, "ended with 3: because"),
        ("slow-hook", {"hooks": {"pre_start": [{"sh": "sleep 100", "timeout": 0.5}]}}, "not done within 0.5 s"),
        ("lost-hook", {"hooks": {"pre_start": [["no-such-hook"]]}}, "no-such-hook cannot be run"),
    ):
        whole = {"harness": "shell", "command": ["sh", "-c", f"touch {ran}; {FOREVER}"], **spec}
        told = fleet.json("start", fleet.manifest(name, **whole), code=1)["agents"][0]
        assert (told["outcome"], told["reason"]) == ("failed", "LaunchError"), told
        assert says in told["message"], told
    assert not ran.exists()
    assert {a["phase"] for a in fleet.all().values()} == {"failed"}
    os.mkfifo(work / "pipe")
    for source, says in (
        ({"env": "NOT_SET"}, "env.A: the variable NOT_SET is not set"),
        ({"file": "gone"}, "env.A: there is no file"),
        ({"file": "pipe"}, "env.A: "),
        ({"command": ["sh", "-c", "echo locked >&2; exit 3"]}, "env.A: its command ended with 3: locked"),
        ({"command": ["no-such-vault"]}, "env.A: no-such-vault cannot be run"),
        ({"command": ["printf", "a\\000b"]}, "env.A: it holds a zero byte"),
    ):
        refused(fleet, "start", fleet.shell("secret", FOREVER, env={"A": source}), code=1, says=says)
    assert "secret" not in fleet.all()


def test_a_working_folder_that_vanished_parks_the_agent_until_it_is_back(fleet: Fleet) -> None:
    folder = fleet.home.work / "project"
    folder.mkdir()
    fleet.run("start", fleet.shell("web", FOREVER, workdir="project"))
    folder.rmdir()
    kill(fleet.status("web")["pid"])
    status = fleet.wait("web", phase="failed")
    assert str(folder) in status["message"]
    folder.mkdir()
    fleet.run("restart", "web")
    assert fleet.status("web")["phase"] == "running"


# -- the daemon's own things ----------------------------------------------------------------------------------------


def test_what_stands_in_the_daemons_way_is_told_at_once_and_agents_are_untouched(fleet: Fleet) -> None:
    path = fleet.shell("web", FOREVER)
    control(fleet).parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(control(fleet)))  # a stale socket: nobody listens there any more
    refused(fleet, "status", code=69, says="daemon is not running")
    fleet.run("start", path)
    pid = fleet.status("web")["pid"]
    fleet.run("daemon", "stop")

    control(fleet).mkdir()
    refused(fleet, "start", "web", code=69, says="stands where the daemon's socket belongs")
    control(fleet).rmdir()

    config = fleet.home.path / "fleet" / "config.yaml"
    for text, says in ((b"observe_intervall: 1\n", "did you mean observe_interval?"), (b"\xff\n", "cannot be read")):
        config.write_bytes(text)
        refused(fleet, "start", "web", code=2, says=says)
        refused(fleet, "daemon", "run", code=2, says="config.yaml:1:1")
    config.unlink()

    database = state(fleet) / "fleet.db"
    kept = database.read_bytes()
    database.write_bytes(b"no database " * 1000)
    refused(fleet, "start", "web", code=69, says="is damaged")
    assert database.read_bytes() == b"no database " * 1000
    database.write_bytes(kept)
    with sqlite3.connect(database) as db:
        db.execute("UPDATE schema_version SET version = version + 100")
    db.close()
    refused(fleet, "start", "web", code=69, says="newer")
    database.write_bytes(kept)
    for name in ("fleet.db-wal", "fleet.db-shm"):
        (state(fleet) / name).unlink(missing_ok=True)

    assert alive(pid)
    fleet.run("start", "web")
    assert (fleet.status("web")["pid"], fleet.status("web")["restarts"]) == (pid, 0)


@pytest.mark.skipif(
    os.getuid() != 0, reason="only root can give a socket to another user; run the tests as root to see it"
)
def test_another_users_socket_is_not_spoken_to(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    fleet.run("daemon", "stop")
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(control(fleet)))
        foreign.listen()
        os.chown(control(fleet), 12345, 12345)
        refused(fleet, "status", code=1, says="belongs to another user (uid 12345)")
        control(fleet).unlink()
    os.chown(control(fleet).parent, 12345, 12345)
    refused(fleet, "start", "web", code=69, says="belongs to another user (uid 12345)")
    os.chown(control(fleet).parent, os.getuid(), os.getgid())
    fleet.run("start", "web")


def test_a_socket_that_somebody_removed_is_made_again(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    daemon = fleet.daemon_pid()
    control(fleet).unlink()
    fleet.answers_again()
    assert fleet.daemon_pid() == daemon


def test_garbage_on_the_socket_and_clients_that_hang_up_cost_nobody_else_anything(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    deep = b"[" * 100_000 + b"\n"
    long = b'{"verb": "' + b"x" * (17 << 20) + b'"}\n'
    for line in (b"garbage\n", b"\xff\x00\n", b"[1]\n", b"{}\n", b'{"verb": "__init__"}\n', deep):
        assert b'{"error":{"code":"bad_request"' in say(fleet, line), line[:40]
    assert b'"data"' not in say(fleet, long)
    for line in (b'{"verb": "status", "args": 5}\n', b'{"verb": "start", "args": {"targets": ["\\u0000/x"]}}\n'):
        assert b'{"error":{"code":"bad_request"' in say(fleet, line), line
    for line in (
        b'{"verb": "sta',
        b"",
        b'{"verb": "wait", "args": {"target": "web", "for": "failed", "timeout": 60}}\n',
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(control(fleet)))
            client.sendall(line)
    with ThreadPoolExecutor(40) as pool:
        codes = set(pool.map(lambda _: fleet.home.fleet("status", "--json").returncode, range(80)))
    assert codes == {0}
    assert fleet.json("status")["agents"][0]["phase"] == "running"


def say(fleet: Fleet, line: bytes) -> bytes:
    """What the daemon answers to a line."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(control(fleet)))
        heard = b""
        with suppress(ConnectionError):  # it need not listen to the end of what it refuses
            client.sendall(line)
            while more := client.recv(65536):
                heard += more
    return heard


# -- places ---------------------------------------------------------------------------------------------------------


def test_odd_homes_work_and_impossible_ones_are_told(fleet: Fleet) -> None:
    path = fleet.shell("web", FOREVER)
    deep = fleet.home.path / "/".join(["a-very-deep-folder"] * 8)
    odd = fleet.home.path / 'it\'s "odd" $(touch pwned); ünï'
    for where in (deep, odd):
        env = {"FLEET_HOME": str(where)}
        try:
            told = fleet.home.fleet("start", path, "--json", env=env)
            assert told.returncode == 0, told.stderr
            agent = json.loads(fleet.home.fleet("status", "web", "--json", env=env).stdout)["data"]
            assert (agent["phase"], alive(agent["pid"])) == ("running", True)
        finally:
            assert fleet.home.fleet("shutdown", env=env).returncode == 0
        assert not alive(agent["pid"])
    assert list(fleet.home.path.glob("**/pwned")) == []
    for where in ("/dev/null/x", path, "/proc/nowhere"):
        refused(fleet, "start", path, code=1, says="cannot be written", env={"FLEET_HOME": where})
        refused(fleet, "status", code=69, says="not running", env={"FLEET_HOME": where})


def test_home_may_be_unset_empty_or_read_only(fleet: Fleet) -> None:
    path = fleet.shell("web", FOREVER)
    env = {name: value for name, value in fleet.home.env.items() if name != "HOME"}
    for extra in ({}, {"HOME": ""}, {"HOME": "/proc"}):
        done = subprocess.run(
            [*fleet_argv(), "start", path], env={**env, **extra}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        fleet.run("shutdown")


@contextmanager
def small_disk(folder: Path, size: str = "4m", options: str = "") -> Iterator[None]:
    """A disk of its own that is soon full; only root can have one."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder.mkdir()
    if libc.mount(b"none", bytes(folder), b"tmpfs", 0, f"size={size}{options}".encode()) != 0:
        pytest.skip("a disk of its own cannot be mounted here: it needs root and CAP_SYS_ADMIN (run the tests as root)")
    try:
        yield
    finally:
        until(lambda: libc.umount(bytes(folder)) == 0, "nothing is open on the disk any more")


def fill(ballast: Path) -> None:
    try:
        with ballast.open("ab", buffering=0) as out:
            while True:
                out.write(b"x" * 4096)
    except OSError:
        return


def test_on_a_full_disk_nothing_is_lost_and_it_goes_on_once_there_is_space(fleet: Fleet) -> None:
    disk = fleet.home.path / "disk"
    ballast = disk / "ballast"
    with small_disk(disk):
        fleet.home.env["FLEET_HOME"] = str(disk / "fleet")
        try:
            fleet.run("start", fleet.shell("stops", FOREVER), fleet.shell("dies", FOREVER))
            stops, dies = fleet.status("stops")["pid"], fleet.status("dies")["pid"]
            fill(ballast)
            refused(fleet, "start", fleet.shell("late", FOREVER), code=1, says="The disk is full")
            said = [fleet.home.fleet("send", "#general", f"number {n}", "--json") for n in range(3)]
            accepted = [json.loads(one.stdout)["data"]["id"] for one in said if one.returncode == 0]
            assert all("disk is full" in one.stdout for one in said if one.returncode), said
            stopped = fleet.home.fleet("stop", "stops", "--timeout", "40")
            assert stopped.returncode == 4, stopped.stdout
            assert "It goes on once it can be written down: The disk is full" in stopped.stderr
            kill(dies)
            warned = fleet.home.fleet("status").stderr
            assert "Nothing can be written down" in warned, warned
            assert alive(stops)
            ballast.unlink()
            assert {fleet.json("receipt", id)["id"] for id in accepted} == set(accepted), "what was accepted is there"
            fleet.wait("stops", phase="stopped")
            assert fleet.wait("dies", phase="running", restarts=1)["pid"] != dies
            fleet.run("start", fleet.shell("late", FOREVER))
            fill(ballast)
            pid = fleet.status("late")["pid"]
            fleet.home.fleet("daemon", "restart")
            ballast.unlink()
            fleet.run("start", "late")
            assert fleet.status("late")["pid"] == pid
            fill(ballast)
            down = fleet.home.fleet("shutdown")
            assert (down.returncode, alive(pid)) == (5, False), down.stderr
            assert "It is not written down that the fleet is down" in down.stderr
            ballast.unlink()
            fleet.run("start", "late")
        finally:
            ballast.unlink(missing_ok=True)
            fleet.run("shutdown")
            fleet.home.env["FLEET_HOME"] = str(fleet.home.path / "fleet")


def test_a_state_folder_that_cannot_be_written_is_named(fleet: Fleet) -> None:
    disk = fleet.home.path / "disk"
    with small_disk(disk):
        path = fleet.shell("web", FOREVER)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mount(b"none", bytes(disk), b"tmpfs", 0x20 | 1, b"") == 0  # MS_REMOUNT | MS_RDONLY
        env = {"FLEET_HOME": str(disk / "fleet")}
        refused(fleet, "start", path, code=1, says=f"{disk}/fleet/state cannot be written: Read-only", env=env)
        refused(fleet, "daemon", "run", code=1, says="FLEET_HOME names another place", env=env)


# -- what agents and people do to the pane --------------------------------------------------------------------------


def test_whatever_an_agent_prints_is_shown_and_breaks_nothing(fleet: Fleet) -> None:
    noise = (
        r"printf 'grün ✻ 日本\n\033]0;title\007\033[31mred \377\376 \033P+q\033\\ \033[?1049h\n'; "
        r"head -c 10000000 /dev/urandom; printf '\030\033\\\033c\nthe end\n'; "
    )
    fleet.run("start", fleet.shell("web", FOREVER), fleet.shell("noisy", noise + FOREVER))
    until(lambda: "the end" in (fleet.json("logs", "noisy")["screen"] or ""), "its last words are on the screen")
    plain = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for words in (["status"], ["status", "noisy"], ["logs", "noisy"], ["explain", "noisy"], ["events"]):
        for env in ({}, plain):
            done = subprocess.run(
                [*fleet_argv(), *words], env={**fleet.home.env, **env}, capture_output=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert b"\x1b" not in done.stdout, done.stdout
    assert {a["phase"] for a in fleet.all().values()} == {"running"}


def test_an_agents_own_tmux_kill_server_reaches_nobody_and_its_marks_are_not_inherited(fleet: Fleet) -> None:
    work = fleet.home.work
    inner = fleet.shell("inner", f"env > {work}/env; {FOREVER}", env_inherit="all")
    script = f"tmux kill-server; tmux kill-session; {fleet_argv()[0]} start {inner} >{work}/told 2>&1; {FOREVER}"
    outer = fleet.shell("outer", script, env={"CLAUDE_PID": "1"})
    fleet.run("start", fleet.shell("other", FOREVER))
    fleet.run("start", outer)
    fleet.wait("inner", phase="running") if until(
        lambda: "inner" in fleet.all(), "it was started from inside"
    ) else None
    seen = dict(line.partition("=")[::2] for line in (work / "env").read_text().splitlines() if "=" in line)
    assert (seen["FLEET_AGENT"], seen["FLEET_HOME"]) == ("inner", fleet.home.env["FLEET_HOME"])
    assert seen["FLEET_GENERATION"].startswith("inner.")
    assert "CLAUDE_PID" not in seen
    assert seen["TMUX"].split(",")[0] != fleet.status("other")["pane"]["socket"]
    assert {a["phase"] for a in fleet.all().values()} == {"running"}
    assert {a["restarts"] for a in fleet.all().values()} == {0}


def test_attaching_from_a_small_terminal_leaves_with_ctrl_b_d_and_the_pane_is_as_before(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", "read line; echo heard $line; " + FOREVER))
    size = "#{pane_width}x#{pane_height}"
    before = fleet.tmux("web", "display-message", "-p", size)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(fleet_argv()[0], [*fleet_argv(), "attach", "web"], {**fleet.home.env, "TERM": "xterm", "LINES": "9"})
    try:
        clients = lambda: fleet.tmux("web", "list-clients", "-F", "#{client_control_mode}").split().count("0")  # noqa: E731
        until(lambda: drained(terminal) and clients() == 1, "a person is in the pane")
        os.write(terminal, b"hello\r")
        until(lambda: drained(terminal) and "heard hello" in fleet.screen("web"), "the person is heard")
        os.write(terminal, b"\x02d")
        until(lambda: drained(terminal) and os.waitpid(pid, os.WNOHANG)[0] == pid, "the person has left")
    finally:
        os.close(terminal)
    assert fleet.tmux("web", "display-message", "-p", size) == before
    assert (fleet.status("web")["phase"], fleet.status("web")["restarts"]) == ("running", 0)


def drained(terminal: int) -> bool:
    """Take what stands in the terminal, so that nobody waits to write to it."""
    while select.select([terminal], [], [], 0)[0]:
        try:
            if not os.read(terminal, 65536):
                break
        except OSError:  # its other end is closed
            break
    return True


# -- leaving in the middle ------------------------------------------------------------------------------------------


def test_ctrl_c_in_a_start_leaves_the_start_to_the_daemon_and_says_so(fleet: Fleet) -> None:
    gate = fleet.home.work / "gate"
    probe = {"timeout": 60, "probe": {"sh": f"test -e {gate}"}}
    argv = [*fleet_argv(), "start", fleet.shell("web", FOREVER, startup=probe)]
    with subprocess.Popen(argv, env=fleet.home.env, stderr=subprocess.PIPE, text=True) as start:
        until(lambda: fleet.home.fleet("status", "web").returncode == 0, "it is on its way")
        fleet.wait("web", phase="starting")
        start.send_signal(signal.SIGINT)
        said = start.communicate()[1]
    assert start.returncode == 130
    assert "goes on in the daemon" in said
    assert "Traceback" not in said
    gate.touch()
    assert fleet.wait("web", phase="running")["restarts"] == 0


def test_a_cleanup_that_only_looks_changes_nothing(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", FOREVER))
    for _ in range(2):
        fleet.run("restart", "web")
    folders = state(fleet) / "agents" / "web" / "launch"
    before = sorted(folders.iterdir())
    would = fleet.json("cleanup", "--dry-run")["removed"]
    assert len(would) >= 1
    assert sorted(folders.iterdir()) == before
    assert fleet.json("cleanup")["removed"] == would
    assert fleet.launch_folder("web").is_dir()
    assert fleet.status("web")["phase"] == "running"


def test_a_shutdown_leaves_no_process_no_socket_and_no_tmux_server(fleet: Fleet) -> None:
    stubborn = "trap '' HUP TERM; setsid sleep 1000 & "
    fleet.run("start", fleet.shell("web", FOREVER), fleet.shell("api", stubborn + FOREVER, stop={"timeout": 1}))
    kill(fleet.status("web")["pid"])
    fleet.wait("web", phase="running", restarts=1)
    keeper = fleet.keeper_pid()
    fleet.run("shutdown")
    until(lambda: keeper is not None and not alive(keeper), "the keeper has ended")
    until(lambda: not commands_left(fleet.home.path), f"nothing lives any more: {commands_left(fleet.home.path)}")
    assert list((fleet.home.path / "fleet" / "run").iterdir()) == []
    time_of_log = (state(fleet) / "daemon.log").stat().st_mtime
    assert time_of_log <= time.time()
