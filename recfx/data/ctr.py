"""Click-through data as model inputs, and the encoding of raw Criteo rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recfx.data.criteo import CriteoRows
from recfx.errors import DataError


@dataclass(frozen=True)
class CtrSplit:
    """One split of click-through data.

    Attributes:
        dense: float32 [N, D] numeric features.
        sparse: int64 [N, F], one id per field.
        label: float32 [N], 1 for a click.
        probability: float32 [N], the true click probability of generated data; None for other data.

    Raises:
        DataError: A tensor has another dtype or rank, or the numbers of rows differ.
    """

    dense: Tensor
    sparse: Tensor
    label: Tensor
    probability: Tensor | None = None

    def __post_init__(self) -> None:
        want = {"dense": (torch.float32, 2), "sparse": (torch.int64, 2), "label": (torch.float32, 1)}
        for name, (dtype, rank) in want.items():
            tensor: Tensor = getattr(self, name)
            if tensor.dtype != dtype or tensor.dim() != rank:
                raise DataError(
                    f"expected {dtype} of rank {rank}, got {tensor.dtype} {list(tensor.shape)}",
                    where=f"CtrSplit.{name}",
                    hint="pass dense float32 [N, D], sparse int64 [N, F] and label float32 [N]",
                )
        if not len(self.dense) == len(self.sparse) == len(self.label):
            raise DataError(
                f"rows differ: dense {len(self.dense)}, sparse {len(self.sparse)}, label {len(self.label)}",
                where="CtrSplit",
                hint="pass one row of each for every sample",
            )
        if self.probability is not None and self.probability.shape != self.label.shape:
            raise DataError(
                f"expected {list(self.label.shape)}, got {list(self.probability.shape)}",
                where="CtrSplit.probability",
                hint="give one entry for each row, in that dtype",
            )

    def __len__(self) -> int:
        return len(self.label)

    def inputs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The model inputs `(dense [n, D], sparse [n, F])` of the given rows (int64 [n])."""
        return self.dense[rows], self.sparse[rows]


@dataclass(frozen=True)
class CtrData:
    """Click-through data in three splits.

    Attributes:
        train: The split for training.
        valid: The split for model selection.
        test: The split for the reported metrics.
        cardinalities: Number of ids of each field; ids are in [0, cardinality).
        name: Name of the data set, for reports.
        bayes_auc: The AUC of the true probability over the population, for generated data; a model exceeds it only by
            chance. None for other data.

    Raises:
        DataError: The splits have different numbers of features, or an id is not below the cardinality of its field.
    """

    train: CtrSplit
    valid: CtrSplit
    test: CtrSplit
    cardinalities: tuple[int, ...]
    name: str = "ctr"
    bayes_auc: float | None = None

    def __post_init__(self) -> None:
        for name in ("train", "valid", "test"):
            split: CtrSplit = getattr(self, name)
            if split.sparse.shape[1] != len(self.cardinalities):
                raise DataError(
                    f"{split.sparse.shape[1]} fields, but {len(self.cardinalities)} cardinalities",
                    where=f"CtrData.{name}.sparse",
                    hint="give one cardinality for each column of sparse",
                )
            if split.dense.shape[1] != self.train.dense.shape[1]:
                raise DataError(
                    f"{split.dense.shape[1]} dense features, train has {self.train.dense.shape[1]}",
                    where=f"CtrData.{name}.dense",
                    hint="give all splits the same dense columns",
                )
            if len(split):
                self._check_ids(name, split.sparse)

    def _check_ids(self, name: str, sparse: Tensor) -> None:
        low, high = sparse.amin(0), sparse.amax(0)
        bad = torch.nonzero((low < 0) | (high >= torch.tensor(self.cardinalities)))
        if len(bad):
            field = int(bad[0])
            raise DataError(
                f"field {field} holds ids from {int(low[field])} to {int(high[field])}, "
                f"its table has {self.cardinalities[field]} rows",
                where=f"CtrData.{name}.sparse",
                hint="number the ids from 0, below the field's cardinality",
            )

    @property
    def n_dense(self) -> int:
        """Number of dense features."""
        return int(self.train.dense.shape[1])

    @property
    def n_fields(self) -> int:
        """Number of sparse fields."""
        return len(self.cardinalities)


