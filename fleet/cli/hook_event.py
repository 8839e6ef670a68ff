"""`fleet hook-event`: the command as `--help` shows it. A hook's call is answered before click (cli/__init__.py)."""

from __future__ import annotations

import click

from fleet import hook


@click.command("hook-event", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("kind", metavar="[KIND]", required=False)
@click.option("--agent", metavar="NAME", help="Whose event it is.")
def hook_event(kind: str | None, agent: str | None) -> int:
    """Take the JSON of a hook on stdin and store it as an event of the agent.

    KIND is pretool, posttool, prompt, stop, other, or the program's own name of the event (PreToolUse, ...); any
    other word is kept as it is, and without one the JSON's hook_event_name counts. The agent is the one named,
    or else FLEET_AGENT, CLAUDE_AGENT_ID, SCITEX_OROCHI_AGENT or the folder's name. Always exits 0 and prints nothing.
    """
    return hook.main([word for word in (kind, agent and f"--agent={agent}") if word])
