"""The common part of models that score a user and an item only by their ids."""

from __future__ import annotations

from torch import Tensor

from recfx.zoo.base import ZooModel
from recfx.zoo.errors import require
from recfx.zoo.sampling import sample_ids, seeded


class PairModel(ZooModel):
    """A model over pairs of ids: `forward(users, items)`.

    Inputs: `users` int64 [B] in [0, num_users); `items` int64 [B] in [0, num_items). No id is padding. If the ids of
    the data start at 1, add one to the number of items.

    Args:
        num_users: Number of users.
        num_items: Number of items.

    Raises:
        ZooError: A size is below 1.
    """

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        require(
            min(num_users, num_items) >= 1,
            f"sizes must be at least 1, got {num_users} users and {num_items} items",
            where=type(self).__name__,
        )
        self.num_users = num_users
        self.num_items = num_items

    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """`(users, items)`; see `ZooModel.example_inputs`."""
        generator = seeded(seed, batch)
        users = sample_ids(self.num_users, (batch,), zipf=zipf, generator=generator)
        return users, sample_ids(self.num_items, (batch,), zipf=zipf, generator=generator)
