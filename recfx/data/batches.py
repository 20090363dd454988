"""Shuffled batches of data in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

from recfx.errors import DataError

Batch = TypeVar("Batch")


class Batches(Generic[Batch]):
    """An iterable of batches, in a new order at each iteration. Only the seed determines the sequence of orders.

    Args:
        n: Number of rows.
        fetch: A function from the row numbers of a batch, int64 [rows], to the batch. It gathers a whole batch at once, which
            is far faster than a collation of single rows.
        batch_size: Rows in a batch; the last batch may be smaller.
        shuffle: Whether to shuffle the rows; otherwise they keep their order.
        seed: Seed of the orders.
        drop_last: Whether to skip a last batch that is not full.

    Attributes:
        generator: The generator of the orders.

    Raises:
        DataError: `n` or `batch_size` is below 1.
    """

    def __init__(
        self,
        n: int,
        fetch: Callable[[Tensor], Batch],
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if n < 1 or batch_size < 1:
            raise DataError(
                f"cannot make batches of {batch_size} from {n} rows",
                where="Batches",
                hint="give at least one row and a batch_size of at least 1",
            )
        self._n = n
        self._fetch = fetch
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._drop_last = drop_last
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """The number of batches in one iteration."""
        whole = self._n / self._batch_size
        return math.floor(whole) if self._drop_last else math.ceil(whole)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(self._n, generator=self.generator) if self._shuffle else torch.arange(self._n)
        for rows in torch.split(order, self._batch_size)[: len(self)]:
            yield self._fetch(rows)


def tensor_batches(
    *tensors: Tensor, batch_size: int, shuffle: bool = True, seed: int = 0, drop_last: bool = False
) -> Batches[tuple[Tensor, ...]]:
    """Batches of tensors with the same number of rows; each batch is a tuple with one slice of each tensor.

    Args:
        *tensors: Tensors [n, ...].
        batch_size: Rows in a batch; the last batch may be smaller.
        shuffle: Whether to shuffle the rows.
        seed: Seed of the orders.
        drop_last: Whether to skip a last batch that is not full.

    Raises:
        DataError: There are no tensors or no rows, the numbers of rows differ, or `batch_size` is below 1.
    """
    rows = {len(tensor) for tensor in tensors}
    if len(rows) != 1:
        raise DataError(
            f"tensors with rows {sorted(rows)} cannot be batched together",
            where="tensor_batches",
            hint="give tensors with the same number of rows",
        )
    return Batches(
        rows.pop(),
        lambda chosen: tuple(tensor[chosen] for tensor in tensors),
        batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
    )
