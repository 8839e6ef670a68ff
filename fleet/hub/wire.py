"""What goes over the hub's doors, typed: the one source of the checks, of OpenAPI and of AsyncAPI.

- A request's body and a client's frame are read by `read_json` and checked against the models here; what is wrong is a
  `Fault` with a code of its own, never a guess. A field of a body, a query or a frame that nobody knows is refused by
  name: it may be one that was meant. What the hub says may have more fields than its reader knows.
- Every error has the same form, `{"error": {code, message, ref?, retry_after?, …}}`, on HTTP as on the WebSocket;
  `STATUS` says which HTTP status a code has.
- What a message may be is checked once, by `submission.read_submission`; `SendBody` describes the same for readers of
  the documents, and a test holds the two together.

A position is written `EPOCH:SEQ`. Times are seconds since the epoch. A stream is named as its reader sees it, without
the workspace: `#general`, `@bob` (what is for bob), `@bob/receipts` (what becomes of what bob has sent), `!audit`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from pydantic_core import ErrorDetails, from_json

from fleet.hub.exchange import message_json
from fleet.hub.log import Event
from fleet.hub.message import CHANNEL, ID, KEY, NAME, Code, Intent, Position, Receipt, Refusal
from fleet.hub.projection import COPY, MESSAGE, fields
from fleet.hub.routing import Hears
from fleet.hub.submission import no_such_field

VERSION = 1
"""Of the frames. A newer one is another number; what the hub says gains fields and types without."""

FRAME = 1024 * 1024
"""Bytes of a frame, and of a JSON body that carries no file."""

DEPTH = 32
"""How deeply JSON may be nested."""

PING = 25.0
"""Seconds between two pings of the hub; a client that says nothing for two of them is taken for gone."""


# -- what can be wrong ---------------------------------------------------------------------------------------------

STATUS: Mapping[str, int] = {
    Code.UNKNOWN_RECIPIENT: 404,
    Code.UNKNOWN_CHANNEL: 404,
    Code.UNKNOWN_MESSAGE: 404,
    Code.NOT_ALLOWED: 403,
    Code.WAKE_NOT_ALLOWED: 403,
    Code.TOO_LARGE: 413,
    Code.HOP_LIMIT: 409,
    Code.CONVERSATION_EXHAUSTED: 409,
    Code.ONLY_THANKS: 409,
    Code.THREAD_TERMINATED: 409,
    Code.ID_TAKEN: 409,
    Code.NAME_TAKEN: 409,
    Code.ALREADY_OVER: 409,
    Code.RATE_LIMITED: 429,
    Code.PAIR_LIMITED: 429,
    Code.CONVERSATION_LIMITED: 429,
    Code.MAILBOX_FULL: 429,
    "unauthorized": 401,
    "bad_host": 403,
    "bad_origin": 403,
    "unknown_agent": 404,
    "unknown_member": 404,
    "unknown_thread": 404,
    "unknown_file": 404,
    "unknown_workspace": 404,
    "unknown_invite": 404,
    "unknown_token": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "timed_out": 408,
    "gap": 410,
    "unsupported_media_type": 415,
    "upgrade_required": 426,
    "too_many_connections": 429,
    "internal": 500,
    "cannot_yet": 501,
    "not_stored": 503,
    "closing": 503,
    "storage_error": 503,
    "storage_full": 507,
}
"""The HTTP status of each code; what is not here is 400: the request itself is wrong."""


class Fault(Exception):
    """A no to a request or a frame, as it is told to its sender."""

    def __init__(self, code: str, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message)
        self.code, self.retry_after, self.facts = str(code), retry_after, facts

    @classmethod
    def of(cls, refusal: Refusal) -> Fault:
        """A guardrail's no."""
        return cls(refusal.code, refusal.reason, retry_after=refusal.retry_after, **refusal.facts)

    @property
    def status(self) -> int:
        return STATUS.get(self.code, 400)

    def to_json(self, ref: str | None = None) -> dict[str, Any]:
        """The `error` object."""
        told = {"code": self.code, "message": str(self), "ref": ref, "retry_after": self.retry_after}
        return {name: value for name, value in told.items() if value is not None} | self.facts


