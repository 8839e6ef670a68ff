"""Agents that share an allocation: tenants of a booking, each in a pane of the tmux server that its job holds.

A launch is one round trip over a client that is kept in the booking's job. What belongs to a launch stands in its
folder, as everywhere; that the program has ended is noted there by its launcher, and what cannot be noted (a launcher
that was killed, an allocation that is gone) is told by tmux and by the queue. When the booking has moved to another
allocation, those of the older one are over, and nobody's fault: they come back in the new one. A launch begins when it
holds the lease of its conversation, as a job does (slurm_tenant.sh): until then it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from fleet import processes
from fleet.clock import Clock
from fleet.errors import CannotYet, FleetError, HostUnreachable, LaunchError, Unconfirmed
from fleet.manifests.model import AgentSpec, Slurm
from fleet.runtimes import launches, slurm_booking, slurm_queue, slurm_runtime, slurm_tmux, tmux, watching
from fleet.runtimes.base import Ended, OnLook, Runtime
from fleet.runtimes.lease import Times
from fleet.runtimes.multiplexers import Seen, ServerGone
from fleet.runtimes.slurm_booking import Booking, Place
from fleet.runtimes.slurm_cluster import Cluster, OnSubmitHost, check, said
from fleet.runtimes.slurm_hub import Door
from fleet.runtimes.slurm_queue import Standing
from fleet.settings import Places, Settings
from fleet.terms import File, Handle, LaunchPlan, Look, Process, Screen

log = logging.getLogger(__name__)

NOTED_WITHIN = 20.0
"""Seconds the launcher may take to note its program …"""
LEASED_WITHIN = 3.0
"""… and a launch waits for its lease, before it is told as one that waits."""
TOLD_WITHIN = 60.0
"""Seconds that the queue's word on a booking without a node counts."""
LOOK_EVERY = 0.5
"""Seconds between two looks at the lease of what SLURM does not reach any more."""
SETTLE = 0.5
"""Seconds to wait, after a death, for the pane's last output."""
PURGED = "purged"
LAPSED = "lapsed"
BEGUN = frozenset({"program", "exit"})
"""What the launcher notes of its program."""
NOTED = BEGUN | {"lease", LAPSED}
"""The notes that say how it stands."""
TENANT = "tenant"
"""The file in a launch's folder that says where it is and what it takes of the booking."""


