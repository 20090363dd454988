"""Datatypes of the protocol, and the conversion between widths of integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.serve.engine.datatypes import DTYPES, NAMES, dtype_of, fitted

INTEGERS = [dtype for name, dtype in DTYPES.items() if "INT" in name]


@pytest.mark.parametrize("name", DTYPES)
def test_names_and_dtypes_belong_together(name):
    assert NAMES[dtype_of(name, "input x")] == name


@pytest.mark.parametrize("name", ["BYTES", "fp32", "", None, 3, ["FP32"]])
def test_unknown_datatypes_are_refused(name):
    with pytest.raises(InputError, match="unknown datatype"):
        dtype_of(name, "input x")


@given(st.data())
def test_integers_are_converted_if_every_value_fits(data):
    before, after = data.draw(st.sampled_from(INTEGERS)), data.draw(st.sampled_from(INTEGERS))
    own, wanted = torch.iinfo(before), torch.iinfo(after)
    ends = [own.min, own.max, 0, 1, wanted.min, wanted.max, wanted.min - 1, wanted.max + 1]
    values = data.draw(st.lists(st.sampled_from([n for n in ends if own.min <= n <= own.max]), min_size=1))
    tensor = torch.tensor(values, dtype=before)
    if all(wanted.min <= value <= wanted.max for value in values):
        converted = fitted(tensor, after, "input x")
        assert converted.dtype is after
        assert converted.tolist() == values
    else:
        with pytest.raises(InputError, match="does not fit into"):
            fitted(tensor, after, "input x")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.float64, torch.float32),
        (torch.int64, torch.float32),
        (torch.float32, torch.int64),
        (torch.bool, torch.uint8),
    ],
)
def test_other_dtypes_are_not_converted(before, after):
    with pytest.raises(InputError, match=f"expected datatype {NAMES[after]}, got {NAMES[before]}"):
        fitted(torch.zeros(2, dtype=before), after, "input x")
