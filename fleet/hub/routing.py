"""Names, channels and mentions into those who hear a message. Pure.

A `Directory` is one workspace: whoever is not in it cannot be named from within it. `route` says who gets a message
into the mailbox, and whom of them it may cause a turn. What holds:

- Nobody hears itself. Nobody hears a message twice, however often it is named.
- A name that nobody has refuses the whole message; nothing is created by it, and the nearest names are told.
- A direct message is seen by its sender, its recipients and the observers, whomever its text mentions.
- Observers see all and are named nowhere.
- Who joins late starts at now (`resume`).
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from fleet.hub.message import Code, Intent, Message, Position, Refusal


class Hears(StrEnum):
    """What a member wants of a channel."""

    ALL = "all"
    MENTIONS = "mentions"
    """Only what mentions it."""
    NOTHING = "nothing"
    """It speaks there and does not listen. A mention reaches it all the same."""


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody in a workspace who can be spoken to."""

    name: str
    channels: Mapping[str, Hears] = field(default_factory=dict)
    observer: bool = False
    """It sees all, speaks to nobody and is named nowhere."""

    def joined(self, channel: str, hears: Hears = Hears.ALL) -> Member:
        return replace(self, channels={**self.channels, channel: hears})

    def left(self, channel: str) -> Member:
        return replace(self, channels={c: h for c, h in self.channels.items() if c != channel})

    @property
    def streams(self) -> frozenset[str]:
        """The streams of the log that it follows: the channels that it hears, and its own."""
        return frozenset({f"@{self.name}", *(c for c, h in self.channels.items() if h is Hears.ALL)})


@dataclass(frozen=True)
class Directory:
    """Who is in one workspace."""

    members: Mapping[str, Member] = field(default_factory=dict)

    def having(self, member: Member) -> Directory:
        """With the member, in place of whom it was before."""
        return Directory({**self.members, member.name: member})

    def without(self, name: str) -> Directory:
        return Directory({n: m for n, m in self.members.items() if n != name})

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Who can be named."""
        return tuple(sorted(name for name, member in self.members.items() if not member.observer))

    @functools.cached_property
    def channels(self) -> Mapping[str, tuple[str, ...]]:
        """The channels somebody is in, and who."""
        return self._by_channel(frozenset(Hears))

    @functools.cached_property
    def listeners(self) -> Mapping[str, tuple[str, ...]]:
        """The channels somebody hears all of, and who."""
        return self._by_channel(frozenset({Hears.ALL}))

    @functools.cached_property
    def heard(self) -> Mapping[str, Route]:
        """What is said to one channel and names nobody goes to those who listen there."""
        return {channel: Route((), (), names) for channel, names in self.listeners.items()}

    def _by_channel(self, wanted: Collection[Hears]) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for name in self.names:
            for channel, hears in self.members[name].channels.items():
                if hears in wanted:
                    found.setdefault(channel, []).append(name)
        return {channel: tuple(names) for channel, names in sorted(found.items())}

    def addressable(self, name: str) -> bool:
        member = self.members.get(name)
        return member is not None and not member.observer


# -- who hears a message ---------------------------------------------------------------------------------------


class Because(StrEnum):
    """Why somebody hears a message."""

    NAMED = "named"
    MENTIONED = "mentioned"
    CHANNEL = "channel"


class Hearer(NamedTuple):
    """One who gets a message into the mailbox."""

    name: str
    because: Because
    wakes: bool
    """Whether it may cause a turn. Otherwise it is read with the agent's next turn, or when the agent looks."""


class Route(NamedTuple):
    """Where a message goes."""

    hearers: tuple[Hearer, ...]
    mentions: tuple[str, ...]
    """Members that its text names."""
    listening: tuple[str, ...] = ()
    """Beside the hearers, those who only listen to its one channel: it asks nothing of them. Its sender may be one."""

    @property
    def wakes(self) -> tuple[str, ...]:
        return tuple(h.name for h in self.hearers if h.wakes)

    def streams(self, message: Message) -> tuple[str, ...]:
        """The streams of the log that it belongs to: its channels, and one for each who does not hear it there."""
        own = (f"@{h.name}" for h in self.hearers if h.because is not Because.CHANNEL)
        return (*message.channels, *own)


NOWHERE = Route((), ())
"""To a channel that nobody hears."""


