"""What happened to each simulated request."""

from __future__ import annotations

import enum
from array import array
from typing import Any, NamedTuple

import numpy as np


class Outcome(enum.IntEnum):
    """How a request ended."""

    ANSWERED = 0
    #: Admission control saw that the deadline cannot be met, or the queue was full.
    REJECTED = 1
    #: It waited until it would have been answered later than the grace after its deadline.
    DROPPED = 2
    #: Its tenant's limit was reached.
    LIMITED = 3
    #: Its replica died, and it was not sent again, or died again.
    FAILED = 4
    #: Not ended yet.
    OPEN = 5


class Sample(NamedTuple):
    """The fleet at one time.

    Attributes:
        time: The time.
        replicas: Replicas that take requests.
        cores: Their cores.
        waiting: Requests in the queues.
        variants: Replicas by the number of their variant.
    """

    time: float
    replicas: int
    cores: int
    waiting: int
    variants: tuple[int, ...]


class Records:
    """One entry for each request, in the order of arrival, and samples of the fleet.

    Attributes:
        sent: When it was sent.
        rows: Its candidates.
        seconds: Time until it ended.
        outcome: An `Outcome`.
        variant: The number of the variant that answered; -1 without an answer.
        core_seconds: Time of all batches times their cores.
    """

    def __init__(self) -> None:
        self.sent, self.seconds = array("d"), array("d")
        self.rows, self.outcome, self.variant = array("i"), array("b"), array("b")
        self.core_seconds = 0.0
        self.samples: list[Sample] = []

    def begin(self, now: float, rows: int) -> int:
        """Adds a request, and returns its number."""
        self.sent.append(now)
        self.rows.append(rows)
        self.seconds.append(0.0)
        self.outcome.append(Outcome.OPEN)
        self.variant.append(-1)
        return len(self.sent) - 1

    def end(self, number: int, outcome: Outcome, seconds: float, variant: int = -1) -> None:
        """Notes the end of a request."""
        self.outcome[number] = outcome
        self.seconds[number] = seconds
        self.variant[number] = variant

    def column(self, name: str) -> Any:
        """A column as a NumPy array."""
        held = getattr(self, name)
        return np.frombuffer(held, dtype=held.typecode) if len(held) else np.empty(0, dtype=held.typecode)
