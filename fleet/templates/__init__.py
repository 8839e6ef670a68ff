"""The manifests a person starts from, and what is put beside them. `NAME.yaml` here is the template NAME."""

from __future__ import annotations

import re
from pathlib import Path

from fleet.errors import Usage

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The templates there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def text(name: str) -> str:
    """A template's text."""
    if name not in names():
        raise Usage(f"There is no template {name!r}.", hint=f"There are {', '.join(names())}.")
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def purpose(name: str) -> str:
    """What a template is for: its first comment."""
    return text(name).splitlines()[0].lstrip("# ").rstrip(".")


def agents(name: str) -> list[str]:
    """The agents that a template declares."""
    return re.findall(r"^  name: ([a-z0-9-]+)$", text(name), flags=re.MULTILINE)


def named(text: str, name: str) -> str:
    """A template of one agent, under this name; one of several keeps theirs, which speak of each other."""
    changed, count = re.subn(r"^  name: [a-z0-9-]+$", f"  name: {name}", text, flags=re.MULTILINE)
    return changed if count == 1 else text
