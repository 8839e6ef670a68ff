"""What failed in the program that fleet takes over from, reproduced there, and shown here not to happen.

1. A killed agent under `always` stays dead; a clean exit is restarted; exit statuses are never known:
   `tests/e2e/test_peer_failures.py::test_always_brings_back_both_deaths_and_their_exit_statuses_are_known`
   `tests/e2e/test_supervision.py::test_a_killed_program_is_restarted_at_once_the_first_time`
   `tests/e2e/test_supervision.py::test_a_clean_exit_is_no_failure`
2. A name that begins another's is taken for it; names with `.` or `:` leave orphans:
   `tests/e2e/test_peer_failures.py::test_a_dead_web_is_dead_whatever_web_2_does`
   `tests/e2e/test_supervision.py::test_stopping_web_never_touches_web_2`
   `tests/contract/test_runtime.py::test_stopping_web_never_touches_web_2`
   `tests/unit/test_manifest_loading.py::test_a_name_that_could_mean_more_than_a_name_is_refused`
3. A start reports success where nothing runs, or somebody else's session does, or all have failed:
   `tests/e2e/test_peer_failures.py::test_a_start_of_many_succeeds_only_if_all_do`
   `tests/e2e/test_peer_failures.py::test_a_persons_own_session_of_the_same_name_is_nobodys_agent`
   `tests/e2e/test_supervision.py::test_a_program_that_never_starts_is_told_as_a_failed_start`
   `tests/e2e/test_supervision.py::test_three_starts_at_once_start_one`
4. Folders, values, references and texts run as commands or keys:
   `tests/e2e/test_peer_failures.py::test_a_first_text_that_is_called_like_a_key_is_a_text`
   `tests/e2e/test_supervision.py::test_a_folder_named_like_a_command_is_only_a_folder`
   `tests/e2e/test_supervision.py::test_what_the_environment_holds_is_literal`
   `tests/unit/test_manifest_sources.py::test_a_value_in_mcp_json_is_only_ever_text_in_its_string`
   `tests/unit/test_manifest_sources.py::test_what_was_filled_in_is_not_filled_in_again`
5. `../` is taken for a name:
   `tests/e2e/test_bad_input.py::test_a_name_that_is_not_there_is_told_with_the_nearest_one_and_nothing_is_touched`
   `tests/unit/test_hook_event.py::test_a_name_cannot_leave_its_folder`
6. Secrets stand in command lines, logs and open files:
   `tests/e2e/test_peer_failures.py::test_what_fleet_writes_is_the_owners_alone_and_holds_no_secret_but_where_it_must`
   `tests/e2e/test_supervision.py::test_secrets_stand_in_no_command_line`
   `tests/integration/test_tmux.py::test_a_servers_environment_and_command_line_say_nothing_of_agents`
   `tests/unit/test_redact.py::test_a_secret_goes_wherever_it_stands`
   `tests/unit/test_events.py::test_secrets_are_taken_out_on_the_way_in`
7. A person's own hooks are overwritten or deleted; an unknown hook blocks the program:
   `tests/e2e/test_peer_failures.py::test_a_hook_that_nobody_knows_blocks_nothing`
   `tests/e2e/test_claude_code.py::test_what_a_person_set_up_for_themselves_works_on_and_stays_as_it_was`
   `tests/e2e/test_claude_code.py::test_two_agents_in_one_folder_are_two`
   `tests/unit/test_hooks_command.py::test_install_and_uninstall_leave_the_file_as_it_was`
8. Typos validate, texts become lists of letters, hooks run twice:
   `tests/e2e/test_peer_failures.py::test_every_slip_is_told_at_once_with_its_place_and_what_was_meant`
   `tests/e2e/test_peer_failures.py::test_each_hook_of_the_manifest_runs_once`
   `tests/unit/test_manifest_legacy.py::test_flags_that_are_one_text_are_refused_rather_than_taken_letter_by_letter`
9. Busy and idle are one; quotations are taken for prompts, limits and errors:
   `tests/unit/test_classify.py::test_no_captured_screen_is_judged_wrong`
   `tests/unit/test_classify.py::test_words_quoted_in_an_answer_change_nothing`
   `tests/e2e/test_claude_code.py::test_a_long_turn_is_seen_as_working_throughout`
   `tests/e2e/test_claude_code.py::test_a_usage_limit_is_told_with_its_end`
10. The context is measured against a window nobody has, quotas are never known, transcripts looked for elsewhere:
   `tests/unit/test_harness_claude_code.py::test_context_is_measured_by_the_window_that_the_program_reports`
   `tests/unit/test_harness_claude_code.py::test_quotas_come_with_their_end`
   `tests/integration/test_claude_code.py::test_the_transcript_is_found_whatever_the_folder_is_called`
13. A registry without locks, and one torn file breaks status and stop:
   `tests/e2e/test_supervision.py::test_a_second_daemon_says_who_holds_the_state`
   `tests/e2e/test_bad_input.py::test_what_stands_in_the_daemons_way_is_told_at_once_and_agents_are_untouched`
   `tests/unit/test_db.py::test_writes_that_wait_together_commit_together_and_in_order`
14. The screen's own echo passes for life:
   `tests/e2e/test_peer_failures.py::test_an_echo_of_what_is_typed_is_no_sign_of_life`
15. What ignores a hangup survives a stop:
   `tests/e2e/test_supervision.py::test_a_child_in_its_own_session_and_one_that_ignores_signals_are_gone_after_a_stop`

Those of hosts and clusters:

11. Each look at another machine is a new ssh; status and health disagree; time limits and environment do not arrive:
   `tests/integration/test_ssh_link.py::test_all_agents_of_a_host_share_one_connection`
   `tests/integration/test_ssh_link.py::test_twenty_agents_that_idle_cost_one_round_trip_a_tick`
   `tests/integration/test_ssh_link.py::test_a_secret_stands_in_no_command_line_and_in_no_file_that_others_read`
   `tests/integration/test_ssh_link.py::test_a_command_that_is_not_done_in_time_is_ended_there_too`
   `tests/e2e/test_ssh.py::test_an_agent_on_another_machine_is_started_seen_restarted_adopted_and_stopped_as_one_here`
12. On a cluster. The warning before the limit waits behind a foreground command until the limit:
   `tests/integration/test_slurm_job.py::test_a_job_hands_its_conversation_on_once_and_stays_down_when_cancelled`
   A stop resurrects:
   `tests/integration/test_slurm_handoff.py::test_a_stop_after_the_signal_leaves_nothing_that_comes_back`
   `tests/integration/test_slurm_job.py::test_a_job_that_is_wanted_no_more_starts_nothing`
   Nobody knows the successor's id:
   `tests/integration/test_slurm_handoff.py::test_a_job_near_its_limit_hands_on_to_one_successor_and_the_launch_lives_on`
   `tests/integration/test_slurm_handoff.py::test_a_hand_off_while_the_daemon_is_away_is_found_by_the_next`
   Attach goes to the wrong socket:
   `tests/e2e/test_slurm.py::test_an_agent_lives_in_a_job_as_it_would_here`
   `~` in the paths of hooks is skipped, the environment does not reach the job, and a first launch continues nothing:
   `tests/integration/test_slurm_job.py::test_a_job_hands_its_conversation_on_once_and_stays_down_when_cancelled`
   `tests/e2e/test_slurm.py::test_claude_code_writes_down_where_it_is_before_its_jobs_end_and_goes_on_in_the_next`
"""

