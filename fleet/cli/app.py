"""The commands by name: found in a table, loaded only when called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from fleet import __version__
from fleet.cli import mistakes
from fleet.errors import FleetError, Usage

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Run agents": {
        "start": ("fleet.cli.start:start", "Start agents from names, manifests or folders."),
        "stop": ("fleet.cli.stop:stop", "Stop agents; they stay stopped."),
        "restart": ("fleet.cli.restart:restart", "Stop and start agents, whatever their restart policy says."),
        "reset": ("fleet.cli.reset:reset", "Clear what agents have failed at, so that they may start again."),
        "attach": ("fleet.cli.attach:attach", "Go into an agent's pane (Ctrl-B D leaves)."),
        "wait": ("fleet.cli.wait:wait", "Wait until an agent has reached a state."),
        "slurm": ("fleet.cli.slurm:slurm", "Hold allocations that several agents share."),
        "render": ("fleet.cli.render:render", "Print the batch script of an agent in a SLURM job."),
        "diff": ("fleet.cli.diff:diff", "Show what `apply` would change."),
        "apply": ("fleet.cli.apply:apply", "Make what runs the same as a folder of manifests."),
    },
    "See what they do": {
        "status": ("fleet.cli.status:status", "Show agents and what they are doing, or one with everything."),
        "list": ("fleet.cli.list:list_", "List agents by capability, machine or label."),
        "inspect": ("fleet.cli.inspect:inspect", "Show everything known about one agent."),
        "explain": ("fleet.cli.explain:explain", "Show why an agent is said to be in its state, source by source."),
        "logs": ("fleet.cli.logs:logs", "Show what an agent has put out, also after its end."),
        "events": ("fleet.cli.events:events", "List what has happened: hooks, phases, decisions."),
        "health": ("fleet.cli.health:health", "Say which agents are healthy, and why the others are not."),
    },
    "Talk": {
        "send": ("fleet.cli.send:send", "Send a message to members and #channels."),
        "ask": ("fleet.cli.ask:ask", "Ask an agent, and wait for the one outcome."),
        "reply": ("fleet.cli.reply:reply", "Reply to a message, or answer an ask."),
        "decline": ("fleet.cli.decline:decline", "Say that an ask will not be answered."),
        "edit": ("fleet.cli.edit:edit", "Change the text of a message of yours."),
        "cancel": ("fleet.cli.cancel:cancel", "Take a message back from whoever has not got it."),
        "delete": ("fleet.cli.delete:delete", "Take a message out of the history."),
        "prompt": ("fleet.cli.prompt:prompt", "Type your own word into an agent."),
        "discuss": ("fleet.cli.discuss:discuss", "Have two agents talk about something."),
        "receipt": ("fleet.cli.receipt:receipt", "Show where a message stands with each recipient."),
        "inbox": ("fleet.cli.inbox:inbox", "Read your inbox, or look into an agent's."),
        "history": ("fleet.cli.history:history", "Show what was said."),
        "tail": ("fleet.cli.tail:tail", "Follow what is said, as it is said."),
        "search": ("fleet.cli.search:search", "Find messages by their words."),
        "members": ("fleet.cli.members:members", "List everybody who can be spoken to."),
        "who": ("fleet.cli.who:who", "Show who is there now and what they do."),
        "channels": ("fleet.cli.channels:channels", "List the channels and who hears them."),
        "join": ("fleet.cli.join:join", "Hear a channel from now on."),
        "leave": ("fleet.cli.leave:leave", "Hear a channel no more."),
        "react": ("fleet.cli.react:react", "Put a sign at a message."),
        "upload": ("fleet.cli.upload:upload", "Give the hub files."),
        "download": ("fleet.cli.download:download", "Fetch files from the hub."),
        "threads": ("fleet.cli.threads:threads", "List, read, pause, resume, end or revive conversations."),
    },
    "Keep the hub": {
        "hub": ("fleet.cli.hub:hub", "Say where the hub is; copy, check and export its log."),
        "mcp": ("fleet.cli.mcp:mcp", "Serve the hub's tools to a program, or write that into a project."),
        "tokens": ("fleet.cli.tokens:tokens", "List, make and revoke tokens."),
        "invites": ("fleet.cli.invites:invites", "Let somebody in who has no token yet."),
        "workspaces": ("fleet.cli.workspaces:workspaces", "List, make and delete separate rooms."),
        "remove": ("fleet.cli.remove:remove", "Take a member out of the registry; what it said stays."),
    },
    "Write manifests": {
        "init": ("fleet.cli.init:init", "Write a manifest from a template."),
        "validate": ("fleet.cli.validate:validate", "Check manifests for mistakes, with file and line."),
        "check": ("fleet.cli.check:check", "Check that what manifests need is there; nothing is started."),
        "convert": ("fleet.cli.convert:convert", "Rewrite a manifest of an older format as fleet/v1."),
        "schema": ("fleet.cli.schema:schema", "Print the JSON Schema of manifests, for editors."),
    },
    "Keep the house": {
        "daemon": ("fleet.cli.daemon:daemon", "Run, restart, stop or see the daemon; agents stay as they are."),
        "shutdown": ("fleet.cli.shutdown:shutdown", "Stop all agents and mark the fleet as down."),
        "doctor": ("fleet.cli.doctor:doctor", "Look for what stands in fleet's way, with remedies."),
        "cleanup": ("fleet.cli.cleanup:cleanup", "Remove what no agent needs any more."),
        "config": ("fleet.cli.config:config", "Show the settings and where each comes from."),
        "hooks": ("fleet.cli.hooks:hooks", "Install or remove hooks for sessions that are started by hand."),
        "hook-event": ("fleet.cli.hook_event:hook_event", "Take a hook's event from stdin; always exits 0."),
        "completion": ("fleet.cli.completion:completion", "Print the completion script for a shell."),
    },
}
"""Where each command is found, and what it is for: `fleet --help` loads none of them."""

COMMANDS = {name: command for section in SECTIONS.values() for name, command in section.items()}


class Commands(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise Usage(f"There is no command `{args[0]}`.", hint=_meant(args[0]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()], col_max=14)


def _meant(word: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, COMMANDS, n=1, cutoff=0.6)
    return f"Did you mean `fleet {near[0]}`?" if near else "`fleet --help` lists the commands."


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`fleet COMMAND --help` says more. Start here: `fleet init`, `fleet start FILE`, `fleet status`.",
)
@click.version_option(__version__, "-V", "--version", message="fleet %(version)s")
@click.pass_context
def fleet(ctx: click.Context) -> None:
    """Run AI coding agents declared in YAML: start them, see their true state, keep them up."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(words: Sequence[str]) -> int:
    """Run a command; its exit code. Mistakes in the words themselves are `Usage`."""
    if "_FLEET_COMPLETE" in os.environ:
        from fleet.cli import completion

        return completion.complete(fleet)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    try:
        with fleet.make_context("fleet", list(words)) as ctx:
            code: Any = fleet.invoke(ctx)
    except click.exceptions.NoArgsIsHelpError as help_instead:
        click.echo(help_instead.format_message(), err=True)
        return Usage.exit_code
    except click.UsageError as error:
        raise mistakes.usage(error) from error
    except click.exceptions.Exit as left:
        return left.exit_code
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except click.ClickException as error:
        raise FleetError(error.format_message()) from error
    return code if isinstance(code, int) else 0
