"""`fleet completion`: the script by which a shell completes fleet's words."""

from __future__ import annotations

import os

import click
from click.shell_completion import get_completion_class

from fleet.cli import output

VARIABLE = "_FLEET_COMPLETE"
HOW = {
    "bash": "echo 'eval \"$(fleet completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(fleet completion zsh)\"' >> ~/.zshrc",
    "fish": "fleet completion fish > ~/.config/fish/completions/fleet.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(HOW)))
def completion(shell: str) -> int:
    """Print the completion script for a shell; agents' names are completed too.

    \b
    eval "$(fleet completion bash)"                                          in ~/.bashrc
    eval "$(fleet completion zsh)"                                           in ~/.zshrc
    fleet completion fish > ~/.config/fish/completions/fleet.fish            once
    """
    made = get_completion_class(shell)
    assert made is not None
    from fleet.cli.app import fleet

    output.result(made(fleet, {}, "fleet", VARIABLE).source())
    return 0


def complete(program: click.Command) -> int:
    """Answer a shell that asks what could come next."""
    shell, _, instruction = os.environ[VARIABLE].partition("_")
    made = get_completion_class(shell)
    if made is None or instruction != "complete":
        return 1
    output.result(made(program, {}, "fleet", VARIABLE).complete())
    return 0
