"""The error for models of the zoo that do not exist or cannot be built."""

from __future__ import annotations

from recfx.errors import RecfxError


class ZooError(RecfxError, ValueError):
    """An unknown model or option, or a configuration that does not fit together."""


def require(condition: bool, what: str, *, where: str, hint: str | None = None) -> None:
    """Raises a `ZooError` when a configuration breaks a rule.

    Raises:
        ZooError: `condition` is False.
    """
    if not condition:
        raise ZooError(what, where=where, hint=hint)
