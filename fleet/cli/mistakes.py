"""Mistakes in a command's words, told for people: what is wrong, with which word, and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

import click

from fleet.cli import output
from fleet.errors import Usage

_RANGE = re.compile(r"^(?P<value>\S+) is not in the range \S+$")
_NUMBER = re.compile(r"^(?P<value>'.*') is not a valid (?P<whole>integer|float)(?: range)?\.$")


def usage(error: click.UsageError) -> Usage:
    """click's complaint as one of ours."""
    path = error.ctx.command_path if error.ctx else "fleet"
    hint = f"`{path} --help` shows its form."
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return Usage(f"`{path}` needs {_named(error.param)}{_one_of(error.param)}.", hint=hint)
    if isinstance(error, click.BadParameter) and error.param is not None:
        told, meant = _value(error.message, error.param)
        where = "" if isinstance(error.param, click.Argument) and _choices(error.param) else f"{_named(error.param)}: "
        return Usage(output.printable(where + told), hint=meant or hint)
    return Usage(output.printable(error.format_message()), hint=hint)


def _named(param: click.Parameter) -> str:
    """An option as it is typed in full, an argument as `--help` shows it."""
    if isinstance(param, click.Option):
        return f"`{max(param.opts, key=len)}`"
    return (param.metavar or param.human_readable_name).removesuffix("...").strip("[]")


def _choices(param: click.Parameter) -> Sequence[str]:
    return [str(choice) for choice in param.type.choices] if isinstance(param.type, click.Choice) else ()


def _one_of(param: click.Parameter) -> str:
    choices = _choices(param)
    return f": one of {', '.join(choices)}" if choices else ""


def _value(message: str, param: click.Parameter) -> tuple[str, str | None]:
    """What is wrong with a value, and what was probably meant."""
    if (found := _RANGE.match(message)) and isinstance(param.type, click.IntRange | click.FloatRange):
        return f"it must be {_bounds(param.type)}, not {found['value']}.", None
    if found := _NUMBER.match(message):
        return f"{found['value']} is no {'whole number' if found['whole'] == 'integer' else 'number'}.", None
    if choices := _choices(param):
        value = message.partition("' ")[0].removeprefix("'")
        near = get_close_matches(value, choices, 1)
        told = f"'{value}' is none of {', '.join(choices)}." if len(choices) > 1 else f"'{value}' is not {choices[0]}."
        return told, f"Did you mean {near[0]}?" if near else None
    return message if message.endswith((".", "?", "!")) else f"{message}.", None


def _bounds(form: click.IntRange | click.FloatRange) -> str:
    """The range in words. An open upper end is in use nowhere."""
    if form.min is not None and form.max is not None:
        return f"from {form.min:g} to {form.max:g}"
    if form.max is not None:
        return f"at most {form.max:g}"
    return f"{'above' if form.min_open else 'at least'} {form.min:g}"
