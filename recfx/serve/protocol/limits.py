"""`HttpSettings`: the limits and tokens of both protocols."""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Mapping

from recfx.errors import InputError


@dataclasses.dataclass(frozen=True)
class HttpSettings:
    """The limits and tokens of both protocols.

    Attributes:
        most_bytes: Bytes of a body at most, after decompression.
        read_seconds: Seconds in which the headers of a request, and then its body, have to arrive.
        tokens: Bearer token -> tenant; empty for no authentication.
    """

    most_bytes: int = 64 << 20
    read_seconds: float = 30.0
    tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.most_bytes, int) or self.most_bytes < 1:
            raise InputError(
                f"expected a number of bytes, got {self.most_bytes!r}",
                where="most_bytes",
                hint="pass an integer of at least 1",
            )
        if not self.read_seconds > 0:
            raise InputError(
                f"expected seconds above 0, got {self.read_seconds!r}",
                where="read_seconds",
                hint="pass a number of seconds",
            )
        if any(not token or not token.isascii() for token in self.tokens):
            raise InputError(
                "a token is empty, or not ASCII",
                where="tokens",
                hint="pass tokens such as those of secrets.token_urlsafe()",
            )

    def tenant(self, authorization: bytes | None) -> str | None:
        """The tenant of an Authorization header; None if its token is unknown. Every token is compared in constant time."""
        given = b"" if authorization is None else authorization
        scheme, _, token = given.partition(b" ")
        found = None
        for known, tenant in self.tokens.items():
            if hmac.compare_digest(token.strip(), known.encode("ascii")) and scheme.lower() == b"bearer":
                found = tenant
        return found
