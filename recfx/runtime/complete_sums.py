"""Offsets from lengths: a zero, followed by running sums. Models with bags of varying length compute them at each call.

Export represents them by three operators, `cat([zeros, cumsum(lengths)])`. NumPy needs half the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from recfx.ir.op_sets import ZEROS

_aten = torch.ops.aten


def lengths_of_offsets(node: fx.Node) -> fx.Node | None:
    """The node of the int64 lengths, if `node` computes a zero followed by their running sums; None for any other node."""
    parts: Any = node.args[0] if node.target is _aten.cat.default and node.args else None
    held = node.meta.get("val")
    if not isinstance(parts, list | tuple) or len(parts) != 2 or not _is_vector(held):
        return None
    zero, sums = parts
    if not isinstance(zero, fx.Node) or not isinstance(sums, fx.Node) or sums.target is not _aten.cumsum.default:
        return None
    first: Any = zero.meta.get("val")
    lengths = sums.args[0]
    if zero.target not in ZEROS or not _is_vector(first) or first.shape[0] != 1 or len(sums.users) != 1:
        return None
    if not isinstance(lengths, fx.Node) or not _is_vector(lengths.meta.get("val")):
        return None
    return lengths


def _is_vector(value: Any) -> bool:
    plain = isinstance(value, torch.Tensor) and value.ndim == 1 and value.layout is torch.strided
    return plain and value.dtype is torch.int64 and value.device.type == "cpu"


def complete_sums(lengths: torch.Tensor) -> torch.Tensor:
    """[0, lengths[0], lengths[0] + lengths[1], ...], int64 [n + 1] for int64 lengths [n]."""
    offsets = torch.empty(lengths.shape[0] + 1, dtype=torch.int64, device="cpu")
    sums = offsets.numpy()
    sums[0] = 0
    np.add.accumulate(lengths.numpy(), out=sums[1:])
    return offsets
