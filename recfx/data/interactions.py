"""Implicit feedback as two sparse matrices: the training items and the held-out items of each user."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recfx.data.feedback import Feedback, require_ids
from recfx.errors import DataError


@dataclass(frozen=True)
class Interactions:
    """Train and test interactions in compressed sparse rows, one row for each user.

    Attributes:
        train_indptr: int64 [n_users + 1]; the items of user u are `train_indices[train_indptr[u] :
            train_indptr[u + 1]]`.
        train_indices: int64 [n_train], item ids in [0, n_items), each at most once in a row.
        test_indptr: int64 [n_users + 1], the same for the held-out items.
        test_indices: int64 [n_test].
        n_users: Number of users.
        n_items: Number of items.
        name: Name of the data set, for reports.

    Raises:
        DataError: An array has another dtype or length, row pointers do not rise, an id is out of range, or an item
            occurs twice in a row.
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
            raise DataError(
                f"row pointers and indices must be int64 vectors, got {indptr.dtype} {list(indptr.shape)} and "
                f"{indices.dtype} {list(indices.shape)}",
                where=where,
                hint="convert both to int64 vectors, or use Interactions.from_pairs",
            )
        if len(indptr) != self.n_users + 1:
            raise DataError(
                f"{len(indptr)} row pointers for {self.n_users} users, expected {self.n_users + 1}",
                where=where,
                hint="pass one row pointer for each user and the end of the last row",
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
            raise DataError("an item occurs twice in the row of a user", where=where, hint="remove the duplicates")

    @staticmethod
    def from_pairs(
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        n_users: int,
        n_items: int,
        name: str = "interactions",
    ) -> Interactions:
        """Builds interactions from pairs in any order; repeated pairs count once.

        Args:
            train: `(user, item)` of the training pairs, each int64 [n].
            test: `(user, item)` of the held-out pairs, each int64 [n].
            n_users: Number of users.
            n_items: Number of items.
            name: Name of the data set, for reports.

        Raises:
            DataError: An id is out of range.
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
        """Builds interactions from the positive pairs of explicit feedback."""
        chosen = feedback.positive & ~feedback.test, feedback.positive & feedback.test
        train, test = ((feedback.user[mask], feedback.item[mask]) for mask in chosen)
        return Interactions.from_pairs(train, test, feedback.n_users, feedback.n_items, name=feedback.name)

    def train_pairs(self) -> tuple[Tensor, Tensor]:
        """The training interactions as `(user, item)`, each int64 [n_train], the edges of the bipartite graph."""
        return torch.repeat_interleave(self.train_indptr.diff()), self.train_indices
