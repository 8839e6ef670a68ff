"""fleet runs AI coding agents declared in YAML: it launches, watches, restarts and connects them.

`fleet.Client` and `fleet.SyncClient` speak to a hub; they are loaded when they are first named.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleet.hub.client import Client as Client
    from fleet.hub.client import SyncClient as SyncClient


def __getattr__(name: str) -> object:
    if name in ("Client", "SyncClient"):
        from fleet.hub import client  # noqa: PLC0415 (`import fleet` is to cost nothing)

        return getattr(client, name)
    raise AttributeError(f"module 'fleet' has no attribute {name!r}")
