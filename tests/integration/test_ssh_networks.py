"""Several hosts, each an sshd in a network of its own, and a cable that is pulled."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fleet import processes
from fleet.errors import HostUnreachable
from fleet.terms import Handle
from tests import networks
from tests.contract.hosts import Kit, until, until_async
from tests.homes import Home
from tests.sshd import SshHost, needs_sshd

pytestmark = [pytest.mark.real, needs_sshd]


@pytest.fixture
async def hosts(home: Home) -> AsyncIterator[tuple[SshHost, SshHost]]:
    with networks.network() as one, networks.network() as two:
        made = SshHost(home.path / "one", network=one), SshHost(home.path / "two", network=two)
        for host in made:
            await host.open()
        yield made
        for host in made:
            await host.close()


async def _answers(kit: Kit, handle: Handle) -> bool:
    try:
        return (await kit.runtime.look(handle)).alive
    except HostUnreachable:
        return False


async def test_a_pulled_cable_is_no_death_and_the_other_host_goes_on(hosts: tuple[SshHost, SshHost]) -> None:
    cut, other = hosts
    kit, kit_of_other = Kit(cut), Kit(other)
    handle, handle_of_other = await kit.launch("web"), await kit_of_other.launch("web")
    looks = kit.watch(handle)
    await looks.show("hello")
    program = cut.facts(handle).program
    assert program is not None
    told: list[str | None] = []
    kit.runtime.on_host(told.append)
    cut.cut()
    await until(lambda: told and told[-1], "word that the host is away")
    with pytest.raises(HostUnreachable):
        await kit.runtime.look(handle)
    assert (await kit_of_other.runtime.look(handle_of_other)).alive
    assert processes.alive(program) and not looks.deaths
    cut.heal()
    await until_async(lambda: _answers(kit, handle), "the host's return")
    assert cut.facts(handle).program == program, "it was not started again"
    await kit.say(handle, "still there")
    await looks.show("you said still there")


async def test_a_host_that_was_away_from_the_start_is_used_once_its_cable_is_in(hosts: tuple[SshHost, SshHost]) -> None:
    away, _ = hosts
    away.cut()
    kit = Kit(away)
    with pytest.raises(HostUnreachable):
        await kit.launch("web")
    away.heal()
    launched: list[Handle] = []

    async def launch() -> bool:
        try:
            launched.append(await kit.launch("web"))
        except HostUnreachable:
            return False
        return True

    await until_async(launch, "a launch")
    await kit.watch(launched[0]).show("hello")
