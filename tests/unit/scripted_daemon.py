"""A daemon that says what a test has written down, over the real socket and in the real protocol."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class ScriptedDaemon:
    """Answers each verb as told, remembers what was asked."""

    def __init__(self, path: Path) -> None:
        self.heard: list[dict[str, Any]] = []
        self._scripts: dict[str, list[bytes]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(os.fspath(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def will(
        self,
        verb: str,
        data: Any,
        *,
        exit_code: int = 0,
        warnings: Sequence[str] = (),
        progress: Sequence[Mapping[str, Any]] = (),
        version: str | None = None,
    ) -> bytes:
        """Answer this to the verb; told more than once, one after the other. The JSON text that it will send."""
        envelope = {"schema_version": 1, "generated_at": 1.0, "data": data, "warnings": list(warnings)}
        return self._script(verb, envelope, exit_code, progress, version)

    def will_refuse(self, verb: str, code: str, message: str, *, exit_code: int = 1, hint: str | None = None) -> bytes:
        """Answer the verb with an error."""
        return self._script(verb, {"error": {"code": code, "message": message, "hint": hint}}, exit_code, (), None)

    def will_send(self, verb: str, raw: bytes) -> None:
        """Answer exactly these bytes and hang up."""
        self._scripts.setdefault(verb, []).append(raw)

    def asked(self, verb: str) -> dict[str, Any]:
        """The arguments of the last such request."""
        found = [request["args"] for request in self.heard if request["verb"] == verb]
        assert found, f"`{verb}` was not asked, only {[request['verb'] for request in self.heard]}"
        args: dict[str, Any] = found[-1]
        return args

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _script(
        self, verb: str, body: Any, exit_code: int, progress: Sequence[Mapping[str, Any]], version: str | None
    ) -> bytes:
        text = json.dumps(body, ensure_ascii=False).encode()
        lines = b"".join(json.dumps(line).encode() + b"\n" for line in progress)
        header = f"={exit_code} {len(text)}{f' {version}' if version else ''}\n".encode()
        self.will_send(verb, lines + header + text + b"\n")
        return text

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with connection, connection.makefile("rb") as stream:
                line = stream.readline()
                if not line:
                    continue
                request = json.loads(line)
                self.heard.append(request)
                scripts = self._scripts.get(request["verb"], [])
                if scripts:
                    with suppress(OSError):  # whoever asked has left
                        connection.sendall(scripts[0] if len(scripts) == 1 else scripts.pop(0))


@contextmanager
def scripted_daemon(path: Path) -> Iterator[ScriptedDaemon]:
    daemon = ScriptedDaemon(path)
    try:
        yield daemon
    finally:
        daemon.close()
