"""Counts of the parts that an operator computes one after another: layers, and small pieces such as matrices, steps and rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.cost.sizes import Sizes
from recfx.ops import cross, mlp


def layers_of(node: fx.Node) -> int:
    """The layers of an operator of the dialect that holds several; 1 for any other operator."""
    if node.target is mlp.mlp:
        numbers: Any = node.args[2:4]
        return len(mlp.decode(*numbers))
    if node.target is cross.cross:
        encoded: Any = node.args[3:]
        return len(cross.decode(*encoded))
    return 1


def pieces_of(node: fx.Node, family: str, sizes: Sizes) -> int:
    """The pieces of an operator: products of a batch of matrices, steps of a recurrent layer, results of a reduction, otherwise rows.

    Args:
        node: The operator.
        family: Its family.
        sizes: The sizes of its operands.

    Returns:
        The number; 0 for a single product and for an operator without tensors.
    """
    operands: list[Any] = [n.meta.get("val") for n in node.all_input_nodes]
    tensors = [value for value in operands if isinstance(value, torch.Tensor)]
    if not tensors:
        return 0
    first, result = tensors[0], node.meta.get("val")
    if family == "product":
        batched = [t for t in tensors if t.ndim > 2]
        return min((_rows(t, sizes, 2) for t in batched), default=0) if len(batched) > 1 else 0
    if family == "attention":
        return _rows(first, sizes, 2)
    if family == "recurrent":
        steps = sizes.number(first.shape[-2]) if first.ndim > 1 else 1
        return steps * max(sum(t.ndim == 2 for t in tensors[2:]) // 2, 1)
    if family == "convolution":
        return sizes.number(first.shape[0]) if first.ndim else 1
    if family in ("normalization", "sort", "fourier"):
        return _rows(first, sizes, 1)
    if family in ("sum", "statistics", "pooling"):
        return sizes.elements(result)
    shaped = result if isinstance(result, torch.Tensor) else first
    return sizes.number(shaped.shape[0]) if shaped.ndim else 1


def _rows(tensor: torch.Tensor, sizes: Sizes, inner: int) -> int:
    """The number of parts of a tensor whose last `inner` dimensions are one part."""
    total = 1
    for size in tensor.shape[: max(tensor.ndim - inner, 0)]:
        total *= sizes.number(size)
    return total
