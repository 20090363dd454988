"""The common part of models that score an item for a user by the user's earlier items."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor

from recfx.zoo.base import ZooModel
from recfx.zoo.errors import require
from recfx.zoo.sampling import sample_histories, sample_ids, seeded


class HistoryModel(ZooModel):
    """A click model over a user, an item and the user's history: `forward(user, item, history)`.

    Inputs: `user` int64 [B] in [0, num_users); `item` int64 [B] in [1, num_items]; `history` int64 [B, length] of
    item ids, oldest first, padded with zeros on the right; a history may be empty.

    Args:
        num_users: Number of users.
        num_items: Number of items; tables have one more row, for the padding.
        length: Places in a history.

    Raises:
        ZooError: A size is below 1.
    """

    def __init__(self, num_users: int, num_items: int, length: int) -> None:
        super().__init__()
        require(
            min(num_users, num_items, length) >= 1,
            f"sizes must be at least 1, got {num_users} users, {num_items} items, histories of {length}",
            where=type(self).__name__,
        )
        self.num_users = num_users
        self.num_items = num_items
        self.length = length

    @classmethod
    def for_interactions(cls, num_users: int, num_items: int, *, length: int = 50, **overrides: Any) -> Self:
        """The model for click data over users and items, with histories.

        Args:
            num_users: Number of users; ids from 0.
            num_items: Number of items; ids from 1, as 0 is the padding of histories.
            length: Places in a history.
            overrides: Further arguments of the constructor; `categories` is 0 (none) unless given.
        """
        arguments = {"categories": 0, **overrides}
        return cls(num_users=num_users, num_items=num_items, length=length, **arguments)

    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """`(user, item, history)`, with histories of 0 to `length` items; see `ZooModel.example_inputs`."""
        generator = seeded(seed, batch)
        user = sample_ids(self.num_users, (batch,), zipf=zipf, generator=generator)
        item = 1 + sample_ids(self.num_items, (batch,), zipf=zipf, generator=generator)
        return user, item, sample_histories(self.num_items, batch, self.length, zipf=zipf, generator=generator)
