"""Admission control: a request whose deadline cannot be met is rejected when it arrives, in microseconds (Clockwork, OSDI 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from recfx.serve.policies._checks import check_count, check_number
from recfx.serve.policies.splitting import CandidateSplit
from recfx.serve.policies.times import ServiceTimes, TimeCorrection


class Verdict(NamedTuple):
    """The decision about one request.

    Attributes:
        admitted: Whether it joins the queue.
        reason: "" if admitted; "queue" if the queue is full, "deadline" if the answer would be too late.
        seconds: Predicted time until the answer.
    """

    admitted: bool
    reason: str
    seconds: float


@dataclass(frozen=True)
class AdmissionConfig:
    """Limits of admission.

    Attributes:
        most_waiting: Requests in the queue at most.
        most_rows: Rows of a batch at most.
        margin: The share that is added to a predicted time before it is compared with a deadline.
        reserve_seconds: Time between the end of a call and the client's answer.
    """

    most_waiting: int = 1024
    most_rows: int = 4096
    margin: float = 0.1
    reserve_seconds: float = 0.0

    def __post_init__(self) -> None:
        check_count("most_waiting", self.most_waiting)
        check_count("most_rows", self.most_rows)
        check_number("margin", self.margin, 0.0)
        check_number("reserve_seconds", self.reserve_seconds, 0.0)


class Admission:
    """Admits the requests of one replica.

    Attributes:
        times: Seconds of a call by rows; assign those of another variant when the variant changes.
        cores: Calls at a time.
        split: How a request is split over idle cores; None if requests are not split.
        correction: Measured over predicted times.
    """

    def __init__(
        self,
        times: ServiceTimes,
        cores: int = 1,
        config: AdmissionConfig | None = None,
        split: CandidateSplit | None = None,
    ) -> None:
        check_count("cores", cores)
        self.times = times
        self.cores = cores
        self.config = config or AdmissionConfig()
        self.split = split
        self.correction = TimeCorrection()

    def decide(
        self,
        rows: int,
        deadline: float,
        waiting: int,
        waiting_rows: int,
        first_free: float,
        now: float,
        idle_cores: int = 1,
    ) -> Verdict:
        """Whether a request joins the queue.

        Args:
            rows: Its candidates.
            deadline: When its answer must be there; infinity without a deadline.
            waiting: Requests in the queue.
            waiting_rows: Their rows.
            first_free: When the first core is free; a time in the past if one is.
            now: The present time.
            idle_cores: Cores that are free now; a request that nothing waits before may be split over them.
        """
        if waiting >= self.config.most_waiting:
            return Verdict(False, "queue", 0.0)
        seconds = self.predicted(rows, deadline - now, waiting_rows, first_free - now)
        if self._too_late(seconds, deadline, now) and self.split is not None and not waiting and idle_cores > 1:
            seconds = self.split.quickest(rows, idle_cores) * self.correction.factor
        return (
            Verdict(False, "deadline", seconds)
            if self._too_late(seconds, deadline, now)
            else Verdict(True, "", seconds)
        )

    def _too_late(self, seconds: float, deadline: float, now: float) -> bool:
        return now + seconds * (1.0 + self.config.margin) + self.config.reserve_seconds > deadline

    def predicted(self, rows: int, budget: float, waiting_rows: int, until_free: float) -> float:
        """Seconds until a request is computed.

        The cores share the waiting batches, and the batch of the request comes last. A batch holds as many rows as are computed in half
        of the request's time budget, since those that wait for it have the other half.
        """
        times, factor = self.times, self.correction.factor
        size = max(times.most_rows(budget / (2.0 * factor), self.config.most_rows), rows)
        batches, rest = divmod(waiting_rows, size)
        if rest + rows > size:
            batches, rest = batches + 1, 0
        waiting = batches * times.seconds(size) / self.cores
        return max(until_free, 0.0) + (waiting + times.seconds(rest + rows)) * factor
