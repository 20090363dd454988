"""Implicit feedback as two sparse matrices: the items of users in training, and the held-out ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recfx.data.feedback import Feedback, require_ids
from recfx.errors import DataError


@dataclass(frozen=True)
class Interactions:
    """Train and test interactions in compressed sparse rows, one row per user.

    Attributes:
        train_indptr: int64 [n_users + 1]; the items of user u are `train_indices[train_indptr[u] :
            train_indptr[u + 1]]`.
        train_indices: int64 [n_train], item ids in [0, n_items), no item twice in a row.
        test_indptr: int64 [n_users + 1].
        test_indices: int64 [n_test].
        n_users: Number of users.
        n_items: Number of items.
        name: Where the data come from, for reports.
    """

    train_indptr: Tensor
    train_indices: Tensor
    test_indptr: Tensor
    test_indices: Tensor
    n_users: int
    n_items: int
    name: str = "interactions"

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            self._check(part, getattr(self, f"{part}_indptr"), getattr(self, f"{part}_indices"))

    def _check(self, part: str, indptr: Tensor, indices: Tensor) -> None:
        where = f"{self.name}, {part}_indptr"
        if indptr.dtype != torch.int64 or indices.dtype != torch.int64 or indptr.dim() != 1 or indices.dim() != 1:
            raise DataError("row pointers and indices must be int64 vectors", where=where)
        if len(indptr) != self.n_users + 1:
            raise DataError(
                f"{len(indptr)} row pointers for {self.n_users} users, expected {self.n_users + 1}",
                where=where,
            )
        if int(indptr[0]) != 0 or int(indptr[-1]) != len(indices) or bool((indptr.diff() < 0).any()):
            raise DataError(
                f"row pointers must rise from 0 to the number of indices, {len(indices)}",
                where=where,
                hint="the arrays are damaged or do not belong together",
            )
        where = f"{self.name}, {part}_indices"
        require_ids(indices, self.n_items, where)
        pair = torch.repeat_interleave(indptr.diff()) * self.n_items + indices
        if len(torch.unique(pair)) != len(pair):
            raise DataError("an item occurs twice in one user's row", where=where, hint="remove duplicates")

    @staticmethod
    def from_pairs(
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        n_users: int,
        n_items: int,
        name: str = "interactions",
    ) -> Interactions:
        """Builds it from `(user, item)` pairs, each int64 [n], in any order; repeated pairs count once.

        Raises:
            DataError: Ids out of range.
        """
        rows = []
        for part, (user, item) in (("train", train), ("test", test)):
            require_ids(user, n_users, f"{name}, {part} users")
            require_ids(item, n_items, f"{name}, {part} items")
            pair = torch.unique(user * n_items + item)
            counts = torch.bincount(pair // n_items, minlength=n_users)
            rows += [torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), pair % n_items]
        return Interactions(rows[0], rows[1], rows[2], rows[3], n_users, n_items, name)

    @staticmethod
    def from_feedback(feedback: Feedback) -> Interactions:
        """The positive pairs of explicit feedback."""
        chosen = feedback.positive & ~feedback.test, feedback.positive & feedback.test
        train, test = ((feedback.user[mask], feedback.item[mask]) for mask in chosen)
        return Interactions.from_pairs(train, test, feedback.n_users, feedback.n_items, name=feedback.name)

    def train_pairs(self) -> tuple[Tensor, Tensor]:
        """The training interactions `(user, item)`, each int64 [n_train]: edges of the bipartite graph."""
        return torch.repeat_interleave(self.train_indptr.diff()), self.train_indices
