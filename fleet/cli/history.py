"""`fleet history`: what was said."""

from __future__ import annotations

from typing import Any

import click

from fleet.cli import conversation, hubreads, output, talk


class Moment(click.ParamType[float]):
    """10m, 2h, 3d ago; a date or a time; seconds since the epoch."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return hubreads.moment(str(value))
        except ValueError:
            self.fail(f"`{value}` is no time; say 10m, 2h, 3d, 2026-11-21 or 2026-11-21T14:00", param, ctx)


@click.command()
@click.argument("target", metavar="[#CHANNEL|NAME|THREAD]", required=False, shell_complete=talk.complete_members)
@talk.limit
@click.option("--after", type=talk.Place(), metavar="POSITION", help="Only what came after this position (EPOCH:SEQ).")
@click.option("--before", metavar="SEQ", help="Only what came before this message: the page before.")
@click.option("--since", type=Moment(), metavar="TIME", help="Not older: 10m, 2h, 3d, 2026-11-21, 2026-11-21T14:00.")
@click.option("--until", type=Moment(), metavar="TIME", help="Not newer.")
@talk.as_json
@talk.on_hub
def history(where: talk.Where, target: str | None, as_json: bool, **which: Any) -> int:
    """Show what was said: in a channel, between you and somebody, in a conversation, or all that you may see.

    The newest page is shown; `fleet threads list` lists the conversations.
    """
    asked = hubreads.ask("history", [target] if target else [], **which)

    def show(data: dict[str, Any]) -> None:
        messages = data["messages"]
        conversation.show(messages, none="nothing was said")
        if data.get("more") and messages and not conversation.to_agent():
            on = f"--after {data.get('position')}" if which["after"] else f"--before {messages[0]['seq']}"
            output.message(f"there is more: `{on}`")

    return talk.read(where, asked, show, as_json=as_json)
