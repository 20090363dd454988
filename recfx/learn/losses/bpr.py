"""Bayesian personalised ranking: Rendle et al. 2009."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

import recfx.ops.graph_kernels  # noqa: F401 - registers the kernels
from recfx.learn.losses.base import Diagonal, scores
from recfx.ops.ranking import bpr_loss


class BPR:
    """mean over b, j of softplus(-s_bj), s_bj = <u_b, i_b - j_bj>.

    With w = sigmoid(s) sigmoid(-s), the diagonal of its Hessian is w (i - j)^2 for u, and w u^2 for i and j: the trace is
    the mean of w (||i - j||^2 + 2 ||u||^2), never negative.
    """

    def __call__(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `RankingLoss`."""
        positive, negative = scores(users, positives, negatives)
        return F.softplus(negative - positive.unsqueeze(1)).mean()

    def of_rows(self, users: Tensor, items: Tensor, places: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """See `loss_of_rows`."""
        return bpr_loss(users, items, *places)

    def diagonal(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Diagonal:
        """See `RankingLoss.diagonal`."""
        positive, negative = scores(users, positives, negatives)
        chance = (negative - positive.unsqueeze(1)).sigmoid()
        weight = (chance * (1 - chance) / chance.numel()).unsqueeze(2)
        squared = users.square().unsqueeze(1)
        apart = (positives.unsqueeze(1) - negatives).square()
        return Diagonal(
            (weight * apart).sum(1),
            (weight * squared).sum(1),
            weight * squared,
        )
