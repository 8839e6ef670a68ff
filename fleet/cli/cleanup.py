"""`fleet cleanup`: remove what no agent needs any more."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import call, output


@click.command()
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@call.time_limit(120, "How long to wait.")
@call.as_json
def cleanup(dry_run: bool, timeout: float, as_json: bool) -> int:
    """Remove what no agent needs any more: dead panes, old launch folders, stale sockets, leftover processes."""

    def show(data: dict[str, Any]) -> None:
        removed = data.get("removed") or []
        for each in removed:
            output.result(str(each))
        verb = "would be removed" if dry_run else "removed"
        output.message(f"{len(removed)} {verb}" if removed else "nothing to remove")

    return call.call("cleanup", {"dry_run": dry_run}, show, as_json=as_json, timeout=timeout)
