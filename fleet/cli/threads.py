"""`fleet threads`: conversations, and what an operator does to them."""

from __future__ import annotations

from typing import Any

import click

from fleet import hubcall
from fleet.cli import conversation, hubreads, output, talk, words

STYLES = {"active": "green", "revived": "green", "paused": "yellow", "terminated": "dim"}


@click.group()
def threads() -> None:
    """List conversations, read them, and pause, resume, end or revive them."""


@threads.command(name="list")
@click.option("--state", type=click.Choice(list(STYLES)), help="Only those that stand so.")
@click.option("--before", type=click.IntRange(min=0), metavar="SEQ", help="Only what began before: the next page.")
@talk.limit
@talk.as_json
@talk.on_hub
def list_(where: talk.Where, as_json: bool, **which: Any) -> int:
    """List the newest conversations.

    COUNTED: how many of their messages count for the limits on turns; what operators say and what is said to a person
    does not.
    """
    return talk.read(where, hubreads.ask("threads list", **which), _list, as_json=as_json)


def _list(data: dict[str, Any]) -> None:
    if not data["threads"]:
        output.message("no conversations")
        return
    output.table(
        ("THREAD", "STATE", "OPENED", "BY", "MESSAGES", "COUNTED"),
        [
            (
                str(t["id"]),
                (str(t["state"]), STYLES.get(str(t["state"]), "")),
                words.clock_time(t.get("opened_at")),
                str(t.get("opened_by") or "-"),
                str(t.get("messages") or 0),
                str(t.get("turns") or 0),
            )
            for t in data["threads"]
        ],
    )


@threads.command()
@click.argument("thread", metavar="THREAD")
@talk.as_json
@talk.on_hub
def show(where: talk.Where, thread: str, as_json: bool) -> int:
    """Show a conversation's transcript: what was said, and what operators did to it."""
    return talk.read(where, hubreads.ask("threads show", [thread]), _show, as_json=as_json)


def _show(data: dict[str, Any]) -> None:
    thread = data.get("thread") or {}
    acts = data.get("acts") or []
    told = sorted([*(data.get("messages") or ()), *acts], key=lambda item: (item.get("at") or 0, item.get("seq") or 0))
    if conversation.to_agent():
        conversation.show(data.get("messages") or ())
        return
    for item in told:
        if "text" in item and "id" in item:
            conversation.line(item)
        else:
            act(item)
    if isinstance(thread, dict) and thread.get("state"):
        by = f" by {thread['by']}" if thread.get("by") else ""
        output.message(f"{thread['id']} is {thread['state']}{by}")


def act(item: dict[str, Any]) -> None:
    """What an operator did, as a line between the messages."""
    who, what = item.get("by"), item.get("verb")
    why = f": {item['reason']}" if item.get("reason") else ""
    output.pieces([(words.clock_time(item.get("at")), "dim"), (f"— {what} by {who}{why}", "bold yellow")])


def _acting(verb: str, done: str, about: str) -> click.Command:
    @click.argument("thread", metavar="THREAD")
    @click.option("--reason", default="", metavar="TEXT", help="Why; it stands in the audit.")
    @talk.dry_run
    @talk.as_json
    @talk.on_hub
    def command(where: talk.Where, thread: str, reason: str, dry_run: bool, as_json: bool) -> int:
        return talk.act(
            where,
            "POST",
            hubcall.path("threads", thread, verb),
            {"reason": reason} if reason else {},
            lambda data: output.message(f"{thread} is {data.get('state') or done}"),
            as_json=as_json,
            dry_run=dry_run,
            repeat=True,
        )

    command.__doc__ = about
    return threads.command(name=verb)(command)


_acting("pause", "paused", "Pause a conversation: its mail waits, a running turn is stopped.")
_acting("resume", "active", "Let a paused conversation go on; what waited is delivered.")
_acting("terminate", "terminated", "End a conversation: what waits in it is cancelled, a running turn is ended.")
_acting("revive", "revived", "Open a terminated conversation again; what was cancelled stays so.")
