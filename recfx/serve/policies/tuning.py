"""DeepRecSys' tuning (ISCA 2020): the largest rate within a latency limit, and a hill climb over batch size and offload threshold.

Both are asked for the next trial and told its result, so that a simulator, a load generator or a running server makes the trial.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from recfx.serve.policies._checks import check_count, check_number, refuse


@dataclass(frozen=True)
class RateSearchConfig:
    """How the largest rate is searched.

    Attributes:
        sla_seconds: The limit of the tail latency.
        first_rate: Requests per second of the first trial.
        factor: Steps of the rate at the beginning; a step is halved, as a logarithm, at each change of direction.
        stable: The rate rises while the latency is below `sla_seconds / (1 + stable)`.
        precision: The search ends when a step is smaller than this share of the rate.
        most_trials: The search ends after this many trials.
    """

    sla_seconds: float
    first_rate: float = 10.0
    factor: float = 2.0
    stable: float = 0.05
    precision: float = 0.03
    most_trials: int = 40

    def __post_init__(self) -> None:
        check_number("sla_seconds", self.sla_seconds, 0.0, above=True)
        check_number("first_rate", self.first_rate, 0.0, above=True)
        check_number("factor", self.factor, 1.0, above=True)
        check_number("stable", self.stable, 0.0)
        check_number("precision", self.precision, 0.0, above=True)
        check_count("most_trials", self.most_trials)


class RateSearch:
    """Finds the largest arrival rate whose tail latency stays within a limit."""

    def __init__(self, config: RateSearchConfig) -> None:
        self.config = config
        self._log_rate, self._step = math.log(config.first_rate), math.log(config.factor)
        self._rising: bool | None = None
        self._kept: list[float] = []
        self._trials = 0
        self._ended = False

    def ask(self) -> float | None:
        """Requests per second of the next trial; None when the search has ended."""
        return None if self._ended else math.exp(self._log_rate)

    def tell(self, seconds: float) -> None:
        """Takes the tail latency of the last trial; infinity if requests were lost."""
        config = self.config
        self._trials += 1
        within = seconds <= config.sla_seconds
        if within:
            self._kept.append(self._log_rate)
        rising = seconds < config.sla_seconds / (1.0 + config.stable)
        settled = within and not rising
        if self._rising is not None and rising != self._rising:
            self._step /= 2.0
        self._rising = rising
        if settled or self._step < math.log1p(config.precision) or self._trials >= config.most_trials:
            self._ended = True
        self._log_rate += self._step if rising else -self._step

    @property
    def rate(self) -> float:
        """The result: the median of the rates that kept the limit and lie near the largest one that did; 0 if none did."""
        if not self._kept:
            return 0.0
        near = max(self._kept) - 2.0 * math.log1p(self.config.precision)
        return math.exp(statistics.median(rate for rate in self._kept if rate >= near))


class HillClimb:
    """Climbs along a list of values until the next one is worse.

    Args:
        values: Values in the order in which they are tried.
        patience: Worse values in a row that end the climb.

    Raises:
        ValueError: There is no value.
    """

    def __init__(self, values: Sequence[int], patience: int = 1) -> None:
        check_count("patience", patience)
        if not values:
            raise refuse("no value to try", "pass at least one value")
        self._left = list(values)
        self._patience, self._worse = patience, 0
        self._best: tuple[int, float] | None = None

    def ask(self) -> int | None:
        """The value of the next trial; None when the climb has ended."""
        return self._left[0] if self._left and self._worse < self._patience else None

    def tell(self, score: float) -> None:
        """Takes the score of the last trial; higher is better."""
        value = self._left.pop(0)
        if self._best is None or score > self._best[1]:
            self._best, self._worse = (value, score), 0
        else:
            self._worse += 1

    @property
    def best(self) -> tuple[int, float] | None:
        """The best value and its score; None before the first trial."""
        return self._best


@dataclass(frozen=True)
class Trial:
    """One setting of a replica.

    Attributes:
        batch_rows: Rows of a batch on a core.
        offload_rows: Requests of more rows go to the second device; None keeps all on the cores.
    """

    batch_rows: int
    offload_rows: int | None = None


class DeepRecSysClimb:
    """First the rows of a batch, then, with a second device, the threshold from which requests are offloaded.

    Args:
        batch_rows: Values for the rows of a batch.
        offload_rows: Values for the threshold; empty without a second device.
        patience: Worse values in a row that end a climb.
    """

    def __init__(
        self,
        batch_rows: Sequence[int] = (512, 256, 128, 64, 32),
        offload_rows: Sequence[int] = (),
        patience: int = 1,
    ) -> None:
        self._batch = HillClimb(batch_rows, patience)
        self._offload = HillClimb(offload_rows, patience) if offload_rows else None

    def ask(self) -> Trial | None:
        """The next trial; None when the climb has ended."""
        rows = self._batch.ask()
        if rows is not None:
            return Trial(rows)
        threshold = None if self._offload is None else self._offload.ask()
        best = self._batch.best
        return None if threshold is None or best is None else Trial(best[0], threshold)

    def tell(self, score: float) -> None:
        """Takes the score of the last trial: the largest rate within the latency limit."""
        if self._batch.ask() is not None:
            self._batch.tell(score)
        elif self._offload is not None:
            self._offload.tell(score)

    @property
    def best(self) -> tuple[Trial, float] | None:
        """The best setting and its score; None before the first trial."""
        rows = self._batch.best
        if rows is None:
            return None
        offload = None if self._offload is None else self._offload.best
        if offload is not None and offload[1] > rows[1]:
            return Trial(rows[0], offload[0]), offload[1]
        return Trial(rows[0]), rows[1]
