"""What `fleet check` asks an ssh host: one connection, one question. Nothing is put there, and nothing is started."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from fleet.errors import HostUnreachable, LaunchError, TimedOut
from fleet.hosts import config_files, ways
from fleet.manifests.model import AgentSpec, Remote
from fleet.runtimes.ssh import Link
from fleet.runtimes.ssh_hosts import Way
from fleet.runtimes.ssh_tmux import login
from fleet.settings import Settings

OK, WARN, FAIL = "ok", "warn", "fail"

TOOLS = ("awk", "cat", "env", "grep", "ls", "mkdir", "mv", "rm", "sleep", "tail", "tar", "tr", "uname", "wc")
"""What fleet's own sh uses there, all of POSIX or of every Linux."""

SCRIPT = r"""
tools=$1 program=$2 workdir=$3 path=$4 python=$5; shift 5
at() { case $1 in '~' | '~/'*) printf %s "$HOME${1#"~"}" ;; /*) printf %s "$1" ;; *) printf %s "$HOME/$1" ;; esac; }
say() { printf '%s\t%s\n' "$1" "$2"; }
say machine "$(uname -n)"
[ -r /proc/self/stat ] || say no-proc -
for tool in $tools; do command -v "$tool" >/dev/null || say no-tool "$tool"; done
if command -v tmux >/dev/null; then say tmux "$(tmux -V)"; else say no-tmux -; fi
command -v timeout >/dev/null || say no-timeout -
[ -z "$python" ] || command -v python3 >/dev/null || say no-python -
[ -z "$path" ] || PATH=$path
case $program in
*/*) found=$(at "$program"); [ -f "$found" ] && [ -x "$found" ] || found= ;;
*) found=$(command -v "$program") ;;
esac
if [ -n "$found" ]; then say program "$found"; else say no-program "$PATH"; fi
if [ -n "$workdir" ]; then
    folder=$(at "$workdir")
    if [ -d "$folder" ]; then say workdir "$folder"; else say no-workdir "$folder"; fi
fi
for venv in "$@"; do
    folder=$(at "$venv")
    if [ -x "$folder/bin/python" ]; then say venv "$folder"; break; fi
done
"""


@dataclass(frozen=True, slots=True)
class Told:
    """One thing about the host."""

    name: str
    status: str
    message: str
    remedy: str | None = None


def examine(spec: AgentSpec, program: str, settings: Settings) -> Iterator[Told]:
    """Every host that the manifest names; at least one has to answer."""
    assert spec.remote is not None
    told = [(way, asyncio.run(_ask(spec, spec.remote, way, program, settings))) for way in ways(spec.remote)]
    any_answers = any(not isinstance(answer, HostUnreachable) for _, answer in told)
    for way, answer in told:
        if isinstance(answer, HostUnreachable):
            yield Told("host", WARN if any_answers else FAIL, str(answer), answer.hint)
        else:
            yield from findings(spec, way, program, answer)


async def _ask(
    spec: AgentSpec, remote: Remote, way: Way, program: str, settings: Settings
) -> dict[str, list[str]] | HostUnreachable:
    link = Link(way, config=config_files(settings), probe_within=settings.ssh_probe_within)
    path, python = spec.env.get("PATH"), spec.harness == "claude-code" and spec.hub.enabled and spec.hub.mcp
    venvs = (spec.venv,) if isinstance(spec.venv, str) else spec.venv or ()
    words = [" ".join(TOOLS), program, spec.workdir or "", path if isinstance(path, str) else "", "1" if python else ""]
    asked = f"exec /bin/sh -c {shlex.quote(SCRIPT)} sh {shlex.join([*words, *venvs])}"
    if remote.login_shell:
        asked = login(asked)
    try:
        ran = await link.command(asked, timeout=remote.timeout)
    except HostUnreachable as error:
        return error
    except (TimedOut, LaunchError) as error:
        return HostUnreachable(str(error))
    finally:
        await link.close()
    found: dict[str, list[str]] = {}
    for line in ran.stdout.decode(errors="replace").splitlines():
        key, tab, value = line.partition("\t")
        if tab:
            found.setdefault(key, []).append(value)
    return found if "machine" in found else HostUnreachable(f"{way.name}: its login shell ran nothing of ours")


def findings(spec: AgentSpec, way: Way, program: str, said: dict[str, list[str]]) -> Iterator[Told]:
    """What the host has said, and what to do about what is missing."""
    on = f"on {way.name}"
    yield Told("host", OK, f"{way.name} answers as {said['machine'][0]}")
    missing = [*said.get("no-tool", ()), *(["/proc"] if "no-proc" in said else [])]
    if missing:
        yield Told("host", FAIL, f"{', '.join(missing)} not found {on}", "fleet needs a Linux with these.")
    if spec.mode == "headless":
        if "no-timeout" in said:
            why = f"timeout is not found {on}: a turn's time limit is kept only while the host is connected"
            yield Told("headless", WARN, why, f"ssh {way.name} sudo apt-get install coreutils")
    elif "tmux" in said:
        yield Told("multiplexer", OK, f"{said['tmux'][0]} {on}")
    else:
        yield Told("multiplexer", FAIL, f"tmux is not found {on}", f"ssh {way.name} sudo apt-get install tmux")
    if "program" in said:
        yield Told("program", OK, f"{said['program'][0]} {on}")
    else:
        remedy = "Install it there, name its path as command, or take the PATH of a login shell: login_shell: true."
        yield Told("program", FAIL, f"{program} is not found {on}, whose PATH is {said['no-program'][0]}", remedy)
    if "no-workdir" in said:
        folder = said["no-workdir"][0]
        yield Told("workdir", FAIL, f"{folder} does not exist {on}", f"ssh {way.name} mkdir -p {shlex.quote(folder)}")
    elif "workdir" in said:
        yield Told("workdir", OK, f"{said['workdir'][0]} {on}")
    if "venv" in said:
        yield Told("venv", OK, f"{said['venv'][0]} {on}")
    elif spec.venv:
        first = spec.venv if isinstance(spec.venv, str) else spec.venv[0]
        make = f"ssh {way.name} python3 -m venv {shlex.quote(first) if not first.startswith('~') else first}"
        yield Told("venv", FAIL, f"no virtual environment {first} {on}", make)
    if "no-python" in said:
        yield Told(
            "mcp", WARN, f"python3 is not found {on}: the hub's MCP tools do not work there", "Install it there."
        )
