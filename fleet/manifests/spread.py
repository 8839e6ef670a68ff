"""`hosts`: one agent for each host, each with the host's name behind its own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from fleet.errors import InvalidManifest
from fleet.manifests.loader import Loaded, load, load_all
from fleet.manifests.model import AgentSpec, Remote, is_name
from fleet.manifests.problem import Problem


def agents(path: str | Path) -> Loaded:
    """What `load` gives, with an agent of its own for each host of one that names several under `hosts`."""
    return spread(load(path))


def agents_of(paths: Iterable[str | Path]) -> Loaded:
    """The same for several files and folders, as one fleet."""
    return spread(load_all(paths))


def spread(loaded: Loaded, this_machine: str | None = None) -> Loaded:
    """Each agent on its hosts. Raise `InvalidManifest` where that makes no names, or one name twice."""
    here = this_machine or os.uname().nodename
    specs = tuple(one for spec in loaded.specs for one in _on_hosts(spec, here))
    seen: dict[str, AgentSpec] = {}
    for spec in specs:
        if spec.name in seen:
            _refuse(spec, f"{spec.name} would be the name of two agents")
        seen[spec.name] = spec
    return replace(loaded, specs=specs)


def _on_hosts(spec: AgentSpec, here: str) -> Iterator[AgentSpec]:
    if spec.hosts is None:
        yield spec
        return
    if spec.hosts == "all" and spec.remote is None:
        _refuse(spec, "`hosts: all` means every host of remote.host, and there is none")
    hosts = spec.remote.choices if spec.hosts == "all" and spec.remote is not None else spec.hosts
    for host in hosts:
        name = f"{spec.name}-{re.sub(r'[^a-z0-9]+', '-', host.lower()).strip('-')}"
        if not is_name(name):
            _refuse(spec, f"{name} is no name for the agent on {host}")
        if host in (here, here.partition(".")[0], "localhost"):
            yield spec.model_copy(update={"name": name, "hosts": None, "remote": None, "runtime": "local"})
        else:
            common = spec.remote or Remote(host=host)
            remote = common.model_copy(update={"host": host})
            yield spec.model_copy(update={"name": name, "hosts": None, "remote": remote, "runtime": "ssh"})


def _refuse(spec: AgentSpec, message: str) -> None:
    problem = Problem(spec.source, 0, 0, "spec.hosts", message)
    raise InvalidManifest(str(problem), problems=[problem.to_json()])
