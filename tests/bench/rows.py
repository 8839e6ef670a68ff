"""What is measured: one function for each part of the table, from a living fleet to the lines that are printed."""

from __future__ import annotations

import asyncio
import json
import random
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Command, load_of, median, percentile, side_by_side, until
from tests.bench.ours import PRINTING, OurFleet
from tests.bench.peer import Peer

ROOT = Path(__file__).parent.parent.parent
SCREENS = ROOT / "tests" / "screens" / "claude-code-2.1.329"
PAYLOAD = {
    "session_id": "0b5c1f7e-2d57-4a44-9d5e-0f3a8a1f1a11",
    "transcript_path": "/tmp/transcript.jsonl",
    "cwd": "/tmp",
    "permission_mode": "default",
    "hook_event_name": "PreToolUse",
    "tool_name": "Bash",
    "tool_input": {"command": "git status --short && " + "true && " * 100 + "true", "description": "Show the changes"},
    "tool_use_id": "toolu_01",
}


@dataclass(frozen=True)
class Row:
    """One line of the table. `kept` is `None` where there is no goal to keep."""

    what: str
    goal: str
    found: str
    kept: bool | None = None


Sizes = dict[str, int]
Part = Callable[[OurFleet, Peer, Sizes], Iterator[Row]]


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def python_alone(fleet: OurFleet) -> Command:
    """What the command line is held against: Python with the three modules that any such client needs."""
    return Command([sys.executable, "-c", "import json, socket, argparse"], fleet.env, fleet.path)


# -- hooks ----------------------------------------------------------------------------------------------------------


def hooks(fleet: OurFleet, peer: Peer, sizes: Sizes) -> Iterator[Row]:
    """The hook as a launch has wired it, and the same event by the command line."""
    payload = fleet.path / "payload.json"
    payload.write_text(json.dumps(PAYLOAD))
    command, env = wired_hook(fleet)
    hook = Command(command, env, fleet.path, payload)
    typed = fleet.command("hook-event", "pretool", "--agent", "hooked", stdin=payload)
    theirs = peer.command("hook-event", "pretool", "--agent", "hooked", stdin=payload)
    shell = Command(["/bin/sh", "-c", ":"], fleet.env, fleet.path)
    ways = {"hook": hook, "typed": typed, "shell": shell, "peer": theirs}
    rounds = {"hook": sizes["runs"], "typed": sizes["runs"], "shell": sizes["runs"], "peer": sizes["peer runs"]}
    up = {name: median(took) for name, took in side_by_side(ways, rounds).items()}
    fleet.must("daemon", "stop")
    until(lambda: not fleet.answers(), within=30)
    down = {name: median(took) for name, took in side_by_side(ways, rounds).items()}
    for daemon, took in (("up", up), ("down", down)):
        yield Row(
            f"hook path, end to end as the agent's program pays it, daemon {daemon}",
            "≤ 1/60 of the peer's and ≤ 5 × `sh -c :`",
            f"{ms(took['hook'])}; peer {ms(took['peer'])} (1/{took['peer'] / took['hook']:.0f}); "
            f"`sh -c :` {ms(took['shell'])} ({took['hook'] / took['shell']:.1f} ×)",
            took["hook"] * 60 <= took["peer"] and took["hook"] <= 5 * took["shell"],
        )
    for daemon, took in (("up", up), ("down", down)):
        yield Row(
            f"`fleet hook-event` typed by hand, daemon {daemon}",
            "≤ 1/10 of the peer's",
            f"{ms(took['typed'])}; peer {ms(took['peer'])} (1/{took['peer'] / took['typed']:.1f})",
            took["typed"] * 10 <= took["peer"],
        )