def split_rows(n: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The row numbers of the 80/10/10 split: `RandomState(seed).permutation(n)`, cut at 80 % and 90 %."""
    order = np.random.RandomState(seed).permutation(n).astype(np.int64)
    return order[: n * 8 // 10], order[n * 8 // 10 : n * 9 // 10], order[n * 9 // 10 :]


def encode_ctr(
    rows: CriteoRows,
    *,
    dense_as: Literal["numbers", "fields"] = "numbers",
    min_count: int = 3,
    seed: int = 0,
    name: str = "criteo",
) -> CtrData:
    """Splits raw rows 80/10/10 and turns them into model inputs.

    In each field, all values that occur fewer than `min_count` times in train share the id 0, including values that occur
    only in validation or test. The other values are numbered from 1 by falling frequency in train, and by value if their
    frequencies are equal. A missing value counts as a value.

    Args:
        rows: Raw rows, at least 10.
        dense_as: "numbers" gives log(1 + x) for x > 0 and 0 otherwise, also for missing values, so dense is [N, 13].
            "fields" puts each number into a bucket, x > 2 into floor(log(x)^2), and appends 13 fields, so dense is [N, 0]
            and sparse [N, 39].
        min_count: The smallest number of occurrences in train for an id of its own.
        seed: Seed of the split.
        name: Name of the data set, for reports.

    Raises:
        DataError: There are fewer than 10 rows, `dense_as` is unknown, or `min_count` is below 1.
    """
    if len(rows) < 10:
        raise DataError(f"{len(rows)} rows are too few to split", where=name, hint="give at least 10 rows")
    if dense_as not in ("numbers", "fields"):
        raise DataError(f"unknown dense_as {dense_as!r}", hint='use "numbers" or "fields"')
    if min_count < 1:
        raise DataError(f"min_count must be at least 1, got {min_count}", hint="pass 1 or more")
    parts = split_rows(len(rows), seed)
    columns: list[NDArray[Any]] = list(rows.cat.T)
    if dense_as == "fields":
        columns += list(_buckets(rows.dense).T)
        dense = np.zeros((len(rows), 0), np.float32)
    else:
        dense = np.log1p(np.maximum(rows.dense, 0)).astype(np.float32)
    sparse = np.empty((len(rows), len(columns)), np.int64)
    cardinalities = []
    for field, column in enumerate(columns):
        sparse[:, field], size = encode_field(column, parts[0], min_count)
        cardinalities.append(size)
    train, valid, test = (
        CtrSplit(
            torch.from_numpy(dense[part]),
            torch.from_numpy(sparse[part]),
            torch.from_numpy(rows.label[part].astype(np.float32)),
        )
        for part in parts
    )
    return CtrData(train, valid, test, tuple(cardinalities), name=name)


def _buckets(dense: NDArray[np.int32]) -> NDArray[np.int64]:
    """The bucket of each number: floor(log(x)^2) for x > 2, else the number itself, also for missing values.

    The buckets of x > 2 are shifted by 3, so that they differ from the small numbers 0, 1 and 2.
    """
    logs = np.floor(np.log(np.maximum(dense, 1).astype(np.float64)) ** 2).astype(np.int64)
    return np.where(dense > 2, logs + 3, dense)


def encode_field(column: NDArray[Any], train: NDArray[np.int64], min_count: int) -> tuple[NDArray[np.int64], int]:
    """The ids of a column, as `encode_ctr` numbers its values, and their number.

    Args:
        column: Values [N].
        train: The training rows.
        min_count: How often a value must occur in these to have an id of its own.
    """
    values, counts = np.unique(column[train], return_counts=True)
    kept, counts = values[counts >= min_count], counts[counts >= min_count]
    if kept.size == 0:
        return np.zeros(len(column), np.int64), 1
    ids = np.empty(kept.size, np.int64)
    ids[np.lexsort((kept, -counts))] = np.arange(1, kept.size + 1)
    place = np.minimum(np.searchsorted(kept, column), kept.size - 1)
    return np.where(kept[place] == column, ids[place], 0), int(kept.size + 1)
