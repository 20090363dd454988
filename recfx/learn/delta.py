"""The delta of GSTE: the trace of the loss's Hessian divided by the magnitude of its gradient.

    delta = max(0, mean over some batches of (Tr(H) / N) / G)

H is the Hessian with respect to the rounded embeddings x_q in [0, 1], N their number, G the magnitude of the gradient g
with respect to them. A row of the table counts once, however often it occurs in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.hutchinson import hutchinson_trace
from recfx.learn.estimators.base import to_grid
from recfx.learn.losses import RankingLoss
from recfx.learn.quantized_model import Batch, QuantizedModel, Rows
from recfx.learn.quantizer import Quantizer


@dataclass(frozen=True)
class DeltaSettings:
    """How delta is computed, and how often.

    Attributes:
        method: "closed": the loss's own diagonal, O(B d); "hutchinson": random probes with double backward passes.
        normalizer: The definition of G. "3std": three standard deviations of g, as for weights of networks; "mean-abs":
            its mean magnitude, which does not depend on a few popular rows, and makes delta several times larger.
        over: The rows that N and G count. "touched": the rows of the batch; "all": all rows of the table, most of whose
            gradients are zero.
        every: Period of the updates, in `unit`; the first begins after one period.
        unit: "steps" or "epochs".
        batches: Number of batches whose values are averaged, from the beginning of a period on.
        ema: The share of the old delta in the new delta at each update after the first; None: 0.
        probes: The largest number of probes, for "hutchinson".
        tolerance: The relative change of the probes' running mean at which probing stops.
    """

    method: Literal["closed", "hutchinson"] = "closed"
    normalizer: Literal["3std", "mean-abs"] = "mean-abs"
    over: Literal["touched", "all"] = "touched"
    every: int = 1
    unit: Literal["steps", "epochs"] = "epochs"
    batches: int = 3
    ema: float | None = None
    probes: int = 50
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        choices = {
            "method": ("closed", "hutchinson"),
            "normalizer": ("3std", "mean-abs"),
            "over": ("touched", "all"),
            "unit": ("steps", "epochs"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} must be one of {allowed}, got {getattr(self, name)!r}",
                    where="DeltaSettings",
                    hint="pass one of these",
                )
        if min(self.every, self.batches, self.probes) < 1 or not (self.ema is None or 0 <= self.ema < 1):
            raise InputError(
                f"periods and counts must be at least 1, ema in [0, 1): {self}",
                where="DeltaSettings",
                hint="pass values in these ranges",
            )


@dataclass
class _Sums:
    """The terms of delta, summed over the sides (users, items) of one quantiser."""

    trace: float = 0.0
    touched: int = 0
    values: int = 0
    gradient: float = 0.0
    squares: float = 0.0
    magnitudes: float = 0.0

    def add(self, trace: float, gradient: Tensor, table_rows: int) -> None:
        """Adds a side, given the gradients of its touched rows, [rows, d]."""
        self.trace += trace
        self.touched += gradient.numel()
        self.values += table_rows * gradient.shape[1]
        self.gradient += float(gradient.sum())
        self.squares += float(gradient.square().sum())
        self.magnitudes += float(gradient.abs().sum())

    def delta(self, settings: DeltaSettings) -> float:
        """(Tr(H) / N) / G; 0 without a gradient."""
        count = self.values if settings.over == "all" else self.touched
        if settings.normalizer == "mean-abs":
            size = self.magnitudes / count
        else:
            size = 3 * math.sqrt(max(self.squares / count - (self.gradient / count) ** 2, 0.0))
        return (self.trace / count) / size if size > 0 else 0.0


class _Side(NamedTuple):
    """One side of a batch: its users or its items on their grid."""

    quantizer: Quantizer | None
    rounded: Tensor
    lower: Tensor
    span: Tensor


def deltas(
    model: QuantizedModel,
    quantizers: Sequence[Quantizer],
    places: Batch,
    rows: Rows,
    loss: RankingLoss,
    settings: DeltaSettings,
) -> list[float]:
    """Returns (Tr(H) / N) / G of one batch for each quantiser, not clipped at zero.

    Args:
        model: The model of the quantisers.
        quantizers: Some of `model.quantizers()`.
        places: Samples, as positions among the rows.
        rows: Embeddings of different users and items before rounding.
        loss: The ranking loss.
        settings: How delta is computed.
    """
    sides = [
        _side(quantizer, block.detach())
        for quantizer, block in zip((model.user_quantizer, model.item_quantizer), rows, strict=True)
    ]

    def value(*rounded: Tensor) -> Tensor:
        moved = [side.lower + side.span * x for side, x in zip(sides, rounded, strict=True)]
        return loss(*Rows(*moved).samples(places))

    with torch.enable_grad():
        leaves = [side.rounded.requires_grad_() for side in sides]
        gradients = torch.autograd.grad(value(*leaves), leaves)
    traces = _closed(sides, places, loss) if settings.method == "closed" else _probed(value, leaves, settings)
    table_rows = model.sizes() if settings.over == "all" else (0, 0)
    found = []
    for quantizer in quantizers:
        sums = _Sums()
        for side, occurring, gradient, trace, whole in zip(
            sides, (places.users, places.items), gradients, traces, table_rows, strict=True
        ):
            if side.quantizer is quantizer:
                sums.add(trace, gradient[torch.unique(occurring)].double(), whole)
        found.append(sums.delta(settings))
    return found


@torch.no_grad()
def _side(quantizer: Quantizer | None, block: Tensor) -> _Side:
    if quantizer is None:
        return _Side(None, block.clone(), block.new_zeros(()), block.new_ones(()))
    grid = quantizer.grid(block)
    return _Side(quantizer, to_grid(grid.x, quantizer.steps), grid.lower, grid.span)


@torch.no_grad()
def _closed(sides: Sequence[_Side], places: Batch, loss: RankingLoss) -> list[float]:
    """Returns the traces of both sides from the loss's own diagonal. As d x_hat / d x_q = u - l, the diagonal is
    multiplied by (u - l)^2."""
    users, items = sides
    values = Rows(*(side.lower + side.span * side.rounded for side in sides))
    diagonal = loss.diagonal(*values.samples(places))
    terms = [
        (diagonal.users * _at(users.span, places.users)).sum(dtype=torch.float64),
        (diagonal.positives * _at(items.span, places.positives)).sum(dtype=torch.float64)
        + (diagonal.negatives * _at(items.span, places.negatives)).sum(dtype=torch.float64),
    ]
    return [float(term) for term in terms]


def _at(span: Tensor, places: Tensor) -> Tensor:
    """Returns the squared span of each position: the span of its row if rows have spans of their own."""
    squared = span.square()
    return squared[places] if squared.ndim == 2 and len(squared) > 1 else squared


def _probed(value: Callable[..., Tensor], leaves: Sequence[Tensor], settings: DeltaSettings) -> list[float]:
    return list(hutchinson_trace(value, leaves, probes=settings.probes, tolerance=settings.tolerance).traces)
