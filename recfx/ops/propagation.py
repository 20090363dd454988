"""Graph propagation: a polynomial of a symmetrically normalised adjacency matrix, applied to a table of embeddings.

    propagate(x, offsets, neighbours, scale, weights, halved) = sum_k weights[k] (S A S)^k x,    k = 0 .. len(weights) - 1

A is a matrix of ones in compressed sparse rows (`offsets`, `neighbours`), S = diag(scale). With scale = degree ** -0.5 and
equal weights it is LightGCN's mean over layers (He et al. 2020, equations 7 and 8). It is summed by Horner's rule over rows
already scaled: no edge weights are read, and only the last layer is kept. A must be symmetric: the backward pass
is then the same product, applied to the incoming gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recfx.errors import InputError
from recfx.ops.library import DECLARED, define, differentiate
from recfx.ops.offsets import bag_bounds, refused_unless


def check_graph(x: Tensor, offsets: Tensor, neighbours: Tensor, scale: Tensor, weights: list[float]) -> None:
    """Refuses operands of wrong ranks, dtypes or sizes; the kernel or torch checks the values of the indices.

    Raises:
        ValueError: A rank, dtype or size that does not fit, or no weight.
    """
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"x must be floating point [rows, columns], got {x.dtype} {list(x.shape)}")
    if offsets.dtype != torch.int64 or offsets.shape != (len(x) + 1,):
        raise ValueError(f"offsets must be int64 [{len(x) + 1}], got {offsets.dtype} {list(offsets.shape)}")
    if neighbours.dtype not in (torch.int32, torch.int64) or neighbours.ndim != 1:
        raise ValueError(f"neighbours must be int32 or int64 [E], got {neighbours.dtype} {list(neighbours.shape)}")
    if not scale.is_floating_point() or scale.shape != (len(x),):
        raise ValueError(f"scale must be floating point [{len(x)}], got {scale.dtype} {list(scale.shape)}")
    if not weights:
        raise ValueError("weights must have at least one element, the weight of x itself")


def reference(
    x: Tensor, offsets: Tensor, neighbours: Tensor, scale: Tensor, weights: list[float], halved: bool = False
) -> Tensor:
    """The reference implementation of `recfx::propagate`.

    Args:
        x: Floating point [N, D].
        offsets: int64 [N + 1]: the neighbours of row r are `neighbours[offsets[r] : offsets[r + 1]]`.
        neighbours: int32 or int64 [E], in [0, N).
        scale: [N].
        weights: The weight of each power, from 0 on.
        halved: Whether intermediate layers are rounded to bfloat16: half the memory traffic, relative errors of about 2^-9 a layer.

    Returns:
        [N, D], of the dtype of x.

    Raises:
        ValueError: Operands of wrong ranks, dtypes or sizes.
        IndexError: Offsets or neighbours outside the rows.
    """
    check_graph(x, offsets, neighbours, scale, weights)
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(neighbours) or bool((offsets.diff() < 0).any()):
        raise IndexError(f"offsets must rise from 0 to the {len(neighbours)} neighbours")
    if len(neighbours) and not 0 <= int(neighbours.min()) <= int(neighbours.max()) < len(x):
        raise IndexError(f"neighbours must be in [0, {len(x)})")
    return _sum_of_powers(x, offsets, neighbours, scale, weights, halved)


def _sum_of_powers(
    x: Tensor, offsets: Tensor, neighbours: Tensor, scale: Tensor, weights: list[float], halved: bool
) -> Tensor:
    s = scale.to(x.dtype).unsqueeze(1)
    total = weights[-1] * x
    for weight in reversed(weights[:-1]):
        gathered = (s * total).bfloat16().to(x.dtype) if halved else s * total
        product = F.embedding_bag(neighbours.long(), gathered, offsets, mode="sum", include_last_offset=True)
        total = s * product + weight * x
    return total


def _decomposition(
    x: Tensor, offsets: Tensor, neighbours: Tensor, scale: Tensor, weights: list[float], halved: bool = False
) -> Tensor:
    """`reference` with a traceable check of the offsets; `embedding_bag` checks the neighbours."""
    bounds, valid = bag_bounds(offsets, neighbours.shape[0])
    valid = valid & (bounds[-2] == bounds[-1])
    return _sum_of_powers(x, refused_unless(valid, offsets), neighbours, scale, weights, halved)


def _fake(
    x: Tensor, offsets: Tensor, neighbours: Tensor, scale: Tensor, weights: list[float], halved: bool = False
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    if ctx.needs_input_grad[3]:
        raise InputError(
            "propagate has no gradient with respect to its scale, which follows from the graph",
            hint="pass scale.detach()",
        )
    ctx.save_for_backward(*inputs[1:4])
    ctx.rest = inputs[4:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    offsets, neighbours, scale = ctx.saved_tensors
    return propagate(gradient, offsets, neighbours, scale, *ctx.rest), None, None, None, None, None


propagate = define(
    "propagate(Tensor x, Tensor offsets, Tensor neighbours, Tensor scale, float[] weights, bool halved=False) -> Tensor",
    reference,
    _fake,
    _decomposition,
    gradient=DECLARED,
)
differentiate("propagate", _backward, _keep)
