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
    """Batches, in a new order each time it is iterated; the sequence of orders depends on the seed alone.

    Args:
        n: Number of rows.
        fetch: Makes a batch of row numbers, int64 [batch_size]. Gathering whole batches with it is far faster
            than collating rows one by one.
        batch_size: Rows a batch; the last may be smaller.
        shuffle: Whether to change the order.
        seed: Seed of the orders.
        drop_last: Leave out a last batch that is not full.

    Raises:
        DataError: Sizes below 1.
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
            raise DataError(f"cannot make batches of {batch_size} from {n} rows", where="Batches")
        self._n = n
        self._fetch = fetch
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Batches in one pass."""
        whole = self._n / self._batch_size
        return math.floor(whole) if self._drop_last else math.ceil(whole)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(self._n, generator=self._generator) if self._shuffle else torch.arange(self._n)
        for rows in torch.split(order, self._batch_size)[: len(self)]:
            yield self._fetch(rows)


def tensor_batches(
    *tensors: Tensor, batch_size: int, shuffle: bool = True, seed: int = 0, drop_last: bool = False
) -> Batches[tuple[Tensor, ...]]:
    """Batches of tensors with equal first dimension, as tuples.

    Raises:
        DataError: No tensors, or different numbers of rows.
    """
    rows = {len(tensor) for tensor in tensors}
    if len(rows) != 1:
        raise DataError(f"tensors with rows {sorted(rows)} cannot be batched together", where="tensor_batches")
    return Batches(
        rows.pop(),
        lambda chosen: tuple(tensor[chosen] for tensor in tensors),
        batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
    )
