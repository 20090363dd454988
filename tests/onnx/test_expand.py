"""Decompositions of operators without a translation of their own, and torch's padding in ONNX's order."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recfx.onnx.expand import _decomposition
from recfx.onnx.rules.views import _pads
from recfx.ops.interaction import fm
from recfx.ops.library import DECOMPOSITIONS

aten = torch.ops.aten
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def test_the_dialects_own_decomposition_comes_first() -> None:
    assert _decomposition(fm) is DECOMPOSITIONS[fm]


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (aten.silu.default, (X,)),  # of torch's table
        (aten.addcmul.default, (X, X, X)),
        (aten.matmul.default, (X, X.T)),  # composite
        (aten.reshape.default, (X, [4, 3])),
    ],
)
def test_a_decomposition_computes_what_the_operator_does(target: Any, args: Any) -> None:
    function = _decomposition(target)
    assert function is not None
    torch.testing.assert_close(function(*args), target(*args))


@pytest.mark.parametrize("target", [aten.mm.default, aten.topk.default, len])
def test_other_operators_have_none(target: Any) -> None:
    assert _decomposition(target) is None


@pytest.mark.parametrize(
    ("given", "ndim", "pads"),
    [
        ([], 2, [0, 0, 0, 0]),
        ([1, 2], 1, [1, 2]),
        ([1, 2], 3, [0, 0, 1, 0, 0, 2]),
        ([1, 2, 3, 4], 3, [0, 3, 1, 0, 4, 2]),
        ([1, 2, 3, 4], 2, [3, 1, 4, 2]),
    ],
)
def test_padding_from_the_last_dimension_on(given: list[int], ndim: int, pads: list[int]) -> None:
    assert _pads(given, ndim) == pads
