"""The judge: which source is believed about what, and for how long."""

from __future__ import annotations

from typing import Any

from fleet.health.judge import BLANK, LEAD, Book, State, judge
from fleet.terms import Activity, Evidence, Kind, Source

A = Activity


class Case:
    """A launch as the judge sees it: words come in, time passes, a state stands."""

    def __init__(self, *, started: bool = True) -> None:
        self.book, self.state, self.now, self.started = Book(), BLANK, 1000.0, started

    def hear(self, source: Source, activity: Activity | None, *, at: float | None = None, **more: Any) -> State:
        word = Evidence(
            source=source, rule=f"{source}/test", observed_at=self.now if at is None else at, activity=activity, **more
        )
        self.book = self.book.heard(word, self.now)
        return self.look()

    def after(self, seconds: float, *confirmed: Source) -> State:
        self.now += seconds
        self.book = self.book.confirmed(confirmed, self.now)
        return self.look()

    def look(self) -> State:
        self.state = judge(self.book, self.state, self.now, started=self.started)
        return self.state


def test_the_programs_own_idle_is_ready_at_once() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.WORKING)
    case.after(5)
    assert case.hear(Source.STATE_FILE, A.READY).activity is A.READY


def test_an_interrupt_that_fires_no_hook_is_seen_by_the_state_file_at_once() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.WORKING)
    case.after(1)
    case.hear(Source.HOOK, A.WORKING)
    case.after(1)
    assert case.hear(Source.STATE_FILE, A.READY).activity is A.READY


def test_an_interrupt_without_a_state_file_is_recovered_from_the_screen_within_two_seconds() -> None:
    case = Case()
    case.hear(Source.HOOK, A.WORKING)
    case.after(3)
    state = case.hear(Source.SCREEN, A.READY)
    assert state.activity is A.WORKING
    assert state.pending
    assert case.after(0.4, Source.SCREEN).activity is A.READY


def test_a_permission_asked_by_a_hook_needs_input_before_it_is_drawn() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.WORKING)
    case.after(1)
    state = case.hear(Source.HOOK, A.NEEDS_INPUT, kind=Kind.PERMISSION, question="Bash: rm x", options=("Yes", "No"))
    assert (state.activity, state.kind, state.question) == (A.NEEDS_INPUT, Kind.PERMISSION, "Bash: rm x")


def test_the_files_waiting_keeps_what_the_hook_knows_of_the_question() -> None:
    case = Case()
    case.hear(Source.HOOK, A.NEEDS_INPUT, kind=Kind.PERMISSION, question="Bash: rm x", options=("Yes", "No"))
    case.after(0.1)
    case.hear(Source.STATE_FILE, A.NEEDS_INPUT)
    state = case.after(60, Source.STATE_FILE)
    assert (state.activity, state.kind, state.question) == (A.NEEDS_INPUT, Kind.PERMISSION, "Bash: rm x")
    assert state.options == ("Yes", "No")


def test_a_later_hook_that_says_less_does_not_forget_the_question() -> None:
    case = Case()
    case.hear(Source.HOOK, A.NEEDS_INPUT, kind=Kind.PERMISSION, question="Bash: rm x")
    case.after(6)
    state = case.hear(Source.HOOK, A.NEEDS_INPUT)
    assert (state.kind, state.question) == (Kind.PERMISSION, "Bash: rm x")


def test_an_answered_dialog_is_left_at_once_not_when_the_tool_ends() -> None:
    case = Case()
    case.hear(Source.HOOK, A.NEEDS_INPUT, kind=Kind.PERMISSION)
    case.hear(Source.STATE_FILE, A.NEEDS_INPUT)
    case.hear(Source.SCREEN, A.NEEDS_INPUT, kind=Kind.PERMISSION)
    case.after(5, Source.SCREEN)
    state = case.hear(Source.STATE_FILE, A.WORKING)
    assert state.activity is A.WORKING
    assert case.after(0.1).activity is A.WORKING


def test_a_prompt_that_stays_on_the_screen_beats_working() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.WORKING)
    case.after(1)
    assert case.hear(Source.SCREEN, A.NEEDS_INPUT, kind=Kind.TRUST).pending
    state = case.after(0.5, Source.SCREEN)
    assert (state.activity, state.kind) == (A.NEEDS_INPUT, Kind.TRUST)


def test_a_stop_hook_is_no_proof_of_ready_while_the_state_file_says_busy() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.WORKING)
    case.after(10, Source.STATE_FILE)
    assert case.hear(Source.HOOK, A.READY).activity is A.WORKING
    case.after(0.3)
    assert case.hear(Source.STATE_FILE, A.READY).activity is A.READY


def test_an_idle_screen_does_not_hide_the_sub_agents_that_the_state_file_tells_of() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.WORKING)
    case.after(1)
    case.hear(Source.HOOK, A.WORKING)
    case.after(1)
    case.hear(Source.SCREEN, A.READY)
    state = case.after(60, Source.SCREEN, Source.STATE_FILE)
    assert state.activity is A.WORKING
    assert [e.source for e in state.dissent] == [Source.SCREEN]


def test_a_hook_leads_the_state_file_for_a_moment_only() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.READY)
    case.after(10, Source.STATE_FILE)
    assert case.hear(Source.HOOK, A.WORKING).activity is A.WORKING
    assert case.after(LEAD + 0.1, Source.STATE_FILE).activity is A.READY


