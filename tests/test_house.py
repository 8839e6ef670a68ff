"""The house rules that a machine can check: who may import whom, one door for each library, what a fast path costs."""

from __future__ import annotations

import ast
import functools
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLEET = ROOT / "fleet"

ROWS: tuple[tuple[str, ...], ...] = (
    ("terms", "errors", "clock", "places", "keys", "tasks", "sockets"),
    ("settings", "db", "processes", "redact", "spool", "brake", "dependencies", "verbs", "jsontext"),
    ("manifests", "templates", "client", "hubcall", "hook", "keeper", "mcp_shim"),
    ("harnesses", "config"),
    ("plan", "health", "runtimes", "hub"),
    ("lifecycle", "known"),
    ("ledger", "events", "hosts", "clusters"),
    ("preparing", "headless"),
    ("agent",),
    ("senses", "starting"),
    ("runner",),
    ("supervisor", "schedule", "report", "reach"),
    ("control", "hubside"),
    ("daemon",),
    ("cli", "testing"),
)
"""From the ground up. A room imports from rows below its own, never from its own or above."""
ROW = {room: number for number, row in enumerate(ROWS) for room in row}

DOORS = {
    "pydantic": ("manifests", "hub/wire.py"),
    "yaml": ("manifests",),
    "libtmux": ("runtimes/tmux.py",),
    "asyncssh": ("runtimes/ssh.py",),
    "apscheduler": ("schedule.py",),
    "psutil": ("processes.py",),
    "aiohttp": ("hub",),
    "click": ("cli",),
    "rich": ("cli/output.py",),
    "asyncinotify": ("runtimes/folders.py",),
    "mcp": ("hub/mcp_server.py",),
    "mcp_types": ("hub/mcp_server.py",),
    "a2a": ("hub/a2a_server.py",),
}
"""Each library, and the one place that may import it."""

PURE = (
    "terms.py",
    "keys.py",
    "jsontext.py",
    "brake.py",
    "dependencies.py",
    "verbs.py",
    "lifecycle.py",
    "known.py",
    "plan.py",
    "health/classify.py",
    "health/judge.py",
    "health/answers.py",
    "health/restart.py",
    "health/progress.py",
    "runtimes/handoff.py",
    "runtimes/lease.py",
    "runtimes/slurm_queue.py",
    "hub/message.py",
    "hub/submission.py",
    "hub/guardrails.py",
    "hub/routing.py",
    "hub/delivery.py",
    "hub/framing.py",
)
IMPURE = {"os", "io", "time", "random", "secrets", "socket", "subprocess", "asyncio", "threading", "tempfile", "shutil"}
"""What the pure rooms do without: input and output, clocks and draws."""

LINKS = ("manifests", "templates", "runtimes", "hub", "health")


