"""How outputs differ, in words that never claim a difference of 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from recfx.capture.crosscheck import _require_agreement
from recfx.errors import CaptureError
from recfx.ir.difference import difference
from recfx.ir.numeric import same_bits

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("want", "got", "words"),
    [
        ([torch.tensor([0.0, 1.0])], [torch.tensor([NAN, 1.0])], "in 1 of 2 elements: expected a number, got NaN"),
        ([torch.tensor([NAN, NAN])], [torch.tensor([0.0, 0.0])], "in 2 of 2 elements: expected NaN, got a number"),
        ([torch.tensor([INF, 1.0])], [torch.tensor([INF, 1.5])], "by 0.5"),
        ([torch.tensor([INF])], [torch.tensor([-INF])], "by inf"),
        ([torch.tensor([1.0])], [torch.tensor([INF])], "by inf"),
        ([torch.tensor([1])], [torch.tensor([3])], "by 2"),
        ([torch.tensor([True])], [torch.tensor([False])], "by 1"),
        ([torch.tensor([1j])], [torch.tensor([2j])], "by 1"),
        ([torch.tensor([1.0])], [torch.tensor([[1.0]])], "in shape or dtype: expected float32 [1], got float32 [1, 1]"),
        ([torch.tensor([1.0])], [torch.tensor([1])], "in shape or dtype: expected float32 [1], got int64 [1]"),
        ([torch.tensor([1.0])], [], "in the number of outputs: expected 1, got 0"),
        (["a"], ["b"], "in a value: expected 'a', got 'b'"),
        ([torch.tensor([1.0])], [1.0], "in a value: expected float32 [1], got 1.0"),
    ],
)
def test_words(want: list[Any], got: list[Any], words: str) -> None:
    assert difference(want, got) == words


FLOATS = arrays.arrays("float64", 3, elements=st.sampled_from([0.0, -1.5, 2.0, NAN, INF, -INF]))


@given(FLOATS, FLOATS)
def test_outputs_that_differ_never_differ_by_0(want: Any, got: Any) -> None:
    one, other = torch.from_numpy(want), torch.from_numpy(got)
    assert (difference([one], [other]) == "by 0") is same_bits(one, other)


def test_the_error_of_a_captured_graph_uses_them() -> None:
    with pytest.raises(
        CaptureError, match="disagrees with the model in 1 of 2 elements: expected a number, got NaN on rows"
    ):
        _require_agreement([torch.tensor([0.0, 1.0])], [torch.tensor([NAN, 1.0])], "rows", torch.nn.Identity())
