r"""Secrets taken out of what is stored or shown: hook payloads, screens, transcripts, evidence.

Every rule begins at a plain substring (its anchor). Substrings are found at memory speed, so a text without any
costs next to nothing, and a pattern runs only where its anchor stands. No pattern can take more than linear time:
what repeats is possessive (`*+`) or bounded.

In doubt a value that follows a secret's name is taken out: a word too few in a log is cheaper than a key too many.
What only looks like one (`input_tokens: 812`, `password: str`, `API_KEY=$KEY`) stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

MARK = "[redacted]"

SHORTEST_LITERAL = 6
"""Shorter given secrets are left: taking every `a` or `true` out would leave no text."""


def redact(text: str, secrets: Collection[str] = ()) -> str:
    """The text without what its form or name tells to be a secret, and without the given `secrets`."""
    for secret in _spellings(secrets):
        text = text.replace(secret, MARK)
    spans = sorted(_spans(text))
    if not spans:
        return text
    kept, end = [], 0
    for start, stop in spans:
        if start >= end:
            kept += [text[end:start], MARK]
        end = max(end, stop)
    return "".join([*kept, text[end:]])


def redact_json(value: Any, secrets: Collection[str] = ()) -> Any:
    """The same for a parsed JSON value: every string in it, keys included, and whatever stands under a secret's
    name. Raise `RecursionError` for one nested deeper than Python can follow."""
    return _walk(value, secrets, None)


def _walk(value: Any, secrets: Collection[str], name: str | None) -> Any:
    """`name`: the secret's name that the value stands under, if it does."""
    if isinstance(value, str):
        return MARK if name is not None and not _PLACEHOLDER.fullmatch(value) else redact(value, secrets)
    if isinstance(value, Mapping):
        return {
            redact(key, secrets) if isinstance(key, str) else key: _walk(inner, secrets, _secret_name(key) or name)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_walk(inner, secrets, name) for inner in value]
    if isinstance(value, int | float) and not isinstance(value, bool) and name is not None and "pass" in name:
        return MARK
    return value


