"""`Batch`: the requests of one call of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

from recfx.serve.engine.requests import Request
from recfx.serve.engine.variants import Variant
from recfx.serve.policies.batching import BatchDecision


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """The requests of one call of a model.

    Attributes:
        requests: The requests, in the order of their rows.
        variant: The form of the model that runs them.
        decision: That of the batching policy.
        runs: Begin and end of each run of the model (`time.monotonic`), which are added as they end.
    """

    requests: Sequence[Request]
    variant: Variant
    decision: BatchDecision
    runs: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    @property
    def rows(self) -> int:
        """The rows of all requests."""
        return sum(request.rows for request in self.requests)

    def only(self, request: Request) -> Self:
        """A batch of one of the requests."""
        seconds = self.variant.times.seconds(request.rows)
        decision = self.decision._replace(take=1, rows=request.rows, full=False, predicted=seconds)
        return dataclasses.replace(self, requests=[request], decision=decision)
