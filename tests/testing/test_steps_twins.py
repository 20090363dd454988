"""Operators that random graphs repeat with a changed argument are right for all batch sizes."""

from __future__ import annotations

import pytest
import torch

from recfx.testing.builder import GraphBuilder
from recfx.testing.steps_twins import drops_free_size

_aten = torch.ops.aten


@pytest.mark.parametrize(("dim", "found"), [(0, True), (-3, True), (1, False), (-1, False), (3, False), (-4, False)])
def test_a_free_dimension_is_not_dropped(dim: int, found: bool) -> None:
    """At one row, the result would have a dimension less than at two."""
    x = GraphBuilder({"x": ("batch", 1, 4)}).inputs["x"]
    assert drops_free_size(_aten.squeeze.dim, [x, dim]) == found


def test_other_operators_and_arguments_are_left_alone() -> None:
    x = GraphBuilder({"x": ("batch", 1, 4)}).inputs["x"]
    assert not drops_free_size(_aten.unsqueeze.default, [x, 0])
    assert not drops_free_size(_aten.squeeze.dim, [x, 0.0])
