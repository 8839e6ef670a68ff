"""`fleet search`: messages by their words."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import conversation, hubreads, output, talk


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="WORD...")
@click.option("--channel", metavar="#CHANNEL", shell_complete=talk.complete_members, help="Only in this channel.")
@click.option("--before", metavar="SEQ", help="Only what came before this message: the next page.")
@talk.limit
@talk.as_json
@talk.on_hub
def search(where: talk.Where, words: tuple[str, ...], as_json: bool, **which: Any) -> int:
    """Find messages that hold all of the words, newest first; `"two words"` stand together, `wor*` begins a word."""

    def show(data: dict[str, Any]) -> None:
        conversation.show(data["messages"], none="no message holds these words")
        if data.get("more") and not conversation.to_agent():
            output.message(f"there is more: `--before {data['messages'][-1]['seq']}`")

    return talk.read(where, hubreads.ask("search", words, **which), show, as_json=as_json)
