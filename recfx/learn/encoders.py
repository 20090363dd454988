"""Encoders: modules that give every user and every item an embedding, whose dot product is the score. The trainer calls
`embeddings()` of an encoder. An encoder may have two more methods: `rows(users, items)` computes some embeddings
without the others, and `base_rows(users, items)` returns the parameters of some users and items for the L2 penalty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recfx.errors import InputError

_BLOCK = 1 << 14  # rows per call of a tower when all rows are encoded


@runtime_checkable
class Encoder(Protocol):
    """A module that embeds all users and items."""

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Users [U, d] and items [I, d], with gradients where they are enabled."""
        ...


class TableEncoder(nn.Module):
    """Matrix factorisation: one free embedding for each user and item.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        dim: Columns.
        std: Standard deviation of the normal distribution that initialises the embeddings.

    Raises:
        InputError: A size below 1.
    """

    def __init__(self, num_users: int, num_items: int, dim: int = 64, std: float = 0.1) -> None:
        super().__init__()
        if min(num_users, num_items, dim) < 1:
            raise InputError(
                f"sizes must be at least 1, got {num_users} users, {num_items} items, {dim} columns",
                where="TableEncoder",
                hint="pass 1 or more",
            )
        self.users = nn.Embedding(num_users, dim)
        self.items = nn.Embedding(num_items, dim)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=std)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """The two tables."""
        return self.users.weight, self.items.weight

    def rows(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [m], int64 [n] -> [m, d], [n, d]."""
        return self.users(users), self.items(items)


class TowerEncoder(nn.Module):
    """Two towers over features of users and items.

    Args:
        user_tower: Maps some rows of each user feature to [m, d].
        item_tower: Maps some rows of each item feature to [n, d].
        user_features: Tensors with one row per user.
        item_features: Tensors with one row per item.

    Raises:
        InputError: A side has no features, or features of different length.
    """

    def __init__(
        self,
        user_tower: nn.Module,
        item_tower: nn.Module,
        user_features: tuple[Tensor, ...],
        item_features: tuple[Tensor, ...],
    ) -> None:
        super().__init__()
        self.user_tower = user_tower
        self.item_tower = item_tower
        self._names = {"user": len(user_features), "item": len(item_features)}
        for side, features in (("user", user_features), ("item", item_features)):
            if len({len(feature) for feature in features}) != 1:
                raise InputError(
                    f"{side} features must have one row a {side}, got {[list(f.shape) for f in features]}",
                    where="TowerEncoder",
                    hint="pass tensors whose first size is the number of users or items",
                )
            for index, feature in enumerate(features):
                self.register_buffer(f"{side}_feature_{index}", feature, persistent=False)

    def rows(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [m], int64 [n] -> [m, d], [n, d]."""
        chosen = [f[users] for f in self._features("user")], [f[items] for f in self._features("item")]
        return self.user_tower(*chosen[0]), self.item_tower(*chosen[1])

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """All users and items, encoded in blocks of 16,384."""
        return self._all(self.user_tower, "user"), self._all(self.item_tower, "item")

    def _all(self, tower: nn.Module, side: str) -> Tensor:
        blocks = zip(*(torch.split(feature, _BLOCK) for feature in self._features(side)), strict=True)
        return torch.cat([tower(*block) for block in blocks])

    def _features(self, side: str) -> list[Tensor]:
        return [getattr(self, f"{side}_feature_{index}") for index in range(self._names[side])]


class GraphEncoder(nn.Module):
    """A module whose embeddings need a pass over the whole graph, such as LightGCN.

    Args:
        module: The module to train.
        embed: Returns users [U, d] and items [I, d] of the module; None: its method `propagate`.

    Raises:
        InputError: `embed` is None, and the module has no `propagate`.
    """

    def __init__(self, module: nn.Module, embed: Callable[[Any], tuple[Tensor, Tensor]] | None = None) -> None:
        super().__init__()
        if embed is None and not hasattr(module, "propagate"):
            raise InputError(
                f"{type(module).__name__} has neither `embeddings` nor `propagate`",
                where="GraphEncoder",
                hint="give embed=, a function of the module that returns users [U, d] and items [I, d]",
            )
        self.module = module
        self._embed = embed
        own = [getattr(module, side, None) for side in ("users", "items")]
        self._tables = all(isinstance(table, nn.Embedding) for table in own)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """The embeddings that the module computes."""
        embeddings: tuple[Tensor, Tensor]
        embeddings = self.module.propagate() if self._embed is None else self._embed(self.module)  # type: ignore[operator]
        return embeddings

    def base_rows(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor] | None:
        """Rows of the module's tables `users` and `items`, or None if it does not have both as `nn.Embedding`."""
        if not self._tables:
            return None
        tables: Any = self.module
        return tables.users(users), tables.items(items)


def as_encoder(module: nn.Module) -> nn.Module:
    """Returns the module itself if it has `embeddings`, otherwise a `GraphEncoder` around it.

    Raises:
        InputError: It has neither `embeddings` nor `propagate`.
    """
    return module if isinstance(module, Encoder) else GraphEncoder(module)


def rows_of(encoder: nn.Module, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings of some users, int64 [m], and items, int64 [n]: [m, d] and [n, d].

    Raises:
        InputError: An id is not a row, or the encoder's embeddings are not two matrices with the same number of
            columns.
    """
    for side, ids in (("user", users), ("item", items)):
        if len(ids) and int(ids.min()) < 0:
            raise InputError(f"{side} id {int(ids.min())} is negative", where="sampler", hint="ids are 0-based")
    own: Any = encoder
    try:
        if hasattr(encoder, "rows"):
            rows: tuple[Tensor, Tensor] = own.rows(users, items)
            return rows
        user_table, item_table = tables_of(encoder)
        return F.embedding(users, user_table), F.embedding(items, item_table)
    except IndexError as error:
        largest = [int(ids.max()) if len(ids) else -1 for ids in (users, items)]
        raise InputError(
            f"user ids up to {largest[0]} or item ids up to {largest[1]} are not rows of the encoder's embeddings",
            where=type(encoder).__name__,
            hint="build the encoder for all users and items of the data",
        ) from error


def tables_of(encoder: nn.Module) -> tuple[Tensor, Tensor]:
    """All embeddings: users [U, d] and items [I, d].

    Raises:
        InputError: The encoder returns something else.
    """
    own: Any = encoder
    found = own.embeddings()
    matrices = (
        isinstance(found, tuple) and len(found) == 2 and all(isinstance(t, Tensor) and t.ndim == 2 for t in found)
    )
    if not matrices or found[0].shape[1] != found[1].shape[1]:
        shapes = [list(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in found]
        raise InputError(
            f"embeddings() must give users [U, d] and items [I, d], got {shapes}",
            where=type(encoder).__name__,
            hint="return two matrices with equal numbers of columns",
        )
    return found[0], found[1]


def base_rows_of(encoder: nn.Module, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor] | None:
    """The parameters of some users and items, or None if the encoder has no `base_rows`."""
    own: Any = encoder
    rows: tuple[Tensor, Tensor] | None = own.base_rows(users, items) if hasattr(encoder, "base_rows") else None
    return rows
