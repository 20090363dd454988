"""Kernels for training on graphs, registered for CPU tensors when this module is imported: propagation and the ranking loss.

Without the kernel library nothing is registered and the operators' references run.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from recfx.kernels.abi import CBpr
from recfx.kernels.codes import BprResult, PropagateResult
from recfx.kernels.library import level, library, missing
from recfx.kernels.memory import address
from recfx.ops import propagation, ranking
from recfx.ops.library import accelerate


def propagate(
    x: Tensor, offsets: Tensor, neighbours: Tensor, scale: Tensor, weights: list[float], halved: bool = False
) -> Tensor:
    """`recfx::propagate` on CPUs, with torch's number of threads; the results have the same bits for any number.

    float32 only: other dtypes run the reference. The arguments are those of `recfx.ops.propagation.reference`.

    Raises:
        ValueError: Operands of wrong ranks, dtypes or sizes.
        IndexError: Offsets or neighbours outside the rows.
    """
    if x.dtype != torch.float32:
        return propagation.reference(x, offsets, neighbours, scale, weights, halved)
    propagation.check_graph(x, offsets, neighbours, scale, weights)
    x, offsets, scale = x.contiguous(), offsets.contiguous(), scale.float().contiguous()
    neighbours = _narrow(neighbours, len(x))
    out = torch.empty_like(x)
    scratch = torch.empty(2 * x.numel(), dtype=torch.bfloat16) if halved else torch.empty_like(x)
    factors = (ctypes.c_float * len(weights))(*weights)
    code = library().calls["recfx_propagate"](
        level().encode(),
        address(x),
        address(out),
        address(scratch),
        address(offsets),
        address(neighbours),
        len(neighbours),
        address(scale),
        *x.shape,
        ctypes.addressof(factors),
        len(weights) - 1,
        halved,
        torch.get_num_threads(),
    )
    if code == PropagateResult.BAD_OFFSETS:
        raise IndexError(f"offsets must rise from 0 to the {len(neighbours)} neighbours")
    if code == PropagateResult.BAD_NEIGHBOUR:
        raise IndexError(f"neighbours must be in [0, {len(x)})")
    return out


def _narrow(neighbours: Tensor, rows: int) -> Tensor:
    """The neighbours as int32, range-checked first so that no int64 id wraps into the valid range."""
    if neighbours.dtype == torch.int64:
        if len(neighbours) and not 0 <= int(neighbours.min()) <= int(neighbours.max()) < rows:
            raise IndexError(f"neighbours must be in [0, {rows})")
        neighbours = neighbours.int()
    return neighbours.contiguous()


def bpr(
    users: Tensor, items: Tensor, user_ids: Tensor, positives: Tensor, negatives: Tensor, joint: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`recfx::bpr` on CPUs, with torch's number of threads; the results have the same bits for any number.

    float32 only: other dtypes run the reference. The arguments are those of `recfx.ops.ranking.bpr_loss`.

    Raises:
        ValueError: Operands of wrong ranks, dtypes or sizes.
        IndexError: An id outside its table.
    """
    if users.dtype != torch.float32:
        return ranking.reference(users, items, user_ids, positives, negatives, joint)
    ranking.check_samples(users, items, user_ids, positives, negatives)
    tensors = [tensor.contiguous() for tensor in (users, items, user_ids, positives, negatives)]
    by_users, by_items = torch.empty_like(tensors[0]), torch.empty_like(tensors[1])
    slopes, shares = (
        torch.empty(negatives.shape, dtype=torch.float32),
        torch.empty(len(negatives), users.shape[1], dtype=torch.float32),
    )
    losses = torch.empty(len(negatives), dtype=torch.float64)
    addresses = [address(t) for t in (*tensors[:2], by_users, by_items, *tensors[2:], slopes, shares, losses)]
    work = CBpr(*addresses, len(users), len(items), users.shape[1], *negatives.shape, joint)
    code = library().calls["recfx_bpr"](level().encode(), ctypes.addressof(work), torch.get_num_threads())
    if code:
        name, rows = {
            BprResult.BAD_USER: ("user_ids", len(users)),
            BprResult.BAD_POSITIVE: ("positives", len(items)),
            BprResult.BAD_NEGATIVE: ("negatives", len(items)),
        }[code]
        raise IndexError(f"index out of range: {name} must be in [0, {rows})")
    return (losses.sum() / (len(negatives) if joint else negatives.numel())).float(), by_users, by_items


if missing() is None:
    accelerate("propagate", propagate, "CPU")
    accelerate("bpr", bpr, "CPU")
