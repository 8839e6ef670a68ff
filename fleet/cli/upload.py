"""`fleet upload`: give the hub files."""

from __future__ import annotations

import click

from fleet.cli import attachments, conversation, output, talk


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@talk.dry_run
@talk.as_json
@talk.on_hub
def upload(where: talk.Where, files: tuple[str, ...], dry_run: bool, as_json: bool) -> int:
    """Upload files; each is known by its sum from then on. `fleet send --attach FILE` does it on the way."""
    found = attachments.found(files)
    given = attachments.give(where, found, dry_run=dry_run)["attachments"]
    if as_json:
        output.envelope({"files": given, **({"dry_run": True} if dry_run else {})})
    else:
        output.table(
            ("NAME", "SIZE", "TYPE", "SHA256"),
            [
                (str(f["name"]), conversation.size(f["size"]), str(f.get("type") or "-"), str(f.get("sha256") or "-"))
                for f in given
            ],
        )
    return 0