def wired_hook(fleet: OurFleet) -> tuple[list[str], dict[str, str]]:
    """The command and environment that a launched Claude Code would run at PreToolUse."""
    quiet = fleet.program("versioned", f'#!/bin/sh\n[ "$1" = --version ] && exec echo 2.1.329\nexec {fleet.trivial}\n')
    folder = fleet.manifests(["hooked"], quiet, harness="claude-code")
    starting = threading.Thread(target=fleet.fleet, args=("start", str(folder)), daemon=True)
    starting.start()
    launches = fleet.path / "fleet" / "state" / "agents" / "hooked" / "launch"
    until(lambda: any(launches.glob("*/program")), within=60)
    launch = next(launches.glob("*/program")).parent
    settings = json.loads((launch / "settings.json").read_text())
    hook = settings["hooks"]["PreToolUse"][0]["hooks"][0]
    words = shlex.split((launch / "env").read_text())
    env = dict(word.split("=", 1) for word in words if "=" in word)
    pid = (launch / "program").read_text().split()[0]
    return [hook["command"], *hook["args"]], {
        **env,
        "CLAUDE_PID": pid,
        "CLAUDE_CODE_SESSION_ID": str(PAYLOAD["session_id"]),
    }


# -- fifty agents ---------------------------------------------------------------------------------------------------


def fifty(fleet: OurFleet, peer: Peer, sizes: Sizes) -> Iterator[Row]:
    """Fifty agents under both: their start, one look at all of them, and the other reads."""
    count = sizes["agents"]
    names = [f"a{i:02}" for i in range(count)]
    folder = fleet.manifests(names, fleet.trivial)
    ours = fleet.command("start", str(folder))()
    up = [a for a in fleet.agents() if a["phase"] == "running"]
    if len(up) < count:
        raise RuntimeError(f"only {len(up)} of {count} run")
    peer.declare(names)
    theirs = peer.command("start", "--all")()
    if peer.sessions() != count:
        raise RuntimeError(f"the peer started {peer.sessions()} of {count}")
    yield Row(
        f"start of {count} agents to all started, the daemon's own start included",
        "≤ 1/10 of the peer's",
        f"{ms(ours)}; peer {ms(theirs)} (1/{theirs / ours:.0f})",
        ours * 10 <= theirs,
    )
    yield from reads(fleet, peer, sizes, names)


def reads(fleet: OurFleet, peer: Peer, sizes: Sizes, names: Sequence[str]) -> Iterator[Row]:
    alone, status = python_alone(fleet), fleet.command("status", "--json")
    rounds = {"alone": sizes["runs"], "status": sizes["runs"]}
    took = side_by_side({"alone": alone, "status": status}, rounds)
    bare, ours = median(took["alone"]), median(took["status"])
    theirs = sum(peer.command("status", name, "--json")() for name in names)
    yield Row(
        f"`fleet status --json`, {len(names)} agents, all fields",
        "≤ 1/300 of the peer's and ≤ 4 × Python alone¹",
        f"{ms(ours)}; peer {ms(theirs)} (1/{theirs / ours:.0f}); Python alone {ms(bare)} ({ours / bare:.1f} ×)",
        ours * 300 <= theirs and ours <= 4 * bare,
    )
    one = names[0]
    others = {
        "status NAME": ("status", one),
        "inspect": ("inspect", one),
        "explain": ("explain", one),
        "list": ("list",),
        "health": ("health",),
        "logs": ("logs", one),
        "events": ("events", "--agent", one),
    }
    for form, words, times in (("with `--json`", ["--json"], 2), ("as a table", [], 4)):
        ways = {"alone": alone, **{name: fleet.command(*said, *words) for name, said in others.items()}}
        if not words:
            ways["status"] = fleet.command("status")
        medians = {n: median(t) for n, t in side_by_side(ways, dict.fromkeys(ways, sizes["runs"])).items()}
        bare = medians.pop("alone")
        slowest = max(medians, key=medians.__getitem__)
        each = ", ".join(f"{name} {took / bare:.1f}" for name, took in sorted(medians.items(), key=lambda m: m[1]))
        yield Row(
            f"any other read that the daemon answers, {form}",
            f"≤ {times} × Python alone¹",
            f"{slowest} {ms(medians[slowest])}, Python alone {ms(bare)} ({medians[slowest] / bare:.1f} ×; {each})",
            medians[slowest] <= times * bare,
        )


# -- what dies and comes back -----------------------------------------------------------------------------------------


