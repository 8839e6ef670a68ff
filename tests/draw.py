"""`make docs`: the documents that are drawn from the code. tests/test_docs.py compares them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from fleet.cli import reference
from fleet.manifests import schema
from tests import architecture, states

ROOT = Path(__file__).parent.parent
DRAWN: dict[str, Callable[[], str]] = {
    "docs/architecture.md": architecture.drawn,
    "docs/cli.md": reference.reference,
    "docs/manifest.md": schema.reference,
    "docs/states.md": states.drawn,
}


def main() -> int:
    for name, draw in DRAWN.items():
        path, text = ROOT / name, draw()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"{name} drawn anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
