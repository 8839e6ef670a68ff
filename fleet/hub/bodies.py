"""HTTP bodies, the same at every HTTP door: read within their size and time, answered as JSON, files sent in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import IO, Any

from aiohttp import BodyPartReader, web

from fleet.hub import wire
from fleet.hub.auth import Caller
from fleet.hub.exchange import Exchange
from fleet.hub.message import Attachment, Code
from fleet.hub.wire import Fault

BODY_TIME = 30.0
"""Seconds for a JSON body, and between two pieces of a file."""

UPLOAD_TIME = 600.0
"""Seconds for a file."""

CHUNK = 64 * 1024

SAFE = {
    "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
    "Server": "fleet",
}  # fmt: skip
"""On every answer."""


async def read_body(request: web.Request, most: int) -> bytes:
    """The whole body. Raise `Fault` where it is too large, too slow, or packed."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Fault("unsupported_media_type", "A body comes as it is, not packed.")
    too_large = Fault(Code.TOO_LARGE, f"A body is at most {most} bytes here.", limit=most)
    if (request.content_length or 0) > most:
        raise too_large
    read = bytearray()
    try:
        async with asyncio.timeout(BODY_TIME):
            async for piece in request.content.iter_any():
                read += piece
                if len(read) > most:
                    raise too_large
    except TimeoutError:
        raise Fault("timed_out", f"The body did not come within {BODY_TIME:g} s.") from None
    return bytes(read)


async def uploaded(exchange: Exchange, caller: Caller, request: web.Request) -> Attachment:
    """Keep the first file of a multipart body. Raise `Fault` where there is none."""
    try:
        async with asyncio.timeout(UPLOAD_TIME):
            async for part in await request.multipart():
                if isinstance(part, BodyPartReader) and part.filename is not None:
                    declared = part.headers.get("Content-Type")
                    return await exchange.upload(caller, part.filename, declared, _pieces(part))
                if part is not None:
                    await part.release()
    except (ValueError, RuntimeError, AssertionError, web.HTTPException) as error:
        raise Fault("bad_multipart", f"That is not multipart/form-data: {str(error)[:120]}.") from None
    raise Fault(Code.MISSING, "There is no file in it.", field="file")


async def _pieces(part: BodyPartReader) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(BODY_TIME):
            piece = await part.read_chunk(CHUNK)
        if not piece:
            return
        yield bytes(piece)


async def send_file(request: web.Request, headers: Mapping[str, str], file: IO[bytes]) -> web.StreamResponse:
    """Answer with what is in the file. Who does not take a piece in time is not waited for."""
    response = web.StreamResponse(headers={**SAFE, **headers})
    await response.prepare(request)
    while piece := await asyncio.to_thread(file.read, CHUNK):
        async with asyncio.timeout(BODY_TIME):
            await response.write(piece)
    return response


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer in JSON."""
    return web.Response(
        body=wire.encode(value).encode(errors="replace"), status=status, content_type="application/json",
        headers={**SAFE, **(headers or {})},
    )  # fmt: skip
