"""Dynamic batching: how many waiting requests a free core takes at once, and how long it waits for more.

`AimdBatching` needs no profile (Clipper, NSDI 2017: the batch grows by a constant while calls meet a target, and shrinks by 10 % when one
does not). `DeadlineBatching` reads measured seconds by rows and keeps every deadline that can be kept (Clockwork, OSDI 2020).

Too much load is refused on arrival, by `Admission`. A request that waits and whose deadline can no longer be met is the error of a
prediction. Its client has waited already, so by default it is answered late (as by `timeout_action: DELAY` of Triton's queues) and not
dropped. Admission counts its rows like those of all others that wait, so late requests do not pile up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from recfx.serve.policies._checks import check_count, check_number, refuse
from recfx.serve.policies.splitting import CandidateSplit
from recfx.serve.policies.times import ServiceTimes, TimeCorrection

#: Seconds by which a call may end after a deadline that counts as kept: rounding of clocks.
_ROUNDING = 1e-6


class QueuedRequest(Protocol):
    """A waiting request, as a batching policy reads it.

    Attributes:
        rows: Its candidates.
        arrived: When it arrived, in seconds.
        deadline: When its answer must be there, in seconds on the same clock; infinity without a deadline.
    """

    @property
    def rows(self) -> int: ...
    @property
    def arrived(self) -> float: ...
    @property
    def deadline(self) -> float: ...


class BatchDecision(NamedTuple):
    """What a free core does now.

    Attributes:
        take: The number of requests, behind the dropped ones, to start as one batch; 0 to start nothing.
        drop: The number of requests at the front of the queue to answer as too late.
        wait_until: If nothing starts: when to ask again, unless a request arrives earlier. None if no request waits.
        rows: Candidates of the batch.
        full: Whether a limit of the policy ended the batch, and not the end of the queue.
        predicted: Seconds that the batch takes by the measured profile; 0 where the policy predicts none. Replace it by the time of
            the split (`decision._replace(predicted=plan.seconds)`) if the batch runs on several cores.
        deadline: The earliest deadline in the batch, those not counted that cannot be kept any more; infinity without one.
    """

    take: int
    drop: int = 0
    wait_until: float | None = None
    rows: int = 0
    full: bool = False
    predicted: float = 0.0
    deadline: float = math.inf


class Batching(Protocol):
    """The interface of batching policies.

    A queue is given in the order in which its requests are answered: by deadline, or by arrival where all requests have the same
    time budget. A policy changes nothing in the queue. It serves all cores of one replica; calls from several threads need a lock.
    """

    def next_batch(self, queue: Iterable[QueuedRequest], now: float, idle_cores: int = 1) -> BatchDecision:
        """What a core that is free at `now` does with the queue; `idle_cores` counts it and the others that are free."""
        ...

    def finished(self, decision: BatchDecision, seconds: float) -> None:
        """Tells the policy the measured time of a batch that it decided."""
        ...


@dataclass(frozen=True)
class AimdConfig:
    """Limits of AIMD batching.

    Attributes:
        target_seconds: The time that a call may take.
        add_rows: Rows that the limit grows by after a full batch within the target.
        back_off: The limit is multiplied by it after a batch beyond the target.
        least_rows: The limit stays at or above it.
        most_rows: The limit stays at or below it.
        most_wait: Seconds that a request may wait for others while a core is free.
    """

    target_seconds: float
    add_rows: int = 8
    back_off: float = 0.9
    least_rows: int = 1
    most_rows: int = 4096
    most_wait: float = 0.0

    def __post_init__(self) -> None:
        check_number("target_seconds", self.target_seconds, 0.0, above=True)
        check_count("add_rows", self.add_rows)
        check_number("back_off", self.back_off, 0.0, 1.0, above=True)
        if self.back_off == 1.0:
            raise refuse("back_off is 1, which never shrinks a batch", "pass a number between 0 and 1, such as 0.9")
        check_count("least_rows", self.least_rows)
        check_count("most_rows", self.most_rows, self.least_rows)
        check_number("most_wait", self.most_wait, 0.0)


class AimdBatching:
    """Additive increase, multiplicative decrease of the rows of a batch.

    Attributes:
        limit: Rows of a batch at present. A single request of more rows is a batch of its own.
    """

    def __init__(self, config: AimdConfig) -> None:
        self.config = config
        self.limit = float(config.least_rows)

    def next_batch(self, queue: Iterable[QueuedRequest], now: float, idle_cores: int = 1) -> BatchDecision:
        """Takes requests from the front up to the limit; waits for more up to `most_wait` after the first arrival."""
        take, total, limit = 0, 0, self.limit
        first = earliest = math.inf
        for request in queue:
            if take and total + request.rows > limit:
                return BatchDecision(take, rows=total, full=True, deadline=earliest)
            total += request.rows
            take += 1
            first = min(first, request.arrived)
            earliest = min(earliest, request.deadline)
        if not take:
            return BatchDecision(0)
        until = first + self.config.most_wait
        if total < limit and until > now:
            return BatchDecision(0, wait_until=until)
        return BatchDecision(take, rows=total, full=total >= limit, deadline=earliest)

    def finished(self, decision: BatchDecision, seconds: float) -> None:
        """Adapts the limit to the time of a batch.

        A batch of more rows than the limit says nothing about the limit: it was one large request, or it began before the limit fell.
        """
        config = self.config
        if seconds > config.target_seconds:
            if decision.rows <= self.limit:
                self.limit = max(self.limit * config.back_off, float(config.least_rows))
        elif decision.full:
            self.limit = min(self.limit + config.add_rows, float(config.most_rows))


@dataclass(frozen=True)
class DeadlineConfig:
    """Limits of deadline-aware batching.

    Attributes:
        most_rows: Rows of a batch at most; a single request of more rows is a batch of its own.
        most_wait: Seconds that a request may wait for others while a core is free.
        margin: The share that is added to a predicted time before it is compared with a deadline.
        reserve_seconds: Time between the end of a call and the client's answer.
        grace: Seconds after its deadline by which a request is still answered; one that would take longer is dropped. Infinity answers
            every request, which needs admission to bound the queue; 0 drops a request as soon as its deadline cannot be met.
    """

    most_rows: int = 4096
    most_wait: float = 0.0
    margin: float = 0.1
    reserve_seconds: float = 0.0
    grace: float = math.inf

    def __post_init__(self) -> None:
        check_count("most_rows", self.most_rows)
        check_number("most_wait", self.most_wait, 0.0)
        check_number("margin", self.margin, 0.0)
        check_number("reserve_seconds", self.reserve_seconds, 0.0)
        if self.grace != math.inf:
            check_number("grace", self.grace, 0.0)


class DeadlineBatching:
    """Batches as large as the earliest deadline among their requests allows.

    Attributes:
        times: Seconds of a call by rows; assign those of another variant when the variant changes.
        split: How a request is split over idle cores; None if requests are not split.
        correction: Measured over predicted times.
    """

    def __init__(
        self, times: ServiceTimes, config: DeadlineConfig | None = None, split: CandidateSplit | None = None
    ) -> None:
        self.times = times
        self.config = config or DeadlineConfig()
        self.split = split
        self.correction = TimeCorrection()

    def next_batch(self, queue: Iterable[QueuedRequest], now: float, idle_cores: int = 1) -> BatchDecision:
        """Drops what would be later than the grace allows, then takes the longest prefix that keeps its own earliest deadline.

        A deadline is lost if a batch of its request alone would end after it, without the margin and on as many of the idle cores as it
        can be split over. A request whose deadline is lost waits for no others, and does not limit the batch that it shares with them.
        """
        config, times = self.config, self.times
        ready = now + config.reserve_seconds
        careful = self.correction.factor * (1.0 + config.margin)
        drop, take, total, limit, hurried = 0, 0, 0, config.most_rows, False
        first = earliest = kept = math.inf
        for request in queue:
            deadline, rows, late = request.deadline, request.rows, 0.0
            if deadline < earliest:
                late = self._late(rows, deadline - ready, idle_cores)
                if late <= 0.0:
                    earliest = deadline
                    limit = times.most_rows((deadline - ready) / careful, config.most_rows)
            if late > config.grace and not take:
                drop += 1
                continue
            if take and (late > config.grace or total + rows > limit):
                return BatchDecision(take, drop, None, total, True, times.seconds(total), kept)
            total, take, kept, hurried = total + rows, take + 1, earliest, hurried or late > 0.0
            first = min(first, request.arrived)
        if not take:
            return BatchDecision(0, drop)
        if config.most_wait and total < limit and not hurried:
            latest = earliest - config.reserve_seconds - times.seconds(total) * careful
            until = min(first + config.most_wait, latest)
            if until > now:
                return BatchDecision(0, drop, wait_until=until)
        return BatchDecision(take, drop, None, total, total >= limit, times.seconds(total), kept)

    def _late(self, rows: int, left: float, idle_cores: int) -> float:
        """Seconds by which a request, computed alone, ends after its deadline; at most 0 if it keeps it."""
        factor = self.correction.factor
        late = self.times.seconds(rows) * factor - left - _ROUNDING
        if late > 0.0 and self.split is not None:
            late = self.split.quickest(rows, idle_cores) * factor - left - _ROUNDING
        return late

    def finished(self, decision: BatchDecision, seconds: float) -> None:
        """Corrects predictions by the time of a batch."""
        self.correction.observe(decision.predicted, seconds)
