"""fleet runs AI coding agents declared in YAML: it launches, watches, restarts and connects them.

`fleet.Client` and `fleet.SyncClient` speak to a hub. What they raise is a `fleet.FleetError`: `fleet.HubSaid` where the
hub says no, with its `code`. All of them are loaded when they are first named.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleet.errors import FleetError as FleetError
    from fleet.hub.client import Answer as Answer
    from fleet.hub.client import Client as Client
    from fleet.hub.client import Message as Message
    from fleet.hub.client import SyncClient as SyncClient
    from fleet.hubcall import HubSaid as HubSaid

_NAMED = {
    "FleetError": "fleet.errors",
    "HubSaid": "fleet.hubcall",
    "Answer": "fleet.hub.client",
    "Client": "fleet.hub.client",
    "Message": "fleet.hub.client",
    "SyncClient": "fleet.hub.client",
}


def __getattr__(name: str) -> object:
    if name in _NAMED:
        from importlib import import_module  # noqa: PLC0415 (`import fleet` is to cost nothing)

        return getattr(import_module(_NAMED[name]), name)
    raise AttributeError(f"module 'fleet' has no attribute {name!r}")
