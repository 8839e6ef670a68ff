"""What can go wrong, as a tree. A class's docstring is its message: what happened, then what to do.

FleetError                  1
  Usage                     2   the command's words are off
    BadRequest              2   a request on the daemon's socket has not the form it must have
  InvalidManifest           2   with every problem, by file, line and column
  InvalidSettings           2
  UnknownAgent              3
  NotAllowed                1   refused: it would reach beyond its own root or overwrite what is not fleet's
  CannotYet                 1   declared, valid, and not in this version
  StartFailed               1   with its reason
  Held                      4   it waits: a limit, a brake, a condition
  TimedOut                  4
  Unconfirmed               5   done, without proof
  DialogOpen                7   done, but a dialog waits for a person
  NoDaemon                 69
  DaemonBusy               69   another daemon holds the state
  HostUnreachable           1   speaks of the way to the host, never of the agent
    Unauthenticated         1   host and fleet do not accept each other: a person settles it
  LaunchError               1   the host said no: no such folder, program, permission
  StorageError              1   the database could not be read or written
    StorageFull             1   no space left; it goes on once there is some
    SchemaTooNew            1   written by a newer fleet
    NetworkFilesystem       1   the database needs a local disk
"""

from __future__ import annotations

from typing import Any


class FleetError(Exception):
    """Something went wrong."""

    exit_code = 1

    def __init__(self, message: str | None = None, *, hint: str | None = None, **facts: Any) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.hint = hint
        self.facts = facts

    @property
    def code(self) -> str:
        """The error's name on the wire: lower_snake, stable."""
        name = type(self).__name__
        return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))

    def with_hint(self) -> str:
        """What happened and what to do, as running text."""
        happened = str(self)
        return f"{happened}{'' if happened.endswith(('.', '!', '?')) else '.'} {self.hint}" if self.hint else happened

    def to_json(self) -> dict[str, Any]:
        """The `error` object of `--json`."""
        return {"code": self.code, "message": str(self), "hint": self.hint, **self.facts}


class Usage(FleetError):
    """The command cannot be understood. `fleet COMMAND --help` shows its form."""

    exit_code = 2


class BadRequest(Usage):
    """The request has not the form that it must have. Nothing was done."""


class InvalidManifest(FleetError):
    """The manifest is not valid. Every problem stands above with its place; nothing was started."""

    exit_code = 2


class InvalidSettings(FleetError):
    """config.yaml or a FLEET_… variable is not valid. `fleet config show` prints what is in force."""

    exit_code = 2


class UnknownAgent(FleetError):
    """No agent by that name. `fleet status` lists the ones there are."""

    exit_code = 3


class NotAllowed(FleetError):
    """Refused: it would reach outside its own place."""


class CannotYet(FleetError):
    """This version cannot do that yet."""


class StartFailed(FleetError):
    """The agent did not start. `fleet logs NAME` shows its last screen, `fleet explain NAME` what was seen."""


class Held(FleetError):
    """Not now: it waits for something. `fleet status NAME` says for what."""

    exit_code = 4


class TimedOut(FleetError):
    """It did not happen in time. `fleet explain NAME` shows what was seen instead."""

    exit_code = 4


class Unconfirmed(FleetError):
    """It was done, but nothing proves it."""

    exit_code = 5


class DialogOpen(FleetError):
    """A dialog waits for a person. `fleet attach NAME` opens it (Ctrl-B D leaves)."""

    exit_code = 7


class NoDaemon(FleetError):
    """The daemon is not running. `fleet start` starts it; `fleet doctor` says what stands in the way."""

    exit_code = 69


class DaemonBusy(FleetError):
    """Another daemon holds this state folder."""

    exit_code = 69


class HostUnreachable(FleetError):
    """The host or its multiplexer could not be read. Its agents keep their last known state."""


class Unauthenticated(HostUnreachable):
    """The host answers, but one of the two does not accept the other. A person has to settle it."""


class LaunchError(FleetError):
    """The host refused the launch."""


class StorageError(FleetError):
    """The database could not be read or written."""


class StorageFull(StorageError):
    """The disk is full. Free some space; fleet goes on by itself then."""


class SchemaTooNew(StorageError):
    """The database was written by a newer fleet. Use that one again."""


class NetworkFilesystem(StorageError):
    """The database would be on a network file system. Name a local folder for it (`database_folder`)."""
