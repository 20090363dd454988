"""Hutchinson's estimator: traces from random probes, where there is no closed form. Tr(A) = E[v^T A v] for v of independent signs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recfx.errors import InputError

_LEAST = 1e-6  # smallest reference for the relative change of a running mean near zero


@dataclass(frozen=True)
class TraceEstimate:
    """Traces of the diagonal blocks of a Hessian.

    Attributes:
        traces: One trace for each tensor.
        probes: The number of drawn probes.
        settled: Whether the running mean settled before the largest number of probes.
        standard_error: The standard error of the sum of the traces; infinite after a single probe.
    """

    traces: tuple[float, ...]
    probes: int
    settled: bool
    standard_error: float

    @property
    def trace(self) -> float:
        """The trace of the whole Hessian."""
        return sum(self.traces)


def hutchinson_trace(
    loss: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    *,
    probes: int = 50,
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> TraceEstimate:
    """Estimates Tr(H) as the mean of v^T H v over Rademacher probes v, with one double backward pass per probe. It
    stops early when the running mean changes by less than `tolerance` of its own magnitude. The blocks' traces are
    v_k^T (H v)_k: the terms that couple two tensors have mean zero.

    Args:
        loss: A twice differentiable function of the tensors that returns a scalar.
        tensors: Floating point, the point at which the Hessian is taken; their own graphs stay as they are.
        probes: The largest number of probes.
        tolerance: The relative change of the running mean at which it stops; at 0 all probes are drawn.
        generator: Source of the probes; None: torch's global generator of the tensors' device.

    Raises:
        InputError: `probes` is below 1, or the loss is not a scalar.
    """
    if probes < 1:
        raise InputError(
            f"the trace needs at least one probe, got {probes}", where="hutchinson_trace", hint="pass 1 or more"
        )
    points = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        value = loss(*points)
        if value.ndim:
            raise InputError(
                f"the loss must be a scalar, got {list(value.shape)}",
                where="hutchinson_trace",
                hint="reduce it with .mean() or .sum()",
            )
        gradients = torch.autograd.grad(value, points, create_graph=True, materialize_grads=True)
    sums = [0.0] * len(points)
    totals: list[float] = []
    mean, settled = 0.0, False
    for probe in range(1, probes + 1):
        values = _probe(gradients, points, generator)
        sums = [old + new for old, new in zip(sums, values, strict=True)]
        totals.append(sum(values))
        before, mean = mean, sum(sums) / probe
        if probe > 1 and abs(mean - before) / (abs(before) + _LEAST) < tolerance:
            settled = True
            break
    return TraceEstimate(tuple(s / len(totals) for s in sums), len(totals), settled, _standard_error(totals))


def rademacher(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A tensor of the form of another one whose numbers are 1 or -1 with equal chance, independently: v with E[v v^T] = I.

    Args:
        like: Floating point.
        generator: Source of the numbers; None: torch's global generator of the tensor's device.
    """
    drawn = torch.randint(0, 2, like.shape, generator=generator, device=like.device)
    return drawn.to(like.dtype).mul_(2).sub_(1)


def _probe(gradients: Sequence[Tensor], points: Sequence[Tensor], generator: torch.Generator | None) -> list[float]:
    """Returns v_k^T (H v)_k of every tensor for one v."""
    signs = [rademacher(point, generator) for point in points]
    # If a loss is linear in a tensor, its gradient there has no graph: the second derivative is zero.
    curved = [(g, v) for g, v in zip(gradients, signs, strict=True) if g.requires_grad]
    if not curved:
        return [0.0] * len(points)
    products = torch.autograd.grad(
        [g for g, _ in curved], points, grad_outputs=[v for _, v in curved], retain_graph=True, allow_unused=True
    )
    return [
        0.0 if product is None else float((product * sign).sum(dtype=torch.float64))
        for product, sign in zip(products, signs, strict=True)
    ]


def _standard_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.inf
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
