"""Where the rows of an input are, when they are not its first dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.ir.batch_axes import Arrangement, Axis, find_arrangement


@given(dim=st.integers(0, 2), step=st.integers(1, 4), rows=st.integers(2, 6), batch=st.integers(1, 9))
@settings(deadline=None, max_examples=50)
def test_the_arrangement_of_an_input_is_found(dim: int, step: int, rows: int, batch: int) -> None:
    step = step if dim == 0 else 1
    sizes = [13, 17, 19]
    sizes[dim] = rows * step
    leaf, other = torch.arange(float(np.prod(sizes))).reshape(sizes), torch.zeros(rows)

    def run(leaves: Any) -> Any:
        x, y = leaves
        return x.movedim(dim, 0).reshape(y.shape[0], step, -1)

    found = find_arrangement(run, [leaf, other], rows)
    assert found == Arrangement((Axis(dim, step), Axis(0)), frozenset())
    resized = found.resized([leaf, other], rows, batch)[0].movedim(dim, 0).reshape(batch, step, -1)
    apart = leaf.movedim(dim, 0).reshape(rows, step, -1)
    assert all(torch.equal(resized[i], apart[i % rows]) for i in range(batch))
