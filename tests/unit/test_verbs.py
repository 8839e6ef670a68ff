"""What reaches the daemon over its socket has the form it must have, or is refused by name: never a fault of ours."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.control import Operator, Server
from fleet.errors import BadRequest, FleetError, UnknownAgent
from fleet.testing import settle
from fleet.verbs import VERBS, Form, check
from tests.unit.fleet_in_memory import Daemon, World

ANYTHING = (
    5, -1, 1.5, True, "x", "", [], [5], ["x", None], {}, {"a": 1}, {"": "x"}, {"A=B": "x"}, "a\0b", "\ud800", 10**30,
    float("inf"), float("nan"),
)  # fmt: skip
HARD = (
    "a" * 300,
    "x/" * 2500,
    "a" * 300 + ".yaml",
    "/proc/1/root/x/",
    "\udcff",
    "\udcff.yaml",
    "../" * 40,
    "a\nb",
    "~",
)
"""Names and paths that a file system, or a terminal, does not take as others."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.close()


@pytest.fixture
async def daemon(world: World) -> Daemon:
    daemon = await world.daemon()
    await daemon.start(world.shell("web"))
    return daemon


async def asked(operator: Operator, path: Path, line: bytes) -> dict[str, Any]:
    """The answer to a raw line on the socket."""
    server = Server(operator)
    await server.listen(path)
    try:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line + b"\n")
        header = (await reader.readline()).decode().split()
        body = await reader.readexactly(int(header[1]))
        writer.close()
        answer: dict[str, Any] = json.loads(body)
        return {**answer, "exit": int(header[0].removeprefix("="))}
    finally:
        await server.close()


def test_every_verb_of_the_daemon_has_its_form() -> None:
    methods = {name.removeprefix("verb_") for name in dir(Operator) if name.startswith("verb_")}
    assert methods == VERBS.keys()


@pytest.mark.parametrize(("verb", "name"), [(verb, name) for verb, forms in VERBS.items() for name in forms])
async def test_a_value_of_another_form_is_refused_by_name_and_does_nothing(
    daemon: Daemon, verb: str, name: str
) -> None:
    before = daemon["web"].record
    wrong = [value for value in ANYTHING if not VERBS[verb][name].holds(value)]
    assert len(wrong) > 6
    for value in wrong:
        with pytest.raises(BadRequest, match=f"`{verb}`: `{name}` must be") as caught:
            await daemon.operator.do(verb, {"target": "web", name: value}, _progress)
        assert (caught.value.code, caught.value.exit_code) == ("bad_request", 2)
    assert daemon["web"].record is before


@pytest.mark.parametrize(
    "verb", [v for v, forms in VERBS.items() if {"target", "targets", "folder", "agent"} & set(forms)]
)
async def test_a_name_or_path_that_cannot_be_is_no_fault_of_ours(daemon: Daemon, verb: str) -> None:
    for text in HARD:
        args = {"target": text, "targets": [text], "folder": text, "agent": text}
        given = {name: args.get(name) for name in VERBS[verb] if name in args}
        with pytest.raises(FleetError):
            await daemon.operator.do(verb, {**given, "wait": False}, _progress)


async def test_it_is_said_on_the_socket_too(daemon: Daemon) -> None:
    request = {"verb": "stop", "args": {"targets": 5}}
    with tempfile.TemporaryDirectory(prefix="fl") as folder:
        answer = await asked(daemon.operator, Path(folder, "s"), json.dumps(request).encode())
    assert (answer["exit"], answer["error"]["code"], answer["error"]["argument"]) == (2, "bad_request", "targets")
    assert answer["error"]["message"] == "`stop`: `targets` must be a list of texts, not 5."


@pytest.mark.parametrize(
    "line",
    [b"", b"hello", b"[]", b"5", b'{"verb": "status", "args": []}', b'{"verb": "status"', b"\xff", b"{}",
     b'{"verb": 5}', b'{"verb": "__init__"}', b"[" * 100_000],
)  # fmt: skip
async def test_a_line_that_is_no_request_is_refused_by_name(daemon: Daemon, line: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="fl") as folder:
        answer = await asked(daemon.operator, Path(folder, "s"), line)
    assert (answer["exit"], answer["error"]["code"]) == (2, "bad_request")
    assert answer["error"]["hint"]


@pytest.mark.parametrize("verb", [verb for verb, forms in VERBS.items() if "target" in forms])
async def test_a_verb_that_needs_an_agent_says_so(daemon: Daemon, verb: str) -> None:
    with pytest.raises(BadRequest, match=f"`{verb}` needs `target`"):
        await daemon.operator.do(verb, {}, _progress)


def values(form: Form) -> st.SearchStrategy[Any]:
    """What holds, and what a hand or a script may write instead."""
    texts = st.one_of(st.sampled_from(["web", "wbe", "web.yaml", "/", ".", "a" * 300, "x/" * 2500, "é"]), st.text())
    loose = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), texts, st.lists(texts, max_size=3),
        st.dictionaries(texts, texts, max_size=2), st.lists(st.integers(), max_size=2),
    )  # fmt: skip
    return loose.filter(form.holds) | loose


