"""Fleet's hooks in a person's settings: beside their own, and gone again without a trace."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import NotAllowed
from fleet.harnesses import claude_events
from fleet.harnesses.claude_hooks import events_of, with_hooks, without

SCRIPT = "/home/x/.local/state/fleet/hook.sh"
ENTRY = {"type": "command", "command": SCRIPT, "args": ["--by-hand", "/home/x/spool"], "timeout": 10}
ENTRIES = {"Stop": ENTRY, "PreToolUse": ENTRY, "SessionStart": ENTRY}
MINE = {"type": "command", "command": "echo hi"}

TEXTS = [
    "{}",
    "{}\n",
    '{\n  "model": "opus"\n}\n',
    '{"model": "opus", "hooks": {}}',
    '{"hooks":{"Stop":[{"hooks":[{"type":"command","command":"echo hi"}]}]}}',
    '{\n\t"z": [1,2,   3],\n\t"hooks": {\n\t\t"PreToolUse": [\n\t\t\t{ "matcher": "Bash", "hooks": [] }\n\t\t]\n\t}\n}',
    '{\r\n    "a": "é\\u00e9",\r\n    "hooks": {\r\n        "Other": [{"hooks": [{"type": "x"}]}]\r\n    }\r\n}\r\n',
    '\n  {  "a" : 1 , "hooks" : { "Stop" : [ {"matcher":"","hooks":[ {"type":"command","command":"a b"} ] } ] } }  ',
    '{"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "/other/fleet/hook.sh --by-hand /x"}]}]}}',
    '{"hooks": {"Stop": [7, "text", {"nothing": 1}, {"hooks": [{"command": "unbalanced \' quote"}]}]}}',
]


@pytest.mark.parametrize("text", TEXTS)
def test_everything_of_the_users_stays_and_comes_first(text):
    before, after = json.loads(text), json.loads(with_hooks(text, SCRIPT, ENTRIES))
    for event in ENTRIES:
        own = before.get("hooks", {}).get(event, [])
        assert after["hooks"].pop(event) == [*own, {"hooks": [ENTRY]}]
    assert list(after.pop("hooks").items()) == [
        (event, groups) for event, groups in before.pop("hooks", {}).items() if event not in ENTRIES
    ]
    assert list(after.items()) == list(before.items())


@pytest.mark.parametrize("text", TEXTS)
def test_doing_it_twice_changes_nothing_more(text):
    once = with_hooks(text, SCRIPT, ENTRIES)
    assert with_hooks(once, SCRIPT, ENTRIES) == once
    assert set(events_of(once, SCRIPT)) == set(ENTRIES)


@pytest.mark.parametrize("text", [text for text in TEXTS if '"hooks": {}' not in text])
def test_taking_them_out_gives_the_same_bytes_again(text):
    assert without(with_hooks(text, SCRIPT, ENTRIES), SCRIPT) == text
    assert without(text, SCRIPT) == text


def test_an_empty_file_becomes_settings_and_then_empty_ones():
    for text in ("", "\n"):
        settings = with_hooks(text, SCRIPT, ENTRIES)
        assert json.loads(settings) == {"hooks": {event: [{"hooks": [ENTRY]}] for event in ENTRIES}}
        assert settings.endswith("}\n")
        assert without(settings, SCRIPT) == "{}\n"


def test_new_lines_take_the_form_of_the_old():
    text = '{\n\t"model": "opus"\n}\n'
    assert with_hooks(text, SCRIPT, {"Stop": MINE | {"command": SCRIPT}}) == (
        '{\n\t"model": "opus",\n\t"hooks": {\n\t\t"Stop": [\n\t\t\t{\n\t\t\t\t"hooks": [\n\t\t\t\t\t{\n'
        f'\t\t\t\t\t\t"type": "command",\n\t\t\t\t\t\t"command": "{SCRIPT}"\n'
        "\t\t\t\t\t}\n\t\t\t\t]\n\t\t\t}\n\t\t]\n\t}\n}\n"
    )


def test_one_of_ours_that_differs_is_replaced_where_it_stands():
    old = with_hooks('{"hooks": {"Stop": []}}', SCRIPT, {"Stop": {"type": "command", "command": f"{SCRIPT} --old"}})
    moved = json.loads(old)
    moved["hooks"]["Stop"].append({"hooks": [MINE]})
    new = json.loads(with_hooks(json.dumps(moved), SCRIPT, {"Stop": ENTRY}))
    assert new == {"hooks": {"Stop": [{"hooks": [ENTRY]}, {"hooks": [MINE]}]}}


@pytest.mark.parametrize("command", [SCRIPT, f"{SCRIPT} --by-hand x", f"exec {SCRIPT} --by-hand x", f"'{SCRIPT}'"])
def test_ours_is_told_by_what_it_runs(command):
    text = json.dumps({"hooks": {"Stop": [{"hooks": [{"type": "command", "command": command}, MINE]}]}})
    assert json.loads(without(text, SCRIPT)) == {"hooks": {"Stop": [{"hooks": [MINE]}]}}


def test_a_double_of_ours_goes():
    text = json.dumps({"hooks": {"Stop": [{"hooks": [ENTRY, MINE, ENTRY]}, {"hooks": [ENTRY]}]}})
    assert json.loads(with_hooks(text, SCRIPT, {"Stop": ENTRY})) == {"hooks": {"Stop": [{"hooks": [ENTRY, MINE]}]}}


def test_ours_in_the_users_own_group_leaves_the_group():
    text = json.dumps({"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [MINE, ENTRY]}]}})
    assert json.loads(without(text, SCRIPT)) == {"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [MINE]}]}}
    text = json.dumps({"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [ENTRY]}]}})
    assert json.loads(without(text, SCRIPT)) == {"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": []}]}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1,}', "line 1, column"),
        ("// comment\n{}", "line 1, column 1"),
        ("[]", "not a JSON object"),
        ('{"hooks": []}', "`hooks` are not"),
        ('{"hooks": {"Stop": {}}}', "`hooks.Stop` is not a list"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_what_is_not_understood_is_refused(text, why):
    for change in (lambda: with_hooks(text, SCRIPT, ENTRIES), lambda: without(text, SCRIPT)):
        with pytest.raises(NotAllowed, match=why):
            change()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
GROUPS = st.lists(st.fixed_dictionaries({"hooks": st.lists(st.just(MINE), max_size=2)}) | JSON, min_size=1, max_size=3)
SETTINGS = st.fixed_dictionaries(
    {"x": JSON}, optional={"hooks": st.dictionaries(st.sampled_from(["Stop", "Setup"]), GROUPS, min_size=1), "y": JSON}
)


@given(SETTINGS, st.sampled_from([None, 1, 3, "\t"]), st.booleans())
def test_in_and_out_is_nothing_in_any_settings_of_any_form(settings, indent, ascii_only):
    text = json.dumps(settings, indent=indent, ensure_ascii=ascii_only)
    installed = with_hooks(text, SCRIPT, ENTRIES)
    assert with_hooks(installed, SCRIPT, ENTRIES) == installed
    assert json.loads(installed)["x"] == settings["x"]
    assert without(installed, SCRIPT) == text


# -- which events a version knows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "events"),
    [("2.0.65", 12), ("2.1.2", 12), ("2.1.90", 27), ("2.1.200", 30), ("2.1.210", 30), ("2.1.225", 31), ("2.1.289", 33),
     ("2.1.329", 33), ("3.0.0", 33), ("1.0.0", 0), (None, 12), ("nonsense", 12), ("2.1.329-beta.1", 33)],
)  # fmt: skip
def test_a_version_is_told_only_of_events_it_knows(version, events):
    known = claude_events.known(version)
    assert len(set(known)) == len(known) == events
    assert set(claude_events.heard(version)) == set(known) - claude_events.UNHEARD


def test_a_worktree_is_left_to_the_program():
    """A hook on its making is expected to make it."""
    assert {"WorktreeCreate", "WorktreeRemove"} <= claude_events.UNHEARD < set(claude_events.ALL)


@pytest.mark.parametrize(("version", "takes"), [("2.1.200", True), ("2.1.90", False), (None, False)])
def test_arguments_are_given_where_they_are_taken(version, takes):
    assert claude_events.takes_args(version) is takes
