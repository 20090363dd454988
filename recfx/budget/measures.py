"""One form for the two kinds of `evaluate`: metrics of rows, and functions that give one number for a model."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from recfx.budget.interval import Drop
from recfx.budget.metrics import RowMetric
from recfx.errors import InputError

#: Bootstrap resamples for choices, and for the certificate.
_FEW, _MANY = 200, 1000


class Measure(ABC):
    """Measures models on the part of the data for choices, or on that for the certificate.

    Attributes:
        name: The name of the metric.
        rows: Rows of the two parts; None if unknown.
        parts: Whether the two parts hold different rows.
    """

    name: str
    rows: tuple[int, int] | None = None
    parts: bool = False

    @abstractmethod
    def sample(self, model: Any, certificate: bool) -> Any:
        """What a model gives on a part: its scores, or a number."""

    @abstractmethod
    def value(self, sample: Any, certificate: bool) -> float:
        """The metric of a sample."""

    @abstractmethod
    def drop(self, before: Any, after: Any, confidence: float, certificate: bool) -> Drop:
        """How much lower the metric of the second sample is."""

    @abstractmethod
    def data(self) -> str | None:
        """The digest of the certificate's rows; None if they are not known."""


def measure_of(evaluate: Any) -> Measure:
    """The measure of an `evaluate` argument.

    Raises:
        InputError: It cannot be called.
    """
    if isinstance(evaluate, RowMetric):
        return _OfRows(evaluate)
    if not callable(evaluate):
        raise InputError(
            f"evaluate= is a {type(evaluate).__name__}, which cannot be called",
            hint="pass recfx.AUC(data), or a function that takes a model and returns a number, higher is better",
        )
    return _OfFunction(evaluate)


class _OfRows(Measure):
    parts = True

    def __init__(self, metric: RowMetric) -> None:
        self.name = metric.name
        self._metric = metric
        self.rows = len(metric.choice.labels), len(metric.certificate.labels)

    def sample(self, model: Any, certificate: bool) -> Any:
        return self._metric.scores(model, self._part(certificate))

    def value(self, sample: Any, certificate: bool) -> float:
        return self._metric.value(self._part(certificate).labels, sample)

    def drop(self, before: Any, after: Any, confidence: float, certificate: bool) -> Drop:
        part = self._part(certificate)
        return self._metric.drop(part, before, after, confidence, _MANY if certificate else _FEW)

    def data(self) -> str | None:
        return self._metric.data

    def _part(self, certificate: bool) -> Any:
        return self._metric.certificate if certificate else self._metric.choice


class _OfFunction(Measure):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        name = str(getattr(function, "__name__", type(function).__name__))
        self.name = "evaluate" if name == "<lambda>" else name
        self._function = function

    def sample(self, model: Any, certificate: bool) -> Any:
        with torch.no_grad():
            return as_number(self._function(model))

    def value(self, sample: Any, certificate: bool) -> float:
        return float(sample)

    def drop(self, before: Any, after: Any, confidence: float, certificate: bool) -> Drop:
        return Drop(before - after, None, confidence)

    def data(self) -> str | None:
        return None


def as_number(value: Any) -> float:
    """What `evaluate` returned, as a number.

    Raises:
        InputError: It is not a finite number.
    """
    one = value
    if isinstance(value, torch.Tensor | np.ndarray) and math.prod(value.shape) == 1:
        one = value.item()
    if isinstance(one, bool) or not isinstance(one, numbers.Real):
        raise InputError(
            f"evaluate returned a {type(value).__name__}, expected a number",
            hint="return the metric as a float, higher is better",
        )
    if not math.isfinite(one):
        raise InputError(
            f"evaluate returned {float(one)}",
            hint="check the outputs of the model and the metric for NaN and for a division by zero",
        )
    return float(one)
