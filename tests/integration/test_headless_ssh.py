"""A headless agent's turns on another machine: over a real sshd, with a wire to it that is cut."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fleet import headless
from fleet.errors import LaunchError
from fleet.headless import log_of
from fleet.runtimes.base import Runtime
from fleet.runtimes.headless import WithHeadless
from fleet.runtimes.local_tmux import UMASK
from fleet.runtimes.ssh_hosts import HostState
from fleet.runtimes.ssh_turns import SshGround
from fleet.runtimes.turns import NONE, Ground
from fleet.terms import File, LaunchPlan
from tests.homes import Home, Stub
from tests.sshd import SshHost, needs_sshd
from tests.turns import Desk, message
from tests.waiting import until

pytestmark = [pytest.mark.real, needs_sshd]


@dataclass(kw_only=True)
class FarDesk(Desk):
    """Headless agents of a home, on an ssh host."""

    there: SshHost

    def _host(self) -> Runtime:
        return self.there.ssh

    def _ground(self) -> Ground:
        return SshGround(self.there.ssh)

    @property
    def reached(self) -> bool:
        return self.there.ssh.link.known.state is HostState.REACHABLE

    async def cut(self) -> None:
        """Cut the wire; returns when that has been noticed."""
        self.there.cut()
        await until(lambda: not self.reached, "the cut is noticed")

    async def heal(self) -> None:
        self.there.heal()
        await until(lambda: self.reached, "the host is back")

    async def next_daemon(self) -> None:
        await self.turns.close()
        await self.there.ssh.close()
        self.there.ssh = self.there.again()
        self.host = self.there.ssh
        await super().next_daemon()

    def folders(self) -> list[str]:
        """What stands there of turns, beside the claims of those that are not known to have been asked for once."""
        turns = Path(self.there.root).glob("agents/*/launch/*/turns/*/*")
        return sorted(f"{path.parent.name}/{path.name}" for path in turns if path.name not in ("claim", "purged"))


@pytest.fixture
async def desk(home: Home) -> AsyncIterator[FarDesk]:
    there = SshHost(home.path)
    await there.open()
    made = FarDesk(home.path, home.env, there=there)
    yield made
    there.heal()
    await made.close()
    await there.close()


def work(desk: Desk, name: str) -> Path:
    return desk.home / "work" / name


WAITS = "echo $FLEET_MESSAGE_ID >> begun; while [ ! -e go ]; do sleep 0.05; done; echo done $FLEET_MESSAGE_ID"


async def test_a_turn_runs_there_and_nothing_of_it_is_left_there(desk: FarDesk) -> None:
    up = desk.runner("cat; printf ' %s' \"$KEY\" $FLEET_SENDER $FLEET_GENERATION; umask", env={"KEY": "it's $HOME"})
    end = await desk.ask(message(text="größe 'x' $HOME\n`id`"))
    assert (end.ok, end.text) == (True, f"größe 'x' $HOME\n`id` it's $HOME alice {up.generation}{UMASK:04o}")
    assert desk.word("turn") == ["begun", "answered"]
    await until(lambda: not desk.folders(), "its folder there goes")
    assert any("größe" in line for line in log_of(desk.places, "web", 100)), "its log is here"


async def test_how_it_ends_is_told_as_of_one_here(desk: FarDesk) -> None:
    script = """case $(cat) in
        shy) echo 'not my field' >&2; exit 75 ;;
        weak) echo broken >&2; exit 3 ;;
        loud) head -c 3000000 /dev/zero | tr '\\0' x >&2; echo fine ;;
        long) head -c 100000 /dev/zero | tr '\\0' y ;;
        secret) echo the word is sesame ;;
        left) setsid sleep 300 >/dev/null 2>&1 & echo done ;;
        esac"""
    up = desk.runner(script, headless={"max_parallel": 8})
    desk.agents["web"] = replace(up, secrets=("sesame",))
    words = ("shy", "weak", "loud", "long", "secret", "left")
    asked = (desk.ask(message(n, thread=f"t-{word}", text=word)) for n, word in enumerate(words, 1))
    ends = dict(zip(words, await asyncio.gather(*asked), strict=True))
    assert (ends["shy"].declined, ends["shy"].text) == (True, "not my field")
    assert (ends["weak"].reason, ends["weak"].again) == ("program_failed", True)
    assert ends["loud"].text == "fine"
    assert ends["long"].text.endswith("(40000 bytes are left out)")
    assert "sesame" in ends["secret"].text
    assert not any("sesame" in line for line in log_of(desk.places, "web", 100))
    await desk.gone()


async def test_a_program_that_is_not_there_is_refused_at_the_launch_by_name(desk: FarDesk) -> None:
    runtime = WithHeadless(desk.host, desk.ground, desk.there.ssh._clock)
    handle = runtime.mint("web", f"web.1.{secrets.token_hex(4)}", NONE)
    assert not (await runtime.look(handle)).alive
    plan = LaunchPlan(agent="web", argv=("no-such-program",), cwd=desk.there.folder, env={"PATH": "/usr/bin:/bin"})
    with pytest.raises(LaunchError, match="no-such-program"):
        await runtime.launch(plan, handle)
    with pytest.raises(LaunchError, match="/no/such/folder"):
        await runtime.launch(replace(plan, argv=("cat",), cwd="/no/such/folder"), handle)
    assert not (await runtime.look(handle)).alive
    await runtime.launch(replace(plan, argv=("cat",), files=(File(f"{handle.folder}/x", b"x"),)), handle)
    assert (await runtime.look(handle)).alive and await runtime.read(f"{handle.folder}/x") == b"x"
    assert (await runtime.end(handle, grace=0.1)).exit_status == 0
    assert not (await runtime.look(handle)).alive
    assert (await runtime.end(handle, grace=0.1)).exit_status == 0


async def test_a_conversation_has_one_turn_at_a_time_there_and_stopping_one_ends_no_other(desk: FarDesk) -> None:
    desk.runner(f"setsid sleep 300 & {WAITS}", headless={"max_parallel": 2})
    first, second = desk.begin(message(1, thread="t-a")), desk.begin(message(2, thread="t-a"))
    other = desk.begin(message(3, thread="t-b"))
    await until(lambda: _lines(desk, "begun") == 2, "two conversations have their turns")
    assert desk.turns.running("web") == {"t-a", "t-b"}
    await desk.turns.stop_turn("web", "t-a")
    assert [(await first).reason, (await second).reason] == ["interrupted", "interrupted"]
    assert _lines(desk, "begun") == 2
    work(desk, "go").touch()
    assert (await other).text == f"done {message(3).id}"
    await desk.gone()


async def test_a_hung_turn_and_one_that_prints_without_end_are_gone_at_their_limit(desk: FarDesk) -> None:
    script = """case $(cat) in
        hang) trap '' TERM; setsid sh -c 'trap "" TERM; sleep 300' & sleep 300 ;;
        busy) while :; do echo busy; sleep 0.01; done ;;
        esac"""
    desk.runner(script, headless={"timeout": 2, "max_parallel": 2})
    ends = await asyncio.gather(
        *(desk.ask(message(n, thread=f"t-{n}", text=t)) for n, t in enumerate(("hang", "busy")))
    )
    assert {(end.reason, end.again) for end in ends} == {("timed_out", False)}
    assert not desk.living()


async def test_one_whose_launcher_is_killed_leaves_no_program_behind(desk: FarDesk) -> None:
    desk.runner("echo $$ > pid; sleep 300")
    turn = desk.begin()
    await until(lambda: _lines(desk, "pid"), "the turn runs")
    launcher = next(Path(desk.there.root).glob("agents/*/launch/*/turns/*/launcher"))
    os.kill(int(launcher.read_text().split()[0]), signal.SIGKILL)
    end = await turn
    assert (end.reason, end.again) == ("died", True)
    assert not desk.living()


# -- a link that is cut ----------------------------------------------------------------------------------------------


async def test_a_cut_in_a_turn_loses_nothing_and_doubles_nothing(desk: FarDesk) -> None:
    desk.runner(WAITS)
    turn = desk.begin()
    await until(lambda: _lines(desk, "begun") == 1, "the turn runs")
    await desk.cut()
    desk.away.add("web")
    work(desk, "go").touch()
    exit_ = next(Path(desk.there.root).glob("agents/*/launch/*/turns/*")) / "exit"
    await until(exit_.exists, "it ends while nobody hears of it")
    assert not turn.done()
    await desk.heal()
    desk.away.clear()
    assert (await turn).text == f"done {message().id}"
    assert _lines(desk, "begun") == 1
    await until(lambda: not desk.folders(), "its folder there goes")


async def test_a_turn_that_is_asked_for_while_the_link_is_cut_begins_once_when_it_is_back(desk: FarDesk) -> None:
    desk.runner(WAITS)
    work(desk, "go").touch()
    assert (await desk.ask(message(1))).ok
    desk.there.cut()  # not noticed yet: the request goes out, and comes there when the wire is healed
    turn = desk.begin(message(2))
    await until(lambda: not desk.reached, "the cut is noticed")
    assert _lines(desk, "begun") == 1
    await desk.heal()
    assert (await turn).text == f"done {message(2).id}"
    assert _lines(desk, "begun") == 2
    assert desk.turns_of() == [f"{message(1).id}.1", f"{message(2).id}.1"]


async def test_a_turn_that_is_given_up_while_the_link_is_cut_is_none_after_it(desk: FarDesk) -> None:
    desk.runner(WAITS)
    work(desk, "go").touch()
    assert (await desk.ask(message(1))).ok
    work(desk, "go").unlink()
    desk.there.cut()
    turn = desk.begin(message(2))
    await until(lambda: not desk.reached, "the cut is noticed")
    stop = asyncio.create_task(desk.turns.stop_turn("web", message().thread))
    await desk.heal()  # the request that was on its way comes there now, beside the one that ends it
    await stop
    assert not desk.living()
    assert (await turn).reason == "interrupted"
    work(desk, "go").touch()
    assert (await desk.ask(message(3))).ok


async def test_the_next_daemon_waits_for_a_turn_there_although_the_link_is_cut(desk: FarDesk) -> None:
    desk.runner(WAITS)
    turn = desk.begin()
    await until(lambda: _lines(desk, "begun") == 1, "the turn runs")
    await desk.cut()
    desk.away.add("web")
    await desk.next_daemon()
    await asyncio.gather(turn, return_exceptions=True)
    again, behind = desk.begin(), desk.begin(message(2))
    work(desk, "go").touch()
    desk.there.heal()
    desk.away.clear()
    assert [(await again).text, (await behind).text] == [f"done {message().id}", f"done {message(2).id}"]
    assert _lines(desk, "begun") == 2


async def test_its_time_limit_is_kept_there_while_nobody_hears_of_it(
    desk: FarDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headless, "LATE", 0.0)
    desk.runner("touch runs; sleep 300 & sleep 300", headless={"timeout": 5})
    turn = desk.begin()
    await until(work(desk, "runs").exists, "the turn runs")
    desk.there.cut()
    await desk.gone()
    await desk.heal()
    end = await turn
    assert (end.reason, end.again) == ("timed_out", False)


async def test_the_end_of_its_launch_ends_its_turns_and_lets_none_begin(desk: FarDesk) -> None:
    up = desk.runner(WAITS)
    turn = desk.begin()
    await until(lambda: _lines(desk, "begun") == 1, "the turn runs")
    runtime = WithHeadless(desk.host, desk.ground, desk.there.ssh._clock)
    handle = runtime.mint("web", up.generation, NONE)
    desk.agents.pop("web")
    await runtime.end(handle, grace=5)
    assert not desk.living()
    end = await turn
    assert (end.reason, end.again) == ("stopped", True)
    desk.agents["web"] = up
    refused = await desk.ask(message(2))
    assert (refused.reason, refused.again) == ("not_started", True)
    assert _lines(desk, "begun") == 1


# -- the real program ------------------------------------------------------------------------------------------------


async def test_the_real_program_goes_on_with_its_conversation_there_across_a_cut(
    desk: FarDesk, home: Home, stub: Stub, claude_program: str
) -> None:
    home.seed_claude(stub.url)
    desk.claude(claude_program, "2.1.0", headless={"tools": "all"})
    assert (await desk.ask(message(1), "Repeat one")).text == "one"
    call = 'TOOL Bash {"command": "touch began; until [ -e go ]; do sleep 0.1; done; echo went", "description": "x"}'
    turn = desk.begin(message(2, text=call))
    await until(lambda: work(desk, "began").exists() or turn.done(), "its tool runs")
    assert not turn.done(), turn.result()
    await desk.cut()
    work(desk, "go").touch()
    await desk.heal()
    end = await turn
    assert end.ok and "went" in end.text
    assert (await desk.ask(message(3), "Repeat three")).text == "three"
    asked = {e["prompt"]: e["n_messages"] for e in stub.log() if e.get("tools")}
    assert asked["Repeat three"] > asked["Repeat one"], "it is one conversation"
    assert all(dict(told)["cost_usd"] > 0 for kind, name, told in desk.events if (kind, name) == ("turn", "answered"))


def _lines(desk: Desk, name: str) -> int:
    path = work(desk, name)
    return len(path.read_text().splitlines()) if path.exists() else 0
