"""A hub that says what a test has written down, over a real socket and in real HTTP."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

TOKEN = "flt_thisisthetokenoftheoperator"
API = "/api/v1/"


@dataclass(frozen=True)
class Asked:
    """A request, as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass
class ScriptedHub:
    """Answers each request as told, remembers what was asked. Told more than once: one answer after the other."""

    listener: socket.socket
    heard: list[Asked] = field(default_factory=list)
    scripts: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    # -- what it will say ---------------------------------------------------------------------------------------

    def will(self, method: str, path: str, data: Any, status: int = 200, **headers: str) -> bytes:
        """The JSON text that it will send."""
        body = json.dumps(data, ensure_ascii=False).encode()
        self.will_send(method, path, response(body, status, {"Content-Type": "application/json", **headers}))
        return body

    def will_refuse(self, method: str, path: str, status: int, code: str, message: str = "No.", **facts: Any) -> None:
        self.will(method, path, {"error": {"code": code, "message": message, **facts}}, status)

    def will_stream(self, path: str, *events: Mapping[str, Any], end: bool = True) -> None:
        """Server-sent events in chunks; without `end` it hangs up in their middle."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        sent = [b": here\n\n", *(sse(event) for event in events)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in sent)
        self.will_send("GET", path, head + chunks + (b"0\r\n\r\n" if end else b""))

    def will_send(self, method: str, path: str, raw: bytes) -> None:
        """Answer exactly these bytes and hang up."""
        self.scripts.setdefault((method, f"{API}{path}"), []).append(raw)

    # -- what it was asked --------------------------------------------------------------------------------------

    def asked(self, method: str, path: str) -> Asked:
        """The last such request."""
        found = [asked for asked in self.heard if (asked.method, asked.path) == (method, f"{API}{path}")]
        assert found, f"{method} {path} was not asked, only {[(a.method, a.path) for a in self.heard]}"
        return found[-1]

    @property
    def acts(self) -> list[tuple[str, str]]:
        """What was asked, in order."""
        return [(asked.method, asked.path.removeprefix(API)) for asked in self.heard]

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed
                return
            with connection, connection.makefile("rb") as stream:
                asked = read_request(stream)
                if asked is None:
                    continue
                self.heard.append(asked)
                scripts = self.scripts.get((asked.method, asked.path), [])
                nothing = json.dumps({"error": {"code": "not_found", "message": "nothing"}}).encode()
                raw = (scripts[0] if len(scripts) == 1 else scripts.pop(0)) if scripts else response(nothing, 404, {})
                try:
                    connection.sendall(raw)
                except OSError:  # whoever asked has left
                    continue


def read_request(stream: Any) -> Asked | None:
    """One request of HTTP/1.1; `None` where somebody only connected."""
    line = stream.readline().decode("latin-1")
    if not line.strip():
        return None
    method, target, _ = line.split(" ")
    headers: dict[str, str] = {}
    while (header := stream.readline().decode("latin-1").rstrip("\r\n")) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    url = urlsplit(target)
    body = stream.read(int(headers.get("content-length", "0")))
    return Asked(method, unquote(url.path), dict(parse_qsl(url.query)), headers, body)


def response(body: bytes, status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def sse(event: Mapping[str, Any]) -> bytes:
    """An event as the hub streams it."""
    text = json.dumps(event, ensure_ascii=False)
    return f"id: {event.get('pos', '')}\nevent: {event.get('kind', 'message')}\ndata: {text}\n\n".encode()


@contextmanager
def scripted_hub(path: Path, token: Path | None = None) -> Iterator[ScriptedHub]:
    """A hub on a Unix socket; the operator's token is put where it belongs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if token is not None:
        token.parent.mkdir(parents=True, exist_ok=True)
        token.write_text(TOKEN + "\n")
        token.chmod(0o600)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    hub = ScriptedHub(listener)
    try:
        yield hub
    finally:
        hub.close()
        path.unlink(missing_ok=True)


@contextmanager
def scripted_tcp_hub() -> Iterator[tuple[ScriptedHub, int]]:
    """The same on a port of loopback."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    hub = ScriptedHub(listener)
    try:
        yield hub, listener.getsockname()[1]
    finally:
        hub.close()


def message(text: str = "Hello", seq: int = 7, **fields: Any) -> dict[str, Any]:
    """A message as the hub shows it."""
    return {
        "id": f"m-{'a' * 15}{'abcdefghijklmnop'[seq % 16]}",
        "seq": seq,
        "epoch": "e1",
        "workspace": "main",
        "sender": "web",
        "to": ["#general"],
        "text": text,
        "at": 1_700_000_000.0,
        "thread": "t-aaaaaaaaaaaaaaaa",
        "intent": "inform",
        "nature": "message",
        "wake": False,
        "reply_to": None,
        "hops": 0,
        "max_hops": 8,
        "mentions": [],
        "attachments": [],
        "metadata": {},
        "reactions": {},
        "edited_at": None,
        "deleted_at": None,
        **fields,
    }


def receipt(*recipients: Mapping[str, Any], seq: int = 7, **fields: Any) -> dict[str, Any]:
    """What the sender of a message is told."""
    return {"id": message(seq=seq)["id"], "seq": seq, "epoch": "e1", "recipients": list(recipients), **fields}


def standing(name: str, state: str, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "since": 1.0, **({"reason": reason} if reason else {}), **fields}


def event(
    kind: str, data: Mapping[str, Any], seq: int, stream: str = "#general", sender: str = "web"
) -> dict[str, Any]:
    position = f"e1:{seq}"
    return {
        "pos": position,
        "seq": seq,
        "at": 1_700_000_000.0,
        "stream": stream,
        "kind": kind,
        "sender": sender,
        "data": data,
    }


def said(events: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [event["data"] for event in events]
