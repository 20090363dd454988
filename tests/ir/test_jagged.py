"""Batch, dynamic sizes, and resampled copies of TorchRec's jagged tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jagged_cases import (
    BATCH,
    FORMS,
    KEYS,
    LENGTHS,
    STRIDES,
    VALUES,
    JaggedTensor,
    KeyedJaggedTensor,
    KeyedTensor,
    bags,
)
from torch.utils import _pytree as pytree

from recfx.ir import jagged
from recfx.ir.containers import INVERSE as INVERSE_LEAF
from recfx.ir.containers import LENGTHS as LENGTHS_LEAF
from recfx.ir.containers import canonical

pytestmark = [pytest.mark.slow, pytest.mark.torchrec]

ONE = JaggedTensor(VALUES, torch.rand(len(VALUES)), lengths=LENGTHS)
#: The rows of the forms with inverse indices; all others have `BATCH` rows.
ROWS = {"inverse": 5, "inverse, int32": 5, "strides": 5}


def rows_of(value: Any) -> list[Any]:
    """The values and weights of each row of a JaggedTensor."""
    held = torch.stack([value.values(), value.weights()], 1)
    return [part.tolist() for part in torch.split(held, value.lengths().tolist())]


def test_jagged_tensors_are_known_by_their_types() -> None:
    assert jagged.is_jagged(FORMS["lengths"]())
    assert jagged.is_jagged(ONE)
    keyed = KeyedTensor(["a"], [1], torch.ones(2, 1))
    assert not jagged.is_jagged(keyed)
    assert not jagged.is_jagged(VALUES)
    assert [jagged.leaf_count(v) for v in (FORMS["lengths"](), ONE, keyed, VALUES)] == [6, 4, 1, 1]
    assert [jagged.row_keys(v) for v in (FORMS["inverse"](), ONE)] == [3, 1]


@pytest.mark.parametrize("form", FORMS)
def test_the_batch_is_the_number_of_rows(form: str) -> None:
    given = FORMS[form]()
    batch = ROWS.get(form, BATCH)
    assert jagged.rows(given) == batch
    place = jagged.batch_leaf(given)
    if "inverse" in form or form == "strides":
        assert place == (INVERSE_LEAF, 1)
    else:
        assert place == (LENGTHS_LEAF, 0)


def test_the_batch_of_other_forms() -> None:
    without = JaggedTensor(VALUES, lengths=LENGTHS)
    without._lengths = None
    assert (jagged.rows(ONE), jagged.batch_leaf(ONE)) == (len(LENGTHS), (LENGTHS_LEAF, 0))
    assert (jagged.rows(without), jagged.batch_leaf(without)) == (0, None)
    apart = FORMS["strides"]()
    apart._inverse_indices = None
    assert jagged.batch_leaf(apart) is None
    assert jagged.resample(without, torch.zeros(1, 3, dtype=torch.int64)) is without
    assert jagged.reversed_ids(without) is without


@pytest.mark.parametrize("form", FORMS)
def test_a_model_over_the_dynamic_sizes_takes_other_batches(form: str) -> None:
    """torch.export takes the marks, and the program runs on a resampled container with more rows."""

    class Sums(torch.nn.Module):
        def forward(self, part: Any) -> Any:
            leaves = part.values(), part.lengths(), part.weights_or_none()
            indices = part.inverse_indices_or_none()
            more = () if indices is None else (indices[1] * 2,)
            return [leaf * 2 for leaf in leaves if leaf is not None], more

    given = canonical(FORMS[form]())
    batch = torch.export.Dim("batch", min=1)
    marks = jagged.dynamic_shapes(given, batch, "sparse")
    assert len(marks) == len(pytree.tree_leaves(given, is_leaf=lambda v: v is None))
    program = torch.export.export(Sums(), (given,), dynamic_shapes=(marks,))
    other = jagged.resample(given, torch.randint(0, jagged.rows(given), (3, 9)))
    found, wanted = program.module()(other), Sums()(other)
    for one, two in zip(pytree.tree_leaves(found), pytree.tree_leaves(wanted), strict=True):
        assert torch.equal(one, two)


#: Form -> the names of the dynamic sizes of lengths and of inverse indices.
SIZES = {
    "lengths": ("3*batch", None),
    "weights": ("3*batch", None),
    "inverse": ("3*sparse_stride", "batch"),
    "strides": ("sparse_bags", "batch"),
}


@pytest.mark.parametrize("form", SIZES)
def test_the_dynamic_sizes_of_a_container(form: str) -> None:
    def name(mark: Any, dim: int) -> Any:
        return mark if mark is None else mark[dim].__name__

    given, batch = FORMS[form](), torch.export.Dim("batch", min=1)
    values, weights, lengths, *middle, inverse = jagged.dynamic_shapes(given, batch, "sparse")
    assert (name(lengths, 0), name(inverse, 1)) == SIZES[form]
    assert middle == [None, None]
    assert name(values, 0) == "sparse_values"
    assert weights == (None if given.weights_or_none() is None else values)
    one = KeyedJaggedTensor(keys=["a"], values=VALUES, lengths=LENGTHS)
    assert name(jagged.dynamic_shapes(one, batch, "sparse")[LENGTHS_LEAF], 0) == "batch"
    assert [name(m, 0) for m in jagged.dynamic_shapes(ONE, batch, "x")] == ["x_values", "x_values", "batch", None]


@given(form=st.sampled_from(sorted(FORMS)), count=st.integers(1, 7), data=st.data())
@settings(deadline=None, max_examples=60)
def test_resampled_rows_are_the_picked_rows(form: str, count: int, data: st.DataObject) -> None:
    given = FORMS[form]()
    batch = jagged.rows(given)
    picks = [data.draw(st.lists(st.integers(0, batch - 1), min_size=count, max_size=count)) for _ in KEYS]
    made = jagged.resample(given, torch.tensor(picks))
    assert jagged.rows(made) == count
    assert made.keys() == KEYS
    before, after = bags(given), bags(made)
    for key, rows in zip(KEYS, picks, strict=True):
        assert after[key] == [before[key][row] for row in rows]
    assert made.values().dtype is given.values().dtype
    assert made.lengths().dtype is given.lengths().dtype
    if given.inverse_indices_or_none() is None:
        return
    indices = made.inverse_indices()[1]
    assert indices.dtype is given.inverse_indices()[1].dtype
    own = given.inverse_indices()[1]
    for key, rows in enumerate(picks):
        same = [[own[key, i] == own[key, j] for j in rows] for i in rows]
        assert same == [[indices[key, i] == indices[key, j] for j in range(count)] for i in range(count)]


@given(count=st.integers(1, 7), data=st.data())
@settings(deadline=None, max_examples=20)
def test_resampled_rows_of_a_jagged_tensor(count: int, data: st.DataObject) -> None:
    picks = data.draw(st.lists(st.integers(0, len(LENGTHS) - 1), min_size=count, max_size=count))
    made = jagged.resample(ONE, torch.tensor([picks]))
    before = rows_of(ONE)
    assert rows_of(made) == [before[row] for row in picks]


def test_own_bags_of_the_keys_stay_apart() -> None:
    made = jagged.resample(FORMS["strides"](), torch.tensor([[0, 0], [1, 1], [0, 3]]))
    assert made.stride_per_key() == [1, 1, 2]
    assert made.stride() == 2
    shared = jagged.resample(FORMS["inverse"](), torch.tensor([[0, 0], [1, 1], [0, 3]]))
    assert len(set(shared.stride_per_key())) == 1


@pytest.mark.parametrize("form", FORMS)
def test_reversed_ids_keep_the_sizes_of_all_bags(form: str) -> None:
    given, made = FORMS[form](), jagged.reversed_ids(FORMS[form]())
    assert torch.equal(made.lengths(), given.lengths())
    counts = STRIDES if form == "strides" else [[BATCH]] * 3
    start = bag = 0
    for key in counts:
        size = int(LENGTHS[bag : bag + sum(key)].sum())
        bag += sum(key)
        own = slice(start, start + size)
        assert torch.equal(made.values()[own], given.values()[own].flip(0))
        if given.weights_or_none() is not None:
            assert torch.equal(made.weights()[own], given.weights()[own].flip(0))
        start += size
    assert start == len(VALUES)


def test_reversed_ids_of_a_jagged_tensor() -> None:
    made = jagged.reversed_ids(ONE)
    assert torch.equal(made.values(), VALUES.flip(0))
    assert torch.equal(made.weights(), ONE.weights().flip(0))
    assert torch.equal(made.lengths(), LENGTHS)
