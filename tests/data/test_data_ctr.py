"""Encoding raw rows: the split, the id of rare values, the dense transforms; the checks of containers."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.data import CtrData, CtrSplit, encode_ctr
from recfx.data.criteo import MISSING_DENSE, CriteoRows
from recfx.data.ctr import split_rows
from recfx.errors import DataError


def random_rows(n: int, values: int, seed: int) -> CriteoRows:
    rng = np.random.default_rng(seed)
    dense = rng.integers(-2, 2000, (n, 13)).astype(np.int32)
    dense[rng.random(dense.shape) < 0.2] = MISSING_DENSE
    return CriteoRows(rng.integers(0, 2, n).astype(np.int8), dense, rng.integers(0, values, (n, 26)).astype(np.uint32))


def test_the_split_is_the_documented_permutation() -> None:
    train, valid, test = split_rows(137)
    order = np.random.RandomState(0).permutation(137)
    assert (len(train), len(valid), len(test)) == (109, 14, 14)
    np.testing.assert_array_equal(np.concatenate([train, valid, test]), order)


@given(st.integers(10, 120), st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_ids_follow_their_definition(n: int, values: int, min_count: int, seed: int) -> None:
    rows = random_rows(n, values, seed)
    data = encode_ctr(rows, min_count=min_count)
    parts = split_rows(n)
    for field in range(26):
        column = rows.cat[:, field].tolist()
        counts = Counter(column[row] for row in parts[0])
        kept = sorted((v for v, c in counts.items() if c >= min_count), key=lambda v: (-counts[v], v))
        ids = {value: i for i, value in enumerate(kept, 1)}
        assert data.cardinalities[field] == len(kept) + 1
        for split, part in zip((data.train, data.valid, data.test), parts, strict=True):
            assert split.sparse[:, field].tolist() == [ids.get(column[row], 0) for row in part]


def test_dense_as_numbers() -> None:
    rows = random_rows(50, 3, 0)
    data = encode_ctr(rows)
    part = split_rows(50)[0]
    expected = [[math.log1p(x) if x > 0 else 0.0 for x in rows.dense[row]] for row in part]
    torch.testing.assert_close(data.train.dense, torch.tensor(expected, dtype=torch.float32))
    assert data.train.label.tolist() == rows.label[part].tolist()


def test_dense_as_fields_buckets_by_squared_logarithm() -> None:
    numbers = [MISSING_DENSE, -2, 0, 1, 2, 3, 4, 5, 7, 8, 1000, 1001, 65535]
    rows = random_rows(400, 3, 0)
    dense = np.array(numbers, np.int32)[np.random.default_rng(0).integers(0, 13, (400, 13))]
    data = encode_ctr(CriteoRows(rows.label, dense, rows.cat), dense_as="fields")
    assert data.n_dense == 0
    assert data.n_fields == 39

    def bucket(x: int) -> object:
        return math.floor(math.log(x) ** 2) if x > 2 else str(x)

    part = split_rows(400)[0]
    for field in range(13):
        pairs = {
            (bucket(int(dense[row, field])), int(i))
            for row, i in zip(part, data.train.sparse[:, 26 + field], strict=True)
        }
        # One id for each bucket and one bucket for each id.
        assert len(pairs) == len({b for b, _ in pairs}) == len({i for _, i in pairs})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"dense_as": "floats"}, "unknown dense_as"), ({"min_count": 0}, "min_count must be at least 1")],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode_ctr(random_rows(20, 3, 0), **arguments)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="too few"):
        encode_ctr(random_rows(9, 3, 0))


def split(n: int = 4, fields: int = 2, high: int = 3) -> CtrSplit:
    return CtrSplit(torch.zeros(n, 1), torch.full((n, fields), high - 1), torch.zeros(n))


@pytest.mark.parametrize(
    ("dense", "sparse", "label", "message"),
    [
        (
            torch.zeros(4, 1, dtype=torch.float64),
            torch.zeros(4, 2, dtype=torch.int64),
            torch.zeros(4),
            "dense",
        ),
        (torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4), "dense"),
        (torch.zeros(4, 1), torch.zeros(4, 2, dtype=torch.int32), torch.zeros(4), "sparse"),
        (torch.zeros(4, 1), torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 1), "label"),
        (torch.zeros(4, 1), torch.zeros(5, 2, dtype=torch.int64), torch.zeros(4), "rows differ"),
    ],
)
def test_a_split_checks_its_tensors(
    dense: torch.Tensor, sparse: torch.Tensor, label: torch.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        CtrSplit(dense, sparse, label)


def test_a_split_checks_its_probabilities() -> None:
    with pytest.raises(DataError, match="probability"):
        CtrSplit(torch.zeros(4, 1), torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4), torch.zeros(3))


def test_data_checks_ids_fields_and_features() -> None:
    CtrData(split(), split(), split(), (3, 3))
    with pytest.raises(DataError, match="field 1 holds ids from 2 to 2, its table has 2 rows"):
        CtrData(split(), split(), split(), (3, 2))
    with pytest.raises(DataError, match=r"CtrData.valid.sparse"):
        CtrData(split(), split(high=0), split(), (3, 3))
    with pytest.raises(DataError, match="2 fields, but 3 cardinalities"):
        CtrData(split(), split(), split(), (3, 3, 3))
    other = CtrSplit(torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4))
    with pytest.raises(DataError, match=r"CtrData.test.dense"):
        CtrData(split(), split(), other, (3, 3))


def test_real_data(data_dir: Path) -> None:
    from recfx.data import load_ctr

    data = load_ctr(data_dir)
    assert (len(data.train), len(data.valid), len(data.test)) == (109_711, 13_714, 13_714)
    assert (data.n_dense, data.n_fields) == (13, 26)
    assert 0.25 < float(data.train.label.mean()) < 0.265
    for field, size in enumerate(data.cardinalities):
        counts = torch.bincount(data.train.sparse[:, field], minlength=size)
        assert int(counts[1:].min()) >= 3
        assert bool((counts[1:].diff() <= 0).all())  # by falling frequency