# -- reading -------------------------------------------------------------------------------------------------------


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Made once: `json.loads` and `json.dumps` would make one for every call."""


def read_json(raw: bytes | bytearray) -> Any:
    """What somebody sent, as JSON values. Raise `Fault`: `invalid_unicode`, `bad_json`, `too_deep`."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Fault(Code.INVALID_UNICODE, f"Byte {error.start} is not UTF-8.") from None
    try:
        value, end = _decoder.raw_decode(text) if text[:1] == "{" else (None, -1)  # nearly always, and all of it
        if end != len(text):
            value = _decoder.decode(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise Fault("bad_json", f"That is not JSON: {str(error)[:120]}.") from None
    if text.count("[") + text.count("{") > DEPTH and _deeper(value):
        raise _too_deep()
    return value


def _too_deep() -> Fault:
    return Fault(Code.TOO_DEEP, f"JSON is nested deeper than {DEPTH} levels.", limit=DEPTH)


def _deeper(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = [item for item in below if isinstance(item, dict | list)]
        if not level:
            return False
    return True


Model = BaseModel
M = TypeVar("M", bound=Model)


def check(model: type[M], value: object) -> M:
    """The value as the model says it must be. Raise `Fault` with what is wrong with the first field that is."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _fault(error.errors(include_url=False)[0], model) from None


FORMS: Mapping[str, str] = {
    f"^{NAME.pattern}$": "a name: at most 63 lower-case letters, digits and hyphens, no hyphen first or last",
    f"^{CHANNEL.pattern}$": "a channel: a #, then lower-case letters, digits, hyphens, dots and underscores",
    f"^{ID.pattern}$": "an id: a letter, a hyphen, and 16 characters",
}
"""What the patterns mean, in words."""


def _fault(error: ErrorDetails, model: type[Model]) -> Fault:
    field = ".".join(str(part) for part in error["loc"])
    kind = error["type"]
    if kind == "extra_forbidden":
        return Fault.of(no_such_field(field, model.model_fields))
    if not field:
        return Fault(Code.WRONG_TYPE, "A JSON object is needed here.")
    if kind == "missing":
        return Fault(Code.MISSING, f"`{field}` is missing.", field=field)
    if kind in ("string_unicode", "string_sub_type"):
        return Fault(Code.INVALID_UNICODE, f"`{field}` holds half a character.", field=field)
    if kind == "too_long":
        return Fault(Code.TOO_MANY, f"`{field}`: {error['msg']}.", field=field)
    if kind == "string_pattern_mismatch" and (form := FORMS.get(error["ctx"]["pattern"])):
        return Fault(Code.BAD_VALUE, f"`{field}` is {form}.", field=field)
    code = Code.WRONG_TYPE if kind.endswith(("_type", "_parsing")) else Code.BAD_VALUE
    return Fault(code, f"`{field}`: {error['msg']}.", field=field)


def check_query(asked: Iterable[str], known: Iterable[str]) -> None:
    """Raise `Fault` for what a query asks that nobody would answer."""
    for name in asked:
        if name not in known:
            raise Fault.of(no_such_field(name, known))


def as_number(value: str | None, name: str, default: int, *, least: int = 0, most: int = 2**63 - 1) -> int:
    """A whole number from a query."""
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 20 and least <= int(value) <= most):
        raise Fault(Code.BAD_VALUE, f"`{name}` is a whole number from {least} to {most}.", field=name)
    return int(value)


def as_time(value: str | None, name: str) -> float | None:
    """A time from a query: seconds since the epoch."""
    if value is None:
        return None
    try:
        at = float(value)
    except ValueError:
        at = math.nan
    if not (0 <= at < 1e11):
        raise Fault(Code.BAD_VALUE, f"`{name}` is a time in seconds since the epoch.", field=name)
    return at


def as_position(value: str, name: str = "after") -> Position:
    """A position from a query, a header or a frame."""
    try:
        return Position.parse(value)
    except ValueError:
        raise Fault(Code.BAD_VALUE, f"`{name}` is a position, EPOCH:SEQ.", field=name) from None


# -- what the bodies of requests are -------------------------------------------------------------------------------

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$", description="A name: lower case, digits, hyphens.")]
Channel = Annotated[str, Field(pattern=f"^{CHANNEL.pattern}$", description="A channel, with its #.")]
Id = Annotated[str, Field(pattern=f"^{ID.pattern}$", description="An id: a letter, a hyphen, 16 characters.")]
REF = 200
"""Characters of a `ref`."""
Ref = Annotated[str, Field(max_length=REF, description="The client's own mark; the answer bears it.")]


class Body(BaseModel):
    """What a client sends. What is not known is refused; a type is never guessed."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, hide_input_in_errors=True, defer_build=True
    )


class AttachmentBody(Body):
    """A file that was uploaded before."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    name: str = Field(description="A label; never a path.")
    size: int = Field(ge=0)
    type: str | None = None


class SendBody(Body):
    """A message to names and #channels. Who sends it is the token's word."""

    to: str | list[str] | None = Field(
        default=None, description="A name, a #channel, or a list of them. May be left out where `reply_to` is given."
    )
    text: str = Field(default="", description="Needed unless there are attachments. At most 64 KiB of UTF-8.")
    intent: Intent = Field(default=Intent.INFORM, strict=False)
    wake: bool = Field(default=False, description="A broadcast is to cause turns, where the sender's manifest allows.")
    thread: Id | None = None
    reply_to: Id | None = None
    attachments: list[AttachmentBody] = Field(default_factory=list, max_length=20)
    max_hops: int | None = Field(default=None, gt=0, le=10**9, description="It can lower the fleet's, never raise it.")
    expires_in: float | None = Field(default=None, gt=0, le=10**9, description="Seconds.")
    idempotency_key: str | None = Field(
        default=None, pattern=f"^{KEY.pattern}$", description="A repeat by the same sender changes nothing."
    )
    metadata: dict[str, Any] = Field(default_factory=dict)


class AskBody(SendBody):
    """A question to one agent; it ends once, in one way."""

    to: str = Field(description="The agent that is asked.")
    timeout: float | None = Field(
        default=None,
        gt=0,
        le=86_400,
        description="Seconds until it ends as `timed_out`; without it the setting `hub_ask_timeout` says.",
    )


class DiscussBody(Body):
    """Two agents are to talk about something."""

    a: Name
    b: Name
    topic: str
    max_hops: int | None = Field(default=None, gt=0, le=1000)


class EditBody(Body):
    """What the sender of a message says instead."""

    text: str


class ReactionBody(Body):
    """A sign at a message."""

    reaction: str = Field(min_length=1, max_length=64)
    on: bool = Field(default=True, description="False takes it away.")


class DeclineBody(Body):
    """The question will not be answered."""

    reason: str = Field(default="declined", max_length=500)


class ReasonBody(Body):
    """Why, for the audit."""

    reason: str = Field(default="", max_length=500)


class TakeBody(Body):
    """An agent reads its own inbox: what is given out counts as delivered."""

    limit: int = Field(default=50, ge=1, le=500)


class MembershipBody(Body):
    """What a member wants of a channel."""

    hears: Hears = Field(default=Hears.ALL, strict=False)


class OpenBody(BaseModel):
    """An object whose fields are the member's own: a status, or figures of its machine."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, defer_build=True)


class FileBody(Body):
    """A file within JSON. A larger one goes as multipart/form-data."""

    name: str
    type: str | None = Field(default=None, description="Its media type, as its sender knows it.")
    base64: str


class WorkspaceBody(Body):
    """A new workspace."""

    name: Name
    description: str = ""


class InviteBody(Body):
    """An invitation: whoever redeems it gets a token."""

    role: Literal["agent", "viewer", "operator"] = "agent"
    workspace: Name | None = Field(default=None, description="The caller's own, where none is named.")
    uses: int = Field(default=1, ge=1, le=1000)
    expires_in: float | None = Field(default=7 * 86_400.0, gt=0, le=10**9, description="Seconds.")


class RedeemBody(Body):
    """An invite, against a token."""

    invite: str = Field(min_length=1, max_length=200)
    name: Name


class TokenBody(Body):
    """A new token."""

    role: Literal["agent", "viewer", "operator", "admin"]
    name: Name
    workspace: Name | None = Field(default=None, description="The caller's own, where none is named.")
    expires_in: float | None = Field(default=None, gt=0, le=10**9, description="Seconds; left out, it does not end.")


# -- what is answered ----------------------------------------------------------------------------------------------


class Answer(BaseModel):
    """What the hub says. Fields are added, never renamed."""

    model_config = ConfigDict(extra="allow", defer_build=True)


class Problem(Answer):
    """What went wrong, by a code that does not change, and in words."""

    code: str
    message: str
    ref: str | None = None
    retry_after: float | None = Field(default=None, description="Seconds after which it may be tried again.")


class ErrorAnswer(Answer):
    """The form of every error."""

    error: Problem


class RecipientAnswer(Answer):
    """Where a message stands at one of its recipients."""

    name: str
    state: str
    since: float
    reason: str | None = None
    way: str | None = None
    evidence: str | None = None


class ReceiptAnswer(Answer):
    """An accepted message: it is on the disk."""

    id: str
    seq: int
    epoch: str
    recipients: list[RecipientAnswer]
    duplicate: bool = Field(default=False, description="It was sent before, by its key; nothing is new.")


class MessageAnswer(Answer):
    """A message as it stands now."""

    id: str
    seq: int
    epoch: str
    workspace: str
    sender: str
    to: list[str]
    text: str | None = Field(description="`null`: it was deleted.")
    at: float
    thread: str
    intent: str
    nature: str
    wake: bool
    reply_to: str | None
    hops: int
    max_hops: int
    mentions: list[str]
    attachments: list[dict[str, Any]]
    metadata: dict[str, Any]
    reactions: dict[str, list[str]] = Field(default_factory=dict)
    edited_at: float | None = None
    deleted_at: float | None = None


class MessageReceiptAnswer(MessageAnswer):
    """A message, and where it stands at each of its recipients."""

    recipients: list[RecipientAnswer]


class MessagesAnswer(Answer):
    """A page of messages, oldest first."""

    messages: list[MessageAnswer]
    position: str | None = Field(default=None, description="Go on from here.")
    more: bool = False


class AskAnswer(Answer):
    """How a question ended. `outcome` is `null` while it has not."""

    id: str
    thread: str
    outcome: Literal["answered", "declined", "failed", "timed_out", "cancelled", "expired"] | None
    answer: MessageAnswer | None = None
    reason: str | None = None


class FileAnswer(Answer):
    """A stored file."""

    sha256: str
    name: str
    size: int
    type: str


class TokenAnswer(Answer):
    """A new token; it is shown this once."""

    id: str
    token: str


class InfoAnswer(Answer):
    """Where the hub is, and how far it has come."""

    url: str | None
    socket: str | None
    orochi_ws: str | None
    orochi_http: str | None
    epoch: str
    seq: int
    version: str


class EventAnswer(Answer):
    """An event of the log. A message event's `data` is the message, as it was accepted."""

    pos: str
    seq: int
    at: float
    stream: str
    kind: str
    sender: str
    data: dict[str, Any]


class EventsAnswer(Answer):
    """A page of events, oldest first."""

    events: list[EventAnswer]
    position: str = Field(description="Go on from here.")
    more: bool


# -- frames of a client --------------------------------------------------------------------------------------------


class Hello(Body):
    """The first frame of a client. Nothing but its answer comes before it."""

    type: Literal["hello"]
    version: int = VERSION
    token: str | None = Field(default=None, description="Where the handshake had no Authorization header.")
    after: str | None = Field(
        default=None,
        description="Go on from this position, or, with `cursor`, from what this reader has acknowledged. Left out: "
        "from now on.",
    )
    reader: str = Field(default="", max_length=64, description="Which of the client's readers: a cursor each.")
    streams: list[str] | None = Field(
        default=None, max_length=1000, description="Only these. Left out: all that the token may see, as that changes."
    )
    ref: Ref | None = None


class Subscribe(Body):
    """Hear these streams as well, from now on."""

    type: Literal["subscribe"]
    streams: list[str] = Field(min_length=1, max_length=1000)
    ref: Ref | None = None


class Unsubscribe(Body):
    """Do not hear these streams any more."""

    type: Literal["unsubscribe"]
    streams: list[str] = Field(min_length=1, max_length=1000)
    ref: Ref | None = None


class Send(Body):
    """Send a message. Many may be on their way; they are stored in their order."""

    type: Literal["message"]
    message: dict[str, Any] = Field(description="A `SendBody`.")
    ref: Ref | None = None


SEND = frozenset(Send.model_fields)
"""What a `Send` may say."""


class Acknowledge(Body):
    """The client has all up to this position: the reader's cursor. It never goes back, and nothing answers it."""

    type: Literal["ack"]
    pos: str


class Ping(Body):
    """Are you there?"""

    type: Literal["ping"]
    ref: Ref | None = None


ClientFrame = Hello | Subscribe | Unsubscribe | Send | Acknowledge | Ping
CLIENT_FRAMES: Mapping[str, type[Body]] = {
    "hello": Hello,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "message": Send,
    "ack": Acknowledge,
    "ping": Ping,
}


def read_frame(raw: bytes) -> ClientFrame:
    """A client's frame. Raise `Fault`, with the frame's `ref` in its facts where it has one."""
    return as_frame(read_json(raw))


def plain_message(raw: bytes) -> tuple[dict[str, Any], str | None] | None:
    """The message and the `ref` of a `Send` that is as it should be, seen at a glance: most frames are. `None`: look
    at it by `read_frame`, which says what it is, or what is wrong with it."""
    try:
        value = from_json(raw, allow_inf_nan=False)  # it refuses half a character as well
    except ValueError:
        return None
    if type(value) is not dict or value.get("type") != "message":
        return None
    if not value.keys() <= SEND:
        return None
    message, ref = value.get("message"), value.get("ref")
    if type(message) is not dict or not (ref is None or (type(ref) is str and len(ref) <= REF)):
        return None
    if raw.count(b"{") + raw.count(b"[") > DEPTH and _deeper(value):
        return None
    return message, ref


def as_frame(value: Any) -> ClientFrame:
    """The same of what has been read."""
    if not isinstance(value, dict):
        raise Fault(Code.WRONG_TYPE, "A frame is a JSON object.")
    kind = value.get("type")
    ref = {"ref": value["ref"]} if isinstance(value.get("ref"), str) else {}
    model = CLIENT_FRAMES.get(kind) if isinstance(kind, str) else None
    try:
        if kind is None:
            raise Fault(Code.MISSING, "`type` is missing.", field="type")
        if model is None:
            raise Fault("unknown_type", f"There is no frame {ascii(kind)[:60]}.", known=list(CLIENT_FRAMES))
        return cast(ClientFrame, check(model, value))
    except Fault as fault:
        fault.facts |= ref
        raise


# -- frames of the hub ---------------------------------------------------------------------------------------------


class LimitsAnswer(Answer):
    """What the hub takes, in bytes where nothing else is said."""

    frame: int
    text: int
    attachment: int
    behind: int = Field(description="So far behind a reader may be before it is served from the log instead.")
    stalled: float = Field(description="Seconds without progress after which a reader is cut off.")
    max_hops: int
    sender_rate: float
    sender_burst: int


class GapAnswer(Answer):
    """What was asked for cannot be gone on from; the hub goes on from the oldest that there is."""

    reason: Literal["epoch", "ahead", "trimmed"]
    asked: str
    oldest: str
    head: str


class Welcome(Answer):
    """The answer to `hello`."""

    type: Literal["welcome"] = "welcome"
    version: int = VERSION
    name: str
    role: str
    workspace: str
    position: str = Field(description="Events after this one come next.")
    head: str = Field(description="The log's newest event.")
    streams: list[str] | None = Field(description="What is heard; `null`: all of the workspace.")
    limits: LimitsAnswer
    ping: float = PING
    gap: GapAnswer | None = None
    ref: str | None = None


class Subscribed(Answer):
    """What is heard from now on."""

    type: Literal["subscribed"] = "subscribed"
    streams: list[str] | None
    ref: str | None = None


class Accepted(Answer):
    """The message of that `ref` is on the disk."""

    type: Literal["ack"] = "ack"
    id: str
    seq: int
    epoch: str
    duplicate: bool = Field(description="It was sent before, by its key; nothing is new.")
    ref: str | None = None


class EventFrame(EventAnswer):
    """An event, as it happened."""

    type: Literal["event"] = "event"


class ErrorFrame(Answer):
    """A frame that was refused; `ref` in it is that of the frame."""

    type: Literal["error"] = "error"
    error: Problem


class Pong(Answer):
    """Yes."""

    type: Literal["pong"] = "pong"
    ref: str | None = None


class GapFrame(GapAnswer):
    """A reader that was far behind: retention has taken what comes next. The hub goes on from `oldest`."""

    type: Literal["gap"] = "gap"


HUB_FRAMES: tuple[type[Answer], ...] = (Welcome, Subscribed, Accepted, EventFrame, GapFrame, ErrorFrame, Pong)


def accepted(receipt: Receipt, ref: str | None) -> str:
    """An `Accepted`, written."""
    return (
        f'{{"type":"ack","ref":{"null" if ref is None else encode(ref)},"id":"{receipt.id}",'
        f'"seq":{receipt.position.seq},"epoch":"{receipt.position.epoch}",'
        f'"duplicate":{"true" if receipt.duplicate else "false"}}}'
    )


CLOSES: Mapping[int, str] = {
    1000: "done",
    1001: "the hub is leaving; come back a little later",
    1002: "what came is not the WebSocket protocol",
    1007: "what came as text is not UTF-8",
    1009: "a frame was too large",
    1011: "something went wrong in the hub",
    4001: "no token, or one that is not valid any more",
    4002: "too many frames in a row that the hub could not take, or no `hello` in time",
    4003: "not allowed",
    4008: "the reader was behind and made no progress",
}
"""With what the hub closes a WebSocket."""


# -- events as they are shown --------------------------------------------------------------------------------------


def local(stream: str) -> str:
    """A stream, or a sender, as it is named within its workspace."""
    return stream.partition("/")[2] or stream


def workspace_of(stream: str) -> str:
    """The workspace that a stream belongs to; what belongs to none is the hub's own."""
    before, slash, _ = stream.partition("/")
    return before if slash else ""


def event_json(event: Event, epoch: str) -> str:
    """The event as every reader gets it, whatever the door."""
    data = _data(event, epoch)
    told = (
        f'"pos":"{epoch}:{event.seq}","seq":{event.seq},"at":{event.at!r},"stream":{encode(local(event.stream))},'
        f'"kind":{encode(event.kind)},"sender":{encode(local(event.sender))},"data":{data}'
    )
    return "{" + told + "}"


def event_frame(event: Event, epoch: str) -> str:
    """The same as a frame of the WebSocket."""
    return '{"type":"event",' + event_json(event, epoch)[1:]


def _data(event: Event, epoch: str) -> str:
    if event.kind in (MESSAGE, COPY):
        return encode(message_json(fields(event), event.seq, epoch))
    if b'"sha256"' in event.body:  # what a token is known by stays here
        return encode({name: value for name, value in fields(event).items() if name != "sha256"})
    return event.body.decode()


def seen_twice(event: Event, streams: frozenset[str] | None) -> bool:
    """Whether a reader of these streams (`None`: of all) has the message of this copy anyway."""
    if event.kind != COPY:
        return False
    if streams is None:
        return True
    workspace = workspace_of(event.stream)
    return any(f"{workspace}/{name}" in streams for name in fields(event).get("to") or () if name.startswith("#"))


# -- the documents -------------------------------------------------------------------------------------------------

_AT = "#/components/schemas/{model}"


def schemas(models: Iterable[type[Model]]) -> dict[str, Any]:
    """The JSON Schemas of these models and of all they are made of, by name."""
    modes: list[tuple[type[Model], JsonSchemaMode]] = [
        (model, "serialization" if issubclass(model, Answer) else "validation") for model in dict.fromkeys(models)
    ]
    _, found = models_json_schema(modes, ref_template=_AT)
    defined: dict[str, Any] = found["$defs"]
    return dict(sorted(defined.items()))


def asyncapi() -> dict[str, Any]:
    """AsyncAPI 3.0 of the WebSocket, drawn from the frames."""
    frames = [*CLIENT_FRAMES.values(), *HUB_FRAMES]
    described = schemas([*frames, SendBody])
    described["Send"]["properties"]["message"] = {"$ref": _AT.format(model="SendBody")}
    channel = "#/channels/ws"
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "fleet hub",
            "version": str(VERSION),
            "description": "Text frames of JSON. The client says `hello` and is welcomed with its position; from then "
            "on it is told each event after that, in order, once. A connection that ends is taken up again with "
            "`after`. Frames of an unknown type from the hub are to be ignored: there may be more later.",
        },
        "channels": {
            "ws": {
                "address": "/api/v1/ws",
                "messages": {model.__name__: {"$ref": f"#/components/messages/{model.__name__}"} for model in frames},
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": {
            "fromClient": {
                "action": "receive",
                "channel": {"$ref": channel},
                "messages": [{"$ref": f"{channel}/messages/{model.__name__}"} for model in CLIENT_FRAMES.values()],
            },
            "fromHub": {
                "action": "send",
                "channel": {"$ref": channel},
                "messages": [{"$ref": f"{channel}/messages/{model.__name__}"} for model in HUB_FRAMES],
            },
        },
        "components": {
            "messages": {
                model.__name__: {
                    "name": model.model_fields["type"].default
                    if issubclass(model, Answer)
                    else next(name for name, found in CLIENT_FRAMES.items() if found is model),
                    "summary": " ".join((model.__doc__ or "").split()),
                    "payload": {"$ref": _AT.format(model=model.__name__)},
                }
                for model in frames
            },
            "schemas": described,
        },
        "x-closes": {str(code): words for code, words in CLOSES.items()},
    }
