"""Bags of a fixed number of ids as a lookup and a sum, for compilers that turn nn.EmbeddingBag into a loop."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn


class GatheredBag(nn.Module):
    """The operation of an nn.EmbeddingBag with ids [B, n] and without offsets.

    Args:
        bag: Sums or averages; its table is shared.
    """

    def __init__(self, bag: nn.EmbeddingBag) -> None:
        super().__init__()
        self.weight = bag.weight
        self.padding_idx = bag.padding_idx
        self.mean = bag.mode == "mean"

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [B, n] -> [B, D]; a bag of only padding gives zeros."""
        rows = F.embedding(ids, self.weight)
        if self.padding_idx is None:
            return rows.mean(1) if self.mean else rows.sum(1)
        kept = (ids != self.padding_idx).unsqueeze(2).to(rows.dtype)
        total = (rows * kept).sum(1)
        return total / kept.sum(1).clamp(min=1) if self.mean else total


def gather_bags(model: nn.Module, *, only_padded: bool = False) -> nn.Module:
    """A copy of the model that shares its state, with a `GatheredBag` for every bag that sums or averages.

    Args:
        model: In eval mode.
        only_padded: Replace only bags with padding.
    """
    state = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    clone = copy.deepcopy(model, state)
    for parent in list(clone.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, nn.EmbeddingBag) or child.mode == "max" or child.max_norm is not None:
                continue
            if child.padding_idx is not None or not only_padded:
                setattr(parent, name, GatheredBag(child).eval())
    return clone
