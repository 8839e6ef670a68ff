"""`fleet discuss`: have two agents talk about something."""

from __future__ import annotations

from typing import Any

import click

from fleet import hubcall
from fleet.cli import output, standing, talk


@click.command()
@click.argument("a", metavar="NAME", shell_complete=talk.complete_members)
@click.argument("b", metavar="NAME", shell_complete=talk.complete_members)
@click.argument("topic", metavar="TOPIC|-", required=False)
@talk.text_file
@click.option("--max-hops", type=click.IntRange(min=1), metavar="N", help="End it sooner than fleet would.")
@talk.dry_run
@talk.as_json
@talk.on_hub
def discuss(
    where: talk.Where,
    a: str,
    b: str,
    topic: str | None,
    text_file: str | None,
    max_hops: int | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Open a conversation between two agents on a TOPIC; it ends by itself at the hop limit, if not before."""
    body: dict[str, Any] = {"a": a, "b": b, "topic": talk.text_of(topic, text_file, "TOPIC")}
    body |= {"max_hops": max_hops} if max_hops else {}
    if dry_run:
        talk.check_names(where, [a, b])
    return talk.act(where, "POST", hubcall.path("discussions"), body, _show, as_json=as_json, dry_run=dry_run)


def _show(data: dict[str, Any]) -> None:
    thread = data.get("thread")
    for receipt in data.get("messages") or ():
        standing.show_receipt(receipt)
    output.message(f"`fleet tail {thread}` follows it, `fleet threads terminate {thread}` ends it")