class TenantRuntime(OnSubmitHost):
    """Agents in one booking."""

    name = "slurm-tenant"

    def __init__(
        self,
        cluster: Cluster,
        booking: str,
        places: Places,
        settings: Settings,
        clock: Clock,
        secrets: Callable[[str], Collection[str]] = lambda _: (),
        *,
        times: Times | None = None,
        read_every: float = slurm_runtime.READ_EVERY,
    ) -> None:
        super().__init__(cluster)
        self._booking = booking
        self._places = cluster.shared(places)
        """Those that the nodes see."""
        self._hub = places.run / "hub.sock"
        self._folder = str(folder_of(self._places, booking))
        self._settings, self._clock = settings, clock
        self._times = times or Times()
        self._read_every = read_every
        self._servers: dict[Place, slurm_tmux.JobTmux] = {}
        self._known: dict[Place, float] = {}
        """Since when: what the queue was asked before may not know of it."""
        self._watches: watching.Watches[_Watched] = watching.Watches(places, settings, secrets)
        self._over: set[Place] = set()
        """Those that were told that SLURM has no job of theirs any more."""
        self._placed: dict[str, Place] = {}
        """By generation, where a launch was last seen to be."""
        self._launching = asyncio.Lock()

    # -- the booking ---------------------------------------------------------------------------------------------

    async def _place(self, *, fresh: bool = False) -> Place:
        """Where the booking is now. Raise `HostUnreachable` with why it is nowhere; `fresh`: the queue is asked again
        about a job that it has not told of yet."""
        place = Place.parse(await self._host.read(f"{self._folder}/place"))
        if place is not None and not await self._gone(place):  # a job that was killed takes back nothing
            return place
        if await self._host.read(f"{self._folder}/wanted") is None:
            hint = f"`fleet slurm book {self._booking} …` books it."
            raise HostUnreachable(f"there is no booking {self._booking}.", hint=hint)
        answer = await self._cluster.newer(time.monotonic() - TOLD_WITHIN)
        waiting = answer.named(slurm_booking.job_name(self._folder))
        if not waiting and fresh:
            answer = await self._cluster.newer(time.monotonic())
            waiting = answer.named(slurm_booking.job_name(self._folder))
        why = slurm_queue.summary(waiting[-1], time.time()) if waiting else "it has no job any more"
        if not waiting or waiting[-1].standing is Standing.RUNNING:
            where = "; where that has ended," if waiting else ";"
            why += f"{where} `fleet slurm book {self._booking} …` books it again"
        raise HostUnreachable(f"the booking {self._booking} has no node: {why}")

    def _server(self, place: Place) -> slurm_tmux.JobTmux:
        if place not in self._servers:
            self._servers[place] = slurm_tmux.JobTmux(
                place.job,
                place.node,
                place.socket,
                self._cluster.steps,
                self._cluster.environment,
                self._settings,
                self._clock,
            )
        return self._servers[place]

    async def _gone(self, place: Place) -> bool:
        """Whether the allocation is no more, as far as anybody can tell; `HostUnreachable` where nobody can."""
        if self._cluster.silent is not None:
            raise HostUnreachable(self._cluster.silent)
        since = self._known.setdefault(place, time.monotonic())
        answer = self._cluster.answer
        if answer is None:
            try:
                async with asyncio.timeout(slurm_runtime.LOOK_WITHIN):
                    answer = await self._cluster.newer(-1.0)
            except TimeoutError:
                raise HostUnreachable("SLURM's controller has not been heard yet") from None
        job = answer.jobs.get(place.job)
        if job is not None and job.standing is Standing.ENDED and place not in self._over:
            await self._host.put([File(f"{self._folder}/over.{place.job}", b"")])
            self._over.add(place)
        return answer.asked_at > since if job is None else job.standing is Standing.ENDED

    # -- launching -----------------------------------------------------------------------------------------------

    def mint(self, agent: str, generation: str, multiplexer: str) -> Handle:
        if multiplexer != "tmux":
            raise CannotYet(f"{multiplexer} in a SLURM job: use tmux there")
        return self._handle(agent, generation)

    def _handle(self, agent: str, generation: str) -> Handle:
        host = f"{self._booking} {self._cluster.name}".rstrip()
        return replace(slurm_runtime.handle_of(self._places, agent, generation), runtime=self.name, host=host)

    async def launch(self, plan: LaunchPlan, handle: Handle) -> None:
        if await self._tenant(handle) is None:
            await check(self._host, plan)
            async with self._launching:  # two that come at once are counted one after the other
                place = await self._put_launch(plan, handle)
            argv = [*self._leased(handle, place), handle.folder, plan.cwd, *plan.argv]
            self._watches.log(handle.agent).begin(handle.generation, self._clock.now())
            await self._server(place).new_session(handle.session, handle.generation, argv, plan.width, plan.height)
        began = time.monotonic()
        while not BEGUN & (noted := set(await self._host.list(handle.folder))):
            late = time.monotonic() - began
            if late > LEASED_WITHIN and (_waits(noted) or await self._host.read(f"{self._folder}/wanted") is None):
                return  # looking tells that it waits, or that the booking was released meanwhile
            if late > NOTED_WITHIN:
                raise LaunchError(f"the launcher of {handle.generation} has noted nothing in {handle.folder}")
            await asyncio.sleep(0.02)

    def _leased(self, handle: Handle, place: Place) -> list[str]:
        """Leads a launcher's words to where its conversation's lease is held."""
        scripts, times = slurm_runtime.scripts_of(self._places), self._times
        return [
            *("env", "-i", "/bin/sh", f"{scripts}/slurm_tenant.sh"),
            *(str(self._places.agent(handle.agent) / "leases"), f"{place.job}.0.{place.node}"),
            *(str(times.ttl), str(times.every), str(times.grace)),
            str(Path(place.socket).parent / "tenants" / handle.generation),
            *(f"{scripts}/lease.sh", f"{scripts}/launcher.sh"),
        ]

    async def _put_launch(self, plan: LaunchPlan, handle: Handle) -> Place:
        """Put all files, once it is known that there is room. The last of them says that the launch takes its part."""
        place = await self._place(fresh=True)
        spec = plan.place if isinstance(plan.place, AgentSpec) else None
        wish = (spec.slurm if spec is not None else None) or Slurm()
        booked = await self._host.read(f"{self._folder}/booking")
        if booked is None:
            raise LaunchError(f"there is no booking {self._booking}.")
        there = await tenants(self._host, self._places, self._booking, place)
        slurm_booking.fits(Booking.from_json(booked), [tenant.section for tenant in there], wish)
        env = {
            **plan.env,
            processes.MARK: handle.generation,
            "FLEET_LAUNCH": handle.folder,
            "FLEET_JOB": place.mark,
            "TERM": tmux.TERM,
        }
        if not env.get("TMUX"):  # an agent's own tmux must reach neither the booking's server nor the person's
            env["TMUX"] = f"{place.socket}.own-{handle.agent},0,0"
        hub = f"{Path(place.socket).parent}/hub" if env.get("FLEET_HUB", "").startswith("/") else None
        if hub:  # the socket that was named is another machine's
            env["FLEET_HUB"] = hub
        takes = {"cpus_per_task": wish.cpus_per_task, "mem": wish.mem}
        where = {"job": place.job, "node": place.node, "socket": place.socket, "hub": hub}
        noted = {"booking": self._booking, **where, **takes}
        scripts = slurm_runtime.scripts_of(self._places)
        ours = [File(f"{scripts}/{name}", path.read_bytes(), 0o700) for name, path in slurm_runtime.SCRIPTS.items()]
        own = [
            File(f"{handle.folder}/env", launches.quote_env(env)),
            File(f"{handle.folder}/{TENANT}", json.dumps(noted).encode()),
        ]
        await self._host.put([*ours, *plan.files, *own])
        return place

    async def _tenant(self, handle: Handle) -> Tenant | None:
        found = Tenant.parse(handle.agent, await self._host.read(f"{handle.folder}/{TENANT}"))
        if found is not None:
            self._placed[handle.generation] = found.place
        return found

    # -- looking -------------------------------------------------------------------------------------------------

    async def look(self, handle: Handle) -> Look:
        return (await self._looked(handle, see=True))[0]

    async def _looked(self, handle: Handle, *, see: bool) -> tuple[Look, Tenant | None]:
        """How it stands; with `see` its pane too."""
        tenant = await self._tenant(handle)
        if tenant is None:
            return await self._never_launched(), None
        names = await self._host.list(handle.folder)
        program = processes.parse(await self._host.read(f"{handle.folder}/program"))
        noted = (await self._host.read(f"{handle.folder}/exit") or b"").strip()
        waits = "the lease of its conversation is held elsewhere, or was not let go of" if _waits(names) else None
        look = Look(at=self._clock.now(), alive=True, program=program, waiting=waits)
        if noted.isdigit() or PURGED in names:
            gone, words = await self._why(tenant, names)
            status = int(noted) if noted.isdigit() else None
            return replace(look, alive=False, exit_status=status, gone=gone, words=words), tenant
        if await self._gone(tenant.place):
            return await self._left(tenant, look, names), tenant
        if not see:
            return look, tenant
        try:
            seen = await self._server(tenant.place).see(handle.generation)
        except ServerGone:
            return replace(look, alive=False, multiplexer_lost=True), tenant
        except HostUnreachable:
            with contextlib.suppress(TimeoutError, HostUnreachable):  # what the queue said last may be long ago
                async with asyncio.timeout(slurm_runtime.LOOK_WITHIN):
                    await self._cluster.newer(time.monotonic() - TOLD_WITHIN)
            if not await self._gone(tenant.place):
                raise
            return await self._left(tenant, look, names), tenant
        if seen is None or seen.screen.dead:
            gone, words = await self._why(tenant, names)
            return replace(look, alive=False, screen=seen.screen if seen else None, gone=gone, words=words), tenant
        return replace(look, screen=seen.screen, pane=seen.pane), tenant

    async def _left(self, tenant: Tenant, look: Look, names: Collection[str]) -> Look:
        """The look at one whose allocation is gone."""
        gone, words = await self._why(tenant, names)
        return replace(look, alive=False, gone=gone or "host", words=words or "its allocation is gone")

    async def place_of(self, handle: Handle) -> tuple[str, str, str]:
        """The job and node where the launch runs, and the file with its environment there."""
        look, tenant = await self._looked(handle, see=False)
        if tenant is None or not look.alive or look.program is None:
            why = look.words or look.waiting or f"it does not run in the booking {self._booking}"
            raise HostUnreachable(f"{handle.agent} has no node at the moment: {why}")
        return tenant.place.job, tenant.place.node, f"{handle.folder}/env"

    async def _never_launched(self) -> Look:
        """A launch that has not come to its booking: while that waits for its node, nothing can be said of it."""
        gone = Look(at=self._clock.now(), alive=False)
        if await self._host.read(f"{self._folder}/wanted") is None:
            return replace(gone, gone="cancelled", words=f"its booking {self._booking} was released")
        await self._place()
        return gone

    async def _why(self, tenant: Tenant, names: Collection[str]) -> tuple[str | None, str | None]:
        """Whether it ended with its allocation or its lease, and not by itself."""
        if await self._host.read(f"{self._folder}/wanted") is None:
            return "cancelled", f"its booking {self._booking} was released"
        if Place.parse(await self._host.read(f"{self._folder}/place")) != tenant.place:
            return "host", f"its booking {self._booking} left the allocation of job {tenant.place.job}"
        return ("host", "its lease could not be renewed") if LAPSED in names else (None, None)

    def watch(self, handle: Handle, on_look: OnLook) -> None:
        self.unwatch(handle)
        watched = self._watches.add(_Watched(handle, on_look))
        self._cluster.want(handle.generation)
        watched.task = asyncio.get_running_loop().create_task(
            self._watch_on(watched), name=f"fleet-{handle.generation}"
        )

    def unwatch(self, handle: Handle) -> None:
        watched = self._watches.remove(handle)
        if watched is None:
            return
        if watched.task is not None and watched.task is not asyncio.current_task():
            watched.task.cancel()
        self._cluster.unwant(handle.generation)
        for server in self._servers.values():
            server.unwatch(handle.generation)

    def seen_at(self, handle: Handle) -> float | None:
        watched = self._watches.get(handle)
        return watched.server.seen_at(handle.generation) if watched is not None and watched.server is not None else None

    async def _watch_on(self, watched: _Watched) -> None:
        """Look for its end again and again, and at once where something is noted; its pane is watched beside."""
        unwatch = self._host.watch_folder(watched.handle.folder, watched.hear)
        try:
            await self._look_again(watched)
        finally:
            unwatch()

    async def _look_again(self, watched: _Watched) -> None:
        handle = watched.handle
        while not watched.closed():
            try:
                look, tenant = await self._looked(handle, see=watched.server is None or watched.missing)
                watched.program, watched.waiting = look.program or watched.program, look.waiting
                if not look.alive:
                    await self._tell_gone(watched, tenant, look)
                    return
                if watched.server is None and tenant is not None:
                    watched.screen, watched.pane = look.screen, look.pane
                    await self._watch_pane(watched, tenant.place)
                self._tell_alive(watched)
                self._carry_hub(handle, tenant)
            except (FleetError, TimeoutError) as error:  # it says nothing of the agent; the next round asks again
                log.debug("agent %s: %s", handle.agent, error)
            except Exception:
                log.exception("agent %s: a look failed", handle.agent)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(watched.news.wait(), self._read_every)
            watched.news.clear()

    async def _tell_gone(self, watched: _Watched, tenant: Tenant | None, look: Look) -> None:
        watched.dead = True
        try:
            await self._keep_screen(watched.handle, tenant, watched.screen)
        except HostUnreachable:
            watched.dead = False  # it is told when the host is back
            raise
        except FleetError as error:  # its death must be told all the same
            log.warning("%s: its last screen is not kept: %s", watched.handle.generation, error)
        watched.tell(replace(look, screen=look.screen or watched.screen))

    def _carry_hub(self, handle: Handle, tenant: Tenant | None) -> None:
        """See that it reaches the hub from its node: all tenants of an allocation share one way."""
        if tenant is not None and tenant.hub is not None:
            place, scripts = tenant.place, slurm_runtime.scripts_of(self._places)
            self._cluster.hub.carry(Door(place.job, place.node, tenant.hub, f"{handle.folder}/env"), self._hub, scripts)

    async def _watch_pane(self, watched: _Watched, place: Place) -> None:
        handle = watched.handle
        await self._watches.recall(watched)
        if not watched.closed():
            watched.server = self._server(place)
            watched.server.on_gone(self._server_gone)
            watched.server.watch(handle.generation, functools.partial(self._saw, watched), watched.miss)

    def _server_gone(self) -> None:
        for watched in self._watches:
            watched.miss()

    def _saw(self, watched: _Watched, seen: Seen) -> None:
        if seen.screen.dead:
            watched.miss()
        if self._watches.saw(watched, seen):
            watched.pane = seen.pane
            self._tell_alive(watched)

    def _tell_alive(self, watched: _Watched) -> None:
        watched.tell(
            Look(
                at=self._clock.now(),
                alive=True,
                program=watched.program,
                screen=watched.screen,
                pane=watched.pane,
                waiting=watched.waiting,
            )
        )

    # -- typing --------------------------------------------------------------------------------------------------

    async def type(self, handle: Handle, keys: Sequence[str], *, literal: bool) -> None:
        tenant = await self._tenant(handle)
        if tenant is None:
            raise HostUnreachable(f"{handle.agent} has no pane")
        await self._server(tenant.place).type(handle.generation, keys, literal=literal)

    def attach_argv(self, handle: Handle, *, read_only: bool = False) -> list[str]:
        place = self._placed.get(handle.generation)
        if place is None:
            raise HostUnreachable(f"{handle.agent} has no pane at the moment.")
        words = slurm_tmux.attach_argv(place.job, place.node, place.socket, handle.session, read_only=read_only)
        return self._cluster.steps.terminal(words)

    # -- ending --------------------------------------------------------------------------------------------------

    async def end(self, handle: Handle, *, grace: float) -> Ended:
        return await self._end(handle, grace)

    async def _end(self, handle: Handle, grace: float, *, proven: bool = True) -> Ended:
        """Not `proven`: of what SLURM does not reach any more it is enough that the lease keeps the next launch waiting
        for it."""
        tenant = await self._tenant(handle)
        names = await self._host.list(handle.folder)
        killed: tuple[int, ...] = ()
        if tenant is not None and PURGED not in names:
            # Where its allocation ends, the job ends what is left of it.
            over = "exit" in names and LAPSED not in names and (await self._why(tenant, names))[0] is not None
            gone = not over and await self._gone(tenant.place)
            if not over and not gone:
                if await self._has_begun(handle):
                    _, killed = await self._end_there(handle, tenant, grace)
                await self._server(tenant.place).close_pane(handle.generation)
            if gone and proven and await self._has_begun(handle):
                await self._until_let_go(handle, grace)
            if proven or not gone:
                await self._host.put([File(f"{handle.folder}/{PURGED}", b"")])
            await self._watches.log(handle.agent).flush()
        noted = (await self._host.read(f"{handle.folder}/exit") or b"").strip()
        return Ended(int(noted) if noted.isdigit() else None, killed)

    async def _until_let_go(self, handle: Handle, grace: float) -> None:
        """Wait until nothing of it lives that SLURM no longer reaches: its guard lets go of its lease then, or is no
        more, and the lease runs out."""
        noted = (await self._host.read(f"{handle.folder}/lease") or b"").strip()
        if not noted.isdigit():
            return
        leases, held = str(self._places.agent(handle.agent) / "leases"), None
        deadline = time.monotonic() + grace + slurm_booking.GRACE + 2 * self._times.ttl
        while True:
            held, free = await self.lease_of(leases, int(noted), held, self._times)
            if free:
                return
            if time.monotonic() > deadline:
                raise Unconfirmed(f"the allocation of {handle.agent} is gone, and nothing says that it has ended there")
            await asyncio.sleep(LOOK_EVERY)

    async def _has_begun(self, handle: Handle) -> bool:
        """Whether there is a program to end. Where there is none yet there will be none: the launch is claimed."""
        claimed = await self._host.run(
            ["ln", "-s", "ended", f"{handle.folder}/claim"], env=slurm_runtime.RM, cwd="/", timeout=10
        )
        if claimed.status == 0:
            return False
        deadline = time.monotonic() + NOTED_WITHIN
        while not BEGUN & set(await self._host.list(handle.folder)):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)
        return True

    async def _end_there(self, handle: Handle, tenant: Tenant, grace: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """End its processes, by the mark they bear, in a step of the job; who was there, and who needed SIGKILL."""
        place, lease = tenant.place, f"{slurm_runtime.scripts_of(self._places)}/lease.sh"
        mark = f"{processes.MARK}={handle.generation}"
        words = ("sh", lease, "hunt", mark, str(max(1, round(grace))))
        ran = await self._cluster.command(slurm_tmux.step_argv(place.job, place.node, *words), grace + 60)
        if ran.status and not await self._gone(place):
            self._cluster.sooner()
            raise HostUnreachable(f"{handle.agent} could not be ended in job {place.job}: {said(ran)}")
        deadline = time.monotonic() + NOTED_WITHIN
        while "exit" not in await self._host.list(handle.folder):  # its launcher notes it, unless it was killed too
            if time.monotonic() > deadline or await self._pane_is_dead(handle, place) or await self._gone(place):
                break
            await asyncio.sleep(0.05)
        watched = self._watches.get(handle)
        await self._keep_screen(handle, tenant, watched.screen if watched is not None else None)
        told = dict(line.partition(" ")[::2] for line in ran.stdout.decode().splitlines())
        there, killed = (
            tuple(sorted(int(one.partition(":")[0]) for one in told.get(word, "").split()))
            for word in ("there", "killed")
        )
        return there, killed

    async def _pane_is_dead(self, handle: Handle, place: Place) -> bool:
        try:
            seen = await self._server(place).see(handle.generation)
        except ServerGone:
            return True
        return seen is None or seen.screen.dead

    async def purge(self, agent: str, *, keep: str | None = None, grace: float = 0.5) -> tuple[int, ...]:
        root = self._places.agent(agent) / "launch"
        for name in await self._host.list(str(root)):
            if name != keep:
                await self._end(self._handle(agent, name), grace, proven=keep is None)
        return ()

    async def cleanup(self, keep: Collection[str], *, dry_run: bool) -> list[str]:
        words = []
        agents = self._places.state / "agents"
        for agent in await self._host.list(str(agents)):
            root = agents / agent / "launch"
            for name in sorted(set(await self._host.list(str(root))) - set(keep)):
                handle = self._handle(agent, name)
                tenant = await self._tenant(handle)
                if tenant is None or tenant.booking != self._booking:
                    continue
                words.append(f"folder {root / name}")
                if not dry_run:
                    await self.end(handle, grace=self._settings.kill_grace)
                    env = slurm_runtime.RM
                    await self._host.run(["rm", "-rf", str(root / name)], env=env, cwd="/", timeout=30)
        return words

    async def dismiss(self) -> None:
        """A booking is released by who booked it."""

    # -- what is kept ----------------------------------------------------------------------------------------------

    async def _keep_screen(self, handle: Handle, tenant: Tenant | None, before: Screen | None) -> None:
        if tenant is None:
            return
        server = self._server(tenant.place)

        async def last() -> Seen | None:
            try:
                return await watching.final(server, handle.generation, within=SETTLE)
            except HostUnreachable:  # most likely its allocation is gone
                return None

        await self._watches.keep(
            handle,
            before,
            names=functools.partial(self._host.list, handle.folder),
            last=last,
            put=lambda file: self._host.put([file]),
        )

    async def last_screen(self, handle: Handle) -> str | None:
        return await watching.last_screen(self._host.read, handle)

    async def log_lines(self, handle: Handle, count: int) -> list[str]:
        return await self._watches.lines(handle, count, self._newest)

    async def _newest(self, watched: _Watched) -> Seen | None:
        seen = None if watched.server is None else await watched.server.last(watched.handle.generation)
        if seen is not None:
            self._saw(watched, seen)
        return seen

    async def close(self) -> None:
        """Let go; tenants and bookings go on."""
        tasks = [watched.task for watched in self._watches if watched.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers.values():
            await server.close()
        await self._cluster.close()
        await self._watches.close()


class Tenant:
    """One launch in a booking."""

    def __init__(self, agent: str, noted: dict[str, str]) -> None:
        self.agent = agent
        self.booking = noted["booking"]
        self.place = Place(noted["job"], noted["node"], noted["socket"])
        self.hub = noted.get("hub")
        """The hub's socket on its node, if it speaks to the hub."""
        self.section = Slurm(cpus_per_task=int(noted["cpus_per_task"]), mem=noted["mem"])

    @classmethod
    def parse(cls, agent: str, content: bytes | None) -> Tenant | None:
        return None if content is None else cls(agent, json.loads(content))


class _Watched(watching.Watched):
    """One launch that somebody watches."""

    task: asyncio.Task[None] | None = None
    server: slurm_tmux.JobTmux | None = None
    program: Process | None = None
    pane: str | None = None
    waiting: str | None = None
    missing = False
    """Its pane was not found, or is dead: the next round looks closer."""

    def __init__(self, handle: Handle, on_look: OnLook) -> None:
        super().__init__(handle, on_look)
        self.news = asyncio.Event()

    def miss(self) -> None:
        self.missing = True
        self.news.set()

    def hear(self, name: str) -> None:
        """Something was written into its folder."""
        if name in NOTED:
            self.news.set()


def _waits(names: Collection[str]) -> bool:
    """Whether a launch, of which these notes stand there, waits for its lease still."""
    return "taking" in names and "lease" not in names


def folder_of(places: Places, booking: str) -> Path:
    """A booking's folder, which all nodes see."""
    return places.state / "bookings" / booking


async def tenants(host: Runtime, places: Places, booking: str, place: Place | None) -> list[Tenant]:
    """Who lives in the booking's allocation."""
    found = []
    agents = places.state / "agents"
    for agent in await host.list(str(agents)):
        root = agents / agent / "launch"
        for name in await host.list(str(root)):
            names = await host.list(str(root / name))
            if TENANT in names and "exit" not in names and PURGED not in names:
                tenant = Tenant.parse(agent, await host.read(str(root / name / TENANT)))
                if tenant is not None and tenant.booking == booking and tenant.place == place:
                    found.append(tenant)
    return found
