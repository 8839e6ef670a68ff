"""What comes from outside, read into what may be stored, or into the refusal that its sender hears. Pure.

Nothing here guesses or repairs: half a character, a control character, a text that reads otherwise than it is written,
a name that leads to another folder are refused by name. Only newlines are made into one kind.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fleet.hub.message import CHANNEL, ID, KEY, NAME, NO_METADATA, Attachment, Code, Intent, Limits, Refusal


class Submission(NamedTuple):
    """What somebody asks the hub to send: read and found valid, not yet allowed. Who sends it is the token's word."""

    to: tuple[str, ...]
    """Names and `#channels`; none: whoever wrote what it replies to."""
    text: str
    intent: Intent = Intent.INFORM
    wake: bool = False
    """A broadcast is to cause a turn."""
    thread: str | None = None
    reply_to: str | None = None
    attachments: tuple[Attachment, ...] = ()
    max_hops: int | None = None
    expires_in: float | None = None
    idempotency_key: str | None = None
    metadata: Mapping[str, Any] = NO_METADATA


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and newline."""
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""What makes a text read in another order than it is written. Marks (200E, 200F) do not and may stay."""
INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u2028\u2029\u2060-\u2065\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_BESIDE = frozenset({"reply_to", "wake", "thread", "max_hops", "expires_in", "metadata"})
"""What most messages say nothing of."""
_FIELDS = frozenset(
    {*_BESIDE, "to", "text", "intent", "attachments", "idempotency_key", "timeout"}  # the last: of what asks
)
_PLAIN = frozenset({"to", "text", "idempotency_key"})
_PASSED_OVER = frozenset(
    {
        "id", "seq", "epoch", "workspace", "sender", "from", "name", "at", "nature", "answer_to", "cause", "hops",
        "expires_at", "mentions", "reactions", "edited_at", "deleted_at", "recipients",
    }
)  # fmt: skip
"""What a message has by the hub's word: a client may send back what it was shown, or claim to be somebody, and nobody
looks at it."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}")


class _Unfit(Exception):
    def __init__(self, code: Code, reason: str, **facts: Any) -> None:
        self.refusal = Refusal(code, reason, facts=facts)


def read_plain(body: object, limits: Limits) -> tuple[str, str, str | None] | None:
    """The channel, the text and the key of what can be sent, is said to one channel, names nobody and says nothing
    else: as `read_submission` reads them. `None`: look at it by that."""
    if type(body) is not dict or not _PLAIN.issuperset(body):
        return None
    to, text = body.get("to"), body.get("text")
    if type(to) is not str or to[:1] != "#" or type(text) is not str or "@" in text or not text or text.isspace():
        return None
    try:
        key = _pattern(body, "idempotency_key", KEY) if "idempotency_key" in body else None
        return _as_name(to), _text(text, "text", limits.text), key
    except _Unfit:
        return None


def read_submission(body: object, limits: Limits) -> Submission | Refusal:
    """What a client's parsed JSON asks to send, or why it cannot be sent: a field that nobody knows is refused, for it
    may be one that was meant."""
    try:
        return _submission(body, limits)
    except _Unfit as unfit:
        return unfit.refusal


def check_text(text: object, limits: Limits, what: str = "text") -> str | Refusal:
    """The text as it may be stored, with `\\n` for every kind of newline; or what is wrong with it."""
    try:
        return _text(text, what, limits.text)
    except _Unfit as unfit:
        return unfit.refusal


def check_line(line: object, what: str, most: int) -> str | Refusal:
    """A short text in one line; or what is wrong with it."""
    try:
        text = _text(line, what, most).strip()
        if found := INVISIBLE.search(text) or re.search(r"[\n\t]", text):
            raise _Unfit(Code.CONTROL_CHARACTERS, f"`{what}` holds U+{ord(found[0]):04X}.", field=what)
        return text
    except _Unfit as unfit:
        return unfit.refusal


def check_data(value: object, limits: Limits) -> Mapping[str, Any] | Refusal:
    """An object of JSON that may be stored and shown; or what is wrong with it."""
    try:
        return _metadata(value, limits)
    except _Unfit as unfit:
        return unfit.refusal


def check_file_name(name: object) -> str | Refusal:
    """A file's name that leads nowhere else; or what is wrong with it."""
    try:
        return _file_name(name)
    except _Unfit as unfit:
        return unfit.refusal


