"""The graph of users and items, and products with its normalised adjacency matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recfx.zoo.errors import require


class NormalizedAdjacency(nn.Module):
    """D^-1/2 A D^-1/2 of the bipartite graph of users (first) and items, as compressed sparse rows.

    A product with it is one weighted bag per row: on CPUs several times faster than torch.sparse and a hundred times
    faster than index_add, with dense buffers only. A row without neighbours gives zeros.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        interactions: int64 [2, E], users over items; repeated pairs count once.

    Raises:
        ZooError: The interactions have another form, or ids are out of range.
    """

    offsets: Tensor
    neighbours: Tensor
    weights: Tensor

    def __init__(self, num_users: int, num_items: int, interactions: Tensor) -> None:
        super().__init__()
        require(
            interactions.dtype == torch.int64 and interactions.ndim == 2 and len(interactions) == 2,
            f"interactions must be int64 [2, E], got {interactions.dtype} {list(interactions.shape)}",
            where="NormalizedAdjacency",
            hint="torch.stack([users, items])",
        )
        for name, ids, count in zip(("user", "item"), interactions, (num_users, num_items), strict=True):
            require(
                ids.numel() == 0 or (int(ids.min()) >= 0 and int(ids.max()) < count),
                f"interactions hold {name} ids outside [0, {count})",
                where="NormalizedAdjacency",
                hint=f"pass the number of all {name}s, and number them from 0",
            )
        pairs = torch.unique(interactions[0] * num_items + interactions[1])
        users, items = pairs // num_items, pairs % num_items + num_users
        sources, targets = torch.cat([users, items]), torch.cat([items, users])
        order = sources.argsort(stable=True)
        degrees = torch.bincount(sources, minlength=num_users + num_items)
        self.register_buffer("offsets", torch.cat([degrees.new_zeros(1), degrees.cumsum(0)]))
        self.register_buffer("neighbours", targets[order])
        scale = degrees.double().rsqrt()  # infinite for nodes without neighbours, where it is never used
        self.register_buffer("weights", (scale[sources] * scale[targets])[order].float())

    def forward(self, x: Tensor) -> Tensor:
        """[users + items, D] -> the product, of the same shape."""
        if x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            product: Tensor = _Product.apply(x, self.offsets, self.neighbours, self.weights)
            return product
        return _product(x, self.offsets, self.neighbours, self.weights)

    def combine(self, x: Tensor, weights: Sequence[float]) -> Tensor:
        """The sum of weights[k] times the k-th power of the matrix times x: propagation over all layers.

        Args:
            x: [users + items, D].
            weights: One for x itself and one for each layer.

        Returns:
            A tensor of the shape of x.
        """
        total = weights[0] * x
        for weight in weights[1:]:
            x = self(x)
            total = total + weight * x
        return total


def _product(x: Tensor, offsets: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(
        neighbours, x, offsets, mode="sum", per_sample_weights=weights.to(x.dtype), include_last_offset=True
    )


class _Product(torch.autograd.Function):
    """The product with a symmetric matrix. Its gradient is the same product, twenty times faster than the gradient of bags."""

    @staticmethod
    def forward(x: Tensor, offsets: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
        return _product(x, offsets, neighbours, weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        product: Tensor = _Product.apply(gradients[0], *ctx.saved_tensors)
        return product, None, None, None
