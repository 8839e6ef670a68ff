"""The command line: what it asks, what it prints where, and how it ends."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import termios
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from fleet.cli import app, ondemand, output, reads, reference
from fleet.errors import NoDaemon
from tests.unit.cli_fixtures import Shell, daemon, fleet, place
from tests.unit.scripted_daemon import ScriptedDaemon, scripted_daemon

__all__ = ["daemon", "fleet", "place"]

WEB: dict[str, Any] = {
    "name": "web",
    "harness": "claude-code",
    "runtime": "local",
    "phase": "running",
    "activity": "needs_input",
    "kind": "permission",
    "question": "Run rm -rf build?",
    "pid": 4711,
    "restarts": 2,
    "since": 1000.0,
    "activity_since": 2000.0,
    "labels": {"role": "worker"},
    "capabilities": ["python"],
    "freshness": "live",
    "age_s": 0.2,
}
DB: dict[str, Any] = {
    **WEB,
    "name": "db",
    "phase": "failed",
    "activity": None,
    "kind": None,
    "question": None,
    "pid": None,
}
DB |= {"reason": "CrashLoop", "message": "5 deaths within 900 s"}

AS_A_PROGRAM = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(Path(app.__file__).parents[2])!r}); "
    "from fleet.cli import main; sys.exit(main())",
)


# -- reads: the short way ------------------------------------------------------------------------------------------

ASKED = [
    ["status"],
    ["status", "web", "db"],
    ["status", "web"],
    ["status", "-l", "role=worker", "--label", "a=b=c"],
    ["status", "--label=role=worker", "web"],
    ["status", "."],
    ["inspect", "web"],
    ["list"],
    ["list", "--capability", "python", "--machine=here", "-l", "a=b"],
    ["explain", "web"],
    ["health"],
    ["health", "web", "db"],
    ["events"],
    ["events", "web"],
    ["events", "--agent", "web", "--type", "hook", "--after", "7", "-n", "3"],
    ["events", "--limit=3"],
    ["logs", "web"],
    ["logs", "web", "-n", "5"],
    ["logs", "--lines=0", "web"],
    ["diff"],
    ["diff", "."],
    ["daemon", "status"],
]


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
def test_the_short_way_asks_what_click_asks(
    fleet: Shell, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    for verb in (*reads.READS, "ping"):
        daemon.will(verb, {"agents": [], "events": [], "changes": [], "lines": [], "name": "web"})
    assert reads.understand([*words, "--json"]) is not None
    assert fleet(*words, "--json").code == 0
    monkeypatch.setattr(reads, "understand", lambda words: None)
    assert fleet(*words, "--json").code == 0
    short, long = daemon.heard
    assert short == long


@pytest.mark.parametrize(
    "words",
    [["status"], ["status", "-l", "a=b"], ["status", "web", "db"], ["list"], ["list", "--capability", "x"], ["health"]],
    ids=" ".join,
)
@pytest.mark.parametrize("agents", [True, False], ids=["some", "none"])
def test_the_short_way_to_a_table_asks_and_shows_what_click_does(
    fleet: Shell, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch, words: list[str], agents: bool
) -> None:
    for verb in ("status", "list", "health"):
        daemon.will(verb, {"agents": [WEB, DB] if agents else []}, exit_code=1, warnings=["x"], version="0.0.1")
    short = fleet(*words)
    monkeypatch.setattr(reads, "understand", lambda words: None)
    assert fleet(*words) == short
    assert daemon.heard[0] == daemon.heard[1]
    assert ("NAME" in short.out) is agents
    assert "the daemon is 0.0.1" in short.err


@pytest.mark.parametrize("words", ["status", "list", "health", "status -l a=b"])
def test_a_table_of_agents_is_shown_without_click(place: Path, words: str) -> None:
    script = f"import sys; sys.argv = ['fleet', *{words.split()}]; from fleet.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; print({{'click', 'rich'}} & sys.modules.keys())"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ("daemon is not running" in done.stderr, done.stdout) == (True, "set()\n")


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
def test_json_is_the_daemons_own_text(fleet: Shell, daemon: ScriptedDaemon, words: list[str]) -> None:
    sent = {verb: daemon.will(verb, {"agents": ["ü"]}, exit_code=5) for verb in (*reads.READS, "ping")}
    ran = fleet(*words, "--json")
    assert ran.out == sent[daemon.heard[-1]["verb"]].decode() + "\n"
    assert (ran.err, ran.code) == ("", 5)


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--help", "--json"],
        ["status", "--watch", "--json"],
        ["status", "--bogus", "--json"],
        ["status", "-l", "nolabel", "--json"],
        ["status", "-l", "--json"],
        ["events", "-f", "--json"],
        ["events", "-n", "many", "--json"],
        ["events", "web", "--agent", "db", "--json"],
        ["explain", "--screen", "file", "--json"],
        ["inspect", "--json"],
        ["inspect", "a", "b", "--json"],
        ["list", "--capability", "--json"],
        ["start", "web", "--json"],
        ["--json"],
    ],
    ids=" ".join,
)
def test_the_short_way_leaves_what_it_does_not_know_to_click(words: list[str]) -> None:
    assert reads.understand(words) is None


# -- errors --------------------------------------------------------------------------------------------------------


def test_without_a_daemon_a_read_ends_with_69_and_says_what_to_do(fleet: Shell) -> None:
    ran = fleet("status")
    assert (ran.code, ran.out) == (69, "")
    assert "fleet start" in ran.err
    ran = fleet("status", "--json")
    assert (ran.code, ran.err) == (69, "")
    assert json.loads(ran.out)["error"]["code"] == "no_daemon"


@pytest.mark.parametrize("words", [["inspect", "wbe"], ["explain", "wbe"], ["stop", "wbe"]], ids=" ".join)
def test_an_unknown_name_ends_with_3_and_the_nearest_one(
    fleet: Shell, daemon: ScriptedDaemon, words: list[str]
) -> None:
    daemon.will_refuse(words[0], "unknown_agent", "No agent is named 'wbe'.", exit_code=3, hint="Did you mean web?")
    ran = fleet(*words)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err == "fleet: No agent is named 'wbe'.\n  Did you mean web?\n"
    ran = fleet(*words, "--json")
    assert json.loads(ran.out)["error"]["hint"] == "Did you mean web?"
    assert (ran.code, ran.err) == (3, "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["statsu"], "Did you mean `fleet status`?"),
        (["xyzzy"], "`fleet --help` lists the commands."),
        (["stop"], "-l LABEL=VALUE or --all"),
        (["stop", "web", "--all"], "Leave out"),
        (["stop", "--al"], "--all"),
        (["start", "-l", "role"], "NAME=VALUE"),
        (["wait", "web"], "--for"),
        (["wait", "web", "--for", "lunch"], "needs_input"),
        (["wait", "web", "--for", "ready", "--timeout", "0"], "--timeout"),
        (["explain"], "fleet explain NAME"),
        (["explain", "--title", "x", "web"], "--screen"),
        (["events", "web", "--agent", "db"], "twice"),
        (["status", "--format", "seed"], "Name it"),
        (["diff", "nowhere/"], "nowhere/"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_words_ends_with_2_and_the_way_out(
    fleet: Shell, daemon: ScriptedDaemon, words: list[str], told: str
) -> None:
    ran = fleet(*words)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert "Traceback" not in ran.err
    ran = fleet(*words, "--json")
    assert (ran.code, ran.err) == (2, "")
    assert json.loads(ran.out)["error"]["code"] == "usage"
    assert daemon.heard == []


def test_every_problem_of_a_manifest_is_printed_with_its_place(fleet: Shell, daemon: ScriptedDaemon) -> None:
    problem = {"file": "/m/web.yaml", "line": 3, "column": 7, "path": "spec.restrat", "message": "unknown key"}
    error = {"code": "invalid_manifest", "message": "1 problem.", "hint": None, "problems": [problem]}
    body = json.dumps({"error": error}).encode()
    daemon.will_send("diff", b"=2 %d\n%s\n" % (len(body), body))
    ran = fleet("diff")
    assert ran.code == 2
    assert ran.err.startswith("/m/web.yaml:3:7: spec.restrat: unknown key\n")


def test_a_daemon_of_another_version_is_told_once_and_on_stderr(fleet: Shell, daemon: ScriptedDaemon) -> None:
    daemon.will("status", {"agents": []}, version="0.0.1")
    for words in (["status"], ["status", "--json"]):
        ran = fleet(*words)
        assert ran.err.count("0.0.1") == 1
        assert "0.0.1" not in ran.out


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["--help"]], ids=" ".join)
def test_a_reader_that_has_heard_enough_is_no_error(daemon: ScriptedDaemon, words: list[str]) -> None:
    daemon.will("status", {"agents": [WEB] * 2000})
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = subprocess.run([*AS_A_PROGRAM, *words], stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["--help"]], ids=" ".join)
def test_a_full_disk_below_the_answer_is_told_in_a_line(daemon: ScriptedDaemon, words: list[str]) -> None:
    daemon.will("status", {"agents": [WEB] * 2000})
    with open("/dev/full", "wb") as full:
        ran = subprocess.run([*AS_A_PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == "fleet: The answer could not be written: No space left on device.\n"


@pytest.mark.parametrize("words", [["init", "web"], ["hooks", "install"], ["start", "web"]], ids=" ".join)
def test_a_home_that_is_a_file_is_told_by_its_name(
    fleet: Shell, place: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    (place / "file").write_text("")
    monkeypatch.setenv("FLEET_HOME", str(place / "file"))
    ran = fleet(*words)
    assert ran.code == 1
    assert str(place / "file") in ran.err
    assert re.search("Not a directory|File exists", ran.err)
    assert json.loads(fleet(*words, "--json").out)["error"]["code"] == "not_allowed"


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["--help"], ["nosuch"]], ids=" ".join)
def test_closed_standard_streams_change_nothing_else(daemon: ScriptedDaemon, words: list[str]) -> None:
    daemon.will("status", {"agents": [WEB]})
    script = "exec 0<&- 1>&- 2>&-; " + shlex.join([*AS_A_PROGRAM, *words])
    ran = subprocess.run(["/bin/sh", "-c", script], check=False)
    assert ran.returncode == (2 if words == ["nosuch"] else 0)


# -- what people see -----------------------------------------------------------------------------------------------


def test_the_table_says_who_needs_a_person_and_for_what(fleet: Shell, daemon: ScriptedDaemon) -> None:
    daemon.will("status", {"agents": [WEB, DB]})
    headings, web, db = fleet("status").out.splitlines()
    assert headings.split() == ["NAME", "PHASE", "ACTIVITY", "SINCE", "RESTARTS", "PID", "DETAIL"]
    assert web.split()[:4] == ["web", "running", "needs_input", "(permission)"]
    assert web.endswith("Run rm -rf build?")
    assert db.endswith("CrashLoop: 5 deaths within 900 s")


def test_the_table_says_when_an_agent_comes_back_and_why_it_went(fleet: Shell, daemon: ScriptedDaemon) -> None:
    gone = {**DB, "phase": "backoff", "reason": "Crashed", "message": "It exited with status 3."}
    daemon.will("status", {"agents": [{**gone, "next_restart_at": time.time() + 100}]})
    assert "Crashed: It exited with status 3. · restarts in 1m 3" in fleet("status").out


def test_the_table_says_until_when_an_agent_is_held_and_how_old_its_state_is(
    fleet: Shell, daemon: ScriptedDaemon
) -> None:
    held = {**WEB, "activity": "limited", "kind": None, "question": None, "resets_at": time.time() + 3600}
    daemon.will("status", {"agents": [{**held, "freshness": "critical", "age_s": 90}]})
    assert re.search(r"limited .* until \d\d:\d\d:\d\d · seen 1m 30s ago$", fleet("status").out, re.M)


def test_plain_output_has_no_escape_sequence_and_loads_no_rich(
    fleet: Shell, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)  # importing it would fail
    daemon.will("status", {"agents": [WEB]})
    assert "\x1b" not in fleet("status").out


def test_a_terminal_gets_colours_unless_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name, value, wanted in (("TERM", "xterm", True), ("NO_COLOR", "1", False), ("TERM", "dumb", False)):
        with monkeypatch.context() as within:
            within.delenv("NO_COLOR", raising=False)
            within.setenv("TERM", "xterm")
            within.setenv(name, value)
            within.setattr(sys, "stdout", Terminal())
            assert output.colours() is wanted
            output.table(["NAME", "STATE"], [["web", ("error", "bold red")]])
            told = sys.stdout.getvalue()  # type: ignore[attr-defined]
            assert ("\x1b[" in told) is wanted
            assert "web" in told


def test_a_table_in_colours_says_the_same_and_is_folded_at_the_terminals_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)  # importing it would cost more than all the rest
    monkeypatch.setenv("COLUMNS", "44")
    rows: list[list[output.Cell]] = [
        ["web", ("error", "bold red"), "a word and more words than fit beside it"],
        ["db", "-", "-"],
    ]
    told = output.styled_table(["NAME", "STATE", "DETAIL"], rows)
    assert told[1].startswith("web   \x1b[1;31merror\x1b[0m  a word")
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in told]
    assert max(map(len, bare)) <= 44
    assert len(bare) == 4
    assert " ".join(" ".join(bare).split()) == " ".join(
        " ".join(output.plain_table(["NAME", "STATE", "DETAIL"], rows)).split()
    )


def test_an_agents_name_is_not_said_twice_and_a_launch_that_never_began_has_no_logs_to_look_at(
    fleet: Shell, daemon: ScriptedDaemon
) -> None:
    daemon.will("ping", {})
    refused = {
        "name": "web",
        "phase": "failed",
        "outcome": "failed",
        "reason": "LaunchError",
        "message": "web: no claude.",
    }
    news = {"agent": "web", "phase": "failed", "message": "web: no claude."}
    daemon.will("start", {"agents": [refused]}, exit_code=1, progress=[news])
    ran = fleet("start", "web")
    assert ran.err.splitlines() == ["fleet: web: failed: no claude."]
    assert ran.out.endswith("LaunchError: no claude.\n")


def test_apply_shows_what_became_of_who_was_started_though_its_manifest_is_the_same(
    fleet: Shell, daemon: ScriptedDaemon
) -> None:
    daemon.will("ping", {})
    same = {"change": "same", "fields": [], "restart": False}
    changes = [{"name": "web", "outcome": "started", **same}, {"name": "db", "outcome": "same", **same}]
    failed = {"name": "web", "phase": "failed", "outcome": "failed", "reason": "CrashLoop", "message": "5 deaths"}
    daemon.will("apply", {"changes": changes, "agents": [failed]}, exit_code=1)
    ran = fleet("apply")
    assert "web   same    started" in ran.out
    assert "db" not in ran.out
    assert "CrashLoop: 5 deaths" in ran.out
    assert "no differences" not in ran.err
    daemon.will("diff", {"changes": [{"name": "db", **same}]})
    assert "no differences: 1 agent as declared" in fleet("diff").err


def test_where_a_terminal_is_narrow_the_last_column_stands_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows: list[list[output.Cell]] = [
        ["reviewer-of-web", "needs_input", "Run rm -rf build in the folder?"],
        ["db", "ready", "-"],
    ]
    told = output.styled_table(["NAME", "STATE", "DETAIL"], rows)
    assert told[1:] == ["reviewer-of-web  needs_input", "    Run rm -rf build in the folder?", "db               ready"]


@pytest.mark.parametrize(
    ("kind", "payload", "line"),
    [
        (
            "phase",
            {"from": "running", "to": "x", "reason": "Crashed", "message": "Back soon.", "due": None},
            "Crashed: Back soon.",
        ),
        ("phase", {"from": "starting", "to": "x", "reason": None, "message": None}, "x"),
        ("phase", {"message": "db is failed, not started"}, '{"message": "db is failed, not started"}'),
        (
            "activity",
            {"from": "a", "to": "x", "question": "Run it?", "source": "screen", "evidence": None},
            "Run it? · screen",
        ),
        ("exit", {"exit_status": 3, "after_s": 12.07}, "status 3, after 12s"),
        ("exit", {"exit_status": 0, "unseen": True}, "status 0, while nobody looked"),
        ("exit", {"exit_status": None}, "x"),
        ("launch", {"argv": ["sh", "-c", "a\n  b"], "cwd": "/"}, "sh -c 'a b'"),
        ("hook", {"tool_name": "Bash", "cwd": None}, '{"tool_name": "Bash"}'),
        ("hook", {}, "x"),
    ],
)
def test_an_event_is_one_line_in_words(
    fleet: Shell, daemon: ScriptedDaemon, kind: str, payload: dict[str, Any], line: str
) -> None:
    event = {"id": 1, "at": 1.0, "agent": "web", "type": kind, "name": "x", "payload": payload}
    daemon.will("events", {"events": [event]})
    (told,) = fleet("events").out.splitlines()
    assert told.endswith(line)


@pytest.mark.parametrize("evil", ["\x1b]0;gotcha\x07", "\x1b[2J", "[red]x[/red]", "\x9b31m"])
def test_what_an_agent_shows_cannot_steer_the_terminal(fleet: Shell, daemon: ScriptedDaemon, evil: str) -> None:
    daemon.will("status", {"agents": [{**WEB, "question": evil}]})
    daemon.will("logs", {"name": "web", "lines": [evil], "screen": None})
    daemon.will("inspect", {**WEB, "question": evil})
    for words in (["status"], ["logs", "web"], ["inspect", "web"]):
        out = fleet(*words).out
        assert not any(ord(c) < 32 and c != "\n" for c in out)
        assert not any(127 <= ord(c) < 160 for c in out)
    assert "[red]x[/red]" in out or "red" not in evil


def test_nothing_to_show_is_a_word_on_stderr_and_an_empty_stdout(fleet: Shell, daemon: ScriptedDaemon) -> None:
    daemon.will("status", {"agents": []})
    ran = fleet("status")
    assert ran.out == ""
    assert "fleet start" in ran.err


def test_warnings_go_to_stderr(fleet: Shell, daemon: ScriptedDaemon) -> None:
    daemon.will("status", {"agents": [WEB]}, warnings=["The multiplexer could not be read."])
    assert "warning: The multiplexer could not be read." in fleet("status").err


def test_one_agent_is_shown_with_everything(fleet: Shell, daemon: ScriptedDaemon) -> None:
    pane = {"multiplexer": "tmux", "socket": "/run/t.sock", "target": "%7"}
    conditions = [{"type": "Ready", "status": "False", "reason": "NeedsInput", "message": "", "since": 5.0}]
    full = {**WEB, "pane": pane, "conditions": conditions, "options": ["Yes", "No"], "command": ["claude", "a b"]}
    daemon.will("inspect", full)
    out = fleet("status", "web").out
    for told in (
        "needs_input (permission)",
        "Run rm -rf build?",
        "Yes",
        "No",
        "/run/t.sock",
        "claude 'a b'",
        "NeedsInput",
    ):
        assert told in out


def test_explain_shows_each_source_and_those_that_are_silent(fleet: Shell, daemon: ScriptedDaemon) -> None:
    said = {"source": "screen", "activity": "working", "rule": "spinner", "evidence": "✻ Baking…", "age_s": 0.3}
    silent = {"source": "hook", "activity": None, "why": "has said nothing of this launch"}
    state = {"activity": "working", "proof": {"source": "screen", "rule": "spinner", "evidence": "✻ Baking…"}}
    daemon.will("explain", {"name": "web", "phase": "running", "state": state, "evidence": [said, silent]})
    out = fleet("explain", "web").out
    for told in ("spinner", "✻ Baking…", "has said nothing of this launch"):
        assert told in out


def test_logs_show_the_last_screen_where_no_line_was_kept(fleet: Shell, daemon: ScriptedDaemon) -> None:
    daemon.will("logs", {"name": "web", "lines": [], "screen": "panic: out of cheese\n\n"})
    assert fleet("logs", "web").out == "panic: out of cheese\n"


def test_the_seeds_status_is_flat_and_complete(fleet: Shell, daemon: ScriptedDaemon) -> None:
    hooks = {"tool_counts": {"Bash": 2}, "last_tool_at": 1.5, "last_tool_name": "Bash"}
    daemon.will("inspect", {**WEB, "source": "/m/web.yaml", "pane_state": "y_n_prompt", "hooks": hooks, "ppid": 7})
    flat = json.loads(fleet("status", "web", "--format", "seed").out)
    assert json.loads(fleet("inspect", "web", "--format", "seed").out) == flat
    assert len(flat) == 60
    assert flat["config"] == "/m/web.yaml"
    assert (flat["status"], flat["pane_state"], flat["ppid"]) == ("running", "y_n_prompt", 7)
    assert flat["last_tool_at"] == "1970-01-01T00:00:01.500000+00:00"
    assert flat["account_email"] is None


# -- acting --------------------------------------------------------------------------------------------------------


def test_start_tells_news_on_stderr_and_the_outcome_on_stdout(fleet: Shell, daemon: ScriptedDaemon) -> None:
    daemon.will("ping", {})
    news = {"agent": "web", "phase": "starting", "activity": "booting", "message": None}
    outcome = {"name": "web", "outcome": "dialog", "phase": "running", "activity": "needs_input", "message": "Trust?"}
    outcome["warnings"] = []  # type: ignore[assignment]
    daemon.will("start", {"agents": [outcome]}, exit_code=7, progress=[news])
    ran = fleet("start", "web.yaml", "--fresh", "--timeout", "5")
    assert ran.code == 7
    news_told, hint = ran.err.splitlines()
    assert news_told == "fleet: web: starting"
    assert "`fleet attach web`" in hint
    assert ran.out.splitlines()[1].split() == ["web", "dialog", "needs_input", "Trust?"]
    asked = daemon.asked("start")
    assert asked["targets"] == ["web.yaml"]
    assert (asked["fresh"], asked["wait"], asked["timeout"], asked["cwd"]) == (True, True, 5, str(Path.cwd()))
    assert asked["env"]["FLEET_HOME"] == os.environ["FLEET_HOME"]


def test_start_without_a_name_leaves_the_choice_to_the_daemon(fleet: Shell, daemon: ScriptedDaemon) -> None:
    daemon.will("ping", {})
    daemon.will("start", {"agents": []})
    assert fleet("start").code == 0
    asked = daemon.asked("start")
    assert (asked["targets"], asked["labels"], asked["all"]) == ([], {}, False)


@pytest.mark.parametrize("verb", ["stop", "restart", "reset"])
def test_acting_takes_names_labels_or_all(fleet: Shell, daemon: ScriptedDaemon, verb: str) -> None:
    daemon.will("ping", {})
    daemon.will(verb, {"agents": [{"name": "web", "outcome": "done", "phase": "stopped"}]})
    for words, asked in (
        (["web", "./db.yaml"], {"targets": ["web", "./db.yaml"], "labels": {}, "all": False}),
        (["-l", "role=worker"], {"targets": [], "labels": {"role": "worker"}, "all": False}),
        (["--all"], {"targets": [], "labels": {}, "all": True}),
    ):
        assert fleet(verb, *words).code == 0
        assert daemon.asked(verb).items() >= asked.items()


def test_wait_says_what_was_reached_or_ends_with_4(fleet: Shell, daemon: ScriptedDaemon) -> None:
    daemon.will("wait", {"name": "web", "reached": "ready", "phase": "running", "activity": "ready"})
    ran = fleet("wait", "web", "--for", "ready", "--timeout", "3")
    assert (ran.code, ran.out) == (0, "web: ready\n")
    asked = daemon.asked("wait")
    assert (asked["target"], asked["for"]) == ("web", "ready")
    assert 0 < asked["timeout"] <= 3


def test_wait_goes_on_when_the_daemon_is_restarted(fleet: Shell, daemon: ScriptedDaemon) -> None:
    daemon.will_send("wait", b"")  # it goes away
    daemon.will("wait", {"name": "web", "reached": "ready", "phase": "running", "activity": "ready"})
    assert fleet("wait", "web", "--for", "ready").code == 0
    assert len(daemon.heard) == 2


def test_wait_without_a_daemon_ends_at_once(fleet: Shell) -> None:
    assert fleet("wait", "web", "--for", "ready").code == 69


def test_wait_ends_with_4_when_it_was_not_reached_in_time(fleet: Shell, daemon: ScriptedDaemon) -> None:
    daemon.will_refuse("wait", "timed_out", "web was not ready within 3 s: it is failed.", exit_code=4)
    ran = fleet("wait", "web", "--for", "ready", "--timeout", "3")
    assert (ran.code, ran.out) == (4, "")


@pytest.mark.parametrize("verb", ["diff", "apply"])
def test_a_folder_of_manifests_is_named_in_full(fleet: Shell, daemon: ScriptedDaemon, verb: str) -> None:
    Path("agents").mkdir()
    daemon.will("ping", {})
    fields = [{"path": "model", "restart": True}, {"path": "labels.t", "restart": False}]
    change = {"name": "web", "change": "changed", "fields": fields, "restart": True, "outcome": "restarted"}
    daemon.will(verb, {"changes": [change, {"name": "db", "change": "same", "fields": []}]}, exit_code=1)
    ran = fleet(verb, "agents")
    assert daemon.asked(verb)["folder"] == str(Path("agents").absolute())
    assert ran.code == 1
    assert "model, labels.t · needs a restart · restarted" in ran.out
    assert "db" not in ran.out


@pytest.mark.parametrize("words", [["start", "web"], ["restart", "web"], ["apply"]], ids=" ".join)
def test_a_daemon_is_started_where_a_command_needs_one(
    fleet: Shell, place: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    class Gone(Exception):
        pass

    def spawn(places: object) -> object:
        raise Gone

    monkeypatch.setattr(ondemand, "_spawn_keeper", spawn)
    with pytest.raises(Gone):
        fleet(*words)


def test_no_daemon_is_started_for_a_manifest_that_is_not_valid(
    fleet: Shell, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ondemand, "_spawn_keeper", lambda places: pytest.fail("it was started"))
    Path("web.yaml").write_text("apiVersion: fleet/v1\nkind: Agent\nspec: {harnes: shell}\n")
    for name in ("web.yaml", "./none.yaml"):
        ran = fleet("start", name)
        assert ran.code == 2
        assert name.removeprefix("./") in ran.err


def test_while_another_command_starts_the_daemon_none_is_started(
    fleet: Shell, daemon: ScriptedDaemon, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ondemand, "_spawn_keeper", lambda places: pytest.fail("it was started"))
    monkeypatch.setenv("FLEET_DAEMON_START_TIMEOUT", "0.2")
    daemon.will("start", {"agents": []})
    comes_up = iter([False, False, False, True])
    (place / "state").mkdir(exist_ok=True)
    with (place / "state" / "starting.lock").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        monkeypatch.setattr(ondemand, "_answers", lambda: next(comes_up))
        assert fleet("start", "web").code == 0
        monkeypatch.setattr(ondemand, "_answers", lambda: False)
        ran = fleet("start", "web")
    assert ran.code == NoDaemon.exit_code
    assert "The daemon did not come up within 0.2 s." in ran.err


@pytest.mark.parametrize(
    "words", [["status"], ["stop", "--all"], ["reset", "web"], ["logs", "web"], ["shutdown"], ["cleanup"]], ids=" ".join
)
def test_no_daemon_is_started_where_there_is_nothing_for_it_to_do(
    fleet: Shell, place: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(ondemand, "_spawn_keeper", lambda places: pytest.fail("it was started"))
    assert fleet(*words).code == NoDaemon.exit_code


def test_a_daemon_carries_no_mark_of_the_agent_it_was_started_from(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FLEET_AGENT", "FLEET_GENERATION", "CLAUDE_PID", "TMUX", "ANTHROPIC_API_KEY", "EDITOR"):
        monkeypatch.setenv(name, "mark")
    monkeypatch.setenv("FLEET_OBSERVE_INTERVAL", "0.5")
    env = ondemand.bare_environment()
    assert "mark" not in env.values()
    assert env["FLEET_OBSERVE_INTERVAL"] == "0.5"
    assert env["FLEET_HOME"] == str(place)


# -- following -----------------------------------------------------------------------------------------------------


def test_following_goes_on_where_it_was_when_the_daemon_is_restarted(fleet: Shell, daemon: ScriptedDaemon) -> None:
    first, second = ({"event": {"id": n, "at": 1.0, "agent": "web", "type": "hook", "name": f"E{n}"}} for n in (7, 8))
    daemon.will_send("events", json.dumps(first).encode() + b"\n")  # and hangs up
    daemon.will("events", {"events": []}, progress=[first, second])
    ran = fleet("events", "-f", "--json")
    assert [json.loads(line)["id"] for line in ran.out.splitlines()] == [7, 8]
    assert {"after": 7, "follow": True}.items() <= daemon.asked("events").items()
    assert "waiting for it to come back" in ran.err


def test_following_without_a_daemon_ends_at_once(fleet: Shell) -> None:
    assert fleet("logs", "web", "-f").code == 69


def test_watching_without_a_terminal_prints_each_change_once(
    fleet: Shell, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = {**WEB, "activity": "working", "kind": None, "question": None}
    for agents in ([working], [{**working, "age_s": 3.0}], [WEB], []):
        daemon.will("status", {"agents": agents})
    daemon.will_refuse("status", "usage", "enough", exit_code=2)
    ran = fleet("status", "--watch", "--interval", "0.1")
    assert [line.split()[1:4] for line in ran.out.splitlines()] == [
        ["web", "running", "working"],
        ["web", "running", "needs_input"],
        ["web", "gone"],
    ]


# -- attach --------------------------------------------------------------------------------------------------------

PANE = {"multiplexer": "tmux", "socket": "/run/t.sock", "target": "%7", "name": "web"}
PANE["argv"] = ["tmux", "-S", "/run/t.sock", "attach-session", "-t", "=web"]  # type: ignore[assignment]


def test_attach_says_how_where_there_is_no_terminal(fleet: Shell, daemon: ScriptedDaemon) -> None:
    daemon.will("pane", PANE)
    ran = fleet("attach", "web")
    assert ran.code == 2
    assert "--print" in ran.err
    assert fleet("attach", "web", "--print").out == "tmux -S /run/t.sock attach-session -t =web\n"


def test_a_read_only_attach_is_asked_of_the_daemon_and_refused_where_that_is_too_old_for_it(
    fleet: Shell, daemon: ScriptedDaemon
) -> None:
    daemon.will("pane", PANE)
    daemon.will("pane", PANE | {"read_only": True})
    old = fleet("attach", "web", "--print", "--read-only")
    assert old.code == 2 and "`fleet daemon restart`" in old.err, "an older daemon knows of no such thing"
    assert fleet("attach", "web", "--print", "--read-only").out == "tmux -S /run/t.sock attach-session -t =web\n"
    assert daemon.asked("pane")["read_only"] is True


def test_an_attach_over_ssh_that_is_cut_says_so_and_puts_the_terminal_right(
    fleet: Shell, daemon: ScriptedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.will("pane", PANE | {"argv": ["ssh", "there"]})
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nstty raw -echo\nprintf '\\033[?1049h\\033[?25l'\nexit 255\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("fleet.cli.attach._terminal", lambda: True)
    monkeypatch.setattr("fleet.cli.attach._can_draw", lambda: True)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0), os.fdopen(theirs, "r+b", 0) as terminal:
        before = termios.tcgetattr(terminal)
        kept = os.dup(0)
        os.dup2(terminal.fileno(), 0)
        try:
            with pytest.MonkeyPatch.context() as within:
                within.setattr(sys, "stdin", terminal)
                ran = fleet("attach", "web")
        finally:
            os.dup2(kept, 0)
            os.close(kept)
        assert termios.tcgetattr(terminal) == before
    assert ran.code == 1 and "cut" in ran.err and "`fleet attach web`" in ran.err
    assert "\x1b[?1049l" in ran.out and "\x1b[?25h" in ran.out


def test_attach_becomes_the_command_that_opens_the_pane(
    fleet: Shell, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Became(Exception):
        pass

    def become(file: str, argv: list[str], env: dict[str, str]) -> None:
        raise Became(argv, env)

    daemon.will("pane", PANE)
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,1,0")  # a person's own tmux: that is no hindrance
    monkeypatch.setattr(os, "execvpe", become)
    monkeypatch.setattr("fleet.cli.attach._can_draw", lambda: True)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    with pytest.MonkeyPatch.context() as within:
        within.setattr("fleet.cli.attach._terminal", lambda: True)
        with pytest.raises(Became) as caught:
            fleet("attach", "web")
    argv, env = caught.value.args
    assert argv == PANE["argv"]
    assert "TMUX" not in env


def test_attach_refuses_inside_the_same_tmux(
    fleet: Shell, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.will("pane", PANE)
    monkeypatch.setenv("TMUX", "/run/t.sock,1,0")
    monkeypatch.setattr("fleet.cli.attach._terminal", lambda: True)
    monkeypatch.setattr("fleet.cli.attach._can_draw", lambda: True)
    monkeypatch.setattr(os, "execvpe", lambda *args: pytest.fail("it went in"))
    ran = fleet("attach", "web")
    assert ran.code == 2
    assert "Ctrl-B D" in ran.err


@pytest.mark.parametrize(
    ("term", "known"),
    [("xterm", True), ("xterm-256color", True), ("dumb", False), ("no-such-terminal", False), ("", False)],
)
def test_a_terminal_on_which_nothing_can_be_drawn_is_told_from_others(term: str, known: bool) -> None:
    script = "from fleet.cli import attach; print(attach._can_draw())"
    ran = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "TERM": term}, capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"{known}\n"


def test_attach_names_the_terminal_on_which_nothing_can_be_drawn(
    fleet: Shell, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.will("pane", PANE)
    monkeypatch.setenv("TERM", "paper")
    monkeypatch.setattr("fleet.cli.attach._terminal", lambda: True)
    monkeypatch.setattr("fleet.cli.attach._can_draw", lambda: False)
    ran = fleet("attach", "web")
    assert ran.code == 2
    assert "TERM is 'paper'" in ran.err


# -- the commands themselves ---------------------------------------------------------------------------------------


def commands() -> list[tuple[str, click.Command]]:
    """Every command and subcommand by its full name."""
    found: list[tuple[str, click.Command]] = []
    for name, (where, _) in app.COMMANDS.items():
        module, _, attribute = where.partition(":")
        command = getattr(import_module(module), attribute)
        found.append((name, command))
        found += [(f"{name} {sub}", c) for sub, c in getattr(command, "commands", {}).items()]
    return found


def test_help_lists_every_command_and_loads_none(fleet: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "import_module", lambda name: pytest.fail(f"{name} was loaded"))
    ran = fleet("--help")
    assert ran.code == 0
    for name, (_, told) in app.COMMANDS.items():
        assert name in ran.out
        assert told.split()[0] in ran.out


def test_help_never_acts(fleet: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ondemand, "ensure_daemon", lambda: pytest.fail("it acted"))
    for name, command in commands():
        ran = fleet(*name.split(), "--help")
        assert (ran.code, ran.err) == (0, ""), name
        assert ran.out.startswith("Usage: fleet"), name
        assert command.help, f"`fleet {name}` does not say what it does"


def test_every_read_and_every_act_has_json() -> None:
    other = {"attach", "schema", "hook-event", "completion", "daemon", "daemon run", "hooks", "config", "init"}
    groups = {name for name, command in commands() if isinstance(command, click.Group)}
    without = {name for name, command in commands() if not any("--json" in p.opts for p in command.params)}
    assert without - groups <= other


def test_the_version_is_told(fleet: Shell) -> None:
    assert fleet("--version").out.startswith("fleet ")


def test_fleet_alone_shows_its_help(fleet: Shell) -> None:
    ran = fleet()
    assert ran.code == 0
    assert "Run agents" in ran.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_for_the_shell_that_is_named(fleet: Shell, shell: str) -> None:
    ran = fleet("completion", shell)
    assert ran.code == 0
    assert "_FLEET_COMPLETE" in ran.out


def test_agents_names_complete_from_the_daemon(
    fleet: Shell, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.will("list", {"agents": [{"name": "web"}, {"name": "web-2"}, {"name": "db"}]})
    monkeypatch.setenv("_FLEET_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "fleet stop w")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert fleet().out.split() == ["plain,web", "plain,web-2"]


def test_without_a_daemon_files_are_completed(fleet: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FLEET_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "fleet stop w")
    monkeypatch.setenv("COMP_CWORD", "2")
    ran = fleet()
    assert (ran.out.strip(), ran.err) == ("file,w", "")


# -- the daemon ----------------------------------------------------------------------------------------------------


def test_daemon_restart_waits_for_the_old_one_to_be_gone(
    fleet: Shell, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ondemand, "ensure_daemon", lambda: None)
    daemon.will("daemon_stop", {})
    for pid in (1, 1, 1, 2):
        daemon.will("ping", {"pid": pid, "version": "1", "uptime_s": 0.1})
    ran = fleet("daemon", "restart")
    assert ran.code == 0
    assert ran.out.split()[:2] == ["pid", "2"]
    assert [request["verb"] for request in daemon.heard[:4]] == ["ping", "daemon_stop", "ping", "ping"]


def test_two_homes_never_meet(fleet: Shell, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_daemon(place.parent / "other" / "run" / "control.sock") as other:
        assert fleet("status").code == 69
        other.will("status", {"agents": []})
        monkeypatch.setenv("FLEET_HOME", str(place.parent / "other"))
        assert fleet("status").code == 0
    assert threading.active_count() == 1


def test_the_page_about_the_command_line_is_what_help_says() -> None:
    page = Path(app.__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text() == reference.reference(), "`python -m fleet.cli.reference > docs/cli.md` draws it anew"


def test_a_manifest_is_found_by_its_agents_name(fleet: Shell, daemon: ScriptedDaemon, place: Path) -> None:
    path = place / "elsewhere.yaml"
    path.write_text(
        "apiVersion: fleet/v1\nkind: Agent\nmetadata: {name: analyst}\n"
        "spec: {harness: shell, command: [cat], slurm: {mem: 1G}}\n"
    )
    daemon.will("inspect", {"name": "analyst", "source": str(path)})
    assert "#SBATCH --mem=1G" in fleet("render", "analyst").out
    assert f"analyst: valid (shell, slurm; {path})" in fleet("validate", "analyst").out


def test_a_booking_that_cannot_be_is_told_in_the_words_of_a_manifest(fleet: Shell) -> None:
    ran = fleet("slurm", "book", "pool", "--mem", "lots")
    assert ran.code == 2 and "mem: 'lots' is no amount of memory: a number and K, M, G or T, such as 4G." in ran.err
    assert "validation error" not in ran.err


def test_no_bookings_are_told_as_none(fleet: Shell) -> None:
    ran = fleet("slurm", "list")
    assert (ran.code, ran.out) == (0, "") and "nothing is booked" in ran.err


def test_validate_tells_the_agents_that_a_start_would_make_of_hosts(fleet: Shell, place: Path) -> None:
    path = place / "both.yaml"
    path.write_text(
        "apiVersion: fleet/v1\nkind: Agent\nmetadata: {name: both}\n"
        "spec: {harness: shell, command: [cat], hosts: [gpu1, gpu2]}\n"
    )
    told = fleet("validate", str(path)).out
    assert "both-gpu1: valid (shell, ssh;" in told and "both-gpu2: valid (shell, ssh;" in told
