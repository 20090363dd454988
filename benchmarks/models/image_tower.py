"""A two-tower model whose item tower reads a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recfx.zoo.layers import MLP
from recfx.zoo.sampling import sample_ids, seeded


class ImageTower(nn.Module):
    """The cosine of a user and an item that is known by its id and a small picture; returns scores [B].

    Args:
        users: Number of users.
        items: Number of items.
        dim: Columns of the tables.
        size: Rows and columns of a picture with three colours.
        channels: Channels of each convolution; each one is followed by batch norm, ReLU and pooling by 2.
        out: Width of both towers' outputs.
    """

    def __init__(
        self,
        users: int = 100_000,
        items: int = 100_000,
        dim: int = 32,
        *,
        size: int = 32,
        channels: Sequence[int] = (16, 32, 64),
        out: int = 64,
    ) -> None:
        super().__init__()
        self.rows, self.size = (users, items), size
        self.users, self.items = nn.Embedding(users, dim), nn.Embedding(items, dim)
        blocks: list[nn.Module] = []
        width = 3
        for wide in channels:
            blocks += [nn.Conv2d(width, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            blocks.append(nn.MaxPool2d(2))
            width = wide
        self.picture = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.user = MLP(dim, (128,), out)
        self.item = MLP(dim + width, (128,), out)

    def forward(self, user: Tensor, item: Tensor, picture: Tensor) -> Tensor:
        """int64 [B], int64 [B], float [B, 3, size, size] -> scores [B]."""
        looks = torch.cat([self.items(item), self.picture(picture)], 1)
        return (F.normalize(self.user(self.users(user)), dim=1) * F.normalize(self.item(looks), dim=1)).sum(1)

    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """`(user, item, picture)`."""
        generator = seeded(seed, batch)
        user, item = (sample_ids(rows, (batch,), zipf=zipf, generator=generator) for rows in self.rows)
        return user, item, torch.randn(batch, 3, self.size, self.size, generator=generator)
