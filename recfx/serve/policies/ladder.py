"""The variant ladder: a model's variants from the best to the quickest, and the one that the present load needs.

One ladder serves all replicas behind one balancer. With a ladder each, a replica that returns to a better variant gets slower, routing by
latency sends its requests to the others, and these then never return.

The arithmetic is INFaaS' (ATC 2021): the need is rows per second, a variant offers the rows per second that it was measured with times the
replicas, and a change pays if the need leaves or fits the offer. Two shares of the offer, and a time for which the lower one must hold,
are the hysteresis: the ladder goes down at once and up only when the better variant has sufficed for a while.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recfx.serve.policies._checks import check_number, refuse


@dataclass(frozen=True)
class Rung:
    """One variant of the model.

    Attributes:
        name: Its name, such as "int8".
        rows_per_second: Rows per second of one replica at its best batch within the deadline.
        quality: The metric of its certificate, such as the AUC; higher is better.
    """

    name: str
    rows_per_second: float
    quality: float

    def __post_init__(self) -> None:
        check_number(f"rows_per_second of {self.name!r}", self.rows_per_second, 0.0, above=True)
        check_number(f"quality of {self.name!r}", self.quality, -math.inf)


@dataclass(frozen=True)
class LadderConfig:
    """When to change the variant.

    Attributes:
        most_use: The share of a variant's capacity that the need may take; above it, the ladder goes down.
        return_use: The share of a better variant's capacity at or below which the need must stay for it to return.
        hold_seconds: The time for which it must stay there. It begins anew when the need exceeds `most_use` of the better variant.
        smooth_seconds: The time constant of the moving average of the need that must stay there: a few requests that arrive together
            do not keep a better variant away, as long as it could take them. Going down is decided by the present need.
        drain_seconds: The time in which the waiting rows are to be computed; they count towards the need.
    """

    most_use: float = 0.9
    return_use: float = 0.7
    hold_seconds: float = 3.0
    smooth_seconds: float = 1.0
    drain_seconds: float = 1.0

    def __post_init__(self) -> None:
        check_number("most_use", self.most_use, 0.0, above=True)
        check_number("return_use", self.return_use, 0.0, above=True)
        check_number("hold_seconds", self.hold_seconds, 0.0)
        check_number("smooth_seconds", self.smooth_seconds, 0.0)
        check_number("drain_seconds", self.drain_seconds, 0.0, above=True)
        if self.return_use >= self.most_use:
            raise refuse(
                f"return_use {self.return_use:g} is not below most_use {self.most_use:g}: the variant would change back and forth",
                "pass a smaller return_use",
            )


class VariantLadder:
    """Chooses a variant.

    Args:
        rungs: The variants, the best first; each is quicker and not better than the one before.
        config: When to change.

    Attributes:
        index: The present variant, as its place in `rungs`.

    Raises:
        ValueError: The list is empty, a name occurs twice, or a variant is not quicker, or better, than the one before.
    """

    def __init__(self, rungs: Sequence[Rung], config: LadderConfig | None = None) -> None:
        self.rungs = tuple(rungs)
        self.config = config or LadderConfig()
        self.index = 0
        self._smooth: tuple[float, float] | None = None  # the moving average, and when it was computed
        self._fits_since: list[float | None] = [None] * len(self.rungs)
        if not self.rungs:
            raise refuse("a ladder without a variant", "pass at least one variant")
        if len({rung.name for rung in self.rungs}) < len(self.rungs):
            raise refuse("two variants have one name", "give each variant a name of its own")
        for better, quicker in zip(self.rungs[:-1], self.rungs[1:], strict=True):
            if quicker.rows_per_second <= better.rows_per_second or quicker.quality > better.quality:
                raise refuse(
                    f"the variant {quicker.name!r} does not stand below {better.name!r}: it is not quicker, or it is better",
                    "sort the variants from the best to the quickest, and leave out those that are worse and not quicker",
                )

    @property
    def rung(self) -> Rung:
        """The present variant."""
        return self.rungs[self.index]

    def observe(
        self, rows_per_second: float, waiting_rows: int, now: float, replicas: float = 1.0, slowdown: float = 1.0
    ) -> int:
        """The variant for the present load, as its place in `rungs`.

        Args:
            rows_per_second: Rows that arrive in a second, those of rejected requests included.
            waiting_rows: Rows in the queues.
            now: The present time in seconds.
            replicas: Replicas that share the load; one that takes twice the predicted time counts as half a replica. Without a replica
                the variant stays.
            slowdown: Measured over predicted times on these replicas (`TimeCorrection.factor`).
        """
        if replicas <= 0.0:
            return self.index
        need = (rows_per_second + waiting_rows / self.config.drain_seconds) * slowdown / replicas
        self._remember(need, now)
        if need > self.config.most_use * self.rung.rows_per_second:
            self.index = self._sufficient(need)
        else:
            self.index = next((index for index in range(self.index) if self._may_return(index, need, now)), self.index)
        return self.index

    def _may_return(self, index: int, need: float, now: float) -> bool:
        """Whether a better variant has sufficed for long enough, and suffices now."""
        since = self._fits_since[index]
        held = since is not None and now - since >= self.config.hold_seconds
        return held and need <= self.config.most_use * self.rungs[index].rows_per_second

    def _sufficient(self, need: float) -> int:
        """The best variant below the present one that the need fits, or the quickest one."""
        below = range(self.index + 1, len(self.rungs))
        fitting = (i for i in below if need <= self.config.most_use * self.rungs[i].rows_per_second)
        return next(fitting, len(self.rungs) - 1)

    def _remember(self, need: float, now: float) -> None:
        """Notes for each variant since when the need has fitted it; a clock that jumps back starts anew.

        The average must fit into the lower share. It hardly notices a short burst, so each need must fit into the higher share, too:
        otherwise a variant would return at once when the burst ends that it was left for.
        """
        average = need
        if self._smooth is not None and self.config.smooth_seconds > 0.0:
            average, before = self._smooth
            average = need + (average - need) * math.exp(min(before - now, 0.0) / self.config.smooth_seconds)
        self._smooth = (average, now)
        for index, rung in enumerate(self.rungs):
            since, rate = self._fits_since[index], rung.rows_per_second
            if average > self.config.return_use * rate or need > self.config.most_use * rate:
                self._fits_since[index] = None
            elif since is None or since > now:
                self._fits_since[index] = now


def switch_is_cheaper(replicate: Sequence[tuple[float, int]], switch: tuple[float, int], factor: float = 1.5) -> bool:
    """INFaaS' choice between more replicas of the present variants and a quicker variant.

    The quicker variant is loaded when the sum of load time times replicas to add, over the present variants, is more than `factor` times
    that of the quicker one.

    Args:
        replicate: Seconds to load a replica and replicas to add, for each present variant.
        switch: The same for the quicker variant.
        factor: 1.5 in INFaaS.
    """
    return sum(seconds * add for seconds, add in replicate) > factor * switch[0] * switch[1]
