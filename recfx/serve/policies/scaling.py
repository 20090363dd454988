"""Replica scaling by INFaaS' arithmetic (ATC 2021): enough replicas for the rows per second that arrive, with hysteresis on the way down.

INFaaS removes a replica when the need fits one replica less, and adds one when it exceeds 95 % of the offer; between the two it would add
again what it just removed. Here a replica is removed only when the need fits a smaller share of one replica less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from recfx.serve.policies._checks import check_count, check_number, refuse


@dataclass(frozen=True)
class ScalingConfig:
    """Limits of scaling.

    Attributes:
        least: Replicas at least.
        most: Replicas at most.
        most_use: The share of the capacity that the need may take; above it, replicas are added.
        return_use: The share of the capacity of one replica less at or below which a replica is removed.
        patience: Consecutive observations below that share before a replica is removed (INFaaS: 10 on CPUs, 20 on GPUs).
        anticipation: The growth of the need, as a share of the capacity, in each second in which a new replica loads (INFaaS: 0.2).
        drain_seconds: The time in which waiting rows are to be computed; they count towards the need.
    """

    least: int = 1
    most: int = 1000
    most_use: float = 0.95
    return_use: float = 0.85
    patience: int = 10
    anticipation: float = 0.0
    drain_seconds: float = 5.0

    def __post_init__(self) -> None:
        check_count("least", self.least)
        check_count("most", self.most, self.least)
        check_number("most_use", self.most_use, 0.0, 1.0, above=True)
        check_number("return_use", self.return_use, 0.0, 1.0, above=True)
        check_count("patience", self.patience)
        check_number("anticipation", self.anticipation, 0.0)
        check_number("drain_seconds", self.drain_seconds, 0.0, above=True)
        if self.return_use > self.most_use:
            raise refuse(
                f"return_use {self.return_use:g} is above most_use {self.most_use:g}: replicas would come and go",
                "pass a smaller return_use",
            )


class ReplicaScaling:
    """Chooses the number of replicas."""

    def __init__(self, config: ScalingConfig | None = None) -> None:
        self.config = config or ScalingConfig()
        self._calm = 0

    def observe(
        self,
        rows_per_second: float,
        waiting_rows: float,
        replicas: int,
        replica_rows_per_second: float,
        load_seconds: float = 0.0,
    ) -> int:
        """The number of replicas that the load needs.

        Args:
            rows_per_second: Rows that arrive in a second, those of rejected requests included.
            waiting_rows: Rows in the queues.
            replicas: Present replicas, those that are loading included.
            replica_rows_per_second: Rows per second of one replica.
            load_seconds: Time until a new replica answers.
        """
        config = self.config
        need = rows_per_second + waiting_rows / config.drain_seconds
        have = replicas * replica_rows_per_second
        short = need - config.most_use * have
        if short > 0.0:
            self._calm = 0
            short += config.anticipation * have * load_seconds
            wanted = replicas + math.ceil(short / (config.most_use * replica_rows_per_second))
            return self._bounded(wanted)
        fits = need <= config.return_use * (replicas - 1) * replica_rows_per_second
        self._calm = self._calm + 1 if fits else 0
        if self._calm < config.patience:
            return self._bounded(replicas)
        self._calm = 0
        return self._bounded(replicas - 1)

    def _bounded(self, replicas: int) -> int:
        return min(max(replicas, self.config.least), self.config.most)