from __future__ import annotations

import re
import signal
import stat
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.fleets import Fleet, alive, kill, until
from tests.homes import ROOT, Home

pytestmark = pytest.mark.real

FOREVER = "while :; do sleep 1; done"


@pytest.fixture
def fleet(fleet_home: Home) -> Iterator[Fleet]:
    yield Fleet(fleet_home)


def test_every_failure_above_is_shown_by_a_test_that_there_is() -> None:
    named = re.findall(r"`(tests/\S+)::(test_\w+)`", __doc__ or "")
    assert len(named) > 30
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text()] == []


def test_always_brings_back_both_deaths_and_their_exit_statuses_are_known(fleet: Fleet) -> None:
    gate = fleet.home.work / "leave"
    script = f"while ! test -e {gate}; do sleep 0.2; done; rm {gate}; exit 0"
    fleet.run("start", fleet.shell("web", script, restart={"policy": "always", "backoff": {"initial": 0.2}}))
    kill(fleet.status("web")["pid"])
    fleet.wait("web", phase="running", restarts=1)
    gate.touch()
    fleet.wait("web", phase="running", restarts=2)
    exits = fleet.json("events", "--agent", "web", "--type", "exit")["events"]
    assert [e["payload"]["exit_status"] for e in exits] == [128 + signal.SIGKILL, 0]


