"""Manifests: YAML files that declare agents, read into `AgentSpec`."""

from fleet.manifests.acting import cannot_yet, later, not_acting
from fleet.manifests.loader import Loaded, load, load_all, load_text
from fleet.manifests.model import AgentSpec, Command, Secret, is_name
from fleet.manifests.problem import Problem
from fleet.manifests.spread import agents, agents_of

__all__ = [
    "AgentSpec",
    "Command",
    "Loaded",
    "Problem",
    "Secret",
    "agents",
    "agents_of",
    "cannot_yet",
    "is_name",
    "later",
    "load",
    "load_all",
    "load_text",
    "not_acting",
]