requests = st.sampled_from(sorted(VERBS)).flatmap(
    lambda verb: st.tuples(
        st.just(verb), st.fixed_dictionaries({}, optional={name: values(f) for name, f in VERBS[verb].items()})
    )
)


@settings(max_examples=25, deadline=None)
@given(st.lists(requests, min_size=1, max_size=4))
def test_whatever_is_asked_is_answered_or_refused(asked: list[tuple[str, dict[str, Any]]]) -> None:
    """A request that follows, or waits, is left after a moment, as by a client that hangs up."""

    async def scenario(folder: Path) -> None:
        world = World(folder)
        daemon = await world.daemon()
        await daemon.start(world.shell("web"))
        for verb, args in asked:
            doing = asyncio.ensure_future(daemon.operator.do(verb, args, _progress))
            await settle(20)
            await asyncio.wait({doing}, timeout=0 if doing.done() else 0.05)
            if not doing.done():
                doing.cancel()
                await asyncio.gather(doing, return_exceptions=True)
                continue
            if error := doing.exception():
                assert isinstance(error, FleetError), (verb, args, error)
        await world.close()

    with tempfile.TemporaryDirectory(prefix="fl") as folder:
        asyncio.run(scenario(Path(folder)))


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        (verb, {"target": "wbe", "targets": ["wbe"]})
        for verb, forms in VERBS.items()
        if {"target", "targets"} & set(forms)
    ]
    + [("events", {"agent": "wbe"}), ("events", {"agent": "wbe", "follow": True})],
)
async def test_a_name_that_nobody_has_is_answered_with_the_nearest(
    daemon: Daemon, verb: str, args: dict[str, Any]
) -> None:
    with pytest.raises(UnknownAgent) as caught:
        await daemon.operator.do(verb, args, _progress)
    assert caught.value.hint == "Did you mean web?"


@pytest.mark.parametrize("verb", ["start", "status", "inspect"])
async def test_a_name_whose_manifest_stands_here_and_was_never_started_is_answered_with_that(
    daemon: Daemon, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "helper.yaml").write_text("")
    with pytest.raises(UnknownAgent) as caught:
        await daemon.operator.do(verb, {"target": "helper", "targets": ["helper"], "cwd": str(tmp_path)}, _progress)
    assert (caught.value.hint or "").startswith("`fleet start helper.yaml` starts")


@pytest.mark.parametrize(
    ("word", "hint"), [("WEB", "Did you mean web?"), ("zzz", "`fleet status` lists the ones there are.")]
)
async def test_the_nearest_name_is_found_whatever_its_capitals_and_none_where_none_is_near(
    daemon: Daemon, word: str, hint: str
) -> None:
    with pytest.raises(UnknownAgent) as caught:
        await daemon.operator.do("inspect", {"target": word}, _progress)
    assert caught.value.hint == hint


async def test_events_of_a_session_that_is_no_agent_are_listed_by_its_name(daemon: Daemon) -> None:
    daemon.supervisor.record_event("by-hand", "hook", "Stop", {})
    answer = await daemon.operator.do("events", {"agent": "by-hand"}, _progress)
    assert [event["agent"] for event in answer.data["events"]] == ["by-hand"]


async def test_whoever_follows_hears_each_event_once_whole_and_in_order(daemon: Daemon) -> None:
    heard: list[Any] = []

    async def on_event(told: dict[str, Any]) -> None:
        heard.append(told["event"])

    daemon.supervisor.record_event("by-hand", "action", "0", {})
    following = asyncio.ensure_future(daemon.operator.do("events", {"agent": "by-hand", "follow": True}, on_event))
    for n in range(1, 30):
        await settle(n % 5)
        daemon.supervisor.record_event("by-hand" if n % 3 else "another", "action", str(n), {"n": n})
    await daemon.supervisor.write_events()
    await settle()
    following.cancel()
    asked = (await daemon.operator.do("events", {"agent": "by-hand"}, _progress)).data["events"]
    assert [event["name"] for event in heard] == [str(n) for n in range(30) if n % 3 or n == 0]
    assert heard == asked


async def test_who_stops_waiting_for_what_is_being_written_loses_none_of_it(daemon: Daemon) -> None:
    daemon.supervisor.record_event("by-hand", "action", "first", {})
    asking = asyncio.ensure_future(daemon.operator.do("events", {"agent": "by-hand"}, _progress))
    await settle(1)
    asking.cancel()
    answer = await daemon.operator.do("events", {"agent": "by-hand"}, _progress)
    assert [event["name"] for event in answer.data["events"]] == ["first"]


async def test_a_type_that_no_event_has_is_told_with_the_nearest(daemon: Daemon) -> None:
    answer = await daemon.operator.do("events", {"type": "hok"}, _progress)
    assert (answer.data["events"], answer.warnings) == ([], ["no event is of the type 'hok': did you mean hook?"])
    assert (await daemon.operator.do("events", {"type": "killed"}, _progress)).warnings == []


def test_what_is_not_given_and_what_a_newer_client_says_is_passed_over() -> None:
    check("logs", {"target": "web", "lines": None, "colour": 7})


async def _progress(told: object) -> None:
    assert told
