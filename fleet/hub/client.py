"""`fleet.Client` and `fleet.SyncClient`: the hub for programs.

    async with fleet.Client() as client:
        receipt = await client.send("web", "The build is green.")
        answer = await client.ask("db", "Which port?", timeout=60)
        async for event in client.follow("#general"):
            ...

What holds:

- Which hub and whose token are found as on the command line: what is given here, else `FLEET_HUB` and
  `FLEET_TOKEN_FILE`, else this machine's own hub as its operator.
- A message is sent under a key of its own. Where the hub goes away before it has answered, it is asked again under the
  same key, so a message that is retried is never doubled and never lost in between.
- Who follows gets every event after its position once and in order, across restarts of the hub and breaks of the
  network; where something cannot be had any more, an event of the kind `gap` says so in its place.
- A no is an exception, `hubcall.HubSaid`, with the hub's code and reason; a hub that is not there is `NoDaemon`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mimetypes
import os
import random
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

from fleet import __version__, hubcall
from fleet.errors import FleetError, NoDaemon, TimedOut
from fleet.hub.message import Outcome, Receipt, Recipient, State

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for an answer that is not meant to take long, and for how long a hub may be away before a request fails."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0
"""Between two attempts to follow, in seconds, each a random part of it; it doubles."""
REQUEST_PAUSE = 1.0
"""The longest between two attempts of a request: a hub that was killed is back in a second or two."""
FRAME_MOST = 16 * 1024 * 1024
"""Bytes of a frame that is taken from the hub."""
FILE_TIME = 600.0
"""Seconds for a file."""
REFUSALS = {"unauthorized": 401, "not_allowed": 403, "closing": 503}
"""Codes of errors that come as a frame, as the statuses of HTTP."""
ENDED = {4001: "unauthorized", 4003: "not_allowed"}
"""With what the hub closes a WebSocket that is not to come back."""


# -- what is given and got -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class File:
    """A file that the hub keeps."""

    sha256: str
    name: str
    size: int
    type: str = "application/octet-stream"

    def to_json(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "name": self.name, "size": self.size, "type": self.type}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as it stands now."""

    id: str
    sender: str
    to: tuple[str, ...]
    text: str
    """Empty where it was deleted."""
    at: float
    thread: str
    seq: int = 0
    epoch: str = ""
    workspace: str = "main"
    intent: str = "inform"
    nature: str = "message"
    wake: bool = False
    reply_to: str | None = None
    hops: int = 0
    max_hops: int = 0
    mentions: tuple[str, ...] = ()
    attachments: tuple[File, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    reactions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    edited_at: float | None = None
    deleted_at: float | None = None
    recipients: tuple[Recipient, ...] = ()
    """Where it stands with each, where that was asked."""

    @property
    def position(self) -> str:
        """Its place in the log."""
        return f"{self.epoch}:{self.seq}"

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Message:
        """The message that the hub shows. A field that is not known here is left out."""
        known = {f.name: told[f.name] for f in fields(cls) if f.name in told}
        known["to"] = tuple(told.get("to") or ())
        known["text"] = told.get("text") or ""
        known["mentions"] = tuple(told.get("mentions") or ())
        known["attachments"] = tuple(_file(a) for a in told.get("attachments") or ())
        mine = [told["recipient"]] if told.get("recipient") else []
        known["recipients"] = tuple(_recipient(r) for r in told.get("recipients") or mine)
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Page:
    """Some messages, oldest first, and where to go on."""

    messages: tuple[Message, ...]
    position: str | None = None
    more: bool = False

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)