def _submission(body: object, limits: Limits) -> Submission:
    if type(body) is not dict and not isinstance(body, Mapping):  # the first is known at once
        raise _Unfit(Code.WRONG_TYPE, "A message is a JSON object.")
    if not _FIELDS.issuperset(body):
        _nothing_unknown(body)
    attachments = _attachments(body["attachments"], limits) if "attachments" in body else ()
    text = _text(body.get("text", "" if attachments else None), "text", limits.text)
    if not attachments and (not text or text.isspace()):
        raise _Unfit(Code.EMPTY, "There is nothing in the message.", field="text")
    if _BESIDE.isdisjoint(body):
        to, intent, key = _address(body.get("to"), limits), _intent(body.get("intent")), None
        if "idempotency_key" in body:
            key = _pattern(body, "idempotency_key", KEY)
        return Submission(to, text, intent, False, None, None, attachments, None, None, key)
    reply_to = _pattern(body, "reply_to", ID)
    return Submission(
        to=() if reply_to and body.get("to") is None else _address(body.get("to"), limits),
        text=text,
        intent=_intent(body.get("intent")),
        wake=_typed(body, "wake", bool, "true or false") or False,
        thread=_pattern(body, "thread", ID),
        reply_to=reply_to,
        attachments=attachments,
        max_hops=_positive(body, "max_hops", whole=True),
        expires_in=_positive(body, "expires_in", whole=False),
        idempotency_key=_pattern(body, "idempotency_key", KEY),
        metadata=_metadata(body.get("metadata"), limits),
    )


def _nothing_unknown(body: Mapping[str, Any]) -> None:
    for field in body:
        if field not in _FIELDS and field not in _PASSED_OVER:
            refusal = no_such_field(field, _FIELDS)
            raise _Unfit(refusal.code, refusal.reason, **refusal.facts)


def no_such_field(field: str, known: Iterable[str]) -> Refusal:
    """A field that nobody knows would be lost in silence."""
    near = difflib.get_close_matches(field, sorted(known), n=1)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    reason = f"There is no field {_shown(field)} here.{hint}"
    return Refusal(Code.NO_SUCH_FIELD, reason, facts={"field": field[:60].encode(errors="replace").decode()})


def _text(value: object, what: str, most: int) -> str:
    if value is None:
        raise _Unfit(Code.MISSING, f"`{what}` is missing.", field=what)
    if not isinstance(value, str):
        raise _Unfit(Code.WRONG_TYPE, f"`{what}` is a string.", field=what)
    if len(value) > most or (not value.isascii() and len(_utf8(value, what)) > most):
        raise _Unfit(
            Code.TOO_LARGE, f"`{what}` is longer than {most} bytes. Send it as a file.", field=what, limit=most
        )
    text = value.replace("\r\n", "\n").replace("\r", "\n") if "\r" in value else value
    _plain(text, what)
    return text


def _utf8(value: str, what: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise _Unfit(Code.INVALID_UNICODE, f"`{what}` holds half a character.", field=what) from error


def _plain(text: str, what: str) -> None:
    if text.isprintable():  # none of either kind is
        return
    if found := _CONTROL.search(text):
        reason = f"`{what}` holds the control character U+{ord(found[0]):04X}."
        raise _Unfit(Code.CONTROL_CHARACTERS, reason, field=what)
    if not text.isascii() and (found := _BIDI.search(text)):
        reason = f"`{what}` holds U+{ord(found[0]):04X}, which makes a text read otherwise than it is written."
        raise _Unfit(Code.BIDI_CHARACTERS, reason, field=what)


def _address(value: object, limits: Limits) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_as_name(value),)
    names = value
    if names is None or names == []:
        raise _Unfit(Code.MISSING, "`to` is missing: a name, a #channel, or a list of them.", field="to")
    if not isinstance(names, list):
        raise _Unfit(Code.WRONG_TYPE, "`to` is a name, a #channel, or a list of them.", field="to")
    if len(names) > limits.recipients:
        raise _Unfit(Code.TOO_MANY, f"`to` holds more than {limits.recipients} names.", field="to")
    return tuple(dict.fromkeys(_addressee(name) for name in names))


def _addressee(value: object) -> str:
    if not isinstance(value, str):
        raise _Unfit(Code.WRONG_TYPE, "`to` holds something that is not a string.", field="to")
    return _as_name(value)


@functools.lru_cache(maxsize=1024)
def _as_name(value: str) -> str:
    """The same few are named again and again; what is no name is not kept."""
    name = value.lower()
    if name[:1] == "@":
        name = name[1:]
    if not (CHANNEL if name[:1] == "#" else NAME).fullmatch(name):
        raise _Unfit(Code.BAD_NAME, f"{_shown(value)} is neither a name nor a #channel.", field="to")
    return name


