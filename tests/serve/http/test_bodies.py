"""Bodies of requests: whole, within their limits, and decompressed."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import pytest

from recfx.serve.http.bodies import length_of, read_body
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.protocol.limits import HttpSettings


def _read(headers: dict[bytes, bytes], *parts: Any, most: int = 100, seconds: float = 5.0) -> bytearray:
    """The body that arrives in parts; None is the end of the connection, a number a pause in seconds."""
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        part = waiting.pop(0)
        if isinstance(part, float):
            await asyncio.sleep(part)
            part = waiting.pop(0)
        if part is None:
            return {"type": "http.disconnect"}
        message: dict[str, Any] = {"type": "http.request", "body": part}
        return message | {"more_body": True} if waiting else message

    return asyncio.run(read_body(headers, receive, HttpSettings(most_bytes=most, read_seconds=seconds)))


def test_parts_are_joined_up_to_the_limit() -> None:
    assert _read({}, b"ab", b"", b"cd") == b"abcd"
    assert _read({b"content-length": b"100"}, b"x" * 60, b"y" * 40) == b"x" * 60 + b"y" * 40
    assert _read({b"content-encoding": b" Identity "}, b"ab") == b"ab"


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_compressed_bodies(name: str) -> None:
    packed = (gzip.compress if name == "gzip" else zlib.compress)(b"a" * 100)
    headers = {b"content-encoding": name.upper().encode()}
    assert _read(headers, packed) == b"a" * 100
    for wrong, message in (
        (packed[:-1], "cut short"),
        (packed + b"more", "bytes follow"),
        (b"plain", "cannot be decompressed"),
    ):
        with pytest.raises(Rejected, match=message) as caught:
            _read(headers, wrong)
        assert caught.value.reason is Reason.INVALID


def _bomb() -> bytes:
    return gzip.compress(b"a" * 101)


@pytest.mark.parametrize(
    ("headers", "parts", "reason"),
    [
        ({b"content-length": b"101"}, [b""], Reason.TOO_LARGE),
        ({}, [b"x" * 60, b"x" * 41], Reason.TOO_LARGE),
        ({b"content-encoding": b"gzip"}, [_bomb()], Reason.TOO_LARGE),
        ({b"content-encoding": b"br"}, [b"x"], Reason.INVALID),
        ({b"content-length": b"-1"}, [b"x"], Reason.INVALID),
        ({}, [b"x", None], Reason.CANCELLED),
        ({}, [0.2, b"x"], Reason.TOO_LATE),
    ],
)
def test_other_bodies_are_refused(headers: dict[bytes, bytes], parts: list[Any], reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        _read(headers, *parts, seconds=0.05)
    assert caught.value.reason is reason


@pytest.mark.parametrize(("value", "length"), [(None, None), (b"0", 0), (b"12", 12), (b"9" * 18, int("9" * 18))])
def test_lengths(value: bytes | None, length: int | None) -> None:
    assert length_of(value, "Content-Length") == length


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"x", b"9" * 19])
def test_what_is_no_length(value: bytes) -> None:
    with pytest.raises(Rejected, match="header Content-Length"):
        length_of(value, "Content-Length")