def test_a_dead_web_is_dead_whatever_web_2_does(fleet: Fleet) -> None:
    never = {"policy": "never"}
    fleet.run("start", fleet.shell("web", FOREVER, restart=never), fleet.shell("web-2", FOREVER))
    other = fleet.status("web-2")["pid"]
    kill(fleet.status("web")["pid"])
    dead = fleet.wait("web", phase="finished")
    assert (dead["pid"], dead["exit_status"]) == (None, 128 + signal.SIGKILL)
    fleet.run("attach", "web", code=4)
    fleet.run("stop", "web")
    fleet.run("restart", "web")
    fleet.run("stop", "web")
    assert alive(other)
    assert (fleet.status("web-2")["phase"], fleet.status("web-2")["pid"]) == ("running", other)


def test_a_start_of_many_succeeds_only_if_all_do(fleet: Fleet) -> None:
    good, bad = fleet.shell("good", FOREVER), fleet.shell("bad", "exit 7")
    told = {a["name"]: a["outcome"] for a in fleet.json("start", good, bad, code=1)["agents"]}
    assert told == {"good": "started", "bad": "failed"}
    fleet.run("stop", "--all")
    fleet.run("start", "--all", code=1)


def test_a_persons_own_session_of_the_same_name_is_nobodys_agent(fleet: Fleet) -> None:
    socket = fleet.home.path / "own.sock"
    own = ["tmux", "-S", str(socket)]
    env = fleet.home.env
    subprocess.run([*own, "new-session", "-d", "-s", "web", "sleep 1000"], env=env, check=True)
    try:
        pane = subprocess.run([*own, "list-panes", "-F", "#{pane_pid}"], env=env, capture_output=True, check=True)
        inside = {"TMUX": f"{socket},1,0", "TMUX_PANE": "%0"}
        fleet.run("start", fleet.shell("web", FOREVER), env=inside)
        assert fleet.status("web")["pid"] != int(pane.stdout)
        assert fleet.status("web")["pane"]["socket"] != str(socket)
        fleet.run("stop", "web", env=inside)
        assert alive(int(pane.stdout))
    finally:
        subprocess.run([*own, "kill-server"], env=env, check=True)


def test_a_first_text_that_is_called_like_a_key_is_a_text(fleet: Fleet) -> None:
    got = fleet.home.work / "got"
    fleet.home.write("first", "C-c\n")
    script = f'while read -r line; do printf "%s\\n" "$line" >> {got}; done'
    fleet.run("start", fleet.shell("web", script, prompt_file="first"))
    until(lambda: got.exists() and got.read_text() == "C-c\n", "the program has read the text")
    status = fleet.status("web")
    assert (status["phase"], status["restarts"]) == ("running", 0)