_INTENTS = {intent.value: intent for intent in Intent}


def _intent(value: object) -> Intent:
    if value is None:
        return Intent.INFORM
    found = _INTENTS.get(value) if isinstance(value, str) else None
    if found is None:
        raise _Unfit(Code.BAD_VALUE, f"`intent` is one of {', '.join(Intent)}.", field="intent")
    return found


def _typed(body: Mapping[str, Any], name: str, kind: type, words: str) -> Any:
    value = body.get(name)
    if value is not None and type(value) is not kind:
        raise _Unfit(Code.WRONG_TYPE, f"`{name}` is {words}.", field=name)
    return value


def _pattern(body: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str | None:
    value: str | None = _typed(body, name, str, "a string")
    if value is not None and not pattern.fullmatch(value):
        raise _Unfit(Code.BAD_VALUE, f"`{name}` cannot be {_shown(value)}.", field=name)
    return value


def _positive(body: Mapping[str, Any], name: str, *, whole: bool) -> Any:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise _Unfit(Code.WRONG_TYPE, f"`{name}` is a {'whole ' if whole else ''}number.", field=name)
    if not 0 < value <= 10**9:  # NaN and infinity are not either
        raise _Unfit(Code.BAD_VALUE, f"`{name}` is more than 0 and at most {10**9}.", field=name)
    return value


def _attachments(value: object, limits: Limits) -> tuple[Attachment, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _Unfit(Code.WRONG_TYPE, "`attachments` is a list.", field="attachments")
    if len(value) > limits.attachments:
        raise _Unfit(Code.TOO_MANY, f"A message has at most {limits.attachments} attachments.", field="attachments")
    return tuple(_attachment(item, limits) for item in value)


def _attachment(value: object, limits: Limits) -> Attachment:
    if not isinstance(value, Mapping):
        raise _Unfit(Code.WRONG_TYPE, "An attachment is an object with sha256, name, size.", field="attachments")
    sha256 = _pattern(value, "sha256", _SHA256)
    media = _pattern(value, "type", _MEDIA_TYPE)
    size = value.get("size")
    if sha256 is None or type(size) is not int or size < 0:
        raise _Unfit(Code.MISSING, "An attachment has a sha256 and a size.", field="attachments")
    if size > limits.attachment:
        reason = f"An attachment is at most {limits.attachment} bytes."
        raise _Unfit(Code.TOO_LARGE, reason, field="attachments", limit=limits.attachment)
    return Attachment(sha256, _file_name(value.get("name")), size, media or "application/octet-stream")


def _file_name(value: object) -> str:
    if not isinstance(value, str):
        raise _Unfit(Code.WRONG_TYPE, "A file's name is a string.", field="name")
    if not value.strip(" .") or re.search(r"[/\\]", value) or len(_utf8(value, "name")) > 255:
        raise _Unfit(Code.BAD_NAME, f"{_shown(value)} is not the name of a file.", field="name")
    _plain(value, "name")
    if found := INVISIBLE.search(value) or re.search(r"[\n\t]", value):
        raise _Unfit(Code.CONTROL_CHARACTERS, f"A file's name holds U+{ord(found[0]):04X}.", field="name")
    return value


def _metadata(value: object, limits: Limits) -> Mapping[str, Any]:
    if value is None:
        return NO_METADATA
    if not isinstance(value, Mapping):
        raise _Unfit(Code.WRONG_TYPE, "`metadata` is an object.", field="metadata")
    size = 0
    level: list[Any] = [value]
    for _ in range(limits.depth):
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                size += len(_utf8(item, "metadata"))
                _plain(item, "metadata")
            elif not isinstance(item, bool | int | None) and not (isinstance(item, float) and math.isfinite(item)):
                raise _Unfit(Code.WRONG_TYPE, "`metadata` holds what is not JSON.", field="metadata")
            size += 1
        if size > limits.metadata:
            reason = f"`metadata` is larger than {limits.metadata} bytes."
            raise _Unfit(Code.TOO_LARGE, reason, field="metadata", limit=limits.metadata)
        level = below
    if level:
        raise _Unfit(Code.TOO_DEEP, f"`metadata` is nested deeper than {limits.depth} levels.", field="metadata")
    return value


def _shown(value: str) -> str:
    """What somebody wrote, short and without what does not show."""
    return ascii(value[:60])
