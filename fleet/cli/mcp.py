"""`fleet mcp`: the hub's tools for a program that starts its MCP servers as processes; and `fleet mcp setup`, which
writes that into a project's `.mcp.json`. Serving itself is answered before click (cli/__init__.py)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fleet import __version__, jsontext, mcp_shim, places
from fleet.cli import call, output, ownfile
from fleet.errors import NotAllowed

FILE = ".mcp.json"


@click.group(invoke_without_command=True)
@click.option("--channel", is_flag=True, help="Tell the program as soon as mail comes, if it shows such a thing.")
@click.pass_context
def mcp(ctx: click.Context, channel: bool) -> int | None:
    """Serve the hub's tools over stdin and stdout (MCP).

    Agents that fleet launches have them already. For a session that is started by hand: `fleet mcp setup` in its
    project, or `claude mcp add fleet -- fleet mcp`. Who speaks is the token in FLEET_TOKEN_FILE, else you, the
    operator.
    """
    if ctx.invoked_subcommand is None:
        words = [mcp_shim.CHANNEL] if channel else []
        return mcp_shim.main(words, os.environ, folders=places.folders, version=__version__)
    return None


@mcp.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--token-file", metavar="FILE", type=click.Path(path_type=Path), help="As whom its sessions speak.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--remove", is_flag=True, help="Take it out again.")
@call.as_json
def setup(directory: Path, token_file: Path | None, dry_run: bool, remove: bool, as_json: bool) -> int:
    """Write fleet's MCP server into a project's .mcp.json, beside what is there. Done twice, it changes nothing more.

    DIR is the project, by default this folder. The program asks about the servers of a project once; sessions of your
    own speak as the operator unless --token-file says otherwise (`fleet tokens create` makes one).
    """
    path = directory.expanduser().absolute() / FILE
    if not path.parent.is_dir():
        raise NotAllowed(f"{path.parent} is not a folder.", hint="Name the project's folder.")
    before = _read(path)
    try:
        after = without(before) if remove else with_server(before, server(token_file))
    except NotAllowed as error:
        raise NotAllowed(
            f"{path}: {error} Nothing was changed.", hint="Mend the file by hand, then try again."
        ) from error
    if token_file is not None and not remove and not token_file.expanduser().is_file():
        output.message(f"{token_file} is not there yet; `fleet tokens create --out {token_file}` makes it")
    if after != before and not dry_run:
        ownfile.replace(path, after.encode(), ownfile.mode_of(path, 0o644))
    return _tell(path, after != before, dry_run, remove, as_json)


def _tell(path: Path, changed: bool, dry_run: bool, removed: bool, as_json: bool) -> int:
    if as_json:
        output.envelope({"file": str(path), "changed": changed, "dry_run": dry_run, "server": mcp_shim.SERVER})
    elif not changed:
        output.result(f"{path}: nothing to change")
    else:
        done = "taken out" if removed else "written"
        output.result(f"{path}: {'would be ' if dry_run else ''}{done}: {mcp_shim.SERVER}")
    return 0


def server(token_file: Path | None = None) -> dict[str, Any]:
    """How a program starts it: by the name that is found in its PATH where there is one, so that the file may be
    shared with others."""
    found = shutil.which("fleet")
    ours = Path(sys.executable).parent / "fleet"
    command = "fleet" if found and Path(found).resolve() == ours.resolve() else str(ours)
    env = {} if token_file is None else {"env": {"FLEET_TOKEN_FILE": str(token_file.expanduser().absolute())}}
    return {"type": "stdio", "command": command, "args": ["mcp"], **env}


def with_server(text: str, entry: Mapping[str, Any]) -> str:
    """The file's text with the server in it; one by its name that differs is replaced. Raise `NotAllowed` for what is
    not understood."""
    text = text if text.strip() else "{}\n"
    servers = _servers(text)
    document = jsontext.document(text)
    if servers is None:
        return jsontext.append(text, document, "mcpServers", {mcp_shim.SERVER: dict(entry)})
    if mcp_shim.SERVER not in servers:
        there = jsontext.member(text, document, "mcpServers")
        assert there is not None
        return jsontext.append(text, there, mcp_shim.SERVER, dict(entry))
    return text if servers[mcp_shim.SERVER] == entry else with_server(without(text), entry)


def without(text: str) -> str:
    """The file's text without the server, all else as it was."""
    servers = _servers(text) if text.strip() else None
    if not servers or mcp_shim.SERVER not in servers:
        return text
    document = jsontext.document(text)
    there = jsontext.member(text, document, "mcpServers")
    assert there is not None
    ours = jsontext.member(text, there, mcp_shim.SERVER)
    assert ours is not None
    return jsontext.cut(text, there, ours)


def _servers(text: str) -> Mapping[str, Any] | None:
    servers = jsontext.load(text).get("mcpServers")
    if servers is not None and not isinstance(servers, dict):
        raise NotAllowed("Its `mcpServers` are not a JSON object.")
    return servers


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise NotAllowed(f"{path} could not be read ({error.strerror}); nothing was changed.") from error
    except UnicodeDecodeError as error:
        raise NotAllowed(f"{path} is not UTF-8 text; nothing was changed.") from error