def deaths(fleet: OurFleet, peer: Peer, sizes: Sizes) -> Iterator[Row]:
    """`kill -9` of an agent and of the daemon."""
    folder = fleet.manifests(["fragile"], fleet.trivial)
    fleet.must("start", str(folder))

    def running() -> dict[str, int]:
        return {a["name"]: a["pid"] for a in fleet.agents() if a["phase"] == "running" and a["pid"]}

    before = running()["fragile"]
    Command(["/bin/kill", "-9", str(before)], fleet.env, fleet.path)()
    took = until(lambda: running().get("fragile", before) != before, within=60)
    yield Row(
        "`kill -9` of an agent to its running again, its own start included",
        "≤ 2 s and the program's own start (1 s for a shell agent); the peer restarts nothing",
        ms(took),
        took <= 3,
    )
    tries = []
    for _ in range(sizes["kills"]):  # a keeper waits longer for a daemon that keeps dying: each has its own
        with OurFleet() as one:
            one.must("start", str(one.manifests(["fragile"], one.trivial)))
            tries.append(one.kill_daemon())
    yield Row(
        "`kill -9` of the daemon to its answering again (keeper)",
        "≤ 1.5 s",
        f"median {ms(median(tries))}, slowest {ms(max(tries))} of {len(tries)}",
        max(tries) <= 1.5,
    )


# -- many panes -----------------------------------------------------------------------------------------------------


def many_panes(fleet: OurFleet, peer: Peer, sizes: Sizes) -> Iterator[Row]:
    """What hundreds of panes cost the daemon, quiet and printing, and how it finds them after a restart."""
    many, crowd = sizes["panes"], sizes["crowd"]
    quiet = [f"quiet-{i}" for i in range(many)]
    fleet.must("start", str(fleet.manifests(quiet, fleet.trivial)))
    yield load_row(fleet, sizes, f"{many} panes, idle", 1)
    daemon = fleet.daemon.memory_info().rss / 2**20
    yield Row(f"daemon's memory with {many} agents", "≤ 120 MB", f"{daemon:.0f} MB (RSS)", daemon <= 120)
    yield adoption(fleet, many)
    fleet.must("stop", "--all", "--timeout", "300")
    printing = fleet.program("printing", PRINTING)
    loud = [f"loud-{i}" for i in range(crowd)]
    folder = fleet.manifests(loud[:many], printing)
    fleet.must("start", str(folder))
    yield load_row(fleet, sizes, f"{many} panes, each printing a line a second", 5)
    more = fleet.manifests(loud[many:], printing)
    fleet.must("start", str(more))
    yield load_row(fleet, sizes, f"{crowd} panes, each printing a line a second", 12)


def load_row(fleet: OurFleet, sizes: Sizes, what: str, goal: float) -> Row:
    time.sleep(sizes["settle"])
    servers = fleet.tmux_servers()
    load = load_of({"daemon": [fleet.daemon], "tmux": servers}, sizes["seconds"])
    return Row(
        f"daemon's CPU, {what}",
        f"≤ {goal:g} % of a core",
        f"{load['daemon']:.1f} % (tmux's own {len(servers)} servers {load['tmux']:.1f} %) over {sizes['seconds']} s",
        load["daemon"] <= goal,
    )


def adoption(fleet: OurFleet, many: int) -> Row:
    """From the restart to all agents seen again by the new daemon."""
    before = fleet.daemon.pid
    started = time.time()
    restarting = threading.Thread(target=fleet.fleet, args=("daemon", "restart"), daemon=True)
    restarting.start()

    def adopted() -> bool:
        try:
            if fleet.ask("ping")["pid"] == before:
                return False
            seen = [a for a in fleet.agents() if a["phase"] == "running" and (a["observed_at"] or 0) > started]
        except OSError:
            return False
        return len(seen) >= many

    took = until(adopted, within=60)
    restarting.join(60)
    return Row(f"daemon restart to {many} agents adopted", "≤ 3 s", ms(took), took <= 3)


# -- a change, seen ---------------------------------------------------------------------------------------------------


