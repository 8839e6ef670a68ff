"""The real scitex-orochi 0.5.1 from PyPI, in an environment of its own, for tests of the compatibility ports.

It is made once, below the user's cache folder (`FLEET_TEST_OROCHI` names one that is there), with what the package
needs and does not declare. Where the package index cannot be reached, the tests that need it say so and are skipped.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "0.5.1"
NEEDS = ("websockets", "aiohttp", "aiosqlite", "click", "pyyaml", "fastmcp>=2")
"""What its client, its command line and its MCP server import. The rest of what it declares is for its web page."""
SIDECAR = ("bun@1.4.5", "@modelcontextprotocol/sdk@^1.12.0", "ws@^8.18.0")
"""What its sidecar in TypeScript needs, from npm."""


class Unavailable(Exception):
    """It cannot be had here; the reason."""


def environment() -> Path:
    """The folder with the environment. Raise `Unavailable`."""
    named = os.environ.get("FLEET_TEST_OROCHI")
    if named:
        return Path(named)
    cache = _cache()
    venv = cache / f"orochi-{VERSION}"
    with _one_at_a_time(cache):
        if not (venv / "made").exists():
            shutil.rmtree(venv, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(venv)])
            pip = [str(venv / "bin" / "python"), "-m", "pip", "--no-input", "install", "--quiet"]
            _run([*pip, *NEEDS])
            _run([*pip, "--no-deps", f"scitex-orochi=={VERSION}"])
            (venv / "made").touch()
    return venv


def sidecar() -> Path:
    """A folder with the package's sidecar in TypeScript, and `node_modules/.bin/bun` to run it. Raise `Unavailable`."""
    venv, cache = environment(), _cache()
    folder = cache / f"orochi-{VERSION}-sidecar"
    with _one_at_a_time(cache):
        if not (folder / "made").exists():
            if shutil.which("npm") is None:
                raise Unavailable("npm is not installed: the sidecar's own parts are on npm")
            shutil.rmtree(folder, ignore_errors=True)
            [source] = venv.glob("lib/python3*/site-packages/scitex_orochi/_ts")
            shutil.copytree(source, folder)
            (folder / "package.json").unlink()
            (folder / "bun.lock").unlink(missing_ok=True)
            _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *SIDECAR])
            (folder / "made").touch()
    return folder


def _cache() -> Path:
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)  # the run's own HOME goes with the run
    cache = home / ".cache" / "fleet-tests"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    return cache


class _one_at_a_time:
    """Two workers of a run do not make it twice."""

    def __init__(self, cache: Path) -> None:
        self._path = cache / "lock"

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(argv[:6])} … said: {(done.stderr or done.stdout).strip()[-500:]}")
