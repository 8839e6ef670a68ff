"""The program `fleet`: one module per command, each: parse, one call, print.

Three ways in are answered before click is imported, which would cost more than the work itself: a hook's event, a
read with `--json`, and a table of agents.
"""

from __future__ import annotations

import errno
import os
import sys

from fleet.errors import FleetError, NotAllowed

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What stdout says where it is a file that can take no more."""


def main() -> int:
    """Run the command line; the exit code."""
    words = sys.argv[1:]
    _open_what_is_closed()
    _write_any_text()
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except FleetError as error:
        from fleet.cli import output

        return output.error(error, as_json="--json" in words)
    except BrokenPipeError:
        _let_go_of_stdout()  # who read our output has heard enough
        return 141
    except OSError as error:
        if error.filename is not None:  # a file or folder that is not as a command needs it
            from fleet.cli import output

            return output.error(NotAllowed(f"{error.filename}: {error.strerror}."), as_json="--json" in words)
        if error.errno not in UNWRITABLE:
            raise
        _let_go_of_stdout()
        print(f"fleet: The answer could not be written: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _open_what_is_closed() -> None:
    """A caller may have closed the standard streams: what is opened next must not be taken for one of them."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115


def _let_go_of_stdout() -> None:
    """Nothing must be flushed into a broken stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_any_text() -> None:
    """What a terminal's own character set lacks is written as an escape, not refused half-way through an answer."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # a caller may have put something of its own there
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _run(words: list[str]) -> int:
    if words[:1] == ["hook-event"]:
        from fleet import hook

        return hook.main(words[1:])
    if words in (["mcp"], ["mcp", "--channel"]):
        from fleet import __version__, mcp_shim, places

        return mcp_shim.main(words[1:], os.environ, folders=places.folders, version=__version__)
    if "--json" in words:
        from fleet.cli import reads

        asked = reads.understand(words)
        if asked is not None:
            return reads.answer(*asked)
        from fleet.cli import hubreads

        of_hub = hubreads.understand(words)
        if of_hub is not None:
            return hubreads.answer(*of_hub)
    elif words[:1] in (["status"], ["list"], ["health"]):
        from fleet.cli import reads, tables

        asked = reads.understand(words)
        if asked is not None and asked[0] in tables.SHOWN:
            return tables.answer(*asked)
    from fleet.cli import app

    return app.run(words)