def changes(fleet: OurFleet, peer: Peer, sizes: Sizes) -> Iterator[Row]:
    """A pane that shows another screen: when `fleet wait` knows the new state."""
    many = sizes["panes"]
    shown = screens()
    folders = [fleet.path / "work" / f"w{i}" for i in range(many)]
    for folder in folders:
        folder.mkdir(parents=True)
    actor = fleet.program("actor", ACTOR.format(screens=fleet.path / "screens", first="ready"))
    (fleet.path / "screens").mkdir()
    for name, ansi in shown.items():
        (fleet.path / "screens" / name).write_bytes(ansi)
    declared = fleet.path / "agents" / "actors"
    declared.mkdir()
    for i, folder in enumerate(folders):
        spec = {"harness": "claude-code", "command": [str(actor)], "workdir": str(folder)}
        manifest = {"apiVersion": "fleet/v1", "kind": "Agent", "metadata": {"name": f"w{i}"}, "spec": spec}
        (declared / f"w{i}.yaml").write_text(json.dumps(manifest))
    fleet.must("start", str(declared))
    until(lambda: sum(a["activity"] == "ready" for a in fleet.agents()) >= many, within=60)
    took = asyncio.run(all_changes(fleet, folders, sizes["rounds"], list(shown)))
    for name, seconds in took.items():
        yield Row(
            f"pane change to state known ({name}), {many} panes, {len(seconds)} changes",
            "p99 ≤ 1 s",
            f"median {ms(median(seconds))}, p99 {ms(percentile(seconds, 0.99))}, slowest {ms(max(seconds))}",
            percentile(seconds, 0.99) <= 1,
        )


ACTOR = """\
#!/bin/sh
# Shows the screen whose name comes through its bell.
[ "$1" = --version ] && exec echo "2.1.329 (Claude Code)"
stty -echo
mkfifo bell
show() {{ printf '\\033[?1049h\\033[2J\\033[H'; cat "{screens}/$1"; }}
show {first}
while :; do read -r name <bell && show "$name"; done
"""


def screens() -> dict[str, bytes]:
    """A captured screen of the real program for each state, with its title and cursor, as bytes to print."""
    wanted = {"ready": ("idle", "ready"), "needs_input": ("permission-bash", "needs_input"), "working": ("running", "")}
    listed = [json.loads(line) for line in (SCREENS / "index.jsonl").read_text().splitlines()]
    shown = {}
    for activity in wanted:
        found = next(
            entry
            for entry in listed
            if entry["size"] == "120x40"
            and entry["expect"]["activity"] == [activity]
            and not entry["dead"]
            and not entry["expect"].get("draft")
            and entry.get("alternate_screen")
            and (activity != "needs_input" or entry["expect"].get("kind") == ["permission"])
        )
        ansi = (SCREENS / found["file"]).with_suffix(".ansi").read_text().rstrip("\n").replace("\n", "\r\n")
        column, line = (int(n) + 1 for n in found["cursor"].split(","))
        shown[activity] = f"\033]2;{found['title']}\007{ansi}\033[{line};{column}H".encode()
    return shown


async def all_changes(
    fleet: OurFleet, folders: Sequence[Path], rounds: int, order: Sequence[str]
) -> dict[str, list[float]]:
    """Every agent goes through the states, each change at a moment of its own; the seconds until each was known."""
    took: dict[str, list[float]] = {name: [] for name in order}

    async def one(number: int) -> None:
        for turn in range(rounds):
            for name in (*order[1:], order[0]):
                await asyncio.sleep(random.uniform(0, 0.1 * len(folders)))
                took[name].append(await change(fleet, f"w{number}", folders[number], name))
            del turn

    await asyncio.gather(*(one(i) for i in range(len(folders))))
    return took


async def change(fleet: OurFleet, agent: str, folder: Path, name: str) -> float:
    reader, writer = await asyncio.open_unix_connection(fleet.control)
    request = {"verb": "wait", "args": {"target": agent, "for": name, "timeout": 30}, "client": "bench"}
    writer.write(json.dumps(request).encode() + b"\n")
    await writer.drain()
    started = time.perf_counter()
    await asyncio.to_thread((folder / "bell").write_text, f"{name}\n")
    answer = await reader.read()
    took = time.perf_counter() - started
    writer.close()
    if b'"reached"' not in answer:
        raise RuntimeError(f"{agent} {name}: {answer.decode()}")
    return took


PARTS: dict[str, Part] = {
    "hooks": hooks,
    "fifty": fifty,
    "deaths": deaths,
    "panes": many_panes,
    "changes": changes,
}
