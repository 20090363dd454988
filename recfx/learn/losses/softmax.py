"""Softmax over a positive and sampled negatives, also known as InfoNCE."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import recfx.ops.graph_kernels  # noqa: F401 - registers the kernels
from recfx.errors import InputError
from recfx.learn.losses.base import Diagonal, scores
from recfx.ops.ranking import bpr_loss


class SampledSoftmax:
    """mean over b of logsumexp(s_b / t) - s_b,positive / t, over the positive and the negatives; s = <u, i>.

    With p = softmax(s / t), the diagonal of its Hessian is (sum of p i^2 - (sum of p i)^2) / t^2 for u and
    p (1 - p) u^2 / t^2 for each item.

    Args:
        temperature: t.

    Raises:
        InputError: The temperature is not positive.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise InputError(
                f"the temperature must be positive, got {temperature}",
                where="SampledSoftmax",
                hint="pass a positive number",
            )
        self.temperature = temperature

    def __call__(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `RankingLoss`."""
        logits = self._logits(users, positives, negatives)
        return (logits.logsumexp(1) - logits[:, 0]).mean()

    def of_rows(self, users: Tensor, items: Tensor, places: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """See `loss_of_rows`; the rows of users are divided by the temperature."""
        return bpr_loss(users if self.temperature == 1 else users / self.temperature, items, *places, joint=True)

    def diagonal(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Diagonal:
        """See `RankingLoss.diagonal`."""
        chance = self._logits(users, positives, negatives).softmax(1)
        scale = 1 / (len(users) * self.temperature**2)
        items = torch.cat([positives.unsqueeze(1), negatives], 1)
        weight = chance.unsqueeze(2)
        mean = (weight * items).sum(1, keepdim=True)
        of_items = weight * (1 - weight) * users.square().unsqueeze(1) * scale
        return Diagonal(
            (weight * (items - mean).square()).sum(1) * scale,
            of_items[:, 0],
            of_items[:, 1:],
        )

    def _logits(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        positive, negative = scores(users, positives, negatives)
        return torch.cat([positive.unsqueeze(1), negative], 1) / self.temperature
