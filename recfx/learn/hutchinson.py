"""The trace of a Hessian by Hutchinson's estimator: for any loss, without a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recfx.errors import InputError

_LEAST = 1e-6  # the running mean is compared with this when it is near zero


@dataclass(frozen=True)
class TraceEstimate:
    """Traces of the diagonal blocks of a Hessian.

    Attributes:
        traces: One for each tensor.
        probes: How many probes were drawn.
        settled: Whether the running mean settled before the probes ran out.
        standard_error: Of the sum of the traces; infinite after a single probe.
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
    """Estimates Tr(H) as the mean of v^T H v over Rademacher probes v, with one double backward pass a probe.

    It stops early once the running mean moves by less than `tolerance` of its own magnitude. The blocks' traces are
    v_k^T (H v)_k: what couples two tensors has mean zero.

    Args:
        loss: Called with the tensors, gives a scalar; twice differentiable.
        tensors: Floating point, where to take the Hessian; their own graphs are left alone.
        probes: At most so many.
        tolerance: At 0 all probes are drawn.
        generator: Source of the probes; None: torch's global generator of the tensors' device.

    Raises:
        InputError: No probes, or a loss that is not a scalar.
    """
    if probes < 1:
        raise InputError(f"the trace needs at least one probe, got {probes}", where="hutchinson_trace")
    points = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        value = loss(*points)
        if value.ndim:
            raise InputError(f"the loss must be a scalar, got {list(value.shape)}", where="hutchinson_trace")
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


def _probe(gradients: Sequence[Tensor], points: Sequence[Tensor], generator: torch.Generator | None) -> list[float]:
    """v_k^T (H v)_k of every tensor for one v."""
    signs = [
        torch.randint(0, 2, point.shape, generator=generator, device=point.device).to(point.dtype).mul_(2).sub_(1)
        for point in points
    ]
    # A loss that is linear in a tensor has a gradient without a graph there: its second derivative is zero.
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
