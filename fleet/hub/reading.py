"""What the log and the boxes hold, for who may see it: the exchange's verbs that only read, and the taking of mail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from fleet.hub import registry, threads
from fleet.hub.auth import Caller, Role, no
from fleet.hub.base import Base, channel_of, known_of
from fleet.hub.mailbox import (
    Change,
    Mail,
    box,
    receipts,
)
from fleet.hub.message import (
    SEQ_MAX,
    WAITING,
    Code,
    Position,
    Proven,
    Recipient,
    State,
    ThreadState,
    Way,
    step,
)
from fleet.hub.projection import COPY, MESSAGE, Page
from fleet.hub.routing import Hears
from fleet.hub.shown import event_json


class Reading(Base):
    """Receipts, inboxes, history, search, conversations, the audit; and which events are whose."""

    async def receipt(self, caller: Caller, id: str) -> dict[str, Any]:
        """A message as it stands, with its `recipients` as they stand."""
        self._check(caller)
        event = await self._visible(caller, id)
        standing = await self.boxes.receipt(str(id)) or []
        return {**await self.message_json(event), "recipients": [recipient.to_json() for recipient in standing]}

    async def inbox(
        self, caller: Caller, name: str, *, after: int = 0, limit: int = 50, newest: bool = False, waiting: bool = False
    ) -> dict[str, Any]:
        """`{messages, position, more}`, each message with its `recipient`; the own box, or any for who observes."""
        self._check(caller)
        name = caller.name if name == "me" else name
        if name != caller.name and not caller.observes:
            raise no(Code.NOT_ALLOWED, f"The inbox of {name[:60]!a} is not {caller.name}'s to read.")
        if self.registry.present(caller.workspace, name) is None and name != caller.name:
            raise self._nobody(caller.workspace, name)
        limit = max(1, min(limit, 500))
        of = box(caller.workspace, name)
        if waiting:
            mail = await self.boxes.open(of, after=after, limit=limit + 1, heard=limit + 1)
        else:
            mail = await self.boxes.inbox(of, after=after, limit=limit + 1, newest=newest)
        more = len(mail) > limit
        mail = mail[-limit:] if newest and not waiting else mail[:limit]
        position = Position(self.log.epoch, mail[-1].seq if more and not newest and mail else self.log.head)
        return {
            "messages": [self._mail_json(one) for one in mail],
            "position": str(position),
            "more": more,
        }

    async def take(self, caller: Caller, limit: int = 50) -> list[dict[str, Any]]:
        """The caller reads its inbox: what waited is handed over, and that is its proof."""
        self._check(caller, speaks=True)
        of = box(caller.workspace, caller.name)
        async with self._taking.setdefault(of, asyncio.Lock()):  # nothing is given to two that ask together
            return await self._take(of, max(1, min(limit, 500)))

    async def _take(self, of: str, limit: int) -> list[dict[str, Any]]:
        mail: list[Mail] = []
        after, passed_over = 0, False
        while len(mail) < limit:
            page = await self.boxes.open(of, after=after, limit=2 * limit, heard=2 * limit)
            for one in page:
                waits = self._moves(one.message.thread) and one.recipient.state in WAITING
                passed_over |= one.heard and not waits  # what comes after it is not caught up with
                if waits and not (one.heard and passed_over):
                    mail.append(one)
            if len(page) < 2 * limit:
                break
            after = page[-1].seq
        mail = mail[:limit]
        proven = [Change(m.message.id, of, Proven("inbox", Way.INBOX)) for m in mail if not m.heard]
        stands = {change.message: now_so for change, now_so in zip(proven, await self.change(proven), strict=True)}
        heard = max((m.seq for m in mail if m.heard), default=None)
        if heard is not None:
            await self.boxes.catch_up(of, heard, "inbox")
        now = self.clock.now()
        taken = []
        for one in mail:
            if one.heard:
                stood: Recipient | None = step(one.recipient, Proven("inbox", Way.INBOX), now)
            else:
                stood = stands[one.message.id]
            if stood is not None and stood.state not in (State.CANCELLED, State.EXPIRED):
                taken.append(self._mail_json(one._replace(recipient=stood)))
        return taken

    async def read(
        self,
        caller: Caller,
        *,
        channel: str | None = None,
        with_: str | None = None,
        thread: str | None = None,
        after: Position | None = None,
        before: int | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 50,
    ) -> dict[str, Any]:
        """`{messages, position, more}`, oldest first: those after `after` (or from `since`), else the newest."""
        self._check(caller)
        limit = max(1, min(limit, 500))
        if thread is not None:
            return await self.transcript(caller, thread, after=after.seq if after is not None else 0, limit=limit)
        if with_ is not None and after is None and since is None and until is None:
            one, _, other = with_.partition(",")
            pair = (one, other) if other and caller.observes else (caller.name, one)
            page = await self.history.between(caller.workspace, *pair, before=before, limit=limit)
            for name in () if page.events else pair:
                self._must_be_known(caller, name)
            return await self._page_json(caller, page)
        streams = self._asked_for(caller, channel, with_)
        page = await self.history.read(
            streams=streams,
            within=None if streams is not None else caller.workspace,
            kinds=[MESSAGE, COPY] if streams is not None else [MESSAGE],
            after=after,
            before=before,
            since=since,
            until=until,
            limit=limit,
            newest=after is None and since is None,
        )
        return await self._page_json(caller, page, with_)

    def _must_be_known(self, caller: Caller, name: str) -> None:
        """Raise `Refused` for a name that nobody has: it is probably mistyped."""
        if name != caller.name and self.registry.present(caller.workspace, name) is None:
            raise self._nobody(caller.workspace, name)

    def _asked_for(self, caller: Caller, channel: str | None, with_: str | None) -> frozenset[str] | None:
        workspace = caller.workspace
        if channel is not None:
            return frozenset({f"{workspace}/{channel_of(channel)}"})
        if with_ is not None:
            one, _, other = with_.partition(",")
            pair = (one, other) if other and caller.observes else (caller.name, one)
            return frozenset(box(workspace, name) for name in pair)
        return self.streams_of(caller)

    async def _page_json(self, caller: Caller, page: Page, with_: str | None = None) -> dict[str, Any]:
        events = [event for event in page.events if self._may_read(caller, known_of(event))]
        if with_ is not None:
            one, _, other = with_.partition(",")
            pair = {one, other} if other and caller.observes else {caller.name, one}
            events = [event for event in events if event.data["sender"] in pair]
        return {"messages": await self._messages_json(events), "position": str(page.position), "more": page.more}

    async def search(
        self, caller: Caller, words: str, *, channel: str | None = None, before: int | None = None, limit: int = 20
    ) -> dict[str, Any]:
        """`{messages, more, behind}`, newest first."""
        self._check(caller)
        workspace = caller.workspace
        streams: Iterable[str] | None = None
        sender = None
        if channel is not None:
            streams = [f"{workspace}/{channel_of(channel)}"]
        elif not caller.observes:
            channels = self.registry.spaces[workspace].channels
            streams = [box(workspace, caller.name), *(f"{workspace}/{name}" for name in channels)]
            sender = self._sender(caller)
        found = await self.history.search(
            str(words),
            streams=None if streams is None else list(streams),
            sender=sender,
            within=workspace,
            before=before,
            limit=max(1, min(limit, 200)),
        )
        events = [event for event in found.events if self._may_read(caller, known_of(event))]
        return {"messages": await self._messages_json(events), "more": found.more, "behind": found.behind}

    async def events(self, caller: Caller, after: Position | None = None, limit: int = 200) -> Page:
        """What the caller may see of the log after a position (`None`: nothing, from now), without what was deleted
        since. Raise `Gap`."""
        self._check(caller)
        if after is None:
            return Page([], self.log.position, False)
        streams = self.streams_of(caller)
        within = caller.workspace if streams is None else None
        return await self.history.read(streams=streams, within=within, after=after, limit=limit, veils=True)

    async def audit(self, caller: Caller, after: Position | int | None = None, limit: int = 200) -> dict[str, Any]:
        """`{events, position, more}`: what operators did and what was refused; without `after` the newest."""
        self._check(caller)
        if not caller.observes:
            raise no(Code.NOT_ALLOWED, "The audit is not an agent's to read.")
        position = Position(self.log.epoch, after) if isinstance(after, int) else after
        streams = [registry.audit(caller.workspace), *(["!audit"] if caller.role is Role.ADMIN else [])]
        page = await self.history.read(streams=streams, after=position, limit=limit, newest=position is None)
        return {
            "events": [event_json(event, self.log.epoch) for event in page.events],
            "position": str(page.position),
            "more": page.more,
        }

    async def threads(
        self, caller: Caller, *, state: str | None = None, before: int | None = None, limit: int = 50
    ) -> list[dict[str, Any]]:
        """The newest conversations, of which the caller may know."""
        self._check(caller)
        if state is not None and state not in list(ThreadState):
            raise no(Code.BAD_VALUE, f"`state` is one of {', '.join(ThreadState)}.", field="state")
        member = None if caller.observes else caller.name
        found = await self.log.database.read(
            lambda c: threads.talks(
                c, caller.workspace, state, member, before if before is not None else SEQ_MAX, max(1, min(limit, 500))
            )
        )
        return [talk.to_json() for talk in found]

    async def transcript(self, caller: Caller, id: str, *, after: int = 0, limit: int = 200) -> dict[str, Any]:
        """`{thread, messages, acts, position, more}`: all that was said in a conversation and done to it."""
        self._check(caller)
        talk = await self.log.database.read(lambda c: threads.talk(c, caller.workspace, str(id)))
        page = await self.history.thread(str(id), after=after, limit=max(1, min(limit, 500)))
        events = [event for event in page.events if self._may_read(caller, known_of(event))]
        if talk is None or (not events and not caller.observes):
            raise no(Code.UNKNOWN_THREAD, f"There is no conversation {str(id)[:60]!a}.", thread=str(id))
        return {
            "thread": talk.to_json(),
            "messages": await self._messages_json(events),
            "acts": await self._acts_on(caller.workspace, str(id)),
            "position": str(page.position),
            "more": page.more,
        }

    async def _acts_on(self, workspace: str, thread: str) -> list[dict[str, Any]]:
        acts = await self.log.database.read(lambda c: threads.acts(c, workspace, thread))
        return [{**act.data, "at": act.at, "seq": act.seq} for act in acts]

    # -- whose events ----------------------------------------------------------------------------------------------

    def streams_of(self, caller: Caller) -> frozenset[str] | None:
        """The streams that an agent follows now (`WORKSPACE/#c`, `WORKSPACE/@name`, …); `None`: all of the workspace,
        for who observes it."""
        if caller.observes:
            return None
        workspace = caller.workspace
        own = {registry.stream(workspace), box(workspace, caller.name), receipts(workspace, caller.name)}
        member = self.registry.directory(workspace).members.get(caller.name)
        if member is not None:
            own |= {f"{workspace}/{channel}" for channel, hears in member.channels.items() if hears is Hears.ALL}
        return frozenset(own)
