"""Keeps the delta of GSTE up to date while a model trains."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from recfx.learn.delta import DeltaSettings, deltas
from recfx.learn.estimators import HessianScaled
from recfx.learn.losses import RankingLoss
from recfx.learn.quantized_model import Batch, QuantizedModel, Rows
from recfx.learn.quantizer import Quantizer


@dataclass
class Curvature:
    """Updates the delta of every `HessianScaled` estimator of a model while it trains.

    Args:
        settings: How and how often delta is computed.

    Attributes:
        history: (step, the delta of each quantiser with such an estimator) at each update.
    """

    settings: DeltaSettings = field(default_factory=DeltaSettings)
    history: list[tuple[int, list[float]]] = field(default_factory=list)
    _left: int = 0
    _found: list[list[float]] = field(default_factory=list)

    def watch(self, model: QuantizedModel, places: Batch, rows: Rows, loss: RankingLoss, when: tuple[int, int]) -> None:
        """Called at every step between the backward pass and the optimiser's update; most calls do nothing.

        Args:
            model: The model.
            places: The step's samples, as positions among the rows.
            rows: Embeddings of different users and items before rounding.
            loss: The ranking loss; for "closed" it must have `diagonal`.
            when: The number of steps taken so far, and the number of the epoch that begins with this step; -1 if no
                epoch begins.
        """
        scaled = [q for q in model.quantizers() if isinstance(q.estimator, HessianScaled)]
        step, epoch = when
        count = step if self.settings.unit == "steps" else epoch
        if scaled and not self._left and count > 0 and count % self.settings.every == 0:
            self._left, self._found = self.settings.batches, []
        if not scaled or not self._left:
            return
        self._found.append(deltas(model, scaled, places, rows, loss, self.settings))
        self._left -= 1
        if not self._left:
            self._update(scaled, step)

    def _update(self, scaled: list[Quantizer], step: int) -> None:
        means = [max(0.0, math.fsum(values) / len(values)) for values in zip(*self._found, strict=True)]
        for index, quantizer in enumerate(scaled):
            estimator: Any = quantizer.estimator
            if self.settings.ema is not None and self.history:
                before = float(estimator.delta)
                means[index] = self.settings.ema * before + (1 - self.settings.ema) * means[index]
            estimator.set_delta(means[index])
        self.history.append((step, means))
        self._found = []

    def state(self) -> dict[str, Any]:
        """Returns the state for a resumed run, as plain JSON."""
        return {"history": self.history, "left": self._left, "found": self._found}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `state`."""
        self.history = [(int(step), list(values)) for step, values in state["history"]]
        self._left = int(state["left"])
        self._found = [list(values) for values in state["found"]]