def _spellings(secrets: Collection[str]) -> list[str]:
    """The given secrets as they stand in text, in JSON and in a URL; the longest first, so that none hides in
    another."""
    forms = {
        form
        for secret in secrets
        if len(secret) >= SHORTEST_LITERAL
        for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret, ""))
    }
    return sorted(forms, key=len, reverse=True)


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where secrets stand."""
    lowered = text.replace("İ", "I").lower()  # the one letter whose lower case is longer
    for anchor, rules in _BY_ANCHOR.items():
        at = lowered.find(anchor)
        while at >= 0:
            step = len(anchor)
            for rule in rules:
                found = rule.pattern.match(text, at)
                if found and rule.accepts(found):
                    yield found.span("secret")
                    step = max(step, found.end() - at)
            at = lowered.find(anchor, at + step)


# -- what is accepted ----------------------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(
    r"""(?x)
    \$\w+ | \$\{[^}]*\}.* | \$\(.* | %\w+% | \{\{.* | <[^>]*> | \*+ | x{3,} | \.{3} | … | \[redacted\]
    | (?i: none | null | nil | true | false | undefined | str | string | bytes | int | bool | required | optional )
    | (?: os\.environ | os\.getenv | process\.env | secrets\. ).*
    | (?: )
    """
)
"""A value that is none: a reference, a type, a mask, nothing."""

_CALL = re.compile(r"[A-Za-z_][\w.]*\(.*")
_NUMBER = re.compile(r"[\d.,:_%-]+")
_NOT_THE_SECRET_ITSELF = re.compile(
    r"(?i)[_-]?(?:type|kind|url|uri|endpoint|count|counts|limit|budget|id|ids|file|path|dir|name|names|env|var|"
    r"length|len|size|usage|used|ttl|expiry|expires|expires_in|expires_at|policy|manager|store|ref)"
)
"""What a name goes on with where its value is not the secret: `token_type`, `password_file`."""

_ENDING = re.compile(r"[,)}\]]")
_FLAG = re.compile(r"--?[A-Za-z0-9-]{0,40}$")


def _any(_: re.Match[str]) -> bool:
    return True


def _accept_keyed(found: re.Match[str]) -> bool:
    value, name, gap = found["secret"], found["name"].lower(), found["gap"]
    if _NOT_THE_SECRET_ITSELF.fullmatch(found["rest"]) or _is_placeholder(value):
        return False
    if not gap.strip(" \t") and not _FLAG.search(found.string, max(0, found.start() - 42), found.start()):
        return False  # only a flag is parted from its value by a space alone
    if "pass" in name or "pwd" in name:
        return found["quote"] is not None or not (gap.startswith(" ") and _CALL.fullmatch(value))
    first = _ENDING.split(value, maxsplit=1)[0]
    return not (len(value) < 6 or _NUMBER.fullmatch(first) or _is_placeholder(first) or _CALL.fullmatch(value))


def _is_placeholder(value: str) -> bool:
    return bool(_PLACEHOLDER.fullmatch(value) or _PLACEHOLDER.fullmatch(value.rstrip(",)}]")))


def _accept_unless_number(found: re.Match[str]) -> bool:
    return not _NUMBER.fullmatch(found["secret"])


def _accept_bearer(found: re.Match[str]) -> bool:
    value = found["secret"]
    return len(value) >= 16 or any(character.isdigit() for character in value)


def _accept_sk(found: re.Match[str]) -> bool:
    return any(character.isdigit() for character in found["secret"])


# -- the rules -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    """A secret's form. `pattern` is matched where an anchor stands; its group `secret` is what goes."""

    anchors: tuple[str, ...]
    """In lower case."""
    pattern: re.Pattern[str]
    accepts: Callable[[re.Match[str]], bool] = _any


_NOT_INSIDE = r"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrt]))"
"""Not in the middle of a word; behind an escaped line end is no middle."""

_KEY_NAMES = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "_pass",
    "-pass",
    "_pwd",
    "-pwd",
    "secret",
    "apikey",
    "api_key",
    "api-key",
    "accesskey",
    "access_key",
    "access-key",
    "accountkey",
    "privatekey",
    "private_key",
    "private-key",
    "signing_key",
    "signingkey",
    "encryption_key",
    "encryptionkey",
    "credential",
    "token",
    "signature",
)
_NAME = "|".join(re.escape(name) for name in _KEY_NAMES)
_REST = r"(?P<rest>(?:s(?![a-z]))?+(?:[_-][a-zA-Z0-9_-]{0,40}+|\d{1,3}+|(?-i:[A-Z])[A-Za-z0-9]{0,40}+)?+)"
_RULES = (
    _Rule(  # PEM, also with line numbers, quote marks or escaped line ends between its lines
        ("-----begin",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}+(?<=PRIVATE KEY|E KEY BLOCK)-----"
            r"(?P<secret>(?:(?:[\s│|>→]|\\++(?:[rnt]|u[0-9a-f]{4})|\d{1,7}(?=[→:│|\t]|\\++[tu])|:)*+"
            r"(?:(?:Proc-Type|DEK-Info|Version|Comment):[^\r\n\\]*+|[A-Za-z0-9+/=]{16,}+"
            r"|[A-Za-z0-9+/=]++(?=(?:[\s│|>→]|\\++(?:[rnt]|u[0-9a-f]{4})|\d{1,7}(?=[→:│|\t]|\\++[tu])|:)*+-----END)))++)"
        ),
    ),
    _Rule(
        ("eyj",),
        re.compile(_NOT_INSIDE + r"(?P<secret>eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+)?+)"),
    ),
    _Rule(("sk-ant-",), re.compile(_NOT_INSIDE + r"(?P<secret>sk-ant-[A-Za-z0-9_-]{8,}+)")),
    _Rule(("sk-",), re.compile(_NOT_INSIDE + r"(?P<secret>sk-[A-Za-z0-9_-]{16,}+)"), _accept_sk),
    _Rule(
        ("sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_"),
        re.compile(_NOT_INSIDE + r"(?P<secret>(?:[sr]k_(?:live|test)|whsec)_[A-Za-z0-9]{16,}+)"),
    ),
    _Rule(
        ("akia", "asia", "abia", "acca"),
        re.compile(_NOT_INSIDE + r"(?P<secret>A(?:KI|SI|BI|CC)A[A-Z0-9]{16}+)(?![A-Za-z0-9])"),
    ),
    _Rule(
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        re.compile(_NOT_INSIDE + r"(?P<secret>gh[pousr]_[A-Za-z0-9]{16,}+|github_pat_[A-Za-z0-9_]{16,}+)"),
    ),
    _Rule(
        ("glpat-", "glptt-", "gldt-", "glrt-", "glft-", "glcbt-", "glsoat-", "glimt-", "glagent-", "gloas-"),
        re.compile(_NOT_INSIDE + r"(?P<secret>gl(?:pat|ptt|dt|rt|ft|cbt|soat|imt|agent|oas)-[A-Za-z0-9_.-]{12,}+)"),
    ),
    _Rule(
        ("xox", "xapp-"),
        re.compile(_NOT_INSIDE + r"(?P<secret>xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}+|xapp-\d-[A-Za-z0-9-]{10,}+)"),
    ),
    _Rule(
        ("hooks.slack.com/services/",),
        re.compile(r"(?i:hooks\.slack\.com/services/)(?P<secret>[A-Za-z0-9/_-]{16,}+)"),
    ),
    _Rule(("aiza",), re.compile(_NOT_INSIDE + r"(?P<secret>AIza[A-Za-z0-9_-]{30,}+)")),
    _Rule(("ya29.",), re.compile(_NOT_INSIDE + r"(?P<secret>ya29\.[A-Za-z0-9_-]{16,}+)")),
    _Rule(("npm_",), re.compile(_NOT_INSIDE + r"(?P<secret>npm_[A-Za-z0-9]{30,}+)")),
    _Rule(("pypi-",), re.compile(_NOT_INSIDE + r"(?P<secret>pypi-[A-Za-z0-9_-]{40,}+)")),
    _Rule(("hf_",), re.compile(_NOT_INSIDE + r"(?P<secret>hf_[A-Za-z0-9]{24,}+)")),
    _Rule(("dop_v1_",), re.compile(_NOT_INSIDE + r"(?P<secret>dop_v1_[a-f0-9]{32,}+)")),
    _Rule(("sg.",), re.compile(_NOT_INSIDE + r"(?P<secret>SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+)")),
    _Rule(  # headers: all of the line, or up to the closing quote
        ("authorization", "cookie"),
        re.compile(
            r"(?i:(?:authorization|cookie)\\*+[\"']?[ \t]{0,8}[:=][ \t]{0,8}\\*+[\"']?"
            r"(?:(?:bearer|basic|token|digest|negotiate)[ \t]++)?)(?P<secret>[^\r\n\"'\\]{6,8192}+)"
        ),
        lambda found: not _PLACEHOLDER.fullmatch(found["secret"].strip()),
    ),
    _Rule(
        ("bearer", "basic"),
        re.compile(r"(?<![A-Za-z])(?i:bearer|basic)[ \t]{1,8}(?P<secret>[A-Za-z0-9._~+/=-]{8,}+)"),
        _accept_bearer,
    ),
    _Rule(  # user:password@ in any URL, database ones included
        ("://",),
        re.compile(r"://[^\s/:@?#\"'<>\\]{0,256}+:(?P<secret>[^\s/@\"'<>\\]{1,512}+)(?=@)"),
        lambda found: not _PLACEHOLDER.fullmatch(found["secret"]),
    ),
    _Rule(
        ("?sig=", "&sig=", "?key=", "&key=", "?code=", "&code="),
        re.compile(r"(?i:[?&](?:sig|key|code)=)(?P<secret>[^\s&#\"'<>\\]{8,}+)"),
    ),
    _Rule(  # curl -u; a uid:gid is none
        (" -u", "--user"),
        re.compile(r"(?: -u|--user)[ =]?[\"']?[^\s:\"'/]{1,128}+:(?P<secret>[^\s\"'/]++)"),
        _accept_unless_number,
    ),
    _Rule(("sshpass",), re.compile(r"sshpass[ \t]++-p[ \t]*+(?P<secret>[^\s\"']++|\"[^\"\r\n]*+\"|'[^'\r\n]*+')")),
    _Rule(("login ",), re.compile(r"login[ \t]++\S{1,128}+\s++password[ \t]++(?P<secret>\S++)")),
    _Rule(
        _KEY_NAMES,
        re.compile(
            rf"(?P<name>(?i:{_NAME})){_REST}"
            r"(?P<gap>\\*+[\"']?\]?[ \t]{0,8}(?::=|=>|:|=)[ \t]{0,8}|[ \t]{1,8}(?=[^\s-]))"
            r"(?P<quote>(?P<escaped>\\++)?+[\"'`])?+"
            r"(?P<secret>(?(quote)(?:(?!(?(escaped)(?<!\\))(?P=quote))(?:\\.|[^\\\r\n]))*+|(?:[^\s\"'`&;,\\]|,(?=\S)|\\(?![nrt\"'\\]))++))"
        ),
        _accept_keyed,
    ),
)

_BY_ANCHOR: dict[str, list[_Rule]] = {}
for _rule in _RULES:
    for _anchor in _rule.anchors:
        _BY_ANCHOR.setdefault(_anchor, []).append(_rule)

_KEY = re.compile(rf"(?:^pass$|^pwd$|authorization$|cookie$|(?:{_NAME})(?P<rest>[\w-]*)$)", re.IGNORECASE)


def _secret_name(key: object) -> str | None:
    """The JSON key in lower case, if it names a secret."""
    if not isinstance(key, str):
        return None
    found = _KEY.search(key)
    return key.lower() if found and not _NOT_THE_SECRET_ITSELF.fullmatch(found["rest"] or "") else None
