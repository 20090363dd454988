"""Row-wise functions of large matrices, a cache-sized block of rows at a time, forwards and backwards.

In a chain of a dozen elementwise operations on a matrix larger than the caches, every operation waits for memory and
for the pages of its temporaries. In blocks, the chain reads and writes the matrix once. The backward pass computes each
block again instead of keeping the intermediate results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_BLOCK_VALUES = 1 << 17  # 512 KB of float32: smaller blocks wait for the interpreter, larger ones for memory
_LEAST_VALUES = 3 << 19  # below this the whole chain fits into the last-level cache, and computing it twice costs more

#: A block of rows and the tensors that all blocks share -> the same number of rows. It depends on no other state that
#: may change.
RowWise = Callable[..., Tensor]


def in_blocks(function: RowWise, x: Tensor, shared: Sequence[Tensor], guarded: Sequence[Tensor] = ()) -> Tensor:
    """Returns function(x, *shared): computed in blocks of rows on CPUs, and in one call elsewhere or if x is small.

    Args:
        function: A row-wise function that returns the same result when called again.
        x: [n, d].
        shared: Tensors that are passed to every call; gradients reach them.
        guarded: Further tensors that the function reads; changing such a tensor in place before the backward pass is an
            error, as for any other operation.

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
