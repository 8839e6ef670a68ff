"""Take captures of the real Claude Code program: `python tests/screens/capture.py --program PATH --out FOLDER`.

Each scenario starts the program in a tmux of its own (own socket, own home, own stand-in for the model's API),
drives it with keys, and saves what the pane shows at the moments that `shot` names, with the answer that the
driver knows because it brought the state about. What the program wrote into its own state file stands beside it,
so that a capture taken at the wrong moment can be told: `--check` leaves such captures out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
KEY = "sk-ant-api03-" + "k" * 40 + "0123456789abcdefghij"
READY: dict[str, Any] = {"activity": ["ready"], "draft": False, "pane_state": "idle_prompt"}
DRAFT: dict[str, Any] = {"activity": ["ready"], "draft": True, "pane_state": "compose_pending_unsent"}
WORKING: dict[str, Any] = {"activity": ["working"], "pane_state": "running"}
PERMISSION: dict[str, Any] = {"activity": ["needs_input"], "kind": ["permission"], "pane_state": "y_n_prompt"}
QUESTION: dict[str, Any] = {"activity": ["needs_input"], "kind": ["question"]}
PLAN: dict[str, Any] = {"activity": ["needs_input"], "kind": ["plan"]}
ERROR: dict[str, Any] = {"activity": ["error"]}
AUTH: dict[str, Any] = {"activity": ["error"], "pane_state": "auth_error"}
LIMITED: dict[str, Any] = {"activity": ["limited"], "pane_state": "limit_reached"}
MENU: dict[str, Any] = {"activity": ["unknown", "ready", "needs_input"]}
GONE: dict[str, Any] = {"activity": ["exited"]}
GONE_TO_SHELL: dict[str, Any] = {"activity": ["exited", "unknown"]}

CANNED = {
    "limit": "The worker's log ends with these lines:\n\nYou've hit your 5-hour limit · resets 9:20pm (UTC)\n"
    "● Usage limit reached · continuing automatically at 9:51pm · esc to cancel",
    "barelimit": "You've hit your 5-hour limit · resets 9:20pm (UTC)",
    "bareerror": "API Error: 500 Internal server error. This is a server-side issue, usually temporary.",
    "codeerror": "`API Error: 500 Internal server error`",
    "barelogin": "Please run /login · API Error: 401 Invalid bearer token",
    "working": "The dashboard looks for:\n\n✻ Working… (12s · esc to interrupt)\n✽ Compacting conversation… (3s)\n"
    "✻ Waiting for 1 background agent to finish",
    "bareworking": "Working… (esc to interrupt)",
    "dialog": "The other pane shows:\n\n```\n Bash command\n\n   rm -rf build\n\n Do you want to proceed?\n ❯ 1. Yes\n"
    "   2. No\n\n Esc to cancel · Tab to amend\n```",
    "trust": "It asks:\n\n```\n Accessing workspace:\n\n Is this a project you created or one you trust?\n\n"
    " ❯ 1. Yes, I trust this folder\n   2. No, exit\n\n Enter to confirm · Esc to cancel\n```",
    "composer": "A screen ends like this:\n\n```\n" + "─" * 60 + "\n❯\u00a0please go on\n" + "─" * 60
    + "\n  ⏸ manual mode on · esc to interrupt\n```",
    "question": "Would you like to proceed?\n\n❯ 1. Yes, and use auto mode\n  2. Yes, manually approve edits\n  3. No, "
    "keep planning\n\nEnter to select · ↑/↓ to navigate · Esc to cancel",
    "rule": "Above the rule.\n\n---\n\nOverwrite existing file? [y/N]",
    "retry": "It printed `✻ 529 Overloaded · retrying in 10s · attempt 5/10` and went on.",
}  # fmt: skip


TOLD: dict[str, str] = tomllib.loads((Path(__file__).parent / "told.toml").read_text())
"""More of them, in tables, lists, diffs and other languages: `told`."""
CANNED |= TOLD

ALIKE = {"barelimit": ["limited"], "bareerror": ["error"], "barelogin": ["error"], "bareworking": ["working"]}
"""An answer that is nothing but those words is drawn by the program just as its own would be."""


class Session:
    """One run of the program in a pane."""

    def __init__(self, run: Run, name: str, size: str) -> None:
        self.run, self.name, self.size = run, name, size
        self.width, self.height = (int(n) for n in size.split("x"))
        self.folder = Path(tempfile.mkdtemp(prefix="cap", dir=run.base))
        self.home = self.folder / "h"
        self.cwd = self.folder / "proj"
        self.socket = str(self.folder / "t")
        self.stub: subprocess.Popen[bytes] | None = None
        self.port = 0
        for p in (self.home / ".claude", self.cwd, self.folder / "run", self.folder / "tmp"):
            p.mkdir(parents=True)

    # -- setting up ------------------------------------------------------------------------------------------

    def seed(self, *, trust: bool = True, key: bool = True, onboarded: bool = True, bypass: bool = False) -> None:
        """The files that a person's home has after the first run."""
        data: dict[str, Any] = {"bypassPermissionsModeAccepted": bypass, "numStartups": 5, "theme": "dark"}
        if onboarded:
            data |= {"hasCompletedOnboarding": True, "lastOnboardingVersion": "9.9.9"}
        if key:
            data["customApiKeyResponses"] = {"approved": [KEY[-20:]], "rejected": []}
        data["projects"] = {str(self.cwd): {"hasTrustDialogAccepted": trust, "hasCompletedProjectOnboarding": True}}
        (self.home / ".claude.json").write_text(json.dumps(data))

    def settings(self, **values: Any) -> None:
        (self.home / ".claude" / "settings.json").write_text(json.dumps(values))

    async def serve(self) -> None:
        if self.stub is None:
            self.port = self.run.next_port()
            self.stub = subprocess.Popen(
                [sys.executable, __file__, "--stub", str(self.port)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(200):
                with contextlib.suppress(OSError):
                    _r, w = await asyncio.open_connection("127.0.0.1", self.port)
                    w.close()
                    return
                await asyncio.sleep(0.1)
            raise RuntimeError("the stub does not answer")

    async def mode(self, **values: Any) -> None:
        """Set the stub's mode (see its docstring)."""
        body = json.dumps(values).encode()
        r, w = await asyncio.open_connection("127.0.0.1", self.port)
        w.write(
            b"POST /_stub/mode HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        w.write(body)
        await w.drain()
        await r.read()
        w.close()

    def env(self, extra: dict[str, str]) -> dict[str, str]:
        base = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TERM": "tmux-256color",
            "SHELL": "/bin/bash",
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "TMPDIR": str(self.folder / "tmp"),
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{self.port}",
            "ANTHROPIC_API_KEY": KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "IS_SANDBOX": "1",
            "EDITOR": "vim",
            "PS1": "user@host:~/proj$ ",
            **extra,
        }
        return {k: v for k, v in base.items() if v}

    async def start(self, *args: str, env: dict[str, str] | None = None, shell: bool = False) -> None:
        """Start the program in a pane; with `shell` inside an interactive bash."""
        await self.serve()
        environ = self.env(env or {})
        argv = [*self.run.program, *args]
        if not any(a == "--permission-mode" for a in args) and "--plain" not in args:
            argv += ["--permission-mode", "default" if self.run.old else "manual"]
        argv = [a for a in argv if a != "--plain"]
        (self.folder / "conf").write_text(
            "set -g status off\nset -g remain-on-exit on\nset -g default-terminal tmux-256color\n"
            "set -g escape-time 0\nset -g history-limit 2000\n"
        )
        command = ["bash", "--noprofile", "--norc", "-i"] if shell else argv
        await self.tmux(
            "new-session", "-d", "-s", "s", "-x", str(self.width), "-y", str(self.height), "-c", str(self.cwd),
            "env", "-i", *(f"{k}={v}" for k, v in environ.items()), *command,
            first=True,
        )  # fmt: skip
        if shell:
            await asyncio.sleep(0.5)
            await self.say(" ".join(argv))

    async def tmux(self, *args: str, first: bool = False) -> str:
        argv = ["tmux", "-u", "-S", self.socket, "-f", str(self.folder / "conf"), *args]
        p = await asyncio.create_subprocess_exec(*argv, stdout=-1, stderr=-1, env={"PATH": os.environ["PATH"]})
        out, err = await p.communicate()
        if p.returncode and first:
            raise RuntimeError(err.decode())
        return out.decode(errors="replace")

    # -- driving ---------------------------------------------------------------------------------------------

    async def type(self, text: str, pause: float = 0.25) -> None:
        for i in range(0, len(text), 600):
            await self.tmux("send-keys", "-t", "s", "-l", text[i : i + 600])
            await asyncio.sleep(0.03)
        await asyncio.sleep(pause)

    async def keys(self, *names: str, pause: float = 0.6) -> None:
        for n in names:
            await self.tmux("send-keys", "-t", "s", n)
            await asyncio.sleep(0.15)
        await asyncio.sleep(pause)

    async def say(self, text: str, pause: float = 0.5) -> None:
        await self.type(text, 1.2 if self.run.old else 0.25)
        await self.keys("Enter", pause=pause)

    async def text(self) -> str:
        return await self.tmux("capture-pane", "-p", "-t", "s")

    async def settle(self, quiet: float = 1.3, limit: float = 40.0) -> None:
        """Wait until the screen has stood still."""
        end, before, since = time.time() + limit, "", time.time()
        while time.time() < end:
            now = await self.text()
            if now != before or not now.strip():
                before, since = now, time.time()
            if time.time() - since > quiet:
                return
            await asyncio.sleep(0.2)

    async def sees(self, part: str, limit: float = 20.0) -> bool:
        end = time.time() + limit
        while time.time() < end:
            if part in await self.text():
                return True
            await asyncio.sleep(0.15)
        return False

    def state_file(self) -> dict[str, Any] | None:
        for p in sorted((self.home / ".claude" / "sessions").glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                data = json.loads(p.read_text())
                kept = ("status", "waitingFor", "statusUpdatedAt")
                return {k: data[k] for k in kept if k in data}
        return None

    async def status(self, wanted: str, limit: float = 20.0) -> None:
        """Wait for the program's own word, where this version has one; else until the screen stands still."""
        end = time.time() + limit
        while time.time() < end:
            found = self.state_file()
            if found is not None and "status" not in found:
                break
            if found and found["status"] == wanted:
                await asyncio.sleep(0.7)
                return
            if found is None and self.run.old:
                break
            await asyncio.sleep(0.15)
        if wanted == "busy":
            return
        while time.time() < end:
            if not self._looks_busy(await self.text()):
                break
            await asyncio.sleep(0.3)
        await self.settle()

    @staticmethod
    def _looks_busy(text: str) -> bool:
        """For versions without a state file: a spinner, or no composer and no dialog yet."""
        return "esc to interrupt" in text or not any(mark in text for mark in ("\u00a0", "❯"))

    async def shot(self, state: str, expect: dict[str, Any], note: str = "") -> None:
        """Save the pane as it is now."""
        mark = "=====FLEET=MARK====="
        fields = "#{pane_title}\t#{cursor_x},#{cursor_y}\t#{alternate_on}\t#{pane_dead}\t#{pane_dead_status}"
        out = await self.tmux(
            "capture-pane", "-p", "-t", "s", ";", "display", "-p", "-t", "s", mark,
            ";", "capture-pane", "-e", "-p", "-t", "s", ";", "display", "-p", "-t", "s", mark + fields,
        )  # fmt: skip
        text, ansi, last = out.split(mark)
        ansi = ansi.removeprefix("\n")
        title, cursor, alternate, dead, status = last.rstrip("\n").split("\t")
        said = self.state_file()
        name = f"{state}-{self.size}"
        clean = [(str(self.cwd), "/home/u/proj"), (str(self.folder), "/home/u/x"), (self.folder.name, "x")]
        for path, with_ in clean:
            text, ansi = (t.replace(path, with_.ljust(len(path), "x")[: len(path)]) for t in (text, ansi))
        self.run.save(
            {
                "state": state, "size": self.size, "file": f"{name}.txt", "title": title, "dead": dead == "1",
                "exit_status": int(status) if status else None, "cursor": cursor, "alternate_screen": alternate == "1",
                "session_file": said, "expect": expect, "note": note,
            },
            text, ansi,
        )  # fmt: skip

    def pid(self) -> int:
        """The program's process: it has this session's home, and is none of the tools around it."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = f"HOME={self.home}".encode() in (folder / "environ").read_bytes().split(b"\0")
                if ours and (folder / "comm").read_text().strip() not in ("tmux: server", "bash", "env", "sh"):
                    found.append(int(folder.name))
        if found:
            return min(found)
        raise RuntimeError("no program found")

    async def close(self) -> None:
        await self.tmux("kill-server")
        if self.stub:
            self.stub.kill()
            self.stub.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Run:
    """All captures of one version."""

    def __init__(self, program: list[str], version: str, out: Path, check: bool) -> None:
        self.program, self.version, self.out, self.check = program, version, out, check
        number = tuple(int(n) for n in version.split("."))
        self.old = number < (2, 1, 200)
        self.tells_errors = number >= (2, 1, 329)  # an answer ends with a line that a failure does not have
        self.base = Path(tempfile.mkdtemp(prefix="fl"))
        self.port = 24000 + os.getpid() % 3000 * 10
        self.rows: list[dict[str, Any]] = []
        out.mkdir(parents=True, exist_ok=True)

    def next_port(self) -> int:
        self.port += 1
        return self.port

    def save(self, row: dict[str, Any], text: str, ansi: str) -> None:
        said = (row["session_file"] or {}).get("status")
        wants = set(row["expect"]["activity"])
        means = {"busy": "working", "idle": "ready", "waiting": "needs_input", "shell": "ready"}.get(said or "")
        fine = means is None or means in wants or row["dead"]
        fine = fine or (means == "ready" and bool(wants & {"error", "limited", "exited", "unknown"}))
        fine = fine or (said == "busy" and "exited" in wants)
        if not fine:
            row["note"] = (row["note"] + f" MISMATCH: state file says {row['session_file']}").strip()
            if self.check:
                print(f"left out: {row['file']}: state file says {row['session_file']}", flush=True)
                return
        (self.out / row["file"]).write_text(text)
        (self.out / row["file"].replace(".txt", ".ansi")).write_text(ansi)
        with (self.out / "index.jsonl").open("a") as f:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.rows.append(row)


# -- scenarios -----------------------------------------------------------------------------------------------------


async def turns(s: Session) -> None:
    s.seed()
    await s.start("--allowedTools", "Bash(sleep:*)", "Bash(for:*)")
    await s.status("idle")
    await s.settle()
    await s.shot("idle-manual", READY)
    await s.say("THINK 7", 1.2)
    await s.shot("running-waiting-first-token", WORKING)
    await asyncio.sleep(2.5)
    await s.shot("running-waiting-first-token-3s", WORKING)
    await s.status("idle")
    await s.settle()
    await s.shot("idle-after-long-turn", READY)
    await s.say("SLOW 12", 2.0)
    await s.shot("running-streaming", WORKING)
    await s.say("Repeat QUEUED-MSG")
    await s.shot("running-with-queued-message", WORKING)
    await s.type("typed while busy")
    await s.shot("running-compose-unsent", WORKING)
    await s.status("idle")
    await s.settle()
    await s.shot("idle-compose-unsent-after-run", DRAFT)
    await s.keys("C-c")
    await s.settle()
    await s.shot("compose-cleared-by-ctrl-c", READY)
    await s.say("SLOW 30", 3.0)
    await s.keys("Escape")
    await s.settle()
    await s.shot("interrupted", READY)
    await s.say('TOOL Bash {"command":"sleep 6; echo slept","description":"wait"}', 3.0)
    await s.shot("running-tool-bash", WORKING)
    await s.status("idle")
    await s.settle()
    await s.shot("idle-after-tool", READY)
    await s.say('TOOLS 5 Bash {"command":"sleep 1.2; echo step%d","description":"step"}', 3.0)
    await s.shot("running-several-tools", WORKING)
    await s.status("idle")
    await s.say("BIG 60", 1.0)
    await s.settle()
    await s.shot("idle-after-big-answer", READY)
    await s.say("/clear", 1.0)
    await s.settle()
    await s.shot("idle-after-clear", READY)


async def permissions(s: Session) -> None:
    s.seed()
    await s.start()
    await s.status("idle")
    await s.settle()
    await s.say('TOOL Bash {"command":"touch made","description":"make a file"}')
    await s.status("waiting")
    await s.settle()
    await s.shot("perm-bash", PERMISSION)
    await s.keys("Down")
    await s.shot("perm-bash-second-selected", PERMISSION)
    await s.keys("Escape")
    await s.settle()
    await s.shot("perm-bash-refused", READY)
    await s.say('TOOL Bash {"command":"rm -rf /tmp/zzz && curl http://127.0.0.1:9/ | sh","description":"dangerous"}')
    await s.status("waiting")
    await s.settle()
    await s.shot("perm-bash-dangerous", PERMISSION)
    await s.keys("Escape")
    await s.settle()
    long = "\\n".join(f"y{i} = {i}" for i in range(60))
    await s.say('TOOL Write {"file_path":"%s/big.py","content":"%s"}' % (s.cwd, long))  # noqa: UP031
    await s.status("waiting")
    await s.settle()
    await s.shot("perm-write-long", PERMISSION)
    await s.keys("Escape")
    await s.settle()
    await s.say('TOOL Write {"file_path":"%s/a.txt","content":"hello\\nworld\\n"}' % s.cwd)  # noqa: UP031
    await s.status("waiting")
    await s.settle()
    await s.shot("perm-write", PERMISSION)
    await s.keys("1")
    await s.settle()
    await s.shot("idle-after-permission", READY)
    await s.say('TOOL Edit {"file_path":"%s/a.txt","old_string":"hello","new_string":"bye"}' % s.cwd)  # noqa: UP031
    await s.status("waiting")
    await s.settle()
    await s.shot("perm-edit", PERMISSION)
    await s.keys("Escape")
    await s.settle()
    await s.say('TOOL WebFetch {"url":"http://127.0.0.1:9/x","prompt":"read"}')
    await s.status("waiting")
    await s.settle()
    await s.shot("perm-webfetch", PERMISSION)
    await s.keys("Escape")
    await s.settle()
    await s.say('PAR 2 Bash {"command":"touch par%d","description":"par"}')
    await s.status("waiting")
    await s.settle()
    await s.shot("perm-two-pending", PERMISSION)
    await s.keys("Tab")
    await s.type("use another name")
    await s.shot("perm-amend", PERMISSION, "a person types an amendment")
    await s.keys("Escape")
    await s.settle()


QUESTION_ONE = (
    'TOOL AskUserQuestion {"questions":[{"question":"Which database?","header":"Database","multiSelect":false,'
    '"options":[{"label":"SQLite","description":"simple"},{"label":"Postgres","description":"big"}]}]}'
)
QUESTION_TWO = (
    'TOOL AskUserQuestion {"questions":[{"question":"Which features?","header":"Features","multiSelect":true,'
    '"options":[{"label":"A","description":"a"},{"label":"B","description":"b"}]},{"question":"Name?",'
    '"header":"Name","multiSelect":false,"options":[{"label":"x","description":"x"},{"label":"y",'
    '"description":"y"}]}]}'
)


async def questions(s: Session) -> None:
    s.seed()
    await s.start()
    await s.status("idle")
    await s.settle()
    await s.say(QUESTION_ONE)
    await s.status("waiting")
    await s.settle()
    await s.shot("ask-user-question", QUESTION)
    await s.keys("Down", "Down")
    await s.type("neither of")
    await s.shot("ask-user-question-typing", QUESTION)
    await s.keys("Escape", pause=1.0)
    await s.settle()
    await s.shot("ask-user-question-declined", READY)
    await s.say(QUESTION_TWO)
    await s.status("waiting")
    await s.settle()
    await s.shot("ask-user-question-multi", QUESTION)
    await s.keys("Space", "Right", "Right")
    await s.shot("ask-user-question-review", QUESTION)
    await s.keys("Escape", pause=1.0)
    await s.settle()


async def plans(s: Session) -> None:
    s.seed()
    await s.start("--permission-mode", "plan")
    await s.status("idle")
    await s.settle()
    await s.shot("idle-plan", READY)
    await s.say('TOOL ExitPlanMode {"plan":"# Plan\\n1. do a\\n2. do b"}')
    await s.status("waiting")
    await s.settle()
    await s.shot("plan-approval-no-file", PLAN)
    await s.keys("Escape", pause=1.0)
    await s.settle()
    if s.state_file() is None or (s.state_file() or {}).get("status") != "idle":
        return
    await s.say('TOOL Write {"file_path":"$PLANFILE","content":"# Plan\\n1. do a\\n2. do b\\n"}')
    await s.status("idle")
    await s.settle()
    await s.say('TOOL ExitPlanMode {"plan":"# Plan\\n1. do a\\n2. do b"}')
    await s.status("waiting")
    await s.settle()
    await s.shot("plan-approval", PLAN)
    await s.keys("Escape", pause=1.0)
    await s.settle()
    await s.shot("plan-rejected", READY)


async def errors(s: Session) -> None:
    s.seed()
    await s.start(env={"CLAUDE_CODE_MAX_RETRIES": "1"})
    await s.status("idle")
    for code, expect in ((400, ERROR), (401, AUTH), (403, AUTH), (404, ERROR), (413, ERROR), (500, ERROR),
                         (529, ERROR), (429, {"activity": ["limited", "error"]})):  # fmt: skip
        await s.settle()
        await s.mode(error=code, count=99)
        await s.say(f"Repeat E{code}")
        await s.status("idle")
        await s.settle(2.5)
        await s.shot(f"error-{code}-final", expect)
    await s.type("try again later")
    await s.shot("error-429-final-then-draft", {"activity": ["ready", "limited", "error"], "draft": True})
    await s.keys("C-c")
    await s.mode()
    await s.say("Repeat RECOVERED-NOW")
    await s.status("idle")
    await s.settle()
    await s.shot("idle-after-error-then-ok", READY)
    await s.mode(error=400, count=99, text="prompt is too long: 215000 tokens > 200000 maximum")
    await s.say("Repeat L")
    await s.status("idle")
    await s.settle(2.5)
    await s.shot("error-prompt-too-long", ERROR)
    await s.mode(error=400, count=99, text="Your credit balance is too low to access the Anthropic API. Please go on.")
    await s.say("Repeat B")
    await s.status("idle")
    await s.settle(2.5)
    await s.shot("error-credit-balance", {"activity": ["error", "limited"]})
    await s.say("/status")
    await s.settle()
    await s.shot("menu-status", MENU)
    await s.keys("Escape")
    await s.settle()
    await s.mode()
    await s.say("DROP", 1.0)
    await s.status("idle")
    await s.settle(2.5)
    await s.shot("error-dropped-stream", {"activity": ["error", "ready"]})


async def late_errors(s: Session) -> None:
    """Errors that come when a turn has already done or said something."""
    s.seed()
    await s.start("--allowedTools", "Bash(sleep:*)", env={"CLAUDE_CODE_MAX_RETRIES": "1"})
    await s.status("idle")
    await s.settle()
    for code, expect in ((500, ERROR), (401, AUTH)):
        await s.say('TOOL Bash {"command":"sleep 4; echo slept","description":"wait"}', 2.5)
        await s.mode(error=code, count=99)
        await asyncio.sleep(4)
        await s.status("idle")
        await s.settle(2.5)
        await s.shot(f"error-{code}-after-tool", expect)
        await s.mode()
        await s.say("/clear", 1.0)
        await s.settle()
    await s.say("DROP", 2.0)
    await s.status("idle")
    await s.settle(3)
    await s.shot("error-dropped", {"activity": ["error", "ready"]})


MCP_SERVER = """
import json, sys
def send(m): print(json.dumps({"jsonrpc": "2.0", **m}), flush=True)
waiting = None
for line in sys.stdin:
    m = json.loads(line)
    if m.get("method") == "initialize":
        send({"id": m["id"], "result": {"protocolVersion": m["params"]["protocolVersion"],
              "capabilities": {"tools": {}}, "serverInfo": {"name": "probe", "version": "1"}}})
    elif m.get("method") == "tools/list":
        send({"id": m["id"], "result": {"tools": [{"name": n, "description": n, "inputSchema": {"type": "object"}}
              for n in ("ping", "ask")]}})
    elif m.get("method") == "tools/call" and m["params"]["name"] == "ask":
        waiting = m["id"]
        send({"id": 999, "method": "elicitation/create", "params": {"message": "Which host shall be used?",
              "requestedSchema": {"type": "object", "properties": {"host": {"type": "string", "title": "Host"},
              "force": {"type": "boolean"}}, "required": ["host"]}}})
    elif m.get("id") == 999 and waiting is not None:
        send({"id": waiting, "result": {"content": [{"type": "text", "text": json.dumps(m)}]}})
    elif "id" in m and "method" in m:
        send({"id": m["id"], "result": {"content": [{"type": "text", "text": "pong"}]}})
"""


ASKED = dict(PERMISSION)
"""A permission that not every version asks for."""


async def extras(s: Session) -> None:
    """Dialogs that come more seldom."""
    s.seed()
    (s.folder / "server.py").write_text(MCP_SERVER)
    server = {"command": sys.executable, "args": [str(s.folder / "server.py")]}
    (s.folder / "mcp.json").write_text(json.dumps({"mcpServers": {"probe": server}}))
    (s.cwd / "n.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    await s.start("--mcp-config", str(s.folder / "mcp.json"), "--allowedTools", "mcp__probe__ask")
    await s.status("idle")
    await s.settle(2)
    for name, prompt, expect in (
        ("perm-mcp-tool", 'TOOL mcp__probe__ping {"x":"1"}', PERMISSION),
        ("perm-read-outside", 'TOOL Read {"file_path":"/etc/hostname"}', ASKED),
        ("elicitation", "TOOL mcp__probe__ask {}", {"activity": ["needs_input"], "kind": ["elicitation"]}),
    ):
        await s.say(prompt)
        await s.status("waiting", 8)
        await s.settle()
        asks = "❯\u00a0" not in await s.text()
        await s.shot(name, expect if asks or expect is not ASKED else READY)
        await s.keys("Escape", pause=1.0)
        await s.settle()
        await s.say("/clear", 1.0)
        await s.settle()


async def retries(s: Session) -> None:
    s.seed()
    await s.start()
    await s.status("idle")
    for code in (500, 529, 429):
        await s.settle()
        await s.mode(error=code, count=999)
        await s.say(f"Repeat R{code}", 5.0)
        await s.shot(f"error-{code}-retrying", WORKING)
        await asyncio.sleep(6)
        await s.shot(f"error-{code}-retrying-later", WORKING)
        await s.keys("Escape")
        await s.settle()
        await s.shot(f"error-{code}-retry-interrupted", {"activity": ["ready"]})
        await s.keys("C-c")


async def unreachable(s: Session) -> None:
    s.seed()
    await s.start(env={"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "CLAUDE_CODE_MAX_RETRIES": "3"})
    await s.status("idle")
    await s.settle()
    await s.say("Repeat X", 2.0)
    await s.shot("connection-refused-retrying", WORKING)
    await s.status("idle", 40)
    await s.settle(3)
    await s.shot("connection-refused-final", ERROR)


LIMIT = {
    "anthropic-ratelimit-unified-status": "rejected",
    "anthropic-ratelimit-unified-representative-claim": "five_hour",
    "anthropic-ratelimit-unified-overage-status": "rejected",
    "anthropic-ratelimit-unified-overage-disabled-reason": "org_level_disabled",
}


async def limits(s: Session) -> None:
    s.seed(key=False)
    oauth = {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-" + "x" * 40}
    await s.start(env={**oauth, "CLAUDE_CODE_MAX_RETRIES": "1"})
    await s.status("idle")
    await s.settle()
    await s.shot("oauth-idle", READY)
    reset = str(int(time.time()) + 3 * 3600)
    await s.mode(
        headers={
            "anthropic-ratelimit-unified-status": "allowed_warning",
            "anthropic-ratelimit-unified-representative-claim": "five_hour",
            "anthropic-ratelimit-unified-reset": reset,
            "anthropic-ratelimit-unified-5h-utilization": "0.93",
            "anthropic-ratelimit-unified-5h-reset": reset,
        }
    )
    await s.say("Repeat X")
    await s.status("idle")
    await s.settle()
    await s.shot("limit-warning", READY)
    menu = {"activity": ["limited", "needs_input"], "kind": ["other", "question"]}
    for claim, name, short in (("five_hour", "5h", "5h"), ("seven_day", "7d", "7d"), ("seven_day_opus", "opus", "7d")):
        await s.mode(
            error=429,
            count=9999,
            headers={
                **LIMIT,
                "anthropic-ratelimit-unified-representative-claim": claim,
                "anthropic-ratelimit-unified-reset": reset,
                f"anthropic-ratelimit-unified-{short}-status": "rejected",
                f"anthropic-ratelimit-unified-{short}-utilization": "1.0",
                f"anthropic-ratelimit-unified-{short}-reset": reset,
            },
        )
        await s.say("Repeat X")
        await s.status("idle", 8)
        await s.settle(2.0)
        opened = "What do you want" in await s.text()
        await s.shot(f"limit-{name}-rejected", menu if opened else LIMITED)
        await s.keys("Escape")
        await s.settle()
        await s.shot(f"limit-{name}-after-escape", LIMITED)
    await s.type("go on please")
    await s.shot("limit-then-draft", {"activity": ["limited", "ready"], "draft": True})
    await s.keys("C-c")
    await s.mode()
    await s.say("Repeat BACK-AGAIN")
    await s.status("idle")
    await s.settle(2)
    await s.shot("idle-after-limit", READY)
    await s.mode(error=401, count=99, text="OAuth token has expired. Please obtain a new token.")
    await s.say("Repeat Z")
    await s.status("idle")
    await s.settle(2.5)
    await s.shot("oauth-401", AUTH)
    await s.mode(error=403, count=99, text="OAuth token revoked")
    await s.say("Repeat Z")
    await s.status("idle")
    await s.settle(2.5)
    await s.shot("oauth-403", AUTH)


async def not_logged_in(s: Session) -> None:
    s.seed(key=False)
    await s.start(env={"ANTHROPIC_API_KEY": ""})
    await s.settle(2)
    await s.shot("not-logged-in-idle", {"activity": ["ready", "error"], "draft": False})
    await s.say("Repeat X")
    await s.settle(2)
    await s.shot("not-logged-in-after-prompt", AUTH)
    await s.say("/login")
    await s.settle(2)
    await s.shot("login-select", {"activity": ["needs_input", "unknown"], "kind": ["login"]})


TRUST: dict[str, Any] = {"activity": ["needs_input"], "kind": ["trust"]}


async def trust(s: Session) -> None:
    s.seed(trust=False)
    await s.start()
    await s.settle(2)
    await s.shot("trust-dialog", TRUST)
    await s.keys("Down")
    await s.shot("trust-dialog-second", TRUST)


async def api_key(s: Session) -> None:
    s.seed(key=False)
    await s.start()
    await s.settle(2)
    expect = {"activity": ["needs_input"], "kind": ["login", "trust"]}
    await s.shot("api-key-approval", expect)
    await s.keys("Up")
    await s.shot("api-key-approval-yes", expect)


async def bypass(s: Session) -> None:
    s.seed()
    await s.start("--permission-mode", "bypassPermissions")
    await s.settle(2)
    await s.shot("bypass-permissions-warning", TRUST)
    await s.keys("Down")
    await s.shot("bypass-permissions-warning-yes", TRUST)
    await s.keys("Enter")
    await s.settle(2)
    await s.shot("idle-bypass", READY)


async def onboarding(s: Session) -> None:
    s.seed(trust=False, key=False, onboarded=False)
    await s.start()
    await s.settle(3)
    if "1" in await s.tmux("display", "-p", "-t", "s", "#{pane_dead}"):
        await s.shot("first-run-no-network", GONE)
        return
    other = {"activity": ["needs_input"], "kind": ["other", "login", "trust"]}
    await s.shot("onboarding-0", other)
    await s.keys("Enter", pause=1.0)
    await s.settle()
    await s.shot("onboarding-1", other)


async def broken(s: Session) -> None:
    s.seed()
    (s.home / ".claude" / "settings.json").write_text('{"hooks": [], "permissions": {"defaultMode": "nonsense"}}')
    await s.start()
    await s.settle(2)
    shown = "Settings Error" in await s.text() or "ettings" in await s.text()
    if shown and "❯\u00a0" not in await s.text():
        await s.shot("settings-error", {"activity": ["needs_input"], "kind": ["other", "trust"]})


async def broken_config(s: Session) -> None:
    s.seed()
    (s.home / ".claude.json").write_text("{broken")
    await s.start()
    await s.settle(2)
    await s.shot("config-broken-json", {"activity": ["needs_input"], "kind": ["other", "trust"]})


async def mcp(s: Session) -> None:
    s.seed()
    (s.cwd / ".mcp.json").write_text('{"mcpServers": {"probe": {"command": "cat"}}}')
    await s.start()
    await s.settle(2)
    await s.shot("mcp-approval", {"activity": ["needs_input"], "kind": ["trust", "permission"]})


async def mcp_two(s: Session) -> None:
    s.seed()
    (s.cwd / ".mcp.json").write_text('{"mcpServers": {"probe": {"command": "cat"}, "probe2": {"command": "cat"}}}')
    await s.start()
    await s.settle(2)
    await s.shot("mcp-approval-two", {"activity": ["needs_input"], "kind": ["trust", "permission"]})


async def imports(s: Session) -> None:
    s.seed()
    (s.folder / "outside.md").write_text("outside")
    (s.cwd / "CLAUDE.md").write_text("@../outside.md\n")
    await s.start()
    await s.settle(2)
    await s.shot("claudemd-external-includes", {"activity": ["needs_input"], "kind": ["trust", "permission"]})


async def quotes(s: Session) -> None:
    s.seed()
    await s.start()
    await s.status("idle")
    for name in CANNED:
        await s.settle()
        await s.say(f"CANNED {name}")
        await s.status("idle")
        await s.settle()
        expect = READY
        if name in ALIKE and not s.run.tells_errors:
            expect = {"activity": ["ready", *ALIKE[name]], "draft": False}
        await s.shot(f"adv-{name}-idle", expect, "the last answer quotes a screen; the program is idle")
    for name in ("limit", "bareerror", "dialog", "composer"):
        await s.settle()
        await s.say(f"CANNED {name} SLOW 8", 3.0)
        await s.shot(f"adv-{name}-running", WORKING, "the answer quotes a screen and goes on streaming")
        await s.status("idle")
    for name in ("dialog", "question", "working", "trust"):
        await s.settle()
        await s.say(f'CANNED {name} TOOL Bash {{"command":"touch x-{name}","description":"make a file"}}')
        await s.status("waiting")
        await s.settle()
        await s.shot(f"adv-{name}-perm", PERMISSION, "the answer quotes a screen and a real dialog is open")
        await s.keys("Escape")
    await s.settle()
    await s.say("Say hello. The box said: Do you want to proceed? ❯ 1. Yes 2. No, You've hit your 5-hour limit, API "
                "Error: 401 Please run /login · esc to interrupt")  # fmt: skip
    await s.status("idle")
    await s.settle()
    await s.shot("adv-userprompt-idle", READY, "the person's own message quotes dialogs")


async def tool_quotes(s: Session) -> None:
    s.seed()
    (s.cwd / "out.txt").write_text(
        "API Error: 500 Internal server error\nYou've hit your 5-hour limit · resets 9:20pm (UTC)\n"
        "Do you want to proceed?\n ❯ 1. Yes\n   2. No\n\n Esc to cancel\n"
    )
    await s.start("--allowedTools", "Bash")
    await s.status("idle")
    await s.settle()
    await s.say('TOOL Bash {"command":"cat out.txt; sleep 5","description":"show"}', 3.0)
    await s.shot("adv-tooloutput-running", WORKING)
    await s.status("idle")
    await s.settle()
    await s.shot("adv-tooloutput-idle", READY)
    await s.say('TOOL Bash {"command":"echo \\"API Error: 401 Please run /login\\" >&2; exit 3","description":"x"}')
    await s.status("idle")
    await s.settle()
    await s.shot("adv-toolfailure-idle", READY, "a tool failed and printed an error")
    await s.say("! cat out.txt", 2.0)
    await s.settle()
    await s.shot("adv-shellmode-output-idle", {"activity": ["ready"]}, "the person's own shell command printed it")


async def told(s: Session) -> None:
    """Answers that tell of screens, in tables, lists, diffs and other languages."""
    s.seed()
    await s.start()
    await s.status("idle")
    for name in TOLD:
        await s.settle()
        await s.say(f"CANNED {name}")
        await s.status("idle")
        await s.settle()
        await s.shot(f"told-{name}-idle", READY, "the last answer tells of a screen; the program is idle")
    for name in ("table", "japanese", "menu", "startspin"):
        await s.settle()
        await s.say(f"CANNED {name} SLOW 8", 3.0)
        await s.shot(f"told-{name}-running", WORKING, "the answer tells of a screen and goes on streaming")
        await s.status("idle")
        await s.settle()
        await s.say(f'CANNED {name} TOOL Bash {{"command":"touch x-{name}","description":"make a file"}}')
        await s.status("waiting")
        await s.settle()
        await s.shot(f"told-{name}-perm", PERMISSION, "the answer tells of a screen and a real dialog is open")
        await s.keys("Escape")


async def told_tools(s: Session) -> None:
    """Dialogs, tools and errors whose own text tells of other screens."""
    s.seed()
    (s.cwd / "a.txt").write_text("hello\nworld\n")
    await s.start("--allowedTools", "Bash(cat:*)", "Bash(sleep:*)", "Read", env={"CLAUDE_CODE_MAX_RETRIES": "1"})
    await s.status("idle")
    await s.settle()
    quoted = "You've hit your 5-hour limit · resets 9pm\\nAPI Error: 401 Please run /login\\n❯ 1. Yes\\n  2. No"
    for name, call in (
        ("edit", f'Edit {{"file_path":"{s.cwd}/a.txt","old_string":"hello","new_string":"{quoted}"}}'),
        ("write", f'Write {{"file_path":"{s.cwd}/b.txt","content":"{quoted}\\nEnter to select"}}'),
        ("bash", 'Bash {"command":"echo Would you like to proceed? > plan","description":"Ready to code?"}'),
    ):
        await s.say("TOOL Read " + json.dumps({"file_path": f"{s.cwd}/a.txt"}))
        await s.status("idle")
        await s.settle()
        await s.say("TOOL " + call)
        await s.status("waiting")
        await s.settle()
        await s.shot(f"told-perm-{name}", PERMISSION, "what is asked for tells of other screens")
        await s.keys("Escape")
        await s.settle()
        await s.shot(f"told-perm-{name}-refused", READY)
    asked = {
        "questions": [
            {
                "question": "Do you want to proceed with API Error: 401?", "header": "Limit", "multiSelect": False,
                "options": [
                    {"label": "Yes, I trust this folder", "description": "You've hit your limit · resets 9pm"},
                    {"label": "Stop and wait for limit", "description": "✻ Working… (esc to interrupt)"},
                ],
            }
        ]
    }  # fmt: skip
    await s.say("TOOL AskUserQuestion " + json.dumps(asked, ensure_ascii=False))
    await s.status("waiting")
    await s.settle()
    await s.shot("told-question", QUESTION, "the question's words are those of other screens")
    await s.keys("Escape")
    await s.settle()
    (s.cwd / "out.txt").write_text("\n".join(CANNED[name] for name in ("table", "japanese", "diff", "waits")) + "\n")
    await s.say('TOOL Bash {"command":"cat out.txt; sleep 5","description":"show"}', 3.0)
    await s.shot("told-tool-running", WORKING)
    await s.status("idle")
    await s.settle()
    await s.shot("told-tool-idle", READY)
    await s.say("! cat out.txt", 2.0)
    await s.settle()
    await s.shot("told-shell-output", {"activity": ["ready"]}, "the person's own shell command printed it")
    for code, text, expect in (
        (400, "Do you want to proceed? 1. Yes 2. No", ERROR),
        (500, "You've hit your limit · resets 9pm", ERROR),
        (529, "続行しますか？ ❯ 1. はい", ERROR),
    ):
        await s.mode(error=code, count=99, text=text)
        await s.say("CANNED table")
        await s.status("idle")
        await s.settle(2.5)
        await s.shot(f"told-error-{code}", expect, "a real error, whose words are those of another screen")
        await s.mode()
        await s.say("Repeat FINE-AGAIN")
        await s.status("idle")
        await s.settle()
        await s.shot(f"told-error-{code}-then-fine", READY)


async def told_drafts(s: Session) -> None:
    """Drafts and messages of a person, in several languages."""
    s.seed()
    await s.start()
    await s.status("idle")
    await s.settle()
    texts = {
        "deutsch": "Bitte prüfe, ob „Nutzungslimit erreicht“ stimmt · Esc zum Unterbrechen",
        "japanese": "続行しますか？ 1. はい 2. いいえ ✻ 作業中…",
        "arabic": "هل تريد المتابعة؟ 1. نعم 2. لا",
        "emoji": "⚠️ 🚫 Usage limit reached ✅",
        "numbered": "1. Yes",
        "pointer": "❯ 2. No, exit",
        "rule": "─" * 24,
        "spaces": "   x",
    }
    for name, text in texts.items():
        await s.type(text, 0.8)
        await s.shot(f"told-draft-{name}", DRAFT)
        await s.keys("C-c", pause=0.8)
        await s.settle(2.2)
    for name in ("deutsch", "japanese", "emoji"):
        await s.say("Say fine. " + texts[name])
        await s.status("idle")
        await s.settle()
        await s.shot(f"told-prompt-{name}", READY, "the person's own message")
        await s.say(f"SLOW 7 {texts[name]}", 2.5)
        await s.shot(f"told-prompt-{name}-running", WORKING)
        await s.type(texts[name])
        await s.shot(f"told-draft-{name}-running", WORKING)
        await s.status("idle")
        await s.settle()
        await s.shot(f"told-draft-{name}-after", DRAFT)
        await s.keys("C-c", pause=2.2)


async def drafts(s: Session) -> None:
    s.seed()
    await s.start()
    await s.status("idle")
    await s.settle()
    texts = {
        "compose-unsent": "please look at the failing test",
        "compose-unsent-footer-words": "esc to interrupt · ? for shortcuts ⏸ manual mode on · 1 shell",
        "compose-unsent-looks-like-dialog": "1. Yes 2. No  Do you want to proceed? [y/N] esc to interrupt",
        "compose-unsent-limit-words": "You've hit your 5-hour limit · resets 9pm. API Error: 401 Please run /login",
        "compose-unsent-spinner-words": "✻ Working… (12s · esc to interrupt)",
        "compose-unsent-shell-words": "user@host:~/proj$ ls",
        "compose-unsent-one-char": "x",
        "compose-unsent-wrapped": "word " * 60,
    }
    for state, text in texts.items():
        await s.type(text, 0.8)
        await s.shot(state, DRAFT)
        if state == "compose-unsent":
            await s.keys("C-a")
            await s.shot("compose-unsent-cursor-home", DRAFT)
        await s.keys("C-c", pause=0.8)
        await s.settle(2.2)
    await s.shot("compose-cleared-by-ctrl-c", READY)
    await s.type("line one")
    await s.keys("C-j")
    await s.type("❯ line two")
    await s.keys("C-j")
    await s.type("─" * 20 + " three")
    await s.shot("compose-unsent-multiline", DRAFT)
    await s.keys("C-c", pause=2.2)
    for i in range(50):
        await s.type(f"line {i}", 0.02)
        await s.keys("C-j", pause=0.0)
    await s.settle()
    await s.shot("compose-unsent-taller-than-screen", {"activity": ["ready", "unknown"]})
    await s.keys("C-c", pause=2.2)
    lines = "\n".join(f"pasted line {i}" for i in range(30))
    await s.tmux("set-buffer", lines)
    await s.tmux("paste-buffer", "-p", "-t", "s")
    await asyncio.sleep(1.0)
    await s.shot("compose-unsent-pasted", DRAFT)
    await s.keys("C-c", pause=2.2)
    await s.type("!")
    await s.shot("bash-mode-empty", {"activity": ["ready"]})
    await s.type("ls -la")
    await s.shot("bash-mode-typed", {"activity": ["ready"], "draft": True})
    await s.keys("C-c", "Escape", pause=2.2)


async def menus(s: Session) -> None:
    s.seed()
    await s.start()
    await s.status("idle")
    await s.settle()
    await s.say("Repeat DONE-1")
    await s.status("idle")
    await s.settle()
    await s.shot("idle-after-turn", READY)
    await s.type("/", 1.0)
    await s.shot("menu-slash", MENU)
    await s.type("comp", 1.0)
    await s.shot("menu-slash-filtered", MENU)
    await s.keys("C-c", pause=2.2)
    await s.keys("?")
    await s.shot("menu-shortcuts", MENU)
    await s.keys("Escape", pause=1.0)
    for name in ("model", "config", "help", "permissions", "resume", "mcp", "theme", "export", "hooks", "agents"):
        await s.say(f"/{name}", 1.0)
        await s.settle()
        await s.shot(f"menu-{name}", {"activity": ["unknown", "ready", "needs_input"]})
        await s.keys("Escape", pause=1.0)
        await s.keys("Escape", pause=1.0)
        await s.keys("C-c", pause=2.2)
    await s.settle()
    await s.keys("C-o", pause=1.0)
    await s.shot("transcript-mode", {"activity": ["unknown", "ready"]})
    await s.keys("C-o", pause=1.0)
    await s.keys("Escape", "Escape", pause=1.0)
    await s.shot("rewind-menu", MENU)
    await s.keys("Escape", pause=1.0)
    await s.keys("C-r", pause=1.0)
    await s.shot("history-search", MENU)
    await s.keys("Escape", pause=1.0)
    await s.keys("C-c", pause=2.0)
    await s.say("SLOW 14", 2.0)
    await s.keys("C-o", pause=1.0)
    await s.shot("transcript-mode-running", {"activity": ["unknown", "working"]})


async def modes(s: Session) -> None:
    s.seed()
    await s.start("--permission-mode", "acceptEdits")
    await s.status("idle")
    await s.settle()
    await s.shot("idle-acceptEdits", READY)
    for i in range(4):
        await s.keys("BTab", pause=1.0)
        await s.shot(f"idle-mode-cycled-{i}", READY)


async def vim(s: Session) -> None:
    s.seed()
    data = json.loads((s.home / ".claude.json").read_text())
    (s.home / ".claude.json").write_text(json.dumps({**data, "editorMode": "vim"}))
    s.settings(editorMode="vim")
    await s.start()
    await s.status("idle")
    await s.settle()
    await s.shot("vim-idle-insert", READY)
    await s.type("hello", 0.8)
    await s.shot("vim-insert-typed", DRAFT)
    await s.keys("Escape")
    await s.shot("vim-normal-typed", DRAFT)
    await s.keys("0")
    await s.shot("vim-normal-home", DRAFT)
    await s.keys("D", "x")
    await s.shot("vim-normal-empty", READY)
    await s.keys("i")
    await s.type("x")
    await s.keys("Escape")
    await s.shot("vim-normal-one-char", DRAFT)
    await s.keys("Enter", pause=1.0)
    await s.status("idle")
    await s.settle()
    await s.shot("vim-normal-after-enter", READY)


async def background(s: Session) -> None:
    s.seed()
    await s.start("--allowedTools", "Bash(sleep:*)")
    await s.status("idle")
    await s.settle()
    await s.say('TOOL Bash {"command":"sleep 20","description":"long","run_in_background":true}')
    await s.settle(2)
    await s.shot("idle-with-background-shell", {"activity": ["ready", "working"], "draft": False})
    await s.type("a draft beside the shell", 0.6)
    await s.shot("background-shell-and-draft", {"activity": ["ready", "working"], "draft": True})
    await s.keys("C-c")
    await asyncio.sleep(20)
    await s.status("idle")
    await s.settle()
    await s.shot("after-background-shell-finished", READY)
    await s.say('TOOL Agent {"description":"sub work","prompt":"SLOW 8","subagent_type":"general-purpose"}', 3.5)
    await s.shot("running-subagent", WORKING)
    await asyncio.sleep(7)
    await s.status("idle")
    await s.settle(2)
    await s.shot("after-subagent", READY)


async def compaction(s: Session) -> None:
    s.seed()
    await s.start()
    await s.status("idle")
    for i in range(3):
        await s.say(f"Repeat A{i}")
        await s.status("idle")
        await s.settle()
    await s.mode(compact_delay=8)
    await s.say("/compact", 2.5)
    await s.shot("compacting", WORKING)
    await s.status("idle", 30)
    await s.settle(2)
    await s.shot("compact-done", READY)
    await s.say("/context")
    await s.settle(2)
    await s.shot("context-command", READY)


async def statusline(s: Session) -> None:
    s.seed()
    s.settings(
        statusLine={"type": "command", "command": "echo 'SL esc to interrupt | API Error: 401 | ctx 12%'"},
        spinnerTipsEnabled=False, prefersReducedMotion=True, spinnerVerbs={"mode": "replace", "verbs": ["Working"]},
    )  # fmt: skip
    args = [] if s.run.old else ["--name", "a-rather-long-name-for-a-session-✳-◐"]
    await s.start(*args)
    await s.status("idle")
    await s.settle()
    await s.shot("statusline-idle", READY)
    await s.say("THINK 5", 2.5)
    await s.shot("statusline-running", WORKING)
    await s.status("idle")
    await s.settle()
    await s.say("SLOW 5", 2.5)
    await s.shot("statusline-streaming", WORKING)
    await s.status("idle")
    await s.settle()
    await s.shot("statusline-after-turn", READY)
    await s.type("draft")
    await s.shot("statusline-draft", DRAFT)


async def classic(s: Session) -> None:
    s.seed()
    s.settings(tui="default")
    await s.start("--allowedTools", "Bash(sleep:*)")
    await s.status("idle")
    await s.settle()
    await s.shot("classic-idle", READY)
    await s.say("SLOW 6", 2.5)
    await s.shot("classic-running", WORKING)
    await s.status("idle")
    await s.settle()
    await s.shot("classic-after-turn", READY)
    await s.say('TOOL Bash {"command":"touch made","description":"make a file"}')
    await s.status("waiting")
    await s.settle()
    await s.shot("classic-perm-bash", PERMISSION)
    await s.keys("Escape")
    await s.settle()
    await s.say(QUESTION_ONE)
    await s.status("waiting")
    await s.settle()
    await s.shot("classic-question", QUESTION)
    await s.keys("Escape")
    await s.settle()
    for name in ("model", "config", "help", "resume"):
        await s.say(f"/{name}", 1.0)
        await s.settle()
        await s.shot(f"classic-menu-{name}", MENU)
        await s.keys("Escape", pause=1.0)
        await s.keys("Escape", pause=1.0)
    await s.say("ERR 400", 2.0)
    await s.settle()
    await s.shot("classic-error-400", ERROR)


async def fullscreen(s: Session) -> None:
    s.seed()
    s.settings(tui="fullscreen")
    await s.start()
    await s.status("idle")
    await s.settle()
    await s.shot("fullscreen-idle", READY)
    await s.say("SLOW 5", 2.5)
    await s.shot("fullscreen-running", WORKING)
    await s.status("idle")
    await s.settle()
    await s.shot("fullscreen-after-turn", READY)
    await s.say("ERR 400", 2.0)
    await s.settle()
    await s.shot("fullscreen-error-400", ERROR)


async def reader(s: Session) -> None:
    if s.run.old:
        return  # no such mode
    s.seed()
    await s.start("--ax-screen-reader")
    await s.status("idle")
    await s.settle()
    await s.shot("ax-idle", READY)
    await s.type("a draft")
    await s.shot("ax-draft", DRAFT)
    await s.keys("C-c", pause=2.5)
    await s.say("SLOW 6", 2.5)
    await s.shot("ax-running", WORKING)
    await s.status("idle")
    await s.settle()
    await s.shot("ax-idle-after", READY)
    await s.say('TOOL Bash {"command":"touch made","description":"make a file"}')
    await s.status("waiting")
    await s.settle()
    await s.shot("ax-perm-bash", {**PERMISSION, "activity": ["needs_input", "unknown"]})
    await s.keys("Escape")
    await s.settle()
    await s.say(QUESTION_ONE)
    await s.status("waiting")
    await s.settle()
    await s.shot("ax-question", {**QUESTION, "activity": ["needs_input", "unknown"]})
    await s.keys("Escape")
    await s.settle()
    await s.say("ERR 400", 2.0)
    await s.settle()
    await s.shot("ax-error-400", {"activity": ["error", "unknown"]})


async def exits(s: Session) -> None:
    s.seed()
    await s.start()
    await s.status("idle")
    await s.settle()
    await s.say("Repeat BYE")
    await s.status("idle")
    await s.settle()
    await s.say("/exit", 2.0)
    await s.shot("exited-slash-exit", GONE)


async def kills(s: Session) -> None:
    s.seed()
    await s.start()
    await s.status("idle")
    await s.settle()
    await s.say("SLOW 20", 2.0)
    os.kill(s.pid(), signal.SIGKILL)
    await asyncio.sleep(1.0)
    await s.shot("killed-sigkill-running", GONE)


def in_shell(name: str, doing: str | None, sig: signal.Signals | None) -> Callable[[Session], Awaitable[None]]:
    async def scenario(s: Session) -> None:
        s.seed()
        await s.start(shell=True)
        await s.status("idle")
        await s.settle()
        if doing:
            await s.say(doing, 2.5)
        if sig:
            os.kill(s.pid(), sig)
        else:
            await s.say("/exit")
        await asyncio.sleep(1.5)
        await s.shot(name, GONE_TO_SHELL, "started from an interactive bash")
        await s.type("ls -la")
        await s.shot(f"{name}-typed", GONE_TO_SHELL, "a command is typed at the shell's prompt")

    return scenario


SCENARIOS: dict[str, Callable[[Session], Awaitable[None]]] = {
    "turns": turns, "permissions": permissions, "questions": questions, "plans": plans, "errors": errors,
    "late_errors": late_errors, "extras": extras, "retries": retries, "unreachable": unreachable, "limits": limits,
    "not_logged_in": not_logged_in, "trust": trust, "api_key": api_key, "bypass": bypass, "onboarding": onboarding,
    "broken": broken, "broken_config": broken_config, "mcp": mcp, "mcp_two": mcp_two, "imports": imports,
    "quotes": quotes, "tool_quotes": tool_quotes, "told": told, "told_tools": told_tools, "told_drafts": told_drafts,
    "drafts": drafts, "menus": menus, "modes": modes, "vim": vim,
    "background": background, "compaction": compaction, "statusline": statusline, "classic": classic,
    "fullscreen": fullscreen, "reader": reader, "exits": exits, "kills": kills,
    "shell_exit": in_shell("exited-to-shell", "Repeat HELLO", None),
    "shell_kill_running": in_shell("crashed-to-shell-sigkill", "SLOW 20", signal.SIGKILL),
    "shell_kill_idle": in_shell("crashed-to-shell-sigkill-idle", None, signal.SIGKILL),
    "shell_segv": in_shell("crashed-to-shell-sigsegv", "SLOW 20", signal.SIGSEGV),
}  # fmt: skip


# -- the stand-in for the model, with canned answers ---------------------------------------------------------------


def serve_stub(port: int) -> None:
    """The shared stub, which also says `CANNED name` first, at once, before what else is asked of it."""
    sys.path.insert(0, str(TESTS))
    import re

    import stub_anthropic as stub
    from aiohttp import web

    planned = stub.reply_to

    def reply_to(body: dict[str, Any], script: stub.Script) -> stub.Reply:
        reply = planned(body, script)
        prompt, results = stub.last_prompt(body.get("messages", []))
        found = re.search(r"CANNED (\w+)(.*)", prompt, re.S)
        if not found or found[1] not in CANNED or reply.error:
            return reply
        if not stub.DIRECTIVE.search(found[2]):
            reply.blocks.clear()
        if not results:
            reply.blocks.insert(0, {"type": "text", "text": CANNED[found[1]]})
        return reply

    stub.reply_to = reply_to
    findall = re.findall

    def pieces(pattern: str, text: str, *rest: Any) -> list[Any]:
        """A canned answer comes in one piece, however slowly the rest streams."""
        return [text] if text in CANNED.values() else findall(pattern, text, *rest)

    stub.re = type("re", (), {**{n: getattr(re, n) for n in dir(re)}, "findall": staticmethod(pieces)})
    web.run_app(stub.application(), host="127.0.0.1", port=port, print=None)


async def capture(run: Run, names: list[str], sizes: list[str], parallel: int) -> None:
    gate = asyncio.Semaphore(parallel)

    async def one(name: str, size: str) -> None:
        async with gate:
            session = Session(run, name, size)
            began = time.time()
            try:
                await asyncio.wait_for(SCENARIOS[name](session), 400)
                word = "done"
            except (OSError, RuntimeError, ValueError, TimeoutError) as problem:
                word = f"FAILED: {problem!r}"
            finally:
                await session.close()
            print(f"{run.version} {name} {size} {word} {time.time() - began:.0f}s", flush=True)

    await asyncio.gather(*(one(n, z) for n in names for z in sizes))
    shutil.rmtree(run.base, ignore_errors=True)


def main() -> None:
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("--program", help="the program, or `node CLI.js`")
    ask.add_argument("--version", help="its version")
    ask.add_argument("--out", type=Path)
    ask.add_argument("--sizes", default="80x24,120x40")
    ask.add_argument("--only", default="", help="names of scenarios")
    ask.add_argument("--parallel", type=int, default=3)
    ask.add_argument("--check", action="store_true", help="leave out what the state file contradicts")
    ask.add_argument("--stub", type=int, help=argparse.SUPPRESS)
    args = ask.parse_args()
    if args.stub:
        serve_stub(args.stub)
        return
    run = Run(args.program.split(), args.version, args.out, args.check)
    names = args.only.split(",") if args.only else list(SCENARIOS)
    asyncio.run(capture(run, names, args.sizes.split(","), args.parallel))


if __name__ == "__main__":
    main()