@dataclass(frozen=True)
class Import:
    """One module imported by one file, and where."""

    file: Path
    line: int
    module: str
    at_top: bool
    level: int

    @property
    def place(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"

    @property
    def room(self) -> str | None:
        """The room of fleet that is imported, if it is one."""
        parts = self.module.split(".")
        return parts[1] if parts[0] == "fleet" and len(parts) > 1 and parts[1] in rooms() else None


def sources() -> list[Path]:
    return sorted(FLEET.rglob("*.py"))


@functools.cache
def rooms() -> set[str]:
    """The modules and packages right under fleet/."""
    modules = {p.stem for p in FLEET.glob("*.py")} - {"__init__", "__main__"}
    return modules | {p.parent.name for p in FLEET.glob("*/__init__.py")}


def room_of(file: Path) -> str:
    return file.relative_to(FLEET).parts[0].removesuffix(".py")


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@functools.cache
def imports_of(file: Path) -> list[Import]:
    return list(_imports_of(file))


def _imports_of(file: Path) -> Iterator[Import]:
    tree = tree_of(file)
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(file, node.lineno, name.name, id(node) in top, 0)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield Import(file, node.lineno, module, id(node) in top, node.level)
            if module == "fleet":
                for name in node.names:
                    yield Import(file, node.lineno, f"fleet.{name.name}", id(node) in top, node.level)


def all_imports() -> list[Import]:
    return [i for file in sources() for i in imports_of(file)]


def tracked() -> list[str]:
    """The files that the repository holds."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return [name for name in listed if name and (ROOT / name).exists()]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules in memory after a statement, in a Python of its own."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


# -- rows and doors ---------------------------------------------------------------------------------------------------


def test_every_room_has_a_row() -> None:
    assert rooms() - set(ROW) == set(), "give the new room a row in tests/test_house.py and a line in architecture.md"


def test_a_room_imports_only_from_rows_below_it() -> None:
    upward = [
        f"{i.place}: {room_of(i.file)} (row {ROW[room_of(i.file)]}) imports {i.room} (row {ROW[i.room]})"
        for i in all_imports()
        if i.room in ROW
        and room_of(i.file) in ROW
        and i.room != room_of(i.file)
        and ROW[i.room] >= ROW[room_of(i.file)]
    ]
    assert upward == []


def test_each_library_is_imported_through_its_one_door() -> None:
    around = []
    for found in all_imports():
        doors = DOORS.get(found.module.split(".")[0])
        inside = str(found.file.relative_to(FLEET))
        if doors and not any(inside == door or inside.startswith(f"{door}/") for door in doors):
            around.append(f"{found.place}: {found.module} belongs in {' or '.join(doors)}")
    assert around == []


def test_imports_say_fleet_in_full() -> None:
    assert [i.place for i in all_imports() if i.level] == []


def test_no_circle_is_hidden_by_an_import_inside_a_function() -> None:
    hidden = [i for i in all_imports() if not i.at_top and i.room and room_of(i.file) not in ("cli", "__init__")]
    assert [i.place for i in hidden] == []


def test_nothing_imports_through_the_links() -> None:
    files = [*sources(), *sorted((ROOT / "tests").rglob("*.py"))]
    through = [i.place for file in files for i in imports_of(file) if i.module.split(".")[0] in LINKS]
    assert through == []


def test_the_five_doors_are_relative_links_into_fleet() -> None:
    assert {name: str((ROOT / name).readlink()) for name in LINKS} == {name: f"fleet/{name}" for name in LINKS}


@pytest.mark.parametrize("name", [name for name in PURE if (FLEET / name).exists()])
def test_the_pure_core_does_no_input_or_output_and_reads_no_clock(name: str) -> None:
    file = FLEET / name
    assert [i.place for i in imports_of(file) if i.module.split(".")[0] in IMPURE] == []
    calls = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.Call)]
    assert [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id in ("open", "print", "input")] == []
    assert [c.lineno for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr in ("utcnow", "today")] == []


# -- what costs time at every call ------------------------------------------------------------------------------------


def test_the_command_line_starts_without_the_libraries() -> None:
    heavy = {"click", "pydantic", "yaml", "rich", "aiohttp", "psutil", "libtmux", "asyncio", "sqlite3"}
    assert loaded_by("import fleet.cli") & heavy == set()


def test_the_hook_loads_nothing_but_the_standard_library() -> None:
    bare = loaded_by("pass")
    assert loaded_by("import fleet.hook") - bare - set(sys.stdlib_module_names) == {"fleet"}


def test_the_package_imports_nothing_at_start() -> None:
    assert list(imports_of(FLEET / "__init__.py")) == [] or loaded_by("import fleet") - loaded_by("pass") == {"fleet"}


# -- what no file may hold --------------------------------------------------------------------------------------------


def test_no_exception_is_swallowed_in_silence() -> None:
    silent = []
    for file in [*sources(), *sorted((ROOT / "tests").rglob("*.py"))]:
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.ExceptHandler) and all(isinstance(s, ast.Pass) for s in node.body):
                silent.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert silent == []


def test_no_path_of_a_developers_machine_stands_in_the_repository() -> None:
    home = pwd.getpwuid(os.getuid()).pw_dir
    places = [str(ROOT), *([home] if len(Path(home).parts) > 2 else [])]
    theirs = re.compile("|".join(rf"{re.escape(place)}\b" for place in places))
    held = []
    for name in tracked():
        path = ROOT / name
        if path.is_symlink() or name.startswith("tests/screens/"):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if found := theirs.search(line):
                held.append(f"{name}:{number}: {found.group()}")
    assert held == []


def test_the_repository_holds_no_state() -> None:
    state = re.compile(
        r"\.(db|db-wal|db-shm|sqlite3?|sock|lock|log|pid|pyc)$|(^|/)(\.venv|\.cache|\.env|__pycache__)(/|$)"
    )
    assert [name for name in tracked() if state.search(name)] == []


def test_unit_tests_do_not_sleep() -> None:
    sleepers = []
    for file in sorted((ROOT / "tests" / "unit").rglob("*.py")):
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Call) and re.fullmatch(r"((time|asyncio)\.)?sleep\((?!0\)).*", ast.unparse(node)):
                sleepers.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert sleepers == []


def test_every_module_says_why_it_exists() -> None:
    assert [str(f.relative_to(ROOT)) for f in sources() if not ast.get_docstring(tree_of(f))] == []


def test_the_licence_is_the_one_that_the_package_names() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
