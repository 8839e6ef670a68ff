"""Where a message stands with its recipients: in words for people, and as the exit code of whoever waited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleet.cli import output

STATES = {
    "accepted": "it is on the hub's disk, on its way",
    "queued": "it waits",
    "injecting": "it is being handed over",
    "delivered": "it is in the agent's conversation, and that is proven",
    "answered": "it is answered",
    "declined": "it will not be answered",
    "unconfirmed": "it was handed over, and nothing proves that it arrived; it is not handed over again",
    "expired": "its time was over before it was handed over",
    "failed": "it could not be delivered",
    "cancelled": "it was taken back",
}
"""Every state of a message at one of its recipients, for people."""

REASONS = {
    "offline": "it is not running; the message waits for it",
    "starting": "it is starting",
    "unreachable": "its host cannot be read",
    "paused": "an operator has paused the conversation",
    "limited": "it has reached a usage limit",
    "working": "it is at work",
    "dialog": "a dialog is open in its pane and waits for a person",
    "error": "its program shows an error",
    "unknown": "what it is doing cannot be told",
    "typing": "a person is typing in its pane",
    "settling": "something was submitted there just now",
    "no_composer": "its prompt cannot be seen",
    "draft": "a person's unsent text stands in its prompt",
    "behind": "what came before it is under way",
    "no_wake": "it causes no turn: it is read with the next one",
    "not_pushed": "it is kept for whoever looks",
    "inbox": "it lies in its inbox: the agent reads it by itself",
}
"""Every reason for which a message waits, for people."""

ENDS = {
    "no_proof": "no sign of it was seen in time",
    "program_died": "the program ended before it took it up",
    "turn_died": "the program ended in the middle of the turn",
    "not_noted": "what took it for the program did not pass it on",
    "not_heard": "its doorbell is not heard (are its hooks switched off?): it goes another way",
    "not_typed": "it did not come to stand in its prompt: it is typed again",
    "turn_ended": "the turn ended before it was taken up",
    "no_answer": "its turn ended without an answer",
    "cancelled": "its sender has taken it back",
    "deleted": "it was deleted",
    "set_aside": "several turns in a row have died on it",
    "terminated": "an operator has ended the conversation",
    "expired": "its time was over",
    "deadline": "there was no answer in time",
}
"""Further reasons that stand beside a state."""

AT_REST = ("no_wake", "not_pushed", "inbox")
"""Reasons that nothing has to go away for: the message is where it belongs."""


def in_short(recipient: Mapping[str, Any]) -> str:
    """Where it stands, in a word or two: `delivered`, `queued: dialog`."""
    state, reason = str(recipient.get("state")), recipient.get("reason")
    return f"{state}: {reason}" if reason and reason != state else state


def explained(recipient: Mapping[str, Any]) -> str:
    """Why, or by which proof, in words."""
    reason = recipient.get("reason")
    if reason:
        word, _, cause = str(reason).partition(": ")
        told = REASONS.get(word) or ENDS.get(word)
        return str(reason) if told is None else f"{told}: {cause}" if cause else told
    way, evidence = recipient.get("way"), recipient.get("evidence")
    if way and evidence:
        return f"by {way}, proven by {evidence}" if evidence != way else f"by {way}"
    return STATES.get(str(recipient.get("state")), "")


STYLES = {
    "delivered": "green",
    "answered": "green",
    "queued": "yellow",
    "accepted": "yellow",
    "injecting": "yellow",
    "unconfirmed": "bold magenta",
    "declined": "magenta",
    "failed": "bold red",
    "expired": "red",
    "cancelled": "dim",
}


def exit_code(recipients: Sequence[Mapping[str, Any]]) -> int:
    """What a message's standing means for a script that waited: 0 it is where it belongs with everybody, 1 it goes
    nowhere, 5 nothing proves it, 7 a dialog is in the way, 4 it waits."""
    return next((code for code in (1, 5, 7, 4) if code in map(_code, recipients)), 0)


def _code(recipient: Mapping[str, Any]) -> int:
    state, reason = recipient.get("state"), recipient.get("reason")
    if state in ("delivered", "answered") or (state == "queued" and reason in AT_REST):
        return 0
    if state in ("accepted", "queued", "injecting"):
        return 7 if reason == "dialog" else 4
    return 5 if state == "unconfirmed" else 1


def settled(recipients: Sequence[Mapping[str, Any]]) -> bool:
    """Nothing is to be waited for any more."""
    return all(_code(r) not in (4, 7) for r in recipients)


def heard(recipients: Sequence[Mapping[str, Any]]) -> bool:
    """The hub has looked at each of them."""
    return all(r.get("state") not in ("accepted", "injecting") for r in recipients)


def show_receipt(receipt: Mapping[str, Any]) -> None:
    """Where a message stands with each of its recipients."""
    recipients = receipt.get("recipients") or []
    again = " (it was sent before; nothing is new)" if receipt.get("duplicate") else ""
    output.message(f"{receipt['id']} is accepted{again}")
    if not recipients:
        output.message("nobody is there to hear it; it stands in the history")
        return
    show(recipients)


def show(recipients: Sequence[Mapping[str, Any]]) -> None:
    """Each recipient: where it stands there, and why."""
    output.table(
        ("NAME", "STATE", "WHY"),
        [(str(r["name"]), (in_short(r), STYLES.get(str(r["state"]), "")), explained(r)) for r in recipients],
    )
    for recipient in recipients:
        if recipient.get("reason") == "dialog":
            output.message(f"`fleet attach {recipient['name']}` opens the dialog (Ctrl-B D leaves)")
