"""Settings come from a variable, the file or the default, and each knows which."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from fleet.config import described, load, load_settings
from fleet.errors import InvalidSettings
from fleet.settings import Places, Settings


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places.of({"FLEET_HOME": str(tmp_path), "HOME": str(tmp_path)})


def test_without_a_file_everything_is_the_default(places: Places) -> None:
    found = load(places, {})
    assert found.settings == Settings()
    assert set(found.origins.values()) == {"default"}
    assert set(found.origins) == {field.name for field in fields(Settings)}


def test_the_file_counts_more_than_the_default_and_a_variable_more_than_the_file(places: Places) -> None:
    places.config_file.write_text("fresh: 7\nstale: 40.5\nstart_backoff: [1, 2.5]\n")
    found = load(places, {"FLEET_STALE": "50", "FLEET_BRAKE_BURST": "9", "FLEET_START_BACKOFF": "3, 4"})
    settings = found.settings
    assert (settings.fresh, settings.stale, settings.brake_burst) == (7.0, 50.0, 9)
    assert settings.start_backoff == (3.0, 4.0)
    assert found.origins["fresh"] == f"{places.config_file}:1"
    assert found.origins["stale"] == "FLEET_STALE"
    assert found.origins["ramp_halt"] == "default"


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n"])
def test_an_empty_file_sets_nothing(places: Places, text: str) -> None:
    places.config_file.write_text(text)
    assert load_settings(places, {}) == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "observe_intervall: 1\n",
            r"config\.yaml:1:1: observe_intervall: is no setting \(did you mean observe_interval",
        ),
        ("fresh: soon\n", r":1:8: fresh: must be a number, not 'soon'"),
        ("fresh: yes\n", r"must be a number, not True"),
        ("fresh: -1\n", r"from 0 up"),
        ("fresh: .nan\n", r"from 0 up"),
        ("spool_check: 0\n", r"must be a number from 0.01 up, not 0"),
        ("start_parallel: 0\n", r"must be a number from 1 up, not 0"),
        ("pane_width: 10001\n", r"must be a number from 1 to 10000, not 10001"),
        ("start_backoff: [1, -1]\n", r"from 0 up, not -1"),
        ("hub_port: 99999\n", r"from 0 to 65535, not 99999"),
        ("hub_orochi_ws_port: -2\n", r"from -1 to 65535, not -2"),
        ("brake_burst: 1.5\n", r"must be a whole number"),
        ("start_backoff: 5\n", r"must be a list, not 5"),
        ("start_backoff: [a]\n", r"must be a number, not 'a'"),
        ("fresh: 1\nfresh: 2\n", r":2:1: fresh: stands twice"),
        ("- fresh\n", r"must be a mapping"),
        ("fresh: [1\n", r"no valid YAML"),
        ("fresh: 1\n---\nfresh: 2\n", r"a second document"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(places: Places, text: str, said: str) -> None:
    places.config_file.write_text(text)
    with pytest.raises(InvalidSettings, match=said) as refused:
        load(places, {})
    assert refused.value.facts["problems"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("FLEET_FRESH", "soon", "FLEET_FRESH: must be a number, not 'soon'"),
        ("FLEET_BRAKE_BURST", "1.5", "FLEET_BRAKE_BURST: must be a whole number"),
        ("FLEET_FRESH", "-1", "from 0 up"),
        ("FLEET_OBSERVE_INTERVL", "1", "FLEET_OBSERVE_INTERVL: is no setting (did you mean FLEET_OBSERVE_INTERVAL"),
    ],
)
def test_a_mistake_in_a_variable_is_told_by_its_name(places: Places, variable: str, value: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=re.escape(said)):
        load(places, {variable: value})


def test_a_port_for_orochis_clients_can_be_none(places: Places) -> None:
    places.config_file.write_text("hub_orochi_ws_port: -1\n")
    settings = load_settings(places, {"FLEET_HUB_OROCHI_HTTP_PORT": "-1"})
    assert (settings.hub_orochi_ws_port, settings.hub_orochi_http_port) == (-1, -1)


def test_fleets_other_variables_are_no_settings(places: Places) -> None:
    others = {
        "FLEET_HOME": "/x",
        "FLEET_AGENT": "a",
        "FLEET_GENERATION": "a.1.x",
        "FLEET_HUB": "x",
        "FLEET_TEST_X": "1",
    }
    assert load_settings(places, others) == Settings()


def test_all_mistakes_are_told_at_once(places: Places) -> None:
    places.config_file.write_text("fresh: soon\nnope: 1\n")
    with pytest.raises(InvalidSettings) as refused:
        load(places, {"FLEET_STALE": "late"})
    assert len(refused.value.facts["problems"]) == 3


def test_every_setting_says_what_it_is() -> None:
    assert set(described()) == {field.name for field in fields(Settings)}
