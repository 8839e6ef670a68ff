"""The coding-agent programs that fleet can run, by the manifest's name for them."""

from __future__ import annotations

from collections.abc import Mapping

from fleet.errors import CannotYet
from fleet.harnesses.base import Harness
from fleet.harnesses.claude_code import ClaudeCode
from fleet.harnesses.shell import Shell

HARNESSES: Mapping[str, Harness] = {h.name: h for h in (ClaudeCode(), Shell())}


def harness(name: str) -> Harness:
    """The harness of that name. Raise `CannotYet` for one that is declared and not in this version."""
    found = HARNESSES.get(name)
    if found is None:
        known = ", ".join(HARNESSES)
        raise CannotYet(
            f"harness {name} validates, but this version cannot start it yet; it starts {known}.",
            hint=f"Any program runs under `harness: shell` with `command: [{name}]`, without its state.",
        )
    return found
