"""Binary cross-entropy over positives and negatives."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from recfx.learn.losses.base import Diagonal, scores


class BCE:
    """mean over b of (softplus(-s_b) + sum over j of softplus(s_bj)) / (1 + n), s = <u, i>.

    With w = sigmoid(s) sigmoid(-s), the diagonal of its Hessian is the sum of w i^2 for u, and w u^2 for each item.
    """

    def __call__(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `RankingLoss`."""
        positive, negative = scores(users, positives, negatives)
        total = F.softplus(-positive).sum() + F.softplus(negative).sum()
        return total / (positive.numel() + negative.numel())

    def diagonal(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Diagonal:
        """See `RankingLoss.diagonal`."""
        positive, negative = (score.sigmoid() for score in scores(users, positives, negatives))
        terms = positive.numel() + negative.numel()
        taken = (positive * (1 - positive) / terms).unsqueeze(1)
        drawn = (negative * (1 - negative) / terms).unsqueeze(2)
        squared = users.square()
        return Diagonal(
            taken * positives.square() + (drawn * negatives.square()).sum(1),
            taken * squared,
            drawn * squared.unsqueeze(1),
        )
