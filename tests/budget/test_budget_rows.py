"""Labelled rows: every form of evaluation data, and its division in two parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from recfx.budget.rows import Part, divided
from recfx.data import CtrSplit
from recfx.errors import DataError, InputError

N = 50
DENSE, SPARSE = torch.arange(N * 2.0).reshape(N, 2), torch.arange(N * 3).reshape(N, 3)
LABEL = (torch.arange(N) % 2).float()


def split_in(pieces: Any, size: int = 16) -> list[Any]:
    return [torch.arange(N)[rows] for rows in torch.arange(N).split(size)] if pieces is None else pieces


FORMS: dict[str, tuple[Any, str | None]] = {
    "a data loader": (DataLoader(TensorDataset(DENSE, SPARSE, LABEL), batch_size=16), None),
    "a split": (CtrSplit(DENSE, SPARSE, LABEL), None),
    "pairs": ([((DENSE[r], SPARSE[r]), LABEL[r]) for r in split_in(None)], None),
    "lists": ([[DENSE[r], SPARSE[r], LABEL[r, None]] for r in split_in(None)], None),
    "pairs of a dict": ([({"dense": DENSE[r], "sparse": SPARSE[r]}, LABEL[r]) for r in split_in(None)], None),
    "dicts": ([{"dense": DENSE[r], "sparse": SPARSE[r], "click": LABEL[r]} for r in split_in(None)], "click"),
    "an iterator": (iter([(DENSE[r], SPARSE[r], LABEL[r]) for r in split_in(None)]), None),
}


def rows_of(part: Part) -> list[int]:
    """The numbers of the rows of a part, from their inputs."""
    dense = [batch["dense"] if isinstance(batch, dict) else batch[0] for batch in part.batches()]
    return [int(value) // 2 for value in torch.cat(dense)[:, 0]]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_divided_into_disjoint_parts(form: str) -> None:
    data, label = FORMS[form]
    choice, certificate = divided(data, label, 0.4, 0, 16)
    first, second = rows_of(choice), rows_of(certificate)
    assert len(first) == 20
    assert sorted(first + second) == list(range(N))
    for part, rows in ((choice, first), (certificate, second)):
        np.testing.assert_array_equal(part.labels, LABEL[rows].numpy())
        assert rows_of(part) == rows, "a part can be read again"


@given(st.integers(0, 5), st.floats(0.05, 0.95), st.integers(1, N))
@settings(deadline=None, max_examples=30)
def test_the_seed_alone_decides(seed: int, share: float, size: int) -> None:
    data = [(DENSE[r], LABEL[r]) for r in split_in(None, size)]
    first, again = divided(data, None, share, seed, 8), divided(data, None, share, seed, 8)
    assert [rows_of(part) for part in first] == [rows_of(part) for part in again]
    assert [part.digest() for part in first] == [part.digest() for part in again]
    assert first[0].digest() != first[1].digest()


def test_batches_of_jagged_ids_stay_whole() -> None:
    data = [(torch.arange(7), torch.tensor([0, 3]), LABEL[2 * i : 2 * i + 2]) for i in range(4)]
    choice, certificate = divided(data, None, 0.5, 0, 16)
    assert len(choice.labels) == len(certificate.labels) == 4
    assert all(len(ids) == 7 for ids, _ in choice.batches())


@pytest.mark.parametrize(
    ("data", "label", "says"),
    [
        (None, None, "cannot be a NoneType"),
        (DENSE, None, "cannot be a Tensor"),
        ([DENSE], None, "without labels"),
        ([(DENSE,)], None, "without labels"),
        ([{"dense": DENSE}], "click", "no key 'click'"),
        ([{"dense": DENSE, "click": LABEL}], None, "is a dict without labels"),
    ],
)
def test_other_forms_are_errors(data: Any, label: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        divided(data, label, 0.5, 0, 16)
    assert "label" in str(caught.value.hint)


@pytest.mark.parametrize("data", [[], [(DENSE[:1], LABEL[:1])], [(torch.arange(7), torch.tensor([0]), LABEL[:1])]])
def test_too_few_rows_are_an_error(data: Any) -> None:
    with pytest.raises(DataError, match="cannot be divided in two"):
        divided(data, None, 0.5, 0, 16)
