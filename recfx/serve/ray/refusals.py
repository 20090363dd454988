"""Refusals of replicas as plain values: a pickled error would lose its arguments."""

from __future__ import annotations

from typing import Any

from recfx.errors import RecfxError
from recfx.serve.outcomes import Reason, Rejected

#: Reason, fault, place and next step.
Refusal = tuple[str, str, str | None, str | None]


def refusal_of(error: RecfxError) -> Refusal:
    """A refusal as plain values; errors of other kinds than `Rejected` are faults of the replica."""
    reason = error.reason if isinstance(error, Rejected) else Reason.FAILED
    return reason.value, error.what, error.where, error.hint


def require_answer(answer: Any, refusal: Refusal | None) -> Any:
    """The answer of a replica.

    Raises:
        Rejected: The replica refused.
    """
    if refusal is not None:
        reason, what, where, hint = refusal
        raise Rejected(Reason(reason), what, where=where, hint=hint)
    return answer