@dataclass(frozen=True, slots=True)
class Answer:
    """How an ask ended."""

    id: str
    thread: str
    outcome: Outcome
    answer: Message | None = None
    reason: str | None = None

    @property
    def text(self) -> str | None:
        """What was answered, if it was."""
        return None if self.answer is None else self.answer.text

    def __bool__(self) -> bool:
        """Whether it was answered."""
        return self.outcome is Outcome.ANSWERED


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as the log has it."""

    position: str
    at: float
    stream: str
    """`#general`, `@name`, …"""
    kind: str
    """message, edit, deletion, reaction, receipt, …; `gap`: what was before this position cannot be had."""
    sender: str
    data: Mapping[str, Any]

    @property
    def message(self) -> Message | None:
        """The message that was sent, where it is that."""
        return Message.from_json(self.data) if self.kind in ("message", "copy") else None


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody who can be spoken to."""

    name: str
    kind: str = "agent"
    presence: Any = None
    description: str = ""
    channels: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """All that the hub says of it."""

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Member:
        known = {f.name: told[f.name] for f in fields(cls) if f.name in told and f.name != "facts"}
        return cls(**known, facts=told)


@dataclass(frozen=True, slots=True)
class Token:
    """A new token; nobody shows it again."""

    id: str
    token: str = field(repr=False)


def _file(told: Mapping[str, Any]) -> File:
    return File(**{f.name: told[f.name] for f in fields(File) if f.name in told})


def _recipient(told: Mapping[str, Any]) -> Recipient:
    return Recipient.from_json({"since": 0.0, **told})


def _receipt(told: Mapping[str, Any]) -> Receipt:
    return Receipt.from_json({**told, "recipients": [{"since": 0.0, **r} for r in told.get("recipients") or ()]})


def _answer(told: Mapping[str, Any]) -> Answer:
    said = Message.from_json(told["answer"]) if told.get("answer") else None
    return Answer(told["id"], told["thread"], Outcome(told["outcome"]), said, told.get("reason"))


def _page(told: Mapping[str, Any]) -> Page:
    return Page(
        tuple(Message.from_json(m) for m in told["messages"]), told.get("position"), bool(told.get("more", False))
    )


def _event(told: Mapping[str, Any]) -> Event:
    return Event(told["pos"], told["at"], told["stream"], told["kind"], told["sender"], told["data"])


def _id(of: Message | Receipt | str) -> str:
    return of if isinstance(of, str) else of.id


# -- the client ----------------------------------------------------------------------------------------------------


