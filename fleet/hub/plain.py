"""Many messages of one sender at once: the short way into the log, for what most of them are.

A message is plain where it is said to one channel that somebody has spoken in, names nobody, refers to nothing, asks
for nothing and is caused by nothing. All that the rules have to look at then is the same for every plain message of one
sender to one channel at one moment (`_Way`), but for its text and its sender's rate: so it is looked at once, and the
messages go into the log together, each for itself. Every other message goes the whole way (`Talk.begin_send`), in its
place among them. What comes of a message does not depend on which way it went.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from fleet.hub import guardrails
from fleet.hub.auth import Caller, Refused
from fleet.hub.base import Known, light
from fleet.hub.guardrails import Attempt, lineage
from fleet.hub.log import New, Went
from fleet.hub.mailbox import channel, said_there
from fleet.hub.message import NO_METADATA, Intent, Message, Nature, Position, Receipt
from fleet.hub.routing import NOWHERE
from fleet.hub.submission import read_plain
from fleet.hub.talk import Composed, Talk, also_listed

T = TypeVar("T")
AllTold = Callable[[Sequence[tuple[T, Receipt | Exception]]], None]
"""Hears what became of some of them, each with the mark that it was given."""


class _Way(NamedTuple):
    """What all plain messages of one sender to one channel have in common, at one moment."""

    to: tuple[str]
    stream: str
    hops: int
    max_hops: int
    listening: tuple[str, ...]
    listed: tuple[str, ...]
    """Of those, who is listed in the answer."""


class _Said(NamedTuple):
    """A plain message on its way, with its mark."""

    message: Message
    way: _Way
    mark: Any


class Plain(Talk):
    """Many messages of one sender at once."""

    def begin_send_all(self, caller: Caller, said: Sequence[tuple[object, T]], told: AllTold[T]) -> None:
        """Each of these as by `begin_send`, in their order. `told` hears of each once, of as many together as are known
        together."""
        try:
            self._check(caller, speaks=True)
        except Refused as error:
            told([(mark, error) for _, mark in said])
            return
        who, now = (caller.workspace, caller.name), self.clock.now()
        ways: dict[str, _Way | None] = {}
        run: list[_Said] = []
        room = self._accounting.room(who, now)
        for body, mark in said:
            message = self._plainly(caller, body, ways, now) if len(run) < room else None
            if message is not None:
                run.append(_Said(*message, mark))
                continue
            self._begin_run(run, told, now)
            self.begin_send(caller, body, functools.partial(_one, told, mark))
            run, room = [], self._accounting.room(who, now)
        self._begin_run(run, told, now)

    def _plainly(
        self, caller: Caller, body: object, ways: dict[str, _Way | None], now: float
    ) -> tuple[Message, _Way] | None:
        """The message, where it is plain and may leave."""
        read = read_plain(body, self.limits)
        if read is None:
            return None
        to, text, key = read
        if key is not None:
            which = (caller.workspace, caller.name, key)
            if which in self._coming or which in self._keys:
                return None
        if to not in ways:
            ways[to] = self._way(caller, to, now)
        way = ways[to]
        if way is None:
            return None
        if key is not None:
            self._coming[which] = []
        id = self._ids.mint("m", now)
        message = Message(
            id, caller.workspace, caller.name, way.to, text, now, f"t{id[1:]}", Intent.INFORM, Nature.MESSAGE,
            False, None, None, None, way.hops, way.max_hops, None, (), (), NO_METADATA, key,
        )  # fmt: skip
        return message, way

    def _way(self, caller: Caller, to: str, now: float) -> _Way | None:
        """What the caller's plain messages to that channel have in common; `None`: they have to go the whole way."""
        workspace, name = caller.workspace, caller.name
        space = self.registry.spaces[workspace]
        present = space.members.get(name)
        if present is None or to not in space.channels:
            return None
        if not caller.operator and self._turns.causes((workspace, name), None, (to,), present.card.turns, now):
            return None
        speaker = self.registry.speaker(caller)
        hops, max_hops, _ = lineage((), None, speaker, self.rules)
        some = Message("", workspace, name, (to,), "", now, "", hops=hops, max_hops=max_hops)
        if guardrails.objection(Attempt(some, speaker, ())) is not None:
            return None
        listening = space.directory.heard.get(to, NOWHERE).listening
        listed = also_listed(some, (), listening)
        return _Way((to,), channel(workspace, to), hops, max_hops, listening, listed)

    def _begin_run(self, run: Sequence[_Said], told: AllTold[T], now: float) -> None:
        """Count these plain messages, and store them."""
        if not run:
            return
        first = run[0].message
        self._accounting.spoke((first.workspace, first.sender), len(run), now)
        appends: list[tuple[New]] = []
        for message, way, _ in run:
            self._accounting.opened(message.thread)
            appends.append((said_there(message, way.stream, heard=bool(way.listening)),))
        self.log.submit_each(appends, functools.partial(self._run_stored, run, told))

    def _run_stored(self, run: Sequence[_Said], told: AllTold[T], went: Sequence[Went]) -> None:
        """They are in the log, or why not."""
        epoch = self.log.epoch
        came: list[tuple[T, Receipt | Exception]] = []
        last: Message | None = None
        for (message, way, mark), how in zip(run, went, strict=True):
            if message.idempotency_key is not None:
                which = (message.workspace, message.sender, message.idempotency_key)
                tell = functools.partial(self._came, which, functools.partial(_one, told, mark))
                stored = how if isinstance(how, Exception) else how[0]
                self._accepted(Composed(message, [], way.listening, False), tell, stored)
            elif isinstance(how, Exception):
                came.append((mark, how))
            else:
                seq, last = how[0].seq, message
                self._keep_known(Known(light(message), seq, _NOBODY))
                came.append((mark, Receipt(message.id, Position(epoch, seq), (), False, message.at, way.listed)))
        if last is not None:  # it has as few hops as those before it
            self._turns.spoken(light(last), last.at)
        if came:
            told(came)


_NOBODY: frozenset[str] = frozenset()


def _one(told: AllTold[T], mark: T, went: Receipt | Exception) -> None:
    told([(mark, went)])
