"""Learning the ranking of a full-precision teacher, after BiGeaR (Chen et al. 2022).

    L = weight * mean over users b, ranks r of exp(-decay (r + 1)) softplus(-<x_hat_b, x_hat_top(b, r)>)

top(b, r) is the teacher's item of rank r for user b.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.losses import RankingLoss
from recfx.learn.quantized_model import Batch, Rows


class Distillation(Protocol):
    """A loss term that teaches the ranking of a teacher."""

    def items(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the items to teach to a batch of users, int64 [B] -> int64 [B, r], and weights that broadcast to
        them."""
        ...

    def term(self, loss: RankingLoss, rounded: Rows, places: Batch, taught: Tensor, weights: Tensor) -> Tensor:
        """Returns the loss term, [].

        Args:
            loss: The ranking loss of the training.
            rounded: Rounded embeddings of different users and items.
            places: The samples, as positions among the rows.
            taught: The items that `items` returned, as positions among the rows.
            weights: The weights that `items` returned.
        """
        ...


class TopRDistillation:
    """Pulls each user towards the items that a teacher ranks first.

    Args:
        top: int64 [U, R], the teacher's items of each user, best first; see `teacher_top`.
        weight: The weight of the term; the ranking loss has weight 1.
        decay: How fast the weights of the ranks fall; the paper's code has 0.1.
        draws: The number of ranks per user and step, drawn from torch's global generator at every step; None: all R.
            The expected term is the same.

    Raises:
        InputError: `top` is not an int64 matrix with columns, or a number is out of range.
    """

    def __init__(self, top: Tensor, *, weight: float = 1.0, decay: float = 0.1, draws: int | None = None) -> None:
        if top.ndim != 2 or top.dtype != torch.int64 or not top.shape[1]:
            raise InputError(
                f"expected int64 [users, R], got {top.dtype} {list(top.shape)}",
                where="TopRDistillation",
                hint="pass what recfx.learn.teacher_top returns",
            )
        if not (math.isfinite(weight) and weight > 0 and math.isfinite(decay) and decay >= 0):
            raise InputError(
                f"weight {weight} and decay {decay} must be positive",
                where="TopRDistillation",
                hint="pass positive numbers",
            )
        if draws is not None and not 1 <= draws <= top.shape[1]:
            raise InputError(
                f"cannot draw {draws} of {top.shape[1]} ranks",
                where="TopRDistillation",
                hint="draw fewer, or rank more items with teacher_top",
            )
        self.top = top
        self.weight = weight
        self.decay = decay
        self.draws = draws
        self._of_rank = torch.exp(-decay * torch.arange(1, top.shape[1] + 1, dtype=torch.float32))

    def items(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Selects the items to rank for a batch of users, int64 [B].

        Returns:
            Items, int64 [B, r], and the weight of the rank of each, [B, r].

        Raises:
            InputError: The teacher has no ranking for a user.
        """
        if len(users) and int(users.max()) >= len(self.top):
            raise InputError(
                f"the teacher ranked for {len(self.top)} users, not for user {int(users.max())}",
                hint="rank for all users with recfx.learn.teacher_top",
            )
        self.top, self._of_rank = self.top.to(users.device), self._of_rank.to(users.device)  # copies once
        top = self.top[users]
        weights = self._of_rank.expand_as(top)
        if self.draws is not None:
            ranks = torch.rand(top.shape, device=users.device).argsort(1)[:, : self.draws]
            top, weights = top.gather(1, ranks), weights.gather(1, ranks)
        return top, weights

    def term(self, loss: RankingLoss, rounded: Rows, places: Batch, taught: Tensor, weights: Tensor) -> Tensor:
        """See `Distillation.term`."""
        return self.loss(F.embedding(places.users, rounded.users), F.embedding(taught, rounded.items), weights)

    def loss(self, users: Tensor, items: Tensor, weights: Tensor) -> Tensor:
        """Returns the term, [].

        Args:
            users: Rounded embeddings of users, [B, d].
            items: Rounded embeddings of their items, [B, r, d].
            weights: The weights that `items` returned.
        """
        scores = torch.bmm(items, users.unsqueeze(2)).squeeze(2)
        return self.weight * (weights * F.softplus(-scores)).mean()


@torch.no_grad()
def teacher_top(
    users: Tensor,
    items: Tensor,
    ranks: int = 100,
    *,
    exclude: tuple[Tensor, Tensor] | None = None,
    block: int = 1024,
) -> Tensor:
    """Returns the items with the greatest dot products for every user.

    Args:
        users: The teacher's users [U, d].
        items: The teacher's items [I, d].
        ranks: R, at most I.
        exclude: Items to leave out, as compressed sparse rows `(indptr [U + 1], indices)`. If fewer than R items remain
            for a user, excluded items fill the end of the row.
        block: Users scored at a time.

    Returns:
        int64 [U, R], best first.

    Raises:
        InputError: `ranks` is below 1 or above the number of items, or `exclude` does not fit users and items.
    """
    if not 1 <= ranks <= len(items):
        raise InputError(
            f"cannot rank {ranks} of {len(items)} items",
            where="teacher_top",
            hint="pass ranks of at most the number of items",
        )
    if exclude is not None:
        _check_lists(*exclude, len(users), len(items))
    found = []
    for start in range(0, len(users), block):
        scores = users[start : start + block] @ items.T
        if exclude is not None:
            indptr, indices = exclude
            bounds = indptr[start : start + len(scores) + 1]
            row = torch.repeat_interleave(bounds.diff()).to(scores.device)
            scores[row, indices[int(bounds[0]) : int(bounds[-1])].to(scores.device)] = -torch.inf
        found.append(scores.topk(ranks, 1).indices)
    return torch.cat(found) if found else torch.empty(0, ranks, dtype=torch.int64)


def _check_lists(indptr: Tensor, indices: Tensor, users: int, items: int) -> None:
    rising = len(indptr) == users + 1 and int(indptr[0]) == 0 and bool((indptr.diff() >= 0).all())
    if not rising or int(indptr[-1]) != len(indices):
        raise InputError(
            f"items to leave out need {users + 1} rising row starts from 0 to {len(indices)}, got {len(indptr)}",
            where="teacher_top",
            hint="pass the row pointers of a CSR matrix: one for each row and one more",
        )
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < items:
        raise InputError(
            f"items to leave out are {int(indices.min())} to {int(indices.max())}, there are {items}",
            where="teacher_top",
            hint="remove the ids that are not ids of items",
        )