def test_a_failed_turn_stays_an_error_though_the_state_file_calls_it_idle() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.WORKING)
    case.after(1)
    case.hear(Source.HOOK, A.ERROR)
    case.after(0.2)
    assert case.hear(Source.STATE_FILE, A.READY).activity is A.ERROR
    assert case.after(600, Source.STATE_FILE).activity is A.ERROR
    case.hear(Source.HOOK, A.WORKING)
    case.hear(Source.STATE_FILE, A.WORKING)
    case.after(1)
    case.hear(Source.HOOK, A.READY)
    assert case.hear(Source.STATE_FILE, A.READY).activity is A.READY


def test_the_screen_knows_a_limit_that_the_state_file_calls_idle() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.READY)
    state = case.hear(Source.SCREEN, A.LIMITED, resets_at=5000.0, continues=True)
    assert (state.activity, state.resets_at, state.continues) == (A.LIMITED, 5000.0, True)


def test_a_limit_ends_when_it_was_first_said_to_end() -> None:
    case = Case()
    case.hear(Source.HOOK, A.LIMITED, resets_at=5000.0)
    case.hear(Source.STATE_FILE, A.READY)
    case.now = 5001.0  # the same words on the screen mean tomorrow now
    assert case.hear(Source.SCREEN, A.LIMITED, resets_at=5000.0 + 86400).resets_at == 5000.0
    case.hear(Source.HOOK, A.WORKING)
    assert case.hear(Source.SCREEN, A.WORKING).resets_at is None
    case.hear(Source.HOOK, A.LIMITED, resets_at=9000.0)
    assert case.hear(Source.SCREEN, A.LIMITED, resets_at=9000.0).resets_at == 9000.0


def test_an_error_on_the_screen_does_not_hide_that_the_next_turn_works() -> None:
    case = Case()
    case.hear(Source.SCREEN, A.ERROR)
    case.after(1)
    assert case.hear(Source.STATE_FILE, A.WORKING).activity is A.WORKING


def test_ready_from_the_screen_alone_needs_two_reads_that_agree() -> None:
    case = Case()
    assert case.hear(Source.SCREEN, A.READY).activity is not A.READY
    assert case.state.pending
    assert case.after(0.2, Source.SCREEN).activity is not A.READY
    assert case.after(0.2, Source.SCREEN).activity is A.READY


def test_an_unknown_screen_changes_nothing_that_is_freshly_known() -> None:
    case = Case()
    case.hear(Source.SCREEN, A.WORKING)
    case.after(2)
    state = case.hear(Source.SCREEN, A.UNKNOWN)
    assert (state.activity, state.seen) == (A.WORKING, 1000.0)


def test_a_dialog_is_over_once_the_screen_shows_something_else_whatever_that_is() -> None:
    case = Case(started=False)
    case.hear(Source.SCREEN, A.NEEDS_INPUT, kind=Kind.TRUST)
    case.after(5, Source.SCREEN)
    assert case.hear(Source.SCREEN, A.UNKNOWN).activity is A.NEEDS_INPUT, "a torn frame"
    assert case.after(0.5, Source.SCREEN).activity is A.BOOTING
    case.started = True
    assert case.after(1, Source.SCREEN).activity is A.UNKNOWN


def test_what_nobody_confirms_any_more_is_unknown_at_last_and_never_idle() -> None:
    case = Case()
    case.hear(Source.SCREEN, A.WORKING)
    case.after(2)
    case.hear(Source.SCREEN, A.UNKNOWN)
    assert case.after(27).activity is A.WORKING
    assert case.after(3).activity is A.UNKNOWN


def test_before_its_session_is_seen_it_is_booting_and_a_dialog_needs_input() -> None:
    case = Case(started=False)
    assert case.hear(Source.SCREEN, A.UNKNOWN).activity is A.BOOTING
    state = case.hear(Source.SCREEN, A.NEEDS_INPUT, kind=Kind.TRUST)
    assert (state.activity, state.kind) == (A.NEEDS_INPUT, Kind.TRUST)


def test_only_the_screen_knows_a_draft_and_any_source_a_background_shell() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.READY, background=True)
    state = case.hear(Source.SCREEN, A.READY, draft=True, composer=True, background=False)
    assert (state.activity, state.draft, state.composer, state.background) == (A.READY, True, True, True)


def test_sources_that_disagree_are_shown_and_not_averaged() -> None:
    case = Case()
    case.hear(Source.TITLE, A.WORKING)
    state = case.hear(Source.STATE_FILE, A.READY)
    assert state.activity is A.READY
    assert [e.source for e in state.dissent] == [Source.TITLE]


def test_an_older_word_does_not_undo_a_newer_one_of_the_same_source() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.READY)
    assert case.hear(Source.STATE_FILE, A.WORKING, at=990.0).activity is A.READY


def test_a_source_whose_process_is_gone_says_nothing() -> None:
    case = Case()
    case.hear(Source.STATE_FILE, A.WORKING)
    case.book = case.book.without(Source.STATE_FILE)
    case.hear(Source.SCREEN, A.READY)
    assert case.after(0.5, Source.SCREEN).activity is A.READY


def test_since_holds_as_long_as_the_activity_does_whoever_proves_it() -> None:
    case = Case()
    case.hear(Source.HOOK, A.WORKING)
    case.after(0.3)
    case.hear(Source.STATE_FILE, A.WORKING)
    assert case.after(100, Source.STATE_FILE).since == 1000.0


def test_a_title_says_working_where_nothing_else_speaks() -> None:
    case = Case()
    case.hear(Source.SCREEN, A.UNKNOWN)
    assert case.hear(Source.TITLE, A.WORKING).activity is A.WORKING
