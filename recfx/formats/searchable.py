"""The numbers that a search can rank by."""

from __future__ import annotations

from recfx.errors import InputError

#: The greatest magnitude of a number. Sums of products of larger numbers could overflow float32.
LARGEST = 1e15


def unfit(row: int, what: str) -> InputError:
    """The error for a row of numbers that a search cannot rank by."""
    return InputError(
        f"row {row} of {what} holds NaN, infinities or numbers beyond {LARGEST:g}",
        where="recfx.retrieval",
        hint="a search cannot rank such rows; clean them or leave them out",
    )
