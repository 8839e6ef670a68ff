"""`hosts`: one agent for each host."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.errors import InvalidManifest
from fleet.manifests import Loaded
from fleet.manifests.model import AgentSpec, Remote
from fleet.manifests.spread import spread


def spec(**fields: Any) -> AgentSpec:
    return AgentSpec(name="web", harness="shell", command=("true",), **fields)


def spread_over(*specs: AgentSpec) -> list[tuple[str, str, str | None]]:
    loaded = spread(Loaded(specs), this_machine="desk.lab")
    return [(one.name, one.runtime, one.remote.choices[0] if one.remote else None) for one in loaded.specs]


def test_an_agent_without_hosts_stays_as_it_is() -> None:
    assert spread_over(spec()) == [("web", "local", None)]


def test_each_host_has_an_agent_of_its_own_with_its_name_behind() -> None:
    assert spread_over(spec(hosts=("mba", "Node1.lab"))) == [
        ("web-mba", "ssh", "mba"),
        ("web-node1-lab", "ssh", "Node1.lab"),
    ]


def test_this_machine_among_the_hosts_needs_no_ssh() -> None:
    assert spread_over(spec(hosts=("desk", "mba"))) == [("web-desk", "local", None), ("web-mba", "ssh", "mba")]


def test_all_means_every_host_that_remote_names_and_the_rest_of_remote_counts_for_each() -> None:
    many = spec(hosts="all", remote=Remote(host=("a", "b"), user="me"))
    assert spread_over(many) == [("web-a", "ssh", "a"), ("web-b", "ssh", "b")]
    assert all(one.remote and one.remote.user == "me" for one in spread(Loaded((many,))).specs)


@pytest.mark.parametrize("hosts", ["all", ("a.b", "a-b"), ("x" * 80,)])
def test_hosts_that_make_no_names_or_one_twice_are_refused(hosts: Any) -> None:
    with pytest.raises(InvalidManifest):
        spread_over(spec(hosts=hosts))
