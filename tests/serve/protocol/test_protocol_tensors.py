"""Tensors as bytes, and parameters, as both protocols read and write them."""

from __future__ import annotations

import pytest
import torch
from engine_kit import outcome
from hypothesis import given
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.serve.engine.datatypes import DTYPES
from recfx.serve.outcomes import Reason
from recfx.serve.protocol.tensors import checked_shape, chosen_outputs, from_bytes, timeout_of, to_bytes


@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=st.lists(st.integers(0, 4), max_size=3),
    offset=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_tensors_survive_as_bytes(dtype, shape, offset, seed):
    tensor = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(DTYPES[dtype])
    held = to_bytes(tensor.mT if tensor.ndim > 1 else tensor)
    sizes = list(tensor.mT.shape) if tensor.ndim > 1 else shape
    found = from_bytes(bytearray(b"x" * offset + held), offset, len(held), DTYPES[dtype], sizes, "input x")
    assert found.dtype is DTYPES[dtype]
    assert torch.equal(found, tensor.mT if tensor.ndim > 1 else tensor)
    with pytest.raises(InputError, match="do not fill"):
        from_bytes(held, 0, len(held) + 1, DTYPES[dtype], sizes, "input x")


@pytest.mark.parametrize("sizes", [[-1], [1.5], [True], ["2"], [2**40], [1] * 17])
def test_wrong_shapes(sizes):
    with pytest.raises(InputError, match="is not a shape"):
        checked_shape(sizes, "input x")


def test_outputs_are_chosen_by_name():
    assert chosen_outputs(None, ["a", "b"], True) == [("a", True), ("b", True)]
    assert chosen_outputs([("b", False)], ["a", "b"], True) == [("b", False)]
    assert outcome(chosen_outputs, [("c", True)], ["a", "b"], True).reason is Reason.INVALID


@pytest.mark.parametrize(("value", "seconds"), [(None, None), (0, None), (1500, 0.0015)])
def test_timeouts_are_sent_in_microseconds(value, seconds):
    assert timeout_of({"timeout": value}) == seconds


@pytest.mark.parametrize("value", [-1, 1.5, True, "1"])
def test_wrong_timeouts(value):
    assert outcome(timeout_of, {"timeout": value}).reason is Reason.INVALID