class Client:
    """A hub, for a program with an event loop. Use it as `async with fleet.Client() as client`.

    `host` and `port` (or a URL as `host`) name another machine's hub; `token` or `token_file` says who speaks.
    `patience`: how many seconds an answer may take, and a hub may be away, before a request fails.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        file = None if token_file is None else os.fspath(token_file)
        self._door = hubcall.door(host, port, file, stranger=token is not None)
        if token is not None:
            self._door.token, self._door.token_file = token, ""
        self._patience = patience
        self._opened: aiohttp.ClientSession | None = None
        self._closed = False
        self._stood = False
        """The hub has been there: where it is not now, it is away, and is waited for."""

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of all connections. What is asked after that raises `RuntimeError`."""
        self._closed = True
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    # -- saying ----------------------------------------------------------------------------------------------------

    async def send(
        self,
        to: str | Sequence[str] | None,
        text: str = "",
        *,
        intent: str | None = None,
        wake: bool | None = None,
        thread: str | None = None,
        reply_to: Message | str | None = None,
        attachments: Sequence[File | str | os.PathLike[str]] = (),
        max_hops: int | None = None,
        expires_in: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Send a message to a name, a #channel or several; it is on the hub's disk when this returns.

        `key`: the idempotency key; the same message under the same key is sent once, whoever repeats it when.
        """
        body = {
            "to": to if to is None or isinstance(to, str) else list(to),
            "text": text,
            "intent": intent,
            "wake": wake,
            "thread": thread,
            "reply_to": None if reply_to is None else _id(reply_to),
            "max_hops": max_hops,
            "expires_in": expires_in,
            "metadata": metadata,
        }
        return _receipt(await self._said("messages", body, attachments, key))

    async def reply(self, to: Message | str, text: str = "", **more: Any) -> Receipt:
        """Answer a message, to whoever sent it; `more` is what `send` takes."""
        return await self.send(None, text, reply_to=to, **more)

    async def prompt(self, name: str, text: str, *, key: str | None = None) -> Receipt:
        """Have the operator's own word typed into an agent."""
        return _receipt(await self._said("prompts", {"to": name, "text": text}, (), key))

    async def ask(
        self,
        name: str,
        text: str,
        *,
        timeout: float | None = None,
        thread: str | None = None,
        reply_to: Message | str | None = None,
        attachments: Sequence[File | str | os.PathLike[str]] = (),
        max_hops: int | None = None,
        key: str | None = None,
    ) -> Answer:
        """Ask an agent, and wait for the one outcome; it is pushed. An answer is true, any other outcome is false.
        Without `timeout` the hub's setting `hub_ask_timeout` says when it ends."""
        body = {
            "to": name,
            "text": text,
            "timeout": timeout,
            "thread": thread,
            "reply_to": None if reply_to is None else _id(reply_to),
            "max_hops": max_hops,
        }
        wait, patience = hubcall.ASK_WAIT, hubcall.ASK_WAIT + hubcall.ASK_GRACE
        told = await self._said("asks", body, attachments, key, patience, wait=wait)
        look = hubcall.path("asks", told["id"], wait=wait)
        while told["outcome"] is None:
            told = await self._again(lambda: self._once("GET", look, timeout=patience))
        return _answer(told)

    async def decline(self, message: Message | str, reason: str = "declined") -> None:
        """Not answer what was asked."""
        await self._act("POST", "messages", _id(message), "decline", body={"reason": reason})

    async def cancel(self, message: Message | Receipt | str) -> None:
        """Take a message back from whoever has not got it."""
        await self._act("POST", "messages", _id(message), "cancel", body={})

    async def edit(self, message: Message | Receipt | str, text: str) -> None:
        """Say something else instead."""
        await self._act("PATCH", "messages", _id(message), body={"text": text})

    async def delete(self, message: Message | Receipt | str) -> None:
        """Take a message back from everybody's sight."""
        await self._act("DELETE", "messages", _id(message))

    async def react(self, message: Message | str, reaction: str, on: bool = True) -> None:
        """Put a sign at a message, or take it away."""
        await self._act("POST", "messages", _id(message), "reactions", body={"reaction": reaction, "on": on})

    async def discuss(self, a: str, b: str, topic: str, *, max_hops: int | None = None) -> str:
        """Open a conversation between two agents: its thread."""
        body = {"a": a, "b": b, "topic": topic, **({"max_hops": max_hops} if max_hops else {})}
        thread: str = (await self.request("POST", "discussions", body=body))["thread"]
        return thread

    # -- hearing ---------------------------------------------------------------------------------------------------

    async def receipt(self, message: Message | Receipt | str) -> Message:
        """The message, and where it stands with each of its recipients now."""
        return Message.from_json(await self._act("GET", "messages", _id(message)))

    async def delivered(self, receipt: Receipt, timeout: float = 60.0) -> tuple[Recipient, ...]:
        """The recipients once none of them waits any more, told by push. Raise `TimedOut`."""
        recipients = receipt.recipients
        events = self.follow(after=str(receipt.position))
        async with _in_time(timeout, f"{receipt.id} was not delivered to all"), contextlib.aclosing(events):
            while any(r.state in _WAITS for r in recipients):
                async for event in events:
                    if event.kind == "receipt" and event.data.get("message") == receipt.id:
                        break
                recipients = (await self.receipt(receipt)).recipients
        return recipients

    async def take(self, limit: int = 50) -> list[Message]:
        """Read the own inbox: what waited in it counts as delivered by that, and is given once."""
        told = await self.request("POST", "inbox", "take", body={"limit": limit})
        return [Message.from_json(m) for m in told["messages"]]

    async def inbox(self, name: str, *, after: int = 0, limit: int = 50, waiting: bool = False) -> Page:
        """Look into an inbox, which changes nothing."""
        return _page(await self._act("GET", "inbox", name, after=after, limit=limit, waiting=waiting))

    async def history(
        self,
        target: str | None = None,
        *,
        after: str | None = None,
        before: int | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 50,
    ) -> Page:
        """What was said in a #channel, with somebody, in a thread, or all that this token may see."""
        where = {} if target is None else {_kind(target): target}
        return _page(
            await self._act(
                "GET", "messages", **where, after=after, before=before, since=since, until=until, limit=limit
            )
        )

    async def search(
        self, words: str, *, channel: str | None = None, before: int | None = None, limit: int = 20
    ) -> Page:
        """Messages that hold all of the words, newest first."""
        return _page(await self._act("GET", "search", q=words, channel=channel, before=before, limit=limit))

    async def follow(self, *streams: str, after: str | None = None) -> AsyncGenerator[Event, None]:
        """Every event as it happens, in these streams (`#general`, `@name`), or in all that this token may see.

        From `after`, or from now. It goes on where it was when the hub is back, for as long as it is followed; only a
        token that does not count ends it, by `HubSaid`.
        """
        place, pause = after, FIRST_PAUSE
        away_since = time.monotonic()
        while True:
            try:
                async with contextlib.aclosing(self._events(streams, place)) as events:
                    async for event in events:
                        pause = FIRST_PAUSE
                        if event is None:
                            self._stood = True
                            place = place or self._joined
                        elif event.kind == "gap" or not _is_before(event.position, place):
                            place = event.position
                            yield event
            except (NoDaemon, TimedOut) as error:
                self._stood = self._stood or isinstance(error, hubcall.WentAway)
                patience = self._patience if self._stood else hubcall.patience_with(error)
                if not (self._stood and place) and time.monotonic() - away_since > patience:
                    raise
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def messages(self, *streams: str, after: str | None = None) -> AsyncGenerator[Message, None]:
        """The messages among what `follow` gives, each once."""
        seen: dict[str, None] = {}
        async with contextlib.aclosing(self.follow(*streams, after=after)) as events:
            async for event in events:
                message = event.message
                if message is not None and message.id not in seen:
                    seen[message.id] = None
                    if len(seen) > 1000:
                        del seen[next(iter(seen))]
                    yield message

    async def incoming(self) -> AsyncGenerator[Message, None]:
        """What is for this token's own name, from what waits in its inbox on: each once, taken as by `take`."""
        info = await self.info()
        async with contextlib.aclosing(self.follow(after=f"{info['epoch']}:{info['seq']}")) as events:
            while True:
                while taken := await self.take():
                    for message in taken:
                        yield message
                async for event in events:
                    if event.kind in ("message", "copy", "gap"):
                        break

    # -- who and what is there -------------------------------------------------------------------------------------

    async def info(self) -> dict[str, Any]:
        """Where the hub is, and how far its log has come."""
        return await self._act("GET", "info")

    async def members(self) -> list[Member]:
        return [Member.from_json(m) for m in (await self._act("GET", "members"))["members"]]

    async def member(self, name: str) -> Member:
        return Member.from_json(await self._act("GET", "members", name))

    async def remove(self, name: str) -> None:
        """Out of the registry; what it said stays."""
        await self._act("DELETE", "members", name)

    async def channels(self) -> dict[str, Mapping[str, str]]:
        """The channels, and what each member wants of them."""
        return {c["name"]: c["members"] for c in (await self._act("GET", "channels"))["channels"]}

    async def join(self, channel: str, hears: str = "all", *, who: str | None = None) -> None:
        """Hear a channel from now on."""
        await self._act("PUT", "channels", channel.removeprefix("#"), "members", who or "me", body={"hears": hears})

    async def leave(self, channel: str, *, who: str | None = None) -> None:
        """Hear a channel no more."""
        await self._act("DELETE", "channels", channel.removeprefix("#"), "members", who or "me")

    async def set_status(self, **status: Any) -> None:
        """Say what one is doing: `status`, `task`, …"""
        await self._act("PUT", "status", body=status)

    async def heartbeat(self, **figures: Any) -> None:
        """Tell figures of one's machine."""
        await self._act("PUT", "resources", body=figures)

    async def threads(self, state: str | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._act("GET", "threads", state=state))["threads"]
        return found

    async def transcript(self, thread: str) -> Page:
        """What was said in a conversation."""
        return _page(await self._act("GET", "threads", thread))

    async def pause(self, thread: str, reason: str = "") -> None:
        await self._thread(thread, "pause", reason)

    async def resume(self, thread: str, reason: str = "") -> None:
        await self._thread(thread, "resume", reason)

    async def terminate(self, thread: str, reason: str = "") -> None:
        await self._thread(thread, "terminate", reason)

    async def revive(self, thread: str, reason: str = "") -> None:
        await self._thread(thread, "revive", reason)

    async def _thread(self, thread: str, verb: str, reason: str) -> None:
        await self._act("POST", "threads", thread, verb, body={"reason": reason} if reason else {})

    # -- files and tokens ------------------------------------------------------------------------------------------

    async def upload(self, file: str | os.PathLike[str] | bytes, name: str | None = None) -> File:
        """Give the hub a file: by its path, or its bytes with a name."""
        if isinstance(file, bytes):
            return await self._upload(file, name or "file")
        path = Path(file)
        return await self._upload(await asyncio.to_thread(path.read_bytes), name or path.name)

    async def _upload(self, content: bytes, name: str) -> File:
        media = mimetypes.guess_type(name)[0] or "application/octet-stream"
        kind, head, tail = hubcall.around_file(name, media)  # aiohttp's own form would change the name

        async def post() -> dict[str, Any]:
            form = aiohttp.BytesPayload(head + content + tail, content_type=kind)
            return await self._once("POST", hubcall.path("files"), data=form, timeout=FILE_TIME)

        return _file(await self._again(post))

    async def download(self, file: File | str) -> bytes:
        """A file's bytes, by its sum."""
        sha256 = file if isinstance(file, str) else file.sha256

        async def get() -> bytes:
            async with self._asked("GET", hubcall.path("files", sha256), timeout=FILE_TIME) as response:
                return await response.read()

        return await self._again(get)

    async def create_token(
        self, role: str, name: str, *, workspace: str | None = None, expires_in: float | None = None
    ) -> Token:
        body = {"role": role, "name": name, "workspace": workspace, "expires_in": expires_in}
        made = await self.request("POST", "tokens", body={k: v for k, v in body.items() if v is not None})
        return Token(made["id"], made["token"])

    async def tokens(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._act("GET", "tokens"))["tokens"]
        return found

    async def revoke_token(self, id: str) -> None:
        await self._act("DELETE", "tokens", id)

    # -- requests --------------------------------------------------------------------------------------------------

    async def request(
        self, method: str, *parts: str, body: Any = None, timeout: float | None = None, **query: Any
    ) -> dict[str, Any]:
        """Any request of the hub's API, once: `request("GET", "threads", id)`. What it answers."""
        return await self._once(method, hubcall.path(*parts, **query), body=body, timeout=timeout)

    async def _act(self, method: str, *parts: str, body: Any = None, **query: Any) -> dict[str, Any]:
        """A request that may be repeated, since it changes nothing or comes to the same."""
        target = hubcall.path(*parts, **query)
        return await self._again(lambda: self._once(method, target, body=body))

    async def _said(
        self,
        what: str,
        body: Mapping[str, Any],
        attachments: Sequence[File | str | os.PathLike[str]],
        key: str | None,
        timeout: float | None = None,
        **query: Any,
    ) -> dict[str, Any]:
        """Say something under a key, as often as it takes."""
        told = {name: value for name, value in body.items() if value is not None}
        told["idempotency_key"] = key or os.urandom(16).hex()
        if attachments:
            told["attachments"] = [(a if isinstance(a, File) else await self.upload(a)).to_json() for a in attachments]
        target = hubcall.path(what, **query)
        return await self._again(lambda: self._once("POST", target, body=told, timeout=timeout))

    async def _again(self, what: Callable[[], Awaitable[T]]) -> T:
        """Do it until the hub has answered, or has been away for too long."""
        began, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                answer = await what()
                self._stood = True
                return answer
            except (NoDaemon, hubcall.HubSaid) as error:
                if isinstance(error, hubcall.HubSaid) and error.code != "closing":
                    raise
                if isinstance(error, hubcall.WentAway | hubcall.HubSaid):
                    self._stood, began = True, time.monotonic()
                patience = self._patience if self._stood else hubcall.patience_with(error)
                if time.monotonic() - began > patience:
                    raise
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, REQUEST_PAUSE)

    async def _once(
        self, method: str, target: str, *, body: Any = None, data: Any = None, timeout: float | None = None
    ) -> dict[str, Any]:
        async with self._asked(method, target, body=body, data=data, timeout=timeout) as response:
            raw = await response.read()
        try:
            told: dict[str, Any] = json.loads(raw) if raw.strip() else {}
        except ValueError as error:
            raise FleetError("The hub's answer cannot be understood.") from error
        return told

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, target: str, *, body: Any = None, data: Any = None, timeout: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The hub's answer to one request. Raise `HubSaid` for a no, `NoHub` or `WentAway` where there is none."""
        limit = aiohttp.ClientTimeout(total=timeout or self._patience)
        try:
            async with self._session.request(
                method, self._door.url + target, json=body, data=data, timeout=limit
            ) as response:
                if response.status >= 400:
                    raw = await response.read()
                    raise hubcall.refusal(
                        self._door, response.status, {k.lower(): v for k, v in response.headers.items()}, raw
                    )
                yield response
        except TimeoutError as error:
            raise TimedOut(f"The hub at {self._door} has not answered within {limit.total:g} s.") from error
        except aiohttp.ClientConnectorError as error:
            raise hubcall.nobody(self._door, error.os_error) from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise hubcall.WentAway() from error

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError("this client is closed")
        if self._opened is None:
            hubcall.check_socket(self._door)
            connector = aiohttp.UnixConnector(self._door.path) if self._door.path else aiohttp.TCPConnector()
            headers = {"Authorization": f"Bearer {self._door.token}", "User-Agent": f"fleet/{__version__} (python)"}
            self._opened = aiohttp.ClientSession(connector=connector, headers=headers)
        return self._opened

    # -- one stretch of following ----------------------------------------------------------------------------------

    async def _events(self, streams: Sequence[str], after: str | None) -> AsyncGenerator[Event | None, None]:
        """The events of one connection, until it ends; first `None`, when it stands."""
        hello: dict[str, Any] = {"type": "hello", "version": 1}
        hello |= {"after": after} if after is not None else {}
        hello |= {"streams": list(streams)} if streams else {}
        try:
            async with self._session.ws_connect(
                self._door.url + hubcall.path("ws"),
                max_msg_size=FRAME_MOST,
                heartbeat=2 * PATIENCE,
                timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
            ) as socket:
                await socket.send_json(hello)
                async for frame in socket:
                    if frame.type is not aiohttp.WSMsgType.TEXT:
                        continue
                    told = json.loads(frame.data)
                    if told["type"] == "welcome":
                        self._joined = told["position"]
                        yield None
                        if told.get("gap"):
                            yield _gap(told["gap"])
                    elif told["type"] == "event":
                        yield _event(told)
                    elif told["type"] == "gap":
                        yield _gap(told)
                    elif told["type"] == "error":
                        raise hubcall.HubSaid(REFUSALS.get(told["error"]["code"], 400), told["error"])
                if socket.close_code in ENDED:
                    code = ENDED[socket.close_code]
                    raise hubcall.HubSaid(401, {"code": code, "message": "The hub has ended this token's connection."})
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 503:
                raise hubcall.WentAway() from error
            raise hubcall.refusal(self._door, error.status, {}, b"") from error
        except aiohttp.ClientConnectorError as error:
            raise hubcall.nobody(self._door, error.os_error) from error
        except aiohttp.ClientError as error:
            raise hubcall.WentAway() from error

    _joined: str | None = None
    """Where the newest connection began."""


