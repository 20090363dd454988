"""The interface of ranking losses: a value, and the diagonal of its Hessian in closed form."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
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
        """The sum of the diagonal, float64 []."""
        return torch.stack([part.sum(dtype=torch.float64) for part in self]).sum()


class RankingLoss(Protocol):
    """A loss over users, their positive items and randomly drawn negative items, scored by dot products."""

    def __call__(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Embeddings [B, d], [B, d], [B, n, d] -> the mean loss, []."""
        ...

    def diagonal(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Diagonal:
        """The diagonal of the Hessian of `__call__`, if the items of each sample differ from each other. The diagonal
        of a row in several samples is the sum over its positions, since no term of these losses couples two samples.

        Args:
            users: [B, d].
            positives: [B, d].
            negatives: [B, n, d].
        """
        ...


@runtime_checkable
class LossOfRows(Protocol):
    """A loss that gathers the rows of its samples itself, which avoids copies of rows that many samples share."""

    def of_rows(self, users: Tensor, items: Tensor, places: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """See `loss_of_rows`."""
        ...


def loss_of_rows(loss: RankingLoss, users: Tensor, items: Tensor, places: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The loss of samples that are given by positions among rows, []; uses the loss's own `of_rows` if it has that
    method.

    Args:
        loss: The loss.
        users: [m, d].
        items: [n, d].
        places: Users int64 [B], positives int64 [B], negatives int64 [B, n].

    Raises:
        InputError: There are no samples.
    """
    if not len(places[0]):
        raise InputError(
            "a loss needs samples, got none",
            where="ranking loss",
            hint="pass batches with at least one sample and one negative",
        )
    if isinstance(loss, LossOfRows):
        return loss.of_rows(users, items, places)
    return loss(F.embedding(places[0], users), F.embedding(places[1], items), F.embedding(places[2], items))


def scores(users: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Dot products: [B] of the positives, [B, n] of the negatives.

    Raises:
        InputError: The shapes do not fit each other, or samples or negatives are missing.
    """
    batch, dim = users.shape
    if positives.shape != users.shape or negatives.ndim != 3 or negatives.shape[::2] != (batch, dim):
        raise InputError(
            f"expected [B, d], [B, d] and [B, n, d], got {list(users.shape)}, {list(positives.shape)} and "
            f"{list(negatives.shape)}",
            where="ranking loss",
            hint="give one row of users and positives, and n negatives, for each sample",
        )
    if not batch or not negatives.shape[1]:
        raise InputError(
            f"a loss needs samples and negatives, got {list(negatives.shape)}",
            where="ranking loss",
            hint="pass batches with at least one sample and one negative",
        )
    return (users * positives).sum(1), torch.bmm(negatives, users.unsqueeze(2)).squeeze(2)
