"""What a program gives in exact arithmetic."""

from __future__ import annotations

import pytest
import torch

from recfx.ir.reference_run import Reference
from recfx.testing import GraphBuilder

_aten = torch.ops.aten
_KEYS = 5


def _attention(mask: torch.Tensor, query: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """The float64 result of attention of three rows over themselves under a mask."""
    shape = tuple(mask.shape[1:])
    builder = GraphBuilder({"x": ("batch", 1, _KEYS, 4), "mask": (("batch", *shape), mask.dtype)})
    x = builder.inputs["x"]
    result = builder.call(
        _aten.scaled_dot_product_attention.default, x, x, x, builder.inputs["mask"], 0.0, False, scale=scale
    )
    (found,) = Reference(builder.build(result), (query, mask))()
    assert isinstance(found, torch.Tensor)
    return found


def _hidden() -> torch.Tensor:
    """Which keys are seen: all by the first row, some by the second, none by the third."""
    seen = torch.ones(3, 1, _KEYS, _KEYS, dtype=torch.bool)
    seen[1, :, :, ::2] = False
    seen[2] = False
    return seen


@pytest.mark.parametrize("scale", [None, 0.25])
def test_masks_of_booleans_and_of_numbers_hide_the_same_keys(scale: float | None) -> None:
    query, seen = torch.randn(3, 1, _KEYS, 4), _hidden()
    numbers = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    by_torch = torch.nn.functional.scaled_dot_product_attention(*[query.double()] * 3, seen, scale=scale)
    for mask in (seen, numbers):
        found = _attention(mask, query, scale=scale)
        assert found.dtype is torch.float64
        assert torch.allclose(found, by_torch, rtol=1e-12, atol=1e-14)
        assert not found[2].any(), "attention over nothing is 0"


def test_scores_of_nan_stay_nan() -> None:
    query = torch.randn(3, 1, _KEYS, 4)
    query[0, 0, 0] = float("nan")
    found = _attention(torch.ones_like(_hidden()), query)
    assert found[0].isnan().all()
    assert not found[1:].isnan().any()
