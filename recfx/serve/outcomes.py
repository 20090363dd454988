"""`Rejected`: the error of a request that was not answered, with a kind that each protocol turns into its own status."""

from __future__ import annotations

from enum import Enum

from recfx.errors import RecfxError


class Reason(Enum):
    """Why a request has no answer."""

    INVALID = "invalid"  # its tensors do not fit the model
    UNKNOWN = "unknown"  # there is no such model or version
    FORBIDDEN = "forbidden"  # the token is missing or wrong
    TOO_LARGE = "too large"  # more bytes or rows than the limits allow
    OVERLOADED = "overloaded"  # the queue is full, or the tenant's share is used up
    TOO_LATE = "too late"  # its deadline cannot be met, so that it is not admitted
    GIVEN_UP = "given up"  # it was admitted, and would have been answered later than the grace after its deadline
    CLOSING = "closing"  # the server ends, or the model is being removed
    CANCELLED = "cancelled"  # the client left
    FAILED = "failed"  # the model raised an error, or its call did not end


class Rejected(RecfxError):
    """A request without an answer.

    Args:
        reason: Why.
        what: The fault, in one sentence.
        where: The model, input or setting it concerns.
        hint: The next step for the client.
    """

    next_step = "send the request again later"

    def __init__(self, reason: Reason, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.reason = reason
