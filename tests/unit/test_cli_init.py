"""`fleet init --from`: what a project says of itself, shown, asked about, and never written over anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fleet.cli import init as module
from fleet.manifests import load
from tests.unit.cli_fixtures import Shell, fleet, place

__all__ = ["fleet", "place"]


@pytest.fixture
def shop(place: Path) -> Path:
    folder = place.parent / "shop"
    folder.mkdir()
    (folder / "package.json").write_text('{"name": "shop", "description": "Sells things.", "keywords": ["web"]}')
    return folder


def test_a_dry_run_prints_the_manifest_and_writes_nothing(fleet: Shell, shop: Path) -> None:
    done = fleet("init", "--from", str(shop), "--dry-run")
    assert done.code == 0 and "description: Sells things." in done.out and "mode: headless" in done.out
    assert list(Path.cwd().iterdir()) == []


def test_with_yes_it_is_written_and_loads(fleet: Shell, shop: Path) -> None:
    done = fleet("init", "--from", str(shop), "--yes", "--json")
    said = json.loads(done.out)["data"]
    assert done.code == 0 and said["written"] is True
    assert (said["name"], said["capabilities"], said["sources"]["name"]) == (
        "shop",
        ["javascript", "web"],
        "package.json",
    )
    (spec,) = load(said["path"]).specs
    assert (spec.mode, spec.workdir, spec.headless.tools) == ("headless", str(shop.resolve()), "read-only")


def test_another_name_may_be_given(fleet: Shell, shop: Path) -> None:
    assert fleet("init", "clerk", "--from", str(shop), "--yes").code == 0
    assert Path("clerk.yaml").exists()


def test_without_a_person_to_ask_it_writes_nothing(fleet: Shell, shop: Path) -> None:
    done = fleet("init", "--from", str(shop))
    assert done.code == 2 and "--yes" in done.err
    assert not Path("shop.yaml").exists()


@pytest.mark.parametrize(("answer", "written"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_person_sees_it_and_says_yes_or_nothing_is_written(
    fleet: Shell, shop: Path, monkeypatch: pytest.MonkeyPatch, answer: str, written: bool
) -> None:
    monkeypatch.setattr(module, "_at_terminal", lambda: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: answer.strip())
    done = fleet("init", "--from", str(shop))
    assert Path("shop.yaml").exists() is written
    assert "Sells things." in done.err and "description: from package.json" in done.err
    assert (done.code == 0) is written


def test_an_existing_file_is_never_overwritten(fleet: Shell, shop: Path) -> None:
    Path("shop.yaml").write_text("mine")
    done = fleet("init", "--from", str(shop), "--yes")
    assert done.code == 1 and "exists already" in done.err
    assert Path("shop.yaml").read_text() == "mine"


def test_a_folder_that_is_not_there_and_two_beginnings_are_refused(fleet: Shell, shop: Path) -> None:
    assert fleet("init", "--from", "nowhere", "--yes").code == 2
    assert fleet("init", "--from", str(shop), "--template", "local").code == 2
