"""config.yaml and `FLEET_…` variables into `Settings`, as strictly as a manifest: every problem at once, each with
its place and the nearest right name.

Which value counts: a variable, then the file, then the default. A command's own flag comes before all of them.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from fleet.errors import InvalidSettings
from fleet.manifests.problem import Problem, dotted, nearest
from fleet.manifests.yamltree import Tree, parse
from fleet.settings import Places, Settings

PREFIX = "FLEET_"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Configured:
    """The settings in force, and where each of them comes from."""

    settings: Settings
    origins: Mapping[str, str]
    """By name: `default`, `FILE:LINE`, or the variable."""


def load(places: Places, environ: Mapping[str, str] | None = None) -> Configured:
    """The settings in force for this home. Raise `InvalidSettings` with every problem there is."""
    env = os.environ if environ is None else environ
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    origins = {field.name: DEFAULT for field in fields(Settings)}
    for read in (_from_file(places.config_file, problems), _from_environment(env, problems)):
        for name, (value, origin) in read.items():
            values[name], origins[name] = value, origin
    if problems:
        raise InvalidSettings(
            "\n".join(map(str, problems)),
            hint="`fleet config show` prints every setting with its value.",
            problems=[problem.to_json() for problem in problems],
        )
    return Configured(Settings(**values), origins)


def load_settings(places: Places, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in force for this home."""
    return load(places, environ).settings


def described() -> dict[str, str]:
    """What each setting is, in the words of its comment in settings.py."""
    source = inspect.getsource(Settings)
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, flags=re.MULTILINE))


Read = dict[str, tuple[Any, str]]


def _from_file(file: Path, problems: list[Problem]) -> Read:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        problems.append(Problem(str(file), 1, 1, "", f"cannot be read: {why}"))
        return {}
    trees = parse(text)
    if not trees:
        return {}
    tree = trees[0]
    problems += [Problem(str(file), *fault.place, dotted(fault.path), fault.message) for fault in tree.faults]
    if len(trees) > 1:
        problems.append(Problem(str(file), *trees[1].place, "", "holds a second document; there is one for settings"))
    if not isinstance(tree.value, dict):
        if not tree.faults:
            problems.append(Problem(str(file), *tree.place, "", "must be a mapping of settings"))
        return {}
    return _checked(file, tree, tree.value, problems)


def _checked(file: Path, tree: Tree, given: dict[str, Any], problems: list[Problem]) -> Read:
    types = get_type_hints(Settings)
    read: Read = {}
    for name, value in given.items():
        if name not in types:
            place = tree.locate((name,), key=True)
            problems.append(Problem(str(file), *place, name, "is no setting", nearest(name, types)))
            continue
        line, column = tree.locate((name,))
        try:
            read[name] = (_within(name, _of_type(value, types[name])), f"{file}:{line}")
        except ValueError as e:
            problems.append(Problem(str(file), line, column, name, str(e)))
    return read


def _from_environment(environ: Mapping[str, str], problems: list[Problem]) -> Read:
    types = get_type_hints(Settings)
    variables = {PREFIX + name.upper(): name for name in types}
    read: Read = {}
    for variable in environ:
        near = get_close_matches(variable, variables, n=1, cutoff=0.9) if variable.startswith(PREFIX) else ()
        if near and variable not in variables:
            problems.append(Problem(variable, 0, 0, "", "is no setting", near[0]))
    for variable, name in variables.items():
        if variable not in environ:
            continue
        try:
            given = _of_type(_parsed(environ[variable], types[name]), types[name])
            read[name] = (_within(name, given), variable)
        except ValueError as e:
            problems.append(Problem(variable, 0, 0, "", str(e)))
    return read


def _parsed(text: str, kind: Any) -> Any:
    """A variable's text as the value that the file would hold; lists are separated by commas."""
    kinds = _kinds(kind)
    if type(None) in kinds and text == "":
        return None
    if any(get_origin(each) is tuple for each in kinds):
        inner = next(get_args(each)[0] for each in kinds if get_origin(each) is tuple)
        return tuple(_parsed(part.strip(), inner) for part in text.split(",") if part.strip())
    readers: dict[Any, Callable[[str], Any]] = {bool: _truth, int: int, float: float}
    for each in kinds:
        if each in readers:
            try:
                return readers[each](text)
            except ValueError:
                raise ValueError(f"must be {_NAMES[each]}, not {text!r}") from None
    return text


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise ValueError(text)
    return _TRUTHS[text.lower()]


_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "text",
    type(None): "nothing",
}


def _kinds(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _of_type(value: Any, kind: Any) -> Any:
    """The value, if it is of the setting's type; nothing is guessed."""
    for each in _kinds(kind):
        if get_origin(each) is tuple and isinstance(value, tuple):
            return tuple(_of_type(item, get_args(each)[0]) for item in value)
        if each is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(_measure(value))
        if each is int and isinstance(value, int) and not isinstance(value, bool):
            return _measure(value)
        if each is Path and isinstance(value, str):
            return Path(value).expanduser()
        if each in (bool, str, type(None)) and isinstance(value, each):
            return value
    words = " or ".join("a list" if get_origin(each) is tuple else _NAMES.get(each, str(each)) for each in _kinds(kind))
    raise ValueError(f"must be {words}, not {value!r}")


def _within(name: str, value: Any) -> Any:
    least, most = _RANGES.get(name, (0, math.inf))
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int | float) and not isinstance(number, bool) and not least <= number <= most:
            raise ValueError(
                f"must be a number from {least} {'up' if most == math.inf else f'to {most}'}, not {number}"
            )
    return value


_RANGES: dict[str, tuple[float, float]] = {
    "hub_port": (0, 65535),
    "hub_orochi_ws_port": (-1, 65535),
    "hub_orochi_http_port": (-1, 65535),
    # Where none at all would stop what is counted, or turn a pause into no pause.
    **dict.fromkeys(
        ("panes_per_server", "start_parallel", "brake_burst", "hub_connections", "hub_waiting"), (1, math.inf)
    ),
    **dict.fromkeys(("pane_width", "pane_height"), (1, 10_000)),
    **dict.fromkeys(("observe_interval", "observe_idle_interval", "observe_timeout", "spool_check"), (0.01, math.inf)),
    **dict.fromkeys(("ssh_keepalive", "ssh_probe_within", "daemon_start_timeout", "request_timeout"), (0.01, math.inf)),
    "hub_clean_every": (1, math.inf),
}
"""Where it is not from 0 up."""


def _measure(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"must be a number from 0 up, not {value}")
    return value
