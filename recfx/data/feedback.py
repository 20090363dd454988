"""Explicit feedback of users on items, in one form for all files and generators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recfx.errors import DataError


@dataclass(frozen=True)
class Feedback:
    """Judged (user, item) pairs, with at most one judgement for each pair.

    Attributes:
        user: int64 [N] in [0, n_users).
        item: int64 [N] in [0, n_items).
        positive: bool [N], True if the user liked or clicked the item.
        test: bool [N], True for the pairs held out for the test metrics.
        n_users: Number of users.
        n_items: Number of items.
        time: int64 [N], the time of each judgement; None when unknown.
        probability: float32 [N], the true probability of `positive` in generated data; None for other data.
        name: Name of the data set, for reports.

    Raises:
        DataError: A tensor has another dtype or shape, an id is out of range, or a pair occurs twice.
    """

    user: Tensor
    item: Tensor
    positive: Tensor
    test: Tensor
    n_users: int
    n_items: int
    time: Tensor | None = None
    probability: Tensor | None = None
    name: str = "feedback"

    def __post_init__(self) -> None:
        want = {
            "user": torch.int64,
            "item": torch.int64,
            "positive": torch.bool,
            "test": torch.bool,
            "time": torch.int64,
            "probability": torch.float32,
        }
        for name, dtype in want.items():
            tensor: Tensor | None = getattr(self, name)
            if tensor is None:
                continue
            if tensor.dtype != dtype or tensor.shape != self.user.shape or tensor.dim() != 1:
                raise DataError(
                    f"expected {dtype} [{len(self.user)}], got {tensor.dtype} {list(tensor.shape)}",
                    where=f"Feedback.{name} of {self.name}",
                    hint="give one entry for each row, in that dtype",
                )
        require_ids(self.user, self.n_users, f"Feedback.user of {self.name}")
        require_ids(self.item, self.n_items, f"Feedback.item of {self.name}")
        pair, count = torch.unique(self.user * self.n_items + self.item, return_counts=True)
        if len(pair) != len(self):
            twice = int(pair[count > 1][0])
            raise DataError(
                f"user {twice // self.n_items} judges item {twice % self.n_items} more than once",
                where=f"Feedback of {self.name}",
                hint="keep one judgement per pair, e.g. the last",
            )

    def __len__(self) -> int:
        return len(self.user)


def require_ids(ids: Tensor, size: int, where: str) -> None:
    """Checks that ids are in [0, size).

    Raises:
        DataError: An id is outside this range.
    """
    if len(ids) == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        raise DataError(
            f"ids run from {low} to {high}, outside 0 to {size - 1}", where=where, hint="number the ids from 0"
        )
