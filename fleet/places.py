"""Where one fleet keeps its things, as plain text. It imports nothing but `os`: what answers a command line in
milliseconds, or runs at every tool call, cannot pay for dataclasses and pathlib (30 ms). `settings.Places` has the
same folders as paths.
"""
# ruff: noqa: PTH109, PTH111, PTH117, PTH118

from __future__ import annotations

import os
from collections.abc import Mapping

SOCKET_PATH_LIMIT = 107
"""A Unix socket's path in bytes, without its closing zero (sun_path, unix(7))."""

REQUEST_TIMEOUT = 30.0
"""The default of `Settings.request_timeout`: the command line's wait for an answer not meant to take long."""


def folders(environ: Mapping[str, str] | None = None) -> tuple[str, str, str]:
    """The folders for configuration, state and sockets: `$FLEET_HOME` where it is set, else the XDG folders."""
    env: Mapping[str, str] = os.environ if environ is None else environ
    base = env.get("FLEET_HOME")
    if base:
        root = os.path.expanduser(base)
        if not os.path.isabs(root):  # the working folder may be gone, and must not be asked for then
            root = os.path.join(os.getcwd(), root)
        return root, os.path.join(root, "state"), _short(os.path.join(root, "run"), env)
    home = env.get("HOME") or _home_of_record()
    config = os.path.join(env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), "fleet")
    state = os.path.join(env.get("XDG_STATE_HOME") or os.path.join(home, ".local", "state"), "fleet")
    runtime = env.get("XDG_RUNTIME_DIR")
    return config, state, _short(os.path.join(runtime, "fleet") if runtime else os.path.join(state, "run"), env)


def _home_of_record() -> str:
    """The user's home where no variable names it: never the root folder, which an empty `HOME` would mean."""
    import pwd  # noqa: PLC0415 (hardly anybody needs it)

    return pwd.getpwuid(os.getuid()).pw_dir


def control_socket(environ: Mapping[str, str] | None = None) -> str:
    """The daemon's Unix socket."""
    return os.path.join(folders(environ)[2], "control.sock")


def _short(run: str, env: Mapping[str, str]) -> str:
    """The folder for sockets; a deep home gets a short one of its own, since a socket's path has a limit."""
    if len(os.fsencode(os.path.join(run, "tmux-000.sock.suffix"))) <= SOCKET_PATH_LIMIT:
        return run
    import hashlib  # noqa: PLC0415 (only a deep home pays for it)

    mark = hashlib.sha256(os.fsencode(run)).hexdigest()[:16]
    base = env.get("XDG_RUNTIME_DIR") or f"/tmp/fleet-{os.getuid()}"
    if len(os.fsencode(base)) > 60:
        base = f"/tmp/fleet-{os.getuid()}"
    return os.path.join(base, mark)
