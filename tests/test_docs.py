"""What the documents say is so: their commands run, their manifests are valid, their links lead somewhere.

A page is a story in a home of its own. Its blocks run in their order, as a reader would:

- a `yaml` block that names its file in a comment before it (`<!-- file: web.yaml -->`) is written there; every
  `yaml` block with an `apiVersion` is validated, and one that begins `# config.yaml` is read as settings;
- an `sh` block is run line by line; each line has to succeed, or to end as `<!-- exit: 4 -->` before it says;
- `<!-- read: WHY -->` before a block says that it is not run, and why; its `fleet` commands must exist all the same.

Output shown in plain blocks is not compared. The story's home has Claude Code on its PATH, talking to the stub.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import yaml

from fleet import manifests
from fleet.cli.app import COMMANDS, fleet
from tests.draw import DRAWN
from tests.homes import ROOT, Home, Stub

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"(?:^<!-- (?P<note>file|exit|read): (?P<value>[^\n]*?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.M | re.S,
)
LINK = re.compile(r"\[[^\]]*\]\((?P<to>[^)\s]+)\)")
SPAN = re.compile(r"`(fleet(?: [^`]+)?)`")


@dataclass(frozen=True)
class Block:
    """A fenced block, and what the comment before it says."""

    page: Path
    line: int
    language: str
    text: str
    note: str | None
    value: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.language == "sh" and self.note != "read"

    def lines(self) -> Iterator[str]:
        """The commands, continued lines joined, without comments."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield line.strip()


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, found.start("text")),
            found["language"],
            re.sub(f"^{found['indent']}", "", found["text"], flags=re.M),
            found["note"],
            found["value"] or "",
        )
        for found in BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks(page)]
STORIES = sorted({block.page for block in ALL if block.runs})


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- stories --------------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("page", STORIES, ids=named)
def test_a_pages_commands_run_as_it_says(page: Path, fleet_home: Home, claude_program: str, stub: Stub) -> None:
    home = fleet_home
    home.seed_claude(stub.url)
    programs = home.path / "bin"
    programs.mkdir()
    (programs / "claude").symlink_to(claude_program)
    home.env["PATH"] = f"{programs}:{home.env['PATH']}"
    home.env["TERM"] = "xterm-256color"
    for block in blocks(page):
        if block.note == "file":
            home.write(block.value, block.text)
        elif block.runs:
            for line in block.lines():
                done = run(home, line)
                wanted = int(block.value) if block.note == "exit" else 0
                said = f"{block.place}: {line}\n{done.stdout}{done.stderr}"
                assert done.returncode == wanted, f"{said}\n{home.account()}"


def run(home: Home, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=home.work,
        env=home.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# -- manifests and settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [b for b in ALL if "apiVersion:" in b.text], ids=lambda b: b.place)
def test_a_manifest_in_a_document_is_valid(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "agent" / (block.value if block.note == "file" and "/" not in block.value else "agent.yaml")
    path.parent.mkdir()
    path.write_text(block.text)
    assert manifests.load(path).specs


@pytest.mark.parametrize("block", [b for b in ALL if b.text.startswith("# config.yaml")], ids=lambda b: b.place)
def test_settings_in_a_document_are_valid(block: Block, home: Home) -> None:
    path = home.path / "fleet" / "config.yaml"
    path.parent.mkdir()
    path.write_text(block.text)
    shown = home.fleet("config", "show")
    assert shown.returncode == 0, shown.stderr
    assert "config.yaml" in shown.stdout


def test_every_yaml_block_is_a_manifest_or_settings() -> None:
    whole = [b for b in ALL if b.language == "yaml" and b.note != "read"]
    other = [b.place for b in whole if "apiVersion:" not in b.text and not b.text.startswith("# config.yaml")]
    assert other == []
    assert [b.place for b in whole if not list(yaml.safe_load_all(b.text))] == []


# -- commands by name -------------------------------------------------------------------------------------------------


def spoken() -> list[tuple[str, str]]:
    """Every `fleet …` command that a document speaks of, and where."""
    said = [(b.place, line) for b in ALL if b.language == "sh" for line in b.lines()]
    for page in PAGES:
        text = BLOCK.sub("", page.read_text())
        said += [(named(page), found.group(1)) for found in SPAN.finditer(text)]
    return said


@pytest.mark.parametrize(("place", "line"), spoken())
def test_a_command_that_is_spoken_of_exists_with_its_options(place: str, line: str) -> None:
    words = fleet_words(line)
    if not words or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
        return  # no command of fleet's, or a placeholder
    command: click.Command = fleet
    while words and isinstance(command, click.Group):
        context = click.Context(command, info_name=command.name)
        found = command.get_command(context, words[0])
        assert found is not None, f"{place}: there is no `{words[0]}` in `{line}`"
        command, words = found, words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.split("=")[0] for word in words if word.startswith("-") and word not in ("-", "--")}
    assert given - known - {"--help", "-h"} == set(), f"{place}: {line}"


def fleet_words(line: str) -> list[str]:
    """What follows `fleet` in a command line, up to the next command; nothing where it is another program's."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return []
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if not words or Path(words[0]).name != "fleet":
        return []
    ends = [i for i, word in enumerate(words) if word in ("|", "&&", "||", ">", "<", ";", "&")]
    return words[1 : ends[0] if ends else None]


def test_every_command_is_spoken_of_in_a_document() -> None:
    said = {words[0] for _, line in spoken() if (words := fleet_words(line))}
    assert set(COMMANDS) - said == set()


def test_every_make_target_that_is_spoken_of_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    said = {t for page in PAGES for t in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.M)}
    assert said - targets == set()


# -- drawn documents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWN)
def test_a_drawn_document_is_what_the_code_says(name: str) -> None:
    assert (ROOT / name).read_text() == DRAWN[name](), "`make docs` draws it anew"


# -- links and length -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_link_to_a_file_leads_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    dead = []
    for found in LINK.finditer(text):
        to, _, anchor = found["to"].partition("#")
        if to.startswith(("http://", "https://", "mailto:")):
            continue
        path = (page.parent / to).resolve() if to else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            dead.append(found["to"])
    assert dead == []


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def test_the_readme_is_one_screen() -> None:
    assert len(re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(), flags=re.S).split()) <= 600


def test_every_page_is_reached_from_the_index() -> None:
    reached, ahead = set(), [ROOT / "docs" / "index.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = (found["to"].partition("#")[0] for found in LINK.finditer(page.read_text()))
        ahead += [(page.parent / to).resolve() for to in targets if to and "://" not in to]
    lost = [named(page) for page in PAGES if page not in reached and page.is_relative_to(ROOT / "docs")]
    assert lost == []


# -- the package ------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_what_pip_installs_holds_every_file_of_fleet(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    built = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("agent_fleet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    listed = subprocess.run(["git", "ls-files", "-z", "fleet"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()} - held == set()
