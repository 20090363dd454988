"""Metrics of labelled rows, as `evaluate=` of `recfx.optimize`. They keep the score of each row, from which drops get paired intervals."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recfx.budget.calls import call
from recfx.budget.interval import Drop, Values, function_drop, mean_drop
from recfx.budget.rows import Part, divided
from recfx.data.bootstrap import auc_difference
from recfx.data.metrics import auc, checked, log_loss, to_float64
from recfx.errors import DataError, InputError

Forward = Callable[..., Any]


class RowMetric:
    """A metric of labels and scores, one score for each row; higher is better.

    Called with a model, it gives the metric on all rows. `recfx.optimize` divides the rows: choices are made on the first part, and the
    certificate is computed on the second one.

    Args:
        data: An iterable of batches, such as a DataLoader, which is read once. The last element of a batch is the labels: `(dense, sparse,
            label)`, `((dense, sparse), label)` or `({"user": ids}, label)`. Or an object with `label` [N] and `inputs(rows)`, such as a
            split of `recfx.data`.
        function: (labels, scores) -> the metric, both float64 [N].
        name: The name of the metric; by default that of the function.
        label: The key of the labels, if the batches are dicts.
        forward: Called as `forward(model, *inputs)` instead of the model; it returns one score for each row.
        choice: The share of the rows for choices.
        seed: Seed of the division and of the bootstrap.
        batch_size: Rows in a call, for data that is not in batches.

    Raises:
        InputError: The data has another form.
        DataError: There are too few rows, or a label is NaN.
    """

    def __init__(
        self,
        data: Any,
        function: Callable[[Values, Values], float],
        *,
        name: str | None = None,
        label: str | None = None,
        forward: Forward | None = None,
        choice: float = 0.5,
        seed: int = 0,
        batch_size: int = 4096,
    ) -> None:
        if not 0 < choice < 1:
            raise InputError(
                f"choice={choice} is not a share of the rows", hint="give a number between 0 and 1, such as 0.5"
            )
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self.seed = seed
        self._function = function
        self._forward = forward
        self.choice, self.certificate = divided(data, label, choice, seed, batch_size)
        for part in (self.choice, self.certificate):
            self._require_labels(part.labels)

    def __call__(self, model: Any) -> float:
        """The metric of a model on all rows.

        Raises:
            InputError: The model does not give one score for each row.
            DataError: A score is NaN.
        """
        parts = (self.choice, self.certificate)
        scores = np.concatenate([self.scores(model, part) for part in parts])
        return self.value(np.concatenate([part.labels for part in parts]), scores)

    @cached_property
    def data(self) -> str:
        """The digest of the rows of the certificate."""
        return self.certificate.digest()

    def scores(self, model: Any, part: Part) -> Values:
        """The score of each row of a part, float64 [N]."""
        found = []
        with torch.no_grad():
            for inputs in part.batches():
                found.append(to_float64(_as_scores(call(model, inputs, self._forward), model)))
        scores = np.concatenate(found)
        if scores.shape != part.labels.shape:
            raise InputError(
                f"the model gives {scores.size} scores for {part.labels.size} rows",
                where=type(model).__name__,
                hint="pass forward=lambda model, *inputs: ... that picks one score for each row",
            )
        if np.isnan(scores).any():
            raise DataError(
                f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN",
                where=type(model).__name__,
                hint="check the weights and the inputs for NaN, and the model for overflow or a division by zero",
            )
        return scores

    def value(self, labels: Values, scores: Values) -> float:
        """The metric."""
        return float(self._function(labels, scores))

    def drop(self, part: Part, before: Values, after: Values, confidence: float, resamples: int) -> Drop:
        """How much lower the metric is with the second scores of a part than with the first ones, with a paired interval."""
        return function_drop(self._function, part.labels, before, after, confidence, resamples, self.seed)

    def _require_labels(self, labels: Values) -> None:
        if np.isnan(labels).any():
            raise DataError(
                f"{int(np.isnan(labels).sum())} of {labels.size} labels are NaN", hint="leave out rows without a label"
            )


class AUC(RowMetric):
    """The area under the ROC curve of clicks.

    Args:
        data: See `RowMetric`; labels are 0 or 1.
        **options: See `RowMetric`.

    Raises:
        InputError: The data has another form.
        DataError: There are too few rows, a label is not 0 or 1, or a part has labels of one class only.
    """

    def __init__(self, data: Any, **options: Any) -> None:
        super().__init__(data, auc, name="AUC", **options)

    def drop(self, part: Part, before: Values, after: Values, confidence: float, resamples: int) -> Drop:
        """See `RowMetric`; positives and negatives are resampled separately."""
        gain = auc_difference(part.labels, before, after, confidence=confidence, resamples=resamples, seed=self.seed)
        return Drop(-gain.estimate, (-gain.high, -gain.low), confidence)

    def _require_labels(self, labels: Values) -> None:
        super()._require_labels(labels)
        checked(labels, labels, both_classes=True)


class LogLoss(RowMetric):
    """The negative log loss of clicks, in nats, so that higher is better.

    Args:
        data: See `RowMetric`; labels are 0 or 1.
        from_logits: Whether the model gives logits; otherwise probabilities.
        **options: See `RowMetric`.

    Raises:
        InputError: The data has another form.
        DataError: There are too few rows, or a label is not 0 or 1.
    """

    def __init__(self, data: Any, *, from_logits: bool = True, **options: Any) -> None:
        self._from_logits = from_logits
        super().__init__(data, self._negative, name="negative log loss", **options)

    def drop(self, part: Part, before: Values, after: Values, confidence: float, resamples: int) -> Drop:
        """See `RowMetric`."""
        first, second = (self._rows(part.labels, scores) for scores in (before, after))
        return mean_drop(first, second, confidence, resamples, self.seed)

    def _negative(self, labels: Values, scores: Values) -> float:
        return -log_loss(labels, scores, from_logits=self._from_logits)

    def _rows(self, labels: Values, scores: Values) -> Values:
        """The negative log loss of each row."""
        if self._from_logits:
            return -np.logaddexp(0.0, np.where(labels == 1, -scores, scores))
        eps = np.finfo(np.float64).eps
        p = np.clip(scores, eps, 1 - eps)
        rows: Values = np.log(np.where(labels == 1, p, 1 - p))
        return rows

    def _require_labels(self, labels: Values) -> None:
        super()._require_labels(labels)
        checked(labels, labels)


def _as_scores(output: Any, model: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise InputError(
            f"a metric needs a tensor of scores, the model gives {type(output).__name__}",
            where=type(model).__name__,
            hint="pass forward=lambda model, *inputs: ... that picks one score for each row",
        )
    return output
