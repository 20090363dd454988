"""`Trace`: what wants to know when a request waited and when its call ran."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class CallTimes:
    """The times of one call of a model, in seconds of the engine's clock.

    Attributes:
        taken: When a worker took the requests from the queue.
        ended: When their outcomes were known.
        runs: Begin and end of each run of the model: several for a call in parts, or one that was repeated request by request.
        requests: Requests of the call.
        rows: Their rows.
        parts: Parts that the call was divided into.
        variant: The name of the variant.
    """

    taken: float
    ended: float
    runs: Sequence[tuple[float, float]]
    requests: int
    rows: int
    parts: int
    variant: str


class Trace(Protocol):
    """The trace of one request."""

    def computed(self, arrived: float, rows: int, call: CallTimes) -> None:
        """Takes the times of a request when its outcome is known, in the thread that reports it. It must not block.

        Args:
            arrived: When the request arrived.
            rows: Its rows.
            call: The call that computed it.
        """
        ...
