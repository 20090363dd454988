"""`Request`, a request that waits for a worker, and `RequestQueue`, the bounded queue of them in the order of their deadlines."""

from __future__ import annotations

import dataclasses
from bisect import insort
from collections.abc import Callable, Iterator
from typing import Any

import torch

from recfx.serve.engine.trace import Trace
from recfx.serve.outcomes import Rejected

#: The tensors of an answer, in the order of the model's outputs, or the error.
Outcome = list[torch.Tensor] | Rejected


@dataclasses.dataclass(eq=False, slots=True)
class Request:
    """A request that waits, or that a worker runs.

    Attributes:
        leaves: The flat inputs.
        rows: Its rows.
        arrived: When it arrived, in seconds of the engine's clock.
        deadline: When its answer must be there; infinity without a deadline.
        finish: Takes the outcome, in the thread of the worker; called once.
        tenant: Who sent it.
        tried: Workers that died while they ran it.
        cancelled: Whether the client has left.
        trace: What wants to know its times; None if nothing does.
    """

    leaves: list[Any]
    rows: int
    arrived: float
    deadline: float
    finish: Callable[[Outcome], None]
    tenant: str = ""
    tried: int = 0
    cancelled: bool = False
    trace: Trace | None = None

    @property
    def order(self) -> tuple[float, float]:
        """The place in the queue: by deadline, then by arrival."""
        return self.deadline, self.arrived


class RequestQueue:
    """Requests in the order of their deadlines, and of their arrival where these are equal."""

    def __init__(self) -> None:
        self._waiting: list[Request] = []
        self.rows = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._waiting)

    def first(self) -> Iterator[Request]:
        """The first request alone, if there is one."""
        return iter(self._waiting[:1])

    def add(self, request: Request) -> None:
        """Adds a request. Most have the latest deadline of all, which costs a comparison."""
        if self._waiting and request.order < self._waiting[-1].order:
            insort(self._waiting, request, key=lambda held: held.order)
        else:
            self._waiting.append(request)
        self.rows += request.rows

    def take(self, count: int) -> list[Request]:
        """Removes the first requests and returns them."""
        taken, self._waiting[:count] = self._waiting[:count], []
        self.rows -= sum(request.rows for request in taken)
        return taken

    def discard(self, request: Request) -> bool:
        """Removes a request; False if it does not wait any more."""
        for place, held in enumerate(self._waiting):
            if held is request:
                del self._waiting[place]
                self.rows -= request.rows
                return True
        return False
