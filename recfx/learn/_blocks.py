"""Row-wise functions of large matrices, a cache-sized block of rows at a time, forwards and backwards.

A chain of a dozen elementwise operations on a matrix larger than the caches waits for memory, and for the pages of its
temporaries, at every one of them. In blocks it reads and writes the matrix once. The backward pass computes each block
again instead of keeping what came between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_BLOCK_VALUES = 1 << 17  # 512 KB of float32: smaller blocks wait for the interpreter, larger ones for memory
_LEAST_VALUES = 3 << 19  # below it the whole chain fits the last-level cache, and computing twice costs more

#: A block of rows and the tensors that all blocks share -> as many rows. Depends on nothing that may change meanwhile.
RowWise = Callable[..., Tensor]


def in_blocks(function: RowWise, x: Tensor, shared: Sequence[Tensor], guarded: Sequence[Tensor] = ()) -> Tensor:
    """function(x, *shared), computed in blocks of rows on CPUs and at once elsewhere or where x is small.

    Args:
        function: Row-wise, and the same when called again.
        x: [n, d].
        shared: Tensors given to every call; gradients reach them.
        guarded: Further tensors that the function reads; changing one in place before the backward pass is an error, as
            it is for any other operation.

    Returns:
        [n, d].
    """
    if x.device.type != "cpu" or x.numel() < _LEAST_VALUES:
        return function(x, *shared)
    found: Tensor = _InBlocks.apply(function, len(shared), x, *shared, *guarded)
    return found


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: RowWise, count: int, x: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(x, *others)
        ctx.function, ctx.count = function, count
        rows = max(1, _BLOCK_VALUES // x.shape[1])
        found = torch.empty_like(x)
        for source, target in zip(torch.split(x, rows), torch.split(found, rows), strict=True):
            target.copy_(function(source, *others[:count]))
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *others = ctx.saved_tensors
        shared = [other.detach().requires_grad_(other.requires_grad) for other in others[: ctx.count]]
        learned = [other for other in shared if other.requires_grad]
        totals = [torch.zeros_like(other) for other in learned]
        rows = max(1, _BLOCK_VALUES // x.shape[1])
        of_x = torch.empty_like(x)
        for source, upstream, target in zip(*(torch.split(part, rows) for part in (x, grads[0], of_x)), strict=True):
            with torch.enable_grad():
                leaf = source.detach().requires_grad_()
                value = ctx.function(leaf, *shared)
            first, *rest = torch.autograd.grad(value, [leaf, *learned], upstream, materialize_grads=True)
            target.copy_(first)
            for total, part in zip(totals, rest, strict=True):
                total += part
        found = iter(totals)
        of_shared = [next(found) if other.requires_grad else None for other in shared]
        return (None, None, of_x, *of_shared, *(None for _ in others[ctx.count :]))
