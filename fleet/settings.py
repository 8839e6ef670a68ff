"""Every default number in one place, and where things are kept. Standard library only: a hook imports this.

Which value counts: a flag, then a `FLEET_…` variable, then config.yaml (`config.py`), then the default here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fleet import places


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set. Seconds, unless the name says otherwise. Each field's comment is its documentation."""

    # observing (SEMANTICS 3)
    observe_interval: float = 0.25  # between sweeps of a multiplexer's panes while something moves
    observe_idle_interval: float = 0.8  # the same while nothing moves: what then changes is known within a second
    observe_timeout: float = 5.0  # a multiplexer that has not answered by then could not be read
    fresh: float = 5.0  # up to this age a state is live
    stale: float = 30.0  # up to this age it is stale, beyond it critical
    ready_agree: float = 0.4  # two screens that say ready must be this far apart
    panes_per_server: int = 100  # agents per tmux server
    pane_width: int = 120  # columns of an agent's pane
    pane_height: int = 40  # rows of an agent's pane
    history_limit: int = 2000  # lines of scrollback a pane keeps

    # supervising (SEMANTICS 2)
    start_backoff: tuple[float, ...] = (5.0, 15.0, 45.0)  # after a failed start; then failed/StartFailed
    shell_started: float = 1.0  # a shell agent that lives this long has started
    resume_guard: float = 5.0  # a resume that dies within this gets one fresh start
    backoff_jitter: float = 0.2  # ± this part of every backoff
    brake_burst: int = 5  # restarts at once, fleet-wide
    brake_every: float = 5.0  # and one more in this time
    start_parallel: int = 4  # starts at once when many come back
    ramp_halt: int = 3  # failed starts in a row that halt the ramp
    mass_deaths: int = 3  # unexplained deaths …
    mass_window: float = 30.0  # … within this are many: each is looked at once more …
    mass_recheck: float = 0.75  # … after this
    kill_grace: float = 0.5  # from SIGTERM to SIGKILL for leftovers of an older generation
    exit_command_grace: float = 3.0  # for the program's own exit command, before SIGTERM
    limit_jitter_min: float = 60.0  # after a usage limit's end …
    limit_jitter_max: float = 300.0  # … up to this

    # SLURM clusters (SEMANTICS 7)
    slurm_interval: float = 15.0  # between two questions about all jobs; 10 is the least that a cluster is to bear

    # ssh hosts (SEMANTICS 7)
    ssh_config: str = ""  # an ssh_config file instead of one's own
    ssh_keepalive: float = 2.0  # a host silent for so long is asked for a word; after three in vain it is lost
    ssh_probe_within: float = 5.0  # an attempt to connect, where remote.timeout says nothing else

    # keeping
    events_kept_days: float = 30.0  # hook and phase events
    log_kept_mb: float = 16.0  # captured lines per agent
    spool_check: float = 2.4  # the net below the watch on the spool: at every third sweep where nothing moves
    database_folder: str = ""  # a folder on a local disk for the database, where the state folder is on no local one

    # the hub (SEMANTICS 5 and 6)
    hub_operator: str = "operator"  # the name under which the person at the command line speaks
    hub_channel: str = "#general"  # what every member hears that names no channels of its own
    hub_max_hops: int = 8  # a message with fewer hops may cause a turn; one with as many is refused
    hub_sender_rate: float = 20.0  # messages a second of one sender …
    hub_sender_burst: int = 100  # … and at once
    hub_pair: int = 12  # messages of one sender that cause one recipient a turn, a minute
    hub_conversation: int = 30  # messages of one conversation that cause turns, a minute …
    hub_conversation_total: int = 200  # … and in all
    hub_window: float = 60.0  # what those two count as a minute
    hub_message_kb: float = 64.0  # of one message's text
    hub_waiting: int = 500  # messages that wait for one agent; the next is refused
    hub_attachment_mb: float = 20.0  # of one attachment
    hub_ask_timeout: float = 600.0  # how long an answer is waited for, where who asks does not say it
    hub_kept_days: float = 90.0  # messages and events; the audit and what waits for its reader are always kept
    hub_kept_mb: float = 4096.0  # of the log; beyond it the oldest go
    hub_clean_every: float = 3600.0  # between two looks at what has been kept for long enough
    hub_host: str = "127.0.0.1"  # the address on which the hub listens; beyond loopback a token is all that guards it
    hub_port: int = 0  # its port; 0 is any free one, the same again after a restart where that is possible
    hub_orochi_ws_port: int = 0  # the port of the compatibility WebSocket for orochi's clients; -1 is none
    hub_orochi_http_port: int = 0  # the same of their REST paths
    hub_names: tuple[str, ...] = ()  # names by which others reach it, beside localhost and its address (`Host`)
    hub_origins: tuple[str, ...] = ()  # origins of web pages that may use it, such as https://lab.example
    hub_connections: int = 1000  # connections from one address; the next is refused
    hub_behind_kb: float = 256.0  # so far behind a reader may be before it is served from the log instead
    hub_stalled: float = 60.0  # a reader that makes no progress for so long is cut off
    hub_access_log: bool = False  # one line in the daemon's log for each request

    # the daemon
    daemon_start_timeout: float = 60.0  # until its socket answers
    request_timeout: float = places.REQUEST_TIMEOUT  # the CLI's wait for an answer that is not meant to take long


@dataclass(frozen=True, slots=True)
class Places:
    """Where one fleet keeps its things. Two homes are two fleets that never meet."""

    config: Path
    state: Path
    run: Path

    @classmethod
    def of(cls, environ: dict[str, str] | os._Environ[str] | None = None) -> Places:
        """`$FLEET_HOME` where it is set, else the XDG folders."""
        config, state, run = places.folders(environ)
        return cls(config=Path(config), state=Path(state), run=Path(run))

    @property
    def config_file(self) -> Path:
        return self.config / "config.yaml"

    @property
    def agents(self) -> Path:
        """The default fleet folder."""
        return self.config / "agents"

    @property
    def rules(self) -> Path:
        """A person's own screen rules: HARNESS.toml here adds to and overrides the shipped ones."""
        return self.config / "screens"

    @property
    def database(self) -> Path:
        return self.state / "fleet.db"

    @property
    def lock(self) -> Path:
        return self.state / "daemon.lock"

    @property
    def log(self) -> Path:
        return self.state / "daemon.log"

    @property
    def control(self) -> Path:
        """The daemon's Unix socket, 0600."""
        return self.run / "control.sock"

    @property
    def spool(self) -> Path:
        """Where hooks leave their events: one folder per agent, one file per event."""
        return self.state / "spool"

    def agent(self, name: str) -> Path:
        """An agent's own folder: its launches, logs, last screen."""
        return self.state / "agents" / name

    def workspace(self, name: str) -> Path:
        """Where an agent works that names no `workdir`."""
        return self.state / "workspaces" / name
