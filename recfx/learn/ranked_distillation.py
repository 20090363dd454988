"""Learning a full-precision teacher's first items with the ranking loss itself.

    L = weight * loss(users, top(b, r_b), negatives),    P(r_b = r) ~ exp(-decay r)

top(b, r) is the teacher's item of rank r for the user of sample b. The rank is drawn at every step, and the item is
ranked against the sample's own negatives. `TopRDistillation` only pulls users towards such items; this term also pushes
users away from the negatives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.losses import RankingLoss, loss_of_rows
from recfx.learn.quantized_model import Batch, Rows


class RankedDistillation:
    """Ranks one of the teacher's first items, drawn at random, above the negatives.

    Args:
        top: int64 [U, R], the teacher's items of each user, best first; see `teacher_top`.
        weight: The weight of the term; the ranking loss has weight 1.
        decay: How fast the probabilities of the ranks fall; at 0 all are equal.

    Raises:
        InputError: `top` is not an int64 matrix with columns, or a number is out of range.
    """

    def __init__(self, top: Tensor, *, weight: float = 3.0, decay: float = 0.1) -> None:
        if top.ndim != 2 or top.dtype != torch.int64 or not top.shape[1]:
            raise InputError(
                f"expected int64 [users, R], got {top.dtype} {list(top.shape)}",
                where="RankedDistillation",
                hint="pass what recfx.learn.teacher_top returns",
            )
        if not (math.isfinite(weight) and weight > 0 and math.isfinite(decay) and decay >= 0):
            raise InputError(
                f"weight {weight} and decay {decay} must be positive",
                where="RankedDistillation",
                hint="pass positive numbers",
            )
        self.top = top
        self.weight = weight
        self.decay = decay
        self._chances = torch.exp(-decay * torch.arange(top.shape[1], dtype=torch.float64)).cumsum(0)

    def items(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Draws one of the teacher's items for each user of a batch, int64 [B], from torch's global generator.

        Returns:
            Items, int64 [B, 1], and weights, [1, 1].

        Raises:
            InputError: The teacher has no ranking for a user.
        """
        if len(users) and int(users.max()) >= len(self.top):
            raise InputError(
                f"the teacher ranked for {len(self.top)} users, not for user {int(users.max())}",
                hint="rank for all users with recfx.learn.teacher_top",
            )
        self.top, self._chances = self.top.to(users.device), self._chances.to(users.device)
        draws = torch.rand(len(users), dtype=torch.float64, device=users.device) * self._chances[-1]
        ranks = torch.searchsorted(self._chances, draws, right=True).clamp(max=self.top.shape[1] - 1)
        return self.top[users, ranks].unsqueeze(1), torch.ones(1, 1, device=users.device)

    def term(self, loss: RankingLoss, rounded: Rows, places: Batch, taught: Tensor, weights: Tensor) -> Tensor:
        """See `Distillation.term`."""
        found = loss_of_rows(loss, rounded.users, rounded.items, (places.users, taught.flatten(), places.negatives))
        return self.weight * found
