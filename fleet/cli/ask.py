"""`fleet ask`: a question to one agent, which ends once, in one way."""

from __future__ import annotations

from typing import Any

import click

from fleet import hubcall
from fleet.cli import attachments, conversation, output, standing, talk
from fleet.cli.call import Seconds
from fleet.errors import Usage

EXIT = {"answered": 0, "declined": 1, "failed": 1, "cancelled": 1, "timed_out": 4, "expired": 4}
"""What each outcome means for a script."""

TOLD = {
    "declined": "{name} will not answer: {reason}",
    "failed": "it could not be asked, or its turn failed: {reason}",
    "cancelled": "the ask was taken back: {reason}",
    "timed_out": "no answer in time; a later one will be in {thread}: `fleet threads show {thread}`",
    "expired": "its time was over before it reached {name}",
}


@click.command()
@click.argument("name", metavar="NAME", shell_complete=talk.complete_members)
@click.argument("text", metavar="TEXT|-", required=False)
@talk.text_file
@click.option(
    "--timeout",
    type=Seconds(),
    metavar="SECONDS",
    help="Until it ends as timed_out; otherwise the hub's setting hub_ask_timeout says.",
)
@click.option("--thread", metavar="ID", help="In this conversation; otherwise a new one begins.")
@click.option("--reply-to", metavar="ID", help="It replies to this message.")
@attachments.option
@click.option("--max-hops", type=click.IntRange(min=1), metavar="N", help="End the exchange sooner than fleet would.")
@talk.key
@talk.dry_run
@talk.as_json
@talk.on_hub
def ask(
    where: talk.Where,
    name: str,
    text: str | None,
    text_file: str | None,
    timeout: float | None,
    attach: tuple[str, ...],
    key: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Ask an agent, wait for its answer and print it.

    Exit 0: answered; 1: declined, failed or cancelled; 4: timed out or expired. The outcome is pushed when it is there.
    """
    if "," in name or name.startswith("#"):
        hint = f"Ask each of them, or ask all at once: `fleet send {name} TEXT --intent ask --wake`."
        raise Usage("An ask goes to one name: it has one answer.", hint=hint)
    files = attachments.found(attach)
    given = {option: value for option, value in options.items() if value is not None}
    body = {
        "to": name,
        "text": talk.text_of(text, text_file),
        **({} if timeout is None else {"timeout": timeout}),
        **given,
        "idempotency_key": talk.own_key(key),
    }
    if dry_run:
        talk.check_names(where, [name])
        return talk.would("POST", hubcall.path("asks"), body, as_json)
    body |= attachments.give(where, files)
    try:
        said = hubcall.ask(where.door, body, waiting=talk.tell_waiting)
    except KeyboardInterrupt:
        output.message("left; the question stands: its answer will be in your inbox (`fleet inbox`)")
        raise
    ended: dict[str, Any] = said.json()
    if as_json:
        output.verbatim(said.envelope())
    else:
        _show(name, ended)
    return EXIT.get(str(ended.get("outcome")), 1)


def _show(name: str, ended: dict[str, Any]) -> None:
    if ended.get("outcome") == "answered":
        answer = ended.get("answer") or {}
        if conversation.to_agent():
            conversation.show([answer])
        else:
            output.result(str(answer.get("text") or ""))
        return
    reason = standing.explained({"reason": ended.get("reason") or "no reason is told"})
    told = TOLD.get(str(ended.get("outcome")), "it ended as {outcome}")
    facts = {"name": name, "reason": reason, "thread": ended.get("thread"), "outcome": ended.get("outcome")}
    output.message(told.format(**facts))
