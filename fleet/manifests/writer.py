"""Agents as YAML again, in the form of fleet/v1: what was said, without the defaults."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from fleet.manifests.model import AgentSpec


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are read best; lists within their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = all(c.isprintable() or c == "\n" for c in text)  # YAML takes some of the others for line ends
    style = ("|" if "\n" in text else None) if plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(specs: Iterable[AgentSpec]) -> str:
    """The documents that load to these very agents."""
    return "---\n".join(_dumped(spec.to_manifest()) for spec in specs)


def _dumped(document: dict[str, Any]) -> str:
    text: str = yaml.dump(_plain(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def _plain(value: Any) -> Any:
    """Whole numbers without `.0`, and commands as the bare lists they were written as."""
    if isinstance(value, dict):
        if set(value) == {"argv"}:
            return value["argv"]
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
