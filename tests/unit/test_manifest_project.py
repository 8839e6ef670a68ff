"""What a project says of itself, made into the beginning of an agent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.manifests import load_text, project, writer
from fleet.manifests.project import CAPABILITIES, DESCRIPTION, first_paragraph


def put(folder: Path, **files: str) -> Path:
    """Files, by their names with `__` for the dot and `___` for a slash."""
    for name, text in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_its_own_metadata_comes_first(tmp_path: Path) -> None:
    said = '[project]\nname = "Data_Tools"\ndescription = "Cleans tables."\nkeywords = ["CSV", "big data"]\n'
    put(tmp_path, pyproject__toml=said, README__md="# Something else\n\nAnother description altogether here.\n")
    found = project.read(tmp_path)
    assert (found.name, found.description) == ("data-tools", "Cleans tables.")
    assert found.capabilities == ("python", "csv", "big-data")
    assert found.sources == {
        "name": "pyproject.toml",
        "description": "pyproject.toml",
        "capabilities": "pyproject.toml",
    }


@pytest.mark.parametrize(
    ("file", "text", "name", "says"),
    [
        ("package.json", '{"name": "@acme/web-shop", "description": "Sells things."}', "web-shop", "Sells things."),
        ("Cargo.toml", '[package]\nname = "quick_sort"\ndescription = "Sorts fast."\n', "quick-sort", "Sorts fast."),
        ("Project.toml", 'name = "Waves"\n', "waves", None),
    ],
)
def test_each_language_has_its_own_metadata(tmp_path: Path, file: str, text: str, name: str, says: str | None) -> None:
    (tmp_path / file).write_text(text)
    found = project.read(tmp_path)
    assert (found.name, found.description) == (name, says)


def test_without_metadata_the_readmes_first_prose_and_the_folders_name_count(tmp_path: Path) -> None:
    folder = tmp_path / "My Notes"
    folder.mkdir()
    put(folder, README__md="# Notes\n\n[![ci](x.svg)](y)\n\nNotes on *birds* and\nwhere they are.\n\n## Install\n")
    found = project.read(folder)
    assert (found.name, found.description) == ("my-notes", "Notes on *birds* and where they are.")
    assert found.sources["description"] == "README.md"


def test_what_its_agents_are_told_counts_where_there_is_no_readme(tmp_path: Path) -> None:
    put(tmp_path, AGENTS__md="# For agents\n\nThis service keeps the opening hours of shops.\n")
    assert project.read(tmp_path).description == "This service keeps the opening hours of shops."


def test_its_skills_are_capabilities(tmp_path: Path) -> None:
    put(
        tmp_path,
        __claude___skills___review___SKILL__md="---\nname: Code Review\ndescription: x\n---\n",
        __claude___skills___deploy___SKILL__md="no front matter\n",
        go__mod="module x\n",
    )
    assert project.read(tmp_path).capabilities == ("deploy", "code-review", "go")


def test_typescript_is_not_told_as_javascript_too(tmp_path: Path) -> None:
    put(tmp_path, package__json="{}", tsconfig__json="{}")
    assert project.read(tmp_path).capabilities == ("typescript",)


@pytest.mark.parametrize("text", ["not toml [", "[project]\nname = 7\ndescription = []\n", "project = 3\n", "\x00\xff"])
def test_metadata_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    put(tmp_path, pyproject__toml=text, README__md="It is a small tool.\n")
    found = project.read(tmp_path)
    assert found.description == "It is a small tool."


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError):
        project.read(tmp_path / "nowhere")


PROSE = "A tool for bird watchers."


@pytest.mark.parametrize(
    "before",
    [
        "Title\n=====\n\n",
        "Title\n=====\n",
        "<p align=center><img src=x></p>\n\n<!-- hi there you -->\n",
        "```\nnot this piece of code\n```\n\n",
        "- one two three\n- four\n\n| a | b |\n\n> a quote of somebody\n\n",
        "---\ntitle: x y z\n---\n",
        ".. image:: x.png\n\n",
        "Too short\n\n",
        "",
    ],
)
@pytest.mark.parametrize(
    "prose", [PROSE, "A [tool](x) for `bird` watchers.", "A tool\nfor **bird** watchers.\n\nMore."]
)
def test_the_first_prose_is_found_among_what_stands_before_it(before: str, prose: str) -> None:
    assert first_paragraph(before + prose) == PROSE


@pytest.mark.parametrize("text", ["# Title\n", "", "- only\n- a list of words"])
def test_where_there_is_no_prose_none_is_made(text: str) -> None:
    assert first_paragraph(text) is None


def test_a_long_description_ends_with_a_sentence_where_it_can() -> None:
    sentence = "This sentence has some length to it and goes on for a while, as they do. "
    found = first_paragraph(sentence * 10)
    assert found is not None and len(found) <= DESCRIPTION and found.endswith("as they do.")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(readme=st.text(max_size=400), name=st.text(max_size=80), words=st.lists(st.text(max_size=60), max_size=30))
def test_whatever_a_project_says_the_manifest_made_of_it_is_valid(
    tmp_path: Path, readme: str, name: str, words: list[str]
) -> None:
    (tmp_path / "README.md").write_text(readme, encoding="utf-8", errors="replace")
    said = json.dumps({"name": name, "keywords": words})
    (tmp_path / "package.json").write_text(said, encoding="utf-8", errors="replace")
    found = project.read(tmp_path)
    assert len(found.capabilities) <= CAPABILITIES
    spec = found.agent()
    (again,) = load_text(writer.to_yaml([spec]), file=str(tmp_path / "x.yaml")).specs
    assert (again.name, again.description, again.capabilities) == (spec.name, spec.description, spec.capabilities)
    assert (again.mode, again.headless.tools, again.workdir) == ("headless", "read-only", str(tmp_path.resolve()))
