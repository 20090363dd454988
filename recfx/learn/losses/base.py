"""What every ranking loss is: a value, and the diagonal of its Hessian in closed form."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from recfx.errors import InputError


class Diagonal(NamedTuple):
    """The diagonal of a Hessian with respect to the embeddings of a batch.

    Attributes:
        users: [B, d].
        positives: [B, d].
        negatives: [B, n, d].
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor

    def trace(self) -> Tensor:
        """The sum of all of them, float64 []."""
        return torch.stack([part.sum(dtype=torch.float64) for part in self]).sum()


class RankingLoss(Protocol):
    """A loss over users with the items they took and items drawn at random, scored by dot products."""

    def __call__(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Embeddings [B, d], [B, d], [B, n, d] -> the mean loss, []."""
        ...

    def diagonal(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Diagonal:
        """The diagonal of the Hessian of `__call__`, where the items of one sample differ from each other.

        A row that occurs in several samples has the sum of its places' diagonals, since no term of these losses couples
        two samples.
        """
        ...


def scores(users: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Dot products: [B] of the positives, [B, n] of the negatives.

    Raises:
        InputError: Shapes that do not belong together, no samples, or no negatives.
    """
    batch, dim = users.shape
    if positives.shape != users.shape or negatives.ndim != 3 or negatives.shape[::2] != (batch, dim):
        raise InputError(
            f"expected [B, d], [B, d] and [B, n, d], got {list(users.shape)}, {list(positives.shape)} and "
            f"{list(negatives.shape)}",
            where="ranking loss",
        )
    if not batch or not negatives.shape[1]:
        raise InputError(f"a loss needs samples and negatives, got {list(negatives.shape)}", where="ranking loss")
    return (users * positives).sum(1), torch.bmm(negatives, users.unsqueeze(2)).squeeze(2)