def test_what_fleet_writes_is_the_owners_alone_and_holds_no_secret_but_where_it_must(fleet: Fleet) -> None:
    secret = "hunter2-of-the-agent"
    (fleet.home.work / "token").write_text(secret + "\n")
    (fleet.home.work / "printed").write_text("Authorization: Bearer abcdefghijklmnop1234567890\n")
    script = f'echo "token $TOKEN"; cat {fleet.home.work}/printed; {FOREVER}'
    fleet.run("start", fleet.shell("web", script, env={"TOKEN": {"file": "token"}}))
    home = fleet.home.path / "fleet"
    until(lambda: "Bearer" in fleet.screen("web"), "it has printed")
    kill(fleet.status("web")["pid"])
    fleet.wait("web", phase="running", restarts=1)
    fleet.run("stop", "web")
    fleet.run("shutdown")  # nothing comes and goes any more
    files = [path for path in (home / "state").rglob("*") if path.is_file()]
    open_to_others = [str(p) for p in files if stat.S_IMODE(p.stat().st_mode) & 0o077]
    assert open_to_others == []
    assert {stat.S_IMODE(p.stat().st_mode) for p in (home / "state", home / "run")} == {0o700}
    holders = {p.name for p in files if secret.encode() in p.read_bytes()}
    assert holders <= {"environ.json", "env"}
    assert not [p for p in files if b"abcdefghijklmnop1234567890" in p.read_bytes()]


def test_a_hook_that_nobody_knows_blocks_nothing(fleet: Fleet) -> None:
    for kind in ("no-such-hook", "../../x", "PreToolUse", "-x", ""):
        for payload in ("{}", "no json", "\0", ""):
            done = fleet.home.fleet("hook-event", kind, stdin=payload)
            assert (done.returncode, done.stdout) == (0, ""), (kind, payload, done)


def test_every_slip_is_told_at_once_with_its_place_and_what_was_meant(fleet: Fleet) -> None:
    path = fleet.home.write(
        "slips.yaml",
        "apiVersion: fleet/v1\n"
        "kind: Agent\n"
        "metadata: {name: slips}\n"
        "spec:\n"
        "  harness: shell\n"
        "  command: [sh]\n"
        "  restrat: {policy: always}\n"
        "  restart: {polcy: always}\n"
        '  args: "--verbose"\n'
        '  hooks: {pre_start: "echo hi"}\n'
        '  health: "yes"\n'
        "  workdir: .\n"
        "  workdir: ..\n",
    )
    told = fleet.json("validate", str(path), code=2)
    places = {(p["line"], p["nearest"]) for p in told["problems"]}
    assert {(7, "restart"), (8, "policy")} <= places
    assert {line for line, _ in places} == {7, 8, 9, 10, 11, 13}
    done = fleet.home.fleet("start", str(path))
    assert done.returncode == 2
    assert "nothing was started" in done.stderr
    assert "Traceback" not in done.stderr


def test_each_hook_of_the_manifest_runs_once(fleet: Fleet) -> None:
    ran = fleet.home.work / "ran"
    hooks = {which: [{"sh": f"echo {which} >> {ran}"}] for which in ("pre_start", "pre_stop", "post_stop")}
    fleet.run("start", fleet.shell("web", FOREVER, hooks=hooks))
    fleet.run("stop", "web")
    assert ran.read_text().split() == ["pre_start", "pre_stop", "post_stop"]


def test_an_echo_of_what_is_typed_is_no_sign_of_life(fleet: Fleet) -> None:
    fleet.run("start", fleet.shell("web", "exec sleep 1000", restart={"policy": "never"}))
    status = fleet.status("web")
    kill(status["pid"], signal.SIGSTOP)  # the terminal still echoes, and the program reads nothing
    try:
        fleet.type("web", "are you there")
        until(lambda: "are you there" in fleet.screen("web"), "the terminal echoes")
        assert fleet.status("web")["pid"] == status["pid"]
        kill(status["pid"])
        assert fleet.wait("web", phase="finished")["exit_status"] == 128 + signal.SIGKILL
        assert "are you there" in (fleet.json("logs", "web")["screen"] or "")
    finally:
        if alive(status["pid"]):
            kill(status["pid"])
