"""The tmux server inside a job, reached from the submit host by a step of that job.

The batch script starts the server and ends it. Here it is only looked at and typed into, over one kept client in a
step that takes nothing from the job (`--overlap`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fleet.clock import Clock
from fleet.errors import HostUnreachable, LaunchError
from fleet.runtimes import tmux
from fleet.runtimes.multiplexers import ServerGone
from fleet.runtimes.slurm_steps import Steps
from fleet.runtimes.ssh_tmux import means_no_server
from fleet.settings import Settings


def step_argv(job: str, node: str, *words: str) -> list[str]:
    """Lead a command into a step of the job, on its node."""
    return [
        "srun", f"--jobid={job}", f"--nodelist={node}", "--nodes=1", "--ntasks=1", "--overlap", "--quiet",
        "--chdir=/", *words,
    ]  # fmt: skip


class JobTmux(tmux.Tmux):
    """The tmux server of one run of a job."""

    def __init__(
        self,
        job: str,
        node: str,
        socket: str,
        steps: Steps,
        environment: Callable[[], Awaitable[Mapping[str, str]]],
        settings: Settings,
        clock: Clock,
    ) -> None:
        super().__init__(self._connect_there, settings, clock)
        self._argv = step_argv(job, node, "--unbuffered", *tmux.client_argv(socket))
        self._steps, self._environment = steps, environment
        self._job = job

    async def _connect_there(self, on_lost: Callable[[], None]) -> tmux.Control:
        control = tmux.Control(on_lost)
        try:
            await self._steps.open(self._argv, await self._environment(), control)
            await control.ready
        except ServerGone as error:
            control.lost("tmux could not be reached")
            if means_no_server(str(error)):
                raise
            raise HostUnreachable(f"job {self._job}: {error}") from error
        except LaunchError as error:
            raise HostUnreachable(f"job {self._job}: {error}") from error
        except BaseException:
            control.lost("tmux could not be reached")
            raise
        return control


def attach_argv(job: str, node: str, socket: str, session: str, *, read_only: bool) -> list[str]:
    """The command that opens the agent's pane in a terminal, from where `srun` is."""
    return step_argv(job, node, "--pty", *tmux.attach_argv(socket, session, read_only=read_only))
