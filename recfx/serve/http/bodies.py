"""Bodies of requests: read in time, within the limit of bytes, and decompressed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.protocol.limits import HttpSettings

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, settings: HttpSettings) -> bytearray:
    """The whole body of a request, decompressed.

    Args:
        headers: Those of the request, their names in lower case.
        receive: The messages of the connection (ASGI).
        settings: The limits.

    Raises:
        Rejected: It is too large, too slow, or its encoding is unknown.
    """
    most = settings.most_bytes
    stated = length_of(headers.get(b"content-length"), "Content-Length")
    if stated is not None and stated > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.read_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Rejected(Reason.CANCELLED, "the client closed its connection")
                body += message.get("body", b"")
                if len(body) > most:
                    raise _too_large(most)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise Rejected(
            Reason.TOO_LATE,
            f"the body did not arrive in {settings.read_seconds:g} s",
            hint="send the body at once",
        ) from None
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    return body if encoding == b"identity" else _decompressed(body, encoding, most)


def length_of(value: bytes | None, name: str) -> int | None:
    """The number of bytes that a header gives; None without the header.

    Raises:
        Rejected: It is not a number of bytes.
    """
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise Rejected(
            Reason.INVALID, f"{value!r:.40} is not a length", where=f"header {name}", hint="send a number of bytes"
        )
    return int(value)


def _decompressed(body: bytearray, encoding: bytes, most: int) -> bytearray:
    windows = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}
    if encoding not in windows:
        raise Rejected(
            Reason.INVALID,
            "unknown Content-Encoding",
            where="header Content-Encoding",
            hint="send gzip, deflate, or the plain body",
        )
    stream = zlib.decompressobj(windows[encoding])
    try:
        found = bytearray(stream.decompress(body, most + 1))
    except zlib.error as error:
        raise Rejected(
            Reason.INVALID,
            f"the body cannot be decompressed: {error}",
            where="body",
            hint="send what Content-Encoding says",
        ) from error
    if len(found) > most:
        raise _too_large(most)
    if not stream.eof or stream.unused_data:
        raise Rejected(
            Reason.INVALID,
            "the compressed body is cut short, or bytes follow it",
            where="body",
            hint="send one complete stream",
        )
    return found


def _too_large(most: int) -> Rejected:
    return Rejected(
        Reason.TOO_LARGE, f"the body has more than {most} bytes", where="body", hint="send fewer rows in a request"
    )
