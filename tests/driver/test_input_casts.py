"""Inputs that stand for tensors."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import TinyCtr, tiny_inputs
from torch import nn

import recfx
from recfx.errors import InputError

Pair = namedtuple("Pair", "first second")


@pytest.fixture(scope="module")
def fast() -> recfx.CompiledModel:
    return recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False)


def forms(dense: torch.Tensor, sparse: torch.Tensor) -> dict[str, tuple[Any, Any]]:
    """The same inputs as other types."""
    numbers, ids = dense.numpy(), sparse.numpy()
    return {
        "ids of 32 bits": (dense, sparse.int()),
        "ids of 8 bits": (dense, sparse.to(torch.uint8)),
        "arrays": (numbers, ids),
        "an array and a tensor": (dense, ids),
        "ids of 16 bits in an array": (numbers, ids.astype(np.uint16)),
        "lists": (dense.tolist(), sparse.tolist()),
        "tuples": (tuple(map(tuple, dense.tolist())), tuple(map(tuple, sparse.tolist()))),
        "an array backwards": (numbers[::-1][::-1], np.flip(np.flip(ids, 0), 0)),
        "big-endian": (numbers.astype(">f4"), ids.astype(">i8")),
        "a list of arrays": (list(numbers), list(ids)),
    }


@pytest.mark.parametrize("form", forms(*tiny_inputs(2)))
def test_what_stands_for_tensors_is_taken(fast: recfx.CompiledModel, form: str) -> None:
    for rows in (1, 5):
        inputs = tiny_inputs(rows)
        assert torch.equal(fast(*forms(*inputs)[form]), fast(*inputs))


@given(dtype=st.sampled_from([torch.int8, torch.int16, torch.int32, torch.uint8]), rows=st.integers(0, 6))
def test_ids_of_any_width(fast: recfx.CompiledModel, dtype: torch.dtype, rows: int) -> None:
    dense, sparse = tiny_inputs(rows)
    assert torch.equal(fast(dense, sparse.to(dtype)), fast(dense, sparse))


def test_the_callers_arrays_stay_theirs(fast: recfx.CompiledModel) -> None:
    dense, sparse = (t.numpy() for t in tiny_inputs(3))
    dense.flags.writeable = False
    before = fast(dense, sparse)
    assert torch.equal(fast(dense, sparse), before)


class Nested(nn.Module):
    def forward(self, features: dict[str, Any], pair: Pair, scale: torch.Tensor) -> torch.Tensor:
        return features["x"] * pair.first + pair.second[0] * scale


def test_nested_inputs() -> None:
    def inputs(rows: int) -> tuple[Any, ...]:
        return {"x": torch.randn(rows, 2)}, Pair(torch.randn(rows, 2), [torch.randn(rows, 2)]), torch.tensor(2.0)

    fast = recfx.optimize(Nested().eval(), example_inputs=inputs(4), measure=False)
    features, pair, scale = inputs(5)
    want = fast(features, pair, scale)
    plain = {"x": features["x"].tolist()}, Pair(pair.first.numpy(), [pair.second[0].tolist()]), 2.0
    assert torch.equal(fast(*plain), want)
    assert torch.equal(fast(plain[0], pair, np.float32(2.0)), want)


REFUSED: dict[str, tuple[Any, str]] = {
    "text": ([["a"] * 3] * 4, "input sparse"),
    "ragged": ([[1, 2, 3], [1]] * 2, "input sparse"),
    "too flat": ([1, 2, 3], "nested 1 deep"),
    "fractions": (torch.rand(4, 3), "expected dtype torch.int64, got torch.float32"),
    "fractions in a list": ([[0.5] * 3] * 4, "expected dtype torch.int64"),
    "booleans": (np.zeros((4, 3), bool), "expected dtype torch.int64, got torch.bool"),
    "objects": (np.array([[None] * 3] * 4), "expected a tensor, got ndarray"),
    "another width": ([[1, 2]] * 4, "expected size 3, got 2"),
    "ids of no row": ([[99, 0, 0]] * 4, "99"),
    "unknown object": (object(), "expected a tensor, got object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stands_for_no_tensor_names_the_input(fast: recfx.CompiledModel, name: str) -> None:
    value, message = REFUSED[name]
    with pytest.raises(InputError, match=f"(?s){message}"):
        fast(tiny_inputs(4)[0], value)


def test_floating_point_numbers_are_cast_when_asked_for() -> None:
    dense, sparse = tiny_inputs(4)
    fast = recfx.optimize(TinyCtr(), example_inputs=(dense, sparse), measure=False, cast_inputs=True)
    assert torch.equal(fast(dense.double().numpy(), sparse), fast(dense, sparse))
    whole = dense.round()
    assert torch.equal(fast(whole.long(), sparse), fast(whole, sparse))
    with pytest.raises(InputError, match=r"expected dtype torch\.int64"):
        fast(dense, sparse.float())
    with pytest.raises(InputError, match=r"expected dtype torch\.float32, got torch\.complex64"):
        fast(dense.to(torch.complex64), sparse)
    yes = dense > 0
    assert torch.equal(fast(yes, sparse), fast(yes.float(), sparse))
    fast.cast_inputs = False
    with pytest.raises(InputError, match="cast_inputs=True"):
        fast(dense.double(), sparse)


def test_narrower_ids_are_taken_when_they_fit() -> None:
    model = nn.Embedding(10, 3)
    fast = recfx.optimize(model.eval(), example_inputs=torch.arange(4).int(), measure=False)
    assert torch.equal(fast(torch.arange(5)), model(torch.arange(5)))
    with pytest.raises(InputError, match=r"expected dtype torch\.int32"):
        fast(torch.tensor([1 << 40]))