_WAITS = (State.ACCEPTED, State.QUEUED, State.INJECTING)


def _gap(told: Mapping[str, Any]) -> Event:
    return Event(str(told["oldest"]), time.time(), "", "gap", "", dict(told))


def _is_before(position: str, known: str | None) -> bool:
    """Whether an event at this position was there already."""
    if known is None:
        return False
    epoch, _, seq = position.rpartition(":")
    before, _, last = known.rpartition(":")
    return epoch == before and int(seq) <= int(last)


def _kind(target: str) -> str:
    if target.startswith("#"):
        return "channel"
    return "thread" if target.startswith("t-") and len(target) == 18 else "with_"


@contextlib.asynccontextmanager
async def _in_time(seconds: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise TimedOut(f"{what} within {seconds:g} s.") from error


# -- without an event loop -----------------------------------------------------------------------------------------


class SyncClient:
    """The same for a program without an event loop: a thread of its own runs one.

    Every method of `Client` is here under its name; what is followed is an ordinary iterator. Use it as
    `with fleet.SyncClient() as client`.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._client = Client(host, port, token=token, token_file=token_file, patience=patience)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections, and end the thread. Again does nothing."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, what: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(what, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C too ends what the thread is at
            future.cancel()
            raise

    def _each(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        try:
            while True:
                try:
                    yield self._run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            if not self._loop.is_closed():
                self._run(items.aclose())

    # -- saying ----------------------------------------------------------------------------------------------------

    def send(self, to: str | Sequence[str] | None, text: str = "", **more: Any) -> Receipt:
        """See `Client.send`."""
        return self._run(self._client.send(to, text, **more))

    def reply(self, to: Message | str, text: str = "", **more: Any) -> Receipt:
        """See `Client.reply`."""
        return self._run(self._client.reply(to, text, **more))

    def prompt(self, name: str, text: str, *, key: str | None = None) -> Receipt:
        """See `Client.prompt`."""
        return self._run(self._client.prompt(name, text, key=key))

    def ask(self, name: str, text: str, *, timeout: float | None = None, **more: Any) -> Answer:
        """See `Client.ask`."""
        return self._run(self._client.ask(name, text, timeout=timeout, **more))

    def decline(self, message: Message | str, reason: str = "declined") -> None:
        """See `Client.decline`."""
        self._run(self._client.decline(message, reason))

    def cancel(self, message: Message | Receipt | str) -> None:
        """See `Client.cancel`."""
        self._run(self._client.cancel(message))

    def edit(self, message: Message | Receipt | str, text: str) -> None:
        """See `Client.edit`."""
        self._run(self._client.edit(message, text))

    def delete(self, message: Message | Receipt | str) -> None:
        """See `Client.delete`."""
        self._run(self._client.delete(message))

    def react(self, message: Message | str, reaction: str, on: bool = True) -> None:
        """See `Client.react`."""
        self._run(self._client.react(message, reaction, on))

    def discuss(self, a: str, b: str, topic: str, *, max_hops: int | None = None) -> str:
        """See `Client.discuss`."""
        return self._run(self._client.discuss(a, b, topic, max_hops=max_hops))

    # -- hearing ---------------------------------------------------------------------------------------------------

    def receipt(self, message: Message | Receipt | str) -> Message:
        """See `Client.receipt`."""
        return self._run(self._client.receipt(message))

    def delivered(self, receipt: Receipt, timeout: float = 60.0) -> tuple[Recipient, ...]:
        """See `Client.delivered`."""
        return self._run(self._client.delivered(receipt, timeout))

    def take(self, limit: int = 50) -> list[Message]:
        """See `Client.take`."""
        return self._run(self._client.take(limit))

    def inbox(self, name: str, *, after: int = 0, limit: int = 50, waiting: bool = False) -> Page:
        """See `Client.inbox`."""
        return self._run(self._client.inbox(name, after=after, limit=limit, waiting=waiting))

    def history(self, target: str | None = None, **which: Any) -> Page:
        """See `Client.history`."""
        return self._run(self._client.history(target, **which))

    def search(self, words: str, **which: Any) -> Page:
        """See `Client.search`."""
        return self._run(self._client.search(words, **which))

    def follow(self, *streams: str, after: str | None = None) -> Iterator[Event]:
        """See `Client.follow`."""
        return self._each(self._client.follow(*streams, after=after))

    def messages(self, *streams: str, after: str | None = None) -> Iterator[Message]:
        """See `Client.messages`."""
        return self._each(self._client.messages(*streams, after=after))

    def incoming(self) -> Iterator[Message]:
        """See `Client.incoming`."""
        return self._each(self._client.incoming())

    # -- who and what is there -------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """See `Client.info`."""
        return self._run(self._client.info())

    def members(self) -> list[Member]:
        """See `Client.members`."""
        return self._run(self._client.members())

    def member(self, name: str) -> Member:
        """See `Client.member`."""
        return self._run(self._client.member(name))

    def remove(self, name: str) -> None:
        """See `Client.remove`."""
        self._run(self._client.remove(name))

    def channels(self) -> dict[str, Mapping[str, str]]:
        """See `Client.channels`."""
        return self._run(self._client.channels())

    def join(self, channel: str, hears: str = "all", *, who: str | None = None) -> None:
        """See `Client.join`."""
        self._run(self._client.join(channel, hears, who=who))

    def leave(self, channel: str, *, who: str | None = None) -> None:
        """See `Client.leave`."""
        self._run(self._client.leave(channel, who=who))

    def set_status(self, **status: Any) -> None:
        """See `Client.set_status`."""
        self._run(self._client.set_status(**status))

    def heartbeat(self, **figures: Any) -> None:
        """See `Client.heartbeat`."""
        self._run(self._client.heartbeat(**figures))

    def threads(self, state: str | None = None) -> list[dict[str, Any]]:
        """See `Client.threads`."""
        return self._run(self._client.threads(state))

    def transcript(self, thread: str) -> Page:
        """See `Client.transcript`."""
        return self._run(self._client.transcript(thread))

    def pause(self, thread: str, reason: str = "") -> None:
        """See `Client.pause`."""
        self._run(self._client.pause(thread, reason))

    def resume(self, thread: str, reason: str = "") -> None:
        """See `Client.resume`."""
        self._run(self._client.resume(thread, reason))

    def terminate(self, thread: str, reason: str = "") -> None:
        """See `Client.terminate`."""
        self._run(self._client.terminate(thread, reason))

    def revive(self, thread: str, reason: str = "") -> None:
        """See `Client.revive`."""
        self._run(self._client.revive(thread, reason))

    # -- files and tokens ------------------------------------------------------------------------------------------

    def upload(self, file: str | os.PathLike[str] | bytes, name: str | None = None) -> File:
        """See `Client.upload`."""
        return self._run(self._client.upload(file, name))

    def download(self, file: File | str) -> bytes:
        """See `Client.download`."""
        return self._run(self._client.download(file))

    def create_token(
        self, role: str, name: str, *, workspace: str | None = None, expires_in: float | None = None
    ) -> Token:
        """See `Client.create_token`."""
        return self._run(self._client.create_token(role, name, workspace=workspace, expires_in=expires_in))

    def tokens(self) -> list[dict[str, Any]]:
        """See `Client.tokens`."""
        return self._run(self._client.tokens())

    def revoke_token(self, id: str) -> None:
        """See `Client.revoke_token`."""
        self._run(self._client.revoke_token(id))

    def request(
        self, method: str, *parts: str, body: Any = None, timeout: float | None = None, **query: Any
    ) -> dict[str, Any]:
        """See `Client.request`."""
        return self._run(self._client.request(method, *parts, body=body, timeout=timeout, **query))


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)