def route(message: Message, directory: Directory, *, apart: bool = False) -> Route | Refusal:
    """Who hears it. Its `wake` is taken as allowed. With `apart`, those who only listen to the channel are told apart,
    so that it costs the same however many they are."""
    channels = message.channels
    if not channels and len(message.to) == 1 and message.to[0] != message.sender:
        [name] = message.to  # as most are
        if directory.addressable(name):
            return Route((Hearer(name, Because.NAMED, message.intent is not Intent.ACK),), ())
    if apart and len(channels) == len(message.to) == 1 and not message.wake and "@" not in message.text:
        return directory.heard.get(channels[0], NOWHERE)
    names = message.to if not channels else tuple(name for name in message.to if name not in channels)
    if unknown := [name for name in names if not directory.addressable(name)]:
        return _nobody(unknown, directory)
    mentions = mentioned(message.text, directory) if channels else ()
    listening: tuple[str, ...] = ()
    because: dict[str, Because] = {}
    if channels:
        if apart and len(message.to) == 1 and not message.wake:
            listening = directory.listeners.get(message.to[0], ())
        else:
            because = dict.fromkeys(_listeners(message, directory), Because.CHANNEL)
        because |= dict.fromkeys(mentions, Because.MENTIONED)
    called = mentions if channels else mentioned(message.text, directory)
    because |= {name: Because.MENTIONED if name in called else Because.NAMED for name in names}
    because.pop(message.sender, None)
    hearers = tuple([Hearer(name, why, _wakes(message, why)) for name, why in sorted(because.items())])
    return Route(hearers, mentions, listening)


def _listeners(message: Message, directory: Directory) -> Iterable[str]:
    for channel in message.channels:
        yield from directory.listeners.get(channel, ())


def _wakes(message: Message, because: Because) -> bool:
    if message.intent is Intent.ACK:
        return False
    if because is Because.MENTIONED or message.wake:
        return True
    return because is Because.NAMED and not message.broadcast


def _nobody(unknown: Collection[str], directory: Directory) -> Refusal:
    near = {name: nearest(name, directory.names) for name in unknown}
    guesses = sorted({guess for names in near.values() for guess in names})
    hint = f" Did you mean {' or '.join(guesses)}?" if guesses else ""
    who = ", ".join(unknown)
    return Refusal(
        Code.UNKNOWN_RECIPIENT, f"Nobody here is called {who}.{hint}", facts={"unknown": [*unknown], "nearest": guesses}
    )


def nearest(name: str, names: Collection[str]) -> tuple[str, ...]:
    """Names that may have been meant, the likeliest first."""
    return tuple(difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.6))


def reply_address(replied: Message) -> tuple[str, ...]:
    """Whom a reply goes to that names nobody: whoever wrote what it replies to, and nobody else. So a question to all
    is answered to who asked. What opens a discussion is answered to the other side."""
    return (replied.answer_to or replied.sender,)


# -- mentions --------------------------------------------------------------------------------------------------

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_MENTION = re.compile(r"(?<![\w.+/@\\-])@([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?![\w@/-]|\.\w)", re.IGNORECASE)
"""Not an e-mail address, a package (`@scope/name`), a decorator (`@app.get`) or a handle elsewhere (`@me@there`)."""


def mentioned(text: str, directory: Directory) -> tuple[str, ...]:
    """The members that a text names with an @, once each, in its order. What stands in code names nobody."""
    if "@" not in text:
        return ()
    found = (name.lower() for name in _MENTION.findall(_CODE.sub(" ", text)))
    return tuple(dict.fromkeys(name for name in found if directory.addressable(name)))


# -- who sees what ---------------------------------------------------------------------------------------------


def sees(member: Member, message: Message, hearers: Collection[str]) -> bool:
    """Whether somebody of the workspace may read a message that went to `hearers`."""
    if member.observer or member.name == message.sender or member.name in hearers:
        return True
    return any(channel in member.channels for channel in message.channels)


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a reader goes on."""

    after: Position
    gap: bool = False
    """What lies before that was asked for and cannot be had: the reader is told so."""


def resume(asked: Position | None, head: Position, oldest: int) -> Resumption:
    """Where a reader goes on that has seen all up to `asked`; one that names no position starts at now.

    `oldest` is the first event that is still there. A position of another log, or of a time that this log has not
    reached, cannot be gone on from.
    """
    if asked is None:
        return Resumption(head)
    if asked.epoch != head.epoch or asked.seq > head.seq or asked.seq < oldest - 1:
        return Resumption(Position(head.epoch, max(0, oldest - 1)), gap=True)
    return Resumption(asked)
